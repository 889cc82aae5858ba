"""The engine on more than one machine: processes that torchrun or SLURM has started, or tasks of a Ray cluster.

Both compute the shards of `fastcam.localization`, so the rows are those of a run in one process, to the bit, as long as
all machines compute alike: the same versions, which is checked, and processors or GPUs of one kind, which is not.

All machines must see the run's folder and the pictures under the same paths. Killed at any moment, the same command
computes the rest, by any engine.

    engine     shards are given out         a process or a node dies
    torchrun   each rank takes every n-th   all ranks end; torchrun's --max-restarts, or the same command again, does
                                            the rest
    ray        one task each, by Ray        Ray runs its tasks again elsewhere, up to three times each
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from typing import Literal

from torch import nn
from tqdm import tqdm

from fastcam._options import accepts
from fastcam.data import Pictures
from fastcam.localization.engines.ray import run_tasks
from fastcam.localization.engines.torchrun import Rank, run_ranks
from fastcam.localization.plan import LocalizationSummary, Plan, planned
from fastcam.localization.run_settings import decide
from fastcam.localization.settings import LocalizeSettings
from fastcam.models import ModelConfig
from fastcam.models.outputs import as_asked


@accepts(LocalizeSettings)
def localize(
    model: nn.Module,
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Pictures,
    *,
    out: str | os.PathLike[str],
    engine: Literal["torchrun", "ray"],
    settings: LocalizeSettings,
    address: str | None = None,
    config: ModelConfig | None = None,
    progress: bool = True,
) -> LocalizationSummary:
    """Do what `fastcam.localization.localize` does, on more than one machine.

    With "torchrun" every rank makes this call, with the same model and arguments; all return when the table is there.
    They meet where torchrun says, and within SLURM at the first machine of the step, or where MASTER_ADDR and
    MASTER_PORT say. If a rank fails or is killed, the others raise an error at once, or when they have done their
    share; what is finished is kept.
    With "ray" one process does, on a machine of the cluster; the model goes to the others, where each process loads
    it once and computes one shard after the other. A task asks for as many processors as the network has threads, or
    for a GPU and its share of the machine's processors if the model is on one.

    Args:
        model: as for `fastcam.localization.localize`. Ranks must put theirs on their own GPU, see `Rank.device`.
        source: files, folders, or a data set of picture files.
        out: the run's folder, on storage that all machines share.
        engine: "torchrun" for ranks, whoever started them (RANK and WORLD_SIZE, or SLURM's variables, say which this
            is), or "ray".
        address: of the Ray cluster, "auto" for the one that this machine belongs to; by default as "auto", but where
            there is none, Ray is started on this machine.
        settings: as for `fastcam.localization.localize`.
        config: as for `fastcam.localization.localize`.
        progress: show a progress bar where standard error is a terminal; of the ranks, the first does.

    Returns:
        As `fastcam.localization.localize`, with the same warnings; of the ranks, the first warns.

    Raises:
        FileNotFoundError, FileExistsError, TypeError, ValueError: as `fastcam.localization.localize`.
        ValueError: no variable names the rank, or the rank's model, options or versions are not those of rank 0.
        ImportError: Ray is not installed.
        OSError: the results cannot be written, another process is at work in `out`, a machine does not see the folder
            or the pictures, or there is no cluster at the address.
        RuntimeError: the network does not work, Ray gave up a shard, or another rank has failed, was killed or did not
            come.
    """
    folder = os.path.abspath(out)
    model = as_asked(model, settings.output, config)

    @contextlib.contextmanager
    def held() -> Iterator[Plan]:
        with planned(model, source, config, settings, folder) as (plan, _):
            yield plan

    if engine == "ray":
        with held() as plan, tqdm(total=plan.pictures, unit="picture", disable=None if progress else True) as bar:
            return run_tasks(plan, model, address, bar).warned()
    if engine != "torchrun":
        raise ValueError(f'`engine` must be "torchrun" or "ray", got {engine!r}')
    rank = Rank.here()
    with tqdm(unit="picture", disable=None if progress and rank.index == 0 else True) as bar:
        summary = run_ranks(rank, folder, model, held, lambda: decide(model, config, settings), bar)
    return summary.warned() if rank.index == 0 else summary
