"""The engine of one machine: a pool of processes that share the shards, made again when one of them is killed."""

import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import Array, c_int64
from multiprocessing import active_children, get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import NamedTuple

from torch import nn

from fastcam._memory import keep_memory
from fastcam.localization.plan import Plan
from fastcam.localization.worker import Worker
from fastcam.pictures.stream import count_threads

_ATTEMPTS = 3  # pools in a row that break before a shard is done
_INTERVAL = 0.2  # seconds between two looks at the pictures computed


class _Shared(NamedTuple):
    """What the processes of a pool inherit. One that is killed may leave `taken` locked: the pool ends with it."""

    lifeline: Connection  # at its end when the main process gives up or is gone
    taken: "Synchronized[int]"  # how many of the shards some process has begun
    pictures: "Array[c_int64]"  # how many each process has computed


class _Broken(NamedTuple):
    """The end of a pool of which a process died."""

    begun: bool  # whether some process had begun a shard
    code: int  # exit code of the one that died
    pictures: int  # that were counted


_shared: _Shared  # in a process of the pool


def run_workers(
    plan: Plan, model: nn.Module, shards: Sequence[int], workers: int, on_pictures: Callable[[int], object]
) -> None:
    """Compute shards in several processes, each with a copy of the model; `on_pictures` gets numbers of pictures.

    When a process is killed, the pool ends, and another goes on with what is missing. The last of several attempts is a
    process alone: it has all the memory, and the shard that kills it is known.

    Raises:
        OSError, RuntimeError, ValueError: what a worker raised.
        RuntimeError: workers died three times without a shard done.
        TypeError: the model cannot be pickled.
    """
    try:
        packed = pickle.dumps(model)
    except Exception as error:
        raise TypeError(f"with several workers the model must be one that can be pickled: {error}") from error
    failures = 0
    while shards:
        count = min(workers, len(shards)) if failures < _ATTEMPTS - 1 else 1
        broken = _run_pool(plan, packed, shards, count, on_pictures)
        if broken is None:
            return
        left = [shard for shard in shards if plan.mark(shard) is None]
        on_pictures(sum(map(plan.size, shards)) - sum(map(plan.size, left)) - broken.pictures)
        failures = failures + 1 if len(left) == len(shards) else 0
        if failures == _ATTEMPTS:
            where = "before their first shard, the last"
            if broken.begun:
                first = left[0] * plan.shard_size
                where = f"at shard {left[0]}, pictures {first} to {first + plan.size(left[0]) - 1}; the last"
            raise RuntimeError(f"{_ATTEMPTS} workers died {where} with exit code {broken.code}")
        shards = left


def _run_pool(
    plan: Plan, packed: bytes, shards: Sequence[int], count: int, on_pictures: Callable[[int], object]
) -> _Broken | None:
    """Run one pool to its end; None if that is the end of the shards."""
    context = get_context("spawn")
    lifeline, held = context.Pipe(duplex=False)
    shared = _Shared(lifeline, context.Value("q", 0), context.RawArray(c_int64, count))
    threads = count_threads(count)
    seen, pending, processes, others = 0, set[Future[None]](), set[BaseProcess](), set(active_children())
    with held, lifeline, ProcessPoolExecutor(count, context, _begin, (shared,)) as pool:
        try:
            for index in range(count):
                # The model goes with the tasks: for a process that dies before it reads a large argument of its own,
                # Process.start would wait for ever.
                pending.add(pool.submit(_work, index, plan.folder, packed, shards, threads))
                processes.update(active_children())
            while pending:
                done, pending = wait(pending, _INTERVAL, FIRST_EXCEPTION)
                now = sum(shared.pictures)
                on_pictures(now - seen)
                seen = now
                for task in done:
                    task.result()
            return None
        except BrokenProcessPool:
            pass
        except BaseException:
            held.close()  # the processes end at once: parts appear whole or not at all
            raise
    ended = (process.exitcode for process in processes - others)
    codes = [code for code in ended if code not in (0, -signal.SIGTERM, None)]  # the pool ends the others by SIGTERM
    begun = shared.taken.get_obj().value > 0  # without the lock, which the one that died may hold
    return _Broken(begun, next(iter(codes), -signal.SIGTERM), seen)


def _begin(shared: _Shared) -> None:
    """Begin a process of the pool, which ends at once when the main process gives up, or is gone."""
    global _shared
    _shared = shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that started this one
    threading.Thread(target=lambda: (shared.lifeline.poll(None), os._exit(1)), daemon=True).start()
    keep_memory()


def _work(index: int, folder: Path, packed: bytes, shards: Sequence[int], decoding_threads: int) -> None:
    """Compute shards until none is left that no other process has begun."""

    def claims() -> Iterator[int]:
        while True:
            with _shared.taken.get_lock():
                place = _shared.taken.value
                _shared.taken.value += 1
            if place >= len(shards):
                return
            yield shards[place]

    def count(pictures: int) -> None:
        _shared.pictures[index] += pictures

    if _shared.taken.get_obj().value >= len(shards):  # for a process that has ended a task before all have begun
        return
    try:
        with Worker(Plan.load(folder), pickle.loads(packed), decoding_threads=decoding_threads) as worker:
            worker.run(claims(), on_pictures=count)
    except Exception as error:
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            raise RuntimeError(f"{type(error).__name__}: {error}") from None
        raise
