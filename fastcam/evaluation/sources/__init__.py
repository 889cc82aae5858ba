"""Where score maps come from: files, a compact store, boxes of a run, or a network; `source` has what all share."""

from fastcam.evaluation.sources.boxes import BoxTable
from fastcam.evaluation.sources.folder import MapFolder
from fastcam.evaluation.sources.network import NetworkMaps
from fastcam.evaluation.sources.segments import Refinement, SegmentMaps, segment_maps
from fastcam.evaluation.sources.source import Failed, Loaded, Maps, Source, opened
from fastcam.evaluation.sources.store import MapStore, MapWriter
from fastcam.evaluation.sources.variants import SharedMaps, Variant

__all__ = [
    "BoxTable",
    "Failed",
    "Loaded",
    "MapFolder",
    "MapStore",
    "MapWriter",
    "Maps",
    "NetworkMaps",
    "Refinement",
    "SegmentMaps",
    "SharedMaps",
    "Source",
    "Variant",
    "opened",
    "segment_maps",
]
