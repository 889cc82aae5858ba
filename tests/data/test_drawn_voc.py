"""The drawn data set in Pascal VOC's layout: its files against each other, and as readers find them."""

import xml.etree.ElementTree as ET

import cv2
import numpy as np
import pytest
from PIL import Image

from fastcam import data
from fastcam.data.drawn_voc import NAMES, write_voc
from fastcam.data.segments import IGNORED

SIZE = 96
COUNTS = {"train": 24, "val": 8, "test": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drawn") / "voc"
    assert write_voc(folder, COUNTS, size=SIZE, seed=3) == NAMES
    return folder


def _objects(folder, id: str) -> list[tuple[str, list[int]]]:
    root = ET.parse(folder / "Annotations" / f"{id[:-4]}.xml").getroot()
    corners = ("xmin", "ymin", "xmax", "ymax")
    return [(o.findtext("name"), [int(o.findtext(f"bndbox/{name}")) for name in corners]) for o in root.iter("object")]


def _truth(folder, id: str) -> np.ndarray:
    return np.array(Image.open(folder / "SegmentationClass" / f"{id[:-4]}.png"))


@pytest.mark.parametrize("split", COUNTS)
def test_readers_find_all_of_it(folder, split):
    found = data.load(folder, split)
    assert len(found) == COUNTS[split]
    assert found.class_names == NAMES == found.segments.names
    for sample in found:
        assert (sample.image.size, sample.size) == ((SIZE, SIZE), (SIZE, SIZE))
        objects = _objects(folder, sample.id)
        assert 1 <= len(objects) <= 4
        assert NAMES[sample.label] in {name for name, _ in objects}


def test_class_pngs_have_just_the_classes_of_the_annotations_within_their_boxes(folder):
    classes, several, pictures = set(), 0, data.load(folder, "train").ids
    for id in pictures:
        truth, objects = _truth(folder, id), _objects(folder, id)
        there = {int(value) for value in np.unique(truth)} - {0, IGNORED}
        assert there == {NAMES.index(name) + 1 for name, _ in objects}
        inside = np.zeros_like(truth, bool)
        for _, (x0, y0, x1, y1) in objects:  # which count from 1 and are included
            inside[y0 - 1 : y1, x0 - 1 : x1] = True
        assert not truth[~inside][truth[~inside] != IGNORED].any()
        classes |= there
        several += len(there) > 1
    assert classes == set(range(1, len(NAMES) + 1))
    assert len(pictures) / 3 < several < len(pictures)


def test_borders_are_to_be_ignored_and_nothing_else(folder):
    """Where two classes meet, or an object and the background, there is always some of 255 between."""
    for id in data.load(folder, "val").ids:
        truth = _truth(folder, id)
        across = (truth[:, :-1] != truth[:, 1:]) & (truth[:, :-1] != IGNORED) & (truth[:, 1:] != IGNORED)
        down = (truth[:-1] != truth[1:]) & (truth[:-1] != IGNORED) & (truth[1:] != IGNORED)
        assert not across.any()
        assert not down.any()
        thick = cv2.erode((truth == IGNORED).astype(np.uint8), np.ones((5, 5), np.uint8))
        assert not thick.any()


def test_class_pngs_have_the_palette_of_pascal_voc(folder):
    colours = np.array(Image.open(folder / "SegmentationClass/val_00000.png").getpalette()).reshape(-1, 3)
    known = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]  # aeroplane, bicycle, bird, boat
    assert list(map(tuple, colours[:5])) == known
    assert tuple(colours[IGNORED]) == (224, 224, 192)


def test_the_same_seed_gives_the_same_files_and_a_picture_does_not_depend_on_the_others(folder, tmp_path):
    write_voc(tmp_path / "again", {"test": 4, "val": 2}, size=SIZE, seed=3)
    write_voc(tmp_path / "other", {"test": 1}, size=SIZE, seed=4)
    files = [path for path in (tmp_path / "again").rglob("*_0*") if path.is_file()]
    assert len(files) == 3 * 6
    for path in files:
        assert path.read_bytes() == (folder / path.relative_to(tmp_path / "again")).read_bytes()
    one, other = (root / "JPEGImages/test_00000.jpg" for root in (folder, tmp_path / "other"))
    assert one.read_bytes() != other.read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"counts": {}}, "`counts` must be of some of train, val, test, got {}"),
        ({"counts": {"valid": 3}}, "`counts` must be of some of train, val, test"),
        ({"counts": {"val": 0}}, "`val` must be a whole number of at least 1, got 0"),
        ({"counts": {"val": 1}, "size": 8}, "`size` must be a whole number of at least 32, got 8"),
        ({"counts": {"val": 1}, "seed": -1}, "`seed` must be a whole number of at least 0, got -1"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_anything_is_written(tmp_path, given, message):
    with pytest.raises(ValueError, match=message):
        write_voc(tmp_path / "voc", **given)
    assert not (tmp_path / "voc").exists()
