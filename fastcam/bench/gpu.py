"""Speed of the CUDA operators, by CUDA events: the table of ``python -m benchmarks.gpu`` and ``fastcam bench``.

Each work is measured as a series of calls and as a CUDA graph of the same calls, which leaves out what the host needs
for a launch. Inputs go round among copies that are together larger than the level-2 cache, so that they come from
memory as they do in a network. Beside it stand a device-to-device copy that moves as many bytes as the operator has
to read and write, the floor of whatever is bound by memory, and what one would write in PyTorch on the same GPU, with
OpenCV on the host where PyTorch has nothing.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import NamedTuple

import torch
from torch import Tensor

from fastcam import ops
from fastcam.bench import baselines, table as bench

try:
    from fastcam import reference
except ImportError:  # without OpenCV
    reference = None

_CACHES = 3  # the copies of the inputs fill the level-2 cache so many times
_MOST_COPIES = 1024
_MOST_PLAIN = 64  # a pipeline with OpenCV is timed on at most so many images,
_SLOW_PLAIN = 2  # one that takes tens of milliseconds an image on so many

Inputs = tuple[Tensor, ...]


class Work(NamedTuple):
    """One row: what is called on what, and what one would write instead."""

    name: str
    images: int  # in one call
    inputs: Callable[[int], Inputs]  # random ones for so many images
    ours: Callable[..., object]
    plain: Callable[..., object] | None = None
    plain_images: int | None = None  # in one call of `plain`, where it is not all
    target: float | None = None  # microseconds an image on an H200
    waits: bool = False  # for the device, so that no graph can hold it


def works(full: bool = False) -> list[Work]:
    """The rows of the table.

    Args:
        full: all of them; else the ones with a target and one for each other operator.

    Returns:
        What to measure.
    """
    found = [
        _class_boxes(1024, 512, target=0.045),
        _class_boxes(1024, 2048, target=0.12),
        _boxes_and_map(None, 0.10),
        _boxes_and_map(torch.uint8, 0.06),
        _heatmap(1024, 7, 224),
        _boxes(1024, 7, 224),
        _box_curves(1024, smooth=True, target=1.5),
        _box_curves(1024),
        _iou_curves(1024, "all"),
        _score_histograms(1024),
        _components(1024, 224),
        _gradient_map(1024, "gradcam"),
    ]
    if not full:
        return found
    halves, both = (torch.float16, torch.bfloat16), (torch.contiguous_format, torch.channels_last)
    for channels in (512, 2048):
        found += [_class_boxes(1024, channels, layout=torch.channels_last)]
        found += [_class_boxes(1024, channels, dtype=dtype, layout=layout) for dtype in halves for layout in both]
    found += [_class_boxes(images, 512) for images in (1, 16, 64, 256)]
    found += [_class_boxes(images, 2048) for images in (1, 64)]
    found += [_class_boxes(256, 512, side=side, size=size) for side, size in ((14, 224), (28, 224), (14, 448))]
    found += [_class_map(1024, 512, layout=layout) for layout in both]
    found += [_class_map(256, 512, side=side) for side in (14, 28)]
    found += [_gradient_map(1024, name) for name in ("gradcam++", "xgradcam", "layercam", "hirescam")]
    found += [_gradient_map(1024, "gradcam", dtype=dtype, layout=layout) for dtype in halves for layout in both]
    found += [_gradient_map(64, "gradcam"), _gradient_map(256, "gradcam", channels=256, side=14)]
    found += [_heatmap(images, 7, 224) for images in (1, 64)]
    found += [_heatmap(1024, 7, 224, dtype=torch.uint8), _heatmap(1024, 14, 224, mode="bicubic")]
    found += [_heatmap(256, 14, 448), _heatmap(64, 28, 1024)]
    found += [_boxes(images, 7, 224) for images in (1, 64)]
    found += [_boxes(1024, side, 224) for side in (14, 28)] + [_boxes(256, 14, 448), _boxes(64, 14, 1024)]
    found += [_boxes(1024, 7, 224, levels=10), _boxes(1024, 14, 224, mode="bicubic")]
    found += [_box_curves(images) for images in (1, 64)] + [_box_curves(64, size=448), _box_curves(16, size=1024)]
    found += [_iou_curves(1024, "largest"), _iou_curves(64, "all"), _iou_curves(16, "all", size=1024)]
    found += [
        _score_histograms(1024, smooth=True),
        _score_histograms(64),
        _score_histograms(1),
        _score_histograms(16, 1024),
    ]
    found += [_components(64, 224), _components(64, 1024)]
    return found


def table(rows: Sequence[Work], quick: bool = False) -> Iterator[str]:
    """Measure on the current device and tell, line by line, in Markdown.

    Args:
        rows: what to measure.
        quick: as few rounds as give a median.

    Yields:
        The lines of a table, the device first.
    """
    device = torch.cuda.get_device_properties()
    yield (
        f"{device.name}, {device.multi_processor_count} multiprocessors, {device.L2_cache_size / 2**20:.0f} MB of "
        f"level-2 cache; {bench.processor()}; {bench.versions()}, CUDA {torch.version.cuda}"
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
            yield _row(work, device.L2_cache_size, rounds=3 if quick else 7, seconds=0.005 if quick else 0.03)
        except RuntimeError as error:  # not enough memory, say: the other rows still count
            yield f"| {work.name} | {work.images} | failed: {str(error).splitlines()[0]} |"
        torch.cuda.empty_cache()
    if baselines.cv2 is None:
        yield ""
        yield "OpenCV is not installed: nothing stands beside what needs it."


# ---- rows ------------------------------------------------------------------------------------------------------------


def _name(dtype: torch.dtype, layout: torch.memory_format = torch.contiguous_format) -> str:
    kind = {torch.float32: "", torch.uint8: ", uint8"}.get(dtype, f", {str(dtype).removeprefix('torch.')}")
    return kind + ("" if layout == torch.contiguous_format else ", channels last")


def _activations(channels: int, side: int, dtype: torch.dtype, layout: torch.memory_format, images: int) -> Inputs:
    features, weights = bench.activations(images, channels, side, "cuda")
    return features.to(dtype, memory_format=layout), weights


def _coarse(side: int, images: int) -> Inputs:
    return (torch.randn(images, side, side, device="cuda"),)


def _maps(size: int, smooth: bool, images: int) -> Inputs:
    if smooth:
        return (ops.heatmap(*_coarse(7, images), size),)
    return (bench.noisy_maps(images, size, device="cuda"),)


def _with_truths(size: int, images: int) -> Inputs:
    return *_maps(size, False, images), *bench.truth_boxes(images, size, "cuda")


def _class_boxes(
    images: int,
    channels: int,
    side: int = 7,
    size: int = 224,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
    target: float | None = None,
) -> Work:
    return Work(
        f"activations {channels}×{side}×{side}{_name(dtype, layout)} → box in {size}²",
        images,
        partial(_activations, channels, side, dtype, layout),
        lambda features, weights: ops.class_boxes(features, weights, size),
        baselines.cv2 and (lambda features, weights: baselines.class_boxes(features, weights, size)),
        _MOST_PLAIN,
        target,
    )


def _boxes_and_map(dtype: torch.dtype | None, target: float) -> Work:
    def ours(features: Tensor, weights: Tensor) -> Inputs:
        coarse = ops.class_map(features, weights)
        return ops.boxes(coarse, 224), ops.heatmap(coarse, 224, dtype=dtype)

    return Work(
        f"activations 512×7×7 → box and {'float32' if dtype is None else 'uint8'} map of 224²",
        1024,
        partial(_activations, 512, 7, torch.float32, torch.contiguous_format),
        ours,
        target=target,
    )


def _class_map(
    images: int, channels: int, side: int = 7, layout: torch.memory_format = torch.contiguous_format
) -> Work:
    return Work(
        f"class_map {channels}×{side}×{side}{_name(torch.float32, layout)}",
        images,
        partial(_activations, channels, side, torch.float32, layout),
        ops.class_map,
        baselines.class_map,
    )


def _gradient_map(
    images: int,
    weighting: str,
    channels: int = 512,
    side: int = 7,
    dtype: torch.dtype = torch.float32,
    layout: torch.memory_format = torch.contiguous_format,
) -> Work:
    def inputs(count: int) -> Inputs:
        features, _ = _activations(channels, side, dtype, layout, count)
        return features, torch.randn_like(features)

    return Work(
        f"gradient_map {weighting} {channels}×{side}×{side}{_name(dtype, layout)}",
        images,
        inputs,
        partial(ops.gradient_map, weighting=weighting),
        reference and partial(reference.gradient_map, weighting=weighting),
    )


def _heatmap(images: int, side: int, size: int, mode: str = "bilinear", dtype: torch.dtype | None = None) -> Work:
    plain = baselines.byte_heatmap if dtype else partial(baselines.heatmap, mode=mode)
    return Work(
        f"heatmap {mode}{_name(dtype or torch.float32)} {side}² → {size}²",
        images,
        partial(_coarse, side),
        lambda coarse: ops.heatmap(coarse, size, mode=mode, dtype=dtype),
        lambda coarse: plain(coarse, size),
    )


def _boxes(images: int, side: int, size: int, mode: str = "bilinear", levels: int = 1) -> Work:
    thresholds = [0.2] if levels == 1 else [i / levels for i in range(levels)]
    usual = baselines.cv2 and mode == "bilinear" and levels == 1
    return Work(
        f"boxes {mode} {side}² → {size}²" + (f", {levels} thresholds" if levels > 1 else ""),
        images,
        partial(_coarse, side),
        lambda coarse: ops.boxes(coarse, size, thresholds, mode=mode),
        (lambda coarse: baselines.boxes(coarse, size)) if usual else None,
        _MOST_PLAIN,
    )


def _box_curves(images: int, size: int = 224, smooth: bool = False, target: float | None = None) -> Work:
    return Work(
        f"box_curves {size}², {'7² bilinear' if smooth else '14² noise, bicubic'}",
        images,
        partial(_maps, size, smooth),
        ops.box_curves,
        baselines.cv2 and baselines.box_curves,
        _SLOW_PLAIN,
        target,
    )


def _iou_curves(images: int, contours: str, size: int = 224) -> Work:
    return Work(
        f"iou_curves {size}², {contours} contours",
        images,
        partial(_with_truths, size),
        lambda *arguments: ops.iou_curves(*arguments, contours=contours),
        baselines.cv2 and partial(baselines.iou_curves, contours=contours),
        _SLOW_PLAIN,
    )


def _score_histograms(images: int, size: int = 224, smooth: bool = False) -> Work:
    return Work(
        f"score_histograms {size}², {'7² bilinear' if smooth else '14² noise, bicubic'}",
        images,
        lambda count: (*_maps(size, smooth, count), bench.truth_masks(count, size, "cuda")),
        ops.score_histograms,
        baselines.score_histograms_torch,
        _MOST_PLAIN,
    )


def _components(images: int, size: int) -> Work:
    return Work(
        f"components {size}², 10–90 % set",
        images,
        lambda count: (bench.random_masks(count, size, "cuda"),),
        ops.components,
        baselines.cv2 and baselines.components,
        _MOST_PLAIN,
        waits=True,
    )


# ---- measuring -------------------------------------------------------------------------------------------------------


def _row(work: Work, cache: int, rounds: int, seconds: float) -> str:
    """Measure one row; rounds of all contestants take turns."""
    inputs = work.inputs(work.images)
    taken = _bytes(inputs)
    moved = taken + _bytes(work.ours(*inputs))
    copies = max(2, min(_MOST_COPIES, -(-_CACHES * cache // moved)))
    rotation = [inputs] + [work.inputs(work.images) for _ in range(copies - 1)]
    halves = torch.empty(2, copies, max(1, moved // 2), dtype=torch.uint8, device="cuda")

    def ours() -> None:
        for arguments in rotation:
            work.ours(*arguments)

    def copy() -> None:
        for source, destination in zip(*halves, strict=True):
            destination.copy_(source)

    contestants = {"calls": ours, "copy": _graph(copy)}
    if not work.waits:
        contestants["graph"] = _graph(ours)
    plain_images = min(work.plain_images or work.images, work.images)
    if work.plain:
        parts = cycle([_first(arguments, plain_images) for arguments in rotation])
        contestants["plain"] = lambda: work.plain(*next(parts))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()  # warm-up
    repeats = {name: max(1, int(seconds / max(1e-6, _elapsed(call, 1)))) for name, call in contestants.items()}
    for _ in range(rounds):
        for name, call in contestants.items():
            times[name].append(_elapsed(call, repeats[name]) / repeats[name])
    per_call = {name: statistics.median(values) / (1 if name == "plain" else copies) for name, values in times.items()}
    us = {name: 1e6 * value / (plain_images if name == "plain" else work.images) for name, value in per_call.items()}
    device = per_call.get("graph", per_call["calls"])
    return "| " + " | ".join(
        [
            work.name + (" ¹" if copies * taken + moved - taken < cache else ""),
            str(work.images),
            "" if work.target is None else f"{work.target:g}",
            f"{us['graph']:.4g}" if "graph" in us else "waits for the device",
            f"{us['calls']:.4g}",
            f"{moved / device / 1e9:.0f}",
            f"{per_call['copy'] / device:.2f}",
            f"{us['plain']:.4g}" + (" ²" if plain_images < work.images else "") if "plain" in us else "",
            f"{us['plain'] / us['calls']:.1f}" if "plain" in us else "",
        ]
    ) + " |"  # fmt: skip


def _bytes(tensors: object) -> int:
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(map(_bytes, tensors))


def _first(arguments: Inputs, images: int) -> Inputs:
    """The part of the inputs that belongs to the first images."""
    return tuple(tensor[:images] for tensor in arguments)


def _graph(call: Callable[[], None]) -> Callable[[], None]:
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


def _elapsed(call: Callable[[], None], repeats: int) -> float:
    """Seconds by the device's own clock; the host's work counts where the device waits for it."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(repeats):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3
