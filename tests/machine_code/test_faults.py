"""Faults that are put into the machine code on purpose, one at a time: each is seen, and by which check is said."""

import copy
import re
from collections.abc import Callable, Iterator

import pytest
import torch

from fastcam import ops
from tests.machine_code.disassembly import Function, Instruction
from tests.machine_code.simulator import CUDA, Simulator
from tests.machine_code.test_agreement import intended
from tests.support.agreement import same

pytestmark = [pytest.mark.long, pytest.mark.kernels]


def altered(function: Function, pattern: str, replacement: str) -> Iterator[Function]:
    """The kernel with one instruction changed: the first that fits, the second, and so on."""
    for place, each in enumerate(function.code):
        text, count = re.subn(pattern, replacement, each.text)
        if count:
            changed = copy.copy(function)
            changed.code = list(function.code)
            changed.code[place] = Instruction(each.address, text, each.encoding, each.labels, each.lines)
            yield changed


def seen(simulator: Simulator, call: Callable, *inputs: torch.Tensor) -> str | None:
    """By which check the call fails, if it does."""
    simulator.set(hazards=True, seed=3, multiprocessors=1)
    simulator.findings()
    expected = call(*inputs)
    try:
        with simulator.as_device():
            actual = call(*(tensor.to(CUDA) for tensor in inputs))
        for pair in zip(*(each if isinstance(each, tuple) else (each,) for each in (actual, expected)), strict=True):
            same(*pair)
    except RuntimeError as error:
        return str(error)
    except AssertionError:
        return "other bits"
    finally:
        simulator.results()
        found = [finding.what for finding in simulator.findings() if not intended(finding)]
    return found[0] if found else None


def heatmap(maps: torch.Tensor) -> torch.Tensor:
    return ops.heatmap(maps, (40, 65))


def components(masks: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return ops.components(masks)


_HEATMAP = "heatmap_kernelILi256ELb0Eff"
# Kernel, instruction, what it becomes, the operator, and what is to be said.
FAULTS = {
    "removed barrier": (_HEATMAP, r"BAR\.SYNC\S* 0x0", "NOP", heatmap, "read after write|write after"),
    "off-by-one bound": (_HEATMAP, r"ISETP\.GE(\S*)", r"ISETP.GT\1", heatmap, "out of bounds"),
    "wrong lane mask": ("label_blocks", r"WARPSYNC\.ALL", "WARPSYNC 0xffff", components, "leaves it out"),
    "misaligned load": (_HEATMAP, r"(LDS(?:\.64|\.128)? \S+ \[\w+)\]", r"\1+0x2]", heatmap, "misaligned"),
    "swapped shuffle": ("write_components", r"SHFL\.UP (.*), RZ$", r"SHFL.DOWN \1, 0x1f", components, "other bits"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_seen(simulator, fault):
    kernel, pattern, replacement, call, expected = FAULTS[fault]
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(2, 7, 7, generator=generator)
    inputs = maps if call is heatmap else torch.rand(2, 33, 65, generator=generator) < 0.5
    assert seen(simulator, call, inputs) is None, "there is a fault already"
    (name,) = [name for name in simulator.functions if re.search(kernel, name)][:1]
    function, reports = simulator.functions[name], []
    try:
        for simulator.functions[name] in altered(function, pattern, replacement):
            simulator.machine.begin(simulator._load)
            reports.append(seen(simulator, call, inputs))
            if reports[-1] and re.search(expected, reports[-1]):
                return
    finally:
        simulator.functions[name] = function
        simulator.machine.begin(simulator._load)
    pytest.fail(f"not seen by the check it should be: {reports}")
