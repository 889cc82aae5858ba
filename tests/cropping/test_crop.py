"""Crops are the pixels of the boxes, under names that come but once, and what could not be cut out is told."""

import csv
import math
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastcam
from fastcam import data
from fastcam.cropping import ERRORS
from fastcam.data import Pictures
from fastcam.data.shapes import Shapes
from fastcam.localization import localize
from fastcam.models import ModelConfig
from tests.support import datasets, tables
from tests.support.commands import refused, run as command
from tests.support.engine_run import Tiny
from tests.support.files import STORED, noise, write
from tests.support.tables import error, row

NAMES = ("ant", "bee", "cat")


def rows_of(done) -> list[dict[str, str]]:
    with done.table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


@pytest.fixture
def photos(tmp_path) -> dict[str, np.ndarray]:
    """Pictures of 200 x 100 in tmp_path/photos, by id; two have the same basename."""
    found = {id: noise(100, 200, seed) for seed, id in enumerate(("a/x.png", "b/x.png", "b/y.png", "b/x-2.png"))}
    for id, image in found.items():
        path = tmp_path / "photos" / id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return found


def known(tmp_path, labels, boxes=None, ids=("a/x.png", "b/x.png", "b/y.png"), **options) -> Pictures:
    boxes = None if boxes is None else [np.array(b, np.float32).reshape(-1, 4) for b in boxes]
    return Pictures(tmp_path / "photos", list(ids), labels=labels, boxes=boxes, class_names=NAMES, **options)


def test_crops_are_the_pixels_of_the_largest_box_of_the_highest_class(tmp_path, photos):
    rows = [
        row("a/x.png", (10.25, 20.5, 110.75, 80.125), 2, "cat"),
        row("a/x.png", (0, 0, 5.5, 100), 2, "cat", number=2),
        row("a/x.png", (150, 50, 200, 100), 0, "ant", rank=2),
        row("b/x.png", (0, 0, 200, 100), 2, "cat"),
        row("b/y.png", (199.7, 10.1, 199.9, 10.2), 0, "ant"),
    ]
    done = fastcam.crop(
        tables.write(tmp_path / "run", rows), out=tmp_path / "crops", images=tmp_path / "photos", progress=False
    )
    assert done[2:] == (3, 3, 0, 0, ())
    assert files(done.path) == [
        "ant/y.png",
        "cat/x-2.png",
        "cat/x.png",
        "classes.txt",
        "crops.csv",
        "fastcam-export.json",
    ]
    np.testing.assert_array_equal(pixels(done.path / "cat/x.png"), photos["a/x.png"][20:81, 10:111])
    np.testing.assert_array_equal(pixels(done.path / "cat/x-2.png"), photos["b/x.png"])
    np.testing.assert_array_equal(pixels(done.path / "ant/y.png"), photos["b/y.png"][10:11, 199:200])
    first = rows_of(done)[0]
    assert first == {
        "crop": "cat/x.png",
        "image_id": "a/x.png",
        "class_name": "cat",
        "box": "1",
        "x0": "10",
        "y0": "20",
        "x1": "111",
        "y1": "81",
        "width": "200",
        "height": "100",
        "error": "",
    }
    back = data.load(done.path)
    assert back.class_names == ("ant", "cat")
    assert [(id, label) for id, label in zip(back.ids, back.labels, strict=True)] == [
        ("ant/y.png", 0),
        ("cat/x-2.png", 1),
        ("cat/x.png", 1),
    ]


def test_each_box_has_a_crop_under_its_own_class_and_name(tmp_path, photos):
    rows = [
        row("b/x.png", (0, 0, 50, 40), 2, "cat"),
        row("b/x.png", (60, 0, 90, 40), 2, "cat", number=2),
        row("b/x.png", (60, 50, 90, 90), 0, None, rank=2),
        row("b/x-2.png", (5, 5, 10, 10), 2, "cat"),
        row("a/x.png", (1, 1, 9, 9), 2, "cat"),
    ]
    run = tables.write(tmp_path / "run", rows)
    done = fastcam.crop(run, out=tmp_path / "crops", images=tmp_path / "photos", each=True, progress=False)
    assert [(r["crop"], r["box"]) for r in rows_of(done)] == [
        ("cat/x.png", "1"),
        ("cat/x-2.png", "2"),
        ("0/x.png", "3"),
        ("cat/x-2-2.png", "1"),
        ("cat/x-3.png", "1"),
    ]
    np.testing.assert_array_equal(pixels(done.path / "cat/x-2-2.png"), photos["b/x-2.png"][5:10, 5:10])
    np.testing.assert_array_equal(pixels(done.path / "0/x.png"), photos["b/x.png"][50:90, 60:90])


@pytest.mark.parametrize("margin", [0.0, 0.1, 0.35, 5])
def test_the_margin_is_a_fraction_of_the_box_and_ends_at_the_picture(tmp_path, photos, margin):
    boxes = np.concatenate([tables.random_boxes(np.random.default_rng(3), 3, (200, 100)), [[100, 40, 130, 60]]])
    ids = list(photos)
    rows = [row(id, box.tolist(), 1, "bee") for id, box in zip(ids, boxes, strict=True)]
    run = tables.write(tmp_path / "run", rows)
    done = fastcam.crop(run, out=tmp_path / "crops", images=tmp_path / "photos", margin=margin, progress=False)
    for id, box, found in zip(ids, boxes.astype(np.float32).astype(float), rows_of(done), strict=True):
        width, height = box[2] - box[0], box[3] - box[1]
        wanted = (
            max(0, math.floor(box[0] - margin * width + 1e-6)),
            max(0, math.floor(box[1] - margin * height + 1e-6)),
            min(200, math.ceil(box[2] + margin * width - 1e-6)),
            min(100, math.ceil(box[3] + margin * height - 1e-6)),
        )
        assert tuple(int(found[edge]) for edge in ("x0", "y0", "x1", "y1")) == wanted
        x0, y0, x1, y1 = wanted
        np.testing.assert_array_equal(pixels(done.path / found["crop"]), photos[id][y0:y1, x0:x1])
    assert rows_of(done)[3]["x0"] == {0.0: "100", 0.1: "97", 0.35: "89", 5: "0"}[margin]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_that_exif_turns_are_cut_upright(tmp_path, orientation):
    upright = noise(60, 90)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    (tmp_path / "photos").mkdir()
    stored.save(tmp_path / "photos/x.png", exif=exif)
    run = tables.write(tmp_path / "run", [row("x.png", (5, 10, 35, 50), 1, "bee", size=(90, 60))])
    found = fastcam.crop(run, out=tmp_path / "found", images=tmp_path / "photos", progress=False)
    np.testing.assert_array_equal(pixels(found.path / "bee/x.png"), upright[10:50, 5:35])
    with Image.open(found.path / "bee/x.png") as crop:
        assert not crop.getexif()
    # A box that the data set tells of the stored picture is turned along.
    corner = np.zeros((60, 90), bool)
    corner[10:50, 5:35] = True
    ys, xs = np.nonzero(STORED[orientation](corner))
    box = [[xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]]
    if orientation >= 5:  # for others nothing tells
        truth = known(tmp_path, [0], [box], ["x.png"], sizes=[stored.size])
        true = fastcam.crop(run, out=tmp_path / "true", data=truth, boxes="truth", progress=False)
        np.testing.assert_array_equal(pixels(true.path / "ant/x.png"), upright[10:50, 5:35])


def test_true_boxes_and_labels_of_the_data_set(tmp_path, photos):
    """In a frame of twice the size; the run found another class, and failed on a picture."""
    rows = [row("a/x.png", (0, 0, 9, 9), 2, "cat"), error("b/x.png"), row("b/y.png", (0, 0, 9, 9), 2, "cat")]
    boxes = [[[0, 0, 20, 20], [100, 50, 300, 150]], [[10, 10, 20, 20]], [[0, 0, 400, 200]]]
    truth = known(tmp_path, [1, 0, None], boxes, sizes=[(400, 200)] * 3)
    run = tables.write(tmp_path / "run", rows)
    done = fastcam.crop(run, out=tmp_path / "largest", data=truth, boxes="truth", progress=False)
    np.testing.assert_array_equal(pixels(done.path / "bee/x.png"), photos["a/x.png"][25:75, 50:150])
    np.testing.assert_array_equal(pixels(done.path / "ant/x.png"), photos["b/x.png"][5:10, 5:10])
    assert (done.pictures, done.crops, done.failed) == (3, 2, 1)
    assert done.examples == (("b/y.png", "no_class: the data set has no label for it"),)
    every = fastcam.crop(run, out=tmp_path / "each", data=truth, boxes="truth", each=True, progress=False)
    assert [r["crop"] for r in rows_of(every)] == ["bee/x.png", "bee/x-2.png", "ant/x.png", ""]
    np.testing.assert_array_equal(pixels(every.path / "bee/x-2.png"), photos["a/x.png"][:10, :10])
    found = fastcam.crop(run, out=tmp_path / "found", data=truth, progress=False)
    assert [(r["crop"], r["error"]) for r in rows_of(found)] == [
        ("bee/x.png", ""),
        ("", "truncated: 3 bytes are missing"),
        ("", "no_class: the data set has no label for it"),
    ]
    assert (found.path / "classes.txt").read_text() == "bee\n"


def test_what_could_not_be_cut_has_a_row_with_the_reason(tmp_path, photos):
    (tmp_path / "photos/cut.png").write_bytes((tmp_path / "photos/a/x.png").read_bytes()[:999])
    Image.fromarray(noise(50, 100)).save(tmp_path / "photos/smaller.png")
    long = "n" * 251 + ".png"
    for place in "ab":
        Image.fromarray(noise(100, 200)).save(tmp_path / "photos" / place / long)
    rows = [
        row("a/x.png", (300, 50, 400, 90), 0, "ant"),
        row("b/x.png", (150, 50, 202, 90), 0, "ant"),
        row("b/y.png", class_id=0, name="ant"),
        row("b/x-2.png", (150, 50, 200.9, 100.5), 0, "ant"),
        row("cut.png", (0, 0, 9, 9), 0, "ant"),
        row("smaller.png", (0, 0, 9, 9), 0, "ant"),
        row("none.png", (0, 0, 9, 9), 0, "ant"),
        error("broken.jpg"),
        row(f"a/{long}", (0, 0, 9, 9), 0, "ant"),
        row(f"b/{long}", (0, 0, 9, 9), 0, "ant"),
    ]
    run = tables.write(tmp_path / "run", rows)
    done = fastcam.crop(run, out=tmp_path / "crops", images=tmp_path / "photos", progress=False)
    found = [r["error"].partition(": ")[0] for r in rows_of(done)]
    assert found[:7] == ["outside", "outside", "no_box", "", "damaged", "changed", "unreadable"]
    assert found[8:] == ["", "name"]
    assert set(filter(None, found)) - {"truncated"} <= set(ERRORS)  # that is the run's own
    assert rows_of(done)[5]["error"] == "changed: it has 100x50 pixels, the run saw 200x100"
    assert rows_of(done)[7] | {"error": ""} == dict.fromkeys(rows_of(done)[7], "") | {"image_id": "broken.jpg"}
    assert (done.pictures, done.crops, done.failed, len(done.examples)) == (10, 2, 8, 8)
    assert files(done.path)[:2] == [f"ant/{long}", "ant/x-2-2.png"]  # x-2 is that of b/x.png


def test_true_boxes_outside_have_a_row_that_names_them(tmp_path, photos):
    truth = known(tmp_path, [0, 1, 2], [[[150, 0, 260, 50]], [[0, 0, 9, 9]], []])
    run = tables.write(tmp_path / "run", [row(id) for id in truth.ids])
    done = fastcam.crop(run, out=tmp_path / "crops", data=truth, boxes="truth", progress=False)
    errors = [r["error"] for r in rows_of(done)]
    assert "truth: " in errors[0]
    assert "box 150, 0, 260, 50 lies outside the picture of 200x100" in errors[0]
    assert errors[1:] == ["", "no_box: the data set has none of it"]


def test_splits_have_their_folders_and_the_rest_is_passed_over(tmp_path, photos):
    rows = [row(id, (0, 0, 9, 9), 2, "cat") for id in (*photos, "c/z.png")]
    run = tables.write(tmp_path / "run", rows)
    train = known(tmp_path, [1, 0], ids=["a/x.png", "b/x.png"])
    test = known(tmp_path, [1, 0], ids=["b/y.png", "b/x-2.png"])
    done = fastcam.crop(run, out=tmp_path / "crops", data={"train": train, "test": test}, progress=False)
    assert (done.pictures, done.crops, done.elsewhere) == (4, 4, 1)
    assert [name for name in files(done.path) if name.endswith(".png")] == [
        "test/ant/x-2.png",
        "test/bee/y.png",
        "train/ant/x.png",
        "train/bee/x.png",
    ]
    assert (done.path / "classes.txt").read_text() == "ant\nbee\n"
    assert data.splits(done.path) == ["train", "test"]
    assert data.load(done.path, "test").labels == [0, 1]
    # A folder of crops is searched for pictures if it is named, and is no input where the folder above is.
    assert len(list(fastcam.pictures.find_pictures([done.path]))) == 4
    assert not any("crops" in id for id, _ in fastcam.pictures.find_pictures([tmp_path]))
    for wrong, why in (
        ({"train": train, "test": known(tmp_path, [1], ids=["a/x.png"])}, "'a/x.png' is in train and in test"),
        ({"train": train, "other": test}, "must be called train, val"),
        ({}, "must be called"),
    ):
        with pytest.raises(ValueError, match=why):
            fastcam.crop(run, out=tmp_path / "wrong", data=wrong, progress=False)
    test.class_names = NAMES[::-1]
    with pytest.raises(ValueError, match="test has others"):
        fastcam.crop(run, out=tmp_path / "wrong", data={"train": train, "test": test}, progress=False)
    assert not (tmp_path / "wrong").exists()


def test_class_names_that_are_no_folders(tmp_path, photos):
    names = ["../up", "train", ".hidden", "crane", "Crane", "a/b\n c", "", "é" * 200, "crops.csv", "CON\u202ejpg"]
    ids = list(photos)
    rows = [row(ids[i % 4], (i, 0, i + 9, 9), i, name) for i, name in enumerate(names)]
    rows.sort(key=lambda one: one["image_id"])
    rows = [one | {"rank": 1 + i} for i, one in enumerate(rows)]
    run = tables.write(tmp_path / "run", rows)
    done = fastcam.crop(run, out=tmp_path / "crops", images=tmp_path / "photos", each=True, progress=False)
    assert done.crops == len(names)
    found = (done.path / "classes.txt").read_text().splitlines()
    expected = ["_../up", "train (1)", "_.hidden", "crane", "Crane (4)", "a_b c", "6", "é" * 100, "crops.csv (8)"]
    assert found == [expected[0].replace("/", "_"), *expected[1:], "CON_jpg"]
    back = data.load(done.path)
    assert list(back.class_names) == found
    for place, label in enumerate(back.labels):
        crop = next(r for r in rows_of(done) if r["crop"] == back.ids[place])
        assert crop["x0"] == str(label)


def test_data_sets_that_are_no_files(tmp_path):
    shapes = Shapes("test", 5)
    rows = [row(id, (10, 20, 40, 60), 3, size=(128, 128)) for id in shapes.ids]
    run = tables.write(tmp_path / "run", rows)
    done = fastcam.crop(run, out=tmp_path / "crops", data=shapes, suffix="jpg", progress=False)
    assert (done.crops, done.failed) == (5, 0)
    name = shapes.class_names[0]
    crop = pixels(done.path / f"{name}/00000.jpg").astype(float)
    assert np.abs(crop - shapes[0].image[20:60, 10:40]).mean() < 6
    true = fastcam.crop(run, out=tmp_path / "true", data=shapes, boxes="truth", progress=False)
    x0, y0, x1, y1 = shapes[4].boxes[0].astype(int)
    np.testing.assert_array_equal(
        pixels(true.path / f"{shapes.class_names[4]}/00004.png"), shapes[4].image[y0:y1, x0:x1]
    )


def test_a_run_knows_where_its_pictures_are(tmp_path, photos):
    """With a real run, from a data set and from a folder, and after another run has begun in its folder."""
    truth = known(tmp_path, [1, 0, 2])
    config = ModelConfig("tiny", 4, size=32, class_names=(*NAMES, "dog"))
    localize(Tiny(), tmp_path / "photos", out=tmp_path / "run", config=config, progress=False)
    done = fastcam.crop(tmp_path / "run", out=tmp_path / "run/crops", progress=False)
    assert (done.pictures, done.crops + done.failed) == (4, 4)
    again = fastcam.crop(tmp_path / "run", out=tmp_path / "run/crops", data=truth, overwrite=True, progress=False)
    assert (again.pictures, again.elsewhere) == (3, 1)
    plan = tmp_path / "run/plan.json"
    plan.write_text(plan.read_text().replace('"digest": "', '"digest": "0'))
    with pytest.raises(ValueError, match="nothing tells where the run's pictures are"):
        fastcam.crop(tmp_path / "run", out=tmp_path / "crops", progress=False)


def test_what_cannot_be_asked_for(tmp_path, photos):
    run = tables.write(tmp_path / "run", [row("a/x.png", (0, 0, 9, 9), 0, "ant")])
    images = tmp_path / "photos"
    for options, why in (
        ({"margin": -0.1}, "`margin` must be a finite number of at least 0"),
        ({"boxes": "all"}, "`boxes` must be one of found, truth"),
        ({"suffix": "gif"}, "`suffix`"),
        ({"boxes": "truth"}, "none is given"),
        ({"boxes": "truth", "data": known(tmp_path, [0, 1, 2])}, "got none"),
        ({"data": known(tmp_path, [0], ids=["c.png"])}, "no picture of the run is in the data set"),
    ):
        with pytest.raises(ValueError, match=why):
            fastcam.crop(run, out=tmp_path / "crops", images=images, progress=False, **options)
    with pytest.raises(ValueError, match="nothing tells where"):
        fastcam.crop(run, out=tmp_path / "crops", progress=False)
    with pytest.raises(FileNotFoundError, match="no folder of pictures"):
        fastcam.crop(run, out=tmp_path / "crops", images=tmp_path / "none", progress=False)
    with pytest.raises(FileNotFoundError, match="no table of boxes"):
        fastcam.crop(tmp_path / "none", out=tmp_path / "crops", images=images, progress=False)
    with pytest.raises(FileExistsError, match="has not written"):
        fastcam.crop(run, out=images, images=images, overwrite=True, progress=False)
    assert not (tmp_path / "crops").exists()
    hostile = tables.write(tmp_path / "hostile", [row("../photos/a/x.png", (0, 0, 9, 9), 0, "ant")])
    done = fastcam.crop(hostile, out=tmp_path / "crops", images=images, progress=False)
    assert done.examples[0][1].startswith("missing: an id must be a relative path")


def test_the_command(tmp_path):
    datasets.cub(tmp_path / "cub")
    ids = ["001.Auk/a.jpg", "002.Owl/b.jpg", "002.Owl/c.jpg"]
    rows = [row(id, (1, 2, 30, 20), 1, "002.Owl", size=(40, 30)) for id in ids]
    run = tables.write(tmp_path / "run", rows)
    done = command("crop", run, "--data", tmp_path / "cub", "--out", tmp_path / "crops", "--margin", 0.1)
    assert done.exit_code == 0
    assert done.output == f"3 crops of 3 pictures in {tmp_path}/crops\n"
    assert pixels(tmp_path / "crops/001.Auk/a.png").shape == (22, 33, 3)
    assert os.listdir(tmp_path / "crops/002.Owl")
    both = command("crop", run, "--data", tmp_path / "cub", "--split", "train,test", "--out", tmp_path / "both")
    assert both.output == f"3 crops of 3 pictures in {tmp_path}/both\n"
    assert (tmp_path / "both/train/002.Owl/b.png").is_file()
    assert (tmp_path / "both/test/001.Auk/a.png").is_file()
    write(tmp_path / "cub/bounding_boxes.txt", "1 1.0 2.0 30.0 20.5\n2 0.0 0.0 90.0 30.0\n3 1 1 2 3\n")
    options = "--data", tmp_path / "cub", "--boxes", "truth", "--split", "train", "--each"
    some = command("crop", run, *options, "--out", tmp_path / "true")
    assert some.exit_code == 3
    assert some.stdout == f"0 crops of 1 pictures in {tmp_path}/true\n"
    assert "passed over 2 pictures of the run" in some.stderr
    assert "1 could not be cut out, such as '002.Owl/b.jpg': truth: " in some.stderr
    assert "lies outside the picture of 40x30" in some.stderr
    assert "--split and --format are of a data set" in refused("crop", run, "--out", tmp_path / "x", "--split", "test")
    assert "exists already" in refused("crop", run, "--out", tmp_path / "crops", "--data", tmp_path / "cub")
