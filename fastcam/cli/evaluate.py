"""`fastcam evaluate`."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastcam.cli import options


class Wanted(StrEnum):
    """Which class's map counts."""

    label = "label"
    highest = "highest"


class Stored(StrEnum):
    """How maps are stored."""

    float32 = "float32"
    float16 = "float16"


@options.plain_errors()
def evaluate(
    data: options.DataSet,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json, pictures.parquet, plots and gallery.")],
    split: options.Split = None,
    format: options.Format = None,
    images: options.Images = None,
    maps: Annotated[
        Path | None, typer.Option(help="Measure these: a folder of IMAGE_ID.npy, or maps.parquet of --save-maps.")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="Measure these: boxes.parquet of `fastcam localize`.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Measure maps of this network: a checkpoint, or weights (.safetensors, .pt) for --arch."),
    ] = None,
    arch: options.Arch = None,
    size: options.Size = None,
    mean: options.Mean = None,
    std: options.Std = None,
    class_names: options.ClassNames = None,
    num_classes: options.NumClasses = None,
    method: Annotated[str, typer.Option(help="cam, gradcam, gradcam++, …")] = "cam",
    target_layer: options.TargetLayer = None,
    tap: Annotated[bool, typer.Option("--tap", help="Thresholded average pooling instead of the network's.")] = False,
    clamp: Annotated[bool, typer.Option("--clamp", help="Count negative weights as zero in CAM's maps.")] = False,
    relu: options.Relu = None,
    smooth: Annotated[list[str] | None, typer.Option(help="aug, eigen or aug,eigen: smoother maps.")] = None,
    targets: Annotated[Wanted, typer.Option(help="Map of the true class, or of the highest.")] = Wanted.label,
    protocol: options.Rules = "standard",
    percentile: Annotated[
        float | None, typer.Option(help="Thresholds are relative to this percentile of a map [the protocol's].")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="τ of GT-known and Top-k Loc [the protocol's].")] = None,
    threshold_from: Annotated[
        Path | None, typer.Option(help="metrics.json of another split: take the best thresholds there.")
    ] = None,
    bootstrap: options.Bootstrap = 200,
    cases: Annotated[int, typer.Option(min=0, help="Best, median and worst pictures to show of each.")] = 6,
    save_maps: Annotated[bool, typer.Option("--save-maps", help="Keep the coarse maps in maps.parquet.")] = False,
    map_dtype: Annotated[Stored, typer.Option(help="How --save-maps stores them.")] = Stored.float32,
    skip_bad: options.SkipBad = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that was broken off in OUT.")] = False,
    part: Annotated[str | None, typer.Option(metavar="I/N", help="Do the I-th of N parts of the work only.")] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Folders of all parts, one option each: put them together.")
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Batches between saves for --resume.")] = 100,
    batch_size: options.BatchSize = 32,
    device: options.Device = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Measure how well maps or boxes find objects: MaxBoxAcc, PxAP, Top-k Loc and more, with plots and a gallery.

    Maps come from a network (--weights), or from --maps; boxes from --boxes. With --skip-bad, the exit code is 3 if
    there was something bad.
    """
    from fastcam import data as datasets
    from fastcam.evaluation import PROTOCOLS
    from fastcam.evaluation.evaluate import evaluate

    begin = time.perf_counter()
    chosen = {"method": method, "tap": tap, "clamp": clamp}
    network = {name: value for name, value in chosen.items() if value not in ("cam", False)}
    chosen = {"target_layers": target_layer or None, "relu": relu, "smooth": options.parts(smooth)}
    network |= {name: value for name, value in chosen.items() if value is not None}
    given = options.given(size, None, mean, std, class_names, num_classes, None)
    if weights is not None:
        model, network["config"] = options.load(weights, arch, given)
        network["model"] = model.to(device or options.default_device())
    elif arch or given:
        raise ValueError("--arch, --size, --mean, --std, --class-names and --num-classes are for --weights")
    problems: list[tuple[str, str]] = []
    rule = PROTOCOLS.get(protocol, protocol)
    if percentile is not None and rule is not protocol:
        rule = rule._replace(percentile=percentile)
    bad = problems if skip_bad else None
    loaded = datasets.load(data, split, format, images, truth_only=weights is None, bad=bad)
    options.say_of_passed(getattr(loaded, "ignored", {}), pictures=True)
    if weights is not None and targets is Wanted.label:
        options.say_of_labels(loaded, network["config"])
    summary = evaluate(
        loaded,
        out=out,
        maps=maps,
        boxes=boxes,
        targets=targets.value,
        protocol=rule,
        threshold=threshold,
        threshold_from=threshold_from,
        bootstrap=bootstrap,
        skip_bad=skip_bad,
        problems=problems,
        cases=cases,
        save_maps=map_dtype.value if save_maps else None,
        resume=resume,
        part=None if part is None else _share(part),
        merge=merge or (),
        save_every=save_every,
        batch_size=batch_size,
        overwrite=overwrite,
        **network,
    )
    for line in summary.table:
        print(line)
    done = f"{summary.pictures} pictures in {time.perf_counter() - begin:.1f} s"
    print(f"{done}; part {part} is in {out}" if part else f"{done}; metrics.json, plots and gallery are in {out}")
    for id, reason in [*summary.bad, *summary.missed]:
        options.say(f"fastcam: {id}: {reason}", error=True)
    if summary.bad or summary.missed:
        raise typer.Exit(3)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--part must be I/N, such as 1/2; got {text!r}")
    return int(index), int(count)
