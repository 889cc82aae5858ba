r"""Crop and refit, the CAM paper's fine-grained recognition: whole pictures, CAM crops and true crops of birds.

    python examples/cub_crop_refit.py CUB_200_2011/ --arch googlenet-gap --weights googlenet-gap.safetensors \
        --out study/ --figure crops.png

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, Learning Deep Features for Discriminative Localization, CVPR
2016, section 4.1: a linear SVM is fitted on what GoogLeNet-GAP, which knows ILSVRC, gives of whole pictures of
CUB-200-2011; its own CAM of the class that it predicts gives a box, the largest above 20 % of the maximum; and SVMs are
fitted and tested again on what is inside of that box, and, to compare, of the true one. No box is used to train the
first two. In percent, of the 5,794 pictures to test on:

    whole picture    63.0
    CAM crop         67.8
    true-box crop    70.5
    CAM boxes with IoU > 0.5: 41.0

CUB_200_2011 is the data set as it comes: images/, images.txt, classes.txt, image_class_labels.txt,
train_test_split.txt and bounding_boxes.txt; any part of it in this layout will do. --out gets a checkpoint for each of
the three fits (`whole`, `crop`, `truth`), the run (`run`) and both folders of crops (`crops`, `true-crops`) with the
table of those that could not be made. examples/drawn_birds.py draws a small data set that shows the gain at once.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import nn

from fastcam import cropping, data as datasets, drawing, evaluation, fitting, localization, models
from fastcam.data import Collection
from fastcam.drawing import Cell
from fastcam.fitting import Accuracy
from fastcam.models import ModelConfig
from fastcam.pictures import load_image
from fastcam.runs.table import FoundPicture, RunTable

PAPER = {"whole picture": 63.0, "CAM crop": 67.8, "true-box crop": 70.5}
PAPER_SHARE = 41.0  # of CAM boxes with IoU > 0.5
_GAIN = PAPER["CAM crop"] - PAPER["whole picture"]


class Study(NamedTuple):
    """What was measured.

    Attributes:
        accuracies: by the names of `PAPER`, of the pictures to test on.
        share: of these, in [0, 1], how many CAM boxes have IoU > 0.5 with a true one.
        pictures: how many there are to test on.
        lost: by the name, how many pictures, to train and to test on, could not be cut out.
    """

    accuracies: dict[str, Accuracy]
    share: float
    pictures: int
    lost: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{'':15}{'%':>7}{'95 % interval':>17}{'paper':>8}"]
        for name, one in self.accuracies.items():
            between = f"{100 * one.low:.1f} to {100 * one.high:.1f}"
            without = f"   without {self.lost[name]} that could not be cut out" if self.lost.get(name) else ""
            lines.append(f"{name:15}{100 * one.value:7.1f}{between:>17}{PAPER[name]:8.1f}{without}")
        share = f"{100 * self.share:.1f} % of {self.pictures} pictures (paper: {PAPER_SHARE} %)"
        lines.append(f"CAM boxes with IoU > 0.5: {share}")
        widest = max(one.high - one.low for one in self.accuracies.values())
        if 100 * widest > _GAIN:
            lines.append(
                f"{self.pictures} pictures are too few to show a gain as small as the paper's, of {_GAIN:.1f} points: "
                f"intervals are up to {100 * widest:.0f} points wide"
            )
        return "\n".join(lines)


def study(
    folder: Path,
    model: nn.Module,
    config: ModelConfig,
    out: Path,
    *,
    threshold: float = 0.2,
    margin: float = 0.0,
    head: str = "svm",
    strength: float | None = None,
    overwrite: bool = False,
) -> Study:
    """Fit on whole pictures, on CAM crops and on true crops, and test each.

    Args:
        folder: data set in CUB's layout.
        model: network that ends in a global pooling and one linear layer.
        config: of the network.
        out: folder for checkpoints, run and crops.
        threshold: of the box, a fraction of the map's range.
        margin: by which boxes grow, a fraction of their sides.
        head: "svm" or "logistic".
        strength: scikit-learn's C; None finds it by cross-validation, for each fit.
        overwrite: replace an earlier study.

    Returns:
        The figures.

    Raises:
        FileExistsError: there is an earlier study in `out`, and `overwrite` is not set.
        ValueError: the data set is malformed, or a class has no picture.
    """
    parts = {split: datasets.load(folder, split, "cub") for split in ("train", "test")}

    def fit(train: Collection, test: Collection, name: str) -> fitting.FitResult:
        options = {"head": head, "strength": strength, "overwrite": overwrite}
        return fitting.fit(train, model, out=out / name, config=config, test=test, **options)

    whole = fit(parts["train"], parts["test"], "whole")
    fitted, known = models.load_checkpoint(out / "whole/model.safetensors")
    every = datasets.load(folder, format="cub")
    localization.localize(fitted, every, out=out / "run", config=known, threshold=threshold, overwrite=overwrite)
    accuracies, lost = {"whole picture": whole.accuracy}, {}
    for name, place, boxes in (("CAM crop", "crops", "found"), ("true-box crop", "true-crops", "truth")):
        cut = cropping.crop(out / "run", out=out / place, data=parts, boxes=boxes, margin=margin, overwrite=overwrite)
        train, test = (datasets.load(out / place, split, "folder") for split in parts)
        accuracies[name] = fit(train, test, {"crops": "crop", "true-crops": "truth"}[place]).accuracy
        lost[name] = cut.failed
    test = parts["test"]
    hits = [overlap(picture, test) > 0.5 for picture in tested(out / "run", test)]
    return Study(accuracies, float(np.mean(hits)), len(hits), lost)


def tested(run: Path, test: Collection) -> list[FoundPicture]:
    """Read what a run found in the pictures to test on."""
    wanted = set(test.ids)
    return [picture for picture in RunTable(run).pictures() if picture.id in wanted]


def overlap(picture: FoundPicture, data: Collection) -> float:
    """Compare the box that was found with the true ones: the highest IoU, 0 where there is none."""
    boxes = data.truth(list(data.ids).index(picture.id)).boxes
    if picture.error is not None or boxes is None or not len(boxes):
        return 0.0
    return float(evaluation.box_iou(np.array(picture.first.corners), boxes).max())


def show(folder: Path, out: Path, count: int = 8) -> Figure:
    """Draw some of the pictures to test on, with the found box red and the true one green, and their crops.

    Args:
        folder: the data set.
        out: folder of its study.
        count: of how many pictures, at most.

    Returns:
        The figure.
    """
    test = datasets.load(folder, "test", "cub")
    crops, true = (made(out / place) for place in ("crops", "true-crops"))
    found = [picture for picture in tested(out / "run", test) if picture.id in crops and picture.id in true]
    rows: list[list[Cell]] = [[], [], []]
    for place in np.linspace(0, len(found) - 1, min(count, len(found))).astype(int):
        picture = found[place]
        sample = test[list(test.ids).index(picture.id)]
        boxed = drawing.draw_boxes(np.asarray(sample.image), sample.boxes, drawing.TRUTH)
        boxed = drawing.draw_boxes(boxed, np.array([picture.first.corners]), drawing.PREDICTED)
        for row, image in zip(rows, (boxed, *(load_image(file[picture.id]) for file in (crops, true))), strict=True):
            row.append(Cell(image))
    labels = ["box found (red)\nand true (green)", "CAM crop", "true-box crop"]
    return drawing.grid(rows, labels, side=1.6)


def made(folder: Path) -> dict[str, Path]:
    """Read which crop is of which picture."""
    with (folder / "crops.csv").open(encoding="utf-8", newline="") as file:
        return {row["image_id"]: folder / row["crop"] for row in csv.DictReader(file) if row["crop"]}


def main(arguments: Sequence[str] | None = None) -> Study:
    """Do the study that the command line asks for, and print its table.

    Args:
        arguments: of the command line.

    Returns:
        The figures.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder CUB_200_2011")
    parser.add_argument("--weights", required=True, help="the network's file of weights")
    parser.add_argument("--arch", help="network, as `fastcam.models.build` names it; a checkpoint knows its own")
    parser.add_argument("--mean", type=float, nargs="+", help="of the network's input, one or three numbers")
    parser.add_argument("--std", type=float, nargs="+", help="as --mean")
    parser.add_argument("--size", type=int, help="side of the network's input")
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints, run and crops")
    parser.add_argument("--threshold", type=float, default=0.2, help="of the box, a fraction of the map's range [0.2]")
    parser.add_argument("--margin", type=float, default=0.0, help="by which boxes grow, a fraction of their sides [0]")
    parser.add_argument("--head", choices=("svm", "logistic"), default="svm", help="[svm]")
    parser.add_argument("--strength", type=float, metavar="C", help="scikit-learn's [found by cross-validation]")
    parser.add_argument("--figure", type=Path, help="PNG with some pictures, boxes and crops")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier study")
    options = parser.parse_args(arguments)
    given = {name: tuple(value * (3 // len(value))) for name in ("mean", "std") if (value := getattr(options, name))}
    if options.size:
        given["size"] = options.size
    model, config = models.load_network(options.weights, options.arch, **given)
    done = study(
        options.data,
        model,
        config,
        options.out,
        threshold=options.threshold,
        margin=options.margin,
        head=options.head,
        strength=options.strength,
        overwrite=options.overwrite,
    )
    print(done)
    if options.figure:
        print(drawing.save(show(options.data, options.out), options.figure))
    return done


if __name__ == "__main__":
    main()
