"""A concept: pictures that show it against others, of which the hardest are found in rounds."""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from fastcam._check import listed
from fastcam.data.names import Names, path_look, read_text
from fastcam.fitting.heads import Fitted

_MARGIN = -1.0  # of an SVM: negatives that score less do not move its plane


def chosen(
    ids: Sequence[str],
    positives: Sequence[str],
    negatives: Sequence[str] | int | None,
    seed: int,
    others: Sequence[str] | None = None,
) -> tuple[list[int], list[int]]:
    """Find the pictures of a concept among others, by place: those that show it, and those that do not.

    Negatives are listed, or a number of random ones of the others, or all `others`, which are by default what is no
    positive. Ids may be written as paths are, with other separators or case. Raises ValueError for ids that are not
    there or in both lists, and for too few pictures.
    """
    names = Names(ids, path_look)
    shown = _places(names, positives, "positives")
    rest = list(range(len(ids))) if others is None else _places(names, others, "others")
    rest = sorted(set(rest) - set(shown))
    if isinstance(negatives, int):
        if not 0 < negatives <= len(rest):
            raise ValueError(
                f"`negatives` must be a number from 1 to {len(rest)}, the pictures that are no positives, or a list; "
                f"got {negatives}"
            )
        rest = sorted(np.random.default_rng(seed).choice(rest, negatives, replace=False).tolist())
    elif negatives is not None:
        rest = _places(names, negatives, "negatives")
        if both := sorted(set(shown) & set(rest)):
            raise ValueError(f"{ids[both[0]]!r} is among the positives and among the negatives")
    for name, found in (("positive", shown), ("negative", rest)):
        if not found:
            raise ValueError(f"no picture of the data set is {name}: `{name}s` has none of them")
    return shown, rest


def _places(names: Names, wanted: Sequence[str], what: str) -> list[int]:
    found = {id: names.places(id) for id in wanted}
    if unknown := [repr(id) for id, places in found.items() if len(places) != 1]:
        raise ValueError(
            f"{len(unknown)} of `{what}` are no ids of the data set, whose ids are such as {names.names[0]!r}: "
            f"{listed(unknown)}"
        )
    return sorted({places[0] for places in found.values()})


def mentioned(path: Path, phrase: str, ids: Sequence[str]) -> tuple[list[str], list[str]]:
    """Divide the pictures that have a caption: ids of those with the phrase in one of theirs, and of the others.

    The phrase is looked for as whole words, in any case. The file is COCO's JSON of captions, whose pictures are known
    by `file_name`, or CSV of image_id,caption; captions of other pictures are passed over. Raises ValueError if it is
    neither, or no picture has the phrase.
    """
    words = phrase.split()
    if not words:
        raise ValueError(f"`phrase` must have a word, got {phrase!r}")
    pattern = re.compile(r"(?<!\w)" + r"\W+".join(map(re.escape, words)) + r"(?!\w)", re.IGNORECASE)
    names, found = Names(ids, path_look), dict[int, bool]()
    for id, caption in _coco_captions(path) if path.suffix.lower() == ".json" else _captions(path):
        places = names.places(id)
        if len(places) == 1:
            found[places[0]] = found.get(places[0], False) or pattern.search(caption) is not None
    shown = [ids[place] for place, has in sorted(found.items()) if has]
    if not shown:
        raise ValueError(
            f"{path}: of {len(found)} pictures of the data set that have a caption, none has {phrase!r} in it; the "
            f"data set's ids are such as {ids[0]!r}"
        )
    return shown, [ids[place] for place, has in sorted(found.items()) if not has]


def _captions(path: Path) -> Iterator[tuple[str, str]]:
    rows = csv.reader(io.StringIO(read_text(path), newline=""))
    for number, row in enumerate(rows, 1):
        if len(row) not in (0, 2):
            raise ValueError(f"{path}:{number}: expected `image_id,caption`, got {','.join(row)[:200]!r}")
        if row and row != ["image_id", "caption"]:
            yield row[0], row[1]


def _coco_captions(path: Path) -> Iterator[tuple[str, str]]:
    try:
        document = json.loads(read_text(path))
        files = {entry["id"]: str(entry["file_name"]) for entry in document["images"]}
        rows = [(files.get(entry["image_id"]), str(entry["caption"])) for entry in document["annotations"]]
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not COCO's JSON of captions: {error!r}") from None
    yield from ((id, caption) for id, caption in rows if id is not None)


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
