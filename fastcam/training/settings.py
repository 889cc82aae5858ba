"""What can be chosen of a training: one record, presets, and its TOML file.

Signature, documentation and checks of `train`, and the command's flags, are made of it.
"""

import dataclasses
import json
import math
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fastcam._check import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_channels,
    check_normalization,
    for_channels,
    scale_of,
    suggest,
)
from fastcam._files import replacing
from fastcam._options import check, option, plain


@dataclass(frozen=True)
class Settings:
    """All that determines a training, and how it is run; what each field does is beside it.

    Raises:
        ValueError: a value of the wrong kind or out of range, or a combination that cannot be.
    """

    data: str | None = option(
        None,
        'folder or file of a data set in any known layout, see `fastcam.data.load`, or "shapes" for drawn data; none '
        "where data sets are handed over",
    )
    test_data: str | None = option(None, "another data set to test on")
    format: str | None = option(None, "format of both data sets [recognised]")
    images: str | None = option(None, "folder of their pictures, where it is another")
    train_split: str | None = option(
        None, "split to train on; by default train, or all of the data set where there is `test_data`"
    )
    test_split: str | None = option(
        None, "split to test on; by default val, for which test stands in, or all of `test_data`"
    )
    arch: str = option(
        "resnet18",
        "network that `fastcam.models.build` knows: torchvision's, or with -gap, -gmp, -tap; timm:NAME; hf:PATH",
    )
    weights: str | None = option(
        None,
        "file of weights to start from, see `fastcam.models.start_from`; for hf:PATH also the folder PATH [random]",
    )
    output_stride: int | None = option(None, "16 or 8 for a finer map, ResNets only")
    freeze: Literal["none", "features"] = option(
        "none",
        "features trains the classifier and layers that `weights` did not give, all others stay as they are and in "
        "evaluation mode, running statistics included; none trains all",
    )
    freeze_layers: tuple[str, ...] = option(
        (),
        "names of layers that stay as they are, with all in them, and in evaluation mode, such as conv1,bn1,layer1",
        metavar="NAME,NAME,…",
    )
    freeze_bn: bool = option(
        False, "BatchNorm layers keep their statistics and parameters", flags="--freeze-bn/--no-freeze-bn"
    )
    freeze_statistics: bool = option(
        False,
        "BatchNorm layers keep their statistics and normalise by them, while their parameters learn",
        flags="--freeze-statistics/--no-freeze-statistics",
    )
    size: int = option(224, "side of the network's square input in pixels", least=1)
    resize: Literal["squash", "crop"] = option(
        "squash",
        "squash resizes to size x size; crop the shorter side to size·256/224, the centre is tested on",
    )
    mean: tuple[float, ...] = option(
        IMAGENET_MEAN,
        "subtracted from each of R, G, B in 0..1: one number or one for each channel. Where it is not given, that of "
        "`weights` is taken: a checkpoint's own, or what the published weights of the network want; else ImageNet's",
    )
    std: tuple[float, ...] = option(
        IMAGENET_STD, "divides each of R, G, B after the subtraction; taken from `weights` as the mean is"
    )
    channels: int | None = option(
        None,
        "of the network's input: 1 for grey pictures, 3 for colours, others for channels as they are stored; a first "
        "convolution that `weights` have for others is made one for these [those of a checkpoint, else 3]",
        least=1,
    )
    scale: str | tuple[float, float] | None = option(
        None,
        "how samples of more than 8 bits become 0..1: dtype, by the range of their type; minmax, by that of each "
        "picture; the value that becomes 1, such as 4095, or those that become 0 and 1, such as -1000,400. It is kept "
        "in the checkpoint [a checkpoint's, else what 8 bits keep of 16]",
        metavar="dtype|minmax|NUMBERS",
    )
    crop: Literal["none", "padded", "random", "scaled"] = option(
        "none",
        "what is trained on: none, the frame as it is tested on; padded, a random size x size part of it with "
        "`padding` black pixels on each side; random, a random part of the picture resized to size·256/224; scaled, a "
        "random size x size part of the picture in a random scale, see `long_side`, or all of it at a random place "
        "where it is smaller, with `mean` around it",
    )
    padding: int = option(4, "pixels around, for padded", least=0)
    long_side: tuple[int, int] = option(
        (320, 640),
        "for scaled: the smallest and the largest length in pixels that the longer side of a picture is given",
        least=1,
    )
    flip: bool = option(True, "mirror every other picture, at random")
    epochs: int = option(10, "passes over the training pictures", least=1)
    steps: int | None = option(
        None, "length in optimizer steps, in place of epochs; milestones and warm-up count in steps then", least=1
    )
    batch_size: int = option(32, "pictures in a step, of all processes together", least=2)
    accumulate: int = option(
        1,
        "parts that each process takes its share of a batch in, one after another: less memory, the same gradient. "
        "BatchNorm sees each part alone",
        least=1,
    )
    optimizer: Literal["adamw", "sgd"] = option("adamw", "what takes the steps")
    lr: float | None = option(
        None, "learning rate, the highest of the schedule [1e-3 from random weights, 1e-4 from given ones]"
    )
    momentum: float = option(0.9, "of SGD", least=0, below=1)
    nesterov: bool = option(False, "Nesterov's momentum, of SGD", flags="--nesterov/--no-nesterov")
    weight_decay: float = option(0.05, "of all parameters", least=0)
    new_lr: float = option(1.0, "factor on the learning rate of parameters that `weights` did not give")
    conv_gradients: float = option(1.0, "factor on the gradients of those convolutions that `weights` gave", least=0)
    schedule: Literal["onecycle", "cosine", "poly", "multistep", "constant"] = option(
        "onecycle",
        "of the learning rate: onecycle (a tenth of the steps up, then down to nothing, the momentum against it), "
        "cosine to zero, poly, (1 - step/steps) to the `power`, multistep or constant",
    )
    power: float = option(0.9, "of poly")
    warmup: float = option(
        0.0, "epochs of linear rise before, or rather over, cosine, poly, multistep and constant", least=0
    )
    milestones: tuple[int, ...] = option((), "epochs at which multistep multiplies by `gamma`")
    gamma: float = option(0.1, "factor at each milestone")
    loss: Literal["cross-entropy", "bce", "multilabel-soft-margin"] = option(
        "cross-entropy",
        "what the steps lessen: cross-entropy, for one class a picture, or for several classes a picture bce or "
        "multilabel-soft-margin, as torch defines them, the mean over all classes; without weights these two are equal",
    )
    class_weights: str | tuple[float, ...] | None = option(
        None,
        "none, balanced, a number for each class or a file of them, a line with a class's name, a comma and the number "
        "for each; bce multiplies what pictures add that have the class (pos_weight), cross-entropy that of pictures "
        "labelled so, multilabel-soft-margin all of the class. Balanced is, of N training pictures of which n have the "
        "class, (N - n)/n for bce, and for the others the mean n of all classes, divided by n",
        metavar="balanced|NUMBERS|FILE",
    )
    label_smoothing: float = option(
        0.0, "share of the target spread over all classes, in [0, 1); of cross-entropy", least=0, below=1
    )
    ema: float | None = option(
        None,
        "decay per step of an exponential moving average of the weights, e.g. 0.999, which is tested and saved [none]",
        least=0,
        below=1,
    )
    seed: int = option(0, "of the weights, the order of the pictures, augmentation and dropout", least=0, below=2**63)
    precision: Literal["fp32", "bf16", "fp16"] = option(
        "fp32", "of the forward pass: fp32, bf16, or fp16 with scaled gradients on CUDA devices"
    )
    channels_last: bool = option(True, "memory format of the convolutions")
    compile: bool = option(
        False, "let `torch.compile` make the training step's network", flags="--compile/--no-compile"
    )
    best_by: str | None = option(
        None,
        "the figure whose best epoch is best.safetensors: test_accuracy, or with a loss for several classes a picture "
        "test_mAP or test_exact_match, test_loss, or one of the callback's, such as MaxBoxAcc with --localization "
        "[test_accuracy, or test_mAP]",
    )
    checkpoint_every: int | None = option(
        None, "steps between checkpoints within an epoch [one after each epoch]", least=1
    )
    workers: int | None = option(None, "threads or processes that decode pictures [the processors, at most 8]", least=1)
    worker_kind: Literal["thread", "process"] = option(
        "thread", "thread, or process for more than some thousand pictures a second"
    )
    cache: bool = option(
        False, "keep decoded and resized pictures in memory; needs threads", flags="--cache/--no-cache"
    )
    tensorboard: bool = option(False, "write the figures for TensorBoard, too", flags="--tensorboard/--no-tensorboard")

    def __post_init__(self) -> None:
        object.__setattr__(self, "class_weights", _weights(self.class_weights))
        object.__setattr__(self, "scale", scale_of(self.scale))
        check(self)
        check_channels(self.channels)
        for name in ("mean", "std"):
            object.__setattr__(self, name, for_channels(name, getattr(self, name), self.channels or 3))
        for name in ("lr", "gamma", "new_lr", "power"):
            if getattr(self, name) is not None and getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be a positive number, got {getattr(self, name)!r}")
        if min(self.std) <= 0:
            raise ValueError(f"`std` must be positive numbers, got {self.std!r}")
        check_normalization(self.mean, self.std, self.channels or 3)
        for wrong, reason in (
            (self.freeze == "features" and self.weights is None, '`freeze="features"` needs `weights` to keep'),
            (self.schedule == "multistep" and not self.milestones, '`schedule="multistep"` needs `milestones`'),
            (list(self.milestones) != sorted(self.milestones), "`milestones` must ascend"),
            (self.nesterov and not self.momentum, "`nesterov` needs `momentum`"),
            (self.long_side[0] > self.long_side[1], "`long_side` must be the smallest and the largest length"),
            (
                self.multi_label and self.label_smoothing > 0,
                '`label_smoothing` is for `loss="cross-entropy"`, whose target is one class',
            ),
            (
                isinstance(self.class_weights, tuple) and not all(weight > 0 for weight in self.class_weights),
                f"`class_weights` must be positive numbers, got {self.class_weights!r}",
            ),
            (self.cache and self.worker_kind == "process", '`cache` needs `worker_kind="thread"`'),
        ):
            if wrong:
                raise ValueError(reason)

    @property
    def multi_label(self) -> bool:
        """Whether the loss takes pictures of several classes, or of none."""
        return self.loss != "cross-entropy"

    @property
    def share(self) -> str:
        """What the share of right answers is called: pictures right in their class, or in all classes."""
        return "exact_match" if self.multi_label else "accuracy"

    @classmethod
    def of(cls, base: "Settings | str | None", values: Mapping[str, Any]) -> "Settings":
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
            drawn = values.get("data") == "shapes" and values.get("format") in (None, "shapes")
            base = PRESETS["shapes"] if drawn else cls()
        elif isinstance(base, str):
            if base not in PRESETS:
                raise ValueError(f"no preset {base!r}; there are {', '.join(PRESETS)}")
            base = PRESETS[base]
        known = {field.name for field in dataclasses.fields(cls)}
        given = plain(values)
        for name, value in given.items():
            if name not in known:
                raise ValueError(f"no setting {name!r}{suggest(name, sorted(known))}")
            if name in ("mean", "std") and isinstance(value, int | float):
                given[name] = (value,)
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


def _weights(given: object) -> str | tuple[float, ...] | None:
    """Class weights, which a command line may give as text, too: numbers with commas between, or a word or path."""
    if given is None or given == "none":
        return None
    try:
        weights = tuple(map(float, given.split(",") if isinstance(given, str) else given))  # type: ignore[call-overload]
    except (TypeError, ValueError):
        if isinstance(given, str) and given:
            return given
        weights = ()
    if not weights or not all(map(math.isfinite, weights)):
        raise ValueError(f"`class_weights` must be balanced, a number for each class or a file, got {given!r}")
    return weights


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
    from fastcam.data.names import read_text

    text = read_text(Path(path))
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{path} is not a TOML file: {error}") from None


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
        "stl10-blog": dataclasses.replace(seeds, size=128, mean=(0.0,) * 3, std=(1.0,) * 3),  # pixels as they are
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
        # The classifier that weakly supervised segmentation starts from: Ahn, Cho and Kwak, Weakly Supervised Learning
        # of Instance Segmentation with Inter-pixel Relations (IRN), CVPR 2019, as their code trains it
        # (github.com/jiwoon-ahn/irn: run_sample.py, step/train_cam.py, net/resnet50_cam.py, misc/torchutils.py,
        # voc12/dataloader.py). As published: ResNet50 from ImageNet's weights with output stride 16 and no dilation,
        # all up to layer2 frozen, fixed statistics of BatchNorm, multi-label soft margin loss, learning rate 0.1, ten
        # times that for the new classifier, SGD, decay 1e-4, (1 - step/steps)^0.9, batches of 16, 5 epochs, the longer
        # side 320 to 640 pixels at random, mirrored at random, a crop of 512. The momentum of 1e-4 is theirs, too: the
        # optimizer hands its weight decay to SGD in the place of the momentum. What differs: pictures are resized
        # bilinearly, not bicubically; the colour around small ones is rounded to 8 bits; the classifier has a bias; a
        # last batch that is not full counts; pictures to test on are squashed to 512x512 instead of cut; and ImageNet's
        # weights are for the user to give (`weights`).
        "voc-wsss": Settings(
            arch="resnet50",
            output_stride=16,
            freeze_layers=("conv1", "bn1", "layer1", "layer2"),
            freeze_statistics=True,
            size=512,
            crop="scaled",
            long_side=(320, 640),
            epochs=5,
            batch_size=16,
            optimizer="sgd",
            lr=0.1,
            new_lr=10.0,
            momentum=1e-4,
            weight_decay=1e-4,
            schedule="poly",
            power=0.9,
            loss="multilabel-soft-margin",
        ),
        # The drawn shapes, as `fastcam demo` trains on them. Contiguous tensors are faster where maps are as small.
        "shapes": Settings(output_stride=16, size=64, epochs=4, batch_size=16, channels_last=False),
    }


PRESETS = _presets()
