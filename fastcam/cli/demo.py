"""`fastcam demo`."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from fastcam.cli.errors import plain_errors


@plain_errors()
def demo(
    task: Annotated[
        Literal["wsol", "wsss"],
        typer.Option(help="wsol: one class a picture, to boxes. wsss: several, to pseudo-labels of segmentation."),
    ] = "wsol",
    out: Annotated[Path | None, typer.Option(help="Folder for the results [fastcam-demo; fastcam-demo-wsss].")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
) -> None:
    """Draw a data set, train on its labels alone, localize, and report how well boxes or pseudo-labels fit."""
    from fastcam import demo

    if task == "wsss":
        demo.wsss.run(out or Path("fastcam-demo-wsss"), seed=seed)
    else:
        demo.run(out or Path("fastcam-demo"), seed=seed)
