"""Tables of boxes read back: rows, pictures and columns are what was written, whatever the batches."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastcam.report import write_report
from fastcam.runs.schema import COLUMNS, Row, merge, schema, write_rows
from fastcam.runs.table import RunTable, audit
from tests.support import reports, tables


@pytest.fixture
def rows() -> list[Row]:
    """Pictures of one to four rows, each fifth an error."""
    counts = np.random.default_rng(0).integers(1, 5, 40)
    return [
        Row(f"{i}.png", status="error", error="damaged: cut off")
        if i % 5 == 4
        else Row(f"{i}.png", 20, 10, 1 + j, 7 * j, f"class {7 * j}", 0.5, 1, 2, 3 + j, 4, box=1, orientation=1)
        for i, count in enumerate(counts)
        for j in range(1 if i % 5 == 4 else count)
    ]


def test_rows_come_back_as_they_were_written(rows, tmp_path):
    write_rows(rows, tmp_path / "boxes.parquet", schema(maps=False))
    table = RunTable(tmp_path)
    assert table.path == tmp_path / "boxes.parquet"
    assert list(table.rows(Row._fields)) == rows
    assert not table.has_maps
    assert table.columns == Row._fields[:-3]
    few = list(table.rows(["image_id", "rank", "cam"]))
    assert few == [Row(row.image_id, rank=row.rank) for row in rows]
    assert list(table.ids()) == list(dict.fromkeys(row.image_id for row in rows))
    assert table.classes() == [(7 * j, f"class {7 * j}") for j in range(4)]


def test_parts_are_one_table(rows, tmp_path):
    """Merged, and while the run is not finished."""
    for shard, part in enumerate((rows[:30], rows[30:31], rows[31:])):
        path = tmp_path / "shards" / f"{shard:06d}.parquet"
        path.parent.mkdir(exist_ok=True)
        write_rows(part, path, schema(maps=False, info={"shard": shard}))
        path.with_suffix(".json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=f"no table of boxes at {tmp_path}/boxes"):
        RunTable(tmp_path)
    parts = RunTable(tmp_path, unfinished=True)
    assert not parts.complete
    assert list(parts.rows(Row._fields)) == rows
    merge(parts.files, tmp_path / "boxes.parquet", schema(maps=False, info={"x": 1}))
    whole = RunTable(tmp_path, unfinished=True)
    assert whole.complete
    assert whole.info == {"x": 1}
    assert list(whole.pictures()) == list(parts.pictures())
    assert audit(whole.path, whole.ids()) == (40, len(rows), {"damaged": 8})
    assert audit(whole.path, None) == (None, len(rows), {"damaged": 8})


def test_pictures_have_all_their_rows(rows, tmp_path, monkeypatch):
    monkeypatch.setattr("fastcam.runs.table._ROWS", 3)
    write_rows(rows, tmp_path / "boxes.parquet", schema(maps=False))
    pictures = list(RunTable(tmp_path).pictures())
    assert len(pictures) == 40
    for picture in pictures:
        wanted = [row for row in rows if row.image_id == picture.id]
        if picture.error is None:
            assert [(box.rank, box.class_name, box.score) for box in picture.boxes] == [
                (row.rank, row.class_name, row.score) for row in wanted
            ]
            assert [box.corners for box in picture.boxes] == [(1, 2, 3 + j, 4) for j in range(len(wanted))]
        else:
            assert (picture.error, picture.boxes) == (wanted[0].error, ())


def test_maps_belong_to_classes(tmp_path):
    cams = [np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float16) for seed in range(3)]
    rows = [
        tables.row("a", class_id=5, cam=cams[0]),
        tables.row("a", class_id=5, number=2),
        tables.row("a", class_id=6, rank=2, cam=cams[1]),
        tables.row("b", class_id=5, cam=cams[2]),
        tables.row("c"),
    ]
    table = RunTable(tables.write(tmp_path / "run", rows, cams=True))
    first, second, third = table.pictures(maps=True)
    assert (list(first.maps), list(second.maps), list(third.maps)) == ([5, 6], [5], [])
    np.testing.assert_array_equal(first.maps[6], cams[1])
    assert not any(picture.maps for picture in table.pictures())


def test_pictures_are_never_divided(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, 40)
    rows = [reports.row(f"{i}.png", "cat", 0.5, rank=1 + j) for i, n in enumerate(counts) for j in range(n)]
    table = reports.table_of(rows)
    (tmp_path / "shards").mkdir()
    half = int(counts[:20].sum())
    for name, part in (("000000", table.slice(0, half)), ("000002", table.slice(half)), ("000003", table.slice(0, 0))):
        pq.write_table(part, tmp_path / "shards" / f"{name}.parquet", row_group_size=3)
        (tmp_path / "shards" / f"{name}.json").write_text("{}")
    pq.write_table(table, tmp_path / "shards" / "000001.parquet")  # without its mark
    monkeypatch.setattr("fastcam.runs.table._MANY", 5)
    read = RunTable(tmp_path, unfinished=True)
    assert not read.complete
    batches = [batch.column("image_id").to_pylist() for batch in read.batches(["image_id"])]
    assert [id for batch in batches for id in batch] == [r.image_id for r in rows]
    assert not any(set(a) & set(b) for i, a in enumerate(batches) for b in batches[i + 1 :])
    assert list(read.ids()) == [f"{i}.png" for i in range(40)]
    first = np.cumsum(counts) - counts
    chosen = np.array([0, 3, 19, 20, 39])
    found = list(read.rows_at(first[chosen], counts[chosen], ["image_id", "rank"]))
    assert found == [[Row(f"{i}.png", rank=1 + j) for j in range(counts[i])] for i in chosen]
    assert list(read.rows_at(np.zeros(0, int), np.zeros(0, int), ["image_id"])) == []
    page = reports.Page(write_report(tmp_path).path)
    assert "not finished" in page.text
    assert "pictures 40" in page.text


@pytest.mark.parametrize("name", COLUMNS)
def test_each_column_is_needed_in_its_type(name, rows, tmp_path):
    write_rows(rows, tmp_path / "boxes.parquet", schema(maps=False))
    whole = pq.read_table(tmp_path / "boxes.parquet")
    index = whole.column_names.index(name)
    kind = whole.schema.field(name).type
    for other in (whole.drop_columns([name]), whole.set_column(index, name, pa.nulls(len(whole), pa.int64()))):
        pq.write_table(other, tmp_path / "boxes.parquet")
        for unfinished in (False, True):
            with pytest.raises(ValueError, match=f"as `fastcam localize` writes: expected column {name}, {kind}"):
                RunTable(tmp_path, unfinished=unfinished)


def test_columns_of_another_type_are_as_if_they_were_not_there(rows, tmp_path):
    write_rows(rows, tmp_path / "boxes.parquet", schema(maps=False))
    whole = pq.read_table(tmp_path / "boxes.parquet")
    index = whole.column_names.index("orientation")
    pq.write_table(whole.set_column(index, "orientation", pa.array(["6"] * len(whole))), tmp_path / "boxes.parquet")
    table = RunTable(tmp_path)
    assert "orientation" not in table.columns
    assert {picture.orientation for picture in table.pictures()} == {1}


def damaged(folder: Path) -> RunTable:
    path = tables.write(folder, [tables.row("a.jpg")] * 100) / "boxes.parquet"
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    return RunTable(folder)


def test_damage_is_an_error_that_names_the_file(tmp_path):
    table = damaged(tmp_path)
    for read in (table.rows, table.pictures, table.ids, lambda: table.batches(["image_id"]), table.classes):
        with pytest.raises(ValueError, match=f"{tmp_path}/boxes.parquet is damaged"):
            list(read())
