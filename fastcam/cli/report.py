"""`fastcam report`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.errors import plain_errors


@plain_errors()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `fastcam localize`, or its table.")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file, replaced if it is there [report.html in the run's folder].")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder that the ids of pictures are relative to [as the run noted it].")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Data set with labels or boxes of these pictures.")] = None,
    split: Annotated[str | None, typer.Option(help="Its split: train, val or test.")] = None,
    format: Annotated[str | None, typer.Option(help="Its format [recognised].")] = None,
    folder_labels: Annotated[
        bool | None,
        typer.Option(
            "--folder-labels/--no-folder-labels",
            help="Names of folders are labels [if most are those of classes that were found].",
        ),
    ] = None,
    per_class: Annotated[int, typer.Option(min=1, help="Cards of each kind and class.")] = 12,
    pictures: Annotated[
        int, typer.Option(min=0, help="At most this many cards hold their picture, 20 to 30 kB each.")
    ] = 300,
) -> None:
    """Write what came out of a localization as one HTML page: counts, errors, histograms, confusion, gallery."""
    from fastcam.data import load
    from fastcam.report import write_report

    summary = write_report(
        run,
        out,
        images=images,
        data=None if data is None else load(data, split, format, truth_only=True),
        folder_labels=folder_labels,
        per_class=per_class,
        pictures=pictures,
    )
    labels = f", {summary.labelled} with a label" if summary.labelled else ""
    until = "" if summary.complete else " until now: the run is not finished"
    until += "; of an earlier run: the one begun since in its folder has not finished" if summary.earlier else ""
    print(f"{summary.pictures} pictures, {summary.errors} errors{labels}{until}")
    print(f"{summary.cards} cards, {summary.thumbnails} with a picture, in {summary.path}")
    if pictures and summary.cards and not summary.thumbnails and summary.errors < summary.pictures:
        print(
            "fastcam: no picture could be read; --images tells the folder that their ids are relative to",
            file=sys.stderr,
        )
