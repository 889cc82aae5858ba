"""From a data set and maps, boxes or a network to metrics.json, a table, plots and a gallery: open, measure, write."""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastcam._options import accepts
from fastcam._progress import progress_bar
from fastcam._version import __version__
from fastcam.data import Collection, classes_of
from fastcam.data.matching import in_classes
from fastcam.data.names import read_text
from fastcam.data.segments import Segments, listed_names
from fastcam.evaluation import pixels, segmentation
from fastcam.evaluation.accumulator import Accumulator
from fastcam.evaluation.evaluator import Evaluator
from fastcam.evaluation.outputs import write_metrics, write_outputs, write_segmentation
from fastcam.evaluation.progress import Progress, Span
from fastcam.evaluation.protocols import Protocol, protocol_of, threshold_index
from fastcam.evaluation.pseudo import PseudoBoxed
from fastcam.evaluation.result import BOX_DELTAS, Result
from fastcam.evaluation.segmentation import REFERENCE, SegmentationEvaluator
from fastcam.evaluation.settings import METRICS, EvaluateSettings, MapSettings
from fastcam.evaluation.sources import (
    BoxTable,
    Failed,
    Loaded,
    MapFolder,
    Maps,
    MapStore,
    NetworkMaps,
    Refinement,
    SegmentMaps,
    Source,
    opened,
    segment_maps,
)
from fastcam.export.labels import chosen_level
from fastcam.methods.cautions import MapWarning, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.models.outputs import as_asked
from fastcam.pictures import quiet_pillow
from fastcam.pictures.stream import ahead, batched, stream
from fastcam.refinement import thread_each


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

    Where the data set has pictures of several classes, a `model` is also measured as their classifier: mAP and the
    average precision of each class, by Pascal VOC's and COCO's definition (`fastcam.evaluation.average_precision`),
    over the pictures that are measured; classes that none of these has are left out of the mean, and objects that VOC
    marks as difficult are there like others. Their scores, float32 for each picture and class, lie in `out` until the
    end: 0.5 MB for VOC's 5,823 pictures of 20 classes, 13 MB for COCO's 40,504 of 80.

    Protocol wsss measures maps as pseudo-labels of segmentation instead, against class PNGs: mIoU, precision and recall
    of all classes at 1000 levels of the background (`fastcam.evaluation.SegmentationEvaluator`), with
    pictures.parquet, miou.png and cases.png. All classes that a picture has maps of count, whatever `targets` is, and
    there are no intervals.

    Args:
        data: a data set, samples by index; or the path of one that `fastcam.data.load` recognises.
        out: folder for the results.
        maps: a folder with `<image_id>.npy` (finished maps [H, W] in [0, 1]), or a maps.parquet of `save_maps`, or the
            folder where that lies. For wsss a run of `fastcam.localize` that kept its maps, or a folder of .npz as
            `fastcam export --to wsss` writes them, or of labels as PNGs.
        boxes: a boxes.parquet of `fastcam.localize`. Its boxes are compared as they are, so there are no curves.
        model: network from [N, 3, size, size] to logits [N, C], or to what `output` finds scores in.
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
    names = [*(field.name for field in dataclasses.fields(MapSettings)), "scores", "save_maps"]
    changed = [name for name in names if getattr(settings, name) != getattr(EvaluateSettings, name)]
    if model is None and changed:
        raise ValueError(f"{', '.join(changed)}: for maps of a `model` only")
    segmented = settings.protocol == segmentation.NAME
    if segmented and maps is None:
        raise ValueError(
            "protocol wsss measures `maps`: a run of `localize` that keeps its maps, or a folder of .npz or of labels"
        )
    if settings.truth is not None and not segmented:
        raise ValueError("`truth` has the class PNGs of protocol wsss, others take the data set's own boxes and masks")
    if settings.refine is not None and not segmented:
        raise ValueError("`refine` is for protocol wsss")
    if (out / "metrics.json").exists() and not settings.overwrite:
        raise FileExistsError(f"{out / 'metrics.json'} exists already: choose another folder, or `overwrite` it")
    problems = list(problems)
    data = opened(data, problems if settings.skip_bad else None, truth_only=model is None)
    if segmented and maps is not None:
        task = _segmentation(data, settings, maps)
    else:
        pseudo = None
        if settings.threshold_from is not None and not _has_thresholds(Path(settings.threshold_from)):
            given_maps = {"maps": maps, "model": model, "config": config, "progress": progress}
            pseudo = _by_pseudo_boxes(data, out / "pseudo-boxes", settings, boxes, **given_maps)
            settings = dataclasses.replace(settings, threshold_from=out / "pseudo-boxes" / "metrics.json")
        task = _localization(data, settings, maps, boxes, model, config, pseudo)
    source = task.source
    ids = hashlib.blake2b("\n".join(source.data.ids).encode()).hexdigest()[:16]
    run: dict[str, Any] = {
        "fastcam": __version__,
        "data": {"pictures": len(source.data.ids), "ids": ids},
        "source": dict(source.info),
    }
    same = run | {"batch_size": settings.batch_size, "save_maps": settings.save_maps}
    span = _span(len(source.order), settings.part, settings.batch_size)
    done = Progress(out / "state", same, span, task.evaluator, settings.save_maps, source.info, len(source.ranked))
    if done.saved and not (settings.overwrite or (settings.resume and not settings.merge)):
        raise FileExistsError(f"{out} has a part, or a run that was broken off: resume it, or `overwrite` it")

    with contextlib.closing(done):
        if settings.merge:
            done.join([Path(folder) / "state" for folder in settings.merge])
        elif not (settings.resume and done.resume()):
            for id, reason in [*problems, *source.problems] if span.start == 0 else ():
                done.evaluator.reject(id, reason)
            done.begin()
        with quiet_methods(), nullcontext() if settings.refine is None else thread_each():
            _measure(task, done, settings, progress)
        if settings.part is None:
            summary, cautions = task.write(out, done, run)
        else:
            bad, cautions = tuple(done.evaluator.bad), source.cautions(None)
            summary = EvaluationSummary(out, span.stop - span.start, None, bad=bad)
    if settings.part is None:
        shutil.rmtree(done.folder)
    tell(cautions, stacklevel=3)  # of whoever called: between is what takes the options one by one
    return summary


# ---- open ------------------------------------------------------------------------------------------------------------


class _Task(NamedTuple):
    """What is to be measured, and how: the source of maps, a new evaluator, and what takes batches and writes files."""

    source: Source[Any, Any]
    evaluator: Callable[[], Accumulator]
    add: Callable[[Progress[Any], Maps], None]
    write: Callable[[Path, Progress[Any], dict[str, Any]], tuple[EvaluationSummary, list[str | None]]]


def _localization(
    data: Collection,
    settings: EvaluateSettings,
    maps: str | os.PathLike[str] | None,
    boxes: str | os.PathLike[str] | None,
    model: nn.Module | None,
    config: ModelConfig | None,
    pseudo: dict[str, Any] | None,
) -> _Task:
    """Boxes and masks by a `Protocol`; `pseudo` tells of the pseudo-boxes that chose the threshold, if some did."""
    protocol = protocol_of(settings.protocol, [segmentation.NAME])
    if not 0 <= protocol.percentile <= 100:
        raise ValueError(f"`percentile` of the protocol must be in [0, 100], got {protocol.percentile!r}")
    chosen = None if settings.threshold_from is None else _read_thresholds(Path(settings.threshold_from), protocol)
    threshold = _threshold(settings, None if chosen is None else chosen["MaxBoxAcc"])
    source = _source(data, protocol, settings, maps, boxes, model, config)
    evaluator = partial(
        Evaluator,
        protocol,
        metrics=settings.metrics if source.graded else ("MaxBoxAcc",),
        num_classes=source.num_classes,
        threshold=threshold,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
        skip_bad=settings.skip_bad,
    )
    write = partial(_write, source=source, settings=settings, threshold=threshold, chosen=chosen, pseudo=pseudo)
    return _Task(source, evaluator, _add, write)


def _segmentation(data: Collection, settings: EvaluateSettings, maps: str | os.PathLike[str]) -> _Task:
    """Pseudo-labels against class PNGs."""
    chosen = None if settings.threshold_from is None else chosen_level(Path(settings.threshold_from))
    threshold = _threshold(settings, chosen)
    segments = getattr(data, "segments", None)
    if settings.truth is not None:
        folder = Path(settings.truth)
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of class PNGs at {folder}")
        names = listed_names([folder, folder.parent]) or (segments.names if segments is not None else data.class_names)
        segments = Segments(folder, tuple(names))
    if segments is None:
        raise ValueError(
            "the data set has no class PNGs, as Pascal VOC's SegmentationClass: give their folder (`truth`)"
        )
    refinement = Refinement(settings.refine, *(() if threshold is None else (threshold,)))
    source = segment_maps(maps, data, segments, refinement)
    evaluator = partial(SegmentationEvaluator, segments.names, threshold=threshold, skip_bad=settings.skip_bad)
    write = partial(_write_segmentation, source=source, settings=settings, threshold=threshold)
    return _Task(source, evaluator, _add_segments, write)


def _source(
    data: Collection,
    protocol: Protocol,
    settings: EvaluateSettings,
    maps: str | os.PathLike[str] | None,
    boxes: str | os.PathLike[str] | None,
    model: nn.Module | None,
    config: ModelConfig | None,
) -> Source[Any, Any]:
    """What gives maps, by the one of `maps`, `boxes` and `model` that is given."""
    if model is not None:
        model = as_asked(model, settings.output, config)
        if settings.targets == "label":
            data = in_classes(data, *((), None) if config is None else (config.class_names, config.num_classes))
        return NetworkMaps(data, model, config, protocol, settings, settings.targets, settings.scores)
    if boxes is not None:
        labelled = data.labels is not None and None not in data.labels
        return BoxTable(boxes, data, protocol, settings.targets if labelled else "highest")
    assert maps is not None
    path = Path(maps)
    if path.is_dir() and not (path / "maps.parquet").is_file():
        return MapFolder(path, data)
    return MapStore(path / "maps.parquet" if path.is_dir() else path, data, protocol.crop)


def _threshold(settings: EvaluateSettings, chosen: float | None) -> float | None:
    """The given threshold, or one that another evaluation has chosen."""
    if chosen is not None and settings.threshold is not None:
        raise ValueError("`threshold` and `threshold_from` are two thresholds: give one")
    return settings.threshold if chosen is None else chosen


def _has_thresholds(path: Path) -> bool:
    """Whether a file is to be read as metrics.json, not as pseudo-boxes."""
    if path.suffix != ".json" or not path.is_file():
        return not path.exists()  # which reading it tells
    try:
        stored = json.loads(read_text(path))
    except (ValueError, RecursionError):
        return True
    return not (isinstance(stored, dict) and "annotations" in stored)  # as COCO has it


def _by_pseudo_boxes(
    data: Collection, out: Path, settings: EvaluateSettings, boxes: Any, **given: Any
) -> dict[str, Any]:
    """Evaluate the same maps with pseudo-boxes for true ones, so that `out` has the best thresholds for these."""
    if boxes is not None:
        raise ValueError("boxes are measured as they are: there is no threshold that pseudo-boxes could choose")
    if settings.part is not None or settings.merge:
        raise ValueError(
            "pseudo-boxes choose one threshold by all pictures, not by a part: evaluate with the pseudo-boxes as the "
            "data set first, and give all parts that metrics.json"
        )
    _threshold(settings, 0.0)
    pseudo = PseudoBoxed(data, settings.threshold_from or "", protocol_of(settings.protocol))
    wanted = dataclasses.replace(
        settings,
        metrics=[name for name in METRICS if name == "MaxBoxAcc" or (name in settings.metrics and name != "PxAP")],
        threshold_from=None,
        bootstrap=0,
        cases=0,
        save_maps=None,
        resume=False,
        overwrite=True,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MapWarning)  # the figures by true boxes warn of the same maps
        metrics = evaluate(pseudo, out=out, settings=wanted, **given).metrics
    assert metrics is not None
    return {
        "file": str(pseudo.path),
        "pictures": metrics["counts"]["with boxes"],
        "bad": len(metrics["bad"]),
        "MaxBoxAcc": metrics["figures"]["MaxBoxAcc"],
    }


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
        stored = json.loads(read_text(path))
        theirs = stored["protocol"]
        best = {name: float(value) for name, value in stored["best_thresholds"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no metrics.json of an evaluation: {error!r}") from None
    if "MaxBoxAcc" not in best:
        raise ValueError(f"{path} has no best threshold of MaxBoxAcc")
    for name, ours in json.loads(json.dumps(protocol._asdict())).items():
        if name != "threshold" and theirs.get(name) != ours:
            raise ValueError(f"{path} has chosen its threshold with {name} {theirs.get(name)!r}, not {ours!r}")
    return best


# ---- measure ---------------------------------------------------------------------------------------------------------


def _measure(task: _Task, done: Progress[Any], settings: EvaluateSettings, progress: bool) -> None:
    """Measure what is left of the share, while the maps of the next batch are made in another thread."""
    positions, position = range(done.position, done.span.stop), done.position
    with (
        quiet_pillow(),
        progress_bar(progress, total=len(positions), unit="picture") as bar,
    ):
        for count, (maps, failed) in enumerate(ahead(_batches(task.source, positions, settings.batch_size)), 1):
            for one in failed:
                done.evaluator.reject(one.id, one.reason)
            if maps is not None:
                task.add(done, maps)
            pictures = len(failed) + (0 if maps is None else len(maps.loaded))
            position += pictures
            if count % settings.save_every == 0:
                done.save(position)
            bar.update(pictures)
    done.save(done.span.stop)


def _batches(source: Source[Any, Any], positions: range, size: int) -> Iterator[tuple[Maps | None, list[Failed]]]:
    for batch in stream(batched(source.jobs(positions), size), source.load):
        loaded = [one for one in batch if isinstance(one, Loaded)]
        yield source.finish(loaded) if loaded else None, [one for one in batch if isinstance(one, Failed)]


def _add(done: Progress[Evaluator], batch: Maps) -> None:
    """Measure a batch, and keep what is known of each picture."""
    evaluator, ids, truths = done.evaluator, batch.ids, batch.truths
    maps = batch.finished(evaluator.protocol)
    before = len(evaluator.bad)
    ranks = batch.ranks if batch.logits is None else None
    scores = evaluator.add(ids, maps, truths, logits=batch.logits, ranks=ranks)
    bad = {id for id, _ in evaluator.bad[before:]}
    good = [row for row, id in enumerate(ids) if id not in bad]
    if scores.curves is not None:
        rows = scores.index.tolist()
        done.record(
            [batch.loaded[row] for row in rows], scores.rank, scores.reference, scores.curves, _rows(batch.scores, rows)
        )
    masks = {row: mask for row in good if truths[row].boxes is None and (mask := truths[row].mask) is not None}
    if masks:
        ranks = batch.ranks and [batch.ranks[row] for row in masks]
        curves = _pixel_curves(evaluator.protocol, [maps[row] for row in masks], [*masks.values()])
        done.record([batch.loaded[row] for row in masks], ranks, 255, curves, _rows(batch.scores, [*masks]))
    done.keep(batch, good)


def _rows(scores: np.ndarray | None, rows: list[int]) -> np.ndarray | None:
    return None if scores is None else scores[rows]


def _add_segments(done: Progress[SegmentationEvaluator], batch: Maps) -> None:
    """Add what was counted of pictures, and keep what is known of each."""
    good = []
    for one in batch.loaded:
        try:
            done.evaluator.take(one.content.histograms)
            good.append(one)
        except ValueError as error:
            done.evaluator.reject(one.id, str(error))
    if good:
        done.record(good, None, REFERENCE, np.stack([one.content.iou for one in good]))


def _pixel_curves(protocol: Protocol, maps: Sequence[Tensor | np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """IoU of each map's pixels with a true mask: float64 [n, 256], at T/255; [n, 1] where there is one threshold."""
    single = len(protocol.thresholds) == 1
    levels = np.array([protocol.threshold]) if single else np.arange(256) / 255
    stacked = torch.stack([torch.as_tensor(values) for values in maps])
    return pixels.overlaps(stacked, [protocol.frame_mask(mask) for mask in masks], levels)


# ---- write -----------------------------------------------------------------------------------------------------------


def _write(
    out: Path,
    done: Progress[Evaluator],
    run: dict[str, Any],
    source: Source[Any, Any],
    settings: EvaluateSettings,
    threshold: float | None,
    chosen: dict[str, float] | None,
    pseudo: dict[str, Any] | None,
) -> tuple[EvaluationSummary, list[str | None]]:
    """Write all files, metrics.json last; gives also what misleads in the maps."""
    result = done.evaluator.result()
    records = done.records()
    if source.ranked and len(records):
        _rank(result, source, records)
    figures = source.figures(result)
    metrics, table = run | result.to_dict() | figures.to_dict(), figures.table()
    metrics["data"] = {"root": str(getattr(source.data, "root", "")) or None} | run["data"]
    if source.errors is not None:
        metrics["errors"] = source.errors
    if chosen is not None and (share := _at_thresholds(result, chosen)) is not None:
        metrics["BoxAccV2"] = share
        table.append(f"{'BoxAccV2':<14}{share:7.2f}  at the thresholds of {settings.threshold_from}")
    if pseudo is not None:
        metrics["pseudo_boxes"] = pseudo
        there = f"pseudo-boxes of {pseudo['pictures']} pictures, where MaxBoxAcc is {pseudo['MaxBoxAcc']:.2f}"
        table.append(f"τ = {result.threshold:g} is the best for {there}")
    write_outputs(out, source, result, figures, threshold, records, settings.cases, settings.batch_size)
    done.write_maps(out / "maps.parquet")
    write_metrics(out / "metrics.json", metrics)
    pictures, missed = max(result.counts.values()), tuple(source.errors or ())
    summary = EvaluationSummary(out, pictures, metrics, tuple(table), tuple(result.bad), missed)
    return summary, source.cautions(result)


def _write_segmentation(
    out: Path,
    done: Progress[SegmentationEvaluator],
    run: dict[str, Any],
    source: SegmentMaps[Any],
    settings: EvaluateSettings,
    threshold: float | None,
) -> tuple[EvaluationSummary, list[str | None]]:
    """Write all files, metrics.json last."""
    result = done.evaluator.result(graded=source.graded)
    metrics = run | result.to_dict()
    metrics["data"] = {"root": str(getattr(source.data, "root", "")) or None} | run["data"]
    metrics["data"]["segments"] = str(source.segments.folder)
    if source.errors is not None:
        metrics["errors"] = source.errors
    write_segmentation(out, source, result, threshold, done.records(), settings.cases)
    write_metrics(out / "metrics.json", metrics)
    missed, table = tuple(source.errors or ()), result.table()
    if source.others:
        table.append(f"{source.others} pictures of the run are not in the data set")
    return EvaluationSummary(out, result.pictures, metrics, tuple(table), tuple(result.bad), missed), []


def _rank(result: Result, source: Source[Any, Any], records: np.ndarray) -> None:
    """Add average precision to a result: of the classes that are ranked, in the pictures that have records."""
    classes, known = np.array(source.ranked), classes_of(source.data)
    assert known is not None  # else nothing is ranked
    truth = np.stack([np.isin(classes, known[place] or ()) for place in records["place"].tolist()])
    result.add_precision(source.ranked, records["scores"], truth)


def _at_thresholds(result: Result, best: dict[str, float]) -> float | None:
    """BoxAccV2 at thresholds chosen on another split, one for each δ; None where one of both has no such figures."""
    if "BoxAcc 50 all" not in result.curves or "MaxBoxAccV2 50" not in best:
        return None
    shares = [
        result.curves[f"BoxAcc {delta} all"][threshold_index(result.thresholds, best[f"MaxBoxAccV2 {delta}"])]
        for delta in BOX_DELTAS
    ]
    return float(np.mean(shares))
