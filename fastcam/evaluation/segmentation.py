"""Maps as pseudo-labels of segmentation, against class PNGs: mIoU, precision and recall at all levels at once.

A pixel belongs to the class whose map v is highest there if v > τ, else to the background (`fastcam.export.labels`
writes that at one level). So each pixel has one class that it can belong to, at the thresholds below one number, and
three histograms a class, of the pixels that are predicted, of those that are so rightly, and of those that are truly
it, hold the confusion of 1000 levels, where the field's scripts go through all pixels for each. They are whole numbers
that add up in any order, over pictures, batches and processes.

Source: IoU = TP / (TP + FP + FN) over the pixels of all pictures, background included in its mean, as Everingham et
al., The PASCAL Visual Object Classes (VOC) Challenge, IJCV 2010; precision and recall as over- and under-activation
are told apart in Wang et al., Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
Segmentation, CVPR 2020, whose FP / TP is 1 / precision - 1 and FN / TP is 1 / recall - 1.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from fastcam.data.segments import IGNORED
from fastcam.evaluation.accumulator import Accumulator
from fastcam.evaluation.protocols import THRESHOLDS, threshold_index
from fastcam.export.labels import CLASSES, strongest

NAME = "wsss"  # of the protocol
REFERENCE = 1000.000001  # that thresholds are multiplied by to be the places of their figures: no product falls short
_BINS = len(THRESHOLDS) + 1  # 0, then (0, 0.001], (0.001, 0.002], …, (0.999, 1]: a pixel of bin b is object at τ < b


class Part(IntEnum):
    """Rows of histograms."""

    CORRECT = 0
    PREDICTED = 1
    TRUE = 2


class Histograms(NamedTuple):
    """Pixels of one picture by class and by the bin of the highest map, those to be ignored left out.

    Attributes:
        values: int64 [P], ascending: 0 and all classes that are true or may be predicted.
        counts: int64 [3, P, 1001], by `Part`. A pixel of bin b is predicted as object where τ is below b/1000, and
            only such count in the first two rows of an object; it is background from there on, so that these rows
            of the background have all pixels, and those that truly are background.
    """

    values: np.ndarray
    counts: np.ndarray


def count(maps: np.ndarray, values: Sequence[int], truth: np.ndarray) -> Histograms:
    """Count the pixels of one picture.

    Args:
        maps: float32 [K, H, W] in [0, 1], K >= 0, those of the classes that the picture may have.
        values: K class indices as class PNGs have them, 1 to 254.
        truth: uint8 [H, W], 0 background, 255 to be ignored.

    Returns:
        Its histograms.

    Raises:
        ValueError: the truth is no class PNG; a map has another shape, or values that are not in [0, 1]; or there are
            not as many maps as classes.
    """
    if truth.dtype != np.uint8 or truth.ndim != 2:
        raise ValueError(f"its class PNG must be uint8 [H, W], got {truth.dtype} {list(truth.shape)}")
    maps = np.asarray(maps, np.float32)
    if len(maps) != len(values) or len(maps) > CLASSES:
        raise ValueError(f"maps and classes must be as many, up to {CLASSES}, got {len(maps)} and {len(values)}")
    pixels = np.bincount(truth.reshape(-1), minlength=256)
    there = np.flatnonzero(pixels)
    kinds, width = max(len(values), 1), max(len(values), 1) * _BINS
    place = np.zeros(256, np.int64)
    place[there] = np.arange(len(there)) * width
    code = place.take(truth)
    if len(maps):
        if maps.shape[1:] != truth.shape:
            raise ValueError(f"its maps are {list(maps.shape[1:])}, its class PNG {list(truth.shape)}")
        strength, owner = strongest(maps)
        if not (maps.min() >= 0 and maps.max() <= 1):  # nor NaN
            raise ValueError(f"its maps must be in [0, 1], they reach from {maps.min():g} to {maps.max():g}")
        # 1000 times a float32 is exact in float64: v > k/1000 just if the bin of v is above k.
        bins = np.multiply(strength, len(THRESHOLDS), dtype=np.float64)
        np.add(code, np.ceil(bins, out=bins), out=code, casting="unsafe")
        if len(maps) > 1:
            code += np.multiply(owner, _BINS, dtype=np.int64)
    joint = np.bincount(code.reshape(-1), minlength=len(there) * width).reshape(len(there), kinds, _BINS)
    joint, there = joint[there != IGNORED], there[there != IGNORED]
    found = np.unique(np.concatenate([[0], there, np.asarray(values, np.int64)]))
    counts = np.zeros((len(Part), len(found), _BINS), np.int64)
    counts[Part.TRUE, np.searchsorted(found, there)] = joint.sum(1)
    counts[Part.CORRECT, 0] = counts[Part.TRUE, 0]
    counts[Part.PREDICTED, 0] = joint.sum((0, 1))
    for kind, value in enumerate(values):
        row = np.searchsorted(found, value)
        counts[Part.PREDICTED, row] += joint[:, kind].sum(0)
        counts[Part.CORRECT, row] += joint[there == value, kind].sum(0)
    return Histograms(found, counts)


def confusion(counts: np.ndarray) -> np.ndarray:
    """Pixels at each threshold of histograms [3, P, 1001] whose first class is the background: int64 [3, P, 1000]."""
    found = np.empty((*counts.shape[:2], _BINS - 1), np.int64)
    found[Part.TRUE] = counts[Part.TRUE].sum(-1, keepdims=True)
    predicted = counts[: Part.TRUE]
    found[: Part.TRUE] = predicted[..., ::-1].cumsum(-1)[..., -2::-1]  # the bins above k
    found[: Part.TRUE, 0] = predicted[:, 0].cumsum(-1)[..., :-1]  # those up to k
    return found


def overlap(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, precision and recall of `confusion`'s [3, P, T]: float64 [P, T] each, NaN where they are none."""
    correct, predicted, true = pixels
    with np.errstate(invalid="ignore"):
        return correct / (predicted + true - correct), correct / predicted, correct / true


def mean(shares: np.ndarray) -> np.ndarray:
    """The mean over classes [P, ...] of those that are some; NaN where none is."""
    some = ~np.isnan(shares)
    with np.errstate(invalid="ignore"):
        return np.where(some, shares, 0).sum(0) / some.sum(0)


class SegmentationOptions(NamedTuple):
    """What is measured: the classes' names, that of index 1 first, () for unknown ones, and the fixed threshold."""

    class_names: tuple[str, ...]
    threshold: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"protocol": {"name": NAME, "threshold": self.threshold}, "class_names": list(self.class_names)}


class SegmentationEvaluator(Accumulator):
    """Takes maps and class PNGs picture by picture, and gives mIoU, precision and recall at all levels.

    Args:
        class_names: of the classes, that of index 1 first; () if unknown, for up to 254.
        threshold: τ of the figures at a fixed threshold, a multiple of 0.001 in [0, 1).
        skip_bad: list bad pictures in `bad` instead of raising.

    Attributes:
        thresholds: float64 [1000], the levels of the background: a pixel is object where a map is above.
        bad: (id, reason) of each picture left out.

    Raises:
        ValueError: the threshold is none of `thresholds`, or there are too many classes.
    """

    def __init__(
        self, class_names: Sequence[str] = (), *, threshold: float | None = None, skip_bad: bool = False
    ) -> None:
        super().__init__(skip_bad)
        if len(class_names) > CLASSES:
            raise ValueError(f"class PNGs have 8 bits, for at most {CLASSES} classes, got {len(class_names)}")
        self.thresholds, self.levels = THRESHOLDS, len(THRESHOLDS)
        threshold = 0.2 if threshold is None else float(threshold)
        threshold_index(self.thresholds, threshold)
        self._options: SegmentationOptions = SegmentationOptions(tuple(class_names), threshold)
        count = 1 + (len(class_names) or CLASSES)
        self._sums = {
            "pixels": np.zeros((len(Part), count, _BINS), np.int64),
            "pictures": np.zeros((2, count), np.int64),  # that have the class in truth, and that may be predicted so
            "count": np.zeros(1, np.int64),
        }

    def add(self, id: str, maps: np.ndarray, values: Sequence[int], truth: np.ndarray) -> Histograms | None:
        """Take one picture. If it raises, nothing of it has been counted.

        Args:
            id: its name.
            maps: float32 [K, H, W], see `count`.
            values: K class indices, see `count`.
            truth: uint8 [H, W], see `count`.

        Returns:
            What was counted of it; None if it is bad, and `skip_bad` is on.

        Raises:
            ValueError: the picture is bad, and `skip_bad` is off: its id and the reason are named.
        """
        try:
            found = count(maps, values, truth)
            self.take(found)
        except ValueError as error:
            self.reject(id, str(error))
            return None
        return found

    def take(self, found: Histograms) -> None:
        """Add the histograms of one picture.

        Args:
            found: what `count` gave.

        Raises:
            ValueError: there are no such classes, or all pixels are to be ignored.
        """
        known = self._sums["pixels"].shape[1] - 1
        if found.values[-1] > known:
            raise ValueError(f"class index {found.values[-1]} is there, expected at most {known}, and {IGNORED}")
        true = found.counts[Part.TRUE].sum(-1)
        if not true.any():
            raise ValueError(f"empty ground truth: all pixels are to be ignored ({IGNORED})")
        self._sums["pixels"][:, found.values] += found.counts
        self._sums["pictures"][0, found.values] += true > 0
        self._sums["pictures"][1, found.values] += found.counts[Part.PREDICTED].any(-1)
        self._sums["count"] += 1

    def result(self, *, graded: bool = True) -> "SegmentationResult":
        """Everything measured so far; the evaluator can go on.

        Args:
            graded: whether maps have other values than zero and one, so that thresholds mean something.

        Returns:
            All figures; without curves and best thresholds where these mean nothing.

        Raises:
            ValueError: nothing was measured.
        """
        return SegmentationResult(self._options, self._sums, self.bad, graded)

    def _arrays(self) -> dict[str, np.ndarray]:
        return self._sums


class SegmentationResult:
    """Figures of pseudo-labels, in percent.

    mIoU is the mean over the background and all classes that are true or predicted; precision, which over-activation
    lowers, and recall, which under-activation lowers, are means over the classes without the background, of those that
    are predicted, and that are true, somewhere.

    Attributes:
        pictures: how many were measured.
        threshold: the fixed one.
        thresholds: float64 [1000].
        best_threshold: the first of the highest mIoU.
        curves: "mIoU", "precision" and "recall", float64 [1000] in percent; NaN where there is none.
        figures: "mIoU", "precision" and "recall" at `threshold`, and "max mIoU" where thresholds mean something.
        best: "mIoU", "precision" and "recall" at `best_threshold`.
        bad: (id, reason) of each picture left out.
    """

    def __init__(
        self,
        options: SegmentationOptions,
        sums: dict[str, np.ndarray],
        bad: list[tuple[str, str]],
        graded: bool = True,
    ) -> None:
        self.pictures = int(sums["count"][0])
        if not self.pictures:
            raise ValueError("nothing was measured: no picture was added")
        self._options, self._pictures, self._graded = options, sums["pictures"].copy(), graded
        self._shares = tuple(100 * share for share in overlap(confusion(sums["pixels"])))
        self.threshold, self.thresholds, self.bad = options.threshold, THRESHOLDS, list(bad)
        iou, precision, recall = self._shares
        self.curves = {"mIoU": mean(iou), "precision": mean(precision[1:]), "recall": mean(recall[1:])}
        best = int(self.curves["mIoU"].argmax())
        self.best_threshold = float(self.thresholds[best])
        self.figures = self.at(self.threshold)
        if graded:
            self.figures["max mIoU"] = float(self.curves["mIoU"][best])
        self.best = self.at(self.best_threshold)

    def at(self, threshold: float) -> dict[str, float]:
        """The figures at a threshold.

        Args:
            threshold: τ, one of `thresholds`.

        Returns:
            "mIoU", "precision" and "recall", those that there are.

        Raises:
            ValueError: it is none of `thresholds`.
        """
        index = threshold_index(self.thresholds, threshold)
        return {name: float(curve[index]) for name, curve in self.curves.items() if not np.isnan(curve[index])}

    def classes(self, threshold: float | None = None) -> list[dict[str, Any]]:
        """The table by class.

        Args:
            threshold: τ, one of `thresholds`; None for the best one.

        Returns:
            For the background and each class that is true or may be predicted in some picture: "class", its index in
            class PNGs, "name", "pictures" that truly have it, and "IoU", "precision" and "recall", those that there
            are.

        Raises:
            ValueError: it is none of `thresholds`.
        """
        index = threshold_index(self.thresholds, self.best_threshold if threshold is None else threshold)
        rows = []
        for value in np.flatnonzero(self._pictures.any(0)).tolist():
            shares = zip(("IoU", "precision", "recall"), self._shares, strict=True)
            found = {name: float(share[value, index]) for name, share in shares if not np.isnan(share[value, index])}
            rows.append({"class": value, "name": self._name(value), "pictures": int(self._pictures[0, value])} | found)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dictionaries, for metrics.json.

        Returns:
            Options, counts, figures, the best threshold, curves, the table by class at the best threshold and at the
            fixed one, and bad pictures.
        """
        found = {
            **self._options.to_dict(),
            "counts": {"with segments": self.pictures},
            "figures": self.figures,
            "best_thresholds": {},
            "thresholds": [],
            "curves": {},
            "classes": self.classes(),
            "bad": [list(entry) for entry in self.bad],
        }
        if not self._graded:
            return found
        curves = {name: [None if np.isnan(v) else v for v in curve.tolist()] for name, curve in self.curves.items()}
        return found | {
            "best": self.best,
            "best_thresholds": {"mIoU": self.best_threshold},
            "thresholds": self.thresholds.tolist(),
            "curves": curves,
            "classes_at_threshold": self.classes(self.threshold),
        }

    def table(self) -> list[str]:
        """The figures as text.

        Returns:
            A line for each figure, at the fixed and at the best threshold, then one for each class at the best.
        """
        columns = {f"τ = {self.threshold:g}" if self._graded else "labels": self.figures}
        if self._graded:
            columns[f"best τ = {self.best_threshold:g}"] = self.best
        lines = [f"{'%':<14}" + "".join(f"{name:>18}" for name in columns)]
        for name in self.curves:
            values = "".join(f"{_number(figures.get(name)):>18}" for figures in columns.values())
            lines.append(f"{name:<14}{values}")
        lines += ["", f"{[*columns][-1]:<24}{'pictures':>9}{'IoU':>9}{'precision':>11}{'recall':>9}"]
        for row in self.classes():
            shares = "".join(f"{_number(row.get(n)):>{w}}" for n, w in (("IoU", 9), ("precision", 11), ("recall", 9)))
            lines.append(f"{str(row['name'])[:23]:<24}{row['pictures']:>9}{shares}")
        return lines

    def _name(self, value: int) -> str:
        names = self._options.class_names
        return "background" if not value else names[value - 1] if value <= len(names) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
