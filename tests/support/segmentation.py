"""Pseudo-labels measured plainly, and a drawn data set in Pascal VOC's layout with class PNGs and a run with maps."""

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.support import tables
from tests.support.datasets import xml

IGNORED = 255
NAMES = ("ant", "bee", "cat", "dog")


def labels_of(maps: np.ndarray, values: list[int], threshold: float) -> np.ndarray:
    """What the field's scripts do: the background's level is one more class, the first."""
    stacked = np.concatenate([np.full((1, *maps.shape[1:]), threshold), maps.astype(np.float64)])
    return np.array([0, *values])[stacked.argmax(0)]


def confusion(pictures, thresholds: np.ndarray, classes: int) -> np.ndarray:
    """A confusion matrix per threshold, int64 [T, truth, predicted], of (maps, values, truth) of pictures."""
    matrices = np.zeros((len(thresholds), classes + 1, classes + 1), np.int64)
    for maps, values, truth in pictures:
        counted = truth != IGNORED
        for matrix, threshold in zip(matrices, thresholds, strict=True):
            predicted = labels_of(maps, values, threshold)
            joint = truth[counted].astype(np.int64) * (classes + 1) + predicted[counted]
            matrix += np.bincount(joint, minlength=(classes + 1) ** 2).reshape(matrix.shape)
    return matrices


def shares(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """IoU, precision and recall of each class at each threshold, in percent, NaN where there is none: [C + 1, T]."""
    right = np.diagonal(matrices, axis1=1, axis2=2).astype(float)
    true, predicted = matrices.sum(2), matrices.sum(1)
    with np.errstate(invalid="ignore"):
        found = right / (true + predicted - right), right / predicted, right / true
    return tuple(np.ascontiguousarray(100 * share.T) for share in found)


def normalised(map: np.ndarray) -> np.ndarray:
    low, high = map.min(), map.max()
    return ((map - low) / (high - low)).astype(np.float32) if high > low else np.zeros_like(map, np.float32)


def write_voc(root: Path, count: int = 6, seed: int = 0, size=(60, 48)) -> tuple[Path, Path]:
    """Data set of rectangles of up to two classes a picture, and a run whose blurred maps find them more or less.

    Gives their folders. Picture 0 has no object, and the last row of each class PNG is to be ignored.
    """
    rng = np.random.default_rng(seed)
    rows, (width, height) = [], size
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Segmentation"):
        (root / "voc" / name).mkdir(parents=True)
    voc = root / "voc"
    for number in range(count):
        truth, objects = np.zeros((height, width), np.uint8), []
        classes = rng.choice(len(NAMES), 1 + number % 2, replace=False).tolist()
        for rank, key in enumerate(classes, 1):
            x, y = rng.integers(0, (width // 2, height // 2))
            box = (int(x), int(y), int(x) + 20, int(y) + 18)
            if number:
                truth[box[1] : box[3], box[0] : box[2]] = key + 1
            objects.append((NAMES[key], (box[0] + 1, box[1] + 1, box[2], box[3])))
            cam = cv2.GaussianBlur((truth == key + 1).astype(np.float32), (0, 0), 4)
            cam = cv2.resize(cam, (10, 8), interpolation=cv2.INTER_AREA) + rng.normal(0, 0.03, (8, 10))
            rows.append(tables.row(f"{number}.jpg", box, key, NAMES[key], size, rank, cam=cam.astype(np.float16)))
        truth[-1] = IGNORED
        picture = np.full((height, width, 3), 60, np.uint8)
        picture[truth > 0] = 200
        Image.fromarray(picture).save(voc / f"JPEGImages/{number}.jpg")
        Image.fromarray(truth).save(voc / f"SegmentationClass/{number}.png")
        (voc / f"Annotations/{number}.xml").write_text(xml(size, *objects, filename=f"{number}.jpg"))
    (voc / "ImageSets/Segmentation/train_all.txt").write_text("".join(f"{number}\n" for number in range(count)))
    (voc / "classes.txt").write_text("background\n" + "".join(f"{name}\n" for name in NAMES))
    info = tables.INFO | {"relu": True, "num_classes": len(NAMES)}
    return voc, tables.write(root / "run", rows, info, cams=True)
