"""Localization metrics under the names and with the definitions of the field.

`evaluate` and `compare` open sources of maps, measure them and write what came out. They rest on `Evaluator`, which
measures score maps against ground truth in a stream, by the standard evaluator's rules or those of another `Protocol`,
and gives a `Result`, and on `SegmentationEvaluator`, which measures maps as pseudo-labels against class PNGs. `overlap`
has what needs boxes alone: IoU, BoxAcc, baselines; `average_precision` is of classification alone.
"""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.evaluation.average_precision import average_precision
    from fastcam.evaluation.compare import compare
    from fastcam.evaluation.epochs import localizer
    from fastcam.evaluation.evaluate import EvaluationSummary, evaluate
    from fastcam.evaluation.evaluator import Evaluator
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
    from fastcam.evaluation.result import Result
    from fastcam.evaluation.segmentation import SegmentationEvaluator, SegmentationResult
    from fastcam.evaluation.settings import METRICS
    from fastcam.evaluation.table import Comparison
    from fastcam.evaluation.tally import Scores

# Imported when they are first used: the command line reads the options of `settings` without waiting for torch.
_HOMES = {
    "METRICS": "settings",
    "PROTOCOLS": "protocols",
    "BestBox": "overlap",
    "BestThreshold": "overlap",
    "Comparison": "table",
    "EvaluationSummary": "evaluate",
    "Evaluator": "evaluator",
    "Protocol": "protocols",
    "Result": "result",
    "Scores": "tally",
    "SegmentationEvaluator": "segmentation",
    "SegmentationResult": "segmentation",
    "average_precision": "average_precision",
    "best_center_box": "overlap",
    "box_accuracy": "overlap",
    "box_iou": "overlap",
    "choose_threshold": "overlap",
    "compare": "compare",
    "evaluate": "evaluate",
    "localizer": "epochs",
    "max_box_acc": "overlap",
}

__all__ = [
    "METRICS",
    "PROTOCOLS",
    "BestBox",
    "BestThreshold",
    "Comparison",
    "EvaluationSummary",
    "Evaluator",
    "Protocol",
    "Result",
    "Scores",
    "SegmentationEvaluator",
    "SegmentationResult",
    "average_precision",
    "best_center_box",
    "box_accuracy",
    "box_iou",
    "choose_threshold",
    "compare",
    "evaluate",
    "localizer",
    "max_box_acc",
]

__getattr__ = lazy(__name__, _HOMES)
