"""The columns of boxes.parquet are what they were, and rows fit them."""

import json

import pyarrow as pa
import pytest

from fastcam.runs.schema import CAM_COLUMNS, COLUMNS, SCHEMA, Row, schema, to_table
from tests.support import tables


def test_columns_and_their_types():
    """A table that earlier versions wrote is read by later ones, and the other way round."""
    wanted = pa.schema([*tables.SCHEMA, *tables.CAM])
    assert SCHEMA.names == wanted.names == list(Row._fields)
    assert SCHEMA.types == wanted.types
    assert [field.name for field in SCHEMA if not field.nullable] == ["image_id", "status"]
    assert [name for name in Row._fields if name not in COLUMNS] == [
        "box", "box_score", "orientation", "decoder", *CAM_COLUMNS,
    ]  # fmt: skip


def test_tables_of_rows():
    columns = schema(maps=True, info={"b": 1, "a": None})
    assert json.loads(columns.metadata[b"fastcam"]) == {"a": None, "b": 1}
    rows = [
        Row("a", 3, 4, 1, 2, "x", 0.5, 0, 0, 1, 1, box=1, cam=b"12", cam_height=1, cam_width=1),
        Row("b", error="e"),
    ]
    table = to_table(rows, columns)
    assert table.schema.equals(columns, check_metadata=True)
    assert [Row(**row) for row in table.to_pylist()] == rows
    bare = to_table(rows, schema(maps=False))
    assert bare.column_names == [name for name in Row._fields if name not in CAM_COLUMNS]
    assert to_table([], columns).num_rows == 0
    with pytest.raises((TypeError, ValueError, pa.ArrowInvalid)):
        to_table([Row("a", 1 << 40)], columns)
