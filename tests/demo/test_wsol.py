"""The demo end to end, at toy size."""

import dataclasses
import inspect

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from fastcam import _progress, demo, models
from fastcam.data.shapes import Shapes
from fastcam.training import PRESETS, Settings, read_toml, train


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[tuple[demo.DemoResult, object]]:
    results = []
    for _ in range(2):
        out = tmp_path_factory.mktemp("demo")
        results.append((demo.run(out, seed=1, pictures=(40, 16, 24), epochs=1, progress=False), out))
    return results


def test_it_writes_what_it_promises(runs) -> None:
    result, out = runs[0]
    table = pq.read_table(out / "boxes.parquet")
    assert table.num_rows == 24
    assert set(table["status"].to_pylist()) == {"ok"}
    _, config = models.load_checkpoint(out / "best.safetensors")
    assert config.threshold == result.threshold
    page = (out / "gallery.html").read_text()
    assert page.count("data:image/jpeg") == 3 * 24
    assert "striped disc" in page
    hero = cv2.imread(str(out / "hero.png"), cv2.IMREAD_UNCHANGED)
    assert hero.shape[2] == 4
    assert hero.shape[1] > 3 * hero.shape[0]
    assert (out / "training.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "metrics.jsonl").read_text().count("\n") == 1


def test_figures_follow_from_the_table_and_the_truth(runs) -> None:
    result, out = runs[0]
    rows = pq.read_table(out / "boxes.parquet").to_pylist()
    data, hits = Shapes("test", 24, seed=1), 0
    for row, sample in zip(rows, data, strict=True):
        assert (row["image_id"], row["class_id"]) == (sample.id, sample.label)
        a, b = np.array([row[edge] for edge in ("x0", "y0", "x1", "y1")]), sample.boxes[0]
        overlap = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
        hits += overlap / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap) >= 0.5
    assert result.gt_known_loc == pytest.approx(100 * hits / 24)
    assert result.top1_cls == pytest.approx(100 * np.mean([row["rank"] == 1 for row in rows]))
    assert 0 < result.best_center_box < 50
    assert 0 <= result.max_box_acc <= 100


def test_the_training_is_that_of_the_preset(runs) -> None:
    _, out = runs[0]
    trained = Settings.of(None, read_toml(out / "settings.toml"))
    resolved = {name: getattr(trained, name) for name in ("best_by", "lr")}  # beside what the test asks for
    assert trained == dataclasses.replace(PRESETS["shapes"], epochs=1, seed=1, **resolved)
    assert inspect.signature(demo.run).parameters["epochs"].default == PRESETS["shapes"].epochs


def test_same_seed_same_result(runs) -> None:
    (first, a), (second, b) = runs
    assert first == second
    for name in ("boxes.parquet", "hero.png", "gallery.html", "best.safetensors"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_a_line_now_and_then_where_there_is_no_terminal(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(_progress, "_EVERY", 0.0)
    demo.run(tmp_path, seed=1, pictures=(40, 16, 24), epochs=1)
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("epoch 1/1: 0 of 40 img in 00:00")
    assert any(line.startswith("epoch 1/1: 40 of 40 img in ") and ", test accuracy " in line for line in said)
    assert any(line.startswith("24 of 24 picture in ") for line in said)
    assert all(said)
    train((Shapes("train", 16), Shapes("val", 8)), size=32, epochs=1, out=tmp_path / "silent", device="cpu")
    assert capsys.readouterr().err == ""


def test_it_can_run_again_into_the_same_folder(runs, capsys) -> None:
    result, out = runs[0]
    assert demo.run(out, seed=1, pictures=(40, 16, 24), epochs=1, progress=False) == result
    printed = capsys.readouterr().out
    for label in ("Top-1 Cls", "GT-known Loc", "MaxBoxAcc", "best centre box"):
        assert label in printed
