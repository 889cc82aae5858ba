"""From a data set and maps, boxes or a network to metrics.json, a table, plots and a gallery."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from fastcam import data as datasets
from fastcam._check import suggest
from fastcam._files import replacing
from fastcam._options import accepts
from fastcam._version import __version__
from fastcam.data import Sample
from fastcam.data.matching import in_classes
from fastcam.data.names import read_text
from fastcam.evaluation import pixels
from fastcam.evaluation.boxes import BoxTable
from fastcam.evaluation.evaluator import Evaluator
from fastcam.evaluation.network import Network
from fastcam.evaluation.outputs import write_outputs
from fastcam.evaluation.protocols import PROTOCOLS, Protocol, threshold_index
from fastcam.evaluation.result import BOX_DELTAS, Result
from fastcam.evaluation.settings import EvaluateSettings, MapSettings
from fastcam.evaluation.sources import Batch, Loaded, MapFolder, Source
from fastcam.evaluation.state import Span, State
from fastcam.evaluation.store import MapStore
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.pictures import quiet_pillow
from fastcam.pictures.stream import ahead, batches, in_order


class EvaluationSummary(NamedTuple):
    """What an evaluation gave.

    Attributes:
        out: its folder.
        pictures: how many pictures were measured.
        metrics: what metrics.json holds; None for a part.
        table: the figures as lines of text.
        bad: (id, reason) of each picture left out, and of what had no picture.
        missed: (id, reason) of pictures that count as misses, since the run that found the boxes could not read them.
    """

    out: Path
    pictures: int
    metrics: dict[str, Any] | None
    table: tuple[str, ...] = ()
    bad: tuple[tuple[str, str], ...] = ()
    missed: tuple[tuple[str, str], ...] = ()


@accepts(EvaluateSettings)
def evaluate(
    data: Any,
    *,
    out: str | os.PathLike[str],
    settings: EvaluateSettings,
    maps: str | os.PathLike[str] | None = None,
    boxes: str | os.PathLike[str] | None = None,
    model: nn.Module | None = None,
    config: ModelConfig | None = None,
    problems: Sequence[tuple[str, str]] = (),
    progress: bool = True,
) -> EvaluationSummary:
    """Measure how well maps or boxes find the objects of a data set, by the standard evaluator's rules or others'.

    The maps come from exactly one of `maps`, `boxes` and `model`. In `out` there are then metrics.json,
    pictures.parquet (a row for each picture), box_accuracy.png and precision_recall.png (of boxes and of masks, where
    there are curves), and gallery.html and cases.png with the best, median and worst pictures at `threshold` if it is
    given, else at the best one. It streams: memory does not grow with the number of maps.

    Args:
        data: a data set, samples by index; or the path of one that `fastcam.data.load` recognises.
        out: folder for the results.
        maps: a folder with `<image_id>.npy` (finished maps [H, W] in [0, 1]), or a maps.parquet of `save_maps`, or the
            folder where that lies.
        boxes: a boxes.parquet of `fastcam.localize`. Its boxes are compared as they are, so there are no curves.
        model: network from [N, 3, size, size] to logits [N, C].
        config: preprocessing and number of classes of the network. How pictures are resized is the protocol's affair.
        settings: all of them, or one by one.
        problems: what reading the data set has left out (see `fastcam.data.load`), to be listed with it.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The figures, and what was left out.

    Warns:
        fastcam.methods.MapWarning: most maps are constant, so that they show nothing; the target layer has a single
            position; or the network ends in a softmax, whose gradients mislead.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        FileExistsError: `out` has results or a broken-off run, and neither `overwrite` nor `resume` is set.
        TypeError: unknown keywords.
        ValueError: an option that is unknown or out of range; a malformed data set; a picture that cannot be measured,
            which is named, unless `skip_bad` is set; parts, or a broken-off run, of something else.
        OSError: the results cannot be written.
        RuntimeError: the network failed.
    """
    out = Path(out)
    given = [name for name, value in (("maps", maps), ("boxes", boxes), ("model", model)) if value is not None]
    if len(given) != 1:
        raise ValueError(f"exactly one of `maps`, `boxes` and `model` must be given, got {', '.join(given) or 'none'}")
    names = [*(field.name for field in dataclasses.fields(MapSettings)), "save_maps"]
    changed = [name for name in names if getattr(settings, name) != getattr(EvaluateSettings, name)]
    if model is None and changed:
        raise ValueError(f"{', '.join(changed)}: for maps of a `model` only")
    if (out / "metrics.json").exists() and not settings.overwrite:
        raise FileExistsError(f"{out / 'metrics.json'} exists already: choose another folder, or `overwrite` it")
    rule = PROTOCOLS.get(settings.protocol) if isinstance(settings.protocol, str) else settings.protocol
    if not isinstance(rule, Protocol):
        raise ValueError(f"unknown protocol {settings.protocol!r}{suggest(str(settings.protocol), PROTOCOLS)}")
    if not 0 <= rule.percentile <= 100:
        raise ValueError(f"`percentile` of the protocol must be in [0, 100], got {rule.percentile!r}")
    before = None if settings.threshold_from is None else _read_thresholds(Path(settings.threshold_from), rule)
    if before is not None and settings.threshold is not None:
        raise ValueError("`threshold` and `threshold_from` are two thresholds: give one")
    fixed = settings.threshold if before is None else before["MaxBoxAcc"]
    problems = list(problems)
    data = opened(data, problems if settings.skip_bad else None, truth_only=model is None)
    if model is not None and settings.targets == "label":
        data = in_classes(data, () if config is None else config.class_names, config and config.num_classes)
    source, classes = _source(data, rule, maps, boxes, model, config, settings)
    options = {
        "metrics": ["MaxBoxAcc"] if boxes is not None else settings.metrics,
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
    }
    make = partial(Evaluator, rule, num_classes=classes, threshold=fixed, skip_bad=settings.skip_bad, **options)
    run = {
        "fastcam": __version__,
        "data": {"pictures": len(data.ids), "ids": hashlib.blake2b("\n".join(data.ids).encode()).hexdigest()[:16]},
        "source": dict(source.info),
    }
    span = _span(len(source.order), settings.part, settings.batch_size)
    same = run | {"batch_size": settings.batch_size, "save_maps": settings.save_maps}
    state = State(out / "state", same, span, make, settings.save_maps, source.info)
    if state.saved and not (settings.overwrite or (settings.resume and not settings.merge)):
        raise FileExistsError(f"{out} has a part, or a run that was broken off: resume it, or `overwrite` it")
    with contextlib.closing(state):
        if settings.merge:
            state.join([Path(folder) / "state" for folder in settings.merge])
        elif not (settings.resume and state.resume()):
            for id, reason in [*problems, *source.problems] if span.start == 0 else ():
                state.evaluator.reject(id, reason)
            state.begin()
        with quiet_methods():
            _work(source, state, settings.batch_size, settings.save_every, progress)
        cam = source.cam if isinstance(source, Network) else None
        bad = tuple(state.evaluator.bad)
        if settings.part is not None:
            tell(cam.cautions if cam else ())
            return EvaluationSummary(out, span.stop - span.start, None, bad=bad)
        result = state.evaluator.result()
        told, table = run | result.to_dict(), result.table()
        told["data"] = {"root": str(getattr(data, "root", "")) or None} | told["data"]
        if isinstance(source, BoxTable):
            told |= source.told(result)
        if not source.labelled:
            for name in ("figures", "intervals"):
                told[name] = {"BoxAcc 50" if k == "GT-known Loc" else k: v for k, v in told[name].items()}
            table = [line.replace("GT-known Loc", "BoxAcc 50   ") for line in table]
        if isinstance(source, BoxTable):
            table = _table(told)
        if before is not None and {"BoxAcc 50 all", "MaxBoxAccV2 50"} <= result.curves.keys() | before.keys():
            told["BoxAccV2"] = _at_thresholds(result, before)
            table.append(f"{'BoxAccV2':<14}{told['BoxAccV2']:7.2f}  at the thresholds of {settings.threshold_from}")
        write_outputs(
            out, source, data, result, told["figures"], fixed, state.records(), settings.cases, settings.batch_size
        )
        if settings.save_maps:
            state.write_maps(out / "maps.parquet")
    with replacing(out / "metrics.json") as path:
        lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in told.items())
        path.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")
    shutil.rmtree(state.folder)
    if boxes is None:  # of these a run has told already
        said = constant(result.maps[1], result.maps[0], cam.grids if cam else {})
        tell([*(cam.cautions if cam else ()), said])
    return EvaluationSummary(
        out, max(result.counts.values()), told, tuple(table), bad, tuple(getattr(source, "errors", ()))
    )


class _Samples:
    """Any data set, with what `fastcam.data.Pictures` has besides."""

    def __init__(self, data: Any) -> None:
        self._data, self.class_names = data, tuple(getattr(data, "class_names", ()))
        truths = [data[index] for index in range(len(data))]
        self.ids = [str(index) if truth.id is None else str(truth.id) for index, truth in enumerate(truths)]
        self.labels = [truth.label for truth in truths]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self._data[index]

    def truth(self, index: int) -> Sample:
        return self._data[index]._replace(image=None)


def opened(data: Any, problems: list[tuple[str, str]] | None = None, truth_only: bool = False) -> Any:
    """Open a data set, or give one what an evaluation needs of it.

    Args:
        data: a path for `fastcam.data.load`, or a data set, samples by index.
        problems: where what is malformed is listed and left out; None raises instead.
        truth_only: the pictures themselves need not be there.

    Returns:
        A data set with `ids`, `labels`, `class_names` and `truth` as those of `fastcam.data.Pictures`.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: it is malformed, or has no pictures.
    """
    if isinstance(data, str | os.PathLike):
        data = datasets.load(data, truth_only=truth_only, bad=problems)
    if not all(hasattr(data, name) for name in ("ids", "labels", "truth", "class_names")):
        data = _Samples(data)
    if not data.ids:
        raise ValueError("the data set has no pictures")
    return data


def _source(
    data: Any,
    protocol: Protocol,
    maps: Any,
    boxes: Any,
    model: nn.Module | None,
    config: ModelConfig | None,
    settings: EvaluateSettings,
) -> tuple[Source, int | None]:
    """What gives maps, and the number of classes that labels are of."""
    labelled = data.labels is not None and all(label is not None for label in data.labels)
    classes = max(len(data.class_names), max(data.labels) + 1) if labelled else None
    if model is not None:
        source = Network(data, model, config, protocol=protocol, targets=settings.targets, settings=settings)
        return source, config and config.num_classes if settings.targets == "label" else None
    if boxes is not None:
        return BoxTable(boxes, data, protocol, settings.targets if labelled else "highest"), classes
    path = Path(maps)
    if path.is_dir() and not (path / "maps.parquet").is_file():
        return MapFolder(path, data), classes
    return MapStore(path / "maps.parquet" if path.is_dir() else path, data, protocol.crop), classes


def _span(total: int, part: tuple[int, int] | None, batch_size: int) -> Span:
    """A part's share: whole batches, so that they are the same in all divisions of the work."""
    index, count = part or (1, 1)
    if not 1 <= index <= count:
        raise ValueError(f"`part` must be (i, n) with i in 1..n, got {part!r}")
    steps = -(-total // batch_size)
    start, stop = (min(steps * i // count * batch_size, total) for i in (index - 1, index))
    return Span(start, stop, total)


def _read_thresholds(path: Path, protocol: Protocol) -> dict[str, float]:
    """The best thresholds of another evaluation by the same protocol."""
    try:
        told = json.loads(read_text(path))
        theirs, best = told["protocol"], {name: float(value) for name, value in told["best_thresholds"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no metrics.json of an evaluation: {error!r}") from None
    if "MaxBoxAcc" not in best:
        raise ValueError(f"{path} has no best threshold of MaxBoxAcc")
    for name, ours in json.loads(json.dumps(protocol._asdict())).items():
        if name != "threshold" and theirs.get(name) != ours:
            raise ValueError(f"{path} has chosen its threshold with {name} {theirs.get(name)!r}, not {ours!r}")
    return best


def _table(told: dict[str, Any]) -> list[str]:
    """Figures of boxes as lines, as `Result.table` has those of maps."""
    lines = [f"{'':<14}{'%':>7}" + ("  95 % interval" if told["intervals"] else "")]
    for name, value in told["figures"].items():
        low_high = told["intervals"].get(name)
        lines.append(f"{name:<14}{value:7.2f}" + (f"  {low_high[0]:6.2f} – {low_high[1]:6.2f}" if low_high else ""))
    return lines


def _at_thresholds(result: Result, best: dict[str, float]) -> float:
    """BoxAccV2 at thresholds chosen on another split, one for each δ."""
    shares = [
        result.curves[f"BoxAcc {delta} all"][threshold_index(result.thresholds, best[f"MaxBoxAccV2 {delta}"])]
        for delta in BOX_DELTAS
    ]
    return float(np.mean(shares))


def _work(source: Source, state: State, batch_size: int, save_every: int, progress: bool) -> None:
    """Measure what is left of the share."""
    positions, position = range(state.position, state.span.stop), state.position
    with (
        quiet_pillow(),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1), "fastcam-decode") as pool,
        contextlib.closing(ahead(_batches(source, pool, positions, batch_size))) as work,
        tqdm(total=len(positions), unit="picture", disable=None if progress else True) as bar,
    ):
        for done, (count, batch, rejected) in enumerate(work, 1):
            for one in rejected:
                state.evaluator.reject(one.id, one.error)
            if batch is not None:
                _measure(state, batch)
            position += count
            if done % save_every == 0:
                state.save(position)
            bar.update(count)
    state.save(state.span.stop)


def _batches(
    source: Source, pool: ThreadPoolExecutor, positions: range, size: int
) -> Iterator[tuple[int, Batch | None, list[Loaded]]]:
    """Number of pictures, those that have maps, and those that have none."""
    for items in batches(in_order(pool, source.load, source.jobs(positions), 2 * size), size):
        good = [one for one in items if one.error is None]
        yield len(items), source.finish(good) if good else None, [one for one in items if one.error is not None]


def _measure(state: State, batch: Batch) -> None:
    evaluator, ids, truths = state.evaluator, [one.id for one in batch.loaded], [one.truth for one in batch.loaded]
    maps = batch.maps
    if batch.coarse:
        maps = evaluator.protocol.upsample(maps.relu() if batch.relu else maps)
    told = {"ranks": batch.ranks} if batch.logits is None else {"logits": batch.logits}
    before = len(evaluator.bad)
    scores = evaluator.add(ids, maps, truths, **told)
    bad = {id for id, _ in evaluator.bad[before:]}
    good = [row for row, id in enumerate(ids) if id not in bad]
    if scores.curves is not None:
        state.record([batch.loaded[row] for row in scores.index], scores.rank, scores.reference, scores.curves)
    masked = [row for row in good if truths[row].boxes is None]
    if masked:
        ranks = batch.ranks and [batch.ranks[row] for row in masked]
        curves = _pixel_curves(evaluator.protocol, [maps[row] for row in masked], [truths[row].mask for row in masked])
        state.record([batch.loaded[row] for row in masked], ranks, 255, curves)
    state.keep(batch, good)


def _pixel_curves(protocol: Protocol, maps: list[Any], masks: list[np.ndarray]) -> np.ndarray:
    """IoU of each map's pixels with a true mask: float64 [n, 256], at T/255; [n, 1] where there is one threshold."""
    framed = [protocol.frame_mask(mask) for mask in masks]
    counts = pixels.count(torch.stack([torch.as_tensor(map) for map in maps]), framed)  # [n, 2, bins]
    false, true = counts[..., ::-1].cumsum(-1)[..., ::-1].transpose(1, 0, 2)
    iou = true / (false + true[:, :1])
    single = len(protocol.thresholds) == 1
    levels = np.array([protocol.threshold]) if single else np.arange(256) / 255
    return iou[:, np.ceil(levels * pixels.BINS).astype(int)]
