"""Grey, many-channelled and 12-bit pictures, from the training to boxes, evaluation and reports: planted truth."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, features
from torch import nn

import fastcam
from fastcam import data, models
from fastcam.models import GlobalPoolNet, ModelConfig, networks
from fastcam.pictures import Preprocess
from fastcam.runs.folder import RunFolder
from tests.support.commands import refused, run
from tests.support.files import noise, saved

SIDE, MOST = 64, 4095


def rows(folder) -> list[dict]:
    return pq.read_table(folder / "boxes.parquet").to_pylist()


def iou(row: dict, box) -> float:
    x0, y0, x1, y1 = (row[name] for name in ("x0", "y0", "x1", "y1"))
    width, height = min(x1, box[2]) - max(x0, box[0]), min(y1, box[3]) - max(y0, box[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((x1 - x0) * (y1 - y0) + (box[2] - box[0]) * (box[3] - box[1]) - shared)


def tiny(arch: str, num_classes: int) -> nn.Module:
    """Stands for a network of torchvision, which would take minutes."""
    layers: list[nn.Module] = []
    for i, o, stride in ((3, 16, 2), (16, 32, 2), (32, 32, 1)):
        layers += [nn.Conv2d(i, o, 3, stride, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU()]
    return GlobalPoolNet(nn.Sequential(*layers), nn.AdaptiveAvgPool2d(1), nn.Linear(32, num_classes))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Squares lighter or darker than the ground, 12 bits in files of 16; and what a training made of them."""
    root, rng, truth = tmp_path_factory.mktemp("twelve"), np.random.default_rng(0), {}
    for kind, (low, high) in {"light": (3300, 4000), "dark": (0, 400)}.items():
        for split, count in (("train", 24), ("val", 5)):
            (root / "data" / split / kind).mkdir(parents=True)
            for number in range(count):
                picture = rng.integers(1400, 1800, (SIDE, SIDE), np.uint16)
                side = int(rng.integers(24, 33))
                x, y = (int(one) for one in rng.integers(4, 60 - side, 2))
                picture[y : y + side, x : x + side] = rng.integers(low, high, (side, side))
                Image.fromarray(picture).save(root / "data" / split / kind / f"{number}.png")
                if split == "val":
                    truth[f"{kind}/{number}.png"] = x, y, x + side, y + side
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "_torchvision", tiny)
        words = ("--channels", "1", "--scale", MOST, "--size", SIDE, "--mean", "0.4", "--std", "0.3")
        words += ("--epochs", "15", "--batch-size", "16", "--lr", "0.003", "--workers", "1")
        result = run("train", root / "data", "--arch", "resnet18", *words, "--out", root / "model")
        assert result.exit_code == 0, result.output
        yield root, truth


COMMON = ("--threshold", "0.5", "--relu")


def test_12_bits_are_localized_as_they_were_trained_on(trained):
    root, truth = trained
    result = run("localize", root / "data/val", "--weights", root / "model", "--out", root / "run", "--maps", *COMMON)
    assert result.exit_code == 0, result.output
    found = rows(root / "run")
    assert len(found) == len(truth)
    for row in found:
        assert row["class_name"] == row["image_id"].split("/")[0]
        assert iou(row, truth[row["image_id"]]) > 0.5
    plan = json.loads(RunFolder(root / "run").plan.read_text())
    settings = plan.get("settings", plan)
    assert (settings["channels"], settings["scale"], settings["mean"]) == (1, [0, MOST], [0.4])
    config = models.read_config(root / "model")
    assert config is not None
    assert (config.channels, config.scale) == (1, (0, MOST))


def test_without_the_scaling_they_would_be_black(trained):
    root, truth = trained
    model, config = models.load_network(root / "model", scale="dtype")
    fastcam.localize(
        model, root / "data/val", out=root / "black", config=config, threshold=0.5, relu=True, progress=False
    )
    found = rows(root / "black")
    assert len({row["class_id"] for row in found}) == 1
    assert max(iou(row, truth[row["image_id"]]) for row in found) < 0.5


def test_another_scaling_is_another_run(trained):
    root, _ = trained
    words = ("localize", root / "data/val", "--weights", root / "model", "--out", root / "again", *COMMON)
    assert run(*words).exit_code == 0
    assert run(*words, "--scale", MOST).exit_code == 0
    assert "scale" in refused(*words, "--scale", "0,4000")
    assert "nvjpeg" in refused(*words, "--decoder", "nvjpeg", "--overwrite")
    assert "`scale` must be" in refused(*words, "--scale", "max")
    assert "has channels 1, got 3" in refused(*words, "--channels", 3)


def test_8_bits_among_them_are_no_black_pictures(trained, tmp_path):
    root, _ = trained
    (tmp_path / "a.png").write_bytes(saved(noise(), "PNG"))
    result = run("localize", tmp_path, "--weights", root / "model", "--out", tmp_path / "run")
    assert result.exit_code == 3
    (row,) = rows(tmp_path / "run")
    assert row["error"].startswith("unsupported: samples up to 255, which are nearly black where 4095 is white")


def test_refined_and_in_workers(trained):
    root, truth = trained
    words = ("localize", root / "data/val", "--weights", root / "model", *COMMON)
    assert run(*words, "--out", root / "refined", "--refine", "pamr", "--overlays", "2").exit_code == 0
    assert all(iou(row, truth[row["image_id"]]) > 0.5 for row in rows(root / "refined"))
    drawn = sorted((root / "refined/overlays").iterdir())
    assert len(drawn) == 2
    assert np.asarray(Image.open(drawn[0]).convert("L")).mean() > 40  # and not the black of 12 bits among 16


def test_evaluated_and_compared(trained):
    root, truth = trained
    lines = [f"val/{id},{','.join(map(str, box))},{id.split('/')[0]}" for id, box in truth.items()]
    (root / "data/boxes.csv").write_text("\n".join(["image_id,x0,y0,x1,y1,label", *lines]))
    words = (root / "data/boxes.csv", "--weights", root / "model")
    result = run("evaluate", *words, "--out", root / "eval", "--relu", "--bootstrap", "0")
    assert result.exit_code == 0, result.output
    text = (root / "eval/metrics.json").read_text()
    assert json.loads(text)["figures"]["MaxBoxAcc"] == 100
    assert "[0.0, 4095.0]" in " ".join(text.split()).replace("[ ", "[").replace(" ]", "]")
    result = run("compare", *words, "--methods", "cam,gradcam", "--out", root / "table", "--bootstrap", "0")
    assert result.exit_code == 0, result.output


def test_explained_reported_cropped_and_exported(trained):
    root, truth = trained
    out = root / "shown"
    result = run("localize", root / "data/val", "--weights", root / "model", "--out", out, "--maps", *COMMON)
    assert result.exit_code == 0, result.output
    one = root / "data/val/light/0.png"
    words = ("--weights", root / "model", "--method", "cam,guided-backprop", "--relu", "--num-result", "1")
    result = run("explain", one, *words, "--out", root / "figures")
    assert result.exit_code == 0, result.output
    shown = np.asarray(Image.open(root / "figures/img1.png").convert("L")).astype(float)
    x0, y0, x1, y1 = truth["light/0.png"]
    assert shown[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean() > 190
    assert 70 < shown[:3].mean() < 130
    result = run("report", out, "--images", root / "data/val", "--out", root / "report.html")
    assert result.exit_code == 0, result.output
    assert "10 with a picture" in result.stdout
    result = run("crop", out, "--out", root / "crops")
    assert result.exit_code == 0, result.output
    crop = np.asarray(Image.open(root / "crops/light/0.png").convert("L"))
    assert np.median(crop) > 190
    result = run("export", out, "--to", "labels", "--refine", "pamr", "--out", root / "labels")
    assert result.exit_code == 0, result.output


def test_fitted(trained):
    """An SVM on the features of 12 bits: its checkpoint has channels and scaling, too."""
    root, _ = trained
    words = ("--weights", root / "model", "--out", root / "fitted")
    result = run("fit", root / "data", *words)
    assert result.exit_code == 0, result.output
    config = models.read_config(root / "fitted")
    assert config is not None
    assert (config.channels, config.scale) == (1, (0, MOST))
    result = run("localize", root / "data/val", "--weights", root / "fitted", "--out", root / "run3", *COMMON)
    assert result.exit_code == 0, result.output
    assert [row["class_name"] for row in rows(root / "run3")] == ["dark"] * 5 + ["light"] * 5


def test_a_training_that_goes_on_takes_them_from_the_checkpoint(trained):
    root, _ = trained
    words = ("--arch", "resnet18", "--size", SIDE, "--batch-size", "16", "--workers", "1", "--epochs", "1")
    result = run("train", root / "data", *words, "--weights", root / "model", "--out", root / "more")
    assert result.exit_code == 0, result.output
    config = models.read_config(root / "more")
    assert config is not None
    assert (config.channels, config.scale, config.mean) == (1, (0, MOST), (0.4,))
    for crop in ("random", "scaled", "padded"):
        more = ("--crop", crop, "--long-side", "64,128", "--channels", "1", "--scale", "dtype")
        result = run("train", root / "data", *words, *more, "--out", root / crop)
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("channels", [1, 4])
def test_rows_are_those_of_plain_torch(tmp_path, channels):
    """Of Pillow's grey picture, or the four channels each resized alone."""
    torch.manual_seed(0)
    model = networks.build("resnet18", 3, channels=channels)
    models.save_checkpoint(tmp_path / "w.safetensors", model, ModelConfig("resnet18", 3, size=64))
    (tmp_path / "pictures").mkdir()
    pictures = []
    for number in range(3):
        four = np.dstack([noise(50, 70, number), noise(50, 70, number + 9)[..., :1]])
        picture = Image.fromarray(four if channels == 4 else four[..., :3])
        picture.save(tmp_path / f"pictures/{number}.png")
        pictures.append(picture.convert("L") if channels == 1 else picture)
    Image.fromarray(noise()).save(tmp_path / "pictures/rgb.png")
    result = run("localize", tmp_path / "pictures", "--weights", tmp_path / "w.safetensors", "--out", tmp_path / "run")
    assert result.exit_code == (3 if channels == 4 else 0)
    planes = [np.stack([one.resize((64, 64), Image.Resampling.BILINEAR) for one in p.split()], 0) for p in pictures]
    images = (torch.from_numpy(np.stack(planes)) / 255 - 0.449) / 0.226
    with torch.inference_mode():
        scores = model.eval()(images).softmax(1)
    found = rows(tmp_path / "run")
    assert [row["class_id"] for row in found[:3]] == scores.argmax(1).tolist()
    assert np.allclose([row["score"] for row in found[:3]], scores.amax(1), atol=1e-5)
    assert (found[3]["status"] == "error") == (channels == 4)
    if channels == 4:
        assert found[3]["error"] == "unsupported: 3 channels, the network takes 4"


def test_a_network_without_configuration(tmp_path):
    """Its first convolution tells; pictures come as objects, frozen, at several sizes."""
    torch.manual_seed(0)
    model = networks.build("resnet18", 3, channels=2).eval()
    arrays = [np.random.default_rng(seed).random((40, 60, 2)).astype(np.float32) for seed in range(3)]
    samples = [data.Sample(array, id=str(number)) for number, array in enumerate(arrays)]
    preprocess = Preprocess.of(None, model)
    assert preprocess.channels == 2
    with pytest.raises(ValueError, match="no fixed range"):
        preprocess.frame(arrays[0])
    config = ModelConfig("resnet18", 3, size=64, channels=2, scale="dtype")
    for number, options in enumerate([{}, {"compile": "freeze"}, {"scales": (1, 2), "flip": True}]):
        out = tmp_path / str(number)
        fastcam.localize(model, samples, out=out, config=config, progress=False, overlays=1, **options)
        assert [row["status"] for row in rows(out)] == ["ok"] * 3


def test_portable_pixmaps_and_others_in_a_folder(tmp_path):
    """Passed over once."""
    kinds = {"a.ppm": "PPM", "b.pgm": "PPM"}
    kinds |= {"c.avif": "AVIF"} if features.check("avif") else {}
    kinds |= {"d.jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    for name, kind in kinds.items():
        picture = Image.fromarray(noise(40, 60))
        (tmp_path / name).write_bytes(saved(picture.convert("L") if name == "b.pgm" else picture, kind))
    model = networks.build("resnet18", 3).eval()
    summary = fastcam.localize(model, tmp_path, out=tmp_path / "run", progress=False)
    assert summary.pictures == len(kinds)
    assert [row["status"] for row in rows(tmp_path / "run")] == ["ok"] * len(kinds)
