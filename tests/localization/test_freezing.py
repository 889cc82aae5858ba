"""Runs with a frozen network: rows as of the network itself, the same bits from all processes, and what is chosen."""

import itertools

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import resnet18

from fastcam.localization import LocalizeSettings, Plan, localize, prepare, run_settings
from fastcam.localization.engines import torchrun
from fastcam.localization.run_settings import choose_network, decide
from fastcam.models import ModelConfig

CONFIG = ModelConfig("resnet18", 5, size=64)
BATCH = {"batch_size": 4, "shard_size": 4, "threads": 1, "config": CONFIG, "progress": False}


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return resnet18(num_classes=5).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(10):
        small = Image.fromarray(np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8))
        small.resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def rows(summary):
    return pq.read_table(summary.path).to_pylist()


@pytest.mark.parametrize("method", ["cam", "eigencam", "gradcam"])
def test_rows_are_those_of_the_network_itself(model, folder, tmp_path, method):
    plain = localize(model, folder, out=tmp_path / "plain", method=method, **BATCH)
    frozen = localize(model, folder, out=tmp_path / "frozen", method=method, compile="freeze", **BATCH)
    assert plain.network is None
    assert frozen.network.startswith("frozen in ")
    for ours, theirs in zip(rows(frozen), rows(plain), strict=True):
        assert ours["class_id"] == theirs["class_id"]
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert [ours[side] for side in ("x0", "y0", "x1", "y1")] == pytest.approx(
            [theirs[side] for side in ("x0", "y0", "x1", "y1")], abs=90 / 64
        )


def test_the_same_bits_from_workers_and_after_a_resumption(model, folder, tmp_path):
    alone = localize(model, folder, out=tmp_path / "alone", compile="freeze", **BATCH)
    many = localize(model, folder, out=tmp_path / "many", compile="freeze", workers=2, **BATCH)
    prepare(
        model, folder, out=tmp_path / "resumed", compile="freeze", **{k: v for k, v in BATCH.items() if k != "progress"}
    )
    resumed = localize(model, folder, out=tmp_path / "resumed", compile="freeze", **BATCH)
    assert rows(alone) == rows(many) == rows(resumed)
    with pytest.raises(FileExistsError, match="compile: freeze there, None here"):
        localize(model, folder, out=tmp_path / "alone", **BATCH)


def test_what_cannot_be_frozen_runs_as_it_is_written(model, folder, tmp_path):
    early = {"method": "gradcam", "target_layers": ("layer3",)} | BATCH
    plain = localize(model, folder, out=tmp_path / "plain", **early)
    asked = localize(model, folder, out=tmp_path / "asked", compile="freeze", **early)
    assert rows(asked) == rows(plain)
    wanted = "as it is written: it was not frozen, since GradCAM takes gradients, which a frozen network does not have"
    assert asked.network == wanted
    half = localize(model, folder, out=tmp_path / "half", precision="bfloat16", compile="freeze", **BATCH)
    assert half.network.endswith("float32 on a CPU with oneDNN, this one runs in bfloat16 on cpu")


@pytest.mark.parametrize(("pictures", "chosen"), [(1000, "freeze"), (75, None)])
def test_auto_takes_what_repays_the_start(model, pictures, chosen):
    settings = decide(model, CONFIG, LocalizeSettings(compile="auto", batch_size=8))
    # 2 s to freeze; then passes of 8 pictures in turns, 160 ms as it is written and 80 ms frozen.
    steps = [0, 2, *[0, 0.16, 0, 0.08] * 3]
    clock = itertools.accumulate(steps)
    found, why = choose_network(model, settings, pictures, lambda: next(clock))
    assert found == chosen
    saved = pictures / 100
    verdict = "frozen" if chosen else "as it is written"
    assert why == (
        f"{verdict}: freezing takes 2.0 s and saves {saved:.1f} s of {pictures} pictures, "
        "at 10.0 instead of 20.0 ms each"
    )


def test_auto_is_decided_once_for_a_run(model, folder, tmp_path, monkeypatch):
    asked = []

    def choose(model, settings, pictures):
        asked.append(pictures)
        return "freeze", "frozen: it was cheap"

    monkeypatch.setattr("fastcam.localization.plan.choose_network", choose)
    options = {k: v for k, v in BATCH.items() if k != "progress"}
    prepare(model, folder, out=tmp_path / "run", compile="auto", **options)
    assert Plan.load(tmp_path / "run").settings.options.compile == "freeze"
    summary = localize(model, folder, out=tmp_path / "run", compile="auto", **BATCH)
    assert asked == [10]
    assert summary.network.startswith("frozen: it was cheap; frozen in ")
    assert rows(summary) == rows(localize(model, folder, out=tmp_path / "other", compile="freeze", **BATCH))


def test_ranks_leave_the_choice_to_the_plan(model):
    for compile, compared in (("auto", False), ("freeze", True), (None, True)):
        settings = decide(model, CONFIG, LocalizeSettings(compile=compile))
        assert ("compile" in torchrun._decisive(settings)) == compared


def test_auto_does_not_try_for_few(model, folder, tmp_path):
    summary = localize(model, folder, out=tmp_path / "run", compile="auto", **BATCH)
    assert summary.network == "as it is written: 10 pictures are too few to freeze it"
    assert run_settings._MANY > 10
