"""COCO's results, and how they meet a file of the true objects: ids of images and categories, sizes, orientation."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from fastcam._check import listed
from fastcam.data.names import Names, by_number, id_order, path_look, plain_id
from fastcam.data.readers.coco import coco_root
from fastcam.data.turning import INVERSE, Frame, Size, frame_of, turn_boxes
from fastcam.export.files import Add, Job, JsonList, LeftOut, opened
from fastcam.runs.table import FoundBox, FoundPicture, RunTable

_SHOWN = 3  # numbers in a warning


@contextmanager
def coco(job: Job) -> Iterator[Add]:
    """Write COCO's results: a JSON list of image_id, category_id, bbox (x, y, width, height) and score.

    With `annotations` images have the ids they have there (by file_name), and categories, too: by the name of the
    class, which need but look the same (`fastcam.data.names`), or where classes have no names, or the same in the same
    order, in the order of the ids; categories named by whole numbers are the classes of these numbers. Otherwise images
    are numbered from 1 in the order of the table, a category's id is the class index plus 1, and `NAME.images.json`
    beside the results lists both, so that `COCO("NAME.images.json").loadRes("NAME.json")` works, unless there is no box
    at all: pycocotools fails with an empty list, and a note says so. `categories` goes before either. Coordinates are
    rounded to hundredths of a pixel, as COCO's own are.

    Boxes are of the upright picture; with `annotations`, of the picture whose width and height the file has: as it is
    stored, if these are its sides before EXIF turns it, and in pixels of a larger or smaller one of the same
    proportions. Where the sides do not tell (half turns, mirrored and square pictures), those of the other pictures do,
    or else upright is assumed, with a note. A picture of other proportions is left out.
    """
    names, count = dict(job.table.class_names), 0
    given = frames = images = None
    if job.options.annotations is not None:
        given = _Annotations(job.options.annotations, names, job.info.get("num_classes"))
        frames = _Frames(given, job.table, job.notes)
    chosen = job.options.categories
    unused = [key for key in chosen or () if key not in range(job.info.get("num_classes") or key + 1)]
    if chosen and unused:
        message = f"{len(unused)} of {len(chosen)} categories are of no class: the network has none of index "
        warnings.warn(message + listed([str(key) for key in unused], _SHOWN), stacklevel=4)

    def category(box: FoundBox) -> int | str:
        if chosen is not None:
            if box.class_id not in chosen:
                raise ValueError(f"class {box.class_id} ({box.name}) is none of the given categories")
            return chosen[box.class_id]
        return box.class_id + 1 if given is None else given.category(box)

    def add(picture: FoundPicture) -> int:
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

    with ExitStack() as stack:
        if given is None:
            beside = stack.enter_context(opened(coco_images(job.path)))
            beside.write('{"images": ')
            images = JsonList(beside)
        file = stack.enter_context(opened(job.path))
        results = JsonList(file)
        yield add
        results.close()
        if not results:
            job.notes.append("there is no box at all: pycocotools' loadRes fails with this empty list")
        if images is not None:
            images.close()
            ids = {class_id: class_id + 1 for class_id in range(max(names, default=-1) + 1)}
            if chosen is not None:
                ids = {key: chosen[key] for key in sorted(names) if key in chosen}
            words = {key: names.get(key, str(key)) for key in ids}
            categories = [{"id": ids[key], "name": words[key], "supercategory": ""} for key in ids]
            beside.write(
                f', "annotations": [], "categories": {json.dumps(categories)}, "info": {json.dumps(job.info)}}}\n'
            )


def coco_images(path: Path) -> Path:
    """The list of images beside COCO results."""
    return path.with_name(f"{path.stem}.images.json")


class _Annotations:
    """Ids and sizes in COCO's file of the true objects; `names` are the network's classes', by index."""

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
        """Width and height that a picture has in the file, if that is clear."""
        sizes = [self._sizes[self._files.names[place]] for place in self._files.places(picture)]
        known = len(sizes) == 1 and all(type(side) is int and 0 < side < 1 << 31 for side in sizes[0])
        return sizes[0] if known else None

    def category(self, box: FoundBox) -> int | str:
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


class _Frames:
    """Leads boxes of a run to the pictures that annotations are of, which may be as stored, larger or smaller."""

    def __init__(self, given: _Annotations, table: RunTable, notes: list[str]) -> None:
        self._given, self._table, self._notes = given, table, notes
        self._ambiguous: Frame | None = None  # what those of ambiguous size are taken for; None until there is one

    def corners(self, picture: FoundPicture) -> list[list[float]]:
        """x0, y0, x1, y1 of each box that is `found`; LeftOut if it is not clear how the file sees the picture."""
        size, given = (picture.width, picture.height), self._given.size(picture.id)
        corners = np.array([box.corners for box in picture.found], np.float64).reshape(-1, 4)
        frame = _frame(given, size, picture.orientation)
        if frame == "neither" and given is not None:
            raise LeftOut(
                f"it has {given[0]}x{given[1]} pixels in {self._given.path}, and {size[0]}x{size[1]} in the run"
            )
        if frame == "either" and picture.orientation > 1:
            if self._ambiguous is None:
                self._ambiguous = self._convention()
            frame = self._ambiguous
        if frame == "neither":
            raise LeftOut(
                f"{self._given.path} speaks of some pictures as they are stored and of some upright; of this?"
            )
        if frame == "stored":
            corners, size = turn_boxes(corners, size, INVERSE.get(picture.orientation, picture.orientation))
        if given is not None and given != size:
            corners = corners * (np.array(given * 2) / np.array(size * 2))
        return corners.tolist()

    def _convention(self) -> Frame:
        """Which pictures the file speaks of where that can be seen; "neither" if it is not always the same."""
        seen: set[Frame] = set()
        if "orientation" in self._table.columns:
            for row in self._table.rows(("image_id", "width", "height", "orientation")):
                if row.width and row.height and row.orientation and row.orientation > 1:
                    seen.add(_frame(self._given.size(row.image_id), (row.width, row.height), row.orientation))
        seen &= {"stored", "upright"}
        if len(seen) == 1:
            return seen.pop()
        if not seen:
            self._notes.append(
                f"some pictures are turned by EXIF, and no size in {self._given.path} tells if it speaks of them as "
                "they are stored or upright: taken for upright"
            )
        return "neither" if seen else "upright"


def _frame(given: Size | None, upright: Size, orientation: int) -> Frame:
    return "either" if given is None else frame_of(given, upright, orientation)
