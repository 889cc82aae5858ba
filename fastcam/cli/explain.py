"""`fastcam explain`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.explanation.settings import ExplainSettings


@plain_errors()
@generated
def explain(
    paths: options.Paths,
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    network: options.FramedNetworkOptions,
    settings: Annotated[dict[str, Any], ExplainSettings],
    weights: options.Weights = None,
    arch: options.Arch = None,
    targets: Annotated[
        str | None, typer.Option(help="Classes by index or name, commas between [the highest of each picture].")
    ] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="NAME_grid.png: classes in rows, methods and layers in columns [default].")
    ] = False,
    threshold: Annotated[
        float | None,
        typer.Option(help="Fraction of the map's range above which the largest box lies [checkpoint's, else 0.2]."),
    ] = None,
    device: options.Device = None,
) -> None:
    """Draw where a network sees classes in pictures, by one or several methods and layers.

    Several values go with commas between or in several options; --boxes none draws none. Damaged pictures are named;
    the exit code is 3 then.
    """
    from fastcam import explanation

    model, config = network.load(weights, arch)
    if settings.get("boxes") == ("none",):
        settings["boxes"] = ()
    chosen = explanation.ExplainSettings(
        **settings,
        targets=None if targets is None else tuple(options.classes(targets, config.class_names)),
        grid=grid or not any(settings.get(name) for name in ("panel", "num_results", "stl10_blog")),
        threshold=threshold,
    )
    summary = explanation.explain(
        model.to(device or options.default_device()), paths, out=out, config=config, settings=chosen
    )
    print(f"{summary.pictures} pictures, {len(summary.files)} files in {out}")
    options.say_of_passed(summary.ignored, pictures=True)
    for id, reason in summary.errors:
        say(f"fastcam: {id}: {reason}", error=True)
    if summary.errors:
        raise typer.Exit(SOME_FAILED)
