"""The table of a comparison: printed, as Markdown and JSON, and drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from fastcam import drawing
from fastcam._files import replacing
from fastcam.data import Collection
from fastcam.drawing import Cell
from fastcam.evaluation.gallery import boxes_at
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.result import Result
from fastcam.evaluation.sources import Loaded
from fastcam.pictures import as_rgb

_FIGURES = ("Top-1 Cls", "Top-1 Loc", "GT-known Loc", "MaxBoxAcc", "MaxBoxAccV2", "PxAP")
_DRAWN = {"Top-1 Loc": "tab:red", "GT-known Loc": "tab:blue", "MaxBoxAccV2": "tab:green", "PxAP": "tab:purple"}


class Entry(NamedTuple):
    """What one row measured.

    Attributes:
        name: of the row.
        result: all that was measured of it.
        own: seconds that its maps took beyond what is shared.
        alone: seconds that its maps would have taken alone: its own and all shared parts it needs.
        shares: names of these parts.
    """

    name: str
    result: Result
    own: float
    alone: float
    shares: tuple[str, ...]


class Comparison(NamedTuple):
    """Several methods on one network and data set.

    Attributes:
        entries: the rows, in the order that was asked for.
        shared: name → seconds of what several rows share.
        protocol: by which all rows are measured.
        threshold: τ of GT-known Loc and Top-1 Loc; None for each row's own, the best one for MaxBoxAcc.
        pas_percentile: of rows with "+pas".
        bad: (id, reason) of each picture left out.
    """

    entries: tuple[Entry, ...]
    shared: dict[str, float]
    protocol: Protocol
    threshold: float | None
    pas_percentile: float
    bad: tuple[tuple[str, str], ...]

    @property
    def pictures(self) -> int:
        """How many pictures were measured."""
        return max(self.entries[0].result.counts.values())

    def chosen(self, entry: Entry) -> float:
        """Tell τ of a row's GT-known Loc and Top-1 Loc.

        Args:
            entry: one of `entries`.

        Returns:
            `threshold`, else the best one for MaxBoxAcc where that was measured, else the protocol's.
        """
        result = entry.result
        return result.best_thresholds.get("MaxBoxAcc", result.threshold) if self.threshold is None else self.threshold

    def figures(self, entry: Entry) -> dict[str, float]:
        """Give the figures of a row.

        Args:
            entry: one of `entries`.

        Returns:
            Name → percent, those of the table that were measured.
        """
        found = entry.result.figures | entry.result.at(self.chosen(entry))
        return {name: found[name] for name in _FIGURES if name in found}

    def to_dict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dictionaries, for compare.json.

        Returns:
            Protocol, pictures, seconds and rows; a row has its figures, thresholds and 95 % intervals.
        """
        rows = []
        for entry in self.entries:
            # Those at a threshold are the evaluator's own τ, so that another one has none.
            figures = self.figures(entry)
            intervals = {
                n: list(r) for n, r in entry.result.intervals.items() if entry.result.figures[n] == figures.get(n)
            }
            rows.append(
                {
                    "name": entry.name,
                    "figures": figures,
                    "threshold": self.chosen(entry),
                    "best_thresholds": entry.result.best_thresholds,
                    "intervals": intervals,
                    "percentile": entry.result.protocol.percentile,
                    "seconds": {"own": entry.own, "alone": entry.alone, "shares": list(entry.shares)},
                }
            )
        return {
            "protocol": self.protocol._asdict(),
            "pictures": self.pictures,
            "threshold": self.threshold,
            "seconds": self.shared,
            "rows": rows,
            "note": self.notes(),
            "bad": [list(entry) for entry in self.bad],
        }

    def table(self) -> list[str]:
        """The rows as aligned text.

        Returns:
            Lines, with notes below.
        """
        cells = self._cells()
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in cells
        ]
        return [*lines, "", *self.notes()]

    def markdown(self) -> list[str]:
        """The rows as a Markdown table.

        Returns:
            Lines, with notes below.
        """
        head, *rows = self._cells()
        rule = ["---", *["---:"] * (len(head) - 1)]
        return [f"| {' | '.join(row)} |" for row in (head, rule, *rows)] + ["", *(f"{note}  " for note in self.notes())]

    def notes(self) -> list[str]:
        """What one must know to read the table.

        Returns:
            Sentences.
        """
        own = "the row's own best τ for MaxBoxAcc, an oracle for these pictures"
        at = own if self.threshold is None else f"τ = {self.threshold:g}"
        lines = [f"{self.pictures} pictures, protocol {self.protocol.name}. GT-known Loc and Top-1 Loc at {at}."]
        names = [entry.name.split("+") for entry in self.entries]
        if any("pas" in name for name in names):
            lines.append(f"+pas: τ of the {self.pas_percentile:g}th percentile of the map, elsewhere of its maximum.")
        if any("tap" in name for name in names):
            lines.append("+tap: the pooling is exchanged without training for it; CAM's map of a class stays the same.")
        shared = ", ".join(f"{part} {seconds:.2f}" for part, seconds in self.shared.items())
        lines.append("Own ms: of a picture's map, beyond what rows share. Seconds: of all maps, with it.")
        lines.append(f"Seconds of what is shared: {shared}.")
        return lines

    def _cells(self) -> list[list[str]]:
        figures = [self.figures(entry) for entry in self.entries]
        names = [name for name in _FIGURES if any(name in found for found in figures)]
        head = ["row", *names, "τ", "own ms", "seconds"]
        return [head] + [
            [
                entry.name,
                *(f"{found[name]:.2f}" if name in found else "–" for name in names),
                f"{self.chosen(entry):.3f}",
                f"{1000 * entry.own / self.pictures:.2f}",
                f"{entry.alone:.2f}",
            ]
            for entry, found in zip(self.entries, figures, strict=True)
        ]


def draw_figure(comparison: Comparison, path: Path) -> None:
    """Draw the rows' figures as dots. The path's suffix chooses the format."""
    entries = comparison.entries
    # A Figure of its own, not pyplot's: no global state, no window system, safe in any thread.
    figure = Figure(figsize=(7.5, 1.3 + 0.3 * len(entries)), dpi=110, layout="constrained")
    axes = figure.subplots()
    for name, color in _DRAWN.items():
        found = [(comparison.figures(entry).get(name), place) for place, entry in enumerate(entries)]
        found = [(value, place) for value, place in found if value is not None]
        if found:
            axes.plot(*zip(*found, strict=True), "o", color=color, markersize=6, label=name)
    axes.set_yticks(range(len(entries)), [entry.name for entry in entries])
    axes.invert_yaxis()
    axes.set_xlabel("%")
    axes.legend(frameon=False, fontsize=9, ncols=len(_DRAWN), loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png")


def draw_maps(
    comparison: Comparison,
    data: Collection,
    pictures: Sequence[tuple[Loaded[np.ndarray], Sequence[Tensor]]],
    path: Path,
) -> None:
    """Draw pictures in rows, with the maps of all methods over them and boxes: predicted red, true green.

    Each picture has one finished map [H, W] for each entry.
    """
    rows: list[list[Cell]] = []
    for one, maps in pictures:
        protocol, (boxes, size) = comparison.protocol, (one.truth.boxes, one.truth.size)
        picture = protocol.frame(as_rgb(data[one.place].image))
        truth = () if boxes is None or size is None else protocol.frame_boxes(boxes, size)
        cells = [Cell(drawing.draw_boxes(picture, truth, drawing.TRUTH), "" if rows else "picture")]
        for entry, map in zip(comparison.entries, maps, strict=True):
            drawn = drawing.draw_boxes(drawing.overlay(picture, map.numpy()), truth, drawing.TRUTH)
            found = boxes_at(entry.result.protocol, map, comparison.chosen(entry))
            cells.append(Cell(drawing.draw_boxes(drawn, found), "" if rows else entry.name))
        rows.append(cells)
    drawing.save(drawing.grid(rows, [one.id for one, _ in pictures], side=1.6), path)
