"""`fastcam export`."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, as_typed, plain_errors, say

if TYPE_CHECKING:
    from fastcam.export import Exported


@plain_errors()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of `fastcam localize`, or its boxes.parquet.")],
    format: Annotated[
        str,
        typer.Option(
            "--format",
            "--to",
            help="coco, csv, labelstudio, voc, yolo, wsol; of runs that keep maps: png, npy, labels, wsss.",
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="File or folder to write [named by the format, in RUN].")] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="coco: file of the true objects, whose ids of images and categories count.")
    ] = None,
    categories: Annotated[
        Path | None,
        typer.Option(
            help="coco, labels, wsss: CSV of class_id,category_id [by coco's --annotations, else class_id + 1]."
        ),
    ] = None,
    size: Annotated[
        str | None, typer.Option(help="png, npy: side of square maps in pixels, or picture [npy 224, png picture].")
    ] = None,
    cuts: Annotated[
        str | None,
        typer.Option(
            metavar="LOW[,HIGH]",
            help="labels, wsss: background up to LOW, object above HIGH, 255 between [the run's threshold].",
        ),
    ] = None,
    alpha: Annotated[
        str | None,
        typer.Option(
            metavar="A[,B]",
            help="labels, wsss: the background's score is (1 - max)^A instead; of two, such as 4,32, 255 between.",
        ),
    ] = None,
    threshold_from: Annotated[
        Path | None,
        typer.Option(
            help="labels, wsss: background up to the best level that metrics.json of evaluate --protocol wsss has."
        ),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="labelstudio: goes before each image_id [/data/local-files/?d=].")
    ] = None,
    refine: Annotated[
        Literal["pamr", "crf"] | None,
        typer.Option(
            help="png, npy, labels, wsss: draw the maps to the edges of their pictures first: pamr, pixel-adaptive "
            "mask refinement; for labels also crf, a dense CRF."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(help="--refine: folder that the ids of pictures are relative to [as the run noted it]."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what was exported there before.")] = False,
) -> None:
    """Convert the boxes of a run, and its maps, to formats of other tools.

    Pictures that a format cannot express are left out; the exit code is 3 then.
    """
    from fastcam import export

    done = export.export(
        run,
        format,
        out,
        annotations=annotations,
        categories=None if categories is None else _read_categories(categories),
        size=None if size is None else _read_size(size),
        cuts=None if cuts is None else _one_or_two("--cuts", cuts),
        alpha=None if alpha is None else _one_or_two("--alpha", alpha),
        threshold_from=threshold_from,
        url=url,
        refine=refine,
        images=images,
        overwrite=overwrite,
    )
    print(f"{done.pictures} pictures, {done.boxes} boxes in {as_typed(done.path)}")
    if done.errors:
        print(f"fastcam: without {done.errors} pictures that failed in the run", file=sys.stderr)
    for note in done.notes:
        say(f"fastcam: {note}", error=True)
    if done.left_out:
        say(f"fastcam: {left_out(done)}", error=True)
        raise typer.Exit(SOME_FAILED)


def left_out(done: "Exported") -> str:
    """Say how many pictures a format could not express, and why."""
    id, reason = done.examples[0]
    return f"{done.left_out} pictures left out, such as {id!r}: {reason}"


def _read_size(text: str) -> int | Literal["picture"]:
    if text != "picture" and not text.isdecimal():
        raise ValueError(f"--size must be a number of pixels or picture, got {text!r}")
    return "picture" if text == "picture" else int(text)


def _one_or_two(option: str, text: str) -> tuple[float, float]:
    """Read a number, which stands for both, or two."""
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, 2):
        raise ValueError(f"{option} must be a number, or two with a comma between, such as 0.2,0.4; got {text!r}")
    return numbers[0], numbers[-1]


def _read_categories(path: Path) -> dict[int, int]:
    """Read a CSV of class_id,category_id."""
    categories: dict[int, int] = {}
    for line in options.rows(path):
        if line == ["class_id", "category_id"]:
            continue
        try:
            class_id, category_id = map(int, line)
        except ValueError:
            raise ValueError(f"{path}: expected lines `class_id,category_id`, got {','.join(line)!r}") from None
        if categories.setdefault(class_id, category_id) != category_id:
            raise ValueError(f"{path}: two categories for class {class_id}")
    return categories
