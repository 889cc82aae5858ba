"""Scenes: pictures whose class is that of the whole, and the objects in them, each with a name of its own."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Self, TypeAlias

import cv2
import numpy as np

from fastcam.data.names import ordered
from fastcam.data.pictures import Pictures
from fastcam.data.turning import turn_mask
from fastcam.pictures.containers import MAX_PIXELS

_SUBPIXEL = 4  # fractional bits of the coordinates that OpenCV is given


class Runs(NamedTuple):
    """A mask as COCO's run lengths: pixels column by column, background first.

    Attributes:
        counts: int64 [R], lengths, background and object in turns; their sum is that of all pixels.
        size: (width, height) in pixels.
    """

    counts: np.ndarray
    size: tuple[int, int]

    def mask(self) -> np.ndarray:
        """Bool [height, width]."""
        width, height = self.size
        return np.repeat(np.arange(len(self.counts)) % 2 == 1, self.counts).reshape(width, height).T


Shape: TypeAlias = Sequence[np.ndarray] | Runs | Path  # polygons float [P, 2], x and y; run lengths; or a mask file


class Part(NamedTuple):
    """One object in a picture, or a piece of one.

    Attributes:
        object: its class among the names of objects.
        shape: where it is, in the pixels that the picture's boxes count; a mask file may have others.
    """

    object: int
    shape: Shape

    def bounds(self) -> list[float] | None:
        """Left, top, right and bottom of polygons; None of masks, which cannot stick out."""
        if isinstance(self.shape, Runs | Path):
            return None
        points = np.concatenate(list(self.shape))
        return [*points.min(0).tolist(), *points.max(0).tolist()]


class Scenes(Pictures):
    """Pictures of scenes. Labels are the classes of the scenes, and boxes those of all objects that have some.

    Args:
        *args: as for `Pictures`.
        parts: the objects of each picture.
        object_names: names of the objects' classes.
        **columns: as for `Pictures`.

    Attributes:
        parts: the objects of each picture.
        object_names: names of the objects' classes.
    """

    def __init__(
        self, *args: Any, parts: Sequence[Sequence[Part]] = (), object_names: Sequence[str] = (), **columns: Any
    ) -> None:
        super().__init__(*args, **columns)
        self.parts, self.object_names = parts, tuple(object_names)

    @classmethod
    def of(cls, pictures: Pictures, named: Sequence[Sequence[tuple[str, Shape]]], names: Iterable[str] = ()) -> Self:
        """Add objects to pictures.

        Args:
            pictures: with labels of scenes.
            named: name and shape of each object of each picture.
            names: of all objects, in order; by default those that come, in the order of classes.

        Returns:
            The scenes.
        """
        names = list(names) or ordered(name for objects in named for name, _ in objects)
        places = {name: place for place, name in enumerate(names)}
        parts = [[Part(places[name], shape) for name, shape in objects] for objects in named]
        boxes = [[box for part in objects if (box := part.bounds()) is not None] for objects in parts]
        return cls(
            pictures.root,
            pictures.ids,
            pictures.files,
            labels=pictures.labels,
            classes=pictures.classes,
            boxes=[np.array(found, np.float32).reshape(-1, 4) for found in boxes] if any(boxes) else None,
            masks=pictures.masks,
            sizes=pictures.sizes,
            class_names=pictures.class_names,
            ignored=pictures.ignored,
            resized=pictures.resized,
            parts=parts,
            object_names=names,
        )

    def subset(self, indices: Iterable[int]) -> Self:
        """Choose some of the pictures.

        Args:
            indices: their places in `ids`.

        Returns:
            Scenes of these, in this order.

        Raises:
            IndexError: there is none of an index.
        """
        places = list(indices)
        chosen = super().subset(places)
        chosen.parts, chosen.object_names = [self.parts[place] for place in places], self.object_names
        return chosen

    def regions(self, index: int, size: tuple[int, int]) -> dict[int, np.ndarray]:
        """Draw the objects of one picture.

        Args:
            index: its place in `ids`.
            size: (width, height) in pixels of what is drawn: all of the upright picture, in whatever size.

        Returns:
            For each class of objects in the picture all of them together, bool [height, width]: a pixel counts if most
            of it does, and at least one of each object does. Mask files that are black have no object.

        Raises:
            DecodeError: the picture's header, or a mask file, cannot be read; the message names the file.
            ValueError: an object lies outside, or sizes do not fit.
            IndexError: there is none of that index.
        """
        header = self.header(index)
        _, whole = self.located(index, header)  # refuses what lies outside
        turned = self._frame(index, header) == "stored"
        swapped = turned and header.orientation >= 5
        (width, height), drawn = (whole[::-1], size[::-1]) if swapped else (whole, size)
        found: dict[int, np.ndarray] = {}
        for part in self.parts[index]:
            if isinstance(part.shape, Path):  # which is upright already
                region = _resized(self._layer(index, part.shape, header), size)
            else:
                if isinstance(part.shape, Runs):
                    region = _resized(part.shape.mask(), drawn)
                else:
                    region = _filled(part.shape, np.array(drawn) / (width, height), drawn)
                region = turn_mask(region, header.orientation) if turned else region
            if region.any():
                found[part.object] = found[part.object] | region if part.object in found else region
        return found


def _filled(polygons: Sequence[np.ndarray], scale: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inside of polygons whose points are multiplied by `scale`: bool, in (width, height) pixels."""
    canvas = np.zeros(size[::-1], np.uint8)
    for polygon in polygons:
        # A pixel's centre is OpenCV's whole number; half a pixel less on all sides makes up for outlines that count.
        points = polygon.astype(np.float64) * scale - 0.5
        centre = (points.min(0) + points.max(0)) / 2
        points -= np.clip(points - centre, -0.5, 0.5) * 0.99
        cv2.fillPoly(canvas, [np.rint(points * 2**_SUBPIXEL).astype(np.int32)], 1, shift=_SUBPIXEL)
    return canvas > 0


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask in (width, height) pixels, those of which most is in it; if that is none, those that have any of it."""
    if mask.shape == size[::-1]:
        return mask
    smaller = size[0] * size[1] < mask.size
    share = cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return share > 0.5 if (share > 0.5).any() else share > 0


def box_shape(box: Sequence[float]) -> list[np.ndarray]:
    """A box, xyxy, as the one polygon that it is."""
    x0, y0, x1, y1 = box
    return [np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], np.float32)]


def read_segmentation(value: object, size: tuple[int, int] | None) -> Shape | None:
    """COCO's `segmentation` of an object in a picture of (width, height) pixels: polygons or run lengths.

    None where there is none or it is empty; ValueError where it cannot be one.
    """
    if isinstance(value, Mapping):
        counts, given = value.get("counts"), value.get("size")
        if not (isinstance(given, list) and len(given) == 2 and all(type(side) is int and side > 0 for side in given)):
            raise ValueError(f"expected run lengths with a `size` of height and width, got {given!r}")
        height, width = given
        if height * width > MAX_PIXELS or size not in (None, (width, height)):
            raise ValueError(f"expected run lengths of the picture's size, got {width}x{height}")
        if isinstance(counts, str):
            counts = _unpacked(counts)
        if not (isinstance(counts, list) and all(type(n) is int and 0 <= n <= height * width for n in counts)):
            raise ValueError("expected run lengths of at least 0")
        if sum(counts) != height * width:
            raise ValueError(f"expected run lengths of {width}x{height} pixels in all, got {sum(counts)}")
        return Runs(np.array(counts, np.int64), (width, height))
    if not value:
        return None
    if not isinstance(value, list):
        raise ValueError("expected a list of polygons, or run lengths")
    polygons = []
    for part in value:
        if not (isinstance(part, list) and len(part) % 2 == 0 and {*map(type, part)} <= {int, float}):
            raise ValueError("expected polygons x, y, x, y, …")
        points = np.array(part, np.float64).reshape(-1, 2)
        if len(points) < 3 or not (np.abs(points) < 1e9).all():  # NaN fails, too
            raise ValueError("expected polygons of at least three points, finite")
        polygons.append(points.astype(np.float32))
    return polygons


def _unpacked(text: str) -> list[int]:
    """Run lengths of COCO's compressed text: 5 bits a character, the lowest first, as differences to the last but one.

    Source: pycocotools, rleFrString. ValueError if it ends within a number.
    """
    counts: list[int] = []
    value, shift = 0, 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError("expected run lengths as COCO compresses them")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("expected run lengths as COCO compresses them")
    return counts


def folders_of(ids: Sequence[str]) -> tuple[list[str | None], list[str]]:
    """The class folder of each picture by its id, without what all have in common, and these classes in order.

    "train/kitchen/1.jpg" and "train/church/indoor/1.jpg" are of kitchen and church/indoor; ids without folders, or all
    in one, have no class.
    """
    parents = [PurePosixPath(id).parts[:-1] for id in ids]
    common = 0
    while parents and all(len(parent) > common for parent in parents) and len({p[common] for p in parents}) == 1:
        common += 1
    if parents and any(len(parent) <= common for parent in parents):
        return [None] * len(ids), []
    names = ["/".join(parent[common:]) for parent in parents]
    return list(names), ordered(names)
