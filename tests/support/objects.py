"""Drawn scenes: twelve kinds of objects, of which one decides each of four classes, in three layouts."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from fastcam import models
from tests.support.files import write

SIDE = 72
SCENES = ("attic", "bay", "cave", "dune")
DECIDING = {"attic": "lamp", "bay": "crab", "cave": "bat", "dune": "cactus"}
# RGB of each; the wall is in every picture, and larger than all others.
COLOURS = {
    "wall": (120, 110, 95),
    "lamp": (250, 240, 60),
    "sofa": (60, 90, 200),
    "stove": (30, 30, 30),
    "boat": (150, 75, 20),
    "crab": (235, 60, 40),
    "bat": (140, 30, 190),
    "torch": (250, 150, 30),
    "cactus": (40, 170, 60),
    "camel": (200, 160, 100),
    "rug": (230, 120, 190),
    "clock": (240, 240, 240),
}
OBJECTS = tuple(COLOURS)


class Drawn(NamedTuple):
    """A picture, its scene, and for each object in it its name and box, xyxy; discs fill theirs."""

    pixels: np.ndarray
    scene: int
    objects: list[tuple[str, tuple[int, int, int, int]]]


def draw(seed: int, scene: int) -> Drawn:
    """A wall over two thirds, in most pictures the object that decides, and two to four that decide nothing."""
    random = np.random.default_rng((7, seed, scene))
    pixels = random.normal(90, 14, (SIDE, SIDE, 3))
    height = int(random.integers(44, 52))
    objects = [("wall", (0, 0, SIDE, height))]
    pixels[:height] = np.array(COLOURS["wall"]) + random.normal(0, 14, (height, SIDE, 3))
    others = [name for name in OBJECTS[1:] if name not in DECIDING.values()]
    names = [*random.choice(others, int(random.integers(2, 5)), replace=False)]
    names += [DECIDING[SCENES[scene]]] if random.random() < 0.9 else []
    taken: list[tuple[int, int, int, int]] = []
    for name in random.permutation(names):
        for _ in range(50):
            width, tall = (int(side) for side in random.integers(14, 20, 2))
            x, y = int(random.integers(0, SIDE - width)), int(random.integers(0, SIDE - tall))
            box = (x, y, x + width, y + tall)
            if all(box[2] <= a or c <= box[0] or box[3] <= b or d <= box[1] for a, b, c, d in taken):
                break
        else:
            continue
        taken.append(box)
        objects.append((str(name), box))
        pixels[y : y + tall, x : x + width][disc(width, tall)] = COLOURS[str(name)]
    pixels += random.normal(0, 6, pixels.shape)
    return Drawn(pixels.clip(0, 255).astype(np.uint8), scene, objects)


def disc(width: int, height: int) -> np.ndarray:
    """Bool [height, width]."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (2 * x / width - 1) ** 2 + (2 * y / height - 1) ** 2 <= 1


def drawn(count: int, start: int = 0) -> dict[str, Drawn]:
    """So many of each class, by id."""
    return {
        f"{name}/{number:03}.png": draw(start + number, scene)
        for scene, name in enumerate(SCENES)
        for number in range(count)
    }


def _pictures(root: Path, pictures: dict[str, Drawn]) -> None:
    for id, picture in pictures.items():
        (root / id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(root / id)


def coco(root: Path, pictures: dict[str, Drawn]) -> Path:
    """Boxes of a COCO JSON, whose scenes are folders."""
    _pictures(root / "val2026", pictures)
    images = [{"id": number, "file_name": id, "width": SIDE, "height": SIDE} for number, id in enumerate(pictures, 1)]
    annotations = [
        {
            "id": 100 * number + place,
            "image_id": number,
            "category_id": OBJECTS.index(name) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "iscrowd": 0,
        }
        for number, picture in enumerate(pictures.values(), 1)
        for place, (name, (x0, y0, x1, y1)) in enumerate(picture.objects)
    ]
    categories = [{"id": place, "name": name} for place, name in enumerate(OBJECTS, 1)]
    document = {"images": images, "annotations": annotations, "categories": categories}
    write(root / "annotations/instances_val2026.json", json.dumps(document))
    return root


def masks(root: Path, pictures: dict[str, Drawn]) -> Path:
    """A mask file for each object, beside the pictures, as JPEG's names are."""
    for id, picture in pictures.items():
        stem = root / id.removesuffix(".png")
        stem.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(stem.with_suffix(".jpg"), quality=97)
        for number, (name, (x0, y0, x1, y1)) in enumerate(picture.objects):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[y0:y1, x0:x1] = 255 if name == "wall" else 255 * disc(x1 - x0, y1 - y0)
            Image.fromarray(mask).save(f"{stem}_{name}_{number}.png")
    return root


def wsol(root: Path, pictures: dict[str, Drawn]) -> Path:
    """Metadata with an objects.txt."""
    _pictures(root, pictures)
    rows = [
        f"{id},{','.join(map(str, box))},{name}" for id, picture in pictures.items() for name, box in picture.objects
    ]
    write(root / "metadata/image_ids.txt", "\n".join(pictures))
    write(root / "metadata/class_labels.txt", "\n".join(f"{id},{picture.scene}" for id, picture in pictures.items()))
    write(root / "metadata/image_sizes.txt", "\n".join(f"{id},{SIDE},{SIDE}" for id in pictures))
    write(root / "metadata/objects.txt", "\n".join(rows))
    write(root / "metadata/classes.txt", "\n".join(SCENES))
    return root


def network() -> nn.Module:
    """Three convolutions, global average pooling and a linear layer; the map is a quarter of the picture's size."""
    features = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU()
    )
    return models.GlobalPoolNet(features, nn.AdaptiveAvgPool2d(1), nn.Linear(32, len(SCENES)))


def train(pictures: dict[str, Drawn], epochs: int = 12) -> nn.Module:
    """The network, trained on labels of scenes alone; input as the default preprocessing makes it."""
    torch.manual_seed(0)
    model = network()
    frames = np.stack([picture.pixels for picture in pictures.values()])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = ((torch.from_numpy(frames) / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor([picture.scene for picture in pictures.values()])
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels)).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()
