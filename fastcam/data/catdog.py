"""Class folders of Kaggle's dogs-vs-cats: `fastcam data catdog`."""

import os
import shutil
import struct
import zipfile
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from fastcam.data.names import read_text
from fastcam.data.readers.catdog import CLASSES, NAME, divide, numbered, place_of
from fastcam.data.reading import Problems
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

_MAX_BYTES = 1 << 26  # of one picture in the zip file
_MAX_RATIO, _SMALL = 16, 1 << 16  # JPEGs hardly shrink when they are packed; only files of some bytes do
_LIST = "classes.txt"
# What zipfile raises on damaged files; RuntimeError is encryption and, derived from it, what it cannot read.
_DAMAGED = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, RuntimeError, ValueError, OverflowError)


class CatDog(NamedTuple):
    """What `make_catdog` made.

    Attributes:
        train: pictures to train on.
        test: pictures to test on.
        added: those of them that were not there before.
    """

    train: int
    test: int
    added: int


def make_catdog(source: str | os.PathLike[str], out: str | os.PathLike[str], *, copy: bool = False) -> CatDog:
    """Make class folders of dogs-vs-cats, which `fastcam.data.load` and `fastcam train` read.

    `out` gets train/dog, train/cat, test/dog, test/cat, and classes.txt, by which dog is class 0 and cat is class 1.
    Of all 12,500 pictures of each class, 0 to 9,999 are to train on; of fewer, the first 80 % by their numbers.
    Running it again adds what is missing. `source` is never changed.

    Args:
        source: folder with train/ or train.zip, the zip file, or the folder of the pictures itself.
        out: folder to make, outside of `source`.
        copy: copy the pictures; by default they are symbolic links, unless they come from a zip file.

    Returns:
        How many pictures there are.

    Raises:
        FileNotFoundError: no such source.
        FileExistsError: `out` has other pictures, or other files under these names.
        ValueError: names that are not Kaggle's, a class with less than two pictures, a damaged zip file, `out` inside
            of `source`.
        OSError: `out` cannot be written.
    """
    source, out = Path(source), Path(out)
    place = place_of(source)
    with ExitStack() as stack:
        if place.is_dir():
            archive, names = None, os.listdir(place)
        else:
            try:
                archive = stack.enter_context(zipfile.ZipFile(place))
            except _DAMAGED as error:
                raise ValueError(f"{place}: {error}") from error
            members = _members(archive, place)
            names = list(members)
        parts = divide(numbered(names, place, Problems()), place)
        targets = {name: out / part / name.partition(".")[0] / name for part, names in parts.items() for name in names}
        _check_out(source, out, set(targets.values()))
        added = 0
        for name, target in targets.items():
            size = members[name].file_size if archive else (place / name).stat().st_size
            if target.exists():
                if target.stat().st_size != size:
                    raise FileExistsError(f"{target} is another file: choose another folder, or remove it")
                continue
            added += 1
            partial = target.with_name(f".{name}.tmp")
            partial.unlink(missing_ok=True)
            if archive:
                _extract(archive, members[name], partial)
            elif copy:
                shutil.copyfile(place / name, partial)
            else:
                partial.symlink_to(os.path.abspath(place / name))
            os.replace(partial, target)
    (out / _LIST).write_text("\n".join(CLASSES) + "\n", encoding="utf-8")
    return CatDog(len(parts["train"]), len(parts["test"]), added)


def _check_out(source: Path, out: Path, targets: set[Path]) -> None:
    """Make the folders, after a look at what is there."""
    folders = sorted({target.parent for target in targets})
    for folder in (out, *folders) if source.is_dir() else ():
        if folder.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{out} must be outside of {source}, which stays as it is")
    listed = out / _LIST
    if listed.exists() and tuple(read_text(listed).split()) != CLASSES:
        raise FileExistsError(f"{listed} lists other classes than {' and '.join(CLASSES)}: choose another folder")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        for name in os.listdir(folder):
            if not name.startswith(".") and folder / name not in targets:
                raise FileExistsError(f"{folder / name} is none of the pictures of {source}: choose another folder")


def _members(archive: zipfile.ZipFile, place: Path) -> dict[str, zipfile.ZipInfo]:
    """The pictures by name; nothing else is ever unpacked."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.rpartition("/")[2]
        if os.path.splitext(name)[1].lower() not in SUFFIXES or any(map(hidden, info.filename.split("/"))):
            continue
        if info.filename not in (name, f"train/{name}") or not NAME.fullmatch(name):
            raise ValueError(f"{place}: expected members such as train/cat.0.jpg, got {info.filename!r}")
        if name in members:
            raise ValueError(f"{place}: {name} comes twice")
        if info.file_size > min(_MAX_BYTES, _MAX_RATIO * info.compress_size + _SMALL):
            raise ValueError(f"{place}: {name} has {info.file_size} bytes, more than a picture has that is packed so")
        members[name] = info
    return members


def _extract(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path) -> None:
    try:
        content = archive.read(info)
    except _DAMAGED as error:
        raise ValueError(f"{archive.filename}: {info.filename}: {error}") from error
    target.write_bytes(content)
