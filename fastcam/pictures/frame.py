"""From an upright picture to network input, and boxes led back to the picture's pixels."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any, Literal, Self

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from fastcam import ops
from fastcam._check import IMAGENET_MEAN, IMAGENET_STD, Scale, for_channels
from fastcam.models import ModelConfig, check_normalization, own_preprocessing
from fastcam.models.preprocessing import Interpolation, Published, channels_of, check_resizing
from fastcam.pictures.containers import MAX_PIXELS, DecodeError
from fastcam.pictures.decoding import Pixels, bands_of, to_rgb
from fastcam.pictures.samples import Reading, Samples, Stored, stored

_MOST_CONVERTED = 2**23  # pixels of a PIL picture that becomes an array: of more that alone takes as long as resizing


@dataclass(frozen=True)
class Geometry:
    """Where the network's square frame lies in the original picture.

    Attributes:
        original: (width, height) of the upright original in pixels.
        resized: (width, height) of the whole picture after resizing.
        offset: (left, top) of the frame in the resized picture.
    """

    original: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int] = (0, 0)

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Lead boxes from the frame to the original.

        [..., 4], xyxy in pixels, half-open, become float32; boxes of no area become zeros.
        """
        boxes = np.asarray(boxes, np.float64)
        mapped = (boxes + np.array(self.offset * 2)) * np.array(self.original * 2) / np.array(self.resized * 2)
        empty = (boxes[..., 2:] <= boxes[..., :2]).any(-1, keepdims=True)
        return np.where(empty, 0, mapped).astype(np.float32)

    def spread(self, map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Lay a map of the frame, float32 [H, W], over the whole picture, in another size: (width, height) in pixels.

        float32 [height, width], interpolated linearly; zero where the frame did not reach.
        """
        scale = np.array(self.resized) / np.array(size)
        shift = scale / 2 - np.array(self.offset) - 0.5
        affine = np.array([[scale[0], 0, shift[0]], [0, scale[1], shift[1]]])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        whole = cv2.warpAffine(map, affine, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        for axis, (length, begin) in enumerate(zip(map.shape, self.offset[::-1], strict=True)):
            centre = (np.arange(whole.shape[axis]) + 0.5) * scale[1 - axis] - begin
            outside = (centre < 0) | (centre > length)
            whole[outside if axis == 0 else (slice(None), outside)] = 0
        return whole


@dataclass(frozen=True)
class Preprocess:
    """Turns pictures into network input the way torchvision's transforms on PIL pictures do, to the bit.

    Attributes:
        size: side of the square frame in pixels.
        resize: "squash": Resize((size, size)), which ignores the aspect ratio and keeps the whole picture; "crop":
            Resize(resize_size) of the shorter side, then CenterCrop(size).
        mean: per channel, subtracted from RGB/255; one number serves all.
        std: per channel, divides the difference.
        resize_size: with "crop", at least the size; None is round(size·256/224).
        interpolation: "bilinear", or "bicubic", which takes longer.
        channels: of the network's input, see `fastcam.pictures.Reading`.
        scale: how samples become 0..1, see there; then pictures are resized in float32, not in 8 bits.

    Raises:
        ValueError: an unknown `resize` or `interpolation`, a `resize_size` that cannot be, a size that is no positive
            whole number, a number of channels or a scaling that there is not, or mean and std that cannot be those of
            colours in 0..1, see `fastcam.models.check_normalization`.
    """

    size: int = 224
    resize: str = "squash"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize_size: int | None = None
    interpolation: Interpolation = "bilinear"
    channels: int = 3
    scale: Scale = None

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and 0 < self.size <= MAX_PIXELS**0.5):
            most = int(MAX_PIXELS**0.5)
            raise ValueError(f"`size` must be a positive whole number of pixels, at most {most}, got {self.size!r}")
        check_resizing(self.size, self.resize, self.resize_size, self.interpolation)
        object.__setattr__(self, "scale", self.reading.scale)
        for name in ("mean", "std"):
            object.__setattr__(self, name, for_channels(name, getattr(self, name), self.channels))
        check_normalization(self.mean, self.std, self.channels)

    @property
    def reading(self) -> Reading:
        """How pictures are read for the network."""
        return Reading(self.channels, self.scale)

    def blank(self, count: int) -> np.ndarray:
        """So many black frames: [count, size, size, channels], uint8, or float32 where a scaling is stated."""
        return np.zeros((count, self.size, self.size, self.channels), np.uint8 if self.scale is None else np.float32)

    def facts(self) -> dict[str, Any]:
        """All by name, but not what earlier versions did not know where it is as by default: for digests and files."""
        later = {"resize_size": None, "interpolation": "bilinear", "channels": 3, "scale": None}
        return {name: value for name, value in vars(self).items() if name not in later or value != later[name]}

    @classmethod
    def of(cls, config: ModelConfig | None, model: nn.Module | None = None) -> Self:
        """The preprocessing that a model's configuration asks for.

        Where there is none, that of the network: timm's know size, mean and std of their weights (`pretrained_cfg`).
        For others it is that of ImageNet, at 224 pixels. How many channels there are the network's first convolution
        tells, where the configuration does not. ValueError if one of them is out of range.
        """
        if config is None:
            usual, own = cls(), Published() if model is None else own_preprocessing(model)
            size, mean, std = own.get("size", usual.size), own.get("mean", usual.mean), own.get("std", usual.std)
            channels = None if model is None else channels_of(model, size)
            return cls(size, usual.resize, mean, std, channels=channels or 3)
        channels = config.channels or (None if model is None else channels_of(model, config.size))
        shown = config.size, config.resize, config.mean, config.std, config.resize_size, config.interpolation
        return cls(*shown, channels or 3, config.scale)

    def __call__(self, image: Pixels | None) -> tuple[Tensor, Geometry]:
        """Prepare one picture: float32 [channels, size, size], and the geometry that leads boxes back; see `frame`."""
        frame, geometry = self.frame(image)
        return self.normalize(torch.from_numpy(frame)[None])[0], geometry

    def frame(self, image: Pixels | None) -> tuple[np.ndarray, Geometry]:
        """Resize and crop one picture: `__call__` without `normalize`.

        Args:
            image: upright, see `taken`.

        Returns:
            [size, size, channels], uint8, or float32 in [0, 1] where a scaling is stated, and the geometry that leads
            boxes back.

        Raises:
            TypeError: if the picture is neither PIL nor uint8.
            ValueError: if an array is not [H, W, 3]; `DecodeError` if a very long picture would be resized to more
                than `MAX_PIXELS` pixels, or a PIL picture has a mode without a rule (I, F, …).
        """
        image = self.taken(image)
        geometry = self.geometry(size_of(image))
        left, top = geometry.offset
        box = left, top, left + self.size, top + self.size
        return resized(image, geometry.resized, box, self.interpolation), geometry

    def taken(self, image: Pixels | None) -> Pixels:
        """Bring a picture that comes as an object to what the network takes, before it is resized.

        Args:
            image: upright, PIL or RGB of uint8 [H, W, 3], see `as_rgb`; or of `fastcam.pictures.read` with `reading`.
                Where that is not plain, PIL of modes I, I;16 and F and arrays [H, W] and [H, W, C] of real numbers
                will do as well.

        Returns:
            PIL of mode RGB, or uint8 [H, W, 3]; `Samples` where the reading is not plain.

        Raises:
            TypeError, ValueError: as `frame`.
        """
        reading = self.reading
        if reading.plain:
            return _checked(image if not isinstance(image, Samples) else image.shown)
        if isinstance(image, Samples):
            if image.values.shape[2] != self.channels or (image.values.dtype == np.uint8) != (self.scale is None):
                raise ValueError(f"a picture read for {self.channels} channels and scale {self.scale} expected")
            return image
        deep = isinstance(image, Image.Image) and (image.mode in ("I", "F") or image.mode.startswith("I;16"))
        if isinstance(image, Image.Image) and not deep:
            if reading.visible:
                return reading.of(Stored(np.asarray(_checked(image)), (0, 255), 3))
            return reading.of(Stored(bands_of(image), (0, 255), 0))
        if not isinstance(image, Image.Image | np.ndarray):
            return _checked_array(image)  # which refuses it
        return reading.of(stored(image))

    def geometry(self, size: tuple[int, int]) -> Geometry:
        """Where the frame lies in an upright picture of (width, height) pixels.

        DecodeError if a very long picture would be resized to more than `MAX_PIXELS` pixels.
        """
        if self.resize == "squash":
            return Geometry(size, (self.size, self.size))
        # torchvision's arithmetic: the longer side is truncated, the offset rounded half to even.
        width, height = size
        short, side = min(size), self.resize_size or round(self.size * 256 / 224)
        resized = int(side * width / short), int(side * height / short)
        if resized[0] * resized[1] > MAX_PIXELS:
            raise DecodeError("too_large", f"{width}x{height} becomes {resized[0]}x{resized[1]} before cropping")
        return Geometry(size, resized, (round((resized[0] - self.size) / 2), round((resized[1] - self.size) / 2)))

    def normalize(self, frames: Tensor) -> Tensor:
        """Scale to [0, 1], subtract the mean and divide by the standard deviation.

        uint8 [N, H, W, 3], on any device, becomes float32 [N, 3, H, W], contiguous, on the same device. Frames of
        float32, whose scaling was stated, are in [0, 1].
        """
        mean, std = (frames.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (self.mean, self.std))
        images = frames.permute(0, 3, 1, 2)
        if images.dtype != torch.uint8:
            return images.clone(memory_format=torch.contiguous_format).sub_(mean).div_(std)
        return images.contiguous().float().div_(255).sub_(mean).div_(std)


def as_rgb(image: Pixels | None) -> Image.Image:
    """Take a picture that comes as an object, wherever one may be given.

    Args:
        image: PIL picture of any mode, as it stands: its EXIF orientation is not looked at. Or uint8 [H, W, 3], RGB; or
            `Samples`, which are shown as they were scaled.

    Returns:
        PIL picture of mode RGB: what `fastcam.pictures.load_image` makes of the same picture in a file.

    Raises:
        TypeError: it is neither PIL nor a uint8 array.
        ValueError: an array is not [H, W, 3]; `DecodeError` for a PIL picture of a mode without a rule (I, F, …).
    """
    image = _checked(image.shown if isinstance(image, Samples) else image)
    return image if isinstance(image, Image.Image) else Image.fromarray(image)


def size_of(image: Pixels | None) -> tuple[int, int]:
    """Width and height in pixels of a picture that comes as an object; raises as `as_rgb`."""
    if isinstance(image, Image.Image | Samples):
        return image.size
    height, width, _ = _checked_array(image).shape
    return width, height


def resized(
    image: Pixels | None,
    size: tuple[int, int],
    box: tuple[int, int, int, int] | None = None,
    interpolation: Interpolation = "bilinear",
) -> np.ndarray:
    """Resize a picture, and maybe cut a part out of it: `Image.resize(size, BILINEAR).crop(box)`, to the bit.

    `fastcam.ops.resize` does it in a quarter of the time that Pillow takes with arrays, as OpenCV decodes them, and in
    less than half with Pillow's own pictures. What is bicubic Pillow does.

    Args:
        image: upright, PIL or RGB of uint8 [H, W, 3]; see `as_rgb`. Or `Samples`, which keep their channels and dtype.
        size: (width, height) to give the whole picture, in pixels.
        box: left, top, right and bottom of the part that is wanted; what lies beyond the picture is black. None is all
            of it.
        interpolation: "bilinear" or "bicubic".

    Returns:
        uint8 [height, width, 3], RGB, of the part; of samples [height, width, C] of their dtype.

    Raises:
        TypeError, ValueError: as `as_rgb`.
    """
    if isinstance(image, Samples):
        return _resized_samples(image.values, size, box, interpolation)
    image = _checked(image)
    (width, height), (columns, rows) = size_of(image), size
    left, top, right, bottom = box or (0, 0, *size)
    within = 0 <= left < right <= columns and 0 <= top < bottom <= rows
    slow = isinstance(image, Image.Image) and (image.size == size or width * height > _MOST_CONVERTED)
    if within and not slow and interpolation == "bilinear" and (order := pillows_order()) is not None:
        pixels, crop = _lent(np.ascontiguousarray(image)), (top, left, bottom - top, right - left)
        return ops.resize(torch.from_numpy(pixels), (rows, columns), crop, order(height, width, rows, columns)).numpy()
    whole = as_rgb(image).resize(size, _KINDS[interpolation])
    return np.array(whole if box is None else whole.crop(box))


_KINDS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _resized_samples(
    values: np.ndarray, size: tuple[int, int], box: tuple[int, int, int, int] | None, interpolation: Interpolation
) -> np.ndarray:
    """Each channel as Pillow resizes it alone, in modes L and F, which is what torchvision makes of a grey picture."""
    left, top, right, bottom = box or (0, 0, *size)
    found = np.empty((bottom - top, right - left, values.shape[2]), values.dtype)
    for channel in range(values.shape[2]):
        plane = Image.fromarray(np.ascontiguousarray(values[..., channel])).resize(size, _KINDS[interpolation])
        found[..., channel] = plane if box is None else plane.crop(box)
    return found if found.dtype == np.uint8 else found.clip(0, 1, out=found)  # bicubic ones overshoot


def _checked(image: Image.Image | np.ndarray | None) -> Image.Image | np.ndarray:
    """A PIL picture as RGB, or an array that is one."""
    if isinstance(image, Image.Image):
        plain = image.mode == "RGB" and not (image.format and "transparency" in image.info)
        return image if plain else to_rgb(image)
    return _checked_array(image)


def _checked_array(image: np.ndarray | None) -> np.ndarray:
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"a picture must be a PIL image or a uint8 array [H, W, 3], got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"a picture must be [H, W, 3], got {list(image.shape)}")
    return image


def _lent(pixels: np.ndarray) -> np.ndarray:
    """The same memory as if it were writable: torch warns of other, though the operator only reads it."""
    if pixels.flags.writeable:
        return pixels
    interface = pixels.__array_interface__ | {"data": (pixels.ctypes.data, False)}
    return np.asarray(SimpleNamespace(__array_interface__=interface, owner=pixels))


_Order = Callable[[int, int, int, int], Literal["rows", "columns"]]


def _rows(height: int, width: int, rows: int, columns: int) -> Literal["rows", "columns"]:
    return "rows"


def _shrunk_more(height: int, width: int, rows: int, columns: int) -> Literal["rows", "columns"]:
    # Seen from Pillow 13: columns first where the height shrinks by more than twice what the width does.
    return "columns" if height - rows > max(2 * (width - columns), 0) else "rows"


@cache
def pillows_order() -> _Order | None:
    """Find out by trial which axis the installed Pillow resizes first: from height and width before and after to it.

    None if no known rule has Pillow's bits.
    """
    return next((order for order in (_shrunk_more, _rows) if all(_same(order, *case) for case in _CASES)), None)


# Height and width before and after, on both sides of where the rules change.
_CASES = [(97, 70, 51, 51), (70, 97, 51, 51), (97, 60, 60, 80), (60, 60, 58, 59), (60, 60, 57, 59), (90, 97, 13, 58)]
_CASES += [(90, 97, 12, 58), (40, 30, 80, 20), (31, 90, 64, 97), (90, 31, 96, 20)]


def _same(order: _Order, height: int, width: int, rows: int, columns: int) -> bool:
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    expected = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BILINEAR)
    found = ops.resize(torch.from_numpy(picture), (rows, columns), None, order(height, width, rows, columns))
    return np.array_equal(found, np.asarray(expected))
