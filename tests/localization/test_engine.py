"""The engine's promises: nothing lost, nothing doubled, and the same rows to the bit however they came about."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from fastcam.data import Pictures
from fastcam.data.pictures import Packed
from fastcam.export import export
from fastcam.localization import ERRORS, Plan, Worker, localize, prepare
from fastcam.runs.table import audit
from tests.support.engine_run import CONFIG, OPTIONS, SIZE, Tiny
from tests.support.processes import children, command_line
from tests.support.runs import STAGES, begin, check_finished, error_of, moment, rows_of, seeds, stage, wait_for

PICTURES = 61  # with batches of 4 and shards of 8: the last shard has 5, its last batch one
DAMAGED = {"01/001.png", "02/002.png"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(PICTURES):
        path = folder / f"{index % 5:02d}" / f"{index:03d}.png"
        path.parent.mkdir(exist_ok=True)
        rng = np.random.default_rng(index)
        small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), np.uint8))
        small.resize((40 + index % 7, 30 + index % 11), Image.Resampling.BICUBIC).save(path)
    (folder / "notes.txt").touch()
    (folder / "03" / "README").touch()
    for key in DAMAGED:
        (folder / key).write_bytes((folder / key).read_bytes()[:90])
    return folder


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    summary = localize(Tiny(), folder, out=out, **OPTIONS)
    assert (summary.pictures, summary.errors, summary.codes) == (PICTURES, 2, {"damaged": 2})
    assert summary.ignored == {".txt": 1, "": 1}
    rows = rows_of(out)
    assert len(rows) == summary.rows == 2 * (PICTURES - 2) + 2
    assert {row["image_id"] for row in rows if row["status"] == "error"} == DAMAGED
    return out


@pytest.fixture(scope="module")
def undisturbed(whole) -> list[dict]:
    return rows_of(whole)


@pytest.mark.parametrize("shard_size", [1, 8, 20, 1000])
def test_rows_are_the_same_for_any_size_of_shards(folder, undisturbed, tmp_path, shard_size):
    localize(Tiny(), folder, out=tmp_path, **OPTIONS | {"shard_size": shard_size})
    assert rows_of(tmp_path) == undisturbed


def test_rows_are_the_same_for_several_workers_and_the_file_too(folder, undisturbed, tmp_path):
    for name, workers, shard_size in (("a", 1, 8), ("b", 2, 12)):
        options = OPTIONS | {"shard_size": shard_size}
        localize(Tiny(), folder, out=tmp_path / name, workers=workers, **options)
        assert rows_of(tmp_path / name) == undisturbed
    assert (tmp_path / "a" / "boxes.parquet").read_bytes() == (tmp_path / "b" / "boxes.parquet").read_bytes()


def test_another_batch_size_changes_almost_nothing(folder, undisturbed, tmp_path):
    localize(Tiny(), folder, out=tmp_path, **OPTIONS | {"batch_size": 7, "threads": 2})
    for ours, theirs in zip(rows_of(tmp_path), undisturbed, strict=True):
        assert (ours["image_id"], ours["class_id"]) == (theirs["image_id"], theirs["class_id"])
        if ours["status"] == "ok":
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
            assert all(abs(ours[edge] - theirs[edge]) <= 1 for edge in ("x0", "y0", "x1", "y1"))


@pytest.mark.parametrize("missing", [[0], [7], [1, 2, 5], list(range(8))])
def test_any_point_of_resumption(folder, undisturbed, tmp_path, missing):
    plan = prepare(Tiny(), folder, out=tmp_path, **{k: v for k, v in OPTIONS.items() if k != "progress"})
    assert plan.missing() == list(range(8))
    with Worker(plan, Tiny()) as worker:
        done = []
        worker.run([shard for shard in reversed(range(8)) if shard not in missing], lambda i, mark: done.append(i))
    assert done == [shard for shard in reversed(range(8)) if shard not in missing]
    assert Plan.load(tmp_path).missing() == missing
    assert Plan.load(tmp_path).finish() is None
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    assert rows_of(tmp_path) == undisturbed


@pytest.mark.parametrize("seed", seeds(2))
@pytest.mark.parametrize("who", ["main process", "worker"])
def test_killed_at_random_moments(folder, whole, tmp_path, who, seed):
    """SIGKILL while parts are planned, computed, written, merged or removed: nothing is lost or left behind."""
    rng = random.Random(f"{who} {seed}")
    process = begin(folder, tmp_path, workers=2 if who == "worker" or seed % 2 else 1, pause=0.1)
    reached, later = moment(rng, range(2, 9) if who == "worker" else range(1, 14))
    wait_for(lambda: stage(tmp_path) >= reached and (who == "main process" or children(process.pid)), process)
    time.sleep(later)
    workers = children(process.pid)
    if who == "worker":
        victims = rng.sample(workers, rng.randint(1, len(workers)))
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
        print(f"{len(victims)} of 2 workers killed at {STAGES[stage(tmp_path)]}")
        error = error_of(process)
        assert process.returncode == 0, error
    else:
        process.kill()
        process.wait(60)
        print(f"main process killed at {STAGES[stage(tmp_path)]}, {len(workers)} workers")
        limit = time.monotonic() + 300
        while any(map(command_line, workers)):  # they notice by themselves
            assert time.monotonic() < limit
            time.sleep(0.01)
        localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    process.stderr.close()
    check_finished(tmp_path, whole)


def test_a_full_disk_stops_cleanly(folder, undisturbed, tmp_path):
    """A limit to the size of files stands for it; the plan is there already, a part does not fit."""
    process = begin(folder, tmp_path, limit=4000)
    error = error_of(process)
    assert process.returncode == 1
    assert "OSError" in error
    assert "0 of 8 parts are done; the same call computes the rest" in error
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    assert rows_of(tmp_path) == undisturbed


def test_a_folder_that_cannot_be_written(folder, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "below", "/proc/none"):
        with pytest.raises(OSError, match=f"cannot write to {out}: ") as caught:
            localize(Tiny(), folder, out=out, **OPTIONS)
        assert type(caught.value) is OSError  # exit code 1, not 2


def begun(folder: Path, out: Path, **options) -> Plan:
    """A run with its first shard done."""
    plan = prepare(Tiny(), folder, out=out, **{k: v for k, v in (OPTIONS | options).items() if k != "progress"})
    with Worker(plan, Tiny()) as worker:
        worker.run([0])
    return plan


def test_another_plan_is_refused(folder, tmp_path):
    plan = begun(folder, tmp_path)
    other = Tiny()
    with torch.no_grad():
        other.classifier.bias[1] += 1
    names = ("a", "b", "c", "d")
    for model, options, difference in (
        (Tiny(), {"threshold": 0.3}, "threshold: 0.2 there, 0.3 here"),
        (Tiny(), {"top_k": 1, "maps": False}, "maps: True there, False here; top_k: 2 there, 1 here"),
        (Tiny(), {"threads": 2}, "threads: 1 there, 2 here"),
        (Tiny(), {"config": CONFIG.__class__(**vars(CONFIG) | {"class_names": names})}, "class names"),
        (other, {}, "weights"),
    ):
        with pytest.raises(FileExistsError, match=f"unfinished run, made by another plan \\({difference}\\)"):
            localize(model, folder, out=tmp_path, **OPTIONS | options)
    for source, difference in (
        (folder / "00", "pictures: 61 there, 13 here"),
        ([folder, tmp_path], "pictures: 61 there, 62 here"),
    ):
        Image.new("RGB", (9, 9)).save(tmp_path / "more.png")
        with pytest.raises(FileExistsError, match=difference):
            localize(Tiny(), source, out=tmp_path, **OPTIONS)
    assert plan.missing() == list(range(1, 8))
    summary = localize(other, folder / "00", out=tmp_path, overwrite=True, **OPTIONS)
    assert summary.pictures == 13


def test_changed_inputs_are_noticed(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(9):
        Image.new("RGB", (20, 20), (index, 0, 0)).save(folder / f"{index}.bmp")
    begun(folder, tmp_path / "a")
    begun(folder, tmp_path / "b", hash_content=True)
    status = (folder / "3.bmp").stat()
    Image.new("RGB", (20, 20), (99, 0, 0)).save(folder / "3.bmp")
    os.utime(folder / "3.bmp", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(FileExistsError, match=r"another plan \(content of 3\.bmp\)"):
        localize(Tiny(), folder, out=tmp_path / "b", hash_content=True, **OPTIONS)
    assert localize(Tiny(), folder, out=tmp_path / "a", **OPTIONS).pictures == 9  # it cannot know
    begun(folder, tmp_path / "c")
    with pytest.raises(FileExistsError, match=r"another plan \(hash_content: False there, True here\)"):
        localize(Tiny(), folder, out=tmp_path / "c", hash_content=True, **OPTIONS)
    (folder / "3.bmp").touch()
    with pytest.raises(FileExistsError, match=r"another plan \(time of 3\.bmp\)"):
        localize(Tiny(), folder, out=tmp_path / "c", **OPTIONS)
    begun(folder, tmp_path / "d")
    (folder / "3.bmp").rename(folder / "33.bmp")
    with pytest.raises(FileExistsError, match=r"pictures: 3\.bmp is there only"):
        localize(Tiny(), folder, out=tmp_path / "d", **OPTIONS)


@pytest.mark.parametrize("place", ["", "run", "../run"])
def test_a_run_within_its_inputs_does_not_find_its_own_files(folder, tmp_path, place):
    source = tmp_path / "in"
    shutil.copytree(folder / "00", source)
    for _ in range(2):
        summary = localize(Tiny(), source, out=source / place, overlays=3, **OPTIONS)
        assert summary.pictures == 13
    assert len(list((source / place / "overlays").iterdir())) == 3
    assert {path.name for path in source.glob("*.png")} == {path.name for path in (folder / "00").iterdir()}


@pytest.mark.parametrize("place", ["", "run"])
def test_what_runs_and_exports_write_is_no_input_but_all_else_is(folder, tmp_path, place):
    source = tmp_path / "in"
    shutil.copytree(folder / "00", source)
    for name in ("overlays/000001_mine.jpg", "overlays/mine.png", "wsss/mine.png"):
        (source / place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / "005.png", source / place / name)
    (source / place / "note.txt").touch()
    (tmp_path / "link").symlink_to(source)
    out, options = tmp_path / "link" / place, {**OPTIONS, "overlays": 3, "maps": True}
    for where in (out, out, tmp_path / "elsewhere"):
        summary = localize(Tiny(), source, out=where, **options)
        assert (summary.pictures, summary.ignored) == (16, {".txt": 1})
        if not (out / "maps-png").exists():
            export(out, "png", progress=False)
    assert len(list((out / "overlays").iterdir())) == 5
    assert len(list((out / "maps-png").rglob("*.png"))) > 13
    assert rows_of(out) == rows_of(tmp_path / "elsewhere")


def test_a_file_that_vanishes_is_an_error_row(folder, undisturbed, tmp_path):
    shutil.copytree(folder, tmp_path / "in")
    plan = begun(tmp_path / "in", tmp_path / "out")
    (tmp_path / "in" / "04" / "059.png").unlink()
    with Worker(plan, Tiny()) as worker:
        worker.run(plan.missing())
    plan.finish()
    rows = rows_of(tmp_path / "out")
    (failed,) = [row for row in rows if row["image_id"] == "04/059.png"]
    assert failed["error"] == "unreadable: No such file or directory"
    assert [row for row in rows if row != failed] == [r for r in undisturbed if r["image_id"] != "04/059.png"]


@pytest.mark.parametrize("finished", [True, False])
def test_what_killed_processes_left_is_removed(folder, whole, tmp_path, finished):
    """By one that was cleaning up when the table was there already, or by ranks that never came so far."""
    if finished:
        shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    else:
        begun(folder, tmp_path)
    for name in (".boxes.parquet.1.tmp", "shards/000003.parquet", "shards/.000004.json.22.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "ranks").mkdir()
    for name in ("0.json", ".12.json.345.tmp"):
        (tmp_path / "ranks" / name).touch()
    assert localize(Tiny(), folder, out=tmp_path, **OPTIONS).pictures == PICTURES
    check_finished(tmp_path, whole)
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "mine").touch()
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    assert (tmp_path / "shards" / "mine").exists()


def test_a_part_that_changed_on_the_disk_is_computed_again(folder, undisturbed, tmp_path):
    plan = begun(folder, tmp_path)
    content = bytearray(plan.part(0).read_bytes())
    content[100] ^= 1
    plan.part(0).write_bytes(content)
    (tmp_path / "shards" / "000003.json").write_text("{ half a mark")
    plan.part(5).write_bytes(b"no part, and no mark")
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    assert rows_of(tmp_path) == undisturbed


def test_the_audit_finds_what_is_missing_doubled_or_mixed(folder, undisturbed, tmp_path):
    localize(Tiny(), folder, out=tmp_path, **OPTIONS)
    table = pq.read_table(tmp_path / "boxes.parquet")
    keys = list(dict.fromkeys(row["image_id"] for row in undisturbed))
    counts = audit(tmp_path / "boxes.parquet", iter(keys))
    assert counts == (PICTURES, len(table), {"damaged": 2})
    assert json.loads((tmp_path / "audit.json").read_text())["errors"] == {"damaged": 2}
    failed = next(i for i, row in enumerate(undisturbed) if row["status"] == "error")
    order = np.arange(len(table))
    for name, chosen in {
        "picture missing": order[2:],
        "last picture missing": order[:-2],
        "picture doubled": np.r_[order[:4], order[2:]],
        "picture at two places": np.r_[order, order[:2]],
        "pictures out of place": np.r_[order[2:4], order[:2], order[4:]],
        "error doubled": np.r_[order[: failed + 1], order[failed:]],
        "rank doubled": np.r_[order[:1], order],
    }.items():
        pq.write_table(table.take(chosen), tmp_path / "wrong.parquet")
        try:
            audit(tmp_path / "wrong.parquet", iter(keys))
        except RuntimeError as error:
            assert "the audit failed" in str(error)  # noqa: PT017
        else:
            pytest.fail(name)


def test_what_kills_every_worker_is_named(folder, tmp_path):
    """A crash in native code, say. The shards of others are done all the same."""
    process = begin(folder, tmp_path, workers=2, pause=-1)
    assert "3 workers died at shard" in error_of(process)
    assert process.returncode == 1


def test_errors_of_workers_are_raised(folder, tmp_path):
    process = begin(folder, tmp_path, workers=2, pause=-2)
    error = error_of(process)
    assert process.returncode == 1
    assert "RuntimeError: no good" in error
    assert "0 of 8 parts are done" in error
    model = Tiny()
    model.register_forward_hook(lambda *given: None)
    with pytest.raises(TypeError, match="several workers the model must be one that can be pickled"):
        localize(model, folder, out=tmp_path / "b", workers=2, **OPTIONS)


def test_names_that_lead_elsewhere_are_refused(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    for name in ("/etc/a.png", "../a.png", "b/../../a.png", "b//a.png", "./a.png", "a\0.png", ""):
        pictures = Pictures.__new__(Pictures)  # whose own checks are not asked here
        vars(pictures).update(ids=[name], files=[tmp_path / "a.png"], labels=None, boxes=None, ignored={})
        with pytest.raises(ValueError, match="must have a path relative to its folder"):
            localize(Tiny(), pictures, out=tmp_path / "out", **OPTIONS)
    assert not list((tmp_path / "out").glob("*"))


def test_data_sets_of_files_and_files_within_files(folder, undisturbed, tmp_path):
    keys = list(dict.fromkeys(row["image_id"] for row in undisturbed))
    pack, files = bytearray(b"begin"), []
    for index, key in enumerate(keys):
        data = (folder / key).read_bytes()
        files.append(Packed(tmp_path / "pack", key, len(pack), len(data)) if index % 2 else folder / key)
        pack += data
    (tmp_path / "pack").write_bytes(pack)
    boxes = [np.float32([[1, 1, 9, 9]])] * len(keys)
    labels = [None if i == 3 else i % 4 for i in range(len(keys))]
    pictures = Pictures(folder, keys, files, labels=labels, boxes=boxes)
    localize(Tiny(), pictures, out=tmp_path / "a", overlays=2, **OPTIONS)
    assert rows_of(tmp_path / "a") == undisturbed
    assert len(list((tmp_path / "a" / "overlays").iterdir())) == 2
    localize(Tiny(), pictures, out=tmp_path / "b", targets="label", **OPTIONS)
    rows = rows_of(tmp_path / "b")
    assert [row["class_id"] for row in rows if row["status"] == "ok"] == [
        label for key, label in zip(keys, labels, strict=True) if label is not None and key not in DAMAGED
    ]
    assert rows[3]["error"] == "no_target: no class is given for this picture"
    (tmp_path / "pack").write_bytes(pack[:-10])
    with pytest.raises(FileExistsError, match=r"size and time of 00/005\.png"):
        localize(Tiny(), pictures, out=tmp_path / "a", overlays=2, **OPTIONS)
    pictures.labels = [None, *labels[1:]]
    (tmp_path / "pack").write_bytes(pack)
    with pytest.raises(FileExistsError, match=r"another plan \(class of 00/000\.png\)"):
        localize(Tiny(), pictures, out=tmp_path / "b", targets="label", **OPTIONS)


class Hungry(Tiny):
    """Has memory for a few pictures only."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.limit, self.sizes = limit, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(images))
        if len(images) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return super().forward(images)


def test_out_of_memory_halves_the_batch(folder, undisturbed, tmp_path):
    model = Hungry(1)
    localize(model, folder, out=tmp_path / "a", **OPTIONS)
    assert model.sizes[:3] == [4, 2, 1]
    assert set(model.sizes[3:]) == {1}
    for ours, theirs in zip(rows_of(tmp_path / "a"), undisturbed, strict=True):
        assert (ours["image_id"], ours["class_id"], ours["error"]) == (
            theirs["image_id"],
            theirs["class_id"],
            theirs["error"],
        )
        if ours["status"] == "ok":
            assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
    assert json.loads((tmp_path / "a" / "audit.json").read_text())["smallest_batch"] == 1
    with pytest.raises(RuntimeError, match="out of memory"):
        localize(Hungry(0), folder, out=tmp_path / "b", **OPTIONS)


def test_maps_are_kept_before_relu_and_normalisation(folder, undisturbed):
    model = Tiny()
    row = undisturbed[0]
    with Image.open(folder / row["image_id"]) as image:
        small = np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    tensor = ((torch.from_numpy(small.copy()).float() / 255 - 0.5) / 0.25).permute(2, 0, 1)[None]
    with torch.no_grad():
        cam = torch.einsum("k,khw->hw", model.classifier.weight[row["class_id"]], model.features(tensor)[0])
    kept = np.frombuffer(row["cam"], "<f2").reshape(row["cam_height"], row["cam_width"])
    assert 1 <= np.abs(kept).max() <= 2
    scale = 2.0 ** np.floor(np.log2(np.abs(cam.numpy()).max()))
    assert np.abs(kept * scale - cam.numpy()).max() < 2e-3 * np.abs(cam.numpy()).max()


def test_every_error_has_a_code_that_is_documented():
    assert set(ERRORS) == {"unreadable", "unsupported", "too_large", "damaged", "no_target", "model", "memory"}
    assert all(ERRORS.values())
