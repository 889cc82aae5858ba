"""What readers of layouts share: what is asked of them, what they do with what does not fit, and how they end.

A reader is a module in `fastcam/data/readers/` with a `Format`, which has its line in `fastcam/data/loading.py`. It
makes a `Found` of each picture, and `assemble` checks these and makes the data set.
"""

import codecs
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeGuard, TypeVar

import numpy as np

from fastcam.data.names import check_utf8, id_problem, path_look, plain_id, tidy
from fastcam.data.pictures import Masks, Packed, Pictures
from fastcam.data.sample import Collection
from fastcam.data.scenes import Scenes
from fastcam.runs.schema import MAX_CLASSES

T = TypeVar("T")

HELD_OUT = ("val", "valid", "validation", "test")  # names of what is not trained on


class Faults(list[tuple[str, str]]):
    """A list for `bad` of `fastcam.data.load` where pictures count and not their annotations.

    All pictures are taken: those without annotations, and those whose annotations cannot be, without label, boxes and
    masks; only for the latter (id, reason) is appended. What is wrong with a picture's name raises.
    """


class Problems:
    """What a reader does with pictures that do not fit: raise at the first, or list and drop them all.

    Args:
        bad: where (id, reason) is appended for each picture left out; None to raise instead. `Faults` raise as None
            does, but where an annotation is wrong, the picture stays without.

    Attributes:
        lenient: whether they are `Faults`.
        dropped: ids of the pictures left out.
        bare: ids of the pictures whose annotations are left out.
        ignored: files that were passed over, by suffix.
    """

    def __init__(self, bad: list[tuple[str, str]] | None = None) -> None:
        self.faults = bad if isinstance(bad, Faults) else None
        self.bad = None if isinstance(bad, Faults) else bad
        self.lenient = self.faults is not None
        self.dropped: set[str] = set()
        self.bare: set[str] = set()
        self.ignored: Counter[str] = Counter()

    def refuse(self, where: str, reason: str, id: str | None = None) -> None:
        """Refuse a picture: raise ValueError with `where`, file and line or element, and the reason, or list it.

        Without an id, where the row does not even have that, it stands for itself.
        """
        self._refuse(f"{where}: {reason}", where, id)

    def fault(self, where: str, reason: str, id: str | None = None) -> None:
        """Refuse an annotation, and with it the picture unless `lenient`; without an id no picture is lost."""
        self._fault(f"{where}: {reason}", where, id)

    def fault_of(self, error: ValueError, id: str) -> None:
        """Refuse the annotation of a picture for an error that names the file."""
        if self.faults is None and self.bad is None:
            raise error
        self._fault(str(error), id, id)

    def _refuse(self, message: str, where: str, id: str | None) -> None:
        if self.bad is None:
            raise ValueError(message)
        if id is None:
            self.bad.append((where, message))
        elif id not in self.dropped:
            self.bad.append((id, message))
            self.dropped.add(id)

    def _fault(self, message: str, where: str, id: str | None) -> None:
        if self.faults is None:
            self._refuse(message, where, id)
        elif id is None or id not in self.bare:
            self.faults.append((where if id is None else id, message))
            self.bare.update([] if id is None else [id])

    def rows(
        self, path: Path, columns: Sequence[str], separator: str | None = ",", *, listing: bool = False
    ) -> Iterator[tuple[int, list[str]]]:
        """Read a text file without a header: for each row its line number, from 1, and a text for each column.

        The separator "," splits from the right, so that a path in the first column may have commas; None splits at
        white space from the left, so that the last column may have spaces. Where the file is the `listing` of the
        pictures, a malformed row loses one. ValueError also if the file has no rows.
        """
        count, number = len(columns) - 1, 0
        for number, line in self.lines(path):
            row = line.strip().split(None, count) if separator is None else line.rsplit(separator, count)
            if len(row) != count + 1 or not all(row):
                wanted = (separator or " ").join(columns)
                refuse = self.refuse if listing else self.fault
                refuse(f"{path}:{number}", f"expected `{wanted}`, got {line!r}")
                continue
            yield number, row
        if not number:
            raise ValueError(f"{path} is empty: expected lines `{(separator or ' ').join(columns)}`")

    def lines(self, path: Path) -> Iterator[tuple[int, str]]:
        """Read a text file in UTF-8 line by line, with line numbers from 1; blank lines are skipped."""
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
        content = path.read_bytes()
        check_utf8(content, path)
        for number, raw in enumerate(content.removeprefix(codecs.BOM_UTF8).split(b"\n"), 1):
            try:
                line = raw.rstrip(b"\r").decode()
            except UnicodeDecodeError:
                self.refuse(f"{path}:{number}", f"expected UTF-8, got {raw!r}")
                continue
            if line and not line.isspace():
                yield number, line

    def once(self, where: str, id: str, known: Iterable[str]) -> bool:
        """Whether an id is good and not among those that are known already; else it is refused."""
        problem = f"{id} comes twice" if id in known else id_problem(id)
        if problem:
            self.refuse(where, problem if id in known else f"{problem}, got {id!r}", id)
        return not problem

    def paired(self, ids: Iterable[str], path: Path, rows: Mapping[str, object]) -> None:
        """Refuse what one of two files lacks: that with the ids, or the one at `path`, which has `rows` by id."""
        known = dict.fromkeys(ids)
        for id in known:
            if id not in rows and id not in self.dropped:
                self.fault(str(path), f"nothing about {id}", id)
        for id in rows:
            if id not in known and id not in self.dropped:
                self.fault(str(path), f"{id} is not among the pictures", id)

    def boxes(
        self,
        ids: Sequence[str],
        wheres: Sequence[str],
        boxes: np.ndarray,
        sizes: np.ndarray | None = None,
        slack: float = 0,
    ) -> None:
        """Refuse boxes that are not finite, end before they begin, or lie outside their picture.

        Args:
            ids: the picture of each.
            wheres: file, and line or element, of each.
            boxes: float [M, 4], xyxy.
            sizes: [M, 2], width and height of the picture of each, if known.
            slack: pixels by which a box may stick out, for formats whose files round.
        """
        low, high = boxes[:, :2], boxes[:, 2:]
        wrong = ~(np.isfinite(boxes).all(1) & (high >= low).all(1) & (low >= -slack).all(1))
        if sizes is not None:
            wrong |= (high > sizes + slack).any(1)
        for index in np.flatnonzero(wrong).tolist():
            box = ", ".join(f"{edge:g}" for edge in boxes[index])
            if not np.isfinite(boxes[index]).all():
                reason = f"box {box} is not finite"
            elif (high[index] < low[index]).any():
                reason = f"box {box} ends before it begins: expected x0 <= x1 and y0 <= y1"
            else:
                size = "" if sizes is None else f" of {sizes[index, 0]}x{sizes[index, 1]}"
                reason = f"box {box} lies outside the picture{size}"
            self.fault(wheres[index], reason, ids[index])

    def files(self, ids: Sequence[str], files: Sequence[Path | Packed], *, needed: bool = True) -> list[Path | Packed]:
        """Find picture files, those that are not packed: of their name, else the only one that looks like it.

        Where they are `needed`, those that are missing, or may be any of several, are refused: FileNotFoundError.
        """
        listing, found = Listing(), list(files)
        lacking = {
            i: os.fspath(file)
            for i, file in enumerate(found)
            if not isinstance(file, Packed) and ids[i] not in self.dropped and file not in listing
        }
        if not lacking:
            return found
        taken = {os.fspath(file) for file in files if not isinstance(file, Packed) and file in listing}
        alike = {i: [file for file in listing.alike(path) if file not in taken] for i, path in lacking.items()}
        claims = Counter(file for candidates in alike.values() for file in candidates)
        for i, candidates in alike.items():
            if len(candidates) == 1 and claims[candidates[0]] == 1:
                found[i] = Path(candidates[0])
            elif needed:
                hint = f"; {' or '.join(f'{os.path.basename(file)!a}' for file in candidates)} may be meant"
                hint = hint if candidates else ""
                if self.bad is None:
                    raise FileNotFoundError(f"no picture {files[i]}, of which the data set tells{hint}")
                self.refuse(str(files[i]), f"no such picture{hint}", ids[i])
        return found

    def left(self, ids: Iterable[str], source: Path) -> list[str]:
        """Those of all ids that were not refused; ValueError if none is left of what was read from `source`."""
        kept = [id for id in ids if id not in self.dropped]
        if not kept:
            why = f" that are good: {self.bad[0][1]}" if self.bad else ""
            more = f" (the first of {len(self.bad)} faults)" if self.bad and len(self.bad) > 1 else ""
            raise ValueError(f"{source} has no pictures{why}{more}")
        return kept


@dataclass(frozen=True)
class Request:
    """What `fastcam.data.load` asks of a reader.

    Attributes:
        path: of the data set.
        split: one of the format's splits there; None for all.
        images: folder of the pictures, if it is not where the format has it.
        truth_only: labels, boxes and sizes alone are wanted: picture files need not exist.
        problems: what to do with pictures that do not fit.
    """

    path: Path
    split: str | None
    images: Path | None
    truth_only: bool
    problems: Problems

    @property
    def part(self) -> str:
        """The split, for formats that are read by splits alone."""
        return choose_split(self.split, [] if self.split is None else [self.split], self.path)


def undivided(path: Path) -> bool:
    """The answer of formats that are never read as a whole where they have splits."""
    return False


class Format(NamedTuple):
    """A layout of files.

    Attributes:
        layout: what it looks like, for messages.
        fits: whether a path looks like that.
        splits: names of the splits at a path, [] if there are none.
        read: makes the data set.
        whole: whether without a split all at a path can be read.
        complete: whether the pictures are part of it, so that `load` takes no other folder for them.
        scenes: makes scenes with objects of it, where the layout can have them.
    """

    layout: str
    fits: Callable[[Path], bool]
    splits: Callable[[Path], list[str]]
    read: Callable[[Request], Collection]
    whole: Callable[[Path], bool] = undivided
    complete: bool = False
    scenes: Callable[[Request], Scenes] | None = None


class Found(NamedTuple):
    """What a reader found out about a picture.

    Attributes:
        where: the file, and line or element, that has it.
        id: a unique name.
        file: where the picture is.
        label: class index, if there is one.
        boxes: float [B, 4], xyxy, if known.
        size: (width, height) in pixels that they refer to, if known.
        masks: its mask files, if there are any.
        classes: class indices of all that is in it, in any order and also repeated, where the layout tells that.
    """

    where: str
    id: str
    file: Path | Packed
    label: int | None = None
    boxes: np.ndarray | None = None
    size: tuple[int, int] | None = None
    masks: Masks | None = None
    classes: Sequence[int] | None = None


def assemble(
    request: Request,
    root: Path,
    found: Sequence[Found],
    class_names: Sequence[str] = (),
    *,
    source: Path | None = None,
    slack: float = 0,
    resized: bool = False,
) -> Pictures:
    """Check what was found, and make a data set of it.

    Args:
        request: what was asked.
        root: folder that the ids are relative to.
        found: the pictures.
        class_names: names of the classes.
        source: what was read, for messages; by default the request's path.
        slack: pixels by which a box may stick out of its picture, for formats whose files round.
        resized: see `Pictures`.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: an id that is none or comes twice, a wrong box, or no pictures at all.
    """
    problems, seen = request.problems, set[str]()
    for entry in found:
        problems.once(entry.where, entry.id, seen)
        seen.add(entry.id)
    boxed = [(entry, entry.boxes) for entry in found if entry.boxes is not None]
    owners = [entry for entry, boxes in boxed for _ in boxes]
    if owners:
        sizes = np.array([entry.size or (np.inf, np.inf) for entry in owners])
        every = np.concatenate([boxes for _, boxes in boxed])
        problems.boxes([entry.id for entry in owners], [entry.where for entry in owners], every, sizes, slack)
    files = problems.files(
        [entry.id for entry in found], [entry.file for entry in found], needed=not request.truth_only
    )
    found = [
        entry if entry.file is file else entry._replace(file=file) for entry, file in zip(found, files, strict=True)
    ]
    if not request.truth_only:
        masked = [(entry.id, file) for entry in found if entry.masks for file in entry.masks.files]
        problems.files([id for id, _ in masked], [file for _, file in masked])
    kept = set(problems.left(seen, source or request.path))
    found = [
        Found(entry.where, entry.id, entry.file) if entry.id in problems.bare else entry
        for entry in found
        if entry.id in kept
    ]
    return Pictures(
        root,
        [entry.id for entry in found],
        [entry.file for entry in found],
        labels=known([entry.label for entry in found]),
        classes=known([entry.classes for entry in found]),
        boxes=known([None if entry.boxes is None else entry.boxes.astype(np.float32) for entry in found]),
        masks=known([entry.masks for entry in found]),
        sizes=known([entry.size for entry in found]),
        class_names=tuple(class_names),
        ignored=problems.ignored,
        resized=resized,
    )


def known(values: list[T | None]) -> list[T | None] | None:
    """A column of a data set; None if it has nothing."""
    return values if any(value is not None for value in values) else None


def strongest(labels: Sequence[int], boxes: np.ndarray) -> tuple[int, np.ndarray]:
    """The class of a picture with objects of several, and its boxes: that whose boxes have the largest total area.

    There is at least one object; `boxes` are [B, 4], xyxy. The lowest index counts where areas tie.
    """
    if len(set(labels)) == 1:
        return labels[0], boxes
    areas: dict[int, float] = dict.fromkeys(sorted(set(labels)), 0.0)
    for label, area in zip(labels, (boxes[:, 2:] - boxes[:, :2]).prod(1), strict=True):
        areas[label] += area
    best = max(areas, key=areas.__getitem__)
    return best, boxes[np.array(labels) == best]


def numbers(texts: Sequence[str]) -> list[float] | None:
    """The values of plain decimal numbers, NaN and infinities included; None if a text is none."""
    try:
        values = [float(text) for text in texts]
    except ValueError:
        return None
    text = "".join(texts)
    return values if text.isascii() and "_" not in text else None


def is_side(value: object) -> TypeGuard[int]:
    """Whether a value of JSON is a width or height in pixels that can be."""
    return type(value) is int and 0 < value < 1 << 31


def choose_split(split: str | None, available: list[str], source: Path) -> str:
    """Choose among splits that are files or folders of their own, as `fastcam.data.load` describes it.

    ValueError if there is none of that name, or none was given and there is not just one.
    """
    if split in available:
        return split
    held_out = [name for name in available if name in HELD_OUT]
    if split in HELD_OUT and len(held_out) == 1:
        return held_out[0]
    if split is None and len(available) == 1:
        return available[0]
    what = "choose a split" if split is None else f"there is no split {split!r}"
    raise ValueError(f"{source}: {what}; it has {', '.join(available) or 'none'}")


def class_names(folders: Iterable[Path], labels: Iterable[int] | Mapping[int, str]) -> tuple[str, ...]:
    """Names of classes that have numbers: those in a classes.txt in one of the folders, else the numbers from 0 on.

    ValueError if classes.txt has too few, or a number is none of at most `MAX_CLASSES` classes; with the place that
    labels have it at, if that is told.
    """
    count = max(labels, default=-1) + 1
    where = f"{labels[count - 1]}: " if isinstance(labels, Mapping) and labels else ""
    if count > MAX_CLASSES:
        raise ValueError(
            f"{where}there is a class {count - 1}: expected at most {MAX_CLASSES} classes, numbered from 0"
        )
    for path in (folder / "classes.txt" for folder in folders):
        if path.is_file():
            names = tuple(tidy(line) for _, line in Problems().lines(path))
            if count > len(names):
                raise ValueError(f"{where}{path} names {len(names)} classes, but there is class {count - 1}")
            return names
    return tuple(map(str, range(count)))


def first_places(found: Sequence[Found]) -> dict[int, str]:
    """Where each class that pictures have is first, as their label or one of several."""
    places: dict[int, str] = {}
    for entry in found:
        for index in (entry.label, *(entry.classes or ())):
            if index is not None:
                places.setdefault(index, entry.where)
    return places


def in_groups(ids: Sequence[str], owners: Sequence[str], values: np.ndarray) -> list[np.ndarray]:
    """The boxes of each picture, float32 [B, 4], in their order, from all boxes [M, 4] and the picture of each."""
    groups: dict[str, list[int]] = {id: [] for id in ids}
    for index, owner in enumerate(owners):
        if owner in groups:
            groups[owner].append(index)
    values = values.astype(np.float32)
    return [values[rows] for rows in groups.values()]


class Listing:
    """What lies in folders, each of which is listed but once: much cheaper than a question for each file."""

    def __init__(self) -> None:
        self._names: dict[str, frozenset[str]] = {}
        self._looks: dict[str, dict[str, list[str]]] = {}
        self._folders: dict[str, list[str]] = {}  # there are, for one that is named

    def __contains__(self, file: str | os.PathLike[str]) -> bool:
        folder, name = os.path.split(file)
        if folder not in self._names:
            try:
                self._names[folder] = frozenset(os.listdir(folder))
            except OSError:
                self._names[folder] = frozenset()
        return name in self._names[folder]

    def alike(self, file: str) -> list[str]:
        """What looks like a file, sorted, in folders that look like its own where that is not there.

        Only the file itself if it is there.
        """
        if file in self:
            return [file]
        folder, name = os.path.split(file)
        if not name:
            return []
        if folder not in self._folders:
            self._folders[folder] = [folder] if os.path.isdir(folder) else self.alike(folder)
        return sorted(os.path.join(one, other) for one in self._folders[folder] for other in self._alike(one, name))

    def _alike(self, folder: str, name: str) -> list[str]:
        if folder not in self._looks:
            looks = self._looks[folder] = {}
            if os.path.join(folder, "") not in self:  # lists the folder
                for other in self._names[folder]:
                    looks.setdefault(path_look(other), []).append(other)
        return self._looks[folder].get(path_look(name), [])


def find_root(candidates: Iterable[Path], ids: Sequence[str]) -> Path | None:
    """The folder that paths of pictures, as they are written, are relative to, among those where it may be.

    The first that has one of them, else the first that has what looks like one; None if none does.
    """
    places, listing = list(dict.fromkeys(candidates)), Listing()
    plain = {root: [plain for id in ids if not id_problem(plain := plain_id(id, root))] for root in places}
    for root, names in plain.items():
        if any((root / id).is_file() for id in names):
            return root
    return next((root for root, names in plain.items() if any(listing.alike(f"{root / id}") for id in names)), None)
