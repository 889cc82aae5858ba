"""The drawn data set, and folders of class folders."""

import importlib
import pkgutil

import numpy as np
import pytest
from PIL import Image

from fastcam.data import load, readers, shapes
from fastcam.data.loading import FORMATS
from fastcam.data.readers.folder import read_folder
from fastcam.data.shapes import CLASS_NAMES, Shapes
from fastcam.pictures import DecodeError


def test_same_seed_draws_the_same_pictures_in_any_order() -> None:
    forward, backward = Shapes("train", 6, size=64, seed=3), Shapes("train", 9, size=64, seed=3)
    first = [forward[i] for i in range(6)]
    second = [backward[i] for i in reversed(range(6))][::-1]
    for a, b in zip(first, second, strict=True):
        assert a.label == b.label
        assert a.id == b.id
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.boxes, b.boxes)


def test_seeds_splits_and_indices_differ() -> None:
    pictures = [
        Shapes(split, 9, size=32, seed=seed)[index].image.tobytes()
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for index in (0, len(CLASS_NAMES))
    ]
    assert len(set(pictures)) == len(pictures)


@pytest.mark.parametrize("size", [48, 128])
def test_boxes_fit_the_masks_tightly(size: int) -> None:
    data = Shapes("test", 40, size=size)
    for sample in (data[i] for i in range(len(data))):
        assert sample.image.shape == (size, size, 3)
        assert sample.image.dtype == np.uint8
        assert sample.mask.shape == (size, size)
        assert sample.mask.dtype == bool
        assert sample.size == (size, size)
        assert sample.boxes.dtype == np.float32
        x0, y0, x1, y1 = sample.boxes[0].astype(int)
        inside = sample.mask[y0:y1, x0:x1]
        assert inside.sum() == sample.mask.sum()
        for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]):
            assert edge.any()


def test_objects_are_small_scattered_and_of_all_classes() -> None:
    data = Shapes("train", 25 * len(CLASS_NAMES), size=64)
    samples = [data[i] for i in range(len(data))]
    assert np.bincount([s.label for s in samples]).tolist() == [25] * len(CLASS_NAMES)
    boxes = np.concatenate([s.boxes for s in samples]) / 64
    sides, centres = boxes[:, 2:] - boxes[:, :2], (boxes[:, 2:] + boxes[:, :2]) / 2
    assert sides.prod(1).max() < 0.65
    assert sides.prod(1).mean() < 0.26
    assert centres.std(0).min() > 0.1
    aspects = np.log2(sides[:, 0] / sides[:, 1])
    assert aspects.min() < -0.5
    assert aspects.max() > 0.5


def test_a_texture_is_drawn_on_the_object() -> None:
    # Within an object brightness varies, while the distractors are plain: the class is not the outline alone.
    data = Shapes("train", 2 * len(CLASS_NAMES))
    for sample in (data[i] for i in range(len(data))):
        assert sample.image[sample.mask].astype(float).mean(1).std() > 15


@pytest.mark.parametrize("arguments", [("dev", 3), ("train", 0), ("train", 3, 8), ("train", 3, 64, -1)])
def test_shapes_rejects_what_it_cannot_draw(arguments: tuple) -> None:
    with pytest.raises(ValueError, match="must be"):
        Shapes(*arguments)


def test_shapes_ends() -> None:
    data = Shapes("val", 3, size=32)
    assert [sample.label for sample in data] == [0, 1, 2]
    with pytest.raises(IndexError):
        data[3]


def _pictures(folder, count: int, start: int = 0) -> None:
    folder.mkdir(parents=True)
    for i in range(start, start + count):
        Image.new("RGB", (10 + i, 8), (i, 0, 0)).save(folder / f"{i}.png")


def test_a_folder_called_as_the_drawn_data_set_is_not_taken_for_it(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(load("shapes", "val")) == 400  # no such folder: the drawn one
    for name in ("cat", "dog"):
        (tmp_path / "shapes" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "shapes" / name / "0.png")
    with pytest.raises(ValueError, match=r"write \./shapes for the folder"):
        load("shapes", "val")
    assert [len(load(source)) for source in ("./shapes", tmp_path / "shapes")] == [2, 2]
    assert len(load("shapes", format="folder")) == 2
    assert len(load("shapes", "val", format="shapes")) == 400


def test_folder_with_splits(tmp_path) -> None:
    for name in ("train/dog", "train/cat", "val/cat", "val/dog"):
        _pictures(tmp_path / name, 3 if "train" in name else 1)
    train, test = read_folder(tmp_path)
    assert train.class_names == test.class_names == ("cat", "dog")
    assert train.labels == [0, 0, 0, 1, 1, 1]
    assert test.labels == [0, 1]
    assert train[1].id == "train/cat/1.png"
    assert train[1].size == (11, 8)
    assert train[1].label == 0


def test_folder_without_splits_is_divided_the_same_way_each_time(tmp_path) -> None:
    _pictures(tmp_path / "a", 10)
    _pictures(tmp_path / "b" / "deeper", 2)
    train, test = read_folder(tmp_path)
    again = read_folder(tmp_path)
    assert (train.files, test.files) == (again[0].files, again[1].files)
    assert np.bincount(train.labels).tolist() == [8, 1]
    assert np.bincount(test.labels).tolist() == [2, 1]
    assert not set(train.files) & set(test.files)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "at least two classes, got 0"),
        ({"a": 3}, "at least two classes, got 1"),
        ({"a": 3, "b": 0}, "no pictures in .*b"),
        ({"a": 3, "b": 1}, "class b must have"),
        ({"train/a": 1, "train/b": 1}, "none to test on"),
        ({"train/a": 1, "train/b": 1, "val/a": 1, "val/c": 1}, "lacks: c"),
    ],
)
def test_folders_that_cannot_be_trained_on(tmp_path, folders: dict, message: str) -> None:
    for name, count in folders.items():
        _pictures(tmp_path / name, count)
    with pytest.raises(ValueError, match=message):
        read_folder(tmp_path)


def test_missing_folder(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_folder(tmp_path / "nowhere")


def test_damaged_picture_is_named(tmp_path) -> None:
    for name in "ab":
        _pictures(tmp_path / name, 2)
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    parts = read_folder(tmp_path)
    with pytest.raises(DecodeError, match=r"a.0\.png"):
        [part[i] for part in parts for i in range(len(part))]


@pytest.mark.parametrize("fraction", [0, 1, -0.2, 20])
def test_a_share_for_the_test_is_between_0_and_1(fraction, tmp_path) -> None:
    with pytest.raises(ValueError, match=f"`test_fraction` must be between 0 and 1, got {fraction}"):
        read_folder(tmp_path, fraction)


def test_each_reader_is_a_module_with_its_line_in_the_table() -> None:
    modules = [module.name for module in pkgutil.iter_modules(readers.__path__)]
    formats = [importlib.import_module(f"fastcam.data.readers.{name}").FORMAT for name in modules]
    assert len(formats) > 10
    assert set(FORMATS.values()) == {*formats, shapes.FORMAT}
