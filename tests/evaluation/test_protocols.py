"""Protocols against the conformance vectors of the standard evaluator and the plain oracle."""

import cv2
import numpy as np
import pytest
import torch

from fastcam import ops
from fastcam.bench import operators
from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS, Evaluator, Protocol, box_iou
from fastcam.evaluation.protocols import columns
from tests.support import oracle

FIFTHS = np.arange(0, 1, 0.2)


def boxes_at(values: np.ndarray, thresholds: np.ndarray) -> list[list[int]]:
    """The standard's box at each threshold, by the operator and the protocol's levels."""
    maps = torch.from_numpy(values)[None]
    levels = columns(thresholds, PROTOCOLS["standard"].reference(maps, maps.amax((1, 2)).numpy()))[0]
    return ops.box_curves(maps)[0][torch.from_numpy(levels)].tolist()


def overlaps(protocol: Protocol, values: np.ndarray, truths: list[oracle.Box], contours: str) -> np.ndarray:
    """IoU at the protocol's thresholds."""
    maps = torch.from_numpy(values)[None]
    protocol = protocol._replace(size=values.shape)
    high = maps.amax((1, 2)).numpy()
    boxes, owner = torch.tensor(truths, dtype=torch.float64), torch.zeros(len(truths), dtype=torch.int64)
    curves = protocol.overlaps(maps, high, boxes, owner, contours)
    return curves[0][columns(protocol.thresholds, protocol.reference(maps, high))[0]]


# ---- conformance vectors ---------------------------------------------------------------------------------------------

LARGEST = {
    "zeros": (np.zeros((3, 3)), FIFTHS, [[0, 0, 0, 0]] * 5),
    "nested": (
        np.array([[0, 0, 0, 0, 0], [0, 0.4, 0.4, 0.4, 0.6], [0, 0.4, 1, 0.8, 0.6], [0, 0.4, 0.4, 0.4, 0.6]]),
        FIFTHS,
        [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]],
    ),
    "corners": (
        np.array([[0.4, 0, 0.2, 0.2, 0.2], [0.4, 0.4, 0, 0.4, 0], [0, 0, 0, 0.4, 0], [1, 0.6, 0.8, 0.2, 0.2]]),
        FIFTHS,
        [[0, 0, 4, 3], [0, 0, 2, 2], [0, 3, 3, 3], [2, 3, 3, 3], [0, 3, 1, 3]],
    ),
    "strict": (
        np.array([[0.0] * 6, [0] * 6, [0, 0, 1, 0.5, 0, 0], [0] * 6, [0] * 6, [0] * 6]),
        np.array([0.5, 0.49]),
        [[2, 2, 3, 3], [2, 2, 4, 3]],
    ),
    "ones": (np.ones((4, 4)), FIFTHS, [[0, 0, 3, 3]] * 5),
}


@pytest.mark.parametrize("name", LARGEST)
def test_vectors_of_the_largest_contour(name: str) -> None:
    values, thresholds, expected = LARGEST[name]
    assert boxes_at(values, thresholds) == expected
    masks = oracle.masks_at("standard", values, thresholds)
    assert [list(oracle.boxes_of("standard", mask)[0][0]) for mask in masks] == expected


@pytest.mark.parametrize(
    ("threshold", "expected"), [(0.3, [[1, 1, 8, 8], [2, 2, 7, 7], [4, 4, 5, 5]]), (0.6, [[1, 1, 8, 8], [2, 2, 7, 7]])]
)
def test_vectors_of_all_contours(threshold: float, expected: list[list[int]]) -> None:
    values = np.zeros((9, 9))
    values[1:8, 1:8], values[3:6, 3:6], values[4, 4] = 1, 0, 0.5
    mask = next(oracle.masks_at("standard", values, np.array([threshold])))
    assert sorted(map(list, oracle.boxes_of("standard", mask)[1])) == expected
    corners = np.array(
        [(x0, y0, x1, y1) for x0 in range(9) for y0 in range(9) for x1 in range(x0, 9) for y1 in (8, y0)]
    )
    maps = torch.from_numpy(values).expand(len(corners), 9, 9)
    truths, owner = torch.from_numpy(corners), torch.arange(len(corners))
    found = ops.iou_curves(maps, truths, owner, "all")[:, int(threshold * 255)]
    assert torch.equal(found, box_iou(truths[:, None], torch.tensor(expected), inclusive=True).amax(1))


def test_nan_is_an_error_in_a_score_map_and_zeros_in_a_raw_one() -> None:
    values = torch.rand(1, 5, 5)
    values[0, 2, 2] = float("nan")
    truth = [Sample(None, None, np.array([[1, 1, 3, 3]]), None, (5, 5))]
    with pytest.raises(ValueError, match=r"a\.jpg: its map has NaN"):
        Evaluator(PROTOCOLS["standard"]._replace(size=(5, 5))).add(["a.jpg"], values, truth)
    assert not PROTOCOLS["standard"].upsample(values).any()


# ---- from coarse maps and truth to the frame -------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "flag"), [("standard", cv2.INTER_CUBIC), ("ts-cam", cv2.INTER_LINEAR)])
def test_upsampling_is_opencvs(name: str, flag: int) -> None:
    coarse = torch.randn(6, 7, 9)
    coarse[3], coarse[4, 2, 2] = 0.3, float("nan")
    found = PROTOCOLS[name].upsample(coarse)
    expected = np.stack([oracle.upsample(one, (224, 224), flag) for one in coarse.numpy()])
    assert found.dtype == torch.float64
    if name == "standard":
        assert (found.numpy() == expected).all()
    else:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert not found[3:5].any()


def test_true_boxes_are_truncated_to_the_frame() -> None:
    protocol = PROTOCOLS["standard"]._replace(size=(100, 224))
    assert protocol.frame_boxes([[10, 20, 499, 374]], (500, 375)).tolist() == [[4, 5, 223, 99]]
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 900, (500, 2))
    boxes = (rng.random((500, 4)) * np.tile(sizes, 2)).round(1)
    expected = [oracle.resize_box(box, size, (100, 224)) for box, size in zip(boxes, sizes, strict=True)]
    assert protocol.frame_boxes(boxes, sizes).tolist() == [list(map(float, box)) for box in expected]


def test_true_boxes_are_shifted_and_clipped_to_the_crop() -> None:
    protocol = PROTOCOLS["rethinking"]
    # Resized to 256, 100 is at 51.2, less 16 pixels of margin: 35.2. 15.9 is before the crop, 495 behind it.
    boxes = [[100, 100, 250, 300], [15.9, 0, 495, 495], [0, 0, 20, 20], [480, 480, 500, 500]]
    found = protocol.frame_boxes(boxes, (500, 500)).tolist()
    assert found == [[35, 35, 112, 137], [0, 0, 223, 223], [0, 0, 0, 0], [223, 223, 223, 223]]
    rng = np.random.default_rng(0)
    sizes = rng.integers(100, 900, (500, 2))
    corners = np.sort(rng.random((500, 2, 2)) * 0.8 + 0.1, 1).reshape(500, 4)  # that meet the crop
    boxes = (corners * np.tile(sizes, 2)).round(1)
    expected = [oracle.crop_box(box, size, 256, 224) for box, size in zip(boxes, sizes, strict=True)]
    assert protocol.frame_boxes(boxes, sizes).tolist() == [list(map(float, box)) for box in expected]


@pytest.mark.parametrize("name", ["standard", "rethinking"])
def test_true_masks_take_the_nearest_pixel(name: str) -> None:
    rng = np.random.default_rng(0)
    mask = rng.choice(np.array([0, 1, 255], np.uint8), (90, 130))
    found = PROTOCOLS[name].frame_mask(mask)
    side = 224 if name == "standard" else 256
    layers = [cv2.resize(np.float32(mask == v), (side, side), interpolation=cv2.INTER_NEAREST) > 0.5 for v in (1, 255)]
    expected = layers[0] + 255 * layers[1].astype(np.uint8)
    if name == "rethinking":
        expected = expected[16:240, 16:240]
    assert (found == expected).all()
    assert (PROTOCOLS[name].frame_mask(mask == 1) == (expected == 1)).all()


# ---- boxes and IoU ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("many", [200, pytest.param(2000, marks=pytest.mark.long)])
def test_thousands_of_maps_have_the_oracles_bits(many: int) -> None:
    rng = np.random.default_rng(0)
    for size, count in (((8, 10), many), ((40, 33), many // 50)):
        kinds, values = zip(*oracle.maps(1, count, size), strict=True)
        truths = [oracle.truth_boxes(rng, one) for one in values]
        maps = torch.from_numpy(np.stack(values))
        boxes = torch.tensor([box for found in truths for box in found], dtype=torch.float64)
        owner = torch.repeat_interleave(torch.tensor([len(found) for found in truths]))
        protocol = PROTOCOLS["standard"]._replace(size=size)
        high = maps.amax((1, 2)).numpy()
        at = columns(protocol.thresholds, protocol.reference(maps, high))
        curves = [
            np.take_along_axis(protocol.overlaps(maps, high, boxes, owner, contours), at, 1)
            for contours in ("largest", "all")
        ]
        expected = np.stack(
            [oracle.iou_curves("standard", one, found) for one, found in zip(values, truths, strict=True)]
        )
        for found, wanted, contours in zip(curves, expected.transpose(1, 0, 2), ("largest", "all"), strict=True):
            wrong = [kind for kind, same in zip(kinds, (found == wanted).all(1), strict=True) if not same]
            assert not wrong, (size, contours, wrong)
        largest = ops.box_curves(maps).numpy()
        for index in range(0, count, 10 if size == (8, 10) else 1):
            masks = oracle.masks_at("standard", values[index], protocol.thresholds)
            wanted = [oracle.boxes_of("standard", mask)[0][0] for mask in masks]
            assert largest[index][at[index]].tolist() == list(map(list, wanted)), (size, kinds[index])


def test_the_benchmarks_contestant_is_the_oracle() -> None:
    rng = np.random.default_rng(2)
    values = [one for _, one in oracle.maps(3, 20, (14, 17))]
    truths = [oracle.truth_boxes(rng, one) for one in values]
    boxes = torch.tensor([box for found in truths for box in found], dtype=torch.float64)
    owner = torch.repeat_interleave(torch.tensor([len(found) for found in truths]))
    expected = np.stack([oracle.iou_curves("standard", one, found) for one, found in zip(values, truths, strict=True)])
    for rule, contours in enumerate(("largest", "all")):
        found = operators.opencv_iou_curves(torch.from_numpy(np.stack(values)), boxes, owner, contours)
        assert (found == expected[:, rule]).all()


@pytest.mark.parametrize("name", ["paper", "rethinking", "ts-cam", "bas", "notebook"])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_variants_have_the_oracles_bits(name: str, dtype: type) -> None:
    rng = np.random.default_rng(4)
    for kind, values in oracle.maps(5, 60, (13, 15)):
        values, truths = values.astype(dtype), oracle.truth_boxes(rng, values)
        protocol = PROTOCOLS[name]
        thresholds = protocol.thresholds if name == "notebook" else protocol.thresholds[::10]
        expected = oracle.iou_curves(name, values, truths, thresholds)
        for contours, wanted in zip(("largest", "all"), expected, strict=True):
            found = overlaps(protocol, values, truths, contours)
            assert (found[:: len(found) // len(wanted)] == wanted).all(), (kind, contours)


def test_empty_masks_have_the_boxes_of_their_variant() -> None:
    empty, truths = np.zeros((10, 20)), [(0, 0, 4, 4), (0, 0, 1, 1), (0, 0, 19, 9)]
    expected = {
        "standard": [1 / 25, 1 / 4, 1 / 200],
        "ts-cam": [4 / 25, 1, 4 / 200],
        "rethinking": [25 / 200, 4 / 200, 1],
    }
    for name, wanted in expected.items():
        for contours in ("largest", "all"):
            found = [overlaps(PROTOCOLS[name], empty, [truth], contours)[0] for truth in truths]
            assert found == wanted
    assert overlaps(PROTOCOLS["notebook"], empty, truths, "all").tolist() == [0]


def test_which_component_is_the_largest() -> None:
    # A thin frame has the largest contour, a block has more pixels; they touch at a corner only for 8 neighbours.
    values = np.zeros((20, 20))
    values[0:10, 0], values[0:10, 9], values[0, 0:10], values[9, 0:10] = 1, 1, 1, 1
    values[12:19, 12:19] = 1
    frame, block = (0, 0, 10, 10), (12, 12, 19, 19)
    assert overlaps(PROTOCOLS["standard"], values, [frame], "largest")[500] == 1
    assert overlaps(PROTOCOLS["bas"], values, [block], "largest")[500] == 1
    assert overlaps(PROTOCOLS["paper"], values, [block], "largest")[500] == 1
    values[10:12, 10:12] = np.eye(2)
    assert overlaps(PROTOCOLS["bas"], values, [(0, 0, 19, 19)], "largest")[500] == 1
    assert overlaps(PROTOCOLS["notebook"], values, [block], "all")[0] == 1  # half-open, and only 4 neighbours
    assert overlaps(PROTOCOLS["notebook"], values, [(0, 0, 19, 19)], "all")[0] < 0.5


def test_pas_takes_numpys_percentile() -> None:
    rng = np.random.default_rng(0)
    for values in (rng.random((3, 224, 224)), rng.random((3, 5, 7)), rng.random((3, 16, 16)).astype(np.float32)):
        quantised = (255 * values).astype(np.uint8)
        expected = [np.percentile(one, 90) for one in quantised]
        maps = torch.from_numpy(values)
        assert PROTOCOLS["rethinking"].reference(maps, maps.amax((1, 2)).numpy()).tolist() == expected
        # A threshold is relative to it, so that it can stand above part of what is below the maximum.
        level = columns(np.array([0.35]), np.array(expected[:1]))[0, 0]
        assert level == int(0.35 * expected[0])
