"""The CUDA operators on this machine's GPU, checked and measured: ``python -m benchmarks.gpu --out FILE``.

Needs no more than torch and the extension in its place (``python setup.py build_ext --inplace``); OpenCV, if it is
there, gives more to compare with. First every operator is compared with the CPU's (bit for bit from the coarse map
on), then compute-sanitizer goes through a small set of the same cases, then everything is timed. Exit codes: 0 all
well, 1 a difference or a finding of the sanitizer, 2 no GPU or no CUDA kernels.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from fastcam import ops
from fastcam.bench import gpu
from tests.support import agreement

ROOT = Path(__file__).resolve().parents[1]
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")
SHOWN = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "ecc.mode.current")


class Report:
    """Lines that are printed at once, and kept in a file that is complete whenever the run ends."""

    def __init__(self, path: Path | None):
        self.path, self.lines, self.failed = path, [], False

    def add(self, *lines: str) -> None:
        """Print lines, and write what there is so far."""
        for line in lines:
            print(line, flush=True)
            self.lines.append(line)
        if self.path:
            self.path.write_text("\n".join([*self.lines, ""]), encoding="utf-8")


def readings() -> str:
    """Driver, clocks and power, as nvidia-smi reads them."""
    device = torch.cuda.get_device_properties()
    command = ["nvidia-smi", f"--query-gpu={','.join(SHOWN)}", "--format=csv,noheader", f"--id=GPU-{device.uuid}"]
    try:
        values = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split(", ")
        return ", ".join(f"{name} {value.strip()}" for name, value in zip(SHOWN, values, strict=True))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"driver and clocks are not readable ({type(error).__name__})"


def machine() -> Iterator[str]:
    """What figures must name."""
    device = torch.cuda.get_device_properties()
    yield f"- {device.name}, {device.total_memory / 2**30:.0f} GiB, compute capability {device.major}.{device.minor}"
    yield f"- {readings()}"
    yield f"- torch {torch.__version__} with CUDA {torch.version.cuda}, Python {sys.version.split()[0]}"
    yield f"- extension built with {ops.build_info()['cuda_reason']}"


def check(report: Report) -> None:
    """Compare with the CPU."""
    began, count, differing = time.perf_counter(), 0, []
    for case in agreement.cases():
        count += 1
        try:
            case.check(torch.device("cuda"))
        except (AssertionError, RuntimeError) as error:
            differing.append(f"- {case.name}: {str(error).splitlines()[0]}")
    report.failed |= bool(differing)
    verdict = f"{len(differing)} of {count} cases differ" if differing else f"all {count} cases agree"
    report.add(f"{verdict} ({time.perf_counter() - began:.0f} s).", *differing)


def sanitize(report: Report, seconds: int) -> None:
    """Run compute-sanitizer's tools on the small cases."""
    tool = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if tool is None:
        report.add("compute-sanitizer is not on this machine.")
        return
    # Without torch's cache every tensor is an allocation of its own, whose ends are known.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1", "PYTHONPATH": str(ROOT)}
    for name in SANITIZERS:
        command = [tool, "--tool", name, "--error-exitcode", "9"]
        if name in ("racecheck", "initcheck"):  # slow, and torch's own kernels are not what is tested
            command += ["--kernel-name", "kns=fastcam"]
        command += [sys.executable, "-m", "tests.support.agreement"]
        began = time.perf_counter()
        try:
            run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            report.add(f"- {name}: stopped after {seconds} s, no verdict")
            continue
        lines = (run.stdout + run.stderr).splitlines()
        summary = next((line for line in reversed(lines) if "SUMMARY" in line), lines[-1] if lines else "no output")
        good = run.returncode == 0 and "cases agree" in run.stdout
        report.failed |= not good
        report.add(f"- {name}: exit code {run.returncode}, {summary.strip('= ')} ({time.perf_counter() - began:.0f} s)")
        if not good:
            report.add("", "```", *lines[:60], "```", "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="write everything to this Markdown file, too")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds; rough figures")
    parser.add_argument("--no-checks", action="store_true", help="do not compare with the CPU")
    parser.add_argument("--no-sanitizer", action="store_true", help="do not run compute-sanitizer")
    parser.add_argument("--no-timing", action="store_true", help="do not measure")
    parser.add_argument("--sanitizer-seconds", type=int, default=300, help="stop a tool of it after so long [300]")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu: no GPU that torch can use", file=sys.stderr)
        return 2
    if not ops.build_info()["cuda_built"]:
        print(f"benchmarks.gpu: built without CUDA kernels ({ops.build_info()['cuda_reason']})", file=sys.stderr)
        return 2
    report = Report(options.out)
    report.add("# fastcam on a GPU", "", *machine())
    if not options.no_checks:
        report.add("", "## Compared with the CPU", "")
        check(report)
    if not options.no_sanitizer:
        report.add("", "## compute-sanitizer", "")
        sanitize(report, options.sanitizer_seconds)
    if not options.no_timing:
        report.add("", "## Speed", "")
        for line in gpu.table(gpu.works(full=not options.quick), options.quick):
            report.add(line)
        report.add("", f"Afterwards: {readings()}.")
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
