"""Picture files found in folders."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

_READ = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_NOT_READ = (".avif", ".heic", ".heif", ".jp2", ".jxl")  # pictures too: an error tells of them, silence would lose them
SUFFIXES = frozenset((*_READ, *_NOT_READ))  # what counts as a picture in a folder


def find_pictures(
    paths: Iterable[str | os.PathLike[str]],
    ignored: Counter[str] | None = None,
    skip: Collection[str | os.PathLike[str]] = (),
) -> Iterator[tuple[str, Path]]:
    """List picture files, folder by folder, each sorted by name, without holding the list in memory.

    Folders are searched with all folders below; in them, only files with one of `SUFFIXES` (in any case) count. Files
    given by name are taken whatever their suffix. Nothing comes twice.

    Args:
        paths: files and folders.
        ignored: counts files passed over by their suffix, in lower case, if given.
        skip: folders below that are not searched.

    Yields:
        Pairs of id and path. The id is the path relative to the deepest folder that holds all of `paths` (to the
        folder itself, if it is the only one), with "/"; what is no UTF-8 in it is escaped with backslashes.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no pictures.
        OSError: if a folder below cannot be read.
    """
    roots = [Path(os.path.abspath(path)) for path in paths]
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"no such file or folder: {root}")
    if not roots:
        return
    folders = {root for root in roots if root.is_dir()}
    skipped = {os.path.abspath(folder) for folder in skip}
    base = os.path.commonpath([root if root in folders else root.parent for root in roots])
    for root in dict.fromkeys(roots):
        if not folders.isdisjoint(root.parents):
            continue  # comes with that folder
        found = False
        for path in _walk(root, ignored, skipped) if root in folders else [root]:
            found = True
            yield os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "backslashreplace"), path
        if not found:
            wanted = ", ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))
            raise ValueError(f"no pictures in {root}: looked for {wanted} in it and in all folders below")


def _walk(folder: Path, ignored: Counter[str] | None, skipped: Collection[str]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if os.path.join(parent, name) not in skipped)
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES:
                yield Path(parent, name)
            elif ignored is not None:
                ignored[suffix] += 1
