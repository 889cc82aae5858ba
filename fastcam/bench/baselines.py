"""What one would write without fastcam: the contestants of the benchmarks, in PyTorch, OpenCV, scikit-image and Pillow.

Each is the usual pipeline, written with care (batched where the library allows it, in place, no copy that is not
needed) and giving the result of the operator of the same name. OpenCV and scikit-image work on one mask at a time, on
the CPU: masks of a GPU are copied to it, as that pipeline has to.
"""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

try:
    import cv2
except ImportError:  # a bare machine: rows that need OpenCV are left out, and say so
    cv2 = None

EVALUATOR_THRESHOLDS = np.arange(0, 1, 0.001)
_EVALUATOR_EDGES = np.append(EVALUATOR_THRESHOLDS, [1.0, 2.0, 3.0])


def class_map(features: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the channels, in float32: [N, K, h, w] and [N, K] → [N, h, w]."""
    return torch.einsum("nk,nkhw->nhw", weights.float(), features.float())


def heatmap(coarse: Tensor, size: int, mode: str = "bilinear") -> Tensor:
    """ReLU, upsampling and min-max normalisation: [N, h, w] → [N, H, W]."""
    maps = F.interpolate(coarse.relu()[:, None], size=(size, size), mode=mode, align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return maps.sub_(low).div_(high - low)


def byte_heatmap(coarse: Tensor, size: int) -> Tensor:
    """The same, as bytes."""
    return heatmap(coarse, size).mul_(255).to(torch.uint8)


def boxes(coarse: Tensor, size: int, threshold: float = 0.2) -> list[tuple[int, ...]]:
    """A map and its largest component's box, by OpenCV, for each image."""
    masks = (heatmap(coarse, size) > threshold).view(torch.uint8).cpu()
    found = []
    for mask in masks.numpy():
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        if count > 1:
            x, y, w, h, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
            found.append((x, y, x + w, y + h))
        else:
            found.append((0, 0, 0, 0))
    return found


def boxes_skimage(coarse: Tensor, size: int, threshold: float = 0.2) -> list[tuple[int, ...]]:
    """The same by scikit-image."""
    found = []
    for regions in components_skimage(heatmap(coarse, size) > threshold):
        y0, x0, y1, x1 = max(regions, key=lambda region: region.area).bbox if regions else (0, 0, 0, 0)
        found.append((x0, y0, x1, y1))
    return found


def class_boxes(features: Tensor, weights: Tensor, size: int) -> list[tuple[int, ...]]:
    """Activations to boxes: :func:`class_map`, then :func:`boxes`."""
    return boxes(class_map(features, weights), size)


def components(masks: Tensor) -> list[tuple]:
    """All components of each mask, by OpenCV with its default 32-bit labels."""
    return [cv2.connectedComponentsWithStats(mask) for mask in masks.view(torch.uint8).cpu().numpy()]


def components_16_bit(masks: Tensor) -> list[tuple]:
    """The same with 16-bit labels, which is faster and fails beyond 65,535 components."""
    masks = masks.view(torch.uint8).cpu().numpy()
    return [cv2.connectedComponentsWithStats(mask, ltype=cv2.CV_16U) for mask in masks]


def components_skimage(masks: Tensor) -> list[list]:
    """All components of each mask, by scikit-image."""
    from skimage.measure import label, regionprops

    return [regionprops(label(mask, connectivity=2)) for mask in masks.cpu().numpy()]


def box_curves(maps: Tensor) -> np.ndarray:
    """The standard WSOL evaluator: the largest contour's box at each of 1000 thresholds, [N, 1000, 4]."""
    found = []
    for contours, right, bottom in _contours(maps):
        if contours:
            x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
            found.append((x, y, min(x + w, right), min(y + h, bottom)))
        else:
            found.append((0, 0, 0, 0))
    return np.array(found).reshape(len(maps), -1, 4)


def iou_curves(maps: Tensor, boxes: Tensor, box_image: Tensor, contours: str = "largest") -> np.ndarray:
    """The same and the best IoU with any truth box; "all" takes the boxes of all contours: [N, 1000]."""
    boxes, box_image = boxes.cpu().numpy(), box_image.cpu().numpy()
    found, firsts, curves = [], [], []
    for number, (borders, right, bottom) in enumerate(_contours(maps), start=1):
        if contours == "largest" and borders:
            borders = [max(borders, key=cv2.contourArea)]
        firsts.append(len(found))
        for border in borders:
            x, y, w, h = cv2.boundingRect(border)
            found.append((x, y, min(x + w, right), min(y + h, bottom)))
        if not borders:
            found.append((0, 0, 0, 0))
        if number % len(EVALUATOR_THRESHOLDS) == 0:  # one image's boxes at all thresholds, at once
            truths = boxes[box_image == len(curves)]
            curves.append(np.maximum.reduceat(_iou(np.array(found, np.float64), truths).max(1, initial=0), firsts))
            found, firsts = [], []
    return np.stack(curves)


def score_histograms(maps: Tensor, masks: Tensor) -> np.ndarray:
    """The standard WSOL evaluator: NumPy's histograms of background and object scores, [N, 2, 1002]."""
    found = []
    for scores, mask in zip(maps.cpu().numpy(), masks.cpu().numpy(), strict=True):
        found.append([np.histogram(scores[mask == kind], bins=_EVALUATOR_EDGES)[0] for kind in (0, 1)])
    return np.array(found)


def score_histograms_torch(maps: Tensor, masks: Tensor) -> Tensor:
    """The same by PyTorch, in one go."""
    edges = torch.from_numpy(_EVALUATOR_EDGES).to(maps.device)
    images, bins = len(maps), len(edges) - 1
    slot = torch.bucketize(maps.double(), edges, right=True).sub_(1).clamp_(max=bins - 1)
    slot += bins * (masks == 1) + 2 * bins * torch.arange(images, device=maps.device)[:, None, None]
    return torch.bincount(slot[masks < 2], minlength=images * 2 * bins).view(images, 2, bins)


def resize(picture: Tensor, size: int) -> Tensor:
    """Pillow's bilinear resizing, [H, W, 3] of bytes."""
    image = Image.fromarray(picture.numpy()).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


def resize_torch(picture: Tensor, size: int) -> Tensor:
    """The same by PyTorch, whose weights have fewer bits: some bytes are one apart."""
    image = F.interpolate(picture.permute(2, 0, 1)[None], size=(size, size), mode="bilinear", antialias=True)
    return image[0].permute(1, 2, 0)


def _contours(maps: Tensor) -> Iterator[tuple[list[np.ndarray], int, int]]:
    """Contours of each map at each threshold, with the last column and row, which boxes are clamped to."""
    for values in maps.cpu().numpy():
        quantised = (255 * values).astype(np.uint8)
        highest, (height, width) = quantised.max(), quantised.shape
        for threshold in EVALUATOR_THRESHOLDS:
            _, mask = cv2.threshold(quantised, int(threshold * highest), 255, cv2.THRESH_BINARY)
            contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            yield contours, width - 1, height - 1


def _iou(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """[M, 4] and [B, 4] → [M, B]; a pixel is added to every extent."""
    lower = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    upper = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    common = (upper - lower + 1).clip(min=0).prod(2)
    area, truth_area = ((b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, truths))
    return common / (area[:, None] + truth_area - common)
