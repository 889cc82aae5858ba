"""Checks that many functions make of their arguments, with the texts of their errors."""

import difflib
from collections.abc import Callable, Iterable


def whole(name: str, value: object, least: int) -> None:
    """Raise a ValueError unless the argument `name` is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def one_of(name: str, value: object, known: Iterable[object], show: Callable[[object], str] = str) -> None:
    """Raise a ValueError unless the argument `name` is one of the known values, which the error lists by `show`."""
    known = list(known)
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(map(show, known))}, got {value!r}")


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: up to five known ones that are similar, else the first twelve."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=5, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else f"; known are {listed(known, 12)}"


def listed(names: list[str], limit: int = 5) -> str:
    """Join names for an error: the first with commas between, then "…" for those left out."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
