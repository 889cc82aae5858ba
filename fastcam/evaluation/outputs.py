"""What an evaluation writes beside its figures: the table of pictures, plots, and a gallery."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fastcam._files import replacing
from fastcam.data import Sample
from fastcam.evaluation import plots
from fastcam.evaluation.boxes import BoxTable
from fastcam.evaluation.gallery import Case, boxes_at, cases_figure, cases_gallery, choose_cases
from fastcam.evaluation.network import frame
from fastcam.evaluation.protocols import Protocol, columns
from fastcam.evaluation.result import Result
from fastcam.evaluation.sources import Source
from fastcam.pictures import DecodeError
from fastcam.pictures.stream import batches

_CHUNK = 512  # records in memory at a time
PICTURES = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("label", pa.int32()),
        pa.field("rank", pa.int32()),
        pa.field("iou", pa.float32()),
        pa.field("best_iou", pa.float32()),
        pa.field("best_threshold", pa.float64()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
    ]
)


def write_pictures(
    path: Path,
    ids: Sequence[str],
    records: np.ndarray,
    thresholds: np.ndarray,
    threshold: float,
    bad: Sequence[tuple[str, str]],
) -> np.ndarray:
    """Write pictures.parquet: for each picture what its map reached, then those left out.

    Columns: image_id, label, rank (of the label among the scores, 1 the highest), iou (at `threshold`, of the box with
    the true box that it meets best; of the pixels, where there are masks instead of boxes), best_iou and best_threshold
    (the highest at any threshold, and the first such one), status ("ok" or "error"), error.

    Args:
        path: the file.
        ids: of the data set.
        records: of `State.records`.
        thresholds: float64 [T].
        threshold: one of them.
        bad: (id, reason) of pictures left out.

    Returns:
        float32 [n], `iou`, in the order of the records.

    Raises:
        OSError: the file cannot be written.
    """
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
        rows = [{"image_id": id, "status": "error", "error": reason} for id, reason in bad]
        file.write_table(pa.Table.from_pylist(rows, PICTURES))
    return iou


def write_outputs(
    out: Path,
    source: Source,
    data: Any,
    result: Result,
    figures: Mapping[str, float],
    threshold: float | None,
    records: np.ndarray,
    cases: int,
    batch_size: int,
) -> None:
    """Write pictures.parquet, the plots, cases.png and gallery.html.

    Args:
        out: their folder.
        source: of the maps.
        data: the data set.
        result: what came out.
        figures: name → percent, for the gallery.
        threshold: at which pictures are compared and boxes drawn; None for the best: that of MaxBoxAcc, or with masks
            that of the highest mean IoU.
        records: of `State.records`.
        cases: how many pictures of each kind there are in the gallery; 0 for none.
        batch_size: pictures at a time.

    Raises:
        OSError: a file cannot be written.
    """
    if threshold is None:
        threshold = result.best_thresholds.get("MaxBoxAcc", _best_mean(records, result.thresholds))
    iou = write_pictures(out / "pictures.parquet", data.ids, records, result.thresholds, threshold, result.bad)
    drawn: dict[str, Path] = {}
    if len(result.thresholds) > 1 and not isinstance(source, BoxTable) and result.curves.keys() & plots.BOX_CURVES:
        drawn["Share of pictures whose box meets a true box"] = plots.box_accuracy(result, out / "box_accuracy.png")
    if "precision" in result.curves:
        drawn["Precision and recall of pixels"] = plots.precision_recall(result, out / "precision_recall.png")
    if not cases or not len(records):
        return
    chosen = find_cases(source, data, result.protocol, threshold, records, iou, cases, batch_size)
    what, at = " of ".join(str(source.info[name]) for name in ("method", "arch") if source.info.get(name)), ""
    if isinstance(source, BoxTable):
        chosen = [case._replace(map=None) for case in chosen]  # only the box itself is known
    else:
        at = f" at τ = {threshold:g}"
    cases_figure(chosen, out / "cases.png", f"boxes{at}: predicted red, true green")
    tiles = {name: f"{value:.2f}" for name, value in figures.items()}
    cases_gallery(chosen, out / "gallery.html", f"Evaluation{what and ': '}{what}", tiles, drawn)


def _best_mean(records: np.ndarray, thresholds: np.ndarray) -> float:
    """The threshold of the highest mean IoU; the first where they tie."""
    total = np.zeros(len(thresholds))
    for begin in range(0, len(records), _CHUNK):
        rows = records[begin : begin + _CHUNK]
        total += np.take_along_axis(rows["iou"], columns(thresholds, rows["reference"]), 1).sum(0, dtype=np.float64)
    return float(thresholds[total.argmax()])


def find_cases(
    source: Source,
    data: Any,
    protocol: Protocol,
    threshold: float,
    records: np.ndarray,
    iou: np.ndarray,
    count: int,
    batch_size: int,
) -> list[Case]:
    """Choose the best, median and worst pictures, and make their maps once more.

    Args:
        source: of the maps.
        data: the data set.
        protocol: tells the frame.
        threshold: at which boxes are drawn.
        records: of `State.records`.
        iou: of each.
        count: how many of each kind.
        batch_size: pictures at a time.

    Returns:
        The cases, kind by kind.
    """
    kinds = choose_cases(iou, count)
    rows = {int(records["place"][row]): row for chosen in kinds.values() for row in chosen}
    positions = [position for position, place in enumerate(source.order) if place in rows]
    maps: dict[int, torch.Tensor] = {}
    truths = {}
    for jobs in batches(source.jobs(positions), batch_size):
        batch = source.finish([source.load(*job) for job in jobs])
        values = [torch.as_tensor(map) for map in batch.maps]
        if batch.coarse:
            stacked = torch.stack(values)
            values = protocol.upsample(stacked.relu() if batch.relu else stacked)
        for one, map in zip(batch.loaded, values, strict=True):
            maps[one.place], truths[one.place] = map, one.truth
    return [
        _case(kind, data, protocol, threshold, truths[place], maps[place], records[row], float(iou[row]))
        for kind, chosen in kinds.items()
        for row, place in ((row, int(records["place"][row])) for row in chosen)
    ]


def _case(
    kind: str,
    data: Any,
    protocol: Protocol,
    threshold: float,
    truth: Sample,
    map: torch.Tensor,
    record: np.void,
    iou: float,
) -> Case:
    place, label, rank = int(record["place"]), int(record["label"]), int(record["rank"])
    words = [f"IoU {iou:.2f}" + (f", rank {rank}" if rank else "")]
    if label >= 0:
        words.append(data.class_names[label].split(",")[0] if label < len(data.class_names) else f"class {label}")
    height, width = protocol.size
    try:
        picture = frame(protocol, data[place].image, protocol.size)
    except (DecodeError, OSError):  # maps can be measured where the pictures themselves are not
        picture = np.full((height, width, 3), 128, np.uint8)
    return Case(
        kind,
        data.ids[place],
        "\n".join(words),
        iou >= 0.5,
        picture,
        map.float().numpy(),
        boxes_at(protocol, map, threshold),
        _truth(protocol, truth),
    )


def _truth(protocol: Protocol, truth: Sample) -> np.ndarray:
    """True boxes in pixels of the maps, [B, 4]; with a mask only, the box around it."""
    if truth.boxes is not None:
        return protocol.frame_boxes(truth.boxes, truth.size)
    y, x = np.nonzero(protocol.frame_mask(truth.mask) == 1)
    return np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else np.zeros((0, 4)))
