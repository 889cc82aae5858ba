"""`fastcam explain`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say


class Fuse(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


@plain_errors()
def explain(
    paths: options.Paths,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    weights: options.Weights,
    arch: options.Arch = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    class_names: options.ClassNames = None,
    num_classes: options.NumClasses = None,
    method: Annotated[
        list[str] | None, typer.Option(help="One or several: gradcam, layercam, guided-backprop, … [gradcam].")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Layers by dotted name, drawn beside each other [the last stage].")
    ] = None,
    fuse: Annotated[Fuse | None, typer.Option(help="Make one map of all layers.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Classes by index or name, commas between [the highest of each picture].")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="This many of the highest classes, without --targets.")] = 1,
    smooth: Annotated[list[str] | None, typer.Option(help="aug, eigen or aug,eigen: smoother maps.")] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="NAME_grid.png: classes in rows, methods and layers in columns [default].")
    ] = False,
    panel: Annotated[
        bool, typer.Option("--panel", help="NAME_panel.png: picture, map, map over picture with boxes.")
    ] = False,
    num_result: Annotated[
        int, typer.Option(min=0, help="imgN, camN and ResultN.png for this many of the first pictures.")
    ] = 0,
    boxes: Annotated[
        list[str] | None,
        typer.Option(help="largest, all, largest,all or none [largest in panels and results, none in grids]."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Fraction of the map's range above which the largest box lies [checkpoint's, else 0.2]."),
    ] = None,
    component_threshold: Annotated[
        float, typer.Option(help="Fraction of the map's maximum above which the boxes of `all` lie.")
    ] = 0.6,
    blend: Annotated[
        str | None, typer.Option(help="Weights of map and picture [0.7,0.5; for --num-result 0.3,0.5].")
    ] = None,
    relu: options.Relu = None,
    mode: options.Mode = options.Upsampling.bilinear,
    backend: options.Backend = options.Implementation.fused,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing figures.")] = False,
) -> None:
    """Draw where a network sees classes in pictures, by one or several methods and layers.

    Several values go with commas between or in several options. Damaged pictures are named; the exit code is 3 then.
    """
    from fastcam import explanation

    model, config = options.load(
        weights, arch, options.given(size, resize, mean, std, class_names, num_classes, threshold)
    )
    chosen_boxes = options.parts(boxes)
    summary = explanation.explain(
        model.to(device or options.default_device()),
        paths,
        out=out,
        config=config,
        methods=options.parts(method) or ["gradcam"],
        layers=options.parts(layers),
        fuse=fuse and fuse.value,
        targets=None if targets is None else options.classes(targets, config.class_names),
        top_k=top_k,
        smooth=options.parts(smooth) or (),
        grid=grid or not (panel or num_result),
        panel=panel,
        num_results=num_result,
        boxes=[] if chosen_boxes == ["none"] else chosen_boxes,
        component_threshold=component_threshold,
        blend=None if blend is None else options.pair("--blend", blend),
        relu=relu,
        mode=mode.value,
        backend=backend.value,
        overwrite=overwrite,
    )
    print(f"{summary.pictures} pictures, {len(summary.files)} files in {out}")
    options.say_of_passed(summary.ignored, pictures=True)
    for id, reason in summary.errors:
        say(f"fastcam: {id}: {reason}", error=True)
    if summary.errors:
        raise typer.Exit(SOME_FAILED)
