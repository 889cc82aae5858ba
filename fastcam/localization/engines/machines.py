"""The engine on more than one machine: processes that torchrun or SLURM has started, or tasks of a Ray cluster.

Both compute the shards of `fastcam.localization`, so the rows are those of a run in one process, to the bit, as long as
all machines compute alike: the same versions, which is checked, and processors or GPUs of one kind, which is not.

All machines must see the run's folder and the pictures under the same paths. Nothing but that folder is needed to go
on after whatever happened, by any engine.

    engine     shards are given out                 a process or a node dies
    torchrun   each rank takes every n-th first,    its shards are taken by the ranks that are left; the lowest of them
               then what nobody else is at          finishes; a later start computes what is missing
               (torchrun itself then waits up to five minutes for the node that is gone, when the table is there)
    ray        one task each, by Ray                Ray runs its tasks again elsewhere, up to three times each
"""

import os
from collections.abc import Iterable
from typing import Any, Literal

from torch import nn
from tqdm import tqdm

from fastcam.data import Pictures
from fastcam.localization import Summary, prepare
from fastcam.localization.engines.ray import run_tasks
from fastcam.localization.engines.torchrun import Rank, run_ranks
from fastcam.localization.planning import planned
from fastcam.localization.settings import settings_of
from fastcam.models import ModelConfig

__all__ = ["Rank", "localize"]


def localize(
    model: nn.Module,
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Pictures,
    *,
    out: str | os.PathLike[str],
    engine: Literal["torchrun", "ray"],
    address: str | None = None,
    patience: float = 120.0,
    config: ModelConfig | None = None,
    shard_size: int = 1024,
    hash_content: bool = False,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> Summary:
    """Do what `fastcam.localization.localize` does, on more than one machine.

    With "torchrun" every rank makes this call, with the same model and arguments; all return when the table is there.
    With "ray" one process does, on a machine of the cluster; the model goes to the others, where each process loads
    it once and computes one shard after the other. A task asks for as many processors as the network has threads, or
    for a GPU and its share of the machine's processors if the model is on one.

    Args:
        model: as for `fastcam.localization.localize`. Ranks must put theirs on their own GPU, see `Rank.device`.
        source: files, folders, or a data set of picture files.
        out: the run's folder, on storage that all machines share.
        engine: "torchrun" for ranks, whoever started them (RANK and WORLD_SIZE, or SLURM's variables, tell which this
            is), or "ray".
        address: of the Ray cluster, "auto" for the one that this machine belongs to; by default as "auto", but where
            there is none, Ray is started on this machine.
        patience: seconds without a sign of life after which a rank counts as dead. Longer than the file system takes
            to show a file to other machines.
        config: as for `fastcam.localization.localize`, as all that follow.
        shard_size: likewise.
        hash_content: likewise.
        overwrite: likewise.
        progress: likewise; of the ranks, the first shows it.
        **options: likewise: method, target_layers, threshold, relu, mode, top_k, targets, batch_size, backend,
            overlays, maps, boxes, min_area, precision, channels_last, compile, decoder and threads.

    Returns:
        As `fastcam.localization.localize`, which also tells of its warnings; of the ranks, the first warns.

    Raises:
        FileNotFoundError, FileExistsError, TypeError, ValueError: as `fastcam.localization.localize`.
        ValueError: no variable tells the rank, or the rank's model, options or versions are not those of rank 0.
        ImportError: Ray is not installed.
        OSError: the results cannot be written, another process is at work in `out`, a machine does not see the folder
            or the pictures, or there is no cluster at the address.
        RuntimeError: the network does not work, Ray gave up a shard, or rank 0 has given no sign of life.
    """
    folder = os.path.abspath(out)
    place = {"out": folder, "shard_size": shard_size, "hash_content": hash_content, "overwrite": overwrite}

    if engine == "ray":
        with (
            planned(model, source, config, options, **place) as (plan, _),
            tqdm(total=plan.pictures, unit="picture", disable=None if progress else True) as bar,
        ):
            return run_tasks(plan, model, address, bar)
    if engine != "torchrun":
        raise ValueError(f'`engine` must be "torchrun" or "ray", got {engine!r}')
    if patience <= 0:
        raise ValueError(f"`patience` must be positive, got {patience!r}")
    rank = Rank.here()
    with tqdm(unit="picture", disable=None if progress and rank.index == 0 else True) as bar:
        return run_ranks(
            rank,
            folder,
            model,
            lambda: prepare(model, source, config=config, **place, **options),
            lambda: settings_of(model, config, **options),
            patience,
            bar,
        )
