"""What all methods share: options, target layers, and the way from a coarse map to the result.

A method computes only the coarse map of a target layer (`Method._layer_maps`). Everything a user could get wrong, and
everything that must be put back afterwards, is handled here once.
"""

import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self, TypeAlias, TypedDict, overload

import torch
from torch import Tensor, nn

from fastcam._check import one_of
from fastcam.methods.cautions import MapWarning, saturated, single
from fastcam.methods.forward import IMAGES, Forward, ReshapeTransform
from fastcam.methods.frozen import FreezeError, FrozenNetwork
from fastcam.methods.running import check_images
from fastcam.methods.scales import ScaledRun, by_maximum, checked, finished, passes, size_at
from fastcam.methods.smoothing import merge_views, projection
from fastcam.models import Output, default_target_layer, resolve_layers, unwrap, with_output
from fastcam.models.outputs import output_of

_BACKENDS = {"fused": "fastcam.ops", "reference": "fastcam.reference"}

TargetLayers: TypeAlias = str | nn.Module | Sequence[str | nn.Module] | None


class WeightedSum(NamedTuple):
    """A coarse map that is a sum over channels, not yet summed: such maps go to boxes in one fused operation.

    Attributes:
        features: [N, K, h, w].
        weights: [N, k, K], one row for each class asked for; [N, K] once the rank is dropped.
    """

    features: Tensor
    weights: Tensor


CoarseMap: TypeAlias = WeightedSum | Tensor  # a tensor is [N, k, h, w], [N, h, w] once the rank is dropped


class MethodOptions(TypedDict, total=False):
    """Keywords that every method takes: see `Method`."""

    relu: bool | None
    order: Literal["fastcam", "grad-cam"]
    mode: Literal["bilinear", "bicubic"]
    backend: Literal["fused", "reference"]
    fuse: Literal["mean", "max", "product"]
    reshape_transform: ReshapeTransform | None
    output: Output | None


class Method:
    """Base of all methods: maps in [0, 1] that show where a network sees a class.

    One forward pass in evaluation mode gives logits and features. Hooks live only during a call, and a call leaves
    the model as it was: mode of every module, hooks, parameters and their ``.grad``, also when it raises. A `with`
    block is welcome, and not needed. A model serves one call at a time: threads need models of their own. Calls work
    inside `torch.no_grad`, `torch.inference_mode` and `torch.autocast`; results carry no graph.

    The network inside DataParallel and `torch.compile` is run itself, on the device of the images, since neither shows
    its layers to hooks.

    Classes are explained by the network's outputs as they are, which should be logits: gradients of a softmax mix all
    classes, and vanish where it is near 0 or 1, so that Grad-CAM's maps differ from those of the logits. A network that
    ends in one is better passed without it.

    Args:
        model: a network, images [N, 3, H, W] to logits [N, C], or to what `output` finds scores in.
        target_layers: modules of the model or their dotted names; None is its last stage
            (`fastcam.models.default_target_layer`). The maps of several layers are normalised and fused. Of a
            layer that runs several times in a pass, the last run counts.
        relu: whether negative values of the coarse map count as zero; None is the method's own.
        order: "fastcam" upsamples, then normalises by min-max. "grad-cam" gives the numbers of the popular
            package: min-max with eps 1e-7 at low resolution, upsampling, mean over layers, min-max.
        mode: "bilinear" or "bicubic" upsampling.
        backend: "fused" for the compiled kernels, "reference" for their plain PyTorch twins.
        fuse: how the maps of several layers become one, by their "mean", "max" or "product"; normalised again.
        reshape_transform: turns the layer's output (and its gradient) into [N, K, h, w], where N is the number of
            images, for layers with tokens or another layout. None is enough for maps, [N, K, h, w] or [N, h, w, K],
            and for the transformers of torchvision and timm: what a layer gives is recognised by the shapes of each
            pass (`fastcam.models.Layouts`).
        output: what of the network's output are the scores: a name, an index, or a function of all that it gives; see
            `fastcam.models.with_output`, which says what needs no word.

    Attributes:
        outputs: logits [N, C] of the last call.
        targets: class indices of the last call, int64 [N] or [N, k]; None where targets were callables.
        grids: (h, w) of each target layer's map in the last call, by the layer's name.
        frozen: the network as `freeze` has made it, or None.
        cautions: what was found, in any call, that makes maps show nothing, or something else than it seems.

    Warns:
        fastcam.methods.MapWarning: a target layer has a single position, so that its maps are constant. Once.

    Raises:
        TypeError, ValueError: a layer is unknown (similar names are listed), or an option has no such value.
    """

    relu: bool = True
    _needs_gradients: ClassVar[bool] = False
    _together: ClassVar[bool] = False  # whether all target layers make one map
    _needs_scores: ClassVar[bool] = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        relu: bool | None = None,
        order: Literal["fastcam", "grad-cam"] = "fastcam",
        mode: Literal["bilinear", "bicubic"] = "bilinear",
        backend: Literal["fused", "reference"] = "fused",
        fuse: Literal["mean", "max", "product"] = "mean",
        reshape_transform: ReshapeTransform | None = None,
        output: Output | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
        one_of("order", order, ("fastcam", "grad-cam"))
        one_of("mode", mode, ("bilinear", "bicubic"))
        one_of("backend", backend, _BACKENDS)
        one_of("fuse", fuse, ("mean", "max", "product"))
        self.model = with_output(model, output)
        self.layers = self._resolved(target_layers)
        self.relu = type(self).relu if relu is None else relu
        self._signed = relu is not None and not relu  # by the user's will
        self.order, self.mode, self.fuse, self.reshape_transform = order, mode, fuse, reshape_transform
        self.ops = importlib.import_module(_BACKENDS[backend])
        self.outputs: Tensor | None = None
        self.targets: Tensor | None = None
        self.grids: dict[str, tuple[int, int]] = {}
        self.cautions: list[str] = []
        self._examined = False
        self.frozen: FrozenNetwork | None = None

    def _resolved(self, target_layers: TargetLayers) -> dict[str, nn.Module]:
        """The target layers by name."""
        names = {module: name for name, module in unwrap(self.model).named_modules()}
        wanted = default_target_layer(self.model) if target_layers is None else target_layers
        layers = {names[layer]: layer for layer in resolve_layers(self.model, wanted)}
        if IMAGES in layers:
            raise ValueError(f"a target layer must be a part of {type(unwrap(self.model)).__name__}, got all of it")
        return layers

    @property
    def several(self) -> bool:
        """Whether there are several maps, one of each target layer, which are fused."""
        return len(self.layers) > 1 and not self._together

    @property
    def _watched(self) -> dict[str, nn.Module]:
        """What a run has to observe for this method."""
        return self.layers

    @property
    def _differentiated(self) -> dict[str, nn.Module]:
        """Those that need a graph."""
        return self._watched if self._needs_gradients else {}

    @property
    def _attention(self) -> dict[str, nn.Module] | None:
        """Those whose matrices of attention are kept; None where attention may be a fused operation."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: every call has already put the model back."""

    def __call__(
        self,
        images: Tensor | Forward | ScaledRun,
        targets: Any = None,
        top_k: int | None = None,
        *,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        scales: Sequence[float] | None = None,
        flip: bool = False,
    ) -> Tensor:
        """Compute maps of the images' own size.

        Args:
            images: [N, 3, H, W], normalised as the model wants it, on the model's device and of its dtype; or a run of
                them that `observe` has made for several methods, with its targets and views.
            targets: None for each picture's highest class; a class index for all; a list, array or int64 tensor
                [N] of class indices; [N, k] for k maps of each picture; "all" for those of every class; or one
                callable, or a list of N, that turn a picture's logits [C] into the scalar to explain, or its dense
                scores [C, H, W] (`fastcam.targets`).
            top_k: instead of `targets`: the k highest classes of each picture, highest first.
            aug_smooth: average the maps of six views, {as it is, mirrored} x {0.9, 1.0, 1.1}, run as one batch. The
                classes are those of the plain view. The average is normalised again, but for `order="grad-cam"`.
            eigen_smooth: instead of summing the weighted channels, project them on their first principal component
                (`fastcam.methods.smoothing.projection`).
            scales: run the pictures at several sizes as well, such as (0.5, 1, 1.5, 2), and sum the maps: see
                `observe`.
            flip: run mirror images, too, in the same pass, and add their maps, turned back.

        Returns:
            float32 [N, H, W] in [0, 1] on the images' device; [N, k, H, W] for [N, k] targets and for `top_k`,
            [N, C, H, W] for "all". A constant map gives zeros.

        Raises:
            TypeError: images are no floating-point tensor or not of the model's dtype; targets are of no known kind.
            ValueError: images are not [N, 3, H, W] or not on the model's device; a number of targets other than
                N, or a class out of range; a target layer that is not used or gives no [N, K, h, w]; a run of another
                model or of other layers, or one and targets; scales that are no distinct numbers above 0, or a size
                that the network does not take.
        """
        forward = self._observed(images, targets, top_k, aug_smooth, eigen_smooth, scales, flip)
        return self._heatmap(self._terms(forward, eigen_smooth), forward.size, forward)

    def coarse(
        self,
        images: Tensor | Forward | ScaledRun,
        targets: Any = None,
        top_k: int | None = None,
        *,
        eigen_smooth: bool = False,
        scales: Sequence[float] | None = None,
        flip: bool = False,
    ) -> Tensor:
        """Compute maps at the target layer's resolution, before ReLU, upsampling and normalisation.

        Args:
            images: as in a call.
            targets: as in a call.
            top_k: as in a call.
            eigen_smooth: as in a call.
            scales: as in a call.
            flip: as in a call.

        Returns:
            float32 (float64 for float64 models) [N, h, w], or [N, k, h, w]. Of a run of six views [6·N, ...], which
            `fastcam.methods.smoothing.merge_views` averages. With `scales` or `flip` the sum in [0, 1], of the size
            that the largest pictures' maps have.

        Raises:
            TypeError, ValueError: as in a call; there are several target layers, so no common resolution.
        """
        if self.several:
            raise ValueError(f"a coarse map is one target layer's, got {', '.join(self.layers)}")
        run = self._observed(images, targets, top_k, False, eigen_smooth, scales, flip)
        (term,) = self._terms(run, eigen_smooth)
        return self._sum(term)

    def boxes(
        self,
        images: Tensor | Forward | ScaledRun,
        targets: Any = None,
        top_k: int | None = None,
        *,
        size: int | tuple[int, int] | None = None,
        threshold: float | Sequence[float] | Tensor = 0.2,
        percentile: float = 100.0,
        connectivity: int = 8,
        largest: Literal["pixels", "contour"] = "pixels",
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
        scales: Sequence[float] | None = None,
        flip: bool = False,
    ) -> Tensor:
        """Compute the box around the largest component above a threshold in each map.

        Args:
            images: as in a call.
            targets: as in a call.
            top_k: as in a call.
            size: (height, width), or the side of a square, whose pixels the boxes count; None is the images' own.
            threshold: as in `fastcam.ops.boxes`: a fraction of the map's range, a list of T, or a tensor [N] or
                [N, T] of absolute levels.
            percentile: the threshold is a fraction of this percentile of the normalised map instead of its maximum,
                which is the percentile 100. Rethinking CAM (Bae et al., ECCV 2020, section 3.3) has 0.35 of the 90th.
            connectivity: 4 or 8.
            largest: by number of "pixels" or by area within the "contour".
            aug_smooth: as in a call.
            eigen_smooth: as in a call.
            scales: as in a call; a relative threshold is then a fraction of the map's maximum.
            flip: as in a call.

        Returns:
            int32 [N, 4], xyxy in pixels of `size`, right and bottom exclusive, zeros when empty; [N, k, 4] for
            several classes; [..., T, 4] for several thresholds.

        Raises:
            TypeError, ValueError: as in a call and in `fastcam.ops.boxes`; a percentile outside [0, 100], or one below
                100 of absolute levels.
        """
        if not 0 <= percentile <= 100:
            raise ValueError(f"`percentile` must be in [0, 100], got {percentile!r}")
        if percentile < 100 and isinstance(threshold, Tensor):
            raise ValueError(
                "`percentile` is for relative thresholds, a float or a list; got a tensor of absolute levels"
            )
        forward = self._observed(images, targets, top_k, aug_smooth, eigen_smooth, scales, flip)
        terms = self._terms(forward, eigen_smooth)
        pixels: int | Sequence[int] = forward.size if size is None else size
        options = {"mode": self.mode, "connectivity": connectivity, "largest": largest}
        scaled = isinstance(forward, ScaledRun)
        if len(terms) > 1 or self.order == "grad-cam" or forward.augmented or scaled or percentile < 100:
            maps = self._heatmap(terms, pixels, forward)
            if percentile < 100 or (scaled and not isinstance(threshold, Tensor)):
                fractions = torch.as_tensor(threshold, dtype=torch.float32, device=maps.device)
                if not ((fractions >= 0) & (fractions <= 1)).all():
                    raise ValueError(f"`threshold` must be in [0, 1], relative to the map's maximum, got {threshold!r}")
                highest = _percentile(maps, percentile) if percentile < 100 else maps.amax((-2, -1))
                threshold = highest.reshape(*highest.shape, *[1] * fractions.dim()) * fractions
            return self.ops.boxes(maps, pixels, threshold, relu=False, **options)
        (term,) = terms
        if isinstance(term, WeightedSum):
            return self.ops.class_boxes(*term, pixels, threshold, relu=self.relu, **options)
        return self.ops.boxes(term, pixels, threshold, relu=self.relu, **options)

    def freeze(self, images: Tensor, scales: Sequence[float] | None = None, flip: bool = False) -> None:
        """Let calls from now on run a frozen network, which is faster and gives the same up to rounding.

        It is one graph, in which batch normalisations are part of the weights and convolutions do what follows them:
        see `fastcam.methods.frozen`. It takes about a second, and is for images of this height and width, any number of
        them; others run the network as it is written. Changes of the network after this call are not seen. Score-CAM
        runs its masked pictures by it, and every method the six views of `aug_smooth`.

        Args:
            images: [N, 3, H, W], of the shape, dtype and device of those that will come; their values do not matter.
            scales: those that will come, as in a call.
            flip: as in a call.

        Raises:
            FreezeError: the method takes gradients, which a frozen network has none of, and they are not known in
                closed form, as those of a last stage that is pooled and goes to one linear layer are; or the network
                is not one of float32 on a CPU, or none that can be frozen. The message says why, and calls go on as
                before.
        """
        wanted = sorted(checked(scales, flip) or (1,), reverse=True)  # the largest, which takes most time, first
        sizes = [size_at(images.shape[-2:], scale) for scale in wanted]
        count = len(images) * (2 if flip else 1)
        largest = images.new_empty(1, images.shape[1], *sizes[0]).expand(count, -1, -1, -1)
        needed = self._needs_gradients or bool(self._differentiated)
        direct = needed and self._knows_gradients(largest)
        if needed and not direct:
            raise FreezeError(f"{type(self).__name__} takes gradients, which a frozen network does not have")
        self.frozen = FrozenNetwork(self.model, self.layers, largest, sizes, direct)

    def _knows_gradients(self, images: Tensor) -> bool:
        """Whether the maps of classes take no backward pass in this network, whatever the pictures of this shape."""
        return False

    def uses_gradients(self, run: Forward) -> bool:
        """Whether the maps of a run take a backward pass.

        Args:
            run: what `observe` gave.

        Returns:
            False for methods without gradients, and where a closed form serves.

        Raises:
            ValueError: the run is one of another model or of other layers.
        """
        return False

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        """What a method is: for each target layer a WeightedSum, or a coarse map [N, k, h, w] before ReLU."""
        raise NotImplementedError

    def _eigen_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        """The same with eigen_smooth: the first component of what `_layer_maps` would sum over channels."""
        return self._projected(self._layer_maps(forward))

    def _projected(self, terms: Sequence[CoarseMap]) -> list[Tensor]:
        sums = [term for term in terms if isinstance(term, WeightedSum)]
        if len(sums) < len(terms):
            raise ValueError(f"eigen_smooth needs weighted channels, which {type(self).__name__} does not have")
        return [
            torch.stack([projection(features * row[..., None, None]) for row in weights.unbind(1)], 1)
            for features, weights in sums
        ]

    def _observed(
        self,
        images: Tensor | Forward | ScaledRun,
        targets: Any,
        top_k: int | None,
        aug_smooth: bool,
        eigen_smooth: bool,
        scales: Sequence[float] | None,
        flip: bool,
    ) -> Forward | ScaledRun:
        """A run of this method's own, or a given one as this method sees it."""
        if not isinstance(images, Forward | ScaledRun):
            smooth = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth}
            return _run([self], images, targets, top_k, scales=scales, flip=flip, keep=False, **smooth)
        if targets is not None or top_k is not None or aug_smooth or scales or flip:
            raise ValueError(
                "`targets`, `top_k`, `aug_smooth`, `scales` and `flip` are those of the run: pass them to `observe`, "
                "or pass images"
            )
        return images if isinstance(images, ScaledRun) else self._seen(images)

    def _seen(self, run: Forward) -> Forward:
        """A run as this method sees it."""
        if run.model is not unwrap(self.model):
            raise ValueError(f"the run is one of another model than that of {type(self).__name__}")
        if run.output != output_of(self.model):
            raise ValueError(f"the run is one of another `output` than that of {type(self).__name__}")
        return run.at(self._watched, [self.reshape_transform] * len(self._watched))

    def sums(self, run: Forward, eigen_smooth: bool = False) -> list[Tensor]:
        """Compute the coarse map of each target layer.

        Args:
            run: what `observe` gave, with all its views.
            eigen_smooth: as in a call.

        Returns:
            For each layer [N, h, w] or [N, k, h, w], before ReLU.

        Raises:
            ValueError: the run is one of another model or of other layers.
        """
        return [self._sum(term) for term in self._layer_terms(self._seen(run), eigen_smooth)]

    def _terms(self, run: Forward | ScaledRun, eigen_smooth: bool) -> Sequence[CoarseMap]:
        """The coarse maps of all target layers, without the rank if there is one class only; notes what was run."""
        terms: Sequence[CoarseMap]
        if isinstance(run, ScaledRun):
            terms = grids = run.maps(self, eigen_smooth)
        else:
            terms, grids = self._layer_terms(run, eigen_smooth), run.features
        # None where the images themselves are watched.
        self.grids = {name: (maps.shape[-2], maps.shape[-1]) for name, maps in zip(self.layers, grids, strict=False)}
        empty = single(self.grids)
        if empty is not None and empty not in self.cautions:
            warnings.warn(empty, MapWarning, stacklevel=3)
            self.cautions.append(empty)
        classes = run.chosen.classes
        self.outputs = run.logits[: run.count]
        self.targets = classes if run.chosen.ranked or classes is None else classes[:, 0]
        return terms

    def _layer_terms(self, forward: Forward, eigen_smooth: bool) -> list[CoarseMap]:
        """The same of one pass; notes what its graph means for the maps."""
        # Outside of inference mode, whose tensors may not enter a graph.
        with torch.inference_mode(False), torch.no_grad():
            terms = self._eigen_maps(forward) if eigen_smooth else self._layer_maps(forward)
        if self._needs_gradients and forward.targets.classes is not None:
            caution = saturated(forward)
            if caution is not None and caution not in self.cautions:
                self.cautions.append(caution)
        if forward.targets.ranked:
            return list(terms)
        return [
            WeightedSum(term.features, term.weights[:, 0]) if isinstance(term, WeightedSum) else term[:, 0]
            for term in terms
        ]

    def _sum(self, term: CoarseMap) -> Tensor:
        return self.ops.class_map(*term) if isinstance(term, WeightedSum) else term

    def _heatmap(self, terms: Sequence[CoarseMap], size: int | Sequence[int], run: Forward | ScaledRun) -> Tensor:
        """Upsampled and normalised maps [..., H, W] of all target layers, fused."""
        scaled = isinstance(run, ScaledRun)
        maps = []
        for term in terms:
            coarse = self._sum(term)
            if scaled:
                maps.append(finished(coarse, size, self.mode, self.ops))
            elif self.order == "fastcam":
                maps.append(self.ops.heatmap(coarse, size, self.relu, "after", self.mode))
            else:
                low = coarse.relu() if self.relu else coarse
                low = low - low.amin((-2, -1), keepdim=True)
                low = low / (1e-7 + low.amax((-2, -1), keepdim=True))
                # In a product, each as the package would give it alone.
                alone: Literal["after"] | None = "after" if self.fuse == "product" else None
                maps.append(self.ops.heatmap(low, size, False, alone, self.mode))
        fused = maps[0]
        if len(maps) > 1:
            stacked = torch.stack(maps)
            if self.fuse == "product":
                fused = stacked.prod(0)
            else:
                fused = stacked.mean(0) if self.fuse == "mean" else stacked.amax(0)
        if scaled:
            fused = by_maximum(fused)
        elif len(maps) > 1 or self.order == "grad-cam":
            fused = self.ops.heatmap(fused, size, False, "after")
        if run.augmented:
            fused = merge_views(fused)
            fused = fused if self.order == "grad-cam" else self.ops.heatmap(fused, size, False, "after")
        return fused.float()


@overload
def observe(
    methods: Sequence[Method],
    images: Tensor,
    targets: Any = None,
    top_k: int | None = None,
    *,
    aug_smooth: bool = False,
) -> Forward: ...


@overload
def observe(
    methods: Sequence[Method],
    images: Tensor,
    targets: Any = None,
    top_k: int | None = None,
    *,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    scales: Sequence[float] | None = None,
    flip: bool = False,
) -> Forward | ScaledRun: ...


def observe(
    methods: Sequence[Method],
    images: Tensor,
    targets: Any = None,
    top_k: int | None = None,
    *,
    aug_smooth: bool = False,
    eigen_smooth: bool = False,
    scales: Sequence[float] | None = None,
    flip: bool = False,
) -> Forward | ScaledRun:
    """Run a network once for several methods, which then take the run in place of images.

    Every method's maps are those that it would give alone, and each costs only what is its own: gradients are computed
    for the first method that uses them and kept. Methods that run the network again (Score-CAM, Ablation-CAM) still do.
    The run holds features and graph in memory for as long as it lives.

    With `scales` and `flip` the network runs once for each size, on all pictures and their mirror images together, and
    each method's map is the sum over these views:

        M = Σ_s up(ReLU(M_s(x)) + mirror(ReLU(M_s(mirror(x))))), divided by max M,

    where M_s is the coarse map of the pictures at the scale s and `up` bilinear upsampling to the size that the largest
    pictures' map has, so that a map that is kept and one that is computed anew are the same. Full-size maps are that
    sum upsampled, and again divided by their maximum, without subtracting the minimum; one that is constant or not
    finite gives zeros. Sizes are rounded to the nearest pixel; pictures are resized as Pillow's bicubic filter does.
    Every view is clipped at zero, also by methods that are not by default. Classes are chosen, and logits given, by the
    pictures at scale 1 (without that, at the first of the scales), and are the same for all views. One size is run
    after the other, and its activations are let go of before the next, so that memory is that of the largest:
    what the run holds are the maps of these methods. `scales=(1,)` is the clipped map divided by its maximum.
    Views are summed as they are. After a mean over positions gradients are as small as positions are many, so that
    small sizes weigh more in Grad-CAM's sum than in CAM's: of one view the two are the same, of several they are not.

    Source: Ahn, Cho and Kwak, Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations, CVPR
    2019, as in make_cam.py of its code, at scales 1, 0.5, 1.5 and 2. That sums the maps at a quarter of the picture's
    size and at the whole, instead of at the largest map's, and adds 1e-5 to the maximum, which would dim maps as small
    as gradients are.

    Args:
        methods: methods of one model; their target layers may differ.
        images: as in `Method.__call__`.
        targets: as in `Method.__call__`.
        top_k: as in `Method.__call__`.
        aug_smooth: run the six views of `Method.__call__`, for methods that shall average theirs.
        eigen_smooth: with `scales` or `flip`, as in `Method.__call__` for all methods; without, methods are asked for
            that one by one.
        scales: up to 8 different factors, of which 1 is the pictures' own size, such as (0.5, 1, 1.5, 2).
        flip: run the mirror images, too.

    Returns:
        The run: what `Method.__call__`, `coarse` and `boxes` take. It has the logits, [N, C] or [6·N, C], and
        `with_pooling` gives the same run with another global pooling, but where it is one of several sizes.

    Raises:
        TypeError: as in `Method.__call__`.
        ValueError: as in `Method.__call__`; there is no method, or they are of several models; `scales` or `flip` with
            `aug_smooth`, or with a method whose `order` is "grad-cam", which has no such maps, or whose `relu` is
            False.

    Example:
        >>> cam, grad = fastcam.CAM(model), fastcam.LayerCAM(model, "layer3")
        >>> run = fastcam.methods.observe([cam, grad], images)
        >>> maps, boxes = cam(run), grad.boxes(run)
    """
    smooth = {"aug_smooth": aug_smooth, "eigen_smooth": eigen_smooth}
    return _run(methods, images, targets, top_k, scales=scales, flip=flip, keep=True, **smooth)


def observe_scales(
    methods: Sequence[Method],
    images: Tensor,
    targets: Any = None,
    top_k: int | None = None,
    *,
    scales: Sequence[float],
    flip: bool = False,
    through: Callable[[Forward], Forward] | None = None,
    keep: bool = True,
) -> Iterator[tuple[float, Forward]]:
    """Run a network at one scale after the other for several methods: the passes of `observe` one by one.

    Whoever takes them puts the maps together with a `fastcam.methods.scales.ScaledRun`.

    Args:
        methods: as in `observe`.
        images: as there.
        targets: as there.
        top_k: as there.
        scales: as there.
        flip: as there.
        through: what to make of each pass, such as the same with another pooling; it also chooses the classes.
        keep: whether methods share gradients.

    Yields:
        Scale and pass, to be let go of before the next. The first gives logits and classes.

    Raises:
        TypeError, ValueError: as `observe`.
    """
    for method in methods:
        name = type(method).__name__
        if method.order == "grad-cam":
            raise ValueError(f'the order "grad-cam" of {name} is for the popular package\'s maps, which have one scale')
        if method._signed:
            raise ValueError(f"maps are clipped at zero before they are summed: leave `relu` of {name}, which is False")

    def run_for(images: Tensor, targets: Any, top_k: int | None, *, mirror: bool) -> Forward:
        return _run_for(methods, images, targets, top_k, False, keep, mirror)

    return passes(run_for, images, targets, top_k, checked(scales, flip), flip, through)


def _run(
    methods: Sequence[Method],
    images: Tensor,
    targets: Any,
    top_k: int | None,
    *,
    aug_smooth: bool,
    eigen_smooth: bool,
    scales: Sequence[float] | None,
    flip: bool,
    keep: bool,
) -> Forward | ScaledRun:
    """A run for all these methods, of one or of several sizes."""
    wanted = checked(scales, flip)
    if not wanted:
        return _run_for(methods, images, targets, top_k, aug_smooth, keep)
    if aug_smooth:
        raise ValueError("`aug_smooth` and `scales` or `flip` are two ways to use several views: take one of them")
    for method in methods:
        check_images(unwrap(method.model), images)
    run = ScaledRun(images.shape[-2:], wanted, flip)
    for scale, forward in observe_scales(methods, images, targets, top_k, scales=wanted, flip=flip, keep=keep):
        run.begin(scale, forward)
        for method in methods:
            run.add(method, forward, eigen_smooth)
        del forward
    return run


def _run_for(
    methods: Sequence[Method],
    images: Tensor,
    targets: Any,
    top_k: int | None,
    aug_smooth: bool,
    keep: bool,
    mirror: bool = False,
) -> Forward:
    """One pass for all these methods; `keep` is for several, which share gradients."""
    models = {id(unwrap(method.model)): method.model for method in methods}
    if len(models) != 1:
        raise ValueError(f"`methods` must be one or several of one model, got {len(methods)} of {len(models)} models")
    if len(outputs := {repr(output_of(method.model)) for method in methods}) != 1:
        raise ValueError(f"`methods` of one run must have one `output`, got {' and '.join(sorted(outputs))}")
    (model,) = models.values()
    layers: dict[str, nn.Module] = {}
    reshape: dict[str, ReshapeTransform | None] = {}
    graph: dict[str, nn.Module] = {}  # of those that need gradients
    attention: dict[str, nn.Module] | None = None
    for method in methods:
        layers |= method._watched
        reshape |= dict.fromkeys(method._watched, method.reshape_transform)
        graph |= method._differentiated
        if method._attention is not None:
            attention = (attention or {}) | method._attention
    frozen = methods[0].frozen if len(methods) == 1 else None
    if frozen is not None and frozen.direct and frozen.takes(layers, images):
        graph = {}
    examine = len(images) > 1 and not all(method._examined for method in methods)
    # Outside of inference mode, whose tensors may not enter a graph.
    with torch.inference_mode(False), torch.no_grad():
        forward = Forward(
            model,
            layers,
            images,
            targets,
            top_k,
            graph=list(graph),
            reshape=[*reshape.values()],
            augment=aug_smooth,
            mirror=mirror,
            keep=keep,
            examine=examine,
            frozen=frozen,
            attention=attention,
            scored=any(method._needs_scores for method in methods),
        )
    if forward.batch_statistics:
        warnings.warn(
            f"{type(forward.model).__name__} normalises by the statistics of the batch (batch normalisation without "
            "running statistics, or in training mode): each picture's map depends on the others. Give it one picture "
            "at a time",
            stacklevel=5,
        )
    if examine:
        for method in methods:
            method._examined = True
    return forward


def _percentile(maps: Tensor, q: float) -> Tensor:
    """The q-th percentile of each map [..., H, W], linear between two values as NumPy has it: [...]."""
    values = maps.flatten(-2)
    place = (values.shape[-1] - 1) * q / 100
    low = int(place)
    lower = values.kthvalue(low + 1, -1).values
    upper = values.kthvalue(min(low + 2, values.shape[-1]), -1).values
    return lower + (upper - lower) * (place - low)
