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
# Each module may import those to its right or below.
LAYERS = [
    ["__main__"],
    ["cli"],
    ["demo"],
    ["training"],
    ["cropping", "evaluation", "discovery", "vqa"],
    ["report", "fitting", "metrics", "bench"],
    ["localization", "explanation"],
    ["export"],
    ["drawing", "refinement"],
    ["methods"],
    ["data"],
    ["pictures"],
    ["models"],
    ["ops", "targets"],
    ["_operators"],
    ["reference"],
    ["runs"],
    ["_options"],
    ["_check", "_files", "_lazy", "_memory", "_progress", "_version"],
]
# What users call: their docstrings have the full form.
FACES = ("", "data", "discovery", "drawing", "evaluation", "fitting", "methods", "metrics")
FACES += ("models", "ops", "runs", "targets", "vqa")


def test_public_names_exist():
    for name in fastcam.__all__:
        assert getattr(fastcam, name) is not None
    assert set(fastcam.__all__) <= set(dir(fastcam))
    with pytest.raises(AttributeError, match="no attribute 'GradCAMM'"):
        fastcam.GradCAMM  # noqa: B018


@pytest.mark.parametrize(
    ("former", "name"),
    [("decoding", "read"), ("distributed", "Rank"), ("outputs", "MapTable"), ("visualize", "overlay")],
)
def test_former_names_of_modules_lead_to_the_new_ones(former, name):
    with pytest.warns(DeprecationWarning, match=f"fastcam.{former} is fastcam"):
        assert hasattr(getattr(fastcam, former), name)


def test_a_verb_is_a_function_whatever_was_imported_before():
    verbs = {
        "localization.localize": "localize",
        "training.train": "train",
        "evaluation.evaluate": "evaluate",
        "evaluation.compare": "compare",
        "explanation.figures": "explain",
        "cropping.crop": "crop",
        "fitting.fit": "fit",
        "discovery.objects": "informative_objects",
        "discovery.units": "class_units",
    }
    lines = [f"import fastcam.{module}" for module in verbs]
    for module, verb in verbs.items():
        package = module.split(".")[0]
        lines += [f"from fastcam.{package} import {verb}"]
        lines += [f"assert callable({verb}) and fastcam.{verb} is {verb} is fastcam.{package}.{verb}"]
    assert subprocess.run([sys.executable, "-c", "\n".join(lines)], check=False).returncode == 0


def names_in_texts() -> dict[str, set[str]]:
    """Dotted names of the package in what users read and in all texts of the source, and where they stand."""
    root = PACKAGE.parent
    pages = [*map(root.joinpath, DOCUMENTS), *(root / "docs").rglob("*.md"), *(root / "docs/tutorials").glob("*.py")]
    texts = {path: path.read_text(encoding="utf-8") for path in pages if path.is_file()}
    for path in PACKAGE.rglob("*.py"):
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        constants = (node.value for node in nodes if isinstance(node, ast.Constant))
        texts[path] = "\n".join(value for value in constants if isinstance(value, str))
    found: dict[str, set[str]] = {}
    for path, text in texts.items():
        for name in re.findall(r"(?<![\w./-])fastcam(?:\.[A-Za-z_]\w*)+", text):
            found.setdefault(name, set()).add(path.name)
    return found


@pytest.mark.filterwarnings("ignore:fastcam.* is fastcam.* now:DeprecationWarning")  # the changelog has old names, too
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
    order = [name for level in reversed(LAYERS) for name in level]
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


def test_no_extra_is_imported_where_its_networks_are_not_asked_for():
    code = (
        "import sys, torch, fastcam, fastcam.cli, fastcam.models as models, fastcam.methods, fastcam.localization;"
        "fastcam.GradCAM(models.build('squeezenet1_1'))(torch.rand(1, 3, 64, 64));"
        "sys.exit(' '.join({'timm', 'transformers', 'open_clip', 'datasets'} & set(sys.modules)) or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], timeout=300, check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def faces():
    """Names and functions that the faces of the package give to users; classes with their own methods."""
    for face in FACES:
        module = importlib.import_module(".".join(filter(None, ("fastcam", face))))
        names = getattr(module, "__all__", None) or [
            name
            for name, item in vars(module).items()
            if not name.startswith("_") and getattr(item, "__module__", None) == module.__name__
        ]
        for name in names:
            item = getattr(module, name)
            if inspect.isclass(item) and item.__module__.startswith("fastcam"):
                for key, member in vars(item).items():
                    inherited = any(hasattr(base, key) for base in item.__bases__)
                    function = getattr(member, "__func__", member)  # of a classmethod
                    if inspect.isfunction(function) and not key.startswith("_") and (function.__doc__ or not inherited):
                        yield f"{module.__name__}.{name}.{key}", function
            elif inspect.isfunction(item) and not item.__module__.startswith("fastcam._"):
                yield f"{module.__name__}.{name}", item


def test_docstrings_of_the_faces_state_what_goes_in_and_comes_out():
    for name, function in faces():
        text, signature = inspect.getdoc(function) or "", inspect.signature(function)
        assert text, f"{name} lacks a docstring"
        if set(signature.parameters) - {"self", "cls"}:
            assert "Args:" in text, f"{name} lacks Args:"
        if signature.return_annotation not in (None, "None"):
            assert "Returns:" in text or "Yields:" in text, f"{name} lacks Returns: or Yields:"
        if name.startswith(("fastcam.ops.", "fastcam.data.load")) or name.count(".") == 1:
            assert "Raises:" in text or not signature.parameters, f"{name} lacks Raises:"


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
    levels = {name: level for level, names in enumerate(LAYERS) for name in names}
    assert home in levels, f"{home} has no place among LAYERS"
    for name in imports_of(path) - {home, "__version__"}:
        assert name in levels, f"{home} imports unknown {name}"
        assert levels[name] > levels[home], f"{home} imports {name}, which is not below it"


def test_only_two_modules_touch_the_extension():
    users = [p.name for p in PACKAGE.rglob("*.py") if "torch.ops.fastcam" in p.read_text(encoding="utf-8")]
    assert sorted(users) == ["_operators.py", "ops.py"]


def test_tests_mirror_the_package_and_share_helpers_in_support_only():
    tests = Path(__file__).parent
    # Not of the package are machine_code, a simulator with its tests beside it, and the folders examples and docs.
    others = {(), ("machine_code",), ("examples",), ("docs",)}
    folders = {path.parent.relative_to(tests).parts for path in tests.rglob("test_*.py")} - others
    for folder in folders:
        place = PACKAGE.joinpath(*folder)
        assert place.is_dir() or place.with_suffix(".py").is_file(), f"{place} is not there, tests of it are"
    for path in tests.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [f"{'tests.' * node.level}{node.module}"] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                assert parts[0] != "tests" or parts[1] in ("support", "machine_code"), f"{path} imports {name}"
