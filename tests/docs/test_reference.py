"""The site's reference: every public name and every command, with nothing that autodoc or a link could not resolve."""

import importlib
import inspect
import io
import re
import warnings
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="the extra `docs` is not installed")

import typer
from sphinx.application import Sphinx

import fastcam
from fastcam.cli import app as command_line

DOCS = Path(__file__).parents[2] / "docs"
PUBLIC = sorted({name for name in dir(fastcam) if not name.startswith("_")} - {"bench", "cli", "demo"})


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The reference alone, read and not written."""
    out = tmp_path_factory.mktemp("site")
    settings = {"root_doc": "reference/index", "include_patterns": ["reference/*"], "exclude_patterns": []}
    said = io.StringIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Sphinx's extensions, about each other and Python
        app = Sphinx(DOCS, DOCS, out, out, "dummy", settings, status=None, warning=said, freshenv=True)
        app.build()
    return app, said.getvalue()


def public_names():
    for name in PUBLIC:
        thing = getattr(fastcam, name)
        if not inspect.ismodule(thing):
            continue
        yield thing.__name__
        own = (key for key, value in vars(thing).items() if getattr(value, "__module__", None) == thing.__name__)
        for public in getattr(thing, "__all__", own):
            if not public.startswith("_"):
                yield f"{thing.__name__}.{public}"


def test_every_public_name_is_in_the_reference(site):
    documented = set(site[0].env.domains["py"].data["objects"])
    assert {"fastcam.ops.boxes", "fastcam.evaluation.METRICS", "fastcam.data.matching"} <= {*public_names()}
    assert not sorted({*public_names()} - documented)


def test_public_methods_of_classes_are_in_the_reference(site):
    documented = set(site[0].env.domains["py"].data["objects"])
    for name in public_names():
        module, _, last = name.rpartition(".")
        item = getattr(importlib.import_module(module), last) if module != "fastcam" else None
        if inspect.isclass(item) and item.__module__.startswith("fastcam"):
            own = {key for key, member in vars(item).items() if inspect.isfunction(member) and not key.startswith("_")}
            own = {key for key in own if vars(item)[key].__doc__}
            assert not sorted({f"{name}.{key}" for key in own} - documented)


def test_the_first_page_lists_all_that_the_package_gives_by_itself(site):
    listed = set(re.findall(r"~fastcam\.(\w+)", (DOCS / "reference" / "index.md").read_text(encoding="utf-8")))
    assert listed == {name for name in fastcam.__all__ if not inspect.ismodule(getattr(fastcam, name))} - {
        "__version__"
    }


def test_every_option_of_every_command_is_in_the_reference(site):
    tree = site[0].env.get_doctree("reference/commands")
    sections = {section["names"][0]: section.astext() for section in tree.findall() if section.tagname == "section"}

    def check(command, path):
        for name, one in getattr(command, "commands", {}).items():
            check(one, f"{path} {name}")
        if not hasattr(command, "commands"):
            shown = command.get_help(command.make_context(path, [], resilient_parsing=True))
            options = set(re.findall(r"^ +(-[\w-]+)", shown, re.MULTILINE)) - {"--help"}
            assert all(option in sections[path] for option in options), path

    check(typer.main.get_command(command_line), "fastcam")


def test_nothing_in_docstrings_is_unresolved(site):
    outside = re.compile(r"concepts/|design|tutorials/|howto/|performance")  # pages that are not read here
    assert not [line for line in site[1].splitlines() if line.strip() and not outside.search(line)]
