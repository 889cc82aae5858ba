"""What an evaluation gives: figures, curves, and how to print them."""

from typing import Any

import numpy as np


class Result:
    """All figures of an evaluation; shares are in percent.

    Attributes:
        threshold: τ of the figures at a fixed threshold.
        figures: name → percent: "Top-1 Cls", "Top-5 Cls", "GT-known Loc", "Top-1 Loc", "Top-5 Loc", "MaxBoxAcc",
            "MaxBoxAccV2", "mean IoU", "PxAP"; only what was measured.
        best_thresholds: name → τ at which a maximum over thresholds is reached: "MaxBoxAcc", and "MaxBoxAccV2 30",
            "MaxBoxAccV2 50", "MaxBoxAccV2 70".
        intervals: name → (low, high) in percent, the bootstrap's 95 %.
        thresholds: float64 [T].
        curves: name → float64 [T] in percent: "BoxAcc 30", "BoxAcc 50", "BoxAcc 70" (largest contour), the same with
            " all" behind (all contours), "Top-1 Loc", "Top-5 Loc", "mean IoU".
        bad: (id, reason) of pictures left out.
    """

    def __init__(
        self, options: dict[str, Any], thresholds: np.ndarray, sums: dict[str, np.ndarray], bad: list[tuple[str, str]]
    ) -> None:
        self._options, self._sums = options, sums
        self.threshold, self.thresholds, self.bad = options["threshold"], thresholds, bad
        boxes, classified, top1, top5 = (int(v) for v in sums["count"])
        self.count = boxes
        if not boxes:
            raise ValueError("nothing to report: no picture was added")
        self.curves = {f"BoxAcc {d}": 100 * c / boxes for d, c in zip((30, 50, 70), sums["largest"], strict=True)}
        self.curves |= {f"BoxAcc {d} all": 100 * c / boxes for d, c in zip((30, 50, 70), sums["all"], strict=True)}
        self.curves |= {f"Top-{k} Loc": 100 * c / boxes for k, c in zip((1, 5), sums["loc"], strict=True)}
        self.curves["mean IoU"] = 100 * sums["iou"] / 2.0**40 / boxes
        self.figures = {"Top-1 Cls": 100 * top1 / classified, "Top-5 Cls": 100 * top5 / classified}
        self.figures |= self.at(self.threshold)
        best = {f"MaxBoxAccV2 {d}": int(self.curves[f"BoxAcc {d} all"].argmax()) for d in (30, 50, 70)}
        best["MaxBoxAcc"] = int(self.curves["BoxAcc 50"].argmax())
        self.best_thresholds = {name: float(thresholds[i]) for name, i in best.items()}
        self.figures["MaxBoxAcc"] = float(self.curves["BoxAcc 50"].max())
        self.figures["MaxBoxAccV2"] = float(np.mean([self.curves[f"BoxAcc {d} all"].max() for d in (30, 50, 70)]))
        self.intervals: dict[str, tuple[float, float]] = {}

    def at(self, threshold: float) -> dict[str, float]:
        """The figures at another threshold, one chosen on other pictures.

        Args:
            threshold: τ, one of `thresholds`.

        Returns:
            "GT-known Loc", "Top-1 Loc", "Top-5 Loc" and "mean IoU", in percent; what was measured of them.

        Raises:
            ValueError: it is none of `thresholds`.
        """
        index = int(np.abs(self.thresholds - threshold).argmin())
        if abs(self.thresholds[index] - threshold) > 1e-9:
            raise ValueError(f"`threshold` must be one of the {len(self.thresholds)} of the curves, got {threshold!r}")
        names = {
            "GT-known Loc": "BoxAcc 50",
            "Top-1 Loc": "Top-1 Loc",
            "Top-5 Loc": "Top-5 Loc",
            "mean IoU": "mean IoU",
        }
        return {name: float(self.curves[curve][index]) for name, curve in names.items() if curve in self.curves}

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts, for metrics.json.

        Returns:
            It.
        """
        return {
            "options": self._options,
            "count": self.count,
            "figures": self.figures,
            "best_thresholds": self.best_thresholds,
            "intervals": self.intervals,
            "thresholds": self.thresholds.tolist(),
            "curves": {name: curve.tolist() for name, curve in self.curves.items()},
            "bad": self.bad,
        }

    def table(self) -> list[str]:
        """The figures as lines of text.

        Returns:
            One line for each.
        """
        return [f"{name:<14}{value:7.2f}" for name, value in self.figures.items()]
