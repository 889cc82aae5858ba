"""What can be chosen of a training: one record, presets, and its TOML file."""

import dataclasses
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from fastcam._files import replacing
from fastcam.data.names import read_text
from fastcam.models import IMAGENET_MEAN, IMAGENET_STD, check_normalization, suggest


@dataclass(frozen=True)
class Settings:
    """All that determines a training, and how it is run.

    Attributes:
        data: name or path of the data set, see `fastcam.data.load`; None where data sets are handed over.
        test_data: that to test on, if it is another.
        format: format of both, where the files do not tell.
        images: folder of their pictures, where that is another.
        train_split: split to train on; by default "train", or all of `data` where there is `test_data`.
        test_split: split to test on; by default "val", for which "test" stands in, or all of `test_data`.
        arch: name of a network that `fastcam.models.build` knows.
        weights: file to start from, see `fastcam.models.start_from`; None starts from random weights.
        output_stride: see `build`; 16 or 8 give ResNets a finer map.
        freeze: "features" trains the classifier and layers that `weights` did not give, all others stay as they are
            and in evaluation mode, running statistics included; "none" trains all.
        freeze_bn: BatchNorm layers keep their statistics and parameters.
        size: side of the network's square input in pixels.
        resize: "squash" resizes to size x size; "crop" the shorter side to size·256/224, the centre is tested on.
        mean: subtracted from each of R, G, B in [0, 1]. Where it is not given to `train`, that of `weights` is taken: a
            checkpoint's own, or what the published weights of the network want.
        std: divides each of R, G, B after the subtraction; likewise.
        crop: what is trained on: "none", the frame as it is tested on; "padded", a random size x size part of it with
            `padding` black pixels on each side; "random", a random part of the picture resized to size·256/224.
        padding: pixels, for "padded".
        flip: mirror every other picture, at random.
        epochs: passes over the training pictures.
        steps: length in optimizer steps, in place of epochs; milestones and warm-up count in steps then.
        batch_size: pictures in a step, of all processes together.
        accumulate: parts that each process takes its share of a batch in, one after another: less memory, the same
            gradient. BatchNorm sees each part alone.
        optimizer: "adamw" or "sgd".
        lr: learning rate, the highest of the schedule; by default 1e-3 from random weights, 1e-4 from given ones.
        momentum: of SGD.
        nesterov: Nesterov's momentum, of SGD.
        weight_decay: of all parameters.
        new_lr: factor on the learning rate of parameters that `weights` did not give.
        conv_gradients: factor on the gradients of those convolutions that `weights` gave.
        schedule: of the learning rate: "onecycle" (a tenth of the steps up, then down to nothing, the momentum against
            it), "cosine" to zero, "multistep" or "constant".
        warmup: epochs of linear rise before, or rather over, "cosine", "multistep" and "constant".
        milestones: epochs at which "multistep" multiplies by `gamma`.
        gamma: that factor.
        label_smoothing: share of the target spread over all classes, in [0, 1).
        ema: decay per step of an exponential moving average of the weights, which is tested and saved; None for none.
        seed: of the weights, the order of the pictures, augmentation and dropout.
        precision: of the forward pass: "fp32", "bf16", or "fp16" with scaled gradients on CUDA devices.
        channels_last: memory format of the convolutions.
        compile: let `torch.compile` make the training step's network.
        best_by: the figure whose best epoch is best.safetensors: test_accuracy, test_loss, or one of the callback's,
            such as MaxBoxAcc.
        checkpoint_every: steps between checkpoints within an epoch; None for one after each epoch.
        workers: threads or processes that decode pictures; by default the processors, at most 8.
        worker_kind: "thread", or "process" for more than some thousand pictures a second.
        cache: keep decoded and resized pictures in memory; needs threads.
        tensorboard: write the figures for TensorBoard, too.

    Raises:
        ValueError: a value of the wrong kind or out of range, or a combination that cannot be.
    """

    data: str | None = None
    test_data: str | None = None
    format: str | None = None
    images: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    arch: str = "resnet18"
    weights: str | None = None
    output_stride: int | None = None
    freeze: Literal["none", "features"] = "none"
    freeze_bn: bool = False
    size: int = 224
    resize: Literal["squash", "crop"] = "squash"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    crop: Literal["none", "padded", "random"] = "none"
    padding: int = 4
    flip: bool = True
    epochs: int = 10
    steps: int | None = None
    batch_size: int = 32
    accumulate: int = 1
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float | None = None
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.05
    new_lr: float = 1.0
    conv_gradients: float = 1.0
    schedule: Literal["onecycle", "cosine", "multistep", "constant"] = "onecycle"
    warmup: float = 0.0
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    label_smoothing: float = 0.0
    ema: float | None = None
    seed: int = 0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = True
    compile: bool = False
    best_by: str = "test_accuracy"
    checkpoint_every: int | None = None
    workers: int | None = None
    worker_kind: Literal["thread", "process"] = "thread"
    cache: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in dataclasses.fields(self):
            value, hint = getattr(self, field.name), hints[field.name]
            kinds = get_args(hint) if NoneType in get_args(hint) else (hint,)
            least, most = _RANGES.get(field.name, (None, None))
            values = value if isinstance(value, tuple) else (value,)
            if not any(_is(value, kind) for kind in kinds) or (
                value is not None
                and ((least is not None and min(values) < least) or (most is not None and max(values) >= most))
            ):
                raise ValueError(f"`{field.name}` must be {_expected(kinds, least, most)}, got {value!r}")
        for name in ("lr", "gamma", "new_lr"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be a positive number, got {getattr(self, name)!r}")
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive numbers, got {self.std!r}")
        check_normalization(self.mean, self.std)
        for wrong, reason in (
            (self.freeze == "features" and self.weights is None, '`freeze="features"` needs `weights` to keep'),
            (self.schedule == "multistep" and not self.milestones, '`schedule="multistep"` needs `milestones`'),
            (list(self.milestones) != sorted(self.milestones), "`milestones` must ascend"),
            (self.nesterov and not self.momentum, "`nesterov` needs `momentum`"),
            (self.cache and self.worker_kind == "process", '`cache` needs `worker_kind="thread"`'),
        ):
            if wrong:
                raise ValueError(reason)

    @classmethod
    def of(cls, base: "Settings | str | None", values: Mapping[str, Any]) -> Self:
        """Make settings of a preset or others and what shall differ.

        Args:
            base: settings, the name of a preset, or None for the defaults; for the drawn shapes, those of the preset
                "shapes".
            values: fields in place of those; lists and paths will do, and one number for `mean` and `std`.

        Returns:
            The settings.

        Raises:
            ValueError: an unknown preset or field (similar names are listed), or a value that a field cannot have.
        """
        if base is None:
            base = PRESETS["shapes"] if values.get("data") == "shapes" else cls()
        elif isinstance(base, str):
            if base not in PRESETS:
                raise ValueError(f"no preset {base!r}; there are {', '.join(PRESETS)}")
            base = PRESETS[base]
        known = {field.name for field in dataclasses.fields(cls)}
        given = {}
        for name, value in values.items():
            if name not in known:
                raise ValueError(f"no setting {name!r}{suggest(name, sorted(known))}")
            if name in ("mean", "std") and isinstance(value, int | float):
                value = (value,) * 3
            elif isinstance(value, list):
                value = tuple(value)
            elif isinstance(value, os.PathLike):
                value = os.fspath(value)
            given[name] = value
        return dataclasses.replace(base, **given)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the settings as TOML; what is None is left out.

        Args:
            path: the file, replaced in one step.

        Raises:
            OSError: it cannot be written.
        """
        fields = dataclasses.asdict(self).items()
        # Strings, numbers, booleans and lists of numbers are written alike in JSON and TOML.
        lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in fields if value is not None]
        with replacing(path) as partial:
            partial.write_text("".join(lines), encoding="utf-8")


def read_toml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read values of settings from a TOML file.

    Args:
        path: the file; beside fields of `Settings` it may name a "preset" to start from.

    Returns:
        The values by name, unchecked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no TOML, or not UTF-8.
    """
    text = read_text(Path(path))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None


_RANGES: dict[str, tuple[float | None, float | None]] = {  # from, and below
    "size": (1, None),
    "padding": (0, None),
    "epochs": (1, None),
    "steps": (1, None),
    "batch_size": (2, None),
    "accumulate": (1, None),
    "momentum": (0, 1),
    "weight_decay": (0, None),
    "conv_gradients": (0, None),
    "warmup": (0, None),
    "label_smoothing": (0, 1),
    "ema": (0, 1),
    "seed": (0, 2**63),
    "checkpoint_every": (1, None),
    "workers": (1, None),
}
_KINDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false", NoneType: "nothing"}


def _is(value: object, kind: Any) -> bool:
    """Whether a value is of a field's kind: a type, a Literal or a tuple of one type."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        fits = isinstance(value, tuple) and (parts[-1] is Ellipsis or len(value) == len(parts))
        return fits and all(_is(item, parts[0]) for item in value)
    if isinstance(value, bool) or kind is bool:
        return kind is bool and isinstance(value, bool)
    return isinstance(value, int | float) and math.isfinite(value) if kind is float else isinstance(value, kind)


def _expected(kinds: tuple[Any, ...], least: float | None, most: float | None) -> str:
    kind = kinds[0]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    if get_origin(kind) is tuple:
        count = "three numbers" if get_args(kind)[-1] is not Ellipsis else "whole numbers"
        return count
    limits = [f"of at least {least}"] * (least is not None) + [f"below {most}"] * (most is not None)
    return " ".join([_KINDS[kind], " and ".join(limits)]).strip()


def _presets() -> dict[str, Settings]:
    seeds = Settings(
        crop="padded",
        mean=(0.4876, 0.4544, 0.4165),
        std=(0.2257, 0.2209, 0.2212),
        epochs=200,
        batch_size=128,
        optimizer="sgd",
        lr=0.1,
        weight_decay=5e-4,
        schedule="multistep",
        milestones=(60, 120, 160),
        gamma=0.2,
    )
    return {
        # ResNet18 from scratch on dogs and cats; its author reports 97.32 % at epoch 145.
        "catdog": seeds,
        "stl10": dataclasses.replace(seeds, size=128, mean=(0.4467, 0.4398, 0.4066), std=(0.2603, 0.2566, 0.2713)),
        # Bae, Noh and Kim, Rethinking CAM, ECCV 2020; --arch resnet50-tap is the other network.
        "cub-rethinking": Settings(
            arch="vgg16-tap",
            resize="crop",
            crop="random",
            epochs=200,
            batch_size=40,
            optimizer="sgd",
            lr=0.003,
            nesterov=True,
            weight_decay=5e-4,
            conv_gradients=0.1,
            schedule="multistep",
            milestones=(60, 120, 180),
        ),
        # Zhou et al., CAM, CVPR 2016: fine-tuning a network that was cut. The batch size is not handed down.
        "imagenet-gap": Settings(
            arch="vgg16-gap",
            crop="random",
            steps=160_000,
            batch_size=256,
            optimizer="sgd",
            lr=0.001,
            weight_decay=5e-4,
            new_lr=10.0,
            schedule="multistep",
            milestones=(40_000, 80_000, 120_000),
        ),
        # The drawn shapes, as `fastcam demo` trains on them.
        "shapes": Settings(output_stride=16, size=64, epochs=5, batch_size=16),
    }


PRESETS = _presets()
