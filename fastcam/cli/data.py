"""`fastcam data`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli.errors import SOME_FAILED, plain_errors, say

app = typer.Typer(
    help="Make data sets, and look at them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
@plain_errors()
def catdog(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder with train/ or train.zip, or of cat.0.jpg, dog.0.jpg, ….")
    ],
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make, outside of SRC.")],
    copy: Annotated[bool, typer.Option("--copy", help="Copy the pictures [symbolic links].")] = False,
) -> None:
    """Divide Kaggle's dogs-vs-cats: of each class, pictures 0 to 9,999 to train on, the others to test on.

    Of fewer, the first 80 % are to train on. Running it again adds what is missing; SRC is never changed.
    """
    from fastcam.data.catdog import make_catdog

    made = make_catdog(source, out, copy=copy)
    print(f"{made.train} pictures to train on, {made.test} to test on, in {out}; {made.added} were added")


@app.command()
@plain_errors()
def info(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", help="Layout of PATH: wsol, cub, coco, …, or auto to recognise it; or shapes alone."
        ),
    ],
    path: Annotated[Path | None, typer.Argument(metavar="PATH", help="Folder or file of the data set.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val or test [each that there is].")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures [where the layout has it].")] = None,
    decode: Annotated[bool, typer.Option("--decode/--no-decode", help="Decode each picture to find damage.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show how many pictures, classes and boxes a data set has, their sizes, and the files that are damaged.

    The exit code is 3 if some are malformed, missing or damaged; they are named.
    """
    from fastcam import data

    source, format = (name, None) if path is None else (path, None if name == "auto" else name)
    wanted: list[str | None] = [split] if split else [*data.splits(source, format)]
    parts = {part: data.info(source, part, format, images, decode=decode) for part in wanted or [None]}
    if as_json:
        print(json.dumps({part or "all": found.to_dict() for part, found in parts.items()}, indent=2))
    for part, found in parts.items():
        if not as_json:
            for line in ([f"{part}:"] if part else []) + found.lines():
                say(line)
        for id, reason in found.malformed + found.damaged:
            say(f"fastcam: {id}: {reason}", error=True)
    if any(found.malformed or found.damaged for found in parts.values()):
        raise typer.Exit(SOME_FAILED)
