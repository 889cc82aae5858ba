# ---
# jupytext:
#   formats: py:percent
# kernelspec:
#   display_name: Python 3
#   language: python
#   name: python3
# ---

# %% [markdown]
# # Evaluate a method
#
# A map finds an object if the box around its hot region fits the true one. This page measures that the way the field
# does (weakly supervised object localization, WSOL): MaxBoxAcc and MaxBoxAccV2, with a threshold that is chosen on
# one split and measured on another, for several methods side by side, and with intervals that say what a difference
# is worth. All of it takes less than a minute without a GPU.
#
# The first cell installs fastcam from PyPI where it is missing; [Start](../start.md) has its installation from source.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fastcam") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "fastcam"], check=True)

# %% [markdown]
# ## Pictures with boxes, in the field's text files
#
# Three splits: `train` has labels only, `val` has boxes to choose the threshold by, `test` has boxes to measure by.
# In a folder of metadata each is four files of one line a picture, or a box:
#
# ```text
# metadata/val/image_ids.txt       val/lemon/000.jpg
# metadata/val/class_labels.txt    val/lemon/000.jpg,0
# metadata/val/image_sizes.txt     val/lemon/000.jpg,128,128
# metadata/val/localization.txt    val/lemon/000.jpg,17,40,73,82
# ```
#
# CUB-200-2011, ILSVRC, Pascal VOC, COCO and others are read in [their own layouts](../howto/datasets.md).
# For boxes of your own a CSV is shorter: `photos/boxes.csv` beside the pictures, with a line for each box, `x1 - x0`
# its width. It is given in the place of the folder,
# `fastcam evaluate photos/boxes.csv --weights model --out val`, without `--split`:
#
# ```text
# path,label,x0,y0,x1,y1
# 000.jpg,lemon,17,40,73,82
# ```
#
# So that the page needs no download, a few lines draw fruit before pebbles.

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
for split, count in (("train", 240), ("val", 60), ("test", 90)):
    metadata = Path("fruit/metadata", split)
    metadata.mkdir(parents=True)
    lines = {"image_ids": [], "class_labels": [], "image_sizes": [], "localization": []}
    for number in range(count):
        label = number % len(FRUIT)
        name = list(FRUIT)[label]
        id = f"{split}/{name}/{number:03d}.jpg"
        image, box = draw(name, rng)
        Path("fruit", id).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(Path("fruit", id), quality=95)
        rows = id, f"{id},{label}", f"{id},128,128", f"{id},{','.join(map(str, box))}"
        for file, row in zip(lines.values(), rows, strict=True):
            file.append(row)
    for file, rows in lines.items():
        if split != "train" or file != "localization":  # the network learns from labels alone
            (metadata / f"{file}.txt").write_text("\n".join(rows) + "\n")
with open("fruit/classes.txt", "w") as file:
    print(*FRUIT, sep="\n", file=file)

# %% [markdown]
# `fastcam data info` reads the whole of it, and names what is damaged or does not fit together:

# %% language="bash"
# fastcam data info fruit --split val

# %% [markdown]
# ## A network that saw labels only

# %% language="bash"
# fastcam train fruit --arch resnet18 --output-stride 16 --size 96 \
#     --batch-size 16 --epochs 2 --out model

# %% [markdown]
# ## One method, on val
#
# The box is that around the largest region above a threshold τ. *BoxAcc(τ)* is the share of pictures whose box has an
# intersection over union (IoU) of 0.5 or more with a true one, and *MaxBoxAcc* its highest value over all τ. So the
# figure does not depend on a threshold that somebody has chosen; and it is an optimistic one, since τ is the best for
# these very pictures.

# %% language="bash"
# fastcam evaluate fruit --split val --weights model --out val

# %%
from IPython.display import display

display(Image.open("val/box_accuracy.png"))

# %% [markdown]
# GT-known Loc is the same share at the customary τ = 0.2, which is far from the best one here: maps of 6×6 positions
# spread around the fruit. The name says that the map is of the true class; for Top-1 Loc the network must have found
# that, too.
#
# *MaxBoxAccV2* is the mean over three demands, IoU of 0.3, 0.5 and 0.7, each at its own best τ, where the best of all
# regions counts and not only the largest:

# %%
import json

metrics = json.loads(Path("val/metrics.json").read_text())
taus = metrics["best_thresholds"]
for demand in (30, 50, 70):
    curve = metrics["curves"][f"BoxAcc {demand} all"]
    tau = taus[f"MaxBoxAccV2 {demand}"]
    print(f"IoU of {demand / 100}: {max(curve):5.1f} % at τ = {tau:.3f}")
print(f"MaxBoxAccV2: {metrics['figures']['MaxBoxAccV2']:.1f} %")

# %% [markdown]
# ## The threshold of val, on test
#
# A figure to report is of pictures that chose nothing: `--threshold-from` takes the best τ of val. GT-known Loc and
# Top-1 Loc are at that τ; MaxBoxAcc of test stands below to show what choosing on test itself would have claimed.

# %% language="bash"
# fastcam evaluate fruit --split test --weights model --threshold-from val/metrics.json --out test

# %% [markdown]
# Pictures that the method finds and those that it misses, the found box in red and the true one in green;
# `test/gallery.html` has more, and `test/pictures.parquet` the IoU of each:

# %%
display(Image.open("test/cases.png"))

# %% [markdown]
# What would no network reach? The best box in the middle of the picture, the same for all, is the baseline:

# %%
from fastcam import data, evaluation

truth = np.concatenate([sample.boxes for sample in data.load("fruit", split="test")])
best = evaluation.best_center_box(truth, (128, 128))
print(f"best box in the centre: {best.accuracy:.1f} % of the boxes at IoU 0.5")

# %% [markdown]
# ## Methods side by side
#
# `fastcam compare` reads each picture once, and runs the network once for all rows. A row is a method with what is
# changed of it: `+pas` has thresholds relative to a percentile of the map, `+clamp` counts negative weights of CAM as
# zero, `+ms` sums maps of several sizes and mirror images.

# %% language="bash"
# fastcam compare fruit --split test --weights model --out table \
#     --methods cam,cam+clamp,gradcam,gradcam++,layercam,cam+ms --scales 1,1.5

# %% [markdown]
# Differences are worth something where they exceed what other pictures would have changed. Intervals are in
# `compare.json`: 95 % of the figures of 200 data sets that are drawn from these pictures, with replacement.

# %%
import matplotlib.pyplot as plt

rows = json.loads(Path("table/compare.json").read_text())["rows"][::-1]
_, axes = plt.subplots(1, 2, figsize=(9.5, 2.8), sharey=True, layout="constrained")
for place, figure in zip(axes, ("MaxBoxAcc", "MaxBoxAccV2"), strict=True):
    values = np.array([row["figures"][figure] for row in rows])
    low, high = np.array([row["intervals"][figure] for row in rows]).T
    names = [row["name"] for row in rows]
    place.errorbar(values, names, xerr=[values - low, high - values], fmt="o", capsize=3)
    place.set(xlabel=f"{figure}, %")
    place.grid(alpha=0.3)
plt.show()

# %% [markdown]
# At a network's last stage CAM, Grad-CAM and their kin are nearly the same map, and their order here says nothing. Maps
# of a larger picture (`+ms`) are finer, which tells where the IoU has to be high; but with 90 pictures even these
# intervals overlap, and another training may turn the order round. The maps, with boxes at each row's best τ:

# %%
display(Image.open("table/compare_maps.png"))

# %% [markdown]
# ## What to keep in mind
#
# - Rows of one table share the pictures, so that a difference between rows can be surer than their intervals look;
#   val and test do not, and differ by more than methods do.
# - Figures of papers differ in rules beside maps: which box counts, how IoU is rounded, whether τ was chosen on test.
#   `--protocol` has those of five others; say which you took.
# - MaxBoxAcc of test uses the boxes of test. Report GT-known Loc at the τ of val, or say that it is an oracle.
# - Maps of your own: `fastcam evaluate fruit --split test --maps folder`, with `IMAGE_ID.npy` for each picture.
#   Boxes of a run: `--boxes run/boxes.parquet`. `--save-maps` keeps the maps, so that they can be measured again.
#
# [From wsolevaluation](from_wsolevaluation.md) has the field's commands beside these.
