"""Predictions of the CUDA operators' speed on an H200, without one: ``python -m benchmarks.predict``.

The kernels' sm_90 machine code runs on a model of one multiprocessor (``tests/machine_code``), which has its share of
the memory's bandwidth and as many pictures as it would get of a full batch. Counts of instructions and sectors are
exact; times are a model's, and no measurement: it has no instruction cache, no register banks and no queues of the
memory beyond the first. Needs nvdisasm (Triton's wheel has it), and nvcc where
the extension is older than its sources.

``--check`` compares with the committed table instead, and fails where a hot kernel has more accesses to local memory
(spills) or executes 10 % more instructions. ``--profile 2`` shows which lines of source the instructions belong to:
chains of inlined calls from the kernel inwards, of that depth.
"""

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.source import function_at
from fastcam import ops
from fastcam.bench.operators import OPERATORS, Work
from tests.machine_code import cubins
from tests.machine_code.decoding import PIPE_NAMES
from tests.machine_code.disassembly import Function
from tests.machine_code.simulator import MULTIPROCESSORS, Simulator

RESULTS = Path(__file__).resolve().parent / "results"
CLOCK, BANDWIDTH = 1.98e9, 4.3e12
ARCHITECTURES = (80, 90, 120)
# What a picture should take, in microseconds: works by their titles.
TARGETS = {
    "activations 512×7×7 → box in 224²": 0.040,
    "activations 512×7×7, float16 → box in 224²": 0.040,
    "activations 512×7×7, bfloat16 → box in 224²": 0.040,
    "activations 2048×7×7 → box in 224²": 0.105,
    "activations 512×7×7 → box and float32 map of 224²": 0.085,
    "activations 512×7×7 → box and uint8 map of 224²": 0.060,
    "boxes bilinear 7² → 224²": 0.038,
    "gradient_map gradcam 512×7×7": 0.055,
    "box_curves 224², 14² noise, bicubic": 1.5,
    "score_histograms 224², 14² noise, bicubic": 0.070,
    "components 224², 10–90 % set": 0.35,
}
ISSUED = 4  # instructions a cycle at most: one for each of a multiprocessor's schedulers
# Functions that stand between a kernel and its parts.
THROUGH = {"search_map", "write_curve"}
# What `--check` looks at: works by their titles, kernels by their names.
HOT_WORKS = r"class_map 512×7×7$|activations 512×7×7 → box in 224²$|boxes bilinear 7² → 224²$|box_curves"
HOT_KERNELS = r"class_boxes.*0Ef|boxes_kernelILi\d+ELb0E|sums_kernel.*E0Ef|curves_kernel"
MORE = 1.1


class Prediction(NamedTuple):
    """A row: of one picture in a full batch."""

    work: str
    microseconds: float
    floor: float  # its inputs and results moved once, in microseconds
    target: float | None
    instructions: int  # that warps execute
    parts: dict[str, int]  # of them, by functions of the source
    busiest: tuple[str, float]  # the pipe that has most to do, and how many microseconds that takes at least
    sectors: int  # of 32 bytes, read and written
    conflicts: int  # cycles that accesses to shared memory take for the same bank
    per_cycle: float  # instructions a cycle
    resident: list[int]  # blocks at once, for each launch
    shared: list[int]  # bytes a block


def works() -> Iterator[Work]:
    """Those of the GPU's table that fill it, and some that only the audit looks at."""
    titles = set()
    for operator in OPERATORS:
        for work in operator.gpu:
            if work.images >= MULTIPROCESSORS and work.title not in titles:  # the largest batch of each comes first
                titles.add(work.title)
                yield work

    def coarse(count: int, device: str) -> tuple[Tensor]:
        return (torch.randn(count, 14, 14, device=device),)

    def white(count: int, device: str) -> tuple[Tensor]:
        return (torch.rand(count, 224, 224, device=device),)

    yield Work("boxes bilinear 14² → 224², contour", 1024, ops.boxes, coarse, {"size": 224, "largest": "contour"})
    yield Work("box_curves 224², white noise", MULTIPROCESSORS, ops.box_curves, white)


def size_of(tensors: object) -> int:
    """Bytes of a tensor, or of several."""
    if isinstance(tensors, Tensor):
        return tensors.numel() * tensors.element_size()
    return sum(map(size_of, tensors)) if isinstance(tensors, tuple | list) else 0


def predict(simulator: Simulator, work: Work) -> tuple[Prediction, list[dict[str, Any]]]:
    """A row, and the counts of its launches."""
    torch.manual_seed(0)
    images = -(-work.images // MULTIPROCESSORS)
    inputs = work.inputs(images, "cpu")
    simulator.set(timed=True, multiprocessors=1)
    simulator.results()
    with simulator.running():
        found = partial(work.call, **work.options)(*inputs)
    launches = simulator.results()

    def a_picture(name: str) -> float:
        return sum(launch[name] for launch in launches) / images

    cycles, instructions = a_picture("cycles"), a_picture("warp_instructions")
    row = Prediction(
        work.title,
        round(cycles / CLOCK * 1e6 / MULTIPROCESSORS, 4),
        round((size_of(inputs) + size_of(found)) / images / BANDWIDTH * 1e6, 4),
        TARGETS.get(work.title),
        round(instructions),
        {part: round(count / images) for part, count in parts_of(simulator, launches).most_common()},
        busiest_pipe(launches, images),
        round(a_picture("sectors_read") + a_picture("sectors_written")),
        round(a_picture("bank_conflicts")),
        round(instructions / cycles, 2),
        [launch["resident"] for launch in launches],
        [launch["shared"] for launch in launches],
    )
    return row, launches


def parts_of(simulator: Simulator, launches: list[dict[str, Any]]) -> Counter[str]:
    """Instructions by the functions that kernels call, and by kernels for their own lines."""
    counts: Counter[str] = Counter()
    for lines, count in simulator.profile(launches, depth=0).items():
        names = [function_at(line.file, line.number) for line in lines]
        names = [name for name in names if name not in THROUGH and "." not in name]  # and in no file of others
        part = next((name for name in names if not name.endswith("_kernel")), names[0] if names else "?")
        counts[part] += count
    return counts


def busiest_pipe(launches: list[dict[str, Any]], images: int) -> tuple[str, float]:
    """The pipe that has most to do, and how long that takes at least, in microseconds a picture."""
    cycles = [sum(each) / images for each in zip(*(launch["busy"] for launch in launches), strict=True)]
    name, most = max(zip(PIPE_NAMES, cycles, strict=True), key=lambda pipe: pipe[1])
    return name, round(most / CLOCK * 1e6 / MULTIPROCESSORS, 4)


def readable(kernel: str) -> str:
    """A mangled name, shortened: ``boxes<256, 0>``."""
    name, _, rest = re.sub(r"^_ZN7fastcam\d+", "", kernel).partition("_kernel")
    words = {"f": "float", "d": "double", "h": "uint8", "6__half": "half", "13__nv_bfloat16": "bfloat16"}
    arguments = rest[1 : rest.find("EEv") + 1] if rest.startswith("I") else ""
    parts = re.findall(
        r"L[ib](\d+)E|NS_\d+(\w+?)E(?:(\d+)E)?|LNS_\d+(\w+?)E(\d+)E|(6__half|13__nv_bfloat16|[fdh])", arguments
    )
    shown = [number or words.get(word) or " ".join(filter(None, (a, b, c, d))) for number, a, b, c, d, word in parts]
    return f"{name}<{', '.join(shown)}>" if shown else name


def local_accesses(function: Function) -> int:
    """Bytes that a kernel's instructions move to and from local memory, each counted once: mostly spills."""
    moving = [each for each in function.code if each.name in ("LDL", "STL")]
    return sum(16 if "128" in each.modifiers else 8 if "64" in each.modifiers else 4 for each in moving)


def resources() -> list[dict[str, Any]]:
    """What ptxas reports of each kernel on each architecture."""
    rows: dict[str, dict[str, Any]] = {}
    wanted = list(product(cubins.stems(), ARCHITECTURES))
    with ThreadPoolExecutor(2) as pool:
        compiled = list(pool.map(lambda each: cubins.compiled(*each), wanted))
    for (stem, architecture), build in zip(wanted, compiled, strict=True):
        for kernel, found in build.resources().items():
            row = rows.setdefault(kernel, {"kernel": readable(kernel), "symbol": kernel, "file": f"{stem}.cu"})
            row[f"sm_{architecture}"] = found._asdict()
    return sorted(rows.values(), key=lambda row: (row["file"], row["kernel"]))


def markdown(rows: list[Prediction], kernels: list[dict[str, Any]]) -> str:
    """All tables."""
    lines = [
        "# Predictions for an H200",
        "",
        "Made by `python -m benchmarks.predict`: the kernels' machine code on a model of one multiprocessor.",
        "**These are no measurements**: instructions and sectors are exact, times are a model's at 1.98 GHz and",
        "4.3 TB/s, for a picture of a batch that fills 132 multiprocessors. The floor is the time in which inputs and",
        "results move once.",
        "",
        "| work | µs | floor | target | instructions | sectors | bank conflicts | a cycle | resident blocks |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        numbers = f"{row.instructions:,} | {row.sectors:,} | {row.conflicts:,} | {row.per_cycle:.2f}"
        target = "" if row.target is None else f"{row.target:.3f}"
        blocks = ", ".join(map(str, dict.fromkeys(row.resident)))
        lines.append(f"| {row.work} | {row.microseconds:.4f} | {row.floor:.4f} | {target} | {numbers} | {blocks} |")
    lines += [
        "",
        "## Where the time of the hot operators goes",
        "",
        "Three things bound a prediction from below, in µs: memory (the floor), the issue of instructions, of which",
        f"a multiprocessor begins {ISSUED} a cycle at most, and the pipe that has most to do (the ALU, which integers,",
        "comparisons and selections go through, begins one in two cycles of each scheduler). The rest is waiting: a",
        "block waits for memory and then computes, its warps wait for each other and for results. With the few",
        "pictures that a multiprocessor gets of a batch, blocks wait for memory together and compute together, so that",
        "the floor adds up with the computation. Instructions are in thousands a picture, and by the functions that",
        "kernels call, with all that these call; a kernel's own lines stand under its name. A missed target is bold.",
        "",
        "| work | target | µs | floor | issue | busiest pipe | instructions | by function |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if row.target is None:
            continue
        issue = row.instructions / ISSUED / CLOCK * 1e6 / MULTIPROCESSORS
        missed = row.microseconds > row.target
        figures = f"{row.target:.3f} | {'**' * missed}{row.microseconds:.4f}{'**' * missed} | {row.floor:.4f}"
        parts = [f"`{part}` {count / 1e3:.1f}" for part, count in row.parts.items() if 50 * count >= row.instructions]
        bounds = f"{issue:.4f} | {row.busiest[0]} {row.busiest[1]:.4f}"
        lines.append(f"| {row.work} | {figures} | {bounds} | {row.instructions / 1e3:.1f} | {', '.join(parts)} |")
    lines += [
        "",
        "## Registers and memory of each kernel",
        "",
        "As ptxas reports them for sm_80, sm_90 and sm_120. Spills are bytes stored and loaded, in the code and not",
        "at run time; shared memory is what is declared statically; all but registers in bytes.",
        "",
        "| kernel | registers | stack | spills | shared |",
        "|---|---|---|---|---|",
    ]
    for row in kernels:
        found = [row.get(f"sm_{architecture}") for architecture in ARCHITECTURES]

        def three(show: str, found: list[Any] = found) -> str:
            return ", ".join("–" if each is None else show.format(**each) for each in found)

        spills = three("{spill_stores}/{spill_loads}")
        lines.append(
            f"| `{row['kernel']}` | {three('{registers}')} | {three('{stack}')} | {spills} | {three('{shared}')} |"
        )
    return "\n".join(lines) + "\n"


def show_profile(simulator: Simulator, launches: list[dict[str, Any]], depth: int, images: int, most: int = 25) -> None:
    """Where instructions go."""
    counts = simulator.profile(launches, depth)
    for lines, count in counts.most_common(most):
        place = " › ".join(f"{line.file}:{line.number}" for line in lines) or "?"
        print(f"    {count / images:10.0f}  {100 * count / counts.total():5.1f} %  {place}")


def check(simulator: Simulator, committed: dict[str, Any]) -> list[str]:
    """What has become worse than the committed table says."""
    spilled = {readable(name): local_accesses(function) for name, function in simulator.functions.items()}
    worse = [
        f"{kernel}: {spilled[kernel]} bytes to and from local memory in its code, {before} before"
        for kernel, before in committed["local_accesses"].items()
        if spilled.get(kernel, 0) > before
    ]
    before_by_work = {row["work"]: row["instructions"] for row in committed["works"]}
    for work in works():
        if not re.search(HOT_WORKS, work.title) or work.title not in before_by_work:
            continue
        row, _ = predict(simulator, work)
        before = before_by_work[work.title]
        print(f"{work.title}: {row.instructions} instructions, {before} before", flush=True)
        if row.instructions > MORE * before:
            worse.append(f"{work.title}: {row.instructions} instructions a picture, {before} before")
    return worse


def main() -> int:
    """Predict, or check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", default="", help="works whose title has this regular expression; prints, writes nothing"
    )
    parser.add_argument("--stems", nargs="*", help="kernels of these files of csrc/cuda only, e.g. boxes sums")
    parser.add_argument(
        "--profile", type=int, metavar="DEPTH", help="show the lines of source that instructions belong to"
    )
    parser.add_argument(
        "--check", action="store_true", help="fail where hot kernels are worse than the committed table"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for predictions.md and predictions.json")
    arguments = parser.parse_args()
    if reason := cubins.missing():
        print(reason, file=sys.stderr)
        return 1
    if arguments.check and not (arguments.out / "predictions.json").exists():
        print(f"no predictions.json in {arguments.out} to compare with: python -m benchmarks.predict writes it")
        return 0
    simulator = Simulator(cubins.functions(arguments.stems))
    if arguments.check:
        worse = check(simulator, json.loads((arguments.out / "predictions.json").read_text()))
        print(*(worse or ["no hot kernel is worse than predictions.json says"]), sep="\n")
        return 1 if worse else 0
    rows = []
    for work in works():
        if not re.search(arguments.only, work.title):
            continue
        try:
            row, launches = predict(simulator, work)
        except RuntimeError as error:
            if arguments.stems is None:
                raise
            print(f"{work.title}: {error}", file=sys.stderr)
            continue
        rows.append(row)
        print(
            f"{row.work:60s} {row.microseconds:9.4f} µs  floor {row.floor:.4f}  {row.instructions:9d} instructions  "
            f"{row.sectors:7d} sectors  {row.per_cycle:.2f} a cycle  resident {row.resident}  shared {row.shared}",
            flush=True,
        )
        if arguments.profile:
            show_profile(simulator, launches, arguments.profile, -(-work.images // MULTIPROCESSORS))
    if arguments.only or arguments.stems is not None:
        return 0
    kernels = resources()
    hot = {readable(f.name): local_accesses(f) for f in simulator.functions.values() if re.search(HOT_KERNELS, f.name)}
    content = {"works": [row._asdict() for row in rows], "kernels": kernels, "local_accesses": hot}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "predictions.json").write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    (arguments.out / "predictions.md").write_text(markdown(rows, kernels))
    print(f"{arguments.out / 'predictions.md'} and .json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
