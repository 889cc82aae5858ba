"""Pictures in: files found, read as upright RGB, made network input, and boxes led back to the original's pixels."""

import io
import os
import stat
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import cv2
import numpy as np
import torch
from PIL import (  # the plugins register themselves; importing them here keeps that out of the decoding threads
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)
from torch import Tensor

from fastcam.models import ModelConfig

SUFFIXES = frozenset((".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"))  # what counts as a picture in a folder
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 178_956_970  # 512 MiB of RGB; also where Pillow itself refuses

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_BIT = frozenset(("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr"))


class DecodeError(ValueError):
    """A picture could not be read.

    Attributes:
        code: "unreadable" (the file cannot be opened), "unsupported" (no known format or colour model),
            "too_large" (more than `MAX_PIXELS` pixels) or "damaged" (truncated, corrupt).
        message: the reason in words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


def find_pictures(paths: Iterable[str | os.PathLike[str]]) -> Iterator[tuple[str, Path]]:
    """List picture files, folder by folder, each sorted by name, without holding the list in memory.

    Folders are searched with all folders below; in them, only files with one of `SUFFIXES` (in any case) count. Files
    given by name are taken whatever their suffix. Nothing comes twice.

    Args:
        paths: files and folders.

    Yields:
        Pairs of id and path. The id is the path relative to the deepest folder that holds all of `paths` (to the
        folder itself, if it is the only one), with "/"; what is no UTF-8 in it is escaped with backslashes.

    Raises:
        FileNotFoundError: if a path does not exist.
        ValueError: if a folder has no pictures.
        OSError: if a folder below cannot be read.
    """
    roots = [Path(os.path.abspath(path)) for path in paths]
    for root in roots:
        if not root.exists():
            raise FileNotFoundError(f"no such file or folder: {root}")
    if not roots:
        return
    folders = {root for root in roots if root.is_dir()}
    base = os.path.commonpath([root if root in folders else root.parent for root in roots])
    for root in dict.fromkeys(roots):
        if not folders.isdisjoint(root.parents):
            continue  # comes with that folder
        found = False
        for path in _walk(root) if root in folders else [root]:
            found = True
            yield os.fsencode(path.relative_to(base).as_posix()).decode("utf-8", "backslashreplace"), path
        if not found:
            wanted = ", ".join(f"*{suffix}" for suffix in sorted(SUFFIXES))
            raise ValueError(f"no pictures in {root}: looked for {wanted} in it and in all folders below")


def _walk(folder: Path) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        yield from (Path(parent, name) for name in sorted(names) if os.path.splitext(name)[1].lower() in SUFFIXES)


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as upright RGB.

    JPEG, PNG and WebP, also GIF, BMP and TIFF (first frame). The EXIF orientation is applied (values outside 1–8
    mean 1); grey, palette and CMYK are converted, 16 bits divided by 257 and rounded, alpha is dropped.

    Args:
        path: the file.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        DecodeError: if the file cannot be read, is of another format, is damaged or truncated, or has too many
            pixels (known from its header, before anything is decoded).
    """
    with quiet_pillow():
        return np.array(decode(path))


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings (odd EXIF data, large pictures), which `decode` answers by a result or an error.

    Python's warning filters belong to the whole process. So this is for the thread that starts the work, around all
    of it, and not for each decoding thread.

    Yields:
        Nothing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def decode(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """Do what `load_image` does, for use in threads inside `quiet_pillow`.

    Args:
        source: the file's path, or its content as bytes.

    Returns:
        Upright PIL picture of mode RGB, decoded.

    Raises:
        DecodeError: as `load_image`.
    """
    with _reading(source) as file:
        image = _open(file)
        image.load()
        orientation = _orientation(image)
        image = _rgb(image)
        return image.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else image


def picture_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """Read a picture's size from its header, without decoding it.

    Args:
        source: as for `decode`.

    Returns:
        (width, height) of the upright picture in pixels.

    Raises:
        DecodeError: if the file cannot be read, is of an unknown format, or its header is damaged.
    """
    with _reading(source) as file:
        image = _open(file)
        width, height = image.size
        return (height, width) if _orientation(image) in (5, 6, 7, 8) else (width, height)


@contextmanager
def _reading(source: str | os.PathLike[str] | bytes) -> Iterator[BinaryIO]:
    """Open a regular file or its content, and turn whatever goes wrong in the block into a `DecodeError`."""
    with ExitStack() as stack:
        try:
            if isinstance(source, bytes):
                file = io.BytesIO(source)
            elif stat.S_ISREG(os.stat(source).st_mode):
                file = stack.enter_context(open(source, "rb"))
            else:  # opening a pipe would wait for ever
                raise DecodeError("unreadable", "not a regular file")
        except OSError as error:
            raise DecodeError("unreadable", error.strerror or str(error)) from error
        try:
            yield file
        except DecodeError:
            raise
        except Image.DecompressionBombError as error:
            raise DecodeError("too_large", str(error)) from error
        # On damaged files Pillow raises whatever its parsers run into: OSError, SyntaxError, struct.error, …
        except Exception as error:
            raise DecodeError("damaged", str(error) or type(error).__name__) from error


def _open(file: BinaryIO) -> Image.Image:
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        file.seek(0)
        prefix = file.read(16)
        if not prefix:
            raise DecodeError("damaged", "the file is empty") from error
        if any(Image.OPEN[name][1](prefix) is True for name in FORMATS):
            raise DecodeError("damaged", "its header cannot be read") from error
        raise DecodeError("unsupported", f"not one of {', '.join(FORMATS)}") from error
    if image.width * image.height > MAX_PIXELS:
        raise DecodeError("too_large", f"{image.width}x{image.height} pixels, at most {MAX_PIXELS} are read")
    return image


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(_ORIENTATION)
    except Exception:  # damaged EXIF data says nothing about the picture
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode in _EIGHT_BIT:
        image.info.pop("transparency", None)
        return image.convert("RGB")
    # Older versions of Pillow read 16-bit PNGs as 32-bit integers.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG"):
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    raise DecodeError("unsupported", f"colour mode {image.mode}")


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
        """Map boxes from the frame to the original.

        Args:
            boxes: [..., 4], xyxy in pixels of the frame, half-open.

        Returns:
            float32 [..., 4], xyxy in pixels of the original, half-open; boxes of no area become zeros.

        Raises:
            ValueError: the boxes' shape does not broadcast with [4].
        """
        boxes = np.asarray(boxes, np.float64)
        mapped = (boxes + np.array(self.offset * 2)) * np.array(self.original * 2) / np.array(self.resized * 2)
        empty = (boxes[..., 2:] <= boxes[..., :2]).any(-1, keepdims=True)
        return np.where(empty, 0, mapped).astype(np.float32)

    def spread(self, map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Lay a map of the frame over the whole picture, in another size.

        Args:
            map: float32 [H, W] over the frame, one value per pixel.
            size: (width, height) to give the picture, in pixels, positive.

        Returns:
            float32 [height, width], interpolated linearly; zero where the frame did not reach.

        Raises:
            ValueError, cv2.error: the map is empty, not [H, W], or of a dtype that OpenCV cannot interpolate.
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
            Resize(round(size·256/224)) of the shorter side, then CenterCrop(size).
        mean: per channel, subtracted from RGB/255.
        std: per channel, divides the difference.

    Raises:
        ValueError: an unknown `resize`, a size that is no positive whole number, or mean or std that are not three
            finite numbers, those of std positive.
    """

    size: int = 224
    resize: str = "squash"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self) -> None:
        if not (isinstance(self.size, int) and self.size > 0):
            raise ValueError(f"`size` must be a positive whole number of pixels, got {self.size!r}")
        if self.resize not in ("squash", "crop"):
            raise ValueError(f'`resize` must be "squash" or "crop", got {self.resize!r}')
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != 3 or not np.isfinite(values).all() or (name == "std" and min(values) <= 0):
                kind = "finite numbers" if name == "mean" else "positive numbers"
                raise ValueError(f"`{name}` must be three {kind}, one per channel, got {values!r}")

    @classmethod
    def of(cls, config: ModelConfig) -> Self:
        """Return the preprocessing that a model's configuration asks for.

        Args:
            config: of which size, resize, mean and std are used.

        Returns:
            The preprocessing.

        Raises:
            ValueError: one of them is out of range.
        """
        return cls(config.size, config.resize, tuple(config.mean), tuple(config.std))

    def __call__(self, image: Image.Image | np.ndarray) -> tuple[Tensor, Geometry]:
        """Prepare one picture.

        Args:
            image: upright RGB, PIL or uint8 [H, W, 3].

        Returns:
            float32 [3, size, size], and the geometry that leads boxes back.

        Raises:
            TypeError: if the picture is neither PIL nor uint8.
            ValueError: if an array is not [H, W, 3]; `DecodeError` if a very long picture would be resized to more
                than `MAX_PIXELS` pixels.
        """
        frame, geometry = self.frame(image)
        return self.normalize(torch.from_numpy(frame)[None])[0], geometry

    def frame(self, image: Image.Image | np.ndarray) -> tuple[np.ndarray, Geometry]:
        """Resize and crop one picture: `__call__` without `normalize`.

        Args:
            image: upright RGB, PIL or uint8 [H, W, 3].

        Returns:
            uint8 [size, size, 3], RGB, and the geometry that leads boxes back.

        Raises:
            TypeError, ValueError: as in a call.
        """
        image = _pil(image)
        width, height = image.size
        if self.resize == "squash":
            resized, offset = (self.size, self.size), (0, 0)
        else:
            # torchvision's arithmetic: the longer side is truncated, the offset rounded half to even.
            short, side = min(width, height), round(self.size * 256 / 224)
            resized = int(side * width / short), int(side * height / short)
            offset = round((resized[0] - self.size) / 2), round((resized[1] - self.size) / 2)
            if resized[0] * resized[1] > MAX_PIXELS:
                raise DecodeError("too_large", f"{width}x{height} becomes {resized[0]}x{resized[1]} before cropping")
        left, top = offset
        image = image.resize(resized, Image.Resampling.BILINEAR)
        frame = np.array(image.crop((left, top, left + self.size, top + self.size)))
        return frame, Geometry((width, height), resized, offset)

    def normalize(self, frames: Tensor) -> Tensor:
        """Scale to [0, 1], subtract the mean and divide by the standard deviation.

        Args:
            frames: uint8 [N, H, W, 3], on any device.

        Returns:
            float32 [N, 3, H, W], contiguous, on the same device.

        Raises:
            RuntimeError: the frames are not [N, H, W, 3].
        """
        mean, std = (frames.new_tensor(v, dtype=torch.float32)[:, None, None] for v in (self.mean, self.std))
        return frames.permute(0, 3, 1, 2).contiguous().float().div_(255).sub_(mean).div_(std)


def _pil(image: Image.Image | np.ndarray) -> Image.Image:
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = getattr(image, "dtype", type(image).__name__)
        raise TypeError(f"a picture must be a PIL image or a uint8 array [H, W, 3], got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"a picture must be [H, W, 3], got {list(image.shape)}")
    return Image.fromarray(image)
