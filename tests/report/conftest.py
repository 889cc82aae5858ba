"""A run to report on."""

from pathlib import Path

import pytest

from tests.support.reports import ROWS, write_run


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run", ROWS, method="cam", threshold=0.2)
