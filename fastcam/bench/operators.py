"""The one table of operators: what each is measured and compared on, and what one would write without it.

Made of it are `fastcam bench` (`cpu.py`, and `gpu.py` where there is a GPU), ``pytest benchmarks``,
``benchmarks/gpu.sh``, and the cases in which a GPU is held to the CPU's bits (``tests/support/agreement.py``). A new
operator is a new section here: its alternatives, its works, its entry.

The alternatives are the usual pipelines in PyTorch, OpenCV, scikit-image, NumPy and Pillow, written with care (batched
where the library allows it, in place, no copy that is not needed), and give what the operator gives. OpenCV and
scikit-image work on one mask at a time, on the CPU: masks of a GPU are copied to it, as that pipeline has to.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from fastcam import ops

Inputs: TypeAlias = tuple[Tensor, ...]
Box: TypeAlias = tuple[int, int, int, int]


def has(library: str) -> bool:
    """Whether a library is there: a bare machine has torch alone, and leaves out what needs others."""
    return find_spec(library) is not None


if has("cv2"):
    import cv2

    from fastcam import reference


class Alternative(NamedTuple):
    """What one would write without an operator: takes the same inputs and keywords."""

    name: str  # as tables show it
    call: Callable[..., object]
    library: str = "torch"  # that it needs, by the name of its module
    cost: float = 0.0  # seconds for a picture of 224 x 224 pixels, roughly; decides how many it is given


@dataclass(frozen=True, eq=False)
class Work:
    """One row of a table: an operator on inputs of one kind and size."""

    title: str  # as tables show it
    images: int  # in one call
    call: Callable[..., object]  # the operator
    inputs: Callable[[int, str], Inputs]  # random ones for so many images, on a device
    options: Mapping[str, object] = field(default_factory=dict)  # keywords of operator, twin and alternatives
    alternatives: tuple[Alternative, ...] = ()  # the usual one first
    twin: float | None = None  # its cost, as of an alternative; None where it is not worth a row
    pixels: int = 224**2  # of an image, which costs are in proportion to
    target: float | None = None  # microseconds an image on an H200
    waits: bool = False  # for the device, so that no CUDA graph can hold it

    def ours(self) -> Callable[..., object]:
        """The operator with its keywords."""
        return partial(self.call, **self.options)

    def others(self) -> list[Alternative]:
        """The alternatives whose libraries are there, with the keywords."""
        return [
            each._replace(call=partial(each.call, **self.options)) for each in self.alternatives if has(each.library)
        ]

    def twins(self) -> list[Alternative]:
        """The twin with the keywords, if it is worth a row."""
        if self.twin is None or not has("cv2"):
            return []
        return [Alternative("twin", partial(getattr(reference, self.call.__name__), **self.options), "cv2", self.twin)]

    def seconds(self, other: Alternative) -> float:
        """What an image costs another contestant, roughly."""
        return other.cost * self.pixels / 224**2

    def share(self, other: Alternative, seconds: float) -> int:
        """So many of the images another contestant can do in about that time, one at least."""
        return max(1, min(self.images, int(seconds / (self.seconds(other) or 1e-9))))


class Operator(NamedTuple):
    """All that benchmarks and comparisons need of an operator; its twin in `fastcam.reference` has the same name."""

    call: Callable[..., object]  # the function in `fastcam.ops`
    takes: str | None  # kind of its inputs, a key of `SITUATIONS` in tests/support/agreement.py; None without CUDA
    cpu: Sequence[Work]  # of ``pytest benchmarks``
    gpu: Sequence[Work] = ()  # of ``benchmarks/gpu.sh``
    brief: int = 1  # so many of them, the first, are those of `fastcam bench`
    headline: tuple[str, Callable[[int], Work]] | None = None  # its row on the CPU there, for a number of images
    variants: Sequence[Mapping[str, object]] = ({},)  # keywords for other paths; a function is called with the inputs


# ---- random inputs ---------------------------------------------------------------------------------------------------

CONTIGUOUS, CHANNELS_LAST = LAYOUTS = (torch.contiguous_format, torch.channels_last)
HALVES = (torch.float16, torch.bfloat16)
WEIGHTINGS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")


def activations(
    images: int,
    channels: int,
    side: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = CONTIGUOUS,
) -> tuple[Tensor, Tensor]:
    """Features [N, K, side, side], 0 or more, and weights [N, K] that sum to 0, so that maps have both signs."""
    features = torch.randn(images, channels, side, side, device=device).relu_()
    weights = torch.randn(images, channels, device=device)
    return features.to(dtype, memory_format=layout), weights - weights.mean(1, keepdim=True)


def noisy_maps(images: int, size: int = 224, side: int = 14, device: str = "cpu") -> Tensor:
    """Finished maps [N, size, size] of many contours: normal noise, upsampled bicubically as WSOL evaluators do."""
    return ops.heatmap(torch.randn(images, side, side, device=device), size, relu=False, mode="bicubic")


def truth_boxes(images: int, size: int = 224, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """A random box an image: float64 [N, 4] x0, y0, x1, y1, and the images that they belong to, int64 [N]."""
    corners = torch.randint(0, size, (images, 2, 2), device=device).sort(1).values
    return corners.flatten(1).double(), torch.arange(images, device=device)


def random_masks(images: int, size: int = 224, device: str = "cpu") -> Tensor:
    """Masks of random pixels, bool [N, size, size], from 10 % to 90 % of them set."""
    density = torch.linspace(0.1, 0.9, images, device=device)[:, None, None]
    return torch.rand(images, size, size, device=device) < density


def truth_masks(images: int, size: int = 224, device: str = "cpu") -> Tensor:
    """An ellipse of random size an image: uint8 [N, size, size], 1 inside, 0 outside, 255 on a stripe to be ignored."""
    axis = torch.linspace(-1, 1, size, device=device)
    radii = torch.rand(images, 2, device=device) * 0.8 + 0.1
    rows, columns = (axis / radii[:, i : i + 1] for i in (0, 1))
    masks = (rows[:, :, None].square() + columns[:, None].square() < 1).to(torch.uint8)
    masks[:, size // 10 : size // 5].masked_fill_(masks[:, size // 10 : size // 5] == 0, 255)
    return masks


def _kind(dtype: torch.dtype = torch.float32, layout: torch.memory_format = CONTIGUOUS) -> str:
    name = "" if dtype == torch.float32 else f", {str(dtype).removeprefix('torch.')}"
    return name + ("" if layout == CONTIGUOUS else ", channels last")


# ---- class_map -------------------------------------------------------------------------------------------------------


def einsum_class_map(features: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of the channels, in float32: [N, K, h, w] and [N, K] → [N, h, w]."""
    return torch.einsum("nk,nkhw->nhw", weights.float(), features.float())


def _class_map(images: int, channels: int, side: int = 7, layout: torch.memory_format = CONTIGUOUS) -> Work:
    return Work(
        f"class_map {channels}×{side}×{side}{_kind(layout=layout)}",
        images,
        ops.class_map,
        lambda count, device: activations(count, channels, side, device, layout=layout),
        alternatives=(Alternative("einsum", einsum_class_map),),
    )


CLASS_MAP = Operator(
    ops.class_map,
    "activations",
    cpu=[_class_map(*each) for each in product((1, 64, 1024), (512, 2048), (7, 14, 28), LAYOUTS)],
    gpu=[
        *(_class_map(1024, 512, layout=layout) for layout in LAYOUTS),
        *(_class_map(256, 512, side) for side in (14, 28)),
    ],
    brief=0,
)


# ---- gradient_map ----------------------------------------------------------------------------------------------------


def torch_gradient_map(features: Tensor, gradients: Tensor, weighting: str) -> Tensor:
    """The formula in PyTorch, [N, h, w]: what one would write is the twin, whose module needs OpenCV."""
    return reference.gradient_map(features, gradients, weighting)


def _gradient_map(
    images: int,
    weighting: str,
    channels: int = 512,
    side: int = 7,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = CONTIGUOUS,
) -> Work:
    def inputs(count: int, device: str) -> Inputs:
        features, _ = activations(count, channels, side, device, dtype, layout)
        return features, torch.randn_like(features)

    return Work(
        f"gradient_map {weighting} {channels}×{side}×{side}{_kind(dtype, layout)}",
        images,
        ops.gradient_map,
        inputs,
        {"weighting": weighting},
        (Alternative("twin, torch", torch_gradient_map, "cv2"),),
    )


GRADIENT_MAP = Operator(
    ops.gradient_map,
    "gradients",
    cpu=[
        *(_gradient_map(64, weighting, layout=layout) for weighting in WEIGHTINGS for layout in LAYOUTS),
        *(
            _gradient_map(images, "gradcam", channels, side, layout=layout)
            for images, channels, side in ((1, 512, 7), (1024, 512, 7), (64, 2048, 7), (64, 512, 14))
            for layout in LAYOUTS
        ),
    ],
    gpu=[
        *(_gradient_map(1024, weighting) for weighting in WEIGHTINGS),
        *(_gradient_map(1024, "gradcam", dtype=dtype, layout=layout) for dtype, layout in product(HALVES, LAYOUTS)),
        _gradient_map(64, "gradcam"),
        _gradient_map(256, "gradcam", 256, 14),
    ],
    variants=[{"weighting": weighting} for weighting in WEIGHTINGS],
)


# ---- heatmap ---------------------------------------------------------------------------------------------------------


def torch_heatmap(coarse: Tensor, size: int, mode: str = "bilinear", dtype: torch.dtype | None = None) -> Tensor:
    """ReLU, upsampling and min-max normalisation: [N, h, w] → [N, H, W], in floats or bytes."""
    maps = F.interpolate(coarse.relu()[:, None], size=(size, size), mode=mode, align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = maps.sub_(low).div_(high - low)
    return maps if dtype is None else maps.mul_(255).to(dtype)


def _coarse(side: int) -> Callable[[int, str], Inputs]:
    return lambda count, device: (torch.randn(count, side, side, device=device),)


def _heatmap(images: int, side: int, size: int, mode: str = "bilinear", dtype: torch.dtype | None = None) -> Work:
    return Work(
        f"heatmap {mode}{_kind(dtype or torch.float32)} {side}² → {size}²",
        images,
        ops.heatmap,
        _coarse(side),
        {"size": size, "mode": mode, "dtype": dtype},
        (Alternative("torch", torch_heatmap),),
        twin=3e-4,
        pixels=size**2,
    )


# Images, side of the coarse map, side of the finished one.
_SIZES = [
    (1, 7, 224),
    *((64, *sides) for sides in product((7, 14, 28), (224, 448, 1024))),
    (1024, 7, 224),
    (1024, 7, 448),
]

HEATMAP = Operator(
    ops.heatmap,
    "coarse",
    cpu=[_heatmap(*sizes) for sizes in _SIZES],
    gpu=[
        *(_heatmap(images, 7, 224) for images in (1024, 64, 1)),
        _heatmap(1024, 7, 224, dtype=torch.uint8),
        _heatmap(1024, 14, 224, mode="bicubic"),
        _heatmap(256, 14, 448),
        _heatmap(64, 28, 1024),
    ],
    headline=("coarse 7×7 → heatmap 224×224", lambda images: _heatmap(images, 7, 224)),
    variants=[
        {"relu": relu, "normalize": normalize, "dtype": dtype}
        for relu, normalize, dtype in product((True, False), ("after", "before", "both", None), (None, torch.uint8))
    ],
)


# ---- boxes -----------------------------------------------------------------------------------------------------------


def opencv_boxes(coarse: Tensor, size: int, threshold: float = 0.2) -> list[Box]:
    """A map and its largest component's box, by OpenCV, for each image."""
    masks = (torch_heatmap(coarse, size) > threshold).view(torch.uint8).cpu()
    found: list[Box] = []
    for mask in masks.numpy():
        count, _, stats, _ = cv2.connectedComponentsWithStats(mask)
        if count > 1:
            x, y, w, h, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
            found.append((x, y, x + w, y + h))
        else:
            found.append((0, 0, 0, 0))
    return found


def skimage_boxes(coarse: Tensor, size: int, threshold: float = 0.2) -> list[Box]:
    """The same by scikit-image."""
    found: list[Box] = []
    for regions in skimage_components(torch_heatmap(coarse, size) > threshold):
        y0, x0, y1, x1 = max(regions, key=lambda region: region.area).bbox if regions else (0, 0, 0, 0)
        found.append((x0, y0, x1, y1))
    return found


def _boxes(images: int, side: int, size: int, mode: str = "bilinear", levels: int = 1) -> Work:
    plain = mode == "bilinear" and levels == 1
    return Work(
        f"boxes {mode} {side}² → {size}²" + (f", {levels} thresholds" if levels > 1 else ""),
        images,
        ops.boxes,
        _coarse(side),
        {"size": size} if plain else {"size": size, "mode": mode, "threshold": [i / levels for i in range(levels)]},
        (
            Alternative("torch, OpenCV's components", opencv_boxes, "cv2", 5e-4),
            Alternative("torch, scikit-image's components", skimage_boxes, "skimage", 2e-3),
        )
        if plain
        else (),
        twin=2e-3 if plain else None,
        pixels=size**2,
    )


def _levels(coarse: Tensor) -> Tensor:
    """Absolute thresholds, [N, 3]."""
    return torch.stack([coarse.amax((1, 2)) * share for share in (0.0, 0.2, 0.9)], 1)


BOXES = Operator(
    ops.boxes,
    "coarse",
    cpu=[_boxes(*sizes) for sizes in _SIZES],
    gpu=[
        *(_boxes(images, 7, 224) for images in (1024, 64, 1)),
        *(_boxes(1024, side, 224) for side in (14, 28)),
        _boxes(256, 14, 448),
        _boxes(64, 14, 1024),
        _boxes(1024, 7, 224, levels=10),
        _boxes(1024, 14, 224, mode="bicubic"),
    ],
    headline=("coarse 7×7 → box in 224×224", lambda images: _boxes(images, 7, 224)),
    variants=[
        {"threshold": threshold, "relu": relu, "connectivity": connectivity, "largest": largest}
        for threshold in ([0.0, 0.1, 0.2, 0.5, 0.999, 1.0], _levels)
        for relu in (True, False)
        for connectivity, largest in ((8, "pixels"), (4, "pixels"), (8, "contour"))
    ],
)


# ---- class_boxes -----------------------------------------------------------------------------------------------------


def opencv_class_boxes(features: Tensor, weights: Tensor, size: int) -> list[Box]:
    """Activations to boxes: the weighted sum, then `opencv_boxes`."""
    return opencv_boxes(einsum_class_map(features, weights), size)


def _class_boxes(
    images: int,
    channels: int,
    side: int = 7,
    size: int = 224,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = CONTIGUOUS,
    target: float | None = None,
) -> Work:
    return Work(
        f"activations {channels}×{side}×{side}{_kind(dtype, layout)} → box in {size}²",
        images,
        ops.class_boxes,
        lambda count, device: activations(count, channels, side, device, dtype, layout),
        {"size": size},
        (Alternative("torch, OpenCV's components", opencv_class_boxes, "cv2", 5e-4),),
        pixels=size**2,
        target=target,
    )


def torch_boxes_and_map(
    features: Tensor, weights: Tensor, size: int, return_map: str = "float32"
) -> tuple[list[Box], Tensor]:
    """`opencv_class_boxes`, and the map in which it finds them."""
    coarse = einsum_class_map(features, weights)
    map = torch_heatmap(coarse, size)
    return opencv_boxes(coarse, size), (255 * map).to(torch.uint8) if return_map == "uint8" else map


def _boxes_and_map(images: int, return_map: str, target: float | None = None) -> Work:
    return Work(
        f"activations 512×7×7 → box and {return_map} map of 224²",
        images,
        ops.class_boxes,
        lambda count, device: activations(count, 512, 7, device),
        {"size": 224, "return_map": return_map},
        (Alternative("torch, OpenCV's components", torch_boxes_and_map, "cv2", 1e-3),),
        pixels=224**2,
        target=target,
    )


CLASS_BOXES = Operator(
    ops.class_boxes,
    "activations to boxes",
    cpu=[
        _class_boxes(images, channels, side)
        for channels in (512, 2048)
        for images, side in ((1, 7), (64, 7), (64, 14), (64, 28), (1024, 7))
    ]
    + [_boxes_and_map(64, return_map) for return_map in ("float32", "uint8")],
    gpu=[
        _class_boxes(1024, 512, target=0.04),
        _class_boxes(1024, 2048, target=0.105),
        _boxes_and_map(1024, "float32", 0.085),
        _boxes_and_map(1024, "uint8", 0.06),
        *(_class_boxes(1024, channels, layout=CHANNELS_LAST) for channels in (512, 2048)),
        *(
            _class_boxes(1024, channels, dtype=dtype, layout=layout)
            for channels, dtype, layout in product((512, 2048), HALVES, LAYOUTS)
        ),
        *(_class_boxes(images, 512) for images in (1, 16, 64, 256)),
        *(_class_boxes(images, 2048) for images in (1, 64)),
        *(_class_boxes(256, 512, side, size) for side, size in ((14, 224), (28, 224), (14, 448))),
    ],
    brief=4,
    headline=("activations 512×7×7 → box in 224×224", lambda images: _class_boxes(images, 512)),
    variants=[
        {},
        {"threshold": [0.1, 0.2, 0.7], "relu": False, "largest": "contour"},
        {"threshold": 0.4, "mode": "bicubic", "connectivity": 4},
        {"return_map": "float32"},
        {"threshold": [0.1, 0.2, 0.7], "relu": False, "return_map": "uint8"},
    ],
)


# ---- box_curves and iou_curves ---------------------------------------------------------------------------------------

EVALUATOR_THRESHOLDS = np.arange(0, 1, 0.001)


def opencv_box_curves(maps: Tensor) -> np.ndarray:
    """The standard WSOL evaluator: the largest contour's box at each of 1000 thresholds, [N, 1000, 4]."""
    found = [
        _contour_box(max(contours, key=cv2.contourArea), right, bottom) if contours else (0, 0, 0, 0)
        for contours, right, bottom in _contours(maps)
    ]
    return np.array(found).reshape(len(maps), -1, 4)


def opencv_iou_curves(maps: Tensor, boxes: Tensor, box_image: Tensor, contours: str = "largest") -> np.ndarray:
    """The same and the best IoU with any truth box; "all" takes the boxes of all contours: [N, 1000]."""
    truths, owners = boxes.cpu().numpy(), box_image.cpu().numpy()
    found: list[Box] = []
    firsts: list[int] = []
    curves: list[np.ndarray] = []
    for number, (borders, right, bottom) in enumerate(_contours(maps), start=1):
        if contours == "largest" and borders:
            borders = [max(borders, key=cv2.contourArea)]
        firsts.append(len(found))
        found += [_contour_box(border, right, bottom) for border in borders] or [(0, 0, 0, 0)]
        if number % len(EVALUATOR_THRESHOLDS) == 0:  # one image's boxes at all thresholds, at once
            overlaps = _inclusive_iou(np.array(found, np.float64), truths[owners == len(curves)]).max(1, initial=0)
            curves.append(np.maximum.reduceat(overlaps, firsts))
            found, firsts = [], []
    return np.stack(curves)


def _contours(maps: Tensor) -> Iterator[tuple[Sequence[np.ndarray], int, int]]:
    """Contours of each map at each threshold, with the last column and row, which boxes are clamped to."""
    for values in maps.cpu().numpy():
        quantised = (255 * values).astype(np.uint8)
        highest, (height, width) = quantised.max(), quantised.shape
        for threshold in EVALUATOR_THRESHOLDS:
            _, mask = cv2.threshold(quantised, int(threshold * highest), 255, cv2.THRESH_BINARY)
            contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            yield contours, width - 1, height - 1


def _contour_box(contour: np.ndarray, right: int, bottom: int) -> Box:
    x, y, w, h = cv2.boundingRect(contour)
    return x, y, min(x + w, right), min(y + h, bottom)


def _inclusive_iou(boxes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """[M, 4] and [B, 4] → [M, B]; a pixel is added to every extent."""
    lower = np.maximum(boxes[:, None, :2], truths[None, :, :2])
    upper = np.minimum(boxes[:, None, 2:], truths[None, :, 2:])
    common = (upper - lower + 1).clip(min=0).prod(2)
    area, truth_area = ((b[:, 2:] - b[:, :2] + 1).prod(1) for b in (boxes, truths))
    return common / (area[:, None] + truth_area - common)


def _maps(size: int, side: int, smooth: bool = False) -> Callable[[int, str], Inputs]:
    if smooth:
        return lambda count, device: (ops.heatmap(torch.randn(count, side, side, device=device), size),)
    return lambda count, device: (noisy_maps(count, size, side, device),)


def _title(size: int, side: int, smooth: bool = False) -> str:
    return f"{size}², {side}² {'bilinear' if smooth else 'noise, bicubic'}"


def _box_curves(
    images: int, side: int = 14, size: int = 224, smooth: bool = False, target: float | None = None
) -> Work:
    return Work(
        f"box_curves {_title(size, side, smooth)}",
        images,
        ops.box_curves,
        _maps(size, side, smooth),
        alternatives=(Alternative("OpenCV at 1000 thresholds", opencv_box_curves, "cv2", 6e-2),),
        twin=6e-2,
        pixels=size**2,
        target=target,
    )


def _iou_curves(images: int, contours: str, side: int = 14, size: int = 224) -> Work:
    maps = _maps(size, side)
    return Work(
        f"iou_curves {_title(size, side)}, {contours} contours",
        images,
        ops.iou_curves,
        lambda count, device: (*maps(count, device), *truth_boxes(count, size, device)),
        {"contours": contours},
        (Alternative("OpenCV at 1000 thresholds", opencv_iou_curves, "cv2", 6e-2),),
        twin=6e-2,
        pixels=size**2,
    )


# Images, side of the noise, side of the maps.
_NOISE = [(1, 7, 224), (1, 14, 224), (1, 28, 224), (1, 14, 448), (1, 14, 1024), (64, 14, 224)]

BOX_CURVES = Operator(
    ops.box_curves,
    "maps",
    cpu=[_box_curves(*sizes) for sizes in _NOISE],
    gpu=[
        _box_curves(1024, 7, smooth=True, target=1.5),
        *(_box_curves(images) for images in (1024, 64, 1)),
        _box_curves(64, size=448),
        _box_curves(16, size=1024),
    ],
    brief=2,
    headline=("224×224 maps → box at every level", _box_curves),
)

IOU_CURVES = Operator(
    ops.iou_curves,
    "maps and boxes",
    cpu=[_iou_curves(images, contours, *sides) for images, *sides in _NOISE for contours in ("largest", "all")],
    gpu=[
        _iou_curves(1024, "all"),
        _iou_curves(1024, "largest"),
        _iou_curves(64, "all"),
        _iou_curves(16, "all", size=1024),
    ],
    headline=(
        "224×224 maps → best IoU of all contours at every level",
        lambda images: _iou_curves(images, "all"),
    ),
    variants=[{"contours": "largest"}, {"contours": "all"}],
)


# ---- score_histograms ------------------------------------------------------------------------------------------------

_EVALUATOR_EDGES = np.append(EVALUATOR_THRESHOLDS, [1.0, 2.0, 3.0])


def numpy_score_histograms(maps: Tensor, masks: Tensor) -> np.ndarray:
    """The standard WSOL evaluator: NumPy's histograms of background and object scores, [N, 2, 1002]."""
    found = []
    for scores, mask in zip(maps.cpu().numpy(), masks.cpu().numpy(), strict=True):
        found.append([np.histogram(scores[mask == kind], bins=_EVALUATOR_EDGES)[0] for kind in (0, 1)])
    return np.array(found)


def torch_score_histograms(maps: Tensor, masks: Tensor) -> Tensor:
    """The same by PyTorch, in one go."""
    edges = torch.from_numpy(_EVALUATOR_EDGES).to(maps.device)
    images, bins = len(maps), len(edges) - 1
    slot = torch.bucketize(maps.double(), edges, right=True).sub_(1).clamp_(max=bins - 1)
    slot += bins * (masks == 1) + 2 * bins * torch.arange(images, device=maps.device)[:, None, None]
    return torch.bincount(slot[masks < 2], minlength=images * 2 * bins).view(images, 2, bins)


def _score_histograms(images: int, size: int = 224, smooth: bool = False, dtype: torch.dtype = torch.float32) -> Work:
    maps, side = _maps(size, 7 if smooth else 14, smooth), 7 if smooth else 14

    def inputs(count: int, device: str) -> Inputs:
        (scores,) = maps(count, device)
        return scores.to(dtype), truth_masks(count, size, device)

    return Work(
        f"score_histograms {_title(size, side, smooth)}{_kind(dtype)}",
        images,
        ops.score_histograms,
        inputs,
        alternatives=(
            Alternative("NumPy", numpy_score_histograms, "numpy", 2e-3),
            Alternative("torch", torch_score_histograms, cost=3e-3),
        ),
        pixels=size**2,
    )


SCORE_HISTOGRAMS = Operator(
    ops.score_histograms,
    "scores and masks",
    cpu=[
        _score_histograms(images, size, dtype=dtype)
        for images, size in ((1, 224), (64, 224), (1024, 224), (16, 1024))
        for dtype in (torch.float32, torch.float64)
    ],
    gpu=[
        _score_histograms(1024),
        _score_histograms(1024, smooth=True),
        _score_histograms(64),
        _score_histograms(1),
        _score_histograms(16, 1024),
    ],
    headline=("224×224 maps and masks → histograms of scores", _score_histograms),
)


# ---- refine ----------------------------------------------------------------------------------------------------------


def torch_refine(maps: Tensor, images: Tensor) -> Tensor:
    """PAMR as it is published: all neighbours of all pixels side by side, 48 times the maps."""
    return reference.refine(maps, images)


def _refine(images: int, classes: int = 2, height: int = 224, width: int = 224) -> Work:
    def inputs(count: int, device: str) -> Inputs:
        pictures = F.interpolate(torch.rand(count, 3, 20, 27, device=device), (height, width), mode="bicubic")
        return torch.rand(count, classes, height, width, device=device), pictures

    return Work(
        f"refine {classes} maps of {height}×{width} in 10 iterations",
        images,
        ops.refine,
        inputs,
        alternatives=(Alternative("torch", torch_refine, "cv2", 0.15 * classes),),
        pixels=height * width,
    )


REFINE = Operator(
    ops.refine,
    "maps and images",
    cpu=[_refine(16), _refine(1, 21, 375, 500)],
    gpu=[_refine(8), _refine(1, 21, 375, 500)],  # enough threads to fill it
    headline=("2 maps of 224×224 → drawn to the edges of their image (PAMR, 10 iterations)", _refine),
    variants=[
        {"iterations": 1, "dilations": (1, 2, 4, 8, 12, 24)},
        {"iterations": 4, "dilations": (3,)},
        {"iterations": 3, "dilations": (1, 2, 3, 5, 8, 13, 21, 34)},
    ],
)


# ---- resize ----------------------------------------------------------------------------------------------------------


def pillow_resize(picture: Tensor, size: int) -> Tensor:
    """Pillow's bilinear resizing, [H, W, 3] of bytes."""
    image = Image.fromarray(picture.numpy()).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(image))


def torch_resize(picture: Tensor, size: int) -> Tensor:
    """The same by PyTorch, whose weights have fewer bits: some bytes are one apart."""
    image = F.interpolate(picture.permute(2, 0, 1)[None], size=(size, size), mode="bilinear", antialias=True)
    return image[0].permute(1, 2, 0)


def _resize(height: int, width: int) -> Work:
    return Work(
        f"resize a picture {height}×{width} → 224²",
        1,
        ops.resize,
        lambda count, device: (torch.randint(0, 256, (height, width, 3), dtype=torch.uint8),),
        {"size": 224},
        (Alternative("Pillow", pillow_resize, "PIL"), Alternative("torch, bytes by one apart", torch_resize)),
    )


RESIZE = Operator(ops.resize, None, cpu=[_resize(375, 500), _resize(1200, 1600)])


# ---- components ------------------------------------------------------------------------------------------------------


# OpenCV's algorithms by the names of their papers, and its constants.
OPENCV_ALGORITHMS = {"SAUF": "WU", "BBDT": "GRANA", "Spaghetti": "BOLELLI"}


def opencv_components(masks: Tensor) -> list[Sequence[Any]]:
    """All components of each mask, by OpenCV with its default 32-bit labels."""
    return [cv2.connectedComponentsWithStats(mask) for mask in masks.view(torch.uint8).cpu().numpy()]


def opencv_components_16_bit(masks: Tensor, algorithm: str) -> list[Sequence[Any]]:
    """The same with 16-bit labels, which is faster and fails beyond 65,535 components, by one of its algorithms."""
    chosen = getattr(cv2, f"CCL_{algorithm}")
    return [
        cv2.connectedComponentsWithStatsWithAlgorithm(mask, 8, cv2.CV_16U, chosen)
        for mask in masks.view(torch.uint8).cpu().numpy()
    ]


def kornia_components(masks: Tensor) -> list[tuple[int, Any]]:
    """The labels of each mask [H, W, 1] and how many, background included, by kornia-rs; no areas, no boxes."""
    from kornia_rs.imgproc import connected_components

    return [connected_components(mask) for mask in masks.view(torch.uint8).cpu().numpy()[..., None]]


def cc3d_components(masks: Tensor) -> list[Mapping[str, Any]]:
    """Areas and boxes of all components of each mask, the background's first, by cc3d."""
    import cc3d

    labels = (cc3d.connected_components(mask, connectivity=8) for mask in masks.cpu().numpy())
    return [cc3d.statistics(label) for label in labels]


def skimage_components(masks: Tensor) -> list[list[Any]]:
    """All components of each mask, by scikit-image."""
    from skimage.measure import label, regionprops

    return [regionprops(label(mask, connectivity=2)) for mask in masks.cpu().numpy()]


def _components(images: int, size: int, percent: int | None = None) -> Work:
    def inputs(count: int, device: str) -> Inputs:
        if percent is None:
            return (random_masks(count, size, device),)
        return (torch.rand(count, size, size, device=device) < percent / 100,)

    return Work(
        f"components {size}², {'10–90' if percent is None else percent} % set",
        images,
        ops.components,
        inputs,
        alternatives=(
            Alternative("OpenCV", opencv_components, "cv2", 1e-3),
            *(
                Alternative(
                    f"OpenCV, {name}, 16-bit labels", partial(opencv_components_16_bit, algorithm=key), "cv2", 1e-3
                )
                for name, key in OPENCV_ALGORITHMS.items()
            ),
            Alternative("kornia-rs, labels only", kornia_components, "kornia_rs", 5e-4),
            Alternative("cc3d", cc3d_components, "cc3d", 2e-3),
            Alternative("scikit-image", skimage_components, "skimage", 8e-2),
        ),
        twin=2e-2,
        pixels=size**2,
        waits=True,
    )


COMPONENTS = Operator(
    ops.components,
    "masks",
    cpu=[
        *(_components(64, 224, percent) for percent in (10, 30, 50, 70, 90)),
        *(_components(*sizes, 50) for sizes in ((1, 224), (1024, 224), (64, 448), (16, 1024))),
    ],
    gpu=[_components(1024, 224), _components(64, 224), _components(64, 1024)],
    headline=("components of 224×224 masks, 10–90 % set", lambda images: _components(images, 224)),
    variants=[
        {},
        {"connectivity": 4},
        {"max_components": 3},
        {"labels": True, "min_area": 5, "fill_holes": True},
        {"connectivity": 4, "max_components": 9, "labels": True, "fill_holes": True},
    ],
)


OPERATORS = (
    CLASS_MAP,
    GRADIENT_MAP,
    HEATMAP,
    BOXES,
    CLASS_BOXES,
    BOX_CURVES,
    IOU_CURVES,
    SCORE_HISTOGRAMS,
    REFINE,
    RESIZE,
    COMPONENTS,
)
