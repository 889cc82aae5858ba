"""How errors and warnings are shown, and the exit codes; no other room thinks of these.

Exit codes: 0 all well, 1 failed, 2 wrong usage or input, 3 finished, but some inputs failed.
"""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import typer

FAILED, USAGE, SOME_FAILED = 1, 2, 3

_WRONG_USE = (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError)
_FAILURES = (OSError, RuntimeError, ArithmeticError, ImportError, KeyboardInterrupt)
_LONGEST = 4000  # characters of a line
_ALWAYS = re.compile(r"\d+ of \d+ (classes asked for|categories)")  # warnings of names that do not fit


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn errors into one line and an exit code, all but those that only a bug can raise."""
    caught: BaseException
    try:
        with _plain_warnings():
            yield
        return
    except (typer.Exit, typer.Abort):  # RuntimeErrors, both
        raise
    except _WRONG_USE as error:
        code, caught = USAGE, error
    except _FAILURES as error:
        code, caught = FAILED, error
    what = "interrupted" if isinstance(caught, KeyboardInterrupt) else str(caught) or type(caught).__name__
    notes = [f"({note})" for note in getattr(caught, "__notes__", ())]
    say("fastcam: " + " ".join(" ".join([what, *notes]).split()), error=True)
    raise typer.Exit(code)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show the package's own warnings as lines like its errors; of some, whatever Python's filters are."""
    try:
        from fastcam.methods import MapWarning
    except ImportError:  # a command that needs what is missing says so itself; `fastcam info` tells about it
        yield
        return
    with warnings.catch_warnings():
        usual, package = warnings.showwarning, str(Path(__file__).parents[1])

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            own = issubclass(category, UserWarning) and filename.startswith(package)
            if own or issubclass(category, MapWarning) or _ALWAYS.match(str(message)):
                say(f"fastcam: {message}", error=True)
            else:
                usual(message, category, filename, lineno, file, line)

        warnings.filterwarnings("always", category=MapWarning)
        warnings.filterwarnings("always", _ALWAYS.pattern)
        warnings.showwarning = show
        yield


def as_typed(path: Path) -> Path:
    """A path as one would type it: what lies below the current folder from there, all else as it is."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def say(line: str, *, error: bool = False) -> None:
    """Print a line that may have names from files in it: what could steer a terminal is escaped."""
    line = line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    print(shown, file=sys.stderr if error else sys.stdout)
