"""The methods that turn a network's activations into maps, and their names."""

from typing import Any

from torch import nn

from fastcam.methods.activation import CAM
from fastcam.methods.core import Method
from fastcam.methods.gradient import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from fastcam.models import suggest

METHODS: dict[str, type[Method]] = {
    "cam": CAM,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
}

__all__ = [
    "CAM",
    "METHODS",
    "GradCAM",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "Method",
    "XGradCAM",
    "create",
]


def create(name: str, model: nn.Module, **options: Any) -> Method:
    """Make a method by its name.

    Args:
        name: a key of `METHODS`: "cam", "gradcam", "gradcam++", "hirescam", "layercam" or "xgradcam".
        model: the network.
        **options: keywords of the method.

    Returns:
        The method, ready to be called with images.

    Raises:
        ValueError: there is no such method; similar names are listed.
    """
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{suggest(name, list(METHODS))}")
    return METHODS[name](model, **options)
