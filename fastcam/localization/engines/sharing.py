"""What all machines of a run must share: its folder, the pictures, versions and settings."""

import contextlib
import os
import socket
import time
from collections.abc import Iterable, Mapping
from itertools import islice

from fastcam.localization.plan import Plan

_TRIED = 1000  # inputs that are looked for
_PATIENCE = 120.0  # seconds until a file that was written elsewhere must be seen here: NFS may take one


def first_visible(plan: Plan) -> str | None:
    """The first missing input whose file this machine sees, for the others to check that they see it, too.

    Without it a machine that lacks the pictures' storage would take them all for unreadable.
    """
    for shard in plan.missing()[:1]:
        for item in islice(plan.items(shard), _TRIED):
            if item.path.exists():
                return str(item.path)
    return None


def open_plan(folder: str, digest: str) -> Plan:
    """Load the plan that another machine has made.

    Raises:
        FileNotFoundError: it is not seen here, or another one is.
    """
    end = time.monotonic() + _PATIENCE
    while True:
        found = "does not see"
        with contextlib.suppress(OSError, ValueError):
            plan = Plan.load(folder)
            if plan.digest == digest:
                return plan
            found = "sees another run in"
        if time.monotonic() > end:
            raise FileNotFoundError(
                f"{socket.gethostname()} {found} {folder}: all machines must share the run's folder"
            )
        time.sleep(1)


def check(plan: Plan, ours: Mapping[str, object], file: str | None) -> None:
    """Compare what this machine has with the plan: settings, all or some of them, and a file that it must see.

    Raises:
        ValueError: a setting differs, so that the rows would.
        FileNotFoundError: the file is not seen here.
    """
    host = socket.gethostname()
    theirs = plan.settings.to_json()
    for name, value in ours.items():
        if value != theirs[name]:
            what = "" if name == "weights" else f" ({theirs[name]} there, {value} here)"
            raise ValueError(f"{name} on {host} differs from that of the run's plan{what}: rows would not be the same")
    if file is not None and not os.path.exists(file):
        raise FileNotFoundError(f"{host} does not see {file}: pictures must be on storage that all machines share")


def wait_for_marks(plan: Plan, shards: Iterable[int]) -> None:
    """Wait until this machine sees that shards are done which others have computed.

    Raises:
        OSError: it does not in two minutes.
    """
    end = time.monotonic() + _PATIENCE
    while unseen := [shard for shard in shards if plan.mark(shard) is None]:
        if time.monotonic() > end:
            raise OSError(
                f"shard {unseen[0]} was computed elsewhere, but is not in {plan.folder} here after {_PATIENCE:g} s: "
                "all machines must share the run's folder"
            )
        time.sleep(1)
