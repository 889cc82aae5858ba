"""Tasks of a Ray cluster: one for each shard, without state, so that any process on any machine may run it again.

Neither Ray Data nor actors: in a trial the former kept all rows for one file at the very end, and a pool of the latter
hung when a node died.
"""

import contextlib
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn
from tqdm import tqdm

from fastcam.localization import Plan, Summary, Worker
from fastcam.localization.engines.checks import check, witness
from fastcam.localization.settings import versions

_RETRIES = 3  # of a task whose process or machine dies
_AHEAD = 1000  # tasks that wait at Ray
_PATIENCE = 120.0  # seconds until a mark that was made elsewhere must be seen here


class _Job(NamedTuple):
    """What every task of a run is given."""

    folder: str
    digest: str
    model: Any  # Ray's reference; not resolved, unless the process needs it
    witness: str | None
    threads: int


def run_tasks(plan: Plan, model: nn.Module, address: str | None, bar: tqdm) -> Summary:
    """Compute all missing shards on a Ray cluster, and finish the run.

    Args:
        plan: the run.
        model: the network.
        address: as for `fastcam.localization.engines.machines.localize`.
        bar: counts pictures.

    Returns:
        What the run did.

    Raises:
        ImportError: Ray is not installed.
        OSError, ValueError, RuntimeError: what a task raised.
        ConnectionError: there is no cluster at the address.
        RuntimeError: the process of a shard died again and again.
    """
    missing = plan.missing()
    bar.update(plan.pictures - sum(map(plan.size, missing)))
    if plan.finished() is not None:
        return plan.finish().told()
    with _cluster(address) as (ray, guest):
        reference = ray.put(deepcopy(model).cpu())
        needs = _needs(plan, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        job = _Job(str(plan.folder), plan.digest, reference, witness(plan), min(8, needs["num_cpus"]))
        task = ray.remote(max_retries=_RETRIES, **needs)(compute)
        while True:
            try:
                _run(ray, plan, lambda shard: task.remote([job], shard), missing, bar, cancel=guest)
            except BaseException as error:
                done = plan.shards - len(plan.missing())
                error.add_note(f"{done} of {plan.shards} parts are done; the same call computes the rest")
                raise
            if (summary := plan.finish()) is not None:
                return summary.told()
            missing = plan.missing()


def _needs(plan: Plan, machines: list[Mapping[str, float]]) -> dict[str, int]:
    """What Ray must set aside for a task: processors for the network's threads, or a GPU and its share of them."""
    if plan.settings["device"] == "cpu":
        most = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        return {"num_cpus": min(plan.settings["threads"], most or plan.settings["threads"])}
    shares = [int(machine.get("CPU", 0) // machine["GPU"]) for machine in machines if machine.get("GPU", 0) >= 1]
    return {"num_cpus": max(1, min(shares, default=1)), "num_gpus": 1}


def compute(job: list[_Job], shard: int) -> int:
    """Compute one shard; in a process of Ray's.

    Args:
        job: what the run's tasks are given. In a list, since Ray resolves the references that it finds in arguments
            themselves, and the model would travel with every task.
        shard: its index.

    Returns:
        The same.

    Raises:
        OSError: this machine does not see the run's folder or the pictures, or the part cannot be written.
        ValueError: this machine's versions are not those of the plan.
        RuntimeError: the network does not work.
    """
    _worker(*job).run([shard])
    return shard


@lru_cache(1)  # an earlier run's worker goes
def _worker(job: _Job) -> Worker:
    """What a process keeps from one shard to the next: the network, on its device, and threads."""
    import ray

    host = socket.gethostname()
    try:
        plan = Plan.load(job.folder)
    except FileNotFoundError:
        raise FileNotFoundError(f"{host} does not see {job.folder}: all machines must share the run's folder") from None
    if plan.digest != job.digest:
        raise FileNotFoundError(f"{host} sees another run in {job.folder}: all machines must share the run's folder")
    check(plan, versions(plan.settings["decoder"]), job.witness)
    worker = Worker(plan, ray.get(job.model).to(plan.settings["device"]), decoding_threads=job.threads)
    return worker.__enter__()  # for the life of the process


def _run(
    ray: ModuleType, plan: Plan, submit: Callable[[int], Any], shards: list[int], bar: tqdm, *, cancel: bool
) -> None:
    """Run the tasks of shards, and wait until their marks are seen; after an error `cancel` those that are left."""
    waiting, pending = iter(shards), {}
    try:
        while True:
            pending.update((submit(shard), shard) for shard in islice(waiting, _AHEAD - len(pending)))
            if not pending:
                break
            (ready,), _ = ray.wait(list(pending))
            shard = pending.pop(ready)
            try:
                ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause or RuntimeError(f"shard {shard}: {error}") from error
            except ray.exceptions.RayError as error:
                first = shard * plan.shard_size
                raise RuntimeError(
                    f"Ray gave up shard {shard}, pictures {first} to {first + plan.size(shard) - 1}: "
                    f"{type(error).__name__} {error}"
                ) from error
            bar.update(plan.size(shard))
    finally:
        # Ray 2.60 ends this process, by a failed check of its own, where a task is cancelled that has just ended. So
        # only those are that would go on otherwise.
        running = ray.wait(list(pending), num_returns=len(pending), timeout=0)[1] if cancel and pending else ()
        for task in running:
            ray.cancel(task, force=True)
    end = time.monotonic() + _PATIENCE
    while unseen := [shard for shard in shards if plan.mark(shard) is None]:
        if time.monotonic() > end:
            raise OSError(
                f"shard {unseen[0]} was computed elsewhere, but is not in {plan.folder} here after {_PATIENCE:g} s: "
                "all machines must share the run's folder"
            )
        time.sleep(1)


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[tuple[ModuleType, bool]]:
    """Connect to a cluster, unless this process is already, as is told; else all tasks end with the connection."""
    try:
        import ray
    except ImportError:
        raise ImportError('the engine "ray" needs Ray: pip install "fastcam[ray]"') from None
    if ray.is_initialized():
        yield ray, True
        return
    place = re.fullmatch(r"\[?([^/]+?)\]?:(\d+)", address or "")
    if place:  # Ray itself would try for a quarter of an hour
        try:
            socket.create_connection((place[1], int(place[2])), 10).close()
        except OSError as error:
            raise ConnectionError(f"there is no Ray cluster at {address}: {error}") from error
    ray.init(address=address, logging_level="WARNING", include_dashboard=False)
    try:
        yield ray, False
    finally:
        ray.shutdown()
