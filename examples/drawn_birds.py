"""Draw a data set in CUB-200-2011's layout, in which only crops tell the classes, and a network that sees stripes.

    python examples/drawn_birds.py drawn/
    python examples/cub_crop_refit.py drawn/ --weights drawn/stripes.safetensors --out drawn-study/ --threshold 0.6

Each picture has one small object, about a twentieth of its area, before clutter of lines, blobs and colours. As with
birds of a kind, objects of three classes look the same from afar: coarse stripes tell three kinds, and fine hatching,
which is lost where the whole picture is made as small as the network wants it, tells three classes of each. The
network is an AlexNet-GAP of Gabor filters on brightness, whose strongest answers are handed on as they are; it has
learned nothing. The same seed draws the same pictures.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from fastcam import models
from fastcam.models import ModelConfig

KINDS = 3  # of coarse stripes, and for each as many of fine ones
SIDE = 320  # of a picture in pixels
_SMALLEST, _LARGEST = 56, 80  # sides of an object
_COARSE, _FINE = (12, 15), (4.2, 5.0)  # periods in pixels
_CONTRASTS = 80, 40  # of coarse and fine stripes, in levels of grey
_WAVELENGTHS, _ORIENTATIONS, _PHASES = (4, 6, 9, 13), 8, 2  # of filters, together the 64 of AlexNet's first layer


def picture(label: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw a picture of a class.

    Args:
        label: 0 to `KINDS`² - 1.
        rng: decides about all else.

    Returns:
        uint8 [SIDE, SIDE, 3], RGB; and the object's box, int64 [4]: x, y, width and height.
    """
    field = rng.uniform(40, 215, (4, 4, 3)).astype(np.float32)
    canvas = cv2.resize(field, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    for _ in range(rng.integers(10, 22)):
        begin, end = rng.integers(-20, SIDE + 20, (2, 2)).tolist()
        cv2.line(canvas, begin, end, rng.uniform(0, 255, 3).tolist(), int(rng.integers(1, 8)), cv2.LINE_AA)
    for _ in range(rng.integers(4, 10)):
        centre = rng.integers(0, SIDE, 2).tolist()
        cv2.circle(canvas, centre, int(rng.integers(8, 28)), rng.uniform(0, 255, 3).tolist(), -1, cv2.LINE_AA)
    width, height = rng.integers(_SMALLEST, _LARGEST, 2)
    x, y = rng.integers(4, SIDE - np.array([width, height]) - 4)
    down, across = np.mgrid[:height, :width]

    def stripes(kind: float, periods: tuple[float, float]) -> np.ndarray:
        angle, period = math.pi / KINDS * (kind + rng.uniform(-0.1, 0.1)), rng.uniform(*periods)
        wave = (across * math.cos(angle) + down * math.sin(angle)) / period
        return np.sign(np.sin(2 * math.pi * (wave + rng.random())))

    coarse, fine = divmod(label, KINDS)
    surface = 128 + _CONTRASTS[0] * stripes(coarse, _COARSE) + _CONTRASTS[1] * stripes(fine + 0.5, _FINE)
    coloured = (surface[..., None] * rng.uniform(0.75, 1, 3)).clip(0, 255).astype(np.uint8)
    inside = np.hypot((2 * across + 1) / width - 1, (2 * down + 1) / height - 1) <= 1
    canvas[y : y + height, x : x + width][inside] = coloured[inside]
    return canvas, np.array([x, y, width, height])


def draw(folder: Path, train: int = 180, test: int = 180, seed: int = 0) -> None:
    """Draw the data set.

    Args:
        folder: gets images/CLASS/*.png and CUB's five text files.
        train: how many pictures to train on; classes take turns.
        test: how many to test on.
        seed: of all that is drawn.
    """
    names = [f"{label + 1:03d}.Stripes_{label // KINDS}_hatching_{label % KINDS}" for label in range(KINDS**2)]
    lines: dict[str, list[str]] = {name: [] for name in ("images", "image_class_labels", "train_test_split")}
    boxes = []
    for number in range(train + test):
        label = number % len(names)
        drawn, box = picture(label, np.random.default_rng((seed, number)))
        path = f"{names[label]}/{names[label][4:]}_{number:04d}.png"
        (folder / "images" / names[label]).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(
            str(folder / "images" / path), cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1]
        )
        for file, value in zip(lines.values(), (path, label + 1, int(number < train)), strict=True):
            file.append(f"{number + 1} {value}\n")
        boxes.append(f"{number + 1} {' '.join(map(str, box.tolist()))}\n")
    lines |= {"bounding_boxes": boxes, "classes": [f"{label} {name}\n" for label, name in enumerate(names, 1)]}
    for file, rows in lines.items():
        (folder / f"{file}.txt").write_text("".join(rows), encoding="utf-8")


def network() -> tuple[nn.Module, ModelConfig]:
    """Build the network that sees stripes.

    Returns:
        An AlexNet-GAP in evaluation mode, of whose 1,024 channels 64 say something, and its configuration: 160 pixels,
        maps of 9 x 9.
    """
    model = models.build("alexnet-gap", KINDS**2).eval()
    first, *others = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    y, x = np.mgrid[-5:6, -5:6]
    window = np.exp(-(x**2 + y**2) / (2 * 3.2**2))
    filters = []
    for turn in range(_ORIENTATIONS):
        angle = math.pi * turn / _ORIENTATIONS
        for wavelength in _WAVELENGTHS:
            wave = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength
            for phase in range(_PHASES):
                filter = window * np.cos(wave + math.pi / 2 * phase)
                filter -= filter.mean()
                filters.append(filter / np.abs(filter).sum())
    with torch.no_grad():
        for layer in (first, *others):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[:] = torch.from_numpy(np.stack(filters)).float()[:, None] / 3
        first.bias.fill_(-0.25)  # weak answers, to grain and to single lines, are none
        for layer in others:
            channels, middle = torch.arange(len(filters)), layer.kernel_size[0] // 2
            layer.weight[channels, channels, middle, middle] = 1
    return model, ModelConfig("alexnet-gap", KINDS**2, size=160, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what the command line asks for.

    Args:
        arguments: of the command line.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write to")
    parser.add_argument("--train", type=int, default=180, help="pictures to train on [180]")
    parser.add_argument("--test", type=int, default=180, help="pictures to test on [180]")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn [0]")
    options = parser.parse_args(arguments)
    draw(options.folder, options.train, options.test, options.seed)
    models.save_checkpoint(options.folder / "stripes.safetensors", *network())


if __name__ == "__main__":
    main()
