"""TIFF files beyond grey and RGB of 8 bits: what their tags say, and the samples of those that OpenCV cannot read.

OpenCV reads one sample a pixel, and RGB with at most one more, where the samples of a pixel lie together. All others
(several bands, planes one after the other, half precision) are tifffile's, where it is installed. It reads any number
of strips, and unpacks them to whatever they hold: so only what is not packed, or packed by deflate, is given to it, and
that only after a look at how much comes out.
"""

import io
import logging
import zlib
from typing import NamedTuple

import numpy as np
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from fastcam.pictures.containers import MAX_PIXELS, DecodeError, check_size

_NOT_PACKED, _DEFLATE = 1, (8, 32946)
_KINDS = {1: "u", 2: "i", 3: "f"}  # of numbers, by the tag SampleFormat
GREY, RGB = 1, 2  # photometric interpretations


class Tags(NamedTuple):
    """What a TIFF file's first directory says of its picture.

    Attributes:
        size: (width, height) in pixels, as stored.
        bits: of each sample, where all have the same; else 0.
        kind: of the numbers, as in NumPy: "u", "i" or "f"; "" for others.
        samples: of each pixel.
        photometric: what they are; `GREY`, `RGB` or another.
        together: whether the samples of a pixel lie together.
        extra: what samples beyond the colours are; 1 and 2 are opacity.
        orientation: as EXIF numbers it.
    """

    size: tuple[int, int]
    bits: int
    kind: str
    samples: int
    photometric: int
    together: bool
    extra: tuple[int, ...]
    orientation: int

    @property
    def dtype(self) -> np.dtype | None:
        """Of the samples; None if there is none."""
        known = self.bits in ((16, 32, 64) if self.kind == "f" else (8, 16, 32, 64))
        return np.dtype(f"{self.kind}{self.bits // 8}") if known and self.kind else None

    @property
    def odd(self) -> bool:
        """Whether it is grey, RGB or bands whose samples 8 bits cannot hold, or which Pillow has no mode for."""
        if self.photometric not in (0, GREY, RGB) or self.bits < 8:
            return False
        grey = self.samples == 1 or (self.samples == 2 and self.extra in ((1,), (2,)))
        return self.bits > 8 or self.kind != "u" or not (grey or (self.photometric == RGB and self.samples <= 4))


def read_tags(data: bytes) -> Tags:
    """Read the first directory; DecodeError "damaged" if it says no size, "too_large" if that is too much."""
    head = data[: 16 if data[2:4] in (b"+\0", b"\0+") else 8]
    found = ImageFileDirectory_v2(head)
    file = io.BytesIO(data)
    file.seek(found.next)
    found.load(file)
    try:
        width, height = int(found[256]), int(found[257])
    except (KeyError, TypeError, ValueError):
        raise DecodeError("damaged", "its header says no size") from None
    samples = int(found.get(277, 1))
    bits, kinds = (_tuple(found.get(tag, (1,))) for tag in (258, 339))
    check_size(width, height)
    return Tags(
        (width, height),
        bits[0] if len(set(bits)) == 1 else 0,
        _KINDS.get(kinds[0], "") if len(set(kinds)) == 1 else "",
        samples,
        int(found.get(262, GREY)),
        samples == 1 or found.get(284, 1) == 1,
        _tuple(found.get(338, ())),
        int(found.get(274, 1)),
    )


def _tuple(value: object) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (value,)  # type: ignore[return-value]


def read_samples(data: bytes, tags: Tags) -> np.ndarray:
    """The samples, [H, W, C], as stored; DecodeError "unsupported" without tifffile, or if they are packed."""
    try:
        import tifffile
    except ImportError:
        what = f"TIFF of {tags.samples} samples of {tags.bits} bits a pixel"
        raise DecodeError("unsupported", f"{what}, which needs tifffile: pip install fastcam[tiff]") from None
    logger = logging.getLogger("tifffile")
    if not logger.handlers:  # else its warnings go to the terminal, without a file's name
        logger.addHandler(logging.NullHandler())
    (width, height), dtype = tags.size, tags.dtype
    if dtype is None or width * height * tags.samples > MAX_PIXELS:
        code, what = ("unsupported", "samples of no known type") if dtype is None else ("too_large", "samples")
        raise DecodeError(code, f"{width}x{height} pixels of {tags.samples} {what}, at most {MAX_PIXELS} are read")
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        shape = (height, width, tags.samples) if tags.together else (tags.samples, height, width)
        if page.dtype != dtype or tuple(n for n in page.shape if n > 1) != tuple(n for n in shape if n > 1):
            raise DecodeError("unsupported", f"TIFF of {page.dtype} {list(page.shape)}, its tags say {list(shape)}")
        _check_parts(data, page.compression, page.dataoffsets, page.databytecounts, page.nbytes)
        values = page.asarray(maxworkers=1).reshape(shape)
    return values if tags.together else np.moveaxis(values, 0, 2)


def _check_parts(data: bytes, packing: int, begins: tuple[int, ...], sizes: tuple[int, ...], whole: int) -> None:
    """See that a picture's strips or tiles lie in the file and hold the whole of it, and little more."""
    if packing != _NOT_PACKED and packing not in _DEFLATE:
        raise DecodeError("unsupported", f"TIFF of several bands, packed as {packing}: only none and deflate are read")
    if sum(sizes) > len(data) or any(at + size > len(data) for at, size in zip(begins, sizes, strict=True)):
        raise DecodeError("damaged", "the file is cut off, or its parts overlap")
    held, most = sum(sizes), 4 * whole + 2**26  # tiles stick out of the picture
    if packing != _NOT_PACKED:
        held = 0
        for at, size in zip(begins, sizes, strict=True):
            unpacking, rest = zlib.decompressobj(), data[at : at + size]
            while rest and held <= most:
                held += len(unpacking.decompress(rest, 2**20))
                rest = unpacking.unconsumed_tail
            if held > most:
                raise DecodeError("damaged", f"its parts hold more than {most} bytes, its header says {whole}")
    if held < whole:
        raise DecodeError("damaged", f"its parts hold {held} bytes, its header says {whole}")
