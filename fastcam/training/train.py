"""Training: one loop, from labelled pictures to a network, its checkpoints and its curve.

The loop is here; settings.py says what can be chosen, labels.py what classes are to the loss, loading.py how pictures
become batches, network.py what a step does, group.py how processes share it, checkpoint.py how it goes on after a
break, records.py what it reports.
"""

import dataclasses
import math
import os
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fastcam import data as datasets, models
from fastcam._check import scale_of
from fastcam.data import Dataset
from fastcam.evaluation.average_precision import average_precision
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess, quiet_pillow
from fastcam.training import checkpoint, loading
from fastcam.training.checkpoint import Facts, Place
from fastcam.training.group import Group, joined
from fastcam.training.labels import has_none, several, weights_of
from fastcam.training.loading import Key, Loader, Reader
from fastcam.training.network import Trainee, highest_rate, means
from fastcam.training.records import Clock, Records
from fastcam.training.settings import Settings

# Called after each test with the tested network in evaluation mode, its configuration and the data to test on; what it
# gives joins the epoch's figures.
Callback = Callable[[nn.Module, ModelConfig, Dataset], Mapping[str, float]]

_NO_POSITIVES = "no picture to test on has any of the classes, so that there is no mAP"
_LOOK = 20  # steps between looks at a GPU's sums, which wait for it
_FILES = ("best.safetensors", "last.safetensors", "training.png", "metrics.jsonl", "state.pt")
# Settings that may change when a training goes on: they do not alter its course.
_FREE = ("workers", "worker_kind", "cache", "checkpoint_every", "tensorboard", "data", "test_data", "images", "weights")
_LATER = ("class_weights",)  # compared as numbers, which take the data


class TrainingResult(NamedTuple):
    """What a training left behind.

    Attributes:
        best: checkpoint of the epoch that is best by the chosen figure.
        last: checkpoint of the last epoch.
        curve: the training graph, PNG.
        metrics: one JSON object per epoch and line.
        history: the same as dictionaries: epoch (from 1), step (optimizer steps done), learning_rate (at the epoch's
            beginning), train_loss, train_accuracy, test_loss and test_accuracy (accuracies in [0, 1]; those of
            training are means over the epoch, while weights change; losses of tests are without class weights and
            label smoothing), what the callback gave, and the time: seconds of the training steps, data_seconds of
            waiting for pictures in it, compute_seconds, images_per_second, test_seconds with the callback. Where the
            loss takes several classes a picture, train_exact_match and test_exact_match stand in the place of
            accuracies, the shares of pictures that are right in all classes at a score of 0.5, and test_mAP is the
            mean over classes of their average precision in all test pictures, in [0, 1], by the rule "voc2010" of
            `fastcam.evaluation.average_precision`; classes that no test picture has are left out.
        config: the configuration in the checkpoints.
        settings: the settings with all defaults resolved, TOML.
        state: what `resume` goes on from.
        ignored: files of the data sets that were passed over, by suffix.
    """

    best: Path
    last: Path
    curve: Path
    metrics: Path
    history: list[dict[str, float]]
    config: ModelConfig
    settings: Path
    state: Path
    ignored: Mapping[str, int] = {}


def train(
    data: str | os.PathLike[str] | tuple[Dataset, Dataset] | None = None,
    settings: Settings | str | None = None,
    *,
    out: str | os.PathLike[str],
    device: str | torch.device | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    callback: Callback | None = None,
    **values: Any,
) -> TrainingResult:
    """Train a network to classify pictures, into one class each or, by `loss`, into any number of classes.

    By default AdamW with a one-cycle learning rate; pictures are squashed to size x size and mirrored at random. After
    each epoch the network is tested, and `out` gets last.safetensors, best.safetensors (the earlier where epochs tie),
    metrics.jsonl, training.png and state.pt; settings.toml is there from the beginning. Each file is replaced in one
    step. On a CPU, the same seed, number of threads and versions give the same weights to the bit, also when the
    training was killed and resumed, whatever the number and kind of workers.

    With the losses bce and multilabel-soft-margin the target is all classes that `Sample.classes` tells, or the label
    alone where a data set has one a picture; a picture of classes () is a negative for all. The checkpoints then say
    that scores are sigmoids of the logits.

    Under torchrun the processes share each batch; the first one writes. BatchNorm then sees each process's share: on
    CPUs statistics are per process (the first one's running statistics are kept), on GPUs SyncBatchNorm joins them.

    Args:
        data: name or path of a data set (see `fastcam.data.load`), or a pair of data sets: to train on, to test on.
            None takes `settings.data`.
        settings: settings, or the name of one of `PRESETS`; by default those of `Settings`, for "shapes" the preset
            of that name.
        out: folder for the results.
        device: where the network runs; by default on a CUDA device if there is one, else on the CPU.
        resume: go on from `out`'s state, with its settings; where there is none, begin.
        overwrite: replace an earlier training in `out`; by default that is an error.
        progress: show progress bars where standard error is a terminal.
        callback: called in the first process after each test with the tested network, its configuration and the data
            to test on; the figures that it gives join the epoch's, and `best_by` may name one. For localization:
            `fastcam.evaluation.localizer`. If it has a method `check`, that is called with the data to test on first.
        **values: fields of `Settings` in place of those in `settings`.

    Returns:
        Paths and history.

    Raises:
        FileNotFoundError: no such data or weights.
        FileExistsError: `out` has a training already, and neither `resume` nor `overwrite` is set.
        TypeError: data of another kind.
        ValueError: unknown network, preset or setting (similar names are listed), a value out of range, unfit data,
            weights or state; `DecodeError` for a damaged picture, which is named.
        FloatingPointError: the loss became infinite or NaN; the checkpoints before stay.
        ImportError: TensorBoard is wanted and not installed.

    Warns:
        UserWarning: pictures to train on have several classes, and the loss takes the strongest of each alone.
    """
    if isinstance(data, str | os.PathLike):
        values["data"] = data
        data = None
    with joined(device) as group, quiet_pillow(), checkpoint.random_untouched(group):
        return _train(data, settings, values, Path(out), group, resume, overwrite, progress, callback)


class _Loop(NamedTuple):
    """What the loop works with."""

    out: Path
    settings: Settings
    config: ModelConfig
    group: Group
    trainee: Trainee
    loader: Loader
    records: Records
    pictures: int  # to train on
    test_data: Dataset
    per_epoch: int  # steps
    facts: Facts
    callback: Callback | None


def _train(
    data: tuple[Dataset, Dataset] | None,
    base: Settings | str | None,
    values: dict[str, Any],
    out: Path,
    group: Group,
    resume: bool,
    overwrite: bool,
    progress: bool,
    callback: Callback | None,
) -> TrainingResult:
    snapshot = checkpoint.load(out / "state.pt", group) if resume else None
    settings = _resolve(base, values, None if snapshot is None else snapshot.facts.settings)
    if group.rank == 0 and snapshot is None and not overwrite:
        for path in (out / "last.safetensors", out / "state.pt"):
            if path.exists():
                raise FileExistsError(f"{path} exists already: `resume` or `overwrite` it, or choose another folder")
    train_data, test_data = _datasets(data, settings)
    settings = dataclasses.replace(settings, class_weights=weights_of(settings, train_data))
    if group.rank == 0 and not settings.multi_label and (count := several(train_data)):
        warnings.warn(
            f"{count} of {len(train_data)} pictures to train on have several classes: cross-entropy takes the "
            'strongest of each alone, loss="bce" takes all',
            stacklevel=3,
        )
    if settings.multi_label and has_none(test_data):
        raise ValueError(_NO_POSITIVES)
    config = _config(settings, tuple(train_data.class_names))
    per_epoch = loading.count_steps(len(train_data), settings, group.world)
    _check(settings, group, per_epoch, callback)
    if callback is not None and (check := getattr(callback, "check", None)) is not None:
        check(test_data)
    total = settings.steps or settings.epochs * per_epoch
    epochs = math.ceil(total / per_epoch)

    torch.manual_seed(settings.seed)
    given = None if snapshot is None else frozenset(snapshot.facts.given)
    trainee = Trainee(config, settings, group, per_epoch, total, given)
    pictures = len(train_data), len(test_data)
    facts = Facts(dataclasses.asdict(settings), config.to_json(), pictures, sorted(trainee.given))
    if snapshot is None:
        place = Place()
        checkpoint.seed_process(settings.seed, group, place)
    else:
        place, before = snapshot.place, snapshot.facts
        for what, was, now in (
            ("classes or another network", before.config, facts.config),
            ("numbers of pictures", before.pictures, facts.pictures),
            ("class weights", before.settings.get("class_weights"), settings.class_weights),
        ):
            if was != now:
                raise ValueError(f"{out} was trained with other {what}: {was}, now {now}")
        trainee.load_state_dict(snapshot.parts)
        checkpoint.restore_random(snapshot, settings.seed, group)
    if group.rank == 0:
        _clear(out, everything=snapshot is None)
        settings.write(out / "settings.toml")
        if snapshot is not None:  # it may have been killed after the state was written and before this
            models.save_checkpoint(out / "last.safetensors", trainee.tested, config)
    done = (place.epoch - 1) * per_epoch + place.step
    reader = Reader(train_data, test_data, settings, Preprocess.of(config))
    with (
        loading.opened(reader, group.device) as loader,
        Records(out, group.rank == 0, progress, settings.tensorboard, done) as records,
    ):
        loop = _Loop(
            out=out,
            settings=settings,
            config=config,
            group=group,
            trainee=trainee,
            loader=loader,
            records=records,
            pictures=len(train_data),
            test_data=test_data,
            per_epoch=per_epoch,
            facts=facts,
            callback=callback,
        )
        for epoch in range(place.epoch, epochs + 1):
            steps = min(per_epoch, total - (epoch - 1) * per_epoch)
            ahead = (total - (epoch - 1) * per_epoch - steps) * settings.batch_size
            done, whole = (min(count * settings.batch_size, len(train_data)) for count in (place.step, steps))
            with records.epoch(epoch, epochs, done, whole, ahead):
                entry = _train_epoch(loop, place, steps) | _test(loop)
                place = _close_epoch(loop, place, entry)
        group.wait()
    best, last, curve, metrics, state_path = (out / name for name in _FILES)
    passed = [Counter(getattr(part, "ignored", ())) for part in (train_data, test_data)]
    ignored = passed[0] if passed[0] == passed[1] else passed[0] + passed[1]  # of one folder that was divided, but once
    written = best, last, curve, metrics, place.history, config, out / "settings.toml", state_path
    return TrainingResult(*written, ignored)


def _clear(out: Path, everything: bool) -> None:
    """Remove what a killed process left half-written, and before a new training all of an earlier one."""
    for name in (*_FILES, "settings.toml"):
        for partial in out.glob(f".{name}.*.tmp"):
            partial.unlink()
    if everything:
        for name in _FILES:
            (out / name).unlink(missing_ok=True)
        shutil.rmtree(out / "tensorboard", ignore_errors=True)


def _train_epoch(loop: _Loop, place: Place, steps: int) -> dict[str, float]:
    """Train for the rest of an epoch."""
    settings, group, trainee = loop.settings, loop.group, loop.trainee
    if place.step == 0:
        place.learning_rate = trainee.learning_rate
    plan = [
        islice(loading.steps(place.epoch, loop.pictures, settings, group.rank, group.world), place.step, steps)
        for _ in range(2)  # the loader is ahead
    ]
    batches = loop.loader.batches(part for _, parts in plan[0] for part in parts)
    # The first process carries on the sums of all.
    sums = (place.sums if group.rank == 0 else torch.zeros_like(place.sums)).to(group.device)
    clock, unseen = Clock(group.device, place.spent), 0
    trainee.train()
    for step, (count, parts) in enumerate(plan[1], place.step + 1):
        with clock.waiting():
            ready = [next(batches) for _ in parts]
        with clock.computing(count):
            sums += trainee.step(ready, count)
        unseen += count
        saving = settings.checkpoint_every and step % settings.checkpoint_every == 0 and step < steps
        if group.device.type == "cpu" or step % _LOOK == 0 or step == steps or saving:
            loss, right = means(sums)
            rate = trainee.learning_rate
            _check_loss(loss, f"after {int(sums[2]) - unseen} pictures of an epoch, at learning rate {rate:.2g}")
            figures = {"loss": loss, settings.share: right, "learning_rate": rate}
            loop.records.step((place.epoch - 1) * loop.per_epoch + step, unseen, figures)
            unseen = 0
        if saving:
            _save(loop, dataclasses.replace(place, step=step, sums=group.sum(sums).cpu(), spent=clock.spent))
    spent = clock.spent
    loss, right = means(group.sum(sums))
    _check_loss(loss, "in another process")
    return {
        "epoch": place.epoch,
        "step": (place.epoch - 1) * loop.per_epoch + steps,
        "learning_rate": place.learning_rate,
        "train_loss": loss,
        f"train_{settings.share}": right,
        "seconds": spent.seconds,
        "data_seconds": spent.data,
        "compute_seconds": spent.compute,
        "images_per_second": spent.pictures / spent.seconds,
    }


def _test(loop: _Loop) -> dict[str, float]:
    """Test the network, and let the callback do so."""
    start, group, settings = time.perf_counter(), loop.group, loop.settings
    share = [Key(0, index) for index in range(group.rank, len(loop.test_data), group.world)]
    size = math.ceil(settings.batch_size / (group.world * settings.accumulate))
    batches = loop.loader.batches(share[first : first + size] for first in range(0, len(share), size))
    tested = loop.trainee.test(batches)
    loss, right = means(group.sum(tested.sums))
    _check_loss(loss, "in the test after an epoch")
    figures = {"test_loss": loss, f"test_{settings.share}": right}
    if tested.logits is not None and tested.targets is not None:
        scores, truth = group.gather_rows(tested.logits), group.gather_rows(tested.targets)
        figures["test_mAP"] = _mean_precision(scores.numpy(), truth.numpy())
    if loop.callback is not None and group.rank == 0:
        with checkpoint.random_untouched(group):
            figures |= loop.callback(loop.trainee.tested, loop.config, loop.test_data)
    group.wait()
    return figures | {"test_seconds": time.perf_counter() - start}


def _mean_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Mean average precision over the classes that pictures have, of scores and truth [N, C]."""
    if not truth.any():
        raise ValueError(_NO_POSITIVES)
    return float(np.nanmean(average_precision(scores, truth)))


def _close_epoch(loop: _Loop, place: Place, entry: dict[str, float]) -> Place:
    """Write an epoch's results; give the place after it."""
    history, figure = [*place.history, entry], loop.settings.best_by
    assert figure is not None  # see `_resolve`
    if loop.group.rank == 0:
        if figure not in entry:
            raise ValueError(f"`best_by` must be one of the epoch's figures, {', '.join(entry)}; got {figure!r}")
        sign = -1 if figure.endswith("loss") else 1
        if all(sign * entry[figure] > sign * past[figure] for past in place.history):
            models.save_checkpoint(loop.out / "best.safetensors", loop.trainee.tested, loop.config)
        loop.records.close_epoch(history)
    place = Place(place.epoch + 1, history=history)
    _save(loop, place)
    return place


def _save(loop: _Loop, place: Place) -> None:
    checkpoint.save(loop.out / "state.pt", loop.facts, place, loop.trainee.state_dict(), loop.group)
    if loop.group.rank == 0:
        models.save_checkpoint(loop.out / "last.safetensors", loop.trainee.tested, loop.config)


def _check_loss(loss: float, when: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(f"the loss became {loss} {when}: lower the learning rate; the checkpoints before stay")


def _resolve(base: Settings | str | None, values: dict[str, Any], saved: dict[str, Any] | None) -> Settings:
    """The settings with all defaults in place; those of an earlier training may not change its course."""
    earlier = None if saved is None else Settings.of(None, saved)
    settings = Settings.of(base or earlier, values)
    best_by = settings.best_by or ("test_mAP" if settings.multi_label else "test_accuracy")
    settings = dataclasses.replace(settings, lr=highest_rate(settings), best_by=best_by)
    settings = _with_colours(settings, values, earlier)
    if earlier is not None:
        free = _FREE + _LATER + (("epochs", "steps") if settings.schedule in ("multistep", "constant") else ())
        before, now = dataclasses.asdict(earlier), dataclasses.asdict(settings)
        changed = [f"{name} {before[name]} to {now[name]}" for name in now if now[name] != before[name]]
        wrong = [change for change in changed if change.split()[0] not in free]
        if wrong:
            raise ValueError(f"a training that is resumed keeps its settings; it would change {', '.join(wrong)}")
    return settings


def _with_colours(settings: Settings, values: dict[str, Any], earlier: Settings | None) -> Settings:
    """Settings whose mean, std, channels and scaling, where not given, are the earlier training's or the weights'."""
    usual = Settings(channels=settings.channels)
    names = ("mean", "std", "channels", "scale")
    given = [name for name in names if name in values or getattr(settings, name) != getattr(usual, name)]
    given += ["channels"] if settings.channels is not None else []
    channels, scale = settings.channels, settings.scale
    if earlier is not None:
        mean, std, channels, scale = (getattr(earlier if name not in given else settings, name) for name in names)
    elif settings.weights is not None:
        own = [*given, "size", "resize", "interpolation"]  # pictures are resized as the settings have it
        known = models.preprocessing_of(settings.weights, models.split_arch(settings.arch)[0], own)
        mean, std = known.get("mean", settings.mean), known.get("std", settings.std)
        channels = channels or known.get("channels")
        scale = settings.scale if "scale" in given else known.get("scale")
    else:
        return settings
    mean, std = (settings.mean if "mean" in given else mean), (settings.std if "std" in given else std)
    return dataclasses.replace(settings, mean=mean, std=std, channels=channels, scale=scale)


def _config(settings: Settings, names: tuple[str, ...]) -> ModelConfig:
    return ModelConfig(
        settings.arch,
        len(names),
        class_names=names,
        output_stride=settings.output_stride,
        size=settings.size,
        resize=settings.resize,
        mean=settings.mean,
        std=settings.std,
        scores="sigmoid" if settings.multi_label else None,
        channels=None if settings.channels == 3 else settings.channels,
        scale=scale_of(settings.scale),
    )


def _check(settings: Settings, group: Group, per_epoch: int, callback: Callback | None) -> None:
    """Refuse what only shows beside data, processes and callback."""
    least = 2 * group.world * settings.accumulate
    if settings.batch_size < least:
        raise ValueError(
            f"`batch_size` must be at least {least}, two pictures for each of {settings.accumulate} parts in each of "
            f"{group.world} processes, got {settings.batch_size}"
        )
    if per_epoch == 0:
        raise ValueError(f"the data set to train on must have two pictures for each of {group.world} processes")
    known = ["test_mAP"] * settings.multi_label + [f"test_{settings.share}", "test_loss"]
    if callback is None and settings.best_by not in known:
        names = f"{', '.join(known[:-1])} or {known[-1]}"
        other = "" if settings.multi_label or settings.best_by != "test_mAP" else "; mAP is for a loss like bce"
        raise ValueError(f"`best_by` must be {names} without a callback, got {settings.best_by!r}{other}")
    if settings.freeze_layers and settings.weights is None:
        raise ValueError("`freeze_layers` needs `weights` to keep")


def _datasets(data: tuple[Dataset, Dataset] | None, settings: Settings) -> tuple[Dataset, Dataset]:
    if data is None:
        if settings.data is None:
            raise ValueError("`data` must tell what to train on: a name, a path or a pair of data sets")
        train_split, test_split = settings.train_split, settings.test_split
        if settings.test_data is None:  # two parts of one, else all of both
            train_split, test_split = train_split or "train", test_split or "val"
        format, images, test_source = settings.format, settings.images, settings.test_data or settings.data
        data = (
            datasets.load(settings.data, train_split, format=format, images=images),
            datasets.load(test_source, test_split, format=format, images=images),
        )
    if not (isinstance(data, tuple) and len(data) == 2):
        raise TypeError(f"`data` must be a name, a path or a pair of data sets, got {type(data).__name__}")
    for name, part in zip(("train on", "test on"), data, strict=True):
        if len(part) < 2:
            raise ValueError(f"the data set to {name} must have at least two pictures, got {len(part)}")
    least = 1 if settings.multi_label else 2
    if tuple(data[0].class_names) != tuple(data[1].class_names) or len(data[0].class_names) < least:
        raise ValueError(
            f"the data sets to train and to test on must have the same {'one' if least == 1 else 'two'} or more "
            f"classes, got {list(data[0].class_names)} and {list(data[1].class_names)}"
        )
    return data
