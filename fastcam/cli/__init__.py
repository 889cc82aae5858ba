"""The command line: a module for each command.

errors.py has the exit codes and how errors and warnings are shown; options.py what several commands share;
generate.py makes options of the dataclasses that declare them.
"""

import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from fastcam._version import __version__
from fastcam.cli import (
    bench,
    compare,
    crop,
    data,
    demo,
    evaluate,
    explain,
    export,
    fit,
    info,
    localize,
    objects,
    report,
    train,
    units,
    vqa,
)

# Commands import torch and what needs it only when they run, so that `fastcam --help` answers at once.
app = typer.Typer(
    name="fastcam",
    help="Class activation maps and the boxes in them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):  # names that it cannot show must not end a command
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastcam {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for _command in (
    info.info,
    demo.demo,
    train.train,
    fit.fit,
    localize.localize,
    report.report,
    export.export,
    crop.crop,
    evaluate.evaluate,
    compare.compare,
    explain.explain,
    objects.objects,
    units.units,
    bench.bench,
):
    app.command()(_command)
app.add_typer(data.app, name="data")
app.add_typer(vqa.app, name="vqa")
