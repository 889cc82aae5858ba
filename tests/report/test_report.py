"""The report of a run: its figures, tables that are odd, unfinished or of an earlier run, and the command."""

import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from fastcam import cli
from fastcam.report import write_report
from tests.support.reports import Page, failed, listed, photos, row, table_of, write_run


def test_figures_on_the_page(run):
    summary = write_report(run)
    assert summary[1:] == (7, 3, 4, 7, 0, True, False)
    page = Page(summary.path)
    for words in ("pictures 7 errors 3 rows 11 classes found 2 rows without a box 1 class right, of 4 75.0 %",):
        assert words in page.text
    assert "damaged 2 cat/broken.png cut off dog/odd.png a: b unreadable 1" in page.text
    assert "threshold 0.2" in page.text
    assert "names of folders" in page.text
    titles = [words for words in page.words if re.match(r"0\.\d\d–", words)]
    scores = ["0.60–0.65: 1 right", "0.70–0.75: 1 wrong", "0.80–0.85: 1 right", "0.90–0.95: 1 right"]
    assert titles == [*scores, "0.00–0.05: 3", "0.10–0.15: 1", "0.50–0.55: 1", "0.95–1.00: 2"]
    cells = [(a["data-label"], a["data-found"]) for tag, a in page.tags if tag == "button" and "data-label" in a]
    assert cells == [("0", "0"), ("1", "0"), ("1", "1")]


def test_what_a_run_of_samples_leaves_when_it_breaks_off(tmp_path):
    write_run(tmp_path, [row("a.png", "cat", 0.5)])
    (tmp_path / "boxes.parquet").rename(tmp_path / "boxes.partial.parquet")
    assert "not finished" in Page(write_report(tmp_path).path).text
    assert invoke(tmp_path).stdout.startswith("1 pictures, 0 errors until now: the run is not finished\n")


def test_the_table_of_an_earlier_run(tmp_path):
    """While a run that overwrites it is not finished, the list of inputs is that run's."""
    photos(tmp_path, "old/a.png", "new/a.png")
    run = write_run(tmp_path / "run", [row("a.png", "cat", 0.5)], plan="01")
    listed(run, {"a.png": tmp_path / "new" / "a.png"})
    for plan in ('{"digest": "01"}', "{", "[]"):
        (run / "plan.json").write_text(plan)
        summary = write_report(run)
        assert (summary.thumbnails, summary.earlier) == (1, False)
        assert "earlier" not in Page(summary.path).text
    (run / "plan.json").write_text('{"digest": "02"}')
    summary = write_report(run)
    assert (summary.thumbnails, summary.complete, summary.earlier) == (0, True, True)
    assert "This is the table of an earlier run." in Page(summary.path).text
    assert "1 pictures, 0 errors; of an earlier run: the one begun since" in invoke(run).stdout
    assert write_report(run, images=tmp_path / "old").thumbnails == 1


@pytest.mark.parametrize("note", [b"no JSON \xff", b"[1]", b"null"])
def test_odd_metadata_are_left_out(tmp_path, note):
    table = table_of([row("a.png", "cat", 0.5)]).replace_schema_metadata({"fastcam": note})
    pq.write_table(table, tmp_path / "boxes.parquet")
    assert write_report(tmp_path).pictures == 1


def test_an_empty_table_is_a_page(tmp_path):
    page = Page(write_report(write_run(tmp_path, [])).path)
    assert "pictures 0" in page.text
    assert page.data == {"names": [], "cards": []}


def test_only_errors(tmp_path):
    page = Page(write_report(write_run(tmp_path, [failed("a.png", "damaged: x"), failed("b.png", None)])).path)
    assert "damaged 1 a.png x no code 1 b.png" in page.text


def test_numbers_that_are_none_do_not_break_the_page(tmp_path):
    nan = float("nan")
    rows = [row("a.png", "cat", nan, (nan, 0, 1, 1)), row("b.png", "cat", 0.5, (0, 0, float("inf"), 1), size=(0, 0))]
    page = Page(write_report(write_run(tmp_path, rows)).path)
    assert "NaN" not in page.scripts["data"]
    assert "Infinity" not in page.scripts["data"]
    assert page.cards["b.png"]["rows"] == [[0, 0.5, 1, None]]
    assert page.cards["b.png"]["size"] is None


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)])


def test_the_command(run, tmp_path):
    images = photos(tmp_path / "images", "cat/a.png")
    result = invoke(run, "--images", images, "--out", tmp_path / "x.html", "--per-class", 1, "--pictures", 5)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "7 pictures, 3 errors, 4 with a label\n" + f"6 cards, 1 with a picture, in {tmp_path / 'x.html'}\n"
    )
    assert not result.stderr
    result = invoke(run, "--no-folder-labels")
    assert "with a label" not in result.stdout
    assert "--images tells the folder" in result.stderr
    assert (run / "report.html").is_file()

    only = write_run(tmp_path / "only", [failed("a.png", "damaged: x")])
    assert invoke(only).stderr == ""  # no folder would help


def test_the_command_with_a_data_set(tmp_path):
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "image_ids.txt").write_text("val/a.png\nval/b.png\n")
    (meta / "class_labels.txt").write_text("val/a.png,1\nval/b.png,0\n")
    (meta / "image_sizes.txt").write_text("val/a.png,100,50\nval/b.png,100,50\n")
    (meta / "localization.txt").write_text("val/a.png,0,0,50,50\nval/b.png,0,0,5,5\n")
    run = write_run(tmp_path / "run", [row("a.png", "dog", 0.5, (0, 0, 50, 50)), row("b.png", "dog", 0.5)])
    result = invoke(run, "--data", meta)
    assert result.exit_code == 0, result.output
    assert "2 with a label" in result.stdout
    assert "class right, of 2 50.0 % box right (IoU ≥ 0.5), of 2 50.0 %" in Page(run / "report.html").text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no run at nowhere"),
        (["."], "neither boxes.parquet nor finished shards"),
        (["text.parquet"], "text.parquet is no Parquet file"),
        (
            ["other.parquet"],
            "other.parquet is no table of boxes, as `fastcam localize` writes: expected column image_id, string",
        ),
        (["run", "--images", "nowhere"], "no folder of pictures at nowhere"),
        (["run", "--data", "nowhere"], "no data set at nowhere"),
        (["run", "--out", "run/boxes.parquet"], "`out` must be an .html file"),
    ],
)
def test_wrong_input_is_told_in_one_line(arguments, words, run, monkeypatch):
    monkeypatch.chdir(run.parent)
    Path("text.parquet").write_text("text")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_wrong_numbers_are_refused(run):
    with pytest.raises(ValueError, match="`per_class` must be a whole number of at least 1, got 0"):
        write_report(run, per_class=0)
    with pytest.raises(ValueError, match=r"`pictures` must be a whole number of at least 0, got 1\.5"):
        write_report(run, pictures=1.5)
