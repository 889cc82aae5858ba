"""A rank of a run, or the driver of one by another engine, in its own process: FOLDER OUT ENGINE PAUSE PATIENCE."""

import os
import signal
import sys

from fastcam import distributed
from fastcam.localization import localize
from tests.engine_run import OPTIONS, Tiny


def run(folder: str, out: str, engine: str, pause: str, patience: str, **variables: str) -> None:
    os.environ.update(variables)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests run in the background ignore it, and so would this
    if engine == "local":
        localize(Tiny(float(pause)), folder, out=out, workers=2, **OPTIONS)
        return
    distributed.localize(Tiny(float(pause)), folder, out=out, engine=engine, patience=float(patience), **OPTIONS)


if __name__ == "__main__":
    run(*sys.argv[1:])
