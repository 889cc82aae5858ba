"""Grad-CAM and its family: channels, or single positions, weighted by the gradient of the score."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastcam.methods.core import Method, WeightedSum
from fastcam.methods.forward import Forward


def _checked(eps: float) -> float:
    if not 0 <= eps < math.inf:
        raise ValueError(f"`eps` must be a finite number, 0 or more, got {eps!r}")
    return eps


class GradientMethod(Method):
    """Base of the methods that weight activations A [N, K, h, w] by the gradient G of the score.

    Only the layers after the target layer are differentiated. After global average pooling and one linear layer,
    G is W[c]/Z (Z = h·w) at every position of a class's logit, so no backward pass is needed; whether that holds is
    seen from the forward pass. A subclass names its weighting and gives the channel weights for that case.
    """

    _needs_gradients = True
    _weighting: ClassVar[str]
    eps: float | None = None

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        """The weights [N, k, K] where the gradient [N, k, K] is the same at all positions.

        Args:
            gradient: G of each class and channel, [N, k, K].
            total: sum of the activations over positions, [N, 1, K].
            positions: their number, h·w.
        """
        raise NotImplementedError

    def _layer_maps(self, forward: Forward) -> list[WeightedSum | Tensor]:
        head = forward.head(0) if len(self.layers) == 1 and forward.targets.classes is not None else None
        if head is not None and not head.relu:
            (features,) = forward.features
            positions = features.shape[-2] * features.shape[-1]
            exact = torch.promote_types(features.dtype, torch.float32)
            gradient = head.weight[forward.targets.classes].to(exact) / positions
            total = features.sum((2, 3), dtype=exact)[:, None]
            return [WeightedSum(features, self._channel_weights(gradient, total, positions))]
        ranks = [
            [
                self.ops.gradient_map(features, gradients, self._weighting, self.eps)
                for features, gradients in zip(forward.features, layers, strict=True)
            ]
            for layers in forward.gradients()
        ]
        return [torch.stack(maps, 1) for maps in zip(*ranks, strict=True)]


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

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        return gradient


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


class XGradCAM(GradientMethod):
    """XGrad-CAM: channels weighted by their gradient, averaged with the activations as weights.

    w_k = Σ(G_k⊙A_k)/(ΣA_k + eps); Σ_k w_k·A_k, then ReLU.

    Source: Fu et al., Axiom-based Grad-CAM: Towards Accurate Visualization and Explanation of CNNs, BMVC 2020.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        eps: keeps the quotient finite where a channel's activations cancel.
        **options: as in `Method`.

    Example:
        >>> maps = fastcam.XGradCAM(model)(images)
    """

    _weighting = "xgradcam"

    def __init__(self, model: Any, target_layers: Any = None, *, eps: float = 1e-7, **options: Any) -> None:
        super().__init__(model, target_layers, **options)
        self.eps = _checked(eps)

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        return gradient * total / (total + self.eps)


class GradCAMPlusPlus(GradientMethod):
    """Grad-CAM++: positive gradients, weighted so that each occurrence of an object counts alike.

    a = G²/(2G² + ΣA_k·G³ + eps), w_k = Σ a·ReLU(G_k); Σ_k w_k·A_k, then ReLU.

    Source: Chattopadhyay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV
    2018, equations 10 and 19.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        eps: keeps the quotient finite where the gradient is zero. 1e-6, the popular package's, is not negligible: at
            a ResNet's last stage 2G² is about 5e-7.
        **options: as in `Method`.

    Example:
        >>> maps = fastcam.GradCAMPlusPlus(model)(images)
    """

    _weighting = "gradcam++"

    def __init__(self, model: Any, target_layers: Any = None, *, eps: float = 1e-6, **options: Any) -> None:
        super().__init__(model, target_layers, **options)
        self.eps = _checked(eps)

    def _channel_weights(self, gradient: Tensor, total: Tensor, positions: int) -> Tensor:
        square = gradient**2
        alpha = square / (2 * square + total * gradient * square + self.eps)
        return torch.where(gradient > 0, positions * alpha * gradient, 0)
