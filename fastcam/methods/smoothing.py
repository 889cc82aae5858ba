"""What makes maps smoother: the average over six views, the first principal component, and a Gaussian; and mirrors."""

import torch
from torch import Tensor

VIEWS = 6
_FACTORS = (1.0, 0.9, 1.1)  # the plain view first


def views(images: Tensor) -> Tensor:
    """The six views of aug_smooth, [6·N, 3, H, W]: three brightnesses, each as it is and mirrored; images first."""
    return mirrored(torch.cat([images, *(images * factor for factor in _FACTORS[1:])]))


def mirrored(images: Tensor) -> Tensor:
    """Images [N, ..., W], and after them their mirror images: [2·N, ..., W]."""
    return torch.cat([images, images.flip(-1)])


def merge_views(maps: Tensor) -> Tensor:
    """Average maps of the six views.

    Args:
        maps: [6·N, ..., H, W], floating, in the order of `views`.

    Returns:
        [N, ..., H, W]; mirrored views are turned back first.
    """
    plain, mirrored = maps.unflatten(0, (2, len(_FACTORS), -1)).unbind(0)
    return torch.cat([plain, mirrored.flip(-1)]).mean(0)


def projection(maps: Tensor) -> Tensor:
    """Project the channels of each position on their first principal component.

    The matrix of positions and channels, centred for each channel, is projected on its first right singular vector.
    That is found from the Gram matrix, positions by positions or channels by channels, whichever is smaller, instead
    of by a singular value decomposition. The sign, which is arbitrary, is such that the largest value by magnitude
    is positive.

    Source: Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020, equation 4;
    centred as in the popular package.

    Args:
        maps: [N, K, h, w], floating.

    Returns:
        [N, h, w] float32, float64 for float64; computed in float64. NaN where a picture's values are not finite.
    """
    n, channels, height, width = maps.shape
    matrix = maps.detach().double().flatten(2)  # [N, K, Z]
    sound = matrix.isfinite().all(-1).all(-1)
    matrix = torch.where(sound[:, None, None], matrix, 0)
    matrix = matrix - matrix.mean(2, keepdim=True)
    # Of like scale, so that squares neither overflow nor vanish.
    scale = matrix.abs().amax((1, 2), keepdim=True) if matrix.numel() else matrix.new_ones(n, 1, 1)
    matrix = matrix / torch.where(scale > 0, scale, 1)
    with torch.autocast(maps.device.type, enabled=False):
        if height * width <= channels:
            values, vectors = torch.linalg.eigh(matrix.mT @ matrix)
            found = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
        else:
            _, vectors = torch.linalg.eigh(matrix @ matrix.mT)
            found = (vectors[..., -1:].mT @ matrix)[:, 0]
    if found.shape[-1]:
        found = torch.where(-found.amin(-1, keepdim=True) > found.amax(-1, keepdim=True), -found, found)
    found = torch.where(sound[:, None], found * scale[:, 0], torch.nan)
    exact = torch.promote_types(maps.dtype, torch.float32)
    return found.unflatten(-1, (height, width)).to(exact)


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """Smooth maps by a Gaussian that is cut off at four standard deviations; edges are repeated outwards.

    Args:
        maps: [..., H, W], floating.
        sigma: standard deviation in pixels, 0 or more.

    Returns:
        [..., H, W] of the same dtype.
    """
    radius = int(4 * sigma + 0.5)
    if not radius:
        return maps
    steps = torch.arange(-radius, radius + 1, device=maps.device)
    weights = torch.exp(-0.5 * (steps.double() / sigma) ** 2)
    weights = (weights / weights.sum()).to(maps.dtype)

    def along(length: int) -> Tensor:
        """[length, length]: how much of each pixel comes to each; a product is ten times as fast as a convolution."""
        places = (torch.arange(length, device=maps.device)[:, None] + steps).clamp(0, length - 1)
        return maps.new_zeros(length, length).scatter_add_(1, places, weights.expand(length, -1))

    with torch.autocast(maps.device.type, enabled=False):
        return along(maps.shape[-2]) @ maps @ along(maps.shape[-1]).mT
