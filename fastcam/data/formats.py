"""Data sets by name or by the layout of their files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastcam.data.cub import read_cub
from fastcam.data.sample import Dataset
from fastcam.data.wsol import read_wsol

_HELD_OUT = ("test", "val", "valid", "validation")


class Format(NamedTuple):
    """A layout of files.

    Attributes:
        layout: what it looks like, for messages.
        fits: whether a path looks like that.
        read: (path, split, images, truth_only=, bad=) to the data set.
    """

    layout: str
    fits: Callable[[Path], bool]
    read: Callable[..., Dataset]


def load(
    source: str | os.PathLike[str],
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Dataset:
    """Open a data set.

    Args:
        source: a folder or a file, or "shapes" for the drawn data set ("./shapes" is a folder).
        split: "train", "val" or "test"; "val" and "test" stand for each other where there is only one of them. None
            is all, or, where splits are files of their own, the only one there is.
        format: one of `FORMATS`; by default it is recognised by its layout.
        images: folder of the pictures, where it is not where the format has it.
        truth_only: labels, boxes and sizes alone are wanted: picture files need not exist.
        bad: a list to which (id, reason) is appended for each picture that is malformed or missing and so left out;
            the id is file and line where it cannot be told. None raises at the first. What is wrong with a whole file
            always raises.

    Returns:
        The data set; a `Pictures` if it consists of picture files.

    Raises:
        FileNotFoundError: no such folder, or a file of the data set is missing.
        ValueError: an unknown format or split, a layout that is none of `FORMATS`, or malformed files; the message
            names file, and line or element.
    """
    path = Path(source)
    if format is not None and format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    if not path.exists():
        raise FileNotFoundError(f"no data set at {path}")
    images = None if images is None else Path(images)
    if images is not None and not images.is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")
    if format is None:
        format = next((name for name, known in FORMATS.items() if known.fits(path)), None)
        if format is None:
            known = "; ".join(f"{name}: {known.layout}" for name, known in FORMATS.items())
            raise ValueError(f"{path} has none of the known layouts ({known})")
    elif not FORMATS[format].fits(path):
        raise ValueError(f"{path} does not look like {format}: {FORMATS[format].layout}")
    return FORMATS[format].read(path, split, images, truth_only=truth_only, bad=bad)


def choose_split(split: str | None, available: list[str], source: Path) -> str:
    """Choose among splits that are files or folders of their own.

    Args:
        split: as for `load`.
        available: those that there are.
        source: where, for the message.

    Returns:
        One of `available`.

    Raises:
        ValueError: there is none of that name, or none was told and there are several.
    """
    if split in available:
        return split
    held_out = [name for name in available if name in _HELD_OUT]
    if split in _HELD_OUT and len(held_out) == 1:
        return held_out[0]
    if split is None and len(available) == 1:
        return available[0]
    what = "choose a split" if split is None else f"there is no split {split!r}"
    raise ValueError(f"{source}: {what}; it has {', '.join(available)}")


def _wsol_folders(path: Path) -> tuple[Path, list[str]]:
    """The metadata folder, and its splits, if these are folders in it."""
    base = path / "metadata" if (path / "metadata").is_dir() else path
    return base, sorted(found.parent.name for found in base.glob("*/image_ids.txt"))


def _wsol_fits(path: Path) -> bool:
    base, splits = _wsol_folders(path)
    return bool(splits) or (base / "image_ids.txt").is_file()


def _wsol(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    base, splits = _wsol_folders(path)
    if splits:
        base /= choose_split(split, splits, base)
    elif split not in (None, base.name):
        raise ValueError(f"{base} has no splits, got split {split!r}")
    return read_wsol(base, images, **options)


def _cub(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    return read_cub(path, "test" if split in _HELD_OUT else split, images, **options)


FORMATS: dict[str, Format] = {
    "wsol": Format(
        "image_ids.txt, class_labels.txt, image_sizes.txt and localization.txt, in the folder, in `metadata`, or in a "
        "folder for each split",
        _wsol_fits,
        _wsol,
    ),
    "cub": Format(
        "images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and images/",
        lambda path: (path / "image_class_labels.txt").is_file(),
        _cub,
    ),
}
