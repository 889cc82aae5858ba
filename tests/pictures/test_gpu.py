"""JPEGs left to a GPU, held to Pillow's pixels and to the rows of the CPU's decoder; and what fails there.

Without a GPU the decoders for the CPU of torchcodec and torchvision, the same functions, stand in for nvJPEG.
"""

import io
import json
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image, ImageOps

from fastcam.localization import Worker, localize, network, prepare
from fastcam.pictures import DecodeError, Encoded, Preprocess, choose_decoder, gpu, read, read_encoded
from tests.support.engine_run import OPTIONS, Tiny

CPU = torch.device("cpu")
EXPECTED = choose_decoder()  # who decodes what the GPU does not


def drawn(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int | None = None, **options) -> bytes:
    if orientation is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, **options)
    return buffer.getvalue()


def encoded(data: bytes) -> Encoded:
    found = read_encoded(data).pixels
    assert isinstance(found, Encoded)
    return found


@pytest.fixture(params=["torchcodec", "torchvision"])
def library(request, monkeypatch) -> tuple[str, Callable]:
    """A library's name and its decoder, which is the one in use."""
    folder = {"torchcodec": "torchcodec.decoders", "torchvision": "torchvision.io"}[request.param]
    found = request.param, pytest.importorskip(folder).decode_jpeg
    monkeypatch.setattr(gpu, "_decoder", lambda: found)
    return found


@pytest.fixture
def decoder(library, monkeypatch) -> Callable:
    """Put a function of the number of JPEGs, and each one's bytes and pixels, in the way of the decoder."""
    (name, genuine), calls = library, []

    def install(change: Callable[[int, bytes, torch.Tensor], torch.Tensor]) -> list[int]:
        def decode_jpeg(data, mode, device):
            calls.append(len(data))
            pixels = genuine(data, mode=mode, device=device)
            return [change(len(data), bytes(d.numpy()), p) for d, p in zip(data, pixels, strict=True)]

        monkeypatch.setattr(gpu, "_decoder", lambda: (name, decode_jpeg))
        return calls

    return install


def bare(data: bytes) -> bytes:
    """What the decoder gets of a JPEG."""
    return bytes(gpu._without_exif(data))


def fail(message: str) -> None:
    raise RuntimeError(f"decode_images, decode_jpegs_cuda.cpp:1, {message}")


# ---- what is left to the GPU ----


def test_regular_jpegs_are_handed_on_as_they_are():
    for data, stored, orientation in (
        (jpeg(drawn(0)), (90, 70), 1),
        (jpeg(drawn(0).convert("L"), 6), (90, 70), 6),
        (jpeg(drawn(0), 99, progressive=True), (90, 70), 1),
        (jpeg(drawn(0), subsampling=0) + b"more", (90, 70), 1),
    ):
        found = read_encoded(data)
        assert found == (Encoded(data, stored, orientation), orientation, None)
        assert found.pixels.size == read(data).image.size


def test_all_others_are_decoded_on_the_cpu():
    buffer = io.BytesIO()
    drawn(0).save(buffer, "PNG")
    whole = jpeg(drawn(0))
    between = whole[:20] + b"\0\0" + whole[20:]
    marker, plain = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0", jpeg(drawn(0), keep_rgb=True)
    assert marker in plain
    for data in (
        buffer.getvalue(),
        jpeg(drawn(0).convert("CMYK")),
        plain,
        plain.replace(marker, b""),
        whole[:2] + marker + whole[2:],
        between,
        whole + bytes(2**24),
    ):
        found, expected = read_encoded(data), read(data)
        assert found[1:] == expected[1:]
        assert np.array_equal(found.image, expected.image)
    for wrong in (whole[:300], whole[:-2], b"", b"text"):
        with pytest.raises(DecodeError) as ours:
            read_encoded(wrong)
        with pytest.raises(DecodeError) as theirs:
            read(wrong)
        assert str(ours.value) == str(theirs.value)
    height = whole.index(b"\xff\xc0") + 5
    bomb = whole[:height] + b"\xff\xff\xff\xff" + whole[height + 4 :]
    with pytest.raises(DecodeError, match="too_large"):
        read_encoded(bomb)


# ---- frames ----


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_are_pillows_upright_but_for_rounding(orientation, resize):
    preprocess = Preprocess(48, resize)
    pictures = [drawn(1), drawn(2, 300, 120).convert("L"), drawn(3, 20, 33), drawn(4, 48, 48), drawn(5, 1, 1)]
    files = [jpeg(picture, orientation) for picture in pictures]
    for file, found in zip(files, gpu.frames([encoded(file) for file in files], preprocess, CPU), strict=True):
        with Image.open(io.BytesIO(file)) as image:
            expected, geometry = preprocess.frame(ImageOps.exif_transpose(image).convert("RGB"))
        assert found.dtype == torch.uint8
        assert geometry == preprocess.geometry(encoded(file).size)
        assert np.abs(found.numpy() - expected.astype(int)).max() <= 1


def test_a_frame_does_not_depend_on_its_company(decoder):
    preprocess = Preprocess(32, "crop")
    pictures = [encoded(jpeg(drawn(i, 60 + i, 50), 1 + i)) for i in range(8)]
    together = gpu.frames(pictures, preprocess, CPU)
    alone = [gpu.frames([picture], preprocess, CPU)[0] for picture in pictures]
    decoder(lambda count, data, pixels: pixels if count == 1 else fail("Failed to decode batch: 6"))
    after = gpu.frames(pictures, preprocess, CPU)
    for frame, *others in zip(together, alone, after, strict=True):
        assert all(torch.equal(frame, other) for other in others)


def test_a_failing_list_is_tried_one_by_one(decoder):
    pictures = [encoded(jpeg(drawn(i))) for i in range(4)]
    calls = decoder(lambda count, data, pixels: fail("unknown") if data == bare(pictures[2].data) else pixels)
    found = gpu.frames(pictures, Preprocess(32), CPU)
    assert [frame is None for frame in found] == [False, False, True, False]
    assert calls == [4, 1, 1, 1, 1]


def test_another_size_than_the_headers_is_no_result(decoder):
    pictures = [encoded(jpeg(drawn(i, 60, 50))) for i in range(3)]
    calls = decoder(lambda count, data, pixels: pixels.mT if data == bare(pictures[1].data) else pixels)
    assert [frame is None for frame in gpu.frames(pictures, Preprocess(32), CPU)] == [False, True, False]
    assert calls == [3]


@pytest.mark.parametrize(
    "message",
    [
        "Error while decoding JPEG images: CUDA out of memory. Tried to",
        "Failed to decode batch: 5",
        "nvjpegDecode failed: 5",
    ],
)
def test_memory_for_several_is_the_callers_matter_and_for_one_the_cpus(decoder, message):
    pictures = [encoded(jpeg(drawn(i))) for i in range(3)]
    calls = decoder(lambda count, data, pixels: fail(message))
    with pytest.raises(torch.OutOfMemoryError, match="decoding 3 JPEGs: "):
        gpu.frames(pictures, Preprocess(32), CPU)
    assert gpu.frames(pictures[:1], Preprocess(32), CPU) == [None]
    assert calls == [3, 1]


# ---- the trial ----


def repeated(count: int, data: bytes, pixels: torch.Tensor) -> torch.Tensor:
    """Colours of half the resolution, repeated as nvJPEG does it."""
    with Image.open(io.BytesIO(data)) as image:
        if image.mode == "L":
            return pixels
        image.draft("YCbCr", None)
        light, *colours = image.split()
    half = tuple((side + 1) // 2 for side in image.size)
    whole = 2 * half[0], 2 * half[1]
    for i, colour in enumerate(colours):
        even = Image.fromarray(np.pad(colour, ((0, whole[1] - image.height), (0, whole[0] - image.width)), mode="edge"))
        wide = even.resize(half, Image.Resampling.BOX).resize(whole, Image.Resampling.NEAREST)
        colours[i] = wide.crop((0, 0, *image.size))
    return torch.from_numpy(np.array(Image.merge("YCbCr", (light, *colours)).convert("RGB"))).permute(2, 0, 1)


def test_the_trial(decoder, monkeypatch):
    trial = gpu._trial.__wrapped__
    assert trial(CPU) is None
    for change, reason in (
        (lambda count, data, pixels: torch.zeros_like(pixels), "its pixels differ from Pillow's by"),
        (lambda count, data, pixels: pixels.flip(0), "its pixels differ from Pillow's by"),
        (lambda count, data, pixels: pixels.mT, "of a JPEG of [3, H, W] = [3, 43, 61] it makes [3, 61, 43]"),
        (lambda count, data, pixels: fail("not compiled with nvJPEG support"), "not compiled with nvJPEG support"),
    ):
        decoder(change)
        assert reason in trial(CPU)
    decoder(repeated)
    assert trial(CPU) is None
    monkeypatch.undo()
    gpu._decoder.cache_clear()
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    assert "decode_jpeg" in trial(CPU)


@pytest.mark.parametrize(
    ("there", "taken"),
    [("with decode_jpeg", "torchcodec"), ("before 0.16", "torchvision"), ("not installed", "torchvision")],
)
def test_torchcodec_is_asked_where_it_can_be_and_torchvision_else(there, taken, monkeypatch):
    module = ModuleType("torchcodec.decoders")
    if there == "with decode_jpeg":
        module.decode_jpeg = torchvision.io.decode_jpeg
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None if there == "not installed" else module)
    monkeypatch.setattr(metadata, "version", lambda name: "1.2")
    gpu._decoder.cache_clear()
    try:
        assert gpu.library() == f"{taken} 1.2"
        assert gpu._trial.__wrapped__(CPU) is None
    finally:
        gpu._decoder.cache_clear()


@pytest.mark.usefixtures("library")
def test_the_decoder_sees_no_exif():
    """torchcodec would turn the picture."""
    plain, turned = jpeg(drawn(0)), jpeg(drawn(0), 6)
    twice = turned[:2] + turned[2:][: 2 + int.from_bytes(turned[4:6], "big")] + turned[2:]
    for file in (turned, twice, turned[:2] + b"\xff\xff" + turned[2:]):
        assert b"Exif" in file
        assert b"Exif" not in bare(file)
        assert torch.equal(*gpu._decoded([file, plain], CPU))
    assert bare(plain) == plain
    for cut in range(len(turned)):  # a file's structure is looked at elsewhere
        bare(turned[:cut])


def test_where_it_cannot_be_it_is_refused_before_work_begins(tmp_path, monkeypatch):
    drawn(0).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match='"nvjpeg" needs the network on a CUDA device, it is on cpu'):
        localize(Tiny(), tmp_path, out=tmp_path / "out", decoder="nvjpeg", **OPTIONS)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(gpu, "_trial", lambda device: "no nvJPEG in it")
    with pytest.raises(ValueError, match='"nvjpeg" does not work here: no nvJPEG in it'):
        gpu.check(torch.device("cuda"))


# ---- runs ----


@pytest.fixture
def allowed(monkeypatch) -> None:
    """Let a run on the CPU have the stand-in."""
    monkeypatch.setattr(gpu, "check", lambda device: None)


@pytest.fixture
def folder(tmp_path) -> Path:
    """JPEGs of all kinds among other files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(11):
        (folder / f"{i:02d}.jpg").write_bytes(jpeg(drawn(i, 90 - 3 * i, 40 + 4 * i), i if i < 9 else None))
    (folder / "grey.jpg").write_bytes(jpeg(drawn(11).convert("L")))
    (folder / "cmyk.jpg").write_bytes(jpeg(drawn(12).convert("CMYK")))
    (folder / "rgb.jpg").write_bytes(jpeg(drawn(13), keep_rgb=True))
    (folder / "cut.jpg").write_bytes(jpeg(drawn(14))[:-200])
    (folder / "empty.jpg").touch()
    drawn(15).save(folder / "a.png")
    drawn(16).save(folder / "b.webp")
    return folder


GPUS = {*(f"{i:02d}.jpg" for i in range(11)), "grey.jpg"}  # what a GPU gets of them


def run(folder: Path, out: Path, **options) -> list[dict]:
    localize(Tiny(), folder, out=out, **OPTIONS | {"maps": False} | options)
    return pq.read_table(out / "boxes.parquet").to_pylist()


def same(ours: list[dict], theirs: list[dict], decoders: dict[str, str]) -> None:
    """The same rows but for rounding, and the decoder of some."""
    exact = ("image_id", "width", "height", "rank", "class_id", "status", "error", "box", "orientation")
    for row, other in zip(ours, theirs, strict=True):
        assert [row[name] for name in exact] == [other[name] for name in exact]
        assert row["decoder"] == decoders.get(row["image_id"], other["decoder"])
        if row["status"] == "ok":
            assert row["score"] == pytest.approx(other["score"], abs=4e-3)
            reach = max(row["width"], row["height"]) / OPTIONS["config"].size  # a pixel of the frame
            assert all(abs(row[edge] - other[edge]) <= reach for edge in ("x0", "y0", "x1", "y1"))


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_rows_are_those_of_the_cpus_decoder(folder, tmp_path, batch_size):
    theirs = run(folder, tmp_path / "cpu", batch_size=batch_size)
    ours = run(folder, tmp_path / "gpu", batch_size=batch_size, decoder="nvjpeg", overlays=30)
    same(ours, theirs, dict.fromkeys(GPUS, "nvjpeg"))
    assert {row["image_id"] for row in ours if row["status"] == "error"} == {"cut.jpg", "empty.jpg"}
    assert len(list((tmp_path / "gpu" / "overlays").iterdir())) == 16
    settings = json.loads((tmp_path / "gpu" / "plan.json").read_text())["settings"]
    assert settings["decoder"] == "nvjpeg"
    assert gpu.library() in settings["decoders"]


@pytest.mark.usefixtures("allowed")
def test_what_fails_on_the_gpu_is_decoded_on_the_cpu(folder, tmp_path, decoder, monkeypatch):
    theirs = run(folder, tmp_path / "cpu")
    wrong, failing, hopeless = ((folder / f"{name}.jpg").read_bytes() for name in ("03", "05", "grey"))

    def change(count, data, pixels):
        if data in map(bare, (failing, hopeless)):
            fail("Failed to decode jpeg stream: 6")
        return pixels.mT if data == bare(wrong) else pixels

    def refuse(data):
        if data == hopeless:
            raise DecodeError("damaged", "beyond hope")
        return read(data)

    decoder(change)
    monkeypatch.setattr(network, "read", refuse)
    ours = run(folder, tmp_path / "gpu", decoder="nvjpeg", overlays=30)
    (lost,) = [row for row in ours if row["image_id"] == "grey.jpg"]
    assert {name: value for name, value in lost.items() if value is not None} == {
        "image_id": "grey.jpg",
        "status": "error",
        "error": "damaged: beyond hope",
    }
    decoders = dict.fromkeys(GPUS, "nvjpeg") | dict.fromkeys(("03.jpg", "05.jpg"), EXPECTED)
    kept = [[row for row in rows if row["image_id"] != "grey.jpg"] for rows in (ours, theirs)]
    same(*kept, decoders)
    for row, other in zip(*kept, strict=True):
        if row["decoder"] != "nvjpeg":
            assert row == other | {"score": row["score"], "box_score": row["box_score"]}
            assert row["score"] == pytest.approx(other["score"], abs=1e-6, nan_ok=row["score"] is None)


@pytest.mark.usefixtures("allowed")
def test_out_of_memory_while_decoding_halves_the_batch(folder, tmp_path, decoder):
    whole = run(folder, tmp_path / "whole", decoder="nvjpeg", batch_size=2)
    calls = decoder(lambda count, data, pixels: fail("CUDA out of memory") if count > 2 else pixels)
    ours = run(folder, tmp_path / "halved", decoder="nvjpeg", batch_size=8)
    assert calls[:3] == [8, 4, 2]
    same(ours, whole, {})
    assert json.loads((tmp_path / "halved" / "audit.json").read_text())["smallest_batch"] == 2
    decoder(lambda count, data, pixels: fail("CUDA out of memory"))
    for row in run(folder, tmp_path / "none", decoder="nvjpeg", batch_size=8):
        assert row["decoder"] in (EXPECTED, "pillow", None)
        assert (row["status"] == "error") == (row["image_id"] in ("cut.jpg", "empty.jpg"))


@pytest.mark.usefixtures("allowed")
def test_a_failing_network_does_not_hide_who_decoded(folder, tmp_path):
    class Odd(Tiny):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if images.std() > 0:
                raise RuntimeError("only black pictures, please")
            return super().forward(images)

    localize(Odd(), folder, out=tmp_path / "out", decoder="nvjpeg", **OPTIONS)
    for row in pq.read_table(tmp_path / "out" / "boxes.parquet").to_pylist():
        if row["image_id"] in GPUS:
            assert (row["decoder"], row["error"]) == ("nvjpeg", "model: only black pictures, please")


@pytest.mark.usefixtures("allowed")
def test_pictures_without_a_class_are_not_decoded(folder, tmp_path, decoder):
    calls = decoder(lambda count, data, pixels: pixels)
    rows = run(folder, tmp_path / "out", decoder="nvjpeg", targets={"00.jpg": 1, "01.jpg": 99})
    assert calls == [1]
    found = {row["image_id"]: (row["status"], (row["error"] or "").partition(":")[0], row["decoder"]) for row in rows}
    assert found["00.jpg"] == ("ok", "", "nvjpeg")
    assert found["01.jpg"] == found["02.jpg"] == ("error", "no_target", None)


@pytest.mark.usefixtures("allowed")
def test_each_process_tries_the_decoder_itself(folder, tmp_path, monkeypatch):
    options = {name: value for name, value in OPTIONS.items() if name != "progress"}
    plan = prepare(Tiny(), folder, out=tmp_path / "out", decoder="nvjpeg", **options)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="needs the network on a CUDA device"):
        Worker(plan, Tiny())


def test_no_other_decoder_comes_near_a_gpu(folder, tmp_path, monkeypatch):
    for name in ("check", "frames"):
        monkeypatch.setattr(gpu, name, lambda *given: pytest.fail("asked"))
    for chosen in (None, "pillow"):
        assert {row["decoder"] for row in run(folder, tmp_path / str(chosen), decoder=chosen)} <= {
            *((EXPECTED,) if chosen is None else ()),
            "pillow",
            None,
        }


# ---- nvJPEG itself ----

gpu_test = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.mark.gpu
@gpu_test
def test_nvjpeg_passes_the_trial():
    gpu.check(torch.device("cuda", torch.cuda.current_device()))


@pytest.mark.gpu
@gpu_test
@pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_of_nvjpeg_are_near_those_of_the_cpu(orientation, options):
    pictures = [drawn(1, 640, 480), drawn(2, 300, 120).convert("L"), drawn(3, 333, 500), drawn(4, 33, 20)]
    pictures = [encoded(jpeg(picture, orientation, **options)) for picture in pictures]
    device, levels = torch.device("cuda"), 2 if "subsampling" in options else 6
    for resize in ("squash", "crop"):
        preprocess = Preprocess(96, resize)
        together = gpu.frames(pictures, preprocess, device)
        for picture, frame, expected in zip(pictures, together, gpu.frames(pictures, preprocess, CPU), strict=True):
            assert np.abs(frame.cpu().numpy() - expected.numpy().astype(int)).mean() <= levels
            assert torch.equal(frame, gpu.frames([picture], preprocess, device)[0])


@pytest.mark.gpu
@gpu_test
def test_what_nvjpeg_refuses_fails_alone():
    good, other = encoded(jpeg(drawn(0))), encoded(jpeg(drawn(1)))
    bad = good._replace(data=good.data[:40])
    device, preprocess = torch.device("cuda"), Preprocess(32)
    found = gpu.frames([good, bad, other], preprocess, device)
    assert found[1] is None
    for frame, picture in ((found[0], good), (found[2], other)):
        assert torch.equal(frame, gpu.frames([picture], preprocess, device)[0])


@pytest.mark.gpu
@gpu_test
def test_decoding_leaves_memory_alone_that_the_queue_still_reads():
    picture = encoded(jpeg(drawn(0, 1024, 1024)))
    device = torch.device("cuda")
    gpu.frames([picture], Preprocess(32), device)
    for _ in range(20):
        victims = [torch.ones(3 * 1024 * 1024, dtype=torch.uint8, device=device) for _ in range(4)]
        torch.cuda.synchronize()
        torch.cuda._sleep(50_000_000)
        sums = [victim.sum() for victim in victims]
        del victims
        gpu.frames([picture] * 4, Preprocess(32), device)
        assert [int(total) for total in sums] == [3 * 1024 * 1024] * 4


@pytest.mark.gpu
@gpu_test
def test_a_run_with_nvjpeg(folder, tmp_path):
    found = {}
    for name in ("nvjpeg", None):
        localize(Tiny().cuda(), folder, out=tmp_path / str(name), decoder=name, **OPTIONS)
        rows = pq.read_table(tmp_path / str(name) / "boxes.parquet").to_pylist()
        found[name] = {row["image_id"]: row for row in rows if row["rank"] in (1, None)}
    for key, row in found["nvjpeg"].items():
        other = found[None][key]
        assert (row["status"], row["error"], row["orientation"]) == (
            other["status"],
            other["error"],
            other["orientation"],
        )
        assert row["decoder"] == ("nvjpeg" if key in GPUS else other["decoder"])
        if row["status"] == "ok":
            assert row["score"] == pytest.approx(other["score"], abs=0.05)
