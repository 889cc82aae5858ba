"""A drawn localization data set: one textured object with a known box before a cluttered background.

A class is a texture on a shape, such as "striped disc". Place, size, aspect ratio, rotation and colours are random.
Behind the object lie a smooth colour field with grain, blobs, lines, and distractors: the shapes of all classes without
texture, in the same colours. So neither a colour nor an outline gives away where the object is, only its surface does.
"""

import math
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from fastcam.data.reading import Format, Request
from fastcam.data.sample import Sample

SPLITS = ("train", "val", "test")
_COUNTS = {"train": 3000, "val": 400, "test": 600}  # pictures of each split that `load` gives
_SUBPIXEL = 4  # fractional bits of the coordinates that OpenCV is given
_MARGIN = 0.01  # of the picture, around the object
_LUMA = np.array([0.299, 0.587, 0.114])


def _filling(outline: np.ndarray) -> np.ndarray:
    """Move and scale an outline [P, 2] so that it fills [-1, 1] in both directions."""
    low, high = outline.min(0), outline.max(0)
    return (outline - (low + high) / 2) / ((high - low) / 2)


def _polar(radius: Callable[[np.ndarray], np.ndarray], points: int) -> np.ndarray:
    angle = np.linspace(0, 2 * math.pi, points, endpoint=False)
    return _filling(radius(angle)[:, None] * np.stack([np.sin(angle), -np.cos(angle)], 1))


def _heart(points: int = 64) -> np.ndarray:
    t = np.linspace(0, 2 * math.pi, points, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return _filling(np.stack([16 * np.sin(t) ** 3, -y], 1))


_CROSS = [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1), (1, 1)]

OUTLINES: dict[str, np.ndarray] = {
    "disc": _polar(np.ones_like, 64),
    "heart": _heart(),
    "triangle": _polar(np.ones_like, 3),
    "flower": _polar(lambda a: 1 + 0.2 * np.cos(5 * a), 100),
    "square": _filling(np.array([(0, 0), (1, 0), (1, 1), (0, 1)])),
    "cross": _filling(np.array(_CROSS)),
    "star": _polar(lambda a: np.where(np.arange(a.size) % 2, 0.5, 1.0), 10),
    "gear": _polar(lambda a: np.where(np.sin(8 * a) > 0, 1.0, 0.8), 96),
}


def _ink(wave: np.ndarray, sharpness: float = 1.5) -> np.ndarray:
    """A wave in [-1, 1] as ink in [0, 1]: sharp enough to read, soft enough not to alias."""
    return np.clip(0.5 + sharpness * wave, 0, 1)


def _sine(x: np.ndarray) -> np.ndarray:
    return np.sin(2 * math.pi * x)


def _off(x: np.ndarray) -> np.ndarray:
    """Distance to the nearest whole number."""
    return np.abs(x - np.rint(x))


# From coordinates u, v [H, W], in periods of the texture and with the object's centre as origin, to ink in [0, 1].
TEXTURES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "striped": lambda u, v: _ink(_sine(u)),
    "dotted": lambda u, v: np.clip(3.2 - 7 * np.hypot(_off(u), _off(v)), 0, 1),
    "checked": lambda u, v: _ink(_sine(u / 2) * _sine(v / 2), 2.5),
    "ringed": lambda u, v: _ink(_sine(np.hypot(u, v))),
    "zigzag": lambda u, v: _ink(_sine(u + 1.2 * _off(v / 1.6))),
    "swirled": lambda u, v: _ink(np.sin(3 * np.arctan2(v, u) + 2 * math.pi * np.hypot(u, v))),
    "rayed": lambda u, v: _ink(np.sin(8 * np.arctan2(v, u))),
    "scaly": lambda u, v: _ink(_sine(1.5 * np.hypot(_off(u / 1.5 + np.floor(v) / 2) * 1.5, v - np.floor(v)))),
}

CLASS_NAMES = tuple(f"{texture} {shape}" for texture, shape in zip(TEXTURES, OUTLINES, strict=True))


class Shapes:
    """The drawn data set: the same seed and split give the same pictures in any order, on any run.

    Classes take turns, so that they are equally frequent. A picture is drawn when it is first asked for (2 ms at 128
    pixels) and kept in memory (64 KiB).

    Args:
        split: "train", "val" or "test"; different pictures each.
        count: number of pictures.
        size: side of the pictures in pixels, at least 32.
        seed: of all random choices.

    Attributes:
        ids: a unique name for each.
        labels: class index of each.
        classes: None, since each has but one object.
        class_names: names of the classes.

    Raises:
        ValueError: an unknown split, no pictures, or too small a size.
    """

    class_names = CLASS_NAMES
    classes: Sequence[tuple[int, ...] | None] | None = None

    def __init__(self, split: str, count: int, size: int = 128, seed: int = 0) -> None:
        if split not in SPLITS:
            raise ValueError(f"`split` must be one of {', '.join(SPLITS)}, got {split!r}")
        check_whole(count=(count, 1), size=(size, 32), seed=(seed, 0))
        self.split, self.size, self.seed = split, size, seed
        self.ids = [f"{split}/{index:05d}" for index in range(count)]
        self.labels = [index % len(CLASS_NAMES) for index in range(count)]
        self._samples: list[Sample | None] = [None] * count

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> Sample:
        """One picture, drawn when it is first asked for; negative indices count from the end.

        uint8 [size, size, 3] RGB, with label, mask, bool [size, size], and one box that fits the mask tightly, float32
        [1, 4], xyxy in pixels, half-open.
        """
        index = range(len(self))[index]
        sample = self._samples[index]
        if sample is None:
            sample = self._samples[index] = self._draw(index)
        return sample

    def truth(self, index: int) -> Sample:
        """What is known of one picture, which is drawn for it."""
        return self[index]._replace(image=None)

    def _draw(self, index: int) -> Sample:
        label = self.labels[index]
        image, mask = draw(label, self.size, np.random.default_rng((self.seed, SPLITS.index(self.split), index)))
        box = np.array([box_of(mask)], np.float32)
        return Sample(image, label, box, mask, (self.size, self.size), self.ids[index])


def box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The tight box of a mask, bool [H, W], that is not empty: xyxy in pixels, half-open."""
    x, y = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return int(x[0]), int(y[0]), int(x[-1]) + 1, int(y[-1]) + 1


def check_whole(**values: tuple[int, int]) -> None:
    """Refuse what is no whole number, or below the least that goes with it."""
    for name, (value, least) in values.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def draw(label: int, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one picture of the class `CLASS_NAMES[label]`: uint8 [size, size, 3] RGB, and its object's mask, bool."""
    canvas = background(rng, size)
    return add_object(canvas, label, *place(rng, label, 0.32, 0.54, size), rng)


def place(rng: np.random.Generator, label: int, low: float, high: float, size: int) -> tuple[np.ndarray, float]:
    """Where an object of a class could be: its outline [P, 2] in pixels, x and y, and by what angle it is turned.

    Its extent, the geometric mean of width and height as a share of the picture before the turn, is in [low, high].
    """
    return _place(rng, list(OUTLINES.values())[label], _extent(rng, low, high), size)


def add_object(
    canvas: np.ndarray, label: int, outline: np.ndarray, angle: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Lay an object over a square picture, in new colours: the picture, uint8, and the object's mask, bool."""
    size = len(canvas)
    coverage = np.zeros((size, size), np.uint8)
    _fill(coverage, outline, np.array([255]))
    centre = (outline.min(0) + outline.max(0)) / 2
    steps = np.arange(size, dtype=np.float32)
    x, y = steps[None, :] - centre[0], steps[:, None] - centre[1]
    period, cos, sin = size * rng.uniform(0.095, 0.13), math.cos(angle), math.sin(angle)
    ink = list(TEXTURES.values())[label]((cos * x + sin * y) / period, (cos * y - sin * x) / period)
    paper, colour = _contrasting(rng)
    surface = paper + (colour - paper) * ink[..., None]
    image = canvas + (surface - canvas) * (coverage[..., None] / 255)
    return np.rint(image).astype(np.uint8), coverage > 127


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A smooth colour field with grain, blobs, lines and distractors: uint8 [size, size, 3]."""
    field = np.stack([_color(rng) for _ in range(9)]).reshape(3, 3, 3).astype(np.float32)
    smooth = np.asarray(cv2.resize(field, (size, size), interpolation=cv2.INTER_LINEAR), np.float32)
    for cell in (1, 3):  # fine grain and coarse
        side = -(-size // cell)
        grain = rng.integers(-128, 128, (side, side), dtype=np.int16).astype(np.float32) * rng.uniform(0, 0.16)
        smooth += cv2.resize(grain, (size, size), interpolation=cv2.INTER_LINEAR)[..., None]
    canvas = np.clip(smooth, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(3, 8)):  # blobs
        _fill(canvas, _place(rng, OUTLINES["disc"], _extent(rng, 0.05, 0.3), size)[0], _color(rng))
    for _ in range(rng.integers(2, 7)):  # lines
        begin, end = np.rint(rng.uniform(-0.1, 1.1, (2, 2)) * size).astype(int).tolist()
        width = int(rng.integers(1, max(2, size // 28)))
        cv2.line(canvas, begin, end, _color(rng).tolist(), width, cv2.LINE_AA)
    shapes = list(OUTLINES.values())
    for _ in range(rng.integers(1, 4)):  # distractors
        outline = shapes[rng.integers(len(shapes))]
        _fill(canvas, _place(rng, outline, _extent(rng, 0.2, 0.45), size)[0], _color(rng))
    return canvas


def _extent(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Width and height as shares of the picture: geometric mean in [low, high], aspect ratio in [1/2, 2]."""
    stretch = 2 ** rng.uniform(-0.5, 0.5)
    return rng.uniform(low, high) * np.array([stretch, 1 / stretch])


def _place(rng: np.random.Generator, outline: np.ndarray, extent: np.ndarray, size: int) -> tuple[np.ndarray, float]:
    """The outline scaled to `extent`, turned by a random angle (also given) and put anywhere inside the picture."""
    angle = rng.uniform(-math.pi, math.pi)
    cos, sin = math.cos(angle), math.sin(angle)
    turned = (outline * extent / 2) @ np.array([[cos, sin], [-sin, cos]])
    low, high = turned.min(0), turned.max(0)
    room = np.maximum(1 - 2 * _MARGIN - (high - low), 0)
    return (turned - low + _MARGIN + rng.random(2) * room) * (size - 1), angle


def _fill(canvas: np.ndarray, outline: np.ndarray, color: np.ndarray) -> None:
    points = np.rint(outline * (1 << _SUBPIXEL)).astype(np.int32)
    cv2.fillPoly(canvas, [points], color.tolist(), cv2.LINE_AA, _SUBPIXEL)


def _color(rng: np.random.Generator) -> np.ndarray:
    """A random colour [3] in 0..255: any hue, seldom grey."""
    hue, saturation, value = rng.random(), rng.uniform(0.25, 0.95), rng.uniform(0.2, 1.0)
    pure = np.clip(np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1, 0, 1)
    return 255 * value * (1 - saturation * (1 - pure))


def _contrasting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two colours that differ enough in brightness for a texture to be seen."""
    while True:
        first, second = _color(rng), _color(rng)
        if abs((first - second) @ _LUMA) > 90:
            return first, second


def _read(request: Request) -> Shapes:
    return Shapes(request.part, _COUNTS[request.part])


FORMAT = Format(
    "the drawn data set, by this name",
    fits=lambda path: False,
    splits=lambda path: list(_COUNTS),
    read=_read,
    complete=True,
)
