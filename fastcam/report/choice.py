"""Which pictures of a run are worth a card on its page."""

from typing import NamedTuple

import numpy as np

ALL_CARDS = 10_000  # more would make a page that is slow to open

_ENTRY = np.dtype(
    [(name, np.int64) for name in ("first", "count", "group")]
    + [(name, np.float64) for name in ("key", "quality", "margin", "iou")]
)


class Card(NamedTuple):
    """A picture that the page shows.

    Attributes:
        first: number of its first row in the table.
        count: how many rows it has.
        kinds: what it was chosen as.
        place: where it stands among all cards by importance, from 0.
        quality: see `fastcam.report.statistics.Statistics`; None if unknown.
        margin: likewise.
        iou: of its first box with the true boxes, or None.
    """

    first: int
    count: int
    kinds: tuple[str, ...]
    place: int
    quality: float | None
    margin: float | None
    iou: float | None


def entries(first: np.ndarray, count: np.ndarray, **values: np.ndarray) -> np.ndarray:
    """Make candidates.

    Args:
        first: int64 [N], see `Card`.
        count: int64 [N].
        values: quality, margin and iou, float64 [N], NaN if unknown.

    Returns:
        A structured array [N] for `Choice.offer`.
    """
    made = np.zeros(len(first), _ENTRY)
    for name, column in {"first": first, "count": count, **values}.items():
        made[name] = column
    return made


class Choice:
    """Keeps the first few of each kind and group of all that are offered; memory grows with groups only.

    Args:
        number: how many of each group.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._kept: dict[str, np.ndarray] = {}

    def offer(self, kind: str, candidates: np.ndarray, group: np.ndarray, key: np.ndarray) -> None:
        """Consider some more pictures.

        Args:
            kind: what they would be chosen as.
            candidates: [N], see `entries`.
            group: int64 [N]; below 0 are not considered.
            key: float64 [N], the smallest of a group are chosen, of equal ones the first offered; those that are not
                finite are not considered.
        """
        usable = np.isfinite(key) & (group >= 0)
        added = candidates[usable]
        added["group"], added["key"] = group[usable], key[usable]
        together = np.concatenate([self._kept.get(kind, added[:0]), added])
        self._kept[kind] = together[_places(together["group"], together["key"]) < self._number]

    def cards(self) -> list[Card]:
        """Tell the choice.

        Of each kind the first over all groups are the most important, then the first of each group, then the second,
        and so on, up to `ALL_CARDS` in all.

        Returns:
            The cards, in the order of the table.
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
