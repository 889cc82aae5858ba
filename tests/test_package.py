"""The package as its users meet it: public names, a quick start, docstrings, and no import against the stream."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastcam

PACKAGE = Path(fastcam.__file__).parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
# Each module may import those to its right, and the leaves.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["demo"],
    ["evaluation"],
    ["report", "training", "metrics", "bench"],
    ["localization", "explanation"],
    ["panels", "export"],
    ["drawing"],
    ["methods"],
    ["ops", "reference", "removal"],
]
LEAVES = {"models", "data", "pictures", "runs", "_check", "_files", "_version"}
# All modules but those without functions for users: `reference` has the docstrings of `ops`.
PRIVATE = ("cli", "__main__", "_check", "_version", "reference", "bench", "demo")
PUBLIC = sorted(
    name
    for name in (
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
    )
    if name.split(".")[0] not in (*PRIVATE, "__init__")
)


def test_public_names_exist():
    for name in fastcam.__all__:
        assert getattr(fastcam, name) is not None
    assert set(fastcam.__all__) <= set(dir(fastcam))
    with pytest.raises(AttributeError, match="no attribute 'GradCAMM'"):
        fastcam.GradCAMM  # noqa: B018


def names_in_texts() -> dict[str, set[str]]:
    """Dotted names of the package in what users read and in all texts of the source, and where they stand."""
    root = PACKAGE.parent
    texts = {path: path.read_text(encoding="utf-8") for path in map(root.joinpath, DOCUMENTS) if path.is_file()}
    for path in PACKAGE.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        constants = (node.value for node in nodes if isinstance(node, ast.Constant))
        texts[path] = "\n".join(value for value in constants if isinstance(value, str))
    found: dict[str, set[str]] = {}
    for path, text in texts.items():
        for name in re.findall(r"(?<![\w./-])fastcam(?:\.[A-Za-z_]\w*)+", text):
            found.setdefault(name, set()).add(path.name)
    return found


def test_every_name_in_texts_is_there_after_import_fastcam():
    found = names_in_texts()
    assert {"fastcam.export.MapTable", "fastcam.localization.ERRORS", "fastcam.pictures.gpu"} <= set(found)
    packages: dict[str, set[str]] = {}
    for name, places in found.items():
        thing = fastcam
        for depth, part in enumerate(name.split(".")[1:]):
            assert hasattr(thing, part), f"{name}, of which {', '.join(places)} tells, does not exist"
            thing = getattr(thing, part)
            if depth and inspect.ismodule(thing):
                packages.setdefault(".".join(name.split(".")[: depth + 1]), set()).add(part)
    # A module within a package may be there only because one that is above it has imported it.
    order = ["models", "pictures", "data", *(name for level in reversed(LAYERS) for name in level)]
    ascending = sorted(packages, key=lambda package: order.index(package.split(".")[1]))
    lines = [f"{package}.{part}" for package in ascending for part in sorted(packages[package])]
    code = "\n".join(["import fastcam", *lines])
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0, code


def test_every_module_is_there_and_listed():
    modules = {
        path.stem
        for path in PACKAGE.iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").is_file())
    }
    assert {"data", "pictures", "runs", "localization", "export", "report", "training"} <= modules
    assert modules <= set(dir(fastcam))
    for name in modules:
        assert inspect.ismodule(getattr(fastcam, name))
    for module, name in (
        (fastcam, "_lib"),
        (fastcam, "traning"),
        (fastcam.evaluation, "Evaluatr"),
        (fastcam.evaluation, "__x"),
    ):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute '{name}'"):
            getattr(module, name)


def test_import_does_not_load_torch():
    code = "import sys, fastcam, fastcam.cli; dir(fastcam); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 0


def test_public_docstrings_state_what_goes_in_comes_out_and_is_raised():
    functions = [f for _, f in inspect.getmembers(fastcam.ops, inspect.isfunction) if not f.__name__.startswith("_")]
    for function in (
        *functions,
        fastcam.localize,
        fastcam.explain,
        fastcam.train,
        fastcam.evaluate,
        fastcam.overlay,
        fastcam.show_cam_on_image,
    ):
        text = inspect.getdoc(function) or ""
        parts = ["Returns:"] + (["Args:", "Raises:"] if inspect.signature(function).parameters else [])
        for part in parts:
            assert part in text, f"{function.__module__}.{function.__name__} lacks {part}"


def public_functions(module):
    """Public functions and methods that a module defines itself, with their names; overrides may do without a text."""
    for name, item in vars(module).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(item):
            for key, member in vars(item).items():
                inherited = any(hasattr(base, key) for base in item.__bases__)
                function = getattr(member, "__func__", member)  # of a classmethod
                if inspect.isfunction(function) and not key.startswith("_") and (function.__doc__ or not inherited):
                    yield f"{name}.{key}", function
        elif inspect.isfunction(item):
            yield name, item


@pytest.mark.parametrize("name", PUBLIC)
def test_all_public_functions_have_docstrings(name):
    for function_name, function in public_functions(importlib.import_module(f"fastcam.{name}")):
        text, signature = inspect.getdoc(function) or "", inspect.signature(function)
        assert text, f"{name}.{function_name} lacks a docstring"
        if set(signature.parameters) - {"self", "cls"}:
            assert "Args:" in text, f"{name}.{function_name} lacks Args:"
        if signature.return_annotation not in (None, "None"):
            assert "Returns:" in text or "Yields:" in text, f"{name}.{function_name} lacks Returns: or Yields:"


def imports_of(path: Path) -> set[str]:
    """First components under fastcam of what a file imports, lazily or not."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "fastcam":
            rest = node.module.split(".")[1:2]
            found |= set(rest) if rest else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("fastcam.")}
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    home = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if home == "__init__":
        return
    level = next((i for i, names in enumerate(LAYERS) if home in names), len(LAYERS))
    for name in imports_of(path) - LEAVES - {home, "__version__"}:
        target = next((i for i, names in enumerate(LAYERS) if name in names), None)
        assert target is not None, f"{home} imports unknown {name}"
        assert target > level, f"{home} imports {name}, which is not below it"


def test_only_ops_touches_the_extension():
    users = [p.name for p in PACKAGE.rglob("*.py") if "torch.ops.fastcam" in p.read_text(encoding="utf-8")]
    assert users == ["ops.py"]
