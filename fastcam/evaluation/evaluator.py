"""Metrics of a stream of maps, in memory that does not grow with the number of pictures."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from fastcam.data import Sample
from fastcam.evaluation.accumulator import Accumulator
from fastcam.evaluation.packing import pack
from fastcam.evaluation.protocols import Protocol, protocol_of
from fastcam.evaluation.result import Result
from fastcam.evaluation.settings import METRICS
from fastcam.evaluation.tally import MOST, EvaluatorOptions, Scores, Tally, joined


class Evaluator(Accumulator):
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
        super().__init__(skip_bad)
        self.levels = 1 if len(self.thresholds) == 1 else 256
        wanted = tuple(name for name in METRICS if name in metrics)
        classes = None if num_classes is None else int(num_classes)
        self._options: EvaluatorOptions = EvaluatorOptions(self.protocol, wanted, classes, int(bootstrap), int(seed))
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

    def result(self) -> Result:
        """Everything measured so far; the evaluator can go on.

        Returns:
            All figures.

        Raises:
            ValueError: nothing was measured.
        """
        return Result(self._options, self._tally.sums, self.bad)

    def _arrays(self) -> dict[str, np.ndarray]:
        return self._tally.sums.arrays()
