"""What CUDA and CPU must agree on, bit for bit from the coarse map on: each operator on adversarial inputs of its kind.

The operators, and the keywords that choose a path through each, are those of `fastcam.bench.operators`; here are the
inputs, by kind. ``tests/ops/test_cuda.py`` runs these cases on a GPU. Run as ``python -m tests.support.agreement`` it
goes through a small set of them, for compute-sanitizer. Nothing is needed but torch and fastcam.
"""

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcam import ops
from fastcam.bench.operators import HEATMAP, OPERATORS, WEIGHTINGS as WEIGHTINGS, Inputs, Operator

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Case(NamedTuple):
    """A comparison of a device's results with the CPU's; ``check`` raises AssertionError where they differ."""

    name: str
    check: Callable[[torch.device], None]


class Situation(NamedTuple):
    """Inputs of one kind, made on the CPU when they are needed, and keywords that belong to them."""

    name: str
    make: Callable[[], Inputs]
    options: dict[str, Any]


def same(actual: Tensor, expected: Tensor, what: object = "") -> None:
    """Assert that shapes, dtypes and all bits are equal; any NaN equals any other."""
    actual, expected = actual.cpu(), expected.cpu()
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), (what, actual.shape, actual.dtype)
    differ = actual.contiguous().view(kind := _BITS[actual.element_size()]) != expected.contiguous().view(kind)
    if actual.is_floating_point():
        differ &= ~(actual.isnan() & expected.isnan())
    if differ.any():
        first = tuple(differ.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(differ.sum())} of {differ.numel()} values differ, the first at {first}: "
            f"{actual[first].item()!r} instead of {expected[first].item()!r}"
        )


# ---- inputs ----------------------------------------------------------------------------------------------------------


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coarse_maps(h: int, w: int) -> Tensor:
    """Coarse maps [N, h, w], float32, ordinary and nasty ones."""
    noise = random(4, h, w)
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    peak = torch.zeros(h, w)
    peak[h // 2, w // 2] = 1.0
    twins = torch.zeros(h, w)  # two maxima that differ in the last bit
    twins[0, 0], twins[-1, -1] = 1.0, torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
    flat = torch.full((h, w), 0.7)
    signed = torch.where((x + y) % 3 == 0, -0.0, 0.0)
    signed[0, -1] = 0.5
    holes = noise[0].clone()
    holes[h // 2, 0] = float("nan")
    infinite = noise[1].clone()
    infinite[0, w // 2] = float("inf")
    sunk = noise[2].clone()
    sunk[-1, 0] = float("-inf")
    maps = [
        *noise,
        torch.exp(-((x - 0.6 * w) ** 2 + (y - 0.3 * h) ** 2) / (0.1 * h * w)),
        random(h, w, seed=1).mul(1.5).round(),  # plateaus
        ((x + y) % 2).float(),
        ((x + y) % 2).float() - 0.5,
        peak,
        twins,
        flat,
        -flat,
        signed,
        holes,
        infinite,
        sunk,
        1e-40 * noise[3],  # subnormal
        3e38 * noise[3].sign(),  # the range overflows
        1 + 1e-7 * (x % 3),  # a few units in the last place
    ]
    return torch.stack(maps)


def _serpentine(height: int, width: int) -> Tensor:
    """One component that winds through all rows."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[::2] = True
    mask[1::4, -1] = True
    mask[3::4, 0] = True
    return mask


def _rings(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.minimum(torch.minimum(y, height - 1 - y), torch.minimum(x, width - 1 - x)) % 2 == 0


def masks(height: int, width: int) -> Tensor:
    """Masks [N, height, width], bool: random at every density, and what labelling stumbles over."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    uniform = torch.rand(5, height, width, generator=torch.Generator().manual_seed(2))
    comb = (x % 2 == 0) | (y == height - 1)
    corners = torch.zeros(height, width, dtype=torch.bool)
    corners[:: max(1, height - 1), :: max(1, width - 1)] = True
    return torch.stack(
        [
            *(uniform < torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9])[:, None, None]),
            torch.zeros(height, width, dtype=torch.bool),
            torch.ones(height, width, dtype=torch.bool),
            (x + y) % 2 == 0,
            (x + y) % 3 == 0,  # diagonal chains
            comb,
            comb.flip(0),
            _serpentine(height, width),
            _serpentine(width, height).T,
            _rings(height, width),
            (x % 2 == 0) & (y % 2 == 0),  # as many components as there can be, all alike
            corners,
        ]
    )


def finished_maps(height: int, width: int) -> Tensor:
    """Maps [N, height, width] in [0, 1], float32, and some that are not."""
    noise = random(2, 14, 14, seed=3)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    levels = torch.rand(height, width, generator=torch.Generator().manual_seed(4))
    outside = 3 * levels - 1
    broken = levels.clone()
    broken[height // 2, width // 2], broken[0, 0], broken[-1, -1] = float("nan"), float("inf"), float("-inf")
    return torch.cat(
        [
            ops.heatmap(noise, (height, width), relu=False, mode="bicubic"),
            ops.heatmap(noise[:, :7, :7], (height, width)),
            torch.stack(
                [
                    levels,
                    levels.mul(6).floor() / 5,  # plateaus
                    (x + y) % 256 / 255,
                    _rings(height, width).float() * (x / max(1, width - 1)),
                    torch.zeros(height, width),
                    torch.ones(height, width),
                    outside,
                    broken,
                ]
            ),
            masks(height, width)[[7, 11, 13]] * torch.tensor([1.0, 0.5, 0.999])[:, None, None],
        ]
    )


def truth_boxes(images: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Boxes float64 [M, 4] and image indices int64 [M]: none, one or more an image, some outside the picture."""
    generator = torch.Generator().manual_seed(5)
    counts = torch.arange(images) % 4
    corners = torch.rand(int(counts.sum()), 2, 2, generator=generator, dtype=torch.float64).sort(1).values
    boxes = (corners * torch.tensor([width, height]) * 1.2 - 3).flatten(1)
    boxes[::2] = boxes[::2].trunc()
    order = torch.randperm(len(boxes), generator=generator)
    return boxes[order], torch.arange(images).repeat_interleave(counts)[order]


def activations(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, seed: int) -> Tensor:
    return random(*shape, seed=seed).to(dtype, memory_format=layout)


# ---- situations ------------------------------------------------------------------------------------------------------

SUMS = [(3, 512, 7, 7), (2, 2048, 7, 7), (5, 37, 5, 9), (1, 3, 1, 1), (2, 64, 14, 14), (2, 19, 28, 28), (1, 8, 56, 57)]
TO_BOXES = [*zip(SUMS[:3], [(224, 224)] * 3, strict=True)]
TO_BOXES += [(SUMS[4], (448, 448)), (SUMS[5], (65, 130)), (SUMS[0], (1024, 1024)), (SUMS[6], (100, 99))]
COARSE = [((7, 7), (224, 224)), ((14, 14), (224, 224)), ((28, 28), (448, 448)), ((7, 7), (1024, 1024))]
COARSE += [((5, 9), (65, 130)), ((1, 7), (31, 33)), ((7, 1), (64, 63)), ((1, 1), (5, 5)), ((14, 14), (7, 5))]
COARSE += [((2, 2), (1, 70)), ((56, 40), (100, 37)), ((7, 7), (1700, 2100)), ((64, 96), (256, 384))]
PICTURES = [(224, 224), (33, 65), (1, 70), (70, 1), (1, 1), (31, 32), (64, 63), (448, 448), (1024, 1024), (1300, 2100)]
SMALL_SUMS = [(2, 37, 7, 7), (1, 5, 3, 9), (1, 4, 14, 14)]
SMALL_TO_BOXES = [*zip(SMALL_SUMS, ((33, 64), (20, 40), (64, 64)), strict=True)]
SMALL_COARSE = [((7, 7), (64, 65)), ((3, 5), (33, 20)), ((1, 1), (3, 3))]
SMALL_PICTURES = [(33, 65), (1, 7), (20, 32)]


def by(*sides: int) -> str:
    return "x".join(map(str, sides))


def for_sums(small: bool) -> Iterator[Situation]:
    for shape, (kind, dtype), (name, layout) in product(SMALL_SUMS if small else SUMS, DTYPES.items(), LAYOUTS.items()):
        features = partial(activations, shape, dtype, layout, 6)
        for weights in ((shape[0], 3, shape[1]), shape[:2]):  # of several classes, or of one
            make = partial(lambda features, weights: (features(), random(*weights, seed=7)), features, weights)
            yield Situation(f"{by(*shape)}-{kind}-{name}-{by(*weights)}", make, {})


def for_gradients(small: bool) -> Iterator[Situation]:
    for shape, (kind, dtype), (name, layout) in product(SMALL_SUMS if small else SUMS, DTYPES.items(), LAYOUTS.items()):
        features, gradients = (partial(activations, shape, dtype, layout, seed) for seed in (8, 9))
        make = partial(lambda features, gradients: (features().relu(), gradients()), features, gradients)
        yield Situation(f"{by(*shape)}-{kind}-{name}", make, {})


def for_boxes(small: bool) -> Iterator[Situation]:
    """The first image has a constant map, and the last a value that is not finite."""

    def make(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> Inputs:
        features = activations(shape, dtype, layout, 10)
        features[0] = 0
        features[-1, 0, 0, 0] = float("nan")
        return features, random(shape[0], 2, shape[1], seed=11)

    shapes = SMALL_TO_BOXES if small else TO_BOXES
    for (shape, size), (kind, dtype), (name, layout) in product(shapes, DTYPES.items(), LAYOUTS.items()):
        title = f"{by(*shape)}-{by(*size)}-{kind}-{name}"
        yield Situation(title, partial(make, shape, dtype, layout), {"size": size})


def for_coarse(small: bool) -> Iterator[Situation]:
    for (shape, size), mode in product(SMALL_COARSE if small else COARSE, ("bilinear", "bicubic")):
        for kind in ("float32", "float64") if math.prod(size) <= 2**20 else ("float32",):
            make = partial(lambda shape, dtype: (coarse_maps(*shape).to(dtype),), shape, DTYPES[kind])
            yield Situation(f"{by(*shape)}-{by(*size)}-{mode}-{kind}", make, {"size": size, "mode": mode})


def for_maps(small: bool, kinds: Iterable[str] = DTYPES) -> Iterator[Situation]:
    for size, kind in product(SMALL_PICTURES if small else PICTURES, kinds):
        make = partial(lambda size, dtype: (finished_maps(*size).to(dtype),), size, DTYPES[kind])
        yield Situation(f"{by(*size)}-{kind}", make, {})


def for_maps_and_boxes(small: bool) -> Iterator[Situation]:
    def make(maps: Callable[[], Inputs]) -> Inputs:
        (found,) = maps()
        return found, *truth_boxes(*found.shape)

    for name, maps, _ in for_maps(small, ("float32", "float64")):
        yield Situation(name, partial(make, maps), {})


def for_scores(small: bool) -> Iterator[Situation]:
    """Scores, and such as lie on the edges of bins; masks of 1 and 0, with or without pixels that are neither."""

    def make(maps: Callable[[], Inputs], bins: int, kind: str) -> Inputs:
        (scores,) = maps()
        masks = torch.randint(0, 4, scores.shape, generator=torch.Generator().manual_seed(16), dtype=torch.uint8)
        edges = torch.randint(0, bins + 1, scores.shape, generator=torch.Generator().manual_seed(17)) * (1 / bins)
        masks = torch.cat([masks, masks])
        return torch.cat([scores, edges.to(scores)]), masks == 1 if kind == "bool" else masks

    for (name, maps, _), bins, kind in product(for_maps(small, ("float32", "float64")), (1000, 49), ("bool", "uint8")):
        yield Situation(f"{name}-{bins}-{kind}", partial(make, maps, bins, kind), {"bins": bins})


def for_refinement(small: bool) -> Iterator[Situation]:
    """Maps and images of one size, smooth and noisy, some pixels of the last image not finite."""

    def make(size: tuple[int, int], channels: int) -> Inputs:
        maps = random(3, 5, *size, seed=18).sigmoid()
        images = random(3, channels, *size, seed=19)
        images[0] = images[0].cumsum(-1).round()
        images[2, 0, 0, 0], images[2, 0, -1, -1] = torch.nan, torch.inf
        return maps, images

    for size, channels in product(SMALL_PICTURES if small else PICTURES, (1, 3)):
        if math.prod(size) <= 2**20:
            yield Situation(f"{by(*size)}-{channels}", partial(make, size, channels), {})


def for_masks(small: bool) -> Iterator[Situation]:
    for size in SMALL_PICTURES if small else PICTURES:
        yield Situation(f"{by(*size)}-bool", partial(lambda size: (masks(*size),), size), {})
        yield Situation(f"{by(*size)}-uint8", partial(lambda size: (255 * masks(*size).to(torch.uint8),), size), {})


SITUATIONS: dict[str, Callable[[bool], Iterator[Situation]]] = {
    "activations": for_sums,
    "gradients": for_gradients,
    "activations to boxes": for_boxes,
    "coarse": for_coarse,
    "maps": for_maps,
    "maps and boxes": for_maps_and_boxes,
    "scores and masks": for_scores,
    "masks": for_masks,
    "maps and images": for_refinement,
}

# ---- checks ----------------------------------------------------------------------------------------------------------


class Trial(NamedTuple):
    """One call of an operator, here on the CPU and there on a device."""

    call: Callable[..., Any]
    here: Inputs
    options: dict[str, Any]
    there: Inputs
    options_there: dict[str, Any]

    def expected(self) -> Any:
        return self.call(*self.here, **self.options)

    def actual(self) -> Any:
        return self.call(*self.there, **self.options_there)


def check(operator: Operator, situation: Situation, device: torch.device) -> None:
    """Compare all ways through an operator, on the same inputs here and there."""
    here = situation.make()
    there = tuple(tensor.to(device) for tensor in here)
    for variant in operator.variants:
        options, options_there = (
            situation.options | {name: value(*inputs) if callable(value) else value for name, value in variant.items()}
            for inputs in (here, there)
        )
        COMPARISONS.get(operator.call, same_results)(Trial(operator.call, here, options, there, options_there))


def same_results(trial: Trial) -> None:
    actual, expected = trial.actual(), trial.expected()
    if isinstance(expected, Tensor):
        return same(actual, expected, trial.options)
    for index, pair in enumerate(zip(actual, expected, strict=True)):
        same(*pair, (index, trial.options))


def close(trial: Trial, bound: Tensor) -> None:
    """Sums may differ in their order: `bound` is what rounding may add up to."""
    actual, expected = trial.actual().cpu(), trial.expected()
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), (actual.shape, actual.dtype)
    excess = (actual.double() - expected.double()).abs() - bound
    assert not (excess > 0).any(), f"{trial.options}: off by {excess.max():.3g} more than allowed"


def close_sums(trial: Trial) -> None:
    features, weights = trial.here
    scale = torch.einsum("n...k,nkhw->n...hw", weights.double().abs(), features.double().abs())
    close(trial, scale * (1e-14 if features.dtype == torch.float64 else 2e-6))


def close_weighted_sums(trial: Trial) -> None:
    expected = trial.expected()
    largest = expected.double().abs().amax((1, 2), keepdim=True).expand(expected.shape)
    close(trial, largest * (1e-10 if trial.here[0].dtype == torch.float64 else 1e-4))


def same_from_the_sums_on(trial: Trial) -> None:
    """From the device's own coarse maps on, whose sums it may take in another order; for one class as for several."""
    features, weights = trial.there
    coarse = trial._replace(call=ops.class_map, options_there={}).actual().cpu()
    options = {name: value for name, value in trial.options.items() if name != "return_map"}
    expected = [ops.boxes(coarse, **options)]
    if dtype := trial.options.get("return_map"):
        size, relu = options["size"], options.get("relu", True)
        expected.append(ops.heatmap(coarse.float(), size, relu, dtype=torch.uint8 if dtype == "uint8" else None))
    results = trial.actual(), trial._replace(there=(features, weights[:, 1])).actual()
    actual, single = (result if isinstance(result, tuple) else (result,) for result in results)
    for of_all, of_one, right in zip(actual, single, expected, strict=True):
        same(of_all, right, trial.options)
        same(of_one, of_all[:, 1], "one class")


COMPARISONS: dict[Callable[..., object], Callable[[Trial], None]] = {
    ops.class_map: close_sums,
    ops.gradient_map: close_weighted_sums,
    ops.class_boxes: same_from_the_sums_on,
}


def check_large(size: tuple[int, int], device: torch.device) -> None:
    """One mask of each kind that is too large for shared memory, or has too many runs for it."""
    coarse = random(1, 7, 7, seed=15)
    same(ops.boxes(coarse.to(device), size), ops.boxes(coarse, size), "smooth")
    maps = ops.heatmap(coarse, size)
    same(ops.box_curves(maps.to(device)), ops.box_curves(maps), "smooth")
    boxes, owners = torch.tensor([[20.0, 30, 150, 120]], dtype=torch.float64), torch.tensor([0])
    there = ops.iou_curves(maps.to(device), boxes.to(device), owners.to(device), contours="all")
    same(there, ops.iou_curves(maps, boxes, owners, contours="all"), "smooth")
    dense = masks(*size)[2:3]
    for actual, expected in zip(ops.components(dense.to(device)), ops.components(dense), strict=True):
        same(actual, expected, "dense")


def check_many_images(images: int, device: torch.device) -> None:
    """More images than a grid's second dimension can have blocks."""
    coarse = random(images, 2, 3, seed=12)
    same(ops.boxes(coarse.to(device), (8, 9)), ops.boxes(coarse, (8, 9)))
    maps = ops.heatmap(coarse, (8, 9))
    same(ops.heatmap(coarse.to(device), (8, 9)), maps)
    features = random(images, 4, 2, 2, seed=13)
    there, weights = features.to(device), random(images, 4, seed=14).to(device)
    expected = ops.boxes(ops.class_map(there, weights).cpu(), (8, 9))
    same(ops.class_boxes(there, weights, (8, 9)), expected)
    masks = maps > 0.5
    same(ops.score_histograms(maps.to(device), masks.to(device), 10), ops.score_histograms(maps, masks, 10))
    if images <= 2**17:  # 256 boxes an image
        same(ops.box_curves(maps.to(device)), ops.box_curves(maps))


# ---- the list --------------------------------------------------------------------------------------------------------


def cases(small: bool = False) -> Iterator[Case]:
    """All comparisons, by name; `small` gives few and small ones that still run every kernel, for a sanitizer."""
    for operator in OPERATORS:
        for situation in SITUATIONS[operator.takes](small) if operator.takes else ():
            if operator is HEATMAP and math.prod(situation.options["size"]) > 2**20:
                continue  # each of its results is as large as all maps
            yield Case(f"{operator.call.__name__}-{situation.name}", partial(check, operator, situation))
    yield Case("dense", partial(check_large, (224, 224)))
    yield Case("large", partial(check_large, (1300, 2100)))
    if not small:
        yield Case("many images", partial(check_many_images, 70_000))


def main() -> int:
    """Go through the small cases on the GPU, or those whose names contain the argument."""
    chosen = [case for case in cases(small=True) if not sys.argv[1:] or sys.argv[1] in case.name]
    for case in chosen:
        print(case.name, flush=True)  # where it was, if it is stopped
        case.check(torch.device("cuda"))
    print(f"{len(chosen)} cases agree")
    return 0 if chosen else 1


if __name__ == "__main__":
    sys.exit(main())
