"""The operators: activations to class maps, heatmaps and boxes, in fused C++ and CUDA kernels.

This module is the only user of ``torch.ops.fastcam``, which ``fastcam._operators`` loads. Each function validates
its arguments, documents them, and calls one operator; below it stand what ``torch.compile`` has to know of the
operator's result, and its gradient if it has one. The arithmetic from the coarse map onward is specified
operation by operation (``csrc/exact.h``), so that results do not depend on the batch size, the position in the batch,
the number of threads, the instruction set or the device; :mod:`fastcam.reference` has the plain PyTorch and OpenCV twin
of every function, which stands in for kernels that are missing, but for those bits.

A coarse map that is constant, or holds NaN or infinity after ReLU, carries no location: it gives a zero map and a zero
box on every device (a GPU kernel cannot raise without stopping the stream).
"""

import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeVar, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam import _operators
from fastcam._check import one_of

Weighting = Literal["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam"]
Mode = Literal["bilinear", "bicubic"]
Largest = Literal["pixels", "contour"]

_WEIGHTINGS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")
_NORMALIZE = ("after", "before", "both", None)
_MODES = ("bilinear", "bicubic")
_LARGEST = ("pixels", "contour")
_RETURN_MAP = ("float32", "uint8", None)
_MOST_PIXELS = 2**30  # areas are counted in 32 bits, doubled
_MOST_BINS = 2**12  # of a histogram in a GPU's shared memory
_MOST_DILATIONS, _MOST_REACH, _MOST_CHANNELS = 8, 2**10, 4  # of refinement, as csrc/affinity.h has them
_ALPHA_EPS, _RATIO_EPS = 1e-6, 1e-7  # defaults of eps for "gradcam++" and "xgradcam"


_LOADED = _operators.load()
_ops = torch.ops.fastcam


def build_info() -> dict[str, str | bool | None]:
    """What was built and what of it runs here.

    Returns:
        ``library`` (path; None where :mod:`fastcam.reference` stands in for the kernels), ``cpu_simd`` ("avx512",
        "avx2" or "portable": the instruction set that runs, of which the environment variable ``FASTCAM_SIMD`` chooses
        a lower one; "none" without the library), ``cuda_library`` (path; None where the kernels for GPUs are not
        loaded), ``cuda_built``, and ``cuda_reason`` (the compiler that built them, or why they are not there).
    """
    library, cuda, why = _LOADED
    found: dict[str, str | bool | None] = {"library": None if library is None else str(library)}
    if library is None:
        return {**found, "cpu_simd": "none", "cuda_library": None, "cuda_built": False, "cuda_reason": why["library"]}
    kind, reason = _ops.build().split(": ", 1)
    unused = f"{reason}; not loaded: {why['cuda']}" if kind == "cuda" and cuda is None else reason
    return {
        **found,
        "cpu_simd": _ops.simd(),
        "cuda_library": None if cuda is None else str(cuda),
        "cuda_built": kind == "cuda",
        "cuda_reason": unused,
    }


# ---- validation ------------------------------------------------------------------------------------------------------


def _shape(tensor: Tensor) -> str:
    return f"[{', '.join(map(str, tensor.shape))}]"


def _floating(name: str, tensor: Tensor, layout: str, ranks: tuple[int, ...]) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"`{name}` must be a tensor {layout}, got {type(tensor).__name__}")
    if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"`{name}` must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
    if tensor.dim() not in ranks:
        raise ValueError(f"`{name}` must be {layout}, got {_shape(tensor)}")


def _same_device(first: str, a: Tensor, second: str, b: Tensor) -> None:
    if a.device != b.device:
        raise ValueError(f"`{first}` and `{second}` must be on one device, got {a.device} and {b.device}")


def _one_of(name: str, value: object, known: Iterable[object]) -> None:
    one_of(name, value, known, repr)


def _pair(size: object) -> tuple[int, int]:
    """Height and width of one integer or two; (0, 0) of anything else."""
    pair = [size, size] if isinstance(size, Integral) else list(size) if isinstance(size, Iterable) else []
    sides = [int(side) for side in pair if isinstance(side, Integral)]
    return (sides[0], sides[1]) if len(sides) == len(pair) == 2 else (0, 0)


def _size(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = _pair(size)
    if min(height, width) < 1:
        raise ValueError(f"`size` must be a positive integer or (height, width), got {size!r}")
    _few_pixels("size", height, width)
    return height, width


def _few_pixels(name: str, height: int, width: int) -> None:
    if height * width >= _MOST_PIXELS:
        raise ValueError(f"`{name}` must have fewer than 2^30 pixels, got {height} x {width}")


def _accumulation_dtype(*tensors: Tensor) -> torch.dtype:
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def _features_and_weights(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Checked and promoted: features [N, K, h, w], weights [N, C, K] of the accumulation dtype."""
    _floating("features", features, "[N, K, h, w]", (4,))
    _floating("weights", weights, "[N, K] or [N, C, K]", (2, 3))
    _same_device("features", features, "weights", weights)
    if weights.shape[0] != features.shape[0] or weights.shape[-1] != features.shape[1]:
        n, k = features.shape[:2]
        raise ValueError(
            f"`weights` must be [N, K] = [{n}, {k}] or [N, C, K] = [{n}, C, {k}] for `features` {_shape(features)}, "
            f"got {_shape(weights)}"
        )
    dtype = _accumulation_dtype(features, weights)
    if dtype == torch.float64:
        features = features.double()
    weights = weights if weights.dtype == dtype else weights.to(dtype)
    return features, weights if weights.dim() == 3 else weights[:, None]


def _coarse(coarse: Tensor) -> None:
    _floating("coarse", coarse, "[..., h, w] with at least one leading dimension", tuple(range(3, 9)))
    if coarse.numel() == 0 and 0 in coarse.shape[-2:]:
        raise ValueError(f"`coarse` must have at least one position in [h, w], got {_shape(coarse)}")


def _levels(
    threshold: float | Sequence[float] | Tensor, lead: tuple[int, ...], device: torch.device
) -> tuple[Tensor | None, list[float], tuple[int, ...]]:
    """(absolute levels [M, T] or None, relative thresholds [T], shape of the result)."""
    if isinstance(threshold, Tensor):
        if threshold.shape[: len(lead)] != lead or threshold.dim() > len(lead) + 1:
            raise ValueError(
                f"a tensor of absolute levels must be {list(lead)} or {[*lead, 'T']}, one row for each map, got "
                f"{_shape(threshold)}; for relative thresholds pass a float or a list"
            )
        if not threshold.is_floating_point():
            raise TypeError(f"a tensor of absolute levels must be floating-point, got {threshold.dtype}")
        count = threshold.shape[-1] if threshold.dim() > len(lead) else 1
        levels = threshold.detach().to(device, torch.float32)
        return levels.reshape(math.prod(lead), count), [], (*threshold.shape, 4)
    single = isinstance(threshold, Real)
    given: list[object] = [threshold] if single else [*threshold] if isinstance(threshold, Iterable) else [None]
    shares = [float(share) for share in given if isinstance(share, Real) and 0 <= float(share) <= 1]
    if len(shares) < len(given):
        raise ValueError(f"`threshold` must be in [0, 1], relative to the map's range, got {threshold!r}")
    return None, shares, (*lead, 4) if single else (*lead, len(shares), 4)


# Calls of torch that change nothing are left out: on a processor whose caches hold other things each costs as much as
# the boxes of several pictures.


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach() if tensor.requires_grad else tensor
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _flat(coarse: Tensor) -> Tensor:
    """[..., h, w] as [M, h, w]."""
    return coarse if coarse.dim() == 3 else coarse.reshape(math.prod(coarse.shape[:-2]), *coarse.shape[-2:])


def _shaped(result: Tensor, shape: tuple[int, ...]) -> Tensor:
    return result if result.shape == shape else result.reshape(shape)


def _search_options(mode: str, connectivity: int, largest: str) -> None:
    _one_of("mode", mode, _MODES)
    _one_of("connectivity", connectivity, (4, 8))
    _one_of("largest", largest, _LARGEST)
    if largest == "contour" and connectivity != 8:
        raise ValueError("largest='contour' is defined for connectivity=8 only, as cv2.findContours")


def _bytes(name: str, masks: Tensor, advice: str) -> None:
    if not isinstance(masks, Tensor) or masks.dtype not in (torch.bool, torch.uint8):
        got = masks.dtype if isinstance(masks, Tensor) else type(masks).__name__
        raise TypeError(f"`{name}` must be a bool or uint8 tensor [N, H, W], got {got}; {advice}")


def _finished_maps(maps: Tensor) -> None:
    _floating("maps", maps, "[N, H, W]", (3,))
    if 0 in maps.shape[1:]:
        raise ValueError(f"`maps` must have at least one pixel, got {_shape(maps)}")
    if max(maps.shape[1:]) >= 2**16:
        raise ValueError(f"`maps` must have sides below 65,536 pixels, got {_shape(maps)}")
    _few_pixels("maps", *maps.shape[1:])


def _true_boxes(boxes: Tensor, box_image: Tensor, maps: Tensor) -> tuple[Tensor, Tensor]:
    """True boxes by image: float64 [M, 4], and int64 [N + 1], where those of each image start."""
    for name, tensor in (("boxes", boxes), ("box_image", box_image)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(tensor).__name__}")
        _same_device("maps", maps, name, tensor)
    if boxes.dtype == torch.bool or boxes.is_complex():
        raise TypeError(f"`boxes` must be real numbers, got {boxes.dtype}")
    if box_image.is_floating_point() or box_image.dtype == torch.bool or box_image.is_complex():
        raise TypeError(f"`box_image` must be integers, got {box_image.dtype}")
    if boxes.dim() != 2 or boxes.shape[1] != 4 or box_image.shape != boxes.shape[:1]:
        raise ValueError(f"`boxes` must be [M, 4] and `box_image` [M], got {_shape(boxes)} and {_shape(box_image)}")
    image, order = box_image.detach().long().sort(stable=True)
    truths = boxes.detach().double()[order]
    if not truths.is_cuda and len(truths):
        if image[0] < 0 or image[-1] >= len(maps):
            wrong = image[0] if image[0] < 0 else image[-1]
            raise ValueError(f"`box_image` must be in [0, {len(maps)}), the number of maps, got {int(wrong)}")
        bad = ~truths.isfinite().all(1) | (truths[:, 2:] < truths[:, :2]).any(1)
        if bad.any():
            at = int(bad.nonzero()[0])
            raise ValueError(
                f"`boxes` must be finite x0, y0, x1, y1 with x1 >= x0 and y1 >= y0, got {truths[at].tolist()} for "
                f"image {int(image[at])}"
            )
    return truths, torch.searchsorted(image, torch.arange(len(maps) + 1, device=maps.device))


# ---- operators -------------------------------------------------------------------------------------------------------

_Function = TypeVar("_Function", bound=Callable[..., object])


def _fake(operator: str) -> Callable[[_Function], _Function]:
    """Decorates what gives an operator's result by shape and dtype alone."""
    return torch.library.register_fake(f"fastcam::{operator}")


def _with_gradient(operator: str, save: Callable[..., None]) -> Callable[[_Function], _Function]:
    """Decorates an operator's backward pass; `save` keeps what that needs of inputs and output."""

    def register(backward: _Function) -> _Function:
        torch.library.register_autograd(f"fastcam::{operator}", backward, setup_context=save)
        return backward

    return register


def class_map(features: Tensor, weights: Tensor) -> Tensor:
    r"""Channel-weighted sum of activations, :math:`M(x, y) = \sum_k w_k A_k(x, y)`, without ReLU.

    Args:
        features: activations [N, K, h, w], any floating dtype, contiguous or channels last (other layouts are copied).
        weights: [N, K], or [N, C, K] for C maps of each image. Half types are summed in float32.

    Returns:
        Coarse maps [N, h, w] or [N, C, h, w]; float64 when either input is float64, else float32. Differentiable in
        both arguments. The sum has one fixed order, with one rounding per multiply-add: on the CPU channels in order
        (contiguous) or 16 interleaved partial sums and a tree (channels last); on a GPU 32 interleaved partial sums and
        a tree, whatever the layout.

    Raises:
        TypeError: a dtype that is not floating-point.
        ValueError: a wrong rank, mismatched N or K, or two devices.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equation 2.
    """
    x, w = _features_and_weights(features, weights)
    maps = _ops.class_map(x, w)
    return maps[:, 0] if weights.dim() == 2 else maps


@_fake("class_map")
def _(features: Tensor, weights: Tensor) -> Tensor:
    return weights.new_empty(*weights.shape[:2], *features.shape[2:])


def _save_class_map(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


@_with_gradient("class_map", _save_class_map)
def _(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    features, weights = ctx.saved_tensors
    to_features = to_weights = None
    with torch.autocast(grad.device.type, enabled=False):  # which would sum in half precision
        if ctx.needs_input_grad[0]:
            to_features = torch.einsum("nck,nchw->nkhw", weights, grad).to(features.dtype)
        if ctx.needs_input_grad[1]:
            to_weights = torch.einsum("nchw,nkhw->nck", grad, features.to(grad.dtype))
    return to_features, to_weights


def gradient_map(
    features: Tensor, gradients: Tensor, weighting: Weighting = "gradcam", eps: float | None = None
) -> Tensor:
    r"""Activations weighted by their gradients, summed over channels, in one pass; before ReLU.

    With activations A, gradients G = ∂S/∂A and sums over the Z positions of a channel:

    - ``"gradcam"``: :math:`\sum_k (\frac1Z\sum G_k) A_k` (Selvaraju et al., ICCV 2017, equations 1 and 2)
    - ``"gradcam++"``: weights :math:`\sum \alpha_k\,\mathrm{relu}(G_k)` with
      :math:`\alpha = G^2 / (2 G^2 + G^3 \sum A_k + \epsilon)` (Chattopadhyay et al., WACV 2018, equation 19)
    - ``"xgradcam"``: weights :math:`\sum(G_k A_k) / (\sum A_k + \epsilon)` (Fu et al., BMVC 2020, equation 8); where
      :math:`\sum A_k` is negative, ε is subtracted, so that the two never cancel
    - ``"layercam"``: :math:`\sum_k \mathrm{relu}(G_k) \odot A_k` (Jiang et al., TIP 2021)
    - ``"hirescam"``: :math:`\sum_k G_k \odot A_k` (Draelos and Carin, 2020)

    Args:
        features: activations [N, K, h, w], any floating dtype, contiguous or channels last.
        gradients: of the score with respect to the activations, same shape.
        weighting: one of the names above.
        eps: ε of "gradcam++" (default 1e-6) or "xgradcam" (default 1e-7).

    Returns:
        Coarse maps [N, h, w], float64 when either input is float64, else float32; no gradient flows through them.

    Raises:
        TypeError: a dtype that is not floating-point.
        ValueError: a wrong rank, different shapes or devices, an unknown weighting, a negative eps.
    """
    _floating("features", features, "[N, K, h, w]", (4,))
    _floating("gradients", gradients, "[N, K, h, w]", (4,))
    _same_device("features", features, "gradients", gradients)
    _one_of("weighting", weighting, _WEIGHTINGS)
    if gradients.shape != features.shape:
        raise ValueError(f"`gradients` must have the shape of `features` {_shape(features)}, got {_shape(gradients)}")
    if eps is None:
        eps = _ALPHA_EPS if weighting == "gradcam++" else _RATIO_EPS
    if not 0 <= eps < math.inf:
        raise ValueError(f"`eps` must be a finite number, 0 or more, got {eps!r}")
    if features.dtype != gradients.dtype:
        dtype = _accumulation_dtype(features, gradients)
        features, gradients = features.to(dtype), gradients.to(dtype)
    return _ops.gradient_map(_as(features, features.dtype), _as(gradients, gradients.dtype), weighting, float(eps))


@_fake("gradient_map")
def _(features: Tensor, gradients: Tensor, weighting: str, eps: float) -> Tensor:
    return features.new_empty(features.shape[0], *features.shape[2:], dtype=_accumulation_dtype(features))


def heatmap(
    coarse: Tensor,
    size: int | Sequence[int],
    relu: bool = True,
    normalize: Literal["after", "before", "both"] | None = "after",
    mode: Mode = "bilinear",
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Coarse maps to pictures: ReLU, upsampling and min-max normalisation in one operator.

    Args:
        coarse: [..., h, w] with at least one leading dimension, any floating dtype.
        size: output height and width in pixels, or one integer for both.
        relu: clamp negative values to 0 first.
        normalize: min-max normalisation "after" upsampling, "before" it, "both", or None for none.
        mode: "bilinear" (align_corners=False) or "bicubic" (as cv2.INTER_CUBIC, in float64).
        dtype: torch.uint8 gives the truncated value 255·v (what lies outside [0, 1] saturates); None keeps the floats.

    Returns:
        [..., H, W] in [0, 1] (bicubic after "before" can leave it; None is not normalised): float64 for float64, else
        float32, or uint8. Maps that are constant or not finite are all zeros, but for ``normalize=None``, which leaves
        values as they are. Floating results are differentiable.

    Raises:
        TypeError: a dtype that is not floating-point.
        ValueError: a wrong rank, empty maps, a size that is not positive, an unknown option.
    """
    _coarse(coarse)
    _one_of("normalize", normalize, _NORMALIZE)
    _one_of("mode", mode, _MODES)
    _one_of("dtype", dtype, (None, torch.uint8))
    height, width = _size(size)
    maps, wanted, as_bytes = _flat(coarse), _accumulation_dtype(coarse), dtype == torch.uint8
    if as_bytes:
        maps = _as(maps, wanted)
    elif maps.dtype != wanted:
        maps = maps.to(wanted)
    out = _ops.heatmap(maps, height, width, relu, normalize or "none", mode, as_bytes)
    return _shaped(out, (*coarse.shape[:-2], height, width))


@_fake("heatmap")
def _(coarse: Tensor, height: int, width: int, relu: bool, normalize: str, mode: str, as_bytes: bool) -> Tensor:
    return coarse.new_empty(coarse.shape[0], height, width, dtype=torch.uint8 if as_bytes else coarse.dtype)


def _save_heatmap(ctx: Any, inputs: tuple[Tensor, int, int, bool, str, str, bool], output: Tensor) -> None:
    coarse, height, width, relu, normalize, mode, _ = inputs
    ctx.save_for_backward(coarse)
    ctx.options = (height, width), relu, normalize, mode


@_with_gradient("heatmap", _save_heatmap)
def _(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # The gradient of the same chain in torch's operators, whose ties at minimum and maximum share equally.
    (coarse,) = ctx.saved_tensors
    size, relu, normalize, mode = ctx.options
    if normalize != "none":  # maps that give zeros, whatever they are, have no gradient
        rectified = (coarse.relu() if relu else coarse).flatten(1)
        usable = (rectified.isfinite().all(1) & (rectified.amin(1) < rectified.amax(1)))[:, None, None]
        coarse, grad = torch.where(usable, coarse, 0), torch.where(usable, grad, 0)

    def chain(maps: Tensor) -> Tensor:
        maps = maps.relu() if relu else maps
        maps = _min_max(maps) if normalize in ("before", "both") else maps
        # Torch's bicubic has OpenCV's kernel (A = -0.75) and edges.
        maps = F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0]
        return _min_max(maps) if normalize in ("after", "both") else maps

    with torch.enable_grad():
        to_coarse = torch.func.vjp(chain, coarse)[1](grad)[0]
    return to_coarse, None, None, None, None, None, None


def _min_max(maps: Tensor) -> Tensor:
    """Maps [M, H, W] in [0, 1], zeros where that is not defined, in operations whose gradient is never NaN."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    usable = (high - low).isfinite() & (high > low)
    return torch.where(usable, (maps - low) / torch.where(usable, high - low, 1), 0)


def boxes(
    coarse: Tensor,
    size: int | Sequence[int],
    threshold: float | Sequence[float] | Tensor = 0.2,
    relu: bool = True,
    mode: Mode = "bilinear",
    connectivity: int = 8,
    largest: Largest = "pixels",
) -> Tensor:
    """Bounding box of the largest component above a threshold of each map; the upsampled map is never stored.

    The mask is ``(v - min) / (max - min) > float32(threshold)``, strict, of the map after ReLU and upsampling to
    ``size``, with minimum and maximum over all its pixels, in float32.

    Args:
        coarse: [..., h, w] with at least one leading dimension, any floating dtype (computed in float32).
        size: height and width, in pixels, of the map in which boxes are found, or one integer for both.
        threshold: relative to the map's range, in [0, 1]: a float; or a list of T thresholds. A tensor [...] or
            [..., T] instead gives *absolute* levels for each map, ``v > level``, before any normalisation (for rules
            relative to the maximum only, or to a percentile).
        relu: clamp negative values to 0 first.
        mode: "bilinear" or "bicubic".
        connectivity: 8 or 4 neighbours.
        largest: "pixels", the component with most pixels, the first in raster order where they tie; or "contour", the
            component with the largest cv2.contourArea of its outer border, the last where they tie, which is the
            standard WSOL evaluator's rule.

    Returns:
        int32 [..., 4], or [..., T, 4] for T thresholds: x0, y0, x1, y1 in pixels of ``size``, right and bottom
        exclusive; zeros where the mask is empty or the map constant or not finite.

    Raises:
        TypeError: a dtype that is not floating-point.
        ValueError: a wrong rank, empty maps, a threshold outside [0, 1] or of the wrong shape, an unknown option.

    Source: the box rule of Zhou et al., CVPR 2016, section 3.2 (20 % of the maximum, largest component).
    """
    _coarse(coarse)
    _search_options(mode, connectivity, largest)
    height, width = _size(size)
    levels, thresholds, shape = _levels(threshold, coarse.shape[:-2], coarse.device)
    maps = _flat(_as(coarse, torch.float32))
    return _shaped(_ops.boxes(maps, levels, thresholds, height, width, relu, mode, connectivity, largest), shape)


@_fake("boxes")
def _(
    coarse: Tensor,
    levels: Tensor | None,
    thresholds: list[float],
    height: int,
    width: int,
    relu: bool,
    mode: str,
    connectivity: int,
    largest: str,
) -> Tensor:
    count = len(thresholds) if levels is None else levels.shape[1]
    return coarse.new_empty(coarse.shape[0] * count, 4, dtype=torch.int32)


@overload
def class_boxes(
    features: Tensor,
    weights: Tensor,
    size: int | Sequence[int],
    threshold: float | Sequence[float] | Tensor = 0.2,
    relu: bool = True,
    mode: Mode = "bilinear",
    connectivity: int = 8,
    largest: Largest = "pixels",
    return_map: None = None,
) -> Tensor: ...


@overload
def class_boxes(
    features: Tensor,
    weights: Tensor,
    size: int | Sequence[int],
    threshold: float | Sequence[float] | Tensor = 0.2,
    relu: bool = True,
    mode: Mode = "bilinear",
    connectivity: int = 8,
    largest: Largest = "pixels",
    *,
    return_map: Literal["float32", "uint8"],
) -> tuple[Tensor, Tensor]: ...


def class_boxes(
    features: Tensor,
    weights: Tensor,
    size: int | Sequence[int],
    threshold: float | Sequence[float] | Tensor = 0.2,
    relu: bool = True,
    mode: Mode = "bilinear",
    connectivity: int = 8,
    largest: Largest = "pixels",
    return_map: Literal["float32", "uint8"] | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """:func:`class_map` and :func:`boxes` in one call: nothing between activations and boxes is stored.

    Args:
        features: activations [N, K, h, w] as for :func:`class_map`.
        weights: [N, K] or [N, C, K].
        size: as for :func:`boxes`, like all arguments that follow it.
        threshold: see :func:`boxes`; a tensor of absolute levels is [N], [N, C] or has a last dimension T more.
        relu: see :func:`boxes`.
        mode: see :func:`boxes`.
        connectivity: see :func:`boxes`.
        largest: see :func:`boxes`.
        return_map: "float32" or "uint8" also gives the map in which boxes are found, normalised to [0, 1] by its
            minimum and maximum, or its truncated value 255·v: in one pass over the activations, for about the time that
            storing it takes. It has no gradient.

    Returns:
        int32 [N, 4] or [N, C, 4], with a dimension T before the last for T thresholds; equal to
        ``boxes(class_map(features, weights), ...)`` bit for bit. With `return_map` the boxes and the map, [N, H, W] or
        [N, C, H, W], equal to ``heatmap(class_map(features, weights), ...)`` (computed in float32) bit for bit.

    Raises:
        TypeError: a dtype that is not floating-point.
        ValueError: as :func:`class_map` and :func:`boxes`; an unknown `return_map`.
    """
    x, w = _features_and_weights(features, weights)
    if 0 in x.shape[2:]:
        raise ValueError(f"`features` must have at least one position in [h, w], got {_shape(features)}")
    _one_of("return_map", return_map, _RETURN_MAP)
    _search_options(mode, connectivity, largest)
    height, width = _size(size)
    levels, thresholds, shape = _levels(threshold, weights.shape[:-1], x.device)
    if x.dtype == torch.float64 or 0 in shape:  # boxes are found in float32; without a threshold nothing is searched
        maps = class_map(features, weights)
        found = boxes(maps, size, threshold, relu, mode, connectivity, largest)
        if return_map is None:
            return found
        maps = _as(maps, torch.float32)
        return found, heatmap(maps, size, relu, mode=mode, dtype=torch.uint8 if return_map == "uint8" else None)
    x, w = _as(x, x.dtype), _as(w, w.dtype)
    options = (levels, thresholds, height, width, relu, mode, connectivity, largest)
    if return_map is None:
        return _shaped(_ops.class_boxes(x, w, *options), shape)
    found, maps = _ops.class_boxes_and_maps(x, w, *options, return_map == "uint8")
    return _shaped(found, shape), _shaped(maps, (*weights.shape[:-1], height, width))


@_fake("class_boxes")
def _(
    features: Tensor,
    weights: Tensor,
    levels: Tensor | None,
    thresholds: list[float],
    height: int,
    width: int,
    relu: bool,
    mode: str,
    connectivity: int,
    largest: str,
) -> Tensor:
    count = len(thresholds) if levels is None else levels.shape[1]
    return weights.new_empty(weights.shape[0] * weights.shape[1] * count, 4, dtype=torch.int32)


@_fake("class_boxes_and_maps")
def _(
    features: Tensor,
    weights: Tensor,
    levels: Tensor | None,
    thresholds: list[float],
    height: int,
    width: int,
    relu: bool,
    mode: str,
    connectivity: int,
    largest: str,
    as_bytes: bool,
) -> tuple[Tensor, Tensor]:
    maps = weights.shape[0] * weights.shape[1]
    count = len(thresholds) if levels is None else levels.shape[1]
    return (
        weights.new_empty(maps * count, 4, dtype=torch.int32),
        weights.new_empty(maps, height, width, dtype=torch.uint8 if as_bytes else torch.float32),
    )


def box_curves(maps: Tensor) -> Tensor:
    """The standard WSOL evaluator's box at every 8-bit level of finished maps.

    Entry T is the box of the largest contour (cv2.contourArea, the first in OpenCV's list where they tie) of the mask
    ``uint8(255 * map) > T``, the product in the map's own dtype and truncated.

    Args:
        maps: [N, H, W] normalised to [0, 1], any floating dtype (half types are widened). Values outside saturate and
            NaN counts as 0: check maps of unknown origin first.

    Returns:
        int32 [N, 256, 4]: x0, y0, min(x1, W - 1), min(y1, H - 1) with exclusive x1, y1, as the evaluator clamps them;
        zeros where no pixel is above the level.

    Raises:
        TypeError: a dtype that is not floating-point.
        ValueError: a wrong rank, maps without pixels or with a side of 65,536 pixels or more.

    Source: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020.
    """
    _finished_maps(maps)
    return _ops.box_curves(_as(maps, _accumulation_dtype(maps)))


@_fake("box_curves")
def _(maps: Tensor) -> Tensor:
    return maps.new_empty(maps.shape[0], 256, 4, dtype=torch.int32)


def iou_curves(
    maps: Tensor, boxes: Tensor, box_image: Tensor, contours: Literal["largest", "all"] = "largest"
) -> Tensor:
    """The best overlap with a true box at every 8-bit level of finished maps: all of a WSOL evaluation but its average.

    Entry T belongs to the mask ``uint8(255 * map) > T``, as in :func:`box_curves`. Its boxes are those of the contours
    that cv2.findContours finds: the largest alone, or all, which are the outer borders of the components (islands in
    holes too) and the borders of holes (a hole's box, one pixel wider on each side). Right and bottom edges are clamped
    to W - 1 and H - 1; without a contour the box [0, 0, 0, 0] counts.

    Args:
        maps: [N, H, W] as for :func:`box_curves`.
        boxes: true boxes [M, 4], xyxy in pixels of the maps, any real dtype.
        box_image: integers [M], the map that each belongs to, in [0, N), in any order.
        contours: "largest" (MaxBoxAcc) or "all" (MaxBoxAccV2).

    Returns:
        float64 [N, 256]: the highest IoU of any of the mask's boxes with any true box of that map, counted as the
        evaluator does, with right and bottom edges inside (one pixel more on every extent); 0 for a map without a true
        box.

    Raises:
        TypeError: a dtype that is not floating-point (maps), real (boxes) or integer (box_image).
        ValueError: a wrong rank, different M, two devices, an unknown name; and, on the CPU only, a box that is not
            finite or has x1 < x0 or y1 < y0, or a box_image outside [0, N). On a GPU looking at values would wait for
            it: boxes of images outside [0, N) are left out there, and IoU with an impossible box is meaningless.

    Source: Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020, and its
    extension (TPAMI 2022) for all contours.
    """
    _finished_maps(maps)
    _one_of("contours", contours, ("largest", "all"))
    truths, starts = _true_boxes(boxes, box_image, maps)
    return _ops.iou_curves(_as(maps, _accumulation_dtype(maps)), truths, starts, contours == "all")


@_fake("iou_curves")
def _(maps: Tensor, boxes: Tensor, starts: Tensor, all_contours: bool) -> Tensor:
    return maps.new_empty(maps.shape[0], 256, dtype=torch.float64)


def score_histograms(maps: Tensor, masks: Tensor, bins: int = 1000) -> Tensor:
    """Scores of object and background, counted by bin: what precision and recall by pixels are made of.

    Bin i < `bins` holds scores from the float64 product i · (1 / bins) up to the next one, which is not part of it; the
    last of them ends at 1, and two more follow, [1, 2) and [2, 3]. These are the standard WSOL evaluator's,
    ``np.append(np.arange(0, 1, 1 / bins), [1, 2, 3])``, and scores are compared with them in float64, so that the
    counts are those of numpy.histogram to the last pixel.

    Args:
        maps: [N, H, W] in [0, 1], any floating dtype (half types are widened). NaN and what lies outside [0, 3] is not
            counted: check maps of unknown origin first.
        masks: [N, H, W], bool or uint8: 1 is object, 0 background; pixels of any other value, 255 by convention, are
            not counted.
        bins: of the range [0, 1), from 1 to 4,096.

    Returns:
        int64 [N, 2, bins + 2]: pixels in each bin, of the background first, then of the object.

    Raises:
        TypeError: maps that are not floating-point, masks that are neither bool nor uint8.
        ValueError: a wrong rank, maps without pixels or with a side of 65,536 pixels or more, masks of another shape or
            on another device, bins out of range.

    Source: PxAP of Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020.
    """
    _finished_maps(maps)
    _bytes("masks", masks, "1 is object, 0 background, 255 ignored")
    _same_device("maps", maps, "masks", masks)
    if masks.shape != maps.shape:
        raise ValueError(f"`masks` must have the shape of `maps` {_shape(maps)}, got {_shape(masks)}")
    count = int(bins) if isinstance(bins, Integral) and not isinstance(bins, bool) else 0
    if not 1 <= count <= _MOST_BINS:
        raise ValueError(f"`bins` must be an integer from 1 to {_MOST_BINS:,}, got {bins!r}")
    return _ops.score_histograms(_as(maps, _accumulation_dtype(maps)), masks.contiguous().view(torch.uint8), count)


@_fake("score_histograms")
def _(maps: Tensor, masks: Tensor, bins: int) -> Tensor:
    return maps.new_empty(maps.shape[0], 2, bins + 2, dtype=torch.int64)


def refine(
    maps: Tensor, images: Tensor, dilations: Sequence[int] = (1, 2, 4, 8, 12, 24), iterations: int = 10
) -> Tensor:
    """Maps drawn to the edges of their images: pixel-adaptive mask refinement (PAMR).

    In each iteration a pixel becomes the mean of its neighbours, eight at each dilation, weighted by how alike they are
    in the image: softmax over neighbours j of −mean over channels of ``|I_i − I_j| / (0.1 σ_i + 1e-8)``, where σ_i is
    the deviation of the pixel and its neighbours, the pixel counted once for each dilation. Beyond the border lies the
    pixel at the border. No neighbours are stored: beside the result it takes the memory of about two of its size.

    Args:
        maps: [N, C, H, W], any floating dtype, computed in float32; mostly scores of classes in [0, 1], background
            among them. Coarse maps are upsampled first, by `heatmap` or `torch.nn.functional.interpolate`.
        images: [N, K, H, W] with 1 to 4 channels, uint8 or floating, in any scale: shifting a channel or multiplying it
            changes nothing.
        dilations: distances to the neighbours in pixels, at most 8, each from 1 to 1,024.
        iterations: how often; with 0 the maps come back as they are.

    Returns:
        float32 [N, C, H, W]; each value is a mean of the map's. NaN and infinity spread to all pixels that they are
        neighbours of; pixels beside such ones of the image weigh all neighbours alike.

    Raises:
        TypeError: maps that are not floating, images that are neither floating nor uint8.
        ValueError: a wrong rank, images of another number, size or device than the maps, no pixels, too many channels,
            dilations or iterations out of range.

    Source: Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020, section 3.3; constants
    and defaults are those of its published code.
    """
    _floating("maps", maps, "[N, C, H, W]", (4,))
    if isinstance(images, Tensor) and images.dtype == torch.uint8:
        images = images.float()
    _floating("images", images, "[N, K, H, W], uint8 or floating", (4,))
    _same_device("maps", maps, "images", images)
    if (len(images), *images.shape[2:]) != (len(maps), *maps.shape[2:]) or 0 in images.shape[2:]:
        raise ValueError(
            f"`images` must be [N, K, H, W] with the N, H and W of `maps` {_shape(maps)} and at least one pixel, got "
            f"{_shape(images)}: bring them to one size first"
        )
    if not 1 <= images.shape[1] <= _MOST_CHANNELS:
        raise ValueError(f"`images` must have 1 to {_MOST_CHANNELS} channels, got {images.shape[1]}")
    _few_pixels("maps", *maps.shape[2:])
    distances = [int(d) if isinstance(d, Integral) else 0 for d in dilations]
    if not 1 <= len(distances) <= _MOST_DILATIONS or not 1 <= min(distances) <= max(distances) <= _MOST_REACH:
        raise ValueError(
            f"`dilations` must be 1 to {_MOST_DILATIONS} integers from 1 to {_MOST_REACH:,}, got {dilations!r}"
        )
    if not isinstance(iterations, Integral) or isinstance(iterations, bool) or iterations < 0:
        raise ValueError(f"`iterations` must be an integer, 0 or more, got {iterations!r}")
    maps = _as(maps, torch.float32)
    return _ops.refine(maps, _as(images, torch.float32), distances, int(iterations)) if iterations else maps.clone()


@_fake("refine")
def _(maps: Tensor, images: Tensor, dilations: list[int], iterations: int) -> Tensor:
    return maps.new_empty(maps.shape)


def resize(
    picture: Tensor,
    size: int | Sequence[int],
    crop: Sequence[int] | None = None,
    first: Literal["rows", "columns"] = "rows",
) -> Tensor:
    """A picture in another size, by the arithmetic of Pillow's ``Image.resize`` with BILINEAR to the bit.

    A triangle filter that widens as the picture shrinks, in whole numbers, one axis after the other with bytes between.
    Which axis is first changes some bytes by one: Pillow before version 13 always begins with the rows. In one thread
    and on the CPU: pictures are prepared in several threads at once.

    Args:
        picture: uint8 [H, W, 3], on the CPU.
        size: height and width of the whole result in pixels, or one integer for both.
        crop: top, left, height and width of the part of the result that is wanted; None is all of it.
        first: "rows" changes the length of the rows first, "columns" that of the columns.

    Returns:
        uint8 [height, width, 3].

    Raises:
        TypeError: a picture that is not uint8.
        ValueError: a picture that is not [H, W, 3], is empty or not on the CPU, a crop that is not within the size.

    Source: the resampling of Pillow (src/libImaging/Resample.c).
    """
    if picture.dtype != torch.uint8:
        raise TypeError(f"`picture` must be uint8, got {picture.dtype}")
    if picture.dim() != 3 or picture.shape[2] != 3 or 0 in picture.shape:
        raise ValueError(f"`picture` must be [H, W, 3] with at least one pixel, got {_shape(picture)}")
    if picture.device.type != "cpu":
        raise ValueError(f"`picture` must be on the CPU, got {picture.device}")
    _one_of("first", first, ("rows", "columns"))
    height, width = _pair(size)
    if not 0 < min(height, width) <= max(height, width) < _MOST_PIXELS:
        raise ValueError(f"`size` must have sides from 1 to 2^30 - 1 pixels, got {size!r}")
    top, left, rows, columns = (0, 0, height, width) if crop is None else crop
    if min(top, left) < 0 or min(rows, columns) < 1 or top + rows > height or left + columns > width:
        raise ValueError(
            f"`crop` must be top, left, height, width within {height} x {width}, got {(top, left, rows, columns)}"
        )
    return _ops.resize(picture, height, width, top, left, rows, columns, first == "columns")


@_fake("resize")
def _(
    picture: Tensor, height: int, width: int, top: int, left: int, rows: int, columns: int, columns_first: bool
) -> Tensor:
    return picture.new_empty(rows, columns, 3)


@overload
def components(
    masks: Tensor,
    connectivity: int = ...,
    max_components: int | None = ...,
    min_area: int = ...,
    fill_holes: bool = ...,
    labels: Literal[False] = ...,
) -> tuple[Tensor, Tensor, Tensor]: ...
@overload
def components(
    masks: Tensor,
    connectivity: int = ...,
    max_components: int | None = ...,
    min_area: int = ...,
    fill_holes: bool = ...,
    *,
    labels: Literal[True],
) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...
def components(
    masks: Tensor,
    connectivity: int = 8,
    max_components: int | None = None,
    min_area: int = 1,
    fill_holes: bool = False,
    labels: bool = False,
) -> tuple[Tensor, ...]:
    """All connected components of a batch of masks: their boxes and areas, and a label image if wanted.

    The options work in this order, each on what the one before left: holes are filled, components are found, those
    that are too small are dropped, and of the others the largest stay. Boxes, areas and labels are of the filled
    components that stay: ``fill_holes`` and ``min_area`` give the components of
    ``remove_small_objects(binary_fill_holes(mask), min_area)``, a ring counts as the disk that it encloses, and what
    lies in a hole is part of it.

    Args:
        masks: [N, H, W], bool or uint8; nonzero is foreground.
        connectivity: 8 or 4 neighbours.
        max_components: at most so many of each mask, those with most pixels (the first in raster order where they
            tie); None for all.
        min_area: drop components of fewer pixels; 1 keeps all.
        fill_holes: make background that does not reach the border of the mask part of what surrounds it. Background is
            connected by 4 neighbours where `connectivity` is 8, and by 8 where it is 4, as the digital plane has it:
            what `scipy.ndimage.binary_fill_holes` fills by itself, or given ``structure=np.ones((3, 3))``.
        labels: return a label image too.

    Returns:
        ``(boxes, areas, image)`` over M components, by image and then by first pixel in raster order: int32 [M, 4]
        x0, y0, x1, y1 in pixels with exclusive right and bottom, int32 [M] pixel counts, int64 [M] index of the mask.
        With `labels` a fourth, int32 [N, H, W]: 0 is background or dropped, and i the i-th component of its mask in
        the table, so that every mask has labels of its own, 1, 2, … in the order of `scipy.ndimage.label`.

    Raises:
        TypeError: masks that are neither bool nor uint8.
        ValueError: a wrong rank, masks without pixels, an unknown connectivity, max_components or min_area below 1.
    """
    _bytes("masks", masks, "threshold maps first, `maps > t`")
    if masks.dim() != 3 or 0 in masks.shape[1:]:
        raise ValueError(f"`masks` must be [N, H, W] with at least one pixel, got {_shape(masks)}")
    _few_pixels("masks", *masks.shape[1:])
    _one_of("connectivity", connectivity, (4, 8))
    if max_components is not None and max_components < 1:
        raise ValueError(f"`max_components` must be 1 or more, or None, got {max_components}")
    if min_area < 1:
        raise ValueError(f"`min_area` must be 1 pixel, which keeps all, or more, got {min_area}")
    found = _ops.components(
        masks.contiguous().view(torch.uint8), connectivity, max_components, min_area, fill_holes, labels
    )
    return found if labels else found[:3]


@_fake("components")
def _(
    masks: Tensor, connectivity: int, max_components: int | None, min_area: int, fill_holes: bool, labels: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        masks.new_empty(count, 4, dtype=torch.int32),
        masks.new_empty(count, dtype=torch.int32),
        masks.new_empty(count, dtype=torch.int64),
        masks.new_empty((len(masks) if labels else 0, *masks.shape[1:]), dtype=torch.int32),
    )
