"""Runs of several sizes and mirror images: rows, kept maps and what is made of them are those of the methods."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam.export import export
from fastcam.export.maps import MapTable
from fastcam.localization import LocalizeSettings, localize
from fastcam.localization.run_settings import choose_network, decide
from fastcam.methods import METHODS
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.report import write_report
from fastcam.runs.maps import decode_map

CONFIG = ModelConfig("net", 3, size=48)
VIEWS = {"scales": (0.5, 1, 2), "flip": True}


class Net(nn.Module):
    """Convolutions of pictures of any size, but of those that are asked for."""

    def __init__(self, only: int | None = None) -> None:
        super().__init__()
        self.only = only
        self.features = nn.Sequential(nn.Conv2d(3, 8, 5, 4, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(16, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.only is not None and images.shape[-1] != self.only:
            raise RuntimeError(f"this one takes {self.only} pixels")
        return self.fc(self.features(images).mean((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(5):
        small = Image.fromarray(np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8))
        small.resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def run(model, folder, out, **options):
    options = {"config": CONFIG, "batch_size": 2, "progress": False, "threads": 1} | options
    return pq.read_table(localize(model, folder, out=out, **options).path).to_pylist()


def frames(folder, config=CONFIG):
    preprocess = Preprocess.of(config, None)
    found = [preprocess.frame(np.array(Image.open(folder / f"{i}.png")))[0] for i in range(5)]
    return preprocess.normalize(torch.from_numpy(np.stack(found)))


@pytest.mark.parametrize("method", ["cam", "layercam"])
def test_rows_and_kept_maps_are_those_of_the_method(model, folder, tmp_path, method):
    rows = run(model, folder, tmp_path / "run", method=method, maps=True, top_k=2, threshold=0.3, **VIEWS)
    cam, images = METHODS[method](model), frames(folder)
    boxes = cam.boxes(images, top_k=2, threshold=0.3, **VIEWS).flatten(0, 1)
    coarse = cam.coarse(images, top_k=2, **VIEWS)
    scores = cam.outputs.softmax(1).gather(1, cam.targets).flatten()
    assert coarse.shape == (5, 2, 12, 12)
    for row, box, score, map in zip(rows, boxes.tolist(), scores.tolist(), coarse.flatten(0, 1), strict=True):
        scale = [90 / 48, 70 / 48] * 2
        assert [row[side] for side in ("x0", "y0", "x1", "y1")] == pytest.approx(
            [side * factor for side, factor in zip(box, scale, strict=True)], abs=1
        )
        assert row["score"] == pytest.approx(score, abs=1e-5)
        kept = decode_map(row["cam"], row["cam_height"], row["cam_width"])
        assert np.abs(kept / kept.max() - map.numpy()).max() < 1e-3


def test_finished_maps_are_the_same_from_kept_ones(model, folder, tmp_path):
    run(model, folder, tmp_path / "run", method="layercam", maps=True, **VIEWS)
    wanted = fastcam.LayerCAM(model)(frames(folder), **VIEWS).numpy()
    table = MapTable(tmp_path / "run")
    assert wanted.min((1, 2)).max() > 0.01  # so that it matters whether the minimum is subtracted
    for one, map in zip(table, wanted, strict=True):
        assert np.abs(one.at(48) - map).max() < 1e-3
        assert one.at().shape == (70, 90)
        assert one.at().max() == 1
    written = export(tmp_path / "run", "npy", tmp_path / "npy", size=48).path
    assert np.abs(np.load(next(written.rglob("0*.npy"))) - wanted[0]).max() < 1e-3
    assert write_report(tmp_path / "run", images=folder).path.is_file()


def test_the_metadata_say_what_was_summed(model, folder, tmp_path):
    run(model, folder, tmp_path / "run", maps=True, **VIEWS)
    info = MapTable(tmp_path / "run").info
    assert (info["scales"], info["flip"]) == ([0.5, 1.0, 2.0], True)
    plan = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert plan["settings"]["scales"] == [0.5, 1.0, 2.0]
    with pytest.raises(FileExistsError, match=r"flip: True there, False here"):
        run(model, folder, tmp_path / "run", maps=True, scales=(0.5, 1, 2))


@pytest.mark.long
def test_all_boxes_and_workers(model, folder, tmp_path):
    one = run(model, folder, tmp_path / "one", boxes="all", min_area=0, shard_size=2, **VIEWS)
    two = run(model, folder, tmp_path / "two", boxes="all", min_area=0, shard_size=2, workers=2, **VIEWS)
    assert one == two
    largest = run(model, folder, tmp_path / "largest", **VIEWS)
    assert [row for row in one if row["box"] == 1] == largest


def test_a_frozen_network_runs_the_views(model, folder, tmp_path):
    plain = run(model, folder, tmp_path / "plain", **VIEWS)
    frozen = run(model, folder, tmp_path / "frozen", compile="freeze", **VIEWS)
    for ours, theirs in zip(frozen, plain, strict=True):
        for side in ("x0", "y0", "x1", "y1"):
            assert ours[side] == pytest.approx(theirs[side], abs=2)
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_a_network_of_one_size_is_refused_before_anything_is_done(folder, tmp_path):
    for options in ({"scales": (1, 2)}, {"scales": (2,)}, {"scales": (1, 2), "method": "gradcam"}):
        with pytest.raises(ValueError, match="no pictures of 96x96, which those of 48x48 are at the scale 2"):
            run(Net(48).eval(), folder, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    assert len(run(Net(48).eval(), folder, tmp_path / "run", flip=True)) == 5


def test_without_scale_1_rows_are_of_the_first(model, folder, tmp_path):
    rows = run(model, folder, tmp_path / "run", scales=(2, 0.5))
    cam = fastcam.CAM(model)
    cam(frames(folder), scales=(2, 0.5))
    assert [row["class_id"] for row in rows] == cam.targets.tolist()
    wanted = cam.outputs.softmax(1).amax(1).tolist()
    assert [row["score"] for row in rows] == pytest.approx(wanted, abs=1e-5)


def test_auto_measures_the_views(model, monkeypatch):
    passes = []
    hook = model.features.register_forward_hook(lambda module, given, output: passes.append(given[0].shape[-1]))
    try:
        settings = decide(model, CONFIG, LocalizeSettings(compile="auto", batch_size=8, **VIEWS))
        assert passes == [48, 24, 96]
        passes.clear()
        choice, why = choose_network(model, settings, 10)
        assert choice is None
        assert "too few" in why
        assert not passes
        choice, why = choose_network(model, settings, 100_000)
        assert {24, 48, 96} <= set(passes)
        assert "of 100000 pictures" in why
    finally:
        hook.remove()
