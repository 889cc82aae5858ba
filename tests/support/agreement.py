"""What CUDA and CPU must agree on, bit for bit from the coarse map on: random and adversarial inputs for each operator.

``tests/ops/test_cuda.py`` runs these cases on a GPU, and so does ``python -m benchmarks.gpu`` before it measures. Run
as ``python -m tests.support.agreement`` it goes through a small set of them, for compute-sanitizer. Nothing is needed
but torch and fastcam.
"""

import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from fastcam import ops

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
WEIGHTINGS = ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Case(NamedTuple):
    """A comparison of a device's results with the CPU's; ``check`` raises AssertionError where they differ."""

    name: str
    check: Callable[[torch.device], None]


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


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def coarse_maps(h: int, w: int) -> Tensor:
    """Coarse maps [N, h, w], float32, ordinary and nasty ones."""
    noise = _random(4, h, w)
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
        _random(h, w, seed=1).mul(1.5).round(),  # plateaus
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
    noise = _random(2, 14, 14, seed=3)
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


def _activations(shape: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format, seed: int) -> Tensor:
    return _random(*shape, seed=seed).to(dtype, memory_format=layout)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _close(actual: Tensor, expected: Tensor, bound: Tensor, what: object) -> None:
    """Sums may differ in their order: `bound` is what rounding may add up to."""
    actual = actual.cpu()
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), (what, actual.shape, actual.dtype)
    excess = (actual.double() - expected.double()).abs() - bound
    assert not (excess > 0).any(), f"{what}: off by {excess.max():.3g} more than allowed"


def check_class_map(dtype: torch.dtype, layout: torch.memory_format, shapes: list, device: torch.device) -> None:
    for n, k, h, w in shapes:
        features, weights = _activations((n, k, h, w), dtype, layout, 6), _random(n, 3, k, seed=7)
        expected = ops.class_map(features, weights)
        scale = torch.einsum("nck,nkhw->nchw", weights.double().abs(), features.double().abs())
        bound = scale * (1e-14 if dtype == torch.float64 else 2e-6)
        actual = ops.class_map(features.to(device), weights.to(device))
        _close(actual, expected, bound, (n, k, h, w))
        _close(ops.class_map(features.to(device), weights[:, 1].to(device)), expected[:, 1], bound[:, 1], "one class")


def check_gradient_map(
    weighting: str, dtype: torch.dtype, layout: torch.memory_format, shapes: list, device: torch.device
) -> None:
    for shape in shapes:
        features, gradients = (_activations(shape, dtype, layout, seed) for seed in (8, 9))
        features = features.relu()
        expected = ops.gradient_map(features, gradients, weighting)
        largest = expected.double().abs().amax((1, 2), keepdim=True)
        bound = largest.expand(expected.shape) * (1e-10 if dtype == torch.float64 else 1e-4)
        _close(ops.gradient_map(features.to(device), gradients.to(device), weighting), expected, bound, shape)


def check_heatmap(
    shape: tuple[int, int], size: tuple[int, int], mode: str, dtype: torch.dtype, device: torch.device
) -> None:
    coarse = coarse_maps(*shape).to(dtype)
    for relu, normalize, out in product((True, False), ("after", "before", "both", None), (None, torch.uint8)):
        options = {"relu": relu, "normalize": normalize, "mode": mode, "dtype": out}
        same(ops.heatmap(coarse.to(device), size, **options), ops.heatmap(coarse, size, **options), options)


def check_boxes(shape: tuple[int, int], size: tuple[int, int], mode: str, device: torch.device) -> None:
    coarse = coarse_maps(*shape)
    absolute = torch.stack([coarse.amax((1, 2)) * share for share in (0.0, 0.2, 0.9)], 1)
    for relu, (connectivity, largest) in product((True, False), ((8, "pixels"), (4, "pixels"), (8, "contour"))):
        options = {"relu": relu, "mode": mode, "connectivity": connectivity, "largest": largest}
        for threshold in ([0.0, 0.1, 0.2, 0.5, 0.999, 1.0], absolute):
            there = threshold.to(device) if isinstance(threshold, Tensor) else threshold
            expected = ops.boxes(coarse, size, threshold, **options)
            same(ops.boxes(coarse.to(device), size, there, **options), expected, options)


def check_class_boxes(dtype: torch.dtype, layout: torch.memory_format, shapes: list, device: torch.device) -> None:
    """From the device's own coarse maps on, whose sums it may take in another order."""
    for (n, k, h, w), size in shapes:
        features, weights = _activations((n, k, h, w), dtype, layout, 10), _random(n, 2, k, seed=11)
        features[0] = 0  # a constant map
        features[-1, 0, 0, 0] = float("nan")
        features, weights = features.to(device), weights.to(device)
        coarse = ops.class_map(features, weights).cpu()
        for options in (
            {},
            {"threshold": [0.1, 0.2, 0.7], "relu": False, "largest": "contour"},
            {"threshold": 0.4, "mode": "bicubic", "connectivity": 4},
        ):
            actual = ops.class_boxes(features, weights, size, **options)
            same(actual, ops.boxes(coarse, size, **options), ((n, k, h, w), size, options))
            if not isinstance(options.get("threshold"), list):
                same(ops.class_boxes(features, weights[:, 1], size, **options), actual[:, 1], "one class")


def check_box_curves(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    maps = finished_maps(*size).to(dtype)
    same(ops.box_curves(maps.to(device)), ops.box_curves(maps))


def check_iou_curves(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    maps = finished_maps(*size).to(dtype)
    boxes, owners = truth_boxes(len(maps), *size)
    for contours in ("largest", "all"):
        there = ops.iou_curves(maps.to(device), boxes.to(device), owners.to(device), contours=contours)
        same(there, ops.iou_curves(maps, boxes, owners, contours=contours), contours)


def check_score_histograms(size: tuple[int, int], dtype: torch.dtype, device: torch.device) -> None:
    maps = finished_maps(*size).to(dtype)
    kinds = torch.randint(0, 4, maps.shape, generator=torch.Generator().manual_seed(16), dtype=torch.uint8)
    for bins in (1000, 49):
        edges = torch.randint(0, bins + 1, maps.shape, generator=torch.Generator().manual_seed(17)) * (1 / bins)
        for scores in (maps, edges.to(dtype)):
            for given in (kinds, kinds == 1):
                there = ops.score_histograms(scores.to(device), given.to(device), bins)
                same(there, ops.score_histograms(scores, given, bins), (bins, given.dtype))


def check_components(size: tuple[int, int], device: torch.device) -> None:
    batch = masks(*size)
    for connectivity, most, kind in ((8, None, torch.bool), (4, None, torch.uint8), (8, 3, torch.bool)):
        given = batch if kind == torch.bool else 255 * batch.to(kind)
        there, here = (ops.components(m, connectivity, most) for m in (given.to(device), given))
        for name, actual, expected in zip(("boxes", "areas", "image"), there, here, strict=True):
            same(actual, expected, (name, connectivity, most))


def check_large(size: tuple[int, int], device: torch.device) -> None:
    """One mask of each kind that is too large for shared memory, or has too many runs for it."""
    coarse = _random(1, 7, 7, seed=15)
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
    coarse = _random(images, 2, 3, seed=12)
    same(ops.boxes(coarse.to(device), (8, 9)), ops.boxes(coarse, (8, 9)))
    maps = ops.heatmap(coarse, (8, 9))
    same(ops.heatmap(coarse.to(device), (8, 9)), maps)
    features = _random(images, 4, 2, 2, seed=13)
    there, weights = features.to(device), _random(images, 4, seed=14).to(device)
    expected = ops.boxes(ops.class_map(there, weights).cpu(), (8, 9))
    same(ops.class_boxes(there, weights, (8, 9)), expected)
    masks = maps > 0.5
    same(ops.score_histograms(maps.to(device), masks.to(device), 10), ops.score_histograms(maps, masks, 10))
    if images <= 2**17:  # 256 boxes an image
        same(ops.box_curves(maps.to(device)), ops.box_curves(maps))


# ---- the list --------------------------------------------------------------------------------------------------------

SUMS = [(3, 512, 7, 7), (2, 2048, 7, 7), (5, 37, 5, 9), (1, 3, 1, 1), (2, 64, 14, 14), (2, 19, 28, 28), (1, 8, 56, 57)]
COARSE = [((7, 7), (224, 224)), ((14, 14), (224, 224)), ((28, 28), (448, 448)), ((7, 7), (1024, 1024))]
COARSE += [((5, 9), (65, 130)), ((1, 7), (31, 33)), ((7, 1), (64, 63)), ((1, 1), (5, 5)), ((14, 14), (7, 5))]
COARSE += [((2, 2), (1, 70)), ((56, 40), (100, 37)), ((7, 7), (1700, 2100)), ((64, 96), (256, 384))]
PICTURES = [(224, 224), (33, 65), (1, 70), (70, 1), (1, 1), (31, 32), (64, 63), (448, 448), (1024, 1024), (1300, 2100)]
SMALL_SUMS = [(2, 37, 7, 7), (1, 5, 3, 9), (1, 4, 14, 14)]
SMALL_COARSE = [((7, 7), (64, 65)), ((3, 5), (33, 20)), ((1, 1), (3, 3))]
SMALL_PICTURES = [(33, 65), (1, 7), (20, 32)]


def cases(small: bool = False) -> Iterator[Case]:
    """All comparisons.

    Args:
        small: few and small ones that still run every kernel, for a sanitizer or a machine without a GPU.

    Yields:
        Named cases.
    """
    sums = SMALL_SUMS if small else SUMS
    for (dtype_name, dtype), (layout_name, layout) in product(DTYPES.items(), LAYOUTS.items()):
        suffix = f"{dtype_name}-{layout_name}"
        yield Case(f"class_map-{suffix}", partial(check_class_map, dtype, layout, sums))
        for weighting in WEIGHTINGS:
            yield Case(
                f"gradient_map-{weighting}-{suffix}", partial(check_gradient_map, weighting, dtype, layout, sums)
            )
        fused = list(zip(sums[:3], ((33, 64), (20, 40), (64, 64)) if small else ((224, 224),) * 3, strict=True))
        if not small:
            fused += [(sums[4], (448, 448)), (sums[5], (65, 130)), (sums[0], (1024, 1024)), (sums[6], (100, 99))]
        yield Case(f"class_boxes-{suffix}", partial(check_class_boxes, dtype, layout, fused))
    for (shape, size), mode in product(SMALL_COARSE if small else COARSE, ("bilinear", "bicubic")):
        name = f"{'x'.join(map(str, shape))}-{'x'.join(map(str, size))}-{mode}"
        yield Case(f"boxes-{name}", partial(check_boxes, shape, size, mode))
        for dtype in (torch.float32, torch.float64) if size[0] * size[1] <= 2**20 else ():
            kind = str(dtype).removeprefix("torch.")
            yield Case(f"heatmap-{name}-{kind}", partial(check_heatmap, shape, size, mode, dtype))
    for size in SMALL_PICTURES if small else PICTURES:
        name = "x".join(map(str, size))
        for dtype_name, dtype in DTYPES.items():
            yield Case(f"box_curves-{name}-{dtype_name}", partial(check_box_curves, size, dtype))
        for dtype_name in ("float32", "float64"):
            yield Case(f"iou_curves-{name}-{dtype_name}", partial(check_iou_curves, size, DTYPES[dtype_name]))
            check = partial(check_score_histograms, size, DTYPES[dtype_name])
            yield Case(f"score_histograms-{name}-{dtype_name}", check)
        yield Case(f"components-{name}", partial(check_components, size))
    yield Case("dense", partial(check_large, (224, 224)))
    yield Case("large", partial(check_large, (1300, 2100)))
    if not small:
        yield Case("many images", partial(check_many_images, 70_000))


def main() -> int:
    """Go through the small cases on the GPU, or those whose names contain the argument."""
    chosen = [case for case in cases(small=True) if not sys.argv[1:] or sys.argv[1] in case.name]
    for case in chosen:
        case.check(torch.device("cuda"))
    print(f"{len(chosen)} cases agree")
    return 0 if chosen else 1


if __name__ == "__main__":
    sys.exit(main())
