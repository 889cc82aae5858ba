"""Data sets of picture files: where they are, and what the data set's own files say about them."""

import operator
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import NamedTuple, Self, TypeVar

import cv2
import numpy as np

from fastcam.data.names import id_problem
from fastcam.data.sample import Sample
from fastcam.data.segments import Segments
from fastcam.data.turning import Frame, Size, frame_of, turn_boxes, turn_mask
from fastcam.pictures import (
    PLAIN,
    Decoded,
    DecodeError,
    Header,
    Pixels,
    Reading,
    Samples,
    decode_mask,
    read,
    read_header,
    read_part,
)

T = TypeVar("T")

_MASK_SIDE = 224  # where the standard evaluator compares masks
_MASK_RATIO = 1.05  # by which the proportions of a mask may differ from its picture's
_looking = Lock()  # for what a data set has to say of its frame


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


class Masks(NamedTuple):
    """The mask files of a picture, in which everything that is not black counts.

    Attributes:
        objects: the parts of its object.
        ignore: what is to be ignored, if there is such a file.
    """

    objects: Sequence[Path]
    ignore: Path | None

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [*self.objects, *([] if self.ignore is None else [self.ignore])]


class Pictures:
    """Picture files in an order that never changes, with what a data set's own files say about them.

    Args:
        root: folder that the ids are relative to.
        ids: a unique name for each picture, usually its path below `root` with "/".
        files: where each picture is, by default the path of `root` and id.
        labels: class index of each, or None where there are no classes.
        classes: class indices of all that is in each, see `Sample`, () where it has none of the classes, None where
            that is not known; None where the data set has one class a picture.
        boxes: true boxes of each, float32 [B, 4], xyxy in pixels of its size, B may be 0; or None.
        masks: the mask files of each; None where there are none.
        sizes: (width, height) in pixels that boxes refer to; None where it is that of the file. Boxes, sizes and masks
            may speak of the stored picture where EXIF turns it: samples have them turned, see `fastcam.data.load`.
        class_names: names of the classes, () if unknown.
        ignored: files that were passed over, by suffix.
        resized: pictures may be stored in sizes of other proportions than `sizes`, and masks, too; if not so, such a
            picture is refused when it is asked for.
        segments: the folder of their class PNGs, the truth of segmentation; None if there is none.

    Attributes:
        reading: how the files are read: the plain one, RGB of 8 bits, or what `read_as` was given.

    Raises:
        ValueError: an id comes twice or is no relative path (see `id_problem`), a list is of another length, or classes
            are negative or lack the label.
    """

    def __init__(
        self,
        root: Path,
        ids: Sequence[str],
        files: Sequence[Path | Packed] | None = None,
        *,
        labels: Sequence[int | None] | None = None,
        classes: Sequence[Iterable[int] | None] | None = None,
        boxes: Sequence[np.ndarray | None] | None = None,
        masks: Sequence[Masks | None] | None = None,
        sizes: Sequence[tuple[int, int] | None] | None = None,
        class_names: tuple[str, ...] = (),
        ignored: Mapping[str, int] = MappingProxyType({}),
        resized: bool = True,
        segments: Segments | None = None,
    ) -> None:
        self.root, self.ids = root, list(ids)
        self.files: list[Path | Packed] = [root / id for id in self.ids] if files is None else list(files)
        self.labels, self.boxes, self.masks, self.sizes = labels, boxes, masks, sizes
        self.class_names, self.ignored, self.resized = class_names, ignored, resized
        self.segments = segments
        self.reading = PLAIN
        self.classes: list[tuple[int, ...] | None] | None = None
        if classes is not None:
            sets = (None if found is None else set(map(operator.index, found)) for found in classes)
            self.classes = [None if found is None else tuple(sorted(found)) for found in sets]
        self._ambiguous: Frame | None = None  # what those are taken for whose size is not enough; None until one comes
        columns: dict[str, Sequence[object] | None] = {"files": self.files, "labels": labels, "classes": self.classes}
        columns |= {"boxes": boxes, "masks": masks, "sizes": sizes}
        for name, values in columns.items():
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
        for id, label, found in zip(self.ids, labels or [None] * len(self.ids), self.classes or (), strict=False):
            if found is not None and (min(found, default=0) < 0 or (label is not None and label not in found)):
                of = "" if label is None else f" with its label, {label}, among them"
                raise ValueError(f"{root}: picture {id!r}: expected classes of at least 0{of}, got {found}")

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Read one picture: a PIL picture, upright RGB, with all that is known; `Samples` if `reading` is not plain.

        Raises:
            DecodeError: it, or its mask, cannot be read; the message names the file.
            ValueError: a box lies outside, or sizes do not fit.
            IndexError: there is none of that index.
        """
        found = self._read(index, self._decoded)
        image = found.pixels if isinstance(found.pixels, Samples) else found.image
        return self._sample(index, image, Header(image.size, found.orientation))

    def truth(self, index: int, header: Header | None = None) -> Sample:
        """What is known of one picture, which is not decoded.

        Args:
            index: its place in `ids`.
            header: the picture's, where it is known already.

        Returns:
            The sample with image None. Where the data set does not have sizes, the file's header does. Where it does,
            and the file cannot be read, they are taken for those of the upright picture.

        Raises:
            DecodeError: the picture's header, or its mask, cannot be read; the message names the file.
            ValueError: a box lies outside, or sizes do not fit.
            IndexError: there is none of that index.
        """
        return self._sample(index, None, self.header(index) if header is None else header)

    def pixels(self, index: int) -> Pixels:
        """Read one picture alone, whatever is known of it.

        Args:
            index: its place in `ids`.

        Returns:
            The upright picture, PIL or uint8 [H, W, 3], RGB; its `Samples` if `reading` is not plain.

        Raises:
            DecodeError: it cannot be read; the message names the file.
            IndexError: there is none of that index.
        """
        return self._read(index, self._decoded).pixels

    def _decoded(self, source: Path | bytes) -> Decoded[Pixels]:
        return read(source, reading=self.reading)

    def read_as(self, reading: Reading) -> Self:
        """Have the files read as a network takes them.

        Args:
            reading: that of its `fastcam.pictures.Preprocess`.

        Returns:
            The same pictures with all that is known of them.
        """
        found = copy(self)
        found.reading = reading
        return found

    def located(self, index: int, header: Header | None = None) -> tuple[np.ndarray | None, Size]:
        """The boxes of one picture, without its mask.

        Args:
            index: its place in `ids`.
            header: the picture's, where it is known already.

        Returns:
            Boxes, float32 [B, 4], or None, of the upright picture, and the (width, height) that they refer to.

        Raises:
            DecodeError, ValueError, IndexError: as `truth`.
        """
        header = self.header(index) if header is None else header
        boxes, size = _at(self.boxes, index), _at(self.sizes, index)
        frame = self._frame(index, header)
        if frame == "neither":
            name, (width, height) = self.files[index], header.size
            if size is None:
                assert boxes is not None  # without size and boxes all fits
                box = ", ".join(f"{edge:g}" for edge in boxes[_outside(boxes, header.size).argmax()])
                raise ValueError(f"{name}: box {box} lies outside the picture of {width}x{height}")
            stored = f", stored as {height}x{width}" if header.orientation >= 5 else ""
            raise ValueError(
                f"{name} has {width}x{height} pixels{stored}, but the data set tells of {size[0]}x{size[1]}, a picture "
                "of other proportions: it may have been cropped; give its own size with the boxes"
            )
        size = size or (header.size[::-1] if frame == "stored" and header.orientation >= 5 else header.size)
        if frame != "stored":
            return boxes, size
        turned, size = turn_boxes(np.zeros((0, 4)) if boxes is None else boxes, size, header.orientation)
        return None if boxes is None else turned, size

    def labelled(self) -> Self:
        """Leave out all that is known of the pictures but their labels and classes.

        Returns:
            The same pictures, of which no sizes, boxes and masks are looked at.
        """
        labelled = type(self)(
            self.root,
            self.ids,
            self.files,
            labels=self.labels,
            classes=self.classes,
            class_names=self.class_names,
            ignored=self.ignored,
        )
        return labelled.read_as(self.reading)

    def subset(self, indices: Iterable[int]) -> Self:
        """Choose some of the pictures.

        Args:
            indices: their places in `ids`.

        Returns:
            A data set of these, in this order.

        Raises:
            IndexError: there is none of an index.
        """
        places = list(indices)
        chosen = type(self)(
            self.root,
            [self.ids[place] for place in places],
            [self.files[place] for place in places],
            labels=_chosen(self.labels, places),
            classes=_chosen(self.classes, places),
            boxes=_chosen(self.boxes, places),
            masks=_chosen(self.masks, places),
            sizes=_chosen(self.sizes, places),
            class_names=self.class_names,
            ignored=self.ignored,
            resized=self.resized,
            segments=self.segments,
        )
        return chosen.read_as(self.reading)

    def _read(self, index: int, read: Callable[[Path | bytes], T]) -> T:
        return _named(self.files[index], read)

    def header(self, index: int) -> Header:
        """Read a picture's size and orientation.

        Args:
            index: its place in `ids`.

        Returns:
            Those of its file; where that cannot be read, the data set's size, if it has one.

        Raises:
            DecodeError: neither is known; the message names the file.
            IndexError: there is none of that index.
        """
        try:
            return self._read(index, read_header)
        except DecodeError:
            if (size := _at(self.sizes, index)) is None:
                raise
            return Header(size, 1)

    def _sample(self, index: int, image: Pixels | None, header: Header) -> Sample:
        masks = _at(self.masks, index)
        boxes, size = self.located(index, header)
        mask = None if masks is None else self._mask(index, Masks(*masks), header)
        label, classes = _at(self.labels, index), _at(self.classes, index)
        return Sample(image, label, boxes, mask, size, self.ids[index], classes)

    def _frame(self, index: int, header: Header) -> Frame:
        """What size and boxes speak of; never "either"."""
        found = self._first_sight(index, header)
        boxes = _at(self.boxes, index)
        if boxes is None or not len(boxes):
            return "stored" if found == "stored" else "upright"  # nothing depends on it where the size is the same
        if found == "neither" and self.resized and _at(self.sizes, index) is not None:
            found = "either"
        return self._decided(index, found, header)

    def _first_sight(self, index: int, header: Header) -> Frame:
        boxes, size = _at(self.boxes, index), _at(self.sizes, index)
        if size is not None:
            return frame_of(size, *header)
        if boxes is None:
            return "either"
        stored = header.size[::-1] if header.orientation >= 5 else header.size
        fits = [not _outside(boxes, extent).any() for extent in (header.size, stored)]
        return "either" if all(fits) else "upright" if fits[0] else "stored" if fits[1] else "neither"

    def _decided(self, index: int, found: Frame, header: Header) -> Frame:
        """Ask the other pictures where a picture's own size is not enough."""
        if found != "either":
            return found
        if header.orientation == 1:
            return "upright"
        with _looking:
            if self._ambiguous is None:
                self._ambiguous = self._convention()
        if self._ambiguous == "neither":
            raise ValueError(
                f"{self.files[index]} is turned by its EXIF orientation {header.orientation}, and nothing tells if the "
                "data set speaks of it as it is stored or upright, since it speaks of others in both ways: store the "
                "picture upright, without EXIF"
            )
        return self._ambiguous

    def _convention(self) -> Frame:
        """What the data set speaks of where that can be seen; "neither" if it is not always the same."""
        seen: set[Frame] = set()
        for index in range(len(self)):
            try:
                header = self._read(index, read_header)
                if header.orientation > 1:
                    seen.add(self._first_sight(index, header))
                if header.orientation >= 5 and (files := _at(self.masks, index)) is not None:
                    masks = [_named(file, read_header) for file in Masks(*files).files]
                    seen |= {frame_of(mask.size, *header) for mask in masks if mask.orientation == 1}
            except DecodeError:
                continue
        seen &= {"stored", "upright"}
        if len(seen) == 1:
            return seen.pop()
        if not seen:
            warnings.warn(
                f"{self.root}: some pictures are turned by EXIF, and no size tells if boxes and masks speak of them as "
                "they are stored or upright: taken for upright, as tools for annotation show them",
                stacklevel=2,
            )
        return "neither" if seen else "upright"

    def _mask(self, index: int, masks: Masks, header: Header) -> np.ndarray:
        """One mask of several files: uint8 [h, w], 1 where any object is, else 255 where `ignore` is, else 0."""
        layers = [self._layer(index, file, header) for file in masks.files]
        if len({layer.shape for layer in layers}) > 1:  # together as the standard has them: each to its size, nearest
            side = (_MASK_SIDE, _MASK_SIDE)
            layers = [cv2.resize(layer.view(np.uint8), side, interpolation=cv2.INTER_NEAREST) > 0 for layer in layers]
        mask = np.logical_or.reduce(layers[: len(masks.objects)]).astype(np.uint8)
        if masks.ignore is not None:
            mask[layers[-1] & (mask == 0)] = 255
        return mask

    def _layer(self, index: int, file: Path, header: Header) -> np.ndarray:
        """One mask file, upright: bool [h, w]."""
        layer = _named(file, decode_mask)
        size, (width, height) = layer.shape[::-1], header.size
        frame = frame_of(size, *header)
        if frame == "neither":
            ratio = size[0] * height / (size[1] * width)
            if not self.resized and max(ratio, 1 / ratio) > _MASK_RATIO:
                raise ValueError(
                    f"{file} has {size[0]}x{size[1]} pixels, but {self.files[index]} has {width}x{height}: expected a "
                    "mask of its proportions"
                )
            frame = "either"
        if header.orientation == 1 or _named(file, read_header).orientation > 1:  # a mask's own EXIF has turned it
            return layer
        stored = self._decided(index, frame, header) == "stored"
        return turn_mask(layer, header.orientation) if stored else layer


def _outside(boxes: np.ndarray, size: Size) -> np.ndarray:
    """Which boxes stick out of a picture; one pixel is for rounding."""
    return np.logical_or((boxes[:, :2] < 0).any(1), (boxes[:, 2:] > np.array(size) + 1).any(1))


def _at(values: Sequence[T | None] | None, index: int) -> T | None:
    """An entry of a column that may not be there."""
    return None if values is None else values[index]


def _chosen(values: Sequence[T] | None, places: Sequence[int]) -> list[T] | None:
    return None if values is None else [values[place] for place in places]


def _named(file: Path | Packed, read: Callable[[Path | bytes], T]) -> T:
    """Do `read` with the file, or with its content, and name it if that fails."""
    try:
        return read(file if isinstance(file, Path) else read_part(file.path, file.offset, file.size))
    except DecodeError as error:
        raise DecodeError(error.code, f"{file}: {error.message}") from error
