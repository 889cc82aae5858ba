"""The best, median and worst pictures of an evaluation: which they are, and how they look."""

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastcam import drawing, ops, report
from fastcam.data import Sample
from fastcam.data.segments import IGNORED
from fastcam.drawing import Cell
from fastcam.evaluation.protocols import Protocol, columns
from fastcam.evaluation.sources import Loaded, SegmentMaps, Source
from fastcam.export.labels import labels_at
from fastcam.pictures import DecodeError, as_rgb
from fastcam.pictures.frame import resized
from fastcam.pictures.stream import batched

_LETTERS = 20  # of a picture's name in the figure


class Case(NamedTuple):
    """One picture to be shown.

    Attributes:
        kind: "best", "median" or "worst".
        id: the picture's.
        text: what is to be read beside it.
        hit: whether its box counts as right.
        picture: uint8 [H, W, 3], in the frame of the maps.
        map: [H, W] in [0, 1]; None where only boxes are known.
        boxes: [B, 4], predicted, xyxy in pixels of the frame, half-open.
        truth: [B, 4], as boxes.
    """

    kind: str
    id: str
    text: str
    hit: bool
    picture: np.ndarray
    map: np.ndarray | None
    boxes: np.ndarray
    truth: np.ndarray


def choose_cases(iou: np.ndarray, count: int) -> dict[str, list[int]]:
    """Places in `iou` [n] of the "best", those around the "median", and the "worst"; best and worst ones first.

    There are at most `count` of each kind, and no picture is of two.
    """
    order = np.argsort(-np.asarray(iou, np.float64), kind="stable")
    count = min(count, -(-len(order) // 3))
    best, rest = order[:count], order[count:]
    worst = rest[len(rest) - min(count, len(rest)) :][::-1]
    rest = rest[: len(rest) - len(worst)]
    begin = max(0, (len(rest) - count) // 2)  # as many were taken above as below
    return {"best": best.tolist(), "median": rest[begin : begin + count].tolist(), "worst": worst.tolist()}


def boxes_at(protocol: Protocol, map: Tensor, threshold: float) -> np.ndarray:
    """What a protocol predicts in a map [H, W], for drawing: float64 [B, 4], xyxy in its pixels.

    Boxes are half-open but for edges that the protocol clamps to the last pixel.
    """
    maps = map[None]
    if protocol.boxes == "every":
        return ops.components(maps > threshold * maps.amax(), connectivity=4)[0].double().numpy()
    level = columns(np.array([threshold]), protocol.reference(maps, maps.amax((1, 2)).numpy())).item()
    if protocol.boxes == "pixels":
        levels = torch.tensor([[float(level)]])
        quantised = (255 * maps).to(torch.uint8).float()
        return ops.boxes(quantised, (map.shape[0], map.shape[1]), levels, relu=False)[0].double().numpy()
    return ops.box_curves(maps)[0, level, None].double().numpy()


def find_cases(
    source: Source[Any, Any],
    protocol: Protocol,
    threshold: float,
    records: np.ndarray,
    iou: np.ndarray,
    count: int,
    batch_size: int,
) -> list[Case]:
    """Choose `count` pictures of each kind by their IoU [n], and make their maps once more."""
    kinds = choose_cases(iou, count)
    places = {int(records["place"][row]) for chosen in kinds.values() for row in chosen}
    positions = [position for position, place in enumerate(source.order) if place in places]
    found: dict[int, tuple[Sample, Tensor]] = {}
    for jobs in batched(source.jobs(positions), batch_size):
        loaded = [one for one in map(source.load, jobs) if isinstance(one, Loaded)]
        maps = source.finish(loaded)
        for one, values in zip(loaded, maps.finished(protocol), strict=True):
            found[one.place] = one.truth, torch.as_tensor(values)
    return [
        _case(kind, source, protocol, threshold, *found[int(records["place"][row])], records[row], float(iou[row]))
        for kind, chosen in kinds.items()
        for row in chosen
    ]


def _case(
    kind: str,
    source: Source[Any, Any],
    protocol: Protocol,
    threshold: float,
    truth: Sample,
    map: Tensor,
    record: np.void,
    iou: float,
) -> Case:
    data, place, label, rank = source.data, int(record["place"]), int(record["label"]), int(record["rank"])
    words = [f"IoU {iou:.2f}" + (f", rank {rank}" if rank else "")]
    if label >= 0:
        words.append(data.class_names[label].split(",")[0] if label < len(data.class_names) else f"class {label}")
    height, width = protocol.size
    try:
        picture = protocol.frame(as_rgb(data[place].image))
    except (DecodeError, OSError):  # maps can be measured where the pictures themselves are not
        picture = np.full((height, width, 3), 128, np.uint8)
    shown, boxes = map.float().numpy() if source.graded else None, boxes_at(protocol, map, threshold)
    return Case(kind, data.ids[place], "\n".join(words), iou >= 0.5, picture, shown, boxes, _truth(protocol, truth))


def _truth(protocol: Protocol, truth: Sample) -> np.ndarray:
    """True boxes in pixels of the maps, [B, 4]; with a mask only, the box around it."""
    if truth.boxes is not None and truth.size is not None:
        return protocol.frame_boxes(truth.boxes, truth.size)
    if truth.mask is None:
        return np.zeros((0, 4))
    y, x = np.nonzero(protocol.frame_mask(truth.mask) == 1)
    return np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]] if len(x) else np.zeros((0, 4)))


def draw_cases(cases: Sequence[Case], path: Path, title: str) -> None:
    """Draw best, median and worst pictures in rows, maps over pictures with boxes: predicted red, true green."""
    rows: dict[str, list[Cell]] = {}
    for case in cases:
        picture = case.picture if case.map is None else drawing.overlay(case.picture, case.map)
        picture = drawing.draw_boxes(picture, case.truth, drawing.TRUTH)
        picture = drawing.draw_boxes(picture, case.boxes, drawing.PREDICTED)
        rows.setdefault(case.kind, []).append(Cell(picture, f"{_short(case.id)}\n{case.text}"))
    drawing.save(drawing.grid(list(rows.values()), list(rows), title, side=1.8), path)


def draw_segments(
    source: SegmentMaps[Any],
    threshold: float,
    places: np.ndarray,
    iou: np.ndarray,
    chosen: Mapping[str, Sequence[int]],
    path: Path,
    graded: bool,
) -> None:
    """Draw best, median and worst pictures beside each other, each with its pseudo-label and the true one.

    Args:
        source: of the maps.
        threshold: of the pseudo-labels.
        places: int64 [n], of the pictures in the data set.
        iou: [n], mean IoU of each at the threshold, in percent.
        chosen: kind → rows of both.
        path: the figure.
        graded: whether thresholds mean something.
    """
    wanted = {int(places[row]) for rows in chosen.values() for row in rows}
    positions = [position for position, place in enumerate(source.order) if place in wanted]
    looked = {place: source.look(place, what) for place, what in source.jobs(positions)}
    count = max(map(len, chosen.values()))
    rows: list[list[Cell | None]] = [[] for _ in range(count)]
    for kind, members in chosen.items():
        for row, member in zip(rows, [*members, *[None] * (count - len(members))], strict=True):
            if member is None:
                row += [None] * 3
                continue
            place = int(places[member])
            found, id = looked[place], source.data.ids[place]
            picture = _picture_of(source, place, found.truth.shape)
            predicted = labels_at(found.maps, found.values, threshold)
            row.append(Cell(picture, f"{kind}: {_short(id)}\nmIoU {iou[member]:.1f}"))
            row += [
                Cell(drawing.overlay_labels(picture, labels), f"{what}: {_called(source, labels)}")
                for what, labels in (("pseudo-label", predicted), ("truth", found.truth))
            ]
    at = f" at τ = {threshold:g}" if graded else ""
    drawing.save(drawing.grid(rows, title=f"pseudo-labels{at} and class PNGs", side=1.7), path)


def _picture_of(source: Source[Any, Any], place: int, shape: tuple[int, ...]) -> np.ndarray:
    """The picture in its frame, uint8 [H, W, 3], grey if it cannot be read."""
    height, width = shape
    try:
        return resized(as_rgb(source.data[place].image), (width, height))
    except (DecodeError, OSError, ValueError, TypeError):  # maps can be measured where the pictures are not
        return np.full((height, width, 3), 128, np.uint8)


def _called(source: SegmentMaps[Any], labels: np.ndarray) -> str:
    """Names of the classes in labels."""
    names = source.segments.names
    there = [value for value in np.unique(labels).tolist() if value not in (0, IGNORED)]
    return ", ".join(names[value - 1] if value <= len(names) else str(value) for value in there) or "background"


def _short(id: str) -> str:
    """The end of a picture's name, as much of it as a figure holds."""
    name = PurePosixPath(id).stem
    return name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"


def write_gallery(
    cases: Sequence[Case], path: Path, title: str, percent: Mapping[str, float], drawn: dict[str, Path]
) -> None:
    """Write the page of the cases, with figures and the files of plots by caption; see `fastcam.report.gallery`."""
    items = (
        report.GalleryItem(
            case.picture, case.map, case.boxes, case.truth, f"{case.kind}: {case.id}\n{case.text}", case.hit
        )
        for case in cases
    )
    report.gallery(path, items, title, {name: f"{value:.2f}" for name, value in percent.items()}, drawn)
