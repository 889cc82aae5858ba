"""Explanation metrics: how well maps show what a network's score depends on.

They perturb pictures as the maps say and watch the score, on the images' device, many pictures to a forward pass.
Values are per picture, so that those of several batches can be joined; means are the caller's, or properties.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam._check import one_of
from fastcam.methods.cautions import constant, tell
from fastcam.methods.running import check_images, evaluation_mode
from fastcam.methods.scores import Score, probabilities, recognise_for
from fastcam.methods.targets import Targets, resolve_targets
from fastcam.models.outputs import per_class, run

Baseline = Literal["zero", "blur"] | Tensor


class ConfidenceChange(NamedTuple):
    """Scores before and after all but the explanation was taken away.

    Attributes:
        before: [N], score of the whole picture.
        after: [N], score of picture times map.
    """

    before: Tensor
    after: Tensor

    @property
    def drop(self) -> Tensor:
        """Relative drop of each picture in percent, [N] in [0, 100]; NaN where a score that drops is not positive."""
        lost = (self.before - self.after).relu()
        relative = torch.where(self.before > 0, lost / self.before, math.nan)
        return 100 * torch.where(lost == 0, 0.0, relative)

    @property
    def average_drop(self) -> float:
        """Average drop in percent, lower is better; NaN for no pictures."""
        return self.drop.mean().item()

    @property
    def increase(self) -> float:
        """Increase in confidence: share of pictures in percent whose score rose, higher is better; NaN for none."""
        return 100 * (self.after > self.before).double().mean().item()


class Curve(NamedTuple):
    """Scores while pixels are taken away or put in, most important first.

    Attributes:
        fractions: float64 [S + 1] from 0 to 1, share of the pixels changed.
        scores: [N, S + 1], the score at each.
    """

    fractions: Tensor
    scores: Tensor

    @property
    def auc(self) -> Tensor:
        """Area under each picture's curve, [N], by the trapezoidal rule."""
        return torch.trapezoid(self.scores, self.fractions.to(self.scores), dim=1)


class Road(NamedTuple):
    """Scores after pixels were imputed from those around them.

    Attributes:
        fractions: float64 [T], share of the pixels imputed.
        most: [N, T], score after the most relevant pixels went (lower is better).
        least: [N, T], score after the least relevant pixels went (higher is better).
    """

    fractions: Tensor
    most: Tensor
    least: Tensor

    @property
    def combined(self) -> Tensor:
        """Half the mean of (least − most), [N]: one number that is higher for better maps."""
        return (self.least - self.most).mean(1) / 2


def confidence_change(
    model: nn.Module,
    images: Tensor,
    maps: Any,
    targets: Any = None,
    *,
    baseline: Baseline = "zero",
    score: Score = "probability",
    batch_size: int = 64,
) -> ConfidenceChange:
    """Average drop and increase in confidence: what is left of the score when only the explanation is shown.

    Y is the probability of the picture's class, O that of the picture multiplied by its map. Average drop is
    100/N·Σ max(0, Y − O)/Y, increase in confidence 100/N·Σ [O > Y].

    Source: Chattopadhyay et al., Grad-CAM++: Improved Visual Explanations for Deep Convolutional Networks, WACV
    2018, section 4.1; Score-CAM and others use the same.

    Args:
        model: network from [N, 3, H, W] to logits [N, C], or what `fastcam.models.with_output` makes of another; it
            runs in evaluation mode and stays as it was.
        images: [N, 3, H, W], floating, normalised as the model wants it, on its device.
        maps: [N, H, W], floating, in [0, 1].
        targets: as for a method's call, one for each picture; None is its highest class. Callables take logits.
        baseline: what shows where the map is zero: "zero" (the mean colour, since images are normalised), "blur"
            (`blurred`), or a tensor that broadcasts to the images: (0 − mean)/std as [3, 1, 1] is
            black.
        score: "probability", as `fastcam.methods.scores` makes it of the outputs (the softmax of logits, the sigmoid of
            a single one, and probabilities as they are); "softmax" or "sigmoid", so of logits, such as those of a
            network trained by binary cross-entropy; or "logit", the outputs as they are. Callables' values are taken as
            they are.
        batch_size: pictures per forward pass.

    Returns:
        Scores before and after, each [N] on the images' device, with the metrics as properties.

    Raises:
        TypeError: images or maps are not floating, or targets are of no known kind.
        ValueError: other shapes, maps that are not finite or not in [0, 1], an unknown baseline or score, or one that
            the network contradicts; a batch size below 1.
    """
    scores = _Scores(model, images, targets, score, batch_size)
    maps = _checked_maps(maps, images)
    if maps.numel() and not (maps.amin() >= 0 and maps.amax() <= 1):
        raise ValueError(
            f"`maps` must lie in [0, 1], got values in [{maps.amin()}, {maps.amax()}]; "
            "normalise them first: fastcam.ops.heatmap, or (m - m.min()) / (m.max() - m.min())"
        )
    share = maps.to(images.dtype)[:, None]
    base = background(baseline, images)

    def shown(index: Tensor) -> Tensor:
        return share[index] * images[index] + (1 - share[index]) * base[index]

    return ConfidenceChange(scores.before, scores.of(shown, torch.arange(len(images), device=images.device)))


def deletion(
    model: nn.Module,
    images: Tensor,
    maps: Any,
    targets: Any = None,
    *,
    steps: int = 224,
    baseline: Baseline = "zero",
    score: Score = "probability",
    batch_size: int = 64,
) -> Curve:
    """Deletion: the score while pixels are replaced, those of the highest map values first. A low area is good.

    Source: Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018;
    there 224 steps of 224 pixels each, replaced by zero.

    Args:
        model: as in `confidence_change`.
        images: as in `confidence_change`.
        maps: [N, H, W], floating, finite; only their order counts. Equal values go in raster order, so that a constant
            map measures nothing.
        targets: as in `confidence_change`.
        steps: forward passes per picture, less one, at least 1; each replaces an equal share of the pixels.
        baseline: what replaces pixels, as in `confidence_change`.
        score: as in `confidence_change`.
        batch_size: pictures per forward pass.

    Returns:
        The curves; `auc` is the metric.

    Warns:
        fastcam.methods.MapWarning: most maps are constant.

    Raises:
        TypeError, ValueError: as in `confidence_change`; steps below 1.
    """
    return _curve(model, images, maps, targets, steps, baseline, score, batch_size, insert=False)


def insertion(
    model: nn.Module,
    images: Tensor,
    maps: Any,
    targets: Any = None,
    *,
    steps: int = 224,
    baseline: Baseline = "blur",
    score: Score = "probability",
    batch_size: int = 64,
) -> Curve:
    """Insertion: the score while pixels appear, those of the highest map values first. A high area is good.

    Source: Petsiuk et al., RISE: Randomized Input Sampling for Explanation of Black-box Models, BMVC 2018;
    there 224 steps of 224 pixels each, into the blurred picture.

    Args:
        model: as in `confidence_change`.
        images: as in `confidence_change`.
        maps: as in `deletion`.
        targets: as in `confidence_change`.
        steps: as in `deletion`.
        baseline: what the picture starts from, as in `confidence_change`.
        score: as in `deletion`.
        batch_size: pictures per forward pass.

    Returns:
        The curves; `auc` is the metric.

    Warns:
        fastcam.methods.MapWarning: as in `deletion`.

    Raises:
        TypeError, ValueError: as in `deletion`.
    """
    return _curve(model, images, maps, targets, steps, baseline, score, batch_size, insert=True)


def road(
    model: nn.Module,
    images: Tensor,
    maps: Any,
    targets: Any = None,
    *,
    fractions: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    noise: float = 0.01,
    seed: int = 0,
    score: Score = "probability",
    batch_size: int = 64,
) -> Road:
    """ROAD, remove and debias: the score after the most and after the least relevant pixels were imputed.

    Missing pixels become the weighted mean of their neighbours (`impute`) with a little noise, so
    that the shape of the hole tells the network nothing. Of n pixels, n − ceil((1 − f)·(n − 1)) go for a fraction f:
    with distinct values these are the pixels at or above the percentile 100·(1 − f).

    Source: Rong et al., A Consistent and Efficient Evaluation Strategy for Attribution Methods, ICML 2022.

    Args:
        model: as in `confidence_change`.
        images: as in `confidence_change`.
        maps: as in `deletion`.
        targets: as in `confidence_change`.
        fractions: shares of the pixels to impute, each in (0, 1).
        noise: standard deviation of the noise in imputed pixels; one noise picture serves all, so that results do
            not depend on the batch size.
        seed: of the noise.
        score: as in `deletion`.
        batch_size: pictures per forward pass.

    Returns:
        The scores; `combined` is the metric.

    Warns:
        fastcam.methods.MapWarning: as in `deletion`.

    Raises:
        TypeError, ValueError: as in `confidence_change`; no fractions, one outside (0, 1), or negative noise.
    """
    shares = torch.tensor([float(f) for f in fractions], dtype=torch.float64)
    if not len(shares) or not ((shares > 0) & (shares < 1)).all():
        raise ValueError(f"`fractions` must be numbers in (0, 1), at least one, got {list(fractions)}")
    if not 0 <= noise < math.inf:
        raise ValueError(f"`noise` must be a finite number of at least 0, got {noise!r}")
    scores = _Scores(model, images, targets, score, batch_size)
    maps = _checked_maps(maps, images)
    ranks, pixels = _ranks(maps), maps[0].numel() if len(maps) else 1
    counts = (pixels - ((1 - shares) * (pixels - 1) - 1e-9).ceil()).long().to(images.device)
    shape, kinds = images.shape[1:], 2 * len(counts)
    generator = torch.Generator(images.device).manual_seed(seed)
    grain = noise * torch.randn(shape, generator=generator, device=images.device, dtype=torch.float32)

    def removed(index: Tensor) -> Tensor:
        rank, count = ranks[index // kinds], counts[index % len(counts), None]
        least = (index % kinds >= len(counts))[:, None]
        missing = torch.where(least, rank >= pixels - count, rank < count).view(-1, *shape[1:])
        filled = impute(images[index // kinds], missing)
        return torch.where(missing[:, None], filled + grain.to(filled.dtype), filled)

    found = scores.of(removed, torch.arange(len(images), device=images.device).repeat_interleave(kinds))
    most, least = found.view(len(images), 2, len(counts)).unbind(1)
    return Road(shares, most, least)


def pointing_game(maps: Any, truth: Any, truth_image: Any = None, *, tolerance: float = 15) -> Tensor:
    """Pointing game: whether the map's maximum lies on the object.

    The accuracy is the share of hits; the paper averages it over classes.

    Source: Zhang et al., Top-down Neural Attention by Excitation Backprop, ECCV 2016.

    Args:
        maps: [N, H, W], floating, finite. Of equal maxima the first in raster order counts; a constant map points
            nowhere and misses.
        truth: true boxes [M, 4], xyxy in pixels of the maps, half-open; or masks, bool [N, H, W].
        truth_image: integers [M], the picture of each box, in [0, N); by default one box for each picture.
        tolerance: a maximum this many pixels off the object still hits, ≥ 0; 15 in the paper, on pictures of their
            own size.

    Returns:
        bool [N] on the maps' device.

    Raises:
        TypeError: maps are not floating.
        ValueError: other shapes, values that are not finite, a box of a picture that there is not, or a negative
            tolerance.
    """
    maps = _checked_maps(maps)
    if not tolerance >= 0:
        raise ValueError(f"`tolerance` must be a number of pixels of at least 0, got {tolerance!r}")
    count, height, width = maps.shape
    flat = maps.flatten(1)
    place = flat.argmax(1)
    row, column = place // width, place % width
    varied = flat.amax(1) > flat.amin(1)
    truth = torch.as_tensor(truth, device=maps.device)
    if truth.dtype == torch.bool:
        if truth.shape != maps.shape or truth_image is not None:
            raise ValueError(f"masks must have the maps' shape {list(maps.shape)}, got {list(truth.shape)}")
        rows = torch.arange(height, device=maps.device)[:, None] - row[:, None, None]
        columns = torch.arange(width, device=maps.device) - column[:, None, None]
        return varied & (truth & (rows**2 + columns**2 <= tolerance**2)).flatten(1).any(1)
    if truth.dim() != 2 or truth.shape[1] != 4 or not truth.isfinite().all():
        raise ValueError(f"`truth` must be finite boxes [M, 4], or bool [N, H, W], got {list(truth.shape)}")
    image = torch.as_tensor(range(count) if truth_image is None else truth_image, device=maps.device).long()
    if image.shape != truth.shape[:1] or (len(image) and not (image.amin() >= 0 and image.amax() < count)):
        raise ValueError(
            f"`truth` must have one box for each of {count} pictures, or `truth_image` must give the picture, "
            f"0 to {count - 1}, of each of the {len(truth)} boxes, got {list(image.shape)}"
        )
    point = torch.stack([column, row], 1)[image].double()
    off = torch.maximum(truth[:, :2] - point, point - (truth[:, 2:] - 1)).clamp(min=0)
    near = ((off**2).sum(1) <= tolerance**2) & (truth[:, 2:] > truth[:, :2]).all(1)
    return varied & torch.zeros_like(varied).index_put_((image[near],), near.new_ones(()))


class _Scores:
    """One score of each picture and of what is made of it; the model runs in chunks and stays as it was."""

    def __init__(self, model: nn.Module, images: Tensor, targets: Any, score: Score, batch_size: int) -> None:
        one_of("score", score, get_args(Score))
        if not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"`batch_size` must be a whole number of at least 1, got {batch_size!r}")
        check_images(model, images)
        self._model, self._batch = model, batch_size
        everything = torch.arange(len(images), device=images.device)
        logits = torch.cat(list(self._logits(lambda index: images[index], everything))) if len(images) else None
        self._targets, self._outputs = Targets(everything[:, None], (), False), None
        if logits is None:
            self.before = images.new_empty(0)
            return
        self._targets = resolve_targets(targets, None, per_class(logits))
        if self._targets.ranks != 1:
            raise ValueError("`targets` must be one for each picture, as there is one map for each")
        if self._targets.classes is not None:
            self._outputs = recognise_for(score, model, images)
        self.before = self._of(logits, everything)

    @torch.no_grad()
    def of(self, pictures: Callable[[Tensor], Tensor], owner: Tensor) -> Tensor:
        """Scores [M] of what `pictures` makes for indices in 0 … M − 1; `owner` [M] says whose target each has."""
        index = torch.arange(len(owner), device=owner.device)
        chunks = zip(self._logits(pictures, index), owner.split(self._batch), strict=False)
        scores = [self._of(logits, part) for logits, part in chunks]
        return torch.cat(scores) if scores else self.before.new_empty(0)

    @torch.no_grad()
    def _logits(self, pictures: Callable[[Tensor], Tensor], index: Tensor) -> Iterator[Tensor]:
        for part in index.split(self._batch) if len(index) else ():
            inputs = pictures(part)
            with evaluation_mode(self._model):
                yield run(self._model, inputs)

    def _of(self, logits: Tensor, owner: Tensor) -> Tensor:
        exact = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self._outputs is not None:
            exact = probabilities(per_class(exact), self._outputs)
        return self._targets.scores(exact, owner)[:, 0]


def _curve(
    model: nn.Module,
    images: Tensor,
    maps: Any,
    targets: Any,
    steps: int,
    baseline: Baseline,
    score: Score,
    batch_size: int,
    *,
    insert: bool,
) -> Curve:
    scores = _Scores(model, images, targets, score, batch_size)
    maps = _checked_maps(maps, images)
    pixels = images.shape[2] * images.shape[3]
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"`steps` must be a whole number of at least 1, got {steps!r}")
    ranks, base = _ranks(maps), background(baseline, images)
    points = steps + 1
    counts = (torch.arange(points, device=images.device, dtype=torch.float64) * pixels / steps).round().long()

    def changed(index: Tensor) -> Tensor:
        owner = index // points
        first = (ranks[owner] < counts[index % points, None]).view(-1, 1, *images.shape[2:])
        return torch.where(first == insert, images[owner], base[owner])

    found = scores.of(changed, torch.arange(len(images), device=images.device).repeat_interleave(points))
    return Curve(counts.double() / pixels, found.view(len(images), points))


def _ranks(maps: Tensor) -> Tensor:
    """Place of each pixel, 0 for the highest value: int64 [N, H·W]."""
    flat = maps.flatten(1)
    if len(maps):
        tell([constant(int((flat.amax(1) == flat.amin(1)).sum()), len(maps), {})], stacklevel=4)
    order = flat.argsort(dim=1, descending=True, stable=True)
    return torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )


def _checked_maps(maps: Any, images: Tensor | None = None) -> Tensor:
    maps = torch.as_tensor(maps, device=None if images is None else images.device).detach()
    if not maps.is_floating_point():
        raise TypeError(f"`maps` must be floating, got {maps.dtype}")
    expected = None if images is None else (len(images), *images.shape[2:])
    if maps.dim() != 3 or 0 in maps.shape[1:] or expected not in (None, tuple(maps.shape)):
        wanted = "[N, H, W]" if expected is None else f"{list(expected)}, one for each image and of its size"
        raise ValueError(f"`maps` must be {wanted}, got {list(maps.shape)}")
    if not maps.isfinite().all():
        raise ValueError("`maps` must be finite, got NaN or infinity")
    return maps


# ---- what stands in for pixels that are taken away: nothing, a blur, or the pixels around ----------------------------


def background(baseline: Baseline, images: Tensor) -> Tensor:
    """Make the pictures that show where others are taken away.

    Args:
        baseline: "zero", "blur" (see `blurred`), or a tensor that broadcasts to the images.
        images: [N, K, H, W], floating.

    Returns:
        [N, K, H, W] of the images' dtype and device; may share memory with `baseline`.

    Raises:
        ValueError: an unknown baseline, or a tensor that does not broadcast.
    """
    if isinstance(baseline, Tensor):
        try:
            return baseline.to(images).expand_as(images)
        except RuntimeError:
            raise ValueError(
                f"`baseline` must broadcast to the images {list(images.shape)}, got {list(baseline.shape)}"
            ) from None
    if baseline == "zero":
        return images.new_zeros(()).expand_as(images)
    if baseline == "blur":
        return blurred(images)
    raise ValueError(f'`baseline` must be "zero", "blur" or a tensor, got {baseline!r}')


def blurred(images: Tensor) -> Tensor:
    """Blur pictures as RISE's insertion game does: 11×11 pixels, σ = 5.

    The published kernel is a Gaussian whose tails are mirrored back into its 11 taps; beyond the border lie zeros.

    Source: Petsiuk et al., BMVC 2018 (see `insertion`), published code.

    Args:
        images: [N, K, H, W], floating.

    Returns:
        [N, K, H, W] of the images' dtype.

    Raises:
        RuntimeError: the images are not [N, K, H, W] or not floating.
    """
    reach = torch.arange(-20, 21)
    weights = torch.exp(-(reach.double() ** 2) / 50)
    place = (5 + reach) % 22
    taps = torch.zeros(11, dtype=torch.float64).index_add_(0, place.minimum(21 - place), weights / weights.sum())
    padded = F.pad(images, (5, 5, 5, 5))
    # Shifted sums and no convolution, which may run in TF32 on a GPU.
    height, width = images.shape[2:]
    nothing = images.new_zeros(())
    rows = sum((float(tap) * padded[:, :, i : i + height] for i, tap in enumerate(taps)), nothing)
    return sum((float(tap) * rows[..., i : i + width] for i, tap in enumerate(taps)), nothing)


def impute(images: Tensor, missing: Tensor, *, tolerance: float = 1e-6) -> Tensor:
    """Replace pixels by the weighted mean of their eight neighbours, imputed ones included.

    The sides weigh 1/6 and the corners 1/12, less at the border; that is one linear equation for each missing pixel,
    solved for all pictures and channels at once by conjugate gradients.

    Source: Rong et al., ICML 2022 (see `road`): noisy linear imputation, without the noise.

    Args:
        images: [N, K, H, W], floating.
        missing: bool [N, H, W], the pixels to replace.
        tolerance: the equations' residual, relative to the right-hand side, at which the iteration ends, > 0.

    Returns:
        [N, K, H, W] of the images' dtype and device. Where all of a picture is missing it becomes zero.

    Raises:
        TypeError: images are not floating, or `missing` is not bool.
        ValueError: the shapes do not fit, or the tolerance is not positive.
    """
    if not images.is_floating_point() or missing.dtype != torch.bool:
        raise TypeError(f"`images` must be floating and `missing` bool, got {images.dtype} and {missing.dtype}")
    if images.dim() != 4 or missing.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"`images` must be [N, K, H, W] and `missing` [N, H, W], got {list(images.shape)} and {list(missing.shape)}"
        )
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive, got {tolerance!r}")
    if images.is_cuda or len(images) < 2:
        return _solved(images, missing, tolerance)
    # On a CPU one picture after the other: it stays in the cache, and does not wait for the slowest.
    parts = zip(images.split(1), missing.split(1), strict=True)
    return torch.cat([_solved(image, hole, tolerance) for image, hole in parts])


def _solved(images: Tensor, missing: Tensor, tolerance: float) -> Tensor:
    exact = torch.promote_types(images.dtype, torch.float32)
    hole = missing[:, None].to(exact)
    known = torch.where(missing[:, None], 0, images.to(exact))
    total = _neighbours(torch.ones_like(hole))  # of the weights; a single pixel has no neighbours
    total = torch.where(total > 0, total, 1)

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    residual = hole * _neighbours(known)
    solution = torch.zeros_like(residual)
    direction = conditioned = residual / total
    power = dot(residual, conditioned)
    enough = tolerance * dot(residual, residual).sqrt()
    for step in range(1, 10 * sum(images.shape[2:]) + 1):  # in practice about one per pixel of a side
        image = hole * (total * direction - _neighbours(direction))
        curvature = dot(direction, image)
        length = torch.where(curvature > 0, power / curvature, 0)
        solution = solution + length * direction
        residual = residual - length * image
        # Asked now and then only, since the answer has to come from the device.
        if step % 16 == 0 and bool((dot(residual, residual).sqrt() <= enough).all()):
            break
        conditioned = residual / total
        previous, power = power, dot(residual, conditioned)
        direction = conditioned + torch.where(previous > 0, power / previous, 0) * direction
    return torch.where(missing[:, None], solution, images.to(exact)).to(images.dtype)


def _neighbours(values: Tensor) -> Tensor:
    """Weighted sum of the eight neighbours, nothing beyond the border; the sides weigh 1/6, the corners 1/12."""
    wide = F.pad(values, (1, 1))
    rows = wide[..., :-2] + wide[..., 2:]
    tall = F.pad(2 * values + rows, (0, 0, 1, 1))
    return (2 * rows + tall[..., :-2, :] + tall[..., 2:, :]) / 12
