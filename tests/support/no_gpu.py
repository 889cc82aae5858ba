"""A GPU's stand-in: ``python -m tests.support.no_gpu -m MODULE ARGUMENTS...`` runs a module as if there were one.

For rehearsals of what needs a GPU (``bash benchmarks/gpu.sh --rehearse``). Torch says that there is one, and what is
asked of it happens on the CPU, by the CPU's operators: streams do not run beside each other, nothing is compiled, a
graph that is replayed does nothing, and figures mean nothing. So every line of a program runs, and none is proved. But
what is compared with the CPU is the CUDA operators' emulation, where the variable FASTCAM_EMULATION names the folder in
which ``python -m tests.support.emulation`` has compiled it.
"""

import os
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class OnCPU(TorchFunctionMode):
    """Where torch's functions are asked for a CUDA device they take the CPU."""

    def __torch_function__(
        self, function: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if function is torch.Tensor.cuda:
            return args[0]
        given = {name: _here(value) for name, value in (kwargs or {}).items() if name != "non_blocking"}
        return function(*map(_here, args), **given)


def _here(value: Any) -> Any:
    cuda = isinstance(value, torch.device) and value.type == "cuda"
    return torch.device("cpu") if cuda or (isinstance(value, str) and value.split(":")[0] == "cuda") else value


class Stream:
    """Does nothing, at once."""

    cuda_stream = 0

    def __init__(self, *given: Any, **options: Any):
        pass

    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Event:
    """The CPU's clock."""

    def __init__(self, **options: Any):
        self.at = 0.0

    def record(self, stream: Any = None) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: "Event") -> float:
        """Milliseconds, more than none."""
        return 1e3 * max(1e-7, later.at - self.at)


class CUDAGraph:
    """Nothing that could be replayed."""

    def replay(self) -> None:
        pass


@contextmanager
def graph(captured: CUDAGraph, **options: Any) -> Any:
    """What a graph is captured in is computed once."""
    yield captured


def install() -> None:
    """Let torch have a GPU in this process, in its main thread."""
    properties = SimpleNamespace(
        name="stand-in on the CPU", total_memory=2**30, major=9, minor=0, multi_processor_count=1, L2_cache_size=2**16
    )
    properties.uuid = "none"
    nothing = lambda *given, **options: None  # noqa: E731
    stands_in: dict[str, Any] = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_name": lambda *given: properties.name,
        "get_device_properties": lambda *given: properties,
        "mem_get_info": lambda *given: (2**30, 2**30),
        "current_stream": lambda *given: Stream(),
        "stream": lambda stream: nullcontext(stream),
        **dict.fromkeys(("synchronize", "empty_cache", "_sleep", "set_sync_debug_mode"), nothing),
        **{kind.__name__: kind for kind in (Stream, Event, CUDAGraph)},
        "graph": graph,
    }
    for name, value in stands_in.items():
        setattr(torch.cuda, name, value)
    torch.compile = lambda model, **options: model  # type: ignore[assignment]
    OnCPU().__enter__()
    from fastcam.pictures import gpu

    gpu.check = nothing  # type: ignore[assignment]
    if folder := os.environ.get("FASTCAM_EMULATION"):
        from tests.support import agreement, emulation

        emulator = emulation.Emulator(Path(folder))
        agreement.Trial.actual = lambda trial: emulator.actual(trial)  # type: ignore[method-assign]


def main() -> None:
    if sys.argv[1:2] != ["-m"] or len(sys.argv) < 3:
        sys.exit("usage: python -m tests.support.no_gpu -m MODULE ARGUMENTS...")
    sys.argv = sys.argv[2:]
    warnings.filterwarnings("ignore", ".*CUDA is not available")
    install()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
