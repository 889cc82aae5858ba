"""Hugging Face data sets: what is read against what the package itself was given; nothing from the network."""

import io
import json
import os
import socket
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
import datasets  # read after these

import fastcam
from fastcam import data
from fastcam.pictures import DecodeError
from tests.support.engine_run import CLASSES, CONFIG, Tiny

NAMES = [f"class {index}" for index in range(CLASSES)]
BOXES = [[2.0, 3.0, 10.0, 5.0], [0.0, 0.0, 20.5, 12.0]]  # x, y, width, height
XYXY = [[2, 3, 12, 8], [0, 0, 20.5, 12]]


@pytest.fixture(autouse=True)
def _offline(tmp_path, monkeypatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    datasets.disable_progress_bars()


def content(index: int, kind: str = "PNG") -> bytes:
    rng = np.random.default_rng(index)
    picture = Image.fromarray(rng.integers(0, 256, (40 + index, 60, 3), np.uint8))
    buffer = io.BytesIO()
    picture.save(buffer, kind)
    return buffer.getvalue()


def pixels(file: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(image.convert("RGB"))


FILES = [content(0), content(1, "JPEG"), content(2), content(3, "WEBP"), content(4)]
IMAGES = [{"bytes": file, "path": "same.png"} for file in FILES]
PATHS = [f"{'ab'[index % 2]}/x{index}.png" for index in range(5)]
LABELS = [0, 3, 2, 2, 1]
IMAGE, LABEL = datasets.Image(), datasets.ClassLabel(names=NAMES)


def made(features=None, **columns: list) -> datasets.Dataset:
    columns = {"image": IMAGES, "label": LABELS, "path": PATHS} | columns
    columns = {name: values for name, values in columns.items() if values is not None}
    kinds = {"image": IMAGE, "label": LABEL, "path": datasets.Value("string")} | (features or {})
    return datasets.Dataset.from_dict(
        columns, datasets.Features({name: kinds[name] for name in columns if name in kinds})
    )


def same(found: data.Pictures, rows=range(5)) -> None:
    assert [sample.id for sample in (found.truth(i) for i in range(len(found)))] == list(found.ids)
    for sample, row in zip((found[i] for i in range(len(found))), rows, strict=True):
        np.testing.assert_array_equal(sample.image, pixels(FILES[row]))
        assert sample.label == LABELS[row]
        assert sample.size == (60, 40 + row)


def test_a_saved_data_set(tmp_path) -> None:
    made().save_to_disk(str(tmp_path / "saved"), num_shards=2)
    found = data.load(tmp_path / "saved")
    assert isinstance(found, data.Pictures)
    assert (list(found.ids), found.class_names, found.labels) == (PATHS, tuple(NAMES), LABELS)
    same(found)
    same(found.subset([3, 1]), [3, 1])
    assert data.splits(tmp_path / "saved") == ["all"]
    made(path=None).select([4, 2]).save_to_disk(str(tmp_path / "chosen"))
    found = data.load(tmp_path / "chosen", format="hf")
    assert list(found.ids) == ["0", "1"]
    same(found, [4, 2])
    with pytest.raises(ValueError, match="in its own place"):
        data.load(tmp_path / "saved", images=tmp_path)


def test_splits_of_a_saved_data_set(tmp_path) -> None:
    parts = {"train": made().select([0, 1, 2]), "validation": made().select([3, 4])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    assert data.splits(tmp_path / "saved") == ["train", "validation"]
    same(data.load(tmp_path / "saved", "val"), [3, 4])
    with pytest.raises(ValueError, match="choose a split; it has train, validation"):
        data.load(tmp_path / "saved")
    made().save_to_disk(str(tmp_path / "named"))
    state = json.loads((tmp_path / "named/state.json").read_text())
    (tmp_path / "named/state.json").write_text(json.dumps(state | {"_split": "test"}))
    same(data.load(tmp_path / "named", "test"))


@pytest.mark.parametrize("names", [["data/train-0-of-2", "data/train-1-of-2"], ["train/0", "train/1"], ["train"]])
def test_parquet_files(tmp_path, names: list[str]) -> None:
    folder = tmp_path / "a[1]*b"
    parts = [[0, 1], [2, 3, 4]] if len(names) > 1 else [range(5)]
    for name, rows in zip(names, parts, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        made().select(rows).to_parquet(folder / f"{name}.parquet")
    assert data.splits(folder) == ["train"]
    found = data.load(folder, "train", format="hf")
    assert list(found.ids) == PATHS
    same(found)
    same(data.load(folder))  # recognised, and not made again
    if len(names) == 1:
        same(data.load(folder / "train.parquet", format="hf"))
        made().select([1]).to_parquet(folder / "train.parquet")
        os.utime(folder / "train.parquet", (1, 1))
        same(data.load(folder), [1])


def test_parquet_files_of_others(tmp_path) -> None:
    table = pa.table({"image": FILES, "label": LABELS, "note": ["x"] * 5})
    pq.write_table(table, tmp_path / "0000.parquet")
    found = data.load(tmp_path, format="hf")
    assert found.class_names == ("0", "1", "2", "3")
    same(found)
    pq.write_table(table.drop_columns("image"), tmp_path / "0000.parquet")
    with pytest.raises(ValueError, match="expected a column image with the files' bytes, got label, note"):
        data.load(tmp_path, format="hf")
    assert len([*(tmp_path / "cache").rglob("*.arrow")]) == 1  # it was not even copied


CATEGORIES = [[1, 3], [], [3, 3], [0], [2]]
OF_EACH = [BOXES, [], BOXES, BOXES[:1], BOXES[1:]]


@pytest.mark.parametrize("several", [True, False])
@pytest.mark.parametrize("labelled", [True, False])
def test_boxes(tmp_path, several: bool, labelled: bool) -> None:
    bbox = datasets.Sequence(datasets.Value("float32"), 4)
    objects: list = [{"bbox": boxes, "category": kinds} for boxes, kinds in zip(OF_EACH, CATEGORIES, strict=True)]
    feature: object = {"bbox": datasets.Sequence(bbox), "category": datasets.Sequence(LABEL)}
    if several:
        feature = [{"bbox": bbox, "category": LABEL}]
        objects = [
            [{"bbox": box, "category": kind} for box, kind in zip(one["bbox"], one["category"], strict=True)]
            for one in objects
        ]
    rows = range(5) if labelled else [0, 2, 3, 4]  # without objects there is no class
    source = made({"objects": feature}, objects=objects, label=LABELS if labelled else None)
    source.select(rows).save_to_disk(str(tmp_path / "saved"))
    found = data.load(tmp_path / "saved")
    if labelled:
        same(found)
        expected = [XYXY, [], XYXY, XYXY[:1], XYXY[1:]]
    else:  # class 3 has the larger box of the first picture
        assert found.labels == [3, 3, 0, 2]
        expected = [XYXY[1:], XYXY, XYXY[:1], XYXY[1:]]
    for boxes, wanted in zip(found.boxes, expected, strict=True):
        np.testing.assert_array_equal(boxes, np.reshape(wanted, (-1, 4)))
        assert boxes.dtype == np.float32


def int_columns(**columns: list):
    return {name: datasets.Value("int64") for name in columns}, columns


def saved(folder: Path, features=None, **columns: list) -> Path:
    made(features, **columns).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def test_labels_that_are_missing(tmp_path) -> None:
    assert data.load(saved(tmp_path / "a", label=[-1] * 5)).labels is None
    assert data.load(saved(tmp_path / "b", label=None)).labels is None
    bad: list[tuple[str, str]] = []
    found = data.load(saved(tmp_path / "c", label=[0, -1, None, 2, 1]), bad=bad)
    assert (found.ids, [id for id, _ in bad]) == ([PATHS[i] for i in (0, 3, 4)], PATHS[1:3])
    with pytest.raises(ValueError, match="row 1: expected a class as other"):
        data.load(tmp_path / "c/saved")


def test_wrong_rows_are_told_by_file_and_row(tmp_path) -> None:
    def refuses(name: str, match: str, features=None, **columns: list) -> None:
        path = saved(tmp_path / name, features, **columns)
        with pytest.raises(ValueError, match=match):
            data.load(path)
        bad: list[tuple[str, str]] = []
        assert len(data.load(path, bad=bad)) == 4
        assert len(bad) == 1

    for number, path in enumerate(("/etc/x.png", "../x.png", "a/../x.png", "", PATHS[1])):
        match = "comes twice" if path == PATHS[1] else "an id must be a relative path"
        columns = [*PATHS[:-1], path]
        if path == PATHS[1]:
            with pytest.raises(ValueError, match=match):
                data.load(saved(tmp_path / "twice", path=columns))
        else:
            refuses(f"path{number}", match, path=columns)
    refuses("none", r"row 4: expected path to be a text or a whole number, got None", path=[*PATHS[:-1], None])
    refuses("bytes", r"row 4: expected the bytes of the picture's file", image=[*IMAGES[:-1], None])
    sizes, columns = int_columns(width=[60] * 5, height=[40, 41, 42, 0, 44])
    refuses("size", r"row 3: expected positive whole numbers", sizes, **columns)
    feature = {"objects": {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32")))}}
    for name, box, match in (
        ("short", [1, 2, 3], "row 2: expected `bbox` x, y, width, height"),
        ("nan", [1, 2, float("nan"), 3], "is not finite"),
        ("negative", [9, 9, -5, 3], "ends before it begins"),
        ("left", [-9, 0, 10, 3], "lies outside the picture"),
    ):
        objects = [{"bbox": [box] if row == 2 else []} for row in range(5)]
        refuses(name, match, feature, objects=objects)


def test_labels_out_of_range(tmp_path) -> None:
    table = made().data.table
    column = table.schema.get_field_index("label")
    table = table.set_column(column, table.schema.field(column), pa.array([0, 1, 4, 2, 3]))
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(ValueError, match="row 2: expected a class from 0 to 3, got 4"):
        data.load(tmp_path)
    kinds = {"image_id": datasets.Value("int64"), "coarse": LABEL, "fine": LABEL}
    path = saved(tmp_path / "two", kinds, label=None, path=None, image_id=[7, 5, 3, 1, 0], coarse=LABELS, fine=LABELS)
    with pytest.raises(ValueError, match="expected one column of labels, or one called label; got coarse, fine"):
        data.load(path)


def test_pictures_go_through_the_trusted_decoder(tmp_path) -> None:
    images = [{"bytes": FILES[0][:-30], "path": "x.png"}, {"bytes": b"%PDF", "path": "y.png"}, *IMAGES[2:]]
    found = data.load(saved(tmp_path, image=images))
    for index, code in enumerate(("damaged", "unsupported")):
        with pytest.raises(DecodeError, match=rf"{code}: .*row {index}"):
            found[index]
    malformed, damaged = data.info(tmp_path / "saved", progress=False)[-2:]
    assert (malformed, [id for id, _ in damaged]) == ([], PATHS[:2])


def test_files_that_the_bytes_lie_in_are_not_led_elsewhere(tmp_path) -> None:
    path = saved(tmp_path / "a")
    other = saved(tmp_path / "b")
    state = json.loads((path / "state.json").read_text())
    for name in ("../../b/saved/data-00000-of-00001.arrow", str(next(other.glob("*.arrow"))), "x.txt", 3, None):
        (path / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
        with pytest.raises(ValueError, match=r"expected `_data_files` with names of \.arrow files beside it"):
            data.load(path)
    (path / "state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "gone.arrow"}]}))
    with pytest.raises(FileNotFoundError, match=r"gone\.arrow"):
        data.load(path)
    secret = tmp_path / "secret.png"
    secret.write_bytes(FILES[0])
    pq.write_table(made(image=[{"bytes": None, "path": str(secret)}] * 5).data.table, tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="row 0: expected the bytes of the picture's file"):
        data.load(tmp_path / "x.parquet", format="hf")
    (tmp_path / "x.parquet").rename(tmp_path / "x::http:y.parquet")
    with pytest.raises(ValueError, match="expected a path without `::`"):
        data.load(tmp_path / "x::http:y.parquet", format="hf")


def test_damage_is_told_and_never_breaks_the_reader(tmp_path) -> None:
    path = saved(tmp_path, {"objects": {"bbox": [[datasets.Value("float32")]]}}, objects=[{"bbox": BOXES}] * 5)
    rng, refused = np.random.default_rng(0), 0
    files = [path / "state.json", next(path.glob("*.arrow"))]
    for round in range(150):
        file = files[round % 2]
        good = file.read_bytes()
        damaged = bytearray(good)
        header = min(len(good), 4000) if round % 4 < 2 else len(good)
        for place in rng.integers(0, header, rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        file.write_bytes(damaged[: rng.integers(len(damaged))] if rng.random() < 0.2 else damaged)
        try:
            found = data.load(path)
            [found.truth(index) for index in range(len(found))]
        except (ValueError, FileNotFoundError) as error:
            refused += bool(str(error))
        file.write_bytes(good)
    assert refused > 50
    arrow = files[1].read_bytes()
    with pa.ipc.open_stream(arrow) as reader, pa.OSFile(str(files[1]), "wb") as sink:
        table = reader.read_all()
        with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    with pytest.raises(ValueError, match="compressed"):
        data.load(path)


def test_the_package_is_missing(tmp_path, monkeypatch) -> None:
    path = saved(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r'pip install "fastcam\[hf\]"'):
        data.load(path)


def test_localize(tmp_path) -> None:
    found = data.load(saved(tmp_path, image=[*IMAGES[:-1], {"bytes": b"", "path": "x"}]))
    options = {"config": CONFIG, "progress": False, "batch_size": 2, "shard_size": 2, "top_k": 1}
    summary = fastcam.localize(Tiny(), found, out=tmp_path / "out", **options)
    rows = pq.read_table(summary.path).to_pylist()
    assert [row["image_id"] for row in rows] == PATHS
    assert [row["status"] for row in rows] == ["ok"] * 4 + ["error"]
    for path, file in zip(PATHS, FILES, strict=True):
        (tmp_path / "files" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "files" / path).write_bytes(file)
    listed = [tmp_path / "files" / path for path in PATHS[:-1]]
    wanted = pq.read_table(fastcam.localize(Tiny(), listed, out=tmp_path / "wanted", **options).path).to_pylist()
    for row, other in zip(rows, wanted, strict=False):
        assert [row[name] for name in ("class_id", "score", "x0", "y0", "x1", "y1")] == [
            other[name] for name in ("class_id", "score", "x0", "y0", "x1", "y1")
        ]
    # So a run that stopped can go on, in any process: the pictures are places in a file.
    for item, file in zip(pq.read_table(tmp_path / "out/inputs.parquet").to_pylist(), [*FILES[:-1], b""], strict=True):
        place = slice(item["offset"], item["offset"] + item["length"])
        assert Path(os.fsdecode(item["path"])).read_bytes()[place] == file


# Several classes a picture

SEVERAL = [[0, 3], [], [2], [1, 2, 3], [3]]


@pytest.mark.parametrize("kind", ["ClassLabel", "numbers", "names", "another name"])
@pytest.mark.parametrize("parquet", [True, False])
def test_lists_of_classes(tmp_path, kind, parquet) -> None:
    names = {"ClassLabel": LABEL, "numbers": datasets.Value("int32"), "names": datasets.Value("string")}
    column = "tags" if kind == "another name" else "labels"
    values = SEVERAL if kind != "names" else [[NAMES[index] for index in one] for one in SEVERAL]
    source = made({column: datasets.Sequence(names.get(kind, LABEL))}, label=None, **{column: values})
    if parquet:
        source.to_parquet(tmp_path / "train.parquet")
    else:
        source.save_to_disk(str(tmp_path / "saved"), num_shards=2)
    found = data.load(tmp_path if parquet else tmp_path / "saved", format="hf")
    assert found.classes == [tuple(one) for one in SEVERAL]
    assert [found[index].classes for index in range(5)] == found.classes
    assert found.class_names == (tuple("0123") if kind == "numbers" else tuple(NAMES))
    assert found.labels == [None, None, 2, None, 3]  # which of several is the strongest, nothing tells


def test_names_are_numbered_in_their_order(tmp_path) -> None:
    tags = [["owl", "10"], ["9"], ["Ant", "owl"], [], ["10"]]
    found = data.load(saved(tmp_path, {"label": [datasets.Value("string")]}, label=tags))
    assert found.class_names == ("9", "10", "Ant", "owl")
    assert [[found.class_names[place] for place in one] for one in found.classes] == [
        ["10", "owl"], ["9"], ["Ant", "owl"], [], ["10"],
    ]  # fmt: skip


def test_objects_tell_all_classes(tmp_path) -> None:
    bbox = datasets.Sequence(datasets.Value("float32"), 4)
    objects = [{"bbox": boxes, "category": kinds} for boxes, kinds in zip(OF_EACH, CATEGORIES, strict=True)]
    feature = {"objects": {"bbox": datasets.Sequence(bbox), "category": datasets.Sequence(LABEL)}}
    found = data.load(saved(tmp_path / "a", feature, label=None, objects=objects))
    assert found.classes == [tuple(sorted(set(kinds))) for kinds in CATEGORIES]
    assert found.labels == [3, None, 3, 0, 2]
    one = data.load(saved(tmp_path / "b", feature, objects=objects))  # what a label is of, objects need not be
    assert (one.labels, one.classes) == (LABELS, None)
    feature["labels"] = [LABEL]
    several = data.load(
        saved(tmp_path / "c", feature, label=None, objects=objects, labels=[[1, 2, 3], [0], [3], [0], [2]])
    )
    assert several.classes == [(1, 2, 3), (0,), (3,), (0,), (2,)]
    assert several.labels == [3, 0, 3, 0, 2]
    path = saved(tmp_path / "d", feature, label=None, objects=objects, labels=[[3], [0], [3], [0], [2]])
    with pytest.raises(ValueError, match=r"row 0: objects of \[1, 3\], but labels \[3\]: expected them among these"):
        data.load(path)


def test_lists_beside_a_label(tmp_path) -> None:
    lists = [[*{label, 3}] for label in LABELS]
    found = data.load(saved(tmp_path / "a", {"labels": [LABEL]}, labels=lists))
    assert (found.labels, found.classes) == (LABELS, [tuple(sorted(one)) for one in lists])
    other = datasets.ClassLabel(names=["x", "y", "z", "w"])
    found = data.load(saved(tmp_path / "b", {"labels": [other]}, labels=lists))
    assert (found.labels, found.classes) == (LABELS, None)
    path = saved(tmp_path / "c", {"labels": [LABEL]}, labels=[[1], *lists[1:]])
    with pytest.raises(ValueError, match=r"row 0: label 0, but labels \[1\]: expected them among these"):
        data.load(path)


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (LABEL, [1, 1], r"expected each class in labels once, got \[1, 1\]"),
        (LABEL, [-1], "expected classes in labels, got -1"),
        (LABEL, [None], "expected classes in labels, got None"),
        (LABEL, None, "expected a class as other pictures have"),
        (datasets.Value("int64"), [3_000_000_000], "expected a class from 0 to 2147483647, got 3000000000"),
        (datasets.Value("string"), ["owl", "owl "], "expected each class in labels once"),
        (datasets.Value("string"), [" "], "expected names of classes, got ' '"),
    ],
)
def test_wrong_lists_of_classes(tmp_path, feature, value, message) -> None:
    values = [["owl"], ["ant", "owl"]] if getattr(feature, "dtype", "") == "string" else [[0], [1, 2]]
    path = saved(tmp_path, {"labels": [feature]}, label=None, labels=[*values, value, *values])
    with pytest.raises(ValueError, match=rf"row 2: {message}"):
        data.load(path)
    bad: list[tuple[str, str]] = []
    assert len(data.load(path, bad=bad)) == 4
    assert [id for id, _ in bad] == [PATHS[2]]


def test_names_of_lists_that_look_alike(tmp_path) -> None:
    path = saved(tmp_path, {"labels": [datasets.Value("string")]}, label=None, labels=[["owl"], ["Owl"], [], [], []])
    with pytest.raises(ValueError, match=r"row 1: class 'Owl' looks like 'owl' in .*row 0"):
        data.load(path)
