"""Every operator on the CPU beside its twin and what one would write instead: ``pytest benchmarks``.

The tables of pytest-benchmark compare within a group: one work, one number of images in a call, one number of threads
for all. Slow contestants are left out where they would take minutes.
"""

import os
import time
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from itertools import product
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from fastcam import ops, reference
from fastcam.bench import baselines, table as bench

THREADS = sorted({1, torch.get_num_threads()})
MOST_BYTES = 4 * 2**30
SECONDS = float(os.environ.get("FASTCAM_BENCH_SECONDS", "0.4"))  # about so long for each
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


class Row(NamedTuple):
    """One contestant of a group; `inputs` is hashable, so that a group's inputs are made once."""

    group: str
    contestant: str
    call: Callable[..., object]
    inputs: partial
    bytes: int = 0  # that it needs, roughly


@lru_cache(maxsize=1)
def made(function: Callable, arguments: tuple) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    result = function(*arguments)
    return result if isinstance(result, tuple) else (result,)


def activations(images: int, channels: int, side: int, layout: str = "contiguous") -> tuple[Tensor, Tensor]:
    features, weights = bench.activations(images, channels, side)
    return features.to(memory_format=LAYOUTS[layout]), weights


def activations_and_gradients(images: int, channels: int, side: int, layout: str) -> tuple[Tensor, Tensor]:
    features, _ = activations(images, channels, side, layout)
    return features, torch.randn_like(features)


def coarse(images: int, side: int) -> Tensor:
    return torch.randn(images, side, side)


def maps_and_truths(images: int, size: int, side: int) -> tuple[Tensor, ...]:
    return bench.noisy_maps(images, size, side), *bench.truth_boxes(images, size)


def maps_and_masks(images: int, size: int, side: int, double: bool) -> tuple[Tensor, Tensor]:
    maps = bench.noisy_maps(images, size, side)
    return maps.double() if double else maps, bench.truth_masks(images, size)


def masks(images: int, size: int, percent: int) -> Tensor:
    return torch.rand(images, size, size) < percent / 100


def sums() -> Iterator[Row]:
    for channels, side, images, layout in product((512, 2048), (7, 14, 28), (1, 64, 1024), LAYOUTS):
        needed = 4 * images * channels * side**2 * 2
        group = f"class_map {channels}x{side}x{side} {layout}, {images} images"
        inputs = partial(activations, images, channels, side, layout)
        yield Row(group, "fastcam", ops.class_map, inputs, needed)
        yield Row(group, "einsum", baselines.class_map, inputs, needed)
    shapes = [(name, 512, 7, 64) for name in ("gradcam", "gradcam++", "xgradcam", "layercam", "hirescam")]
    shapes += [("gradcam", *shape) for shape in ((512, 7, 1), (512, 7, 1024), (2048, 7, 64), (512, 14, 64))]
    for (name, channels, side, images), layout in product(shapes, LAYOUTS):
        group = f"gradient_map {name} {channels}x{side}x{side} {layout}, {images} images"
        inputs = partial(activations_and_gradients, images, channels, side, layout)
        needed = 4 * images * channels * side**2 * 6
        yield Row(group, "fastcam", partial(ops.gradient_map, weighting=name), inputs, needed)
        yield Row(group, "twin, torch", partial(reference.gradient_map, weighting=name), inputs, needed)


def maps_and_boxes() -> Iterator[Row]:
    shapes = [(64, side, size) for side, size in product((7, 14, 28), (224, 448, 1024))]
    for images, side, size in [(1, 7, 224), *shapes, (1024, 7, 224), (1024, 7, 448)]:
        needed = 4 * images * size**2 * 3
        inputs = partial(coarse, images, side)
        few = images * size**2 <= 64 * 224**2
        group = f"heatmap {side}x{side} to {size}x{size}, {images} images"
        yield Row(group, "fastcam", partial(ops.heatmap, size=size), inputs, needed)
        yield Row(group, "torch", partial(baselines.heatmap, size=size), inputs, needed)
        if few:
            yield Row(group, "twin", partial(reference.heatmap, size=size), inputs, needed)
        group = f"boxes {side}x{side} to {size}x{size}, {images} images"
        yield Row(group, "fastcam", partial(ops.boxes, size=size), inputs, needed)
        yield Row(group, "torch + OpenCV", partial(baselines.boxes, size=size), inputs, needed)
        if few:
            yield Row(group, "twin", partial(reference.boxes, size=size), inputs, needed)
            yield Row(group, "torch + scikit-image", partial(baselines.boxes_skimage, size=size), inputs, needed)
    for channels, (images, side, size) in product((512, 2048), [(1, 7, 224), *shapes[::3], (1024, 7, 224)]):
        group = f"class_boxes {channels}x{side}x{side} to {size}x{size}, {images} images"
        inputs = partial(activations, images, channels, side)
        needed = 4 * images * (2 * channels * side**2 + 3 * size**2)
        yield Row(group, "fastcam", partial(ops.class_boxes, size=size), inputs, needed)
        yield Row(group, "torch + OpenCV", partial(baselines.class_boxes, size=size), inputs, needed)


def curves() -> Iterator[Row]:
    for images, side, size in ((1, 7, 224), (1, 14, 224), (1, 28, 224), (1, 14, 448), (1, 14, 1024), (64, 14, 224)):
        inputs = partial(maps_and_truths, images, size, side)
        what = f"{size}x{size} from {side}x{side}, {images} images"
        group = f"box_curves {what}"
        yield Row(group, "fastcam", lambda maps, *_: ops.box_curves(maps), inputs)
        yield Row(group, "OpenCV, 1000 thresholds", lambda maps, *_: baselines.box_curves(maps), inputs)
        if images == 1:
            yield Row(group, "twin, OpenCV, 255 levels", lambda maps, *_: reference.box_curves(maps), inputs)
        for contours in ("largest", "all"):
            group = f"iou_curves {contours} {what}"
            yield Row(group, "fastcam", partial(ops.iou_curves, contours=contours), inputs)
            call = partial(baselines.iou_curves, contours=contours)
            yield Row(group, "OpenCV, 1000 thresholds", call, inputs)
            if images == 1:
                call = partial(reference.iou_curves, contours=contours)
                yield Row(group, "twin, OpenCV, 255 levels", call, inputs)


def histograms() -> Iterator[Row]:
    for (images, size), double in product(((1, 224), (64, 224), (1024, 224), (16, 1024)), (False, True)):
        group = f"score_histograms {size}x{size} {'float64' if double else 'float32'}, {images} images"
        inputs = partial(maps_and_masks, images, size, 14, double)
        needed = 8 * images * size**2 * 2
        yield Row(group, "fastcam", ops.score_histograms, inputs, needed)
        yield Row(group, "NumPy", baselines.score_histograms, inputs, needed)
        yield Row(group, "torch", baselines.score_histograms_torch, inputs, 4 * needed)


def labels() -> Iterator[Row]:
    shapes = [(64, 224, percent) for percent in (10, 30, 50, 70, 90)]
    for images, size, percent in [*shapes, (1, 224, 50), (1024, 224, 50), (64, 448, 50), (16, 1024, 50)]:
        group = f"components {size}x{size} {percent} % set, {images} images"
        inputs = partial(masks, images, size, percent)
        yield Row(group, "fastcam", ops.components, inputs)
        yield Row(group, "OpenCV", baselines.components, inputs)
        yield Row(group, "OpenCV, 16-bit labels", baselines.components_16_bit, inputs)
        if images == 1:
            yield Row(group, "twin", reference.components, inputs)
            yield Row(group, "scikit-image", baselines.components_skimage, inputs)


def picture(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)


def pictures() -> Iterator[Row]:
    for height, width in ((375, 500), (1200, 1600)):
        group, inputs = f"resize a picture {height}x{width} to 224x224", partial(picture, height, width)
        yield Row(group, "fastcam", partial(ops.resize, size=224), inputs)
        yield Row(group, "twin, Pillow", partial(baselines.resize, size=224), inputs)
        yield Row(group, "torch, bytes by one apart", partial(baselines.resize_torch, size=224), inputs)


@pytest.fixture(scope="module", autouse=True)
def _memory_stays() -> None:
    bench.keep_memory()


@pytest.fixture(params=THREADS, ids=lambda count: f"{count} thread{'s' if count > 1 else ''}")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    bench.set_threads(request.param)
    yield request.param
    bench.set_threads(before)


@pytest.mark.parametrize(
    "row",
    [*sums(), *maps_and_boxes(), *curves(), *histograms(), *labels(), *pictures()],
    ids=lambda row: f"{row.group}-{row.contestant}",
)
def test_speed(benchmark, row: Row, threads: int) -> None:
    if row.bytes > MOST_BYTES:
        pytest.skip(f"needs about {row.bytes / 2**30:.0f} GiB")
    inputs = made(row.inputs.func, row.inputs.args)
    for _ in range(2):  # warm-up, and once more to see how many rounds there is time for
        start = time.perf_counter()
        row.call(*inputs)
        rounds = int(SECONDS / (time.perf_counter() - start))
        if not rounds:
            break
    benchmark.group = f"{row.group}, {threads} thread{'s' if threads > 1 else ''}"
    benchmark.name = row.contestant
    benchmark.pedantic(row.call, inputs, rounds=min(max(3, rounds), 200) if rounds else 1)
