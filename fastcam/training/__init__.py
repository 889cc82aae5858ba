"""Training of classifiers on labelled pictures: what is public; train.py says how it works."""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.training.settings import PRESETS, Settings, read_toml
    from fastcam.training.train import Callback, TrainingResult, train

__all__ = ["PRESETS", "Callback", "Settings", "TrainingResult", "read_toml", "train"]

__getattr__ = lazy(
    __name__,
    {
        "PRESETS": "settings",
        "Callback": "train",
        "Settings": "settings",
        "TrainingResult": "train",
        "read_toml": "settings",
        "train": "train",
    },
)
