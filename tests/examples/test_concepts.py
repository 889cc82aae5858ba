"""Concepts: captions to positives and negatives, and bricks among other textures found by a network of edges."""

import csv
import sys

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fastcam import models
from tests.support.scripts import EXAMPLES, script

concepts, edges, planted = script("concepts"), script("edges"), script("planted")


def test_positives_have_the_phrase_and_negatives_none_of_its_words(tmp_path) -> None:
    captions = {
        "1.jpg": "Mirror in lake, early",
        "2.jpg": "The MIRROR in\nlake",
        "3.jpg": "a lake",
        "4.jpg": "mirrors in lakes",
        "5.jpg": "a road in winter",
        "6.jpg": "mirror, in the lake",
        "7.jpg": "",
    }
    with open(tmp_path / "captions.csv", "w", newline="", encoding="utf-8") as handle:
        csv.writer(handle).writerows([["image_id", "caption"], *captions.items()])
    ids = [*captions, "without.jpg"]
    found = concepts.divide(tmp_path / "captions.csv", "mirror in lake", ids)
    assert found == (["1.jpg", "2.jpg"], ["4.jpg", "5.jpg", "7.jpg"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bricks")
    planted.draw("texture", folder / "data", 180, share=0.4, seed=1)
    edges.main([str(folder / "edges.safetensors")])
    found = concepts.main(
        [
            str(folder / "data"),
            *("--captions", str(folder / "data" / "captions.csv"), "--concept", "bricks"),
            *("--weights", str(folder / "edges.safetensors"), "--held-out", "0.4", "--strength", "1e-3"),
            *("--out", str(folder / "out")),
        ]
    )
    return folder / "data", folder / "out", found


def test_the_peak_of_the_map_lies_on_the_texture(run) -> None:
    """By hand: weights times features, enlarged by OpenCV."""
    data, out, found = run
    with open(data / "boxes.csv", encoding="utf-8") as handle:
        boxes = {
            row["path"]: [float(row[e]) for e in ("x0", "y0", "x1", "y1")]
            for row in csv.DictReader(handle)
            if row["x0"]
        }
    model, _ = models.load_checkpoint(out / "model.safetensors")
    hits = []
    for id in (one.id for one in found if one.id in boxes):
        images = torch.from_numpy(np.array(Image.open(data / id), np.float32) / 127.5 - 1).permute(2, 0, 1)[None]
        with torch.no_grad():
            features = model.features(images)[0].numpy()
        coarse = np.einsum("k,khw->hw", model.classifier.weight[1].detach().numpy(), features)
        row, column = np.unravel_index(cv2.resize(coarse, (224, 224)).argmax(), (224, 224))
        x0, y0, x1, y1 = boxes[id]
        hits.append(x0 <= column < x1 and y0 <= row < y1)
    assert len(hits) == 29
    assert np.mean(hits) >= 0.9


def test_pictures_of_the_concept_come_first(run) -> None:
    _, out, found = run
    shown = [one.id.startswith("with/") for one in found]
    assert len(shown) == 29 + 43
    assert np.mean(shown[:29]) >= 0.85
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    with open(out / "ranking.csv", encoding="utf-8") as handle:
        assert [row["image"] for row in csv.DictReader(handle)] == [one.id for one in found]
    assert (out / "ranked.html").is_file()


def test_too_few_pictures_of_a_concept_are_refused(tmp_path) -> None:
    planted.draw("texture", tmp_path, 6, size=64)
    with pytest.raises(SystemExit, match=r"3 pictures, .*at least 10"):
        concepts.main(
            [
                str(tmp_path),
                "--captions",
                str(tmp_path / "captions.csv"),
                "--concept",
                "bricks",
                "--weights",
                "x",
                "--out",
                "y",
            ]
        )


@pytest.mark.parametrize("name", ["concepts", "edges", "generic_features", "planted"])
def test_help(name, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / f"{name}.py"), "--help"])
    with pytest.raises(SystemExit) as ended:
        script(name).main()
    assert ended.value.code == 0
    assert f"examples/{name}.py" in capsys.readouterr().out
