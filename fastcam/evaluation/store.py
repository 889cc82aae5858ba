"""fastcam's compact store of score maps: coarse maps in one Parquet file."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fastcam._files import replacing
from fastcam.data import Sample
from fastcam.evaluation.sources import Batch, Loaded, Places, Source, attempt, elsewhere
from fastcam.runs.maps import decode_map
from fastcam.runs.table import read_info

_GROUP = 512  # maps of a row group; what a reader holds at a time
_DTYPES = ("float32", "float16")

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("class_id", pa.int32()),
        pa.field("rank", pa.int32()),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("map", pa.binary(), nullable=False),
    ]
)


class MapWriter:
    """Writes the compact store, maps.parquet: coarse maps before ReLU, upsampling and normalisation.

    One row for each map: image_id, class_id, rank (place of the class among the logits, 1 the highest), height, width
    and map (its values row by row, little-endian). Used in a `with` block, at whose end the file gets its name; if the
    block raises, nothing stays.

    Args:
        path: the Parquet file to create or replace.
        info: what made the maps; stored as JSON in the file's metadata under "fastcam".
        dtype: "float32", or "float16" for half the size and a rounding of 0.05 %.

    Raises:
        ValueError: another dtype.
        OSError: the file cannot be made (on entering the block) or written.
    """

    def __init__(
        self, path: str | os.PathLike[str], info: Mapping[str, Any] | None = None, dtype: str = "float32"
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(_DTYPES)}, got {dtype!r}")
        self.path, self._dtype = Path(path), np.dtype(dtype).newbyteorder("<")
        self._schema = SCHEMA.with_metadata({"fastcam": json.dumps(dict(info or {}, dtype=dtype), sort_keys=True)})
        self._pending: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            partial = stack.enter_context(replacing(self.path))
            self._file = stack.enter_context(pq.ParquetWriter(partial, self._schema, use_dictionary=False))
            stack.push(lambda kind, *_: self._flush() if kind is None else None)
            self._closing = stack.pop_all()
        return self

    def write(
        self,
        ids: Sequence[str],
        maps: Tensor | np.ndarray,
        classes: Sequence[int | None],
        ranks: Sequence[int | None] | None = None,
    ) -> None:
        """Append maps; they are held back until they fill a row group, or the `with` block ends.

        Args:
            ids: of N pictures.
            maps: [N, h, w], floating.
            classes: class index of each, or None.
            ranks: place of the class among the logits of each, 1 the highest, or None.

        Raises:
            ValueError: N differs, or a value is too large for float16.
            OSError: the file cannot be written.
        """
        values = np.asarray(maps)
        height, width = values.shape[1:]
        with np.errstate(over="ignore"):
            stored = values.astype(self._dtype)
        overflow = np.isinf(stored).any((1, 2)) & np.isfinite(values).all((1, 2))
        if overflow.any():
            raise ValueError(f"{ids[overflow.argmax()]}: its map has values that {self._dtype.name} cannot hold")
        for id, class_id, rank, map in zip(ids, classes, ranks or [None] * len(ids), stored, strict=True):
            row = {"image_id": id, "class_id": class_id, "rank": rank}
            self._pending.append(row | {"height": height, "width": width, "map": map.tobytes()})
        if len(self._pending) >= _GROUP:
            self._flush()

    def copy(self, path: str | os.PathLike[str]) -> None:
        """Append all maps of another store that was written with the same dtype.

        Args:
            path: its file.

        Raises:
            OSError: it cannot be read, or this one not be written.
        """
        self._flush()
        with pq.ParquetFile(path) as file:
            for group in file.iter_batches(_GROUP):
                self._file.write_batch(group)

    def __exit__(self, *exception: Any) -> None:
        self._closing.__exit__(*exception)

    def _flush(self) -> None:
        if self._pending:
            self._file.write_table(pa.Table.from_pylist(self._pending, self._schema))
            self._pending.clear()


class MapStore(Source):
    """Reads the compact store that `MapWriter` writes, row group by row group.

    Args:
        path: the Parquet file.
        data: the data set; maps belong to its `ids`.
        crop: of the protocol, which the maps have to be made for.

    Attributes:
        order: see `Source`.
        problems: likewise.
        info: likewise.
        labelled: whether the maps are of the true classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such store, or its maps are of another part of the pictures.
    """

    def __init__(self, path: str | os.PathLike[str], data: Any, crop: int | None = None) -> None:
        self.path, self.data = Path(path), data
        if not self.path.is_file():
            raise FileNotFoundError(f"no file or folder of maps at {path}")
        try:
            with pq.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                made = read_info(file)
                missing = [field.name for field in SCHEMA if schema.field(field.name).type != field.type]
                self._starts = np.cumsum(
                    [0] + [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
                )
                ids = [] if missing else file.read(["image_id"])["image_id"].to_pylist()
                first = next(file.iter_batches(1), pa.Table.from_pylist([], schema)).to_pylist()
                self._shape = (first[0]["height"], first[0]["width"]) if first else None
        except (pa.ArrowInvalid, KeyError, ValueError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no store of maps, as `fastcam evaluate --save-maps` writes: {error}") from None
        if missing:
            raise ValueError(f"{path} is no store of maps: expected {missing[0]} to be {SCHEMA.field(missing[0]).type}")
        if made.get("crop") != crop:
            parts = [
                f"the centre of pictures resized to {side}" if side else "whole pictures"
                for side in (made.get("crop"), crop)
            ]
            raise ValueError(f"{path} has maps of {parts[0]}, the protocol is for {parts[1]}")
        self._relu, self.labelled = bool(made.get("relu")), made.get("targets") == "label"
        self.info = {"maps": made}
        places, own, found = Places(data.ids), frozenset(ids), set[int]()
        self.order: list[int] = []
        self.problems: list[tuple[str, str]] = []
        self._rows: list[int] = []
        seen: set[str] = set()
        for row, id in enumerate(ids):
            place = places.get(id)
            if place is not None and data.ids[place] != id and data.ids[place] in own:
                place = None  # it only looks like that picture, which has a map of its own
            if id in seen or place in found:
                self.problems.append((id, f"two maps in {path}"))
            elif place is None:
                self.problems.append((id, f"a map in {path} without a picture {elsewhere(data)}"))
            else:
                self.order.append(place)
                self._rows.append(row)
                found.add(place)
            seen.add(id)
        self.problems += [(id, f"no map in {path}") for place, id in enumerate(data.ids) if place not in found]

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:  # noqa: D102 (see Source)
        wanted = np.array([self._rows[position] for position in positions], np.int64)
        groups = np.searchsorted(self._starts, wanted, "right") - 1
        with pq.ParquetFile(self.path) as file:
            begin = 0
            for group in np.unique(groups).tolist():
                end = np.searchsorted(groups, group, "right")
                rows = file.read_row_group(group).take(wanted[begin:end] - self._starts[group])
                for position, row in zip(positions[begin:end], rows.to_pylist(), strict=True):
                    yield self.order[position], row
                begin = end

    def load(self, place: int, row: dict[str, Any]) -> Loaded:  # noqa: D102 (see Source)
        return attempt(place, self.data.ids[place], lambda: self._decoded(place, row))

    def finish(self, loaded: Sequence[Loaded]) -> Batch:  # noqa: D102 (see Source)
        values = torch.from_numpy(np.stack([map for map, _, _ in (one.content for one in loaded)]))
        classes, ranks = ([one.content[i] for one in loaded] for i in (1, 2))
        return Batch(loaded, values, True, self._relu, classes, ranks=None if not any(ranks) else ranks)

    def _decoded(self, place: int, row: dict[str, Any]) -> tuple[Sample, Any]:
        truth, shape = self.data.truth(place), (row["height"], row["width"])
        if shape != self._shape:
            raise ValueError(f"its map in {self.path} is {list(shape)}, others are {list(self._shape)}")
        values = decode_map(row["map"], *shape)
        if self.labelled and truth.label is not None and row["class_id"] != truth.label:
            raise ValueError(f"its map in {self.path} is of class {row['class_id']}, its label is {truth.label}")
        return truth, (values, row["class_id"], row["rank"])
