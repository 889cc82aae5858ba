"""Localization metrics under the names and with the definitions of the field.

Accuracies are in percent. Boxes are xyxy in pixels. The field's standard evaluator (Choe et al., Evaluating Weakly
Supervised Object Localization Methods Right, CVPR 2020) counts right and bottom edges as part of the box:
`inclusive=True` does so too; half-open boxes are the default.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcam import ops


class BestBox(NamedTuple):
    """A fixed box, as a baseline.

    Attributes:
        width: share of the picture's width, in (0, 1].
        height: share of the picture's height.
        accuracy: BoxAcc in percent that it reaches.
    """

    width: float
    height: float
    accuracy: float


class BestThreshold(NamedTuple):
    """A threshold and what it reaches.

    Attributes:
        threshold: fraction of the map's range, in [0, 1).
        accuracy: BoxAcc in percent at that threshold.
    """

    threshold: float
    accuracy: float


def box_iou(boxes: Any, truth: Any, inclusive: bool = False) -> Tensor:
    """Intersection over union, box by box.

    Args:
        boxes: [..., 4], xyxy in pixels, half-open unless `inclusive`, any real dtype.
        truth: [..., 4], as `boxes`; the shapes broadcast, so that `box_iou(a[:, None], b)` compares all pairs.
        inclusive: right and bottom edges belong to the box: one pixel more on every extent.

    Returns:
        float64 [...] in [0, 1]; zero where both boxes are empty.

    Raises:
        ValueError: not [..., 4], a value that is not finite, or a box whose right or bottom edge lies before its left
            or top one.
    """
    a = _boxes("boxes", boxes)
    b = _boxes("truth", truth).to(a.device)
    extra = int(inclusive)
    overlap = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + extra).clamp(min=0)
    intersection = overlap.prod(-1)
    areas = [(box[..., 2:] - box[..., :2] + extra).prod(-1) for box in (a, b)]
    union = areas[0] + areas[1] - intersection
    return torch.where(union > 0, intersection / union, 0.0)


def box_accuracy(
    boxes: Any, truth: Any, truth_image: Any = None, *, iou: float = 0.5, inclusive: bool = False
) -> Tensor:
    """BoxAcc: the share of pictures whose box meets any of their true boxes, at a fixed threshold.

    With boxes of the true classes' maps this is GT-known Loc.

    Source: Choe et al., CVPR 2020 (see the module).

    Args:
        boxes: [N, 4], or [N, T, 4] for T thresholds; xyxy in pixels, half-open unless `inclusive`.
        truth: [M, 4], true boxes, as `boxes`.
        truth_image: integers [M], the picture of each, in [0, N); by default M = N, one for each picture in order.
        iou: how much a box must overlap to count, at least; in [0, 1].
        inclusive: see `box_iou`.

    Returns:
        float64 [] or [T], percent; NaN for no pictures.

    Raises:
        ValueError: wrong shapes, invalid boxes (see `box_iou`), a picture out of range or without a true box.
    """
    return 100 * (_best_iou(boxes, truth, truth_image, inclusive) >= iou).double().mean(0)


def best_center_box(truth: Any, sizes: Any, *, iou: float = 0.5, step: float = 0.05) -> BestBox:
    """Find the strongest box centred in the picture: what a localizer reaches that sees nothing.

    Args:
        truth: [N, 4], true boxes, xyxy in pixels, half-open, one for each picture.
        sizes: [N, 2] or [2], width and height of the pictures in pixels.
        iou: how much a box must overlap to count, at least.
        step: grid of widths and heights, as shares of the picture, in (0, 1].

    Returns:
        The best box of the grid, the smallest of those that tie, and its accuracy. It is chosen on the pictures that
        it is measured on, so it flatters the baseline.

    Raises:
        ValueError: see `box_iou`; no pictures; sizes of another shape or not positive; a step outside (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"`step` must be a share of the picture in (0, 1], got {step!r}")
    sides = torch.arange(1, round(1 / step) + 1, dtype=torch.float64) * step
    shares = torch.cartesian_prod(sides, sides)  # [G, 2]
    shares = shares[shares.prod(1).argsort(stable=True)]
    truth = _boxes("truth", truth).reshape(-1, 4)
    if not len(truth):
        raise ValueError("`truth` must have at least one box, got none")
    sizes = torch.as_tensor(sizes, dtype=torch.float64, device="cpu")
    if sizes.shape not in ((2,), (len(truth), 2)) or not (sizes > 0).all():
        raise ValueError(f"`sizes` must be positive, [2] or [{len(truth)}, 2] (width, height), got {list(sizes.shape)}")
    relative = truth.cpu() / sizes.tile(2)
    centred = torch.cat([0.5 - shares / 2, 0.5 + shares / 2], 1)
    accuracy = 100 * (box_iou(centred[:, None], relative) >= iou).double().mean(1)
    best = int(accuracy.argmax())
    width, height = shares[best].tolist()
    return BestBox(width, height, accuracy[best].item())


def choose_threshold(
    boxes: Any, thresholds: Sequence[float], truth: Any, truth_image: Any = None, *, iou: float = 0.5
) -> BestThreshold:
    """Choose the threshold with the highest BoxAcc, on validation data; where several tie, the middle one of them.

    Args:
        boxes: [N, T, 4], xyxy in pixels, half-open, as `cam.boxes(images, labels, threshold=thresholds)` gives them.
        thresholds: the T thresholds, fractions of the map's range.
        truth: as in `box_accuracy`.
        truth_image: as in `box_accuracy`.
        iou: how much a box must overlap to count, at least.

    Returns:
        The threshold and its accuracy.

    Raises:
        ValueError: as `box_accuracy`; no pictures; another number of thresholds than T.
    """
    boxes = _boxes("boxes", boxes)
    accuracy = box_accuracy(boxes, truth, truth_image, iou=iou)
    if accuracy.shape != (len(thresholds),) or not len(boxes):
        raise ValueError(
            f"`boxes` must be [N, T, 4] with T = {len(thresholds)} thresholds and N > 0, got {list(boxes.shape)}"
        )
    ties = (accuracy == accuracy.max()).nonzero()[:, 0]
    best = int(ties[len(ties) // 2])
    return BestThreshold(float(thresholds[best]), accuracy[best].item())


def max_box_acc(maps: Tensor, truth: Any, truth_image: Any = None, *, iou: float = 0.5) -> BestThreshold:
    """MaxBoxAcc: BoxAcc of the largest contour at the best threshold, to the standard evaluator's letter.

    The threshold runs over 0, 0.001, …, 0.999 of each map's maximum; maps are quantised to 8 bits, and edges count as
    inclusive. It is an oracle: the threshold is the best one for these very pictures.

    Source: Choe et al., CVPR 2020 (see the module).

    Args:
        maps: [N, H, W] in [0, 1], floating, finite; float64 quantises as the evaluator does.
        truth: [M, 4], true boxes, xyxy in pixels of the maps, right and bottom inclusive.
        truth_image: as in `box_accuracy`.
        iou: how much a box must overlap to count, at least.

    Returns:
        The best threshold, the first where they tie, and its accuracy.

    Raises:
        TypeError: maps are not floating.
        ValueError: maps of another shape, or with values outside [0, 1] (NaN included); no pictures; as `box_accuracy`.
    """
    curves = ops.box_curves(maps)
    if not len(maps) or not ((maps >= 0) & (maps <= 1)).all():
        raise ValueError("`maps` must be finite with values in [0, 1], at least one")
    hits = _best_iou(curves, truth, truth_image, True) >= iou  # [N, 256]
    thresholds = torch.arange(1000, dtype=torch.float64) * 0.001  # numpy.arange(0, 1, 0.001)
    quantised = (255 * (maps if maps.dtype == torch.float64 else maps.float())).to(torch.uint8)
    levels = (thresholds * quantised.amax((1, 2)).cpu()[:, None]).long()  # [N, 1000]
    accuracy = 100 * hits.gather(1, levels.to(hits.device)).double().sum(0) / len(maps)
    best = int(accuracy.argmax())
    return BestThreshold(thresholds[best].item(), accuracy[best].item())


def best_overlap(boxes: Tensor, truth: Tensor, truth_image: Tensor, inclusive: bool = True) -> Tensor:
    """The highest IoU of each box, [N, 4] or [N, T, 4], with a true box [M, 4] of its picture: float64 [N] or [N, T].

    `truth_image` is int64 [M], the picture of each true box; 0 where a picture has none. See `box_iou` for `inclusive`.
    """
    overlaps = box_iou(boxes[truth_image], truth if boxes.dim() == 2 else truth[:, None], inclusive)
    best = overlaps.new_zeros(boxes.shape[:-1])
    image = truth_image.reshape(-1, *[1] * (overlaps.dim() - 1)).expand_as(overlaps)
    return best.scatter_reduce_(0, image, overlaps, "amax")


def _best_iou(boxes: Any, truth: Any, truth_image: Any, inclusive: bool) -> Tensor:
    """The highest IoU of each box with a true box of its picture: float64 [N] or [N, T]."""
    boxes = _boxes("boxes", boxes)
    truth = _boxes("truth", truth).to(boxes.device)
    if boxes.dim() not in (2, 3) or truth.dim() != 2:
        raise ValueError(
            f"`boxes` must be [N, 4] or [N, T, 4] and `truth` [M, 4], got {list(boxes.shape)} and {list(truth.shape)}"
        )
    if truth_image is None:
        if len(truth) != len(boxes):
            raise ValueError(f"`truth` must have one box for each of {len(boxes)} pictures, got {len(truth)}")
        return box_iou(boxes, truth if boxes.dim() == 2 else truth[:, None], inclusive)
    image = torch.as_tensor(truth_image, dtype=torch.int64, device=boxes.device)
    if image.shape != truth.shape[:1]:
        raise ValueError(f"`truth_image` must be [{len(truth)}], one for each true box, got {list(image.shape)}")
    if not torch.equal(image.unique(), torch.arange(len(boxes), device=image.device)):
        raise ValueError(f"`truth_image` must name each picture, 0 to {len(boxes) - 1}, and no other")
    return best_overlap(boxes, truth, image, inclusive)


def _boxes(name: str, boxes: Any) -> Tensor:
    boxes = torch.as_tensor(boxes).double()
    if boxes.dim() == 0 or boxes.shape[-1] != 4:
        raise ValueError(f"`{name}` must be [..., 4], xyxy, got {list(boxes.shape)}")
    if not (boxes.isfinite().all() and (boxes[..., 2:] >= boxes[..., :2]).all()):
        raise ValueError(f"`{name}` must be finite with x0 <= x1 and y0 <= y1")
    return boxes
