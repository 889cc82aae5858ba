"""The whole road on drawn pictures: labels in, boxes out, and how well they fit."""

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from fastcam import drawing, evaluation, methods, models, ops
from fastcam._files import replacing
from fastcam._progress import lines
from fastcam.data.shapes import CLASS_NAMES, Shapes
from fastcam.localization import localize
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.pictures.stream import batched, stream
from fastcam.report import GalleryItem, gallery
from fastcam.training import PRESETS, train

_THRESHOLDS = [t / 100 for t in range(5, 95)]
_GALLERY = 64  # pictures shown
_STANDARD_SIZE = 224  # side of the maps that the field's evaluator works on


class DemoResult(NamedTuple):
    """What the demo measured, all but the threshold in percent.

    Attributes:
        top1_cls: test pictures whose class is right.
        gt_known_loc: test pictures whose box, from the map of the true class, has IoU 0.5 or more.
        max_box_acc: MaxBoxAcc of the same maps: the standard evaluator's box at the best threshold.
        best_center_box: BoxAcc of the strongest fixed box in the centre of the picture.
        threshold: of the box, chosen on the validation split.
    """

    top1_cls: float
    gt_known_loc: float
    max_box_acc: float
    best_center_box: float
    threshold: float


@lines()
def run(
    out: str | os.PathLike[str],
    seed: int = 0,
    *,
    pictures: tuple[int, int, int] = (3000, 400, 600),
    epochs: int = PRESETS["shapes"].epochs,
    progress: bool = True,
) -> DemoResult:
    """Draw a data set, train ResNet18 on its labels alone, localize the test split, and report.

    Writes to `out`: best.safetensors (with the threshold), last.safetensors, metrics.jsonl, training.png,
    boxes.parquet (the box of each test picture's true class), gallery.html and hero.png. An earlier run is replaced.

    Args:
        out: folder for the results.
        seed: of the pictures and the training; the same seed gives the same result on the same machine with the same
            number of threads.
        pictures: how many to draw for training, validation and test.
        epochs: passes over the training pictures; all else of the training is as the preset `shapes` says.
        progress: show progress bars where standard error is a terminal, elsewhere a line every ten seconds.

    Returns:
        The figures, which are also printed.

    Raises:
        ValueError: an option out of range.
        OSError: the results cannot be written.
    """
    out = Path(out)
    splits = [Shapes(split, count, seed=seed) for split, count in zip(("train", "val", "test"), pictures, strict=True)]
    train_data, val_data, test_data = splits
    print(f"Training ResNet18 on the labels of {len(train_data)} drawn pictures of {len(CLASS_NAMES)} classes.")
    trained = train(
        (train_data, val_data),
        "shapes",
        out=out,
        epochs=epochs,
        seed=seed,
        device="cpu",  # repeats to the bit, which CUDA's convolutions do not promise
        overwrite=True,
        progress=progress,
    )
    model, config = models.load_checkpoint(trained.best)
    _, coarse = _maps(model, config, val_data)
    # In the frame of the network's input, as `localize` finds them.
    candidates = ops.boxes(coarse, config.size, _THRESHOLDS, relu=False) * (val_data.size / config.size)
    threshold, _ = evaluation.choose_threshold(candidates, _THRESHOLDS, _truth(val_data))
    config = dataclasses.replace(config, threshold=threshold)
    models.save_checkpoint(trained.best, model, config)

    print(
        f"Localizing {len(test_data)} test pictures; box threshold, chosen on the validation pictures: {threshold:.2f}."
    )
    found = localize(model, test_data, out=out, config=config, targets="label", overwrite=True, progress=progress)
    table = pq.read_table(found.path).to_pydict()
    boxes = np.stack([table[edge] for edge in ("x0", "y0", "x1", "y1")], 1)
    truth = _truth(test_data)
    logits, coarse = _maps(model, config, test_data)
    standard = ops.heatmap(coarse.double(), _STANDARD_SIZE, relu=False, mode="bicubic")
    result = DemoResult(
        top1_cls=100 * float(np.mean(np.array(table["rank"]) == 1)),
        gt_known_loc=evaluation.box_accuracy(boxes, truth).item(),
        max_box_acc=evaluation.max_box_acc(standard, np.trunc(truth * (_STANDARD_SIZE / test_data.size))).accuracy,
        best_center_box=evaluation.best_center_box(truth, (test_data.size, test_data.size)).accuracy,
        threshold=threshold,
    )
    figures = {
        "Top-1 Cls": f"{result.top1_cls:.1f} %",
        "GT-known Loc": f"{result.gt_known_loc:.1f} %",
        "MaxBoxAcc": f"{result.max_box_acc:.1f} %",
        "best centre box": f"{result.best_center_box:.1f} %",
    }
    items = _items(test_data, logits, coarse, boxes, truth)
    picture = _hero(items[: len(CLASS_NAMES)])
    with replacing(out / "hero.png") as partial:
        partial.write_bytes(cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA))[1].tobytes())
    page = gallery(out / "gallery.html", items, "fastcam demo", figures, {"Training, test in red": trained.curve})
    print("\n".join(f"{name:<18}{value:>8}" for name, value in figures.items()))
    print(f"Pictures with maps and boxes: {page}")
    return result


def _truth(data: Shapes) -> np.ndarray:
    """The true boxes: float32 [N, 4]."""
    return np.concatenate([boxes for index in range(len(data)) if (boxes := data[index].boxes) is not None])


def _maps(model: nn.Module, config: ModelConfig, data: Shapes) -> tuple[Tensor, Tensor]:
    """Logits [N, C], and the coarse maps [N, h, w] of the true classes."""
    preprocess = Preprocess.of(config)
    cam = methods.CAM(model)
    logits, coarse = list[Tensor](), list[Tensor]()
    for batch in stream(batched(range(len(data)), 64), lambda index: preprocess.frame(data[index].image)[0]):
        labels = data.labels[len(coarse) * 64 :][: len(batch)]
        run = methods.observe([cam], preprocess.normalize(torch.from_numpy(np.stack(batch))), labels)
        coarse.append(cam.coarse(run))
        logits.append(run.logits)
    return torch.cat(logits), torch.cat(coarse)


def _items(data: Shapes, logits: Tensor, coarse: Tensor, boxes: np.ndarray, truth: np.ndarray) -> list[GalleryItem]:
    """The first pictures for the gallery."""
    maps = ops.heatmap(coarse[:_GALLERY], data.size, relu=False).numpy()
    items = []
    for index, (map, scores) in enumerate(zip(maps, logits.softmax(1), strict=False)):
        label, predicted = data.labels[index], int(scores.argmax())
        iou = evaluation.box_iou(boxes[index], truth[index]).item()
        names = data.class_names
        caption = f"{names[label]}\nfound: {names[predicted]}, {scores[predicted]:.0%}\nIoU {iou:.2f}"
        hit = predicted == label and iou >= 0.5
        items.append(GalleryItem(data[index].image, map, boxes[index], truth[index : index + 1], caption, hit))
    return items


def _hero(items: list[GalleryItem], side: int = 192, gap: int = 8) -> np.ndarray:
    """Pictures, and below them map, found box (red) and true box (green): RGBA, uint8.

    Gaps and the round corners are transparent, so that it stands well on any background.
    """
    tile = np.zeros((side, side), np.uint8)
    radius = side // 16
    cv2.rectangle(tile, (radius, 0), (side - 1 - radius, side - 1), 255, -1)
    cv2.rectangle(tile, (0, radius), (side - 1, side - 1 - radius), 255, -1)
    for x in (radius, side - 1 - radius):
        for y in (radius, side - 1 - radius):
            cv2.circle(tile, (x, y), radius, 255, -1, cv2.LINE_AA)
    canvas = np.zeros((2 * side + gap, len(items) * (side + gap) - gap, 4), np.uint8)
    for column, item in enumerate(items):
        picture = cv2.resize(item.image, (side, side), interpolation=cv2.INTER_CUBIC)
        blend = drawing.overlay(picture, cv2.resize(item.map, (side, side)).clip(0, 1))
        scale = side / item.image.shape[0]
        blend = drawing.draw_boxes(blend, np.asarray(item.truth) * scale, drawing.TRUTH)
        blend = drawing.draw_boxes(blend, np.asarray(item.boxes) * scale, drawing.PREDICTED)
        for row, view in enumerate((picture, blend)):
            top, left = row * (side + gap), column * (side + gap)
            canvas[top : top + side, left : left + side] = np.dstack([view, tile])
    return canvas
