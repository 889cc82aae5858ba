"""Fixtures that several test modules share."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real pictures and weights beside the checkout; they may not be published, so it can be absent."""
    if not (SHARED / "images").is_dir():
        pytest.skip("needs ../shared (real pictures and weights, not part of the project)")
    return SHARED


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device; the GPU's tests are skipped, visibly, where there is none."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    return torch.device(request.param)
