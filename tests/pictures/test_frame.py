"""Network input by the fast way, held to the bits of the plain one and of torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision import transforms

from fastcam.pictures import DecodeError, Preprocess, resizing

sides = st.integers(1, 300)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


@settings(max_examples=150)
@given(sides, sides, st.sampled_from([8, 33, 96]), st.sampled_from(["squash", "crop"]))
def test_frames_have_the_bits_of_pillow(height, width, size, resize):
    preprocess, picture = Preprocess(size, resize), noise(height, width)
    found, geometry = resizing.frame(preprocess, picture)
    expected, same = preprocess.frame(Image.fromarray(picture))
    assert found.dtype == np.uint8
    assert np.array_equal(found, expected)
    assert geometry == same


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (400, 300), (1200, 1600), (227, 227), (224, 224)])
def test_frames_have_the_bits_of_torchvision(shape):
    picture = noise(*shape)
    found, _ = resizing.frame(Preprocess(224), picture)
    assert np.array_equal(found, transforms.Resize((224, 224))(Image.fromarray(picture)))
    found, _ = resizing.frame(Preprocess(224, "crop"), picture)
    steps = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert np.array_equal(found, steps(Image.fromarray(picture)))


def test_a_pillow_that_resizes_otherwise_is_recognised_or_asked_itself(monkeypatch):
    picture, preprocess = noise(97, 70), Preprocess(51)
    plain = preprocess.frame(picture)[0]
    try:
        resizing.pillows_order.cache_clear()
        monkeypatch.setattr(Image.Image, "resize", older)
        assert resizing.pillows_order() is resizing._rows
        monkeypatch.undo()
        resizing.pillows_order.cache_clear()
        monkeypatch.setattr(resizing.ops, "resize", lambda picture, size, crop, first: torch.zeros(1))
        assert resizing.pillows_order() is None
        assert np.array_equal(resizing.frame(preprocess, picture)[0], plain)
    finally:
        resizing.pillows_order.cache_clear()


resize = Image.Image.resize


def older(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """As Pillow did before version 13."""
    return resize(resize(image, (size[0], image.height), resample), size, resample)


def test_odd_pictures_are_left_to_the_plain_way():
    for wrong, error in (
        (noise(4, 4)[..., 0], ValueError),
        (noise(4, 4) / 255, TypeError),
        (noise(4, 4)[:0], ValueError),
    ):
        with pytest.raises(error, match="picture must be"):
            resizing.frame(Preprocess(8), wrong)
    with pytest.raises(DecodeError, match="too_large"):
        resizing.frame(Preprocess(224, "crop"), np.zeros((1, 3000, 3), np.uint8))
