"""What a data set has: counts, classes, sizes, boxes, and the files that cannot be read."""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple, Self

import numpy as np
from tqdm import tqdm

from fastcam.data.loading import load
from fastcam.data.sample import Collection
from fastcam.pictures import quiet_pillow
from fastcam.pictures.frame import size_of
from fastcam.pictures.stream import batched, stream

_BATCH = 64  # pictures
_SHOWN = 10  # names in a printed line
_MOST = 20  # classes whose pictures are counted in one, all of Pascal VOC's


class Spread(NamedTuple):
    """Where some numbers lie.

    Attributes:
        least: the smallest.
        median: half of them are below.
        most: the largest.
    """

    least: float
    median: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float] | np.ndarray) -> Self | None:
        """The spread of numbers; None if there are none."""
        if len(values) == 0:
            return None
        return cls(*(float(value) for value in (np.min(values), np.median(values), np.max(values))))


class Info(NamedTuple):
    """What a data set has.

    Attributes:
        pictures: how many there are, the damaged ones included, the malformed ones not.
        classes: name and number of pictures of each class; [] without classes. Names can come twice, as ILSVRC's do.
            Where a picture has several, it counts for each.
        classes_of_each: number of classes of each picture of which they are known; None where a data set has but one
            class a picture.
        several: pictures with more than one class.
        classless: pictures that are known to have none of the classes.
        width: of the pictures as stored, in pixels.
        height: in pixels.
        resized: pictures that are stored in another size than the data set has it.
        boxed: pictures with boxes.
        boxes: number of boxes of each of these.
        box_share: share of the picture that a box covers, in [0, 1].
        masked: pictures with masks.
        mask_share: share of a mask that is object, in [0, 1].
        ignored: files that were passed over, by suffix.
        malformed: (id, reason) of each picture whose annotation in the data set's files is malformed, or that is
            missing.
        damaged: (id, reason) of each picture that cannot be read.
    """

    pictures: int
    classes: list[tuple[str, int]]
    classes_of_each: Spread | None
    several: int
    classless: int
    width: Spread | None
    height: Spread | None
    resized: int
    boxed: int
    boxes: Spread | None
    box_share: Spread | None
    masked: int
    mask_share: Spread | None
    ignored: dict[str, int]
    malformed: list[tuple[str, str]]
    damaged: list[tuple[str, str]]

    def lines(self) -> list[str]:
        """Put it in words.

        Returns:
            Lines to print: all but `malformed` and `damaged`, of which only the numbers are there.
        """
        lines = [("pictures", str(self.pictures))]
        if self.classes:
            counts = Spread.of([count for _, count in self.classes if count])
            empty = [name.split(",")[0] for name, count in self.classes if not count]
            lines.append(("classes", f"{len(self.classes)}, pictures of each: {_range(counts) if counts else 0}"))
            if self.classes_of_each:
                shares = f"several in {self.several}, none in {self.classless}"
                lines.append(("classes of each", f"{_range(self.classes_of_each)}; {shares}"))
                often = sorted(((count, name) for name, count in self.classes if count), key=lambda one: -one[0])
                most = ", ".join(f"{name.split(',')[0]} {count}" for count, name in often[:_MOST])
                lines.append(("of each class", most + (", …" if len(often) > _MOST else "")))
            if empty:
                shown = ", ".join(empty[:_SHOWN]) + (", …" if len(empty) > _SHOWN else "")
                lines.append(("empty classes", f"{len(empty)}: {shown}"))
        if self.width and self.height:
            lines.append(("size", f"width {_range(self.width)}, height {_range(self.height)} pixels"))
        if self.resized:
            lines.append(("resized", f"{self.resized} are stored in another size than the data set tells"))
        if self.boxes and self.box_share:
            lines.append(("boxes", f"{self.boxed} pictures, boxes of each: {_range(self.boxes)}"))
            lines.append(("area of a box", f"{_range(self.box_share, percent=True)} of the picture"))
        if self.mask_share:
            lines.append(("masks", f"{self.masked} pictures, object: {_range(self.mask_share, percent=True)}"))
        if self.ignored:
            kinds = (f"{count} {kind or 'without suffix'}" for kind, count in sorted(self.ignored.items()))
            lines.append(("passed over", ", ".join(kinds)))
        lines += [("malformed", str(len(self.malformed))), ("damaged", str(len(self.damaged)))]
        return [f"{name:<16}{text}" for name, text in lines]

    def to_dict(self) -> dict[str, Any]:
        """Put it in plain types.

        Returns:
            What JSON can hold: the attributes, each `Spread` as a dictionary.
        """
        return {name: value._asdict() if isinstance(value, Spread) else value for name, value in self._asdict().items()}


def info(
    source: str | os.PathLike[str],
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    decode: bool = True,
    progress: bool = True,
) -> Info:
    """Look at every picture of a data set.

    Args:
        source: see `fastcam.data.load`.
        split: see `fastcam.data.load`.
        format: see `fastcam.data.load`.
        images: see `fastcam.data.load`.
        decode: decode each picture, so that damage is found; otherwise only sizes are read.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        What it has. Sizes are those of the pictures as stored; without `decode` those in the data set's files.

    Raises:
        FileNotFoundError, ValueError: as `fastcam.data.load`, but for malformed or missing pictures.
    """
    malformed: list[tuple[str, str]] = []
    data = load(source, split, format, images, bad=malformed)
    looked: list[_Seen | tuple[str, str]] = []
    with quiet_pillow(), tqdm(total=len(data), unit="picture", disable=None if progress else True) as bar:
        for batch in stream(batched(range(len(data)), _BATCH), partial(_look, data, decode)):
            looked += batch
            bar.update(len(batch))
    seen = [one for one in looked if isinstance(one, _Seen)]
    counts = dict.fromkeys(range(len(data.class_names)), 0)
    for label in (label for one in seen for label in one.classes or ()):
        counts[label] += 1
    told = [len(one.classes) for one in seen if one.classes is not None]
    sizes = np.array([one.stored for one in seen]).reshape(-1, 2)
    boxed = [len(one.box_shares) for one in seen if len(one.box_shares)]
    masks = [one.mask_share for one in seen if one.mask_share is not None]
    return Info(
        pictures=len(data),
        classes=[(data.class_names[label], count) for label, count in counts.items()],
        classes_of_each=None if data.classes is None else Spread.of(told),
        several=sum(number > 1 for number in told),
        classless=told.count(0),
        width=Spread.of(sizes[:, 0]),
        height=Spread.of(sizes[:, 1]),
        resized=sum(one.stored != one.size for one in seen),
        boxed=len(boxed),
        boxes=Spread.of(boxed),
        box_share=Spread.of(np.concatenate([one.box_shares for one in seen]) if boxed else ()),
        masked=len(masks),
        mask_share=Spread.of(masks),
        ignored=dict(getattr(data, "ignored", {})),
        malformed=malformed,
        damaged=[one for one in looked if not isinstance(one, _Seen)],
    )


class _Seen(NamedTuple):
    classes: tuple[int, ...] | None
    stored: tuple[int, int]
    size: tuple[int, int]  # that boxes and masks refer to
    box_shares: np.ndarray
    mask_share: float | None


def _look(data: Collection, decode: bool, index: int) -> _Seen | tuple[str, str]:
    """Read one picture: what is of interest, or its id and what is wrong."""
    try:
        sample = data[index] if decode else data.truth(index)
    except ValueError as error:  # DecodeError, or a box outside of a picture whose size no other file has
        return data.ids[index], str(error)
    stored = sample.size if sample.image is None else size_of(sample.image)
    size = sample.size or stored
    if size is None or stored is None:
        return data.ids[index], "its size is not known"
    boxes = np.zeros((0, 4)) if sample.boxes is None else sample.boxes.astype(float)
    shares = (boxes[:, 2:] - boxes[:, :2]).prod(1) / np.prod(size)
    mask = None if sample.mask is None else float(np.mean(sample.mask == 1))
    classes = (sample.label,) if sample.classes is None and sample.label is not None else sample.classes
    return _Seen(classes, stored, size, shares, mask)


def _range(spread: Spread, percent: bool = False) -> str:
    least, median, most = (f"{100 * value:.3g} %" if percent else f"{value:g}" for value in spread)
    return least if least == most else f"{least} to {most} (median {median})"
