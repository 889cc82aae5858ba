"""The drawn localization data set in files: class folders of pictures, and WSOL metadata with a box or a mask of each.

train/dotted heart/00000.jpg, val/…, test/…      class folders, of `fastcam train` and every other tool
classes.txt                                      names of the classes, that of index 0 first
metadata/test/…                                  image_ids.txt, class_labels.txt, image_sizes.txt, localization.txt
masks/test/dotted heart/00000.png                where masks are wanted
"""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fastcam.data.names import ordered
from fastcam.data.shapes import CLASS_NAMES, SPLITS, box_of, check_whole, draw

_QUALITY = 95  # of JPEGs
_FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")


def write_wsol(
    folder: str | os.PathLike[str],
    counts: Mapping[str, int],
    *,
    classes: int = len(CLASS_NAMES),
    size: int = 128,
    seed: int = 0,
    masks: bool = False,
) -> tuple[str, ...]:
    """Draw one object before a cluttered background into each of many JPEGs, in class folders, and tell where it is.

    The same seed gives the same files; each picture depends on seed, split and its number alone. Classes take turns, so
    that they are equally frequent.

    Args:
        folder: where to write; it is made if need be.
        counts: how many pictures each of the splits "train", "val" and "test" has, those that are wanted.
        classes: number of classes, from 2 to 8.
        size: side of the pictures in pixels, at least 32.
        seed: of all random choices, 0 or more.
        masks: write a mask of each object, and name these in the place of boxes.

    Returns:
        Names of the classes, that of index 0 first; classes.txt has them, too.

    Raises:
        ValueError: an unknown split, fewer pictures than classes, another number of classes, too small a size or a
            negative seed.
        OSError: a file cannot be written.
    """
    if not counts or not set(counts) <= set(SPLITS):
        raise ValueError(f"`counts` must be of some of {', '.join(SPLITS)}, got {dict(counts)!r}")
    check_whole(classes=(classes, 2), size=(size, 32), seed=(seed, 0))
    if classes > len(CLASS_NAMES):
        raise ValueError(f"`classes` must be at most {len(CLASS_NAMES)}, got {classes}")
    check_whole(**{split: (count, classes) for split, count in counts.items()})
    folder, names = Path(folder), tuple(ordered(CLASS_NAMES[:classes]))  # as readers of class folders number them
    for split, count in counts.items():
        lines: dict[str, list[str]] = {name: [] for name in _FILES}
        for index in range(count):
            name = CLASS_NAMES[index % classes]
            image, mask = draw(index % classes, size, np.random.default_rng((seed, SPLITS.index(split), index)))
            stem = f"{split}/{name}/{index:05d}"
            _save(Image.fromarray(image), folder / f"{stem}.jpg")
            where = f"masks/{stem}.png," if masks else ",".join(map(str, box_of(mask)))
            if masks:
                _save(Image.fromarray(mask), folder / f"masks/{stem}.png")
            for file, text in zip(_FILES, ("", f",{names.index(name)}", f",{size},{size}", f",{where}"), strict=True):
                lines[file].append(f"{stem}.jpg{text}\n")
        for file, rows in lines.items():
            path = folder / "metadata" / split / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(rows))
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in names))
    return names


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=_QUALITY)
