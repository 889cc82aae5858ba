"""Gradients in the picture itself: backprop saliency, guided backprop and Guided Grad-CAM."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastcam._check import one_of
from fastcam.methods.cautions import saturated
from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers
from fastcam.methods.forward import IMAGES, Forward, ReshapeTransform
from fastcam.methods.gradient import GradCAM
from fastcam.methods.smoothing import blurred
from fastcam.models import Output, unwrap, with_output

_RECTIFIERS = {F.relu, F.relu6, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_}


class Attribution:
    """Base of the methods that give each pixel of the picture a value: gradients of the score with respect to it.

    One forward pass and, for each class, one backward pass to the images; parameters are not differentiated. A call
    leaves the model as it was, as with `fastcam.methods.Method`; results carry no graph.

    Args:
        model: a network, images [N, 3, H, W] to logits [N, C], or to what `output` finds scores in.
        output: as in `fastcam.methods.Method`.

    Attributes:
        outputs: logits [N, C] of the last call.
        targets: class indices of the last call, int64 [N] or [N, k]; None where targets were callables.
        cautions: what makes the gradients of the last call something else than it seems.

    Raises:
        TypeError: the model is no module.
    """

    _guided: ClassVar[bool] = False

    def __init__(self, model: nn.Module, *, output: Output | None = None) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
        self.model = with_output(model, output)
        self.cautions: list[str] = []
        self.outputs: Tensor | None = None
        self.targets: Tensor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: every call has already put the model back."""

    def __call__(self, images: Tensor, targets: Any = None, top_k: int | None = None) -> Tensor:
        """Compute the gradients.

        Args:
            images: [N, 3, H, W], normalised as the model wants it, on the model's device and of its dtype.
            targets: as for `fastcam.methods.Method`.
            top_k: instead of `targets`: the k highest classes of each picture, highest first.

        Returns:
            float32 (float64 for float64 images) of the images' size, not normalised, on their device: [N, 3, H, W],
            and [N, k, 3, H, W] for [N, k] targets, for `top_k` and for "all". Saliency has no dimension of colours.

        Raises:
            TypeError, ValueError: as with `fastcam.methods.Method`; guided backprop in a network without ReLU.
        """
        with torch.inference_mode(False), torch.no_grad(), _GuidedReLU() as rectifiers:
            rectifiers.enabled = self._guided
            forward = Forward(self.model, {IMAGES: self.model}, images, targets, top_k, graph=[IMAGES])
            if self._guided and not rectifiers.uses:
                raise ValueError(
                    f"guided backprop changes the gradient of ReLU, but {type(forward.model).__name__} uses none "
                    "(nn.ReLU, nn.ReLU6 or a function of that name): Saliency gives its plain gradient"
                )
            # Here too, since the network may have to run once more.
            found = torch.stack([self._finished(gradient) for (gradient,) in forward.gradients()], 1)
        caution = None if forward.targets.classes is None else saturated(forward)
        self.cautions = [] if caution is None else [caution]
        ranked, classes = forward.chosen.ranked, forward.chosen.classes
        self.outputs = forward.logits
        self.targets = classes if ranked or classes is None else classes[:, 0]
        return found if ranked else found[:, 0]

    def _finished(self, gradient: Tensor) -> Tensor:
        return _exact(gradient)


class Saliency(Attribution):
    """Backprop saliency: the largest gradient of each pixel over its colours.

    max over channels of ``|∂S_c/∂x|``, [N, H, W].

    Source: Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks: Visualising Image Classification
    Models and Saliency Maps, ICLR workshop 2014, section 3.1.

    Boxes are found in these values made smooth: `SaliencyMap`.

    Example:
        >>> saliency = fastcam.Saliency(model)(images, targets=281)  # [N, H, W], 0 or more
    """

    def _finished(self, gradient: Tensor) -> Tensor:
        return _strongest(gradient)


class SaliencyMap(Method):
    """Backprop saliency as a map to find boxes in: the baseline that CAM is measured against.

    max over channels of ``|∂S_c/∂x|``, smoothed by a Gaussian with σ = 0.02·max(H, W); then min-max, and the box around
    the largest component above 20 % of the range, as for every map. Saliency alone is single bright pixels, of which no
    component covers an object. It takes one backward pass for each class, through the whole network, all of whose
    activations stay in memory until then: batches may have to be smaller than with other methods.

    Source: the saliency from Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks: Visualising Image
    Classification Models and Saliency Maps, ICLR workshop 2014, section 3.1; the box from Zhou et al., Learning Deep
    Features for Discriminative Localization, CVPR 2016, section 3.2, which compares CAM with saliency (table 2); the
    smoothing from Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016, section 4, which blurs
    gradients by this σ, as TorchRay's benchmarks do (Fong, Patrick and Vedaldi, ICCV 2019). Simonyan et al. take the
    largest component of a GraphCut segmentation instead, whose colour models are of the pixels above the 95 % and below
    the 30 % quantile of the saliency.

    Args:
        model: as in `Method`.
        target_layers: None; there is no layer to choose.
        sigma: standard deviation of the Gaussian as a fraction of the longer side, 0 for none.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; a target layer or `reshape_transform`, or a sigma that is negative or
            not finite.

    Example:
        >>> boxes = fastcam.methods.SaliencyMap(model).boxes(images, targets=281)  # [N, 4]
    """

    relu = False
    _needs_gradients = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        sigma: float = 0.02,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        if self.reshape_transform is not None:
            raise ValueError("saliency is of the images themselves: there is no `reshape_transform` to give")
        if not 0 <= sigma < math.inf:
            raise ValueError(f"`sigma` must be a fraction of the longer side, 0 or more, got {sigma!r}")
        self.sigma = sigma

    def _resolved(self, target_layers: TargetLayers) -> dict[str, nn.Module]:
        if target_layers is not None and target_layers != ():
            raise ValueError(f"saliency is of the images themselves: it has no target layer, got {target_layers!r}")
        return {}

    @property
    def _watched(self) -> dict[str, nn.Module]:
        return {IMAGES: unwrap(self.model)}

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return True

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        sigma = self.sigma * max(forward.images.shape[-2:])
        maps = [blurred(_strongest(gradient), sigma) for (gradient,) in forward.gradients()]
        return [torch.stack(maps, 1)]


class GuidedBackprop(Attribution):
    """Guided backprop: the gradient in the picture, where each ReLU lets only positive gradients back.

    At every ReLU R_in = R_out·[x > 0]·[R_out > 0]; the result is [N, 3, H, W]. Each use of a ReLU counts, be it a
    module that is used twice, one that works in place, or a function (`F.relu`, `torch.relu`, `x.relu_()`); ReLU6 as
    well, whose own gradient is also zero above 6. Nothing in the model is replaced.

    Source: Springenberg et al., Striving for Simplicity: The All Convolutional Net, ICLR workshop 2015, section 3.4.

    Example:
        >>> gradients = fastcam.GuidedBackprop(model)(images, targets=281)  # [N, 3, H, W]
    """

    _guided = True


class GuidedGradCAM(GuidedBackprop):
    """Guided Grad-CAM: guided backprop, multiplied by the upsampled Grad-CAM map.

    Class-discriminative as the map is, and as fine as the picture; [N, 3, H, W]. The map is rectified, not normalised.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, section 3.2.

    Args:
        model: as in `Attribution`.
        target_layers: one or several layers of the map, as in `fastcam.methods.Method`; maps of several are averaged.
        mode: how the map is upsampled: "bilinear", "bicubic" or "nearest" (captum's default).
        reshape_transform: as in `fastcam.methods.Method`.
        output: as in `fastcam.methods.Method`.

    Raises:
        TypeError, ValueError: as in `fastcam.methods.Method`.

    Example:
        >>> with fastcam.GuidedGradCAM(model, target_layers=["layer4"]) as guided:
        ...     gradients = guided(images, targets=[281, 254])  # [N, 3, H, W]
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        mode: Literal["bilinear", "bicubic", "nearest"] = "bilinear",
        reshape_transform: ReshapeTransform | None = None,
        output: Output | None = None,
    ) -> None:
        super().__init__(model, output=output)
        one_of("mode", mode, ("bilinear", "bicubic", "nearest"))
        self.mode = mode
        whole = GradCAM(self.model, target_layers, reshape_transform=reshape_transform)
        self.cams = [GradCAM(self.model, [layer], reshape_transform=reshape_transform) for layer in whole.layers]

    def __call__(self, images: Tensor, targets: Any = None, top_k: int | None = None) -> Tensor:  # noqa: D102
        result = super().__call__(images, targets, top_k)
        chosen = targets if self.targets is None else self.targets
        maps = [self._upsampled(cam.coarse(images, chosen).relu(), images.shape[-2:]) for cam in self.cams]
        self.cautions += [caution for cam in self.cams for caution in cam.cautions if caution not in self.cautions]
        return result * torch.stack(maps).mean(0).to(result.dtype).unsqueeze(-3)

    def _upsampled(self, coarse: Tensor, size: torch.Size) -> Tensor:
        maps = coarse if coarse.dim() == 4 else coarse[:, None]
        corners = {} if self.mode == "nearest" else {"align_corners": False}
        return F.interpolate(maps, size, mode=self.mode, **corners).reshape(*coarse.shape[:-2], *size)


class _GuidedReLU(TorchFunctionMode):
    """While active, every ReLU lets only positive gradients back; what it computes stays the same."""

    enabled = False
    uses = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if self.enabled and (func in _RECTIFIERS or (func is F.hardtanh and _bounds_below_at_zero(args, kwargs))):
            self.uses += 1
            if output.requires_grad:
                # On the output: the gradient of ReLU itself then does the rest. Not in place, since others may hold it.
                output.register_hook(_positive)
        return output


def _bounds_below_at_zero(args: tuple, kwargs: dict) -> bool:
    return (kwargs["min_val"] if "min_val" in kwargs else args[1] if len(args) > 1 else -1.0) == 0


def _exact(gradient: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32))


def _strongest(gradient: Tensor) -> Tensor:
    """Saliency [N, H, W] of a gradient [N, 3, H, W]."""
    return _exact(gradient).abs().amax(1)


def _positive(gradient: Tensor) -> Tensor:
    return gradient.clamp(min=0)
