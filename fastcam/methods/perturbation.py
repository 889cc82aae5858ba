"""Methods that weight channels by the network's scores when only they, or all but they, are seen."""

from collections.abc import Callable, Sequence
from typing import Literal, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam._check import one_of, whole
from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers, WeightedSum
from fastcam.methods.forward import Forward, ReshapeTransform
from fastcam.methods.scores import Outputs, Score, probabilities, recognise_for
from fastcam.models.outputs import per_class
from fastcam.reference import min_max


class PerturbationMethod(Method):
    """Base of the methods that run the network once more for each channel.

    Runs of several pictures are packed into batches of one size; memory does not grow with the number of channels or
    pictures beyond that.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        batch_size: variations per forward pass; None is 8 on a CPU, whose caches like few, and 64 on a GPU.
        top_channels: only so many channels of each picture, those that vary most over the positions; None for all.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; a batch size or number of channels that is not positive.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        batch_size: int | None = None,
        top_channels: int | None = None,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        for name, value in (("batch_size", batch_size), ("top_channels", top_channels)):
            if value is not None:
                whole(name, value, 1)
        self.batch_size, self.top_channels = batch_size, top_channels

    def _packs(self, features: Tensor, alive: Tensor) -> tuple[Tensor, ...]:
        """Pictures and channels to run, int64 [B, 2] for each forward pass, of those that are alive, [N, K]."""
        if self.top_channels is not None and self.top_channels < alive.shape[1]:
            spread = features.double().var((2, 3), correction=0).masked_fill(~alive, -1)
            best = spread.topk(self.top_channels, dim=1).indices
            alive = alive & torch.zeros_like(alive).scatter(1, best, True)
        pairs = alive.nonzero()
        size = self.batch_size or (8 if features.device.type == "cpu" else 64)
        return pairs.split(size) if len(pairs) else ()


class ScoreCAM(PerturbationMethod):
    """Score-CAM: channels weighted by the score of the picture where only they let it through.

    H_k = minmax(upsampled A_k), s_k = S_c(X⊙H_k), α = softmax over k of s; Σ_k α_k·A_k, then ReLU. No gradients: one
    forward pass for each channel, packed over pictures. Channels that are constant have no mask, and are left out, as
    in the author's code. The paper's baseline, s_k − S_c(X_b), cancels under the softmax.

    Published codes differ; the defaults are the paper's. The author's code has `score="probability", softmax=False`;
    grad-cam's `align_corners=True`; torchcam's `normalize="before"`.

    Source: Wang et al., Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks, CVPRW 2020,
    equations 3 to 6 and algorithm 1; `top_channels` from Faster Score-CAM.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        score: the class's "logit", the network's output as it is, or its "probability" (callables always take logits),
            as `fastcam.methods.scores` makes it of the outputs, or of logits by "softmax" or "sigmoid".
        softmax: whether weights are the softmax of the scores over the channels, or the scores themselves.
        baseline: image or images [N or 1, 3, H, W] whose score is subtracted; it matters without softmax only.
        normalize: min-max of the mask "after" upsampling or "before".
        align_corners: how masks are upsampled, see `torch.nn.functional.interpolate`.
        batch_size: masked pictures per forward pass; None is 8 on a CPU, whose caches like few, and 64 on a GPU.
        top_channels: only so many channels of each picture, those that vary most over the positions; None for all.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; an option that has no such value.

    Example:
        >>> maps = fastcam.ScoreCAM(model, batch_size=64, top_channels=128)(images)
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        score: Score = "logit",
        softmax: bool = True,
        baseline: Tensor | None = None,
        normalize: Literal["after", "before"] = "after",
        align_corners: bool = False,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        one_of("score", score, get_args(Score))
        one_of("normalize", normalize, ("after", "before"))
        self.score, self.softmax, self.baseline = score, softmax, baseline
        self.normalize, self.align_corners = normalize, align_corners
        self._outputs: Outputs | None = None  # what probabilities are made of

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        by_class = forward.targets.classes is not None
        self._outputs = recognise_for(self.score, self.model, forward.images) if by_class else None
        with forward.variations() as model:
            offset = self._offset(forward, model)
            return [
                WeightedSum(features, self._channel_weights(features, forward, model, offset))
                for features in forward.features
            ]

    def _offset(self, forward: Forward, model: Callable[[Tensor], Tensor]) -> Tensor | float:
        """Scores of the baseline, [N or 1, 1, ranks]."""
        if self.baseline is None or self.softmax:
            return 0.0
        baseline = self.baseline.to(forward.images, copy=True)  # a network may work on its input in place
        if baseline.dim() == 3:
            baseline = baseline[None]
        if len(baseline) not in (1, len(forward.chosen.classes if forward.chosen.classes is not None else baseline)):
            raise ValueError(f"`baseline` must be one image or one for each of the images, got {list(baseline.shape)}")
        repeats = len(forward.images) // max(len(baseline), 1)
        given = model(baseline)
        given = given.repeat(repeats, *[1] * (given.dim() - 1))
        return self._scores(given, torch.arange(len(given), device=given.device), forward)[:, None]

    def _scores(self, given: Tensor, owners: Tensor, forward: Forward) -> Tensor:
        given = given.to(torch.promote_types(given.dtype, torch.float32))
        if self._outputs is not None:
            given = probabilities(per_class(given), self._outputs)
        return forward.targets.scores(given, owners)

    def _channel_weights(
        self, features: Tensor, forward: Forward, model: Callable[[Tensor], Tensor], offset: Tensor | float
    ) -> Tensor:
        """[N, ranks, K]."""
        alive = features.amax((2, 3)) > features.amin((2, 3))
        exact = torch.promote_types(forward.logits.dtype, torch.float32)
        unseen = -torch.inf if self.softmax else 0.0
        scores = features.new_full((*features.shape[:2], forward.targets.ranks), unseen, dtype=exact)
        packs = self._packs(features, alive)
        for owners, channels in (pack.unbind(1) for pack in packs):
            masked = forward.images[owners]
            masked *= self._masks(features[owners, channels], masked.shape[2:]).to(masked.dtype)[:, None]
            found = self._scores(model(masked), owners, forward)
            if isinstance(offset, Tensor):
                found = found - (offset[owners, 0] if len(offset) > 1 else offset[0])
            scores[owners, channels] = found.to(exact)
        if self.softmax:
            scores = scores.softmax(1).nan_to_num(0.0)  # NaN where no channel was run
        return scores.transpose(1, 2)

    def _masks(self, coarse: Tensor, size: Sequence[int]) -> Tensor:
        """Masks [B, H, W] in [0, 1] of channels [B, h, w]."""
        if not self.align_corners:
            return self.ops.heatmap(coarse, size, False, self.normalize, "bilinear")
        coarse = coarse.to(torch.promote_types(coarse.dtype, torch.float32))
        if self.normalize == "before":
            coarse = min_max(coarse)
        masks = F.interpolate(coarse[:, None], size, mode="bilinear", align_corners=True)[:, 0]
        return masks if self.normalize == "before" else min_max(masks)


class AblationCAM(PerturbationMethod):
    """Ablation-CAM: channels weighted by how much the score drops without them.

    ``w_k = (S_c − S_c without A_k)/|S_c|``; Σ_k w_k·A_k, then ReLU. "Without" sets the channel to zero. The paper
    divides by S_c, which would turn the map round where the logit is negative; a score that is next to nothing beside
    the drops divides nothing. No gradients: one forward pass for each channel, packed over pictures. After a global
    pooling and one linear layer the drop is W[c, k] times the pooled channel, and a single forward pass is enough.
    Channels that are zero are left out. Where no drop exceeds rounding, the map is zero instead of noise.

    Source: Desai and Ramaswamy, Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free
    Localization, WACV 2020, equations 2 and 3.

    Args:
        model: as in `Method`.
        target_layers: as in `Method`.
        batch_size: variations per forward pass; None is 8 on a CPU, whose caches like few, and 64 on a GPU.
        top_channels: only so many channels of each picture, those that vary most over the positions; None for all.
        **options: as in `Method`. A `reshape_transform` must only rearrange what the layer gives.

    Example:
        >>> maps = fastcam.AblationCAM(model, target_layers=["layer3"])(images)
    """

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        every = torch.arange(len(forward.images), device=forward.images.device)
        exact = torch.promote_types(forward.logits.dtype, torch.float32)
        scores = forward.targets.scores(forward.given.detach(), every).to(exact)[:, None]  # [N, 1, ranks]
        return [
            WeightedSum(features, _relative(self._drops(index, forward, scores), scores).transpose(1, 2))
            for index, features in enumerate(forward.features)
        ]

    def _drops(self, index: int, forward: Forward, scores: Tensor) -> Tensor:
        """S − S_k, [N, K, ranks]."""
        features, classes = forward.features[index], forward.targets.classes
        head, drops = forward.head(index), None
        if head is not None and classes is not None:
            drops = (forward.pooled[..., None] * head.weight[classes].transpose(1, 2)).to(scores.dtype)
            if self.top_channels is None:
                return drops
        alive = (features != 0).flatten(2).any(2)
        result = scores.new_zeros(*features.shape[:2], forward.targets.ranks)
        packs = self._packs(features, alive)
        if drops is not None:
            for owners, channels in (pack.unbind(1) for pack in packs):
                result[owners, channels] = drops[owners, channels]
            return result
        transform, name = forward.reshape[index], list(self.layers)[index]
        places: dict[torch.Size, Tensor] = {}  # of packs of one size
        current: list[Tensor] = []

        def ablate(module: nn.Module, args: tuple[object, ...], output: Tensor) -> Tensor:
            owners, channels = current
            without = features[owners].contiguous()
            without[torch.arange(len(owners), device=owners.device), channels] = 0
            if transform is None:
                return without.to(output.dtype)
            if output.shape not in places:
                places[output.shape] = _places(output, transform, without.shape)
            return output.flatten().scatter(0, places[output.shape], without.flatten().to(output.dtype)).view_as(output)

        with forward.variations({self.layers[name]: ablate}) as model:
            for pack in packs:
                current[:] = owners, channels = pack.unbind(1)
                found = forward.targets.scores(model(forward.images[owners]), owners)
                result[owners, channels] = scores[owners, 0] - found.to(result.dtype)
        # Batches of another size round otherwise: where no channel counts for more than that, none counts.
        largest = torch.maximum(scores.abs(), forward.logits.abs().amax(1)[:, None, None])
        rounding = 32 * torch.finfo(result.dtype).eps * largest
        return torch.where(result.abs().amax(1, keepdim=True) > rounding, result, 0)


def _relative(drops: Tensor, scores: Tensor) -> Tensor:
    """Drops [N, K, ranks] as fractions of the scores' magnitude [N, 1, ranks], where that is something beside them."""
    size, largest = scores.abs(), drops.abs().amax(1, keepdim=True)
    return drops / torch.where(size > largest * torch.finfo(drops.dtype).eps, size, 1)


def _places(output: Tensor, transform: ReshapeTransform, shape: torch.Size) -> Tensor:
    """Where each number of the maps, [B, K, h, w], lies in the layer's own output: flat indices."""
    numbers = torch.arange(output.numel(), dtype=torch.float64, device=output.device)
    shaped = transform(numbers.view_as(output))
    if shaped.shape != shape:
        raise ValueError(
            f"AblationCAM runs packs of other sizes than the images: `reshape_transform` must give {list(shape)} for "
            f"a pack of {shape[0]}, got {list(shaped.shape)}"
        )
    places, taken = shaped.flatten().long(), torch.zeros(output.numel(), dtype=torch.bool, device=output.device)
    inside = (places >= 0) & (places < output.numel())
    taken[places[inside]] = True
    if not torch.equal(places.to(shaped.dtype), shaped.flatten()) or int(taken.sum()) != places.numel():
        raise ValueError(
            "AblationCAM sets channels of the layer's own output to zero: `reshape_transform` must only rearrange or "
            "leave out its numbers"
        )
    return places
