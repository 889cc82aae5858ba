"""`fastcam evaluate --protocol wsss`: a run, exports of it and other files beside class PNGs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import fastcam
from fastcam import data
from fastcam.evaluation.protocols import THRESHOLDS
from fastcam.evaluation.sources.segments import RunMaps, read_npz
from fastcam.export import MapTable, export
from fastcam.models import ModelConfig
from tests.support import segmentation, tables
from tests.support.commands import refused, run as command
from tests.support.evaluations import CLASSES, network
from tests.support.segmentation import NAMES, write_voc


def evaluated(source, maps, out, **options):
    options = {"protocol": "wsss", "batch_size": 2, "cases": 0, "progress": False} | options
    return fastcam.evaluate(source, maps=maps, out=out, **options)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, Path]:
    return write_voc(tmp_path_factory.mktemp("drawn"), 7)


@pytest.fixture
def own(tmp_path) -> tuple[Path, Path]:
    """A data set and a run that a test may spoil."""
    return write_voc(tmp_path / "own", 3)


def figures(metrics) -> dict:
    return {name: metrics[name] for name in ("figures", "best", "best_thresholds", "curves", "classes")}


def oracle(drawn, ids=None) -> np.ndarray:
    """Confusion matrices of the run's maps, or of some pictures', upsampled as `MapTable` does, at all thresholds."""
    voc, run = drawn
    maps: dict[str, list] = {}
    for one in MapTable(run):
        maps.setdefault(one.image_id, []).append((one.class_id + 1, one.at()))
    pictures = []
    for id, found in maps.items():
        if ids is not None and id not in ids:
            continue
        truth = np.array(Image.open(voc / "SegmentationClass" / f"{Path(id).stem}.png"))
        pictures.append((np.stack([map for _, map in found]), [value for value, _ in found], truth))
    return segmentation.confusion(pictures, THRESHOLDS, len(NAMES))


def test_a_run_with_maps_has_the_figures_of_confusion_matrices(drawn, tmp_path):
    voc, run = drawn
    done = evaluated(voc, run, tmp_path / "out", cases=2)
    wanted = np.nanmean(segmentation.shares(oracle(drawn))[0], 0)
    assert done.metrics["curves"]["mIoU"] == wanted.tolist()
    assert done.metrics["figures"]["mIoU"] == wanted[200]
    assert done.metrics["best_thresholds"] == {"mIoU": THRESHOLDS[wanted.argmax()]}
    assert [row["name"] for row in done.metrics["classes"]] == ["background", *NAMES]
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"metrics.json", "pictures.parquet", "miou.png", "cases.png"}
    assert json.loads((tmp_path / "out/metrics.json").read_text()) == json.loads(json.dumps(done.metrics))
    rows = pq.read_table(tmp_path / "out/pictures.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [f"{number}.jpg" for number in range(7)]
    for row in rows[1:3]:  # each picture alone, at the best threshold of all and at its own
        matrices = oracle(drawn, [row["image_id"]])
        alone = np.nanmean(segmentation.shares(matrices)[0], 0)
        assert row["iou"] == np.float32(alone[wanted.argmax()])
        assert row["best_iou"] == np.float32(alone.max())
        assert row["best_threshold"] == THRESHOLDS[alone.argmax()] or np.float32(alone.max()) == np.float32(
            alone[round(1000 * row["best_threshold"])]
        )


def test_exports_of_the_run_have_its_figures(drawn, tmp_path):
    """The maps as .npz have all of them, pseudo-labels as PNGs those of the level that they were written at."""
    voc, run = drawn
    whole = evaluated(voc, run, tmp_path / "run").metrics
    seeds = export(run, "wsss", tmp_path / "wsss").path
    for place in (seeds, seeds / "cam"):
        assert figures(evaluated(voc, place, tmp_path / "npz", overwrite=True).metrics) == figures(whole)
    for level in (None, 0.2, 0.5):
        chosen = {"threshold_from": tmp_path / "run/metrics.json"} if level is None else {"cuts": level}
        path = export(run, "labels", tmp_path / "labels", overwrite=True, **chosen).path
        got = evaluated(voc, path, tmp_path / "png", overwrite=True)
        threshold = whole["best_thresholds"]["mIoU"] if level is None else level
        assert got.metrics["figures"]["mIoU"] == whole["curves"]["mIoU"][round(1000 * threshold)]
        assert got.metrics["best_thresholds"] == got.metrics["curves"] == {}
    again = evaluated(voc, run, tmp_path / "again", threshold_from=tmp_path / "run/metrics.json")
    assert again.metrics["figures"]["mIoU"] == whole["figures"]["max mIoU"]


def test_the_truth_is_its_own_best_pseudo_label(drawn, tmp_path):
    voc, _ = drawn
    done = evaluated(voc, voc / "SegmentationClass", tmp_path / "out")
    assert done.metrics["figures"] == {"mIoU": 100, "precision": 100, "recall": 100}


def test_coarse_npz_and_other_names(drawn, tmp_path):
    """IRN's strided maps without the large ones; classes by the names of a classes.txt, whose order is another."""
    voc, run = drawn
    whole = evaluated(voc, run, tmp_path / "run").metrics
    seeds = export(run, "wsss", tmp_path / "wsss").path
    (seeds / "classes.txt").write_text("dog\ncat\nBee\nant\n")
    for path in (seeds / "cam").iterdir():
        with np.load(path) as stored:
            np.savez(path, keys=3 - stored["keys"], cam=stored["cam"])
    done = evaluated(voc, seeds, tmp_path / "npz").metrics
    assert done["figures"]["max mIoU"] == pytest.approx(whole["figures"]["max mIoU"], abs=3)
    assert [row["pictures"] for row in done["classes"]] == [row["pictures"] for row in whole["classes"]]


def test_parts_merged_and_a_resumed_run_are_the_whole(drawn, tmp_path, monkeypatch):
    voc, run = drawn
    whole = evaluated(voc, run, tmp_path / "whole").metrics
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        assert evaluated(voc, run, part, part=(number, 2)).metrics is None
    assert evaluated(voc, run, tmp_path / "merged", merge=parts[::-1]).metrics == whole
    look, calls = RunMaps.look, []

    def broken(self, place, what):
        calls.append(place)
        if place == 5 and len(calls) < 8:
            raise KeyboardInterrupt
        return look(self, place, what)

    monkeypatch.setattr(RunMaps, "look", broken)
    with pytest.raises(KeyboardInterrupt):
        evaluated(voc, run, tmp_path / "resumed", save_every=1, batch_size=1)
    calls += [0] * 8
    before = len(calls)
    assert evaluated(voc, run, tmp_path / "resumed", save_every=1, batch_size=1, resume=True).metrics == whole
    assert len(calls) - before < 7


def test_pictures_that_failed_in_the_run_are_background(own, tmp_path):
    voc, run = own
    rows = [row for row in pq.read_table(run / "boxes.parquet").to_pylist() if row["image_id"] != "1.jpg"]
    rows.insert(1, tables.error("1.jpg"))
    tables.write(run, rows, MapTable(run).info, cams=True)
    done = evaluated(voc, run, tmp_path / "out")
    assert done.pictures == 3
    assert done.missed == (("1.jpg", "truncated: 3 bytes are missing"),)
    truth = np.array(Image.open(voc / "SegmentationClass/1.png"))
    missed = {row["class"]: row for row in done.metrics["classes"]}
    for value in np.unique(truth[truth != 255]).tolist():
        assert missed[value]["pictures"] >= 1
        assert missed[value]["recall"] < 100 or value == 0


def write_labels(path: Path, labels: np.ndarray) -> None:
    Image.fromarray(labels.astype(np.uint8)).save(path)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda png: write_labels(png, np.zeros((48, 61))), r"1\.png has 61x48 pixels, its picture 60x48"),
        (
            lambda png: write_labels(png, np.full((48, 60), 5)),
            r"1\.png has class index 5, but there are 4 classes, 'ant'",
        ),
        (lambda png: write_labels(png, np.full((48, 60), 255)), "all pixels are to be ignored"),
        (lambda png: png.unlink(), r"no class PNG at .*1\.png"),
        (lambda png: png.write_bytes(b"no PNG"), r"SegmentationClass/1\.png: "),
        (lambda png: png.write_bytes(png.read_bytes()[:-40]), r"SegmentationClass/1\.png: the file is cut off"),
        (lambda png: Image.new("RGB", (60, 48)).save(png), r"1\.png: a PNG of indices, palette or grey, expected, got"),
        (lambda png: Image.new("I;16", (60, 48)).save(png), r"1\.png: a PNG of indices with 8 bits expected, got 16"),
        (lambda png: Image.new("L", (60, 48)).save(png, "JPEG"), r"1\.png: a PNG of indices expected, got JPEG"),
    ],
)
def test_class_pngs_that_are_none(own, tmp_path, spoil, told):
    spoil(own[0] / "SegmentationClass/1.png")
    with pytest.raises(ValueError, match=rf"^1\.jpg: .*{told}"):
        evaluated(*own, tmp_path / "out")
    done = evaluated(*own, tmp_path / "out", skip_bad=True)
    assert [id for id, _ in done.bad] == ["1.jpg"]
    assert done.pictures == 2


def test_maps_that_do_not_fit(own, tmp_path):
    voc, run = own
    table = pq.read_table(run / "boxes.parquet").to_pylist()
    info = MapTable(run).info

    def rows(**changes):
        return tables.write(run, [row | changes for row in table], info, cams=True)

    with pytest.raises(ValueError, match="class 9, 'owl', is none of those of the class PNGs, which are ant, bee"):
        evaluated(voc, rows(class_id=9, class_name="owl"), tmp_path / "out")
    with pytest.raises(ValueError, match="class 9 is none of the 4 classes"):
        evaluated(voc, rows(class_id=9, class_name=None), tmp_path / "out")
    with pytest.raises(ValueError, match=r"0\.jpg: .* has no map of it"):
        evaluated(voc, rows(cam=None, cam_height=None, cam_width=None), tmp_path / "out")
    with pytest.raises(ValueError, match=r"0\.jpg: .*0\.png has 60x48 pixels, its picture 61x48"):
        evaluated(voc, rows(width=61), tmp_path / "out")
    with pytest.raises(ValueError, match=r"^1\.jpg: no rows in"):
        evaluated(voc, tables.write(run, table[:1], info, cams=True), tmp_path / "out")
    twice = [*table, table[0] | {"image_id": "./0.jpg"}]
    with pytest.raises(ValueError, match=r"\./0\.jpg: rows of 0\.jpg, which has some already, in"):
        evaluated(voc, tables.write(run, twice, info, cams=True), tmp_path / "out")
    with pytest.raises(ValueError, match="has no maps: expected a run with `maps`"):
        evaluated(voc, tables.write(run, [tables.row("0.jpg")]), tmp_path / "out")


def test_a_run_may_have_pictures_that_are_not_measured(own, tmp_path):
    """Runs are over all pictures, class PNGs are there for some; the figures are those of these."""
    voc, run = own
    (voc / "ImageSets/Segmentation/some.txt").write_text("0\n2\n")
    done = evaluated(data.load(voc, "Segmentation/some"), run, tmp_path / "out")
    assert (done.pictures, done.bad) == (2, ())
    assert done.table[-1] == "1 pictures of the run are not in the data set"
    (voc / "SegmentationClass/1.png").unlink()
    skipped = evaluated(voc, run, tmp_path / "skipped", skip_bad=True)
    assert figures(skipped.metrics) == figures(done.metrics)


def test_npz_that_do_not_fit(own, tmp_path):
    voc, run = own
    cam = export(run, "wsss", tmp_path / "wsss").path / "cam"
    good = np.load(cam / "1.npz")["high_res"]
    keys = np.zeros(len(good), np.int64)
    for arrays, told in (
        ({"keys": keys, "high_res": good[:, :-1]}, r"has 60x47 pixels, its class PNG 60x48"),
        ({"keys": keys + 8, "high_res": good}, "has class 8: none of ant, bee, cat, dog"),
        ({"keys": keys, "high_res": good + 1}, r"must be in \[0, 1\]"),
        ({"keys": keys, "high_res": good[0]}, "expected keys, whole numbers"),
        ({"keys": keys[:0], "high_res": good}, "expected keys, whole numbers"),
        ({"high_res": good}, "is no .npz of keys and high_res or cam"),
        ({"keys": np.array([{}]), "high_res": good}, "is no .npz of keys"),
    ):
        np.savez(cam / "1.npz", **arrays)
        with pytest.raises(ValueError, match=rf"^1\.jpg: .*{told}"):
            evaluated(voc, cam, tmp_path / "out")
    (cam / "1.npz").unlink()
    with pytest.raises(ValueError, match=r"1\.jpg: no map: expected .*1\.npz"):
        evaluated(voc, cam, tmp_path / "out")
    shutil.rmtree(cam)
    cam.mkdir()
    with pytest.raises(ValueError, match=r"has no \.npz or \.png"):
        evaluated(voc, cam, tmp_path / "out")
    np.save(cam / "1.npy", {"keys": keys}, allow_pickle=True)
    with pytest.raises(ValueError, match=r"pickled dictionaries are not read, np\.savez"):
        evaluated(voc, cam, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no run or folder of maps"):
        evaluated(voc, tmp_path / "none", tmp_path / "out")


def test_class_pngs_in_another_folder(own, tmp_path):
    """For layouts that have none, with or without names; classes meet by number where there are none."""
    voc, run = own
    whole = evaluated(voc, run, tmp_path / "whole").metrics
    truth = tmp_path / "truth"
    shutil.copytree(voc / "SegmentationClass", truth)
    pictures = tmp_path / "list.csv"
    pictures.write_text("path\n0.jpg\n1.jpg\n2.jpg\n")
    with pytest.raises(ValueError, match="the data set has no class PNGs"):
        evaluated(pictures, run, tmp_path / "out")
    done = evaluated(pictures, run, tmp_path / "out", truth=truth)
    assert done.metrics["figures"] == whole["figures"]
    assert all(row["name"] == str(row["class"]) for row in done.metrics["classes"][1:])
    (truth / "classes.txt").write_text("_background_\ndog\ncat\nbee\nant\n")
    other = evaluated(pictures, run, tmp_path / "named", truth=truth).metrics  # by name: other classes than before
    assert other["figures"]["mIoU"] < whole["figures"]["mIoU"]
    with pytest.raises(FileNotFoundError, match="no folder of class PNGs"):
        evaluated(pictures, run, tmp_path / "x", truth=tmp_path / "none")
    with pytest.raises(ValueError, match="`truth` has the class PNGs of protocol wsss"):
        fastcam.evaluate(pictures, maps=run, out=tmp_path / "x", truth=truth)
    with pytest.raises(ValueError, match="protocol wsss measures `maps`"):
        fastcam.evaluate(voc, boxes=run / "boxes.parquet", out=tmp_path / "x", protocol="wsss")


def test_class_pngs_of_turned_pictures(own, tmp_path):
    """EXIF turns the picture: a class PNG of the stored one is turned along, one of the upright one stays."""
    voc, run = own
    whole = evaluated(voc, run, tmp_path / "whole").metrics
    rows = pq.read_table(run / "boxes.parquet").to_pylist()
    tables.write(run, [row | {"orientation": 6} for row in rows], MapTable(run).info, cams=True)
    assert figures(evaluated(voc, run, tmp_path / "upright").metrics) == figures(whole)
    for path in (voc / "SegmentationClass").iterdir():
        with Image.open(path) as image:
            stored = np.array(image.transpose(Image.Transpose.ROTATE_90))  # EXIF's 6 turns it back
        write_labels(path, stored)
    assert figures(evaluated(voc, run, tmp_path / "stored").metrics) == figures(whole)


def test_a_run_of_the_engine_with_several_classes_a_picture(drawn, tmp_path):
    """From `localize` with maps of the two highest classes to labels and their figures, with a network's own names."""
    voc, _ = drawn
    config = ModelConfig("tiny", CLASSES, size=32, class_names=("elk", *reversed(NAMES), "fox"))
    model, run = network(1), tmp_path / "run"
    options = {"out": run, "config": config, "top_k": 2, "maps": True, "relu": True, "progress": False}
    labelled = data.load(voc).labelled()
    model.classifier.bias.data[0] = 1e3  # always the highest
    fastcam.localize(model, labelled, **options)
    with pytest.raises(ValueError, match="class 0, 'elk', is none of those of the class PNGs"):
        evaluated(voc, run, tmp_path / "out")
    model.classifier.bias.data[[0, 5]] = -1e3  # never
    fastcam.localize(model, labelled, overwrite=True, **options)
    rows = pq.read_table(run / "boxes.parquet").to_pylist()
    assert len(rows) == 14
    done = evaluated(voc, run, tmp_path / "out", overwrite=True)
    categories = {1 + place: len(NAMES) - place for place in range(len(NAMES))}  # the network counts the other way
    made = export(run, "labels", tmp_path / "labels", categories=categories, cuts=0.3)
    (made.path / "classes.txt").unlink()  # which values these are is known
    again = evaluated(voc, made.path, tmp_path / "again")
    assert again.metrics["figures"]["mIoU"] == done.metrics["curves"]["mIoU"][300]


def test_the_command(drawn, tmp_path):
    voc, run = drawn
    common = ("evaluate", voc, "--protocol", "wsss", "--split", "Segmentation/train_all")
    done = command(*common, "--maps", run, "--cases", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "best τ = " in done.stdout
    assert any(line.startswith("background") for line in done.stdout.splitlines())
    metrics = tmp_path / "out/metrics.json"
    done = command("export", run, "--to", "labels", "--threshold-from", metrics, "--out", tmp_path / "labels")
    assert done.exit_code == 0, done.output
    again = command(
        *common, "--maps", tmp_path / "labels", "--out", tmp_path / "again", "--truth", voc / "SegmentationClass"
    )
    assert again.exit_code == 0, again.output
    best = json.loads(metrics.read_text())["figures"]["max mIoU"]
    assert json.loads((tmp_path / "again/metrics.json").read_text())["figures"]["mIoU"] == best
    assert "--percentile" in refused(*common, "--maps", run, "--percentile", 90, "--out", tmp_path / "x")
    assert "wsss measures `maps`" in refused(*common, "--boxes", run / "boxes.parquet", "--out", tmp_path / "x")


def test_names_and_splits_of_voc(tmp_path):
    voc, _ = write_voc(tmp_path, 3)
    assert data.load(voc, "Segmentation/train_all").segments.names == NAMES
    (voc / "classes.txt").unlink()
    names = data.load(voc).segments.names
    assert names == tuple(data.load(voc).class_names)
    for path in (voc / "Annotations").iterdir():
        path.write_text(path.read_text().replace(">ant<", ">person<").replace(">bee<", ">aeroplane<"))
    names = data.load(voc).segments.names
    assert len(names) == 20
    assert (names[0], names[14], names[19]) == ("aeroplane", "person", "tvmonitor")


def test_a_small_npz_does_not_become_a_large_array(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", keys=np.arange(3000), cam=np.zeros((3000, 100, 100), np.float32))
    with pytest.raises(ValueError, match="more than 254 maps of 20x30"):
        read_npz(tmp_path / "a.npz", (20, 30))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
