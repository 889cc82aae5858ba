"""Files as others write them: pictures saved and made by hand, texts, tar shards."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def noise(height=24, width=40, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def smooth(height, width) -> np.ndarray:
    return np.array(Image.fromarray(noise(4, 5)).resize((width, height), Image.Resampling.BICUBIC))


# By the EXIF standard: where row 0 and column 0 of the stored picture belong in the upright one.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.swapaxes(0, 1),
    6: lambda upright: upright[:, ::-1].swapaxes(0, 1),
    7: lambda upright: upright[::-1, ::-1].swapaxes(0, 1),
    8: lambda upright: upright[::-1].swapaxes(0, 1),
}


def saved(image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(samples: np.ndarray, colour: int, *extra: bytes) -> bytes:
    """A PNG of 8 or 16 bits written by hand; `extra` comes before the pixels."""
    height, width = samples.shape[:2]
    rows = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    head = struct.pack(">IIBBBBB", width, height, 8 * samples.itemsize, colour, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", head), *extra, chunk(b"IDAT", packed), chunk(b"IEND", b"")])


def tiff(
    samples: np.ndarray, orientation: int = 1, order: str = "<", photometric: int = 2, extra: int | None = 2
) -> bytes:
    """An uncompressed TIFF of one strip written by hand, samples [H, W, C] of 8 or 16 bits, C at least 3.

    A fourth sample is what `extra` says: 0 anything, 1 alpha by which colours are multiplied, 2 alpha; None: not told.
    """
    height, width, channels = samples.shape
    data = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
    bits = struct.pack(f"{order}{channels}H", *[8 * samples.itemsize] * channels)
    tags = [(256, 3, width), (257, 3, height), (258, 3, None), (259, 3, 1), (262, 3, photometric), (273, 4, None)]
    tags += [(274, 3, orientation), (277, 3, channels), (278, 3, height), (279, 4, len(data))]
    tags += [(338, 3, extra)] * (channels == 4 and photometric == 2 and extra is not None)
    at = 8 + 2 + 12 * len(tags) + 4
    entries = b""
    for tag, kind, value in tags:
        count = channels if tag == 258 else 1
        value = {258: at, 273: at + len(bits)}.get(tag, value)
        short = kind == 3 and count == 1
        entries += struct.pack(order + "HHI", tag, kind, count)
        entries += struct.pack(order + ("HH" if short else "I"), *((value, 0) if short else (value,)))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "IH", 8, len(tags)) + entries + bytes(4) + bits + data


def jpeg(width: int = 60, height: int = 40) -> bytes:
    return saved(noise(height, width), "JPEG")


def write(path: Path, content: str | bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def shard(path: Path, members: dict[str, bytes], **options: object) -> Path:
    """A tar of these members."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path
