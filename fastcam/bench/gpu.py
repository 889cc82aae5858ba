"""Speed of the CUDA operators, by CUDA events: the table of ``benchmarks/gpu.sh`` and ``fastcam bench``.

Each work is measured as a series of calls and as a CUDA graph of the same calls, which leaves out what the host needs
for a launch. Inputs go round among copies that are together larger than the level-2 cache, so that they come from
memory as they do in a network. Beside it stand a device-to-device copy that moves as many bytes as the operator has
to read and write, the floor of whatever is bound by memory, and what one would write in PyTorch on the same GPU, with
OpenCV on the host where PyTorch has nothing.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import torch
from torch import Tensor

from fastcam.bench.cpu import processor, versions
from fastcam.bench.operators import OPERATORS, Work, has

_CACHES = 3  # the copies of the inputs fill the level-2 cache so many times
_MOST_COPIES = 1024
_SECONDS = 0.12  # about so long may a call of an alternative take; else it gets fewer images


def works(full: bool = False) -> list[Work]:
    """The rows of the table: all of them, or few that have a target or stand for an operator."""
    return [work for operator in OPERATORS for work in (operator.gpu if full else operator.gpu[: operator.brief])]


def table(rows: Sequence[Work], quick: bool = False, kept: list[dict[str, Any]] | None = None) -> Iterator[str]:
    """Measure on the current device and print, line by line, in Markdown, the device first.

    `quick` takes as few rounds as give a median. `kept` gets each row's figures, times in microseconds an image.
    """
    device = torch.cuda.get_device_properties()
    yield (
        f"{device.name}, {device.multi_processor_count} multiprocessors, {device.L2_cache_size / 2**20:.0f} MB of "
        f"level-2 cache; {processor()}; {versions()}, CUDA {torch.version.cuda}"
    )
    yield ""
    yield (
        "Microseconds an image, medians. Share of the copy: its time over the graph's, 1 where memory is the limit. "
        "Ratio: PyTorch's time over that of our series of calls. ¹ The inputs stay in the level-2 cache. "
        "² On fewer images in a call."
    )
    yield ""
    header = ["work", "images", "target (H200)", "graph", "calls", "GB/s", "share of the copy", "PyTorch", "ratio"]
    yield f"| {' | '.join(header)} |"
    yield f"| --- |{' ---: |' * (len(header) - 1)}"
    torch.manual_seed(0)
    for work in rows:
        try:
            figures = _measure(work, device.L2_cache_size, rounds=3 if quick else 7, seconds=0.005 if quick else 0.03)
            yield _row(figures)
        except RuntimeError as error:  # not enough memory, say: the other rows still count
            figures = {"work": work.title, "images": work.images, "error": str(error).splitlines()[0]}
            yield f"| {work.title} | {work.images} | failed: {figures['error']} |"
        if kept is not None:
            kept.append(figures)
        torch.cuda.empty_cache()
    if not has("cv2"):
        yield ""
        yield "OpenCV is not installed: nothing stands beside what needs it."


def _measure(work: Work, cache: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row's figures by name; rounds of all contestants take turns."""
    call, inputs = work.ours(), work.inputs(work.images, "cuda")
    taken = _bytes(inputs)
    moved = taken + _bytes(call(*inputs))
    copies = max(2, min(_MOST_COPIES, -(-_CACHES * cache // moved)))
    rotation = [inputs] + [work.inputs(work.images, "cuda") for _ in range(copies - 1)]
    halves = _halves(copies, moved, "cuda")

    def ours() -> None:
        for arguments in rotation:
            call(*arguments)

    def copy() -> None:
        for source, destination in zip(*halves, strict=True):
            destination.copy_(source)

    contestants: dict[str, Callable[[], object]] = {"calls": ours, "copy": _graph(copy)}
    if not work.waits:
        contestants["graph"] = _graph(ours)
    some = work.images
    if others := sorted(work.others(), key=lambda each: each.library != "torch"):  # on the GPU itself if it can be
        theirs, some = others[0].call, work.share(others[0], _SECONDS)
        parts = cycle([tuple(tensor[:some] for tensor in arguments) for arguments in rotation])
        contestants["plain"] = lambda: theirs(*next(parts))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant()  # warm-up
    repeats = {name: max(1, int(seconds / max(1e-6, _elapsed(each, 1)))) for name, each in contestants.items()}
    for _ in range(rounds):
        for name, each in contestants.items():
            times[name].append(_elapsed(each, repeats[name]) / repeats[name])
    per_call = {name: statistics.median(values) / (1 if name == "plain" else copies) for name, values in times.items()}
    us = {name: 1e6 * value / (some if name == "plain" else work.images) for name, value in per_call.items()}
    device = per_call.get("graph", per_call["calls"])
    return {
        "work": work.title,
        "images": work.images,
        "target": work.target,
        "graph": us.get("graph"),
        "calls": us["calls"],
        "gigabytes_a_second": moved / device / 1e9,
        "share_of_the_copy": per_call["copy"] / device,
        "plain": us.get("plain"),
        "plain_is": others[0].name if others else None,
        "plain_on_fewer": some < work.images,
        "inputs_stay_in_cache": copies * taken + moved - taken < cache,
    }


def _row(figures: dict[str, Any]) -> str:
    graph, plain = figures["graph"], figures["plain"]
    return "| " + " | ".join(
        [
            figures["work"] + (" ¹" if figures["inputs_stay_in_cache"] else ""),
            str(figures["images"]),
            "" if figures["target"] is None else f"{figures['target']:g}",
            "waits for the device" if graph is None else f"{graph:.4g}",
            f"{figures['calls']:.4g}",
            f"{figures['gigabytes_a_second']:.0f}",
            f"{figures['share_of_the_copy']:.2f}",
            "" if plain is None else f"{plain:.4g}" + (" ²" if figures["plain_on_fewer"] else ""),
            "" if plain is None else f"{plain / figures['calls']:.1f}",
        ]
    ) + " |"  # fmt: skip


def _halves(copies: int, moved: int, device: str) -> Tensor:
    """What is copied, and where to, [2, copies, moved / 2] bytes; rows begin at 512 bytes, as allocations do."""
    half = max(1, moved // 2)
    return torch.empty(2, copies, -(-half // 512) * 512, dtype=torch.uint8, device=device)[..., :half]


def _bytes(tensors: object) -> int:
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(_bytes(each) for each in tensors) if isinstance(tensors, tuple) else 0


def _graph(call: Callable[[], object]) -> Callable[[], object]:
    """The same launches, without the host's part of them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()  # warm-up: what is prepared once may not happen during the capture
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _elapsed(call: Callable[[], object], repeats: int) -> float:
    """Seconds by the device's own clock; the host's work counts where the device waits for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
