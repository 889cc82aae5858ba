"""Pictures cut out by their boxes, as class folders: `crop`, and its options."""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.cropping.crop import ERRORS, Cropped, crop
    from fastcam.cropping.settings import CropSettings

# Imported when they are first used: the command line reads the options without waiting for torch.
_HOMES = {"CropSettings": "settings", "Cropped": "crop", "ERRORS": "crop", "crop": "crop"}

__all__ = ["ERRORS", "CropSettings", "Cropped", "crop"]

__getattr__ = lazy(__name__, _HOMES)
