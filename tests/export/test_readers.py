"""Exports as the tools that they are for read them: in which frame, from which place, and what they refuse."""

import io
import json
import os
import subprocess
import xml.etree.ElementTree as ET
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from typer.testing import CliRunner

from fastcam import cli
from fastcam.export import FORMATS, export
from tests.support import tables
from tests.support.tables import error, row

WIDE, BOX = (60, 40), (40, 0, 60, 10)  # of the stored picture and its object
UPRIGHT = {  # by hand: where the object is in the upright picture, and the size of that
    1: ((60, 40), (40, 0, 60, 10)),
    2: ((60, 40), (0, 0, 20, 10)),
    3: ((60, 40), (0, 30, 20, 40)),
    4: ((60, 40), (40, 30, 60, 40)),
    5: ((40, 60), (0, 40, 10, 60)),
    6: ((40, 60), (30, 40, 40, 60)),
    7: ((40, 60), (30, 0, 40, 20)),
    8: ((40, 60), (0, 0, 10, 20)),
}


def turned(id: str, orientation: int, **options) -> dict:
    size, box = UPRIGHT[orientation]
    return row(id, box, 0, "x", size, **options) | {"orientation": orientation}


def annotations(path: Path, images: dict[str, tuple]) -> Path:
    """COCO's file: id → ((width, height), box of its object)."""
    entries = list(images.items())
    document = {
        "images": [
            {"id": i, "file_name": id} | ({} if size is None else {"width": size[0], "height": size[1]})
            for i, (id, (size, _)) in enumerate(entries, 10)
        ],
        "annotations": [
            {"id": i, "image_id": i, "category_id": 7, "bbox": [x0, y0, x1 - x0, y1 - y0]}
            | {"area": (x1 - x0) * (y1 - y0), "iscrowd": 0}
            for i, (_, (_, (x0, y0, x1, y1))) in enumerate(entries, 10)
        ],
        "categories": [{"id": 7, "name": "x"}],
    }
    path.write_text(json.dumps(document))
    return path


def precision(truth: Path, results: Path) -> float:
    """AP at IoU 0.5:0.95, by pycocotools; its areas are of no interest here."""
    with redirect_stdout(io.StringIO()):
        known = COCO(truth)
        evaluation = COCOeval(known, known.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[0]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_hand_made_table_is_pillows(orientation):
    picture = Image.new("L", WIDE)
    picture.paste(255, BOX)
    picture.getexif()[0x0112] = orientation
    shown = ImageOps.exif_transpose(picture)
    assert (shown.size, shown.getbbox()) == UPRIGHT[orientation]


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])
@pytest.mark.parametrize(("frame", "scale"), [("stored", 1), ("upright", 1), ("stored", 3), ("upright", 0.5)])
def test_coco_results_are_in_the_frame_of_the_annotations(tmp_path, orientation, frame, scale):
    run = tables.write(tmp_path / "run", [turned("a.jpg", orientation)])
    size, box = (WIDE, BOX) if frame == "stored" else UPRIGHT[orientation]
    told = tuple(int(scale * side) for side in size), tuple(scale * edge for edge in box)
    truth = annotations(tmp_path / "truth.json", {"a.jpg": told})
    done = export(run, "coco", annotations=truth)
    assert (done.pictures, done.left_out, done.notes) == (1, 0, ())
    x, y, width, height = json.loads(done.path.read_text())[0]["bbox"]
    assert (x, y, x + width, y + height) == told[1]
    assert precision(truth, done.path) == pytest.approx(1)


@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_coco_s_other_pictures_tell_of_half_turns_and_squares(tmp_path, frame):
    orientations = 2, 3, 4, 6  # the last one tells
    rows = [turned(f"{orientation}.jpg", orientation) for orientation in orientations]
    rows.append(row("square.jpg", (0, 0, 10, 20), 0, "x", (40, 40)) | {"orientation": 8})
    told = {f"{o}.jpg": (WIDE, BOX) if frame == "stored" else UPRIGHT[o] for o in orientations}
    told["square.jpg"] = (40, 40), (20, 0, 40, 10) if frame == "stored" else (0, 0, 10, 20)
    truth = annotations(tmp_path / "truth.json", told)
    done = export(tables.write(tmp_path / "run", rows), "coco", annotations=truth)
    assert (done.left_out, done.notes) == (0, ())
    assert precision(truth, done.path) == pytest.approx(1)


@pytest.mark.parametrize("told", [WIDE, None])
def test_coco_without_a_hint_is_upright_with_a_note(tmp_path, told):
    run = tables.write(tmp_path / "run", [turned("a.jpg", 3), turned("b.jpg", 3)])
    truth = annotations(tmp_path / "truth.json", {f"{name}.jpg": (told, UPRIGHT[3][1]) for name in "ab"})
    done = export(run, "coco", annotations=truth)
    assert len(done.notes) == 1
    assert "turned by EXIF" in done.notes[0]
    assert precision(truth, done.path) == pytest.approx(1)


def test_coco_that_contradicts_itself_or_tells_of_another_picture(tmp_path):
    rows = [turned("a.jpg", 6), turned("b.jpg", 6), turned("c.jpg", 3), turned("d.jpg", 1), turned("e.jpg", 8)]
    told = {"a.jpg": (WIDE, BOX), "b.jpg": UPRIGHT[6], "c.jpg": (WIDE, BOX), "d.jpg": ((50, 50), BOX)}
    truth = annotations(tmp_path / "truth.json", told | {"e.jpg": ((48, 48), BOX)})
    run = tables.write(tmp_path / "run", rows)
    done = export(run, "coco", annotations=truth)
    assert (done.pictures, done.left_out) == (2, 3)
    reasons = dict(done.examples)
    assert "speaks of some pictures as they are stored and of some upright" in reasons["c.jpg"]
    assert reasons["d.jpg"] == f"it has 50x50 pixels in {truth}, and 60x40 in the run"
    assert reasons["e.jpg"] == f"it has 48x48 pixels in {truth}, and 40x60 in the run"
    result = CliRunner().invoke(
        cli.app, ["export", str(run), "--format", "coco", "--overwrite", "--annotations", str(truth)]
    )
    assert result.exit_code == 3
    assert "3 pictures left out, such as 'c.jpg'" in result.stderr


def test_coco_of_tables_that_do_not_tell_how_pictures_were_stored(tmp_path):
    run = tables.write(tmp_path / "run", [turned("a.jpg", 6), turned("b.jpg", 1)])
    table = pq.read_table(run / "boxes.parquet").drop_columns(["orientation"])
    pq.write_table(table, run / "boxes.parquet")
    truth = annotations(tmp_path / "truth.json", {"a.jpg": (WIDE, BOX), "b.jpg": (WIDE, BOX)})
    done = export(run, "coco", annotations=truth)
    assert (done.pictures, [id for id, _ in done.examples]) == (1, ["a.jpg"])
    samples = tables.write(tmp_path / "samples", [row("a.jpg", BOX, 0, "x", WIDE) | {"orientation": None}])
    done = export(samples, "coco", annotations=truth)  # taken as they were given
    assert json.loads(done.path.read_text())[0]["bbox"] == [40, 0, 20, 10]


def test_an_orientation_that_cannot_be(tmp_path):
    run = tables.write(tmp_path / "run", [turned("a.jpg", 6) | {"orientation": 9}])
    with pytest.raises(ValueError, match=r"'a\.jpg' has orientation 9"):
        export(run, "coco")


@pytest.mark.parametrize("format", [name for name, known in FORMATS.items() if not known.maps])
def test_turned_pictures_are_told_where_readers_do_not_turn_them(tmp_path, format):
    done = export(tables.write(tmp_path / "run", [turned("a.jpg", 6), turned("b.jpg", 1), error("c.jpg")]), format)
    told = [
        note for note in done.notes if note.startswith("1 pictures are turned by EXIF and are here as they are shown")
    ]
    assert len(told) == (format in ("voc", "wsol"))
    if format == "voc":
        root = ET.parse(done.path / "Annotations/a.xml").getroot()
        assert [root.findtext(f"size/{side}") for side in ("width", "height")] == ["40", "60"]
        assert [root.findtext(f".//{edge}") for edge in ("xmin", "ymin", "xmax", "ymax")] == ["31", "41", "40", "60"]
    if format == "yolo":  # of 40 x 60
        assert (done.path / "labels/a.txt").read_text() == "0 0.875000 0.833333 0.250000 0.333333\n"
    if format == "labelstudio":
        region = json.loads(done.path.read_text())[0]["predictions"][0]["result"][0]
        assert (region["original_width"], region["original_height"], region["value"]["x"]) == (40, 60, 75)


@pytest.mark.parametrize("kind", ["no box", "errors", "nothing"])
@pytest.mark.parametrize("given", [False, True])
def test_empty_coco_results_are_told(tmp_path, kind, given):
    """pycocotools looks at the first result without asking whether there is one."""
    rows = {"no box": [row("a.jpg", name="x", size=WIDE)], "errors": [error("a.jpg")], "nothing": []}[kind]
    truth = annotations(tmp_path / "truth.json", {"a.jpg": (WIDE, BOX)})
    run = tables.write(tmp_path / "run", rows)
    done = export(run, "coco", **({"annotations": truth} if given else {}))
    assert done.notes == ("there is no box at all: pycocotools' loadRes fails with this empty list",)
    with redirect_stdout(io.StringIO()):
        known = COCO(truth if given else run / "coco.images.json")
        assert len(known.getImgIds()) == (1 if given or kind == "no box" else 0)
        with pytest.raises(IndexError):
            known.loadRes(str(done.path))
    result = CliRunner().invoke(cli.app, ["export", str(run), "--format", "coco", "--overwrite"])
    assert result.exit_code == 0
    assert "fastcam: there is no box at all" in result.stderr
    assert export(tables.write(tmp_path / "other", [turned("a.jpg", 1)]), "coco").notes == ()


def label_of(picture: Path) -> Path:
    """Where YOLO's trainers look for the labels of a picture (ultralytics, `img2label_paths`)."""
    before, after = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(after.join(str(picture).rsplit(before, 1)).rsplit(".", 1)[0] + ".txt")


@pytest.mark.parametrize(
    "names", [["a.png", "b.c.png"], ["images/a.png", "b/images/c/d.png", "b/a.png"], ["x/a.jpg", "y/a.jpg"]]
)
def test_yolo_s_trainers_find_the_labels_of_linked_files(tmp_path, names):
    """By the command that the documentation gives; folders called images among the pictures', too."""
    for number, name in enumerate(names):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (60, 40), (number, 0, 0)).save(path)
    rows = [row(name, (number, 0, 60, 40), number, f"class {number}", WIDE) for number, name in enumerate(names)]
    done = export(tables.write(tmp_path / "run", rows), "yolo")
    assert 'cp -rsT "$(realpath PICTURES)" EXPORT/images' in (FORMATS["yolo"].write.__doc__ or "")
    command = f'cp -rsT "$(realpath "{tmp_path}/photos")" "{done.path}/images"'
    subprocess.run(["bash", "-c", command], check=True)
    root = (done.path / "images").resolve()  # as check_det_dataset makes it of `train: images`
    found = sorted(path for path in root.rglob("*.*") if path.suffix != ".txt")
    assert [path.relative_to(root).as_posix() for path in found] == sorted(names)
    for path in found:
        number = names.index(path.relative_to(root).as_posix())
        expected = f"{number} {(number + 60) / 120:.6f} 0.500000 {(60 - number) / 60:.6f} 1.000000\n"
        assert label_of(path).read_text() == expected


def test_yolo_s_names_are_texts_whatever_they_look_like(tmp_path):
    yaml = pytest.importorskip("yaml")
    names = [
        "no",
        "yes",
        "null",
        "~",
        "3.5",
        "0x1f",
        "a: b",
        "# c",
        "- d",
        "{e}",
        "!!f",
        "2026-11-29",
        "'g\"",
        "\\u00fc ü",
    ]
    names += ["\U0001f600", "[h", "*i", "&j", "%k", "@l", "true", ".nan", "é\u2028m"]
    rows = [row(f"{number}.jpg", (1, 2, 30, 40), number, name) for number, name in enumerate(names)]
    done = export(tables.write(tmp_path / "run", rows), "yolo")
    told = yaml.safe_load((done.path / "data.yaml").read_text(encoding="utf-8"))
    assert told["names"] == {number: " ".join(name.split()) for number, name in enumerate(names)}
    assert (told["train"], told["val"]) == ("images", "images")
    none = export(tables.write(tmp_path / "none", [error("a.jpg")]), "yolo")
    assert yaml.safe_load((none.path / "data.yaml").read_text())["names"] == {}


def test_names_with_commas_are_told_for_the_field_s_evaluator(tmp_path):
    """It divides lines at each comma."""
    done = export(tables.write(tmp_path / "run", [turned("a, b.jpg", 1), turned("c.jpg", 1)]), "wsol")
    assert done.notes == ("1 names have commas, at which the field's evaluator divides lines",)
    plain = export(tables.write(tmp_path / "plain", [turned("a b.jpg", 1), turned("c/ü.jpg", 1)]), "wsol")
    assert plain.notes == ()
    for line in (plain.path / "localization.txt").read_text(encoding="utf-8").splitlines():
        _, *box = line.strip("\n").split(",")
        assert tuple(map(int, box)) == BOX


def test_labels_and_pictures_of_all_formats_agree_on_base_names(tmp_path):
    """Pictures of one name in several folders stay apart."""
    rows = [turned(f"{folder}/a.jpg", 1) for folder in ("x", "y", "x/y")]
    run = tables.write(tmp_path / "run", rows)
    for format, pattern in (("voc", "Annotations/**/*.xml"), ("yolo", "labels/**/*.txt")):
        done = export(run, format)
        files = sorted(path.relative_to(done.path).as_posix() for path in done.path.glob(pattern))
        assert [file.split("/", 1)[1].rsplit(".", 1)[0] for file in files] == ["x/a", "x/y/a", "y/a"]
    tasks = json.loads(export(run, "labelstudio").path.read_text())
    assert len({task["data"]["image"] for task in tasks}) == 3
    with redirect_stdout(io.StringIO()):
        export(run, "coco")
        assert len(COCO(run / "coco.images.json").loadRes(str(run / "coco.json")).anns) == 3
    assert np.unique(pq.read_table(run / "boxes.parquet")["image_id"].to_pylist()).size == 3
