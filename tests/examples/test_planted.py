"""Drawn data sets: what is planted lies in its box, and nowhere else."""

import csv

import cv2
import numpy as np
import pytest
from PIL import Image

from fastcam import data
from tests.support.scripts import script

planted = script("planted")


def _scenes(count: int) -> list[np.ndarray]:
    return [planted.scene(index, 160, seed=3) for index in range(count)]


def test_words_change_the_picture_within_their_box_and_little_around_it() -> None:
    angles = []
    for index, scene in enumerate(_scenes(40)):
        before = scene.copy()
        picture, box = planted.plant_text(scene, np.random.default_rng(index))
        assert np.array_equal(scene, before)
        assert picture.dtype == np.uint8
        assert picture.shape == scene.shape
        x0, y0, x1, y1 = box.astype(int)
        assert 0 <= x0 < x1 <= 160
        assert 0 <= y0 < y1 <= 160
        changed = (picture != scene).any(2)
        assert changed[y0:y1, x0:x1].mean() > 0.1
        ys, xs = np.nonzero(changed)
        room = max(x1 - x0, y1 - y0) / 2  # for a sign, whose corners reach out when it is turned
        assert xs.min() >= x0 - room
        assert xs.max() < x1 + room
        assert ys.min() >= y0 - room
        assert ys.max() < y1 + room
        angles.append((x1 - x0) / (y1 - y0))
    assert max(angles) > 2.5  # a line that is hardly turned, and one that is
    assert min(angles) < 1.5


@pytest.mark.parametrize("bricks", [True, False])
def test_a_patch_fills_its_box_and_is_of_one_colour_without_bricks(bricks: bool) -> None:
    for index, scene in enumerate(_scenes(20)):
        picture, box = planted.plant_patch(scene, np.random.default_rng(index), bricks)
        changed = (picture != scene).any(2)
        ys, xs = np.nonzero(changed)
        assert np.abs(np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]) - box).max() <= 2  # soft edges
        inside = cv2.erode(changed.astype(np.uint8), np.ones((5, 5))) > 0  # without soft edges
        deviation = picture[inside].std(0).max()
        assert deviation > 10 if bricks else deviation < 3


def test_the_same_picture_has_the_same_patch_with_and_without_bricks() -> None:
    boxes = [planted.plant_patch(_scenes(1)[0], np.random.default_rng(7), bricks)[1] for bricks in (True, False)]
    assert np.array_equal(*boxes)


def test_the_folder_is_a_data_set_in_three_ways(tmp_path) -> None:
    planted.main(["texture", str(tmp_path), "--count", "10", "--size", "96", "--share", "0.3"])
    folders = data.load(tmp_path)
    assert folders.class_names == ("with", "without")
    assert np.bincount(folders.labels).tolist() == [3, 7]
    listed = data.load(tmp_path / "boxes.csv", split="test")
    assert len(listed) == 5
    for index, label in enumerate(listed.labels):
        sample = listed[index]
        assert (len(sample.boxes) == 1) == (listed.class_names[label] == "with")
        assert sample.image.size == (96, 96)
    with open(tmp_path / "captions.csv", encoding="utf-8") as handle:
        captions = {row["image_id"]: row["caption"] for row in csv.DictReader(handle)}
    assert set(captions) == set(folders.ids)
    assert all(("bricks" in caption) == id.startswith("with/") for id, caption in captions.items())


def test_photographs_are_taken_instead_of_scenes_and_the_same_seed_draws_the_same(tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.new("RGB", (300, 200), (90, 120, 60)).save(tmp_path / "photos" / f"{name}.png")
    pictures = []
    for out in ("one", "two"):
        planted.main(
            ["text", str(tmp_path / out), "--pictures", str(tmp_path / "photos"), "--count", "0", "--size", "150"]
        )
        pictures.append(
            [np.array(Image.open(tmp_path / out / name)) for name in ("with/00000.png", "without/00001.png")]
        )
    assert pictures[0][0].shape == (100, 150, 3)
    assert (pictures[0][0] != (90, 120, 60)).any()
    assert (pictures[0][1] == (90, 120, 60)).all()
    assert all(np.array_equal(*pair) for pair in zip(*pictures, strict=True))


def test_too_few_pictures_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least 2"):
        planted.draw("text", tmp_path, 1)
