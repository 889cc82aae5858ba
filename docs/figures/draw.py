"""Draw the figures of Start and of the page on thresholds, in the folder that Start's commands have left.

    cd FOLDER && python …/docs/figures/draw.py

Pictures and network are drawn and trained there, so that everybody can draw the figures again. What is between tiles is
transparent, for light and dark pages.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import fastcam
from fastcam import drawing
from fastcam.data import load
from fastcam.models import load_checkpoint
from fastcam.pictures import Preprocess

HERE = Path(__file__).parent
SIDE, GAP = 224, 12
METHODS = ("CAM", "GradCAM", "LayerCAM")
THRESHOLDS = (0.2, 0.4, 0.6, 0.8)


def tiles(rows: Sequence[Sequence[np.ndarray]]) -> Image.Image:
    """Square pictures, uint8 RGB, in rows, with round corners and transparent gaps."""
    mask = np.zeros((4 * SIDE, 4 * SIDE), np.uint8)
    radius = SIDE // 4
    for x in (0, 1):
        for y in (0, 1):
            centre = (x * (4 * SIDE - 1 - 2 * radius) + radius, y * (4 * SIDE - 1 - 2 * radius) + radius)
            cv2.circle(mask, centre, radius, 255, -1)
    cv2.rectangle(mask, (radius, 0), (4 * SIDE - 1 - radius, 4 * SIDE), 255, -1)
    cv2.rectangle(mask, (0, radius), (4 * SIDE, 4 * SIDE - 1 - radius), 255, -1)
    mask = cv2.resize(mask, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
    step = SIDE + GAP
    canvas = np.zeros((len(rows) * step - GAP, max(map(len, rows)) * step - GAP, 4), np.uint8)
    for top, row in enumerate(rows):
        for left, tile in enumerate(row):
            place = np.s_[top * step : top * step + SIDE, left * step : left * step + SIDE]
            canvas[place] = np.dstack([tile, mask])
    return Image.fromarray(canvas)


def large(picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 RGB, in the size of a tile."""
    return cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)


def main() -> None:
    """Draw both figures."""
    model, config = load_checkpoint("model/best.safetensors")
    preprocess = Preprocess.of(config)
    data = load("drawn", "test")
    photos = [np.asarray(data[index].image) for index in range(6)]
    images = [preprocess(photo)[0][None] for photo in photos]

    rows = [[large(photo) for photo in photos]]
    for name in METHODS:
        with getattr(fastcam, name)(model) as cam:
            rows.append([])
            for sample, photo, image in zip(data, photos, images, strict=False):
                map = cv2.resize(cam(image, sample.label)[0].numpy(), (SIDE, SIDE))
                view = drawing.overlay(large(photo), map)
                rows[-1].append(drawing.draw_boxes(view, sample.boxes * (SIDE / photo.shape[0]), drawing.TRUTH))
    tiles(rows).save(HERE / "start_maps.webp", quality=85)

    row = []
    with fastcam.CAM(model) as cam:
        map = cv2.resize(cam(images[0])[0].numpy(), (SIDE, SIDE))
        for threshold in THRESHOLDS:
            box = cam.boxes(images[0], threshold=threshold)[0].numpy() * (SIDE / config.size)
            row.append(drawing.draw_boxes(drawing.overlay(large(photos[0]), map), box, drawing.PREDICTED))
    tiles([row]).save(HERE / "thresholds.webp", quality=85)


if __name__ == "__main__":
    main()
