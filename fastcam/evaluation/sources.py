"""Where score maps come from: a folder of .npy files in the standard's layout, or fastcam's compact store.

A source lists places in a data set in an order of its own (`order`) and what is wrong at first sight (`problems`). For
positions in that order it makes jobs, `load` does one job (in a thread), and `finish` makes a batch of what was loaded.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from fastcam.data import Sample
from fastcam.decoding import DecodeError
from fastcam.writers import replacing

_GROUP = 512  # maps of a row group; what a reader holds at a time
_DTYPES = ("float32", "float16")


class Loaded(NamedTuple):
    """One picture's part of a batch, or the reason why there is none.

    Attributes:
        place: index in the data set.
        id: the picture's.
        truth: what the data set knows, without the picture.
        content: what the source made ready for `finish`.
        error: why it is of no use; None if all is well.
    """

    place: int
    id: str
    truth: Sample | None = None
    content: Any = None
    error: str | None = None


class Batch(NamedTuple):
    """Maps of several pictures.

    Attributes:
        loaded: the pictures, N of them.
        maps: [N, H, W] or N arrays [H, W], floating.
        coarse: whether the protocol has yet to upsample the maps.
        relu: whether coarse maps are to be clipped at zero first.
        classes: class index of each map, where it is known.
        logits: [N, C], or None.
        ranks: place of the true class of each among the logits, 1 the highest; None where that is not known.
    """

    loaded: Sequence[Loaded]
    maps: Tensor | Sequence[np.ndarray]
    coarse: bool
    relu: bool
    classes: Sequence[int | None]
    logits: Tensor | None = None
    ranks: Sequence[int | None] | None = None


class Source(Protocol):
    """What gives maps.

    Attributes:
        order: places in the data set, in the order in which the maps come.
        problems: (id, reason) of pictures that have no map, and of maps that have no picture.
        info: what makes the maps, as JSON has it; two runs of the same info give the same maps.
    """

    order: Sequence[int]
    problems: Sequence[tuple[str, str]]
    info: Mapping[str, Any]

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Give arguments of `load`.

        Args:
            positions: ascending places in `order`.

        Yields:
            One job for each, in order.
        """

    def load(self, place: int, *job: Any) -> Loaded:
        """Do the work of one picture; called in threads.

        Args:
            place: index in the data set.
            *job: what else `jobs` gave.

        Returns:
            The picture, ready for `finish`.
        """

    def finish(self, loaded: Sequence[Loaded]) -> Batch:
        """Make a batch.

        Args:
            loaded: pictures without error, at least one.

        Returns:
            Their maps.
        """


def attempt(place: int, id: str, work: Callable[[], tuple[Sample, Any]]) -> Loaded:
    """Load one picture, or tell why that failed.

    Args:
        place: index in the data set.
        id: the picture's.
        work: gives its truth and content.

    Returns:
        Both, or the error.
    """
    try:
        truth, content = work()
    except DecodeError as error:
        return Loaded(place, id, error=str(error))
    except OSError as error:
        return Loaded(place, id, error=f"unreadable: {error.strerror or error}")
    except ValueError as error:
        return Loaded(place, id, error=str(error))
    return Loaded(place, id, truth._replace(image=None), content)


class MapFolder:
    """Finished maps, one file each: `<image_id>.npy`, as the standard evaluator has them, or the id without its suffix.

    Files hold floating [H, W] in [0, 1]. They are read without pickle.

    Args:
        folder: where they lie.
        data: the data set; its `ids` name the files.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], data: Any) -> None:
        self.folder, self.data = Path(folder), data
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of maps at {folder}")
        self.info = {"maps": "npy"}
        found = {path: False for path in _files(self.folder, ".npy")}  # and whether it has an owner
        self.order: list[int] = []
        self.problems: list[tuple[str, str]] = []
        self._files: list[str] = []
        for place, id in enumerate(data.ids):
            names = dict.fromkeys((f"{id}.npy", f"{os.path.splitext(id)[0]}.npy"))
            there = [name for name in names if name in found]
            if not there:
                self.problems.append((id, f"no map: expected {self.folder / id}.npy"))
            elif len(there) > 1:
                self.problems.append((id, f"two maps: {there[0]} and {there[1]} in {self.folder}"))
            elif found[there[0]]:
                self.problems.append((id, f"its map {there[0]} is another picture's, too"))
            else:
                self.order.append(place)
                self._files.append(there[0])
            found.update(dict.fromkeys(there, True))
        extra = [name for name, owned in found.items() if not owned]
        self.problems += [(name, f"a map in {self.folder} without a picture in the data set") for name in extra]

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, str]]:
        """See `Source`."""
        return ((self.order[position], self._files[position]) for position in positions)

    def load(self, place: int, name: str) -> Loaded:
        """See `Source`."""
        return attempt(place, self.data.ids[place], lambda: (self.data.truth(place), _read_npy(self.folder / name)))

    def finish(self, loaded: Sequence[Loaded]) -> Batch:
        """See `Source`."""
        return Batch(loaded, [one.content for one in loaded], False, False, [one.truth.label for one in loaded])


def _files(folder: Path, suffix: str) -> Iterator[str]:
    """Paths below a folder, relative with "/", sorted."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(suffix):
                yield Path(parent, name).relative_to(folder).as_posix()


def _read_npy(path: Path) -> np.ndarray:
    try:
        values = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from None
    if not isinstance(values, np.ndarray):
        values.close()
        raise ValueError(f"{path} is an archive of arrays: expected one array")
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"a map must be floating [H, W], got {values.dtype} {list(values.shape)} in {path}")
    return values


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


class MapStore:
    """Reads the compact store that `MapWriter` writes, row group by row group.

    Args:
        path: the Parquet file.
        data: the data set; maps belong to its `ids`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is no such store.
    """

    def __init__(self, path: str | os.PathLike[str], data: Any) -> None:
        self.path, self.data = Path(path), data
        if not self.path.is_file():
            raise FileNotFoundError(f"no file of maps at {path}")
        try:
            with pq.ParquetFile(self.path) as file:
                schema = file.schema_arrow
                made = json.loads((schema.metadata or {}).get(b"fastcam", b"{}"))
                self._dtype = np.dtype({name: name for name in _DTYPES}[made["dtype"]]).newbyteorder("<")
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
        self._relu, self._labelled = bool(made.get("relu")), made.get("targets") == "label"
        self.info = {"maps": made}
        places = {id: place for place, id in enumerate(data.ids)}
        self.order: list[int] = []
        self.problems: list[tuple[str, str]] = []
        self._rows: list[int] = []
        seen: set[str] = set()
        for row, id in enumerate(ids):
            if id in seen:
                self.problems.append((id, f"two maps in {path}"))
            elif id not in places:
                self.problems.append((id, f"a map in {path} without a picture in the data set"))
            else:
                self.order.append(places[id])
                self._rows.append(row)
            seen.add(id)
        self.problems += [(id, f"no map in {path}") for id in data.ids if id not in seen]

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Source`."""
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

    def load(self, place: int, row: dict[str, Any]) -> Loaded:
        """See `Source`."""
        return attempt(place, self.data.ids[place], lambda: self._decoded(place, row))

    def finish(self, loaded: Sequence[Loaded]) -> Batch:
        """See `Source`."""
        values = torch.from_numpy(np.stack([map for map, _, _ in (one.content for one in loaded)]))
        classes, ranks = ([one.content[i] for one in loaded] for i in (1, 2))
        return Batch(loaded, values, True, self._relu, classes, ranks=None if not any(ranks) else ranks)

    def _decoded(self, place: int, row: dict[str, Any]) -> tuple[Sample, Any]:
        truth, shape = self.data.truth(place), (row["height"], row["width"])
        if shape != self._shape:
            raise ValueError(f"its map in {self.path} is {list(shape)}, others are {list(self._shape)}")
        if len(row["map"]) != shape[0] * shape[1] * self._dtype.itemsize:
            raise ValueError(
                f"its map in {self.path} must be {list(shape)} {self._dtype.name}, got {len(row['map'])} bytes"
            )
        if self._labelled and truth.label is not None and row["class_id"] != truth.label:
            raise ValueError(f"its map in {self.path} is of class {row['class_id']}, its label is {truth.label}")
        map = np.frombuffer(row["map"], self._dtype).reshape(shape).astype(np.float32)
        return truth, (map, row["class_id"], row["rank"])
