"""Data sets by name or by the layout of their files.

A format is a module in `fastcam/data/readers/`, and a line in `FORMATS`.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fastcam.data import shapes
from fastcam.data.names import ordered, tidy
from fastcam.data.readers import (
    catdog,
    coco,
    cub,
    folder,
    huggingface,
    ilsvrc,
    lists,
    masks,
    stl10,
    voc,
    webdataset,
    wsol,
)
from fastcam.data.reading import Faults, Format, Problems, Request, choose_split
from fastcam.data.sample import Collection
from fastcam.data.scenes import Scenes
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

FORMATS: dict[str, Format] = {  # in the order in which they are tried; the last ones fit much
    "wsol": wsol.FORMAT,
    "cub": cub.FORMAT,
    "ilsvrc": ilsvrc.FORMAT,
    "coco": coco.FORMAT,
    "voc": voc.FORMAT,
    "masks": masks.FORMAT,
    "stl10": stl10.FORMAT,
    "webdataset": webdataset.FORMAT,
    "list": lists.FORMAT,
    "catdog": catdog.FORMAT,
    "folder": folder.FORMAT,
    "hf": huggingface.FORMAT,
    "shapes": shapes.FORMAT,
}


def load(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Collection:
    """Open a data set.

    Samples are of upright pictures, and so are their boxes, sizes and masks. Where EXIF turns a picture, and a data set
    tells a size, or has a mask, of the picture as it is stored, these are turned along; so are boxes without a size
    that fit only that. Where sizes cannot tell (half turns, mirrored and square pictures) they are taken as those of
    the data set's other turned pictures: all as stored, or all upright, else the picture is refused. If there are none,
    they are taken for upright, with a warning. Sizes of the picture's proportions are those of a larger or smaller
    copy. Others are refused by coco, voc, ilsvrc and masks, when the picture is asked for; wsol, list, webdataset and
    hf tell sizes on purpose, whatever the pictures were squashed to.

    A picture's `classes` are all that is in it, where the layout tells that; its `label` is one class:

    - voc, coco, and hf with classes of objects: classes of all objects, difficult ones and crowds, too; the label is
      the class with the largest total area of boxes.
    - list, webdataset, hf: classes of a list, or in a list's rows; the label is the only one, that which is told
      besides, or in a list that with the largest total area of boxes, else None.
    - Others have one class a picture, which is the label, and classes None; see `classes_of`.

    Args:
        source: a folder or a file, or "shapes" for the drawn data set ("./shapes" is a folder; a folder of that name
            must be called so); or several tar shards.
        split: "train", "val" or "test"; "val" and "test" stand for each other where there is only one of them. STL-10
            has "unlabeled" and "fold0" to "fold9", too. None is all, or, where splits are files or folders of their
            own, the only one there is.
        format: one of `FORMATS`; by default it is recognised by its layout.
        images: folder of the pictures, where it is not where the format has it.
        truth_only: labels, boxes and sizes alone are wanted: picture files need not exist.
        bad: a list to which (id, reason) is appended for each picture that is malformed or missing and so left out;
            the id is file and line where it is not known. None raises at the first. What is wrong with a whole file
            always raises. A list that is a `Faults` keeps the pictures, those without annotations, too.

    Returns:
        The data set; a `Pictures` if it consists of picture files.

    Raises:
        FileNotFoundError: no such folder, or a file of the data set is missing.
        ValueError: an unknown format or split, a layout that is none of `FORMATS`, `images` where the format has none,
            a folder called "shapes" here, or malformed files; the message names file, and line or element.
        ImportError: the format is hf, and the package `datasets` is not installed.
    """
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")
    problems = Problems(bad)
    if not isinstance(source, str | os.PathLike):
        if format not in (None, "webdataset") or split is not None or images is not None:
            raise ValueError(f"several paths are shards of one webdataset, without split and images, got {len(source)}")
        return webdataset.read_shards(list(map(Path, source)), Request(Path(), None, None, truth_only, problems))
    path, name = _recognise(source, format)
    known = FORMATS[name]
    if images is not None and known.complete:
        raise ValueError(f"{name} has its pictures in its own place, got `images` {images}")
    split = _split(known, path, split)
    return known.read(Request(path, split, None if images is None else Path(images), truth_only, problems))


def load_scenes(
    source: str | os.PathLike[str],
    split: str | None = None,
    format: str | None = None,
    images: str | os.PathLike[str] | None = None,
    *,
    scenes: Mapping[str, str] | None = None,
    bad: list[tuple[str, str]] | None = None,
) -> Scenes:
    """Open a data set of scenes in which objects are marked.

    A picture's class is that of its scene: with COCO's JSON and masks the folder that it is in, with WSOL metadata that
    of class_labels.txt. Objects are annotations with their categories in COCO's JSON (polygons, run lengths or boxes;
    crowds, too), mask files `SCENE/x_NAME.png` of `SCENE/x.jpg`, or lines `path,x0,y0,x1,y1,name` or `path,mask,name`
    of an objects.txt in the WSOL metadata.

    Args:
        source: a folder or a file.
        split: as for `load`.
        format: "coco", "masks" or "wsol"; by default it is recognised.
        images: folder of the pictures, where it is not where the format has it.
        scenes: names of the pictures' scenes by id, in place of what the data set says.
        bad: as for `load`, but no `Faults`; pictures that `scenes` does not name are bad, too.

    Returns:
        The scenes. Where nothing tells the classes, their `labels` are None.

    Raises:
        FileNotFoundError: no such folder, or a file of the data set is missing.
        ValueError: an unknown format or split, a layout that has no scenes, `scenes` names none of the pictures, or
            malformed files; the message names file, and line or element.
    """
    formats = {name: known for name, known in FORMATS.items() if known.scenes is not None}
    if isinstance(bad, Faults):
        raise ValueError("scenes need what is known of their objects: `bad` must be a plain list or None, got Faults")
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")
    if not (path := Path(source)).exists():
        raise FileNotFoundError(f"no data set at {path}")
    if format not in (None, *formats):
        raise ValueError(f"scenes with objects are of the formats {', '.join(formats)}, got {format!r}")
    # Masks need not have the names by which their layout is recognised elsewhere.
    name = format or next((name for name in ("wsol", "coco") if formats[name].fits(path)), "masks")
    known = formats[name]
    if (name == "masks" and not path.is_dir()) or (name != "masks" and not known.fits(path)):
        raise ValueError(f"{path} does not look like {name}: {known.layout}")
    problems = Problems(bad)
    images = None if images is None else Path(images)
    assert known.scenes is not None
    found = known.scenes(Request(path, _split(known, path, split), images, False, problems))
    if scenes is None:
        return found
    names = ordered(map(tidy, scenes.values()))
    if not any(id in scenes for id in found.ids):
        raise ValueError(f"`scenes` names {len(scenes)} pictures, but none of {path}, such as {found.ids[0]!r}")
    for id in found.ids:
        if id not in scenes:
            problems.refuse(str(path), f"`scenes` does not name the picture {id}", id)
    found = found.subset(place for place, id in enumerate(found.ids) if id in scenes)
    found.labels, found.class_names = [names.index(tidy(scenes[id])) for id in found.ids], tuple(names)
    found.classes = None
    return found


def _split(known: Format, path: Path, split: str | None) -> str | None:
    """The split that is read, None for all."""
    if split is not None or not known.whole(path):
        available = known.splits(path)
        if available or split is not None:
            return choose_split(split, available, path)
    return split


def splits(source: str | os.PathLike[str], format: str | None = None) -> list[str]:
    """Tell into which splits a data set is divided.

    Args:
        source: as for `load`.
        format: as for `load`.

    Returns:
        Their names, without STL-10's folds; [] if it is not divided.

    Raises:
        FileNotFoundError, ValueError: as `load`.
    """
    path, name = _recognise(source, format)
    return [split for split in FORMATS[name].splits(path) if not split.startswith("fold")]


def _recognise(source: str | os.PathLike[str], format: str | None) -> tuple[Path, str]:
    path = Path(source)
    if format is not None and format not in FORMATS:
        raise ValueError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    if format == "shapes":
        return path, "shapes"
    if os.fspath(source) == "shapes" and format is None:
        if not path.exists():
            return path, "shapes"
        if isinstance(source, str):
            raise ValueError(
                "shapes is the name of the drawn data set, and there is a folder of that name: "
                "write ./shapes for the folder; for the drawn pictures, rename it or say that the format is shapes"
            )
    if not path.exists():
        raise FileNotFoundError(f"no data set at {path}")
    if format is None:
        format = next((name for name, known in FORMATS.items() if known.fits(path)), None)
        if format is None:
            if picture := _loose_picture(path):
                raise ValueError(
                    f"{path} has pictures, but no labels: put each into a folder of its class, as "
                    f"{path / 'CLASS' / picture}, or give them as a CSV with columns path and label"
                )
            known = "; ".join(f"{name}: {known.layout}" for name, known in FORMATS.items())
            raise ValueError(f"{path} has none of the known layouts ({known})")
    elif format == "catdog" and all((path / "train" / name).is_dir() for name in ("dog", "cat")):
        format = "folder"  # what `fastcam data catdog` makes
    elif not FORMATS[format].fits(path):
        raise ValueError(f"{path} does not look like {format}: {FORMATS[format].layout}")
    return path, format


def _loose_picture(path: Path) -> str | None:
    """The name of a picture that lies in a folder itself, the first by name, if there is one."""
    if not path.is_dir():
        return None
    names = (entry.name for entry in path.iterdir() if entry.suffix.lower() in SUFFIXES and not hidden(entry.name))
    return min(names, default=None)
