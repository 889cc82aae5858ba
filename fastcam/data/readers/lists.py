"""Lists of picture files: a path on each line, CSV or Parquet."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from fastcam.data.labels import Told, gather, one_kind, unlike
from fastcam.data.names import ordered, plain_id, tidy
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Found, Problems, Request, assemble, class_names, numbers, strongest
from fastcam.data.tables import EDGES, SIZE, number, rows


def read(request: Request) -> Pictures:
    """Read a list: .txt with a path on each line, or .csv or .parquet with named columns.

    Columns are path (or image_id), and if known label (or class_id, labels, classes, class_ids; whole numbers, also as
    floats, or names that are numbered as `fastcam.data.names.ordered` has them), x0, y0, x1, y1 (a box, half-open, in
    pixels), width and height (which it refers to), split. A picture with several boxes has a row for each, one whose
    box is empty has none. Other columns are ignored. Classes that are numbers are named by classes.txt beside the list,
    one name a line, if there is one. Paths are relative to the list's folder.

    A picture of several classes has a list of them in its cell, see `fastcam.data.labels`, or a row for each. Then its
    label is the one that it has, or where each has boxes that with the largest total area, and its boxes are those of
    that class; where nothing tells which is the strongest, it has none. With no list and no such picture, classes are
    the labels alone.
    """
    path, split, problems = request.path, request.split, request.problems
    root = request.images or path.parent
    table = list(rows(path, problems))
    for _, row in table:
        row |= {"path": plain_id(row["path"], root)} | ({"label": tidy(row["label"])} if "label" in row else {})
    columns = set(table[0][1]) if table else set()
    chosen = [(where, row) for where, row in table if split is None or row.get("split") == split]
    several, numbered, names = False, dict[str, int | None](), tuple[str, ...]()
    told: dict[str, Told] = {}
    if "label" in columns:
        rest = [] if split is None else [(where, row) for where, row in table if row.get("split") != split]
        told, others = (
            gather(((where, row["path"], row["label"]) for where, row in part), problems) for part in (chosen, rest)
        )
        every = [*told.items(), *others.items()]
        several = any(one.listed or len(one.texts) > 1 for _, one in every)
        numbered, names = _numbered(path, every, several, problems)
    found: dict[str, Found] = {}
    boxes: dict[str, list[tuple[str, int | None, list[float]]]] = {}  # with where each is, and its class
    boxed: set[str] = set()  # whose first row has a box
    for where, row in chosen:
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
        elif not (any(texts) and id in boxed) and where not in (told[id].texts.values() if id in told else ()):
            problems.refuse(where, f"{id} comes twice", id)
        if first.size != entry.size:
            problems.fault(where, f"another size of {id} than in {first.where}", id)
        boxes.setdefault(id, []).extend([(where, numbered.get(row.get("label", "")), box)] if box else [])
    entries = []
    for entry in found.values():
        own, one = boxes[entry.id], told.get(entry.id)
        labels = {index for text in one.texts if (index := numbered[text]) is not None} if one else set[int]()
        corners = np.array([box for _, _, box in own], np.float64).reshape(-1, 4)
        label = next(iter(labels)) if len(labels) == 1 else None
        kinds = [kind for _, kind, _ in own if kind is not None]
        if len(labels) > 1 and 0 < len(kinds) == len(own):
            sizes = None if entry.size is None else np.array([entry.size])
            problems.boxes(
                [entry.id] * len(own), [where for where, _, _ in own], corners, sizes
            )  # those of all classes
            label, corners = strongest(kinds, corners)
        entries.append(
            entry._replace(
                label=label,
                boxes=corners if "x0" in columns else None,
                classes=sorted(labels) if several and one else None,
            )
        )
    return assemble(request, root, entries, names, resized=True)


def _splits(path: Path) -> list[str]:
    """What the column split has, sorted; [] if there is no such column."""
    return sorted({row["split"] for _, row in rows(path, Problems([])) if row.get("split")})


def _numbered(
    path: Path, told: Sequence[tuple[str, Told]], several: bool, problems: Problems
) -> tuple[dict[str, int | None], tuple[str, ...]]:
    """The class of each text that pictures have as a label, and the classes' names."""
    wheres = {text: where for _, one in reversed(told) for text, where in one.texts.items()}
    if several:  # where each is a class of its own, names may be odd
        one_kind(wheres)
        unlike(wheres)
    texts = sorted(wheres)
    if numbers(texts) is None:
        texts = ordered(texts)
        return {text: index for index, text in enumerate(texts)}, tuple(texts)
    values = {text: number(text) for text in texts}
    for id, one in told:
        for text, where in one.texts.items():
            if values[text] is None:
                problems.fault(where, f"expected a whole number as label, or names only, got {text}", id)
    return values, class_names([path.parent], (value for value in values.values() if value is not None))


FORMAT = Format(
    "a .txt file of paths, or .csv or .parquet with a column path",
    fits=lambda path: path.is_file() and path.suffix.lower() in (".txt", ".csv", ".parquet"),
    splits=_splits,
    read=read,
    whole=lambda path: True,
)
