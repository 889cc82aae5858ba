"""Dogs-vs-cats as folders and as a zip file, divided; good and malformed."""

import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fastcam import data
from fastcam.data.catdog import make_catdog
from tests.support.datasets import catdog, jpeg, picture


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
