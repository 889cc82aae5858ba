"""What classes of pictures are to the loss: targets, weights of classes, and what is refused."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_class_weight

from fastcam import training
from fastcam.data import Pictures, Sample
from fastcam.training import Settings
from fastcam.training.labels import has_none, several, target_of, weights_of
from tests.support.colours import TINY, Colours
from tests.support.several import Several

NAMES = ("ant", "bee", "cat, or feline")


class Told(Colours):
    """A data set that knows the classes of its pictures."""

    class_names = NAMES

    def __init__(self, *classes: tuple[int, ...] | None) -> None:
        super().__init__(len(classes))
        self.classes = list(classes)
        self.labels = [found[-1] if found else None for found in classes]

    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index)._replace(label=self.labels[index], classes=self.classes[index])


def weights(data, loss: str = "bce", given="balanced") -> tuple[float, ...] | None:
    return weights_of(Settings(loss=loss, class_weights=given), data)


def test_targets_are_all_classes_of_a_picture() -> None:
    def rows(sample: Sample) -> list[float]:
        row = target_of(sample, 0, 4, True)
        assert row.dtype == np.float32
        return row.tolist()

    assert rows(Sample(None, 2, classes=(1, 2))) == [0, 1, 1, 0]
    assert rows(Sample(None, 3)) == [0, 0, 0, 1]
    assert rows(Sample(None, classes=())) == [0, 0, 0, 0]
    assert target_of(Sample(None, 2, classes=(1, 2)), 0, 4, False) == 2


@pytest.mark.parametrize(
    ("sample", "multi_label", "message"),
    [
        (Sample(None, id="a.jpg"), True, r"sample 7 has no label \(picture 'a\.jpg'\): .* by classes \(\)"),
        (Sample(None, classes=(1, 4)), True, r"sample 7 has classes \(1, 4\), not all of them of 4 classes"),
        (Sample(None, classes=(-1,)), True, r"sample 7 has classes \(-1,\)"),
        (Sample(None, classes=(), id="a.jpg"), False, r"none of the classes \(picture 'a\.jpg'\): .* `loss=\"bce\"`"),
        (Sample(None, classes=(1, 2)), False, r"several classes, of which none is the strongest"),
        (Sample(None, 4), False, r"sample 7 has label 4, none of 4 classes"),
        (Sample(None), False, r"sample 7 has label None, none of 4 classes"),
    ],
)
def test_pictures_without_a_target_are_named(sample, multi_label, message) -> None:
    with pytest.raises(ValueError, match=message):
        target_of(sample, 7, 4, multi_label)


def test_balanced_weights_for_bce_are_negatives_by_positives() -> None:
    # Of 5 pictures 2 have class 0, 4 class 1, none class 2.
    data = Told((0, 1), (1,), (), (0, 1), (1,))
    assert weights(data) == pytest.approx((3 / 2, 1 / 4, 1.0))


def test_balanced_weights_of_single_labels_are_scikit_learns() -> None:
    labels = np.random.default_rng(0).choice(3, 50, p=(0.6, 0.3, 0.1))
    data = Pictures(Path("none"), [f"{i}.jpg" for i in range(50)], labels=labels.tolist(), class_names=NAMES)
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    for loss in ("cross-entropy", "multilabel-soft-margin"):
        assert weights(data, loss) == pytest.approx(wanted.tolist())
    count = Counter(labels.tolist())
    assert weights(data) == pytest.approx([(50 - count[c]) / count[c] for c in range(3)])


def test_balanced_weights_of_several_classes_have_mean_one_over_labels() -> None:
    data = Several(60)
    found, counts = weights(data, "multilabel-soft-margin"), data.truth_table.sum(0)
    assert np.average(found, weights=counts) == pytest.approx(1)
    np.testing.assert_allclose(np.array(found) * counts, counts.mean())
    # Cross-entropy sees the strongest classes alone.
    strongest = Told((0, 1), (1,), (0, 2), (2,))
    assert weights(strongest, "cross-entropy") == pytest.approx((1.0, 2 / 3, 2 / 3))


def test_weights_are_read_from_files(tmp_path) -> None:
    file = tmp_path / "weights.csv"
    file.write_text("Bee,2\n\nant, 0.5\ncat, or feline,1e1\n")
    assert weights(Told((0,), (1,)), given=str(file)) == (0.5, 2.0, 10.0)
    assert weights(Told((0,), (1,)), given="0.5,2,10") == (0.5, 2.0, 10.0)
    assert weights(Told((0,), (1,)), given=(1, 2, 3)) == (1, 2, 3)
    assert weights(Told((0,), (1,)), given="none") is None
    for text, message in (
        ("ant,1\nbee,2\n", r"lacks a weight for class 'cat, or feline'"),
        ("ant,1\nbee,two\n", r"weights\.csv:2: expected a class's name, a comma and a positive number, got 'bee,two'"),
        ("ant,0\n", r":1: expected .* a positive number"),
        ("ant,nan\n", r":1: expected .* a positive number"),
        ("1\n2\n3\n", r":1: expected a class's name"),
        ("ant,1\nwasp,2\n", r":2: class 'wasp' is not one of the data set's"),
        ("ant,1\nAnt,2\n", r":2: class 'Ant' comes twice"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            weights(Told((0,), (1,)), given=str(file))


@pytest.mark.parametrize(
    ("data", "given", "error", "message"),
    [
        (Told((0, 1), (0,)), "balanced", ValueError, r"all pictures to train on have class 'ant', whose balanced"),
        (Told((0, 1), None), "balanced", ValueError, "needs the classes of all pictures"),
        (Colours(4), "balanced", ValueError, "needs the classes of all pictures"),
        (Told((5,), (0,)), "balanced", ValueError, "has class 5, none of 3 classes"),
        (Told((0,), (1,)), (1.0, 2.0), ValueError, "a number for each of 3 classes, got 2"),
        (Told((0,), (1,)), "balance", FileNotFoundError, "balanced, a number for each class, or a file; .* balance"),
    ],
)
def test_weights_that_cannot_be_are_refused(data, given, error, message) -> None:
    with pytest.raises(error, match=message):
        weights(data, given=given)


def test_cross_entropy_tells_of_pictures_with_several_classes(tmp_path) -> None:
    data = Told((0, 1), (1,), (0, 2), (2,))
    assert several(data) == 2
    assert several(Colours(4)) == 0
    assert [has_none(found) for found in (data, Colours(4), Told((), None), Told((), ()))] == [
        False,
        False,
        False,
        True,
    ]
    with pytest.warns(UserWarning, match="2 of 4 pictures to train on have several classes") as caught:
        training.train((data, data), out=tmp_path, epochs=1, **TINY)
    assert caught[0].filename == __file__
