"""Pictures with mask PNGs beside them, as OpenImages30k has them: SPLIT/CLASS/x.jpg, x_NAME.png, x_ignore.png."""

from pathlib import Path

from fastcam.data.names import ordered
from fastcam.data.pictures import Pictures
from fastcam.data.problems import Problems
from fastcam.data.reading import Found, assemble
from fastcam.pictures import find_pictures
from fastcam.pictures.finding import absolute, hidden


def read_masks(
    folder: Path,
    images: Path | None = None,
    *,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Pictures:
    """Read pictures in class folders, or in one folder without classes, and their masks.

    The masks of `CLASS/x.jpg` are the PNG files `CLASS/x.png` and `CLASS/x_*.png`; `CLASS/x_ignore.png` tells what is
    to be ignored. Everything that is not black counts. Classes are numbered by name (see
    `fastcam.data.names.ordered`).

    Args:
        folder: with the masks.
        images: folder of the pictures, by default `folder`, where PNGs then are masks.
        truth_only: changes nothing: the pictures must be there, since nothing else tells their names.
        bad: see `fastcam.data.load`.

    Returns:
        The pictures, ids relative to their folder.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: a picture without a mask, a mask without a picture, two pictures that only differ in their suffix,
            pictures both in class folders and beside them.
    """
    problems = Problems(bad)
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
            problems.doubt(str(path), f"there is no picture for this mask in {root}")
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
            problems.doubt(str(root / id), f"there is no mask {stem}.png or {stem}_*.png in {source}", id.as_posix())
        label = names.index(id.parts[0]) if names else None
        masked = masks[stem], ignored.get(stem)
        found.append(Found(str(root / id), id.as_posix(), root / id, label, masks=masked))
    return assemble(problems, source, root, found, names)
