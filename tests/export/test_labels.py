"""Pseudo-labels of a run's maps: their values, levels of the background, and what the field's scripts read."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastcam.export import export
from fastcam.export.labels import background_level, labels_at
from tests.support import tables
from tests.support.maps import SIZES, coarse, finished, write_run
from tests.support.segmentation import labels_of
from tests.support.tables import row


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


def labels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.mode == "P"
        return np.array(image)


def test_wsss(run):
    done = export(run, "wsss")
    assert (done.pictures, done.errors, done.left_out) == (3, 1, 1)
    with np.load(done.path / "cam/a/x.npz", allow_pickle=False) as seeds:
        keys, cam, full = seeds["keys"], seeds["cam"], seeds["high_res"]
    assert keys.tolist() == [3, 1]
    assert keys.dtype == np.int64
    wanted = np.stack([finished(coarse(index), SIZES[0][::-1]) for index in (0, 1)])
    np.testing.assert_allclose(full, wanted, atol=2e-6)
    assert cam.shape == (2, 10, 13)  # ((H - 1) // 4 + 1, (W - 1) // 4 + 1)
    np.testing.assert_allclose(cam[1], finished(coarse(1), (10, 13)), atol=2e-6)
    image = Image.open(done.path / "labels/a/x.png")
    assert image.mode == "P"
    labels = np.array(image)
    # as the field's code does it: the background's threshold is one more class, the first
    stacked = np.concatenate([np.full((1, *labels.shape), 0.2), full])
    np.testing.assert_array_equal(labels, np.pad(keys + 1, (1, 0))[stacked.argmax(0)])
    assert set(np.unique(labels)) == {2, 4}  # where neither map passes 0.2, the next test looks
    assert image.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]  # Pascal VOC's colours
    assert image.getpalette()[765:] == [224, 224, 192]


def test_wsss_with_pixels_to_be_ignored(run):
    done = export(run, "wsss", cuts=(0.3, 0.6))
    labels = np.array(Image.open(done.path / "labels/b/x.png"))
    full = finished(coarse(2), SIZES[1][::-1])
    np.testing.assert_array_equal(labels, np.where(full > 0.6, 1, np.where(full > 0.3, 255, 0)))


def test_wsss_refuses(tmp_path):
    rows = [row("a.jpg", class_id=254, cam=coarse(0))]
    run = tables.write(tmp_path / "run", rows, cams=True)
    with pytest.raises(ValueError, match=r"a\.jpg: class 254 does not fit"):
        export(run, "wsss")
    for cuts in ((0.5, 0.4), (-0.1, 0.5), (0.5, 1.0), (float("nan"), 0.5)):
        with pytest.raises(ValueError, match="thresholds of pseudo-labels"):
            export(run, "wsss", cuts=cuts)
    run = tables.write(tmp_path / "run", rows, {"relu": False}, cams=True)
    with pytest.raises(ValueError, match="thresholds of pseudo-labels"):
        export(run, "wsss")
    assert os.listdir(run) == ["boxes.parquet"]


def test_labels(run):
    done = export(run, "labels", cuts=0.4)
    assert done.path == run / "labels"
    assert (done.pictures, done.errors, done.left_out) == (3, 1, 1)
    files = sorted(path.relative_to(done.path).as_posix() for path in done.path.rglob("*") if path.is_file())
    assert files == ["a/x.png", "b/x.png", "b/z.png", "classes.txt", "fastcam-export.json"]
    maps = np.stack([finished(coarse(index), SIZES[0][::-1]) for index in (0, 1)])
    np.testing.assert_array_equal(labels(done.path / "a/x.png"), labels_of(maps, [4, 2], 0.4))
    assert labels(done.path / "b/z.png").shape == SIZES[2][::-1]
    assert (done.path / "classes.txt").read_text().splitlines() == ["ant", "bee", "cat", "owl"]  # of values 1 to 4
    with Image.open(done.path / "b/x.png") as image:
        assert image.getpalette()[3:6] == [128, 0, 0]  # VOC's first class


@pytest.mark.parametrize("alpha", [0.5, 1.0, 4.0, 16.0, 32.0])
def test_a_background_that_falls_with_the_highest_map_is_a_level(alpha):
    """The score (1 - max)^α beside the maps, pixel by pixel, as AffinityNet has it, and α = 1 means one half."""
    maps = np.random.default_rng(0).random((3, 200, 300), np.float32) ** 3
    strongest = maps.max(0).astype(np.float64)
    literal = np.concatenate([(1 - strongest)[None] ** alpha, maps]).argmax(0)
    np.testing.assert_array_equal(labels_at(maps, [1, 2, 3], background_level(alpha)), literal)
    assert background_level(1) == 0.5


def test_two_exponents_leave_what_they_do_not_agree_on(run):
    full = finished(coarse(2), SIZES[1][::-1])
    surely_object, surely_not = full > (1 - full) ** 4, full <= (1 - full) ** 32
    wanted = np.where(surely_object, 1, np.where(surely_not, 0, 255))
    for alpha in ((4, 32), (32, 4)):
        got = labels(export(run, "labels", alpha=alpha, overwrite=True).path / "b/x.png")
        np.testing.assert_array_equal(got, wanted)
    assert {0, 1, 255} == set(np.unique(wanted))


def test_the_threshold_that_an_evaluation_chose(run, tmp_path):
    chosen = tmp_path / "metrics.json"
    chosen.write_text(json.dumps({"best_thresholds": {"mIoU": 0.437}}))
    got = labels(export(run, "labels", threshold_from=chosen).path / "b/x.png")
    np.testing.assert_array_equal(got, finished(coarse(2), SIZES[1][::-1]) > 0.437)
    for text in ("{}", '{"best_thresholds": {"MaxBoxAcc": 0.2}}', "[]", "?", '{"best_thresholds": {"mIoU": "x"}}'):
        chosen.write_text(text)
        with pytest.raises(ValueError, match=r"metrics\.json is no metrics\.json with a best threshold of mIoU"):
            export(run, "labels", threshold_from=chosen, overwrite=True)
    with pytest.raises(FileNotFoundError):
        export(run, "labels", threshold_from=tmp_path / "none.json", overwrite=True)
    with pytest.raises(ValueError, match="by a number, or two"):
        export(run, "labels", cuts=(0.1, 0.2, 0.3), overwrite=True)
    with pytest.raises(ValueError, match="`cuts` and `alpha` both tell"):
        export(run, "labels", cuts=0.2, alpha=4, overwrite=True)


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), (4, 0)])
def test_exponents_that_are_none(run, alpha):
    with pytest.raises(ValueError, match="`alpha` must be a positive number"):
        export(run, "labels", alpha=alpha)


def test_other_values_for_classes(run):
    done = export(run, "labels", categories={0: 15, 1: 254, 2: 8, 3: 1}, cuts=0.3)
    assert set(np.unique(labels(done.path / "a/x.png"))) <= {0, 1, 254}
    assert labels(done.path / "b/x.png").max() == 15
    names = (done.path / "classes.txt").read_text().splitlines()
    assert (len(names), names[0], names[7], names[14], names[253]) == (254, "owl", "cat", "ant", "bee")
    with np.load(export(run, "wsss", categories={0: 15, 1: 254, 2: 8, 3: 1}).path / "cam/a/x.npz") as seeds:
        assert seeds["keys"].tolist() == [0, 253]  # one less than the labels, as the field has it
    with pytest.raises(ValueError, match=r"a/x\.jpg: class 1 \(bee\) is none of the given categories"):
        export(run, "labels", categories={3: 1}, overwrite=True)
    for value in (0, 255, -1):
        with pytest.raises(ValueError, match="class 3 does not fit labels of 8 bits"):
            export(run, "labels", categories={3: value}, overwrite=True)


def test_constant_maps_are_background(tmp_path):
    cams = [np.full((3, 3), 5, np.float16), np.full((3, 3), np.nan, np.float16)]
    rows = [row(f"{index}.jpg", cam=cam, size=(8, 8)) for index, cam in enumerate(cams)]
    run = tables.write(tmp_path / "run", rows, cams=True)
    for level in (0.0, 0.2):
        done = export(run, "labels", cuts=level, overwrite=True)
        assert not any(labels(done.path / f"{index}.png").any() for index in range(2))
