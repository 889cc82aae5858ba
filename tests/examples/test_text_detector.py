"""The text detector on drawn scenes with words in half of them, with a network that knows edges alone."""

import csv
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastcam import models
from tests.support.scripts import EXAMPLES, script

edges, planted, text_detector = script("edges"), script("planted"), script("text_detector")


class _Run(NamedTuple):
    data: Path
    out: Path
    found: list
    measured: tuple
    boxes: dict[str, np.ndarray]  # true ones of the pictures that were not trained on


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> _Run:
    folder = tmp_path_factory.mktemp("text")
    listed = planted.draw("text", folder / "data", 210, test_fraction=1 / 3, seed=5)
    edges.main([str(folder / "edges.safetensors")])
    found, measured = text_detector.main(
        [
            *(str(folder / "data" / name) for name in ("with", "without")),
            *("--truth", str(listed)),
            *("--weights", str(folder / "edges.safetensors")),
            *("--strength", "3e-4"),
            *("--out", str(folder / "out")),
        ]
    )
    with open(listed, encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle) if row["split"] == "test" and row["x0"]]
    boxes = {
        row["path"].replace("with/", "text/"): np.array([float(row[e]) for e in ("x0", "y0", "x1", "y1")])
        for row in rows
    }
    return _Run(folder / "data", folder / "out", found, measured, boxes)


def test_the_peak_of_the_map_lies_on_the_text(run) -> None:
    """By hand: weights times features, enlarged by OpenCV."""
    model, _ = models.load_checkpoint(run.out / "model.safetensors")
    hits = []
    for id, (x0, y0, x1, y1) in run.boxes.items():
        pixels = np.array(Image.open(run.data / id.replace("text/", "with/")), np.float32)
        images = torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            features = model.features(images)[0].numpy()
        coarse = np.einsum("k,khw->hw", model.classifier.weight[1].detach().numpy(), features)
        row, column = np.unravel_index(cv2.resize(coarse, (224, 224)).argmax(), (224, 224))
        hits.append(x0 <= column < x1 and y0 <= row < y1)
    assert len(hits) == 35
    assert np.mean(hits) >= 0.9
    assert run.measured.peak == pytest.approx(np.mean(hits), abs=0.03)  # maps are kept in half precision


def test_boxes_lie_over_the_text(run) -> None:
    rows = pq.read_table(run.out / "held-out" / "boxes.parquet").to_pylist()
    largest = {row["image_id"]: np.array([row[e] for e in ("x0", "y0", "x1", "y1")]) for row in rows if row["box"] == 1}
    ious = []
    for id, truth in run.boxes.items():
        box = largest[id]
        common = np.prod(np.maximum(np.minimum(box[2:], truth[2:]) - np.maximum(box[:2], truth[:2]), 0))
        ious.append(common / (np.prod(box[2:] - box[:2]) + np.prod(truth[2:] - truth[:2]) - common))
    assert np.mean(np.array(ious) > 0.3) >= 0.6
    assert sorted(run.measured.iou) == pytest.approx(sorted(ious), abs=1e-4)


def test_pictures_with_text_come_first_and_none_was_trained_on(run) -> None:
    scores = [one.score for one in run.found]
    assert scores == sorted(scores, reverse=True)
    first = [one.id.startswith("text/") for one in run.found[: len(run.boxes)]]
    assert np.mean(first) > 0.75
    trained = set(pq.read_table(run.out / "features.parquet")["id"].to_pylist())
    assert not trained & {one.id for one in run.found}
    assert set(run.boxes) <= {one.id for one in run.found}
    with open(run.out / "ranking.csv", encoding="utf-8") as handle:
        ranking = list(csv.DictReader(handle))
    assert list(dict.fromkeys(row["image"] for row in ranking)) == [one.id for one in run.found]
    assert (run.out / "ranked.png").read_bytes().startswith(b"\x89PNG")
    assert (run.out / "ranked.html").read_text("utf-8").count("<article>") == 12


def test_truth_of_svt(tmp_path) -> None:
    (tmp_path / "test.xml").write_text(
        '<?xml version="1.0" encoding="utf-8"?><tagset><image><imageName>img/14_03.jpg</imageName>'
        '<lex>LIVING,ROOM</lex><Resolution x="1280" y="880"/><taggedRectangles>'
        '<taggedRectangle height="75" width="236" x="375" y="253"><tag>LIVING</tag></taggedRectangle>'
        '<taggedRectangle height="76" width="175" x="639" y="272"><tag>ROOM</tag></taggedRectangle>'
        "</taggedRectangles></image></tagset>"
    )
    assert {id: boxes.tolist() for id, boxes in text_detector.read_truth(tmp_path / "test.xml").items()} == {
        "img/14_03.jpg": [[375, 253, 611, 328], [639, 272, 814, 348]]
    }


def test_other_xml_is_refused(tmp_path) -> None:
    file = tmp_path / "test.xml"
    for text in ("<tagset><image>", "<tagset><image><taggedRectangle x='1' y='2' width='3'/></image></tagset>"):
        file.write_text(text)
        with pytest.raises(SystemExit, match="no XML file of SVT"):
            text_detector.read_truth(file)


def test_it_runs_as_a_script() -> None:
    done = subprocess.run([sys.executable, EXAMPLES / "text_detector.py", "--help"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "SVT" in done.stdout
