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
