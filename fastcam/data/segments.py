"""Class PNGs, the truth of segmentation: a class index at each pixel, 0 for the background, 255 to be ignored."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam.data.names import look, read_text, tidy
from fastcam.data.turning import frame_of, turn_mask
from fastcam.pictures import DecodeError, Header, decode_indices

IGNORED = 255
_BACKGROUND = {"background", "bg"}  # how a first line of classes.txt may name what others leave out
VOC_NAMES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)


class Segments(NamedTuple):
    """The folder of a data set's class PNGs: `x/y.png` for the picture x/y.jpg.

    Attributes:
        folder: it.
        names: of the classes, that of index 1 first; () if they are unknown.
    """

    folder: Path
    names: tuple[str, ...] = ()

    def file(self, id: str) -> Path:
        """Where the PNG of a picture is."""
        return self.folder / f"{os.path.splitext(id)[0]}.png"

    def read(self, id: str, header: Header | None = None) -> np.ndarray:
        """Read the PNG of a picture, uint8 [H, W], upright as the picture, whose size and orientation `header` has.

        The PNG may be of the stored or of the upright picture. None does not look at sizes.

        ValueError, or `DecodeError`, that names the file: it cannot be read, is no class PNG, has another size than the
        picture, or an index beyond the classes.
        """
        path = self.file(id)
        if not path.is_file():  # opening a pipe would wait for ever
            raise ValueError(f"no class PNG at {path}: only pictures that have one can be measured")
        try:
            labels = decode_indices(path)
        except DecodeError as error:
            raise DecodeError(error.code, f"{path}: {error.message}") from error
        size = labels.shape[1], labels.shape[0]
        if header is not None and size != header.size:
            stored = header.size[::-1] if header.orientation >= 5 else header.size
            if size != stored:
                raise ValueError(
                    f"{path} has {size[0]}x{size[1]} pixels, its picture {header.size[0]}x{header.size[1]}: expected a "
                    "class PNG of the picture's size"
                )
        if header is not None and header.orientation > 1 and frame_of(size, *header) == "stored":
            labels = turn_mask(labels, header.orientation)
        highest = int(labels[labels != IGNORED].max(initial=0))
        if self.names and highest > len(self.names):
            raise ValueError(
                f"{path} has class index {highest}, but there are {len(self.names)} classes, {self.names[0]!a} (1) to "
                f"{self.names[-1]!a} ({len(self.names)}), beside 0 (background) and {IGNORED} (ignored)"
            )
        return labels


def listed_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Names of the indices from 1 on in the first classes.txt there is; a first line "background" is left out."""
    for path in (folder / "classes.txt" for folder in folders):
        if path.is_file():
            names = [tidy(line) for line in read_text(path).splitlines() if line.strip()]
            skipped = bool(names) and look(names[0]).strip() in _BACKGROUND
            return tuple(names[1:] if skipped else names)
    return ()


def voc_names(names: Sequence[str]) -> tuple[str, ...]:
    """All of Pascal VOC's classes, if these are some of them, since its indices are those of all; else the names."""
    return VOC_NAMES if set(names) <= set(VOC_NAMES) else tuple(names)


def palette() -> np.ndarray:
    """Pascal VOC's colours, uint8 [256, 3]: an index's bits dealt out to red, green and blue, from the top bit down."""
    index = np.arange(256)[:, None]
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        colours |= ((index >> (3 * place + np.arange(3))) & 1) << (7 - place)
    return colours.astype(np.uint8)
