"""Lists of picture files: a path on each line, CSV or Parquet."""

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.data.names import ordered, plain_id, tidy, whole
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Found, Problems, Request, assemble, class_names, numbers

_EDGES = ("x0", "y0", "x1", "y1")
_SIZE = ("width", "height")
_KNOWN = ("path", "label", "split", *_SIZE, *_EDGES)
_ALIASES = {"image_id": "path", "class_id": "label"}  # what fastcam itself writes
_LAYOUT = "columns path, and if known label, x0, y0, x1, y1, width, height, split"
_EXACT = 1 << 53  # up to this floats are exact
_FEW = 1 << 20  # rows that are read however small the Parquet file
_Row = tuple[str, dict[str, str]]  # where, and the text of each column


def read(request: Request) -> Pictures:
    """Read a list: .txt with a path on each line, or .csv or .parquet with named columns.

    Columns are path (or image_id), and if known label (or class_id; whole numbers, also as floats, or names that are
    numbered as `fastcam.data.names.ordered` has them), x0, y0, x1, y1 (a box, half-open, in pixels), width and height
    (which it refers to), split. A picture with several boxes has a row for each, one whose box is empty has none. Other
    columns are ignored. Classes that are numbers are named by classes.txt beside the list, one name a line, if there is
    one. Paths are relative to the list's folder.
    """
    path, split, problems = request.path, request.split, request.problems
    root = request.images or path.parent
    rows = list(_rows(path, problems))
    for _, row in rows:
        row |= {"path": plain_id(row["path"], root)} | ({"label": tidy(row["label"])} if "label" in row else {})
    columns = set(rows[0][1]) if rows else set()
    labels, names = _labels(path, rows, problems) if "label" in columns else (None, ())
    if split is not None:
        rows = [(where, row) for where, row in rows if row.get("split") == split]
    found: dict[str, Found] = {}
    boxes: dict[str, list[list[float]]] = {}
    boxed: set[str] = set()  # whose first row has a box
    for where, row in rows:
        id = row["path"]
        texts = [row[edge] for edge in _EDGES] if "x0" in columns else []
        size = [row[side] for side in _SIZE] if "width" in columns else []
        entry = Found(where, id, root / id, None if labels is None else labels.get(row["label"]))
        if any(size):
            width, height = map(_number, size)
            if width and height:
                entry = entry._replace(size=(width, height))
            else:
                expected = "expected width and height, two positive whole numbers"
                problems.fault(where, f"{expected}, got {size}", id)
        box = numbers(texts) if any(texts) else None
        if any(texts) and (box is None or not np.isfinite(box).all()):
            problems.fault(where, f"expected x0, y0, x1, y1, four numbers, got {texts}", id)
            box = None
        first = found.setdefault(id, entry)
        if first is entry:
            boxed |= {id} if any(texts) else set()
        elif not (any(texts) and id in boxed):
            problems.refuse(where, f"{id} comes twice", id)
        if (first.label, first.size) != (entry.label, entry.size):
            problems.fault(where, f"another label or size of {id} than in {first.where}", id)
        boxes.setdefault(id, []).extend([box] if box else [])
    entries = list(found.values())
    if "x0" in columns:
        entries = [entry._replace(boxes=np.array(boxes[entry.id], np.float64).reshape(-1, 4)) for entry in entries]
    return assemble(request, root, entries, names, resized=True)


def _splits(path: Path) -> list[str]:
    """What the column split has, sorted; [] if there is no such column."""
    return sorted({row["split"] for _, row in _rows(path, Problems([])) if row.get("split")})


def _rows(path: Path, problems: Problems) -> Iterator[_Row]:
    return _parquet(path, problems) if path.suffix.lower() == ".parquet" else _text(path, problems)


def _text(path: Path, problems: Problems) -> Iterator[_Row]:
    header: list[str] | None = ["path"] if path.suffix.lower() == ".txt" else None
    for number, line in problems.lines(path):
        where = f"{path}:{number}"
        try:
            row = [line] if path.suffix.lower() == ".txt" else next(csv.reader([line], strict=True))
        except csv.Error as error:
            problems.refuse(where, f"expected a row of CSV, got {line!r} ({error})")
            continue
        if header is None:
            header = _header(row, where)
        elif len(row) != len(header):
            problems.refuse(where, f"expected {len(header)} columns, got {len(row)}: {line!r}")
        else:
            yield where, {name: text for name, text in zip(header, row, strict=True) if name in _KNOWN}


def _parquet(path: Path, problems: Problems) -> Iterator[_Row]:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with pq.ParquetFile(path) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            if rows > max(_FEW, size):  # of different pictures or boxes, a row cannot take less than a byte
                raise ValueError(f"{path}: {rows} rows in {size} bytes cannot all be different")
            columns = file.schema_arrow.names
            header = _header(columns, str(path))
            chosen = [column for column, name in zip(columns, header, strict=True) if name in _KNOWN]
            table = file.read(chosen).rename_columns([_ALIASES.get(column, column) for column in chosen])
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path}: {error}") from error
    for number, row in enumerate(table.to_pylist()):
        if not isinstance(row["path"], str):
            problems.refuse(f"{path}: row {number}", f"expected path to be a text, got {row['path']!r}")
        else:
            yield f"{path}: row {number}", {name: "" if v is None or v != v else str(v) for name, v in row.items()}


def _header(columns: list[str], where: str) -> list[str]:
    names = [_ALIASES.get(column.strip(), column.strip()) for column in columns]
    known = [name for name in names if name in _KNOWN]
    if "path" not in known or len(set(known)) != len(known):
        raise ValueError(f"{where}: expected {_LAYOUT}, each once; got {', '.join(columns)}")
    for group in (_EDGES, _SIZE):
        if len(set(group).intersection(known)) not in (0, len(group)):
            raise ValueError(f"{where}: expected all of {', '.join(group)} or none; got {', '.join(columns)}")
    return names


def _labels(path: Path, rows: list[_Row], problems: Problems) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """The class of each text in column label, and the classes' names."""
    for where, row in rows:
        if not row["label"]:
            problems.fault(where, "expected a label, got none", row["path"])
    texts = sorted({row["label"] for _, row in rows} - {""})
    if numbers(texts) is None:
        texts = ordered(texts)
        return {text: index for index, text in enumerate(texts)}, tuple(texts)
    values = {text: _number(text) for text in texts}
    for where, row in rows:
        if row["label"] and values[row["label"]] is None:
            problems.fault(where, f"expected a whole number as label, or names only, got {row['label']}", row["path"])
    return values, class_names([path.parent], (value for value in values.values() if value is not None))


def _number(text: str) -> int | None:
    """A whole number that is not negative, also as the float that tables with gaps make of it."""
    value = numbers([text])
    return int(value[0]) if value and value[0].is_integer() and 0 <= value[0] <= _EXACT else whole(text)


FORMAT = Format(
    "a .txt file of paths, or .csv or .parquet with a column path",
    fits=lambda path: path.is_file() and path.suffix.lower() in (".txt", ".csv", ".parquet"),
    splits=_splits,
    read=read,
    whole=lambda path: True,
)
