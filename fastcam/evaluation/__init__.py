"""Localization metrics under the names and with the definitions of the field.

`overlap` has what needs boxes alone: IoU, BoxAcc, baselines. `Evaluator` measures score maps against ground truth in a
stream, by the standard evaluator's rules or those of another `Protocol`; `Result` is what came out.
"""

from importlib import import_module
from importlib.util import find_spec

from fastcam.evaluation.epochs import localizer
from fastcam.evaluation.evaluator import Evaluator, Scores
from fastcam.evaluation.overlap import (
    BestBox,
    BestThreshold,
    best_center_box,
    box_accuracy,
    box_iou,
    choose_threshold,
    max_box_acc,
)
from fastcam.evaluation.protocols import PROTOCOLS, Protocol
from fastcam.evaluation.result import METRICS, Result

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "BestBox",
    "BestThreshold",
    "Evaluator",
    "Protocol",
    "Result",
    "Scores",
    "best_center_box",
    "box_accuracy",
    "box_iou",
    "choose_threshold",
    "localizer",
    "max_box_acc",
]


def __getattr__(name: str) -> object:
    # The modules that run evaluations, which need more packages, when they are first used.
    if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")
