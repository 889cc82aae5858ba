"""How kernels are launched (csrc/cuda/launch.h), on a runtime that only keeps the rules (tests/emulation/runtime)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "tests" / "emulation" / "runtime"
COMPILER = os.environ.get("CXX", "c++")

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(COMPILER) is None or not (ROOT / "csrc").is_dir(),
    reason="needs Linux, a C++ compiler and the checkout",
)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Path:
    program = tmp_path_factory.mktemp("launches") / "launches"
    flags = ["-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", "-DUSE_CUDA", "-pthread"]
    flags += ["-DTORCH_TARGET_VERSION=0x020b000000000000", f"-I{RUNTIME}", "-isystem", f"{torch.__path__[0]}/include"]
    run = subprocess.run([COMPILER, *flags, RUNTIME / "launches.cpp", "-o", program], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return program


@pytest.mark.parametrize("rule", ["threads", "graphs", "devices", "failures"])
def test_launches(program, rule):
    run = subprocess.run([program, rule], capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr


def test_the_runtime_is_called_nowhere_else():
    """So that no call goes unchecked, and each that fails clears the thread's last error."""
    for source in (ROOT / "csrc").rglob("*"):
        if source.is_file() and source.name != "launch.h":
            assert not re.search(r"\bcuda[A-Z]\w*\(|<<<", source.read_text(encoding="utf-8")), source.name
