"""Data sets: sequences of `Sample`s in an order that never changes."""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Sample(NamedTuple):
    """One picture and what is known about it; what is not known is None.

    Attributes:
        image: uint8 [H, W, 3] RGB array, or a PIL image.
        label: class index.
        boxes: float32 [B, 4], true boxes, xyxy, half-open, in pixels of the image.
        mask: bool [H, W], True on the object.
        size: (width, height) of the image in pixels.
        id: a name that is unique in the data set.
    """

    image: Any
    label: int | None = None
    boxes: np.ndarray | None = None
    mask: np.ndarray | None = None
    size: tuple[int, int] | None = None
    id: str | None = None


class Dataset(Protocol):
    """What training needs of a data set: samples by index, and the names of their classes.

    Samples are read in several threads at once. One that cannot be read raises `fastcam.decoding.DecodeError`.

    Attributes:
        class_names: names of the classes, in the order of their indices.
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
