"""Pictures to pooled features: the network runs once over each, and a file keeps what it gave.

The file is Parquet: columns id, class (its name, null where there is none), source (what tells that the picture is the
same) and features (K float32 of fixed size); the metadata key "fastcam.fitting" has the network's digest, the layer,
its pooling and the preprocessing as JSON.
"""

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn
from tqdm import tqdm

from fastcam._check import Scale, scale_of
from fastcam._files import replacing
from fastcam.data import Dataset, Pictures, Sample, read_for
from fastcam.fitting.trunk import Trunk
from fastcam.models import ModelConfig
from fastcam.models.digest import digest as digest_of
from fastcam.models.heads import Pool
from fastcam.pictures import Preprocess, quiet_pillow
from fastcam.pictures.stream import batched, stream

_KEY = b"fastcam.fitting"
_FORMAT = 1
_SAVE_AFTER = 30.0  # seconds of work that are lost at most if the process is killed, while writing takes little of them
_MOST_PACKED = 64  # times its size that a file may hold; it is written as it is, but others may have packed it
_POOLS = ("gap", "gmp", "tap", None)


class Features(NamedTuple):
    """Pooled features of N pictures.

    Attributes:
        ids: the pictures'.
        values: float32 [N, K].
        layer: dotted name of the layer whose maps were pooled.
        pool: "gap", the mean of each channel; "gmp", its maximum; "tap", its thresholded mean, as the network's head
            has it. None where the layer gives no maps.
        digest: of the network, 32 hexadecimal digits of its structure and weights.
        labels: class index of each picture, None where there is none.
    """

    ids: tuple[str, ...]
    values: np.ndarray
    layer: str
    pool: Pool | None
    digest: str
    labels: tuple[int | None, ...]


def pooled_features(
    model: nn.Module,
    samples: Dataset | Sequence[Sample],
    config: ModelConfig | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    layer: str | None = None,
    batch_size: int = 32,
    bad: list[tuple[str, str]] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Features:
    """Run a network once over pictures and take what its linear layer is given: the pooled features.

    Pictures are decoded and resized in threads ahead of the network. With `file` the features are kept there: of
    pictures that are in it, and did not change since, they are taken from it, and after whatever stopped the work the
    same call goes on. Rows of other pictures stay in the file.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 4.1.

    Args:
        model: network from [N, 3, size, size] to logits [N, C] that ends in a global pooling and one linear layer. It
            runs on the device and in the dtype of its parameters, in evaluation mode, and stays as it was.
        samples: N pictures, such as `fastcam.data.load` gives.
        config: preprocessing; by default as for `fastcam.explain`.
        file: Parquet file that keeps the features.
        layer: dotted name of another layer whose output is wanted: vectors [N, K] as they are ("classifier.5", fc7 of
            AlexNet), maps by their mean. Any network will do then.
        batch_size: pictures that the network is given at once, at least 1.
        bad: a list to which (id, reason) is appended for each picture that is damaged, or whose features are not
            finite, and so left out; None raises at the first.
        overwrite: replace a file with features of another network, layer or preprocessing.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The features of all pictures in their order, without those in `bad`.

    Raises:
        ValueError: there are no pictures, a picture is damaged or comes twice, or its features are not finite (it is
            named); the network has no pooled layer; `file` is no file of features, or has those of another network,
            layer or preprocessing.
        OSError: the file cannot be read or written.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size!r}")
    preprocess = Preprocess.of(config, model)
    pictures = _Source(read_for(samples, preprocess.reading))
    trunk = Trunk(model, preprocess.size, layer, preprocess.channels)
    origin = Origin(digest_of(model), trunk.layer, trunk.pool, **preprocess.facts())
    kept = _Kept(None if file is None else Path(file), origin, trunk.channels, overwrite)
    place = next(model.parameters(), torch.empty(0))
    found: dict[int, np.ndarray] = {}

    def prepare(index: int) -> tuple[int, _Ready | Exception]:
        try:
            return index, pictures.ready(index, preprocess, kept)
        except (OSError, ValueError, TypeError) as error:
            return index, error

    def refuse(index: int, reason: str) -> None:
        if bad is None:
            raise ValueError(reason if pictures.ids[index] in reason else f"{pictures.ids[index]}: {reason}")
        bad.append((pictures.ids[index], reason))

    with (
        quiet_pillow(),
        kept.saved(pictures),
        tqdm(total=len(pictures), unit="picture", disable=None if progress else True) as bar,
    ):
        for places in stream(batched(range(len(pictures)), batch_size), prepare):
            fresh: list[tuple[int, str, np.ndarray]] = []
            for index, ready in places:
                if isinstance(ready, Exception):
                    refuse(index, str(ready))
                elif ready.known:
                    found[index] = ready.content
                else:
                    fresh.append((index, ready.source, ready.content))
            if fresh:
                frames = torch.from_numpy(np.stack([frame for _, _, frame in fresh])).to(place.device)
                values = trunk(preprocess.normalize(frames).to(place.dtype)).cpu().numpy()
                for (index, state, _), row in zip(fresh, values, strict=True):
                    if not np.isfinite(row).all():
                        refuse(index, f"its features at {trunk.layer!r} are not finite: the network gives NaN or inf")
                        continue
                    found[index] = row
                    kept.add(pictures.ids[index], state, row)
            bar.update(len(places))
            kept.save_now_and_then(pictures)
    order = sorted(found)
    return Features(
        tuple(pictures.ids[index] for index in order),
        np.stack([found[index] for index in order]) if order else np.zeros((0, trunk.channels), np.float32),
        trunk.layer,
        trunk.pool,
        origin.digest,
        tuple(pictures.labels[index] for index in order),
    )


def read_features(path: str | os.PathLike[str]) -> tuple[Features, tuple[str | None, ...]]:
    """Read a file of features as `pooled_features` keeps them.

    Args:
        path: the file.

    Returns:
        The features, whose labels are indices in the sorted names of classes; and the name of each picture's class,
        None where there is none.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no file of features, or damaged.
    """
    origin, rows = _read(Path(path))
    names = tuple(row.label for row in rows.values())
    order = {name: index for index, name in enumerate(sorted({name for name in names if name is not None}))}
    values = np.stack([row.values for row in rows.values()]) if rows else np.zeros((0, 0), np.float32)
    labels = tuple(None if name is None else order[name] for name in names)
    return Features(tuple(rows), values, origin.layer, origin.pool, origin.digest, labels), names


@dataclass(frozen=True)
class Origin:
    """What gave features: network, layer and preprocessing."""

    digest: str
    layer: str
    pool: Pool | None
    size: int
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resize_size: int | None = None
    interpolation: str = "bilinear"
    channels: int = 3
    scale: Scale = None


class _Row(NamedTuple):
    """A picture's row in the file."""

    label: str | None  # the name of its class
    source: str
    values: np.ndarray


class _Ready(NamedTuple):
    """A picture before the network: its features, float32 [K], if they are known, else its frame."""

    source: str
    known: bool
    content: np.ndarray


class _Source:
    """Any data set, with ids, labels and what tells that a picture is the same."""

    def __init__(self, samples: Any) -> None:
        # Boxes and masks are not looked at, whatever is wrong with them.
        self._samples = samples.labelled() if isinstance(samples, Pictures) else samples
        if all(hasattr(samples, name) for name in ("ids", "labels")):
            self.ids, labels = list(samples.ids), samples.labels
        else:  # the pictures themselves are let go again
            told = [(one.id, one.label) for one in (samples[index] for index in range(len(samples)))]
            self.ids = [str(index) if id is None else id for index, (id, _) in enumerate(told)]
            labels = [label for _, label in told]
        self.labels: list[int | None] = list(labels) if labels is not None else [None] * len(self.ids)
        self.class_names = tuple(getattr(samples, "class_names", ()))
        if not self.ids:
            raise ValueError("the data set has no pictures")
        if len(set(self.ids)) < len(self.ids):
            twice = next(id for place, id in enumerate(self.ids) if id in self.ids[:place])
            raise ValueError(f"two pictures have the id {twice!r}")

    def __len__(self) -> int:
        return len(self.ids)

    def class_of(self, index: int) -> str | None:
        """The name of a picture's class."""
        label = self.labels[index]
        if label is None:
            return None
        return self.class_names[label] if 0 <= label < len(self.class_names) else str(label)

    def ready(self, index: int, preprocess: Preprocess, kept: "_Kept") -> _Ready:
        """Find a picture's features by the state of its file, or of its pixels where it is none, or make its frame."""
        id = self.ids[index]
        source = self._state(index)
        values = None if source is None else kept.get(id, source)
        if source is None or values is None:
            frame, _ = preprocess.frame(self._samples[index].image)
            if source is None:
                source = f"pixels {blake2b(frame.tobytes(), digest_size=16).hexdigest()}"
                values = kept.get(id, source)
            if values is None:
                return _Ready(source, False, frame)
        return _Ready(source, True, values)

    def _state(self, index: int) -> str | None:
        if not isinstance(self._samples, Pictures):
            return None
        file = self._samples.files[index]
        place = "" if isinstance(file, Path) else f" at {file.offset}, {file.size}"
        try:
            state = os.stat(file if isinstance(file, Path) else file.path)
        except OSError:
            return None  # reading it says why
        return f"file {state.st_size} {state.st_mtime_ns}{place}"


class _Kept:
    """The rows of a file, those that come while the network runs among them."""

    def __init__(self, path: Path | None, origin: Origin, channels: int, overwrite: bool) -> None:
        self._path, self._origin, self._channels = path, origin, channels
        self._rows: dict[str, _Row] = {}
        self._new, self._saved_at, self._pause = False, time.monotonic(), _SAVE_AFTER
        if path is None or not path.exists():
            return
        try:
            other, rows = _read(path)
            self._check(other)
        except ValueError:
            if not overwrite:
                raise
        else:
            self._rows = rows

    def _check(self, other: Origin) -> None:
        wanted, found = asdict(self._origin), asdict(other)
        changed = [name for name in wanted if wanted[name] != found[name]]
        if changed:
            what = "another network" if "digest" in changed else f"another {changed[0]}"
            told = "; ".join(f"{name} {found[name]}, wanted {wanted[name]}" for name in changed)
            raise ValueError(f"{self._path} has features of {what} ({told}): choose another file, or `overwrite` it")

    def get(self, id: str, source: str) -> np.ndarray | None:
        """A picture's features, float32 [K], if it is the same as then."""
        row = self._rows.get(id)
        return row.values if row is not None and row.source == source else None

    def add(self, id: str, source: str, values: np.ndarray) -> None:
        """Take a picture's features."""
        self._rows[id] = _Row(None, source, values)
        self._new = True

    @contextmanager
    def saved(self, pictures: _Source) -> Iterator[None]:
        """Write at the end what there is, however that comes."""
        try:
            yield
        finally:
            self._save(pictures)

    def save_now_and_then(self, pictures: _Source) -> None:
        """Write after so much time that writing takes little of it."""
        if time.monotonic() - self._saved_at > self._pause:
            self._save(pictures)

    def _save(self, pictures: _Source) -> None:
        """Write the rows: of these pictures in their order, then the others."""
        classes = {id: pictures.class_of(index) for index, id in enumerate(pictures.ids)}
        first = [id for id in pictures.ids if id in self._rows]
        rows = {id: self._rows[id]._replace(label=classes[id]) for id in first}
        rows |= {id: row for id, row in self._rows.items() if id not in rows}
        stale = self._new or any(rows[id].label != self._rows[id].label for id in rows)
        if self._path is None or not stale:
            return
        begin = time.monotonic()
        self._rows = rows
        _write(self._path, self._origin, rows, self._channels)
        self._new, self._saved_at = False, time.monotonic()
        self._pause = max(_SAVE_AFTER, 20 * (self._saved_at - begin))


def _write(path: Path, origin: Origin, rows: Mapping[str, _Row], channels: int) -> None:
    values = np.stack([row.values for row in rows.values()]) if rows else np.zeros((0, channels), np.float32)
    features = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), channels)
    columns = {
        "id": pa.array(list(rows), pa.string()),
        "class": pa.array([row.label for row in rows.values()], pa.string()),
        "source": pa.array([row.source for row in rows.values()], pa.string()),
        "features": features,
    }
    about = json.dumps({"format": _FORMAT} | asdict(origin))
    table = pa.table(columns).replace_schema_metadata({_KEY: about.encode()})
    with replacing(path) as partial:
        pq.write_table(table, partial, compression="none", use_dictionary=False)


def _read(path: Path) -> tuple[Origin, dict[str, _Row]]:
    """A file's origin and rows; ValueError if it is no file of features."""
    if not path.is_file():
        raise FileNotFoundError(f"no file of features at {path}")
    wrong = f"{path} is no file of pooled features"
    try:
        with pq.ParquetFile(path) as file:
            origin = _origin(json.loads((file.schema_arrow.metadata or {})[_KEY]))
            kinds = {file.schema_arrow.field(name).type for name in ("id", "class", "source")}
            kind = file.schema_arrow.field("features").type
            if kinds != {pa.string()}:
                raise ValueError("its columns id, class and source are no texts")
            if not (pa.types.is_fixed_size_list(kind) and kind.value_type == pa.float32()):
                raise ValueError(f"its column features is {kind}")
            if 4 * file.metadata.num_rows * kind.list_size > _MOST_PACKED * path.stat().st_size:
                raise ValueError("it is too small for its rows")
            table = file.read(["id", "class", "source", "features"])
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{wrong}: {error}") from None
    column = table.column("features").combine_chunks()
    texts = [table.column(name).to_pylist() for name in ("id", "class", "source")]
    if any(table.column(name).null_count for name in ("id", "source", "features")) or column.flatten().null_count:
        raise ValueError(f"{wrong}: values are missing")
    values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), -1)
    if not np.isfinite(values).all():
        place = int(np.flatnonzero(~np.isfinite(values).all(1))[0])
        raise ValueError(f"{path}: the features of {texts[0][place]!r} are not finite")
    return origin, {id: _Row(label, source, row) for id, label, source, row in zip(*texts, values, strict=True)}


def _origin(told: Any) -> Origin:
    fields = dict(told)
    if (form := fields.pop("format")) != _FORMAT:
        raise ValueError(f"it has format {form}, this version reads {_FORMAT}")
    fields["mean"], fields["std"] = tuple(fields["mean"]), tuple(fields["std"])
    fields["scale"] = scale_of(fields.get("scale"))
    origin = Origin(**fields)
    if origin.pool not in _POOLS:
        raise ValueError(f"its pool is {origin.pool!r}")
    return origin
