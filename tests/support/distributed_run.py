"""A rank of a run, or the driver of one by another engine, in its own process: FOLDER OUT ENGINE PAUSE."""

import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

import ray

from fastcam.localization import LocalizationSummary, engines, localize
from fastcam.localization.engines import ray as tasks, torchrun
from tests.support.engine_run import OPTIONS, Tiny


def run(
    folder: str, out: str, engine: str, pause: str, options: dict | None = None, start: float | None = None, **more: str
) -> LocalizationSummary:
    """With `start`, ranks have so many seconds to come; `more` are variables of the environment."""
    os.environ.update(more)
    if start is not None:
        torchrun._START = timedelta(seconds=start)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background ignore it, and so would this
    given = OPTIONS | (options or {})
    if engine == "local":
        return localize(Tiny(float(pause)), folder, out=out, workers=2, **given)
    return engines.localize(Tiny(float(pause)), folder, out=out, engine=engine, **given)


def drive(
    folder: Path,
    out: Path,
    pause: float,
    address: str,
    *,
    connected: bool = False,
    retries: int = 3,
    given: dict | None = None,
) -> LocalizationSummary:
    """A run by Ray, from a process that may be connected to the cluster already. It stays as it was."""
    tasks._RETRIES = retries
    if connected:
        ray.init(address, logging_level="ERROR")
    try:
        options = {"engine": "ray", "address": None if connected else address, **(given or OPTIONS)}
        return engines.localize(Tiny(pause), folder, out=out, **options)
    finally:
        assert ray.is_initialized() == connected
        ray.shutdown()


if __name__ == "__main__":
    run(*sys.argv[1:])
