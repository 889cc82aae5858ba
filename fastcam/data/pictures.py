"""What every reader of picture files gives: the files, and what is known of each."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, Self, TypeVar

import cv2
import numpy as np
from PIL import Image

from fastcam.data.sample import Sample
from fastcam.decoding import DecodeError, decode, picture_size, read_part

T = TypeVar("T")

_ODD_PARTS = frozenset(("", ".", ".."))
_MASK_SIDE = 224  # where the standard evaluator compares masks


class Packed(NamedTuple):
    """A picture inside a larger file, which stays where it is.

    Attributes:
        path: the larger file.
        name: the picture's name in it, for messages.
        offset: where its bytes begin.
        size: how many they are.
    """

    path: Path
    name: str
    offset: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}: {self.name}"


class Pictures:
    """Picture files in an order that never changes, with what a data set's own files say about them.

    Args:
        root: folder that the ids are relative to.
        ids: a unique name for each picture, usually its path below `root` with "/".
        files: where each picture is, by default the path of `root` and id.
        labels: class index of each, or None where there are no classes.
        boxes: true boxes of each, float32 [B, 4], xyxy in pixels of its size, B may be 0; or None.
        masks: for each the mask files of its object's parts (everything that is not black is object), and that of
            what is to be ignored, or None; None where there is no mask.
        sizes: (width, height) in pixels that boxes refer to; None where it is that of the file.
        class_names: names of the classes, () if unknown.
        ignored: files that were passed over, by suffix.

    Raises:
        ValueError: an id comes twice or is no relative path (see `id_problem`), or a list is of another length.
    """

    def __init__(
        self,
        root: Path,
        ids: Sequence[str],
        files: Sequence[Path | Packed] | None = None,
        *,
        labels: Sequence[int | None] | None = None,
        boxes: Sequence[np.ndarray | None] | None = None,
        masks: Sequence[tuple[Sequence[Path], Path | None] | None] | None = None,
        sizes: Sequence[tuple[int, int] | None] | None = None,
        class_names: tuple[str, ...] = (),
        ignored: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.root, self.ids = root, list(ids)
        self.files = [root / id for id in self.ids] if files is None else list(files)
        self.labels, self.boxes, self.masks, self.sizes = labels, boxes, masks, sizes
        self.class_names, self.ignored = class_names, ignored
        for name in ("files", "labels", "boxes", "masks", "sizes"):
            values = getattr(self, name)
            if values is not None and len(values) != len(self.ids):
                raise ValueError(
                    f"`{name}` must have one entry for each of {len(self.ids)} pictures, got {len(values)}"
                )
        seen: set[str] = set()
        for id in self.ids:
            problem = "it comes twice" if id in seen else id_problem(id)
            if problem:
                raise ValueError(f"{root}: picture {id!r}: {problem}")
            seen.add(id)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture.

        Args:
            index: its place in `ids`.

        Returns:
            PIL picture, upright RGB, with all that is known.

        Raises:
            DecodeError: it, or its mask, cannot be read; the message names the file.
            ValueError: a box lies outside.
            IndexError: there is none of that index.
        """
        image = self._read(index, decode)
        return self._sample(index, image, image.size)

    def truth(self, index: int) -> Sample:
        """Tell what is known of one picture without decoding it.

        Args:
            index: its place in `ids`.

        Returns:
            The sample with image None. Where the data set does not tell sizes, the file's header does.

        Raises:
            DecodeError: the picture's header, or its mask, cannot be read; the message names the file.
            ValueError: a box lies outside.
            IndexError: there is none of that index.
        """
        told = self.sizes is not None and self.sizes[index] is not None
        return self._sample(index, None, self.sizes[index] if told else self._read(index, picture_size))

    def subset(self, indices: Iterable[int]) -> Self:
        """Choose some of the pictures.

        Args:
            indices: their places in `ids`.

        Returns:
            A data set of these, in this order.

        Raises:
            IndexError: there is none of an index.
        """
        chosen = list(indices)
        parts = {
            name: None if getattr(self, name) is None else [getattr(self, name)[i] for i in chosen]
            for name in ("ids", "files", "labels", "boxes", "masks", "sizes")
        }
        return type(self)(self.root, **parts, class_names=self.class_names, ignored=self.ignored)

    def _read(self, index: int, read: Callable[[Path | bytes], T]) -> T:
        return _named(self.files[index], read)

    def _sample(self, index: int, image: Image.Image | None, size: tuple[int, int]) -> Sample:
        label, boxes, masks, told = (
            None if values is None else values[index] for values in (self.labels, self.boxes, self.masks, self.sizes)
        )
        if told is None and boxes is not None:  # the reader could not know the size; one pixel is for rounding
            outside = (boxes[:, :2] < 0).any(1) | (boxes[:, 2:] > np.array(size) + 1).any(1)
            if outside.any():
                box = ", ".join(f"{edge:g}" for edge in boxes[outside.argmax()])
                raise ValueError(f"{self.files[index]}: box {box} lies outside the picture of {size[0]}x{size[1]}")
        return Sample(image, label, boxes, None if masks is None else _mask(*masks), told or size, self.ids[index])


def id_problem(id: str) -> str | None:
    """Tell why a text cannot be the id of a picture: paths for results are built from ids.

    Args:
        id: the text.

    Returns:
        None if it is a relative path of plain parts in UTF-8, else the reason.
    """
    if not _ODD_PARTS.isdisjoint(id.split("/")) or "\0" in id:
        return 'an id must be a relative path with "/" and without "..", "." or empty parts'
    try:
        id.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    return None


def _mask(objects: Sequence[Path], ignore: Path | None) -> np.ndarray:
    """One mask of several files: uint8 [h, w], 1 where any object is, else 255 where `ignore` is, else 0."""
    files = list(objects) + ([] if ignore is None else [ignore])
    layers = [_named(file, decode) for file in files]
    layers = [np.asarray(layer.convert("L")) > 0 for layer in layers]
    if len({layer.shape for layer in layers}) > 1:  # brought together as the standard does: each to its size, nearest
        side = (_MASK_SIDE, _MASK_SIDE)
        layers = [cv2.resize(layer.view(np.uint8), side, interpolation=cv2.INTER_NEAREST) > 0 for layer in layers]
    mask = np.logical_or.reduce(layers[: len(objects)]).astype(np.uint8)
    if ignore is not None:
        mask[layers[-1] & (mask == 0)] = 255
    return mask


def _named(file: Path | Packed, read: Callable[[Path | bytes], T]) -> T:
    """Do `read` with the file, or with its content, and name it if that fails."""
    try:
        return read(file if isinstance(file, Path) else read_part(file.path, file.offset, file.size))
    except DecodeError as error:
        raise DecodeError(error.code, f"{file}: {error.message}") from error
