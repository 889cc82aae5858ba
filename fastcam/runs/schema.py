"""Columns of boxes.parquet, each written once, in `Row`; and the tables that are made of rows.

A new column is a line of `Row`, and a value where `fastcam.localization` makes rows.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Annotated, NamedTuple, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

MAX_CLASSES = 1 << 20  # a class index in a file is trusted with no more memory than this many names take
_GROUP = 8192  # rows of a row group

_Text = Annotated[str | None, pa.string()]
_Int = Annotated[int | None, pa.int32()]
_Float = Annotated[float | None, pa.float32()]


class Row(NamedTuple):
    """One line of boxes.parquet: one box of one class of one picture, or the reason why a picture has none."""

    image_id: Annotated[str, pa.string()]
    """Path relative to the folder, with "/"; the sample's id for a data set."""
    width: _Int = None
    """Of the upright original in pixels; None if it could not be read."""
    height: _Int = None
    """As width."""
    rank: _Int = None
    """Place of the class among all by score, 1 for the highest; None for an error, as all that follow up to status."""
    class_id: _Int = None
    """Index of the class."""
    class_name: _Text = None
    """Its name; None if unknown."""
    score: _Float = None
    """Probability of the class: the softmax of the network's logits, the sigmoid of a single one or of each, or what
    the network gives if these are probabilities (`fastcam.methods.scores`). The field's metadata say which."""
    x0: _Float = None
    """Left edge of the box in pixels of the upright original. The box is half-open; all four are 0 if the map is
    constant or not finite, and so has no box."""
    y0: _Float = None
    """Top edge."""
    x1: _Float = None
    """Right edge, exclusive."""
    y1: _Float = None
    """Bottom edge, exclusive."""
    status: Annotated[str, pa.string()] = "ok"
    """"ok" or "error"."""
    error: _Text = None
    """"code: reason" with a code of `fastcam.localization.ERRORS`; None if all went well."""
    box: _Int = None
    """Number of the box within its class, 1 for the largest; of the paper's boxes 1 is the loose, 2 the tight one."""
    box_score: _Float = None
    """Score of the box: that of its class times the map's highest value within the box, where several boxes of a class
    were asked for; that of its class where only the largest was, or the paper's were."""
    orientation: Annotated[int | None, pa.int8()] = None
    """How the file is stored, 1 to 8 as EXIF numbers them; None for a sample that was no file."""
    decoder: _Text = None
    """What decoded the file, see `fastcam.pictures.Decoded`, or "nvjpeg"; None as orientation, or if nothing could."""
    cam: Annotated[bytes | None, pa.binary()] = None
    """The map before ReLU and upsampling as `fastcam.runs.maps` keeps it, float16 [cam_height, cam_width]; with the
    first box of a class, and only if maps were asked for."""
    cam_height: _Int = None
    """Rows of cam."""
    cam_width: _Int = None
    """Columns of cam."""


def _field(name: str, hint: object) -> pa.Field:
    kind, stored = get_args(hint)
    return pa.field(name, stored, nullable=NoneType in get_args(kind))


SCHEMA = pa.schema([_field(name, hint) for name, hint in get_type_hints(Row, include_extras=True).items()])
COLUMNS = Row._fields[: Row._fields.index("error") + 1]  # of every table; earlier versions had no more
CAM_COLUMNS = ("cam", "cam_height", "cam_width")  # of tables with maps
EDGES = ("x0", "y0", "x1", "y1")


def schema(maps: bool, info: Mapping[str, object] | None = None, scores: str | None = None) -> pa.Schema:
    """Name the columns of a table of boxes.

    Args:
        maps: whether it has `CAM_COLUMNS`.
        info: what produced the rows; JSON in the file's metadata under "fastcam".
        scores: what a score is, as far as that is known: the metadata of the field score, under "description".

    Returns:
        `SCHEMA`, or all of it but these columns, with the metadata.
    """
    fields = [field for field in SCHEMA if maps or field.name not in CAM_COLUMNS]
    if scores is not None:
        fields = [f.with_metadata({"description": scores}) if f.name == "score" else f for f in fields]
    return pa.schema(fields, {"fastcam": json.dumps(info or {}, sort_keys=True)})


def split_error(error: str | None) -> tuple[str, str]:
    """Take an error apart.

    Args:
        error: of a `Row`.

    Returns:
        Code and reason; "" for what is missing.
    """
    code, colon, message = (error or "").partition(": ")
    return (code, message) if colon else ("", code)


def to_table(rows: Sequence[Row], columns: pa.Schema) -> pa.Table:
    """Make a table of rows.

    Args:
        rows: any number.
        columns: what `schema` gave.

    Returns:
        The table, of that schema.

    Raises:
        TypeError, ValueError: a value does not fit its column.
    """
    values = dict(zip(Row._fields, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(Row._fields, ())
    return pa.Table.from_arrays([pa.array(values[field.name], field.type) for field in columns], schema=columns)


def write_rows(rows: Sequence[Row], path: Path, columns: pa.Schema) -> None:
    """Write a part of a table: the rows of a shard."""
    pq.write_table(to_table(rows, columns), path)


def merge(parts: Iterable[Path], path: Path, columns: pa.Schema) -> None:
    """Write the rows of all parts, in order, in row groups that do not depend on the parts' size.

    Args:
        parts: Parquet files of the same columns.
        path: the file to write.
        columns: its schema.

    Raises:
        OSError: a file cannot be read or written.
    """
    pending, rows = [], 0
    with pq.ParquetWriter(path, columns) as writer:
        for part in parts:
            pending.append(pq.read_table(part).cast(columns))
            rows += len(pending[-1])
            while rows >= _GROUP:
                table = pa.concat_tables(pending)
                writer.write_table(table.slice(0, _GROUP))
                pending, rows = [table.slice(_GROUP)], rows - _GROUP
        if rows:
            writer.write_table(pa.concat_tables(pending))
