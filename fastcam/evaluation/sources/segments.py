"""Maps of several classes a picture beside its class PNG: of a run that kept them, of .npz files, or labels as PNGs."""

import os
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import cv2
import numpy as np

from fastcam._check import listed
from fastcam._files import read_npy
from fastcam.data import Collection, Pictures, Sample
from fastcam.data.names import Names
from fastcam.data.segments import Segments, listed_names
from fastcam.evaluation.segmentation import Histograms, confusion, count, mean, overlap
from fastcam.evaluation.sources.source import Loaded, Maps, Places, Source
from fastcam.export.labels import CLASSES, decided
from fastcam.export.maps import Upsampler
from fastcam.pictures import DecodeError, Header, decode_indices, read_header
from fastcam.refinement import Refiner, checked, refined
from fastcam.runs.maps import map_of
from fastcam.runs.schema import CAM_COLUMNS, Row
from fastcam.runs.table import RunTable, first_rows

J = TypeVar("J")
_HEADER = 1 << 16  # bytes of an array's header at most
_ROW = ("image_id", "width", "height", "class_id", "status", "error", "orientation", *CAM_COLUMNS)


class Labelled(NamedTuple):
    """What is measured of a picture.

    Attributes:
        maps: float32 [K, H, W] in [0, 1].
        values: K class indices as class PNGs have them.
        truth: uint8 [H, W].
    """

    maps: np.ndarray
    values: list[int]
    truth: np.ndarray


class Counted(NamedTuple):
    """What was measured of a picture: its histograms, and mean IoU in percent at each threshold, float64 [1000]."""

    histograms: Histograms
    iou: np.ndarray


class Refinement(NamedTuple):
    """What draws maps to the edges of their pictures, if anything, and the level of the background beside a CRF's."""

    refine: Refiner | None = None
    level: float = 0.2


UNREFINED = Refinement()


class SegmentMaps(Source[J, Counted], Generic[J]):
    """Maps of pictures that have class PNGs: the base of the sources below.

    Attributes:
        segments: the class PNGs, with all names that are known.
        others: how many pictures have maps, but are not in the data set, and so are not measured.
        refine: what draws the maps to the edges of their pictures, which the data set must have then: of a CRF, labels
            at one level are left, that of the background beside the maps.
    """

    labelled = True
    others = 0

    def __init__(self, data: Collection, segments: Segments, refinement: Refinement) -> None:
        self.data, self.segments = data, segments
        self.refine, self._level = refinement
        self.graded = self.refine != "crf"

    @property
    def info(self) -> Mapping[str, Any]:
        """What made the maps, and what they are compared with."""
        made = {"maps": self._made, "truth": self.segments.folder.name}
        if self.refine is None:
            return made
        return made | {"refine": self.refine} | ({"level": self._level} if self.refine == "crf" else {})

    def look(self, place: int, what: J) -> Labelled:
        """Maps and truth of a picture; raises ValueError or OSError if it is of no use."""
        found = self._look(place, what)
        if self.refine is None or not len(found.maps):
            return found
        pixels = self.data.pixels(place) if isinstance(self.data, Pictures) else self.data[place].image
        pixels = checked(pixels, found.maps.shape[:0:-1])
        draw = refined if self.refine == "pamr" else partial(decided, low=self._level, high=self._level)
        return found._replace(maps=draw(found.maps, pixels))

    @property
    @abstractmethod
    def _made(self) -> Any:
        """What made the maps."""

    @abstractmethod
    def _look(self, place: int, what: J) -> Labelled:
        """Maps as they are, and truth of a picture."""

    def read(self, place: int, what: J) -> tuple[Sample, Counted]:
        """Count its pixels, which is done here, in a thread."""
        found = count(*self.look(place, what))
        return Sample(None, id=self.data.ids[place]), Counted(found, _mean_iou(found))

    def finish(self, loaded: Sequence[Loaded[Counted]]) -> Maps:
        """The pictures; what was counted is in their content."""
        return Maps(loaded, [])

    def _truth(self, place: int, header: Header | None) -> np.ndarray:
        """The class PNG of a picture, whose header is looked for where the maps do not tell it."""
        if header is None and isinstance(self.data, Pictures) and isinstance(file := self.data.files[place], Path):
            try:
                header = read_header(file)
            except DecodeError:
                header = None  # maps can be measured where the pictures themselves are not
        return self.segments.read(self.data.ids[place], header)


class RunMaps(SegmentMaps[list[Row]]):
    """The maps that a run of `fastcam.localize` kept: all classes that a picture has in the table.

    They are upsampled as the run did, each to [0, 1]. Pictures with an error in the run are background. Raises
    ValueError if the run has no maps, or a class that is none of those of the class PNGs.
    """

    def __init__(
        self, run: str | os.PathLike[str], data: Collection, segments: Segments, refinement: Refinement = UNREFINED
    ) -> None:
        super().__init__(data, segments, refinement)
        self._table = RunTable(run)
        if not self._table.has_maps:
            raise ValueError(f"{run} has no maps: expected a run with `maps`, as of `fastcam localize --maps`")
        self.upsampling = Upsampler.of(self._table.info)
        names = self._table.class_names | {key: name for key, name in self._table.classes() if name is not None}
        classes = [key for key, _ in self._table.classes()]
        self._values = values_of(classes, names, segments.names, str(self._table.path))
        self.order: list[int] = []
        self.problems: list[tuple[str, str]] = []
        self.errors: list[tuple[str, str]] = []
        places, seen = Places(data.ids), set[int]()
        begin, first, number = 0, [], []
        for rows in self._table.batches(["image_id", "status", "error"]):
            starts = first_rows(rows)
            ids, states, errors = (rows[name].take(starts).to_pylist() for name in ("image_id", "status", "error"))
            for id, state, error, start, stop in zip(
                ids, states, errors, starts, [*starts[1:], rows.num_rows], strict=True
            ):
                place = places.get(id)
                if place is None:
                    self.others += 1
                    continue
                if place in seen:
                    self.problems.append((id, f"rows of {data.ids[place]}, which has some already, in {run}"))
                    continue
                seen.add(place)
                self.order.append(place)
                first.append(begin + start)
                number.append(stop - start)
                if state != "ok":
                    self.errors.append((id, error or "error"))
            begin += rows.num_rows
        self._first, self._number = np.array(first, np.int64), np.array(number, np.int64)
        self.problems += [(id, f"no rows in {run}") for place, id in enumerate(data.ids) if place not in seen]

    @property
    def _made(self) -> dict[str, Any]:
        return {name: self._table.info.get(name) for name in ("arch", "method", "relu", "mode", "plan")}

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, list[Row]]]:
        """Places and rows."""
        wanted = np.asarray(positions, np.int64)
        rows = self._table.rows_at(self._first[wanted], self._number[wanted], _ROW)
        return zip((self.order[position] for position in positions), rows, strict=True)

    def _look(self, place: int, what: list[Row]) -> Labelled:
        """The maps, upsampled to the picture, and its class PNG."""
        size = (what[0].width or 0, what[0].height or 0)
        kept: dict[int, np.ndarray] = {}
        failed = what[0].status != "ok"
        if self._table.given:  # in the order in which labels are exported: where two maps tie, the first counts
            what = sorted(what, key=lambda row: row.class_id or 0)
        for row in what:
            if row.cam is not None and row.class_id is not None and row.class_id not in kept:
                kept[row.class_id] = map_of(row.image_id, row.cam, row.cam_height, row.cam_width)
        if not failed and (min(size) < 1 or not 1 <= (row.orientation or 1) <= 8):
            raise ValueError(f"{self._table.path} has no size and orientation of it")
        if not failed and not kept:
            raise ValueError(f"{self._table.path} has no map of it")
        truth = self._truth(place, None if failed else Header(size, what[0].orientation or 1))
        maps = [self.upsampling(coarse, (size[1], size[0]), size) for coarse in kept.values()]
        stacked = np.stack(maps) if maps else np.zeros((0, *truth.shape), np.float32)
        return Labelled(stacked, [self._values[key] for key in kept], truth)


class SegmentFiles(SegmentMaps[Path]):
    """A file for each picture: `x/y.npz` with maps, or `x/y.png` with labels, for x/y.jpg.

    An .npz is what `fastcam export --to wsss` writes, the dictionary of the field's tools: keys [K], class indices from
    0, without the background; high_res [K, H, W] in [0, 1], or cam [K, h, w], which is upsampled. It is read without
    pickle. A PNG has class indices as the truth; what is to be ignored there (255) is background, and thresholds mean
    nothing. Classes are named in classes.txt in the folder or the one above, else have the truth's numbers.
    """

    def __init__(
        self, folder: Path, data: Collection, segments: Segments, suffix: str, refinement: Refinement = UNREFINED
    ) -> None:
        super().__init__(data, segments, refinement)
        if self.refine is not None and suffix == ".png":
            raise ValueError(f"{folder} has labels, which are not refined: `refine` maps when they are exported")
        self.folder, self._suffix = folder, suffix
        self._mapped = suffix == ".npz"
        self.graded = self.graded and self._mapped
        self._names = listed_names([folder, folder.parent])
        known = Names(segments.names)
        places = {key: known.places(name) for key, name in enumerate(self._names)} if segments.names else {}
        self._values = {key: found[0] + 1 for key, found in places.items() if len(found) == 1}
        files = {place: folder / f"{os.path.splitext(id)[0]}{suffix}" for place, id in enumerate(data.ids)}
        self.order = [place for place, file in files.items() if file.is_file()]
        found = set(self.order)
        self._files = files
        self.problems = [(data.ids[p], f"no map: expected {file}") for p, file in files.items() if p not in found]

    @property
    def _made(self) -> str:
        return self._suffix[1:]  # that they are files

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, Path]]:
        """Places and files."""
        return ((self.order[position], self._files[self.order[position]]) for position in positions)

    def _look(self, place: int, what: Path) -> Labelled:
        """The file's maps and the class PNG."""
        truth = self._truth(place, None)
        if self._mapped:
            keys, maps = read_npz(what, (truth.shape[0], truth.shape[1]))
        else:
            keys, maps = _read_labels(what)
        if maps.shape[1:] != truth.shape:
            (height, width), (rows, columns) = maps.shape[1:], truth.shape
            raise ValueError(f"{what} has {width}x{height} pixels, its class PNG {columns}x{rows}")
        return Labelled(maps, [self._value(what, key) for key in keys], truth)

    def _value(self, file: Path, key: int) -> int:
        """The index in class PNGs of a class of the maps."""
        if not (self._names and self.segments.names):
            return key + 1
        if key not in self._values:
            name = f", {self._names[key]!a} by classes.txt" if key < len(self._names) else ""
            raise ValueError(f"{file} has class {key}{name}: none of {listed([*self.segments.names], 8)}")
        return self._values[key]


def segment_maps(
    path: str | os.PathLike[str], data: Collection, segments: Segments, refinement: Refinement = UNREFINED
) -> SegmentMaps[Any]:
    """What a path has: a run with maps, or its table; or a folder of .npz, or .png.

    Raises:
        FileNotFoundError: there is nothing.
        ValueError: it has neither, or labels, which are not to be refined.
    """
    path = Path(path)
    if path.is_file() or (path / "boxes.parquet").is_file():
        return RunMaps(path, data, segments, refinement)
    if not path.is_dir():
        raise FileNotFoundError(f"no run or folder of maps at {path}")
    folder = path / "cam" if (path / "cam").is_dir() else path  # of an export
    for suffix in (".npz", ".png"):
        if next(folder.rglob(f"*{suffix}"), None) is not None:
            return SegmentFiles(folder, data, segments, suffix, refinement)
    hint = ""
    if next(folder.rglob("*.npy"), None) is not None:
        hint = "; it has .npy: pickled dictionaries are not read, np.savez(path, **dictionary) makes .npz of them"
    raise ValueError(f"{path} is no run with boxes.parquet, and has no .npz or .png{hint}")


def values_of(classes: Sequence[int], names: Mapping[int, str], truth: Sequence[str], where: str) -> dict[int, int]:
    """The index in class PNGs of each class of the maps: by name where both have names, else one more.

    Args:
        classes: those of the maps.
        names: what they are called, as far as that is known.
        truth: names of the class PNGs' classes, that of index 1 first; () if unknown.
        where: where the classes are from, for messages.

    Raises:
        ValueError: a class is none of the truth's, or two are the same one of them.
    """
    if not truth or not all(key in names for key in classes):
        top = len(truth) or None
        beyond = [key for key in classes if top is not None and key >= top]
        if beyond:
            raise ValueError(f"{where}: class {beyond[0]} is none of the {top} classes of the class PNGs")
        return {key: key + 1 for key in classes}
    known = Names(truth)
    found: dict[int, int] = {}
    for key in classes:
        places = known.places(names[key])
        if len(places) != 1:
            raise ValueError(
                f"{where}: class {key}, {names[key]!a}, is none of those of the class PNGs, which are "
                f"{listed([*truth], 8)}: name them alike, or keep maps of these classes only"
            )
        found[key] = places[0] + 1
    if len(set(found.values())) < len(found):
        raise ValueError(f"{where}: two classes have the name of the same class of the class PNGs")
    return found


def read_npz(path: Path, size: tuple[int, int]) -> tuple[list[int], np.ndarray]:
    """Keys and maps, float32 [K, H, W], of an .npz; those of other sides than (H, W) are upsampled if they are `cam`.

    ValueError that names the file if it is no such archive.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no .npz of maps: it is no regular file")
    most = CLASSES * size[0] * size[1] * 8 + _HEADER  # so that a small file does not become a large array

    def read() -> tuple[bool, np.ndarray, np.ndarray]:
        with np.load(path, allow_pickle=False) as archive:
            whole = "high_res" in archive.files
            name = "high_res" if whole else "cam"
            if any(archive.zip.getinfo(f"{one}.npy").file_size > most for one in ("keys", name)):
                raise ValueError(f"more than {CLASSES} maps of {size[0]}x{size[1]}")
            return whole, archive["keys"], archive[name]

    try:
        whole, keys, maps = read_npy(read)
    except OSError:
        raise
    except Exception as error:  # the headers of arrays are Python, parsed in several ways
        raise ValueError(f"{path} is no .npz of keys and high_res or cam: {error}") from None
    fits = keys.ndim == 1 and keys.dtype.kind in "iu" and maps.ndim == 3 and maps.dtype.kind == "f"
    if not fits or len(keys) != len(maps) or (len(keys) and (min(keys) < 0 or not maps.size)):
        raise ValueError(
            f"{path}: expected keys, whole numbers [K], and maps, floating [K, H, W], got {keys.dtype} "
            f"{list(keys.shape)} and {maps.dtype} {list(maps.shape)}"
        )
    maps = maps.astype(np.float32)
    if not whole:
        maps = np.array([cv2.resize(one, size[::-1], interpolation=cv2.INTER_LINEAR) for one in maps], np.float32)
    return keys.tolist(), maps.reshape(len(keys), *(maps.shape[1:] if len(keys) else size))


def _read_labels(path: Path) -> tuple[list[int], np.ndarray]:
    """Keys and maps of a PNG of labels, which are 1 where a class is."""
    try:
        labels = decode_indices(path)
    except DecodeError as error:
        raise ValueError(f"{path}: {error.message}") from None
    there = np.setdiff1d(labels, [0, 255])
    return (there.astype(np.int64) - 1).tolist(), (labels == there[:, None, None]).astype(np.float32)


def _mean_iou(found: Histograms) -> np.ndarray:
    """MIoU of one picture, over the background and the classes that are true or predicted in it."""
    return 100 * mean(overlap(confusion(found.counts))[0])
