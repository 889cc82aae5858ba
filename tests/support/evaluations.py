"""A drawn data set in the WSOL layout and a tiny network, for the tests of `fastcam.evaluate`."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam.evaluation import PROTOCOLS
from fastcam.models import ModelConfig
from fastcam.models.networks import GlobalPoolNet
from tests.support.files import jpeg

CLASSES, SIDE = 6, 32
PROTOCOL = PROTOCOLS["standard"]._replace(size=(28, 36))
CONFIG = ModelConfig("tiny", CLASSES, size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)


def network(seed: int = 0) -> nn.Module:
    """Global average pooling of eight channels at a quarter of the input's side."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU()]
    return GlobalPoolNet(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Linear(8, CLASSES)).eval()


def write_wsol(root: Path, count: int = 20, seed: int = 0) -> Path:
    """Pictures with bright patches, one or two of them the truth; they are stored smaller than the files say."""
    rng = np.random.default_rng(seed)
    (root / "val" / "a").mkdir(parents=True)
    lines: dict[str, list[str]] = {name: [] for name in ("image_ids", "class_labels", "image_sizes", "localization")}
    for number in range(count):
        width, height = rng.integers(40, 90, 2).tolist()
        picture, boxes = rng.integers(0, 120, (height, width, 3), np.uint8), []
        for _ in range(1 + number % 2):
            x0, y0 = rng.integers(0, (width // 2, height // 2)).tolist()
            x1, y1 = rng.integers((x0 + 12, y0 + 12), (width, height)).tolist()
            cv2.rectangle(picture, (x0, y0), (x1, y1), rng.integers(100, 256, 3).tolist(), -1)
            boxes.append((x0, y0, x1, y1))
        id = f"val/{'a/' * (number % 3 == 0)}{number:03d}.png"
        Image.fromarray(picture).resize((width // 2, height // 2)).save(root / id)
        lines["image_ids"].append(id)
        lines["class_labels"].append(f"{id},{number % CLASSES}")
        lines["image_sizes"].append(f"{id},{width},{height}")
        lines["localization"] += [f"{id},{','.join(map(str, box))}" for box in boxes]
    for name, rows in lines.items():
        (root / f"{name}.txt").write_text("\n".join(rows) + "\n")
    (root / "classes.txt").write_text("ant\nbee\ncat\ndog\nelk\nfox\n")
    return root


def evaluated(data, out, **options):
    """`fastcam.evaluate` of the tiny network, unless options say otherwise."""
    options = {"model": network(), "config": CONFIG} | options
    options = {"protocol": PROTOCOL, "batch_size": 4, "bootstrap": 10, "cases": 0, "progress": False} | options
    return fastcam.evaluate(data, out=out, **options)


def evaluate_map(tmp_path: Path, write: Callable[[Path], object]) -> None:
    """`fastcam.evaluate` of one picture, whose map `write` writes."""
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "maps").mkdir()
    write(tmp_path / "maps" / "a.jpg.npy")
    (tmp_path / "list.csv").write_text("path,label,width,height,x0,y0,x1,y1\na.jpg,0,60,40,1,1,9,9\n")
    fastcam.evaluate(tmp_path / "list.csv", maps=tmp_path / "maps", out=tmp_path / "out", progress=False)
