"""What operators are tried on: dtypes, masks, maps and scores that are hard."""

import numpy as np
import torch
from torch import Tensor

WEIGHTINGS = ["gradcam", "gradcam++", "xgradcam", "layercam", "hirescam"]
DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    scale = expected.abs().max().item() if expected.numel() else 0
    torch.testing.assert_close(
        actual.double().cpu(), expected.double().cpu(), rtol=0, atol=tolerance * max(scale, 1e-30)
    )


def masks_like(maps: Tensor) -> Tensor:
    """Masks of background, object, and two values that do not count."""
    kinds = torch.tensor([0, 1, 255, 2], dtype=torch.uint8)
    return kinds[torch.multinomial(torch.tensor([4.0, 4, 1, 1]), maps.numel(), replacement=True)].view(maps.shape)


def scores_around_edges(bins: int, dtype: torch.dtype) -> Tensor:
    """Scores [n] on each edge of a histogram's bins, beside it, in between, and where no score should be."""
    kind = torch.zeros((), dtype=dtype).numpy().dtype.type
    edges = np.append(np.arange(bins) * (1 / bins), [1, 2, 3]).astype(kind)
    beside = [np.nextafter(edges, kind(end)) for end in (-9, 9)]
    exact = (np.arange(bins + 1) / bins).astype(kind)
    odd = [np.nan, np.inf, -np.inf, -0.0, 5e-324, 1e-45, -1e-45, -0.5, 1.5, 2.5, 3.1, 1e30, -1e30]
    scores = [edges, *beside, exact, np.array(odd, kind), np.random.default_rng(0).random(500).astype(kind)]
    return torch.from_numpy(np.random.default_rng(1).permutation(np.concatenate(scores)))


ALL_4X4 = (torch.arange(2**16)[:, None] >> torch.arange(16) & 1).reshape(-1, 4, 4).bool()


def spiral(size: int) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    y = x = 0
    dy, dx = 0, 1
    for length in [size - 1, *(n for n in range(size - 1, 0, -2) for _ in range(2))]:
        for _ in range(length):
            mask[y, x] = True
            y, x = y + dy, x + dx
        dy, dx = dx, -dy
    return mask


def shapes(size: int) -> dict[str, np.ndarray]:
    y, x = np.mgrid[:size, :size]
    comb = (x % 2 == 0) | (y == size - 1)
    serpentine = (y % 2 == 0) | ((x == size - 1) & (y % 4 == 1)) | ((x == 0) & (y % 4 == 3))
    radius = np.hypot(y - size / 2, x - size / 2)
    twins = np.zeros((size, size), bool)
    twins[1:4, 1:4] = twins[1:4, size - 4 : size - 1] = twins[size - 4 : size - 1, 2:5] = True
    return {
        "spiral": spiral(size),
        "comb": comb,
        "comb upside down": comb[::-1],
        "serpentine": serpentine,
        "serpentine columns": serpentine.T,
        "diagonals": (x + y) % 3 == 0,
        "anti-diagonals": (x - y) % 3 == 0,
        "checkerboard": (x + y) % 2 == 0,
        "nested rings": (radius.astype(int) % 4) < 2,
        "thin rings": (radius.astype(int) % 3) == 0,
        "twins": twins,
        "frame": (x == 0) | (y == 0) | (x == size - 1) | (y == size - 1),
        "columns": x % 2 == 1,
        "last pixel": (x == size - 1) & (y == size - 1),
    }


def maps_of_every_kind(count: int, height: int, width: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Normalised maps float64 [count, H, W]: smooth, blurred, noisy, flat steps, holes, ties, constants."""
    import cv2  # which tests on bare machines do without

    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 7, 7))
    noise = rng.random((count, height, width))
    rings = np.stack(
        [np.sin(np.hypot(*(np.mgrid[:height, :width] - 20 * rng.random((2, 1, 1)))) * f) for f in rng.random(count)]
    )
    kinds = {
        "smooth": np.stack([cv2.resize(m, (width, height), interpolation=cv2.INTER_CUBIC) for m in coarse]),
        "blurred": np.stack([cv2.GaussianBlur(m, (0, 0), 2) for m in noise]),
        "noise": noise,
        "steps": np.floor(noise * 3),
        "rings": rings,
        "blocks": np.kron(rng.integers(0, 5, (count, (height + 3) // 4, (width + 3) // 4)), np.ones((4, 4)))[
            :, :height, :width
        ],
    }
    for name, maps in kinds.items():
        low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
        kinds[name] = (maps - low) / np.maximum(high - low, 1e-12)
    return {**kinds, "zeros": np.zeros((1, height, width)), "ones": np.ones((1, height, width))}
