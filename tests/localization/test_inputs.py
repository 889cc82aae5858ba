"""Data sets as inputs of `fastcam localize`: every picture gives rows, whatever is told of it."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from fastcam import data, models
from fastcam.cli import app
from tests.support.files import shard, write


def jpeg(seed: int = 0) -> bytes:
    out = io.BytesIO()
    small = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC).save(out, "JPEG")
    return out.getvalue()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "net.safetensors"
    models.save_checkpoint(path, models.build("resnet18", 3), models.ModelConfig("resnet18", 3, size=64))
    return path


@pytest.fixture
def localized(checkpoint, tmp_path):
    """The image_ids with the codes of their errors, and what was said, of a run; or the message of one refused."""

    def run(*arguments: object, code: int = 0) -> tuple[dict[str, str | None], str] | str:
        out = tmp_path / f"out{len(list(tmp_path.glob('out*')))}"
        command = ["localize", *arguments, "--weights", checkpoint, "--device", "cpu", "--out", out]
        result = CliRunner().invoke(app, [str(argument) for argument in command])
        assert result.exit_code == code, result.output
        if code == 2:
            assert not (out / "boxes.parquet").exists()
            return result.stderr
        rows = pq.read_table(out / "boxes.parquet").to_pylist()
        assert len({row["image_id"] for row in rows}) == len(rows)
        return {row["image_id"]: row["error"] and row["error"].partition(":")[0] for row in rows}, result.stderr

    return run


def document(folder: Path) -> dict:
    for name in "abc":
        write(folder / f"{name}.jpg", jpeg())
    return {
        "images": [{"id": i, "file_name": f"{n}.jpg", "width": 40, "height": 30} for i, n in enumerate("abc")],
        "categories": [{"id": 7, "name": "ant"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]}],
    }


def test_all_images_of_a_coco_file_are_localized(localized, tmp_path):
    told, path = document(tmp_path), tmp_path / "instances.json"
    options = (path, "--format", "coco", "--images", tmp_path)
    every = dict.fromkeys(("a.jpg", "b.jpg", "c.jpg"))
    write(path, json.dumps(told))
    assert localized(*options) == (every, "")
    rows, _ = localized(*options, "--targets", "label", code=3)
    assert rows == every | {"a.jpg": "no_target", "c.jpg": "no_target"}
    assert data.load(path, images=tmp_path).ids == ["b.jpg"]
    for keys in (("images", "categories"), ("images",)):  # files of test pictures
        write(path, json.dumps({key: told[key] for key in keys}))
        assert localized(*options) == (every, "")
    with pytest.raises(ValueError, match="expected a list `categories`"):
        data.load(path, images=tmp_path)


def coco(folder: Path, **changes: object) -> tuple[object, ...]:
    told = document(folder)
    told["annotations"][0] |= changes
    return write(folder / "x.json", json.dumps(told)), "--format", "coco", "--images", folder


def listed(folder: Path, rows: str) -> tuple[object, ...]:
    document(folder)
    return write(folder / "list.csv", f"path,label,x0,y0,x1,y1,width,height\n{rows}"), "--format", "list"


def parquet(folder: Path) -> tuple[object, ...]:
    document(folder)
    pq.write_table(pa.table({"path": ["a.jpg", "b.jpg", "c.jpg"], "label": [1.0, None, 0.0]}), folder / "list.parquet")
    return folder / "list.parquet", "--format", "list"


def tar(folder: Path, **members: bytes) -> tuple[object, ...]:
    found = {"a.jpg": jpeg(), "a.cls": b"1", "b.jpg": jpeg(), "b.cls": b"1", "c.jpg": jpeg(), "c.cls": b"1"}
    found |= {name.replace("_", "."): content for name, content in members.items()}
    return (
        shard(folder / "x.tar", {name: content for name, content in found.items() if content}),
        "--format",
        "webdataset",
    )


def wsol(folder: Path, name: str, content: str) -> tuple[object, ...]:
    document(folder)
    write(folder / "image_ids.txt", "a.jpg\nb.jpg\nc.jpg\n")
    write(folder / "class_labels.txt", "a.jpg,0\nb.jpg,1\nc.jpg,1\n")
    write(folder / "image_sizes.txt", "a.jpg,40,30\nb.jpg,40,30\nc.jpg,40,30\n")
    write(folder / "localization.txt", "a.jpg,0,0,9,9\nb.jpg,0,0,9,9\nc.jpg,0,0,9,9\n")
    write(folder / name, content)
    return folder, "--format", "wsol"


def voc(folder: Path, xml: str) -> tuple[object, ...]:
    document(folder / "JPEGImages")
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    for name in "abc":
        good = f"<annotation><object><name>ant</name>{box}</object></annotation>"
        write(folder / "Annotations" / f"{name}.xml", xml if name == "b" else good)
    return folder, "--format", "voc"


FAULTS = {
    "coco: a box outside": (lambda folder: coco(folder, bbox=[30, 1, 20, 20]), "box 30, 1, 50, 21 lies outside"),
    "coco: a negative width": (lambda folder: coco(folder, bbox=[5, 5, -2, 2]), "expected `bbox`"),
    "coco: no such category": (lambda folder: coco(folder, category_id=8), "there is no category 8"),
    "coco: no such image": (lambda folder: coco(folder, image_id=8), "there is no image 8"),
    "csv: no label": (
        lambda folder: listed(folder, "a.jpg,1,,,,,,\nb.jpg,,,,,,,\nc.jpg,0,,,,,,\n"),
        "expected a label",
    ),
    "csv: a box": (
        lambda folder: listed(folder, "a.jpg,1,0,0,9,9,,\nb.jpg,1,0,0,9,x,,\nb.jpg,1,0,0,9,9,,\nc.jpg,0,0,0,9,9,,\n"),
        "csv:3: expected x0, y0, x1, y1",
    ),
    "csv: a size": (
        lambda folder: listed(folder, "a.jpg,1,,,,,40,30\nb.jpg,1,,,,,40,-1\nc.jpg,0,,,,,40,30\n"),
        "csv:3: expected width and height",
    ),
    "csv: half a class": (
        lambda folder: listed(folder, "a.jpg,1,,,,,,\nb.jpg,1.5,,,,,,\nc.jpg,0,,,,,,\n"),
        "csv:3: expected a whole number as label",
    ),
    "parquet: no label": (parquet, "row 1: expected a label"),
    "tar: no class": (lambda folder: tar(folder, b_cls=b""), "expected a class in .cls"),
    "tar: no number": (lambda folder: tar(folder, b_cls=b"ant"), "expected a class index"),
    "tar: a file beside": (lambda folder: tar(folder, meta_json=b"{}"), "no picture of this sample"),
    "wsol: no class": (lambda folder: wsol(folder, "class_labels.txt", "a.jpg,0\nc.jpg,1\n"), "nothing about b.jpg"),
    "wsol: a box": (
        lambda folder: wsol(folder, "localization.txt", "a.jpg,0,0,9,9\nb.jpg,9,0,0,9\nc.jpg,0,0,9,9\n"),
        "ends before it begins",
    ),
    "voc: no object": (lambda folder: voc(folder, "<annotation></annotation>"), "no object"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_in_what_is_told_stop_only_who_asks_for_it(localized, tmp_path, case):
    make, message = FAULTS[case]
    arguments = make(tmp_path / "in")
    rows, said = localized(*arguments)
    assert sorted(key.rpartition("/")[2] for key in rows) == ["a.jpg", "b.jpg", "c.jpg"]
    assert set(rows.values()) == {None}
    assert said.startswith("fastcam: 1 faults in what the data set tells, not needed here; the first: ")
    assert message in said
    assert message in localized(*arguments, "--targets", "label", code=2)


def test_what_is_wrong_with_names_is_refused_whoever_asks(localized, tmp_path):
    for rows, message in (("a.jpg,,,,,,,\na.jpg,,,,,,,\n", "comes twice"), ("/a.jpg,1,,,,,,\n", "a relative path")):
        assert message in localized(*listed(tmp_path, rows), code=2)


def test_a_null_picture_is_an_error_row(localized, tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [{"bytes": jpeg(i), "path": None} for i in range(3)]
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    table = {"image": [images[0], None, images[2]], "label": [0, 1, None]}
    datasets.Dataset.from_dict(table, features=features).save_to_disk(tmp_path / "in")
    rows, said = localized(tmp_path / "in", "--format", "hf", code=3)
    assert list(rows) == ["0", "1", "2"]
    assert (rows["0"], rows["2"]) == (None, None)
    assert rows["1"] is not None
    assert "fastcam: 1 faults" in said
    assert "expected a class as other pictures have" in said


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_whole_floats_are_classes(tmp_path, kind):
    """As pandas writes a column of integers with gaps; in the order of texts 10 would come before 2."""
    labels = [float(label) for label in range(12)]
    for index in range(12):
        write(tmp_path / f"{index}.jpg", jpeg())
    if kind == "csv":
        path = write(tmp_path / "LIST.CSV", "path,label\n" + "".join(f"{i}.jpg,{x}\n" for i, x in enumerate(labels)))
    else:
        path = tmp_path / "LIST.Parquet"
        pq.write_table(pa.table({"path": [f"{i}.jpg" for i in range(12)], "label": labels}), path)
    found = data.load(path, format="list")
    assert found.labels == list(range(12))
    assert found.class_names == tuple(map(str, range(12)))
    for wrong in ("0.5", "-1.0", "inf"):
        write(tmp_path / "x.csv", f"path,label\n0.jpg,1.0\n1.jpg,{wrong}\n")
        with pytest.raises(ValueError, match=r"x\.csv:3: expected a whole number as label"):
            data.load(tmp_path / "x.csv")
    write(tmp_path / "x.csv", "path,label\n0.jpg,1.0\n1.jpg,one\n")
    assert data.load(tmp_path / "x.csv").class_names == ("1.0", "one")


def test_members_with_several_dots(localized, tmp_path):
    members = ["IMG.2020.01.jpg", "a.image.jpg", "b.jpg", "b.mask.png", "c.image.jpg", "c.mask.png", "n.txt", "._b.jpg"]
    path = shard(tmp_path / "x.tar", dict.fromkeys(members, jpeg()))
    rows, said = localized(path, "--format", "webdataset")
    assert rows == dict.fromkeys(("x.tar/IMG.2020.01.jpg", "x.tar/a.image.jpg", "x.tar/b.jpg"))
    assert said == "fastcam: files passed over: 2 .jpg, 2 .png, 1 .txt\n"


def test_tars_of_several_folders_may_have_the_same_name(localized, tmp_path):
    paths = [shard(tmp_path / folder / "000.tar", {"x.jpg": jpeg()}) for folder in ("train", "val")]
    rows, _ = localized(*paths, "--format", "webdataset")
    assert rows == dict.fromkeys(("train/000.tar/x.jpg", "val/000.tar/x.jpg"))
    assert data.load(paths[1]).ids == ["000.tar/x.jpg"]


def test_pictures_outside_of_class_folders_are_counted(localized, tmp_path):
    for name in ("ant/a.jpg", "bee/b.jpg", "c.jpg", ".hidden/d.jpg", "readme.txt", "ant/notes.txt", "classes.txt"):
        write(tmp_path / "in" / name, jpeg() if name.endswith("jpg") else "ant\nbee\n")
    rows, said = localized(tmp_path / "in", "--format", "folder")
    assert rows == dict.fromkeys(("ant/a.jpg", "bee/b.jpg"))
    assert said == "fastcam: files passed over: 2 .jpg outside of class folders, 2 .txt\n"


@pytest.mark.parametrize("place", ["", "run"])
def test_a_run_in_class_folders_is_no_class(checkpoint, tmp_path, place):
    for name in ("ant/a.jpg", "bee/b.jpg"):
        write(tmp_path / name, jpeg())
    out = tmp_path / place
    options = ["--format", "folder", "--overlays", 1, "--maps", "--to", "png", "--weights", checkpoint, "--out", out]
    for _ in range(2):
        result = CliRunner().invoke(app, [str(argument) for argument in ("localize", tmp_path, *options)])
        assert (result.exit_code, len(pq.read_table(out / "boxes.parquet"))) == (0, 2), result.output
    assert (out / "maps-png").is_dir()
    assert (out / "overlays").is_dir()
    write(out / "overlays" / "mine.jpg", jpeg())
    assert f"{place}/overlays/mine.jpg".strip("/") in data.load(tmp_path, format="folder").ids
    (tmp_path / "cat").mkdir()
    (out / "plan.json").unlink()
    with pytest.raises(ValueError, match=r"no pictures in .*cat"):
        data.load(tmp_path, format="folder")


def test_byte_order_marks_are_no_text(localized, tmp_path):
    write(tmp_path / "in" / "a.jpg", jpeg())
    for text in ("image_id,class_id\r\na.jpg,2\r\n", "a.jpg,2\r\n"):
        write(tmp_path / "targets.csv", text.encode("utf-8-sig"))
        assert localized(tmp_path / "in", "--targets", tmp_path / "targets.csv")[0] == {"a.jpg": None}
    names = write(tmp_path / "names.txt", "ant\nbee\ncat\n".encode("utf-8-sig"))
    localized(tmp_path / "in", "--class-names", names)
    table = pq.read_table(sorted(tmp_path.glob("out*"))[-1] / "boxes.parquet")
    assert set(table["class_name"].to_pylist()) <= {"ant", "bee", "cat"}
