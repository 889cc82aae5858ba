"""Data sets: sequences of `Sample`s in an order that never changes."""

from fastcam.data import matching
from fastcam.data.loading import load, splits
from fastcam.data.overview import Info, info
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Faults
from fastcam.data.sample import Collection, Dataset, Sample

__all__ = ["Collection", "Dataset", "Faults", "Info", "Pictures", "Sample", "info", "load", "matching", "splits"]
