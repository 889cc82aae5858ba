"""Precision, recall, Dice and mIoU by pixels: masks are the truth, and every score is a threshold.

The standard evaluator pools the pixels of all pictures, so that histograms of scores are all that it takes: they add
up in any order, over pictures, batches and processes.

Source: PxAP of Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastcam import ops

BINS = 1000  # of [0, 1), as many as the evaluator has thresholds; [1, 2) and [2, 3] follow
SHAPE = (2, BINS + 2)  # of histograms: background and object
_EDGES = np.append(np.arange(BINS) * (1 / BINS), [1.0, 2.0])  # where each begins


class PixelCurve(NamedTuple):
    """Pixels whose score is at least a threshold, from the highest threshold down.

    Attributes:
        thresholds: float64 [n], the lower edges of the bins; those that no pixel reaches are left out.
        precision: float64 [n] in [0, 1].
        recall: float64 [n] in [0, 1], not falling.
        dice: float64 [n], see `overlap`.
        mean_iou: float64 [n], see `overlap`.
        average_precision: PxAP, in percent.
    """

    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    dice: np.ndarray
    mean_iou: np.ndarray
    average_precision: float


def count(maps: Tensor, masks: Tensor | Sequence[np.ndarray]) -> np.ndarray:
    """Histograms of the scores of background and object: int64 [N, 2, 1002], see `fastcam.ops.score_histograms`.

    Maps are [N, H, W], floating, in [0, 1] and without NaN, which is not checked here; masks [N, H, W], a tensor or N
    arrays, bool or uint8: 1 object, 0 background, 255 ignored. Sums of them are what the functions below take.
    """
    if not isinstance(masks, Tensor):
        masks = torch.from_numpy(np.stack(masks)).to(maps.device)
    return ops.score_histograms(maps, masks, BINS).cpu().numpy()


def overlaps(maps: Tensor, masks: Sequence[np.ndarray], levels: np.ndarray) -> np.ndarray:
    """IoU of the pixels that reach a level with a true mask: float64 [N, K] for levels [K] in [0, 1]."""
    false, true = count(maps, masks)[..., ::-1].cumsum(-1)[..., ::-1].transpose(1, 0, 2)
    iou = true / (false + true[:, :1])
    return iou[:, np.ceil(levels * BINS).astype(int)]


def curve(histograms: np.ndarray) -> PixelCurve:
    """Precision and recall at each threshold, and PxAP, of [2, 1002]: sums of histograms of `count`.

    Raises ValueError for another shape, or if there is no pixel of an object.
    """
    histograms = np.asarray(histograms)
    if histograms.shape != (2, len(_EDGES)):
        raise ValueError(f"`histograms` must be [2, {len(_EDGES)}], got {list(histograms.shape)}")
    fp, tp = histograms[:, ::-1].cumsum(1, dtype=np.float64)
    if tp[-1] == 0:
        raise ValueError("precision and recall need true masks with at least one pixel of an object: there is none")
    some = tp + fp > 0
    precision, recall = tp[some] / (tp + fp)[some], tp[some] / tp[-1]
    # The standard sums from the second bin on, [1, 2): no score lies in the first.
    rise = np.diff(tp / tp[-1])[some[1:]]
    area = (precision[-len(rise) :] * rise).sum()
    dice, mean_iou = (share[::-1][some] for share in overlap(histograms))
    return PixelCurve(_EDGES[::-1][some], precision, recall, dice, mean_iou, float(100 * area))


def overlap(histograms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Dice and mIoU in [0, 1] of the pixels that reach each threshold, of [..., 2, 1002]: sums of histograms.

    Dice = 2 TP / (2 TP + FP + FN) of the object's pixels, mIoU the mean of IoU of object and background, all pixels
    pooled: float64 [..., 1002] each, at the lower edges of the bins, ascending; NaN where there is no pixel of an
    object. Raises ValueError for another shape.
    """
    histograms = np.asarray(histograms)
    if histograms.shape[-2:] != SHAPE:
        raise ValueError(f"`histograms` must be [..., 2, {len(_EDGES)}], got {list(histograms.shape)}")
    reached = histograms[..., ::-1].cumsum(-1, dtype=np.float64)[..., ::-1]
    fp, tp = reached[..., 0, :], reached[..., 1, :]
    background, object = fp[..., :1], tp[..., :1]
    with np.errstate(invalid="ignore"):
        dice = 2 * tp / (tp + fp + object)
        ious = np.stack([tp / (fp + object), (background - fp) / (background + object - tp)])
    ious[1] = np.where(background > 0, ious[1], ious[0])  # without a background the object's is all that there is
    none = object == 0
    return np.where(none, np.nan, dice), np.where(none, np.nan, ious.mean(0))


def average_precision(histograms: np.ndarray) -> np.ndarray:
    """PxAP in percent of many sums of histograms at once, [..., 2, 1002], of classes or of a bootstrap's replicates.

    float64 [...]; NaN where there is no pixel of an object. Raises ValueError for another shape.
    """
    histograms = np.asarray(histograms)
    if histograms.ndim < 2:
        raise ValueError(f"`histograms` must be [..., 2, {len(_EDGES)}], got {list(histograms.shape)}")
    rows = histograms.reshape(-1, *histograms.shape[-2:])
    found = [curve(row).average_precision if row[1].any() else np.nan for row in rows]
    return np.array(found, np.float64).reshape(histograms.shape[:-2])
