"""Pictures with mask PNGs beside them, as OpenImages30k has them: SPLIT/CLASS/x.jpg, x_NAME.png, x_ignore.png."""

import re
from pathlib import Path, PurePosixPath

from fastcam.data.names import ordered, tidy
from fastcam.data.pictures import Masks, Pictures
from fastcam.data.reading import HELD_OUT, Format, Found, Request, assemble
from fastcam.data.scenes import Scenes, Shape
from fastcam.pictures import find_pictures
from fastcam.pictures.finding import absolute, hidden

_NUMBER = re.compile(r"_\d+$")


def read(request: Request) -> Pictures:
    """Read pictures in class folders, or in one folder without classes, and their masks.

    The masks of `CLASS/x.jpg` are the PNG files `CLASS/x.png` and `CLASS/x_*.png`; `CLASS/x_ignore.png` is what is to
    be ignored. Everything that is not black counts. Classes are numbered by name (see `fastcam.data.names.ordered`).
    Without another folder of pictures, PNGs are masks. The pictures must be there, since nothing else has their names.
    """
    problems, (folder, images) = request.problems, _place(request.path)
    images, split = request.images or images, request.split or ""
    folder, images = folder / split, None if images is None else images / split
    root, source = Path(absolute(images or folder)), Path(absolute(folder))
    pictures: dict[str, Path] = {}  # by path without suffix
    for _, path in find_pictures([root], problems.ignored):
        if root == source and path.suffix.lower() == ".png":
            continue
        id = path.relative_to(root)
        stem = id.with_suffix("").as_posix()
        if stem in pictures:
            problems.refuse(str(path), "another picture has this name, with another suffix", id.as_posix())
        pictures[stem] = id
    masks: dict[str, list[Path]] = {stem: [] for stem in pictures}
    ignored: dict[str, Path] = {}
    for path in sorted(source.rglob("*.[pP][nN][gG]")):
        if any(map(hidden, path.relative_to(source).parts)):
            if root != source:  # else they are counted already
                problems.ignored["hidden .png"] += 1
            continue
        name = stem = path.relative_to(source).with_suffix("").as_posix()
        while stem not in pictures and "_" in stem:
            stem = stem.rpartition("_")[0]
        if stem not in pictures:
            problems.fault(str(path), f"there is no picture for this mask in {root}")
        elif name == f"{stem}_ignore":
            ignored[stem] = path
        else:
            masks[stem].append(path)
    folders = {id.parts[0] if len(id.parts) > 1 else "" for id in pictures.values()}
    if "" in folders and len(folders) > 1:
        raise ValueError(f"{root}: expected pictures in class folders, or all without, got both")
    names = ordered(folders - {""})
    found = []
    for stem, id in pictures.items():
        if not masks[stem]:
            problems.fault(str(root / id), f"there is no mask {stem}.png or {stem}_*.png in {source}", id.as_posix())
        label = names.index(id.parts[0]) if names else None
        masked = Masks(masks[stem], ignored.get(stem))
        found.append(Found(str(root / id), id.as_posix(), root / id, label, masks=masked))
    return assemble(request, root, found, names, source=source)


def scenes(request: Request) -> Scenes:
    """Read the pictures as scenes: CLASS is that of the scene, NAME that of an object, with a number behind it or not.

    `kitchen/x_sink.png`, or `kitchen/x_sink_1.png` and `kitchen/x_sink_2.png`, are the sinks in `kitchen/x.jpg`.
    """
    pictures, problems = read(request), request.problems
    if {"train", *HELD_OUT}.issuperset(pictures.class_names or [""]):
        raise ValueError(
            f"{request.path} has splits, {', '.join(pictures.class_names)}: give the folder of one of them"
        )
    named: list[list[tuple[str, Shape]]] = []
    for id, masks in zip(pictures.ids, pictures.masks or [None] * len(pictures), strict=True):
        named.append([])
        for file in masks.objects if masks else ():
            name = tidy(_NUMBER.sub("", file.stem[len(PurePosixPath(id).stem) :]).replace("_", " "))
            if name:
                named[-1].append((name, file))
            else:
                problems.fault(str(file), f"expected a mask called {PurePosixPath(id).stem}_NAME.png, of an object", id)
    kept = [place for place, id in enumerate(pictures.ids) if id not in problems.dropped]
    problems.left(pictures.ids, request.path)
    return Scenes.of(pictures.subset(kept), [named[place] for place in kept])


def _place(path: Path) -> tuple[Path, Path | None]:
    """Folders of masks and pictures; None if they lie together."""
    return (path / "masks", path / "images") if (path / "masks").is_dir() else (path, None)


def _splits(path: Path) -> list[str]:
    return [name for name in ("train", *HELD_OUT) if any(_place(path)[0].glob(f"{name}/*/*_ignore.png"))]


FORMAT = Format(
    "SPLIT/CLASS/x.jpg with x_NAME.png and x_ignore.png (OpenImages30k), or images/ and masks/ with the same names",
    fits=lambda path: bool(_splits(path) or _place(path)[1]) or any(path.glob("*/*_ignore.png")),
    splits=_splits,
    read=read,
    scenes=scenes,
)
