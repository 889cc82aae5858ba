"""Sums of whole numbers, from which every figure follows.

An IoU counts in units of 2^-40, all else is counted, so that order, batch size and merging never change a bit. Almost
every map reaches 1, so that its thresholds stand for the same 8-bit levels as those of the others: these maps are
summed up by level, 256 numbers instead of 1000, and only the rest by threshold.
"""

from typing import NamedTuple

import numpy as np
import torch

from fastcam.evaluation import bootstrap, pixels
from fastcam.evaluation.batch import Batch
from fastcam.evaluation.protocols import Protocol, columns, threshold_index
from fastcam.evaluation.result import BOX_DELTAS, IOU_UNIT

MOST = 256  # pictures at once: sums of so many, 18 times each, are exact in floating point


class Scores(NamedTuple):
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


class Tally:
    """Adds batches to the sums.

    Args:
        protocol: with the fixed threshold.
        metrics: which of `METRICS` to measure.
        num_classes: how many classes are told apart; None for none.
        replicates: of the bootstrap.
        seed: of these.

    Attributes:
        sums: name → whole numbers. C classes (1 if they are not told apart), T thresholds, R replicates:
            "pictures" [C, 6]: those with boxes, masks, scores, boxes and scores; rank 1; rank 5 or better;
            "hits/level" [C, 8, 256] and "hits/threshold" [C, 8, T]: BoxAcc at each δ, Top-1 Loc, Top-5 Loc, BoxAcc of
            all contours at each δ, of maps that reach 1 and of others;
            "iou/level" [C, 256] and "iou/threshold" [C, T]: of the largest contour, in units of 2^-40;
            "replicates" [C or 1, R, 10]: as "pictures", and GT-known, Top-1 and Top-5 Loc and IoU at the fixed
            threshold; by class only where the protocol averages over classes;
            "maxima/level" [R, 4, 256] and "maxima/threshold" [R, 4, T]: BoxAcc 50, BoxAcc of all contours at each δ;
            none where the protocol averages over classes, for which they would need too much memory;
            "maps" [2]: all, and those that are constant;
            "pixels" [2, 1002] and "pixel replicates" [R, 2, 1002]: histograms of background and object.

    Raises:
        ValueError: the fixed threshold is none of the protocol's.
    """

    def __init__(
        self, protocol: Protocol, metrics: list[str], num_classes: int | None, replicates: int, seed: int
    ) -> None:
        self._protocol, self._metrics = protocol, metrics
        self._classes, self._replicates, self._seed = num_classes, replicates, seed
        self._thresholds = protocol.thresholds
        self._fixed = threshold_index(self._thresholds, protocol.threshold)
        self._level = int(self._thresholds[self._fixed] * 255)  # which that is for maps that reach 1
        self._tight = None if protocol.tight is None else threshold_index(self._thresholds, protocol.tight)
        classes, t, levels = num_classes or 1, len(self._thresholds), 256
        apart, maxima = (classes, 0) if protocol.class_mean else (1, replicates)
        self.sums = {
            "pictures": np.zeros((classes, 6), np.int64),
            "hits/level": np.zeros((classes, 8, levels), np.int32),
            "hits/threshold": np.zeros((classes, 8, t), np.int32),
            "iou/level": np.zeros((classes, levels), np.int64),
            "iou/threshold": np.zeros((classes, t), np.int64),
            "replicates": np.zeros((apart, replicates, 10), np.int64),
            "maxima/level": np.zeros((maxima, 4, levels), np.int64),
            "maxima/threshold": np.zeros((maxima, 4, t), np.int64),
            "maps": np.zeros(2, np.int64),
            "pixels": np.zeros(pixels.SHAPE, np.int64),
            "pixel replicates": np.zeros((replicates, *pixels.SHAPE), np.int64),
        }

    @torch.autocast("cpu", enabled=False)  # which would round sums
    def add(self, batch: Batch) -> Scores:
        """Add the pictures of a batch.

        Args:
            batch: at most `MOST` of them.

        Returns:
            What was measured of each.
        """
        count = len(batch.rows)
        boxed = np.flatnonzero(batch.counts)
        label = np.zeros(count, np.int64) if self._classes is None else batch.label
        facts = np.zeros((count, 10), np.int64)  # as in "replicates"
        facts[boxed, 0] = 1
        facts[:, 1] = [mask is not None for mask in batch.masks]
        if batch.rank is not None:
            facts[:, 2] = 1
            facts[boxed, 3] = 1
            facts[:, 4], facts[:, 5] = batch.rank <= 1, batch.rank <= 5
        weights = bootstrap.weights(batch.ids, self._replicates, self._seed)

        maps = batch.maps if len(boxed) == count else batch.maps[torch.from_numpy(boxed).to(batch.maps.device)]
        high, rank = batch.high[boxed], None if batch.rank is None else batch.rank[boxed]
        owner = np.repeat(np.arange(len(boxed)), batch.counts[boxed])
        truths, owner = (torch.from_numpy(values).to(maps.device) for values in (batch.boxes, owner))
        largest = every = None
        reference = np.zeros(len(boxed))
        if self._metrics != ["PxAP"]:
            reference = self._protocol.reference(maps, high)
        if "MaxBoxAcc" in self._metrics:
            largest = self._protocol.overlaps(maps, high, truths, owner, "largest")
        if "MaxBoxAccV2" in self._metrics:
            same = self._protocol.boxes == "every" and largest is not None
            every = largest if same else self._protocol.overlaps(maps, high, truths, owner, "all")
        scores = Scores(batch.rows[boxed], rank, largest, reference, self._thresholds)
        if len(boxed) and self._metrics != ["PxAP"]:
            facts[boxed, 6:] = self._count(scores, every, label[boxed], weights[boxed])

        if "PxAP" in self._metrics:
            self._count_pixels(batch, weights)
        np.add.at(self.sums["pictures"], label, facts[:, :6])
        self.sums["maps"] += [count, np.count_nonzero(batch.flat)]
        if self._replicates:
            replicates = torch.from_numpy(self.sums["replicates"])
            weighted = torch.from_numpy(weights.astype(np.int64)[:, :, None] * facts[:, None])
            group = label if self._protocol.class_mean else np.zeros_like(label)
            replicates.index_add_(0, torch.from_numpy(group), weighted)
        return scores

    def _count(self, scores: Scores, every: np.ndarray | None, label: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add curves to the sums; gives int64 [n, 4] at the fixed threshold: GT-known, Top-1 and Top-5 Loc, IoU."""
        present = np.flatnonzero(np.bincount(label))
        member = (present[:, None] == label).astype(np.float32)
        tight = None if self._tight is None else scores.at(self._thresholds[[self._tight]])
        fixed = np.zeros((len(label), 4), np.int64)
        by_level = scores.reference == 255
        for room, rows in (("level", np.flatnonzero(by_level)), ("threshold", np.flatnonzero(~by_level))):
            if not len(rows):
                continue
            at = None if room == "level" else columns(self._thresholds, scores.reference[rows])
            picked = [
                None if curves is None else curves[rows] if at is None else np.take_along_axis(curves[rows], at, 1)
                for curves in (scores.curves, every)
            ]
            rank = None if scores.rank is None else scores.rank[rows]
            hits = self._hits(*picked, rank, None if tight is None else tight[rows])
            self.sums[f"hits/{room}"][present] += _product(member[:, rows], hits, np.int32)
            if len(self.sums[f"maxima/{room}"]):
                self.sums[f"maxima/{room}"] += _product(weights[rows].T, hits[:, [1, 5, 6, 7]])
            column = self._level if room == "level" else self._fixed
            fixed[rows, :3] = hits[:, [1, 3, 4], column]
            if picked[0] is not None:
                units = np.rint(picked[0] * IOU_UNIT)
                self.sums[f"iou/{room}"][present] += _product(member[:, rows].astype(np.float64), units)
                fixed[rows, 3] = units[:, column]
        return fixed

    def _count_pixels(self, batch: Batch, weights: np.ndarray) -> None:
        masked = [row for row, mask in enumerate(batch.masks) if mask is not None]
        if not masked:
            return
        maps = batch.maps if len(masked) == len(batch.rows) else batch.maps[masked]
        histograms = pixels.count(maps, [batch.masks[row] for row in masked])
        self.sums["pixels"] += histograms.sum(0)
        if self._replicates:
            drawn = weights[masked].T.astype(np.float64)
            self.sums["pixel replicates"] += _product(drawn, histograms.astype(np.float64))

    def _hits(
        self, largest: np.ndarray | None, every: np.ndarray | None, rank: np.ndarray | None, tight: np.ndarray | None
    ) -> np.ndarray:
        """Zeros and ones, float32 [n, 8, columns]: BoxAcc at each δ, Top-1 and Top-5 Loc, BoxAcc of all contours."""
        curves = largest if largest is not None else every
        hits = np.zeros((len(curves), 8, curves.shape[1]), np.float32)
        met = np.greater if self._protocol.strict == "always" else np.greater_equal
        for offset, given in ((0, largest), (5, every)):
            if given is not None:
                for place, delta in enumerate(BOX_DELTAS):
                    met(given, delta / 100, out=hits[:, offset + place])
        if largest is not None and rank is not None:
            found = hits[:, 1] if self._protocol.strict == "never" else np.greater(largest, 0.5)
            hits[:, 3] = found * (rank <= 1)[:, None]
            if tight is None:
                hits[:, 4] = found * (rank <= 5)[:, None]
            else:
                either = np.maximum(found, tight >= 0.5)
                hits[:, 4] = np.where((rank <= 2)[:, None], either, found * (rank <= 3)[:, None])
        return hits


def _product(weights: np.ndarray, values: np.ndarray, dtype: type = np.int64) -> np.ndarray:
    """[m, n] times [n, ...], of whole numbers small enough to be exact."""
    flat = torch.from_numpy(weights) @ torch.from_numpy(values.reshape(len(values), -1))
    return flat.numpy().astype(dtype).reshape(-1, *values.shape[1:])
