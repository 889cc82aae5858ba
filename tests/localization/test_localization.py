"""Localization: rows against a box rule written out here, and what happens when something goes wrong."""

import copy
import csv
import json
import threading
from collections.abc import Container
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import nn
from torchvision import transforms

from fastcam.data import Pictures, Sample
from fastcam.export import export
from fastcam.localization import localize, worker
from fastcam.methods import ATTRIBUTIONS, BOX_METHODS
from fastcam.models import ModelConfig
from fastcam.pictures import DecodeError, Preprocess
from fastcam.runs.schema import SCHEMA

SIZE, CLASSES = 64, 5
FILES = {"plan.json", "boxes.parquet", "audit.json"}
CONFIG = ModelConfig(
    "tiny", CLASSES, class_names=("ant", "bee", "cat", "dog", "eel"), size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3
)


class Tiny(nn.Module):
    """Convolution, average pooling, linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 8, stride=8), nn.ReLU())
        self.classifier = nn.Linear(6, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


@pytest.fixture
def model() -> Tiny:
    return Tiny()


def draw(index: int, width: int = 120, height: int = 90) -> Image.Image:
    rng = np.random.default_rng(index)
    small = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def folder(tmp_path) -> Path:
    """Seven pictures of several shapes, two of them of the same name in different folders."""
    for index, name in enumerate(("a.png", "b/a.png", "b/c.webp", "b/d/e.PNG", "f.png", "g.png", "h/a.png")):
        path = tmp_path / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(index, 90 + 7 * index, 130 - 9 * index).save(path, lossless=True)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


ORDER = ["a.png", "f.png", "g.png", "b/a.png", "b/c.webp", "b/d/e.PNG", "h/a.png"]


def run(model, source, tmp_path, out="out", **options):
    summary = localize(model, source, out=tmp_path / out, **{"config": CONFIG, "progress": False, **options})
    rows = pq.read_table(summary.path).to_pylist()
    assert summary.path == tmp_path / out / "boxes.parquet"
    assert summary.rows == len(rows)
    assert summary.errors == sum(row["status"] == "error" for row in rows)
    assert {path.name for path in summary.path.parent.iterdir()} - {"inputs.parquet", "overlays"} == FILES
    return rows


def box(row) -> list[float]:
    return [row[edge] for edge in ("x0", "y0", "x1", "y1")]


@torch.no_grad()
def expected(model, image: Image.Image, resize: str, class_id: int | None, threshold=0.2, mode="bilinear"):
    """Class, score and box of one picture, step by step with other libraries."""
    width, height = image.size
    steps = [transforms.Resize((SIZE, SIZE))]
    if resize == "crop":
        steps = [transforms.Resize(round(SIZE * 256 / 224)), transforms.CenterCrop(SIZE)]
    steps += [transforms.ToTensor(), transforms.Normalize(CONFIG.mean, CONFIG.std)]
    tensor = transforms.Compose(steps)(image.convert("RGB"))[None]
    logits = model(tensor)[0]
    class_id = int(logits.argmax()) if class_id is None else class_id
    coarse = torch.einsum("k,khw->hw", model.classifier.weight[class_id], model.features(tensor)[0])
    map = F.interpolate(coarse[None, None], (SIZE, SIZE), mode=mode)[0, 0].double().numpy()
    map = (map - map.min()) / (map.max() - map.min())
    labels, _ = ndimage.label(map > threshold, np.ones((3, 3)))
    rows, columns = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()]
    x = np.array([columns.start, columns.stop], float)
    y = np.array([rows.start, rows.stop], float)
    if resize == "squash":
        x, y = x * width / SIZE, y * height / SIZE
    else:
        side = round(SIZE * 256 / 224)
        whole = [int(side * extent / min(width, height)) for extent in (width, height)]
        x = (x + round((whole[0] - SIZE) / 2)) * width / whole[0]
        y = (y + round((whole[1] - SIZE) / 2)) * height / whole[1]
    return class_id, float(logits.softmax(0)[class_id]), [x[0], y[0], x[1], y[1]]


@pytest.mark.parametrize("resize", ["squash", "crop"])
@pytest.mark.parametrize("threshold", [0.2, 0.6])
def test_rows_equal_the_rule_written_out(model, folder, tmp_path, resize, threshold):
    config = ModelConfig(**{**vars(CONFIG), "resize": resize, "threshold": threshold})
    rows = run(model, folder, tmp_path, config=config, batch_size=3)
    assert [row["image_id"] for row in rows] == ORDER
    for row in rows:
        image = opened(folder / row["image_id"])
        class_id, score, corners = expected(model, image, resize, None, threshold)
        assert (row["width"], row["height"]) == image.size
        assert (row["rank"], row["class_id"], row["status"], row["error"]) == (1, class_id, "ok", None)
        assert row["class_name"] == CONFIG.class_names[class_id]
        assert row["score"] == pytest.approx(score, abs=1e-6)
        assert np.allclose(box(row), corners, atol=1e-4)
        assert all(0 <= a < b <= extent for a, b, extent in zip(box(row)[:2], box(row)[2:], image.size, strict=True))


@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_boxes_of_rotated_pictures_are_upright(model, tmp_path, resize):
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: to be turned clockwise for display
    (tmp_path / "in").mkdir()
    draw(1).save(tmp_path / "in" / "upright.png")
    draw(1).transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in" / "turned.png", exif=exif)
    turned, upright = run(model, tmp_path / "in", tmp_path, config=ModelConfig(**{**vars(CONFIG), "resize": resize}))
    assert turned["image_id"] == "turned.png"
    assert (turned["width"], turned["height"]) == (120, 90)
    assert {**turned, "image_id": "upright.png", "orientation": 1} == upright
    assert turned["orientation"] == 6


def test_top_k_gives_one_row_per_class(model, folder, tmp_path):
    rows = run(model, folder, tmp_path, top_k=3)
    assert [row["image_id"] for row in rows] == [id for id in ORDER for _ in range(3)]
    assert [row["rank"] for row in rows] == [1, 2, 3] * len(ORDER)
    for row in rows:
        _, score, corners = expected(model, opened(folder / row["image_id"]), "squash", row["class_id"])
        assert row["score"] == pytest.approx(score, abs=1e-6)
        assert np.allclose(box(row), corners, atol=1e-4)
    scores = np.array([row["score"] for row in rows]).reshape(-1, 3)
    assert (np.diff(scores) <= 0).all()


def test_given_classes(model, folder, tmp_path):
    best = run(model, folder, tmp_path, "all", top_k=CLASSES)
    ranks = {(row["image_id"], row["class_id"]): row["rank"] for row in best}
    given = {id: i % CLASSES for i, id in enumerate(ORDER)}
    rows = run(model, folder, tmp_path, targets=given)
    assert [row["class_id"] for row in rows] == list(given.values())
    assert [row["rank"] for row in rows] == [ranks[pair] for pair in given.items()]
    same = {(row["image_id"], row["class_id"]): box(row) for row in best}
    assert [box(row) for row in rows] == [same[pair] for pair in given.items()]

    del given["f.png"]
    given["g.png"] = CLASSES
    rows = run(model, folder, tmp_path, "partly", targets=given)
    assert rows[1]["error"] == "no_target: no class is given for this picture"
    assert rows[2]["error"] == "no_target: class 5 is none of the model's 5"
    assert [row["status"] for row in rows] == ["ok", "error", "error", "ok", "ok", "ok", "ok"]
    assert (rows[1]["width"], rows[1]["class_id"], rows[1]["x0"]) == (118, None, None)


@pytest.mark.parametrize("method", ["cam", "gradcam", "layercam"])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_reference_backend_gives_the_same_rows(model, folder, tmp_path, method, mode):
    fused, reference = (
        run(model, folder, tmp_path, backend, backend=backend, method=method, mode=mode, top_k=2, relu=False)
        for backend in ("fused", "reference")
    )
    for ours, theirs in zip(fused, reference, strict=True):
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert np.abs(np.array(box(ours)) - box(theirs)).max() <= max(ours["width"], ours["height"]) / SIZE
        assert {**ours, **theirs} == {**theirs, **{k: theirs[k] for k in ours}}


def test_the_batch_size_changes_nothing(model, folder, tmp_path):
    whole = run(model, folder, tmp_path, "whole")
    for row, single in zip(whole, run(model, folder, tmp_path, "single", batch_size=1), strict=True):
        assert box(row) == box(single)
        assert row["score"] == pytest.approx(single["score"], abs=1e-6)


def test_damaged_pictures_become_rows(model, folder, tmp_path):
    (folder / "b" / "broken.png").write_bytes((folder / "a.png").read_bytes()[:400])
    (folder / "c.jpg").write_text("no picture at all")
    rows = run(model, folder, tmp_path, batch_size=2)
    assert [row["image_id"] for row in rows] == ["a.png", "c.jpg", *ORDER[1:4], "b/broken.png", *ORDER[4:]]
    failed = {row["image_id"]: row for row in rows if row["status"] == "error"}
    assert failed["c.jpg"]["error"].startswith("unsupported: ")
    assert failed["b/broken.png"]["error"].startswith("damaged: ")
    kept = {"image_id", "status", "error"}
    assert all(value is None for row in failed.values() for key, value in row.items() if key not in kept)


def test_table(model, folder, tmp_path):
    run(model, folder, tmp_path, relu=True)
    table = pq.read_table(tmp_path / "out" / "boxes.parquet")
    columns = "image_id, width, height, rank, class_id, class_name, score, x0, y0, x1, y1, status, error"
    columns += ", box, box_score, orientation, decoder"
    assert ", ".join(table.schema.names) == columns
    assert all(table.schema.field(name).equals(SCHEMA.field(name)) for name in table.schema.names)
    made_by = json.loads(table.schema.metadata[b"fastcam"])
    assert made_by["arch"] == "tiny"
    assert (made_by["method"], made_by["threshold"], made_by["relu"], made_by["size"]) == ("cam", 0.2, True, SIZE)


@torch.no_grad()
@pytest.mark.parametrize("resize", ["squash", "crop"])
def test_all_boxes(model, folder, tmp_path, resize):
    """Against SciPy's components of the map, computed here."""
    config = ModelConfig(**{**vars(CONFIG), "resize": resize})
    options = {"config": config, "top_k": 2, "threshold": 0.5}
    rows = run(model, folder, tmp_path, boxes="all", min_area=0.02, **options)
    largest = run(model, folder, tmp_path, "largest", **options)
    several = 0
    for first in largest:
        found = [row for row in rows if (row["image_id"], row["rank"]) == (first["image_id"], first["rank"])]
        assert [row["box"] for row in found] == list(range(1, len(found) + 1))
        kept = set(first) - {"box_score"}
        assert {name: found[0][name] for name in kept} == {name: first[name] for name in kept}
        assert first["box_score"] == first["score"]
        frame, geometry = Preprocess.of(config).frame(opened(folder / first["image_id"]))
        images = Preprocess.of(config).normalize(torch.from_numpy(frame)[None])
        coarse = torch.einsum("k,khw->hw", model.classifier.weight[first["class_id"]], model.features(images)[0])
        map = F.interpolate(coarse[None, None], (SIZE, SIZE), mode="bilinear")[0, 0].double().numpy()
        map = (map - map.min()) / (map.max() - map.min())
        labels, _ = ndimage.label(map > 0.5, np.ones((3, 3)))
        areas = np.bincount(labels.ravel())[1:]
        order = [i for i in np.argsort(-areas, kind="stable") if areas[i] >= 0.02 * SIZE * SIZE]
        assert len(order) == len(found)
        several += len(order) > 1
        for i, row in zip(order, found, strict=True):
            y, x = ndimage.find_objects(labels)[i]
            corners = geometry.to_original(np.array([x.start, y.start, x.stop, y.stop]))
            assert np.allclose(box(row), corners, atol=1e-4)
            assert row["box_score"] == pytest.approx(row["score"] * map[y, x].max(), abs=1e-5)
    assert several > 3


def test_a_constant_map_has_one_empty_box(model, folder, tmp_path):
    model.classifier.weight.data.zero_()
    for boxes in ("largest", "all", "paper"):
        rows = run(model, folder, tmp_path, boxes, boxes=boxes)
        classes = 3 if boxes == "paper" else 1
        assert [(row["box"], box(row), row["status"]) for row in rows] == [(1, [0] * 4, "ok")] * 7 * classes


@pytest.mark.parametrize(("resize", "options"), [("squash", {}), ("crop", {"threshold": 0.3, "tight": 0.75})])
def test_the_five_boxes_of_the_paper(model, folder, tmp_path, resize, options):
    """For two classes the largest component above two thresholds, for the third above the lower one."""
    config = ModelConfig(**{**vars(CONFIG), "resize": resize})
    rows = run(model, folder, tmp_path, config=config, boxes="paper", batch_size=3, **options)
    assert [row["image_id"] for row in rows] == [id for id in ORDER for _ in range(5)]
    assert [(row["rank"], row["box"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)] * len(ORDER)
    loose, tight = options.get("threshold", 0.2), options.get("tight", 0.4)
    for row in rows:
        image, threshold = opened(folder / row["image_id"]), tight if row["box"] == 2 else loose
        _, score, corners = expected(model, image, resize, row["class_id"], threshold)
        assert np.allclose(box(row), corners, atol=1e-4)
        assert row["score"] == row["box_score"] == pytest.approx(score, abs=1e-6)
    ordered = run(model, folder, tmp_path, "ordered", config=config, top_k=3)
    assert [row["class_id"] for row in ordered] == [row["class_id"] for row in rows if row["box"] == 1]
    assert run(model, folder, tmp_path, config=config, boxes="paper", batch_size=3, **options) == rows  # finished


def test_the_five_boxes_in_other_formats(model, folder, tmp_path):
    rows = run(model, folder, tmp_path, boxes="paper")
    done = {name: export(tmp_path / "out", name) for name in ("csv", "coco", "labelstudio", "voc", "yolo", "wsol")}
    counts = {name: one.boxes for name, one in done.items()}
    assert counts == {name: 14 if name == "wsol" else 35 for name in done}  # whose pictures have one class
    with done["csv"].path.open() as file:
        written = [[line[name] for name in ("image_id", "rank", "box", "x0")] for line in csv.DictReader(file)]
    wanted = [[r["image_id"], str(r["rank"]), str(r["box"]), str(np.float32(r["x0"]))] for r in rows]
    assert written == wanted
    results = json.loads(done["coco"].path.read_text())
    assert [entry["category_id"] - 1 for entry in results] == [row["class_id"] for row in rows]
    for entry, row in zip(results, rows, strict=True):
        x0, y0, x1, y1 = box(row)
        assert entry["bbox"] == pytest.approx([x0, y0, x1 - x0, y1 - y0], abs=0.011)


def test_boxes_from_saliency(model, folder, tmp_path):
    """Against autograd, and SciPy's Gaussian and components; maps are kept, and a finished run is found again."""
    rows = run(model, folder, tmp_path, method="saliency", top_k=2, maps=True, batch_size=3)
    assert len(rows) == 14
    for row in rows:
        image = opened(folder / row["image_id"])
        frame, geometry = Preprocess.of(CONFIG).frame(image)
        images = Preprocess.of(CONFIG).normalize(torch.from_numpy(frame)[None]).requires_grad_()
        (gradient,) = torch.autograd.grad(model(images)[0, row["class_id"]], images)
        map = ndimage.gaussian_filter(gradient[0].abs().amax(0).double().numpy(), 0.02 * SIZE, mode="nearest")
        kept = np.frombuffer(row["cam"], "<f2").reshape(row["cam_height"], row["cam_width"]).astype(float)
        assert kept.shape == map.shape
        np.testing.assert_allclose(kept / kept.max(), map / map.max(), atol=2e-3)
        map = (map - map.min()) / (map.max() - map.min())
        labels, _ = ndimage.label(map > 0.2, np.ones((3, 3)))
        y, x = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()]
        assert np.allclose(box(row), geometry.to_original(np.array([x.start, y.start, x.stop, y.stop])), atol=1e-4)
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert (plan["settings"]["method"], plan["settings"]["target_layers"]) == ("saliency", [])
    assert run(model, folder, tmp_path, method="saliency", top_k=2, maps=True, batch_size=3) == rows
    frozen = run(model, folder, tmp_path, "frozen", method="saliency", top_k=2, maps=True, batch_size=3, compile="auto")
    assert frozen == rows
    every = run(model, folder, tmp_path, "every", method="saliency", boxes="all", min_area=0.0)
    assert max(row["box"] for row in every) > 1


@pytest.mark.parametrize("top_k", [1, 3])
def test_a_compiled_network_gives_the_same(model, folder, tmp_path, monkeypatch, top_k):
    compiled, compile = [], torch.compile

    def traced(function, *, mode, dynamic):
        compiled.append(mode)
        return compile(function, backend="eager", dynamic=dynamic)  # traced, without a compiler

    monkeypatch.setattr(torch, "compile", traced)
    options = {"batch_size": 3, "maps": True, "overlays": 1, "top_k": top_k}
    expected_rows = run(model, folder, tmp_path, "plain", **options)
    assert run(model, folder, tmp_path, compile="reduce-overhead", **options) == expected_rows
    assert compiled == ["reduce-overhead"]
    assert not model.features._forward_hooks
    with pytest.raises(ValueError, match="`compile` is for the method cam"):
        run(model, folder, tmp_path, "b", compile="default", method="gradcam")


def test_bfloat16_and_the_order_of_memory(model, folder, tmp_path):
    rows = run(model, folder, tmp_path, channels_last=False, top_k=CLASSES)
    stride = model.features[0].weight.stride()
    for name, options in (("last", {"channels_last": True}), ("half", {"precision": "bfloat16"})):
        for ours, theirs in zip(run(model, folder, tmp_path, name, top_k=CLASSES, **options), rows, strict=True):
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-6 if name == "last" else 2e-2)
            if name == "last":
                assert box(ours) == box(theirs)
    assert model.features[0].weight.stride() == stride


def test_an_empty_list_gives_an_empty_table(model, tmp_path):
    assert run(model, [], tmp_path) == []


def test_without_a_configuration(model, folder, tmp_path):
    rows = run(model, folder / "a.png", tmp_path, config=None)
    assert rows[0]["image_id"] == "a.png"
    assert rows[0]["class_name"] is None


class Set:
    """A data set by index, with one sample that cannot be read."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, index: int) -> Sample:
        if index == 3:
            raise DecodeError("damaged", "as the test wants it")
        image = draw(index) if index % 2 else np.array(draw(index))
        boxes = np.float32([[10, 10, 60, 60]])
        return Sample(image, label=index % CLASSES, boxes=boxes, id=None if index == 4 else f"set/{index}")


def test_data_sets(model, tmp_path):
    rows = run(model, Set(), tmp_path, targets="label", batch_size=2)
    assert [row["image_id"] for row in rows] == ["set/0", "set/1", "set/2", "3", "4"]
    assert [row["class_id"] for row in rows] == [0, 1, 2, None, 4]
    assert rows[3]["error"] == "damaged: as the test wants it"
    for index in (0, 1, 2, 4):
        _, score, corners = expected(model, draw(index), "squash", index)
        assert rows[index]["score"] == pytest.approx(score, abs=1e-6)
        assert np.allclose(box(rows[index]), corners, atol=1e-4)

    samples = (Set()[index] for index in (2, 0))
    assert [row["image_id"] for row in run(model, samples, tmp_path, "lazy")] == ["set/2", "set/0"]
    unlabelled = run(model, [Sample(draw(0))], tmp_path, "unlabelled", targets="label")
    assert unlabelled[0]["error"].startswith("no_target")


@pytest.mark.parametrize(
    "ids",
    [("a", "a"), ("1", None), (None, "0"), ("../../evil", "b"), ("/abs/x", "b"), ("a/./b", "b"), ("", "b")],
)
def test_ids_of_samples_are_relative_paths_and_come_once(model, tmp_path, ids):
    samples = [Sample(draw(i), id=id) for i, id in enumerate(ids)]
    text = "a relative path" if "b" in ids else "it comes twice"
    for name, source in {"sized": samples, "lazy": iter(samples)}.items():
        with pytest.raises(ValueError, match=text):
            run(model, source, tmp_path, name)
        assert not list(tmp_path.rglob("boxes.parquet"))


def test_paths_by_any_iterable(model, folder, tmp_path):
    paths = sorted(folder.rglob("*.png"))
    rows = run(model, paths, tmp_path)
    sources = [folder.rglob("*.png"), set(paths), dict.fromkeys(map(str, paths)).keys(), tuple(paths)]
    sources += [np.array(paths), np.array([str(path) for path in paths]), (str(path) for path in paths)]
    for index, source in enumerate(sources):
        by_key = sorted(run(model, source, tmp_path, f"{index}"), key=lambda row: row["image_id"])
        assert by_key == sorted(rows, key=lambda row: row["image_id"])
    assert run(model, iter(()), tmp_path, "none") == []


def test_data_sets_of_other_libraries_are_refused_with_a_way_out(model, folder, tmp_path):
    class Torchvisions:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return draw(index), index

    rows = [{"image": draw(0), "label": 0}]
    for source in (Torchvisions(), rows, iter(rows), [Sample(draw(0)), rows[0]]):
        with pytest.raises(TypeError, match=r"Sample`s, got (tuple|dict); .* make `\(Sample\(image, label\)"):
            run(model, source, tmp_path)
    for source in ([folder, 3], {"a": folder}):
        with pytest.raises(TypeError, match="`source` must be"):
            run(model, source, tmp_path)


@pytest.mark.parametrize("wrong", [3.7, 3.0, "3"])
def test_classes_are_whole_numbers(model, folder, tmp_path, wrong):
    samples = [Sample(draw(0), label=wrong, id="a.png")]
    cases = ((folder, {"a.png": wrong}), (samples, {"a.png": wrong}), (samples, "label"))
    for index, (source, targets) in enumerate(cases):
        with pytest.raises(TypeError, match=r"class of 'a\.png' must be a whole number"):
            run(model, source, tmp_path, f"{index}", targets=targets)
    assert run(model, folder / "a.png", tmp_path, targets={"a.png": np.int64(3)})[0]["class_id"] == 3


def test_pictures_in_flight_are_bounded(model, tmp_path, monkeypatch):
    """Decoding runs ahead of the network by three batches at most, however slow the network is."""
    (tmp_path / "in").mkdir()
    for index in range(60):
        draw(index, 20, 20).save(tmp_path / "in" / f"{index:03d}.png")
    decoded, localized, ahead, lock = 0, 0, [], threading.Lock()
    read = worker.read

    def counting(*source):
        nonlocal decoded
        with lock:
            decoded += 1
            ahead.append(decoded - localized)
        return read(*source)

    def slowly(module, inputs):
        nonlocal localized
        threading.Event().wait(0.02)
        with lock:
            localized += len(inputs[0])

    monkeypatch.setattr(worker, "read", counting)
    model.register_forward_pre_hook(slowly)
    assert len(run(model, tmp_path / "in", tmp_path, batch_size=4)) == 60
    assert decoded == 60
    assert 4 < max(ahead) <= 3 * 4


def test_an_existing_table_is_kept_unless_told_otherwise(model, folder, tmp_path):
    before = run(model, folder, tmp_path)
    with pytest.raises(FileExistsError, match=r"boxes\.parquet exists already"):
        run(model, folder / "a.png", tmp_path)
    with pytest.raises(ValueError, match="no pictures"):
        run(model, tmp_path / "out", tmp_path, overwrite=True)
    assert pq.read_table(tmp_path / "out" / "boxes.parquet").to_pylist() == before
    assert len(run(model, folder / "a.png", tmp_path, overwrite=True)) == 1


def failing(model: Tiny, on_calls: Container[int], error: BaseException) -> Tiny:
    calls = iter(range(1000))

    def hook(module, inputs):
        # The first picture is also run alone, to see that rows do not depend on their neighbours.
        if len(inputs[0]) > 1 and next(calls) in on_calls:
            raise error

    model.register_forward_pre_hook(hook)
    return model


@pytest.mark.parametrize("begin", [0, 2])
def test_a_network_that_does_not_work_is_raised(model, folder, tmp_path, begin):
    """It fails on a batch, and then on a black one too."""
    with pytest.raises(RuntimeError, match="broken network"):
        run(failing(model, range(begin, 99), RuntimeError("broken network")), folder, tmp_path, batch_size=2)
    assert not (tmp_path / "out" / "boxes.parquet").exists()


@pytest.mark.parametrize("call", [0, 1])
def test_a_failure_costs_its_batch_only(model, folder, tmp_path, call):
    rows = run(failing(model, [call], RuntimeError("it failed\nand more")), folder, tmp_path, batch_size=3)
    wrong = range(3 * call, 3 * call + 3)
    assert [row["status"] for row in rows] == ["error" if i in wrong else "ok" for i in range(7)]
    assert {rows[i]["error"] for i in wrong} == {"model: it failed"}
    assert [row["image_id"] for row in rows] == ORDER


def test_logits_that_are_not_finite_become_errors(model, folder, tmp_path):
    def poison(module, inputs, outputs):
        return torch.where(torch.arange(len(outputs))[:, None] == 1, torch.nan, outputs)

    model.classifier.register_forward_hook(poison)
    rows = run(model, folder, tmp_path, overlays=3)
    assert [row["status"] for row in rows] == ["ok", "error"] + ["ok"] * 5
    assert rows[1]["error"] == "model: its logits are not finite"
    assert len(list((tmp_path / "out" / "overlays").iterdir())) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError("disk full"), MemoryError()])
def test_the_same_call_goes_on_where_a_run_broke_off(model, folder, tmp_path, error):
    options = {"out": tmp_path / "out", "config": CONFIG, "progress": False, "batch_size": 2, "shard_size": 2}
    with pytest.raises(type(error)) as caught:
        localize(failing(copy.deepcopy(model), [2], error), folder, **options)
    assert caught.value.__notes__ == ["2 of 4 parts are done; the same call computes the rest"]
    sizes = []
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    summary = localize(model, folder, **options)
    assert sizes == [2, 1, 2]  # the one shows that rows do not depend on each other
    assert localize(model, folder, **options) == summary
    assert sizes == [2, 1, 2]  # the one shows that rows do not depend on each other
    rows = run(model, folder, tmp_path, "whole", batch_size=2)
    assert pq.read_table(summary.path).to_pylist() == rows


def test_rows_of_samples_survive_when_the_run_breaks_off(model, tmp_path):
    before = run(model, Set(), tmp_path, batch_size=2)
    with pytest.raises(RuntimeError, match="stop") as caught:
        run(failing(model, range(1, 9), RuntimeError("stop")), Set(), tmp_path, batch_size=2, overwrite=True)
    partial = tmp_path / "out" / "boxes.partial.parquet"
    assert caught.value.__notes__ == [f"the 2 rows finished by then are in {partial}"]
    assert pq.read_table(partial).to_pylist() == before[:2]
    assert pq.read_table(tmp_path / "out" / "boxes.parquet").to_pylist() == before
    assert run(Tiny(), Set(), tmp_path, overwrite=True)


def test_overlays(model, folder, tmp_path):
    run(model, folder, tmp_path, overlays=3, batch_size=2)
    drawings = sorted((tmp_path / "out" / "overlays").iterdir())
    assert [path.name for path in drawings] == ["000000_a.png.jpg", "000001_f.png.jpg", "000002_g.png.jpg"]
    width, height = opened(folder / "a.png").size
    drawing = opened(drawings[0])
    assert drawing.size == (3 * width + 8, height)
    assert np.abs(np.asarray(drawing)[:, :width].astype(int) - np.asarray(opened(folder / "a.png"))).mean() < 6
    (tmp_path / "out" / "overlays" / "mine.jpg").touch()
    run(model, folder, tmp_path, overlays=1, overwrite=True)
    assert {path.name for path in (tmp_path / "out" / "overlays").iterdir()} == {"000000_a.png.jpg", "mine.jpg"}


def test_true_boxes_are_drawn_where_the_stored_picture_has_them(model, tmp_path):
    """The data set's files tell boxes of a picture of 400 x 300 pixels; it is stored in 200 x 150."""
    told, size = np.float32([[200, 150, 300, 240]]), (400, 300)
    (tmp_path / "in").mkdir()
    grey = np.full((150, 200, 3), 60, np.uint8)
    Image.fromarray(grey).save(tmp_path / "in" / "a.png")
    files = Pictures(tmp_path / "in", ["a.png"], boxes=[told], sizes=[size])
    for name, source in {"files": files, "samples": [Sample(grey, boxes=told, size=size)]}.items():
        run(model, source, tmp_path, name, overlays=1)
        (path,) = (tmp_path / name / "overlays").iterdir()
        red, green, blue = np.asarray(opened(path))[:, -200:].astype(int).transpose(2, 0, 1)
        rows, columns = np.nonzero((green > 150) & (red < 100) & (blue < 100))
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (100, 75, 150, 120)


def test_overlay_names_are_safe(model, tmp_path):
    ids = ["a/etc/passwd", "..x", "a:b*c?", "ä" * 300, "%2e%2e/..y", "~"]
    samples = [Sample(draw(i), boxes=np.float32([[1, 1, 9, 9]]), id=id) for i, id in enumerate(ids)]
    rows = run(model, samples, tmp_path, overlays=6)
    assert [row["image_id"] for row in rows] == ids
    drawings = list((tmp_path / "out" / "overlays").iterdir())
    assert len(drawings) == 6
    assert all(set(path.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for path in drawings)
    assert {path.name for path in tmp_path.iterdir()} == {"out"}


def test_the_model_stays_as_it_was(model, folder, tmp_path):
    model.train()
    model.features.eval()
    run(model.double(), folder, tmp_path)
    assert model.training
    assert not model.features.training
    assert model.classifier.weight.grad is None


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"top_k": 0}, ValueError, "`top_k` must be a whole number of at least 1, got 0"),
        ({"top_k": 6}, ValueError, "`top_k` must be at most the number of classes, 5, got 6"),
        ({"batch_size": 2.5}, ValueError, "`batch_size` must be a whole number"),
        ({"overlays": -1}, ValueError, "`overlays` must be"),
        ({"threshold": 1.0}, ValueError, "`threshold` must be at least 0 and less than 1"),
        ({"threshold": float("nan")}, ValueError, "`threshold` must be"),
        ({"targets": "labels"}, TypeError, '`targets` must be None, "label" or a mapping'),
        ({"method": "gradcan"}, ValueError, "gradcam"),
        ({"target_layers": "feature"}, ValueError, "features"),
        ({"mode": "cubic"}, ValueError, "bicubic"),
        ({"backend": "fast"}, ValueError, "fused"),
        ({"boxes": "both"}, ValueError, "`boxes` must be one of largest, all, paper"),
        ({"min_area": 2}, ValueError, "`min_area` must be a fraction"),
        ({"precision": "float16"}, ValueError, "`precision` must be one of"),
        ({"compile": "fast"}, ValueError, "`compile` must be one of"),
        ({"decoder": "turbo"}, ValueError, "`decoder` must be one of opencv, pillow"),
        ({"decoder": "nvjpeg"}, ValueError, '`decoder` "nvjpeg" needs the network on a CUDA device'),
        ({"threads": 0}, ValueError, "`threads` must be a whole number"),
        ({"threads": True}, ValueError, "`threads` must be a whole number of at least 1, got True"),
        ({"workers": True}, ValueError, "`workers` must be a whole number"),
        ({"shard_size": True}, ValueError, "`shard_size` must be a whole number"),
        *(
            ({"method": method}, ValueError, f"`method` {method} gives no maps .* these do: cam, gradcam")
            for method in sorted(ATTRIBUTIONS.keys() - BOX_METHODS.keys())
        ),
        ({"workers": 0}, ValueError, "`workers` must be a whole number"),
        ({"shard_size": 0.5}, ValueError, "`shard_size` must be a whole number"),
        ({"maps": True, "target_layers": ["features.0", "features.1"]}, ValueError, "`maps` are one target layer's"),
    ],
)
def test_options_are_checked_before_work_begins(model, folder, tmp_path, options, error, text):
    with pytest.raises(error, match=text):
        run(model, folder, tmp_path, **options)
    assert not (tmp_path / "out").exists()


def test_sources_are_checked(model, tmp_path):
    with pytest.raises(TypeError, match="`source` must be a path"):
        run(model, 3, tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        run(model, tmp_path / "nowhere", tmp_path)
