"""Files written so that a reader never sees half of one; and one that is read by threads."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

R = TypeVar("R")
_TEMPORARY = re.compile(r"\.(.+)\.\d+\.tmp")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path beside `path`, and put the file written there in its place at the end.

    The file reaches the disk before it gets its name, and the name before this returns. If the block raises, `path`
    stays as it was and the temporary file is removed.

    Args:
        path: the file to create or replace; its folder is made if need be.

    Yields:
        The path to write to.

    Raises:
        OSError: if the folder cannot be made, the file cannot be put in its place, or the block wrote none.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, FileNotFoundError) as error:  # of its own kind it would be wrong usage
        raise OSError(f"cannot write to {path.parent}: {error.strerror}") from error
    # Processes on several machines may have the same id.
    partial = path.with_name(f".{path.name}.{int.from_bytes(os.urandom(8))}.tmp")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def target_of(name: str) -> str | None:
    """The name of the file that a temporary one of `replacing` is to become; None if it is no such file."""
    found = _TEMPORARY.fullmatch(name)
    return None if found is None else found[1]


def file_names(names: Iterable[str]) -> list[str]:
    """Names for files, made of others' names: without odd characters, and each once."""
    found, taken = [], Counter[str]()
    for given in names:
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", given)[-80:]
        taken[name] += 1
        while taken[name] > 1:
            name = f"{name}-{taken[name]}"
            taken[name] += 1
        found.append(name)
    return found


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def read_npy(read: Callable[[], R]) -> R:
    """Read NumPy's files in one of several threads.

    Their headers are Python, and CPython 3.11 may take it for broken, with a SystemError about the depth of its syntax
    tree, while other threads parse. So it is read again; what is broken fails again.
    """
    try:
        return read()
    except SystemError:
        return read()
