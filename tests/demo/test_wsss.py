"""Drawn pictures to pseudo-labels end to end: the demo, the commands that it prints, and its figures once more."""

import contextlib
import io
import json
import shlex
import xml.etree.ElementTree as ET

import numpy as np
import pytest
import torch
from PIL import Image

from fastcam import demo, models
from fastcam.data import load
from fastcam.data.drawn_voc import NAMES
from tests.support.commands import run

SMALL = {"pictures": (48, 8, 16), "size": 64, "epochs": 1}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folder, figures and printed lines of a small run."""
    folder = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        result = demo.wsss.run("demo", seed=2, progress=False, **SMALL)
    return folder / "demo", result, printed.getvalue().splitlines()


def _labels(folder, id: str) -> np.ndarray:
    return np.array(Image.open(folder / f"{id[:-4]}.png"))


def _miou(pseudo, truth, ids: list[str]) -> float:
    """Of labels in files: a confusion matrix over the pixels that count."""
    matrix = np.zeros((len(NAMES) + 1,) * 2, np.int64)
    for id in ids:
        true, found = _labels(truth, id), _labels(pseudo, id)
        assert true.shape == found.shape
        counted = true != 255
        np.add.at(matrix, (true[counted], found[counted]), 1)
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    return 100 * np.mean(matrix.diagonal()[union > 0] / union[union > 0])


def _area(scores: np.ndarray, truth: np.ndarray) -> float:
    """Under the highest precision at each recall or above, of scores that do not tie."""
    hits = truth[np.argsort(-scores)]
    precision = hits.cumsum() / np.arange(1, len(hits) + 1)
    return np.mean([precision[place:].max() for place in np.flatnonzero(hits)])


def test_figures_are_those_of_the_files_that_it_writes(done):
    out, result, printed = done
    truth, ids = out / "data/SegmentationClass", load(out / "data", "test").ids
    assert len(ids) == 16
    assert result.plain == pytest.approx(_miou(out / "labels-plain", truth, ids))
    assert result.refined == pytest.approx(_miou(out / "labels-refined", truth, ids))
    last = f"mAP {result.mean_ap:.1f} %, mIoU {result.plain:.1f} %, refined {result.refined:.1f} %"
    assert last in printed
    with Image.open(out / "segments.png") as figure:
        assert min(figure.size) > 200


def test_mean_average_precision_is_that_of_the_network_on_the_test_pictures(done):
    out, result, _ = done
    model, config = models.load_checkpoint(out / "train/best.safetensors")
    assert config.scores == "sigmoid"
    data, scores, truth = load(out / "data", "test"), [], []
    for sample in data:
        pixels = torch.tensor(np.array(sample.image.resize((64, 64), Image.Resampling.BILINEAR)))
        pixels = pixels.permute(2, 0, 1)[None] / 255
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (config.mean, config.std))
        with torch.no_grad():
            scores.append(model((pixels - mean) / std)[0].numpy())
        root = ET.parse(out / f"data/Annotations/{sample.id[:-4]}.xml")
        there = {item.findtext("name") for item in root.iter("object")}
        truth.append([name in there for name in NAMES])
    truth = np.array(truth)
    areas = [_area(score, true) for score, true in zip(np.array(scores).T, truth.T, strict=True) if true.any()]
    assert result.mean_ap == pytest.approx(100 * np.mean(areas))


def test_printed_commands_do_the_same_once_more(done, tmp_path, monkeypatch):
    out, _, printed = done
    commands = [shlex.split(line)[2:] for line in printed if line.startswith("$ fastcam ")]
    assert [words[0] for words in commands] == [
        "train",
        "evaluate",
        *["localize"] * 2,
        *["evaluate"] * 4,
        *["export"] * 2,
    ]
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/data").symlink_to(out / "data")
    monkeypatch.chdir(tmp_path)
    for words in commands:
        run(*words)
    again = tmp_path / "demo"
    assert (again / "train/best.safetensors").read_bytes() == (out / "train/best.safetensors").read_bytes()
    for name in ("classes", *(f"{split}-{kind}" for split in ("val", "test") for kind in ("plain", "refined"))):
        first, second = (json.loads((root / "measured" / name / "metrics.json").read_text()) for root in (out, again))
        assert first["figures"] == second["figures"]
    for path in sorted(out.glob("labels-*/*.png")):
        assert path.read_bytes() == (again / path.relative_to(out)).read_bytes()


@pytest.mark.long
def test_it_learns_the_classes_and_refinement_gains_three_points(tmp_path):
    result = demo.wsss.run(tmp_path / "demo", progress=False)
    assert result.mean_ap >= 90
    assert result.refined >= result.plain + 3
