"""What an evaluation has done so far, on disk: it can go on after a break, and parts of it can be put together.

`run.json` says what is measured. `<position>-<records>.safetensors` has the evaluator's sums after that many positions;
it is written last, so that whatever goes beyond it is dropped on resuming. `records.bin` has one record for each
picture, `maps/` the maps since each save.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from fastcam._files import replacing
from fastcam.evaluation.accumulator import Accumulator
from fastcam.evaluation.sources import Loaded, Maps, MapWriter

E = TypeVar("E", bound=Accumulator)
_SUFFIX = ".safetensors"


class Span(NamedTuple):
    """A run's share of the work, as positions in the order of its source; `total` of all parts together."""

    start: int
    stop: int
    total: int


class Progress(Generic[E]):
    """A folder with the evaluator's sums, a record of each picture, and maps that are to be kept.

    Args:
        folder: it.
        run: what must agree between runs whose figures may be put together, as JSON has it.
        span: the share of this run.
        make: a new evaluator, the same each time.
        map_dtype: of the maps that are to be kept, "float32" or "float16"; None for none.
        map_info: what made them.
        ranked: how many classes have scores in each record.

    Attributes:
        evaluator: whose sums are kept.
        position: up to where the work is done; `span.start` at first.
    """

    def __init__(
        self,
        folder: Path,
        run: Mapping[str, Any],
        span: Span,
        make: Callable[[], E],
        map_dtype: str | None,
        map_info: Mapping[str, Any],
        ranked: int = 0,
    ) -> None:
        self.folder, self.span, self.evaluator = folder, span, make()
        self.position, self._saved, self._count = span.start, -1, 0
        self._run = json.loads(json.dumps(dict(run)))
        self._make, self._map_dtype, self._map_info = make, map_dtype, map_info
        self._maps: MapWriter | None = None
        self._file: BinaryIO | None = None
        levels = self.evaluator.levels
        fields = [("place", "<i8"), ("reference", "<f8"), ("label", "<i4"), ("rank", "<i4"), ("iou", "<f4", (levels,))]
        self._dtype = np.dtype(fields + [("scores", "<f4", (ranked,))] * (ranked > 0))

    @property
    def saved(self) -> bool:
        """Whether an earlier run has saved something here."""
        return any(self.folder.glob(f"*{_SUFFIX}"))

    def begin(self) -> None:
        """Start anew; what an earlier run left is deleted."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        (self.folder / "maps").mkdir(parents=True)
        with replacing(self.folder / "run.json") as partial:
            partial.write_text(json.dumps({"run": self._run, "span": self.span}), encoding="utf-8")

    def resume(self) -> bool:
        """Go on where an earlier run of the same share was broken off; gives whether there was one.

        Raises:
            ValueError: it measured something else, or its files are damaged.
        """
        if (saved := self._latest(self.folder)) is None:
            return False
        span, self.position, self._count = saved
        if span != self.span:
            raise ValueError(f"{self.folder} is of positions {span.start} to {span.stop}, not {self.span[:2]}")
        self.evaluator.load(self._sums(self.folder, self.position, self._count))
        self._saved = self.position
        os.truncate(self.folder / "records.bin", self._count * self._dtype.itemsize)
        for path in (self.folder / "maps").iterdir():
            if path.name.startswith(".") or int(path.stem) >= self.position:
                path.unlink()
        return True

    def join(self, parts: Sequence[Path]) -> None:
        """Take over what the runs of all parts, in any order, have done, instead of working.

        Raises:
            FileNotFoundError: one has no such folder.
            ValueError: one measured something else, is not finished or damaged, or they do not make a whole.
        """
        found = []
        if self.folder.resolve() in [part.resolve() for part in parts]:
            raise ValueError(f"{self.folder.parent} is one of the parts: put the whole into another folder")
        for part in parts:
            if (saved := self._latest(part)) is None:
                raise FileNotFoundError(f"no part of an evaluation in {part.parent}: its run has --part")
            span, position, count = saved
            if position < span.stop:
                raise ValueError(
                    f"{part.parent} is not finished: {span.stop - position} pictures are left; --resume it"
                )
            found.append((span, count, part))
        found.sort()
        ends = [self.span.start, *(span.stop for span, _, _ in found)]
        starts = [*(span.start for span, _, _ in found), self.span.stop]
        if ends != starts or any(span.total != self.span.total for span, _, _ in found):
            shares = ", ".join(f"{span.start} to {span.stop} of {span.total}" for span, _, _ in found)
            raise ValueError(f"the parts must be all of {self.span.total} pictures, each once; got {shares}")
        self.begin()
        for span, count, part in found:
            other = self._make()
            other.load(self._sums(part, span.stop, count))
            self.evaluator.merge(other)
            with open(part / "records.bin", "rb") as records:
                shutil.copyfileobj(records, self._records)
            for path in (part / "maps").glob("*.parquet"):
                shutil.copy(path, self.folder / "maps" / path.name)
            self._count += count
        self.save(self.span.stop)

    def record(
        self,
        loaded: Sequence[Loaded[Any]],
        rank: Sequence[int | None] | np.ndarray | None,
        reference: Any,
        iou: Any,
        scores: np.ndarray | None = None,
    ) -> None:
        """Note n pictures: rank of their true classes or None, reference [n] (see `Scores`), IoU [n, K] by level.

        And scores [n, `ranked`], where there are such.
        """
        rows = np.zeros(len(loaded), self._dtype)
        rows["place"] = [one.place for one in loaded]
        rows["label"] = [-1 if one.truth.label is None else one.truth.label for one in loaded]
        rows["rank"] = 0 if rank is None else rank
        rows["reference"], rows["iou"] = reference, iou
        if scores is not None:
            rows["scores"] = scores
        self._records.write(rows.tobytes())
        self._count += len(rows)

    def keep(self, maps: Maps, rows: Sequence[int]) -> None:
        """Keep some of a batch's coarse maps, if they are wanted; ValueError if the dtype cannot hold a value."""
        if self._map_dtype is None or not rows or not isinstance(maps.maps, Tensor):
            return
        if self._maps is None:
            path = self.folder / "maps" / f"{self.position:012d}.parquet"
            self._maps = MapWriter(path, self._map_info, self._map_dtype)
            self._maps.__enter__()
        nothing = [None] * len(maps.loaded)
        classes, ranks = maps.classes or nothing, maps.ranks or nothing
        self._maps.write(
            [maps.loaded[row].id for row in rows],
            maps.maps[list(rows)],
            [classes[row] for row in rows],
            [ranks[row] for row in rows],
        )

    def save(self, position: int) -> None:
        """Make all that was done up to a position durable."""
        if self._maps is not None:
            self._maps.__exit__(None, None, None)
            self._maps = None
        self._records.flush()
        os.fsync(self._records.fileno())
        old = self._saved
        self.evaluator.save(self._sums(self.folder, position, self._count))
        for path in self.folder.glob(f"{old:012d}-*{_SUFFIX}") if old not in (-1, position) else ():
            path.unlink()
        self.position = self._saved = position

    def close(self) -> None:
        """Close the files; what was not saved is dropped."""
        if self._file is not None:
            self._file.close()
        if self._maps is not None:
            self._maps.__exit__(InterruptedError, InterruptedError("not saved"), None)
            self._maps = None

    def records(self) -> np.ndarray:
        """The records in the order of the work, mapped from the file.

        "place" in the data set, "label" (-1 for none), "rank" of it (0 for none), "iou", float32 [K], by 8-bit level,
        "reference" (see `Scores`), and where classes are ranked "scores", float32 (see `Maps`).
        """
        self._records.flush()
        if not self._count:
            return np.zeros(0, self._dtype)
        return np.memmap(self.folder / "records.bin", self._dtype, "r", shape=(self._count,))

    def write_maps(self, path: Path) -> None:
        """Write all maps that were kept, if they are wanted, to one store."""
        if self._map_dtype is None:
            return
        with MapWriter(path, self._map_info, self._map_dtype) as writer:
            for segment in sorted((self.folder / "maps").glob("*.parquet")):
                writer.copy(segment)

    @property
    def _records(self) -> BinaryIO:
        if self._file is None:
            self._file = open(self.folder / "records.bin", "ab")  # noqa: SIM115 (as long as the run)
        return self._file

    def _latest(self, folder: Path) -> tuple[Span, int, int] | None:
        """Share, position and records of a folder's last save."""
        if not (folder / "run.json").is_file():
            return None
        try:
            stored = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            theirs, span = stored["run"], Span(*stored["span"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{folder / 'run.json'} is damaged: {error}") from None
        for key in self._run.keys() | theirs.keys():
            if self._run.get(key) != theirs.get(key):
                raise ValueError(
                    f"{folder.parent} has {key} {json.dumps(theirs.get(key))}, not {json.dumps(self._run.get(key))}"
                )
        saved = sorted(path.stem for path in folder.glob(f"*-*{_SUFFIX}") if not path.name.startswith("."))
        if not saved:
            return None
        position, count = map(int, saved[-1].split("-"))
        if (folder / "records.bin").stat().st_size < count * self._dtype.itemsize:
            raise ValueError(f"{folder / 'records.bin'} is damaged: it is shorter than the {count} records of its run")
        return span, position, count

    @staticmethod
    def _sums(folder: Path, position: int, count: int) -> Path:
        return folder / f"{position:012d}-{count:012d}{_SUFFIX}"
