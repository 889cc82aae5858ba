"""`fastcam train`."""

from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options


@options.plain_errors()
def train(
    data: Annotated[
        str,
        typer.Argument(help='Folder of class folders (or of train and val with these), or "shapes" for drawn data.'),
    ],
    out: Annotated[Path, typer.Option(help="Folder for the checkpoints, the metrics and the training graph.")],
    arch: Annotated[str, typer.Option(help="torchvision's name of the network.")] = "resnet18",
    weights: Annotated[Path | None, typer.Option(help="Weights to start from [random].")] = None,
    output_stride: Annotated[int | None, typer.Option(help="16 or 8 for a finer map, ResNets only.")] = None,
    size: Annotated[int, typer.Option(min=1, help="Side of the network's square input in pixels.")] = 224,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = 10,
    batch_size: Annotated[int, typer.Option(min=2, help="Pictures per step.")] = 32,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate [1e-3, with --weights 1e-4].")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same weights.")] = 0,
    device: options.Device = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier training in OUT.")] = False,
) -> None:
    """Train a network on labelled pictures, from scratch or from weights."""
    from fastcam import training

    result = training.train(
        data,
        out=out,
        arch=arch,
        weights=weights,
        output_stride=output_stride,
        size=size,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        device=device or options.default_device(),
        overwrite=overwrite,
    )
    best = max(entry["test_accuracy"] for entry in result.history)
    print(f"test accuracy {best:.2%} in {result.best}, training graph in {result.curve}")
