"""Counts of a run, against those made by hand."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.data import Pictures
from fastcam.report import write_report
from fastcam.report.cards import Choice
from fastcam.report.statistics import Statistics
from fastcam.report.truth import Classes, Truth
from fastcam.runs.table import RunTable
from tests.support.reports import Page, failed, row, table_of, write_run


def counted(run, truth=None, number=10) -> tuple[Statistics, Choice]:
    table, chosen = RunTable(run), Choice(number)
    return Statistics(table, Classes(dict(table.classes()), truth), truth, chosen), chosen


def test_counts_are_those_of_the_table(run):
    truth = Truth.of_folders(RunTable(run).ids(), ["cat", "dog"])
    found, _ = counted(run, truth)
    assert (found.pictures, found.rows, found.empty) == (7, 11, 1)
    assert found.errors == {"damaged": 2, "unreadable": 1}
    assert found.examples == {
        "damaged": [("cat/broken.png", "cut off"), ("dog/odd.png", "a: b")],
        "unreadable": [("dog/gone.png", "No such file")],
    }
    assert found.found == {0: 3, 1: 1}
    assert found.confusion == {(0, 0): 2, (1, 0): 1, (1, 1): 1}
    wrong, right, unknown = found.scores
    assert np.flatnonzero(wrong).tolist() == [14]
    assert np.flatnonzero(right).tolist() == [12, 16, 18]
    assert not unknown.any()
    # Shares of the area: 0.5, 1, 0.1, 0.02, 1, 0.02 and 0.0002; the empty box is counted apart.
    assert dict(enumerate(found.areas.tolist()), **{}) == dict.fromkeys(range(20), 0) | {0: 3, 2: 1, 10: 1, 19: 2}
    assert found.second
    assert found.ranked == "label"


def test_boxes_of_given_classes(tmp_path):
    # `targets` of the localization: rank 3 means that another class was the network's first.
    rows = [row("a.png", "cat", 0.9), row("b.png", "dog", 0.1, rank=3)]
    data = Pictures(tmp_path, ["a.png", "b.png"], labels=[0, 1], class_names=("cat", "dog"))
    page = Page(write_report(write_run(tmp_path / "run", rows), data=data).path)
    assert "class right, of 2 50.0 %" in page.text
    assert "label / found cat dog another" in page.text


def test_a_class_that_was_never_found_counts_as_wrong(tmp_path):
    rows = [row("cat/a.png", "cat", 0.5), row("cat/b.png", "cat", 0.5), row("yak/c.png", "cat", 0.5)]
    page = Page(write_report(write_run(tmp_path, rows)).path)
    assert "class right, of 3 66.7 %" in page.text
    assert page.data["names"] == ["cat", "yak"]


def test_orientation_and_decoder_where_the_table_tells(tmp_path):
    table = table_of([row("a.png", "cat", 0.5), row("b.png", "cat", 0.5), failed("c.png", "damaged: x")])
    table = table.append_column("decoder", pa.array(["pillow", "opencv", None]))
    table = table.append_column("orientation", pa.array([1, 6, None], pa.int8()))
    pq.write_table(table, tmp_path / "t.parquet")
    summary = write_report(tmp_path / "t.parquet")
    assert summary.path == tmp_path / "report.html"
    page = Page(summary.path)
    assert "decoded by pillow: 1, opencv: 1 turned upright 1 pictures" in page.text
