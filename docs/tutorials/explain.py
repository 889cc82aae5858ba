# ---
# jupytext:
#   formats: py:percent
# kernelspec:
#   display_name: Python 3
#   language: python
#   name: python3
# ---

# %% [markdown]
# # Explain one picture
#
# What does a network look at when it says "lemon"? This page trains a small classifier, shows it a picture with a
# lemon and a tomato, and asks: by class activation maps (CAM), by Grad-CAM, by guided backprop, at several layers and
# for several classes. At the end it measures which map tells most. All of it takes less than a minute without a GPU.
#
# The first cell installs fastcam from PyPI where it is missing, as on Colab; [Start](../start.md) has its installation
# from source.

# %%
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("fastcam") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "fastcam"], check=True)

# %% [markdown]
# ## A network, and a picture
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
for split, count in (("train", 240), ("val", 60)):
    for number in range(count):
        name = list(FRUIT)[number % len(FRUIT)]
        path = Path("fruit", split, name, f"{number:03d}.jpg")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(name, rng)[0]).save(path, quality=95)

picture, _ = draw("lemon", rng, where=(80, 84), side=256)
picture, _ = draw("tomato", rng, picture, where=(184, 180), side=256)
Image.fromarray(picture).save("both.png")

# %% [markdown]
# The classifier is a ResNet18 that has seen 240 pictures of a single fruit each, and their labels. `output_stride=16`
# keeps its last stage finer, which makes maps of 6×6 positions out of pictures of 96×96.

# %%
import fastcam
from fastcam import models

network = {"arch": "resnet18", "output_stride": 16, "size": 96}
trained = fastcam.train("fruit", **network, epochs=2, batch_size=16, out="model", progress=False)
model, config = models.load_checkpoint(trained.best)
print(f"{trained.history[-1]['test_accuracy']:.0%} of the pictures in val are right")

# %% [markdown]
# A checkpoint knows its classes and its preprocessing, so that a picture becomes the network's input without numbers
# of your own. For a network of yours the input is whatever it was trained on, [N, 3, H, W].

# %%
import torch

from fastcam.pictures import Preprocess

preprocess = Preprocess.of(config)
frame, _ = preprocess.frame(picture)  # uint8 [96, 96, 3], what the network sees
images = preprocess.normalize(torch.from_numpy(frame)[None])

with torch.no_grad():
    chances = model(images)[0].softmax(0)
for name, chance in zip(config.class_names, chances.tolist(), strict=True):
    print(f"{name:8s}{chance:8.2%}")

# %% [markdown]
# Trained on one fruit a picture, it is sure of one: probabilities of a softmax share out 100 %. Maps tell more.
#
# ## CAM
#
# The network ends in a mean over positions and one linear layer, so that the score of a class is a mean of its *class
# activation map*, $\sum_k w_{c,k} A_k(x, y)$, up to the bias. Whatever the score owes to a position stands in the map
# there.

# %%
import matplotlib.pyplot as plt

from fastcam import drawing


def show(pictures, titles, columns=4):
    rows = -(-len(pictures) // columns)
    size = 2.3 * columns, 2.55 * rows
    _, axes = plt.subplots(rows, columns, figsize=size, layout="constrained")
    for place in np.ravel(axes):
        place.axis("off")
    for place, image, title in zip(np.ravel(axes), pictures, titles, strict=False):
        place.imshow(image)
        place.set_title(title, fontsize=10)
    plt.show()


def over(map):
    """A map of the network's input, laid over the picture in its own size."""
    return drawing.overlay(picture, cv2.resize(map.numpy(), picture.shape[1::-1]).clip(0, 1))


cam = fastcam.CAM(model)
maps = cam(images, "all")[0]  # [3, 96, 96] in [0, 1], one for each class
show(
    [picture, *(over(map) for map in maps)],
    ["the picture", *(f"CAM of {name}" for name in config.class_names)],
)

# %% [markdown]
# One forward pass has given all three. The map of the lemon lies on the lemon, that of the tomato on the tomato. And
# that of the plum, which is not there? Every map is stretched to [0, 1], whatever its values are, so that it has a
# highest place even where nothing speaks for the class. How much speaks for it is told by the values before that:

# %%
coarse = cam.coarse(images, "all")[0]  # [3, 6, 6], as the layer has it
for name, values, logit in zip(config.class_names, coarse, cam.outputs[0], strict=True):
    low, high, mean = values.min(), values.max(), values.mean()
    print(f"{name:8s} from {low:6.1f} to {high:5.1f}, mean {mean:5.1f}, logit {logit:5.1f}")

# %% [markdown]
# ## Grad-CAM, and gradients in the picture
#
# Grad-CAM takes gradients in the place of the linear layer's weights, and so works at any layer of any network. At
# this network's last stage the two are the same map but for ReLU, which Grad-CAM has. Guided backprop has the
# resolution of the picture, and hardly distinguishes classes; Guided Grad-CAM is the product of the two.

# %%
target = config.class_names.index("tomato")
gradcam = fastcam.GradCAM(model)(images, target)[0]
guided = fastcam.GuidedBackprop(model)(images, target)[0]  # [3, 96, 96], gradients
both = fastcam.GuidedGradCAM(model)(images, target)[0]
saliency = fastcam.Saliency(model)(images, target)[0]
show(
    [
        over(gradcam),
        drawing.deprocess(guided),
        drawing.deprocess(both),
        (saliency / saliency.max()).sqrt()[..., None].expand(-1, -1, 3),
    ],
    ["Grad-CAM", "guided backprop", "Guided Grad-CAM", "saliency"],
)

# %% [markdown]
# ## Layers
#
# Early layers are fine and know little of classes, late ones the other way round. LayerCAM was made for early layers;
# `fuse` makes one map of several layers.

# %%
stages = ["layer1", "layer2", "layer3", "layer4"]
pictures, titles = [], []
for name in ("tomato", "lemon"):
    target = config.class_names.index(name)
    for stage in stages:
        layercam = fastcam.LayerCAM(model, stage)
        pictures.append(over(layercam(images, target)[0]))
        titles.append(f"{name}, {stage} {'×'.join(map(str, layercam.grids[stage]))}")
show(pictures, titles)

# %% [markdown]
# ## Boxes
#
# The box of the largest region above a threshold, here half of the map's range, of both classes in one call. `fastcam
# localize` does this for folders of pictures; how to choose the threshold is what [Evaluate a method](evaluate.py) is
# about.

# %%
names = ["lemon", "tomato"]
gradcam = fastcam.GradCAM(model)
wanted = [[config.class_names.index(name) for name in names]]
maps = gradcam(images, wanted)[0]  # [2, 96, 96]
# [2, 4], xyxy in pixels of the picture
boxes = gradcam.boxes(images, wanted, size=256, threshold=0.5)[0].numpy()
show(
    [drawing.draw_boxes(over(map), box) for map, box in zip(maps, boxes, strict=True)],
    [f"{name}: {box.tolist()}" for name, box in zip(names, boxes, strict=True)],
    columns=2,
)

# %% [markdown]
# ## Which map explains best?
#
# A map claims that the score rests on its high places. *Insertion* tests that: on an empty picture pixels appear, the
# highest of the map first, and a good map brings the probability up early. *Deletion* takes them away instead, and a
# good map brings it down early. The area under the curve is the figure. A map of random numbers is what to compare
# with. (By default insertion begins with a blurred picture, as in the paper; these fruit are known by their colour
# alone.)

# %%
from fastcam import metrics

test = [draw(name, rng) for name in list(FRUIT) * 2]
frames = np.stack([preprocess.frame(image)[0] for image, _ in test])
batch = preprocess.normalize(torch.from_numpy(frames))
labels = [0, 1, 2] * 2
candidates = {
    "CAM": fastcam.CAM(model)(batch, labels),
    "Grad-CAM": fastcam.GradCAM(model)(batch, labels),
    "LayerCAM, layer2": fastcam.LayerCAM(model, "layer2")(batch, labels),
    "random": torch.rand(len(batch), 96, 96, generator=torch.Generator().manual_seed(0)),
}
_, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), sharey=True, layout="constrained")
print(f"{'':18s}insertion  deletion  average drop  pointing game")
boxes = torch.tensor([box for _, box in test]) * 96 / 128
for name, candidate in candidates.items():
    insertion = metrics.insertion(model, batch, candidate, labels, steps=16, baseline="zero")
    deletion = metrics.deletion(model, batch, candidate, labels, steps=16)
    drop = metrics.confidence_change(model, batch, candidate, labels).average_drop
    hits = metrics.pointing_game(candidate, boxes, tolerance=0).double().mean()
    areas = f"{insertion.auc.mean():9.2f} {deletion.auc.mean():9.2f}"
    print(f"{name:18s}{areas} {drop:11.1f} % {hits:12.0%}")
    curves = {"insertion": insertion, "deletion": deletion}
    for place, (kind, curve) in zip(axes, curves.items(), strict=True):
        place.plot(curve.fractions, curve.scores.mean(0), label=name)
        place.set(xlabel=f"share of pixels, {kind}", ylim=(0, 1.02))
axes[0].set_ylabel("probability of the class")
axes[1].legend()
plt.show()

# %% [markdown]
# ## The same from the command line
#
# `fastcam explain` makes figures of picture files: a grid of methods, or with `--panel` picture, map and box by row.
# It takes checkpoints as they are; for published weights it is `--arch resnet50 --weights resnet50.pth`.

# %% language="bash"
# fastcam explain both.png --weights model/best.safetensors --targets lemon,tomato \
#     --method cam,layercam,guided-backprop,guided-gradcam --out figures
# fastcam explain both.png --weights model/best.safetensors --targets tomato \
#     --method layercam --layers layer2,layer3,layer4 --panel --threshold 0.5 --out layers

# %%
from IPython.display import display

display(Image.open("figures/both_grid.png"))

# %%
display(Image.open("layers/both_panel.png"))

# %% [markdown]
# ## Where to go on
#
# - Your own network: every method takes a `torch.nn.Module` and a batch as they are; `target_layers` names a layer.
# - [Train and localize your own classes](train.py): from class folders to a table of boxes.
# - [Evaluate a method](evaluate.py): how well boxes fit.
