"""Coarse maps as tables keep them: their columns, one encoder and one decoder.

A map is kept as its values before ReLU, upsampling and normalisation, row by row, little-endian, float16 or float32,
beside its height and width: in `fastcam.runs.schema.CAM_COLUMNS` of boxes.parquet (in the first row of each picture and
class; null in the others), and in columns map, height and width of the maps.parquet of `fastcam evaluate`.
"""

import numpy as np


def scaled(maps: np.ndarray) -> np.ndarray:
    """Make maps float16, each multiplied by a power of two: little is lost, and finished maps are the same.

    Args:
        maps: [..., h, w], floating.

    Returns:
        float16 of the same shape; the largest magnitude of each map lies in [1, 2], or is zero. Maps that are not
        finite keep their scale.
    """
    values = np.asarray(maps, np.float64)
    largest = np.abs(values).max((-2, -1), keepdims=True)
    exponent = np.where(np.isfinite(largest) & (largest > 0), np.frexp(largest)[1] - 1, 0)
    with np.errstate(over="ignore"):
        return np.ldexp(values, -exponent).astype(np.float16)


def decode_map(values: bytes, height: int | None, width: int | None) -> np.ndarray:
    """Read one map.

    Args:
        values: as they are kept.
        height: of the map.
        width: of the map.

    Returns:
        float32 [height, width].

    Raises:
        ValueError: the bytes are neither height x width values of 16 nor of 32 bits.
    """
    if height and width and min(height, width) > 0:
        for dtype in ("<f2", "<f4"):
            if len(values) == height * width * np.dtype(dtype).itemsize:
                return np.frombuffer(values, dtype).reshape(height, width).astype(np.float32)
    raise ValueError(f"a map of {height}x{width} float16 or float32 expected, got {len(values)} bytes")


def map_of(image_id: str, values: bytes, height: int | None, width: int | None) -> np.ndarray:
    """As `decode_map`, with the picture's id in the error."""
    try:
        return decode_map(values, height, width)
    except ValueError as error:
        raise ValueError(f"{image_id}: {error}") from None
