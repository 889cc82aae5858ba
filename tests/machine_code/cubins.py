"""Cubins of ``csrc/cuda``: those in the built extension where it is newer than its sources, else what nvcc makes."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock

from tests.machine_code.disassembly import Cubin, Function

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "machine_code"
ARCHITECTURE = 90  # whose instructions decoding.py knows


@cache
def tool(name: str) -> Path | None:
    """A tool of the CUDA toolkit; Triton's wheel carries some of them."""
    folders = [
        Path(os.environ.get(variable, ""), "bin") for variable in ("CUDA_HOME", "CUDA_PATH") if variable in os.environ
    ]
    folders += [Path("/usr/local/cuda/bin")]
    spec = find_spec("triton")
    folders += [Path(spec.origin).parent / "backends" / "nvidia" / "bin"] if spec and spec.origin else []
    found = shutil.which(name) or next((folder / name for folder in folders if (folder / name).is_file()), None)
    return found and Path(found)


def missing(nvcc: bool = True) -> str | None:
    """What is needed, and is not there."""
    wanted = ["nvdisasm", *(["nvcc"] if nvcc and built_library() is None else [])]
    absent = [name for name in wanted if tool(name) is None]
    return f"needs {' and '.join(absent)}" if absent else None


def stems() -> list[str]:
    """Of the files that make cubins."""
    return sorted(path.stem for path in (ROOT / "csrc" / "cuda").glob("*.cu"))


def sources(stem: str, root: Path = ROOT) -> list[Path]:
    """A file and all that it includes of the project."""
    found: list[Path] = []
    waiting = [root / "csrc" / "cuda" / f"{stem}.cu"]
    while waiting:
        path = waiting.pop().resolve()
        if path in found or not path.is_file():
            continue
        found.append(path)
        waiting += [path.parent / name for name in re.findall(r'#include "([^"]+)"', path.read_text())]
    return sorted(found)


def built_library() -> Path | None:
    """The extension, if it has cubins and no source is newer."""
    if tool("cuobjdump") is None:
        return None
    for library in (ROOT / "fastcam").glob("_C*.so"):
        newest = max(path.stat().st_mtime for stem in stems() for path in sources(stem))
        listed = subprocess.run([tool("cuobjdump"), "-lelf", library], capture_output=True, text=True).stdout
        if f"sm_{ARCHITECTURE}" in listed and library.stat().st_mtime > newest:
            return library
    return None


def disassembled(path: Path) -> Cubin:
    """A cubin file."""
    command = [tool("nvdisasm"), "-c", "-hex", "-gi", path]
    return Cubin(path.read_bytes(), subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Resources(NamedTuple):
    """What ptxas reports of a kernel; bytes but for registers."""

    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int


@dataclass
class Compiled:
    """A file of kernels for one architecture."""

    cubin: Path
    report: str

    def resources(self) -> dict[str, Resources]:
        """Of each kernel, by mangled name."""
        found = {}
        for part in self.report.split("Compiling entry function '")[1:]:
            name = part.partition("'")[0]
            own = part[part.index(f"Function properties for {name}") :]  # and not those of functions it calls
            stack, stores, loads = map(
                int,
                re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", own).groups(),
            )
            registers = int(re.search(r"Used (\d+) registers", own)[1])
            shared = re.search(r"(\d+) bytes smem", own.partition("Compiling entry function")[0])
            found[name] = Resources(registers, stack, stores, loads, int(shared[1]) if shared else 0)
        return found


def _flags() -> list[str]:
    """As setup.py and torch give them."""
    from torch.utils.cpp_extension import COMMON_NVCC_FLAGS, include_paths

    folders = [f"-I{folder}" for folder in include_paths(device_type="cuda")]
    own = ["-O3", "-fmad=false", "-lineinfo", "-DUSE_CUDA", "--expt-relaxed-constexpr", "-std=c++17"]
    return [*own, "-DTORCH_TARGET_VERSION=0x020b000000000000", *COMMON_NVCC_FLAGS, *folders]


def compiled(stem: str, architecture: int = ARCHITECTURE, root: Path = ROOT) -> Compiled:
    """What nvcc makes of a file, once for each content of what it includes."""
    content = repr([_flags(), architecture, *((path.name, path.read_text()) for path in sources(stem, root))])
    folder = BUILD / f"{stem}_{architecture}_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    cubin, report = folder / "cubin", folder / "report"
    BUILD.mkdir(parents=True, exist_ok=True)
    with FileLock(BUILD / f"{stem}_{architecture}.lock"):  # of several processes that begin at once, one compiles
        if not report.exists():
            folder.mkdir(parents=True, exist_ok=True)
            for old in BUILD.glob(f"{stem}_{architecture}_*"):
                if root == ROOT and old != folder:
                    shutil.rmtree(old)
            print(f"nvcc: {stem} for sm_{architecture}", file=sys.stderr, flush=True)
            command = [tool("nvcc"), f"-arch=sm_{architecture}", "-cubin", "-Xptxas", "-v", *_flags()]
            source = root / "csrc" / "cuda" / f"{stem}.cu"
            run = subprocess.run([*command, source, "-o", cubin], capture_output=True, text=True)
            if run.returncode != 0:
                raise RuntimeError(f"nvcc could not compile {source}:\n{run.stderr}")
            report.write_text(run.stderr + run.stdout)
    return Compiled(cubin, report.read_text())


def functions(wanted: Sequence[str] | None = None, nvcc: bool = False) -> Iterator[Function]:
    """The kernels of these files, all by default; `nvcc` asks for a build of their own."""
    library = None if nvcc else built_library()
    if library is None:
        with ThreadPoolExecutor(2) as pool:
            cubins = [disassembled(each.cubin) for each in pool.map(compiled, wanted or stems())]
    else:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [tool("cuobjdump"), "-xelf", f"sm_{ARCHITECTURE}", library],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            cubins = [disassembled(path) for path in sorted(Path(folder).glob("*.cubin"))]
    for cubin in cubins:
        _KEPT.append(cubin)  # the memory of its variables
        yield from map(cubin.function, cubin.names)


_KEPT: list[Cubin] = []
