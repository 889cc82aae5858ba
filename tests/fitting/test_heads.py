"""Heads on features: scikit-learn's own decisions, folded into one layer; accuracies by hand; what is refused."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from fastcam import fitting, models
from fastcam.fitting import Accuracy, Fitted, cross_validate, fit_head, heads, with_head


def clouds(classes: int, count: int = 30, channels: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Features of classes that overlap; channels of very different means and deviations, one constant."""
    random = np.random.default_rng(classes)
    labels = np.repeat(np.arange(classes), count)
    values = random.normal(size=(classes, channels))[labels] + random.normal(size=(classes * count, channels))
    values = values * np.geomspace(0.01, 100, channels) + np.linspace(-5, 50, channels)
    values[:, 3] = 0.25
    return values.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("head", ["svm", "logistic"])
def test_scores_are_those_of_scikit_learn_on_standardised_features(head, classes):
    values, labels = clouds(classes)
    fitted = fit_head(values, labels, head, strength=0.1, seed=3)
    solver = LinearSVC(C=0.1, max_iter=10_000, random_state=3) if head == "svm" else LogisticRegression(C=0.1)
    oracle = make_pipeline(StandardScaler(), solver).fit(values.astype(np.float64), labels)
    expected = oracle.decision_function(values.astype(np.float64))
    scores = fitted.scores(values)
    assert scores.shape == (len(values), classes)
    assert fitted.weight.dtype == fitted.bias.dtype == scores.dtype == np.float32
    if classes > 2:
        np.testing.assert_allclose(scores, expected, atol=2e-3)  # solvers stop at tolerances of 1e-4
    elif head == "svm":
        np.testing.assert_allclose(scores, np.stack([-expected, expected], 1), atol=2e-3)
    if head == "logistic":
        probabilities = torch.from_numpy(scores).softmax(1).numpy()
        np.testing.assert_allclose(probabilities, oracle.predict_proba(values.astype(np.float64)), atol=2e-3)


@pytest.mark.parametrize("balanced", [False, True])
def test_strength_is_that_of_a_search_by_hand(balanced):
    values, labels = clouds(3)
    keep = np.r_[0:30, 30:42, 60:90]
    values, labels = values[keep], labels[keep]
    fitted = fit_head(values, labels, balanced=balanced, seed=1)
    kind = "balanced" if balanced else None
    model = make_pipeline(StandardScaler(), LinearSVC(max_iter=100_000, class_weight=kind, random_state=1))
    grid = {"linearsvc__C": [1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1, 10]}
    scoring = "balanced_accuracy" if balanced else "accuracy"
    parts = StratifiedKFold(5, shuffle=True, random_state=1)
    search = GridSearchCV(model, grid, cv=parts, scoring=scoring).fit(values.astype(np.float64), labels)
    assert fitted.strength == search.best_params_["linearsvc__C"]
    np.testing.assert_array_equal(fitted.scores(values).argmax(1), search.predict(values.astype(np.float64)))


def test_accuracy_and_its_interval():
    scores = np.eye(3)[[0, 1, 1, 2, 2, 0, 0, 0, 0, 0]]
    labels = [0, 1, 2, 2, 2, 0, 0, 0, 0, 1]
    found = Accuracy.of(labels, scores)
    assert found.value == 0.8
    assert found.pictures == 10
    assert found.class_mean == pytest.approx((1 + 1 / 2 + 2 / 3) / 3)
    expected = binomtest(8, 10).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    for right in (0, 10):
        found = Accuracy.of([int(right == 0)] * 10, [[1, 0]] * 10)
        expected = binomtest(right, 10).proportion_ci(method="wilson")
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert str(Accuracy.of([0, 0], [[1, 0], [0, 1]])) == "50.0% (95 %: 9.5% to 90.5%) of 2 pictures"


def test_folds_test_each_picture_once_by_a_head_that_has_not_seen_it():
    values, labels = clouds(3)
    seen: list[np.ndarray] = []

    def fit(places: np.ndarray) -> Fitted:
        seen.append(places)
        return fit_head(values[places], labels[places], strength=0.01)

    scores = cross_validate(values, labels, 5, fit, seed=2)
    assert len(seen) == 5
    assert np.bincount(np.concatenate(seen)).tolist() == [4] * 90
    for places in tuple(seen):
        assert np.bincount(labels[places]).tolist() == [24] * 3
        tested = np.setdiff1d(np.arange(90), places)
        np.testing.assert_array_equal(scores[tested], fit(places).scores(values[tested]))


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v2", "densenet121", "resnet18-gmp", "vgg11-tap"])
def test_a_network_with_the_head_gives_its_scores(arch):
    torch.manual_seed(0)
    model = models.build(arch, 7).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trunk = fitting.trunk.Trunk(model, 64)
    images = torch.randn(4, 3, 64, 64)
    features = trunk(images)
    assert trunk.pool == {"gmp": "gmp", "tap": "tap"}.get(arch[-3:], "gap")
    random = np.random.default_rng(0)
    weight, bias = random.normal(size=(3, trunk.channels)), random.normal(size=3)
    head = Fitted(weight.astype(np.float32), bias.astype(np.float32), ("a", "b", "c"), "svm", 1.0)
    state = torch.get_rng_state()
    new = with_head(nn.DataParallel(model) if arch == "resnet18" else model, trunk.linear, head)
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        np.testing.assert_allclose(new(images).numpy(), head.scores(features.numpy()), rtol=1e-4, atol=1e-4)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    models.build(arch, 3).load_state_dict(new.state_dict())
    with pytest.raises(ValueError, match=f"must be linear and take the head's {trunk.channels + 1} channels"):
        with_head(model, trunk.linear, head._replace(weight=np.zeros((3, trunk.channels + 1), np.float32)))


def test_bad_input_is_named():
    values, labels = clouds(3)
    names = ("ant", "bee", "cat")
    with pytest.raises(ValueError, match="1 class has no picture to fit on: cat"):
        fit_head(values[:60], labels[:60], classes=names)
    with pytest.raises(ValueError, match="1 class has no picture to fit on: 1"):
        fit_head(values[labels != 1], labels[labels != 1])
    with pytest.raises(ValueError, match="all pictures to fit on are of one class, 'bee'; ant, cat have none"):
        fit_head(values[30:60], labels[30:60], classes=names)
    with pytest.raises(ValueError, match="at least two classes to tell apart, got ant"):
        fit_head(values[:30], labels[:30], classes=names[:1])
    with pytest.raises(ValueError, match="label 2 is none of the 2 classes"):
        fit_head(values, labels, classes=names[:2])
    with pytest.raises(ValueError, match="label -1 is none of the 3 classes"):
        fit_head(values, np.where(labels == 1, -1, labels))
    broken = values.copy()
    broken[17, 5] = np.nan
    with pytest.raises(ValueError, match="row 17 has NaN or inf"):
        fit_head(broken, labels)
    with pytest.raises(ValueError, match="class 'cat' has a single picture"):
        fit_head(values[:61], labels[:61], classes=names)
    assert fit_head(values[:61], labels[:61], classes=names, strength=0.1).classes == names
    with pytest.raises(ValueError, match="class 0 has 30 pictures, too few for 31 folds"):
        cross_validate(values, labels, 31, lambda places: None)
    for wrong in (labels[:5], labels.astype(float)):
        with pytest.raises(ValueError, match="`labels` must be 90 whole numbers"):
            fit_head(values, wrong)
    with pytest.raises(ValueError, match=r"`features` must be \[N, K\] of at least one picture, got \[0, 12\]"):
        fit_head(values[:0], labels[:0])
    with pytest.raises(ValueError, match="`head` must be one of svm, logistic, got 'forest'"):
        fit_head(values, labels, "forest")
    for strength in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`strength` must be a positive number"):
            fit_head(values, labels, strength=strength)
    with pytest.raises(ValueError, match=r"`features` must be \[N, 12\], got \[90, 11\]"):
        fit_head(values, labels, strength=0.1).scores(values[:, 1:])


@pytest.mark.parametrize("head", ["svm", "logistic"])
def test_what_does_not_converge_is_told(monkeypatch, head):
    values, labels = clouds(2, count=6, channels=40)
    fit_head(values, labels, head, strength=10)
    monkeypatch.setattr(heads, "_MOST_STEPS", 1)
    with pytest.warns(UserWarning, match=f"the {head} fit with C = 10 did not converge in 1 steps"):
        fit_head(values, labels, head, strength=10)


def test_without_scikit_learn_an_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pip install 'fastcam\[fit\]'"):
        fit_head(*clouds(2))
