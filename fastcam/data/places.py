"""Where pictures are: paths as others write them, and the files on the disk that they mean."""

import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from fastcam.data.names import path_look
from fastcam.data.pictures import id_problem


def plain_id(id: str, root: Path) -> str:
    """Write a picture's path as ids are, where others wrote it with backslashes, `./`, blanks around, or absolute.

    Args:
        id: the path as it is written.
        root: folder that ids are relative to.

    Returns:
        The path relative to `root`, with "/", or as it is if a file of that very name is there. Where it leads
        elsewhere, `id_problem` tells.
    """
    if not ("\\" in id or "/./" in id or id[:1] in ("/", ".") or id != id.strip()):
        return id
    if id_problem(id) is None and (root / id).is_file():
        return id
    path = id.strip().replace("\\", "/")
    if path.startswith("/"):
        path = next((path.removeprefix(base) for base in _bases(os.path.abspath(root)) if path.startswith(base)), path)
    return "/".join(part for part in path.split("/") if part != ".")


@lru_cache(maxsize=16)
def _bases(root: str) -> tuple[str, str]:
    """How absolute paths below a folder begin: as it is named, or where links lead."""
    return os.path.join(root, ""), os.path.join(os.path.realpath(root), "")


class Listing:
    """What lies in folders, each of which is listed but once: much cheaper than a question for each file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._looks: dict[str, dict[str, list[str]]] = {}
        self._folders: dict[str, list[str]] = {}  # there are, for one that is named

    def __contains__(self, file: str | os.PathLike[str]) -> bool:
        folder, name = os.path.split(file)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return name in self._names[folder]

    def alike(self, file: str) -> list[str]:
        """Find what looks like a file, in folders that look like its own where that is not there.

        Args:
            file: its path.

        Returns:
            The paths, sorted; that of the file itself if it is there.
        """
        if file in self:
            return [file]
        folder, name = os.path.split(file)
        if not name:
            return []
        if folder not in self._folders:
            self._folders[folder] = [folder] if os.path.isdir(folder) else self.alike(folder)
        return sorted(os.path.join(one, other) for one in self._folders[folder] for other in self._alike(one, name))

    def _alike(self, folder: str, name: str) -> list[str]:
        if folder not in self._looks:
            looks = self._looks[folder] = {}
            if os.path.join(folder, "") not in self:  # lists the folder
                for other in self._names[folder]:
                    looks.setdefault(path_look(other), []).append(other)
        return self._looks[folder].get(path_look(name), [])


def find_root(candidates: Iterable[Path], ids: Sequence[str]) -> Path | None:
    """Find the folder that the paths of pictures are relative to.

    Args:
        candidates: where it may be.
        ids: some of the paths, as they are written.

    Returns:
        The first that has one of them, else the first that has what looks like one; None if none does.
    """
    places, listing = list(dict.fromkeys(candidates)), Listing()
    plain = {root: [plain for id in ids if not id_problem(plain := plain_id(id, root))] for root in places}
    for root, names in plain.items():
        if any((root / id).is_file() for id in names):
            return root
    return next((root for root, names in plain.items() if any(listing.alike(f"{root / id}") for id in names)), None)
