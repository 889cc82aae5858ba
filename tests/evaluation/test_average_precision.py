"""Average precision against loops of the definitions, scikit-learn, COCO's evaluator, and a case worked out by hand."""

import warnings
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fastcam.evaluation import average_precision
from fastcam.evaluation.average_precision import RULES


def plain(scores: np.ndarray, truth: np.ndarray, rule: str) -> Fraction | None:
    """One class by the words of the definitions, in whole numbers and fractions."""
    positives = int(truth.sum())
    if not positives:
        return None
    points = []  # recall and precision after each distinct score
    for level in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= level
        hits = int(truth[taken].sum())
        points.append((Fraction(hits, positives), Fraction(hits, int(taken.sum()))))
    if rule == "uninterpolated":
        steps = [(Fraction(0), Fraction(0)), *points]
        return sum((b[0] - a[0]) * b[1] for a, b in pairwise(steps))

    def highest(recall: Fraction) -> Fraction:
        return max((precision for reached, precision in points if reached >= recall), default=Fraction(0))

    if rule == "voc2010":
        recalls = sorted({recall for recall, _ in points} | {Fraction(0)})
        return sum((b - a) * highest(b) for a, b in pairwise(recalls))
    steps = 10 if rule == "voc2007" else 100
    return sum(highest(Fraction(k, steps)) for k in range(steps + 1)) / (steps + 1)


def random_case(seed: int, count: int, classes: int, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.random((count, classes)) < rng.uniform(0.05, 0.6)
    scores = rng.normal(size=(count, classes)) + truth
    return (np.round(scores, 1) if ties else scores), truth


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("ties", [False, True])
def test_it_is_the_definition(rule, ties) -> None:
    for seed, count in enumerate((1, 2, 7, 10, 30, 64)):
        scores, truth = random_case(seed, count, 5, ties)
        found = average_precision(scores, truth, rule)
        assert found.dtype == np.float64
        for index, value in enumerate(found):
            wanted = plain(scores[:, index], truth[:, index], rule)
            assert np.isnan(value) if wanted is None else value == pytest.approx(float(wanted), abs=1e-12)


def test_a_case_by_hand() -> None:
    # In order of scores: right, wrong, right, wrong, wrong, right. Precision 1, 2/3 and 1/2 at recall 1/3, 2/3 and 1.
    scores = np.array([[0.9, 0.8, 0.7, 0.6, 0.5, 0.4]]).T
    truth = np.array([[1, 0, 1, 0, 0, 1]]).T
    wanted = {
        "uninterpolated": (1 + 2 / 3 + 1 / 2) / 3,
        "voc2010": (1 + 2 / 3 + 1 / 2) / 3,
        "voc2007": (4 * 1 + 3 * 2 / 3 + 4 * 1 / 2) / 11,  # recall 0 to 0.3, 0.4 to 0.6, 0.7 to 1
        "coco": (34 * 1 + 33 * 2 / 3 + 34 * 1 / 2) / 101,
    }
    for rule, value in wanted.items():
        assert average_precision(scores, truth, rule) == pytest.approx([value])
    # Wrong, right: making precision monotone changes nothing. Wrong, wrong, right, right: it does.
    scores, truth = np.array([[4, 3, 2, 1.0]]).T, np.array([[0, 0, 1, 1]]).T
    assert average_precision(scores, truth, "uninterpolated") == pytest.approx([(1 / 3 + 1 / 2) / 2])
    assert average_precision(scores, truth) == pytest.approx([1 / 2])


@pytest.mark.parametrize("ties", [False, True])
def test_without_interpolation_it_is_scikit_learns(ties) -> None:
    scores, truth = random_case(3, 500, 20, ties)
    wanted = average_precision_score(truth, scores, average=None)
    np.testing.assert_allclose(average_precision(scores, truth, "uninterpolated"), wanted, rtol=1e-12)


def test_with_cocos_points_it_is_cocos_evaluators() -> None:
    coco, cocoeval = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    # A prime number of positives has no recall at one of the 101 points but the ends, where rounding would decide.
    rng = np.random.default_rng(0)
    truth = np.stack([rng.permutation(np.arange(200) < positives) for positives in (37, 53, 2)], 1)
    scores = rng.random((200, 3)) + 0.4 * truth  # no ties, which that evaluator takes in the order of the pictures
    box, categories = [0, 0, 10, 10], [{"id": index + 1} for index in range(3)]
    objects = [
        {"id": number + 1, "image_id": int(i), "category_id": int(c) + 1, "bbox": box, "area": 100, "iscrowd": 0}
        for number, (i, c) in enumerate(np.argwhere(truth))
    ]
    found = [
        {"image_id": i, "category_id": c + 1, "bbox": box, "score": float(scores[i, c])}
        for i in range(200)
        for c in range(3)
    ]
    data = coco.COCO()
    data.dataset = {"images": [{"id": i} for i in range(200)], "annotations": objects, "categories": categories}
    data.createIndex()
    evaluation = cocoeval.COCOeval(data, data.loadRes(found), "bbox")
    evaluation.params.iouThrs = np.array([0.5])
    evaluation.evaluate()
    evaluation.accumulate()
    wanted = evaluation.eval["precision"][0, :, :, 0, -1].mean(0)  # [101, C], all areas, most detections
    np.testing.assert_allclose(average_precision(scores, truth, "coco"), wanted, rtol=1e-9)


@pytest.mark.parametrize("rule", RULES)
def test_the_order_of_pictures_does_not_matter_where_scores_tie(rule) -> None:
    scores, truth = random_case(5, 60, 4, ties=True)
    scores = np.round(scores)
    found = average_precision(scores, truth, rule)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(60)
        np.testing.assert_array_equal(average_precision(scores[order], truth[order], rule), found)
    same = average_precision(np.zeros((10, 1)), np.arange(10)[:, None] < 3, rule)  # one group: the share of positives
    assert same == pytest.approx([0.3])


def test_classes_without_positives_are_left_out_of_the_mean() -> None:
    truth = np.array([[True, False], [False, False]])
    found = average_precision(np.array([[0.9, 0.1], [0.1, 0.9]]), truth)
    assert found[0] == 1
    assert np.isnan(found[1])
    assert np.nanmean(found) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(average_precision(np.zeros((0, 2)), np.zeros((0, 2), bool))).all()


def test_ignored_pictures_are_as_if_they_were_not_there() -> None:
    scores, truth = random_case(1, 40, 3, ties=False)
    ignored = np.random.default_rng(2).random((40, 3)) < 0.3
    found = average_precision(torch.from_numpy(scores), torch.from_numpy(truth), ignored=torch.from_numpy(ignored))
    for index in range(3):
        kept = ~ignored[:, index]
        assert found[index] == average_precision(scores[kept, index : index + 1], truth[kept, index : index + 1])[0]


@pytest.mark.parametrize(
    ("scores", "truth", "options", "message"),
    [
        (np.zeros((3, 2)), np.zeros((3, 3)), {}, r"\[N, C\] of one shape, got \[3, 2\] and \[3, 3\]"),
        (np.zeros(3), np.zeros(3), {}, r"\[N, C\] of one shape"),
        (np.full((1, 1), np.nan), np.ones((1, 1)), {}, "`scores` must be finite"),
        (np.zeros((1, 1)), np.full((1, 1), 2), {}, "`truth` must be true or false"),
        (np.zeros((2, 1)), np.ones((2, 1)), {"ignored": np.zeros((1, 1))}, "`ignored` must be true or false"),
        (np.zeros((1, 1)), np.ones((1, 1)), {"rule": "voc2011"}, "did you mean voc2010"),
    ],
)
def test_wrong_input_is_refused(scores, truth, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        average_precision(scores, truth, **options)
