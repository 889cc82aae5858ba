"""Speed on the CPU as ratios measured in one run: what ``fastcam bench`` prints.

The contestants take turns, so that whatever else the machine does meets all of them, and medians are compared. Torch
and OpenCV have the same number of threads as fastcam. Inputs are random. fastcam always gets the whole batch; an
alternative that takes much longer is timed on a few images at a time, which go round.
"""

import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator
from itertools import cycle
from typing import TypeVar

import torch

from fastcam import ops
from fastcam.bench.operators import OPERATORS, Alternative, Work, has

if has("cv2"):
    import cv2

Name = TypeVar("Name", bound=Hashable)


def processor() -> str:
    """The processor's own name, and the instruction set in use."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {ops.build_info()['cpu_simd']}, {platform.system()}"


def versions() -> str:
    """The versions that a table of figures must name."""
    return f"torch {torch.__version__}, OpenCV {cv2.__version__ if has('cv2') else 'not installed'}"


def set_threads(threads: int) -> None:
    """Give torch, so fastcam too, and OpenCV the same number of threads."""
    torch.set_num_threads(threads)
    if has("cv2"):
        cv2.setNumThreads(threads)


def interleaved(
    contestants: dict[Name, Callable[[], object]],
    seconds: float = 2.0,
    rounds: int = 7,
    prepare: Callable[[Name], None] = lambda name: None,
) -> dict[Name, float]:
    """Time contestants that take turns: name → median seconds of a call.

    They go on for about `seconds` in all, and for `rounds` turns each at least; `prepare` is called with the name
    before each turn, outside the measured time.
    """
    times: dict[Name, list[float]] = {name: [] for name in contestants}
    for name, call in contestants.items():
        prepare(name)
        call()  # warm-up
    began = time.perf_counter()
    while min(map(len, times.values())) < rounds or time.perf_counter() - began < seconds:
        for name, call in contestants.items():
            prepare(name)
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


def table(threads: int | None = None, images: int = 64, seconds: float = 2.0, quick: bool = False) -> Iterator[str]:
    """Measure and print, line by line, in Markdown, the machine first.

    Rows show 1 thread and `threads` (None: as many as torch takes by itself), with `images` in a call, and take about
    `seconds` each; `quick` takes as few rounds as give a median. ValueError without a thread or an image.
    """
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    if threads < 1 or images < 1:
        raise ValueError(f"there must be a thread and an image, got {threads} and {images}")
    counts = [1] if threads == 1 else [1, threads]
    lanes = f"{' and '.join(map(str, counts))} thread{'s' if threads > 1 else ''}"
    yield f"{processor()}, {versions()}; {lanes}, {images} images a call"
    yield ""
    yield "Microseconds an image, medians of interleaved calls; freed memory stays with the process."
    yield ""
    header = ["work", "alternative"]
    for count in counts:
        header += [f"fastcam, {count} thread{'s' if count > 1 else ''}", "alternative", "ratio"]
    header += [f"{threads} threads against 1"] * (threads > 1)
    yield _row(header)
    yield _row(["---", "---"] + ["---:"] * (len(header) - 2))
    try:
        torch.manual_seed(0)
        for title, work, theirs in _headlines(images):
            some = work.share(theirs, 0.06 if quick else 0.25)
            medians = _measure(work, theirs, some, counts, 0 if quick else seconds, rounds=3 if quick else 7)
            cells = [title, theirs.name]
            for count in counts:
                mine, other = medians[count, "ours"] / images, medians[count, "theirs"] / some
                cells += [f"{1e6 * mine:.1f}", f"{1e6 * other:.0f}", f"{other / mine:.1f}"]
            if threads > 1:
                cells.append(f"{medians[1, 'ours'] / medians[threads, 'ours']:.2f}")
            yield _row(cells)
    finally:
        set_threads(before)
    if not has("cv2"):
        yield ""
        yield "OpenCV is not installed: rows that compare with it are left out."


def _headlines(images: int) -> Iterator[tuple[str, Work, Alternative]]:
    """Titles, works and alternatives of the rows.

    Works whose usual alternative is not there are left out; those that need OpenCV come last.
    """
    titles = [operator.headline for operator in OPERATORS if operator.headline is not None]
    rows = [(title, make(images)) for title, make in titles]
    for title, work in sorted(rows, key=lambda row: row[1].alternatives[0].library == "cv2"):
        if has(work.alternatives[0].library):
            for theirs in work.others():
                yield title, work, theirs


def _measure(
    work: Work, theirs: Alternative, some: int, counts: list[int], seconds: float, rounds: int
) -> dict[tuple[int, str], float]:
    """Median seconds of a call for (threads, whose); the alternative gets `some` images in a call."""
    inputs, ours = work.inputs(work.images, "cpu"), work.ours()
    parts = cycle([inputs] if some == work.images else [work.inputs(some, "cpu") for _ in range(work.images // some)])

    def prepare(name: tuple[int, str]) -> None:
        if torch.get_num_threads() != name[0]:
            set_threads(name[0])
            ours(*inputs)  # starts the threads

    contestants: dict[tuple[int, str], Callable[[], object]] = {}
    for count in counts:  # a thread count at a time
        contestants[count, "ours"] = lambda: ours(*inputs)
        contestants[count, "theirs"] = lambda: theirs.call(*next(parts))
    return interleaved(contestants, seconds, rounds, prepare)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
