"""The rows of a run, read back a batch of whole pictures at a time."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastcam.data.pictures import Packed
from fastcam.runs.folder import RunFolder

COLUMNS = ("image_id", "width", "height", "rank", "class_id", "class_name", "score", "x0", "y0", "x1", "y1")
COLUMNS += ("status", "error")
_ROWS = 1 << 16  # read at once


class Table:
    """The table of a run: one file, or those of its shards that are finished.

    Args:
        run: folder of the run, or a Parquet file of such rows.

    Attributes:
        folder: that of the run.
        files: the Parquet files, in order.
        complete: False if the run broke off and these are the rows finished until then.
        earlier: whether another run has begun in the folder since, whose table is not there yet.
        info: what produced the rows, as their writer noted it.
        columns: names of the columns.

    Raises:
        FileNotFoundError: there is no run.
        ValueError: a file is no Parquet file, or lacks one of `COLUMNS`.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        run = Path(run)
        self.folder = run if run.is_dir() else run.parent
        self.files, self.complete = _files(run)
        schemas = [pq.read_schema(file) for file in self._readable()]
        for file, schema in zip(self.files, schemas, strict=True):
            missing = [name for name in COLUMNS if name not in schema.names]
            if missing:
                raise ValueError(f"{file} is no table of `fastcam localize`: it lacks the columns {', '.join(missing)}")
        self.columns = schemas[0].names
        try:
            info = json.loads((schemas[0].metadata or {}).get(b"fastcam", b"{}"))
        except ValueError:
            info = None
        self.info: dict[str, Any] = info if isinstance(info, dict) else {}
        plans = self.info.get("plan"), _planned(self.folder)
        self.earlier = None not in plans and plans[0] != plans[1]

    def extra(self, *names: str) -> list[str]:
        """Say which columns there are of some that need not be.

        Args:
            names: of columns.

        Returns:
            Those that the table has.
        """
        return [name for name in names if name in self.columns]

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read the table once.

        Args:
            columns: those that are wanted; image_id must be among them.

        Yields:
            Tables of consecutive rows that never divide the rows of a picture.
        """
        left: pa.Table | None = None
        for file in self.files:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=list(columns)):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                if left is not None:
                    table = pa.concat_tables([left, table])
                if table.num_rows:
                    last = int(starts(table)[-1])
                    if last:
                        yield table.slice(0, last)
                    left = table.slice(last)
        if left is not None and left.num_rows:
            yield left

    def places(self, ids: Sequence[str] | None = None) -> dict[str, Path | Packed]:
        """Look up where pictures lie, in the list of inputs that a run keeps beside its table.

        Args:
            ids: of the pictures; by default all.

        Returns:
            id → file, or part of a larger one, as far as the list tells; nothing if it is not this table's.
        """
        path = RunFolder(self.folder).inputs
        if self.earlier or not path.is_file() or (ids is not None and not ids):
            return {}
        chosen = None if ids is None else [("key", "in", list(ids))]
        rows = pq.read_table(path, columns=["key", "path", "offset", "length"], filters=chosen).to_pylist()
        found = {}
        for row in rows:
            file = Path(os.fsdecode(row["path"]))
            packed = row["offset"] is not None
            found[row["key"]] = Packed(file, row["key"], row["offset"], row["length"]) if packed else file
        return found

    def ids(self) -> Iterator[str]:
        """List the pictures.

        Yields:
            The image_id of each.
        """
        for batch in self.batches(["image_id"]):
            yield from batch.column("image_id").take(pa.array(starts(batch))).to_pylist()

    def classes(self) -> dict[int, str | None]:
        """List the classes that the rows tell of.

        Returns:
            Class index → name, None if unknown.
        """
        found: dict[int, str | None] = {}
        for file in self.files:
            for batch in pq.ParquetFile(file).iter_batches(_ROWS, columns=["class_id", "class_name"]):
                pairs = pa.Table.from_batches([batch]).group_by(["class_id", "class_name"]).aggregate([])
                found |= {row["class_id"]: row["class_name"] for row in pairs.to_pylist()}
        return {number: name for number, name in found.items() if number is not None}

    def pictures(self, first: np.ndarray, count: np.ndarray, columns: Sequence[str]) -> Iterator[list[dict[str, Any]]]:
        """Read the rows of some pictures; of the file, only the row groups that have them.

        Args:
            first: int64 [N], number of each picture's first row in the whole table, ascending.
            count: int64 [N], how many rows it has.
            columns: those that are wanted.

        Yields:
            The rows of each picture, column → value, in the order of `first`.
        """
        wanted = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        rows: list[dict[str, Any]] = []
        ends, begin = iter(count.tolist()), 0
        length = next(ends, 0)
        for file in self.files:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                end = begin + parquet.metadata.row_group(group).num_rows
                inside = wanted[np.searchsorted(wanted, begin) : np.searchsorted(wanted, end)] - begin
                if len(inside):
                    rows += parquet.read_row_group(group, columns=list(columns)).take(pa.array(inside)).to_pylist()
                while length and len(rows) >= length:
                    yield rows[:length]
                    rows = rows[length:]
                    length = next(ends, 0)
                begin = end

    def _readable(self) -> Iterator[Path]:
        """Each file, and its name in the error if it turns out to be none."""
        for file in self.files:
            try:
                pq.read_metadata(file)
            except pa.ArrowInvalid as error:
                raise ValueError(f"{file} is no readable Parquet file: {error}") from error
            yield file


def starts(table: pa.Table) -> np.ndarray:
    """Find where pictures begin.

    Args:
        table: rows with image_id, at least one.

    Returns:
        int64 [N], index of the first row of each picture.
    """
    ids = table.column("image_id").combine_chunks()
    changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], 1 + np.flatnonzero(changes)])


def _planned(folder: Path) -> str | None:
    """The digest of the plan in a folder, None if there is none that can be read."""
    try:
        return json.loads(RunFolder(folder).plan.read_text(encoding="utf-8"))["digest"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _files(run: Path) -> tuple[list[Path], bool]:
    if run.is_file():
        return [run], True
    if not run.exists():
        raise FileNotFoundError(f"no run at {run}")
    folder = RunFolder(run)
    for table, complete in ((folder.table, True), (folder.partial, False)):
        if table.is_file():
            return [table], complete
    shards = folder.marked_parts()
    if not shards:
        raise FileNotFoundError(f"{run} has neither boxes.parquet nor finished shards: expected the --out of a run")
    return shards, False
