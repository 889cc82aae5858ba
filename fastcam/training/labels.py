"""What the classes of pictures are to the loss: the target of each, and the weights of classes."""

import os
from pathlib import Path
from typing import cast

import numpy as np

from fastcam.data import Collection, Dataset, Sample, classes_of
from fastcam.data.names import Names, read_text, tidy
from fastcam.training.settings import Settings


def target_of(sample: Sample, index: int, count: int, multi_label: bool) -> int | np.ndarray:
    """The class of a picture, or where the loss takes several float32 [count]: 1 for each class it has, else 0.

    Raises:
        ValueError: its classes are not known, none of `count` classes, or not of a number that the loss takes.
    """
    name, label, classes = f"sample {index}", sample.label, sample.classes
    named = "" if sample.id is None else f" (picture {sample.id!r})"
    if multi_label:
        if classes is None and label is None:
            raise ValueError(
                f"{name} has no label{named}: a picture with none of the classes must say so, by classes ()"
            )
        classes = (label,) if classes is None and label is not None else classes or ()
        if not all(0 <= one < count for one in classes):
            raise ValueError(f"{name} has classes {classes}, not all of them of {count} classes{named}")
        target = np.zeros(count, np.float32)
        target[list(classes)] = 1
        return target
    if label is None and classes is not None:
        has = "several classes, of which none is the strongest" if classes else "none of the classes"
        raise ValueError(f'{name} has {has}{named}: cross-entropy needs one, `loss="bce"` takes any number')
    if label is None or not 0 <= label < count:
        raise ValueError(f"{name} has label {label}, none of {count} classes{named}")
    return label


def several(data: Dataset) -> int:
    """How many pictures have more than one class; 0 where the data set does not tell of that."""
    return sum(classes is not None and len(classes) > 1 for classes in _known(data) or ())


def has_none(data: Dataset) -> bool:
    """Whether no picture has any of the classes, as far as the data set tells of that."""
    known = _known(data)
    return known is not None and all(classes == () for classes in known)


def _known(data: Dataset) -> list[tuple[int, ...] | None] | None:
    """The classes of each picture, see `classes_of`, which takes data sets that do not tell of their labels, too."""
    return classes_of(cast(Collection, data))


def weights_of(settings: Settings, data: Dataset) -> tuple[float, ...] | None:
    """A weight for each class of the data to train on, see `Settings.class_weights`.

    Those that are balanced are for bce the ratio of negatives to positives, as torch's documentation of
    BCEWithLogitsLoss has it for `pos_weight`, and for the other losses n_samples / (n_classes · n_of_class), scikit-
    learn's `compute_class_weight` (King and Zeng, Logistic Regression in Rare Events Data, 2001), with labels for
    samples where a picture has several. A class without pictures has weight 1.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: not one weight for each class, a file that has no such lines, or classes that cannot be counted.
    """
    given, names = settings.class_weights, data.class_names
    if given == "balanced":
        return _balanced(settings, data)
    if isinstance(given, str):
        return _read(Path(given), names)
    if given is not None and len(given) != len(names):
        raise ValueError(f"`class_weights` must be a number for each of {len(names)} classes, got {len(given)}")
    return given


def _balanced(settings: Settings, data: Dataset) -> tuple[float, ...]:
    names, known = data.class_names, _known(data)
    if not settings.multi_label and (labels := getattr(data, "labels", None)) is not None:
        known = [None if label is None else (label,) for label in labels]  # the strongest class alone is trained on
    if known is None or None in known:
        raise ValueError('`class_weights="balanced"` needs the classes of all pictures from the data set: give numbers')
    every = [one for classes in known for one in classes or ()]
    if not all(0 <= one < len(names) for one in every):
        raise ValueError(f"the data set to train on has class {max(every)}, none of {len(names)} classes")
    counts = np.bincount(every, minlength=len(names)).astype(float)
    there = np.maximum(counts, 1)
    weights = (len(known) - counts) / there if settings.loss == "bce" else counts.mean() / there
    if (weights[counts > 0] <= 0).any():
        always = names[int(np.flatnonzero(counts == len(known))[0])]
        raise ValueError(f"all pictures to train on have class {always!r}, whose balanced weight is 0: give numbers")
    return tuple(np.where(counts > 0, weights, 1.0).tolist())


def _read(path: Path, names: tuple[str, ...]) -> tuple[float, ...]:
    """Weights from a file of lines "class name,number", in any order."""
    if not path.is_file():
        raise FileNotFoundError(
            f"`class_weights` must be balanced, a number for each class, or a file; there is no file {os.fspath(path)}"
        )
    known, weights = Names(names), dict[int, float]()
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        name, _, text = line.rpartition(",")
        places = known.places(tidy(name))
        try:
            weight = float(text)
        except ValueError:
            weight = 0.0
        if not (name.strip() and 0 < weight < float("inf")):
            raise ValueError(f"{path}:{number}: expected a class's name, a comma and a positive number, got {line!r}")
        if len(places) != 1 or places[0] in weights:
            wrong = "comes twice" if places and places[0] in weights else "is not one of the data set's"
            raise ValueError(f"{path}:{number}: class {name!r} {wrong}")
        weights[places[0]] = weight
    if missing := [name for place, name in enumerate(names) if place not in weights]:
        raise ValueError(f"{path} lacks a weight for class {missing[0]!r}, and {len(missing) - 1} others")
    return tuple(weights[place] for place in range(len(names)))
