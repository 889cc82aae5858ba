"""A batch on its way into the tally: checked picture by picture, packed, and brought to the frame of the maps."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastcam.data import Sample
from fastcam.evaluation.protocols import Protocol
from fastcam.models import ranking

_SLACK = 1.0  # pixels by which a true box may stick out: some data sets round, some count from 1


class PackedBatch(NamedTuple):
    """The good pictures of a batch, n of them.

    Attributes:
        rows: int64 [n], their places in what was given.
        ids: their names.
        maps: [n, H, W], float32 or float64 in [0, 1].
        high: [n], the maxima of the maps.
        flat: bool [n], whether the map is constant.
        counts: int64 [n], how many true boxes each has.
        boxes: float64 [M, 4], the true boxes, picture by picture, in pixels of the maps.
        masks: for each the true mask in pixels of the maps, uint8 [H, W], or None.
        label: int64 [n], true classes, -1 where there is none.
        rank: int64 [n], place of the true class among the scores, 1 the highest; None without.
    """

    rows: np.ndarray
    ids: list[str]
    maps: Tensor
    high: np.ndarray
    flat: np.ndarray
    counts: np.ndarray
    boxes: np.ndarray
    masks: list[np.ndarray | None]
    label: np.ndarray
    rank: np.ndarray | None

    def parts(self, most: int) -> Iterator["PackedBatch"]:
        """Divide it into parts of at most `most` pictures, in order; one, if there are no pictures."""
        if len(self.rows) <= most:
            yield self
            return
        ends = np.append(0, self.counts.cumsum())
        for start in range(0, len(self.rows), most):
            part = slice(start, min(start + most, len(self.rows)))
            yield PackedBatch(
                self.rows[part],
                self.ids[part],
                self.maps[part],
                self.high[part],
                self.flat[part],
                self.counts[part],
                self.boxes[ends[part.start] : ends[part.stop]],
                self.masks[part],
                self.label[part],
                None if self.rank is None else self.rank[part],
            )


def pack(
    protocol: Protocol,
    num_classes: int | None,
    ids: Sequence[str],
    maps: Tensor | Sequence[Any],
    truths: Sequence[Sample],
    logits: Any = None,
    labels: Any = None,
    ranks: Any = None,
) -> tuple[PackedBatch, list[tuple[str, str]]]:
    """Check what `Evaluator.add` is given, and pack the good pictures; gives also id and reason of each bad one.

    Raises:
        TypeError: maps, logits or ids of another kind.
        ValueError: lengths differ.
    """
    ids, truths = list(ids), list(truths)
    for name, values in (("maps", maps), ("truths", truths), ("logits", logits), ("labels", labels), ("ranks", ranks)):
        if values is not None and len(values) != len(ids):
            first = f" (the first is {ids[0]})" if ids else ""
            raise ValueError(f"`{name}` must have one entry for each of {len(ids)} ids{first}, got {len(values)}")
    if logits is not None and ranks is not None:
        raise ValueError("pass `logits` or `ranks`, not both")
    reasons: dict[int, str] = {}  # row → the first thing that is wrong with it
    _check_ids(ids, truths, reasons)
    stacked, low, high = _maps(protocol, maps, reasons)
    counts, boxes, sizes = _boxes(truths, reasons)
    for row, truth in enumerate(truths):
        _check_truth(row, truth, reasons)
    label = _labels(truths if labels is None else labels, reasons)
    wanted = num_classes is not None or logits is not None or ranks is not None
    rank = _ranks(logits, ranks, label, num_classes, wanted, reasons)

    rows = np.array([row for row in range(len(ids)) if row not in reasons], np.int64)
    if reasons:
        keep = np.repeat(np.isin(np.arange(len(ids)), rows), counts)
        stacked, low, high = stacked[torch.from_numpy(rows).to(stacked.device)], low[rows], high[rows]
        counts, boxes, sizes, label = counts[rows], boxes[keep], sizes[keep], label[rows]
        rank = None if rank is None else rank[rows]
    masks = [truths[row].mask for row in rows]
    packed = PackedBatch(
        rows,
        [ids[row] for row in rows],
        stacked,
        high,
        low == high,
        counts,
        protocol.frame_boxes(boxes, sizes),
        [None if mask is None else protocol.frame_mask(np.asarray(mask)) for mask in masks],
        label,
        rank,
    )
    return packed, [(ids[row], reasons[row]) for row in sorted(reasons)]


def _check_ids(ids: list[str], truths: list[Sample], reasons: dict[int, str]) -> None:
    seen: set[str] = set()
    for row, (id, truth) in enumerate(zip(ids, truths, strict=True)):
        if not isinstance(id, str):
            raise TypeError(f"`ids` must be strings, got {id!r}")
        if not id:
            reasons[row] = f"picture {row} of the batch has no id"
        elif id in seen:
            reasons[row] = "it comes twice in the batch"
        elif truth.id is not None and truth.id != id:
            reasons[row] = f"it is paired with the truth of {truth.id}"
        seen.add(id)


def _maps(
    protocol: Protocol, maps: Tensor | Sequence[Any], reasons: dict[int, str]
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """[N, H, W] of float32 or float64, and minima and maxima [N]; zeros stand for maps that cannot be stacked."""
    size = list(protocol.size)
    if isinstance(maps, Tensor | np.ndarray):
        stacked = _floats(maps)
        if not stacked.is_floating_point():
            raise TypeError(f"`maps` must be floating, in [0, 1], got {stacked.dtype}")
        shapes = [list(stacked.shape[1:])] * len(stacked)
        if shapes and shapes[0] != size:
            stacked = torch.zeros(len(stacked), *size)
    else:
        parts = [_floats(part) for part in maps]
        shapes = [list(part.shape) for part in parts]
        for row, part in enumerate(parts):
            if not part.is_floating_point():
                reasons.setdefault(row, f"its map must be floating, in [0, 1], got {part.dtype}")
        fit = {row: part for row, part in enumerate(parts) if part.is_floating_point() and shapes[row] == size}
        kinds = {part.dtype for part in fit.values()}
        if len(kinds) > 1:
            raise ValueError(f"`maps` must be of one dtype, got {' and '.join(sorted(map(str, kinds)))}")
        filler = torch.zeros(size, dtype=next(iter(kinds), torch.float32))
        stacked = torch.stack([fit.get(row, filler) for row in range(len(parts))]) if parts else filler[None][:0]
    for row, shape in enumerate(shapes):
        if shape != size:
            reasons.setdefault(row, f"its map must be {size} (height, width), got {shape}")
    flat = stacked.flatten(1)
    low, high = flat.amin(1).cpu().numpy(), flat.amax(1).cpu().numpy()
    for row in np.flatnonzero(~((low >= 0) & (high <= 1))).tolist():
        finite = np.isfinite(low[row]) and np.isfinite(high[row])
        reach = f"is outside [0, 1]: it reaches from {low[row]:g} to {high[row]:g}"
        reasons.setdefault(row, f"its map {reach if finite else 'has NaN or infinite values'}")
    return stacked, low, high


def _floats(values: Any) -> Tensor:
    """A tensor, floating ones as float32 or float64, which holds whatever float types a file may have."""
    if isinstance(values, np.ndarray) and np.issubdtype(values.dtype, np.floating):
        values = values.astype(
            np.float64 if values.dtype.itemsize >= 8 else np.float32, copy=not values.flags.writeable
        )
    values = torch.as_tensor(values).detach()
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _boxes(truths: list[Sample], reasons: dict[int, str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(number of boxes [N], boxes [M, 4], size of the picture of each [M, 2])."""
    counts = np.zeros(len(truths), np.int64)
    parts: list[np.ndarray] = [np.zeros((0, 4))]
    sizes: list[tuple[int, int]] = []
    for row, truth in enumerate(truths):
        if truth.boxes is None:
            continue
        shape, size = np.shape(truth.boxes), truth.size
        if len(shape) != 2 or shape[1] != 4:
            reasons.setdefault(row, f"its boxes must be [B, 4], xyxy, got {list(shape)}")
        elif size is None or min(size) < 1:
            reasons.setdefault(row, f"boxes need the (width, height) of the picture, got {size}")
        else:
            counts[row] = shape[0]
            parts.append(truth.boxes)
            sizes.append(size)
    boxes = np.concatenate(parts)  # float64, whatever the parts are
    width_height = np.repeat(np.array(sizes).reshape(-1, 2), [len(part) for part in parts[1:]], 0)
    owner = np.repeat(np.arange(len(truths)), counts)
    ordered = np.all(boxes[:, 2:] >= boxes[:, :2], axis=1)  # not so with NaN, either
    inside = np.all(boxes[:, :2] >= -_SLACK, axis=1) & np.all(boxes[:, 2:] <= width_height + _SLACK, axis=1)
    for index in np.flatnonzero(~(ordered & inside)).tolist():
        box, (width, height) = ", ".join(f"{edge:g}" for edge in boxes[index]), width_height[index]
        if not np.isfinite(boxes[index]).all():
            reason = f"box {box} is not finite"
        elif not ordered[index]:
            reason = f"box {box} ends before it begins: expected x0 <= x1 and y0 <= y1"
        else:
            reason = f"box {box} lies outside the picture of {width}x{height}"
        reasons.setdefault(int(owner[index]), reason)
    return counts, boxes, width_height


def _check_truth(row: int, truth: Sample, reasons: dict[int, str]) -> None:
    if truth.mask is not None:
        mask = np.asarray(truth.mask)
        if mask.ndim != 2 or mask.dtype not in (bool, np.uint8) or not mask.size:
            reasons.setdefault(row, f"its mask must be [h, w], bool or uint8, got {mask.dtype} {list(mask.shape)}")
        elif b"\1" not in mask.tobytes():  # much faster than comparing
            reasons.setdefault(row, "empty ground truth: its mask has no pixel of the object")
    elif truth.boxes is None:
        reasons.setdefault(row, "no ground truth: expected boxes or a mask")
    elif not len(truth.boxes):
        reasons.setdefault(row, "empty ground truth: it has no boxes")


def _labels(given: Sequence[Any], reasons: dict[int, str]) -> np.ndarray:
    """int64 [N], -1 where there is none, of labels or samples."""
    label = np.full(len(given), -1, np.int64)
    for row, value in enumerate(given):
        value = value.label if isinstance(value, Sample) else value
        if value is not None:
            label[row] = int(value)
            if label[row] != value or value < 0:
                reasons.setdefault(row, f"its label must be a class index, got {value}")
    return label


def _ranks(
    logits: Any, ranks: Any, label: np.ndarray, classes: int | None, wanted: bool, reasons: dict[int, str]
) -> np.ndarray | None:
    """int64 [N]: the rank of each label, given or by the logits."""
    if logits is not None:
        logits = torch.as_tensor(logits).detach()
        if logits.dim() != 2 or not logits.is_floating_point():
            raise ValueError(f"`logits` must be floating [N, C], got {logits.dtype} {list(logits.shape)}")
        if classes is not None and logits.shape[1] != classes:
            raise ValueError(f"`logits` must be [N, {classes}] for {classes} classes, got {list(logits.shape)}")
        classes = logits.shape[1]
        for row in (~logits.isfinite().all(1)).nonzero()[:, 0].tolist():
            reasons.setdefault(row, "its logits have NaN or infinite values")
    if wanted:
        for row in np.flatnonzero((label < 0) | (label >= (classes or np.inf))).tolist():
            known = f"one of {classes} classes" if classes else "a class index"
            reasons.setdefault(row, f"its label must be {known}, got {label[row] if label[row] >= 0 else 'none'}")
    if ranks is not None:
        ranks = np.array([0 if rank is None else rank for rank in ranks], np.int64)
        for row in np.flatnonzero(ranks < 1).tolist():
            reasons.setdefault(row, "its class has no rank, 1 or more, as others have")
        return ranks
    if logits is None:
        return None
    index = torch.from_numpy(label.clip(0, logits.shape[1] - 1)).to(logits.device)[:, None]
    return ranking.ranks_of(logits, index)[:, 0].cpu().numpy()
