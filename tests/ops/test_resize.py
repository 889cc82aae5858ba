"""Pictures in another size, held to Pillow's bits."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision.transforms import functional as F

from fastcam import ops, reference


def noise(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


sides, axes = st.integers(1, 90), st.sampled_from(["rows", "columns"])


@settings(max_examples=200)
@given(sides, sides, sides, sides, axes, st.integers(0, 99))
def test_any_size_has_pillows_bits(height, width, rows, columns, first, seed):
    picture = noise(height, width, seed)
    expected = reference.resize(picture, (rows, columns), None, first)
    assert torch.equal(ops.resize(picture, (rows, columns), None, first), expected)


@pytest.mark.parametrize("shape", [(375, 500), (1201, 1603), (224, 224), (1, 3000), (3000, 1), (640, 17), (2, 2)])
@pytest.mark.parametrize("size", [224, (256, 341)])
def test_usual_sizes(shape, size):
    extremes = torch.randint(0, 2, (*shape, 3), dtype=torch.uint8) * 255
    for picture in (noise(*shape), extremes, torch.full((*shape, 3), 255, dtype=torch.uint8)):
        found = {first: ops.resize(picture, size, None, first) for first in ("rows", "columns")}
        for first, resized in found.items():
            assert resized.is_contiguous()
            assert torch.equal(resized, reference.resize(picture, size, None, first))
        image = F.resize(Image.fromarray(picture.numpy()), size if isinstance(size, tuple) else (size, size))
        assert any(np.array_equal(resized, image) for resized in found.values())


@settings(max_examples=50)
@given(sides, sides, sides, sides, axes, st.data())
def test_a_part_is_that_of_the_whole(height, width, rows, columns, first, data):
    top, left = data.draw(st.integers(0, rows - 1)), data.draw(st.integers(0, columns - 1))
    crop = top, left, data.draw(st.integers(1, rows - top)), data.draw(st.integers(1, columns - left))
    picture = noise(height, width)
    expected = reference.resize(picture, (rows, columns), crop, first)
    assert torch.equal(ops.resize(picture, (rows, columns), crop, first), expected)


@pytest.mark.kernels
def test_parts_of_sizes_that_would_not_fit_into_memory():
    picture = noise(3, 4)
    for first in ("rows", "columns"):
        found = ops.resize(picture, (2**29, 2**29), (2**28, 7, 2, 3), first)
        assert torch.equal(found, picture[1, :1].expand(2, 3, 3))


@pytest.mark.parametrize("length", [5_000_000, 8_400_000])
def test_sums_of_rounded_weights_beyond_one_are_cut_as_by_pillow(length):
    white = torch.full((1, length, 3), 255, dtype=torch.uint8)
    for picture, size in ((white, (1, 1)), (white.transpose(0, 1), (1, 1)), (white, (2, 3))):
        for first in ("rows", "columns"):
            assert torch.equal(ops.resize(picture, size, None, first), reference.resize(picture, size, None, first))


def test_pictures_in_any_layout():
    picture = noise(40, 60)
    for view in (picture[::2, ::3], picture.transpose(0, 1), picture.flip(2)):
        assert torch.equal(ops.resize(view, 32), ops.resize(view.contiguous(), 32))


def test_what_is_wrong_is_named():
    for picture, size, crop, error, text in (
        (noise(4, 4).float(), 2, None, TypeError, "`picture` must be uint8"),
        (noise(4, 4)[None], 2, None, ValueError, r"must be \[H, W, 3\]"),
        (noise(4, 4)[..., :2], 2, None, ValueError, r"must be \[H, W, 3\]"),
        (noise(4, 4)[:0], 2, None, ValueError, "at least one pixel"),
        (noise(4, 4).to("meta"), 2, None, ValueError, "must be on the CPU"),
        (noise(4, 4), 0, None, ValueError, "`size` must have sides"),
        (noise(4, 4), (2, 2**30), None, ValueError, "`size` must have sides"),
        (noise(4, 4), 2, (0, 1, 2, 2), ValueError, "`crop` must be top, left, height, width within 2 x 2"),
        (noise(4, 4), 2, (0, 0, 0, 2), ValueError, "`crop` must be"),
        (noise(4, 4), 2, (-1, 0, 2, 2), ValueError, "`crop` must be"),
    ):
        with pytest.raises(error, match=text):
            ops.resize(picture, size, crop)
    with pytest.raises(ValueError, match="first"):
        ops.resize(noise(4, 4), 2, None, "columm")


def test_opcheck():
    torch.library.opcheck(torch.ops.fastcam.resize, (noise(9, 7), 5, 6, 1, 0, 3, 6, True))
