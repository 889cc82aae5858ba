"""The CUDA operators, launches and kernels, on the host (tests/emulation), against the CPU operators.

The emulation runs the threads of a block in any order, checks where they meet, and fills memory with garbage before it
is written. Speed, and what the GPU's own compiler does to the arithmetic, are not seen here.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from fastcam import ops
from fastcam.bench.operators import OPERATORS
from tests.support import agreement
from tests.support.emulation import Emulator
from tests.support.operands import (
    ALL_4X4,
    DTYPES,
    WEIGHTINGS,
    assert_close,
    maps_of_every_kind,
    masks_like,
    scores_around_edges,
    shapes,
)

pytestmark = pytest.mark.kernels  # the CPU's bits
SIZES = [(40, 65), (33, 31), (7, 64), (1, 70), (70, 1)]


@pytest.fixture(scope="session")
def emulator(request) -> Emulator:
    pytest.importorskip("pybind11")
    try:
        return Emulator(request.config.cache.mkdir("emulation"))
    except OSError as error:
        pytest.skip(str(error))


@pytest.fixture
def run(emulator) -> Callable:
    """run(operator, ...) is operator(...) by the CUDA kernels; keywords describe the device as in `Emulator.device`."""

    def run(operator: Callable, *arguments, threads=64, multiprocessors=1, shared=225 << 10, seed=0, **rest):
        with emulator.device(threads, multiprocessors, shared, seed):
            return operator(*arguments, **rest)

    return run


def assert_same_bits(actual: Tensor, expected: Tensor, case: object = None) -> None:
    assert actual.dtype == expected.dtype, case
    assert actual.shape == expected.shape, case
    if actual.is_floating_point():
        assert torch.equal(actual.isnan(), expected.isnan()), case
        bits = torch.int64 if actual.dtype == torch.float64 else torch.int32
        actual, expected = actual.nan_to_num(7.0).view(bits), expected.nan_to_num(7.0).view(bits)
    assert torch.equal(actual, expected), case


# ---- weighted sums ---------------------------------------------------------------------------------------------------


def in_memory(x: Tensor) -> dict[str, Tensor]:
    """The same values in both layouts, and where 16 bytes cannot be read at once."""

    def unaligned(t: Tensor) -> Tensor:
        return torch.empty(t.numel() + 1, dtype=t.dtype)[1:].view(t.shape).copy_(t)

    last = x.permute(0, 2, 3, 1).contiguous()
    return {
        "contiguous": x,
        "channels last": last.permute(0, 3, 1, 2),
        "contiguous, unaligned": unaligned(x),
        "channels last, unaligned": unaligned(last).permute(0, 3, 1, 2),
    }


# Blocks of other sizes are other builds.
SETTINGS = pytest.mark.parametrize(
    "settings",
    [
        pytest.param(({"multiprocessors": 40}, {"seed": 1}), id="64 threads"),
        pytest.param(({"threads": 32}, {"threads": 0}), id="other blocks", marks=pytest.mark.long),
    ],
)


@SETTINGS
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 80, 7, 7), (2, 300, 4, 6), (2, 37, 1, 5), (1, 33, 19, 17), (2, 1, 1, 1)])
def test_class_map(run, dtype, shape, settings):
    features = torch.randn(shape).to(dtype)
    weights = torch.randn(shape[0], 2, shape[1]).to(torch.float64 if dtype == torch.float64 else torch.float32)
    first = None
    for layout, x in in_memory(features).items():
        for setting in ({}, *settings):
            maps = run(ops.class_map, x, weights, **setting)
            first = maps if first is None else first
            assert_same_bits(maps, first, (layout, setting))
        assert_same_bits(run(ops.class_map, x[-1:], weights[-1:, 1])[0], first[-1, 1], layout)
    assert_close(first, ops.class_map(features, weights), 1e-14 if dtype == torch.float64 else 2e-6)


@SETTINGS
@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 80, 7, 7), (2, 37, 1, 5), (1, 65, 19, 17), (2, 1, 1, 1)])
def test_gradient_map(run, weighting, dtype, shape, settings):
    features, gradients = torch.randn(shape).relu().to(dtype), (0.1 * torch.randn(shape)).to(dtype)
    first = None
    for (layout, x), g in zip(in_memory(features).items(), in_memory(gradients).values(), strict=True):
        # With one multiprocessor all is done in one pass, with many in two.
        for setting in ({}, *settings):
            maps = run(ops.gradient_map, x, g, weighting, **setting)
            first = maps if first is None else first
            assert_same_bits(maps, first, (layout, setting))
        assert_same_bits(run(ops.gradient_map, x[-1:], g[-1:], weighting), first[-1:], layout)
    assert_close(run(ops.gradient_map, x, gradients, weighting), first, 0)
    assert_close(first, ops.gradient_map(features, gradients, weighting), 1e-12 if dtype == torch.float64 else 1e-5)


def test_sums_of_values_that_are_not_finite(run):
    features = torch.randn(4, 40, 3, 3)
    features[0, 5, 1, 1], features[1, 33, 0, 2], features[2, 7, 2, 2] = torch.nan, torch.inf, -torch.inf
    weights, gradients = torch.randn(4, 40), torch.randn(4, 40, 3, 3)
    gradients[3, 20, 1, 0] = torch.nan
    for x, g in ((features, gradients), (features.half(), gradients.half()), (features.bfloat16(), gradients)):
        mine, expected = run(ops.class_map, x, weights), ops.class_map(x, weights)
        torch.testing.assert_close(mine, expected, rtol=0, atol=1e-5, equal_nan=True)
        for weighting in WEIGHTINGS:
            mine, expected = (f(ops.gradient_map, x, g, weighting) for f in (run, lambda f, *a: f(*a)))
            assert torch.equal(mine.isfinite(), expected.isfinite()), weighting


# ---- maps and boxes --------------------------------------------------------------------------------------------------


def coarse_maps(h: int, w: int) -> Tensor:
    """Maps [14, h, w] with and without a location."""
    maps = torch.randn(14, h, w)
    maps[1] = 0.3
    maps[2, 0, 0], maps[3, -1, -1], maps[4, 0, -1] = torch.nan, torch.inf, -torch.inf
    maps[5] = -maps[5].abs()  # nothing left by ReLU
    maps[6] = maps[6].round()  # plateaus and ties
    maps[7] = torch.where(maps[7] > 0, 0.0, -0.0)
    maps[8] *= 1e-42  # subnormal
    maps[9] *= 3e38  # a range that overflows
    maps[10] = 1 + maps[10] * 1e-7  # neighbouring floats
    maps[11] = torch.arange(h * w).reshape(h, w) % 2
    maps[12] = 0
    maps[12, h // 2, w // 2] = 1
    maps[13] *= 1e-30
    return maps


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("normalize", [None, "after", "before", "both"])
@pytest.mark.parametrize("size", SIZES)
def test_heatmap(run, mode, normalize, size):
    for h, w in [(7, 7), (5, 9), (1, 6), (1, 1)]:
        for dtype in (torch.float32, torch.float64):
            coarse = coarse_maps(h, w).to(dtype)
            for relu in (False, True):
                for out in (None, torch.uint8):
                    expected = ops.heatmap(coarse, size, relu, normalize, mode, out)
                    for setting in ({}, {"multiprocessors": 100, "shared": 64}):
                        actual = run(ops.heatmap, coarse, size, relu, normalize, mode, out, **setting)
                        assert_same_bits(actual, expected, (h, w, dtype, relu, out, setting))


ROOMS = [{}, {"shared": 12000, "seed": 2}, {"shared": 6300, "seed": 3}, {"multiprocessors": 50}]


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("largest", "connectivity"), [("pixels", 8), ("pixels", 4), ("contour", 8)])
@pytest.mark.parametrize("size", SIZES)
def test_boxes(run, mode, largest, connectivity, size):
    for h, w in [(7, 7), (5, 9), (1, 6), (1, 1)]:
        coarse, relative = coarse_maps(h, w), [0.0, 0.1, 0.5, 0.9, 1.0]
        for threshold, relu in ((relative, True), (relative, False), (torch.randn(14, 3), False)):
            options = (size, threshold, relu, mode, connectivity, largest)
            expected = ops.boxes(coarse, *options)
            for setting in ROOMS:
                assert_same_bits(run(ops.boxes, coarse, *options, **setting), expected, (h, w, options, setting))


def hard_masks(size: int) -> Tensor:
    noise = [torch.rand(size, size) < density for density in (0.1, 0.4, 0.5, 0.6, 0.9)]
    return torch.stack([*map(torch.from_numpy, map(np.ascontiguousarray, shapes(size).values())), *noise])


@pytest.mark.parametrize(("largest", "connectivity"), [("pixels", 8), ("pixels", 4), ("contour", 8)])
@pytest.mark.parametrize("size", [9, 31, 32, 33, 63, 64, 65])
def test_boxes_of_hard_masks(run, largest, connectivity, size):
    masks = hard_masks(size).float()
    options = ((size, size), torch.full((len(masks),), 0.5), False, "bilinear", connectivity, largest)
    expected = ops.boxes(masks, *options)
    for setting in ROOMS:
        assert_same_bits(run(ops.boxes, masks, *options, **setting), expected, setting)


@pytest.mark.parametrize(
    ("largest", "connectivity"),
    [("pixels", 8), *(pytest.param(*rule, marks=pytest.mark.long) for rule in (("pixels", 4), ("contour", 8)))],
)
def test_boxes_of_4x4_masks(run, largest, connectivity):
    masks = ALL_4X4[connectivity // 4 + (largest == "contour") :: 3].float()  # each mask once, by one of the rules
    options = ((4, 4), torch.full((len(masks),), 0.5), False, "bilinear", connectivity, largest)
    assert_same_bits(run(ops.boxes, masks, *options), ops.boxes(masks, *options))


@pytest.mark.parametrize("largest", ["pixels", "contour"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_class_boxes(run, dtype, largest):
    for shape in [(3, 70, 7, 7), (2, 33, 5, 9), (2, 8, 17, 20)]:
        features, weights = torch.randn(shape).to(dtype), torch.randn(shape[0], 2, shape[1])
        for x in in_memory(features).values():
            maps = run(ops.class_map, x, weights)
            for threshold in ([0.2, 0.6], torch.randn(shape[0], 2, 3)):
                expected = ops.boxes(maps, (40, 70), threshold, largest=largest)
                for setting in ({}, {"seed": 1}, {"shared": 23000, "seed": 2}, {"multiprocessors": 50}):
                    actual = run(ops.class_boxes, x, weights, (40, 70), threshold=threshold, largest=largest, **setting)
                    assert_same_bits(actual, expected, (shape, threshold, setting))


@pytest.mark.parametrize("return_map", ["float32", "uint8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_class_boxes_and_maps(run, dtype, return_map):
    of_bytes = torch.uint8 if return_map == "uint8" else None
    for shape, size in [((3, 70, 7, 7), (40, 72)), ((2, 33, 5, 9), (41, 70)), ((2, 8, 17, 20), (17, 20))]:
        features, weights = torch.randn(shape).to(dtype), torch.randn(shape[0], 2, shape[1])
        features[0, :3, 2] = 0
        maps = run(ops.class_map, features, weights)
        for options in (
            {"threshold": 0.2},
            {"threshold": torch.randn(shape[0], 2, 3), "relu": False},
            {"threshold": [i / 150 for i in range(150)], "largest": "contour"},  # more than a launch has room for
            {"threshold": [0.4, 0.6], "mode": "bicubic"},
        ):
            expected = ops.boxes(maps, size, **options)
            map = ops.heatmap(
                maps, size, options.get("relu", True), mode=options.get("mode", "bilinear"), dtype=of_bytes
            )
            for setting in ({}, {"shared": 23000, "seed": 2}, {"multiprocessors": 50}):
                found, painted = run(
                    ops.class_boxes, features, weights, size, **options, return_map=return_map, **setting
                )
                assert_same_bits(found, expected, (shape, options, setting))
                assert_same_bits(painted, map, (shape, options, setting))


# ---- components and curves -------------------------------------------------------------------------------------------


CLEANED = {"min_area": 3, "fill_holes": True, "labels": True}


def assert_same_components(
    run: Callable, masks: Tensor, connectivity: int, most: int | None = None, options: dict | None = None, **setting
) -> None:
    options = options or {}
    actual = run(ops.components, masks, connectivity, most, **options, **setting)
    for mine, expected in zip(actual, ops.components(masks, connectivity, most, **options), strict=True):
        assert_same_bits(mine, expected, (setting, options))


@pytest.mark.parametrize("options", [{}, {"labels": True}, {"min_area": 2}, CLEANED], ids=str)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_components(run, connectivity, options):
    assert_same_components(run, ALL_4X4[:: 41 if options else 1], connectivity, options=options)
    for size in (9, 31, 32, 33, 63, 64, 65):
        masks = hard_masks(size)
        for setting in ({}, {"seed": 1}, {"seed": 2, "multiprocessors": 7}):
            for most in (None, 1, 3, 1000):
                assert_same_components(run, masks, connectivity, most, options, **setting)
    for height, width in ((1, 1), (1, 130), (130, 1), (5, 64), (3, 97), (2, 2500)):  # the last wider than a block
        for density in (0.0, 0.3, 0.5, 0.7, 1.0):
            masks = torch.rand(3, height, width) < density
            assert_same_components(run, masks, connectivity, None, options, seed=3)
            assert_same_components(run, masks, connectivity, 2, options)
    assert_same_components(run, hard_masks(33)[:0], connectivity, None, options)


def test_components_of_more_masks_than_are_labelled_at_once(run):
    masks = torch.zeros(34, 1024, 1024, dtype=torch.bool)
    for index, mask in enumerate(masks):
        mask[index : 10 * index, 3 : 900 - index : 2 + index // 2] = True
    assert_same_components(run, masks, 8)
    assert_same_components(run, masks, 4, 2, CLEANED)


def hard_maps(height: int, width: int) -> dict[str, Tensor]:
    """Finished maps float64 [count, H, W] in [0, 1] and beyond."""
    maps = {name: torch.from_numpy(values) for name, values in maps_of_every_kind(2, height, width).items()}
    maps["masks"] = torch.rand(2, height, width).round()
    maps["out of range"] = torch.randn(2, height, width).double()
    maps["not finite"] = torch.randn(2, height, width).double()
    maps["not finite"][0, 0, 0], maps["not finite"][1, -1, -1] = torch.nan, torch.inf
    if height == width:
        maps["shapes"] = hard_masks(height).double() * torch.linspace(0.2, 1, height)
    return maps


CURVES = [{}, {"shared": 8192}, {"shared": 2048, "seed": 2}, {"seed": 3}, {"multiprocessors": 50}]


@pytest.mark.parametrize("size", [*SIZES, (33, 33), (64, 64)])
def test_box_curves(run, size):
    for name, values in hard_maps(*size).items():
        for dtype in (torch.float32, torch.float64):
            maps = values.to(dtype)
            expected = ops.box_curves(maps)
            for setting in CURVES:
                assert_same_bits(run(ops.box_curves, maps, **setting), expected, (name, dtype, setting))


@pytest.mark.parametrize("contours", ["largest", "all"])
@pytest.mark.parametrize(
    "size", [*SIZES[1:4], *(pytest.param(size, marks=pytest.mark.long) for size in (*SIZES[::4], (33, 33), (64, 64)))]
)
def test_iou_curves(run, contours, size):
    limit = torch.tensor([size[1], size[0]] * 2)
    for name, values in hard_maps(*size).items():
        corners = (torch.rand(2 * len(values), 2, 2).sort(1).values.flatten(1) * limit).double()
        truths = corners.floor() if name == "noise" else corners
        owners = torch.arange(2 * len(values)) // 3  # some have three, one the rest, and the last none
        for dtype in (torch.float32, torch.float64):
            arguments = (values.to(dtype), truths, owners.clamp(max=len(values) - 1), contours)
            expected = ops.iou_curves(*arguments)
            for setting in CURVES:
                assert_same_bits(run(ops.iou_curves, *arguments, **setting), expected, (name, dtype, setting))


def frames(count: int, size: int) -> Tensor:
    """Maps [count, size, size] of rectangles' outlines in eight levels, some within others, beside solid rectangles.

    A component's rivals have holes here, and now and then exactly its area.
    """
    rng = np.random.default_rng(5)
    maps = np.zeros((count, size, size), np.float32)
    for values in maps:
        for _ in range(14):
            (y0, y1), (x0, x1) = (np.sort(rng.integers(0, size, 2)) for _ in range(2))
            outline = np.ones((y1 - y0 + 1, x1 - x0 + 1), np.float32)
            thick = rng.choice([1, 1, 2, size])
            outline[thick:-thick, thick:-thick] = 0
            part = values[y0 : y1 + 1, x0 : x1 + 1]
            np.maximum(part, outline * rng.integers(1, 9) / 8, out=part)
    return torch.from_numpy(maps)


def test_frames_within_frames(run):
    maps = frames(12, 48)
    expected = ops.box_curves(maps)
    for setting in CURVES:
        assert_same_bits(run(ops.box_curves, maps, **setting), expected, setting)
    options = ((48, 48), [k / 8 - 0.01 for k in range(1, 9)], False, "bilinear", 8, "contour")
    for setting in ROOMS:
        assert_same_bits(run(ops.boxes, maps, *options, **setting), ops.boxes(maps, *options), setting)


def test_curves_of_one_branch_and_of_thousands(run):
    one = 1 - torch.cartesian_prod(torch.linspace(-1, 1, 90), torch.linspace(-1, 1, 100)).abs().amax(1).view(1, 90, 100)
    thousands = torch.rand(1, 90, 100, generator=torch.Generator().manual_seed(1))  # too many for shared memory
    maps = torch.cat([one, thousands, one.round()])
    truths, owners = torch.tensor([[10.0, 20, 70, 80]] * 3).double(), torch.arange(3)
    for setting in ({}, {"shared": 2048}):
        assert_same_bits(run(ops.box_curves, maps, **setting), ops.box_curves(maps), setting)
        for contours in ("largest", "all"):
            arguments = (maps, truths, owners, contours)
            assert_same_bits(run(ops.iou_curves, *arguments, **setting), ops.iou_curves(*arguments), setting)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_score_histograms(run, dtype):
    for bins in (1, 49, 364, 1000):
        for count in (1, 3):
            maps = scores_around_edges(bins, dtype).repeat(count, 3, 1)
            masks = masks_like(maps)
            expected = ops.score_histograms(maps, masks, bins)
            for setting in ({}, {"seed": 1}, {"seed": 2, "multiprocessors": 5}, {"multiprocessors": 1000}):
                assert_same_bits(run(ops.score_histograms, maps, masks, bins, **setting), expected, (bins, setting))
    maps = torch.stack([torch.zeros(40, 65), torch.rand(40, 65).round(), torch.rand(40, 65)]).to(dtype)  # plateaus
    assert_same_bits(run(ops.score_histograms, maps, maps > 0.5), ops.score_histograms(maps, maps > 0.5))
    assert run(ops.score_histograms, maps[:0], maps[:0] > 0).shape == (0, 2, 1002)


def test_refine(run):
    for n, c, k, size, dilations in [
        (2, 5, 3, (13, 70), (1, 2, 4, 8, 12, 24)),
        (1, 1, 1, (1, 33), (2,)),
        (1, 8, 4, (40, 1), tuple(range(1, 9))),
    ]:
        maps, images = torch.rand(n, c, *size), torch.randn(n, k, *size)
        images[0, 0, 0, 0] = torch.nan
        for iterations in (1, 2, 3):
            expected = ops.refine(maps, images, dilations, iterations)
            for setting in ({}, {"seed": 1}):
                assert_same_bits(run(ops.refine, maps, images, dilations, iterations, **setting), expected, size)


# ---- blocks as they are on a GPU -------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("seed", [0, 5])
def test_blocks_of_their_true_size(run, seed):
    device = {"threads": 0, "seed": seed, "multiprocessors": 3}
    for size in [(64, 96), (224, 224), (9, 1)]:
        coarse = coarse_maps(7, 7)
        for mode in ("bilinear", "bicubic"):
            assert_same_bits(run(ops.heatmap, coarse, size, mode=mode, **device), ops.heatmap(coarse, size, mode=mode))
            for largest in ("pixels", "contour"):
                options = (size, [0.2, 0.7], True, mode, 8, largest)
                assert_same_bits(run(ops.boxes, coarse, *options, **device), ops.boxes(coarse, *options))
    assert_same_components(run, hard_masks(65), 8, **device)
    assert_same_components(run, hard_masks(65), 4, 3, CLEANED, **device)
    for maps in hard_maps(33, 65).values():
        assert_same_bits(run(ops.box_curves, maps, **device), ops.box_curves(maps))
        arguments = (maps, torch.tensor([[3.0, 2, 20, 30], [1, 1, 60, 9]]).double(), torch.tensor([0, 0]), "all")
        assert_same_bits(run(ops.iou_curves, *arguments, **device), ops.iou_curves(*arguments))
        masks = masks_like(maps)
        assert_same_bits(run(ops.score_histograms, maps, masks, **device), ops.score_histograms(maps, masks))


# ---- what a GPU must agree on ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", [each for each in OPERATORS if each.takes], ids=lambda each: each.call.__name__)
def test_cases_that_a_gpu_must_agree_on(emulator, monkeypatch, operator):
    """The small ones, as compute-sanitizer goes through them on a GPU."""
    monkeypatch.setattr(agreement.Trial, "actual", lambda trial: emulator.actual(trial))
    for situation in agreement.SITUATIONS[operator.takes](True):
        agreement.check(operator, situation, torch.device("cpu"))
