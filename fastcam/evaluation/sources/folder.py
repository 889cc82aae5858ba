"""Finished maps in a folder of .npy files, the standard evaluator's layout."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fastcam._files import read_npy
from fastcam.data import Collection, Sample
from fastcam.data.names import Names, path_look
from fastcam.evaluation.sources.source import Loaded, Maps, Source, elsewhere
from fastcam.pictures.finding import hidden


class MapFolder(Source[str, np.ndarray]):
    """Finished maps, one file each: `<image_id>.npy`, as the standard evaluator has them, or the id without its suffix.

    Files hold floating [H, W] in [0, 1], all of one dtype. They are read without pickle. Raises NotADirectoryError if
    there is no such folder.
    """

    labelled = True

    def __init__(self, folder: str | os.PathLike[str], data: Collection) -> None:
        self.folder, self.data = Path(folder), data
        if not self.folder.is_dir():
            raise NotADirectoryError(f"no folder of maps at {folder}")
        found = dict.fromkeys(_files(self.folder, ".npy"), False)  # and whether it has an owner
        self.order: list[int] = []
        problems: list[tuple[str, str]] = []
        self._files: list[str] = []
        wanted = [dict.fromkeys((f"{id}.npy", f"{os.path.splitext(id)[0]}.npy")) for id in data.ids]
        others = Names(found.keys() - {name for names in wanted for name in names}, path_look)
        for place, (id, names) in enumerate(zip(data.ids, wanted, strict=True)):
            alike = dict.fromkeys(index for name in names for index in others.places(name))
            there = [name for name in names if name in found] or [others.names[index] for index in alike]
            if not there:
                problems.append((id, f"no map: expected {self.folder / id}.npy"))
            elif len(there) > 1:
                problems.append((id, f"two maps: {there[0]} and {there[1]} in {self.folder}"))
            elif found[there[0]]:
                problems.append((id, f"its map {there[0]} is another picture's, too"))
            else:
                self.order.append(place)
                self._files.append(there[0])
            found.update(dict.fromkeys(there, True))
        self._dtype = self._first_dtype()
        extra = [name for name, owned in found.items() if not owned and not any(map(hidden, name.split("/")))]
        reason = f"a map in {self.folder} without a picture {elsewhere(data)}"
        self.problems = [*problems, *((name, reason) for name in extra)]

    @property
    def info(self) -> Mapping[str, str]:
        """That they are files."""
        return {"maps": "npy"}

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, str]]:
        """Places and names of files."""
        return ((self.order[position], self._files[position]) for position in positions)

    def read(self, place: int, what: str) -> tuple[Sample, np.ndarray]:
        """The map is finished as it is."""
        truth, values = self.data.truth(place), _read_npy(self.folder / what)
        if values.dtype != self._dtype:
            raise ValueError(f"its map {self.folder / what} is {values.dtype}, others are {self._dtype}")
        return truth, values

    def finish(self, loaded: Sequence[Loaded[np.ndarray]]) -> Maps:
        """The maps of pictures."""
        return Maps(loaded, [one.content for one in loaded])

    def _first_dtype(self) -> np.dtype | None:
        for name in self._files:
            try:
                return _read_npy(self.folder / name).dtype
            except (ValueError, OSError):
                continue  # its turn will come
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
        values = read_npy(lambda: np.load(path, allow_pickle=False))
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
