r"""Draw scenes of four classes, and show which objects a network takes them by, and which units.

    python examples/scenes.py scenes/

A scene is an attic, a bay, a cave or a dune by one object alone, a lamp, a crab, a bat or a cactus; a wall is in all of
them, and eight other things tell nothing. A small network learns the classes from 320 pictures, without a word of
objects. The folder gets val/SCENE/*.png and annotations/instances_val.json, 160 others with boxes of their objects as
COCO has them, and what is found in these:

objects/SCENE.png: the objects by their overlap with the CAM's high area, beside their frequency, and the first of them
in pictures; objects/objects.csv, the table; units/SCENE_weight.png and units/SCENE.html: the units that make each
class, with the pictures and regions that they respond to. It takes half a minute.

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, Learning Deep Features for Discriminative Localization, CVPR
2016, figures 9 and 12. The paper has 4675 pictures of ten classes of SUN with all objects marked (bathroom, bedroom,
building facade, dining room, highway, kitchen, living room, mountain snowy, skyscraper, street), and one-against-all
SVMs on the features of GoogLeNet-GAP. With a network and such data in COCO's JSON, masks or WSOL metadata:

    fastcam objects DATA --weights M --out objects/
    fastcam units DATA --weights M --class kitchen,bathroom --out units/
"""

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import data, models

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
    """Draw a wall over two thirds, in most pictures the object that decides, and two to four that decide nothing."""
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
    """Fill an ellipse: bool [height, width]."""
    y, x = np.mgrid[:height, :width] + 0.5
    return (2 * x / width - 1) ** 2 + (2 * y / height - 1) ** 2 <= 1


def drawn(count: int, start: int = 0) -> dict[str, Drawn]:
    """Draw so many of each class, by id."""
    return {
        f"{name}/{number:03}.png": draw(start + number, scene)
        for scene, name in enumerate(SCENES)
        for number in range(count)
    }


def write_pictures(root: Path, pictures: dict[str, Drawn]) -> None:
    """Write pictures as PNG."""
    for id, picture in pictures.items():
        (root / id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.pixels).save(root / id)


def coco(root: Path, pictures: dict[str, Drawn]) -> Path:
    """Write pictures in folders of their scenes, and the boxes of objects as a COCO JSON."""
    write_pictures(root / "val", pictures)
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
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / "instances_val.json").write_text(json.dumps(document), encoding="utf-8")
    return root


def network() -> nn.Module:
    """Build three convolutions, global average pooling and a linear layer; maps are a quarter of the picture's size."""
    features = nn.Sequential(
        nn.Conv2d(3, 16, 5, 2, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU()
    )
    return models.GlobalPoolNet(features, nn.AdaptiveAvgPool2d(1), nn.Linear(32, len(SCENES)))


def train(pictures: dict[str, Drawn], epochs: int = 12) -> nn.Module:
    """Train the network on labels of scenes alone; input as the default preprocessing makes it."""
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


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path, help="folder for pictures and figures")
    out = parser.parse_args().out
    model = train(drawn(80))
    # The name of the network is never used: it is not loaded from a file.
    config = models.ModelConfig("scenes", len(SCENES), class_names=SCENES, size=SIDE)
    loaded = data.load_scenes(coco(out, drawn(40, start=1000)))
    found = fastcam.informative_objects(model, loaded, out=out / "objects", config=config, overwrite=True)
    for row in found.objects:
        if row.rank <= 3:
            figures = f"overlap {row.overlap:6.1%} frequency {row.frequency:7.1%}"
            print(f"{row.scene_name:6} {row.rank}. {row.object:7} {figures}")
    classes = range(len(SCENES))
    units = fastcam.class_units(model, loaded, classes, out=out / "units", top=3, config=config, overwrite=True)
    for unit in units.units:
        if unit.by == "weight" and unit.rank == 1:
            print(
                f"{unit.class_name:6} unit {unit.unit}, weight {unit.weight:.2f}, field {unit.receptive_field} pixels"
            )


if __name__ == "__main__":
    main()
