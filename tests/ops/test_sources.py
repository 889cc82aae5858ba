"""The C++ sources as an editor and a linker see them."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
EMULATION = ROOT / "tests" / "emulation"
COMPILER = os.environ.get("CXX", "c++")
BUILDS = ["portable", "avx2", "avx512"] if platform.machine() == "x86_64" else ["portable"]

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which(COMPILER) is None or not CSRC.is_dir(),
    reason="needs Linux, a C++ compiler and the checkout",
)


def compile(*arguments: object) -> None:
    run = subprocess.run([COMPILER, *map(str, arguments)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", sorted(CSRC.rglob("*.inl")), ids=lambda path: path.name)
def test_a_cpu_kernel_includes_what_it_needs(path):
    compile("-fsyntax-only", "-x", "c++", path)


@pytest.mark.parametrize("path", sorted(CSRC.rglob("*.cuh")), ids=lambda path: path.name)
def test_a_cuda_kernel_includes_what_it_needs(path):
    compile("-fsyntax-only", "-x", "c++", "-std=c++20", "-include", EMULATION / "emulation.h", path)


@pytest.mark.parametrize("build", BUILDS)
def test_a_build_for_a_processor_offers_its_kernels_and_nothing_else(build, tmp_path):
    """Of an inline function that several builds emit the linker takes any, which may be one for a newer processor."""
    compile("-c", CSRC / "cpu" / f"{build}.cpp", "-o", tmp_path / "build.o")  # not optimised: all that is used is there
    listed = subprocess.run(["nm", "-C", "--defined-only", tmp_path / "build.o"], capture_output=True, text=True)
    symbols = [line.split(maxsplit=2)[1:] for line in listed.stdout.splitlines()]
    assert [name for kind, name in symbols if not kind.islower() or kind in "uvw"] == [f"fastcam::{build}::kernels"]
