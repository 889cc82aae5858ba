"""Layers that maps are taken from: their names, the usual one of each family, and the shape of what they give."""

import contextlib
import math
import re
from collections.abc import Iterable, Iterator

from torch import Tensor, nn

from fastcam._check import listed, suggest
from fastcam.models.clip import ClipNet
from fastcam.models.outputs import unwrap

# The last stage with a spatial map, by the attribute that holds it in torchvision's and timm's networks.
_LAST_STAGES = ("permute", "layer4", "features", "trunk_output", "conv5", "layers", "inception5b", "Mixed_7c", "stages")

_ATTENTIONS = ("attn", "attention", "self_attn", "self_attention")
# Of Hugging Face's networks the last layer whose name ends so, by the first of these that any does: the last stage of
# convolutions, or the convolution after it; the last normalisation where the mean over all tokens follows; the first
# normalisation of the last block where a class token does, or attention that pools.
_HUGGING_FACE = [
    re.compile(pattern)
    for pattern in (
        r"\bencoder\.stages\.\d+$",
        r"\b(conv_1x1_exp|conv_1x1|top_activation)$",
        r"\bswin(v2)?\.layernorm$|\bpvt_v2\.encoder\.layers\.\d+\.layer_norm$",
        r"\.\d+\.(layernorm_before|norm1|layer_norm1|layer_norm_1)$",
    )
]


def default_target_layer(model: nn.Module) -> str:
    """Name the layer whose map is the network's last: where CAM and Grad-CAM usually look.

    Known are the families of torchvision, those of `fastcam.models`, most of Hugging Face's, and others that name their
    stages alike, as most of timm's do. A last stage that ends in max pooling (AlexNet, VGG) is taken before it, as in
    the Grad-CAM paper; of a vision transformer it is the first normalisation of the last block, after which only the
    class token counts.

    Args:
        model: the network, bare or inside DataParallel or `torch.compile`.

    Returns:
        A dotted name of `unwrap(model).named_modules()`.

    Raises:
        ValueError: the network is of no known family; candidate names are listed.
    """
    model = unwrap(model)
    if isinstance(model, ClipNet):
        return f"tower.{default_target_layer(model.tower)}"
    if any(hasattr(module, "base_model_prefix") for module in model.modules()):
        names = [name for name, _ in model.named_modules()]
        found = [[name for name in names if pattern.search(name)] for pattern in _HUGGING_FACE]
        if any(found):
            return next(filter(None, found))[-1]
    children = dict(model.named_children())
    if "trunk" in children and "head" in children:  # open_clip's, around a network of timm's
        return f"trunk.{default_target_layer(children['trunk'])}"
    resblocks = getattr(children.get("transformer"), "resblocks", None)
    if isinstance(resblocks, nn.Sequential | nn.ModuleList) and "conv1" in children:  # open_clip's VisionTransformer
        return f"transformer.resblocks.{len(resblocks) - 1}.ln_1"
    encoder = [name for name, _ in model.named_modules() if name.startswith("encoder.layers.encoder_layer_")]
    if "conv_proj" in children and encoder:  # torchvision's VisionTransformer
        return f"{'.'.join(encoder[-1].split('.')[:3])}.ln_1"
    blocks = children.get("blocks")
    if isinstance(blocks, nn.Sequential | nn.ModuleList):
        if "patch_embed" in children and "norm1" in dict(blocks[-1].named_children()):  # timm's
            return f"blocks.{len(blocks) - 1}.norm1"
        if "conv_head" in children and "bn2" in children and "global_pool" in children:  # timm's EfficientNet
            return "bn2"
        return f"blocks.{len(blocks) - 1}"
    name = next((name for name in _LAST_STAGES if name in children), None)
    if name is None:
        stages = [name for name, child in children.items() if next(child.parameters(), None) is not None]
        raise ValueError(
            f"no default target layer is known for {type(model).__name__}: pass `target_layers`, names of the "
            f"last layers with a spatial map; its parts are {listed(stages, 12)}"
        )
    inner = list(children[name].named_children())
    while inner and isinstance(inner[-1][1], nn.MaxPool2d):
        inner.pop()
        name = f"{name.split('.')[0]}.{inner[-1][0]}"
    return name


def default_stages(model: nn.Module, count: int = 3) -> list[str]:
    """Name the layers that end the last stages of a network: the last map of each resolution.

    Those are the layers before each one that has a stride or a pooling, and `default_target_layer`; in a vision
    transformer, whose tokens keep their number, that layer and the same one of the blocks before.

    Args:
        model: the network, bare or inside DataParallel or `torch.compile`.
        count: at most so many.

    Returns:
        Dotted names of `unwrap(model).named_modules()`, first to last.

    Raises:
        ValueError: the network is of no known family, as in `default_target_layer`.
    """
    model = unwrap(model)
    last = default_target_layer(model)
    with contextlib.suppress(ValueError):
        blocks = attention_blocks(model)
        if last.startswith(f"{blocks[-1]}."):
            return [block + last.removeprefix(blocks[-1]) for block in blocks[-count:]]
    holder = last.rpartition(".")[0]
    ends: list[str] = []
    before, reached = "", False
    for name, shrinks in _in_order(model.get_submodule(holder), f"{holder}." if holder else ""):
        if reached and not f"{name}.".startswith(f"{last}."):
            break
        reached |= f"{name}.".startswith(f"{last}.")
        if shrinks and before:
            ends.append(before)
        before = name
    return [*ends, last][-count:]


def _in_order(module: nn.Module, prefix: str) -> Iterator[tuple[str, bool]]:
    """The layers of a network by name, and whether each makes maps smaller; sequences of stages are taken apart."""
    for name, child in module.named_children():
        if name.lower().startswith("aux"):  # a head beside the way, which runs in training only
            continue
        if isinstance(child, nn.Sequential) and sum(map(_shrinks, child)) > 1:
            yield from _in_order(child, f"{prefix}{name}.")
        else:
            yield prefix + name, _shrinks(child)


def _shrinks(module: nn.Module) -> bool:
    """Whether a module has a stride, or merges patches."""
    for part in module.modules():
        stride = getattr(part, "stride", 1)
        if isinstance(part, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d) and stride not in (1, (1, 1)):
            return True
        if type(part).__name__.startswith("PatchMerging"):
            return True
    return False


def attention_blocks(model: nn.Module) -> list[str]:
    """Name the blocks of a vision transformer, first to last: each has one attention, and hands tokens to the next.

    They are found as the children of the one container whose every child has one attention: a module whose type is
    called so (`MultiheadAttention`, timm's `Attention`, Hugging Face's `ViTAttention`, …), or that is itself.

    Args:
        model: the network, bare or inside DataParallel or `torch.compile`.

    Returns:
        Dotted names of `unwrap(model).named_modules()`.

    Raises:
        ValueError: there is no such container, or there are several, as in networks of stages with windows (Swin).
    """
    model = unwrap(model)
    chains = [
        [f"{name}.{child}".removeprefix(".") for child, _ in module.named_children()]
        for name, module in model.named_modules()
        if isinstance(module, nn.Sequential | nn.ModuleList)
        and len(module)
        and all(_attentions(child) == 1 for child in module)
    ]
    inner = [chain for chain in chains if not any(other[0].startswith(f"{chain[0]}.") for other in chains)]
    if len(inner) != 1:
        found = ", ".join(f"{chain[0]} … {chain[-1]}" for chain in inner) or "none"
        raise ValueError(
            f"{type(model).__name__} must have one row of blocks with attention among all tokens, as vision "
            f"transformers do, got {found}. Pass its blocks as `target_layers`; for networks of stages or of windows "
            "GradCAM and LayerCAM are the methods"
        )
    return inner[0]


def _attentions(module: nn.Module) -> int:
    """How many modules of attention there are in one; those within another do not count."""
    return sum(
        1 if name in _ATTENTIONS or "attention" in type(child).__name__.lower() else _attentions(child)
        for name, child in module.named_children()
    )


def resolve_layers(model: nn.Module, target_layers: str | nn.Module | Iterable[str | nn.Module]) -> list[nn.Module]:
    """Find the modules that are meant by names.

    Args:
        model: the network, bare or inside DataParallel or `torch.compile`.
        target_layers: modules of the network or their dotted names ("layer4", "features.28"); one or several.

    Returns:
        The modules, in the given order.

    Raises:
        TypeError: something is neither a module nor a name.
        ValueError: there is none, a name is unknown (similar ones are listed), or a module is not in the network.
    """
    if isinstance(target_layers, str | nn.Module):
        target_layers = [target_layers]
    model = unwrap(model)
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = []
    for layer in target_layers:
        if isinstance(layer, str):
            if layer not in modules:  # named as in the wrapper
                layer = layer.removeprefix("module.").removeprefix("_orig_mod.")
            if layer not in modules:
                names = [name for name in modules if name]
                raise ValueError(f"{type(model).__name__} has no layer {layer!r}{suggest(layer, names)}")
            layer = modules[layer]
        elif not isinstance(layer, nn.Module):
            raise TypeError(f"a target layer must be a module or its name, got {type(layer).__name__}")
        elif not any(layer is module for module in modules.values()):
            raise ValueError(f"the target layer {type(layer).__name__} is not a module of this model")
        layers.append(layer)
    if not layers:
        raise ValueError("`target_layers` must name at least one layer, got none")
    return layers


def vit_reshape(tokens: Tensor, grid: tuple[int, int] | None = None, prefix: int = 1) -> Tensor:
    """Arrange the patch tokens of a vision transformer as a map: a `reshape_transform`.

    Args:
        tokens: [N, prefix + h·w, K], floating.
        grid: (h, w); None is a square.
        prefix: tokens before the patches, such as the class token; they are left out.

    Returns:
        [N, K, h, w], a view.

    Raises:
        ValueError: the tokens have another shape, or their number is no square or not h·w.
    """
    count = tokens.shape[1] - prefix if tokens.dim() == 3 else -1
    side = math.isqrt(max(count, 0))
    height, width = grid or (side, side)
    if count < 1 or height * width != count:
        raise ValueError(
            f"tokens must be [N, {prefix} + h·w, K] with h x w = {'a square' if grid is None else grid}, got "
            f"{list(tokens.shape)}; pass `grid`, or `prefix` where the network has more or fewer other tokens"
        )
    return tokens[:, prefix:].unflatten(1, (height, width)).permute(0, 3, 1, 2)


def swin_reshape(tokens: Tensor) -> Tensor:
    """Move the channels of a Swin transformer's layer to where convolutions have them: a `reshape_transform`.

    Args:
        tokens: [N, h, w, K].

    Returns:
        [N, K, h, w], a view.

    Raises:
        ValueError: the tensor has not four dimensions.
    """
    if tokens.dim() != 4:
        raise ValueError(f"a layer of a Swin transformer gives [N, h, w, K], got {list(tokens.shape)}")
    return tokens.permute(0, 3, 1, 2)
