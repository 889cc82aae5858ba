"""Picture files found in folders."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from fastcam.runs.folder import EXPORT_MARK, OVERLAYS, is_overlay, is_own

_COMMON = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
_READ = (*_COMMON, ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".avif", ".jp2", ".j2k", ".jpx")
_NOT_READ = (".heic", ".heif", ".jxl")  # pictures too: an error names them, silence would lose them
SUFFIXES = frozenset((*_READ, *_NOT_READ))  # what counts as a picture in a folder
# Folders and files of systems and their tools, beside those whose names begin with a dot.
_OF_SYSTEMS = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db")
)


def find_pictures(
    paths: Iterable[str | os.PathLike[str]],
    ignored: Counter[str] | None = None,
) -> Iterator[tuple[str, Path]]:
    """List picture files, folder by folder, each sorted by name, without holding the list in memory.

    Folders are searched with all folders below; in them, only files with one of `SUFFIXES` (in any case) count, and
    nothing that is `hidden` or lies in a hidden folder, unless it is one of `paths` itself or below one. Files given by
    name are taken whatever their suffix. Nothing comes twice. Linked folders are searched, too, each but once:
    what lies below one of `paths` comes under its own name only. What fastcam wrote there is no picture: overlays of
    runs, and folders below that an export has marked; a run's own files are not even counted.

    Args:
        paths: files and folders.
        ignored: counts files passed over by their suffix, in lower case, if given; hidden pictures as "hidden .png", or
            ".png in .FOLDER".

    Yields:
        Pairs of id and path. The id is the path relative to the deepest folder that holds all of `paths` (to the
        folder itself, if it is the only one), with "/"; what is no UTF-8 in it is escaped with backslashes.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no pictures, or hidden ones only.
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
        above = [root.relative_to(folder).parts for folder in folders.intersection(root.parents)]
        if any(not any(map(hidden, parts)) for parts in above):
            continue  # comes with that folder
        found, passed = False, Counter[str]()
        for path in _walk(root, passed, reals, linked) if root in folders else [root]:
            found = True
            yield os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "backslashreplace"), path
        if ignored is not None:
            ignored.update(passed)
        if not found:
            wanted = ", ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))
            unseen = sum(count for kind, count in passed.items() if kind.startswith("hidden ") or " in " in kind)
            hint = f"; {unseen} are hidden, which must be named themselves, or their folder" if unseen else ""
            raise ValueError(f"no pictures in {root}: looked for {wanted} in it and in all folders below{hint}")


def hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or the system's: a copy, preview or note that nobody put there, by its name.

    It begins with a dot (.ipynb_checkpoints, ._a.jpg, .Trash) or is one of those that macOS, Windows and storage
    servers make (__MACOSX, $RECYCLE.BIN, @eaDir, Thumbs.db).
    """
    return (name.startswith(".") and name not in (".", "..")) or name.lower() in _OF_SYSTEMS


def absolute(path: str | os.PathLike[str]) -> str:
    """A path made absolute, with `..` behind a link as the system has it: above where the link leads."""
    plain, real = os.path.abspath(path), os.path.realpath(path)
    return plain if os.path.realpath(plain) == real else real


def _walk(root: Path, passed: Counter[str], reals: list[str], linked: set[str]) -> Iterator[Path]:
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
        if EXPORT_MARK in names and parent != os.fspath(root):
            folders.clear()
            continue
        drawn = os.path.basename(parent) == OVERLAYS
        for name in filter(hidden, folders):
            passed.update(_unseen(os.path.join(parent, name)))
        folders[:] = sorted(name for name in folders if not hidden(name) and new(os.path.join(parent, name)))
        for name in sorted(names):
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES and not hidden(name):
                if not (drawn and is_overlay(os.path.join(parent, name))):
                    yield Path(parent, name)
            elif not is_own(parent, name):
                passed[f"hidden {suffix}" if suffix in SUFFIXES else suffix] += 1


def _unseen(folder: str) -> Counter[str]:
    """Count the files in a hidden folder, but not in what an export is just writing."""
    counts: Counter[str] = Counter()
    for parent, folders, names in os.walk(folder):
        if EXPORT_MARK in names:
            folders.clear()
            continue
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if not is_own(parent, name):
                counts[f"{suffix} in {os.path.basename(folder)}" if suffix in SUFFIXES else suffix] += 1
    return counts
