"""`fit` from pictures to a checkpoint: its scores are its CAMs', it localizes, and bad input is named."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import data, models
from fastcam.fitting import fit, read_features
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from tests.support import heads
from tests.support.commands import refused, run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return heads.folder(tmp_path_factory.mktemp("textures") / "data")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    models.save_checkpoint(path, *heads.network(heads.SMALL))
    return path


@pytest.mark.parametrize("head", ["svm", "logistic"])
@pytest.mark.parametrize("arch", ["mobilenet_v2", "densenet121"])
def test_scores_of_the_checkpoint_are_means_of_its_cams_plus_bias(pictures, tmp_path, arch, head):
    model, config = heads.network(arch)
    result = fit(pictures, model, out=tmp_path / "m", config=config, head=head, folds=3, strength=0.01)
    fitted, own = models.load_network(tmp_path / "m")
    assert own == result.config
    assert (own.num_classes, own.class_names, own.mean) == (3, heads.CLASSES, config.mean)
    samples = data.load(pictures).subset(range(0, 36, 5))
    images = torch.stack([Preprocess.of(own)(sample.image)[0] for sample in samples])
    scores = result.head.scores(result.values.values[::5])
    with torch.no_grad():
        np.testing.assert_allclose(fitted(images).numpy(), scores, atol=1e-4)
    cam = fastcam.CAM(fitted)
    for label in range(3):
        means = cam.coarse(images, targets=label).mean((1, 2)).numpy()
        np.testing.assert_allclose(means + result.head.bias[label], scores[:, label], atol=1e-4)


def test_the_checkpoint_is_an_ordinary_one(pictures, weights, tmp_path):
    out = tmp_path / "m"
    done = run("fit", pictures, "--weights", weights, "--out", out, "--folds", "4")
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"features: 36 x 1280 at features, gap, in {out / 'features.parquet'}"
    assert lines[1].startswith("svm, C = ")
    assert lines[1].endswith(": dots, rows, waves")
    assert lines[2].endswith("of 36 pictures, in 4 folds")
    assert lines[3] == f"checkpoint: {out / 'model.safetensors'}"
    assert sorted(path.name for path in out.iterdir()) == ["features.parquet", "fit.json", "model.safetensors"]
    figures = json.loads((out / "fit.json").read_text())
    assert figures["pictures"] == [12, 12, 12]
    assert figures["accuracy"]["value"] > 0.6  # by chance a third
    assert np.trace(figures["confusion"]) == round(36 * figures["accuracy"]["value"])
    for name in ("localize", "explain"):
        options = ["--targets", "rows"] if name == "explain" else []
        done = run(name, pictures / "rows", "--weights", out, "--out", tmp_path / name, *options)
        assert done.exit_code == 0, done.stderr
    rows = pq.read_table(tmp_path / "localize" / "boxes.parquet").to_pylist()
    assert len(rows) == 12
    assert {row["class_name"] for row in rows} <= set(heads.CLASSES)


def test_parts_to_test_on(pictures, weights, tmp_path):
    model, config = models.load_checkpoint(weights)
    common = {"config": config, "strength": 0.01}
    # The folder's own division, a fifth of each class.
    first = fit(pictures, model, out=tmp_path / "a", **common)
    assert first.values.ids == tuple(data.load(pictures, "train").ids)
    assert first.accuracy.pictures == 6
    assert set(read_features(first.features)[0].ids) == set(data.load(pictures).ids)
    # Two data sets.
    train, test = data.load(pictures, "train"), data.load(pictures, "test")
    second = fit(train, model, out=tmp_path / "b", test=test, **common)
    assert second.accuracy == first.accuracy
    np.testing.assert_array_equal(second.head.weight, first.head.weight)
    # One without parts: a share of each class is held out, by the seed.
    whole = data.load(pictures)
    third = fit(whole, model, out=tmp_path / "c", features=str(first.features), test_fraction=0.25, **common)
    assert third.accuracy.pictures == 9
    fourth = fit(whole, model, out=tmp_path / "d", features=str(first.features), test_fraction=0.25, seed=1, **common)
    assert not np.array_equal(third.head.weight, fourth.head.weight)
    with pytest.raises(ValueError, match="`test` does not go with `folds`"):
        fit(train, model, out=tmp_path / "e", test=test, folds=3, **common)
    with pytest.raises(ValueError, match="`split` is for the path of a data set"):
        fit(train, model, out=tmp_path / "e", split="train", **common)
    fewer = heads.folder(tmp_path / "fewer", 2, heads.CLASSES[:2])
    with pytest.raises(ValueError, match="must have the same classes, got dots, rows, waves and dots, rows"):
        fit(train, model, out=tmp_path / "e", test=data.load(fewer), **common)


def test_an_earlier_fit_stays_unless_it_is_to_be_replaced(pictures, weights, tmp_path):
    model, config = models.load_checkpoint(weights)
    out = tmp_path / "m"
    fit(pictures, model, out=out, config=config, strength=0.01)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match=r"model\.safetensors exists already: choose another folder"):
        fit(pictures, model, out=out, config=config, head="logistic")
    assert (out / "model.safetensors").read_bytes() == before
    again = fit(pictures, model, out=out, config=config, head="logistic", strength=0.01, overwrite=True)
    assert again.head.head == "logistic"
    with pytest.raises(ValueError, match=r"`out` is a folder, in which model\.safetensors will be"):
        fit(pictures, model, out=tmp_path / "m.safetensors", config=config)


def test_features_only(pictures, weights, tmp_path):
    folder = tmp_path / "plain"
    folder.mkdir()
    for index in range(3):
        Image.fromarray(heads.drawn(index, 0)).save(folder / f"{index}.png")
    done = run(
        "fit", folder, "--weights", weights, "--out", tmp_path / "f", "--features-only", "--layer", "features.10"
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout == f"features: 3 x 64 at features.10, gap, in {tmp_path / 'f' / 'features.parquet'}\n"
    assert [path.name for path in (tmp_path / "f").iterdir()] == ["features.parquet"]
    found, names = read_features(tmp_path / "f" / "features.parquet")
    assert found.ids == ("0.png", "1.png", "2.png")
    assert names == (None,) * 3
    error = refused("fit", pictures, "--weights", weights, "--out", tmp_path / "g", "--layer", "features.10")
    assert "`layer` goes with `features_only`" in error


def test_bad_pictures_are_left_out_and_named(weights, tmp_path):
    root = heads.folder(tmp_path / "data", 6)
    (root / "rows" / "01.png").write_bytes(b"no picture")
    common = ("fit", root, "--weights", weights, "--strength", "0.01", "--folds", "2", "--out")
    assert "rows/01.png" in refused(*common, tmp_path / "a")
    assert not (tmp_path / "a" / "model.safetensors").exists()
    done = run(*common, tmp_path / "a", "--skip-bad")
    assert done.exit_code == 3
    assert done.stderr.startswith("fastcam: rows/01.png: ")
    assert "of 17 pictures, in 2 folds" in done.stdout
    assert json.loads((tmp_path / "a" / "fit.json").read_text())["bad"][0][0] == "rows/01.png"


def test_bad_input_is_named(pictures, weights, tmp_path):
    model, config = models.load_checkpoint(weights)
    out = tmp_path / "m"
    samples = data.load(pictures)

    def labelled(labels, names=heads.CLASSES) -> data.Pictures:
        return data.Pictures(pictures, samples.ids, labels=labels, class_names=names)

    with pytest.raises(ValueError, match="1 class has no picture to fit on: waves"):
        fit(labelled([0, 1] * 18), model, out=out, config=config)
    with pytest.raises(ValueError, match="all pictures to fit on are of one class, 'rows'"):
        fit(labelled([1] * 36), model, out=out, config=config)
    with pytest.raises(ValueError, match="at least two classes to tell apart, got texture"):
        fit(labelled([0] * 36, ("texture",)), model, out=out, config=config)
    with pytest.raises(ValueError, match=r"dots/03\.png has no label"):
        fit(labelled([*samples.labels[:3], None, *samples.labels[4:]]), model, out=out, config=config)
    with pytest.raises(ValueError, match=r"dots/01\.png has label 3, which is none of the 3 classes that are fitted"):
        fit(samples, model, out=out, config=config, test=labelled([0, 3] * 18))
    with pytest.raises(ValueError, match="AlexNet has no pooled layer before one linear layer"):
        fit(samples, models.build("alexnet", 3), out=out, config=ModelConfig("alexnet", 3, size=64))
    with pytest.raises(
        ValueError, match=r"`config\.arch` 'resnet34' builds another network than the given MobileNetV2"
    ):
        fit(samples, model, out=out, config=ModelConfig("resnet34", 5, size=64))
    broken = models.build(heads.SMALL, 5)
    nn.init.constant_(broken.features[18][1].bias, float("nan"))
    with pytest.raises(ValueError, match=r"dots/00\.png: its features at 'features' are not finite"):
        fit(samples, broken, out=out, config=config)
    fit(samples, model, out=out, config=config, strength=0.01)
    with pytest.raises(ValueError, match="has features of another network"):
        fit(
            samples,
            models.build(heads.SMALL, 5),
            out=tmp_path / "n",
            config=config,
            features=str(out / "features.parquet"),
        )
    assert not (tmp_path / "n").exists()
    with pytest.raises(ValueError, match="class 0 has 12 pictures, too few for 13 folds"):
        fit(samples, model, out=tmp_path / "n", config=config, folds=13, features=str(out / "features.parquet"))
    for wrong, message in (
        ({"test_fraction": 0.0}, "`test_fraction` must be between 0 and 1"),
        ({"folds": 1}, "`folds` must be a whole number of at least 2"),
        ({"strength": 0.0}, "`strength` must be a positive number"),
        ({"hard_negatives": 1}, "`hard_negatives` goes with `positives` or `phrase`"),
        ({"phrase": "a dog"}, "`captions` and `phrase` go together"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(samples, model, out=tmp_path / "n", config=config, **wrong)


@pytest.mark.long
def test_cats_and_dogs(shared: Path, tmp_path):
    network = (
        "--arch",
        "mobilenet_v2",
        "--weights",
        shared / "weights" / "mobilenet_v2.pt",
        "--mean",
        "0.5",
        "--std",
        "0.5",
    )
    place = shared / "images" / "dogs_vs_cats" / "train"
    done = run("fit", place, *network, "--out", tmp_path / "m")
    assert done.exit_code == 0, done.stderr
    found = json.loads((tmp_path / "m" / "fit.json").read_text())["accuracy"]
    assert found["pictures"] == 80
    assert found["value"] >= 0.975
