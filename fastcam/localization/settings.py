"""What decides about rows, as JSON."""

from collections.abc import Mapping
from importlib import metadata
from typing import Any

import cv2
import PIL
import torch
from torch import nn

from fastcam import methods
from fastcam._version import __version__
from fastcam.localization.inputs import Targets
from fastcam.models import ModelConfig
from fastcam.models.digest import digest
from fastcam.pictures import Preprocess, choose_decoder, gpu


def settings_of(
    model: nn.Module,
    config: ModelConfig | None,
    *,
    method: str = "cam",
    target_layers: Any = None,
    threshold: float | None = None,
    relu: bool | None = None,
    mode: str = "bilinear",
    top_k: int = 1,
    targets: Targets = None,
    batch_size: int = 32,
    backend: str = "fused",
    overlays: int = 0,
    maps: bool = False,
    boxes: str = "largest",
    min_area: float = 0.01,
    precision: str = "float32",
    channels_last: bool = True,
    compile: str | None = None,
    decoder: str | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Check the options of a run and put them down.

    Args:
        model: the network; a digest of its weights and its printed form stand for it.
        config: as for `fastcam.localization.localize`, as all that follow.
        method: likewise.
        target_layers: likewise.
        threshold: likewise.
        relu: likewise.
        mode: likewise.
        top_k: likewise; None in the settings if classes are given.
        targets: likewise.
        batch_size: likewise.
        backend: likewise.
        overlays: likewise.
        maps: likewise.
        boxes: likewise.
        min_area: likewise.
        precision: likewise.
        channels_last: likewise.
        compile: likewise.
        decoder: likewise.
        threads: likewise; None is left to the plan.

    Returns:
        The settings, of JSON's kinds.

    Raises:
        TypeError, ValueError: an option is unknown or out of range.
    """
    least = {"top_k": (top_k, 1), "batch_size": (batch_size, 1), "overlays": (overlays, 0)}
    if threads is not None:
        least["threads"] = threads, 1
    for name, (number, smallest) in least.items():
        if not isinstance(number, int) or isinstance(number, bool) or number < smallest:
            raise ValueError(f"`{name}` must be a whole number of at least {smallest}, got {number!r}")
    for name, value, known in (
        ("boxes", boxes, ("largest", "all")),
        ("precision", precision, ("float32", "bfloat16")),
        ("compile", compile, (None, "default", "reduce-overhead", "max-autotune")),
    ):
        if value not in known:
            raise ValueError(f"`{name}` must be one of {', '.join(map(str, known))}, got {value!r}")
    if not 0 <= min_area <= 1:
        raise ValueError(f"`min_area` must be a fraction of the frame, in [0, 1], got {min_area!r}")
    if config is not None and top_k > config.num_classes:
        raise ValueError(f"`top_k` must be at most the number of classes, {config.num_classes}, got {top_k}")
    if threshold is None:
        threshold = 0.2 if config is None or config.threshold is None else config.threshold
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` must be at least 0 and less than 1, got {threshold!r}")
    if not (targets is None or targets == "label" or isinstance(targets, Mapping)):
        raise TypeError(f'`targets` must be None, "label" or a mapping from image_id to class, got {targets!r}')
    if method in methods.ATTRIBUTIONS:
        known = ", ".join(methods.METHODS)
        raise ValueError(f"`method` {method} gives no maps that boxes are made of; these do: {known}")
    preprocess = Preprocess.of(config, model)
    # Made once for its checks, and for the names of the layers.
    cam = methods.create(method, model, target_layers=target_layers, relu=relu, mode=mode, backend=backend)
    if maps and len(cam.layers) > 1:
        raise ValueError(f"`maps` are one target layer's, got {', '.join(cam.layers)}")
    like = next(model.parameters(), torch.empty(0))
    if decoder == "nvjpeg":
        gpu.check(like.device)
    else:
        decoder = choose_decoder(decoder)
    return {
        **versions(decoder),
        "arch": None if config is None else config.arch,
        "num_classes": None if config is None else config.num_classes,
        "weights": digest(model),
        **{name: list(value) if isinstance(value, tuple) else value for name, value in vars(preprocess).items()},
        "method": method,
        "target_layers": list(cam.layers),
        "threshold": float(threshold),
        "relu": relu,
        "mode": mode,
        "backend": backend,
        "top_k": None if targets is not None else top_k,
        "batch_size": batch_size,
        "overlays": overlays,
        "maps": bool(maps),
        "boxes": boxes,
        "min_area": float(min_area) if boxes == "all" else None,
        "precision": precision,
        "channels_last": bool(channels_last),
        "compile": compile,
        "decoder": decoder,
        "threads": threads,
        "device": like.device.type,
        "dtype": str(like.dtype).removeprefix("torch."),
    }


def versions(decoder: str) -> dict[str, str]:
    """Name the software that decides about rows.

    Args:
        decoder: of the settings.

    Returns:
        Those of the settings that every machine of a run must have alike.
    """
    decoders = f"opencv {cv2.__version__}, pillow {PIL.__version__}"
    if decoder == "nvjpeg":
        decoders += f", torchvision {metadata.version('torchvision')}"
    return {"version": f"{__version__} (torch {torch.__version__})", "decoders": decoders}
