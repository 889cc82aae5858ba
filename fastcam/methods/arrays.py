"""CAM of arrays that are there already, in the layout of Keras and TensorFlow."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from fastcam import ops

A = TypeVar("A", np.ndarray, Tensor)


def cam_from_arrays(
    features: A,
    kernel: Any,
    class_index: int | Sequence[int] | np.ndarray | Tensor,
    size: int | Sequence[int],
    *,
    relu: bool = False,
    normalize: Literal["after", "before", "both"] | None = "after",
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> A:
    """Compute class activation maps of features with the channels last, and the kernel of a dense layer.

    CAM_c(x, y) = Σ_k A[n, x, y, k]·W[k, c], upsampled and normalised as by `fastcam.ops.heatmap`. The layout is that of
    Keras: features and kernel are what its models and `layer.get_weights()[0]` give. Features are read where they lie,
    without a copy; of the kernel the columns of the classes are taken.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equation 2.

    Args:
        features: [N, h, w, K], floating: output of the layer before the global average pooling, as a NumPy array or a
            tensor on any device; other arrays (JAX's, TensorFlow's) become NumPy's.
        kernel: [K, C], floating: of the dense layer after the pooling; array or tensor.
        class_index: of the class to show, in 0 … C - 1: one for all pictures, or one for each, [N].
        size: (height, width) of the maps in pixels, or the side of squares; usually that of the pictures.
        relu: count negative values as zero, before upsampling.
        normalize: min-max "after" upsampling, "before" it, "both", or None for the values of the sum.
        mode: "bilinear" or "bicubic" upsampling.

    Returns:
        [N, H, W] float32 (float64 if features or kernel are), in [0, 1] but for `normalize=None`; zeros where a map is
        constant. A tensor where features are one, else a NumPy array.

    Raises:
        TypeError: features, kernel or class indices of another dtype.
        ValueError: of another shape, a kernel for another number of channels, a class out of range, features or weights
            with NaN or infinity, or an option that `fastcam.ops.heatmap` does not have.

    Example:
        >>> inner = keras.Model(model.input, [model.get_layer("last_conv").output, model.output])
        >>> features, scores = inner.predict(images)
        >>> kernel, bias = model.get_layer("predictions").get_weights()
        >>> maps = fastcam.cam_from_arrays(features, kernel, scores.argmax(1), size=images.shape[1:3])
    """
    maps, weights = _floats("features", features), _floats("kernel", kernel)
    if maps.dim() != 4 or 0 in maps.shape[1:]:
        raise ValueError(f"`features` must be [N, h, w, K], with the channels last, got {list(maps.shape)}")
    if weights.dim() != 2 or len(weights) != maps.shape[3]:
        turned = weights.dim() == 2 and weights.shape[1] == maps.shape[3]
        raise ValueError(
            f"`kernel` must be [K, C] = [{maps.shape[3]}, C] for `features` {list(maps.shape)}, got "
            f"{list(weights.shape)}{': transpose it' if turned else ''}"
        )
    rows = weights.T[_classes(class_index, len(maps), weights.shape[1]).to(weights.device)].to(maps.device)
    coarse = ops.class_map(maps.permute(0, 3, 1, 2), rows)
    if not coarse.isfinite().all():
        wrong = int((~coarse.isfinite()).flatten(1).any(1).nonzero()[0])
        raise ValueError(f"the map of picture {wrong} is not finite: its features or the kernel have NaN or infinity")
    found = ops.heatmap(coarse, size, relu, normalize, mode)
    return found if isinstance(features, Tensor) else found.numpy()


def _floats(name: str, values: Any) -> Tensor:
    """As a tensor, of the same memory where possible."""
    if isinstance(values, Tensor):
        if not values.is_floating_point():
            raise TypeError(f"`{name}` must be floating, got {values.dtype}")
        return values.detach()
    array = np.asarray(values)
    if array.dtype.newbyteorder("=") not in (np.float16, np.float32, np.float64):
        raise TypeError(f"`{name}` must be floating, of 16, 32 or 64 bits, got {array.dtype}")
    if min(array.strides, default=0) < 0 or not array.dtype.isnative:  # which tensors cannot be
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nothing is written
        return torch.from_numpy(array)


def _classes(index: Any, count: int, classes: int) -> Tensor:
    """Class indices, int64 [N]."""
    found = torch.as_tensor(index)
    found = found if found.numel() else found.long()  # an empty list has no dtype of its own
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(f"`class_index` must be whole numbers, got {found.dtype}")
    if found.dim() > 1 or (found.dim() == 1 and len(found) != count):
        raise ValueError(f"`class_index` must be one for all or one for each of {count} pictures, got {index!r}")
    found = found.long().expand(count)
    outside = found[(found < 0) | (found >= classes)]
    if len(outside):
        raise ValueError(f"`class_index` must be in 0 … {classes - 1}, the kernel's classes, got {int(outside[0])}")
    return found
