"""Trainings that are killed at many points and resumed; run by tests/training/test_resume.py in a process of its own.

Each training is a fork of one process that has torch ready, so that a kill costs no start.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from fastcam import training
from fastcam.training.network import Trainee
from tests.support.colours import Colours

# Dropout, BatchNorm, a moving average, parts of batches, an optimizer and a schedule with state of their own.
OPTIONS = {
    "arch": "mnasnet0_5",
    "size": 32,
    "batch_size": 8,
    "accumulate": 2,
    "epochs": 3,
    "ema": 0.9,
    "crop": "padded",
    "checkpoint_every": 2,
    "workers": 2,
    "device": "cpu",
    "progress": False,
}
STEPS = 3  # in an epoch
# What is killed: before that step, in that test, or around that file's replacement.
POINTS = ("step 1", "step 3", "step 6", "test 2", "after 2", "before 3", "after 9")


def train(out: Path, **options: object) -> training.TrainingResult:
    return training.train((Colours(8 * STEPS + 1), Colours(6)), out=out, **OPTIONS, **options)


def dying(function: Callable, number: int, before: bool = True) -> Callable:
    """A function that kills the process in its n-th call."""
    calls = 0

    def call(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == number and before:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments, **options)
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call


def die_at(point: str) -> None:
    what, number = point.split()
    if what in ("step", "test"):
        setattr(Trainee, what, dying(getattr(Trainee, what), int(number)))
    else:
        os.replace = dying(os.replace, int(number), what == "before")


def fork(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def main(out: Path, *points: str) -> None:
    assert fork(lambda: train(out / "whole")) == 0

    for point in points:

        def killed(point: str = point) -> None:
            die_at(point)
            train(out / point)

        assert os.WTERMSIG(fork(killed)) == signal.SIGKILL, point
        assert fork(lambda point=point: train(out / point, resume=True)) == 0, point


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
