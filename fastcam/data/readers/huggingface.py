"""Hugging Face data sets on local disk: folders that `save_to_disk` wrote, or Parquet files; nothing is downloaded.

A saved data set is Arrow files, in which a picture's bytes lie as they were: they are read from there, as members of a
tar file are, and never by the package's own decoding. It is asked what the columns mean, and turns Parquet files into
Arrow files once, in its cache (HF_HOME).
"""

import glob
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fastcam.data.labels import unlike
from fastcam.data.names import ordered, tidy
from fastcam.data.pictures import Packed, Pictures
from fastcam.data.reading import (
    Format,
    Found,
    Problems,
    Request,
    assemble,
    class_names,
    first_places,
    is_side,
    strongest,
)
from fastcam.pictures.finding import hidden

_IDS = ("path", "file_name", "image_id")  # columns that can name pictures, the first one there is taken
_SIZE = ("width", "height")
_LISTS = ("labels", "label", "classes")  # columns that can have all classes of a picture
_SLACK = 1  # pixels: boxes are often rounded


_Words = dict[str, tuple[int, str]]  # names of classes in lists, numbered as they come, and where each was first


class _Columns(NamedTuple):
    """What the columns mean; None for what there is not. `labels` has lists; `words` is whether these are of names."""

    image: str
    id: str | None
    label: str | None
    labels: str | None
    words: bool
    objects: bool
    category: bool
    size: bool
    class_names: tuple[str, ...] | None


def _splits(path: Path) -> dict[str, list[Path]]:
    """The folder, or the Parquet files, of each split, "all" if it has no name; {} if this is no such data set.

    That is a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote, a folder of Parquet files
    (SPLIT-*.parquet, data/SPLIT-*.parquet or SPLIT/*.parquet), or one such file.
    """
    if _is_saved(path):
        return {_split_name(path): [path]}
    if (path / "dataset_dict.json").is_file():
        return {folder.name: [folder] for folder in sorted(path.iterdir()) if _is_saved(folder)}
    files = (
        [path] if path.suffix.lower() == ".parquet" else sorted([*path.glob("*.parquet"), *path.glob("*/*.parquet")])
    )
    found: dict[str, list[Path]] = {}
    for file in files:
        if file.is_file() and (file == path or not any(map(hidden, file.relative_to(path).parts))):
            name = file.name if file.parent in (path, path.parent, path / "data") else file.parent.name
            found.setdefault(re.split(r"[-_.0-9]", name)[0] or "all", []).append(file)
    return found


def read(request: Request) -> Pictures:
    """Index the pictures in a Hugging Face data set; none is decoded, and no code that comes with a data set is run.

    Columns are found by their feature: the Image (or image with the files' bytes), the ClassLabel (or label with whole
    numbers; where there are several, the one called label). objects.bbox has boxes as x, y, width, height in pixels,
    of the picture or of columns width and height. If only the objects have a class (objects.category), the picture's
    label is that of the largest area, and its boxes count, as with COCO; its classes are those of all objects.

    A column labels, label or classes with lists of ClassLabels, whole numbers or names (else the only one with lists of
    ClassLabels) has all classes of a picture, [] none. Its label, if that is told besides, must be among them; lists of
    other ClassLabels than the label's are not looked at. Else the label is the class of a picture that has but one.

    Ids are the column path, file_name or image_id, else the rows' numbers from 0.
    """
    path, split, problems = request.path, request.part, request.problems
    known = _splits(path)
    if split not in known:
        raise ValueError(f"{path}: there is no split {split!r}; it has {', '.join(known) or 'none'}")
    sources = known[split]
    files = _arrow_files(sources[0]) if sources[0].is_dir() else _from_parquet(sources)
    columns: _Columns | None = None
    schema, found, words = None, list[Found](), _Words()
    for file in files:
        if not file.is_file():  # opening a pipe would wait for ever
            raise FileNotFoundError(f"no file {file}")
        with _readable(file), pa.memory_map(os.fspath(file)) as memory:
            base = memory.read_buffer().address
            memory.seek(0)
            with pa.ipc.open_stream(memory) as reader:
                columns, schema = columns or _columns(reader.schema, file), schema or reader.schema
                if not reader.schema.equals(schema):
                    raise ValueError(f"{file}: other columns than in {files[0]}")
                found += _rows(reader, (base, memory.size()), columns, file, len(found), words, problems)
    if words:
        unlike({name: where for name, (_, where) in words.items()})
        order = {words[name][0]: place for place, name in enumerate(ordered(words))}
        found = [
            entry._replace(
                label=None if entry.label is None else order[entry.label],
                classes=None if entry.classes is None else [order[index] for index in entry.classes],
            )
            for entry in found
        ]
    names: tuple[str, ...] = ()
    if any(entry.label is not None or entry.classes is not None for entry in found):
        for entry in found:
            if entry.label is None and entry.classes is None:
                problems.fault(entry.where, "expected a class as other pictures have", entry.id)
        names = columns.class_names if columns and columns.class_names else tuple(ordered(words))
        names = names or class_names([path], first_places(found))
    return assemble(request, path, found, names, slack=_SLACK, resized=True)


def _is_saved(path: Path) -> bool:
    return (path / "state.json").is_file() and (path / "dataset_info.json").is_file()


def _state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / "state.json").read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'state.json'}: not well-formed JSON: {error}") from error
    return state if isinstance(state, dict) else {}


def _split_name(folder: Path) -> str:
    try:
        name = _state(folder).get("_split")
    except ValueError:  # an error when it is read
        name = None
    return name if isinstance(name, str) and name else "all"


def _arrow_files(folder: Path) -> list[Path]:
    state = _state(folder)
    entries = state.get("_data_files")
    names = [str(entry.get("filename")) if isinstance(entry, dict) else "" for entry in entries or ()]
    if not names or not all(re.fullmatch(r"[^/\\\0]+\.arrow", name) for name in names):
        raise ValueError(f"{folder / 'state.json'}: expected `_data_files` with names of .arrow files beside it")
    return [folder / name for name in names]


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Name a file that is damaged; what the system cannot read has its own error."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{file}: damaged: {error}") from error


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError('the format "hf" needs Hugging Face datasets: pip install "fastcam[hf]"') from None
    return datasets


def _from_parquet(files: list[Path]) -> list[Path]:
    """Arrow files in the package's cache."""
    datasets = _datasets()
    for file in files:
        with _readable(file):
            _columns(pq.read_schema(file), file)  # before all is copied
    paths = [os.path.abspath(file) for file in files]
    if any("::" in file for file in paths):  # to the package that is an archive or an address
        raise ValueError(f"{files[0]}: expected a path without `::`")
    try:
        # Its arguments are patterns.
        found = datasets.Dataset.from_parquet([glob.escape(file) for file in paths], split=datasets.Split.TRAIN)
    except Exception as error:  # the package raises whatever its parsers run into
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno is not None:
            raise cause from error
        raise ValueError(f"{files[0]}: {cause}") from error
    return [Path(entry["filename"]) for entry in found.cache_files]


def _columns(schema: pa.Schema, file: Path) -> _Columns:
    datasets = _datasets()
    try:
        features = datasets.Features.from_arrow_schema(schema)
    except Exception as error:  # its description is JSON that anyone can have written
        raise ValueError(f"{file}: the columns cannot be understood: {error}") from error

    def choose(kind: type, name: str) -> str | None:
        found = [column for column, feature in features.items() if isinstance(feature, kind)]
        if len(found) > 1 and name not in found:
            raise ValueError(f"{file}: expected one column of {name}s, or one called {name}; got {', '.join(found)}")
        return name if name in found else found[0] if found else None

    image = choose(datasets.Image, "image") or ("image" if "image" in features else None)
    if image is None or _bytes_place(schema.field(image).type) is None:
        raise ValueError(f"{file}: expected a column image with the files' bytes, got {', '.join(features)}")
    label, names = choose(datasets.ClassLabel, "label"), None
    lists = [name for name, feature in features.items() if isinstance(_listed_in(feature), datasets.ClassLabel)]
    labels = next((name for name in _LISTS if _listed_in(features.get(name)) is not None), None)
    labels = labels or (lists[0] if len(lists) == 1 else None)
    each = _listed_in(features.get(labels))
    objects = _inner(features.get("objects"))
    has_objects = isinstance(objects, dict) and "bbox" in objects
    kind = _inner(objects.get("category")) if has_objects else None
    if label is not None:
        names = features[label].names
    elif "label" in features and pa.types.is_integer(schema.field("label").type):
        label = "label"
    elif isinstance(kind, datasets.ClassLabel):
        names = kind.names
    category = label is None and names is not None
    known = getattr(each, "names", None)
    if labels and (label or category):  # two tell of classes: the same, or the lists are of something else
        told = None if label is None else getattr(features[label], "names", None)
        labels = labels if known == (names if category else told) and not _is_words(each) else None
    if labels:
        names = known
    id = next((column for column in _IDS if column in features), None)
    size = all(side in features for side in _SIZE)
    words = labels is not None and _is_words(each)
    return _Columns(image, id, label, labels, words, has_objects, category, size, names and tuple(names))


def _listed_in(feature: Any) -> Any:
    """The ClassLabel, whole numbers or texts that a column has lists of; None if it has no such lists."""
    inner = _inner(feature)
    listed = inner is not feature and not isinstance(inner, dict)
    return inner if listed and (hasattr(inner, "names") or _is_words(inner) or _is_whole(inner)) else None


def _is_words(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string") and not hasattr(feature, "names")


def _is_whole(feature: Any) -> bool:
    return bool(re.fullmatch("u?int[0-9]+", str(getattr(feature, "dtype", ""))))


def _inner(feature: Any) -> Any:
    """What a list is of."""
    feature = getattr(feature, "feature", feature)
    return feature[0] if isinstance(feature, list) and feature else feature


def _bytes_place(kind: pa.DataType) -> int | None:
    """Which field of a column of pictures has their bytes: -1 is the column itself, None means that it has none."""
    place = kind.get_field_index("bytes") if pa.types.is_struct(kind) else -1
    stored = kind if not pa.types.is_struct(kind) else kind.field(place).type if place >= 0 else None
    return place if stored in (pa.binary(), pa.large_binary()) else None


def _rows(
    reader: pa.RecordBatchReader,
    mapped: tuple[int, int],
    columns: _Columns,
    file: Path,
    start: int,
    words: _Words,
    problems: Problems,
) -> Iterator[Found]:
    """The pictures in an Arrow file, which is mapped to an address; their numbers go on from `start`.

    Classes that are names are numbered as `words` has them.
    """
    names = [columns.id, columns.label, columns.labels, "objects" if columns.objects else None]
    names += _SIZE if columns.size else ()
    row = 0
    for batch in reader:
        values = {name: _listed(batch, name) for name in names if name is not None}
        for index, place in enumerate(_places(batch.column(columns.image), *mapped)):
            cells = {name: column[index] for name, column in values.items()}
            id = cells[columns.id] if columns.id else start + row
            entry = Found(f"{file}: row {row}", str(id), Packed(file, f"row {row}", *(place or (0, 0))))
            row += 1
            if type(id) not in (str, int):
                problems.refuse(entry.where, f"expected {columns.id} to be a text or a whole number, got {id!r}")
                continue
            if place is None and not problems.lenient:  # else reading will raise
                problems.refuse(entry.where, "expected the bytes of the picture's file, got none", entry.id)
            try:
                yield _described(entry, cells, columns, words)
            except ValueError as error:
                problems.fault_of(error, entry.id)
                yield entry


def _listed(batch: pa.RecordBatch, name: str) -> list[Any]:
    column = batch.column(name)
    column.validate(full=True)
    return column.to_pylist()


def _places(column: pa.Array, base: int, end: int) -> list[tuple[int, int] | None]:
    """Where in the file each picture's bytes begin and how many they are; None if there are none."""
    column.validate(full=True)
    field = _bytes_place(column.type)
    data = column if field is None or field < 0 else column.flatten()[field]
    _, offsets, values = data.buffers()
    width = np.dtype(np.int64 if pa.types.is_large_binary(data.type) else np.int32)
    starts = np.zeros(1 + len(data), np.int64)
    if len(data):
        starts += np.frombuffer(offsets, width)[data.offset : data.offset + len(data) + 1].astype(np.int64)
    if starts[-1] > starts[0]:
        starts += values.address - base
        if starts[0] < 0 or starts[-1] > end:
            raise pa.ArrowInvalid("its columns are compressed")  # and so decompressed elsewhere
    sizes, valid = np.diff(starts).tolist(), data.is_valid().to_pylist()
    places = zip(starts[:-1].tolist(), sizes, valid, strict=True)
    return [(start, size) if known else None for start, size, known in places]


def _described(entry: Found, cells: dict[str, Any], columns: _Columns, words: _Words) -> Found:
    label, classes, boxes, size = None, None, None, None
    if columns.label:
        label = _class(entry, cells[columns.label], columns)
    if columns.size:
        width, height = (cells[side] for side in _SIZE)
        if not (is_side(width) and is_side(height)):
            raise ValueError(f"{entry.where}: expected positive whole numbers width and height, got {width, height}")
        size = width, height
    if columns.objects:
        label, classes, boxes = _objects(entry, cells["objects"], label, columns)
    if columns.labels:
        listed = _classes(entry, cells[columns.labels], columns, words)
        if listed is not None and not {*(classes or ()), *([] if label is None else [label])} <= set(listed):
            other = f"label {label}" if classes is None else f"objects of {sorted(set(classes))}"
            raise ValueError(f"{entry.where}: {other}, but {columns.labels} {listed}: expected them among these")
        label = listed[0] if label is None and listed and len(listed) == 1 else label
        classes = listed
    return entry._replace(label=label, boxes=boxes, size=size, classes=classes)


def _classes(entry: Found, value: Any, columns: _Columns, words: _Words) -> list[int] | None:
    """The classes in a list, each once; None if there is no list."""
    if value is None:
        return None
    found = []
    for one in value:
        if columns.words:
            if not (isinstance(one, str) and (name := tidy(one))):
                raise ValueError(f"{entry.where}: expected names of classes, got {one!r}")
            found.append(words.setdefault(name, (len(words), entry.where))[0])
        elif (label := _class(entry, one, columns)) is None:
            raise ValueError(f"{entry.where}: expected classes in {columns.labels}, got {one!r}")
        else:
            found.append(label)
    if len(set(found)) < len(found):
        raise ValueError(f"{entry.where}: expected each class in {columns.labels} once, got {value!r:.100}")
    return found


def _objects(
    entry: Found, cells: Any, label: int | None, columns: _Columns
) -> tuple[int | None, list[int] | None, np.ndarray]:
    """The picture's label, classes and boxes, of a list of objects or, depending on who wrote it, of lists of parts."""
    try:
        bbox, kinds = (
            [one.get(name) for one in cells] if isinstance(cells, list) else (cells or {}).get(name) or []
            for name in ("bbox", "category")
        )
        corners = np.array(bbox, np.float64).reshape(len(bbox), 4)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{entry.where}: expected `bbox` x, y, width, height of each object, got {cells}") from error
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    if not columns.category:
        return label, None, boxes
    if not len(boxes):
        return label, [], boxes
    labels = [label for kind in kinds if (label := _class(entry, kind, columns)) is not None]
    if not len(labels) == len(kinds) == len(boxes):
        raise ValueError(f"{entry.where}: expected `category` of each object, got {kinds}")
    label, boxes = strongest(labels, boxes)
    return label, labels, boxes


def _class(entry: Found, value: Any, columns: _Columns) -> int | None:
    if value is None or value == -1:  # what the package has for unknown
        return None
    count = 1 << 31 if columns.class_names is None else len(columns.class_names)
    if type(value) is not int or not 0 <= value < count:
        raise ValueError(f"{entry.where}: expected a class from 0 to {count - 1}, got {value!r}")
    return value


FORMAT = Format(
    "a folder that Hugging Face datasets' save_to_disk wrote, or of SPLIT-*.parquet or SPLIT/*.parquet",
    fits=lambda path: bool(_splits(path)),
    splits=lambda path: list(_splits(path)),
    read=read,
    complete=True,
)
