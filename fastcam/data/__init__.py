"""Data sets: sequences of `Sample`s in an order that never changes."""

from fastcam.data.formats import load
from fastcam.data.pictures import Pictures
from fastcam.data.sample import Dataset, Sample

__all__ = ["Dataset", "Pictures", "Sample", "load"]
