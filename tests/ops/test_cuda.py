"""On a GPU: what it computes is what the CPU computes, and nothing waits, whatever the stream, graph or batch."""

import dataclasses
import subprocess
import sys
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from torch import Tensor

from fastcam import ops
from tests.support import agreement
from tests.support.agreement import same

CUDA = torch.device("cuda")
gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@dataclasses.dataclass
class Inputs:
    """One batch for every operator; each image has one truth box."""

    features: Tensor
    gradients: Tensor
    weights: Tensor
    coarse: Tensor
    maps: Tensor
    truths: Tensor
    masks: Tensor

    @classmethod
    def random(cls, images: int, seed: int = 0, device: torch.device = CUDA) -> "Inputs":
        generator = torch.Generator().manual_seed(seed)
        maps = torch.rand(images, 37, 50, generator=generator).pow(3)
        made = cls(
            torch.randn(images, 24, 7, 7, generator=generator),
            torch.randn(images, 24, 7, 7, generator=generator),
            torch.randn(images, 24, generator=generator),
            torch.randn(images, 7, 7, generator=generator),
            maps,
            torch.rand(images, 2, 2, generator=generator, dtype=torch.float64).mul(37).sort(1).values.flatten(1),
            maps > 0.4,
        )
        return made.each(lambda tensor: tensor.to(device))

    def each(self, change: Callable[[Tensor], Tensor]) -> "Inputs":
        return Inputs(*(change(getattr(self, field.name)) for field in dataclasses.fields(self)))

    def copy_(self, other: "Inputs") -> None:
        for field in dataclasses.fields(self):
            getattr(self, field.name).copy_(getattr(other, field.name))


def iou_curves(x: Inputs, contours: str) -> Tensor:
    return ops.iou_curves(x.maps, x.truths, torch.arange(len(x.maps), device=x.maps.device), contours=contours)


# Each gives a tensor with a row for each image and does not wait for the device.
CALLS: dict[str, Callable[[Inputs], Tensor]] = {
    "class_map": lambda x: ops.class_map(x.features, x.weights),
    "class_map-half": lambda x: ops.class_map(x.features.half(), x.weights),
    "class_map-channels_last": lambda x: ops.class_map(x.features.to(memory_format=torch.channels_last), x.weights),
    **{f"gradient_map-{w}": lambda x, w=w: ops.gradient_map(x.features, x.gradients, w) for w in agreement.WEIGHTINGS},
    "heatmap": lambda x: ops.heatmap(x.coarse, 64),
    "heatmap-bytes": lambda x: ops.heatmap(x.coarse, (33, 70), dtype=torch.uint8),
    "heatmap-bicubic": lambda x: ops.heatmap(x.coarse, 64, relu=False, mode="bicubic"),
    "boxes": lambda x: ops.boxes(x.coarse, 64),
    "boxes-thresholds": lambda x: ops.boxes(x.coarse, 64, [0.1, 0.2, 0.7], connectivity=4),
    "boxes-levels": lambda x: ops.boxes(x.coarse, 64, x.coarse.amax((1, 2)) / 4, largest="contour"),
    "boxes-1700": lambda x: ops.boxes(x.coarse, (1700, 1600)),
    "class_boxes": lambda x: ops.class_boxes(x.features, x.weights, 64),
    "class_boxes-bicubic": lambda x: ops.class_boxes(x.features, x.weights, 64, [0.2, 0.5], mode="bicubic"),
    "box_curves": lambda x: ops.box_curves(x.maps),
    "iou_curves-largest": lambda x: iou_curves(x, "largest"),
    "iou_curves-all": lambda x: iou_curves(x, "all"),
    "score_histograms": lambda x: ops.score_histograms(x.maps, x.masks),
    "refine": lambda x: ops.refine(x.features, x.features[:, :3], (1, 3), 3),
    "score_histograms-double": lambda x: ops.score_histograms(x.maps.double(), x.masks, 10),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@contextmanager
def no_waiting():
    """Whatever makes the host wait for the device raises."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode calls itself a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")


def gpu_test(test):
    for mark in gpu:
        test = mark(test)
    return test


# ---- equality with the CPU -------------------------------------------------------------------------------------------


@gpu_test
@pytest.mark.parametrize("case", list(agreement.cases()), ids=lambda case: case.name)
def test_cuda_equals_cpu(case):
    case.check(CUDA)


def test_the_cases_run_without_a_gpu():
    """So that they do not rot where there is none; the CPU agrees with itself."""
    for case in agreement.cases(small=True):
        case.check(torch.device("cpu"))
    for call in CALLS.values():
        call(Inputs.random(2, device=torch.device("cpu")))


def test_same_compares_bits():
    same(torch.tensor([1.0, float("nan")]), torch.tensor([1.0, -float("nan")]))
    for a, b in ((0.0, -0.0), (1.0, 1.0 + 2**-23), (float("nan"), 1.0)):
        with pytest.raises(AssertionError, match="1 of 1 values differ"):
            same(torch.tensor(a), torch.tensor(b))
    with pytest.raises(AssertionError):
        same(torch.zeros(2), torch.zeros(2, dtype=torch.float64))


# ---- batches ---------------------------------------------------------------------------------------------------------


@gpu_test
@each_call
def test_an_image_gives_the_same_bits_in_any_batch(call):
    inputs = Inputs.random(300)
    expected = call(inputs)
    order = torch.randperm(300, device=CUDA)
    same(call(inputs.each(lambda tensor: tensor[order])), expected[order], "another order")
    for part in (slice(0, 1), slice(17, 18), slice(3, 40), slice(290, 300)):
        same(call(inputs.each(lambda tensor, part=part: tensor[part])), expected[part], part)
    same(call(inputs), expected, "another run")


@gpu_test
@each_call
def test_empty_batch(call):
    nothing = call(Inputs.random(0))
    assert len(nothing) == 0
    assert nothing.shape[1:] == call(Inputs.random(2)).shape[1:]
    assert nothing.is_cuda


@gpu_test
def test_components_of_an_empty_batch_and_of_empty_masks():
    for masks in (torch.zeros(0, 5, 6, dtype=torch.bool), torch.zeros(3, 5, 6, dtype=torch.bool)):
        boxes, areas, image = ops.components(masks.to(CUDA))
        assert (boxes.shape, areas.shape, image.shape) == ((0, 4), (0,), (0,))


@gpu_test
@each_call
def test_layout_of_the_inputs_in_memory_does_not_matter(call):
    inputs = Inputs.random(9)
    expected = call(inputs)

    def spread(tensor: Tensor) -> Tensor:
        """The same values with gaps between them."""
        gaps = torch.zeros(*(2 * n for n in tensor.shape), dtype=tensor.dtype, device=CUDA)
        part = gaps[tuple(slice(None, None, 2) for _ in tensor.shape)]
        return part.copy_(tensor)

    same(call(inputs.each(spread)), expected)


@gpu_test
def test_offsets_beyond_31_bits():
    """Images behind the first 2^31 elements are as if they were alone."""
    if torch.cuda.mem_get_info()[0] < 40 * 2**30:
        pytest.skip("needs 40 GiB of free GPU memory")
    tail = Inputs.random(5)
    features = torch.zeros(2**31 // (2048 * 49) + 5, 2048, 7, 7, dtype=torch.float16, device=CUDA)
    features[-5:] = torch.randn(5, 2048, 7, 7, device=CUDA)
    weights = torch.randn(len(features), 2048, device=CUDA)
    same(ops.class_map(features, weights)[-5:], ops.class_map(features[-5:], weights[-5:]))
    same(ops.class_boxes(features, weights, 224)[-5:], ops.class_boxes(features[-5:], weights[-5:], 224))
    same(ops.gradient_map(features, features)[-5:], ops.gradient_map(features[-5:], features[-5:]))
    del features
    coarse = torch.zeros(2**31 // 224**2 + 5, 7, 7, device=CUDA)
    coarse[-5:] = tail.coarse
    same(ops.heatmap(coarse, 224, dtype=torch.uint8)[-5:], ops.heatmap(tail.coarse, 224, dtype=torch.uint8))
    maps = ops.heatmap(coarse, 224)
    same(maps[-5:], ops.heatmap(tail.coarse, 224))
    same(ops.box_curves(maps)[-5:], ops.box_curves(maps[-5:]))
    masks = maps > 0.2
    same(ops.score_histograms(maps, masks, 10)[-5:], ops.score_histograms(maps[-5:], masks[-5:], 10))
    del maps
    for actual, expected in zip(ops.components(masks), ops.components(masks[-5:]), strict=True):
        offset = len(masks) - 5 if expected.dtype == torch.int64 else 0
        same(actual[-len(expected) :], expected + offset)


# ---- streams, graphs, devices ----------------------------------------------------------------------------------------


@gpu_test
@each_call
def test_nothing_waits_for_the_device(call):
    inputs = Inputs.random(6)
    expected = call(inputs)  # what is prepared once may wait
    with no_waiting():
        actual = call(inputs)
    same(actual, expected)


@gpu_test
@each_call
def test_graph_replays_with_new_data(call):
    inputs = Inputs.random(6)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call(inputs)
    for seed in (1, 2):
        fresh = Inputs.random(6, seed=seed)
        inputs.copy_(fresh)
        graph.replay()
        same(result, call(fresh), seed)


@gpu_test
@each_call
def test_work_is_queued_on_the_current_stream(call):
    inputs, fresh = Inputs.random(6), Inputs.random(6, seed=1)
    expected = call(fresh)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)  # cycles, in which a kernel on another stream would read the old data
        inputs.copy_(fresh)
        actual = call(inputs)
        torch.cuda.current_stream().synchronize()
    same(actual, expected)


@gpu_test
def test_components_on_another_stream():
    inputs, fresh = Inputs.random(6), Inputs.random(6, seed=1)
    expected = ops.components(fresh.masks)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(50_000_000)
        inputs.copy_(fresh)
        actual = ops.components(inputs.masks)
        torch.cuda.current_stream().synchronize()
    for ours, theirs in zip(actual, expected, strict=True):
        same(ours, theirs)


@gpu_test
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@each_call
def test_a_device_that_is_not_the_current_one(call):
    expected = call(Inputs.random(6))
    with torch.cuda.device(0):
        actual = call(Inputs.random(6, device=torch.device("cuda:1")))
        assert torch.cuda.current_device() == 0
    assert actual.device == torch.device("cuda:1")
    same(actual, expected)


@gpu_test
def test_true_boxes_of_no_image_are_left_out():
    """Looking for them would wait for the device."""
    x = Inputs.random(3)
    owners = torch.arange(3, device=CUDA)
    expected = ops.iou_curves(x.maps, x.truths, owners)
    strangers = torch.tensor([-1, 3, 99], device=CUDA)
    same(ops.iou_curves(x.maps, x.truths.repeat(2, 1), torch.cat([strangers, owners])), expected)
    assert not ops.iou_curves(x.maps, x.truths, strangers).any()


# ---- launches --------------------------------------------------------------------------------------------------------

SIZES = (1024, 448, 640, 224)  # of one kernel, each with another share of shared memory


@gpu_test
def test_host_threads_with_different_sizes():
    coarse = Inputs.random(6).coarse
    expected = {size: ops.boxes(coarse, size) for size in SIZES}

    def often(size: int) -> None:
        for _ in range(300):
            same(ops.boxes(coarse, size), expected[size], size)

    with ThreadPoolExecutor(len(SIZES)) as pool:
        list(pool.map(often, SIZES))


@gpu_test
def test_a_graph_is_made_after_calls_that_need_less():
    coarse = Inputs.random(6).coarse
    expected = ops.boxes(coarse, SIZES[0])
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    with torch.cuda.graph(graph):
        result = ops.boxes(coarse, SIZES[0])
    for size in SIZES[1:]:
        ops.boxes(coarse, size)
    graph.instantiate()
    result.zero_()
    graph.replay()
    same(result, expected)


@gpu_test
def test_an_error_is_told_by_the_call_that_fails_and_no_other():
    """In a process of its own: a capture that failed stays with torch's allocator."""
    program = """
import torch
from fastcam import ops
coarse, masks = torch.randn(3, 7, 7, device="cuda"), torch.ones(3, 20, 20, dtype=torch.bool, device="cuda")
expected, _ = ops.boxes(coarse, 64).cpu(), ops.components(masks)
try:
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        ops.components(masks)
except RuntimeError as error:
    told = f"{error} {error.__context__}"
assert "fastcam: components cannot be" in told, told
assert torch.equal(ops.boxes(coarse, 64).cpu(), expected)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr


# ---- torch.compile and autocast --------------------------------------------------------------------------------------


@gpu_test
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_full_graph(backend):
    if backend == "inductor":
        pytest.importorskip("triton")

    def pipeline(features: Tensor, weights: Tensor, gradients: Tensor) -> tuple[Tensor, ...]:
        coarse = ops.class_map(features * 2, weights)
        maps = ops.heatmap(coarse, 64)
        return (
            maps + 1,
            ops.boxes(coarse, 64),
            ops.class_boxes(features, weights, 64),
            ops.gradient_map(features, gradients, "gradcam++"),
            ops.box_curves(maps),
            ops.score_histograms(maps, maps > 0.5),
        )

    x = Inputs.random(4)
    expected = pipeline(x.features, x.weights, x.gradients)
    actual = torch.compile(pipeline, fullgraph=True, backend=backend)(x.features, x.weights, x.gradients)
    for ours, theirs in zip(actual, expected, strict=True):
        same(ours, theirs)


@gpu_test
@each_call
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_nothing(call, dtype):
    inputs = Inputs.random(6)
    expected = call(inputs)
    with torch.autocast("cuda", dtype):
        same(call(inputs), expected)


@gpu_test
@pytest.mark.parametrize("layout", agreement.LAYOUTS)
def test_gradients_flow_on_the_gpu(layout):
    x = Inputs.random(3)
    features = x.features[:, :3].double().contiguous(memory_format=agreement.LAYOUTS[layout]).requires_grad_()
    assert torch.autograd.gradcheck(ops.class_map, (features, x.weights[:, :3].double().requires_grad_()))
    # The backward pass of torch's upsampling adds in any order.
    call, coarse = partial(ops.heatmap, size=(9, 8)), x.coarse.double().requires_grad_()
    assert torch.autograd.gradcheck(call, (coarse,), nondet_tol=1e-10)
