"""What all sources of score maps have in common, and the data sets that they belong to.

A source lists places in a data set in an order of its own (`order`) and what is wrong at first sight (`problems`). For
positions in that order it makes jobs, `load` does one job (in a thread), and `finish` makes a batch of what was loaded.
Whoever measures need know no more of it: what its figures are called, and what misleads in its maps, it says itself.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from fastcam import data as datasets, ops
from fastcam.data import Collection, Sample, read_for
from fastcam.data.names import Names, path_look
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.result import Figures, Result
from fastcam.methods.cautions import constant
from fastcam.methods.scales import finished
from fastcam.pictures import Reading

J = TypeVar("J")
T = TypeVar("T")


class Loaded(NamedTuple, Generic[T]):
    """One picture's part of a batch.

    Attributes:
        place: index in the data set.
        id: the picture's.
        truth: what the data set knows, without the picture.
        content: what the source made ready for `finish`.
    """

    place: int
    id: str
    truth: Sample
    content: T


class Failed(NamedTuple):
    """A picture of no use, and why."""

    id: str
    reason: str


class Maps(NamedTuple):
    """Maps of several pictures.

    Attributes:
        loaded: the pictures, N of them.
        maps: coarse ones, [N, h, w], which the protocol is to upsample; or N finished ones [H, W].
        relu: whether coarse maps are to be clipped at zero first.
        classes: class index of each map, where it is known.
        logits: [N, C], or None.
        ranks: place of the true class of each among the logits, 1 the highest; None where that is not known.
        scores: float32 [N, K], what average precision ranks pictures by, of the classes `Source.ranked`; None for none.
        summed: whether they are sums over several views, which are divided by their maximum alone.
    """

    loaded: Sequence[Loaded[Any]]
    maps: Tensor | Sequence[np.ndarray]
    relu: bool = False
    classes: Sequence[int | None] | None = None
    logits: Tensor | None = None
    ranks: Sequence[int | None] | None = None
    scores: np.ndarray | None = None
    summed: bool = False

    @property
    def ids(self) -> list[str]:
        """Of the pictures."""
        return [one.id for one in self.loaded]

    @property
    def truths(self) -> list[Sample]:
        """Of the pictures."""
        return [one.truth for one in self.loaded]

    def finished(self, protocol: Protocol) -> Tensor | Sequence[np.ndarray]:
        """The maps in the frame of a protocol, [N, H, W] in [0, 1]."""
        if not isinstance(self.maps, Tensor):
            return self.maps
        if self.summed:
            return finished(self.maps.double(), protocol.size, protocol.mode, ops)
        return protocol.upsample(self.maps.relu() if self.relu else self.maps)


class Source(ABC, Generic[J, T]):
    """What gives maps: the base of all sources.

    Attributes:
        data: the data set.
        order: places in the data set, in the order in which the maps come.
        problems: (id, reason) of pictures that have no map, and of maps that have no picture.
        errors: (id, reason) of pictures that count as misses, since they could not be read when their boxes were made;
            None for sources that know of no such pictures.
        labelled: whether the maps are of the true classes.
        graded: whether their values mean something, so that there are thresholds; boxes as maps are not.
        ranked: the classes, ascending, whose average precision is measured; () for none.
    """

    data: Collection
    order: Sequence[int]
    problems: Sequence[tuple[str, str]] = ()
    errors: Sequence[tuple[str, str]] | None = None
    labelled: bool
    graded = True
    ranked: tuple[int, ...] = ()

    @property
    @abstractmethod
    def info(self) -> Mapping[str, Any]:
        """What makes the maps, as JSON has it; two runs of the same info give the same maps."""

    @abstractmethod
    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, J]]:
        """For ascending positions in `order`, place in the data set and what else `load` needs."""

    @abstractmethod
    def read(self, place: int, what: J) -> tuple[Sample, T]:
        """The truth of a picture, and what `finish` needs of it; raises ValueError or OSError if it is of no use."""

    @abstractmethod
    def finish(self, loaded: Sequence[Loaded[T]]) -> Maps:
        """The maps of pictures, at least one."""

    def load(self, job: tuple[int, J]) -> Loaded[T] | Failed:
        """Do a job; called in threads."""
        place, what = job
        id = self.data.ids[place]
        try:
            truth, content = self.read(place, what)
        except OSError as error:
            return Failed(id, f"unreadable: {error.strerror or error}")
        except ValueError as error:
            return Failed(id, str(error))
        return Loaded(place, id, truth._replace(image=None), content)

    @property
    def num_classes(self) -> int | None:
        """How many classes the labels are of; None where not all are known."""
        known = [label for label in self.data.labels or () if label is not None]
        return max(len(self.data.class_names), max(known) + 1) if len(known) == len(self.data.ids) else None

    def figures(self, result: Result) -> Figures:
        """What a result says of these maps: GT-known Loc is what it is called where the class is the true one."""
        figures = result.summary()
        return figures if self.labelled else figures.renamed("GT-known Loc", "BoxAcc 50")

    def cautions(self, result: Result | None) -> list[str | None]:
        """What makes these maps mislead, as far as a result, if there is one, and their making show it."""
        return [] if result is None else [constant(result.maps[1], result.maps[0], {})]


def elsewhere(data: Collection) -> str:
    """Tell how ids look where one was not found: often a folder is missing in front of it, or there is one too many."""
    return f"in the data set, whose ids are such as {data.ids[0]}"


class Places:
    """Places in a data set by id: of that very id, else of the only one that looks like it.

    Args:
        ids: those of the data set.
    """

    def __init__(self, ids: Sequence[str]) -> None:
        self._ids, self._exact = ids, {id: place for place, id in enumerate(ids)}

    def get(self, id: str) -> int | None:
        """Find a picture.

        Args:
            id: as a run has it.

        Returns:
            Its place; None if there is none, or several look like it.
        """
        place = self._exact.get(id)
        if place is None:
            alike = self._names.places(id)
            place = alike[0] if len(alike) == 1 else None
        return place

    @cached_property
    def _names(self) -> Names:
        return Names(self._ids, path_look)


class _Samples:
    """Any data set, with what `fastcam.data.Collection` has besides."""

    def __init__(self, data: Any) -> None:
        self._data, self.class_names = data, tuple(getattr(data, "class_names", ()))
        truths = [data[index] for index in range(len(data))]
        self.ids = [str(index) if truth.id is None else str(truth.id) for index, truth in enumerate(truths)]
        self.labels = [truth.label for truth in truths]
        classes = [truth.classes for truth in truths]
        self.classes = classes if any(found is not None for found in classes) else None

    def read_as(self, reading: Reading) -> "_Samples":
        found = object.__new__(_Samples)
        vars(found).update(vars(self), _data=read_for(self._data, reading))
        return found

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self._data[index]

    def truth(self, index: int) -> Sample:
        return self._data[index]._replace(image=None)


def opened(data: Any, problems: list[tuple[str, str]] | None = None, truth_only: bool = False) -> Collection:
    """Open a data set by its path, or give one what an evaluation needs of it.

    What is malformed is listed in `problems` and left out, unless that is None; with `truth_only` the pictures need not
    be there.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: it is malformed, or has no pictures.
    """
    if isinstance(data, str | os.PathLike):
        data = datasets.load(data, truth_only=truth_only, bad=problems)
    if not all(hasattr(data, name) for name in ("ids", "labels", "truth", "class_names")):
        data = _Samples(data)
    if not data.ids:
        raise ValueError("the data set has no pictures")
    return data
