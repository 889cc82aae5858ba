"""Runs of the engine: begun in processes of their own, watched, killed at some stage, and compared."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support.processes import end


def rows_of(out: Path) -> list[dict]:
    return pq.read_table(out / "boxes.parquet").to_pylist()


def check_finished(out: Path, whole: Path) -> None:
    """The rows, and the file, of an undisturbed run, and nothing left behind."""
    assert rows_of(out) == rows_of(whole)
    assert (out / "boxes.parquet").read_bytes() == (whole / "boxes.parquet").read_bytes()
    assert {path.name for path in out.iterdir()} == {"plan.json", "inputs.parquet", "audit.json", "boxes.parquet"}


def seeds(count: int) -> list:
    """Of moments to kill at; those after the first are for --long.

    FASTCAM_KILLS=20 asks for another number, and for other moments each time; 1:4711 repeats the one named so.
    """
    if "FASTCAM_KILLS" not in os.environ:
        return [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, count))]
    number, _, first = os.environ["FASTCAM_KILLS"].partition(":")
    start = int(first) if first else random.randrange(10**6)
    return list(range(start, start + int(number)))


def begin(folder: Path, out: Path, workers: int = 1, pause: float = 0.0, limit: int | None = None) -> subprocess.Popen:
    arguments = [folder, out, workers, pause, *([] if limit is None else [limit])]
    command = [sys.executable, "-X", "faulthandler", "-m", "tests.support.engine_run", *map(str, arguments)]
    return subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True)


def marks(out: Path) -> int:
    return len(list((out / "shards").glob("*.json"))) if (out / "shards").is_dir() else 0


PARTS = (f"{part} of 8 parts" for part in range(1, 9))
STAGES = ("begin", "listing", "planned", *PARTS, "merge", "table", "audit", "end")


def stage(out: Path) -> int:
    """How far a run of 8 shards is, by what is in its folder: an index into `STAGES`."""
    try:
        names = set(os.listdir(out))
    except FileNotFoundError:
        return 0
    if "audit.json" in names:
        return 13 if "shards" in names else 14
    if "boxes.parquet" in names:
        return 12
    if any(name.startswith(".boxes.parquet.") for name in names):
        return 11
    if "plan.json" in names:
        return 2 + marks(out)
    return int("inputs.parquet" in names or any(name.startswith(".inputs.parquet.") for name in names))


def moment(rng: random.Random, stages: range) -> tuple[int, float]:
    """A stage, and seconds after it was reached."""
    reached = rng.choice(stages)
    return reached, rng.random() * (0.1 if 2 <= reached < 10 else 0.01)


def error_of(process: subprocess.Popen) -> str:
    """What it wrote to standard error, once it has ended."""
    try:
        return process.communicate(timeout=300)[1]
    finally:
        end(process)


def wait_for(condition: Callable[[], object], process: subprocess.Popen, seconds: float = 300) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, error_of(process)
        if time.monotonic() > limit:
            process.send_signal(signal.SIGABRT)  # it tells where it is
            pytest.fail(error_of(process))
        time.sleep(0.002)
