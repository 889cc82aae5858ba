"""Checks that many functions make of their arguments, with the texts of their errors."""

import difflib
import math
from collections.abc import Callable, Iterable, Sequence
from numbers import Real
from typing import Literal

# How samples of a picture become 0..1: by the range of their type, by each picture's own, or from and to these values;
# None is for samples of 8 bits, and of 16 what 8 bits keep of them.
Scale = Literal["dtype", "minmax"] | tuple[float, float] | None

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Pixels in 0..1 deviate by at most 0.5; 1 leaves them as they are, and Caffe's networks want them times 255.
_LEAST_STD, _MOST_STD = 0.001, 2.0
_MOST_SCALES, _LARGEST_SCALE = 8, 8.0  # the field has 3 to 5 scales up to 2.5
_MOST_CHANNELS = 1024  # imaging spectrometers have some hundreds


def whole(name: str, value: object, least: int) -> None:
    """Raise a ValueError unless the argument `name` is an int of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")


def one_of(name: str, value: object, known: Iterable[object], show: Callable[[object], str] = str) -> None:
    """Raise a ValueError unless the argument `name` is one of the known values, which the error lists by `show`."""
    known = list(known)
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(map(show, known))}, got {value!r}")


def distinct_scales(scales: object) -> tuple[float, ...]:
    """Factors of a picture's size as plain numbers, () for None; a ValueError if they are not up to 8, above 0 to 8."""
    given: list[object] = [scales] if isinstance(scales, Real | str) else list(scales or ())  # type: ignore[call-overload]
    found = [float(one) for one in given if isinstance(one, Real) and not isinstance(one, bool)]
    sound = len(found) == len(given) == len({*found}) <= _MOST_SCALES
    if not sound or not all(0 < one <= _LARGEST_SCALE for one in found):
        raise ValueError(
            f"`scales` must be up to {_MOST_SCALES} different numbers above 0 and at most {_LARGEST_SCALE:g}, such as "
            f"0.5, 1, 1.5, 2, got {scales!r}"
        )
    return tuple(found)


def suggest(word: str, known: Iterable[str]) -> str:
    """The end of an error about an unknown word: up to five known ones that are similar, else the first twelve."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=5, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else f"; known are {listed(known, 12)}"


def listed(names: list[str], limit: int = 5) -> str:
    """Join names for an error: the first with commas between, then "…" for those left out."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")


def check_channels(channels: object) -> None:
    """Refuse what is no number of channels, 1 to 1024; None is one that is not stated."""
    if channels is None:
        return
    if isinstance(channels, bool) or not isinstance(channels, int) or not 1 <= channels <= _MOST_CHANNELS:
        raise ValueError(f"`channels` must be a whole number from 1 to {_MOST_CHANNELS}, got {channels!r}")


def scale_of(value: object) -> Scale:
    """A scaling as it is written: "dtype", "minmax", a number for 0 to it, or two, as numbers or text ("0,4095")."""
    if value is None or value == "dtype" or value == "minmax":
        return value
    try:
        given = value.split(",") if isinstance(value, str) else value
        numbers = [float(one) for one in given] if isinstance(given, list | tuple) else [float(given)]  # type: ignore[arg-type]
    except (TypeError, ValueError):
        numbers = []
    low, high = [0.0, *numbers] if len(numbers) == 1 else numbers if len(numbers) == 2 else (0.0, 0.0)
    if isinstance(value, bool) or not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            '`scale` must be "dtype", "minmax", the value that becomes 1, such as 4095 for 12 bits, or those that '
            f"become 0 and 1, such as -1000,400; got {value!r}"
        )
    return low, high


def for_channels(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """A mean or deviation for so many channels; ValueError if there is another number of them.

    What is the same for all serves any number; of ImageNet's, the default, those of other than colours get the mean.
    """
    values = tuple(values)
    if values and len(values) != channels:
        if len(set(values)) == 1:
            return values[:1] * channels
        if values in (IMAGENET_MEAN, IMAGENET_STD):
            return (round(sum(values) / 3, 4),) * channels
        many = "one number" if channels == 1 else f"one number or {'three' if channels == 3 else channels}"
        raise ValueError(f"`{name}` must be {many}, one per channel, got {values!r}")
    return values


def check_normalization(mean: Sequence[float], std: Sequence[float], channels: int = 3) -> None:
    """Refuse what cannot be the mean and standard deviation of channels in 0..1.

    Args:
        mean: of each channel: R, G and B.
        std: of each. Legal are 1, which leaves the pixels as they are, and 1/255, which gives them as 0..255.
        channels: how many there are.

    Raises:
        ValueError: they are not so many finite numbers each, a mean is not in 0..1, a deviation is not positive, or it
            is so large or small that the network would see one grey or values of thousands: they are for colours in
            0..255, or were divided by 255 twice.
    """
    for name, values in (("mean", mean), ("std", std)):
        kind = "finite numbers" if name == "mean" else "positive numbers"
        if len(values) != channels or not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
            many = {1: "one", 3: "three"}.get(channels, str(channels))
            raise ValueError(f"`{name}` must be {many} {kind}, one per channel, got {values!r}")
    if not 0 <= min(mean) <= max(mean) <= 1:
        hint = ", which is for colours in 0..255: divide mean and std by 255" if max(mean) > 1 else ""
        raise ValueError(f"`mean` must be in 0..1, as the colours are, got {tuple(mean)!r}{hint}")
    if max(std) > _MOST_STD:
        raise ValueError(
            f"`std` must be that of colours in 0..1, got {tuple(std)!r}, which is for colours in 0..255: divide by 255"
        )
    if min(std) < _LEAST_STD:
        raise ValueError(
            f"`std` must be that of colours in 0..1, at least {_LEAST_STD}, got {tuple(std)!r}: divided by 255 twice?"
        )
