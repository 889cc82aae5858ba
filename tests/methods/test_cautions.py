"""Maps that can show nothing: layers of one position, and runs in which most maps are constant, are told of, once."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from typer.testing import CliRunner

import fastcam
from fastcam import cli, metrics, models
from fastcam.data import Sample
from fastcam.evaluation import localizer
from fastcam.evaluation.compare import compare
from fastcam.methods import METHODS, MapWarning, create
from fastcam.methods.cautions import constant, single
from fastcam.models import ModelConfig

SIDE = 32
CONFIG = ModelConfig("net", 3, size=SIDE)


class Net(nn.Module):
    """Features of a kernel and stride of choice; `deaf` is a layer that no score depends on."""

    def __init__(self, kernel=4, channels: int = 4) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, channels, kernel, stride=kernel), nn.Softplus())
        self.deaf, self.fc = nn.Conv2d(3, channels, 4, stride=4), nn.Linear(channels, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(images).mean((2, 3)) + 0 * self.deaf(images).mean((2, 3)))


class Squeezed(nn.Module):
    """Convolution, squeeze and excitation, pooling as a module."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.pool = nn.Conv2d(3, 8, 4, stride=4), nn.AdaptiveAvgPool2d(1)
        self.block, self.fc = torchvision.ops.SqueezeExcitation(8, 2), nn.Linear(8, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.pool(self.block(self.features(images))).flatten(1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(noise).save(path / f"{index}.png")
    return path


@pytest.fixture
def data() -> list[Sample]:
    random = np.random.default_rng(0)
    boxes = np.float32([[4, 4, 20, 20]])
    pixels = random.integers(0, 256, (4, SIDE, SIDE, 3), np.uint8)
    return [Sample(image, i % 3, boxes, id=str(i), size=(SIDE, SIDE)) for i, image in enumerate(pixels)]


def localized(model, source, out, **options):
    summary = fastcam.localize(model, source, out=out, **{"config": CONFIG, "progress": False} | options)
    return summary, pq.read_table(summary.path).to_pylist()


def messages(heard) -> list[str]:
    assert all(issubclass(warning.category, MapWarning) for warning in heard)
    return [str(warning.message) for warning in heard]


# ---- what is said ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2, 2), (1, 7), (7, 1), (14, 14)])
def test_layers_of_several_positions_are_told_nothing(grid):
    assert single({"layer": grid}) is None


def test_most_maps_are_more_than_half_of_at_least_two():
    grids = {"layer": (7, 7)}
    for count, total in ((0, 0), (0, 5), (1, 1), (1, 2), (2, 4), (500, 1000)):
        assert constant(count, total, grids) is None
    for count, total in ((2, 2), (2, 3), (501, 1000)):
        assert f"{count} of {total} maps are constant" in constant(count, total, grids)
        assert "layer (7x7)" in constant(count, total, grids)
    assert constant(2, 2, {"a": (1, 1)}) is None  # said already
    assert "a (1x1), b (7x7)" in constant(2, 2, {"a": (1, 1), "b": (7, 7)})
    assert constant(2, 2, {}) == "2 of 2 maps are constant and show nothing"


# ---- methods ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["pool", "block", "block.fc1", "block.avgpool"])
def test_poolings_and_squeezed_blocks(layer, images):
    cam = create("gradcam", Squeezed(), target_layers=layer)
    if layer == "block":  # which gives its input, scaled
        assert cam(images).any()
        return
    with pytest.warns(MapWarning, match=f"the target layer {layer} gives maps of 1x1") as heard:
        maps = cam(images)
    assert not maps.any()
    assert heard[0].filename == __file__
    for call in (cam.boxes, cam.coarse, cam):  # it was said
        call(images)
    assert len(messages(heard)) == len(cam.cautions) == 1


@pytest.mark.parametrize("method", METHODS)
def test_every_method_and_a_run_of_several(method, images):
    model = Net(SIDE)
    cams = [create(name, model, target_layers="features") for name in (method, "eigencam")]
    run = fastcam.methods.observe(cams, images)
    for cam in cams:
        with pytest.warns(MapWarning, match="features gives maps of 1x1"):
            cam.boxes(run)


def test_one_of_several_layers(images):
    cam = fastcam.LayerCAM(Squeezed(), ["features", "pool"])
    with pytest.warns(MapWarning, match="the target layer pool gives"):
        assert cam(images).any()
    assert cam.grids == {"features": (8, 8), "pool": (1, 1)}


def test_resnet_by_the_size_of_its_pictures():
    model, cam = models.build("resnet18", 3), None
    cam = fastcam.CAM(model)
    with pytest.warns(MapWarning, match="layer4 gives maps of 1x1"):
        cam(torch.randn(1, 3, 32, 32))
    assert cam(torch.randn(1, 3, 33, 33)).any()  # 2 x 2


# ---- localize --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"batch_size": 2, "workers": 2, "shard_size": 2}, {"boxes": "all"}])
def test_a_single_position(folder, tmp_path, capfd, options):
    with pytest.warns(MapWarning, match="features gives maps of 1x1") as heard:
        summary, rows = localized(Net(SIDE), folder, tmp_path / "out", **options)
    assert len(messages(heard)) == 1
    assert heard[0].filename == __file__
    assert (summary.rows, summary.empty, summary.errors) == (4, 4, 0)
    assert {(row["status"], row["x0"], row["y0"], row["x1"], row["y1"]) for row in rows} == {("ok", 0, 0, 0, 0)}
    assert "Warning" not in capfd.readouterr().err  # of the workers


def test_a_finished_run_says_it_again(folder, tmp_path):
    model = Net(SIDE)
    for _ in range(2):
        with pytest.warns(MapWarning, match="features gives maps of 1x1") as heard:
            summary, _ = localized(model, folder, tmp_path / "out")
        assert messages(heard) == list(summary.cautions)
        assert summary.empty == 4


@pytest.mark.parametrize(("kernel", "grid"), [((SIDE, 4), (1, 8)), ((4, SIDE), (8, 1))])
def test_maps_of_one_row_or_column_have_boxes(folder, tmp_path, kernel, grid):
    """They are constant along one axis: the box reaches from edge to edge."""
    summary, rows = localized(Net(kernel), folder, tmp_path / "out", method="eigencam", target_layers="features")
    assert (summary.empty, summary.cautions) == (0, ())
    across = ("y0", "y1", 40) if grid[0] == 1 else ("x0", "x1", 30)
    assert {(row[across[0]], row[across[1]]) for row in rows} == {(0, across[2])}


def test_a_layer_that_no_score_depends_on(folder, tmp_path):
    options = {"method": "gradcam", "target_layers": "deaf"}
    with pytest.warns(
        MapWarning, match=r"4 of 4 maps are constant and show nothing: target layer deaf \(8x8\)"
    ) as heard:
        summary, _ = localized(Net(), folder, tmp_path / "out", **options)
    assert len(heard) == 1
    assert summary.empty == 4
    told = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (told["maps"], told["empty"], told["cautions"]) == (4, 4, list(summary.cautions))


def test_the_last_block_of_a_vision_transformer(folder, tmp_path):
    model = torchvision.models.VisionTransformer(SIDE, 8, 1, 2, 16, 16, num_classes=3)
    nn.init.normal_(model.heads.head.weight)
    for method in ("gradcam", "layercam", "ablationcam"):
        options = {"method": method, "target_layers": "encoder.ln"}
        with pytest.warns(MapWarning, match=r"4 of 4 maps are constant .* encoder\.ln \(4x4\)"):
            localized(model, folder, tmp_path / method, **options)
    summary, _ = localized(model, folder, tmp_path / "before", method="gradcam")  # the default, before that block
    assert summary.empty < 4


def test_dead_units_and_numbers_that_are_not_finite(folder, tmp_path):
    dead = Net()
    dead.features[1] = nn.ReLU()
    nn.init.constant_(dead.features[0].bias, -1e3)
    with pytest.warns(MapWarning, match="4 of 4 maps are constant"):
        summary, rows = localized(dead, folder, tmp_path / "dead", method="gradcam", target_layers="features")
    assert summary.empty == 4

    class Overflow(Net):
        def forward(self, images):
            maps = self.features(images)
            return self.fc(maps.nan_to_num(0).mean((2, 3)))

    broken = Overflow()
    nn.init.constant_(broken.features[0].bias[:1], torch.nan)  # finite logits, maps that are not
    with pytest.warns(MapWarning, match="its numbers are not finite"):
        summary, rows = localized(broken, folder, tmp_path / "nan", method="eigencam", target_layers="features")
    assert summary.empty == summary.rows == 4
    assert {(row["status"], row["x1"]) for row in rows} == {("ok", 0)}


def test_single_constant_maps_are_ordinary(tmp_path):
    """Flat pictures have flat maps: they are counted, and no more is said of one, or of half of them."""
    flat, noise = np.full((SIDE, SIDE, 3), 90, np.uint8), np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3))
    noise = noise.astype(np.uint8)
    options = {"method": "eigencam", "target_layers": "features"}
    for name, pictures, empty in (("one", [flat], 1), ("half", [flat, noise, noise, flat], 2)):
        summary, _ = localized(Net(), [Sample(picture) for picture in pictures], tmp_path / name, **options)
        assert (summary.empty, summary.cautions) == (empty, ())
    summary, _ = localized(Net(), [Sample(flat)] * 3, tmp_path / "cam")  # as the pictures are, whatever the layer
    assert (summary.empty, summary.cautions) == (3, ())
    with pytest.warns(MapWarning, match="2 of 3 maps are constant"):
        localized(Net(), [Sample(flat), Sample(noise), Sample(flat)], tmp_path / "most", **options)


def test_rows_of_several_boxes_and_classes_are_counted_once(folder, tmp_path):
    model = Net()
    with torch.no_grad():
        model.fc.weight[1] = 0  # one class of three has a constant map
    summary, rows = localized(model, folder, tmp_path / "out", top_k=3, boxes="all", min_area=0.0, threshold=0.8)
    assert summary.empty == 4
    assert len(rows) > 12
    told = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert (told["maps"], told["empty"]) == (12, 4)


# ---- explain, evaluate, compare, training, metrics -------------------------------------------------------------------


def test_explain(folder, tmp_path):
    options = {"config": CONFIG, "progress": False}
    with pytest.warns(MapWarning, match=r"Grad-CAM: 4 of 4 maps are constant .* deaf \(8x8\)") as heard:
        fastcam.explain(Net(), folder, out=tmp_path / "a", layers=["deaf", "features"], **options)
    assert len(heard) == 1
    methods = ["gradcam", "eigencam", "guided-gradcam"]
    model = Net(SIDE)
    model.features[1] = nn.ReLU()  # as guided backprop wants it
    nn.init.constant_(model.features[0].bias, 100.0)
    with pytest.warns(MapWarning, match="features gives maps of 1x1") as heard:
        fastcam.explain(model, folder, out=tmp_path / "b", layers=["features"], methods=methods, **options)
    assert len(messages(heard)) == 1
    fastcam.explain(Net(), folder / "0.png", out=tmp_path / "c", layers=["deaf"], **options)  # one alone


@pytest.mark.parametrize(
    ("net", "layer", "match"),
    [
        (lambda: Net(), "deaf", r"4 of 4 maps are constant and show nothing: target layer deaf \(8x8\)"),
        (lambda: Net(SIDE), "features", "the target layer features gives maps of 1x1"),
    ],
)
def test_evaluate_and_compare(data, tmp_path, net, layer, match):
    options = {"config": CONFIG, "target_layers": layer, "bootstrap": 0, "progress": False}
    with pytest.warns(MapWarning, match=match) as heard:
        fastcam.evaluate(data, model=net(), out=tmp_path / "a", method="gradcam", cases=0, batch_size=2, **options)
    assert len(messages(heard)) == 1
    with pytest.warns(MapWarning, match=match) as heard:
        found = compare(net(), data, methods=["gradcam", "hirescam"], pictures=0, batch_size=2, **options)
    assert [entry.result.maps for entry in found.entries] == [(4, 4), (4, 4)]
    assert len(messages(heard)) == (1 if layer == "features" else 2)


def test_folders_of_maps(data, tmp_path):
    (tmp_path / "maps").mkdir()
    for sample in data:
        np.save(tmp_path / "maps" / f"{sample.id}.npy", np.full((224, 224), 0.5, np.float32))
    with pytest.warns(MapWarning, match="^4 of 4 maps are constant and show nothing$"):
        fastcam.evaluate(data, maps=tmp_path / "maps", out=tmp_path / "out", bootstrap=0, cases=0, progress=False)


def test_parts_of_an_evaluation_are_told_of_together(data, tmp_path):
    options = {"config": CONFIG, "target_layers": "deaf", "method": "gradcam", "bootstrap": 0, "progress": False}
    options |= {"model": Net(), "cases": 0, "batch_size": 2}
    parts = [tmp_path / "1", tmp_path / "2"]
    for index, part in enumerate(parts, 1):
        fastcam.evaluate(data, out=part, part=(index, 2), **options)
    with pytest.warns(MapWarning, match="4 of 4 maps are constant"):
        fastcam.evaluate(data, out=tmp_path / "whole", merge=parts, **options)


def test_localization_after_an_epoch(data):
    model = models.to_gap(models.build("alexnet", 3), units=8)
    nn.init.zeros_(model.classifier.weight)
    with pytest.warns(MapWarning, match=r"4 of 4 maps are constant .* target layer features"):
        figures = localizer()(model.eval(), ModelConfig("alexnet-gap", 3, size=64), data)
    assert "GT-known Loc" in figures


def test_metrics_that_go_by_the_order_of_pixels(images):
    model, flat = Net(), torch.zeros(2, SIDE, SIDE)
    for measure in (metrics.insertion, metrics.deletion, metrics.road):
        with pytest.warns(MapWarning, match="2 of 2 maps are constant"):
            measure(model, images, flat, **({} if measure is metrics.road else {"steps": 2}))
        flat[0, 0, 0] = 1
        measure(model, images, flat, **({} if measure is metrics.road else {"steps": 2}))
        flat[0, 0, 0] = 0
    metrics.confidence_change(model, images, flat + 1)  # a map that shows all is a map


# ---- command line ----------------------------------------------------------------------------------------------------


def test_lines_of_the_commands(folder, tmp_path):
    torch.manual_seed(0)
    models.save_checkpoint(
        tmp_path / "net.safetensors", models.build("resnet18", 3), ModelConfig("resnet18", 3, size=SIDE)
    )
    common = ["--weights", str(tmp_path / "net.safetensors"), "--device", "cpu", "--out"]
    result = CliRunner().invoke(cli.app, ["localize", str(folder), *common, str(tmp_path / "run")])
    assert result.exit_code == 0
    assert result.stdout.startswith("4 pictures, 4 rows in ")
    said = "fastcam: the target layer layer4 gives maps of 1x1: a single position is constant and shows nothing"
    first, second = result.stderr.splitlines()
    assert first.startswith(said)
    assert second == "fastcam: 4 rows have no box, since their maps are constant"
    result = CliRunner().invoke(cli.app, ["explain", str(folder), *common, str(tmp_path / "figures")])
    assert (result.exit_code, len(result.stderr.splitlines())) == (0, 1)
    assert result.stderr.startswith(said)
