"""Components, largest boxes and curves against scipy, scikit-image, OpenCV and cases worked out by hand."""

import itertools

import cv2
import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings, strategies as st
from skimage.measure import label, regionprops

from fastcam import ops, reference
from tests.support.operands import ALL_4X4, maps_of_every_kind, shapes


def scipy_components(mask: np.ndarray, connectivity: int) -> list[tuple[int, ...]]:
    """(x0, y0, x1, y1, area) of each component in raster order of first pixels, which is scipy's labelling order."""
    labels, _ = scipy.ndimage.label(mask, np.ones((3, 3)) if connectivity == 8 else None)
    found = []
    for index, slices in enumerate(scipy.ndimage.find_objects(labels), 1):
        y, x = slices
        found.append((x.start, y.start, x.stop, y.stop, int((labels[slices] == index).sum())))
    return found


def contour_box(mask: np.ndarray) -> list[int]:
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        return [0, 0, 0, 0]
    x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea))
    return [x, y, x + w, y + h]


def table(masks: torch.Tensor, connectivity: int) -> list[list[tuple[int, ...]]]:
    boxes, areas, image = ops.components(masks, connectivity)
    rows: list[list[tuple[int, ...]]] = [[] for _ in masks]
    for box, area, index in zip(boxes.tolist(), areas.tolist(), image.tolist(), strict=True):
        rows[index].append((*box, area))
    return rows


def largest(masks: torch.Tensor, connectivity: int = 8, rule: str = "pixels") -> list[list[int]]:
    """Boxes of masks as they are: an absolute level between 0 and 1, at the masks' own size."""
    levels = torch.full((len(masks),), 0.5)
    size = tuple(masks.shape[1:])
    return ops.boxes(masks.float(), size, levels, False, "bilinear", connectivity, rule).tolist()


@pytest.mark.parametrize("connectivity", [4, 8])
def test_every_4x4_mask(connectivity):
    expected = [scipy_components(m, connectivity) for m in ALL_4X4.numpy()]
    assert table(ALL_4X4, connectivity) == expected
    # Constant masks carry no location.
    varied = torch.arange(1, len(ALL_4X4) - 1)
    boxes = largest(ALL_4X4[varied], connectivity)
    for box, components in zip(boxes, expected[1:-1], strict=True):
        assert tuple(box) == max(components, key=lambda c: c[4])[:4]  # max takes the first of equals


def test_every_4x4_mask_by_contour():
    varied = ALL_4X4[1:-1]
    assert largest(varied, 8, "contour") == [contour_box(m) for m in varied.numpy()]


@pytest.mark.parametrize("size", [9, 31, 32, 33, 63, 64, 65, 128, 130])
def test_adversarial_shapes(size):
    found = shapes(size)
    masks = torch.from_numpy(np.stack(list(found.values())))
    for connectivity in (4, 8):
        for name, rows, mask in zip(found, table(masks, connectivity), masks.numpy(), strict=True):
            assert rows == scipy_components(mask, connectivity), name
    for name, box, mask in zip(found, largest(masks, 8, "contour"), masks.numpy(), strict=True):
        assert box == contour_box(mask), name


def test_regionprops_agree():
    mask = torch.rand(1, 60, 91) > 0.6
    regions = sorted(regionprops(label(mask[0].numpy(), connectivity=2)), key=lambda r: tuple(r.coords[0]))
    expected = [(r.bbox[1], r.bbox[0], r.bbox[3], r.bbox[2], int(r.area)) for r in regions]
    assert table(mask, 8)[0] == expected


@settings(max_examples=150)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 140),
    density=st.sampled_from([0.02, 0.3, 0.5, 0.6, 0.8, 0.97]),
    seed=st.integers(0, 2**31),
)
def test_random_masks(height, width, density, seed):
    masks = torch.rand(3, height, width, generator=torch.Generator().manual_seed(seed)) < density
    for connectivity in (4, 8):
        assert table(masks, connectivity) == [scipy_components(m, connectivity) for m in masks.numpy()]
    varied = masks[(masks.flatten(1).any(1) & ~masks.flatten(1).all(1))]
    assert largest(varied, 8, "contour") == [contour_box(m) for m in varied.numpy()]


def test_components_of_bytes_empty_and_full_masks():
    masks = torch.zeros(3, 5, 70, dtype=torch.uint8)
    masks[1] = 255
    masks[2, 4, 69] = 7
    boxes, areas, image = ops.components(masks)
    assert boxes.dtype == areas.dtype == torch.int32
    assert image.dtype == torch.int64
    assert boxes.tolist() == [[0, 0, 70, 5], [69, 4, 70, 5]]
    assert areas.tolist() == [350, 1]
    assert image.tolist() == [1, 2]
    boxes, areas, image = ops.components(masks[:0])
    assert boxes.shape == (0, 4)
    assert areas.shape == image.shape == (0,)


def test_max_components_keeps_the_largest_and_the_first_of_equals():
    mask = torch.zeros(1, 3, 20, dtype=torch.bool)
    for x, length in ((0, 1), (3, 2), (7, 3), (12, 2), (16, 2)):
        mask[0, 1, x : x + length] = True
    boxes, areas, _ = ops.components(mask, max_components=3)
    assert areas.tolist() == [2, 3, 2]
    assert boxes[:, 0].tolist() == [3, 7, 12]


def scipy_labels(
    mask: np.ndarray, connectivity: int, most: int | None = None, min_area: int = 1, fill_holes: bool = False
) -> tuple[list[tuple[int, ...]], np.ndarray]:
    """(x0, y0, x1, y1, area) of each component that stays, and the label image, from a filled mask."""
    square = np.ones((3, 3))
    if fill_holes:
        mask = scipy.ndimage.binary_fill_holes(mask, square if connectivity == 4 else None)
    labels, count = scipy.ndimage.label(mask, square if connectivity == 8 else None)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    stay = [i for i in range(1, count + 1) if areas[i] >= min_area]
    if most is not None:
        stay = sorted(sorted(stay, key=lambda i: -areas[i])[:most])  # sorted() is stable
    renumbered = np.zeros(count + 1, np.int32)
    renumbered[stay] = np.arange(1, len(stay) + 1)
    slices = scipy.ndimage.find_objects(labels)
    table = [(slices[i - 1][1], slices[i - 1][0], areas[i]) for i in stay]
    return [(x.start, y.start, x.stop, y.stop, int(area)) for x, y, area in table], renumbered[labels]


def assert_equal_to_scipy(masks: torch.Tensor, connectivity: int, **options) -> None:
    boxes, areas, image, labels = ops.components(masks, connectivity, labels=True, **options)
    assert labels.dtype == torch.int32
    for one, same in zip(ops.components(masks, connectivity, **options), (boxes, areas, image), strict=True):
        assert torch.equal(one, same)
    found = reference.components(masks, connectivity, labels=True, **options)
    for one, same in zip(found, (boxes, areas, image, labels), strict=True):
        assert one.dtype == same.dtype
        assert torch.equal(one, same)
    options = {"most": options.pop("max_components", None), **options}
    rows = torch.cat([boxes, areas[:, None]], 1)
    for index, (mask, painted) in enumerate(zip(masks.numpy(), labels.numpy(), strict=True)):
        table, expected = scipy_labels(mask, connectivity, **options)
        assert np.array_equal(painted, expected), (index, options)
        assert list(map(tuple, rows[image == index].tolist())) == table, (index, options)


CHOICES = [
    {},
    {"fill_holes": True},
    {"min_area": 3},
    {"max_components": 2},
    {"fill_holes": True, "min_area": 4, "max_components": 3},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("connectivity", [4, 8])
def test_labels_specks_and_holes_equal_scipy(connectivity, options):
    assert_equal_to_scipy(ALL_4X4[::41], connectivity, **options)
    for size in (1, 31, 64, 65, 130):
        masks = torch.from_numpy(np.stack(list(shapes(size).values())))
        assert_equal_to_scipy(masks, connectivity, **options)
        assert_equal_to_scipy(~masks, connectivity, **options)


@settings(max_examples=100)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 140),
    density=st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.8, 0.97]),
    coarse=st.booleans(),
    fill_holes=st.booleans(),
    min_area=st.integers(1, 30),
    most=st.none() | st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
def test_random_labels_equal_scipy(height, width, density, coarse, fill_holes, min_area, most, seed):
    masks = torch.rand(2, height, width, generator=torch.Generator().manual_seed(seed)) < density
    if coarse:  # equal rows, and holes of more than a pixel
        masks = masks.repeat_interleave(3, 1).repeat_interleave(2, 2)[:, :height, :width]
    for connectivity in (4, 8):
        assert_equal_to_scipy(masks, connectivity, fill_holes=fill_holes, min_area=min_area, max_components=most)


def test_labels_equal_those_of_opencv():
    masks = torch.rand(6, 61, 97, generator=torch.Generator().manual_seed(5)) < torch.arange(2, 8)[:, None, None] / 10
    for connectivity in (4, 8):
        *_, labels = ops.components(masks, connectivity, labels=True)
        for mask, mine in zip(masks.numpy(), labels.numpy(), strict=True):
            count, theirs = cv2.connectedComponents(mask.astype(np.uint8), connectivity=connectivity)
            pairs = np.unique(np.stack([mine, theirs]).reshape(2, -1), axis=1)  # one label for one label
            assert pairs.shape[1] == len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == count
            assert pairs[:, 0].tolist() == [0, 0]


def test_filled_components_equal_the_outer_contours_of_opencv():
    masks = torch.rand(6, 61, 97, generator=torch.Generator().manual_seed(6)) < torch.arange(2, 8)[:, None, None] / 10
    *_, labels = ops.components(masks, fill_holes=True, labels=True)
    for mask, mine in zip(masks.numpy().astype(np.uint8), labels.numpy(), strict=True):
        contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
        assert np.array_equal(mine > 0, cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED) > 0)
        assert mine.max() == len(contours)


def test_holes_are_filled_before_specks_are_dropped():
    ring = torch.zeros(1, 7, 9, dtype=torch.bool)
    ring[0, 1:6, 1:6] = True
    ring[0, 2:5, 2:5] = False  # 16 pixels around 9
    ring[0, 3, 3] = True  # an island
    ring[0, 6, 8] = True  # a speck
    boxes, areas, image, labels = ops.components(ring, min_area=17, fill_holes=True, labels=True)
    assert (boxes.tolist(), areas.tolist(), image.tolist()) == ([[1, 1, 6, 6]], [25], [0])
    assert labels[0, 1:6, 1:6].eq(1).all()
    assert labels.sum() == 25
    assert ops.components(ring, min_area=17)[1].tolist() == []
    assert ops.components(ring, fill_holes=True)[1].tolist() == [25, 1]
    ring[0, 1, 1] = False  # a gap at the corner: closed for 8-connected pixels, open for 4-connected ones
    assert ops.components(ring, 8, min_area=2, fill_holes=True)[1].tolist() == [24]
    assert ops.components(ring, 4, min_area=2, fill_holes=True)[1].tolist() == [15]
    assert ops.components(ring[:0], labels=True)[3].shape == (0, 7, 9)


# ---- curves ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(40, 56), (33, 65)])
def test_box_curves_equal_the_contours_of_every_level(dtype, size):
    for name, values in maps_of_every_kind(4, *size).items():
        maps = torch.from_numpy(values).to(dtype)
        assert torch.equal(ops.box_curves(maps), reference.box_curves(maps)), name


def truths_for(count: int, height: int, width: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """True boxes [M, 4] and the images that they belong to, in no order; some images have several, some none."""
    rng = np.random.default_rng(seed)
    x, y = np.sort(rng.integers(0, width, (2 * count, 2)), 1), np.sort(rng.integers(0, height, (2 * count, 2)), 1)
    boxes = np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], 1)
    return torch.from_numpy(boxes), torch.from_numpy(rng.integers(0, count, 2 * count))


@pytest.mark.parametrize("contours", ["largest", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(40, 56), (33, 65), (1, 40), (40, 1)])
def test_iou_curves_equal_those_of_every_contour(contours, dtype, size):
    for name, values in maps_of_every_kind(4, *size).items():
        maps = torch.from_numpy(values).to(dtype)
        boxes, image = truths_for(len(maps), *size)
        expected = reference.iou_curves(maps, boxes, image, contours)
        assert torch.equal(ops.iou_curves(maps, boxes, image, contours), expected), name
        assert torch.equal(ops.iou_curves(maps, boxes.float(), image.int(), contours), expected), name


def test_iou_curves_of_a_ring_with_an_island():
    # The standard evaluator's conformance vector: outer border, hole and island.
    maps = torch.zeros(1, 9, 9, dtype=torch.float64)
    maps[0, 1:8, 1:8] = 1
    maps[0, 3:6, 3:6] = 0
    maps[0, 4, 4] = 0.5
    for box, low, high in (([1, 1, 8, 8], 1, 1), ([2, 2, 7, 7], 1, 1), ([4, 4, 5, 5], 1, 4 / 36)):
        curve = ops.iou_curves(maps, torch.tensor([box]), torch.tensor([0]), "all")[0]
        assert curve[int(0.3 * 255)] == low
        assert curve[int(0.6 * 255)] == high
    assert ops.iou_curves(maps, torch.tensor([[1, 1, 8, 8]]), torch.tensor([0]))[0, 200] == 1


def test_iou_curves_without_a_contour_or_a_true_box():
    maps = torch.rand(3, 8, 8)
    maps[1] = 0
    curves = ops.iou_curves(maps, torch.tensor([[0, 0, 1, 1]]), torch.tensor([1]), "all")
    assert curves.dtype == torch.float64
    assert (curves[1] == 0.25).all()  # the box [0, 0, 0, 0] counts: one pixel of four
    assert (curves[[0, 2]] == 0).all()
    assert ops.iou_curves(maps[:0], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)).shape == (0, 256)
    assert (ops.iou_curves(maps, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)) == 0).all()


@pytest.mark.parametrize(
    ("boxes", "image", "error", "message"),
    [
        ([[0, 0, 1, 1]], [3], ValueError, r"`box_image` must be in \[0, 3\).*got 3"),
        ([[0, 0, 1, 1]], [-1], ValueError, "got -1"),
        ([[2, 0, 1, 1]], [0], ValueError, "x1 >= x0.*for image 0"),
        ([[0.0, 0.0, float("nan"), 1.0]], [1], ValueError, "finite.*for image 1"),
        ([[0, 0, 1]], [0], ValueError, r"`boxes` must be \[M, 4\].*\[1, 3\]"),
        ([[0, 0, 1, 1]], [0, 1], ValueError, r"`box_image` \[M\].*\[2\]"),
        ([[0, 0, 1, 1]], [0.0], TypeError, "`box_image` must be integers"),
        ([[True] * 4], [0], TypeError, "`boxes` must be real"),
    ],
)
def test_true_boxes_are_checked(boxes, image, error, message):
    with pytest.raises(error, match=message):
        ops.iou_curves(torch.rand(3, 8, 8), torch.tensor(boxes), torch.tensor(image))


def test_iou_curves_options_are_checked():
    with pytest.raises(ValueError, match="`contours` must be one of 'largest', 'all'"):
        ops.iou_curves(torch.rand(1, 8, 8), torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), "outer")
    with pytest.raises(TypeError, match="`boxes` must be a tensor"):
        ops.iou_curves(torch.rand(1, 8, 8), [[0, 0, 1, 1]], torch.zeros(1, dtype=torch.int64))


def evaluate_contours(values: np.ndarray, truths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest contour's box, and the best IoU of any contour's, at each level of one map: once for each mask."""
    quantised, limit = (255 * values).astype(np.uint8), np.array(values.shape[::-1]) - 1
    boxes, ious = np.zeros((256, 4), np.int32), np.zeros(256)
    edges = [-1, *np.unique(quantised).tolist(), 256]
    for low, high in itertools.pairwise(edges):  # levels low ... high - 1 have one mask
        mask = (quantised > low).view(np.uint8)
        contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        found = np.array([cv2.boundingRect(c) for c in contours] or [[0, 0, 0, 0]], np.float64)
        found[:, 2:] = np.minimum(found[:, 2:] + found[:, :2], limit)
        span = slice(max(low, 0), high)
        if contours:
            boxes[span] = found[max(range(len(contours)), key=lambda i: cv2.contourArea(contours[i]))]
        if len(truths):
            overlap = np.minimum(found[:, None, 2:], truths[:, 2:]) - np.maximum(found[:, None, :2], truths[:, :2]) + 1
            inter = overlap.clip(0).prod(-1)
            areas = [(b[:, 2:] - b[:, :2] + 1).prod(-1) for b in (found, truths)]
            ious[span] = (inter / (areas[0][:, None] + areas[1] - inter)).max()
    return boxes, ious


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_thousands_of_maps_equal_the_contours_of_every_level(count):
    """Every kind of map at many small sizes, largest and all contours: no difference is allowed."""
    rng, seen = np.random.default_rng(11), 0
    while seen < count:
        height, width = (int(v) for v in rng.integers(1, 28, 2))
        for name, values in maps_of_every_kind(16, height, width, int(rng.integers(2**31))).items():
            boxes, image = truths_for(len(values), height, width, seen)
            found = (
                ops.box_curves(torch.from_numpy(values)),
                ops.iou_curves(torch.from_numpy(values), boxes, image, "all"),
            )
            for i, one in enumerate(values):
                expected = evaluate_contours(one, boxes[image == i].numpy().astype(np.float64))
                for curve, wanted in zip(found, expected, strict=True):
                    assert np.array_equal(curve[i].numpy(), wanted), (name, height, width)
            seen += len(values)


TAUS = [0.0, 0.2, 0.4, 0.6, 0.8]


def standard_boxes(scores: list[list[float]], taus: list[float]) -> list[list[int]]:
    """The standard evaluator's boxes at thresholds relative to the maximum, read off the curve."""
    maps = torch.tensor([scores], dtype=torch.float64)
    curve = ops.box_curves(maps)[0]
    highest = int((255 * maps).to(torch.uint8).max())
    return [curve[int(tau * highest)].tolist() for tau in taus]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.zeros((3, 3)).tolist(), [[0, 0, 0, 0]] * 5),
        (
            [[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]],
            [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]],
        ),
        (
            [[0.4, 0, 0.2, 0.2, 0.2], [0.4, 0.4, 0, 0.4, 0], [0, 0, 0, 0.4, 0], [1, 0.6, 0.8, 0.2, 0.2]],
            [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]],
        ),
    ],
)
def test_published_vectors(scores, expected):
    assert standard_boxes(scores, TAUS) == expected


def test_strict_threshold_and_clamped_edge():
    scores = np.zeros((6, 6))
    scores[2, 2], scores[2, 3] = 1, 0.5
    assert standard_boxes(scores.tolist(), [0.5, 0.49]) == [[2, 2, 3, 3], [2, 2, 4, 3]]
    assert standard_boxes(np.ones((4, 4)).tolist(), [0.0]) == [[0, 0, 3, 3]]


def test_curve_values_outside_the_range_saturate():
    maps = torch.tensor([[[torch.nan, -3.0, 0.5, 7.0]]])
    curve = ops.box_curves(maps)[0]
    assert curve[254].tolist() == [3, 0, 3, 0]  # clamped to W - 1 and H - 1
    assert curve[0].tolist() == [2, 0, 3, 0]
    assert curve[255].tolist() == [0, 0, 0, 0]


def test_transposed_masks_have_transposed_components():
    masks = torch.rand(6, 37, 70) < torch.arange(2, 8)[:, None, None] / 10
    for connectivity in (4, 8):
        upright, transposed = table(masks, connectivity), table(masks.mT.contiguous(), connectivity)
        for rows, others in zip(upright, transposed, strict=True):
            assert sorted(rows) == sorted((y0, x0, y1, x1, area) for x0, y0, x1, y1, area in others)


@pytest.mark.parametrize("rule", ["pixels", "contour"])
def test_many_thresholds_give_the_boxes_of_each_alone(rule):
    coarse, thresholds = torch.randn(3, 9, 9), [0.0, 0.1, 0.25, 0.5, 0.9, 1.0]
    together = ops.boxes(coarse, (65, 90), thresholds, largest=rule)
    for index, threshold in enumerate(thresholds):
        assert torch.equal(together[:, index], ops.boxes(coarse, (65, 90), threshold, largest=rule))
    # The mask above level 51, as boxes and as curves find it; curves clamp to W - 1 and H - 1.
    quantised = ops.heatmap(coarse, (65, 90), dtype=torch.uint8).float()
    contour = ops.boxes(quantised, (65, 90), torch.full((3,), 51.0), False, largest="contour")
    curve = ops.box_curves(ops.heatmap(coarse, (65, 90)))
    assert torch.equal(curve[:, 51], contour.minimum(torch.tensor([90, 65, 89, 64], dtype=torch.int32)))


def test_levels_nest():
    maps = ops.heatmap(torch.randn(5, 9, 9), 70)
    mask = maps > 0.3
    boxes, _, image = ops.components(mask)
    inner, _, inner_image = ops.components(maps > 0.6)
    for box, index in zip(inner, inner_image, strict=True):
        outer = boxes[image == index]
        assert ((outer[:, :2] <= box[:2]).all(1) & (outer[:, 2:] >= box[2:]).all(1)).any()
