"""`fastcam localize`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options


@options.plain_errors()
def localize(
    paths: options.Paths,
    out: Annotated[Path, typer.Option(help="Folder for boxes.parquet and the overlays.")],
    weights: options.Weights,
    arch: options.Arch = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    class_names: options.ClassNames = None,
    num_classes: options.NumClasses = None,
    target_layer: options.TargetLayer = None,
    method: Annotated[str, typer.Option(help="cam, gradcam, gradcam++, …")] = "cam",
    threshold: Annotated[
        float | None,
        typer.Option(help="Fraction of the map's range above which the box lies [checkpoint's, else 0.2]."),
    ] = None,
    relu: options.Relu = None,
    mode: options.Mode = options.Upsampling.bilinear,
    top_k: Annotated[int, typer.Option(min=1, help="Boxes for this many of the highest classes.")] = 1,
    targets: Annotated[
        Path | None, typer.Option(help="CSV of image_id,class_id: boxes for these classes, not for the highest.")
    ] = None,
    batch_size: options.BatchSize = 32,
    backend: options.Backend = options.Implementation.fused,
    device: options.Device = None,
    overlays: Annotated[int, typer.Option(min=0, help="Draw this many of the first pictures.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing boxes.parquet.")] = False,
) -> None:
    """Find the objects in pictures and write their boxes to a Parquet table.

    Damaged pictures become rows with the reason; the exit code is 3 then.
    """
    from fastcam import localization

    model, config = options.load(
        weights, arch, options.given(size, resize, mean, std, class_names, num_classes, threshold)
    )
    summary = localization.localize(
        model.to(device or options.default_device()),
        paths,
        out=out,
        config=config,
        method=method,
        target_layers=target_layer or None,
        relu=relu,
        mode=mode.value,
        top_k=top_k,
        targets=None if targets is None else options.read_targets(targets),
        batch_size=batch_size,
        backend=backend.value,
        overlays=overlays,
        overwrite=overwrite,
    )
    print(f"{summary.pictures} pictures, {summary.rows} rows in {summary.path}")
    if summary.errors:
        print(f"fastcam: {summary.errors} pictures failed; column `error` says why", file=sys.stderr)
        raise typer.Exit(3)
