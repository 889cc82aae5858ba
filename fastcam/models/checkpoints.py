"""Weights and checkpoints on disk, and the configuration that goes with a network."""

import argparse
import dataclasses
import json
import os
import re
import warnings
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from itertools import takewhile
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO, Literal, Unpack

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastcam._check import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Scale,
    check_channels,
    check_normalization,
    for_channels,
    listed,
    scale_of,
)
from fastcam._files import replacing
from fastcam.models.clip import (
    PROMPTS,
    build_clip,
    check_prompts,
    clip,
    compares_texts,
    load_two_towers,
    text_features,
    tower_text,
)
from fastcam.models.hub import (
    build_hf_like,
    canonical,
    config_text,
    count_numbers,
    folder_of,
    has_processor,
    load_hf,
    shapes_in,
    take_rgb,
    text_fields,
)
from fastcam.models.networks import build, split_arch, to_gap
from fastcam.models.outputs import output_of, unwrap, with_output
from fastcam.models.preprocessing import (
    HALF,
    Interpolation,
    Published,
    channels_of,
    check_resizing,
    first_convolution,
    published,
    published_file,
    wants_half,
)
from fastcam.models.states import SavedWeights, find_state, load_state, plain, read_safetensors

Scores = Literal["softmax", "sigmoid"]
_METADATA_KEY = "fastcam"
_HF_KEY = "fastcam_hf"  # the configuration of a Hugging Face network, as JSON
_TOWER_KEY = "fastcam_tower"  # that of the image tower of a network of pictures and text
_NAMES = ("model.safetensors", "best.safetensors")  # of a folder's checkpoint, as `fit` and `train` have it


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed beside the weights to use a network: its construction and its preprocessing.

    Attributes:
        arch: name of a network that `build` knows, such as "resnet18".
        num_classes: number of logits.
        output_stride: see `build`; None is the network's own.
        class_names: empty, or one name for each class.
        size: side of the square input in pixels.
        resize: "squash" resizes to size x size, "crop" the shorter side and cuts out the centre.
        mean: subtracted from each of R, G, B in [0, 1], or of other channels; one number serves all. ImageNet's by
            default, whatever the network: `load_network` takes what published weights want.
        std: divides each of R, G, B after the subtraction.
        threshold: fraction of the map's range, in [0, 1], above which a box is drawn; None if none was chosen.
        scores: how logits become scores, as the network was trained: "softmax" for one class a picture, "sigmoid" for
            classes that are independent of each other; None where nothing tells, so that the network itself decides
            (`fastcam.methods.scores`).
        output: what of the network's output are the scores, a name or an index: see `with_output`. None for what needs
            no word.
        resize_size: with "crop", what the shorter side is resized to in pixels; None is round(size·256/224).
        interpolation: by which pictures are resized.
        channels: of the network's input: 1 for grey pictures, 3 for colours, others for channels as they are stored,
            see `fastcam.pictures.Reading`. None is 3, or what the first convolution of a given network takes.
        scale: how samples of more than 8 bits become 0..1: "dtype", "minmax", the value that becomes 1, or those that
            become 0 and 1, see there; None takes of 16 bits what 8 keep.
        prompts: of a network that compares pictures with texts, in which texts its classes' names stood, with {} for
            the name; empty for others.

    Raises:
        ValueError: `resize`, `interpolation` or `scores` has another value, `resize_size` is less than the size, mean
            and std cannot be those of colours in [0, 1] (those for 0..255 are refused), or there are class names, but
            not one for each class.
    """

    arch: str
    num_classes: int
    output_stride: int | None = None
    class_names: tuple[str, ...] = ()
    size: int = 224
    resize: Literal["squash", "crop"] = "squash"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    threshold: float | None = None
    scores: Scores | None = None
    output: str | int | None = None
    resize_size: int | None = None
    interpolation: Interpolation = "bilinear"
    channels: int | None = None
    scale: Scale = None
    prompts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts, counts = (self.arch, *self.class_names), (self.num_classes, self.size)
        numbers = (*self.mean, *self.std, 0 if self.threshold is None else self.threshold)
        for name, values, kind in (
            ("`arch` and `class_names` must be texts", texts, str),
            ("`num_classes` and `size` must be whole numbers", counts, Integral),
            ("`mean`, `std` and `threshold` must be numbers", numbers, Real),
        ):
            if wrong := [value for value in values if isinstance(value, bool) or not isinstance(value, kind)]:
                raise ValueError(f"{name}, got {wrong[0]!r}")
        if min(counts) < 1:
            raise ValueError(f"`num_classes` and `size` must be positive, got {min(counts)}")
        if self.scores not in (None, "softmax", "sigmoid"):
            raise ValueError(f'`scores` must be None, "softmax" or "sigmoid", got {self.scores!r}')
        if self.output is not None and (isinstance(self.output, bool) or not isinstance(self.output, str | int)):
            raise ValueError(
                f"`output` of a configuration must be a name or an index, which a file can hold, got {self.output!r}: "
                "give a function to the method, or to `with_output`"
            )
        object.__setattr__(self, "arch", canonical(self.arch))
        if self.prompts:
            check_prompts(self.prompts)
        check_resizing(self.size, self.resize, self.resize_size, self.interpolation)
        check_channels(self.channels)
        object.__setattr__(self, "scale", scale_of(self.scale))
        for name in ("mean", "std"):
            object.__setattr__(self, name, for_channels(name, getattr(self, name), self.channels or 3))
        check_normalization(self.mean, self.std, self.channels or 3)
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"`class_names` must have one name for each of the {self.num_classes} classes, "
                f"got {len(self.class_names)}"
            )

    def to_json(self) -> str:
        """Return the configuration as one JSON object.

        Returns:
            The object's text, all fields by name, but not those of later versions where they are as by default: so
            earlier ones read it.

        Raises:
            TypeError: a field holds what JSON cannot.
        """
        fields = dataclasses.asdict(self)
        return json.dumps({name: fields[name] for name in fields if name not in _LATER or fields[name] != _LATER[name]})

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Read what `to_json` wrote.

        Args:
            text: one JSON object.

        Returns:
            The configuration; fields with a default may be missing from the text.

        Raises:
            ValueError: the text is no JSON object, has other fields, or a field has a value that it cannot have.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
            return cls(**values)
        except (AttributeError, TypeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not a fastcam model configuration: {error}") from None


class ConfigFields(Published, total=False):
    """The fields of a `ModelConfig` but `arch`, as keywords."""

    output_stride: int | None
    threshold: float | None
    scores: Scores | None
    output: str | int | None
    prompts: tuple[str, ...]


# Fields that earlier versions do not know, with their defaults.
_LATER = {
    field.name: field.default
    for field in dataclasses.fields(ModelConfig)
    if field.name in ("scores", "output", "resize_size", "interpolation", "prompts", "channels", "scale")
}


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Load a file of weights into a network, in place: all of them or none.

    The file may be a plain state_dict or what trainers write: the one dictionary of tensors in it is taken, at whatever
    key it is ("state_dict", "model", "model_state_dict", …), optimizers' states aside; of a network and a moving
    average of it ("model_ema") the network, with a warning. Its names may have what DataParallel, `torch.compile` and
    FSDP put in, anywhere, and a common beginning such as "model." or "backbone."; and they may be older ones that the
    modules, torchvision or timm rename. Weights of auxiliary classifiers that the network was built without are left
    out.

    torchvision's published weights of GoogLeNet, Inception v3 and EfficientNetV2-L want pictures normalised with mean
    and std 0.5, unless one of the first two has `transform_input`, as torchvision's own constructor sets it: for 1000
    classes there is a warning.

    Args:
        model: the network, bare or in a wrapper.
        path: a .safetensors file, or a .pt, .pth or .th file of `torch.save`. It is read weights-only: no code in it
            runs. A folder stands for the checkpoint that `fastcam fit` or `fastcam train` wrote there, the best one.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no weights or several, or its names or shapes are not the model's; they are listed.
    """
    path = _file(path)
    saved = read_config(path)
    load_state(model, _read_state(path))
    if saved is None and wants_half(model):
        why = " (torchvision gives them to one with transform_input=True)" * hasattr(unwrap(model), "transform_input")
        warnings.warn(
            f"{path}: if these are torchvision's published weights, this {type(unwrap(model)).__name__} wants pictures "
            f"normalised with mean 0.5 and std 0.5, not ImageNet's{why}",
            stacklevel=2,
        )


def load_network(
    path: str | os.PathLike[str] | None, arch: str | None = None, **given: Unpack[ConfigFields]
) -> tuple[nn.Module, ModelConfig]:
    """Build the network of a file of weights, with the configuration by which pictures are prepared for it.

    A checkpoint of fastcam knows its configuration. Plain weights are prepared for as the published weights of the
    architecture are (see `fastcam.models.preprocessing.published`); where that is not ImageNet's mean and std, and
    they are not given, a warning names them. A file that torchvision has published is recognised by its content, and
    brings all that its `transforms` do, such as a crop of 224 pixels from a shorter side of 232; a warning says so.

    Networks that compare pictures with texts, open_clip:NAME and hf:PATH of CLIP, SigLIP and the like, become
    classifiers of `class_names`, each of which stands in the `prompts` (one by default, "a photo of a {}"). Their texts
    are embedded here, once, on the CPU; a checkpoint of such a network has them, and needs no text tower.

    Args:
        path: as for `load_weights`; None for hf:PATH and open_clip:FOLDER, whose folders have weights of their own.
        arch: name of the network, for `build`; a checkpoint's own by default. For "resnet50-tap" and its like, weights
            of "resnet50" will do, where all of them are kept. Or open_clip:NAME with a name of open_clip's, to which
            the tag of its weights may be added, which decides how pictures are prepared (open_clip:ViT-H-14.dfn5b); or
            open_clip:FOLDER with the folder of an open_clip_config.json and weights beside.
        **given: fields of the configuration, in place of the checkpoint's or of the defaults.

    Returns:
        The network in evaluation mode, on the CPU, and its configuration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: no name of the network, or another network, number of classes, or texts than the checkpoint's; no
            class names for a network of pictures and text, or prompts for another; otherwise as for `build` and
            `load_weights`.
        ImportError: a network of timm's, Hugging Face's or open_clip's, and that is not installed.
    """
    folder, arch = folder_of(arch), None if arch is None else canonical(arch)
    names = given.get("class_names")
    counted: ConfigFields = {"num_classes": len(names), **given} if names else given
    config = None if path is None or Path(path) == folder else read_config(path)
    if arch is not None and config is None and compares_texts(arch):
        return _load_clip(None if path is None or Path(path) == folder else _file(path), arch, counted)
    if given.get("prompts") and config is None:
        raise ValueError(
            f"`prompts` (--prompts) are for networks of pictures and text, such as open_clip:NAME, got {arch}"
        )
    if folder is not None and arch is not None and (path is None or Path(path) == folder):
        return _load_folder(folder, arch, counted)
    if path is None:
        raise ValueError("a file of weights must be given (--weights); only hf:PATH has them in its folder")
    path = _file(path)
    if config is not None:
        own = {"arch": config.arch, "num_classes": config.num_classes, "channels": config.channels or 3}
        for name, value in ({"arch": arch} | given).items():
            if name in own and value not in (None, own[name]):
                raise ValueError(f"the checkpoint {path} has {name} {own[name]}, got {value}")
        for name, wanted in (("prompts", given.get("prompts")), ("class_names", given.get("class_names"))):
            texts = tuple(wanted or ())
            if texts and (config.prompts or name == "prompts") and texts != getattr(config, name):
                raise ValueError(
                    f"the checkpoint {path} has the embeddings of its own texts, {name} {getattr(config, name)}, got "
                    f"{texts}: for others give the network that it was made of (--arch, --weights)"
                )
        model, config = load_checkpoint(path)
        config = dataclasses.replace(config, **given)
        return with_output(model, config.output), config
    if arch is None:
        raise ValueError(f"{path} is no checkpoint of fastcam, so --arch must name its network (`arch`)")
    config = ModelConfig(arch, **{"num_classes": 1000} | _as_given(preprocessing_of(path, arch, counted), counted))
    built = arch, config.num_classes, config.output_stride
    model, state = build(*built, config.channels or 3), _read_state(path)
    if config.channels is None and (channels := _channels_in(state, model)) not in (None, 3):
        config = dataclasses.replace(config, channels=channels)
        model = build(*built, channels or 3)
    if split_arch(arch)[1] is None or _fits(model, state):
        load_state(model, state)
        if folder is not None:
            take_rgb(model, folder)
        return with_output(model.eval(), config.output), config
    model, found = start_from(path, *built, config.channels or 3)
    if lacking := [name for name, _ in model.named_parameters() if name not in found]:
        raise ValueError(
            f"{path} has weights of {split_arch(arch)[0]}, and none for what {arch} has besides: {listed(lacking)}; "
            f"train these first (fastcam train --arch {arch} --weights …)"
        )
    return with_output(model.eval(), config.output), config


def _load_clip(path: Path | None, arch: str, given: ConfigFields) -> tuple[nn.Module, ModelConfig]:
    """A network of pictures and text as a classifier of the given texts."""
    names = given.get("class_names")
    if not names:
        raise ValueError(
            f"{arch} compares pictures with texts, so that it needs the names of classes: --class-names, a file with "
            "one a line (`class_names`), and --prompts in which they stand"
        )
    prompts = tuple(given.get("prompts") or PROMPTS)
    check_prompts(prompts)
    folder = folder_of(arch)
    fields = published(arch) if folder is None else text_fields(folder)
    config = ModelConfig(arch, **{**_as_given(fields, given), "prompts": prompts})
    towers = load_two_towers(arch, path, _read_state)
    net = clip(towers.model, text_features(towers.model, towers.tokenizer, names, prompts))
    net.about = towers.about
    if config.scores is None and getattr(towers.model, "logit_bias", None) is not None:
        config = dataclasses.replace(config, scores="sigmoid")  # SigLIP's
    return with_output(net.eval(), config.output), config


def _load_folder(folder: Path, arch: str, given: ConfigFields) -> tuple[nn.Module, ModelConfig]:
    """The network of a Hugging Face folder with its own weights."""
    fields = published(arch)
    if given.get("num_classes", fields["num_classes"]) != fields["num_classes"]:
        raise ValueError(
            f"{folder} has weights for {fields['num_classes']} classes, got {given['num_classes']}: fastcam train and "
            "fastcam fit make a network for others of it"
        )
    if given.get("channels") not in (None, fields.get("channels", 3)):
        raise ValueError(f"{folder} has weights for {fields.get('channels', 3)} channels, got {given['channels']}")
    _note_usual(folder, fields, given)
    config = ModelConfig(arch, **_as_given(fields, given))
    return with_output(load_hf(folder), config.output), config


def _note_usual(folder: Path, fields: Published, given: Collection[str]) -> None:
    """Warn where a Hugging Face folder does not say how pictures become its network's input."""
    side = fields.get("size", ModelConfig.size)
    taken = {"size": f"squashed to {side} x {side} pixels"} if not {"size", "resize"} & {*given} else {}
    for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
        if name not in given and "channels" not in fields:
            taken[name] = f"with ImageNet's {name}, {','.join(map(str, usual))}"
    if taken and not has_processor(folder):
        warnings.warn(
            f"{folder} has no preprocessor_config.json, which would say how pictures become its network's input: they "
            f"are {', '.join(taken.values())} (else give {', '.join(f'--{name}' for name in taken)})",
            stacklevel=4,
        )


def _as_given(fields: Published, given: ConfigFields) -> dict[str, Any]:
    """What published weights want, and what is given in its place, without what then has no sense any more."""
    found: dict[str, Any] = {**fields, **given}
    if "resize_size" not in given and ("size" in given or "resize" in given):
        found.pop("resize_size", None)
    if "class_names" not in given and len(found.get("class_names", ())) != found.get("num_classes"):
        found.pop("class_names", None)
    return found


def preprocessing_of(path: str | os.PathLike[str], arch: str, given: Collection[str] = ()) -> Published:
    """Look up what the weights of a file were trained with.

    Args:
        path: as for `load_weights`.
        arch: the network that they are for.
        given: names of fields that shall be others in any case.

    Returns:
        Fields of `ModelConfig`: "mean", "std", "channels" and "scale" of a checkpoint; for a file that torchvision has
        published `preprocessing.published_file`, for other plain weights `preprocessing.published`, with a warning if
        mean and std are not ImageNet's, or the resizing is not the default, and they are not given.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a checkpoint's configuration cannot be understood.
    """
    config = read_config(path)
    if config is not None:
        return {"mean": config.mean, "std": config.std, "channels": config.channels, "scale": config.scale}
    if (folder := folder_of(arch)) is not None:
        fields = published(arch)
        _note_usual(folder, fields, given)
        return fields
    known = published_file(_file(path), arch)
    fields = published(arch) if known is None else known[1]
    wants = {"mean": fields.get("mean", IMAGENET_MEAN), "std": fields.get("std", IMAGENET_STD)}
    odd = [
        f"{name} {','.join(f'{value:g}' for value in wants[name])}"
        for name, usual in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD))
        if name not in given and wants[name] != usual
    ]
    how = ["--mean, --std"] if known is None or odd else []
    if known is not None and "size" not in given and fields["size"] != ModelConfig.size:
        odd.append(f"size {fields['size']}")
        how.append("--size")
    if "resize" not in given and fields.get("resize", "squash") != "squash":
        odd.append(f"pictures cropped from a shorter side of {fields.get('resize_size')} pixels")
        how.append("--resize squash")
    if "interpolation" not in given and fields.get("interpolation", "bilinear") != "bilinear":
        odd.append(f"interpolation {fields['interpolation']}")
        how.append("--interpolation bilinear")
    if odd and known is not None:
        warnings.warn(
            f"{path}: {' and '.join(odd)}, as torchvision's transforms of these weights, {known[0]}, have it; else "
            f"give {', '.join(how)}",
            stacklevel=3,
        )
    elif odd:
        warnings.warn(
            f"{path}: {' and '.join(odd)}, as the published weights of {arch} want; if these are others, give mean and "
            f"std ({', '.join(how)})",
            stacklevel=3,
        )
    return fields


def load_tensors(source: Path | BinaryIO) -> Any:
    """Load what `torch.save` wrote of tensors and plain values, on the CPU. No code in it runs.

    An `argparse.Namespace`, in which the trainers of torchvision and timm keep their options, is a plain value.

    Args:
        source: the file.

    Returns:
        What it holds.

    Raises:
        OSError: it cannot be read.
        Exception: it holds something else, or is damaged: of almost any kind.
        ValueError: it is packed, as `torch.save` never does: it could become any size in memory.
    """
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("its members are packed")
    if not isinstance(source, Path):
        source.seek(0)
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(source, map_location="cpu", weights_only=True)


def start_from(
    path: str | os.PathLike[str], arch: str, num_classes: int, output_stride: int | None = None, channels: int = 3
) -> tuple[nn.Module, frozenset[str]]:
    """Build a network and give it the weights of a file as far as they go.

    A classifier for another number of classes, and the layers that `to_gap` adds, keep their random start. A first
    convolution for other channels is made one for the network's: for one channel the sum of its weights over all, for
    more these repeated, and scaled so that the sum stays, as timm does it.

    Args:
        path: as in `load_weights`: a checkpoint of fastcam or plain weights for ImageNet's 1,000 classes (for those of
            the tag in a name of timm's), of this network or, for one of `to_gap`'s such as "vgg16-tap", of the network
            it is made from.
        arch: the network, as in `build`.
        num_classes: number of logits.
        output_stride: as in `build`.
        channels: as in `build`.

    Returns:
        The network in training mode, on the CPU, and the names of those of its parameters that the file gave.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown network, a checkpoint of another one, or weights that do not fit.
    """
    folder, arch = folder_of(arch), canonical(arch)
    if folder is not None and Path(path) == folder:
        model = build(arch, num_classes, output_stride, channels)
        return model, _taken_over(model, load_hf(folder))
    path = _file(path)
    saved, (base, pool, extra) = read_config(path), split_arch(arch)
    if saved is not None and saved.arch not in (arch, base):
        raise ValueError(f"{path} is a checkpoint of {saved.arch}, not of {arch}")
    model, state = build(arch, num_classes, output_stride, channels), _read_state(path)
    own = _channels_in(state, model) or 3
    # Built with the classes that the weights are for; what depends on their number keeps its random start.
    classes = published(base).get("num_classes", 1000) if saved is None else saved.num_classes
    source = build(arch, classes, channels=own)
    if pool is None or _fits(source, state):
        _load_start(source, state)
        if folder is not None and saved is None:
            take_rgb(source, folder)
        given = frozenset(name for name, _ in source.named_parameters())
    else:
        whole = build(base, classes, channels=own)
        _load_start(whole, state)
        source = to_gap(whole, pool, extra=extra)
        # What `to_gap` keeps comes first and in the same order.
        pairs = zip(source.named_parameters(), whole.parameters(), strict=False)
        kept = takewhile(lambda pair: torch.equal(pair[0][1], pair[1]), pairs)
        given = frozenset(name for (name, _), _ in kept)
    return model, given & _taken_over(model, source)


def _taken_over(model: nn.Module, source: nn.Module) -> frozenset[str]:
    """Give a network what fits of another one's weights; the names of what did."""
    own = model.state_dict()
    state = source.state_dict()
    if (first := first_convolution(source)) is not None and (name := f"{first[0]}.weight") in own:
        state[name] = _with_channels(state[name], own[name].shape[1])
    fitting = {key: value for key, value in state.items() if value.shape == own[key].shape}
    own.update(fitting)  # in place, since it knows the versions of its names
    model.load_state_dict(own)
    return frozenset(fitting)


def _with_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights [K, C, h, w] of a first convolution for another number of channels."""
    count = weight.shape[1]
    if count == channels:
        return weight
    if channels == 1:
        return weight.sum(1, keepdim=True)
    return weight[:, [place % count for place in range(channels)]] * (count / channels)


def _channels_in(state: SavedWeights, model: nn.Module) -> int | None:
    """How many channels the first convolution takes that a file has weights of; None if it is not found there."""
    if (first := first_convolution(model)) is None:
        return None
    name, convolution = first
    outside = (convolution.out_channels, *convolution.kernel_size)
    for key, value in state.tensors.items():
        found = f".{plain(key)}".endswith(f".{name}.weight") and value.dim() == 4
        if found and (value.shape[0], *value.shape[2:]) == outside and convolution.groups == 1:
            return value.shape[1]
    return None


def _fits(model: nn.Module, state: SavedWeights) -> bool:
    """Whether a state's parameters are the model's, by name."""
    names = [f".{plain(name)}" for name in state.tensors]
    return all(any(name.endswith(f".{own}") for name in names) for own, _ in model.named_parameters())


def _load_start(model: nn.Module, state: SavedWeights) -> None:
    """Load weights, but not those of an older version that the network would turn into."""
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    load_state(model, state)
    if any(value.shape != shapes.get(name) for name, value in model.state_dict().items()):
        raise ValueError(f"{state} are of an older version of {type(model).__name__}, from which no training can start")


def _read_state(path: Path) -> SavedWeights:
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    try:
        content = load_tensors(path)
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise almost anything
        kind = re.search(r"GLOBAL ([\w.]+)", str(error))
        raise ValueError(
            f"{path} is not a file that torch.save wrote of tensors alone "
            f"({f'it holds {kind[1]}' if kind else type(error).__name__}); whatever else it holds is not loaded: save "
            "the state_dict() of the network"
        ) from None
    return find_state(content, path)


def save_checkpoint(path: str | os.PathLike[str], model: nn.Module, config: ModelConfig) -> None:
    """Write a network and its configuration to one safetensors file, atomically.

    The file appears under its name only when it is complete; an older one stays until then.

    Args:
        path: the file to write.
        model: a network that `build(config.arch, config.num_classes, config.output_stride)` gives, or `clip` of an
            image tower of open_clip's or Hugging Face's, bare or wrapped (DataParallel, `torch.compile`); the file has
            the names of the bare one. For other channels than three it is that with those of its first convolution.
        config: how to build and use it; goes as JSON to the metadata key "fastcam". Where the network turns ImageNet's
            mean and std into 0.5 itself (`transform_input`), which `build`'s do not, these go there instead.

    Raises:
        ValueError: the network has `transform_input`, and mean and std are not ImageNet's; or a function as `output`,
            which no file can hold; or `clip`'s image tower is of no library that can build it again.
        OSError: the file cannot be written.
        RuntimeError: tensors of the network share memory, which a safetensors file cannot express.
        TypeError: a field of the configuration holds what JSON cannot.
    """
    model, output = unwrap(model), output_of(model)
    if getattr(model, "transform_input", False):
        if (config.mean, config.std) != (IMAGENET_MEAN, IMAGENET_STD):
            raise ValueError(
                f"{type(model).__name__} with transform_input=True takes ImageNet's mean and std, got {config.mean} "
                f"and {config.std}; set transform_input=False if these are its own"
            )
        config = dataclasses.replace(config, mean=HALF, std=HALF)
    if config.channels is None and (channels := channels_of(model, config.size)) not in (None, 3):
        config = dataclasses.replace(config, channels=channels)
    if config.output is None and output is not None:
        fields: dict[str, Any] = {"output": output}  # a function is refused there
        config = dataclasses.replace(config, **fields)
    whole = model.state_dict()
    state = {plain(key): value.detach().cpu().contiguous() for key, value in whole.items()}
    found = {_HF_KEY: config_text(model), _TOWER_KEY: tower_text(model, config.arch)}
    metadata = {_METADATA_KEY: config.to_json(), **{key: text for key, text in found.items() if text is not None}}
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(state, metadata=metadata))


def load_checkpoint(path: str | os.PathLike[str]) -> tuple[nn.Module, ModelConfig]:
    """Read what `save_checkpoint` wrote.

    Args:
        path: the file.

    Returns:
        The network in evaluation mode, on the CPU, and its configuration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a fastcam checkpoint, or its weights do not fit its configuration.
    """
    path = _file(path)
    config = read_config(path)
    if config is None:
        raise ValueError(
            f"{path} is not a fastcam checkpoint (a safetensors file with the metadata key "
            f"{_METADATA_KEY!r}); plain weights need the name of their architecture: build(), load_weights()"
        )
    metadata = _metadata(path)
    if (text := metadata.get(_TOWER_KEY)) is not None:
        model: nn.Module = build_clip(text, shapes_in(path), count_numbers(path))
    elif (text := metadata.get(_HF_KEY)) is not None:
        model = build_hf_like(text, config.num_classes, count_numbers(path))
    else:
        model = build(config.arch, config.num_classes, config.output_stride, config.channels or 3)
    load_state(model, _read_state(path))
    return with_output(model.eval(), config.output), config


def _metadata(path: Path) -> dict[str, str]:
    with safetensors.safe_open(path, framework="pt") as file:
        return file.metadata() or {}


def _file(path: str | os.PathLike[str]) -> Path:
    """The file of weights that is meant: of a folder that `fit` or `train` has written its checkpoint."""
    path = Path(path)
    return next(filter(Path.is_file, map(path.joinpath, _NAMES)), path) if path.is_dir() else path


def read_config(path: str | os.PathLike[str]) -> ModelConfig | None:
    """Read the configuration in a checkpoint without its weights.

    Args:
        path: any file of weights.

    Returns:
        The configuration, or None where the file is not a checkpoint of fastcam.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is a configuration, but it cannot be understood.
    """
    path = _file(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
            config = None if text is None else ModelConfig.from_json(text)
            firsts = {(file.get_slice(key).get_shape() or [1])[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError:
        return None
    # Before so large a network is built; smaller ones do no harm, and loading names what is missing.
    if config is not None and config.num_classes > 1000 and config.num_classes not in firsts:
        raise ValueError(f"{path} has no weights for the {config.num_classes} classes of its configuration")
    return config
