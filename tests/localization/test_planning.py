"""Folders of runs: what is never replaced, who may work in them, and what the same command goes on with."""

import errno
import fcntl
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fastcam.data import Sample
from fastcam.localization import LocalizationSummary, Worker, localize, prepare
from fastcam.localization.engines import localize as localize_together, machines
from fastcam.localization.plan import _hold
from tests.support.colours import Colours
from tests.support.engine_run import OPTIONS, Tiny
from tests.support.processes import children
from tests.support.runs import begin, marks, wait_for

PLANNED = {name: value for name, value in OPTIONS.items() if name != "progress"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """Twenty pictures: shards of 8, 8 and 4."""
    folder = tmp_path / "in"
    folder.mkdir()
    for index in range(20):
        pixels = np.random.default_rng(index).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")
    return folder


def files_of(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def begun(folder: Path, out: Path, **options):
    """A run with its first shard done."""
    plan = prepare(Tiny(), folder, out=out, **PLANNED | options)
    with Worker(plan, Tiny()) as worker:
        worker.run([0])
    return plan


OWN = ("plan.json", "inputs.parquet", "audit.json", "boxes.parquet", "boxes.partial.parquet")


@pytest.mark.parametrize("name", [*OWN, "shards/000000.parquet", "shards/000001.json"])
def test_files_of_others_are_never_replaced(folder, tmp_path, name):
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True)
    shutil.copy(folder / "00.png", out / name)
    before = files_of(out)
    for source in (folder, [Sample(np.zeros((9, 9, 3), np.uint8))]):
        for overwrite in (False, True):
            with pytest.raises(FileExistsError, match=f"{out / name} is there, and no plan .* choose another `out`"):
                localize(Tiny(), source, out=out, overwrite=overwrite, **OPTIONS)
    assert files_of(out) == before


def test_what_has_other_names_stays(folder, tmp_path):
    (tmp_path / "out" / "shards").mkdir(parents=True)
    (tmp_path / "out" / "overlays").mkdir()
    for name in ("notes.txt", "boxes.csv", "shards/00.tar", "overlays/000001_0.jpg"):
        (tmp_path / "out" / name).write_text("mine")
    localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS)
    localize(Tiny(), folder, out=tmp_path / "out", overwrite=True, **OPTIONS | {"top_k": 1})
    kept = {path.name for path, content in files_of(tmp_path / "out").items() if content == b"mine"}
    assert kept == {"notes.txt", "boxes.csv", "00.tar", "000001_0.jpg"}


def test_files_of_the_run_itself_are_no_sources(folder, tmp_path):
    localize(Tiny(), folder, out=tmp_path / "out", overlays=1, **OPTIONS)
    (drawing,) = (tmp_path / "out" / "overlays").iterdir()
    before = files_of(tmp_path / "out")
    with pytest.raises(ValueError, match=r"is a source, and a file that a run in .* writes: choose another"):
        localize(Tiny(), [folder, drawing], out=tmp_path / "out", overwrite=True, **OPTIONS)
    assert files_of(tmp_path / "out") == before


def test_another_plan_is_refused_before_the_first_shard_is_done(folder, tmp_path):
    plan = prepare(Tiny(), folder, out=tmp_path / "out", **PLANNED)
    before = files_of(plan.folder)
    with pytest.raises(FileExistsError, match=r"an unfinished run, made by another plan \(top_k: 2 there, 1 here\)"):
        localize(Tiny(), folder, out=plan.folder, **OPTIONS | {"top_k": 1})
    samples = [Sample(np.zeros((9, 9, 3), np.uint8))]
    with pytest.raises(FileExistsError, match=r"batch_size: 4 there, 1 here; a data set without files\)"):
        localize(Tiny(), samples, out=plan.folder, **OPTIONS)
    assert files_of(plan.folder) == before
    assert localize(Tiny(), folder, out=plan.folder, overwrite=True, **OPTIONS | {"top_k": 1}).rows == 20


def test_a_run_goes_on_where_its_pictures_are_now(folder, tmp_path):
    whole = localize(Tiny(), folder, out=tmp_path / "whole", **OPTIONS)
    plan = begun(folder, tmp_path / "out")
    moved = folder.rename(tmp_path / "elsewhere")
    summary = localize(Tiny(), moved, out=plan.folder, **OPTIONS | {"shard_size": 12})
    assert (summary.pictures, summary.errors) == (20, 0)
    assert summary.path.read_bytes() == whole.path.read_bytes()
    assert localize(Tiny(), moved.rename(folder), out=plan.folder, **OPTIONS) == summary  # there is nothing left to do


def test_a_run_that_was_killed_before_its_list_was_there(folder, tmp_path):
    plan = prepare(Tiny(), folder, out=tmp_path / "out", **PLANNED)
    plan.inputs.rename(plan.inputs.with_name(".inputs.parquet.123.tmp"))
    assert localize(Tiny(), folder, out=plan.folder, **OPTIONS).errors == 0
    assert {path.name for path in plan.folder.iterdir()} == {*OWN} - {"boxes.partial.parquet"}
    shutil.rmtree(plan.folder)
    plan.folder.mkdir()
    (plan.folder / ".inputs.parquet.123.tmp").touch()  # nor its plan
    assert localize(Tiny(), folder, out=plan.folder, **OPTIONS).errors == 0


def test_a_finished_table_that_was_cut_off_is_not_taken_for_one(folder, tmp_path):
    summary = localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS)
    content = summary.path.read_bytes()
    summary.path.write_bytes(content[:100])
    with pytest.raises(FileExistsError, match=r"boxes\.parquet is not as the run left it: `overwrite` computes"):
        localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS)
    assert localize(Tiny(), folder, out=tmp_path / "out", overwrite=True, **OPTIONS) == summary
    assert summary.path.read_bytes() == content


def test_a_picture_that_changed_since_the_plan_is_an_error_row(folder, tmp_path):
    plan = begun(folder, tmp_path / "out")
    shutil.copy(folder / "01.png", folder / "10.png")
    (folder / "11.png").touch()
    with Worker(plan, Tiny()) as worker:
        worker.run(plan.missing())
    assert plan.finish().codes == {"unreadable": 2}
    rows = pq.read_table(plan.table).to_pylist()
    failed = {row["image_id"]: row["error"] for row in rows if row["status"] == "error"}
    assert failed == dict.fromkeys(("10.png", "11.png"), "unreadable: changed since the plan was made")


def test_drawings_alone_make_another_plan_and_it_is_said(folder, tmp_path):
    localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS)
    said = r"\(overlays: 0 there, 2 here; drawings change no row, but are made with them\): choose another folder, or"
    with pytest.raises(FileExistsError, match=said):
        localize(Tiny(), folder, out=tmp_path / "out", overlays=2, **OPTIONS)


def test_one_process_at_a_time(folder, tmp_path):
    out = tmp_path / "out"
    process = begin(folder, out, pause=0.5)
    wait_for(lambda: marks(out) > 0, process)
    for options in ({}, {"top_k": 1, "overwrite": True}):
        with pytest.raises(OSError, match=f"another process is at work in {out}: wait for it, or choose") as caught:
            localize(Tiny(), folder, out=out, **OPTIONS | options)
        assert type(caught.value) is OSError  # exit code 1, not 2
    assert process.wait(120) == 0, process.stderr.read()
    process.stderr.close()
    assert localize(Tiny(), folder, out=out, **OPTIONS).errors == 0


def test_equal_commands_started_together(folder, tmp_path):
    processes = [begin(folder, tmp_path / "out", pause=0.3) for _ in range(2)]
    codes = {process.wait(120): process.communicate()[1] for process in processes}
    assert sorted(codes) in ([0], [0, 1])
    assert "another process is at work in" in codes.get(1, "another process is at work in")
    assert localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS).rows == 40


def test_a_killed_process_holds_nothing_though_its_workers_live(folder, tmp_path):
    process = begin(folder, tmp_path / "out", workers=2, pause=1)
    wait_for(lambda: len(children(process.pid)) == 2 and (tmp_path / "out" / "inputs.parquet").exists(), process)
    workers = children(process.pid)
    process.kill()
    process.wait(60)
    assert prepare(Tiny(), folder, out=tmp_path / "out", **PLANNED).shards == 3
    process.stderr.close()
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in workers):
        time.sleep(0.01)


def test_a_forked_process_holds_nothing(tmp_path):
    (ends, end), (begins, begin) = os.pipe(), os.pipe()
    with _hold(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(end)
            os.write(begin, b"-")
            os.read(ends, 1)
            os._exit(0)
        assert os.read(begins, 1)
        with pytest.raises(OSError, match="another process"), _hold(tmp_path):
            pass
    with _hold(tmp_path):  # the child lives
        pass
    os.close(end)
    assert os.waitpid(child, 0)[1] == 0
    for handle in (ends, begins, begin):
        os.close(handle)


def test_the_driver_of_a_ray_run_holds_its_folder(folder, tmp_path, monkeypatch):
    def run_tasks(plan, *arguments):
        with pytest.raises(OSError, match="another process is at work in"):
            localize(Tiny(), folder, out=plan.folder, **OPTIONS)
        return LocalizationSummary(plan.table, 0, 0, 0)

    monkeypatch.setattr(machines, "run_tasks", run_tasks)
    localize_together(Tiny(), folder, out=tmp_path / "out", engine="ray", **OPTIONS)
    assert localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS).errors == 0
    with pytest.raises(TypeError, match="`source` must be picture files, got Colours"):
        localize_together(Tiny(), Colours(3), out=tmp_path / "b", engine="ray", **OPTIONS)
    assert not (tmp_path / "b").exists()


def test_file_systems_without_locks(folder, tmp_path, monkeypatch):
    def none(*arguments):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    assert localize(Tiny(), folder, out=tmp_path / "out", **OPTIONS).errors == 0
