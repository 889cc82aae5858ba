"""Labels and true boxes of the pictures of a run, and under which numbers classes meet."""

from pathlib import Path

import numpy as np
import pytest

from fastcam.data import Pictures
from fastcam.data.places import listed_places
from fastcam.data.shapes import Shapes
from fastcam.report import write_report
from fastcam.report.truth import Classes, Truth
from fastcam.runs.table import RunTable
from tests.support.reports import Page, listed, photos, row, write_run


def test_labels_come_from_folders_only_where_these_are_called_like_classes(run, tmp_path):
    assert write_report(run).labelled == 4
    assert write_report(run, folder_labels=False).labelled == 0
    other = write_run(tmp_path / "other", [row(f"{i}/{j}.png", "cat", 0.5) for i in range(2) for j in range(2)])
    assert write_report(other).labelled == 0
    assert "Confusion" not in Page(other / "report.html").text
    assert write_report(other, folder_labels=True).labelled == 4
    assert "class right, of 4 0.0 %" in Page(other / "report.html").text


def test_labels_and_boxes_of_a_data_set(tmp_path):
    # Labels of the data set are numbered otherwise and meet by name; its boxes are in a frame of twice the size.
    rows = [
        row("a.png", "cat", 0.9, (0, 0, 50, 50)),
        row("b.png", "cat", 0.8, (50, 0, 100, 50)),
        row("c.png", "dog", 0.7, (0, 0, 10, 10)),
        row("new.png", "dog", 0.7),
    ]
    boxes = [[[0, 0, 100, 100]], [[0, 0, 50, 50], [100, 0, 200, 50]], [[100, 0, 200, 100]]]
    data = Pictures(
        tmp_path,
        ["val/a.png", "val/b.png", "val/c.png"],
        labels=[2, 1, 1],
        boxes=[np.array(b, np.float32) for b in boxes],
        sizes=[(200, 100)] * 3,
        class_names=("ant", "dog", "cat"),
    )
    summary = write_report(write_run(tmp_path / "run", rows), data=data)
    assert summary.labelled == 3
    page = Page(summary.path)
    assert [page.cards[f"{name}.png"]["iou"] for name in ("a", "b", "c", "new")] == [1, 0.5, 0, None]
    assert [page.cards[f"{name}.png"]["quality"] for name in ("a", "b", "c", "new")] == [1, 0.5, 0, None]
    assert page.cards["b.png"]["truth"] == [[0, 0, 25, 25], [50, 0, 100, 25]]
    assert "class right, of 3 66.7 %" in page.text
    assert "box right (IoU ≥ 0.5), of 3 66.7 %" in page.text
    assert "best" not in page.cards["new.png"]["kinds"]


def test_pictures_of_several_classes(tmp_path):
    """Each of them is right; what is not in the picture is wrong for its label."""
    rows = [row(f"{name}.png", kind, 0.9) for name, kind in zip("abcd", ("cat", "dog", "dog", "cat"), strict=True)]
    ids, labels, classes = [f"val/{name}.png" for name in "abcd"], [1, 1, 0, None], [(0, 1), (1,), (0, 2), (0, 1)]
    data = Pictures(tmp_path, ids, labels=labels, classes=classes, class_names=("cat", "dog", "eel"))
    summary = write_report(write_run(tmp_path / "run", rows), data=data)
    page = Page(summary.path)
    assert {id: page.data["names"][card["label"]] for id, card in page.cards.items()} == {
        "a.png": "cat", "b.png": "dog", "c.png": "cat", "d.png": "cat",
    }  # fmt: skip
    assert summary.labelled == 4
    assert "class right, of 4 75.0 %" in page.text


def test_labels_of_a_data_set_without_files(tmp_path):
    data = Shapes("val", 4, seed=0)
    rows = [row(id, name, 0.5, classes=data.class_names) for id, name in zip(data.ids, data.class_names, strict=False)]
    summary = write_report(write_run(tmp_path, rows), data=data)
    assert summary.labelled == len(rows)
    truth = {data[i].id: data[i] for i in range(4)}
    for id, card in Page(summary.path).cards.items():
        assert card["label"] == truth[id].label
        assert np.allclose(card["truth"], truth[id].boxes / data.size * (100, 50, 100, 50), atol=0.1)


@pytest.mark.parametrize(
    ("found", "names", "labels", "expected"),
    [
        ({0: "cat", 1: "dog"}, ("cat", "dog", "eel"), [1, 2], {1: 1, 2: 2}),  # the same numbers
        ({0: "cat", 1: "dog"}, ("dog", "cat"), [0, 1], {0: 1, 1: 0}),  # other numbers
        ({0: "cat", 1: "dog"}, ("ant", "dog", "cat"), [1, 2], {1: 1, 2: 0}),  # one of them the same by chance
        ({0: "cat", 1: "dog", 2: "bird"}, ("cat", "dog", "fowl"), [0, 2], {0: 0, 2: 2}),  # names differ a little
        ({5: None, 7: None}, (), [5, 6], {5: 0, 6: 2}),  # no names
        ({0: "crane", 1: "crane"}, ("crane", "crane"), [1, 0], {0: 0, 1: 1}),  # two of one name
        ({0: "n01", 1: "n02"}, ("cat", "dog"), [0, 1], {0: 0, 1: 1}),  # names in two languages
    ],
)
def test_classes_and_labels_meet(found, names, labels, expected):
    truth = Truth("here", names)
    truth.labels = {str(i): label for i, label in enumerate(labels)}
    classes = Classes(found, truth)
    assert classes.of_label == expected
    assert len(set(classes.names)) == len(classes.names)


def test_a_data_set_of_other_pictures_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"no picture of the run .* 'cat/a.png', for example, the data set 'x.png'"):
        write_report(run, data=Pictures(tmp_path, ["x.png"], labels=[0]))


def test_pictures_of_one_name_in_several_folders(tmp_path):
    """The place of each tells; without it a folder is chosen only where all pictures are in that one alone."""
    names = [f"{i}.png" for i in range(3)]
    photos(tmp_path, *(f"{folder}/{name}" for folder in "ab" for name in names))
    run = write_run(tmp_path / "run", [row(name, "cat", 0.5) for name in names])
    listed(run, {name: tmp_path / "b" / name for name in names})
    ids = [f"{folder}/{name}" for folder in "ab" for name in names]

    def labels(ids: list[str], places: dict | None = None) -> dict[str, int]:
        data = Pictures(tmp_path, ids, labels=["ab".index(id[0]) for id in ids])
        return Truth.of_data(data, names, places).labels

    table = RunTable(run)
    assert labels(ids, listed_places(table)) == dict.fromkeys(names, 1)
    assert labels(ids[:3], listed_places(table)) == dict.fromkeys(names, 0)  # as if moved: its names alone tell
    for places in (None, {name: Path("/moved") / name for name in names}):
        with pytest.raises(
            ValueError, match=r"are those of the run: '0\.png' may be 'a/0\.png', '0\.png' may be 'b/0\.png'"
        ):
            labels(ids, places)
        assert labels(ids[1:], places) == dict.fromkeys(names, 1)  # a has no 0.png
        with pytest.raises(ValueError, match="nothing tells which"):
            labels([ids[0], ids[4]], places)
