"""Ranks that torchrun or SLURM has started: of n ranks, rank r computes every n-th missing shard, from the r-th on.

Rank 0 plans, broadcasts which plan and which shards it is about, and finishes when all have done theirs. It broadcasts
by torch.distributed (Gloo), not by files: what is broadcast is of this start, where a plan, a mark or a table in
the folder may be an earlier one's; and when a rank is killed, the kernel closes its connections, so that whoever waits
for it learns so at once. Then all ranks end, with what they have finished kept, and torchrun's `--max-restarts`, or the
same command again, computes the rest.
"""

import contextlib
import datetime
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous
from tqdm import tqdm

from fastcam.localization.engines.sharing import check, first_visible, open_plan, wait_for_marks
from fastcam.localization.plan import LocalizationSummary, Plan
from fastcam.localization.run_settings import RunSettings
from fastcam.localization.worker import Worker
from fastcam.pictures.stream import count_threads

_START = datetime.timedelta(minutes=10)  # in which all ranks must have come
_WORK = datetime.timedelta(days=1)  # that one may need longer than another, for a machine that is lost without a word
_VARIABLES = (  # rank, number of ranks, rank on its machine, ranks on that machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", ""),  # SLURM gives each task processors of its own
)

T = TypeVar("T")


@dataclass(frozen=True)
class Rank:
    """Which of several processes this is.

    Attributes:
        index: from 0.
        world: how many there are.
        local: the index on its machine.
        local_world: how many share the processors that this process may use.
    """

    index: int
    world: int
    local: int
    local_world: int

    @classmethod
    def here(cls, variables: Mapping[str, str] = os.environ) -> Self:
        """Read the variables that torchrun sets, or else those of SLURM.

        Args:
            variables: the environment.

        Returns:
            The rank of this process.

        Raises:
            ValueError: there are no such variables, or they are no numbers.
        """
        for index, world, local, local_world in _VARIABLES:
            if index in variables and world in variables:
                found = [variables[index], variables[world], variables.get(local, "0"), variables.get(local_world, "1")]
                if all(value.isdecimal() for value in found) and int(found[0]) < int(found[1]) and int(found[3]):
                    return cls(*map(int, found))
                raise ValueError(f"{index}={found[0]} and {world}={found[1]} name no rank")
        raise ValueError("nothing tells the rank of this process: start it by torchrun, or by srun within SLURM")

    def device(self, name: str) -> str:
        """Choose among the GPUs of this machine.

        Args:
            name: a device of torch.

        Returns:
            The same; for "cuda" the GPU of this rank, where the ranks of a machine take turns.
        """
        return f"cuda:{self.local % torch.cuda.device_count()}" if name == "cuda" else name


class _Job(NamedTuple):
    """What rank 0 broadcasts of a run."""

    digest: str = ""  # of the plan
    visible: str | None = None  # a picture that all machines must see


def run_ranks(
    rank: Rank,
    folder: str,
    model: nn.Module,
    planned: Callable[[], contextlib.AbstractContextManager[Plan]],
    settings: Callable[[], RunSettings],
    bar: tqdm,
) -> LocalizationSummary:
    """Do this rank's share of a run.

    `planned` makes the plan on rank 0 and holds the folder; `settings` gives this rank's, to compare with the plan's;
    `bar` counts pictures of all ranks.

    Raises:
        ValueError: this rank's settings are not the plan's.
        OSError: the results cannot be written, or this machine does not see the folder or the pictures.
        RuntimeError: a rank did not come, or has failed; or the network does not work.
    """
    with contextlib.ExitStack() as stack:
        team = stack.enter_context(_together(rank))
        if rank.index == 0:
            plan = stack.enter_context(planned())
            team.share(_Job(plan.digest, first_visible(plan)))
        else:
            job = team.share(_Job())
            plan = open_plan(folder, job.digest)
            check(plan, _decisive(settings()), job.visible)
        bar.total = plan.pictures
        worker = stack.enter_context(Worker(plan, model, decoding_threads=count_threads(rank.local_world)))
        stack.enter_context(plan.resumable())
        while True:
            missing = team.share(plan.missing() if rank.index == 0 else [])
            worker.run(missing[rank.index :: rank.world], lambda shard, mark: _show(bar, plan))
            team.wait()
            if rank.index == 0:
                wait_for_marks(plan, missing)
            if (summary := team.share(plan.finish() if rank.index == 0 else None)) is not None:
                return summary


def _decisive(settings: RunSettings) -> dict[str, Any]:
    """What of a rank's settings decides about rows by its own value, not by the plan's."""
    plans = {"threads", "batch_size"} | ({"compile"} if settings.options.compile == "auto" else set())
    return {name: value for name, value in settings.to_json().items() if name not in plans}


def _show(bar: tqdm, plan: Plan) -> None:
    if not bar.disable:
        bar.n = plan.done()
        bar.refresh()


class _Team(NamedTuple):
    """The ranks of this start. Each of them must make the same calls."""

    rank: Rank
    group: dist.ProcessGroup | None  # None for a rank alone

    def share(self, value: T) -> T:
        """What rank 0 gives; that of others does not count."""
        if self.group is None:
            return value
        values = [value]
        with self._lost():
            dist.broadcast_object_list(values, 0, self.group)
        return values[0]

    def wait(self) -> None:
        """Wait for all."""
        if self.group is not None:
            with self._lost():
                dist.barrier(self.group)

    @contextlib.contextmanager
    def _lost(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise RuntimeError(
                f"rank {self.rank.index} of {self.rank.world} has lost another, which has failed or was killed: start "
                f"all again, and they compute the rest ({str(error).partition('. ')[0]})"
            ) from error


@contextlib.contextmanager
def _together(rank: Rank) -> Iterator[_Team]:
    """Meet the other ranks. A group that the caller has opened already is left open."""
    if rank.world == 1:
        yield _Team(rank, None)
        return
    opened = not dist.is_initialized()
    try:
        if opened:
            store, index, world = next(rendezvous(meeting_point(), rank.index, rank.world, timeout=_START))
            start = PrefixStore(_agreed(store, rank), store)
            dist.init_process_group("gloo", store=start, timeout=_START, world_size=world, rank=index)
        group = dist.new_group(backend="gloo", timeout=_WORK)
        assert isinstance(group, dist.ProcessGroup)  # all ranks are in it
    except RuntimeError as error:
        raise RuntimeError(
            f"rank {rank.index} of {rank.world} has not met the others: have all been started within {_START}, and do "
            f"their machines reach each other? ({error})"
        ) from error
    try:
        yield _Team(rank, group)
    finally:
        if opened:
            dist.destroy_process_group()
        else:
            dist.destroy_process_group(group)


def _agreed(store: Store, rank: Rank) -> str:
    """A name for this start that all ranks agree on: torchrun's store keeps what ranks of an earlier start wrote.

    Its count of restarts is no such name, since it may differ from node to node. Each rank asks under a word of its
    own, so that no earlier answer can be taken for its, until rank 0 has answered.
    """
    own = os.urandom(8).hex()
    if rank.index > 0:
        store.set(f"fastcam/asks/{rank.index}", own)
        start = store.get(f"fastcam/answer/{own}").decode()  # waits
        store.set(f"fastcam/heard/{start}/{rank.index}", "")
        return start
    waiting, end = set(range(1, rank.world)), time.monotonic() + _START.total_seconds()
    while waiting:
        if time.monotonic() > end:
            raise RuntimeError(f"no sign of rank {', '.join(map(str, sorted(waiting)))}")
        for other in [*waiting]:
            if store.check([f"fastcam/heard/{own}/{other}"]):
                waiting.remove(other)
            elif store.check([f"fastcam/asks/{other}"]):
                store.set(f"fastcam/answer/{store.get(f'fastcam/asks/{other}').decode()}", own)
        time.sleep(0.05)
    return own


def meeting_point(variables: Mapping[str, str] = os.environ) -> str:
    """Where ranks meet, for torch.distributed: as MASTER_ADDR says, or at the first machine of SLURM's step.

    Raises:
        ValueError: no variable says so.
    """
    if "MASTER_ADDR" in variables:
        return "env://"
    machines = variables.get("SLURM_STEP_NODELIST") or variables.get("SLURM_JOB_NODELIST")
    if not machines:
        raise ValueError("nothing tells where the ranks meet: set MASTER_ADDR and MASTER_PORT, as torchrun does")
    first = re.match(r"(\[[^]]*\]|[^,[])*", machines)
    host = re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first[0] if first else machines)  # gpu[07-09,12],cpu1
    number = int(variables.get("SLURM_JOB_ID", 0)) * 31 + int(variables.get("SLURM_STEP_ID", 0))
    return f"tcp://{host}:{20_000 + number % 12_000}"  # below the ports that systems give out themselves
