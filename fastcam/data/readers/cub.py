"""CUB-200-2011 in its own text files: space-separated, pictures and classes numbered from 1."""

from pathlib import Path

import numpy as np

from fastcam.data.names import plain_id, whole
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Format, Problems, Request, in_groups, numbers


def read(request: Request) -> Pictures:
    """Read images.txt, classes.txt, image_class_labels.txt, train_test_split.txt and bounding_boxes.txt.

    train_test_split.txt has 1 for "train". Ids are relative to the folder of the class folders, labels count from 0; x
    y w h become x, y, x + w, y + h. A class without pictures is an error.
    """
    folder, split, problems = request.path, request.split, request.problems
    if split not in (None, "train", "test"):
        raise ValueError(f'`split` must be "train" or "test", or None for both, got {split!r}')
    root = request.images or folder / "images"
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
            problems.fault(where, f"expected a class from 1 to {len(names)}, got {text!r}", id)
        labels[id] = label and label - 1
    for label in set(range(len(names))) - set(labels.values()):
        raise ValueError(f"{path}: class {label + 1} {names[label]} has no pictures in image_class_labels.txt")
    for id, (where, (text,)) in trained.items():
        if text not in ("0", "1"):
            (problems.refuse if split else problems.fault)(where, f"expected 0 or 1, got {text!r}", id)
    values, wheres = {}, []
    for id, (where, texts) in boxed.items():
        box = numbers(texts)
        if box is None:
            problems.fault(where, f"expected four numbers, got {' '.join(texts)}", id)
        else:
            values[id] = box
            wheres.append(where)
    boxes = np.array(list(values.values()), np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    problems.boxes(list(values), wheres, boxes)

    kept = problems.left(paths.values(), folder)
    places = dict(
        zip(kept, problems.files(kept, [root / id for id in kept], needed=not request.truth_only), strict=True)
    )
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
            problems.fault(where, f"there is no picture {key} in images.txt")
        elif id in rows:
            problems.fault(where, f"picture {key} comes twice", id)
        else:
            rows[id] = where, texts
    problems.paired(paths.values(), path, rows)
    return rows


FORMAT = Format(
    "images.txt, classes.txt, image_class_labels.txt, train_test_split.txt, bounding_boxes.txt and images/",
    fits=lambda path: (path / "image_class_labels.txt").is_file(),
    splits=lambda path: ["train", "test"],
    read=read,
    whole=lambda path: True,
)
