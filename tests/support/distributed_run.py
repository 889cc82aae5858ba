"""A rank of a run, or the driver of one by another engine, in its own process: FOLDER OUT ENGINE PAUSE PATIENCE."""

import os
import signal
import sys
from pathlib import Path

import ray

from fastcam.localization import Summary, localize
from fastcam.localization.engines import machines, ray as tasks
from tests.support.engine_run import OPTIONS, Tiny


def run(folder: str, out: str, engine: str, pause: str, patience: str, **variables: str) -> None:
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background ignore it, and so would this
    if engine == "local":
        localize(Tiny(float(pause)), folder, out=out, workers=2, **OPTIONS)
        return
    machines.localize(Tiny(float(pause)), folder, out=out, engine=engine, patience=float(patience), **OPTIONS)


def drive(folder: Path, out: Path, pause: float, address: str, *, connected: bool = False, retries: int = 3) -> Summary:
    """A run by Ray, from a process that may be connected to the cluster already. It stays as it was."""
    tasks._RETRIES = retries
    if connected:
        ray.init(address, logging_level="ERROR")
    try:
        options = {"engine": "ray", "address": None if connected else address, **OPTIONS}
        return machines.localize(Tiny(pause), folder, out=out, **options)
    finally:
        assert ray.is_initialized() == connected
        ray.shutdown()


if __name__ == "__main__":
    run(*sys.argv[1:])
