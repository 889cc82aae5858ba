"""`fastcam compare`."""

import time
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options


@options.plain_errors()
def compare(
    data: options.DataSet,
    out: Annotated[Path, typer.Option(help="Folder for compare.json, compare.md and the figures.")],
    weights: options.Weights,
    arch: options.Arch = None,
    split: options.Split = None,
    format: options.Format = None,
    images: options.Images = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    class_names: options.ClassNames = None,
    num_classes: options.NumClasses = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROW,ROW,…",
            help="METHOD[+tap][+clamp][+pas][+eigen][+aug], as cam+tap, layercam+eigen [CAM and its family].",
        ),
    ] = None,
    target_layer: options.TargetLayer = None,
    protocol: options.Rules = "standard",
    pas_percentile: Annotated[
        float, typer.Option(help="Percentile of a map that thresholds are relative to in rows with +pas.")
    ] = 90.0,
    threshold: Annotated[
        float | None, typer.Option(help="τ of GT-known and Top-1 Loc [each row's best for MaxBoxAcc].")
    ] = None,
    bootstrap: options.Bootstrap = 200,
    pictures: Annotated[int, typer.Option(min=0, help="Draw this many pictures with all maps.")] = 6,
    skip_bad: options.SkipBad = False,
    batch_size: options.BatchSize = 32,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure how well several methods' maps find objects, in one pass over the pictures, as one table.

    Suffixes: tap, thresholded average pooling instead of the network's; clamp, negative weights of CAM count as zero;
    pas, thresholds relative to a percentile; eigen and aug, smoother maps. With --skip-bad, the exit code is 3 if there
    was something bad.
    """
    from fastcam import data as datasets
    from fastcam.evaluation.compare import compare
    from fastcam.evaluation.settings import ROWS

    begin = time.perf_counter()
    given = options.given(size, None, mean, std, class_names, num_classes, None)
    model, config = options.load(weights, arch, given)
    problems: list[tuple[str, str]] = []
    loaded = datasets.load(data, split, format, images, bad=problems if skip_bad else None)
    options.say_of_passed(getattr(loaded, "ignored", {}), pictures=True)
    options.say_of_labels(loaded, config)
    found = compare(
        model.to(device or options.default_device()),
        loaded,
        out=out,
        methods=options.parts(methods) or ROWS,
        config=config,
        target_layers=target_layer or None,
        protocol=protocol,
        threshold=threshold,
        pas_percentile=pas_percentile,
        bootstrap=bootstrap,
        skip_bad=skip_bad,
        problems=problems,
        pictures=pictures,
        batch_size=batch_size,
        overwrite=overwrite,
    )
    for line in found.table():
        print(line)
    print(f"{found.pictures} pictures in {time.perf_counter() - begin:.1f} s; compare.json and figures are in {out}")
    for id, reason in found.bad:
        options.say(f"fastcam: {id}: {reason}", error=True)
    if found.bad:
        raise typer.Exit(3)
