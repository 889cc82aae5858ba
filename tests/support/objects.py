"""The scenes of `examples/scenes.py`, in two more layouts."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.files import write
from tests.support.scripts import script

scenes = script("scenes")
SIDE, SCENES, DECIDING, coco, drawn, train = (
    getattr(scenes, name) for name in ("SIDE", "SCENES", "DECIDING", "coco", "drawn", "train")
)


def masks(root: Path, pictures: dict[str, Any]) -> Path:
    """A mask file for each object, beside the pictures, as JPEG's names are."""
    for id, picture in pictures.items():
        stem = root / id.removesuffix(".png")
        stem.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(stem.with_suffix(".jpg"), quality=97)
        for number, (name, (x0, y0, x1, y1)) in enumerate(picture.objects):
            mask = np.zeros((scenes.SIDE, scenes.SIDE), np.uint8)
            mask[y0:y1, x0:x1] = 255 if name == "wall" else 255 * scenes.disc(x1 - x0, y1 - y0)
            Image.fromarray(mask).save(f"{stem}_{name}_{number}.png")
    return root


def wsol(root: Path, pictures: dict[str, Any]) -> Path:
    """Metadata with an objects.txt."""
    scenes.write_pictures(root, pictures)
    rows = [
        f"{id},{','.join(map(str, box))},{name}" for id, picture in pictures.items() for name, box in picture.objects
    ]
    write(root / "metadata/image_ids.txt", "\n".join(pictures))
    write(root / "metadata/class_labels.txt", "\n".join(f"{id},{picture.scene}" for id, picture in pictures.items()))
    write(root / "metadata/image_sizes.txt", "\n".join(f"{id},{scenes.SIDE},{scenes.SIDE}" for id in pictures))
    write(root / "metadata/objects.txt", "\n".join(rows))
    write(root / "metadata/classes.txt", "\n".join(SCENES))
    return root
