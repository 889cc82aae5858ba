"""Progress: bars where standard error is a terminal, and elsewhere, where they are asked for, lines now and then."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

_EVERY = 10.0  # seconds between lines
_FORMAT = "{n_fmt} of {total_fmt} {unit} in {elapsed}{postfix}"
_lines = ContextVar("_lines", default=False)


@contextmanager
def lines() -> Iterator[None]:
    """Let the bars of a block or a function be lines where standard error is no terminal: a log shows what goes on."""
    token = _lines.set(True)
    try:
        yield
    finally:
        _lines.reset(token)


def progress_bar(wanted: bool, **options: Any) -> tqdm:
    """A bar, silent where it is not wanted, or where standard error is no terminal and no lines are asked for."""
    if wanted and _lines.get() and not sys.stderr.isatty():
        shown = ("{desc}: " if "desc" in options else "") + _FORMAT
        return _Lines(mininterval=_EVERY, delay=_EVERY, miniters=1, bar_format=shown, leave=False, **options)
    return tqdm(disable=None if wanted else True, **options)


class _Lines(tqdm):
    """Writes a line each time instead of changing one."""

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write where it stands; at the end tqdm asks for an empty line to clear what was there."""
        if msg != "":
            print(msg or self, file=sys.stderr, flush=True)
