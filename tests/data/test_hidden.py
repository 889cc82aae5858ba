"""Pictures lost or invented: hidden files and folders, and members of tar shards whose names have dots."""

import io
import json
import tarfile
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastcam import data, models
from fastcam.data.catdog import make_catdog
from fastcam.models import ModelConfig
from fastcam.pictures import find_pictures
from fastcam.pictures.finding import hidden
from tests.support.commands import run
from tests.support.files import shard, write

APPLE = bytes.fromhex("0005160700020000") + b"Mac OS X        " + bytes(40)


def png(seed: int = 0, size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    models.save_checkpoint(path, models.build("resnet18", 2), ModelConfig("resnet18", 2, size=32))
    return path


def found(*paths: Path) -> tuple[list[str], Counter]:
    ignored: Counter[str] = Counter()
    return [id for id, _ in find_pictures(paths, ignored)], ignored


@pytest.mark.parametrize(
    "name",
    [".a.png", "._a.png", ".ipynb_checkpoints", "__MACOSX", ".Trash-1000", "@eaDir", "$RECYCLE.BIN", "Thumbs.db"],
)
def test_hidden(name):
    assert hidden(name)
    assert not hidden(name.lstrip("._$@") + "x")
    assert not any(map(hidden, ("a.png", "..", ".", "_a.png", "a.b.png", "MACOSX", "")))


HIDDEN = {
    ".ipynb_checkpoints/0-checkpoint.png": ".png in .ipynb_checkpoints",
    "deep/.thumbnails/x/0.PNG": ".png in .thumbnails",
    "__MACOSX/._0.jpg": ".jpg in __MACOSX",
    "@eaDir/0.jpg/thumb.jpg": ".jpg in @eaDir",
    "$RECYCLE.BIN/0.jpg": ".jpg in $RECYCLE.BIN",
    ".Trash-1000/files/0.jpg": ".jpg in .Trash-1000",
    "deep/._0.png": "hidden .png",
    ".0.jpeg": "hidden .jpeg",
    ".DS_Store": "",
    "Thumbs.db": ".db",
}


def test_hidden_files_are_no_pictures_but_counted(tmp_path):
    for name in ("0.png", "deep/0.png", *HIDDEN):
        write(tmp_path / name)
    assert found(tmp_path) == (["0.png", "deep/0.png"], Counter(HIDDEN.values()))


def test_what_is_hidden_and_named_is_taken(tmp_path):
    for name in (".cache/x/0.png", ".cache/.y/1.png", ".2.png", "3.png"):
        write(tmp_path / name)
    assert found(tmp_path / ".cache") == (["x/0.png"], {".png in .y": 1})
    assert found(tmp_path / ".cache/x")[0] == ["0.png"]  # below a hidden folder
    assert found(tmp_path / ".cache/.y")[0] == ["1.png"]
    assert found(tmp_path / ".2.png")[0] == [".2.png"]
    # Beside the folder that it lies in, too.
    assert found(tmp_path, tmp_path / ".2.png", tmp_path / ".cache/.y")[0] == ["3.png", ".2.png", ".cache/.y/1.png"]
    write(tmp_path / "only/.thumbs/0.png")
    with pytest.raises(ValueError, match=r"no pictures in .*only: .* below; 1 are hidden, which must be named"):
        found(tmp_path / "only")


def classes(folder: Path) -> Path:
    for number in range(4):
        for name in ("cat", "dog"):
            write(folder / name / f"{number}.png", png(number))
    return folder


COPIES = {
    "jupyter": (["cat/.ipynb_checkpoints/0-checkpoint.png"], {".png in .ipynb_checkpoints": 1}),
    "mac": (["cat/._1.png", "dog/.DS_Store"], {"hidden .png": 1, "": 1}),
    "zip": (["__MACOSX/cat/._1.png", "__MACOSX/dog/._1.png"], {".png outside of class folders": 2}),
    "nas": (["@eaDir/x.png", "cat/@eaDir/1.png/thumb.jpg"], {".png outside of class folders": 1, ".jpg in @eaDir": 1}),
    "windows": (["$RECYCLE.BIN/x.png", "dog/Thumbs.db"], {".png outside of class folders": 1, ".db": 1}),
}


@pytest.mark.parametrize("kind", COPIES)
def test_class_folders(tmp_path, weights, kind):
    copies, counted = COPIES[kind]
    for name in copies:
        write(classes(tmp_path / "in") / name, APPLE)
    read = data.load(tmp_path / "in")
    assert (len(read), read.class_names, read.ignored) == (8, ("cat", "dog"), counted)
    assert data.info(tmp_path / "in", progress=False).ignored == counted
    every = [*data.load(tmp_path / "in", "train").ids, *data.load(tmp_path / "in", "val").ids]
    assert sorted(every) == sorted(f"{name}/{i}.png" for name in ("cat", "dog") for i in range(4))
    options = ["--weights", weights, "--device", "cpu", "--out"]
    result = run("localize", tmp_path / "in", *options, tmp_path / "out")  # without classes: all folders are searched
    assert (result.exit_code, len(pq.read_table(tmp_path / "out/boxes.parquet"))) == (0, 8)
    assert "fastcam: files passed over: " in result.stderr


def test_training_and_explaining_tell_what_they_pass_over(tmp_path, weights):
    for name in ("cat/._1.png", "dog/.thumbnails/2.png"):
        write(classes(tmp_path / "in") / name, APPLE)
    said = "fastcam: files passed over: 1 .png in .thumbnails, 1 hidden .png\n"
    options = ["--arch", "resnet18", "--size", "32", "--epochs", "1", "--batch-size", "4", "--device", "cpu"]
    result = run("train", tmp_path / "in", *options, "--out", tmp_path / "model")
    assert (result.exit_code, result.stderr.endswith(said)) == (0, True), result.output
    options = ["--weights", weights, "--size", "64", "--device", "cpu", "--out", tmp_path / "figures"]
    result = run("explain", tmp_path / "in", *options)
    assert (result.exit_code, result.stderr) == (0, said), result.output
    told = run("data", "info", "folder", tmp_path / "in").stdout
    assert "passed over     1 .png in .thumbnails, 1 hidden .png" in told


def xml(name: str) -> str:
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    return f"<annotation><object><name>{name}</name>{box}</object></annotation>"


def test_voc(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"JPEGImages/{name}.jpg", png())
    write(tmp_path / "Annotations/a.xml", xml("cat"))
    write(tmp_path / "Annotations/b.XML", xml("dog"))
    write(tmp_path / "Annotations/._a.xml", APPLE)
    write(tmp_path / "Annotations/.ipynb_checkpoints/a-checkpoint.xml", xml("cow"))
    write(tmp_path / "JPEGImages/._a.jpg", APPLE)
    write(tmp_path / "ImageSets/Main/val.txt", "b\n")
    write(tmp_path / "ImageSets/Main/.val.txt", "x\n")
    read = data.load(tmp_path)
    assert (read.ids, read.class_names, read.ignored) == (["a.jpg", "b.jpg"], ("cat", "dog"), {"hidden .xml": 2})
    assert data.splits(tmp_path) == ["val"]
    assert data.load(tmp_path, "val").ids == ["b.jpg"]


def test_ilsvrc(tmp_path):
    for name in ("n02/n02_1.JPEG", "n01/n01_1.jpeg", "n01/n01_2.png"):
        write(tmp_path / "Data/CLS-LOC/train" / name, png())
    for name in (".DS_Store", "n01/._n01_1.JPEG", ".thumbnails/n03_1.JPEG"):
        write(tmp_path / "Data/CLS-LOC/train" / name, APPLE)
    read = data.load(tmp_path)
    assert (read.ids, read.class_names) == (["n01/n01_1.jpeg", "n02/n02_1.JPEG"], ("n01", "n02"))
    assert read.ignored == {"hidden .jpeg": 1, ".png": 1}


def test_masks(tmp_path):
    for name in ("a.jpg", "a_x.PNG", "b.jpg", "b.png"):
        write(tmp_path / f"val/{name[0]}/{name}", png())
    write(tmp_path / "val/a/a_ignore.png", png())
    write(tmp_path / "val/a/._a_x.png", APPLE)
    write(tmp_path / "val/a/.ipynb_checkpoints/b-checkpoint.png", png())
    read = data.load(tmp_path, format="masks")
    assert read.ids == ["a/a.jpg", "b/b.jpg"]
    assert [len(objects) for objects, _ in read.masks] == [1, 1]
    assert read.ignored == {"hidden .png": 1, ".png in .ipynb_checkpoints": 1}


def test_catdog(tmp_path):
    members = {f"train/{kind}.{i}.jpg": png(i) for kind in ("cat", "dog") for i in range(3)}
    for name, content in {**members, "train/._cat.0.jpg": APPLE}.items():
        write(tmp_path / "in" / name, content)
    read = data.load(tmp_path / "in", format="catdog")
    assert (len(read), read.ignored) == (6, {"hidden .jpg": 1})
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for name, content in {**members, "__MACOSX/train/._cat.0.jpg": APPLE}.items():
            archive.writestr(name, content)
    assert make_catdog(tmp_path / "train.zip", tmp_path / "out").added == 6


def test_hidden_files_of_data_sets_are_none(tmp_path):
    shard(tmp_path / "shards/train-0.TAR", {"a.png": png()})
    write(tmp_path / "shards/._train-0.tar", APPLE)
    assert data.load(tmp_path / "shards").ids == ["train-0.TAR/a.png"]
    for name in ("image_ids", "class_labels", "image_sizes", "localization"):
        row = {"image_ids": "", "class_labels": ",0", "image_sizes": ",32,32", "localization": ",1,1,9,9"}[name]
        for place in ("val", ".ipynb_checkpoints"):
            write(tmp_path / f"wsol/{place}/{name}.txt", f"a.png{row}\n")
    write(tmp_path / "wsol/a.png", png())
    assert data.splits(tmp_path / "wsol") == ["val"]


# Members of tar shards


def read_shard(tmp_path: Path, *names: str, **contents: bytes) -> data.Pictures:
    members = {name: b"1" if name.endswith((".cls", ".CLS")) else png(len(name)) for name in names}
    return data.load(shard(tmp_path / "s.tar", members))


@pytest.mark.parametrize(
    ("members", "ids", "labels", "ignored"),
    [
        (["v1.0_0.png", "v1.0_1.png", "z.png"], ["v1.0_0.png", "v1.0_1.png", "z.png"], None, {}),
        (["v1.0_x.png", "v1.0_x.cls", "z.png", "z.cls"], ["v1.0_x.png", "z.png"], [1, 1], {}),
        (["v1.0_x.cls", "v1.0_x.png", "v1.0_x.seg.png"], ["v1.0_x.png"], [1], {".png": 1}),
        (["a.jpg", "a.seg.png", "a.cls"], ["a.jpg"], [1], {".png": 1}),
        (["a.rgb.jpg", "a.cls"], ["a.rgb.jpg"], [1], {}),
        (["a.left.jpg", "a.right.jpg", "b.jpg"], ["b.jpg"], None, {".jpg": 2}),
        (["d.jones.jpg", "d.jones.cls", "d.smith.JPG", "d.smith.CLS"], ["d.jones.jpg", "d.smith.JPG"], [1, 1], {}),
        (["a.smith.jpg", "a.mask.png"], ["a.smith.jpg"], None, {".png": 1}),
        (["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"], ["cat.0.jpg", "cat.1.jpg", "dog.0.jpg"], None, {}),
        (["2024-01-01 10.30.15.jpg", "2024-01-01 10.30.16.jpg"], None, None, {}),
        (["x.tar.gz.png", "a.PNG", "A.png"], ["x.tar.gz.png", "a.PNG", "A.png"], None, {}),
        (["v1.0/a.png", "v1.0/b.png", "././v1.0/./c.png"], ["v1.0/a.png", "v1.0/b.png", "v1.0/c.png"], None, {}),
        (["._a.png", "a.png", "._a.cls", "a.cls"], ["a.png"], [1], {".png": 1, ".cls": 1}),
        (["__MACOSX/._a.png", ".x/b.png", "a.png", ".png"], ["a.png"], None, {".png": 2, "": 1}),
    ],
)
def test_members(tmp_path, members, ids, labels, ignored):
    read = read_shard(tmp_path, *members)
    assert read.ids == [f"s.tar/{name}" for name in ids or members]
    assert (read.labels, {kind: count for kind, count in read.ignored.items() if count}) == (labels, ignored)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (["a.cls", "a.jones.jpg", "a.smith.jpg"], r"a\.cls: .* one picture .*, got a\.jones\.jpg and a\.smith\.jpg"),
        (["a.cls", "a.smith.jpg", "a.smith.cls"], r"a\.smith\.cls: another cls of the same sample"),
        (["v1.0_x.png", "v1.0.cls"], r"v1\.0\.cls: no picture of this sample"),
        (["a.png", "./a.png"], "another picture of the same sample"),
    ],
)
def test_members_whose_sample_cannot_be_told(tmp_path, members, message):
    with pytest.raises(ValueError, match=message):
        read_shard(tmp_path, *members)


def test_long_names_of_members(tmp_path):
    for form in ("NFC", "NFD"):
        name = unicodedata.normalize(form, f"{'möwe' * 40}/v1.0_é.png")
        members = {name: png(), name.replace(".png", ".json"): json.dumps({"label": 1}).encode()}
        for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            read = data.load(shard(tmp_path / "s.tar", members, format=kind))
            assert (read.ids, read.labels) == ([f"s.tar/{name}"], [1])
            assert read[0].image.size == (32, 32)


def test_texts_of_members_with_byte_order_marks(tmp_path):
    members = {"a.png": png(), "a.cls": b"\xef\xbb\xbf1\r\n", "b.png": png(), "b.json": b'\xef\xbb\xbf{"label": 0}'}
    assert data.load(shard(tmp_path / "s.tar", members)).labels == [1, 0]
    with pytest.raises(ValueError, match=r"a\.cls: expected UTF-8, got UTF-16"):
        data.load(shard(tmp_path / "s.tar", {**members, "a.cls": "1".encode("utf-16")}))


def test_every_picture_of_a_shard_is_localized(tmp_path, weights):
    names = [f"v{i}.{j}_x.png" for i in range(2) for j in range(2)]
    path = shard(tmp_path / "s.tar", {**dict.fromkeys(names, png()), "._v0.png": APPLE})
    options = ["--format", "webdataset", "--weights", weights, "--size", "64", "--device", "cpu"]
    result = run("localize", path, *options, "--out", tmp_path / "o")
    assert (result.exit_code, result.stderr) == (0, "fastcam: files passed over: 1 .png\n")
    assert pq.read_table(tmp_path / "o/boxes.parquet")["image_id"].to_pylist() == [f"s.tar/{name}" for name in names]
