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
from tests.support.trunks import edge_network

planted, concepts = script("planted"), script("concepts")


def test_captions_in_both_layouts(tmp_path) -> None:
    (tmp_path / "a.csv").write_text('image,caption\na/1.jpg,"A dog, in a lake"\na/2.jpg,\n', "utf-8")
    (tmp_path / "b.txt").write_text("1.jpg#0\tA dog.\n1.jpg#1\tThe dog, swimming\n2.jpg#0\tA cat\n", "utf-8")
    assert concepts.read_captions(tmp_path / "a.csv") == {"a/1.jpg": "A dog, in a lake", "a/2.jpg": ""}
    assert concepts.read_captions(tmp_path / "b.txt") == {"1.jpg": "A dog.\nThe dog, swimming", "2.jpg": "A cat"}
    (tmp_path / "c.csv").write_text("file,text\n1.jpg,A dog\n", "utf-8")
    with pytest.raises(SystemExit, match="columns image and caption"):
        concepts.read_captions(tmp_path / "c.csv")


def test_positives_have_the_phrase_and_negatives_none_of_its_words() -> None:
    captions = {
        "1": "Mirror in lake, early",
        "2": "The MIRROR in\nlake",
        "3": "a lake",
        "4": "mirrors in lakes",
        "5": "a road in winter",
        "6": "mirror, in the lake",
        "7": "",
    }
    assert concepts.divide(captions, "mirror in lake") == (["1", "2"], ["4", "5", "7"])
    assert concepts.divide(captions, "in") == (["1", "2", "4", "5", "6"], ["3", "7"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bricks")
    planted.draw("texture", folder / "data", 180, share=0.4, seed=1)
    models.save_checkpoint(folder / "edges.safetensors", *edge_network())
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


@pytest.mark.parametrize("name", ["concepts", "generic_features", "planted"])
def test_help(name, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", [str(EXAMPLES / f"{name}.py"), "--help"])
    with pytest.raises(SystemExit) as ended:
        script(name).main()
    assert ended.value.code == 0
    assert f"examples/{name}.py" in capsys.readouterr().out
