"""Decoders' own words stay off standard error, in threads and forks, too; all else that is written there does not."""

import ctypes
import io
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastcam.pictures import silence

PICTURES = 15  # of each kind

READ = """
import ctypes, os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from fastcam.pictures import DecodeError, load_image, picture_size, quiet_pillow, read, silence

def look(path):
    for door in (read, picture_size):
        try:
            door(path)
        except DecodeError:
            pass

files = sorted(Path(sys.argv[1]).iterdir())
with quiet_pillow(), ThreadPoolExecutor(4) as pool:
    list(pool.map(look, files))
"""


def encoded(kind: str, **options) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(cv2.GaussianBlur(pixels, (5, 5), 2))
    (image.convert("1") if options.get("compression") == "group4" else image).save(buffer, kind, **options)
    return buffer.getvalue()


def odd(data: bytes, seed: int, begin: int) -> bytes:
    """Some bytes changed, behind the header."""
    rng, changed = np.random.default_rng(seed), bytearray(data)
    for at in rng.integers(begin, len(data) - 8, 3):
        changed[at] = rng.integers(256)
    return bytes(changed)


def checked(data: bytes) -> bytes:
    """A PNG with the checksums that belong to its chunks, so that only its decoder can find out."""
    from tests.support.files import chunk

    parts, at = [data[:8]], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4])
        parts.append(chunk(data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return b"".join(parts)


def write_odd(folder: Path) -> None:
    deep = np.random.default_rng(2).integers(0, 65536, (48, 64, 3)).astype(np.uint16)
    deep_png = cv2.imencode(".png", deep)[1].tobytes()
    files = {
        "fax.tif": (encoded("TIFF", compression="group4"), 180),
        "lzw.tif": (encoded("TIFF", compression="tiff_lzw"), 180),
        "deflate.tif": (encoded("TIFF", compression="tiff_adobe_deflate"), 180),
        "deep.tif": (cv2.imencode(".tif", deep)[1].tobytes(), 180),
        "sequential.jpg": (encoded("JPEG"), 700),
        "progressive.jpg": (encoded("JPEG", progressive=True), 700),
        "deep.png": (deep_png, deep_png.index(b"IDAT") + 40),
    }
    for name, (data, begin) in files.items():
        for seed in range(PICTURES):
            changed = odd(data, seed, begin)
            (folder / f"{seed}-{name}").write_bytes(checked(changed) if name.endswith("png") else changed)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def odd_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("odd")
    write_odd(folder)
    return folder


def test_odd_pictures_leave_standard_error_empty(odd_files):
    assert run(READ, str(odd_files)).stderr == ""
    loud = READ.replace("list(pool.map", "silence._turn_off = silence._turn_on = lambda: None; list(pool.map")
    assert run(loud, str(odd_files)).stderr  # so much for the test itself


def test_a_run_over_odd_pictures_says_little(odd_files, tmp_path):
    code = """
import sys, torch
from torch import nn
from fastcam import localize
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 3)
    def forward(self, x):
        return self.fc(self.layer4(x).mean((2, 3)))
torch.manual_seed(0)
summary = localize(Net().eval(), sys.argv[1], out=sys.argv[2], progress=False)
print(summary.pictures)
"""
    done = run(code, str(odd_files), str(tmp_path / "run"))
    assert done.stdout == f"{7 * PICTURES}\n"
    assert done.stderr == ""


def test_the_unpublished_odd_pictures(shared):
    code = READ.replace("Path(sys.argv[1]).iterdir()", "p for p in Path(sys.argv[1]).rglob('*') if p.is_file()")
    assert run(code, str(shared / "images/nasty")).stderr == ""


def test_what_others_write_meanwhile_is_seen(odd_files):
    """Python, the system and C++ have their own ways to the terminal; afterwards, C's is as it was."""
    code = (
        READ
        + """
library = ctypes.CDLL(None)
with silence.silenced(), silence.silenced():
    print("python", file=sys.stderr)
    os.write(2, b"system\\n")
    library.perror(b"hidden")
library.perror(b"shown")
"""
    )
    lines = run(code, str(odd_files)).stderr.splitlines()
    assert lines[:2] == ["python", "system"]
    assert len(lines) == 3
    assert lines[2].startswith("shown: ")


def test_errors_and_forks_turn_it_on_again():
    code = """
import ctypes, cv2, os, sys
from fastcam.pictures import silence
library, level = ctypes.CDLL(None), cv2.utils.logging.getLogLevel()
try:
    with silence.silenced():
        raise ValueError
except ValueError:
    library.perror(b"after an error")
assert cv2.utils.logging.getLogLevel() == level
with silence.silenced():
    assert cv2.utils.logging.getLogLevel() != level
    child = os.fork()
    if not child:
        library.perror(b"in the child")
        assert cv2.utils.logging.getLogLevel() == level
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    library.perror(b"hidden")
"""
    lines = run(code).stderr.splitlines()
    assert [line.split(":")[0] for line in lines] == ["after an error", "in the child"]


def test_no_c_variable_is_no_obstacle(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    silence._streams.cache_clear()
    try:
        with silence.silenced():
            assert silence._streams() == (None, None)
    finally:
        silence._streams.cache_clear()
