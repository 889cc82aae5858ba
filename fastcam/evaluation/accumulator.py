"""Metrics of a stream of maps, in memory that does not grow with the number of pictures.

All sums are whole numbers (an IoU counts in units of 2^-40), so that order, batch size, merging and resuming never
change a bit of any figure. Almost every map reaches 1, so that its thresholds stand for the same 8-bit levels as those
of the others: these maps are summed up by level, 256 numbers instead of 1000, and only the rest by threshold.
"""

import json
import os
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fastcam.data import Sample
from fastcam.evaluation import bootstrap
from fastcam.evaluation.batch import Batch, pack
from fastcam.evaluation.protocols import PROTOCOLS, Protocol, columns, threshold_index
from fastcam.evaluation.result import BOX_DELTAS, IOU_UNIT, METRICS, Result
from fastcam.writers import replacing

_FORMAT = 1  # of saved files
_MOST = 256  # pictures at once: sums of so many, 18 times each, are exact in floating point


class Scores(NamedTuple):
    """Pictures of a batch, one by one: those that are good and have true boxes, n of them.

    Attributes:
        index: int64 [n], their rows in the batch.
        rank: int64 [n], place of the true class among the scores, 1 the highest; None without logits or ranks.
        curves: float64 [n, K], by 8-bit level, the best IoU of a box of the map (the largest contour's, or what the
            protocol takes instead) with a true box; None if MaxBoxAcc is not measured.
        reference: float64 [n], see `Protocol.reference`.
        thresholds: float64 [T], of the evaluator.
    """

    index: np.ndarray
    rank: np.ndarray | None
    curves: np.ndarray | None
    reference: np.ndarray
    thresholds: np.ndarray

    @property
    def iou(self) -> np.ndarray | None:
        """float64 [n, T]: the best IoU at each threshold; None if MaxBoxAcc is not measured."""
        return self.at(self.thresholds)

    def at(self, thresholds: np.ndarray) -> np.ndarray | None:
        """The best IoU at some thresholds only, which is cheaper than at all.

        Args:
            thresholds: float64 [S], of `thresholds`.

        Returns:
            float64 [n, S]; None if MaxBoxAcc is not measured.
        """
        if self.curves is None:
            return None
        return np.take_along_axis(self.curves, columns(np.asarray(thresholds), self.reference), 1)


class Evaluator:
    """Takes maps and ground truth batch by batch, and gives every localization metric of the field.

    Memory: 60 MB for 1000 classes, 20 MB for 200, 9 MB without `num_classes`.

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
        if isinstance(protocol, str):
            if protocol not in PROTOCOLS:
                raise ValueError(f"`protocol` must be one of {', '.join(PROTOCOLS)}, got {protocol!r}")
            protocol = PROTOCOLS[protocol]
        elif not isinstance(protocol, Protocol):
            raise TypeError(f"`protocol` must be a name or a Protocol, got {protocol!r}")
        self.protocol = protocol if threshold is None else protocol._replace(threshold=float(threshold))
        self.thresholds = self.protocol.thresholds
        self._fixed = threshold_index(self.thresholds, self.protocol.threshold)
        self._tight = None if self.protocol.tight is None else threshold_index(self.thresholds, self.protocol.tight)
        if not metrics or not set(metrics) <= set(METRICS):
            raise ValueError(f"`metrics` must be some of {', '.join(METRICS)}, got {metrics!r}")
        if num_classes is None and self.protocol.class_mean:
            raise ValueError(f"protocol {self.protocol.name} averages over classes: tell `num_classes`")
        for name, value, least in (("num_classes", num_classes, 1), ("bootstrap", bootstrap, 0)):
            if value is not None and (not isinstance(value, Integral) or value < least):
                raise ValueError(f"`{name}` must be an integer of at least {least}, got {value!r}")
        self.bad: list[tuple[str, str]] = []
        self._skip_bad, self._classes, self._replicates, self._seed = skip_bad, num_classes, bootstrap, int(seed)
        self._metrics = [name for name in METRICS if name in metrics]
        self._options = {
            "protocol": self.protocol._asdict() | {"size": list(self.protocol.size)},
            "metrics": self._metrics,
            "num_classes": None if num_classes is None else int(num_classes),
            "bootstrap": int(bootstrap),
            "seed": self._seed,
        }
        classes, t, levels = num_classes or 1, len(self.thresholds), 256
        apart = classes if self.protocol.class_mean else 1
        maxima = 0 if self.protocol.class_mean else bootstrap  # of means over classes they would need too much memory
        self._sums = {
            "pictures": np.zeros((classes, 6), np.int64),
            "hits/level": np.zeros((classes, 8, levels), np.int32),
            "hits/threshold": np.zeros((classes, 8, t), np.int32),
            "iou/level": np.zeros((classes, levels), np.int64),
            "iou/threshold": np.zeros((classes, t), np.int64),
            "replicates": np.zeros((apart, bootstrap, 10), np.int64),
            "maxima/level": np.zeros((maxima, 4, levels), np.int64),
            "maxima/threshold": np.zeros((maxima, 4, t), np.int64),
        }

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
        batch, bad = pack(self.protocol, self._classes, ids, maps, truths, logits, labels, ranks)
        for id, reason in bad:
            self.reject(id, reason)
        scores = [self._add(part) for part in batch.parts(_MOST)]
        if len(scores) == 1:
            return scores[0]
        joined = [None if None in column else np.concatenate(column) for column in zip(*scores, strict=True)]
        return Scores(*joined)

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
            ValueError: its options differ; the message tells which.
        """
        self._same_options(other._options, "the other evaluator")
        for name, values in other._sums.items():
            self._sums[name] += values
        self.bad += other.bad

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all sums to a file; a reader never sees half of one.

        Args:
            path: of a safetensors file, which is replaced.

        Raises:
            OSError: it cannot be written.
        """
        state = {"format": _FORMAT, "options": self._options, "bad": self.bad}
        with replacing(Path(path)) as partial:
            save_file(self._sums, partial, {"fastcam.evaluation": json.dumps(state)})

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where a saved evaluator of the same options stood; what this one has seen is forgotten.

        Args:
            path: a file of `save`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file, or its options differ; the message tells which.
        """
        try:
            with safe_open(path, "np") as file:
                state = json.loads((file.metadata() or {})["fastcam.evaluation"])
                sums = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, KeyError, ValueError) as error:
            raise ValueError(f"{path} is not the saved state of an evaluation: {error!r}") from None
        if state["format"] != _FORMAT:
            raise ValueError(f"{path} has format {state['format']}, this version reads {_FORMAT}: evaluate anew")
        self._same_options(state["options"], str(path))
        if any(name not in sums or sums[name].shape != own.shape for name, own in self._sums.items()):
            raise ValueError(f"{path} is not the saved state of an evaluation: its sums have other names or shapes")
        self._sums = {name: sums[name] for name in self._sums}
        self.bad = [(id, reason) for id, reason in state["bad"]]

    def result(self) -> Result:
        """Everything measured so far; the evaluator can go on.

        Returns:
            All figures.

        Raises:
            ValueError: nothing was measured.
        """
        return Result(self.protocol, self._options, self._sums, self.bad)

    def _same_options(self, theirs: dict[str, Any], name: str) -> None:
        for key, ours in _flat(self._options).items():
            if (value := _flat(theirs).get(key)) != ours:
                raise ValueError(f"{name} has {key} {value!r}, this evaluator {ours!r}: only equal ones go together")

    def _add(self, batch: Batch) -> Scores:
        count = len(batch.rows)
        boxed = np.flatnonzero(batch.counts)
        label = np.zeros(count, np.int64) if self._classes is None else batch.label
        facts = np.zeros((count, 10), np.int64)  # as in "replicates"
        facts[boxed, 0] = 1
        facts[:, 1] = [mask is not None for mask in batch.masks]
        if batch.rank is not None:
            facts[:, 2] = 1
            facts[boxed, 3] = 1
            facts[:, 4], facts[:, 5] = batch.rank <= 1, batch.rank <= 5
        weights = bootstrap.weights(batch.ids, self._replicates, self._seed)

        maps = batch.maps if len(boxed) == count else batch.maps[torch.from_numpy(boxed).to(batch.maps.device)]
        high, rank = batch.high[boxed], None if batch.rank is None else batch.rank[boxed]
        owner = torch.arange(len(boxed)).repeat_interleave(torch.from_numpy(batch.counts[boxed]))
        truths, owner = torch.from_numpy(batch.boxes).to(maps.device), owner.to(maps.device)
        largest = every = None
        reference = np.zeros(len(boxed))
        if self._metrics != ["PxAP"]:
            reference = self.protocol.reference(maps, high)
        if "MaxBoxAcc" in self._metrics:
            largest = self.protocol.overlaps(maps, high, truths, owner, "largest")
        if "MaxBoxAccV2" in self._metrics:
            same = self.protocol.boxes == "every" and largest is not None
            every = largest if same else self.protocol.overlaps(maps, high, truths, owner, "all")
        scores = Scores(batch.rows[boxed], rank, largest, reference, self.thresholds)
        if len(boxed) and self._metrics != ["PxAP"]:
            facts[boxed, 6:] = self._count(scores, every, label[boxed], weights[boxed])

        np.add.at(self._sums["pictures"], label, facts[:, :6])
        if self._replicates:
            replicates = torch.from_numpy(self._sums["replicates"])
            weighted = torch.from_numpy(weights.astype(np.int64)[:, :, None] * facts[:, None])
            group = label if self.protocol.class_mean else np.zeros_like(label)
            replicates.index_add_(0, torch.from_numpy(group), weighted)
        return scores

    def _count(self, scores: Scores, every: np.ndarray | None, label: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Add curves to the sums; gives int64 [n, 4] at the fixed threshold: GT-known, Top-1 and Top-5 Loc, IoU."""
        present, group = np.unique(label, return_inverse=True)
        member = np.zeros((len(present), len(label)), np.float32)
        member[group, np.arange(len(label))] = 1
        member, weights = torch.from_numpy(member), torch.from_numpy(weights)
        tight = None if self._tight is None else scores.at(self.thresholds[[self._tight]])
        fixed = np.zeros((len(label), 4), np.int64)
        by_level = scores.reference == 255
        for room, rows in (("level", np.flatnonzero(by_level)), ("threshold", np.flatnonzero(~by_level))):
            if not len(rows):
                continue
            at = None if room == "level" else columns(self.thresholds, scores.reference[rows])
            picked = [
                None if curves is None else curves[rows] if at is None else np.take_along_axis(curves[rows], at, 1)
                for curves in (scores.curves, every)
            ]
            rank = None if scores.rank is None else scores.rank[rows]
            hits = self._hits(*picked, rank, None if tight is None else tight[rows])
            wide = hits.flatten(1)
            self._sums[f"hits/{room}"][present] += _whole(member[:, rows] @ wide, np.int32).reshape(-1, *hits.shape[1:])
            if len(self._sums[f"maxima/{room}"]):
                sampled = _whole(weights[rows].T @ hits[:, [1, 5, 6, 7]].flatten(1))
                self._sums[f"maxima/{room}"] += sampled.reshape(-1, 4, hits.shape[2])
            column = (
                columns(self.thresholds[[self._fixed]], scores.reference[rows])[:, 0] if at is None else self._fixed
            )
            fixed[rows, :3] = hits[np.arange(len(rows)), :, column][:, [1, 3, 4]].numpy()
            if picked[0] is not None:
                units = np.rint(picked[0] * IOU_UNIT)
                self._sums[f"iou/{room}"][present] += _whole(member[:, rows].double() @ torch.from_numpy(units))
                fixed[rows, 3] = units[np.arange(len(rows)), column]
        return fixed

    def _hits(
        self, largest: np.ndarray | None, every: np.ndarray | None, rank: np.ndarray | None, tight: np.ndarray | None
    ) -> Tensor:
        """Zeros and ones, float32 [n, 8, columns]: BoxAcc at each δ, Top-1 and Top-5 Loc, BoxAcc of all contours."""
        curves = largest if largest is not None else every
        hits = np.zeros((len(curves), 8, curves.shape[1]), np.float32)
        met = np.greater if self.protocol.strict == "always" else np.greater_equal
        for offset, given in ((0, largest), (5, every)):
            if given is not None:
                for place, delta in enumerate(BOX_DELTAS):
                    met(given, delta / 100, out=hits[:, offset + place])
        if largest is not None and rank is not None:
            found = hits[:, 1] if self.protocol.strict == "never" else np.greater(largest, 0.5)
            hits[:, 3] = found * (rank <= 1)[:, None]
            if tight is None:
                hits[:, 4] = found * (rank <= 5)[:, None]
            else:
                either = np.maximum(found, tight >= 0.5)
                hits[:, 4] = np.where((rank <= 2)[:, None], either, found * (rank <= 3)[:, None])
        return torch.from_numpy(hits)


def _flat(options: dict[str, Any]) -> dict[str, Any]:
    return {**{f"protocol {k}": v for k, v in options["protocol"].items()}, **options, "protocol": None}


def _whole(values: Tensor, dtype: type = np.int64) -> np.ndarray:
    return values.numpy().astype(dtype)
