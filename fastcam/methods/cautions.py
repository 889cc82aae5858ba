"""Warnings of maps that show nothing, or something else than it seems."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from fastcam.methods.forward import Forward
from fastcam.methods.scores import last_function


class MapWarning(UserWarning):
    """Maps may mislead: the message names them, and what to do."""


@contextmanager
def quiet_methods() -> Iterator[None]:
    """Silence these warnings in a run, which gives them once, at its end; see `fastcam.pictures.quiet_pillow`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=MapWarning)
        yield


def tell(cautions: Iterable[str | None], stacklevel: int = 2) -> None:
    """Give each sentence once as a MapWarning, as if the caller of this gave it; None is passed over."""
    for caution in dict.fromkeys(cautions):
        if caution is not None:
            warnings.warn(caution, MapWarning, stacklevel=stacklevel + 1)


def single(grids: Mapping[str, tuple[int, int]]) -> str | None:
    """A sentence on target layers of one position, by their grids (height, width); None if all have more."""
    names = [name for name, (height, width) in grids.items() if height * width == 1]
    if not names:
        return None
    return (
        f"the target layer {', '.join(names)} gives maps of 1x1: a single position is constant and shows nothing. Take "
        "an earlier target layer, or larger pictures"
    )


def constant(count: int, total: int, grids: Mapping[str, tuple[int, int]]) -> str | None:
    """A sentence on a run of which most maps, `count` of `total`, show nothing: they are constant or not finite.

    None if no more than half are, which is ordinary, if there is but one map, or if all layers have one position, as
    `single` says. Grids are as there, and empty if they are not known.
    """
    if 2 * count <= total or total < 2 or (grids and all(height * width == 1 for height, width in grids.values())):
        return None
    layers = ", ".join(f"{name} ({height}x{width})" for name, (height, width) in grids.items())
    what = f"{count} of {total} maps are constant and show nothing"
    if not layers:
        return what
    return (
        f"{what}: target layer {layers}. Either the scores do not depend on what its positions tell apart, as after "
        "the last block of a vision transformer, or the network is not trained, or its numbers are not finite; an "
        "earlier target layer may show more"
    )


def saturated(run: Forward) -> str | None:
    """A sentence on gradients of a softmax, if the network ends in one. A sigmoid scales them, but mixes no classes."""
    softmax = {"Softmax": "softmax", "LogSoftmax": "log-softmax"}.get(last_function(run) or "")
    if softmax is None:
        return None
    return (
        f"{type(run.model).__name__} ends in a {softmax}, and gradients of probabilities mix all classes and vanish "
        "where the network is sure: for maps of the logits, pass the network without it"
    )
