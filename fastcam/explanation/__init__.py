"""Figures of where a network sees classes in pictures: `explain`, and its options."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastcam.explanation.figures import Explanation, explain
    from fastcam.explanation.settings import ExplainSettings

# Imported when they are first used: the command line reads the options without waiting for torch.
_HOMES = {"ExplainSettings": "settings", "Explanation": "figures", "explain": "figures"}

__all__ = ["ExplainSettings", "Explanation", "explain"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
