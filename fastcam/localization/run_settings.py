"""What decides about the rows of a run: options, the network, and software."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

import cv2
import PIL
import torch
from torch import Tensor, nn

from fastcam import methods
from fastcam._check import suggest
from fastcam._options import decisive, options
from fastcam._version import __version__
from fastcam.localization.settings import PAPER_CLASSES, LocalizeSettings, check_threshold
from fastcam.methods.core import observe_scales
from fastcam.methods.frozen import FreezeError
from fastcam.models import ModelConfig, Scores
from fastcam.models.digest import digest
from fastcam.pictures import Preprocess, choose_decoder, gpu

_MANY = 64  # pictures: of fewer all take hardly longer than freezing
_MOST_REFINED = 4  # channels that `ops.refine` takes
_FEW, _TURNS = 8, 3  # pictures of a measured pass, and passes, of which the fastest counts


@dataclass(frozen=True)
class RunSettings:
    """What decides about rows: kept in a run's plan, and in the metadata of its table.

    Attributes:
        version: of fastcam and torch.
        decoders: versions of those that may decode a picture.
        arch: of the network, as its configuration has it.
        num_classes: as the configuration has it.
        weights: digest of the network.
        preprocess: from a picture to the network's input.
        options: as they were given, for those that need no decision.
        target_layers: dotted names.
        threshold: as the options or the network have it.
        top_k: None where classes are given.
        scores: as the options or the network's configuration have it; None is what the network shows.
        batch_size: no larger than the number of inputs.
        min_area: None but where all boxes are asked for.
        tight: None but where the paper's boxes are.
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
    scores: Scores | None
    batch_size: int
    min_area: float | None
    tight: float | None
    decoder: str
    threads: int
    device: str
    dtype: str

    def to_json(self) -> dict[str, Any]:
        """Put all down flat, by name: the preprocessing's fields, and the options, with what was decided of them."""
        own = {name: value for name, value in vars(self).items() if name not in ("preprocess", "options")}
        before = {name: own[name] for name in ("version", "decoders", "arch", "num_classes", "weights")}
        values = {**before, **self.preprocess.facts(), **decisive(self.options), **own}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Read what `to_json` gives; of what earlier versions may lack, None will do to tell it apart.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        known = {name: values[name] for name in options(LocalizeSettings) if values.get(name) is not None}
        own: dict[str, Any] = {field.name: values.get(field.name) for field in fields(cls)}
        own["preprocess"] = Preprocess(
            values["size"],
            values["resize"],
            tuple(values["mean"]),
            tuple(values["std"]),
            values.get("resize_size"),
            values.get("interpolation", "bilinear"),
            values.get("channels", 3),
            values.get("scale"),
        )
        own["options"] = LocalizeSettings(**known)
        own["target_layers"] = tuple(values["target_layers"])
        return cls(**own)


def decide(model: nn.Module, config: ModelConfig | None, options: LocalizeSettings) -> RunSettings:
    """Check options against a network, and decide what they leave open.

    Raises:
        TypeError, ValueError: an option is not for this network, or not for this machine.
    """
    paper = options.boxes == "paper"
    top_k = PAPER_CLASSES if paper else options.top_k
    if config is not None and top_k > config.num_classes:
        if paper:
            raise ValueError(f"`boxes` paper are of the {top_k} highest classes, the network has {config.num_classes}")
        raise ValueError(f"`top_k` must be at most the number of classes, {config.num_classes}, got {top_k}")
    threshold = options.threshold
    if threshold is None:
        threshold = 0.2 if paper or config is None or config.threshold is None else config.threshold
        check_threshold(threshold)
    if paper and options.tight <= threshold:
        raise ValueError(f"`tight` must be above `threshold`, {threshold:g}, got {options.tight:g}")
    if options.method in methods.ATTRIBUTIONS and options.method not in methods.BOX_METHODS:
        known = ", ".join(methods.BOX_METHODS)
        raise ValueError(f"`method` {options.method} gives no maps that boxes are made of; these do: {known}")
    cam = make_method(model, options, options.target_layers)  # for its checks, and for the names of the layers
    if options.maps and cam.several:
        raise ValueError(f"`maps` are one target layer's, got {', '.join(cam.layers)}")
    preprocess = Preprocess.of(config, model)
    like = next(model.parameters(), torch.empty(0))
    if options.scales or options.flip:
        _try_sizes(cam, like, preprocess, options)
    if options.decoder == "nvjpeg" and not preprocess.reading.plain:
        wanted = f"{preprocess.channels} channels" + ("" if preprocess.scale is None else " with a stated scaling")
        raise ValueError(f'`decoder` "nvjpeg" makes RGB of 8 bits, the network takes {wanted}: choose another')
    if options.refine is not None and preprocess.channels > _MOST_REFINED:
        raise ValueError(
            f"`refine` goes by pictures of at most {_MOST_REFINED} channels, the network takes {preprocess.channels}"
        )
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
        top_k=None if options.targets is not None else top_k,
        scores=options.scores or (None if config is None else config.scores),
        batch_size=options.batch_size,
        min_area=float(options.min_area) if options.boxes == "all" else None,
        tight=float(options.tight) if paper else None,
        decoder=decoder,
        threads=options.threads or torch.get_num_threads(),
        device=like.device.type,
        dtype=str(like.dtype).removeprefix("torch."),
    )


def _try_sizes(cam: methods.Method, like: Tensor, preprocess: Preprocess, options: LocalizeSettings) -> None:
    """Run a black picture at all scales; ValueError if the network does not take one, or its maps are not summed."""
    black = like.new_zeros(1, preprocess.channels, preprocess.size, preprocess.size)
    for _ in observe_scales([cam], black, scales=options.scales, flip=options.flip):
        pass


def make_method(model: nn.Module, options: LocalizeSettings, target_layers: Any) -> methods.Method:
    """Make the method that options name; TypeError or ValueError as `fastcam.methods.Method`, or if there is none."""
    if options.method not in methods.BOX_METHODS:
        raise ValueError(f"unknown method {options.method!r}{suggest(options.method, methods.BOX_METHODS)}")
    make = methods.BOX_METHODS[options.method]
    return make(model, target_layers, relu=options.relu, mode=options.mode, backend=options.backend)


def choose_network(
    model: nn.Module, settings: RunSettings, pictures: int | None, clock: Callable[[], float] = time.perf_counter
) -> tuple[Literal["freeze"] | None, str]:
    """Whether a run of some pictures is to freeze its network, by a measurement, and a sentence on why.

    The saving is that of one pass of each picture, which methods that run more of them exceed.
    """
    if settings.options.precision != "float32":
        return None, "as it is written: it was not frozen, since it runs in bfloat16"
    scales, flip = settings.options.scales, settings.options.flip
    views = max(1, len(scales)) * (2 if flip else 1)
    if pictures is None or pictures * views < _MANY:
        many = "an unknown number of" if pictures is None else pictures
        return None, f"as it is written: {many} pictures are too few to freeze it"
    cam = make_method(model, settings.options, settings.target_layers)
    like, side = next(model.parameters(), torch.empty(0)), settings.preprocess.size
    shape = settings.preprocess.channels, side, side
    images = torch.randn(max(1, min(_FEW, settings.batch_size) // views), *shape).to(like)
    images = images.contiguous(memory_format=torch.channels_last)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        began = clock()
        cam.freeze(images, scales, flip)
        start, frozen = clock() - began, cam.frozen
        times: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(_TURNS):
            for fast, taken in times.items():
                cam.frozen = frozen if fast else None
                began = clock()
                methods.observe([cam], images, scales=scales, flip=flip)
                taken.append(clock() - began)
    except FreezeError as error:
        return None, f"as it is written: it was not frozen, since {error}"
    finally:
        torch.set_num_threads(threads)
    before, after = (1000 * min(taken) / len(images) for taken in times.values())
    saved = (before - after) * pictures / 1000
    chosen: Literal["freeze"] | None = "freeze" if saved > start else None
    return chosen, (
        f"{'frozen' if chosen else 'as it is written'}: freezing takes {start:.1f} s and saves {saved:.1f} s of "
        f"{pictures} pictures, at {after:.1f} instead of {before:.1f} ms each"
    )


def versions(decoder: str) -> dict[str, str]:
    """Versions that decide about rows: those of the settings that every machine of a run must have alike."""
    decoders = f"opencv {cv2.__version__}, pillow {PIL.__version__}"
    if decoder == "nvjpeg":
        decoders += f", {gpu.library()}"
    return {"version": f"{__version__} (torch {torch.__version__})", "decoders": decoders}
