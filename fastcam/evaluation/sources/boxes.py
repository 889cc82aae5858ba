"""Boxes of a run of `fastcam.localize` as maps: one inside, zero outside."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fastcam.data import Collection, Pictures, Sample
from fastcam.data.names import Names, by_number
from fastcam.evaluation.protocols import Protocol
from fastcam.evaluation.result import BOX_DELTAS, Figures, Result
from fastcam.evaluation.sources.source import Loaded, Maps, Places, Source, elsewhere
from fastcam.pictures import Header
from fastcam.runs.schema import EDGES, Row
from fastcam.runs.table import RunTable

_COLUMNS = ("image_id", "width", "height", "rank", "class_id", *EDGES, "box", "status", "error", "orientation")
_NONE, _HIGHEST, _LABEL, _ERROR = range(4)


class BoxTable(Source[None, np.ndarray]):
    """The box of each picture in a boxes.parquet, brought to the frame of a protocol and rounded to its pixels.

    It is that of the true class if the table has one, else that of the highest class; with `targets` "highest" labels
    are not looked at. Of several boxes of a class the first counts. Pictures with an error count as misses: one pixel
    in a corner. There are no thresholds, so that only what one box shows is measured.

    Raises FileNotFoundError if there is no such file, ValueError if it is no such table.
    """

    graded = False

    def __init__(
        self,
        path: str | os.PathLike[str],
        data: Collection,
        protocol: Protocol,
        targets: Literal["label", "highest"] = "label",
    ) -> None:
        self.path, self.data, self._protocol = Path(path), data, protocol
        self._labels = data.labels if targets == "label" else None
        self.labelled = self._labels is not None
        if not self.path.is_file():  # a folder of a run is not taken
            raise FileNotFoundError(f"no table of boxes at {path}")
        table = RunTable(path)
        self._oriented = "orientation" in table.columns  # which older tables lack
        count = len(data.ids)
        self._kind = np.full(count, _NONE, np.int8)
        self._boxes, self._sizes = np.zeros((count, 4), np.float64), np.ones((count, 2), np.float64)
        self._turned = np.zeros(count, np.int8)  # 0 where it is not known
        self._rank, self._listed = np.zeros(count, np.int32), np.zeros(count, np.int32)
        self.problems: list[tuple[str, str]] = []
        self.errors: list[tuple[str, str]] = []
        self._bad: set[int] = set()
        self._given = table.given
        self._rename(table)
        self._read(table, Places(data.ids))
        found = self._kind != _NONE
        missing = [place for place in np.flatnonzero(~found).tolist() if place not in self._bad]
        self.problems += [(data.ids[place], f"no box in {path}") for place in missing]
        self.order = [place for place in np.flatnonzero(found).tolist() if place not in self._bad]
        kinds = self._kind[found & (self._kind != _ERROR)]
        # All boxes are of the true class, or all of the highest.
        self._pure = self._labels is None or bool((kinds == _LABEL).all())
        listed = self._listed[found & (self._kind == _HIGHEST)]
        # Rows are of the k highest classes at least, so that Top-k figures are known up to this k.
        self._known = 0 if self._labels is None else int(listed.min()) if len(listed) else np.inf

    @property
    def info(self) -> Mapping[str, str]:
        """Which table, and which of its boxes."""
        return {"boxes": self.path.name, "targets": "label" if self.labelled else "highest"}

    def figures(self, result: Result) -> Figures:
        """What is known of boxes without maps.

        Top-k as far as the table has ranks; "GT-known Loc" where all boxes are those of the true classes; BoxAcc and
        mean IoU where they are all of one kind.
        """
        known = dict(result.figures)
        wanted = [f"Top-{k} {what}" for what in ("Cls", "Loc") for k in (1, 5) if k <= self._known]
        if self._pure:
            names = [f"BoxAcc {delta}" for delta in BOX_DELTAS]
            known |= {name: float(result.curves[name][0]) for name in names if name in result.curves}
            wanted += ["GT-known Loc", *names, "mean IoU"]
        percent = {name: known[name] for name in wanted if name in known}
        intervals = {name: range for name, range in result.intervals.items() if name in percent}
        figures = Figures(percent, intervals, {}, curves=False)
        return figures if self.labelled else figures.renamed("GT-known Loc", "BoxAcc 50")

    def cautions(self, result: Result | None) -> list[str | None]:
        """None: the run itself has warned of its maps."""
        return []

    def found(self, place: int) -> tuple[np.ndarray, tuple[int, int]] | None:
        """The box of a picture, float64 [1, 4], and the (width, height) that it refers to; None if it has none."""
        box, (width, height) = self._boxes[place], self._sizes[place].astype(int).tolist()
        usable = place not in self._bad and self._kind[place] in (_HIGHEST, _LABEL) and (box[:2] < box[2:]).all()
        return (box[None], (width, height)) if usable else None

    def jobs(self, positions: Sequence[int]) -> Iterator[tuple[int, None]]:
        """Places."""
        return ((self.order[position], None) for position in positions)

    def read(self, place: int, what: None) -> tuple[Sample, np.ndarray]:
        """The box as a map."""
        return self._truth(place), self._map(place)

    def finish(self, loaded: Sequence[Loaded[np.ndarray]]) -> Maps:
        """The maps of pictures, with the ranks that the table has."""
        places, ranks = [one.place for one in loaded], None
        if self.labelled:  # behind all that are listed, if it is none of these
            ranks = np.where(self._rank > 0, self._rank, 1 + np.maximum(self._listed, 5))[places].tolist()
        return Maps(loaded, [one.content for one in loaded], ranks=ranks)

    def _truth(self, place: int) -> Sample:
        """What is true of the picture as the run saw it."""
        if not isinstance(self.data, Pictures) or not self._turned[place]:
            return self.data.truth(place)
        width, height = map(int, self._sizes[place])
        return self.data.truth(place, Header((width, height), int(self._turned[place])))

    def _read(self, table: RunTable, places: Places) -> None:
        previous: str | None = None
        classes: set[int | None] = set()
        for row in table.rows(_COLUMNS):
            if row.box is not None and row.box > 1 and row.class_id in classes and row.image_id == previous:
                continue
            place = places.get(row.image_id)
            again = row.class_id in classes if row.image_id == previous else self._seen(place)
            classes = classes | {row.class_id} if row.image_id == previous else {row.class_id}
            previous = row.image_id
            problem = self._take(place, row, again)
            if problem and place not in self._bad:
                self.problems.append((row.image_id, f"{problem} in {self.path}"))
            if problem and place is not None:
                self._bad.add(place)

    def _rename(self, table: RunTable) -> None:
        """Give labels the numbers of the run's classes that they are, if a name tells that these differ."""
        names = tuple(self.data.class_names)
        if self._labels is None or len(set(names)) < len(names):
            return
        pairs = [(number, name) for number, name in table.classes() if name is not None]
        known = Names(name for _, name in pairs)
        own = set(names)  # a class that is called like one of the labels is no other's that only looks like it
        places = [
            [place for place in known.places(name) if known.names[place] == name or known.names[place] not in own]
            for name in names
        ]
        found = [pairs[place[0]][0] if len(place) == 1 else -1 for place in places]
        if not any(places):
            count = table.info.get("num_classes")
            found = by_number(names, count if isinstance(count, int) else None) or found
        if any(number not in (-1, label) for label, number in enumerate(found)):
            self._labels = [None if label is None else found[label] for label in self._labels]

    def _seen(self, place: int | None) -> bool:
        return place is not None and self._kind[place] != _NONE

    def _take(self, place: int | None, row: Row, again: bool) -> str | None:
        """Note what a row tells of a picture; gives what is wrong with it."""
        if place is None:
            return f"a row without a picture {elsewhere(self.data)},"
        if again:
            return f"two rows of class {row.class_id}" if row.status == "ok" else "two rows"
        if row.status != "ok":
            self._kind[place] = _ERROR
            self.errors.append((row.image_id, row.error or "error"))
            return None
        if (
            row.width is None or row.height is None or row.rank is None or row.class_id is None
            or row.x0 is None or row.y0 is None or row.x1 is None or row.y1 is None or min(row.width, row.height) < 1
        ):  # fmt: skip
            return "a row with empty columns"
        box, size = (row.x0, row.y0, row.x1, row.y1), (row.width, row.height)
        if not (0 <= box[0] <= box[2] <= size[0] and 0 <= box[1] <= box[3] <= size[1]):  # nor NaN
            return f"box {', '.join(f'{edge:g}' for edge in box)} is none in {size[0]}x{size[1]} pixels"
        if not 1 <= (row.orientation or 1) <= 8:
            return f"orientation {row.orientation}, none of 1 to 8,"
        if not self._given:  # rows of given classes tell of no other's rank
            self._listed[place] = max(self._listed[place], row.rank)
        if self._labels is not None and row.class_id == self._labels[place]:
            self._kind[place], self._rank[place] = _LABEL, row.rank
        elif self._kind[place] == _NONE or (self._kind[place] == _HIGHEST and row.rank == 1):
            self._kind[place] = _HIGHEST
        else:
            return None
        self._boxes[place], self._sizes[place] = box, size
        if self._oriented:  # samples that were no files have none: they were seen as they were given
            self._turned[place] = row.orientation or 1
        return None

    def _map(self, place: int) -> np.ndarray:
        height, width = self._protocol.size
        map = np.zeros((height, width), np.float32)
        if self._kind[place] == _ERROR:
            map[0, 0] = 1
            return map
        rule, whole = self._protocol, np.array([width, height] * 2)
        corners = self._boxes[place] / np.tile(self._sizes[place], 2)
        frame = corners * whole if rule.crop is None else corners * rule.crop - (rule.crop - whole) // 2
        x0, y0, x1, y1 = np.rint(frame.clip(0, whole)).astype(int).tolist()
        if (self._boxes[place, :2] < self._boxes[place, 2:]).all():
            x0, y0 = min(x0, width - 1), min(y0, height - 1)
            map[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = 1
        return map
