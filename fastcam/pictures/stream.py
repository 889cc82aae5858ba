"""Reading ahead: pictures are decoded and resized in threads while the network is busy with those before them.

    for loaded in stream(batched(range(len(data)), 32), load):
        ...

is the loop of everything that goes through many pictures. `load` does the work of one item, in a thread; what it raises
is raised here when the item's batch is due, what it returns (an error, too, where one picture must not stop the rest)
is in the batch. A batch may have any number of items, so that whoever makes the batches decides where they end.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

_MOST_THREADS = 8  # more of them decode no faster, they wait for memory and for Python

S = TypeVar("S")
T = TypeVar("T")


def count_threads(processes: int | None = None) -> int:
    """How many threads prepare pictures in one process: one for each processor that it may use, at most 8.

    `processes` share the machine, by default as many as torchrun's LOCAL_WORLD_SIZE says.
    """
    if processes is None:
        processes = int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return max(1, min(_MOST_THREADS, len(os.sched_getaffinity(0)) // processes))


def stream(
    batches: Iterable[Iterable[S]], prepare: Callable[[S], T], *, prefetch: int = 2, threads: int | None = None
) -> Iterator[list[T]]:
    """Prepare items in threads, ahead of whoever uses them, and give them batch by batch in their order.

    Used directly in a `for`, it lets go of its threads when the loop ends, also by `break`, `return` or an error.

    Args:
        batches: the items of each batch, taken in the caller's thread when their turn comes. If that fails, the batches
            before come first.
        prepare: does the work of one item, in a thread; inside `quiet_pillow` if it decodes.
        prefetch: batches in work or ready while one is used, so that `prefetch` + 1 are in memory.
        threads: by default `count_threads()`.

    Yields:
        What `prepare` returned for the items of each batch.

    Raises:
        Exception: what `prepare` or `batches` raised, when that batch is due.
    """
    waiting: deque[list[Future[T]]] = deque()
    source, failure = iter(batches), None
    pool = ThreadPoolExecutor(threads or count_threads(), "fastcam-read")
    try:
        while True:
            try:
                batch = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            # Waits before the next is begun: the one that is used, those ahead, and no more are in memory.
            due = [future.result() for future in waiting.popleft()] if len(waiting) == prefetch else None
            waiting.append([pool.submit(prepare, item) for item in batch])
            if due is not None:
                yield due
                del due
        while waiting:
            yield [future.result() for future in waiting.popleft()]
        if failure is not None:
            raise failure
    finally:
        pool.shutdown(cancel_futures=True)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists of `size` items, at least 1; the last may be shorter."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def ahead(items: Iterable[T]) -> Iterator[T]:
    """Take a stream in another thread, one item ahead, so that making the next and using this one overlap.

    An exception of the stream is raised in its turn; if it is a generator, it is closed at the end.
    """
    source = iter(items)

    def following() -> list[T]:
        return list(islice(source, 1))

    try:
        with ThreadPoolExecutor(1, "fastcam-ahead") as thread:
            future = thread.submit(following)
            while item := future.result():
                future = thread.submit(following)
                yield item[0]
    finally:
        if isinstance(source, Generator):
            source.close()
