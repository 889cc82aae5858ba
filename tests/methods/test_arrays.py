"""CAM of arrays in Keras's layout, against the usual steps of tutorials in NumPy and OpenCV on a real Keras model."""

import os

import cv2
import numpy as np
import pytest
import torch

import fastcam
from fastcam import drawing, ops
from fastcam.methods import arrays

# Keras's own
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

SIDE, CLASSES = (48, 64), 5


@pytest.fixture
def values() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=(3, 6, 8, 12)).astype(np.float32), random.normal(size=(12, CLASSES)).astype(np.float32)


@pytest.fixture(scope="module")
def keras():
    os.environ["KERAS_BACKEND"] = "torch"  # before the first import
    return pytest.importorskip("keras", reason="needs keras")


@pytest.fixture(scope="module")
def network(keras):
    """A small network of the kind that tutorials have, with its own random weights."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((*SIDE, 3))
    maps = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(inputs)
    maps = layers.MaxPooling2D(2)(maps)
    maps = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu", name="last_conv")(maps)
    pooled = layers.GlobalAveragePooling2D()(maps)
    return keras.Model(inputs, layers.Dense(CLASSES, name="predictions")(pooled))


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    random = np.random.default_rng(5)
    small = random.integers(0, 256, (4, 5, 6, 3)).astype(np.uint8)
    return np.stack([cv2.resize(one, SIDE[::-1], interpolation=cv2.INTER_CUBIC) for one in small])


def tutorial(conv_outputs: np.ndarray, class_weights: np.ndarray, target: int, original: np.ndarray):
    """CAM channel by channel, divided by its maximum, resized, colour-coded, cut off below 0.2, over the picture."""
    cam = np.zeros(conv_outputs.shape[:2], np.float32)
    for index, weight in enumerate(class_weights[:, target]):
        cam += weight * conv_outputs[:, :, index]
    cam /= np.max(cam)
    cam = cv2.resize(cam, original.shape[1::-1])
    heatmap = cv2.applyColorMap(np.uint8(255 * np.maximum(cam, 0)), cv2.COLORMAP_JET)
    heatmap[np.where(cam < 0.2)] = 0
    return cam, heatmap * 0.5 + original


def test_a_keras_model_gives_the_maps_of_the_tutorial(keras, network, pictures):
    inner = keras.Model(network.input, [network.get_layer("last_conv").output, network.output])
    features, scores = inner.predict(pictures.astype(np.float32) / 255, verbose=0)
    kernel, bias = network.get_layer("predictions").get_weights()
    classes = scores.argmax(1)
    assert isinstance(features, np.ndarray)
    assert (features.shape, kernel.shape) == ((4, 6, 8, 24), (24, CLASSES))

    raw = fastcam.cam_from_arrays(features, kernel, classes, features.shape[1:3], normalize=None)
    large = fastcam.cam_from_arrays(features, kernel, classes, SIDE, normalize=None)
    maps = fastcam.cam_from_arrays(features, kernel, classes, SIDE)
    assert (maps.shape, maps.dtype) == ((4, *SIDE), np.float32)
    np.testing.assert_allclose(raw.mean((1, 2)) + bias[classes], scores.max(1), rtol=1e-4, atol=1e-6)
    for i, target in enumerate(classes):
        want, blend = tutorial(features[i], kernel, target, pictures[i])
        np.testing.assert_allclose(large[i] / raw[i].max(), want, atol=1e-5)
        np.testing.assert_allclose(maps[i], (want - want.min()) / (want.max() - want.min()), atol=1e-5)
        # The same picture by this package's own drawing.
        cam = (large[i] / raw[i].max()).clip(0, 1)
        heat = drawing.colorize(cam)[..., ::-1].copy()
        heat[cam < 0.2] = 0
        assert (np.abs(heat * 0.5 + pictures[i] - blend) > 3).mean() < 0.01  # where rounding takes another colour


def test_what_keras_itself_has_are_tensors(keras, network, pictures):
    """With its torch backend layers give tensors, with a graph."""
    inner = keras.Model(network.input, network.get_layer("last_conv").output)
    features = inner(pictures.astype(np.float32) / 255)
    kernel = network.get_layer("predictions").kernel.value
    assert isinstance(features, torch.Tensor)
    assert kernel.requires_grad
    got = fastcam.cam_from_arrays(features, kernel, 2, SIDE)
    assert isinstance(got, torch.Tensor)
    assert not got.requires_grad
    plain = fastcam.cam_from_arrays(features.detach().numpy(), kernel.detach().numpy(), [2] * 4, SIDE)
    np.testing.assert_array_equal(got.numpy(), plain)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("normalize", ["after", "before", "both", None])
@pytest.mark.parametrize("relu", [False, True])
def test_options_are_those_of_heatmap(values, relu, normalize, mode):
    features, kernel = values
    options = {"relu": relu, "normalize": normalize, "mode": mode}
    got = fastcam.cam_from_arrays(features, kernel, [4, 0, 2], 20, **options)
    coarse = np.einsum("nhwk,kn->nhw", features, kernel[:, [4, 0, 2]])
    want = ops.heatmap(torch.from_numpy(coarse), 20, **options)
    np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


def test_nothing_is_copied(values, monkeypatch):
    features, kernel = values
    seen, class_map = [], ops.class_map

    def watched(maps, weights):
        seen.append((maps.data_ptr(), maps.stride(), maps.is_contiguous(memory_format=torch.channels_last)))
        return class_map(maps, weights)

    monkeypatch.setattr(arrays.ops, "class_map", watched)
    before = features.copy()
    features.flags.writeable = False  # as JAX has it
    fastcam.cam_from_arrays(features, kernel, 1, 30)
    fastcam.cam_from_arrays(torch.from_numpy(before), torch.from_numpy(kernel), torch.tensor(1), 30)
    stride = (6 * 8 * 12, 1, 8 * 12, 12)
    assert seen == [(features.ctypes.data, stride, True), (before.ctypes.data, stride, True)]
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4"])
def test_other_arrays(values, dtype):
    features, kernel = (array.astype(dtype) for array in values)
    want = fastcam.cam_from_arrays(*values, 3, SIDE)
    got = fastcam.cam_from_arrays(features, kernel, np.int32(3), SIDE)
    assert got.dtype == (np.float64 if dtype == "f8" else np.float32)
    np.testing.assert_allclose(got, want, atol=5e-3 if dtype == "f2" else 1e-5)
    mirrored = fastcam.cam_from_arrays(features[:, :, ::-1], kernel, 3, SIDE)
    np.testing.assert_allclose(mirrored[:, :, ::-1], got, atol=1e-6)
    assert fastcam.cam_from_arrays(features[:0], kernel, [], SIDE).shape == (0, *SIDE)


def test_constant_maps_are_zero(values):
    features, kernel = values
    assert not fastcam.cam_from_arrays(np.ones_like(features), kernel, 0, 9).any()
    assert not fastcam.cam_from_arrays(features[:, :1, :1], kernel, 0, 9).any()


def test_wrong_arrays(values):
    features, kernel = values
    broken = features.copy()
    broken[1, 2, 3, 4] = np.nan
    for given, error, message in (
        ((features[0], kernel, 0, 9), ValueError, r"`features` must be \[N, h, w, K\], .* got \[6, 8, 12\]"),
        ((features[:, :0], kernel, 0, 9), ValueError, r"`features` must be"),
        ((features.transpose(0, 3, 1, 2), kernel, 0, 9), ValueError, r"`kernel` must be \[K, C\] = \[8, C\] for"),
        ((features, kernel.T, 0, 9), ValueError, r"= \[12, C\] .* got \[5, 12\]: transpose it"),
        ((features, kernel[:, 0], 0, 9), ValueError, r"`kernel` must be .* got \[12\]"),
        ((features.astype(int), kernel, 0, 9), TypeError, "`features` must be floating, of 16, 32 or 64 bits, got int"),
        ((features, torch.ones(12, 5, dtype=torch.int8), 0, 9), TypeError, "`kernel` must be floating, got torch.int8"),
        (([["a"]], kernel, 0, 9), TypeError, "`features` must be floating"),
        ((features, kernel, 5, 9), ValueError, r"`class_index` must be in 0 … 4, the kernel's classes, got 5"),
        ((features, kernel, [0, 1, -1], 9), ValueError, r"`class_index` must be in 0 … 4, .* got -1"),
        ((features, kernel, [0, 1], 9), ValueError, "one for all or one for each of 3 pictures"),
        ((features, kernel, 1.0, 9), TypeError, "`class_index` must be whole numbers, got torch.float32"),
        ((features, kernel, True, 9), TypeError, "`class_index` must be whole numbers, got torch.bool"),
        ((features, kernel, 0, 0), ValueError, "`size` must be"),
        ((broken, kernel, 0, 9), ValueError, "the map of picture 1 is not finite"),
    ):
        with pytest.raises(error, match=message):
            fastcam.cam_from_arrays(*given)
    with pytest.raises(ValueError, match="`mode` must be"):
        fastcam.cam_from_arrays(features, kernel, 0, 9, mode="cubic")
