"""Dogs-vs-cats, STL-10, lists and tar shards, on tiny copies made here, good and malformed; and every reader fuzzed."""

import io
import json
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from torchvision import datasets

from fastcam import data
from fastcam.data.catdog import make_catdog
from fastcam.pictures import DecodeError
from tests.support.commands import run
from tests.support.files import shard, write
from tests.support.layouts import MAKERS, picture


def jpeg(side: int = 8, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, 6), (9, 99, 199)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def catdog(folder: Path, cats=range(5), dogs=range(10, 20)) -> None:
    for kind, numbers in (("cat", cats), ("dog", dogs)):
        for number in numbers:
            picture(folder / f"{kind}.{number}.jpg", (number + 1, 4))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("copy", [False, True])
def test_catdog_is_divided_by_number(tmp_path, copy: bool) -> None:
    catdog(tmp_path / "src/train")
    before = tree(tmp_path / "src")
    made = make_catdog(tmp_path / "src", tmp_path / "out", copy=copy)
    assert made == (12, 3, 15)
    assert make_catdog(tmp_path / "src/train", tmp_path / "out") == (12, 3, 0)
    (tmp_path / "out/test/cat/cat.4.jpg").unlink()
    assert make_catdog(tmp_path / "src", tmp_path / "out").added == 1
    assert tree(tmp_path / "src") == before
    assert (tmp_path / "out/train/cat/cat.0.jpg").is_symlink() is not copy
    train, test = (data.load(tmp_path / "out", split) for split in ("train", "test"))
    assert train.class_names == test.class_names == ("dog", "cat")
    assert data.load(tmp_path / "out", "test", "catdog").ids == test.ids
    assert [Path(id).name for id in test.ids] == ["dog.18.jpg", "dog.19.jpg", "cat.4.jpg"]
    assert test.labels == [0, 0, 1]
    assert train[0].image.size == (11, 4)
    for split, expected in (("train", train), ("val", test)):
        native = data.load(tmp_path / "src", split)
        assert sorted(zip(native.ids, native.labels, strict=True)) == sorted(
            (Path(id).name, label) for id, label in zip(expected.ids, expected.labels, strict=True)
        )


def test_all_of_catdog_is_divided_at_10000(tmp_path) -> None:
    (tmp_path / "train").mkdir()
    for kind in ("cat", "dog"):
        for number in range(12500):
            os.close(os.open(tmp_path / f"train/{kind}.{number}.jpg", os.O_CREAT))
    train, test = (data.load(tmp_path, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (20000, 5000)
    assert max(int(id.split(".")[1]) for id in train.ids) == 9999
    assert {int(id.split(".")[1]) for id in test.ids} == set(range(10000, 12500))


def test_catdog_from_a_zip_file(tmp_path) -> None:
    catdog(tmp_path / "train", range(5), range(5))
    with zipfile.ZipFile(tmp_path / "train.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.mkdir("train")
        for path in sorted((tmp_path / "train").iterdir()):
            archive.write(path, f"train/{path.name}")
    pictures = {name: content for name, content in tree(tmp_path / "train").items()}
    for _ in range(2):
        made = make_catdog(tmp_path / "train.zip", tmp_path / "out")
    assert made == (8, 2, 0)
    assert {Path(name).name: content for name, content in tree(tmp_path / "out").items()} == pictures | {
        "classes.txt": b"dog\ncat\n"
    }


@pytest.mark.parametrize(
    "name",
    ["../cat.9.jpg", "/cat.9.jpg", "train/../../cat.9.jpg", "train/cat.x.jpg", "test1/1.jpg", "train/cat.01.jpg"],
)
def test_zip_files_cannot_write_elsewhere(tmp_path, name: str) -> None:
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for good in ("cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg", name):
            archive.writestr(good, b"x")
    with pytest.raises(ValueError, match=r"train\.zip: expected members such as train/cat\.0\.jpg, got"):
        make_catdog(tmp_path / "train.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_zip_file(tmp_path) -> None:
    path = tmp_path / "src/train.zip"
    path.parent.mkdir()
    path.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"train\.zip: File is not a zip file"):
        make_catdog(path.parent, tmp_path / "out")
    with pytest.raises(ValueError, match="unpacked first: fastcam data catdog"):
        data.load(path.parent)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("cat.0.jpg", "cat.1.jpg", "dog.0.jpg", "dog.1.jpg"):
            archive.writestr(name, jpeg())
    content = path.read_bytes()
    path.write_bytes(content[:60] + bytes([content[60] ^ 255]) + content[61:])
    with pytest.raises(ValueError, match=r"train\.zip: cat\.0\.jpg: "):
        make_catdog(path.parent, tmp_path / "out")
    rng = np.random.default_rng(0)
    refused = 0
    for round in range(120):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            damaged[place] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            make_catdog(path, tmp_path / f"out{round}")
        except ValueError as error:
            refused += "train.zip" in str(error)
    assert refused > 80


def test_catdog_refuses(tmp_path) -> None:
    source = tmp_path / "src/train"
    catdog(source)
    for out in (source, tmp_path / "src", tmp_path / "src/out"):
        with pytest.raises(ValueError, match="must be outside of"):
            make_catdog(source if out != tmp_path / "src/out" else tmp_path / "src", out)
    make_catdog(source, tmp_path / "out")
    picture(tmp_path / "out/train/cat/other.jpg")
    with pytest.raises(FileExistsError, match=r"other\.jpg is none of the pictures"):
        make_catdog(source, tmp_path / "out")
    (tmp_path / "out/train/cat/other.jpg").unlink()
    (tmp_path / "out/train/cat/cat.0.jpg").unlink()
    (tmp_path / "out/train/cat/cat.0.jpg").write_bytes(b"else")
    with pytest.raises(FileExistsError, match=r"cat\.0\.jpg is another file"):
        make_catdog(source, tmp_path / "out")
    (tmp_path / "out/classes.txt").write_text("cat\ndog\n")
    with pytest.raises(FileExistsError, match="lists other classes than dog and cat"):
        make_catdog(source, tmp_path / "out")
    picture(source / "cow.1.jpg")
    with pytest.raises(ValueError, match=r"expected names such as cat\.0\.jpg and dog\.0\.jpg, got 'cow\.1\.jpg'"):
        make_catdog(source, tmp_path / "new")
    bad: list = []
    assert len(data.load(source, bad=bad)) == 15
    assert [id for id, _ in bad] == ["cow.1.jpg"]
    catdog(tmp_path / "few", range(2), range(1))
    with pytest.raises(ValueError, match=r"two or more pictures dog\.0\.jpg, .*, got 1"):
        make_catdog(tmp_path / "few", tmp_path / "new")
    with pytest.raises(FileNotFoundError, match=r"nowhere is no folder with train/ or train.zip"):
        make_catdog(tmp_path / "nowhere", tmp_path / "new")


def test_names_that_are_not_utf8(tmp_path) -> None:
    catdog(tmp_path)
    name = os.fsdecode(b"cat.\xff.jpg")
    (tmp_path / name).touch()
    with pytest.raises(ValueError, match=r"got 'cat\.\\udcff\.jpg'"):
        data.load(tmp_path)
    for kind in ("cat", "dog"):
        picture(tmp_path / f"folders/{kind}/1.jpg")
    os.rename(tmp_path / name, tmp_path / "folders/cat" / name)
    with pytest.raises(ValueError, match="not UTF-8"):
        data.load(tmp_path / "folders")


def stl10(folder: Path, count: int = 12) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
    for split in ("train", "test", "unlabeled"):
        pixels.tofile(folder / f"{split}_X.bin")
    for split in ("train", "test"):
        (1 + np.arange(count) % 10).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    write(folder / "fold_indices.txt", "".join(f"{i} {i + 1} \n" for i in range(10)))
    return pixels.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # as the data set's authors read it


def test_stl10(tmp_path) -> None:
    pictures = stl10(tmp_path / "stl10_binary")
    train = data.load(tmp_path, "train")
    assert len(train) == 12
    assert train.class_names[:2] == ("airplane", "bird")
    for found in (train, pickle.loads(pickle.dumps(train))):
        sample = found[11]
        np.testing.assert_array_equal(sample.image, pictures[11].transpose(1, 2, 0))
        assert sample.image.dtype == np.uint8
        assert (sample.label, sample.size, sample.id) == (1, (96, 96), "train/000011")
    fold = data.load(tmp_path / "stl10_binary", "fold3")
    assert fold.ids == ["train/000003", "train/000004"]
    assert fold.labels == [3, 4]
    np.testing.assert_array_equal(fold[1].image, train[4].image)
    assert fold.truth(0) == (None, 3, None, None, (96, 96), "train/000003")
    assert data.load(tmp_path, "unlabeled")[0].label is None
    assert data.load(tmp_path, "val").ids[0] == "test/000000"
    with pytest.raises(ValueError, match="choose a split; it has train, test, unlabeled, fold0"):
        data.load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "split", "message"),
    [
        ("train_X.bin", b"", "train", "expected 27648 bytes"),
        ("train_X.bin", b"123", "train", "expected 27648 bytes .* got 3"),
        ("train_y.bin", None, "train", "no file .*train_y.bin"),
        ("train_y.bin", b"\1", "train", "train_y.bin: expected 12 labels of one byte, got 1"),
        ("train_y.bin", b"\1\2\0" * 4, "train", "train_y.bin: byte 2: expected a class from 1 to 10, got 0"),
        ("class_names.txt", b"cat\n", "train", "class_names.txt: expected 10 names, got 1"),
        ("fold_indices.txt", None, "fold0", "no file .*fold_indices.txt"),
        ("fold_indices.txt", b"0 1\n0 12\n", "fold1", "fold_indices.txt:2: expected different numbers from 0 to 11"),
        ("fold_indices.txt", b"0 1\n", "fold1", "got 1, none for fold 1"),
        ("fold_indices.txt", b"0 x\n", "fold0", "fold_indices.txt:1: expected different numbers"),
        ("fold_indices.txt", b"", "fold11", "no split 'fold11'"),
    ],
)
def test_malformed_stl10(tmp_path, file: str, content: bytes | None, split: str, message: str) -> None:
    stl10(tmp_path)
    (tmp_path / file).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(tmp_path, split)


ROWS = """path,label,x0,y0,x1,y1,width,height,split,note
b.jpg,owl,1,2,3.5,4,40,30,train,"one, two"
a.jpg,auk,,,,,40,30,val,
b.jpg,owl,5,6,40,30,40,30,train,
"c, d.jpg",owl,0,0,1,1,40,30,val,
"""


def listed(folder: Path, rows: str = ROWS) -> Path:
    for name in ("a.jpg", "b.jpg", "c, d.jpg"):
        picture(folder / name)
    write(folder / "list.csv", rows)
    return folder / "list.csv"


def test_lists(tmp_path) -> None:
    path = listed(tmp_path)
    found = data.load(path)
    assert found.ids == ["b.jpg", "a.jpg", "c, d.jpg"]
    assert found.labels == [1, 0, 1]
    assert found.class_names == ("auk", "owl")
    assert found[0].boxes.tolist() == [[1, 2, 3.5, 4], [5, 6, 40, 30]]
    assert found[1].boxes.shape == (0, 4)
    assert found.truth(2).size == (40, 30)
    assert data.load(path, "test").ids == ["a.jpg", "c, d.jpg"]
    # The same as Parquet, with numbers, and empty cells as nulls.
    columns = {
        "image_id": ["b.jpg", "a.jpg", "b.jpg", "c, d.jpg"],
        "class_id": pa.array([1, 0, 1, 1], pa.int32()),
        **{
            edge: pa.array(values, pa.float32())
            for edge, values in zip(
                ("x0", "y0", "x1", "y1"),
                ([1, None, 5, 0], [2, None, 6, 0], [3.5, None, 40, 1], [4, None, 30, 1]),
                strict=True,
            )
        },
    }
    pq.write_table(pa.table(columns), tmp_path / "list.parquet")
    write(tmp_path / "classes.txt", "auk\nowl\n")
    again = data.load(tmp_path / "list.parquet")
    assert again.class_names == found.class_names
    for i in range(3):
        assert again.truth(i)._replace(boxes=None) == found.truth(i)._replace(boxes=None)
        np.testing.assert_array_equal(again[i].boxes, found[i].boxes)
    write(tmp_path / "list.txt", "c, d.jpg\na.jpg\n")
    plain = data.load(tmp_path / "list.txt")
    assert plain.ids == ["c, d.jpg", "a.jpg"]
    assert plain[0].label is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("path,", "file,", "list.csv:1: expected columns path"),
        ("x0,", "x9,", "list.csv:1: expected all of x0, y0, x1, y1 or none"),
        ("note", "path", "list.csv:1: expected columns path, .* each once"),
        ("a.jpg,auk", "a.jpg", "list.csv:3: expected 10 columns, got 9"),
        ("a.jpg,auk", "a.jpg,", "list.csv:3: expected a label, got none"),
        ("a.jpg,auk", "/a.jpg,auk", "list.csv:3: an id must be a relative path"),
        ("a.jpg,auk", "x/../a.jpg,auk", "list.csv:3: an id must be a relative path"),
        ("a.jpg,auk", ",auk", "list.csv:3: an id must be a relative path"),
        ("a.jpg,auk", "z.jpg,auk", "no picture .*z.jpg"),
        ("a.jpg,auk", "a\udcff.jpg,auk", "list.csv:3: expected UTF-8"),
        ("a.jpg,auk", 'a".jpg",auk', "no picture"),
        ("a.jpg,auk", '"a.jpg,auk', "list.csv:3: expected a row of CSV"),
        ("a.jpg,auk", "b.jpg,owl", "list.csv:3: b.jpg comes twice"),
        ("a.jpg,auk", "a.jpg,auk,,,,,40,30,val,\na.jpg,auk", "list.csv:4: a.jpg comes twice"),
        ("b.jpg,owl,5", "b.jpg,auk,5", "list.csv:4: another label or size of b.jpg than in .*list.csv:2"),
        ("5,6,40", "5,6,x", "list.csv:4: expected x0, y0, x1, y1, four numbers"),
        ("5,6,40", "5,6,nan", "list.csv:4: expected x0, y0, x1, y1, four numbers"),
        ("5,6,40", "5,6,", "list.csv:4: expected x0, y0, x1, y1, four numbers"),
        ("5,6,40", "5,6,4", "list.csv:2: box 5, 6, 4, 30 ends before it begins"),
        ("5,6,40", "5,6,42", "list.csv:2: box 5, 6, 42, 30 lies outside the picture of 40x30"),
        ("40,30,val", "40,x,val", "list.csv:3: expected width and height"),
        (ROWS, "path\n", "has no pictures"),
        (ROWS, "\n", "has no pictures"),
    ],
)
def test_malformed_lists(tmp_path, old: str, new: str, message: str) -> None:
    path = listed(tmp_path)
    path.write_bytes(ROWS.replace(old, new).encode("utf-8", "surrogateescape"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(path)


def test_malformed_parquet(tmp_path) -> None:
    path = tmp_path / "list.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(ValueError, match=r"list\.parquet: "):
        data.load(path)
    for column, message in (([1, 2], "row 0: expected path to be a text, got 1"), ([None, "a"], "got None")):
        pq.write_table(pa.table({"path": column}), path)
        with pytest.raises(ValueError, match=message):
            data.load(path)


GOOD = {
    "./n/a.jpg": jpeg(10),
    "./n/a.cls": b"2\n",
    "./n/a.pyd": b"cos\nsystem\n(S'exit 1'\ntR.",
    "n/b.JPEG": jpeg(12),
    "n/b.json": json.dumps({"label": 0, "boxes": [[1, 2, 3.5, 4]], "width": 24, "height": 12}).encode(),
    "n/b.seg.png": b"ignored",
}


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


def test_info(tmp_path) -> None:
    MAKERS["wsol"](tmp_path)
    found = data.info(tmp_path, progress=False)
    assert found.classes == [("cat", 1), ("dog", 0), ("owl", 1)]
    assert (found.pictures, found.resized, found.boxed, found.masked) == (2, 2, 2, 0)
    assert (found.width, found.height) == ((10, 10, 10), (10, 10, 10))
    assert found.boxes == (1, 1.5, 2)
    np.testing.assert_allclose(found.box_share, (1.5 * 2 / 1200, 2 * 2 / 1000, 40 * 29 / 1200))
    assert (found.malformed, found.damaged) == ([], [])
    told = data.info(tmp_path, decode=False, progress=False)
    assert (told.width, told.height, told.resized) == ((40, 45, 50), (20, 25, 30), 0)
    (tmp_path / "val/ü.jpg").write_bytes(jpeg()[:100])
    (tmp_path / "val/a, b.jpg").unlink()
    found = data.info(tmp_path, progress=False)
    assert [id for id, _ in found.malformed] == ["val/a, b.jpg"]
    assert [id for id, _ in found.damaged] == ["val/ü.jpg"]
    assert found.width is None
    assert "malformed       1" in found.lines()
    drawn = data.info("shapes", "val", progress=False)
    assert drawn.masked == drawn.boxed == 400
    share = [data.load("shapes", "val").truth(i).mask.mean() for i in range(400)]
    np.testing.assert_allclose(drawn.mask_share, (np.min(share), np.median(share), np.max(share)))


def test_torchvision_reads_the_same(tmp_path, monkeypatch) -> None:
    MAKERS["voc"](tmp_path / "VOCdevkit")
    for split in ("train", "val"):
        theirs = datasets.VOCDetection(tmp_path, "2012", split)
        ours = data.load(tmp_path / "VOCdevkit", split)
        assert len(theirs) == len(ours)
        for index, (image, told) in enumerate(theirs):
            told = told["annotation"]
            sample = ours[index]
            assert (sample.id, sample.image.size) == (told["filename"], image.size)
            corners = [[int(item["bndbox"][c]) for c in ("xmin", "ymin", "xmax", "ymax")] for item in told["object"]]
            assert all(np.add(box, (1, 1, 0, 0)).tolist() in corners for box in sample.boxes)
            assert ours.class_names[sample.label] in {item["name"] for item in told["object"]}

    stl10(tmp_path / "stl10_binary")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda self: True)  # of the whole data set
    for split, folds in (("train", None), ("train", 3), ("test", None), ("unlabeled", None)):
        theirs = datasets.STL10(tmp_path, split, folds)
        ours = data.load(tmp_path, split if folds is None else f"fold{folds}")
        assert len(theirs) == len(ours)
        for index, (image, label) in enumerate(theirs):
            np.testing.assert_array_equal(ours[index].image, image)
            assert label == (-1 if ours[index].label is None else ours[index].label)

    for name in ("train/b/1.jpg", "train/a/2.jpg", "train/a/x/3.jpg", "val/b/4.jpg", "val/a/5.jpg"):
        picture(tmp_path / "folders" / name)
    for split in ("train", "val"):
        theirs = datasets.ImageFolder(tmp_path / "folders" / split)
        ours = data.load(tmp_path / "folders", split)
        assert theirs.samples == [(str(file), label) for file, label in zip(ours.files, ours.labels, strict=True)]
        assert tuple(theirs.classes) == ours.class_names


def test_catdog_on_the_command_line(tmp_path) -> None:
    catdog(tmp_path / "src/train")
    for added in (15, 0):
        result = run("data", "catdog", tmp_path / "src", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert f"12 pictures to train on, 3 to test on, in {tmp_path / 'out'}; {added} were added" in result.stdout
    result = run("data", "catdog", tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("fastcam: ")
    assert result.stderr.count("\n") == 1


def test_info_on_the_command_line(tmp_path) -> None:
    MAKERS["cub"](tmp_path)
    result = run("data", "info", "cub", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("train:\npictures        1\n")
    assert "test:\npictures        2\n" in result.stdout
    lines = run("data", "info", tmp_path, "--split", "test").stdout.splitlines()
    assert run("data", "info", "auto", tmp_path, "--split", "val").stdout.splitlines() == ["val:", *lines[1:]]
    (tmp_path / "images/001.Auk/a.jpg").write_bytes(b"no picture")
    result = run("data", "info", "cub", tmp_path, "--json")
    assert result.exit_code == 3
    assert "fastcam: 001.Auk/a.jpg: unsupported: " in result.stderr
    told = json.loads(result.stdout)
    assert (told["test"]["pictures"], told["test"]["height"]["most"]) == (2, 30)
    result = run("data", "info", "wsol", tmp_path)
    assert result.exit_code == 2
    assert "does not look like wsol: image_ids.txt" in result.stderr
    assert run("data", "info", "shapes", "--split", "val", "--no-decode").exit_code == 0


MAKERS = MAKERS | {
    "stl10": stl10,
    "list": listed,
    "webdataset": lambda folder: shard(folder / "x.tar", GOOD),
    "catdog": catdog,
}


@pytest.mark.parametrize("maker", MAKERS)
def test_damage_is_told_and_never_breaks_a_reader(tmp_path, maker: str) -> None:
    place = MAKERS[maker](tmp_path)
    source = place if isinstance(place, Path) else tmp_path
    rng = np.random.default_rng(0)
    files = [path for path in sorted(tmp_path.rglob("*")) if path.is_file() and path.suffix not in (".jpg", ".JPEG")]
    refused = 0
    for round in range(150):
        path = files[round % len(files)] if files else tmp_path / "cat.0.jpg"
        content = path.read_bytes()
        damaged = bytearray(content)
        for place in rng.integers(0, max(1, min(len(content), 3000)), rng.integers(1, 4)) if content else ():
            damaged[place] = rng.choice([0, 10, 32, 34, 44, 45, 46, 47, 57, 60, 91, 255, rng.integers(256)])
        path.write_bytes(damaged[: rng.integers(len(damaged) + 1)] if rng.random() < 0.2 else damaged)
        try:
            found = data.load(source, "train" if maker == "stl10" else "val" if maker in ("ilsvrc", "masks") else None)
            [found.truth(index) for index in range(len(found))]
        except (ValueError, FileNotFoundError) as error:
            refused += bool(str(error))
        path.write_bytes(content)
    assert refused or maker == "catdog"
