"""What a training tells: callbacks and the best checkpoint, localization, TensorBoard, bars, where the time went."""

import copy
import io
import re

import numpy as np
import pytest
import torch
from tqdm import tqdm

from fastcam import evaluation, methods, models, ops, training
from fastcam.data import Sample
from fastcam.data.shapes import Shapes
from fastcam.pictures import Preprocess
from fastcam.training import records
from tests.support.colours import TINY, Colours


def test_the_callbacks_figure_chooses_the_best_epoch(tmp_path) -> None:
    seen, figures = [], iter([1.0, 3.0, 3.0, 2.0])

    def callback(model, config, data) -> dict[str, float]:
        torch.rand(1)  # must not move the training's random numbers
        assert not model.training
        assert len(data) == 4
        seen.append(copy.deepcopy(model.state_dict()))
        return {"found": next(figures)}

    data, options = (Colours(16), Colours(4)), {"epochs": 4, **TINY}
    result = training.train(data, out=tmp_path / "a", callback=callback, best_by="found", **options)
    assert [entry["found"] for entry in result.history] == [1, 3, 3, 2]
    for path, epoch in ((result.best, 1), (result.last, 3)):  # the earlier of two best ones
        state = models.load_checkpoint(path)[0].state_dict()
        assert all(torch.equal(value, seen[epoch][name]) for name, value in state.items())
    plain = training.train(data, out=tmp_path / "b", **options)
    assert plain.last.read_bytes() == result.last.read_bytes()


def test_the_lowest_test_loss_can_be_best(tmp_path) -> None:
    result = training.train((Colours(16), Colours(8)), out=tmp_path, epochs=3, best_by="test_loss", lr=0.01, **TINY)
    losses = [entry["test_loss"] for entry in result.history]
    model, _ = models.load_checkpoint(result.best)
    images = torch.stack([Preprocess(32)(Colours(8)[i].image)[0] for i in range(8)])
    loss = torch.nn.functional.cross_entropy(model(images), torch.arange(8) % 2).item()
    assert loss == pytest.approx(min(losses), rel=1e-4)


def test_a_figure_that_there_is_not_is_refused(tmp_path) -> None:
    data = Colours(8), Colours(4)
    with pytest.raises(ValueError, match=r"without a callback, got 'MaxBoxAcc'"):
        training.train(data, out=tmp_path / "a", epochs=1, best_by="MaxBoxAcc", **TINY)
    with pytest.raises(ValueError, match=r"one of the epoch's figures, .*test_loss.* got 'MaxBoxAcc'"):
        training.train(data, out=tmp_path / "b", epochs=1, best_by="MaxBoxAcc", callback=lambda *_: {}, **TINY)


def test_localization_each_epoch(tmp_path) -> None:
    data = Shapes("train", 16, 64), Shapes("val", 12, 64)
    result = training.train(
        data,
        out=tmp_path,
        epochs=1,
        arch="resnet18",
        size=64,
        batch_size=8,
        callback=evaluation.localizer(batch_size=5),
    )
    model, config = models.load_checkpoint(result.last)
    samples = [data[1][index] for index in range(12)]
    images = torch.stack([Preprocess.of(config)(sample.image)[0] for sample in samples])
    coarse = methods.CAM(model).coarse(images, [sample.label for sample in samples])
    maps = ops.heatmap(coarse.double(), 224, relu=False, mode="bicubic")
    truth = np.trunc(np.concatenate([sample.boxes for sample in samples]) * 224 / 64)
    wanted = evaluation.max_box_acc(maps, truth).accuracy
    entry = result.history[0]
    assert entry["MaxBoxAcc"] == pytest.approx(wanted)
    assert entry["Top-1 Cls"] == pytest.approx(100 * entry["test_accuracy"])
    assert {"GT-known Loc", "Top-1 Loc"} <= set(entry)


def test_tensorboards_scalars_are_the_histories(tmp_path, monkeypatch) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.setattr(records, "_EVERY", 2)
    result = training.train((Colours(24), Colours(4)), out=tmp_path, epochs=2, tensorboard=True, **TINY)
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "learning_rate"):
        scalars = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        assert scalars == [(e["step"], pytest.approx(e[name], rel=1e-6)) for e in result.history], name
    assert [scalar.step for scalar in events.Scalars("step/loss")] == [2, 4, 6]


def test_tensorboard_that_is_not_installed_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r'pip install "fastcam\[tensorboard\]"'):
        training.train((Colours(8), Colours(4)), out=tmp_path, epochs=1, tensorboard=True, **TINY)


def test_the_bar_tells_loss_accuracy_rate_and_time_left(tmp_path, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    class Eager(tqdm):
        def __init__(self, **options: object) -> None:
            super().__init__(mininterval=0, **options)

    terminal = Terminal()
    monkeypatch.setattr(records, "tqdm", Eager)
    monkeypatch.setattr("sys.stderr", terminal)
    training.train((Colours(32), Colours(4)), out=tmp_path, epochs=2, **TINY | {"progress": True})
    text = terminal.getvalue()
    assert "epoch 2/2" in text
    assert re.search(r"img/s, loss \d\.\d+, accuracy [\d.]+%, \d\d:\d\d left in all", text)
    assert "test accuracy" in text


@pytest.mark.parametrize("loss", ["cross-entropy", "bce"])
def test_the_bar_tells_what_the_loss_is_of(tmp_path, monkeypatch, loss) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    result = training.train((Colours(16), Colours(4)), out=tmp_path, epochs=1, loss=loss, **TINY | {"progress": True})
    share, test = ("accuracy", "accuracy") if loss == "cross-entropy" else ("exact match", "mAP")
    text, value = terminal.getvalue(), result.history[-1][f"test_{test}"]
    assert re.search(rf"img/s, loss \d\.\d+, {share} [\d.]+%, test {test} {100 * value:.1f}%", text)


def test_localization_leaves_out_pictures_of_no_class(tmp_path) -> None:
    class Some(Shapes):
        def __getitem__(self, index: int) -> Sample:
            sample = super().__getitem__(index)
            return sample._replace(classes=(sample.label,)) if index % 4 else Sample(sample.image, classes=())

    data = Shapes("train", 8, 32), Some("val", 12, 32)
    callback = evaluation.localizer(batch_size=1)
    entry = training.train(data, out=tmp_path, epochs=1, loss="bce", callback=callback, **TINY | {"size": 64}).history[
        0
    ]
    assert 0 <= entry["MaxBoxAcc"] <= 100
    assert entry["MaxBoxAcc"] * 9 / 100 == pytest.approx(round(entry["MaxBoxAcc"] * 9 / 100))  # of nine pictures


def test_the_clock_divides_time(monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = records.Clock(torch.device("cpu"), records.Spent(10.0, 4.0, 5.0, 100))
    for data, compute, rest in ((1, 2, 0.5), (0.25, 3, 0)):
        with clock.waiting():
            now[0] += data
        with clock.computing(8):
            now[0] += compute
        now[0] += rest
    assert clock.spent == (10 + 6.75, 4 + 1.25, 5 + 5, 116)
    assert clock.spent == (10 + 6.75, 4 + 1.25, 5 + 5, 116)


def test_the_parts_of_the_time_are_in_the_history(tmp_path) -> None:
    result = training.train((Colours(24), Colours(4)), out=tmp_path, epochs=2, **TINY)
    for entry in result.history:
        assert 0 <= entry["data_seconds"] + entry["compute_seconds"] <= entry["seconds"]
        assert entry["images_per_second"] == pytest.approx(24 / entry["seconds"])
