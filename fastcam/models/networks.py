"""Networks: torchvision's by name, and those with a global pooling before one linear layer."""

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import VGG, AlexNet, DenseNet, GoogLeNet, MNASNet, MobileNetV2

from fastcam._check import check_channels, one_of, suggest
from fastcam.models.heads import Pool, ThresholdedAvgPool2d
from fastcam.models.hub import build_hf, build_timm, canonical, folder_of
from fastcam.models.outputs import unwrap

# Names beside torchvision's: a network, a pooling, and for "alexnet*" two more convolutions, as in the CAM paper.
_VARIANT = re.compile(r"(?P<arch>\w+?)(?P<star>\*?)-(?P<pool>gap|gmp|tap)")


def build(arch: str, num_classes: int = 1000, output_stride: int | None = None, channels: int = 3) -> nn.Module:
    """Build a classification network with random weights.

    Networks with auxiliary classifiers (GoogLeNet, Inception v3) are built without them, so that every network
    gives one tensor of logits [N, num_classes] in training too.

    Args:
        arch: name of a torchvision network, such as "resnet18"; one of those with "-gap", "-gmp" or "-tap" behind it
            for `to_gap`'s ("vgg16-gap", "resnet50-tap"; "alexnet*-gap" has two more convolutions of 512 channels);
            "nin"; where timm is installed, "timm:" (or "timm/") and a name of timm's, with or without the tag of its
            weights; or, where transformers is, "hf:" and a local folder with the config.json of a Hugging Face network
            that classifies pictures.
        num_classes: number of logits.
        output_stride: input pixels per position of the last stage's map, 8, 16 or 32, for ResNets (ResNeXt and
            Wide ResNet included). Below 32 the last stages keep their resolution: stride 1, no dilation, same
            weights. None leaves the network as it is (32).
        channels: of its input: the first convolution of a network of torchvision's is made for so many, of timm's and
            Hugging Face's their own option.

    Returns:
        The network in training mode, on the CPU.

    Raises:
        ValueError: unknown name (similar names are listed), or an output stride or channels that it cannot have.
        FileNotFoundError: hf:PATH, and no config.json is there.
        ImportError: a name of timm's or Hugging Face's, and timm or transformers is not installed.
    """
    base, pool, extra = split_arch(arch)
    arch = canonical(arch)
    if arch.startswith("open_clip:"):
        raise ValueError(
            f"{arch} compares pictures with texts: `load_network` makes a classifier of given texts of it, or `clip`"
        )
    if arch.startswith("timm/"):
        model = build_timm(arch.removeprefix("timm/"), num_classes, channels)
    elif (folder := folder_of(arch)) is not None:
        model = build_hf(folder, num_classes, channels).train()
    elif arch == "nin":
        model = nin(num_classes)
        _set_channels(model, channels)
    else:
        model = _torchvision(base, num_classes)
        _set_channels(model, channels)
        if extra and not isinstance(model, AlexNet):
            raise ValueError(f'the star is for "alexnet*-{pool}", got {arch!r}')
        if pool:
            model = to_gap(model, pool, extra=extra)
    if output_stride is not None:
        _set_output_stride(model, output_stride)
    return model


def split_arch(arch: str) -> tuple[str, Pool | None, tuple[int, ...]]:
    """Take a name that `build` knows apart.

    Args:
        arch: the name.

    Returns:
        The name of the network that `to_gap` is given, the pooling and the widths of its extra convolutions:
        ("alexnet", "gap", (512, 512)) for "alexnet*-gap"; the name itself, None and () for other networks.
    """
    variant = _VARIANT.fullmatch(arch)
    if variant is None:
        return arch, None, ()
    pool = next(pool for pool in _POOLS if pool == variant["pool"])
    return variant["arch"], pool, (512, 512) if variant["star"] else ()


def _torchvision(arch: str, num_classes: int) -> nn.Module:
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        raise ValueError(f"unknown architecture {arch!r}{suggest(arch, known)}")
    options = {"aux_logits": False, "init_weights": True} if arch in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **options)


def _set_channels(model: nn.Module, channels: int) -> None:
    """Make the first convolution one for another number of channels, with random weights of the same gain."""
    check_channels(channels)
    name, old = next((name, one) for name, one in model.named_modules() if isinstance(one, nn.Conv2d))
    if channels == old.in_channels:
        return
    shape = old.kernel_size, old.stride, old.padding, old.dilation
    new = nn.Conv2d(channels, old.out_channels, *shape, bias=old.bias is not None)  # type: ignore[arg-type]
    with torch.no_grad():
        new.weight.normal_(std=float(old.weight.std()) * (old.in_channels / channels) ** 0.5)
        if new.bias is not None and old.bias is not None:
            new.bias.copy_(old.bias)
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)


def _set_output_stride(model: nn.Module, output_stride: int) -> None:
    if not isinstance(model, torchvision.models.ResNet):
        raise ValueError(f"`output_stride` is for ResNets, not for {type(model).__name__}")
    stages: dict[int, list[nn.Module]] = {32: [], 16: [model.layer4], 8: [model.layer3, model.layer4]}
    if output_stride not in stages:
        raise ValueError(f"`output_stride` must be 8, 16 or 32, got {output_stride!r}")
    for stage in stages[output_stride]:
        for module in stage.modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)


class GlobalPoolNet(nn.Module):
    """Features, one global pooling, one linear layer: the networks of the CAM paper.

    Attributes:
        features: [N, 3, H, W] to [N, K, h, w]; the default target layer.
        pool: to [N, K, 1, 1].
        dropout: of the pooled features, in training.
        classifier: [N, K] to logits [N, C].
    """

    def __init__(self, features: nn.Module, pool: nn.Module, classifier: nn.Linear, dropout: float = 0.0) -> None:
        super().__init__()
        self.features = features
        self.pool = pool
        self.dropout = nn.Dropout(dropout)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Classify.

        Args:
            images: [N, 3, H, W], floating.

        Returns:
            Logits [N, C].
        """
        return self.classifier(self.dropout(self.pool(self.features(images)).flatten(1)))


_POOLS: dict[Pool, Callable[[], nn.Module]] = {
    "gap": lambda: nn.AdaptiveAvgPool2d(1),
    "gmp": lambda: nn.AdaptiveMaxPool2d(1),
    "tap": ThresholdedAvgPool2d,
}
_POOL_TYPES = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, ThresholdedAvgPool2d)


def to_gap(
    model: nn.Module,
    pool: Pool = "gap",
    units: int = 1024,
    *,
    extra: Sequence[int] = (),
    num_classes: int | None = None,
    threshold: float = 0.1,
) -> nn.Module:
    """Give a network the head that class activation mapping needs: a global pooling and one linear layer.

    AlexNet is cut after conv5 (a 13 x 13 map of 224 x 224 pixels), VGG after its last convolution (14 x 14) and
    GoogLeNet after inception4e (14 x 14). There a 3 x 3 convolution of `units` channels with ReLU, the pooling and a
    new linear layer follow. Networks that end in global average pooling and a linear layer as they are (ResNet,
    ResNeXt, RegNet, DenseNet, MobileNetV2, MNASNet, EfficientNet, Inception v3, ShuffleNetV2) keep their layers and
    weights, and only the pooling is exchanged. The given model stays as it is; weights are copied.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 3 (cut networks,
    GAP and GMP); Bae et al., Rethinking CAM, ECCV 2020, section 3 ("tap").

    Args:
        model: a network of torchvision, with or without trained weights.
        pool: "gap", global average pooling; "gmp", global maximum pooling; "tap", thresholded average pooling.
        units: channels of the new convolution; networks that keep their layers get none.
        extra: widths of further 3 x 3 convolutions with ReLU before it: (512, 512) with AlexNet is AlexNet*-GAP.
        num_classes: number of logits; None is the model's. Another number than the model's makes a new linear layer.
        threshold: θ of "tap", a fraction of the channel's maximum in [0, 1).

    Returns:
        The new network, in the mode, dtype and on the device of the given one. Its default target layer is that whose
        maps are pooled.

    Raises:
        ValueError: an unknown pooling, a size that is not positive, or a network of another family.
    """
    one_of("pool", pool, _POOLS)
    for name, sizes in (("units", [units]), ("extra", extra), ("num_classes", [num_classes or 1])):
        if not all(isinstance(size, int) and size > 0 for size in sizes):
            raise ValueError(f"`{name}` must be positive, got {extra if name == 'extra' else sizes[0]!r}")
    pooling = ThresholdedAvgPool2d(threshold) if pool == "tap" else _POOLS[pool]()
    model = unwrap(model)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    trunk = _cut(model)
    # Not the layers that are cut off, which are most of VGG.
    trunk, model = (copy.deepcopy(trunk), model) if trunk is not None else (None, copy.deepcopy(model))
    new: nn.Module
    if trunk is not None:
        classes, channels = num_classes or linears[-1].out_features, _channels(trunk)
        for width in (*extra, units):
            convolution = nn.Conv2d(channels, width, 3, padding=1)
            _start(convolution, "fan_out")
            trunk += [convolution, nn.ReLU(inplace=True)]
            channels = width
        new = GlobalPoolNet(nn.Sequential(*trunk), pooling, nn.Linear(channels, classes))
    elif isinstance(model, GlobalPoolNet):
        model.pool = pooling
        new = model
    elif isinstance(getattr(model, "avgpool", None), _POOL_TYPES) and _is_linear_head(model):
        model.avgpool = pooling
        new = model
    elif isinstance(model, DenseNet | MobileNetV2 | MNASNet) or (hasattr(model, "conv5") and hasattr(model, "fc")):
        new = _functional(model, pooling)
    else:
        raise ValueError(
            f"{type(model).__name__} does not end in global average pooling and one linear layer, and where to cut it "
            "is not known: build a GlobalPoolNet of its first layers. Known are torchvision's AlexNet, VGG, GoogLeNet, "
            "ResNet, RegNet, DenseNet, MobileNetV2, MNASNet, EfficientNet, ShuffleNetV2 and Inception v3"
        )
    (name, last) = _head(new)[-1]
    if num_classes not in (None, last.out_features):
        parent, _, attribute = name.rpartition(".")
        setattr(new.get_submodule(parent), attribute, nn.Linear(last.in_features, num_classes))
    return new.to(linears[0].weight.device, linears[0].weight.dtype).train(model.training)


def _cut(model: nn.Module) -> list[nn.Module] | None:
    """The layers of a network before the place where the CAM paper cuts it; None for other networks."""
    if isinstance(model, AlexNet | VGG):
        layers = list(model.features)
        while isinstance(layers[-1], nn.MaxPool2d):
            layers.pop()
        return layers
    if isinstance(model, GoogLeNet):
        names = [name for name, _ in model.named_children()]
        layers = [getattr(model, name) for name in names[: names.index("inception4e") + 1]]
        return [_OtherMean(), *layers] if model.transform_input else layers
    return None


class _OtherMean(nn.Module):
    """GoogLeNet's trained weights want mean and standard deviation 0.5: from ImageNet's."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.new_tensor([0.485, 0.456, 0.406])[:, None, None]
        std = images.new_tensor([0.229, 0.224, 0.225])[:, None, None]
        return images * (std / 0.5) + (mean - 0.5) / 0.5


def _channels(layers: list[nn.Module]) -> int:
    """Channels that the last of the layers gives."""
    last = layers[-1]
    if hasattr(last, "branch1"):  # an inception block: the sum of its branches
        branches = [last.get_submodule(f"branch{number}") for number in (1, 2, 3, 4)]
        return sum([m for m in branch.modules() if isinstance(m, nn.Conv2d)][-1].out_channels for branch in branches)
    return next(module.out_channels for module in reversed(layers) if isinstance(module, nn.Conv2d))


def _start(layer: nn.Conv2d, mode: Literal["fan_in", "fan_out"] = "fan_in") -> None:
    """Give a convolution He's random weights, and no bias."""
    nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="relu")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _head(model: nn.Module) -> list[tuple[str, nn.Linear]]:
    """Linear layers outside the trunk, by name."""
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.split(".")[0] in ("fc", "classifier", "head")
    ]


def _is_linear_head(model: nn.Module) -> bool:
    """Whether a network has one linear layer after its trunk, and no normalisation before it (as ConvNeXt has)."""
    parts = getattr(model, "classifier", nn.Identity()).modules()
    return len(_head(model)) == 1 and not any(isinstance(part, nn.LayerNorm) for part in parts)


def _functional(model: nn.Module, pooling: nn.Module) -> GlobalPoolNet:
    """The same network with its pooling as a module, where it is written as a function."""
    (_, linear), dropout = _head(model)[-1], [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
    if isinstance(model, DenseNet):
        features = nn.Sequential(OrderedDict([*model.features.named_children(), ("relu", nn.ReLU(inplace=True))]))
        dropout = []
    elif isinstance(model, MNASNet):
        features = model.layers
    elif isinstance(model, MobileNetV2):
        features = model.features
    else:
        features = nn.Sequential(OrderedDict((n, m) for n, m in model.named_children() if n != "fc"))
        dropout = []
    return GlobalPoolNet(features, pooling, linear, dropout[-1] if dropout else 0.0)


def nin(num_classes: int = 1000) -> nn.Sequential:
    """Build Network in Network for ImageNet: its last convolution gives one map for each class, and GAP the logits.

    Source: Lin, Chen and Yan, Network In Network, ICLR 2014; sizes as in the authors' ImageNet model.

    Args:
        num_classes: number of logits.

    Returns:
        The network with random weights, [N, 3, H, W] to logits [N, num_classes]; 224 x 224 pixels give 6 x 6 maps. Its
        parts are "features", which ends in the maps of the classes, "pool" and "flatten".
    """

    def block(
        channels: int, width: int, wide: int, kernel: int, last: int | None = None, *, stride: int = 1, padding: int = 0
    ) -> list[nn.Module]:
        layers: list[nn.Module] = [nn.Conv2d(channels, width, kernel, stride, padding), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(width, wide, 1), nn.ReLU(inplace=True), nn.Conv2d(wide, last or wide, 1)]
        return [*layers, nn.ReLU(inplace=True)]

    def shrink() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    layers = [*block(3, 96, 96, 11, stride=4), shrink(), *block(96, 256, 256, 5, padding=2), shrink()]
    layers += [*block(256, 384, 384, 3, padding=1), shrink(), nn.Dropout(0.5)]
    layers += block(384, 1024, 1024, 3, last=num_classes, padding=1)
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            _start(layer)
    parts = {"features": nn.Sequential(*layers), "pool": nn.AdaptiveAvgPool2d(1), "flatten": nn.Flatten()}
    return nn.Sequential(OrderedDict(parts))
