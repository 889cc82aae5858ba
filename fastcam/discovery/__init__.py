"""What a network has learnt of its classes: the objects that make a scene, and the units that make a class.

`informative_objects` (objects.py) ranks the objects of scenes, `class_units` (units.py) a class's units; network.py
leads pictures through the network for both, figures.py and the report's templates show them.
"""

from typing import TYPE_CHECKING

from fastcam._lazy import lazy

if TYPE_CHECKING:
    from fastcam.discovery.objects import InformativeObjects, SceneObject, informative_objects
    from fastcam.discovery.settings import ObjectsSettings, UnitsSettings
    from fastcam.discovery.units import ClassUnits, Unit, class_units

# Imported when they are first used: the command line reads the options without waiting for torch.
_HOMES = {
    "ClassUnits": "units",
    "InformativeObjects": "objects",
    "ObjectsSettings": "settings",
    "SceneObject": "objects",
    "Unit": "units",
    "UnitsSettings": "settings",
    "class_units": "units",
    "informative_objects": "objects",
}

__all__ = [
    "ClassUnits",
    "InformativeObjects",
    "ObjectsSettings",
    "SceneObject",
    "Unit",
    "UnitsSettings",
    "class_units",
    "informative_objects",
]

__getattr__ = lazy(__name__, _HOMES)
