"""A picture file's bytes before anything is decoded: read from regular files only and not too many; format; whole?

No decoder is asked here, since decoders differ in what they let pass: Pillow reads PNGs whose pixels have a wrong
checksum, OpenCV reads JPEGs whose scan breaks off at a wrong marker.
"""

import io
import os
import re
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000")  # as Pillow calls them
MAX_PIXELS = 178_956_970  # 512 MiB of RGB; also where Pillow itself refuses
MAX_BYTES = 2**30  # of one file
MAX_SCANS = 1000  # of a JPEG; encoders write about ten

ERRORS = {
    "unreadable": "the file cannot be opened or read, or is none (a folder, a pipe)",
    "unsupported": f"not one of {', '.join(FORMATS)} by its first bytes, of a colour model without a rule, or of other "
    "channels or a range of samples that the network does not take",
    "too_large": f"more than {MAX_PIXELS} pixels by its header, {MAX_BYTES} bytes, or {MAX_SCANS} scans of a JPEG",
    "damaged": "empty, cut off, a wrong checksum, or data that its decoder refuses",
}

_SOS, _EOI = 0xDA, 0xD9  # JPEG markers: start of scan, end of image
_PNG = b"\x89PNG\r\n\x1a\n"
_BLANKS = (b" ", b"\t", b"\r", b"\n", b"#")  # what follows the first word of a portable pixmap
_MAGIC = [
    (b"\xff\xd8\xff", "JPEG"),
    (_PNG[:4], "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\0\0\0\x0cjP  ", "JPEG2000"),
    *((b"P%c" % kind, "PPM") for kind in b"123456f"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
]


class DecodeError(ValueError):
    """A picture could not be read.

    Attributes:
        code: a key of `ERRORS`, which says what each means.
        message: the reason in words.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


@contextmanager
def opened(source: str | os.PathLike[str] | bytes) -> Iterator[BinaryIO]:
    """Open a regular file, or its content, at its beginning; DecodeError "unreadable"."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    try:
        if not stat.S_ISREG(os.stat(source).st_mode):  # opening a pipe would wait for ever
            raise DecodeError("unreadable", "not a regular file")
        with open(source, "rb") as file:
            yield file
    except OSError as error:
        raise DecodeError("unreadable", error.strerror or str(error)) from error


def content(source: str | os.PathLike[str] | bytes) -> bytes:
    """All bytes of a file; of more than `MAX_BYTES` DecodeError "too_large", or "unsupported" if it is no picture."""
    if isinstance(source, bytes):
        return source
    with opened(source) as file:
        if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
            sniff(file.read(12))
            raise DecodeError("too_large", f"the file has {size} bytes, at most {MAX_BYTES} are read")
        return file.read()


def read_part(path: str | os.PathLike[str], offset: int, size: int) -> bytes:
    """The `size` bytes, not decoded, of a picture that begins at `offset` in a larger file.

    DecodeError "unreadable", "too_large", or "damaged" if the file ends before.
    """
    if not 0 <= size <= MAX_BYTES:
        raise DecodeError("too_large", f"the file has {size} bytes, at most {MAX_BYTES} are read")
    with opened(path) as file:
        if not 0 <= offset <= os.fstat(file.fileno()).st_size - size:
            raise DecodeError("damaged", f"{path} ends within it")
        file.seek(offset)
        return file.read(size)


def sniff(data: bytes) -> str:
    """One of `FORMATS` by a file's first 12 bytes or more; names and suffixes do not count.

    DecodeError "damaged" if it is empty, "unsupported" if it begins like none of them.
    """
    if not data:
        raise DecodeError("damaged", "the file is empty")
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:12] in (b"ftypavif", b"ftypavis"):
        return "AVIF"
    for start, name in _MAGIC:
        if data.startswith(start) and (name != "PPM" or data[2:3] in _BLANKS):
            return name
    raise DecodeError("unsupported", f"not one of {', '.join(FORMATS)}")


def check_size(width: int, height: int) -> None:
    """Refuse pictures of too many pixels: DecodeError "too_large"."""
    if width * height > MAX_PIXELS:
        raise DecodeError("too_large", f"{width}x{height} pixels, at most {MAX_PIXELS} are read")


def check_canvas(head: bytes) -> None:
    """Check the size of an extended WebP file's canvas, by its first 30 bytes, before libwebp takes memory for it."""
    if head[8:16] == b"WEBPVP8X":
        check_size(*(1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27)))


def check_webp(data: bytes) -> None:
    """Refuse a WebP file that is shorter than it says: DecodeError "damaged"."""
    if len(data) < max(20, 8 + int.from_bytes(data[4:8], "little")):
        raise DecodeError("damaged", "the file is cut off")


def check_scans(data: bytes) -> None:
    """Refuse JPEGs whose scans go over the picture so often that a small file keeps a processor busy for hours."""
    if (count := data.count(b"\xff\xda")) > MAX_SCANS:
        raise DecodeError("too_large", f"{count} scans, at most {MAX_SCANS} are read")


def check_png(data: bytes) -> int:
    """Bits per sample (1, 2, 4, 8 or 16) of a PNG file that is whole, else DecodeError "damaged".

    It is by its signature, and length and checksum of every chunk up to IEND; what follows that does not matter.
    """
    if not data.startswith(_PNG):
        raise DecodeError("damaged", "its signature is broken, as by a transfer as text")
    view, at, kind = memoryview(data), len(_PNG), b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise DecodeError("damaged", "the file is cut off")
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise DecodeError("damaged", "the file is cut off")
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise DecodeError("damaged", f"wrong checksum of the chunk {kind.decode('ascii', 'backslashreplace')}")
        at = end + 4
    return data[24]


def pixmap_maximum(data: bytes) -> int:
    """The value that is white in a portable grey- or pixmap, by its header; 0 for other kinds of them."""
    if data[:2] not in (b"P2", b"P3", b"P5", b"P6"):
        return 0
    # Each blank or comment by itself: of several ways to take a run of blanks a failure would try all.
    words = re.match(rb"P\d" + 3 * rb"(?:\s|#[^\n]*\n)+(\d+)" + rb"\s", data[:4096])
    return 0 if words is None or len(words[3]) > 5 else int(words[3])


def jpeg2000_bits(data: bytes) -> int:
    """Bits of a JPEG 2000's first channel, by the header of its codestream; 0 if there is none."""
    begin = data.find(b"\xff\x4f\xff\x51")
    return 0 if begin < 0 or len(data) < begin + 43 else (data[begin + 42] & 0x7F) + 1


def avif_pixels(data: bytes) -> tuple[int, int]:
    """(width, height) of an AVIF's first item, by the property that tells it; (0, 0) if there is none."""
    begin = data.find(b"ispe")
    return (0, 0) if begin < 0 or len(data) < begin + 16 else struct.unpack_from(">II", data, begin + 8)


def png_may_turn(file: BinaryIO) -> bool:
    """Whether a PNG file has chunks that may hold an orientation (text or EXIF), or is cut off.

    They also come after the pixels. The file stays where it is.
    """
    before, at, kind = file.tell(), len(_PNG), b""
    try:
        while kind != b"IEND":
            file.seek(at)
            head = file.read(8)
            if len(head) < 8:
                return True
            length, kind = struct.unpack(">I4s", head)
            if kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            at += 12 + length
        return False
    finally:
        file.seek(before)


def jpeg_is_regular(data: bytes) -> bool:
    """Whether a JPEG file is a sequence of well-formed segments and scans up to its end marker.

    Entropy-coded data may hold no markers but restarts. Where a scan breaks off at another one, decoders differ: some
    refuse the file, some fill up with grey. Files with harmless oddities (bytes between segments) or several scans of
    sequential coding are not regular either. What follows the end marker does not matter.
    """
    at, kind, progressive = 2, 0, False
    while kind != _SOS:
        if at + 4 > len(data) or data[at] != 0xFF:
            return False
        kind = data[at + 1]
        if kind < 0xC0 or 0xD0 <= kind <= _EOI:
            return False
        progressive |= kind == 0xC2
        at += 1 if kind == 0xFF else _segment(data, at)  # a marker may have more than one 0xFF before it
    values = np.frombuffer(data, np.uint8)
    found = at + np.flatnonzero(values[at:-1] == 0xFF)
    kinds = values[found + 1]
    markers = found[(kinds != 0) & (kinds != 0xFF) & ((kinds < 0xD0) | (kinds > 0xD7))]
    for marker in markers.tolist():
        if marker < at:
            continue  # within a segment
        kind = data[marker + 1]
        if kind == _EOI:
            return True
        if not progressive or not (kind in (0xC4, _SOS, 0xDB, 0xDD, 0xFE) or 0xE0 <= kind <= 0xEF):
            return False
        at = marker + _segment(data, marker)
    return False


def _segment(data: bytes, at: int) -> int:
    """Length of the segment at a marker, with the marker."""
    return 2 + int.from_bytes(data[at + 2 : at + 4], "big")
