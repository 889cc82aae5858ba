"""Several methods on one network and data set, in one pass over the pictures and one forward pass for all of them."""

import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from fastcam._files import replacing
from fastcam._options import accepts
from fastcam._version import __version__
from fastcam.data.matching import in_classes
from fastcam.evaluation.evaluator import Evaluator
from fastcam.evaluation.protocols import protocol_of
from fastcam.evaluation.settings import CompareSettings
from fastcam.evaluation.sources import Failed, Loaded, NetworkMaps, SharedMaps, Variant, opened
from fastcam.evaluation.table import Comparison, Entry, draw_figure, draw_maps
from fastcam.methods.cautions import constant, quiet_methods, tell
from fastcam.models import ModelConfig
from fastcam.models.outputs import as_asked
from fastcam.pictures import quiet_pillow
from fastcam.pictures.stream import batched, stream


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
    network runs once for all methods without "+aug" and once more, on six views, for those with it, and at each size
    for those with "+ms", and gradients are computed once. TAP is the head alone, run again on the maps that are
    there; the network's weights stay as they are, so that this is TAP in a network that may not have been trained
    with it. Methods that run the network for themselves (Score-CAM, Ablation-CAM) still do. In `out` there are then
    compare.json, compare.md, compare.png and compare_maps.png.

    Args:
        model: network from [N, 3, size, size] to logits [N, C], or to what `output` finds scores in.
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
    variants = [Variant.parse(name) for name in settings.methods]
    if not variants or len(set(variants)) < len(variants):
        twice = next((one.name for one in variants if variants.count(one) > 1), None)
        raise ValueError(f"`methods` has {twice} twice" if twice else "`methods` must name at least one row, got none")
    if not 0 <= settings.pas_percentile <= 100:
        raise ValueError(f"`pas_percentile` must be in [0, 100], got {settings.pas_percentile!r}")
    if out is not None and (existing := Path(out, "compare.json")).exists() and not settings.overwrite:
        raise FileExistsError(f"{existing} exists already: choose another folder, or `overwrite` it")
    protocol = protocol_of(settings.protocol)
    if settings.threshold is not None:
        protocol = protocol._replace(threshold=settings.threshold)
    if protocol.boxes == "every" and (one := next((one for one in variants if one.pas), None)):
        raise ValueError(
            f"protocol {protocol.name} has no percentile, as {one.name} wants: its τ is of the map's maximum"
        )
    make = partial(
        Evaluator,
        metrics=settings.metrics,
        # Without means over classes nobody asks for a table by class, and it is large.
        num_classes=config.num_classes if config is not None and protocol.class_mean else None,
        bootstrap=settings.bootstrap,
        seed=settings.seed,
        skip_bad=settings.skip_bad,
    )
    evaluators = {
        one: make(protocol._replace(percentile=settings.pas_percentile) if one.pas else protocol) for one in variants
    }

    problems = list(problems)
    data = opened(data, problems if settings.skip_bad else None)
    data = in_classes(data, *((), None) if config is None else (config.class_names, config.num_classes))
    for evaluator in evaluators.values():
        for id, reason in problems:
            evaluator.reject(id, reason)
    model = as_asked(model, settings.output, config)
    shared = SharedMaps(data, model, config, protocol, variants, settings.target_layers, settings.scales, settings.flip)
    chosen = set(np.linspace(0, len(data) - 1, min(settings.pictures, len(data))).round().astype(int).tolist())
    shown: dict[int, tuple[Loaded[np.ndarray], dict[Variant, Tensor]]] = {}
    with (
        quiet_pillow(),
        quiet_methods(),
        tqdm(total=len(data), unit="picture", disable=None if progress else True) as bar,
    ):
        # The network waits while maps are measured: its seconds are then its own.
        for batch in stream(batched(shared.reader.jobs(range(len(data))), settings.batch_size), shared.reader.load):
            for failed in (one for one in batch if isinstance(one, Failed)):
                for evaluator in evaluators.values():
                    evaluator.reject(failed.id, failed.reason)
            loaded = [one for one in batch if isinstance(one, Loaded)]
            shown |= {one.place: (one, {}) for one in loaded if one.place in chosen}
            for variant, maps in shared.batches(loaded) if loaded else ():
                finished = maps.finished(protocol)
                for one in (one for one in variants if one.map == variant):
                    evaluators[one].add(maps.ids, finished, maps.truths, logits=maps.logits)
                for picture, values in zip(loaded, finished, strict=True):
                    if picture.place in chosen:
                        shown[picture.place][1][variant] = torch.as_tensor(values).clone()
            bar.update(len(batch))

    entries: list[Entry] = []
    cautions: list[str | None] = []
    for one in variants:
        result, cam = evaluators[one].result(), shared.sources[one.map].cam
        own, parts = shared.seconds[one.map], shared.shares[one.map]
        entries.append(Entry(one.name, result, own, own + sum(shared.seconds[part] for part in parts), parts))
        empty = constant(result.maps[1], result.maps[0], cam.grids)
        cautions += [*cam.cautions, empty and f"{one.name}: {empty}"]
    seconds = {part: value for part, value in shared.seconds.items() if isinstance(part, str)}
    bad = tuple(dict.fromkeys(entry for evaluator in evaluators.values() for entry in evaluator.bad))
    comparison = Comparison(tuple(entries), seconds, protocol, settings.threshold, settings.pas_percentile, bad)
    if out is not None:
        left_out = {id for id, _ in bad}
        drawn = [
            (picture, [maps[one.map] for one in variants])
            for _, (picture, maps) in sorted(shown.items())
            if picture.id not in left_out
        ]
        _write(comparison, Path(out), shared.reader, drawn)
    tell(cautions, stacklevel=3)  # of whoever called: between is what takes the options one by one
    return comparison


def _write(
    comparison: Comparison,
    out: Path,
    source: NetworkMaps,
    drawn: Sequence[tuple[Loaded[np.ndarray], Sequence[Tensor]]],
) -> None:
    network = {name: source.info[name] for name in ("arch", "weights", "layers", "size", "mean", "std")}
    with replacing(out / "compare.md") as path:
        path.write_text("\n".join(comparison.markdown()) + "\n", encoding="utf-8")
    draw_figure(comparison, out / "compare.png")
    (out / "compare_maps.png").unlink(missing_ok=True)
    if drawn:
        draw_maps(comparison, source.data, drawn, out / "compare_maps.png")
    with replacing(out / "compare.json") as path:
        found = {"fastcam": __version__, "network": network, **comparison.to_dict()}
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
