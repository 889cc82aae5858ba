"""Linear heads on pooled features: a network learns new classes in one pass over their pictures, and keeps its CAMs.

settings  the options of `fit`
trunk     which layer's maps are pooled, how, and the linear layer that is given them
features  pictures to pooled features, kept in a file
heads     features and labels to a linear layer, and how accurate it is
concepts  positives against negatives, the hardest of them found in rounds
fit       `fit`: all of that, to a checkpoint
"""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.fitting.features import Features, pooled_features, read_features
    from fastcam.fitting.fit import FitResult, fit
    from fastcam.fitting.heads import Accuracy, Fitted, cross_validate, fit_head, with_head
    from fastcam.fitting.settings import FitSettings

# Imported when they are first used: the command line reads the options without waiting for torch.
_HOMES = {
    "Accuracy": "heads",
    "Features": "features",
    "FitResult": "fit",
    "FitSettings": "settings",
    "Fitted": "heads",
    "cross_validate": "heads",
    "fit": "fit",
    "fit_head": "heads",
    "pooled_features": "features",
    "read_features": "features",
    "with_head": "heads",
}

__all__ = [
    "Accuracy",
    "Features",
    "FitResult",
    "FitSettings",
    "Fitted",
    "cross_validate",
    "fit",
    "fit_head",
    "pooled_features",
    "read_features",
    "with_head",
]

__getattr__ = lazy(__name__, _HOMES)
