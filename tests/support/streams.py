"""Pictures with all that an evaluator takes of them, drawn; some are hard."""

import json
from typing import NamedTuple

import numpy as np
import torch

from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS, Evaluator, Result
from tests.support import oracle

SIZE, CLASSES = (13, 16), 7
PICTURE = (32, 26)  # (width, height) that the maps' frame is half of


class Pictures(NamedTuple):
    """Pictures with everything that the evaluator takes, N of them."""

    ids: list[str]
    maps: torch.Tensor
    truths: list[Sample]
    logits: torch.Tensor
    boxes: list[list[oracle.Box]]  # in pixels of the maps

    def take(self, rows) -> dict:
        rows = list(rows)
        some = ([values[row] for row in rows] for values in (self.ids, self.truths))
        ids, truths = some
        return {"ids": ids, "maps": self.maps[rows], "truths": truths, "logits": self.logits[rows]}


def pictures(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> Pictures:
    rng = np.random.default_rng(seed)
    maps = [values for _, values in oracle.maps(seed, count, size)]
    boxes = [oracle.truth_boxes(rng, values) for values in maps]
    labels = rng.integers(0, CLASSES - 1, count).tolist()  # the last class has no pictures
    scores = rng.integers(-2, 3, (count, CLASSES)) + 2.0 * np.eye(CLASSES)[labels]  # with ties
    ids = [f"val/{seed}/{number}.jpg" for number in range(count)]
    truths = [
        Sample(None, label, 2 * np.array(box, np.float32), None, PICTURE, id)
        for id, label, box in zip(ids, labels, boxes, strict=True)
    ]
    return Pictures(ids, torch.from_numpy(np.stack(maps)), truths, torch.from_numpy(scores), boxes)


def protocol(name: str = "standard"):
    return PROTOCOLS[name]._replace(size=SIZE, crop=None)


STREAM = pictures(24, 9)


def evaluated(data: Pictures, name: str = "standard", **options) -> Result:
    options = {"num_classes": CLASSES, "bootstrap": 20, **options}
    evaluator = Evaluator(protocol(name), **options)
    evaluator.add(**data.take(range(len(data.ids))))
    return evaluator.result()


def same(one: Result, other: Result) -> bool:
    return json.dumps(one.to_dict()) == json.dumps(other.to_dict())
