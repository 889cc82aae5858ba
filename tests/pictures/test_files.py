"""Files as they come: whole, damaged, deep, turned, animated or hostile; each made here, and the odd ones of others."""

import csv
import io
import os
import random
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastcam.pictures import (
    DECODERS,
    ERRORS,
    DecodeError,
    choose_decoder,
    decoding,
    picture_size,
    quiet_pillow,
    read,
)
from tests.support.files import STORED, chunk, noise, png, saved, smooth, tiff

BOTH = pytest.mark.parametrize("decoder", DECODERS)


@pytest.fixture(autouse=True)
def _quiet():
    with quiet_pillow():
        yield


def code(data: bytes | Path, decoder: str | None = None) -> str:
    with pytest.raises(DecodeError) as caught:
        read(data, decoder)
    assert caught.value.code in ERRORS
    return caught.value.code


def jpeg_kinds() -> dict[str, bytes]:
    picture = Image.fromarray(smooth(61, 83))
    options = {
        "plain": {},
        "full colour": {"subsampling": 0},
        "progressive": {"progressive": True},
        "restarts": {"restart_marker_blocks": 3},
        "both": {"progressive": True, "restart_marker_rows": 1},
        "rgb": {"keep_rgb": True, "subsampling": 0},
    }
    kinds = {name: saved(picture, "JPEG", quality=90, **given) for name, given in options.items()}
    return kinds | {"grey": saved(picture.convert("L"), "JPEG"), "cmyk": saved(picture.convert("CMYK"), "JPEG")}


@BOTH
def test_statuses_of_others_odd_files_equal_the_table(shared, decoder):
    folder = shared / "images" / "nasty"
    with Path(__file__).with_name("nasty.csv").open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["file"] for row in table} == {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    for row in table:
        try:
            found = read(folder / row["file"], decoder)
            image, orientation, used = found.image, *found[1:]
        except DecodeError as error:
            outcome = {"status": "error", "error": error.code}
        else:
            regular = row["decoder"] == "opencv" and decoder == "pillow" and row["file"].endswith("jpg")
            outcome = {"status": "ok", "width": image.width, "height": image.height, "orientation": orientation}
            outcome["decoder"] = "opencv" if regular else used
            assert np.array_equal(image, read(folder / row["file"], "pillow").image)
        outcome = {key: str(outcome.get(key, "")) for key in row if key != "file"}
        assert outcome == {key: value for key, value in row.items() if key != "file"}, row["file"]


def test_every_kind_of_jpeg_has_pillows_pixels():
    for name, data in jpeg_kinds().items():
        with Image.open(io.BytesIO(data)) as image:
            expected = np.asarray(image.convert("RGB"))
        for decoder in DECODERS:
            found = read(data, decoder)
            assert np.array_equal(found.image, expected), name
            assert found.decoder == ("pillow" if name == "cmyk" else decoder), name


def test_decoders_agree_on_damaged_jpegs():
    """On which files are refused, and on every pixel of the others (seen so on 70,000 such files)."""
    rng, counts = random.Random(0), {"ok": 0, "error": 0}
    for name, whole in jpeg_kinds().items():
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 3)):
                data[rng.randrange(len(data))] = rng.choice([0xFF, 0xD9, 0xDA, rng.randrange(256)])
            if rng.random() < 0.3:
                data = data[: rng.randrange(len(data) // 2, len(data))] + b"\xff\xd9" * rng.randrange(2)
            outcomes = []
            for decoder in DECODERS:
                try:
                    outcomes.append(np.array(read(bytes(data), decoder).image).tobytes())
                except DecodeError as error:
                    outcomes.append(error.code)
            assert outcomes[0] == outcomes[1], name
            counts["error" if isinstance(outcomes[0], str) else "ok"] += 1
    assert min(counts.values()) > 50


@BOTH
def test_what_is_missing_within_a_jpeg_is_not_noticed(decoder):
    """As README says: its decoders do not tell. Rows before it are right, those after it have one colour."""
    data = saved(smooth(240, 320), "JPEG")
    found, whole = (np.asarray(read(part, decoder).image) for part in (data[: len(data) // 2] + b"\xff\xd9", data))
    assert np.array_equal(found[:64], whole[:64])
    assert np.ptp(found[-64:].astype(int), axis=(0, 1)).max() == 0
    assert code(data[: len(data) // 2], decoder) == "damaged"  # without an end


@BOTH
def test_bytes_that_do_no_harm(decoder):
    for name, data in jpeg_kinds().items():
        expected = read(data, "pillow").image
        extra = data[:2] + b"\xff\xfe\0\x06\xff\xd9ab" + b"\xff" * 3 + data[2:]  # a comment with markers, padding
        for changed in (data + b"\0" * 9, data + b"\xff\xd8\xff" + os.urandom(99), extra):
            assert np.array_equal(read(changed, decoder).image, expected), name
    data = jpeg_kinds()["plain"]
    between = data[:20] + b"\0\0" + data[20:]  # between its first two segments
    assert np.array_equal(read(between, decoder).image, read(data).image)
    assert read(between, decoder).decoder == "pillow"
    whole = png(noise(), 2)
    assert np.array_equal(read(whole + b"more", decoder).image, noise())


@BOTH
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ],
)
def test_files_cut_off_are_refused(kind, options, decoder):
    whole = saved(smooth(40, 56), kind, **options)
    read(whole, decoder)
    # One byte short of the end a GIF lacks its trailer and a BMP or TIFF its last sample.
    for cut in (*range(0, len(whole) - 2, 29), len(whole) - 2 - (kind == "GIF")):
        assert code(whole[:cut], decoder) in ("damaged", "unsupported"), cut


def test_checksums_of_png_chunks(tmp_path):
    text = chunk(b"tEXt", b"Comment\0fine")
    whole = png(noise(), 2, text)
    assert np.array_equal(read(whole).image, noise())
    for name in (b"IHDR", b"tEXt", b"IDAT", b"IEND"):
        at = whole.index(name) + 4 + struct.unpack_from(">I", whole, whole.index(name) - 4)[0]
        with pytest.raises(DecodeError, match=f"wrong checksum of the chunk {name.decode()}"):
            read(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(DecodeError, match="damaged: the file is cut off"):
        read(whole[:-12])
    with pytest.raises(DecodeError, match="damaged: its signature is broken, as by a transfer as text"):
        read(whole.replace(b"\r\n", b"\n"))
    with pytest.raises(DecodeError, match="damaged"):
        read(whole.replace(chunk(b"IEND", b""), b"").replace(b"IDAT", b"IDAx") + chunk(b"IEND", b""))


@BOTH
@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG", "TIFF"])
def test_orientation_is_read_once_and_applied(kind, orientation, decoder):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(STORED.get(orientation, STORED[1])(smooth(32, 48)))
    options = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = saved(stored, kind, exif=exif, **options)
    whole = read(data, decoder)
    image, used = whole.image, whole.decoder
    assert isinstance(whole.pixels, Image.Image) or whole.pixels.flags.writeable  # or torch warns of it
    assert picture_size(data) == (48, 32)
    assert whole.orientation == (orientation if 1 <= orientation <= 8 else 1)
    assert used == (decoder if kind == "JPEG" else "pillow")
    assert image.size == (48, 32)
    assert np.abs(np.asarray(image).astype(int) - smooth(32, 48)).max() <= (8 if kind == "JPEG" else 0)


def test_sixteen_bits_of_every_colour_are_divided_by_257():
    samples = np.random.default_rng(0).integers(0, 65536, (9, 14, 4)).astype(np.uint16)
    samples[0, :3] = [[0, 128, 129, 0], [255, 256, 65535, 7], [65407, 65406, 385, 0]]
    upright = np.rint(samples[..., :3] / 257).astype(np.uint8)
    grey = upright[..., :1].repeat(3, 2)
    alpha = samples[..., 3:] / 65535
    clear = np.rint((samples[..., :3] * alpha + 65535 * (1 - alpha)) / 257)
    keyed = upright.copy()
    keyed[0, 1] = 255
    files = {
        "grey": (png(samples[..., :1], 0), grey),
        "grey and alpha": (png(samples[..., [0, 3]], 4), clear[..., :1].repeat(3, 2)),
        "rgb": (png(samples[..., :3], 2), upright),
        "rgb with a transparent colour": (png(samples[..., :3], 2, chunk(b"tRNS", bytes(6))), upright),
        "rgb with another": (
            png(samples[..., :3], 2, chunk(b"tRNS", samples[0, 1, :3].astype(">u2").tobytes())),
            keyed,
        ),
        "rgba": (png(samples, 6), clear),
        "grey tiff": (saved(np.ascontiguousarray(samples[..., 0]), "TIFF"), grey),
        "compressed tiff": (cv2.imencode(".tif", samples[..., 2::-1])[1].tobytes(), upright),
    }
    for order in "<>":
        for orientation in range(1, 9):
            for channels in (3, 4):
                stored = STORED[orientation](samples[..., :channels])
                expected = upright if channels == 3 else clear
                files[f"tiff {order} {orientation} {channels}"] = tiff(stored, orientation, order), expected
    for name, (data, expected) in files.items():
        found = read(data)
        image, orientation, used = found.image, *found[1:]
        blended = expected is not upright and expected is not grey  # which is rounded twice
        assert np.abs(np.asarray(image).astype(int) - expected).max() <= blended, name
        assert used == ("pillow" if name in ("grey", "grey tiff") else "opencv")
        assert orientation == (int(name.split()[2]) if name[:6] in ("tiff <", "tiff >") else 1)
        assert picture_size(data) == (14, 9)


def test_eight_bits_by_hand():
    assert np.array_equal(read(png(noise(), 2)).image, noise())
    assert np.array_equal(read(tiff(noise())).image, noise())
    assert code(tiff(noise(), photometric=8)) == "unsupported"  # CIELAB
    # CMYK: what Pillow makes of it, and torchvision's ImageFolder with it.
    cmyk = np.dstack([255 - noise(), np.zeros((24, 40), np.uint8)])
    assert np.array_equal(read(tiff(cmyk, photometric=5)).image, Image.fromarray(cmyk, "CMYK").convert("RGB"))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_of_several_frames_the_first_is_read(kind):
    frames = [Image.new("RGB", (30, 20), colour) for colour in ("red", "lime", "blue")]
    image = read(saved(frames[0], kind, save_all=True, append_images=frames[1:])).image
    assert image.size == (30, 20)
    assert np.abs(np.asarray(image).astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_one_pixel(kind, mode):
    image = read(saved(Image.new(mode, (1, 1), 200 if mode == "L" else (200, 200, 200)), kind)).image
    assert (image.mode, image.size) == ("RGB", (1, 1))
    assert np.abs(np.asarray(image).astype(int) - 200).max() <= 3


def test_bombs_of_every_format_are_refused_by_their_header(tmp_path, monkeypatch):
    """Headers that promise 60,000 × 60,000 pixels, with nothing or little behind them, and no decoder called."""
    side = 60_000
    small = {kind: saved(noise(), kind) for kind in ("JPEG", "BMP", "GIF")}
    frame = small["JPEG"].index(b"\xff\xc0")
    canvas = b"".join((side - 1).to_bytes(3, "little") for _ in range(2))
    extended = b"VP8X" + struct.pack("<I", 10) + bytes(4) + canvas
    strip = tiff(noise()).replace(struct.pack("<HHIHH", 256, 3, 1, 40, 0), struct.pack("<HHII", 256, 4, 1, side))
    bombs = {
        "JPEG": small["JPEG"][: frame + 5] + struct.pack(">HH", side, side) + small["JPEG"][frame + 9 :],
        "PNG": b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(bytes(999)))
        + chunk(b"IEND", b""),
        "WEBP": b"RIFF" + struct.pack("<I", 4 + len(extended)) + b"WEBP" + extended,
        "BMP": small["BMP"][:18] + struct.pack("<ii", side, side) + small["BMP"][26:],
        "GIF": small["GIF"][:6] + struct.pack("<HH", side, side) + small["GIF"][10:],
        "TIFF": strip.replace(struct.pack("<HHIHH", 257, 3, 1, 24, 0), struct.pack("<HHII", 257, 4, 1, side)),
    }
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr(cv2, "imdecode", None)
    for name, data in bombs.items():
        assert code(data) == "too_large", name
        with pytest.raises(DecodeError, match="too_large"):
            picture_size(data)
    with (tmp_path / "long.png").open("wb") as file:
        file.write(bombs["PNG"])
        file.truncate(2**30 + 1)  # takes no place on the disk
    assert code(tmp_path / "long.png") == "too_large"


def test_formats_are_told_by_content_not_by_suffix(tmp_path):
    for kind in ("PNG", "BMP", "GIF", "PPM"):
        (tmp_path / "a.jpg").write_bytes(saved(noise(), kind))
        assert read(tmp_path / "a.jpg").image.size == (40, 24)
    (tmp_path / "a.png").write_bytes(b"GIF8")
    assert code(tmp_path / "a.png") == "unsupported"
    for kind in ("ICO", "TGA", "PCX"):
        assert code(saved(noise(), kind)) == "unsupported"
    assert code(b"") == "damaged"


def test_the_decoder_is_opencv_only_where_it_passes(monkeypatch):
    assert choose_decoder("pillow") == "pillow"
    with pytest.raises(ValueError, match="`decoder` must be one of opencv, pillow"):
        choose_decoder("torchvision")
    sound, fill = decoding._opencv, np.zeros((43, 61, 3), np.uint8)
    for opencv, expected in (
        (sound, "opencv"),
        (lambda data: fill, "pillow"),  # wrong pixels
        (lambda data: fill if sound(data) is None else sound(data), "pillow"),  # fills up what is cut off
        (lambda data: None, "pillow"),
    ):
        monkeypatch.setattr(decoding, "_opencv", opencv)
        decoding._opencv_passes.cache_clear()
        assert choose_decoder() == expected
    decoding._opencv_passes.cache_clear()
