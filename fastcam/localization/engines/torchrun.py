"""Ranks that torchrun or SLURM has started: each takes its shards, then those that others leave undone.

They speak through files in the run's folder only: whatever waits for all ranks, a barrier or a reduction, waits for
ever once a node is dead. OUT/ranks/3.json is rewritten by rank 3 as long as it lives. It tells which shards it is at,
so that others pass over them; when it no longer changes, they do not. Only time in which a rank was awake itself counts
for that: nobody is taken for dead because all machines, or all that share one, stood still. The lowest rank that lives
finishes the run when nothing is missing and nobody is at work. Rank 0 makes the plan; the others begin when its file
names them and the plan, so that a plan or a file that an earlier start has left misleads nobody.
"""

import contextlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import nn
from tqdm import tqdm

from fastcam._files import replacing
from fastcam.localization import Plan, Summary, Worker
from fastcam.localization.engines.checks import check, witness

_VARIABLES = (  # rank, number of ranks, rank on its machine, ranks on that machine
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", ""),  # SLURM gives each task processors of its own
)


class Rank(NamedTuple):
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


class Roster:
    """Who is at work, as one rank sees it. Used in a `with` block, in which this rank counts as living.

    Args:
        folder: for the ranks' files.
        rank: this one.
        patience: seconds without a change of its file after which another counts as dead, as far as this process was
            awake and could have seen one.

    Attributes:
        interval: seconds between two signs of life.
        came: ranks whose files have been seen.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, folder: Path, rank: Rank, patience: float) -> None:
        self.folder, self.rank, self.patience = folder, rank, patience
        self.interval = min(2.0, patience / 10)
        self.came: set[int] = set()
        self._said: dict[str, Any] = {"name": os.urandom(8).hex(), "beat": 0, "shards": [], "done": False}
        self._heard: dict[int, tuple[dict[str, Any], float]] = {}  # what others said last, and since when, awake
        self._awake, self._ticked = 0.0, time.monotonic()
        self._lock, self._stop = threading.RLock(), threading.Event()
        self._thread = threading.Thread(target=self._live, name="fastcam-roster", daemon=True)

    def __enter__(self) -> Self:
        self.say()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        self._path(self.rank.index).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # others are there
            self.folder.rmdir()

    def _path(self, rank: int) -> Path:
        return self.folder / f"{rank}.json"

    def _live(self) -> None:
        while not self._stop.wait(self.interval):
            self.awake()
            with contextlib.suppress(OSError):  # worse things follow if the disk is full, and are raised there
                names = {rank: said["name"] for rank, said in self.look().items()} if self.rank.index == 0 else {}
                self.say(beat=self._said["beat"] + 1, names=names)

    def awake(self) -> float:
        """Tell how long this process has been awake.

        Returns:
            Seconds, in which what it slept at a time, or its machine or file system did, counts as two intervals.
        """
        with self._lock:
            now = time.monotonic()
            self._awake += min(now - self._ticked, 2 * self.interval)
            self._ticked = now
            return self._awake

    def say(self, **known: Any) -> None:
        """Tell the others something.

        Args:
            **known: JSON; it replaces what was said under these names.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            self._said |= known
            with replacing(self._path(self.rank.index)) as path:
                path.write_text(json.dumps(self._said), encoding="utf-8")

    def claim(self, shard: int) -> None:
        """Tell that this rank is at a shard.

        Args:
            shard: its index.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            self.say(shards=[*self._said["shards"], shard])

    def release(self, shard: int) -> None:
        """Tell that it no longer is.

        Args:
            shard: its index.

        Raises:
            OSError: the file cannot be written.
        """
        with self._lock:
            self.say(shards=[other for other in self._said["shards"] if other != shard])

    def look(self) -> dict[int, dict[str, Any]]:
        """Read what the others say.

        Returns:
            For each other rank that lives, what it said last.
        """
        with self._lock:
            now = self.awake()
            for rank in range(self.rank.world):
                try:
                    if rank != self.rank.index:
                        said = json.loads(self._path(rank).read_text(encoding="utf-8"))
                        if rank not in self._heard or said != self._heard[rank][0]:
                            self._heard[rank] = said, now
                except FileNotFoundError:
                    self._heard.pop(rank, None)
                except (OSError, json.JSONDecodeError):
                    pass  # replaced while it was read
            self.came.update(self._heard)
            return {rank: said for rank, (said, since) in self._heard.items() if now - since < self.patience}

    def leads(self, others: Mapping[int, Any]) -> bool:
        """Tell whether this is the lowest rank.

        Args:
            others: those that live.

        Returns:
            Whether it is.
        """
        return self.rank.index < min(others, default=self.rank.world)

    def join(self, folder: str) -> tuple[Plan, dict[str, Any]]:
        """Wait for the plan of rank 0.

        Args:
            folder: the run's.

        Returns:
            The plan, and what rank 0 says.

        Raises:
            RuntimeError: rank 0 gives no sign of life.
        """
        heard = self.awake()
        while True:
            said = self.look().get(0)
            if said is not None:
                heard = self.awake()
                if said.get("names", {}).get(str(self.rank.index)) == self._said["name"] and said.get("plan"):
                    with contextlib.suppress(OSError, ValueError):  # not seen on this machine yet
                        plan = Plan.load(folder)
                        if plan.digest == said["plan"]:
                            return plan, said
            elif self.awake() - heard > self.patience:
                raise RuntimeError(
                    f"rank {self.rank.index} has waited {self.patience:g} s for a sign of life of rank 0 in {folder}: "
                    "has it failed, and do all machines see this folder?"
                )
            time.sleep(self.interval)

    def dismiss(self) -> None:
        """Wait until all other ranks have gone, or are dead, and remove what the dead have left.

        Ranks that have not come yet have `patience` seconds to do so, since a late one would wait for the others.
        """
        begin = self.awake()
        self.say(done=True)
        while self.look() or (len(self.came) < self.rank.world - 1 and self.awake() - begin < self.patience):
            time.sleep(self.interval)
        for path in self.folder.iterdir():
            if re.fullmatch(r"\d+\.json|\.\d+\.json\.\d+\.tmp", path.name) and path != self._path(self.rank.index):
                path.unlink()


def run_ranks(
    rank: Rank,
    folder: str,
    model: nn.Module,
    prepare: Callable[[], Plan],
    settings: Callable[[], dict[str, Any]],
    patience: float,
    bar: tqdm,
) -> Summary:
    """Do this rank's share of a run, and whatever others leave undone.

    Args:
        rank: which this is.
        folder: the run's.
        model: the network, on its device.
        prepare: makes the plan, on rank 0.
        settings: gives this rank's settings, to be compared with the plan's.
        patience: seconds after which a silent rank counts as dead.
        bar: counts pictures of all ranks.

    Returns:
        What the run did.

    Raises:
        ValueError: this rank's settings are not the plan's.
        OSError: the results cannot be written, or this machine does not see the pictures.
        RuntimeError: as `Roster.join`, or the network does not work.
    """
    with Roster(Path(folder, "ranks"), rank, patience) as roster:
        if rank.index == 0:
            plan = prepare()
            roster.say(plan=plan.digest, witness=witness(plan))
        else:
            plan, said = roster.join(folder)
            # None of these decides about rows but by the plan's value.
            ours = {name: value for name, value in settings().items() if name not in ("threads", "batch_size")}
            check(plan, ours, said["witness"])
        bar.total = plan.pictures
        threads = max(1, min(8, len(os.sched_getaffinity(0)) // rank.local_world))
        with Worker(plan, model, decoding_threads=threads) as worker:
            summary = _work(plan, worker, roster, bar)
        if roster.leads(roster.look()):
            roster.dismiss()
            plan.finish(alone=False)
    return summary.told() if rank.index == 0 else summary


def _work(plan: Plan, worker: Worker, roster: Roster, bar: tqdm) -> Summary:
    """Compute shards until the table is there."""
    missing: list[int] = []
    while (summary := plan.finished()) is None:
        missing = [shard for shard in missing if plan.mark(shard) is None] or plan.missing()
        others = roster.look()  # after the marks: whoever claims a shard looks at its mark once more
        if missing and not any(said["done"] for said in others.values()):
            claims = _claims(plan, missing, roster, bar)
            if (first := next(claims, None)) is not None:
                try:
                    worker.run(chain([first], claims), lambda shard, mark: roster.release(shard))
                except OSError:
                    # A rank that slept until others took it for dead finds the parts put together already.
                    if plan.finished() is None:
                        raise
                continue
        elif not missing and roster.leads(others) and not any(said["shards"] for said in others.values()):
            plan.finish(alone=False)
            continue
        time.sleep(roster.interval)
    return summary


def _claims(plan: Plan, missing: list[int], roster: Roster, bar: tqdm) -> Iterator[int]:
    """Shards for this rank, claimed: every n-th, then those of others in an order of its own."""
    index, world = roster.rank.index, roster.rank.world
    rest = [shard for shard in missing if shard % world != index]
    random.Random(index).shuffle(rest)
    for shard in chain((shard for shard in missing if shard % world == index), rest):
        if plan.mark(shard) is not None or any(shard in said["shards"] for said in roster.look().values()):
            continue
        roster.claim(shard)
        if plan.mark(shard) is not None:
            roster.release(shard)
            continue
        if not bar.disable:
            bar.n = plan.pictures - sum(map(plan.size, plan.missing()))
            bar.refresh()
        yield shard
