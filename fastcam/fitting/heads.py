"""Features and labels to a linear layer, how accurate it is, and the network that ends in it."""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Self, get_args

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn

from fastcam._check import listed, one_of, whole
from fastcam.models import unwrap

Kind = Literal["svm", "logistic"]

_STRENGTHS = tuple(10.0**power for power in range(-5, 2))  # of which cross-validation takes C
_PARTS = 5  # of that cross-validation, where each class has so many pictures
_MOST_STEPS = 10_000
_Z = 1.959963984540054  # the normal distribution has 95 % within so many standard deviations


class Fitted(NamedTuple):
    """A linear layer: scores = features · weightᵀ + bias.

    Attributes:
        weight: float32 [C, K].
        bias: float32 [C].
        classes: C names.
        head: "svm" or "logistic".
        strength: C of scikit-learn, the inverse of the regularisation's strength.
    """

    weight: np.ndarray
    bias: np.ndarray
    classes: tuple[str, ...]
    head: Kind
    strength: float

    def scores(self, features: ArrayLike) -> np.ndarray:
        """Score pictures.

        Args:
            features: [N, K].

        Returns:
            float32 [N, C], the logits that a network with this layer gives: distances to the SVM's planes in its own
            units, or what the softmax makes probabilities of.

        Raises:
            ValueError: features of another shape.
        """
        values = np.asarray(features)
        if values.ndim != 2 or values.shape[1] != self.weight.shape[1]:
            raise ValueError(f"`features` must be [N, {self.weight.shape[1]}], got {list(values.shape)}")
        return (values.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias).astype(np.float32)


def fit_head(
    features: ArrayLike,
    labels: ArrayLike,
    head: Kind = "svm",
    *,
    classes: Sequence[str] | None = None,
    strength: float | None = None,
    balanced: bool = False,
    seed: int = 0,
) -> Fitted:
    """Fit a linear layer on features, with scikit-learn.

    Features are standardised, each channel to mean 0 and deviation 1 over the N pictures, and this is folded into
    weight and bias, w/σ and b - Σ w·μ/σ, so that the layer takes the features as the network gives them. "svm" is
    LinearSVC, one class against the rest; "logistic" is LogisticRegression, whose scores are logits of the softmax. Of
    two classes the fit is one plane: that of the first is that of the second turned around (with "logistic" half of
    each, so that the softmax has its probabilities).

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 4.1: a linear SVM
    on the pooled features.

    Args:
        features: [N, K], floating.
        labels: [N], whole numbers in [0, C).
        head: "svm" or "logistic".
        classes: C names, at least two; by default the numbers from 0 to the highest label.
        strength: C of scikit-learn, positive, the inverse of the regularisation's strength; by default that of 1e-5,
            1e-4, …, 10 with the highest accuracy in cross-validation over 5 parts (fewer where a class has fewer
            pictures), the smallest of equals.
        balanced: pictures weigh as their class is rarer; the accuracy of cross-validation is the mean over classes.
        seed: of the cross-validation's parts, and of the SVM's solver.

    Returns:
        The layer.

    Warns:
        UserWarning: the solver did not converge.

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: shapes do not fit, features are not finite (the first row is named), a label is none of the classes,
            there is one class only, a class has no picture, or a single one where C is to be found; or an option is out
            of range.
    """
    one_of("head", head, get_args(Kind))
    if strength is not None and not (strength > 0 and math.isfinite(strength)):
        raise ValueError(f"`strength` must be a positive number, got {strength!r}")
    values, targets = _checked(features, labels)
    names = tuple(map(str, range(int(targets.max()) + 1))) if classes is None else tuple(classes)
    counts = check_classes(targets, names)
    _sklearn()
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedKFold
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    weights = "balanced" if balanced else None
    if head == "svm":
        solver = LinearSVC(max_iter=_MOST_STEPS, class_weight=weights, random_state=seed)
    else:
        solver = LogisticRegression(max_iter=_MOST_STEPS, class_weight=weights)
    model = Pipeline([("scale", StandardScaler()), ("solve", solver)])
    if strength is None:
        if min(counts) < 2:
            name = names[int(np.argmin(counts))]
            raise ValueError(
                f"class {name!r} has a single picture, and C is found by cross-validation: add pictures, or give C as "
                "`strength` (--strength)"
            )
        parts = StratifiedKFold(min(_PARTS, min(counts)), shuffle=True, random_state=seed)
        scoring = "balanced_accuracy" if balanced else "accuracy"
        search = GridSearchCV(model, {"solve__C": _STRENGTHS}, cv=parts, scoring=scoring, refit=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of strengths that are hardly the best
            search.fit(values, targets)
        strength = float(search.best_params_["solve__C"])
    model.set_params(solve__C=strength)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        model.fit(values, targets)
    if any(issubclass(warning.category, ConvergenceWarning) for warning in caught):
        warnings.warn(f"the {head} fit with C = {strength:g} did not converge in {_MOST_STEPS} steps", stacklevel=2)
    weight, bias = _folded(model["scale"], solver)
    if len(names) == 2:
        half = 0.5 if head == "logistic" else 1.0
        weight, bias = half * np.concatenate([-weight, weight]), half * np.concatenate([-bias, bias])
    return Fitted(weight.astype(np.float32), bias.astype(np.float32), names, head, strength)


def _folded(scale: Any, solver: Any) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias for features as they are: w·(x - μ)/σ + b = (w/σ)·x + (b - Σ w·μ/σ)."""
    weight = solver.coef_ / scale.scale_
    return weight, solver.intercept_ - weight @ scale.mean_


def _sklearn() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise ImportError(
            "a head is fitted by scikit-learn, which is not installed: pip install 'fastcam[fit]'"
        ) from None


def _checked(features: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    values, targets = np.asarray(features, np.float64), np.asarray(labels)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"`features` must be [N, K] of at least one picture, got {list(values.shape)}")
    if targets.shape != values.shape[:1] or not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(
            f"`labels` must be {len(values)} whole numbers, one for each picture, got {list(targets.shape)} of "
            f"{targets.dtype}"
        )
    if not (finite := np.isfinite(values).all(1)).all():
        raise ValueError(f"`features` must be finite, but row {int(np.argmin(finite))} has NaN or inf")
    return values, targets


def check_classes(targets: np.ndarray, names: Sequence[str]) -> list[int]:
    """How many pictures each class has; ValueError unless there are two classes, and each has one."""
    if targets.min() < 0 or targets.max() >= len(names):
        wrong = int(targets.min() if targets.min() < 0 else targets.max())
        raise ValueError(f"label {wrong} is none of the {len(names)} classes, 0 to {len(names) - 1}")
    counts = np.bincount(targets, minlength=len(names)).tolist()
    if len(names) < 2:
        raise ValueError(f"there must be at least two classes to tell apart, got {listed(list(names)) or 'none'}")
    if empty := [name for name, count in zip(names, counts, strict=True) if not count]:
        if len(empty) == len(names) - 1:
            only = names[int(np.argmax(counts))]
            raise ValueError(f"all pictures to fit on are of one class, {only!r}; {listed(empty)} have none")
        what = "class has" if len(empty) == 1 else "classes have"
        raise ValueError(f"{len(empty)} {what} no picture to fit on: {listed(empty)}")
    return counts


class Accuracy(NamedTuple):
    """How often the class with the highest score is the true one.

    Attributes:
        value: fraction of the pictures, in [0, 1].
        low: lower end of its 95 % confidence interval.
        high: upper end.
        pictures: how many were tested.
        class_mean: mean over classes of the fraction within each; classes that were not tested do not count.
    """

    value: float
    low: float
    high: float
    pictures: int
    class_mean: float

    @classmethod
    def of(cls, labels: ArrayLike, scores: ArrayLike) -> Self:
        """Count.

        The interval is Wilson's, which is sound also near 0 and 1 and for few pictures.

        Source: Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 1927.

        Args:
            labels: [N], at least one.
            scores: [N, C].

        Returns:
            The accuracy.

        Raises:
            ValueError: there is no picture.
        """
        truth = np.asarray(labels)
        right = np.asarray(scores).argmax(1) == truth
        if not (count := len(truth)):
            raise ValueError("there are no pictures to test on")
        share = float(right.mean())
        centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
        reach = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
        mean = float(np.mean([right[truth == label].mean() for label in np.unique(truth)]))
        low, high = (centre - reach if share > 0 else 0.0), (centre + reach if share < 1 else 1.0)
        return cls(share, low, high, count, mean)

    def __str__(self) -> str:
        return f"{self.value:.1%} (95 %: {self.low:.1%} to {self.high:.1%}) of {self.pictures} pictures"


def cross_validate(
    features: ArrayLike, labels: ArrayLike, folds: int, fit: Callable[[np.ndarray], Fitted], *, seed: int = 0
) -> np.ndarray:
    """Score each picture by a head that was fitted without it: K folds, each with the share of every class.

    Args:
        features: [N, K].
        labels: [N], class indices.
        folds: K, at least 2.
        fit: from places of pictures, int64 [n], to the head fitted on these.
        seed: of the division.

    Returns:
        float32 [N, C].

    Raises:
        ImportError: scikit-learn is not installed.
        ValueError: fewer than two folds, or more than a class has pictures; or what `fit` raises.
    """
    whole("folds", folds, 2)
    values, targets = _checked(features, labels)
    _sklearn()
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(targets)
    if (short := np.flatnonzero((counts > 0) & (counts < folds))).size:
        raise ValueError(f"class {short[0]} has {counts[short[0]]} pictures, too few for {folds} folds")
    parts = StratifiedKFold(folds, shuffle=True, random_state=seed).split(values, targets)
    scored = [(tested, fit(places).scores(values[tested])) for places, tested in parts]
    scores = np.empty((len(values), scored[0][1].shape[1]), np.float32)
    for tested, part in scored:
        scores[tested] = part
    return scores


def with_head(model: nn.Module, linear: str, head: Fitted) -> nn.Module:
    """Copy a network, with a fitted layer in the place of its last one.

    Args:
        model: the network, bare or wrapped; it stays as it is.
        linear: dotted name of its linear layer.
        head: the fitted layer, of as many channels.

    Returns:
        The bare network in evaluation mode, in the dtype and on the device of the given one.

    Raises:
        AttributeError: there is no such layer.
        ValueError: it is no linear layer of as many channels.
    """
    new = copy.deepcopy(unwrap(model)).eval()
    old = new.get_submodule(linear)
    classes, channels = head.weight.shape
    if not isinstance(old, nn.Linear) or old.in_features != channels:
        raise ValueError(f"the layer {linear!r} must be linear and take the head's {channels} channels, got {old}")
    # Without random weights first, which would take from the caller's generator.
    layer = nn.utils.skip_init(nn.Linear, channels, classes, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.weight))
        layer.bias.copy_(torch.from_numpy(head.bias))
    parent, _, name = linear.rpartition(".")
    setattr(new.get_submodule(parent), name, layer)
    return new
