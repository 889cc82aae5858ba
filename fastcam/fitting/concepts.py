"""A concept: pictures that show it against others, of which the hardest are found in rounds."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fastcam._check import listed
from fastcam.data.names import Names, path_look
from fastcam.fitting.heads import Fitted

_MARGIN = -1.0  # of an SVM: negatives that score less do not move its plane


def chosen(
    ids: Sequence[str], positives: Sequence[str], negatives: Sequence[str] | int | None, seed: int
) -> tuple[list[int], list[int]]:
    """Find the pictures of a concept among others, by place: those that show it, and those that do not.

    Negatives are listed, a number of random ones of the others, or all others. Ids may be written as paths are, with
    other separators or case. Raises ValueError for ids that are not there or in both lists, and for too few pictures.
    """
    shown = _places(ids, positives, "positives")
    others = sorted(set(range(len(ids))) - set(shown))
    if isinstance(negatives, int):
        if not 0 < negatives <= len(others):
            raise ValueError(
                f"`negatives` must be a number from 1 to {len(others)}, the pictures that are no positives, or a list; "
                f"got {negatives}"
            )
        others = sorted(np.random.default_rng(seed).choice(others, negatives, replace=False).tolist())
    elif negatives is not None:
        others = _places(ids, negatives, "negatives")
        if both := sorted(set(shown) & set(others)):
            raise ValueError(f"{ids[both[0]]!r} is among the positives and among the negatives")
    for name, found in (("positive", shown), ("negative", others)):
        if not found:
            raise ValueError(f"there is no {name} picture: `{name}s` has none of the data set's")
    return shown, others


def _places(ids: Sequence[str], wanted: Sequence[str], what: str) -> list[int]:
    exact: Mapping[str, int] = {id: place for place, id in enumerate(ids)}
    names = Names(ids, path_look)
    found, unknown = [], []
    for id in wanted:
        alike = [exact[id]] if id in exact else list(names.places(id))
        if len(alike) == 1:
            found.append(alike[0])
        else:
            unknown.append(id)
    if unknown:
        raise ValueError(
            f"{len(unknown)} of `{what}` are no ids of the data set, whose ids are such as {ids[0]!r}: "
            f"{listed([repr(id) for id in unknown])}"
        )
    return sorted(set(found))


def mined(
    values: np.ndarray,
    labels: np.ndarray,
    places: np.ndarray,
    rounds: int,
    fit: Callable[[np.ndarray], Fitted],
    seed: int,
) -> tuple[Fitted, np.ndarray]:
    """Fit in rounds: at first on all positives and as many random negatives.

    After each fit those of the other negatives that score above the margin join, the highest first, at most as many as
    there are positives. Where there is none, all others are told apart as well.

    Source: Felzenszwalb et al., Object Detection with Discriminatively Trained Part-Based Models, PAMI 2010, section
    4.4, without taking back easy negatives.

    Args:
        values: [N, K].
        labels: int64 [N], 1 positive and 0 negative.
        places: int64 [n], of the pictures that may be fitted on.
        rounds: how often negatives join, at least 1.
        fit: from places to the head fitted on these.
        seed: of the first negatives.

    Returns:
        The last head, and the places that it was fitted on.
    """
    positives, pool = places[labels[places] == 1], places[labels[places] == 0]
    taken = np.zeros(len(pool), bool)
    taken[np.random.default_rng(seed).permutation(len(pool))[: len(positives)]] = True
    head = fit(np.concatenate([pool[taken], positives]))
    for _ in range(rounds):
        scores = np.where(taken, -np.inf, head.scores(values[pool])[:, 1])
        hardest = np.argsort(-scores, kind="stable")[: len(positives)]
        hardest = hardest[scores[hardest] > _MARGIN]
        if not len(hardest):
            break
        taken[hardest] = True
        head = fit(np.concatenate([pool[taken], positives]))
    return head, np.concatenate([pool[taken], positives])
