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
from fastcam.training.records import Spent

_START = 3  # stream of random numbers, see loading.py


@dataclass
class Place:
    """How far a training has come.

    Attributes:
        epoch: the one that is going on, from 1.
        step: steps of it that are done.
        learning_rate: at its beginning.
        sums: float64 [3], losses, right answers and pictures of those steps, of all processes.
        spent: on those steps.
        history: figures of the epochs before.
    """

    epoch: int = 1
    step: int = 0
    learning_rate: float = 0.0
    sums: Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    spent: Spent = field(default_factory=Spent)
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Facts:
    """What a training that goes on must have in common with the one before.

    Attributes:
        settings: fields of `Settings`, all defaults resolved; some may change.
        config: the network's, JSON.
        pictures: how many there are to train on, and to test on.
        given: names of the parameters that the weights gave.
    """

    settings: dict[str, Any]
    config: str
    pictures: tuple[int, int]
    given: list[str]


@dataclass(frozen=True)
class Snapshot:
    """What a state file has: facts, place, state dictionaries of the trainee's parts, and random states by rank."""

    facts: Facts
    place: Place
    parts: dict[str, dict[str, Any]]
    random: dict[str, list[Tensor]]


def save(path: Path, facts: Facts, place: Place, parts: dict[str, dict[str, Any]], group: Group) -> None:
    """Let the first process write a state file, with the random states of all; every process must call this."""
    kinds = {"cpu": torch.get_rng_state()}
    if group.device.type == "cuda":
        kinds["cuda"] = torch.cuda.get_rng_state(group.device)
    random = {kind: group.gather(values) for kind, values in kinds.items()}
    if group.rank == 0:
        plain = vars(place) | {"spent": tuple(place.spent)}
        with replacing(path) as partial:
            torch.save(vars(facts) | parts | {"place": plain, "random": random}, partial)


def load(path: Path, group: Group) -> Snapshot | None:
    """Read what `save` wrote, in all processes, also those that do not see the first one's disk; None without a file.

    Raises:
        ValueError: the file is damaged, or of another kind. Nothing in it is run.
    """
    there = group.rank == 0 and path.exists()
    data = group.share((path.read_bytes() or b"empty") if there else b"")
    if not data:
        return None
    try:
        state = load_tensors(io.BytesIO(data))
        place, random = state.pop("place"), state.pop("random")
        facts = Facts(*(state.pop(name) for name in ("settings", "config", "pictures", "given")))
        return Snapshot(facts, Place(**place | {"spent": Spent(*place["spent"])}), state, random)
    except Exception as error:  # a damaged pickle can raise almost anything
        raise ValueError(f"{path} is not the state of a training ({type(error).__name__}: {error})") from None


def seed_process(seed: int, group: Group, place: Place) -> None:
    """Begin this process's own stream of random numbers, such as dropout's."""
    words = np.random.SeedSequence((_START, seed, group.rank, place.epoch, place.step)).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def restore_random(snapshot: Snapshot, seed: int, group: Group) -> None:
    """Go on with the random numbers of a snapshot; if it is of another number of processes, new streams begin."""
    random = snapshot.random
    if len(random["cpu"]) != group.world or (group.device.type == "cuda") != ("cuda" in random):
        seed_process(seed, group, snapshot.place)
        return
    torch.set_rng_state(random["cpu"][group.rank])
    if "cuda" in random:
        torch.cuda.set_rng_state(random["cuda"][group.rank], group.device)


@contextmanager
def random_untouched(group: Group) -> Iterator[None]:
    """Leave the random states, the CPU's and the device's, after a `with` block as they were before."""
    cuda = group.device.type == "cuda"
    with torch.random.fork_rng([group.device] if cuda else [], device_type=group.device.type):
        yield
