"""The options of `localize`: its signature, documentation and checks, and the command's flags, are made of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fastcam._options import check, option

Targets = Literal["label"] | Mapping[str, int] | None


@dataclass(frozen=True)
class LocalizeSettings:
    """What can be chosen of a localization; ValueError or TypeError for what cannot be.

    In this order those that decide about rows stand in plan.json.
    """

    method: str = option("cam", "name of the method: cam, gradcam, gradcam++, …, see `fastcam.methods`")
    target_layers: tuple[str, ...] | Any = option(
        None, "modules or dotted names; by default the network's last stage", flags="--target-layer"
    )
    threshold: float | None = option(
        None,
        "fraction of the map's range, in [0, 1), above which a pixel belongs to the box; by default that of `config` "
        "or the checkpoint, else 0.2",
    )
    relu: bool | None = option(None, "clip the map at zero before it is upsampled; by default as the method has it")
    mode: Literal["bilinear", "bicubic"] = option("bilinear", "upsampling of the map")
    backend: Literal["fused", "reference"] = option("fused", "own kernels, or plain PyTorch")
    top_k: int = option(1, "boxes for this many classes of each picture, those of the highest scores", least=1)
    targets: Targets = option(
        None,
        'boxes for one given class of each picture instead: "label" takes that of the samples (if the network and '
        "the data set have names of classes, and all of the data set's are among the network's, the class of the same "
        "name, else the class of that number where all names are whole numbers), a mapping goes from image_id to class "
        "index; its keys need but look like a picture's, and a warning names those that are none's. The row's rank "
        "then says where the class stands among all",
        decides=False,  # it is in the list of inputs
        cli=False,
    )
    batch_size: int = option(32, "pictures per forward pass", least=1)
    overlays: int = option(
        0,
        "for this many of the first pictures, write `out`/overlays/*.jpg: picture, map, and map over picture with the "
        "box of the first class (and the sample's true boxes in green)",
        least=0,
    )
    maps: bool = option(False, "keep the maps, float16 at the target layer's resolution, in the table's column cam")
    boxes: Literal["largest", "all"] = option(
        "largest", "the box around the largest component, or around all of at least `min_area`, largest first"
    )
    min_area: float = option(
        0.01, "with all boxes: fraction of the frame that a component must cover; the largest needs not"
    )
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
        "how the network is made faster: freeze, for networks of float32 on a CPU and methods without gradients, takes "
        "about a second in each process and changes numbers by rounding only; auto does so where the number of "
        "pictures repays that, which it measures; the others are modes of `torch.compile`, for the method cam, "
        "of which reduce-overhead also replays CUDA graphs. What cannot be frozen runs as it is written, and the "
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
                f'`targets` must be None, "label" or a mapping from image_id to class, got {self.targets!r}'
            )
        check(self)
        if not 0 <= self.min_area <= 1:
            raise ValueError(f"`min_area` must be a fraction of the frame, in [0, 1], got {self.min_area!r}")
        if self.threshold is not None:
            check_threshold(self.threshold)


def check_threshold(value: float) -> None:
    """Refuse what is no fraction of a map's range."""
    if not 0 <= value < 1:
        raise ValueError(f"`threshold` must be at least 0 and less than 1, got {value!r}")
