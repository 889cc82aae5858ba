"""Network input by the fast way, held to the bits of the plain one and of torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision import transforms

from fastcam.pictures import DecodeError, Geometry, Preprocess, frame

sides = st.integers(1, 300)


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


def by_pillow(picture: np.ndarray, geometry: Geometry, size: int) -> np.ndarray:
    left, top = geometry.offset
    whole = Image.fromarray(picture).resize(geometry.resized, Image.Resampling.BILINEAR)
    return np.array(whole.crop((left, top, left + size, top + size)))


@settings(max_examples=150)
@given(sides, sides, st.sampled_from([8, 33, 96]), st.sampled_from(["squash", "crop"]))
def test_frames_have_the_bits_of_pillow(height, width, size, resize):
    preprocess, picture = Preprocess(size, resize), noise(height, width)
    found, geometry = preprocess.frame(picture)
    assert found.dtype == np.uint8
    assert np.array_equal(found, by_pillow(picture, geometry, size))
    same, _ = preprocess.frame(Image.fromarray(picture))
    assert np.array_equal(same, found)


@settings(max_examples=100)
@given(sides, sides, sides, sides, st.data())
def test_parts_of_resized_pictures_have_the_bits_of_pillow(height, width, columns, rows, data):
    picture = noise(height, width)
    left, top = data.draw(st.integers(-3, columns - 1)), data.draw(st.integers(-3, rows - 1))
    box = left, top, data.draw(st.integers(left + 1, columns + 3)), data.draw(st.integers(top + 1, rows + 3))
    whole = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR)
    for image in (picture, Image.fromarray(picture)):
        assert np.array_equal(frame.resized(image, (columns, rows)), whole)
        assert np.array_equal(frame.resized(image, (columns, rows), box), whole.crop(box))


def test_arrays_may_lie_in_memory_as_they_like():
    picture = noise(30, 40)
    picture.flags.writeable = False
    for view in (picture, picture[::-1], picture[:, 3:30], picture.transpose(1, 0, 2)):
        expected = Image.fromarray(view.copy()).resize((16, 16), Image.Resampling.BILINEAR)
        assert np.array_equal(frame.resized(view, (16, 16)), expected)


@pytest.mark.parametrize("shape", [(375, 500), (500, 375), (400, 300), (1200, 1600), (227, 227), (224, 224)])
def test_frames_have_the_bits_of_torchvision(shape):
    picture = noise(*shape)
    found, _ = Preprocess(224).frame(picture)
    assert np.array_equal(found, transforms.Resize((224, 224))(Image.fromarray(picture)))
    found, _ = Preprocess(224, "crop").frame(picture)
    steps = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    assert np.array_equal(found, steps(Image.fromarray(picture)))


def test_a_pillow_that_resizes_otherwise_is_recognised_or_asked_itself(monkeypatch):
    picture, preprocess = noise(97, 70), Preprocess(51)
    plain = preprocess.frame(picture)[0]
    try:
        frame.pillows_order.cache_clear()
        monkeypatch.setattr(Image.Image, "resize", older)
        assert frame.pillows_order() is frame._rows
        monkeypatch.undo()
        frame.pillows_order.cache_clear()
        monkeypatch.setattr(frame.ops, "resize", lambda picture, size, crop, first: torch.zeros(1))
        assert frame.pillows_order() is None
        assert np.array_equal(preprocess.frame(picture)[0], plain)
    finally:
        frame.pillows_order.cache_clear()


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
            Preprocess(8).frame(wrong)
    with pytest.raises(DecodeError, match="too_large"):
        Preprocess(224, "crop").frame(np.zeros((1, 3000, 3), np.uint8))
