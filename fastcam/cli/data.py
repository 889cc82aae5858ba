"""`fastcam data`."""

import json
from pathlib import Path
from typing import Annotated, Literal

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
def drawn(
    out: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make; if it is there, it must be empty.")],
    kind: Annotated[
        Literal["boxes", "masks", "voc"],
        typer.Option(
            help="boxes: one object a picture, in class folders with WSOL metadata. masks: the same with masks in the "
            "place of boxes. voc: objects of several classes a picture, in Pascal VOC's layout, with class PNGs."
        ),
    ] = "boxes",
    train: Annotated[int, typer.Option(help="Pictures to train on, 0 for none.")] = 1000,
    val: Annotated[int, typer.Option(help="Pictures to choose by, 0 for none.")] = 200,
    test: Annotated[int, typer.Option(help="Pictures to test on, 0 for none.")] = 200,
    classes: Annotated[int | None, typer.Option(help="Number of classes, from 2 to 8; voc has all [8].")] = None,
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels, at least 32.")] = 128,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = 0,
) -> None:
    """Draw a labelled data set: textured shapes before cluttered backgrounds, and where they are.

    A class is a texture on a shape, such as "striped disc"; neither colour nor outline gives away where it is. All
    commands read the folder as it is; about 500 pictures a second are drawn.
    """
    from fastcam.data.drawn_voc import write_voc
    from fastcam.data.drawn_wsol import write_wsol

    if out.exists() and any(out.iterdir()):
        raise FileExistsError(f"{out} is not empty: name another folder")
    if kind == "voc" and classes is not None:
        raise ValueError(f"--kind voc has all classes, got --classes {classes}")
    counts = {split: count for split, count in {"train": train, "val": val, "test": test}.items() if count}
    if kind == "voc":
        names = write_voc(out, counts, size=size, seed=seed)
    else:
        names = write_wsol(out, counts, classes=classes or 8, size=size, seed=seed, masks=kind == "masks")
    print(f"{sum(counts.values())} pictures of {len(names)} classes in {out}: " + ", ".join(names))


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
