"""What maps are to explain: classes or callables, one or several for each picture."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor

from fastcam.models.outputs import per_class
from fastcam.models.ranking import highest

Target: TypeAlias = Callable[[Tensor], Tensor]  # a picture's logits [C], or dense scores [C, H, W], to a scalar


class Targets(NamedTuple):
    """What the maps are to explain, one or several scores for each picture.

    Attributes:
        classes: int64 [N, k], or None where callables compute the scores.
        callables: one for each picture, from its logits [C], or dense scores [C, H, W], to a scalar; none where there
            are classes.
        ranked: whether the result has a dimension for the k classes.
    """

    classes: Tensor | None
    callables: Sequence[Target]
    ranked: bool

    @property
    def ranks(self) -> int:
        """Number of scores for each picture."""
        return 1 if self.classes is None else self.classes.shape[1]

    def score(self, given: Tensor, rank: int) -> Tensor:
        """Sum one score over the pictures of logits [N, C] or dense scores [N, C, H, W]: a scalar with their graph.

        In evaluation mode pictures do not interact, so neither do the gradients of the sum.
        """
        if self.classes is not None:
            return per_class(given).gather(1, self.classes[:, rank, None]).sum()
        total = given[:0].sum()  # zero, with the logits' graph also where the batch is empty
        for target, row in zip(self.callables, given, strict=True):
            score = _scalar(target, row)
            if given.requires_grad and not score.requires_grad:
                raise ValueError("a target must compute its scalar from the logits by differentiable operations")
            total = total + score
        return total

    def scores(self, given: Tensor, owners: Tensor) -> Tensor:
        """All scores [B, ranks] of variations, whose pictures are int64 [B], by logits [B, C] or dense [B, C, H, W]."""
        if self.classes is not None:
            return per_class(given).gather(1, self.classes[owners])
        found = [_scalar(self.callables[i], row) for i, row in zip(owners.tolist(), given, strict=True)]
        return torch.stack(found)[:, None] if found else given.new_empty(0, 1)

    def repeated(self, times: int) -> "Targets":
        """The same targets for several runs of the pictures, run by run: those of times·N pictures."""
        if self.classes is not None:
            return self._replace(classes=self.classes.repeat(times, 1))
        return self._replace(callables=[*self.callables] * times)


def _scalar(target: Target, row: Tensor) -> Tensor:
    score: object = target(row)
    if not isinstance(score, Tensor) or score.numel() != 1:
        got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise TypeError(f"a target must turn one picture's logits [C] into a scalar tensor, got {got}")
    return score.reshape(())


def resolve_targets(targets: Any, top_k: int | None, logits: Tensor) -> Targets:
    """Turn the `targets` and `top_k` of `Method.__call__` into class indices or callables, for logits [N, C]."""
    count, classes = logits.shape
    if isinstance(targets, str) and targets == "all":
        targets = torch.arange(classes, device=logits.device).expand(count, classes)
        return Targets(targets, (), ranked=True) if top_k is None else resolve_targets(targets, top_k, logits)
    if top_k is not None:
        if targets is not None:
            raise ValueError("pass `targets` or `top_k`, not both")
        if not isinstance(top_k, int) or not 1 <= top_k <= classes:
            raise ValueError(f"`top_k` must be an int in 1 … {classes} (the number of classes), got {top_k!r}")
        return Targets(highest(logits, top_k), (), ranked=True)
    if targets is None:
        every = highest(logits, 1) if classes else logits.new_zeros(count, 1, dtype=torch.int64)  # of no scores
        return Targets(every, (), ranked=False)
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
        indices = indices.long()  # an empty list has no integers to take its dtype from
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
    return Targets(indices if indices.dim() == 2 else indices[:, None], (), ranked=indices.dim() == 2)


def _check_count(got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"`targets` must have one entry for each of the {expected} images, got {got}")
