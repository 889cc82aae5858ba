"""Draw pictures in which something is planted, with its box: words, or one texture among others.

    python examples/planted.py text planted-text/                              # words in half of 400 drawn scenes
    python examples/planted.py texture planted-bricks/                         # a patch of bricks in half of them
    python examples/planted.py text planted-text/ --pictures photos/ --count 0 # in half of one's own photographs

The folder is a data set for every command: with/*.png and without/*.png, as class folders; boxes.csv, a list with
label, split (train or test) and the box of what is planted; captions.csv, with a sentence for each picture, for
`examples/concepts.py`. Scenes are those of `fastcam.data.Shapes`: each has a textured object of its own before clutter,
so that edges and contrast alone do not tell what is planted. What is planted has any place, size, angle and colours;
words have any of nine fonts, and either a sign behind them or a rim around the letters. Where no texture is planted
there is the same patch without it, so that only the texture tells. The same seed draws the same pictures.
"""

import argparse
import csv
import math
import random
import string
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fastcam.data import shapes
from fastcam.pictures import find_pictures, load_image

# They come with matplotlib, so that every machine has the same.
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-BoldItalic.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-BoldOblique.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
)
_LUMA = np.array([0.299, 0.587, 0.114])


def scene(index: int, size: int, seed: int) -> np.ndarray:
    """Draw a scene: uint8 [size, size, 3], RGB."""
    rng = np.random.default_rng((seed, index))
    return shapes.draw(int(rng.integers(len(shapes.CLASS_NAMES))), size, rng)[0]


def plant_text(picture: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Write a line or two of words into a picture.

    Args:
        picture: uint8 [H, W, 3], RGB; it stays as it is.
        rng: decides about words, font, height of letters (1/14 to 1/7 of the shorter side), angle (up to 45 degrees),
            place, colours, and whether there is a sign behind them or a rim around the letters.

    Returns:
        The picture with the words, and the box around their ink: float32 [4], xyxy in pixels, half-open.
    """
    height, width = picture.shape[:2]
    lines = int(rng.integers(1, 3))
    words = "\n".join(_word(rng) for _ in range(lines))
    letters = min(height, width) * rng.uniform(1 / 14, 1 / 7)
    angle = rng.uniform(-45, 45)
    sign, rim = rng.random() < 0.5, max(1, round(letters / 12))
    while True:
        font = _font(FONTS[rng.integers(len(FONTS))], max(8, round(letters * 1.35)))
        canvas = ImageDraw.Draw(Image.new("L", (1, 1)))
        left, top, right, bottom = canvas.multiline_textbbox((0, 0), words, font, stroke_width=rim)
        margin = round(letters * 0.4)
        size = math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin
        ink, behind = Image.new("L", size), Image.new("L", size, 255 if sign else 0)
        place = margin - left, margin - top
        ImageDraw.Draw(ink).multiline_text(place, words, 255, font)
        ImageDraw.Draw(behind).multiline_text(place, words, 255, font, stroke_width=rim)
        ink, behind = (layer.rotate(angle, Image.Resampling.BILINEAR, expand=True) for layer in (ink, behind))
        if ink.width < width and ink.height < height:
            break
        letters *= 0.85
    x, y = int(rng.integers(width - ink.width + 1)), int(rng.integers(height - ink.height + 1))
    paper, colour = _contrasting(rng)
    result = picture.copy()
    part = result[y : y + ink.height, x : x + ink.width]
    _lay(part, paper, np.asarray(behind))
    _lay(part, colour, np.asarray(ink))
    return result, _box(np.asarray(ink), x, y)


def plant_patch(picture: np.ndarray, rng: np.random.Generator, bricks: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lay a patch of bricks into a picture, or the same patch without them.

    Args:
        picture: uint8 [H, W, 3], RGB; it stays as it is.
        rng: decides about outline, size (1/4 to 2/5 of the shorter side), place, angle, colours and height of bricks.
        bricks: whether the patch has them; else it has the mean of their colours.

    Returns:
        The picture with the patch, and the patch's box: float32 [4], xyxy in pixels, half-open.
    """
    height, width = picture.shape[:2]
    side = round(min(height, width) * rng.uniform(0.25, 0.4))
    outline = list(shapes.OUTLINES.values())[rng.integers(len(shapes.OUTLINES))]
    mask = np.zeros((side, side), np.uint8)
    cv2.fillPoly(mask, [np.rint((outline + 1) / 2 * (side - 1)).astype(np.int32)], 255, cv2.LINE_AA)
    steps, angle, brick = (
        np.arange(side, dtype=np.float32) - side / 2,
        rng.uniform(-45, 45),
        side * rng.uniform(0.14, 0.2),
    )
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    u, v = (steps[None] * cos + steps[:, None] * sin) / brick, (steps[:, None] * cos - steps[None] * sin) / brick
    row = np.floor(v)
    joint = np.minimum(v - row, 2 * ((u / 2 + row / 2) % 1))  # each row is shifted by half a brick
    wall = np.clip((joint - 0.1) * brick, 0, 1)
    paper, colour = _contrasting(rng)
    surface = paper + (colour - paper) * (wall if bricks else np.full_like(wall, wall.mean()))[..., None]
    x, y = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    result = picture.copy()
    _lay(result[y : y + side, x : x + side], surface, mask)
    return result, _box(mask, x, y)


def draw(
    kind: str,
    out: Path,
    count: int = 400,
    *,
    pictures: Sequence[Path] = (),
    size: int = 224,
    share: float = 0.5,
    test_fraction: float = 0.5,
    seed: int = 0,
) -> Path:
    """Write a data set in which something is planted into a part of the pictures.

    Args:
        kind: "text" or "texture".
        out: folder for it; pictures of the same names are replaced.
        count: number of pictures; 0 is all of `pictures`.
        pictures: photographs to plant it into; without them scenes are drawn.
        size: longer side of the pictures in pixels.
        share: of them into which it is planted, in (0, 1).
        test_fraction: share of them whose split is test: the last ones.
        seed: of all random choices.

    Returns:
        Path of boxes.csv.
    """
    count = count or len(pictures)
    if not 2 <= count <= (len(pictures) or count):
        raise ValueError(f"`count` must be at least 2 and at most the number of pictures, got {count}")
    names = {"text": ("words are written on it", "nothing is written on it"), "texture": ("of bricks", "of one colour")}
    boxes, captions = [], []
    for index in range(count):
        planted = math.ceil((index + 1) * share) > math.ceil(index * share)
        rng = np.random.default_rng((seed, 1, index))
        picture = _small(load_image(pictures[index]), size) if pictures else scene(index, size, seed)
        box = np.zeros(4, np.float32)
        if kind == "texture":
            picture, box = plant_patch(picture, rng, planted)
        elif planted:
            picture, box = plant_text(picture, rng)
        name = f"{'with' if planted else 'without'}/{index:05d}.png"
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(out / name)
        split = "test" if index >= count - round(count * test_fraction) else "train"
        edges = [f"{edge:g}" for edge in box] if planted else [""] * 4
        boxes.append([name, Path(name).parent.name, split, *edges])
        captions.append([name, f"a {'picture' if kind == 'text' else 'patch'} {names[kind][not planted]}"])
    for file, header, rows in (
        ("boxes.csv", ["path", "label", "split", "x0", "y0", "x1", "y1"], boxes),
        ("captions.csv", ["image_id", "caption"], captions),
    ):
        with open(out / file, "w", newline="", encoding="utf-8") as handle:
            csv.writer(handle).writerows([header, *rows])
    return out / "boxes.csv"


@cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def _word(rng: np.random.Generator) -> str:
    letters = random.Random(int(rng.integers(2**32))).choices(
        string.ascii_letters + string.digits, k=int(rng.integers(4, 9))
    )
    word = "".join(letters)
    return word.upper() if rng.random() < 0.5 else word.capitalize()


def _contrasting(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    paper = rng.uniform(0, 255, 3)
    return paper, _far_from(paper, rng)


def _far_from(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Another colour, so much brighter or darker that it can be read."""
    while True:
        other = rng.uniform(0, 255, 3)
        if abs((other - colour) @ _LUMA) > 90:
            return other


def _lay(place: np.ndarray, surface: np.ndarray, mask: np.ndarray) -> None:
    """Lay a surface over a part of a picture, in place, as far as a mask in 0..255 has it."""
    share = mask[..., None] / 255
    place[:] = np.rint(place * (1 - share) + surface * share)


def _box(mask: np.ndarray, x: int, y: int) -> np.ndarray:
    columns, rows = np.flatnonzero((mask > 127).any(0)), np.flatnonzero((mask > 127).any(1))
    return np.array([x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1], np.float32)


def _small(picture: np.ndarray, size: int) -> np.ndarray:
    image = Image.fromarray(picture)
    image.thumbnail((size, size))
    return np.array(image)


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["text", "texture"], help="what is planted")
    parser.add_argument("out", type=Path, help="folder for the data set")
    parser.add_argument("--count", type=int, default=400, help="number of pictures [400]; 0: all of --pictures")
    parser.add_argument("--pictures", type=Path, help="folder of photographs to plant it into, instead of drawn scenes")
    parser.add_argument("--size", type=int, default=224, help="longer side in pixels [224]")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices [0]")
    parser.add_argument("--share", type=float, default=0.5, help="of the pictures in which it is planted [0.5]")
    options = parser.parse_args(arguments)
    photos = [Path(file) for _, file in find_pictures([options.pictures])] if options.pictures else []
    print(
        draw(
            options.kind,
            options.out,
            options.count,
            pictures=photos,
            size=options.size,
            share=options.share,
            seed=options.seed,
        )
    )


if __name__ == "__main__":
    main()
