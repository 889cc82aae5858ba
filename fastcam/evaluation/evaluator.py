"""Metrics of a stream of maps, in memory that does not grow with the number of pictures."""

import json
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fastcam._files import replacing
from fastcam.data import Sample
from fastcam.evaluation.packing import pack
from fastcam.evaluation.protocols import Protocol, protocol_of
from fastcam.evaluation.result import Result
from fastcam.evaluation.settings import METRICS
from fastcam.evaluation.tally import MOST, EvaluatorOptions, Scores, Tally, joined

_FORMAT = 1  # of saved files


class Evaluator:
    """Takes maps and ground truth batch by batch, and gives every localization metric of the field.

    Memory: 62 MB for 1000 classes, 22 MB for 200, 12 MB without `num_classes`.

    Args:
        protocol: a name in `PROTOCOLS`, or a `Protocol`, for example `PROTOCOLS["standard"]._replace(size=(448, 448))`.
        metrics: which of `METRICS` to measure: "MaxBoxAcc", with GT-known Loc, Top-k Loc and mean IoU, takes half the
            time of "MaxBoxAccV2". Both are measured where the truth has boxes, "PxAP" where it has masks.
        num_classes: how many classes there are, for the table by class; None for no such table.
        threshold: τ of GT-known Loc, Top-k Loc, mean IoU and the table, a multiple of 0.001 in [0, 1); by default the
            protocol's. Choose it on another split.
        bootstrap: replicates for confidence intervals, 0 for none.
        seed: of the replicates.
        skip_bad: list bad pictures in `bad` instead of raising.

    Attributes:
        protocol: the `Protocol`, with `threshold`.
        thresholds: float64 [T], the thresholds of all curves.
        bad: (id, reason) of each picture left out.

    Raises:
        TypeError: a protocol that is none.
        ValueError: an option out of range or unknown; the protocol averages over classes, and their number is missing.
    """

    def __init__(
        self,
        protocol: str | Protocol = "standard",
        *,
        metrics: Sequence[str] = METRICS,
        num_classes: int | None = None,
        threshold: float | None = None,
        bootstrap: int = 200,
        seed: int = 0,
        skip_bad: bool = False,
    ) -> None:
        rules = protocol_of(protocol)
        self.protocol = rules if threshold is None else rules._replace(threshold=float(threshold))
        self.thresholds = self.protocol.thresholds
        if not metrics or not set(metrics) <= set(METRICS):
            raise ValueError(f"`metrics` must be some of {', '.join(METRICS)}, got {metrics!r}")
        if num_classes is None and self.protocol.class_mean:
            raise ValueError(f"protocol {self.protocol.name} averages over classes: tell `num_classes`")
        for name, value, least in (("num_classes", num_classes, 1), ("bootstrap", bootstrap, 0)):
            if value is not None and (not isinstance(value, Integral) or value < least):
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        self.bad: list[tuple[str, str]] = []
        self._skip_bad = skip_bad
        wanted = tuple(name for name in METRICS if name in metrics)
        classes = None if num_classes is None else int(num_classes)
        self._options = EvaluatorOptions(self.protocol, wanted, classes, int(bootstrap), int(seed))
        self._tally = Tally(self._options)

    def add(
        self,
        ids: Sequence[str],
        maps: Tensor | Sequence[Any],
        truths: Sequence[Sample],
        *,
        logits: Any = None,
        labels: Any = None,
        ranks: Any = None,
    ) -> Scores:
        """Take a batch of finished maps. If it raises, nothing of the batch has been counted.

        Args:
            ids: N names, unique.
            maps: [N, H, W] of the protocol's size, floating, in [0, 1], those of the true classes; or N arrays or
                tensors [H, W].
            truths: N samples with `boxes` (and then `size`) or `mask` or both; their `id`, if they have one, must be
                the same. The picture itself is not needed.
            logits: [N, C], for Top-k figures.
            labels: N true classes, by default those of the samples.
            ranks: N places of the true classes, 1 the highest, instead of logits.

        Returns:
            What was measured of each picture.

        Raises:
            TypeError: ids or maps of a wrong type.
            ValueError: N differs; maps of several dtypes; or a picture is bad, and `skip_bad` is off: its id and the
                first reason are named.
        """
        batch, bad = pack(self.protocol, self._options.num_classes, ids, maps, truths, logits, labels, ranks)
        for id, reason in bad:
            self.reject(id, reason)
        return joined([self._tally.add(part) for part in batch.parts(MOST)])

    def add_coarse(
        self,
        ids: Sequence[str],
        coarse: Tensor,
        truths: Sequence[Sample],
        *,
        logits: Any = None,
        labels: Any = None,
        ranks: Any = None,
    ) -> Scores:
        """Take a batch of coarse maps, which the protocol upsamples; those with NaN or constant ones become zeros.

        Args:
            ids: as for `add`, like all arguments but the next.
            coarse: [N, h, w], floating, before normalisation.
            truths: see `add`.
            logits: see `add`.
            labels: see `add`.
            ranks: see `add`.

        Returns:
            As `add`.

        Raises:
            TypeError: as `add`.
            ValueError: as `add`.
        """
        maps = self.protocol.upsample(coarse)
        return self.add(ids, maps, truths, logits=logits, labels=labels, ranks=ranks)

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

    def merge(self, other: "Evaluator") -> None:
        """Add what another evaluator of the same options has seen of other pictures.

        Args:
            other: it; it stays as it is.

        Raises:
            ValueError: its options differ; the message says which.
        """
        self._same_options(other._options.to_dict(), "the other evaluator")
        for own, values in zip(self._tally.sums.arrays().values(), other._tally.sums.arrays().values(), strict=True):
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
            save_file(self._tally.sums.arrays(), partial, {"fastcam.evaluation": json.dumps(state)})

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
        arrays = self._tally.sums.arrays()
        if any(name not in sums or sums[name].shape != own.shape for name, own in arrays.items()):
            raise ValueError(f"{path} is not the saved state of an evaluation: its sums have other names or shapes")
        for name, own in arrays.items():
            own[...] = sums[name]
        self.bad = bad

    def result(self) -> Result:
        """Everything measured so far; the evaluator can go on.

        Returns:
            All figures.

        Raises:
            ValueError: nothing was measured.
        """
        return Result(self._options, self._tally.sums, self.bad)

    def _same_options(self, theirs: dict[str, Any], name: str) -> None:
        for key, ours in _flat(self._options.to_dict()).items():
            if (value := _flat(theirs).get(key)) != ours:
                raise ValueError(f"{name} has {key} {value!r}, this evaluator {ours!r}: only equal ones go together")


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    return {**{f"protocol {k}": v for k, v in options["protocol"].items()}, **options, "protocol": None}
