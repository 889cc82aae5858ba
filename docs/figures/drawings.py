"""Draws the diagrams of the pages on design, as SVG in the colours of the page that they stand in.

    python docs/figures/drawings.py

What can be computed is: maps, masks, runs and levels are those of a small map, by NumPy.
"""

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
TEXT, FAINT = "currentColor", "var(--color-foreground-muted, #888)"
ACCENT, WARM, COOL = "var(--color-brand-primary, #2962ff)", "#e8710a", "#12939a"
LOW, SIZE = 7, 224


class Drawing:
    """Shapes and text, written as an SVG."""

    def __init__(self, name: str, width: int, height: int, title: str) -> None:
        self.name, self.width, self.height = name, width, height
        self.parts = [f"<title>{escape(title)}</title>"]

    def rect(
        self, x: float, y: float, w: float, h: float, fill: str = "none", opacity: float = 1.0, **more: object
    ) -> None:
        """A rectangle; keywords are attributes, `stroke_width` among them."""
        given = {"rx": 0, "stroke": "none"} | more
        named = "".join(f' {key.replace("_", "-")}="{value}"' for key, value in given.items())
        fill = f' fill="{fill}"' + (f' fill-opacity="{opacity:.2f}"' if opacity < 1 else "")
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}"{fill}{named}/>')

    def text(
        self, x: float, y: float, text: str, size: int = 13, anchor: str = "middle", fill: str = TEXT, weight: int = 400
    ) -> None:
        """Lines of text; the first one's baseline is at y."""
        for number, line in enumerate(text.split("\n")):
            place = f'x="{x:g}" y="{y + number * size * 1.3:g}" text-anchor="{anchor}"'
            look = f'font-size="{size}" fill="{fill}" font-weight="{weight}"'
            self.parts.append(f"<text {place} {look}>{escape(line)}</text>")

    def path(
        self,
        points: Sequence[tuple[float, float]],
        stroke: str = TEXT,
        width: float = 1.3,
        dash: str = "",
        arrow: bool = False,
    ) -> None:
        """A line through points, with an arrow at its end if wanted."""
        d = "M" + "L".join(f"{x:g} {y:g}" for x, y in points)
        more = f' stroke-dasharray="{dash}"' if dash else ""
        more += f' marker-end="url(#{self.name}-tip)"' if arrow else ""
        self.parts.append(f'<path d="{d}" fill="none" stroke="{stroke}" stroke-width="{width}"{more}/>')

    def box(self, x: float, y: float, w: float, h: float, title: str, below: str = "", colour: str = ACCENT) -> None:
        """A box with a title and smaller lines."""
        self.rect(x, y, w, h, colour, 0.12, stroke=colour, stroke_width=1.3, rx=6)
        lines = below.count("\n") + 1 if below else 0
        top = y + h / 2 - (lines * 15 - 10) / 2
        self.text(x + w / 2, top, title, 13, weight=600)
        if below:
            self.text(x + w / 2, top + 17, below, 11)

    def write(self) -> None:
        """Write the file."""
        tip = (
            f'<defs><marker id="{self.name}-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0L8 4L0 8z" fill="{TEXT}"/></marker></defs>'
        )
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" role="img" '
            f'class="drawing" font-family="inherit" style="max-width: {self.width}px; width: 100%; height: auto">'
        )
        (HERE / f"{self.name}.svg").write_text("\n".join([head, tip, *self.parts, "</svg>"]) + "\n", encoding="utf-8")


def example() -> np.ndarray:
    """A coarse map with two objects, float32 [7, 7]."""
    y, x = np.mgrid[:LOW, :LOW].astype(np.float32)
    bright = np.exp(-((x - 2) ** 2 + (y - 2.4) ** 2) / 2.2) + 0.62 * np.exp(-((x - 5) ** 2 + (y - 5) ** 2) / 0.8)
    return bright.astype(np.float32)


def taps(size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bilinear samples and weights: first and second sample, weight of the second."""
    place = np.maximum((np.arange(out) + 0.5) * size / out - 0.5, 0)
    first = np.minimum(place.astype(int), size - 1)
    return first, np.minimum(first + 1, size - 1), place - first


def rows_of(coarse: np.ndarray) -> np.ndarray:
    """Coarse rows expanded to full width: [7, 224]."""
    left, right, weight = taps(LOW, SIZE)
    return coarse[:, left] * (1 - weight) + coarse[:, right] * weight


def picture_of(rows: np.ndarray) -> np.ndarray:
    """The enlarged map: [224, 224]."""
    above, below, weight = taps(LOW, SIZE)
    return rows[above] * (1 - weight)[:, None] + rows[below] * weight[:, None]


def runs_of(row: np.ndarray) -> list[tuple[int, int]]:
    """Stretches of set pixels, half-open."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return [(int(start), int(end)) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def outline(
    drawing: Drawing, mask: np.ndarray, x: float, y: float, scale: float, step: int, colour: str, opacity: float = 1.0
) -> None:
    """A mask as one bar for each run of every `step`th row."""
    for row in range(0, SIZE, step):
        for start, end in runs_of(mask[row + step // 2]):
            drawing.rect(x + start * scale, y + row * scale, (end - start) * scale, step * scale, colour, opacity)


def chain() -> None:
    """From activations to a box."""
    drawing = Drawing("class-boxes", 860, 215, "Activations, coarse map, mask, runs and box")
    coarse = example()
    picture = picture_of(rows_of(coarse))
    mask = (picture - picture.min()) / (picture.max() - picture.min()) > 0.2
    side, top, pitch = 126, 34, 180
    for layer in range(5, -1, -1):
        drawing.rect(8 + 5 * layer, top + 5 * layer, 96, 96, ACCENT, 0.16, stroke=ACCENT, stroke_width=0.8)
    drawing.text(70, top + 150, "activations\n[K, 7, 7]", 12)
    x = pitch
    cell = side / LOW
    for i in range(LOW):
        for j in range(LOW):
            drawing.rect(x + j * cell, top + i * cell, cell, cell, WARM, float(max(coarse[i, j] / coarse.max(), 0.01)))
    drawing.rect(x, top, side, side, stroke=TEXT, stroke_width=1)
    drawing.text(x + side / 2, top + 150, "weighted sum\nover channels", 12)
    x += pitch
    outline(drawing, mask, x, top, side / SIZE, 4, WARM, 0.85)
    drawing.rect(x, top, side, side, stroke=TEXT, stroke_width=1)
    drawing.text(x + side / 2, top + 150, "one bit a pixel:\nabove the threshold?", 12)
    x += pitch
    ys, xs = np.nonzero(mask)
    for row in range(4, SIZE, 8):
        for start, end in runs_of(mask[row]):
            colour = WARM if start < 140 and row < 150 else COOL
            drawing.rect(
                x + start * side / SIZE, top + row * side / SIZE - 1.6, (end - start) * side / SIZE, 3.2, colour, rx=1.5
            )
    drawing.rect(x, top, side, side, stroke=TEXT, stroke_width=1)
    drawing.text(x + side / 2, top + 150, "runs of set pixels,\njoined to components", 12)
    x += pitch
    first = np.zeros_like(mask)
    first[:150, :150] = mask[:150, :150]
    ys, xs = np.nonzero(first)
    drawing.rect(x, top, side, side, stroke=TEXT, stroke_width=1)
    outline(drawing, first, x, top, side / SIZE, 4, WARM, 0.35)
    left, upper = xs.min() * side / SIZE, ys.min() * side / SIZE
    wide, high = (xs.max() + 1) * side / SIZE - left, (ys.max() + 1) * side / SIZE - upper
    drawing.rect(x + left, top + upper, wide, high, stroke=ACCENT, stroke_width=2.4)
    drawing.text(x + side / 2, top + 150, "the largest\none's box", 12)
    for number in range(4):
        begin = (132 if number == 0 else pitch * number + side) + 8
        drawing.path([(begin, top + side / 2), (pitch * (number + 1) - 8, top + side / 2)], arrow=True)
    drawing.write()


def words() -> None:
    """Which words of the mask are known from bounds, and which are computed."""
    drawing = Drawing("words", 620, 330, "Half words of the mask that bounds settle, and those that are computed")
    rows = rows_of(example())
    picture = picture_of(rows)
    cut = picture.min() + 0.2 * (picture.max() - picture.min())
    above, below, weight = taps(LOW, SIZE)
    halves = rows.reshape(LOW, -1, 32)
    high, low = halves.max(2), halves.min(2)
    bound = lambda values: values[above] * (1 - weight)[:, None] + values[below] * weight[:, None]  # noqa: E731
    some, every = bound(high) >= cut, bound(low) >= cut
    side, top, x = 280, 22, 10
    scale = side / SIZE
    for half in range(halves.shape[1]):
        for kind, colour, opacity in ((~some, FAINT, 0.18), (every, WARM, 0.75), (some & ~every, ACCENT, 0.75)):
            for start, end in runs_of(kind[:, half]):
                drawing.rect(
                    x + half * 32 * scale, top + start * scale, 32 * scale - 0.8, (end - start) * scale, colour, opacity
                )
    mask = picture >= cut
    for row in range(0, SIZE, 2):
        for start, end in runs_of(mask[row]):
            for edge in (start, end):
                drawing.rect(x + edge * scale - 0.7, top + row * scale, 1.4, 2 * scale, TEXT)
    drawing.rect(x, top, side, side, stroke=TEXT, stroke_width=1)
    shares = {"none": float((~some).mean()), "all": float(every.mean()), "computed": float((some & ~every).mean())}
    legend = (
        (FAINT, 0.3, f"all zeros by the upper bound: {shares['none']:.0%}"),
        (WARM, 0.75, f"all ones by the lower bound: {shares['all']:.0%}"),
        (ACCENT, 0.75, f"computed, 32 pixels at once: {shares['computed']:.0%}"),
    )
    for number, (colour, opacity, words) in enumerate(legend):
        drawing.rect(318, 60 + 30 * number, 16, 16, colour, opacity)
        drawing.text(342, 73 + 30 * number, words, 13, "start")
    drawing.rect(325, 150, 1.6, 16, TEXT)
    drawing.text(342, 163, "edge of the mask", 13, "start")
    drawing.text(
        318,
        206,
        "224 rows of 7 half words; the\nbounds of a half word are mixed\nof those of two coarse rows.",
        12,
        "start",
        FAINT,
    )
    drawing.write()


def block() -> None:
    """A CUDA block's way, barrier by barrier."""
    drawing = Drawing("block", 860, 330, "What the warps of a block do between barriers")
    phases = (
        ("sum", 190, ACCENT, "16 bytes a load;\n4 partial sums of\na position in registers"),
        ("tree", 50, ACCENT, "32 sums\nto one"),
        ("extremes", 100, COOL, "lanes take cells,\nwhere ends suffice"),
        ("cut", 50, COOL, "32 guesses\nat once"),
        ("bits", 150, WARM, "a lane takes a row:\nwhere does its line\ncross the cut?"),
        ("runs", 80, WARM, "prefix sum\nnumbers them"),
        ("join", 100, WARM, "pointer jumping,\natomicMin"),
        ("choose", 70, WARM, "largest;\n4 integers out"),
    )
    left, top, lane = 62, 42, 22
    x = left
    for name, width, colour, words in phases:
        for warp in range(8):
            drawing.rect(
                x + 2, top + warp * lane + 2, width - 4, lane - 4, colour, 0.28, stroke=colour, stroke_width=0.8, rx=3
            )
        drawing.text(x + width / 2, top - 12, name, 13, weight=600)
        drawing.text(x + width / 2, top + 8 * lane + 24, words, 11)
        x += width
        if x < left + 790:
            drawing.path([(x, top - 4), (x, top + 8 * lane + 6)], FAINT, 1.2, "3 3")
    for warp in range(8):
        drawing.text(left - 8, top + warp * lane + 15, f"warp {warp}", 11, "end", FAINT)
    drawing.path([(left, 290), (left + 240, 290)], arrow=True)
    drawing.text(left, 308, "activations: read once from memory", 12, "start")
    drawing.path([(left + 250, 290), (left + 788, 290)], arrow=True)
    drawing.text(left + 250, 308, "coarse map, bits and runs: in shared memory; dashed lines are barriers", 12, "start")
    drawing.write()


def levels() -> None:
    """A row of pixels at all levels, and the tree of its regions."""
    drawing = Drawing("levels", 720, 330, "Regions begin, grow and join as the level falls")
    values = np.array([1, 2, 4, 6, 7, 6, 4, 3, 5, 8, 9, 8, 5, 2, 1, 2, 5, 6, 5, 3, 2, 1])
    colours = (ACCENT, WARM, COOL)
    cell, top, left, high = 18, 24, 62, 27
    branch = np.full(len(values), -1)
    peaks: list[int] = []
    joins: list[tuple[int, int, int]] = []  # level, younger, elder
    for level in range(9, 0, -1):
        for start, end in runs_of(values >= level):
            inside = sorted({int(b) for b in branch[start:end] if b >= 0}, key=lambda b: -values[peaks[b]])
            if not inside:
                peaks.append(start + int(values[start:end].argmax()))
                inside = [len(peaks) - 1]
            joins += [(level, younger, inside[0]) for younger in inside[1:]]
            branch[start:end] = inside[0]
            y = top + (9 - level) * high
            drawing.rect(
                left + start * cell, y + 4, (end - start) * cell - 2, high - 8, colours[inside[0] % 3], 0.8, rx=4
            )
        drawing.text(left - 12, top + (9 - level) * high + 18, f"{level}", 12, "end", FAINT)
    drawing.text(left - 40, top + 4.5 * high, "level", 12, "middle", FAINT)
    base = top + 9 * high + 8
    for i, value in enumerate(values):
        drawing.text(left + i * cell + cell / 2 - 1, base + 14, str(value), 12)
    drawing.text(
        left + len(values) * cell / 2, base + 38, "a row of pixels, 8-bit levels in truth", 12, "middle", FAINT
    )
    begin, pitch = 515, 62
    ends = {younger: level for level, younger, _ in joins}
    for number, peak in enumerate(peaks):
        x = begin + number * pitch
        y0, y1 = top + (9 - values[peak]) * high + high / 2, top + (9 - ends.get(number, 1)) * high + high / 2
        drawing.path([(x, y0), (x, y1)], colours[number % 3], 4)
        drawing.text(x, y0 - 9, f"peak {values[peak]}", 12)
    for level, younger, elder in joins:
        y = top + (9 - level) * high + high / 2
        drawing.path([(begin + younger * pitch, y), (begin + elder * pitch, y)], TEXT, 1.6, arrow=True)
    drawing.text(begin + pitch, base + 14, "where two meet, the elder goes on", 12, "middle", FAINT)
    drawing.write()


def flow() -> None:
    """The one way of data."""
    drawing = Drawing("flow", 860, 250, "From pictures to boxes, figures and exports")
    stations = (
        ("pictures", "find, decode,\nturn upright", COOL),
        ("data", "samples:\npicture, truth", COOL),
        ("frame", "to the network's\nsquare", COOL),
        ("observe", "one forward pass,\nfeatures kept", ACCENT),
        ("method", "weights for\nthe channels", ACCENT),
        ("ops", "sum → box,\nfused", WARM),
    )
    wide, pitch = 118, 146
    for number, (name, below, colour) in enumerate(stations):
        drawing.box(6 + number * pitch, 24, wide, 78, name, below, colour)
        if number:
            drawing.path([(6 + (number - 1) * pitch + wide + 3, 63), (6 + number * pitch - 4, 63)], arrow=True)
    results = (
        ("run", "boxes.parquet,\nresumable", 5),
        ("evaluation", "protocols → figures\nand intervals", 3.65),
        ("export, report", "COCO, YOLO, HTML,\npseudo-labels", 2.3),
    )
    for number, (name, below, place) in enumerate(results):
        drawing.box(6 + place * pitch, 156, 152 if number else wide, 78, name, below, TEXT if number else WARM)
    drawing.path([(6 + 5 * pitch + wide / 2, 105), (6 + 5 * pitch + wide / 2, 152)], arrow=True)
    drawing.path([(6 + 5 * pitch - 3, 195), (6 + 3.65 * pitch + 156, 195)], arrow=True)
    drawing.path(
        [
            (6 + 5 * pitch - 3, 222),
            (6 + 5 * pitch - 22, 222),
            (6 + 5 * pitch - 22, 243),
            (6 + 2.3 * pitch + 76, 243),
            (6 + 2.3 * pitch + 76, 237),
        ],
        arrow=True,
    )
    drawing.write()


def proof() -> None:
    """What is compared with what."""
    drawing = Drawing("proof", 860, 330, "One specification, its implementations, and what they are compared with")
    drawing.box(300, 8, 260, 56, "the specification", "exact.h: each operation and its rounding", ACCENT)
    row = (
        (6, "portable C++", "every processor"),
        (178, "AVX2", "8 floats at once"),
        (350, "AVX-512", "16 floats at once"),
        (522, "CUDA source", "on the host: threads\nas fibers, any order"),
        (694, "GPU machine code", "what ptxas made, run\nby a simulator"),
    )
    for x, name, below in row:
        drawing.box(x, 120, 160, 70, name, below, WARM)
        drawing.path([(430, 66), (x + 80, 116)], FAINT, 1.1, arrow=True)
    for x in (166, 338, 510, 682):
        drawing.text(x + 6, 160, "=", 20, weight=700, fill=ACCENT)
    drawing.text(430, 216, "the same bits: NaN, infinities, all 65,536 masks of 4×4, every option", 12, "middle", FAINT)
    drawing.path([(430, 226), (430, 250)], FAINT, 1.2, "3 3")
    oracles = (
        (6, "plain twins", "PyTorch and NumPy"),
        (178, "OpenCV", "contours, areas, resizing"),
        (350, "SciPy", "labels, holes"),
        (522, "grad-cam, captum,\ntorchcam", ""),
        (694, "by hand", "worked-out cases,\nplanted truth"),
    )
    for x, name, below in oracles:
        drawing.box(x, 256, 160, 64, name, below, COOL)
    drawing.write()


DRAWINGS: tuple[Callable[[], None], ...] = (chain, words, block, levels, flow, proof)

if __name__ == "__main__":
    for draw in DRAWINGS:
        draw()
