"""fastcam's compact store of score maps: coarse maps in one Parquet file."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fastcam._files import replacing
from fastcam.data import Collection, Sample
from fastcam.evaluation.sources.source import Loaded, Maps, Places, Source, elsewhere
from fastcam.methods.scales import summed
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
    and map (its values row by row, little-endian, as "float32", or as "float16" for half the size and a rounding of
    0.05 %). What made the maps is JSON in the file's metadata, under "fastcam". Used in a `with` block, at whose end
    the file gets its name; if the block raises, nothing stays.
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
        """Append maps [N, h, w]; they are held back until they fill a row group, or the `with` block ends.

        Raises ValueError if N differs, or a value is too large for float16.
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
        """Append all maps of another store that was written with the same dtype."""
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


class StoredMap(NamedTuple):
    """A row of the store, with the map decoded: float32 [h, w]."""

    map: np.ndarray
    class_id: int | None
    rank: int | None


class MapStore(Source[dict[str, Any], StoredMap]):
    """Reads the compact store that `MapWriter` writes, row group by row group; `crop` is the protocol's.

    Raises FileNotFoundError if there is no such file, ValueError if it is no such store, or its maps are of another
    part of the pictures.
    """

    def __init__(self, path: str | os.PathLike[str], data: Collection, crop: int | None = None) -> None:
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
        self._made = made
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

    @property
    def info(self) -> Mapping[str, Any]:
        """What made the maps."""
        return {"maps": self._made}

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Places and rows of the file."""
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

    def read(self, place: int, what: dict[str, Any]) -> tuple[Sample, StoredMap]:
        """The map, decoded; it must be of the true class, if it is said to be."""
        truth, shape = self.data.truth(place), (what["height"], what["width"])
        if shape != self._shape:
            raise ValueError(f"its map in {self.path} is {list(shape)}, others are {self._shape and list(self._shape)}")
        values = decode_map(what["map"], *shape)
        if self.labelled and truth.label is not None and what["class_id"] != truth.label:
            raise ValueError(f"its map in {self.path} is of class {what['class_id']}, its label is {truth.label}")
        return truth, StoredMap(values, what["class_id"], what["rank"])

    def finish(self, loaded: Sequence[Loaded[StoredMap]]) -> Maps:
        """The maps of pictures, with the ranks that the store has."""
        values = torch.from_numpy(np.stack([one.content.map for one in loaded]))
        ranks = [one.content.rank for one in loaded]
        return Maps(loaded, values, self._relu, ranks=ranks if any(ranks) else None, summed=summed(self._made))
