"""Draws maps.webp and boxes.webp of the pages on concepts: pictures and network are those of `fastcam demo`.

fastcam demo --out build/demo
python docs/figures/maps.py
"""

from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

import fastcam
from fastcam import drawing, ops
from fastcam.data.shapes import Shapes
from fastcam.evaluation import box_iou
from fastcam.models import load_checkpoint
from fastcam.pictures import Preprocess

HERE = Path(__file__).parent
SIDE, GAP = 192, 10
PICTURES = 60  # of the test pictures, the first are looked at


def tile(image: np.ndarray, nearest: bool = False) -> np.ndarray:
    """A picture at the figure's size with round corners, RGBA."""
    interpolation = cv2.INTER_NEAREST if nearest else cv2.INTER_CUBIC
    alpha = np.zeros((SIDE * 4, SIDE * 4), np.uint8)
    radius = SIDE // 4
    cv2.rectangle(alpha, (radius, 0), (4 * SIDE - radius, 4 * SIDE), 255, -1)
    cv2.rectangle(alpha, (0, radius), (4 * SIDE, 4 * SIDE - radius), 255, -1)
    for x in (radius, 4 * SIDE - 1 - radius):
        for y in (radius, 4 * SIDE - 1 - radius):
            cv2.circle(alpha, (x, y), radius, 255, -1)
    return np.dstack([cv2.resize(image, (SIDE, SIDE), interpolation=interpolation), cv2.resize(alpha, (SIDE, SIDE))])


def beside(tiles: list[np.ndarray], axis: int) -> np.ndarray:
    """Tiles in a row or a column, with transparent gaps."""
    height, width = tiles[0].shape[:2]
    gap = np.zeros((height, GAP, 4) if axis == 1 else (GAP, width, 4), np.uint8)
    return np.concatenate([part for one in tiles for part in (gap, one)][1:], axis)


def boxed(image: np.ndarray, box: np.ndarray, truth: np.ndarray | None = None) -> np.ndarray:
    """A picture at the figure's size with boxes."""
    large = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    scale = SIDE / image.shape[0]
    if truth is not None:
        large = drawing.draw_boxes(large, truth * scale, drawing.TRUTH)
    return drawing.draw_boxes(large, box[None] * scale, drawing.PREDICTED)


def main() -> None:
    """Write both figures."""
    model, config = load_checkpoint("build/demo/best.safetensors")
    data = Shapes("test", PICTURES, seed=0)
    preprocess = Preprocess.of(config)
    samples = [data[index] for index in range(PICTURES)]
    frames = torch.stack([preprocess(sample.image)[0] for sample in samples])
    cam = fastcam.CAM(model)
    coarse = cam.coarse(frames, targets=data.labels[:PICTURES])
    maps = ops.heatmap(coarse, data.size, relu=False).numpy()
    boxes = ops.boxes(coarse, data.size, config.threshold or 0.2, relu=False).numpy()
    overlap = [box_iou(box, sample.boxes[0]).item() for box, sample in zip(boxes, samples, strict=True)]
    order = np.argsort(overlap)
    shown = [order[-1], order[-8], order[-16], order[PICTURES // 3], order[2], order[0]]
    columns = []
    for index in shown:
        image = np.asarray(samples[index].image)
        below = boxed(drawing.overlay(image, maps[index]), boxes[index], np.asarray(samples[index].boxes))
        columns.append(beside([tile(image), tile(below)], 0))
    save(beside(columns, 1), "maps.webp")

    index, threshold = shown[3], config.threshold or 0.2
    image = np.asarray(samples[index].image)
    low = coarse[index] - coarse[index].min()
    grid = drawing.colorize((low / low.max()).numpy())
    mask = (maps[index] > threshold).astype(np.uint8) * 255
    steps = [
        tile(grid, nearest=True),
        tile(drawing.colorize(maps[index])),
        tile(np.repeat(mask[..., None], 3, 2), nearest=True),
        tile(boxed(image, boxes[index])),
    ]
    save(beside(steps, 1), "boxes.webp")
    print(f"threshold {threshold:.2f}; overlaps:", " ".join(f"{overlap[index]:.2f}" for index in shown))


def save(picture: np.ndarray, name: str) -> None:
    """Write a figure."""
    Image.fromarray(picture).save(HERE / name, quality=88, method=6)


if __name__ == "__main__":
    main()
