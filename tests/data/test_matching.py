"""Labels and a network's classes of the same names in another order: localizing and evaluating go by the names."""

import copy

import numpy as np
import pyarrow.parquet as pq
import pytest

import fastcam
from fastcam import data as datasets
from fastcam.data import Pictures, Sample
from fastcam.data.matching import by_name, in_classes, warning
from fastcam.models import ModelConfig
from tests.support.evaluations import CLASSES, CONFIG, PROTOCOL, network, write_wsol

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox")[:CLASSES]


@pytest.mark.parametrize(
    ("names", "classes", "expected"),
    [
        (("a", "b"), ("a", "b", "c"), [0, 1]),
        (("a", "b"), ("b", "a"), [1, 0]),
        (("a", "b"), ("c", "b", "a"), [2, 1]),
        (("a", "b"), ("c", "d"), None),
        (("a", "b"), ("a", "d"), None),
        (("a", "b"), (), None),
        ((), ("a", "b"), None),
        (("a", "a"), ("a", "a", "b"), [0, 1]),  # ImageNet, too, has two classes of one name
        (("b",), ("a", "a", "b"), [2]),
    ],
)
def test_by_name(names, classes, expected):
    assert by_name(names, classes) == expected


@pytest.mark.parametrize(
    ("names", "classes", "why"),
    [
        (
            ("b", "x"),
            ("a", "b"),
            "label 0 .* is 'b', which is class 1 of the network, but 'x' is none of the",
        ),
        (("b", "a", "a"), ("a", "a", "b"), "but 'a' comes twice"),
    ],
)
def test_names_that_tell_against_the_numbers_but_do_not_do(names, classes, why):
    for check in (by_name, lambda names, classes: warning(names, classes, len(classes))):
        with pytest.raises(ValueError, match=why):
            check(names, classes)


def test_warning():
    assert warning(("b", "a"), ("a", "b"), 2) is None
    assert warning(("0", "1"), ("a", "b", "c"), 3) is None
    assert warning(("x", "y"), (), 2) is None
    assert warning(("x", "y"), (), 3).endswith("label 0, 'x', is taken for the network's class 0")
    assert warning(("x", "y"), ("a", "b"), 2).endswith("label 0, 'x', is taken for the network's class 0, 'a'")


class Samples:
    """A data set that is no files."""

    class_names = ("a", "b")
    labels = (0, 1, 0)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((9, 9, 3), np.uint8), None if index == 2 else index)

    def truth(self, index: int) -> Sample:
        return self[index]._replace(image=None)


def test_data_sets_of_any_kind(tmp_path):
    classes = ("c", "b", "a")
    for data in (Samples(), Pictures(tmp_path, ["x.png", "y.png"], labels=[0, None], class_names=("a", "b"))):
        assert in_classes(data, ("a", "b", "c")) is data
        assert in_classes(data, ()) is data
        before = list(data.labels)
        found = in_classes(data, classes)
        assert (found.class_names, len(found)) == (classes, len(data))
        assert list(found.labels) == [None if label is None else (2, 1)[label] for label in before]
        assert list(data.labels) == before
    found = in_classes(Samples(), classes)
    assert [found[i].label for i in range(3)] == [found.truth(i).label for i in range(3)] == [2, 1, None]


def test_localizing_and_evaluating_by_name(tmp_path):
    data = datasets.load(write_wsol(tmp_path / "wsol", 9))
    assert data.class_names == NAMES
    model, order = network(), [*range(1, CLASSES), 0]
    turned = copy.deepcopy(model)
    for parameter in turned.classifier.parameters():
        parameter.data = parameter.data[order]
    models = {
        "same": (model, ModelConfig(**{**vars(CONFIG), "class_names": NAMES})),
        "turned": (turned, ModelConfig(**{**vars(CONFIG), "class_names": tuple(NAMES[i] for i in order)})),
    }
    figures, rows = {}, {}
    for name, (network_, config) in models.items():
        options = {"protocol": PROTOCOL, "bootstrap": 0, "cases": 0, "progress": False}
        told = fastcam.evaluate(data, out=tmp_path / "e" / name, model=network_, config=config, **options)
        run = {"out": tmp_path / "l" / name, "config": config, "targets": "label", "progress": False}
        table = fastcam.localize(network_, data, **run).path
        boxes = fastcam.evaluate(data, out=tmp_path / "b" / name, boxes=table, **options)
        figures[name] = told.metrics["figures"], boxes.metrics["figures"]
        rows[name] = pq.read_table(table).to_pylist()
    assert figures["same"] == figures["turned"]
    assert "GT-known Loc" in figures["same"][1]
    for ours, theirs in zip(rows["turned"], rows["same"], strict=True):
        assert ours == theirs | {"class_id": order.index(theirs["class_id"]), "score": ours["score"]} | {
            "box_score": ours["box_score"]
        }
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6)


def test_samples_are_localized_by_name(tmp_path):
    config = ModelConfig(**{**vars(CONFIG), "class_names": ("c", "b", "a", *NAMES[3:])})
    table = fastcam.localize(network(), Samples(), out=tmp_path / "o", config=config, targets="label", progress=False)
    assert [row["class_name"] for row in pq.read_table(table.path).to_pylist()] == ["a", "b", None]
