"""Units of a class: a planted detector, receptive fields by hand, files, and what has no units."""

import csv
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import data, models
from tests.support.commands import refused, run

SIDE = 96
NAMES = ("without", "with")
CONFIG = models.ModelConfig("resnet18", 2, None, NAMES, size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
DETECTOR = 13


def planted(folder, count=12):
    """Grey noise, in half of the pictures with a disc of magenta stripes; and where it is, by id."""
    truth = {}
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = np.repeat(random.integers(60, 200, (SIDE, SIDE, 1)), 3, 2)
        name = NAMES[number % 2]
        if number % 2:
            x, y = random.integers(0, SIDE - 32, 2)
            rows, columns = np.mgrid[:SIDE, :SIDE]
            disc = (columns - x - 15.5) ** 2 + (rows - y - 15.5) ** 2 <= 16**2
            pixels[disc] = np.where((columns % 6 < 3)[disc][:, None], (255, 0, 255), (150, 0, 150))
            truth[f"{name}/{number:02}.png"] = disc
        (folder / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number:02}.png")
    return truth


def detector() -> nn.Module:
    """A network with random channels, one of which answers to magenta: its class has the largest weight of it."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(3, 16, 6, 3, 2)
    with torch.no_grad():
        convolution.weight.mul_(0.3)
        magenta = torch.tensor([0.5, -1.0, 0.5])[:, None, None] / 36  # nothing of grey
        convolution.weight[DETECTOR], convolution.bias[DETECTOR] = magenta, -0.2
    model = models.GlobalPoolNet(nn.Sequential(convolution, nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Linear(16, 2))
    with torch.no_grad():
        model.classifier.weight.uniform_(-0.5, 0.5)
        model.classifier.weight[:, DETECTOR] = torch.tensor([-2.0, 2.0])
    return model.eval()


def test_a_planted_unit_is_first_and_its_region_covers_the_pattern(tmp_path):
    truth = planted(tmp_path)
    found = fastcam.class_units(detector(), data.load(tmp_path), 1, config=CONFIG, top=3, progress=False)
    assert found.pictures == 12
    assert found.errors == found.files == ()
    assert [(one.by, one.rank) for one in found.units] == [
        (by, n) for by in ("weight", "contribution") for n in (1, 2, 3)
    ]
    for one in found.units[::3]:
        assert (one.unit, one.class_name, one.weight) == (DETECTOR, "with", 2)
        assert [example.id in truth for example in one.examples] == [True] * 5
        for example in one.examples:
            both, any = example.region & truth[example.id], example.region | truth[example.id]
            assert both.sum() / any.sum() > 0.5
        values = [example.activation for example in one.examples]
        assert values == sorted(values, reverse=True)


def test_weights_means_and_pictures_by_hand(tmp_path):
    planted(tmp_path)
    model, loaded = detector(), data.load(tmp_path)
    found = fastcam.class_units(model, loaded, [1, 0], config=CONFIG, top=16, pictures=3, batch_size=5, progress=False)
    frames = np.stack([np.array(loaded[place].image) for place in range(12)])
    with torch.no_grad():
        maps = model.features((torch.from_numpy(frames).permute(0, 3, 1, 2) / 255 - 0.5) / 0.5)
    weight = model.classifier.weight.detach()
    labels = torch.tensor([NAMES.index(loaded.class_names[label]) for label in loaded.labels])
    peaks = maps.amax((2, 3))
    for class_id in (1, 0):
        means = maps.mean((2, 3))[labels == class_id].mean(0)
        orders = {"weight": weight[class_id].argsort(descending=True)}
        orders["contribution"] = (weight[class_id] * means).argsort(descending=True)
        for by, order in orders.items():
            rows = [one for one in found.units if (one.class_id, one.by) == (class_id, by)]
            assert [one.unit for one in rows] == order.tolist()
            for one in rows:
                assert one.activation == pytest.approx(means[one.unit].item(), rel=1e-4)
                assert one.contribution == pytest.approx(one.weight * one.activation, rel=1e-6)
                best = peaks[:, one.unit].sort(descending=True).values[:3].tolist()
                shown = [example.activation for example in one.examples]
                assert shown == pytest.approx([value for value in best if value > 0], rel=1e-5)
                known = [peaks[loaded.ids.index(example.id), one.unit].item() for example in one.examples]
                assert shown == pytest.approx(known, rel=1e-5)


def test_receptive_fields_by_hand(tmp_path):
    """A kernel of 16 x 16 equal weights: half of the squared gradients are in the middle 11.3 x 11.3 pixels."""
    planted(tmp_path)
    torch.manual_seed(0)
    convolution = nn.Conv2d(3, 2, 16, 4, 6)
    with torch.no_grad():
        convolution.weight.fill_(1 / 768)
        convolution.bias.fill_(1)
    model = models.GlobalPoolNet(nn.Sequential(convolution), nn.AdaptiveAvgPool2d(1), nn.Linear(2, 2)).eval()
    loaded = data.load(tmp_path)
    found = fastcam.class_units(model, loaded, 0, config=CONFIG, top=1, by="weight", progress=False)
    assert found.units[0].receptive_field in (11, 13)  # whole odd numbers; the middle is between pixels
    given = fastcam.class_units(
        model, loaded, 0, config=CONFIG, top=1, by=("weight",), receptive_field=40, progress=False
    )
    assert given.units[0].receptive_field == 40


def test_saturated_activations_have_fields_too(tmp_path):
    """Where many positions are equally high, as of ReLU6, their gradients are zero."""
    planted(tmp_path)
    model = detector()
    model.features[1] = nn.Hardtanh(0, 0.2)
    found = fastcam.class_units(model, data.load(tmp_path), 1, config=CONFIG, top=1, by="weight", progress=False)
    (one,) = found.units
    assert [example.activation for example in one.examples] == [pytest.approx(0.2)] * 5
    assert 3 <= one.receptive_field <= 7


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    models.save_checkpoint(path, models.build("resnet18", 2), models.ModelConfig("resnet18", 2, None, NAMES, size=64))
    return path


def test_the_command_writes_figures_page_and_table(checkpoint, tmp_path):
    planted(tmp_path / "data", 6)
    options = ("--weights", checkpoint, "--out", tmp_path / "out", "--top", 2, "--pictures", 2)
    result = run("units", tmp_path / "data", *options, "--class", "with,0")
    assert result.exit_code == 0, result.output
    assert "6 pictures, 8 files" in result.output
    names = {file.name for file in (tmp_path / "out").iterdir()}
    kinds = ("_weight.png", "_contribution.png", ".html", ".csv")
    assert names == {f"{name}{kind}" for name in NAMES for kind in kinds}
    page = (tmp_path / "out/with.html").read_text(encoding="utf-8")
    assert len(re.findall('src="data:image/jpeg;base64', page)) == 8
    assert "<h1>Units of class 1: with</h1>" in page
    with (tmp_path / "out/with.csv").open(encoding="utf-8") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 512
    assert [float(row["weight"]) for row in rows] == sorted((float(row["weight"]) for row in rows), reverse=True)
    assert "exists already" in refused("units", tmp_path / "data", *options, "--class", "with")


def test_what_has_no_units(checkpoint, tmp_path):
    planted(tmp_path / "data", 4)
    options = ("--weights", checkpoint, "--out", tmp_path / "out")

    def wrong(text, *more):
        assert text in refused("units", tmp_path / "data", *options, *more)

    wrong("--class: no class 'wit'", "--class", "wit")
    wrong("`by` may have weight and contribution, got height", "--class", "with", "--by", "height")
    loaded = data.load(tmp_path / "data")
    three = models.ModelConfig("resnet18", 3, None, (*NAMES, "other"), size=64)
    with pytest.raises(
        ValueError, match="class 2, 'other', has no picture in the data set; those that have are 'without'"
    ):
        fastcam.class_units(models.build("resnet18", 3), loaded, 2, config=three, progress=False)
    with pytest.raises(ValueError, match="class 7 is out of range: the network has classes 0 … 1"):
        fastcam.class_units(models.build("resnet18", 2), loaded, 7, config=CONFIG, progress=False)
    with pytest.raises(ValueError, match="`targets` must be the index of a class"):
        fastcam.class_units(models.build("resnet18", 2), loaded, [], config=CONFIG, progress=False)
    with pytest.raises(ValueError, match="a class's units need a global pooling and one linear layer after the layer"):
        fastcam.class_units(models.build("alexnet", 2), loaded, 1, config=CONFIG, progress=False)
    model = detector()
    model.features.insert(1, Detached())
    with pytest.raises(ValueError, match=r"no gradient of 'features' reaches the pictures.*`receptive_field`"):
        fastcam.class_units(model, loaded, 1, config=CONFIG, progress=False)


class Detached(nn.Module):
    def forward(self, maps):
        return maps.detach()


def test_without_labels_the_highest_class_says_which_pictures_count(tmp_path):
    planted(tmp_path)
    loaded = data.load(tmp_path)
    loaded.labels = None
    model = detector()
    with torch.no_grad():
        model.classifier.bias.copy_(torch.tensor([0.1, 0.0]))
    found = fastcam.class_units(model, loaded, 1, config=CONFIG, top=1, progress=False)
    assert {one.unit for one in found.units} == {DETECTOR}


def test_units_that_are_never_active_are_shown_as_such(tmp_path):
    planted(tmp_path / "data", 4)
    model = detector()
    with torch.no_grad():
        model.features[0].weight[3], model.features[0].bias[3] = 0, -1
        model.classifier.weight[1, 3] = 5
    options = {"config": CONFIG, "top": 1, "by": "weight", "progress": False}
    found = fastcam.class_units(model, data.load(tmp_path / "data"), 1, out=tmp_path / "out", **options)
    assert [(one.unit, one.examples, one.receptive_field) for one in found.units] == [(3, (), 0)]
    assert "This unit is never active" in (tmp_path / "out/with.html").read_text(encoding="utf-8")
    assert (tmp_path / "out/with_weight.png").is_file()


def test_damaged_pictures_are_named(checkpoint, tmp_path):
    planted(tmp_path / "data", 6)
    (tmp_path / "data/with/03.png").write_bytes(b"\x89PNG damaged")
    result = run(
        "units", tmp_path / "data", "--weights", checkpoint, "--out", tmp_path / "out", "--class", 1, "--top", 1
    )
    assert result.exit_code == 3
    assert "with/03.png" in result.output
