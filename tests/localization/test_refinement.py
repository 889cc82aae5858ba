"""Boxes of maps drawn to the edges of the network's frame, against the same done with plain twins and SciPy."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage

from fastcam.localization import LocalizeSettings, localize
from fastcam.reference import refine as twin
from tests.support.commands import run as command
from tests.support.engine_run import CONFIG, SIZE, Tiny


@pytest.fixture(scope="module")
def model() -> Tiny:
    torch.manual_seed(3)
    return Tiny().eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five pictures of a bright rectangle each."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for index in range(5):
        pixels = rng.integers(30, 60, (48, 70, 3), np.uint8)
        x, y = rng.integers(5, 30, 2)
        pixels[y : y + 15, x : x + 30] += rng.integers(80, 190, 3, np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.png")
    return folder


def rows(model, folder, out, **options) -> list[dict]:
    options = {"config": CONFIG, "progress": False, "batch_size": 2} | options
    return pq.read_table(localize(model, folder, out=out, **options).path).to_pylist()


def corners(row) -> list[float]:
    return [row[edge] for edge in ("x0", "y0", "x1", "y1")]


@torch.no_grad()
def refined_map(model, picture: Path, class_id: int) -> np.ndarray:
    """float64 [SIZE, SIZE] in [0, 1]: frame, CAM, upsampling and twin, step by step."""
    frame = np.array(Image.open(picture).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    pixels = torch.from_numpy(frame).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(values)[:, None, None] for values in (CONFIG.mean, CONFIG.std))
    coarse = torch.einsum(
        "k,khw->hw", model.classifier.weight[class_id], model.features((pixels / 255 - mean) / std)[0]
    )
    map = F.interpolate(coarse[None, None], (SIZE, SIZE), mode="bilinear", align_corners=False)
    map = (map - map.min()) / (map.max() - map.min())
    map = twin(map, pixels)[0, 0].double().numpy()
    return (map - map.min()) / (map.max() - map.min())


def largest(mask: np.ndarray) -> list[float]:
    labels, _ = ndimage.label(mask, np.ones((3, 3)))
    ys, xs = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()]
    return [xs.start * 70 / SIZE, ys.start * 48 / SIZE, xs.stop * 70 / SIZE, ys.stop * 48 / SIZE]


def test_boxes_are_those_of_the_refined_map(model, folder, tmp_path):
    plain = rows(model, folder, tmp_path / "plain", top_k=2)
    found = rows(model, folder, tmp_path / "refined", top_k=2, refine="pamr")
    paper = rows(model, folder, tmp_path / "paper", boxes="paper", refine="pamr")
    every = rows(model, folder, tmp_path / "all", boxes="all", min_area=0.001, refine="pamr", threshold=0.5)
    assert [row["score"] for row in plain] == [row["score"] for row in found]
    assert [corners(row) for row in plain] != [corners(row) for row in found]
    for row in found:
        map = refined_map(model, folder / row["image_id"], row["class_id"])
        assert np.abs(map - 0.2).min() > 1e-6  # no pixel hangs on rounding
        np.testing.assert_allclose(corners(row), largest(map > np.float32(0.2)), atol=1e-4)
    for row in paper:
        map = refined_map(model, folder / row["image_id"], row["class_id"])
        level = np.float32(0.2 if row["box"] == 1 else 0.4)
        np.testing.assert_allclose(corners(row), largest(map > level), atol=1e-4)
    for row in every:
        map = refined_map(model, folder / row["image_id"], row["class_id"])
        x0, y0, x1, y1 = np.round(np.array(corners(row)) * SIZE / np.array([70, 48] * 2)).astype(int)
        assert row["box_score"] == pytest.approx(row["score"] * map[y0:y1, x0:x1].max(), abs=1e-5)
        if row["box"] == 1:
            np.testing.assert_allclose(corners(row), largest(map > 0.5), atol=1e-4)


def test_whoever_computes_and_however_the_rows_are_the_same(model, folder, tmp_path):
    wanted = rows(model, folder, tmp_path / "whole", refine="pamr")
    assert rows(model, folder, tmp_path / "shards", refine="pamr", shard_size=2) == wanted
    assert rows(model, folder, tmp_path / "workers", refine="pamr", shard_size=2, workers=2) == wanted
    for name, options in (("reference", {"backend": "reference"}), ("frozen", {"compile": "freeze"})):
        for ours, theirs in zip(rows(model, folder, tmp_path / name, refine="pamr", **options), wanted, strict=True):
            np.testing.assert_allclose(corners(ours), corners(theirs), atol=70 / SIZE)  # a pixel of the frame
    gradient = rows(model, folder, tmp_path / "gradient", refine="pamr", method="gradcam", relu=False)
    for ours, theirs in zip(gradient, wanted, strict=True):  # the same map but for a factor, in this network
        np.testing.assert_allclose(corners(ours), corners(theirs), atol=70 / SIZE)


def test_a_compiled_network_is_refined_too(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    wanted = rows(model, folder, tmp_path / "plain", refine="pamr")
    found = rows(model, folder, tmp_path / "compiled", refine="pamr", compile="default")
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(corners(ours), corners(theirs), atol=1e-4)


def test_kept_maps_stay_as_they_are_and_the_table_says_so(model, folder, tmp_path):
    plain = rows(model, folder, tmp_path / "plain", maps=True)
    found = rows(model, folder, tmp_path / "refined", maps=True, refine="pamr", overlays=1)
    assert [row["cam"] for row in found] == [row["cam"] for row in plain]
    info = json.loads(pq.read_schema(tmp_path / "refined/boxes.parquet").metadata[b"fastcam"])
    assert info["refine"] == "pamr"
    assert len([*(tmp_path / "refined/overlays").iterdir()]) == 1
    with pytest.raises(FileExistsError, match="refine: pamr there, None here"):
        localize(model, folder, out=tmp_path / "refined", config=CONFIG, progress=False, batch_size=2, maps=True)
    with pytest.raises(ValueError, match="`refine` must be one of None, pamr, got 'crf'"):
        LocalizeSettings(refine="crf")


def test_the_command_refines_what_it_exports(model, folder, tmp_path, monkeypatch):
    torch.save(model.state_dict(), tmp_path / "tiny.pt")
    monkeypatch.setattr("fastcam.models.load_network", lambda *_, **__: (model, CONFIG))
    options = ("--weights", tmp_path / "tiny.pt", "--maps", "--to", "labels,csv", "--device", "cpu")
    out = tmp_path / "run"
    assert command("localize", folder, "--out", out, "--refine", "pamr", *options).exit_code == 0
    assert json.loads((out / "labels/fastcam-export.json").read_text())["refine"] == "pamr"
    assert command("export", out, "--to", "labels", "--out", tmp_path / "plain").exit_code == 0
    assert json.loads((tmp_path / "plain/fastcam-export.json").read_text())["refine"] is None
    assert command("export", out, "--to", "labels", "--out", tmp_path / "again", "--refine", "pamr").exit_code == 0
    written = sorted((out / "labels").glob("*.png"))
    assert len(written) == 5
    for path in written:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
