"""`fastcam evaluate` on the command line, and on real pictures."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fastcam import data as datasets, models
from fastcam.models import ModelConfig
from tests.support import oracle
from tests.support.commands import refused, run
from tests.support.evaluations import CLASSES, write_wsol


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_wsol(tmp_path_factory.mktemp("wsol"), 8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    models.save_checkpoint(path, models.build("resnet18", CLASSES), ModelConfig("resnet18", CLASSES, size=64))
    return path


@pytest.fixture(scope="module")
def done(folder, checkpoint, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("done")
    result = run("evaluate", folder, "--weights", checkpoint, "--save-maps", "--cases", 1, "--out", out)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert any(line.startswith("MaxBoxAccV2") for line in lines)
    assert lines[-1].startswith("8 pictures in ")
    return out


def told(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def test_maps_of_a_network_and_the_same_from_disk(folder, done, tmp_path):
    assert (done / "gallery.html").exists()
    assert told(done)["source"]["arch"] == "resnet18"
    result = run("evaluate", folder, "--maps", done, "--cases", 0, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert told(tmp_path)["figures"] == told(done)["figures"]
    assert "exists already" in refused("evaluate", folder, "--maps", done, "--out", tmp_path)


def test_options_of_the_network(folder, checkpoint, tmp_path):
    options = "--method gradcam --target-layer layer3 --no-relu --smooth eigen --protocol ts-cam --threshold 0.3"
    common = ("evaluate", folder, "--weights", checkpoint, "--cases", 0, "--bootstrap", 0, "--out")
    assert run(*common, tmp_path / "a", *options.split()).exit_code == 0
    source, protocol = (told(tmp_path / "a")[name] for name in ("source", "protocol"))
    expected = {"method": "gradcam", "layers": ["layer3"], "relu": False, "smooth": ["eigen"], "tap": False}
    assert source | expected == source
    assert (protocol["name"], protocol["threshold"]) == ("ts-cam", 0.3)
    options = "--tap --clamp --percentile 90 --mean 0.5 --std 0.2 --size 96 --targets highest"
    assert run(*common, tmp_path / "b", *options.split()).exit_code == 0
    source, protocol = (told(tmp_path / "b")[name] for name in ("source", "protocol"))
    expected = {"tap": True, "clamp": True, "mean": [0.5] * 3, "std": [0.2] * 3, "size": 96, "targets": "highest"}
    assert source | expected == source
    assert protocol["percentile"] == 90


def test_thresholds_of_another_run(folder, done, tmp_path):
    result = run(
        "evaluate", folder, "--maps", done, "--cases", 0, "--threshold-from", done / "metrics.json", "--out", tmp_path
    )
    assert "BoxAccV2" in result.stdout
    figures = told(tmp_path)["figures"]
    assert figures["GT-known Loc"] == figures["MaxBoxAcc"]
    assert told(tmp_path)["BoxAccV2"] == figures["MaxBoxAccV2"]


def test_parts(folder, done, tmp_path):
    common = ("evaluate", folder, "--maps", done, "--cases", 0, "--batch-size", 2)
    for part in ("1/2", "2/2"):
        result = run(*common, "--part", part, "--out", tmp_path / part[0])
        assert result.stdout.startswith("4 pictures in ")
        assert f"part {part}" in result.stdout
    assert run(*common, "--merge", tmp_path / "1", "--merge", tmp_path / "2", "--out", tmp_path / "all").exit_code == 0
    assert run(*common, "--out", tmp_path / "whole").exit_code == 0
    assert (tmp_path / "all" / "metrics.json").read_bytes() == (tmp_path / "whole" / "metrics.json").read_bytes()
    assert "--part must be I/N" in refused(*common, "--part", "1-2", "--out", tmp_path / "x")


def test_boxes_of_localize(folder, checkpoint, done, tmp_path):
    labels = "".join(f"{line}\n" for line in (folder / "class_labels.txt").read_text().split())
    (tmp_path / "targets.csv").write_text(labels)
    common = (
        "--weights",
        checkpoint,
        "--targets",
        tmp_path / "targets.csv",
        "--mode",
        "bicubic",
        "--out",
        tmp_path / "run",
    )
    assert run("localize", folder, *common).exit_code == 0
    result = run(
        "evaluate", folder, "--boxes", tmp_path / "run" / "boxes.parquet", "--cases", 0, "--out", tmp_path / "a"
    )
    assert result.exit_code == 0, result.output
    figures = told(tmp_path / "a")["figures"]
    assert figures["Top-1 Cls"] == told(done)["figures"]["Top-1 Cls"]
    assert {
        "GT-known Loc",
        "BoxAcc 30",
        "BoxAcc 50",
        "BoxAcc 70",
        "Top-1 Loc",
        "Top-5 Loc",
        "mean IoU",
    } < figures.keys()


def test_bad_pictures_and_exit_codes(checkpoint, tmp_path):
    folder = write_wsol(tmp_path / "data", 5)
    (folder / "val" / "002.png").write_bytes(b"no picture")
    common = ("evaluate", folder, "--weights", checkpoint, "--cases", 0, "--out", tmp_path / "a")
    assert "val/002.png: unsupported" in refused(*common)
    result = run(*common, "--skip-bad")
    assert result.exit_code == 3
    assert result.stderr.startswith("fastcam: val/002.png: unsupported")
    assert [id for id, _ in told(tmp_path / "a")["bad"]] == ["val/002.png"]


def test_wrong_usage(folder, checkpoint, done, tmp_path):
    out = ("--out", tmp_path / "x")
    assert "exactly one of" in refused("evaluate", folder, *out)
    assert "exactly one of" in refused("evaluate", folder, *out, "--maps", done, "--weights", checkpoint)
    assert "did you mean rethinking" in refused("evaluate", folder, *out, "--maps", done, "--protocol", "rethinkin")
    assert "are for --weights" in refused("evaluate", folder, *out, "--maps", done, "--arch", "resnet18")
    assert "method: for maps of a `model` only" in refused(
        "evaluate", folder, *out, "--maps", done, "--method", "gradcam"
    )
    assert "no data set" in refused("evaluate", tmp_path / "nowhere", *out, "--maps", done)
    assert "whole pictures" in refused("evaluate", folder, *out, "--maps", done, "--protocol", "rethinking")
    assert "`percentile`" in refused("evaluate", folder, *out, "--maps", done, "--percentile", 101)
    assert not (tmp_path / "x").exists()


# ---- real pictures ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mobilenet(shared) -> tuple:
    weights = shared / "weights" / "mobilenet_v2.pt"
    return ("--weights", weights, "--arch", "mobilenet_v2", "--mean", 0.5, "--std", 0.5)


@pytest.mark.long
def test_figures_on_real_pictures(shared, mobilenet, tmp_path):
    """Those that the plain oracle had, told beside the pictures, within one of 400; exactly on the same maps."""
    folder = shared / "images" / "ilsvrc"
    assert run("evaluate", folder, *mobilenet, "--save-maps", "--cases", 2, "--out", tmp_path).exit_code == 0
    found = told(tmp_path)
    expected = {"Top-1 Cls": 76.25, "MaxBoxAcc": 68.5, "MaxBoxAccV2": 64.67, "GT-known Loc": 68.0}
    assert {name: found["figures"][name] for name in expected} == pytest.approx(expected, abs=0.2501)
    assert found["best_thresholds"]["MaxBoxAcc"] == pytest.approx(0.197, abs=0.02)
    data, curves, ranks = datasets.load(folder), [], []
    for place, row in enumerate(pq.read_table(tmp_path / "maps.parquet").to_pylist()):
        truth = data.truth(place)
        assert (row["image_id"], row["class_id"]) == (truth.id, truth.label)
        map = oracle.upsample(np.frombuffer(row["map"], "<f4").reshape(row["height"], row["width"]), (224, 224))
        boxes = [oracle.resize_box(box, truth.size, (224, 224)) for box in truth.boxes.tolist()]
        curves.append(oracle.iou_curves("standard", map, boxes))
        ranks.append(row["rank"])
    figures, best = oracle.figures("standard", np.array(curves), 0.2, ranks)
    assert found["best_thresholds"] == best
    assert {name: found["figures"][name] for name in figures} == pytest.approx(figures, abs=1e-9)


@pytest.mark.long
def test_native_files_of_cub(shared, mobilenet, tmp_path):
    folder = shared / "images" / "cub"
    options = (*mobilenet, "--targets", "highest", "--cases", 1, "--out", tmp_path)
    assert run("evaluate", folder, *options).exit_code == 0
    found = told(tmp_path)
    assert found["counts"]["with boxes"] == 70
    assert found["figures"]["MaxBoxAcc"] > 40
