"""What weakly supervised segmentation starts from: pseudo-labels, and the maps that they are made of.

A pixel belongs to the class whose map is highest there, if that is above a level, the score of the background; else to
the background. `fastcam.evaluation.segmentation` measures all levels by the same `strongest`, so that labels written at
a level that it chose have just the IoU that it found.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from fastcam.data.names import read_text
from fastcam.data.segments import palette
from fastcam.export.files import Add, ExportOptions, Job, LeftOut, NewFolder, all_names, new_folder
from fastcam.refinement import crf
from fastcam.runs.table import FoundPicture

IGNORED = 255
CLASSES = IGNORED - 1  # that labels of 8 bits have place for, beside background and what is to be ignored
_STRIDE = 4  # of the coarser maps


@contextmanager
def labels(job: Job) -> Iterator[Add]:
    """Write pseudo-labels: `x/y.png` for x/y.jpg, in the size of the upright picture, and `classes.txt`.

    They are what networks for segmentation are trained on: 8 bits with Pascal VOC's palette, 0 background, class
    index + 1, or what `categories` has, where its map is the highest and above the level of the background, 255 (to be
    ignored) between two levels. A picture whose maps are all constant is background. `classes.txt` names the values
    from 1 on.
    """
    make = _Labels(job)

    def add(picture: FoundPicture) -> int:
        classes, maps = make.maps(picture)
        with folder.create(picture.id, ".png", stem=True) as file:
            make.write(file, classes, maps)
        return len(picture.found)

    with new_folder(job.path, job.info) as folder:
        yield add
        make.name(folder)


@contextmanager
def wsss(job: Job) -> Iterator[Add]:
    """Write maps and pseudo-labels: `cam/x/y.npz` and `labels/x/y.png` for x/y.jpg, and `classes.txt`.

    The field's tools hand on maps as a pickled dictionary in .npy (Ahn, Cho and Kwak, Weakly Supervised Learning of
    Instance Segmentation with Inter-pixel Relations, CVPR 2019), which can run any code when it is read. An .npz holds
    the same entries without: keys, int64 [K], the classes, each its value in labels less 1; cam, float32 [K, ceil(H/4),
    ceil(W/4)] in [0, 1]; high_res, float32 [K, H, W], where K are the picture's classes in the table, the highest
    first, given ones ascending. Where such a tool has `np.load(path, allow_pickle=True).item()`, `np.load(path)` is
    enough.

    The labels, and `classes.txt`, are those of the format labels.
    """
    make = _Labels(job)

    def add(picture: FoundPicture) -> int:
        classes, full = make.maps(picture)
        coarser = -(-picture.height // _STRIDE), -(-picture.width // _STRIDE)
        keys, cam = np.array(make.values(classes), np.int64) - 1, make.maps(picture, coarser)[1]
        with folder.create(picture.id, ".npz", within="cam", stem=True) as file:
            np.savez(file, keys=keys, cam=cam, high_res=full)
        with folder.create(picture.id, ".png", within="labels", stem=True) as file:
            make.write(file, classes, full)
        return len(picture.found)

    with new_folder(job.path, job.info) as folder:
        yield add
        make.name(folder)


class _Labels:
    """Makes the maps and labels of pictures, and remembers what the labels' values are called."""

    def __init__(self, job: Job) -> None:
        assert job.finish is not None
        self._finish, self._given = job.finish, job.table.given
        self._low, self._high = levels(job.options, job.info)
        self._values, self._palette = job.options.categories, palette().tobytes()
        for class_id, value in (self._values or {}).items():
            _check_value(value, f"class {class_id}")
        named = job.table.class_names.items()
        self._names = {found: name for key, name in named if (found := self._value(key)) is not None}

    def maps(self, picture: FoundPicture, size: tuple[int, int] | None = None) -> tuple[list[int], np.ndarray]:
        """Classes of a picture, K of them, and their maps [K, H, W]; by default of its own size.

        The highest come first; of given classes those with the lowest index, as in the field's own files.
        """
        boxes = sorted(picture.boxes, key=lambda box: box.class_id if self._given else box.rank)
        names = {box.class_id: box.name for box in boxes if box.class_id in picture.maps}
        if not names:
            raise LeftOut("it has no map")
        for key, name in names.items():
            if (value := self._value(key)) is None:
                raise ValueError(f"{picture.id}: class {key} ({name}) is none of the given categories")
            _check_value(value, f"{picture.id}: class {key}")
            self._names[value] = name
        shape, whole = size or (picture.height, picture.width), (picture.width, picture.height)
        return list(names), np.stack([self._finish(picture.maps[key], shape, whole) for key in names])

    def values(self, classes: list[int]) -> list[int]:
        """What stands for classes in the labels."""
        return [value for key in classes if (value := self._value(key)) is not None]

    def write(self, file: IO[bytes], classes: list[int], maps: np.ndarray) -> None:
        """Write the labels of a picture as PNG."""
        image = Image.fromarray(labels_at(maps, self.values(classes), self._low, self._high))
        image.putpalette(self._palette)
        image.save(file, "PNG")

    def name(self, folder: NewFolder) -> None:
        """Write the names of the values from 1 on."""
        names = {value - 1: name for value, name in self._names.items()}
        text = "".join(f"{name}\n" for name in all_names(names))
        (folder.path / "classes.txt").write_text(text, encoding="utf-8")

    def _value(self, class_id: int) -> int | None:
        """What stands for a class in labels; None if categories are given, and it has none."""
        return class_id + 1 if self._values is None else self._values.get(class_id)


def strongest(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The highest of 1 to 255 maps [K, H, W] at each pixel: value [H, W], and place, uint8, of equals the first."""
    strength, owner = maps[0].copy(), np.zeros(maps.shape[1:], np.uint8)
    for place, values in enumerate(maps[1:], 1):  # a third of the time of NumPy's argmax over the first axis
        higher = values > strength
        np.copyto(strength, values, where=higher)
        owner[higher] = place
    return strength, owner


def labels_at(maps: np.ndarray, values: Sequence[int], low: float, high: float | None = None) -> np.ndarray:
    """Pseudo-labels of maps [K, H, W] of classes with K values: uint8 [H, W].

    0 where the highest is at most `low`, its class's value where it is above `high`, by default `low`, else 255.
    """
    if not len(maps):
        return np.zeros(maps.shape[1:], np.uint8)
    strength, owner = strongest(maps)
    found = np.array(values, np.uint8)[owner]
    if high is not None and high > low:
        found[~(strength > high)] = IGNORED
    found[strength <= low] = 0
    return found


def levels(options: ExportOptions, info: Mapping[str, Any]) -> tuple[float, float]:
    """Levels in [0, 1) up to which a pixel is background, and above which it is object, of what a caller has given.

    ValueError if more than one of `cuts`, `alpha` and `threshold_from` is given, or it is out of range.
    """
    given = [name for name in ("cuts", "alpha", "threshold_from") if getattr(options, name) is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(f'`{name}`' for name in given)} both tell what is background: give one")
    found: tuple[float | None, ...] = (info.get("threshold"),)
    if options.cuts is not None:
        found = _several(options.cuts)
    elif options.alpha is not None:
        found = tuple(sorted(map(background_level, _several(options.alpha))))
    elif options.threshold_from is not None:
        found = (chosen_level(options.threshold_from),)
    low, high = found[0], found[-1]
    if low is None or high is None or not 0 <= low <= high < 1:
        raise ValueError(f"the thresholds of pseudo-labels must be in [0, 1), the lower one first, got {low}, {high}")
    return low, high


def decided(
    maps: np.ndarray, pixels: np.ndarray, low: float, high: float, alpha: float | Sequence[float] | None = None
) -> np.ndarray:
    """What a dense CRF decides of maps [K, H, W], as such maps that `labels_at` makes its labels of them.

    With the background's score `low`, and `high`, or (1 - max)^`alpha`. A map is 1 where its class is likely beside
    either, between `low` and `high` where it is so beside the lower one only, which is to be ignored, else 0. Source:
    the field has its surest labels, and what is to be ignored, of two CRFs (Ahn, Cho and Kwak, CVPR 2019).
    """
    scores: Sequence[np.ndarray | float] = sorted({high, low}, reverse=True)
    if alpha is not None:
        strength = strongest(maps)[0]
        scores = [(1 - strength) ** exponent for exponent in sorted(set(_several(alpha)))]
    found = np.zeros_like(maps)
    for score, worth in reversed([*zip(scores, (1.0, (low + high) / 2), strict=False)]):
        labels = crf(maps, score, pixels)
        for place, values in enumerate(found, 1):
            np.copyto(values, worth, where=labels == place)
            np.copyto(values, 0, where=(labels != place) & (labels > 0))
    return found


def background_level(alpha: float) -> float:
    """The level that stands for the background's score (1 - s)^α, where s is the highest map's: the s equal to it.

    The score falls with s, so that it is above s up to just this level. Source: M_bg = (1 - max_c M_c)^α of Ahn and
    Kwak, Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly Supervised Semantic
    Segmentation, CVPR 2018; its code has α = 4 for what is surely object and 32 for what is surely background.
    ValueError if α is no positive number.
    """
    if not (0 < alpha < math.inf):
        raise ValueError(f"`alpha` must be a positive number, or two, got {alpha!r}")
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if (1 - middle) ** alpha >= middle else (low, middle)
    return low


def chosen_level(path: Path) -> float:
    """The level of the best mIoU in the metrics.json of an evaluation; ValueError if there is none."""
    try:
        best = json.loads(read_text(path))["best_thresholds"]
        return float(best["mIoU"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no metrics.json with a best threshold of mIoU, as `fastcam evaluate --protocol wsss` writes: "
            f"{error!r}"
        ) from None


def _several(given: float | Sequence[float]) -> tuple[float, ...]:
    """One number or two as a tuple."""
    found = tuple(given) if isinstance(given, Sequence) else (given,)
    if len(found) not in (1, 2):
        raise ValueError(f"what is background is told by a number, or two, got {given!r}")
    return found


def _check_value(value: int, what: str) -> None:
    if not 1 <= value <= CLASSES:
        raise ValueError(f"{what} does not fit labels of 8 bits, where classes are 1 to {CLASSES}: got {value}")
