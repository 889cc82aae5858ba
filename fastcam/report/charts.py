"""Numbers of a run as the template draws them: stacked bars and the table of confusion."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 400, 160  # of a chart's area, in units of its own
_MATRIX = 24  # classes that still make a readable matrix
_PAIRS = 20
_SHADES = 10


class Bar(NamedTuple):
    """A part of a column.

    Attributes:
        x, y, width, height: where it is, in units of the chart, from the top left.
        kind: which part, the name of its colour.
        text: what it says when it is pointed at.
    """

    x: float
    y: float
    width: float
    height: float
    kind: str
    text: str


class Cell(NamedTuple):
    """A field of the matrix of confusion.

    Attributes:
        found: place of the class in the list of classes, -1 for another one than the table tells.
        count: pictures.
        shade: 0 to 10, their share in the row.
        right: whether the class is that of the label.
    """

    found: int
    count: int
    shade: int
    right: bool


def bars(parts: Mapping[str, Sequence[int]]) -> tuple[list[Bar], int]:
    """Draw a histogram over [0, 1].

    Args:
        parts: name → counts of the bins, all of one length; they are stacked, the first at the bottom.

    Returns:
        The bars that are not empty, and the largest column's count.
    """
    counts = np.array(list(parts.values()))
    bins, top = counts.shape[1], int(counts.sum(0).max())
    drawn = []
    for index in range(bins):
        floor = 0
        for kind, count in zip(parts, counts[:, index].tolist(), strict=True):
            if count:
                x, width = index * WIDTH / bins, WIDTH / bins
                height = HEIGHT * count / top
                y = HEIGHT * (1 - floor / top) - height
                text = f"{index / bins:.2f}–{(index + 1) / bins:.2f}: {count:,}" + (f" {kind}" if kind else "")
                drawn.append(Bar(round(x + 1, 2), round(y, 2), round(width - 2, 2), round(height, 2), kind, text))
                floor += count
    return drawn, top


def matrix(confusion: Mapping[tuple[int, int], int]) -> tuple[list[int], list[tuple[int, list[Cell]]]] | None:
    """Lay out the matrix of confusion.

    Args:
        confusion: (label, class) → pictures.

    Returns:
        The classes of the columns, and for each label its cells; None if they would be too many to read.
    """
    labels = sorted({label for label, _ in confusion})
    columns = sorted({found for _, found in confusion if found >= 0} | set(labels))
    if len(columns) > _MATRIX:
        return None
    if any(found < 0 for _, found in confusion):
        columns.append(-1)
    rows = []
    for label in labels:
        counts = [confusion.get((label, found), 0) for found in columns]
        total = sum(counts)
        cells = [
            Cell(found, count, -(-_SHADES * count // total), found == label)
            for found, count in zip(columns, counts, strict=True)
        ]
        rows.append((label, cells))
    return columns, rows


def confused(confusion: Mapping[tuple[int, int], int]) -> list[tuple[int, int, int, float]]:
    """List what is confused most.

    Args:
        confusion: (label, class) → pictures.

    Returns:
        Label, class, pictures, and their share of the label's pictures, of pairs that differ, most pictures first.
    """
    totals: dict[int, int] = {}
    for (label, _), count in confusion.items():
        totals[label] = totals.get(label, 0) + count
    pairs = [(label, found, count, count / totals[label]) for (label, found), count in confusion.items()]
    return sorted((pair for pair in pairs if pair[0] != pair[1]), key=lambda pair: (-pair[2], *pair[:2]))[:_PAIRS]
