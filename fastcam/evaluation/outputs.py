"""What an evaluation writes: metrics.json, the table of pictures, plots, and a gallery."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcam._files import replacing
from fastcam.evaluation.gallery import choose_cases, draw_cases, draw_segments, find_cases, write_gallery
from fastcam.evaluation.protocols import columns
from fastcam.evaluation.result import Figures, Result
from fastcam.evaluation.segmentation import SegmentationResult
from fastcam.evaluation.sources import SegmentMaps, Source

_CHUNK = 512  # records in memory at a time
_COLORS = {30: "tab:green", 50: "tab:blue", 70: "tab:purple"}  # of δ
_PANELS = {"": "largest contour", " all": "all contours"}
PICTURES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("rank", pa.int32()),  # of the label among the scores, 1 the highest
        # At the threshold, of the box with the true box that it meets best; of pixels where there are masks instead.
        pa.field("iou", pa.float32()),
        pa.field("best_iou", pa.float32()),  # the highest at any threshold,
        pa.field("best_threshold", pa.float64()),  # and the first such one
        pa.field("status", pa.string(), nullable=False),  # "ok" or "error"
        pa.field("error", pa.string()),
    ]
)


def write_outputs(
    out: Path,
    source: Source[Any, Any],
    result: Result,
    figures: Figures,
    threshold: float | None,
    records: np.ndarray,
    cases: int,
    batch_size: int,
) -> None:
    """Write pictures.parquet, the plots, cases.png and gallery.html, with so many `cases` of each kind.

    Pictures are compared and boxes drawn at `threshold`; None is the best: that of MaxBoxAcc, or with masks that of the
    highest mean IoU.
    """
    if threshold is None:
        threshold = result.best_thresholds.get("MaxBoxAcc", _best_mean(records, result.thresholds))
    iou = write_pictures(out / "pictures.parquet", source.data.ids, records, result.thresholds, threshold, result.bad)
    drawn: dict[str, Path] = {}
    boxes = any(f"BoxAcc 50{suffix}" in result.curves for suffix in _PANELS)
    if source.graded and boxes and len(result.thresholds) > 1:
        drawn["Share of pictures whose box meets a true box"] = plot_box_accuracy(result, out / "box_accuracy.png")
    if "precision" in result.curves:
        drawn["Precision and recall of pixels"] = plot_precision_recall(result, out / "precision_recall.png")
    if not cases or not len(records):
        return
    chosen = find_cases(source, result.protocol, threshold, records, iou, cases, batch_size)
    what = " of ".join(str(source.info[name]) for name in ("method", "arch") if source.info.get(name))
    at = f" at τ = {threshold:g}" if source.graded else ""
    draw_cases(chosen, out / "cases.png", f"boxes{at}: predicted red, true green")
    write_gallery(chosen, out / "gallery.html", f"Evaluation{what and ': '}{what}", figures.percent, drawn)


def write_segmentation(
    out: Path,
    source: SegmentMaps[Any],
    result: SegmentationResult,
    threshold: float | None,
    records: np.ndarray,
    cases: int,
) -> None:
    """Write pictures.parquet, miou.png and cases.png, at `threshold`; None is the best one."""
    threshold = result.best_threshold if threshold is None else threshold
    iou = write_pictures(out / "pictures.parquet", source.data.ids, records, result.thresholds, threshold, result.bad)
    if source.graded:
        plot_segmentation(result, out / "miou.png")
    if cases and len(records):
        chosen = choose_cases(iou, cases)
        draw_segments(source, threshold, records["place"], iou, chosen, out / "cases.png", source.graded)


def write_metrics(path: Path, metrics: Mapping[str, Any]) -> None:
    """Write metrics.json, an entry a line; last of all, since it says that the evaluation is done."""
    with replacing(path) as partial:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in metrics.items())
        partial.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def write_pictures(
    path: Path,
    ids: Sequence[str],
    records: np.ndarray,
    thresholds: np.ndarray,
    threshold: float,
    bad: Sequence[tuple[str, str]],
) -> np.ndarray:
    """Write what each picture's map reached, by `Progress.records`, then those left out; gives `iou`, float32 [n]."""
    iou = np.zeros(len(records), np.float32)
    order = np.argsort(records["place"], kind="stable")
    with replacing(path) as partial, pq.ParquetWriter(partial, PICTURES) as file:
        for begin in range(0, len(order), _CHUNK):
            chosen = order[begin : begin + _CHUNK]
            rows = records[chosen]
            curves = np.take_along_axis(rows["iou"], columns(thresholds, rows["reference"]), 1)
            best = curves.argmax(1)
            iou[chosen] = np.take_along_axis(rows["iou"], columns(np.array([threshold]), rows["reference"]), 1)[:, 0]
            values = {
                "image_id": [ids[place] for place in rows["place"].tolist()],
                "label": pa.array(rows["label"], mask=rows["label"] < 0),
                "rank": pa.array(rows["rank"], mask=rows["rank"] < 1),
                "iou": iou[chosen],
                "best_iou": curves[np.arange(len(rows)), best],
                "best_threshold": thresholds[best],
                "status": ["ok"] * len(rows),
                "error": pa.nulls(len(rows), pa.string()),
            }
            file.write_table(pa.table(values, PICTURES))
        errors = [{"image_id": id, "status": "error", "error": reason} for id, reason in bad]
        file.write_table(pa.Table.from_pylist(errors, PICTURES))
    return iou


def _best_mean(records: np.ndarray, thresholds: np.ndarray) -> float:
    """The threshold of the highest mean IoU; the first where they tie."""
    total = np.zeros(len(thresholds))
    for begin in range(0, len(records), _CHUNK):
        rows = records[begin : begin + _CHUNK]
        total += np.take_along_axis(rows["iou"], columns(thresholds, rows["reference"]), 1).sum(0, dtype=np.float64)
    return float(thresholds[total.argmax()])


def plot_box_accuracy(result: Result, path: Path) -> Path:
    """Draw BoxAcc against the threshold, with its maxima: that of the largest contour and that of all contours.

    Beside the first, Top-1 Loc where there were classes. The path's suffix chooses the format.
    """
    shown = [suffix for suffix in _PANELS if f"BoxAcc 50{suffix}" in result.curves]
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


def plot_segmentation(result: SegmentationResult, path: Path) -> Path:
    """Draw mIoU, precision and recall against the level of the background. The path's suffix chooses the format."""
    figure = Figure(figsize=(5.8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, color in {"mIoU": "tab:blue", "precision": "tab:green", "recall": "tab:orange"}.items():
        label = name if name == "mIoU" else f"{name}, without background"
        axes.plot(result.thresholds, result.curves[name], color=color, label=label)
    best, height = result.best_threshold, result.figures["max mIoU"]
    axes.plot(best, height, "o", color="tab:blue", markersize=5, label=f"best: {height:.1f} at {best:.3f}")
    axes.axvline(result.threshold, color="0.5", linestyle=":", label=f"τ = {result.threshold:g}")
    axes.set_ylabel("%")
    _dress(axes, "level of the background τ", f"pseudo-labels of {result.pictures} pictures")
    return _save(figure, path)


def plot_precision_recall(result: Result, path: Path) -> Path:
    """Draw precision against recall of pixels, whose area is PxAP. The path's suffix chooses the format."""
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


def _save(figure: Figure, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png")
    return path
