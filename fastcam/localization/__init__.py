"""Pictures in, boxes out.

localize.py has the verb and how a run works; settings.py its options; inputs.py what goes in; plan.py what is to
be done and what is done, on disk; run_settings.py what of it decides about rows; worker.py and network.py what is done
with a picture; engines/ who does it: this machine, ranks of torchrun or SLURM, or a Ray cluster.
"""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.localization.localize import ERRORS, localize, prepare
    from fastcam.localization.plan import LocalizationSummary, Plan
    from fastcam.localization.settings import LocalizeSettings, Targets
    from fastcam.localization.worker import Worker

__all__ = ["ERRORS", "LocalizationSummary", "LocalizeSettings", "Plan", "Targets", "Worker", "localize", "prepare"]

__getattr__ = lazy(
    __name__,
    {
        "ERRORS": "localize",
        "LocalizationSummary": "plan",
        "LocalizeSettings": "settings",
        "Plan": "plan",
        "Targets": "settings",
        "Worker": "worker",
        "localize": "localize",
        "prepare": "localize",
    },
)
