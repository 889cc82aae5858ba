"""Pictures in: decoding against Pillow and NumPy, preprocessing against torchvision, geometry against arithmetic."""

import io
import os
import random
import struct
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from fastcam.pictures import DecodeError, Geometry, Preprocess, find_pictures, load_image
from tests.support.files import STORED, noise, smooth


@pytest.mark.parametrize(
    ("name", "options"), [("a.png", {}), ("a.webp", {"lossless": True}), ("a.bmp", {}), ("a.tif", {})]
)
def test_lossless_formats_give_the_pixels(tmp_path, name, options):
    Image.fromarray(noise()).save(tmp_path / name, **options)
    image = load_image(tmp_path / name)
    assert image.dtype == np.uint8
    assert image.flags.writeable
    assert np.array_equal(image, noise())


def test_jpeg_gives_what_pillow_gives(tmp_path):
    Image.fromarray(smooth(50, 70)).save(tmp_path / "a.jpg", quality=90)
    with Image.open(tmp_path / "a.jpg") as image:
        assert np.array_equal(load_image(tmp_path / "a.jpg"), np.array(image))


def rotated(path: Path, upright: np.ndarray, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = STORED.get(orientation, STORED[1])(upright)
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    return path


@pytest.mark.parametrize("orientation", range(10))
def test_orientation_is_applied(tmp_path, orientation):
    assert np.array_equal(load_image(rotated(tmp_path / "a.png", noise(), orientation)), noise())


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """What a viewer shows of colours [H, W, 3] with alpha [H, W], 0 to 255."""
    share = np.asarray(alpha)[..., None] / 255
    return np.rint(colours * share + 255 * (1 - share)).astype(np.uint8)


def test_other_colour_modes(tmp_path):
    rgb = Image.fromarray(noise())
    grey, alpha = rgb.convert("L"), Image.fromarray(noise(seed=1)).convert("L")
    palette = rgb.quantize(16)
    clear = rgb.copy()
    clear.putalpha(alpha)
    opaque = rgb.copy()
    opaque.putalpha(255)
    cases = {
        "l.png": (grey, np.stack([np.array(grey)] * 3, 2), {}),
        "la.png": (Image.merge("LA", (grey, alpha)), on_white(np.stack([np.array(grey)] * 3, 2), alpha), {}),
        "rgba.png": (clear, on_white(noise(), alpha), {}),
        "rgba.webp": (clear, on_white(noise(), alpha), {"lossless": True, "exact": True}),
        "rgba.tif": (clear, on_white(noise(), alpha), {}),
        "opaque.png": (opaque, noise(), {}),
        "p.png": (palette, np.array(palette.getpalette()[:48], np.uint8).reshape(-1, 3)[np.array(palette)], {}),
        "1.png": (grey.convert("1"), np.stack([np.array(grey.convert("1")) * np.uint8(255)] * 3, 2), {}),
    }
    shares = np.arange(16, dtype=np.uint8) * 17
    shown = on_white(cases["p.png"][1], shares[np.array(palette)])
    cases["trns.png"] = palette, shown, {"transparency": bytes(shares)}
    for name, (image, expected, options) in cases.items():
        image.save(tmp_path / name, **options)
        blended = image.mode in ("LA", "RGBA") or "transparency" in options  # in steps that Pillow rounds
        assert np.abs(load_image(tmp_path / name).astype(int) - expected).max() <= blended, name
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100, subsampling=0)
    assert np.abs(load_image(tmp_path / "cmyk.jpg").astype(int) - noise()).mean() < 8


def test_sixteen_bits_are_scaled(tmp_path):
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    for name in ("a.png", "a.tif"):
        Image.fromarray(values).save(tmp_path / name)
        assert np.array_equal(load_image(tmp_path / name)[..., 1], np.rint(values / 257).astype(np.uint8))


def test_unknown_colour_modes_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(DecodeError, match="unsupported: colour mode F"):
        load_image(tmp_path / "f.tif")


def code(path) -> str:
    with pytest.raises(DecodeError) as caught:
        load_image(path)
    assert str(caught.value) == f"{caught.value.code}: {caught.value.message}"
    assert caught.value.message
    return caught.value.code


def test_errors_have_codes(tmp_path):
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    (tmp_path / "header.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    os.mkfifo(tmp_path / "pipe.png")
    assert code(tmp_path / "missing.jpg") == "unreadable"
    assert code(tmp_path) == "unreadable"
    assert code(tmp_path / "pipe.png") == "unreadable"
    assert code(tmp_path / "empty.jpg") == "damaged"
    assert code(tmp_path / "header.png") == "damaged"
    assert code(tmp_path / "text.jpg") == "unsupported"


def png(width, height, data) -> bytes:
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [13_400, 100_000])
def test_bombs_are_refused_by_their_header(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(png(side, side, b""))
    assert code(tmp_path / "bomb.png") == "too_large"


def test_large_but_allowed_pictures_give_no_warning(tmp_path):
    # Pillow warns from 89 million pixels on; this one has its data cut off, so that the test stays small.
    (tmp_path / "large.png").write_bytes(png(10_000, 10_000, b""))
    assert code(tmp_path / "large.png") == "damaged"


def test_damaged_exif_is_no_damage_to_the_picture(tmp_path):
    Image.fromarray(noise()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")
    assert load_image(tmp_path / "a.jpg").shape == (24, 40, 3)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_files_give_a_picture_or_a_decode_error(tmp_path, kind):
    buffer = io.BytesIO()
    Image.fromarray(smooth(60, 80)).save(buffer, kind)
    whole, path, rng = buffer.getvalue(), tmp_path / "a", random.Random(0)
    codes = set()
    for cut in range(0, len(whole) - 13, 37):
        path.write_bytes(whole[:cut])
        assert code(path) in ("damaged", "unsupported")
    for _ in range(100):
        broken = bytearray(whole)
        for _ in range(3):
            broken[rng.randrange(len(whole))] = rng.randrange(256)
        path.write_bytes(broken)
        try:
            assert load_image(path).shape[2] == 3
        except DecodeError as error:
            codes.add(error.code)
    assert "damaged" in codes
    assert codes <= {"damaged", "unsupported", "too_large"}


def test_find_pictures(tmp_path, monkeypatch):
    for name in ("b/x.jpg", "a/x.JPEG", "a/deep/x.png", "a/notes.txt", "z.webp", "a/y.jfif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def ids(*paths):
        found = list(find_pictures(paths))
        assert all(path.is_file() for _, path in found)
        return [id for id, _ in found]

    ignored = Counter({".txt": 2})
    assert len(list(find_pictures([tmp_path], ignored))) == 5
    assert ignored == {".txt": 3}
    everything = ["z.webp", "a/x.JPEG", "a/y.jfif", "a/deep/x.png", "b/x.jpg"]
    assert ids(tmp_path) == everything
    assert ids(tmp_path, tmp_path / "a", tmp_path / "z.webp", tmp_path) == everything
    assert ids(tmp_path / "b" / "x.jpg") == ["x.jpg"]
    assert ids(tmp_path / "b" / "x.jpg", tmp_path / "a" / "deep") == ["b/x.jpg", "a/deep/x.png"]
    assert ids(tmp_path / "a" / "notes.txt") == ["notes.txt"]
    assert ids() == []
    monkeypatch.chdir(tmp_path)
    assert ids("b", "a/deep") == ["b/x.jpg", "a/deep/x.png"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ids("b", "nowhere")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match=r"no pictures in .*c: looked for .*\*\.jpeg.* below"):
        ids("c")


def test_linked_folders_are_searched_once(tmp_path):
    for name in ("in/a/x.jpg", "in/z.jpg", "elsewhere/y.jpg", "elsewhere/deep/y.jpg", "other/z.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {"in/b": "elsewhere", "in/c": "elsewhere/deep", "in/d": "in/a", "in/e": "in", "elsewhere/up": "other"}
    links |= {"elsewhere/back": "in", "other/round": "elsewhere", "again": "in"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(tmp_path / target)
    found = ["z.jpg", "a/x.jpg", "b/y.jpg", "b/up/z.jpg", "c/y.jpg"]
    for root in ("in", "again"):
        assert [id for id, _ in find_pictures([tmp_path / root])] == found
    both = [id for id, _ in find_pictures([tmp_path / "in", tmp_path / "elsewhere"])]
    assert both == ["in/z.jpg", "in/a/x.jpg", "elsewhere/y.jpg", "elsewhere/deep/y.jpg", "elsewhere/up/z.jpg"]


def test_two_dots_behind_a_link_lead_where_the_system_has_them(tmp_path):
    for name in ("near/x.jpg", "far/inner/y.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    (tmp_path / "near" / "link").symlink_to(tmp_path / "far" / "inner")
    assert [id for id, _ in find_pictures([tmp_path / "near" / "link" / ".."])] == ["inner/y.jpg"]
    assert [id for id, _ in find_pictures([tmp_path / "far" / ".." / "near" / "link" / "y.jpg"])] == ["y.jpg"]


def test_file_names_that_are_no_text(tmp_path):
    name = os.fsdecode(b"\xff\xfe.png")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    ((id, path),) = find_pictures([tmp_path])
    assert id == r"\xff\xfe.png"
    assert path.exists()


@pytest.mark.parametrize("shape", [(375, 500), (500, 333), (224, 224), (227, 227), (17, 300), (1, 1), (640, 90)])
@pytest.mark.parametrize("size", [224, 96, 33])
def test_preprocessing_equals_torchvision(shape, size):
    image, mean, std = smooth(*shape), (0.485, 0.5, 0.406), (0.229, 0.5, 0.225)
    tail = [transforms.ToTensor(), transforms.Normalize(mean, std)]
    recipes = {
        "squash": [transforms.Resize((size, size))],
        "crop": [transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)],
    }
    for resize, head in recipes.items():
        tensor, geometry = Preprocess(size, resize, mean, std)(image)
        assert torch.equal(tensor, transforms.Compose([*head, *tail])(Image.fromarray(image)))
        assert tensor.is_contiguous()
        assert geometry.original == shape[::-1]
        whole = geometry.to_original(np.array([0, 0, size, size]))
        assert (whole[:2] >= 0).all()
        assert (whole[2:] <= geometry.original).all()


def test_geometry_by_hand():
    squash = Geometry((500, 375), (224, 224))
    assert squash.to_original(np.array([0, 0, 224, 224])).tolist() == [0, 0, 500, 375]
    assert squash.to_original(np.array([[56, 112, 57, 168]])).tolist() == [
        [125, 187.5, np.float32(57 * 500 / 224), 281.25]
    ]
    # 500×375: the shorter side becomes 256, the longer int(256·500/375) = 341, and (341 − 224)/2 = 58.5 rounds to 58.
    _, crop = Preprocess(224, "crop").frame(noise(375, 500))
    assert crop == Geometry((500, 375), (341, 256), (58, 16))
    expected = np.float32([58 * 500 / 341, 16 * 375 / 256, 282 * 500 / 341, 240 * 375 / 256])
    assert np.array_equal(crop.to_original(np.array([0, 0, 224, 224])), expected)
    assert crop.to_original(np.zeros((2, 4))).tolist() == [[0] * 4] * 2


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("shape", [(300, 400), (400, 260)])
def test_a_painted_box_comes_back(resize, shape):
    image = np.zeros((*shape, 3), np.uint8)
    image[130:190, 110:170] = 255
    frame, geometry = Preprocess(112, resize).frame(image)
    rows, columns = np.nonzero(frame[..., 0] > 127)
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
    pixel = max(a / b for a, b in zip(geometry.original, geometry.resized, strict=True))
    assert np.abs(geometry.to_original(box) - [110, 130, 170, 190]).max() <= pixel / 2


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_maps_are_laid_over_the_picture(resize):
    """The frame itself, seen as a map, must come to lie where the picture has the same content."""
    image = smooth(300, 400)
    frame, geometry = Preprocess(112, resize).frame(image)
    small = np.array(Image.fromarray(image).resize((200, 150), Image.Resampling.BILINEAR))
    whole = geometry.spread((frame[..., 0] / 255).astype(np.float32), (200, 150))
    inside = whole > 0
    assert np.abs(whole * 255 - small[..., 0])[inside].max() < 6
    x0, y0, x1, y1 = np.rint(geometry.to_original(np.array([0, 0, 112, 112])) / 2).astype(int)
    covered = np.zeros_like(inside)
    covered[y0:y1, x0:x1] = True
    assert not (inside & ~covered).any()
    assert (covered & ~inside).mean() < 0.02


def test_preprocess_checks_its_input():
    with pytest.raises(TypeError, match="uint8 array"):
        Preprocess()(noise().astype(np.float32))
    with pytest.raises(ValueError, match=r"\[H, W, 3\], got \[24, 40\]"):
        Preprocess()(noise()[..., 0])
    with pytest.raises(DecodeError, match="too_large: 1x3000 becomes"):
        Preprocess(224, "crop")(np.zeros((3000, 1, 3), np.uint8))
    for options in (
        {"size": 0},
        {"resize": "stretch"},
        {"mean": (0.5, 0.2)},
        {"std": (1, 0, 1)},
        {"mean": (float("nan"),) * 3},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
            Preprocess(**options)
