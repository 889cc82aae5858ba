"""Data sets: sequences of samples in an order that never changes.

loading    `load`, and the table of formats
readers/   a module for each layout; `reading` is what they share
sample     what a data set is, and gives
scenes     pictures with objects that have names of their own
pictures   data sets of picture files; `turning` is for those that EXIF turns
names      class names, ids and texts as others write them
matching   where labels meet a network's classes
labels     several classes a picture, as tables and arrays tell them; `tables` reads rows of CSV and Parquet
overview   what `fastcam data info` shows
shapes     the drawn data set; drawn_wsol writes it as class folders with metadata, drawn_voc one in Pascal VOC's layout
catdog     makes class folders of dogs-vs-cats
"""

from fastcam.data import matching
from fastcam.data.labels import read_labels
from fastcam.data.loading import load, load_scenes, splits
from fastcam.data.overview import Info, info
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Faults
from fastcam.data.sample import Collection, Dataset, Sample, classes_of, read_for
from fastcam.data.scenes import Scenes

__all__ = [
    "Collection",
    "Dataset",
    "Faults",
    "Info",
    "Pictures",
    "Sample",
    "Scenes",
    "classes_of",
    "info",
    "load",
    "load_scenes",
    "matching",
    "read_for",
    "read_labels",
    "splits",
]
