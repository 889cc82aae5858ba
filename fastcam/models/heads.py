"""What follows the last maps: global poolings, and the recognition of heads by their numbers."""

from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

Pool = Literal["gap", "gmp", "tap"]


class ThresholdedAvgPool2d(nn.Module):
    """Thresholded average pooling: the mean of those positions of a channel that exceed a fraction of its maximum.

    p_k = Σ F / max(1, count) over F > θ·max F. Small activations do not dilute the mean, so that a class is learnt
    from all of the object and not from its most distinct part alone.

    Source: Bae, Noh and Kim, Rethinking Class Activation Mapping for Weakly Supervised Object Localization, ECCV 2020,
    equation 5.

    Args:
        threshold: θ, in [0, 1).

    Raises:
        ValueError: the threshold is outside [0, 1).
    """

    def __init__(self, threshold: float = 0.1) -> None:
        super().__init__()
        if not 0 <= threshold < 1:
            raise ValueError(f"`threshold` must be at least 0 and less than 1, got {threshold!r}")
        self.threshold = threshold

    def forward(self, features: Tensor) -> Tensor:
        """Pool each channel.

        Args:
            features: [N, K, h, w], floating.

        Returns:
            [N, K, 1, 1] of the same dtype; zero for channels without a position above the threshold.
        """
        above = features > self.threshold * features.amax((2, 3), keepdim=True)
        total = torch.where(above, features, 0).sum((2, 3), keepdim=True)
        return total / above.sum((2, 3), keepdim=True).clamp(min=1)

    def extra_repr(self) -> str:  # noqa: D102
        return f"threshold={self.threshold}"


class Head(NamedTuple):
    """A classifier that is one global pooling and at most one linear layer.

    Attributes:
        weight: [C, K], of the linear layer; the identity where the pooled channels are themselves the logits.
        bias: [C], or None.
        relu: whether a ReLU stands between the target layer and the pooling.
        pool: "gap", the mean of each channel; "gmp", its maximum; "tap", its thresholded mean.
    """

    weight: Tensor
    bias: Tensor | None
    relu: bool
    pool: Pool = "gap"


def find_head(
    features: Tensor, linear: nn.Linear | None, pooled: Tensor | None, thresholds: Iterable[float] = ()
) -> Head | None:
    """Recognise, from one forward pass, a head in which each logit is a weighted sum of pooled channels.

    However the pooling is written, the numbers decide: the linear layer (or the logits, where there is none) must have
    seen each channel's mean, maximum or thresholded mean, or that of its positive part. This is checked on the very
    pictures that the maps are for. With the mean, logit = mean(CAM) + bias.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equations 1 and 2.

    Args:
        features: [N, K, h, w], floating, output of the target layer.
        linear: the linear layer that gave the logits; None where `pooled` are the logits.
        pooled: [N, K], floating, what that layer was given, or None.
        thresholds: those of thresholded average poolings that the network holds.

    Returns:
        The head, or None where there is no such pooling.

    Raises:
        IndexError: `features` have fewer than four dimensions, though `pooled` fits the first two.
        TypeError: `pooled` fits them, but is not floating.
    """
    if pooled is None or pooled.shape != features.shape[:2]:
        return None
    exact = torch.promote_types(features.dtype, torch.float32)
    given = pooled.to(exact)
    scale = features.abs().mean((2, 3), dtype=exact)
    # Summation orders and half types differ by far less than any other pooling would.
    tolerance = torch.finfo(pooled.dtype).eps ** 0.5
    pools: list[tuple[Pool, Callable[[Tensor], Tensor]]] = [
        ("gap", lambda maps: maps.mean((2, 3), dtype=exact)),
        ("gmp", lambda maps: maps.amax((2, 3))),
        # Its threshold cuts where the network's own precision has it.
        *(("tap", nn.Sequential(ThresholdedAvgPool2d(threshold), nn.Flatten())) for threshold in thresholds),
    ]
    for name, pool in pools if features.numel() else pools[:1]:
        for relu in (False, True):
            values = pool(features.relu() if relu else features)
            if not ((values - given).abs() > tolerance * scale).any():  # NaN is no objection: it shows in the map
                if linear is None:
                    weight, bias = torch.eye(features.shape[1], dtype=exact, device=features.device), None
                else:
                    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
                return Head(weight, bias, relu, name)
    return None
