"""Reading ahead: order, how far ahead, errors, and an early end."""

import gc
import os
import threading
import time
import weakref

import pytest

from fastcam.pictures.stream import ahead, batched, count_threads, stream


def readers() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("fastcam-read")}


def test_results_come_in_the_order_of_the_items():
    def prepare(number):
        time.sleep(0.01 * (number % 3 == 0))
        return number * number

    given = [[0, 1, 2], [3], [], [4, 5, 6, 7, 8, 9, 10, 11]]
    assert list(stream(given, prepare)) == [[number * number for number in batch] for batch in given]
    assert list(stream(given, prepare, prefetch=1, threads=1)) == list(stream(given, prepare, prefetch=7, threads=9))
    assert list(stream([], prepare)) == []


def test_items_are_taken_and_prepared_when_their_turn_comes():
    taken, prepared = [], []
    batches = ([taken.append(number) or number] for number in range(100))
    results = stream(batches, prepared.append, prefetch=2, threads=1)
    assert taken == []
    for used in range(4):
        next(results)
        assert taken == list(range(used + 3))
        assert prepared[: used + 1] == list(range(used + 1))
    results.close()
    assert len(prepared) <= 6


def test_three_batches_are_in_memory():
    class Picture:
        """Has weak references."""

    alive, most = weakref.WeakSet(), 0

    def prepare(_):
        alive.add(picture := Picture())
        return picture

    for batch in stream(batched(range(40), 4), prepare, threads=2):
        time.sleep(0.002)
        gc.collect()
        most = max(most, len(alive))
        assert len(batch) == 4
    assert 8 <= most <= 12


def test_an_error_comes_in_its_turn():
    def prepare(number):
        if number == 4:
            raise ValueError("four")
        return number

    found = []
    with pytest.raises(ValueError, match="four"):
        found.extend(stream(batched(range(9), 2), prepare))
    assert found == [[0, 1], [2, 3]]

    def broken():
        yield from ([0], [1], [2])
        raise OSError("no more")

    found = []
    with pytest.raises(OSError, match="no more"):
        found.extend(stream(broken(), prepare))
    assert found == [[0], [1], [2]]


def test_threads_end_with_the_loop():
    def prepare(number):
        time.sleep(0.01)
        if number == 50:
            raise ValueError("fifty")
        return number

    before = readers()

    def first():
        for batch in stream(batched(range(1000), 4), prepare):
            return batch

    assert first() == [0, 1, 2, 3]
    assert readers() == before
    for _ in stream(batched(range(1000), 4), prepare):
        assert len(readers()) > len(before)
        break
    assert readers() == before

    def failing():
        for _ in stream(batched(range(1000), 4), prepare):
            raise RuntimeError("elsewhere")

    with pytest.raises(RuntimeError, match="elsewhere"):
        failing()
    assert readers() == before
    with pytest.raises(ValueError, match="fifty"):
        list(stream(batched(range(1000), 4), prepare))
    assert readers() == before


def test_processes_share_the_processors(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)))
    assert [count_threads(), count_threads(2), count_threads(4), count_threads(7)] == [6, 3, 1, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert [count_threads(), count_threads(1)] == [2, 6]
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert [count_threads(), count_threads(1), count_threads(16)] == [8, 8, 4]


def test_batched():
    assert list(batched(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batched("ab", 2)) == [["a", "b"]]
    assert list(batched("", 2)) == []


def test_ahead_runs_in_another_thread_one_item_ahead():
    made, closed = [], threading.Event()

    def numbers():
        try:
            for number in range(5):
                made.append((number, threading.get_ident()))
                yield number
        finally:
            closed.set()

    items = ahead(numbers())
    assert next(items) == 0
    while len(made) < 2:  # the next one, while this one is used
        time.sleep(0.001)
    time.sleep(0.02)
    assert [number for number, _ in made] == [0, 1]
    assert threading.get_ident() not in {thread for _, thread in made}
    items.close()
    assert closed.is_set()
    assert list(ahead(numbers())) == [0, 1, 2, 3, 4]
    assert list(ahead([7, None])) == [7, None]


def test_ahead_raises_in_turn():
    def numbers():
        yield 1
        raise ValueError("later")

    items = ahead(numbers())
    assert next(items) == 1
    with pytest.raises(ValueError, match="later"):
        next(items)
