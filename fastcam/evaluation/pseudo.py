"""Pseudo-boxes: boxes of pictures that nobody has checked, by which a threshold or an epoch is chosen.

Where pictures have labels alone, as weak supervision means it, a threshold and a checkpoint cannot be chosen by true
boxes; those of a detector, of region proposals or of another run can stand in for them. Figures are measured with true
boxes afterwards. Source: Murtaza, Belharbi, Pedersoli and Granger, A Realistic Protocol for Evaluation of Weakly
Supervised Object Localization, WACV 2025 (arXiv 2404.10034), who have them of Selective Search, CLIP and a region
proposal network.

The choice is as good as the boxes: what they get wrong alike, as boxes that are all too large, moves the threshold with
them. And a detector that has learned from boxes of other pictures brings their supervision in, though not that of these
pictures.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np

from fastcam import data as datasets
from fastcam.data import Collection, Pictures, Sample, read_for
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.sources.boxes import BoxTable
from fastcam.evaluation.sources.source import Places
from fastcam.pictures import Header, Reading
from fastcam.pictures.frame import size_of
from fastcam.runs.table import open_parquet

_Located = Callable[[int], tuple[np.ndarray, tuple[int, int] | None] | None]


class PseudoBoxed:
    """A data set whose true boxes are pseudo-boxes, whatever it has itself; else it is as it was.

    Pictures without a pseudo-box raise ValueError when they are asked for.

    Args:
        data: the data set.
        path: the pseudo-boxes: boxes.parquet of `fastcam.localize` (of each picture the first box of its class, else of
            its highest class), or a data set that `fastcam.data.load` reads: a CSV or Parquet with image_id, x0, y0, x1
            and y1, COCO's JSON, a folder of WSOL metadata, as the authors of the protocol publish theirs, and others.
        protocol: that of the evaluation.

    Attributes:
        path: that.
        missing: ids of the pictures that have none.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: it has no boxes, is malformed, or has no picture of the data set.
    """

    def __init__(self, data: Collection, path: str | os.PathLike[str], protocol: Protocol) -> None:
        self._data, self.path = data, Path(path)
        self.class_names, self.ids, self.labels = tuple(data.class_names), data.ids, data.labels
        self._located, known = (self._of_run if _is_run(self.path) else self._of_data_set)(protocol)
        self.missing = [id for place, id in enumerate(self.ids) if not known(place)]
        if len(self.missing) == len(self.ids):
            raise ValueError(
                f"{self.path} has a pseudo-box of none of the {len(self.ids)} pictures, such as {self.ids[0]!r}: is it "
                "another data set's?"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._data, name)

    def read_as(self, reading: Reading) -> Self:
        """The same with the pictures read as a network takes them."""
        found = object.__new__(type(self))
        vars(found).update(vars(self), _data=read_for(self._data, reading))
        return found

    def __getitem__(self, index: int) -> Sample:
        boxes, size = self._box(index)
        return self._data[index]._replace(boxes=boxes, mask=None, size=size)

    def truth(self, index: int) -> Sample:
        """Label and pseudo-boxes of a picture."""
        boxes, size = self._box(index)
        label = None if self.labels is None else self.labels[index]
        return Sample(None, label, boxes, None, size, self.ids[index])

    def _box(self, index: int) -> tuple[np.ndarray, tuple[int, int] | None]:
        found = self._located(index)
        if found is None:
            raise ValueError(f"no pseudo-box in {self.path}")
        return found

    def _of_run(self, protocol: Protocol) -> tuple[_Located, Callable[[int], bool]]:
        path = self.path / "boxes.parquet" if self.path.is_dir() else self.path
        table = BoxTable(path, self._data, protocol, "highest" if self.labels is None else "label")
        return table.found, lambda place: table.found(place) is not None

    def _of_data_set(self, protocol: Protocol) -> tuple[_Located, Callable[[int], bool]]:
        given = datasets.load(self.path, truth_only=True)
        places = Places(given.ids)
        partner = [places.get(id) for id in self.ids]

        def known(place: int) -> bool:
            other = partner[place]
            if other is None or not isinstance(given, Pictures):
                return other is not None
            boxes = None if given.boxes is None else given.boxes[other]
            return boxes is not None and len(boxes) > 0

        def located(place: int) -> tuple[np.ndarray, tuple[int, int] | None] | None:
            other = partner[place]
            if other is None:
                return None
            if isinstance(given, Pictures):
                found: tuple[np.ndarray | None, tuple[int, int] | None] = given.located(other, self._header(place))
            else:
                sample = given.truth(other)
                found = sample.boxes, sample.size
            boxes, size = found
            return None if boxes is None or not len(boxes) else (boxes, size)

        return located, known

    def _header(self, place: int) -> Header | None:
        """Size and orientation of the picture itself, as the file of pseudo-boxes need not be beside it."""
        if isinstance(self._data, Pictures):
            return self._data.header(place)
        image = self._data[place].image
        return None if image is None else Header(size_of(image), 1)


def _is_run(path: Path) -> bool:
    """Whether it is a table of `fastcam.localize`, or a folder that has one; a Parquet of other columns is a list."""
    if path.is_dir():
        return (path / "boxes.parquet").is_file()
    if path.suffix != ".parquet" or not path.is_file():
        return False
    with open_parquet(path) as file:
        return {"image_id", "rank", "class_id", "status"} <= set(file.schema_arrow.names)
