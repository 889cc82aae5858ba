"""Maps of pictures at several sizes, and of their mirror images, summed: what weakly supervised segmentation uses."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fastcam._check import distinct_scales
from fastcam.methods.forward import Forward
from fastcam.methods.running import out_of_memory

if TYPE_CHECKING:
    from fastcam.methods.core import Method
    from fastcam.methods.targets import Targets


class RunFor(Protocol):
    """Runs a network for methods on pictures of one size, and their mirror images, if asked to."""

    def __call__(self, images: Tensor, targets: Any, top_k: int | None, *, mirror: bool) -> Forward:  # noqa: D102
        ...


def checked(scales: Sequence[float] | None, flip: bool = False) -> tuple[float, ...]:
    """The scales of a run: 1 where mirror images alone are asked for, () where nothing is; see `distinct_scales`."""
    return distinct_scales(scales) or ((1.0,) if flip else ())


def size_at(size: Sequence[int], scale: float) -> tuple[int, int]:
    """Height and width at a scale, each rounded to the nearest pixel; ValueError if nothing is left."""
    height, width = (round(side * scale) for side in size)
    if not (height and width):
        raise ValueError(f"pictures of {size[0]}x{size[1]} have no pixel left at the scale {scale:g}: leave it out")
    return height, width


def resized(images: Tensor, scale: float) -> Tensor:
    """Images [N, 3, H, W] at a scale, of their dtype and layout, as Pillow's bicubic filter resizes, unclipped."""
    if scale == 1:
        return images
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    exact = images.detach().to(torch.promote_types(images.dtype, torch.float32)).contiguous()
    size = size_at(images.shape[-2:], scale)
    with torch.autocast(images.device.type, enabled=False):
        found = F.interpolate(exact, size, mode="bicubic", antialias=True).to(images.dtype)
    return found.contiguous(memory_format=torch.channels_last) if last else found


def by_maximum(maps: Tensor) -> Tensor:
    """Maps [..., H, W] divided by their maximum, in [0, 1]: zeros where a map is constant or not finite."""
    if not maps.numel():
        return maps
    maps = maps.clamp(min=0)  # what bicubic upsampling leaves below
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    usable = high.isfinite() & (high > low)
    return torch.where(usable, maps / torch.where(usable, high, 1), 0)


def summed(info: Mapping[str, Any]) -> bool:
    """Whether maps are such sums, by what made them, as tables have it."""
    return bool(info.get("scales") or info.get("flip"))


def finished(coarse: Tensor, size: int | Sequence[int], mode: str, ops: ModuleType) -> Tensor:
    """Summed maps [..., h, w] at a size, divided by their maximum there, by these operators."""
    return by_maximum(ops.heatmap(coarse, size, False, None, mode))


class ScaledRun:
    """What methods have found in pictures at several sizes: maps, logits and classes, but no activations.

    Attributes:
        model: the network itself, outside of wrappers.
        size: (H, W) of the pictures.
        count: N, the number of pictures.
        images: [N, 3, H', W'], those that gave the logits: the pictures themselves if 1 is among the scales, else at
            the first of them.
        logits: [N, C] of these.
        chosen: what is explained, chosen by these logits where it was not given.
        linear: the linear layer whose output the logits are, as their numbers prove, or None.
    """

    augmented = False

    def __init__(self, size: Sequence[int], scales: Sequence[float], flip: bool) -> None:
        self.size = (size[0], size[1])
        self.scales, self.flip = tuple(scales), flip
        self._parts: dict[Method, dict[float, list[Tensor]]] = {}
        self._sums: dict[Method, list[Tensor]] = {}
        self._eigen: dict[Method, bool] = {}
        self._scale: float | None = None

    def begin(self, scale: float, forward: Forward) -> None:
        """Begin with a pass at a scale; the first is that whose logits count."""
        if self._scale is None:
            self.model, self.count, self.logits = forward.model, forward.count, forward.logits[: forward.count]
            self.images, self.linear = forward.images[: forward.count], forward.linear
            self.chosen: Targets = forward.chosen
        self._scale = scale

    def add(self, method: "Method", forward: Forward, eigen_smooth: bool = False) -> None:
        """Take a method's maps of the pass that was begun."""
        assert self._scale is not None
        count = forward.count
        maps = [part.relu() for part in method.sums(forward, eigen_smooth)]
        if self.flip:
            maps = [part[:count] + part[count:].flip(-1) for part in maps]
        self._parts.setdefault(method, {})[self._scale] = maps
        self._eigen[method] = eigen_smooth

    def maps(self, method: "Method", eigen_smooth: bool) -> list[Tensor]:
        """The sum of each target layer, [N, k, h, w] or [N, h, w], divided by its maximum."""
        if method not in self._eigen:
            raise ValueError(f"the run was not made for this {type(method).__name__}: pass it to `observe`")
        if self._eigen[method] != eigen_smooth:
            raise ValueError("`eigen_smooth` is that of the run, where it has several views: pass it to `observe`")
        if method not in self._sums:
            parts = self._parts.pop(method)
            layers = zip(*(parts[scale] for scale in self.scales), strict=True)
            self._sums[method] = [_summed(layer, method.ops) for layer in layers]
        return self._sums[method]


def _summed(parts: Sequence[Tensor], ops: ModuleType) -> Tensor:
    """Maps of several sizes brought to that of the largest, summed, and divided by their maximum."""
    size = tuple(max(part.shape[axis] for part in parts) for axis in (-2, -1))
    alike = (part if part.shape[-2:] == size else ops.heatmap(part, size, False, None) for part in parts)
    return by_maximum(sum(alike, torch.zeros((), dtype=parts[0].dtype, device=parts[0].device)))


def passes(
    run_for: RunFor,
    images: Tensor,
    targets: Any,
    top_k: int | None,
    scales: Sequence[float],
    flip: bool,
    through: Callable[[Forward], Forward] | None = None,
) -> Iterator[tuple[float, Forward]]:
    """Run pictures at one scale after the other; each pass is to be let go of before the next.

    The first is at scale 1, or where that is missing at the first of the scales: it chooses the classes of all.

    Args:
        run_for: runs the network.
        images: [N, 3, H, W].
        targets: as in `fastcam.methods.Method`.
        top_k: as there.
        scales: as `checked` has them.
        flip: whether mirror images run beside the pictures, in one pass.
        through: what to make of each pass, such as one with another pooling; it also chooses the classes.

    Yields:
        Scale and pass.

    Raises:
        ValueError: the network takes no pictures of a size.
    """
    for number, scale in enumerate(sorted(scales, key=lambda scale: scale != 1)):
        view = resized(images, scale)
        try:
            forward = run_for(view, targets, top_k, mirror=flip)
        except Exception as error:
            if scale == 1 or out_of_memory(error):
                raise
            if number == 0:
                run_for(images, targets, top_k, mirror=False)  # raises what has nothing to do with the size
            height, width = view.shape[-2:]
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise ValueError(
                f"the network takes no pictures of {height}x{width}, which those of {images.shape[-2]}x"
                f"{images.shape[-1]} are at the scale {scale:g}: leave that out (a network of one size, such as a "
                f"vision transformer with fixed positions, has but mirror images, `flip`); it says: {reason}"
            ) from error
        if through is not None:
            forward = through(forward)
        if number == 0 and targets is None and forward.logits.shape[1]:  # else the network has no scores
            classes = forward.chosen.classes
            assert classes is not None
            targets, top_k = (classes if forward.chosen.ranked else classes[:, 0]), None
        del view
        yield scale, forward
        del forward
