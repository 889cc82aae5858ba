"""Sums of whole numbers, from which every figure follows.

An IoU counts in units of 2^-40, all else is counted, so that order, batch size and merging never change a bit. Almost
every map reaches 1, so that its thresholds stand for the same 8-bit levels as those of the others: these maps are
summed up by level, 256 numbers instead of 1000, and only the rest by threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np
import torch

from fastcam.evaluation import bootstrap, pixels
from fastcam.evaluation.packing import PackedBatch
from fastcam.evaluation.protocols import Protocol, columns, threshold_index

MOST = 256  # pictures at once: sums of so many, 18 times each, are exact in floating point
IOU_UNIT = 2.0**40  # sums of IoU are whole numbers of 2^-40
_LEVELS = 256


class Count(IntEnum):
    """Columns of what is counted: of `Sums.pictures` the first six, of `Sums.replicates` all."""

    BOXES = 0  # pictures that have them
    MASKS = 1
    SCORES = 2
    BOXES_AND_SCORES = 3
    TOP1 = 4  # pictures whose class has rank 1
    TOP5 = 5  # rank 5 or better
    GT_KNOWN = 6  # these four at the fixed threshold
    TOP1_LOC = 7
    TOP5_LOC = 8
    IOU = 9  # not a count, but a sum, in units of 2^-40


OF_PICTURES = len(Count) - 4


class Hit(IntEnum):
    """Columns of `Sums.hits`: when a map finds an object."""

    BOX_30 = 0  # the box of the largest contour, or what the protocol takes instead, reaches an IoU of 0.3
    BOX_50 = 1
    BOX_70 = 2
    TOP1_LOC = 3
    TOP5_LOC = 4
    ANY_30 = 5  # the box of any contour does
    ANY_50 = 6
    ANY_70 = 7


LARGEST = {30: Hit.BOX_30, 50: Hit.BOX_50, 70: Hit.BOX_70}  # δ in percent → column
EVERY = {30: Hit.ANY_30, 50: Hit.ANY_50, 70: Hit.ANY_70}
MAXIMA = (Hit.BOX_50, *EVERY.values())  # those whose maximum over thresholds is a figure


class EvaluatorOptions(NamedTuple):
    """What is measured, and how; see `fastcam.evaluation.Evaluator`."""

    protocol: Protocol
    metrics: tuple[str, ...]
    num_classes: int | None
    bootstrap: int
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        protocol = self.protocol._asdict() | {"size": list(self.protocol.size)}
        return self._asdict() | {"protocol": protocol, "metrics": list(self.metrics)}


@dataclass(frozen=True)
class Scores:
    """Pictures of a batch, one by one: those that are good and have true boxes, n of them.

    Attributes:
        index: int64 [n], their rows in the batch.
        rank: int64 [n], place of the true class among the scores, 1 the highest; None without logits or ranks.
        curves: float64 [n, K], by 8-bit level, the best IoU of a box of the map (the largest contour's, or what the
            protocol takes instead) with a true box; None if MaxBoxAcc is not measured.
        reference: float64 [n], see `Protocol.reference`.
        thresholds: float64 [T], of the evaluator.
    """

    index: np.ndarray
    rank: np.ndarray | None
    curves: np.ndarray | None
    reference: np.ndarray
    thresholds: np.ndarray

    @property
    def iou(self) -> np.ndarray | None:
        """float64 [n, T]: the best IoU at each threshold; None if MaxBoxAcc is not measured."""
        return self.at(self.thresholds)

    def at(self, thresholds: np.ndarray) -> np.ndarray | None:
        """The best IoU at some thresholds only, which is cheaper than at all.

        Args:
            thresholds: float64 [S], of `thresholds`.

        Returns:
            float64 [n, S]; None if MaxBoxAcc is not measured.
        """
        if self.curves is None:
            return None
        return np.take_along_axis(self.curves, columns(np.asarray(thresholds), self.reference), 1)


def joined(parts: Sequence[Scores]) -> Scores:
    """Scores of a whole batch; at least one part."""
    if len(parts) == 1:
        return parts[0]
    ranks = [part.rank for part in parts if part.rank is not None]
    curves = [part.curves for part in parts if part.curves is not None]
    return Scores(
        np.concatenate([part.index for part in parts]),
        np.concatenate(ranks) if ranks else None,
        np.concatenate(curves) if curves else None,
        np.concatenate([part.reference for part in parts]),
        parts[0].thresholds,
    )


@dataclass
class Split:
    """Sums over maps at every threshold, in two parts: [..., 256] by level of maps that reach 1, [..., T] of others."""

    level: np.ndarray
    threshold: np.ndarray

    def part(self, by_level: bool) -> np.ndarray:
        """One of both."""
        return self.level if by_level else self.threshold

    def at(self, thresholds: np.ndarray) -> np.ndarray:
        """int64 [..., T], of all maps."""
        level = columns(thresholds, np.array([255.0]))[0]
        return self.level[..., level].astype(np.int64, copy=False) + self.threshold


class Sums:
    """All sums of an evaluation; C classes (1 if they are not told apart), T thresholds, R replicates.

    Attributes:
        pictures: int64 [C, 6], by `Count`.
        hits: int32 [C, 8, …], by `Hit`.
        iou: int64 [C, …], of the largest contour.
        replicates: int64 [C or 1, R, 10], by `Count`; by class only where the protocol averages over classes.
        maxima: int64 [R, 4, …], by `MAXIMA`; none where the protocol averages over classes, for which they would need
            too much memory.
        maps: int64 [2]: all, and those that are constant.
        pixels: int64 [2, 1002], histograms of background and object.
        pixel_replicates: int64 [R, 2, 1002].
    """

    def __init__(self, options: EvaluatorOptions) -> None:
        classes, replicates = options.num_classes or 1, options.bootstrap
        apart, maxima = (classes, 0) if options.protocol.class_mean else (1, replicates)
        thresholds = len(options.protocol.thresholds)

        def split(shape: tuple[int, ...], dtype: type = np.int64) -> Split:
            return Split(np.zeros((*shape, _LEVELS), dtype), np.zeros((*shape, thresholds), dtype))

        self.pictures = np.zeros((classes, OF_PICTURES), np.int64)
        self.hits, self.iou = split((classes, len(Hit)), np.int32), split((classes,))
        self.replicates = np.zeros((apart, replicates, len(Count)), np.int64)
        self.maxima = split((maxima, len(MAXIMA)))
        self.maps = np.zeros(2, np.int64)
        self.pixels = np.zeros(pixels.SHAPE, np.int64)
        self.pixel_replicates = np.zeros((replicates, *pixels.SHAPE), np.int64)

    def arrays(self) -> dict[str, np.ndarray]:
        """All of them by name, as files have them."""
        return {
            "pictures": self.pictures,
            "hits/level": self.hits.level,
            "hits/threshold": self.hits.threshold,
            "iou/level": self.iou.level,
            "iou/threshold": self.iou.threshold,
            "replicates": self.replicates,
            "maxima/level": self.maxima.level,
            "maxima/threshold": self.maxima.threshold,
            "maps": self.maps,
            "pixels": self.pixels,
            "pixel replicates": self.pixel_replicates,
        }


class Tally:
    """Adds batches to `sums`. Raises ValueError if the fixed threshold is none of the protocol's."""

    def __init__(self, options: EvaluatorOptions) -> None:
        self._options, self._protocol = options, options.protocol
        self._thresholds = self._protocol.thresholds
        self._fixed = threshold_index(self._thresholds, self._protocol.threshold)
        self._level = int(self._thresholds[self._fixed] * 255)  # which that is for maps that reach 1
        tight = self._protocol.tight
        self._tight = None if tight is None else threshold_index(self._thresholds, tight)
        self.sums = Sums(options)

    def add(self, batch: PackedBatch) -> Scores:
        """Add a batch of at most `MOST` pictures; gives what was measured of each."""
        with torch.autocast("cpu", enabled=False):  # which would round sums
            return self._add(batch)

    def _add(self, batch: PackedBatch) -> Scores:
        count, metrics = len(batch.rows), self._options.metrics
        boxed = np.flatnonzero(batch.counts)
        label = np.zeros(count, np.int64) if self._options.num_classes is None else batch.label
        facts = np.zeros((count, len(Count)), np.int64)
        facts[boxed, Count.BOXES] = 1
        facts[:, Count.MASKS] = [mask is not None for mask in batch.masks]
        if batch.rank is not None:
            facts[:, Count.SCORES] = 1
            facts[boxed, Count.BOXES_AND_SCORES] = 1
            facts[:, Count.TOP1], facts[:, Count.TOP5] = batch.rank <= 1, batch.rank <= 5
        weights = bootstrap.weights(batch.ids, self._options.bootstrap, self._options.seed)

        maps = batch.maps if len(boxed) == count else batch.maps[torch.from_numpy(boxed).to(batch.maps.device)]
        high, rank = batch.high[boxed], None if batch.rank is None else batch.rank[boxed]
        owner = torch.from_numpy(np.repeat(np.arange(len(boxed)), batch.counts[boxed])).to(maps.device)
        truths = torch.from_numpy(batch.boxes).to(maps.device)
        largest = every = None
        reference = np.zeros(len(boxed))
        if metrics != ("PxAP",):
            reference = self._protocol.reference(maps, high)
        if "MaxBoxAcc" in metrics:
            largest = self._protocol.overlaps(maps, high, truths, owner, "largest")
        if "MaxBoxAccV2" in metrics:
            same = self._protocol.boxes == "every" and largest is not None
            every = largest if same else self._protocol.overlaps(maps, high, truths, owner, "all")
        scores = Scores(batch.rows[boxed], rank, largest, reference, self._thresholds)
        if len(boxed) and metrics != ("PxAP",):
            facts[boxed, OF_PICTURES:] = self._add_curves(scores, every, label[boxed], weights[boxed])

        if "PxAP" in metrics:
            self._add_pixels(batch, weights)
        np.add.at(self.sums.pictures, label, facts[:, :OF_PICTURES])
        self.sums.maps += np.array([count, np.count_nonzero(batch.flat)])
        if self._options.bootstrap:
            replicates = torch.from_numpy(self.sums.replicates)
            weighted = torch.from_numpy(weights.astype(np.int64)[:, :, None] * facts[:, None])
            group = label if self._protocol.class_mean else np.zeros_like(label)
            replicates.index_add_(0, torch.from_numpy(group), weighted)
        return scores

    def _add_curves(
        self, scores: Scores, every: np.ndarray | None, label: np.ndarray, weights: np.ndarray
    ) -> np.ndarray:
        """Add curves to the sums; gives the last four columns of `Count` at the fixed threshold, int64 [n, 4]."""
        present = np.flatnonzero(np.bincount(label))
        member = (present[:, None] == label).astype(np.float32)
        tight = None if self._tight is None else scores.at(self._thresholds[[self._tight]])
        fixed = np.zeros((len(label), len(Count)), np.int64)
        reaches = scores.reference == 255
        for by_level in (True, False):
            rows = np.flatnonzero(reaches == by_level)
            if not len(rows):
                continue
            at = None if by_level else columns(self._thresholds, scores.reference[rows])
            largest, any_contour = (
                None if curves is None else curves[rows] if at is None else np.take_along_axis(curves[rows], at, 1)
                for curves in (scores.curves, every)
            )
            rank = None if scores.rank is None else scores.rank[rows]
            hits = self._hits(largest, any_contour, rank, None if tight is None else tight[rows])
            self.sums.hits.part(by_level)[present] += _product(member[:, rows], hits, np.int32)
            maxima = self.sums.maxima.part(by_level)
            if len(maxima):
                maxima += _product(weights[rows].T, hits[:, MAXIMA])
            column = self._level if by_level else self._fixed
            fixed[rows, Count.GT_KNOWN] = hits[:, Hit.BOX_50, column]
            fixed[rows, Count.TOP1_LOC] = hits[:, Hit.TOP1_LOC, column]
            fixed[rows, Count.TOP5_LOC] = hits[:, Hit.TOP5_LOC, column]
            if largest is not None:
                units = np.rint(largest * IOU_UNIT)
                self.sums.iou.part(by_level)[present] += _product(member[:, rows].astype(np.float64), units)
                fixed[rows, Count.IOU] = units[:, column]
        return fixed[:, OF_PICTURES:]

    def _add_pixels(self, batch: PackedBatch, weights: np.ndarray) -> None:
        masked = [row for row, mask in enumerate(batch.masks) if mask is not None]
        if not masked:
            return
        maps = batch.maps if len(masked) == len(batch.rows) else batch.maps[masked]
        histograms = pixels.count(maps, [mask for mask in batch.masks if mask is not None])
        self.sums.pixels += histograms.sum(0)
        if self._options.bootstrap:
            drawn = weights[masked].T.astype(np.float64)
            self.sums.pixel_replicates += _product(drawn, histograms.astype(np.float64))

    def _hits(
        self, largest: np.ndarray | None, every: np.ndarray | None, rank: np.ndarray | None, tight: np.ndarray | None
    ) -> np.ndarray:
        """Zeros and ones, float32 [n, 8, columns], by `Hit`."""
        shape = next(curves.shape for curves in (largest, every) if curves is not None)
        hits = np.zeros((shape[0], len(Hit), shape[1]), np.float32)
        met = np.greater if self._protocol.strict == "always" else np.greater_equal
        for curves, names in ((largest, LARGEST), (every, EVERY)):
            if curves is not None:
                for delta, name in names.items():
                    met(curves, delta / 100, out=hits[:, name])
        if largest is not None and rank is not None:
            found = hits[:, Hit.BOX_50] if self._protocol.strict == "never" else np.greater(largest, 0.5)
            hits[:, Hit.TOP1_LOC] = found * (rank <= 1)[:, None]
            if tight is None:
                hits[:, Hit.TOP5_LOC] = found * (rank <= 5)[:, None]
            else:
                either = np.maximum(found, tight >= 0.5)
                hits[:, Hit.TOP5_LOC] = np.where((rank <= 2)[:, None], either, found * (rank <= 3)[:, None])
        return hits


def _product(weights: np.ndarray, values: np.ndarray, dtype: type = np.int64) -> np.ndarray:
    """[m, n] times [n, ...], of whole numbers small enough to be exact."""
    flat = torch.from_numpy(weights) @ torch.from_numpy(values.reshape(len(values), -1))
    return flat.numpy().astype(dtype).reshape(-1, *values.shape[1:])
