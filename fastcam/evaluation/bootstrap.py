"""Confidence intervals from resampled pictures, in a stream: the Poisson bootstrap.

Each replicate counts each picture 0, 1, 2, … times, Poisson distributed with mean 1, which in the limit of many
pictures is drawing as many with replacement (Chamandy et al., Estimating Uncertainty for Massive Data Streams, 2012).
The weights come from a hash of seed, name and replicate: whoever meets a picture, whenever, gives it the same ones.
"""

import hashlib
import math
from collections.abc import Sequence

import numpy as np

MOST = 18  # weights above have less than 1e-17 of the probability
_GOLDEN, _MIX1, _MIX2 = (np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_LEVEL = (0.025, 0.975)


def _tails() -> np.ndarray:
    """uint64 [18]: a random word at or above entry k stands for a weight above k."""
    cumulated = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(MOST)])
    return (np.minimum(cumulated, 1 - 2.0**-53) * 2.0**64).astype(np.uint64)


_TAILS = _tails()


def weights(ids: Sequence[str], replicates: int, seed: int) -> np.ndarray:
    """How often each of N pictures counts in each of R replicates: float32 [N, R], whole numbers from 0 to `MOST`."""
    if not replicates:
        return np.zeros((len(ids), 0), np.float32)
    key = seed.to_bytes(16, "little", signed=True)
    names = [hashlib.blake2b(id.encode(), digest_size=8, key=key).digest() for id in ids]
    state = np.frombuffer(b"".join(names), "<u8").astype(np.uint64)[:, None]
    state = state + np.arange(1, replicates + 1, dtype=np.uint64) * _GOLDEN  # splitmix64
    state = (state ^ (state >> np.uint64(30))) * _MIX1
    state = (state ^ (state >> np.uint64(27))) * _MIX2
    state ^= state >> np.uint64(31)
    counts = np.zeros(state.shape, np.float32)
    for tail in _TAILS:
        counts += state >= tail
    return counts


def interval(values: np.ndarray) -> tuple[float, float]:
    """The range that holds 95 % of the replicates' values, float [R]; those that are not finite do not count.

    NaN if there are none.
    """
    values = values[np.isfinite(values)]
    low, high = np.quantile(values, _LEVEL).tolist() if len(values) else (math.nan, math.nan)
    return low, high
