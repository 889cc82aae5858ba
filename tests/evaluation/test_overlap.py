"""Metrics of boxes against hand-computed cases, the standard's conformance vectors, and the plain oracle."""

import cv2
import numpy as np
import pytest
import torch

from fastcam import evaluation
from tests.support import oracle


def test_iou_by_hand() -> None:
    # The standard's vectors count edges in: 8 of 27 pixels.
    assert evaluation.box_iou([1, 2, 5, 6], [3, 1, 4, 5], inclusive=True) == pytest.approx(8 / 27, abs=1e-15)
    assert evaluation.box_iou([0, 0, 4, 2], [2, 0, 6, 2]) == pytest.approx(1 / 3, abs=1e-15)
    assert evaluation.box_iou([0, 0, 2, 2], [2, 0, 4, 2]) == 0
    assert evaluation.box_iou([0, 0, 1, 1], [1, 0, 2, 1], inclusive=True) == pytest.approx(2 / 6)
    assert evaluation.box_iou([0, 0, 0, 0], [0, 0, 0, 0]) == 0
    assert evaluation.box_iou([0, 0, 0, 0], [0, 0, 0, 0], inclusive=True) == 1


def test_iou_of_all_pairs() -> None:
    boxes = torch.tensor([[1, 1, 3, 3], [4, 4, 5, 5]])
    torch.testing.assert_close(
        evaluation.box_iou(boxes[:, None], boxes, inclusive=True), torch.eye(2, dtype=torch.float64)
    )
    assert evaluation.box_iou(torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)


def test_iou_against_counted_pixels() -> None:
    rng = np.random.default_rng(0)
    corners = np.sort(rng.integers(0, 12, (200, 2, 2, 2)), axis=2).reshape(200, 2, 4)  # [pair, box, x0 y0 x1 y1]
    for a, b in corners:
        for extra in (0, 1):
            masks = np.zeros((2, 14, 14), bool)
            for mask, (x0, y0, x1, y1) in zip(masks, (a, b), strict=True):
                mask[y0 : y1 + extra, x0 : x1 + extra] = True
            union = (masks[0] | masks[1]).sum()
            expected = (masks[0] & masks[1]).sum() / union if union else 0
            assert evaluation.box_iou(a, b, inclusive=bool(extra)).item() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    "boxes", [[1, 1, 0, 0], [0, 0, 1], [[0, 0, float("nan"), 1]], 3.0, [0, 0, float("inf"), 1]], ids=str
)
def test_iou_rejects(boxes) -> None:
    with pytest.raises(ValueError, match="`boxes` must be"):
        evaluation.box_iou(boxes, [0, 0, 1, 1])


def test_box_accuracy() -> None:
    truth = [[0, 0, 10, 10], [0, 0, 10, 10], [5, 5, 10, 10]]
    found = torch.tensor([[0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 5, 5]])  # IoU 0.5, 0.4, 0
    assert evaluation.box_accuracy(found, truth).item() == pytest.approx(100 / 3)
    assert evaluation.box_accuracy(found, truth, iou=0.3).item() == pytest.approx(200 / 3)
    both = torch.stack([found, torch.tensor(truth)], 1)
    assert evaluation.box_accuracy(both, truth).tolist() == pytest.approx([100 / 3, 100])


def test_box_accuracy_takes_the_best_of_several_true_boxes() -> None:
    found = torch.tensor([[0, 0, 4, 4], [0, 0, 4, 4]])
    truth = [[9, 9, 12, 12], [0, 0, 4, 4], [9, 9, 12, 12]]
    assert evaluation.box_accuracy(found, truth, [0, 0, 1]).item() == 50
    assert evaluation.box_accuracy(found, truth, [1, 0, 1]).item() == 50
    assert evaluation.box_accuracy(found[:, None].expand(2, 3, 4), truth, [0, 0, 1]).tolist() == [50] * 3


@pytest.mark.parametrize(
    ("boxes", "truth", "image", "message"),
    [
        (torch.zeros(2, 4), torch.zeros(3, 4), None, "one box for each of 2 pictures, got 3"),
        (torch.zeros(4), torch.zeros(4), None, r"\[N, 4\] or \[N, T, 4\]"),
        (torch.zeros(2, 4), torch.zeros(2, 4), [0, 2], "0 to 1"),
        (torch.zeros(2, 4), torch.zeros(2, 4), [0, 0], "0 to 1"),
        (torch.zeros(2, 4), torch.zeros(2, 4), [0], r"must be \[2\]"),
    ],
)
def test_box_accuracy_rejects(boxes, truth, image, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluation.box_accuracy(boxes, truth, image)


def test_best_center_box() -> None:
    # Three pictures hold a centred box of 40 % x 60 %, one holds a corner.
    truth = [[30, 10, 70, 40], [30, 10, 70, 40], [30, 10, 70, 40], [0, 0, 20, 10]]
    best = evaluation.best_center_box(truth, [100, 50])
    assert best.accuracy == 75
    found = torch.tensor([50 - 50 * best.width, 25 - 25 * best.height, 50 + 50 * best.width, 25 + 25 * best.height])
    assert evaluation.box_iou(found, truth[0]) >= 0.5
    exact = evaluation.best_center_box(truth, torch.tensor([[100, 50]] * 4), iou=0.999)
    assert (exact.width, exact.height) == pytest.approx((0.4, 0.6))
    with pytest.raises(ValueError, match="at least one box"):
        evaluation.best_center_box(torch.zeros(0, 4), [10, 10])
    for sizes in ([100], [[100, 50]] * 3, [100, 0]):
        with pytest.raises(ValueError, match="`sizes` must be positive"):
            evaluation.best_center_box(truth, sizes)
    with pytest.raises(ValueError, match="`step`"):
        evaluation.best_center_box(truth, [100, 50], step=0)


def test_choose_threshold_takes_the_middle_of_the_best() -> None:
    good, bad = [0, 0, 4, 4], [8, 8, 9, 9]
    boxes = torch.tensor([[bad, good, good, good, bad], [bad, bad, good, good, good]])
    truth = [good, good]
    assert evaluation.choose_threshold(boxes, [0.1, 0.2, 0.3, 0.4, 0.5], truth) == (0.4, 100)
    assert evaluation.choose_threshold(boxes[:, :3], [0.1, 0.2, 0.3], truth) == (0.3, 100)
    with pytest.raises(ValueError, match="T = 4"):
        evaluation.choose_threshold(boxes, [0.1, 0.2, 0.3, 0.4], truth)
    with pytest.raises(ValueError, match="N > 0"):
        evaluation.choose_threshold(boxes[:0], [0.1] * 5, torch.zeros(0, 4))


def test_max_box_acc_is_the_standard_evaluators() -> None:
    rng = np.random.default_rng(5)
    maps = np.stack([cv2.resize(rng.random((4, 4)), (30, 24), interpolation=cv2.INTER_CUBIC) for _ in range(12)])
    maps -= maps.min((1, 2), keepdims=True)
    maps /= maps.max((1, 2), keepdims=True)
    maps[3:6] *= 0.7  # maxima below one: several thresholds share a level
    maps[11] = 0
    truth = np.sort(rng.integers(0, 24, (12, 2, 2)), axis=1).reshape(12, 4)
    truth[:, 2:] += 6
    for dtype in (np.float64, np.float32):
        found = evaluation.max_box_acc(torch.from_numpy(maps.astype(dtype)), truth)
        curves = [oracle.iou_curves("standard", one, [box]) for one, box in zip(maps.astype(dtype), truth, strict=True)]
        figures, best = oracle.figures("standard", np.stack(curves), 0.2)
        assert found == (best["MaxBoxAcc"], figures["MaxBoxAcc"])
        assert 0 < found.accuracy < 100


def test_max_box_acc_rejects() -> None:
    good, box = torch.rand(1, 5, 5), [[0, 0, 2, 2]]
    for maps in (good * float("nan"), good + 1, good - 2, good[:0]):
        with pytest.raises(ValueError, match="maps"):
            evaluation.max_box_acc(maps, box)
    with pytest.raises(TypeError, match="maps"):
        evaluation.max_box_acc((255 * good).byte(), box)
    with pytest.raises(ValueError, match="`truth`"):
        evaluation.max_box_acc(good, box * 2)
