"""Picture files found in folders."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastcam.writers import MARK, is_overlay

_READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_NOT_READ = (".avif", ".heic", ".heif", ".jp2", ".jxl")  # pictures too: an error tells of them, silence would lose them
SUFFIXES = frozenset((*_READ, *_NOT_READ))  # what counts as a picture in a folder
_OWN = re.compile(  # a run's files, and what it is just writing
    r".*/(plan\.json|audit\.json|(inputs|boxes|boxes\.partial)\.parquet|\..+\.\d+\.tmp)|(shards|ranks)/\d+\.(json|parquet)"
)


def find_pictures(
    paths: Iterable[str | os.PathLike[str]],
    ignored: Counter[str] | None = None,
) -> Iterator[tuple[str, Path]]:
    """List picture files, folder by folder, each sorted by name, without holding the list in memory.

    Folders are searched with all folders below; in them, only files with one of `SUFFIXES` (in any case) count. Files
    given by name are taken whatever their suffix. Nothing comes twice. Linked folders are searched, too, each but once:
    what lies below one of `paths` comes under its own name only. What fastcam wrote there is no picture: overlays of
    runs, and folders below that an export has marked; a run's own files are not even counted.

    Args:
        paths: files and folders.
        ignored: counts files passed over by their suffix, in lower case, if given.

    Yields:
        Pairs of id and path. The id is the path relative to the deepest folder that holds all of `paths` (to the
        folder itself, if it is the only one), with "/"; what is no UTF-8 in it is escaped with backslashes.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no pictures.
        OSError: if a folder below cannot be read.
    """
    roots = [Path(absolute(path)) for path in paths]
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"no such file or folder: {root}")
    if not roots:
        return
    folders = {root for root in roots if root.is_dir()}
    reals = [os.path.realpath(folder) for folder in folders]
    linked: set[str] = set()
    base = os.path.commonpath([root if root in folders else root.parent for root in roots])
    for root in dict.fromkeys(roots):
        if not folders.isdisjoint(root.parents):
            continue  # comes with that folder
        found = False
        for path in _walk(root, ignored, reals, linked) if root in folders else [root]:
            found = True
            yield os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "backslashreplace"), path
        if not found:
            wanted = ", ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))
            raise ValueError(f"no pictures in {root}: looked for {wanted} in it and in all folders below")


def absolute(path: str | os.PathLike[str]) -> str:
    """Make a path absolute, with `..` behind a link as the system has it: above where the link leads.

    Args:
        path: of a file or folder.

    Returns:
        The path.
    """
    plain, real = os.path.abspath(path), os.path.realpath(path)
    return plain if os.path.realpath(plain) == real else real


def _walk(root: Path, ignored: Counter[str] | None, reals: list[str], linked: set[str]) -> Iterator[Path]:
    """The pictures in a folder; `linked` has the folders that links led to, and those below them."""

    def fail(error: OSError) -> None:
        raise error

    def new(folder: str) -> bool:
        real = os.path.realpath(folder)
        if real == os.path.join(home, os.path.relpath(folder, root)):
            return True
        if real in linked or any(os.path.commonpath([real, other]) == other for other in reals):
            return False
        linked.add(real)
        return True

    home = os.path.realpath(root)
    for parent, folders, names in os.walk(root, onerror=fail, followlinks=True):
        if MARK in names and parent != os.fspath(root):
            folders.clear()
            continue
        drawn = os.path.basename(parent) == "overlays"
        folders[:] = sorted(name for name in folders if new(os.path.join(parent, name)))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                if not (drawn and is_overlay(os.path.join(parent, name))):
                    yield Path(parent, name)
            elif ignored is not None and not _OWN.fullmatch(f"{os.path.basename(parent)}/{name}"):
                ignored[suffix] += 1
