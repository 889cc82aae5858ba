"""Options of a verb: one frozen dataclass, of which its signature, documentation, checks and command line are made.

    @dataclass(frozen=True)
    class LocalizeSettings:
        top_k: int = option(1, "boxes for this many classes of each picture, those of the highest scores", least=1)

        def __post_init__(self) -> None:
            check(self)

    @accepts(LocalizeSettings)
    def localize(model, source, *, out, settings: LocalizeSettings) -> LocalizationSummary: ...

`localize(model, source, out="run", top_k=3)` is what users write and what `help` shows; cli/generate.py makes
`--top-k` of the same field. So an option is added by a line in the dataclass and its use.
"""

import dataclasses
import functools
import inspect
import numbers
import os
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, ParamSpec, TypeAlias, TypeVar, Union, get_args, get_origin, get_type_hints

from fastcam._check import suggest

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
# What of a model's output are its scores, see `fastcam.models.with_output`; here, where torch is not needed.
Output: TypeAlias = str | int | Callable[[Any], Any]

_KINDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", NoneType: "nothing"}


@dataclass(frozen=True)
class Option:
    """What is known of an option beside its name, type and default.

    Attributes:
        help: what it does, without a capital and a full stop; serves documentation and command line.
        least: the smallest value of a number, or of each number of a tuple.
        below: what a number must be less than.
        decides: whether it decides about results, so that a run that is resumed must have the same.
        flags: on the command line, such as "--target-layer" or "--channels-last/--channels-first"; None makes them of
            the name.
        metavar: what stands for the value on the command line.
        cli: whether the command line has it.
        commas: whether commas in texts of the command line part them.
    """

    help: str
    least: float | None = None
    below: float | None = None
    decides: bool = True
    flags: str | None = None
    metavar: str | None = None
    cli: bool = True
    commas: bool = True


def option(
    default: T,
    help: str,
    *,
    least: float | None = None,
    below: float | None = None,
    decides: bool = True,
    flags: str | None = None,
    metavar: str | None = None,
    cli: bool = True,
    commas: bool = True,
) -> T:
    """Declare a field of a dataclass of options, see `Option`."""
    known = Option(help, least, below, decides, flags, metavar, cli, commas)
    return dataclasses.field(default=default, metadata={"option": known})


def options(record: type) -> dict[str, Option]:
    """What is known of each field, in order."""
    return {field.name: field.metadata["option"] for field in dataclasses.fields(record)}


def kinds(record: type) -> dict[str, tuple[Any, ...]]:
    """The types that each field may have: those of a union, NoneType among them, or the one."""
    return {
        name: get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        for name, hint in get_type_hints(record).items()
    }


def decisive(record: Any) -> dict[str, Any]:
    """The values of the fields that decide about results."""
    return {name: getattr(record, name) for name, known in options(type(record)).items() if known.decides}


def check(record: Any) -> None:
    """Check kinds and ranges, for `__post_init__`; numbers of NumPy become Python's.

    Raises:
        ValueError: a value is of another kind than its field, or out of its range.
    """
    known, fields = options(type(record)), kinds(type(record))
    for name, wanted in fields.items():
        value = getattr(record, name)
        if isinstance(value, numbers.Real) and not isinstance(value, bool | int | float):
            value = int(value) if isinstance(value, numbers.Integral) else float(value)
            object.__setattr__(record, name, value)
        if not any(_is(value, kind) for kind in wanted) or not _within(value, known[name].least, known[name].below):
            raise ValueError(f"`{name}` must be {_expected(wanted, known[name])}, got {value!r}")


def accepts(record: type) -> Callable[[Callable[P, R]], Callable[..., R]]:
    """Let a function whose keyword `settings` is a record of options take these one by one.

    The signature has the options in the place of `settings`. In the docstring they take the place of the line
    "settings: …" under "Args:". Whoever has a record already can pass that.
    """

    def decorate(function: Callable[P, R]) -> Callable[..., R]:
        signature = inspect.signature(function)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "settings"]
        hints = get_type_hints(record)
        taken = [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name]
            )
            for field in dataclasses.fields(record)
        ]
        required = [one for one in own if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
        other = [one for one in own if one.kind is one.KEYWORD_ONLY and one.default is not one.empty]
        first = [one for one in own if one.kind is not one.KEYWORD_ONLY]
        names = {parameter.name for parameter in taken}

        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> R:
            given = {name: keywords.pop(name) for name in names & keywords.keys()}
            if unknown := [name for name in keywords if name not in signature.parameters]:
                hint = suggest(unknown[0], [*names, *signature.parameters.keys() - {"settings"}])
                raise TypeError(f"{function.__name__}() got an unexpected keyword argument {unknown[0]!r}{hint}")
            if given and "settings" in keywords:
                raise TypeError(f"{function.__name__}() got `settings`, and `{next(iter(given))}` beside")
            if "settings" not in keywords:
                keywords["settings"] = record(**given)
            return function(*args, **keywords)

        wrapper.__signature__ = signature.replace(parameters=[*first, *required, *taken, *other])  # type: ignore[attr-defined]
        wrapper.__doc__ = _documented(inspect.getdoc(function) or "", record)
        return wrapper

    return decorate


def _documented(text: str, record: type) -> str:
    lines = []
    for line in text.splitlines():
        if line.strip().startswith("settings:"):
            indent = line[: len(line) - len(line.lstrip())]
            for name, known in options(record).items():
                lines += textwrap.wrap(
                    f"{name}: {known.help}.",
                    112,
                    initial_indent=indent,
                    subsequent_indent=indent + "    ",
                    break_on_hyphens=False,
                )
        else:
            lines.append(line)
    return "\n".join(lines)


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a kind: a type, a Literal, a tuple of one type, a mapping, or anything for Any."""
    origin = get_origin(kind)
    if kind is Any:
        return True
    if origin is Literal:
        return any(value == known and type(value) is type(known) for known in get_args(kind))
    if origin is tuple:
        parts = get_args(kind)
        fits = isinstance(value, tuple) and (parts[-1] is Ellipsis or len(value) == len(parts))
        return fits and all(_is(item, parts[0]) for item in value)  # type: ignore[attr-defined]
    if origin is not None:
        return isinstance(value, origin)
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, int | float) and isfinite(value)
    return isinstance(value, kind)


def _within(value: object, least: float | None, below: float | None) -> bool:
    values = [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, int | float)]
    return all((least is None or one >= least) and (below is None or one < below) for one in values)


def _expected(wanted: tuple[Any, ...], known: Option) -> str:
    kind = wanted[0]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, [None] * (NoneType in wanted) + [*get_args(kind)]))}"
    if get_origin(kind) is tuple:
        part = {float: "numbers", int: "whole numbers"}.get(get_args(kind)[0], "names")
        count = {2: "two", 3: "three"}.get(len(get_args(kind)), "")
        return part if get_args(kind)[-1] is Ellipsis else f"{count} {part}"
    if kind not in _KINDS or any(get_origin(one) is Callable for one in wanted):
        return " or ".join(getattr(one, "__name__", str(one)) for one in wanted)
    limits = [] if known.least is None else [f"of at least {known.least:g}"]
    limits += [] if known.below is None else [f"below {known.below:g}"]
    return " ".join([_KINDS[kind], " and ".join(limits)]).strip()


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as a file or a command line gives them, as fields have them: tuples for lists, text for paths."""
    found = {}
    for name, value in values.items():
        if isinstance(value, list):
            value = tuple(value)
        elif isinstance(value, os.PathLike):
            value = os.fspath(value)
        found[name] = value
    return found
