"""Options of the command line, made of the dataclasses that declare them (`fastcam._options`).

    @generated(LocalizeSettings)
    def localize(paths: …, out: …, *, options: dict[str, Any]) -> None:
        fastcam.localize(…, settings=LocalizeSettings(**options))

The command gets what the user gave, by the names of the fields and as these have it; the dataclass has defaults and
checks.
"""

import dataclasses
import inspect
from collections.abc import Callable, Collection
from enum import StrEnum
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from fastcam import _options
from fastcam._options import Option


def generated(record: type, *, leave_out: Collection[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of a dataclass, but for `leave_out`, in the place of its keyword `options`."""
    defaults = {field.name: field.default for field in dataclasses.fields(record)}
    kinds = {
        name: kind
        for name, kind in _options.kinds(record).items()
        if _options.options(record)[name].cli and name not in leave_out
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for parameter in signature.parameters.values() if parameter.name != "options"]
        place = next((i for i, one in enumerate(own) if one.default is not one.empty), len(own))
        made = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=_default(name, kind[0], defaults[name]),
                annotation=_annotation(name, kind, defaults[name], _options.options(record)[name]),
            )
            for name, kind in kinds.items()
        ]

        def run(context: typer.Context, **values: Any) -> None:
            taken = {name: values.pop(name) for name in kinds}
            given = [name for name in kinds if getattr(context.get_parameter_source(name), "name", "") == "COMMANDLINE"]
            command(**values, options={name: _read(name, kinds[name], taken[name]) for name in given})

        run.__name__, run.__doc__, run.__module__ = command.__name__, command.__doc__, command.__module__
        keyword = inspect.Parameter.KEYWORD_ONLY
        parameters = [
            inspect.Parameter("context", keyword, annotation=typer.Context),
            *own[:place],
            *made,
            *own[place:],
        ]
        run.__signature__ = inspect.Signature([one.replace(kind=keyword) for one in parameters])  # type: ignore[attr-defined]
        return run

    return decorate


def flag(name: str, known: Option) -> str:
    """How the user writes an option; for messages."""
    return (known.flags or f"--{name.replace('_', '-')}").partition("/")[0]


def _annotation(name: str, kinds: tuple[Any, ...], default: Any, known: Option) -> Any:
    """The type and help of an option as typer takes them."""
    kind, flags, kind_of_help = kinds[0], known.flags or f"--{name.replace('_', '-')}", _sentence(known.help)
    shown: Any = _text(default) if isinstance(default, tuple) and default else default is not False
    taken: Any = kind
    facts: dict[str, Any] = {}
    if kind is bool and not known.flags and (default is None or default is True):
        flags = f"{flags}/--no-{flags[2:]}"
    elif get_origin(kind) is Literal:
        taken = _choices(name, kind)
    elif get_origin(kind) is tuple:
        taken = list[str]
        facts["metavar"] = known.metavar or ",".join(["…" if get_args(kind)[-1] is Ellipsis else "A,B,C"])
    elif kind in (int, float):
        facts["min"] = known.least
    elif kind not in (str, bool):
        taken = str
    if known.metavar:
        facts["metavar"] = known.metavar
    return Annotated[taken | None, typer.Option(flags, help=kind_of_help, show_default=shown, **facts)]


def _choices(name: str, kind: Any) -> Any:
    """The values of a Literal as a StrEnum, which all versions of typer take for choices."""
    return StrEnum(name, [(value, value) for value in get_args(kind)])


def _default(name: str, kind: Any, default: Any) -> Any:
    """The default as typer wants it; those of tuples are shown by the help alone."""
    if get_origin(kind) is Literal and default is not None:
        return _choices(name, kind)(default)
    return None if get_origin(kind) is tuple else default


def _read(name: str, kinds: tuple[Any, ...], value: Any) -> Any:
    """The value of a field from what the command line gives: several options, and commas, make a tuple."""
    kind = kinds[0]
    if get_origin(kind) is not tuple:
        return value.value if isinstance(value, StrEnum) else value
    parts = [part.strip() for text in value for part in text.split(",") if part.strip()]
    part, count = get_args(kind)[0], len(get_args(kind))
    if part is str or get_origin(part) is Literal:
        return tuple(parts)
    single = get_args(kind)[-1] is not Ellipsis  # as many as there are; one stands for all
    try:
        numbers = tuple(part(text) for text in parts)
    except ValueError:
        numbers = ()
    if single and len(numbers) == 1:
        numbers *= count
    if not numbers or (single and len(numbers) != count):
        what = (
            f"one number or {'three' if count == 3 else count} with commas between" if single else "numbers with commas"
        )
        raise ValueError(f"--{name.replace('_', '-')} must be {what}; got {','.join(parts)!r}")
    return numbers


def _sentence(text: str) -> str:
    text = text.replace("`", "")
    return f"{text[:1].upper()}{text[1:]}."


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
