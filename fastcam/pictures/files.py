"""Bytes of picture files: of regular files only, and not too many."""

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from fastcam.pictures.containers import MAX_BYTES, DecodeError, sniff


@contextmanager
def opened(source: str | os.PathLike[str] | bytes) -> Iterator[BinaryIO]:
    """Open a regular file, or its content.

    Args:
        source: the file's path, or its content.

    Yields:
        The file, at its beginning.

    Raises:
        DecodeError: "unreadable".
    """
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for ever
            raise DecodeError("unreadable", "not a regular file")
        with open(source, "rb") as file:
            yield file
    except OSError as error:
        raise DecodeError("unreadable", error.strerror or str(error)) from error


def content(source: str | os.PathLike[str] | bytes) -> bytes:
    """Read a whole file.

    Args:
        source: the file's path, or its content.

    Returns:
        Its content.

    Raises:
        DecodeError: "unreadable"; of more than `MAX_BYTES` bytes "too_large", or "unsupported" if it is no picture.
    """
    if isinstance(source, bytes):
        return source
    with opened(source) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            sniff(file.read(12))
            raise DecodeError("too_large", f"the file has {size} bytes, at most {MAX_BYTES} are read")
        return file.read()


def read_part(path: str | os.PathLike[str], offset: int, size: int) -> bytes:
    """Read a picture that lies within a larger file.

    Args:
        path: the larger file.
        offset: where the picture begins.
        size: how many bytes it has.

    Returns:
        Its bytes, not decoded.

    Raises:
        DecodeError: "unreadable", "too_large", or "damaged" if the file ends before.
    """
    if not 0 <= size <= MAX_BYTES:
        raise DecodeError("too_large", f"the file has {size} bytes, at most {MAX_BYTES} are read")
    with opened(path) as file:
        if not 0 <= offset <= os.fstat(file.fileno()).st_size - size:
            raise DecodeError("damaged", f"{path} ends within it")
        file.seek(offset)
        return file.read(size)
