"""Data sets by name or by the layout of their files."""

import os
import re
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from fastcam.data.readers.catdog import fits, read_catdog
from fastcam.data.readers.coco import read_coco
from fastcam.data.readers.cub import read_cub
from fastcam.data.readers.folder import read_classes, read_folder
from fastcam.data.readers.huggingface import find_splits, read_huggingface
from fastcam.data.readers.lists import list_splits, read_list
from fastcam.data.readers.masks import read_masks
from fastcam.data.readers.shapes import Shapes
from fastcam.data.readers.shards import read_shards
from fastcam.data.readers.stl10 import read_stl10
from fastcam.data.readers.voc import read_ilsvrc, read_voc
from fastcam.data.readers.wsol import read_wsol
from fastcam.data.reading import HELD_OUT, choose_split
from fastcam.data.sample import Collection
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

_DRAWN = {"train": 3000, "val": 400, "test": 600}  # pictures of each split of the drawn shapes
_COMPLETE = ("stl10", "webdataset", "catdog", "folder", "hf", "shapes")  # formats without another folder of pictures


class Format(NamedTuple):
    """A layout of files.

    Attributes:
        layout: what it looks like, for messages.
        fits: whether a path looks like that.
        splits: names of the splits at a path, [] if there are none.
        read: (path, split, images, truth_only=, bad=) to the data set; the split is None or one of these names.
        whole: whether without a split all at a path can be read.
    """

    layout: str
    fits: Callable[[Path], bool]
    splits: Callable[[Path], list[str]]
    read: Callable[..., Collection]
    whole: Callable[[Path], bool] = lambda path: False


def load(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Collection:
    """Open a data set.

    Samples are of upright pictures, and so are their boxes, sizes and masks. Where EXIF turns a picture, and a data set
    tells a size, or has a mask, of the picture as it is stored, these are turned along; so are boxes without a size
    that fit only that. Where sizes cannot tell (half turns, mirrored and square pictures) they are taken as those of
    the data set's other turned pictures: all as stored, or all upright, else the picture is refused. If there are none,
    they are taken for upright, with a warning. Sizes of the picture's proportions are those of a larger or smaller
    copy. Others are refused by coco, voc, ilsvrc and masks, when the picture is asked for; wsol, list, webdataset and
    hf tell sizes on purpose, whatever the pictures were squashed to.

    Args:
        source: a folder or a file, or "shapes" for the drawn data set ("./shapes" is a folder); or several tar shards.
        split: "train", "val" or "test"; "val" and "test" stand for each other where there is only one of them. STL-10
            has "unlabeled" and "fold0" to "fold9", too. None is all, or, where splits are files or folders of their
            own, the only one there is.
        format: one of `FORMATS`; by default it is recognised by its layout.
        images: folder of the pictures, where it is not where the format has it.
        truth_only: labels, boxes and sizes alone are wanted: picture files need not exist.
        bad: a list to which (id, reason) is appended for each picture that is malformed or missing and so left out;
            the id is file and line where it cannot be told. None raises at the first. What is wrong with a whole file
            always raises. A list that is a `Faults` keeps the pictures, those without annotations, too.

    Returns:
        The data set; a `Pictures` if it consists of picture files.

    Raises:
        FileNotFoundError: no such folder, or a file of the data set is missing.
        ValueError: an unknown format or split, a layout that is none of `FORMATS`, `images` where the format has none,
            or malformed files; the message names file, and line or element.
        ImportError: the format is hf, and the package `datasets` is not installed.
    """
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")
    if not isinstance(source, str | os.PathLike):
        if format not in (None, "webdataset") or split is not None or images is not None:
            raise ValueError(f"several paths are shards of one webdataset, without split and images, got {len(source)}")
        return read_shards([Path(shard) for shard in source], truth_only=truth_only, bad=bad)
    path, name = _recognise(source, format)
    if images is not None and name in _COMPLETE:
        raise ValueError(f"{name} has its pictures in its own place, got `images` {images}")
    known = FORMATS[name]
    if split is not None or not known.whole(path):
        available = known.splits(path)
        if available or split is not None:
            split = choose_split(split, available, path)
    return known.read(path, split, images and Path(images), truth_only=truth_only, bad=bad)


def splits(source: str | os.PathLike[str], format: str | None = None) -> list[str]:
    """Tell into which splits a data set is divided.

    Args:
        source: as for `load`.
        format: as for `load`.

    Returns:
        Their names, without STL-10's folds; [] if it is not divided.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    path, name = _recognise(source, format)
    return [split for split in FORMATS[name].splits(path) if not split.startswith("fold")]


def _recognise(source: str | os.PathLike[str], format: str | None) -> tuple[Path, str]:
    path = Path(source)
    if format is not None and format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "shapes" or (os.fspath(source) == "shapes" and (isinstance(source, str) or not path.exists())):
        return path, "shapes"
    if not path.exists():
        raise FileNotFoundError(f"no data set at {path}")
    if format is None:
        format = next((name for name, known in FORMATS.items() if known.fits(path)), None)
        if format is None:
            known = "; ".join(f"{name}: {known.layout}" for name, known in FORMATS.items())
            raise ValueError(f"{path} has none of the known layouts ({known})")
    elif format == "catdog" and all((path / "train" / name).is_dir() for name in ("dog", "cat")):
        format = "folder"  # what `fastcam data catdog` makes
    elif not FORMATS[format].fits(path):
        raise ValueError(f"{path} does not look like {format}: {FORMATS[format].layout}")
    return path, format


def _wsol_base(path: Path) -> Path:
    return path / "metadata" if (path / "metadata").is_dir() else path


def _wsol_splits(path: Path) -> list[str]:
    found = (file.parent.name for file in _wsol_base(path).glob("*/image_ids.txt"))
    return sorted(name for name in found if not hidden(name))


def _wsol(path: Path, split: str | None, images: Path | None, **options: object) -> Collection:
    base = _wsol_base(path)
    if split is None:
        return read_wsol(base, images, **options)
    others = [base / name for name in _wsol_splits(path) if name != split]
    others = [other for other in others if (other / "class_labels.txt").is_file()]
    return read_wsol(base / split, images, others, **options)


def _ilsvrc_root(path: Path) -> Path:
    return path / "ILSVRC" if (path / "ILSVRC").is_dir() else path  # Kaggle's download has one more folder


def _ilsvrc_splits(path: Path) -> list[str]:
    places = {"train": "Data", "val": "Annotations"}
    return [name for name, part in places.items() if (_ilsvrc_root(path) / part / "CLS-LOC" / name).is_dir()]


def _voc_root(path: Path) -> Path:
    editions = sorted(path.glob("VOC2*"))  # VOCdevkit/VOC2012
    return editions[0] if len(editions) == 1 else path


def _voc_splits(path: Path) -> list[str]:
    files = sorted(_voc_root(path).glob("ImageSets/Main/*.txt"))
    # Those with "_" are of single classes.
    return [file.stem for file in files if "_" not in file.stem and not hidden(file.name)]


def _coco_files(path: Path) -> dict[str, Path]:
    """Files of annotations by split: instances_val2017.json is that of "val"."""
    files = [path] if path.suffix.lower() == ".json" else sorted([*path.glob("annotations/instances_*.json")])
    return {file.stem.removeprefix("instances_").rstrip("0123456789"): file for file in files}


def _masks_place(path: Path) -> tuple[Path, Path | None]:
    """Folders of masks and pictures; None if they lie together."""
    return (path / "masks", path / "images") if (path / "masks").is_dir() else (path, None)


def _masks_splits(path: Path) -> list[str]:
    return [name for name in ("train", *HELD_OUT) if any(_masks_place(path)[0].glob(f"{name}/*/*_ignore.png"))]


def _masks(path: Path, split: str | None, images: Path | None, **options: object) -> Collection:
    folder, pictures = _masks_place(path)
    pictures = images or pictures
    return read_masks(folder / (split or ""), pictures and pictures / (split or ""), **options)


def _stl10_root(path: Path) -> Path:
    return path / "stl10_binary" if (path / "stl10_binary").is_dir() else path


def _stl10_splits(path: Path) -> list[str]:
    root = _stl10_root(path)
    files = [name for name in ("train", "test", "unlabeled") if (root / f"{name}_X.bin").is_file()]
    return files + ([f"fold{fold}" for fold in range(10)] if "train" in files else [])


def _shards(path: Path) -> dict[str, list[Path]]:
    """Tar files by split: train-000000.tar or train/000000.tar."""
    if path.is_file():
        return {path.stem: [path]} if path.suffix.lower() == ".tar" else {}
    found: dict[str, list[Path]] = {}
    for file in sorted([*path.glob("*.[tT][aA][rR]"), *path.glob("*/*.[tT][aA][rR]")]):
        if any(map(hidden, file.relative_to(path).parts)):
            continue
        name = file.name if file.parent == path else file.parent.name
        found.setdefault(re.split(r"[-_.0-9]", name)[0], []).append(file)
    return found


def _folders(path: Path) -> list[str]:
    return [name for name in ("train", *HELD_OUT) if (path / name).is_dir()]


def _folder_fits(path: Path) -> bool:
    if not path.is_dir():
        return False
    root = next((path / name for name in _folders(path)), path)
    classes = [entry for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name)]
    files = (file for entry in classes for file in chain(entry.glob("*.*"), entry.glob("*/*.*")))
    return len(classes) > 1 and any(file.suffix.lower() in SUFFIXES for file in files)


def _folder(
    path: Path, split: str | None, images: Path | None, *, truth_only: bool, bad: list[tuple[str, str]] | None
) -> Collection:
    if split is None or _folders(path):
        return read_classes(path, path / (split or ""), bad)
    return read_folder(path)[split != "train"]


# In this order they are tried; the last ones fit much.
FORMATS: dict[str, Format] = {
    "wsol": Format(
        "image_ids.txt, class_labels.txt, image_sizes.txt and localization.txt, in the folder, in metadata/, or in a "
        "folder for each split",
        lambda path: bool(_wsol_splits(path)) or (_wsol_base(path) / "image_ids.txt").is_file(),
        _wsol_splits,
        _wsol,
    ),
    "cub": Format(
        "images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and images/",
        lambda path: (path / "image_class_labels.txt").is_file(),
        lambda path: ["train", "test"],
        read_cub,
        lambda path: True,
    ),
    "ilsvrc": Format(
        "Annotations/CLS-LOC/val/*.xml, Data/CLS-LOC/val/*.JPEG, Data/CLS-LOC/train/WNID/*.JPEG",
        lambda path: bool(_ilsvrc_splits(path)),
        _ilsvrc_splits,
        lambda path, split, images, **options: read_ilsvrc(_ilsvrc_root(path), split, images, **options),
    ),
    "coco": Format(
        "a .json file, or annotations/instances_SPLIT.json and a folder SPLIT of pictures",
        lambda path: bool(_coco_files(path)),
        lambda path: list(_coco_files(path)),
        lambda path, split, images, **options: read_coco(_coco_files(path)[split], images, **options),
    ),
    "voc": Format(
        "Annotations/*.xml, JPEGImages/, ImageSets/Main/SPLIT.txt",
        lambda path: any((_voc_root(path) / "Annotations").rglob("*.xml")) or any(_voc_root(path).glob("*.xml")),
        _voc_splits,
        lambda path, split, images, **options: read_voc(_voc_root(path), split, images, **options),
        lambda path: True,
    ),
    "masks": Format(
        "SPLIT/CLASS/x.jpg with x_NAME.png and x_ignore.png (OpenImages30k), or images/ and masks/ with the same names",
        lambda path: bool(_masks_splits(path) or _masks_place(path)[1]) or any(path.glob("*/*_ignore.png")),
        _masks_splits,
        _masks,
    ),
    "stl10": Format(
        "train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin, class_names.txt and fold_indices.txt, here "
        "or in stl10_binary/",
        lambda path: any(_stl10_root(path).glob("*_X.bin")),
        _stl10_splits,
        lambda path, split, images, **options: read_stl10(_stl10_root(path), split),
    ),
    "webdataset": Format(
        "a .tar file, or SPLIT-*.tar or SPLIT/*.tar, uncompressed",
        lambda path: bool(_shards(path)),
        lambda path: list(_shards(path)),
        lambda path, split, images, **options: read_shards(_shards(path)[split], **options),
    ),
    "list": Format(
        "a .txt file of paths, or .csv or .parquet with a column path",
        lambda path: path.is_file() and path.suffix.lower() in (".txt", ".csv", ".parquet"),
        list_splits,
        read_list,
        lambda path: True,
    ),
    "catdog": Format(
        "train/ with cat.0.jpg, dog.0.jpg and so on, or the folder of these itself",
        fits,
        lambda path: ["train", "test"],
        lambda path, split, images, **options: read_catdog(path, split, **options),
        lambda path: True,
    ),
    "folder": Format(
        "train/CLASS/* and val/CLASS/* or test/CLASS/*, or CLASS/* alone",
        _folder_fits,
        lambda path: _folders(path) or ["train", "test"],
        _folder,
        lambda path: not _folders(path),
    ),
    "hf": Format(
        "a folder that Hugging Face datasets' save_to_disk wrote, or of SPLIT-*.parquet or SPLIT/*.parquet",
        lambda path: bool(find_splits(path)),
        lambda path: list(find_splits(path)),
        lambda path, split, images, **options: read_huggingface(path, split, **options),
    ),
    "shapes": Format(
        "the drawn data set, by this name",
        lambda path: False,
        lambda path: list(_DRAWN),
        lambda path, split, images, **options: Shapes(split, _DRAWN[split]),
    ),
}
