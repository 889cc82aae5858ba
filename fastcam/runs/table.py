"""boxes.parquet, read picture by picture in memory that does not grow with the table."""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from fastcam.data.reading import MAX_CLASSES
from fastcam.pictures import Header
from fastcam.runs.folder import RunFolder
from fastcam.runs.maps import decode_map, open_table, table_path, told
from fastcam.runs.schema import SCHEMA

_EDGES = ("x0", "y0", "x1", "y1")
_NUMBERS = ("width", "height", "rank", "class_id", "score", *_EDGES)
_NAMES = ("image_id", "class_name", "status", "error", *_NUMBERS)
_BOX = {"box": pa.int32(), "box_score": pa.float32()}  # of runs that may find several boxes of a class
_HOW = {"orientation": pa.int8()}  # of runs that tell it
_CAM = ("cam", "cam_height", "cam_width")
_ROWS = 4096  # in memory at a time; with maps, a sixteenth


class Box(NamedTuple):
    """One row of a picture.

    Attributes:
        rank: place of the class among all by score, 1 the highest.
        class_id: index of the class.
        class_name: its name; None if that is unknown or blank.
        class_score: in [0, 1].
        corners: x0, y0, x1, y1, half-open, in pixels of the upright picture and inside it.
        number: of the box within its class, 1 the largest.
        score: of the box, in [0, 1]; that of its class where the table has no other.
    """

    rank: int
    class_id: int
    class_name: str | None
    class_score: float
    corners: tuple[float, float, float, float]
    number: int
    score: float

    @property
    def name(self) -> str:
        """The class's name, or its index where that is unknown."""
        return str(self.class_id) if self.class_name is None else self.class_name

    @property
    def found(self) -> bool:
        """Whether there is a box at all: constant maps have none."""
        x0, y0, x1, y1 = self.corners
        return x0 < x1 and y0 < y1


class Picture(NamedTuple):
    """All rows of a picture.

    Attributes:
        id: the image_id.
        width: of the upright picture in pixels.
        height: likewise.
        boxes: in the order of the table, at least one; none for an error.
        maps: class index → coarse map, float32 [h, w]; {} where maps were not asked for.
        error: why the picture has no boxes; None if it has.
        orientation: how the picture is stored, 1 to 8 as EXIF numbers them; 1 for a sample that was no file, and where
            the table does not tell.
    """

    id: str
    width: int = 0
    height: int = 0
    boxes: tuple[Box, ...] = ()
    maps: Mapping[int, np.ndarray] = {}
    error: str | None = None
    orientation: int = 1

    @property
    def found(self) -> list[Box]:
        """Its boxes, without the rows that have none."""
        return [box for box in self.boxes if box.found]

    @property
    def first(self) -> Box:
        """The row of its highest class."""
        return min(self.boxes, key=lambda box: box.rank)

    def pixels(self, box: Box) -> tuple[int, int, int, int]:
        """Round a box to whole pixels.

        Args:
            box: one that is `found`.

        Returns:
            x0, y0, x1, y1, half-open, inside the picture, at least one pixel wide and high.
        """
        x0, y0, x1, y1 = (round(edge) for edge in box.corners)
        x0, y0 = min(x0, self.width - 1), min(y0, self.height - 1)
        return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


class Table:
    """The table of a run.

    Args:
        run: the run's folder, or the Parquet file itself.

    Attributes:
        path: the file.
        info: what it tells of its making.
        has_maps: whether the run kept its maps.
        class_names: class index → name, of all classes of the network, if the plan of this run is still beside it.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such table.
    """

    def __init__(self, run: str | os.PathLike[str]) -> None:
        self.path = table_path(run)
        with open_table(self.path) as file:
            schema = file.schema_arrow
            wrong = [n for n in _NAMES if n not in schema.names or schema.field(n).type != SCHEMA.field(n).type]
            if wrong:
                wanted = f"expected column {wrong[0]}, {SCHEMA.field(wrong[0]).type}"
                raise ValueError(f"{self.path} is no table of boxes, as `fastcam localize` writes: {wanted}")
            self.info = told(file)
            self.has_maps = set(_CAM) <= set(schema.names)
            self._more = [
                name for name, kind in (_BOX | _HOW).items() if name in schema.names and schema.field(name).type == kind
            ]
            self._rows = file.metadata.num_rows
        self.class_names = _planned_names(RunFolder(self.path.parent).plan, self.info.get("plan"))

    def pictures(self, maps: bool = False, progress: bool = False) -> Iterator[Picture]:
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
        with tqdm(total=self._rows, unit="row", disable=None if progress else True) as bar:
            for id, rows in groupby(self._read(maps, bar), lambda row: row["image_id"]):
                yield self._picture(id, list(rows), maps)

    def headers(self) -> Iterator[tuple[str, Header]]:
        """Read how the pictures are stored, as far as the table tells.

        Yields:
            The id of each picture that is turned by EXIF, with size and orientation.

        Raises:
            ValueError: the table is damaged.
        """
        if "orientation" not in self._more:
            return
        with open_table(self.path) as file:
            try:
                for batch in file.iter_batches(columns=["image_id", "width", "height", "orientation"]):
                    turned = [row for row in batch.to_pylist() if (row["orientation"] or 1) > 1]
                    for row in turned:
                        if row["width"] and row["height"]:
                            yield row["image_id"], Header((row["width"], row["height"]), row["orientation"])
            except (pa.ArrowInvalid, OSError) as error:
                raise ValueError(f"{self.path} is damaged: {error}") from None

    def _read(self, maps: bool, bar: tqdm) -> Iterator[dict[str, Any]]:
        with open_table(self.path) as file:
            try:
                for batch in file.iter_batches(
                    _ROWS // 16 if maps else _ROWS, columns=[*_NAMES, *self._more, *_CAM * maps]
                ):
                    yield from batch.to_pylist()
                    bar.update(len(batch))
            except (pa.ArrowInvalid, OSError) as error:  # pyarrow has OSErrors for damaged pages
                raise ValueError(f"{self.path} is damaged: {error}") from None

    def _picture(self, id: str, rows: Sequence[Mapping[str, Any]], maps: bool) -> Picture:
        failed = next((row for row in rows if row["status"] != "ok"), None)
        if failed is not None:
            return Picture(id, error=failed["error"] or "error")
        width, height = rows[0]["width"], rows[0]["height"]
        kept = {}
        for row in rows:
            numbers = [row[name] for name in _NUMBERS]
            if None in numbers or not all(map(math.isfinite, [*numbers, row.get("box_score") or 0])):
                raise ValueError(f"{self.path}: a row of {id!r} has an empty or infinite number")
            if (row["width"], row["height"]) != (width, height) or min(width, height) < 1 or row["class_id"] < 0:
                raise ValueError(f"{self.path}: rows of {id!r} contradict each other, or have a negative number")
            if row["class_id"] >= MAX_CLASSES:
                raise ValueError(f"{self.path}: {id!r} has class {row['class_id']}: expected at most {MAX_CLASSES}")
            if maps and row["cam"] is not None and row["class_id"] not in kept:
                kept[row["class_id"]] = decode_map(id, *(row[name] for name in _CAM))
        ends = dict(zip(_EDGES, (width, height, width, height), strict=True))
        boxes = [
            Box(
                row["rank"],
                row["class_id"],
                row["class_name"] if (row["class_name"] or "").strip() else None,
                row["score"],
                tuple(min(max(row[edge], 0.0), float(end)) for edge, end in ends.items()),
                row.get("box") or 1,
                row["score"] if row.get("box_score") is None else row["box_score"],
            )
            for row in rows
        ]
        orientation = rows[0].get("orientation") or 1
        if not 1 <= orientation <= 8:
            raise ValueError(f"{self.path}: {id!r} has orientation {orientation}: expected 1 to 8")
        return Picture(id, width, height, tuple(boxes), kept, orientation=orientation)


def _planned_names(path: Path, digest: str | None) -> dict[int, str]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        known = plan["class_names"] if digest is not None and plan["digest"] == digest else []
        return {index: name for index, name in enumerate(known) if name.strip()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # a table may be alone, or beside another's plan
        return {}
