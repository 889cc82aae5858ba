"""Truth that speaks of the stored picture while EXIF turns it: turned along, decided by the others, told, or refused.

The object is red in the picture and set in the mask: whatever comes out must lie on red.
"""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageOps
from torch import nn

from fastcam import data
from fastcam.data import pictures
from fastcam.data.pictures import Pictures
from fastcam.data.turning import INVERSE, frame_of, turn_boxes, turn_mask
from fastcam.evaluation import Evaluator
from fastcam.evaluation.evaluate import evaluate
from fastcam.localization import localize
from fastcam.pictures import Header, read_header
from fastcam.report.truth import Truth
from tests.support import tables

WIDE, SQUARE = (60, 40), (48, 48)
BOX = (32, 8, 56, 16)  # of the object in the stored picture, x0, y0, x1, y1; whole blocks of a JPEG
QUARTERS, HALVES = (5, 6, 7, 8), (2, 3, 4)
FORMATS = ("coco", "voc", "list", "webdataset", "wsol", "hf")


def stored(path: Path, orientation: int, size=WIDE, box=BOX) -> Image.Image:
    """A grey picture with a red object, and the picture as it is shown."""
    picture = Image.new("RGB", size, (90, 90, 90))
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.paste((255, 0, 0), box)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, exif=exif, **({"quality": 95, "subsampling": 0} if path.suffix == ".jpg" else {}))
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def red(image) -> tuple[int, int, int, int]:
    """The box around what is red."""
    pixels = np.asarray(image).astype(int)
    y, x = np.nonzero(pixels[..., 0] - pixels[..., 1] > 100)
    return int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1


def write(root: Path, format: str, truths: dict[str, tuple]) -> tuple[Path, dict]:
    """A data set of pictures in root/images; id → ((width, height), box) as the files tell it."""
    ids, images = list(truths), root / "images"
    if format == "coco":
        document = {
            "images": [
                {"id": i, "file_name": id, "width": size[0], "height": size[1]}
                for i, (id, (size, _)) in enumerate(truths.items())
            ],
            "annotations": [
                {"id": i, "image_id": i, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
                for i, (_, (x0, y0, x1, y1)) in enumerate(truths.values())
            ],
            "categories": [{"id": 1, "name": "x"}],
        }
        (root / "x.json").write_text(json.dumps(document))
        return root / "x.json", {"images": images}
    if format == "voc":
        (root / "Annotations").mkdir()
        for id, (size, (x0, y0, x1, y1)) in truths.items():
            corners = f"<xmin>{x0 + 1}</xmin><ymin>{y0 + 1}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax>"
            (root / f"Annotations/{Path(id).stem}.xml").write_text(
                f"<annotation><filename>{id}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"
                f"<object><name>x</name><bndbox>{corners}</bndbox></object></annotation>"
            )
        return root, {"images": images}
    if format == "list":
        rows = "".join(f"{id},x,{','.join(map(str, (*box, *size)))}\n" for id, (size, box) in truths.items())
        (root / "x.csv").write_text(f"path,label,x0,y0,x1,y1,width,height\n{rows}")
        return root / "x.csv", {"images": images}
    if format == "wsol":
        texts = {
            "image_ids": "".join(f"{id}\n" for id in ids),
            "class_labels": "".join(f"{id},0\n" for id in ids),
            "image_sizes": "".join(f"{id},{size[0]},{size[1]}\n" for id, (size, _) in truths.items()),
            "localization": "".join(f"{id},{','.join(map(str, box))}\n" for id, (_, box) in truths.items()),
        }
        (root / "metadata").mkdir()
        for name, text in texts.items():
            (root / f"metadata/{name}.txt").write_text(text)
        return root, {"images": images}
    if format == "webdataset":
        with tarfile.open(root / "x.tar", "w") as tar:
            for id, (size, box) in truths.items():
                told = json.dumps({"label": 0, "boxes": [box], "width": size[0], "height": size[1]}).encode()
                for name, content in ((id, (images / id).read_bytes()), (f"{Path(id).stem}.json", told)):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
        return root / "x.tar", {}
    datasets = pytest.importorskip("datasets")
    columns = {"image": [], "width": [], "height": [], "objects": []}
    for id, (size, (x0, y0, x1, y1)) in truths.items():
        columns["image"].append({"bytes": (images / id).read_bytes(), "path": id})
        columns["width"].append(size[0])
        columns["height"].append(size[1])
        columns["objects"].append({"bbox": [[x0, y0, x1 - x0, y1 - y0]]})
    features = {"image": datasets.Image(), "width": datasets.Value("int32"), "height": datasets.Value("int32")}
    features["objects"] = {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), length=4))}
    datasets.Dataset.from_dict(columns, features=datasets.Features(features)).save_to_disk(root / "hf")
    return root / "hf", {}


def perfect(sample: data.Sample, image, metric: str = "MaxBoxAcc") -> float:
    """The figure of a map that is one on red, and zero elsewhere."""
    x0, y0, x1, y1 = red(image)
    shape = np.zeros(image.size[::-1], np.uint8)
    shape[y0:y1, x0:x1] = 255
    map = np.array(Image.fromarray(shape).resize((224, 224))) / np.float32(255)
    evaluator = Evaluator("standard", metrics=[metric], bootstrap=0)
    evaluator.add(["a"], torch.from_numpy(map)[None], [sample._replace(id="a")])
    return evaluator.result().figures[metric]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_and_masks_turn_as_pillow_turns_pictures(orientation):
    picture = Image.fromarray(np.arange(24, dtype=np.uint8).reshape(4, 6))
    picture.getexif()[0x0112] = orientation
    upright = np.asarray(ImageOps.exif_transpose(picture))
    assert np.array_equal(turn_mask(np.asarray(picture), orientation), upright)
    for value in range(24):
        y, x = divmod(value, 6)
        (box,), size = turn_boxes(np.array([[x, y, x + 1, y + 1]], np.float32), (6, 4), orientation)
        assert size == upright.shape[::-1]
        x0, y0, x1, y1 = box.astype(int)
        assert upright[y0:y1, x0:x1].tolist() == [[value]]
        back, stored = turn_boxes(box[None], size, INVERSE.get(orientation, orientation))
        assert (back.tolist(), stored) == ([[x, y, x + 1, y + 1]], (6, 4))


@pytest.mark.parametrize(
    ("told", "upright", "orientation", "frame"),
    [
        ((60, 40), (40, 60), 6, "stored"),
        ((40, 60), (40, 60), 8, "upright"),
        ((120, 80), (40, 60), 5, "stored"),  # kept smaller
        ((33, 50), (40, 60), 7, "upright"),
        ((500, 499), (499, 500), 6, "stored"),  # nearly square
        ((60, 40), (60, 40), 3, "either"),
        ((48, 48), (48, 48), 6, "either"),
        ((60, 40), (48, 48), 6, "neither"),
        ((60, 40), (40, 60), 1, "neither"),
        ((60, 40), (61, 40), 1, "either"),
        ((640, 480), (641, 479), 1, "either"),
        ((640, 480), (600, 480), 1, "neither"),
    ],
)
def test_which_picture_a_size_is_of(told, upright, orientation, frame):
    assert frame_of(told, upright, orientation) == frame


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", QUARTERS)
def test_boxes_of_the_stored_picture(tmp_path, format, orientation):
    shown = stored(tmp_path / "images/a.jpg", orientation)
    source, options = write(tmp_path, format, {"a.jpg": (WIDE, BOX)})
    loaded = data.load(source, **options)
    for sample in (loaded[0], loaded.truth(0)):
        assert tuple(sample.boxes[0].tolist()) == red(shown)
        assert sample.boxes.dtype == np.float32
        assert sample.size == shown.size == (40, 60)
    assert perfect(loaded[0], shown) == 100
    assert loaded[0].image.size == shown.size


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", [1, *QUARTERS])
def test_boxes_of_the_upright_picture_stay(tmp_path, format, orientation):
    shown = stored(tmp_path / "images/a.png", orientation)
    source, options = write(tmp_path, format, {"a.png": (shown.size, red(shown))})
    loaded = data.load(source, **options)
    for sample in (loaded[0], loaded.truth(0)):
        assert tuple(sample.boxes[0].tolist()) == red(shown)
        assert sample.size == shown.size


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_kind_of_file(tmp_path, kind):
    """Of a PNG's orientation, too, which may come after the pixels."""
    shown = stored(tmp_path / "images/a.png", 6)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "images/a.png") as image:
        image.copy().save(tmp_path / "images/a.jpg", kind, exif=exif)
    if kind == "PNG":
        content = (tmp_path / "images/a.png").read_bytes()
        at = content.index(b"eXIf") - 4
        end = at + 12 + int.from_bytes(content[at : at + 4])
        last = content.index(b"IEND") - 4
        (tmp_path / "images/a.jpg").write_bytes(content[:at] + content[end:last] + content[at:end] + content[last:])
    source, options = write(tmp_path, "coco", {"a.jpg": (WIDE, BOX)})
    sample = data.load(source, **options).truth(0)
    assert (tuple(sample.boxes[0].tolist()), sample.size) == (red(shown), (40, 60))


@pytest.mark.parametrize("format", ["coco", "wsol"])
@pytest.mark.parametrize("size", [WIDE, SQUARE])
@pytest.mark.parametrize("frame", ["stored", "upright"])
def test_the_others_tell_where_a_size_cannot(tmp_path, format, size, frame):
    """Half turns and mirrored pictures, or square ones, are of the same size in both ways."""
    truths, shown = {}, {}
    others = HALVES if size == WIDE else (*HALVES, *QUARTERS)
    for orientation in (*others, 66):  # the last is the one that tells
        id = f"{orientation}.png"
        shown[id] = stored(
            tmp_path / "images" / id, orientation % 60, WIDE if orientation == 66 else size, (24, 8, 40, 24)
        )
        truths[id] = (
            (WIDE if orientation == 66 else size, (24, 8, 40, 24))
            if frame == "stored"
            else (shown[id].size, red(shown[id]))
        )
    source, options = write(tmp_path, format, truths)
    loaded = data.load(source, **options)
    for index, id in enumerate(loaded.ids):
        assert tuple(loaded[index].boxes[0].tolist()) == red(shown[id]), id
        assert tuple(loaded.truth(index).boxes[0].tolist()) == red(shown[id]), id


@pytest.mark.parametrize(("size", "orientation"), [(WIDE, 2), (WIDE, 3), (WIDE, 4), (SQUARE, 6), (SQUARE, 7)])
def test_where_nothing_tells_upright_is_assumed_and_said_once(tmp_path, size, orientation):
    shown = [stored(tmp_path / f"images/{name}.png", orientation, size, (24, 8, 40, 24)) for name in "ab"]
    source, options = write(tmp_path, "coco", {f"{n}.png": (s.size, red(s)) for n, s in zip("ab", shown, strict=True)})
    loaded = data.load(source, **options)
    with pytest.warns(UserWarning, match=r"turned by EXIF, and no size tells .*: taken for upright") as said:
        samples = [loaded[0], loaded[1], loaded.truth(0)]
    assert len(said) == 1
    assert [tuple(sample.boxes[0].tolist()) for sample in samples] == [red(shown[0]), red(shown[1]), red(shown[0])]


def test_contradictions_are_refused(tmp_path):
    shown = {n: stored(tmp_path / f"images/{n}.png", o) for n, o in (("a", 6), ("b", 6), ("c", 3))}
    truths = {"a.png": (WIDE, BOX), "b.png": (shown["b"].size, red(shown["b"])), "c.png": (WIDE, BOX)}
    source, options = write(tmp_path, "coco", truths)
    loaded = data.load(source, **options)
    assert [tuple(loaded[index].boxes[0].tolist()) for index in (0, 1)] == [red(shown["a"]), red(shown["b"])]
    for read in (loaded.truth, loaded.__getitem__):
        with pytest.raises(
            ValueError, match=r"c\.png is turned by its EXIF orientation 3, and nothing tells .* both ways"
        ):
            read(2)


def test_pictures_that_lie_upright_ask_no_others(tmp_path, monkeypatch):
    """One header is read for each question, and nothing is said, where no turned picture has boxes."""
    stored(tmp_path / "images/a.png", 1)
    stored(tmp_path / "images/b.png", 3)
    source, options = write(tmp_path, "list", {"a.png": (WIDE, BOX), "b.png": (WIDE, BOX)})
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:2], "b.png,x,,,,,60,40"]))
    loaded, asked = data.load(source, **options), []
    monkeypatch.setattr(pictures, "read_header", lambda file: asked.append(file) or read_header(file))
    assert tuple(loaded.truth(0).boxes[0].tolist()) == BOX
    assert loaded.truth(1).size == loaded[1].size == WIDE
    assert len(asked) == 2


@pytest.mark.parametrize("format", ["coco", "voc"])
@pytest.mark.parametrize("told", [(40, 40), (60, 30), (640, 480)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_a_size_of_other_proportions_is_refused_with_both(tmp_path, format, told, orientation):
    shown = stored(tmp_path / "images/a.png", orientation)
    source, options = write(tmp_path, format, {"a.png": (told, (1, 2, 20, 30))})
    loaded = data.load(source, **options)
    width, height = shown.size
    match = rf"a\.png has {width}x{height} pixels(, stored as 60x40)?, but the data set tells of {told[0]}x{told[1]}"
    for read in (loaded.truth, loaded.__getitem__):
        with pytest.raises(ValueError, match=match):
            read(0)
    assert len(data.info(source, **options, progress=False).damaged) == 1


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("orientation", [1, 8])
def test_pictures_kept_smaller_are_scaled(tmp_path, format, orientation):
    shown = stored(tmp_path / "images/a.png", orientation)
    source, options = write(tmp_path, format, {"a.png": ((180, 120), tuple(3 * edge for edge in BOX))})
    sample = data.load(source, **options)[0]
    assert perfect(sample, shown) == 100
    assert sample.size == tuple(3 * side for side in shown.size)


def test_metadata_tells_sizes_on_purpose(tmp_path):
    """WSOL's data sets come squashed."""
    stored(tmp_path / "images/a.png", 1, SQUARE, (24, 8, 40, 24))
    source, options = write(tmp_path, "wsol", {"a.png": ((96, 48), (48, 8, 80, 24))})
    sample = data.load(source, **options)[0]
    assert (sample.size, sample.boxes.tolist()) == ((96, 48), [[48, 8, 80, 24]])


@pytest.mark.parametrize("orientation", QUARTERS)
def test_boxes_without_sizes_are_told_by_where_they_end(tmp_path, orientation):
    """CUB and lists tell no size: a box outside the upright picture, and inside the stored one, speaks of that."""
    shown = stored(tmp_path / "images/a.png", orientation)
    (tmp_path / "x.csv").write_text(f"path,label,x0,y0,x1,y1\na.png,x,{','.join(map(str, BOX))}\n")
    loaded = data.load(tmp_path / "x.csv", images=tmp_path / "images")
    for sample in (loaded[0], loaded.truth(0)):
        assert (tuple(sample.boxes[0].tolist()), sample.size) == (red(shown), shown.size)
    (tmp_path / "x.csv").write_text("path,label,x0,y0,x1,y1\na.png,x,1,2,62,50\n")
    with pytest.raises(ValueError, match=r"box 1, 2, 62, 50 lies outside the picture of 40x60"):
        data.load(tmp_path / "x.csv", images=tmp_path / "images").truth(0)


@pytest.mark.parametrize("orientation", QUARTERS)
@pytest.mark.parametrize("frame", ["stored", "upright", "its own EXIF", "half the size"])
def test_masks(tmp_path, orientation, frame):
    shown = stored(tmp_path / "images/a.jpg", orientation)
    mask = Image.new("L", WIDE)
    mask.paste(255, BOX)
    (tmp_path / "masks").mkdir()
    exif = Image.Exif()
    exif[0x0112] = orientation
    if frame == "upright":
        mask.getexif()[0x0112] = orientation
        mask = ImageOps.exif_transpose(mask)
    elif frame == "half the size":
        mask = mask.resize((30, 20), Image.Resampling.NEAREST)
    mask.save(tmp_path / "masks/a.png", **({"exif": exif} if frame == "its own EXIF" else {}))
    loaded = data.load(tmp_path)
    for sample in (loaded[0], loaded.truth(0)):
        assert sample.mask.shape[::-1] in (shown.size, (20, 30))
        assert perfect(sample, shown, "PxAP") > 90
    if frame != "half the size":
        assert red(np.stack([loaded[0].mask * 255, 0 * loaded[0].mask], 2)) == red(shown)


def test_masks_of_half_turns_follow_the_others_and_odd_ones_are_refused(tmp_path):
    (tmp_path / "masks").mkdir()
    shown = {name: stored(tmp_path / f"images/{name}.png", orientation) for name, orientation in (("a", 3), ("b", 6))}
    mask = Image.new("L", WIDE)
    mask.paste(255, BOX)
    for name in "ab":
        mask.save(tmp_path / f"masks/{name}.png")
    loaded = data.load(tmp_path)
    for index, name in enumerate("ab"):
        found = loaded[index].mask * 255
        assert red(np.stack([found, 0 * found], 2)) == red(shown[name])
    (tmp_path / "images/b.png").unlink()
    (tmp_path / "masks/b.png").unlink()
    with pytest.warns(UserWarning, match="taken for upright"):
        data.load(tmp_path).truth(0)
    mask.resize((40, 40)).save(tmp_path / "masks/a.png")
    with pytest.raises(ValueError, match=r"masks/a\.png has 40x40 pixels, but .*a\.png has 60x40: expected a mask"):
        data.load(tmp_path)[0]


def test_truth_without_pictures_is_as_told(tmp_path):
    source, _ = write(tmp_path, "coco", {"a.png": (WIDE, BOX)})
    sample = data.load(source, truth_only=True).truth(0)
    assert (tuple(sample.boxes[0].tolist()), sample.size) == (BOX, WIDE)


def test_ilsvrc_s_boxes_turn_along_too(tmp_path):
    shown = stored(tmp_path / "Data/CLS-LOC/val/v.png", 6)
    (tmp_path / "Data/CLS-LOC/val/v.png").rename(tmp_path / "Data/CLS-LOC/val/v.JPEG")
    (tmp_path / "Annotations/CLS-LOC/val").mkdir(parents=True)
    corners = "".join(f"<{n}>{v}</{n}>" for n, v in zip(("xmin", "ymin", "xmax", "ymax"), BOX, strict=True))
    (tmp_path / "Annotations/CLS-LOC/val/v.xml").write_text(
        "<annotation><size><width>60</width><height>40</height></size>"
        f"<object><name>n01</name><bndbox>{corners}</bndbox></object></annotation>"
    )
    sample = data.load(tmp_path, "val")[0]
    assert (tuple(sample.boxes[0].tolist()), sample.size) == (red(shown), shown.size)


def test_a_table_of_an_orientation_that_cannot_be(tmp_path):
    stored(tmp_path / "images/a.png", 6)
    source, options = write(tmp_path, "coco", {"a.png": (WIDE, BOX)})
    run = tables.write(tmp_path / "run", [tables.row("a.png", (1, 2, 3, 4), 0, "x", (40, 60)) | {"orientation": 9}])
    with pytest.raises(ValueError, match="orientation 9, none of 1 to 8"):
        evaluate(data.load(source, **options), boxes=run / "boxes.parquet", out=tmp_path / "eval", bootstrap=0)


def test_training_looks_at_labels_only(tmp_path):
    stored(tmp_path / "images/a.png", 6)
    source, options = write(tmp_path, "coco", {"a.png": ((40, 40), (1, 2, 20, 30))})
    plain = data.load(source, **options).labelled()
    assert (plain[0].label, plain[0].boxes, plain[0].mask, plain[0].size) == (0, None, None, (40, 60))


class Red(nn.Module):
    """One class: how red the picture is."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4, self.fc = nn.Conv2d(3, 1, 4, stride=4), nn.Linear(1, 1)
        with torch.no_grad():
            self.layer4.weight.copy_(torch.tensor([1.0, -1.0, 0.0]).view(1, 3, 1, 1) / 16)
            for parameter, value in ((self.layer4.bias, 0), (self.fc.weight, 1), (self.fc.bias, 0)):
                parameter.fill_(value)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.layer4(images).relu().mean((2, 3)))


@pytest.mark.parametrize("orientation", [1, *QUARTERS])
@pytest.mark.parametrize("there", [True, False])
def test_a_run_s_boxes_are_compared_with_turned_truth(tmp_path, orientation, there):
    """Also where the pictures are gone: the run's table knows how they were stored."""
    stored(tmp_path / "images/a.jpg", orientation)
    source, options = write(tmp_path, "coco", {"a.jpg": (WIDE, BOX)})
    run = localize(Red().eval(), data.load(source, **options), out=tmp_path / "run", overlays=1, progress=False)
    assert run.errors == 0
    if not there:
        (tmp_path / "images/a.jpg").unlink()
    loaded = data.load(source, truth_only=True, **options)
    done = evaluate(loaded, boxes=run.path, out=tmp_path / "eval", bootstrap=0, cases=0, progress=False)
    assert done.metrics["figures"]["GT-known Loc"] == 100
    row = pq.read_table(run.path).to_pylist()[0]
    truth = Truth.of_data(loaded, ["a.jpg"]).boxes_in("a.jpg", (row["width"], row["height"]), row["orientation"])
    np.testing.assert_allclose(truth, [[row[edge] for edge in ("x0", "y0", "x1", "y1")]], atol=4)


def test_the_run_of_unturned_samples_meets_stored_truth(tmp_path):
    """A sample is taken as it is given; the truth stays with it."""
    stored(tmp_path / "images/a.png", 6)
    source, options = write(tmp_path, "coco", {"a.png": (WIDE, BOX)})
    loaded = data.load(source, **options)
    rows = [tables.row("a.png", BOX, 0, "x", WIDE) | {"orientation": None}]
    run = tables.write(tmp_path / "run", rows)
    done = evaluate(loaded, boxes=run / "boxes.parquet", out=tmp_path / "eval", bootstrap=0, cases=0, progress=False)
    assert done.metrics["figures"]["GT-known Loc"] == 100
    assert Truth.of_data(loaded, ["a.png"]).boxes_in("a.png", WIDE, np.nan).tolist() == [list(BOX)]
    # A table that does not tell how pictures were stored leaves it to their files.
    table = pq.read_table(run / "boxes.parquet").drop_columns(["orientation"])
    table = table.set_column(1, "width", pa.array([40], pa.int32())).set_column(2, "height", pa.array([60], pa.int32()))
    (x0, y0, x1, y1) = turn_boxes(np.array([BOX]), WIDE, 6)[0][0].tolist()
    for name, value in (("x0", x0), ("y0", y0), ("x1", x1), ("y1", y1)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array([value], pa.float32()))
    pq.write_table(table, tmp_path / "old.parquet")
    done = evaluate(loaded, boxes=tmp_path / "old.parquet", out=tmp_path / "old", bootstrap=0, cases=0, progress=False)
    assert done.metrics["figures"]["GT-known Loc"] == 100


def test_overlays_have_the_turned_box(tmp_path):
    shown = stored(tmp_path / "images/a.png", 8)
    source, options = write(tmp_path, "coco", {"a.png": (WIDE, BOX)})
    loaded = data.load(source, **options)
    localize(Red().eval(), loaded, out=tmp_path / "run", overlays=1, progress=False)
    (listed,) = pq.read_table(tmp_path / "run/inputs.parquet", columns=["truth", "extent"]).to_pylist()
    assert (tuple(listed["truth"]), tuple(listed["extent"])) == (red(shown), shown.size)


def test_pictures_are_known_by_their_header(tmp_path):
    stored(tmp_path / "a.png", 7)
    found = Pictures(tmp_path, ["a.png"], boxes=[np.array([BOX], np.float32)], sizes=[WIDE])
    boxes, size = found.located(0)
    known, same = found.located(0, Header((40, 60), 7))
    assert np.array_equal(boxes, known)
    assert size == same == (40, 60)
    assert found.subset([0]).truth(0).size == (40, 60)
