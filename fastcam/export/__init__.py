"""Boxes and maps of a run in the formats of other tools.

`export` (export.py) reads the run picture by picture and gives each to a format: coco.py, boxes.py (CSV, Label Studio,
Pascal VOC, YOLO, WSOL), maps.py (PNG, .npy; and `MapTable`, which gives maps in any size), labels.py (pseudo-labels of
segmentation). files.py has what formats share. A new format is a function there, a name in
`fastcam.runs.folder.EXPORTS`, and a line of `FORMATS`.
"""

from fastcam.export.export import FORMATS, Exported, ExportFormat, check_formats, export, places
from fastcam.export.maps import CoarseMap, MapTable

__all__ = ["FORMATS", "CoarseMap", "ExportFormat", "Exported", "MapTable", "check_formats", "export", "places"]
