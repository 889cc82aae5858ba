"""Training of classifiers on labelled pictures: what is public; `train` tells how it works."""

from fastcam.training.settings import PRESETS, Settings, read_toml
from fastcam.training.train import Callback, TrainingResult, train

__all__ = ["PRESETS", "Callback", "Settings", "TrainingResult", "read_toml", "train"]
