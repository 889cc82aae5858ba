"""Labels of a data set and classes of a network: they meet by their names, or are the same numbers."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any, TypeVar, overload

from fastcam.data.names import Names, by_number, whole
from fastcam.data.pictures import Pictures
from fastcam.data.sample import Collection, Sample, read_for
from fastcam.pictures import Reading

T = TypeVar("T")


def by_name(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """The classes of a network that labels are named like: to the letter, else alike (``fastcam.data.names.look``).

    `names` are of the labels, in the order of their numbers, `classes` of the network's classes. None if a name is not
    there, or there are no names, or not each but once. ValueError if only some of the names are there, and at other
    numbers; or two labels look like the same class.
    """
    if not names or not classes or list(names) == list(classes[: len(names)]):
        return list(range(len(names))) if names and classes else None
    known = Names(classes)
    found = [known.places(name) for name in names]
    twice = {name for name, count in Counter(names).items() if count > 1}
    twice |= {name for name, places in zip(names, found, strict=True) if len(places) > 1}
    single = {label: places[0] for label, places in enumerate(found) if len(places) == 1 and names[label] not in twice}
    owners: dict[int, int] = {}
    for label, place in single.items():
        if (other := owners.setdefault(place, label)) != label:
            raise ValueError(
                f"labels {other} and {label} of the data set, {names[other]!a} and {names[label]!a}, both look like "
                f"class {place} of the network, {classes[place]!a}: rename one, or tell the class of each picture by "
                "its number"
            )
    if len(single) == len(names):
        return [*single.values()]
    for label, place in single.items():
        if place != label:
            other = next(index for index in range(len(names)) if index not in single)
            alike = ", ".join(f"{place} ({classes[place]!r})" for place in found[other])
            why = f"looks like its classes {alike}" if len(found[other]) > 1 else "is none of the network's"
            why = "comes twice" if max(Counter(names)[names[other]], classes.count(names[other])) > 1 else why
            raise ValueError(
                f"label {label} of the data set is {names[label]!r}, which is class {place} of the network, but "
                f"{names[other]!r} {why}: so they can meet neither by number nor by name; rename classes, or tell the "
                "class of each picture by its number"
            )
    for label, places in enumerate(found):
        if len(places) > 1 and label not in places:  # ImageNet, too, has two classes of one name
            alike = " or ".join(f"{place} ({classes[place]!r})" for place in places)
            raise ValueError(
                f"label {label} of the data set, {names[label]!r}, may be class {alike} of the network: rename one, "
                "or tell the class of each picture by its number"
            )
    return None


def meet(names: Sequence[str], classes: Sequence[str], count: int | None = None) -> list[int] | None:
    """The classes of a network that labels are: by name, else by number where all names are whole numbers.

    `classes` is () and `count` None where they are unknown. None where neither helps, so that labels are taken for the
    network's numbers. Raises as `by_name`.
    """
    places = by_name(names, classes)
    return by_number(names, count or len(classes) or None) if places is None else places


@overload
def in_classes(data: Collection, classes: Sequence[str], count: int | None = None) -> Collection: ...


@overload
def in_classes(data: T, classes: Sequence[str], count: int | None = None) -> T: ...


def in_classes(data: Any, classes: Sequence[str], count: int | None = None) -> Any:
    """A data set with labels, and classes of pictures, by the numbers of a network's classes.

    It stays as it is if not the names of all its classes are among these, see `meet`. `classes` is () and `count` None
    where they are unknown. Raises as `by_name`.
    """
    names = tuple(getattr(data, "class_names", None) or ())
    places = meet(names, classes, count)
    if places is None or places == list(range(len(names))):
        return data
    known = tuple(classes) or tuple(map(str, range(count or 0)))
    if not isinstance(data, Pictures):
        return _Renumbered(data, places, known)
    found = copy.copy(data)
    found.class_names = known
    found.labels = None if data.labels is None else [_place(places, label) for label in data.labels]
    found.classes = None if data.classes is None else [_places(places, classes) for classes in data.classes]
    return found


def warning(names: Sequence[str], classes: Sequence[str], count: int) -> str | None:
    """A warning of labels that may not be a network's classes, such as those of a few folders.

    None if they meet by name, or nothing speaks against their numbers. Raises as `by_name`.
    """
    if by_name(names, classes) is not None or all(name == str(index) for index, name in enumerate(names)):
        return None
    places = by_number(names, count) or range(len(names))
    # What is named by another number comes first.
    odd = [label for label, name in enumerate(names) if whole(name) not in (None, places[label])]
    if not odd and len(names) == count and not classes:
        return None
    first = odd[0] if odd else 0
    if not odd and classes:
        first = next((label for label in range(min(len(names), count)) if names[label] != classes[label]), 0)
    asked = f", {classes[places[first]]!r}" if places[first] < len(classes) else ""
    return (
        f"the data set has {len(names)} classes, the network {count}: "
        f"label {first}, {names[first]!r}, is taken for the network's class {places[first]}{asked}"
    )


class _Renumbered:
    """A data set whose labels have other numbers."""

    def __init__(self, data: Any, places: Sequence[int], class_names: tuple[str, ...]) -> None:
        self._data, self._places, self.class_names = data, places, class_names
        if getattr(data, "labels", None) is not None:
            self.labels = [_place(places, label) for label in data.labels]
        if getattr(data, "classes", None) is not None:
            self.classes = [_places(places, classes) for classes in data.classes]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def read_as(self, reading: Reading) -> "_Renumbered":
        """As that of the data set itself."""
        return _Renumbered(read_for(self._data, reading), self._places, self.class_names)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        return self._renumbered(self._data[index])

    def truth(self, index: int) -> Sample:
        return self._renumbered(self._data.truth(index))

    def _renumbered(self, sample: Sample) -> Sample:
        label, classes = _place(self._places, sample.label), _places(self._places, sample.classes)
        return sample._replace(label=label, classes=classes)


def _place(places: Sequence[int], label: int | None) -> int | None:
    return None if label is None else places[label]


def _places(places: Sequence[int], classes: Sequence[int] | None) -> tuple[int, ...] | None:
    return None if classes is None else tuple(sorted(places[label] for label in classes))
