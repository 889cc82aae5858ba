"""Crop and refit: crops tell classes that whole pictures hide, and the table says what it is worth."""

import csv

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastcam import data, models
from fastcam.fitting import Accuracy
from tests.support.scripts import script

drawn, example = script("drawn_birds"), script("cub_crop_refit")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A study of drawn pictures: the folder, and what was measured."""
    root = tmp_path_factory.mktemp("birds")
    drawn.main([str(root / "data"), "--train", "90", "--test", "90", "--seed", "1"])
    options = "--threshold", "0.6", "--margin", "0.1", "--strength", "0.1", "--figure", str(root / "crops.png")
    weights = "--weights", str(root / "data/stripes.safetensors")
    return root, example.main([str(root / "data"), *weights, "--out", str(root / "study"), *options])


def test_crops_are_better_than_whole_pictures_and_true_boxes_at_least_as_good(done) -> None:
    whole, crop, true = (one.value for one in done[1].accuracies.values())
    assert list(done[1].accuracies) == ["whole picture", "CAM crop", "true-box crop"]
    assert whole < 0.45  # of three classes that look alike one is right
    assert crop >= whole + 0.2
    assert true >= crop
    assert not any(done[1].lost.values())


def test_the_share_of_boxes_is_that_of_the_crops_places(done) -> None:
    """By hand, from the tables of crops and of the run, and the text files of the drawing."""
    root, found = done
    files = {name: (root / f"data/{name}.txt").read_text().split("\n")[:-1] for name in ("images", "bounding_boxes")}
    boxes = {line.split()[1]: np.array(box.split()[1:], float) for line, box in zip(*files.values(), strict=True)}
    with (root / "study/true-crops/crops.csv").open() as file:
        for row in csv.DictReader(file):
            x, y, width, height = boxes[row["image_id"]]
            place = [float(row[edge]) for edge in ("x0", "y0", "x1", "y1")]
            wanted = np.array([x - 0.1 * width, y - 0.1 * height, x + 1.1 * width, y + 1.1 * height])
            np.testing.assert_allclose(place, wanted.clip(0, drawn.SIDE), atol=1)
    hits = 0
    test = set(data.load(root / "data", "test").ids)
    for row in pq.read_table(root / "study/run/boxes.parquet").to_pylist():
        if row["image_id"] in test:
            x, y, width, height = boxes[row["image_id"]]
            across = min(row["x1"], x + width) - max(row["x0"], x)
            down = min(row["y1"], y + height) - max(row["y0"], y)
            shared = max(across, 0) * max(down, 0)
            area = (row["x1"] - row["x0"]) * (row["y1"] - row["y0"])
            hits += shared > 0.5 * (area + width * height - shared)
    assert found.pictures == len(test) == 90
    assert found.share == hits / 90


def test_what_is_left_is_a_checkpoint_for_each_fit_and_a_figure(done) -> None:
    root, _ = done
    for name in ("whole", "crop", "truth"):
        _, config = models.load_checkpoint(root / "study" / name / "model.safetensors")
        assert config.num_classes == 9
        assert config.class_names[4] == "005.Stripes_1_hatching_1"
    assert data.load(root / "study/crops", "test").class_names == data.load(root / "data").class_names
    with Image.open(root / "crops.png") as figure:
        assert figure.width > 600


def test_drawings_have_their_object_in_the_box() -> None:
    for label in range(9):
        image, (x, y, width, height) = drawn.picture(label, np.random.default_rng(label))
        patch = image[y : y + height, x : x + width].astype(float)
        ring = np.hypot(*np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))) < 0.9
        colours = patch[ring] / patch[ring].max(1, keepdims=True).clip(1)
        assert np.median(np.abs(colours - np.median(colours, 0))) < 0.02  # shades of one colour
        assert width * height / image.shape[0] / image.shape[1] < 0.07


def test_the_table_says_whether_it_can_show_a_gain() -> None:
    def study(count: int):
        share = {"whole picture": 0.63, "CAM crop": 0.678, "true-box crop": 0.705}
        truth = np.zeros(count, int)
        scores = {name: np.eye(2)[(np.arange(count) >= value * count).astype(int)] for name, value in share.items()}
        accuracies = {name: Accuracy.of(truth, one) for name, one in scores.items()}
        return example.Study(accuracies, 0.41, count, {"CAM crop": 3, "true-box crop": 0})

    text = str(study(5794))
    assert "CAM crop          67.8     66.6 to 69.0    67.8   without 3 that could not be cut out" in text
    assert "IoU > 0.5: 41.0 % of 5794 pictures (paper: 41.0 %)" in text
    assert "too few" not in text
    assert "40 pictures are too few to show a gain as small as the paper's, of 4.8 points" in str(study(40))


def test_native_files_of_real_birds(tmp_path, shared, capsys) -> None:
    weights = "--arch", "mobilenet_v2", "--weights", shared / "weights/mobilenet_v2.pt", "--mean", 0.5, "--std", 0.5
    options = shared / "images/cub", *weights, "--out", tmp_path / "study", "--strength", 0.001
    done = example.main([*map(str, options)])
    assert done.pictures == 40
    assert done.lost == {"CAM crop": 0, "true-box crop": 0}
    assert min(one.value for one in done.accuracies.values()) > 0.4  # by chance 0.1
    assert "40 pictures are too few" in capsys.readouterr().out
