"""The machine, built and filled with kernels, and operators that run on it."""

import hashlib
import importlib.util
import shutil
import subprocess
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
from filelock import FileLock
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fastcam import ops
from tests.machine_code.cubins import BUILD
from tests.machine_code.decoding import decode
from tests.machine_code.disassembly import Function, Line
from tests.support.emulation import COMPILER, EMULATION, Emulated, Emulator

HERE = Path(__file__).resolve().parent
MULTIPROCESSORS, SHARED = 132, 227 * 1024 - 2048  # of an H200; as launch.h sets memory aside
CUDA = torch.device("cuda")


def _compile(made_of: Iterable[Path], flags: Iterable[str], library: Path) -> None:
    """Make a folder with the library, in the place of an older one."""
    shutil.rmtree(library.parent, ignore_errors=True)
    library.parent.mkdir()
    objects = {path: library.parent / f"{path.stem}.o" for path in made_of}
    own = {"module": ["-O2", f"-DMODULE_NAME={library.name.partition('.')[0]}"]}
    jobs = [
        subprocess.Popen([COMPILER, *flags, *own.get(source.stem, ["-O3"]), "-c", source, "-o", to])
        for source, to in objects.items()
    ]
    if any([job.wait() for job in jobs]):
        raise RuntimeError("the machine did not compile")
    subprocess.run([COMPILER, "-shared", *objects.values(), "-o", library], check=True)


@cache
def machine(folder: Path = BUILD) -> ModuleType:
    """The machine itself, compiled once for each content of its sources."""
    flags = ["-std=c++20", "-march=native", "-fPIC", "-fvisibility=hidden", *Emulator(folder).flags[1:]]
    # What numbers come out of is not to be rearranged; several directions of rounding are in use.
    flags += ["-ffp-contract=off", "-frounding-math"]
    made_of = [HERE / f"{name}.cpp" for name in ("machine", "instructions", "module")]
    sources = [*sorted(HERE.glob("*.h")), *made_of, EMULATION / "elsewhere.h"]
    content = repr((COMPILER, flags, [source.read_text() for source in sources]))
    name = f"machine_{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    library = folder / "machine" / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}"
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "machine.lock"):  # of several processes that begin at once, one compiles
        if not library.exists():
            _compile(made_of, flags, library)
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Finding(NamedTuple):
    """What two accesses, or one, should not have done; lines of source innermost first."""

    what: str
    kernel: str
    earlier: list[Line]
    later: list[Line]
    addresses: tuple[int, int]
    count: int


class There(Tensor):
    """A tensor that is said to be on the machine."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        result = super().__torch_function__(function, types, arguments, keywords or {})
        if function is Tensor.cpu:
            return result.as_subclass(Tensor)
        return result


class _Moving(TorchFunctionMode):
    """Moves tensors to a device that is not there by naming them so."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        if function is Tensor.to and arguments[1:] == (CUDA,):
            return arguments[0].clone().as_subclass(There)
        return function(*arguments, **(keywords or {}))


class Simulator:
    """Kernels on the machine, launched by the operators' own host code."""

    def __init__(self, functions: Iterable[Function], folder: Path = BUILD):
        self.machine = machine(folder)
        self.functions = {function.name: function for function in functions}
        self.machine.begin(self._load)
        (folder / "emulated").mkdir(parents=True, exist_ok=True)
        host = Emulator(folder / "emulated").build(0)
        if host is None:
            raise RuntimeError("the operators did not compile")
        self.operators: Emulated = host
        self.set()

    def _load(self, name: str) -> bool:
        """Hand a kernel to the machine, when it is launched for the first time."""
        if name not in self.functions:
            return False
        function = self.functions[name]
        code = [decode(each, function) for each in function.code]
        self.machine.add(function.name, function.registers, function.shared, code, function.constants)
        return True

    def set(
        self,
        *,
        timed: bool = False,
        hazards: bool = False,
        strict: bool = True,
        seed: int = 0,
        resident: int = 0,
        most_blocks: int = 0,
        multiprocessors: int = MULTIPROCESSORS,
        shared: int = SHARED,
    ) -> None:
        """How it runs: `seed` shuffles the order of warps; `resident` blocks at once, 0: all that fit."""
        self.machine.set(timed, hazards, strict, seed, resident, most_blocks)
        self.operators.module.set_device(multiprocessors, shared, 0)

    @contextmanager
    def running(self) -> Iterator[None]:
        """All operators run on the machine."""
        self.operators.module.run_elsewhere(self.machine.launcher())
        try:
            with mock.patch.object(ops, "_ops", self.operators):
                yield
        finally:
            self.operators.module.run_elsewhere(0)

    @contextmanager
    def as_device(self) -> Iterator[None]:
        """Operators on tensors that were moved to "cuda" run on the machine, the others on the CPU."""
        native, simulated = ops._ops, self.operators

        class Dispatched:
            def __getattr__(self, name: str) -> Callable:
                def call(*arguments: object) -> object:
                    if not any(isinstance(each, There) for each in arguments):
                        return getattr(native, name)(*arguments)
                    with torch._C.DisableTorchFunctionSubclass():
                        result = getattr(simulated, name)(*arguments)
                    if isinstance(result, tuple):
                        return tuple(each.as_subclass(There) for each in result)
                    return result.as_subclass(There)

                return call

        self.operators.module.run_elsewhere(self.machine.launcher())
        try:
            with mock.patch.object(ops, "_ops", Dispatched()), _Moving():
                yield
        finally:
            self.operators.module.run_elsewhere(0)

    def results(self) -> list[dict[str, Any]]:
        """Counts of each launch since the last call."""
        return self.machine.results()

    def findings(self) -> list[Finding]:
        """What was found since the last call."""
        found = []
        for (what, kernel, *addresses), count in self.machine.findings().items():
            code = self.functions[kernel].code
            lines = [code[address // 16].lines for address in addresses]
            found.append(Finding(what, kernel, *lines, tuple(addresses), count))
        return found

    def profile(self, results: Iterable[dict[str, Any]], depth: int = 1) -> Counter[tuple[Line, ...]]:
        """Instructions that warps executed, by lines of source: the outermost `depth` of each chain of calls."""
        counts: Counter[tuple[Line, ...]] = Counter()
        for result in results:
            for instruction, count in zip(self.functions[result["kernel"]].code, result["executed"], strict=True):
                counts[tuple(reversed(instruction.lines[-depth:]))] += count
        return counts
