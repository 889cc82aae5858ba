"""The options of `localize`, and what decides about the rows of a run: these options, the network, and software."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib import metadata
from typing import Any, Literal, Self

import cv2
import PIL
import torch
from torch import nn

from fastcam import methods
from fastcam._options import check, decisive, option, options
from fastcam._version import __version__
from fastcam.localization.inputs import Targets
from fastcam.models import ModelConfig
from fastcam.models.digest import digest
from fastcam.pictures import Preprocess, choose_decoder, gpu


@dataclass(frozen=True)
class LocalizeSettings:
    """What can be chosen of a localization; ValueError or TypeError for what cannot be.

    In this order those that decide about rows stand in plan.json.
    """

    method: str = option("cam", "name of the method: cam, gradcam, gradcam++, …, see `fastcam.methods`")
    target_layers: Any = option(None, "modules or dotted names; by default the network's last stage", cli=False)
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
        "float32", "of the network: that of its parameters, or bfloat16 by autocast, for GPUs"
    )
    channels_last: bool = option(
        True,
        "lay out pictures and weights with the channels last, which is faster; the weights are put back",
        flags="--channels-last/--channels-first",
    )
    compile: Literal["default", "reduce-overhead", "max-autotune"] | None = option(
        None, "mode of `torch.compile`, for the method cam; reduce-overhead also replays CUDA graphs [not compiled]"
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
            _check_threshold(self.threshold)


def _check_threshold(value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"`threshold` must be at least 0 and less than 1, got {value!r}")


@dataclass(frozen=True)
class RunSettings:
    """What decides about rows: kept in a run's plan, and in the metadata of its table.

    Attributes:
        version: of fastcam and torch.
        decoders: versions of those that may decode a picture.
        arch: of the network, as its configuration has it.
        num_classes: likewise.
        weights: digest of the network.
        preprocess: from a picture to the network's input.
        options: as they were given, for those that need no decision.
        target_layers: dotted names.
        threshold: as the options or the network have it.
        top_k: None where classes are given.
        batch_size: no larger than the number of inputs.
        min_area: None where only the largest box is asked for.
        decoder: who decodes JPEGs.
        threads: of the network.
        device: kind of the network's device.
        dtype: of its parameters.
    """

    version: str
    decoders: str
    arch: str | None
    num_classes: int | None
    weights: str
    preprocess: Preprocess
    options: LocalizeSettings
    target_layers: tuple[str, ...]
    threshold: float
    top_k: int | None
    batch_size: int
    min_area: float | None
    decoder: str
    threads: int
    device: str
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Put all down flat, by name: the preprocessing's fields, and the options, with what was decided of them."""
        own = {name: value for name, value in vars(self).items() if name not in ("preprocess", "options")}
        before = {name: own[name] for name in ("version", "decoders", "arch", "num_classes", "weights")}
        values = {**before, **vars(self.preprocess), **decisive(self.options), **own}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gives; of what earlier versions may lack, None will do to tell it apart.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        known = {name: values[name] for name in options(LocalizeSettings) if values.get(name) is not None}
        own: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        own["preprocess"] = Preprocess(values["size"], values["resize"], tuple(values["mean"]), tuple(values["std"]))
        own["options"] = LocalizeSettings(**known)
        own["target_layers"] = tuple(values["target_layers"])
        return cls(**own)


def decide(model: nn.Module, config: ModelConfig | None, options: LocalizeSettings) -> RunSettings:
    """Check options against a network, and decide what they leave open.

    Raises:
        TypeError, ValueError: an option is not for this network, or not for this machine.
    """
    if config is not None and options.top_k > config.num_classes:
        raise ValueError(f"`top_k` must be at most the number of classes, {config.num_classes}, got {options.top_k}")
    threshold = options.threshold
    if threshold is None:
        threshold = 0.2 if config is None or config.threshold is None else config.threshold
        _check_threshold(threshold)
    if options.method in methods.ATTRIBUTIONS:
        known = ", ".join(methods.METHODS)
        raise ValueError(f"`method` {options.method} gives no maps that boxes are made of; these do: {known}")
    cam = make_method(model, options, options.target_layers)  # for its checks, and for the names of the layers
    if options.maps and len(cam.layers) > 1:
        raise ValueError(f"`maps` are one target layer's, got {', '.join(cam.layers)}")
    preprocess = Preprocess.of(config, model)
    like = next(model.parameters(), torch.empty(0))
    if options.decoder == "nvjpeg":
        gpu.check(like.device)
        decoder = "nvjpeg"
    else:
        decoder = choose_decoder(options.decoder)
    return RunSettings(
        **versions(decoder),
        arch=None if config is None else config.arch,
        num_classes=None if config is None else config.num_classes,
        weights=digest(model),
        preprocess=preprocess,
        options=options,
        target_layers=tuple(cam.layers),
        threshold=float(threshold),
        top_k=None if options.targets is not None else options.top_k,
        batch_size=options.batch_size,
        min_area=float(options.min_area) if options.boxes == "all" else None,
        decoder=decoder,
        threads=options.threads or torch.get_num_threads(),
        device=like.device.type,
        dtype=str(like.dtype).removeprefix("torch."),
    )


def make_method(model: nn.Module, options: LocalizeSettings, target_layers: Any) -> methods.Method:
    """Make the method that options name, which gives maps; TypeError or ValueError as `fastcam.methods.create`."""
    method = methods.create(
        options.method,
        model,
        target_layers=target_layers,
        relu=options.relu,
        mode=options.mode,
        backend=options.backend,
    )
    assert isinstance(method, methods.Method)
    return method


def versions(decoder: str) -> dict[str, str]:
    """Versions that decide about rows: those of the settings that every machine of a run must have alike."""
    decoders = f"opencv {cv2.__version__}, pillow {PIL.__version__}"
    if decoder == "nvjpeg":
        decoders += f", torchvision {metadata.version('torchvision')}"
    return {"version": f"{__version__} (torch {torch.__version__})", "decoders": decoders}
