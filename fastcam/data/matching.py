"""Labels of a data set and classes of a network: they are the same numbers, or meet by their names."""

import copy
from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastcam.data.pictures import Pictures
from fastcam.data.sample import Sample


def by_name(names: Sequence[str], classes: Sequence[str]) -> list[int] | None:
    """Find the classes of a network that labels are named like.

    Args:
        names: of the labels, in the order of their numbers.
        classes: names of the network's classes, likewise.

    Returns:
        The class of each label; None if a name is not there, or there are no names, or not each but once.

    Raises:
        ValueError: only some of the names are there, and at other numbers.
    """
    if not names or not classes or list(names) == list(classes[: len(names)]):
        return list(range(len(names))) if names and classes else None
    places, labels = ({name: place for place, name in enumerate(known)} for known in (classes, names))
    twice = {name for known in (classes, names) for name, count in Counter(known).items() if count > 1}
    if labels.keys() <= places.keys() - twice:
        return [places[name] for name in names]
    for name, label in labels.items():
        if name not in twice and places.get(name, label) != label:
            other = next(other for other in names if other in twice or other not in places)
            why = "comes twice" if other in twice else "is none of the network's"
            raise ValueError(
                f"label {label} of the data set is {name!r}, which is class {places[name]} of the network, but "
                f"{other!r} {why}: so they can meet neither by number nor by name; rename classes, or tell the class "
                "of each picture by its number"
            )
    return None


def in_classes(data: Any, classes: Sequence[str]) -> Any:
    """Give a data set's labels the numbers that a network's classes of the same names have.

    Args:
        data: a data set, samples by index.
        classes: names of the network's classes, () if unknown.

    Returns:
        The data set, with other labels if the names of all are among the classes, at other numbers.

    Raises:
        ValueError: as `by_name`.
    """
    names = tuple(getattr(data, "class_names", None) or ())
    places = by_name(names, classes)
    if places is None or places == list(range(len(names))):
        return data
    if not isinstance(data, Pictures):
        return _Renumbered(data, places, tuple(classes))
    data = copy.copy(data)
    data.class_names, labels = tuple(classes), data.labels
    data.labels = None if labels is None else [None if label is None else places[label] for label in labels]
    return data


def warning(names: Sequence[str], classes: Sequence[str], count: int) -> str | None:
    """Tell of labels that may not be a network's classes, such as those of a few folders.

    Args:
        names: of the labels.
        classes: of the network, () if unknown.
        count: of the network's classes.

    Returns:
        What to say; None if they meet by name, or nothing tells against their numbers.

    Raises:
        ValueError: as `by_name`.
    """
    numbered = all(name == str(index) for index, name in enumerate(names))  # labels without names
    if numbered or (len(names) == count and not classes) or by_name(names, classes) is not None:
        return None
    asked = f", {classes[0]!r}" if classes else ""
    return (
        f"the data set has {len(names)} classes, the network {count}: "
        f"label 0, {names[0]!r}, is taken for the network's class 0{asked}"
    )


class _Renumbered:
    """A data set whose labels have other numbers."""

    def __init__(self, data: Any, places: Sequence[int], class_names: tuple[str, ...]) -> None:
        self._data, self._places, self.class_names = data, places, class_names
        if getattr(data, "labels", None) is not None:
            self.labels = [self._place(label) for label in data.labels]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> Sample:
        sample = self._data[index]
        return sample._replace(label=self._place(sample.label))

    def truth(self, index: int) -> Sample:
        sample = self._data.truth(index)
        return sample._replace(label=self._place(sample.label))

    def _place(self, label: int | None) -> int | None:
        return None if label is None else self._places[label]
