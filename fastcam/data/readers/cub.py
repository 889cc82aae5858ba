"""CUB-200-2011 in its own text files: space-separated, pictures and classes numbered from 1."""

from pathlib import Path

import numpy as np

from fastcam.data.names import whole
from fastcam.data.pictures import Pictures
from fastcam.data.places import plain_id
from fastcam.data.problems import Problems
from fastcam.data.reading import in_groups, numbers


def read_cub(
    folder: Path,
    split: str | None = None,
    images: Path | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Pictures:
    """Read images.txt, classes.txt, image_class_labels.txt, train_test_split.txt and bounding_boxes.txt.

    Args:
        folder: with the text files.
        split: "train" or "test" (train_test_split.txt has 1 for "train"); None for both.
        images: folder of the class folders, by default "images" in `folder`.
        truth_only: the pictures need not be there until one, or its size (which no text file tells), is asked for.
        bad: see `fastcam.data.load`.

    Returns:
        The pictures, ids relative to `images`, labels from 0; of each one box, x y w h made x, y, x + w, y + h.

    Raises:
        FileNotFoundError: a text file or a picture is missing.
        ValueError: another split, a malformed row, a picture that comes twice or only in some of the files, a box of
            negative width, height or origin, a class without pictures.
    """
    if split not in (None, "train", "test"):
        raise ValueError(f'`split` must be "train" or "test", or None for both, got {split!r}')
    problems, root = Problems(bad), images or folder / "images"
    path = folder / "images.txt"
    paths: dict[str, str] = {}  # of the pictures by number
    seen: set[str] = set()
    for number, (key, id) in problems.rows(path, ("number", "path"), None, listing=True):
        where, id = f"{path}:{number}", plain_id(id, root)
        if key in paths:
            problems.refuse(where, f"picture {key} comes twice", id)
        elif problems.once(where, id, seen):
            paths[key] = id
            seen.add(id)

    path = folder / "classes.txt"
    names = []
    for number, (key, name) in Problems().rows(path, ("number", "name"), None):
        names.append(name)
        if key != str(len(names)):
            raise ValueError(f"{path}:{number}: expected class {len(names)}, got {key!r}")
    columns = ("number", "class"), ("number", "0 or 1"), ("number", "x", "y", "width", "height")
    files = "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt"
    classes, trained, boxed = (
        _by_picture(problems, folder / file, names, paths) for file, names in zip(files, columns, strict=True)
    )

    labels = {}
    for id, (where, (text,)) in classes.items():
        label = whole(text)
        if label is None or not 1 <= label <= len(names):
            problems.doubt(where, f"expected a class from 1 to {len(names)}, got {text!r}", id)
        labels[id] = label and label - 1
    for label in set(range(len(names))) - set(labels.values()):
        raise ValueError(f"{path}: class {label + 1} {names[label]} has no pictures in image_class_labels.txt")
    for id, (where, (text,)) in trained.items():
        if text not in ("0", "1"):
            (problems.refuse if split else problems.doubt)(where, f"expected 0 or 1, got {text!r}", id)
    values, wheres = {}, []
    for id, (where, texts) in boxed.items():
        box = numbers(texts)
        if box is None:
            problems.doubt(where, f"expected four numbers, got {' '.join(texts)}", id)
        else:
            values[id] = box
            wheres.append(where)
    boxes = np.array(list(values.values()), np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    problems.boxes(list(values), wheres, boxes)

    kept = problems.left(paths.values(), folder)
    places = dict(zip(kept, problems.files(kept, [root / id for id in kept], needed=not truth_only), strict=True))
    kept = problems.left(kept, folder)
    if split:
        if lacking := [id for id in kept if id not in trained]:
            raise ValueError(f"{folder / files[1]}: nothing about {lacking[0]}")
        kept = [id for id in kept if trained[id][1] == ["1" if split == "train" else "0"]]
        if not kept:
            raise ValueError(f"{folder / files[1]} has no picture for {split}")
    grouped = in_groups(kept, list(values), boxes)
    return Pictures(
        root,
        kept,
        [places[id] for id in kept],
        labels=[None if id in problems.bare else labels[id] for id in kept],
        boxes=[None if id in problems.bare else found for id, found in zip(kept, grouped, strict=True)],
        class_names=tuple(names),
    )


def _by_picture(
    problems: Problems, path: Path, columns: tuple[str, ...], paths: dict[str, str]
) -> dict[str, tuple[str, list[str]]]:
    """Where each picture's row is, and what it has beside the number."""
    rows: dict[str, tuple[str, list[str]]] = {}
    for number, (key, *texts) in problems.rows(path, columns, None):
        where, id = f"{path}:{number}", paths.get(key)
        if id is None:
            problems.doubt(where, f"there is no picture {key} in images.txt")
        elif id in rows:
            problems.doubt(where, f"picture {key} comes twice", id)
        else:
            rows[id] = where, texts
    problems.paired(paths.values(), path, rows)
    return rows
