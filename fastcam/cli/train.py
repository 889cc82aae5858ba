"""`fastcam train`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastcam.cli import options
from fastcam.cli.errors import plain_errors

if TYPE_CHECKING:
    from fastcam.training import TrainingResult


@plain_errors()
def train(
    source: Annotated[
        str | None, typer.Argument(metavar="[DATA]", help="Data set, as --data.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option(help='Folder or file of a data set in any known layout, or "shapes" for drawn data.')
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints, metrics and training graph [fastcam-train/DATA-ARCH].")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="catdog, stl10, cub-rethinking, imagenet-gap or shapes: settings to start from.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="TOML file of settings, such as an earlier settings.toml; flags go before it.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from OUT's last checkpoint, if it has one.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier training in OUT.")] = False,
    device: options.Device = None,
    localization: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD", help="Measure boxes each epoch, of maps by cam, gradcam, …: MaxBoxAcc and others."
        ),
    ] = None,
    # Settings, all by their names.
    test_data: Annotated[str | None, typer.Option(help="Another data set to test on.")] = None,
    format: Annotated[str | None, typer.Option(help="Format of the data set [recognised].")] = None,
    images: Annotated[str | None, typer.Option(help="Folder of the pictures, where it is another.")] = None,
    train_split: Annotated[str | None, typer.Option(help="Split to train on [train].")] = None,
    test_split: Annotated[str | None, typer.Option(help="Split to test on [val, else test].")] = None,
    arch: Annotated[
        str | None, typer.Option(help="torchvision's network, or with -gap, -gmp, -tap [resnet18].")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="Weights to start from [random].")] = None,
    output_stride: Annotated[int | None, typer.Option(help="16 or 8 for a finer map, ResNets only.")] = None,
    freeze: Annotated[str | None, typer.Option(help="features: train the classifier and new layers [none].")] = None,
    freeze_bn: Annotated[
        bool | None, typer.Option("--freeze-bn/--no-freeze-bn", help="BatchNorm keeps statistics and parameters.")
    ] = None,
    size: Annotated[int | None, typer.Option(help="Side of the network's square input in pixels [224].")] = None,
    resize: Annotated[str | None, typer.Option(help="squash, or crop the centre [squash].")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of RGB in 0..1: one number or a,b,c [the weights', else ImageNet's].")
    ] = None,
    std: Annotated[
        str | None, typer.Option(help="Standard deviation, likewise [the weights', else ImageNet's].")
    ] = None,
    crop: Annotated[str | None, typer.Option(help="Random crops to train on: none, padded or random [none].")] = None,
    padding: Annotated[int | None, typer.Option(help="Pixels around, for padded [4].")] = None,
    flip: Annotated[bool | None, typer.Option("--flip/--no-flip", help="Mirror at random [--flip].")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the data [10].")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Length in steps instead; milestones and warm-up count in steps then.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pictures per step, of all processes together [32].")] = None,
    accumulate: Annotated[int | None, typer.Option(help="Parts a batch is taken in, to save memory [1].")] = None,
    optimizer: Annotated[str | None, typer.Option(help="adamw or sgd [adamw].")] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate [1e-3, with --weights 1e-4].")] = None,
    momentum: Annotated[float | None, typer.Option(help="Of SGD [0.9].")] = None,
    nesterov: Annotated[bool | None, typer.Option("--nesterov/--no-nesterov", help="Nesterov's momentum.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="Of all parameters [0.05].")] = None,
    new_lr: Annotated[float | None, typer.Option(help="Factor on the rate of layers that weights lack [1].")] = None,
    conv_gradients: Annotated[
        float | None, typer.Option(help="Factor on gradients of convolutions that weights gave [1].")
    ] = None,
    schedule: Annotated[str | None, typer.Option(help="onecycle, cosine, multistep or constant [onecycle].")] = None,
    warmup: Annotated[float | None, typer.Option(help="Epochs of linear rise [0].")] = None,
    milestones: Annotated[str | None, typer.Option(help="Epochs at which multistep falls: a,b,c.")] = None,
    gamma: Annotated[float | None, typer.Option(help="Factor at each milestone [0.1].")] = None,
    label_smoothing: Annotated[float | None, typer.Option(help="Share of the target over all classes [0].")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of a moving average of weights, e.g. 0.999 [none].")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same weights [0].")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, bf16, or fp16 on a GPU [fp32].")] = None,
    channels_last: Annotated[
        bool | None, typer.Option("--channels-last/--no-channels-last", help="Memory format [--channels-last].")
    ] = None,
    compile: Annotated[bool | None, typer.Option("--compile/--no-compile", help="Use torch.compile.")] = None,
    best_by: Annotated[
        str | None,
        typer.Option(help="Figure that best.safetensors is best by; MaxBoxAcc with --localization [test_accuracy]."),
    ] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints [an epoch].")] = None,
    workers: Annotated[int | None, typer.Option(help="Threads or processes that decode [processors, to 8].")] = None,
    worker_kind: Annotated[str | None, typer.Option(help="thread or process [thread].")] = None,
    cache: Annotated[bool | None, typer.Option("--cache/--no-cache", help="Keep decoded pictures in memory.")] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard/--no-tensorboard", help="Write TensorBoard scalars.")
    ] = None,
) -> None:
    """Train a network on labelled pictures, from scratch or from weights; under torchrun on several machines."""
    flags = {name: value for name, value in locals().items() if value is not None}
    from fastcam import training

    for name in ("source", "out", "preset", "config", "resume", "overwrite", "device", "localization"):
        flags.pop(name, None)
    for name in ("mean", "std"):
        if name in flags:
            flags[name] = options.triple(f"--{name}", flags[name])
    if milestones is not None:
        flags["milestones"] = _whole_numbers("--milestones", milestones)
    if source is not None:
        if data is not None:
            raise ValueError(f"the data set is told twice, {source!r} and --data {data!r}")
        flags["data"] = source
    values: dict[str, Any] = {} if config is None else training.read_toml(config)
    preset = preset or values.pop("preset", None)
    values |= flags
    if out is None:
        settings = training.Settings.of(preset, values)
        out = Path("fastcam-train", f"{Path(settings.data or 'data').resolve().name}-{settings.arch.replace('/', '-')}")
    callback = None
    if localization is not None:
        from fastcam import evaluation

        callback = evaluation.localizer(localization)
    result = training.train(
        values.pop("data", None),
        preset,
        out=out,
        device=device,
        resume=resume,
        overwrite=overwrite,
        callback=callback,
        **values,
    )
    if int(os.environ.get("RANK", 0)) == 0:
        _report(result)


def _report(result: "TrainingResult") -> None:
    options.say_of_passed(result.ignored, pictures=True)
    best = max(entry["test_accuracy"] for entry in result.history)
    print(f"test accuracy {best:.2%}; {result.best}, {result.last}, training graph {result.curve}")
    total, data, compute, tests = (
        sum(entry[name] for entry in result.history)
        for name in ("seconds", "data_seconds", "compute_seconds", "test_seconds")
    )
    pictures = sum(entry["seconds"] * entry["images_per_second"] for entry in result.history)
    print(
        f"trained {total:.0f} s at {pictures / total:.0f} pictures/s: waiting for pictures {data / total:.1%}, "
        f"computing {compute / total:.1%}, rest {(total - data - compute) / total:.1%}; tested {tests:.0f} s"
    )


def _whole_numbers(option: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be whole numbers with commas, such as 60,120,160; got {text!r}") from None
