"""Every operator on the CPU beside its twin and what one would write instead: ``pytest benchmarks``.

The tables of pytest-benchmark compare within a group: one work, one number of images in a call, one number of threads
for all. Slow contestants are left out where they would take minutes.
"""

import os
import time
from collections.abc import Iterator
from functools import lru_cache

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from fastcam._memory import keep_memory
from fastcam.bench.cpu import set_threads
from fastcam.bench.operators import OPERATORS, Alternative, Inputs, Work

THREADS = sorted({1, torch.get_num_threads()})
MOST_BYTES = 4 * 2**30
MOST_SECONDS = 4.0  # of a call
SECONDS = float(os.environ.get("FASTCAM_BENCH_SECONDS", "0.4"))  # about so long for each


def contests() -> Iterator[tuple[Work, Alternative]]:
    """Each work with each of its contestants."""
    for work in (work for operator in OPERATORS for work in operator.cpu):
        for contestant in (Alternative("fastcam", work.ours()), *work.others(), *work.twins()):
            if work.images * work.seconds(contestant) <= MOST_SECONDS:
                yield work, contestant


@lru_cache(maxsize=1)  # for all contestants of a work
def made(work: Work) -> Inputs:
    torch.manual_seed(0)
    return work.inputs(work.images, "cpu")


@lru_cache(maxsize=1)
def needed(work: Work) -> int:
    """Bytes for inputs, result and what is between, roughly."""
    return 3 * work.images * (held(inputs := work.inputs(1, "cpu")) + held(work.ours()(*inputs)))


def held(tensors: object) -> int:
    if isinstance(tensors, torch.Tensor):
        return tensors.nbytes
    return sum(map(held, tensors)) if isinstance(tensors, tuple) else 0


def plain(work: Work) -> str:
    """A title in ASCII, since pytest escapes the rest of Unicode."""
    return work.title.replace("×", "x").replace("² ", " ").replace("²", "").replace("→", "to")


def threads_of(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


@pytest.fixture(scope="module", autouse=True)
def _memory_stays() -> None:
    keep_memory()


@pytest.fixture(params=THREADS, ids=threads_of)
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    set_threads(request.param)
    yield request.param
    set_threads(before)


@pytest.mark.parametrize(
    ("work", "contestant"),
    [pytest.param(*each, id=f"{plain(each[0])}, {each[0].images} images-{each[1].name}") for each in contests()],
)
def test_speed(benchmark: BenchmarkFixture, work: Work, contestant: Alternative, threads: int) -> None:
    if needed(work) > MOST_BYTES:
        pytest.skip(f"needs about {needed(work) / 2**30:.0f} GiB")
    inputs = made(work)
    for _ in range(2):  # warm-up, and once more to see how many rounds there is time for
        start = time.perf_counter()
        contestant.call(*inputs)
        rounds = int(SECONDS / (time.perf_counter() - start))
        if not rounds:
            break
    benchmark.group = f"{work.title}, {work.images} images, {threads_of(threads)}"
    benchmark.name = contestant.name
    benchmark.pedantic(contestant.call, inputs, rounds=min(max(3, rounds), 200) if rounds else 1)
