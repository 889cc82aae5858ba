"""Pictures in, boxes out: what is public of the engine; `localize` tells how a run works."""

from fastcam.localization.inputs import Targets
from fastcam.localization.localize import ERRORS, localize, prepare
from fastcam.localization.plan import Plan, Summary
from fastcam.localization.worker import Worker

__all__ = ["ERRORS", "Plan", "Summary", "Targets", "Worker", "localize", "prepare"]
