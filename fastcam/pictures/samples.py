"""Pictures that are not simply colours of 8 bits: how a network wants them read, and what becomes of their samples.

A network of one channel gets the grey picture, one of three the colours, one of more the channels as they are stored.
Samples of more than 8 bits, or floating ones, mean nothing without their range: 12 bits in files of 16 are nearly black
where 65535 is taken for white. So it is stated once, with the network, and holds for all pictures that it sees.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from fastcam._check import Scale, check_channels, scale_of
from fastcam.pictures.containers import MAX_PIXELS, DecodeError

_LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601, as Pillow's mode L
_STATE_IT = 'state one: `scale` "dtype", "minmax", or the values that become 0 and 1'


class Stored(NamedTuple):
    """A picture's samples as a file or an array has them.

    Attributes:
        values: [H, W, C], upright, integers or floating.
        full: the lowest and highest value that they can have; of floating ones 0 and 1.
        colours: how many of the first channels are grey (1) or R, G and B (3); 0 if nothing tells what they are.
        alpha: what the channel after the colours is: "straight" or "premultiplied" opacity; None if it is another.
    """

    values: np.ndarray
    full: tuple[float, float]
    colours: int
    alpha: Literal["straight", "premultiplied"] | None = None


@dataclass(frozen=True, eq=False)
class Samples:
    """A picture as a network of other than RGB of 8 bits takes it; `Reading.of` makes them.

    Attributes:
        values: [H, W, C], uint8, or float32 in [0, 1] where a scaling was stated.
    """

    values: np.ndarray

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        height, width, _ = self.values.shape
        return width, height

    @cached_property
    def shown(self) -> Image.Image:
        """The picture for people, mode RGB: as it was scaled, grey of one or two channels, else the first three."""
        values = self.values[..., : 3 if self.values.shape[2] >= 3 else 1]
        if values.dtype != np.uint8:
            values = np.rint(255 * values).astype(np.uint8)
        return Image.fromarray(np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3))))


@dataclass(frozen=True)
class Reading:
    """How pictures are read for a network.

    Attributes:
        channels: of its input.
        scale: how samples become 0..1: "dtype", by the range of their type (of floating ones 0..1, which they must keep
            to); "minmax", by the lowest and highest of each picture; or the values that become 0 and 1, beyond which
            samples are clipped. None is for samples of 8 bits; of 16 it takes what 8 bits keep of them.

    Raises:
        ValueError: there is no such number of channels, or scaling.
    """

    channels: int = 3
    scale: Scale = None

    def __post_init__(self) -> None:
        check_channels(self.channels)
        object.__setattr__(self, "scale", scale_of(self.scale))

    @property
    def plain(self) -> bool:
        """Whether it is RGB of 8 bits, as pictures mostly are."""
        return self.channels == 3 and self.scale is None

    @property
    def visible(self) -> bool:
        """Whether the network takes a picture as people see it, grey or in colour, and not channels as they are."""
        return self.channels in (1, 3)

    def of(self, stored: Stored) -> Samples:
        """Make samples what the network takes.

        For a network of one channel, colours become grey; for one of three, grey is repeated. For these, what is
        transparent is laid on white. For others all channels are taken as they are stored.

        Raises:
            DecodeError: there are not as many channels, their range is not stated, or contradicts what is stated.
        """
        values, alpha = stored.values, None
        if self.visible:
            if stored.colours not in (1, 3):
                raise DecodeError("unsupported", f"{values.shape[2]} channels, the network takes {self.channels}")
            if stored.alpha is not None:
                alpha = values[..., stored.colours]
            values = values[..., : stored.colours]
            if self.channels < stored.colours:
                values = _grey(values)
        elif values.shape[2] != self.channels:
            raise DecodeError("unsupported", f"{values.shape[2]} channels, the network takes {self.channels}")
        found = self._scaled(values, alpha, stored.full)
        if alpha is not None:
            low, high = stored.full
            opaque = ((alpha.astype(np.float32) - np.float32(low)) / np.float32(high - low))[..., None]
            found = (found if stored.alpha == "premultiplied" else found * opaque) + (1 - opaque)
            np.clip(found, 0, 1, out=found)
        if found.shape[2] < self.channels:
            found = np.repeat(found, self.channels, 2)
        return Samples(np.ascontiguousarray(found))

    def _scaled(self, values: np.ndarray, alpha: np.ndarray | None, full: tuple[float, float]) -> np.ndarray:
        """Uint8, or float32 in [0, 1]."""
        if values.size > MAX_PIXELS:
            raise DecodeError("too_large", f"{values.size} samples, at most {MAX_PIXELS} are scaled")
        if self.scale is None:
            if values.dtype == np.uint8:
                return values
            if values.dtype == np.uint16:
                return narrow(values)
            raise DecodeError("unsupported", f"samples of {values.dtype}, which have no fixed range: {_STATE_IT}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise DecodeError("unsupported", "some of its samples are no finite numbers")
        if self.scale == "minmax":
            seen = values if alpha is None else values[alpha > 0]
            low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
            high = high if high > low else low + 1
        elif self.scale == "dtype":
            low, high = full
            least, most = (float(values.min()), float(values.max())) if values.dtype.kind == "f" else full
            if least < low or most > high:
                raise DecodeError(
                    "unsupported",
                    f'floating samples from {least:g} to {most:g}, where `scale` "dtype" expects 0 to 1: {_STATE_IT}',
                )
        else:
            low, high = self.scale
            if values.dtype.kind != "f" and full[1] <= 255 < high:
                raise DecodeError(
                    "unsupported",
                    f"samples up to {full[1]:g}, which are nearly black where {high:g} is white, as `scale` states",
                )
        exact = np.float32 if values.dtype.itemsize <= 2 or values.dtype == np.float32 else np.float64
        found = np.subtract(values, low, dtype=exact)
        np.divide(found, high - low, out=found)
        return np.clip(found, 0, 1, out=found).astype(np.float32, copy=False)


PLAIN = Reading()


def shown_reading(info: Mapping[str, Any]) -> Reading:
    """How a run's pictures are read to be shown, by what its table says of it: as they are, where that is possible."""
    channels, scale = info.get("channels", 3), scale_of(info.get("scale"))
    return PLAIN if scale is None and channels in (1, 3) else Reading(channels, scale)


def narrow(samples: np.ndarray) -> np.ndarray:
    """8 bits of 16: divided by 257 and rounded."""
    return ((samples.astype(np.uint32) + 128) // 257).astype(np.uint8)


def stored(image: Image.Image | np.ndarray) -> Stored:
    """The samples of a PIL picture of modes I, I;16 and F, or of an array [H, W] or [H, W, C] of real numbers.

    Raises:
        TypeError: an array of others.
        ValueError: an array of another shape.
    """
    values = np.asarray(image)
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.kind not in "uif" or values.dtype.itemsize > 8:
        raise TypeError(f"a picture must be a PIL image or an array of real numbers, got {values.dtype}")
    if values.ndim not in (2, 3) or values.size == 0:
        raise ValueError(f"a picture must be [H, W] or [H, W, C], got {list(values.shape)}")
    values = values[..., None] if values.ndim == 2 else values
    count = values.shape[2]
    # Of two or four channels the last is taken for no opacity: arrays have none to say so.
    return Stored(values, full_range(values.dtype), count if count in (1, 3) else 0)


def full_range(dtype: np.dtype) -> tuple[float, float]:
    """The lowest and highest value of a type; of floating ones 0 and 1."""
    if dtype.kind == "f":
        return 0.0, 1.0
    return float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)


def _grey(colours: np.ndarray) -> np.ndarray:
    """[H, W, 3] to [H, W, 1]: of 8 bits as Pillow does it, else float32, not rounded."""
    if colours.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))[..., None]
    exact = np.float64 if colours.dtype.itemsize > 4 else np.float32
    return (colours.astype(exact) @ _LUMINANCE.astype(exact))[..., None]
