"""The engine of one machine: processes that share the shards, and are replaced when they die."""

import contextlib
import os
import pickle
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection, get_context
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from fastcam._memory import keep_memory
from fastcam.localization.plan import Plan
from fastcam.localization.worker import Worker

_ATTEMPTS = 3  # of a shard whose workers die


class _Hand(NamedTuple):
    process: BaseProcess
    pipe: connection.Connection
    claimed: set[int]


def run_workers(
    plan: Plan, model: nn.Module, shards: Sequence[int], workers: int, on_pictures: Callable[[int], object]
) -> None:
    """Compute shards in several processes. One that dies is replaced, and its shards are computed again.

    Args:
        plan: the run.
        model: the network; each process gets a copy.
        shards: their indices.
        workers: number of processes.
        on_pictures: called with a number of pictures when these have been computed.

    Raises:
        OSError, RuntimeError, ValueError: what a worker raised.
        RuntimeError: the workers of a shard died three times, or as they began.
        TypeError: the model cannot be pickled.
    """
    try:
        packed = pickle.dumps(model)
    except Exception as error:
        raise TypeError(f"with several workers the model must be one that can be pickled: {error}") from error
    context = get_context("spawn")
    waiting, deaths = deque(shards), Counter()
    hands: list[_Hand] = []
    threads = max(1, len(os.sched_getaffinity(0)) // workers)

    def hire() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(plan.folder, theirs, threads), daemon=True)
        process.start()
        theirs.close()
        hands.append(_Hand(process, ours, set()))

    def bury(hand: _Hand) -> None:
        hand.process.join()
        hands.remove(hand)
        lost = sorted(shard for shard in hand.claimed if plan.mark(shard) is None)
        for shard in lost:
            deaths[shard] += 1
            if deaths[shard] == _ATTEMPTS:
                raise RuntimeError(
                    f"{_ATTEMPTS} workers died at shard {shard}, pictures {shard * plan.shard_size} to "
                    f"{shard * plan.shard_size + plan.size(shard) - 1}; the last with exit code {hand.process.exitcode}"
                )
        if not hand.claimed and hand.process.exitcode:
            deaths[None] += 1
            if deaths[None] == _ATTEMPTS:
                raise RuntimeError(
                    f"{_ATTEMPTS} workers died before their first shard, "
                    f"the last with exit code {hand.process.exitcode}"
                )
        waiting.extendleft(reversed(lost))
        if waiting:
            hire()

    try:
        for _ in range(min(workers, len(shards))):
            hire()
        while hands:
            ready = connection.wait([hand.pipe for hand in hands])
            for hand in [hand for hand in hands if hand.pipe in ready]:
                try:
                    kind, value = hand.pipe.recv()
                    if kind == "model":
                        hand.pipe.send_bytes(packed)
                    elif kind == "next":
                        shard = waiting.popleft() if waiting else None
                        hand.claimed.update(() if shard is None else [shard])
                        hand.pipe.send(shard)
                    elif kind == "done":
                        hand.claimed.discard(value)
                    elif kind == "pictures":
                        on_pictures(value)
                    else:
                        raise value
                except (EOFError, ConnectionError):  # it ended, or died
                    bury(hand)
    finally:
        for hand in hands:
            hand.process.kill()  # parts appear whole or not at all
        for hand in hands:
            hand.process.join()


def _work(folder: Path, pipe: connection.Connection, decoding_threads: int) -> None:
    """Be a worker process, until there is no shard left or the other end of the pipe is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that started this one
    keep_memory()
    lock = threading.Lock()  # parts are written, and told of, in a thread of their own

    def tell(kind: str, value: Any = None) -> None:
        with lock:
            pipe.send((kind, value))

    def claims() -> Iterator[int]:
        tell("next")
        while (shard := pipe.recv()) is not None:
            yield shard
            tell("next")

    try:
        # Not an argument: for a process that dies before it reads a large one, Process.start would wait for ever.
        tell("model")
        model = pickle.loads(pipe.recv_bytes())
        with Worker(Plan.load(folder), model, decoding_threads=decoding_threads) as worker:
            worker.run(claims(), lambda shard, mark: tell("done", shard), lambda pictures: tell("pictures", pictures))
    except (EOFError, ConnectionError):
        return
    except Exception as error:
        with contextlib.suppress(ConnectionError):
            try:
                tell("error", error)
            except (pickle.PicklingError, TypeError, AttributeError):
                tell("error", RuntimeError(f"{type(error).__name__}: {error}"))
