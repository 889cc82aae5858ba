"""The report of a run of `fastcam localize` as one HTML page."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastcam.data import Dataset
from fastcam.data.pictures import Packed
from fastcam.pictures import quiet_pillow
from fastcam.pictures.stream import in_order
from fastcam.report import charts, page
from fastcam.report.choice import Card, Choice
from fastcam.report.pictures import Album
from fastcam.report.statistics import Statistics, split_error
from fastcam.report.tables import COLUMNS, Table
from fastcam.report.truth import Classes, Truth
from fastcam.runs.folder import RunFolder

_SHOWN = 10  # rows of a picture on its card
_LONG = 300  # characters of a note's value
_CAM = ("cam", "cam_height", "cam_width")

_BEST = {
    "iou": "highest IoU with a true box",
    "label": "right class, highest score first; then wrong class, lowest score first",
    "score": "highest score",
}
_WORST = {
    "iou": "lowest IoU with the true boxes",
    "label": "wrong class, highest score first; then right class, lowest score first",
    "score": "lowest score",
}


class Summary(NamedTuple):
    """What a report shows.

    Attributes:
        path: the page.
        pictures: how many pictures the run has.
        errors: how many of them failed.
        labelled: how many have a label.
        cards: how many are shown.
        thumbnails: how many of these with a picture.
        complete: False if the run is not finished.
        earlier: whether another run has begun in its folder since, whose table is not there yet.
    """

    path: Path
    pictures: int
    errors: int
    labelled: int
    cards: int
    thumbnails: int
    complete: bool
    earlier: bool


def write_report(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    data: Dataset | None = None,
    folder_labels: bool | None = None,
    per_class: int = 12,
    pictures: int = 300,
) -> Summary:
    """Write what came out of a run as one HTML page that needs nothing else.

    Counts, errors by code, histograms of scores and box sizes, confusion of classes where labels are known, and a
    gallery by class: the best, worst, least sure and wrong pictures and the errors, with maps where the run kept them.
    The table is read in one pass and the rows of the chosen pictures in a second; memory does not grow with it, but for
    what is known of the pictures.

    Args:
        run: folder of the run (its boxes.parquet, or the finished shards of one that broke off), or such a table.
        out: HTML file, replaced if it is there; by default report.html beside the table.
        images: folder that the run's ids are relative to, for small pictures in the page; by default pictures are where
            the run's list of inputs has them, or else `data`.
        data: data set with labels or true boxes of these pictures, see `Truth.of_data` for how ids meet.
        folder_labels: take the names of the folders that pictures lie in as their labels, if there is no `data`; by
            default where at least half of the pictures lie in a folder called like a class that the run found.
        per_class: how many of the best, worst and least sure pictures of each class, of wrong ones of each pair of
            classes and of errors of each code get a card, as far as there are not more than 10,000.
        pictures: at most this many cards, the first of each kind, get a small picture; about 20 kB each, 30 kB with a
            map. The others show their boxes in an empty frame.

    Returns:
        Where the page is and what is in it.

    Raises:
        FileNotFoundError: there is no run, or no folder `images`.
        ValueError: the table has not the columns of `fastcam localize`, it and `data` have no picture in common or
            nothing tells which, a number is out of range, or `out` is no .html file.
        OSError: the page cannot be written.
    """
    for name, number, least in (("per_class", per_class, 1), ("pictures", pictures, 0)):
        if not isinstance(number, int) or number < least:
            raise ValueError(f"`{name}` must be a whole number of at least {least}, got {number!r}")
    table = Table(run)
    path = RunFolder(table.folder).report if out is None else Path(out)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"`out` must be an .html file, got {path}")
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")

    found = table.classes()
    truth = None
    if data is not None:
        truth = Truth.of_data(data, table.ids(), table.places())
    elif folder_labels is not False:
        truth = Truth.of_folders(table.ids(), found.values(), always=folder_labels is True)
    count = table.info.get("num_classes")
    classes, choice = Classes(found, truth, count if isinstance(count, int) else None), Choice(per_class)
    statistics = Statistics(table, classes, truth, choice)
    cards = choice.cards()
    described = _describe(table, cards, classes, truth)
    # What has no size was never decoded.
    pictured = sorted((index for index, facts in enumerate(described) if facts["size"]), key=lambda i: cards[i].place)
    pictured = sorted(pictured[:pictures])
    files: Mapping[str, Path | Packed] = {}
    if images is None:
        files = table.places([described[index]["id"] for index in pictured]) or (truth.files if truth else {})
    album = Album(images and Path(images), files, table.info)
    drawn = _Drawn(table, album, {index: cards[index] for index in pictured})
    page.write(
        path,
        "report.html",
        styles=["base.css", "report.css"],
        scripts=["report.js"],
        title=f"fastcam report: {table.folder.resolve().name}",
        complete=table.complete,
        earlier=table.earlier,
        summary=_summary(statistics),
        notes=_notes(table, statistics),
        errors=[(code, count, statistics.examples[code]) for code, count in statistics.errors.most_common()],
        charts=_charts(statistics),
        names=classes.names,
        labels=truth and truth.source,
        boxed=bool(truth and truth.boxes),
        matrix=charts.matrix(statistics.confusion),
        confused=charts.confused(statistics.confusion),
        found=_by_name(statistics.found, classes),
        labelled=_by_name(_labelled(statistics), classes),
        filters=_filters(statistics, cards),
        data={"names": classes.names, "cards": described},
        drawn=drawn,
        maps="cam" in table.columns,
    )
    labelled = sum(statistics.confusion.values())
    counts = statistics.pictures, statistics.errors.total(), labelled, len(cards), drawn.number
    return Summary(path, *counts, table.complete, table.earlier)


class _Drawn:
    """The small pictures of cards, one at a time: number of the card, picture, and map over it."""

    def __init__(self, table: Table, album: Album, cards: dict[int, Card]) -> None:
        self._table, self._album, self._cards = table, album, cards
        self.number = 0

    def __iter__(self) -> Iterator[tuple[int, str | None, str | None]]:
        first = np.array([card.first for card in self._cards.values()], np.int64)
        rows = self._table.pictures(first, np.ones_like(first), [*COLUMNS, *self._table.extra(*_CAM)])
        jobs = ((row,) for (row,) in rows)
        with quiet_pillow(), ThreadPoolExecutor(min(8, os.cpu_count() or 1), "fastcam-report") as pool:
            for index, drawn in zip(self._cards, in_order(pool, self._album.draw, jobs, 32), strict=True):
                self.number += drawn[0] is not None
                yield index, *drawn


def _describe(table: Table, cards: list[Card], classes: Classes, truth: Truth | None) -> list[dict[str, Any]]:
    """What the page's script needs to know of each card."""
    first, count = (np.array([getattr(card, name) for card in cards], np.int64) for name in ("first", "count"))
    described = []
    known = [*COLUMNS, *table.extra("orientation")]
    for card, rows in zip(cards, table.pictures(first, np.minimum(count, _SHOWN), known), strict=True):
        head = rows[0]
        size = [head["width"], head["height"]] if head["width"] and head["height"] else None
        label = truth and classes.of_label.get(truth.labels.get(head["image_id"]))
        turned = head["orientation"] or 1 if "orientation" in head else None
        true = truth.boxes_in(head["image_id"], size, turned).tolist() if truth and size else []
        code, message = split_error(head["error"])
        described.append(
            {
                "id": head["image_id"],
                "size": size,
                "kinds": card.kinds,
                "label": label,
                "rows": [_line(row, classes) for row in rows if row["status"] == "ok"],
                "truth": [[round(edge, 1) for edge in box] for box in true],
                "quality": card.quality,
                "margin": card.margin,
                "iou": card.iou,
                "error": None if head["status"] == "ok" else [code, message],
            }
        )
    return described


def _line(row: dict[str, Any], classes: Classes) -> list[Any]:
    """Class, score, rank and box of a row; what is unknown, or no number, is None."""
    box = [row[edge] for edge in ("x0", "y0", "x1", "y1")]
    sound = all(edge is not None and math.isfinite(edge) for edge in box) and box[2] > box[0] and box[3] > box[1]
    score = row["score"]
    return [
        classes.of_class.get(row["class_id"]),
        round(score, 6) if score is not None and math.isfinite(score) else None,
        row["rank"],
        [round(edge, 1) for edge in box] if sound else None,
    ]


def _summary(statistics: Statistics) -> dict[str, str]:
    failed, labelled = statistics.errors.total(), sum(statistics.confusion.values())
    tiles = {
        "pictures": f"{statistics.pictures:,}",
        "errors": f"{failed:,}",
        "rows": f"{statistics.rows:,}",
        "classes found": f"{len(statistics.found):,}",
    }
    if statistics.empty:
        tiles["rows without a box"] = f"{statistics.empty:,}"
    if labelled:
        right = sum(count for (label, found), count in statistics.confusion.items() if label == found)
        tiles[f"class right, of {labelled:,}"] = f"{100 * right / labelled:.1f} %"
    if len(statistics.ious):
        tiles[f"box right (IoU ≥ 0.5), of {len(statistics.ious):,}"] = f"{100 * np.mean(statistics.ious >= 0.5):.1f} %"
    return tiles


def _notes(table: Table, statistics: Statistics) -> list[tuple[str, str]]:
    notes = {"files": ", ".join(file.name for file in table.files)} | table.info
    if statistics.decoders:
        notes["decoded by"] = ", ".join(f"{name}: {count:,}" for name, count in statistics.decoders.most_common())
    if statistics.turned:
        notes["turned upright"] = f"{statistics.turned:,} pictures"
    texts = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in notes.items()]
    return [(name, text if len(text) <= _LONG else text[:_LONG] + "…") for name, text in texts]


def _charts(statistics: Statistics) -> list[dict[str, Any]]:
    wrong, right, unknown = statistics.scores.tolist()
    scores = {"right": right, "wrong": wrong} | ({"": unknown} if sum(unknown) else {})
    made = []
    for title, axis, parts in (
        ("Score of the first class", "probability", scores if sum(right + wrong) else {"": unknown}),
        ("Size of boxes", "share of the picture's area", {"": statistics.areas.tolist()}),
    ):
        drawn, top = charts.bars(parts)
        total = sum(map(sum, parts.values()))
        made.append({"title": title, "axis": axis, "bars": drawn, "top": top, "total": total, "parts": list(parts)})
    return made


def _labelled(statistics: Statistics) -> dict[int, int]:
    totals: dict[int, int] = {}
    for (label, _), count in statistics.confusion.items():
        totals[label] = totals.get(label, 0) + count
    return totals


def _by_name(counts: Mapping[int, int], classes: Classes) -> list[tuple[int, str, int]]:
    """Place, name and count, by name."""
    return sorted(((place, classes.names[place], count) for place, count in counts.items()), key=lambda item: item[1])


def _filters(statistics: Statistics, cards: list[Card]) -> list[tuple[str, str, str]]:
    """Kind, name and meaning of each filter that has cards, and of the last, that lets all through."""
    unsure = (
        "smallest lead of the first class over the second" if statistics.second else "lowest score of the first class"
    )
    meanings = [
        ("best", "Best", _BEST[statistics.ranked]),
        ("worst", "Worst", _WORST[statistics.ranked]),
        ("uncertain", "Most uncertain", unsure),
        ("wrong", "Wrong class", "the class is not that of the label, highest score first"),
        ("error", "Errors", "pictures that failed"),
    ]
    there = {kind for card in cards for kind in card.kinds}
    return [filter for filter in meanings if filter[0] in there] + [("", "All cards", "in the order of the table")]
