"""The options of `crop`: its signature, checks, documentation and command are made of them."""

from dataclasses import dataclass
from typing import Literal

from fastcam._options import check, option


@dataclass(frozen=True)
class CropSettings:
    """Which boxes are cut out, and how."""

    boxes: Literal["found", "truth"] = option(
        "found", "the boxes that the run found, or the true ones of the same pictures, which the data set has"
    )
    each: bool = option(
        False,
        "a crop for each box of a picture, of all classes that the table has; by default for the largest, of those "
        "that the run found the highest class's",
    )
    margin: float = option(
        0.0,
        "by this fraction of its width and height the box grows on each side, as far as the picture goes",
        least=0,
    )
    suffix: Literal["png", "jpg"] = option(
        "png", "png keeps the pixels as they are; jpg, of quality 95 without subsampling, takes less of the disk"
    )
    overwrite: bool = option(False, "replace crops that lie there; by default that is an error", decides=False)

    def __post_init__(self) -> None:
        check(self)
