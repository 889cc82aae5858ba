"""`fit`: a network learns new classes by a linear head on its pooled features, and stays an ordinary checkpoint."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import nn

from fastcam import data as datasets, models
from fastcam._check import listed
from fastcam._files import replacing
from fastcam._options import accepts
from fastcam.data import Collection, Pictures, Sample, read_for
from fastcam.data.loading import FORMATS
from fastcam.fitting.concepts import chosen, mentioned, mined
from fastcam.fitting.features import Features, pooled_features
from fastcam.fitting.heads import Accuracy, Fitted, check_classes, cross_validate, fit_head, with_head
from fastcam.fitting.settings import FitSettings
from fastcam.fitting.trunk import Trunk
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess, Reading, find_pictures


class FitResult(NamedTuple):
    """What `fit` left behind.

    Attributes:
        checkpoint: the network with the fitted head; None with `features_only`.
        features: file of the features.
        values: the features of the pictures that were fitted on, or of all.
        head: the fitted layer; None with `features_only`.
        config: the configuration in the checkpoint.
        accuracy: of pictures that were not fitted on.
        average_precision: of the positives among them, if there are any; None for several classes.
        negatives: how many negatives the head was fitted on; None for several classes.
        bad: (id, reason) of each picture that was left out.
        ignored: files of the data that were passed over, by suffix.
    """

    checkpoint: Path | None
    features: Path
    values: Features
    head: Fitted | None
    config: ModelConfig
    accuracy: Accuracy | None
    average_precision: float | None
    negatives: int | None
    bad: tuple[tuple[str, str], ...]
    ignored: Mapping[str, int]


@accepts(FitSettings)
def fit(
    data: Collection | str | os.PathLike[str],
    model: nn.Module,
    *,
    out: str | os.PathLike[str],
    config: ModelConfig,
    settings: FitSettings,
    test: Collection | None = None,
    positives: Sequence[str] | None = None,
    negatives: Sequence[str] | int | None = None,
    progress: bool = True,
) -> FitResult:
    """Fit a linear head on a network's pooled features, and write the network that ends in it.

    The network runs once over the pictures; its features are kept in a file, so that the same call goes on after
    whatever stopped it, and another head or other classes need no run. After global average pooling the score of the
    new class is the mean of its CAM plus the bias: every method, `localize`, `evaluate` and the others work on the
    checkpoint.

    In `out`: model.safetensors, the checkpoint; fit.json with the figures; features.parquet. Wherever weights are
    asked for, the folder stands for its checkpoint.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 4.

    Args:
        data: pictures with labels, or the path of a data set: of one that has parts to train and to test on, these.
        model: network from [N, 3, size, size] to logits [N, C] that ends in a global pooling and one linear layer; it
            stays as it is.
        out: folder to write to.
        config: how the network is built and pictures are prepared for it.
        settings: what is fitted.
        test: pictures to test on, of the same classes.
        positives: ids of the pictures that show a concept: the head is to tell these from others, whatever the labels;
            both sides weigh the same, however many they are.
        negatives: ids of pictures that do not, or a number of random ones; by default all other pictures.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The files, the head and its accuracy.

    Raises:
        FileNotFoundError: there is no such data set.
        FileExistsError: `out` has a fit already, and `overwrite` is not set.
        ImportError: scikit-learn is not installed.
        ValueError: a class without a picture, one class only, a picture without a label, damaged or with features
            that are not finite; a network without a pooled layer, or that `config.arch` does not build; a file with
            features of another network; an option that is out of range or does not go with the others.
        OSError: a file cannot be written.
    """
    place = Path(out)
    if place.suffix == ".safetensors":
        raise ValueError(f"`out` is a folder, in which model.safetensors will be, got {place}")
    checkpoint, figures = place / "model.safetensors", place / "fit.json"
    file = place / "features.parquet" if settings.features is None else Path(settings.features)
    if checkpoint.exists() and not (settings.overwrite or settings.features_only):
        raise FileExistsError(f"{checkpoint} exists already: choose another folder, or `overwrite` it")
    bad: list[tuple[str, str]] = []
    task = _task(data, test, positives, negatives, settings, bad if settings.skip_bad else None)

    ignored: Mapping[str, int] = getattr(task.data, "ignored", {})

    def featured(part: Collection) -> Features:
        return pooled_features(
            model,
            part,
            config,
            file=file,
            layer=settings.layer,
            batch_size=settings.batch_size,
            bad=bad if settings.skip_bad else None,
            overwrite=settings.overwrite,
            progress=progress,
        )

    if settings.features_only:
        found = featured(task.data)
        return FitResult(None, file, found, None, config, None, None, None, tuple(bad), ignored)
    preprocess = Preprocess.of(config, model)
    trunk = Trunk(model, preprocess.size, channels=preprocess.channels)
    assert trunk.linear is not None  # as no layer was named
    _check_arch(model, config, trunk.linear, len(task.classes))
    features = featured(task.data)
    fitter = _Fitter(task, features, settings)
    everything = np.arange(len(fitter.labels))
    if settings.folds is not None:
        truth = fitter.labels
        scores = cross_validate(features.values, truth, settings.folds, fitter, seed=settings.seed)
        head = fitter(everything)
    elif task.test is not None:
        held = featured(task.test)
        truth = np.array(held.labels, np.int64)
        head = fitter(everything)
        scores = head.scores(held.values)
    else:
        fitted_on, tested = _held_out(fitter.labels, settings.test_fraction, settings.seed)
        truth = fitter.labels[tested]
        head = fitter(fitted_on)
        scores = head.scores(features.values[tested])
    precision = _average_precision(truth, scores) if task.binary and truth.any() else None
    result = FitResult(
        checkpoint,
        file,
        features,
        head,
        dataclasses.replace(config, num_classes=len(task.classes), class_names=task.classes, threshold=None),
        Accuracy.of(truth, scores),
        precision,
        fitter.negatives if task.binary else None,
        tuple(bad),
        ignored,
    )
    models.save_checkpoint(checkpoint, with_head(model, trunk.linear, head), result.config)
    told = _figures(result, fitter, settings, truth, scores)
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in told.items())
    with replacing(figures) as partial:
        partial.write_text(f"{{\n{lines}\n}}\n", "utf-8")
    return result


class _Task(NamedTuple):
    """Pictures and what is to be told apart in them."""

    data: Collection
    test: Collection | None
    classes: tuple[str, ...]
    labels: dict[str, int]  # of the pictures in `data`, by id
    binary: bool


def _task(
    data: Collection | str | os.PathLike[str],
    test: Collection | None,
    positives: Sequence[str] | None,
    negatives: Sequence[str] | int | None,
    settings: FitSettings,
    bad: list[tuple[str, str]] | None,
) -> _Task:
    """Open the data and find out what is to be fitted; ValueError for what does not go together."""
    if positives is not None and settings.phrase is not None:
        raise ValueError("`positives` does not go with `phrase`, which finds them by their captions")
    binary, whole = positives is not None or settings.phrase is not None, settings.folds is not None
    if not binary and (negatives is not None or settings.hard_negatives):
        name = "hard_negatives" if negatives is None else "negatives"
        raise ValueError(f"`{name}` goes with `positives` or `phrase`, which are missing")
    if test is not None and (binary or whole):
        raise ValueError(f"`test` does not go with {'a concept' if binary else '`folds`'}: `data` itself is divided")
    if isinstance(data, str | os.PathLike):
        unlabelled = binary or settings.features_only
        data, held = _opened(Path(data), settings, unlabelled or whole or test is not None, unlabelled, bad)
        test = held if test is None else test
    elif given := [name for name in ("split", "test_split", "format", "images") if getattr(settings, name) is not None]:
        raise ValueError(f"`{given[0]}` is for the path of a data set, got one that is opened")
    if binary:
        rest = None
        if settings.captions is not None and settings.phrase is not None:
            positives, rest = mentioned(Path(settings.captions), settings.phrase, data.ids)
        found = chosen(data.ids, positives or (), negatives, settings.seed, rest)
        shown, places = set(found[0]), sorted([*found[0], *found[1]])
        name = settings.concept or settings.phrase or "positive"
        part: Collection = data.subset(places) if isinstance(data, Pictures) else _Part(data, places)
        return _Task(part, None, (f"no {name}", name), {data.ids[at]: int(at in shown) for at in places}, True)
    if settings.features_only:
        return _Task(data, None, (), {}, False)
    for part in [data, *([] if test is None else [test])]:
        known = part.labels or [None] * len(part.ids)
        if None in known:
            raise ValueError(f"{part.ids[list(known).index(None)]} has no label to fit or test on")
    labels = {id: label for id, label in zip(data.ids, data.labels or (), strict=True) if label is not None}
    classes = tuple(data.class_names) or tuple(map(str, range(max(labels.values()) + 1)))
    if test is not None and tuple(test.class_names) not in ((), classes):
        raise ValueError(
            f"the pictures to fit on and to test on must have the same classes, got {listed(list(classes))} and "
            f"{listed(list(test.class_names))}"
        )
    check_classes(np.array(list(labels.values())), classes)
    for id, label in [] if test is None else zip(test.ids, test.labels or (), strict=True):
        if label is None or not 0 <= label < len(classes):
            raise ValueError(f"{id} has label {label}, which is none of the {len(classes)} classes that are fitted")
    return _Task(data, test, classes, labels, False)


def _opened(
    path: Path, settings: FitSettings, one: bool, unlabelled: bool, bad: list[tuple[str, str]] | None
) -> tuple[Collection, Collection | None]:
    """Open the pictures to fit on, and those to test on if there are such, and not `one` set is wanted.

    Where pictures need no labels, a folder of any layout will do.
    """
    layouts = any(known.fits(path) for known in FORMATS.values()) if path.is_dir() else True
    if unlabelled and not layouts and settings.format is None:
        ignored: Counter[str] = Counter()
        ids, files = zip(*find_pictures([path], ignored), strict=True)
        return Pictures(path, ids, files, ignored=ignored), None

    def load(split: str | None) -> Collection:
        return datasets.load(path, split, settings.format, settings.images, bad=bad)

    split, held = settings.split, settings.test_split
    if one and held is not None:
        raise ValueError(f"`test_split` does not go with folds, concepts and features alone, got {held}")
    if not one:
        parts = datasets.splits(path, settings.format)
        if split is None and "train" in parts and len(parts) > 1:
            split, held = "train", held or "val"
    return load(split), None if held is None else load(held)


class _Fitter:
    """Fits a head on some of the pictures, by place; `labels`, int64 [N], are those of all.

    `negatives` is how many of them the last head was fitted on.
    """

    def __init__(self, task: _Task, features: Features, settings: FitSettings) -> None:
        self.labels = np.array([task.labels[id] for id in features.ids], np.int64)
        self.negatives = 0
        self._task, self._values, self._settings = task, features.values, settings

    def __call__(self, places: np.ndarray) -> Fitted:
        rounds = self._settings.hard_negatives
        if rounds:
            head, places = mined(self._values, self.labels, places, rounds, self._plain, self._settings.seed)
        else:
            head = self._plain(places)
        self.negatives = int((self.labels[places] == 0).sum())
        return head

    def _plain(self, places: np.ndarray) -> Fitted:
        settings = self._settings
        return fit_head(
            self._values[places],
            self.labels[places],
            settings.head,
            classes=self._task.classes,
            strength=settings.strength,
            balanced=self._task.binary,
            seed=settings.seed,
        )


class _Part:
    """Some pictures of a data set."""

    def __init__(self, data: Collection, places: Sequence[int]) -> None:
        self._data, self._places, self.class_names = data, places, data.class_names
        self.ids = [data.ids[place] for place in places]
        self.labels = None if data.labels is None else [data.labels[place] for place in places]
        classes = getattr(data, "classes", None)
        self.classes = None if classes is None else [classes[place] for place in places]

    def read_as(self, reading: Reading) -> "_Part":
        return _Part(read_for(self._data, reading), self._places)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return self._data[self._places[index]]

    def truth(self, index: int) -> Sample:
        return self._data.truth(self._places[index])


def _held_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Divide places of pictures into those to fit on and those to test on: this share of each class.

    Of a class with two pictures or more at least one is tested on; one is always left to fit on.
    """
    tested = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(1, round(fraction * len(members))), len(members) - 1)
        tested[np.random.default_rng((seed, int(label))).permutation(members)[:count]] = True
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def _average_precision(truth: np.ndarray, scores: np.ndarray) -> float:
    """How well positives come before negatives, by descending score: the area under precision over recall."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, scores[:, 1]))


def _check_arch(model: nn.Module, config: ModelConfig, linear: str, classes: int) -> None:
    """Refuse a network that cannot be read back from a checkpoint, before the work is done."""
    own = {name: tuple(value.shape) for name, value in models.unwrap(model).state_dict().items()}
    channels = Preprocess.of(config, model).channels
    built = models.build(config.arch, classes, config.output_stride, channels).state_dict()
    head = {f"{linear}.weight", f"{linear}.bias"}
    if {name: shape for name, shape in own.items() if name not in head} != {
        name: tuple(value.shape) for name, value in built.items() if name not in head
    } or not head <= built.keys():
        raise ValueError(
            f"`config.arch` {config.arch!r} builds another network than the given {type(models.unwrap(model)).__name__}"
            f" with its linear layer {linear!r}: a checkpoint could not be read back"
        )


def _figures(
    result: FitResult, fitter: _Fitter, settings: FitSettings, truth: np.ndarray, scores: np.ndarray
) -> dict[str, Any]:
    """What fit.json holds."""
    assert result.head is not None
    assert result.accuracy is not None
    counts = np.bincount(fitter.labels, minlength=len(result.head.classes))
    predicted = scores.argmax(1)
    confusion = np.zeros((len(counts), len(counts)), int)
    np.add.at(confusion, (truth, predicted), 1)
    return {
        "classes": list(result.head.classes),
        "pictures": counts.tolist(),
        "head": result.head.head,
        "strength": result.head.strength,
        "measured": "folds" if settings.folds is not None else "held out",
        "folds": settings.folds,
        "accuracy": result.accuracy._asdict(),
        "average_precision": result.average_precision,
        "confusion": confusion.tolist(),
        "hard_negatives": settings.hard_negatives,
        "negatives": result.negatives,
        "layer": result.values.layer,
        "pool": result.values.pool,
        "network": result.values.digest,
        "bad": [list(entry) for entry in result.bad],
    }
