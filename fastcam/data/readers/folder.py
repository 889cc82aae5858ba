"""Pictures in class folders: `train/cat/*.jpg`, `val/cat/*.jpg`, or `cat/*.jpg` alone."""

import os
from itertools import chain
from pathlib import Path

import numpy as np

from fastcam.data.names import Names, ordered, tidy
from fastcam.data.pictures import Pictures
from fastcam.data.reading import HELD_OUT, Format, Found, Problems, Request, assemble
from fastcam.pictures import SUFFIXES, find_pictures
from fastcam.pictures.finding import absolute, hidden
from fastcam.runs.folder import RunFolder, is_export


def read_folder(path: str | os.PathLike[str], test_fraction: float = 0.2) -> tuple[Pictures, Pictures]:
    """Find the pictures to train on and those to test on.

    Below `path` there is either one folder for each class, or `train` and one of `val`, `valid`, `validation` and
    `test`, each with one folder for each class. In the first case every class is divided by a fixed shuffle, always
    the same for the same files. Classes are numbered by name, whole numbers by their value before other names as texts
    (`fastcam.data.names.ordered`), or as classes.txt in `path` lists them, one name a line.

    Args:
        path: the folder.
        test_fraction: share of each class, in (0, 1), for the test where there is no folder for it; at least one
            picture of a class is tested on and one trained on.

    Returns:
        The data to train on and the data to test on.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a `test_fraction` outside (0, 1), fewer than two classes, a class without pictures, a class that
            is tested on only, a single picture where a class must be divided, a folder `train` without one to
            test on, or a classes.txt that lists other classes.
    """
    if not 0 < test_fraction < 1:
        raise ValueError(f"`test_fraction` must be between 0 and 1, got {test_fraction!r}")
    root = Path(path)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder of pictures at {root}")
    train = root / "train"
    if train.is_dir():
        test = next((root / name for name in HELD_OUT if (root / name).is_dir()), None)
        if test is None:
            raise ValueError(f"{root} has a folder train but none to test on: {', '.join(HELD_OUT)}")
        return _split(root, train), _split(root, test)
    return _divide(_split(root, root), test_fraction)


def _split(root: Path, folder: Path, problems: Problems | None = None) -> Pictures:
    """The pictures of one split: `folder` is `root`, or a folder in it, with a folder for each class.

    Ids are relative to `root`; classes.txt is there, if there is one, and so is `train`, whose classes another split
    has, too. Pictures beside the folders of classes, or in hidden ones, are counted as passed over.
    """
    problems = problems or Problems()
    train = root / "train"
    classes = _class_folders(train if train.is_dir() else folder)
    names, known = list(classes), Names(classes)
    listed = root / "classes.txt"
    if listed.is_file():
        lines = [tidy(line) for _, line in problems.lines(listed)]
        order = [known.places(line) for line in lines]
        if sorted(order) != [[label] for label in range(len(names))]:
            raise ValueError(f"{listed} must list the classes {', '.join(names)}, one a line, got {', '.join(lines)}")
        names, known = lines, Names(names[label] for (label,) in order)
    places: dict[int, str] = {}  # folder of each label
    unknown = []
    for name, place in _class_folders(folder).items():
        alike = known.places(name)
        if len(alike) == 1 and (other := places.setdefault(alike[0], place)) != place:
            raise ValueError(f"{folder}: {other!a} and {place!a} both look like class {names[alike[0]]!a}: rename one")
        unknown += [name] if len(alike) != 1 else []
    if unknown:
        raise ValueError(f"{folder} has classes that {train} lacks: {', '.join(sorted(unknown))}")
    # find_pictures gives absolute paths, and so must the folder that the ids are relative to.
    root, folder = Path(absolute(root)), Path(absolute(folder))
    found = [
        Found(str(file), file.relative_to(root).as_posix(), file, label)
        for label, place in sorted(places.items())
        for _, file in find_pictures([folder / place], problems.ignored)
    ]
    for parent, folders, files in os.walk(folder):
        if parent == os.fspath(folder):
            folders[:] = filter(hidden, folders)
        for file in files:
            if Path(parent, file) != root / "classes.txt":
                suffix = os.path.splitext(file)[1].lower()
                problems.ignored[f"{suffix} outside of class folders" if suffix in SUFFIXES else suffix] += 1
    request = Request(root, None, None, False, problems)
    return assemble(request, root, found, names, source=folder)


def _class_folders(folder: Path) -> dict[str, str]:
    """The folder of each class by its name, in the order of the classes."""
    entries = [entry for entry in folder.iterdir() if entry.is_dir() and not hidden(entry.name)]
    found: dict[str, str] = {}
    for name in sorted(entry.name for entry in entries if not _written(entry)):
        if (other := found.setdefault(tidy(name) or name, name)) != name:
            raise ValueError(f"{folder}: the folders {other!a} and {name!a} have the same name to look at: rename one")
    if len(found) < 2:
        raise ValueError(f"{folder} must have a folder for each of at least two classes, got {len(found)}")
    return {name: found[name] for name in ordered(found)}


def _written(folder: Path) -> bool:
    """Whether a folder is no class, but what a run or an export has made here."""
    if is_export(folder):
        return True
    run = any(RunFolder(place).plan.is_file() for place in (folder, folder.parent))
    try:
        return run and not any(find_pictures([folder]))
    except ValueError:
        return True


def _divide(data: Pictures, test_fraction: float) -> tuple[Pictures, Pictures]:
    labels = np.array(data.labels)
    tested = np.zeros(len(data), bool)
    for label, name in enumerate(data.class_names):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise ValueError(f"class {name} must have a picture to train on and one to test on, got 1")
        count = min(max(1, round(test_fraction * len(members))), len(members) - 1)
        tested[np.random.default_rng(label).permutation(members)[:count]] = True
    return data.subset(np.flatnonzero(~tested)), data.subset(np.flatnonzero(tested))


def read(request: Request) -> Pictures:
    """Read one split, or all there is."""
    path, split = request.path, request.split
    if split is None or _splits(path):
        return _split(path, path / (split or ""), request.problems)
    return read_folder(path)[split != "train"]


def _splits(path: Path) -> list[str]:
    return [name for name in ("train", *HELD_OUT) if (path / name).is_dir()]


def _fits(path: Path) -> bool:
    if not path.is_dir():
        return False
    root = next((path / name for name in _splits(path)), path)
    classes = [entry for entry in root.iterdir() if entry.is_dir() and not hidden(entry.name)]
    files = (file for entry in classes for file in chain(entry.glob("*.*"), entry.glob("*/*.*")))
    return len(classes) > 1 and any(file.suffix.lower() in SUFFIXES for file in files)


FORMAT = Format(
    "train/CLASS/* and val/CLASS/* or test/CLASS/*, or CLASS/* alone",
    fits=_fits,
    splits=lambda path: _splits(path) or ["train", "test"],
    read=read,
    whole=lambda path: not _splits(path),
    complete=True,
)
