"""`fastcam objects`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.discovery.settings import ObjectsSettings


@plain_errors()
@generated
def objects(
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Scenes with objects: COCO JSON, mask files or WSOL metadata.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for objects.csv and a figure of each class of scenes.")],
    network: options.FramedNetworkOptions,
    settings: Annotated[dict[str, Any], ObjectsSettings],
    weights: options.Weights = None,
    arch: options.Arch = None,
    scenes: Annotated[
        Path | None,
        typer.Option(help="CSV of image_id,scene: the scene of each picture by name [folders, or class_labels.txt]."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Scenes to look at, by index or name, commas between [all that have pictures].")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed pictures, and name them.")] = False,
    split: options.Split = None,
    format: Annotated[str | None, typer.Option(help="Layout of DATA: coco, masks or wsol [recognised].")] = None,
    images: options.Images = None,
    device: options.Device = None,
) -> None:
    """Rank the objects of scenes by their overlap with the high-activation area of the scene's CAM.

    DATA has scenes with objects: COCO JSON, mask files SCENE/x_NAME.png beside SCENE/x.jpg, or WSOL metadata with an
    objects.txt. Pictures that cannot be used are named; the exit code is 3 then.
    """
    from fastcam import discovery
    from fastcam.data import load_scenes

    model, config = network.load(weights, arch)
    chosen = None if classes is None else tuple(options.classes(classes, config.class_names, "--classes"))
    bad: list[tuple[str, str]] = []
    loaded = load_scenes(
        data,
        split,
        format,
        images,
        scenes=None if scenes is None else options.read_scenes(scenes),
        bad=bad if skip_bad else None,
    )
    if not settings.get("predicted"):
        options.say_of_labels(loaded, config)
    found = discovery.informative_objects(
        model.to(device or options.default_device()),
        loaded,
        out=out,
        settings=ObjectsSettings(**settings, scenes=chosen),
        config=config,
    )
    top = settings.get("top", ObjectsSettings.top)
    for row in found.objects:
        if row.rank == 1:
            say(f"{row.scene_name} ({found.scenes[row.scene]} pictures): overlap, frequency")
        if row.rank <= top:
            say(f"  {row.rank:2}. {row.object:<24} {row.overlap:6.1%} {row.frequency:7.1%}")
    print(f"{found.pictures} pictures, {len(found.files)} files in {out}")
    for id, reason in [*bad, *found.errors]:
        say(f"fastcam: {id}: {reason}", error=True)
    if bad or found.errors:
        raise typer.Exit(SOME_FAILED)
