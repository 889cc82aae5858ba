"""The CUDA operators on emulated blocks of threads (tests/emulation), in the place of ``torch.ops.fastcam``."""

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from fastcam import ops
from tests.support import agreement

ROOT = Path(__file__).resolve().parents[2]
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "c++")


class Emulated:
    """Has the operators that a build was made of, as ``torch.ops.fastcam`` has."""

    def __init__(self, module: object):
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


class Emulator:
    """Compiles the operators for the host, once for each content of the sources, into a folder."""

    def __init__(self, folder: Path):
        """ImportError without pybind11, OSError where there is nothing to compile, or with."""
        import pybind11

        if sys.platform != "linux" or shutil.which(COMPILER) is None or not (ROOT / "csrc").is_dir():
            raise OSError("needs Linux, a C++ compiler and the checkout")
        self.folder = folder
        self.flags = ["-shared", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
        sources = [*EMULATION.glob("*.*"), *(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc/cuda").iterdir()]
        self.content = repr((COMPILER, self.flags, [source.read_text() for source in sorted(sources)]))

    @functools.cache  # noqa: B019
    def build(self, threads: int, *operators: str) -> Emulated | None:
        """With so many threads in a block; all operators by default. None if they do not compile."""
        digest = hashlib.sha256(f"{self.content} {threads} {operators}".encode()).hexdigest()[:16]
        name = f"emulated_{digest}"  # one process loads one module of a name
        library = self.folder / name / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder.with_suffix(".lock")):  # of several processes that begin at once, one compiles
            if not library.exists():
                for old in self.folder.iterdir() if len(list(self.folder.iterdir())) > 8 else ():
                    shutil.rmtree(old)
                made_of = " ".join(["module.cpp", *operators])
                command = [EMULATION / "build.sh", library.parent, str(threads), library, made_of, *self.flags]
                if subprocess.run([*command, f"-DMODULE_NAME={name}"]).returncode != 0:
                    return None
        spec = importlib.util.spec_from_file_location(name, library)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return Emulated(module)

    @contextmanager
    def device(
        self, threads: int = 64, multiprocessors: int = 1, shared: int = 225 << 10, seed: int = 0
    ) -> Iterator[None]:
        """`fastcam.ops` runs on a device that is described so; of 32 threads are sums only, of 0 a GPU's blocks."""
        emulated = self.build(threads, *(["sums.cu"] if threads == 32 else []))
        assert emulated is not None, "the operators did not compile"
        emulated.module.set_device(multiprocessors, shared, seed)
        with mock.patch.object(ops, "_ops", emulated):
            yield

    def actual(self, trial: agreement.Trial) -> object:
        """What the emulation gives in a comparison, in the place of a GPU."""
        with self.device():
            return trial.call(*trial.there, **trial.options_there)


if __name__ == "__main__":  # python -m tests.support.emulation FOLDER: compiles what later processes load
    sys.exit(Emulator(Path(sys.argv[1])).build(64) is None)
