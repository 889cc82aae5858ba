"""Options of the command line, made of the dataclasses that declare them (`fastcam._options`).

    @generated
    def localize(paths: …, out: …, settings: LocalizeSettings, device: …) -> None: ...

Each parameter of a command that is such a dataclass becomes its options, and the command gets the record of what the
user gave; as `Annotated[dict[str, Any], TrainSettings]` the values themselves, by the names of the fields. The
dataclass has defaults and checks.
"""

import dataclasses
import inspect
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from fastcam import _options
from fastcam._options import Option


def generated(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command options in the place of parameters that are dataclasses of options."""
    signature = inspect.signature(command, eval_str=True)
    records = {name: one.annotation for name, one in signature.parameters.items() if _record(one.annotation)}
    kinds = {name: _kinds(_record(annotation)) for name, annotation in records.items()}
    known = {name: _options.options(_record(annotation)) for name, annotation in records.items()}

    def run(context: typer.Context, **values: Any) -> None:
        for name, annotation in records.items():
            taken = {field: values.pop(field) for field in kinds[name]}
            given = {
                field: _read(field, kinds[name][field], taken[field], known[name][field].commas)
                for field in kinds[name]
                if getattr(context.get_parameter_source(field), "name", "") == "COMMANDLINE"
            }
            values[name] = given if get_origin(annotation) is Annotated else annotation(**given)
        command(**values)

    run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for name, one in signature.parameters.items():
        parameters += _parameters(_record(one.annotation)) if name in records else [one]
    keyword = inspect.Parameter.KEYWORD_ONLY
    vars(run)["__signature__"] = inspect.Signature([one.replace(kind=keyword) for one in parameters])
    return run


def flag(name: str, known: Option) -> str:
    """How the user writes an option; for messages."""
    return (known.flags or f"--{name.replace('_', '-')}").partition("/")[0]


def _record(annotation: Any) -> Any:
    """The dataclass of options that a parameter is, or stands for; None if it is none."""
    for one in get_args(annotation) if get_origin(annotation) is Annotated else (annotation,):
        if isinstance(one, type) and dataclasses.is_dataclass(one):
            return one
    return None


def _kinds(record: type) -> Mapping[str, tuple[Any, ...]]:
    """The types of the fields that the command line has."""
    known = _options.options(record)
    return {name: kinds for name, kinds in _options.kinds(record).items() if known[name].cli}


def _parameters(record: Any) -> list[inspect.Parameter]:
    defaults = {field.name: field.default for field in dataclasses.fields(record)}
    known = _options.options(record)
    flags = {name: flag(name, known[name]) for name in _kinds(record)}
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(name, kinds[0], defaults[name]),
            annotation=_annotation(name, kinds, defaults[name], known[name], flags),
        )
        for name, kinds in _kinds(record).items()
    ]


def _annotation(name: str, kinds: tuple[Any, ...], default: Any, known: Option, all_flags: Mapping[str, str]) -> Any:
    """The type and help of an option as typer takes them; help names other options as the user writes them."""
    kind, flags = kinds[0], known.flags or f"--{name.replace('_', '-')}"
    shown: Any = _text(default) if isinstance(default, tuple) and default else default is not False
    taken: Any = kind
    facts: dict[str, Any] = {}
    if kind is bool and not known.flags and (default is None or default is True):
        flags = f"{flags}/--no-{flags[2:]}"
    elif get_origin(kind) is Literal:
        taken = _choices(name, kind)
    elif get_origin(kind) is tuple:
        taken = list[str]
        if get_args(kind)[0] is not str:
            facts["metavar"] = "A,B,…" if get_args(kind)[-1] is Ellipsis else ",".join("ABC"[: len(get_args(kind))])
    elif kind in (int, float):
        facts["min"] = known.least
    elif kind not in (str, bool, Path):
        taken = str
    if known.metavar:
        facts["metavar"] = known.metavar
    return Annotated[
        taken | None, typer.Option(flags, help=_sentence(known.help, all_flags), show_default=shown, **facts)
    ]


def _choices(name: str, kind: Any) -> Any:
    """The values of a Literal as a StrEnum, which all versions of typer take for choices."""
    return StrEnum(name, [(value, value) for value in get_args(kind)])


def _default(name: str, kind: Any, default: Any) -> Any:
    """The default as typer wants it; those of tuples are shown by the help alone."""
    if get_origin(kind) is Literal and default is not None:
        return _choices(name, kind)(default)
    return None if get_origin(kind) is tuple else default


def _read(name: str, kinds: tuple[Any, ...], value: Any, commas: bool) -> Any:
    """The value of a field from what the command line gives: several options, and commas, make a tuple."""
    kind = kinds[0]
    if get_origin(kind) is not tuple:
        return value.value if isinstance(value, StrEnum) else value
    if not commas:
        return tuple(value)
    parts = [part.strip() for text in value for part in text.split(",") if part.strip()]
    part, count = get_args(kind)[0], len(get_args(kind))
    if part is str or get_origin(part) is Literal:
        return tuple(parts)
    fixed = get_args(kind)[-1] is not Ellipsis
    try:
        numbers = tuple(part(text) for text in parts)
    except ValueError:
        numbers = ()
    if fixed and count == 3 and len(numbers) == 1:  # one stands for all
        numbers *= count
    if not numbers or (fixed and len(numbers) != count):
        what = f"{'' if part is float else 'whole '}numbers with commas, such as "
        what += "0.5,1,2" if part is float else "60,120,160"
        if fixed:
            what = f"two numbers with a comma between, such as {'0.7,0.5' if part is float else '320,640'}"
        if fixed and count == 3:
            what = "one number or three with commas between, such as 0.5 or 0.4,0.5,0.6"
        raise ValueError(f"--{name.replace('_', '-')} must be {what}; got {','.join(value)!r}")
    return numbers


def _sentence(text: str, flags: Mapping[str, str]) -> str:
    text = re.sub(r"`([^`]*)`", lambda name: flags.get(name[1], name[1]), text)
    return f"{text[:1].upper()}{text[1:]}."


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
