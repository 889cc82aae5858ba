"""Lines of the kernels' source and the functions that they are in."""

import re

import pytest

from benchmarks.source import CSRC, function_at

FILES = sorted((CSRC / "cuda").glob("*.cuh"))
pytestmark = pytest.mark.skipif(not FILES, reason="needs the checkout")


def test_kernels():
    found = 0
    for path in FILES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines, 1):
            if name := re.match(r" +(?:__global__.*\) )?(\w+_kernel)\(", line):
                assert function_at(path.name, number) == name[1]
                end = next(i for i, text in enumerate(lines[number:], number + 1) if text == "}")
                assert function_at(path.name, end) == name[1]
                assert function_at(path.name, end + 1) != name[1]
                found += 1
    assert found > 10


@pytest.mark.parametrize(
    ("file", "line", "name"),
    [
        ("surface.cuh", r"columns_ = taps", "load"),
        ("boxes_runs.cuh", r"edges &= edges - 1", "find_runs"),
        ("block.cuh", r"return b > a \? b : a;", "operator()"),
        ("exact.h", r"const T shifted", "linear"),
        ("boxes.cuh", r"constexpr int kMostRooms", "boxes.cuh"),
    ],
)
def test_lines(file: str, line: str, name: str):
    (path,) = CSRC.rglob(file)
    number = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if re.search(line, text))
    assert function_at(file, number) == name


def test_files_of_others():
    assert function_at("device_atomic_functions.hpp", 7) == "device_atomic_functions.hpp"
