"""`fastcam evaluate`."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from fastcam._options import check, option
from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.evaluation.settings import EvaluateSettings


@dataclass(frozen=True)
class EvaluateFlags:
    """What the command line says in other words than the function."""

    percentile: float | None = option(None, "thresholds are relative to this percentile of a map [the protocol's]")
    save_maps: bool = option(False, "keep the coarse maps in maps.parquet")
    map_dtype: Literal["float32", "float16"] = option("float32", "how --save-maps stores them")
    part: str | None = option(None, "do the I-th of N parts of the work only", metavar="I/N")

    def __post_init__(self) -> None:
        check(self)

    def of(self, settings: EvaluateSettings, merge: list[Path]) -> EvaluateSettings:
        """Put it into the settings."""
        from fastcam.evaluation import PROTOCOLS

        rule = PROTOCOLS.get(str(settings.protocol))  # what is none is refused with the other options
        if self.percentile is not None and settings.protocol == "wsss":
            raise ValueError("--percentile: in protocol wsss levels are relative to the maximum of each map")
        if rule is not None and self.percentile is not None:
            rule = rule._replace(percentile=self.percentile)
        return replace(
            settings,
            protocol=rule or settings.protocol,
            save_maps=self.map_dtype if self.save_maps else None,
            part=None if self.part is None else _share(self.part),
            merge=merge,
        )


@plain_errors()
@generated
def evaluate(
    data: options.DataSet,
    out: Annotated[Path, typer.Option(help="Folder for metrics.json, pictures.parquet, plots and gallery.")],
    network: options.NetworkOptions,
    settings: EvaluateSettings,
    flags: EvaluateFlags,
    split: options.Split = None,
    format: options.Format = None,
    images: options.Images = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            help="Measure these: a folder of IMAGE_ID.npy, or maps.parquet of --save-maps; for --protocol wsss a run "
            "of localize --maps, or a folder of .npz or labels as PNGs."
        ),
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="Measure these: boxes.parquet of `fastcam localize`.")] = None,
    weights: Annotated[
        Path | None,
        typer.Option(help="Measure maps of this network: a checkpoint, or weights (.safetensors, .pt) for --arch."),
    ] = None,
    arch: options.Arch = None,
    truth: Annotated[
        Path | None,
        typer.Option(help="--protocol wsss: folder of class PNGs [the data set's own, SegmentationClass of VOC]."),
    ] = None,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Folders of all parts, one option each: put them together.")
    ] = None,
    device: options.Device = None,
) -> None:
    """Measure how well maps or boxes find objects: MaxBoxAcc, PxAP, Top-k Loc and more, with plots and a gallery.

    Maps come from a network (--weights), or from --maps; boxes from --boxes. --protocol wsss measures pseudo-labels of
    segmentation instead: mIoU, precision and recall of each class at all levels of the background. With --skip-bad, the
    exit code is 3 if there was something bad.
    """
    from fastcam import data as datasets
    from fastcam.evaluation.evaluate import evaluate

    begin = time.perf_counter()
    model = config = None
    loads = weights is not None or (arch or "").startswith(("hf:", "open_clip:"))  # folders have their own
    if loads:
        model, config = network.load(weights, arch)
        model = model.to(device or options.default_device())
    elif arch or network.given:
        options_of = "--arch, --size, --mean, --std, --class-names, --num-classes, --prompts and --output"
        raise ValueError(f"{options_of} are for --weights")
    problems: list[tuple[str, str]] = []
    settings = replace(flags.of(settings, merge or []), truth=truth)
    bad = problems if settings.skip_bad else None
    loaded = datasets.load(data, split, format, images, truth_only=not loads, bad=bad)
    options.say_of_passed(getattr(loaded, "ignored", {}), pictures=True)
    if config is not None and settings.targets == "label":
        options.say_of_labels(loaded, config)
    summary = evaluate(
        loaded, out=out, maps=maps, boxes=boxes, model=model, config=config, settings=settings, problems=problems
    )
    for line in summary.table:
        print(line)
    done = f"{summary.pictures} pictures in {time.perf_counter() - begin:.1f} s"
    what = "cases" if settings.protocol == "wsss" else "gallery"
    whole = f"metrics.json, plots and {what} are in {out}"
    print(f"{done}; part {flags.part} is in {out}" if flags.part else f"{done}; {whole}")
    for id, reason in [*summary.bad, *summary.missed]:
        say(f"fastcam: {id}: {reason}", error=True)
    if summary.bad or summary.missed:
        raise typer.Exit(SOME_FAILED)


def _share(text: str) -> tuple[int, int]:
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal()):
        raise ValueError(f"--part must be I/N, such as 1/2; got {text!r}")
    return int(index), int(count)
