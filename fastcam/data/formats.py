"""Data sets by name or by the layout of their files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from fastcam.data.coco import read_coco
from fastcam.data.cub import read_cub
from fastcam.data.folder import TEST_FOLDERS, read_classes, read_folder
from fastcam.data.masks import read_masks
from fastcam.data.sample import Dataset
from fastcam.data.voc import read_ilsvrc, read_voc
from fastcam.data.wsol import read_wsol

_HELD_OUT = TEST_FOLDERS


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


def _no_split(split: str | None, source: Path) -> None:
    if split is not None:
        raise ValueError(f"{source} has no splits, got split {split!r}")


def _wsol_folders(path: Path) -> tuple[Path, list[str]]:
    """The metadata folder, and its splits, if these are folders in it."""
    base = path / "metadata" if (path / "metadata").is_dir() else path
    return base, sorted(found.parent.name for found in base.glob("*/image_ids.txt"))


def _wsol_fits(path: Path) -> bool:
    base, splits = _wsol_folders(path)
    return bool(splits) or (base / "image_ids.txt").is_file()


def _wsol(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    base, splits = _wsol_folders(path)
    if not splits:
        _no_split(split, base)
        return read_wsol(base, images, **options)
    chosen = choose_split(split, splits, base)
    others = [base / name for name in splits if name != chosen and (base / name / "class_labels.txt").is_file()]
    return read_wsol(base / chosen, images, others, **options)


def _cub(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    return read_cub(path, "test" if split in _HELD_OUT else split, images, **options)


def _ilsvrc_root(path: Path) -> Path:
    return path / "ILSVRC" if (path / "ILSVRC").is_dir() else path  # Kaggle's download has one more folder


def _ilsvrc(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    root = _ilsvrc_root(path)
    places = {"train": root / "Data" / "CLS-LOC" / "train", "val": root / "Annotations" / "CLS-LOC" / "val"}
    available = [name for name, place in places.items() if place.is_dir()]
    return read_ilsvrc(root, choose_split(split, available, root), images, **options)


def _voc_root(path: Path) -> Path:
    editions = sorted(path.glob("VOC2*"))  # VOCdevkit/VOC2012
    return editions[0] if len(editions) == 1 else path


def _voc_fits(path: Path) -> bool:
    root = _voc_root(path)
    return any(next(folder.glob("*.xml"), None) is not None for folder in (root / "Annotations", root))


def _voc(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    root = _voc_root(path)
    if split is not None:
        available = sorted(file.stem for file in root.glob("ImageSets/Main/*.txt") if "_" not in file.stem)
        split = choose_split(split, available, root / "ImageSets" / "Main")
    return read_voc(root, split, images, **options)


def _coco_files(path: Path) -> dict[str, Path]:
    """Files of annotations by split: instances_val2017.json is that of "val"."""
    if path.is_file():
        return {path.stem: path} if path.suffix == ".json" else {}
    files = sorted([*path.glob("annotations/instances_*.json"), *path.glob("instances_*.json")])
    return {file.stem.removeprefix("instances_").rstrip("0123456789"): file for file in files}


def _coco(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    files = _coco_files(path)
    if path.is_file():
        _no_split(split, path)
        return read_coco(path, images, **options)
    return read_coco(files[choose_split(split, list(files), path)], images, **options)


def _masks_splits(path: Path) -> list[str]:
    return [name for name in ("train", *_HELD_OUT) if any(path.glob(f"{name}/*/*_ignore.png"))]


def _masks_fits(path: Path) -> bool:
    return bool(_masks_splits(path)) or (path / "masks").is_dir() or any(path.glob("*/*_ignore.png"))


def _masks(path: Path, split: str | None, images: Path | None, **options: object) -> Dataset:
    if (path / "masks").is_dir():
        path, images = path / "masks", images or path / "images"
    splits = _masks_splits(path)
    if splits:
        chosen = choose_split(split, splits, path)
        path, images = path / chosen, images and images / chosen
    else:
        _no_split(split, path)
    return read_masks(path, images, **options)


def _folder_splits(path: Path) -> list[str]:
    return [name for name in ("train", *TEST_FOLDERS) if (path / name).is_dir()]


def _folder_fits(path: Path) -> bool:
    root = next((path / name for name in _folder_splits(path)), path)
    return path.is_dir() and sum(entry.is_dir() and not entry.name.startswith(".") for entry in root.iterdir()) > 1


def _folder(
    path: Path, split: str | None, images: Path | None, *, truth_only: bool, bad: list[tuple[str, str]] | None
) -> Dataset:
    splits = _folder_splits(path)
    if splits:
        return read_classes(path, path / choose_split(split, splits, path), bad)
    if split is None:
        return read_classes(path, path, bad)
    choose_split(split, ["train", "test"], path)
    return read_folder(path)[split != "train"]


# In this order they are tried; the last ones fit much.
FORMATS: dict[str, Format] = {
    "wsol": Format(
        "image_ids.txt, class_labels.txt, image_sizes.txt and localization.txt, in the folder, in metadata/, or in a "
        "folder for each split",
        _wsol_fits,
        _wsol,
    ),
    "cub": Format(
        "images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and images/",
        lambda path: (path / "image_class_labels.txt").is_file(),
        _cub,
    ),
    "ilsvrc": Format(
        "Annotations/CLS-LOC/val/*.xml, Data/CLS-LOC/val/*.JPEG, Data/CLS-LOC/train/WNID/*.JPEG",
        lambda path: any((_ilsvrc_root(path) / part / "CLS-LOC").is_dir() for part in ("Annotations", "Data")),
        _ilsvrc,
    ),
    "coco": Format(
        "a .json file, or annotations/instances_SPLIT.json and a folder SPLIT of pictures",
        lambda path: bool(_coco_files(path)),
        _coco,
    ),
    "voc": Format("Annotations/*.xml, JPEGImages/, ImageSets/Main/SPLIT.txt", _voc_fits, _voc),
    "masks": Format(
        "SPLIT/CLASS/x.jpg with x_NAME.png and x_ignore.png (OpenImages30k), or images/ and masks/ with the same names",
        _masks_fits,
        _masks,
    ),
    "folder": Format("train/CLASS/* and val/CLASS/* or test/CLASS/*, or CLASS/* alone", _folder_fits, _folder),
}
