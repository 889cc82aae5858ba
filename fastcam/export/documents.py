"""Formats of one file: COCO results, CSV, Label Studio predictions."""

import csv
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from fastcam._files import replacing
from fastcam.data.names import Names, by_number, id_order, path_look, plain_id
from fastcam.data.readers.coco import coco_root
from fastcam.export.files import LeftOut, Options
from fastcam.export.frames import Frames
from fastcam.export.text import printable
from fastcam.runs.table import Box, Picture

Add = Callable[[Picture], int]  # writes a picture and gives the number of its boxes, or raises LeftOut

_SHOWN = 3  # numbers in a warning
_COLUMNS = ("image_id", "width", "height", "rank", "class_id", "class_name", "score", "x0", "y0", "x1", "y1")
_COLUMNS += ("box", "box_score")


@contextmanager
def coco(path: Path, info: Mapping[str, Any], options: Options) -> Iterator[Add]:
    """Write COCO's results: a JSON list of image_id, category_id, bbox (x, y, width, height) and score.

    With `options.annotations` images have the ids they have there (by file_name), and categories, too: by the name of
    the class, which need but look the same (`fastcam.data.names`), or where classes have no names, or the same in the
    same order, in the order of the ids; categories named by whole numbers are the classes of these numbers. Otherwise
    images are numbered from 1 in the order of the table, a category's id is the class index plus 1, and
    `NAME.images.json` beside the results lists both, so that `COCO("NAME.images.json").loadRes("NAME.json")` works,
    unless there is no box at all: pycocotools fails with an empty list, and a note says so. `options.categories` goes
    before either. Coordinates are rounded to hundredths of a pixel, as COCO's own are.

    Boxes are of the upright picture; with `options.annotations`, of the picture whose width and height the file has:
    as it is stored, if these are its sides before EXIF turns it, and in pixels of a larger or smaller one of the same
    proportions. Where the sides do not tell (half turns, mirrored and square pictures), those of the other pictures do,
    or else upright is assumed, with a note. A picture of other proportions is left out.

    Args:
        path: the JSON file.
        info: what made the boxes.
        options: of which annotations and categories are used.

    Yields:
        What writes a picture.

    Raises:
        FileNotFoundError: no file of annotations.
        ValueError: it is malformed, or a class has no category, or may have several.
        OSError: a file cannot be written.
    """
    names = dict(options.class_names or {})
    given = frames = None
    if options.annotations is not None:
        given = _Annotations(options.annotations, names, info.get("num_classes"))
        frames = Frames(given.path, given.size, options)
    unused = [key for key in options.categories or () if key not in range(info.get("num_classes") or key + 1)]
    if unused:
        told = f"{len(unused)} of {len(options.categories)} categories are of no class: the network has none of index "
        warnings.warn(told + ", ".join(map(str, unused[:_SHOWN])) + ", …" * (len(unused) > _SHOWN), stacklevel=4)

    def category(box: Box) -> int:
        if options.categories is not None:
            if box.class_id not in options.categories:
                raise ValueError(f"class {box.class_id} ({box.name}) is none of the given categories")
            return options.categories[box.class_id]
        return box.class_id + 1 if given is None else given.category(box)

    def add(picture: Picture) -> int:
        nonlocal count
        image_id = count + 1 if given is None else given.image(picture.id)
        corners = [box.corners for box in picture.found] if frames is None else frames.corners(picture)
        count += 1
        if images is not None:
            names.update((box.class_id, box.name) for box in picture.boxes)
            size = {"width": picture.width, "height": picture.height}
            images.append({"id": image_id, "file_name": picture.id} | size)
        for box, (x0, y0, x1, y1) in zip(picture.found, corners, strict=True):
            edges = [round(edge, 2) for edge in (x0, y0, x1 - x0, y1 - y0)]
            score = float(f"{box.score:.6g}")
            results.append({"image_id": image_id, "category_id": category(box), "bbox": edges, "score": score})
        return len(picture.found)

    count, images = 0, None
    with ExitStack() as stack:
        if given is None:
            beside = stack.enter_context(_opened(coco_images(path)))
            beside.write('{"images": ')
            images = _List(beside)
        file = stack.enter_context(_opened(path))
        results = _List(file)
        yield add
        results.close()
        if not results and options.notes is not None:
            options.notes.append("there is no box at all: pycocotools' loadRes fails with this empty list")
        if images is not None:
            images.close()
            ids = {class_id: class_id + 1 for class_id in range(max(names, default=-1) + 1)}
            if options.categories is not None:
                ids = {key: options.categories[key] for key in sorted(names) if key in options.categories}
            words = {key: names.get(key, str(key)) for key in ids}
            categories = [{"id": ids[key], "name": words[key], "supercategory": ""} for key in ids]
            beside.write(f', "annotations": [], "categories": {json.dumps(categories)}, "info": {json.dumps(info)}}}\n')


def coco_images(path: Path) -> Path:
    """Name the list of images beside COCO results.

    Args:
        path: the results.

    Returns:
        Its path.
    """
    return path.with_name(f"{path.stem}.images.json")


@contextmanager
def table(path: Path, info: Mapping[str, Any], options: Options) -> Iterator[Add]:
    """Write CSV with a header: the table's columns from image_id to y1, box and box_score; a row for each box.

    Numbers are the shortest that give the same float32 again. Where a map was constant, the corners are empty.
    Names are as they are: spreadsheets take those that begin with =, +, - or @ for formulas, unless they import them as
    text.

    Args:
        path: the file, UTF-8.
        info: what made the boxes.
        options: none is used.

    Yields:
        What writes a picture.

    Raises:
        OSError: the file cannot be written.
    """

    def add(picture: Picture) -> int:
        size = picture.width, picture.height
        for box in picture.boxes:
            corners = map(_short, box.corners) if box.found else ("",) * 4
            named = box.rank, box.class_id, box.class_name, _short(box.class_score)
            rows.writerow((picture.id, *size, *named, *corners, box.number, _short(box.score)))
        return len(picture.found)

    with _opened(path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        yield add


@contextmanager
def label_studio(path: Path, info: Mapping[str, Any], options: Options) -> Iterator[Add]:
    """Write tasks with predictions as Label Studio imports them, and `NAME.xml`, a labelling setup that fits them.

    Corners are percent of the picture's sides. A prediction's score, by which tasks can be sorted, is the highest of
    its boxes. `options.url` goes before each image_id, which is percent-encoded; the default is that of pictures in
    Label Studio's local storage.

    Args:
        path: the JSON file.
        info: what made the boxes; model_version is made of it.
        options: of which url is used.

    Yields:
        What writes a picture.

    Raises:
        OSError: a file cannot be written.
    """
    url = "/data/local-files/?d=" if options.url is None else options.url
    version = " ".join(["fastcam", *(str(info[key]) for key in ("version", "arch", "method") if info.get(key))])
    names: dict[int, str] = {}

    def region(picture: Picture, number: int, box: Box) -> dict[str, Any]:
        name = printable(box.name)
        names[box.class_id] = name
        x0, y0, x1, y1 = box.corners
        across, down = 100 / picture.width, 100 / picture.height
        place = {"x": x0 * across, "y": y0 * down, "width": (x1 - x0) * across, "height": (y1 - y0) * down}
        return {
            "id": f"box{number}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "score": box.score,
            "value": place | {"rotation": 0, "rectanglelabels": [name]},
        }

    def add(picture: Picture) -> int:
        regions = [region(picture, number, box) for number, box in enumerate(picture.found)]
        score = max(box.score for box in picture.boxes)
        prediction = {"model_version": version, "score": score, "result": regions}
        tasks.append({"data": {"image": url + quote(picture.id)}, "predictions": [prediction]})
        return len(regions)

    with _opened(label_studio_setup(path)) as setup, _opened(path) as file:
        tasks = _List(file)
        yield add
        tasks.close()
        known = dict.fromkeys(name for _, name in sorted(names.items()))
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in known)
        setup.write(
            '<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">\n'
            f"{labels}  </RectangleLabels>\n</View>\n"
        )


def label_studio_setup(path: Path) -> Path:
    """Name the labelling setup beside Label Studio predictions.

    Args:
        path: the predictions.

    Returns:
        Its path.
    """
    return path.with_suffix(".xml")


class _List:
    """A JSON list, written element by element."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._separator = file, "[\n"

    def append(self, element: Mapping[str, Any]) -> None:
        self._file.write(self._separator + json.dumps(element, allow_nan=False))
        self._separator = ",\n"

    def __bool__(self) -> bool:
        return self._separator != "[\n"

    def close(self) -> None:
        self._file.write("\n]" if self else "[]")


class _Annotations:
    """What COCO's file of the true objects tells of ids and sizes; `names` are the network's classes', by index."""

    def __init__(self, path: Path, names: Mapping[int, str], count: object) -> None:
        self.path = path
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        try:
            document = json.loads(path.read_bytes())
            images = [(entry["file_name"], entry["id"]) for entry in document["images"]]
            sides = [(entry.get("width"), entry.get("height")) for entry in document["images"]]
            categories = sorted(
                ((entry["id"], entry["name"]) for entry in document["categories"]), key=lambda one: id_order(one[0])
            )
            pairs = [*images, *((name, id) for id, name in categories)]
            if not images or not all(isinstance(name, str) and type(id) in (int, str) for name, id in pairs):
                raise ValueError("no images, a name that is no text, or an id that is no whole number or text")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{path}: expected COCO's images with id and file_name, and categories with id and name: {error!r}"
            ) from None
        root = coco_root(path, document["images"])
        self._images = {plain_id(name, root): id for name, id in images}
        if len(self._images) < len(images):
            raise ValueError(f"{path}: two images have the same file_name, so that boxes cannot be told apart")
        self._files = Names(self._images, path_look)
        self._sizes = {plain_id(name, root): size for (name, _), size in zip(images, sides, strict=True)}
        self._pictures: dict[str, str] = {}  # which picture each image is
        self._ids, words = [id for id, _ in categories], [name for _, name in categories]
        self._words, self._named = words, Names(words)
        self._known, self._names = list(names), Names(names.values())
        self._numbers = by_number(words, count if isinstance(count, int) else None)
        self._same = words == [names.get(index) for index in range(len(words))]
        self._classes: dict[int, int] = {}  # which class each category is

    def image(self, picture: str) -> int | str:
        found = [self._files.names[place] for place in self._files.places(picture)]
        if len(found) != 1:
            which = f", or may be any of {', '.join(map(ascii, found))}" if found else ""
            raise LeftOut(f"not among the images of {self.path}{which}")
        if self._pictures.setdefault(found[0], picture) != picture:
            raise LeftOut(f"image {found[0]!a} of {self.path} is another picture's, {self._pictures[found[0]]!a}")
        return self._images[found[0]]

    def size(self, picture: str) -> tuple[int, int] | None:
        """Width and height that the file tells of a picture."""
        sizes = [self._sizes[self._files.names[place]] for place in self._files.places(picture)]
        return sizes[0] if len(sizes) == 1 and _is_size(sizes[0]) else None

    def category(self, box: Box) -> int | str:
        if self._same and box.class_id < len(self._ids):
            return self._ids[box.class_id]
        if box.class_name is None:
            numbers = range(len(self._ids)) if self._numbers is None else self._numbers
            places = [place for place, number in enumerate(numbers) if number == box.class_id]
        else:
            places = self._named.places(box.class_name)
        what = f"class {box.class_id} ({box.name})"
        if not places:
            raise ValueError(f"{what} is none of the categories of {self.path}: tell which it is")
        claims = {self._classes.setdefault(places[0], box.class_id), box.class_id}
        if box.class_name is not None:
            claims.update(self._known[place] for place in self._names.places(self._words[places[0]]))
        if len(places) > 1 or len(claims) > 1:
            ids = " or ".join(str(self._ids[place]) for place in places)
            others = "".join(f", and so may class {other}" for other in sorted(claims - {box.class_id}))
            raise ValueError(f"{what} may be category {ids} of {self.path}{others}: tell the `categories` of all")
        return self._ids[places[0]]


def _is_size(size: tuple[object, object]) -> bool:
    return all(type(side) is int and 0 < side < 1 << 31 for side in size)


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


def _short(value: float) -> str:
    return str(np.float32(value))
