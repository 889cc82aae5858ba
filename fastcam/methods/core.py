"""What all methods share: options, target layers, and the way from a coarse map to the result.

A method says only how a target layer's coarse map comes about (`Method._layer_maps`). Everything a user could get
wrong, and everything that must be put back afterwards, is handled here once.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

import torch
from torch import Tensor, nn

from fastcam.methods.forward import Forward
from fastcam.models import default_target_layer, resolve_layers

_BACKENDS = {"fused": "fastcam.ops", "reference": "fastcam.reference"}


class WeightedSum(NamedTuple):
    """A coarse map that is a sum over channels, not yet summed: such maps go to boxes in one fused operation.

    Attributes:
        features: [N, K, h, w].
        weights: [N, k, K], one row for each class asked for; [N, K] once the rank is dropped.
    """

    features: Tensor
    weights: Tensor


class Method:
    """Base of all methods: maps in [0, 1] that show where a network sees a class.

    One forward pass in evaluation mode gives logits and features. Hooks live only during a call, and a call leaves
    the model as it was: mode of every module, hooks, parameters and their `.grad`, also when it raises. A `with`
    block is welcome, and not needed. A model serves one call at a time: threads need models of their own. Calls work
    inside `torch.no_grad`, `torch.inference_mode` and
    `torch.autocast`; results carry no graph.

    Args:
        model: a classification network, images [N, 3, H, W] to logits [N, C].
        target_layers: modules of the model or their dotted names; None is its last stage
            (`fastcam.models.default_target_layer`). The maps of several layers are normalised and averaged. Of a
            layer that runs several times in a pass, the last run counts.
        relu: whether negative values of the coarse map count as zero; None is the method's own.
        order: "fastcam" upsamples, then normalises by min-max. "grad-cam" gives the numbers of the popular
            package: min-max with eps 1e-7 at low resolution, upsampling, mean over layers, min-max.
        mode: "bilinear" or "bicubic" upsampling.
        backend: "fused" for the compiled kernels, "reference" for their plain PyTorch twins.
        reshape_transform: turns the layer's output (and its gradient) into [N, K, h, w], for networks whose
            layers give tokens.

    Attributes:
        outputs: logits [N, C] of the last call.
        targets: class indices of the last call, int64 [N] or [N, k]; None where targets were callables.

    Raises:
        TypeError, ValueError: a layer is unknown (similar names are listed), or an option has no such value.
    """

    relu: ClassVar[bool] = True
    _needs_gradients: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        target_layers: str | nn.Module | Sequence[str | nn.Module] | None = None,
        *,
        relu: bool | None = None,
        order: Literal["fastcam", "grad-cam"] = "fastcam",
        mode: Literal["bilinear", "bicubic"] = "bilinear",
        backend: Literal["fused", "reference"] = "fused",
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
        for name, value, known in (
            ("order", order, ("fastcam", "grad-cam")),
            ("mode", mode, ("bilinear", "bicubic")),
            ("backend", backend, tuple(_BACKENDS)),
        ):
            if value not in known:
                raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
        self.model = model
        names = {module: name for name, module in model.named_modules()}
        wanted = default_target_layer(model) if target_layers is None else target_layers
        self.layers = {names[layer]: layer for layer in resolve_layers(model, wanted)}
        self.relu = type(self).relu if relu is None else relu
        self.order, self.mode, self.reshape_transform = order, mode, reshape_transform
        self.ops = importlib.import_module(_BACKENDS[backend])
        self.outputs: Tensor | None = None
        self.targets: Tensor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: every call has already put the model back."""

    def __call__(self, images: Tensor, targets: Any = None, top_k: int | None = None) -> Tensor:
        """Compute maps of the images' own size.

        Args:
            images: [N, 3, H, W], normalised as the model wants it, on the model's device and of its dtype.
            targets: None for each picture's highest class; a class index for all; a list, array or int64 tensor
                [N] of class indices; [N, k] for k maps of each picture; or one callable, or a list of N, that
                turn a picture's logits [C] into the scalar to explain.
            top_k: instead of `targets`: the k highest classes of each picture, highest first.

        Returns:
            float32 [N, H, W] in [0, 1] on the images' device; [N, k, H, W] for [N, k] targets and for `top_k`. A
            constant map gives zeros.

        Raises:
            TypeError: images are no floating-point tensor or not of the model's dtype; targets are of no known kind.
            ValueError: images are not [N, 3, H, W] or not on the model's device; a number of targets other than
                N, or a class out of range; a target layer that is not used or gives no [N, K, h, w].
        """
        return self._heatmap(self._terms(images, targets, top_k), tuple(images.shape[-2:]))

    def coarse(self, images: Tensor, targets: Any = None, top_k: int | None = None) -> Tensor:
        """Compute maps at the target layer's resolution, before ReLU, upsampling and normalisation.

        Args:
            images: as in a call.
            targets: as in a call.
            top_k: as in a call.

        Returns:
            float32 (float64 for float64 models) [N, h, w], or [N, k, h, w].

        Raises:
            TypeError, ValueError: as in a call; there are several target layers, so no common resolution.
        """
        if len(self.layers) > 1:
            raise ValueError(f"a coarse map is one target layer's, got {', '.join(self.layers)}")
        (term,) = self._terms(images, targets, top_k)
        return self._sum(term)

    def boxes(
        self,
        images: Tensor,
        targets: Any = None,
        top_k: int | None = None,
        *,
        size: int | tuple[int, int] | None = None,
        threshold: float | Sequence[float] | Tensor = 0.2,
        connectivity: int = 8,
        largest: Literal["pixels", "contour"] = "pixels",
    ) -> Tensor:
        """Compute the box around the largest component above a threshold in each map.

        Args:
            images: as in a call.
            targets: as in a call.
            top_k: as in a call.
            size: (height, width), or the side of a square, whose pixels the boxes count; None is the images' own.
            threshold: as in `fastcam.ops.boxes`: a fraction of the map's range, a list of T, or a tensor [N] or
                [N, T] of absolute levels.
            connectivity: 4 or 8.
            largest: by number of "pixels" or by area within the "contour".

        Returns:
            int32 [N, 4], xyxy in pixels of `size`, right and bottom exclusive, zeros when empty; [N, k, 4] for
            several classes; [..., T, 4] for several thresholds.

        Raises:
            TypeError, ValueError: as in a call and in `fastcam.ops.boxes`.
        """
        terms = self._terms(images, targets, top_k)
        size = tuple(images.shape[-2:]) if size is None else size
        options = {"threshold": threshold, "mode": self.mode, "connectivity": connectivity, "largest": largest}
        if len(terms) > 1 or self.order == "grad-cam":
            return self.ops.boxes(self._heatmap(terms, size), size, relu=False, **options)
        (term,) = terms
        if isinstance(term, WeightedSum):
            return self.ops.class_boxes(*term, size, relu=self.relu, **options)
        return self.ops.boxes(term, size, relu=self.relu, **options)

    def _layer_maps(self, forward: Forward) -> list[WeightedSum | Tensor]:
        """What a method is: for each target layer a WeightedSum, or a coarse map [N, k, h, w] before ReLU."""
        raise NotImplementedError

    def _terms(self, images: Tensor, targets: Any, top_k: int | None) -> list[WeightedSum | Tensor]:
        # Outside of inference mode, whose tensors may not enter a graph.
        with torch.inference_mode(False), torch.no_grad():
            forward = Forward(
                self.model,
                self.layers,
                images,
                targets,
                top_k,
                graph=self._needs_gradients,
                reshape_transform=self.reshape_transform,
            )
            terms = self._layer_maps(forward)
        ranked, classes = forward.targets.ranked, forward.targets.classes
        self.outputs = forward.logits
        self.targets = classes if ranked or classes is None else classes[:, 0]
        if ranked:
            return terms
        return [
            WeightedSum(term.features, term.weights[:, 0]) if isinstance(term, WeightedSum) else term[:, 0]
            for term in terms
        ]

    def _sum(self, term: WeightedSum | Tensor) -> Tensor:
        return self.ops.class_map(*term) if isinstance(term, WeightedSum) else term

    def _heatmap(self, terms: list[WeightedSum | Tensor], size: int | tuple[int, int]) -> Tensor:
        maps = []
        for term in terms:
            coarse = self._sum(term)
            if self.order == "fastcam":
                maps.append(self.ops.heatmap(coarse, size, self.relu, "after", self.mode))
            else:
                low = coarse.relu() if self.relu else coarse
                low = low - low.amin((-2, -1), keepdim=True)
                low = low / (1e-7 + low.amax((-2, -1), keepdim=True))
                maps.append(self.ops.heatmap(low, size, False, None, self.mode))
        if len(maps) == 1 and self.order == "fastcam":
            return maps[0].float()
        return self.ops.heatmap(torch.stack(maps).mean(0), size, False, "after").float()
