"""FullGrad: the gradient of the picture, and of every bias in the network."""

from collections.abc import Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from fastcam._check import one_of
from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers
from fastcam.methods.forward import Forward


class FullGrad(Method):
    """FullGrad: the shares of all pixels and of all biases in a score, which together are the score.

    In a network of ReLUs S = Σ x⊙∂S/∂x + Σ_l Σ b_l⊙∂S/∂b_l exactly. The map is the sum of the magnitudes of both,
    ψ(x⊙∂S/∂x) + Σ_l Σ_k ψ(b_lk·G_lk) with G_lk the gradient at the output of channel k of layer l, where ψ takes the
    magnitude, stretches it to [0, 1] and upsamples it to the picture's size. Layers are the convolutions with a bias
    and the batch normalisations, whose bias is β − μ·γ/√(σ² + ε); each use of a layer counts. Other biases, as of the
    last linear layer, have no place in the picture and are left out.

    There is no target layer. Two passes, and one backward pass through the whole network for each class, all of whose
    activations stay in memory until then: batches may have to be smaller than with other methods.

    Source: Srinivas and Fleuret, Full-Gradient Representation for Neural Network Visualization, NeurIPS 2019,
    equations 2 and 7 (proposition 1 and the visualisation of section 4), by channels as the popular package has it.

    Args:
        model: as in `Method`.
        target_layers: None; there is no layer to choose.
        rescale: what is stretched to [0, 1]: each "channel" of a layer, as in the paper, or each "layer" as a whole, as
            in the authors' code, by which strong channels count more.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; a target layer or `reshape_transform`, or an unknown `rescale`.

    Example:
        >>> maps = fastcam.FullGrad(model)(images, targets=281)  # [N, H, W] in [0, 1]
    """

    relu = False
    _needs_gradients = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        rescale: Literal["channel", "layer"] = "channel",
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        if self.reshape_transform is not None:
            raise ValueError("FullGrad is of the images and all layers: there is no `reshape_transform` to give")
        one_of("rescale", rescale, ("channel", "layer"))
        self.rescale = rescale

    def _resolved(self, target_layers: TargetLayers) -> dict[str, nn.Module]:
        if target_layers is not None and target_layers != ():
            raise ValueError(f"FullGrad is of all layers: it has no target layer, got {target_layers!r}")
        return {}

    @property
    def _differentiated(self) -> dict[str, nn.Module]:
        return {}

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return True

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        biases = {module: bias for module in forward.model.modules() if (bias := _bias(module)) is not None}
        maps = []
        for images, found in forward.through_all(list(biases)):
            total = self._stretched(forward.images * images).sum(1)
            for module, gradient in found:
                layer = self._stretched(biases[module][:, None, None] * gradient).sum(1)  # a sum may come first
                total = total + self.ops.heatmap(layer, total.shape[-2:], False, None, self.mode)
            maps.append(total)
        return [torch.stack(maps, 1)]

    def _stretched(self, shares: Tensor) -> Tensor:
        """Magnitudes [N, K, h, w], of which the least is 0 and the highest 1; constant ones are 0."""
        size = shares.to(torch.promote_types(shares.dtype, torch.float32)).abs()
        dims = (2, 3) if self.rescale == "channel" else (1, 2, 3)
        size = size - size.amin(dims, keepdim=True)
        highest = size.amax(dims, keepdim=True)
        return size / torch.where(highest > 0, highest, 1)


def _bias(module: nn.Module) -> Tensor | None:
    """What a layer adds to each of its channels; None where it adds nothing, or is no such layer."""
    if isinstance(module, nn.Conv2d):
        return None if module.bias is None else module.bias.detach()
    if not isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
        return None
    bias = None if module.bias is None else module.bias.detach()
    if module.running_mean is None or module.running_var is None:  # by the statistics of the batch
        return bias
    shift = -module.running_mean / (module.running_var + module.eps).sqrt()
    shift = shift if module.weight is None else shift * module.weight.detach()
    return shift if bias is None else shift + bias
