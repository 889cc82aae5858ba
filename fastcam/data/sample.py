"""What every data set gives: samples by index."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from fastcam.pictures import Pixels, Reading


class Sample(NamedTuple):
    """One picture and what is known about it; what is not known is None.

    Attributes:
        image: uint8 [H, W, 3] RGB array, or a PIL image of any mode that `fastcam.pictures.as_rgb` takes, as it stands:
            its EXIF orientation is not looked at. For networks of other channels, or with a stated scaling, also arrays
            [H, W] and [H, W, C] of any real numbers. None where only the truth was asked for.
        label: class index; where a data set has several a picture, the one that its layout has for the strongest, or
            None where nothing tells which that is.
        boxes: float32 [B, 4], true boxes, xyxy, as the data set's own files give them (WSOL metadata and ILSVRC: the
            right and bottom edge as written, inclusive by their authors' intent; elsewhere half-open), in pixels of
            `size`.
        mask: bool or uint8 [h, w] over the whole picture: 0 or False background, 1 or True object, 255 to be ignored.
            Its height and width are those of `size`, unless the data set's mask files have others.
        size: (width, height) in pixels of the picture that boxes and mask speak of. The stored picture, `image`, can
            be smaller: some data sets come resized.
        id: a name that is unique in the data set.
        classes: class indices of all that is in the picture, ascending, each once; () where it is known to have none
            of the classes. None where a data set has but one class a picture, which need not be all that is in it.
    """

    image: Pixels | None
    label: int | None = None
    boxes: np.ndarray | None = None
    mask: np.ndarray | None = None
    size: tuple[int, int] | None = None
    id: str | None = None
    classes: tuple[int, ...] | None = None


class Dataset(Protocol):
    """What training needs of a data set: samples by index, and the names of their classes.

    Samples are read in several threads at once. One that cannot be read raises `fastcam.pictures.DecodeError`.
    """

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of their indices."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class Collection(Dataset, Protocol):
    """What `fastcam.data.load` gives: a data set that knows its pictures without decoding them, too."""

    @property
    def ids(self) -> Sequence[str]:
        """The pictures' ids."""

    @property
    def labels(self) -> Sequence[int | None] | None:
        """Class index of each, or None where there are no classes."""

    @property
    def classes(self) -> Sequence[tuple[int, ...] | None] | None:
        """All classes of each picture, see `Sample`; None where it has one label at most."""

    def truth(self, index: int, /) -> Sample:
        """Give a sample with image None.

        Args:
            index: as for the sample itself.

        Returns:
            All else that is known.
        """
        ...


def read_for(data: Any, reading: Reading) -> Any:
    """Have a data set's files read as a network takes them.

    Args:
        data: any data set.
        reading: channels and scaling.

    Returns:
        The data set that reads them so; where it gives pictures that are read already, itself.
    """
    return data.read_as(reading) if not reading.plain and hasattr(data, "read_as") else data


def classes_of(data: Collection) -> list[tuple[int, ...] | None] | None:
    """Tell the classes of each picture of a data set, whether it has one a picture or several.

    Args:
        data: any data set; one without `classes`, or without `labels`, too.

    Returns:
        For each picture its class indices, ascending, each once: its `classes`, else its label alone. () is a picture
        that is known to have none of the classes, None one of which nothing is known. None for a data set without any.
    """
    labels, classes = getattr(data, "labels", None), getattr(data, "classes", None)
    if classes is None:
        return None if labels is None else [None if label is None else (label,) for label in labels]
    given = [None] * len(classes) if labels is None else labels
    return [
        found if found is not None or label is None else (label,) for found, label in zip(classes, given, strict=True)
    ]
