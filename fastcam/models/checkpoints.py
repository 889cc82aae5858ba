"""Weights and checkpoints on disk, and the configuration that goes with a network."""

import dataclasses
import json
import os
import zipfile
from dataclasses import dataclass
from itertools import takewhile
from numbers import Integral, Real
from pathlib import Path
from typing import Any, BinaryIO, Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastcam.models.layers import first
from fastcam.models.networks import build, split_arch, to_gap
from fastcam.writers import replacing

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_METADATA_KEY = "fastcam"


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
        except (AttributeError, TypeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"not a fastcam model configuration: {error}") from None


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


def load_tensors(source: Path | BinaryIO) -> Any:
    """Load what `torch.save` wrote of tensors and plain values, on the CPU. No code in it runs.

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
    return torch.load(source, map_location="cpu", weights_only=True)


def start_from(
    path: str | os.PathLike, arch: str, num_classes: int, output_stride: int | None = None
) -> tuple[nn.Module, frozenset[str]]:
    """Build a network and give it the weights of a file as far as they go.

    A classifier for another number of classes, and the layers that `to_gap` adds, keep their random start.

    Args:
        path: as in `load_weights`: a checkpoint of fastcam or plain weights for ImageNet's 1,000 classes, of this
            network or, for one of `to_gap`'s such as "vgg16-tap", of the network it is made from.
        arch: the network, as in `build`.
        num_classes: number of logits.
        output_stride: as in `build`.

    Returns:
        The network in training mode, on the CPU, and the names of those of its parameters that the file gave.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: unknown network, a checkpoint of another one, or weights that do not fit.
    """
    path = Path(path)
    saved, (base, pool, extra) = read_config(path), split_arch(arch)
    if saved is not None and saved.arch not in (arch, base):
        raise ValueError(f"{path} is a checkpoint of {saved.arch}, not of {arch}")
    model, state = build(arch, num_classes, output_stride), _read_state(path)
    # Built with the classes that the weights are for; what depends on their number keeps its random start.
    classes = 1000 if saved is None else saved.num_classes
    source = build(arch, classes)
    if _fits(source, state):
        _load_state(source, state, path)
        given = frozenset(name for name, _ in source.named_parameters())
    else:
        whole = build(base, classes)
        _load_state(whole, state, path)
        source = to_gap(whole, pool, extra=extra)
        # What `to_gap` keeps comes first and in the same order.
        pairs = zip(source.named_parameters(), whole.parameters(), strict=False)
        kept = takewhile(lambda pair: torch.equal(pair[0][1], pair[1]), pairs)
        given = frozenset(name for (name, _), _ in kept)
    own = model.state_dict()
    fitting = {key: value for key, value in source.state_dict().items() if value.shape == own[key].shape}
    model.load_state_dict(own | fitting)
    return model, given & fitting.keys()


def _fits(model: nn.Module, state: dict[str, Tensor]) -> bool:
    """Whether a state's parameters are the model's, by name."""
    return all(name in state for name, _ in model.named_parameters())


def _read_state(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        try:
            state = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path} is not a safetensors file: {error}") from None
    else:
        try:
            state = load_tensors(path)
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
        found = "; ".join(f"{len(keys)} {what}: {first(keys)}" for what, keys in problems.items() if keys)
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
            config = None if text is None else ModelConfig.from_json(text)
            firsts = {(file.get_slice(key).get_shape() or [1])[0] for key in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError:
        return None
    # Before so large a network is built; smaller ones do no harm, and loading tells what is missing.
    if config is not None and config.num_classes > 1000 and config.num_classes not in firsts:
        raise ValueError(f"{path} has no weights for the {config.num_classes} classes of its configuration")
    return config
