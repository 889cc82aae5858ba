"""The CUDA operators compiled for the host (tests/emulation), and callable in place of those of the extension."""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "c++")


def missing() -> str | None:
    """What is needed to build them, and is not there."""
    if importlib.util.find_spec("pybind11") is None:
        return "needs pybind11"
    if sys.platform != "linux" or shutil.which(COMPILER) is None or not (ROOT / "csrc").is_dir():
        return "needs Linux, a C++ compiler and the checkout"
    return None


class Emulated:
    """Has the operators that a build was made of, as ``torch.ops.fastcam`` has."""

    def __init__(self, module: ModuleType):
        self.module = module

    def __getattr__(self, name: str) -> Callable:
        def given(value: object) -> object:
            if not isinstance(value, Tensor):
                return value
            dtype = str(value.dtype).removeprefix("torch.")
            return self.module.Tensor(value.data_ptr(), list(value.shape), list(value.stride()), dtype)

        def call(*arguments: object) -> object:
            result = getattr(self.module, name)(*map(given, arguments))
            tensors = tuple(torch.from_numpy(np.asarray(part)) for part in result)
            return tensors if len(tensors) > 1 else tensors[0]

        return call


def extension_flags() -> list[str]:
    """Of a module for Python."""
    import pybind11

    return ["-shared", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]


def module_of(name: str, sources: Sequence[Path], cache: Path, build: Callable[[str, Path], bool]) -> ModuleType | None:
    """Python's module that build(name, library) makes of the sources; once for each content, None if it fails."""
    content = repr((COMPILER, [source.read_text() for source in sorted(sources)]))
    name = f"{name}_{hashlib.sha256(content.encode()).hexdigest()[:16]}"  # one process loads one module of a name
    library = cache / name / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not library.exists():
        cache.mkdir(parents=True, exist_ok=True)
        for old in cache.iterdir() if len(list(cache.iterdir())) > 8 else ():
            shutil.rmtree(old)
        if not build(name, library):
            return None
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def emulated(cache: Path, threads: int, *operators: str) -> Emulated | None:
    """The operators (all by default) with so many threads in a block, 0: as many as on a GPU. None: did not compile."""
    sources = [
        *filter(Path.is_file, EMULATION.rglob("*")),
        *(ROOT / "csrc").glob("*.h"),
        *(ROOT / "csrc/cuda").iterdir(),
    ]

    def build(name: str, library: Path) -> bool:
        made_of = " ".join(["module.cpp", *operators])
        command = [EMULATION / "build.sh", library.parent, str(threads), library, made_of, *extension_flags()]
        return subprocess.run([*command, f"-DMODULE_NAME={name}"]).returncode == 0

    kind = "_".join(["emulated", str(threads), *(Path(operator).stem for operator in operators)])
    module = module_of(kind, sources, cache, build)
    return module and Emulated(module)
