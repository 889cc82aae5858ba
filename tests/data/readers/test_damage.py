"""Every reader on damaged files, and beside torchvision."""

from pathlib import Path

import numpy as np
import pytest
from torchvision import datasets

from fastcam import data
from tests.support.datasets import MAKERS, picture, stl10


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
