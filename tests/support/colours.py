"""Pictures and options for trainings of a second."""

import numpy as np

from fastcam import training
from fastcam.data import Sample
from fastcam.pictures import DecodeError

TINY = {"arch": "shufflenet_v2_x0_5", "size": 32, "batch_size": 8, "progress": False}


class Colours:
    """Reddish and bluish noise, two classes."""

    class_names = ("blue", "red")

    def __init__(self, count: int, broken: int | None = None) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index == self.broken:
            raise DecodeError("damaged", f"picture {index}: no end")
        image = np.random.default_rng(index).integers(0, 90, (32, 32, 3), dtype=np.uint8)
        image[..., 0 if index % 2 else 2] += 140
        return Sample(image, index % 2, id=str(index))


def figures(result: training.TrainingResult) -> list[dict[str, float]]:
    """The history without times."""
    return [{name: value for name, value in entry.items() if "second" not in name} for entry in result.history]
