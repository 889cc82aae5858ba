"""STL-10's binary files: pictures of 96x96 in ten classes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from fastcam.data.names import whole
from fastcam.data.reading import Format, Problems, Request
from fastcam.data.sample import Sample

CLASSES = ("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck")
_SIDE = 96
_BYTES = 3 * _SIDE * _SIDE
_SPLITS = ("train", "test", "unlabeled")


class Stl10:
    """Pictures of a memory-mapped file, which is read as they are asked for.

    Args:
        path: SPLIT_X.bin, bytes [N, 3, 96, 96], columns before rows.
        rows: places in the file of the pictures that count.
        labels: class index of each of these; None where there are none.
        split: what their ids begin with.
        class_names: names of the classes.

    Attributes:
        ids: SPLIT/NUMBER, the number as in the file.
        classes: None, since each has one class at most.
    """

    classes: Sequence[tuple[int, ...] | None] | None = None

    def __init__(
        self,
        path: Path,
        rows: Iterable[int],
        labels: list[int] | None,
        split: str,
        class_names: tuple[str, ...] = CLASSES,
    ) -> None:
        self.path, self.labels, self.class_names = path, labels, class_names
        self._rows, self._split = list(rows), split
        self._images = _mapped(path)
        self.ids = [f"{split}/{row:06d}" for row in self._rows]

    def __len__(self) -> int:
        return len(self.ids)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_images": None}  # another process maps the file itself

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__ |= state
        self._images = _mapped(self.path)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture: uint8 [96, 96, 3] RGB, with label, size and id."""
        image = np.ascontiguousarray(self._images[self._rows[index]].transpose(2, 1, 0))
        return self.truth(index)._replace(image=image)

    def truth(self, index: int) -> Sample:
        """Label, size and id of one picture, which is not read."""
        label = None if self.labels is None else self.labels[index]
        return Sample(None, label, size=(_SIDE, _SIDE), id=self.ids[index])

    def subset(self, indices: Iterable[int]) -> Self:
        """A data set of some of the pictures, in this order, by their places in `ids`."""
        chosen = list(indices)
        labels = None if self.labels is None else [self.labels[i] for i in chosen]
        return type(self)(self.path, [self._rows[i] for i in chosen], labels, self._split, self.class_names)


def read(request: Request) -> Stl10:
    """Read one of STL-10's splits: SPLIT_X.bin, SPLIT_y.bin, class_names.txt (may be missing), fold_indices.txt.

    Splits are "train", "test", "unlabeled", and "fold0" to "fold9", a thousand of the training pictures each. Labels
    count from 0.
    """
    folder, split = _root(request.path), request.part
    fold = whole(split.removeprefix("fold")) if split.startswith("fold") else None
    if split not in _SPLITS and (fold is None or fold > 9):
        raise ValueError(f"`split` must be one of {', '.join(_SPLITS)} or fold0 to fold9, got {split!r}")
    part = split if fold is None else "train"
    path = folder / f"{part}_X.bin"
    size = _size(path)
    if not size or size % _BYTES:
        raise ValueError(f"{path}: expected {_BYTES} bytes (3x96x96) for each picture, got {size} bytes in all")
    pictures, count = path, size // _BYTES
    labels: list[int] | None = None
    names: tuple[str, ...] = CLASSES
    if (folder / "class_names.txt").is_file():
        names = tuple(line for _, line in Problems().lines(folder / "class_names.txt"))
        if len(names) != len(CLASSES):
            raise ValueError(f"{folder / 'class_names.txt'}: expected {len(CLASSES)} names, got {len(names)}")
    if part != "unlabeled":
        path = folder / f"{part}_y.bin"
        if _size(path) != count:
            raise ValueError(f"{path}: expected {count} labels of one byte, got {_size(path)}")
        classes = np.fromfile(path, np.uint8)
        wrong = np.flatnonzero((classes < 1) | (classes > len(CLASSES)))
        if wrong.size:
            raise ValueError(f"{path}: byte {wrong[0]}: expected a class from 1 to 10, got {classes[wrong[0]]}")
        labels = (classes.astype(int) - 1).tolist()
    data = Stl10(pictures, range(count), labels, part, names)
    return data if fold is None else data.subset(_fold(folder / "fold_indices.txt", fold, count))


def _mapped(path: Path) -> np.ndarray:
    return np.memmap(path, np.uint8, "r").reshape(-1, 3, _SIDE, _SIDE)


def _size(path: Path) -> int:
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    return path.stat().st_size


def _fold(path: Path, fold: int, count: int) -> list[int]:
    lines = list(Problems().lines(path))
    if len(lines) <= fold:
        raise ValueError(f"{path}: expected a line for each fold, got {len(lines)}, none for fold {fold}")
    number, line = lines[fold]
    texts = line.split()
    rows = [row for text in texts if (row := whole(text)) is not None and row < count]
    if len(set(rows)) != len(texts):
        raise ValueError(f"{path}:{number}: expected different numbers from 0 to {count - 1}")
    return rows


def _root(path: Path) -> Path:
    return path / "stl10_binary" if (path / "stl10_binary").is_dir() else path


def _splits(path: Path) -> list[str]:
    files = [name for name in _SPLITS if (_root(path) / f"{name}_X.bin").is_file()]
    return files + ([f"fold{fold}" for fold in range(10)] if "train" in files else [])


FORMAT = Format(
    "train_X.bin, train_y.bin, test_X.bin, test_y.bin, unlabeled_X.bin, class_names.txt and fold_indices.txt, here "
    "or in stl10_binary/",
    fits=lambda path: any(_root(path).glob("*_X.bin")),
    splits=_splits,
    read=read,
    complete=True,
)
