"""Columns of boxes.parquet: one row, its schema, and a table of rows."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa


class Row(NamedTuple):
    """One line of boxes.parquet: one box of one class of one picture, or the reason why a picture has none.

    Attributes:
        image_id: path relative to the folder, with "/"; the sample's id for a data set.
        width: width of the upright original in pixels; None if it could not be read.
        height: height likewise.
        rank: place of the class among all by score, 1 for the highest; None for an error, as all that follow up to
            status.
        class_id: index of the class.
        class_name: its name, None if unknown.
        score: probability of the class: the softmax of the network's logits, the sigmoid of a single one, or what the
            network gives if these are probabilities (`fastcam.methods.scores`).
        x0: left edge of the box in pixels of the upright original. The box is half-open; all four are 0 if
            the map is constant or not finite, and so has no box.
        y0: top edge.
        x1: right edge, exclusive.
        y1: bottom edge, exclusive.
        status: "ok" or "error".
        error: "code: reason" with a code of `fastcam.localization.ERRORS`, None if all went well.
        box: number of the box within its class, 1 for the largest.
        box_score: score of the box: that of its class times the map's highest value within the box, where several
            boxes of a class were asked for; that of its class where only the largest was.
        orientation: how the file is stored, 1 to 8 as EXIF numbers them; None for a sample that was no file.
        decoder: who gave the pixels, see `fastcam.pictures.Decoded`, or "nvjpeg"; None likewise, or if nobody did.
        cam: the map before ReLU and upsampling, multiplied by a power of two that brings its largest magnitude into
            [1, 2], float16 [cam_height, cam_width], row by row, little-endian; with the first box of a class, and only
            if maps were asked for.
        cam_height: rows of cam.
        cam_width: columns of cam.
    """

    image_id: str
    width: int | None = None
    height: int | None = None
    rank: int | None = None
    class_id: int | None = None
    class_name: str | None = None
    score: float | None = None
    x0: float | None = None
    y0: float | None = None
    x1: float | None = None
    y1: float | None = None
    status: str = "ok"
    error: str | None = None
    box: int | None = None
    box_score: float | None = None
    orientation: int | None = None
    decoder: str | None = None
    cam: bytes | None = None
    cam_height: int | None = None
    cam_width: int | None = None


CAM_COLUMNS = ("cam", "cam_height", "cam_width")  # of a table with maps
SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("rank", pa.int32()),
        pa.field("class_id", pa.int32()),
        pa.field("class_name", pa.string()),
        pa.field("score", pa.float32()),
        *(pa.field(edge, pa.float32()) for edge in ("x0", "y0", "x1", "y1")),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("box", pa.int32()),
        pa.field("box_score", pa.float32()),
        pa.field("orientation", pa.int8()),
        pa.field("decoder", pa.string()),
        pa.field("cam", pa.binary()),
        pa.field("cam_height", pa.int32()),
        pa.field("cam_width", pa.int32()),
    ]
)


def schema(maps: bool, info: Mapping[str, object] | None = None) -> pa.Schema:
    """Name the columns of a table of boxes.

    Args:
        maps: whether it has `CAM_COLUMNS`.
        info: what produced the rows; JSON in the file's metadata under "fastcam".

    Returns:
        `SCHEMA`, or all of it but the last columns, with the metadata.
    """
    fields = [field for field in SCHEMA if maps or field.name not in CAM_COLUMNS]
    return pa.schema(fields, {"fastcam": json.dumps(info or {}, sort_keys=True)})


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
    values = zip(*rows, strict=True) if rows else [()] * len(columns)
    arrays = [pa.array(column, field.type) for column, field in zip(values, columns, strict=False)]
    return pa.Table.from_arrays(arrays, schema=columns)
