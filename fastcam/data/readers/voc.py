"""Pascal VOC: an XML file for each picture, and lists of splits."""

import os
import posixpath
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam.data.names import Names, id_problem, ordered, path_look, plain_id, text_of, tidy, whole
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Found, Problems, Request, assemble, numbers, strongest
from fastcam.data.segments import Segments, listed_names, voc_names
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SLACK = 1  # pixels by which a box may stick out, in the file's own numbers; it is clipped


class Annotation(NamedTuple):
    """What an XML file has.

    Attributes:
        filename: of the picture, as written; "" if it is not there.
        size: (width, height) in pixels; None if it is not there.
        names: class of each object, at least one.
        boxes: float64 [B, 4], bounding boxes as written: xmin, ymin, xmax, ymax.
        difficult: bool [B], whether the object is marked so.
    """

    filename: str
    size: tuple[int, int] | None
    names: list[str]
    boxes: np.ndarray
    difficult: np.ndarray


def read(request: Request) -> Pictures:
    """Read Annotations/*.xml (or in folders below), JPEGImages/, ImageSets/Main/SPLIT.txt; or XML beside its pictures.

    Splits of ImageSets/Segmentation are named Segmentation/SPLIT. Where there is a folder SegmentationClass, it has the
    class PNGs, whose indices are those of the names in classes.txt, where there is one, else of Pascal VOC's classes,
    if all classes are among these, or else of all classes in order.

    A picture's label is the class with the largest total area of boxes in it, and its boxes are those of that class.
    Objects marked difficult count for these only where a picture has no others. Its classes are those of all objects,
    the difficult ones, too, since they are in the picture: so the field has image labels for training on VOC (IRN's
    cls_labels.npy, made from all names in the XML files). Classes are numbered by name
    (`fastcam.data.names.ordered`) over all XML files, so that they have the same numbers in each split.

    Ids are as the files name them; where there is no such file, the one that differs in its suffix only, or has the XML
    file's name, counts. The corners, which VOC counts from 1 and includes, become half-open from 0: xmin - 1, ymin - 1,
    xmax, ymax. A file in which any corner is below 1 counts from 0, as many tools do, to the end of the picture: its
    corners stay as they are. A box that sticks out by a pixel is clipped.
    """
    folder, split, images, problems = _root(request.path), request.split, request.images, request.problems
    source, root = folder / "Annotations", images or folder / "JPEGImages"
    source, root = (path if path.is_dir() else folder for path in (source, root))
    files = {path.relative_to(source).with_suffix("").as_posix(): path for path in xml_files(source, problems)}
    chosen: set[str] | None = None
    if split is not None:
        path, known = _lists(folder)[split], Names(files, path_look)
        chosen = set()
        for number, line in problems.lines(path):
            stem = line.split()[0]
            places = known.places(stem)
            if len(places) != 1:
                problems.fault(f"{path}:{number}", f"there is no {source / stem}.xml", stem)
            chosen.add(known.names[places[0]] if len(places) == 1 else stem)
    annotations: dict[str, Annotation] = {}
    for stem, path in files.items():
        try:
            annotations[stem] = parse(path)
        except ValueError as error:
            problems.fault_of(error, stem)
    names = ordered(name for annotation in annotations.values() for name in annotation.names)
    bare = sorted(problems.bare if chosen is None else problems.bare & chosen)
    pictures, found = _Names(root, problems), []
    for stem in bare:
        id = pictures.find(f"{source / stem}.xml", "", stem)
        found.append(Found(f"{source / stem}.xml", id, root / id))
    for stem, (filename, size, objects, boxes, difficult) in annotations.items():
        if chosen is not None and stem not in chosen:
            continue
        where = f"{source / stem}.xml"
        id = pictures.find(where, filename and plain_id(filename, root), stem)
        counted = np.ones_like(difficult) if difficult.all() else ~difficult
        labels = [names.index(name) for name, counts in zip(objects, counted, strict=True) if counts]
        first = 0 if (boxes[:, :2] < 1).any() else 1
        offset = np.array([first, first, 0, 0])
        label, boxes = strongest(labels, boxes[counted] - offset)
        sizes = None if size is None else np.array([size])
        problems.boxes([id] * len(boxes), [where] * len(boxes), boxes + offset, sizes, _SLACK)
        boxes = boxes.clip(0, None if size is None else size * 2)
        classes = {names.index(name) for name in objects}
        found.append(Found(where, id, root / id, label, boxes, size, classes=tuple(sorted(classes))))
    pictures_of = assemble(request, root, found, names, source=folder)
    if (segments := folder / "SegmentationClass").is_dir():
        pictures_of.segments = Segments(segments, listed_names([segments, folder]) or voc_names(names))
    return pictures_of


class _Names:
    """Finds the pictures that XML files speak of; each folder is listed once."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self._root, self._problems = root, problems
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, where: str, filename: str, stem: str) -> str:
        """The picture's path below the root; where none is found, as it is written."""
        written = filename or f"{stem}.jpg"
        if id_problem(written):
            return written
        folder, name = posixpath.split(written)
        if name in self._listed(folder).get(posixpath.splitext(name)[0], ()):
            return written
        places = (written, posixpath.splitext(written)[0], stem)
        found = next(filter(None, map(self._of_stem, places)), [written])
        if len(found) > 1:
            self._problems.refuse(
                where, f"expected the name of one picture, {written!r} may be {' or '.join(found)}", written
            )
            return written
        return found[0]

    def _of_stem(self, stem: str) -> list[str]:
        folder, name = posixpath.split(stem)
        names = self._listed(folder).get(name, ())
        return [posixpath.join(folder, one) for one in names if posixpath.splitext(one)[1].lower() in SUFFIXES]

    def _listed(self, folder: str) -> dict[str, list[str]]:
        """Names in a folder by name without suffix."""
        if folder not in self._folders:
            names = self._folders[folder] = {}
            try:
                listed = sorted(os.listdir(self._root / folder))
            except OSError:
                listed = []
            for name in listed:
                names.setdefault(posixpath.splitext(name)[0], []).append(name)
        return self._folders[folder]


def parse(path: Path) -> Annotation:
    """Read one XML file in UTF-8. Document types, and with them entities, are refused.

    ValueError if it is no such XML, has no object, or a number is missing or none; it names file and element.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path}: not a regular file")
    text = text_of(path.read_bytes(), path)
    if "<!DOCTYPE" in text:
        raise ValueError(f"{path}: a document type is not allowed")
    if "\0" in text:  # the parser would take it for UTF-16, in which a document type looks different
        raise ValueError(f"{path}: expected UTF-8 without NUL characters")
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise ValueError(f"{path}: not well-formed XML: {error}") from error
    size, element = None, root.find("size")
    if element is not None:
        texts = [element.findtext(name, "").strip() for name in ("width", "height")]
        width, height = map(whole, texts)
        if not (width and height):
            raise ValueError(f"{path}: size: expected positive whole numbers, got {' x '.join(texts)!r}")
        size = width, height
    names, boxes, difficult = [], [], []
    for index, item in enumerate(root.iter("object"), 1):
        name = tidy(item.findtext("name", ""))
        texts = [item.findtext(f"bndbox/{corner}", "").strip() for corner in _CORNERS]
        box = numbers(texts)
        if not name:
            raise ValueError(f"{path}: object {index}: name is empty")
        if box is None:
            raise ValueError(f"{path}: object {index}: bndbox: expected four numbers, got {', '.join(texts)!r}")
        names.append(name)
        boxes.append(box)
        difficult.append(item.findtext("difficult", "0").strip() == "1")
    if not names:
        raise ValueError(f"{path}: no object")
    filename = root.findtext("filename", "").strip()
    return Annotation(filename, size, names, np.array(boxes), np.array(difficult))


def xml_files(folder: Path, problems: Problems, *, deep: bool = True) -> list[Path]:
    """The XML files in a folder, and in those below if it is `deep`."""
    return suffixed(folder, problems, ".xml", deep=deep)


def suffixed(folder: Path, problems: Problems, suffix: str, *, deep: bool) -> list[Path]:
    """Files of a suffix, in any case, in a folder, and those below if it is `deep`; hidden ones are but counted."""
    found = []
    for parent, folders, names in os.walk(folder):
        seen = not any(map(hidden, Path(parent).relative_to(folder).parts))
        for name in names:
            kind = os.path.splitext(name)[1].lower()
            if kind == suffix and seen and not hidden(name):
                found.append(Path(parent, name))
            elif kind == suffix:
                problems.ignored[f"hidden {kind}"] += 1
            elif suffix in SUFFIXES and kind in SUFFIXES:  # pictures, but no JPEGs
                problems.ignored[kind] += 1
        if not deep:
            folders.clear()
    return sorted(found)


def _root(path: Path) -> Path:
    editions = sorted(path.glob("VOC2*"))  # VOCdevkit/VOC2012
    return editions[0] if len(editions) == 1 else path


def _lists(folder: Path) -> dict[str, Path]:
    """Files of the splits, by name."""
    found = {}
    for kind, prefix in (("Main", ""), ("Segmentation", "Segmentation/")):
        for file in sorted((folder / "ImageSets" / kind).glob("*.txt")):
            # Those of Main with "_" are of single classes.
            if not hidden(file.name) and ("_" not in file.stem or prefix):
                found[f"{prefix}{file.stem}"] = file
    return found


def _splits(path: Path) -> list[str]:
    return list(_lists(_root(path)))


FORMAT = Format(
    "Annotations/*.xml, JPEGImages/, ImageSets/Main/SPLIT.txt",
    fits=lambda path: any((_root(path) / "Annotations").rglob("*.xml")) or any(_root(path).glob("*.xml")),
    splits=_splits,
    read=read,
    whole=lambda path: True,
)
