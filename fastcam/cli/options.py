"""What several commands share: arguments under one name and one help text, and how they are read."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fastcam._options import check, option
from fastcam.cli.errors import say

if TYPE_CHECKING:
    from torch import nn

    from fastcam.models import ModelConfig

Paths = Annotated[list[Path], typer.Argument(metavar="PATH", help="Pictures, and folders of pictures.")]
Weights = Annotated[
    Path | None,
    typer.Option(
        help="Checkpoint of `fastcam train`, or weights (.safetensors, .pt) for --arch [those of a folder that --arch "
        "names]."
    ),
]
Arch = Annotated[
    str | None,
    typer.Option(
        help="Network: a name of torchvision's, timm:NAME, hf:PATH, a folder of Hugging Face's, or open_clip:NAME or "
        "open_clip:PATH, which classify by --prompts, as CLIP's in hf:PATH do; a checkpoint knows its own."
    ),
]
DataSet = Annotated[Path, typer.Argument(metavar="DATA", help="Data set: WSOL metadata, CUB-200-2011, COCO JSON, …")]
Split = Annotated[str | None, typer.Option(help="train, val or test [all, or the only one].")]
Format = Annotated[str | None, typer.Option(help="Layout of DATA: wsol, cub, coco, … [recognised].")]
Images = Annotated[Path | None, typer.Option(help="Folder of the pictures [where the layout has it].")]
Device = Annotated[str | None, typer.Option(help="Where to run [cuda if there is one, else cpu].")]


@dataclass(frozen=True)
class NetworkOptions:
    """What of a network's configuration the command line says, in place of what its weights say."""

    size: int | None = option(None, "side of the network's square input in pixels [the weights', else 224]", least=1)
    mean: tuple[float, ...] | None = option(
        None, "mean of RGB in 0..1: one or a,b,c, one for each channel [the weights', else ImageNet's]"
    )
    std: tuple[float, ...] | None = option(
        None, "standard deviation of RGB: one or a,b,c [the weights', else ImageNet's]"
    )
    channels: int | None = option(
        None,
        "of the network's input: 1 for grey pictures, 3 for colours, others for channels as they are stored [the "
        "weights', by their first convolution]",
        least=1,
    )
    scale: str | None = option(
        None,
        "how samples of more than 8 bits become 0..1: dtype, by the range of their type; minmax, by that of each "
        "picture; the value that becomes 1, such as 4095, or those that become 0 and 1, such as -1000,400 [the "
        "checkpoint's, else what 8 bits keep of 16]",
        metavar="dtype|minmax|NUMBERS",
    )
    class_names: Path | None = option(None, "text file with one class name per line")
    num_classes: int | None = option(None, "number of classes [of names, else 1000]", least=1)
    prompts: tuple[str, ...] | None = option(
        None,
        "for networks of pictures and text: a text with {} where the name of each class stands; of several, one option "
        "each, the embeddings are averaged ['a photo of a {}']",
        commas=False,
        metavar="TEXT",
    )
    output: str | None = option(
        None,
        "what of the network's output are the scores: a name, a number, or several with dots between, such as logits, "
        "0 or heads.kind [what needs no word]",
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def given(self) -> bool:
        """Whether anything is."""
        return any(value is not None for value in vars(self).values())

    def load(self, weights: Path | None, arch: str | None) -> "tuple[nn.Module, ModelConfig]":
        """Build the network."""
        from fastcam import models

        known = {name: value for name, value in vars(self).items() if value is not None}
        if self.class_names is not None:
            known["class_names"] = lines(self.class_names)
        if not isinstance(self, FramedNetworkOptions) and (weights is None or models.read_config(weights) is None):
            known |= {"resize": "squash", "interpolation": "bilinear"}  # which others decide: no word of it
        return models.load_network(weights, arch, **known)


@dataclass(frozen=True)
class FramedNetworkOptions(NetworkOptions):
    """The same, where the pictures are resized as the network wants it."""

    resize: Literal["squash", "crop"] | None = option(
        None, "squash the picture, or crop its centre [the weights', else squash]"
    )
    resize_size: int | None = option(
        None, "for crop: what the shorter side is resized to before [the weights', else size·256/224]", least=1
    )
    interpolation: Literal["bilinear", "bicubic"] | None = option(
        None, "by which pictures are resized [the weights', else bilinear]"
    )


def say_of_labels(data: Any, config: "ModelConfig") -> None:
    """Warn if the labels of a data set may not be the network's classes."""
    from fastcam.data.matching import warning

    found = warning(getattr(data, "class_names", None) or (), config.class_names, config.num_classes)
    if found:
        say(f"fastcam: {found}", error=True)


def say_of_passed(ignored: Mapping[str, int], *, pictures: bool = False) -> None:
    """Say which files were passed over, by suffix; or of those only that may be pictures."""
    from fastcam.pictures import SUFFIXES

    kinds = [kind for kind in sorted(ignored) if not (pictures and SUFFIXES.isdisjoint(kind.split()))]
    if kinds:
        listed = ", ".join(f"{ignored[kind]} {kind or 'without suffix'}" for kind in kinds)
        say(f"fastcam: files passed over: {listed}", error=True)


def default_device() -> str:
    """Name the device to run on where none is given."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def parts(values: list[str] | None) -> list[str] | None:
    """Join what several options and commas list."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()] if values else None


def classes(text: str, names: tuple[str, ...], option: str = "--targets") -> list[int]:
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
            raise ValueError(f"{option}: no class {part!r}{hint}")
        if len(set(readings)) > 1:
            meant = " or ".join(f"{place} ({names[place]!r})" for place in dict.fromkeys(readings))
            hint = "tell the class by --class-names with other names" if index is not None else "give its number"
            raise ValueError(f"{option}: {part!r} may be class {meant}: {hint}")
        if index not in (None, readings[0]):
            say(
                f"fastcam: {option}: {part} is taken for the class of this name, class {readings[0]}",
                error=True,
            )
        classes.append(readings[0])
    return classes


def lines(path: Path) -> tuple[str, ...]:
    """Read a text file line by line, without blanks around."""
    from fastcam.data.names import read_text, tidy

    return tuple(map(tidy, read_text(path).splitlines()))


def read_targets(path: Path, config: "ModelConfig", source: Any) -> "Mapping[str, tuple[int, ...]]":
    """Read the classes of pictures from a file, for files and folders or a data set of pictures."""
    if not path.is_file():
        raise FileNotFoundError(f"--targets is label or a file of classes, such as CSV; there is no file {path}")
    from fastcam.data import read_labels
    from fastcam.pictures import find_pictures

    ids = [id for id, _ in find_pictures(source, Counter())] if isinstance(source, list) else source.ids
    return read_labels(path, config.class_names, count=config.num_classes, ids=ids)


def read_scenes(path: Path) -> dict[str, str]:
    """Read a CSV of image_id,scene."""
    if not path.is_file():
        raise FileNotFoundError(f"--scenes is a CSV file of image_id,scene; there is no file {path}")
    scenes: dict[str, str] = {}
    for line in rows(path):
        if line == ["image_id", "scene"]:
            continue
        if len(line) != 2 or not all(line):
            raise ValueError(f"{path}: expected lines `image_id,scene`, got {','.join(line)!r}")
        if scenes.setdefault(line[0], line[1]) != line[1]:
            raise ValueError(f"{path}: two scenes for {line[0]!r}, {scenes[line[0]]} and {line[1]}")
    return scenes


def rows(path: Path) -> Iterator[list[str]]:
    """Read the rows of a CSV file that are not empty."""
    from fastcam.data.names import read_text

    return filter(None, csv.reader(io.StringIO(read_text(path), newline="")))
