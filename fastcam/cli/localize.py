"""`fastcam localize`."""

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options
from fastcam.cli.export import left_out

# Files that hold, or list, many pictures, and the format that reads them.
_DATA_SETS = {".csv": "list", ".parquet": "list", ".txt": "list", ".json": "coco", ".tar": "webdataset"}


class Engine(StrEnum):
    """Who computes."""

    local = "local"
    torchrun = "torchrun"
    ray = "ray"


class Wanted(StrEnum):
    """Which boxes of a map."""

    largest = "largest"
    all = "all"


class Precision(StrEnum):
    """Of the network."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class Compile(StrEnum):
    """Modes of torch.compile."""

    default = "default"
    reduce_overhead = "reduce-overhead"
    max_autotune = "max-autotune"


@options.plain_errors()
def localize(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Pictures and folders of them; or a data set, with --format.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for boxes.parquet and what goes with it.")],
    weights: options.Weights,
    arch: options.Arch = None,
    size: options.Size = None,
    resize: options.Resize = None,
    mean: options.Mean = None,
    std: options.Std = None,
    class_names: options.ClassNames = None,
    num_classes: options.NumClasses = None,
    target_layer: options.TargetLayer = None,
    method: Annotated[str, typer.Option(help="cam, gradcam, gradcam++, …")] = "cam",
    threshold: Annotated[
        float | None,
        typer.Option(help="Fraction of the map's range above which the box lies [checkpoint's, else 0.2]."),
    ] = None,
    relu: options.Relu = None,
    mode: options.Mode = options.Upsampling.bilinear,
    top_k: Annotated[int, typer.Option(min=1, help="Boxes for this many of the highest classes.")] = 1,
    targets: Annotated[
        str | None,
        typer.Option(help="CSV of image_id,class_id, or label, the data set's: boxes for these classes instead."),
    ] = None,
    boxes: Annotated[Wanted, typer.Option(help="Around the largest component, or all.")] = Wanted.largest,
    min_area: Annotated[
        float, typer.Option(help="--boxes all: fraction of the frame that a component must cover.")
    ] = 0.01,
    maps: Annotated[bool, typer.Option("--maps", help="Keep the coarse maps, float16, in column cam.")] = False,
    to: Annotated[
        list[str] | None, typer.Option(help="Also write coco, csv, voc, yolo, …: what `fastcam export` knows.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Layout of a data set: wsol, cub, coco, list, … [a folder is searched for pictures]."),
    ] = None,
    split: options.Split = None,
    images: options.Images = None,
    batch_size: options.BatchSize = 32,
    backend: options.Backend = options.Implementation.fused,
    device: options.Device = None,
    overlays: Annotated[int, typer.Option(min=0, help="Draw this many of the first pictures.")] = 0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another run in OUT, finished or not, or compute it anew.")
    ] = False,
    precision: Annotated[Precision, typer.Option(help="bfloat16 is for GPUs.")] = Precision.float32,
    compile: Annotated[
        Compile | None, typer.Option(help="Compile the network; reduce-overhead replays CUDA graphs [not compiled].")
    ] = None,
    channels_last: Annotated[
        bool, typer.Option("--channels-last/--channels-first", help="Layout of pictures and weights.")
    ] = True,
    decoder: Annotated[
        str | None,
        typer.Option(
            help="Who decodes JPEGs: opencv or pillow [opencv, if its pixels are right]; nvjpeg does it on the GPU,"
            " with slightly other pixels (not yet tried on one)."
        ),
    ] = None,
    hash_content: Annotated[
        bool, typer.Option("--hash-content", help="Read all files first, to notice any change of them later.")
    ] = False,
    engine: Annotated[
        Engine,
        typer.Option(help="This machine; each rank that torchrun or srun has started; or a Ray cluster."),
    ] = Engine.local,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes of the local engine [1].")] = None,
    address: Annotated[
        str | None, typer.Option(help="Address of the Ray cluster [RAY_ADDRESS, else this machine's, else a new one].")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the network in each process.")] = None,
    shard_size: Annotated[
        int, typer.Option(min=1, help="Pictures that are finished, and can be lost, at once.")
    ] = 1024,
) -> None:
    """Find the objects in pictures and write their boxes to a Parquet table.

    Damaged pictures become rows with the reason; the exit code is 3 then (but torchrun, which takes that for a crash,
    gets 0). The same command in the same folder goes on after whatever stopped it.
    """
    from fastcam import data as datasets, export, localization
    from fastcam._memory import keep_memory
    from fastcam.localization.engines import machines

    keep_memory()

    formats = options.parts(to) or []
    export.check_formats(formats, maps)
    if workers is not None and engine is not Engine.local:
        raise ValueError(f"--workers goes with --engine local, got {engine}")
    if address is not None and engine is not Engine.ray:
        raise ValueError(f"--address goes with --engine ray, got {engine}")
    device = _device(device or options.default_device())
    rank = None
    if engine is Engine.torchrun:
        rank = machines.Rank.here()
        device = rank.device(device)

    model, config = options.load(
        weights, arch, options.given(size, resize, mean, std, class_names, num_classes, threshold)
    )
    export.check_formats(formats, maps, config.num_classes)
    source = paths
    if format or split or images:
        if len(paths) > 1 and (format != "webdataset" or split or images):
            raise ValueError(f"--format, --split and --images are for one data set, got {len(paths)} paths")
        data = paths if len(paths) > 1 else paths[0]
        faults = datasets.Faults()
        # Missing pictures become rows.
        source = datasets.load(data, split, format, images, truth_only=True, bad=faults)
        if faults and targets == "label":
            raise ValueError(faults[0][1])
        if faults:
            what = f"{len(faults)} faults in what the data set tells, not needed here; the first"
            options.say(f"fastcam: {what}: {faults[0][1]}", error=True)
        if targets == "label":
            options.say_of_labels(source, config)
    _check_places(out, formats, [*paths, *([] if images is None else [images])])
    for path in paths if source is paths else ():
        if path.suffix.lower() in _DATA_SETS and path.is_file():
            raise ValueError(f"{path} is no picture; a data set needs --format {_DATA_SETS[path.suffix.lower()]}")
    common = {
        "out": out,
        "config": config,
        "method": method,
        "target_layers": target_layer or None,
        "relu": relu,
        "mode": mode.value,
        "top_k": top_k,
        "targets": targets if targets in (None, "label") else options.read_targets(Path(targets)),
        "batch_size": batch_size,
        "backend": backend.value,
        "overlays": overlays,
        "overwrite": overwrite,
        "maps": maps,
        "boxes": boxes.value,
        "min_area": min_area,
        "precision": precision.value,
        "compile": compile and compile.value,
        "channels_last": channels_last,
        "decoder": decoder,
        "hash_content": hash_content,
        "threads": threads,
        "shard_size": shard_size,
    }
    with options.saying(r"\d+ of \d+ classes asked for"):
        if engine is Engine.local:
            summary = localization.localize(model.to(device), source, workers=workers or 1, **common)
        else:
            summary = machines.localize(model.to(device), source, engine=engine.value, address=address, **common)
    if rank is not None and rank.index > 0:
        return
    print(f"{summary.pictures} pictures, {summary.rows} rows in {summary.path}")
    if summary.empty:
        print(f"fastcam: {summary.empty} rows have no box, since their maps are constant", file=sys.stderr)
    options.say_of_passed(summary.ignored)
    lacking = summary.errors > 0
    for name in formats:
        done = export.export(out, name, overwrite=True)
        print(f"{name}: {done.path}")
        for note in done.notes:
            options.say(f"fastcam: {name}: {note}", error=True)
        if done.left_out:
            options.say(f"fastcam: {name}: {left_out(done)}", error=True)
            lacking = True
    if summary.errors:
        codes = ", ".join(f"{count} {code}" for code, count in sorted(summary.codes.items()))
        print(f"fastcam: {summary.errors} pictures failed ({codes}); column `error` says why", file=sys.stderr)
    if lacking and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise typer.Exit(3)


def _device(name: str) -> str:
    """Refuse what is no device; whether it is there turns out later."""
    import torch

    try:
        torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device must be cpu, cuda or cuda:N, got {name!r}") from None
    return name


def _check_places(out: Path, formats: Sequence[str], sources: Sequence[Path]) -> None:
    """Refuse to write over sources, and over what no run has written."""
    from fastcam import export
    from fastcam.localization import Plan
    from fastcam.runs.folder import RunFolder

    RunFolder(out).refuse_sources(sources)
    try:
        Plan.load(out)
        ours = True
    except (OSError, ValueError):
        ours = False
    given = {parent for path in map(Path.resolve, sources) for parent in (path, *path.parents)}
    for place in (place for name in formats for place in export.places(out, name)):
        if place.resolve() in given:
            raise ValueError(f"{place} is a source, and what --to writes: choose another --out")
        if place.exists() and not ours:
            raise FileExistsError(f"{place} is there, but no run that may have written it: choose another --out")
