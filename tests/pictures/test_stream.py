"""Threads that work ahead: order, how far ahead, errors, and an early end."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from fastcam.pictures.stream import ahead, batches, in_order


def test_results_come_in_the_order_of_the_jobs():
    def work(number, pause):
        time.sleep(pause)
        return number

    with ThreadPoolExecutor(4) as pool:
        jobs = ((number, 0.01 * (number % 3 == 0)) for number in range(20))
        assert list(in_order(pool, work, jobs, 5)) == list(range(20))


def test_jobs_are_taken_when_their_turn_comes():
    taken = []
    jobs = ((taken.append(number) or number,) for number in range(100))
    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, lambda number: number, jobs, 4)
        assert [next(results) for _ in range(3)] == [0, 1, 2]
        assert taken == list(range(6))
        results.close()


def test_an_error_comes_in_its_turn():
    def work(number):
        if number == 2:
            raise ValueError("two")
        return number

    with ThreadPoolExecutor(2) as pool:
        results = in_order(pool, work, ((n,) for n in range(5)), 3)
        assert [next(results), next(results)] == [0, 1]
        with pytest.raises(ValueError, match="two"):
            next(results)


def test_batches():
    assert list(batches(iter("abcde"), 2)) == [["a", "b"], ["c", "d"], ["e"]]
    assert list(batches("ab", 2)) == [["a", "b"]]
    assert list(batches("", 2)) == []


def test_ahead_runs_in_another_thread_one_item_ahead():
    made, closed = [], threading.Event()

    def stream():
        try:
            for number in range(5):
                made.append((number, threading.get_ident()))
                yield number
        finally:
            closed.set()

    items = ahead(stream())
    assert next(items) == 0
    while len(made) < 2:  # the next one, while this one is used
        time.sleep(0.001)
    time.sleep(0.02)
    assert [number for number, _ in made] == [0, 1]
    assert threading.get_ident() not in {thread for _, thread in made}
    items.close()
    assert closed.is_set()
    assert list(ahead(stream())) == [0, 1, 2, 3, 4]
    assert list(ahead([7, None])) == [7, None]


def test_ahead_raises_in_turn():
    def stream():
        yield 1
        raise ValueError("later")

    items = ahead(stream())
    assert next(items) == 1
    with pytest.raises(ValueError, match="later"):
        next(items)
