"""The best, median and worst pictures of an evaluation: which they are, and how they look."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastcam import drawing, ops, panels, report
from fastcam.evaluation.protocols import Protocol, columns
from fastcam.panels import Cell

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
        truth: [B, 4], likewise.
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
    """Choose pictures by their IoU.

    Args:
        iou: [n].
        count: how many of each kind, at most; no picture is of two kinds.

    Returns:
        Places in `iou` of the "best", those around the "median", and the "worst"; the best and the worst ones first.
    """
    order = np.argsort(-np.asarray(iou, np.float64), kind="stable")
    count = min(count, -(-len(order) // 3))
    best, rest = order[:count], order[count:]
    worst = rest[len(rest) - min(count, len(rest)) :][::-1]
    rest = rest[: len(rest) - len(worst)]
    begin = max(0, (len(rest) - count) // 2)  # as many were taken above as below
    return {"best": best.tolist(), "median": rest[begin : begin + count].tolist(), "worst": worst.tolist()}


def boxes_at(protocol: Protocol, map: Tensor, threshold: float) -> np.ndarray:
    """Find what a protocol predicts, for drawing.

    Args:
        protocol: it.
        map: [H, W] in [0, 1], float32 or float64, on the CPU.
        threshold: τ.

    Returns:
        float64 [B, 4], xyxy in pixels of the map, half-open but for edges that the protocol clamps to the last pixel.
    """
    maps = map[None]
    if protocol.boxes == "every":
        return ops.components(maps > threshold * maps.amax(), connectivity=4)[0].double().numpy()
    level = columns(np.array([threshold]), protocol.reference(maps, maps.amax((1, 2)).numpy())).item()
    if protocol.boxes == "pixels":
        levels = torch.tensor([[float(level)]])
        return ops.boxes((255 * maps).to(torch.uint8).float(), map.shape, levels, relu=False)[0].double().numpy()
    return ops.box_curves(maps)[0, level, None].double().numpy()


def cases_figure(cases: Sequence[Case], path: str | os.PathLike[str], title: str = "") -> Path:
    """Draw best, median and worst pictures in rows, maps over pictures with boxes: predicted red, true green.

    Args:
        cases: at least one.
        path: file to write; its suffix chooses the format (.png, .svg, .pdf).
        title: text above.

    Returns:
        The path written.

    Raises:
        ValueError: there are no cases, or the suffix is of no known format.
        OSError: the file cannot be written.
    """
    rows: dict[str, list[Cell]] = {}
    for case in cases:
        picture = case.picture if case.map is None else drawing.overlay(case.picture, case.map)
        picture = drawing.draw_boxes(picture, case.truth, drawing.TRUTH)
        picture = drawing.draw_boxes(picture, case.boxes, drawing.PREDICTED)
        name = PurePosixPath(case.id).stem
        name = name if len(name) <= _LETTERS else f"…{name[1 - _LETTERS :]}"
        rows.setdefault(case.kind, []).append(Cell(picture, f"{name}\n{case.text}"))
    return panels.save(panels.grid(list(rows.values()), list(rows), title, side=1.8), path)


def cases_gallery(
    cases: Iterable[Case],
    path: str | os.PathLike[str],
    title: str,
    summary: dict[str, object],
    figures: dict[str, Path],
) -> Path:
    """Write the gallery; see `fastcam.report.gallery`.

    Args:
        cases: in order.
        path: HTML file to write.
        title: headline.
        summary: label → value.
        figures: caption → picture file.

    Returns:
        The path written.

    Raises:
        OSError: a figure cannot be read, or the file not be written.
    """
    items = (
        report.GalleryItem(
            case.picture, case.map, case.boxes, case.truth, f"{case.kind}: {case.id}\n{case.text}", case.hit
        )
        for case in cases
    )
    return report.gallery(path, items, title, summary, figures)
