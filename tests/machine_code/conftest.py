"""The machine with the kernels of this checkout, for all its tests."""

import pytest

from tests.machine_code import cubins
from tests.machine_code.simulator import Simulator
from tests.support import emulated


@pytest.fixture(scope="session")
def simulator() -> Simulator:
    if reason := emulated.missing() or cubins.missing():
        pytest.skip(reason)
    return Simulator(cubins.functions())
