"""The bootstrap's weights and intervals against their definitions."""

import hashlib
import math

import numpy as np

from fastcam.evaluation import bootstrap

WORD = 2**64


def plain_weight(id: str, replicate: int, seed: int) -> int:
    """A Poisson number by inversion of a splitmix64 word, in whole numbers."""
    key = seed.to_bytes(16, "little", signed=True)
    state = int.from_bytes(hashlib.blake2b(id.encode(), digest_size=8, key=key).digest(), "little")
    word = (state + (replicate + 1) * 0x9E3779B97F4A7C15) % WORD
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % WORD
    word ^= word >> 31
    weight, below = 0, math.exp(-1)
    while word / WORD >= below and weight < bootstrap.MOST:
        weight += 1
        below += math.exp(-1) / math.factorial(weight)
    return weight


def test_weights_are_poisson_numbers_of_a_hash() -> None:
    ids = ["a.jpg", "b/ä.jpg", "c" * 300]
    found = bootstrap.weights(ids, 50, 7)
    assert (found.shape, found.dtype) == ((3, 50), np.float32)
    assert found.tolist() == [[plain_weight(id, r, 7) for r in range(50)] for id in ids]
    assert (found != bootstrap.weights(ids, 50, -8)).mean() > 0.4
    assert (bootstrap.weights(ids[::-1], 20, 7) == found[::-1, :20]).all()
    assert bootstrap.weights([], 4, 0).shape == (0, 4)
    assert bootstrap.weights(ids, 0, 0).shape == (3, 0)


def test_weights_have_poissons_frequencies() -> None:
    found = bootstrap.weights([f"{i}.png" for i in range(1000)], 200, 0)
    counts = np.bincount(found.astype(int).ravel(), minlength=8)[:8] / found.size
    expected = [math.exp(-1) / math.factorial(k) for k in range(8)]
    np.testing.assert_allclose(counts, expected, atol=5 * 0.5 / math.sqrt(found.size))
    # Neither pictures nor replicates go together.
    for table in (found, found.T):
        correlations = np.corrcoef(table[:60])[np.triu_indices(60, 1)]
        assert abs(correlations).max() < 5.5 / math.sqrt(table.shape[1])


def test_interval() -> None:
    assert bootstrap.interval(np.arange(1001.0)) == (25, 975)
    assert bootstrap.interval(np.array([np.nan, 3.0])) == (3, 3)
    assert all(map(math.isnan, bootstrap.interval(np.array([np.nan]))))
