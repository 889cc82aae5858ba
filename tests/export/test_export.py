"""Boxes in other tools' formats, read by these tools, by the standard library, and by the readers of data sets."""

import ast
import csv
import errno
import io
import json
import os
import xml.etree.ElementTree as ET
from contextlib import redirect_stdout
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from typer.testing import CliRunner

from fastcam import cli, data, export as exports
from fastcam.export import FORMATS, check_formats, export
from fastcam.export.files import printable, xml_text, yaml_text
from fastcam.localization import localize
from fastcam.models import ModelConfig
from tests.support import tables
from tests.support.tables import error, random_boxes, row

HOSTILE = "<b>\"&'</b>\n\t\\ ü, x: [y]"  # a class name
BOX_FORMATS = [name for name, known in FORMATS.items() if not known.maps]
FOLDERS = ("voc", "yolo", "wsol")


@pytest.fixture
def run(tmp_path) -> Path:
    """Three pictures that went well, of these one with two classes and several boxes, one of a constant map; an error.

    Two have the same basename.
    """
    rows = [
        row("a/x.jpg", (10.25, 20.5, 110.75, 80.125), 2, "cat", score=0.75),
        row("a/x.jpg", (0, 0, 5.5, 100), 2, "cat", score=0.75, number=2, box_score=0.5),
        row("a/x.jpg", (150, 50, 200, 100), 0, "ant", rank=2, score=0.125),
        error("a/broken.jpg"),
        row("b/x.jpg", (0, 0, 200, 100), 2, "cat"),
        row("b/y, z.png", class_id=0, name="ant", size=(30, 40)),
    ]
    return tables.write(tmp_path / "run", rows)


def results(run: Path, **options) -> tuple[list, dict]:
    """COCO's results and the list of images."""
    done = export(run, "coco", **options)
    return json.loads(done.path.read_text()), json.loads((run / "coco.images.json").read_text())


def test_coco_results(run):
    boxes, beside = results(run)
    assert boxes == [
        {"image_id": 1, "category_id": 3, "bbox": [10.25, 20.5, 100.5, 59.62], "score": 0.75},
        {"image_id": 1, "category_id": 3, "bbox": [0, 0, 5.5, 100], "score": 0.5},
        {"image_id": 1, "category_id": 1, "bbox": [150, 50, 50, 50], "score": 0.125},
        {"image_id": 2, "category_id": 3, "bbox": [0, 0, 200, 100], "score": 0.5},
    ]
    assert beside["images"] == [
        {"id": 1, "file_name": "a/x.jpg", "width": 200, "height": 100},
        {"id": 2, "file_name": "b/x.jpg", "width": 200, "height": 100},
        {"id": 3, "file_name": "b/y, z.png", "width": 30, "height": 40},
    ]
    assert [(entry["id"], entry["name"]) for entry in beside["categories"]] == [(1, "ant"), (2, "1"), (3, "cat")]
    assert beside["info"]["arch"] == "tiny"


def test_coco_through_pycocotools_and_back(run):
    results(run)
    with redirect_stdout(io.StringIO()):
        loaded = COCO(run / "coco.images.json").loadRes(str(run / "coco.json"))
    assert sorted(loaded.getImgIds()) == [1, 2, 3]
    assert [entry["area"] for entry in loaded.loadAnns(loaded.getAnnIds(imgIds=[2]))] == [20000]
    loaded.dataset["annotations"] = [{**entry, "iscrowd": 0} for entry in loaded.dataset["annotations"]]
    (run / "instances.json").write_text(json.dumps(loaded.dataset))
    back = data.load(run / "instances.json", truth_only=True)
    assert back.ids == ["a/x.jpg", "b/x.jpg"]
    assert back.labels == [2, 2]
    assert back.class_names == ("ant", "1", "cat")
    assert back.sizes == [(200, 100)] * 2
    np.testing.assert_allclose(back.boxes[0], [[10.25, 20.5, 110.75, 80.125], [0, 0, 5.5, 100]], atol=0.011)


def truth(path: Path, names=("ant", "bee", "cat"), ids=(70, 7, 71)) -> Path:
    """COCO's file with the pictures of `run`, whose ids are in no order, and their first boxes as objects."""
    images = [("b/x.jpg", 5, 200, 100), ("a/x.jpg", 900, 200, 100), ("b/y, z.png", 6, 30, 40)]
    keys = ("file_name", "id", "width", "height")
    objects = [(1, 900, 71, [10.25, 20.5, 100.5, 59.625]), (2, 5, 71, [0, 0, 200, 100]), (3, 6, 70, [1, 2, 3, 4])]
    document = {
        "images": [dict(zip(keys, image, strict=True)) for image in images],
        "categories": [{"id": id, "name": name} for id, name in zip(ids, names, strict=True)],
        "annotations": [
            {"id": id, "image_id": image, "category_id": category, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            for id, image, category, box in objects
        ],
    }
    path.write_text(json.dumps(document))
    return path


def test_coco_takes_the_ids_of_the_annotations_and_is_evaluated_there(run, tmp_path):
    annotations = truth(tmp_path / "truth.json")
    done = export(run, "coco", tmp_path / "results.json", annotations=annotations)
    assert (done.pictures, done.boxes, done.errors, done.left_out) == (3, 4, 1, 0)
    boxes = json.loads(done.path.read_text())
    assert [(box["image_id"], box["category_id"]) for box in boxes] == [(900, 71), (900, 71), (900, 70), (5, 71)]
    assert not (tmp_path / "results.images.json").exists()
    with redirect_stdout(io.StringIO()):
        known = COCO(annotations)
        evaluation = COCOeval(known, known.loadRes(str(done.path)), "bbox")
        evaluation.params.catIds = [71]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert evaluation.stats[1] == 1  # AP at IoU 0.5: both cats are found, and a false one comes after


def test_coco_categories_without_names_and_given_ones(run, tmp_path):
    nameless = tables.write(tmp_path / "nameless", [row("b/x.jpg", (1, 2, 3, 4), 1), row("a/x.jpg", (1, 2, 3, 4), 0)])
    export(nameless, "coco", annotations=truth(tmp_path / "truth.json"))
    boxes = json.loads((nameless / "coco.json").read_text())
    assert [box["category_id"] for box in boxes] == [70, 7]  # 7 < 70 < 71: classes are numbered so by the reader
    export(run, "coco", categories={2: 17, 0: 4})
    assert {box["category_id"] for box in json.loads((run / "coco.json").read_text())} == {17, 4}
    listed = json.loads((run / "coco.images.json").read_text())["categories"]
    assert [(entry["id"], entry["name"]) for entry in listed] == [(4, "ant"), (17, "cat")]
    with pytest.raises(ValueError, match=r"class 0 \(ant\) is none of the given"):
        export(run, "coco", categories={2: 17}, overwrite=True)
    other = truth(tmp_path / "other.json", ("ant", "bee", "dog"))
    with pytest.raises(ValueError, match=r"class 2 \(cat\) is none of the categories of .*other.json"):
        export(run, "coco", tmp_path / "none.json", annotations=other)
    assert not list(tmp_path.glob("*none*"))


def test_coco_pictures_that_the_annotations_lack_are_left_out(run, tmp_path):
    document = json.loads(truth(tmp_path / "truth.json").read_text())
    document["images"] = document["images"][:1]
    (tmp_path / "truth.json").write_text(json.dumps(document))
    done = export(run, "coco", annotations=tmp_path / "truth.json")
    assert (done.pictures, done.boxes, done.left_out) == (1, 1, 2)
    assert done.examples[0] == ("a/x.jpg", f"not among the images of {tmp_path / 'truth.json'}")
    for text in ("[]", "{", '{"images": [], "categories": [{"id": "1", "name": "x"}]}', '{"images": 3}'):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ValueError, match="expected COCO's images"):
            export(run, "coco", overwrite=True, annotations=tmp_path / "bad.json")
    document["images"] *= 2
    (tmp_path / "bad.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match="the same file_name"):
        export(run, "coco", overwrite=True, annotations=tmp_path / "bad.json")
    with pytest.raises(FileNotFoundError):
        export(run, "coco", overwrite=True, annotations=tmp_path / "none.json")


def test_csv(run):
    done = export(run, "csv")
    with done.path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = [row for row in pq.read_table(run / "boxes.parquet").to_pylist() if row["status"] == "ok"]
    assert len(rows) == len(table) == 5
    for got, wanted in zip(rows, table, strict=True):
        assert got["image_id"] == wanted["image_id"]
        assert got["class_name"] == wanted["class_name"]
        for name in ("width", "height", "rank", "class_id"):
            assert int(got[name]) == wanted[name]
        for name in ("score", "box", "box_score"):
            assert np.float32(got[name]) == np.float32(wanted[name])
        if wanted["x1"]:
            assert [np.float32(got[edge]) for edge in ("x0", "y0", "x1", "y1")] == [
                np.float32(wanted[edge]) for edge in ("x0", "y0", "x1", "y1")
            ]
    assert rows[-1]["x0"] == rows[-1]["y1"] == ""


@pytest.mark.parametrize("format", ["csv", "wsol", "voc"])
def test_boxes_come_back_through_the_readers(format, tmp_path):
    rng = np.random.default_rng(5)
    sizes = [tuple(rng.integers(5, 400, 2).tolist()) for _ in range(9)]
    ids = [f"{'abc'[index % 3]}/{index // 3}, ü.jpg" for index in range(9)]
    boxes = [random_boxes(rng, 1 + index % 3, size) for index, size in enumerate(sizes)]
    names = ["wren", "auk", "owl"]
    rows = [
        row(id, box, index % 3, names[index % 3], size, number=number)
        for index, (id, size) in enumerate(zip(ids, sizes, strict=True))
        for number, box in enumerate(boxes[index].tolist(), 1)
    ]
    path = export(tables.write(tmp_path / "run", rows), format, tmp_path / "out.csv" if format == "csv" else None).path
    back = data.load(path, truth_only=True)
    order = [back.ids.index(id) for id in ids]
    assert sorted(order) == list(range(9))
    assert [back.sizes[place] for place in order] == sizes
    if format == "voc":  # classes are numbered by name there
        assert back.class_names == ("auk", "owl", "wren")
        assert [back.class_names[back.labels[place]] for place in order] == names * 3
    else:
        assert [back.labels[place] for place in order] == [0, 1, 2] * 3
    if format == "wsol":
        assert back.class_names == tuple(names)
    for place, size, wanted in zip(order, sizes, boxes, strict=True):
        np.testing.assert_allclose(back.boxes[place], wanted, atol=0 if format == "csv" else 0.5)
        assert (back.boxes[place] <= np.array([size * 2])).all()


def test_csv_and_wsol_of_pictures_without_a_box(tmp_path):
    run = tables.write(tmp_path / "run", [row("a.jpg", class_id=1), row("b.jpg", (1, 2, 3, 4), 0)])
    assert [len(boxes) for boxes in data.load(export(run, "csv").path, truth_only=True).boxes] == [0, 1]
    assert (export(run, "wsol").path / "localization.txt").read_text() == "a.jpg,0,0,0,0\nb.jpg,1,2,3,4\n"
    assert data.load(run / "wsol", truth_only=True).ids == ["a.jpg", "b.jpg"]


def test_wsol_has_the_highest_class_only(run):
    done = export(run, "wsol")
    assert (done.pictures, done.boxes, done.errors) == (3, 3, 1)
    lines = (done.path / "localization.txt").read_text().splitlines()
    assert lines == ["a/x.jpg,10,20,111,80", "a/x.jpg,0,0,6,100", "b/x.jpg,0,0,200,100", "b/y, z.png,0,0,0,0"]
    assert (done.path / "class_labels.txt").read_text() == "a/x.jpg,2\nb/x.jpg,2\nb/y, z.png,0\n"
    assert (done.path / "classes.txt").read_text() == "ant\n1\ncat\n"


def test_voc(run):
    done = export(run, "voc")
    found = sorted(path.relative_to(done.path).as_posix() for path in done.path.rglob("*.xml"))
    assert found == ["Annotations/a/x.xml", "Annotations/b/x.xml", "Annotations/b/y, z.xml"]
    root = ET.parse(done.path / "Annotations/a/x.xml").getroot()
    assert root.findtext("filename") == "a/x.jpg"
    assert [root.findtext(f"size/{side}") for side in ("width", "height", "depth")] == ["200", "100", "3"]
    corners = [
        [int(item.findtext(f"bndbox/{c}")) for c in ("xmin", "ymin", "xmax", "ymax")] for item in root.iter("object")
    ]
    # 10.25 … 110.75 is 10 … 111 in whole pixels, which are the 11th to the 111th
    assert corners == [[11, 21, 111, 80], [1, 1, 6, 100], [151, 51, 200, 100]]
    assert [item.findtext("name") for item in root.iter("object")] == ["cat", "cat", "ant"]
    assert ET.parse(done.path / "Annotations/b/y, z.xml").find("object") is None


def test_voc_splits_may_name_pictures_in_folders(run):
    folder = export(run, "voc").path
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/val.txt").write_text("b/x\n")
    assert data.load(folder, "val", truth_only=True, bad=[]).ids == ["b/x.jpg"]


def test_yolo(run):
    done = export(run, "yolo")
    lines = (done.path / "labels/a/x.txt").read_text().splitlines()
    assert lines == [
        "2 0.302500 0.503125 0.502500 0.596250",  # (10.25 + 110.75) / 2 / 200, (20.5 + 80.125) / 2 / 100, …
        "2 0.013750 0.500000 0.027500 1.000000",
        "0 0.875000 0.750000 0.250000 0.500000",
    ]
    assert (done.path / "labels/b/x.txt").read_text() == "2 0.500000 0.500000 1.000000 1.000000\n"
    assert (done.path / "labels/b/y, z.txt").read_text() == ""
    assert (done.path / "classes.txt").read_text() == "ant\n1\ncat\n"
    wanted = 'train: images\nval: images\nnames:\n  0: "ant"\n  1: "1"\n  2: "cat"\n'
    assert (done.path / "data.yaml").read_text() == wanted


def test_label_studio(run):
    done = export(run, "labelstudio", url="http://x/?d=")
    tasks = json.loads(done.path.read_text())
    assert [parse_qs(urlsplit(task["data"]["image"]).query)["d"] for task in tasks] == [
        ["a/x.jpg"], ["b/x.jpg"], ["b/y, z.png"],
    ]  # fmt: skip
    (prediction,) = tasks[0]["predictions"]
    assert prediction["model_version"] == "fastcam 9 tiny cam"
    assert prediction["score"] == 0.75
    region = prediction["result"][0]
    assert region["value"] == {
        "x": 5.125, "y": 20.5, "width": 50.25, "height": 59.625, "rotation": 0, "rectanglelabels": ["cat"],
    }  # fmt: skip
    assert (region["original_width"], region["original_height"], region["score"]) == (200, 100, 0.75)
    assert len({region["id"] for region in prediction["result"]}) == 3
    assert tasks[2]["predictions"][0]["result"] == []
    setup = ET.parse(run / "labelstudio.xml").getroot()
    image, labels = setup.find("Image"), setup.find("RectangleLabels")
    assert image.get("value") == "$image"
    assert (labels.get("name"), labels.get("toName"), image.get("name")) == ("label", "image", "image")
    assert [label.get("value") for label in labels] == ["ant", "cat"]
    assert (region["from_name"], region["to_name"]) == ("label", "image")


def test_hostile_names_do_no_harm(tmp_path):
    id = "ü/<i>'\"&;\u2028 %41#?.jpg"
    names = [HOSTILE, "\x01\x85\ud7ff\U0001f600", " "]
    rows = [row(id, (1, 2, 30, 40), key, name, rank=1 + key) for key, name in enumerate(names)]
    run = tables.write(tmp_path / "run", rows)
    for format in BOX_FORMATS:
        done = export(run, format)
        assert (done.pictures, done.left_out) == (1, 0), format
    # JSON and CSV hold all
    beside = json.loads((run / "coco.images.json").read_text())
    assert beside["images"][0]["file_name"] == id
    assert [entry["name"] for entry in beside["categories"]] == [*names[:2], "2"]
    with (run / "boxes.csv").open(encoding="utf-8", newline="") as file:
        assert [(got["image_id"], got["class_name"]) for got in csv.DictReader(file)] == [
            (id, names[0]), (id, names[1]), (id, ""),
        ]  # fmt: skip
    # XML all but characters that it has none for
    root = ET.parse(next((run / "voc").rglob("*.xml"))).getroot()
    assert root.findtext("filename") == id
    shown = [names[0], names[1].replace("\x01", "\ufffd"), "2"]
    assert [item.findtext("name") for item in root.iter("object")] == shown
    assert data.load(run / "voc", truth_only=True).ids == [id]
    labels = [label.get("value") for label in ET.parse(run / "labelstudio.xml").iter("Label")]
    (task,) = json.loads((run / "labelstudio.json").read_text())
    assert labels == [region["value"]["rectanglelabels"][0] for region in task["predictions"][0]["result"]] == shown
    assert parse_qs(urlsplit(task["data"]["image"]).query) == {"d": [id]}
    # a line for each class, whatever its name
    lines = (run / "yolo/data.yaml").read_text(encoding="utf-8").split("\n")
    assert [ast.literal_eval(line.split(": ", 1)[1]) for line in lines[3:6]] == [
        "<b>\"&'</b> \\ ü, x: [y]", "\x01 \ud7ff\U0001f600", "2",
    ]  # fmt: skip
    assert len(lines) == 7
    assert len((run / "yolo/classes.txt").read_text(encoding="utf-8").split("\n")) == 4
    assert data.load(run / "wsol", truth_only=True).class_names[2] == "2"


@given(st.text())
@settings(max_examples=100)
def test_text_survives_quoting(text):
    assert ast.literal_eval(yaml_text(text)) == text
    assert "\n" not in yaml_text(text)
    assert (ET.fromstring(f"<a>{xml_text(printable(text))}</a>").text or "") == printable(text)


@pytest.mark.parametrize("id", ["/etc/x.jpg", "../x.jpg", "a/../../x.jpg", "a//x.jpg", "./x.jpg", "", "a\0.jpg"])
@pytest.mark.parametrize("format", FOLDERS)
def test_ids_cannot_lead_out_of_the_folder(id, format, tmp_path):
    run = tables.write(tmp_path / "deep/run", [row("fine.jpg", (1, 2, 3, 4)), row(id, (1, 2, 3, 4))])
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must be a relative path"):
        export(run, format)
    assert sorted(tmp_path.rglob("*")) == before


def test_names_that_a_format_cannot_hold_are_left_out_and_told(tmp_path):
    names = ["a.jpg", "a.png", "b\n.jpg", "c\x01.jpg", "d.xml/e.jpg", "d.jpg", f"{'f' * 251}.jpg", f"{'f' * 251}.txt"]
    run = tables.write(tmp_path / "run", [row(name, (1, 2, 3, 4)) for name in names])
    left = {}
    for format in FOLDERS:
        done = export(run, format)
        assert done.pictures + done.left_out == len(names)
        left[format] = dict(done.examples)
        assert len(left[format]) == done.left_out
    assert list(left["wsol"]) == ["b\n.jpg"]
    assert left["yolo"] == {
        "a.png": "another picture has the name labels/a.txt",
        names[-1]: f"another picture has the name labels/{'f' * 251}.txt",
    }
    assert left["voc"]["a.png"] == "another picture has the name Annotations/a.xml"
    assert left["voc"]["c\x01.jpg"] == "its name has characters that XML cannot hold"
    assert left["voc"]["d.jpg"] == "another picture has the name Annotations/d.xml"
    assert set(left["voc"]) == {"a.png", "c\x01.jpg", "d.jpg", names[-1]}
    assert (run / "voc/Annotations/b\n.xml").is_file()


def test_a_name_that_is_too_long_is_left_out(tmp_path):
    run = tables.write(tmp_path / "run", [row(f"{'f' * 253}.j", (1, 2, 3, 4))])
    assert "too long a name" in export(run, "voc").examples[0][1]


@pytest.mark.parametrize("format", BOX_FORMATS)
def test_errors_are_left_out_and_counted(format, run):
    done = export(run, format)
    assert (done.pictures, done.errors, done.left_out) == (3, 1, 0)
    files = [done.path] if done.path.is_file() else [path for path in done.path.rglob("*") if path.is_file()]
    assert files
    for file in files:
        assert "broken" not in file.read_text(encoding="utf-8")
        assert "broken" not in str(file)


@pytest.mark.parametrize("format", BOX_FORMATS)
def test_runs_without_any_box(format, tmp_path):
    for name, rows in (("none", []), ("errors", [error("a.jpg"), error("b.jpg")])):
        done = export(tables.write(tmp_path / name, rows), format)
        assert (done.pictures, done.boxes, done.errors) == (0, 0, len(rows))
        if done.path.suffix == ".json":
            assert json.loads(done.path.read_text()) == []
    if format == "coco":
        beside = json.loads((tmp_path / "none/coco.images.json").read_text())
        assert (beside["images"], beside["categories"]) == ([], [])


@pytest.mark.parametrize("format", BOX_FORMATS)
def test_nothing_is_replaced_unasked(format, run):
    path = export(run, format).path
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    with pytest.raises(FileExistsError, match="exists already"):
        export(run, format)
    export(run, format, overwrite=True)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert path.exists()
    (run / "mine").mkdir()
    (run / "mine/thesis.tex").touch()
    with pytest.raises(FileExistsError):
        export(run, format, run / "mine", overwrite=True)
    assert os.listdir(run / "mine") == ["thesis.tex"]


@pytest.mark.parametrize("format", BOX_FORMATS)
def test_what_breaks_off_leaves_all_as_it_was(format, run):
    export(run, format)
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    rows = pq.read_table(run / "boxes.parquet").to_pylist()
    rows[-1]["x0"] = float("nan")
    other = tables.write(run.parent / "other", rows)
    with pytest.raises(ValueError, match=r"'b/y, z.png' has an empty or infinite number"):
        export(other, format, run / FORMATS[format].name, overwrite=True)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("format", FOLDERS)
def test_a_full_disk(format, run, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(OSError, match="No space left"):
        export(run, format)
    assert os.listdir(run) == ["boxes.parquet"]


def test_what_a_killed_export_left_is_cleared(run):
    for name in (".voc.partial", ".voc.former"):
        (run / name / "Annotations").mkdir(parents=True)
        (run / name / "Annotations/stale.xml").touch()
    (run / ".voc.former/fastcam-export.json").touch()  # killed between two renames: this was in place before
    with pytest.raises(ValueError, match="none of the given"):
        export(run, "coco", categories={})
    done = export(run, "voc", overwrite=True)
    assert sorted(os.listdir(run)) == ["boxes.parquet", "voc"]
    assert not list(done.path.rglob("stale.xml"))
    (run / "yolo").touch()
    with pytest.raises(FileExistsError, match="is a file"):
        export(run, "yolo", overwrite=True)


def test_boxes_are_kept_inside_the_picture_and_at_least_a_pixel(tmp_path):
    rows = [row("a.jpg", (-0.5, -1e-3, 200.00002, 100.5)), row("b.jpg", (199.7, 10.1, 199.9, 10.2))]
    run = tables.write(tmp_path / "run", rows)
    assert (export(run, "wsol").path / "localization.txt").read_text() == "a.jpg,0,0,200,100\nb.jpg,199,10,200,11\n"
    labels = [(export(run, "yolo", overwrite=True).path / f"labels/{name}.txt").read_text() for name in "ab"]
    assert labels[0] == "0 0.500000 0.500000 1.000000 1.000000\n"
    boxes = [entry["bbox"] for entry in json.loads(export(run, "coco").path.read_text())]
    assert boxes == [[0, 0, 200, 100], [199.7, 10.1, 0.2, 0.1]]


def test_rows_that_cannot_be(tmp_path):
    good = row("a.jpg", (1, 2, 3, 4))
    for changes in (
        {"x0": None},
        {"score": float("inf")},
        {"box_score": float("nan")},
        {"width": 0},
        {"class_id": -1},
        {"rank": None},
    ):
        run = tables.write(tmp_path / "run", [good | changes])
        with pytest.raises(ValueError, match=r"'a.jpg'"):
            export(run, "csv", overwrite=True)
    run = tables.write(tmp_path / "run", [good, good | {"height": 5}])
    with pytest.raises(ValueError, match="contradict"):
        export(run, "csv")


def test_tables_without_numbers_and_scores_of_boxes(run, tmp_path):
    """As runs of one box for each class once had them."""
    whole = pq.read_table(run / "boxes.parquet").drop_columns(["box", "box_score", "orientation", "decoder"])
    pq.write_table(whole, tmp_path / "old.parquet")
    boxes = json.loads(export(tmp_path / "old.parquet", "coco").path.read_text())
    assert [box["score"] for box in boxes] == [0.75, 0.75, 0.125, 0.5]
    with export(tmp_path / "old.parquet", "csv").path.open(newline="") as file:
        assert [(row["box"], row["box_score"] == row["score"]) for row in csv.DictReader(file)] == [("1", True)] * 5


def test_tables_that_are_none(tmp_path, run):
    with pytest.raises(FileNotFoundError, match="no table of boxes at"):
        export(tmp_path / "none", "csv")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(ValueError, match="is no Parquet file"):
        export(tmp_path / "text.parquet", "csv")
    pq.write_table(pa.table({"image_id": [1]}), tmp_path / "other.parquet")
    with pytest.raises(ValueError, match="expected column image_id, string"):
        export(tmp_path / "other.parquet", "csv")
    whole = pq.read_table(run / "boxes.parquet")
    pq.write_table(whole.replace_schema_metadata({"fastcam": "[1]"}), tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        export(tmp_path / "odd.parquet", "csv")
    pq.write_table(whole.replace_schema_metadata(None), tmp_path / "bare.parquet")
    assert export(tmp_path / "bare.parquet", "csv").boxes == 4
    content = bytearray((run / "boxes.parquet").read_bytes())
    content[4:400] = b"\xff" * 396
    (tmp_path / "damaged.parquet").write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        export(tmp_path / "damaged.parquet", "csv", overwrite=True)


def test_options_and_formats_are_checked(run):
    with pytest.raises(ValueError, match=r"unknown format 'cocoa'.*coco.*known: coco, csv"):
        export(run, "cocoa")
    with pytest.raises(ValueError, match="`categories` is for coco, labels, wsss, not for voc"):
        export(run, "voc", categories={1: 1})
    with pytest.raises(ValueError, match="`size` must be"):
        export(run, "png", size=0)
    with pytest.raises(ValueError, match="npy is made of maps"):
        export(run, "npy")
    with pytest.raises(ValueError, match="is the table itself"):
        export(run, "csv", run / "boxes.parquet", overwrite=True)
    with pytest.raises(ValueError, match="beside it"):
        export(run, "labelstudio", run / "x.xml")
    check_formats(["coco", "voc"], maps=False)
    check_formats(FORMATS, maps=True)
    with pytest.raises(ValueError, match="does not keep them"):
        check_formats(["coco", "wsss"], maps=False)


def test_memory_is_bounded_by_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("fastcam.runs.table._ROWS", 16)
    rows = [row(f"{index // 5}.jpg", (1, 2, 3, 4), number=index % 5) for index in range(500)]
    run = tables.write(tmp_path / "run", rows, group=64)  # neither batches nor groups end where pictures do
    sizes, original = [], pq.ParquetFile.iter_batches

    def counted(self, *arguments, **options):
        for batch in original(self, *arguments, **options):
            sizes.append(len(batch))
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    done = export(run, "csv")
    assert (done.pictures, done.boxes) == (100, 500)
    assert max(sizes) == 16


def test_a_run_of_the_program_itself(tmp_path):
    """Real rows: what is exported is what the table says, and pycocotools takes it."""
    for index in range(4):
        noise = np.random.default_rng(index).integers(0, 256, (4, 5, 3), np.uint8)
        (tmp_path / "pictures" / str(index % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).resize((70, 40 + index)).save(tmp_path / f"pictures/{index % 2}/{index // 2}.png")
    (tmp_path / "pictures/broken.png").write_bytes(b"no picture")
    network = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    config = ModelConfig("tiny", 3, class_names=("ant", "bee", "cat"), size=32)
    run = tmp_path / "run"
    localize(network, tmp_path / "pictures", out=run, config=config, method="gradcam", target_layers="1", top_k=2)
    table = pq.read_table(run / "boxes.parquet").to_pylist()
    found = [row for row in table if row["status"] == "ok" and row["x1"] > row["x0"]]
    for format in BOX_FORMATS:
        done = export(run, format)
        assert (done.pictures, done.errors, done.left_out) == (4, 1, 0)
    boxes, beside = json.loads((run / "coco.json").read_text()), json.loads((run / "coco.images.json").read_text())
    names = {entry["id"]: entry["file_name"] for entry in beside["images"]}
    assert [names[box["image_id"]] for box in boxes] == [one["image_id"] for one in found]
    for box, wanted in zip(boxes, found, strict=True):
        x, y, width, height = box["bbox"]
        corners = [wanted[edge] for edge in ("x0", "y0", "x1", "y1")]
        np.testing.assert_allclose([x, y, x + width, y + height], corners, atol=0.011)
        assert box["category_id"] == wanted["class_id"] + 1
    with redirect_stdout(io.StringIO()):
        assert len(COCO(run / "coco.images.json").loadRes(str(run / "coco.json")).anns) == len(found)
    assert data.load(run / "wsol", truth_only=True).ids == ["0/0.png", "0/1.png", "1/0.png", "1/1.png"]


def test_all_classes_of_a_run_have_their_names(run):
    """Those that were not found, too, while the run's plan is beside the table; a plan of another run is not asked."""
    table = pq.read_table(run / "boxes.parquet")
    about = {**json.loads(table.schema.metadata[b"fastcam"]), "plan": "0123"}
    pq.write_table(table.replace_schema_metadata({"fastcam": json.dumps(about)}), run / "boxes.parquet")
    for digest, names in (("0123", ["ant", "bee", "cat", "3", "elk"]), ("4567", ["ant", "1", "cat"])):
        plan = {"digest": digest, "class_names": ["ant", "bee", "cat", " ", "elk"]}
        (run / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
        for format in ("coco", "yolo", "wsol"):
            export(run, format, overwrite=True)
        known = json.loads((run / "coco.images.json").read_text())["categories"]
        assert [(entry["id"], entry["name"]) for entry in known] == list(enumerate(names, 1))
        for folder in ("yolo", "wsol"):
            assert (run / folder / "classes.txt").read_text().splitlines() == names
    (run / "plan.json").write_text('{"digest": "0123"', encoding="utf-8")
    export(run, "coco", overwrite=True, categories={0: 8, 2: 9})
    known = json.loads((run / "coco.images.json").read_text())["categories"]
    assert [(entry["id"], entry["name"]) for entry in known] == [(8, "ant"), (9, "cat")]


def cli_run(*arguments):
    return CliRunner().invoke(cli.app, ["export", *map(str, arguments)])


def test_command_line(run, tmp_path, monkeypatch):
    result = cli_run(run, "--format", "voc")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"3 pictures, 4 boxes in {run / 'voc'}\n"
    assert result.stderr == "fastcam: without 1 pictures that failed in the run\n"
    with monkeypatch.context() as elsewhere:
        elsewhere.chdir(run.parent)  # below the current folder a path is as one types it
        assert cli_run(run.name, "--format", "yolo").stdout == f"3 pictures, 4 boxes in {Path(run.name, 'yolo')}\n"
    (tmp_path / "categories.csv").write_text("class_id,category_id\n0,8\n2,9\n")
    result = cli_run(run, "--format", "coco", "--out", tmp_path / "r.json", "--categories", tmp_path / "categories.csv")
    assert result.exit_code == 0
    assert {box["category_id"] for box in json.loads((tmp_path / "r.json").read_text())} == {8, 9}
    other = tables.write(tmp_path / "other", [row("a.jpg", (1, 2, 3, 4)), row("a.png", (1, 2, 3, 4))])
    result = cli_run(other, "--format", "yolo")
    assert result.exit_code == 3
    assert result.stderr == (
        "fastcam: 1 pictures left out, such as 'a.png': another picture has the name labels/a.txt\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--format", "coc"), "unknown format"),
        (("--format", "npy", "--size", "big"), "--size must be"),
        (("--format", "wsss", "--cuts", "1,2,3"), "must be a number, or two"),
        (("--to", "labels", "--alpha", "x"), "must be a number, or two"),
        (("--format", "voc", "--url", "x"), "is for labelstudio"),
        (("--format", "coco", "--categories", "bad.csv"), "expected lines"),
        (("--format", "coco", "--categories", "twice.csv"), "two categories"),
        (("--format", "coco", "--annotations", "none.json"), "no file"),
    ],
)
def test_command_line_refuses(arguments, message, run, monkeypatch):
    monkeypatch.chdir(run)
    Path("bad.csv").write_text("a,b\n")
    Path("twice.csv").write_text("1,2\n1,3\n")
    result = cli_run(run, *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith("fastcam: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_public_names():
    assert set(exports.__all__) <= set(dir(exports))
