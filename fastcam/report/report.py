"""The report of a run of `fastcam localize` as one HTML page."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastcam import _check
from fastcam.data import Dataset
from fastcam.data.pictures import Packed
from fastcam.data.places import listed_places
from fastcam.report import page
from fastcam.report.cards import Card, Choice, Thumbnails, describe
from fastcam.report.statistics import Statistics
from fastcam.report.truth import Classes, Truth
from fastcam.runs.table import RunTable

_LONG = 300  # characters of a note's value

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


class ReportSummary(NamedTuple):
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
) -> ReportSummary:
    """Write the results of a run as one HTML page that needs nothing else.

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
    _check.whole("per_class", per_class, 1)
    _check.whole("pictures", pictures, 0)
    table = RunTable(run, unfinished=True)
    path = table.folder.report if out is None else Path(out)
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"`out` must be an .html file, got {path}")
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")

    try:
        info, earlier = table.info, table.superseded
    except ValueError:  # odd metadata are left out
        info, earlier = {}, False
    found = dict(table.classes())
    truth = None
    if data is not None:
        truth = Truth.of_data(data, table.ids(), {} if earlier else listed_places(table))
    elif folder_labels is not False:
        truth = Truth.of_folders(table.ids(), found.values(), always=folder_labels is True)
    count = info.get("num_classes")
    classes, choice = Classes(found, truth, count if isinstance(count, int) else None), Choice(per_class)
    statistics = Statistics(table, classes, truth, choice)
    cards = choice.cards()
    described = describe(table, cards, classes, truth)
    # What has no size was never decoded.
    pictured = sorted((index for index, facts in enumerate(described) if facts["size"]), key=lambda i: cards[i].place)
    pictured = sorted(pictured[:pictures])
    files: Mapping[str, Path | Packed] = {}
    if images is None:
        ids = [described[index]["id"] for index in pictured]
        files = ({} if earlier else listed_places(table, ids)) or (truth.files if truth else {})
    root = None if images is None else Path(images)
    drawn = Thumbnails(table, {index: cards[index] for index in pictured}, root, files, info)
    page.write(
        path,
        "report.html",
        styles=["base.css", "report.css"],
        scripts=["report.js"],
        title=f"fastcam report: {table.folder.path.resolve().name}",
        complete=table.complete,
        earlier=earlier,
        summary=_summary(statistics),
        notes=_notes(table, info, statistics),
        errors=[(code, count, statistics.examples[code]) for code, count in statistics.errors.most_common()],
        charts=_charts(statistics, info.get("scores")),
        names=classes.names,
        labels=truth and truth.source,
        boxed=bool(truth and truth.boxes),
        matrix=page.matrix(statistics.confusion),
        confused=page.confused(statistics.confusion),
        found=_by_name(statistics.found, classes),
        labelled=_by_name(_labelled(statistics), classes),
        filters=_filters(statistics, cards),
        data={"names": classes.names, "cards": described},
        drawn=drawn,
        maps=table.has_maps,
    )
    labelled = sum(statistics.confusion.values())
    counts = statistics.pictures, statistics.errors.total(), labelled, len(cards), drawn.number
    return ReportSummary(path, *counts, table.complete, earlier)


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


def _notes(table: RunTable, info: Mapping[str, Any], statistics: Statistics) -> list[tuple[str, str]]:
    notes: dict[str, Any] = {"files": ", ".join(file.name for file in table.files), **info}
    if statistics.decoders:
        notes["decoded by"] = ", ".join(f"{name}: {count:,}" for name, count in statistics.decoders.most_common())
    if statistics.turned:
        notes["turned upright"] = f"{statistics.turned:,} pictures"
    texts = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in notes.items()]
    return [(name, text if len(text) <= _LONG else text[:_LONG] + "…") for name, text in texts]


def _charts(statistics: Statistics, made: Any) -> list[dict[str, Any]]:
    wrong, right, unknown = statistics.scores.tolist()
    scores = {"right": right, "wrong": wrong} | ({"": unknown} if sum(unknown) else {})
    found, by = [], f" ({made})" if made in ("softmax", "sigmoid") else ""
    for title, axis, parts in (
        ("Score of the first class", f"probability{by}", scores if sum(right + wrong) else {"": unknown}),
        ("Size of boxes", "share of the picture's area", {"": statistics.areas.tolist()}),
    ):
        drawn, top = page.bars(parts)
        total = sum(map(sum, parts.values()))
        found.append({"title": title, "axis": axis, "bars": drawn, "top": top, "total": total, "parts": list(parts)})
    return found


def _labelled(statistics: Statistics) -> dict[int, int]:
    totals: dict[int, int] = {}
    for (label, _), count in statistics.confusion.items():
        totals[label] = totals.get(label, 0) + count
    return totals


def _by_name(counts: Mapping[int, int], classes: Classes) -> list[tuple[int, str, int]]:
    """Place, name and count, by name."""
    return sorted(((place, classes.names[place], count) for place, count in counts.items()), key=lambda item: item[1])


def _filters(statistics: Statistics, cards: Sequence[Card]) -> list[tuple[str, str, str]]:
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
