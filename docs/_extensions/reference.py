"""The reference from the source: what autodoc sees, links in docstrings, and the directive `commands`.

Names in single backticks, as docstrings have them, are links where the reference has them, and code where they are
arguments or values. What begins with ``fastcam.`` must be there.
"""

import dataclasses
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import typer
from docutils import nodes
from docutils.parsers.rst import Directive
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

import fastcam
from fastcam.cli import app as command_line
from fastcam.runs import Row


def setup(app: Sphinx) -> dict[str, bool]:
    """Register events and the directive."""
    for name in dir(fastcam):  # packages import their names when they are first used; autodoc looks at what is there
        face = getattr(fastcam, name)
        if isinstance(face, ModuleType):
            vars(face).update({public: getattr(face, public) for public in getattr(face, "__all__", ())})
    app.connect("autodoc-process-docstring", _docstring, priority=100)  # before napoleon
    app.connect("autodoc-skip-member", _skipped)
    app.connect("doctree-read", _dashes)
    app.connect("missing-reference", _link)
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _docstring(app: Sphinx, what: str, name: str, thing: Any, options: object, lines: list[str]) -> None:
    """Bring docstrings into the form that napoleon and autodoc expect."""
    if what in ("module", "data"):  # for developers, which file has what; and that of a value's type
        lines.clear()
    fields = dataclasses.fields(thing) if what == "class" and dataclasses.is_dataclass(thing) else ()
    known = {field.name: field.metadata["option"].help for field in fields if "option" in field.metadata}
    if known:
        lines += ["Attributes:", *(f"    {field}: {text}." for field, text in known.items()), ""]
    if what in ("attribute", "property"):  # an empty comment: napoleon would take what stands before a colon for a type
        lines[:0] = ["..", ""]
    if "Returns:" in lines:  # here as well
        first = lines.index("Returns:") + 1
        lines[first - 1 : first + 1] = [f":returns: {lines[first].strip()}"]


def _skipped(app: Sphinx, what: str, name: str, thing: Any, skip: bool, options: object) -> bool | None:
    """Fields of named tuples stand in the class's docstring, but for those of `Row`."""
    of_tuple = str(getattr(thing, "__doc__", "")).startswith("Alias for field number")
    return True if of_tuple and vars(Row).get(name) is not thing else None


def _dashes(app: Sphinx, page: nodes.document) -> None:
    """Between a parameter and what it is stands a dash in place of Sphinx's two hyphens."""
    for text in [text for text in page.findall(nodes.Text) if text == " -- "]:
        text.parent.replace(text, nodes.Text(" – "))


def _link(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, text: nodes.Element) -> nodes.Node | None:
    """A link to where a name is documented, such as that of `fastcam.localize`; or code, where none is due."""
    if node.get("refdomain") != "py":
        return None
    name, python = node["reftarget"], env.domains["py"]
    thing = _named(name)
    for home in _homes(tuple(python.data["objects"])).get(id(thing), ()):
        return python.resolve_xref(env, node["refdoc"], app.builder, "obj", home, node, text)
    of_signature = node["reftype"] == "class"  # which may have internal types
    return text if not name.startswith("fastcam.") or (of_signature and thing is not None) else None


@cache
def _homes(documented: tuple[str, ...]) -> dict[int, list[str]]:
    """The names under which classes, functions and modules are documented, by identity."""
    homes: dict[int, list[str]] = {}
    for name in documented:
        thing = _named(name)
        if callable(thing) or isinstance(thing, ModuleType):
            homes.setdefault(id(thing), []).append(name)
    return homes


def _named(name: str) -> Any:
    """What a dotted name is of; None if there is nothing of this name."""
    first, *parts = name.split(".")
    thing: Any = fastcam if first == "fastcam" else None
    for part in parts:
        thing = getattr(thing, part, None)
    return thing


class Commands(Directive):
    """A section for each command: usage, help, arguments and options, word by word as ``--help`` has them."""

    def run(self) -> list[nodes.section]:
        """Make the sections."""
        sections = list(_sections(typer.main.get_command(command_line), "fastcam"))
        for section in sections:
            self.state.document.note_explicit_target(section)
        return sections


def _sections(command: Any, path: str) -> Iterator[nodes.section]:
    """That of a command, or of those of a group."""
    for name, one in getattr(command, "commands", {}).items():
        yield from _sections(one, f"{path} {name}")
    if hasattr(command, "commands"):
        return
    section = nodes.section(ids=[path.replace(" ", "-")], names=[path])
    section += nodes.title(text=path)
    context = command.make_context(path, [], resilient_parsing=True)
    section += nodes.literal_block(text=command.get_usage(context).removeprefix("Usage: "), language="text")
    section += [nodes.paragraph(text=" ".join(part.split())) for part in command.help.split("\n\n")]
    listed = nodes.definition_list(classes=["options"])
    for parameter in command.params:
        shown, text = parameter.get_help_record(context) or ("--help", "Show this message and exit.")
        item = nodes.definition_list_item()
        item += nodes.term("", "", nodes.literal(text=shown))
        item += nodes.definition("", nodes.paragraph(text=text))
        listed += item
    section += listed
    yield section
