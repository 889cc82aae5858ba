"""`fastcam units`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.discovery.settings import UnitsSettings


@plain_errors()
@generated
def units(
    data: options.DataSet,
    out: Annotated[Path, typer.Option(help="Folder for figures, page and table of each class.")],
    classes: Annotated[str, typer.Option("--class", help="Classes by index or name, commas between.")],
    network: options.FramedNetworkOptions,
    settings: Annotated[dict[str, Any], UnitsSettings],
    weights: options.Weights = None,
    arch: options.Arch = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed pictures, and name them.")] = False,
    split: options.Split = None,
    format: options.Format = None,
    images: options.Images = None,
    device: options.Device = None,
) -> None:
    """Find the units that a class rests on, and show the pictures and regions that they respond to.

    Units are ranked by the class's weights, and by weight × mean activation in the class's pictures. Pictures that
    cannot be used are named; the exit code is 3 then.
    """
    from fastcam import data as datasets, discovery

    model, config = network.load(weights, arch)
    chosen = options.classes(classes, config.class_names, "--class")
    bad: list[tuple[str, str]] = []
    loaded = datasets.load(data, split, format, images, bad=bad if skip_bad else None)
    options.say_of_labels(loaded, config)
    found = discovery.class_units(
        model.to(device or options.default_device()),
        loaded,
        chosen,
        out=out,
        settings=UnitsSettings(**settings),
        config=config,
    )
    for unit in found.units:
        if unit.rank == 1:
            say(f"{unit.class_name}, by {unit.by}: unit, weight, weight × mean activation, receptive field")
        figures = f"{unit.weight:9.4f} {unit.contribution:9.4f} {unit.receptive_field:5} px"
        say(f"  {unit.rank:2}. {unit.unit:6} {figures}")
    print(f"{found.pictures} pictures, {len(found.files)} files in {out}")
    for id, reason in [*bad, *found.errors]:
        say(f"fastcam: {id}: {reason}", error=True)
    if bad or found.errors:
        raise typer.Exit(SOME_FAILED)
