"""Class folders as `fastcam.data` reads them: what they are called, and the crops in them, each name but once."""

import posixpath
from collections import Counter
from collections.abc import Mapping

from fastcam.data.names import path_look, tidy
from fastcam.data.reading import HELD_OUT
from fastcam.export.files import NewFolder
from fastcam.pictures.finding import hidden

CLASSES, TABLE = "classes.txt", "crops.csv"
SPLITS = ("train", *HELD_OUT)  # folders of class folders
_LONGEST = 200  # bytes of a folder's name


class ClassFolders:
    """Folders of the classes of one data set, or of several in one folder each.

    Args:
        names: class index → name, or None if unknown.

    Attributes:
        count: of crops written.
    """

    def __init__(self, names: Mapping[int, str | None]) -> None:
        self._folders = _folders(names)
        self._asked: Counter[str] = Counter()  # how often each name was asked for
        self._taken: set[str] = set()
        self._filled: dict[str, set[int]] = {}
        self.count = 0

    def place(self, part: str, label: int, id: str) -> str:
        """A path for a crop, without suffix, that no other has: part/class/name, where `part` may be ""."""
        stem = posixpath.splitext(posixpath.basename(id))[0]
        wanted = posixpath.join(part, self._folders[label], f"_{stem}" if hidden(stem) else stem)
        place, look = wanted, path_look(wanted)
        while path_look(place) in self._taken:
            self._asked[look] += 1
            place = f"{wanted}-{1 + self._asked[look]}"
        self._taken.add(path_look(place))
        return place

    def write(self, folder: NewFolder, part: str, label: int, name: str, content: bytes) -> None:
        """Write a crop; LeftOut if its name is too long for the disk."""
        with folder.create(name, "") as file:
            file.write(content)
        self._filled.setdefault(part, set()).add(label)
        self.count += 1

    def finish(self, folder: NewFolder) -> None:
        """Write the classes in their order, as readers of class folders have them: of all, or of "train"."""
        filled = self._filled.get("", self._filled.get("train", set()))
        if filled:
            lines = "".join(f"{self._folders[label]}\n" for label in sorted(filled))
            (folder.path / CLASSES).write_text(lines, encoding="utf-8")


def _folders(names: Mapping[int, str | None]) -> dict[int, str]:
    """A folder for each class: its name as far as that can be one, with its number where that is taken."""
    folders: dict[int, str] = {}
    taken = {path_look(name) for name in (*SPLITS, TABLE, CLASSES)}
    for label, given in sorted(names.items()):
        text = "".join(c if c.isprintable() and c != "/" else "_" for c in tidy(given or ""))
        name = text.encode("utf-8", "replace")[:_LONGEST].decode("utf-8", "ignore").strip() or str(label)
        name = f"_{name}" if hidden(name) or name in (".", "..") else name
        while path_look(name) in taken:
            name = f"{name} ({label})"
        taken.add(path_look(name))
        folders[label] = name
    return folders
