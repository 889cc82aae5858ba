"""Informative objects: planted scenes, the sums by hand, files, and what cannot be ranked."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import data, models
from tests.support import objects as scenes
from tests.support.commands import refused, run
from tests.support.files import write

LAYOUTS = {"coco": scenes.coco, "masks": scenes.masks, "wsol": scenes.wsol}
CONFIG = models.ModelConfig("resnet18", 4, None, scenes.SCENES, size=scenes.SIDE)


@pytest.fixture(scope="module")
def model():
    return scenes.train(scenes.drawn(80))


@pytest.fixture(scope="module")
def held_out():
    return scenes.drawn(25, start=1000)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_object_that_decides_is_first_in_all_scenes_though_another_is_more_frequent(
    model, held_out, layout, tmp_path
):
    found = fastcam.informative_objects(
        model, data.load_scenes(LAYOUTS[layout](tmp_path, held_out)), config=CONFIG, progress=False
    )
    assert found.pictures == 100
    assert found.errors == found.files == ()
    assert found.scenes == dict.fromkeys(range(4), 25)
    for scene, name in enumerate(scenes.SCENES):
        rows = [row for row in found.objects if row.scene == scene]
        assert [row.rank for row in rows] == [*range(1, len(rows) + 1)]
        first, second = rows[:2]
        assert (first.scene_name, first.object) == (name, scenes.DECIDING[name])
        assert first.overlap > 0.5 > 2 * second.overlap
        assert first.covered > 0.8
        wall = next(row for row in rows if row.object == "wall")
        assert wall.frequency == 1 > first.frequency
        counted = [
            sum(one.scene == scene and any(o == row.object for o, _ in one.objects) for one in held_out.values())
            for row in rows
        ]
        assert [row.pictures for row in rows] == counted


class ByHand(nn.Module):
    """The map of class 0 is the red channel in cells of 8 pixels, that of class 1 the green one."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.AvgPool2d(8)
        self.fc = nn.Linear(3, 2, bias=False)
        self.fc.weight.data = torch.eye(3)[:2]

    def forward(self, images):
        return self.fc(self.features(images).mean((2, 3)))


RAW = models.ModelConfig("resnet18", 2, None, ("red", "green"), size=64, mean=(0.0,) * 3, std=(1.0,) * 3)


def painted(tmp_path, *squares, size=(64, 64), objects=(), id="red/a.png"):
    """A picture with squares x, y, side in red, and COCO's annotations of objects: name, and bbox or segmentation."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    for x, y, side in squares:
        pixels[y : y + side, x : x + side, 0] = 255
    path = tmp_path / "images" / id
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    names = [*dict.fromkeys(name for name, _, _ in objects)]
    document = {
        "images": [{"id": 1, "file_name": id, "width": size[0], "height": size[1]}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": names.index(name), "bbox": box, "segmentation": shape}
            for n, (name, box, shape) in enumerate(objects)
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names)],
    }
    write(tmp_path / "objects.json", json.dumps(document))
    return tmp_path / "objects.json"


def test_overlap_and_cover_by_hand(tmp_path):
    # The map's high area: x and y from 16 to 40 in whole cells; bilinear upsampling moves the level of a half nowhere.
    path = painted(
        tmp_path,
        (16, 16, 24),
        objects=[
            ("inside", [20, 20, 8, 8], None),
            ("half", [28, 16, 24, 24], None),
            ("outside", [48, 48, 8, 8], None),
            ("twice", [16, 16, 24, 12], None),
            ("twice", [16, 28, 24, 12], None),
            ("corner", [0, 0, 0, 0], [[16, 16, 40, 16, 16, 40]]),
        ],
    )
    write(tmp_path / "scenes.csv", "image_id,scene\nred/a.png,red\n")
    found = fastcam.informative_objects(
        ByHand(),
        data.load_scenes(path, scenes={"red/a.png": "red"}),
        target_layer="features",
        config=RAW,
        progress=False,
    )
    rows = {row.object: row for row in found.objects}
    assert [rows[name].overlap for name in ("inside", "outside")] == [1, 0]
    for name, overlap, covered in (
        ("half", 0.5, 0.5),
        ("twice", 1, 1),
        ("corner", 1, 0.5),
        ("inside", 1, 64 / 576),
        ("outside", 0, 0),
    ):
        assert rows[name].overlap == pytest.approx(overlap, abs=0.05), name
        assert rows[name].covered == pytest.approx(covered, abs=0.05), name
    assert {row.frequency for row in found.objects} == {1}
    assert rows["outside"].rank == 5


def test_what_a_network_that_crops_does_not_see_does_not_count(tmp_path):
    # Of 128 x 64 pixels the network sees the middle 56 of 64 rows, resized: x from 36 to 92.
    path = painted(
        tmp_path,
        (48, 16, 24),
        size=(128, 64),
        objects=[("seen", [48, 16, 24, 24], None), ("cut", [0, 0, 60, 64], None), ("unseen", [100, 10, 20, 20], None)],
    )
    config = models.ModelConfig(
        "resnet18", 2, None, ("red", "green"), size=64, resize="crop", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    found = fastcam.informative_objects(
        ByHand(),
        data.load_scenes(path, scenes={"red/a.png": "red"}),
        target_layer="features",
        config=config,
        progress=False,
    )
    rows = {row.object: row for row in found.objects}
    assert rows["seen"].overlap > 0.75
    assert rows["cut"].overlap == pytest.approx(12 * 24 / (24 * 56), abs=0.06)
    assert rows["unseen"].pictures == 1
    assert np.isnan(rows["unseen"].overlap)
    assert rows["unseen"].rank == 3


def test_rare_objects_stand_behind(model, held_out, tmp_path):
    path = scenes.coco(tmp_path, {id: one for id, one in held_out.items() if one.scene == 0})
    file = path / "annotations/instances_val.json"
    document = json.loads(file.read_text())
    lamp = next(one for one in document["annotations"] if one["category_id"] == 2)
    document["categories"].append({"id": 99, "name": "bulb"})
    document["annotations"].append(lamp | {"id": 10**6, "category_id": 99})
    file.write_text(json.dumps(document))
    loaded = data.load_scenes(path, scenes=dict.fromkeys((one["file_name"] for one in document["images"]), "attic"))
    ranks = []
    for least in (0.1, 0.0):
        found = fastcam.informative_objects(model, loaded, config=CONFIG, min_frequency=least, progress=False)
        ranks.append({row.object: row.rank for row in found.objects})
    assert ranks[0]["bulb"] == len(ranks[0])
    assert ranks[1]["bulb"] <= 2
    assert ranks[0]["lamp"] == 1


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A network that a checkpoint can name; it has learnt nothing."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    config = models.ModelConfig("resnet18", 4, None, scenes.SCENES, size=64)
    models.save_checkpoint(path, models.build("resnet18", 4), config)
    return path


def test_the_command_writes_table_and_figures(checkpoint, held_out, tmp_path):
    chosen = {id: one for id, one in held_out.items() if one.scene < 2 and id.endswith(("0.png", "1.png"))}
    path = scenes.coco(tmp_path / "data", chosen)
    options = ("--weights", checkpoint, "--out", tmp_path / "out", "--batch-size", 3, "--top", 2)
    result = run("objects", path, *options, "--classes", "attic,1")
    assert result.exit_code == 0, result.output
    assert "attic (6 pictures): overlap, frequency" in result.output
    names = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert names == ["attic.png", "bay.png", "objects.csv"]
    with (tmp_path / "out/objects.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert {row["scene_name"] for row in rows} == {"attic", "bay"}
    assert [row["rank"] for row in rows if row["scene"] == "0"][:3] == ["1", "2", "3"]
    with Image.open(tmp_path / "out/attic.png") as figure:
        assert figure.width > 600
    assert "exists already" in refused("objects", path, *options)
    assert run("objects", path, *options, "--overwrite", "--predicted").exit_code == 0


def test_what_cannot_be_ranked(checkpoint, held_out, tmp_path, monkeypatch):
    chosen = {id: one for id, one in held_out.items() if one.scene < 2 and id.endswith("0.png")}
    path = scenes.coco(tmp_path / "data", chosen)
    options = ("--weights", checkpoint, "--top", 1, "--out", tmp_path / "out")

    def wrong(text, *more, at=path):
        assert text in refused("objects", at, *options, *more)
        assert not (tmp_path / "out").exists()

    wrong("class 3, 'dune', has no picture in the data set; those that have are 'attic', 'bay'", "--classes", "dune")
    wrong("--classes: no class 'dunes'; did you mean dune?", "--classes", "dunes")
    wrong("`level`", "--level", "1")
    wrong("`min_frequency` must be a share", "--min-frequency", "1.5")
    single = {"a.png": held_out["attic/000.png"]}
    wrong("nothing tells the scenes of the pictures", at=scenes.coco(tmp_path / "single", single))
    assert run("objects", tmp_path / "single", *options, "--predicted").exit_code == 0
    (tmp_path / "scenes.csv").write_text("image_id,scene\nb.png,attic\n")
    run_options = ("--scenes", tmp_path / "scenes.csv", "--out", tmp_path / "other", "--weights", checkpoint)
    assert "names 1 pictures, but none of" in refused("objects", tmp_path / "single", *run_options)
    loaded = data.load_scenes(path)
    with pytest.raises(ValueError, match=r"CAM needs global average pooling .* after the target layer 'features.11'"):
        fastcam.informative_objects(models.build("alexnet", 4), loaded, config=CONFIG, progress=False)
    with pytest.raises(TypeError, match=r"`data` must be scenes, which `fastcam.data.load_scenes` gives, got Pictures"):
        fastcam.informative_objects(models.build("resnet18", 4), data.load(path), config=CONFIG, progress=False)
    few = models.ModelConfig("resnet18", 1, None, (), size=64)
    with pytest.raises(ValueError, match="the data set has a scene"):
        fastcam.informative_objects(models.build("resnet18", 1), loaded, config=few, progress=False)


def test_pictures_that_cannot_be_used_are_named_and_the_others_count(checkpoint, held_out, tmp_path):
    chosen = {id: one for id, one in held_out.items() if one.scene < 2 and id.endswith("0.png")}
    path = scenes.coco(tmp_path / "data", chosen)
    (path / "val/bay/010.png").write_bytes(b"\x89PNG damaged")
    result = run("objects", path, "--weights", checkpoint, "--top", 1, "--out", tmp_path / "out")
    assert result.exit_code == 3
    assert "bay/010.png" in result.output
    assert "6 pictures, 3 files" in result.output


def test_maps_that_are_constant_have_no_high_area(tmp_path):
    colours = {"red/a.png": 0, "red/b.png": 0, "red/c.png": 255}
    (tmp_path / "images/red").mkdir(parents=True)
    for id, red in colours.items():
        pixels = np.zeros((64, 64, 3), np.uint8)
        pixels[8:24, 8:24, 0] = red
        Image.fromarray(pixels).save(tmp_path / "images" / id)
    document = {
        "images": [{"id": id, "file_name": id, "width": 64, "height": 64} for id in colours],
        "annotations": [{"image_id": id, "category_id": 0, "bbox": [8, 8, 16, 16]} for id in colours],
        "categories": [{"id": 0, "name": "thing"}],
    }
    write(tmp_path / "objects.json", json.dumps(document))
    loaded = data.load_scenes(tmp_path / "objects.json", scenes=dict.fromkeys(colours, "red"))
    options = {"target_layer": "features", "config": RAW, "progress": False}
    with pytest.warns(fastcam.methods.MapWarning, match="2 of 3 maps are constant"):
        found = fastcam.informative_objects(ByHand(), loaded, **options)
    assert found.scenes == {0: 1}
    assert [id for id, _ in found.errors] == ["red/a.png", "red/b.png"]
    with pytest.raises(ValueError, match=r"no picture .* has an object; the first of 1 .*: red/a.png: .*constant"):
        fastcam.informative_objects(ByHand(), loaded.subset([0]), **options)
