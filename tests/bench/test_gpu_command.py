"""``benchmarks/gpu.sh`` without a GPU, and how what compute-sanitizer says is judged."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from benchmarks import gpu, sanitizers
from fastcam import ops
from fastcam.bench import operators

ROOT = Path(__file__).resolve().parents[2]
KERNEL = "void fastcam::boxes_kernel<(int)256, (bool)0>(const float *, fastcam::Relative)"


def line(file: str, text: str) -> int:
    lines = (ROOT / "csrc" / "cuda" / file).read_text(encoding="utf-8").splitlines()
    return next(number for number, found in enumerate(lines, start=1) if text in found)


LOAD, STORE = line("block.cuh", "static_cast<const volatile T*>"), line("block.cuh", "static_cast<volatile T*>")
PLAIN, ATOMIC = line("block.cuh", "partial[warp()] = v;"), line("boxes_runs.cuh", "atomicMax(")


def race(*places: tuple[str, int]) -> str:
    (file, number), *others = places
    rows = [f"========= Error: Race reported between Write access at {KERNEL}+0x90 in /x/csrc/cuda/{file}:{number}"]
    rows += [f"=========     and Read access at {KERNEL}+0xa0 in {file}:{at} [64 hazards]" for file, at in others]
    return "\n".join([*rows, "========= "])


@pytest.mark.parametrize(
    ("places", "good"),
    [
        ([("block.cuh", STORE), ("block.cuh", LOAD)], True),
        ([("block.cuh", LOAD), ("boxes_runs.cuh", ATOMIC), ("block.cuh", STORE)], True),
        ([("block.cuh", LOAD), ("sm_32_atomic_functions.hpp", 77)], True),
        ([("block.cuh", PLAIN), ("block.cuh", LOAD)], False),
        ([("block.cuh", STORE), ("block.cuh", LOAD), ("block.cuh", PLAIN)], False),
        ([("block.cuh", PLAIN), ("block.cuh", PLAIN)], False),
        ([("boxes.cuh", STORE), ("block.cuh", LOAD)], False),
        ([("block.cuh", STORE)], False),
    ],
)
def test_only_races_between_relaxed_accesses_pass(places, good):
    text = f"========= COMPUTE-SANITIZER\n{race(*places)}\n7 cases agree\n"
    summary = "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"
    verdict = sanitizers.judge("racecheck", text + summary)
    assert (verdict.good, verdict.intended) == (good, int(good))
    assert not sanitizers.judge("memcheck", text).good


def test_a_race_without_lines_is_a_finding():
    text = f"========= Error: Race reported between Write access at {KERNEL}+0x90\n"
    text += f"=========     and Read access at {KERNEL}+0xa0 [4 hazards]\n7 cases agree"
    assert not sanitizers.judge("racecheck", text).good


@pytest.mark.parametrize("kernel", ["void at::native::sort<float>(float *)", KERNEL])
def test_what_torch_reads_uninitialized_is_not_fastcams(kernel):
    text = "\n".join(
        [
            "========= COMPUTE-SANITIZER",
            "========= Uninitialized __global__ memory read of size 4 bytes",
            f"=========     at {kernel}+0x70",
            "=========     by thread (31,0,0) in block (1,0,0)",
            "=========     Address 0x7f3c7ec000fc",
            "========= ",
            "7 cases agree",
            "========= ERROR SUMMARY: 1 error",
        ]
    )
    verdict = sanitizers.judge("initcheck", text)
    assert verdict.good == ("fastcam" not in kernel)
    assert sum(verdict.findings.values()) + verdict.intended == 1
    for tool in ("memcheck", "synccheck", "racecheck"):
        assert not sanitizers.judge(tool, text).good


def test_all_that_the_other_tools_report_are_findings():
    kinds = {
        "memcheck": "Invalid __global__ write of size 4 bytes",
        "synccheck": "Barrier error detected. Divergent thread(s) in block",
        "initcheck": 'Program hit cudaErrorInvalidValue (error 1) due to "invalid argument" on CUDA API call',
    }
    for tool, kind in kinds.items():
        report = f"========= {kind}\n=========     at {KERNEL}+0x70 in boxes.cuh:12\n========= \n"
        verdict = sanitizers.judge(tool, f"========= COMPUTE-SANITIZER\n{2 * report}7 cases agree\n")
        assert sum(verdict.findings.values()) == 2
        assert len(verdict.findings) == 1  # of the same kind
        assert not verdict.good


def test_a_tool_that_did_not_come_to_its_end_is_not_good(tmp_path, capsys):
    for tool in sanitizers.TOOLS[1:]:
        end = "7 cases agree" if tool != "synccheck" else "boxes-9x9"
        text = f"========= COMPUTE-SANITIZER\nboxes-7x7\n{end}\n========= ERROR SUMMARY: 0 errors"
        (tmp_path / f"{tool}.log").write_text(text)
    assert sanitizers.main(str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "- racecheck: 0 findings, 0 reports of what is meant; to the end" in said
    assert re.search(r"- synccheck: .*not to the end, where the program last said: boxes-9x9", said)
    assert re.search(r"- memcheck: .*not to the end", said)
    for tool in sanitizers.TOOLS:
        (tmp_path / f"{tool}.log").write_text("7 cases agree")
    assert sanitizers.main(str(tmp_path)) == 0


def test_cvcuda_gets_masks_as_its_label_takes_them(monkeypatch):
    """With a stand-in for the library, whose signature this is."""
    module = ModuleType("cvcuda")
    module.as_tensor = lambda tensor, layout: (tensor.shape, tensor.dtype, layout)
    module.as_stream = lambda number: number
    module.label = lambda src, *, count, stats, max_labels, bg_label, stream: (src, bg_label, stream)
    monkeypatch.setitem(sys.modules, "cvcuda", module)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=7))
    found = gpu.cvcuda_components(torch.ones(3, 4, 5, dtype=torch.bool))
    assert found == ((torch.Size([3, 4, 5, 1]), torch.uint8, "NHWC"), (torch.Size([3]), torch.uint8, "N"), 7)
    monkeypatch.setattr(operators, "has", lambda library: library == "cvcuda")
    assert [work.call for work in gpu.peers()] == [ops.components, gpu.cvcuda_components]


@pytest.mark.long
def test_a_rehearsal_runs_every_step(tmp_path):
    """Which says nothing of a GPU, but that no step stumbles before it gets there."""
    environment = {**os.environ, "OUT": str(tmp_path), "GPU_SECONDS": "840"}
    command = ["bash", "benchmarks/gpu.sh", "--rehearse"]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=870)
    steps = dict(re.findall(r"^\[\d+ s\] (\w+): exit code (\d+)", (tmp_path / "log.txt").read_text(), re.MULTILINE))
    names = (
        "machine emulation library quick memcheck racecheck synccheck initcheck tests others findings ncu runs figures"
    )
    assert steps == dict.fromkeys(names.split(), "0"), run.stdout
    assert len(list(tmp_path.iterdir())) == 8
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    assert text.startswith("# A rehearsal")
    assert "failed" not in text
    for name in ("quick", "figures", "runs"):
        assert all("error" not in row for row in json.loads((tmp_path / f"{name}.json").read_text())["rows"])
