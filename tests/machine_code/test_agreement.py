"""Every kernel's machine code against the CPU: the same bits, and no access that it should not make."""

import re

import pytest

from tests.machine_code.cubins import ROOT
from tests.machine_code.disassembly import Line
from tests.machine_code.simulator import CUDA, Finding, Simulator
from tests.support.agreement import Case, cases

pytestmark = pytest.mark.kernels  # the CPU's bits


def lines_with(file: str, pattern: str) -> set[Line]:
    """The lines of a source that a pattern is found in."""
    text = (ROOT / "csrc" / "cuda" / file).read_text().splitlines()
    return {Line(file, number) for number, line in enumerate(text, 1) if re.search(pattern, line)}


def relaxed() -> set[Line]:
    """The lines that several threads may be at without an order: bodies of load_relaxed and store_relaxed."""
    return lines_with("block.cuh", r"volatile T\*>\(p\)")


def ahead() -> set[Line]:
    """The lines whose loads compilers move before the condition under which their value is used."""
    return lines_with("boxes_runs.cuh", r"box\[[01]\] = best \?") | lines_with(
        "curves_nodes.cuh", r"t\.branch\[.*branch\["
    )


def intended(finding: Finding) -> bool:
    """Atomics among themselves, and what the sources say may happen at the same time, or is read and not used."""
    if finding.what == "uninitialised":
        return bool(ahead() & {*finding.earlier, *finding.later})
    return "(atomic)" in finding.what or any(relaxed() & set(lines) for lines in (finding.earlier, finding.later))


def run(simulator: Simulator, case: Case, **settings: object) -> None:
    simulator.set(hazards=True, multiprocessors=8, **settings)
    simulator.findings()
    with simulator.as_device():
        case.check(CUDA)
    assert simulator.results(), "nothing ran"
    assert [finding for finding in simulator.findings() if not intended(finding)] == []


def parameters(small: bool) -> list[pytest.param]:
    return [pytest.param(case, id=case.name) for case in cases(small)]


@pytest.mark.long
@pytest.mark.parametrize("case", parameters(small=True))
def test_small_cases(simulator, case):
    if case.name == "large":
        pytest.skip("one map of 1300 x 2100 pixels is left to -m whole")
    run(simulator, case, seed=1 + sum(map(ord, case.name)))


@pytest.mark.whole
@pytest.mark.parametrize("case", parameters(small=False))
def test_all_cases(simulator, case):
    run(simulator, case)


def test_what_is_intended_is_found():
    assert len(relaxed()) == 2
    assert len(ahead()) == 4
