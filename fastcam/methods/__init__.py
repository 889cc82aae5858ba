"""The methods that turn a network's activations into maps, and their names."""

from typing import Any

from torch import nn

from fastcam._check import suggest
from fastcam.methods.activation import CAM, EigenCAM
from fastcam.methods.arrays import cam_from_arrays
from fastcam.methods.attention import AttentionRelevance, AttentionRollout, LeGrad
from fastcam.methods.cautions import MapWarning
from fastcam.methods.core import Method, observe
from fastcam.methods.finer import FinerCAM, RefineCAM, ShapleyCAM
from fastcam.methods.fullgrad import FullGrad
from fastcam.methods.gradient import EigenGradCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from fastcam.methods.guided import Attribution, GuidedBackprop, GuidedGradCAM, Saliency, SaliencyMap
from fastcam.methods.perturbation import AblationCAM, ScoreCAM

# Maps [N, H, W] in [0, 1], and boxes, from any layer.
METHODS: dict[str, type[Method]] = {
    "cam": CAM,
    "gradcam": GradCAM,
    "gradcam++": GradCAMPlusPlus,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "xgradcam": XGradCAM,
    "eigencam": EigenCAM,
    "eigengradcam": EigenGradCAM,
    "finercam": FinerCAM,
    "shapleycam": ShapleyCAM,
    "refinecam": RefineCAM,
    "scorecam": ScoreCAM,
    "ablationcam": AblationCAM,
}
# The same from all blocks of a vision transformer.
ATTENTION_METHODS: dict[str, type[Method]] = {
    "rollout": AttentionRollout,
    "legrad": LeGrad,
    "attention-relevance": AttentionRelevance,
}
# What boxes are found in: those maps, and two of the pictures themselves, which have no target layers.
BOX_METHODS: dict[str, type[Method]] = METHODS | ATTENTION_METHODS | {"fullgrad": FullGrad, "saliency": SaliencyMap}
# Gradients of the picture's own size, not normalised.
ATTRIBUTIONS: dict[str, type[Attribution]] = {
    "saliency": Saliency,
    "guided-backprop": GuidedBackprop,
    "guided-gradcam": GuidedGradCAM,
}

__all__ = [
    "ATTENTION_METHODS",
    "ATTRIBUTIONS",
    "BOX_METHODS",
    "CAM",
    "METHODS",
    "AblationCAM",
    "AttentionRelevance",
    "AttentionRollout",
    "Attribution",
    "EigenCAM",
    "EigenGradCAM",
    "FinerCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMPlusPlus",
    "GuidedBackprop",
    "GuidedGradCAM",
    "HiResCAM",
    "LayerCAM",
    "LeGrad",
    "MapWarning",
    "Method",
    "RefineCAM",
    "Saliency",
    "SaliencyMap",
    "ScoreCAM",
    "ShapleyCAM",
    "XGradCAM",
    "cam_from_arrays",
    "create",
    "observe",
]


def create(name: str, model: nn.Module, **options: Any) -> Method | Attribution:
    """Make a method by its name.

    Args:
        name: a key of `METHODS` ("cam", "gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam",
            "eigengradcam", "finercam", "shapleycam", "refinecam", "scorecam", "ablationcam"), of `ATTENTION_METHODS`
            ("rollout", "legrad", "attention-relevance"), "fullgrad", or a key of `ATTRIBUTIONS` ("saliency",
            "guided-backprop", "guided-gradcam").
        model: the network.
        **options: keywords of the method.

    Returns:
        The method, ready to be called with images.

    Raises:
        ValueError: there is no such method; similar names are listed.
    """
    known = BOX_METHODS | ATTRIBUTIONS
    if name not in known:
        raise ValueError(f"unknown method {name!r}{suggest(name, known)}")
    return known[name](model, **options)
