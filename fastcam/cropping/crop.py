"""`crop`: the boxes of a run, or the true ones, cut out of its pictures into class folders."""

import csv
import io
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from fastcam import pictures
from fastcam._options import accepts
from fastcam._version import __version__
from fastcam.cropping.folders import SPLITS, TABLE, ClassFolders
from fastcam.cropping.settings import CropSettings
from fastcam.data import Dataset, Pictures
from fastcam.data.names import id_problem
from fastcam.data.pictures import Packed
from fastcam.data.places import listed_places
from fastcam.export.files import LeftOut, check_free, new_folder
from fastcam.pictures import PLAIN, DecodeError, Header, Reading, as_rgb, quiet_pillow, read, read_part
from fastcam.pictures.samples import shown_reading
from fastcam.pictures.stream import batched, stream
from fastcam.report.truth import Classes, Truth
from fastcam.runs.schema import EDGES
from fastcam.runs.table import FoundPicture, RunTable

ERRORS: Mapping[str, str] = {
    **pictures.ERRORS,
    "no_box": "there is no box: the map was constant, or the data set has none of this picture",
    "outside": "the box lies outside the picture, or sticks out of it by more than a pixel",
    "changed": "the picture has another size than when the run saw it",
    "truth": "what the data set tells of the picture's boxes does not fit it",
    "no_class": "the data set has no label for the picture, or the run, which failed on it, no class",
    "missing": "nothing tells where the picture is",
    "name": "its name is too long for the disk with what keeps it unique",
}
_COLUMNS = ("crop", "image_id", "class_name", "box", *EDGES, "width", "height", "error")
_EXAMPLES = 10  # of what could not be cut out, kept with their reasons
_BATCH = 16  # pictures
_NO_LABEL = -1  # of a class that the data set does not have


class Cropped(NamedTuple):
    """What was written.

    Attributes:
        path: the folder.
        table: crops.csv in it: each crop with its picture, class and place, and each box or picture without a crop.
        pictures: of how many pictures crops were asked for.
        crops: how many there are.
        failed: rows of the table without a crop.
        elsewhere: pictures of the run that the data set does not have; they are not in the table.
        examples: (image_id, reason) of the first that failed.
    """

    path: Path
    table: Path
    pictures: int
    crops: int
    failed: int
    elsewhere: int
    examples: tuple[tuple[str, str], ...] = ()


@accepts(CropSettings)
def crop(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    settings: CropSettings,
    data: Dataset | Mapping[str, Dataset] | None = None,
    images: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Cropped:
    """Cut boxes out of the pictures of a run, and write them as class folders, which `fastcam.data.load` reads again.

    `out`/CLASS/NAME.png has the pixels of the box as they are, of the upright picture, never enlarged; of a run whose
    network takes samples by a stated scaling or other channels, it has 8 bits of these as they are shown. NAME is the
    picture's, with a number where another crop of the class has it. Classes are the labels of `data`, where it has
    some, else what the run found; classes.txt keeps their order. Of several data sets there is a folder for each:
    `out`/train/CLASS/NAME.png. crops.csv has a row for each crop, with its place in the picture in whole pixels,
    half-open, and a row for each box or picture of which there is none, with "code: reason" (`ERRORS`, or that of the
    run).

    The folder appears when it is complete; if the work breaks off, what was there stays.

    Args:
        run: folder of a run of `fastcam.localize`, or its boxes.parquet.
        out: folder to write.
        settings: what can be chosen, see `CropSettings`.
        data: data set with labels, and for true boxes with these; or several by the names of their folders: train, val,
            valid, validation or test. Pictures of the run that it does not have are passed over, so that a split is cut
            out by giving it alone.
        images: folder that the run's ids are relative to; by default pictures are where `data` has them, or else where
            they were when the run began.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        Where the crops are, and how many pictures, crops and failures there were.

    Raises:
        FileNotFoundError: there is no such run, or no folder `images`.
        FileExistsError: `out` has something and `overwrite` is not set, or it is a folder of something else.
        ValueError: an option out of range, a damaged table, true boxes without a data set that has some, data sets that
            have no picture of the run, share one, or have other classes or names than they can have, or nothing tells
            where the pictures are.
        OSError: the crops cannot be written.
    """
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")
    table = RunTable(run)
    path = Path(os.path.abspath(out))
    check_free(path, settings.overwrite)
    places = {} if table.superseded else listed_places(table)
    parts = [_Part()] if data is None else _parts(table, data, places)
    if settings.boxes == "truth" and not any(part.truth.boxes for part in parts):
        raise ValueError(f"true boxes need a data set that has them, {'none is given' if data is None else 'got none'}")
    reading = shown_reading(table.info)
    cutter = _Cutter(settings, parts, places, None if images is None else Path(images), reading)
    names, count = dict(table.classes()), table.info.get("num_classes")
    if table.given:
        cutter.meet(names, count if isinstance(count, int) else None)
    if cutter.labelled:
        labels = {label for part in parts for label in part.truth.known.union(part.truth.labels.values())}
        names = dict.fromkeys(labels) | dict(enumerate(parts[0].truth.names))
    folders = ClassFolders(names)
    asked = elsewhere = failed = 0
    examples: list[tuple[str, str]] = []

    def wanted() -> Iterator[tuple[FoundPicture, _Part]]:
        nonlocal asked, elsewhere
        for picture in table.pictures(progress=progress):
            part = next((part for part in parts if data is None or picture.id in part.truth.indices), None)
            if part is None:
                elsewhere += 1
            else:
                asked += 1
                yield picture, part

    info = table.info | asdict(settings) | {"format": "crops", "exported_by": __version__}
    with new_folder(path, info) as folder:
        with quiet_pillow(), (folder.path / TABLE).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(_COLUMNS)
            for cut in (cut for batch in stream(batched(wanted(), _BATCH), cutter) for cuts in batch for cut in cuts):
                name, error = "", cut.error
                if cut.label is not None:
                    # What failed keeps its name, too: so a picture has the same in folders of other boxes.
                    name = f"{folders.place(cut.part, cut.label, cut.id)}.{settings.suffix}"
                    try:
                        if not error:
                            folders.write(folder, cut.part, cut.label, name, cut.content)
                    except LeftOut as reason:
                        error = f"name: {reason}"
                called = "" if cut.label is None else names[cut.label] or cut.label
                where = *(cut.corners or ("",) * 4), *(cut.size or ("", ""))
                rows.writerow(("" if error else name, cut.id, called, cut.number, *where, error))
                if error:
                    failed += 1
                    examples += [(cut.id, error)] * (len(examples) < _EXAMPLES)
        folders.finish(folder)
    return Cropped(path, path / TABLE, asked, folders.count, failed, elsewhere, tuple(examples))


class _Part(NamedTuple):
    """A data set, if there is one, what is known by it, and the folder of its crops, "" if there is one for all."""

    name: str = ""
    data: Dataset | None = None
    truth: Truth = Truth("the run")


def _parts(table: RunTable, data: Dataset | Mapping[str, Dataset], places: Mapping[str, Path | Packed]) -> list[_Part]:
    several = isinstance(data, Mapping)
    given: Mapping[str, Dataset] = data if several else {"": data}  # type: ignore[assignment, dict-item]
    if several and (not given or not set(given) <= set(SPLITS)):
        raise ValueError(f"several data sets must be called {', '.join(SPLITS)}, got {', '.join(given) or 'none'}")
    parts = [_Part(name, one, Truth.of_data(one, table.ids(), places)) for name, one in given.items()]
    owners: dict[str, str] = {}
    for name, _, truth in parts:
        if truth.names != parts[0].truth.names:
            raise ValueError(f"data sets must have the same classes in the same order: {name} has others")
        for id in truth.indices:
            if (other := owners.setdefault(id, name)) != name:
                raise ValueError(f"picture {id!r} is in {other} and in {name}: crops are for either of them")
    return parts


class _Cut(NamedTuple):
    """A crop, or a box or picture without one.

    Attributes:
        id: of the picture.
        part: folder of its data set.
        label: the class; None if unknown.
        number: of the box, 1 for the first; None where there is no box.
        corners: of the crop.
        size: (width, height) of the picture, if it was read.
        content: of the file to write.
        error: why there is none, "code: reason".
    """

    id: str
    part: str
    label: int | None = None
    number: int | None = None
    corners: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    content: bytes = b""
    error: str = ""


class _Box(NamedTuple):
    """A box to cut out: corners [4] within the picture, whether it was given as one outside, and the class found."""

    corners: np.ndarray
    outside: bool
    label: int | None = None


class _NoCrop(Exception):
    """Why a picture or box has no crop: "code: reason"."""


class _Cutter:
    """Makes the crops of a picture; called in threads.

    Pictures are in the folder `root`; if that is None, where the data set has them, or else in `places`, by id.
    """

    def __init__(
        self,
        settings: CropSettings,
        parts: Sequence[_Part],
        places: Mapping[str, Path | Packed],
        root: Path | None,
        reading: Reading = PLAIN,
    ) -> None:
        self._settings, self._parts, self._places, self._root = settings, parts, places, root
        self._reading = reading
        self._labels: dict[str, Mapping[int, int | None]] = {}  # of parts, the label of each class of the table
        self.labelled = any(part.truth.labels for part in parts)
        told = places or root or any(part.truth.files or not isinstance(part.data, Pictures | None) for part in parts)
        if not told:
            raise ValueError(
                "nothing tells where the run's pictures are: name their folder by `images`, or their data set by `data`"
            )

    def meet(self, found: Mapping[int, str | None], count: int | None) -> None:
        """Let boxes of given classes, of which a picture may have several, go by their classes' labels.

        `found` are the classes of the table by number, `count` is that of the network's.
        """
        for part in self._parts if self.labelled else ():
            classes = Classes(found, part.truth, count)
            labels = {place: label for label, place in classes.of_label.items()}
            self._labels[part.name] = {
                number: labels.get(place, _NO_LABEL) for number, place in classes.of_class.items()
            }

    def __call__(self, job: tuple[FoundPicture, _Part]) -> list[_Cut]:
        picture, part = job
        found = picture.first.class_id if picture.boxes else None
        cut = _Cut(picture.id, part.name, part.truth.labels.get(picture.id) if self.labelled else found)
        try:
            if picture.error is not None and self._settings.boxes == "found":
                raise _NoCrop(picture.error)
            if cut.label is None:
                why = "the data set has no label for it" if self.labelled else f"the run failed: {picture.error}"
                raise _NoCrop(f"no_class: {why}")
            image, header = self._read(picture.id, part)
            cut = cut._replace(size=image.size)
            boxes = self._true(cut, part, header) if self._settings.boxes == "truth" else self._found(cut, picture)
            return [self._cut(cut, image, number, box) for number, box in enumerate(boxes, 1)]
        except (_NoCrop, DecodeError) as error:
            return [cut._replace(error=str(error))]

    def _read(self, id: str, part: _Part) -> tuple[Image.Image, Header | None]:
        """The upright picture, and what the header of its file says, if it has one."""
        if problem := id_problem(id):
            raise _NoCrop(f"missing: {problem}")
        if self._root is None and part.data is not None and not isinstance(part.data, Pictures):
            return as_rgb(part.data[part.truth.indices[id]].image), None
        file = self._root / id if self._root is not None else part.truth.files.get(id) or self._places.get(id)
        if file is None:
            raise _NoCrop("missing: nothing tells where it is")
        source = file if isinstance(file, Path) else read_part(file.path, file.offset, file.size)
        decoded = read(source, reading=self._reading)
        return decoded.image, Header(decoded.image.size, decoded.orientation)

    def _found(self, cut: _Cut, picture: FoundPicture) -> list[_Box]:
        """What the run found."""
        seen = picture.width, picture.height
        if cut.size is None or cut.size != seen:
            raise _NoCrop(f"changed: it has {_by(cut.size or (0, 0))} pixels, the run saw {_by(seen)}")
        first, labels = picture.first, self._labels.get(cut.part)
        if labels is not None and len({b.class_id for b in picture.boxes}) > 1:
            first = next((b for b in picture.boxes if labels[b.class_id] == cut.label), first)
        elif self.labelled:
            labels = dict.fromkeys((b.class_id for b in picture.boxes), cut.label)
        boxes = picture.boxes if self._settings.each else [first]
        return [_Box(np.array(b.corners), b.outside, labels[b.class_id] if labels else b.class_id) for b in boxes]

    def _true(self, cut: _Cut, part: _Part, header: Header | None) -> list[_Box]:
        """What the data set has, the largest first."""
        if cut.size is None or cut.id not in part.truth.boxes:
            raise _NoCrop("no_box: the data set has none of it")
        try:
            given, frame = part.truth.boxes[cut.id](header)
        except DecodeError:
            raise
        except ValueError as error:
            raise _NoCrop(f"truth: {error}") from None
        size = np.tile(cut.size, 2)
        boxes = np.asarray(given, np.float64) * (size / np.tile(frame or cut.size, 2))
        order = np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1), kind="stable")
        chosen = boxes[order if self._settings.each else order[:1]]
        return [_Box(box.clip(0, size), bool((box < -1).any() or (box > size + 1).any())) for box in chosen]

    def _cut(self, cut: _Cut, image: Image.Image, number: int, box: _Box) -> _Cut:
        if box.label == _NO_LABEL:
            return cut._replace(number=number, error="no_class: the data set has no label for the box's class")
        cut = cut._replace(number=number, label=cut.label if box.label is None else box.label)
        if box.outside:
            return cut._replace(error=f"outside: the box lies outside the picture of {_by(image.size)}, or sticks out")
        if (box.corners[:2] >= box.corners[2:]).any():
            return cut._replace(error="no_box: the map was constant, or the box is empty")
        corners = _grown(box.corners, self._settings.margin, image.size)
        buffer = io.BytesIO()
        if self._settings.suffix == "png":  # the first level of compression is several times as fast as the usual one
            image.crop(corners).save(buffer, "PNG", compress_level=1)
        else:
            image.crop(corners).save(buffer, "JPEG", quality=95, subsampling=0)
        return cut._replace(corners=corners, content=buffer.getvalue())


def _grown(box: np.ndarray, margin: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The whole pixels that a box with its margin touches, inside the picture; a thousandth of a pixel is none."""
    by = margin * (box[2:] - box[:2])
    x0, y0 = (max(0, math.floor(round(edge, 3))) for edge in (box[:2] - by).tolist())
    x1, y1 = (min(side, math.ceil(round(edge, 3))) for edge, side in zip((box[2:] + by).tolist(), size, strict=True))
    x0, y0 = min(x0, size[0] - 1), min(y0, size[1] - 1)
    return x0, y0, max(x1, x0 + 1), max(y1, y0 + 1)


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
