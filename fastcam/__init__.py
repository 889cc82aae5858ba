"""Class activation maps and the boxes in them, in fused C++/CUDA kernels behind a PyTorch API.

Names are imported when they are first used, so that ``import fastcam`` and the command line start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fastcam._version import __version__

if TYPE_CHECKING:
    from fastcam import evaluation, methods, metrics, models, ops, visualize
    from fastcam.evaluation.run import evaluate
    from fastcam.explanation import explain
    from fastcam.localization import localize
    from fastcam.methods import (
        CAM,
        AblationCAM,
        EigenCAM,
        EigenGradCAM,
        GradCAM,
        GradCAMPlusPlus,
        GuidedBackprop,
        GuidedGradCAM,
        HiResCAM,
        LayerCAM,
        Saliency,
        ScoreCAM,
        XGradCAM,
    )
    from fastcam.training import train
    from fastcam.visualize import overlay, show_cam_on_image

_HOMES = {
    "CAM": "methods",
    "AblationCAM": "methods",
    "EigenCAM": "methods",
    "EigenGradCAM": "methods",
    "GradCAM": "methods",
    "GradCAMPlusPlus": "methods",
    "GuidedBackprop": "methods",
    "GuidedGradCAM": "methods",
    "HiResCAM": "methods",
    "LayerCAM": "methods",
    "Saliency": "methods",
    "ScoreCAM": "methods",
    "XGradCAM": "methods",
    "evaluate": "evaluation.run",
    "explain": "explanation",
    "localize": "localization",
    "train": "training",
    "overlay": "visualize",
    "show_cam_on_image": "visualize",
}
_MODULES = ("evaluation", "methods", "metrics", "models", "ops", "visualize")

__all__ = [
    "CAM",
    "AblationCAM",
    "EigenCAM",
    "EigenGradCAM",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "Saliency",
    "ScoreCAM",
    "XGradCAM",
    "__version__",
    "evaluate",
    "evaluation",
    "explain",
    "localize",
    "methods",
    "metrics",
    "models",
    "ops",
    "overlay",
    "show_cam_on_image",
    "train",
    "visualize",
]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"fastcam.{name}")
    if name in _HOMES:
        return getattr(import_module(f"fastcam.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'fastcam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
