"""Training, on networks and pictures small enough for a second each."""

import json

import pytest
import torch
from PIL import Image

from fastcam import models, training
from fastcam.data import Sample
from fastcam.data.shapes import Shapes
from fastcam.pictures import DecodeError, Preprocess
from tests.support.colours import TINY, Colours, figures


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> training.TrainingResult:
    out = tmp_path_factory.mktemp("trained")
    # BatchNorm's running statistics take some epochs of so few batches, and more on some processors than on others.
    options = TINY | {"epochs": 12, "batch_size": 16, "lr": 0.02, "optimizer": "sgd"}
    return training.train((Colours(96), Colours(16)), out=out, **options)


def test_loss_falls_and_everything_is_written(trained) -> None:
    history = trained.history
    assert [entry["epoch"] for entry in history] == [*range(1, 13)]
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]
    assert history[-1]["train_accuracy"] > 0.9
    assert history[-1]["test_accuracy"] > 0.9
    assert [json.loads(line) for line in trained.metrics.read_text().splitlines()] == history
    assert trained.curve.read_bytes().startswith(b"\x89PNG")
    names = {path.name for path in trained.best.parent.iterdir()}
    assert names == {
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "training.png",
        "settings.toml",
        "state.pt",
    }


def test_checkpoint_gives_the_accuracy_that_was_reported(trained) -> None:
    best = max(trained.history, key=lambda entry: entry["test_accuracy"])
    for path, entry in ((trained.best, best), (trained.last, trained.history[-1])):
        model, config = models.load_checkpoint(path)
        assert config == trained.config
        assert config.class_names == ("blue", "red")
        data = Colours(16)
        images = torch.stack([Preprocess.of(config)(data[i].image)[0] for i in range(16)])
        with torch.inference_mode():
            logits = model(images)
        labels = torch.arange(16) % 2
        assert (logits.argmax(1) == labels).double().mean().item() == entry["test_accuracy"]
        loss = torch.nn.functional.cross_entropy(logits, labels).item()
        assert loss == pytest.approx(entry["test_loss"], rel=1e-4)


def test_same_seed_same_weights_and_the_callers_generator_is_left_alone(tmp_path) -> None:
    state = torch.get_rng_state()
    runs = [
        training.train((Colours(19), Colours(4)), out=tmp_path / name, epochs=2, seed=seed, **TINY)
        for name, seed in (("a", 7), ("b", 7), ("c", 8))
    ]
    assert torch.equal(torch.get_rng_state(), state)
    weights = [models.load_checkpoint(run.last)[0].state_dict() for run in runs]
    same = [all(torch.equal(value, other[key]) for key, value in weights[0].items()) for other in weights[1:]]
    assert same == [True, False]
    assert figures(runs[0]) == figures(runs[1])


def test_a_left_over_picture_and_a_single_step_are_no_trouble(tmp_path) -> None:
    result = training.train((Colours(9), Colours(2)), out=tmp_path, epochs=1, **TINY)
    assert len(result.history) == 1


@pytest.mark.parametrize(("pictures", "epochs"), [(8, 2), (8, 10), (16, 5)])
def test_few_steps_are_enough_for_the_schedule(pictures, epochs, tmp_path) -> None:
    result = training.train((Colours(pictures), Colours(4)), out=tmp_path, epochs=epochs, **TINY)
    assert len(result.history) == epochs


def test_training_goes_on_from_given_weights(trained, tmp_path) -> None:
    still = {"epochs": 1, "lr": 1e-12, "weight_decay": 0.0}
    same = training.train((Colours(8), Colours(16)), out=tmp_path / "same", weights=trained.best, **still, **TINY)
    start, end = (models.load_checkpoint(path)[0] for path in (trained.best, same.last))
    for (name, a), b in zip(start.named_parameters(), end.parameters(), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    # Another number of classes: only the classifier begins anew.
    data = Shapes("train", 8, size=32), Shapes("val", 8, size=32)
    other = training.train(data, out=tmp_path / "other", weights=trained.best, **still, **TINY)
    end = models.load_checkpoint(other.last)[0]
    assert end.fc.weight.shape == (8, 1024)
    for (name, a), b in zip(start.named_parameters(), end.parameters(), strict=True):
        if not name.startswith("fc."):
            torch.testing.assert_close(a, b, msg=name)


def test_folder(tmp_path) -> None:
    data = Colours(12)
    for index in range(12):
        folder = tmp_path / "data" / data.class_names[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data[index].image).save(folder / f"{index}.png")
    result = training.train(tmp_path / "data", out=tmp_path / "out", epochs=1, **TINY)
    assert result.config.class_names == ("blue", "red")
    (tmp_path / "data" / "red" / "3.png").write_bytes(b"\x89PNG")
    with pytest.raises(ValueError, match=r"red.3\.png"):
        training.train(str(tmp_path / "data"), out=tmp_path / "out2", epochs=1, **TINY)


def test_splits_and_another_set_to_test_on(tmp_path) -> None:
    data = Colours(12)
    for index in range(12):
        for place in ("all", "split/train" if index < 8 else "split/test"):
            folder = tmp_path / place / data.class_names[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(data[index].image).save(folder / f"{index}.png")
    whole, split = str(tmp_path / "all"), str(tmp_path / "split")
    for number, (values, pictures) in enumerate(
        (
            ({"data": split}, (8, 4)),
            ({"data": split, "train_split": "test", "test_split": "train"}, (4, 8)),
            ({"data": split, "test_data": whole, "train_split": "train"}, (8, 12)),
            ({"data": whole, "test_data": split, "test_split": "test"}, (12, 4)),
        )
    ):
        result = training.train(out=tmp_path / str(number), epochs=1, **values, **TINY)
        assert torch.load(result.state, weights_only=True)["pictures"] == pictures


def test_a_damaged_picture_keeps_the_epochs_before(tmp_path) -> None:
    with pytest.raises(DecodeError, match="picture 5: no end"):
        training.train((Colours(8), Colours(8, broken=5)), out=tmp_path, epochs=1, **TINY)
    assert not list(tmp_path.glob("*.tmp"))


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(tmp_path, monkeypatch) -> None:
    genuine, calls = torch.nn.functional.cross_entropy, []

    def diverging(*args, **options):
        calls.append(options)
        loss = genuine(*args, **options)
        return loss * float("nan") if len(calls) == 5 else loss  # the second epoch's second step

    monkeypatch.setattr(torch.nn.functional, "cross_entropy", diverging)
    with pytest.raises(FloatingPointError, match=r"became nan after 8 pictures.*learning rate"):
        training.train((Colours(16), Colours(8)), out=tmp_path, epochs=3, **TINY)
    model, _ = models.load_checkpoint(tmp_path / "last.safetensors")
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_an_infinite_weight_is_found_before_it_is_saved(tmp_path, monkeypatch) -> None:
    # The epoch's last step spoils the network: no training loss sees it, the test does.
    def spoil(optimizer, closure=None) -> None:
        optimizer.param_groups[0]["params"][0].data.fill_(torch.inf)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(FloatingPointError, match="became nan in the test"):
        training.train((Colours(8), Colours(8)), out=tmp_path, epochs=1, **TINY)
    assert not list(tmp_path.glob("*.safetensors"))


def test_labels_out_of_range_are_refused(tmp_path) -> None:
    class Mislabelled(Colours):
        def __getitem__(self, index: int) -> Sample:
            return super().__getitem__(index)._replace(label=None if index else 2)

    with pytest.raises(ValueError, match=r"sample \d has label (2|None), none of 2 classes"):
        training.train((Mislabelled(8), Colours(8)), out=tmp_path, epochs=1, **TINY)


def test_an_earlier_training_is_not_overwritten_unasked(trained, tmp_path) -> None:
    before = trained.last.read_bytes()
    with pytest.raises(FileExistsError, match=r"last\.safetensors exists"):
        training.train((Colours(8), Colours(8)), out=trained.last.parent, epochs=1, **TINY)
    assert trained.last.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"arch": "resnet81"}, ValueError, "did you mean.*resnet18"),
        ({"epochs": 0}, ValueError, "`epochs` must be"),
        ({"batch_size": 1}, ValueError, "`batch_size` must be .* at least 2, got 1"),
        ({"size": 0.5}, ValueError, "`size` must be"),
        ({"lr": float("nan")}, ValueError, "`lr` must be"),
        ({"weights": "missing.pt"}, FileNotFoundError, "missing.pt"),
        ({"data": "missing"}, FileNotFoundError, "missing"),
        ({"data": 3}, TypeError, "pair of data sets"),
        ({"data": (Colours(8), Colours(0))}, ValueError, "test on must have at least two pictures, got 0"),
        ({"data": (Colours(8), Shapes("val", 8, 32))}, ValueError, "same two or more classes"),
    ],
)
def test_errors(tmp_path, options: dict, error: type, message: str) -> None:
    arguments = {"data": (Colours(8), Colours(4)), "out": tmp_path / "out", "epochs": 1} | TINY | options
    with pytest.raises(error, match=message):
        training.train(arguments.pop("data"), **arguments)
    assert not list(tmp_path.glob("out/*"))


def test_weights_of_another_network_are_refused(trained, tmp_path) -> None:
    with pytest.raises(ValueError, match=r"checkpoint of shufflenet_v2_x0_5, not of resnet18"):
        training.train(
            (Colours(8), Colours(4)), out=tmp_path, epochs=1, **TINY | {"arch": "resnet18", "weights": trained.best}
        )
