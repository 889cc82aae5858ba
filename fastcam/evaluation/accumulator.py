"""Metrics of a stream of maps, in memory that does not grow with the number of pictures.

All sums are integers, so that order, batch size, merging and resuming never change a bit.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fastcam import ops
from fastcam.data import Sample
from fastcam.evaluation.protocols import PROTOCOLS, Protocol
from fastcam.evaluation.result import Result
from fastcam.writers import replacing

METRICS = ("MaxBoxAcc", "MaxBoxAccV2", "PxAP")
_THRESHOLDS = np.arange(0, 1, 0.001)
_DELTAS = (0.3, 0.5, 0.7)


class Scores(NamedTuple):
    """The pictures of a batch, one by one.

    Attributes:
        index: int64 [n], rows of the batch that counted and have true boxes.
        iou: float64 [n, T], at each threshold the best IoU of the largest contour's box with a true box.
        rank: int64 [n], place of the true class among the logits, 1 the highest; None without logits.
    """

    index: np.ndarray
    iou: np.ndarray
    rank: np.ndarray | None


class Evaluator:
    """Takes maps and ground truth batch by batch, and gives every localization metric of the field.

    Args:
        protocol: a name in `PROTOCOLS`, or a `Protocol`, for example `PROTOCOLS["standard"]._replace(size=(448, 448))`.
        metrics: which of `METRICS` to measure; MaxBoxAcc brings GT-known Loc, Top-k Loc and mean IoU with it. PxAP is
            measured where the truth has masks, the others where it has boxes.
        num_classes: how many there are, for the table by class; None for no such table.
        threshold: τ of GT-known Loc, Top-k Loc, mean IoU and the table, a multiple of 0.001 in [0, 1); by default the
            protocol's. Choose it on another split.
        bootstrap: replicates for confidence intervals, 0 for none.
        seed: of the replicates.
        skip_bad: count and list bad pictures in `bad` instead of raising.

    Attributes:
        protocol: the `Protocol`.
        thresholds: float64 [T], the thresholds of all curves.
        bad: (id, reason) of each picture left out.

    Raises:
        ValueError: an option out of range or unknown.
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
        self.protocol = protocol if isinstance(protocol, Protocol) else PROTOCOLS[protocol]
        self.thresholds = _THRESHOLDS
        self.threshold = self.protocol.threshold if threshold is None else threshold
        self.bad: list[tuple[str, str]] = []
        self._options = {
            "protocol": self.protocol._asdict(),
            "metrics": list(metrics),
            "num_classes": num_classes,
            "threshold": self.threshold,
            "bootstrap": bootstrap,
            "seed": seed,
        }
        self._skip_bad = skip_bad
        t = len(_THRESHOLDS)
        self._sums = {
            "count": np.zeros(4, np.int64),
            "largest": np.zeros((3, t), np.int64),
            "all": np.zeros((3, t), np.int64),
            "loc": np.zeros((2, t), np.int64),
            "iou": np.zeros(t, np.int64),
        }

    def add(
        self,
        ids: Sequence[str],
        maps: Tensor | Sequence[Any],
        truths: Sequence[Sample],
        *,
        logits: Tensor | None = None,
        labels: Sequence[int] | None = None,
    ) -> Scores:
        """Take a batch of finished maps.

        Args:
            ids: N names, unique.
            maps: [N, H, W] of the protocol's size, floating, in [0, 1]: the maps of the true classes; or N arrays or
                tensors [H, W].
            truths: N samples, whose `boxes` or `mask` are the truth, with `size`, the frame of both; the picture itself
                is not needed.
            logits: [N, C], for Top-1 and Top-5.
            labels: N true classes, by default those of the samples.

        Returns:
            What was measured of each picture.

        Raises:
            TypeError: maps that are not floating.
            ValueError: N differs, or a picture is bad (its id and the reason are named) and `skip_bad` is off.
        """
        counts = np.array([len(t.boxes) for t in truths])
        owner = np.repeat(np.arange(len(truths)), counts)
        sizes = np.array([t.size for t in truths])
        boxes = torch.from_numpy(self.protocol.frame_boxes(np.concatenate([t.boxes for t in truths]), sizes[owner]))
        largest = ops.iou_curves(maps, boxes, torch.from_numpy(owner), "largest").numpy()
        every = ops.iou_curves(maps, boxes, torch.from_numpy(owner), "all").numpy()
        quantised = (255 * maps.amax((1, 2))).numpy().astype(np.uint8)
        levels = (self.thresholds * quantised[:, None]).astype(np.int64)
        iou, best = np.take_along_axis(largest, levels, 1), np.take_along_axis(every, levels, 1)
        rank = None
        self._sums["count"][:2] += len(truths), len(truths)
        for name, values in (("largest", iou), ("all", best)):
            self._sums[name] += np.stack([(values >= d).sum(0) for d in _DELTAS])
        self._sums["iou"] += np.rint(iou * 2.0**40).astype(np.int64).sum(0)
        if logits is not None:
            label = torch.as_tensor([t.label for t in truths] if labels is None else labels)
            order = logits.argsort(dim=1, descending=True, stable=True)
            rank = ((order == label[:, None]).long().argmax(1) + 1).numpy()
            self._sums["count"][2:] += (rank <= 1).sum(), (rank <= 5).sum()
            self._sums["loc"] += np.stack([((iou >= 0.5) & (rank <= k)[:, None]).sum(0) for k in (1, 5)])
        return Scores(np.arange(len(truths)), iou, rank)

    def add_coarse(
        self,
        ids: Sequence[str],
        coarse: Tensor | Sequence[Any],
        truths: Sequence[Sample],
        *,
        logits: Tensor | None = None,
        labels: Sequence[int] | None = None,
    ) -> Scores:
        """Take a batch of coarse maps, which the protocol upsamples; NaN and constant maps become zeros.

        Args:
            ids: as for `add`.
            coarse: [N, h, w], floating, before ReLU and normalisation.
            truths: as for `add`.
            logits: as for `add`.
            labels: as for `add`.

        Returns:
            As `add`.

        Raises:
            TypeError: as `add`.
            ValueError: as `add`.
        """
        return self.add(ids, self.protocol.upsample(coarse), truths, logits=logits, labels=labels)

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
        """Add what another evaluator, of the same options, has seen of other pictures.

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
        metadata = {"options": json.dumps(self._options), "bad": json.dumps(self.bad)}
        with replacing(Path(path)) as partial:
            save_file(self._sums, partial, metadata)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on where a saved evaluator of the same options stood; what this one has seen is forgotten.

        Args:
            path: a file of `save`.

        Raises:
            OSError: it cannot be read.
            ValueError: it is not such a file, or its options differ; the message tells which.
        """
        with safe_open(path, "np") as file:
            metadata = file.metadata()
            self._same_options(json.loads(metadata["options"]), str(path))
            self._sums = {name: file.get_tensor(name) for name in self._sums}
            self.bad = [tuple(entry) for entry in json.loads(metadata["bad"])]

    def result(self) -> Result:
        """Everything measured so far.

        Returns:
            All figures; the evaluator can go on.

        Raises:
            ValueError: no picture was added.
        """
        return Result(self._options, self.thresholds, self._sums, list(self.bad))

    def _same_options(self, theirs: dict, name: str) -> None:
        ours = json.loads(json.dumps(self._options))
        for key, value in ours.items():
            if theirs.get(key) != value:
                raise ValueError(f"{name} has {key} {theirs.get(key)!r} instead of {value!r}")
