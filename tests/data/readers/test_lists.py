"""Lists as CSV and Parquet, good and malformed."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastcam import data
from tests.support.datasets import ROWS, listed
from tests.support.files import write


def test_lists(tmp_path) -> None:
    path = listed(tmp_path)
    found = data.load(path)
    assert found.ids == ["b.jpg", "a.jpg", "c, d.jpg"]
    assert found.labels == [1, 0, 1]
    assert found.class_names == ("auk", "owl")
    assert found[0].boxes.tolist() == [[1, 2, 3.5, 4], [5, 6, 40, 30]]
    assert found[1].boxes.shape == (0, 4)
    assert found.truth(2).size == (40, 30)
    assert data.load(path, "test").ids == ["a.jpg", "c, d.jpg"]
    # The same as Parquet, with numbers, and empty cells as nulls.
    columns = {
        "image_id": ["b.jpg", "a.jpg", "b.jpg", "c, d.jpg"],
        "class_id": pa.array([1, 0, 1, 1], pa.int32()),
        **{
            edge: pa.array(values, pa.float32())
            for edge, values in zip(
                ("x0", "y0", "x1", "y1"),
                ([1, None, 5, 0], [2, None, 6, 0], [3.5, None, 40, 1], [4, None, 30, 1]),
                strict=True,
            )
        },
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    write(tmp_path / "classes.txt", "auk\nowl\n")
    again = data.load(tmp_path / "list.parquet")
    assert again.class_names == found.class_names
    for i in range(3):
        assert again.truth(i)._replace(boxes=None) == found.truth(i)._replace(boxes=None)
        np.testing.assert_array_equal(again[i].boxes, found[i].boxes)
    write(tmp_path / "list.txt", "c, d.jpg\na.jpg\n")
    plain = data.load(tmp_path / "list.txt")
    assert plain.ids == ["c, d.jpg", "a.jpg"]
    assert plain[0].label is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,", "file,", "list.csv:1: expected columns path"),
        ("x0,", "x9,", "list.csv:1: expected all of x0, y0, x1, y1 or none"),
        ("note", "path", "list.csv:1: expected columns path, .* each once"),
        ("a.jpg,auk", "a.jpg", "list.csv:3: expected 10 columns, got 9"),
        ("a.jpg,auk", "a.jpg,", "list.csv:3: expected a label, got none"),
        ("a.jpg,auk", "/a.jpg,auk", "list.csv:3: an id must be a relative path"),
        ("a.jpg,auk", "x/../a.jpg,auk", "list.csv:3: an id must be a relative path"),
        ("a.jpg,auk", ",auk", "list.csv:3: an id must be a relative path"),
        ("a.jpg,auk", "z.jpg,auk", "no picture .*z.jpg"),
        ("a.jpg,auk", "a\udcff.jpg,auk", "list.csv:3: expected UTF-8"),
        ("a.jpg,auk", 'a".jpg",auk', "no picture"),
        ("a.jpg,auk", '"a.jpg,auk', "list.csv:3: expected a row of CSV"),
        ("a.jpg,auk", "b.jpg,owl", "list.csv:3: b.jpg comes twice"),
        ("a.jpg,auk", "a.jpg,auk,,,,,40,30,val,\na.jpg,auk", "list.csv:4: a.jpg comes twice"),
        ("5,6,40,30,40,30", "5,6,40,30,41,30", "list.csv:4: another size of b.jpg than in .*list.csv:2"),
        ("5,6,40", "5,6,x", "list.csv:4: expected x0, y0, x1, y1, four numbers"),
        ("5,6,40", "5,6,nan", "list.csv:4: expected x0, y0, x1, y1, four numbers"),
        ("5,6,40", "5,6,", "list.csv:4: expected x0, y0, x1, y1, four numbers"),
        ("5,6,40", "5,6,4", "list.csv:2: box 5, 6, 4, 30 ends before it begins"),
        ("5,6,40", "5,6,42", "list.csv:2: box 5, 6, 42, 30 lies outside the picture of 40x30"),
        ("40,30,val", "40,x,val", "list.csv:3: expected width and height"),
        (ROWS, "path\n", "has no pictures"),
        (ROWS, "\n", "has no pictures"),
    ],
)
def test_malformed_lists(tmp_path, old: str, new: str, message: str) -> None:
    path = listed(tmp_path)
    path.write_bytes(ROWS.replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(path)


def test_malformed_parquet(tmp_path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"list\.parquet: "):
        data.load(path)
    for column, message in (([1, 2], "row 0: expected path to be a text, got 1"), ([None, "a"], "got None")):
        pq.write_table(pa.table({"path": column}), path)
        with pytest.raises(ValueError, match=message):
            data.load(path)


SEVERAL = {
    "lists of names": "path,label\na.jpg,cat;dog\nb.jpg,owl\n'c, d.jpg',[]\n",
    "JSON": 'path,labels\na.jpg,\'[""dog"", ""cat""]\'\nb.jpg,\'[""owl""]\'\n\'c, d.jpg\',[]\n',
    "rows": "path,label\na.jpg,cat\nb.jpg,owl\n'c, d.jpg',[]\na.jpg,dog\n",
    "numbers": "image_id,class_ids\na.jpg,0 1\nb.jpg,2\n'c, d.jpg',[]\n",
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_lists_of_several_classes(tmp_path, kind) -> None:
    path = listed(tmp_path, SEVERAL[kind].replace("'", '"'))
    write(tmp_path / "classes.txt", "cat\ndog\nowl\n")
    found = data.load(path)
    assert found.ids == ["a.jpg", "b.jpg", "c, d.jpg"]
    assert found.class_names == ("cat", "dog", "owl")
    assert found.classes == [(0, 1), (2,), ()]
    assert found.labels == [None, 2, None]  # nothing tells if cat or dog is the stronger


def test_tables_of_several_classes(tmp_path) -> None:
    listed(tmp_path)
    columns = {"path": ["a.jpg", "b.jpg", "c, d.jpg"], "labels": [["cat", "dog"], ["owl"], []]}
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    found = data.load(tmp_path / "list.parquet")
    assert (found.class_names, found.classes) == (("cat", "dog", "owl"), [(0, 1), (2,), ()])


def test_boxes_of_several_classes(tmp_path) -> None:
    """The label has the largest total area, and its boxes count, as in VOC and COCO."""
    rows = "path,label,x0,y0,x1,y1\na.jpg,dog,0,0,10,10\na.jpg,cat,0,0,8,8\na.jpg,cat,1,1,9,9\nb.jpg,owl,,,,\n"
    found = data.load(listed(tmp_path, rows))
    assert found.classes == [(0, 1), (2,)]
    assert found.labels == [0, 2]
    assert found[0].boxes.tolist() == [[0, 0, 8, 8], [1, 1, 9, 9]]
    assert found[1].boxes.shape == (0, 4)
    # A class that is but named has no boxes; boxes of a list are of any of its classes.
    found = data.load(listed(tmp_path, f"{rows}a.jpg,fox,,,,\n"))
    assert (found.classes[0], found.labels) == ((0, 1, 2), [0, 3])
    found = data.load(listed(tmp_path, rows.replace("dog", "cat;dog").replace("jpg,cat,", "jpg,dog;cat,")))
    assert (found.classes, found.labels) == ([(0, 1), (2,)], [None, 2])
    assert len(found[0].boxes) == 3
    # Boxes of the weaker class are looked at, too.
    with pytest.raises(ValueError, match=r"list\.csv:2: box 0, 0, -1, 10 ends before it begins"):
        data.load(listed(tmp_path, rows.replace("0,0,10,10", "0,0,-1,10")))


def test_one_class_a_picture_need_not_be_all(tmp_path) -> None:
    found = data.load(listed(tmp_path))
    assert found.classes is None
    assert found[0].classes is None
    assert data.classes_of(found) == [(1,), (0,), (1,)]
    write(tmp_path / "list.txt", "a.jpg\n")
    assert data.classes_of(data.load(tmp_path / "list.txt")) is None


def test_classes_are_numbered_over_all_splits(tmp_path) -> None:
    rows = "path,label,split\na.jpg,dog;owl,train\nb.jpg,cat,val\na.jpg,cat;dog,val\n"
    train, val = (data.load(listed(tmp_path, rows), split) for split in ("train", "val"))
    assert train.class_names == val.class_names == ("cat", "dog", "owl")
    assert (train.classes, val.classes) == ([(1, 2)], [(0,), (0, 1)])
    with pytest.raises(ValueError, match=r"a\.jpg has the list 'cat', 'dog' here"):
        data.load(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,cat\na.jpg,cat\n", r"list\.csv:3: a\.jpg comes twice"),
        ("a.jpg,cat;dog\na.jpg,dog;cat\n", r"list\.csv:3: a\.jpg comes twice"),
        (
            "a.jpg,cat;dog\na.jpg,owl\n",
            r"list\.csv:3: a\.jpg has 'owl' here, but the list 'cat', 'dog' in .*list\.csv:2",
        ),
        ("a.jpg,cat;cat\n", r"list\.csv:2: expected each class once, got 'cat' 2 times"),
        ("a.jpg,cat;dog\nb.jpg,Cat\n", r"list\.csv:3: class 'Cat' looks like 'cat' in .*list\.csv:2: write them alike"),
        ("a.jpg,cat;dog\nb.jpg,3\n", r"list\.csv:3: expected names or numbers of classes, not both: 3 here"),
        ("a.jpg,0 1\nb.jpg,1.5\n", r"list\.csv:3: expected a whole number as label, or names only, got 1\.5"),
        ("a.jpg,0 9\nb.jpg,1\n", r"list\.csv:2: .*classes\.txt names 3 classes, but there is class 9"),
        ("a.jpg,0 1\nb.jpg,\n", r"list\.csv:3: expected a label, got none; \[\] is a picture with none of the classes"),
        ("a.jpg,0 2000000\n", r"list\.csv:2: there is a class 2000000: expected at most"),
    ],
)
def test_malformed_lists_of_several_classes(tmp_path, rows, message) -> None:
    path = listed(tmp_path, f"path,label\n{rows}")
    write(tmp_path / "classes.txt", "cat\ndog\nowl\n")
    with pytest.raises(ValueError, match=message):
        data.load(path)


@pytest.mark.parametrize("faults", [list, data.Faults])
def test_rows_that_contradict_each_other_lose_their_picture_alone(tmp_path, faults) -> None:
    rows = "path,label,x0,y0,x1,y1\na.jpg,cat;dog,0,0,9,9\na.jpg,owl,0,0,8,8\nb.jpg,cat,1,1,9,9\nb.jpg,dog,0,0,2,2\n"
    bad = faults()
    found = data.load(listed(tmp_path, rows), bad=bad)
    assert [id for id, _ in bad] == ["a.jpg"]
    known = {id: classes for id, classes in zip(found.ids, found.classes, strict=True) if classes is not None}
    assert known == {"b.jpg": (0, 1)}
    assert list(found.ids) == (["b.jpg"] if faults is list else ["a.jpg", "b.jpg"])
    assert found.labels[-1] == 0
