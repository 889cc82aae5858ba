"""Other channels, more bits, stated scalings and other formats: pixels against what was written, and plain NumPy."""

import contextlib
import importlib.util
import io
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image, features

from fastcam.pictures import DecodeError, Preprocess, Reading, Samples, as_rgb, quiet_pillow, read, read_header
from fastcam.pictures.samples import shown_reading
from tests.support.files import STORED, chunk, noise, png, saved, smooth, tiff

AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow has no AVIF")
JPEG2000 = pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_pillow():
        yield


def values(data, channels: int, scale=None) -> np.ndarray:
    return read(data, reading=Reading(channels, scale)).pixels.values


def code(data, channels: int, scale=None) -> str:
    with pytest.raises(DecodeError) as caught:
        values(data, channels, scale)
    return f"{caught.value.code}: {caught.value.message}"


def deep(height=9, width=13, channels=1, most=4095) -> np.ndarray:
    found = np.random.default_rng(1).integers(0, most + 1, (height, width, channels), np.uint16)
    return found


def written(array: np.ndarray, **options) -> bytes:
    tifffile = pytest.importorskip("tifffile")
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)
    return buffer.getvalue()


def bands(planarconfig="contig", **options) -> bytes:
    array = deep(20, 30, 5)
    stored = np.ascontiguousarray(np.moveaxis(array, 2, 0)) if planarconfig == "separate" else array
    return written(stored, photometric="minisblack", planarconfig=planarconfig, **options)


GREY = np.array([0.299, 0.587, 0.114])


class TestScalings:
    grey = deep()

    def test_range_of_the_type(self):
        found = values(png(self.grey, 0), 1, "dtype")
        assert found.dtype == np.float32
        assert np.allclose(found, self.grey / 65535, atol=1e-7)

    def test_stated_range_is_clipped(self):
        assert np.allclose(values(png(self.grey, 0), 1, 4095), self.grey / 4095, atol=1e-7)
        expected = np.clip((self.grey - 1000.0) / 2000, 0, 1)
        for scale in ((1000, 3000), [1000.0, 3000.0], "1000,3000"):
            assert np.allclose(values(png(self.grey, 0), 1, scale), expected, atol=1e-6)

    def test_range_of_each_picture(self):
        low, high = int(self.grey.min()), int(self.grey.max())
        assert np.allclose(values(png(self.grey, 0), 1, "minmax"), (self.grey - low) / (high - low), atol=1e-6)
        assert not values(png(np.full((4, 5, 1), 77, np.uint16), 0), 1, "minmax").any()

    def test_grey_becomes_three_and_colours_grey(self):
        assert np.allclose(values(png(self.grey, 0), 3, 4095), np.repeat(self.grey / 4095, 3, 2), atol=1e-7)
        colours = deep(channels=3)
        assert np.allclose(values(png(colours, 2), 1, 4095), colours @ GREY[:, None] / 4095, atol=1e-6)
        assert np.allclose(values(png(colours, 2), 3, 4095), colours / 4095, atol=1e-7)

    def test_what_is_transparent_is_white(self):
        colours, alpha = deep(channels=3), deep(most=65535)
        share = alpha / 65535
        found = values(png(np.dstack([colours, alpha]), 6), 3, 4095)
        assert np.allclose(found, colours / 4095 * share + 1 - share, atol=1e-6)
        found = values(png(np.dstack([self.grey, alpha]), 4), 1, 4095)
        assert np.allclose(found, self.grey / 4095 * share + 1 - share, atol=1e-6)
        key = int(self.grey[2, 3, 0])
        found = values(png(self.grey, 0, chunk(b"tRNS", struct.pack(">H", key))), 1, 4095)
        assert np.allclose(found, np.where(self.grey == key, 1, self.grey / 4095), atol=1e-6)

    def test_8_bits_among_them(self):
        picture = noise()
        assert np.allclose(values(saved(picture, "PNG"), 3, "dtype"), picture / 255, atol=1e-7)
        assert np.allclose(values(saved(picture, "PNG"), 3, 200), np.clip(picture / 200, 0, 1), atol=1e-7)
        assert "nearly black where 4095 is white" in code(saved(picture, "PNG"), 3, 4095)

    def test_without_one_8_bits_are_kept_of_16(self):
        full = deep(most=65535)
        assert np.array_equal(values(png(full, 0), 1), np.rint(full / 257))
        assert "state one" in code(written(full[..., 0].astype(np.float32)), 1)

    @pytest.mark.parametrize("scale", ["max", "", "1,2,3", "2,1", -3, True, float("nan"), "5,5"])
    def test_others_are_refused(self, scale):
        with pytest.raises(ValueError, match="`scale` must be"):
            Reading(1, scale)

    @pytest.mark.parametrize("channels", [0, 1.5, True, 5000])
    def test_channels_that_cannot_be(self, channels):
        with pytest.raises(ValueError, match="`channels` must be"):
            Reading(channels)


class TestPlainPictures:
    """What has 8 bits, for networks of other channels: Pillow's conversions."""

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
    def test_grey(self, kind):
        for picture in (Image.fromarray(noise()), Image.fromarray(noise()).convert("L")):
            data = saved(picture, kind)
            with Image.open(io.BytesIO(data)) as image:
                expected = np.asarray(image.convert("RGB").convert("L"))
            found = values(data, 1)
            assert found.dtype == np.uint8
            assert np.array_equal(found[..., 0], expected)

    def test_channels_as_they_are(self):
        four = np.dstack([noise(), noise(seed=1)[..., :1]])
        for kind in ("PNG", "TIFF"):
            assert np.array_equal(values(saved(Image.fromarray(four), kind), 4), four)
        assert np.array_equal(values(png(four[..., :2], 4), 2), four[..., :2])
        assert "3 channels, the network takes 4" in code(saved(noise(), "PNG"), 4)
        assert "3 channels, the network takes 4" in code(saved(Image.fromarray(four, "CMYK"), "JPEG"), 4)
        assert np.allclose(values(saved(Image.fromarray(four), "PNG"), 4, "dtype"), four / 255, atol=1e-7)

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned(self, orientation):
        four = np.dstack([noise(), noise(seed=1)[..., :1]])
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = read(saved(Image.fromarray(STORED[orientation](four)), "PNG", exif=exif), reading=Reading(4))
        assert np.array_equal(found.pixels.values, four)
        assert found.orientation == orientation


def replace(data: bytearray, tag: int, value: int) -> None:
    """Give a tag of a TIFF that has one number another."""
    at = next(found for kind in (3, 4) if (found := data.find(struct.pack("<HHI", tag, kind, 1))) > 0)
    data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, value)


class TestTiff:
    @pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"])
    def test_grey(self, dtype):
        array = (np.random.default_rng(0).random((11, 7)) * 100).astype(dtype)
        data = written(array, photometric="minisblack")
        assert np.allclose(values(data, 1, (0, 100))[..., 0], array / 100.0, atol=1e-3 if dtype == "f2" else 1e-6)
        assert read_header(data).size == (7, 11)

    @pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
    @pytest.mark.parametrize("layout", ["contig", "separate"])
    @pytest.mark.parametrize("channels", [2, 3, 4, 5, 12])
    def test_bands(self, dtype, layout, channels):
        array = (np.random.default_rng(0).random((11, 7, channels)) * 100).astype(dtype)
        stored = array if layout == "contig" else np.ascontiguousarray(np.moveaxis(array, 2, 0))
        for more in ({}, {"compression": "zlib"}, {"tile": (16, 16)}):
            data = written(stored, photometric="minisblack", planarconfig=layout, **more)
            assert read_header(data).size == (7, 11)
            if channels != 3:
                assert np.allclose(values(data, channels, 100), array / 100.0, atol=1e-6)
            for wrong in {1, 3, 4, 7} - {channels}:
                assert f"{channels} channels, the network takes {wrong}" in code(data, wrong, 100)

    @pytest.mark.parametrize("layout", ["contig", "separate"])
    def test_colours(self, layout):
        array = deep(11, 7, 3)
        stored = array if layout == "contig" else np.ascontiguousarray(np.moveaxis(array, 2, 0))
        data = written(stored, photometric="rgb", planarconfig=layout)
        assert np.allclose(values(data, 3, 4095), array / 4095, atol=1e-6)
        if layout == "separate":  # once as the planes of something else
            with pytest.raises(DecodeError, match="separate planes"):
                read(data)

    def test_infrared_beside_colours(self):
        array = deep(11, 7, 4)
        data = tiff(array, extra=0)
        assert np.allclose(values(data, 4, 4095), array / 4095, atol=1e-6)
        assert np.allclose(values(data, 3, 4095), array[..., :3] / 4095, atol=1e-6)

    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("kind", ["f4", "f2", "u2"])
    def test_turned(self, orientation, kind):
        array = (np.random.default_rng(0).random((11, 7)) * 100).astype(kind)
        stored = np.ascontiguousarray(STORED[orientation](array))
        data = written(stored, photometric="minisblack", extratags=[(274, 3, 1, orientation, True)])
        found = read(data, reading=Reading(1, 100))
        assert np.allclose(found.pixels.values[..., 0], array / 100.0, atol=1e-3)
        assert found.orientation == orientation
        assert read_header(data) == ((7, 11), orientation)

    def test_what_says_nothing_is_refused(self):
        array = np.random.default_rng(0).random((11, 7)).astype(np.float32)
        assert np.allclose(values(written(array), 1, "dtype")[..., 0], array, atol=1e-7)
        assert "from 0" in code(written(array * 7), 1, "dtype")
        for bad in (np.nan, np.inf):
            assert "finite" in code(written(np.where(array > 0.5, bad, array).astype(np.float32)), 1, "minmax")
        assert "zero is white" in code(written(deep()[..., 0], photometric="miniswhite"), 1, "dtype")
        with pytest.raises(DecodeError, match=r"unsupported: TIFF of 5 samples of 16 bits.*state"):
            read(written(deep(channels=5), photometric="minisblack", planarconfig="contig"))

    def test_packed_otherwise_and_without_tifffile(self, monkeypatch):
        data = written(deep(channels=5), photometric="minisblack", planarconfig="contig")
        at = data.index(struct.pack("<HHII", 259, 3, 1, 1)[:8]) + 8
        assert "only none and deflate" in code(data[:at] + b"\5\0" + data[at + 2 :], 5, "dtype")
        monkeypatch.setitem(sys.modules, "tifffile", None)
        assert r"fastcam[tiff]" in code(data, 5, "dtype")
        assert values(written_before := tiff(deep(channels=3)), 3, 4095).shape == (9, 13, 3), written_before

    def test_more_than_its_header_says(self):
        """A strip of deflate that unpacks to a gigabyte is not unpacked."""
        data, packed = bytearray(bands(compression="zlib", rowsperstrip=20)), zlib.compress(bytes(2**28), 9)
        replace(data, 273, len(data))
        replace(data, 279, len(packed))
        assert "its header says" in code(bytes(data) + packed, 5, "dtype")

    def test_too_large_by_its_header(self):
        data = bytearray(written(deep(channels=5), photometric="minisblack", planarconfig="contig"))
        for tag in (256, 257):
            replace(data, tag, 10_000)
        assert code(bytes(data), 5, "dtype").startswith("too_large")


class TestPixmaps:
    @pytest.mark.parametrize("most", [1, 100, 255, 4095, 65535])
    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("plain", [False, True])
    def test_maximum(self, most, channels, plain):
        array = deep(channels=channels, most=most)
        head = b"P%d\n# a comment\n13 9\n%d\n" % ((5 if channels == 1 else 6) - 3 * plain, most)
        body = array.astype(">u2" if most > 255 else "u1").tobytes()
        data = head + (" ".join(map(str, array.ravel())).encode() + b"\n" if plain else body)
        assert np.allclose(values(data, channels, "dtype"), array / most, atol=1e-6)
        if most > 255:
            assert np.allclose(values(data, channels, 70000), array / 70000, atol=1e-6)
        shown = np.asarray(read(data).image).astype(float)
        assert np.abs(shown - array * 255.0 / most).max() <= 1
        if not plain:
            assert code(data[:-3], channels, "dtype").startswith("damaged")
            with pytest.raises(DecodeError, match="damaged"):
                read(data[:-3])

    def test_bits_and_floats(self):
        picture = Image.fromarray(noise()).convert("1")
        assert np.array_equal(np.asarray(read(saved(picture, "PPM")).image)[..., 0] > 0, np.asarray(picture))
        array = np.random.default_rng(0).random((9, 13)).astype("<f4")
        data = b"Pf\n13 9\n-1.0\n" + np.ascontiguousarray(array[::-1]).tobytes()
        assert np.allclose(values(data, 1, "dtype")[..., 0], array, atol=1e-7)
        with pytest.raises(DecodeError, match="no fixed range"):
            read(data)

    def test_headers_that_could_take_for_ever(self):
        for filler in (b" " * 4000, b"# x\n" * 900, b"1 " * 2000, b"#" * 4000):
            with pytest.raises(DecodeError):
                values(b"P5" + filler + b"x" + b"\n" * 9, 1, "dtype")
            with contextlib.suppress(DecodeError):  # or what follows the blank are pixels
                values(b"P5\n3 3 4095" + filler + b"x", 1, "dtype")

    def test_what_begins_alike_is_none(self):
        for data in (b"P6", b"P7\n", b"P5x 3", b"P9 1 1 255 "):
            with pytest.raises(DecodeError):
                read(data)


@JPEG2000
class TestJpeg2000:
    @pytest.mark.parametrize("raw", [False, True])
    def test_pixels(self, raw):
        for picture in (noise(), noise()[..., 0], np.dstack([noise(), noise(seed=1)[..., :1]])):
            data = saved(picture, "JPEG2000", no_jp2=raw)
            channels = 1 if picture.ndim == 2 else picture.shape[2]
            if channels != 3:
                assert np.array_equal(values(data, channels), picture.reshape(*picture.shape[:2], channels))
            assert read_header(data).size == (40, 24)
        assert np.array_equal(read(saved(noise(), "JPEG2000", no_jp2=raw)).image, noise())

    def test_16_and_12_bits(self):
        full = deep(40, 50, most=65535)[..., 0]
        data = saved(full, "JPEG2000", no_jp2=True)
        assert np.allclose(values(data, 1, "dtype")[..., 0], full / 65535, atol=1e-6)
        # Of 12 bits zero lies elsewhere: the same coefficients stand for values that are less by 2^15 - 2^11.
        twelve = deep(40, 50)[..., 0]
        data = bytearray(saved(twelve + np.uint16(30720), "JPEG2000", no_jp2=True))
        at = data.index(b"\xff\x51") + 40
        assert data[at] == 15
        data[at] = 11
        assert np.allclose(values(bytes(data), 1, 4095)[..., 0], twelve / 4095, atol=1e-6)
        assert np.allclose(values(bytes(data), 1, "dtype")[..., 0], twelve / 4095, atol=1e-6)


@AVIF
class TestAvif:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_turned(self, orientation):
        upright, exif = smooth(48, 80), Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
        data = saved(stored, "AVIF", quality=100, subsampling="4:4:4", exif=exif)
        found = read(data)
        assert np.abs(np.asarray(found.image).astype(int) - upright).max() < 12
        assert found.orientation == orientation
        assert read_header(data) == ((80, 48), orientation)

    def test_transparent(self):
        four = np.zeros((32, 32, 4), np.uint8)
        four[:, 16:] = 255, 0, 0, 0
        shown = np.asarray(read(saved(Image.fromarray(four), "AVIF")).image)
        assert shown[5, 28].min() > 250

    def test_a_pillow_without_it(self, monkeypatch):
        data = saved(noise(), "AVIF")
        monkeypatch.setattr(features, "check", lambda name: False)
        with pytest.raises(DecodeError, match="unsupported: the installed Pillow was built without AVIF"):
            read(data)

    def test_an_avif_of_too_many_pixels_is_refused_as_such(self):
        data = bytearray(saved(noise(), "AVIF"))
        at = data.index(b"ispe") + 8
        data[at : at + 8] = (17000).to_bytes(4, "big") * 2
        with pytest.raises(DecodeError, match="too_large: 17000x17000 pixels"):
            read(bytes(data))


class TestObjects:
    """Pictures that come as objects: the same as from a file."""

    def frame(self, image, channels, scale=None):
        return Preprocess(8, channels=channels, scale=scale).taken(image).values

    def test_pil(self):
        grey = deep()[..., 0]
        assert np.allclose(self.frame(Image.fromarray(grey), 1, 4095)[..., 0], grey / 4095, atol=1e-7)
        assert np.allclose(self.frame(Image.fromarray(grey.astype(np.int32)), 1, 4095)[..., 0], grey / 4095, atol=1e-7)
        floating = Image.fromarray((grey / 4095).astype(np.float32))
        assert np.allclose(self.frame(floating, 3, "dtype"), np.repeat(grey[..., None] / 4095, 3, 2), atol=1e-6)
        four = np.dstack([noise(), noise()[..., :1]])
        assert np.array_equal(self.frame(Image.fromarray(four), 4), four)
        assert np.array_equal(self.frame(Image.fromarray(noise()), 1)[..., 0], Image.fromarray(noise()).convert("L"))

    def test_arrays(self):
        for array in (deep(channels=5), deep(channels=5).astype(float), deep(channels=5).astype(">u2")):
            assert np.allclose(self.frame(array, 5, 4095), deep(channels=5) / 4095, atol=1e-6)
        assert np.allclose(self.frame(deep()[..., 0], 1, 4095), deep() / 4095, atol=1e-6)
        assert np.array_equal(self.frame(noise(), 1)[..., 0], Image.fromarray(noise()).convert("L"))
        for wrong in (None, "a.png", noise().astype(complex), noise() > 3):
            with pytest.raises(TypeError, match="a picture must be"):
                self.frame(wrong, 1, 4095)
        with pytest.raises(ValueError, match="5 channels, the network takes 4"):
            self.frame(deep(channels=5), 4, 4095)
        with pytest.raises(ValueError, match="a picture must be"):
            self.frame(np.zeros((2, 3, 4, 5)), 5, "dtype")

    def test_what_was_read_otherwise(self):
        with pytest.raises(ValueError, match="read for 3 channels"):
            self.frame(Samples(noise()[..., :1]), 3, 4095)

    def test_shown(self):
        grey = deep()
        shown = np.asarray(as_rgb(read(png(grey, 0), reading=Reading(1, 4095)).pixels))
        assert np.abs(shown - np.repeat(grey / 4095 * 255, 3, 2)).max() <= 0.5 + 1e-4
        four = np.dstack([noise(), noise()[..., :1]])
        assert np.array_equal(as_rgb(Samples(four)), noise())

    @pytest.mark.parametrize(
        ("info", "reading"),
        [
            ({}, Reading()),
            ({"channels": 1}, Reading()),
            ({"channels": 1, "scale": [0, 9]}, Reading(1, 9)),
            ({"channels": 4}, Reading(4)),
        ],
    )
    def test_of_a_run(self, info, reading):
        assert shown_reading(info) == reading


class TestFrames:
    @pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
    @pytest.mark.parametrize("resize", ["squash", "crop"])
    def test_grey_is_torchvisions(self, interpolation, resize):
        """Of 8 bits to the bit: Grayscale, Resize and CenterCrop on the PIL picture."""
        from torchvision.transforms import v2

        picture = Image.fromarray(smooth(61, 83))
        kind = v2.InterpolationMode(interpolation)
        steps = [v2.Grayscale()]
        steps += [v2.Resize((32, 32), kind)] if resize == "squash" else [v2.Resize(40, kind), v2.CenterCrop(32)]
        size = 40 if resize == "crop" else None
        preprocess = Preprocess(32, resize, 0.5 * np.ones(1), np.ones(1), size, interpolation, channels=1)
        frame, _ = preprocess.frame(picture)
        assert frame.dtype == np.uint8
        assert np.array_equal(frame[..., 0], v2.Compose(steps)(picture))
        images, _ = preprocess(picture)
        assert np.allclose(images[0], frame[..., 0] / 255.0 - 0.5, atol=1e-6)

    def test_floats_are_resized_as_floats(self):
        array = np.random.default_rng(0).random((60, 80)).astype(np.float32)
        frame, geometry = Preprocess(20, channels=1, scale="dtype").frame(array)
        expected = np.asarray(Image.fromarray(array).resize((20, 20), Image.Resampling.BILINEAR))
        assert frame.dtype == np.float32
        assert np.array_equal(frame[..., 0], expected)
        assert geometry.original == (80, 60)

    def test_one_number_serves_all_channels_and_imagenets_is_the_mean(self):
        assert Preprocess(mean=(0.5,), std=(0.2,), channels=5).mean == (0.5,) * 5
        assert Preprocess(channels=1).mean == (0.449,)
        assert Preprocess(channels=1).std == (0.226,)
        with pytest.raises(ValueError, match="`mean` must be one number or 4, one per channel"):
            Preprocess(mean=(0.1, 0.2, 0.3), channels=4)


def test_damaged_files_end_in_errors():
    """Of whatever kind: bytes changed and files cut off give pixels or a DecodeError, and nothing else."""
    rng = random.Random(0)
    kinds = {
        "png": png(deep(20, 30), 0),
        "ppm": b"P6\n30 20\n4095\n" + deep(20, 30, 3).astype(">u2").tobytes(),
        "pgm": b"P2\n3 2\n255\n" + b" 1 2 3 4 5 6\n",
        "tiff": tiff(deep(20, 30, 3)),
    }
    if features.check("avif"):
        kinds["avif"] = saved(smooth(20, 30), "AVIF")
    if features.check("jpg_2000"):
        kinds["jp2"] = saved(smooth(20, 30), "JPEG2000")
        kinds["j2k"] = saved(deep(20, 30)[..., 0], "JPEG2000", no_jp2=True)
    if importlib.util.find_spec("tifffile"):
        kinds["float"] = written(np.random.default_rng(0).random((20, 30)).astype(np.float32))
        kinds["bands"] = bands(planarconfig="separate")
        kinds["packed"] = bands(compression="zlib", tile=(16, 16))
    readings = [Reading(), Reading(1, "dtype"), Reading(3, "minmax"), Reading(5, 4095), Reading(1)]
    outcomes = {"ok": 0, "error": 0}
    for name, whole in kinds.items():
        for turn in range(60):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(min(len(data), 400 if turn % 2 else len(data)))] = rng.randrange(256)
            if turn % 3 == 0:
                data = data[: rng.randrange(1, len(data))]
            for reading in readings:
                try:
                    found = read(bytes(data), reading=reading)
                    assert found.image.size[0] > 0, name
                    outcomes["ok"] += 1
                except DecodeError as error:
                    outcomes["named"] = outcomes.get("named", 0) + bool(error.message)
                    outcomes["error"] += 1
            with contextlib.suppress(DecodeError):
                read_header(bytes(data))
    assert outcomes["named"] == outcomes["error"]
    assert min(outcomes.values()) > 50


@pytest.mark.parametrize("name", ["float", "bands", "packed", "avif", "jp2", "ppm", "deep"])
def test_what_is_cut_off_is_damaged(name):
    make = {
        "float": lambda: written(np.random.default_rng(0).random((20, 30)).astype(np.float32)),
        "deep": lambda: tiff(deep(40, 30, 3)),
        "bands": lambda: bands(planarconfig="separate"),
        "packed": lambda: bands(compression="zlib"),
        "avif": lambda: saved(smooth(20, 30), "AVIF"),
        "jp2": lambda: saved(smooth(20, 30), "JPEG2000"),
        "ppm": lambda: saved(smooth(20, 30), "PPM"),
    }
    feature = {"avif": "avif", "jp2": "jpg_2000"}.get(name)
    if feature and not features.check(feature):
        pytest.skip(f"this Pillow has no {name}")
    data = make[name]()
    reading = {"float": Reading(1, "minmax"), "bands": Reading(5, 4095), "packed": Reading(5, 4095)}
    reading = reading.get(name, Reading(3, "dtype"))
    read(data, reading=reading)
    for length in (len(data) - 1, len(data) - 40, len(data) // 2, len(data) // 4):
        with pytest.raises(DecodeError, match=r"^(damaged|unsupported)"):
            read(data[:length], reading=reading)
