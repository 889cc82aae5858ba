"""Maps and boxes on disk: what is read, and what is refused with the picture's name."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fastcam
from fastcam import data as datasets
from fastcam.evaluation import PROTOCOLS
from fastcam.evaluation.sources import MapFolder, MapStore, MapWriter
from fastcam.runs.schema import Row, schema, to_table
from tests.support import oracle
from tests.support.evaluations import CLASSES, PROTOCOL, write_wsol


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch) -> None:
    """Which take longer than all else here, and are looked at elsewhere."""
    monkeypatch.setattr("fastcam.evaluation.outputs.plot_box_accuracy", lambda result, path: path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_wsol(tmp_path_factory.mktemp("wsol"), 9)


@pytest.fixture(scope="module")
def data(folder):
    return datasets.load(folder)


@pytest.fixture(scope="module")
def coarse() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((9, 5, 7)).astype(np.float32)


def evaluated(data, out, **options):
    options = {"protocol": PROTOCOL, "batch_size": 4, "bootstrap": 0, "cases": 0, "progress": False} | options
    return fastcam.evaluate(data, out=out, **options)


def figures(data, maps: np.ndarray) -> dict[str, float]:
    """The oracle's, of finished maps."""
    curves = []
    for place, values in enumerate(maps):
        truth = data.truth(place)
        boxes = [oracle.resize_box(box, truth.size, PROTOCOL.size) for box in truth.boxes.tolist()]
        curves.append(oracle.iou_curves("standard", values, boxes))
    curves = np.array(curves)
    found, _ = oracle.figures("standard", curves, 0.2)
    return found | {"mean IoU": 100 * curves[:, 0, 200].mean()}


def finished(coarse: np.ndarray) -> np.ndarray:
    return np.stack([oracle.upsample(map, PROTOCOL.size) for map in coarse])


def save_npy(folder: Path, ids, maps, suffix=True) -> Path:
    for id, map in zip(ids, maps, strict=True):
        path = folder / f"{id if suffix else os.path.splitext(id)[0]}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, map)
    return folder


# ---- a folder of .npy files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [True, False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_folder(data, coarse, tmp_path, suffix, dtype):
    maps = finished(coarse).astype(dtype)
    found = evaluated(data, tmp_path / "out", maps=save_npy(tmp_path / "maps", data.ids, maps, suffix))
    assert found.metrics["figures"] == pytest.approx(figures(data, maps), abs=1e-9)
    assert (found.pictures, found.bad) == (9, ())


BAD_MAPS = {
    "no map": lambda path, good: path.unlink(),
    "NaN or infinite": lambda path, good: np.save(path, np.where(good > 0.9, np.nan, good)),
    "outside": lambda path, good: np.save(path, good * 1.5),
    r"must be \[28, 36\]": lambda path, good: np.save(path, good[:-1]),
    r"floating \[H, W\], got float64 \[28, 36, 1\]": lambda path, good: np.save(path, good[..., None]),
    "is float32, others are float64": lambda path, good: np.save(path, good.astype(np.float32)),
    "got uint8": lambda path, good: np.save(path, (good * 255).astype(np.uint8)),
    r"no \.npy file": lambda path, good: path.write_bytes(b"not an array"),
    r"no \.npy file of numbers: Object": lambda path, good: np.save(path, good.astype(object), allow_pickle=True),
    "archive": lambda path, good: (np.savez(path.with_suffix(".npz"), good), path.with_suffix(".npz").rename(path)),
    "two maps": lambda path, good: np.save(path.with_name("004.npy"), good),
}


@pytest.mark.parametrize("reason", BAD_MAPS)
def test_bad_maps_are_named(data, coarse, tmp_path, reason):
    maps = save_npy(tmp_path / "maps", data.ids, finished(coarse))
    path = maps / "val" / "004.png.npy"
    BAD_MAPS[reason](path, np.load(path))
    with pytest.raises(ValueError, match=rf"^val/004\.png: .*{reason}"):
        evaluated(data, tmp_path / "out", maps=maps)
    found = evaluated(data, tmp_path / "out", maps=maps, skip_bad=True)
    assert [id for id, _ in found.bad] == ["val/004.png"]
    assert found.pictures == 8
    others = [place for place in range(9) if place != 4]
    assert found.metrics["figures"] == pytest.approx(figures(data.subset(others), finished(coarse)[others]), abs=1e-9)


def test_maps_without_a_picture(data, coarse, tmp_path):
    maps = save_npy(tmp_path / "maps", [*data.ids, "val/x.png"], finished(coarse[[*range(9), 0]]))
    with pytest.raises(ValueError, match=r"^val/x\.png\.npy: a map in .* without a picture .*such as val/a/000\.png"):
        evaluated(data, tmp_path / "out", maps=maps)
    found = evaluated(data, tmp_path / "out", maps=maps, skip_bad=True)
    assert ([id for id, _ in found.bad], found.pictures) == (["val/x.png.npy"], 9)
    with pytest.raises(FileNotFoundError, match="no file or folder of maps"):
        evaluated(data, tmp_path / "x", maps=tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match="no folder of maps"):
        MapFolder(tmp_path / "nowhere", data)


# ---- the compact store -----------------------------------------------------------------------------------------------


def write_store(path: Path, data, coarse, order=range(9), dtype="float32", ranks=None, **info) -> Path:
    with MapWriter(path, {"targets": "label", "relu": False} | info, dtype) as writer:
        for place in order:
            rank = None if ranks is None else [ranks[place]]
            writer.write([data.ids[place]], torch.from_numpy(coarse[[place]]), [data.labels[place]], rank)
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("relu", [True, False])
def test_store(data, coarse, tmp_path, dtype, relu):
    order = np.random.default_rng(1).permutation(9).tolist()
    path = write_store(tmp_path / "maps" / "maps.parquet", data, coarse, order, dtype, relu=relu)
    kept = coarse.astype(dtype).astype(np.float32)
    wanted = figures(data, finished(kept.clip(0) if relu else kept))
    found = evaluated(data, tmp_path / "out", maps=path.parent if relu else path).metrics
    assert found["figures"] == pytest.approx(wanted, abs=1e-9)
    ids = [row["image_id"] for row in pq.read_table(tmp_path / "out" / "pictures.parquet").to_pylist()]
    assert ids == data.ids
    table = pq.read_table(path)
    assert table.schema.names == ["image_id", "class_id", "rank", "height", "width", "map"]
    assert len(table["map"][0].as_py()) == 35 * np.dtype(dtype).itemsize


def test_store_keeps_ranks(data, coarse, tmp_path):
    ranks = [1, 2, 3, 4, 5, 6, 1, 1, 2]
    path = write_store(tmp_path / "maps.parquet", data, coarse, ranks=ranks)
    found = evaluated(data, tmp_path / "out", maps=path).metrics
    assert found["figures"]["Top-1 Cls"] == pytest.approx(100 * 3 / 9)
    assert found["figures"]["Top-5 Cls"] == pytest.approx(100 * 8 / 9)
    assert found["counts"]["with scores"] == 9


def test_store_is_read_in_groups(data, coarse, tmp_path, monkeypatch):
    monkeypatch.setattr("fastcam.evaluation.sources.store._GROUP", 2)
    path = write_store(tmp_path / "maps.parquet", data, coarse, [3, 1, 0, 2, 8, 7, 5, 4, 6])
    assert pq.ParquetFile(path).num_row_groups == 5
    store = MapStore(path, data)
    for positions in (range(9), range(2, 7), [0, 3, 8]):
        jobs = list(store.jobs(positions))
        assert [place for place, _ in jobs] == [store.order[position] for position in positions]
        for loaded in map(store.load, jobs):
            np.testing.assert_array_equal(loaded.content.map, coarse[loaded.place])
    with MapWriter(tmp_path / "copy.parquet", {}) as writer:
        writer.write(["first"], coarse[:1], [None])
        writer.copy(path)
    names = pq.read_table(tmp_path / "copy.parquet")["image_id"].to_pylist()
    assert names == ["first", *(data.ids[place] for place in [3, 1, 0, 2, 8, 7, 5, 4, 6])]


def test_writer_leaves_nothing_behind_when_it_fails(data, coarse, tmp_path):
    with pytest.raises(ValueError, match="zip"), MapWriter(tmp_path / "maps.parquet") as writer:
        writer.write(data.ids, coarse, data.labels[1:])
    with (
        pytest.raises(ValueError, match=r"^val/001\.png: .*float16"),
        MapWriter(tmp_path / "m", {}, "float16") as writer,
    ):
        writer.write(data.ids[:2], np.stack([coarse[0], coarse[1] + 1e6]), [0, 1])
    with pytest.raises(ValueError, match="float32, float16"):
        MapWriter(tmp_path / "m", {}, "float64")
    assert list(tmp_path.iterdir()) == []


def test_bad_stores(data, coarse, tmp_path):
    def refused(path: Path, match: str, **options) -> None:
        with pytest.raises(ValueError, match=match):
            evaluated(data, tmp_path / "out", maps=path, **options)

    def changed(change) -> Path:
        table = pq.read_table(write_store(tmp_path / "good.parquet", data, coarse))
        rows = table.to_pylist()
        change(rows)
        pq.write_table(pa.Table.from_pylist(rows, table.schema), tmp_path / "bad.parquet")
        return tmp_path / "bad.parquet"

    refused(changed(lambda rows: rows.pop(4)), r"^val/004\.png: no map in")
    refused(changed(lambda rows: rows.append(rows[2])), r"^val/002\.png: two maps in")
    refused(changed(lambda rows: rows[1].update(image_id="x")), r"^x: a map in .* without a picture")
    refused(changed(lambda rows: rows[1].update(class_id=5)), r"^val/001\.png: .*is of class 5, its label is 1")
    refused(changed(lambda rows: rows[1].update(map=b"1234")), r"^val/001\.png: .*got 4 bytes")
    refused(
        changed(lambda rows: rows[1].update(height=7, width=5)), r"^val/001\.png: .*is \[7, 5\], others are \[5, 7\]"
    )
    found = evaluated(data, tmp_path / "b", maps=changed(lambda rows: rows.pop(4)), skip_bad=True)
    assert ([id for id, _ in found.bad], found.pictures) == (["val/004.png"], 8)
    plain = pa.table({"image_id": data.ids})
    pq.write_table(plain, tmp_path / "plain.parquet")
    refused(tmp_path / "plain.parquet", "no store of maps")
    (tmp_path / "text.parquet").write_text("no")
    refused(tmp_path / "text.parquet", "no store of maps")
    rules = PROTOCOLS["rethinking"]._replace(size=PROTOCOL.size)
    refused(tmp_path / "good.parquet", "has maps of whole pictures, the protocol is for the centre", protocol=rules)
    with MapWriter(tmp_path / "empty.parquet", {}):
        pass
    refused(tmp_path / "empty.parquet", r"^val/a/000\.png: no map in")
    with pytest.raises(FileNotFoundError):
        MapStore(tmp_path / "nowhere", data)


# ---- boxes -----------------------------------------------------------------------------------------------------------


def row(data, place: int, box, rank=1, class_id=None, scale=1) -> Row:
    """A row as `fastcam localize` writes it, of a picture stored at `scale` of the size that the truth speaks of."""
    width, height = data.truth(place).size
    class_id = data.labels[place] if class_id is None else class_id
    box = [edge * scale for edge in box]
    return Row(data.ids[place], int(width * scale), int(height * scale), rank, class_id, None, 0.5, *box)


def write_boxes(path: Path, rows) -> Path:
    pq.write_table(to_table(rows, schema(maps=False)), path)
    return path


def expected_iou(data, place: int, box) -> float:
    """Of a box with the best true box, in the frame of the maps."""
    truth = data.truth(place)
    (width, height), (frame_height, frame_width) = truth.size, PROTOCOL.size
    scale = (frame_width / width, frame_height / height) * 2
    x0, y0, x1, y1 = (round(edge * by) for edge, by in zip(box, scale, strict=True))
    shown = (x0, y0, min(x1, frame_width - 1), min(y1, frame_height - 1))
    return oracle.best_iou([shown], [oracle.resize_box(b, truth.size, PROTOCOL.size) for b in truth.boxes.tolist()])


def near_truth(data, seed: int = 0) -> list[tuple[float, ...]]:
    """A box for each picture, some near a true one, some not, in whole pixels of the frame of the maps."""
    rng, boxes = np.random.default_rng(seed), []
    for place in range(len(data)):
        truth = data.truth(place)
        x0, y0, x1, y1 = oracle.resize_box(truth.boxes[0].tolist(), truth.size, PROTOCOL.size)
        x0, y0 = max(0, x0 + int(rng.integers(-3, 4))), max(0, y0 + int(rng.integers(-3, 4)))
        x1, y1 = (
            min(36, max(x0 + 2, x1 + int(rng.integers(-6, 4)))),
            min(28, max(y0 + 2, y1 + int(rng.integers(-6, 4)))),
        )
        width, height = truth.size
        boxes.append((x0 * width / 36, y0 * height / 28, x1 * width / 36, y1 * height / 28))
    return boxes


def test_boxes_of_the_true_classes(data, tmp_path):
    boxes, ranks = near_truth(data), [1, 2, 3, 4, 5, 6, 1, 1, 2]
    rows = [row(data, place, boxes[place], ranks[place], scale=2) for place in reversed(range(9))]
    found = evaluated(data, tmp_path / "out", boxes=write_boxes(tmp_path / "boxes.parquet", rows), cases=2)
    iou = np.array([expected_iou(data, place, boxes[place]) for place in range(9)])
    ranks = np.array(ranks)
    wanted = {f"BoxAcc {delta}": 100 * (iou >= delta / 100).mean() for delta in (30, 50, 70)}
    assert 0 < wanted["BoxAcc 50"] < 100
    wanted |= {"GT-known Loc": wanted["BoxAcc 50"], "mean IoU": 100 * iou.mean()}
    for k in (1, 5):
        wanted[f"Top-{k} Cls"] = 100 * (ranks <= k).mean()
        wanted[f"Top-{k} Loc"] = 100 * ((ranks <= k) & (iou >= 0.5)).mean()
    assert found.metrics["figures"] == pytest.approx(wanted, abs=1e-9)
    assert found.metrics["curves"] == {}
    table = pq.read_table(tmp_path / "out" / "pictures.parquet").to_pylist()
    np.testing.assert_allclose([entry["iou"] for entry in table], iou, atol=1e-6)
    assert not (tmp_path / "out" / "box_accuracy.png").exists()
    assert "boxes over picture" in (tmp_path / "out" / "gallery.html").read_text()


def test_boxes_of_the_highest_classes(data, tmp_path):
    """The true class is among the first two for some; Top-5 is not known then, nor is GT-known Loc."""
    boxes, other = near_truth(data), near_truth(data, 1)
    rows, places = [], {1: [0, 3, 4], 2: [1, 5], 0: [2, 6, 7, 8]}  # by rank of the true class, 0 for none
    for rank, chosen in places.items():
        for place in chosen:
            classes = [c for c in range(CLASSES) if c != data.labels[place]][:2]
            if rank:
                classes[rank - 1] = data.labels[place]
            pair = (boxes[place], other[place]) if rank != 2 else (other[place], boxes[place])
            rows += [row(data, place, pair[r], r + 1, classes[r]) for r in (0, 1)]
    path = write_boxes(tmp_path / "boxes.parquet", rows)
    found = evaluated(data, tmp_path / "a", boxes=path).metrics["figures"]
    right = [place for place in places[1] if expected_iou(data, place, boxes[place]) >= 0.5]
    assert found == pytest.approx({"Top-1 Cls": 100 * 3 / 9, "Top-1 Loc": 100 * len(right) / 9})
    found = evaluated(data, tmp_path / "b", boxes=path, targets="highest").metrics["figures"]
    top = [other[place] if place in places[2] else boxes[place] for place in range(9)]
    iou = np.array([expected_iou(data, place, top[place]) for place in range(9)])
    wanted = {f"BoxAcc {delta}": 100 * (iou >= delta / 100).mean() for delta in (30, 50, 70)}
    assert found == pytest.approx(wanted | {"mean IoU": 100 * iou.mean()})


def test_errors_of_a_run_are_misses(data, tmp_path):
    boxes = near_truth(data)
    rows = [row(data, place, boxes[place]) for place in range(9)]
    rows[2] = Row(data.ids[2], status="error", error="damaged: the file is empty")
    rows[4] = row(data, 4, (0, 0, 0, 0))  # a constant map has no box
    found = evaluated(data, tmp_path / "a", boxes=write_boxes(tmp_path / "boxes.parquet", rows))
    iou = [expected_iou(data, place, boxes[place]) * (place not in (2, 4)) for place in range(9)]
    assert found.metrics["figures"]["BoxAcc 50"] == pytest.approx(100 * (np.array(iou) >= 0.5).mean())
    assert found.metrics["figures"]["Top-1 Cls"] == pytest.approx(100 * 8 / 9)
    assert found.missed == (("val/002.png", "damaged: the file is empty"),)
    assert found.metrics["errors"] == [("val/002.png", "damaged: the file is empty")]
    assert (found.bad, found.pictures) == ((), 9)


def test_of_several_boxes_of_a_class_the_first_counts(data, tmp_path):
    boxes, other = near_truth(data), near_truth(data, 1)
    rows = [row(data, place, boxes[place])._replace(box=1) for place in range(9)]
    several = [one for place in range(9) for one in (rows[place], row(data, place, other[place])._replace(box=2))]
    wanted = evaluated(data, tmp_path / "a", boxes=write_boxes(tmp_path / "one.parquet", rows)).metrics["figures"]
    found = evaluated(data, tmp_path / "b", boxes=write_boxes(tmp_path / "two.parquet", several)).metrics["figures"]
    assert found == wanted


def test_bad_tables_of_boxes(data, tmp_path):
    boxes = near_truth(data)

    def table(change) -> Path:
        rows = [row(data, place, boxes[place]) for place in range(9)]
        return write_boxes(tmp_path / "boxes.parquet", change(rows) or rows)

    for change, match in (
        (lambda rows: rows[:4] + rows[5:], r"^val/004\.png: no box in"),
        (lambda rows: [*rows, rows[4]], r"^val/004\.png: two rows of class 4 in"),
        (lambda rows: [*rows[:5], rows[4], *rows[5:]], r"^val/004\.png: two rows of class 4 in"),
        (
            lambda rows: [*rows, rows[4]._replace(image_id="004.png")],
            r"^004\.png: a row without a picture .*such as val/",
        ),
        (lambda rows: [rows[0]._replace(x0=9.0, x1=3.0), *rows[1:]], r"^val/a/000\.png: box 9, .* is none in"),
        (lambda rows: [rows[0]._replace(x1=1e9), *rows[1:]], r"^val/a/000\.png: box .* is none in"),
        (lambda rows: [rows[0]._replace(y0=float("nan")), *rows[1:]], r"^val/a/000\.png: box .*nan"),
        (lambda rows: [rows[0]._replace(rank=None), *rows[1:]], r"^val/a/000\.png: a row with empty columns"),
    ):
        path = table(change)
        with pytest.raises(ValueError, match=match):
            evaluated(data, tmp_path / "out", boxes=path, overwrite=True)
        found = evaluated(data, tmp_path / "out", boxes=path, skip_bad=True, overwrite=True)
        assert len(found.bad) == 1
        assert found.pictures == (9 if found.bad[0][0] == "004.png" else 8)
    pq.write_table(pa.table({"image_id": data.ids}), tmp_path / "plain.parquet")
    with pytest.raises(ValueError, match="no table of boxes"):
        evaluated(data, tmp_path / "x", boxes=tmp_path / "plain.parquet")
    with pytest.raises(FileNotFoundError, match="no table of boxes"):
        evaluated(data, tmp_path / "x", boxes=tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["maps", "boxes"])
def test_parts_of_what_is_on_disk(data, coarse, tmp_path, kind):
    if kind == "maps":
        path = write_store(tmp_path / "maps.parquet", data, coarse, [3, 1, 0, 2, 8, 7, 5, 4, 6])
    else:
        rows = [row(data, place, box) for place, box in enumerate(near_truth(data))]
        path = write_boxes(tmp_path / "boxes.parquet", rows)
    whole = evaluated(data, tmp_path / "whole", **{kind: path})
    for part in (1, 2):
        evaluated(data, tmp_path / str(part), part=(part, 2), **{kind: path})
    merged = evaluated(data, tmp_path / "merged", merge=[tmp_path / "1", tmp_path / "2"], **{kind: path})
    assert merged.metrics == whole.metrics
    tables = [pq.read_table(tmp_path / name / "pictures.parquet") for name in ("whole", "merged")]
    assert tables[0] == tables[1]
