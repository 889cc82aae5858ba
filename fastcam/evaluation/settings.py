"""The options of `evaluate` and `compare`: signatures, checks, documentation and commands are made of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastcam._check import distinct_scales
from fastcam._options import Output, check, option

METRICS = ("MaxBoxAcc", "MaxBoxAccV2", "PxAP")
ROWS = ("cam", "cam+tap", "cam+clamp", "cam+pas", "cam+tap+clamp+pas", "gradcam", "gradcam++", "layercam")


@dataclass(frozen=True)
class MeasureSettings:
    """How maps are measured."""

    protocol: object = option(
        "standard",
        "whose rules: a name in `fastcam.evaluation.PROTOCOLS`, which are standard, paper, rethinking, ts-cam, bas and "
        "notebook, or a `Protocol`; in `evaluate` also wsss: pseudo-labels against class PNGs",
    )
    metrics: Sequence[str] = option(METRICS, "which of them to measure, see `fastcam.evaluation.Evaluator`", cli=False)
    bootstrap: int = option(200, "replicates for confidence intervals, 0 for none", least=0)
    seed: int = option(0, "of the replicates", cli=False)
    skip_bad: bool = option(False, "list what cannot be measured instead of stopping at the first")
    batch_size: int = option(32, "pictures in a batch", least=1)
    overwrite: bool = option(
        False, "replace the results, or the run that was broken off, that `out` has; otherwise that is an error"
    )

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class MapSettings:
    """How a network's maps are made."""

    method: str = option(
        "cam", "method of the maps, one of `fastcam.methods.BOX_METHODS`: cam, gradcam, gradcam++, …, saliency"
    )
    target_layers: tuple[str, ...] | Any = option(
        None,
        "layers to take maps from, modules or dotted names; by default the model's last stage",
        flags="--target-layer",
    )
    output: Output | None = option(
        None,
        "what of the network's output are the scores: a name, an index, or a function of all that it gives, see "
        "`fastcam.models.with_output`; by default that of `config`, or what needs no word",
        cli=False,
    )
    tap: bool = option(
        False, "thresholded average pooling instead of the network's global pooling, with its weights as they are"
    )
    clamp: bool = option(False, "count negative weights as zero in the maps of the method cam")
    relu: bool | None = option(None, "clip coarse maps at zero; by default as the method has it (CAM: no)")
    smooth: tuple[str, ...] = option(
        (),
        'any of "aug", the average over six views of each picture, and "eigen", the first principal component of the '
        "weighted channels",
        metavar="aug,eigen",
    )

    scales: tuple[float, ...] = option(
        (),
        "sum the maps of each picture at several sizes, such as 0.5,1,1.5,2 times that of the network's input; each "
        "map is then divided by its maximum (`fastcam.methods.observe` has the formula)",
    )
    flip: bool = option(False, "sum the maps of mirror images, too, turned back")

    def __post_init__(self) -> None:
        if isinstance(self.smooth, list):
            object.__setattr__(self, "smooth", tuple(self.smooth))
        object.__setattr__(self, "scales", distinct_scales(self.scales))
        check(self)
        if "aug" in self.smooth and (self.scales or self.flip):
            raise ValueError("aug and `scales` or `flip` are two ways to use several views: take one of them")


@dataclass(frozen=True)
class EvaluateSettings(MapSettings, MeasureSettings):
    """How `evaluate` measures maps, boxes or a network."""

    targets: Literal["label", "highest"] = option(
        "label",
        'which class\'s map or box of each picture counts: "label", the true one, or "highest". Labels are not looked '
        "at then. Labels meet the classes of a network, or of boxes, by name where all names are known",
    )
    scores: Literal["softmax", "sigmoid"] | None = option(
        None,
        "how the network's logits become the scores that mAP ranks pictures by, where these have several classes; by "
        "default as the checkpoint says, else softmax, and sigmoid of a single logit",
    )
    threshold: float | None = option(
        None, "threshold τ of GT-known Loc, Top-k Loc and mean IoU, or of mIoU; by default the protocol's"
    )
    truth: str | os.PathLike[str] | None = option(
        None,
        "for wsss: folder of the class PNGs, x/y.png for x/y.jpg, with classes.txt if classes have names; by default "
        "the data set's own, SegmentationClass of Pascal VOC's layout",
        cli=False,
    )
    threshold_from: str | os.PathLike[str] | None = option(
        None,
        "take the best threshold that metrics.json of another split has; or the best one for pseudo-boxes of the same "
        "pictures, which need no one's marks: boxes.parquet of a run, or a data set with these for boxes, as a CSV of "
        "image_id,x0,y0,x1,y1, COCO's JSON or WSOL metadata. Maps are made twice then, and `out`/pseudo-boxes has the "
        "figures with pseudo-boxes",
    )
    refine: Literal["pamr", "crf"] | None = option(
        None,
        "for wsss: draw the maps to the edges of their pictures first, which the data set must have then: pamr, "
        "pixel-adaptive mask refinement, at all levels; or crf, a dense CRF, at `threshold` alone",
    )
    cases: int = option(6, "how many pictures of each kind the gallery has; 0 for none", least=0)
    save_maps: Literal["float32", "float16"] | None = option(
        None, "write the network's coarse maps to `out`/maps.parquet, in this dtype", cli=False
    )
    resume: bool = option(
        False, "go on with the run that was broken off in `out`, if there is one; the results are the same"
    )
    part: tuple[int, int] | None = option(
        None, "(i, n): do the i-th of n parts of the work only, from 1; `merge` makes the whole of them", cli=False
    )
    merge: Sequence[str | os.PathLike[str]] = option(
        (), "folders of all parts, in any order; everything else as it was for them", cli=False
    )
    save_every: int = option(100, "batches between saves of the state that `resume` needs", least=1)


@dataclass(frozen=True)
class CompareSettings(MeasureSettings):
    """How `compare` measures several methods."""

    methods: tuple[str, ...] = option(
        ROWS,
        "rows of the table, each METHOD[+tap][+clamp][+pas][+eigen][+aug][+ms], METHOD one of "
        "`fastcam.methods.BOX_METHODS`: +tap, thresholded average pooling instead of the network's; +clamp, negative "
        "weights of CAM count as zero; +pas, thresholds relative to a percentile of the map; +eigen and +aug, smoother "
        "maps; +ms, maps summed over `scales` and mirror images",
        metavar="ROW,ROW,…",
    )
    target_layers: tuple[str, ...] | Any = option(
        None,
        "layers to take maps from, modules or dotted names, for all methods; by default the model's last stage",
        flags="--target-layer",
    )
    output: Output | None = option(
        None,
        "what of the network's output are the scores: a name, an index, or a function of all that it gives, see "
        "`fastcam.models.with_output`; by default that of `config`, or what needs no word",
        cli=False,
    )
    threshold: float | None = option(
        None, "threshold τ of GT-known Loc and Top-1 Loc; by default each row's own, the best one for MaxBoxAcc"
    )
    scales: tuple[float, ...] = option((0.5, 1.0, 1.5, 2.0), "sizes of the pictures in rows with +ms, 1 the network's")
    flip: bool = option(True, "rows with +ms sum the maps of mirror images, too")
    pas_percentile: float = option(90.0, 'what τ is relative to in rows with "+pas", in [0, 100]')
    pictures: int = option(
        6, "how many pictures, evenly spread over the data set, are drawn with all maps; 0 for none", least=0
    )

    def __post_init__(self) -> None:
        if isinstance(self.methods, str):
            raise TypeError(f"`methods` must be a list of names, got the string {self.methods!r}")
        object.__setattr__(self, "methods", tuple(self.methods))
        object.__setattr__(self, "scales", distinct_scales(self.scales))
        check(self)
        if not self.scales:
            raise ValueError("`scales` must have at least one number: 1 is the size of the network's input")
