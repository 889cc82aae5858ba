"""All that a training is at one moment, in one file that is replaced in one step, and back."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastcam._files import replacing
from fastcam.models import load_tensors
from fastcam.training.group import Group

_START = 3  # stream of random numbers, see loading.py


@dataclass
class Place:
    """How far a training has come.

    Attributes:
        epoch: the one that is going on, from 1.
        step: steps of it that are done.
        learning_rate: at its beginning.
        sums: float64 [3], losses, right answers and pictures of those steps, of all processes.
        spent: seconds, see `records.Clock`.
        history: figures of the epochs before.
    """

    epoch: int = 1
    step: int = 0
    learning_rate: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    spent: tuple[float, ...] = (0.0,) * 4
    history: list[dict[str, float]] = field(default_factory=list)


def save(path: Path, state: dict[str, Any], place: Place, group: Group) -> None:
    """Write a state file; every process must call this.

    Args:
        path: the file, written by the first process.
        state: tensors, numbers, text, and containers of these.
        place: how far the training has come.
        group: whose random states go with it.

    Raises:
        OSError: it cannot be written.
    """
    kinds = {"cpu": torch.get_rng_state()}
    if group.device.type == "cuda":
        kinds["cuda"] = torch.cuda.get_rng_state(group.device)
    random = {kind: group.gather(values) for kind, values in kinds.items()}
    if group.rank == 0:
        with replacing(path) as partial:
            torch.save(state | {"place": vars(place), "random": random}, partial)


def load(path: Path, group: Group) -> tuple[dict[str, Any], Place] | None:
    """Read what `save` wrote, in all processes, also those that do not see the first one's disk.

    Args:
        path: the file.
        group: those that all call this.

    Returns:
        State and place; None if there is no such file.

    Raises:
        ValueError: the file is damaged, or of another kind. Nothing in it is run.
    """
    there = group.rank == 0 and path.exists()
    data = group.share((path.read_bytes() or b"empty") if there else b"")
    if not data:
        return None
    try:
        state = load_tensors(io.BytesIO(data))
        return state, Place(**state["place"])
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(f"{path} is not the state of a training ({type(error).__name__}: {error})") from None


def seed_process(seed: int, group: Group, place: Place) -> None:
    """Begin this process's own stream of random numbers, such as dropout's.

    Args:
        seed: of the training.
        group: of which the rank counts.
        place: where the training stands.
    """
    words = np.random.SeedSequence((_START, seed, group.rank, place.epoch, place.step)).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def restore_random(state: dict[str, Any], seed: int, group: Group, place: Place) -> None:
    """Go on with the random numbers of a state.

    Args:
        state: what `load` gave. If it is of another number of processes, new streams begin.
        seed: of the training.
        group: of which the rank counts.
        place: where the training stands.
    """
    random = state["random"]
    if len(random["cpu"]) != group.world or (group.device.type == "cuda") != ("cuda" in random):
        seed_process(seed, group, place)
        return
    torch.set_rng_state(random["cpu"][group.rank])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"][group.rank], group.device)


@contextmanager
def random_untouched(group: Group) -> Iterator[None]:
    """Leave the random states after a `with` block as they were before.

    Args:
        group: whose device's state counts, beside the CPU's.

    Yields:
        Nothing.
    """
    cuda = group.device.type == "cuda"
    with torch.random.fork_rng([group.device] if cuda else [], device_type=group.device.type):
        yield
