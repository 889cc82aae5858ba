"""Maps drawn to the edges of their pictures: in exports and evaluations, beside plain scripts and planted truth."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import fastcam
from fastcam import data
from fastcam.data import Sample
from fastcam.export import MapTable, export
from fastcam.reference import refine as twin
from fastcam.refinement import crf, refined, thread_each
from tests.support import tables
from tests.support.commands import run as command
from tests.support.maps import coarse
from tests.support.reports import listed
from tests.support.segmentation import labels_of, write_voc

LEVEL = 0.3


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> tuple[Path, Path]:
    return write_voc(tmp_path_factory.mktemp("drawn"), 7, size=(88, 64))


@pytest.fixture
def own(tmp_path) -> tuple[Path, Path]:
    """A data set and a run that a test may spoil."""
    return write_voc(tmp_path / "own", 4)


def by_script(drawn) -> dict[str, tuple[list[int], np.ndarray]]:
    """Picture by picture: classes, and their maps refined by the plain twin."""
    voc, run = drawn
    maps: dict[str, list] = {}
    for one in MapTable(run):
        maps.setdefault(one.image_id, []).append((one.class_id, one.at()))
    found = {}
    for id, several in maps.items():
        pixels = torch.from_numpy(np.array(Image.open(voc / "JPEGImages" / id))).permute(2, 0, 1)[None]
        stacked = torch.from_numpy(np.stack([map for _, map in several]))[None]
        found[id] = [key for key, _ in several], twin(stacked, pixels)[0].numpy()
    return found


def evaluated(drawn, out, maps=None, **options) -> dict:
    voc, run = drawn
    options = {"protocol": "wsss", "batch_size": 2, "cases": 0, "progress": False} | options
    return fastcam.evaluate(voc, maps=maps or run, out=out, **options).metrics


def figures(metrics) -> dict:
    return {name: metrics[name] for name in ("figures", "best", "best_thresholds", "curves", "classes")}


def test_labels_are_those_of_a_plain_script_to_the_last_pixel(drawn, tmp_path):
    voc, run = drawn
    before = (run / "boxes.parquet").read_bytes()
    seeds = export(run, "wsss", tmp_path / "wsss", refine="pamr", images=voc / "JPEGImages", cuts=LEVEL)
    plain = export(run, "labels", tmp_path / "labels", refine="pamr", images=voc / "JPEGImages", cuts=(LEVEL, 0.5))
    assert (seeds.pictures, seeds.left_out, plain.pictures, plain.left_out) == (7, 0, 7, 0)
    for id, (keys, maps) in by_script(drawn).items():
        ordered = np.sort(np.concatenate([np.full((1, *maps.shape[1:]), LEVEL), maps]), 0)
        assert (ordered[-1] - ordered[-2]).min() > 1e-6  # no pixel hangs on rounding
        wanted = labels_of(maps, [key + 1 for key in keys], LEVEL)
        name = f"{Path(id).stem}.png"
        got = np.array(Image.open(seeds.path / "labels" / name))
        np.testing.assert_array_equal(got, wanted)
        band = np.where((maps.max(0) > LEVEL) & (maps.max(0) <= 0.5), 255, wanted)
        np.testing.assert_array_equal(np.array(Image.open(plain.path / name)), band)
        with np.load(seeds.path / "cam" / f"{Path(id).stem}.npz") as stored:
            assert stored["keys"].tolist() == keys
            np.testing.assert_allclose(stored["high_res"], maps, atol=1e-5)
            blocks = maps.reshape(len(keys), 16, 4, 22, 4).mean((2, 4))
            np.testing.assert_allclose(stored["cam"], blocks, atol=1e-5)
    assert (run / "boxes.parquet").read_bytes() == before
    assert json.loads((seeds.path / "fastcam-export.json").read_text())["refine"] == "pamr"


def test_a_constant_background_is_refined_to_itself(drawn):
    """So one refinement of the classes alone serves all levels."""
    voc, _ = drawn
    for id, (_, maps) in by_script(drawn).items():
        pixels = torch.from_numpy(np.array(Image.open(voc / "JPEGImages" / id))).permute(2, 0, 1)[None]
        both = twin(torch.from_numpy(np.concatenate([np.full((1, 64, 88), LEVEL, np.float32), maps]))[None], pixels)[0]
        np.testing.assert_allclose(both[0], LEVEL, atol=1e-5)


def test_png_and_npy(drawn, tmp_path):
    voc, run = drawn
    options = {"refine": "pamr", "images": voc / "JPEGImages"}
    whole = export(run, "npy", tmp_path / "npy", size="picture", **options).path
    small = export(run, "npy", tmp_path / "small", size=32, **options).path
    pictures = export(run, "png", tmp_path / "png", **options).path
    for id, (_, maps) in by_script(drawn).items():
        found = np.load(whole / f"{id}.npy")
        np.testing.assert_allclose(found, maps[0], atol=1e-5)
        assert np.load(small / f"{id}.npy").shape == (32, 32)
        assert np.load(small / f"{id}.npy").mean() == pytest.approx(found.mean(), abs=1e-3)
        np.testing.assert_array_equal(np.array(Image.open(pictures / f"{id}.png")), (255 * found).astype(np.uint8))


def test_an_evaluation_refines_as_an_export_does_and_finds_more(drawn, tmp_path):
    voc, run = drawn
    plain = evaluated(drawn, tmp_path / "plain")
    better = evaluated(drawn, tmp_path / "refined", refine="pamr", cases=2)
    assert better["source"] == plain["source"] | {"refine": "pamr"}
    seeds = export(run, "wsss", tmp_path / "wsss", refine="pamr", images=voc / "JPEGImages").path
    assert figures(evaluated(drawn, tmp_path / "npz", seeds)) == figures(better)
    kept = export(run, "wsss", tmp_path / "kept").path
    assert figures(evaluated(drawn, tmp_path / "later", kept, refine="pamr")) == figures(better)
    assert better["figures"]["max mIoU"] > plain["figures"]["max mIoU"] + 3
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        evaluated(drawn, part, refine="pamr", part=(number, 2))
    assert figures(evaluated(drawn, tmp_path / "merged", refine="pamr", merge=parts)) == figures(better)
    with pytest.raises(ValueError, match=r"/1 has source .*\"refine\": \"pamr\"}, not "):
        evaluated(drawn, tmp_path / "mixed", merge=parts)


def test_pictures_are_where_the_run_has_listed_them(own, tmp_path):
    voc, run = own
    with pytest.raises(ValueError, match=r"nothing tells where the pictures of .* are: name their folder by `images`"):
        export(run, "labels", tmp_path / "none", refine="pamr")
    listed(run, {f"{number}.jpg": voc / f"JPEGImages/{number}.jpg" for number in range(3)})
    done = export(run, "labels", tmp_path / "some", refine="pamr")
    assert (done.pictures, done.left_out) == (3, 1)
    assert done.examples == (("3.jpg", "its maps cannot be refined: nothing tells where its picture is"),)
    named = export(run, "labels", tmp_path / "named", refine="pamr", images=voc / "JPEGImages")
    assert named.pictures == 4
    for number in range(3):
        assert (done.path / f"{number}.png").read_bytes() == (named.path / f"{number}.png").read_bytes()


def test_pictures_of_another_size_or_none_are_left_out_with_the_reason(own, tmp_path):
    voc, run = own
    pictures = voc / "JPEGImages"
    Image.new("RGB", (30, 20)).save(pictures / "1.jpg")
    (pictures / "2.jpg").unlink()
    (pictures / "3.jpg").write_bytes((pictures / "3.jpg").read_bytes()[:300])
    done = export(run, "labels", tmp_path / "labels", refine="pamr", images=pictures)
    assert (done.pictures, done.left_out) == (1, 3)
    reasons = dict(done.examples)
    assert "its picture has 30x20 pixels, its maps are of 60x48" in reasons["1.jpg"]
    assert "unreadable: No such file" in reasons["2.jpg"]
    assert "refined: damaged: " in reasons["3.jpg"]
    result = command("export", run, "--to", "labels", "--refine", "pamr", "--images", pictures)
    assert result.exit_code == 3
    assert "3 pictures left out, such as '1.jpg': its maps cannot be refined: its picture has 30x20" in result.stderr
    # The class PNG is of the run's size, so only refining sees that the picture has changed.
    with pytest.raises(ValueError, match=r"1\.jpg: its picture has 30x20 pixels, its maps are of 60x48"):
        evaluated(own, tmp_path / "bad", refine="pamr")
    done = fastcam.evaluate(
        voc, maps=run, out=tmp_path / "skipped", protocol="wsss", refine="pamr", skip_bad=True, progress=False, cases=0
    )
    assert done.pictures == 1
    assert {id for id, _ in done.bad} == {"1.jpg", "2.jpg", "3.jpg"}


def test_turned_pictures_are_refined_upright(tmp_path):
    rng = np.random.default_rng(0)
    upright = Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8).repeat(4, 0).repeat(4, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter, to be turned back
    (tmp_path / "images").mkdir()
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "images/a.png", exif=exif)
    upright.save(tmp_path / "images/b.png")
    rows = [tables.row(f"{name}.png", (0, 0, 9, 9), 1, "owl", upright.size, cam=coarse(3)) for name in "ab"]
    run = tables.write(tmp_path / "run", rows, cams=True)
    found = export(run, "npy", tmp_path / "npy", size="picture", refine="pamr", images=tmp_path / "images").path
    np.testing.assert_array_equal(np.load(found / "a.png.npy"), np.load(found / "b.png.npy"))


def test_data_sets_without_files_have_their_pictures_too(own, tmp_path):
    voc, run = own
    loaded = data.load(voc)

    class Samples:
        class_names, ids, labels, segments = loaded.class_names, loaded.ids, loaded.labels, loaded.segments

        def __len__(self) -> int:
            return len(loaded)

        def __getitem__(self, index: int) -> Sample:
            return loaded[index]

        def truth(self, index: int) -> Sample:
            return loaded.truth(index)

    wanted = evaluated(own, tmp_path / "files", refine="pamr")
    assert figures(evaluated((Samples(), run), tmp_path / "samples", refine="pamr")) == figures(wanted)


def test_refused(own, tmp_path):
    voc, run = own
    with pytest.raises(ValueError, match="`refine` must be one of pamr, crf, got 'crv'"):
        export(run, "labels", tmp_path / "x", refine="crv", images=voc)
    with pytest.raises(ValueError, match="`refine` is for png, npy, labels, wsss, not for csv"):
        export(run, "csv", tmp_path / "x", refine="pamr")
    with pytest.raises(ValueError, match="`images` are for `refine`"):
        export(run, "labels", tmp_path / "x", images=voc)
    with pytest.raises(FileNotFoundError, match="no folder of pictures at"):
        export(run, "labels", tmp_path / "x", refine="pamr", images=tmp_path / "nowhere")
    with pytest.raises(ValueError, match="`refine` is for protocol wsss"):
        fastcam.evaluate(voc, boxes=run / "boxes.parquet", out=tmp_path / "x", refine="pamr")
    labels = export(run, "labels", tmp_path / "labels").path
    with pytest.raises(ValueError, match=re.escape(f"{labels} has labels, which are not refined")):
        evaluated(own, tmp_path / "x", labels, refine="pamr")
    assert command("evaluate", voc, "--maps", run, "--out", tmp_path / "x", "--refine", "crv").exit_code == 2
    assert not (tmp_path / "x").exists() or not any((tmp_path / "x").iterdir())


def test_the_command(own, tmp_path):
    voc, run = own
    shutil.move(voc / "JPEGImages", tmp_path / "moved")
    done = command("export", run, "--to", "labels", "--refine", "pamr", "--images", tmp_path / "moved")
    assert done.exit_code == 0, done.output
    shutil.move(tmp_path / "moved", voc / "JPEGImages")
    options = ("--protocol", "wsss", "--maps", run, "--cases", 0)
    assert command("evaluate", voc, *options, "--out", tmp_path / "out", "--refine", "pamr").exit_code == 0
    assert json.loads((tmp_path / "out/metrics.json").read_text())["source"]["refine"] == "pamr"


def exact_crf(scores: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Mean field of the fully connected CRF by its definition, all pairs of pixels: probabilities [K, H, W]."""
    count, height, width = scores.shape
    places = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"), -1).reshape(-1, 2).astype(float)
    colours = pixels.reshape(-1, 3).astype(float)

    def kernel(features: np.ndarray) -> np.ndarray:
        found = np.exp(-((features[:, None] - features[None]) ** 2).sum(-1) / 2)
        norm = found.sum(1) ** -0.5
        return norm[:, None] * found * norm[None]

    smooth = 3 * kernel(places / 3) + 10 * kernel(np.concatenate([places / 80, colours / 13], 1))
    unary = np.log(scores.reshape(count, -1).clip(1e-5, 1))
    likely = np.exp(unary) / np.exp(unary).sum(0)
    for _ in range(10):
        energy = unary + likely @ smooth
        likely = np.exp(energy - energy.max(0))
        likely /= likely.sum(0)
    return likely.reshape(scores.shape)


@pytest.fixture
def speckled() -> tuple[np.ndarray, np.ndarray]:
    """Two maps with noise over a picture of two discs and noise."""
    pytest.importorskip("pydensecrf")
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:24, :32]
    discs = [(y - 10) ** 2 + (x - cx) ** 2 < 30 for cx in (8, 23)]
    pixels = (
        np.full((24, 32, 3), 90) + np.stack([80 * discs[0], 80 * discs[1], 0 * x], -1) + rng.normal(0, 6, (24, 32, 3))
    )
    maps = np.stack([0.55 * disc + rng.uniform(0, 0.45, x.shape) for disc in discs]).astype(np.float32)
    return maps, pixels.clip(0, 255).astype(np.uint8)


def test_a_crf_beside_all_pairs_of_pixels(speckled):
    """The package sums over pairs by an approximation, on a lattice."""
    maps, pixels = speckled
    for background in (0.4, (1 - maps.max(0)) ** 2):
        scores = np.concatenate([np.broadcast_to(background, (1, 24, 32)), maps])
        wanted = exact_crf(scores, pixels).argmax(0)
        got = crf(maps, background, pixels)
        assert got.dtype == np.uint8
        assert {0, 1, 2} == set(np.unique(wanted))
        assert (got == wanted).mean() > 0.98
        assert (scores.argmax(0) == wanted).mean() < 0.95  # what the maps alone say


def test_labels_of_a_crf_at_one_level_at_two_and_by_exponents(own, tmp_path):
    pytest.importorskip("pydensecrf")
    voc, run = own
    options = {"refine": "crf", "images": voc / "JPEGImages"}
    for name, chosen, scores in (
        ("one", {"cuts": 0.4}, lambda strength: [0.4]),
        ("two", {"cuts": (0.2, 0.5)}, lambda strength: [0.5, 0.2]),
        ("alpha", {"alpha": 4}, lambda strength: [(1 - strength) ** 4]),
        ("alphas", {"alpha": (2, 16)}, lambda strength: [(1 - strength) ** 2, (1 - strength) ** 16]),
    ):
        folder = export(run, "labels", tmp_path / name, **options, **chosen).path
        for number in range(4):
            several = [(m.class_id + 1, m.at()) for m in MapTable(run) if m.image_id == f"{number}.jpg"]
            maps, values = np.stack([map for _, map in several]), np.array([0, *(key for key, _ in several)])
            pixels = np.array(Image.open(voc / f"JPEGImages/{number}.jpg"))
            surely, *rest = (values[crf(maps, score, pixels)] for score in scores(maps.max(0)))
            maybe = rest[0] if rest else surely
            wanted = np.where(surely > 0, surely, np.where(maybe > 0, 255, 0))
            np.testing.assert_array_equal(np.array(Image.open(folder / f"{number}.png")), wanted)


def test_an_evaluation_of_a_crf_is_that_of_its_labels(own, tmp_path):
    pytest.importorskip("pydensecrf")
    voc, run = own
    options = {"refine": "crf", "images": voc / "JPEGImages"}
    labels = export(run, "labels", tmp_path / "labels", cuts=LEVEL, **options).path
    wanted = evaluated(own, tmp_path / "png", labels)
    found = evaluated(own, tmp_path / "crf", refine="crf", threshold=LEVEL)
    assert found["figures"] == wanted["figures"]
    assert found["best_thresholds"] == found["curves"] == {}
    assert found["source"]["refine"] == "crf"
    assert found["source"]["level"] == LEVEL
    with pytest.raises(ValueError, match="a CRF gives labels, not maps: `refine` crf is for labels, not for wsss"):
        export(run, "wsss", tmp_path / "wsss", **options)


def test_without_the_package_a_crf_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    with pytest.raises(ImportError, match=r"refining by a CRF needs pydensecrf2: pip install \"fastcam\[crf\]\""):
        crf(np.zeros((1, 4, 4), np.float32), 0.2, np.zeros((4, 4, 3), np.uint8))


def test_no_maps_and_values_beyond_one():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    assert refined(np.zeros((0, 6, 7), np.float32), pixels).shape == (0, 6, 7)
    ones = refined(np.ones((1, 6, 7), np.float32), pixels)
    assert ones.max() <= 1
    assert ones.min() > 1 - 1e-5


def test_the_threads_of_torch_come_back():
    before = torch.get_num_threads()
    with thread_each():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
