"""COCO's JSON: images, annotations and categories in one file."""

import json
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from fastcam.data.names import id_order, plain_id, read_json, tidy
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Found, Request, assemble, find_root, strongest
from fastcam.data.scenes import Part, Scenes, Shape, box_shape, folders_of, read_segmentation

_TRIED = 20  # pictures that are looked for to find their folder; some may be missing
_FAR = 1e9  # pixels, beyond any picture
_SLACK = 1  # pixels; the files round coordinates


class _Object(NamedTuple):
    """An annotation: its class, xyxy, what else the file has of it, and where that stands."""

    label: int
    corners: list[float]
    segmentation: object
    crowd: bool
    where: str


class _Picture(NamedTuple):
    where: str
    id: str
    size: tuple[int, int] | None
    objects: list[_Object]


class _Instances(NamedTuple):
    """A file of instances, checked: its pictures lie under `root`."""

    path: Path
    root: Path
    names: list[str]
    pictures: list[_Picture]


def read(request: Request) -> Pictures:
    """Read a file of instances.

    A picture's label is the class with the largest total area of boxes in it, and its boxes are those of that class; x,
    y, w, h become x, y, x + w, y + h. Annotations of crowds (iscrowd 1) are left out, and so are pictures without any
    other, unless `bad` is a `Faults`; nor need the file have annotations then. A picture's classes are those of all its
    annotations, crowds, too: they are in the picture, and the field's image labels for COCO have them. One without
    annotations, in a file that has some, has none of the classes. Classes are numbered by their category ids in sorted
    order. Ids are whole numbers or texts; annotations need none.
    """
    file, found = _instances(request), []
    annotated = any(picture.objects for picture in file.pictures)
    for where, id, size, objects in file.pictures:
        single = [one for one in objects if not one.crowd]
        classes = tuple(sorted({one.label for one in objects})) if annotated else None
        if single:
            boxes = np.array([one.corners for one in single], np.float64)
            label, boxes = strongest([one.label for one in single], boxes)
            found.append(Found(where, id, file.root / id, label, boxes, size, classes=classes))
        elif request.problems.lenient:
            found.append(Found(where, id, file.root / id, classes=classes))
    return assemble(request, file.root, found, file.names, source=file.path, slack=_SLACK)


def scenes(request: Request) -> Scenes:
    """Read a file of instances as scenes: all objects of each picture, those of crowds, too.

    The class of a scene is the folder of its file name, see `fastcam.data.scenes.folders_of`. An object is where its
    `segmentation` says, polygons or run lengths, and its `bbox` where there is none. Pictures without annotations are
    left out, as in `read`.
    """
    file, problems = _instances(request), request.problems
    named: dict[str, list[tuple[str, Shape]]] = {}
    found = []
    for where, id, size, objects in file.pictures:
        boxes = [one.corners for one in objects]
        for one in objects:
            try:
                shape = read_segmentation(one.segmentation, size) or box_shape(one.corners)
            except ValueError as error:
                problems.fault(one.where, f"`segmentation`: {error}", id)
                continue
            named.setdefault(id, []).append((file.names[one.label], shape))
            boxes += [bounds] if (bounds := Part(one.label, shape).bounds()) else []
        if objects:
            found.append(Found(where, id, file.root / id, None, np.array(boxes, np.float64), size))
    pictures = assemble(request, file.root, found, source=file.path, slack=_SLACK)
    folders, names = folders_of(pictures.ids)
    pictures.labels = None if not names else [None if name is None else names.index(name) for name in folders]
    pictures.class_names = tuple(names)
    return Scenes.of(pictures, [named.get(id, []) for id in pictures.ids], file.names)


def _instances(request: Request) -> _Instances:
    path, problems = _files(request.path)[request.part], request.problems
    document = _document(path)
    categories: dict[int | str, str] = {}
    for where, entry in _entries(path, document, "categories", problems.refuse, problems.lenient):
        key, name = entry.get("id"), entry.get("name")
        if not (_is_id(key) and isinstance(name, str) and tidy(name)) or key in categories:
            raise ValueError(f"{where}: expected a new `id`, a whole number or text, and a `name`, got {_shown(entry)}")
        categories[key] = tidy(name)
    classes = {key: index for index, key in enumerate(sorted(categories, key=id_order))}

    root = request.images or coco_root(path, document.get("images"))
    pictures: dict[int | str, tuple[str, str, tuple[int, int] | None]] = {}
    refused: set[int | str] = set()
    for where, entry in _entries(path, document, "images", problems.refuse):
        key, id, size = entry.get("id"), entry.get("file_name"), _size(entry)
        if not (_is_id(key) and isinstance(id, str) and (size or problems.lenient)):
            problems.refuse(where, f"expected `id`, `file_name`, `width` and `height`, got {_shown(entry)}")
            refused.update([key] if _is_id(key) else [])
        elif key in pictures:
            problems.refuse(where, f"id {key} comes twice", plain_id(id, root))
        else:
            pictures[key] = where, plain_id(id, root), size

    objects: dict[int | str, list[_Object]] = {}
    seen: set[int | str] = set()
    for where, entry in _entries(path, document, "annotations", problems.fault, problems.lenient):
        key, picture, category = entry.get("id"), entry.get("image_id"), entry.get("category_id")
        if not _is_id(picture) or picture not in pictures:
            if not _is_id(picture) or picture not in refused:
                problems.fault(where, f"there is no image {picture!r}")
            continue
        id, corners = pictures[picture][1], _corners(entry.get("bbox"))
        if key is not None and (not _is_id(key) or key in seen):
            problems.fault(where, f"expected a new `id`, a whole number or text, or none, got {key!r}", id)
        elif not _is_id(category) or category not in classes:
            problems.fault(where, f"there is no category {category!r}", id)
        elif corners is None:
            expected = "expected `bbox` x, y, width, height, finite, sides not negative"
            problems.fault(where, f"{expected}; got {_shown(entry.get('bbox'))}", id)
        else:
            seen.update([] if key is None else [key])
            crowd, segmentation = entry.get("iscrowd", 0) == 1, entry.get("segmentation")
            objects.setdefault(picture, []).append(_Object(classes[category], corners, segmentation, crowd, where))

    names = [categories[key] for key in classes]
    every = [_Picture(where, id, size, objects.pop(key, [])) for key, (where, id, size) in pictures.items()]
    return _Instances(path, root, names, every)


def coco_root(path: Path, entries: object) -> Path:
    """The folder that file names of a JSON file are relative to, by its entries of images.

    The file's folder, or one near it that has one of the first pictures: of its split's name ("instances_val2017.json":
    val2017) or "images".
    """
    listed = entries if isinstance(entries, list) else ()
    names = (entry.get("file_name") for entry in listed if isinstance(entry, dict))
    ids = [*islice((name for name in names if isinstance(name, str)), _TRIED)]
    split = path.stem.removeprefix("instances_")
    near = [path.parent, path.parent.parent]
    candidates = [folder / name for folder in near for name in ("", split, "images", f"images/{split}")]
    return find_root(candidates, ids) or near[-1] / split


def _files(path: Path) -> dict[str, Path]:
    """Files of annotations by split: instances_val2017.json is that of "val"."""
    files = [path] if path.suffix.lower() == ".json" else sorted([*path.glob("annotations/instances_*.json")])
    return {file.stem.removeprefix("instances_").rstrip("0123456789"): file for file in files}


def _document(path: Path) -> dict[str, Any]:
    document = read_json(path)
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected an object with images, annotations and categories, got {_shown(document)}")
    return document


def _entries(
    path: Path, document: dict[str, Any], name: str, refuse: Callable[[str, str], None], optional: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = document.get(name)
    if optional and not entries:  # files of test pictures have none
        return
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: expected a list `{name}` that is not empty, got {_shown(entries)}")
    for index, entry in enumerate(entries):
        where = f"{path}: {name}[{index}]"
        if isinstance(entry, dict):
            yield where, entry
        else:
            refuse(where, f"expected an object, got {_shown(entry)}")


def _is_id(value: object) -> TypeGuard[int | str]:
    return _is_whole(value) or (isinstance(value, str) and value != "")


def _is_whole(value: object) -> TypeGuard[int]:
    return type(value) is int and abs(value) < 1 << 63


def _size(entry: dict[str, Any]) -> tuple[int, int] | None:
    """Width and height of a picture; None if it has none that can be."""
    width, height = entry.get("width"), entry.get("height")
    return (width, height) if _is_whole(width) and _is_whole(height) and width > 0 and height > 0 else None


def _corners(box: object) -> list[float] | None:
    """Left, top, right and bottom of x, y, width, height; None if it is not that."""
    if not (isinstance(box, list) and len(box) == 4 and {*map(type, box)} <= {int, float}):
        return None
    x, y, width, height = box
    if not (abs(x) < _FAR and abs(y) < _FAR and 0 <= width < _FAR and 0 <= height < _FAR):  # NaN fails, too
        return None
    return [x, y, x + width, y + height]


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


FORMAT = Format(
    "a .json file, or annotations/instances_SPLIT.json and a folder SPLIT of pictures",
    fits=lambda path: bool(_files(path)),
    splits=lambda path: list(_files(path)),
    read=read,
    scenes=scenes,
)
