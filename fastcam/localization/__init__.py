"""Pictures in, boxes out.

localize.py has the verb and tells how a run works; settings.py its options, and what decides about rows; inputs.py what
goes in; plan.py what is to be done and what is done, on disk; worker.py and network.py what is done with a picture;
engines/ who does it: this machine, ranks of torchrun or SLURM, or a Ray cluster.
"""

from fastcam.localization.inputs import Targets
from fastcam.localization.localize import ERRORS, localize, prepare
from fastcam.localization.plan import LocalizationSummary, Plan
from fastcam.localization.settings import LocalizeSettings
from fastcam.localization.worker import Worker

__all__ = ["ERRORS", "LocalizationSummary", "LocalizeSettings", "Plan", "Targets", "Worker", "localize", "prepare"]
