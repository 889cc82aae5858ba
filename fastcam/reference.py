"""The plain PyTorch and OpenCV twin of every operator in :mod:`fastcam.ops`.

Same names, same arguments, written for reading instead of speed. This module is the definition that the kernels are
tested against, the baseline that benchmarks compare with, and what ``--backend reference`` runs. It checks nothing:
validation is the business of :mod:`fastcam.ops`.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def _accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def class_map(features: Tensor, weights: Tensor) -> Tensor:
    """Twin of :func:`fastcam.ops.class_map`: the channel-weighted sum of the features, [N, h, w] or [N, C, h, w]."""
    dtype = _accumulation_dtype(features, weights)
    equation = "nk,nkhw->nhw" if weights.dim() == 2 else "nck,nkhw->nchw"
    with torch.autocast(features.device.type, enabled=False):  # which would sum in half precision
        return torch.einsum(equation, weights.to(dtype), features.to(dtype))


def gradient_map(features: Tensor, gradients: Tensor, weighting: str = "gradcam", eps: float | None = None) -> Tensor:
    """Twin of :func:`fastcam.ops.gradient_map`: the gradient-weighted sum before ReLU, [N, h, w]."""
    dtype = _accumulation_dtype(features, gradients)
    a, g = features.to(dtype), gradients.to(dtype)
    if weighting == "hirescam":
        return (g * a).sum(1)
    if weighting == "layercam":
        return (g.relu() * a).sum(1)
    if weighting == "gradcam":
        weights = g.mean((2, 3))
    elif weighting == "xgradcam":
        weights = (g * a).sum((2, 3)) / ratio_base(a.sum((2, 3)), 1e-7 if eps is None else eps)
    elif weighting == "gradcam++":
        activation_sum = a.sum((2, 3), keepdim=True)
        alpha = g**2 / nonzero(2 * g**2 + activation_sum * g**3 + (1e-6 if eps is None else eps))
        weights = torch.where(g <= 0, 0, alpha * g).sum((2, 3))  # NaN stays
    else:
        raise ValueError(f"unknown weighting {weighting!r}")
    return (weights[:, :, None, None] * a).sum(1)


def nonzero(denominator: Tensor) -> Tensor:
    """The denominator of a quotient, with 1 where it is zero."""
    return torch.where(denominator == 0, 1, denominator)


def ratio_base(total: Tensor, eps: float) -> Tensor:
    """What XGrad-CAM divides by: the sum, eps away from zero on its own side, so that no sum cancels it."""
    return nonzero(torch.where(total < 0, total - eps, total + eps))


def heatmap(
    coarse: Tensor,
    size: int | Sequence[int],
    relu: bool = True,
    normalize: str | None = "after",
    mode: str = "bilinear",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Twin of :func:`fastcam.ops.heatmap`: ReLU, min-max normalisation and upsampling, [..., H, W]."""
    size = _size(size)
    maps = coarse.to(_accumulation_dtype(coarse)).flatten(0, -3)
    if maps.numel() == 0:
        return maps.new_zeros(*coarse.shape[:-2], *size, dtype=dtype or maps.dtype)
    if relu:
        maps = maps.relu()
    usable = _usable(maps)[:, None, None]
    if normalize in ("before", "both"):
        maps = torch.where(usable, min_max(maps), 0)
    maps = _resize(maps, size, mode)
    if normalize in ("after", "both"):
        maps = torch.where(usable, min_max(maps), 0)
        maps = maps.nan_to_num(0.0, 0.0, 0.0)
    if dtype == torch.uint8:
        maps = (255 * maps).clamp(0, 255).to(torch.uint8)
    return maps.reshape(*coarse.shape[:-2], *size)


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _resize(coarse: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """Upsamples [M, h, w] to [M, H, W]: bilinear as torch, bicubic in float64 as OpenCV (A = −0.75, clamped edges)."""
    if mode == "bilinear":
        return F.interpolate(coarse[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
    maps = [cv2.resize(m, size[::-1], interpolation=cv2.INTER_CUBIC) for m in coarse.double().cpu().numpy()]
    return torch.from_numpy(np.stack(maps)).to(coarse)


def min_max(maps: Tensor) -> Tensor:
    """Maps [M, H, W] scaled to [0, 1] by their minimum and maximum; NaN where they are constant."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def _usable(coarse: Tensor) -> Tensor:
    """True for the maps [M, h, w] that have finite values and are not constant; the others give zero maps."""
    flat = coarse.flatten(1)
    return flat.isfinite().all(1) & (flat.amin(1) < flat.amax(1))


def boxes(
    coarse: Tensor,
    size: int | Sequence[int],
    threshold: float | Sequence[float] | Tensor = 0.2,
    relu: bool = True,
    mode: str = "bilinear",
    connectivity: int = 8,
    largest: str = "pixels",
) -> Tensor:
    """Twin of :func:`fastcam.ops.boxes`: the largest component's box above each threshold, [..., 4] or [..., T, 4]."""
    size, lead = _size(size), coarse.shape[:-2]
    flat = coarse.float().flatten(0, -3)
    if isinstance(threshold, Tensor):  # absolute levels of the upsampled map
        values = heatmap(flat, size, relu, None, mode) if flat.numel() else flat.new_zeros(0, *size)
        values = torch.where(_usable(flat.relu() if relu else flat)[:, None, None], values, torch.nan)
        levels = threshold.float().reshape(len(flat), threshold.shape[-1] if threshold.dim() > len(lead) else 1)
        shape = (*threshold.shape, 4)
    else:
        values = heatmap(flat, size, relu, "after", mode)
        levels = torch.as_tensor(threshold, dtype=torch.float32).reshape(1, -1).expand(len(flat), -1)
        shape = (*lead, 4) if isinstance(threshold, int | float) else (*lead, len(threshold), 4)
    largest_box: Callable = (
        _largest_by_contour if largest == "contour" else lambda m: _largest_by_pixels(m, connectivity)
    )
    result = [
        largest_box(m) for v, t in zip(values.cpu(), levels.cpu(), strict=True) for m in (v > t[:, None, None]).numpy()
    ]
    return torch.tensor(result, dtype=torch.int32, device=coarse.device).reshape(shape)


def _largest_by_pixels(mask: np.ndarray, connectivity: int) -> tuple[int, int, int, int]:
    components = _component_stats(mask, connectivity)
    return max(components, key=lambda c: (c[2], -c[0]))[1] if components else (0, 0, 0, 0)


def _largest_by_contour(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Bounding box of the contour with the largest cv2.contourArea; the first in OpenCV's list where areas tie."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return (0, 0, 0, 0)
    x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return (x, y, x + w, y + h)


def class_boxes(
    features: Tensor,
    weights: Tensor,
    size: int | Sequence[int],
    threshold: float | Sequence[float] | Tensor = 0.2,
    relu: bool = True,
    mode: str = "bilinear",
    connectivity: int = 8,
    largest: str = "pixels",
    return_map: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Twin of :func:`fastcam.ops.class_boxes`: :func:`class_map`, then :func:`boxes`, and :func:`heatmap` if wanted."""
    coarse = class_map(features, weights)
    found = boxes(coarse, size, threshold, relu, mode, connectivity, largest)
    if return_map is None:
        return found
    return found, heatmap(coarse.float(), size, relu, "after", mode, torch.uint8 if return_map == "uint8" else None)


def box_curves(maps: Tensor) -> Tensor:
    """Twin of :func:`fastcam.ops.box_curves`: the standard evaluator's box at every 8-bit level, [N, 256, 4]."""
    limit = np.array([maps.shape[2] - 1, maps.shape[1] - 1])
    result = np.zeros((len(maps), 256, 4), np.int32)
    for index, values in enumerate(maps.cpu().numpy()):
        quantised = (255 * values).astype(np.uint8)
        for level in range(int(quantised.max())):
            box = np.array(_largest_by_contour(quantised > level))
            result[index, level] = [*box[:2], *np.minimum(box[2:], limit)]
    return torch.from_numpy(result).to(maps.device)


def iou_curves(maps: Tensor, boxes: Tensor, box_image: Tensor, contours: str = "largest") -> Tensor:
    """Twin of :func:`fastcam.ops.iou_curves`: the best IoU with a true box at every 8-bit level, [N, 256]."""
    result = np.zeros((len(maps), 256))
    truths, owner = boxes.cpu().numpy(), box_image.cpu().numpy()
    for index, values in enumerate(maps.cpu().numpy()):
        quantised, truth = (255 * values).astype(np.uint8), truths[owner == index]
        for level in range(256 if len(truth) else 0):
            result[index, level] = _inclusive_iou(_contour_boxes(quantised > level, contours), truth).max()
    return torch.from_numpy(result).to(maps.device)


def _contour_boxes(mask: np.ndarray, contours: str) -> np.ndarray:
    """The standard evaluator's boxes of a mask [H, W], int64 [B, 4]; one box of zeros without a contour."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return np.zeros((1, 4), np.int64)
    if contours == "largest":
        found = [max(found, key=cv2.contourArea)]
    boxes = np.array([cv2.boundingRect(c) for c in found], np.int64)
    boxes[:, 2:] += boxes[:, :2]
    boxes[:, 2:] = np.minimum(boxes[:, 2:], [mask.shape[1] - 1, mask.shape[0] - 1])
    return boxes


def _inclusive_iou(boxes: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """IoU [B, M] of all pairs, right and bottom edges inside."""
    a, b = boxes[:, None].astype(np.float64), truth[None].astype(np.float64)
    overlap = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1, 0, None).prod(-1)
    areas = [(box[..., 2:] - box[..., :2] + 1).prod(-1) for box in (a, b)]
    return overlap / (areas[0] + areas[1] - overlap)


def score_histograms(maps: Tensor, masks: Tensor, bins: int = 1000) -> Tensor:
    """Twin of :func:`fastcam.ops.score_histograms`: numpy.histogram of each image's background and object scores."""
    edges = np.append(np.arange(bins) * (1 / bins), [1.0, 2.0, 3.0])
    scores, kinds = maps.to(_accumulation_dtype(maps)).cpu().numpy(), masks.cpu().numpy()
    counts = [np.histogram(s[k == kind], edges)[0] for s, k in zip(scores, kinds, strict=True) for kind in (0, 1)]
    return torch.from_numpy(np.array(counts, np.int64).reshape(len(maps), 2, bins + 2)).to(maps.device)


def refine(
    maps: Tensor, images: Tensor, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24), iterations: int = 10
) -> Tensor:
    """Twin of :func:`fastcam.ops.refine`: all neighbours of all pixels side by side, [N, C, P, H, W]."""

    def neighbours(x: Tensor, itself: bool = False) -> Tensor:
        h, w = x.shape[-2:]
        found = []
        for d in dilations:
            padded = F.pad(x, [d] * 4, mode="replicate")
            places = [(i, j) for i in (0, d, 2 * d) for j in (0, d, 2 * d) if itself or (i, j) != (d, d)]
            found += [padded[..., i : i + h, j : j + w] for i, j in places]
        return torch.stack(found, 2)

    images = images.float()
    deviation = neighbours(images, itself=True).std(2, keepdim=True)
    unlike = (neighbours(images) - images[:, :, None]).abs() / (1e-8 + 0.1 * deviation)
    affinity = (-unlike.mean(1, keepdim=True)).softmax(2)
    affinity = affinity.nan_to_num(1 / affinity.shape[2])  # beside pixels of the image that are not finite
    refined = maps.float()
    for _ in range(iterations):
        refined = (neighbours(refined) * affinity).sum(2)
    return refined


def resize(
    picture: Tensor, size: int | Sequence[int], crop: Sequence[int] | None = None, first: str = "rows"
) -> Tensor:
    """Twin of :func:`fastcam.ops.resize`: Pillow, one axis at a time."""
    height, width = (size, size) if isinstance(size, int) else size
    image = Image.fromarray(picture.numpy())
    between = (width, image.height) if first == "rows" else (image.width, height)
    image = image.resize(between, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BILINEAR)
    top, left, rows, columns = (0, 0, height, width) if crop is None else crop
    return torch.from_numpy(np.array(image.crop((left, top, left + columns, top + rows))))


def components(
    masks: Tensor,
    connectivity: int = 8,
    max_components: int | None = None,
    min_area: int = 1,
    fill_holes: bool = False,
    labels: bool = False,
) -> tuple[Tensor, ...]:
    """Twin of :func:`fastcam.ops.components`: boxes [M, 4], areas [M], image index [M], and labels [N, H, W]."""
    found, painted = [], torch.zeros(masks.shape if labels else (0, *masks.shape[1:]), dtype=torch.int32)
    for index, mask in enumerate(masks.cpu().numpy() != 0):
        if fill_holes:
            outside = np.pad(~mask, 1, constant_values=True).astype(np.uint8)
            _, regions = cv2.connectedComponents(outside, connectivity=12 - connectivity)
            mask = regions[1:-1, 1:-1] != regions[0, 0]
        stats = [each for each in _component_stats(mask, connectivity) if each[2] >= min_area]
        if max_components is not None:
            stats = sorted(sorted(stats, key=lambda c: (-c[2], c[0]))[:max_components])
        found += [(*box, area, index) for _, box, area in stats]
        if labels:
            _, every = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)
            for number, (first, _, _) in enumerate(stats, 1):
                painted[index][torch.from_numpy(every == every.flat[first])] = number
    table = torch.tensor(found, dtype=torch.int64, device=masks.device).reshape(-1, 6)
    result = table[:, :4].int(), table[:, 4].int(), table[:, 5]
    return (*result, painted.to(masks.device)) if labels else result


def _component_stats(mask: np.ndarray, connectivity: int) -> list[tuple[int, tuple[int, int, int, int], int]]:
    """(first pixel in raster order, xyxy box, area) of each component of a mask [H, W], in raster order."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=connectivity)
    _, first = np.unique(labels, return_index=True)
    if count > len(first):  # no background pixel: label 0 is absent
        first = np.concatenate([[0], first])
    found = []
    for label in range(1, count):
        x, y, w, h, area = (int(v) for v in stats[label])
        found.append((int(first[label]), (x, y, x + w, y + h), area))
    return sorted(found)
