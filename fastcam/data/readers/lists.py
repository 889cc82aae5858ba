"""Lists of picture files: a path on each line, CSV or Parquet."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam.data.labels import gather, one_kind, unlike
from fastcam.data.names import ordered, plain_id, tidy
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Found, Problems, Request, assemble, class_names, numbers, strongest
from fastcam.data.tables import EDGES, SIZE, Row, number, rows


def read(request: Request) -> Pictures:
    """Read a list: .txt with a path on each line, or .csv or .parquet with named columns.

    Columns are path (or image_id), and if known label (or class_id, labels, classes, class_ids; whole numbers, also as
    floats, or names that are numbered as `fastcam.data.names.ordered` has them), x0, y0, x1, y1 (a box, half-open, in
    pixels), width and height (which it refers to), split. A picture with several boxes has a row for each, one whose
    box is empty has none. Other columns are ignored. Classes that are numbers are named by classes.txt beside the list,
    one name a line, if there is one. Paths are relative to the list's folder.

    A picture of several classes has a list of them in its cell, see `fastcam.data.labels`, or a row for each. Then its
    label is that with the largest total area of boxes, and its boxes are those of that class; without boxes in rows of
    single classes nothing tells which is the strongest, and it has no label. Where no picture has several, nor a list,
    a label need not be all that is in a picture, and its classes are not known.
    """
    path, split, problems = request.path, request.split, request.problems
    root = request.images or path.parent
    table = list(rows(path, problems))
    for _, row in table:
        row |= {"path": plain_id(row["path"], root)} | ({"label": tidy(row["label"])} if "label" in row else {})
    columns = set(table[0][1]) if table else set()
    labels = _Labels(path, table, split, problems) if "label" in columns else None
    found: dict[str, Found] = {}
    boxes: dict[str, list[_Box]] = {}
    boxed: set[str] = set()  # whose first row has a box
    for where, row in table:
        if split is not None and row.get("split") != split:
            continue
        id = row["path"]
        texts = [row[edge] for edge in EDGES] if "x0" in columns else []
        size = [row[side] for side in SIZE] if "width" in columns else []
        entry = Found(where, id, root / id)
        if any(size):
            width, height = map(number, size)
            if width and height:
                entry = entry._replace(size=(width, height))
            else:
                expected = "expected width and height, two positive whole numbers"
                problems.fault(where, f"{expected}, got {size}", id)
        box = numbers(texts) if any(texts) else None
        if any(texts) and (box is None or not np.isfinite(box).all()):
            problems.fault(where, f"expected x0, y0, x1, y1, four numbers, got {texts}", id)
            box = None
        first = found.setdefault(id, entry)
        if first is entry:
            boxed |= {id} if any(texts) else set()
        elif not (any(texts) and id in boxed) and (labels is None or where not in labels.first):
            problems.refuse(where, f"{id} comes twice", id)
        if first.size != entry.size:
            problems.fault(where, f"another size of {id} than in {first.where}", id)
        kind = None if labels is None else labels.numbers.get(row["label"])
        boxes.setdefault(id, []).extend([_Box(where, kind, box)] if box else [])
    entries = []
    for id, entry in found.items():
        if "x0" in columns:
            entry = entry._replace(boxes=np.array([box.corners for box in boxes[id]], np.float64).reshape(-1, 4))
        entries.append(entry if labels is None else _labelled(entry, labels, boxes[id], problems))
    return assemble(request, root, entries, () if labels is None else labels.names, resized=True)


def _splits(path: Path) -> list[str]:
    """What the column split has, sorted; [] if there is no such column."""
    return sorted({row["split"] for _, row in rows(path, Problems([])) if row.get("split")})


class _Box(NamedTuple):
    """A box: where its row is, the class that has, if it is one, and the box."""

    where: str
    kind: int | None
    corners: list[float]


def _labelled(entry: Found, labels: "_Labels", boxes: Sequence[_Box], problems: Problems) -> Found:
    """A picture with its label and classes, and of several the boxes of the strongest, if there is one."""
    classes = labels.of(entry.id)
    if classes is None:
        return entry
    if len(classes) == 1:
        entry = entry._replace(label=classes[0])
    kinds = [box.kind for box in boxes if box.kind is not None]
    if len(classes) > 1 and 0 < len(kinds) == len(boxes) and entry.boxes is not None:
        every, sizes = entry.boxes, None if entry.size is None else np.array([entry.size])
        problems.boxes([entry.id] * len(every), [box.where for box in boxes], every, sizes)  # the others are left out
        label, every = strongest(kinds, every)
        entry = entry._replace(label=label, boxes=every)
    return entry._replace(classes=classes) if labels.several else entry


class _Labels:
    """The classes of a list's pictures, those of a split, numbered over all its rows.

    Attributes:
        names: of the classes.
        numbers: class index of each text; None if it should be a number and is none, which is refused.
        several: whether there is a picture with several, or a list of them, so that all that is in a picture is told.
        first: where the rows are that are the first to tell a class of their picture.
    """

    def __init__(self, path: Path, table: Sequence[Row], split: str | None, problems: Problems) -> None:
        cells = [(split in (None, row.get("split")), (where, row["path"], row["label"])) for where, row in table]
        told, others = (gather((cell for own, cell in cells if own is which), problems) for which in (True, False))
        every = [*told.items(), *others.items()]
        texts: dict[str, str] = {}  # with where each is first
        for text, where in (item for _, one in every for item in one.texts.items()):
            texts.setdefault(text, where)
        self.several = any(one.listed or len(one.texts) > 1 for _, one in every)
        self.first = {where for one in told.values() for where in one.texts.values()}
        self._told = told
        if self.several:  # one class a picture may have odd names, as folders may
            one_kind(texts)
            unlike(texts)
        self.numbers: dict[str, int | None]
        if numbers(sorted(texts)) is None:
            self.names = tuple(ordered(texts))
            self.numbers = {text: index for index, text in enumerate(self.names)}
            return
        self.numbers = {text: number(text) for text in texts}
        for id, one in every:
            for text, where in one.texts.items():
                if self.numbers[text] is None:
                    problems.fault(where, f"expected a whole number as label, or names only, got {text}", id)
        known = {index: texts[text] for text, index in self.numbers.items() if index is not None}
        self.names = class_names([path.parent], known)

    def of(self, id: str) -> list[int] | None:
        """The classes of a picture, ascending; None if they are not known."""
        if id not in self._told:
            return None
        return sorted({index for text in self._told[id].texts if (index := self.numbers[text]) is not None})


FORMAT = Format(
    "a .txt file of paths, or .csv or .parquet with a column path",
    fits=lambda path: path.is_file() and path.suffix.lower() in (".txt", ".csv", ".parquet"),
    splits=_splits,
    read=read,
    whole=lambda path: True,
)
