"""Training on several classes a picture, from drawn pictures to mean average precision."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from fastcam import models, training
from fastcam.data import Sample
from fastcam.evaluation import average_precision
from fastcam.pictures import Preprocess
from fastcam.training import TrainingResult
from fastcam.training.network import Trainee
from tests.support.colours import Colours, figures
from tests.support.commands import refused
from tests.support.several import Several, run

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"loss": "bce", "device": "cpu", "progress": False, "size": 32}
QUICK = SMALL | {"arch": "shufflenet_v2_x0_5", "batch_size": 8, "epochs": 2}


def logits_of(path: Path, data: Several) -> np.ndarray:
    model, config = models.load_checkpoint(path)
    frames = torch.stack([Preprocess.of(config)(data[index].image)[0] for index in range(len(data))])
    with torch.inference_mode():
        return model(frames).numpy()


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> TrainingResult:
    data = Several(240, size=32), Several(80, 1, 32)
    return training.train(data, out=tmp_path_factory.mktemp("several"), epochs=4, batch_size=16, **SMALL)


def test_drawn_pictures_are_learnt(trained) -> None:
    assert trained.history[-1]["test_mAP"] >= 0.9
    assert trained.config.scores == "sigmoid"
    shares = {"train_exact_match", "test_exact_match", "test_mAP"}
    for entry in trained.history:
        assert shares <= set(entry)
        assert not {"train_accuracy", "test_accuracy"} & set(entry)
        assert all(0 <= entry[name] <= 1 for name in shares)
    assert [json.loads(line) for line in trained.metrics.read_text().splitlines()] == trained.history
    assert trained.curve.read_bytes().startswith(b"\x89PNG")


def test_the_figures_are_those_of_the_checkpoints_own_predictions(trained) -> None:
    data = Several(80, 1, 32)
    truth = data.truth_table
    best = max(trained.history, key=lambda entry: entry["test_mAP"])  # what best.safetensors goes by
    for path, entry in ((trained.best, best), (trained.last, trained.history[-1])):
        logits = logits_of(path, data)
        probabilities = 1 / (1 + np.exp(-logits.astype(float)))
        assert entry["test_exact_match"] == ((probabilities > 0.5) == truth).all(1).mean()
        # Monotone precision lies above scikit-learn's, by little where rankings are good.
        assert entry["test_mAP"] == pytest.approx(average_precision(probabilities, truth).mean(), abs=1e-3)
        plain = average_precision_score(truth, probabilities)
        assert plain <= entry["test_mAP"] + 1e-6
        assert entry["test_mAP"] == pytest.approx(plain, abs=0.03)
        loss = torch.nn.BCEWithLogitsLoss()(torch.from_numpy(logits), torch.from_numpy(truth).float()).item()
        assert entry["test_loss"] == pytest.approx(loss, rel=1e-3)


def test_single_labels_are_classes_like_others(tmp_path) -> None:
    result = training.train((Colours(24), Colours(8)), out=tmp_path, **QUICK)
    truth = np.eye(2, dtype=bool)[np.arange(8) % 2]
    wanted = average_precision(logits_of(result.last, Colours(8)), truth).mean()
    assert result.history[-1]["test_mAP"] == pytest.approx(wanted)


def test_a_broken_off_training_ends_as_the_whole_one(tmp_path, monkeypatch) -> None:
    data = Several(24, size=32), Several(12, 1, 32)
    options = QUICK | {"class_weights": "balanced", "ema": 0.9, "accumulate": 2, "checkpoint_every": 1}
    whole = training.train(data, out=tmp_path / "whole", **options)
    step, calls = Trainee.step, iter(range(1, 100))

    def broken(*arguments: object) -> torch.Tensor:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(Trainee, "step", broken)
    with pytest.raises(KeyboardInterrupt):
        training.train(data, out=tmp_path / "part", **options)
    monkeypatch.setattr(Trainee, "step", step)
    part = training.train(data, out=tmp_path / "part", resume=True, device="cpu", progress=False)
    assert figures(part) == figures(whole)
    for name in ("last", "best", "settings"):
        assert getattr(part, name).read_bytes() == getattr(whole, name).read_bytes()
    again = training.train(data, out=tmp_path / "part", resume=True, class_weights="balanced", progress=False)
    assert again.history == part.history
    with pytest.raises(ValueError, match=r"trained with other class weights: \(.*\), now \(1\.0, 1\.0, 1\.0, 2\.0\)"):
        training.train(data, out=tmp_path / "part", resume=True, class_weights=(1, 1, 1, 2), progress=False)


def test_frozen_features_train_the_classifier_alone(trained, tmp_path) -> None:
    data = Several(16, size=32), Several(8, 1, 32)
    options = SMALL | {"weights": trained.best, "freeze": "features", "epochs": 1, "batch_size": 8}
    result = training.train(data, out=tmp_path, **options)
    before, after = (models.load_checkpoint(path)[0].state_dict() for path in (trained.best, result.last))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fc.weight", "fc.bias"}


class Empty(Several):
    """No picture has anything."""

    def __init__(self, count: int) -> None:
        super().__init__(count, size=32)
        self.classes, self.labels = [()] * count, [None] * count


class Untold(Empty):
    """And nobody knows before they are read."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.found, self.classes = self.classes, None

    def __getitem__(self, index: int) -> Sample:
        return Sample(np.zeros((32, 32, 3), np.uint8), classes=self.found[index])

    def __len__(self) -> int:
        return len(self.found)


class Unknown(Several):
    """Of one picture nothing is known."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return sample._replace(label=None, classes=None) if index == 3 else sample


@pytest.mark.parametrize(
    ("data", "values", "message"),
    [
        ((Several(8), Empty(4)), {}, "no picture to test on has any of the classes"),
        ((Several(8), Untold(4)), {}, "no picture to test on has any of the classes"),
        ((Unknown(8), Several(8)), {}, r"sample 3 has no label \(picture '3\.png'\)"),
        ((Several(8), Several(8)), {"loss": "cross-entropy"}, r"has none of the classes \(picture '\d\.png'\)"),
        ((Several(8), Several(8)), {"best_by": "test_accuracy"}, "must be test_mAP, test_exact_match or test_loss"),
        ((Colours(8), Colours(8)), {"loss": "cross-entropy", "best_by": "test_mAP"}, "mAP is for a loss like bce"),
        ((Several(8), Several(8)), {"class_weights": "1,2"}, "a number for each of 4 classes, got 2"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*pictures to train on have several classes:UserWarning")
def test_what_cannot_be_is_refused(tmp_path, data, values, message) -> None:
    with pytest.raises(ValueError, match=message):
        training.train(data, out=tmp_path, **QUICK | values)
    assert not list(tmp_path.glob("*.safetensors"))


def test_the_command_line_has_the_options(tmp_path) -> None:
    message = refused("train", "shapes", "--loss", "bce", "--class-weights", "1,2", "--out", str(tmp_path))
    assert "a number for each of 8 classes, got 2" in message
    message = refused("train", "shapes", "--class-weights", "missing.csv", "--out", str(tmp_path))
    assert "there is no file missing.csv" in message


@pytest.mark.long
def test_two_processes_measure_as_one(tmp_path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "tests.support.several", str(tmp_path / "two")]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=300, capture_output=True)
    alone = run(tmp_path / "one")
    shared = [json.loads(line) for line in (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()]
    assert len(shared) == len(alone.history) == 2
    for mine, theirs in zip(alone.history, shared, strict=True):
        for name in ("train_loss", "test_loss", "train_exact_match", "test_exact_match", "test_mAP"):
            assert theirs[name] == pytest.approx(mine[name], abs=1e-4), name
    # Of all 21 test pictures, each once.
    data = Several(21, 1, 32)
    wanted = average_precision(logits_of(tmp_path / "two" / "last.safetensors", data), data.truth_table).mean()
    assert shared[-1]["test_mAP"] == pytest.approx(wanted, abs=1e-6)
