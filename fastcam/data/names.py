"""Names that others wrote: how they are read from text files, what they look like, which order and which ids they make.

The rule for classes, whoever names them: names that are whole numbers come first, by their value, then all others as
texts, so that folders 0 to 11 are classes 0 to 11 and cat comes before dog. Where labels meet a network's classes,
names count before numbers (`fastcam.data.matching`).
"""

import codecs
import json
import os
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

# UTF-32 first, since its mark begins like that of UTF-16.
_OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # characters without width, as copying from pages brings along
_ODD_PARTS = frozenset(("", ".", ".."))


def text_of(content: bytes, where: object) -> str:
    """A file's text, read as UTF-8, with or without a byte order mark; ValueError with `where` if it is not UTF-8."""
    check_utf8(content, where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: expected UTF-8: {error}") from error


def check_utf8(content: bytes, where: object) -> None:
    """Raise ValueError for text (or its first four bytes) whose byte order mark is that of another encoding."""
    other = next((name for mark, name in _OTHERS.items() if content.startswith(mark)), None)
    if other:
        raise ValueError(f"{where}: expected UTF-8, got {other} by its byte order mark: save it as UTF-8")


def read_text(path: Path) -> str:
    """A file's text, as `text_of`; FileNotFoundError if there is no such regular file."""
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(f"no file {path}")
    return text_of(path.read_bytes(), path)


def read_json(path: Path) -> Any:
    """What a JSON file holds, as `read_text`; ValueError with the line if it is not well-formed."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}:{getattr(error, 'lineno', 1)}: not well-formed JSON: {error}") from error


def whole(text: str) -> int | None:
    """The value of digits; None if the text has others, or does not fit 64 bits."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def tidy(name: str) -> str:
    """A name without what cannot be seen: in Unicode's form NFC, single spaces within, none around."""
    return unicodedata.normalize("NFC", " ".join(name.translate(_UNSEEN).split()))


def look(name: str) -> str:
    """What a class's name looks like: the same for names that differ in case, blanks, underscores or zeros in front."""
    text = unicodedata.normalize("NFC", tidy(name.replace("_", " ")).casefold())
    return text if whole(text) is None else str(whole(text))


def path_look(id: str) -> str:
    """What a path looks like: the same for paths that differ in case, form, blanks around or separators."""
    parts = unicodedata.normalize("NFC", id.strip().replace("\\", "/")).casefold().split("/")
    return unicodedata.normalize("NFC", "/".join(part for part in parts if part != "."))


def id_problem(id: str) -> str | None:
    """Why a text cannot be the id of a picture, since paths of results are built from ids; None if it can.

    It can if it is a relative path of plain parts in UTF-8.
    """
    if not _ODD_PARTS.isdisjoint(id.split("/")) or "\0" in id:
        return 'an id must be a relative path with "/" and without "..", "." or empty parts'
    try:
        id.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def plain_id(id: str, root: Path) -> str:
    """A picture's path as ids are, where others wrote it with backslashes, `./`, blanks around, or absolute.

    It becomes relative to `root`, with "/", but stays as it is if a file of that very name is there. Where it leads
    elsewhere, `id_problem` has the reason.
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


def ordered(names: Iterable[str]) -> list[str]:
    """Classes in the order of their indices, each once: whole numbers by their value, then other names as texts."""
    return sorted(set(names), key=id_order)


def id_order(key: int | str) -> tuple[bool, int, str]:
    """The key of `sorted` for ids that are whole numbers or texts, which then stand as in `ordered`."""
    number = key if isinstance(key, int) else whole(key)
    return number is None, number or 0, str(key)


def by_number(names: Sequence[str], count: int | None = None) -> list[int] | None:
    """The classes that labels are whose names are all different whole numbers: those of these numbers.

    Numbers up to just `count`, the number of classes, or where that is unknown all from 1, count from 1. None if a name
    is no number or comes twice, or there are not so many classes.
    """
    values = [value for value in map(whole, names) if value is not None]
    if not values or len(values) < len(names) or len(set(values)) < len(values):
        return None
    top = len(values) if count is None and min(values) else count
    if max(values) == top and min(values):
        values = [value - 1 for value in values]
    return values if count is None or max(values) < count else None


class Names:
    """Names to look others up in: as they are, else as they look."""

    def __init__(self, names: Iterable[str], alike: Callable[[str], str] = look) -> None:
        self.names, self._alike = list(names), alike
        self._exact = _places(self.names)

    def exact(self, name: str) -> list[int]:
        """Where a name is as it is."""
        return self._exact.get(name, [])

    def places(self, name: str) -> list[int]:
        """Where a name is; if nowhere, where those are that look like it."""
        return self._exact.get(name) or self._looks.get(self._alike(name), [])

    @cached_property
    def _looks(self) -> dict[str, list[int]]:
        return _places(map(self._alike, self.names))


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places
