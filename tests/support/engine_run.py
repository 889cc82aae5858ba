"""A run of the engine in a process of its own, for tests that kill it: FOLDER OUT WORKERS PAUSE [LIMIT]."""

import os
import resource
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from fastcam.localization import localize, prepare
from fastcam.models import ModelConfig

SIZE, CLASSES = 32, 4
CONFIG = ModelConfig("tiny", CLASSES, size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
OPTIONS = {
    "config": CONFIG,
    "batch_size": 4,
    "shard_size": 8,
    "top_k": 2,
    "maps": True,
    "threads": 1,
    "progress": False,
}


def several(folder: Path) -> dict:
    """The same options, but for one to all classes of each picture below a folder, in an order drawn for each."""
    rng = np.random.default_rng(0)
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return OPTIONS | {
        "top_k": 1,
        "targets": {id: rng.permutation(CLASSES)[: rng.integers(1, CLASSES + 1)].tolist() for id in files},
    }


class Tiny(nn.Module):
    """Convolution, average pooling, linear layer; seeded. It pauses; or kills its process (-1), or fails (-2)."""

    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.features = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU())
        self.classifier = nn.Linear(6, CLASSES)
        for parameter in self.parameters():
            parameter.data = torch.from_numpy(rng.normal(0, 0.3, tuple(parameter.shape)).astype(np.float32))
        self._pause = pause

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self._pause == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._pause == -2:
            raise RuntimeError("no good")
        time.sleep(self._pause)
        return self.classifier(self.features(images).mean((2, 3)))


if __name__ == "__main__":
    folder, out, workers, pause, *limit = sys.argv[1:]
    if limit:
        prepare(Tiny(), folder, out=out, **{name: OPTIONS[name] for name in OPTIONS if name != "progress"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), int(limit[0])))
    options = several(Path(folder)) if "SEVERAL" in os.environ else OPTIONS
    localize(Tiny(float(pause)), folder, out=out, workers=int(workers), **options)
