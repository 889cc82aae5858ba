r"""Learn a concept from captions, rank pictures by it, and show where it is.

    python examples/concepts.py PICTURES --captions captions.csv --concept "mirror in lake" \
        --arch googlenet-gap --weights googlenet-gap.safetensors --out lake/

B. Zhou, A. Khosla, A. Lapedriza, A. Oliva, A. Torralba, Learning Deep Features for Discriminative Localization, CVPR
2016, section 4.2, "Concept localization in weakly labeled images": positive are the pictures whose caption has a short
phrase, negative are pictures taken at random whose caption has none of its words. A linear SVM is trained on their
pooled features, with hard negatives: those that the last classifier took for the concept. Its weights give the maps,
although no picture told where the concept is, and though a phrase is more abstract than the name of an object.

The paper's pictures and captions are those of SBU (Ordonez et al., NIPS 2011), a million of Flickr: each line of
SBU_captioned_photo_dataset_urls.txt has an address, the same line of SBU_captioned_photo_dataset_captions.txt its
caption; the pictures that are left must be fetched, and --captions be made of both: CSV, the picture's path in PICTURES
and its caption on each line. COCO's JSON of captions will do as it is.

A part of the pictures takes no part in training. --out has the checkpoint, model.safetensors; ranking.csv, all
pictures of that part with score and box, the best first; ranked.png and ranked.html, the best of them with their maps.
Without data and weights:

    python examples/edges.py edges.safetensors
    python examples/planted.py texture bricks/ --share 0.3
    python examples/concepts.py bricks/ --captions bricks/captions.csv --concept bricks \
        --weights edges.safetensors --out concept/
"""

import argparse
import csv
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import nn

import fastcam
from fastcam import drawing, models, report
from fastcam.data import Pictures
from fastcam.evaluation import box_iou
from fastcam.export import MapTable
from fastcam.fitting.concepts import mentioned
from fastcam.metrics import pointing_game
from fastcam.models import ModelConfig
from fastcam.pictures import find_pictures, load_image
from fastcam.runs import RunTable

# Words of a phrase that say nothing without the others.
_SMALL = re.compile("an?|and|at|by|for|from|in|into|is|of|off|on|or|out|over|the|to|under|up|with", re.IGNORECASE)


class Ranked(NamedTuple):
    """What was found in a picture.

    Attributes:
        id: of the picture.
        file: where it is.
        score: probability of the concept.
        boxes: float32 [B, 4], xyxy in pixels, half-open, the largest first; B is 0 where the map is constant.
    """

    id: str
    file: Path
    score: float
    boxes: np.ndarray


class Measured(NamedTuple):
    """How well maps and boxes fit what is known.

    Attributes:
        pictures: how many there are.
        peak: share of them in which the map's highest value lies in a true box.
        iou: of each, the largest IoU of its largest box with a true one.
    """

    pictures: int
    peak: float
    iou: np.ndarray


def divide(captions: Path, concept: str, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Find positives and candidates for negatives.

    Args:
        captions: list of captions.
        concept: a phrase.
        ids: of the pictures.

    Returns:
        Those whose caption has the phrase, as whole words, and those whose caption has none of its words, but for those
        that say nothing, such as "in". Pictures without a caption are neither.
    """
    shown, others = mentioned(captions, concept, ids)
    for word in concept.split():
        if not _SMALL.fullmatch(word):
            some = set(mentioned(captions, word, ids)[0])
            others = [id for id in others if id not in some]
    return shown, others


def rank(
    model: nn.Module,
    config: ModelConfig,
    data: Pictures,
    out: Path,
    *,
    concept: int = 1,
    every: bool = False,
    threshold: float | None = None,
    method: str = "cam",
    layer: str | None = None,
) -> list[Ranked]:
    """Look for a concept in pictures; the run is in `out`, with its maps.

    Args:
        model: the network that was fitted.
        config: what it was fitted with.
        data: the pictures.
        out: folder for the run; an earlier one is replaced.
        concept: index of its class.
        every: boxes of all components of the map, not only of the largest.
        threshold: fraction of the map's range above which boxes lie; 0.2 by default.
        method: of `fastcam.methods`, which makes the maps.
        layer: its target layer; the network's last by default.

    Returns:
        What was found in the pictures that could be read, the highest score first.
    """
    fastcam.localize(
        model,
        data,
        out=out,
        config=config,
        targets=dict.fromkeys(data.ids, concept),
        boxes="all" if every else "largest",
        threshold=threshold,
        method=method,
        target_layers=layer,
        maps=True,
        overwrite=True,
    )
    files = dict(zip(data.ids, data.files, strict=True))
    found = []
    for picture in RunTable(out).pictures():
        if picture.error is not None:
            print(f"{picture.id} is left out: {picture.error}")
            continue
        boxes = np.array([box.corners for box in picture.found], np.float32).reshape(-1, 4)
        found.append(Ranked(picture.id, Path(files[picture.id]), picture.boxes[0].class_score, boxes))
    return sorted(found, key=lambda one: -one.score)


def measure(found: Sequence[Ranked], run: Path, truth: Mapping[str, np.ndarray]) -> Measured:
    """Compare maps and boxes with true boxes.

    Args:
        found: what `rank` gave.
        run: the folder of its run.
        truth: true boxes of pictures, float32 [B, 4]; pictures that have none are left out.

    Returns:
        The figures.
    """
    known = {one.id: one for one in found if len(truth.get(one.id, ()))}
    hits, ious = [], []
    for coarse in MapTable(run):
        if (one := known.get(coarse.image_id)) is not None:
            boxes = truth[one.id]
            hits.append(pointing_game(coarse.at()[None], boxes, [0] * len(boxes), tolerance=0).item())
            ious.append(box_iou(one.boxes[:1].repeat(len(boxes), 0), boxes).max().item() if len(one.boxes) else 0.0)
    return Measured(len(hits), float(np.mean(hits)) if hits else 0.0, np.array(ious))


def show(
    found: Sequence[Ranked],
    run: Path,
    out: Path,
    title: str,
    *,
    truth: Mapping[str, np.ndarray] | None = None,
) -> list[Path]:
    """Write ranked.png and ranked.html: pictures, and below them their maps with boxes.

    Args:
        found: the pictures, in their order.
        run: the folder of the run that has their maps.
        out: folder for the files.
        title: headline.
        truth: true boxes, drawn in green.

    Returns:
        The files.
    """
    wanted = {one.id for one in found}
    maps = {coarse.image_id: coarse for coarse in MapTable(run) if coarse.image_id in wanted}
    cells, items = [], []
    for one in found:
        picture = load_image(one.file)
        map, true = maps[one.id].at(picture.shape[:2]), (truth or {}).get(one.id, np.zeros((0, 4)))
        over = drawing.draw_boxes(drawing.overlay(picture, map), true, drawing.TRUTH)
        cells.append((drawing.Cell(picture, f"{one.score:.2f}"), drawing.Cell(drawing.draw_boxes(over, one.boxes))))
        items.append(report.GalleryItem(picture, map, one.boxes, true, f"{one.id}\n{one.score:.3f}"))
    rows = [list(row) for start in range(0, len(cells), 6) for row in zip(*cells[start : start + 6], strict=True)]
    figure = drawing.save(drawing.grid(rows, title=title, side=1.8), out / "ranked.png")
    return [figure, report.gallery(out / "ranked.html", items, title)]


def write_ranking(found: Sequence[Ranked], file: Path) -> None:
    """Write a line for each picture and box: rank, picture, score, and the box, empty where there is none."""
    with open(file, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["rank", "image", "score", "x0", "y0", "x1", "y1"])
        for place, one in enumerate(found, 1):
            for box in one.boxes if len(one.boxes) else [[""] * 4]:
                table.writerow([place, one.id, f"{one.score:.6f}", *(edge and f"{edge:.1f}" for edge in box)])


def hold_out(ids: Sequence[str], share: float, seed: int) -> list[str]:
    """Choose a share of pictures at random: at least one, and not all."""
    count = min(max(1, round(share * len(ids))), len(ids) - 1)
    return sorted(np.random.default_rng(seed).choice(np.array(ids, object), count, replace=False).tolist())


def study(
    options: argparse.Namespace,
    root: Path,
    files: Mapping[str, Path],
    positives: Sequence[str],
    others: Sequence[str],
    *,
    concept: str,
    held: Collection[str] = (),
    every: bool = False,
    threshold: float | None = None,
) -> list[Ranked]:
    """Fit an SVM with hard negatives on a part of the pictures, say how accurate it is, and rank the other part.

    Args:
        options: those of `add_options`.
        root: folder of the pictures.
        files: where each is.
        positives: ids of those that show the concept.
        others: ids of those that do not.
        concept: its name.
        held: positives that are not to be trained on; by default as many as the options say, at random.
        every: as of `rank`.
        threshold: as of `rank`.

    Returns:
        The other part, the highest score first; its run is in the folder held-out.
    """
    if len(others) > options.most:
        others = hold_out(others, options.most / len(others), options.seed)
    kept = {*(held or hold_out(positives, options.held_out, options.seed))}
    kept |= {*hold_out(others, options.held_out, options.seed)}
    whole = Pictures(root, [*positives, *others], [files[id] for id in [*positives, *others]])
    train, test = (
        whole.subset(n for n, id in enumerate(whole.ids) if (id in kept) == other) for other in (False, True)
    )
    model, config = network(options)
    result = fastcam.fit(
        train,
        model,
        out=options.out,
        config=config,
        positives=[id for id in positives if id not in kept],
        concept=concept,
        hard_negatives=options.rounds,
        strength=options.strength,
        folds=5,
        seed=options.seed,
        overwrite=True,
    )
    print(
        f"{concept}: trained on {len(set(positives) - kept)} pictures with it and {result.negatives} of "
        f"{len(set(others) - kept)} without; in 5 folds of them accuracy {result.accuracy}, average precision "
        f"{result.average_precision:.1%}"
    )
    model, config = models.load_checkpoint(result.checkpoint)
    found = rank(
        model,
        config,
        test,
        options.out / "held-out",
        every=every,
        threshold=threshold,
        method=options.method,
        layer=options.target_layer,
    )
    write_ranking(found, options.out / "ranking.csv")
    return found


def network(options: argparse.Namespace) -> tuple[nn.Module, ModelConfig]:
    """Load the network that the command line names."""
    given = {name: tuple(value * (3 // len(value))) for name in ("mean", "std") if (value := getattr(options, name))}
    if options.size:
        given["size"] = options.size
    return models.load_network(options.weights, options.arch, **given)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that this script and text_detector.py have in common."""
    parser.add_argument("--arch", help="network, as `fastcam.models.build` names it; a checkpoint knows its own")
    parser.add_argument("--weights", required=True, help="its file of weights")
    parser.add_argument("--mean", type=float, nargs="+", help="of the network's input, one or three numbers")
    parser.add_argument("--std", type=float, nargs="+", help="as --mean")
    parser.add_argument("--size", type=int, help="side of the network's input; a larger one gives finer maps")
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--rounds", type=int, default=2, help="of hard negatives [2]")
    parser.add_argument("--strength", type=float, metavar="C", help="of the SVM [found by cross-validation]")
    parser.add_argument("--held-out", type=float, default=0.3, help="share of pictures that is not trained on [0.3]")
    parser.add_argument("--most", type=int, default=5000, help="negatives at most, of all that there are [5000]")
    parser.add_argument("--method", default="cam", help="that makes the maps: cam, layercam, … [cam]")
    parser.add_argument("--target-layer", metavar="LAYER", help="of which it makes them [the last with maps]")
    parser.add_argument("--show", type=int, default=12, help="pictures in the figure [12]")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices [0]")


def main(arguments: Sequence[str] | None = None) -> list[Ranked]:
    """Learn the concept that the command line names.

    Args:
        arguments: of the command line.

    Returns:
        The pictures that were not trained on, the best first.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", type=Path, help="folder of the pictures")
    parser.add_argument("--captions", type=Path, required=True, help="CSV of image_id,caption, or COCO's JSON")
    parser.add_argument("--concept", required=True, help="a phrase that captions have")
    add_options(parser)
    options = parser.parse_args(arguments)
    files = dict(find_pictures([options.pictures]))
    positives, others = divide(options.captions, options.concept, list(files))
    if min(len(positives), len(others)) < 10:
        raise SystemExit(
            f"{options.concept!r} is in the captions of {len(positives)} pictures, and {len(others)} have none of its "
            "words: expected at least 10 of each"
        )
    found = study(options, options.pictures, files, positives, others, concept=options.concept)
    shown = set(positives)
    hits = [one.id in shown for one in found]
    print(
        f"{len(found)} other pictures, of which {sum(hits)} have the phrase; so have {sum(hits[: sum(hits)])} of the "
        f"first {sum(hits)}"
    )
    for file in show(found[: options.show], options.out / "held-out", options.out, options.concept):
        print(file)
    return found


if __name__ == "__main__":
    main()
