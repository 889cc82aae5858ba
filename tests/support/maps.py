"""Kept maps, a run that has some, and how finished maps look, by PyTorch."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from tests.support import tables
from tests.support.tables import error, row

SIZES = ((50, 40), (31, 64), (200, 100))  # width, height


def coarse(seed: int, shape=(7, 5)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float16)


def finished(values: np.ndarray, size: tuple[int, int], relu: bool = False, mode: str = "bilinear") -> np.ndarray:
    """The map by PyTorch: ReLU, upsampling to (height, width), min-max."""
    maps = torch.from_numpy(values.astype(np.float32))[None, None]
    maps = F.interpolate(maps.relu() if relu else maps, size, mode=mode, align_corners=False)[0, 0].double().numpy()
    return (maps - maps.min()) / (maps.max() - maps.min())


def write_run(path: Path) -> Path:
    """Three pictures: one of two classes and two boxes, one that failed between, one without a map at the end."""
    cams = [coarse(index) for index in range(4)]
    rows = [
        row("a/x.jpg", (1, 2, 30, 40), 3, "owl", SIZES[0], cam=cams[0]),
        row("a/x.jpg", (5, 6, 7, 8), 3, "owl", SIZES[0], number=2),
        row("a/x.jpg", (5, 6, 7, 8), 1, "bee", SIZES[0], rank=2, cam=cams[1]),
        error("a/y.jpg"),
        row("b/x.jpg", (1, 2, 30, 40), 0, "ant", SIZES[1], cam=cams[2]),
        row("b/z.png", (1, 2, 30, 40), 2, "cat", SIZES[2], cam=cams[3]),
        row("b/none.png", (1, 2, 30, 40), 2, "cat", SIZES[2]),
    ]
    return tables.write(path, rows, group=3, cams=True)
