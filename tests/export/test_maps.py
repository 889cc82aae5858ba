"""Maps that a run kept: read back, upsampled, and written for other tools."""

import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torchvision import transforms

from fastcam import data
from fastcam.evaluation.evaluate import evaluate
from fastcam.evaluation.sources import MapWriter
from fastcam.export import MapTable, check_formats, export
from fastcam.export.maps import Upsampler
from tests.support import tables
from tests.support.maps import SIZES, coarse, finished, write_run
from tests.support.tables import INFO, row


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run")


@pytest.mark.parametrize("statistics", [True, False])
def test_map_table(run, statistics):
    whole = pq.read_table(run / "boxes.parquet")
    pq.write_table(whole, run / "boxes.parquet", row_group_size=2, write_statistics=statistics)
    table = MapTable(run)
    assert len(table) == 4
    wanted = [("a/x.jpg", 3, 1), ("a/x.jpg", 1, 2), ("b/x.jpg", 0, 1), ("b/z.png", 2, 1)]
    for got in (list(table), [table[index] for index in range(4)], [table[index - 4] for index in range(4)]):
        assert [(one.image_id, one.class_id, one.rank) for one in got] == wanted
        for index, one in enumerate(got):
            np.testing.assert_array_equal(one.values, coarse(index))
            assert one.values.dtype == np.float32
    assert [table[index].image_id for index in (3, 0, 2)] == ["b/z.png", "a/x.jpg", "b/x.jpg"]
    for index in (4, -5):
        with pytest.raises(IndexError, match="there are 4 maps"):
            table[index]
    assert pickle.loads(pickle.dumps(table))[1].class_id == 1


def test_maps_are_upsampled_when_asked_for(run):
    table = MapTable(run)
    for index, size in enumerate((SIZES[0], SIZES[0], SIZES[1], SIZES[2])):
        one = table[index]
        assert one.picture == size
        for given, shape in ((None, size[::-1]), (224, (224, 224)), ((3, 90), (3, 90))):
            got = one.at(given)
            assert got.dtype == np.float32
            assert got.shape == shape
            np.testing.assert_allclose(got, finished(coarse(index), shape), atol=2e-6)
    with pytest.raises(ValueError, match="size"):
        table[0].at(0)


def test_the_rule_is_that_of_the_run(tmp_path):
    rows = [row("a.jpg", cam=coarse(0))]
    for changes, options in (
        ({"relu": True}, {"relu": True}),
        ({"method": "gradcam"}, {"relu": True}),  # as this method has it
        ({"relu": False, "method": "gradcam"}, {}),
        ({"mode": "bicubic"}, {"mode": "bicubic"}),
    ):
        table = MapTable(tables.write(tmp_path / "run", rows, INFO | changes, cams=True))
        if "mode" in options:  # PyTorch has another cubic kernel than OpenCV
            cubic = cv2.resize(coarse(0).astype(np.float64), (60, 80), interpolation=cv2.INTER_CUBIC)
            wanted = (cubic - cubic.min()) / (cubic.max() - cubic.min())
        else:
            wanted = finished(coarse(0), (80, 60), **options)
        np.testing.assert_allclose(table[0].at((80, 60)), wanted, atol=1e-5)
    path = tables.write(tmp_path / "run", rows, {}, cams=True)
    with pytest.raises(ValueError, match="give `relu`"):
        MapTable(path)
    np.testing.assert_allclose(MapTable(path, relu=True)[0].at(9), finished(coarse(0), (9, 9), True), atol=2e-6)


@pytest.mark.parametrize("size", [(200, 100), (90, 131)])
def test_maps_of_the_centre_lie_where_the_network_looked(size, tmp_path):
    """The frame as torchvision crops it, sampled at the centre of each pixel of the picture."""
    info = INFO | {"resize": "crop"}
    one = MapTable(tables.write(tmp_path / "run", [row("a.jpg", size=size, cam=coarse(0))], info, cams=True))[0]
    places = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1])), -1).astype(np.float32)  # x, y of each pixel
    crop = transforms.Compose([transforms.Resize(73, antialias=False), transforms.CenterCrop(64)])
    seen = crop(torch.from_numpy(places).permute(2, 0, 1)).numpy()
    x, y = (np.interp(np.arange(side), seen[axis].mean(axis), np.arange(64)) for axis, side in enumerate(size))
    frame = finished(coarse(0), (64, 64))
    wanted = ndimage.map_coordinates(frame, np.stack(np.meshgrid(y, x, indexing="ij")), order=1, mode="nearest")
    inside = np.zeros(size[::-1], bool)
    left, top, right, bottom = (*seen[:, 0, 0], *seen[:, -1, -1])
    inside[int(top) + 1 : int(bottom), int(left) + 1 : int(right)] = True
    got = one.at()
    np.testing.assert_allclose(got[inside], wanted[inside], atol=0.02)
    far = ~ndimage.binary_dilation(inside, iterations=4)
    assert far.any()
    assert not got[far].any()
    shrunk = one.at((50, 100))
    assert shrunk.shape == (50, 100)
    unknown = one._replace(picture=None)
    with pytest.raises(ValueError, match="does not tell"):
        unknown.at()
    with pytest.raises(ValueError, match="pictures' centres"):
        unknown.at(224)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_store_of_evaluations_is_read_too(dtype, tmp_path):
    maps = np.stack([coarse(index) for index in range(3)]).astype(np.float32) / 3
    info = {"relu": True, "targets": "label"}
    with MapWriter(tmp_path / "maps.parquet", info, dtype) as writer:
        writer.write(["a", "b", "c"], maps, [5, None, 6], [1, None, 2])
    table = MapTable(tmp_path / "maps.parquet")
    assert [(one.image_id, one.class_id, one.rank, one.picture) for one in table] == [
        ("a", 5, 1, None), ("b", None, None, None), ("c", 6, 2, None),
    ]  # fmt: skip
    for one, values in zip(table, maps, strict=True):
        np.testing.assert_array_equal(one.values, values.astype(dtype))
        np.testing.assert_allclose(one.at(32), finished(values.astype(dtype), (32, 32), relu=True), atol=2e-6)


def test_tables_without_maps_and_damaged_ones(run, tmp_path):
    bare = tables.write(tmp_path / "bare", [row("a.jpg")])
    with pytest.raises(ValueError, match="has no maps"):
        MapTable(bare)
    with pytest.raises(ValueError, match="wsss is made of maps"):
        export(bare, "wsss")
    with pytest.raises(FileNotFoundError):
        MapTable(tmp_path / "none")
    for changes in ({"cam_height": 8}, {"cam": b""}, {"cam_width": None}):
        broken = tables.write(tmp_path / "broken", [row("a.jpg", cam=coarse(0)) | changes], cams=True)
        with pytest.raises(ValueError, match=r"a\.jpg: a map of .* expected, got"):
            list(MapTable(broken))
        with pytest.raises(ValueError, match=r"a\.jpg: a map of .* expected, got"):
            export(broken, "npy", overwrite=True)


def test_png(run):
    done = export(run, "png")
    assert (done.pictures, done.errors, done.left_out) == (3, 1, 1)
    assert done.examples == (("b/none.png", "it has no map"),)
    for name, index, size in (("a/x.jpg", 0, SIZES[0]), ("b/x.jpg", 2, SIZES[1]), ("b/z.png", 3, SIZES[2])):
        got = cv2.imread(str(done.path / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        assert got.shape == size[::-1]
        assert got.dtype == np.uint8
        assert np.abs(got - np.floor(255 * finished(coarse(index), size[::-1]))).max() <= 1
        assert (got.min(), got.max()) == (0, 255)
    export(run, "png", overwrite=True, size=32)
    assert cv2.imread(str(done.path / "b/x.jpg.png"), cv2.IMREAD_UNCHANGED).shape == (32, 32)


def test_npy(run):
    done = export(run, "npy")
    assert sorted(path.relative_to(done.path).as_posix() for path in done.path.rglob("*.npy")) == [
        "a/x.jpg.npy", "b/x.jpg.npy", "b/z.png.npy",
    ]  # fmt: skip
    got = np.load(done.path / "a/x.jpg.npy", allow_pickle=False)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, finished(coarse(0), (224, 224)), atol=2e-6)
    export(run, "npy", overwrite=True, size="picture")
    got = np.load(done.path / "b/x.jpg.npy", allow_pickle=False)
    np.testing.assert_allclose(got, finished(coarse(2), SIZES[1][::-1]), atol=2e-6)


def test_npy_and_wsol_of_a_run_are_a_data_set_and_maps_for_the_evaluator(tmp_path):
    """The run's boxes as truth, its maps to be measured: all are found."""
    rows = []
    for index in range(6):
        cam = np.zeros((14, 14), np.float16)
        left, top = 1 + index, 9 - index
        cam[top : top + 3, left : left + 3] = 1
        level = finished(cam, (224, 224)) > 0.5
        across, down = np.flatnonzero(level.any(0)), np.flatnonzero(level.any(1))
        box = np.array([across[0], down[0], across[-1] + 1, down[-1] + 1]) / 224 * (200, 100, 200, 100)
        Image.new("RGB", (200, 100)).save(tmp_path / f"{index}.png")
        rows.append(row(f"{index}.png", box, index % 2, cam=cam))
    run = tables.write(tmp_path / "run", rows, cams=True)
    truth = data.load(export(run, "wsol").path, images=tmp_path)
    summary = evaluate(truth, maps=export(run, "npy").path, out=tmp_path / "out", bootstrap=10, cases=0, progress=False)
    assert summary.pictures == 6
    assert not summary.bad
    assert summary.metrics["figures"]["MaxBoxAcc"] == 100


def test_constant_maps_and_those_that_are_not_finite_are_zero(tmp_path):
    cams = [np.full((3, 3), 5, np.float16), np.full((3, 3), np.nan, np.float16)]
    rows = [row(f"{index}.jpg", cam=cam, size=(8, 8)) for index, cam in enumerate(cams)]
    run = tables.write(tmp_path / "run", rows, cams=True)
    assert not any(one.at().any() for one in MapTable(run))
    for index in range(2):
        labels = np.array(Image.open(export(run, "wsss", overwrite=True).path / f"labels/{index}.png"))
        assert not labels.any()


def test_nothing_written_needs_pickle(run):
    for format in ("npy", "wsss"):
        for path in export(run, format).path.rglob("*.np[yz]"):
            loaded = np.load(path, allow_pickle=False)
            arrays = [loaded] if isinstance(loaded, np.ndarray) else [loaded[name] for name in loaded.files]
            assert all(array.dtype.kind in "fi" for array in arrays)


@pytest.mark.parametrize("format", ["png", "npy", "wsss"])
def test_ids_cannot_lead_out_of_the_folder(format, tmp_path):
    run = tables.write(tmp_path / "deep/run", [row("../x.jpg", (1, 2, 3, 4), cam=coarse(0))], cams=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="must be a relative path"):
        export(run, format)
    assert sorted(tmp_path.rglob("*")) == before


def test_what_a_folder_says_of_itself(run):
    mark = json.loads((export(run, "npy").path / "fastcam-export.json").read_text())
    assert (mark["format"], mark["arch"], mark["threshold"]) == ("npy", "tiny", 0.2)
    check_formats(["npy"], maps=True)
    assert Upsampler.of(INFO) == Upsampler(False, "bilinear", None)
