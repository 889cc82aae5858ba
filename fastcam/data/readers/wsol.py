"""WSOL metadata folders: the field's standard text files, which tell of any data set.

image_ids.txt has lines `path`, class_labels.txt `path,class`, image_sizes.txt `path,width,height`, localization.txt
`path,x0,y0,x1,y1` for each box, or `path,mask,ignore` for each mask file (one of a picture's rows names what is to be
ignored, in the others that is empty).
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from fastcam.data.names import whole
from fastcam.data.pictures import Pictures, id_problem
from fastcam.data.places import find_root, plain_id
from fastcam.data.problems import Problems
from fastcam.data.reading import class_names, in_groups, numbers

_TRIED = 20  # pictures that are looked for to find their folder; some may be missing
_Masks = dict[str, tuple[list[str], str | None]]


def read_wsol(
    folder: Path,
    images: Path | None = None,
    splits: Sequence[Path] = (),
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Pictures:
    """Read a metadata folder.

    localization.txt may be missing (as for training splits), image_sizes.txt only where there are no boxes. Classes are
    named by classes.txt, one name a line, in `folder`, the folder above, or `images`, if there is one, else by numbers.

    Args:
        folder: with the text files.
        images: folder that the paths (of masks, too) are relative to; by default `folder`, or one of the two above,
            or a folder "images" in one of these, whichever has one of the first pictures.
        splits: metadata folders of the other splits; their classes count where there are only numbers.
        truth_only: the pictures need not be there.
        bad: see `fastcam.data.load`.

    Returns:
        The pictures, with boxes as written.

    Raises:
        FileNotFoundError: a text file or a picture is missing.
        ValueError: a malformed row, a box outside its picture, an id that comes twice or only in some of the files.
    """
    problems = Problems(bad)
    ids: dict[str, None] = {}
    path = folder / "image_ids.txt"
    lines = list(problems.lines(path))
    root = images or find_root(_near(folder), [id for _, id in lines[:_TRIED]])
    plain = partial(plain_id, root=root or folder)
    for number, id in lines:
        id = plain(id)
        if problems.once(f"{path}:{number}", id, ids):
            ids[id] = None
    problems.left(ids, path)

    path = folder / "class_labels.txt"
    labels: dict[str, int] = {}
    for number, (id, text) in problems.rows(path, ("path", "class")):
        id, label = plain(id), whole(text)
        if label is None:
            problems.doubt(f"{path}:{number}", f"expected a class index of at least 0, got {text!r}", id)
        elif problems.once(f"{path}:{number}", id, labels):
            labels[id] = label
    problems.paired(ids, path, labels)

    sizes: dict[str, tuple[int, int]] | None = None
    localization, path = folder / "localization.txt", folder / "image_sizes.txt"
    boxed = localization.is_file() and _has_boxes(localization, problems)
    if path.is_file() or boxed:
        sizes = {}
        for number, (id, *texts) in problems.rows(path, ("path", "width", "height")):
            id, (width, height) = plain(id), map(whole, texts)
            if not (width and height):
                problems.doubt(f"{path}:{number}", f"expected two positive whole numbers, got {','.join(texts)}", id)
            elif problems.once(f"{path}:{number}", id, sizes):
                sizes[id] = width, height
        problems.paired(ids, path, sizes)

    boxes = masks = None
    if boxed:
        owners, values = _boxes(localization, sizes, plain, problems)
        problems.paired(ids, localization, dict.fromkeys(owners))
    elif localization.is_file():
        masks = _masks(localization, plain, problems)
        problems.paired(ids, localization, masks)

    kept = problems.left(ids, folder)
    if root is None and not truth_only:
        raise FileNotFoundError(f"no picture {kept[0]} in {folder} or above: tell the folder of the pictures")
    root = root or folder
    files = dict(zip(kept, problems.files(kept, [root / id for id in kept], needed=not truth_only), strict=True))
    if not truth_only:
        if masks:
            parts = [(id, file) for id in kept for file in (*masks[id][0], masks[id][1]) if file]
            problems.files([id for id, _ in parts], [root / file for _, file in parts])
        kept = problems.left(kept, folder)
    if boxed:
        boxes = in_groups(kept, owners, values)
    told = [None if id in problems.bare else id for id in kept]
    every = chain(labels.values(), *map(_labels, splits))
    return Pictures(
        root,
        kept,
        [files[id] for id in kept],
        labels=[labels.get(id) for id in told],
        boxes=boxes and [None if id is None else found for id, found in zip(told, boxes, strict=True)],
        masks=masks and [masks.get(id) and _paths(root, *masks[id]) for id in told],
        sizes=sizes and [sizes.get(id) for id in told],
        class_names=class_names((folder, folder.parent, root), every),
    )


def _has_boxes(path: Path, problems: Problems) -> bool:
    first = next(problems.lines(path), None)
    if first is None:
        raise ValueError(f"{path} is empty: expected lines `path,x0,y0,x1,y1` or `path,mask,ignore`")
    return first[1].count(",") != 2


def _boxes(
    path: Path, sizes: dict[str, tuple[int, int]], plain: Callable[[str], str], problems: Problems
) -> tuple[list[str], np.ndarray]:
    """The picture of each box, and the boxes [M, 4], of pictures whose size is known."""
    owners, values, wheres = [], [], []
    for number, (id, *texts) in problems.rows(path, ("path", "x0", "y0", "x1", "y1")):
        id, box = plain(id), numbers(texts)
        if box is None:
            problems.doubt(f"{path}:{number}", f"expected four numbers, got {','.join(texts)}", id)
        elif id not in sizes:
            problems.doubt(f"{path}:{number}", f"{id} is not among the pictures", id)
        else:
            owners.append(id)
            values.append(box)
            wheres.append(f"{path}:{number}")
    array = np.array(values, np.float64).reshape(-1, 4)
    problems.boxes(owners, wheres, array, np.array([sizes[id] for id in owners]).reshape(-1, 2))
    return owners, array


def _masks(path: Path, plain: Callable[[str], str], problems: Problems) -> _Masks:
    masks: _Masks = {}
    for number, line in problems.lines(path):
        id, *files = line.rsplit(",", 2)
        id = plain(id)
        if len(files) != 2 or not (id and files[0]):
            problems.doubt(f"{path}:{number}", f"expected `path,mask,ignore`, got {line!r}", id or None)
            continue
        for problem in filter(None, (id_problem(file) for file in files if file)):
            problems.doubt(f"{path}:{number}", f"mask {','.join(files)}: {problem}", id)
        parts, ignore = masks.get(id, ([], None))
        if files[1] and ignore:
            problems.doubt(f"{path}:{number}", f"{id} has two files of what is to be ignored", id)
        masks[id] = [*parts, files[0]], files[1] or ignore
    return masks


def _paths(root: Path, parts: list[str], ignore: str | None) -> tuple[list[Path], Path | None]:
    return [root / part for part in parts], root / ignore if ignore else None


def _near(folder: Path) -> list[Path]:
    near = [folder, *folder.resolve().parents[:2]]
    return [*near, *(root / "images" for root in near)]


def _labels(folder: Path) -> Iterator[int]:
    """The classes that another split has, as far as they can be read."""
    for _, (_, text) in Problems([]).rows(folder / "class_labels.txt", ("path", "class")):
        label = whole(text)
        if label is not None:
            yield label
