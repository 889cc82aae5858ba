"""The field's evaluators written down plainly: one picture, one threshold, one box after the other.

OpenCV finds contours, SciPy labels components, and nothing is shared with fastcam. The rules are those of
`fastcam.evaluation.PROTOCOLS`, spelled out once more. Also: the maps that such rules stumble over.
"""

from collections.abc import Iterator

import cv2
import numpy as np
from scipy import ndimage

THRESHOLDS = np.arange(0, 1, 0.001)
Box = tuple[float, float, float, float]


# ---- maps and truth --------------------------------------------------------------------------------------------------


def upsample(coarse: np.ndarray, size: tuple[int, int], flag: int = cv2.INTER_CUBIC) -> np.ndarray:
    """[h, w] → float64 [H, W] in [0, 1]."""
    values = cv2.resize(coarse.astype(np.float64), size[::-1], interpolation=flag)
    if np.isnan(coarse).any() or coarse.min() == coarse.max():
        return np.zeros(size)
    values -= values.min()
    return values / values.max()


def resize_box(box: Box, picture: tuple[int, int], size: tuple[int, int]) -> Box:
    """From pixels of a picture (width, height) to those of a map (height, width)."""
    (width, height), (map_height, map_width) = picture, size
    x0, y0, x1, y1 = map(float, box)
    return (
        int(x0 * map_width / width),
        int(y0 * map_height / height),
        int(x1 * map_width / width),
        int(y1 * map_height / height),
    )


def crop_box(box: Box, picture: tuple[int, int], crop: int, side: int) -> Box:
    """The same where the picture is resized to a square of `crop` pixels and its centre of `side` pixels is kept."""
    shift = (crop - side) // 2
    x0, y0, x1, y1 = (
        int(float(edge) / length * crop - shift) for edge, length in zip(box, (*picture, *picture), strict=True)
    )
    return max(x0, 0), max(y0, 0), min(x1, side - 1), min(y1, side - 1)


# ---- masks and boxes -------------------------------------------------------------------------------------------------


def contour_boxes(mask: np.ndarray) -> tuple[list[Box], list[Box]]:
    """(box of the largest contour, boxes of all contours), right and bottom clamped; no boxes for an empty mask."""
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
    if not found:
        return [], []
    height, width = mask.shape
    boxes = []
    for x, y, w, h in map(cv2.boundingRect, found):
        boxes.append((x, y, min(x + w, width - 1), min(y + h, height - 1)))
    areas = list(map(cv2.contourArea, found))
    return [boxes[areas.index(max(areas))]], boxes


def largest_component(mask: np.ndarray) -> list[Box]:
    """The box of the 8-connected component with most pixels, edges clamped."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    if not count:
        return []
    largest = int(np.bincount(labels.ravel())[1:].argmax())
    y, x = ndimage.find_objects(labels)[largest]
    return [(x.start, y.start, min(x.stop, mask.shape[1] - 1), min(y.stop, mask.shape[0] - 1))]


def every_component(mask: np.ndarray) -> list[Box]:
    """Half-open boxes of all 4-connected components."""
    return [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(ndimage.label(mask)[0])]


def iou(a: Box, b: Box, inclusive: bool = True) -> float:
    extra = 1 if inclusive else 0
    across = max(min(a[2], b[2]) - max(a[0], b[0]) + extra, 0)
    down = max(min(a[3], b[3]) - max(a[1], b[1]) + extra, 0)
    areas = [(box[2] - box[0] + extra) * (box[3] - box[1] + extra) for box in (a, b)]
    union = areas[0] + areas[1] - across * down
    return across * down / union if union else 0.0


def best_iou(boxes: list[Box], truths: list[Box], inclusive: bool = True) -> float:
    return max((iou(box, truth, inclusive) for box in boxes for truth in truths), default=0.0)


def masks_at(name: str, values: np.ndarray, thresholds: np.ndarray) -> Iterator[np.ndarray]:
    """What is above each threshold in a finished map, by the protocol's rule."""
    quantised = (255 * values).astype(np.uint8)
    reference = np.percentile(quantised, 90) if name == "rethinking" else quantised.max()
    masks: dict[int, np.ndarray] = {}
    for threshold in thresholds:
        if name == "notebook":
            yield values > threshold * values.max()
            continue
        level = int(threshold * reference)
        if level not in masks:
            masks[level] = quantised > level
        yield masks[level]


def boxes_of(name: str, mask: np.ndarray) -> tuple[list[Box], list[Box]]:
    """(the box, or all of "notebook", boxes of all contours) by the protocol's rule."""
    if name == "notebook":
        return (every_component(mask),) * 2
    height, width = mask.shape
    one, every = contour_boxes(mask)
    if name in ("paper", "bas"):
        one = largest_component(mask)
    empty = {"ts-cam": (0, 0, 1, 1), "rethinking": (0, 0, width - 1, height - 1)}.get(name, (0, 0, 0, 0))
    return one or [empty], every or [empty]


def iou_curves(name: str, values: np.ndarray, truths: list[Box], thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """[2, T]: best IoU at each threshold, of the box and of all contours' boxes; equal masks are looked at once."""
    curves, last = [], None
    for mask in masks_at(name, values, thresholds):
        if last is None or (mask is not last and (mask != last).any()):
            found = [best_iou(boxes, truths, name != "notebook") for boxes in boxes_of(name, mask)]
        last = mask
        curves.append(found)
    return np.array(curves).T


# ---- figures ---------------------------------------------------------------------------------------------------------


def rank(logits: np.ndarray, label: int) -> int:
    return sorted(range(len(logits)), key=lambda c: (-logits[c], c)).index(label) + 1


def five_guesses(
    maps: dict[int, np.ndarray], order: list[int], label: int, truths: list[Box], loose: float, tight: float
) -> bool:
    """Top-5 Loc of "paper" with the maps of all classes: is any of its five (class, box) guesses right?"""
    guesses = [(order[0], loose), (order[0], tight), (order[1], loose), (order[1], tight), (order[2], loose)]
    boxes = [(c, boxes_of("paper", *masks_at("paper", maps[c], np.array([t])))[0]) for c, t in guesses]
    return any(c == label and best_iou(box, truths) >= 0.5 for c, box in boxes)


def figures(
    name: str,
    curves: np.ndarray,
    threshold: float,
    ranks: list[int] | None = None,
    labels: list[int] | None = None,
    tight: float | None = None,
    thresholds: np.ndarray = THRESHOLDS,
) -> tuple[dict[str, float], dict[str, float]]:
    """(figures, best thresholds) under fastcam's names, of `iou_curves` [N, 2, T]."""

    def share(hits: list[bool]) -> float:
        if name != "bas":
            return 100 * sum(hits) / len(hits)
        groups: dict[int, list[bool]] = {}
        for hit, label in zip(hits, labels, strict=True):
            groups.setdefault(label, []).append(hit)
        return float(np.mean([100 * sum(group) / len(group) for group in groups.values()]))

    def accuracy(rule: int, delta: int, column: int) -> float:
        values = curves[:, rule, column]
        return share((values > delta / 100 if name == "bas" else values >= delta / 100).tolist())

    at = int(np.abs(thresholds - threshold).argmin())
    found: dict[str, float] = {}
    if ranks is not None:
        found |= {f"Top-{k} Cls": share([r <= k for r in ranks]) for k in (1, 5)}
    found["GT-known Loc"] = accuracy(0, 50, at)
    if ranks is not None:
        values = curves[:, 0, at]
        right = (values > 0.5 if name in ("bas", "ts-cam") else values >= 0.5).tolist()
        found["Top-1 Loc"] = share([hit and r <= 1 for hit, r in zip(right, ranks, strict=True)])
        if name == "paper":
            tighter = curves[:, 0, int(np.abs(thresholds - tight).argmin())] >= 0.5
            pairs = zip(right, tighter.tolist(), ranks, strict=True)
            found["Top-5 Loc"] = share([(r <= 2 and (a or b)) or (r == 3 and a) for a, b, r in pairs])
        else:
            found["Top-5 Loc"] = share([hit and r <= 5 for hit, r in zip(right, ranks, strict=True)])
    best: dict[str, float] = {}

    def highest(key: str, rule: int, delta: int) -> float:
        values = [accuracy(rule, delta, column) for column in range(len(thresholds))]
        best[key] = float(thresholds[values.index(max(values))])
        return max(values)

    found["MaxBoxAcc"] = highest("MaxBoxAcc", 0, 50)
    found["MaxBoxAccV2"] = sum(highest(f"MaxBoxAccV2 {delta}", 1, delta) for delta in (30, 50, 70)) / 3
    return found, best


def pixel_precision(maps: np.ndarray, masks: np.ndarray) -> float:
    """The standard's PxAP written down plainly: float sums of numpy's histograms, picture by picture."""
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    positive, negative = np.zeros(1002), np.zeros(1002)
    for scores, mask in zip(maps, masks, strict=True):
        positive += np.histogram(scores[mask == 1], bins=edges)[0]
        negative += np.histogram(scores[mask == 0], bins=edges)[0]
    tp, fp = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / positive.sum()
    counted = (tp + fp)[1:] != 0
    return 100 * (precision[1:] * (recall[1:] - recall[:-1]))[counted].sum()


def pixel_overlap(maps: np.ndarray, masks: np.ndarray, step: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Dice of the object, and mean IoU of object and background, in percent at each threshold, all pixels pooled."""
    scores, truth = maps[masks != 255].astype(np.float64), masks[masks != 255] == 1
    dice, mean = [], []
    for threshold in np.arange(0, 1, 0.001)[::step]:
        predicted = scores >= threshold
        hits, either = (predicted & truth).sum(), (predicted | truth).sum()
        dice.append(2 * hits / (predicted.sum() + truth.sum()))
        mean.append((hits / either + (~predicted & ~truth).sum() / (~predicted | ~truth).sum()) / 2)
    return 100 * np.array(dice), 100 * np.array(mean)


# ---- nasty maps ------------------------------------------------------------------------------------------------------


def maps(seed: int, count: int, size: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Finished maps [H, W], float64, of every kind in turn."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]

    def normalised(values: np.ndarray) -> np.ndarray:
        return (values - values.min()) / (values.max() - values.min())

    for number in range(count):
        kind = ("blurred", "peaks", "noisy", "holed", "tied", "rings", "low", "noise", "step", "constant")[number % 10]
        coarse = rng.standard_normal(rng.integers(2, 9, 2))
        values = upsample(coarse, size)
        if kind == "peaks":
            cx, cy, r = (rng.random((3, 4)) * np.array([[width], [height], [width / 3]])).round(1)
            values = normalised(np.exp(-((x[..., None] - cx) ** 2 + (y[..., None] - cy) ** 2) / (r**2 + 1)).max(-1))
        elif kind == "noisy":
            values = normalised(values + 0.2 * rng.random(size))
        elif kind == "holed":
            values[rng.random(size) < 0.03] = 0
            values[height // 3 : height // 2, width // 3 : width // 2] = rng.random()
        elif kind == "tied":
            values = np.floor(values * 4) / 4
        elif kind == "rings":
            values = (np.minimum(np.minimum(y, height - 1 - y), np.minimum(x, width - 1 - x)) % 2) * rng.random()
        elif kind == "low":  # the maximum is below 1: thresholds share other levels
            values = values * rng.random()
        elif kind == "noise":
            values = rng.random(size)
        elif kind == "step":
            values = (values > rng.random()) * float(rng.integers(1, 256)) / 255
        elif kind == "constant":
            values = np.full(size, rng.integers(0, 3) / 2)
        yield kind, values


def truth_boxes(rng: np.random.Generator, values: np.ndarray, most: int = 3) -> list[Box]:
    """1 to `most` boxes in whole pixels of a map: about what the map shows, give or take, or anywhere."""
    height, width = values.shape
    found = []
    for number in range(rng.integers(1, most + 1)):
        if number % 2 == 0 and (mask := values > rng.random() * values.max()).any():
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = np.array([columns[0], rows[0], columns[-1], rows[-1]]) + rng.integers(-2, 3, 4)
        else:
            box = rng.integers(0, (width, height, width, height))
        x0, y0, x1, y1 = box.clip(0, (width - 1, height - 1, width - 1, height - 1)).tolist()
        found.append((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
    return found
