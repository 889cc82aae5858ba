"""Fixtures that several test modules share."""

import contextlib
import importlib
import os
import re
import warnings
from collections.abc import Generator
from pathlib import Path

import pytest
import torch

with contextlib.suppress(ImportError):  # only some tests need it
    from hypothesis import HealthCheck, settings

    # No limits of time, since machines may be slow or stand still. CI is not to fail by chance for what did not change.
    calm = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow], "derandomize": "CI" in os.environ}
    settings.register_profile("fastcam", **calm)
    settings.load_profile("fastcam")

KERNELS = pytest.StashKey[bool]()  # whether there are any
SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="all tests, also those marked long, as .ci/run does")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    """The whole suite runs file by file on all processors, where pytest-xdist is installed; what is named does not."""
    whole, option = config.args_source is pytest.Config.ArgsSource.TESTPATHS, config.option
    busy = option.markexpr or option.collectonly or option.usepdb or option.capture == "no"
    busy = busy or "FASTCAM_KILLS" in os.environ  # by which each process would draw other moments
    if whole and not busy and getattr(option, "numprocesses", 0) is None and not hasattr(config, "workerinput"):
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # processes with several threads each share the processors
        option.numprocesses, option.dist = min(8, len(os.sched_getaffinity(0))), "loadfile"


def pytest_configure(config: pytest.Config) -> None:
    """Without kernels the package says so once, which is no error here; what only they promise is skipped, visibly."""
    with warnings.catch_warnings(action="ignore"):
        config.stash[KERNELS] = importlib.import_module("fastcam.ops").build_info()["library"] is not None
    if not config.stash[KERNELS]:  # programs that tests start need not say it either; what they write is compared
        os.environ.setdefault("PYTHONWARNINGS", "ignore:fastcam runs without:RuntimeWarning")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("kernels") and not item.config.stash[KERNELS]:
        pytest.skip("needs the compiled kernels: their bits, instruction sets or memory")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long tests run with --long, with -m long, where they are named, and where more of them are asked for."""
    asked = config.option.long or "long" in config.option.markexpr or "FASTCAM_KILLS" in os.environ
    if "whole" not in config.option.markexpr and not any("::" in name for name in config.args):
        whole = {item for item in items if item.get_closest_marker("whole")}
        config.hook.pytest_deselected(items=list(whole))
        items[:] = [item for item in items if item not in whole]
    if not asked and not any("::" in name for name in config.args):
        long = {item for item in items if item.get_closest_marker("long")}
        config.hook.pytest_deselected(items=list(long))
        items[:] = [item for item in items if item not in long]


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Generator[None, pytest.CollectReport, object]:
    """With ``-m gpu`` a test module whose packages are missing skips, visibly: machines with a GPU are often bare."""
    report = yield
    missing = re.search(r"No module named '(?!fastcam|tests)([\w.]+)'", str(report.longrepr or ""))
    if report.failed and missing and collector.config.getoption("markexpr") == "gpu":
        report.outcome, report.longrepr = "skipped", (str(collector.path), 1, f"Skipped: needs {missing[1]}")
    return report


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
