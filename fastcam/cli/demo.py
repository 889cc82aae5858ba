"""`fastcam demo`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.errors import plain_errors


@plain_errors()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fastcam-demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
) -> None:
    """Draw a data set, train on its labels alone, localize, and report how well the boxes fit."""
    from fastcam import demo

    demo.run(out, seed=seed)
