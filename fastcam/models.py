"""Networks: built by name, their weights and checkpoints, the layers and heads that maps are taken from."""

import dataclasses
import difflib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import safetensors
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from fastcam.writers import replacing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_METADATA_KEY = "fastcam"


@dataclass(frozen=True)
class ModelConfig:
    """All that is needed beside the weights to use a network: its construction and its preprocessing.

    Attributes:
        arch: name of a torchvision classification network, such as "resnet18".
        num_classes: number of logits.
        output_stride: see `build`; None is the network's own.
        class_names: empty, or one name for each class.
        size: side of the square input in pixels.
        resize: "squash" resizes to size x size, "crop" the shorter side and cuts out the centre.
        mean: subtracted from each of R, G, B in [0, 1].
        std: divides each of R, G, B after the subtraction.
        threshold: fraction of the map's range, in [0, 1], above which a box is drawn; None if none was chosen.

    Raises:
        ValueError: `resize` has another value, or there are class names, but not one for each class.
    """

    arch: str
    num_classes: int
    output_stride: int | None = None
    class_names: tuple[str, ...] = ()
    size: int = 224
    resize: Literal["squash", "crop"] = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.resize not in ("squash", "crop"):
            raise ValueError(f'`resize` must be "squash" or "crop", got {self.resize!r}')
        if self.class_names and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"`class_names` must have one name for each of the {self.num_classes} classes, "
                f"got {len(self.class_names)}"
            )

    def to_json(self) -> str:
        """Return the configuration as one JSON object.

        Returns:
            The object's text, all fields by name.

        Raises:
            TypeError: a field holds what JSON cannot.
        """
        return json.dumps(dataclasses.asdict(self))

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
            fields = json.loads(text)
            return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()})
        except (AttributeError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a fastcam model configuration: {error}") from None


def build(arch: str, num_classes: int = 1000, output_stride: int | None = None) -> nn.Module:
    """Build a torchvision classification network with random weights.

    Networks with auxiliary classifiers (GoogLeNet, Inception v3) are built without them, so that every network
    gives one tensor of logits [N, num_classes] in training too.

    Args:
        arch: name of the network, such as "resnet18".
        num_classes: number of logits.
        output_stride: input pixels per position of the last stage's map, 8, 16 or 32, for ResNets (ResNeXt and
            Wide ResNet included). Below 32 the last stages keep their resolution: stride 1, no dilation, same
            weights. None leaves the network as it is (32).

    Returns:
        The network in training mode, on the CPU.

    Raises:
        ValueError: unknown name (similar names are listed), or an output stride that the network cannot have.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    if arch not in known:
        raise ValueError(f"unknown architecture {arch!r}{suggest(arch, known)}")
    options = {}
    if arch in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    model = torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **options)
    if output_stride is not None:
        _set_output_stride(model, output_stride)
    return model


def _set_output_stride(model: nn.Module, output_stride: int) -> None:
    if not isinstance(model, torchvision.models.ResNet):
        raise ValueError(f"`output_stride` is for ResNets, not for {type(model).__name__}")
    stages = {32: [], 16: [model.layer4], 8: [model.layer3, model.layer4]}
    if output_stride not in stages:
        raise ValueError(f"`output_stride` must be 8, 16 or 32, got {output_stride!r}")
    for stage in stages[output_stride]:
        for module in stage.modules():
            if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                module.stride = (1, 1)


def load_weights(model: nn.Module, path: str | os.PathLike) -> None:
    """Load a file of weights into a network, in place.

    Weights of auxiliary classifiers that the network was built without are left out.

    Args:
        model: the network.
        path: a .safetensors file, or a .pt, .pth or .th file holding a state_dict, bare or under the key
            "state_dict" or "model". It is read weights-only: no code in it runs. The "module." prefix of
            DataParallel is removed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no weights, or its keys or shapes are not the model's; they are listed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    _load_state(model, _read_state(path), path)


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            state = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from None
    else:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except Exception as error:  # a damaged pickle can raise almost anything
            raise ValueError(
                f"{path} is not a file that torch.save wrote of tensors alone ({type(error).__name__}); "
                "whatever else it holds is not loaded"
            ) from None
        for key in ("state_dict", "model"):
            if isinstance(state, dict) and isinstance(state.get(key), dict):
                state = state[key]
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise ValueError(f"{path} must hold a state_dict (names and tensors)")
    if state and all(key.startswith("module.") for key in state):
        state = {key.removeprefix("module."): value for key, value in state.items()}
    return state


def _load_state(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    # A part that was switched off (GoogLeNet's auxiliary classifiers) is an attribute that is None.
    state = {key: value for key, value in state.items() if getattr(model, key.split(".")[0], 0) is not None}
    problems = {
        # BatchNorm's counter is not used in evaluation, and files from old versions of PyTorch lack it.
        "missing": [k for k in own if k not in state and not k.endswith("num_batches_tracked")],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [
            f"{k} (expected {list(own[k].shape)}, got {list(v.shape)})"
            for k, v in state.items()
            if k in own and own[k].shape != v.shape
        ],
    }
    if any(problems.values()):
        found = "; ".join(f"{len(keys)} {what}: {_first(keys)}" for what, keys in problems.items() if keys)
        raise ValueError(f"the weights in {path} do not fit {type(model).__name__}: {found}")
    model.load_state_dict(state, strict=False)


def save_checkpoint(path: str | os.PathLike, model: nn.Module, config: ModelConfig) -> None:
    """Write a network and its configuration to one safetensors file, atomically.

    The file appears under its name only when it is complete; an older one stays until then.

    Args:
        path: the file to write.
        model: a network that `build(config.arch, config.num_classes, config.output_stride)` gives.
        config: how to build and use it; goes as JSON to the metadata key "fastcam".

    Raises:
        OSError: the file cannot be written.
        RuntimeError: tensors of the network share memory, which a safetensors file cannot express.
        TypeError: a field of the configuration holds what JSON cannot.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with replacing(path) as partial:
        partial.write_bytes(safetensors.torch.save(state, metadata={_METADATA_KEY: config.to_json()}))


def load_checkpoint(path: str | os.PathLike) -> tuple[nn.Module, ModelConfig]:
    """Read what `save_checkpoint` wrote.

    Args:
        path: the file.

    Returns:
        The network in evaluation mode, on the CPU, and its configuration.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a fastcam checkpoint, or its weights do not fit its configuration.
    """
    path = Path(path)
    config = read_config(path)
    if config is None:
        raise ValueError(
            f"{path} is not a fastcam checkpoint (a safetensors file with the metadata key "
            f"{_METADATA_KEY!r}); plain weights need the name of their architecture: build(), load_weights()"
        )
    model = build(config.arch, config.num_classes, config.output_stride)
    _load_state(model, _read_state(path), path)
    return model.eval(), config


def read_config(path: str | os.PathLike) -> ModelConfig | None:
    """Read the configuration in a checkpoint without its weights.

    Args:
        path: any file of weights.

    Returns:
        The configuration, or None where the file is not a checkpoint of fastcam.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is a configuration, but it cannot be understood.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of weights at {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_METADATA_KEY)
    except safetensors.SafetensorError:
        return None
    return None if text is None else ModelConfig.from_json(text)


# The last stage with a spatial map, by the attribute that holds it in torchvision's networks.
_LAST_STAGES = ("permute", "layer4", "features", "trunk_output", "conv5", "layers", "inception5b", "Mixed_7c")


def default_target_layer(model: nn.Module) -> str:
    """Name the layer whose map is the network's last: where CAM and Grad-CAM usually look.

    Known are torchvision's convolutional networks and Swin, and others that name their stages alike. A last
    stage that ends in max pooling (AlexNet, VGG) is taken before it, as in the Grad-CAM paper.

    Args:
        model: the network.

    Returns:
        A dotted name of `model.named_modules()`.

    Raises:
        ValueError: the network is of no known family; candidate names are listed.
    """
    children = dict(model.named_children())
    name = next((name for name in _LAST_STAGES if name in children), None)
    if name is None:
        stages = [name for name, child in children.items() if next(child.parameters(), None) is not None]
        raise ValueError(
            f"no default target layer is known for {type(model).__name__}: pass `target_layers`, names of the "
            f"last layers with a spatial map; its parts are {_first(stages, 12)}"
        )
    inner = list(children[name].named_children())
    while inner and isinstance(inner[-1][1], nn.MaxPool2d):
        inner.pop()
        name = f"{name.split('.')[0]}.{inner[-1][0]}"
    return name


def resolve_layers(model: nn.Module, target_layers: str | nn.Module | Iterable[str | nn.Module]) -> list[nn.Module]:
    """Find the modules that are meant by names.

    Args:
        model: the network.
        target_layers: modules of the network or their dotted names ("layer4", "features.28"); one or several.

    Returns:
        The modules, in the given order.

    Raises:
        TypeError: something is neither a module nor a name.
        ValueError: there is none, a name is unknown (similar ones are listed), or a module is not in the network.
    """
    if isinstance(target_layers, str | nn.Module):
        target_layers = [target_layers]
    modules = dict(model.named_modules(remove_duplicate=False))
    layers = []
    for layer in target_layers:
        if isinstance(layer, str):
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


class Head(NamedTuple):
    """A classifier that is global average pooling and one linear layer.

    Attributes:
        weight: [C, K], of the linear layer.
        bias: [C], or None.
        relu: whether a ReLU stands between the target layer and the pooling.
    """

    weight: Tensor
    bias: Tensor | None
    relu: bool


def find_head(features: Tensor, linear: nn.Linear | None, pooled: Tensor | None) -> Head | None:
    """Recognise, from one forward pass, a head in which logit = mean(CAM) + bias.

    However the pooling is written, the numbers tell: the linear layer must have seen each channel's mean, or
    that of its positive part. The identity is checked on the very pictures that the maps are for.

    Source: Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, equations 1 and 2.

    Args:
        features: [N, K, h, w], floating, output of the target layer.
        linear: the linear layer that gave the logits, or None.
        pooled: [N, K], floating, what that layer was given, or None.

    Returns:
        The head, or None where the identity does not hold.

    Raises:
        IndexError: `features` have fewer than four dimensions, though `pooled` fits the first two.
        TypeError: `pooled` fits them, but is not floating.
    """
    if linear is None or pooled is None or pooled.shape != features.shape[:2]:
        return None
    exact = torch.promote_types(features.dtype, torch.float32)
    features, given = features.to(exact), pooled.to(exact)
    scale = features.abs().mean((2, 3))
    # Summation orders and half types differ by far less than any other pooling would.
    tolerance = torch.finfo(pooled.dtype).eps ** 0.5
    for relu in (False, True):
        means = (features.relu() if relu else features).mean((2, 3))
        if not ((means - given).abs() > tolerance * scale).any():  # NaN is no objection: it shows in the map
            return Head(linear.weight.detach(), None if linear.bias is None else linear.bias.detach(), relu)
    return None


def suggest(name: str, known: Sequence[str]) -> str:
    """Name what an unknown name may have meant, as the end of an error message.

    Args:
        name: the unknown name.
        known: the names that there are.

    Returns:
        "; did you mean …?" with up to five similar names, or "; known are …" with the first twelve.
    """
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else f"; known are {_first(list(known), 12)}"


def _first(names: list[str], limit: int = 5) -> str:
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
