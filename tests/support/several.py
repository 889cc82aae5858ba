"""Drawn pictures of several classes each, of one, and of none; as a program, a training on them, in the folder OUT."""

import sys
from pathlib import Path

import cv2
import numpy as np

from fastcam import training
from fastcam.data import Sample

_COLOURS = ((220, 60, 60), (60, 200, 80), (70, 90, 230), (230, 200, 60))


class Several:
    """Coloured discs, squares, triangles and crosses before grey noise: each class is there or not, as it happens.

    `classes` are those of all pictures, `labels` the first of each.
    """

    class_names = ("disc", "square", "triangle", "cross")

    def __init__(self, count: int, seed: int = 0, size: int = 64) -> None:
        self.seed, self.size = seed, size
        present = np.random.default_rng((seed, 0)).random((count, len(self.class_names))) < 0.4
        self.truth_table = present
        self.classes = [tuple(np.flatnonzero(row).tolist()) for row in present]
        self.labels = [found[0] if found else None for found in self.classes]

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, index: int) -> Sample:
        rng = np.random.default_rng((self.seed, 1, index))
        image = rng.integers(60, 150, (self.size, self.size, 3), dtype=np.uint8)
        for kind in self.classes[index]:
            radius = int(self.size * rng.uniform(0.12, 0.2))
            x, y = rng.integers(radius, self.size - radius, 2).tolist()
            _draw(image, kind, x, y, radius)
        return Sample(image, self.labels[index], id=f"{index}.png", classes=self.classes[index])


def _draw(image: np.ndarray, kind: int, x: int, y: int, radius: int) -> None:
    colour = _COLOURS[kind]
    if kind == 0:
        cv2.circle(image, (x, y), radius, colour, -1)
    elif kind == 1:
        cv2.rectangle(image, (x - radius, y - radius), (x + radius, y + radius), colour, -1)
    elif kind == 2:
        corners = np.array([(x, y - radius), (x - radius, y + radius), (x + radius, y + radius)], np.int32)
        cv2.fillPoly(image, [corners], colour)
    else:
        cv2.line(image, (x - radius, y), (x + radius, y), colour, radius // 2 + 1)
        cv2.line(image, (x, y - radius), (x, y + radius), colour, radius // 2 + 1)


def run(out: Path) -> training.TrainingResult:
    """Few steps; BatchNorm is frozen, whose live statistics would be those of each process's share."""
    options = {
        "loss": "bce",
        "size": 32,
        "batch_size": 6,
        "epochs": 2,
        "lr": 0.003,
        "optimizer": "sgd",
        "device": "cpu",
    }
    data = Several(22, size=32), Several(21, 1, 32)
    return training.train(data, out=out, freeze_bn=True, schedule="constant", progress=False, **options)


if __name__ == "__main__":
    run(Path(sys.argv[1]))
