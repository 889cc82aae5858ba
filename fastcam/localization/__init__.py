"""Pictures in, boxes out: files or a data set, through one network, to boxes.parquet; killed at any time, nothing lost.

A run is a folder. First a *plan* is made: all inputs in an order that never changes, and the settings that decide about
rows. The inputs are cut into *shards* of whole batches, so that a picture has the same neighbours in its batch whoever
computes it: rows are the same to the bit for any number of workers, size of shards, engine and point of resumption.
A shard's rows are written to a temporary file beside their place, brought to the disk, renamed, and then marked done.
When no shard is missing, the parts are put together, and an audit compares the table with the inputs.

    OUT/plan.json              settings, digest of settings and inputs, number of inputs, pictures in a shard
    OUT/inputs.parquet         the inputs, one row each and a row group for each shard: key, path, offset and length
                               within a larger file, size and time of the file, class asked for, true boxes
    OUT/shards/000000.parquet  the rows of a shard: columns of `writers.Row`
    OUT/shards/000000.json     its mark: rows, pictures, errors by code, bytes and checksum of the part
    OUT/boxes.parquet          all rows, in the order of the inputs; the parts are removed then
    OUT/audit.json             what the audit counted
    OUT/overlays/              drawings

An *engine* decides who computes which shard. All it needs (`distributed` builds on it, never the other way round):

    plan = Plan.load(out)                  # in every process that sees the folder; made by `prepare(...)` in one of them
    plan.missing() -> list[int]            # shards that are not marked done
    worker = Worker(plan, model)           # once in a process: network, threads; a context manager
    worker.run(shards, on_done=None)       # any iterable of indices, taken one by one as they are needed; each is on
                                           # disk and marked when on_done(index, mark) is called; a shard computed
                                           # twice, even at the same time by two processes, does no harm
    finish(plan) -> Summary                # by one process, when plan.missing() is empty: merge, audit, clean up;
                                           # a part with a wrong checksum is discarded, and its shard is missing again
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from tqdm import tqdm

from fastcam import methods, visualize
from fastcam._version import __version__
from fastcam.data import Sample
from fastcam.decoding import DecodeError, Geometry, Preprocess, decode, find_pictures, quiet_pillow
from fastcam.models import ModelConfig
from fastcam.pipeline import batches, in_order
from fastcam.writers import BoxWriter, Row, replacing

_THUMBNAIL = 512  # longer side of a picture in an overlay, in pixels

Targets = Literal["label"] | Mapping[str, int] | None


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        path: the table of boxes.
        pictures: how many pictures came in.
        rows: how many rows were written, at least one for each picture.
        errors: how many pictures have an error row instead of boxes.
    """

    path: Path
    pictures: int
    rows: int
    errors: int


def localize(
    model: nn.Module,
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Iterable[Sample],
    *,
    out: str | os.PathLike[str],
    config: ModelConfig | None = None,
    method: str = "cam",
    target_layers: Any = None,
    threshold: float | None = None,
    relu: bool | None = None,
    mode: str = "bilinear",
    top_k: int = 1,
    targets: Targets = None,
    batch_size: int = 32,
    backend: str = "fused",
    overlays: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> Summary:
    """Find the objects of each picture's classes and write their boxes to `out`/boxes.parquet.

    One row per picture and class, in the order of the input, with the columns of `fastcam.writers.Row`: boxes are
    half-open float pixels of the upright original, scores are softmax probabilities. A picture that cannot be read
    becomes one row with the reason, and the run goes on. It streams: pictures are decoded in threads ahead of the
    network, at most three batches of them are held, and memory does not grow with their number.

    If the network fails on its first batch, that error is raised: the set-up is wrong. Later, the pictures of a
    failing batch become rows with the error "model: …", as does at any time a picture whose logits are not finite. If
    the run itself breaks off, the rows finished by then are kept in `out`/boxes.partial.parquet.

    Args:
        model: network from [N, 3, size, size] to logits [N, C]. It runs on the device and in the dtype of its
            parameters, in evaluation mode, and stays as it was.
        source: a picture file or folder, several of them, or a data set: anything that gives `Sample`s by iteration or
            by index. Folders are searched with all folders below for JPEG, PNG and WebP; see
            `fastcam.decoding.find_pictures` for the image_id. In a data set it is the sample's id, or else its index.
        out: folder for the results.
        config: preprocessing (size, resize, mean, std), class names and threshold that the model was made with; by
            default 224 pixels, squashed, ImageNet's mean and std.
        method: name of the method, see `fastcam.methods`.
        target_layers: modules or dotted names; by default the model's last stage.
        threshold: fraction of the map's range, in [0, 1), above which a pixel belongs to the box; by default that of
            `config`, else 0.2.
        relu: clip the map at zero before it is upsampled; by default as the method has it.
        mode: upsampling, "bilinear" or "bicubic".
        top_k: boxes for this many classes of each picture, those of the highest scores.
        targets: boxes for one given class of each picture instead: "label" takes that of the samples, a mapping goes
            from image_id to class index. The row's rank then tells where the class stands among all.
        batch_size: pictures per forward pass.
        backend: "fused", or "reference" for plain PyTorch.
        overlays: for this many of the first pictures, write `out`/overlays/*.jpg: picture, map, and map over picture
            with the box of the first class (and the sample's true boxes in green).
        overwrite: replace an existing table; by default that is an error.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        Where the table is, and the numbers of pictures, rows and errors.

    Raises:
        FileNotFoundError: a path does not exist.
        FileExistsError: `out` has a table already and `overwrite` is not set.
        TypeError: a source or targets of another kind.
        ValueError: a folder without pictures, or an option that is unknown or out of range.
        OSError: the results cannot be written.
        RuntimeError: the network failed on its first batch.
    """
    for name, number, least in (("top_k", top_k, 1), ("batch_size", batch_size, 1), ("overlays", overlays, 0)):
        if not isinstance(number, int) or number < least:
            raise ValueError(f"`{name}` must be a whole number of at least {least}, got {number!r}")
    if config is not None and top_k > config.num_classes:
        raise ValueError(f"`top_k` must be at most the number of classes, {config.num_classes}, got {top_k}")
    if threshold is None:
        threshold = 0.2 if config is None or config.threshold is None else config.threshold
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` must be at least 0 and less than 1, got {threshold!r}")
    if not (targets is None or targets == "label" or isinstance(targets, Mapping)):
        raise TypeError(f'`targets` must be None, "label" or a mapping from image_id to class, got {targets!r}')
    table = Path(out, "boxes.parquet")
    if table.exists() and not overwrite:
        raise FileExistsError(f"{table} exists already: choose another folder, or allow to overwrite it")

    jobs, total = _jobs(source)
    preprocess = Preprocess() if config is None else Preprocess.of(config)
    prepare = partial(_prepare, preprocess=preprocess, targets=targets, overlays=overlays)
    options = {"relu": relu, "mode": mode, "backend": backend}
    made_by = {"version": __version__, "arch": config and config.arch, "method": method, "threshold": threshold}
    pictures = errors = 0
    with (
        quiet_pillow(),
        methods.create(method, model, target_layers=target_layers, **options) as cam,
        BoxWriter(table, made_by | options | vars(preprocess)) as writer,
        ThreadPoolExecutor(min(8, os.cpu_count() or 1), "fastcam-decode") as pool,
        tqdm(total=total, unit="picture", disable=None if progress else True) as bar,
    ):
        network = _Network(model, cam, preprocess, config, threshold, None if targets else top_k, table.parent)
        for batch in batches(in_order(pool, prepare, jobs, 2 * batch_size), batch_size):
            rows = network.rows(batch)
            writer.write(rows)
            pictures += len(batch)
            errors += sum(row.status != "ok" for row in rows)
            bar.update(len(batch))
    return Summary(table, pictures, writer.rows, errors)


_Job = tuple[int, str, Callable[[], Sample]]  # index, id, reader


def _jobs(source: Any) -> tuple[Iterator[_Job], int | None]:
    """List what there is to read, and say how much it is where that is known."""
    if isinstance(source, str | os.PathLike):
        source = [source]
    if isinstance(source, list | tuple) and all(isinstance(path, str | os.PathLike) for path in source):
        total = sum(1 for _ in find_pictures(source))  # also finds what is wrong with the paths before work begins
        return ((i, id, partial(_read_file, path)) for i, (id, path) in enumerate(find_pictures(source))), total
    # Samples are read in this thread, since data sets need not be safe in several.
    if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
        return ((i, str(i), _read_item(source, i)) for i in range(len(source))), len(source)
    if isinstance(source, Iterable):
        return ((i, str(i), lambda sample=sample: sample) for i, sample in enumerate(source)), None
    raise TypeError(f"`source` must be a path, several paths, or a data set of samples, got {type(source).__name__}")


def _read_file(path: Path) -> Sample:
    return Sample(decode(path))


def _read_item(dataset: Any, index: int) -> Callable[[], Sample]:
    """Read a sample at once; if that fails, keep the error for its turn."""
    outcome: Future[Sample] = Future()
    try:
        outcome.set_result(dataset[index])
    except (DecodeError, OSError) as error:
        outcome.set_exception(error)
    return outcome.result


class _Picture(NamedTuple):
    """One picture made ready for the network, or the reason why it is not."""

    id: str
    frame: np.ndarray | None = None  # uint8 [size, size, 3]
    geometry: Geometry | None = None
    target: int | None = None
    error: str | None = None
    thumbnail: np.ndarray | None = None  # uint8 [h, w, 3], where an overlay is wanted
    truth: np.ndarray | None = None  # [B, 4] in pixels of the original
    index: int = 0

    def failed(self, error: str) -> Row:
        width, height = self.geometry.original if self.geometry else (None, None)
        return Row(self.id, width, height, status="error", error=error)


def _prepare(
    index: int, id: str, read: Callable[[], Sample], *, preprocess: Preprocess, targets: Targets, overlays: int
) -> _Picture:
    """Decode and resize one picture; runs in a thread."""
    try:
        sample = read()
        id = id if sample.id is None else str(sample.id)
        frame, geometry = preprocess.frame(sample.image)
    except DecodeError as error:
        return _Picture(id, error=str(error))
    except OSError as error:
        return _Picture(id, error=f"unreadable: {error}")
    picture = _Picture(id, frame, geometry, index=index)
    if targets is not None:
        target = sample.label if targets == "label" else targets.get(id)
        if target is None:
            return picture._replace(error="no_target: no class is given for this picture")
        picture = picture._replace(target=int(target))
    if index < overlays:
        image = sample.image if isinstance(sample.image, Image.Image) else Image.fromarray(sample.image)
        small = image.convert("RGB")
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
        picture = picture._replace(thumbnail=np.array(small), truth=sample.boxes)
    return picture


class _Network:
    """Turns batches of pictures into rows."""

    def __init__(
        self,
        model: nn.Module,
        cam: Any,
        preprocess: Preprocess,
        config: ModelConfig | None,
        threshold: float,
        top_k: int | None,
        out: Path,
    ) -> None:
        self.cam, self.preprocess, self.threshold, self.top_k, self.out = cam, preprocess, threshold, top_k, out
        self.class_names = config.class_names if config else ()
        self.num_classes = config.num_classes if config else None
        self.like = next(model.parameters(), torch.empty(0))
        self.worked = False

    def rows(self, batch: list[_Picture]) -> list[Row]:
        batch = [self._checked(picture) for picture in batch]
        good = [picture for picture in batch if picture.error is None]
        found: list[list[Row]] = []
        if good:
            try:
                found = self._localize(good)
                self.worked = True
            except (RuntimeError, ValueError) as error:
                if not self.worked:
                    raise
                reason = f"model: {next(iter(str(error).splitlines()), type(error).__name__)}"
                found = [[picture.failed(reason)] for picture in good]
        results = iter(found)
        return [row for p in batch for row in (next(results) if p.error is None else [p.failed(p.error)])]

    def _checked(self, picture: _Picture) -> _Picture:
        classes, target = self.num_classes, picture.target
        if target is None or (target >= 0 and (classes is None or target < classes)):
            return picture
        return picture._replace(error=f"no_target: class {target} is none of the model's {classes or ''}".rstrip())

    def _localize(self, good: list[_Picture]) -> list[list[Row]]:
        frames = torch.from_numpy(np.stack([p.frame for p in good])).to(self.like.device)
        images = self.preprocess.normalize(frames).to(self.like.dtype)
        chosen = None if self.top_k else torch.tensor([[p.target] for p in good], device=frames.device)
        boxes = self.cam.boxes(images, targets=chosen, top_k=self.top_k, threshold=self.threshold).cpu().numpy()
        logits, classes = self.cam.outputs.detach().float(), self.cam.targets
        self.num_classes = logits.shape[1]
        values = logits.gather(1, classes)
        ranks = torch.arange(1, classes.shape[1] + 1).expand_as(classes)
        if not self.top_k:
            ranks = 1 + (logits[:, None] > values[..., None]).sum(-1)
        scores = logits.softmax(1).gather(1, classes)
        finite = logits.isfinite().all(1).tolist()
        rows = [
            [
                Row(p.id, *p.geometry.original, rank, c, self._name(c), score, *box)
                for rank, c, score, box in zip(*columns, p.geometry.to_original(corners).tolist(), strict=True)
            ]
            if sound
            else [p.failed("model: its logits are not finite")]
            for p, sound, corners, *columns in zip(
                good, finite, boxes, ranks.tolist(), classes.tolist(), scores.tolist(), strict=True
            )
        ]
        drawn = [i for i, p in enumerate(good) if p.thumbnail is not None and finite[i]]
        if drawn:
            maps = self.cam(images[drawn], targets=classes[drawn, :1])[:, 0]
            for i, map in zip(drawn, maps, strict=True):
                self._draw(good[i], map, rows[i][0])
        return rows

    def _name(self, class_id: int) -> str | None:
        return self.class_names[class_id] if self.class_names else None

    def _draw(self, picture: _Picture, map: Tensor, row: Row) -> None:
        height, width = picture.thumbnail.shape[:2]
        scale = np.array([width, height] * 2) / np.array(picture.geometry.original * 2)
        drawing = visualize.panel(
            picture.thumbnail,
            picture.geometry.spread(map.cpu().numpy(), (width, height)),
            np.array([row.x0, row.y0, row.x1, row.y1]) * scale,
            () if picture.truth is None else np.asarray(picture.truth) * scale,
        )
        # The number keeps the names apart, so the rest may be cut and cleaned.
        name = re.sub(r"[^A-Za-z0-9._-]+", "_", picture.id)[-80:]
        with replacing(self.out / "overlays" / f"{picture.index:06d}_{name}.jpg") as path, path.open("wb") as file:
            Image.fromarray(drawing).save(file, "JPEG", quality=90)
