"""What readers share: numbers, classes and splits, and the data set made of what was found."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam.data.names import tidy
from fastcam.data.pictures import Packed, Pictures
from fastcam.data.problems import Problems
from fastcam.runs.schema import MAX_CLASSES

HELD_OUT = ("val", "valid", "validation", "test")  # names of what is not trained on


class Found(NamedTuple):
    """What a reader found out about a picture.

    Attributes:
        where: the file, and line or element, that tells of it.
        id: a unique name.
        file: where the picture is.
        label: class index, if there is one.
        boxes: float [B, 4], xyxy, if known.
        size: (width, height) in pixels that they refer to, if known.
        masks: as for `Pictures`.
    """

    where: str
    id: str
    file: Path | Packed
    label: int | None = None
    boxes: np.ndarray | None = None
    size: tuple[int, int] | None = None
    masks: tuple[Sequence[Path], Path | None] | None = None


def assemble(
    problems: Problems,
    source: Path,
    root: Path,
    found: Sequence[Found],
    class_names: Sequence[str] = (),
    *,
    truth_only: bool = False,
    slack: float = 0,
    resized: bool = False,
) -> Pictures:
    """Check what was found, and make a data set of it.

    Args:
        problems: what to do with pictures that do not fit.
        source: what was read, for messages.
        root: folder that the ids are relative to.
        found: the pictures.
        class_names: names of the classes.
        truth_only: the pictures need not be there.
        slack: pixels by which a box may stick out of its picture, for formats whose files round.
        resized: see `Pictures`.

    Returns:
        The data set.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: an id that is none or comes twice, a wrong box, or no pictures at all.
    """
    seen: set[str] = set()
    for where, id, *_ in found:
        problems.once(where, id, seen)
        seen.add(id)
    owners = [entry for entry in found if entry.boxes is not None for _ in entry.boxes]
    if owners:
        boxes = np.concatenate([entry.boxes for entry in found if entry.boxes is not None])
        sizes = np.array([entry.size or (np.inf, np.inf) for entry in owners])
        problems.boxes([entry.id for entry in owners], [entry.where for entry in owners], boxes, sizes, slack)
    files = problems.files([entry.id for entry in found], [entry.file for entry in found], needed=not truth_only)
    found = [
        entry if entry.file is file else entry._replace(file=file) for entry, file in zip(found, files, strict=True)
    ]
    if not truth_only:
        masked = [(entry.id, file) for entry in found if entry.masks for file in (*entry.masks[0], entry.masks[1])]
        masked = [(id, file) for id, file in masked if file is not None]
        problems.files([id for id, _ in masked], [file for _, file in masked])
    kept = set(problems.left(seen, source))
    found = [
        entry._replace(label=None, boxes=None, size=None, masks=None) if entry.id in problems.bare else entry
        for entry in found
        if entry.id in kept
    ]
    columns = {
        "labels": [entry.label for entry in found],
        "boxes": [None if entry.boxes is None else entry.boxes.astype(np.float32) for entry in found],
        "masks": [entry.masks for entry in found],
        "sizes": [entry.size for entry in found],
    }
    known = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    ids, files = [entry.id for entry in found], [entry.file for entry in found]
    options = {"class_names": tuple(class_names), "ignored": problems.ignored, "resized": resized}
    return Pictures(root, ids, files, **options, **known)


def strongest(labels: Sequence[int], boxes: np.ndarray) -> tuple[int, np.ndarray]:
    """Choose the class of a picture with objects of several.

    Args:
        labels: class of each object, at least one.
        boxes: [B, 4], xyxy.

    Returns:
        The class whose boxes have the largest total area, the lowest index where that ties, and its boxes.
    """
    if len(set(labels)) == 1:
        return labels[0], boxes
    areas: dict[int, float] = dict.fromkeys(sorted(set(labels)), 0.0)
    for label, area in zip(labels, (boxes[:, 2:] - boxes[:, :2]).prod(1), strict=True):
        areas[label] += area
    best = max(areas, key=areas.__getitem__)
    return best, boxes[np.array(labels) == best]


def numbers(texts: Sequence[str]) -> list[float] | None:
    """Read plain decimal numbers.

    Args:
        texts: one text for each.

    Returns:
        Their values, NaN and infinities included; None if one is no number.
    """
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return None
    text = "".join(texts)
    return values if text.isascii() and "_" not in text else None


def choose_split(split: str | None, available: list[str], source: Path) -> str:
    """Choose among splits that are files or folders of their own.

    Args:
        split: as for `load`.
        available: those that there are.
        source: where, for the message.

    Returns:
        One of `available`.

    Raises:
        ValueError: there is none of that name, or none was told and there is not just one.
    """
    if split in available:
        return split
    held_out = [name for name in available if name in HELD_OUT]
    if split in HELD_OUT and len(held_out) == 1:
        return held_out[0]
    if split is None and len(available) == 1:
        return available[0]
    what = "choose a split" if split is None else f"there is no split {split!r}"
    raise ValueError(f"{source}: {what}; it has {', '.join(available) or 'none'}")


def class_names(folders: Iterable[Path], labels: Iterable[int]) -> tuple[str, ...]:
    """Name classes that have numbers.

    Args:
        folders: where classes.txt may be, which has one name a line.
        labels: the numbers.

    Returns:
        Its names, else the numbers from 0 to the highest.

    Raises:
        ValueError: classes.txt has too few, or a number is none of at most `MAX_CLASSES` classes.
    """
    count = max(labels, default=-1) + 1
    if count > MAX_CLASSES:
        raise ValueError(f"there is a class {count - 1}: expected at most {MAX_CLASSES} classes, numbered from 0")
    for path in (folder / "classes.txt" for folder in folders):
        if path.is_file():
            names = tuple(tidy(line) for _, line in Problems().lines(path))
            if count > len(names):
                raise ValueError(f"{path} names {len(names)} classes, but there is class {count - 1}")
            return names
    return tuple(map(str, range(count)))


def in_groups(ids: Sequence[str], owners: Sequence[str], values: np.ndarray) -> list[np.ndarray]:
    """Bring the boxes of each picture together.

    Args:
        ids: the pictures.
        owners: the picture of each box.
        values: [M, 4], the boxes.

    Returns:
        For each picture its boxes in their order, float32 [B, 4].
    """
    groups: dict[str, list[int]] = {id: [] for id in ids}
    for index, owner in enumerate(owners):
        if owner in groups:
            groups[owner].append(index)
    values = values.astype(np.float32)
    return [values[rows] for rows in groups.values()]
