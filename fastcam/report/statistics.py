"""One pass over a run: counts, histograms and confusion, and what there is to choose cards from."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fastcam.report.cards import Choice, entries
from fastcam.report.truth import Classes, Truth
from fastcam.runs.schema import COLUMNS, EDGES, split_error
from fastcam.runs.table import RunTable, first_rows

BINS = 20
_EXAMPLES = 5  # of each error code


class Statistics:
    """Counts of a run. The class and the box of a picture are those of its first row, its head.

    Where several classes of a picture were given, the head is the row of its label's class, if it has one: true boxes
    are the label's.

    How good a picture's result is (quality): where there are true boxes, the IoU of its box with the best of them;
    else, where there are labels, the score if the class is right and minus the score if it is wrong; else the score.
    How sure (margin): the score of the first class less that of the second, if the table has two, else the score.

    Args:
        table: the run.
        classes: all classes.
        truth: what is known of the pictures, or None.
        choice: is offered the pictures as "best", "worst" and "uncertain" by class, as "wrong" by pair of classes and
            as "error" by code.

    Attributes:
        pictures, rows: how many there are.
        errors: code → pictures.
        examples: code → (image_id, message) of the first few.
        found: place in `classes.names` → pictures whose head has that class.
        scores: int64 [3, BINS], pictures by score in [0, 1]: wrong, right, without label.
        areas: int64 [BINS], boxes by their share of the picture's area, of all rows.
        empty: rows whose map had no box.
        confusion: (label, class) → pictures, places in `classes.names`; class -1: another one than the table has,
            where boxes were asked for given classes.
        decoders: decoder → pictures, where the table has them.
        turned: pictures that the EXIF orientation turned, where the table has them.
        ious: float64, IoU of each picture that has true boxes.
        second: whether the table has a second class of any picture.
        ranked: what quality is: "iou", "label" or "score".
    """

    def __init__(self, table: RunTable, classes: Classes, truth: Truth | None, choice: Choice) -> None:
        self.pictures = self.rows = self.empty = 0
        self.errors: Counter[str] = Counter()
        self.examples: dict[str, list[tuple[str, str]]] = {}
        self.found: Counter[int] = Counter()
        self.scores = np.zeros((3, BINS), np.int64)
        self.areas = np.zeros(BINS, np.int64)
        self.confusion: Counter[tuple[int, int]] = Counter()
        self.decoders: Counter[str] = Counter()
        self.turned = 0
        self.second = False
        self.ranked = "score" if truth is None else "iou" if truth.boxes else "label"
        self._classes, self._truth, self._choice, self._given = classes, truth, choice, table.given
        self._codes: dict[str, int] = {}
        ious = [np.zeros(0)]
        ious += [self._add(batch) for batch in table.batches((*COLUMNS, "decoder", "orientation"))]
        self.ious = np.concatenate(ious)

    def _add(self, table: pa.Table) -> np.ndarray:
        """Count the rows of some pictures, and offer them; returns their IoUs where there are true boxes."""
        begins = first_rows(table)
        counts = np.diff(np.append(begins, table.num_rows))
        ids = table.column("image_id").take(pa.array(begins)).to_pylist()
        label = np.full(len(ids), -1)
        if self._truth is not None:
            given = [self._truth.labels.get(id, np.nan) for id in ids]
            label = _lookup(self._classes.of_label, np.array(given, np.float64))
        ranks, scores = _numbers(table, "rank"), _numbers(table, "score")
        places = _lookup(self._classes.of_class, _numbers(table, "class_id"))
        own = _rows_of(label, places, begins, counts) if self._given else begins
        heads = table.take(pa.array(own))
        ok = pc.equal(heads.column("status"), "ok").to_numpy()
        predicted, score = places[own], scores[own]
        top = np.where(ranks[begins] == 1, places[begins], -1)  # the network's own class
        if self._truth is not None and self._truth.classes:
            known = [
                self._truth.label_of(id, found, self._classes) for id, found in zip(ids, top.tolist(), strict=True)
            ]
            label = np.array([-1 if one is None else one for one in known])
        right = np.where(label < 0, 2, top == label)
        margin = scores[begins] - self._runners_up(table, begins, counts)
        iou = self._ious(ids, heads, ok)
        signed = np.where(right == 2, np.nan, np.where(right == 1, score, -score))
        quality = {"iou": iou, "label": signed, "score": score}[self.ranked]

        code = self._count_errors(heads, ~ok)
        self._count_boxes(table)
        self.found.update(predicted[ok & (predicted >= 0)].tolist())
        shown = ok & np.isfinite(score)
        np.add.at(self.scores, (right[shown], _bin(score[shown])), 1)
        labelled = ok & (label >= 0)
        self.confusion.update(zip(label[labelled].tolist(), top[labelled].tolist(), strict=True))

        if "decoder" in heads.column_names:
            self.decoders.update(heads.column("decoder").drop_null().to_pylist())
        if "orientation" in heads.column_names:
            self.turned += int((_numbers(heads, "orientation") > 1).sum())

        found = entries(self.rows + begins, counts, head=self.rows + own, quality=quality, margin=margin, iou=iou)
        wrong, order = ok & (right == 0), self.pictures + np.arange(len(ids), dtype=np.float64)
        self._choice.offer("best", found[ok], predicted[ok], -quality[ok])
        self._choice.offer("worst", found[ok], predicted[ok], quality[ok])
        self._choice.offer("uncertain", found[ok], predicted[ok], margin[ok])
        pair = label * (len(self._classes.names) + 1) + top + 1
        self._choice.offer("wrong", found[wrong], pair[wrong], -score[wrong])
        self._choice.offer("error", found[~ok], code, order[~ok])
        self.pictures += len(ids)
        self.rows += table.num_rows
        return iou[np.isfinite(iou)]

    def _runners_up(self, table: pa.Table, begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Score of each picture's second class, 0 where there is none."""
        rank, score = _numbers(table, "rank"), _numbers(table, "score")
        owner = np.repeat(np.arange(len(begins)), counts)
        second = (rank == 2) & (rank[begins][owner] == 1)
        scores = np.zeros(len(begins))
        scores[owner[second]] = np.nan_to_num(score[second])
        self.second |= bool(second.any())
        return scores

    def _ious(self, ids: list[str], heads: pa.Table, ok: np.ndarray) -> np.ndarray:
        """IoU of each head's box with the best true box; NaN where nothing is known of it."""
        result = np.full(len(ids), np.nan)
        if self._truth is None or not self._truth.boxes:
            return result
        found, size = (np.stack([_numbers(heads, name) for name in names], 1) for names in (EDGES, ("width", "height")))
        turned = _numbers(heads, "orientation") if "orientation" in heads.column_names else [None] * len(ids)
        for index in np.flatnonzero(ok & np.isfinite(found).all(1)):
            truth = self._truth.boxes_in(ids[index], size[index], turned[index])
            if len(truth):
                result[index] = _iou(found[index], truth).max()
        return result

    def _count_errors(self, heads: pa.Table, failed: np.ndarray) -> np.ndarray:
        """Count what went wrong; returns a number for each failed picture's code."""
        rows = heads.filter(pa.array(failed)).to_pylist()
        for row in rows:
            code, message = split_error(row["error"])
            self._codes.setdefault(code, len(self._codes))
            self.errors[code] += 1
            examples = self.examples.setdefault(code, [])
            if len(examples) < _EXAMPLES:
                examples.append((row["image_id"], message))
        return np.array([self._codes[split_error(row["error"])[0]] for row in rows], np.int64)

    def _count_boxes(self, table: pa.Table) -> None:
        x0, y0, x1, y1, width, height = (_numbers(table, name) for name in (*EDGES, "width", "height"))
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (x1 - x0) * (y1 - y0) / (width * height)
        self.empty += int((share == 0).sum())
        np.add.at(self.areas, _bin(share[np.isfinite(share) & (share > 0)]), 1)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column as float64, NaN for null."""
    return table.column(name).cast(pa.float64()).to_numpy()


def _lookup(places: dict[int, int], numbers: np.ndarray) -> np.ndarray:
    """Places of numbers, -1 for NaN and for what has none."""
    values, inverse = np.unique(numbers, return_inverse=True)
    return np.array([-1 if np.isnan(value) else places.get(int(value), -1) for value in values], np.int64)[inverse]


def _rows_of(label: np.ndarray, places: np.ndarray, begins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The first row of each picture's label, of rows with the classes `places`; its first row where it has none."""
    owner, rows = np.repeat(np.arange(len(begins)), counts), begins.copy()
    same = np.flatnonzero((places == label[owner]) & (places >= 0))
    owners, first = np.unique(owner[same], return_index=True)
    rows[owners] = same[first]
    return rows


def _bin(values: np.ndarray) -> np.ndarray:
    return np.clip(values * BINS, 0, BINS - 1).astype(np.int64)


def _iou(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    overlap = sides.clip(0).prod(1)
    areas = [(corners[..., 2:] - corners[..., :2]).clip(0).prod(-1) for corners in (box, boxes)]
    return overlap / np.maximum(areas[0] + areas[1] - overlap, np.finfo(np.float64).tiny)
