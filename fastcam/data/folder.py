"""Pictures in class folders: `train/cat/*.jpg`, `val/cat/*.jpg`, or `cat/*.jpg` alone."""

import os
from pathlib import Path

import numpy as np

from fastcam.data.sample import Sample
from fastcam.decoding import DecodeError, decode, find_pictures

_TEST_FOLDERS = ("val", "valid", "validation", "test")


class Folder:
    """A data set of picture files and their classes.

    Attributes:
        root: the folder that the ids are relative to.
        files: paths of the pictures.
        labels: class index of each.
        class_names: names of the classes.
    """

    def __init__(self, root: Path, files: list[Path], labels: list[int], class_names: tuple[str, ...]) -> None:
        self.root, self.files, self.labels, self.class_names = root, files, labels, class_names

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture.

        Args:
            index: its place in `files`.

        Returns:
            PIL picture, upright RGB, with label, size and id.

        Raises:
            DecodeError: it cannot be read; the message names it.
            IndexError: there is none of that index.
        """
        path = self.files[index]
        try:
            image = decode(path)
        except DecodeError as error:
            raise DecodeError(error.code, f"{path}: {error.message}") from error
        return Sample(image, self.labels[index], size=image.size, id=path.relative_to(self.root).as_posix())


def read_folder(path: str | os.PathLike[str], test_fraction: float = 0.2) -> tuple[Folder, Folder]:
    """Find the pictures to train on and those to test on.

    Below `path` there is either one folder for each class, or `train` and one of `val`, `valid`, `validation` and
    `test`, each with one folder for each class. In the first case every class is divided by a fixed shuffle, always
    the same for the same files. Classes are numbered by name in sorted order.

    Args:
        path: the folder.
        test_fraction: share of each class, in (0, 1), for the test where there is no folder for it; at least one
            picture of a class is tested on and one trained on.

    Returns:
        The data to train on and the data to test on.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a `test_fraction` outside (0, 1), fewer than two classes, a class without pictures, a class that
            is tested on only, a single picture where a class must be divided, or a folder `train` without one to
            test on.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must be between 0 and 1, got {test_fraction!r}")
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of pictures at {root}")
    train = root / "train"
    if train.is_dir():
        test = next((root / name for name in _TEST_FOLDERS if (root / name).is_dir()), None)
        if test is None:
            raise ValueError(f"{root} has a folder train but none to test on: {', '.join(_TEST_FOLDERS)}")
        names = _class_names(train)
        unknown = set(_class_names(test)) - set(names)
        if unknown:
            raise ValueError(f"{test} has classes that {train} lacks: {', '.join(sorted(unknown))}")
        return _collect(root, train, names), _collect(root, test, names)
    names = _class_names(root)
    return _divide(_collect(root, root, names), test_fraction)


def _class_names(folder: Path) -> tuple[str, ...]:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise ValueError(f"{folder} must have a folder for each of at least two classes, got {len(names)}")
    return tuple(names)


def _collect(root: Path, folder: Path, names: tuple[str, ...]) -> Folder:
    found = [
        (file, label)
        for label, name in enumerate(names)
        if (folder / name).is_dir()
        for _, file in find_pictures([folder / name])
    ]
    # find_pictures gives absolute paths, and so must the folder that the ids are relative to.
    return Folder(Path(os.path.abspath(root)), *map(list, zip(*found, strict=True)), names)


def _divide(data: Folder, test_fraction: float) -> tuple[Folder, Folder]:
    labels = np.array(data.labels)
    tested = np.zeros(len(data), bool)
    for label, name in enumerate(data.class_names):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(f"class {name} must have a picture to train on and one to test on, got 1")
        count = min(max(1, round(test_fraction * len(members))), len(members) - 1)
        tested[np.random.default_rng(label).permutation(members)[:count]] = True
    return tuple(
        Folder(data.root, [data.files[i] for i in kept], labels[kept].tolist(), data.class_names)
        for kept in (np.flatnonzero(~tested), np.flatnonzero(tested))
    )
