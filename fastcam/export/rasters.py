"""Formats of maps: PNG, .npy, and what weakly supervised segmentation starts from."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fastcam.export.documents import Add
from fastcam.export.files import LeftOut, Options, new_folder
from fastcam.runs.maps import Upsampling
from fastcam.runs.table import Picture

_STRIDE = 4  # of the coarser maps for segmentation
_IGNORED = 255
CLASSES = _IGNORED - 1  # that labels of 8 bits have place for, beside background and what is to be ignored


@contextmanager
def png(path: Path, info: Mapping[str, Any], options: Options) -> Iterator[Add]:
    """Write `IMAGE_ID.png` for each picture: the map of its highest class, 8 bits, truncated 255·v.

    Args:
        path: the folder.
        info: what made the maps.
        options: of which size is used; by default the picture's.

    Yields:
        What writes a picture.

    Raises:
        OSError: a file cannot be written.
    """
    upsampling = Upsampling.of(info)

    def add(picture: Picture) -> int:
        values = _highest(picture, upsampling, options.size or "picture")
        with folder.create(picture.id, ".png") as file:
            # The first level of compression is five times as fast as the usual one, its files a seventh larger.
            Image.fromarray((255 * values).astype(np.uint8)).save(file, "PNG", compress_level=1)
        return len(picture.found)

    with new_folder(path, info) as folder:
        yield add


@contextmanager
def npy(path: Path, info: Mapping[str, Any], options: Options) -> Iterator[Add]:
    """Write `IMAGE_ID.npy` for each picture, as the standard evaluator has score maps: float32 [H, W] in [0, 1].

    It is the map of the picture's highest class.

    Args:
        path: the folder.
        info: what made the maps.
        options: of which size is used; by default 224.

    Yields:
        What writes a picture.

    Raises:
        OSError: a file cannot be written.
    """
    upsampling = Upsampling.of(info)

    def add(picture: Picture) -> int:
        values = _highest(picture, upsampling, options.size or 224)
        with folder.create(picture.id, ".npy") as file:
            np.save(file, values, allow_pickle=False)
        return len(picture.found)

    with new_folder(path, info) as folder:
        yield add


@contextmanager
def wsss(path: Path, info: Mapping[str, Any], options: Options) -> Iterator[Add]:
    """Write seeds of weakly supervised semantic segmentation: `cam/x/y.npz` and `labels/x/y.png` for x/y.jpg.

    The field's tools hand on maps as a pickled dictionary in .npy (Ahn, Cho and Kwak, Weakly Supervised Learning of
    Instance Segmentation with Inter-pixel Relations, CVPR 2019), which can run any code when it is read. An .npz holds
    the same entries without: keys, int64 [K], the classes; cam, float32 [K, ceil(H/4), ceil(W/4)] in [0, 1]; high_res,
    float32 [K, H, W], where K are the picture's classes in the table. Where such a tool has `np.load(path,
    allow_pickle=True).item()`, `np.load(path)` is enough.

    The labels are what networks are trained on: 8 bits with Pascal VOC's palette, 0 background, class index + 1 where
    its map is the highest and above the threshold, 255 (to be ignored) between two thresholds, if `options.cuts` has
    two; by default the run's threshold is both.

    Args:
        path: the folder.
        info: what made the maps.
        options: of which cuts are used.

    Yields:
        What writes a picture.

    Raises:
        ValueError: a class index above 253, which has no place in 8 bits; thresholds that are none.
        OSError: a file cannot be written.
    """
    upsampling = Upsampling.of(info)
    low, high = options.cuts or (info.get("threshold"),) * 2
    if low is None or not 0 <= low <= high < 1:
        raise ValueError(f"the thresholds of pseudo-labels must be in [0, 1), the lower one first, got {low}, {high}")
    palette = _palette()

    def add(picture: Picture) -> int:
        classes = [box.class_id for box in sorted(picture.boxes, key=lambda box: box.rank)]
        keys = np.array([key for key in dict.fromkeys(classes) if key in picture.maps], np.int64)
        if not len(keys):
            raise LeftOut("it has no map")
        if keys.max() >= CLASSES:
            raise ValueError(f"{picture.id}: class {keys.max()} does not fit labels of 8 bits, which end at 253")
        whole, size = (picture.height, picture.width), (picture.width, picture.height)
        coarser = tuple(-(-side // _STRIDE) for side in whole)
        cam, full = (
            np.stack([upsampling(picture.maps[key], shape, size) for key in keys.tolist()])
            for shape in (coarser, whole)
        )
        strength = full.max(0)
        labels = np.where(strength > high, keys[full.argmax(0)] + 1, _IGNORED)
        labels[strength <= low] = 0
        image = Image.fromarray(labels.astype(np.uint8))
        image.putpalette(palette)
        with folder.create(picture.id, ".npz", within="cam", stem=True) as file:
            np.savez(file, keys=keys, cam=cam, high_res=full)
        with folder.create(picture.id, ".png", within="labels", stem=True) as file:
            image.save(file, "PNG")
        return len(picture.found)

    with new_folder(path, info) as folder:
        yield add


def _highest(picture: Picture, upsampling: Upsampling, size: int | str) -> np.ndarray:
    coarse = picture.maps.get(picture.first.class_id)
    if coarse is None:
        raise LeftOut("it has no map")
    height, width = (picture.height, picture.width) if size == "picture" else (size, size)
    return upsampling(coarse, (height, width), (picture.width, picture.height))


def _palette() -> bytes:
    """Pascal VOC's colours: the bits of an index, dealt out to red, green and blue from the top bit down."""
    index = np.arange(256)[:, None]
    colours = np.zeros((256, 3), np.int64)
    for place in range(8):
        colours |= ((index >> (3 * place + np.arange(3))) & 1) << (7 - place)
    return colours.astype(np.uint8).tobytes()
