"""Grad-CAM and its family: channels, or single positions, weighted by the gradient of the score."""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Unpack

import torch
from torch import Tensor, nn

from fastcam._check import one_of
from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers, WeightedSum
from fastcam.methods.forward import Forward
from fastcam.methods.smoothing import projection
from fastcam.models import Head
from fastcam.reference import nonzero, ratio_base


class GradientMethod(Method):
    """Base of the methods that weight activations A [N, K, h, w] by the gradient G of the score.

    Only the layers after the target layer are differentiated. After global average pooling and one linear layer,
    G is W[c]/Z (Z = h·w) at every position of a class's logit, so no backward pass is needed; whether that holds is
    seen from the forward pass. A subclass names its weighting and gives the channel weights for that case.
    """

    _needs_gradients = True
    _weighting: ClassVar[str]
    eps: float | None = None

    _any_pooling: ClassVar[bool] = False  # whether `_channel_weights` holds after other poolings than the mean

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        """The weights [N, k, K] where the gradient [N, k, K] is the same at all positions.

        `total` [N, 1, K] is the sum of the activations over the positions, h·w in number.
        """
        raise NotImplementedError

    def _weights(self, features: Tensor, gradients: Tensor) -> Tensor:
        """The weights [N, K, h, w] or [N, K, 1, 1] of activations with these gradients, both [N, K, h, w]."""
        raise NotImplementedError

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        with torch.no_grad():
            return self._closed_form(self._seen(run)) is None

    def _knows_gradients(self, images: Tensor) -> bool:
        few = torch.randn(2, *images.shape[1:], generator=torch.Generator().manual_seed(0)).to(images)
        with torch.inference_mode(False), torch.no_grad():
            reshape = [self.reshape_transform] * len(self.layers)
            run = Forward(self.model, self.layers, few, None, None, graph=list(self.layers), reshape=reshape)
            return self._closed_head(run, strided=True) is not None

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        closed = self._closed_form(forward)
        if closed is not None:
            return [closed]
        return self._by_gradients(forward, self._sums)

    def _eigen_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        closed = self._closed_form(forward)
        if closed is not None:
            return self._projected([closed])
        return self._by_gradients(forward, lambda a, g: projection(a * self._weights(a, g)))

    def _sums(self, features: Tensor, gradients: Tensor) -> Tensor:
        """The coarse map [N, h, w]."""
        return self.ops.gradient_map(features, gradients, self._weighting, self.eps)

    def _closed_head(self, forward: Forward, strided: bool = False) -> Head | None:
        """The head that gives the gradient of a class; None where none does."""
        head = forward.head(0) if len(self.layers) == 1 and forward.explains_logits else None
        if head is None or head.relu or not (head.pool == "gap" or self._any_pooling):
            return None
        return head if forward.has_plain_path(0, head, strided) else None

    def _closed_form(self, forward: Forward) -> WeightedSum | None:
        """The map without a backward pass, where a head gives the gradient; None where it does not."""
        classes, head = forward.targets.classes, self._closed_head(forward)
        if head is None or classes is None:
            return None
        (features,) = forward.features
        positions = features.shape[-2] * features.shape[-1]
        exact = torch.promote_types(features.dtype, torch.float32)
        gradient = head.weight[classes].to(exact) / positions
        if head.pool == "tap":  # channels without a positive value are pooled to a constant
            gradient = gradient * (features.amax((2, 3)) > 0)[:, None]
        total = features.sum((2, 3), dtype=exact)[:, None]
        return WeightedSum(features, self._channel_weights(gradient, total, positions))

    def _by_gradients(self, forward: Forward, coarse: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
        ranks = [
            [coarse(features, gradients) for features, gradients in zip(forward.features, layers, strict=True)]
            for layers in forward.gradients()
        ]
        return [torch.stack(maps, 1) for maps in zip(*ranks, strict=True)]


def _checked(eps: float) -> float:
    if not 0 <= eps < math.inf:
        raise ValueError(f"`eps` must be a finite number, 0 or more, got {eps!r}")
    return eps


def _exact(*tensors: Tensor) -> list[Tensor]:
    """In float32, or float64 where they are."""
    return [tensor.to(torch.promote_types(tensor.dtype, torch.float32)) for tensor in tensors]


class GradCAM(GradientMethod):
    """Grad-CAM: channels weighted by the mean of their gradient.

    Σ_k mean(G_k)·A_k, then ReLU. For any layer of any network.

    Source: Selvaraju et al., Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization,
    ICCV 2017, equations 1 and 2.

    Example:
        >>> with fastcam.GradCAM(model, target_layers=["layer4"]) as cam:
        ...     maps = cam(images, targets=281)  # [N, H, W] in [0, 1]
    """

    _weighting = "gradcam"
    _any_pooling = True

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        return gradient

    def _weights(self, features: Tensor, gradients: Tensor) -> Tensor:
        (gradients,) = _exact(gradients)
        return gradients.mean((2, 3), keepdim=True)


class HiResCAM(GradientMethod):
    """HiResCAM: each position weighted by its own gradient.

    Σ_k G_k⊙A_k, then ReLU.

    Source: Draelos and Carin, Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
    networks, 2020.

    Example:
        >>> maps = fastcam.HiResCAM(model, target_layers=["layer3"])(images)
    """

    _weighting = "hirescam"

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        return gradient

    def _weights(self, features: Tensor, gradients: Tensor) -> Tensor:
        return gradients


class EigenGradCAM(HiResCAM):
    """Eigen-Grad-CAM: the first principal component of activations times gradients.

    The projection of G_k⊙A_k, centred for each channel, on its first right singular vector: Eigen-CAM that tells
    classes apart. The same as HiResCAM with `eigen_smooth`.

    Source: Muhammad and Yeasin, Eigen-CAM: Class Activation Map using Principal Components, IJCNN 2020, equation 4, of
    the gradient-weighted activations, as the popular package defines it.

    Example:
        >>> maps = fastcam.EigenGradCAM(model)(images)
    """

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        return self._eigen_maps(forward)


class LayerCAM(GradientMethod):
    """LayerCAM: each position weighted by the positive part of its gradient; made for early layers.

    Σ_k ReLU(G_k)⊙A_k, then ReLU.

    Source: Jiang et al., LayerCAM: Exploring Hierarchical Class Activation Maps for Localization, IEEE TIP 2021.

    Example:
        >>> maps = fastcam.LayerCAM(model, target_layers=["layer2"])(images)
    """

    _weighting = "layercam"

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        return gradient.relu()

    def _weights(self, features: Tensor, gradients: Tensor) -> Tensor:
        return gradients.relu()


class XGradCAM(GradientMethod):
    """XGrad-CAM: channels weighted by their gradient, averaged with the activations as weights.

    w_k = Σ(G_k⊙A_k)/(ΣA_k + eps); Σ_k w_k·A_k, then ReLU.

    Source: Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        eps: keeps the quotient finite where a channel's activations cancel; subtracted where their sum is negative.
        **options: as in `Method`.

    Example:
        >>> maps = fastcam.XGradCAM(model)(images)
    """

    _weighting = "xgradcam"
    eps: float

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        eps: float = 1e-7,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        self.eps = _checked(eps)

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        return gradient * total / ratio_base(total, self.eps)

    def _weights(self, features: Tensor, gradients: Tensor) -> Tensor:
        features, gradients = _exact(features, gradients)
        total = features.sum((2, 3), keepdim=True)
        return (gradients * features).sum((2, 3), keepdim=True) / ratio_base(total, self.eps)


class GradCAMPlusPlus(GradientMethod):
    """Grad-CAM++: positive gradients, weighted so that each occurrence of an object counts alike.

    a = G²/(2G² + ΣA_k·G³ + eps), w_k = Σ a·ReLU(G_k); Σ_k w_k·A_k, then ReLU.

    The author's own code divides a by its sum over the positions with positive gradients, and has no eps: with
    `variant="author"` w_k = Σ a·ReLU(G_k) / Σ_{G>0} a. After global average pooling that is ReLU(G_k), so that the map
    is CAM without the negative weights.

    Source: Chattopadhyay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV
    2018, equations 10 and 19.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        eps: keeps the quotient finite where the gradient is zero. 1e-6, the popular package's, is not negligible: at
            a ResNet's last stage 2G² is about 5e-7. The author's variant does without.
        variant: "paper" or "author".
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; an eps that is negative or not finite, an unknown variant.

    Example:
        >>> maps = fastcam.GradCAMPlusPlus(model)(images)
    """

    _weighting = "gradcam++"
    eps: float

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        eps: float = 1e-6,
        variant: Literal["paper", "author"] = "paper",
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        one_of("variant", variant, ("paper", "author"))
        self.eps, self.variant = _checked(eps), variant

    def _sums(self, features: Tensor, gradients: Tensor) -> Tensor:
        if self.variant == "paper":
            return super()._sums(features, gradients)
        return self.ops.class_map(features, self._weights(features, gradients).flatten(1))

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        if self.variant == "author":
            return gradient.relu()
        square = gradient**2
        alpha = square / nonzero(2 * square + total * gradient * square + self.eps)
        return torch.where(gradient > 0, positions * alpha * gradient, 0)

    def _weights(self, features: Tensor, gradients: Tensor) -> Tensor:
        features, gradients = _exact(features, gradients)
        square = gradients**2
        denominator = 2 * square + features.sum((2, 3), keepdim=True) * gradients * square
        if self.variant == "paper":
            denominator = denominator + self.eps
        alpha = torch.where(gradients > 0, square / nonzero(denominator), 0)
        weights = (alpha * gradients).sum((2, 3), keepdim=True)
        if self.variant == "paper":
            return weights
        total = alpha.sum((2, 3), keepdim=True)
        return weights / nonzero(total)
