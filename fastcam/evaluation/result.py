"""What an evaluation gives: figures, curves, a table by class, and how to print them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from fastcam.evaluation import pixels
from fastcam.evaluation.average_precision import Rule, average_precision
from fastcam.evaluation.bootstrap import interval
from fastcam.evaluation.protocols import threshold_index
from fastcam.evaluation.tally import EVERY, IOU_UNIT, LARGEST, MAXIMA, OF_PICTURES, Count, EvaluatorOptions, Hit, Sums

T = TypeVar("T")
BOX_DELTAS = tuple(LARGEST)  # of IoU, in percent
_RULES: tuple[Rule, ...] = ("voc2010", "coco")  # of average precision


class _Share(NamedTuple):
    """A figure that is a share of pictures: what is counted of how many, and the curve that it is a point of."""

    counted: Count
    of: Count
    curve: str = ""


_SHARES = {
    "Top-1 Cls": _Share(Count.TOP1, Count.SCORES),
    "Top-5 Cls": _Share(Count.TOP5, Count.SCORES),
    "GT-known Loc": _Share(Count.GT_KNOWN, Count.BOXES, "BoxAcc 50"),
    "Top-1 Loc": _Share(Count.TOP1_LOC, Count.BOXES_AND_SCORES, "Top-1 Loc"),
    "Top-5 Loc": _Share(Count.TOP5_LOC, Count.BOXES_AND_SCORES, "Top-5 Loc"),
    "mean IoU": _Share(Count.IOU, Count.BOXES, "mean IoU"),
}


@dataclass(frozen=True)
class Figures:
    """Figures as they are written and printed: all of a `Result`, or what a source of maps makes of them.

    Attributes:
        percent: name → percent.
        intervals: name → (low, high), where there is one.
        notes: name → what is said behind it in the table.
        curves: whether thresholds mean something, so that there are curves and best thresholds, too.
    """

    percent: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    notes: dict[str, str]
    curves: bool = True

    def renamed(self, old: str, new: str) -> "Figures":
        """The same with another name for a figure."""

        def of(values: dict[str, T]) -> dict[str, T]:
            return {new if name == old else name: value for name, value in values.items()}

        return Figures(of(self.percent), of(self.intervals), of(self.notes), self.curves)

    def to_dict(self) -> dict[str, Any]:
        """Entries of metrics.json."""
        found: dict[str, Any] = {
            "figures": self.percent,
            "intervals": {name: list(range) for name, range in self.intervals.items()},
        }
        return found if self.curves else found | {"curves": {}, "thresholds": [], "best_thresholds": {}}

    def table(self) -> list[str]:
        """Lines of text: a figure each, with its interval and note."""
        lines = [f"{'':<14}{'%':>7}" + ("  95 % interval" if self.intervals else "")]
        for name, value in self.percent.items():
            low_high = self.intervals.get(name)
            interval = f"  {low_high[0]:6.2f} – {low_high[1]:6.2f}" if low_high else ""
            lines.append(f"{name:<14}{value:7.2f}{interval}{self.notes.get(name, '')}")
        return lines


class Result:
    """All figures of an evaluation. Shares are in percent; only what was measured is there.

    Attributes:
        protocol: the `Protocol`, with the threshold of the figures at a fixed one.
        counts: how many pictures there were "with boxes", "with masks" and "with scores" (logits or ranks).
        maps: how many maps were measured, and how many of them were constant, so that they show nothing.
        figures: name → percent: "Top-1 Cls", "Top-5 Cls", "GT-known Loc", "Top-1 Loc", "Top-5 Loc", "mean IoU",
            "MaxBoxAcc", "MaxBoxAccV2", "PxAP", and of the same pixels "Dice" of the object and "mIoU" of object and
            background, each at its best threshold. With `add_precision` "mAP voc2010" and "mAP coco", too.
        best_thresholds: name → the first τ at which a curve is highest: "MaxBoxAcc", and "MaxBoxAccV2 30",
            "MaxBoxAccV2 50", "MaxBoxAccV2 70", "Dice", "mIoU". They are the best ones for these very pictures.
        intervals: figure → (low, high), 95 % of the bootstrap's replicates; maxima are taken within each replicate.
            None for figures without, and without replicates.
        thresholds: float64 [T].
        curves: name → float64 [T]: "BoxAcc 30", "BoxAcc 50", "BoxAcc 70" (largest contour), these with " all" behind
            (all contours), "Top-1 Loc", "Top-5 Loc", "mean IoU"; and float64 [n] of their own thresholds, from the
            highest down: "precision", "recall", "Dice" and "mIoU" of pixels.
        pixel_thresholds: float64 [n], those.
        bad: (id, reason) of each picture left out.
    """

    def __init__(self, options: EvaluatorOptions, sums: Sums, bad: list[tuple[str, str]]) -> None:
        protocol = options.protocol
        self.protocol, self.thresholds, self.bad = protocol, protocol.thresholds, list(bad)
        self._options = options
        self._hits = sums.hits.at(self.thresholds)
        self._iou = sums.iou.at(self.thresholds) / IOU_UNIT
        self._pictures = sums.pictures.copy()
        self._precision: dict[str, dict[int, float]] = {}  # percent by class
        counts = {column: int(sums.pictures[:, column].sum()) for column in Count if column < OF_PICTURES}
        boxed, masked, scored = (counts[column] for column in (Count.BOXES, Count.MASKS, Count.SCORES))
        self.counts = {"with boxes": boxed, "with masks": masked, "with scores": scored}
        self.maps = tuple(sums.maps.tolist())
        largest = boxed and "MaxBoxAcc" in options.metrics
        every = boxed and "MaxBoxAccV2" in options.metrics
        masked = masked and "PxAP" in options.metrics
        if not (largest or every or scored or masked):
            raise ValueError("nothing was measured: no picture was added that has what the metrics need")

        self.curves: dict[str, np.ndarray] = {}
        for wanted, columns, suffix in ((largest, LARGEST, ""), (every, EVERY, " all")):
            for delta, column in columns.items() if wanted else ():
                self.curves[f"BoxAcc {delta}{suffix}"] = self._share(self._hits[:, column], Count.BOXES)
        if largest and counts[Count.BOXES_AND_SCORES]:
            for name, column in (("Top-1 Loc", Hit.TOP1_LOC), ("Top-5 Loc", Hit.TOP5_LOC)):
                self.curves[name] = self._share(self._hits[:, column], Count.BOXES_AND_SCORES)
        if largest:
            self.curves["mean IoU"] = self._share(self._iou, Count.BOXES)

        self.figures: dict[str, float] = {}
        if scored:
            for name in ("Top-1 Cls", "Top-5 Cls"):
                share = _SHARES[name]
                self.figures[name] = float(self._share(self._pictures[:, share.counted], share.of))
        self.figures |= self.at(protocol.threshold)
        self.best_thresholds: dict[str, float] = {}
        if largest:
            self.figures["MaxBoxAcc"] = self._best("MaxBoxAcc", "BoxAcc 50")
        if every:
            names = [(f"MaxBoxAccV2 {delta}", f"BoxAcc {delta} all") for delta in BOX_DELTAS]
            self.figures["MaxBoxAccV2"] = float(np.mean([self._best(*pair) for pair in names]))
        self.pixel_thresholds = np.zeros(0)
        if masked:
            found = pixels.curve(sums.pixels)
            self.pixel_thresholds = found.thresholds
            self.curves |= {"precision": 100 * found.precision, "recall": 100 * found.recall}
            self.figures["PxAP"] = found.average_precision
            for name, curve in (("Dice", 100 * found.dice), ("mIoU", 100 * found.mean_iou)):
                self.curves[name] = curve
                best = len(curve) - 1 - int(curve[::-1].argmax())  # the lowest of equals, since thresholds descend
                self.best_thresholds[name] = float(found.thresholds[best])
                self.figures[name] = float(curve[best])
        self.intervals = self._intervals(sums) if options.bootstrap else {}

    def add_precision(self, classes: Sequence[int], scores: np.ndarray, truth: np.ndarray) -> None:
        """Add the classifier's average precision, for pictures of several classes: "mAP …", and "AP …" by class.

        Args:
            classes: indices of the classes that are ranked, K of them.
            scores: [N, K], finite: what pictures are ranked by, see `average_precision`.
            truth: bool [N, K], whether each has the class.

        Raises:
            ValueError: as `average_precision`; or no picture has any of the classes.
        """
        if not truth.any():
            raise ValueError("no picture has any of the classes that are ranked")
        added = {}
        for rule in _RULES:
            found = 100 * average_precision(scores, truth, rule)
            there = ~np.isnan(found)
            self._precision[f"AP {rule}"] = dict(
                zip(np.array(classes)[there].tolist(), found[there].tolist(), strict=True)
            )
            added[f"mAP {rule}"] = float(found[there].mean())
        self.figures = added | self.figures

    @property
    def threshold(self) -> float:
        """τ of the figures at a fixed threshold."""
        return self.protocol.threshold

    def at(self, threshold: float) -> dict[str, float]:
        """The figures at another threshold, one that was chosen on other pictures.

        Args:
            threshold: τ, one of `thresholds`.

        Returns:
            "GT-known Loc", "Top-1 Loc", "Top-5 Loc" and "mean IoU", those that were measured.

        Raises:
            ValueError: it is none of `thresholds`.
        """
        index = threshold_index(self.thresholds, threshold)
        return {
            name: float(self.curves[share.curve][index])
            for name, share in _SHARES.items()
            if share.curve in self.curves
        }

    def classes(self, threshold: float | None = None) -> list[dict[str, float | int]]:
        """The table by class.

        Args:
            threshold: τ, one of `thresholds`; None for the result's own.

        Returns:
            For each class that has pictures a row: "class", its index, "pictures", how many it has, and the figures
            that were measured and need no maximum over thresholds. No rows if the evaluator does not know how many
            classes there are. After `add_precision` also "AP voc2010" and "AP coco" of each class that a picture has,
            also beside others; "pictures" are those that are labelled so.

        Raises:
            ValueError: it is none of `thresholds`.
        """
        if self._options.num_classes is None:
            return self._with_precision([])
        index = threshold_index(self.thresholds, self.threshold if threshold is None else threshold)
        sums = {
            "Top-1 Cls": self._pictures[:, Count.TOP1],
            "Top-5 Cls": self._pictures[:, Count.TOP5],
            "GT-known Loc": self._hits[:, Hit.BOX_50, index],
            "Top-1 Loc": self._hits[:, Hit.TOP1_LOC, index],
            "Top-5 Loc": self._hits[:, Hit.TOP5_LOC, index],
            "mean IoU": self._iou[:, index],
        }
        rows = []
        for number, counts in enumerate(self._pictures.tolist()):
            if not any(counts):
                continue
            most = max(counts[Count.BOXES], counts[Count.MASKS], counts[Count.SCORES])
            row: dict[str, float | int] = {"class": number, "pictures": most}
            for name in self.figures:
                if name in sums and (of := counts[_SHARES[name].of]):
                    row[name] = float(100 * sums[name][number] / of)
            rows.append(row)
        return self._with_precision(rows)

    def _with_precision(self, rows: list[dict[str, float | int]]) -> list[dict[str, float | int]]:
        """The table by class with average precision, and rows of classes that have but this."""
        found = {int(row["class"]): row for row in rows}
        for name, values in self._precision.items():
            for number, value in values.items():
                found.setdefault(number, {"class": number, "pictures": 0})[name] = value
        return [found[number] for number in sorted(found)]

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dictionaries, for metrics.json.

        Returns:
            Options, counts, figures, thresholds of maxima, intervals, curves, the table by class, and bad pictures.
        """
        return {
            **self._options.to_dict(),
            "counts": self.counts,
            "figures": self.figures,
            "intervals": {name: list(range) for name, range in self.intervals.items()},
            "best_thresholds": self.best_thresholds,
            "thresholds": self.thresholds.tolist(),
            "pixel_thresholds": self.pixel_thresholds.tolist(),
            "curves": {name: curve.tolist() for name, curve in self.curves.items()},
            "classes": self.classes(),
            "bad": [list(entry) for entry in self.bad],
        }

    def table(self) -> list[str]:
        """The figures as text.

        Returns:
            One line for each, with its interval and threshold where it has one.
        """
        return self.summary().table()

    def summary(self) -> Figures:
        """The figures with what the table says of them.

        Returns:
            All of them.
        """
        notes = {name: f"  at τ = {self.threshold:g}" for name, share in _SHARES.items() if share.curve}
        for name in self.figures:
            if name.startswith("mAP"):
                notes[name] = f"  over {len(self._precision[name[1:]])} classes"
            best = [f"{tau:.3f}" for key, tau in self.best_thresholds.items() if key.split()[0] == name]
            if best:
                notes[name] = f"  at the best τ = {', '.join(best)}"
        return Figures(self.figures, self.intervals, notes)

    def _share(self, sums: np.ndarray, of: Count) -> np.ndarray:
        """Percent of sums [classes, ...] in the pictures of a column, or the mean of the classes'."""
        counts = self._pictures[:, of].reshape(-1, *[1] * (sums.ndim - 1))
        if not self.protocol.class_mean:
            return 100 * sums.sum(0) / counts.sum()
        there = counts.reshape(-1) > 0
        return (100 * sums[there] / counts[there]).mean(0)

    def _best(self, name: str, curve: str) -> float:
        index = int(self.curves[curve].argmax())
        self.best_thresholds[name] = float(self.thresholds[index])
        return float(self.curves[curve][index])

    def _intervals(self, sums: Sums) -> dict[str, tuple[float, float]]:
        facts = sums.replicates.astype(np.float64)  # [classes or 1, R, 10]
        facts[..., Count.IOU] /= IOU_UNIT
        values = {}
        with np.errstate(invalid="ignore"):  # a replicate without pictures, or without those of a class
            for name, share in _SHARES.items():
                shares = 100 * facts[..., share.counted] / facts[..., share.of]
                there = (facts[..., share.of] > 0).sum(0)
                values[name] = np.where(np.isnan(shares), 0, shares).sum(0) / there
            if len(sums.maxima.level):
                best = 100 * sums.maxima.at(self.thresholds).max(2) / facts[0, :, Count.BOXES, None]
                every = [MAXIMA.index(column) for column in EVERY.values()]
                values["MaxBoxAcc"] = best[:, MAXIMA.index(Hit.BOX_50)]
                values["MaxBoxAccV2"] = best[:, every].mean(1)
        if "PxAP" in self.figures:
            values["PxAP"] = pixels.average_precision(sums.pixel_replicates)
            values |= {
                name: 100 * share.max(-1)
                for name, share in zip(("Dice", "mIoU"), pixels.overlap(sums.pixel_replicates), strict=True)
            }
        ranges = {name: interval(values[name]) for name in self.figures if name in values}
        return {name: range for name, range in ranges.items() if not math.isnan(range[0])}
