"""The parts of a run put together, and the proof that every input is in the table once."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_GROUP = 8192  # rows of a row group


def merge(parts: Iterable[Path], path: Path, columns: pa.Schema) -> None:
    """Write the rows of all parts, in row groups that do not depend on the parts' size.

    Args:
        parts: Parquet files of the same columns, in order.
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


def audit(path: Path, keys: Iterator[str] | None) -> dict[str, Any]:
    """Read a table back and compare it with the inputs.

    Every input must be there once, in order: with one row of an error, or with one row for each box of a rank.

    Args:
        path: the table.
        keys: of all inputs, each but once; None if they are not known, so that only rows are counted.

    Returns:
        "pictures" (None without keys), "rows", and "errors", pictures that failed by code.

    Raises:
        RuntimeError: an input is missing, doubled, out of place, or has rows that contradict each other.
    """
    errors: Counter[str] = Counter()
    rows, pictures = 0, None

    def each() -> Iterator[tuple[Any, ...]]:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_GROUP, columns=["image_id", "status", "error", "rank", "box"]):
                yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def count(row: tuple[Any, ...]) -> None:
        nonlocal rows
        rows += 1
        if row[1] != "ok":
            errors[row[2].partition(":")[0]] += 1

    if keys is None:
        for row in each():
            count(row)
    else:
        pictures = 0
        for key, group in groupby(each(), itemgetter(0)):
            wanted, places = next(keys, None), []
            for row in group:
                count(row)
                places.append(row[3:] if row[1] == "ok" else None)
            if key != wanted or len(set(places)) < len(places) or (None in places and len(places) > 1):
                raise RuntimeError(f"the audit failed: {len(places)} rows of {key!r} where {wanted!r} belongs")
            pictures += 1
        if (wanted := next(keys, None)) is not None:
            raise RuntimeError(f"the audit failed: there are no rows of {wanted!r}")
    return {"pictures": pictures, "rows": rows, "errors": errors}
