"""Class activation maps and the boxes in them, in fused C++/CUDA kernels behind a PyTorch API.

Names are imported when they are first used, so that ``import fastcam`` and the command line start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from fastcam._version import __version__

if TYPE_CHECKING:
    from fastcam import (
        cropping,
        data,
        discovery,
        drawing,
        evaluation,
        export,
        fitting,
        localization,
        methods,
        metrics,
        models,
        ops,
        pictures,
        report,
        runs,
        training,
        vqa,
    )
    from fastcam.cropping import crop
    from fastcam.discovery import class_units, informative_objects
    from fastcam.drawing import overlay, show_cam_on_image
    from fastcam.evaluation import compare, evaluate
    from fastcam.explanation import explain
    from fastcam.fitting import fit
    from fastcam.localization import localize
    from fastcam.methods import (
        CAM,
        AblationCAM,
        AttentionRelevance,
        AttentionRollout,
        EigenCAM,
        EigenGradCAM,
        FinerCAM,
        FullGrad,
        GradCAM,
        GradCAMPlusPlus,
        GuidedBackprop,
        GuidedGradCAM,
        HiResCAM,
        LayerCAM,
        LeGrad,
        RefineCAM,
        Saliency,
        ScoreCAM,
        ShapleyCAM,
        XGradCAM,
        cam_from_arrays,
    )
    from fastcam.training import train

_HOMES = {
    "CAM": "methods",
    "AblationCAM": "methods",
    "AttentionRelevance": "methods",
    "AttentionRollout": "methods",
    "EigenCAM": "methods",
    "EigenGradCAM": "methods",
    "FinerCAM": "methods",
    "FullGrad": "methods",
    "GradCAM": "methods",
    "GradCAMPlusPlus": "methods",
    "GuidedBackprop": "methods",
    "GuidedGradCAM": "methods",
    "HiResCAM": "methods",
    "LayerCAM": "methods",
    "LeGrad": "methods",
    "RefineCAM": "methods",
    "Saliency": "methods",
    "ScoreCAM": "methods",
    "ShapleyCAM": "methods",
    "XGradCAM": "methods",
    "cam_from_arrays": "methods",
    "class_units": "discovery",
    "compare": "evaluation",
    "crop": "cropping",
    "evaluate": "evaluation",
    "explain": "explanation",
    "fit": "fitting",
    "informative_objects": "discovery",
    "localize": "localization",
    "train": "training",
    "overlay": "drawing",
    "show_cam_on_image": "drawing",
}

# Former names of modules, until 1.0.
_MOVED = {
    "decoding": "pictures",
    "distributed": "localization.engines",
    "outputs": "export",
    "panels": "drawing",
    "visualize": "drawing",
}

__all__ = [
    "CAM",
    "AblationCAM",
    "AttentionRelevance",
    "AttentionRollout",
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
    "RefineCAM",
    "Saliency",
    "ScoreCAM",
    "ShapleyCAM",
    "XGradCAM",
    "__version__",
    "cam_from_arrays",
    "class_units",
    "compare",
    "crop",
    "cropping",
    "data",
    "discovery",
    "drawing",
    "evaluate",
    "evaluation",
    "explain",
    "export",
    "fit",
    "fitting",
    "informative_objects",
    "localization",
    "localize",
    "methods",
    "metrics",
    "models",
    "ops",
    "overlay",
    "pictures",
    "report",
    "runs",
    "show_cam_on_image",
    "targets",
    "train",
    "training",
    "vqa",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(f"fastcam.{_HOMES[name]}"), name)
    if name in _modules():
        return import_module(f"fastcam.{name}")
    if name in _MOVED:
        from warnings import warn

        warn(f"fastcam.{name} is fastcam.{_MOVED[name]} now", DeprecationWarning, stacklevel=2)
        return import_module(f"fastcam.{_MOVED[name]}")
    raise AttributeError(f"module 'fastcam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*__all__, *_modules()})


def _modules() -> set[str]:
    """Names of the package's modules, from its folder."""
    from pkgutil import iter_modules

    return {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}
