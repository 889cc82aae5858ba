"""Rows of CSV and Parquet files with columns that have names, as texts."""

import csv
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.data.names import whole
from fastcam.data.reading import Problems, numbers

EDGES = ("x0", "y0", "x1", "y1")
SIZE = ("width", "height")
_KNOWN = ("path", "label", "split", *SIZE, *EDGES)
# What fastcam itself writes, and what columns of several classes are called.
_ALIASES = {"image_id": "path", **dict.fromkeys(("class_id", "labels", "classes", "class_ids"), "label")}
_LAYOUT = "columns path, and if known label, x0, y0, x1, y1, width, height, split"
_EXACT = 1 << 53  # up to this floats are exact
_FEW = 1 << 20  # rows, and values of lists, that are read however small the Parquet file
_PACKED = 8  # values of lists that a byte may hold
Row = tuple[str, dict[str, str]]  # where, and the text of each column


def rows(path: Path, problems: Problems, plain: Sequence[str] = ()) -> Iterator[Row]:
    """Read a .parquet file, or any other as text: .txt with a path on each line, else CSV.

    Columns are path (or image_id) and others that are known; the rest is passed over. Cells that are lists become JSON.
    A CSV file whose first row has none of their names has the columns `plain`, if these are given.
    """
    return _parquet(path, problems) if path.suffix.lower() == ".parquet" else _text(path, problems, plain)


def number(text: str) -> int | None:
    """A whole number that is not negative, also as the float that tables with gaps make of it."""
    value = numbers([text])
    return int(value[0]) if value and value[0].is_integer() and 0 <= value[0] <= _EXACT else whole(text)


def _text(path: Path, problems: Problems, plain: Sequence[str]) -> Iterator[Row]:
    listing = path.suffix.lower() == ".txt" and not plain
    header: list[str] | None = ["path"] if listing else None
    for at, line in problems.lines(path):
        where = f"{path}:{at}"
        try:
            row = [line] if listing else next(csv.reader([line], strict=True))
        except csv.Error as error:
            problems.refuse(where, f"expected a row of CSV, got {line!r} ({error})")
            continue
        if header is None:
            headed = not plain or "path" in map(_named, row)
            header = _header(row, where) if headed else list(plain)
            if headed:
                continue
        if len(row) != len(header):
            problems.refuse(where, f"expected {len(header)} columns, got {len(row)}: {line!r}")
        else:
            yield where, {name: text for name, text in zip(header, row, strict=True) if name in _KNOWN}


def _parquet(path: Path, problems: Problems) -> Iterator[Row]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with pq.ParquetFile(path) as file:
            about, size = file.metadata, path.stat().st_size
            if about.num_rows > max(_FEW, size):  # of different pictures or boxes, a row cannot take less than a byte
                raise ValueError(f"{path}: {about.num_rows} rows in {size} bytes cannot all be different")
            columns = file.schema_arrow.names
            header = _header(columns, str(path))
            chosen = [column for column, name in zip(columns, header, strict=True) if name in _KNOWN]
            groups = [about.row_group(index) for index in range(about.num_row_groups)]
            parts = [group.column(index) for group in groups for index in range(group.num_columns)]
            values = sum(part.num_values for part in parts if part.path_in_schema.split(".")[0] in chosen)
            if values > max(_FEW, _PACKED * size, len(chosen) * about.num_rows):
                raise ValueError(f"{path}: {values} values in {size} bytes cannot be classes of pictures")
            table = file.read(chosen).rename_columns(list(map(_named, chosen)))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    for at, row in enumerate(table.to_pylist()):
        if not isinstance(row["path"], str):
            problems.refuse(f"{path}: row {at}", f"expected path to be a text, got {row['path']!r}")
        else:
            yield f"{path}: row {at}", {name: _cell(value) for name, value in row.items()}


def _cell(value: Any) -> str:
    if isinstance(value, list):  # what JSON cannot have can be no class, as null
        return json.dumps(value, default=lambda other: None, ensure_ascii=False)
    return "" if value is None or value != value else str(value)


def _named(column: str) -> str:
    return _ALIASES.get(column.strip(), column.strip())


def _header(columns: Sequence[str], where: str) -> list[str]:
    names = list(map(_named, columns))
    known = [name for name in names if name in _KNOWN]
    if "path" not in known or len(set(known)) != len(known):
        raise ValueError(f"{where}: expected {_LAYOUT}, each once; got {', '.join(columns)}")
    for group in (EDGES, SIZE):
        if len(set(group).intersection(known)) not in (0, len(group)):
            raise ValueError(f"{where}: expected all of {', '.join(group)} or none; got {', '.join(columns)}")
    return names
