"""The command line: `fastcam info`, `demo`, `train`, `localize`, `explain`, `bench`.

Exit codes: 0 all well, 1 failed, 2 wrong usage or input, 3 finished, but some inputs failed.
"""

import csv
import dataclasses
import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from importlib import metadata
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastcam._version import __version__

if TYPE_CHECKING:
    from torch import nn

    from fastcam.models import ModelConfig

# Commands import torch and what needs it only when they run, so that `fastcam --help` answers at once.
app = typer.Typer(
    name="fastcam",
    help="Class activation maps and the boxes in them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class Resize(StrEnum):
    """How a picture becomes a square."""

    squash = "squash"
    crop = "crop"


class Mode(StrEnum):
    """How a map is upsampled."""

    bilinear = "bilinear"
    bicubic = "bicubic"


class Fuse(StrEnum):
    """How the maps of several layers become one."""

    mean = "mean"
    max = "max"


class Backend(StrEnum):
    """Which implementation of the operators runs."""

    fused = "fused"
    reference = "reference"


def main() -> None:
    """Run the command line."""
    app()


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Turn errors into one line and an exit code, all but those that only a bug can raise."""
    try:
        yield
    except (typer.Exit, typer.Abort):  # RuntimeErrors, both
        raise
    except (ValueError, FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        code, caught = 2, error
    except (OSError, RuntimeError, ArithmeticError, ImportError, KeyboardInterrupt) as error:
        code, caught = 1, error
    else:
        return
    what = "interrupted" if isinstance(caught, KeyboardInterrupt) else str(caught) or type(caught).__name__
    notes = [f"({note})" for note in getattr(caught, "__notes__", ())]
    print("fastcam:", " ".join(" ".join([what, *notes]).split()), file=sys.stderr)
    raise typer.Exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastcam {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@_plain_errors()
def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show versions, devices, what was built and which SIMD path runs."""
    import torch

    packages = ("torch", "torchvision", "numpy", "opencv-python-headless", "pillow", "pyarrow")
    facts: dict[str, Any] = {
        "fastcam": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in packages:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = None
    facts["cpu_threads"] = torch.get_num_threads()
    facts["cuda_devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    try:
        from fastcam import ops

        facts |= ops.build_info()
    except ImportError as error:  # what is wrong is what this command is asked for
        facts["extension"] = str(error)
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:<24}{'none' if shown in (None, '') else shown}")


@app.command()
@_plain_errors()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("fastcam-demo"),
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
) -> None:
    """Draw a data set, train on its labels alone, localize, and report how well the boxes fit."""
    from fastcam import demo

    demo.run(out, seed=seed)


@app.command()
@_plain_errors()
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
    device: Annotated[str | None, typer.Option(help="Where to run [cuda if there is one, else cpu].")] = None,
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
        device=device or _default_device(),
        overwrite=overwrite,
    )
    best = max(entry["test_accuracy"] for entry in result.history)
    print(f"test accuracy {best:.2%} in {result.best}, training graph in {result.curve}")


@app.command()
@_plain_errors()
def localize(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH", help="Pictures, and folders of pictures.")],
    out: Annotated[Path, typer.Option(help="Folder for boxes.parquet and the overlays.")],
    weights: Annotated[
        Path, typer.Option(help="Checkpoint of `fastcam train`, or weights (.safetensors, .pt) for --arch.")
    ],
    arch: Annotated[
        str | None, typer.Option(help="torchvision's name of the network; a checkpoint knows its own.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the network's square input in pixels [224].")] = None,
    resize: Annotated[Resize | None, typer.Option(help="Squash the picture, or crop its centre [squash].")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of RGB in 0..1: one number or three, a,b,c [ImageNet's].")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation, likewise [ImageNet's].")] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file with one class name per line.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Number of classes [of names, else 1000].")] = None,
    target_layer: Annotated[list[str] | None, typer.Option(help="Layer to take maps from, by dotted name.")] = None,
    method: Annotated[str, typer.Option(help="cam, gradcam, gradcam++, …")] = "cam",
    threshold: Annotated[
        float | None,
        typer.Option(help="Fraction of the map's range above which the box lies [checkpoint's, else 0.2]."),
    ] = None,
    relu: Annotated[
        bool | None, typer.Option("--relu/--no-relu", help="Clip the map at zero [as the method has it].")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Upsampling of the map.")] = Mode.bilinear,
    top_k: Annotated[int, typer.Option(min=1, help="Boxes for this many of the highest classes.")] = 1,
    targets: Annotated[
        Path | None, typer.Option(help="CSV of image_id,class_id: boxes for these classes, not for the highest.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")] = 32,
    backend: Annotated[Backend, typer.Option(help="Own kernels, or plain PyTorch.")] = Backend.fused,
    device: Annotated[str | None, typer.Option(help="Where to run [cuda if there is one, else cpu].")] = None,
    overlays: Annotated[int, typer.Option(min=0, help="Draw this many of the first pictures.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing boxes.parquet.")] = False,
) -> None:
    """Find the objects in pictures and write their boxes to a Parquet table.

    Damaged pictures become rows with the reason; the exit code is 3 then.
    """
    from fastcam import localization

    model, config = _load(weights, arch, _given(size, resize, mean, std, class_names, num_classes, threshold))
    summary = localization.localize(
        model.to(device or _default_device()),
        paths,
        out=out,
        config=config,
        method=method,
        target_layers=target_layer or None,
        relu=relu,
        mode=mode.value,
        top_k=top_k,
        targets=None if targets is None else _targets(targets),
        batch_size=batch_size,
        backend=backend.value,
        overlays=overlays,
        overwrite=overwrite,
    )
    print(f"{summary.pictures} pictures, {summary.rows} rows in {summary.path}")
    if summary.errors:
        print(f"fastcam: {summary.errors} pictures failed; column `error` says why", file=sys.stderr)
        raise typer.Exit(3)


@app.command()
@_plain_errors()
def explain(
    paths: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures, and folders of pictures.")],
    out: Annotated[Path, typer.Option(help="Folder for the figures.")],
    weights: Annotated[
        Path, typer.Option(help="Checkpoint of `fastcam train`, or weights (.safetensors, .pt) for --arch.")
    ],
    arch: Annotated[
        str | None, typer.Option(help="torchvision's name of the network; a checkpoint knows its own.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Side of the network's square input in pixels [224].")] = None,
    resize: Annotated[Resize | None, typer.Option(help="Squash the picture, or crop its centre [squash].")] = None,
    mean: Annotated[
        str | None, typer.Option(help="Mean of RGB in 0..1: one number or three, a,b,c [ImageNet's].")
    ] = None,
    std: Annotated[str | None, typer.Option(help="Standard deviation, likewise [ImageNet's].")] = None,
    class_names: Annotated[Path | None, typer.Option(help="Text file with one class name per line.")] = None,
    num_classes: Annotated[int | None, typer.Option(min=1, help="Number of classes [of names, else 1000].")] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="One or several: gradcam, layercam, guided-backprop, … [gradcam].")
    ] = None,
    layers: Annotated[
        list[str] | None, typer.Option(help="Layers by dotted name, drawn beside each other [the last stage].")
    ] = None,
    fuse: Annotated[Fuse | None, typer.Option(help="Make one map of all layers.")] = None,
    targets: Annotated[
        str | None, typer.Option(help="Classes by index or name, commas between [the highest of each picture].")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="This many of the highest classes, without --targets.")] = 1,
    smooth: Annotated[list[str] | None, typer.Option(help="aug, eigen or aug,eigen: smoother maps.")] = None,
    grid: Annotated[
        bool, typer.Option("--grid", help="NAME_grid.png: classes in rows, methods and layers in columns [default].")
    ] = False,
    panel: Annotated[
        bool, typer.Option("--panel", help="NAME_panel.png: picture, map, map over picture with boxes.")
    ] = False,
    num_result: Annotated[
        int, typer.Option(min=0, help="imgN, camN and ResultN.png for this many of the first pictures.")
    ] = 0,
    boxes: Annotated[
        list[str] | None,
        typer.Option(help="largest, all, largest,all or none [largest in panels and results, none in grids]."),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(help="Fraction of the map's range above which the largest box lies [checkpoint's, else 0.2]."),
    ] = None,
    component_threshold: Annotated[
        float, typer.Option(help="Fraction of the map's maximum above which the boxes of `all` lie.")
    ] = 0.6,
    blend: Annotated[
        str | None, typer.Option(help="Weights of map and picture [0.7,0.5; for --num-result 0.3,0.5].")
    ] = None,
    relu: Annotated[
        bool | None, typer.Option("--relu/--no-relu", help="Clip the map at zero [as the method has it].")
    ] = None,
    mode: Annotated[Mode, typer.Option(help="Upsampling of the map.")] = Mode.bilinear,
    backend: Annotated[Backend, typer.Option(help="Own kernels, or plain PyTorch.")] = Backend.fused,
    device: Annotated[str | None, typer.Option(help="Where to run [cuda if there is one, else cpu].")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing figures.")] = False,
) -> None:
    """Draw where a network sees classes in pictures, by one or several methods and layers.

    Several values go with commas between or in several options. Damaged pictures are named; the exit code is 3 then.
    """
    from fastcam import explanation

    model, config = _load(weights, arch, _given(size, resize, mean, std, class_names, num_classes, threshold))
    chosen_boxes = _parts(boxes)
    summary = explanation.explain(
        model.to(device or _default_device()),
        paths,
        out=out,
        config=config,
        methods=_parts(method) or ["gradcam"],
        layers=_parts(layers),
        fuse=fuse and fuse.value,
        targets=None if targets is None else _classes(targets, config.class_names),
        top_k=top_k,
        smooth=_parts(smooth) or (),
        grid=grid or not (panel or num_result),
        panel=panel,
        num_results=num_result,
        boxes=[] if chosen_boxes == ["none"] else chosen_boxes,
        component_threshold=component_threshold,
        blend=None if blend is None else _pair("--blend", blend),
        relu=relu,
        mode=mode.value,
        backend=backend.value,
        overwrite=overwrite,
    )
    print(f"{summary.pictures} pictures, {len(summary.files)} files in {out}")
    for id, reason in summary.errors:
        print(f"fastcam: {id}: {reason}", file=sys.stderr)
    if summary.errors:
        raise typer.Exit(3)


@app.command()
@_plain_errors()
def bench(
    threads: Annotated[
        str, typer.Option(help="Compare 1 thread with so many: a number, or all that PyTorch would take.")
    ] = "all",
    images: Annotated[int, typer.Option(min=1, help="Images in one call.")] = 64,
    seconds: Annotated[float, typer.Option(min=0, help="Measure each row for about so long.")] = 2.0,
    quick: Annotated[bool, typer.Option("--quick", help="As few rounds as possible; rough figures.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the table to this Markdown file, too.")] = None,
) -> None:
    """Measure the operators here against what one would write without them, on the GPU too if there is one."""
    if threads != "all" and not (threads.isdecimal() and int(threads) > 0):
        raise ValueError(f"--threads must be a positive number or all, got {threads!r}")
    if out and not out.parent.is_dir():
        raise NotADirectoryError(f"--out: there is no folder {out.parent}")
    import torch

    from fastcam import bench, bench_gpu, ops

    bench.keep_memory()
    tables = bench.table(None if threads == "all" else int(threads), images, seconds, quick)
    if torch.cuda.is_available() and ops.build_info()["cuda_built"]:
        tables = chain(tables, [""], bench_gpu.table(bench_gpu.works(), quick))
    lines = []
    for line in tables:
        print(line, flush=True)
        lines.append(line)
    if out:
        out.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _given(
    size: int | None,
    resize: Resize | None,
    mean: str | None,
    std: str | None,
    class_names: Path | None,
    num_classes: int | None,
    threshold: float | None,
) -> dict[str, Any]:
    """What of the model's configuration the command line says."""
    given = {
        "size": size,
        "resize": resize and resize.value,
        "mean": mean and _triple("--mean", mean),
        "std": std and _triple("--std", std),
        "class_names": class_names and _lines(class_names),
        "num_classes": num_classes,
        "threshold": threshold,
    }
    return {name: value for name, value in given.items() if value is not None}


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _load(weights: Path, arch: str | None, given: dict[str, Any]) -> "tuple[nn.Module, ModelConfig]":
    """Build the network; what is given on the command line overrides what the checkpoint says."""
    from fastcam import models

    config = models.read_config(weights)
    if config is None:
        if arch is None:
            raise ValueError(f"{weights} is no checkpoint of fastcam, so --arch must name its network")
        config = models.ModelConfig(
            arch, given.pop("num_classes", None) or len(given.get("class_names", ())) or 1000, **given
        )
        model = models.build(arch, config.num_classes)
        models.load_weights(model, weights)
        return model.eval(), config
    for name, value in (("arch", arch), ("num_classes", given.get("num_classes"))):
        if value not in (None, getattr(config, name)):
            raise ValueError(f"the checkpoint {weights} has {name} {getattr(config, name)}, got {value}")
    model, config = models.load_checkpoint(weights)
    return model, dataclasses.replace(config, **given)


def _triple(option: str, text: str) -> tuple[float, float, float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in (1, 3):
        raise ValueError(
            f"{option} must be one number or three with commas between, such as 0.5 or 0.4,0.5,0.6; got {text!r}"
        )
    return tuple(values * 3)[:3]


def _pair(option: str, text: str) -> tuple[float, float]:
    try:
        first, second = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{option} must be two numbers with a comma between, such as 0.7,0.5; got {text!r}") from None
    return first, second


def _parts(values: list[str] | None) -> list[str] | None:
    """Join what several options and commas list."""
    return [part.strip() for value in values for part in value.split(",") if part.strip()] if values else None


def _classes(text: str, names: tuple[str, ...]) -> list[int]:
    """Turn indices and names of classes into indices; "tabby" stands for "tabby, tabby cat"."""
    known = {name.split(",")[0].strip().lower(): index for index, name in reversed(list(enumerate(names)))}
    classes = []
    for part in (part.strip() for part in text.split(",")):
        if not part.isdecimal() and part.lower() not in known:
            from fastcam.models import suggest

            hint = suggest(part.lower(), list(known)) if names else "; names need --class-names or a checkpoint"
            raise ValueError(f"--targets: no class {part!r}{hint}")
        classes.append(int(part) if part.isdecimal() else known[part.lower()])
    return classes


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").splitlines())


def _targets(path: Path) -> dict[str, int]:
    classes: dict[str, int] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.reader(file):
            if line == ["image_id", "class_id"] or not line:
                continue
            try:
                image_id, class_id = line
                value = int(class_id)
            except ValueError:
                raise ValueError(f"{path}: expected lines `image_id,class_id`, got {','.join(line)!r}") from None
            if classes.setdefault(image_id, value) != value:
                raise ValueError(f"{path}: two classes for {image_id!r}, {classes[image_id]} and {value}")
    return classes
