"""Work ahead of those who wait for it, in order; and memory for those who work long."""

import ctypes
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


def in_order(
    pool: ThreadPoolExecutor, work: Callable[..., T], jobs: Iterable[tuple[object, ...]], ahead: int
) -> Iterator[T]:
    """Run jobs in a pool of threads and give their results in the order of the jobs.

    Args:
        pool: the threads.
        work: what to do with each job's parts.
        jobs: the arguments of each call; taken when their turn comes.
        ahead: how many results may be finished or in work beyond the one that is given, at least 1.

    Yields:
        The results; an exception of a job is raised in its turn.
    """
    waiting: deque[Future[T]] = deque()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, *job))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Cut a stream into lists.

    Args:
        items: the stream.
        size: of each list, at least 1; the last may be shorter.

    Yields:
        The lists, none of them empty.
    """
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

    Args:
        items: the stream; if it is a generator, it is closed at the end.

    Yields:
        Its items; an exception of the stream is raised in its turn.
    """
    end = object()
    stream = iter(items)
    try:
        with ThreadPoolExecutor(1, "fastcam-ahead") as thread:
            following = thread.submit(next, stream, end)
            while (item := following.result()) is not end:
                following = thread.submit(next, stream, end)
                yield item
    finally:
        if isinstance(stream, Generator):
            stream.close()


def keep_memory() -> None:
    """Have the C library keep what is freed, from now on, in the whole process.

    Else a tensor of some megabytes may or may not be made of fresh pages, which cost more than most operators and, of a
    network's forward pass, a tenth. Which of both depends on what the process allocated before.
    """
    with suppress(OSError, AttributeError):  # no glibc
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)  # M_MMAP_MAX: no mapping of its own for a large block
        library.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: the heap never shrinks
