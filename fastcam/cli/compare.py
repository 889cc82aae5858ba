"""`fastcam compare`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.evaluation.settings import CompareSettings


@plain_errors()
@generated
def compare(
    data: options.DataSet,
    out: Annotated[Path, typer.Option(help="Folder for compare.json, compare.md and the figures.")],
    network: options.NetworkOptions,
    settings: CompareSettings,
    weights: options.Weights = None,
    arch: options.Arch = None,
    split: options.Split = None,
    format: options.Format = None,
    images: options.Images = None,
    device: options.Device = None,
) -> None:
    """Measure how well several methods' maps find objects, in one pass over the pictures, as one table.

    Suffixes: tap, thresholded average pooling instead of the network's; clamp, negative weights of CAM count as zero;
    pas, thresholds relative to a percentile; eigen and aug, smoother maps. With --skip-bad, the exit code is 3 if there
    was something bad.
    """
    from fastcam import data as datasets
    from fastcam.evaluation.compare import compare

    begin = time.perf_counter()
    model, config = network.load(weights, arch)
    problems: list[tuple[str, str]] = []
    loaded = datasets.load(data, split, format, images, bad=problems if settings.skip_bad else None)
    options.say_of_passed(getattr(loaded, "ignored", {}), pictures=True)
    options.say_of_labels(loaded, config)
    found = compare(
        model.to(device or options.default_device()),
        loaded,
        out=out,
        config=config,
        settings=settings,
        problems=problems,
    )
    for line in found.table():
        print(line)
    print(f"{found.pictures} pictures in {time.perf_counter() - begin:.1f} s; compare.json and figures are in {out}")
    for id, reason in found.bad:
        say(f"fastcam: {id}: {reason}", error=True)
    if found.bad:
        raise typer.Exit(SOME_FAILED)
