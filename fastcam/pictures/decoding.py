"""A picture file's bytes to upright RGB, by whichever decoder is right and fastest.

Pillow reads every file's header and is the reference. JPEGs that are regular (`containers.jpeg_is_regular`), grey or
of three colours, go to OpenCV, which gives the same pixels in two thirds of the time, as an array that
`fastcam.pictures.frame` resizes in a quarter of it, and like Pillow lets other threads run meanwhile.
torchvision's decoders are as fast, but deprecated, and crash on some damaged PNGs. nvJPEG is used only where it is
asked for (`fastcam.pictures.gpu`). Whatever OpenCV does not take falls back to Pillow, and the result names the decoder
that gave its pixels. Samples of 16 bits are OpenCV's too: Pillow clips or cuts them to 8 bits. Orientation and
colour are treated alike after every decoder; JPEGs are always decoded in full size, since a scaled decoding has other
pixels. What is transparent is shown on white, as viewers show it; the colours below it mean nothing.

A `Reading` of other channels or with a stated scaling gets the samples as they are stored, from OpenCV where they have
more than 8 bits, and makes of them what the network takes (`fastcam.pictures.samples`).
"""

import io
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import BinaryIO, Generic, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import (  # the plugins register themselves; importing them here keeps that out of the decoding threads
    BmpImagePlugin,  # noqa: F401
    GifImagePlugin,  # noqa: F401
    Image,
    Jpeg2KImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    PpmImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
    features,
)
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile as _Tiff

from fastcam.pictures.containers import (
    DecodeError,
    avif_pixels,
    check_canvas,
    check_png,
    check_scans,
    check_size,
    check_webp,
    content,
    jpeg2000_bits,
    jpeg_is_regular,
    opened,
    pixmap_maximum,
    png_may_turn,
    sniff,
)
from fastcam.pictures.samples import PLAIN, Reading, Samples, Stored, full_range, narrow, stored as samples_of
from fastcam.pictures.silence import silenced
from fastcam.pictures.tiff import GREY, RGB, Tags, read_samples, read_tags

with suppress(ImportError):  # since Pillow 11.3
    from PIL import AvifImagePlugin  # noqa: F401

Pixels = Image.Image | np.ndarray | Samples  # a PIL picture, uint8 [H, W, 3], RGB, or what a network takes of others
DECODERS = ("opencv", "pillow")  # for regular JPEGs; the first is the faster

_ORIENTATION, _BITS_PER_SAMPLE, _EXTRA_SAMPLES, _TIFF_SIZE = 0x0112, 0x0102, 0x0152, (0x0100, 0x0101)
_PLANES = 0x011C
_PREMULTIPLIED, _STRAIGHT = (1,), (2,)  # what a TIFF's extra sample is if it is alpha; others may be infrared
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_EIGHT_BIT = frozenset(("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"))
_RGB = getattr(cv2, "IMREAD_COLOR_RGB", None)  # since OpenCV 4.11
_ASKED_FOR = {"AVIF": "avif", "JPEG2000": "jpg_2000"}  # what not every Pillow has, and its name there
_MAX_ENCODED = 2**24  # bytes of a JPEG that waits for a GPU: three batches of them lie in memory


class _Look(NamedTuple):
    """What becomes of samples that RGB of 8 bits cannot hold.

    Attributes:
        backdrop: level of grey behind what is transparent.
        narrow: makes 8 bits of 16.
    """

    backdrop: int
    narrow: Callable[[np.ndarray], np.ndarray]


class Encoded(NamedTuple):
    """A regular JPEG, grey or in colour, that a GPU is to decode.

    Attributes:
        data: the file's content.
        stored: (width, height) in pixels as its header says it is stored.
        orientation: as in `Decoded`.
    """

    data: bytes
    stored: tuple[int, int]
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the upright picture in pixels."""
        return self.stored[::-1] if self.orientation >= 5 else self.stored


P_co = TypeVar("P_co", bound=Pixels | Encoded, covariant=True)


class Header(NamedTuple):
    """What a picture's header says.

    Attributes:
        size: (width, height) of the upright picture in pixels.
        orientation: as in `Decoded`.
    """

    size: tuple[int, int]
    orientation: int


class Decoded(NamedTuple, Generic[P_co]):
    """A picture as it was read.

    Attributes:
        pixels: upright RGB, as its decoder gives it: a PIL picture, or uint8 [H, W, 3] of OpenCV; of `read_encoded`
            also the JPEG itself; with a `Reading` that is not plain its `Samples`.
        orientation: how the file says it is stored, 1 to 8 as EXIF numbers them (1 is upright).
        decoder: who gave the pixels, one of `DECODERS` or "tifffile"; None if nobody has yet.
    """

    pixels: P_co
    orientation: int
    decoder: str | None

    @property
    def image(self) -> Image.Image:
        """The picture as a PIL picture."""
        if isinstance(self.pixels, Encoded):
            raise TypeError("a GPU has yet to decode this picture")
        if isinstance(self.pixels, Samples):
            return self.pixels.shown
        return self.pixels if isinstance(self.pixels, Image.Image) else Image.fromarray(self.pixels)


def read(
    source: str | os.PathLike[str] | bytes, decoder: str | None = None, reading: Reading = PLAIN
) -> Decoded[Pixels]:
    """Decode a picture, a file or its content, as `load_image` does; for use in threads inside `quiet_pillow`.

    `decoder` is what `choose_decoder` returned, so that a run has one answer; by default it is asked. `reading` is what
    a network takes; of any but the plain one the pixels are its `Samples`.
    """
    data, decoder = content(source), decoder or choose_decoder()
    with _refusing():
        return _decode(data, decoder) if reading.plain else _read_as(data, decoder, reading)


def read_encoded(source: str | os.PathLike[str] | bytes) -> Decoded[Pixels | Encoded]:
    """What `read` does, but leave JPEGs that are fit for it to a GPU (`fastcam.pictures.gpu`).

    These are regular, have at most 16 MiB, and are grey or of luminance and two colour differences. Whether nvJPEG
    knows those that are stored as red, green and blue is not documented. Of them, DecodeError is raised for header and
    structure only.
    """
    data = content(source)
    with _refusing():
        if sniff(data) == "JPEG" and len(data) <= _MAX_ENCODED:
            image = _open(io.BytesIO(data))
            if (image.mode == "L" or (image.mode == "RGB" and not _plain_rgb(image))) and jpeg_is_regular(data):
                if "progressive" in image.info:  # others that are regular have one scan
                    check_scans(data)
                orientation = _orientation(image)
                return Decoded(Encoded(data, image.size, orientation), orientation, None)
        return _decode(data, choose_decoder())


def decode(source: str | os.PathLike[str] | bytes) -> Image.Image:
    """The PIL picture, upright RGB, that `load_image` reads; for use in threads inside `quiet_pillow`."""
    return read(source).image


def decode_mask(source: str | os.PathLike[str] | bytes) -> np.ndarray:
    """Where a picture is neither black nor transparent: bool [H, W], upright; in threads inside `quiet_pillow`.

    A sample counts however small it is, of 16 bits, too.
    """
    data = content(source)
    with _refusing():
        pixels = np.asarray(_decode(data, choose_decoder(), _MASK).pixels)
        return (pixels[..., 0] | pixels[..., 1] | pixels[..., 2]) > 0


def decode_indices(source: str | os.PathLike[str] | bytes) -> np.ndarray:
    """The values of a PNG of 8 bits or fewer as they are stored, uint8 [H, W]: indices of a palette, or levels of grey.

    As the file has them, whatever its EXIF orientation. DecodeError if it is no such PNG.
    """
    data = content(source)
    if (kind := sniff(data)) != "PNG":
        raise DecodeError("unsupported", f"a PNG of indices expected, got {kind}")
    with _refusing():
        if (bits := check_png(data)) > 8:
            raise DecodeError("unsupported", f"a PNG of indices with 8 bits expected, got {bits}")
        image = _open(io.BytesIO(data))
        if image.mode not in ("P", "L", "1"):
            raise DecodeError("unsupported", f"a PNG of indices, palette or grey, expected, got {image.mode}")
        return _samples(image, bits)


def _samples(image: Image.Image, bits: int) -> np.ndarray:
    """Pixels of a PNG with a palette, or grey, uint8 [H, W]; Pillow scales grey of fewer than 8 bits to 255."""
    found = np.array(image).astype(np.uint8)
    return found // (255 // (2**bits - 1)) if image.mode == "L" and bits < 8 else found


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB of a PIL picture of another mode, as of the same picture in a file; its EXIF orientation is not looked at.

    The picture stays as it is. DecodeError if its mode has no fixed range (I, F) or no rule, or its file is damaged.
    """
    with _refusing():
        image.load()
        return _rgb(image, _PICTURE)


def picture_size(source: str | os.PathLike[str] | bytes) -> tuple[int, int]:
    """(width, height) of an upright picture in pixels, from its header; DecodeError if that cannot be read."""
    return read_header(source).size


def read_header(source: str | os.PathLike[str] | bytes) -> Header:
    """A picture's size and orientation, without decoding it; DecodeError if its header cannot be read."""
    with opened(source) as file, _refusing():
        try:
            image = _open(file)
        except DecodeError as error:
            if (tags := _tags_of(source, error)) is None:
                raise
            orientation = tags.orientation if tags.orientation in _UPRIGHT else 1
            return Header(tags.size[::-1] if orientation >= 5 else tags.size, orientation)
        width, height = [image.tag_v2[tag] for tag in _TIFF_SIZE] if isinstance(image, _Tiff) else image.size
        plain = image.format == "PNG" and "exif" not in image.info and not png_may_turn(file)
        orientation = 1 if plain else _orientation(image)  # Pillow would decode a PNG to look behind its pixels
        return Header((height, width) if orientation >= 5 else (width, height), orientation)


def load_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a picture as upright RGB.

    JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, PGM, AVIF and JPEG 2000, known by their first bytes, of several frames the
    first. The EXIF orientation is applied (values outside 1–8 mean 1); grey, palette and CMYK are converted, 16 bits
    divided by 257 and rounded, and what is transparent is laid on white, as viewers show it. A file that is cut off or
    has a wrong checksum is refused, bytes after the picture's end are not looked at. JPEG has no checksum: where bytes
    are missing or changed within its scans and its end is there, its decoders do not notice, and pixels from there on
    may be wrong.

    Args:
        path: the file.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        DecodeError: if the file cannot be read, is of another format or colour model, is damaged, or too large (known
            from its header, before anything is decoded).
    """
    with quiet_pillow():
        return np.array(decode(path))


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings (odd EXIF data, large pictures), which `decode` answers by a result or an error.

    Python's warning filters belong to the whole process. So this is for the thread that starts the work, around all
    of it, and not for each decoding thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def choose_decoder(name: str | None = None) -> str:
    """Which of `DECODERS` has the regular JPEGs: that of a name, or else OpenCV where it passes a trial, else Pillow.

    The trial: the installed OpenCV must give Pillow's pixels of a small JPEG to the bit, and refuse a half of it.
    ValueError for a name that is none of them.
    """
    if name is None:
        return "opencv" if _opencv_passes() else "pillow"
    if name not in DECODERS or (name == "opencv" and _RGB is None):
        known = f"{', '.join(DECODERS)} (opencv from 4.11 on), or nvjpeg for a network on a GPU"
        raise ValueError(f"`decoder` must be one of {known}, got {name!r}")
    return name


def trial_picture() -> Image.Image:
    """The small picture on whose JPEG decoders are tried: RGB, 61 × 43."""
    y, x = np.mgrid[:43, :61]
    picture = np.stack([4 * x, 5 * y, 128 + 90 * np.sin(x / 5) * np.cos(y / 7)], 2)
    return Image.fromarray(picture.astype(np.uint8))


@cache
def _opencv_passes() -> bool:
    if _RGB is None:
        return False
    buffer = io.BytesIO()
    trial_picture().save(buffer, "JPEG", quality=90)
    data = buffer.getvalue()
    with silenced(), Image.open(io.BytesIO(data)) as image:
        found, half = _opencv(data), _opencv(data[: len(data) // 2])
        return found is not None and half is None and np.array_equal(found, np.asarray(image))


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn whatever a decoder raises into a `DecodeError`."""
    try:
        with silenced():
            yield
    except DecodeError:
        raise
    except Image.DecompressionBombError as error:
        raise DecodeError("too_large", str(error)) from error
    # On damaged files Pillow raises whatever its parsers run into: OSError, SyntaxError, struct.error, …
    except Exception as error:
        raise DecodeError("damaged", str(error) or type(error).__name__) from error


def _open(file: BinaryIO) -> Image.Image:
    """Read a header, and hold it to the limit of pixels."""
    head = file.read(30)
    kind = sniff(head)
    if kind in _ASKED_FOR and not features.check(_ASKED_FOR[kind]):
        raise DecodeError("unsupported", f"the installed Pillow was built without {kind}")
    check_canvas(head)
    file.seek(0)
    try:
        image = Image.open(file, formats=(kind,))
    except UnidentifiedImageError as error:
        if kind == "AVIF":  # Pillow's decoder does not say that it refuses large ones
            file.seek(0)
            check_size(*avif_pixels(file.read(4096)))
        raise DecodeError("damaged", "its header cannot be read") from error
    check_size(*image.size)
    return image


def _decode(data: bytes, decoder: str, look: _Look | None = None) -> Decoded[Pixels]:
    kind, look = sniff(data), look or _PICTURE
    deep, bits = False, 8
    if kind == "PNG":
        deep = (bits := check_png(data)) == 16
    elif kind == "WEBP":
        check_webp(data)
    try:
        image = _open(io.BytesIO(data))
    except DecodeError as error:
        if (tags := _tags_of(data, error)) is None:
            raise
        what = f"TIFF of {tags.samples} samples of {tags.bits} bits a pixel"
        raise DecodeError("unsupported", f"{what}: state how a network takes them (`channels`, `scale`)") from None
    if isinstance(image, _Tiff):
        deep = set(image.tag_v2.get(_BITS_PER_SAMPLE, ())) == {16}
    if bits < 8 and image.mode == "L" and "transparency" in image.info:  # Pillow scales the samples only
        image.info["transparency"] *= 255 // (2**bits - 1)
    orientation = _orientation(image)  # before Pillow loads a TIFF, which turns it and forgets the tag

    pixels = None
    if kind == "JPEG" and decoder == "opencv" and image.mode in ("L", "RGB") and jpeg_is_regular(data):
        if "progressive" in image.info:  # others that are regular have one scan
            check_scans(data)
        pixels = _opencv(data)
    elif deep and image.mode in ("LA", "RGB", "RGBA"):
        if isinstance(image, _Tiff) and image.tag_v2.get(_PLANES, 1) != 1:  # which OpenCV mixes up
            raise DecodeError("unsupported", "TIFF of 16 bits in separate planes without a stated scaling (`scale`)")
        pixels = _deep(data, look, _STRAIGHT if kind == "PNG" else _extra(image), image.info.get("transparency"))
    turned = orientation in _UPRIGHT and kind != "TIFF"  # which either decoder turns itself
    if pixels is not None and sorted(pixels.shape[:2]) == sorted(image.size):
        if turned:
            pixels = np.array(Image.fromarray(pixels).transpose(_UPRIGHT[orientation]))  # writable, as torch wants it
        return Decoded(pixels, orientation, "opencv")
    if kind == "JPEG":
        check_scans(data)
    image.load()
    image = _rgb(image, look)
    return Decoded(image.transpose(_UPRIGHT[orientation]) if turned else image, orientation, "pillow")


def _plain_rgb(image: Image.Image) -> bool:
    """Whether a JPEG of three components seems to store red, green and blue."""
    names = bytes(component[0] for component in image.layer) if isinstance(image, JpegImageFile) else b""
    return names == b"RGB" or image.info.get("adobe_transform") == 0


def _orientation(image: Image.Image) -> int:
    try:
        tags = image.tag_v2 if isinstance(image, _Tiff) else image.getexif()
        value = tags.get(_ORIENTATION)
    except Exception:  # damaged EXIF data says nothing about the picture
        return 1
    return int(value) if value in _UPRIGHT else 1


def _rgb(image: Image.Image, look: _Look) -> Image.Image:
    """RGB of a picture that is loaded; the picture itself stays as it is."""
    # A picture that was made of another one keeps the transparent colour of that, though its pixels may be others.
    key = image.info.get("transparency") if image.format else None
    # Older versions of Pillow read 16-bit PNGs as 32-bit integers; of portable greymaps all do, scaled to 65535.
    deep = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    if deep or (image.mode in ("1", "L") and key is not None):
        samples = np.asarray(image.convert("L") if image.mode == "1" else image)
        grey = look.narrow(samples) if deep else samples.copy()
        grey[samples == (255 * bool(key) if image.mode == "1" else key)] = look.backdrop
        return Image.fromarray(grey).convert("RGB")
    if image.mode not in _EIGHT_BIT:
        hint = ", which has no fixed range: state one (`scale`)" if image.mode in ("I", "F") else ""
        raise DecodeError("unsupported", f"colour mode {image.mode}{hint}")
    if image.mode in ("1", "L", "RGB"):
        clear = key is not None
    elif image.format == "TIFF" and image.mode == "RGBA":
        clear = _extra(image) in (_PREMULTIPLIED, _STRAIGHT)
    else:
        clear = image.has_transparency_data
    if clear:
        format, image = image.format, (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        alpha = image.getchannel("A")
        levels = np.asarray(alpha)
        least, most = levels.min(), levels.max()
        if least < 255 and (most or format != "BMP"):  # BMPs often have zeros where alpha is not meant
            shown = Image.new("RGB", image.size, (look.backdrop,) * 3)
            shown.paste(image, mask=alpha)
            return shown
    return image if image.mode == "RGB" else image.convert("RGB")


def _extra(image: Image.Image) -> tuple[int, ...]:
    """What a TIFF says of its samples beyond colour."""
    return tuple(image.tag_v2.get(_EXTRA_SAMPLES, ())) if isinstance(image, _Tiff) else ()


def _opencv(data: bytes) -> np.ndarray | None:
    """Decode a JPEG of one or three channels to uint8 [H, W, 3], RGB, as stored; None if OpenCV refuses it."""
    if _RGB is None:
        return None
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), _RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def _deep(
    data: bytes, look: _Look, extra: tuple[int, ...], key: tuple[int, int, int] | None = None
) -> np.ndarray | None:
    """Decode a PNG or TIFF of 16 bits to uint8 [H, W, 3], RGB; a TIFF comes upright. None if OpenCV refuses it.

    A fourth sample is what `extra` says in TIFF's words; the colour `key` is transparent.
    """
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        return None
    if pixels is None or pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] < 3:
        return None
    colours = pixels[..., 2::-1]
    shown = np.ascontiguousarray(look.narrow(colours))
    if pixels.shape[2] > 3 and extra in (_PREMULTIPLIED, _STRAIGHT):
        alpha = pixels[..., 3:].astype(np.float32) / 65535
        opaque = shown * (alpha if extra == _STRAIGHT else np.float32(1))
        shown = np.rint(opaque + look.backdrop * (1 - alpha)).clip(0, 255).astype(np.uint8)
    elif isinstance(key, tuple):
        shown[(colours == key).all(2)] = look.backdrop
    return shown


def _read_as(data: bytes, decoder: str, reading: Reading) -> Decoded[Samples]:
    """Read a picture for a network that does not take plain RGB of 8 bits."""
    found = None if reading.visible and reading.scale is None else _stored(data)
    if found is None and reading.visible:
        seen = _decode(data, decoder)
        found = Stored(np.asarray(seen.pixels), (0, 255), 3), seen.orientation, seen.decoder
    stored, orientation, who = found or _bands(data)
    return Decoded(reading.of(stored), orientation, who)


_Found = tuple[Stored, int, str | None]  # upright, with the orientation that it had, and who gave it


def _stored(data: bytes) -> _Found | None:
    """Samples that 8 bits cannot hold, or that Pillow has no mode for, as a file has them; None where it has others."""
    kind = sniff(data)
    if kind == "TIFF":
        tags = read_tags(data)
        return _stored_tiff(data, tags) if tags.odd else None
    if kind not in ("PNG", "PPM", "JPEG2000") or (kind == "PNG" and check_png(data) < 16):
        return None
    image = _open(io.BytesIO(data))
    orientation, key = _orientation(image), image.info.get("transparency")
    most = 65535 if kind == "PNG" else pixmap_maximum(data) if kind == "PPM" else 2 ** jpeg2000_bits(data) - 1
    if kind == "PPM" and image.mode == "F":
        return samples_of(image), orientation, "pillow"
    if (kind == "PPM" and most in (0, 255)) or (kind == "JPEG2000" and image.mode != "I;16"):
        return None
    image.load()  # for its checks
    if kind == "PPM" and most < 255:  # which Pillow stretches to 255
        values, who = np.rint(np.asarray(image) * (most / 255)).astype(np.uint8), "pillow"
        values = values[..., None] if values.ndim == 2 else values
    elif kind == "PPM" or len(image.getbands()) > 1:
        values, who = _unchanged(data), "opencv"
        values = values[..., [0, 3]] if values.shape[2] == 4 and image.mode == "LA" else values
    else:
        values, who = np.asarray(image)[..., None], "pillow"
        if kind == "JPEG2000":  # which Pillow shifts to 16 bits
            values = values >> max(0, 16 - jpeg2000_bits(data))
        values = values.astype(np.uint16)
    colours = 3 if values.shape[2] >= 3 else 1
    if key is not None and values.shape[2] == colours:
        opaque = np.uint16(most) * (values != np.array(key)).any(2, keepdims=True)
        values = np.concatenate([values, opaque.astype(np.uint16)], 2)
    alpha: Literal["straight"] | None = "straight" if values.shape[2] > colours else None
    return Stored(_turned(values, orientation), (0, most), colours, alpha), orientation, who


def _stored_tiff(data: bytes, tags: Tags) -> _Found:
    orientation = tags.orientation if tags.orientation in _UPRIGHT else 1
    if tags.photometric not in (GREY, RGB):
        raise DecodeError("unsupported", f"TIFF of {tags.bits} bits in which zero is white")
    if tags.dtype is None:
        image = _open(io.BytesIO(data))
        if image.mode != "I;16":
            raise DecodeError("unsupported", f"TIFF of {tags.bits} bits and mode {image.mode}")
        image.load()
        return Stored(np.asarray(image)[..., None], (0, 2**tags.bits - 1), 1), orientation, "pillow"
    who, values = "opencv", None
    if tags.samples == 1 or (tags.photometric == RGB and tags.samples <= 4 and tags.together):
        with suppress(DecodeError):
            values = _unchanged(data)  # upright
            if values.dtype != tags.dtype or values.shape[2] != tags.samples:
                values = None
    if values is None:
        who, values = "tifffile", _turned(read_samples(data, tags), orientation)
    colours = 3 if tags.photometric == RGB else 1
    kinds: dict[int, Literal["straight", "premultiplied"]] = {1: "premultiplied", 2: "straight"}
    alpha = kinds.get(tags.extra[0]) if tags.extra and tags.samples > colours else None
    known = colours == 3 or tags.samples == 1 or (tags.samples == 2 and alpha is not None)
    return Stored(values, full_range(tags.dtype), colours if known else 0, alpha if known else None), orientation, who


def _bands(data: bytes) -> _Found:
    """The channels of 8 bits that a file has, opacity among them."""
    kind = sniff(data)
    if kind == "PNG":
        check_png(data)
    elif kind == "WEBP":
        check_webp(data)
    elif kind == "JPEG":
        check_scans(data)
    image = _open(io.BytesIO(data))
    orientation = _orientation(image)
    image.load()
    values = bands_of(image)
    return Stored(values if kind == "TIFF" else _turned(values, orientation), (0, 255), 0), orientation, "pillow"


def bands_of(image: Image.Image) -> np.ndarray:
    """The channels of a PIL picture of 8 bits, opacity among them: uint8 [H, W, C]; what has palettes is resolved."""
    if image.mode not in _EIGHT_BIT:
        raise DecodeError("unsupported", f"colour mode {image.mode}")
    clear = image.has_transparency_data and image.mode != "RGBX"
    if image.mode in ("1", "L", "LA", "La"):
        mode = "LA" if clear else "L"
    else:
        mode = "RGBX" if image.mode == "RGBX" else "RGBA" if clear else "RGB"
    values = np.asarray(image if image.mode == mode else image.convert(mode))
    return values[..., None] if values.ndim == 2 else values


def _turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn [H, W, C] upright."""
    if orientation >= 5:
        values = values.swapaxes(0, 1)
    rows, columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return values[:: -1 if rows else 1, :: -1 if columns else 1]


def _unchanged(data: bytes) -> np.ndarray:
    """Decode by OpenCV as it is stored, [H, W, C], RGB; a TIFF comes upright."""
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise DecodeError("damaged", str(error)) from None
    if pixels is None:
        raise DecodeError("damaged", "its decoder, OpenCV, refuses it")
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels if pixels.shape[2] < 3 else pixels[..., [2, 1, 0, 3][: pixels.shape[2]]]


def _tags_of(source: str | os.PathLike[str] | bytes, error: DecodeError) -> Tags | None:
    """The tags of a TIFF whose header Pillow does not know, if it is one that others read."""
    if error.code != "damaged" or sniff(data := content(source)) != "TIFF":
        return None
    try:
        tags = read_tags(data)
    except Exception:  # whatever Pillow's parser runs into
        return None
    return tags if tags.odd else None


_PICTURE = _Look(255, narrow)
_MASK = _Look(0, lambda samples: np.minimum(samples, 255).astype(np.uint8))
