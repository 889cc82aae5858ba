"""Kaggle's dogs-vs-cats: pictures named cat.0.jpg … dog.12499.jpg, and the split of the CAM notebooks."""

import os
import re
from collections.abc import Iterable
from pathlib import Path

from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Found, Problems, Request, assemble
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

CLASSES = ("dog", "cat")  # in the order of their labels
NAME = re.compile(r"(cat|dog)\.(0|[1-9][0-9]{0,8})\.jpg")
_COUNT, _TRAIN = 12500, 10000  # pictures of each class in all, and to train on


def read(request: Request) -> Pictures:
    """Read the pictures where they are, in the split of `fastcam data catdog`, or all; ids are their names.

    They must be there, since nothing else has their labels.
    """
    folder, split, problems = request.path, request.split, request.problems
    if split not in (None, "train", "test"):
        raise ValueError(f'`split` must be "train" or "test", or None for both, got {split!r}')
    place = place_of(folder)
    if not place.is_dir():
        raise ValueError(f"{place} has to be unpacked first: fastcam data catdog {folder} FOLDER")
    parts = divide(numbered(os.listdir(place), place, problems), place)
    names = parts[split] if split else sorted(parts["train"] + parts["test"], key=_order)
    found = [Found(str(place / name), name, place / name, _order(name)[0]) for name in names]
    return assemble(request, place, found, CLASSES, source=place)


def _fits(path: Path) -> bool:
    try:
        place = place_of(path)
    except FileNotFoundError:
        return False
    return place.suffix == ".zip" or any(NAME.fullmatch(name) for name in os.listdir(place))


def place_of(source: Path) -> Path:
    """The folder of the pictures, or the zip file."""
    for path in (source / "train", source / "train.zip", source):
        if path.is_dir() or (path.is_file() and path.suffix == ".zip"):
            return path
    raise FileNotFoundError(
        f"{source} is no folder with train/ or train.zip (cat.0.jpg, dog.0.jpg, …), nor that itself"
    )


def _order(name: str) -> tuple[int, int]:
    """Label and number."""
    kind, number, _ = name.split(".")
    return CLASSES.index(kind), int(number)


def numbered(names: Iterable[str], place: Path, problems: Problems) -> list[str]:
    """Those of the names that are pictures, by label and number."""
    pictures = []
    for name in names:
        suffix = os.path.splitext(name)[1].lower()
        if hidden(name):
            problems.ignored.update([f"hidden {suffix}"] if suffix in SUFFIXES else [])
        elif NAME.fullmatch(name):
            pictures.append(name)
        elif suffix in SUFFIXES:
            problems.refuse(str(place), f"expected names such as cat.0.jpg and dog.0.jpg, got {name!r}", name)
    return sorted(pictures, key=_order)


def divide(names: list[str], place: Path) -> dict[str, list[str]]:
    """Names to train and to test on, by the numbers of each class."""
    parts: dict[str, list[str]] = {"train": [], "test": []}
    for label, kind in enumerate(CLASSES):
        members = [name for name in names if _order(name)[0] == label]
        if len(members) < 2:
            raise ValueError(
                f"{place}: expected two or more pictures {kind}.0.jpg, {kind}.1.jpg, …, got {len(members)}"
            )
        whole = [_order(name)[1] for name in members] == list(range(_COUNT))
        count = _TRAIN if whole else len(members) * 4 // 5
        parts["train"] += members[:count]
        parts["test"] += members[count:]
    return parts


FORMAT = Format(
    "train/ with cat.0.jpg, dog.0.jpg and so on, or the folder of these itself",
    fits=_fits,
    splits=lambda path: ["train", "test"],
    read=read,
    whole=lambda path: True,
    complete=True,
)
