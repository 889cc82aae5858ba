"""Average precision in `fastcam.evaluate`, where pictures have several classes: whole, in parts, broken off."""

import dataclasses
import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.metrics import precision_recall_curve
from torchvision.transforms import functional as tf

from fastcam import data as datasets
from fastcam.evaluation import Evaluator, progress
from fastcam.models import ModelConfig
from tests.support import segmentation
from tests.support.commands import refused
from tests.support.evaluations import CONFIG, SIDE, evaluated, network

NAMES = ("yak", "dog", "cat", "zebu", "bee", "ant")  # of the network, which has two that the data set lacks
COUNT = 26


@pytest.fixture(scope="module")
def voc(tmp_path_factory) -> Path:
    return segmentation.write_voc(tmp_path_factory.mktemp("voc"), COUNT)[0]


def config(scores: str | None = "sigmoid") -> ModelConfig:
    return dataclasses.replace(CONFIG, class_names=NAMES, scores=scores)


def predictions(voc: Path) -> tuple[np.ndarray, np.ndarray]:
    """Logits and truth [N, 6] with nothing but PIL, torch and XML."""
    model, logits, truth = network(), [], []
    for number in range(COUNT):
        picture = Image.open(voc / f"JPEGImages/{number}.jpg").convert("RGB")
        image = tf.to_tensor(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        with torch.no_grad():
            logits.append(model(tf.normalize(image, CONFIG.mean, CONFIG.std)[None])[0])
        names = {item.findtext("name") for item in ET.parse(voc / f"Annotations/{number}.xml").iter("object")}
        truth.append([name in names for name in NAMES])
    return torch.stack(logits).double().numpy(), np.array(truth)


def interpolated(scores: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """In percent, from scikit-learn's curve, whose last point is recall 0."""
    precision, recall, _ = precision_recall_curve(truth, scores)
    highest = np.maximum.accumulate(precision[:-1])[::-1]  # from the lowest recall up
    steps = np.diff(recall[:-1][::-1], prepend=0)
    points = [
        max(p for p, r in zip(precision[:-1], recall[:-1], strict=True) if r >= k / 100 - 1e-12) for k in range(101)
    ]
    return {"AP voc2010": 100 * float(highest @ steps), "AP coco": 100 * float(np.mean(points))}


def expected(voc: Path, scores: str | None) -> tuple[dict[str, float], dict[int, dict[str, float]]]:
    """mAP, and average precision of the classes that there are."""
    logits, truth = predictions(voc)
    values = logits if scores == "sigmoid" else torch.from_numpy(logits).softmax(1).numpy()
    classes = {c: interpolated(values[:, c], truth[:, c]) for c in np.flatnonzero(truth.any(0)).tolist()}
    means = {f"m{name}": float(np.mean([row[name] for row in classes.values()])) for name in ("AP voc2010", "AP coco")}
    return means, classes


def told(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


@pytest.mark.parametrize("scores", ["sigmoid", "softmax", None])
def test_average_precision_is_that_of_plain_predictions(voc, tmp_path, scores) -> None:
    summary = evaluated(voc, tmp_path / "a", config=config(scores))
    means, classes = expected(voc, scores)
    figures = summary.metrics["figures"]
    assert {name: figures[name] for name in means} == pytest.approx(means, abs=1e-9)
    assert list(figures)[:3] == [*means, "Top-1 Cls"]
    found = {row["class"]: {n: v for n, v in row.items() if n.startswith("AP")} for row in summary.metrics["classes"]}
    assert found.keys() == classes.keys() == {1, 2, 4, 5}
    assert all(found[number] == pytest.approx(classes[number], abs=1e-9) for number in classes)
    assert f"mAP voc2010   {means['mAP voc2010']:7.2f}  over 4 classes" in summary.table
    # As options say, in place of the configuration.
    if scores is not None:
        other = evaluated(voc, tmp_path / "b", config=config(None), scores=scores).metrics
        assert other["figures"] == figures
        assert other["source"] == summary.metrics["source"]


def test_softmax_and_sigmoid_rank_pictures_differently(voc) -> None:
    assert expected(voc, "softmax")[0] != expected(voc, "sigmoid")[0]


def test_other_figures_are_those_of_single_labels(voc, tmp_path) -> None:
    data = datasets.load(voc)
    single = datasets.Pictures(
        data.root, data.ids, labels=data.labels, boxes=data.boxes, sizes=data.sizes, class_names=data.class_names
    )
    several = evaluated(voc, tmp_path / "a", config=config()).metrics
    plain = evaluated(single, tmp_path / "b", config=config()).metrics
    assert {n: v for n, v in several["figures"].items() if "mAP" not in n} == plain["figures"]
    assert not any("AP voc2010" in row or "AP coco" in row for row in plain["classes"])
    assert "ranked" not in plain["source"]
    assert several["intervals"] == plain["intervals"]
    highest = evaluated(voc, tmp_path / "c", config=config(), targets="highest").metrics
    assert not any("mAP" in name for name in highest["figures"])


def test_parts_and_a_run_that_goes_on_have_the_same_figures(voc, tmp_path, monkeypatch) -> None:
    whole = evaluated(voc, tmp_path / "whole", config=config()).metrics
    for index in (1, 2, 3):
        evaluated(voc, tmp_path / str(index), config=config(), part=(index, 3), batch_size=4)
    parts = [tmp_path / str(index) for index in (2, 3, 1)]
    merged = evaluated(voc, tmp_path / "merged", config=config(), merge=parts).metrics
    assert merged == whole

    save, calls = progress.Progress.save, iter(range(1, 100))

    def broken(self, position: int) -> None:
        save(self, position)
        if next(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(progress.Progress, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        evaluated(voc, tmp_path / "broken", config=config(), save_every=2)
    monkeypatch.setattr(progress.Progress, "save", save)
    with pytest.raises(ValueError, match=r"has source .*\"scores\": \"sigmoid\".*, not .*\"scores\": \"softmax\""):
        evaluated(voc, tmp_path / "broken", config=config("softmax"), resume=True)
    assert evaluated(voc, tmp_path / "broken", config=config(), resume=True).metrics == whole


def test_pictures_that_are_left_out_do_not_count(voc, tmp_path) -> None:
    root = tmp_path / "voc"
    root.mkdir()
    for name in ("Annotations", "ImageSets", "SegmentationClass"):
        (root / name).symlink_to(voc / name)
    (root / "JPEGImages").mkdir()
    for path in (voc / "JPEGImages").iterdir():
        (root / "JPEGImages" / path.name).write_bytes(b"no picture" if path.stem == "7" else path.read_bytes())
    summary = evaluated(root, tmp_path / "out", config=config(), skip_bad=True)
    assert [id for id, _ in summary.bad] == ["7.jpg"]
    logits, truth = (np.delete(values, 7, 0) for values in predictions(voc))
    wanted = np.mean([interpolated(logits[:, c], truth[:, c])["AP voc2010"] for c in (1, 2, 4, 5)])
    assert summary.metrics["figures"]["mAP voc2010"] == pytest.approx(wanted, abs=1e-9)
    rows = pq.read_table(tmp_path / "out" / "pictures.parquet").to_pylist()
    assert sum(row["status"] == "ok" for row in rows) == COUNT - 1


def test_a_result_takes_scores_of_any_evaluator() -> None:
    evaluator = Evaluator(bootstrap=0, metrics=["MaxBoxAcc"])
    sample = datasets.Sample(None, 0, np.array([[0, 0, 99, 99]], np.float32), size=(100, 100))
    evaluator.add(["a"], torch.rand(1, 224, 224), [sample])
    result = evaluator.result()
    result.add_precision([2, 5], np.array([[1.0, 0.2], [0.5, 0.1]]), np.array([[True, False], [False, False]]))
    assert (result.figures["mAP voc2010"], result.figures["mAP coco"]) == (100, 100)
    assert result.classes() == [{"class": 2, "pictures": 0, "AP voc2010": 100, "AP coco": 100}]
    with pytest.raises(ValueError, match="no picture has any of the classes"):
        result.add_precision([2], np.zeros((1, 1)), np.zeros((1, 1), bool))


def test_classes_that_the_network_lacks(voc, tmp_path) -> None:
    data = datasets.load(voc)
    data.classes = [(*found, 9) for found in data.classes]
    with pytest.raises(ValueError, match=r"the data set has class 9, none of the network's 6: give its `config`"):
        evaluated(data, tmp_path / "a", config=None)


def test_the_command_line_has_the_option(voc, tmp_path) -> None:
    message = refused("evaluate", voc, "--out", tmp_path, "--boxes", tmp_path / "none", "--scores", "sigmoid")
    assert "scores: for maps of a `model` only" in message
