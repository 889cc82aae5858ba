"""Grad-CAM's family with other scores or several layers: Finer-CAM, ShapleyCAM and RefineCAM."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from fastcam._check import one_of, whole
from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers, WeightedSum
from fastcam.methods.forward import Forward
from fastcam.methods.gradient import GradCAM, GradCAMPlusPlus, GradientMethod, HiResCAM, LayerCAM, XGradCAM
from fastcam.models import default_stages
from fastcam.models.outputs import per_class

Base = Literal["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam"]

_BASES: dict[str, type[GradientMethod]] = {
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
}


class _Based(Method):
    """Base of the methods that change another one's score, or fuse its maps of several layers."""

    _needs_gradients = True

    def __init__(self, model: nn.Module, target_layers: TargetLayers, base: Base, options: MethodOptions) -> None:
        super().__init__(model, target_layers, **options)
        one_of("base", base, _BASES)
        self.base = _BASES[base](model, list(self.layers), **options)

    def _scored(self, forward: Forward) -> Forward:
        """The run as the other method is to see it."""
        return forward

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        return self.base._layer_maps(self._scored(forward))

    def _eigen_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        return self.base._eigen_maps(self._scored(forward))


class FinerCAM(_Based):
    """Finer-CAM: what tells a class from those that the network takes for most similar.

    The map of another method, of the score y_c − γ·mean_t y_dt instead of y_c, where d_1 … d_T are the classes whose
    logits are next to that of c. What the classes share is left out; γ = 0 is the other method itself.

    Source: Zhang et al., Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation, CVPR 2025
    (arXiv 2501.11309), section 3.2. The authors' code weights the differences by the probabilities of the similar
    classes, and has γ = 1: `weighting="softmax"`.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        base: the other method: "gradcam", "gradcam++", "hirescam", "layercam" or "xgradcam".
        strength: γ, 0 or more.
        similar: T, the number of similar classes; all others where there are fewer.
        weighting: "mean", or "softmax" for Σ p_t·(y_c − γ·y_dt) / (Σ p_t + 1e-9), differentiated through p as well.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; an unknown base or weighting, a strength that is negative or not finite,
            no similar class. A call raises TypeError for targets that are callables, ValueError for one class only.

    Example:
        >>> maps = fastcam.FinerCAM(model, base="layercam")(images, targets=281)
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        base: Base = "gradcam",
        strength: float = 0.6,
        similar: int = 3,
        weighting: Literal["mean", "softmax"] = "mean",
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, base, options)
        one_of("weighting", weighting, ("mean", "softmax"))
        whole("similar", similar, 1)
        if not 0 <= strength < math.inf:
            raise ValueError(f"`strength` must be a finite number, 0 or more, got {strength!r}")
        self.strength, self.similar, self.weighting = strength, similar, weighting

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return True

    def _scored(self, forward: Forward) -> Forward:
        classes, logits = forward.chosen.classes, forward.logits[: forward.count]
        if classes is None:
            raise TypeError(
                "FinerCAM compares classes: `targets` must be class indices, got callables; GradCAM takes them"
            )
        count = logits.shape[1]
        if count < 2:
            raise ValueError(f"FinerCAM compares a class with others, but the network has {count}; GradCAM takes one")
        distance = (logits[:, None] - logits.gather(1, classes)[..., None]).abs()  # [N, k, C]
        distance = distance.scatter(2, classes[..., None], math.inf)
        others = distance.sort(stable=True, dim=2).indices[..., : min(self.similar, count - 1)]
        others = others.repeat(len(forward.images) // max(forward.count, 1), 1, 1)  # the same for all views

        def score(given: Tensor, rank: int) -> Tensor:
            found = per_class(given)
            assert forward.targets.classes is not None
            differences = found.gather(1, forward.targets.classes[:, rank, None])
            differences = differences - self.strength * found.gather(1, others[:, rank])
            if self.weighting == "mean":
                return differences.mean(1).sum()
            shares = found.softmax(1).gather(1, others[:, rank])
            return ((shares * differences).sum(1) / (shares.sum(1) + 1e-9)).sum()

        return forward.explaining(score)


class RefineCAM(_Based):
    """RefineCAM: the product of the maps of several layers, coarse and sure times fine and noisy.

    Π_l M_l of the maps M_l in [0, 1] of each target layer, upsampled to the picture's size, and normalised again. With
    one target layer it is the other method itself.

    Source: Domeniconi et al., How to Evaluate and Refine your CAM, 2026 (arXiv 2605.14641), as the popular package and
    torchcam have it, with Grad-CAM++.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`; None is the last three stages (`fastcam.models.default_stages`).
        base: the method that gives the maps: "gradcam", "gradcam++", "hirescam", "layercam" or "xgradcam".
        **options: as in `Method`, without `fuse`.

    Raises:
        TypeError, ValueError: as in `Method`; an unknown base, or another `fuse` than "product".

    Example:
        >>> maps = fastcam.RefineCAM(model, ["layer2", "layer3", "layer4"])(images)
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        base: Base = "gradcam++",
        **options: Unpack[MethodOptions],
    ) -> None:
        if options.setdefault("fuse", "product") != "product":
            raise ValueError(f"RefineCAM multiplies the maps of its layers: leave `fuse` out, got {options['fuse']!r}")
        super().__init__(model, target_layers, base, options)

    def _resolved(self, target_layers: TargetLayers) -> dict[str, nn.Module]:
        return super()._resolved(default_stages(self.model) if target_layers is None else target_layers)

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return self.base.uses_gradients(run)


class ShapleyCAM(Method):
    """ShapleyCAM: Grad-CAM with the second order of the score.

    w_k = mean(G − ½·H·A)_k, where H·A is the product of the score's Hessian in the activations with these; then
    Σ_k w_k·A_k and ReLU. It comes from the second-order expansion of a channel's Shapley value. Where the score is
    linear in the activations, as a logit after a global average pooling, H is zero and this is Grad-CAM; so the score
    is not the logit by default, but that and the logarithm of the class's probability.

    One pass back through the layers after the target layer, and one through that pass. Attention is computed step by
    step, since fused kernels have no second derivative.

    Source: Cai, CAMs as Shapley Value-based Explainers, 2025 (arXiv 2501.06261), sections on ShapleyCAM and on ReST.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        score: "rest" for the paper's residual softmax target-class score y_c + log softmax(y)_c, or "logit" for y_c.
            Targets that are callables are taken as they are.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; an unknown score.

    Example:
        >>> maps = fastcam.ShapleyCAM(model)(images)
    """

    _needs_gradients = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        score: Literal["rest", "logit"] = "rest",
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        one_of("score", score, ("rest", "logit"))
        self.score = score

    @property
    def _attention(self) -> dict[str, nn.Module]:
        return {}

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return True

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        classes = forward.targets.classes
        seen = forward if classes is None or self.score == "logit" else forward.explaining(_rest(classes))
        ranks = [[_mean(gradient) - _mean(second) / 2 for gradient, second in layers] for layers in seen.second_order()]
        weights = [torch.stack(rows, 1) for rows in zip(*ranks, strict=True)]  # [N, k, K] of each layer
        return [WeightedSum(features, rows) for features, rows in zip(forward.features, weights, strict=True)]


def _rest(classes: Tensor) -> Callable[[Tensor, int], Tensor]:
    def score(given: Tensor, rank: int) -> Tensor:
        found, row = per_class(given), classes[:, rank, None]
        return (found.gather(1, row) + found.log_softmax(1).gather(1, row)).sum()

    return score


def _mean(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32)).mean((2, 3))
