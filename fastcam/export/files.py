"""What formats share: the job, files and folders that appear whole or not at all, and names as texts can hold them."""

import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple
from xml.sax.saxutils import escape

import numpy as np

from fastcam._files import replacing
from fastcam.data.names import id_problem
from fastcam.refinement import Refiner
from fastcam.runs.folder import EXPORT_MARK, is_export
from fastcam.runs.table import FoundPicture, RunTable

_TAKEN = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


Finish = Callable[[np.ndarray, tuple[int, int], tuple[int, int]], np.ndarray]


class LeftOut(Exception):
    """A picture that a format cannot express; the message says why."""


class ExportOptions(NamedTuple):
    """What the caller wants of a format; None is its own default.

    Attributes:
        annotations: COCO's file of the true objects, which has the ids of images and categories.
        categories: class index → category id.
        size: side of square maps in pixels, or "picture" for each picture's size.
        cuts: one or two levels in [0, 1): up to the lower one a pixel is background, above the higher one it is object.
        alpha: one or two exponents of the background's score instead.
        threshold_from: metrics.json that has the level instead.
        url: goes before each image_id to make an address of it.
        refine: what draws maps to the edges of their pictures.
        images: folder of the pictures that are needed for that.
    """

    annotations: Path | None = None
    categories: Mapping[int, int] | None = None
    size: int | Literal["picture"] | None = None
    cuts: float | tuple[float, float] | None = None
    alpha: float | tuple[float, float] | None = None
    threshold_from: Path | None = None
    url: str | None = None
    refine: Refiner | None = None
    images: Path | None = None


@dataclass(frozen=True)
class Job:
    """What a format gets.

    Attributes:
        path: the file or folder to write.
        table: of the run.
        info: what goes into it about its making.
        options: what the caller wants.
        notes: takes what its readers may stumble over.
        finish: from a picture's map as the format gets it, a size (height, width) and that of the picture (width,
            height) to the finished map; None for formats without maps.
    """

    path: Path
    table: RunTable
    info: Mapping[str, Any]
    options: ExportOptions
    notes: list[str]
    finish: Finish | None = None


Add = Callable[[FoundPicture], int]  # writes a picture and gives the number of its boxes, or raises LeftOut
Write = Callable[[Job], AbstractContextManager[Add]]  # what a format is


class NewFolder:
    """A new folder with files named after pictures."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, id: str, suffix: str, *, within: str = "", stem: bool = False) -> IO[bytes]:
        """Open a new file under a picture's relative path, with a suffix behind its id, or (`stem`) instead of its own.

        Raises ValueError for an id that could lead out of the folder; LeftOut if another picture has the name already,
        or it is too long for the disk.
        """
        check_id(id)
        path = self.path / within / f"{os.path.splitext(id)[0] if stem else id}{suffix}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("xb")
        except OSError as error:
            name = path.relative_to(self.path)
            if error.errno in _TAKEN:
                raise LeftOut(f"another picture has the name {name}") from None
            if error.errno == errno.ENAMETOOLONG:
                raise LeftOut(f"{name} is too long a name") from None
            raise


def check_id(id: str) -> None:
    """Refuse ids that could lead out of a folder: absolute ones, and those with "..", "." or empty parts."""
    problem = id_problem(id)
    if problem:
        raise ValueError(f"picture {id!r}: {problem}")


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to write over what is there, and with `overwrite`, over a folder that no export has written."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already: choose another place, or `overwrite` it")
    if path.is_dir() and not is_export(path):
        raise FileExistsError(f"{path} is a folder that this program has not written: choose another place")


@contextmanager
def new_folder(path: Path, info: Mapping[str, Any]) -> Iterator[NewFolder]:
    """Fill a folder beside its place, and put it there at the end, all on the disk, marked with `info`.

    What is at `path` is replaced; see `check_free`. If the block raises, it stays as it was and nothing else does. What
    a killed process has left is removed.
    """
    partial, former = (path.with_name(f".{path.name}.{word}") for word in ("partial", "former"))
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file, a folder is to be written: choose another place")
    if former.exists() and not path.exists():
        os.replace(former, path)
    for left in (partial, former):
        if left.exists():
            shutil.rmtree(left)
    partial.mkdir(parents=True)
    try:
        (partial / EXPORT_MARK).write_text(json.dumps(dict(info), sort_keys=True), encoding="utf-8")
        yield NewFolder(partial)
        os.sync()  # once, since it would take long for each of many files
        if path.exists():
            os.replace(path, former)
        os.replace(partial, path)
    finally:
        for left in (partial, former):
            shutil.rmtree(left, ignore_errors=True)


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """A text file to write, which gets its name at the end."""
    with replacing(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file


class JsonList:
    """A JSON list, written element by element."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._separator = file, "[\n"

    def append(self, element: Mapping[str, Any]) -> None:
        """Write one more."""
        self._file.write(self._separator + json.dumps(element, allow_nan=False))
        self._separator = ",\n"

    def __bool__(self) -> bool:
        return self._separator != "[\n"

    def close(self) -> None:
        """Write the end; the file stays open."""
        self._file.write("\n]" if self else "[]")


def all_names(names: Mapping[int, str]) -> list[str]:
    """A name of one line for each index from 0 to the highest, for unknown ones the number."""
    return [" ".join(names.get(index, "").split()) or str(index) for index in range(max(names, default=-1) + 1)]


def printable(text: str) -> str:
    """With U+FFFD for what XML 1.0 cannot hold, such as most control characters."""
    return _NOT_XML.sub("\ufffd", text)


def xml_text(text: str) -> str:
    """Escape text that is `printable` for an element of XML, so that it is read back to the letter."""
    return escape(text, {"\t": "&#9;", "\n": "&#10;", "\r": "&#13;"})


def yaml_text(text: str) -> str:
    """Quote text as a scalar of YAML: what is not printable, quotes and backslashes as escapes of eight digits."""
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text) + '"'
