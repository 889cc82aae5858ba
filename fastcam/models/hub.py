"""Networks of timm and of Hugging Face: by name or from a folder, with what their own configurations say of pictures.

Nothing here reaches a network, and no code of a folder is run: JSON and safetensors are all that is read of it.
"""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import torch
from torch import nn

from fastcam._check import listed, suggest

if TYPE_CHECKING:
    from fastcam.models.preprocessing import Published

_MOST_JSON = 16 * 2**20  # bytes of a configuration
_PROCESSOR = "preprocessor_config.json"
_RESAMPLING = {2: "bilinear", 3: "bicubic"}  # as Pillow numbers them


def canonical(arch: str) -> str:
    """The name of a network as configurations have it: timm:NAME is timm/NAME."""
    return f"timm/{arch.removeprefix('timm:')}" if arch.startswith("timm:") else arch


def folder_of(arch: str | None) -> Path | None:
    """The folder that hf:PATH names; None for other names."""
    return Path(arch.removeprefix("hf:")) if arch is not None and arch.startswith("hf:") else None


# ---- timm ------------------------------------------------------------------------------------------------------------


def build_timm(name: str, num_classes: int, channels: int = 3) -> nn.Module:
    """Build a network of timm with random weights."""
    timm = timm_library(f"the network {name!r}")
    base, dot, tag = name.partition(".")
    if base not in timm.list_models():
        raise ValueError(f"unknown timm architecture {base!r}{suggest(base, timm.list_models())}")
    if dot and name not in (tags := timm.list_models(f"{base}.*", pretrained=True)):
        raise ValueError(f"timm has no weights {tag!r} of {base!r}{suggest(name, tags)}")
    options: dict[str, Any] = {} if channels == 3 else {"in_chans": channels}
    return timm.create_model(name, pretrained=False, num_classes=num_classes, **options)


def timm_library(what: str) -> Any:
    """The library, which something is of; ImportError if it is not installed."""
    try:
        import timm
    except ImportError:
        raise ImportError(f"{what} is timm's, which is not installed: pip install timm (or fastcam[timm])") from None
    return timm


def timm_fields(name: str) -> "Published":
    """What the weights of a network of timm, those of its tag or its default ones, are made for."""
    try:
        from timm.models import get_pretrained_cfg
    except ImportError:
        return {}  # `build_timm` raises
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError:  # a tag that there is not: `build_timm` raises
        config = None
    return {} if config is None else fields_of_timm(config.to_dict())


def fields_of_timm(config: Mapping[str, Any]) -> "Published":
    """Those fields of timm's `pretrained_cfg` that a configuration has, too."""
    fields: Published = {}
    if len(config.get("mean") or ()) == 3:
        fields["mean"] = tuple(config["mean"])
    if len(config.get("std") or ()) == 3:
        fields["std"] = tuple(config["std"])
    channels, *sides = config.get("input_size") or (0,)
    if channels == 3 and len(set(sides)) == 1:
        fields["size"] = size = sides[0]
        share, mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
        scaled = int(size / share)
        if mode == "squash" and scaled == size:
            fields["resize"] = "squash"
        else:
            if mode != "center":
                note(f"crop_mode {mode!r} of timm's is taken for the centre of a shorter side of {scaled} pixels")
            fields["resize"], fields["resize_size"] = "crop", scaled
    interpolate(fields, config.get("interpolation"))
    if config.get("num_classes"):
        fields["num_classes"] = config["num_classes"]
    return fields


# ---- Hugging Face ----------------------------------------------------------------------------------------------------


def build_hf(folder: Path, num_classes: int | None = None, channels: int = 3) -> nn.Module:
    """Build the network of a folder's config.json with random weights; `num_classes` None is its own number.

    Raises:
        FileNotFoundError: there is no config.json.
        ValueError: it is of no network that classifies pictures and that transformers has.
        ImportError: transformers is not installed.
    """
    config = _config(folder, num_classes)
    if channels != getattr(config, "num_channels", 3):
        if not hasattr(config, "num_channels"):
            raise ValueError(f"{folder}: a network of {config.model_type} has no option for {channels} channels")
        config.num_channels = channels
    return _built(config)


def build_hf_like(text: str, num_classes: int, numbers: int) -> nn.Module:
    """Build the network of a configuration that `config_text` gave, for a checkpoint that holds so many numbers."""
    transformers = transformers_library()
    try:
        values = json.loads(text)
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        config.num_labels = num_classes
    except Exception as error:  # transformers checks values in many ways
        raise ValueError(f"the configuration of a Hugging Face network in a checkpoint: {first(error)}") from None
    _check_size(config, numbers, "the checkpoint")
    return _built(config)


def config_text(model: nn.Module) -> str | None:
    """A Hugging Face network's configuration as JSON, without its classes; None for other networks."""
    config: Any = getattr(model, "config", None)
    if not hasattr(config, "to_diff_dict") or not hasattr(model, "base_model_prefix"):
        return None
    left_out = {"id2label", "label2id", "num_labels", "_name_or_path", "dtype", "torch_dtype"}
    values = {name: value for name, value in config.to_diff_dict().items() if name not in left_out}
    return json.dumps(values | {"model_type": config.model_type}, default=str, sort_keys=True)


def has_texts(folder: Path) -> bool:
    """Whether a folder's network compares pictures and texts: one with two towers, and not made for classes."""
    if not (path := folder / "config.json").is_file():
        return False  # whoever loads it says so
    config = read_json(path)
    kinds = config.get("architectures") or []
    towers = [config.get("vision_config"), config.get("text_config")]
    return all(isinstance(tower, dict) for tower in towers) and not any("ForImage" in str(kind) for kind in kinds)


def tokenizer_of(folder: Path) -> Any:
    """The tokenizer of a folder; ValueError: there is none that needs no code and no network."""
    if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
        raise ValueError(f"there is no tokenizer in {folder}: tokenizer.json and tokenizer_config.json, to embed texts")
    try:
        return transformers_library().AutoTokenizer.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # of its libraries, in many ways
        raise ValueError(f"{folder}: its tokenizer cannot be loaded: {first(error)}") from None


def build_tower_like(values: dict[str, Any], numbers: int) -> nn.Module:
    """Build the image tower of a configuration that `config_text` gave, for a checkpoint that holds so many numbers."""
    transformers = transformers_library()
    try:
        config = transformers.AutoConfig.for_model(values.pop("model_type"), **values)
        if not (hasattr(config, "patch_size") or hasattr(config, "image_size")):
            raise ValueError(f"{config.model_type} is none of pictures")
    except Exception as error:  # transformers checks values in many ways
        raise ValueError(f"the configuration of a Hugging Face network in a checkpoint: {first(error)}") from None
    _check_size(config, numbers, "the checkpoint", texts=True)
    return _built(config, texts=True)


def load_hf(folder: Path, *, texts: bool = False) -> nn.Module:
    """The network of a folder with its weights, float32, in evaluation mode; with `texts` one of pictures and text.

    Raises:
        FileNotFoundError: config.json or the weights are not there.
        ValueError: its weights are not the network's, or are no safetensors; as `build_hf`.
        ImportError: transformers is not installed.
    """
    numbers, config = _numbers(folder), _config(folder, texts=texts)
    _check_size(config, numbers, str(folder), texts=texts)
    try:
        model, found = _networks(texts).from_pretrained(
            str(folder),
            config=config,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            dtype="float32",
        )
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder}: its weights cannot be loaded: {first(error)}") from None
    for what in ("missing_keys", "mismatched_keys", "error_msgs"):
        if wrong := [str(one) for one in found.get(what) or ()]:
            raise ValueError(f"{folder}: its weights do not fit {type(model).__name__}: {what} {listed(wrong)}")
    if not texts:
        take_rgb(model, folder)
    return model.eval()


def take_rgb(model: nn.Module, folder: Path) -> None:
    """Let a network whose processor gives it blue, green and red (MobileViT's) take red, green and blue instead."""
    if not has_processor(folder) or not _processor(folder).get("do_flip_channel_order"):
        return
    layer = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    if layer is not None and layer.in_channels == 3:
        with torch.no_grad():
            layer.weight.copy_(layer.weight.flip(1))


def hf_fields(folder: Path) -> "Published":
    """What a folder's configurations, config.json and preprocessor_config.json, say of classes and pictures."""
    config = read_json(folder / "config.json")
    names = config.get("id2label")
    fields: Published = {}
    if isinstance(names, dict) and names:
        listed = [str(names.get(str(index), "")) for index in range(len(names))]
        fields["num_classes"] = len(names)
        if all(listed) and listed != [f"LABEL_{index}" for index in range(len(names))]:
            fields["class_names"] = tuple(listed)
    elif isinstance(config.get("num_labels"), int):
        fields["num_classes"] = config["num_labels"]
    else:
        fields["num_classes"] = 2  # transformers' own default
    if isinstance(config.get("num_channels"), int) and config["num_channels"] != 3:
        fields["channels"] = config["num_channels"]
    if not has_processor(folder):
        return fields | _usual(config)
    _config(folder)  # what is no network is refused as such
    return _usual(config) | fields | _of_processor(_processor(folder), fields.get("channels") or 3)


def has_processor(folder: Path) -> bool:
    """Whether a folder says how pictures become its network's input."""
    if (folder / _PROCESSOR).is_file():
        return True
    beside = folder / "processor_config.json"  # where later versions have it beside that of texts
    return beside.is_file() and isinstance(read_json(beside).get("image_processor"), dict)


def hf_size(model: nn.Module) -> "Published":
    """The size that a network of Hugging Face's is for."""
    config: Any = getattr(model, "config", None)
    return _usual(config.to_dict()) if hasattr(config, "to_dict") else {}


def text_fields(folder: Path) -> "Published":
    """What a folder's configurations say of pictures for a network that compares them with texts.

    ValueError: they say nothing, and nothing tells what the network was trained with.
    """
    if not has_processor(folder):
        raise ValueError(
            f"there is no {_PROCESSOR} in {folder}, and nothing else says how pictures are prepared for it"
        )
    return _of_processor(_processor(folder))


def _usual(config: Mapping[str, Any]) -> "Published":
    """Without a processor's configuration: the size that the network is for."""
    within = config.get("vision_config")
    size = (within if isinstance(within, dict) else config).get("image_size")
    if isinstance(size, list | tuple) and len(set(size)) == 1:
        size = size[0]
    return {"size": size} if isinstance(size, int) else {}


def _processor(folder: Path) -> dict[str, Any]:
    """All settings of a folder's processor, with those that transformers gives to a processor of its kind."""
    path = next(path for name in (_PROCESSOR, "processor_config.json") if (path := folder / name).is_file())
    read_json(path)
    processors = transformers_library().AutoImageProcessor
    try:
        return processors.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False).to_dict()
    except Exception as error:  # transformers checks values in many ways
        raise ValueError(f"{path} is of no processor that transformers has: {first(error)}") from None


def _of_processor(config: Mapping[str, Any], channels: int = 3) -> "Published":
    fields: Published = {"mean": (0.0,) * channels, "std": (1.0,) * channels}
    scale = config.get("rescale_factor") if config.get("do_rescale") else 1
    if not isinstance(scale, int | float) or abs(scale * 255 - 1) > 1e-3 or config.get("rescale_offset"):
        less = " and takes 1 off" if config.get("rescale_offset") else ""
        raise ValueError(f"its {_PROCESSOR} scales pixels by {scale}{less}; pictures are scaled by 1/255 here")
    for name, key in (("mean", "image_mean"), ("std", "image_std")):
        if config.get("do_normalize"):
            values = config.get(key)
            values = [values] * channels if isinstance(values, int | float) else values
            if not isinstance(values, list | tuple) or len(values) != channels:
                raise ValueError(f"its {_PROCESSOR} must have numbers for {channels} channels as {key}, got {values!r}")
            fields[name] = tuple(map(float, values))  # type: ignore[literal-required]
    if config.get("include_top") and config.get("do_normalize"):  # EfficientNet's, which divides twice
        fields["std"] = tuple(value * value for value in fields["std"])
    if not config.get("do_resize"):
        note("pictures are not resized by its processor; they become squares here")
        return fields
    interpolate(fields, _RESAMPLING.get(config.get("resample", 2), config.get("resample")))
    size, cropped = config.get("size"), config.get("crop_size") if config.get("do_center_crop") else None
    whole, side = _side(size), _side(cropped)
    shortest = isinstance(size, dict) and "shortest_edge" in size
    share = config.get("crop_pct")
    if isinstance(share, int | float) and shortest and whole is not None:  # ConvNeXT's: of the shorter side
        if whole >= 384:
            fields["size"], fields["resize"] = whole, "squash"
        else:
            fields["size"], fields["resize"], fields["resize_size"] = whole, "crop", int(whole / share)
    elif side is not None and whole is not None and whole >= side:
        if not shortest and whole > side:
            note(f"pictures squashed to {whole} x {whole} and cropped get a shorter side of {whole} pixels instead")
        if whole == side and not shortest:
            fields["size"], fields["resize"] = side, "squash"
        else:
            fields["size"], fields["resize"], fields["resize_size"] = side, "crop", whole
    elif whole is not None:
        fields["size"] = whole
        fields["resize"] = "crop" if shortest else "squash"
        if shortest:
            note(f"pictures whose shorter side is {whole} pixels, uncropped, are cropped to a square here")
            fields["resize_size"] = whole
    else:
        note(f"pictures of size {size} are not there: they become squares here")
    return fields


def _side(size: Any) -> int | None:
    """The side of a square, as a processor writes it."""
    if isinstance(size, dict):
        sides = {size[name] for name in ("shortest_edge", "height", "width") if isinstance(size.get(name), int)}
        return sides.pop() if len(sides) == 1 else None
    return size if isinstance(size, int) and not isinstance(size, bool) else None


def interpolate(fields: "Published", kind: Any) -> None:
    """Add an interpolation, or the nearest one that there is."""
    if kind == "bilinear" or kind == "bicubic":
        fields["interpolation"] = kind
    elif kind is not None:
        fields["interpolation"] = "bicubic"
        note(f"interpolation {kind!r} is not there: pictures are resized bicubically")


def note(text: str) -> None:
    """Warn of what is not as the weights want it."""
    warnings.warn(f"preprocessing of the published weights: {text}", stacklevel=2)


def transformers_library() -> Any:
    """The library; ImportError if it is not installed."""
    try:
        import transformers
    except ImportError:
        raise ImportError(
            "Hugging Face networks need transformers, which is not installed: pip install transformers (or fastcam[hf])"
        ) from None
    return transformers


def _config(folder: Path, num_classes: int | None = None, *, texts: bool = False) -> Any:
    """The configuration of a network that classifies pictures, or with `texts` compares them with texts."""
    read_json(folder / "config.json")
    transformers = transformers_library()
    try:
        config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers checks values in many ways
        raise ValueError(
            f"{folder / 'config.json'} is of no network that transformers has, and no code is run: {first(error)}"
        ) from None
    if texts:
        kind = transformers.AutoModel._model_mapping.get(type(config), None)
        if not (hasattr(kind, "get_text_features") and hasattr(kind, "get_image_features")):
            raise ValueError(
                f"{folder / 'config.json'} is of {config.model_type}, which does not compare pictures with texts"
            )
        return config
    if type(config) not in transformers.AutoModelForImageClassification._model_mapping:
        raise ValueError(
            f"{folder / 'config.json'} is of {config.model_type}, for which transformers has no classifier of pictures"
        )
    if num_classes is not None and num_classes != config.num_labels:
        config.num_labels = num_classes
    return config


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file of configuration; FileNotFoundError, or ValueError: it holds something else."""
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}: hf:PATH is a folder with config.json and model.safetensors")
    if path.stat().st_size > _MOST_JSON:
        raise ValueError(f"{path} is no configuration: it has {path.stat().st_size} bytes")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(found).__name__}")
    return found


def _built(config: Any, *, texts: bool = False) -> nn.Module:
    return _networks(texts).from_config(config, trust_remote_code=False).float()


def _networks(texts: bool) -> Any:
    """Those that classify pictures, or all."""
    library = transformers_library()
    return library.AutoModel if texts else library.AutoModelForImageClassification


def _check_size(config: Any, numbers: int, where: str, *, texts: bool = False) -> None:
    """Refuse a network of more parameters than there are, before it takes memory."""
    layers = []
    for part in (config, getattr(config, "vision_config", None), getattr(config, "text_config", None)):
        depths = getattr(part, "depths", 0)
        layers += [getattr(part, "num_hidden_layers", 0), sum(depths) if isinstance(depths, list | tuple) else depths]
    if any(isinstance(count, int) and count > numbers for count in layers):
        raise ValueError(f"{where} has weights of {numbers} numbers, its configuration asks for {max(layers)} layers")
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in _built(config, texts=texts).parameters())
    if wanted > numbers:
        raise ValueError(
            f"{where} has weights of {numbers} numbers, its configuration {wanted}: is its classifier not among them?"
        )


def _numbers(folder: Path) -> int:
    """How many numbers a folder's weights have, by the headers of its files."""
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if not (folder / names[0]).is_file() and index.is_file():
        files = read_json(index).get("weight_map")
        names = sorted({str(one) for one in files.values()}) if isinstance(files, dict) else []
        if wrong := [name for name in names if Path(name).name != name]:
            raise ValueError(f"{index}: {wrong[0]!r} is no file of the folder")
    total = 0
    for path in map(folder.joinpath, names):
        if not path.is_file():
            raise FileNotFoundError(f"there are no weights {path}: a Hugging Face folder has them as safetensors")
        total += count_numbers(path)
    return total


def count_numbers(path: Path) -> int:
    """How many numbers a file of safetensors has, by its header."""
    return sum(math.prod(shape) for shape in shapes_in(path).values())


def shapes_in(path: Path) -> dict[str, list[int]]:
    """The shapes of a file of safetensors by name, by its header."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is no file of safetensors: {error}") from None


def first(error: Exception) -> str:
    """The first line of what an error says."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
