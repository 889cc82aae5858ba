"""Cards of a run's page: which pictures are worth one, what it says, and its small picture and map."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image

from fastcam import drawing, methods, ops
from fastcam.data.pictures import Packed, Pictures
from fastcam.methods.scales import finished, summed
from fastcam.pictures import DecodeError, Preprocess, as_rgb, quiet_pillow
from fastcam.pictures.samples import shown_reading
from fastcam.pictures.stream import batched, stream
from fastcam.report.page import embed
from fastcam.report.truth import Classes, Truth
from fastcam.runs.maps import decode_map
from fastcam.runs.schema import CAM_COLUMNS, COLUMNS, Row, split_error
from fastcam.runs.table import RunTable

ALL_CARDS = 10_000  # more would make a page that is slow to open
SIDE = 256  # longer side of a small picture in pixels
_QUALITY = 80
_SHOWN = 10  # rows of a picture on its card

_ENTRY = np.dtype(
    [(name, np.int64) for name in ("first", "count", "head", "group")]
    + [(name, np.float64) for name in ("key", "quality", "margin", "iou")]
)


@dataclass(frozen=True)
class Card:
    """A picture that the page shows.

    Attributes:
        first: number of its first row in the table.
        count: how many rows it has.
        head: number of the row whose class is shown, see `fastcam.report.statistics.Statistics`.
        kinds: what it was chosen as.
        place: where it stands among all cards by importance, from 0.
        quality: see `fastcam.report.statistics.Statistics`; None if unknown.
        margin: as quality.
        iou: of its head's box with the true boxes, or None.
    """

    first: int
    count: int
    head: int
    kinds: tuple[str, ...]
    place: int
    quality: float | None
    margin: float | None
    iou: float | None


def entries(first: np.ndarray, count: np.ndarray, **values: np.ndarray) -> np.ndarray:
    """Candidates for `Choice.offer`, a structured array [N].

    `first` and `count` are int64 [N], see `Card`; `values` are head, of the same kind, and quality, margin and iou,
    float64 [N], NaN if unknown.
    """
    made = np.zeros(len(first), _ENTRY)
    for name, column in {"first": first, "count": count, **values}.items():
        made[name] = column
    return made


class Choice:
    """Keeps the first `number` of each kind and group of all that are offered; memory grows with groups only."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._kept: dict[str, np.ndarray] = {}

    def offer(self, kind: str, candidates: np.ndarray, group: np.ndarray, key: np.ndarray) -> None:
        """Consider some more pictures for what they would be chosen as.

        Of each group (int64 [N]; below 0 is none) those with the smallest finite key (float64 [N]) are chosen, of equal
        ones the first that were offered.
        """
        usable = np.isfinite(key) & (group >= 0)
        added = candidates[usable]
        added["group"], added["key"] = group[usable], key[usable]
        together = np.concatenate([self._kept.get(kind, added[:0]), added])
        self._kept[kind] = together[_places(together["group"], together["key"]) < self._number]

    def cards(self) -> list[Card]:
        """The chosen pictures, in the order of the table.

        Of each kind the first over all groups are the most important, then the first of each group, then the second,
        and so on, up to `ALL_CARDS` in all.
        """
        best: dict[int, tuple[int, np.void]] = {}
        kinds: dict[int, list[str]] = {}
        for kind, kept in self._kept.items():
            overall = _places(np.zeros(len(kept)), kept["key"])
            within = self._number + _places(kept["group"], kept["key"])
            for entry, place in zip(kept, np.where(overall < self._number, overall, within).tolist(), strict=True):
                first = int(entry["first"])
                kinds.setdefault(first, []).append(kind)
                if first not in best or place < best[first][0]:
                    best[first] = place, entry
        ranking = sorted(best, key=lambda first: (best[first][0], first))[:ALL_CARDS]
        places = {first: place for place, first in enumerate(ranking)}
        return [
            Card(
                first,
                int(best[first][1]["count"]),
                int(best[first][1]["head"]),
                tuple(kinds[first]),
                places[first],
                *(_known(best[first][1][name]) for name in ("quality", "margin", "iou")),
            )
            for first in sorted(places)
        ]


def _places(groups: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """The place of each within its group by its key, from 0."""
    order = np.lexsort((keys, groups))  # stable
    ordered, numbers = groups[order], np.arange(len(order))
    begins = np.ones(len(order), bool)
    begins[1:] = ordered[1:] != ordered[:-1]
    places = np.empty(len(order), np.int64)
    places[order] = numbers - np.maximum.accumulate(np.where(begins, numbers, 0))
    return places


def _known(value: float) -> float | None:
    return round(float(value), 6) if np.isfinite(value) else None


_Line = tuple[int | None, float | None, int | None, list[float] | None]  # class, score, rank and box of a row


class CardFacts(TypedDict):
    """What the page's script needs to know of a card; classes are places in `Classes.names`."""

    id: str
    size: tuple[int, int] | None
    kinds: tuple[str, ...]
    label: int | None
    rows: list[_Line]
    truth: list[list[float]]
    quality: float | None
    margin: float | None
    iou: float | None
    error: tuple[str, str] | None


def describe(table: RunTable, cards: Sequence[Card], classes: Classes, truth: Truth | None) -> list[CardFacts]:
    """Look up what cards show, each in a few rows of the table."""
    first = np.array([card.first for card in cards], np.int64)
    count = np.array([min(card.count, card.head - card.first + _SHOWN) for card in cards], np.int64)
    described: list[CardFacts] = []
    oriented = "orientation" in table.columns
    for card, rows in zip(cards, table.rows_at(first, count, (*COLUMNS, "orientation")), strict=True):
        head = rows[card.head - card.first]
        rows = [row for own in (True, False) for row in rows if (row.class_id == head.class_id) is own][:_SHOWN]
        size = (head.width, head.height) if head.width and head.height else None
        top = next((classes.of_class[row.class_id] for row in rows if row.rank == 1 and row.class_id is not None), None)
        turned = head.orientation or 1 if oriented else None
        boxes = truth.boxes_in(head.image_id, size, turned).tolist() if truth and size else []
        described.append(
            {
                "id": head.image_id,
                "size": size,
                "kinds": card.kinds,
                "label": None if truth is None else truth.label_of(head.image_id, top, classes),
                "rows": [_line(row, classes) for row in rows if row.status == "ok"],
                "truth": [[round(edge, 1) for edge in box] for box in boxes],
                "quality": card.quality,
                "margin": card.margin,
                "iou": card.iou,
                "error": None if head.status == "ok" else split_error(head.error),
            }
        )
    return described


def _line(row: Row, classes: Classes) -> _Line:
    """What is unknown, or no number, is None."""
    box = [edge for edge in (row.x0, row.y0, row.x1, row.y1) if edge is not None and math.isfinite(edge)]
    sound = len(box) == 4 and box[2] > box[0] and box[3] > box[1]
    return (
        None if row.class_id is None else classes.of_class.get(row.class_id),
        round(row.score, 6) if row.score is not None and math.isfinite(row.score) else None,
        row.rank,
        [round(edge, 1) for edge in box] if sound else None,
    )


class Thumbnails:
    """Small pictures of cards, and maps over them, as data URLs: number of the card, picture, map.

    `cards` are those that get one, by number; pictures are where `files` has them, or else under `root`; `info` has how
    the run made its maps. None for a picture that cannot be found or read, and for a map that the table has not.
    """

    def __init__(
        self,
        table: RunTable,
        cards: Mapping[int, Card],
        root: Path | None,
        files: Mapping[str, Path | Packed],
        info: Mapping[str, Any],
    ) -> None:
        self._table, self._cards, self._root, self._files = table, cards, root, files
        relu, method = info.get("relu"), methods.BOX_METHODS.get(str(info.get("method", "cam")))
        self._relu = getattr(method, "relu", False) if relu is None else bool(relu)
        self._mode, self._summed = info.get("mode", "bilinear"), summed(info)
        self._preprocess = Preprocess(
            info.get("size", 224), info.get("resize", "squash"), resize_size=info.get("resize_size")
        )
        self._reading = shown_reading(info)
        self.number = 0  # of pictures made until now

    def __iter__(self) -> Iterator[tuple[int, str | None, str | None]]:
        heads = np.array([card.head for card in self._cards.values()], np.int64)
        rows = self._table.rows_at(heads, np.ones_like(heads), ("image_id", "width", "height", *CAM_COLUMNS))
        with quiet_pillow():
            drawn = chain.from_iterable(stream(batched((row for (row,) in rows), 16), self._draw))
            for index, (picture, map) in zip(self._cards, drawn, strict=True):
                self.number += picture is not None
                yield index, picture, map

    def _draw(self, row: Row) -> tuple[str | None, str | None]:
        """Both for one picture, by its head, which has its size; runs in threads."""
        picture = self._small(row.image_id)
        size = _fit(row.width or 1, row.height or 1) if picture is None else picture.size
        return None if picture is None else embed(np.asarray(picture), _QUALITY), self._map(row, size)

    def _small(self, id: str) -> Image.Image | None:
        file = self._files.get(id)
        if file is None and self._root is None:
            return None
        try:
            # Refuses ids that lead out of the folder: a table is data from elsewhere.
            pictures = Pictures(self._root or Path(), [id], None if file is None else [file])
            picture = as_rgb(pictures.read_as(self._reading)[0].image)
        except ValueError:
            return None
        return picture.resize(_fit(*picture.size), Image.Resampling.LANCZOS, reducing_gap=2.0)

    def _map(self, row: Row, size: tuple[int, int]) -> str | None:
        if row.cam is None:
            return None
        try:
            coarse = torch.from_numpy(decode_map(row.cam, row.cam_height, row.cam_width))
        except ValueError:
            return None
        if self._summed:
            heat = finished(coarse[None], self._preprocess.size, self._mode, ops)[0]
        else:
            heat = ops.heatmap(coarse[None], self._preprocess.size, self._relu, mode=self._mode)[0]
        try:
            _, geometry = self._preprocess.frame(Image.new("RGB", size))
        except DecodeError:
            return None
        return embed(drawing.colorize(geometry.spread(heat.numpy(), size).clip(0, 1)), _QUALITY)


def _fit(width: int, height: int) -> tuple[int, int]:
    """Size of the small picture of one of this size; tiny ones are not enlarged."""
    scale = min(1, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))
