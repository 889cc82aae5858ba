"""Files of others whose headers and numbers ask for memory or time out of all proportion."""

import contextlib
import io
import json
import os
import resource
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image

from fastcam import data, models
from fastcam.data.catdog import make_catdog
from fastcam.data.pictures import Packed, Pictures
from fastcam.evaluation import Evaluator
from fastcam.export import MapTable, export
from fastcam.localization import Plan
from fastcam.pictures import DECODERS, DecodeError, decode, read, read_part
from fastcam.report import write_report
from tests.support import tables
from tests.support.evaluations import evaluate_map
from tests.support.files import jpeg, shard

LAUGHS = '<!DOCTYPE a [<!ENTITY b "ha"><!ENTITY c "&b;&b;&b;&b;">]><annotation><object>&c;</object></annotation>'


@pytest.mark.parametrize("code", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-7"])
def test_xml_has_no_entities_in_any_encoding(tmp_path, code):
    (tmp_path / "Annotations").mkdir()
    (tmp_path / "Annotations" / "a.xml").write_bytes(LAUGHS.encode(code))
    with pytest.raises(ValueError, match=r"document type is not allowed|expected UTF-8|not well-formed"):
        data.load(tmp_path, format="voc", truth_only=True)
    if code != "utf-7":  # in which "<" is a word of its own
        with pytest.raises(ValueError, match=r"document type is not allowed|expected UTF-8"):
            data.load(tmp_path, format="voc", truth_only=True)


def header(size: int, kind: bytes) -> bytes:
    """Header of a tar's member."""
    block = bytearray(tarfile.TarInfo("a.jpg").tobuf(tarfile.USTAR_FORMAT))
    block[124:136], block[156:157], block[148:156] = tarfile.itn(size, 12, tarfile.GNU_FORMAT), kind, b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"S"])
@pytest.mark.parametrize("size", [1 << 60, 1 << 63, 1 << 86, -512, -(1 << 40)])
@pytest.mark.parametrize("later", [False, True])
def test_sizes_in_tars_that_cannot_be(tmp_path, kind, size, later):
    content = shard(tmp_path / "x.tar", {"a.txt": b""}).read_bytes()[:512] if later else b""
    (tmp_path / "x.tar").write_bytes(content + header(size, kind) + bytes(1024))
    with pytest.raises(ValueError, match=r"x\.tar(:| has)"):
        data.load(tmp_path / "x.tar")


def test_tars_of_headers_alone(tmp_path):
    (tmp_path / "x.tar").write_bytes((header(4, b"L") + b"abc".ljust(512, b"\0")) * 5000)
    with pytest.raises(ValueError, match=r"x\.tar: "):
        data.load(tmp_path / "x.tar")


@pytest.mark.parametrize("number", ["2000000000", "999999999999999999"])
def test_class_numbers_that_cannot_be(tmp_path, number):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    (tmp_path / "list.csv").write_text(f"path,label\na.jpg,{number}\n")
    (tmp_path / "wsol").mkdir()
    (tmp_path / "wsol" / "image_ids.txt").write_text("a.jpg\n")
    (tmp_path / "wsol" / "class_labels.txt").write_text(f"a.jpg,{number}\n")
    shard(tmp_path / "x.tar", {"a.jpg": jpeg(), "a.cls": number.encode()})
    for path in ("list.csv", "wsol", "x.tar"):
        with pytest.raises(ValueError, match=f"there is a class {number}: expected at most"):
            data.load(tmp_path / path)
    if int(number) < 1 << 31:
        run = tables.write(tmp_path / "run", [tables.row("a.jpg", class_id=int(number))])
        for format in ("coco", "yolo", "wsol"):
            with pytest.raises(ValueError, match=f"has class {number}: expected at most"):
                export(run, format)


def test_numbers_in_json_that_cannot_be(tmp_path):
    for told in (b'{"label": %s}' % (b"9" * 5000), b'{"boxes": [[1e999, 0, 1, 1]]}', b'{"width": NaN, "height": 1}'):
        with pytest.raises(ValueError, match=r"x\.tar: a\.j"):
            data.load(shard(tmp_path / "x.tar", {"a.jpg": jpeg(), "a.json": told}))


def test_tables_with_more_rows_than_bytes(tmp_path):
    path = pa.array(["a.jpg"]).dictionary_encode()
    rows = pa.DictionaryArray.from_arrays(np.zeros(3 << 20, np.int32), path.dictionary)
    pq.write_table(pa.table({"path": rows.cast(pa.string())}), tmp_path / "list.parquet", compression="zstd")
    assert (tmp_path / "list.parquet").stat().st_size < 1 << 20
    with pytest.raises(ValueError, match=r"list\.parquet: 3145728 rows in \d+ bytes cannot all be different"):
        data.load(tmp_path / "list.parquet")


def test_zip_files_that_swell(tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat.0", "cat.1", "dog.0", "dog.1"):
            archive.writestr(f"train/{name}.jpg", bytes(1 << 20))
    with pytest.raises(ValueError, match=r"cat\.0\.jpg has 1048576 bytes, more than a picture"):
        make_catdog(tmp_path / "train.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_that_swell(tmp_path):
    """torch would unpack them: 200 kB become 200 MB."""
    torch.save({"a": torch.zeros(4)}, tmp_path / "good.pt")
    with (
        zipfile.ZipFile(tmp_path / "good.pt") as good,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in good.namelist():
            packed.writestr(name, good.read(name))
    with pytest.raises(ValueError, match="its members are packed"):
        models.load_tensors(tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt is not a file that torch\.save wrote"):
        models.load_weights(models.build("squeezenet1_1", 3), tmp_path / "w.pt")


@pytest.mark.parametrize(
    "told",
    [
        '{"num_classes": 1000000000000}',
        '{"num_classes": -3}',
        '{"num_classes": "3"}',
        '{"class_names": [1, 2, 3]}',
        '{"size": "x"}',
        '{"mean": ["x", 1, 2]}',
        '{"threshold": "x"}',
        '{"arch": ["resnet18"]}',
        '{"arch": "../resnet18"}',
        '{"arch": "fcn_resnet50"}',
        "[" * 100_000,
    ],
)
def test_configurations_that_cannot_be(tmp_path, told):
    state = models.build("squeezenet1_1", 3).state_dict()
    text = told if told[0] == "[" else json.dumps({"arch": "squeezenet1_1", "num_classes": 3} | json.loads(told))
    (tmp_path / "w.safetensors").write_bytes(safetensors.torch.save(state, metadata={"fastcam": text}))
    with pytest.raises(ValueError, match=r"must be|no weights for the|unknown arch|not a fastcam"):
        models.load_checkpoint(tmp_path / "w.safetensors")


def npy(descr: str, shape: str) -> Callable[[Path], object]:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return lambda path: path.write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text)


@pytest.mark.parametrize(
    "write",
    [
        npy("'<f4'", "(1048576, 1048576, 1048576)"),
        npy("'<f4'", "(4294967296, 4294967296)"),
        npy("'|O'", "(1, 1)"),
        npy("[('a', '|O')]", "(1, 1)"),
        npy("__import__('os').mkdir('x')", "(1,)"),
        npy("'<f4'", "(" * 200),
        npy("'<f4'", "(1, '"),
    ],
)
def test_maps_whose_header_is_hostile(tmp_path, write):
    with pytest.raises(ValueError, match=r"a\.jpg\.npy is no \.npy file of numbers"):
        evaluate_map(tmp_path, write)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_jpegs_of_very_many_scans(decoder, mode):
    buffer = io.BytesIO()
    Image.new(mode, (64, 64)).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    assert read(content[:-2] + last * 900 + content[-2:], decoder).image.size == (64, 64)
    with pytest.raises(DecodeError, match=r"too_large: 1[0-9]{3} scans, at most 1000"):
        read(content[:-2] + last * 1000 + content[-2:], decoder)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_decoders_cannot_be_told_another_size_than_the_one_that_is_checked(kind):
    """16 bits are OpenCV's, whose limit is higher; a file with two sizes must not get it to take memory."""
    _, content = cv2.imencode(f".{kind.lower()}", np.zeros((8, 8, 3), np.uint16), [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    content, side = content.tobytes(), 30_000
    if kind == "PNG":
        body = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
        double = content[:8] + struct.pack(">I", 13) + body + struct.pack(">I", zipfile.crc32(body)) + content[8:]
    else:
        at = struct.unpack_from("<I", content, 4)[0]
        count = struct.unpack_from("<H", content, at)[0]
        entries = content[at + 2 : at + 2 + 12 * count]
        wide = struct.pack("<HHIIHHII", 256, 4, 1, side, 257, 4, 1, side)
        directory = struct.pack("<H", count + 2) + wide + entries + bytes(4)
        double = content[:4] + struct.pack("<I", len(content)) + content[8:] + directory
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert decode(content).size == (8, 8)
    with contextlib.suppress(DecodeError):  # depends on which of the two the decoders go by
        assert decode(double).size == (8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB; the whole would be 5 GB


def test_parts_of_files_that_cannot_be(tmp_path):
    (tmp_path / "pack").write_bytes(jpeg())
    size = len(jpeg())
    assert read_part(tmp_path / "pack", 0, size) == jpeg()
    for offset, length, code in (
        (0, 1 << 62, "too_large"),
        (0, -1, "too_large"),
        (-1, 9, "damaged"),
        (1, size, "damaged"),
    ):
        with pytest.raises(DecodeError, match=code):
            read_part(tmp_path / "pack", offset, length)
        with pytest.raises(DecodeError, match=code):
            Pictures(tmp_path, ["a.jpg"], [Packed(tmp_path / "pack", "a.jpg", offset, length)])[0]


def test_tables_of_runs_that_are_hostile(tmp_path):
    """Sizes that nothing was ever decoded in, and a list of inputs that leads to a pipe."""
    coarse = np.ones((2, 2), np.float16)
    rows = [tables.row(id, (0, 0, 9, 9), size=(1 << 30, 1 << 30), cam=coarse) for id in ("a", "b")]
    run = tables.write(tmp_path / "run", rows, cams=True)
    for format in ("png", "npy", "labels", "wsss"):
        with pytest.raises(ValueError, match=r"a map of \d+x\d+ is asked for, at most"):
            export(run, format, size="picture" if format in ("png", "npy") else None)
    with pytest.raises(ValueError, match="is asked for"):
        MapTable(run)[0].at()
    os.mkfifo(tmp_path / "pipe")
    inputs = {"key": ["a", "b"], "path": [bytes(tmp_path / "pipe")] * 2}
    inputs |= {"offset": pa.array([None, 0], pa.int64()), "length": pa.array([None, 1 << 62], pa.int64())}
    pq.write_table(pa.table(inputs), run / "inputs.parquet")
    assert write_report(run).thumbnails == 0
    tables.write(tmp_path / "run", rows, tables.INFO | {"size": 1 << 20}, cams=True)
    with pytest.raises(ValueError, match="`size` must be a positive whole number of pixels, at most"):
        write_report(run)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"7", b"{}", b"\xff", b'{"settings": [], "class_names": [], "shard_size": 1}']
)
def test_folders_of_runs_that_are_hostile(tmp_path, content):
    (tmp_path / "plan.json").write_bytes(content)
    with pytest.raises(ValueError, match="is no plan that this version of fastcam can read"):
        Plan.load(tmp_path)
    plan = Plan(tmp_path, {}, (), "0" * 32, 1, 1, True, {})
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "000000.json").write_bytes(content)
    (tmp_path / "audit.json").write_bytes(content)
    assert plan.mark(0) is None
    assert plan.finished() is None
    (tmp_path / "e.safetensors").write_bytes(
        safetensors.torch.save({"a": torch.ones(1)}, {"fastcam.evaluation": content.decode("latin-1")})
    )
    with pytest.raises(ValueError, match="is not the saved state of an evaluation"):
        Evaluator("standard").load(tmp_path / "e.safetensors")
