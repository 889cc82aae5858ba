"""How pictures become a network's input, as published weights want it."""

import hashlib
import re
import warnings
from numbers import Integral
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import EfficientNet, GoogLeNet, Inception3
from torchvision.models.efficientnet import FusedMBConv

from fastcam._check import Scale
from fastcam.models.clip import open_clip_fields
from fastcam.models.hub import canonical, fields_of_timm, folder_of, hf_fields, hf_size, timm_fields
from fastcam.models.networks import split_arch
from fastcam.models.outputs import run, unwrap

# Mean and std that torchvision's GoogLeNet and Inception v3 turn ImageNet's into where they have `transform_input`.
HALF = (0.5, 0.5, 0.5)


Resize = Literal["squash", "crop"]
Interpolation = Literal["bilinear", "bicubic"]


def check_resizing(size: int, resize: str, resize_size: int | None, interpolation: str) -> None:
    """Refuse a way of resizing that there is not."""
    if resize not in get_args(Resize):
        raise ValueError(f'`resize` must be "squash" or "crop", got {resize!r}')
    if interpolation not in get_args(Interpolation):
        raise ValueError(f'`interpolation` must be "bilinear" or "bicubic", got {interpolation!r}')
    if resize_size is None:
        return
    if resize != "crop":
        raise ValueError(f'`resize_size` is for `resize` "crop", got {resize_size!r} for {resize!r}')
    if isinstance(resize_size, bool) or not isinstance(resize_size, Integral) or resize_size < size:
        raise ValueError(f"`resize_size` must be a whole number of at least the size, {size}, got {resize_size!r}")


class Published(TypedDict, total=False):
    """Those fields of a `ModelConfig` that published weights decide."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int | None
    scale: Scale
    size: int
    resize: Resize
    resize_size: int | None
    interpolation: Interpolation
    num_classes: int
    class_names: tuple[str, ...]


def published(arch: str) -> Published:
    """Look up what the published weights of an architecture are made for.

    Args:
        arch: a name as for `fastcam.models.build`.

    Returns:
        Those fields of `ModelConfig` that are known: "mean" and "std" of torchvision's default weights (a file of them
        brings more: `published_file`); of timm's networks what their `pretrained_cfg` has (that of the tag, or of the
        default one), with "size", "resize", "resize_size", "interpolation" and "num_classes"; of hf:PATH what its
        config.json and preprocessor_config.json have, with "class_names", too; of open_clip's networks what the tag in
        their name says, or the first tag, or the preprocess_cfg of a folder. Nothing for names of which no weights are
        published. GoogLeNet's and Inception v3's are 0.5, since torchvision's constructor gives their weights to
        networks that turn ImageNet's into these themselves (`transform_input`), and `build` to networks that do not.

    Raises:
        FileNotFoundError: hf:PATH, and no config.json is there.
        ValueError: it cannot be understood, or pictures would have to be scaled otherwise than to [0, 1].
        ImportError: hf:PATH with a preprocessor_config.json, and transformers is not installed.
    """
    arch = canonical(arch)
    if arch.startswith("open_clip:"):
        return open_clip_fields(arch)
    if arch.startswith("timm/"):
        return timm_fields(arch.removeprefix("timm/"))
    if (folder := folder_of(arch)) is not None:
        return hf_fields(folder)
    if split_arch(arch)[1] or arch not in torchvision.models.list_models(module=torchvision.models):
        return {}
    if arch in ("googlenet", "inception_v3"):
        return {"mean": HALF, "std": HALF}
    transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    return {"mean": tuple(transforms.mean), "std": tuple(transforms.std)}


def published_file(path: Path, arch: str) -> tuple[str, Published] | None:
    """Recognise a file of torchvision's published weights, which its content proves, whatever it is called.

    Args:
        path: the file.
        arch: a name as for `fastcam.models.build`.

    Returns:
        The weights' name, such as "ResNet50_Weights.IMAGENET1K_V2", and what their `transforms` make of pictures;
        None for any other file, those that were saved anew among them.

    Warns:
        UserWarning: it is called as such a file, and has another content.
    """
    base = split_arch(arch)[0]
    if base not in torchvision.models.list_models(module=torchvision.models):
        return None
    with path.open("rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    for weights in torchvision.models.get_model_weights(base):
        name = f"{type(weights).__name__}.{weights.name}"
        # The name that a file is published under ends in how its digest begins.
        begins = re.search(r"-([0-9a-f]{8,})\.pth$", weights.url)
        if begins is None or not weights.meta.get("categories"):
            continue
        if content.startswith(begins[1]):
            return name, _of_transforms(weights.transforms(), arch)
        if path.name == weights.url.rpartition("/")[2]:
            warnings.warn(
                f"{path} is called as torchvision's {name}, but its content is another (SHA-256 {content[:10]}…, not "
                f"{begins[1]}…): pictures are prepared for it as for any weights of {base}",
                stacklevel=4,
            )
    return None


def _of_transforms(transforms: Any, arch: str) -> Published:
    """What torchvision's transforms of published weights make of pictures."""
    fields = published(split_arch(arch)[0])  # mean and std
    (fields["size"],), (fields["resize_size"],) = transforms.crop_size, transforms.resize_size
    fields["resize"], fields["interpolation"] = "crop", transforms.interpolation.value
    return fields


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """The first convolution that a network has, by name, in the order of its modules; None if it has none."""
    return next(((name, one) for name, one in model.named_modules() if isinstance(one, nn.Conv2d)), None)


class _Met(Exception):
    """A convolution was reached."""


def channels_of(model: nn.Module, size: int = 224) -> int | None:
    """How many channels a network's input has: as many as the first convolution takes.

    That is the first that runs. Nothing runs where the first that is written takes three, as nearly always; else the
    network is given a black picture of three channels, up to there: what it turns to another number itself (by its
    luminance, say) stays a picture of three.

    Args:
        model: the network, bare or wrapped.
        size: side of its input in pixels.

    Returns:
        The number; None if there is no convolution.
    """
    model = unwrap(model)
    if (first := first_convolution(model)) is None or first[1].in_channels == 3:
        return None if first is None else 3
    like = next(model.parameters())
    met: list[int] = []

    def meet(module: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        fits = bool(given) and isinstance(given[0], Tensor) and given[0].shape[-3:-2] == (module.in_channels,)
        met.append(3 if fits else module.in_channels)
        raise _Met

    hooks = [one.register_forward_pre_hook(meet) for one in model.modules() if isinstance(one, nn.Conv2d)]
    try:
        with torch.no_grad():
            run(model, like.new_zeros(1, 3, size, size))
    except Exception:  # what a network raises that refuses three channels before its first convolution
        pass
    finally:
        for hook in hooks:
            hook.remove()
    return met[0] if met else first[1].in_channels


def own_preprocessing(model: nn.Module) -> Published:
    """Look up what a network declares of its own input.

    Args:
        model: the network, bare or wrapped.

    Returns:
        "size", "mean" and "std" of the `pretrained_cfg` that timm's networks carry, those that it has; the "size" of
        Hugging Face's; nothing for others.

    Warns:
        UserWarning: it is one of Hugging Face's, which keep mean and std beside the network: those of ImageNet are
            taken.
    """
    network = unwrap(model)
    config = getattr(network, "pretrained_cfg", None)
    if isinstance(config, dict):
        fields = fields_of_timm(config)
        fields.pop("num_classes", None)
        return fields
    if not hasattr(network, "base_model_prefix"):
        return {}
    fields = hf_size(network)
    side = fields.get("size", 224)
    warnings.warn(
        f"{type(network).__name__} does not say how pictures become its input: they are squashed to {side} x {side} "
        "pixels, with ImageNet's mean and std. `config`, a ModelConfig, says otherwise, and "
        "`fastcam.models.load_network` makes one from a folder of Hugging Face's",
        stacklevel=4,
    )
    return fields


def wants_half(model: nn.Module) -> bool:
    """Whether torchvision's published weights want mean and std 0.5 of this network, bare or wrapped.

    True for EfficientNetV2-L, and for GoogLeNet and Inception v3 without `transform_input`, if it has 1000 classes.
    """
    model = unwrap(model)
    if isinstance(model, GoogLeNet | Inception3):
        return not model.transform_input and getattr(model.fc, "out_features", None) == 1000
    if isinstance(model, EfficientNet) and len(model.features) == 9:
        fused, width = isinstance(model.features[1][0], FusedMBConv), model.features[0][0].out_channels
        return fused and width == 32 and getattr(model.classifier[-1], "out_features", None) == 1000
    return False
