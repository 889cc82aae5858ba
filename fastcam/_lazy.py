"""Faces of packages whose names are imported when they are first used, so that a command line answers at once."""

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec


def lazy(package: str, homes: Mapping[str, str]) -> Callable[[str], object]:
    """The `__getattr__` of a package, from names of its face to the modules that have them."""

    def get(name: str) -> object:
        if name in homes:
            module = import_module(f"{package}.{homes[name]}")
            if homes[name] in homes:  # a verb whose module has its name, which the import has put in its place
                setattr(sys.modules[package], homes[name], getattr(module, homes[name]))
            return getattr(module, name)
        if name.startswith("_") or find_spec(f"{package}.{name}") is None:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return import_module(f"{package}.{name}")

    return get
