"""Runs whose reports are looked at, and texts that must stay texts in them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fastcam.report import tables
from fastcam.runs.schema import SCHEMA, Row

EVIL = [
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "\"><img src=x onerror='window.pwned = 1'>",
    "javascript:window.pwned=1",
    "two\nlines\r\nand a tab\t.png",
    "<!-- <script> &amp; {{ 7 * 7 }} {% raw %} ]]>",
    "\u202egnp.exe\u2028\u2029\x7f",
    "' onmouseover='window.pwned=1",
]


def row(id, name=None, score=None, box=(0, 0, 0, 0), rank=1, size=(100, 50), classes=("cat", "dog")) -> Row:
    return Row(id, *size, rank, None if name is None else classes.index(name), name, score, *box)


def failed(id, error) -> Row:
    return Row(id, status="error", error=error)


def table_of(rows, **info) -> pa.Table:
    """The columns that every table has, whatever else `Row` knows."""
    schema = pa.schema([SCHEMA.field(name) for name in tables.COLUMNS], {"fastcam": json.dumps(info)})
    return pa.Table.from_pylist([{name: getattr(r, name) for name in tables.COLUMNS} for r in rows], schema)


def write_run(folder, rows, **info) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(rows, **info), folder / "boxes.parquet")
    return folder


def photos(folder, *names, size=(640, 320)) -> Path:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colours[index % 3]).save(path)
    return folder


def with_maps(folder, maps, **info) -> Path:
    table = table_of((row(f"{i}.png", "cat", 0.5, size=(640, 320)) for i in range(len(maps))), **info)
    cams = [None if m is None else m.astype("<f2").tobytes() for m in maps]
    table = table.append_column("cam", pa.array(cams, pa.binary()))
    for axis, name in enumerate(("cam_height", "cam_width")):
        table = table.append_column(name, pa.array([None if m is None else m.shape[axis] for m in maps], pa.int32()))
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "boxes.parquet")
    return folder
