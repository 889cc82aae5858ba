"""Whether a machine can do what the plan says."""

import os
import socket
from collections.abc import Mapping
from itertools import islice
from typing import Any

from fastcam.localization import Plan

_TRIED = 1000  # inputs that are looked for


def witness(plan: Plan) -> str | None:
    """Choose a file that every machine must see.

    Without it a machine that lacks the pictures' storage would take them all for unreadable.

    Args:
        plan: the run.

    Returns:
        The first input to come that this machine sees; None if it sees none, or nothing is missing.
    """
    for shard in plan.missing()[:1]:
        for item in islice(plan.items(shard), _TRIED):
            if item.path.exists():
                return str(item.path)
    return None


def check(plan: Plan, ours: Mapping[str, Any], witness: str | None) -> None:
    """Compare what this machine has with the plan.

    Args:
        plan: the run.
        ours: settings as they are here, all of them or some.
        witness: a file that the maker of the plan sees, or None.

    Raises:
        ValueError: a setting differs, so that the rows would.
        FileNotFoundError: the file is not seen here.
    """
    host = socket.gethostname()
    for name, value in ours.items():
        if value != plan.settings[name]:
            what = "" if name == "weights" else f" ({plan.settings[name]} there, {value} here)"
            raise ValueError(f"{name} on {host} differs from that of the run's plan{what}: rows would not be the same")
    if witness is not None and not os.path.exists(witness):
        raise FileNotFoundError(f"{host} does not see {witness}: pictures must be on storage that all machines share")
