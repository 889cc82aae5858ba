"""STL-10, good and malformed."""

import pickle

import numpy as np
import pytest

from fastcam import data
from tests.support.datasets import stl10


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
    assert fold.truth(0) == data.Sample(None, 3, size=(96, 96), id="train/000003")
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
