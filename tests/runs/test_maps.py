"""Maps as tables keep them: digits at any scale, and what is no map."""

import numpy as np
import pytest

from fastcam.runs.maps import decode_map, scaled


@pytest.mark.parametrize("scale", [2.0**-140, 2.0**-30, 1.0, 2.0**100])
def test_maps_keep_their_digits_at_any_scale(scale):
    rng = np.random.default_rng(0)
    maps = rng.normal(0, 1, (3, 2, 7, 7)) * scale
    maps[0, 0] = 0
    maps = maps.astype(np.float32)
    kept = scaled(maps).astype(np.float64)
    assert not kept[0, 0].any()
    for ours, theirs in list(zip(kept.reshape(-1, 49), maps.astype(np.float64).reshape(-1, 49), strict=True))[1:]:
        assert 1 <= np.abs(ours).max() <= 2
        power = np.log2(theirs[0] / ours[0]).round()
        assert np.abs(ours - theirs / 2**power).max() <= 2**-11  # half a step of float16 below 2
    poor = np.array([[[[np.nan, 1e6]], [[np.inf, 1.0]]]])
    assert np.array_equal(scaled(poor), np.float16([[[[np.nan, np.inf]], [[np.inf, 1.0]]]]), equal_nan=True)


@pytest.mark.parametrize("dtype", ["<f2", "<f4"])
def test_maps_are_read_in_both_sizes(dtype):
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(dtype)
    decoded = decode_map(values.tobytes(), 3, 5)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, values.astype(np.float32))


@pytest.mark.parametrize(("height", "width"), [(3, 4), (0, 5), (None, 5), (3, None), (-3, -5), (1, 15 * 3)])
def test_shapes_that_the_bytes_do_not_have_are_refused(height, width):
    with pytest.raises(ValueError, match=rf"^a map of {height}x{width} float16 or float32 expected, got 30 bytes"):
        decode_map(bytes(30), height, width)
