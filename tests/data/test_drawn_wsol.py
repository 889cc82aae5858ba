"""The drawn localization data set in files: against the pictures it is made of, and as readers find it."""

import numpy as np
import pytest

from fastcam import data
from fastcam.data.drawn_wsol import write_wsol
from fastcam.data.shapes import Shapes

COUNTS = {"train": 16, "val": 8, "test": 12}


@pytest.fixture(scope="module", params=[False, True], ids=["boxes", "masks"])
def drawn(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn")
    return folder, write_wsol(folder, COUNTS, size=48, seed=3, masks=request.param), request.param


@pytest.mark.parametrize("split", COUNTS)
def test_metadata_tell_of_the_pictures_what_they_were_drawn_by(drawn, split):
    folder, names, masked = drawn
    found, expected = data.load(folder, split), Shapes(split, COUNTS[split], 48, seed=3)
    assert data.splits(folder) == sorted(COUNTS)
    assert found.class_names == names
    assert len(found) == len(expected)
    for got, want in zip(found, expected, strict=True):
        assert names[got.label] == expected.class_names[want.label] == got.id.split("/")[1]
        assert np.abs(np.asarray(got.image, int) - want.image).mean() < 16  # a JPEG; of other pictures some 70
        if masked:
            assert got.boxes is None
            np.testing.assert_array_equal(got.mask.astype(bool), want.mask)
        else:
            np.testing.assert_array_equal(got.boxes, want.boxes)


def test_class_folders_are_read_without_metadata_too(drawn):
    folder, names, _ = drawn
    by_folder, by_metadata = (data.load(folder, "test", format=format) for format in ("folder", "wsol"))
    assert by_folder.class_names == names
    assert dict(zip(by_folder.ids, by_folder.labels, strict=True)) == dict(
        zip(by_metadata.ids, by_metadata.labels, strict=True)
    )


def test_fewer_classes_and_the_same_seed(tmp_path):
    assert write_wsol(tmp_path / "a", {"test": 6}, classes=3, size=32) == (
        "checked triangle",
        "dotted heart",
        "striped disc",
    )
    write_wsol(tmp_path / "b", {"test": 4, "val": 3}, classes=3, size=32)
    for path in sorted((tmp_path / "b/test").rglob("*.jpg")):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"counts": {}}, "`counts` must be of some of train, val, test"),
        ({"counts": {"tset": 8}}, "`counts` must be of some of train, val, test"),
        ({"counts": {"test": 7}}, "`test` must be a whole number of at least 8, got 7"),
        ({"counts": {"test": 8}, "classes": 1}, "`classes` must be a whole number of at least 2"),
        ({"counts": {"test": 9}, "classes": 9}, "`classes` must be at most 8, got 9"),
        ({"counts": {"test": 8}, "size": 31}, "`size` must be a whole number of at least 32"),
        ({"counts": {"test": 8}, "seed": -1}, "`seed` must be a whole number of at least 0"),
    ],
)
def test_wrong_use(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        write_wsol(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()
