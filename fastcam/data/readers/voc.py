"""XML in Pascal VOC's manner: Pascal VOC itself, and ILSVRC's CLS-LOC annotations."""

import os
import posixpath
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam.data.names import Names, ordered, path_look, text_of, tidy, whole
from fastcam.data.pictures import Pictures, id_problem
from fastcam.data.places import plain_id
from fastcam.data.problems import Problems
from fastcam.data.reading import Found, assemble, numbers, strongest
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_SLACK = 1  # pixels by which a box may stick out, in the file's own numbers; it is clipped


class Annotation(NamedTuple):
    """What an XML file tells.

    Attributes:
        filename: of the picture, as written; "" if it is not told.
        size: (width, height) in pixels; None if it is not told.
        names: class of each object, at least one.
        boxes: float64 [B, 4], bounding boxes as written: xmin, ymin, xmax, ymax.
        difficult: bool [B], whether the object is marked so.
    """

    filename: str
    size: tuple[int, int] | None
    names: list[str]
    boxes: np.ndarray
    difficult: np.ndarray


def read_voc(
    folder: Path,
    split: str | None = None,
    images: Path | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Pictures:
    """Read Pascal VOC's layout: Annotations/*.xml (or in folders below), JPEGImages/, ImageSets/Main/SPLIT.txt.

    A picture's label is the class with the largest total area of boxes in it, and its boxes are those of that class.
    Objects marked difficult count only where a picture has no others. Classes are numbered by name
    (`fastcam.data.names.ordered`) over all XML files, so that they have the same numbers in each split.

    Args:
        folder: with these folders; or XML files with their pictures beside them.
        split: name of a file in ImageSets/Main, without suffix; None for all XML files.
        images: folder of the pictures, by default "JPEGImages" in `folder`, or `folder`.
        truth_only: the pictures need not be there.
        bad: see `fastcam.data.load`.

    Returns:
        The pictures, ids as the files name them; where there is no such file, the one that differs in its suffix only,
        or has the XML file's name, counts. The corners, which VOC counts from 1 and includes, become half-open from 0:
        xmin - 1, ymin - 1, xmax, ymax. A file in which any corner is below 1 counts from 0, as many tools do, to the
        end of the picture: its corners stay as they are. A box that sticks out by a pixel is clipped.

    Raises:
        FileNotFoundError: a file or a picture is missing.
        ValueError: a malformed file, no object, a box outside its picture, a picture that comes twice.
    """
    problems = Problems(bad)
    source, root = folder / "Annotations", images or folder / "JPEGImages"
    source, root = (path if path.is_dir() else folder for path in (source, root))
    files = {path.relative_to(source).with_suffix("").as_posix(): path for path in _files(source, problems)}
    chosen: set[str] | None = None
    if split is not None:
        path, known = folder / "ImageSets" / "Main" / f"{split}.txt", Names(files, path_look)
        chosen = set()
        for number, line in problems.lines(path):
            stem = line.split()[0]
            places = known.places(stem)
            if len(places) != 1:
                problems.doubt(f"{path}:{number}", f"there is no {source / stem}.xml", stem)
            chosen.add(known.names[places[0]] if len(places) == 1 else stem)
    annotations: dict[str, Annotation] = {}
    for stem, path in files.items():
        try:
            annotations[stem] = parse(path)
        except ValueError as error:
            problems.caught(error, stem)
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
        found.append(Found(where, id, root / id, label, boxes, size))
    return assemble(problems, folder, root, found, names, truth_only=truth_only)


class _Names:
    """Finds the pictures that XML files speak of; each folder is listed once."""

    def __init__(self, root: Path, problems: Problems) -> None:
        self._root, self._problems = root, problems
        self._folders: dict[str, dict[str, list[str]]] = {}

    def find(self, where: str, filename: str, stem: str) -> str:
        """The picture's path below the root; where none is found, as it is told."""
        told = filename or f"{stem}.jpg"
        if id_problem(told):
            return told
        folder, name = posixpath.split(told)
        if name in self._listed(folder).get(posixpath.splitext(name)[0], ()):
            return told
        places = (told, posixpath.splitext(told)[0], stem)
        found = next(filter(None, map(self._of_stem, places)), [told])
        if len(found) > 1:
            self._problems.refuse(
                where, f"expected the name of one picture, {told!r} may be {' or '.join(found)}", told
            )
            return told
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


def read_ilsvrc(
    folder: Path,
    split: str,
    images: Path | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Pictures:
    """Read ILSVRC's CLS-LOC layout: Data/CLS-LOC/SPLIT with pictures, Annotations/CLS-LOC/SPLIT with XML files.

    Training pictures lie in a folder for each WordNet id, which is their label. Their XML files are not read: half of
    the pictures have none, and some of these are wrong. Of the others, each has an XML file that tells class and boxes.
    Classes are numbered as in LOC_synset_mapping.txt (in `folder`, or the folder above), which also names them; without
    it, WordNet ids are sorted: those of the training pictures' folders or, without these, those that the files tell.

    Args:
        folder: with Annotations and Data.
        split: "train" or "val".
        images: folder of the pictures of this split, by default that in Data.
        truth_only: the pictures need not be there, but for training.
        bad: see `fastcam.data.load`.

    Returns:
        The pictures, ids relative to the folder of the pictures, boxes as written.

    Raises:
        FileNotFoundError: a picture, or the folder of pictures or annotations, is missing.
        ValueError: a malformed file, no object, objects of several classes, a box outside its picture, an unknown or
            empty class.
    """
    problems = Problems(bad)
    root = images or folder / "Data" / "CLS-LOC" / split
    source = root if split == "train" else folder / "Annotations" / "CLS-LOC" / split
    found = []
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}")
    wnids: dict[str, str] = {}  # of each picture
    if split == "train":
        for name in _folders(source):
            pictures = _files(source / name, problems, ".jpeg", deep=False)
            if not pictures:
                raise ValueError(f"{source / name}: no pictures (*.JPEG) of this class")
            for path in pictures:
                id = path.relative_to(source).as_posix()
                wnids[id] = name
                found.append(Found(str(path), id, root / id))
    for path in _files(source, problems, deep=False) if split != "train" else ():
        id = f"{path.stem}.JPEG"
        try:
            annotation = parse(path)
        except ValueError as error:
            problems.caught(error, id)
            found.append(Found(str(path), id, root / id))
            continue
        if len(set(annotation.names)) > 1:
            problems.doubt(f"{path}: object/name", f"expected one class, got {', '.join(annotation.names)}", id)
        wnids[id] = annotation.names[0]
        found.append(Found(str(path), id, root / id, None, annotation.boxes, annotation.size))
    names, numbered = _synsets(folder, set(wnids.values()))
    for index, entry in enumerate(found):
        wnid = wnids.get(entry.id)
        if wnid not in numbered:
            problems.doubt(entry.where, f"{wnid} is no known class", entry.id)
        found[index] = entry._replace(label=numbered.get(wnid))
    return assemble(problems, source, root, found, names, truth_only=truth_only)


def parse(path: Path) -> Annotation:
    """Read one XML file. Document types, and with them entities, are refused, as is any other encoding than UTF-8.

    Args:
        path: the file, UTF-8.

    Returns:
        What it tells.

    Raises:
        ValueError: it is no such XML, has no object, or a number is missing or none; the message names file and
            element.
        OSError: it cannot be read.
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
    size = root.find("size")
    if size is not None:
        texts = [size.findtext(name, "").strip() for name in ("width", "height")]
        size = tuple(map(whole, texts))
        if not all(size):
            raise ValueError(f"{path}: size: expected positive whole numbers, got {' x '.join(texts)!r}")
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


def _files(folder: Path, problems: Problems, suffix: str = ".xml", *, deep: bool = True) -> list[Path]:
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


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name))


def _synsets(folder: Path, seen: set[str]) -> tuple[list[str], dict[str, int]]:
    """Names of the classes, and the class index of each WordNet id."""
    for path in (folder / "LOC_synset_mapping.txt", folder.parent / "LOC_synset_mapping.txt"):
        if path.is_file():
            rows = [row for _, row in Problems().rows(path, ("wnid", "name"), None)]
            return [name for _, name in rows], {wnid: index for index, (wnid, _) in enumerate(rows)}
    train = folder / "Data" / "CLS-LOC" / "train"
    wnids = _folders(train) if train.is_dir() else sorted(seen)
    return wnids, {wnid: index for index, wnid in enumerate(wnids)}
