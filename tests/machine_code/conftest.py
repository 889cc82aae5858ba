"""The machine with the kernels of this checkout, for all its tests."""

import pytest

from tests.machine_code import cubins
from tests.machine_code.simulator import Simulator


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    pytest.importorskip("pybind11")
    if reason := cubins.missing():
        pytest.skip(reason)
    return Simulator(cubins.functions())
