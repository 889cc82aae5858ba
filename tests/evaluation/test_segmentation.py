"""Pseudo-labels at all levels at once, against a confusion matrix for each."""

import warnings

import numpy as np
import pytest

from fastcam.evaluation import SegmentationEvaluator
from fastcam.evaluation.protocols import THRESHOLDS
from fastcam.evaluation.segmentation import Part, count
from tests.support import segmentation
from tests.support.segmentation import IGNORED

CLASSES = 7
NAMES = tuple("abcdefg")


def random_picture(rng: np.random.Generator):
    """Maps, their classes and the truth: some without maps, some empty, some with classes that are not there."""
    shape = tuple(rng.integers(1, 20, 2))
    values = rng.choice(CLASSES, rng.integers(0, 4), replace=False) + 1
    maps = rng.random((len(values), *shape), np.float32) ** 2
    exact = rng.random(maps.shape) < 0.3  # just at a threshold, or what float32 makes of it
    maps[exact] = (rng.integers(0, 1001, exact.sum()) / 1000).astype(np.float32)
    maps[rng.random(maps.shape) < 0.1] = 0
    known = [0, IGNORED, *values, *rng.integers(1, CLASSES - 1, 2)]  # the last two classes are never true
    truth = rng.choice(known if rng.random() < 0.8 else [0], shape).astype(np.uint8)
    truth[0, 0] = 0  # something counts
    truth[truth > CLASSES - 2] = np.where(truth[truth > CLASSES - 2] == IGNORED, IGNORED, 0)
    return maps, values.tolist(), truth


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [random_picture(rng) for _ in range(500)]


def evaluated(pictures, **options) -> SegmentationEvaluator:
    evaluator = SegmentationEvaluator(NAMES, **options)
    for number, picture in enumerate(pictures):
        evaluator.add(str(number), *picture)
    return evaluator


def same(result, matrices: np.ndarray, thresholds: np.ndarray) -> None:
    """To the last digit, by class and on the mean, NaN where a class is not there."""
    wanted = segmentation.shares(matrices)
    iou, precision, recall = wanted
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of means of nothing
        means = [np.nanmean(values, 0) for values in (iou, precision[1:], recall[1:])]
    for index, threshold in enumerate(thresholds):
        rows = {row["class"]: row for row in result.classes(threshold)}
        for name, share in zip(("IoU", "precision", "recall"), wanted, strict=True):
            got = [rows.get(value, {}).get(name, np.nan) for value in range(CLASSES + 1)]
            np.testing.assert_array_equal(got, share[:, index])
        figures = result.at(threshold)
        for name, values in zip(("mIoU", "precision", "recall"), means, strict=True):
            np.testing.assert_array_equal(figures.get(name, np.nan), values[index])


def test_random_pictures_have_the_figures_of_confusion_matrices(pictures):
    thresholds = THRESHOLDS[np.random.default_rng(1).choice(1000, 30, replace=False)]
    thresholds[:3] = THRESHOLDS[[0, 200, 999]]
    same(evaluated(pictures).result(), segmentation.confusion(pictures, thresholds, CLASSES), thresholds)


def test_all_levels_of_a_few_pictures_and_the_best(pictures):
    matrices = segmentation.confusion(pictures[:6], THRESHOLDS, CLASSES)
    result = evaluated(pictures[:6], threshold=0.137).result()
    same(result, matrices, THRESHOLDS)
    iou = segmentation.shares(matrices)[0]
    wanted = np.nanmean(iou, 0)
    np.testing.assert_allclose(result.curves["mIoU"], wanted, rtol=1e-14)
    assert result.best_threshold == THRESHOLDS[result.curves["mIoU"].argmax()]
    assert result.figures["max mIoU"] == result.curves["mIoU"].max() == result.best["mIoU"]
    assert result.figures["mIoU"] == result.curves["mIoU"][137]


def test_parts_put_together_and_saved_are_the_whole(pictures, tmp_path):
    whole, parts = evaluated(pictures[:40]), [evaluated(pictures[:15]), evaluated(pictures[15:40])]
    parts[1].save(tmp_path / "sums.safetensors")
    again = SegmentationEvaluator(NAMES)
    again.load(tmp_path / "sums.safetensors")
    again.merge(parts[0])
    assert again.result().to_dict() == whole.result().to_dict()
    with pytest.raises(ValueError, match="class_names"):
        SegmentationEvaluator(NAMES[:3]).load(tmp_path / "sums.safetensors")
    with pytest.raises(ValueError, match=r"protocol threshold 0\.2, this evaluator 0\.3"):
        SegmentationEvaluator(NAMES, threshold=0.3).merge(whole)


def test_a_perfect_map_and_one_that_is_everywhere():
    truth = np.zeros((4, 6), np.uint8)
    truth[1:3, 2:5] = 3
    truth[3] = IGNORED
    evaluator = SegmentationEvaluator(NAMES)
    evaluator.add("perfect", (truth == 3)[None].astype(np.float32), [3], truth)
    assert evaluator.result().figures == {"mIoU": 100, "precision": 100, "recall": 100, "max mIoU": 100}
    evaluator.add("everywhere", np.ones((1, 4, 6), np.float32), [3], truth)
    assert [row["name"] for row in evaluator.result().classes()] == ["background", "c"]
    background, object = evaluator.result().classes(0.5)
    assert (background["pictures"], object["pictures"]) == (2, 2)
    assert background["IoU"] == 50  # 12 of 24 pixels that count
    assert (object["IoU"], object["precision"], object["recall"]) == (pytest.approx(100 * 12 / 24), 50, 100)


def test_a_picture_is_counted_as_it_is_documented():
    maps = np.array([[[0.0, 0.2, 0.5]], [[0.1, 0.1, 1.0]]], np.float32)
    found = count(maps, [2, 5], np.array([[0, 2, 255]], np.uint8))
    assert found.values.tolist() == [0, 2, 5]
    predicted = found.counts[Part.PREDICTED]
    # float32 of 0.1 is above one tenth, that of 0.2 above two tenths
    assert [np.flatnonzero(row).tolist() for row in predicted] == [[101, 201], [201], [101]]
    assert [np.flatnonzero(row).tolist() for row in found.counts[Part.CORRECT]] == [[101], [201], []]
    assert found.counts[Part.TRUE].sum(1).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("maps", "values", "truth", "told"),
    [
        (np.zeros((1, 2, 2)), [1], np.zeros((2, 3)), r"maps are \[2, 2\], its class PNG \[2, 3\]"),
        (np.full((1, 2, 2), 1.5), [1], np.zeros((2, 2)), "reach from 1.5 to 1.5"),
        (np.full((1, 2, 2), np.nan), [1], np.zeros((2, 2)), r"must be in \[0, 1\]"),
        (np.zeros((1, 2, 2)), [1, 2], np.zeros((2, 2)), "as many, up to 254, got 1 and 2"),
        (np.zeros((1, 2, 2)), [1], np.full((2, 2), 255), "all pixels are to be ignored"),
        (np.zeros((1, 2, 2)), [8], np.zeros((2, 2)), "class index 8 is there, expected at most 7"),
        (np.zeros((1, 2, 2)), [1], np.full((2, 2), 9), "class index 9 is there"),
    ],
)
def test_bad_pictures(maps, values, truth, told):
    picture = maps.astype(np.float32), values, truth.astype(np.uint8)
    with pytest.raises(ValueError, match=f"x: .*{told}"):
        SegmentationEvaluator(NAMES).add("x", *picture)
    evaluator = SegmentationEvaluator(NAMES, skip_bad=True)
    assert evaluator.add("x", *picture) is None
    assert [id for id, _ in evaluator.bad] == ["x"]
    with pytest.raises(ValueError, match="nothing was measured"):
        evaluator.result()


def test_options_are_checked():
    for threshold in (0.0001, 1, -0.1):
        with pytest.raises(ValueError, match="`threshold` must be one of"):
            SegmentationEvaluator(threshold=threshold)
    with pytest.raises(ValueError, match="at most 254 classes, got 255"):
        SegmentationEvaluator([str(number) for number in range(255)])
    for truth in (np.zeros((2, 2)), np.zeros(4, np.uint8)):
        with pytest.raises(ValueError, match=r"x: its class PNG must be uint8 \[H, W\]"):
            SegmentationEvaluator(NAMES).add("x", np.zeros((1, 2, 2)), [1], truth)
    evaluator = SegmentationEvaluator()
    evaluator.add("x", np.ones((1, 1, 1), np.float32), [254], np.array([[254]], np.uint8))
    assert evaluator.result().classes()[1]["name"] == "254"
