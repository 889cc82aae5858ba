"""Rows and files, written so that a reader never sees half of one."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP = 8192  # rows held back until they make a row group; this bounds the writer's memory


class Row(NamedTuple):
    """One line of boxes.parquet: one class of one picture, or the reason why a picture has none.

    Attributes:
        image_id: path relative to the folder, with "/"; the sample's id for a data set.
        width: width of the upright original in pixels; None if it could not be read.
        height: height likewise.
        rank: place of the class among all by score, 1 for the highest; None for an error, as all that follow.
        class_id: index of the class.
        class_name: its name, None if unknown.
        score: softmax probability of the class.
        x0: left edge of the box in pixels of the upright original. The box is half-open; all four are 0 if
            the map is constant and so has no box.
        y0: top edge.
        x1: right edge, exclusive.
        y1: bottom edge, exclusive.
        status: "ok" or "error".
        error: "code: reason", None if all went well.
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
    ]
)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put the file written there in its place at the end.

    The file reaches the disk before it gets its name. If the block raises, `path` stays as it was and the
    temporary file is removed.

    Args:
        path: the file to create or replace; its folder is made if need be.

    Yields:
        The path to write to.

    Raises:
        OSError: if the folder cannot be made, the file cannot be put in its place, or the block wrote none.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield partial
        _settle(partial, path)
    finally:
        partial.unlink(missing_ok=True)


class BoxWriter:
    """Writes boxes.parquet row group by row group; memory does not grow with the number of rows.

    Used in a `with` block. The file gets its name at the end of the block. If the block raises, the rows
    written until then are kept as a readable file named like `path` with ".partial" before the suffix.

    Args:
        path: the Parquet file to create or replace.
        info: what produced the rows; stored as JSON in the file's metadata under "fastcam".

    Raises:
        OSError: if the file cannot be made (on entering the block) or written.
    """

    def __init__(self, path: str | os.PathLike[str], info: Mapping[str, object] | None = None) -> None:
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.stem}.partial{self.path.suffix}")
        self.rows = 0
        self._pending: list[Row] = []
        self._schema = SCHEMA.with_metadata({"fastcam": json.dumps(info or {}, sort_keys=True)})

    def __enter__(self) -> Self:
        self._temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = pq.ParquetWriter(self._temporary, self._schema)
        except OSError as error:
            raise OSError(f"cannot write to {self.path.parent}: {error.strerror or error}") from error
        return self

    def write(self, rows: list[Row]) -> None:
        """Append rows, in order. They are held back until they fill a row group, or the `with` block ends.

        Args:
            rows: the rows, any number.

        Raises:
            TypeError, ValueError: a value does not fit its column; noticed when the row group is written.
            OSError: the file cannot be written.
        """
        self._pending += rows
        self.rows += len(rows)
        if len(self._pending) >= _GROUP:
            self._flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._flush()
            self._file.close()
            if error is None:
                _settle(self._temporary, self.path)
                self.partial.unlink(missing_ok=True)
            elif self.rows:
                _settle(self._temporary, self.partial)
                error.add_note(f"the {self.rows} rows finished by then are in {self.partial}")
        finally:
            self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._pending:
            self._file.write_table(pa.Table.from_pylist([row._asdict() for row in self._pending], self._schema))
            self._pending.clear()


def _settle(temporary: Path, path: Path) -> None:
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
