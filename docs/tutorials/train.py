# ---
# jupytext:
#   formats: py:percent
# kernelspec:
#   display_name: Python 3
#   language: python
#   name: python3
# ---

# %% [markdown]
# # Train and localize your own classes
#
# You have pictures in folders, one for each class, and nobody has drawn a box. This page trains a network on the
# folders' names, finds the boxes in new pictures, looks at them in a report and exports them for other tools. All of
# it takes less than a minute without a GPU. Commands are for a shell; on Colab and in notebooks they run as they
# stand here.
#
# The first cell installs fastcam from PyPI where it is missing; [Start](../start.md) has its installation from source.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fastcam") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "fastcam"], check=True)

# %% [markdown]
# ## Pictures
#
# Any folder of folders will do. `train` and `val` within are seen as the splits to learn and to test by; without them,
# as in `fruit/lemon/000.jpg`, a fifth of each class is kept for the test:
#
# ```text
# fruit/train/lemon/000.jpg      fruit/val/lemon/000.jpg
# fruit/train/plum/001.jpg       …
# fruit/train/tomato/002.jpg
# ```
#
# So that the page begins from nothing, a few lines draw fruit before pebbles; with pictures of yours, go on with the
# next section.

# %% tags=["hide-input"]
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

FRUIT = {"lemon": ((245, 210, 50), 1.5), "plum": ((110, 50, 150), 1.2), "tomato": ((215, 45, 35), 1.0)}


def draw(name, rng, picture=None, where=None, side=128):
    """Draw a fruit before pebbles, or into a picture: uint8 [side, side, 3], and its box, xyxy in pixels."""
    if picture is None:
        picture = np.full((side, side, 3), rng.integers(60, 200), np.uint8)
        for _ in range(30):
            grey = (rng.integers(60, 220) + rng.integers(-12, 13, 3)).tolist()
            axes = rng.integers(side // 20, side // 7, 2).tolist()
            turn = int(rng.integers(180))
            cv2.ellipse(picture, rng.integers(0, side, 2).tolist(), axes, turn, 0, 360, grey, -1, cv2.LINE_AA)
    colour, length = FRUIT[name]
    radius = side * rng.uniform(0.14, 0.23)
    x, y = rng.uniform(radius * length, side - radius * length, 2) if where is None else where
    axes, turn = (round(radius * length), round(radius)), int(rng.integers(180))
    mask = cv2.ellipse(np.zeros((side, side), np.uint8), (round(x), round(y)), axes, turn, 0, 360, 255, -1, cv2.LINE_AA)
    down, right = np.mgrid[:side, :side]
    light = 1.15 - np.hypot(down - y + radius / 3, right - x + radius / 3) / radius / 2.2
    fruit = light.clip(0.35, 1.1)[..., None] * np.array(colour) + rng.normal(0, 5, (side, side, 1))
    share = mask[..., None] / 255
    inside = cv2.boundingRect((mask > 127).astype(np.uint8))
    box = (*inside[:2], inside[0] + inside[2], inside[1] + inside[3])
    return (picture * (1 - share) + fruit.clip(0, 255) * share).astype(np.uint8), box


rng = np.random.default_rng(0)
for folder, count in (("fruit/train", 240), ("fruit/val", 60), ("photos", 30)):
    for number in range(count):
        name = list(FRUIT)[number % len(FRUIT)]
        # New pictures, "photos", are in no folders of classes.
        path = Path(folder, "" if folder == "photos" else name, f"{number:03d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(name, rng)[0]).save(path, quality=95)

# %%
import matplotlib.pyplot as plt


def show(pictures, titles, columns=6):
    rows = -(-len(pictures) // columns)
    size = 1.75 * columns, 2 * rows
    _, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
    for place in np.ravel(axes):
        place.axis("off")
    for place, image, title in zip(np.ravel(axes), pictures, titles, strict=False):
        place.imshow(image)
        place.set_title(title, fontsize=9)
    plt.show()


paths = sorted(Path("fruit/train").glob("*/00[0-5].jpg"))
show([Image.open(path) for path in paths], [path.parent.name for path in paths])

# %% [markdown]
# What fastcam makes of a folder, before anything is trained: counts by class, and what is damaged.

# %% language="bash"
# fastcam data info fruit --split train

# %% [markdown]
# ## Train
#
# `--size` is the side of the network's input. `--output-stride 16` lets the last stage of a ResNet keep its
# resolution: maps, and so boxes, are twice as fine, here 6×6 positions. These fruit are easy, so that two passes over
# 240 pictures do.

# %% language="bash"
# fastcam train fruit --arch resnet18 --output-stride 16 --size 96 \
#     --batch-size 16 --epochs 2 --out model

# %%
from IPython.display import display

display(Image.open("model/training.png"))

# %% [markdown]
# `model/best.safetensors` has the weights, the classes' names and the preprocessing, so that none of it is asked for
# again. To train once more into the same folder, add `--overwrite`.
#
# With real photographs start from weights that somebody has trained on many, and let only what is new learn:
# `--weights resnet18.pth --freeze features`, or all of it with `--weights resnet18.pth --size 224 --epochs 10`.
# Weights come from [torchvision](https://docs.pytorch.org/vision/stable/models.html); nothing is fetched by fastcam.
#
# ## Choose the threshold
#
# A box goes around the largest region of the map above a threshold, a fraction of the map's range. By default that is
# 0.2, which suits maps of 7×7 and more of objects that fill the picture. Coarse maps of small objects spread; look at
# a few before you run all:

# %% language="bash"
# mkdir -p few && cp photos/00[0-5].jpg few/
# for threshold in 0.2 0.4 0.6; do
#     fastcam localize few --weights model --threshold $threshold --out look/$threshold
# done

# %%
import pyarrow.parquet as pq

from fastcam import drawing


def boxed(run, folder):
    """The pictures of a run with their boxes, and class and score of each."""
    rows = pq.read_table(f"{run}/boxes.parquet").to_pylist()
    boxes = [[row[edge] for edge in ("x0", "y0", "x1", "y1")] for row in rows]
    images = [Image.open(Path(folder, row["image_id"])) for row in rows]
    drawn = [drawing.draw_boxes(image, box) for image, box in zip(images, boxes, strict=True)]
    return drawn, [f"{row['class_name']} {row['score']:.0%}" for row in rows]


pictures, titles = [], []
for threshold in ("0.2", "0.4", "0.6"):
    images, _ = boxed(f"look/{threshold}", "few")
    pictures += images
    titles += [f"threshold {threshold}"] * len(images)
show(pictures, titles)

# %% [markdown]
# If some of your pictures have boxes, let these decide: [Evaluate a method](evaluate.py) tells how to write them down.
#
# ## Localize

# %% language="bash"
# fastcam localize photos --weights model --threshold 0.6 --out run

# %%
images, titles = boxed("run", "photos")
show(images[:18], titles[:18])

# %% [markdown]
# One row for each picture, in Parquet, which pandas, Polars, DuckDB and Arrow read. A picture that is damaged has a
# row, too, with the reason in `error`, and the command ends with exit code 3. The same command again goes on where it
# was stopped.

# %%
table = pq.read_table("run/boxes.parquet")
for row in table.slice(0, 3).to_pylist():
    box = [round(row[edge]) for edge in ("x0", "y0", "x1", "y1")]
    print(row["image_id"], row["class_name"], f"{row['score']:.4f}", box, row["status"])

# %% [markdown]
# ## Report and export
#
# The report is one HTML page with counts, errors, histograms and the surest and least sure pictures of each class:
# open `run/report.html` in a browser. Exports are for training a detector on these boxes, or for correcting them by
# hand.

# %% language="bash"
# fastcam report run
# fastcam export run --format yolo
# fastcam export run --format coco
# fastcam export run --format labelstudio
# ls run
# head -n 2 run/yolo/labels/000.txt

# %% [markdown]
# ## Where to go on
#
# - Several objects of a class: `--boxes all --min-area 0.01`. Several classes a picture: `--top-k 2`, or train with
#   `--loss bce`.
# - [Explain one picture](explain.py): what the network looks at, by other methods and at other layers.
# - [Train a classifier](../howto/training.md): settings, published recipes, the checkpoint that localizes best.
# - [Evaluate a method](evaluate.py): how well boxes fit, and which method's fit best.
