"""Drawn pictures of a few classes, and a small network to fit heads on."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastcam import models
from fastcam.models import ModelConfig

SIDE = 64
SMALL = "mobilenet_v2"  # a network that is quick to build and to write
CLASSES = ("dots", "rows", "waves")


def drawn(kind: int, seed: int) -> np.ndarray:
    """A patch of a texture, dots, rows or waves, somewhere on noise: uint8 [48, 60, 3]."""
    random = np.random.default_rng((kind, seed))
    picture = random.integers(100, 150, (48, 60, 3)).astype(np.float64)
    top, left = random.integers(0, 20), random.integers(0, 30)
    y, x = np.mgrid[:26, :26]
    ink = [(x % 6 < 3) & (y % 6 < 3), y % 6 < 3, np.sin(x / 1.5 + 2 * np.sin(y / 4)) > 0][kind]
    picture[top : top + 26, left : left + 26] = np.where(ink[..., None], 250, 10)
    return picture.astype(np.uint8)


def folder(root: Path, count: int = 12, classes: tuple[str, ...] = CLASSES) -> Path:
    """A folder for each class, with so many pictures."""
    for kind, name in enumerate(classes):
        (root / name).mkdir(parents=True)
        for seed in range(count):
            Image.fromarray(drawn(kind, seed)).save(root / name / f"{seed:02}.png")
    return root


def network(arch: str = "resnet18", classes: int = 5) -> tuple[nn.Module, ModelConfig]:
    """A network of random weights, always the same."""
    torch.manual_seed(7)
    model = models.build(arch, classes).eval()
    return model, ModelConfig(arch, classes, size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)
