"""`fastcam fit`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.fitting.settings import FitSettings


@plain_errors()
@generated
def fit(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="Data set: class folders, a list, CUB-200-2011, …")],
    out: Annotated[Path, typer.Option(help="Folder for model.safetensors, fit.json and features.parquet.")],
    network: options.FramedNetworkOptions,
    settings: FitSettings,
    weights: options.Weights = None,
    arch: options.Arch = None,
    positives: Annotated[
        Path | None,
        typer.Option(metavar="LIST", help="Text file of ids: tell these pictures from others, not classes."),
    ] = None,
    negatives: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Text file of ids, or how many random ones [all that are no positives]."),
    ] = None,
    device: options.Device = None,
) -> None:
    """Fit a linear head for new classes on a network's pooled features; all commands work on the result.

    The network runs once over the pictures. Prints the accuracy, with its 95 % interval, of pictures that were not
    fitted on. The same command goes on after whatever stopped it. With --skip-bad, the exit code is 3 if there was
    something bad.
    """
    from fastcam import fitting
    from fastcam._check import listed
    from fastcam._memory import keep_memory

    keep_memory()
    model, config = network.load(weights, arch)
    wanted = None
    if negatives is not None:
        wanted = int(negatives) if negatives.isdecimal() else _ids(Path(negatives))
    result = fitting.fit(
        data,
        model.to(device or options.default_device()),
        out=out,
        config=config,
        settings=settings,
        positives=None if positives is None else _ids(positives),
        negatives=wanted,
    )
    options.say_of_passed(result.ignored, pictures=True)
    shape = " x ".join(map(str, result.values.values.shape))
    pool = "" if result.values.pool is None else f", {result.values.pool}"
    print(f"features: {shape} at {result.values.layer}{pool}, in {result.features}")
    if result.head is not None:
        say(f"{result.head.head}, C = {result.head.strength:g}: {listed(list(result.head.classes), 12)}")
        how = "held out" if settings.folds is None else f"in {settings.folds} folds"
        print(f"accuracy {result.accuracy}, {how}")
        if result.average_precision is not None:
            print(f"average precision {result.average_precision:.1%}; {result.negatives} negatives were fitted on")
        print(f"checkpoint: {result.checkpoint}")
    for id, reason in result.bad:
        say(f"fastcam: {id}: {reason}", error=True)
    if result.bad:
        raise typer.Exit(SOME_FAILED)


def _ids(path: Path) -> list[str]:
    """Read a text file with an id on each line."""
    from fastcam.data.names import read_text

    return [line.strip() for line in read_text(path).splitlines() if line.strip()]
