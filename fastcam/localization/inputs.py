"""What goes into a run: picture files, known in advance, or samples that a data set gives as it is asked."""

import hashlib
import operator
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fastcam._check import listed
from fastcam.data import Pictures, Sample, classes_of
from fastcam.data.names import Names, id_problem, path_look
from fastcam.localization.settings import Targets
from fastcam.pictures import DecodeError, find_pictures

_COLUMNS = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),
        pa.field("path", pa.binary(), nullable=False),  # file names are bytes
        pa.field("offset", pa.int64()),
        pa.field("length", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("time", pa.int64()),
        pa.field("content", pa.binary()),
        pa.field("targets", pa.list_(pa.int64())),
        pa.field("truth", pa.list_(pa.float32())),
        pa.field("extent", pa.list_(pa.int64())),
    ]
)


class FileState(NamedTuple):
    """What is seen of an input's file without decoding it; None for what cannot be read, which shows in its turn."""

    size: int | None = None  # bytes of the file
    time: int | None = None  # when it was last changed, in nanoseconds
    content: bytes | None = None  # digest of the input's bytes, if that was asked for


_UNSEEN = FileState()


@dataclass(frozen=True, slots=True)
class FileInput:
    """A picture that is a file, or within a larger one.

    Attributes:
        index: its place among all inputs.
        key: path relative to the data set's folder, with "/".
        path: the file.
        part: offset and length within a larger file; None if it is a file of its own.
        targets: classes asked for, each once; that of an overlay is the first. None if there are none for this picture.
        truth: true boxes, x0, y0, x1, y1 of one after the other, for an overlay.
        extent: (width, height) that they refer to; None if these are the picture's.
        state: of the file, when the plan was made.
    """

    index: int
    key: str
    path: Path
    part: tuple[int, int] | None = None
    targets: tuple[int, ...] | None = None
    truth: tuple[float, ...] | None = None
    extent: tuple[int, int] | None = None
    state: FileState = _UNSEEN

    def look(self, content: bool) -> FileState:
        """Look at the file, and with `content` read it."""
        try:
            status = os.stat(self.path)
            digest = None
            if content:
                with open(self.path, "rb") as file:
                    if self.part is None:
                        digest = hashlib.file_digest(file, _content_hash).digest()
                    else:
                        file.seek(self.part[0])
                        digest = _content_hash(file.read(self.part[1])).digest()
            return FileState(status.st_size, status.st_mtime_ns, digest)
        except OSError:
            return _UNSEEN


@dataclass(frozen=True, slots=True)
class SampleInput:
    """A picture of a data set without files: `read` gives it, or raises why it cannot be read; else as `FileInput`."""

    index: int
    key: str
    read: Callable[[], Sample]
    targets: tuple[int, ...] | None = None


Input = FileInput | SampleInput


class Asked:
    """Classes asked for by key, whose rows need but look like the inputs'.

    Args:
        targets: image_id → class, or classes.
    """

    def __init__(self, targets: Mapping[str, int | Sequence[int]]) -> None:
        self._targets, self._rows = targets, Names(targets, path_look)
        self._keys: dict[str, str] = {}  # which input each row is of

    def of(self, key: str, path: Path | None = None) -> tuple[int, ...] | None:
        """The classes of an input, whose row may name its file, too; None if no row is its.

        Raises:
            ValueError: several rows look like it, its row was another input's, or a class comes twice in it.
            TypeError: a class is no whole number.
        """
        row = key if key in self._targets else os.fspath(path) if path is not None else key
        if row not in self._targets:
            alike = [self._rows.names[place] for place in self._rows.places(key)]
            if len(alike) > 1:
                raise ValueError(f"the class of {key!a} may be that of {' or '.join(map(ascii, alike))}: name it alike")
            if not alike:
                return None
            row = alike[0]
        if (other := self._keys.setdefault(row, key)) != key:
            raise ValueError(f"the class of {row!a} may be that of {other!a} or of {key!a}: give each a row of its own")
        return _classes(row, self._targets[row])

    def warn(self, stacklevel: int = 1) -> None:
        """Warn of rows that are no input's."""
        unused = [row for row in self._targets if row not in self._keys]
        if unused:
            shown = listed([repr(row) for row in unused], 3)
            what = f"{len(unused)} of {len(self._targets)} classes asked for are of no picture here: {shown}"
            warnings.warn(what, stacklevel=stacklevel + 1)


class Files:
    """Inputs that are files: they can be listed again, in the same order.

    Args:
        source: files and folders, or a data set of picture files.
        targets: as for `fastcam.localization.localize`.
        drawn: so many of the first get their true boxes.

    Attributes:
        ignored: files that were passed over, by suffix; counted anew with each listing.
        asked: classes by image_id, if these are the targets; new with each listing, too.
    """

    def __init__(self, source: list[str | os.PathLike[str]] | Pictures, targets: Targets, drawn: int) -> None:
        self.source, self.targets, self.drawn = source, targets, drawn
        self.ignored: Counter[str] = Counter()
        self.asked = Asked(targets) if isinstance(targets, Mapping) else None

    def __iter__(self) -> Iterator[FileInput]:
        """List them.

        Raises:
            FileNotFoundError, ValueError, OSError: as `fastcam.pictures.find_pictures`.
            ValueError: a key is absolute, leads out of its folder, or comes twice.
            TypeError: a class is no whole number.
        """
        self.ignored.clear()
        if isinstance(self.targets, Mapping):
            self.asked = Asked(self.targets)
        escaped: set[str] = set()  # others cannot come twice
        for entry in self._entries():
            key = entry.key
            if key.startswith("/") or "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
                raise ValueError(f"the picture {key!r} must have a path relative to its folder, without `.` and `..`")
            if "\\" in key:
                if key in escaped:
                    raise ValueError(f"the name {key!r} comes twice: once escaped, once as it is")
                escaped.add(key)
            if self.asked is not None:
                entry = replace(entry, targets=self.asked.of(key, entry.path if entry.part is None else None))
            yield entry

    def _entries(self) -> Iterator[FileInput]:
        """The inputs as they come, with the data set's classes if they are the targets."""
        if not isinstance(self.source, Pictures):
            for index, (key, path) in enumerate(find_pictures(self.source, self.ignored)):
                yield FileInput(index, key, path)
            return
        pictures = self.source
        self.ignored.update(pictures.ignored)
        for index, (key, file) in enumerate(zip(pictures.ids, pictures.files, strict=True)):
            path, part = (file, None) if isinstance(file, Path) else (file.path, (file.offset, file.size))
            given = None
            if self.targets == "label":
                given = _labelled(key, _at(pictures.labels, index), _at(pictures.classes, index))
            truth = extent = None
            if index < self.drawn and pictures.boxes is not None and pictures.boxes[index] is not None:
                with suppress(ValueError):  # it cannot be drawn, or not read, which shows in its turn
                    boxes, extent = pictures.located(index)
                    truth = None if boxes is None else tuple(boxes.ravel().tolist())
            yield FileInput(index, key, path, part, given, truth, extent)

    def listing(self, path: Path | None = None, group: int = 1, content: bool = False) -> tuple[str, int]:
        """List all inputs, and write the list to `path`, a Parquet file with `group` inputs in a row group.

        Returns:
            A digest of keys, sizes, times and classes, and with `content` of all files' content, 32 hexadecimal digits;
            and the number of inputs.

        Raises:
            OSError: the list cannot be written.
            FileNotFoundError, ValueError: as when iterating.
        """
        digest, count = hashlib.blake2b(digest_size=16), 0
        pending: list[tuple[object, ...]] = []
        writer = None if path is None else pq.ParquetWriter(path, _COLUMNS)
        try:
            for entry in self:
                state = entry.look(content)
                part = entry.part or (None, None)
                digest.update(repr((entry.key, *part, *state, entry.targets)).encode())
                count += 1
                if writer is not None:
                    # Who goes on may do so in another folder, or on another machine.
                    place = os.fsencode(os.path.abspath(entry.path))
                    pending.append((entry.key, place, *part, *state, entry.targets, entry.truth, entry.extent))
                    if len(pending) == group:
                        _write(writer, pending)
            if pending:
                _write(writer, pending)
        finally:
            if writer is not None:
                writer.close()
        return digest.hexdigest(), count


def _write(writer: pq.ParquetWriter, pending: list[tuple[object, ...]]) -> None:
    columns = zip(zip(*pending, strict=True), _COLUMNS, strict=True)
    writer.write_table(
        pa.Table.from_arrays([pa.array(values, field.type) for values, field in columns], schema=_COLUMNS)
    )
    pending.clear()


def _content_hash(data: bytes = b"") -> Any:
    return hashlib.blake2b(data, digest_size=16)


def read_listing(path: Path, group: int | None = None) -> Iterator[FileInput]:
    """Read the inputs of a list that `Files.listing` wrote, or of one of its row groups; OSError if that fails."""
    with pq.ParquetFile(path) as file:
        index = group * file.metadata.row_group(0).num_rows if group else 0  # all but the last are of one size
        for i in range(file.num_row_groups) if group is None else [group]:
            for row in file.read_row_group(i).to_pylist():
                yield FileInput(
                    index,
                    row["key"],
                    Path(os.fsdecode(row["path"])),
                    None if row["offset"] is None else (row["offset"], row["length"]),
                    None if row.get("targets") is None else tuple(row["targets"]),  # earlier versions had one at most
                    None if row["truth"] is None else tuple(row["truth"]),
                    None if row["extent"] is None else (row["extent"][0], row["extent"][1]),
                    FileState(row["size"], row["time"], row["content"]),
                )
                index += 1


@dataclass(frozen=True)
class Samples:
    """Inputs that a data set gives, once; asked for, one raises ValueError if its key comes twice or is no path."""

    inputs: Iterator[SampleInput]
    count: int | None  # where it is known


def open_source(source: Any, targets: Targets, drawn: int) -> Files | Samples:
    """Tell files from samples, by the first of them; so many of the first as are `drawn` get their true boxes.

    Raises:
        TypeError: it is neither.
        ValueError: labels are asked for, and it has none.
    """
    if isinstance(source, str | os.PathLike):
        source = [source]
    if not isinstance(source, Pictures):
        sized = hasattr(source, "__getitem__") and hasattr(source, "__len__")
        if isinstance(source, Mapping) or not (sized or isinstance(source, Iterable)):
            raise TypeError(
                f"`source` must be a path, several paths, or a data set of samples, got {type(source).__name__}"
            )
        # Samples are read in the thread that asks for the inputs, since data sets need not be safe in several.
        outcomes = (_read(source, i) for i in range(len(source))) if sized else map(_given, source)
        first = list(islice(outcomes, 1))
        if first and not _is_path(first[0]):
            if first[0].exception() is None:
                _check_sample(first[0].result())
            return Samples(_samples(chain(first, outcomes), targets), len(source) if sized else None)
        # The order of a set changes from process to process.
        paths = source if sized else [path.result() for path in chain(first, outcomes)]
        source = sorted(paths, key=os.fspath) if isinstance(source, Set) else list(paths)
        for path in source:
            if not isinstance(path, str | os.PathLike):
                raise TypeError(f"`source` must be paths or samples, not both, got a path and a {type(path).__name__}")
    if targets == "label" and (not isinstance(source, Pictures) or classes_of(source) is None):
        raise ValueError('`targets` "label" needs a data set with labels; these pictures have none')
    return Files(source, targets, drawn)


def _samples(outcomes: Iterable[Future[Any]], targets: Targets) -> Iterator[SampleInput]:
    keys: set[str] = set()
    asked = Asked(targets) if isinstance(targets, Mapping) else None
    for index, outcome in enumerate(outcomes):
        sample = None if outcome.exception() else outcome.result()
        if sample is not None:
            _check_sample(sample)
        key = str(index) if sample is None or sample.id is None else str(sample.id)
        problem = "it comes twice" if key in keys else id_problem(key)
        if problem:
            raise ValueError(f"sample {index}, {key!r}: {problem}")
        keys.add(key)
        given = None if asked is None else asked.of(key)
        if targets == "label" and sample is not None:
            given = _labelled(key, sample.label, sample.classes)
        yield SampleInput(index, key, outcome.result, given)
    if asked is not None:
        asked.warn()


def _labelled(key: str, label: Any, classes: Any) -> tuple[int, ...] | None:
    """The classes of a picture of a data set, of several its label first, which true boxes are of."""
    if classes is None:
        return None if label is None else _classes(key, label)
    given = _classes(key, classes)
    first = () if label is None else _classes(key, label)
    return (*first, *(index for index in given if index not in first))


def _at(values: Sequence[Any] | None, index: int) -> Any:
    return None if values is None else values[index]


def _classes(key: str, value: Any) -> tuple[int, ...]:
    """Classes of a picture: one, or several, of which a set is sorted."""
    plain = value.tolist() if hasattr(value, "tolist") else value  # of NumPy and torch
    several = isinstance(plain, Sequence | Set) and not isinstance(plain, str | bytes)
    try:
        given = sorted(plain) if isinstance(plain, Set) else plain if several else [plain]
        if any(isinstance(index, bool) for index in given):  # of a row of yes and no
            raise TypeError
        found = tuple(map(operator.index, given))
    except TypeError:
        raise TypeError(f"the class of {key!r} must be a whole number, or a sequence of such, got {value!r}") from None
    if len(set(found)) < len(found):
        twice = next(index for index in found if found.count(index) > 1)
        raise ValueError(f"the classes of {key!r} must be class indices, each once, got {twice} twice in {value!r}")
    return found


def _check_sample(sample: Any) -> None:
    if not isinstance(sample, Sample):
        raise TypeError(
            f"`source` must be paths or give `fastcam.data.Sample`s, got {type(sample).__name__}; of another library's "
            "data set make `(Sample(image, label) for …)`, or give its folder to `fastcam.data.load`"
        )


def _is_path(outcome: Future[Any]) -> bool:
    return outcome.exception() is None and isinstance(outcome.result(), str | os.PathLike)


def _given(value: Any) -> Future[Any]:
    outcome: Future[Any] = Future()
    outcome.set_result(value)
    return outcome


def _read(dataset: Any, index: int) -> Future[Any]:
    """Read a sample at once; if that fails, keep the error for its turn."""
    try:
        return _given(dataset[index])
    except (DecodeError, OSError) as error:
        outcome: Future[Any] = Future()
        outcome.set_exception(error)
        return outcome
