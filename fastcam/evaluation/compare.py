"""Several methods on one network and data set, in one pass over the pictures and one forward pass for all of them."""

import contextlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastcam import methods as all_methods
from fastcam._files import replacing
from fastcam._options import accepts
from fastcam._version import __version__
from fastcam.data.matching import in_classes
from fastcam.evaluation.evaluate import opened
from fastcam.evaluation.evaluator import Evaluator
from fastcam.evaluation.network import Network
from fastcam.evaluation.settings import CompareSettings, MapSettings
from fastcam.evaluation.sources import Batch, Loaded
from fastcam.evaluation.table import Comparison, Entry, draw_figure, draw_maps
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.methods.forward import Forward
from fastcam.models import ModelConfig, ThresholdedAvgPool2d, suggest
from fastcam.pictures import quiet_pillow
from fastcam.pictures.stream import batches, in_order

_SUFFIXES = ("tap", "clamp", "pas", "eigen", "aug")


class Row(NamedTuple):
    """One row of the table: a method, and what is changed in it.

    Attributes:
        method: a key of `fastcam.methods.METHODS`.
        tap: thresholded average pooling instead of the network's own.
        clamp: negative weights count as zero in CAM's map.
        pas: thresholds are relative to a percentile of the map instead of its maximum.
        eigen: the first principal component of the weighted channels.
        aug: the average over six views.
    """

    method: str
    tap: bool = False
    clamp: bool = False
    pas: bool = False
    eigen: bool = False
    aug: bool = False

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a name.

        Args:
            name: `method[+tap][+clamp][+pas][+eigen][+aug]`, suffixes in any order; "gradcam++aug" is "gradcam+++aug".

        Returns:
            The row.

        Raises:
            ValueError: an unknown method or suffix, one that comes twice, or "+clamp" without CAM.
        """
        known = [m for m in all_methods.METHODS if name == m or name.startswith(m if m.endswith("+") else f"{m}+")]
        if not known:
            if (method := name.split("+")[0]) in all_methods.ATTRIBUTIONS:
                raise ValueError(f"{name!r}: {method} gives no map of a class that boxes could be taken from")
            raise ValueError(f"{name!r}: unknown method{suggest(name, list(all_methods.METHODS))}")
        method = max(known, key=len)  # "gradcam++" begins with "gradcam+"
        suffixes = name[len(method) :].removeprefix("+").split("+") if name != method else []
        for suffix in suffixes:
            if suffix not in _SUFFIXES:
                raise ValueError(f"{name!r}: unknown +{suffix}; a row is {method}[+{'][+'.join(_SUFFIXES)}]")
            if suffixes.count(suffix) > 1:
                raise ValueError(f"{name!r}: +{suffix} comes twice")
        if "clamp" in suffixes and method != "cam":
            raise ValueError(f"{name!r}: +clamp is for cam, whose weights are the classifier's")
        return cls(method, **dict.fromkeys(suffixes, True))

    @property
    def name(self) -> str:
        """What `parse` reads, in a fixed order."""
        return "+".join([self.method, *(suffix for suffix in _SUFFIXES if getattr(self, suffix))])


@accepts(CompareSettings)
def compare(
    model: nn.Module,
    data: Any,
    *,
    settings: CompareSettings,
    out: str | os.PathLike[str] | None = None,
    config: ModelConfig | None = None,
    problems: Sequence[tuple[str, str]] = (),
    progress: bool = True,
) -> Comparison:
    """Measure several methods' maps of the true classes on one network and data set.

    Each row is what `fastcam.evaluate` gives for that method alone, to the last bit; but pictures are read once, the
    network runs once for all methods without "+aug" and once more, on six views, for those with it, and gradients are
    computed once. TAP is the head alone, run again on the maps that are there; the network's weights stay as they are,
    so that this is TAP in a network that may not have been trained with it. Methods that run the network for themselves
    (Score-CAM, Ablation-CAM) still do. In `out` there are then compare.json, compare.md, compare.png and
    compare_maps.png.

    Args:
        model: network from [N, 3, size, size] to logits [N, C].
        data: a data set with labels and boxes or masks, samples by index; or the path of one that `fastcam.data.load`
            recognises.
        out: folder for the results; None for none.
        config: preprocessing and number of classes of the network. How pictures are resized is the protocol's affair.
        settings: all of them, or one by one.
        problems: what reading the data set has left out, to be listed with it.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        Figures and seconds of each row.

    Warns:
        fastcam.methods.MapWarning: as `fastcam.evaluate`, of each row.

    Raises:
        FileNotFoundError: there is no such data set.
        FileExistsError: `out` has results, and `overwrite` is not set.
        TypeError: `methods` is one string.
        ValueError: an unknown or repeated row, an option out of range, a method that cannot serve the network, a
            picture that cannot be measured, which is named, unless `skip_bad` is set.
        OSError: the results cannot be written.
        RuntimeError: the network failed.
    """
    rows = [Row.parse(name) for name in settings.methods]
    if not rows or len(set(rows)) < len(rows):
        twice = next((row.name for row in rows if rows.count(row) > 1), None)
        raise ValueError(f"`methods` has {twice} twice" if twice else "`methods` must name at least one row, got none")
    if not 0 <= settings.pas_percentile <= 100:
        raise ValueError(f"`pas_percentile` must be in [0, 100], got {settings.pas_percentile!r}")
    if out is not None and (existing := Path(out, "compare.json")).exists() and not settings.overwrite:
        raise FileExistsError(f"{existing} exists already: choose another folder, or `overwrite` it")
    problems = list(problems)
    names, count = () if config is None else config.class_names, config and config.num_classes
    data = in_classes(opened(data, problems if settings.skip_bad else None), names, count)
    options = {
        "metrics": settings.metrics,
        "threshold": settings.threshold,
        "bootstrap": settings.bootstrap,
        "seed": settings.seed,
        "skip_bad": settings.skip_bad,
    }
    classes = config and config.num_classes
    rule = Evaluator(settings.protocol, num_classes=classes, **options).protocol
    if rule.boxes == "every" and (row := next((row for row in rows if row.pas), None)):
        raise ValueError(f"protocol {rule.name} has no percentile, as {row.name} wants: its τ is of the map's maximum")
    if rule.class_mean:  # else nobody asks for a table by class, and it is large
        options["num_classes"] = classes
    evaluators = {
        row: Evaluator(rule._replace(percentile=settings.pas_percentile) if row.pas else rule, **options)
        for row in rows
    }
    for evaluator in evaluators.values():
        for id, reason in problems:
            evaluator.reject(id, reason)
    sources = {
        row: Network(
            data,
            model,
            config,
            protocol=rule,
            settings=MapSettings(
                method=row.method,
                target_layers=settings.target_layers,
                clamp=row.clamp,
                smooth=tuple(name for name in ("aug", "eigen") if getattr(row, name)),
            ),
        )
        for row in dict.fromkeys(_map_of(row) for row in rows)
    }
    work = _Shared(model, sources)
    chosen = set(np.linspace(0, len(data) - 1, min(settings.pictures, len(data))).round().astype(int).tolist())
    shown: dict[int, tuple[Loaded, dict[Row, Tensor]]] = {}
    reader = next(iter(sources.values()))
    with (
        quiet_pillow(),
        quiet_methods(),
        ThreadPoolExecutor(min(8, os.cpu_count() or 1), "fastcam-decode") as pool,
        tqdm(total=len(data), unit="picture", disable=None if progress else True) as bar,
    ):
        # The network waits while maps are measured: its seconds are then its own.
        loaded = in_order(pool, reader.load, reader.jobs(range(len(data))), 2 * settings.batch_size)
        for items in batches(loaded, settings.batch_size):
            for one in (one for one in items if one.error is not None):
                for evaluator in evaluators.values():
                    evaluator.reject(one.id, one.error)
            good = [one for one in items if one.error is None]
            shown |= {one.place: (one, {}) for one in good if one.place in chosen}
            for key, batch in work.batches(good) if good else ():
                maps = rule.upsample(batch.maps.relu() if batch.relu else batch.maps)
                ids, truths = [one.id for one in good], [one.truth for one in good]
                for row in (row for row in rows if _map_of(row) == key):
                    evaluators[row].add(ids, maps, truths, logits=batch.logits)
                for one, map in zip(good, maps, strict=True):
                    if one.place in chosen:
                        shown[one.place][1][key] = map.clone()
            bar.update(len(items))
    entries, found = [], []
    for row in rows:
        result = evaluators[row].result()
        own, shares = work.seconds[_map_of(row)], work.shares[_map_of(row)]
        entries.append(Entry(row.name, result, own, own + sum(work.seconds[part] for part in shares), shares))
    for entry, row in zip(entries, rows, strict=True):
        cam = sources[_map_of(row)].cam
        said = constant(entry.result.maps[1], entry.result.maps[0], cam.grids)
        found += [*cam.cautions, said and f"{entry.name}: {said}"]
    shared = {part: seconds for part, seconds in work.seconds.items() if isinstance(part, str)}
    bad = tuple(dict.fromkeys(entry for evaluator in evaluators.values() for entry in evaluator.bad))
    comparison = Comparison(tuple(entries), shared, rule, settings.threshold, settings.pas_percentile, bad)
    if out is not None:
        left_out = {id for id, _ in bad}
        drawn = [
            (one, [maps[_map_of(row)] for row in rows])
            for _, (one, maps) in sorted(shown.items())
            if one.id not in left_out
        ]
        _write(comparison, Path(out), reader, drawn)
    tell(found)
    return comparison


def _write(comparison: Comparison, out: Path, network: Network, drawn: Sequence[tuple[Loaded, list[Tensor]]]) -> None:
    made_by = {name: network.info[name] for name in ("arch", "weights", "layers", "size", "mean", "std")}
    told = {"fastcam": __version__, "network": made_by, **comparison.to_dict()}
    with replacing(out / "compare.md") as path:
        path.write_text("\n".join(comparison.markdown()) + "\n", encoding="utf-8")
    draw_figure(comparison, out / "compare.png")
    (out / "compare_maps.png").unlink(missing_ok=True)
    if drawn:
        draw_maps(comparison, network.data, drawn, out / "compare_maps.png")
    with replacing(out / "compare.json") as path:
        path.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _map_of(row: Row) -> Row:
    """The row whose map this one has, too: measuring differs, but not the map."""
    return row._replace(pas=False)


class _Shared:
    """Makes the maps of all rows from shared runs of the network, and measures how long each part takes.

    Attributes:
        seconds: by row what is its own, by name what is shared.
        shares: for each row the names of the shared parts that it needs.
    """

    def __init__(self, model: nn.Module, sources: dict[Row, Network]) -> None:
        self._sources = sources
        self._device = next(model.parameters(), torch.empty(0)).device
        self._pooled = [all_methods.CAM(model)] if any(row.tap for row in sources) else []
        self.seconds: dict[Row | str, float] = {}
        self.shares: dict[Row, tuple[str, ...]] = {}

    def batches(self, loaded: Sequence[Loaded]) -> Iterator[tuple[Row, Batch]]:
        """Make the maps of a batch.

        Args:
            loaded: pictures without error, at least one.

        Yields:
            Rows and their batches.
        """
        source = next(iter(self._sources.values()))
        images, labels = source.images(loaded)
        for aug in (False, True):
            cams = [source.cam for row, source in self._sources.items() if row.aug == aug]
            if not cams:
                continue
            views = ", six views" if aug else ""
            with self._clock(part := f"forward pass{views}"):
                run = all_methods.observe([*cams, *self._pooled], images, labels, aug_smooth=aug)
            source.check(run)
            yield from self._of_run(loaded, run, aug, False, (part,), views)
            if any(row.tap and row.aug == aug for row in self._sources):
                with self._clock(other := f"TAP{views}"):
                    run = run.with_pooling(ThresholdedAvgPool2d())
                yield from self._of_run(loaded, run, aug, True, (part, other), f", TAP{views}")

    def _of_run(
        self, loaded: Sequence[Loaded], run: Forward, aug: bool, tap: bool, shares: tuple[str, ...], of: str
    ) -> Iterator[tuple[Row, Batch]]:
        sources = {row: source for row, source in self._sources.items() if (row.aug, row.tap) == (aug, tap)}
        using = {row for row, source in sources.items() if source.cam.uses_gradients(run)}
        if using:
            with self._clock(f"gradients{of}"):
                run.differentiate()
        for row, source in sources.items():
            self.shares[row] = (*shares, f"gradients{of}") if row in using else shares
            with self._clock(row):
                batch = source.batch(loaded, run)
            yield row, batch

    @contextlib.contextmanager
    def _clock(self, part: Row | str) -> Iterator[None]:
        self._wait()
        begin = time.perf_counter()
        yield
        self._wait()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - begin

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
