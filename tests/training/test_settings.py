"""Settings of a training: presets, values, TOML, flags."""

import dataclasses
import inspect

import pytest
import torch

from fastcam import models, training
from fastcam.cli import train as command
from fastcam.training import PRESETS, Settings, read_toml
from tests.support.colours import TINY, Colours
from tests.support.commands import refused
from tests.support.several import Several

SEED = {  # the mission's seed, as the issue has it
    "arch": "resnet18",
    "weights": None,
    "crop": "padded",
    "padding": 4,
    "flip": True,
    "resize": "squash",
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 5e-4,
    "schedule": "multistep",
    "milestones": (60, 120, 160),
    "gamma": 0.2,
    "epochs": 200,
}
CATDOG = SEED | {"size": 224, "mean": (0.4876, 0.4544, 0.4165), "std": (0.2257, 0.2209, 0.2212)}
RETHINKING = {
    "arch": "vgg16-tap",
    "resize": "crop",
    "crop": "random",
    "size": 224,
    "batch_size": 40,
    "optimizer": "sgd",
    "lr": 0.003,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "conv_gradients": 0.1,
    "schedule": "multistep",
    "milestones": (60, 120, 180),
    "gamma": 0.1,
    "epochs": 200,
}
IMAGENET = {
    "arch": "vgg16-gap",
    "optimizer": "sgd",
    "lr": 0.001,
    "weight_decay": 5e-4,
    "new_lr": 10.0,
    "schedule": "multistep",
    "milestones": (40_000, 80_000, 120_000),
    "gamma": 0.1,
    "steps": 160_000,
}


WSSS = {  # IRN's run_sample.py, and what its modules do with it
    "arch": "resnet50",
    "output_stride": 16,
    "freeze_layers": ("conv1", "bn1", "layer1", "layer2"),
    "freeze_statistics": True,
    "crop": "scaled",
    "long_side": (320, 640),
    "size": 512,
    "flip": True,
    "loss": "multilabel-soft-margin",
    "batch_size": 16,
    "epochs": 5,
    "optimizer": "sgd",
    "lr": 0.1,
    "new_lr": 10.0,
    "momentum": 1e-4,
    "weight_decay": 1e-4,
    "schedule": "poly",
    "power": 0.9,
}


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("voc-wsss", WSSS),
        ("catdog", CATDOG),
        ("stl10", SEED | {"size": 128}),
        ("stl10-blog", SEED | {"size": 128, "mean": (0, 0, 0), "std": (1, 1, 1)}),
        ("cub-rethinking", RETHINKING),
        ("imagenet-gap", IMAGENET),
    ],
)
def test_presets_have_their_sources_numbers(name, values) -> None:
    preset = dataclasses.asdict(PRESETS[name])
    assert {key: preset[key] for key in values} == values


def test_the_catdog_preset_takes_two_steps(tmp_path) -> None:
    result = training.train(
        (Colours(8), Colours(4)), "catdog", out=tmp_path, epochs=1, batch_size=4, device="cpu", progress=False
    )
    assert (result.history[0]["step"], result.history[0]["learning_rate"]) == (2, 0.1)
    assert (result.config.arch, result.config.size, result.config.num_classes) == ("resnet18", 224, 2)
    assert result.config.mean == (0.4876, 0.4544, 0.4165)
    kept = {key: value for key, value in CATDOG.items() if key not in ("epochs", "batch_size")}
    written = dataclasses.asdict(Settings.of(None, read_toml(result.settings)))
    assert {key: written[key] for key in kept} == kept


def test_the_wsss_preset_takes_two_steps(tmp_path) -> None:
    weights = tmp_path / "imagenet.pt"
    torch.manual_seed(0)
    torch.save(models.build("resnet50").state_dict(), weights)
    data, options = (Several(4), Several(2, seed=1)), {"device": "cpu", "progress": False, "size": 64}
    options |= {"epochs": 1, "batch_size": 2, "long_side": (48, 80), "lr": 1e-6}  # of weights that are untrained
    with pytest.raises(ValueError, match="`freeze_layers` needs `weights`"):
        training.train(data, "voc-wsss", out=tmp_path / "none", **options)
    result = training.train(data, "voc-wsss", out=tmp_path / "out", weights=weights, **options)
    model, config = models.load_checkpoint(result.last)
    assert (config.arch, config.output_stride, config.scores) == ("resnet50", 16, "sigmoid")
    before, after = models.build("resnet50"), model.state_dict()
    before.load_state_dict(torch.load(weights, weights_only=True))
    for name, value in before.state_dict().items():
        frozen = name.startswith(("conv1.", "bn1.", "layer1.", "layer2.")) or "running" in name or "tracked" in name
        assert name.startswith("fc.") or torch.equal(value, after[name]) == frozen, name
    written = dataclasses.asdict(Settings.of(None, read_toml(result.settings)))
    kept = {key: value for key, value in WSSS.items() if key not in options}
    assert {key: written[key] for key in kept} == kept


@pytest.mark.parametrize("settings", [Settings(), *PRESETS.values(), Settings(data='a "b"\\c\n', ema=0.5, lr=1e-9)])
def test_written_settings_are_read_again(settings, tmp_path) -> None:
    settings.write(tmp_path / "settings.toml")
    assert Settings.of(None, read_toml(tmp_path / "settings.toml")) == settings


def test_defaults_are_resolved_beside_the_checkpoint(tmp_path) -> None:
    result = training.train((Colours(8), Colours(4)), out=tmp_path, epochs=1, **TINY)
    written = read_toml(result.settings)
    assert written["lr"] == 1e-3  # of a start from random weights
    names = {field.name for field in dataclasses.fields(Settings)}
    assert set(written) <= names


def test_the_shapes_bring_their_preset() -> None:
    assert Settings.of(None, {"data": "shapes"}) == dataclasses.replace(PRESETS["shapes"], data="shapes")
    assert Settings.of("catdog", {"data": "shapes"}).size == 224
    assert Settings.of(None, {"data": "shapes", "format": "folder"}).size == Settings().size
    assert Settings.of(None, {"data": "./shapes"}).size == 224


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 1.5}, "`epochs` must be a whole number of at least 1, got 1.5"),
        ({"epochs": True}, "`epochs` must be a whole number"),
        ({"batch_size": 1}, "`batch_size` must be a whole number of at least 2, got 1"),
        ({"lr": float("inf")}, "`lr` must be a finite number"),
        ({"lr": 0}, "`lr` must be a positive number"),
        ({"momentum": 1}, "`momentum` must be a finite number of at least 0 and below 1"),
        ({"mean": (1, 2)}, "`mean` must be one number or three"),
        ({"std": 0}, "`std` must be positive"),
        ({"freeze": "everything"}, "`freeze` must be one of none, features"),
        ({"freeze": "features"}, "needs `weights`"),
        ({"flip": "yes"}, "`flip` must be true or false"),
        ({"schedule": "multistep"}, "needs `milestones`"),
        ({"milestones": [20, 10]}, "must ascend"),
        ({"milestones": [1.5]}, "`milestones` must be whole numbers"),
        ({"optimizer": "adam"}, "one of adamw, sgd"),
        ({"nesterov": True, "momentum": 0}, "needs `momentum`"),
        ({"cache": True, "worker_kind": "process"}, "`cache` needs"),
        ({"loss": "hinge"}, "`loss` must be one of cross-entropy, bce, multilabel-soft-margin"),
        ({"loss": "bce", "label_smoothing": 0.1}, '`label_smoothing` is for `loss="cross-entropy"`'),
        ({"class_weights": "1,0,2"}, "`class_weights` must be positive numbers"),
        ({"class_weights": (1.0, float("nan"))}, "`class_weights` must be balanced, a number for each class or a file"),
        ({"class_weights": 3}, "`class_weights` must be balanced, a number for each class or a file, got 3"),
        ({"schedule": "poly", "power": 0}, "`power` must be a positive number"),
        ({"long_side": (640, 320)}, "`long_side` must be the smallest and the largest"),
        ({"long_side": (320,)}, "`long_side` must be two whole numbers, got"),
        ({"learning_rate": 1}, "no setting 'learning_rate'"),
        ({"epoch": 1}, "did you mean epochs"),
    ],
)
def test_wrong_values_are_refused(values, message) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.of(None, values)


def test_an_unknown_preset_and_a_broken_file_are_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"no preset 'catdogs'; there are catdog"):
        Settings.of("catdogs", {})
    (tmp_path / "broken.toml").write_text("lr = ")
    with pytest.raises(ValueError, match=r"broken\.toml is not a TOML file"):
        read_toml(tmp_path / "broken.toml")


def test_every_setting_has_a_flag() -> None:
    assert {field.name for field in dataclasses.fields(Settings)} <= set(inspect.signature(command.train).parameters)


def test_flags_go_before_the_file_and_this_before_the_preset(tmp_path, monkeypatch) -> None:
    given = {}

    def train(data, settings, **values) -> None:
        given.update(data=data, settings=settings, **values)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", train)
    file = tmp_path / "mine.toml"
    file.write_text('preset = "catdog"\nlr = 0.05\nepochs = 3\ndata = "there"\n')
    flags = f"train --config {file} --epochs 7 --mean 0.5 --milestones 1,2 --localization cam"
    assert refused(*flags.split(), code=1) == "fastcam: interrupted\n"
    wanted = {"data": "there", "settings": "catdog", "lr": 0.05, "epochs": 7, "mean": (0.5,), "milestones": (1, 2)}
    assert {name: given[name] for name in wanted} == wanted
    assert callable(given["callback"])
    assert given["out"].parts == ("fastcam-train", "there-resnet18")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("here --data there", "told twice"),
        ("here --milestones 1,x", "--milestones must be whole numbers"),
        ("here --mean 1,2", "`mean` must be one number or three"),
        ("here --long-side 320", "--long-side must be two numbers with a comma between, such as 320,640"),
        ("--preset catdog", "`data` must tell"),
    ],
)
def test_wrong_flags_are_refused(flags, message) -> None:
    assert message in refused("train", *flags.split())
