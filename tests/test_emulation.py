"""The CUDA kernels' own source, run on the host with one thread to a block, against the CPU operators.

This holds their arithmetic to the CPU's bits where there is no GPU; what threads do to each other is not seen here.
"""

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastcam import ops

ROOT = Path(__file__).resolve().parents[1]
WEIGHTINGS = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam"]  # as csrc/options.h numbers them


@pytest.fixture(scope="module")
def emulated(tmp_path_factory) -> ctypes.CDLL:
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None or not (ROOT / "csrc").is_dir():
        pytest.skip("needs a C++ compiler and the checkout")
    folder = tmp_path_factory.mktemp("emulation")
    for source in ("csrc/cuda/components.cuh", "csrc/cuda/cam.cuh", "csrc/cuda/block.cuh", "csrc/contour.h"):
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        text = (ROOT / source).read_text()
        (folder / source).write_text("".join(line for line in text.splitlines(True) if "#include <cuda" not in line))
    for source in ("csrc/lerp.h", "csrc/options.h", "tests/emulation.cpp"):
        (folder / source).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / source, folder / source)
    library = folder / "emulation.so"
    flags = ["-std=c++17", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-include", "utility"]
    subprocess.run([compiler, *flags, str(folder / "tests/emulation.cpp"), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def call(function: object, *arguments: object) -> None:
    def convert(value: object) -> object:
        if isinstance(value, Tensor):
            return ctypes.c_void_p(value.data_ptr())
        if isinstance(value, bool):
            return ctypes.c_bool(value)
        return ctypes.c_float(value) if isinstance(value, float) else ctypes.c_int64(value)

    function(*map(convert, arguments))


def coarse_maps(h: int, w: int) -> Tensor:
    coarse = torch.randn(9, h, w)
    coarse[1] = 0.3
    coarse[2, 0, 0], coarse[3, -1, -1], coarse[4, 0, -1] = torch.nan, torch.inf, -torch.inf
    coarse[5] = -coarse[5].abs()
    coarse[6] = coarse[6].round()  # plateaus and ties
    return coarse


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("size", [(40, 65), (64, 33)])
def test_heatmap(emulated, mode, relu, size):
    for h, w in [(7, 7), (5, 9), (1, 6)]:
        coarse = coarse_maps(h, w)
        for code, normalize in enumerate([None, "after", "before", "both"]):
            out = torch.empty(9, *size)
            call(emulated.heatmap, coarse, out, 9, h, w, *size, relu, mode == "bicubic", code)
            expected = ops.heatmap(coarse, size, relu, normalize, mode)
            assert torch.equal(out.nan_to_num(7.0), expected.nan_to_num(7.0)), normalize


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("largest", "connectivity"), [("pixels", 8), ("pixels", 4), ("contour", 8)])
@pytest.mark.parametrize("size", [(40, 65), (64, 33)])
def test_boxes(emulated, mode, largest, connectivity, size):
    for h, w in [(7, 7), (14, 14), (5, 9)]:
        coarse = coarse_maps(h, w)
        space, masks = torch.empty(2, 2, *size, dtype=torch.int32), torch.empty(2, size[0], 2, dtype=torch.int64)
        relative, absolute = torch.tensor([0.1, 0.2, 0.5, 0.9]), torch.randn(9, 4)
        for threshold in (relative, absolute):
            out = torch.empty(9, 4, 4, dtype=torch.int32)
            levels = threshold.expand(9, 4).contiguous()
            options = (True, mode == "bicubic", threshold is absolute, largest == "contour", connectivity, 2)
            call(emulated.boxes, coarse, levels, space, masks, out, 9, 4, h, w, *size, *options)
            given = threshold if threshold is absolute else threshold.tolist()
            assert torch.equal(out, ops.boxes(coarse, size, given, True, mode, connectivity, largest))


@pytest.mark.parametrize("channels_last", [False, True])
def test_sums(emulated, channels_last):
    shape, layout = (3, 20, 5, 6), torch.channels_last if channels_last else torch.contiguous_format
    features = torch.randn(shape).relu().contiguous(memory_format=layout)
    gradients = torch.randn(shape).contiguous(memory_format=layout)
    weights, out = torch.randn(3, 2, 20), torch.empty(3, 2, 5, 6)
    call(emulated.class_map, features, weights, out, 3, 2, 20, 30, channels_last)
    torch.testing.assert_close(out, ops.class_map(features, weights), rtol=0, atol=1e-5)
    for code, weighting in enumerate(WEIGHTINGS):
        out = torch.empty(3, 5, 6)
        call(emulated.gradient_map, features, gradients, torch.empty(3, 20), out, 3, 20, 30, channels_last, code, 1e-6)
        expected = ops.gradient_map(features, gradients, weighting, eps=1e-6)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5 * expected.abs().max().item())
