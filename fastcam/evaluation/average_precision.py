"""Average precision of classification, in the definitions of the field."""

from typing import Any, Literal, get_args

import numpy as np

from fastcam._check import suggest

Rule = Literal["voc2010", "voc2007", "coco", "uninterpolated"]
RULES: tuple[Rule, ...] = get_args(Rule)
_POINTS = {"voc2007": 10, "coco": 100}  # steps between the levels of recall at which precision is read


def average_precision(scores: Any, truth: Any, rule: Rule = "voc2010", *, ignored: Any = None) -> np.ndarray:
    """Measure for each class how well its scores put the pictures that have it before those that do not.

    Pictures are taken from the highest score down. After each distinct score, with t of P positives among the n
    pictures taken, recall is t/P and precision t/n. Pictures whose scores tie are taken together, so that the order in
    which pictures come never matters. Precision is made monotone, p(r) = max of the precision at any recall ≥ r, and:

    - "voc2010": the exact area under p, Σ (rᵢ − rᵢ₋₁)·p(rᵢ): Pascal VOC from 2010 on (Everingham and Winn, VOC2010
      Development Kit, section 3.4.1). It is the default, as it has no grid: it tells apart what those below may not.
    - "voc2007": the mean of p at recall 0, 0.1, …, 1: Pascal VOC up to 2009 (Everingham et al., The PASCAL Visual
      Object Classes Challenge, IJCV 2010, section 4.2).
    - "coco": the mean of p at recall 0, 0.01, …, 1: COCO's evaluator (pycocotools, `recThrs`), applied to classes of
      pictures as it is to detections.
    - "uninterpolated": Σ (rᵢ − rᵢ₋₁)·precision(rᵢ), without making it monotone: scikit-learn's
      `average_precision_score`, and what papers on multi-label classification of COCO call mAP (ML-GCN, CVPR 2019).

    The levels of recall are compared as whole numbers, 10·t ≥ k·P, where the evaluators' own floating-point levels can
    miss a recall that is exactly 0.3. mAP is the mean over the classes that have positives, `np.nanmean` of the result.

    Args:
        scores: [N, C], finite: probabilities, or what grows with them. A row is a picture.
        truth: [N, C], bool or 0 and 1: whether the picture has the class.
        rule: one of "voc2010", "voc2007", "coco" and "uninterpolated".
        ignored: [N, C], bool: pictures that count neither as positive nor as negative for a class, such as those in
            which Pascal VOC has but objects of it that are marked difficult. None for none.

    Returns:
        float64 [C] in [0, 1], NaN for classes without positives, whose average precision is not defined.

    Raises:
        ValueError: an unknown rule, other shapes, or values that are not finite or not true or false.
    """
    if rule not in RULES:
        raise ValueError(f"`rule` must be one of {', '.join(RULES)}, got {rule!r}{suggest(str(rule), RULES)}")
    scores, truth = np.asarray(scores), np.asarray(truth)
    if scores.ndim != 2 or truth.shape != scores.shape:
        raise ValueError(
            f"`scores` and `truth` must be [N, C] of one shape, got {list(scores.shape)} and {list(truth.shape)}"
        )
    if not np.isfinite(scores).all():
        raise ValueError("`scores` must be finite, got NaN or infinite values")
    positive = _flags("truth", truth, truth.shape)
    counted = np.ones_like(positive) if ignored is None else ~_flags("ignored", np.asarray(ignored), truth.shape)
    columns = zip(scores.T, positive.T, counted.T, strict=True)
    return np.array([_of_class(score[kept], true[kept], rule) for score, true, kept in columns], np.float64)


def _flags(name: str, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.shape != shape or not ((values == 0) | (values == 1)).all():
        raise ValueError(f"`{name}` must be true or false, {list(shape)}, got {values.dtype} {list(values.shape)}")
    return values.astype(bool)


def _of_class(scores: np.ndarray, truth: np.ndarray, rule: Rule) -> float:
    """Of one class: its scores and truth [N]."""
    order = np.argsort(scores)[::-1]
    scores, hits = scores[order], truth[order].cumsum()
    if not len(hits) or not (positives := int(hits[-1])):
        return np.nan
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # of each group of equal scores
    hits = hits[last]
    precision = hits / (last + 1)
    if rule != "uninterpolated":
        precision = np.maximum.accumulate(precision[::-1])[::-1]
    if rule in _POINTS:
        levels = np.arange(_POINTS[rule] + 1) * positives
        return float(precision[np.searchsorted(hits * _POINTS[rule], levels)].mean())
    return float((np.diff(hits, prepend=0) * precision).sum() / positives)
