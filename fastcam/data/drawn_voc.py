"""A drawn data set in Pascal VOC's layout: several textured objects of several classes a picture, and their class PNGs.

Objects, textures and background are those of `shapes`. Objects may cover each other in part, and a picture may have
several of a class. As in Pascal VOC, a class PNG is 0 for the background, the class's place among all names in order,
from 1 on, and 255, to be ignored, along the borders of objects.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree as ET

import cv2
import numpy as np
from PIL import Image

from fastcam.data.names import ordered
from fastcam.data.segments import IGNORED, palette
from fastcam.data.shapes import CLASS_NAMES, SPLITS, add_object, background, box_of, check_whole, place

NAMES = tuple(ordered(CLASS_NAMES))  # as readers number them
_VALUES = [NAMES.index(name) + 1 for name in CLASS_NAMES]  # of each of `shapes`' classes in class PNGs
_MOST = 4  # objects in a picture
_EXTENTS = 0.28, 0.5  # of an object, as a share of the picture
_SAME = 0.3  # how often the next object is of the last one's class
_COVERED = 0.25  # the most of an object that the others may cover
_TRIES = 20  # to find a place for an object, which is left out else
_QUALITY = 95  # of JPEGs


def write_voc(
    folder: str | os.PathLike[str], counts: Mapping[str, int], *, size: int = 128, seed: int = 0
) -> tuple[str, ...]:
    """Draw the data set into files: JPEGImages, Annotations, SegmentationClass and ImageSets.

    The same seed gives the same files; each picture depends on seed, split and its number alone.

    Args:
        folder: where to write; it is made if need be.
        counts: how many pictures each of the splits "train", "val" and "test" has, those that are wanted.
        size: side of the pictures in pixels, at least 32.
        seed: of all random choices, 0 or more.

    Returns:
        Names of the classes, that of index 1 in class PNGs first; SegmentationClass/classes.txt has them, too.

    Raises:
        ValueError: an unknown split, no pictures, too small a size or a negative seed.
        OSError: a file cannot be written.
    """
    if not counts or not set(counts) <= set(SPLITS):
        raise ValueError(f"`counts` must be of some of {', '.join(SPLITS)}, got {dict(counts)!r}")
    check_whole(**{split: (count, 1) for split, count in counts.items()}, size=(size, 32), seed=(seed, 0))
    folder, colours = Path(folder), palette().tobytes()
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, count in counts.items():
        stems = [f"{split}_{index:05d}" for index in range(count)]
        for index, stem in enumerate(stems):
            rng = np.random.default_rng((seed, SPLITS.index(split), index))
            image, labels, objects = draw_scene(index % len(CLASS_NAMES), size, rng)
            Image.fromarray(image).save(folder / f"JPEGImages/{stem}.jpg", quality=_QUALITY)
            truth = Image.fromarray(labels)
            truth.putpalette(colours)
            truth.save(folder / f"SegmentationClass/{stem}.png")
            ET.ElementTree(_annotation(stem, size, objects)).write(folder / f"Annotations/{stem}.xml")
        for kind in ("Main", "Segmentation"):
            (folder / f"ImageSets/{kind}/{split}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    (folder / "SegmentationClass/classes.txt").write_text("".join(f"{name}\n" for name in NAMES))
    return NAMES


def draw_scene(
    label: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, list[tuple[int, np.ndarray]]]:
    """Draw a picture with an object of the class `CLASS_NAMES[label]` and up to three others.

    Args:
        label: of the first object, so that classes can take turns.
        size: side of the picture in pixels.
        rng: decides about all else.

    Returns:
        The picture, uint8 [size, size, 3] RGB; its class PNG, uint8 [size, size]; and of each object its value in the
        class PNG and its visible pixels, bool [size, size], at least three quarters of it.
    """
    image = background(rng, size)
    classes = [label]
    for _ in range(rng.integers(_MOST)):
        classes.append(classes[-1] if rng.random() < _SAME else int(rng.integers(len(CLASS_NAMES))))
    owner = np.zeros((size, size), np.uint8)  # 0, or the object's number from 1
    kinds, areas = [0], [size * size]
    for kind in classes:
        for _ in range(_TRIES):
            outline, angle = place(rng, kind, *_EXTENTS, size)
            drawn, mask = add_object(image, kind, outline, angle, rng)
            seen = np.bincount(owner[~mask], minlength=len(areas))
            if all(seen[1:] >= (1 - _COVERED) * np.array(areas[1:])):
                image, owner[mask] = drawn, len(areas)
                kinds.append(_VALUES[kind])
                areas.append(int(mask.sum()))
                break
    labels = np.array(kinds, np.uint8)[owner]
    labels[cv2.morphologyEx(owner, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0] = IGNORED
    return image, labels, [(kinds[number], owner == number) for number in range(1, len(kinds))]


def _annotation(stem: str, size: int, objects: list[tuple[int, np.ndarray]]) -> ET.Element:
    """The XML of a picture; corners count from 1 and are included, as Pascal VOC has them."""
    root = ET.Element("annotation")
    ET.SubElement(root, "filename").text = f"{stem}.jpg"
    sides = ET.SubElement(root, "size")
    for name, length in (("width", size), ("height", size), ("depth", 3)):
        ET.SubElement(sides, name).text = str(length)
    ET.SubElement(root, "segmented").text = "1"
    for value, visible in objects:
        item = ET.SubElement(root, "object")
        ET.SubElement(item, "name").text = NAMES[value - 1]
        ET.SubElement(item, "difficult").text = "0"
        box = ET.SubElement(item, "bndbox")
        x0, y0, x1, y1 = box_of(visible)
        for name, corner in zip(("xmin", "ymin", "xmax", "ymax"), (x0 + 1, y0 + 1, x1, y1), strict=True):
            ET.SubElement(box, name).text = str(corner)
    ET.indent(root)
    return root
