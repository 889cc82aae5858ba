"""WebDataset: tar files with x.jpg, x.cls and x.json for each sample x."""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from fastcam.data.names import id_problem, text_of, whole
from fastcam.data.pictures import Packed, Pictures
from fastcam.data.reading import Format, Found, Problems, Request, assemble, class_names, first_places, is_side
from fastcam.pictures import SUFFIXES
from fastcam.pictures.finding import hidden

_MAX_PICTURE, _MAX_TEXT = 1 << 28, 1 << 20  # bytes
_TEXTS = ("cls", "json")
_FIELDS = frozenset(  # what pictures are called that together are one sample
    (
        *("image", "img", "input", "photo", "rgb", "mask", "masks", "seg", "segm", "segmentation", "semantic"),
        *("instance", "instances", "label", "labels", "gt", "target", "output", "alpha", "depth", "normal", "normals"),
        *("edge", "edges", "flow", "pose", "sketch", "left", "right", "thumb", "thumbnail", "preview", "annotation"),
    )
)
# What tarfile raises on damaged headers: it reads as many bytes as they say, negative and immense numbers included.
_DAMAGED = (tarfile.TarError, ValueError, OverflowError, RecursionError, MemoryError)


class _Tar(tarfile.TarFile):
    members: list[tarfile.TarInfo]  # which tarfile would all keep


def read_shards(shards: Sequence[Path], request: Request) -> Pictures:
    """Index tar files, in one pass over their headers; nothing is extracted, and pickled members are never read.

    A sample's members follow each other and share a name up to the first dot after which only words follow, so that
    v1.0_x.jpg and v1.0_x.seg.png are of sample v1.0_x: one picture, x.cls (class index, in digits) and x.json (an
    object; used are label, labels, boxes as [[x0, y0, x1, y1], …], width and height). `labels` is a list of the indices
    of all classes of a picture, [] of one with none; the label, where that is told, too, is one of them, else it is the
    class of a picture that has but one. Where there is no x.jpg, a single
    x.NAME.jpg is the picture; of several, each is one of its own, with x.NAME.cls, but for those whose NAME is that of
    a part of samples, such as mask or depth. Other members, and hidden ones, are passed over and counted. Classes are
    named by classes.txt beside the shards, one name a line, if there is one, else by numbers. Ids are SHARD/MEMBER,
    with SHARD relative to the deepest folder that holds all shards.
    """
    problems = request.problems
    base = os.path.commonpath([os.path.abspath(shard.parent) for shard in shards])
    found = [
        entry for shard in shards for entry in _samples(shard, Path(os.path.relpath(shard, base)).as_posix(), problems)
    ]
    labelled = any(entry.label is not None or entry.classes is not None for entry in found)
    for entry in found if labelled else ():
        if entry.label is None and entry.classes is None:
            problems.fault(entry.where, "expected a class in .cls or .json as other samples have", entry.id)
    root = shards[0].parent
    names = class_names([root], first_places(found))
    return assemble(request, root, found, names if labelled else (), source=root, resized=True)


def _samples(shard: Path, name: str, problems: Problems) -> Iterator[Found]:
    for _, members in groupby(_shown(shard, problems), lambda member: _divided(member)[0]):
        parts: dict[str, Packed] = {}
        others: list[Packed] = []
        for member in members:
            suffix = _divided(member)[1].lower()
            kind = "picture" if suffix in SUFFIXES else suffix[1:]
            if kind != "picture" and kind not in _TEXTS:
                others.append(member)
                continue
            if kind in parts:
                problems.refuse(str(member), f"another {kind} of the same sample", f"{name}/{member.name}")
            parts[kind] = member
        pictures = [parts.pop("picture")] if "picture" in parts else _pictures(others)
        if len(pictures) > 1 and parts:
            several = " and ".join(os.path.basename(picture.name) for picture in pictures)
            problems.fault(str(parts.popitem()[1]), f"expected one picture of this sample, got {several}")
            parts.clear()
        beside: dict[str, dict[str, Packed]] = {}  # texts of several dots, by name without suffix
        for member in others:
            if _last(member)[1:] in _TEXTS:
                beside.setdefault(os.path.splitext(member.name)[0], {})[_last(member)[1:]] = member
        used = {picture.name for picture in pictures}
        for picture in pictures:
            own = beside.get(os.path.splitext(picture.name)[0], {})
            for kind in own.keys() & parts.keys():
                problems.fault(str(own[kind]), f"another {kind} of the same sample", f"{name}/{picture.name}")
            used.update(member.name for member in own.values())
            yield from _sample({"picture": picture} | parts | own, name, problems)
        if parts and not pictures:
            yield from _sample(parts, name, problems)
        problems.ignored.update(_last(member) for member in others if member.name not in used)


def _shown(shard: Path, problems: Problems) -> Iterator[Packed]:
    """The members, without hidden ones, which archivers leave beside files, also within a sample."""
    for member in _members(shard, problems):
        if any(map(hidden, member.name.split("/"))):
            problems.ignored[_last(member)] += 1
        else:
            yield member


def _pictures(members: Sequence[Packed]) -> list[Packed]:
    """The pictures among members of several dots: the only one, else those whose words name no part of a sample."""
    found = [member for member in members if _last(member) in SUFFIXES]
    words = [{word.rstrip("0123456789_-") for word in _divided(one)[1].lower().split(".")[1:-1]} for one in found]
    return found if len(found) == 1 else [one for one, own in zip(found, words, strict=True) if not own <= _FIELDS]


def _divided(member: Packed) -> tuple[str, str]:
    """A member's name up to the first dot that only words follow, which its sample shares, and all from there."""
    folder, name = os.path.split(member.name)
    first, *words = name.split(".")
    numbered = max((place for place, word in enumerate(words[:-1], 1) if not word[:1].isalpha()), default=0)
    suffix = "".join(f".{word}" for word in words[numbered:])
    return os.path.join(folder, ".".join([first, *words[:numbered]])), suffix


def _last(member: Packed) -> str:
    return os.path.splitext(member.name)[1].lower()


def _members(shard: Path, problems: Problems) -> Iterator[Packed]:
    """The regular files in a tar file."""
    if not shard.is_file():
        raise FileNotFoundError(f"no file {shard}")
    length, end = shard.stat().st_size, -1
    try:
        tar = _Tar.open(shard, "r:")
    except _DAMAGED as error:
        raise ValueError(f"{shard}: not an uncompressed tar file: {str(error) or type(error).__name__}") from error
    with tar:
        while True:
            tar.members = []
            try:
                member = tar.next()
            except _DAMAGED as error:
                raise ValueError(f"{shard}: damaged after byte {end}: {str(error) or type(error).__name__}") from error
            if member is None:
                break
            if not end < tar.offset <= length or member.size < 0:
                raise ValueError(f"{shard}: {member.name!r} is cut off: the file has {length} bytes")
            end = tar.offset
            name = "/".join(part for part in member.name.split("/") if part != ".")
            problem = id_problem(name) or (None if member.isreg() else "it is no regular file")
            if member.isdir():
                continue
            if problem or member.issparse():
                problems.refuse(str(shard), f"member {name!r}: {problem or 'it is sparse'}")
            else:
                yield Packed(shard, name, member.offset_data, member.size)
        # tarfile takes a damaged header for the end.
        tar.fileobj.seek(tar.offset)
        if any(tar.fileobj.read(tarfile.BLOCKSIZE)):
            raise ValueError(f"{shard}: damaged at byte {tar.offset}: no header of a member")


def _sample(parts: dict[str, Packed], shard: str, problems: Problems) -> Iterator[Found]:
    picture = parts.get("picture")
    if picture is None:
        first = next(iter(parts.values()))
        problems.fault(str(first), f"no picture of this sample ({', '.join(sorted(SUFFIXES))})")
        return
    id = f"{shard}/{picture.name}"
    entry = Found(str(picture), id, picture)
    try:
        if picture.size > _MAX_PICTURE:
            raise ValueError(f"{picture}: {picture.size} bytes, more than {_MAX_PICTURE}")
        if "json" in parts:
            entry = _described(entry, parts["json"])
        if "cls" in parts:
            text = _text(parts["cls"]).strip()
            label = whole(text)
            if label is None or entry.label not in (None, label):
                raise ValueError(f"{parts['cls']}: expected a class index, that of the json if it tells, got {text!r}")
            entry = entry._replace(label=label)
        classes = entry.classes
        if classes is not None and entry.label not in (None, *classes):
            raise ValueError(f"{parts['json']}: expected label {entry.label} among `labels`, got {list(classes)}")
        if classes is not None and len(classes) == 1:
            entry = entry._replace(label=classes[0])
    except ValueError as error:
        problems.fault_of(error, id)
    yield entry


def _text(member: Packed) -> str:
    if member.size > _MAX_TEXT:
        raise ValueError(f"{member}: {member.size} bytes, more than {_MAX_TEXT}")
    with member.path.open("rb") as file:
        file.seek(member.offset)
        return text_of(file.read(member.size), member)


def _described(entry: Found, member: Packed) -> Found:
    text = _text(member)
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{member}: not well-formed JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{member}: expected an object")
    label, labels, boxes = fields.get("label"), fields.get("labels"), fields.get("boxes")
    width, height = fields.get("width"), fields.get("height")
    if label is not None and not _is_class(label):
        raise ValueError(f"{member}: expected `label` to be a class index, got {label!r}")
    if labels is not None and not (
        isinstance(labels, list) and all(map(_is_class, labels)) and len(set(labels)) == len(labels)
    ):
        raise ValueError(f"{member}: expected `labels` to be a list of different class indices, got {labels!r:.100}")
    if width is not None or height is not None:
        if not (is_side(width) and is_side(height)):
            raise ValueError(f"{member}: expected positive whole numbers `width` and `height`, got {width, height}")
        entry = entry._replace(size=(width, height))
    if boxes is not None:
        try:
            array = np.array(boxes, np.float64)
            if array.shape != (len(boxes), 4) and boxes != []:
                raise ValueError
        except (ValueError, TypeError, OverflowError) as error:
            raise ValueError(f"{member}: expected `boxes` to be a list of [x0, y0, x1, y1], got {boxes!r}") from error
        entry = entry._replace(boxes=array.reshape(-1, 4))
    return entry._replace(label=label, classes=labels)


def _is_class(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _shards(path: Path) -> dict[str, list[Path]]:
    """Tar files by split: train-000000.tar or train/000000.tar."""
    if path.is_file():
        return {path.stem: [path]} if path.suffix.lower() == ".tar" else {}
    found: dict[str, list[Path]] = {}
    for file in sorted([*path.glob("*.[tT][aA][rR]"), *path.glob("*/*.[tT][aA][rR]")]):
        if any(map(hidden, file.relative_to(path).parts)):
            continue
        name = file.name if file.parent == path else file.parent.name
        found.setdefault(re.split(r"[-_.0-9]", name)[0], []).append(file)
    return found


FORMAT = Format(
    "a .tar file, or SPLIT-*.tar or SPLIT/*.tar, uncompressed",
    fits=lambda path: bool(_shards(path)),
    splits=lambda path: list(_shards(path)),
    read=lambda request: read_shards(_shards(request.path)[request.part], request),
    complete=True,
)
