"""What several commands share: options under one name and one help text, and how they are read."""

import csv
import dataclasses
import sys
import warnings
from collections.abc import Iterator
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
Arch = Annotated[str | None, typer.Option(help="torchvision's name of the network; a checkpoint knows its own.")]
Size = Annotated[int | None, typer.Option(min=1, help="Side of the network's square input in pixels [224].")]
Resize = Annotated[ResizeRule | None, typer.Option(help="Squash the picture, or crop its centre [squash].")]
Mean = Annotated[str | None, typer.Option(help="Mean of RGB in 0..1: one number or three, a,b,c [ImageNet's].")]
Std = Annotated[str | None, typer.Option(help="Standard deviation, likewise [ImageNet's].")]
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
    """Show warnings of maps as one line each; others as ever."""
    from fastcam.methods import MapWarning

    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Warning, category: type[Warning], *where: Any) -> None:
            if issubclass(category, MapWarning):
                say(f"fastcam: {message}", error=True)
            else:
                others(message, category, *where)

        warnings.filterwarnings("always", category=MapWarning)
        warnings.showwarning = show
        yield


def say(line: str, *, error: bool = False) -> None:
    """Print a line that may have names from files in it: what could steer a terminal is escaped."""
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(shown, file=sys.stderr if error else sys.stdout)


def say_of_labels(data: Any, config: "ModelConfig") -> None:
    """Warn if the labels of a data set may not be the network's classes."""
    from fastcam.data.matching import warning

    said = warning(getattr(data, "class_names", None) or (), config.class_names, config.num_classes)
    if said:
        say(f"fastcam: {said}", error=True)


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
    """Build the network; what is given on the command line overrides what the checkpoint says."""
    from fastcam import models

    config = models.read_config(weights)
    if config is None:
        if arch is None:
            raise ValueError(f"{weights} is no checkpoint of fastcam, so --arch must name its network")
        config = models.ModelConfig(
            arch, given.pop("num_classes", None) or len(given.get("class_names", ())) or 1000, **given
        )
        model = models.build(arch, config.num_classes)
        models.load_weights(model, weights)
        return model.eval(), config
    for name, value in (("arch", arch), ("num_classes", given.get("num_classes"))):
        if value not in (None, getattr(config, name)):
            raise ValueError(f"the checkpoint {weights} has {name} {getattr(config, name)}, got {value}")
    model, config = models.load_checkpoint(weights)
    return model, dataclasses.replace(config, **given)


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
    """Turn indices and names of classes into indices; "tabby" stands for "tabby, tabby cat"."""
    known = {name.split(",")[0].strip().lower(): index for index, name in reversed(list(enumerate(names)))}
    classes = []
    for part in (part.strip() for part in text.split(",")):
        if not part.isdecimal() and part.lower() not in known:
            from fastcam.models import suggest

            hint = suggest(part.lower(), list(known)) if names else "; names need --class-names or a checkpoint"
            raise ValueError(f"--targets: no class {part!r}{hint}")
        classes.append(int(part) if part.isdecimal() else known[part.lower()])
    return classes


def lines(path: Path) -> tuple[str, ...]:
    """Read a text file line by line."""
    return tuple(path.read_text(encoding="utf-8-sig").splitlines())


def read_targets(path: Path) -> dict[str, int]:
    """Read a CSV of image_id,class_id."""
    if not path.is_file():
        raise FileNotFoundError(f"--targets is label or a CSV file of image_id,class_id; there is no file {path}")
    classes: dict[str, int] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for line in csv.reader(file):
            if line == ["image_id", "class_id"] or not line:
                continue
            try:
                image_id, class_id = line
                value = int(class_id)
            except ValueError:
                raise ValueError(f"{path}: expected lines `image_id,class_id`, got {','.join(line)!r}") from None
            if classes.setdefault(image_id, value) != value:
                raise ValueError(f"{path}: two classes for {image_id!r}, {classes[image_id]} and {value}")
    return classes
