"""Figures of where a network sees classes in pictures: `explain`, and its options."""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.explanation.figures import Explanation, explain
    from fastcam.explanation.settings import ExplainSettings

# Imported when they are first used: the command line reads the options without waiting for torch.
_HOMES = {"ExplainSettings": "settings", "Explanation": "figures", "explain": "figures"}

__all__ = ["ExplainSettings", "Explanation", "explain"]

__getattr__ = lazy(__name__, _HOMES)
