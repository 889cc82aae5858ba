"""`fastcam train`."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastcam.cli import options
from fastcam.cli.errors import plain_errors
from fastcam.cli.generate import generated
from fastcam.training.settings import Settings, read_toml

if TYPE_CHECKING:
    from fastcam.training import TrainingResult


@plain_errors()
@generated
def train(
    settings: Annotated[dict[str, Any], Settings],
    source: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Data set, as --data.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, metrics and training graph [fastcam-train/DATA-ARCH].")
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="catdog, stl10, stl10-blog, cub-rethinking, imagenet-gap, voc-wsss or shapes: settings to start from."
        ),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings, such as an earlier settings.toml; flags go before it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's last checkpoint, if it has one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier training in OUT.")] = False,
    device: options.Device = None,
    localization: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Measure boxes each epoch, of maps by cam, gradcam, …: MaxBoxAcc and others."
        ),
    ] = None,
    pseudo_boxes: Annotated[
        Path | None,
        typer.Option(
            help="--localization: measure with these boxes of the pictures to test on, too, where true ones are not "
            "known: pseudo-MaxBoxAcc for --best-by. boxes.parquet, CSV of image_id,x0,y0,x1,y1, COCO JSON, …"
        ),
    ] = None,
) -> None:
    """Train a network on labelled pictures, from scratch or from weights; under torchrun on several machines.

    Where neither an option nor --config or --preset says otherwise, the default is taken.
    """
    if source is not None:
        if "data" in settings:
            raise ValueError(f"the data set is told twice, {source!r} and --data {settings['data']!r}")
        settings["data"] = source
    values: dict[str, Any] = {} if config is None else read_toml(config)
    preset = preset or values.pop("preset", None)
    values |= settings
    if out is None:
        chosen = Settings.of(preset, values)
        out = Path("fastcam-train", f"{Path(chosen.data or 'data').resolve().name}-{re.sub('[/:]+', '-', chosen.arch)}")
    from fastcam import training

    callback = None
    if pseudo_boxes is not None and localization is None:
        raise ValueError("--pseudo-boxes are for maps: tell their method by --localization, such as cam")
    if localization is not None:
        from fastcam import evaluation

        callback = evaluation.localizer(localization, pseudo_boxes=pseudo_boxes)
    result = training.train(
        values.pop("data", None),
        preset,
        out=out,
        device=device,
        resume=resume,
        overwrite=overwrite,
        callback=callback,
        **values,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        _report(result)


def _report(result: "TrainingResult") -> None:
    options.say_of_passed(result.ignored, pictures=True)
    figure = next(name for name in ("test_mAP", "test_accuracy") if name in result.history[-1])
    best = max(entry[figure] for entry in result.history)
    print(f"{figure.replace('_', ' ')} {best:.2%}; {result.best}, {result.last}, training graph {result.curve}")
    total, data, compute, tests = (
        sum(entry[name] for entry in result.history)
        for name in ("seconds", "data_seconds", "compute_seconds", "test_seconds")
    )
    pictures = sum(entry["seconds"] * entry["images_per_second"] for entry in result.history)
    print(
        f"trained {total:.0f} s at {pictures / total:.0f} pictures/s: waiting for pictures {data / total:.1%}, "
        f"computing {compute / total:.1%}, rest {(total - data - compute) / total:.1%}; tested {tests:.0f} s"
    )
