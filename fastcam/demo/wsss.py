"""From classes in pictures to pseudo-labels of segmentation, on drawn pictures in Pascal VOC's layout.

Everything goes through files, by steps that are a command each. The commands are printed as they are done, so that they
can be repeated, changed, and done with other data.
"""

import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from fastcam import drawing, models
from fastcam._progress import lines
from fastcam.data import Collection, load
from fastcam.data.drawn_voc import write_voc
from fastcam.drawing import Cell
from fastcam.evaluation.evaluate import EvaluationSummary, evaluate
from fastcam.export import CoarseMap, MapTable, export
from fastcam.localization import localize
from fastcam.pictures import decode_indices
from fastcam.training import train

_SCALES = (1.0, 1.5, 2.0)
_ON = {
    "device": "cpu",
    "overwrite": True,
}  # of commands; a CPU repeats to the bit, which CUDA's convolutions do not promise
_REFINEMENTS: dict[str, dict[str, str]] = {"plain": {}, "refined": {"refine": "pamr"}}
_TITLES = {"plain": "pseudo-label", "refined": "refined"}
_SHOWN, _CLASSES = 6, 2  # pictures in the figure, and classes in each


class WsssResult(NamedTuple):
    """What the demo measured on the test pictures, in percent, at thresholds chosen on the validation pictures.

    Attributes:
        mean_ap: mean average precision of the network's scores, by the rule of Pascal VOC 2010.
        plain: mIoU of pseudo-labels of the maps as they are.
        refined: mIoU of pseudo-labels of the maps drawn to the pictures' edges.
    """

    mean_ap: float
    plain: float
    refined: float


@lines()
def run(
    out: str | os.PathLike[str],
    seed: int = 0,
    *,
    pictures: tuple[int, int, int] = (2000, 200, 300),
    size: int = 80,
    epochs: int = 6,
    progress: bool = True,
) -> WsssResult:
    """Draw a data set, train ResNet18 on the classes in its pictures, make pseudo-labels of its maps, and measure them.

    Writes to `out`: data, the data set in Pascal VOC's layout; train, the network; val and test, runs with maps;
    measured, what `fastcam.evaluate` says of it all; labels-plain and labels-refined, the pseudo-labels of the test
    split; and segments.png, pictures with maps, pseudo-labels and truth. An earlier run is replaced.

    Args:
        out: folder for the results.
        seed: of the pictures and the training; the same seed gives the same result on the same machine with the same
            number of threads.
        pictures: how many to draw for training, validation and test.
        size: side of the network's input in pixels.
        epochs: passes over the training pictures.
        progress: show progress bars where standard error is a terminal, elsewhere a line every ten seconds.

    Returns:
        The figures, which are also printed.

    Raises:
        ValueError: an option out of range.
        OSError: the results cannot be written.
    """
    out = Path(out)
    data, weights = out / "data", out / "train/best.safetensors"
    names = write_voc(data, dict(zip(("train", "val", "test"), pictures, strict=True)), seed=seed)
    print(f"{data}: {sum(pictures)} drawn pictures with objects of {len(names)} classes, in Pascal VOC's layout.")
    shown: dict[str, Any] = {"progress": progress, "overwrite": True}

    print("\nTrain on the classes in each picture, and nothing else:")
    settings: dict[str, Any] = {"loss": "bce", "output_stride": 16, "size": size, "epochs": epochs, "batch_size": 16}
    settings["seed"] = seed
    _say("train", data, **settings, out=out / "train", **_ON)
    train(data, **settings, out=out / "train", device="cpu", **shown)
    model, config = models.load_checkpoint(weights)
    measured = out / "measured/classes"
    _say("evaluate", data, split="test", weights=weights, out=measured, **_ON)
    classes = _figures(evaluate(load(data, "test"), model=model, config=config, out=measured, **shown))

    print("\nMake maps of the classes in each picture, summed over sizes and mirror images:")
    how: dict[str, Any] = {"targets": "label", "scales": _SCALES, "flip": True, "maps": True}
    for split in ("val", "test"):
        _say("localize", data, format="voc", split=split, weights=weights, **how, out=out / split, **_ON)
        localize(model, load(data, split), config=config, **how, out=out / split, **shown)

    print("\nMeasure pseudo-labels, of the maps as they are and refined; the level of the background is chosen on val:")
    miou: dict[str, float] = {}
    for name, refine in _REFINEMENTS.items():
        of_val = out / f"measured/val-{name}/metrics.json"
        for split, chosen in (("val", {"cases": 0}), ("test", {"threshold_from": of_val})):
            measured = out / f"measured/{split}-{name}"
            options: dict[str, Any] = {"maps": out / split, "protocol": "wsss", **refine, **chosen, "out": measured}
            _say("evaluate", data, split=split, **options, overwrite=True)
            miou[name] = _figures(evaluate(load(data, split), **options, **shown))["mIoU"]

    print("\nWrite the pseudo-labels, which networks for segmentation are trained on:")
    for name, refine in _REFINEMENTS.items():
        options = {**refine, "threshold_from": out / f"measured/val-{name}/metrics.json", "out": out / f"labels-{name}"}
        _say("export", out / "test", to="labels", **options, overwrite=True)
        export(out / "test", "labels", **options, **shown)
    drawing.save(_drawn(out, load(data, "test")), out / "segments.png")
    result = WsssResult(classes["mAP voc2010"], miou["plain"], miou["refined"])
    print(f"\nmAP {result.mean_ap:.1f} %, mIoU {result.plain:.1f} %, refined {result.refined:.1f} %")
    print(f"Pictures, maps, pseudo-labels and truth: {out / 'segments.png'}")
    return result


def _say(command: str, *words: object, **options: object) -> None:
    """Print a command as a shell takes it."""
    flags: list[object] = []
    for name, value in options.items():
        flags.append(f"--{name.replace('_', '-')}")
        if value is not True:
            flags.append(",".join(map(str, value)) if isinstance(value, tuple) else value)
    print("$ fastcam", shlex.join(map(str, [command, *words, *flags])), flush=True)


def _figures(summary: EvaluationSummary) -> dict[str, float]:
    assert summary.metrics is not None
    return summary.metrics["figures"]


def _drawn(out: Path, data: Collection) -> Figure:
    """Pictures of several classes: maps of each, pseudo-labels before and after refinement, and the truth."""
    maps: dict[str, dict[str, CoarseMap]] = {}
    for one in MapTable(out / "test"):
        if one.class_id is not None:
            maps.setdefault(one.image_id, {})[data.class_names[one.class_id]] = one
    folders = {_TITLES[name]: out / f"labels-{name}" for name in _REFINEMENTS}
    folders["truth"] = out / "data/SegmentationClass"
    rows = []
    for id in [id for id, found in maps.items() if len(found) == _CLASSES][:_SHOWN]:
        picture = np.asarray(data[data.ids.index(id)].image)
        row = [Cell(picture, "picture")]
        row += [Cell(drawing.overlay(picture, one.at()), name) for name, one in sorted(maps[id].items())]
        for title, folder in folders.items():
            labels = decode_indices(folder / Path(id).with_suffix(".png"))
            row.append(Cell(drawing.overlay_labels(picture, labels), title))
        rows.append(row)
    return drawing.grid(rows, side=1.5)
