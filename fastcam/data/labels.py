"""Several classes a picture, as files tell them: cells that list them, rows that repeat a picture, arrays of 0 and 1.

A cell is the name or number of one class, or a list: numbers between blanks, commas, ";" or "|" (`0 2`), names between
";" or "|" (`cat;dog`), or JSON (`["cat", "dog"]`, `[0, 2]`; `[]` is none of the classes). A picture has one such list,
or a row for each of its classes.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastcam._check import suggest
from fastcam.data import tables
from fastcam.data.names import Names, look, tidy
from fastcam.data.reading import Problems, numbers
from fastcam.runs.schema import MAX_CLASSES

_NUMBERS = re.compile(r"[0-9]+(?:[\s,;|]+[0-9]+)+")
_ROWS = 4096  # of an array that are looked at together
_LARGE = 1 << 28  # bytes that an array may unpack to, however small it is in its archive
_PICKLED = (
    "it holds Python objects, which could run anything and are not read; where you trust it, make it plain: "
    "d = numpy.load(PATH, allow_pickle=True).item(); "
    "numpy.savez('labels.npz', ids=[str(id) for id in d], labels=list(d.values()))"
)


class Told(NamedTuple):
    """What a file has of a picture.

    Attributes:
        where: the file, and line or element, that had it first.
        texts: its classes as written, and where each was first.
        listed: whether it is a list of its own, to which no row adds.
    """

    where: str
    texts: dict[str, str]
    listed: bool

    def __str__(self) -> str:
        names = _shown(", ".join(map(ascii, self.texts)))
        return names if not self.listed else f"the list {names}" if self.texts else "an empty list"


@lru_cache(maxsize=1024)  # few texts are on most lines
def split(text: str) -> tuple[str, ...] | None:
    """The classes that a cell lists; None if it is no list, but one class.

    ValueError for an empty cell or name, a class that comes twice, and JSON that is no list of names or of numbers.
    """
    if text.startswith("["):
        try:
            values = json.loads(text)
        except (ValueError, RecursionError):
            values = None
        kinds = {*map(type, values)} if isinstance(values, list) else {None}
        if not (kinds <= {str} or kinds <= {int}):
            raise ValueError(f'expected names, or numbers, as ["cat", "dog"] or [0, 2], got {_shown(text)}')
        found = [tidy(str(value)) for value in values or ()]
    elif _NUMBERS.fullmatch(text):
        found = re.findall("[0-9]+", text)
    elif ";" in text or "|" in text:
        found = list(map(tidy, re.split("[;|]", text)))
    elif text:
        return None
    else:
        raise ValueError("expected a label, got none; [] is a picture with none of the classes")
    for name, count in Counter(found).items():
        if not name:
            raise ValueError(f"expected a name at each place, got {_shown(text)}")
        if count > 1:
            raise ValueError(f"expected each class once, got {name!a} {count} times in {_shown(text)}")
    return tuple(found)


def gather(rows: Iterable[tuple[str, str, str]], problems: Problems) -> dict[str, Told]:
    """The classes of each picture from rows of a place, an id, and a cell; what is wrong with a cell is refused."""
    told: dict[str, Told] = {}
    for where, id, text in rows:
        try:
            found = split(text)
        except ValueError as error:
            problems.fault(where, str(error), id)
            continue
        row = Told(where, dict.fromkeys((text,) if found is None else found, where), found is not None)
        first = told.setdefault(id, row)
        if first is row:
            continue
        if not (row.listed or first.listed):
            first.texts.update({text: where for text in row.texts if text not in first.texts})
        elif row.listed != first.listed or row.texts.keys() != first.texts.keys():
            reason = f"{id} has {row} here, but {first} in {first.where}: expected one list, or a row for each class"
            problems.fault(where, reason, id)
    return told


def read_labels(
    path: str | os.PathLike[str],
    class_names: Sequence[str] = (),
    *,
    count: int | None = None,
    ids: Sequence[str] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Read a file that tells the classes of pictures, one or several each.

    Formats, by suffix:

    - .csv, or any other: lines `image_id,class_id`. A first line may name the columns: path or image_id; and label,
      labels, classes, class_id or class_ids; others are passed over. The class is an index or a name, or a list of
      either (`0 2`, `cat;dog`, `[0, 2]`, `["cat", "dog"]`; `[]` is none), or a picture has a row for each class.
    - .parquet: the same columns, where lists may also be lists.
    - .npz: `ids` (texts [N]) and `labels` (0 and 1 [N, C], a column for each class), as `numpy.savez` writes it; with
      `class_names` (texts [C]) the columns may be in any order.
    - .npy: 0 and 1 [N, C] alone, by class index, of the pictures `ids` in their order.

    Nothing pickled is read. A whole number is a class index, whatever the classes are called. Names are looked up as
    labels of data sets are: to the letter, else what looks alike; of "tabby, tabby cat" the first word will do.

    Args:
        path: the file.
        class_names: names of the classes by index; () if they are unknown.
        count: number of the classes, where it is known but their names are not.
        ids: ids of the pictures, in their order for .npy. Rows of none of these are of the only one that has their name
            but for its suffix and folder, as lists of the segmentation field have it: 2007_000032 is
            JPEGImages/2007_000032.jpg.

    Returns:
        Class indices of each picture that is there, ascending, each once; () where it has none of the classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a value is no class, or beyond the classes; a cell is empty, or has a class twice; rows contradict
            each other; names and numbers are mixed; an array has other values than 0 and 1, or not a column for each
            class and a row for each picture; it holds Python objects; or the file is damaged. The message names file,
            and line or element.
    """
    path, classes = Path(path), _Classes(class_names, count)
    if not path.is_file():  # opening a pipe would wait for ever
        raise FileNotFoundError(f"no file of classes at {path}")
    if path.suffix.lower() != ".npy":
        found = _of_archive(path, classes) if path.suffix.lower() == ".npz" else _of_rows(path, classes)
        return found if ids is None else _as_called(path, found, ids)
    if ids is None:
        raise ValueError(f"{path} does not tell its pictures: expected `ids` in their order, or .npz with ids")
    return _of_array(path, _loaded(path), ids, classes)


class _Classes:
    """The classes that texts stand for."""

    def __init__(self, names: Sequence[str], count: int | None) -> None:
        self.names, self.count = names, len(names) or count
        self._whole, self._first = Names(names), Names(name.split(",")[0].strip() for name in names)

    def index(self, text: str) -> int:
        """The class of a number or name; ValueError if there is none, or several."""
        number = tables.number(text)
        if number is not None:
            if number >= (self.count or MAX_CLASSES):
                raise ValueError(f"no class {number}: expected one of {self.count or MAX_CLASSES}, counted from 0")
            return number
        places = self._whole.places(text) or self._first.places(text)
        if len(places) > 1:
            alike = " or ".join(f"{place} ({self.names[place]!a})" for place in places)
            raise ValueError(f"{text!a} may be class {alike}: give its number")
        if not places:
            hint = suggest(text, self._first.names) if self.names else ": names need those of the classes"
            raise ValueError(f"no class {_shown(ascii(text))}{hint}")
        return places[0]

    def indices(self, texts: Mapping[str, str]) -> tuple[int, ...]:
        """The classes of texts, with where each stands; ValueError if one is none, or two are the same."""
        found: dict[int, str] = {}
        for text, where in texts.items():
            try:
                index = self.index(text)
            except ValueError as error:
                raise ValueError(f"{where}: {error}") from None
            if (other := found.setdefault(index, text)) != text:
                raise ValueError(f"{where}: {other!a} and {text!a} are the same class, {index}: expected each once")
        return tuple(sorted(found))


def _of_rows(path: Path, classes: _Classes) -> dict[str, tuple[int, ...]]:
    """The classes by rows of a table."""
    problems = Problems()
    cells: list[tuple[str, str, str]] = []
    for where, row in tables.rows(path, problems, ("path", "label")):
        if "label" not in row:
            raise ValueError(f"{where}: expected columns image_id and class_id, got {', '.join(row)} alone")
        cells.append((where, row["path"], tidy(row["label"])))
    if not cells:
        raise ValueError(f"{path} is empty: expected lines `image_id,class_id`")
    told = gather(cells, problems)
    found = {id: classes.indices(picture.texts) for id, picture in told.items()}
    one_kind({text: where for picture in told.values() for text, where in picture.texts.items()})
    return found


def one_kind(texts: Mapping[str, str]) -> None:
    """Raise ValueError for names and numbers of classes together, since either could be meant; with where each is."""
    kinds: dict[bool, str] = {}
    for text in texts:
        kinds.setdefault(numbers([text]) is None, text)
    if len(kinds) > 1:
        name, number = kinds[True], kinds[False]
        raise ValueError(
            f"{texts[number]}: expected names or numbers of classes, not both: {_shown(number)} here, but {name!a} in "
            f"{texts[name]}"
        )


def unlike(texts: Mapping[str, str]) -> None:
    """Raise ValueError for names of classes that look alike, since they are hardly two; with where each is."""
    looks: dict[str, str] = {}
    for text in texts:
        if (other := looks.setdefault(look(text), text)) != text:
            raise ValueError(
                f"{texts[text]}: class {text!a} looks like {other!a} in {texts[other]}: write them alike, or make "
                "their names differ"
            )


def _of_archive(path: Path, classes: _Classes) -> dict[str, tuple[int, ...]]:
    found = _loaded(path)
    ids, labels, names = (found.get(name) for name in ("ids", "labels", "class_names"))
    if ids is None or labels is None or any(one is not None and not _is_texts(one) for one in (ids, names)):
        told = ", ".join(f"{name} ({array.dtype} {list(array.shape)})" for name, array in found.items())
        raise ValueError(f"{path}: expected `ids`, texts [N], and `labels`, 0 and 1 [N, C], got {told or 'nothing'}")
    texts = ids.tolist()
    for id, number in Counter(texts).items():
        if number > 1:
            raise ValueError(f"{path}: `ids`: {id} comes {number} times")
    return _of_array(path, labels, texts, classes, None if names is None else names.tolist())


def _of_array(
    path: Path, array: np.ndarray, ids: Sequence[str], classes: _Classes, names: Sequence[str] | None = None
) -> dict[str, tuple[int, ...]]:
    """The classes by an array of 0 and 1, a row for each picture and a column for each class, or each of the names."""
    width = classes.count if names is None else len(names)
    shape = f"[{len(ids)}, {width or 'classes'}]"
    if array.ndim != 2 or array.dtype.kind not in "biuf" or array.shape[1] not in (width, width or array.shape[1]):
        raise ValueError(
            f"{path}: expected 0 and 1 {shape}, a column for each class, got {array.dtype} {list(array.shape)}"
        )
    if len(array) != len(ids) or not 0 < array.shape[1] <= MAX_CLASSES:
        raise ValueError(f"{path}: expected a row for each of {len(ids)} pictures, {shape}, got {list(array.shape)}")
    columns = list(range(array.shape[1]))
    if names is not None:
        texts = {tidy(name): f"{path}: class_names[{place}]" for place, name in enumerate(names)}
        classes.indices(texts)  # refuses what is no class, or one that is there already
        if len(texts) < len(names):
            raise ValueError(f"{path}: expected each of `class_names` once, got {_shown(', '.join(names))}")
        columns = [classes.index(text) for text in texts]
    found: dict[str, tuple[int, ...]] = {}
    for begin in range(0, len(ids), _ROWS):
        part = np.asarray(array[begin : begin + _ROWS])
        there = part == 1
        if (wrong := np.argwhere(~(there | (part == 0)))).size:
            row, column = wrong[0].tolist()
            at = f"row {begin + row} ({ids[begin + row]}), column {column}"
            raise ValueError(f"{path}: {at}: expected 0 or 1, got {part[row, column]}")
        for id, row in zip(ids[begin : begin + _ROWS], there, strict=True):
            found[id] = tuple(sorted(columns[column] for column in np.flatnonzero(row).tolist()))
    return found


def _loaded(path: Path) -> Any:
    """The array of an .npy, mapped, or those of an .npz by name; ValueError if it is damaged, or holds objects."""
    try:
        if path.suffix.lower() == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file:
            archive: Any = np.lib.npyio.NpzFile(file, allow_pickle=False)
            names = [name for name in ("ids", "labels", "class_names") if name in archive.files]
            size = sum(archive.zip.getinfo(f"{name}.npy").file_size for name in names)
            if size > max(_LARGE, path.stat().st_size):  # so that a small file does not become a large array
                raise ValueError(f"its arrays unpack to {size} bytes, more than {_LARGE}: write it by `numpy.savez`")
            return {name: archive[name] for name in names}
    except OSError:
        raise
    except Exception as error:  # the headers of arrays are Python, parsed in several ways
        with path.open("rb") as file:
            pickled = file.read(1) == b"\x80" or any(word in str(error) for word in ("Object arr", "Python objects"))
        raise ValueError(f"{path}: {_PICKLED if pickled else error}") from None


def _is_texts(array: np.ndarray) -> bool:
    return array.ndim == 1 and array.dtype.kind == "U"


def _as_called(path: Path, found: dict[str, tuple[int, ...]], ids: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The same by ids, where a file leaves folders and suffixes out; ValueError if that could be several."""
    others = [id for id in ids if id not in found]
    stems = [os.path.splitext(id)[0] for id in others]
    paths, names = Names(stems), Names(map(os.path.basename, stems))
    known, owners = set(ids), dict[str, str]()
    for name in found:
        places = [] if name in known else paths.exact(name) or names.exact(name)
        meant = [others[place] for place in places] or [name]
        if len(meant) > 1:
            raise ValueError(f"{path}: {name!a} may be {' or '.join(map(ascii, meant[:3]))}: give its path")
        if (other := owners.setdefault(meant[0], name)) != name:
            raise ValueError(f"{path}: {other!a} and {name!a} are both {meant[0]!a}: expected one of them")
    return {id: found[name] for id, name in owners.items()}


def _shown(text: str) -> str:
    return text if len(text) <= 100 else f"{text[:100]}…"
