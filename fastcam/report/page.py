"""Pages that need nothing but themselves: templates, pictures as text, a policy that lets nothing else in, and charts.

Templates get charts as numbers: bars, and the cells of the matrix of confusion.
"""

import base64
import hashlib
import mimetypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import jinja2
import numpy as np
from markupsafe import Markup

from fastcam._files import replacing
from fastcam._version import __version__

WIDTH, HEIGHT = 400, 160  # of a chart's area, in units of its own
_TEMPLATES = Path(__file__).parent / "templates"
_MATRIX = 24  # classes that still make a readable matrix
_PAIRS = 20
_SHADES = 10


def write(
    path: str | os.PathLike[str],
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str] = (),
    **values: object,
) -> Path:
    """Render a template into an HTML file, piece by piece, so that iterators among the values may be long.

    Every value is escaped. The template gets `style` and `script`, too, which are the named files among the templates
    joined, and `policy`, a Content-Security-Policy by which the browser runs this script and this style alone, shows
    pictures only that are in the page, and connects to nothing. A value NaN, which JSON does not have, is a ValueError.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    style, script = ("".join((_TEMPLATES / name).read_text("utf-8") for name in names) for names in (styles, scripts))
    policy = [
        "default-src 'none'",
        "img-src data:",
        f"style-src '{_digest(style)}'",
        f"script-src '{_digest(script)}'" if script else "script-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",  # and no policy is made: what turns text into markup throws
    ]
    stream = environment.get_template(template).stream(
        values | {"style": Markup(style), "script": Markup(script), "policy": "; ".join(policy), "version": __version__}
    )
    with replacing(path) as partial, partial.open("wb") as file:
        stream.dump(file, "utf-8")
    return Path(path)


def embed(image: np.ndarray, quality: int = 90) -> str:
    """A picture, RGB, uint8 [H, W, 3], as a data URL of a JPEG."""
    _, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _data_url("image/jpeg", data.tobytes())


def embed_file(path: Path) -> str:
    """A picture file as a data URL; its suffix says what it is."""
    return _data_url(mimetypes.guess_type(path.name)[0] or "image/png", path.read_bytes())


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode('ascii')}"


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


@dataclass(frozen=True)
class ConfusionCell:
    """A field of the matrix of confusion.

    Attributes:
        found: place of the class in the list of classes, -1 for another one than the table has.
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

    `parts` has the counts of the bins by name, stacked, the first at the bottom. Gives the bars that are not empty, and
    the largest column's count.
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


def matrix(confusion: Mapping[tuple[int, int], int]) -> tuple[list[int], list[tuple[int, list[ConfusionCell]]]] | None:
    """Lay out the matrix of confusion, of which `confusion` has the pictures by label and class.

    Gives the classes of the columns, and for each label its cells; None if they would be too many to read.
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
            ConfusionCell(found, count, -(-_SHADES * count // total), found == label)
            for found, count in zip(columns, counts, strict=True)
        ]
        rows.append((label, cells))
    return columns, rows


def confused(confusion: Mapping[tuple[int, int], int]) -> list[tuple[int, int, int, float]]:
    """Label, class, pictures, and their share of the label's pictures, of pairs that differ, most pictures first."""
    totals: dict[int, int] = {}
    for (label, _), count in confusion.items():
        totals[label] = totals.get(label, 0) + count
    pairs = [(label, found, count, count / totals[label]) for (label, found), count in confusion.items()]
    return sorted((pair for pair in pairs if pair[0] != pair[1]), key=lambda pair: (-pair[2], *pair[:2]))[:_PAIRS]
