"""Answer questions about drawn scenes, and see which word and which place of the picture the answer comes from.

    python examples/vqa_scenes.py scenes/

A scene has one figure, of a colour, a shape and a texture, and beside it a flag with one, two or three stars, before
grey clutter. Each question asks for one of the four, and one of its words tells which: all others come in questions of
each kind. So the picture alone knows all four answers, but not which of them is asked for, and the question alone knows
which kind of answer, but not which one: they are right in about a quarter and a third of the questions.

Words and picture that are added up (Zhou et al., Simple Baseline for Visual Question Answering, arXiv:1512.02167) solve
this because there is one figure: the word "colour" raises all colours, and the picture raises its own colour, shape,
texture and number, whatever is asked. Of two figures, "what is the colour of the square?" could not be answered so,
since which colour the picture raises cannot depend on a word.

The network that sees the scenes is small and is trained here, in seconds, with the boxes, so that its last channels
detect the twelve answers. What is learnt of questions is learnt without boxes. --out has train/ and test/ with the
pictures, train.csv and test.csv with the questions, and answers.png with picture, map and words of some of them.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from fastcam import drawing, vqa
from fastcam.fitting import Features, pooled_features
from fastcam.models import GlobalPoolNet, ModelConfig
from fastcam.pictures import Preprocess

SIDE = 56
ANSWERS = {
    "colour": ("red", "green", "blue"),
    "shape": ("circle", "square", "triangle"),
    "texture": ("plain", "striped", "dotted"),
    "count": ("1", "2", "3"),
}
COLOURS = {"red": (205, 45, 40), "green": (40, 160, 60), "blue": (45, 75, 205)}
DECIDING = {"colour": "colour", "shape": "shape", "texture": "texture", "count": "number"}  # the word that tells
FRAMES = (
    "What is the {} of the {} beside the {}?",
    "Can you tell the {} of the {} near the {} in this picture?",
    "I want to know the {} of the {}, not of the {}!",
    "Name the {} that the {} next to the {} has.",
)
CONFIG = ModelConfig("scenes", 12, size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)


class Scene(NamedTuple):
    """A picture, uint8 [56, 56, 3], the answer of each kind, and the box, xyxy, of what that is about."""

    image: np.ndarray
    answers: dict[str, str]
    boxes: dict[str, tuple[int, int, int, int]]


def scene(rng: np.random.Generator) -> Scene:
    """Draw a scene."""
    answers = {kind: str(rng.choice(names)) for kind, names in ANSWERS.items()}
    image = cv2.resize(rng.uniform(95, 160, (7, 7)).astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    image = np.repeat((image + rng.normal(0, 6, (SIDE, SIDE)))[..., None], 3, 2).clip(0, 255).astype(np.uint8)
    for _ in range(4):  # clutter: grey lines
        ends = rng.integers(0, SIDE, 4).tolist()
        cv2.line(image, ends[:2], ends[2:], (int(rng.integers(60, 190)),) * 3, 1)
    side, group = int(rng.integers(18, 23)), 17
    while True:
        left, top = (int(value) for value in rng.integers(4, SIDE - side - 3, 2))
        x, y = (int(value) for value in rng.integers(4, SIDE - group - 3, 2))
        if x + group < left or left + side < x or y + group < top or top + side < y:
            break
    figure(image, answers, left, top, side, rng)
    cv2.rectangle(image, (x, y), (x + group - 1, y + group - 1), (25, 25, 40), -1)
    places = [(4, 4), (12, 5), (7, 12)]
    for place in rng.permutation(3)[: int(answers["count"])]:
        cx, cy = x + places[place][0] + int(rng.integers(0, 2)), y + places[place][1] + int(rng.integers(0, 2))
        for dx, dy in ((2, 0), (0, 2), (1, 1), (1, -1)):
            cv2.line(image, (cx - dx, cy - dy), (cx + dx, cy + dy), (250, 240, 90), 1)
    boxes = dict.fromkeys(ANSWERS, (left, top, left + side, top + side)) | {"count": (x, y, x + group, y + group)}
    return Scene(image, answers, boxes)


def figure(
    image: np.ndarray, answers: dict[str, str], left: int, top: int, side: int, rng: np.random.Generator
) -> None:
    """Draw the figure of a scene into it."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    right, bottom, middle = left + side - 1, top + side - 1, left + side // 2
    if answers["shape"] == "circle":
        cv2.circle(mask, (middle, top + side // 2), side // 2 - 1, 255, -1)
    elif answers["shape"] == "square":
        cv2.rectangle(mask, (left + 1, top + 1), (right - 1, bottom - 1), 255, -1)
    else:
        cv2.fillPoly(mask, [np.array([(middle, top), (right, bottom), (left, bottom)])], 255)
    paint = np.array(COLOURS[answers["colour"]]) * rng.uniform(0.85, 1.15)
    pixels = np.broadcast_to(paint, image.shape).copy()
    rows, columns = np.mgrid[:SIDE, :SIDE] + rng.integers(0, 6, (2, 1, 1))
    if answers["texture"] == "striped":
        pixels[(rows + columns) % 6 < 2] = 235
    elif answers["texture"] == "dotted":
        pixels[(rows % 6 < 2) & (columns % 6 < 2)] = 235
    image[mask > 0] = pixels.clip(0, 255).astype(np.uint8)[mask > 0]


def question(kind: str, rng: np.random.Generator) -> str:
    """Ask for one of the four."""
    things = ("stars", "figure") if kind == "count" else ("figure", "stars")
    return str(rng.choice(FRAMES)).format(DECIDING[kind], *things)


def ask(scenes: Sequence[Scene], file: Path, rng: np.random.Generator) -> vqa.Questions:
    """Write scenes as PNG into a folder beside a CSV file of all four questions about each; give these."""
    rows = [("question_id", "image", "question", "answer", "question_type")]
    for index, one in enumerate(scenes):
        image = f"{file.stem}/{index}.png"
        (file.parent / image).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(one.image).save(file.parent / image)
        rows += [
            (str(4 * index + place), image, question(kind, rng), one.answers[kind], kind)
            for place, kind in enumerate(ANSWERS)
        ]
    with file.open("w", encoding="utf-8", newline="") as out:
        csv.writer(out).writerows(rows)
    return vqa.load(file)


def network(scenes: Sequence[Scene], epochs: int = 8) -> GlobalPoolNet:
    """A small network whose last twelve channels say of each place which of the twelve answers hold there.

    These detectors are trained with the boxes, so that seconds are enough. The linear layer is not trained.
    """
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after, stride in ((3, 16, 2), (16, 32, 2), (32, 48, 2), (48, 64, 1)):
        layers += [nn.Conv2d(before, after, 3, stride, 1), nn.BatchNorm2d(after), nn.ReLU()]
    features = nn.Sequential(*layers, nn.Conv2d(64, 12, 1), nn.Sigmoid())
    images = Preprocess.of(CONFIG).normalize(torch.from_numpy(np.stack([one.image for one in scenes])))
    truth = torch.from_numpy(np.stack([places(one) for one in scenes]))
    optimizer = torch.optim.Adam(features.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, epochs * -(-len(scenes) // 16))
    for _ in range(epochs):
        for rows in torch.randperm(len(scenes)).split(16):
            loss = F.binary_cross_entropy(features(images[rows]), truth[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return GlobalPoolNet(features, nn.AdaptiveAvgPool2d(1), nn.Linear(12, 12)).eval()


def places(one: Scene) -> np.ndarray:
    """Where each answer holds: float32 [12, 7, 7], 1 where the centre lies in the box of the right answer."""
    centres = np.arange(SIDE // 8) * 8 + 4
    maps = []
    for kind, names in ANSWERS.items():
        x0, y0, x1, y1 = one.boxes[kind]
        inside = ((centres >= y0) & (centres < y1))[:, None] & ((centres >= x0) & (centres < x1))
        maps += [inside * (one.answers[kind] == name) for name in names]
    return np.float32(maps)


class Measured(NamedTuple):
    """How good a model's answers are.

    Attributes:
        accuracy: of each kind of question, in [0, 1].
        overall: the mean.
        peak: share of the answers whose map is highest in the box of what is asked about.
        deciding: share of the questions in which the word that tells what is asked adds most to the answer.
    """

    accuracy: dict[str, float]
    overall: float
    peak: float
    deciding: float


def measure(model: vqa.VQA, scenes: Sequence[Scene], data: vqa.Questions, features: Features | None = None) -> Measured:
    """Answer all questions about scenes, and compare with what is known of them."""
    found = model.evaluate(data, features=features)
    peaks, deciding = [], []
    for one in data:
        scene = scenes[one.picture]
        answer = model.answer(scene.image, one.text)
        y, x = np.unravel_index(answer.map.argmax(), answer.map.shape)
        x0, y0, x1, y1 = scene.boxes[one.question_type]
        peaks.append(x0 <= x < x1 and y0 <= y < y1)
        most = max(answer.words, key=answer.words.__getitem__, default=None)
        deciding.append(most == DECIDING[one.question_type])
    return Measured(found.by_question_type, found.overall, float(np.mean(peaks)), float(np.mean(deciding)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw, learn, measure, and write a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for scenes, questions and figure")
    parser.add_argument("--train", type=int, default=1000, help="number of scenes to learn from [1000]")
    parser.add_argument("--test", type=int, default=250, help="number of scenes to test on [250]")
    parser.add_argument("--epochs", type=int, default=8, help="of the network [8]")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes [0]")
    options = parser.parse_args(arguments)
    rng = np.random.default_rng(options.seed)
    train, test = ([scene(rng) for _ in range(count)] for count in (options.train, options.test))
    options.out.mkdir(parents=True, exist_ok=True)
    learnt, asked = ask(train, options.out / "train.csv", rng), ask(test, options.out / "test.csv", rng)
    seeing = network(train, options.epochs)
    seen = [pooled_features(seeing, part.pictures, CONFIG) for part in (learnt, asked)]
    print(f"{len(asked)} questions about {len(test)} scenes, %", *ANSWERS, "all", "peak", "word", sep="\t")
    for name, inputs in (("words and picture", "both"), ("words alone", "words"), ("picture alone", "picture")):
        model = vqa.fit(learnt, seeing, config=CONFIG, features=seen[0], inputs=inputs)
        found = measure(model, test, asked, seen[1])
        shares = [*(found.accuracy[kind] for kind in ANSWERS), found.overall]
        places = [found.peak if inputs != "words" else None, found.deciding if inputs != "picture" else None]
        print(name, *("-" if share is None else f"{share:.1%}" for share in [*shares, *places]), sep="\t")
        if inputs == "both":
            chosen = [model.answer(test[0].image, one.text) for one in asked if one.picture == 0]
            drawing.save(vqa.figure(test[0].image, chosen), options.out / "answers.png")


if __name__ == "__main__":
    main()
