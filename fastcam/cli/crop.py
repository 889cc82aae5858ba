"""`fastcam crop`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, as_typed, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.cropping.settings import CropSettings


@plain_errors()
@generated
def crop(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `fastcam localize`, or its boxes.parquet.")],
    out: Annotated[Path, typer.Option(help="Folder for CLASS/NAME.png, crops.csv and classes.txt.")],
    settings: CropSettings,
    data: Annotated[
        Path | None, typer.Option(help="Data set with labels of these pictures, and for --boxes truth with boxes.")
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            metavar="train,test", help="Pictures of this split alone; of several, a folder of classes for each [all]."
        ),
    ] = None,
    format: options.Format = None,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that the ids of pictures are relative to [where DATA, or the run, has them]."),
    ] = None,
) -> None:
    """Cut the boxes of a run out of its pictures, as class folders; the classes are DATA's labels, or as found.

    What could not be cut out has a row with the reason in crops.csv; the exit code is 3 then.
    """
    from fastcam import cropping
    from fastcam.data import load

    splits = options.parts(split) or []
    if data is None and (splits or format):
        raise ValueError("--split and --format are of a data set: give it by --data")
    source: Any = None
    if data is not None and len(splits) > 1:
        source = {name: load(data, name, format, truth_only=True) for name in splits}
    elif data is not None:
        source = load(data, splits[0] if splits else None, format, truth_only=True)
    done = cropping.crop(run, out=out, settings=settings, data=source, images=images)
    print(f"{done.crops} crops of {done.pictures} pictures in {as_typed(done.path)}")
    if done.elsewhere:
        say(f"fastcam: passed over {done.elsewhere} pictures of the run, which are not in {data}", error=True)
    if done.failed:
        id, reason = done.examples[0]
        say(f"fastcam: {done.failed} could not be cut out, such as {id!r}: {reason}; see {done.table}", error=True)
        raise typer.Exit(SOME_FAILED)
