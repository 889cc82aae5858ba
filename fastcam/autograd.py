"""What torch has to know about the operators besides their kernels: shapes for torch.compile, and gradients."""

import torch
import torch.nn.functional as F
from torch import Tensor


def register() -> None:
    """Register shapes and gradients; the extension must have been loaded."""
    plain = (_gradient_map, _boxes, _class_boxes, _box_curves, _iou_curves, _score_histograms, _resize, _components)
    for function in (_class_map, _heatmap, *plain):
        torch.library.register_fake(f"fastcam::{function.__name__[1:]}", function)
    torch.library.register_autograd("fastcam::class_map", _class_map_backward, setup_context=_save_class_map)
    torch.library.register_autograd("fastcam::heatmap", _heatmap_backward, setup_context=_save_heatmap)


# ---- shapes ----------------------------------------------------------------------------------------------------------


def _class_map(features, weights):
    return weights.new_empty(*weights.shape[:2], *features.shape[2:])


def _gradient_map(features, gradients, weighting, eps):
    return features.new_empty(
        features.shape[0],
        *features.shape[2:],
        dtype=torch.float64 if features.dtype == torch.float64 else torch.float32,
    )


def _heatmap(coarse, height, width, relu, normalize, mode, as_bytes):
    return coarse.new_empty(coarse.shape[0], height, width, dtype=torch.uint8 if as_bytes else coarse.dtype)


def _boxes(coarse, levels, thresholds, height, width, relu, mode, connectivity, largest):
    count = len(thresholds) if levels is None else levels.shape[1]
    return coarse.new_empty(coarse.shape[0] * count, 4, dtype=torch.int32)


def _class_boxes(features, weights, levels, thresholds, height, width, relu, mode, connectivity, largest):
    count = len(thresholds) if levels is None else levels.shape[1]
    return weights.new_empty(weights.shape[0] * weights.shape[1] * count, 4, dtype=torch.int32)


def _box_curves(maps):
    return maps.new_empty(maps.shape[0], 256, 4, dtype=torch.int32)


def _iou_curves(maps, boxes, starts, all_contours):
    return maps.new_empty(maps.shape[0], 256, dtype=torch.float64)


def _score_histograms(maps, masks, bins):
    return maps.new_empty(maps.shape[0], 2, bins + 2, dtype=torch.int64)


def _resize(picture, height, width, top, left, rows, columns, columns_first):
    return picture.new_empty(rows, columns, 3)


def _components(masks, connectivity, max_components):
    count = torch.library.get_ctx().new_dynamic_size()
    return (
        masks.new_empty(count, 4, dtype=torch.int32),
        masks.new_empty(count, dtype=torch.int32),
        masks.new_empty(count, dtype=torch.int64),
    )


# ---- gradients -------------------------------------------------------------------------------------------------------


def _save_class_map(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _class_map_backward(ctx, grad):
    features, weights = ctx.saved_tensors
    to_features = to_weights = None
    with torch.autocast(grad.device.type, enabled=False):  # which would sum in half precision
        if ctx.needs_input_grad[0]:
            to_features = torch.einsum("nck,nchw->nkhw", weights, grad).to(features.dtype)
        if ctx.needs_input_grad[1]:
            to_weights = torch.einsum("nchw,nkhw->nck", grad, features.to(grad.dtype))
    return to_features, to_weights


def _save_heatmap(ctx, inputs, output):
    coarse, height, width, relu, normalize, mode, _ = inputs
    ctx.save_for_backward(coarse)
    ctx.options = (height, width), relu, normalize, mode


def _min_max_of(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    usable = (high - low).isfinite() & (high > low)
    return torch.where(usable, (maps - low) / torch.where(usable, high - low, 1), 0)


def _heatmap_backward(ctx, grad):
    # The gradient of the same chain in torch's operators, whose ties at minimum and maximum share equally.
    (coarse,) = ctx.saved_tensors
    size, relu, normalize, mode = ctx.options
    if normalize != "none":  # maps that give zeros, whatever they are, have no gradient
        rectified = (coarse.relu() if relu else coarse).flatten(1)
        usable = (rectified.isfinite().all(1) & (rectified.amin(1) < rectified.amax(1)))[:, None, None]
        coarse, grad = torch.where(usable, coarse, 0), torch.where(usable, grad, 0)

    def chain(maps: Tensor) -> Tensor:
        maps = maps.relu() if relu else maps
        maps = _min_max_of(maps) if normalize in ("before", "both") else maps
        # Torch's bicubic has OpenCV's kernel (A = -0.75) and edges.
        maps = F.interpolate(maps[:, None], size=size, mode=mode, align_corners=False)[:, 0]
        return _min_max_of(maps) if normalize in ("after", "both") else maps

    with torch.enable_grad():
        _, gradient = torch.func.vjp(chain, coarse)
        return gradient(grad)[0], None, None, None, None, None, None
