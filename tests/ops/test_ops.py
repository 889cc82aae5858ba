"""The operators against their plain twins, and their contract with torch: layouts, dtypes, gradients, compilation."""

import hashlib
import os
import subprocess
import sys
from bisect import bisect_right

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from fastcam import ops, reference
from tests.support.operands import DTYPES, WEIGHTINGS, assert_close, masks_like, scores_around_edges


def layouts(tensor: Tensor) -> dict[str, Tensor]:
    spread = torch.zeros(*tensor.shape[:-1], 2 * tensor.shape[-1], dtype=tensor.dtype, device=tensor.device)[..., ::2]
    return {
        "contiguous": tensor,
        "channels_last": tensor.contiguous(memory_format=torch.channels_last),
        "strided": spread.copy_(tensor),
    }


# ---- weighted sums ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 17, 7, 7), (2, 64, 14, 14), (1, 1, 1, 1), (2, 5, 1, 9), (4, 33, 5, 3)])
def test_class_map_equals_einsum_in_float64(device, dtype, shape):
    features = torch.randn(shape).to(device, dtype)
    weights, many = torch.randn(*shape[:2]).to(device), torch.randn(shape[0], 3, shape[1]).to(device)
    tolerance = 1e-13 if dtype == torch.float64 else 2e-6
    for x in layouts(features).values():
        for w in (weights.to(dtype), weights, many):
            expected = reference.class_map(features.double(), w.double())
            maps = ops.class_map(x, w)
            assert maps.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert_close(maps, expected, tolerance)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 17, 7, 7), (2, 64, 5, 3), (1, 1, 1, 1)])
def test_gradient_map_equals_the_formula_in_float64(device, weighting, dtype, shape):
    features = torch.randn(shape).relu().to(device, dtype)
    gradients = (0.1 * torch.randn(shape)).to(device, dtype)
    expected = reference.gradient_map(features.double(), gradients.double(), weighting)
    for x, g in zip(layouts(features).values(), layouts(gradients).values(), strict=True):
        assert_close(ops.gradient_map(x, g, weighting), expected, 1e-12 if dtype == torch.float64 else 1e-5)
        assert_close(ops.gradient_map(x, gradients, weighting), expected, 1e-12 if dtype == torch.float64 else 1e-5)


def test_gradient_map_by_hand():
    a = torch.tensor([[[[1.0, 2.0]], [[0.0, 4.0]]]])
    g = torch.tensor([[[[1.0, -3.0]], [[2.0, 2.0]]]])
    assert ops.gradient_map(a, g, "gradcam").tolist() == [[[-1.0 + 0.0, -2.0 + 8.0]]]
    assert ops.gradient_map(a, g, "hirescam").tolist() == [[[1.0, -6.0 + 8.0]]]
    assert ops.gradient_map(a, g, "layercam").tolist() == [[[1.0, 8.0]]]
    # weights: (1 - 6) / 3 and (0 + 8) / 4
    assert_close(ops.gradient_map(a, g, "xgradcam", eps=0.0), torch.tensor([[[-5 / 3, -10 / 3 + 8]]]), 1e-6)
    # weights: 1 * 1 / (2 + 3) + 0, and twice 2 * 4 / (8 + 4 * 8)
    assert_close(ops.gradient_map(a, g, "gradcam++", eps=0.0), torch.tensor([[[0.2, 0.4 + 1.6]]]), 1e-6)


def test_nan_in_a_gradient_is_not_lost():
    a, g = torch.ones(1, 2, 2, 2), torch.ones(1, 2, 2, 2)
    g[0, 1, 0, 0] = torch.nan
    for weighting in WEIGHTINGS:
        assert ops.gradient_map(a, g, weighting).isnan().any(), weighting


# ---- the exact chain -------------------------------------------------------------------------------------------------


def taps(inner: int, outer: int) -> tuple[np.ndarray, ...]:
    """The index arithmetic of csrc/exact.h, each operation rounded to float32."""
    f = np.float32
    r = np.maximum(f(0), f(f(inner) / f(outer)) * (np.arange(outer, dtype=f) + f(0.5)) - f(0.5))
    i0 = np.minimum(r.astype(np.int64), inner - 1)
    w1 = r - i0.astype(f)
    return i0, np.minimum(i0 + 1, inner - 1), f(1) - w1, w1


def fma(a, b, c):
    """float32 multiply-add with one rounding: the product is exact in extended precision."""
    exact = a.astype(np.longdouble) * b.astype(np.longdouble) + c.astype(np.longdouble)
    return exact.astype(np.float32)


def upsampled(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    x0, x1, u0, u1 = taps(coarse.shape[1], width)
    y0, y1, v0, v1 = taps(coarse.shape[0], height)
    rows = fma(u0, coarse[:, x0], u1 * coarse[:, x1])
    return fma(v0[:, None], rows[y0], v1[:, None] * rows[y1])


@pytest.mark.kernels
@pytest.mark.parametrize("coarse", [(7, 7), (14, 14), (1, 9), (5, 1), (3, 11), (16, 16)])
@pytest.mark.parametrize("size", [(224, 224), (31, 65), (7, 7), (5, 3), (100, 129)])
@pytest.mark.parametrize("relu", [False, True])
def test_heatmap_has_the_specified_bits(device, coarse, size, relu):
    maps = torch.randn(3, *coarse)
    expected = []
    for m in maps.numpy():
        v = upsampled(np.maximum(m, 0) if relu else m, *size)
        expected.append(v)
    raw = np.stack(expected)
    result = ops.heatmap(maps.to(device), size, relu, normalize=None).cpu().numpy()
    np.testing.assert_array_equal(result, raw)
    low, high = raw.min((1, 2), keepdims=True), raw.max((1, 2), keepdims=True)
    normalised = (raw - low) / np.where(high > low, high - low, np.float32(1))
    np.testing.assert_array_equal(ops.heatmap(maps.to(device), size, relu).cpu().numpy(), normalised)
    byte = ops.heatmap(maps.to(device), size, relu, dtype=torch.uint8).cpu().numpy()
    np.testing.assert_array_equal(byte, (np.float32(255) * normalised).astype(np.uint8))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("normalize", ["after", "before", "both", None])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_heatmap_follows_the_twin(device, mode, normalize, dtype):
    coarse = torch.randn(2, 3, 7, 5).to(device, dtype)
    for relu in (False, True):
        result = ops.heatmap(coarse, (64, 48), relu, normalize, mode)
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert_close(result, reference.heatmap(coarse, (64, 48), relu, normalize, mode), 4e-6)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("largest", ["pixels", "contour"])
@pytest.mark.parametrize("coarse", [(7, 7), (14, 14), (28, 28), (3, 9)])
def test_boxes_follow_the_twin(device, mode, largest, coarse):
    maps = torch.randn(6, *coarse).to(device)
    thresholds = [0.0, 0.15, 0.2, 0.5, 0.65, 0.9, 1.0]
    for size in ((224, 224), (65, 130)):
        for relu in (False, True):
            options = {"relu": relu, "mode": mode, "largest": largest}
            result = ops.boxes(maps, size, thresholds, **options)
            assert (result - reference.boxes(maps.cpu(), size, thresholds, **options).to(device)).abs().max() <= 1
            # From the same map there is no rounding to differ in.
            exact = ops.heatmap(maps, size, relu, "after", mode).cpu()
            levels = torch.tensor(thresholds).expand(6, -1)
            twin = reference.boxes(exact, size, levels, relu=False, largest=largest)
            assert torch.equal(result.cpu(), twin)


def test_sizes_and_thresholds_may_be_numpy_numbers():
    maps = torch.randn(2, 7, 7)
    expected = ops.boxes(maps, (30, 40), [0.25, 0.5])
    assert torch.equal(ops.boxes(maps, np.array([30, 40]), np.array([0.25, 0.5], np.float32)), expected)
    assert torch.equal(ops.boxes(maps, (np.int64(30), 40), np.float32(0.5)), expected[:, 1])


@pytest.mark.parametrize("size", [(64, 65), (33, 20), (40, 40)])
def test_boxes_of_pixels_beyond_the_range(device, size):
    """A cubic overshoots to infinity, which is above any level."""
    coarse = 3e38 * torch.randn(12, 7, 7).sign()
    for connectivity in (8, 4):
        options = {"size": size, "threshold": torch.full((12, 1), 2.7e38), "relu": False, "mode": "bicubic"}
        expected = reference.boxes(coarse, **options, connectivity=connectivity)
        options["threshold"] = options["threshold"].to(device)
        assert torch.equal(ops.boxes(coarse.to(device), **options, connectivity=connectivity).cpu(), expected)


def test_boxes_at_four_neighbours(device):
    maps = torch.randn(8, 14, 14).to(device)
    exact = ops.heatmap(maps, 64).cpu()
    twin = reference.boxes(exact, 64, torch.full((8,), 0.4), relu=False, connectivity=4)
    assert torch.equal(ops.boxes(maps, 64, 0.4, connectivity=4).cpu(), twin)


def test_absolute_levels_are_strict_and_raw(device):
    coarse = torch.tensor([[[0.0, 2.0, 5.0]], [[1.0, 3.0, 3.0]]], device=device)
    levels = torch.tensor([[2.0, 1.99, 5.0, -torch.inf, torch.inf, torch.nan], [0.0, 1.0, 3.0, 2.9, -1.0, 2.0]])
    result = ops.boxes(coarse, (1, 3), levels.to(device)).tolist()
    none = [0, 0, 0, 0]
    assert result[0] == [[2, 0, 3, 1], [1, 0, 3, 1], none, [0, 0, 3, 1], none, none]
    assert result[1] == [[0, 0, 3, 1], [1, 0, 3, 1], none, [1, 0, 3, 1], [0, 0, 3, 1], [1, 0, 3, 1]]
    assert ops.boxes(coarse, (1, 3), levels[:, 0].to(device)).tolist() == [[2, 0, 3, 1], [0, 0, 3, 1]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_maps_without_a_location_are_zero(device, bad):
    coarse = torch.randn(4, 7, 7)
    coarse[1, 3, 3] = bad
    coarse[2] = 0.7
    coarse[3] = -coarse[3].abs()  # constant after ReLU
    coarse = coarse.to(device)
    zero = [False, bad != -torch.inf, True, True]  # -inf is 0 after ReLU
    for mode in ("bilinear", "bicubic"):
        for normalize in ("after", "before", "both"):
            assert (ops.heatmap(coarse, 33, True, normalize, mode).flatten(1).amax(1) == 0).tolist() == zero
        assert (ops.boxes(coarse, 33, mode=mode).amax(1) == 0).tolist() == zero
        assert (ops.boxes(coarse, 33, torch.zeros(4, device=device), mode=mode).amax(1) == 0).tolist() == zero


def test_extreme_finite_values_do_not_break(device):
    big = torch.finfo(torch.float32).max
    coarse = torch.tensor([[[-big, big], [big, -big]], [[0.0, 1e-45], [0.0, 0.0]], [[-0.0, 0.0], [0.0, 1.0]]])
    maps = ops.heatmap(coarse.to(device), 9, relu=False)
    assert maps.isfinite().all()
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert ops.boxes(coarse.to(device), 9, relu=False).shape == (3, 4)


def test_class_boxes_is_class_map_then_boxes(device):
    for shape in [(5, 32, 7, 7), (2, 48, 14, 9)]:
        for dtype in DTYPES:
            features = torch.randn(shape).relu().to(device, dtype)
            weights = torch.randn(shape[0], 3, shape[1], device=device)
            for x in layouts(features).values():
                for w in (weights, weights[:, 0]):
                    for threshold in (0.2, [0.1, 0.6], ops.class_map(x, w).float().amax((-2, -1)) * 0.2):
                        fused = ops.class_boxes(x, w, (96, 80), threshold)
                        assert torch.equal(fused, ops.boxes(ops.class_map(x, w), (96, 80), threshold))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_class_boxes_can_give_the_map_too(device, mode):
    for dtype in DTYPES:
        features, weights = torch.randn(3, 40, 7, 9).relu().to(device, dtype), torch.randn(3, 2, 40, device=device)
        features[1, 0, 0, 0] = torch.nan  # a map of zeros
        for w in (weights, weights[:, 0]):
            coarse = ops.class_map(features, w)
            for threshold in (0.2, [0.1, 0.6, 0.8], [i / 200 for i in range(200)], coarse.float().amax((-2, -1)) * 0.2):
                for return_map, relu in (("float32", True), ("uint8", False)):
                    found, maps = ops.class_boxes(features, w, (96, 81), threshold, relu, mode, return_map=return_map)
                    assert torch.equal(found, ops.boxes(coarse, (96, 81), threshold, relu, mode))
                    dtype_of_map = torch.uint8 if return_map == "uint8" else None
                    assert torch.equal(maps, ops.heatmap(coarse.float(), (96, 81), relu, mode=mode, dtype=dtype_of_map))
                    assert not maps.requires_grad
    twin = reference.class_boxes(features.cpu(), w.cpu(), 40, mode=mode, return_map="float32")
    mine = ops.class_boxes(features, w, 40, mode=mode, return_map="float32")
    assert (mine[0].cpu() - twin[0]).abs().max() <= 1
    torch.testing.assert_close(mine[1].cpu(), twin[1], atol=1e-5, rtol=0)
    found, maps = ops.class_boxes(features, w, 40, [], mode=mode, return_map="uint8")
    assert (found.shape, maps.shape, maps.dtype) == ((3, 0, 4), (3, 40, 40), torch.uint8)


# ---- histograms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("bins", [1, 2, 3, 10, 49, 100, 364, 600, 1000, 4096])
def test_score_histograms_are_numpys(device, dtype, bins):
    maps = torch.stack([scores_around_edges(bins, dtype)] * 2)[:, None]
    masks = masks_like(maps)
    found = ops.score_histograms(maps.to(device), masks.to(device), bins)
    assert found.dtype == torch.int64
    edges = np.append(np.arange(0, 1, 1 / bins)[:bins], [1.0, 2.0, 3.0])  # at 49 bins np.arange has a 50th
    for row, scores, mask in zip(found.cpu().numpy(), maps.numpy(), masks.numpy(), strict=True):
        for kind in (0, 1):
            np.testing.assert_array_equal(row[kind], np.histogram(scores[mask == kind], bins=edges)[0])
    assert torch.equal(found, reference.score_histograms(maps.to(device), masks.to(device), bins))
    everywhere = ops.score_histograms(maps.to(device), (masks == 1).to(device), bins)
    assert torch.equal(everywhere[:, 1], found[:, 1])
    assert everywhere[:, :, -2:].sum() == ((maps >= 1) & (maps <= 3)).sum()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_score_histograms_of_maps_in_any_layout(device, dtype):
    maps = ops.heatmap(torch.randn(5, 14, 14), (67, 90), mode="bicubic").to(device, dtype)
    masks = masks_like(maps).to(device)
    expected = reference.score_histograms(maps, masks)
    assert expected.sum() == (masks < 2).sum()
    for x in layouts(maps[None]).values():
        for m in layouts(masks[None]).values():
            assert torch.equal(ops.score_histograms(x[0], m[0]), expected)


@settings(max_examples=100)
@given(st.data())
def test_a_score_is_in_the_bin_whose_edges_enclose_it(data):
    bins = data.draw(st.integers(1, 4096))
    width = data.draw(st.sampled_from([32, 64]))
    scores = data.draw(st.lists(st.floats(0, 1, width=width), min_size=1, max_size=20))
    maps = torch.tensor([[scores]], dtype=torch.float32 if width == 32 else torch.float64)
    found = ops.score_histograms(maps, torch.ones_like(maps, dtype=torch.bool), bins)
    expected = torch.zeros(bins + 2, dtype=torch.int64)
    edges = [i * (1 / bins) for i in range(bins)]
    for score in scores:
        expected[bins if score >= 1 else bisect_right(edges, score) - 1] += 1
    assert torch.equal(found[0, 1], expected)
    assert not found[0, 0].any()


# ---- refinement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4, 8, 12, 24), (1, 2, 3, 5, 8, 13, 21, 34)], ids=str)
@pytest.mark.parametrize(("channels", "size"), [(3, (37, 70)), (1, (5, 9)), (4, (1, 130)), (2, (66, 1))])
def test_refine_is_its_twin(device, channels, size, dilations):
    maps = torch.rand(2, 4, *size)
    smooth = torch.nn.functional.interpolate(torch.rand(2, channels, 4, 5), size, mode="bicubic")
    smooth[..., : size[1] // 2] = 0.3  # an edge, and a region without any difference
    for images in (smooth, 1000 * smooth - 5, torch.randint(0, 256, smooth.shape, dtype=torch.uint8)):
        for iterations in (0, 1, 10):
            found = ops.refine(maps.to(device), images.to(device), dilations, iterations)
            assert (found.dtype, found.shape) == (torch.float32, maps.shape)
            assert_close(found.cpu(), reference.refine(maps, images, dilations, iterations), 2e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_refine_of_tensors_in_any_layout(device, dtype):
    maps, images = torch.rand(2, 3, 20, 33).to(dtype), torch.rand(2, 3, 20, 33).to(dtype)
    expected = ops.refine(maps, images, (1, 5), 3)
    for x in layouts(maps.to(device)).values():
        for image in layouts(images.to(device)).values():
            assert torch.equal(ops.refine(x, image, (1, 5), 3).cpu(), expected)


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 20), st.integers(1, 80), st.integers(1, 4), st.integers(1, 6))
def test_a_refined_value_is_a_mean_of_its_map(seed, height, width, channels, iterations):
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(1, 3, height, width, generator=generator)
    maps[:, 2] = 1 - maps[:, :2].sum(1)
    images = torch.randint(0, 256, (1, channels, height, width), generator=generator, dtype=torch.uint8)
    found = ops.refine(maps, images, (1, 3, 9), iterations)
    rounding = iterations * 24 * 2**-24  # of the 24 weights of a pixel, whose sum is 1 up to that in each iteration
    assert_close(found.sum(1), torch.ones(1, height, width), 2e-6 + rounding)
    assert (found.amax((2, 3)) <= maps.amax((2, 3)) + 1e-6).all()
    assert (found.amin((2, 3)) >= maps.amin((2, 3)) - 1e-6).all()


def test_refine_goes_to_the_edges_of_the_image():
    """A mask of a disk, off by some pixels, moves to where the disk is."""
    y, x = torch.meshgrid(torch.arange(90.0), torch.arange(120.0), indexing="ij")
    disk = (y - 45) ** 2 + (x - 60) ** 2 < 25**2
    image = torch.where(disk, 200, 60).repeat(3, 1, 1)[None] + 4 * torch.randn(1, 3, 90, 120)
    off = ((y - 48) ** 2 + (x - 56) ** 2 < 25**2).float()

    def iou(mask: Tensor) -> float:
        return ((mask & disk).sum() / (mask | disk).sum()).item()

    refined = ops.refine(torch.stack([off, 1 - off])[None], image)[0].argmax(0) == 0
    assert iou(off > 0.5) < 0.8
    assert iou(refined) > 0.95


def test_pixels_that_are_not_finite_stay_where_they_are():
    maps, images = torch.rand(1, 2, 9, 60), torch.rand(1, 3, 9, 60)
    images[0, 1, 4, 50] = torch.nan
    assert ops.refine(maps, images, (1, 2), 3).isfinite().all()
    maps[0, 1, 4, 50] = torch.nan
    found = ops.refine(maps, images, (2,), 3)
    assert found[0, 0].isfinite().all()
    assert found[..., :44].isfinite().all()
    assert found[0, 1, 4, 48].isnan()


# ---- the same bits everywhere ----------------------------------------------------------------------------------------


def digest() -> str:
    """Hash of what every operator gives for inputs that are the same on every processor, as torch.randn's are not."""
    generator = torch.Generator().manual_seed(1)

    def irwin_hall(shape: tuple[int, ...]) -> Tensor:  # nearly normal, and exact in float
        a, b, c, d = (torch.rand(shape, generator=generator) for _ in range(4))
        return (a - b) + (c - d)

    total = hashlib.sha256()
    for shape in [(5, 19, 7, 7), (3, 40, 14, 14), (2, 7, 3, 70)]:
        a, g, w = (irwin_hall(s) for s in (shape, shape, shape[:2]))
        for dtype in DTYPES:
            for x, y in zip(
                list(layouts(a.to(dtype)).values())[:2], list(layouts(g.to(dtype)).values())[:2], strict=True
            ):
                results = [ops.class_map(x, w), *(ops.gradient_map(x, y, rule) for rule in WEIGHTINGS)]
                results.append(ops.class_boxes(x, w, (100, 131), [0.2, 0.5], largest="contour"))
                for m in (m.numpy() for m in results):
                    total.update(m.tobytes())
        coarse = a[:, 0]
        for mode in ("bilinear", "bicubic"):
            maps = ops.heatmap(coarse, (100, 131), mode=mode)
            results = [maps, ops.boxes(coarse, (100, 131), [0.1, 0.3, 0.9], mode=mode), ops.box_curves(maps)]
            truths, image = torch.tensor([[20, 30, 90, 80]]).repeat(len(maps), 1), torch.arange(len(maps))
            results += [ops.iou_curves(maps, truths, image, contours) for contours in ("largest", "all")]
            results += [ops.heatmap(coarse.double(), 65, mode=mode), *ops.components(maps > 0.4)]
            results += ops.components(maps > 0.2, 4, min_area=5, fill_holes=True, labels=True)
            masks = (maps > 0.4).to(torch.uint8).masked_fill(maps < 0.1, 255)
            results += [ops.score_histograms(x, masks, bins) for x in (maps, maps.double()) for bins in (1000, 364)]
            results += [ops.score_histograms(3 * x - 1, masks) for x in (maps, maps.double())]
            images = torch.stack([maps, maps.square(), (5 * maps).round()], 1)
            results += [ops.refine(images, images, (1, 2, 8), 3), ops.refine(images, images[:, :1])]
            picture = (maps[0, :, :, None] * torch.tensor([255, 99, 31])).to(torch.uint8)
            results += [ops.resize(picture, size, None, first) for size in (65, 224) for first in ("rows", "columns")]
            for m in results:
                total.update(m.numpy().tobytes())
    return total.hexdigest()


@pytest.mark.kernels
def test_every_instruction_set_gives_the_same_bits():
    found = {}
    for name in ("portable", "avx2", "avx512"):
        code = "from tests.ops.test_ops import *; print(ops.build_info()['cpu_simd'], digest())"
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "FASTCAM_SIMD": name},
            cwd=os.path.dirname(os.path.dirname(os.path.dirname(__file__))),
            capture_output=True,
            text=True,
            timeout=300,
            check=True,
        )
        ran, value = run.stdout.split()
        found[ran] = value
    assert "portable" in found
    assert len(set(found.values())) == 1, found


@pytest.mark.kernels
def test_threads_batch_and_position_do_not_matter(device):
    features, weights = torch.randn(9, 24, 7, 7, device=device), torch.randn(9, 24, device=device)
    gradients = torch.randn_like(features)

    def run(index: list[int]) -> list[Tensor]:
        x, w, g = features[index], weights[index], gradients[index]
        maps = ops.class_map(x, w)
        return [
            maps,
            ops.gradient_map(x, g, "gradcam++"),
            ops.gradient_map(x, g, "layercam"),
            ops.heatmap(maps, 65),
            ops.boxes(maps, 65, [0.2, 0.6]),
            ops.class_boxes(x, w, 65),
            ops.score_histograms(ops.heatmap(maps, 65), ops.heatmap(maps, 65, dtype=torch.uint8) % 3),
            ops.refine(x, g[:, :3], (1, 2, 4), 2),
        ]

    whole = run(list(range(9)))
    for index in range(9):  # fewer images than threads: the work on one is shared
        for all_of, one in zip(whole, run([index]), strict=True):
            assert torch.equal(all_of[index], one[0])
    order = [4, 0, 8, 2]
    for all_of, some in zip(whole, run(order), strict=True):
        assert torch.equal(all_of[order], some)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        for one, many in zip(run(list(range(9))), whole, strict=True):
            assert torch.equal(one, many)
    finally:
        torch.set_num_threads(threads)


@settings(max_examples=60)
@given(st.data())
def test_flips_permute_boxes(data):
    h, w = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    # Powers of two: mirrored positions are then mirrored exactly.
    height, width = h * data.draw(st.sampled_from([1, 2, 4])), w * data.draw(st.sampled_from([1, 2, 4]))
    seed = data.draw(st.integers(0, 2**31))
    coarse = torch.randint(-3, 9, (1, h, w), generator=torch.Generator().manual_seed(seed)).float()
    threshold = data.draw(st.sampled_from([0.1, 0.35, 0.6]))
    mask = ops.heatmap(coarse, (height, width)) > threshold
    boxes, areas, _ = ops.components(mask)
    for dims in ([1], [2], [1, 2]):
        flipped, flipped_areas, _ = ops.components(mask.flip(dims))
        x0, y0, x1, y1 = flipped.unbind(1)
        if 2 in dims:
            x0, x1 = width - x1, width - x0
        if 1 in dims:
            y0, y1 = height - y1, height - y0
        back = torch.stack([x0, y0, x1, y1, flipped_areas], 1)
        assert sorted(back.tolist()) == sorted(torch.cat([boxes, areas[:, None]], 1).tolist())


# ---- torch's contract ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # opcheck's own look at its arguments
def test_opcheck():
    features, weights = torch.randn(2, 6, 5, 4, requires_grad=True), torch.randn(2, 3, 6, requires_grad=True)
    coarse, levels = torch.randn(3, 5, 4), torch.tensor([0.2, 0.5])
    library = torch.ops.fastcam
    cases = [
        (library.class_map, (features, weights)),
        (
            library.class_map,
            (features.detach().double().to(memory_format=torch.channels_last), weights.detach().double()),
        ),
        (library.gradient_map, (features.detach(), torch.randn(2, 6, 5, 4), "gradcam++", 1e-6)),
        (library.heatmap, (coarse.clone().requires_grad_(), 12, 10, True, "after", "bilinear", False)),
        (library.heatmap, (coarse, 12, 10, False, "both", "bicubic", True)),
        (library.boxes, (coarse, None, [0.2, 0.5], 12, 10, True, "bilinear", 8, "pixels")),
        (library.boxes, (coarse, levels.repeat(3, 1), [], 12, 10, True, "bicubic", 8, "contour")),
        (
            library.class_boxes,
            (features.detach(), weights.detach(), None, [0.2], 12, 10, True, "bilinear", 4, "pixels"),
        ),
        (
            library.class_boxes_and_maps,
            (features.detach(), weights.detach(), None, [0.2, 0.4], 12, 10, True, "bilinear", 8, "pixels", False),
        ),
        (
            library.class_boxes_and_maps,
            (features.detach(), weights.detach(), None, [0.2], 12, 10, False, "bicubic", 8, "contour", True),
        ),
        (library.box_curves, (torch.rand(2, 6, 7),)),
        (
            library.iou_curves,
            (torch.rand(2, 6, 7), torch.tensor([[1.0, 1, 4, 5]]).double(), torch.tensor([0, 1, 1]), True),
        ),
        (library.score_histograms, (torch.rand(2, 6, 7), (torch.rand(2, 6, 7) > 0.5).view(torch.uint8), 10)),
        (library.refine, (torch.rand(2, 3, 6, 7), torch.rand(2, 1, 6, 7), [1, 3], 2)),
        (library.components, ((torch.rand(2, 6, 7) > 0.5).view(torch.uint8), 8, None, 1, False, False)),
        (library.components, ((torch.rand(2, 6, 7) > 0.5).view(torch.uint8), 4, 3, 2, True, True)),
    ]
    for operator, arguments in cases:
        torch.library.opcheck(operator, arguments)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("normalize", ["after", "before", "both", None])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_heatmap_gradient(device, relu, normalize, mode):
    coarse = torch.randn(2, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    # The tolerance is for bicubic's float32 weights.
    assert torch.autograd.gradcheck(lambda c: ops.heatmap(c, (7, 6), relu, normalize, mode), coarse, atol=2e-5)


@pytest.mark.parametrize("normalize", ["after", "before", "both"])
def test_maps_without_a_location_have_no_gradient(device, normalize):
    coarse = torch.randn(5, 7, 7)
    coarse[1] = 0.7
    coarse[2, 1, 1], coarse[3, 1, 1] = torch.nan, torch.inf
    coarse[4] = -coarse[4].abs()
    coarse = coarse.to(device).requires_grad_()
    ops.heatmap(coarse, (23, 31), True, normalize).square().sum().backward()
    assert (coarse.grad.flatten(1) != 0).any(1).tolist() == [True, False, False, False, False]
    assert coarse.grad.isfinite().all()


def test_gradients_are_not_rounded_by_autocast():
    features, weights = torch.randn(2, 64, 7, 7), torch.randn(2, 64, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        ops.class_map(features, weights).square().sum().backward()
    exact = weights.detach().double().requires_grad_()
    ops.class_map(features.double(), exact).square().sum().backward()
    assert_close(weights.grad, exact.grad, 1e-5)


def test_class_map_gradient(device):
    features = torch.randn(2, 4, 3, 2, dtype=torch.float64, device=device, requires_grad=True)
    weights = torch.randn(2, 3, 4, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(ops.class_map, (features, weights))
    assert torch.autograd.gradcheck(ops.class_map, (features, weights[:, 0]))
    half = torch.randn(2, 4, 3, 2, device=device, dtype=torch.float16, requires_grad=True)
    ops.class_map(half, weights[:, 0].float()).sum().backward()
    assert half.grad.dtype == torch.float16


def test_results_without_gradients_carry_no_graph():
    features = torch.randn(2, 4, 3, 2, requires_grad=True)
    assert not ops.gradient_map(features, torch.randn_like(features)).requires_grad
    assert not ops.boxes(ops.class_map(features, torch.randn(2, 4)), 9).requires_grad
    assert not ops.heatmap(features[:, 0], 9, dtype=torch.uint8).requires_grad


def test_compile_full_graph():
    def pipeline(features: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        coarse = ops.class_map(features, weights)
        maps = ops.heatmap(coarse, (40, 40))
        found = ops.class_boxes(features, weights, 40, [0.2, 0.4]), ops.boxes(coarse, 40), ops.box_curves(maps)
        return coarse, maps, ops.gradient_map(features, features), ops.score_histograms(maps, maps > 0.5), *found

    features, weights = torch.randn(2, 8, 5, 5), torch.randn(2, 8)
    compiled = torch.compile(pipeline, fullgraph=True, backend="aot_eager")
    for eager, graph in zip(pipeline(features, weights), compiled(features, weights), strict=True):
        assert torch.equal(eager, graph)


def test_empty_batches(device):
    features = torch.randn(0, 8, 7, 7, device=device)
    assert ops.class_map(features, torch.randn(0, 8, device=device)).shape == (0, 7, 7)
    assert ops.class_map(features, torch.randn(0, 3, 8, device=device)).shape == (0, 3, 7, 7)
    assert ops.gradient_map(features, features).shape == (0, 7, 7)
    assert ops.heatmap(torch.randn(0, 7, 7, device=device), 32).shape == (0, 32, 32)
    assert ops.heatmap(torch.randn(2, 0, 7, 7, device=device), 32).shape == (2, 0, 32, 32)
    assert ops.boxes(torch.randn(0, 7, 7, device=device), 32).shape == (0, 4)
    assert ops.boxes(torch.randn(0, 7, 7, device=device), 32, [0.1, 0.2]).shape == (0, 2, 4)
    assert ops.class_boxes(features, torch.randn(0, 3, 8, device=device), 32, [0.2]).shape == (0, 3, 1, 4)
    found, maps = ops.class_boxes(features, torch.randn(0, 8, device=device), 32, return_map="uint8")
    assert (found.shape, maps.shape) == ((0, 4), (0, 32, 32))
    assert ops.score_histograms(torch.rand(0, 7, 7, device=device), features[:, 0] > 0).shape == (0, 2, 1002)
    assert ops.refine(torch.rand(0, 5, 7, 7, device=device), torch.rand(0, 3, 7, 7, device=device)).shape == (
        0,
        5,
        7,
        7,
    )
    assert ops.refine(torch.rand(2, 0, 7, 7, device=device), torch.rand(2, 3, 7, 7, device=device)).shape == (
        2,
        0,
        7,
        7,
    )
    assert ops.class_map(torch.randn(3, 0, 2, 2, device=device), torch.randn(3, 0, device=device)).eq(0).all()


# ---- errors ----------------------------------------------------------------------------------------------------------

F44, W4 = torch.randn(2, 4, 3, 3), torch.randn(2, 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.class_map(F44[0], W4), ValueError, r"`features` must be \[N, K, h, w\], got \[4, 3, 3\]"),
        (lambda: ops.class_map(F44.int(), W4), TypeError, "`features` must be float16, bfloat16, float32 or float64"),
        (lambda: ops.class_map(F44, [1.0]), TypeError, "`weights` must be a tensor"),
        (lambda: ops.class_map(F44, W4[:1]), ValueError, r"\[N, K\] = \[2, 4\].*got \[1, 4\]"),
        (lambda: ops.class_map(F44, W4[:, :3]), ValueError, r"got \[2, 3\]"),
        (lambda: ops.gradient_map(F44, F44[:1]), ValueError, r"must have the shape of `features` \[2, 4, 3, 3\]"),
        (lambda: ops.gradient_map(F44, F44, "cam"), ValueError, "`weighting` must be one of 'gradcam'.*got 'cam'"),
        (lambda: ops.gradient_map(F44, F44, "gradcam++", -1), ValueError, "`eps`.*got -1"),
        (lambda: ops.heatmap(F44[0, 0], 9), ValueError, "`coarse`.*at least one leading dimension.*got"),
        (lambda: ops.heatmap(F44, 0), ValueError, "`size` must be a positive integer"),
        (lambda: ops.heatmap(F44, (3, 4, 5)), ValueError, "`size`"),
        (lambda: ops.heatmap(F44, 8.0), ValueError, "`size` must be a positive integer.*got 8.0"),
        (lambda: ops.boxes(F44, 40000), ValueError, "`size` must have fewer than 2.30 pixels, got 40000 x 40000"),
        (lambda: ops.boxes(F44, 9, None), ValueError, "`threshold`"),
        (lambda: ops.box_curves(torch.rand(1, 1, 70000)), ValueError, "sides below 65,536"),
        (lambda: ops.heatmap(F44, 9, mode="nearest"), ValueError, "`mode` must be one of"),
        (lambda: ops.heatmap(F44, 9, normalize="always"), ValueError, "`normalize`"),
        (lambda: ops.heatmap(F44, 9, dtype=torch.int8), ValueError, "`dtype`"),
        (lambda: ops.heatmap(F44[..., :0], 9), ValueError, "at least one position"),
        (lambda: ops.boxes(F44, 9, 20), ValueError, r"`threshold` must be in \[0, 1\].*got 20"),
        (lambda: ops.boxes(F44, 9, float("nan")), ValueError, "`threshold`"),
        (lambda: ops.boxes(F44, 9, torch.rand(3)), ValueError, r"absolute levels must be \[2, 4\] or \[2, 4, 'T'\]"),
        (lambda: ops.boxes(F44, 9, torch.ones(2, 4, dtype=torch.int64)), TypeError, "floating-point"),
        (lambda: ops.boxes(F44, 9, connectivity=6), ValueError, "`connectivity`"),
        (lambda: ops.boxes(F44, 9, connectivity=4, largest="contour"), ValueError, "connectivity=8 only"),
        (lambda: ops.class_boxes(F44, W4, 9, largest="area"), ValueError, "`largest` must be one of"),
        (
            lambda: ops.class_boxes(F44, W4, 9, return_map="float64"),
            ValueError,
            "`return_map` must be one of 'float32'",
        ),
        (lambda: ops.box_curves(F44), ValueError, r"`maps` must be \[N, H, W\]"),
        (lambda: ops.score_histograms(F44, F44 > 0), ValueError, r"`maps` must be \[N, H, W\]"),
        (lambda: ops.score_histograms(F44[0].int(), F44[0] > 0), TypeError, "`maps` must be float16"),
        (lambda: ops.score_histograms(F44[0], F44[0]), TypeError, "bool or uint8.*got torch.float32; 1 is object"),
        (lambda: ops.score_histograms(F44[0], F44[1, :3] > 0), ValueError, r"shape of `maps` \[4, 3, 3\], got \[3, 3"),
        (lambda: ops.refine(F44[0], F44), ValueError, r"`maps` must be \[N, C, H, W\]"),
        (lambda: ops.refine(F44, F44.int()), TypeError, "`images` must be float16"),
        (lambda: ops.refine(F44, F44[:, :, :2]), ValueError, "bring them to one size first"),
        (lambda: ops.refine(F44, F44.repeat(1, 2, 1, 1)), ValueError, "must have 1 to 4 channels, got 8"),
        (
            lambda: ops.refine(F44, F44, ()),
            ValueError,
            r"`dilations` must be 1 to 8 integers from 1 to 1,024, got \(\)",
        ),
        (lambda: ops.refine(F44, F44, (1, 0)), ValueError, r"`dilations`.*got \(1, 0\)"),
        (lambda: ops.refine(F44, F44, range(1, 10)), ValueError, "`dilations`.*got range"),
        (lambda: ops.refine(F44, F44, iterations=-1), ValueError, "`iterations` must be an integer, 0 or more, got -1"),
        (lambda: ops.score_histograms(F44[0], F44[0] > 0, 5000), ValueError, "`bins` must be.*to 4,096, got 5000"),
        (lambda: ops.score_histograms(F44[0], F44[0] > 0, 10.0), ValueError, "`bins` must be an integer.*got 10.0"),
        (lambda: ops.score_histograms(F44[0, :, :, :0], F44[0, :, :, :0] > 0), ValueError, "at least one pixel"),
        (lambda: ops.components(F44[0]), TypeError, "bool or uint8"),
        (lambda: ops.components(F44 > 0), ValueError, r"`masks` must be \[N, H, W\]"),
        (lambda: ops.components(F44[0] > 0, max_components=0), ValueError, "`max_components`"),
        (lambda: ops.components(F44[0] > 0, min_area=0), ValueError, "`min_area` must be 1 pixel.*got 0"),
    ],
)
def test_errors_name_what_was_expected_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.gpu
def test_two_devices_are_refused():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    with pytest.raises(ValueError, match="one device"):
        ops.class_map(F44.cuda(), W4)
    with pytest.raises(NotImplementedError, match="no CUDA kernel yet"):
        ops.box_curves(F44[0].cuda())


@pytest.mark.gpu
def test_devices_agree_bit_for_bit_from_the_coarse_map_on():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    for shape in [(7, 7), (14, 14), (5, 9)]:
        coarse = torch.randn(64, *shape)
        for mode in ("bilinear", "bicubic"):
            for size in (224, (65, 130)):
                maps = ops.heatmap(coarse, size, mode=mode)
                assert torch.equal(ops.heatmap(coarse.cuda(), size, mode=mode).cpu(), maps)
                for largest in ("pixels", "contour"):
                    found = ops.boxes(coarse, size, [0.1, 0.2, 0.5], mode=mode, largest=largest)
                    on_gpu = ops.boxes(coarse.cuda(), size, [0.1, 0.2, 0.5], mode=mode, largest=largest)
                    assert torch.equal(on_gpu.cpu(), found)
