"""Ratios measured in one run: the contestants take turns, and medians are compared."""

import platform
import statistics
import time
from collections.abc import Callable

import cv2
import torch


def machine() -> str:
    """The processor and the versions that a table of figures must name."""
    model = platform.processor()
    try:
        with open("/proc/cpuinfo") as lines:
            model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{model}, {platform.system()}, torch {torch.__version__}, OpenCV {cv2.__version__}"


def interleaved(
    contestants: dict[str, Callable[[], object]], seconds: float = 2.0, rounds: int = 7
) -> dict[str, float]:
    """Median seconds of one call of each contestant, at least ``rounds`` turns each, for about ``seconds`` in all."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for call in contestants.values():
        call()  # warm-up
    began = time.perf_counter()
    while min(map(len, times.values())) < rounds or time.perf_counter() - began < seconds:
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}
