"""`fastcam localize`."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from fastcam._options import check, option
from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.export import left_out
from fastcam.cli.generate import generated
from fastcam.localization.settings import LocalizeSettings

# Files that hold, or list, many pictures, and the format that reads them.
_DATA_SETS = {".csv": "list", ".parquet": "list", ".txt": "list", ".json": "coco", ".tar": "webdataset"}


@dataclass(frozen=True)
class EngineOptions:
    """Who computes."""

    engine: Literal["local", "torchrun", "ray"] = option(
        "local", "this machine; each rank that torchrun or srun has started; or a Ray cluster"
    )
    workers: int | None = option(None, "processes of the local engine [1]", least=1)
    address: str | None = option(None, "address of the Ray cluster [RAY_ADDRESS, else this machine's, else a new one]")

    def __post_init__(self) -> None:
        check(self)
        if self.workers is not None and self.engine != "local":
            raise ValueError(f"--workers goes with --engine local, got {self.engine}")
        if self.address is not None and self.engine != "ray":
            raise ValueError(f"--address goes with --engine ray, got {self.engine}")


@plain_errors()
@generated
def localize(
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH", help="Pictures and folders of them; or a data set, with --format.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for boxes.parquet and what goes with it.")],
    network: options.FramedNetworkOptions,
    settings: LocalizeSettings,
    engine: EngineOptions,
    weights: options.Weights = None,
    arch: options.Arch = None,
    targets: Annotated[
        str | None,
        typer.Option(
            help="Boxes for given classes instead, one or several a picture: label, the data set's, or a file: CSV of "
            "image_id,class_id, Parquet, or .npy of 0 and 1."
        ),
    ] = None,
    to: Annotated[
        list[str] | None, typer.Option(help="Also write coco, csv, voc, yolo, …: what `fastcam export` knows.")
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(help="Layout of a data set: wsol, cub, coco, list, … [a folder is searched for pictures]."),
    ] = None,
    split: options.Split = None,
    images: options.Images = None,
    device: options.Device = None,
) -> None:
    """Find the objects in pictures and write their boxes to a Parquet table.

    Damaged pictures become rows with the reason; the exit code is 3 then (but torchrun, which takes that for a crash,
    gets 0). The same command in the same folder goes on after whatever stopped it.
    """
    from fastcam import export, localization
    from fastcam._memory import keep_memory
    from fastcam.localization import engines

    keep_memory()

    formats = options.parts(to) or []
    export.check_formats(formats, settings.maps)
    device = _device(device or options.default_device())
    rank = None
    if engine.engine == "torchrun":
        rank = engines.Rank.here()
        device = rank.device(device)

    model, config = network.load(weights, arch)
    export.check_formats(formats, settings.maps, config.num_classes)
    source: Any = paths
    if format or split or images:
        source = _data_set(paths, format, split, images, labels=targets == "label")
        if targets == "label":
            options.say_of_labels(source, config)
    _check_places(out, formats, [*paths, *([] if images is None else [images])])
    for path in paths if source is paths else ():
        if path.suffix.lower() in _DATA_SETS and path.is_file():
            raise ValueError(f"{path} is no picture; a data set needs --format {_DATA_SETS[path.suffix.lower()]}")
    if targets == "label":
        settings = replace(settings, targets="label")
    elif targets is not None:
        settings = replace(settings, targets=options.read_targets(Path(targets), config, source))
    if engine.engine == "local":
        summary = localization.localize(
            model.to(device), source, out=out, config=config, settings=settings, workers=engine.workers or 1
        )
    else:
        summary = engines.localize(
            *(model.to(device), source),
            out=out,
            config=config,
            settings=settings,
            engine=engine.engine,
            address=engine.address,
        )
    if rank is not None and rank.index > 0:
        return
    print(f"{summary.pictures} pictures, {summary.rows} rows in {summary.path}")
    if summary.network is not None:
        print(f"network: {summary.network}")
    if summary.empty:
        print(f"fastcam: {summary.empty} rows have no box, since their maps are constant", file=sys.stderr)
    options.say_of_passed(summary.ignored)
    lacking = summary.errors > 0
    for name in formats:
        refine = settings.refine if export.FORMATS[name].maps else None
        done = export.export(out, name, refine=refine, overwrite=True)
        print(f"{name}: {done.path}")
        for note in done.notes:
            say(f"fastcam: {name}: {note}", error=True)
        if done.left_out:
            say(f"fastcam: {name}: {left_out(done)}", error=True)
            lacking = True
    if summary.errors:
        codes = ", ".join(f"{count} {code}" for code, count in sorted(summary.codes.items()))
        print(f"fastcam: {summary.errors} pictures failed ({codes}); column `error` says why", file=sys.stderr)
    if lacking and "TORCHELASTIC_RUN_ID" not in os.environ:
        raise typer.Exit(SOME_FAILED)


def _data_set(paths: list[Path], format: str | None, split: str | None, images: Path | None, *, labels: bool) -> Any:
    """Read a data set. What is wrong in what it says of its pictures matters only where labels are asked for."""
    from fastcam import data

    if len(paths) > 1 and (format != "webdataset" or split or images):
        raise ValueError(f"--format, --split and --images are for one data set, got {len(paths)} paths")
    faults = data.Faults()
    # Missing pictures become rows.
    source = data.load(paths if len(paths) > 1 else paths[0], split, format, images, truth_only=True, bad=faults)
    if faults and labels:
        raise ValueError(faults[0][1])
    if faults:
        what = f"{len(faults)} faults in what the data set tells, not needed here; the first"
        say(f"fastcam: {what}: {faults[0][1]}", error=True)
    return source


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
