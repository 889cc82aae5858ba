"""What is said of maps that show nothing, or something else than it seems."""

import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from fastcam.methods.forward import Forward
from fastcam.methods.scores import last_function


class MapWarning(UserWarning):
    """Maps may mislead: the message says which, and what to do."""


@contextmanager
def quiet_methods() -> Iterator[None]:
    """Silence these warnings in a run, which tells of them once, at its end; see `fastcam.pictures.quiet_pillow`.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=MapWarning)
        yield


def tell(cautions: Iterable[str | None], stacklevel: int = 2) -> None:
    """Warn of what a run has found.

    Args:
        cautions: sentences; None, and one that comes again, is passed over.
        stacklevel: of the warnings, as if the caller of this gave them.

    Warns:
        MapWarning: each of them.
    """
    for caution in dict.fromkeys(cautions):
        if caution is not None:
            warnings.warn(caution, MapWarning, stacklevel=stacklevel + 1)


def single(grids: Mapping[str, tuple[int, int]]) -> str | None:
    """Say what is wrong with target layers of one position.

    Args:
        grids: (height, width) of the maps of each target layer, by its name.

    Returns:
        A sentence; None if all have more.
    """
    names = [name for name, (height, width) in grids.items() if height * width == 1]
    if not names:
        return None
    return (
        f"the target layer {', '.join(names)} gives maps of 1x1: a single position is constant and shows nothing. Take "
        "an earlier target layer, or larger pictures"
    )


def constant(count: int, total: int, grids: Mapping[str, tuple[int, int]]) -> str | None:
    """Say that most maps of a run show nothing; a few that do not are ordinary.

    Args:
        count: maps that are constant or not finite, which all become zeros.
        total: all maps, with these.
        grids: as for `single`; empty if not known.

    Returns:
        A sentence; None if no more than half are constant, if there is but one, or if all layers have one position,
        as `single` says.
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
    """Say what gradients of a softmax mean for maps.

    Args:
        run: a forward pass with a graph.

    Returns:
        A sentence; None if the network ends in no softmax. A sigmoid scales gradients, but mixes no classes.
    """
    function = {"Softmax": "softmax", "LogSoftmax": "log-softmax"}.get(last_function(run))
    return function and (
        f"{type(run.model).__name__} ends in a {function}, and gradients of probabilities mix all classes and vanish "
        "where the network is sure: for maps of the logits, pass the network without it"
    )
