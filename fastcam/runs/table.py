"""boxes.parquet read back, row by row, picture by picture or by columns, in memory that does not grow with it."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import groupby, repeat
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fastcam._progress import progress_bar
from fastcam.runs.folder import RunFolder
from fastcam.runs.maps import map_of
from fastcam.runs.schema import CAM_COLUMNS, COLUMNS, MAX_CLASSES, SCHEMA, Row, split_error

_ROWS = 4096  # of all columns in memory at a time; with maps, a sixteenth
_MANY = 1 << 16  # of few columns


class FoundBox(NamedTuple):
    """One row of a picture.

    Attributes:
        rank: place of the class among all by score, 1 the highest.
        class_id: index of the class.
        class_name: its name; None if that is unknown or blank.
        class_score: in [0, 1].
        corners: x0, y0, x1, y1, half-open, in pixels of the upright picture and inside it.
        number: of the box within its class, 1 the largest.
        score: of the box, in [0, 1]; that of its class where the table has no other.
        outside: whether the table has it elsewhere, outside the picture by more than a pixel.
    """

    rank: int
    class_id: int
    class_name: str | None
    class_score: float
    corners: tuple[float, float, float, float]
    number: int
    score: float
    outside: bool = False

    @property
    def name(self) -> str:
        """The class's name, or its index where that is unknown."""
        return str(self.class_id) if self.class_name is None else self.class_name

    @property
    def found(self) -> bool:
        """Whether there is a box at all: constant maps have none."""
        x0, y0, x1, y1 = self.corners
        return x0 < x1 and y0 < y1


class FoundPicture(NamedTuple):
    """All rows of a picture.

    Attributes:
        id: the image_id.
        width: of the upright picture in pixels.
        height: of the upright picture in pixels.
        boxes: in the order of the table, at least one; none for an error.
        maps: class index → coarse map, float32 [h, w]; {} where maps were not asked for.
        error: why the picture has no boxes; None if it has.
        orientation: how the picture is stored, 1 to 8 as EXIF numbers them; 1 for a sample that was no file, and where
            the table has no such column.
    """

    id: str
    width: int = 0
    height: int = 0
    boxes: tuple[FoundBox, ...] = ()
    maps: Mapping[int, np.ndarray] = {}
    error: str | None = None
    orientation: int = 1

    @property
    def found(self) -> list[FoundBox]:
        """Its boxes, without the rows that have none."""
        return [box for box in self.boxes if box.found]

    @property
    def first(self) -> FoundBox:
        """The row of its highest class."""
        return min(self.boxes, key=lambda box: box.rank)

    def pixels(self, box: FoundBox) -> tuple[int, int, int, int]:
        """Round a box to whole pixels.

        Args:
            box: one that is `found`.

        Returns:
            x0, y0, x1, y1, half-open, inside the picture, at least one pixel wide and high.
        """
        x0, y0, x1, y1 = (round(edge) for edge in box.corners)
        x0, y0 = min(x0, self.width - 1), min(y0, self.height - 1)
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


class RunTable:
    """The table of a run.

    Args:
        run: the run's folder, or the Parquet file itself.
        unfinished: of a run without a table, take what it has: boxes.partial.parquet, or the shards that are done.

    Attributes:
        folder: where the table lies.
        files: the Parquet files, in order; but for unfinished runs one.
        complete: whether this is the table of a finished run, or a file that was named.
        columns: those of `Row` that the table has.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table.
    """

    def __init__(self, run: str | os.PathLike[str], *, unfinished: bool = False) -> None:
        run = Path(run)
        self.folder = RunFolder(run if run.is_dir() else run.parent)
        self.files, self.complete = _files(run, unfinished)
        self.columns: tuple[str, ...] = Row._fields
        for path in self.files:
            with open_parquet(path) as file:
                schema = file.schema_arrow
            places = {name: schema.get_field_index(name) for name in Row._fields}  # -1: there is none, or more than one
            known = {name for name, i in places.items() if i >= 0 and schema.types[i] == SCHEMA.field(name).type}
            wrong = next((name for name in COLUMNS if name not in known), None)
            if wrong is not None:
                wanted = f"expected column {wrong}, {SCHEMA.field(wrong).type}"
                raise ValueError(f"{path} is no table of boxes, as `fastcam localize` writes: {wanted}")
            self.columns = tuple(name for name in self.columns if name in known)

    @property
    def path(self) -> Path:
        """The file, of several the first."""
        return self.files[0]

    @property
    def has_maps(self) -> bool:
        """Whether the run kept its maps."""
        return set(CAM_COLUMNS) <= set(self.columns)

    @cached_property
    def info(self) -> dict[str, Any]:
        """The run's settings, from the table's metadata; ValueError if these are no JSON object."""
        with open_parquet(self.path) as file:
            return read_info(file)

    @cached_property
    def given(self) -> bool:
        """Whether classes were given, so that a picture's need not be the highest; False where nothing tells."""
        try:
            return self.info.get("top_k", 0) is None
        except ValueError:
            return False

    @cached_property
    def _plan(self) -> dict[str, Any]:
        """The plan beside the table, which may be another run's; {} if there is none that can be read."""
        try:
            plan = json.loads(self.folder.plan.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return plan if isinstance(plan, dict) else {}

    @property
    def planned(self) -> str | None:
        """Digest of the plan beside the table, which is `info["plan"]` as long as no other run has begun there."""
        digest = self._plan.get("digest")
        return digest if isinstance(digest, str) else None

    @property
    def superseded(self) -> bool:
        """Whether another run has begun in the folder since, whose table is not there yet; raises as `info`."""
        plan = self.info.get("plan")
        return None not in (plan, self.planned) and plan != self.planned

    @property
    def class_names(self) -> dict[int, str]:
        """Class index → name, of all classes of the network, if the plan of this run is still beside the table."""
        names = self._plan.get("class_names")
        if self.planned is None or self.planned != self.info.get("plan") or not isinstance(names, list):
            return {}
        return {index: name for index, name in enumerate(names) if isinstance(name, str) and name.strip()}

    def rows(self, columns: Sequence[str] = COLUMNS) -> Iterator[Row]:
        """Read all rows.

        Args:
            columns: those that are wanted, image_id among them; the others have the values that are `Row`'s defaults,
                and so have those that the table lacks.

        Yields:
            The rows, in order.

        Raises:
            ValueError: the table is damaged.
        """
        for batch in self._batches(columns, _MANY):
            yield from _rows(batch)

    def pictures(self, maps: bool = False, progress: bool = False) -> Iterator[FoundPicture]:
        """Read all pictures. The rows of each stand together.

        Args:
            maps: with their maps, if the table has them.
            progress: show a progress bar where standard error is a terminal.

        Yields:
            The pictures, in the order of the table.

        Raises:
            ValueError: a malformed row; the message names the picture.
        """
        maps = maps and self.has_maps
        columns = [name for name in Row._fields if name != "decoder" and (maps or name not in CAM_COLUMNS)]

        def read() -> Iterator[Row]:
            for batch in self._batches(columns, _ROWS // 16 if maps else _ROWS):
                yield from _rows(batch)
                bar.update(batch.num_rows)

        with progress_bar(progress, total=self._count(), unit="row") as bar:
            for id, rows in groupby(read(), attrgetter("image_id")):
                yield self._picture(id, list(rows), maps)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Read columns, many rows at a time.

        Args:
            columns: those that are wanted, image_id among them; those that the table lacks are left out.

        Yields:
            Tables of consecutive rows that never divide the rows of a picture.

        Raises:
            ValueError: the table is damaged.
        """
        left: pa.Table | None = None
        for batch in self._batches(columns, _MANY):
            table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
            if left is not None:
                table = pa.concat_tables([left, table])
            if table.num_rows:
                last = int(first_rows(table)[-1])
                if last:
                    yield table.slice(0, last)
                left = table.slice(last)
        if left is not None and left.num_rows:
            yield left

    def rows_at(self, first: np.ndarray, count: np.ndarray, columns: Sequence[str]) -> Iterator[list[Row]]:
        """Read the rows of some pictures; of the files, only the row groups that have them.

        Args:
            first: int64 [N], number of each picture's first row in the whole table, ascending.
            count: int64 [N], how many rows it has.
            columns: as of `rows`.

        Yields:
            The rows of each picture, in the order of `first`.
        """
        wanted = np.repeat(first, count) + np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        rows: list[Row] = []
        ends, begin = iter(count.tolist()), 0
        length = next(ends, 0)
        for path in self.files:
            with open_parquet(path) as file:
                for group in range(file.num_row_groups):
                    end = begin + file.metadata.row_group(group).num_rows
                    inside = wanted[np.searchsorted(wanted, begin) : np.searchsorted(wanted, end)] - begin
                    if len(inside):
                        rows += _rows(file.read_row_group(group, self._known(columns)).take(pa.array(inside)))
                    while length and len(rows) >= length:
                        yield rows[:length]
                        rows = rows[length:]
                        length = next(ends, 0)
                    begin = end

    def classes(self) -> list[tuple[int, str | None]]:
        """List the classes of all rows.

        Returns:
            Each pair of index and name, once, in the order of the table; None for a name that is unknown.
        """
        pairs: dict[tuple[int | None, str | None], None] = {}
        for batch in self._batches(["class_id", "class_name"], _MANY):
            groups = pa.Table.from_batches([batch]).group_by(batch.schema.names, use_threads=False).aggregate([])
            pairs |= dict.fromkeys(zip(*(column.to_pylist() for column in groups.columns), strict=True))
        return [(number, name) for number, name in pairs if number is not None]

    def ids(self) -> Iterator[str]:
        """List the pictures.

        Yields:
            The image_id of each, in the order of the table.
        """
        for rows in self.batches(["image_id"]):
            yield from rows.column("image_id").take(pa.array(first_rows(rows))).to_pylist()

    def _count(self) -> int:
        total = 0
        for path in self.files:
            with open_parquet(path) as file:
                total += file.metadata.num_rows
        return total

    def _known(self, columns: Sequence[str]) -> list[str]:
        return [name for name in columns if name in self.columns]

    def _batches(self, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        for path in self.files:
            with open_parquet(path) as file:
                try:
                    yield from file.iter_batches(size, columns=self._known(columns))
                except (pa.ArrowInvalid, OSError) as error:  # pyarrow has OSErrors for damaged pages
                    raise ValueError(f"{path} is damaged: {error}") from None

    def _picture(self, id: str, rows: Sequence[Row], maps: bool) -> FoundPicture:
        failed = next((row for row in rows if row.status != "ok"), None)
        if failed is not None:
            return FoundPicture(id, error=failed.error or "error")
        boxes = tuple(self._box(row, rows[0]) for row in rows)
        kept: dict[int, np.ndarray] = {}
        for row, box in zip(rows, boxes, strict=True):
            if maps and row.cam is not None and box.class_id not in kept:
                kept[box.class_id] = map_of(row.image_id, row.cam, row.cam_height, row.cam_width)
        orientation = rows[0].orientation or 1
        if not 1 <= orientation <= 8:
            raise ValueError(f"{self.path}: {id!r} has orientation {orientation}: expected 1 to 8")
        return FoundPicture(id, rows[0].width or 0, rows[0].height or 0, boxes, kept, orientation=orientation)

    def _box(self, row: Row, first: Row) -> FoundBox:
        """Check a row of a picture, of which `first` is the first."""
        id = row.image_id
        if (
            row.width is None or row.height is None or row.rank is None or row.class_id is None or row.score is None
            or row.x0 is None or row.y0 is None or row.x1 is None or row.y1 is None
            # finite if all are: float32 cannot add up to more than float64 holds
            or not math.isfinite(row.score + row.x0 + row.y0 + row.x1 + row.y1 + (row.box_score or 0))
        ):  # fmt: skip
            raise ValueError(f"{self.path}: a row of {id!r} has an empty or infinite number")
        if (
            row.width != first.width
            or row.height != first.height
            or row.width < 1
            or row.height < 1
            or row.class_id < 0
        ):
            raise ValueError(f"{self.path}: rows of {id!r} contradict each other, or have a negative number")
        if row.class_id >= MAX_CLASSES:
            raise ValueError(f"{self.path}: {id!r} has class {row.class_id}: expected at most {MAX_CLASSES}")
        across, down = float(row.width), float(row.height)
        return FoundBox(
            row.rank,
            row.class_id,
            row.class_name if row.class_name and row.class_name.strip() else None,
            row.score,
            (
                min(max(row.x0, 0.0), across),
                min(max(row.y0, 0.0), down),
                min(max(row.x1, 0.0), across),
                min(max(row.y1, 0.0), down),
            ),
            row.box or 1,
            row.score if row.box_score is None else row.box_score,
            min(row.x0, row.y0) < -1 or row.x1 > across + 1 or row.y1 > down + 1,
        )


def _rows(table: pa.RecordBatch | pa.Table) -> Iterator[Row]:
    """Rows of some columns; the others have their defaults."""
    names, defaults = table.schema.names, Row._field_defaults
    columns = [table.column(name).to_pylist() if name in names else repeat(defaults[name]) for name in Row._fields]
    return map(Row._make, zip(*columns, strict=False))


def _files(run: Path, unfinished: bool) -> tuple[list[Path], bool]:
    """The table of a run, or what there is of one that is unfinished, and whether it is finished."""
    folder = RunFolder(run)
    if not unfinished or run.is_file() or folder.table.is_file():
        return [table_path(run)], True
    if not run.exists():
        raise FileNotFoundError(f"no run at {run}")
    parts = [folder.partial] if folder.partial.is_file() else folder.marked_parts()
    if not parts:
        raise FileNotFoundError(f"{run} has neither boxes.parquet nor finished shards: expected the --out of a run")
    return parts, False


def table_path(run: str | os.PathLike[str]) -> Path:
    """The table in a run's folder, or the file itself; FileNotFoundError if there is none."""
    path = Path(run)
    path = RunFolder(path).table if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no table of boxes at {path}")
    return path


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file, to be closed, for reading in little memory; ValueError if it is none."""
    try:
        return pq.ParquetFile(path, buffer_size=1 << 18)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None


def read_info(file: pq.ParquetFile) -> dict[str, Any]:
    """The JSON object in a file's metadata under "fastcam", {} if there is none; ValueError if it is something else."""
    text = (file.schema_arrow.metadata or {}).get(b"fastcam", b"{}")
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise ValueError(f"the table's metadata must hold a JSON object under `fastcam`, got {text[:100]!r}")
    return info


def first_rows(table: pa.Table) -> np.ndarray:
    """Where pictures begin in a table with column image_id and at least one row: int64 [N], the first row of each."""
    ids = table.column("image_id").combine_chunks()
    changes = pc.not_equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False)
    return np.concatenate([[0], 1 + np.flatnonzero(changes)])


class Audit(NamedTuple):
    """What is in a table.

    Attributes:
        pictures: how many; None if the inputs are not known.
        rows: how many.
        errors: code → pictures that failed.
    """

    pictures: int | None
    rows: int
    errors: Counter[str]


def audit(path: Path, keys: Iterator[str] | None) -> Audit:
    """Read a table back and compare it with the inputs.

    Every input must be there once, in order: with one row of an error, or with one row for each box of a rank.

    Args:
        path: the table.
        keys: of all inputs, each but once; None if they are not known, so that only rows are counted.

    Returns:
        What was counted.

    Raises:
        RuntimeError: an input is missing, doubled, out of place, or has rows that contradict each other.
    """
    errors: Counter[str] = Counter()
    rows, pictures = 0, 0

    def counted(row: Row) -> Row:
        nonlocal rows
        rows += 1
        if row.status != "ok":
            errors[split_error(row.error)[0]] += 1
        return row

    found = map(counted, RunTable(path).rows(["image_id", "status", "error", "rank", "box"]))
    if keys is None:
        for _ in found:
            pass
        return Audit(None, rows, errors)
    for key, group in groupby(found, attrgetter("image_id")):
        wanted = next(keys, None)
        places = [(row.rank, row.box) if row.status == "ok" else None for row in group]
        if key != wanted or len(set(places)) < len(places) or (None in places and len(places) > 1):
            raise RuntimeError(f"the audit failed: {len(places)} rows of {key!r} where {wanted!r} belongs")
        pictures += 1
    if (wanted := next(keys, None)) is not None:
        raise RuntimeError(f"the audit failed: there are no rows of {wanted!r}")
    return Audit(pictures, rows, errors)
