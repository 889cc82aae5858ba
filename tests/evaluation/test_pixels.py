"""Precision and recall by pixels, against numpy.histogram picture by picture, and cases done by hand."""

import numpy as np
import pytest
import torch

from fastcam.evaluation import pixels
from tests.support import oracle


def scenes(count: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Maps float64 [N, 40, 50] and masks with object, background and ignored pixels."""
    rng = np.random.default_rng(0)
    maps = rng.random((count, 40, 50))
    masks = np.zeros(maps.shape, np.uint8)
    masks[:, 10:30, 5:40] = 1
    masks[:, :8] = 255
    masks[0, 12:20] = rng.choice([0, 1, 255], size=(8, 50))
    if kind == "good":
        maps = np.where(masks == 1, 0.3 + 0.7 * maps, 0.8 * maps)
    if kind == "coarse":  # many ties, and all on edges
        maps = np.floor(maps * 11) / 10
    if kind == "dark":
        maps *= 0.01
    return np.clip(maps, 0, 1), masks


@pytest.mark.parametrize("kind", ["noise", "good", "coarse", "dark"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_average_precision_is_the_evaluators_to_the_last_bit(kind, dtype):
    maps, masks = scenes(6, kind)
    maps = maps.astype(dtype)
    histograms = pixels.count(torch.from_numpy(maps), masks)
    assert histograms.shape == (6, 2, 1002)
    expected = oracle.pixel_precision(maps, masks)
    assert 0 < expected < 100
    assert pixels.curve(histograms.sum(0)).average_precision == expected
    halves = (
        pixels.count(torch.from_numpy(maps[3:]), list(masks[3:])),
        pixels.count(torch.from_numpy(maps[:3]), torch.from_numpy(masks[:3])),
    )
    assert pixels.curve(sum(half.sum(0) for half in halves)).average_precision == expected
    each = pixels.average_precision(np.stack([histograms[:2], histograms[2:4]]))
    assert each.tolist() == [
        [oracle.pixel_precision(maps[i : i + 1], masks[i : i + 1]) for i in pair] for pair in ((0, 1), (2, 3))
    ]


def test_a_perfect_map_has_100_and_a_constant_one_the_share_of_the_object():
    _, masks = scenes(3, "noise")
    perfect = torch.from_numpy((masks == 1).astype(np.float32))
    result = pixels.curve(pixels.count(perfect, masks).sum(0))
    assert result.average_precision == 100
    assert result.thresholds.tolist()[0] == 1
    assert result.precision[0] == result.recall[0] == 1
    positives, negatives = (masks == 1).sum(), (masks == 0).sum()
    for value in (0.0, 0.5, 1.0):
        constant = pixels.curve(pixels.count(torch.full(masks.shape, value), masks).sum(0))
        assert constant.average_precision == pytest.approx(100 * positives / (positives + negatives), rel=1e-15)
        assert constant.recall.tolist() == [1] * len(constant.recall)
        assert constant.thresholds[0] == value


def test_a_curve_by_hand():
    maps = torch.tensor([[[0.9, 0.9, 0.5, 0.2, 0.9]]])
    masks = np.array([[[1, 0, 1, 0, 255]]], np.uint8)
    found = pixels.curve(pixels.count(maps, masks)[0])
    at = [found.thresholds.tolist().index(t) for t in (0.899, 0.5, 0.2)]  # 0.9 in float32 is less than 0.9
    assert found.precision[at].tolist() == [1 / 2, 2 / 3, 2 / 4]
    assert found.recall[at].tolist() == [1 / 2, 1, 1]
    assert found.average_precision == 100 * (1 / 2 * 1 / 2 + 2 / 3 * 1 / 2)
    assert found.thresholds[0] == 0.899
    assert np.all(np.diff(found.thresholds) < 0)
    assert np.all(np.diff(found.recall) >= 0)


def test_no_pixel_of_an_object_has_no_precision():
    maps = torch.rand(2, 5, 6)
    histograms = pixels.count(maps, torch.stack([torch.zeros(5, 6), torch.eye(5, 6)]) > 0)
    with pytest.raises(ValueError, match="at least one pixel of an object"):
        pixels.curve(histograms[0])
    found = pixels.average_precision(histograms)
    assert np.isnan(found).tolist() == [True, False]
    assert np.isnan(pixels.average_precision(histograms[0]))
    assert pixels.average_precision(histograms.sum(0)) == pixels.curve(histograms.sum(0)).average_precision
    assert pixels.average_precision(histograms[:0]).shape == (0,)


@pytest.mark.parametrize("shape", [(2, 1000), (1002,), (3, 1002)])
def test_histograms_of_another_shape_are_refused(shape):
    for function in (pixels.curve, pixels.average_precision):
        with pytest.raises(ValueError, match="`histograms` must be"):
            function(np.ones(shape, np.int64))


@pytest.mark.parametrize("kind", ["noise", "good", "coarse", "dark"])
def test_dice_and_mean_iou_are_those_of_masks_at_each_threshold(kind):
    maps, masks = scenes(4, kind)
    histograms = pixels.count(torch.from_numpy(maps), masks)
    found = pixels.overlap(histograms.sum(0))
    for got, wanted in zip(found, oracle.pixel_overlap(maps, masks), strict=True):
        np.testing.assert_array_equal(100 * got[:1000], wanted)
    several = pixels.overlap(histograms.reshape(2, 2, 2, 1002))
    np.testing.assert_array_equal(several[0][1, 0], pixels.overlap(histograms[2])[0])
    curve = pixels.curve(histograms.sum(0))
    assert curve.dice.max() == found[0].max()
    assert len(curve.mean_iou) == len(curve.thresholds)


def test_dice_and_mean_iou_at_their_ends():
    _, masks = scenes(2, "noise")
    perfect = pixels.overlap(pixels.count(torch.from_numpy((masks == 1).astype(np.float32)), masks).sum(0))
    assert perfect[0].max() == perfect[1].max() == 1
    whole = np.ones((1, 4, 4), np.uint8)  # no background: the object is all that counts
    dice, mean = pixels.overlap(pixels.count(torch.full((1, 4, 4), 0.5), whole).sum(0))
    assert (dice[500], mean[500], dice[501], mean[501]) == (1, 1, 0, 0)
    nothing = pixels.overlap(np.zeros((3, 2, 1002), np.int64))
    assert np.isnan(nothing).all()
    with pytest.raises(ValueError, match=r"must be \[\.\.\., 2, 1002\]"):
        pixels.overlap(np.zeros((2, 1001)))
