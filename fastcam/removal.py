"""What stands in for pixels that are taken away: nothing, a blur, or the pixels around."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Baseline = Literal["zero", "blur"] | Tensor


def background(baseline: Baseline, images: Tensor) -> Tensor:
    """Make the pictures that show where others are taken away.

    Args:
        baseline: "zero", "blur" (see `blurred`), or a tensor that broadcasts to the images.
        images: [N, K, H, W], floating.

    Returns:
        [N, K, H, W] of the images' dtype and device; may share memory with `baseline`.

    Raises:
        ValueError: an unknown baseline, or a tensor that does not broadcast.
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(images).expand_as(images)
        except RuntimeError:
            raise ValueError(
                f"`baseline` must broadcast to the images {list(images.shape)}, got {list(baseline.shape)}"
            ) from None
    if baseline == "zero":
        return images.new_zeros(()).expand_as(images)
    if baseline == "blur":
        return blurred(images)
    raise ValueError(f'`baseline` must be "zero", "blur" or a tensor, got {baseline!r}')


def blurred(images: Tensor) -> Tensor:
    """Blur pictures as RISE's insertion game does: 11×11 pixels, σ = 5.

    The published kernel is a Gaussian whose tails are mirrored back into its 11 taps; beyond the border lie zeros.

    Source: Petsiuk et al., BMVC 2018 (see `fastcam.metrics.insertion`), published code.

    Args:
        images: [N, K, H, W], floating.

    Returns:
        [N, K, H, W], likewise.

    Raises:
        RuntimeError: the images are not [N, K, H, W] or not floating.
    """
    reach = torch.arange(-20, 21)
    weights = torch.exp(-(reach.double() ** 2) / 50)
    place = (5 + reach) % 22
    taps = torch.zeros(11, dtype=torch.float64).index_add_(0, place.minimum(21 - place), weights / weights.sum())
    padded = F.pad(images, (5, 5, 5, 5))
    # Shifted sums and no convolution, which may run in TF32 on a GPU.
    height, width = images.shape[2:]
    rows = sum(float(tap) * padded[:, :, i : i + height] for i, tap in enumerate(taps))
    return sum(float(tap) * rows[..., i : i + width] for i, tap in enumerate(taps))


def impute(images: Tensor, missing: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Replace pixels by the weighted mean of their eight neighbours, imputed ones included.

    The sides weigh 1/6 and the corners 1/12, less at the border; that is one linear equation for each missing pixel,
    solved for all pictures and channels at once by conjugate gradients.

    Source: Rong et al., ICML 2022 (see `fastcam.metrics.road`): noisy linear imputation, without the noise.

    Args:
        images: [N, K, H, W], floating.
        missing: bool [N, H, W], the pixels to replace.
        tolerance: the equations' residual, relative to the right-hand side, at which the iteration ends, > 0.

    Returns:
        [N, K, H, W] of the images' dtype and device. Where all of a picture is missing it becomes zero.

    Raises:
        TypeError: images are not floating, or `missing` is not bool.
        ValueError: the shapes do not fit, or the tolerance is not positive.
    """
    if not images.is_floating_point() or missing.dtype != torch.bool:
        raise TypeError(f"`images` must be floating and `missing` bool, got {images.dtype} and {missing.dtype}")
    if images.dim() != 4 or missing.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"`images` must be [N, K, H, W] and `missing` [N, H, W], got {list(images.shape)} and {list(missing.shape)}"
        )
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive, got {tolerance!r}")
    if images.is_cuda or len(images) < 2:
        return _solved(images, missing, tolerance)
    # On a CPU one picture after the other: it stays in the cache, and does not wait for the slowest.
    parts = zip(images.split(1), missing.split(1), strict=True)
    return torch.cat([_solved(image, hole, tolerance) for image, hole in parts])


def _solved(images: Tensor, missing: Tensor, tolerance: float) -> Tensor:
    exact = torch.promote_types(images.dtype, torch.float32)
    hole = missing[:, None].to(exact)
    known = torch.where(missing[:, None], 0, images.to(exact))
    total = _neighbours(torch.ones_like(hole))  # of the weights; a single pixel has no neighbours
    total = torch.where(total > 0, total, 1)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    residual = hole * _neighbours(known)
    solution = torch.zeros_like(residual)
    direction = conditioned = residual / total
    power = dot(residual, conditioned)
    enough = tolerance * dot(residual, residual).sqrt()
    for step in range(1, 10 * sum(images.shape[2:]) + 1):  # in practice about one per pixel of a side
        image = hole * (total * direction - _neighbours(direction))
        curvature = dot(direction, image)
        length = torch.where(curvature > 0, power / curvature, 0)
        solution = solution + length * direction
        residual = residual - length * image
        # Asked now and then only, since the answer has to come from the device.
        if step % 16 == 0 and bool((dot(residual, residual).sqrt() <= enough).all()):
            break
        conditioned = residual / total
        previous, power = power, dot(residual, conditioned)
        direction = conditioned + torch.where(previous > 0, power / previous, 0) * direction
    return torch.where(missing[:, None], solution, images.to(exact)).to(images.dtype)


def _neighbours(values: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours, nothing beyond the border; the sides weigh 1/6, the corners 1/12."""
    wide = F.pad(values, (1, 1))
    rows = wide[..., :-2] + wide[..., 2:]
    tall = F.pad(2 * values + rows, (0, 0, 1, 1))
    return (2 * rows + tall[..., :-2, :] + tall[..., 2:, :]) / 12
