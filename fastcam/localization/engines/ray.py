"""Tasks of a Ray cluster: one for each shard, without state, so that any process on any machine may run it again.

Neither Ray Data nor actors: in a trial the former kept all rows for one file at the very end, and a pool of the latter
hung when a node died.
"""

import contextlib
import logging
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from itertools import islice
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn
from tqdm import tqdm

from fastcam.localization.engines.sharing import check, first_visible, open_plan, wait_for_marks
from fastcam.localization.plan import LocalizationSummary, Plan
from fastcam.localization.run_settings import versions
from fastcam.localization.worker import Worker

_RETRIES = 3  # of a task whose process or machine dies
_AHEAD = 1000  # tasks that wait at Ray


class _Job(NamedTuple):
    """What every task of a run is given."""

    folder: str
    digest: str
    model: Any  # Ray's reference; not resolved, unless the process needs it
    visible: str | None  # a picture that all machines must see
    threads: int


def run_tasks(plan: Plan, model: nn.Module, address: str | None, bar: tqdm) -> LocalizationSummary:
    """Compute all missing shards on a Ray cluster, and finish the run; `bar` counts pictures.

    Raises:
        ImportError: Ray is not installed.
        OSError, ValueError, RuntimeError: what a task raised.
        ConnectionError: there is no cluster at the address.
        RuntimeError: the process of a shard died again and again.
    """
    missing = plan.missing()
    bar.update(plan.done())
    if (summary := plan.finished()) is not None:
        return summary
    with _cluster(address) as (ray, guest), plan.resumable():
        reference = ray.put(deepcopy(model).cpu())
        needs = _needs(plan, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        job = _Job(str(plan.folder), plan.digest, reference, first_visible(plan), min(8, needs["num_cpus"]))
        task = ray.remote(max_retries=_RETRIES, **needs)(compute)
        while True:
            _run(ray, plan, lambda shard: task.remote([job], shard), missing, bar, cancel=guest)
            wait_for_marks(plan, missing)
            if (summary := plan.finish()) is not None:
                return summary
            missing = plan.missing()


def _needs(plan: Plan, machines: list[Mapping[str, float]]) -> dict[str, int]:
    """What Ray must set aside for a task: processors for the network's threads, or a GPU and its share of them."""
    if plan.settings.device == "cpu":
        most = max((int(machine.get("CPU", 0)) for machine in machines), default=0)
        return {"num_cpus": min(plan.settings.threads, most or plan.settings.threads)}
    shares = [int(machine.get("CPU", 0) // machine["GPU"]) for machine in machines if machine.get("GPU", 0) >= 1]
    return {"num_cpus": max(1, min(shares, default=1)), "num_gpus": 1}


def compute(job: list[_Job], shard: int) -> int:
    """Compute one shard, in a process of Ray's; its index again.

    The job is in a list, since Ray resolves the references that it finds in arguments themselves, and the model would
    travel with every task.

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

    plan = open_plan(job.folder, job.digest)
    check(plan, versions(plan.settings.decoder), job.visible)
    worker = Worker(plan, ray.get(job.model).to(plan.settings.device), decoding_threads=job.threads)
    return worker.__enter__()  # for the life of the process


def _run(
    ray: ModuleType, plan: Plan, submit: Callable[[int], Any], shards: list[int], bar: tqdm, *, cancel: bool
) -> None:
    """Run the tasks of shards; after an error `cancel` those that are left."""
    waiting, pending = iter(shards), dict[Any, int]()  # Ray's reference of a task → shard
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


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[tuple[ModuleType, bool]]:
    """Connect to a cluster; or, as the second value says, be a guest of the connection that this process has already.

    At the end of a connection of our own all of its tasks end.
    """
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
    ray.init(address=address, logging_level=logging.WARNING, include_dashboard=False)
    try:
        yield ray, False
    finally:
        ray.shutdown()
