"""WSOL metadata folders: the field's standard text files, which describe any data set.

image_ids.txt has lines `path`, class_labels.txt `path,class`, image_sizes.txt `path,width,height`, localization.txt
`path,x0,y0,x1,y1` for each box, or `path,mask,ignore` for each mask file (one of a picture's rows names what is to be
ignored, in the others that is empty). Scenes have their objects in objects.txt beside these, see `scenes`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastcam.data.names import id_problem, plain_id, tidy, whole
from fastcam.data.pictures import Masks, Pictures
from fastcam.data.reading import Format, Problems, Request, class_names, find_root, in_groups, known, numbers
from fastcam.data.scenes import Scenes, Shape, box_shape
from fastcam.pictures.finding import hidden

_TRIED = 20  # pictures that are looked for to find their folder; some may be missing


class _MaskNames(NamedTuple):
    """The names of a picture's mask files, see `Masks`; `ignore` may be ""."""

    objects: list[str]
    ignore: str

    def under(self, root: Path) -> Masks:
        return Masks([root / name for name in self.objects], root / self.ignore if self.ignore else None)


def read(request: Request) -> Pictures:
    """Read a metadata folder, one of a split if there are several.

    localization.txt may be missing (as for training splits), image_sizes.txt only where there are no boxes, which stay
    as written. Paths, of masks, too, are relative to the folder itself, or one of the two above, or a folder "images"
    in one of these, whichever has one of the first pictures. Classes are named by classes.txt, one name a line, in the
    folder, the one above, or that of the pictures, if there is one, else by numbers, of those in all splits.
    """
    folder, others, problems = _base(request.path), list[Path](), request.problems
    if request.split is not None:
        others = [folder / name for name in _splits(request.path) if name != request.split]
        others = [other for other in others if (other / "class_labels.txt").is_file()]
        folder /= request.split
    ids: dict[str, None] = {}
    path = folder / "image_ids.txt"
    lines = list(problems.lines(path))
    root = request.images or find_root(_near(folder), [id for _, id in lines[:_TRIED]])
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
            problems.fault(f"{path}:{number}", f"expected a class index of at least 0, got {text!r}", id)
        elif problems.once(f"{path}:{number}", id, labels):
            labels[id] = label
    problems.paired(ids, path, labels)

    sizes: dict[str, tuple[int, int]] = {}
    localization, path = folder / "localization.txt", folder / "image_sizes.txt"
    boxed = localization.is_file() and _has_boxes(localization, problems)
    if path.is_file() or boxed:
        for number, (id, *texts) in problems.rows(path, ("path", "width", "height")):
            id, (width, height) = plain(id), map(whole, texts)
            if not (width and height):
                expected = "expected two positive whole numbers"
                problems.fault(f"{path}:{number}", f"{expected}, got {','.join(texts)}", id)
            elif problems.once(f"{path}:{number}", id, sizes):
                sizes[id] = width, height
        problems.paired(ids, path, sizes)

    owners, values, masks = list[str](), np.zeros((0, 4)), dict[str, _MaskNames]()
    if boxed:
        owners, values = _boxes(localization, sizes, plain, problems)
        problems.paired(ids, localization, dict.fromkeys(owners))
    elif localization.is_file():
        masks = _masks(localization, plain, problems)
        problems.paired(ids, localization, masks)

    kept = problems.left(ids, folder)
    if root is None and not request.truth_only:
        raise FileNotFoundError(f"no picture {kept[0]} in {folder} or above: tell the folder of the pictures")
    root = root or folder
    files = dict(
        zip(kept, problems.files(kept, [root / id for id in kept], needed=not request.truth_only), strict=True)
    )
    masked = {id: names.under(root) for id, names in masks.items()}
    if not request.truth_only:
        parts = [(id, file) for id in kept if id in masked for file in masked[id].files]
        problems.files([id for id, _ in parts], [file for _, file in parts])
        kept = problems.left(kept, folder)
    every = chain(labels.values(), *map(_labels, others))
    bare = problems.bare
    boxes = in_groups(kept, owners, values) if boxed else [None] * len(kept)
    return Pictures(
        root,
        kept,
        [files[id] for id in kept],
        labels=[None if id in bare else labels.get(id) for id in kept],
        boxes=known([None if id in bare else found for id, found in zip(kept, boxes, strict=True)]),
        masks=known([None if id in bare else masked.get(id) for id in kept]),
        sizes=known([None if id in bare else sizes.get(id) for id in kept]),
        class_names=class_names((folder, folder.parent, root), every),
    )


def scenes(request: Request) -> Scenes:
    """Read a metadata folder whose classes are those of scenes, and the objects in objects.txt.

    It has a line `path,x0,y0,x1,y1,name` for each box of an object, or `path,mask,name` for each mask file, paths as in
    the other files. Pictures without a line have no objects; localization.txt is not used.
    """
    pictures, problems = read(request), request.problems
    folder = _base(request.path) / (request.split or "")
    path = folder / "objects.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: the objects of scenes, lines `path,x0,y0,x1,y1,name`")
    places = {id: place for place, id in enumerate(pictures.ids)}
    named: list[list[tuple[str, Shape]]] = [[] for _ in places]
    owners, wheres, boxes, masks = list[str](), list[str](), list[list[float]](), list[tuple[str, Path]]()
    for number, line in problems.lines(path):
        where, row = f"{path}:{number}", line.strip().rsplit(",", 5)
        box = numbers(row[1:5]) if len(row) == 6 else None
        row = row if box is not None else line.strip().rsplit(",", 2)
        id, name = plain_id(row[0], pictures.root), tidy(row[-1])
        if len(row) < 3 or not name:
            problems.fault(where, f"expected `path,x0,y0,x1,y1,name` or `path,mask,name`, got {line!r}", id)
        elif id not in places:
            if id not in problems.dropped:
                problems.fault(where, f"{id} is not among the pictures", id)
        elif box is not None:
            owners.append(id)
            wheres.append(where)
            boxes.append(box)
            named[places[id]].append((name, box_shape(box)))
        elif problem := id_problem(row[1]):
            problems.fault(where, f"mask {row[1]}: {problem}", id)
        else:
            masks.append((id, pictures.root / row[1]))
            named[places[id]].append((name, pictures.root / row[1]))
    sizes = [pictures.sizes[places[id]] if pictures.sizes else None for id in owners]
    extents = np.array([size or (np.inf, np.inf) for size in sizes]).reshape(-1, 2)
    problems.boxes(owners, wheres, np.array(boxes, np.float64).reshape(-1, 4), extents)
    if not request.truth_only:
        problems.files([id for id, _ in masks], [file for _, file in masks])
    kept = [places[id] for id in problems.left(pictures.ids, path)]
    return Scenes.of(pictures.subset(kept), [named[place] for place in kept])


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
            problems.fault(f"{path}:{number}", f"expected four numbers, got {','.join(texts)}", id)
        elif id not in sizes:
            problems.fault(f"{path}:{number}", f"{id} is not among the pictures", id)
        else:
            owners.append(id)
            values.append(box)
            wheres.append(f"{path}:{number}")
    array = np.array(values, np.float64).reshape(-1, 4)
    problems.boxes(owners, wheres, array, np.array([sizes[id] for id in owners]).reshape(-1, 2))
    return owners, array


def _masks(path: Path, plain: Callable[[str], str], problems: Problems) -> dict[str, _MaskNames]:
    masks: dict[str, _MaskNames] = {}
    for number, line in problems.lines(path):
        id, *files = line.rsplit(",", 2)
        id = plain(id)
        if len(files) != 2 or not (id and files[0]):
            problems.fault(f"{path}:{number}", f"expected `path,mask,ignore`, got {line!r}", id or None)
            continue
        for problem in filter(None, (id_problem(file) for file in files if file)):
            problems.fault(f"{path}:{number}", f"mask {','.join(files)}: {problem}", id)
        parts, ignore = masks.get(id, _MaskNames([], ""))
        if files[1] and ignore:
            problems.fault(f"{path}:{number}", f"{id} has two files of what is to be ignored", id)
        masks[id] = _MaskNames([*parts, files[0]], files[1] or ignore)
    return masks


def _near(folder: Path) -> list[Path]:
    near = [folder, *folder.resolve().parents[:2]]
    return [*near, *(root / "images" for root in near)]


def _labels(folder: Path) -> Iterator[int]:
    """The classes that another split has, as far as they can be read."""
    for _, (_, text) in Problems([]).rows(folder / "class_labels.txt", ("path", "class")):
        label = whole(text)
        if label is not None:
            yield label


def _base(path: Path) -> Path:
    return path / "metadata" if (path / "metadata").is_dir() else path


def _splits(path: Path) -> list[str]:
    found = (file.parent.name for file in _base(path).glob("*/image_ids.txt"))
    return sorted(name for name in found if not hidden(name))


FORMAT = Format(
    "image_ids.txt, class_labels.txt, image_sizes.txt and localization.txt, in the folder, in metadata/, or in a "
    "folder for each split",
    fits=lambda path: bool(_splits(path)) or (_base(path) / "image_ids.txt").is_file(),
    splits=_splits,
    read=read,
    scenes=scenes,
)
