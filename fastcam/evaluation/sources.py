"""Where score maps come from: what all sources have in common, and folders of .npy files in the standard's layout.

A source lists places in a data set in an order of its own (`order`) and what is wrong at first sight (`problems`). For
positions in that order it makes jobs, `load` does one job (in a thread), and `finish` makes a batch of what was loaded.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from fastcam.data import Sample
from fastcam.data.names import Names, path_look
from fastcam.pictures import DecodeError
from fastcam.pictures.finding import hidden


class Loaded(NamedTuple):
    """One picture's part of a batch, or the reason why there is none.

    Attributes:
        place: index in the data set.
        id: the picture's.
        truth: what the data set knows, without the picture.
        content: what the source made ready for `finish`.
        error: why it is of no use; None if all is well.
    """

    place: int
    id: str
    truth: Sample | None = None
    content: Any = None
    error: str | None = None


class Batch(NamedTuple):
    """Maps of several pictures.

    Attributes:
        loaded: the pictures, N of them.
        maps: [N, H, W] or N arrays [H, W], floating.
        coarse: whether the protocol has yet to upsample the maps.
        relu: whether coarse maps are to be clipped at zero first.
        classes: class index of each map, where it is known.
        logits: [N, C], or None.
        ranks: place of the true class of each among the logits, 1 the highest; None where that is not known.
    """

    loaded: Sequence[Loaded]
    maps: Tensor | Sequence[np.ndarray]
    coarse: bool
    relu: bool
    classes: Sequence[int | None]
    logits: Tensor | None = None
    ranks: Sequence[int | None] | None = None


class Source:
    """What gives maps: the base of all sources.

    Attributes:
        order: places in the data set, in the order in which the maps come.
        problems: (id, reason) of pictures that have no map, and of maps that have no picture.
        info: what makes the maps, as JSON has it; two runs of the same info give the same maps.
        labelled: whether the maps are of the true classes.
    """

    order: Sequence[int]
    problems: Sequence[tuple[str, str]]
    info: Mapping[str, Any]
    labelled: bool

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[Any, ...]]:
        """Give arguments of `load`.

        Args:
            positions: ascending places in `order`.

        Yields:
            One job for each, in order.
        """
        raise NotImplementedError

    def load(self, place: int, *job: Any) -> Loaded:
        """Do the work of one picture; called in threads.

        Args:
            place: index in the data set.
            *job: what else `jobs` gave.

        Returns:
            The picture, ready for `finish`.
        """
        raise NotImplementedError

    def finish(self, loaded: Sequence[Loaded]) -> Batch:
        """Make a batch.

        Args:
            loaded: pictures without error, at least one.

        Returns:
            Their maps.
        """
        raise NotImplementedError


def attempt(place: int, id: str, work: Callable[[], tuple[Sample, Any]]) -> Loaded:
    """Load one picture, or tell why that failed.

    Args:
        place: index in the data set.
        id: the picture's.
        work: gives its truth and content.

    Returns:
        Both, or the error.
    """
    try:
        truth, content = work()
    except DecodeError as error:
        return Loaded(place, id, error=str(error))
    except OSError as error:
        return Loaded(place, id, error=f"unreadable: {error.strerror or error}")
    except ValueError as error:
        return Loaded(place, id, error=str(error))
    return Loaded(place, id, truth._replace(image=None), content)


def elsewhere(data: Any) -> str:
    """Tell how ids look where one was not found: often a folder is missing in front of it, or there is one too many.

    Args:
        data: the data set, with at least one picture.

    Returns:
        The end of a sentence.
    """
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


class MapFolder(Source):
    """Finished maps, one file each: `<image_id>.npy`, as the standard evaluator has them, or the id without its suffix.

    Files hold floating [H, W] in [0, 1], all of one dtype. They are read without pickle.

    Args:
        folder: where they lie.
        data: the data set; its `ids` name the files.

    Raises:
        NotADirectoryError: there is no such folder.
    """

    labelled = True

    def __init__(self, folder: str | os.PathLike[str], data: Any) -> None:
        self.folder, self.data = Path(folder), data
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of maps at {folder}")
        self.info = {"maps": "npy"}
        found = {path: False for path in _files(self.folder, ".npy")}  # and whether it has an owner
        self.order: list[int] = []
        self.problems: list[tuple[str, str]] = []
        self._files: list[str] = []
        wanted = [dict.fromkeys((f"{id}.npy", f"{os.path.splitext(id)[0]}.npy")) for id in data.ids]
        others = Names(found.keys() - {name for names in wanted for name in names}, path_look)
        for place, (id, names) in enumerate(zip(data.ids, wanted, strict=True)):
            alike = dict.fromkeys(index for name in names for index in others.places(name))
            there = [name for name in names if name in found] or [others.names[index] for index in alike]
            if not there:
                self.problems.append((id, f"no map: expected {self.folder / id}.npy"))
            elif len(there) > 1:
                self.problems.append((id, f"two maps: {there[0]} and {there[1]} in {self.folder}"))
            elif found[there[0]]:
                self.problems.append((id, f"its map {there[0]} is another picture's, too"))
            else:
                self.order.append(place)
                self._files.append(there[0])
            found.update(dict.fromkeys(there, True))
        self._dtype = self._first_dtype()
        extra = [name for name, owned in found.items() if not owned and not any(map(hidden, name.split("/")))]
        reason = f"a map in {self.folder} without a picture {elsewhere(data)}"
        self.problems += [(name, reason) for name in extra]

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, str]]:  # noqa: D102 (see Source)
        return ((self.order[position], self._files[position]) for position in positions)

    def load(self, place: int, name: str) -> Loaded:  # noqa: D102 (see Source)
        return attempt(place, self.data.ids[place], lambda: (self.data.truth(place), self._read(name)))

    def finish(self, loaded: Sequence[Loaded]) -> Batch:  # noqa: D102 (see Source)
        return Batch(loaded, [one.content for one in loaded], False, False, [one.truth.label for one in loaded])

    def _read(self, name: str) -> np.ndarray:
        values = _read_npy(self.folder / name)
        if values.dtype != self._dtype:
            raise ValueError(f"its map {self.folder / name} is {values.dtype}, others are {self._dtype}")
        return values

    def _first_dtype(self) -> np.dtype | None:
        for name in self._files:
            try:
                return _read_npy(self.folder / name).dtype
            except (ValueError, OSError):
                continue  # is told when its turn comes
        return None


def _files(folder: Path, suffix: str) -> Iterator[str]:
    """Paths below a folder, relative with "/", sorted."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(suffix):
                yield Path(parent, name).relative_to(folder).as_posix()


def _read_npy(path: Path) -> np.ndarray:
    if not path.is_file():  # opening a pipe would wait for ever
        raise ValueError(f"{path} is no .npy file of numbers: it is no regular file")
    try:
        values = np.load(path, allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # its header is Python, parsed in several ways; it may promise more than there is memory
        raise ValueError(f"{path} is no .npy file of numbers: {error}") from None
    if not isinstance(values, np.ndarray):
        values.close()
        raise ValueError(f"{path} is an archive of arrays: expected one array")
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.floating):
        raise ValueError(f"a map must be floating [H, W], got {values.dtype} {list(values.shape)} in {path}")
    return values
