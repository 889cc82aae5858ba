"""The options of `fit`: its signature, checks, documentation and command are made of them."""

import math
from dataclasses import dataclass
from typing import Literal

from fastcam._options import check, option


@dataclass(frozen=True)
class FitSettings:
    """What is fitted, and how it is measured."""

    head: Literal["svm", "logistic"] = option(
        "svm", "linear SVM, one class against the rest; or logistic regression, whose scores are logits of a softmax"
    )
    strength: float | None = option(
        None,
        "scikit-learn's C, the inverse of the regularisation's strength; by default the best of 1e-5, 1e-4, …, 10 by "
        "cross-validation over 5 parts of what is fitted on",
        flags="--strength",
        metavar="C",
    )
    split: str | None = option(None, "part of a data set's path to fit on; by default train, or all there is")
    test_split: str | None = option(None, "part of it to test on; by default val or test, where there is one")
    format: str | None = option(None, "layout of a data set's path: wsol, cub, coco, …; by default it is recognised")
    images: str | None = option(None, "folder of its pictures, where the layout has them elsewhere", metavar="FOLDER")
    folds: int | None = option(
        None, "measure by so many folds, and fit on all pictures; by default on a part that is held out", least=2
    )
    test_fraction: float = option(
        0.2, "share of each class that is held out to test on, where the data has no part for that", below=1
    )
    hard_negatives: int = option(
        0,
        "rounds in which the negatives of the highest scores join as many random ones as there are positives; 0 fits "
        "on all negatives",
        least=0,
        metavar="ROUNDS",
    )
    captions: str | None = option(
        None, "COCO's JSON of captions, or CSV of image_id,caption, in which `phrase` is looked for", metavar="FILE"
    )
    phrase: str | None = option(
        None, "words that make a picture a positive where a caption has them; captioned pictures without are negatives"
    )
    concept: str | None = option(
        None,
        "name of the positives' class NAME, by default `phrase` or positive; the negatives are called no NAME",
        metavar="NAME",
    )
    features: str | None = option(
        None, "Parquet file that keeps the features; by default features.parquet in `out`", metavar="FILE"
    )
    features_only: bool = option(False, "write the features, and fit nothing")
    layer: str | None = option(
        None, "with `features_only`: dotted name of another layer, whose vectors, or means of maps, are the features"
    )
    batch_size: int = option(32, "pictures that the network is given at once", least=1)
    skip_bad: bool = option(False, "leave out and list damaged pictures; by default the first is an error")
    seed: int = option(0, "of what is held out, of folds, of random negatives and of the solver", least=0)
    overwrite: bool = option(
        False, "replace an earlier fit, and features of another network; by default that is an error"
    )

    def __post_init__(self) -> None:
        check(self)
        if self.strength is not None and not (self.strength > 0 and math.isfinite(self.strength)):
            raise ValueError(f"`strength` must be a positive number, got {self.strength!r}")
        if not 0 < self.test_fraction < 1:
            raise ValueError(f"`test_fraction` must be between 0 and 1, got {self.test_fraction!r}")
        if (self.captions is None) != (self.phrase is None):
            raise ValueError(f"`captions` and `phrase` go together, got {self.captions!r} and {self.phrase!r}")
        if self.layer is not None and not self.features_only:
            raise ValueError(
                f"`layer` goes with `features_only`: a head with a CAM is fitted on the last pooled layer alone, got "
                f"{self.layer!r}"
            )
