"""Folders of results that appear whole or not at all, with files named after pictures."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from fastcam.data.names import id_problem
from fastcam.pictures import Header
from fastcam.runs.folder import EXPORT_MARK, is_export

_TAKEN = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)


class LeftOut(Exception):
    """A picture that a format cannot express; the message says why."""


class Options(NamedTuple):
    """What the caller wants of a format; None is its own default.

    Attributes:
        annotations: COCO's file of the true objects, which has the ids of images and categories.
        categories: class index → category id.
        size: side of square maps in pixels, or "picture" for each picture's size.
        cuts: two thresholds in [0, 1): up to the lower one a pixel is background, above the higher one it is object.
        url: goes before each image_id to make an address of it.
        class_names: class index → name, as far as the run tells; not the caller's, as all that follows.
        headers: gives id, size and orientation of the pictures that EXIF turns.
        notes: where a format tells what its readers may stumble over.
    """

    annotations: Path | None = None
    categories: Mapping[int, int] | None = None
    size: int | Literal["picture"] | None = None
    cuts: tuple[float, float] | None = None
    url: str | None = None
    class_names: Mapping[int, str] | None = None
    headers: Callable[[], Iterable[tuple[str, Header]]] | None = None
    notes: list[str] | None = None


class Folder:
    """A new folder with files named after pictures.

    Args:
        path: where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def create(self, id: str, suffix: str, *, within: str = "", stem: bool = False) -> IO[bytes]:
        """Open a new file under a picture's relative path.

        Args:
            id: the picture.
            suffix: goes behind the id.
            within: folder that the ids are relative to.
            stem: the suffix replaces the picture's, as some formats want it.

        Returns:
            The file, open for writing bytes.

        Raises:
            ValueError: the id is absolute, or has "..", "." or empty parts.
            LeftOut: another picture has the name already, or it is too long for the disk.
            OSError: it cannot be written.
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
    """Refuse ids that could lead out of a folder.

    Args:
        id: the picture.

    Raises:
        ValueError: it is absolute, or has "..", "." or empty parts.
    """
    problem = id_problem(id)
    if problem:
        raise ValueError(f"picture {id!r}: {problem}")


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to write over what is there.

    Args:
        path: a file or folder to write.
        overwrite: replace a file, or a folder that has been written here.

    Raises:
        FileExistsError: there is something.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists already: choose another place, or `overwrite` it")
    if path.is_dir() and not is_export(path):
        raise FileExistsError(f"{path} is a folder that this program has not written: choose another place")


@contextmanager
def new_folder(path: Path, info: Mapping[str, Any]) -> Iterator[Folder]:
    """Fill a folder beside its place, and put it there at the end, all on the disk.

    What is at `path` is replaced; see `check_free`. If the block raises, it stays as it was and nothing else does. What
    a killed process has left is removed.

    Args:
        path: the folder.
        info: what it is, written to it as JSON.

    Yields:
        The folder to fill.

    Raises:
        FileExistsError: there is a file at `path`.
        OSError: it cannot be written.
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
        yield Folder(partial)
        os.sync()  # once, since it would take long for each of many files
        if path.exists():
            os.replace(path, former)
        os.replace(partial, path)
    finally:
        for left in (partial, former):
            shutil.rmtree(left, ignore_errors=True)
