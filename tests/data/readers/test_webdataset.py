"""Tar shards, good, malformed and damaged."""

import json
import os
import pickle
import tarfile

import pytest

from fastcam import data
from fastcam.pictures import DecodeError
from tests.support.datasets import GOOD, jpeg
from tests.support.files import shard


def test_shards(tmp_path) -> None:
    path = shard(tmp_path / "train-00.tar", GOOD)
    shard(tmp_path / "train-01.tar", {"a.cls": b"1", "a.jpg": jpeg(14)})
    shard(tmp_path / "val-00.tar", {"a.cls": b"1", "a.jpg": jpeg(16)})
    found = data.load(tmp_path, "train")
    assert found.ids == ["train-00.tar/n/a.jpg", "train-00.tar/n/b.JPEG", "train-01.tar/a.jpg"]
    assert found.labels == [2, 0, 1]
    assert found.class_names == ("0", "1", "2")
    assert [found[i].image.size for i in range(3)] == [(10, 6), (12, 6), (14, 6)]
    assert found[1].boxes.tolist() == [[1, 2, 3.5, 4]]
    assert found.truth(1).size == (24, 12)
    assert found.truth(2).size == (14, 6)
    assert data.load(tmp_path, "test").ids == ["val-00.tar/a.jpg"]
    assert data.load(path).ids == found.ids[:2]
    assert data.load([path, tmp_path / "val-00.tar"]).ids == [*found.ids[:2], "val-00.tar/a.jpg"]
    for refused in ({"split": "train"}, {"format": "folder"}, {"images": tmp_path}):
        with pytest.raises(ValueError, match="several paths are shards of one webdataset"):
            data.load([path, path], **refused)
    assert pickle.loads(pickle.dumps(found))[2].image.size == (14, 6)
    damaged = shard(tmp_path / "x.tar", {"a.jpg": b"no picture"})
    with pytest.raises(DecodeError, match=r"x\.tar: a\.jpg: "):
        data.load(damaged)[0]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"../a.jpg": b""}, r"member '\.\./a\.jpg': an id must be a relative path"),
        ({"/a.jpg": b""}, r"member '/a\.jpg': an id must be a relative path"),
        ({os.fsdecode(b"\xff.jpg"): b""}, "member .*not UTF-8"),
        ({"a.cls": b"1"}, r"a\.cls: no picture of this sample"),
        ({"a.jpg": b"", "a.cls": b"x"}, r"a\.cls: expected a class index"),
        ({"a.jpg": b"", "a.cls": b"\xff"}, r"a\.cls: expected UTF-8"),
        ({"a.jpg": b"", "a.cls": b"1", "b.jpg": b""}, r"b\.jpg: expected a class"),
        ({"a.jpg": b"", "a.png": b""}, r"a\.png: another picture of the same sample"),
        ({"a.jpg": b"", "b.jpg": b"", "./a.jpg": b""}, r"a\.jpg comes twice"),
        ({"a.jpg": b"", "a.json": b"{"}, r"a\.json: not well-formed JSON"),
        ({"a.jpg": b"", "a.json": b"[" * 100000}, r"a\.json: not well-formed JSON"),
        ({"a.jpg": b"", "a.json": b"[]"}, r"a\.json: expected an object"),
        ({"a.jpg": b"", "a.json": b'{"label": "cat"}'}, r"a\.json: expected `label`"),
        ({"a.jpg": b"", "a.cls": b"1", "a.json": b'{"label": 2}'}, r"a\.cls: expected a class index, that of the json"),
        ({"a.jpg": b"", "a.json": b'{"labels": 3}'}, r"a\.json: expected `labels` to be a list of different"),
        ({"a.jpg": b"", "a.json": b'{"labels": ["cat"]}'}, r"a\.json: expected `labels` to be a list of different"),
        ({"a.jpg": b"", "a.json": b'{"labels": [1, -1]}'}, r"a\.json: expected `labels` to be a list of different"),
        ({"a.jpg": b"", "a.json": b'{"labels": [[1]]}'}, r"a\.json: expected `labels` to be a list of different"),
        ({"a.jpg": b"", "a.json": b'{"labels": [1, 2, 1]}'}, r"a\.json: expected `labels` .*, got \[1, 2, 1\]"),
        ({"a.jpg": b"", "a.json": b'{"label": 0, "labels": [1]}'}, r"a\.json: expected label 0 among `labels`"),
        ({"a.jpg": b"", "a.cls": b"0", "a.json": b'{"labels": [1, 2]}'}, r"a\.json: expected label 0 among `labels`"),
        ({"a.jpg": b"", "a.cls": b"0", "a.json": b'{"labels": []}'}, r"a\.json: expected label 0 among `labels`"),
        ({"a.jpg": b"", "a.json": b'{"labels": [1]}', "b.jpg": b""}, r"b\.jpg: expected a class"),
        ({"a.jpg": b"", "a.json": b'{"labels": [2000000]}'}, r"a\.jpg: there is a class 2000000: expected"),
        ({"a.jpg": b"", "a.json": b'{"boxes": [[1, 2, 3]]}'}, r"a\.json: expected `boxes`"),
        ({"a.jpg": b"", "a.json": b'{"boxes": 7}'}, r"a\.json: expected `boxes`"),
        ({"a.jpg": b"", "a.json": b'{"boxes": [[1, 2, 0, 4]]}'}, r"a\.jpg: box 1, 2, 0, 4 ends before"),
        ({"a.jpg": b"", "a.json": b'{"width": 0, "height": 3}'}, r"a\.json: expected positive whole numbers"),
        ({}, "has no pictures"),
    ],
)
def test_malformed_shards(tmp_path, members: dict[str, bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(shard(tmp_path / "x.tar", members))


def test_several_classes(tmp_path) -> None:
    told = [{"labels": [3, 0]}, {"labels": []}, {"labels": [2]}, {"labels": [0, 1], "label": 1}, {"label": 1}]
    members = {f"{i}.{kind}": part for i, one in enumerate(told) for kind, part in parts(one).items()}
    found = data.load(shard(tmp_path / "x.tar", members | {"5.jpg": jpeg(), "5.cls": b"3"}))
    assert found.classes == [(0, 3), (), (2,), (0, 1), None, None]
    assert found.labels == [None, None, 2, 1, 1, 3]
    assert data.classes_of(found) == [(0, 3), (), (2,), (0, 1), (1,), (3,)]
    assert found.class_names == ("0", "1", "2", "3")


def parts(told: dict) -> dict[str, bytes]:
    return {"jpg": jpeg(), "json": json.dumps(told).encode()}


def test_damaged_shards(tmp_path) -> None:
    path = shard(tmp_path / "x.tar", GOOD)
    content = path.read_bytes()
    path.write_bytes(content[:1000])
    with pytest.raises(ValueError, match=r"x\.tar"):
        data.load(path)
    at = content.index(b"n/b.JPEG")
    path.write_bytes(content[:at] + b"\1" + content[at + 1 :])  # tarfile alone would take this for the end
    with pytest.raises(ValueError, match=rf"x\.tar: damaged at byte {at}"):
        data.load(path)
    path.write_bytes(b"\x1f\x8b" + content)
    with pytest.raises(ValueError, match="not an uncompressed tar file"):
        data.load(path)
    with tarfile.open(path, "w") as tar:
        link = tarfile.TarInfo("a.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(ValueError, match=r"a\.jpg': it is no regular file"):
        data.load(path)
