"""Names that others wrote: the order of classes, what looks alike, text files, paths in lists."""

import json
import os
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import cli, data, export, models
from fastcam.cli.options import classes, lines
from fastcam.data import Pictures
from fastcam.data.matching import by_name, in_classes, meet, warning
from fastcam.data.names import Names, by_number, look, ordered, plain_id, read_text, tidy
from fastcam.evaluation.sources import MapFolder, MapStore, MapWriter
from fastcam.models import ModelConfig
from fastcam.report.truth import Classes, Truth
from fastcam.training import read_toml
from tests.support import tables
from tests.support.commands import run
from tests.support.files import write

TWELVE = tuple(map(str, range(12)))
COMPOSED, APART = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """Of a network of twelve classes without names."""
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    models.save_checkpoint(path, models.build("resnet18", 12), ModelConfig("resnet18", 12, size=64))
    return path


def localized(weights: Path, out: Path, *arguments: object) -> tuple[dict[str, int], str]:
    """The class of each picture, and what was said."""
    result = run("localize", *arguments, "--weights", weights, "--device", "cpu", "--out", out)
    assert result.exit_code == 0, result.output
    rows = pq.read_table(out / "boxes.parquet").to_pylist()
    return {row["image_id"]: row["class_id"] for row in rows}, result.stderr


# The order of classes


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (TWELVE, TWELVE),
        (("dog", "Cat", "cat", "dog"), ("Cat", "cat", "dog")),
        (("010", "2", "1"), ("1", "2", "010")),
        (("x", "10", "9", "1a", "3.5"), ("9", "10", "1a", "3.5", "x")),
        (("-1", "2", "10", "²"), ("2", "10", "-1", "²")),
        (("20190101123456789012", "3"), ("3", "20190101123456789012")),
    ],
)
def test_classes_are_ordered_as_numbers_before_texts(names, expected):
    assert ordered(reversed(names)) == list(expected)


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (TWELVE, 12, list(range(12))),
        (("0", "1", "10"), 12, [0, 1, 10]),
        (("0", "1", "10"), None, [0, 1, 10]),
        (("1", "2", "3"), 3, [0, 1, 2]),  # counted from 1
        (("1", "2", "3"), 4, [1, 2, 3]),
        (("1", "2", "3"), None, [0, 1, 2]),
        (("2", "3"), 3, [1, 2]),
        (("5", "7"), 2, None),
        (("0", "3"), 3, None),
        (("1", "01"), 5, None),
        (("1", "x"), 5, None),
        ((), 5, None),
    ],
)
def test_names_that_are_numbers(names, count, expected):
    assert by_number(names, count) == expected


def test_numbered_folders_are_the_classes_of_these_numbers(tmp_path, weights):
    for name in TWELVE:
        picture(tmp_path / "in" / name / "a.png")
    found = data.load(tmp_path / "in", format="folder")
    assert (found.class_names, found.labels) == (TWELVE, list(range(12)))
    rows, said = localized(weights, tmp_path / "all", tmp_path / "in", "--format", "folder", "--targets", "label")
    assert (rows, said) == ({f"{name}/a.png": int(name) for name in TWELVE}, "")
    for name in set(TWELVE) - {"0", "2", "10"}:
        (tmp_path / "in" / name / "a.png").unlink()
        (tmp_path / "in" / name).rmdir()
    rows, said = localized(weights, tmp_path / "few", tmp_path / "in", "--format", "folder", "--targets", "label")
    assert rows == {f"{name}/a.png": int(name) for name in ("0", "2", "10")}
    assert "label 0, '0', is taken for the network's class 0" in said
    # The boxes are measured under the same numbers.
    boxes = fastcam.evaluate(
        with_boxes(data.load(tmp_path / "in")), boxes=tmp_path / "few/boxes.parquet", out=tmp_path / "e", progress=False
    )
    assert "GT-known Loc" in boxes.metrics["figures"]


def with_boxes(found: Pictures) -> Pictures:
    found.boxes = [np.array([[1, 1, 20, 20]], np.float32)] * len(found)
    return found


def test_folders_counted_from_one(tmp_path, weights):
    for number in range(1, 13):
        picture(tmp_path / "in" / f"{number:02d}" / "a.png")
    rows, said = localized(weights, tmp_path / "out", tmp_path / "in", "--format", "folder", "--targets", "label")
    assert rows == {f"{number:02d}/a.png": number - 1 for number in range(1, 13)}
    assert said.endswith("label 0, '01', is taken for the network's class 0\n")


def xml(*names: str) -> str:
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    objects = "".join(f"<object><name>{name}</name>{box}</object>" for name in names)
    return f"<annotation><size><width>40</width><height>30</height></size>{objects}</annotation>"


def test_numbered_objects_of_voc(tmp_path, weights):
    for name in TWELVE:
        picture(tmp_path / f"voc/JPEGImages/p{name}.jpg")
        write(tmp_path / f"voc/Annotations/p{name}.xml", xml(f" {name}\n"))
    assert data.load(tmp_path / "voc").class_names == TWELVE
    rows, said = localized(weights, tmp_path / "out", tmp_path / "voc", "--format", "voc", "--targets", "label")
    assert (rows, said) == ({f"p{name}.jpg": int(name) for name in TWELVE}, "")


def test_lists_that_mix_numbers_and_names(tmp_path, weights):
    labels = [*map(str, range(10)), "12", "cat"]
    for index in range(12):
        picture(tmp_path / f"{index}.png")
    rows = "".join(f"{index}.png,{label}\n" for index, label in enumerate(labels))
    found, said = localized(
        weights,
        tmp_path / "out",
        write(tmp_path / "l.csv", f"path,label\n{rows}"),
        "--format",
        "list",
        "--targets",
        "label",
    )
    assert found == {f"{index}.png": index for index in range(12)}
    assert "label 10, '12', is taken for the network's class 10" in said  # 12 is not its number


@pytest.mark.parametrize("ids", [range(100, 112), [str(id) for id in range(12)]])
def test_categories_that_are_called_by_numbers(tmp_path, ids):
    picture(tmp_path / "a.png")
    names = sorted(TWELVE)  # as by someone who sorted texts
    document = {
        "images": [{"id": 1, "file_name": "a.png", "width": 40, "height": 30}],
        "categories": [{"id": id, "name": name} for id, name in zip(ids, names, strict=True)],
        "annotations": [{"id": 1, "image_id": 1, "category_id": ids[names.index("10")], "bbox": [1, 1, 9, 9]}],
    }
    found = data.load(write(tmp_path / "x.json", json.dumps(document)))
    assert in_classes(found, (), 12).labels == [10]
    assert in_classes(found, tuple("abcdefghijkl"), 12).labels == [10]
    assert in_classes(found, tuple(reversed(TWELVE)), 12).labels == [1]  # by name


def test_labels_whose_names_lie_in_the_order_of_texts(tmp_path):
    # Hugging Face's imagefolder makes such class labels.
    found = Pictures(tmp_path, list(TWELVE), labels=range(12), class_names=tuple(sorted(TWELVE)))
    assert [sorted(TWELVE)[label] for label in found.labels] == [str(i) for i in in_classes(found, (), 12).labels]
    assert found.labels == range(12)
    assert meet(("cat", "10"), (), 12) is None
    assert "label 1, '10', is taken for the network's class 1" in warning(("cat", "10"), (), 2)


def test_training_keeps_the_order_of_numbers(tmp_path):
    for name in ("2", "10", "9"):
        for seed in range(4):
            picture(tmp_path / "in" / name / f"{seed}.png", seed)
    options = {"arch": "resnet18", "size": 32, "epochs": 1, "batch_size": 4, "workers": 1, "progress": False}
    result = fastcam.training.train(tmp_path / "in", out=tmp_path / "out", device="cpu", **options)
    assert result.config.class_names == ("2", "9", "10")
    assert classes("10,2", result.config.class_names) == [2, 0]
    assert in_classes(data.load(tmp_path / "in"), result.config.class_names, 3).labels == [0] * 4 + [1] * 4 + [2] * 4


def test_reports_meet_numbered_labels_with_nameless_classes():
    truth = Truth("labels", ("0", "1", "10"))
    truth.labels = {"a": 0, "b": 2}
    met = Classes({0: None, 2: None, 10: None}, truth, 12)
    assert met.of_label == {0: met.of_class[0], 2: met.of_class[10]}
    assert Classes({0: "cat", 2: "dog"}, truth, 12).of_label[2] == 1  # names are known: as ever


# What looks alike


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Golden Retriever", "golden_retriever"),
        (COMPOSED, APART),
        ("maine\u00a0coon", " maine  coon\r"),
        ("\ufefftench", "tench\u200b"),
        ("07", "7"),
        ("STRASSE", "straße"),
    ],
)
def test_what_looks_alike_meets(one, other):
    assert look(one) == look(other)
    assert by_name((one, "zebra"), ("zebra", other)) == [1, 0]
    assert Names([one, "x"]).places(other) == [0]
    assert look(one) != look(f"{one}s")


def test_names_that_may_be_one_of_two_are_refused():
    with pytest.raises(ValueError, match=r"labels 0 and 1 .* 'Crane' and 'crane', both look like class 1"):
        by_name(("Crane", "crane"), ("hen", "crane"))
    with pytest.raises(ValueError, match=r"'crane' looks like its classes 0 \('CRANE'\), 1 \('Crane'\)"):
        by_name(("crane", "hen"), ("CRANE", "Crane", "hen"))
    assert by_name(("Crane", "crane"), ("crane", "hen", "Crane")) == [2, 0]  # to the letter
    assert tidy(f" {APART}\u00a0\tau  lait\n") == f"{COMPOSED} au lait"


@pytest.mark.parametrize(
    ("text", "names", "expected"),
    [
        ("2,0", ("a", "b", "c"), [2, 0]),
        ("Tabby", ("tench", "tabby, tabby cat"), [1]),
        ("golden_retriever", ("golden retriever", "x"), [0]),
        (APART, ("x", COMPOSED), [1]),
        ("10", tuple(sorted(TWELVE)), [2]),
        ("10,3", TWELVE, [10, 3]),
        ("10", ("x", "10"), [1]),
        ("7", (), [7]),
        ("1", ("x", "1"), [1]),
    ],
)
def test_targets_by_name_or_number(text, names, expected):
    assert classes(text, names) == expected


@pytest.mark.parametrize(
    ("text", "names", "message"),
    [
        (
            "crane",
            ("tench", "crane", "hen", "crane, machine"),
            r"class 1 \('crane'\) or 3 \('crane, machine'\): give its",
        ),
        ("Maillot", ("maillot", "maillot"), r"class 0 \('maillot'\) or 1 \('maillot'\)"),
        ("1", ("1", "x", "y"), r"'1' may be class 0 \('1'\) or 1 \('x'\)"),
        ("0", ("1", "2"), "no class '0'"),
        ("cat", (), "names need --class-names"),
    ],
)
def test_targets_of_several_readings_are_refused(text, names, message):
    with pytest.raises(ValueError, match=message):
        classes(text, names)


def test_class_folders_that_look_the_same_are_refused(tmp_path):
    for name in (COMPOSED, APART, "tea"):
        picture(tmp_path / "one" / name / "a.png")
    if len(os.listdir(tmp_path / "one")) < 3:
        pytest.skip("this file system takes them for one")
    with pytest.raises(ValueError, match=r"'caf\\xe9' and 'cafe\\u0301'|'cafe\\u0301' and 'caf\\xe9'"):
        data.load(tmp_path / "one", format="folder")
    for name in ("train/Red Panda", f"train/{APART}", "val/red_panda", f"val/{COMPOSED}"):
        picture(tmp_path / "two" / name / "a.png")
    found = data.load(tmp_path / "two", "val")
    assert (found.class_names, found.ids) == (
        ("Red Panda", COMPOSED),
        ["val/red_panda/a.png", f"val/{COMPOSED}/a.png"],
    )
    write(tmp_path / "two/classes.txt", f"{COMPOSED}\r\nred panda \r\n")
    found = data.load(tmp_path / "two", "train")
    assert (found.class_names, found.labels) == ((COMPOSED, "red panda"), [0, 1])
    picture(tmp_path / "two/val/RED PANDA/a.png")
    with pytest.raises(ValueError, match="'RED PANDA' and 'red_panda' both look like class 'red panda'"):
        data.load(tmp_path / "two", "val")


def test_labels_of_lists_are_tidy(tmp_path):
    rows = "".join(
        f"{picture(tmp_path / f'{i}.png').name},{text}\n" for i, text in enumerate((COMPOSED, f"{APART} ", "tea"))
    )
    found = data.load(write(tmp_path / "l.csv", f"path,label\r\n{rows}"))
    assert (found.class_names, found.labels) == ((COMPOSED, "tea"), [0, 0, 1])


class Net(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, count)

    def forward(self, x):
        return self.fc(self.layer4(x).mean((2, 3)))


def coco_file(path: Path, categories: dict, *files: str) -> Path:
    images = [{"id": 5 + i, "file_name": name, "width": 40, "height": 30} for i, name in enumerate(files)]
    told = [{"id": id, "name": name} for id, name in categories.items()]
    return write(path, json.dumps({"images": images, "annotations": [], "categories": told}))


def found_categories(folder: Path, annotations: Path) -> list:
    path = export.export(folder, "coco", annotations=annotations, overwrite=True).path
    return [box["category_id"] for box in json.loads(path.read_text())]


def test_categories_of_one_name(tmp_path):
    names = ("tench", "crane", "hen", "crane")
    config, source = ModelConfig("net", 4, size=64, class_names=names), [picture(tmp_path / "a.png")]
    fastcam.localize(Net(4).eval(), source, out=tmp_path / "run", config=config, top_k=4, progress=False)
    same = coco_file(tmp_path / "same.json", dict(zip((10, 11, 12, 13), names, strict=True)), "a.png")
    rows = pq.read_table(tmp_path / "run/boxes.parquet").to_pylist()
    rows = [row for row in rows if row["x1"] > row["x0"]]
    assert found_categories(tmp_path / "run", same) == [10 + row["class_id"] for row in rows]  # by their order
    for categories in ({1: "hen", 2: "tench", 3: "crane"}, {1: "crane", 2: "hen", 3: "crane", 4: "tench"}):
        with pytest.raises(ValueError, match=r"class [13] \(crane\) may be category .*: tell the `categories` of all"):
            found_categories(tmp_path / "run", coco_file(tmp_path / "other.json", categories, "a.png"))


def test_categories_that_look_alike(tmp_path):
    row = {"size": (40, 30)}
    folder = tables.write(tmp_path / "run", [tables.row("a.png", (0, 0, 9, 9), 1, name="Red_Panda", **row)])
    assert found_categories(folder, coco_file(tmp_path / "x.json", {7: "tea", 9: "red panda"}, "a.png")) == [9]
    with pytest.raises(ValueError, match="may be category 7 or 9"):
        found_categories(folder, coco_file(tmp_path / "x.json", {7: "RED PANDA", 9: "red panda"}, "a.png"))
    nameless = tables.write(tmp_path / "nameless", [tables.row("a.png", (0, 0, 9, 9), 10, **row)])
    told = {100 + i: name for i, name in enumerate(sorted(TWELVE))}
    assert found_categories(nameless, coco_file(tmp_path / "x.json", told, "a.png")) == [102]  # called 10
    texts = coco_file(tmp_path / "x.json", {f"c{i:02d}": f"n{i}" for i in range(12)}, "./a.png")
    assert found_categories(nameless, texts) == ["c10"]


# Text files


MARK, OTHER = "utf-8-sig", "utf-16"
READ = {
    "categories": ("class_id,category_id\r\n0,17\r\n", lambda path: cli.export._read_categories(path) == {0: 17}),
    "targets": ("image_id,class_id\r\na.jpg,2\r\n", lambda path: fastcam.data.read_labels(path) == {"a.jpg": (2,)}),
    "class names": ("tench \r\ncrane\r\n", lambda path: lines(path) == ("tench", "crane")),
    "settings": ('arch = "resnet18"\n', lambda path: read_toml(path) == {"arch": "resnet18"}),
    "voc": (
        f'<?xml version="1.0" encoding="UTF-8"?>{xml("cat")}',
        lambda path: fastcam.data.readers.voc.parse(path).names == ["cat"],
    ),
    "list": ("path\n", None),
    "json": ("{}", lambda path: read_text(path) == "{}"),
}


@pytest.mark.parametrize("kind", READ)
def test_byte_order_marks(tmp_path, kind):
    content, is_read = READ[kind]
    path = tmp_path / ("x.csv" if kind == "list" else "x")
    is_read = is_read or (lambda path: list(fastcam.data.reading.Problems().lines(path)) == [(1, "path")])
    assert is_read(write(path, content.encode(MARK)))
    assert is_read(write(path, content))
    with pytest.raises(ValueError, match=r"x.*: expected UTF-8, got UTF-16 by its byte order mark"):
        is_read(write(path, content.encode(OTHER)))


def test_byte_order_marks_of_data_sets(tmp_path):
    picture(tmp_path / "a.png")
    for encoding in ("utf-8", MARK):
        write(tmp_path / "l.csv", "path,label\r\na.png,cat\r\n".encode(encoding))
        document = coco_file(tmp_path / "x.json", {1: "x"}, "a.png").read_text()
        told = json.loads(document) | {"annotations": [{"image_id": 5, "category_id": 1, "bbox": [1, 1, 5, 5]}]}
        write(tmp_path / "x.json", json.dumps(told).encode(encoding))
        assert data.load(tmp_path / "l.csv").ids == data.load(tmp_path / "x.json").ids == ["a.png"]
    for name, content in (("l.csv", "path\na.png\n"), ("l.txt", "a.png\n"), ("x.json", "{}")):
        with pytest.raises(ValueError, match=rf"{name}: expected UTF-8, got UTF-16"):
            data.load(write(tmp_path / name, content.encode(OTHER)))
    assert ET.fromstring(xml("a")).tag == "annotation"


# Paths


def paths_of(folder: Path, *rows: str, **options: object) -> Pictures:
    return data.load(write(folder / "l.csv", "path\n" + "".join(f"{row}\n" for row in rows)), **options)


@pytest.mark.parametrize(
    ("written", "id"),
    [
        ("sub\\a.jpg", "sub/a.jpg"),
        ("./sub/a.jpg", "sub/a.jpg"),
        (".\\sub\\.\\a.jpg", "sub/a.jpg"),
        ("{root}/sub/a.jpg", "sub/a.jpg"),
        (" sub/a.jpg ", "sub/a.jpg"),
        ("sub/A.JPG", "sub/A.JPG"),
        ("SUB/a.jpg", "SUB/a.jpg"),
    ],
)
@pytest.mark.parametrize("truth_only", [False, True])
def test_paths_of_others(tmp_path, written, id, truth_only):
    file = picture(tmp_path / "sub/a.jpg")
    written = written.format(root=tmp_path)
    found = paths_of(tmp_path, written, truth_only=truth_only)
    assert found.ids == [id]
    assert found.files[0].samefile(file)
    document = json.loads(coco_file(tmp_path / "x.json", {"10": "ten", "9": "nine"}, written).read_text())
    document["annotations"] = [{"image_id": 5, "category_id": "10", "bbox": [1, 1, 5, 5]} for _ in range(2)]
    found = data.load(write(tmp_path / "x.json", json.dumps(document)), truth_only=truth_only)
    assert (found.ids, found.class_names, found.labels) == ([id], ("nine", "ten"), [1])
    assert found.files[0].samefile(file)
    for name, row in (
        ("image_ids", ""),
        ("class_labels", ",0"),
        ("image_sizes", ",40,30"),
        ("localization", ",1,1,5,5"),
    ):
        write(tmp_path / f"wsol/{name}.txt", f"{written}{row}\n")
    found = data.load(tmp_path / "wsol", truth_only=truth_only)
    assert (found.ids, len(found.boxes[0])) == ([id], 1)
    assert found.files[0].samefile(file)


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_unicode_forms_of_paths(tmp_path, forms):
    listed, there = (unicodedata.normalize(form, "Gemälde/Möwe.jpg") for form in forms)
    file = picture(tmp_path / there)
    found = paths_of(tmp_path, listed)
    assert found.ids == [listed]
    assert found.files[0].samefile(file)
    write(tmp_path / "voc/Annotations/x.xml", xml("gull").replace("<size>", f"<filename>{listed}</filename><size>"))
    picture(tmp_path / "voc/JPEGImages" / there)
    assert data.load(tmp_path / "voc")[0].image.size == (40, 30)


def test_paths_that_may_be_several_files_are_refused(tmp_path):
    for name in ("A.jpg", "a.JPG"):
        picture(tmp_path / name)
    if len(os.listdir(tmp_path)) < 2:
        pytest.skip("this file system takes them for one")
    assert [file.name for file in paths_of(tmp_path, "A.jpg", "a.JPG").files] == ["A.jpg", "a.JPG"]
    with pytest.raises(FileNotFoundError, match=r"no picture .*a\.jpg, .*; 'A\.jpg' or 'a\.JPG' may be meant"):
        paths_of(tmp_path, "a.jpg")
    # One that another row names is none; two rows cannot be one file.
    with pytest.raises(FileNotFoundError, match=r"no picture .*B\.jpg"):
        paths_of(tmp_path, picture(tmp_path / "b.jpg").name, "B.jpg")
    bad: list = []
    assert paths_of(tmp_path, "A.jpg", "B.jpg", "B.JPG", bad=bad).ids == ["A.jpg"]
    assert [id for id, _ in bad] == ["B.jpg", "B.JPG"]
    with pytest.raises(ValueError, match=r"sub/a\.jpg comes twice"):
        paths_of(tmp_path, f"sub/{picture(tmp_path / 'sub/a.jpg').name}", "sub\\a.jpg")


@pytest.mark.parametrize(
    "written", ["/etc/passwd", "..\\a.jpg", "./../a.jpg", "{root}/../a.jpg", "{root}x/a.jpg", "/", "."]
)
def test_paths_that_lead_elsewhere_stay_refused(tmp_path, written):
    for folder in ("in", "inx", "."):
        picture(tmp_path / folder / "a.jpg")
    with pytest.raises(ValueError, match=r"l\.csv:2: an id must be a relative path"):
        paths_of(tmp_path / "in", written.format(root=tmp_path / "in"))
    document = coco_file(tmp_path / "in/x.json", {1: "x"}, written.format(root=tmp_path / "in"))
    with pytest.raises(ValueError, match=r"images\[0\]: an id must be a relative path"):
        data.load(document, images=tmp_path / "in", bad=data.Faults())


def test_a_file_with_a_backslash_in_its_name_is_itself(tmp_path):
    picture(tmp_path / "sub\\a.jpg")
    assert plain_id("sub\\a.jpg", tmp_path) == "sub\\a.jpg"
    assert plain_id(".hidden.jpg", tmp_path) == ".hidden.jpg"
    assert paths_of(tmp_path, "sub\\a.jpg")[0].image.size == (40, 30)


def test_absolute_paths_through_a_link(tmp_path):
    file = picture(tmp_path / "there/sub/a.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "there")
    for root in ("link", "there"):
        assert paths_of(tmp_path / "link", tmp_path / root / "sub/a.jpg").files[0].samefile(file)


# Rows of targets


def test_classes_asked_for_by_names_that_look_alike(tmp_path, weights):
    for name in ("Möwe.jpg", "b/X.jpg", "c.jpg"):
        picture(tmp_path / "in" / unicodedata.normalize("NFD", name))
    keys = (unicodedata.normalize("NFC", "Möwe.jpg"), "b\\x.JPG", str(tmp_path / "in/c.jpg"))
    rows = "".join(f"{key},{number}\r\n" for number, key in enumerate(keys, 3))
    path = write(tmp_path / "t.csv", f"image_id,class_id\r\n{rows}".encode(MARK))
    found, said = localized(weights, tmp_path / "out", tmp_path / "in", "--targets", path)
    assert found == {unicodedata.normalize("NFD", "Möwe.jpg"): 3, "b/X.jpg": 4, "c.jpg": 5}
    assert said == ""


def test_classes_asked_for_without_a_picture_are_told(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        picture(tmp_path / "in" / name)
    options = {"config": ModelConfig("net", 4, size=64), "progress": False}
    for source in (tmp_path / "in", data.load(write(tmp_path / "in/l.txt", "a.jpg\nb.jpg\n"))):
        told = {"a.jpg": 1, "b.jpg": 2, "nowhere.jpg": 3}
        with pytest.warns(UserWarning, match=r"1 of 3 classes asked for are of no picture here: 'nowhere\.jpg'"):
            done = fastcam.localize(
                Net(4).eval(), source, out=tmp_path / f"out{type(source).__name__}", targets=told, **options
            )
        assert (done.pictures, done.errors) == (2, 0)
    samples = (data.Sample(np.zeros((30, 40, 3), np.uint8), id=name) for name in ("a.jpg", "b.jpg"))
    told = {"a.jpg": 1, "b.jpg": 2, "c": 3, "d": 0}
    with pytest.warns(UserWarning, match="2 of 4 classes asked for"):
        fastcam.localize(Net(4).eval(), samples, out=tmp_path / "samples", targets=told, **options)
    with pytest.raises(ValueError, match=r"the class of 'a\.jpg' may be that of 'A\.jpg' or 'a\.JPG'"):
        fastcam.localize(
            Net(4).eval(), tmp_path / "in", out=tmp_path / "two", targets={"A.jpg": 1, "a.JPG": 2}, **options
        )


def test_the_command_tells_of_rows_without_a_picture(tmp_path, weights):
    picture(tmp_path / "in/a.jpg")
    path = write(tmp_path / "t.csv", "image_id,class_id\na.jpg,2\nb\x1b.jpg,1\n")
    found, said = localized(weights, tmp_path / "out", tmp_path / "in", "--targets", path)
    assert found == {"a.jpg": 2}
    assert said == "fastcam: 1 of 2 classes asked for are of no picture here: 'b\\x1b.jpg'\n"
    path = write(tmp_path / "c.csv", "class_id,category_id\n2,20\n12,30\n")
    result = run("export", tmp_path / "out", "--format", "coco", "--categories", path)
    said = "fastcam: 1 of 2 categories are of no class: the network has none of index 12\n"
    assert (result.exit_code, result.stderr) == (0, said)


def test_categories_of_no_class_are_told(tmp_path):
    options = {"config": ModelConfig("net", 4, size=64), "progress": False}
    fastcam.localize(Net(4).eval(), [picture(tmp_path / "a.png")], out=tmp_path / "run", **options)
    with pytest.warns(UserWarning, match="2 of 6 categories are of no class: the network has none of index 4, 5"):
        export.export(tmp_path / "run", "coco", categories={number: 90 + number for number in range(6)})


# Ids of runs


def test_runs_meet_data_sets_by_ids_that_look_alike(tmp_path):
    composed, apart = (unicodedata.normalize(form, "Möwe.png") for form in ("NFC", "NFD"))
    picture(tmp_path / composed)
    text = f"path,label,x0,y0,x1,y1,width,height\n{composed},0,5,5,20,20,40,30\n"
    truth = data.load(write(tmp_path / "l.csv", text))
    folder = tables.write(tmp_path / "run", [tables.row(apart, (5, 5, 20, 20), 0, size=(40, 30))])
    done = fastcam.evaluate(truth, boxes=folder / "boxes.parquet", out=tmp_path / "e", progress=False)
    assert done.metrics["figures"]["GT-known Loc"] == 100
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / f"{apart}.npy", np.zeros((28, 28), np.float32))
    write(tmp_path / "maps" / "._x.npy", "Mac OS X")
    maps = MapFolder(tmp_path / "maps", truth)
    assert (maps.order, maps.problems) == ([0], [])


def test_rows_of_parquet_lists(tmp_path):
    for index in range(3):
        picture(tmp_path / f"{index}.png")
    table = {"path": ["0.png", ".\\1.png", "2.PNG"], "label": ["10", "9", "cat"]}
    pq.write_table(pa.table(table), tmp_path / "l.parquet")
    found = data.load(tmp_path / "l.parquet")
    assert (found.ids, found.class_names, found.labels) == (["0.png", "1.png", "2.PNG"], ("9", "10", "cat"), [1, 0, 2])


def test_a_label_that_may_be_one_of_two_is_refused_though_the_others_agree():
    with pytest.raises(ValueError, match=r"label 1 .*'crane', may be class 0 \('CRANE'\) or 2 \('Crane'\)"):
        by_name(("tench", "crane"), ("CRANE", "hen", "Crane"))
    # As two of ImageNet's classes are called, in sets whose other names are written otherwise.
    assert by_name(("tench, fish", "crane", "crane"), ("tench", "crane", "crane")) is None


def test_numbers_of_folders_that_no_network_has(tmp_path):
    found = Pictures(tmp_path, ["a", "b"], labels=[0, 1], class_names=("3", "20190101"))
    assert in_classes(found, (), None).labels == [3, 20190101]  # refused picture by picture; no list of names so long
    assert in_classes(found, (), 5) is found


def test_inputs_of_which_only_one_has_a_row(tmp_path):
    for name in ("a.jpg", "A.jpg"):
        picture(tmp_path / "in" / name)
    if len(os.listdir(tmp_path / "in")) < 2:
        pytest.skip("this file system takes them for one")
    options = {"config": ModelConfig("net", 4, size=64), "progress": False}
    with pytest.raises(
        ValueError, match=r"the class of 'a\.jpg' may be that of 'A\.jpg' or of 'a\.jpg': give each a row"
    ):
        fastcam.localize(Net(4).eval(), tmp_path / "in", out=tmp_path / "one", targets={"a.jpg": 1}, **options)
    told = {"a.jpg": 1, "A.jpg": 2}
    done = fastcam.localize(Net(4).eval(), tmp_path / "in", out=tmp_path / "two", targets=told, **options)
    assert pq.read_table(done.path)["class_id"].to_pylist() == [2, 1]


def test_maps_of_ids_that_look_alike(tmp_path):
    text = f"path,label,x0,y0,x1,y1,width,height\n{picture(tmp_path / 'a.png').name},0,5,5,20,20,40,30\n"
    truth = data.load(write(tmp_path / "l.csv", text))
    for ids, rows in ((("A.png",), [0]), (("A.png", "a.png"), [1]), (("a.png", "A.png"), [0])):
        with MapWriter(tmp_path / "maps.parquet") as writer:
            writer.write(list(ids), torch.zeros(len(ids), 3, 4), [0] * len(ids))
        store = MapStore(tmp_path / "maps.parquet", truth)
        assert (store.order, store._rows, [id for id, _ in store.problems]) == ([0], rows, ["A.png"] * (len(ids) - 1))
