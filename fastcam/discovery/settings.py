"""The options of `informative_objects` and `class_units`: signatures, checks, documentation and commands."""

from dataclasses import dataclass
from typing import Literal

from fastcam._options import check, option


@dataclass(frozen=True)
class ObjectsSettings:
    """How objects are ranked, and what is drawn."""

    target_layer: str | None = option(None, "dotted name of the target layer; by default the network's last stage")
    scenes: tuple[int, ...] | None = option(
        None, "indices of the classes of scenes to look at; by default all that have pictures", cli=False
    )
    predicted: bool = option(
        False, "take the network's highest class as that of a picture's scene, whatever the data set says"
    )
    level: float = option(
        0.5, "the high-activation area is where the map is above this fraction of its range", least=0, below=1
    )
    min_frequency: float = option(
        0.1, "objects in a smaller share of a class's pictures stand behind all others, whatever their overlap", least=0
    )
    top: int = option(6, "objects in figures", least=1)
    batch_size: int = option(32, "pictures per forward pass", least=1)
    overwrite: bool = option(False, "replace existing files; by default that is an error")

    def __post_init__(self) -> None:
        if self.scenes is not None:
            object.__setattr__(self, "scenes", tuple(self.scenes))
        check(self)
        if not self.min_frequency <= 1:
            raise ValueError(f"`min_frequency` must be a share of pictures, at most 1, got {self.min_frequency!r}")
        if self.scenes == ():
            raise ValueError("`scenes` must name at least one class, got none")


@dataclass(frozen=True)
class UnitsSettings:
    """Which units are shown, and how."""

    target_layer: str | None = option(
        None, "dotted name of the layer of the units; by default the network's last stage"
    )
    top: int = option(5, "units of each class and ranking", least=1)
    pictures: int = option(5, "pictures of each unit, those of the highest activation among all", least=1)
    by: tuple[Literal["weight", "contribution"], ...] = option(
        ("weight", "contribution"),
        'rankings: by the class\'s "weight" of the unit, or by its "contribution", which is weight × mean pooled '
        "activation in the class's pictures",
        metavar="weight,contribution",
    )
    level: float = option(
        0.5,
        "a unit's region is where its activations, each spread over its receptive field, are above this fraction of "
        "their maximum",
        least=0,
        below=1,
    )
    receptive_field: int | None = option(
        None,
        "side in pixels of the network's input that a position stands for; by default measured for each unit, by the "
        "gradients of its activations",
        least=1,
    )
    batch_size: int = option(32, "pictures per forward pass", least=1)
    overwrite: bool = option(False, "replace existing files; by default that is an error")

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", tuple(dict.fromkeys((self.by,) if isinstance(self.by, str) else self.by)))
        known = ("weight", "contribution")
        if not self.by or set(self.by) - {*known}:
            raise ValueError(f"`by` may have {' and '.join(known)}, got {', '.join(map(str, self.by)) or 'none'}")
        check(self)
