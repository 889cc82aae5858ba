"""`fastcam.evaluate` against the plain oracle; broken off and resumed, in parts, and with bad pictures."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn
from torchvision.transforms import functional as tf

import fastcam
from fastcam import data as datasets, models
from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS
from fastcam.evaluation.gallery import choose_cases
from fastcam.evaluation.settings import MapSettings
from fastcam.evaluation.sources import NetworkMaps
from tests.support import oracle
from tests.support.evaluations import CLASSES, CONFIG, PROTOCOL, SIDE, evaluated, network, write_wsol


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_wsol(tmp_path_factory.mktemp("wsol"))


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    """A run without a break."""
    out = tmp_path_factory.mktemp("whole")
    evaluated(folder, out, save_maps="float32", cases=2)
    return out


def told(out: Path) -> dict:
    return json.loads((out / "metrics.json").read_text())


def rows(path: Path) -> list[dict]:
    return pq.read_table(path).to_pylist()


def expected(folder: Path, name: str = "standard") -> tuple[dict, dict, np.ndarray, list[int]]:
    """Figures, best thresholds, curves [N, 2, T] and ranks with nothing but torch, PIL, OpenCV and the oracle."""
    rules, model, curves, ranks, labels = PROTOCOLS[name]._replace(size=PROTOCOL.size), network(), [], [], []
    truth = {line.split(",")[0]: [] for line in (folder / "image_ids.txt").read_text().split()}
    for line in (folder / "localization.txt").read_text().split():
        id, *box = line.split(",")
        truth[id].append(tuple(map(int, box)))
    label_of = dict(line.split(",") for line in (folder / "class_labels.txt").read_text().split())
    size_of = {
        id: (int(w), int(h)) for id, w, h in (s.split(",") for s in (folder / "image_sizes.txt").read_text().split())
    }
    for id, boxes in truth.items():
        picture = Image.open(folder / id).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        image = tf.normalize(tf.to_tensor(picture), CONFIG.mean, CONFIG.std)[None]
        label = int(label_of[id])
        with torch.no_grad():
            features, logits = model.features(image)[0], model(image)[0]
            coarse = torch.einsum("k,khw->hw", model.classifier.weight[label], features).numpy()
        flag = cv2.INTER_LINEAR if rules.mode == "bilinear" else cv2.INTER_CUBIC
        values = oracle.upsample(coarse, rules.size, flag)
        framed = [oracle.resize_box(box, size_of[id], rules.size) for box in boxes]
        thresholds = rules.thresholds
        curves.append(oracle.iou_curves(name, values, framed, thresholds))
        ranks.append(oracle.rank(logits.numpy(), label))
        labels.append(label)
    figures = oracle.figures(name, np.array(curves), rules.threshold, ranks, labels, rules.tight, rules.thresholds)
    return *figures, np.array(curves), ranks


# ---- a network -------------------------------------------------------------------------------------------------------


def test_figures_are_the_oracles(folder, whole):
    figures, best, curves, ranks = expected(folder)
    found = told(whole)
    at = int(np.abs(oracle.THRESHOLDS - 0.2).argmin())
    assert found["figures"] == pytest.approx(figures | {"mean IoU": 100 * curves[:, 0, at].mean()}, abs=1e-9)
    assert found["best_thresholds"] == pytest.approx(best)
    np.testing.assert_allclose(found["curves"]["BoxAcc 50"], 100 * (curves[:, 0] >= 0.5).mean(0), atol=1e-9)
    table = rows(whole / "pictures.parquet")
    ids = (folder / "image_ids.txt").read_text().split()
    assert [row["image_id"] for row in table] == ids
    assert [row["rank"] for row in table] == ranks
    assert [row["label"] for row in table] == [number % CLASSES for number in range(len(ids))]
    at = int(np.abs(oracle.THRESHOLDS - best["MaxBoxAcc"]).argmin())
    np.testing.assert_allclose([row["iou"] for row in table], curves[:, 0, at], atol=1e-6)
    np.testing.assert_allclose([row["best_iou"] for row in table], curves[:, 0].max(1), atol=1e-6)
    assert [row["best_threshold"] for row in table] == pytest.approx(oracle.THRESHOLDS[curves[:, 0].argmax(1)])
    assert {row["status"] for row in table} == {"ok"}


@pytest.mark.parametrize("name", ["paper", "ts-cam", "bas", "notebook"])
def test_protocols(folder, tmp_path, name):
    figures, _, _, _ = expected(folder, name)
    rules = PROTOCOLS[name]._replace(size=PROTOCOL.size)
    found = evaluated(folder, tmp_path, protocol=rules).metrics
    assert found["figures"].pop("mean IoU") > 0
    assert found["figures"] == pytest.approx(figures)


def test_ranks_of_logits_that_tie_are_those_of_localize(folder, tmp_path):
    """Classes 1, 2 and 4 always tie, and so do 0 and 5: only the first of them can be the network's own class."""
    model = network()
    for tied in ([1, 2, 4], [0, 5]):
        model.classifier.weight.data[tied] = model.classifier.weight.data[tied[0]].clone()
        model.classifier.bias.data[tied] = model.classifier.bias.data[tied[0]].clone()
    evaluated(folder, tmp_path / "maps", model=model)
    ranks = [row["rank"] for row in rows(tmp_path / "maps" / "pictures.parquet")]
    assert len(set(ranks)) > 3
    data = datasets.load(folder)
    options = {"config": CONFIG, "batch_size": 4, "progress": False}
    for name, wanted in (("given", {"targets": "label"}), ("all", {"top_k": CLASSES})):
        run = fastcam.localize(model, data, out=tmp_path / name, **options, **wanted)
        found = {(row["image_id"], row["class_id"]): row["rank"] for row in rows(run.path)}
        assert [found[id, label] for id, label in zip(data.ids, data.labels, strict=True)] == ranks
        boxes = evaluated(data, tmp_path / f"{name} boxes", model=None, config=None, boxes=run.path).metrics
        plan = json.loads((tmp_path / name / "plan.json").read_text())
        assert plan["settings"]["weights"] == told(tmp_path / "maps")["source"]["weights"]
        for k in (1, 5):
            assert boxes["figures"][f"Top-{k} Cls"] == told(tmp_path / "maps")["figures"][f"Top-{k} Cls"]


def test_what_is_written(whole):
    names = {"metrics.json", "pictures.parquet", "box_accuracy.png", "cases.png", "gallery.html", "maps.parquet"}
    assert {path.name for path in whole.iterdir()} == names
    for name in ("box_accuracy.png", "cases.png"):
        with Image.open(whole / name) as picture:
            assert min(picture.size) > 300
    page = (whole / "gallery.html").read_text()
    assert page.count("<article>") == 6
    assert all(f"{kind}: val/" in page for kind in ("best", "median", "worst"))
    assert 'class="hit"' in page
    assert 'class="miss"' in page


def test_summary_and_table(folder, tmp_path):
    summary = evaluated(folder, tmp_path / "a")
    assert (summary.out, summary.pictures, summary.bad, summary.missed) == (tmp_path / "a", 20, (), ())
    assert any(line.startswith("MaxBoxAccV2") and "best τ" in line for line in summary.table)
    assert not (tmp_path / "a" / "gallery.html").exists()
    assert summary.metrics == told(tmp_path / "a")
    with pytest.raises(FileExistsError, match="or `overwrite` it"):
        evaluated(folder, tmp_path / "a")
    assert evaluated(folder, tmp_path / "a", overwrite=True).metrics == summary.metrics


def test_any_data_set_will_do(folder, whole, tmp_path):
    class Plain:
        """Samples by index and nothing else."""

        def __init__(self):
            self.inner = datasets.load(folder)

        def __len__(self):
            return len(self.inner)

        def __getitem__(self, index):
            return self.inner[index]

    assert evaluated(Plain(), tmp_path).metrics["figures"] == told(whole)["figures"]


def test_maps_summed_over_sizes(folder, tmp_path):
    data, model = datasets.load(folder), network()
    views = {"scales": (0.5, 1, 1.5), "flip": True}
    source = NetworkMaps(data, model, CONFIG, PROTOCOL, MapSettings("layercam", **views))
    loaded = [source.load(job) for job in source.jobs(range(5))]
    batch = source.finish(loaded)
    images, labels = source.images(loaded)
    cam = fastcam.LayerCAM(model)
    torch.testing.assert_close(batch.maps, cam.coarse(images, labels, **views))
    torch.testing.assert_close(batch.logits, model(images).detach(), atol=1e-5, rtol=1e-5)
    finished = batch.finished(PROTOCOL)
    whole = torch.nn.functional.interpolate(
        batch.maps.double()[:, None], PROTOCOL.size, mode=PROTOCOL.mode, align_corners=False
    )[:, 0].clamp(min=0)
    wanted = whole / whole.amax((1, 2), keepdim=True)
    torch.testing.assert_close(finished, wanted, atol=1e-5, rtol=1e-5)
    assert wanted.amin((1, 2)).max() > 0.01  # the minimum is not subtracted
    tap = NetworkMaps(data, model, CONFIG, PROTOCOL, MapSettings(tap=True, **views), "highest").finish(loaded)
    classes = models.to_gap(model, "tap")(images).argmax(1)
    assert tap.classes == classes.tolist()
    torch.testing.assert_close(tap.maps, fastcam.CAM(model).coarse(images, classes, **views), atol=1e-5, rtol=1e-5)
    whole = evaluated(folder, tmp_path / "network", model=model, method="layercam", save_maps="float32", **views)
    stored = evaluated(folder, tmp_path / "stored", model=None, maps=tmp_path / "network" / "maps.parquet")
    assert stored.metrics["figures"]["MaxBoxAcc"] == whole.metrics["figures"]["MaxBoxAcc"]
    with pytest.raises(ValueError, match="two ways to use several views"):
        MapSettings(smooth=("aug",), flip=True)
    with pytest.raises(ValueError, match="`scales` must be up to 8"):
        MapSettings(scales=(1, -1))


def test_maps_of_the_highest_class(folder, tmp_path):
    """Labels are not looked at: their classes may be others than the network's."""
    found = evaluated(folder, tmp_path, targets="highest").metrics
    assert set(found["figures"]) == {"BoxAcc 50", "mean IoU", "MaxBoxAcc", "MaxBoxAccV2"}
    assert found["classes"] == []
    table = rows(tmp_path / "pictures.parquet")
    assert {row["rank"] for row in table} == {None}


def test_methods_and_their_options(folder):
    data, model = datasets.load(folder), network()

    def maps(**options) -> tuple:
        source = NetworkMaps(data, model, CONFIG, PROTOCOL, MapSettings(**options))
        batch = source.finish([source.load(job) for job in source.jobs(range(5))])
        assert isinstance(batch.maps, torch.Tensor)
        return batch.maps.relu() if batch.relu else batch.maps, batch

    images = torch.stack(
        [
            tf.normalize(
                tf.to_tensor(data[i].image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)), CONFIG.mean, CONFIG.std
            )
            for i in range(5)
        ]
    )
    labels = torch.tensor(data.labels[:5])
    features = model.features(images).detach()
    weights = model.classifier.weight[labels].detach()
    plain, batch = maps()
    torch.testing.assert_close(plain, torch.einsum("nk,nkhw->nhw", weights, features), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch.logits, model(images).detach(), atol=1e-5, rtol=1e-5)
    assert batch.ranks == [oracle.rank(batch.logits[row].numpy(), data.labels[row]) for row in range(5)]
    clamped, _ = maps(clamp=True)
    torch.testing.assert_close(
        clamped, torch.einsum("nk,nkhw->nhw", weights.clamp(min=0), features), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(maps(relu=True)[0], plain.relu())
    torch.testing.assert_close(maps(method="gradcam")[0], (plain / 64).relu(), atol=1e-6, rtol=1e-5)
    _, tap = maps(tap=True)
    torch.testing.assert_close(tap.maps, batch.maps)
    torch.testing.assert_close(tap.logits, models.to_gap(model, "tap")(images).detach(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        maps(method="layercam", target_layers="features.1", smooth=["eigen"])[0].shape, torch.Size([5, 16, 16])
    )
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf).gather(1, labels[:, None]).sum(), leaf)
    saliency = gradient.abs().amax(1).double().numpy()
    wanted = [ndimage.gaussian_filter(one, 0.02 * SIDE, mode="nearest") for one in saliency]
    np.testing.assert_allclose(maps(method="saliency")[0], wanted, rtol=1e-3, atol=1e-9)
    for options in ({"smooth": ["aug"]}, {"method": "gradcam", "target_layers": ["features.1", "features"]}):
        smooth = options.pop("smooth", ())
        cam = fastcam.methods.create(options.pop("method", "cam"), model, mode="bicubic", **options)
        wanted = cam(images, labels, aug_smooth=bool(smooth))
        given = {"smooth": smooth} if smooth else {"method": "gradcam", "target_layers": ["features.1", "features"]}
        torch.testing.assert_close(maps(**given)[0], wanted, atol=1e-5, rtol=1e-5)


def test_network_options_are_checked(folder, tmp_path):
    for options, message in (
        ({"method": "gradcamm"}, "did you mean gradcam"),
        ({"method": "guided-backprop"}, "unknown method of maps"),
        ({"method": "saliency", "target_layers": "features"}, "it has no target layer, got 'features'"),
        ({"method": "gradcam", "clamp": True}, "`clamp` is for the method cam"),
        ({"smooth": ["augg"]}, '"aug" and "eigen"'),
        ({"targets": "top"}, "`targets` must be one of label, highest, got 'top'"),
        ({"batch_size": 0}, "`batch_size`"),
        ({"part": (3, 2)}, "`part`"),
        ({"protocol": "standart"}, "`protocol` must be one of standard, paper, .*, wsss, got 'standart'"),
        ({"maps": tmp_path}, "exactly one of"),
        ({"model": None}, "exactly one of"),
        ({"model": None, "maps": tmp_path, "method": "gradcam"}, "method: for maps of a `model` only"),
        ({"threshold": 0.5, "threshold_from": "x.json"}, "x.json"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            evaluated(folder, tmp_path / "out", **({"config": CONFIG} | options))
    with pytest.raises(TypeError, match="metod"):
        evaluated(folder, tmp_path / "out", metod="cam")
    assert not (tmp_path / "out").exists()


def test_the_frame_of_a_protocol():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 80, 3), np.uint8))
    squashed = tf.resize(picture, [64, 64])
    np.testing.assert_array_equal(PROTOCOLS["standard"].frame(picture, (64, 64)), np.array(squashed))
    cropped = tf.center_crop(tf.resize(picture, [256, 256]), [224, 224])
    np.testing.assert_array_equal(PROTOCOLS["rethinking"].frame(np.array(picture), (224, 224)), np.array(cropped))
    cropped = tf.center_crop(tf.resize(picture, [128, 128]), [112, 112])
    np.testing.assert_array_equal(PROTOCOLS["rethinking"].frame(picture, (112, 112)), np.array(cropped))


# ---- thresholds ------------------------------------------------------------------------------------------------------


def test_a_threshold_of_another_split(folder, whole, tmp_path):
    chosen = told(whole)["best_thresholds"]
    other = write_wsol(tmp_path / "other", 15, seed=7)
    found = evaluated(other, tmp_path / "a", threshold_from=whole / "metrics.json").metrics
    figures, _, curves, _ = expected(other)
    at = {name: int(np.abs(oracle.THRESHOLDS - value).argmin()) for name, value in chosen.items()}
    assert found["protocol"]["threshold"] == chosen["MaxBoxAcc"]
    assert found["figures"]["GT-known Loc"] == pytest.approx(100 * (curves[:, 0, at["MaxBoxAcc"]] >= 0.5).mean())
    assert found["figures"]["MaxBoxAcc"] == pytest.approx(figures["MaxBoxAcc"])
    shares = [100 * (curves[:, 1, at[f"MaxBoxAccV2 {d}"]] >= d / 100).mean() for d in (30, 50, 70)]
    assert found["BoxAccV2"] == pytest.approx(np.mean(shares))
    np.testing.assert_allclose(
        [row["iou"] for row in rows(tmp_path / "a" / "pictures.parquet")], curves[:, 0, at["MaxBoxAcc"]], atol=1e-6
    )
    fixed = evaluated(other, tmp_path / "b", threshold=chosen["MaxBoxAcc"], metrics=["MaxBoxAcc"]).metrics
    assert fixed["figures"].items() < found["figures"].items()
    assert "BoxAccV2" not in evaluated(other, tmp_path / "c", threshold_from=tmp_path / "b" / "metrics.json").metrics


def test_thresholds_of_another_protocol_are_refused(folder, whole, tmp_path):
    with pytest.raises(ValueError, match="chosen its threshold with"):
        evaluated(folder, tmp_path, protocol=PROTOCOL._replace(percentile=90.0), threshold_from=whole / "metrics.json")
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match=r"no metrics\.json"):
        evaluated(folder, tmp_path, threshold_from=tmp_path / "x.json")
    with pytest.raises(ValueError, match="give one"):
        evaluated(folder, tmp_path, threshold=0.1, threshold_from=whole / "metrics.json")


# ---- interrupted, and in parts ---------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from tests.support.evaluations import evaluated, network
model, left = network(), [int(sys.argv[3])]

def forward(module, inputs):
    left[0] -= len(inputs[0]) > 1  # one picture is run alone, to see that rows do not depend on each other
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)

model.register_forward_pre_hook(forward)
evaluated(sys.argv[1], sys.argv[2], model=model, save_every=2, save_maps="float32", resume=True)
"""


def same_results(one: Path, other: Path) -> None:
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}
    for path in (path for path in one.iterdir() if path.suffix != ".parquet"):
        assert path.read_bytes() == (other / path.name).read_bytes(), path.name
    for name in ("pictures.parquet", "maps.parquet"):
        assert rows(one / name) == rows(other / name), name


def test_killed_and_resumed(folder, whole, tmp_path):
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path), "3"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "metrics.json").exists()
    (saved,) = (tmp_path / "state").glob("*.safetensors")
    assert saved.name.startswith("000000000008-")
    with pytest.raises(FileExistsError, match="broken off"):
        evaluated(folder, tmp_path, save_maps="float32")
    with pytest.raises(ValueError, match="batch_size 4, not 8"):
        evaluated(folder, tmp_path, save_maps="float32", resume=True, batch_size=8)
    with pytest.raises(ValueError, match='"weights"'):
        evaluated(folder, tmp_path, save_maps="float32", resume=True, model=network(seed=1))
    evaluated(folder, tmp_path, save_maps="float32", resume=True, cases=2)
    same_results(whole, tmp_path)
    assert not (tmp_path / "state").exists()


def break_off(calls: int, *where: object, **options: object) -> None:
    """Run until the network has been called so often, but for the one picture alone that is looked at first."""
    model, left = network(), [calls]

    def count(module, inputs):
        if not left[0]:
            raise RuntimeError("broken off")
        left[0] -= len(inputs[0]) > 1

    model.register_forward_pre_hook(count)
    with pytest.raises(RuntimeError, match="broken off"):
        evaluated(*where, model=model, save_every=1, **options)


def test_broken_off_before_the_first_save(folder, whole, tmp_path):
    break_off(1, folder, tmp_path, save_maps="float32")
    assert (tmp_path / "state" / "run.json").exists()
    evaluated(folder, tmp_path, save_maps="float32", cases=2, resume=True)
    same_results(whole, tmp_path)


def test_damaged_states_are_refused(folder, tmp_path):
    break_off(4, folder, tmp_path)
    (tmp_path / "state" / "records.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="damaged: it is shorter"):
        evaluated(folder, tmp_path, resume=True)
    (tmp_path / "state" / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged"):
        evaluated(folder, tmp_path, resume=True)
    evaluated(folder, tmp_path, overwrite=True)


@pytest.mark.parametrize("parts", [2, 3])
def test_parts_make_the_whole(folder, whole, tmp_path, parts):
    for part in range(1, parts + 1):
        summary = evaluated(folder, tmp_path / str(part), part=(part, parts), save_maps="float32")
        assert summary.metrics is None
        assert not (tmp_path / str(part) / "metrics.json").exists()
    folders = [tmp_path / str(part) for part in range(parts, 0, -1)]
    evaluated(folder, tmp_path / "all", merge=folders, save_maps="float32", cases=2)
    same_results(whole, tmp_path / "all")


def test_parts_that_do_not_fit(folder, tmp_path):
    for part in (1, 2):
        evaluated(folder, tmp_path / str(part), part=(part, 2))
    with pytest.raises(ValueError, match="each once; got 0 to 8 of 20"):
        evaluated(folder, tmp_path / "x", merge=[tmp_path / "1"])
    with pytest.raises(ValueError, match="each once"):
        evaluated(folder, tmp_path / "x", merge=[tmp_path / "1", tmp_path / "1", tmp_path / "2"])
    with pytest.raises(FileNotFoundError, match="--part"):
        evaluated(folder, tmp_path / "x", merge=[tmp_path / "1", tmp_path / "3"])
    with pytest.raises(ValueError, match='has save_maps null, not "float16"'):
        evaluated(folder, tmp_path / "x", merge=[tmp_path / "1", tmp_path / "2"], save_maps="float16")
    with pytest.raises(FileExistsError, match="has a part"):
        evaluated(folder, tmp_path / "1", merge=[tmp_path / "1", tmp_path / "2"])
    with pytest.raises(ValueError, match="is one of the parts"):
        evaluated(folder, tmp_path / "1", merge=[tmp_path / "1", tmp_path / "2"], overwrite=True)
    with pytest.raises(ValueError, match=r'has source .*"cam".*, not .*"gradcam"'):
        evaluated(folder, tmp_path / "x", merge=[tmp_path / "1", tmp_path / "2"], method="gradcam")
    break_off(2, folder, tmp_path / "2", part=(2, 2), overwrite=True)
    with pytest.raises(ValueError, match="not finished: 4 pictures are left"):
        evaluated(folder, tmp_path / "x", merge=[tmp_path / "1", tmp_path / "2"])
    evaluated(folder, tmp_path / "2", part=(2, 2), resume=True)
    assert evaluated(folder, tmp_path / "x", merge=[tmp_path / "1", tmp_path / "2"]).pictures == 20


# ---- bad pictures ----------------------------------------------------------------------------------------------------


def test_bad_pictures(folder, tmp_path):
    """One that is damaged, one whose label is none of the classes, one whose logits are not finite."""
    root = tmp_path / "data"
    shutil.copytree(folder, root)
    (root / "val" / "001.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    lines = (root / "class_labels.txt").read_text().splitlines()
    lines[4] = "val/004.png,7"
    (root / "class_labels.txt").write_text("\n".join(lines) + "\n")
    (root / "classes.txt").unlink()
    model = network()
    with Image.open(root / "val" / "010.png") as picture:
        bright = tf.normalize(
            tf.to_tensor(picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR)), CONFIG.mean, CONFIG.std
        )

    class Infinite(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, images):
            same = (images - bright).abs().amax((1, 2, 3)) < 1e-6
            return self.inner(torch.where(same[:, None, None, None], torch.nan, images))

    options = {"model": Infinite(), "target_layers": "inner.features"}
    with pytest.raises(ValueError, match=r"val/001.png: damaged"):
        evaluated(root, tmp_path / "a", **options)
    reasons = {"val/001.png": "damaged: ", "val/004.png": "label 7", "val/010.png": "logits"}
    summary = evaluated(root, tmp_path / "b", **options, skip_bad=True, save_maps="float32")
    assert summary.pictures == 17
    assert [id for id, _ in summary.bad] == list(reasons)
    assert all(reasons[id] in reason for id, reason in summary.bad)
    assert told(tmp_path / "b")["bad"] == [list(entry) for entry in summary.bad]
    table = rows(tmp_path / "b" / "pictures.parquet")
    assert [(row["image_id"], row["status"]) for row in table[17:]] == [(id, "error") for id in reasons]
    assert len(rows(tmp_path / "b" / "maps.parquet")) == 17
    for part in (1, 2):
        evaluated(root, tmp_path / str(part), **options, skip_bad=True, part=(part, 2), save_maps="float32")
    evaluated(
        root, tmp_path / "c", **options, skip_bad=True, merge=[tmp_path / "2", tmp_path / "1"], save_maps="float32"
    )
    same_results(tmp_path / "b", tmp_path / "c")


def test_a_malformed_data_set(folder, tmp_path):
    root = tmp_path / "data"
    shutil.copytree(folder, root)
    with (root / "localization.txt").open("a") as file:
        file.write("val/002.png,30,1,20,9\n")
    with pytest.raises(ValueError, match=r"localization.txt:\d+.*ends before it begins"):
        evaluated(root, tmp_path / "a")
    summary = evaluated(root, tmp_path / "b", skip_bad=True)
    assert [id for id, _ in summary.bad] == ["val/002.png"]
    assert summary.pictures == 19


def test_pictures_without_truth_or_label(tmp_path):
    class Drawn:
        ids, class_names = ("a", "b", "c", "d"), ()
        labels = (0, 1, None, 2)

        def __len__(self):
            return 4

        def __getitem__(self, index):
            boxes = [
                np.array([[2, 2, 9, 9]], np.float32),
                np.zeros((0, 4), np.float32),
                np.array([[1, 1, 5, 6]], np.float32),
            ]
            image = np.random.default_rng(index).integers(0, 256, (12, 10, 3), np.uint8)
            return Sample(image, self.labels[index], [*boxes, None][index], None, (10, 12), self.ids[index])

        def truth(self, index):
            return self[index]._replace(image=None)

    summary = evaluated(Drawn(), tmp_path, skip_bad=True)
    assert [id for id, _ in summary.bad] == ["c", "b", "d"]
    assert "no label" in summary.bad[0][1]
    assert "empty ground truth" in summary.bad[1][1]
    assert "no ground truth" in summary.bad[2][1]


# ---- masks, and cases ------------------------------------------------------------------------------------------------


def test_masks(tmp_path):
    """Pixels are pooled; pictures are compared by the IoU of their pixels."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    masks = []
    for number in range(9):
        mask = np.zeros((28, 36), np.uint8)
        cv2.circle(mask, tuple(rng.integers(8, 22, 2).tolist()), int(rng.integers(4, 12)), 255, -1)
        picture = rng.integers(0, 90, (28, 36, 3), np.uint8) + (mask[..., None] > 0) * np.uint8(120)
        Image.fromarray(picture).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        masks.append(mask > 0)
    found = evaluated(tmp_path, tmp_path / "out", targets="highest", save_maps="float32", cases=2)
    coarse = [np.frombuffer(row["map"], "<f4").reshape(8, 8) for row in rows(tmp_path / "out" / "maps.parquet")]
    maps = np.stack([oracle.upsample(map, (28, 36)) for map in coarse])
    edges = [*np.arange(0, 1, 0.001), 1.0, 2.0, 3.0]
    inside = np.histogram(maps[np.stack(masks)], edges)[0][::-1].cumsum()
    outside = np.histogram(maps[~np.stack(masks)], edges)[0][::-1].cumsum()
    precision, recall = inside / np.maximum(inside + outside, 1), inside / inside[-1]
    assert found.metrics["figures"]["PxAP"] == pytest.approx(100 * (precision[1:] * np.diff(recall)).sum())
    with Image.open(tmp_path / "out" / "precision_recall.png") as picture:
        assert min(picture.size) > 300
    table = rows(tmp_path / "out" / "pictures.parquet")
    ious = np.zeros((9, 256))
    for level in range(256):
        over = maps >= np.ceil(level / 255 * 1000) / 1000
        for number in range(9):
            ious[number, level] = (over[number] & masks[number]).sum() / (over[number] | masks[number]).sum()
    np.testing.assert_allclose([row["best_iou"] for row in table], ious.max(1), atol=1e-6)
    np.testing.assert_allclose([row["iou"] for row in table], ious[:, ious.mean(0).argmax()], atol=1e-6)
    assert (tmp_path / "out" / "gallery.html").read_text().count("<article>") == 6


def test_choice_of_cases():
    iou = np.array([0.5, 0.9, 0.1, 0.7, 0.3, 0.8, 0.0])
    assert choose_cases(iou, 2) == {"best": [1, 5], "median": [3, 0], "worst": [6, 2]}
    for count in range(1, 12):
        values = np.random.default_rng(count).random(count).round(1)
        for wanted in (1, 2, 5):
            kinds = choose_cases(values, wanted)
            chosen = [row for rows in kinds.values() for row in rows]
            assert len(set(chosen)) == len(chosen) == min(count, 3 * min(wanted, -(-count // 3)))
            ordered = np.sort(values)
            assert values[kinds["best"]].tolist() == ordered[::-1][: len(kinds["best"])].tolist()
            assert values[kinds["worst"]].tolist() == ordered[: len(kinds["worst"])].tolist()
    kinds = choose_cases(np.arange(101) / 100, 3)
    assert sorted(kinds["median"]) == [49, 50, 51]
