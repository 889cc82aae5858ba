"""Curves of an evaluation as figures."""

import os
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcam._files import replacing
from fastcam.evaluation.result import Result

_COLORS = {30: "tab:green", 50: "tab:blue", 70: "tab:purple"}
_PANELS = {"": "largest contour", " all": "all contours"}
BOX_CURVES = tuple(f"BoxAcc {delta}{suffix}" for suffix in _PANELS for delta in _COLORS)


def box_accuracy(result: Result, path: str | os.PathLike[str]) -> Path:
    """Draw BoxAcc against the threshold, with its maxima: that of the largest contour and that of all contours.

    Beside the first, Top-1 Loc where there were classes.

    Args:
        result: with some of these curves.
        path: file to write; its suffix chooses the format (.png, .svg, .pdf).

    Returns:
        The path written.

    Raises:
        ValueError: there are no such curves, or the suffix is of no known format.
        OSError: the file cannot be written.
    """
    shown = [suffix for suffix in _PANELS if f"BoxAcc 50{suffix}" in result.curves]
    if not shown:
        raise ValueError("`result` has no curves of boxes: there were no true boxes")
    # A Figure of its own, not pyplot's: no global state, no window system, safe in any thread.
    figure = Figure(figsize=(5.5 * len(shown), 4.2), dpi=110, layout="constrained")
    for axes, suffix in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        for delta, color in _COLORS.items():
            curve = result.curves[f"BoxAcc {delta}{suffix}"]
            best = int(curve.argmax())
            label = f"IoU 0.{delta // 10}: {curve[best]:.1f} at {result.thresholds[best]:.3f}"
            axes.plot(result.thresholds, curve, color=color, label=label)
            axes.plot(result.thresholds[best], curve[best], "o", color=color, markersize=5)
        if not suffix and "Top-1 Loc" in result.curves:
            axes.plot(result.thresholds, result.curves["Top-1 Loc"], "--", color="tab:red", label="Top-1 Loc, IoU 0.5")
        axes.axvline(result.threshold, color="0.5", linestyle=":", label=f"τ = {result.threshold:g}")
        _dress(axes, "threshold τ", f"BoxAcc, {_PANELS[suffix]}")
        if not axes.get_subplotspec().colspan.start:
            axes.set_ylabel("% of pictures")
    return _save(figure, path)


def precision_recall(result: Result, path: str | os.PathLike[str]) -> Path:
    """Draw precision against recall of pixels, whose area is PxAP.

    Args:
        result: with these curves.
        path: file to write; its suffix chooses the format (.png, .svg, .pdf).

    Returns:
        The path written.

    Raises:
        ValueError: there are no such curves, or the suffix is of no known format.
        OSError: the file cannot be written.
    """
    if "precision" not in result.curves:
        raise ValueError("`result` has no curves of pixels: there were no true masks")
    figure = Figure(figsize=(5.4, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    recall, precision = result.curves["recall"], result.curves["precision"]
    axes.plot(recall, precision, color="tab:blue", label=f"PxAP {result.figures['PxAP']:.2f}")
    axes.fill_between(recall, precision, color="tab:blue", alpha=0.12, linewidth=0)
    axes.set_ylabel("precision, %")
    _dress(axes, "recall, %", "precision and recall of object pixels")
    axes.set_xlim(0, 102)
    return _save(figure, path)


def _dress(axes: Axes, xlabel: str, title: str) -> None:
    axes.set_ylim(0, 102)
    axes.set_xlabel(xlabel)
    axes.set_title(title)
    axes.legend(frameon=False, fontsize=9)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png")
    return path
