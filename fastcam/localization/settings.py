"""The options of `localize`: its signature, documentation and checks, and the command's flags, are made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from fastcam._check import distinct_scales
from fastcam._options import Output, check, option

Targets = Literal["label"] | Mapping[str, int | Sequence[int]] | None
# Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 3.2: tight boxes beside loose
# ones, but not how tight. This is near the second threshold of their code, 100 of 255.
TIGHT = 0.4
PAPER_CLASSES, PAPER_TIGHT = 3, 2  # how many of the highest classes have a loose box, and how many a tight one, too


@dataclass(frozen=True)
class LocalizeSettings:
    """What can be chosen of a localization; ValueError or TypeError for what cannot be.

    In this order those that decide about rows stand in plan.json.
    """

    method: str = option(
        "cam", "name of the method: cam, gradcam, gradcam++, …, saliency: a key of `fastcam.methods.BOX_METHODS`"
    )
    target_layers: tuple[str, ...] | Any = option(
        None, "modules or dotted names; by default the network's last stage", flags="--target-layer"
    )
    threshold: float | None = option(
        None,
        "fraction of the map's range, in [0, 1), above which a pixel belongs to the box; by default that of `config` "
        "or the checkpoint, else 0.2",
    )
    output: Output | None = option(
        None,
        "what of the network's output are the scores: a name, an index, or a function of all that it gives, see "
        "`fastcam.models.with_output`; by default that of `config`, or what needs no word",
        decides=False,  # it is in the digest of the network
        cli=False,
    )
    relu: bool | None = option(None, "clip the map at zero before it is upsampled; by default as the method has it")
    mode: Literal["bilinear", "bicubic"] = option("bilinear", "upsampling of the map")
    scales: tuple[float, ...] = option(
        (),
        "sum the maps of each picture at several sizes, such as 0.5,1,1.5,2 times that of the network's input, as "
        "weakly supervised segmentation does; each map is then divided by its maximum, which thresholds are fractions "
        "of, and kept at the size that the largest pictures' map has (`fastcam.methods.observe` has the formula). For "
        "networks that take pictures of any size",
    )
    flip: bool = option(False, "sum the maps of mirror images, too, turned back; they run in the same pass")
    refine: Literal["pamr"] | None = option(
        None,
        "draw each full-size map to the edges of the picture, as the network sees it, before boxes are found in it: "
        "pamr, pixel-adaptive mask refinement (`fastcam.ops.refine`). `threshold` is a fraction of the refined map's "
        "range then. Kept maps stay as they are, exports and evaluations refine them again. A picture of 224x224 takes "
        "about 22 ms of one processor",
    )
    backend: Literal["fused", "reference"] = option("fused", "own kernels, or plain PyTorch")
    top_k: int = option(1, "boxes for this many classes of each picture, those of the highest scores", least=1)
    targets: Targets = option(
        None,
        'boxes for given classes of each picture instead, one or several: "label" takes those of the samples (if the '
        "network and the data set have names of classes, and all of the data set's are among the network's, the class "
        "of the same name, else the class of that number where all names are whole numbers), a mapping goes from "
        "image_id to class index, or several; its keys need but look like a picture's, and a warning names those that "
        "are none's. There are rows of each class, from the highest down, whose rank says where it stands among all",
        decides=False,  # it is in the list of inputs
        cli=False,
    )
    scores: Literal["softmax", "sigmoid"] | None = option(
        None,
        "how the network's logits become scores: softmax, for one class a picture, or sigmoid, for classes that are "
        "independent of each other, as binary cross-entropy trains them; by default as the checkpoint says, else "
        "softmax, and the sigmoid of a single logit. A network that ends in either itself is not to be contradicted",
    )
    batch_size: int = option(32, "pictures per forward pass", least=1)
    overlays: int = option(
        0,
        "for this many of the first pictures, write ``out/overlays/*.jpg``: picture, map, and map over picture with "
        "the box of the first class, which of given ones is the sample's label (and its true boxes in green)",
        least=0,
    )
    maps: bool = option(False, "keep the maps, float16 at the target layer's resolution, in the table's column cam")
    boxes: Literal["largest", "all", "paper"] = option(
        "largest",
        "the box around the largest component; all: around each of at least `min_area`, largest first; paper: the five "
        "of the CAM paper, for the two highest classes around the largest component above `threshold` (loose) and that "
        "above `tight`, for the third the loose one; then `threshold` is 0.2 by default, whatever the network has",
    )
    min_area: float = option(
        0.01, "with all boxes: fraction of the frame that a component must cover; the largest needs not"
    )
    tight: float = option(TIGHT, "with the paper's boxes: as `threshold`, of the tight ones")
    precision: Literal["float32", "bfloat16"] = option(
        "float32",
        "of the network: that of its parameters, or bfloat16 by autocast, for GPUs, and for CPUs with AVX512_BF16 or "
        "AMX; others are slower with it. It is not frozen",
    )
    channels_last: bool = option(
        True,
        "lay out pictures and weights with the channels last, which is faster; the weights are put back",
        flags="--channels-last/--channels-first",
    )
    compile: Literal["freeze", "auto", "default", "reduce-overhead", "max-autotune"] | None = option(
        None,
        "how the network is made faster: freeze, for networks of float32 on a CPU and methods that take no backward "
        "pass, takes about a second in each process and changes numbers by rounding only; auto does so where the "
        "number of pictures repays that, which it measures; the others are modes of `torch.compile`, for the method "
        "cam, of which reduce-overhead also replays CUDA graphs. What cannot be frozen runs as it is written, and the "
        "summary says why [as it is written]",
    )
    decoder: str | None = option(
        None,
        "who decodes JPEGs: opencv or pillow [opencv, if its pixels are right], see `fastcam.pictures.choose_decoder`; "
        "or nvjpeg, never chosen by itself: the GPU that the model is on, with slightly other pixels, see "
        "`fastcam.pictures.gpu`. What it cannot decode they do, and the row says so. Not yet tried on a GPU",
    )
    threads: int | None = option(
        None,
        "threads of the network in each process; by default those of a run that is resumed, else torch's",
        least=1,
    )
    shard_size: int = option(
        1024,
        "pictures that are finished at once, and so lost at most by each worker when it is killed",
        least=1,
        decides=False,
    )
    hash_content: bool = option(
        False,
        "read all files before, so that a change is noticed that leaves size and time as they were",
        decides=False,
    )
    overwrite: bool = option(
        False,
        "replace a run of other inputs or options, finished or not, or compute a table anew; by default the first is "
        "an error. What no plan of fastcam's tells of is never replaced",
        decides=False,
    )

    def __post_init__(self) -> None:
        if not (self.targets is None or self.targets == "label" or isinstance(self.targets, Mapping)):
            raise TypeError(
                f'`targets` must be None, "label" or a mapping from image_id to class or classes, got {self.targets!r}'
            )
        object.__setattr__(self, "scales", distinct_scales(self.scales))
        check(self)
        if (self.scales or self.flip) and self.compile not in (None, "freeze", "auto"):
            raise ValueError(
                f"`compile` {self.compile} is for maps of one view: with `scales` and `flip` take freeze, or auto"
            )
        if not 0 <= self.min_area <= 1:
            raise ValueError(f"`min_area` must be a fraction of the frame, in [0, 1], got {self.min_area!r}")
        if self.threshold is not None:
            check_threshold(self.threshold)
        check_threshold(self.tight, "tight")
        if self.boxes == "paper" and self.targets is not None:
            raise ValueError("`boxes` paper are of the highest classes: they do not go with `targets`")
        if self.boxes == "paper" and self.top_k not in (1, PAPER_CLASSES):
            raise ValueError(f"`boxes` paper are of the {PAPER_CLASSES} highest classes, got `top_k` {self.top_k}")


def check_threshold(value: float, name: str = "threshold") -> None:
    """Refuse what is no fraction of a map's range."""
    if not 0 <= value < 1:
        raise ValueError(f"`{name}` must be at least 0 and less than 1, got {value!r}")
