"""Pictures beside each other with titles, as one figure, and the numbered files of a series."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from fastcam._files import replacing
from fastcam.drawing import as_uint8, colorize, draw_boxes, overlay


class Cell(NamedTuple):
    """One picture of a figure.

    Attributes:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        title: text above it; long lines are wrapped.
    """

    image: Any
    title: str = ""


def grid(
    rows: Sequence[Sequence[Cell | None]], labels: Sequence[str] = (), title: str = "", side: float = 2.4
) -> Figure:
    """Lay out pictures in rows and columns.

    Args:
        rows: the cells of each row; None leaves a place empty, as does the end of a shorter row.
        labels: text beside each row, or none at all.
        title: text above all.
        side: longer side of a picture in inches, > 0.

    Returns:
        The figure: notebooks show it, `save` writes it.

    Raises:
        TypeError: a picture is of the wrong type.
        ValueError: there is no cell, a picture has another shape or range, or the number of labels is not that of rows.
    """
    columns = max((len(row) for row in rows), default=0)
    cells = [[None if cell is None else Cell(as_uint8(cell.image), cell.title) for cell in row] for row in rows]
    shapes = [cell.image.shape[:2] for row in cells for cell in row if cell is not None]
    if not shapes:
        raise ValueError("`rows` must have at least one cell, got none")
    if labels and len(labels) != len(rows):
        raise ValueError(f"`labels` must be one for each of the {len(rows)} rows, got {len(labels)}")
    if not side > 0:
        raise ValueError(f"`side` must be a positive number of inches, got {side!r}")
    height, width = (side * max(shape[i] / max(shape) for shape in shapes) for i in (0, 1))
    letters = max(8, int(width * 12))  # that a line over a picture can hold

    def wrapped(text: str, limit: int) -> str:
        # There are no glyphs for control characters.
        lines = ("".join(c if c.isprintable() else "\ufffd" for c in line) for line in text.splitlines())
        return "\n".join(part for line in lines for part in textwrap.wrap(line, limit))

    lines = [
        max((wrapped(c.title, letters).count("\n") + 1 if c and c.title else 0 for c in row), default=0)
        for row in cells
    ]
    above = wrapped(title, max(20, int(columns * width * 11)))
    # Sizes in inches: a line of text takes about a sixth, gaps a tenth.
    tall = len(rows) * (height + 0.1) + sum(lines) / 6 + (0.25 * (above.count("\n") + 1) if above else 0)
    wide = columns * (width + 0.1) + (0.5 if labels else 0)
    # A Figure of its own, not pyplot's: no global state, no window system, safe in any thread.
    figure = Figure(figsize=(wide, tall), dpi=110, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    if above:
        figure.suptitle(above, fontsize=11, parse_math=False)  # names may have $
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for index, row in enumerate(cells):
        for place, cell in zip(axes[index], [*row, *[None] * (columns - len(row))], strict=True):
            place.set_xticks([])
            place.set_yticks([])
            place.spines[:].set_visible(False)
            if cell is not None:
                place.imshow(cell.image, interpolation="antialiased")
                place.set_title(wrapped(cell.title, letters), fontsize=9, parse_math=False)
        if labels:
            axes[index, 0].set_ylabel(wrapped(labels[index], max(12, int(height * 11))), fontsize=9, parse_math=False)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, atomically.

    Args:
        figure: what `grid` gave.
        path: file to write; its suffix chooses the format (.png, .svg, .pdf).

    Returns:
        The path written.

    Raises:
        ValueError: the suffix is of no known format.
        OSError: the file cannot be written.
    """
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png")
    return path


def result_paths(folder: str | os.PathLike[str], number: int) -> tuple[Path, Path, Path]:
    """Name the files of `save_results`.

    Args:
        folder: where they lie.
        number: of the picture, from 1.

    Returns:
        Paths of imgN.png, camN.png and ResultN.png.
    """
    return tuple(Path(folder, f"{kind}{number}.png") for kind in ("img", "cam", "Result"))


def save_results(
    folder: str | os.PathLike[str],
    number: int,
    image: Any,
    map: Any,
    boxes: Any = (),
    image_weight: float = 0.5,
    map_weight: float = 0.3,
    colormap: int = cv2.COLORMAP_JET,
) -> tuple[Path, Path, Path]:
    """Write picture, map and overlay as imgN.png, camN.png and ResultN.png.

    Args:
        folder: where to write; it is made if need be.
        number: of the picture, from 1.
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        map: heat map [H, W], floating in [0, 1].
        boxes: [B, 4] or [4], xyxy, half-open pixels, drawn into the overlay.
        image_weight: as in `fastcam.overlay`.
        map_weight: as in `fastcam.overlay`.
        colormap: a cv2.COLORMAP_* constant.

    Returns:
        The three paths.

    Raises:
        TypeError, ValueError: as in `fastcam.overlay` and `fastcam.drawing.draw_boxes`.
        OSError: a file cannot be written.
    """
    blend = draw_boxes(overlay(image, map, image_weight, map_weight, colormap), boxes)
    paths = result_paths(folder, number)
    for path, picture in zip(paths, (as_uint8(image), colorize(map, colormap), blend), strict=True):
        with replacing(path) as partial, partial.open("wb") as file:
            Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
    return paths
