"""Sums of whole numbers over pictures, which every evaluator has: put together, saved and loaded."""

import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fastcam._files import replacing

_FORMAT = 1  # of saved files


class Options(Protocol):
    """What is measured, and how."""

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, the protocol's own as a dictionary under "protocol"."""
        ...


class Accumulator(ABC):
    """Sums of whole numbers over pictures that can be put together, saved and loaded, and a list of bad pictures.

    Attributes:
        levels: how many numbers there are of each picture, one for each mask that its map can stand for.
    """

    levels: int
    thresholds: np.ndarray
    _options: Options

    def __init__(self, skip_bad: bool) -> None:
        self.bad: list[tuple[str, str]] = []
        self._skip_bad = skip_bad

    @abstractmethod
    def _arrays(self) -> dict[str, np.ndarray]:
        """The sums by name, as files have them."""

    def reject(self, id: str, reason: str) -> None:
        """Tell of a picture that cannot be measured: its map is missing, its file broken.

        Args:
            id: its name.
            reason: what is wrong, in a few words.

        Raises:
            ValueError: "id: reason", unless `skip_bad` is on.
        """
        if not self._skip_bad:
            raise ValueError(f"{id}: {reason}")
        self.bad.append((id, reason))

    def merge(self, other: Self) -> None:
        """Add what another evaluator of the same options has seen of other pictures.

        Args:
            other: it; it stays as it is.

        Raises:
            ValueError: its options differ; the message says which.
        """
        self._same_options(other._options.to_dict(), "the other evaluator")
        for own, values in zip(self._arrays().values(), other._arrays().values(), strict=True):
            own += values
        self.bad += other.bad

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all sums to a file; a reader never sees half of one.

        Args:
            path: of a safetensors file, which is replaced.

        Raises:
            OSError: it cannot be written.
        """
        state = {"format": _FORMAT, "options": self._options.to_dict(), "bad": self.bad}
        with replacing(Path(path)) as partial:
            save_file(self._arrays(), partial, {"fastcam.evaluation": json.dumps(state)})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where a saved evaluator of the same options stood; what this one has seen is forgotten.

        Args:
            path: a file of `save`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file, or its options differ; the message says which.
        """
        try:
            with safe_open(path, "np") as file:
                state = json.loads((file.metadata() or {})["fastcam.evaluation"])
                sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            if (form := state["format"]) != _FORMAT:
                raise ValueError(f"it has format {form}, this version reads {_FORMAT}: evaluate anew")
            options, bad = state["options"], [(id, reason) for id, reason in state["bad"]]
            dict(options["protocol"])
        except (SafetensorError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(f"{path} is not the saved state of an evaluation: {error!r}") from None
        self._same_options(options, str(path))
        arrays = self._arrays()
        if any(name not in sums or sums[name].shape != own.shape for name, own in arrays.items()):
            raise ValueError(f"{path} is not the saved state of an evaluation: its sums have other names or shapes")
        for name, own in arrays.items():
            own[...] = sums[name]
        self.bad = bad

    def _same_options(self, theirs: dict[str, Any], name: str) -> None:
        for key, ours in _flat(self._options.to_dict()).items():
            if (value := _flat(theirs).get(key)) != ours:
                raise ValueError(f"{name} has {key} {value!r}, this evaluator {ours!r}: only equal ones go together")


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    return {**{f"protocol {k}": v for k, v in options["protocol"].items()}, **options, "protocol": None}
