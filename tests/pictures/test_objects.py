"""The same picture by every door: as a file, as a PIL picture of any mode, as an array; transparent ones on white."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastcam.data import Sample
from fastcam.data.pictures import Pictures
from fastcam.evaluation.protocols import PROTOCOLS
from fastcam.localization import localize
from fastcam.pictures import DecodeError, Preprocess, as_rgb, decode_mask, load_image, read
from fastcam.training.loading import Key, Reader
from fastcam.training.settings import Settings
from tests.support.files import chunk, png, tiff

SIDE = 32


def ramp() -> np.ndarray:
    return np.linspace(0, 65535, SIDE * SIDE).reshape(SIDE, SIDE)


def cut_out() -> np.ndarray:
    """Blue and opaque at the left, a hidden red at the right, half transparent green below: uint8 [H, W, 4]."""
    pixels = np.zeros((SIDE, SIDE, 4), np.uint8)
    pixels[:, :16], pixels[:, 16:], pixels[24:] = (0, 0, 255, 255), (255, 0, 0, 0), (0, 255, 0, 128)
    return pixels


def shown() -> np.ndarray:
    pixels = np.full((SIDE, SIDE, 3), 255, np.uint8)
    pixels[:, :16], pixels[24:] = (0, 0, 255), (127, 255, 127)
    return pixels


class Brightness(nn.Module):
    """Two classes: how bright the picture is, and nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(3, 1, 1), nn.Linear(1, 2)
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), (1 / 3, 0, 1, 0), strict=True):
                parameter.fill_(value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(images).mean((2, 3)))


def doors(tmp_path, picture) -> dict[str, np.ndarray]:
    """The picture as each way of giving it shows it, uint8 [32, 32, 3]."""

    class Data:
        class_names = ("a", "b")

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> Sample:
            return Sample(picture, 0, id="a")

    found = {
        "as_rgb": np.asarray(as_rgb(picture)),
        "Preprocess": Preprocess(SIDE).frame(picture)[0],
        "evaluation": PROTOCOLS["standard"].frame(picture, (SIDE, SIDE)),
    }
    settings = Settings(data="x", arch="resnet18", size=28, crop="random", flip=False)
    reader = Reader(Data(), Data(), settings, Preprocess(28))
    found["training"] = reader._larger(picture)
    frame, _ = reader[Key(0, 0)]
    assert frame.shape == (28, 28, 3)
    localize(Brightness().eval(), Data(), out=tmp_path / "run", overlays=1, progress=False)
    with Image.open(next((tmp_path / "run/overlays").iterdir())) as image:
        assert image.width >= SIDE
    return found


@pytest.mark.parametrize("mode", ["I;16", "RGBA", "LA", "La", "RGBa", "PA", "P", "P with one clear", "L keyed", "1"])
def test_pil_pictures_are_seen_as_their_files(tmp_path, mode):
    rgba = Image.fromarray(cut_out())
    picture = {
        "I;16": lambda: Image.fromarray(ramp().astype(np.uint16)),
        "LA": lambda: rgba.convert("LA"),
        "La": lambda: rgba.convert("LA").convert("La"),
        "PA": lambda: rgba.convert("P").convert("PA"),
        "P": lambda: rgba.quantize(8),
        "P with one clear": lambda: Image.fromarray((cut_out()[..., 3] > 200).astype(np.uint8), "L").convert("P"),
        "L keyed": lambda: rgba.convert("RGB").convert("L"),
        "1": lambda: rgba.getchannel("A").convert("1", dither=Image.Dither.NONE),
    }.get(mode, lambda: rgba.convert(mode))()
    options = {"P with one clear": {"transparency": 0}, "L keyed": {"transparency": 76}}.get(mode, {})
    path = tmp_path / "a.png"
    if mode in ("La", "RGBa", "PA"):  # PNG has no such kind
        picture.convert("LA" if mode == "La" else "RGBA").save(path)
    else:
        picture.save(path, **options)
        if options:
            picture = Image.open(path)
    before = dict(picture.info), picture.mode, picture.tobytes()
    expected = load_image(path)
    for door, pixels in doors(tmp_path, picture).items():
        assert pixels.shape == (SIDE, SIDE, 3)
        assert np.abs(pixels.astype(int) - expected).max() <= 2, door  # Pillow's levels of alpha are rounded, too
    assert before == (dict(picture.info), picture.mode, picture.tobytes())
    if mode != "I;16":
        white = {"P": (255,) * 3, "P with one clear": (255,) * 3, "1": (0, 0, 0)}.get(mode, (255,) * 3)
        assert tuple(expected[0, 31]) == white
    else:
        assert np.array_equal(expected[..., 0], np.rint(ramp().astype(np.uint16) / 257))


def test_transparent_pictures_by_hand():
    pixels = cut_out()
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **options)
        assert np.abs(np.asarray(read(buffer.getvalue()).image).astype(int) - shown()).max() <= 1, kind
    buffer = io.BytesIO()
    palette = Image.fromarray(np.array([[0, 1], [2, 0]], np.uint8), "P")
    palette.putpalette([255, 0, 0, 0, 0, 255, 0, 255, 0])
    palette.save(buffer, "GIF", transparency=0)
    assert np.asarray(read(buffer.getvalue()).image).tolist() == [
        [[255, 255, 255], [0, 0, 255]],
        [[0, 255, 0], [255, 255, 255]],
    ]


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_alpha_of_a_bitmap_is_meant_unless_it_is_zero_all_over(alpha):
    """As browsers have it."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 2, 1, 1, 32, 3, 8, 0, 0, 0, 0) + masks + bytes(52)
    pixels = bytes([10, 20, 30, alpha, 10, 20, 30, 0])
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + 8, 0, 0, 14 + len(head)) + head + pixels
    share = alpha / 255 if alpha else 1
    expected = [round(colour * share + 255 * (1 - share)) for colour in (30, 20, 10)]
    found = np.asarray(read(data).image).astype(int)
    assert np.abs(found[0, 0] - expected).max() <= 1
    assert found[0, 1].tolist() == ([255] * 3 if alpha else [30, 20, 10])


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("extra", [0, 1, 2, None])
def test_only_alpha_is_alpha_in_a_tiff(depth, extra):
    """A fourth sample may be infrared; alpha may have been multiplied into the colours already."""
    most = np.iinfo(depth).max
    straight = np.array([[[most, 0, 0, 0], [most, 0, 0, most], [0, most, 0, most // 5]]], depth)
    stored = straight.copy()
    if extra == 1:
        stored[0, 0, 0], stored[0, 2, 1] = 0, most // 5
    found = np.asarray(read(tiff(stored, extra=extra)).image).astype(int)
    expected = [[255, 255, 255], [255, 0, 0], [204, 255, 204]]
    if extra in (0, None):
        expected = [[255, 0, 0], [255, 0, 0], [0, 255, 0]]
    assert np.abs(found[0] - expected).max() <= 1


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_a_transparent_grey_of_any_depth(bits):
    """PNG tells the grey in the file's own levels, which Pillow's pixels no longer have."""
    most = (1 << bits) - 1
    levels = list(range(min(most, 15) + 1)) if bits < 8 else [0, most, most // 2]
    row = int("".join(f"{level:0{bits}b}" for level in levels).ljust(-(-len(levels) * bits // 8) * 8, "0"), 2)
    packed = zlib.compress(b"\0" + row.to_bytes(-(-len(levels) * bits // 8), "big"))
    for key in (levels[0], levels[-1]):
        head = struct.pack(">IIBBBBB", len(levels), 1, bits, 0, 0, 0, 0)
        parts = (b"IHDR", head), (b"tRNS", struct.pack(">H", key)), (b"IDAT", packed), (b"IEND", b"")
        data = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)
        expected = [255 if level == key else round(255 * level / most) for level in levels]
        assert np.asarray(read(data).image)[0, :, 0].tolist() == expected
        assert decode_mask(data)[0].tolist() == [level not in (key, 0) for level in levels]


@pytest.mark.parametrize("mode", ["F", "I"])
def test_modes_without_a_range_are_refused_at_every_door(tmp_path, mode):
    picture = Image.fromarray((ramp() / 65535).astype(np.float32)).convert(mode)
    for door in (as_rgb, Preprocess(SIDE), Preprocess(SIDE).frame):
        with pytest.raises(DecodeError, match=f"unsupported: colour mode {mode}, which has no fixed range"):
            door(picture)
    with pytest.raises(DecodeError, match="colour mode"):
        PROTOCOLS["standard"].frame(picture, (SIDE, SIDE))
    run = localize(Brightness().eval(), [Sample(picture, id="a")], out=tmp_path / "run", progress=False)
    assert dict(run.codes) == {"unsupported": 1}


@pytest.mark.parametrize("array", [ramp().astype(np.uint16), (ramp() / 65535)[..., None].repeat(3, 2), ramp() > 3])
def test_arrays_that_are_no_pictures_are_refused_at_every_door(array):
    for door in (as_rgb, Preprocess(SIDE), lambda image: PROTOCOLS["standard"].frame(image, (SIDE, SIDE))):
        with pytest.raises(TypeError, match=r"uint8 array \[H, W, 3\]"):
            door(array)
    for shape in ((4, 4), (4, 4, 4), (4, 4, 1)):
        with pytest.raises(ValueError, match=r"must be \[H, W, 3\]"):
            PROTOCOLS["standard"].frame(np.zeros(shape, np.uint8), (SIDE, SIDE))


def test_a_picture_made_of_another_keeps_its_colours(tmp_path):
    """Pillow hands on which colour of a palette was transparent, though pixels of this colour were opaque."""
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 10, 10, 10, 10, 10])
    palette.save(tmp_path / "a.png", transparency=0)
    with warnings.catch_warnings(), Image.open(tmp_path / "a.png") as image:
        made = image.convert("RGB")
        assert np.asarray(as_rgb(image)).tolist() == [[[255] * 3, [10] * 3]]
    assert np.asarray(as_rgb(made)).tolist() == [[[10] * 3, [10] * 3]]


def test_a_damaged_pil_picture_is_an_error_of_its_own(tmp_path):
    data = png(np.zeros((40, 40, 4), np.uint8), 6)
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with Image.open(tmp_path / "a.png") as image, pytest.raises(DecodeError, match="damaged"):
        as_rgb(image)


@pytest.mark.parametrize("kind", ["transparent", "of 16 bits", "faint", "a palette"])
def test_masks_count_every_level_and_nothing_that_is_clear(tmp_path, kind):
    wanted = np.zeros((6, 8), bool)
    wanted[1:3, 2:5] = True
    if kind == "transparent":  # white all over
        mask = Image.merge("LA", [Image.new("L", (8, 6), 255), Image.fromarray(wanted.astype(np.uint8) * 255)])
    elif kind == "of 16 bits":  # numbers of objects
        mask = Image.fromarray(wanted.astype(np.uint16) * 7)
    elif kind == "faint":
        mask = Image.fromarray(wanted[..., None] * np.array([0, 0, 1], np.uint8))  # luminance 0.1
    else:
        mask = Image.fromarray(wanted.astype(np.uint8), "P")
        mask.putpalette([0, 0, 0, 0, 0, 2])
    Image.new("RGB", (8, 6), "teal").save(tmp_path / "a.jpg")
    mask.save(tmp_path / "a.png")
    data = Pictures(tmp_path, ["a.jpg"], masks=[([tmp_path / "a.png"], None)])
    assert np.array_equal(data[0].mask, wanted)
