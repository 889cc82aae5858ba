"""What several commands share: options under one name and one help text, and how they are read."""

import csv
import io
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from torch import nn

    from fastcam.models import ModelConfig


class ResizeRule(StrEnum):
    """How a picture becomes a square."""

    squash = "squash"
    crop = "crop"


class Upsampling(StrEnum):
    """How a map is upsampled."""

    bilinear = "bilinear"
    bicubic = "bicubic"


class Implementation(StrEnum):
    """Which implementation of the operators runs."""

    fused = "fused"
    reference = "reference"


_LONGEST = 4000  # characters of a line

Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Pictures, and folders of pictures.")]
Weights = Annotated[
    Path, typer.Option(help="Checkpoint of `fastcam train`, or weights (.safetensors, .pt) for --arch.")
]
Arch = Annotated[
    str | None, typer.Option(help="Name of the network, torchvision's or timm/…; a checkpoint knows its own.")
]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the network's square input in pixels [224, or timm's].")]
Resize = Annotated[ResizeRule | None, typer.Option(help="Squash the picture, or crop its centre [squash].")]
Mean = Annotated[str | None, typer.Option(help="Mean of RGB in 0..1: one or a,b,c [the weights', else ImageNet's].")]
Std = Annotated[str | None, typer.Option(help="Standard deviation, likewise [the weights', else ImageNet's].")]
ClassNames = Annotated[Path | None, typer.Option(help="Text file with one class name per line.")]
NumClasses = Annotated[int | None, typer.Option(min=1, help="Number of classes [of names, else 1000].")]
TargetLayer = Annotated[list[str] | None, typer.Option(help="Layer to take maps from, by dotted name.")]
Relu = Annotated[bool | None, typer.Option("--relu/--no-relu", help="Clip the map at zero [as the method has it].")]
Mode = Annotated[Upsampling, typer.Option(help="Upsampling of the map.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")]
Backend = Annotated[Implementation, typer.Option(help="Own kernels, or plain PyTorch.")]
DataSet = Annotated[Path, typer.Argument(metavar="DATA", help="Data set: WSOL metadata, CUB-200-2011, COCO JSON, …")]
Split = Annotated[str | None, typer.Option(help="train, val or test [all, or the only one].")]
Format = Annotated[str | None, typer.Option(help="Layout of DATA: wsol, cub, coco, … [recognised].")]
Images = Annotated[Path | None, typer.Option(help="Folder of the pictures [where the layout has it].")]
Rules = Annotated[str, typer.Option(help="standard, paper, rethinking, ts-cam, bas or notebook: whose rules.")]
Bootstrap = Annotated[int, typer.Option(min=0, help="Replicates for confidence intervals.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="List bad pictures instead of stopping.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what OUT has.")]
Device = Annotated[str | None, typer.Option(help="Where to run [cuda if there is one, else cpu].")]


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors into one line and an exit code, all but those that only a bug can raise."""
    try:
        with _plain_warnings():
            yield
    except (typer.Exit, typer.Abort):  # RuntimeErrors, both
        raise
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        code, caught = 2, error
    except (OSError, RuntimeError, ArithmeticError, ImportError, KeyboardInterrupt) as error:
        code, caught = 1, error
    else:
        return
    what = "interrupted" if isinstance(caught, KeyboardInterrupt) else str(caught) or type(caught).__name__
    notes = [f"({note})" for note in getattr(caught, "__notes__", ())]
    say("fastcam: " + " ".join(" ".join([what, *notes]).split()), error=True)
    raise typer.Exit(code)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show the package's own warnings as lines like its errors; those of maps each time."""
    from fastcam.methods import MapWarning

    with warnings.catch_warnings():
        usual, package = warnings.showwarning, str(Path(__file__).parents[1])

        def show(message: Warning, category: type[Warning], filename: str, *rest: Any) -> None:
            own = issubclass(category, UserWarning) and filename.startswith(package)
            if own or issubclass(category, MapWarning):
                say(f"fastcam: {message}", error=True)
            else:
                usual(message, category, filename, *rest)

        warnings.filterwarnings("always", category=MapWarning)
        warnings.showwarning = show
        yield


def say(line: str, *, error: bool = False) -> None:
    """Print a line that may have names from files in it: what could steer a terminal is escaped."""
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(shown, file=sys.stderr if error else sys.stdout)


@contextmanager
def saying(pattern: str) -> Iterator[None]:
    """Say warnings whose beginning matches as lines, whatever Python's filters are."""
    with warnings.catch_warnings():
        warnings.filterwarnings("always", pattern)
        others = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if re.match(pattern, str(message)):
                say(f"fastcam: {message}", error=True)
            else:
                others(message, category, *place)

        warnings.showwarning = show
        yield


def say_of_labels(data: Any, config: "ModelConfig") -> None:
    """Warn if the labels of a data set may not be the network's classes."""
    from fastcam.data.matching import warning

    said = warning(getattr(data, "class_names", None) or (), config.class_names, config.num_classes)
    if said:
        say(f"fastcam: {said}", error=True)


def say_of_passed(ignored: Mapping[str, int], *, pictures: bool = False) -> None:
    """Tell which files were passed over, by suffix; or of those only that may be pictures."""
    from fastcam.pictures import SUFFIXES

    kinds = [kind for kind in sorted(ignored) if not (pictures and SUFFIXES.isdisjoint(kind.split()))]
    if kinds:
        listed = ", ".join(f"{ignored[kind]} {kind or 'without suffix'}" for kind in kinds)
        say(f"fastcam: files passed over: {listed}", error=True)


def given(
    size: int | None,
    resize: ResizeRule | None,
    mean: str | None,
    std: str | None,
    class_names: Path | None,
    num_classes: int | None,
    threshold: float | None,
) -> dict[str, Any]:
    """What of the model's configuration the command line says."""
    given = {
        "size": size,
        "resize": resize and resize.value,
        "mean": mean and triple("--mean", mean),
        "std": std and triple("--std", std),
        "class_names": class_names and lines(class_names),
        "num_classes": num_classes,
        "threshold": threshold,
    }
    return {name: value for name, value in given.items() if value is not None}


def default_device() -> str:
    """Name the device to run on where none is given."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load(weights: Path, arch: str | None, given: dict[str, Any]) -> "tuple[nn.Module, ModelConfig]":
    """Build the network; what is given on the command line overrides what the weights say."""
    from fastcam import models

    return models.load_network(weights, arch, **given)


def triple(option: str, text: str) -> tuple[float, float, float]:
    """Read one number for all channels, or three."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise ValueError(
            f"{option} must be one number or three with commas between, such as 0.5 or 0.4,0.5,0.6; got {text!r}"
        )
    return tuple(values * 3)[:3]


def pair(option: str, text: str) -> tuple[float, float]:
    """Read two numbers."""
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be two numbers with a comma between, such as 0.7,0.5; got {text!r}") from None
    return first, second


def parts(values: list[str] | None) -> list[str] | None:
    """Join what several options and commas list."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()] if values else None


def classes(text: str, names: tuple[str, ...]) -> list[int]:
    """Turn indices and names of classes into indices; "tabby" stands for "tabby, tabby cat".

    A whole number that is a class's name, too, is its name where all classes are named by such numbers; else the two
    readings must be the same.
    """
    from fastcam.data.names import Names, whole

    known = Names(name.split(",")[0].strip() for name in names)
    numbered = bool(names) and all(whole(name) is not None for name in known.names)
    classes = []
    for part in (part.strip() for part in text.split(",")):
        index, readings = whole(part), [*known.places(part)]
        if index is not None and not numbered and (index < len(names) or not readings):
            readings.append(index)
        if not readings:
            from fastcam.models import suggest

            hint = suggest(part.lower(), [name.lower() for name in known.names])
            hint = hint if names else "; names need --class-names or a checkpoint"
            raise ValueError(f"--targets: no class {part!r}{hint}")
        if len(set(readings)) > 1:
            meant = " or ".join(f"{place} ({names[place]!r})" for place in dict.fromkeys(readings))
            hint = "tell the class by --class-names with other names" if index is not None else "give its number"
            raise ValueError(f"--targets: {part!r} may be class {meant}: {hint}")
        if index not in (None, readings[0]):
            say(
                f"fastcam: --targets: {part} is taken for the class of this name, class {readings[0]}",
                error=True,
            )
        classes.append(readings[0])
    return classes


def lines(path: Path) -> tuple[str, ...]:
    """Read a text file line by line, without blanks around."""
    from fastcam.data.names import read_text, tidy

    return tuple(map(tidy, read_text(path).splitlines()))


def read_targets(path: Path) -> dict[str, int]:
    """Read a CSV of image_id,class_id."""
    if not path.is_file():
        raise FileNotFoundError(f"--targets is label or a CSV file of image_id,class_id; there is no file {path}")
    classes: dict[str, int] = {}
    for line in rows(path):
        if line == ["image_id", "class_id"]:
            continue
        try:
            image_id, class_id = line
            value = int(class_id)
        except ValueError:
            raise ValueError(f"{path}: expected lines `image_id,class_id`, got {','.join(line)!r}") from None
        if classes.setdefault(image_id, value) != value:
            raise ValueError(f"{path}: two classes for {image_id!r}, {classes[image_id]} and {value}")
    return classes


def rows(path: Path) -> Iterator[list[str]]:
    """Read the rows of a CSV file that are not empty."""
    from fastcam.data.names import read_text

    return filter(None, csv.reader(io.StringIO(read_text(path), newline="")))
