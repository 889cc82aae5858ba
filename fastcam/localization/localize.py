"""Pictures in, boxes out: files or a data set, through one network, to boxes.parquet; killed at any time, nothing lost.

A run is a folder. First a *plan* is made: all inputs in an order that never changes, and the settings that decide about
rows. The inputs are cut into *shards* of whole batches, so that a picture has the same neighbours in its batch whoever
computes it: rows are the same to the bit for any number of workers, size of shards, engine and point of resumption.
A shard's rows are written to a temporary file beside their place, brought to the disk, renamed, and then marked done.
When no shard is missing, the parts are put together, and an audit compares the table with the inputs.
The process that plans, or directs the others, locks the folder; runs/folder.py lists the files in it.

An *engine* decides who computes which shard, and nobody watches anybody: a shard computed twice, even at the same time
by two processes, does no harm, and whatever died, the same call computes what is missing. All that an engine needs:

    plan = prepare(model, files, out=...)   # in one process; options as for `localize`
    plan = Plan.load(out)                   # in every other that sees the folder
    plan.missing()                          # shards that are not marked done
    with Worker(plan, model) as worker:     # once in a process: network, threads
        worker.run(shards, on_done)         # any iterable of indices, taken one by one as they are needed; each is on
                                            # the disk and marked when on_done(index, mark) is called
    plan.finish()                           # by one process, when nothing is missing: merge, audit, clean up; None if
                                            # something is: a part with a wrong checksum is discarded
"""

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from itertools import chain, islice

from torch import nn
from tqdm import tqdm

from fastcam import _check, pictures
from fastcam._options import accepts
from fastcam._progress import progress_bar
from fastcam.data import Pictures, Sample
from fastcam.localization.engines.local import run_workers
from fastcam.localization.inputs import SampleInput
from fastcam.localization.plan import LocalizationSummary, Plan, planned
from fastcam.localization.settings import LocalizeSettings
from fastcam.localization.worker import Worker
from fastcam.models import ModelConfig
from fastcam.models.outputs import as_asked

ERRORS: Mapping[str, str] = {
    **pictures.ERRORS,
    "no_target": "classes were given, but none for this picture, or one that the model does not have",
    "model": "the network failed on the picture's batch, or its logits are not finite",
    "memory": "memory was not enough for the picture alone",
}


@accepts(LocalizeSettings)
def localize(
    model: nn.Module,
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Iterable[Sample],
    *,
    out: str | os.PathLike[str],
    settings: LocalizeSettings,
    config: ModelConfig | None = None,
    workers: int = 1,
    progress: bool = True,
) -> LocalizationSummary:
    """Find the objects of each picture's classes and write their boxes to `out`/boxes.parquet.

    One row per picture, class and box, in the order of the input, with the columns of `fastcam.runs.schema.Row`: boxes
    are half-open float pixels of the upright original, scores are probabilities: the softmax of the network's logits,
    or as `scores` or the checkpoint says the sigmoid of each, which a single one always has, or what the network gives
    if these are probabilities; the metadata of the table's column score say which. A picture that cannot be read
    becomes one row with the reason, and the run goes on. It streams: pictures are decoded in threads ahead of the
    network, at most three batches of them are held, and memory does not grow with their number, but for samples' ids.

    Where the inputs are files, the same call in the same folder goes on after whatever stopped it, computes only what
    is missing, and gives the same rows to the bit as if nothing had happened, also where the pictures have been moved;
    a call with other inputs, weights or options is refused, as is one while another process is at work there. A call
    after the end does nothing. Samples, which have no files, start anew; if such a run breaks off, the rows finished
    by then are kept in `out`/boxes.partial.parquet.

    If the network fails on a batch and on a black one too, the error is raised: the set-up is wrong. Else the pictures
    of the failing batch become rows with the error "model: …", as does a picture whose logits are not finite.

    Args:
        model: network from [N, 3, size, size] to logits [N, C], or to what `output` finds scores in. It runs
            on the device and in the dtype of its parameters, in evaluation mode, and stays as it was.
        source: a picture file or folder, any iterable of them (a set is sorted), a `fastcam.data.Pictures`, or any data
            set: what gives each `Sample` by iteration or by index. Folders are searched with all folders below; see
            `fastcam.pictures.find_pictures` for the image_id. In a data set it is the sample's id, or else its index;
            it must be a relative path without "..", and come but once.
        out: folder for the results; it may be one of the source's, since what runs and exports write is no input. A
            picture there that they have not written is one.
        settings: what can be chosen, see `LocalizeSettings`.
        config: preprocessing (size, resize, mean, std), class names and threshold that the model was made with; by
            default 224 pixels, squashed, ImageNet's mean and std; of timm's networks size, mean and std that their
            `pretrained_cfg` has.
        workers: processes that share the work; with several, the model must be one that can be pickled, and a script
            needs its `if __name__ == "__main__":`. With one there is none but this.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        Where the table is, and the numbers of pictures, rows and errors, and of rows without a box.

    Warns:
        fastcam.methods.MapWarning: at the end, whatever the number of workers: most maps are constant, so that they
            show nothing; the target layer has a single position; or the network ends in a softmax, whose gradients
            mislead.

    Raises:
        FileNotFoundError: a path does not exist.
        FileExistsError: `out` has a run of other inputs or options, or a table that is not as it was left, and
            `overwrite` is not set; or it has files of the names that a run writes, without a plan.
        TypeError: a source or targets of another kind, or a class that is no whole number.
        ValueError: a folder without pictures, an id that comes twice or is no relative path, an option that is unknown
            or out of range, or "nvjpeg" where it does not work.
        OSError: the results cannot be written, or another process is at work in `out`.
        RuntimeError: the network does not work, or a worker was killed again and again.
    """
    _check.whole("workers", workers, 1)
    model = as_asked(model, settings.output, config)
    with ExitStack() as stack:
        plan, samples = stack.enter_context(planned(model, source, config, settings, out, listed=False))
        if plan.finished() is None:
            bar = stack.enter_context(progress_bar(progress, total=plan.pictures, unit="picture"))
            if samples is not None:
                _stream(plan, model, samples, bar)
            else:
                _compute(plan, model, workers, bar)
        summary = plan.finish()
        assert summary is not None
        return summary.warned()


@accepts(LocalizeSettings)
def prepare(
    model: nn.Module,
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Pictures,
    *,
    out: str | os.PathLike[str],
    settings: LocalizeSettings,
    config: ModelConfig | None = None,
) -> Plan:
    """Plan a run that others will do, or find it planned already.

    Args:
        model: as for `localize`.
        source: files, folders, or a data set of picture files.
        out: as for `localize`.
        settings: as for `localize`.
        config: as for `localize`.

    Returns:
        The plan; `finished` says if there is nothing to do.

    Raises:
        FileNotFoundError, FileExistsError, TypeError, ValueError, OSError: as `localize`.
    """
    with planned(as_asked(model, settings.output, config), source, config, settings, out) as (plan, _):
        return plan


def _compute(plan: Plan, model: nn.Module, workers: int, bar: tqdm) -> None:
    """Compute what is missing, again where a part turns out to be damaged, and finish."""
    bar.update(plan.done())
    with plan.resumable():
        while plan.finish() is None:
            missing = plan.missing()
            if workers > 1:
                run_workers(plan, model, missing, workers, bar.update)
            else:
                with Worker(plan, model) as worker:
                    worker.run(missing, on_pictures=bar.update)


def _stream(plan: Plan, model: nn.Module, samples: Iterator[SampleInput], bar: tqdm) -> None:
    """Run on samples, which come once."""
    shards = ((shard, chain([first], islice(samples, plan.shard_size - 1))) for shard, first in enumerate(samples))
    try:
        with Worker(plan, model) as worker:
            worker.compute(shards, on_pictures=bar.update)
    except BaseException as error:
        path, rows = plan.salvage()
        if rows:
            error.add_note(f"the {rows} rows finished by then are in {path}")
        raise
