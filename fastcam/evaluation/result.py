"""What an evaluation gives: figures, curves, a table by class, and how to print them."""

import math
from typing import Any

import numpy as np

from fastcam.evaluation import pixels
from fastcam.evaluation.bootstrap import interval
from fastcam.evaluation.protocols import Protocol, columns, threshold_index

BOX_DELTAS = (30, 50, 70)  # of IoU, in percent
IOU_UNIT = 2.0**40  # sums of IoU are whole numbers of 2^-40

_AT_THRESHOLD = {
    "GT-known Loc": "BoxAcc 50",
    "Top-1 Loc": "Top-1 Loc",
    "Top-5 Loc": "Top-5 Loc",
    "mean IoU": "mean IoU",
}


class Result:
    """All figures of an evaluation. Shares are in percent; only what was measured is there.

    Attributes:
        protocol: the `Protocol`, with the threshold of the figures at a fixed one.
        counts: how many pictures there were "with boxes", "with masks" and "with scores" (logits or ranks).
        maps: how many maps were measured, and how many of them were constant, so that they show nothing.
        figures: name → percent: "Top-1 Cls", "Top-5 Cls", "GT-known Loc", "Top-1 Loc", "Top-5 Loc", "mean IoU",
            "MaxBoxAcc", "MaxBoxAccV2", "PxAP".
        best_thresholds: name → the first τ at which a curve is highest: "MaxBoxAcc", and "MaxBoxAccV2 30",
            "MaxBoxAccV2 50", "MaxBoxAccV2 70". They are the best ones for these very pictures.
        intervals: figure → (low, high), 95 % of the bootstrap's replicates; maxima are taken within each replicate.
            None for figures without, and without replicates.
        thresholds: float64 [T].
        curves: name → float64 [T]: "BoxAcc 30", "BoxAcc 50", "BoxAcc 70" (largest contour), these with " all" behind
            (all contours), "Top-1 Loc", "Top-5 Loc", "mean IoU"; and float64 [n] of their own thresholds, from the
            highest down: "precision" and "recall" of pixels.
        pixel_thresholds: float64 [n], those.
        bad: (id, reason) of each picture left out.
    """

    def __init__(
        self,
        protocol: Protocol,
        options: dict[str, Any],
        sums: dict[str, np.ndarray],
        bad: list[tuple[str, str]],
    ) -> None:
        self.protocol, self.thresholds, self.bad = protocol, protocol.thresholds, list(bad)
        self._options = options
        level = columns(self.thresholds, np.array([255.0]))[0]
        # [classes, 8 or 1, T]: sums by level, spread over the thresholds, and those by threshold
        self._hits = sums["hits/level"][..., level].astype(np.int64) + sums["hits/threshold"]
        self._iou = (sums["iou/level"][..., level] + sums["iou/threshold"]) / IOU_UNIT
        self._pictures = sums["pictures"]
        boxed, masked, scored, both, _, _ = self._pictures.sum(0).tolist()
        self.counts = {"with boxes": boxed, "with masks": masked, "with scores": scored}
        self.maps = tuple(sums["maps"].tolist())
        largest = boxed and "MaxBoxAcc" in options["metrics"]
        every = boxed and "MaxBoxAccV2" in options["metrics"]
        masked = masked and "PxAP" in options["metrics"]
        if not (largest or every or scored or masked):
            raise ValueError("nothing was measured: no picture was added that has what the metrics need")

        self.curves: dict[str, np.ndarray] = {}
        for wanted, offset, suffix in ((largest, 0, ""), (every, 5, " all")):
            for place, delta in enumerate(BOX_DELTAS) if wanted else ():
                self.curves[f"BoxAcc {delta}{suffix}"] = self._share(self._hits[:, offset + place], 0)
        if largest and both:
            self.curves |= {f"Top-{k} Loc": self._share(self._hits[:, place], 3) for place, k in ((3, 1), (4, 5))}
        if largest:
            self.curves["mean IoU"] = self._share(self._iou, 0)

        self.figures: dict[str, float] = {}
        if scored:
            self.figures |= {f"Top-{k} Cls": float(self._share(self._pictures[:, p], 2)) for p, k in ((4, 1), (5, 5))}
        self.figures |= self.at(protocol.threshold)
        self.best_thresholds: dict[str, float] = {}
        if largest:
            self.figures["MaxBoxAcc"] = self._best("MaxBoxAcc", "BoxAcc 50")
        if every:
            names = [(f"MaxBoxAccV2 {delta}", f"BoxAcc {delta} all") for delta in BOX_DELTAS]
            self.figures["MaxBoxAccV2"] = float(np.mean([self._best(*pair) for pair in names]))
        self.pixel_thresholds = np.zeros(0)
        if masked:
            found = pixels.curve(sums["pixels"])
            self.pixel_thresholds = found.thresholds
            self.curves |= {"precision": 100 * found.precision, "recall": 100 * found.recall}
            self.figures["PxAP"] = found.average_precision
        self.intervals = self._intervals(sums, level) if options["bootstrap"] else {}

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
        return {name: float(self.curves[curve][index]) for name, curve in _AT_THRESHOLD.items() if curve in self.curves}

    def classes(self, threshold: float | None = None) -> list[dict[str, float | int]]:
        """The table by class.

        Args:
            threshold: τ, one of `thresholds`; None for the result's own.

        Returns:
            For each class that has pictures a row: "class", its index, "pictures", how many it has, and the figures
            that were measured and need no maximum over thresholds. No rows if the evaluator was not told how many
            classes there are.

        Raises:
            ValueError: it is none of `thresholds`.
        """
        if self._options["num_classes"] is None:
            return []
        index = threshold_index(self.thresholds, self.threshold if threshold is None else threshold)
        sums = {"Top-1 Cls": (self._pictures[:, 4], 2), "Top-5 Cls": (self._pictures[:, 5], 2)}
        sums |= {name: (self._hits[:, i, index], 3) for name, i in (("Top-1 Loc", 3), ("Top-5 Loc", 4))}
        sums |= {"GT-known Loc": (self._hits[:, 1, index], 0), "mean IoU": (self._iou[:, index], 0)}
        rows = []
        for number, counts in enumerate(self._pictures[:, :4].tolist()):
            if not any(counts):
                continue
            row: dict[str, float | int] = {"class": number, "pictures": max(counts[:3])}
            for name in self.figures:
                if name in sums and counts[sums[name][1]]:
                    row[name] = float(100 * sums[name][0][number] / counts[sums[name][1]])
            rows.append(row)
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dictionaries, for metrics.json.

        Returns:
            Options, counts, figures, thresholds of maxima, intervals, curves, the table by class, and bad pictures.
        """
        return {
            **self._options,
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
        lines = [f"{'':<14}{'%':>7}" + ("  95 % interval" if self.intervals else "")]
        for name, value in self.figures.items():
            low_high = self.intervals.get(name)
            line = f"{name:<14}{value:7.2f}" + (f"  {low_high[0]:6.2f} – {low_high[1]:6.2f}" if low_high else "")
            if name in _AT_THRESHOLD:
                line += f"  at τ = {self.threshold:g}"
            elif best := [f"{tau:.3f}" for key, tau in self.best_thresholds.items() if key.split()[0] == name]:
                line += f"  at the best τ = {', '.join(best)}"
            lines.append(line)
        return lines

    def _share(self, sums: np.ndarray, of: int) -> np.ndarray:
        """Percent of sums [classes, ...] in the pictures counted in column `of`, or the mean of the classes'."""
        counts = self._pictures[:, of].reshape(-1, *[1] * (sums.ndim - 1))
        if not self.protocol.class_mean:
            return 100 * sums.sum(0) / counts.sum()
        there = counts.reshape(-1) > 0
        return (100 * sums[there] / counts[there]).mean(0)

    def _best(self, name: str, curve: str) -> float:
        index = int(self.curves[curve].argmax())
        self.best_thresholds[name] = float(self.thresholds[index])
        return float(self.curves[curve][index])

    def _intervals(self, sums: dict[str, np.ndarray], level: np.ndarray) -> dict[str, tuple[float, float]]:
        facts = sums["replicates"].astype(np.float64)  # [classes or 1, R, 10]
        facts[..., 9] /= IOU_UNIT
        places = {"Top-1 Cls": (4, 2), "Top-5 Cls": (5, 2), "GT-known Loc": (6, 0)}
        places |= {"Top-1 Loc": (7, 3), "Top-5 Loc": (8, 3), "mean IoU": (9, 0)}
        values = {}
        with np.errstate(invalid="ignore"):  # a replicate without pictures, or without those of a class
            for name, (hits, of) in places.items():
                shares = 100 * facts[..., hits] / facts[..., of]
                there = (facts[..., of] > 0).sum(0)
                values[name] = np.where(np.isnan(shares), 0, shares).sum(0) / there
            if len(sums["maxima/level"]):
                hits = sums["maxima/level"][..., level] + sums["maxima/threshold"]
                best = 100 * hits.max(2) / facts[0, :, :1]
                values |= {"MaxBoxAcc": best[:, 0], "MaxBoxAccV2": best[:, 1:].mean(1)}
        if "PxAP" in self.figures:
            values["PxAP"] = pixels.average_precision(sums["pixel replicates"])
        ranges = {name: interval(values[name]) for name in self.figures if name in values}
        return {name: range for name, range in ranges.items() if not math.isnan(range[0])}
