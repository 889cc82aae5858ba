"""What is known of the pictures of a run, and under which numbers classes and labels meet."""

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from fastcam.data import Dataset
from fastcam.data.names import by_number
from fastcam.data.pictures import Packed, Pictures
from fastcam.pictures import Header

_Boxes = tuple[np.ndarray | None, tuple[int, int] | None]  # true boxes, and the size that they refer to
_Located = Callable[[Header | None], _Boxes]
_TRIED = 1000  # ids, about, whose partner is looked for where those of run and data set are relative to other folders


class Truth:
    """Labels and true boxes of pictures by their id in the run.

    Attributes:
        source: where labels come from, in words.
        names: name of each label, () if they have none.
        numbered: whether labels may be the network's own class indices.
        labels: id → label.
        classes: id → all classes that are in the picture, of those of which that is known.
        known: labels that any picture has, also as one of several.
        boxes: id → gives, by the header of the picture as the run saw it (None: that of the file), true boxes, float32
            [B, 4] xyxy, and (width, height) of the frame they are in, or None where that is the picture's own.
        files: id → where the picture is.
        indices: id → index in the data set.
    """

    def __init__(self, source: str, names: tuple[str, ...] = (), numbered: bool = True) -> None:
        self.source, self.names, self.numbered = source, names, numbered
        self.labels: dict[str, int] = {}
        self.classes: dict[str, tuple[int, ...]] = {}
        self.known: set[int] = set()
        self.boxes: dict[str, _Located] = {}
        self.files: dict[str, Path | Packed] = {}
        self.indices: dict[str, int] = {}

    @classmethod
    def of_data(cls, data: Dataset, ids: Iterable[str], places: Mapping[str, Path | Packed] | None = None) -> Self:
        """Take it from a data set.

        Pictures are the same that lie at the same place, where `places` has those of the run by id. If none does, as
        where a data set has moved, ids are compared as they are; if none is in both, one side may have a folder more in
        front of all its ids, or it is a ValueError. A `Pictures` is not decoded.
        """
        truth = cls("the data set", tuple(data.class_names))
        for index, (id, label, classes, located, file) in enumerate(_samples(data)):
            truth.indices[id] = index
            if label is not None:
                truth.labels[id] = label
            if classes is not None:
                truth.classes[id] = classes
            if located is not None:
                truth.boxes[id] = located
            if file is not None:
                truth.files[id] = file
        truth.known = {label for classes in truth.classes.values() for label in classes}
        known = list({**truth.labels, **truth.classes} or truth.boxes or truth.files)
        places = places if places and truth.files else {}
        lying = {_place(file): id for id, file in truth.files.items()} if places else {}
        same = {id: lying[place] for id, file in places.items() if (place := _place(file)) in lying}
        if not same:
            run = list(ids)
            if not {*known}.isdisjoint(run):
                return truth
            add, drop = _prefixes(run, known)
            same = {drop + id.removeprefix(add): id for id in known if id.startswith(add)}
        truth.labels = {id: truth.labels[other] for id, other in same.items() if other in truth.labels}
        truth.classes = {id: truth.classes[other] for id, other in same.items() if other in truth.classes}
        truth.boxes = {id: truth.boxes[other] for id, other in same.items() if other in truth.boxes}
        truth.files = {id: truth.files[other] for id, other in same.items() if other in truth.files}
        truth.indices = {id: truth.indices[other] for id, other in same.items()}
        return truth

    @classmethod
    def of_folders(cls, ids: Iterable[str], classes: Iterable[str | None], always: bool = False) -> Self | None:
        """Take the last folder of each id as its label.

        None if less than half of all pictures lie in a folder that is called like one of the classes that the run found
        (None where a name is unknown), unless this is to be done `always`.
        """
        folders = {id: posixpath.basename(posixpath.dirname(id)) for id in ids}
        known = set(classes)
        if not always and 2 * sum(name in known for name in folders.values()) < max(1, len(folders)):
            return None
        names = tuple(sorted(set(folders.values()) - {""}))
        truth = cls("names of folders", names, numbered=False)
        numbers = {name: number for number, name in enumerate(names)}
        truth.labels = {id: numbers[name] for id, name in folders.items() if name}
        return truth

    def label_of(self, id: str, found: int | None, classes: "Classes") -> int | None:
        """The place of a picture's label in `classes`: of several classes the one that the network `found`, if any."""
        if any(classes.of_label[label] == found for label in self.classes.get(id, ())):
            return found
        label = self.labels.get(id)
        return None if label is None else classes.of_label.get(label)

    def boxes_in(self, id: str, size: Any, orientation: float | None = None) -> np.ndarray:
        """True boxes of a picture in its own pixels, float64 [B, 4], xyxy.

        B is 0 if none are known, or if they are of a picture of another size than (width, height). The orientation says
        how it was stored; NaN if it was no file, None if that is not known.
        """
        located = self.boxes.get(id)
        if located is None:
            return np.zeros((0, 4))
        width, height = map(int, size)
        turned = int(orientation) if orientation is not None and orientation in range(1, 9) else 1
        try:
            boxes, frame = located(None if orientation is None else Header((width, height), turned))
        except ValueError:
            boxes = None
        if boxes is None:
            return np.zeros((0, 4))
        scale = np.ones(2) if frame is None else np.asarray(size) / np.array(frame)
        return boxes.astype(np.float64) * np.tile(scale, 2)


class Classes:
    """One list of all classes that a page speaks of: those that the run found and those of the labels.

    Class indices and labels are the same numbers if the names of all classes found say so; else they meet by name if
    the labels have all those names. Where only some names are known, the numbers count if they agree with at least
    half of them, or if the labels have none of the names. Names of folders always meet by name. Where classes have no
    names and all labels are named by whole numbers, these are the class indices.

    Args:
        found: class index → name, or None if unknown, of the classes that the run found.
        truth: with the labels, or None.
        count: of the network's classes, if known.

    Attributes:
        names: name of each, no two alike.
        of_class: class index → place in `names`.
        of_label: label → place in `names`.
    """

    def __init__(self, found: Mapping[int, str | None], truth: Truth | None, count: int | None = None) -> None:
        self.names: list[str] = []
        self._taken: set[str] = set()
        self.of_class = {number: self._add(found[number], number) for number in sorted(found)}
        self.of_label: dict[int, int] = {}
        if truth is None:
            return
        names = truth.names
        by_name = _meet_by_name(found, truth)
        named = {name: self.of_class[number] for number, name in found.items() if name is not None and by_name}
        numbers = None if any(name is not None for name in found.values()) else by_number(names, count)
        for label in sorted(truth.known.union(truth.labels.values())):
            name = names[label] if 0 <= label < len(names) else None
            if numbers is not None and name is not None:
                place = self.of_class.get(numbers[label])
            elif by_name:
                place = None if name is None else named.get(name)
            else:
                place = self.of_class.get(label)
            self.of_label[label] = self._add(name, label) if place is None else place

    def _add(self, name: str | None, number: int) -> int:
        name = f"class {number}" if name is None else name
        while name in self._taken:  # ImageNet, too, has two classes of one name
            name = f"{name} ({number})"
        self._taken.add(name)
        self.names.append(name)
        return len(self.names) - 1


def _meet_by_name(found: Mapping[int, str | None], truth: Truth) -> bool:
    if not truth.numbered:
        return True
    names, known = truth.names, set(truth.names)
    agree = sum(0 <= number < len(names) and names[number] == name for number, name in found.items())
    shared = sum(name in known for name in found.values())
    if agree == len(found) or not shared:
        return False
    return shared == len(found) or 2 * agree < len(found)


def _samples(
    data: Dataset,
) -> Iterator[tuple[str, int | None, tuple[int, ...] | None, _Located | None, Path | Packed | None]]:
    """Id, label, classes, boxes and file of each picture; without decoding it where the data set can."""
    if not isinstance(data, Pictures):
        for index in range(len(data)):
            sample = data.truth(index) if hasattr(data, "truth") else data[index]
            given = None if sample.boxes is None or not len(sample.boxes) else (sample.boxes, sample.size)
            located = None if given is None else partial(_as_given, given)
            yield str(index) if sample.id is None else sample.id, sample.label, sample.classes, located, None
        return
    for index, (id, file) in enumerate(zip(data.ids, data.files, strict=True)):
        label = None if data.labels is None else data.labels[index]
        classes = None if data.classes is None else data.classes[index]
        boxes = None if data.boxes is None else data.boxes[index]
        yield id, label, classes, partial(data.located, index) if boxes is not None and len(boxes) else None, file


def _as_given(boxes: _Boxes, header: Header | None) -> _Boxes:
    return boxes


def _place(file: Path | Packed) -> tuple[str, int | None]:
    """Where a picture's bytes begin, to compare."""
    if isinstance(file, Packed):
        return os.path.abspath(file.path), file.offset
    return os.path.abspath(file), None


def _prefixes(run: list[str], known: Iterable[str]) -> tuple[str, str]:
    """What to take from the front of the data set's ids, and what to put there, to get the run's."""
    named: dict[str, list[str]] = {}
    for other in known:
        named.setdefault(posixpath.basename(other), []).append(other)
    fitting: set[tuple[str, str]] | None = None  # all ids that have a partner
    examples: dict[tuple[str, str], str] = {}
    for id in run[:: max(1, len(run) // _TRIED)]:
        found = {}
        for other in named.get(posixpath.basename(id), ()):
            if other.endswith("/" + id):
                found[other.removesuffix(id), ""] = f"{id!r} may be {other!r}"
            elif id.endswith("/" + other):
                found["", id.removesuffix(other)] = f"{id!r} may be {other!r}"
        if found:
            fitting = set(found) if fitting is None else fitting & set(found)
            examples = found | examples
    if fitting is None:
        first = [next(iter(ids), "nothing") for ids in (run, chain(*named.values()))]
        raise ValueError(
            f"no picture of the run is in the data set: the run has {first[0]!r}, for example, the data set "
            f"{first[1]!r}"
        )
    if len(fitting) != 1:
        either = ", ".join(list(examples.values())[:2])
        raise ValueError(
            f"nothing tells which pictures of the data set are those of the run: {either}; localize the data set's own "
            "folder, or keep the run's inputs.parquet, which has the places of its pictures, beside its table"
        )
    return fitting.pop()
