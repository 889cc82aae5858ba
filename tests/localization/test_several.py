"""Several given classes a picture: rows of each, whatever else is in the batch, and what is made of them."""

import json
import random
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models import VisionTransformer

from fastcam import drawing, models
from fastcam.cropping import crop
from fastcam.data import Pictures, Sample
from fastcam.evaluation import evaluate
from fastcam.export import export
from fastcam.localization import LocalizeSettings, localize, network, prepare
from fastcam.methods import ATTENTION_METHODS, BOX_METHODS
from fastcam.models import ModelConfig
from fastcam.report import write_report
from tests.support.engine_run import OPTIONS as ENGINE, Tiny as Pausing, several
from tests.support.processes import children
from tests.support.reports import Page
from tests.support.runs import begin, check_finished, stage

SIDE, COUNT = 48, 5
NAMES = ("red", "green", "blue", "yellow", "grey")
COLOURS = np.array([[230, 30, 30], [30, 200, 30], [40, 40, 240], [230, 220, 30]])
CONFIG = ModelConfig("finder", COUNT, class_names=NAMES, size=SIDE, mean=(0.5,) * 3, std=(0.5,) * 3)
OPTIONS = {"config": CONFIG, "progress": False, "threads": 1}
# What is drawn in each picture: class and box, of which the first is the label.
SCENES = (
    [(1, (2, 4, 20, 22)), (0, (26, 26, 44, 46))],
    [(2, (24, 2, 44, 24))],
    [(3, (2, 26, 22, 46)), (2, (26, 2, 46, 20)), (0, (26, 26, 46, 46))],
    [(0, (3, 3, 23, 23))],
    [(2, (2, 2, 22, 22)), (1, (26, 24, 46, 44))],
)
IDS = [f"{index}.png" for index in range(len(SCENES))]
GIVEN = [tuple(c for c, _ in scene) for scene in SCENES]


class Finder(nn.Module):
    """Knows colours: its maps are high where a pixel has a class's colour, and its head averages them."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.ReLU())
        self.more = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())
        self.classifier = nn.Linear(4, COUNT)
        with torch.no_grad():
            centred = torch.from_numpy(COLOURS / 127.5 - 1).float()
            ours = 2 * centred / centred.square().sum(1, keepdim=True)  # 1 for a class's colour, below 0 for all others
            self.features[0].weight.copy_((ours / 16)[..., None, None].expand(4, 3, 4, 4))
            self.features[0].bias.fill_(-1.0)
            self.more[0].weight.copy_(torch.eye(4)[..., None, None])
            self.more[0].bias.zero_()
            self.classifier.weight.copy_(torch.cat([9 * torch.eye(4) - 1, torch.ones(1, 4) / 7]))
            self.classifier.bias.copy_(torch.tensor([1.0, 0.2, 0.0, 0.3, -1.0]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.more(self.features(images)).mean((2, 3)))


class Random(Finder):
    """The same with random weights, seeded, so that all classes have maps everywhere."""

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        for parameter in self.parameters():
            parameter.data = torch.from_numpy(rng.normal(0, 0.3, tuple(parameter.shape)).astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for id, scene in zip(IDS, SCENES, strict=True):
        pixels = np.full((SIDE, SIDE, 3), 128, np.uint8)
        for c, (x0, y0, x1, y1) in scene:
            pixels[y0:y1, x0:x1] = COLOURS[c]
        Image.fromarray(pixels).save(folder / id)
    return folder


def labelled(folder: Path, **more) -> Pictures:
    """The data set: labels are of the first object, and so are true boxes."""
    boxes = [np.array([box for c, box in scene if c == scene[0][0]], np.float32) for scene in SCENES]
    known = {"labels": [given[0] for given in GIVEN], "classes": GIVEN, "boxes": boxes, "class_names": NAMES}
    return Pictures(folder, IDS, **known | more)


def rows_of(source, out: Path, model: nn.Module | None = None, **options) -> list[dict]:
    summary = localize(model or Finder(), source, out=out, **OPTIONS | options)
    return pq.read_table(summary.path).to_pylist()


def corners(row: dict) -> list[float]:
    return [row[edge] for edge in ("x0", "y0", "x1", "y1")]


def overlap(a, b) -> float:
    """IoU of two boxes."""
    a, b = np.array(a, float), np.array(b, float)
    inside = (np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod()
    return inside / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inside)


@pytest.mark.parametrize("targets", ["label", dict(zip(IDS, GIVEN, strict=True))])
def test_each_class_has_a_row_with_its_object(folder, tmp_path, targets):
    rows = rows_of(labelled(folder) if targets == "label" else folder, tmp_path, targets=targets)
    assert sorted((row["image_id"], row["class_id"]) for row in rows) == sorted(
        (id, c) for id, given in zip(IDS, GIVEN, strict=True) for c in given
    )
    for row in rows:
        (box,) = (box for c, box in SCENES[IDS.index(row["image_id"])] if c == row["class_id"])
        assert overlap(corners(row), box) > 0.6
    for before, after in pairwise(rows):
        assert before["image_id"] != after["image_id"] or before["rank"] < after["rank"]


@pytest.mark.parametrize("method", BOX_METHODS)
def test_rows_are_those_of_top_k_where_these_are_given(folder, tmp_path, method):
    """In any order: all columns, maps too, of the largest box and of all; and a part of them is a part of the rows."""
    options = {"model": Random(), "method": method, "batch_size": 2, "threshold": 0.3}
    if method in ATTENTION_METHODS:
        options["model"] = model = VisionTransformer(SIDE, 8, 2, 2, 16, 32, num_classes=COUNT).eval()
        nn.init.normal_(model.heads.head.weight)  # which is zero
    elif method not in ("saliency", "fullgrad"):
        options |= {"target_layers": "more" if method == "cam" else "features.0", "maps": True}
    for boxes in ("largest", "all"):
        highest = rows_of(folder, tmp_path / f"top {boxes}", top_k=3, boxes=boxes, **options)
        found: dict[str, list[int]] = {}
        for row in highest:
            found.setdefault(row["image_id"], []).append(row["class_id"])
        rng = np.random.default_rng(0)
        given = {id: rng.permutation(list(dict.fromkeys(classes))) for id, classes in found.items()}
        rows = rows_of(folder, tmp_path / f"given {boxes}", targets=given, boxes=boxes, **options)
        assert rows == highest
        some = {id: classes[: 1 + place % 3] for place, (id, classes) in enumerate(given.items())}
        rows = rows_of(folder, tmp_path / f"some {boxes}", targets=some, boxes=boxes, **options)
        assert rows == [row for row in highest if row["class_id"] in some[row["image_id"]]]


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam", "scorecam"])
def test_what_else_is_in_the_batch_changes_no_bit(folder, tmp_path, method):
    layer = "more" if method == "cam" else "features.0"
    options = {"model": Random(), "method": method, "target_layers": layer, "maps": True}
    mine = {IDS[0]: [3, 1], IDS[3]: [0]}

    def own(name: str, others: dict, **more) -> list[dict]:
        rows = rows_of(folder, tmp_path / name, targets=mine | others, **options | {"batch_size": 4} | more)
        return [row for row in rows if row["image_id"] in mine]

    alone = own("alone", {})
    assert len(alone) == 3
    assert own("all", dict.fromkeys([IDS[1], IDS[2], IDS[4]], range(COUNT))) == alone
    assert own("mixed", {IDS[1]: [4, 2, 0], IDS[2]: [], IDS[4]: [7]}) == alone
    if method == "gradcam":
        assert own("workers", {IDS[1]: [2, 1, 0]}, workers=2, shard_size=4) == alone
    for size in (1, 3, 5):
        for row, same in zip(own(f"{size}", {IDS[1]: [2, 1, 0]}, batch_size=size), alone, strict=True):
            assert row["score"] == pytest.approx(same["score"], abs=1e-6)
            assert corners(row) == corners(same)


def test_a_dog_and_a_cat(shared, tmp_path):
    """Each has its box, which is that of top-k; without given classes there are the rows of the highest."""
    model = models.build("mobilenet_v2")
    models.load_weights(model, shared / "weights" / "mobilenet_v2.pt")
    config = ModelConfig("mobilenet_v2", 1000, mean=(0.5,) * 3, std=(0.5,) * 3)
    picture = shared / "images" / "peers" / "both.png"
    options = {"model": model, "config": config, "relu": True, "maps": True}
    rows = rows_of(picture, tmp_path / "given", targets={"both.png": [281, 243]}, **options)
    assert [row["class_id"] for row in rows] == [243, 281]  # bull mastiff, tabby
    animals = (80, 13, 165, 147), (46, 118, 192, 222)
    for row, own, other in zip(rows, animals, animals[::-1], strict=True):
        assert overlap(corners(row), own) > max(0.4, 2 * overlap(corners(row), other))
    highest = rows_of(picture, tmp_path / "top", top_k=10, **options)
    assert rows == [row for row in highest if row["class_id"] in (243, 281)]
    assert rows_of(picture, tmp_path / "none", **options) == highest[:1] == rows[:1]


def test_gradients_cost_one_backward_pass_for_each_class_of_the_picture_with_most(folder, tmp_path, monkeypatch):
    passes, differentiate = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: (passes.append(1), differentiate(*a, **k))[1])
    options = {"method": "layercam", "target_layers": "features.0", "batch_size": 3}
    rows_of(labelled(folder), tmp_path / "a", targets="label", boxes="all", maps=True, **options)
    assert len(passes) == max(map(len, GIVEN[:3])) + max(map(len, GIVEN[3:]))


def test_classes_that_are_none(folder, tmp_path):
    given = {IDS[0]: [1, 0], IDS[1]: [], IDS[2]: [0, COUNT], IDS[3]: [-1]}
    rows = rows_of(folder, tmp_path / "a", targets=given)
    reasons = {row["image_id"]: row["error"] for row in rows if row["error"]}
    assert reasons == {
        IDS[1]: "no_target: an empty list of classes is given for this picture",
        IDS[2]: f"no_target: class {COUNT} is none of the model's {COUNT}",
        IDS[3]: f"no_target: class -1 is none of the model's {COUNT}",
        IDS[4]: "no_target: no class is given for this picture",
    }
    unknown = {"config": None, "batch_size": 4}  # so that the first pass tells how many classes there are
    unnamed = rows_of(folder, tmp_path / "b", targets=given, **unknown)
    assert [row["error"] for row in unnamed] == [
        row["error"] if "-1" not in (row["error"] or "") else "no_target: class -1 is none of the model's"
        for row in rows
    ]
    for wrong, kind, message in (
        ([1, 1], ValueError, r"the classes of '0\.png' must be class indices, each once, got 1 twice"),
        (np.array([0, 1, 1, 0]), ValueError, "each once, got 0 twice"),
        (np.array([False, True]), TypeError, "the class of '0.png' must be a whole number, or a sequence of such"),
        ([0.5], TypeError, "or a sequence of such"),
        ("12", TypeError, "or a sequence of such"),
        ([[0, 1]], TypeError, "or a sequence of such"),
    ):
        with pytest.raises(kind, match=message):
            rows_of(folder, tmp_path / "c", targets={IDS[0]: wrong})
        with pytest.raises(kind, match=message):
            rows_of([Sample(Image.new("RGB", (9, 9)), id=IDS[0])], tmp_path / "c", targets={IDS[0]: wrong})
    for right in ((2, 0), np.array([0, 2]), torch.tensor([2, 0]), {2, 0}, range(0, 3, 2)):
        rows = rows_of(folder / IDS[0], tmp_path / "d", targets={IDS[0]: right}, overwrite=True)
        assert {row["class_id"] for row in rows} == {0, 2}


def test_classes_of_samples(folder, tmp_path):
    pictures = [np.array(Image.open(folder / id)) for id in IDS[:4]]
    known = [(1, (0, 1)), (2, None), (None, (0, 2)), (None, ())]
    samples = [Sample(image, label, classes=classes) for image, (label, classes) in zip(pictures, known, strict=True)]
    rows = rows_of([*samples, Sample(pictures[0])], tmp_path, targets="label")
    found = [(row["image_id"], row["class_id"]) for row in rows]
    assert sorted(found[:5]) == [("0", 0), ("0", 1), ("1", 2), ("2", 0), ("2", 2)]
    assert [row["error"] for row in rows[5:]] == [
        "no_target: an empty list of classes is given for this picture",
        "no_target: no class is given for this picture",
    ]


def test_overlays_show_the_label_with_its_true_boxes(folder, tmp_path, monkeypatch):
    drawn, panel = [], drawing.panel
    monkeypatch.setattr(network.drawing, "panel", lambda *parts: (drawn.append(parts), panel(*parts))[1])
    rows = rows_of(labelled(folder), tmp_path, targets="label", overlays=5)
    assert [row["class_id"] for row in rows[:2]] != list(GIVEN[0])  # the label is not the highest
    for scene, (_, heat, box, truth) in zip(SCENES, drawn, strict=True):
        np.testing.assert_array_equal(truth, [scene[0][1]])
        assert overlap(box, scene[0][1]) > 0.6
        x0, y0, x1, y1 = scene[0][1]
        assert heat[y0:y1, x0:x1].mean() > 3 * heat.mean() / 2
    assert len(list((tmp_path / "overlays").iterdir())) == 5


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("run")
    rows_of(labelled(folder), out, targets="label", maps=True)
    return out


def test_labels_and_maps_of_all_classes(run):
    path = export(run, "wsss").path
    for id, given, scene in zip(IDS, GIVEN, SCENES, strict=True):
        with np.load(path / "cam" / f"{id[0]}.npz") as seeds:
            assert seeds["keys"].tolist() == sorted(given)
            maps = dict(zip(seeds["keys"].tolist(), seeds["high_res"], strict=True))
        labels = np.array(Image.open(path / "labels" / id))
        assert set(np.unique(labels)) == {0, *(c + 1 for c in given)}
        for c, (x0, y0, x1, y1) in scene:
            assert maps[c][y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean() > 0.8
            assert (labels[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4] == c + 1).all()


def test_the_label_is_what_boxes_are_measured_by(folder, run, tmp_path):
    """As for a run of the labels alone."""
    rows_of(labelled(folder, classes=None), tmp_path / "one", targets="label")
    figures = [
        evaluate(labelled(folder), boxes=path / "boxes.parquet", out=tmp_path / name, progress=False)
        for name, path in (("a", run), ("b", tmp_path / "one"))
    ]
    ours, theirs = (json.loads((tmp_path / name / "metrics.json").read_text())["figures"] for name in ("a", "b"))
    assert ours == theirs
    assert ours["GT-known Loc"] == 100
    assert figures
    # Rows of other classes tell nothing of the label's rank.
    rows_of(folder, tmp_path / "others", targets={id: [3, 4] for id in IDS})
    evaluate(labelled(folder), boxes=tmp_path / "others" / "boxes.parquet", out=tmp_path / "c", progress=False)
    assert (
        not {"Top-1 Cls", "Top-5 Cls", "GT-known Loc"}
        & json.loads((tmp_path / "c" / "metrics.json").read_text())["figures"].keys()
    )


def test_the_page_shows_the_label_with_its_true_boxes(folder, run, tmp_path):
    page = Page(write_report(run, tmp_path / "page.html", data=labelled(folder)).path)
    assert set(page.cards) == set(IDS)
    for id, card in page.cards.items():
        scene = SCENES[IDS.index(id)]
        names = [page.data["names"][row[0]] for row in card["rows"]]
        assert names[0] == NAMES[scene[0][0]]
        assert sorted(names) == sorted(NAMES[c] for c, _ in scene)
        assert card["iou"] > 0.6
        assert card["truth"] == [list(map(float, scene[0][1]))]
    assert "probability (softmax)" in page.text


def test_crops_lie_in_the_folder_of_their_class(folder, run, tmp_path):
    def colours(out: Path) -> dict[str, set[str]]:
        """Which colour is in the middle of each crop, by folder."""
        found: dict[str, set[str]] = {}
        for path in sorted(out.glob("*/*.png")):
            pixels = np.array(Image.open(path).convert("RGB"))
            middle = pixels[len(pixels) // 2, pixels.shape[1] // 2]
            found.setdefault(path.parent.name, set()).add(NAMES[np.abs(COLOURS - middle).sum(1).argmin()])
        return found

    done = crop(run, out=tmp_path / "one", data=labelled(folder), progress=False)
    assert done.crops == len(IDS)
    assert colours(tmp_path / "one") == {name: {name} for name in {NAMES[given[0]] for given in GIVEN}}
    done = crop(run, out=tmp_path / "each", data=labelled(folder), each=True, progress=False)
    assert (done.crops, done.failed) == (sum(map(len, GIVEN)), 0)
    assert colours(tmp_path / "each") == {name: {name} for name in NAMES[:4]}
    done = crop(run, out=tmp_path / "found", images=folder, each=True, progress=False)
    assert colours(tmp_path / "found") == {name: {name} for name in NAMES[:4]}


# Other plans, and runs that break off


def test_other_classes_are_another_plan(folder, tmp_path):
    def planned(**options):
        known = {name: value for name, value in OPTIONS.items() if name != "progress"}
        return prepare(Finder(), folder, out=tmp_path, **known | options)

    planned(targets={IDS[0]: [0, 1]})
    planned(targets={IDS[0]: (0, 1)})
    with pytest.raises(FileExistsError, match=r"made by another plan \(class of 0\.png\)"):
        planned(targets={IDS[0]: [0]})
    with pytest.raises(FileExistsError, match=r"made by another plan \(scores: None there, sigmoid here\)"):
        planned(targets={IDS[0]: [0, 1]}, scores="sigmoid")


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    for index in range(61):
        noise = np.random.default_rng(index).integers(0, 256, (4, 5, 3), np.uint8)
        Image.fromarray(noise).resize((40, 30), Image.Resampling.BICUBIC).save(folder / f"{index:02d}.png")
    return folder


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_killed_run_goes_on(many, tmp_path, monkeypatch, workers):
    options = several(many)
    localize(Pausing(), many, out=tmp_path / "whole", **options)
    counts = np.unique(
        [row["image_id"] for row in pq.read_table(tmp_path / "whole/boxes.parquet").to_pylist()], return_counts=True
    )[1]
    assert set(counts) == {1, 2, 3, 4}
    monkeypatch.setenv("SEVERAL", "1")
    process = begin(many, tmp_path / "out", workers=workers, pause=0.1)
    limit = time.monotonic() + 300
    wanted = random.Random(workers).randrange(3, 7)
    while stage(tmp_path / "out") < wanted:
        assert time.monotonic() < limit
        assert process.poll() is None
        time.sleep(0.01)
    workers_of = children(process.pid)
    process.kill()
    process.wait(60)
    process.stderr.close()
    while any(Path(f"/proc/{pid}").exists() for pid in workers_of):  # they notice by themselves
        assert time.monotonic() < limit
        time.sleep(0.01)
    localize(Pausing(), many, out=tmp_path / "out", **options)
    check_finished(tmp_path / "out", tmp_path / "whole")


def test_settings_know_what_is_meant():
    assert LocalizeSettings(targets={"a": [1, 2]}).targets == {"a": [1, 2]}
    assert ENGINE["top_k"] == 2
    with pytest.raises(ValueError, match="`scores` must be one of None, softmax, sigmoid, got 'logit'"):
        LocalizeSettings(scores="logit")


def test_a_run_of_a_version_with_one_class_is_refused(folder, tmp_path):
    """Its list has a column for one class, and its plan no scores."""
    plan = prepare(Finder(), folder, out=tmp_path, config=CONFIG, threads=1)
    known = json.loads(plan.files.plan.read_text())
    del known["settings"]["scores"]
    plan.files.plan.write_text(json.dumps(known | {"digest": "0" * 32}))
    listed = pq.read_table(plan.inputs).to_pylist()
    pq.write_table(pa.Table.from_pylist([{**row, "target": row.pop("targets")} for row in listed]), plan.inputs)
    with pytest.raises(FileExistsError, match=r"made by another plan \(an earlier version of fastcam, which had fewer"):
        prepare(Finder(), folder, out=tmp_path, config=CONFIG, threads=1)
