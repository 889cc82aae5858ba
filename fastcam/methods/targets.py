"""What maps are to explain: classes or callables, one or several for each picture."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastcam.models.ranking import highest


class Targets(NamedTuple):
    """What the maps are to explain, one or several scores for each picture.

    Attributes:
        classes: int64 [N, k], or None where callables compute the scores.
        callables: one for each picture, from its logits [C] to a scalar; or None.
        ranked: whether the result has a dimension for the k classes.
    """

    classes: Tensor | None
    callables: Sequence[Callable[[Tensor], Tensor]] | None
    ranked: bool

    @property
    def ranks(self) -> int:
        """Number of scores for each picture."""
        return 1 if self.classes is None else self.classes.shape[1]

    def score(self, logits: Tensor, rank: int) -> Tensor:
        """Sum one score of every picture: in evaluation mode pictures do not interact, so neither do gradients.

        Args:
            logits: [N, C], floating.
            rank: which of the scores, in [0, ranks).

        Returns:
            Scalar of the logits' dtype, with their graph.

        Raises:
            TypeError: a callable does not give a scalar tensor.
            ValueError: a callable's scalar does not depend on the logits.
        """
        if self.classes is not None:
            return logits.gather(1, self.classes[:, rank, None]).sum()
        total = logits[:0].sum()  # zero, with the logits' graph also where the batch is empty
        for target, row in zip(self.callables, logits, strict=True):
            score = _scalar(target, row)
            if logits.requires_grad and not score.requires_grad:
                raise ValueError("a target must compute its scalar from the logits by differentiable operations")
            total = total + score
        return total

    def scores(self, logits: Tensor, owners: Tensor) -> Tensor:
        """Give all scores of variations of the pictures.

        Args:
            logits: [B, C], floating, one row for each variation.
            owners: int64 [B], the picture that each is a variation of.

        Returns:
            [B, ranks] of the logits' dtype.

        Raises:
            TypeError: a callable does not give a scalar tensor.
        """
        if self.classes is not None:
            return logits.gather(1, self.classes[owners])
        found = [_scalar(self.callables[i], row) for i, row in zip(owners.tolist(), logits, strict=True)]
        return torch.stack(found)[:, None] if found else logits.new_empty(0, 1)

    def repeated(self, times: int) -> "Targets":
        """The same targets for several runs of the pictures, run by run.

        Args:
            times: number of runs.

        Returns:
            Targets of times·N pictures.
        """
        if self.classes is not None:
            return self._replace(classes=self.classes.repeat(times, 1))
        return self._replace(callables=[*self.callables] * times)


def _scalar(target: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    score = target(row)
    if not isinstance(score, Tensor) or score.numel() != 1:
        got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise TypeError(f"a target must turn one picture's logits [C] into a scalar tensor, got {got}")
    return score.reshape(())


def resolve_targets(targets: Any, top_k: int | None, logits: Tensor) -> Targets:
    """Turn the `targets` and `top_k` of a call into class indices or callables.

    Args:
        targets: see `Method.__call__`.
        top_k: see `Method.__call__`.
        logits: [N, C].

    Returns:
        The targets, class indices on the device of the logits.

    Raises:
        TypeError: targets are of no known kind.
        ValueError: both are given, their number is not N, or a class is out of range.
    """
    count, classes = logits.shape
    if isinstance(targets, str) and targets == "all":
        targets = torch.arange(classes, device=logits.device).expand(count, classes)
        return Targets(targets, None, ranked=True) if top_k is None else resolve_targets(targets, top_k, logits)
    if top_k is not None:
        if targets is not None:
            raise ValueError("pass `targets` or `top_k`, not both")
        if not isinstance(top_k, int) or not 1 <= top_k <= classes:
            raise ValueError(f"`top_k` must be an int in 1 … {classes} (the number of classes), got {top_k!r}")
        return Targets(highest(logits, top_k), None, ranked=True)
    if targets is None:
        return Targets(highest(logits, 1), None, ranked=False)
    if callable(targets):
        return Targets(None, [targets] * count, ranked=False)
    if isinstance(targets, list | tuple) and any(callable(target) for target in targets):
        if not all(callable(target) for target in targets):
            raise TypeError("`targets` must be all callables or all class indices, got both")
        _check_count(len(targets), count)
        return Targets(None, targets, ranked=False)
    try:
        indices = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`targets` must be class indices or callables, got {type(targets).__name__}: {error}"
        ) from None
    if indices.numel() == 0:
        indices = indices.long()  # an empty list has no integers to tell its dtype by
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex() or indices.dim() > 2:
        raise TypeError(
            f"`targets` must be integers: one, [N] or [N, k]; got {indices.dtype} of shape {list(indices.shape)}"
        )
    indices = indices.to(torch.int64)
    if indices.dim() == 0:
        indices = indices.expand(count)
    if indices.dim() == 2 and indices.shape[1] == 0:
        raise ValueError(f"`targets` [N, k] must have at least one class for each picture, got {list(indices.shape)}")
    _check_count(len(indices), count)
    if indices.numel():
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise ValueError(f"class {wrong} in `targets` is out of range: the model has classes 0 … {classes - 1}")
    indices = indices.to(logits.device, copy=True)
    return Targets(indices if indices.dim() == 2 else indices[:, None], None, ranked=indices.dim() == 2)


def _check_count(got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"`targets` must have one entry for each of the {expected} images, got {got}")
