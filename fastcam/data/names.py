"""Names that others wrote: how they are read from text files, in which order they number classes, what they look like.

The rule for classes, whoever tells them: names that are whole numbers come first, by their value, then all others as
texts, so that folders 0 to 11 are classes 0 to 11 and cat comes before dog. Where labels meet a network's classes,
names count before numbers (`fastcam.data.matching`).
"""

import codecs
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

# UTF-32 first, since its mark begins like that of UTF-16.
_OTHERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_UNSEEN = dict.fromkeys(map(ord, "\u200b\u2060\ufeff"))  # characters without width, as copying from pages brings along


def text_of(content: bytes, where: object) -> str:
    """Read text as UTF-8, with or without a byte order mark.

    Args:
        content: of the file.
        where: the file, for messages.

    Returns:
        The text, without the mark.

    Raises:
        ValueError: it is not UTF-8.
    """
    check_utf8(content, where)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: expected UTF-8: {error}") from error


def check_utf8(content: bytes, where: object) -> None:
    """Refuse text whose byte order mark tells another encoding.

    Args:
        content: of the file, or its first four bytes.
        where: the file, for messages.

    Raises:
        ValueError: it has such a mark.
    """
    other = next((name for mark, name in _OTHERS.items() if content.startswith(mark)), None)
    if other:
        raise ValueError(f"{where}: expected UTF-8, got {other} by its byte order mark: save it as UTF-8")


def read_text(path: Path) -> str:
    """Read a text file as UTF-8, with or without a byte order mark.

    Args:
        path: the file.

    Returns:
        Its text, without the mark.

    Raises:
        FileNotFoundError: there is no such file, or it is no regular one.
        ValueError: it is not UTF-8.
    """
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(f"no file {path}")
    return text_of(path.read_bytes(), path)


def whole(text: str) -> int | None:
    """Read a whole number that is not negative.

    Args:
        text: its digits.

    Returns:
        Its value; None if it is none, or does not fit 64 bits.
    """
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def tidy(name: str) -> str:
    """Take away what cannot be seen: blanks around, of any kind and number within, and the Unicode form.

    Args:
        name: as it is written.

    Returns:
        The name in Unicode's form NFC, single spaces within, none around.
    """
    return unicodedata.normalize("NFC", " ".join(name.translate(_UNSEEN).split()))


def look(name: str) -> str:
    """Tell what a class's name looks like; those that differ only in case, blanks, underscores or zeros are alike.

    Args:
        name: as it is written.

    Returns:
        The same text for all names that look alike.
    """
    text = unicodedata.normalize("NFC", tidy(name.replace("_", " ")).casefold())
    return text if whole(text) is None else str(whole(text))


def path_look(id: str) -> str:
    """Tell what a file's path looks like; those that differ only in case, form, blanks around or separators are alike.

    Args:
        id: as it is written.

    Returns:
        The same text for all paths that look alike.
    """
    parts = unicodedata.normalize("NFC", id.strip().replace("\\", "/")).casefold().split("/")
    return unicodedata.normalize("NFC", "/".join(part for part in parts if part != "."))


def ordered(names: Iterable[str]) -> list[str]:
    """Put classes in the order of their indices: whole numbers by their value, then other names as texts.

    Args:
        names: of the classes, some of them several times.

    Returns:
        Each once.
    """
    return sorted(set(names), key=id_order)


def id_order(key: int | str) -> tuple[bool, int, str]:
    """Put ids that are whole numbers or texts in order, for `sorted`: texts as `ordered` has them.

    Args:
        key: the id.

    Returns:
        What to compare.
    """
    number = key if isinstance(key, int) else whole(key)
    return number is None, number or 0, str(key)


def by_number(names: Sequence[str], count: int | None = None) -> list[int] | None:
    """Find the classes that are meant where all names are different whole numbers: those of these numbers.

    Args:
        names: of the labels, in the order of their indices.
        count: of classes that there are; None if that is unknown.

    Returns:
        The class of each. Numbers up to just `count`, or where that is unknown all from 1, count from 1. None if a name
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
    """Names to look others up in: as they are, else as they look.

    Args:
        names: any texts.
        alike: what a name looks like.
    """

    def __init__(self, names: Iterable[str], alike: Callable[[str], str] = look) -> None:
        self.names, self._alike = list(names), alike
        self._exact = _places(self.names)

    def places(self, name: str) -> list[int]:
        """Find a name.

        Args:
            name: what is looked for.

        Returns:
            Where it is; if nowhere, where those are that look like it.
        """
        return self._exact.get(name) or self._looks.get(self._alike(name), [])

    @cached_property
    def _looks(self) -> dict[str, list[int]]:
        return _places(map(self._alike, self.names))


def _places(names: Iterable[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        places.setdefault(name, []).append(place)
    return places
