"""The folder of a run: which files are its own, and what it may remove."""

from pathlib import Path

import pytest

from fastcam._files import replacing, target_of
from fastcam.export import FORMATS
from fastcam.pictures import find_pictures
from fastcam.runs.folder import EXPORTS, OVERLAY_COMMENT, RunFolder, is_export, is_overlay, is_own

OWN = (
    "plan.json", "inputs.parquet", "audit.json", "boxes.parquet", "boxes.partial.parquet",
    "shards/000000.parquet", "shards/000000.json", "overlays/000003_a_b.png.jpg",
)  # fmt: skip
OTHERS = ("notes.txt", "shards/notes.txt", "shards/1.json", "overlays/000001_mine.jpg", "overlays/x.jpg", "a/plan.json")
HALF = (".plan.json.12.tmp", "shards/.000001.parquet.3.tmp")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    """With files of a run, half-written ones, and others of similar names."""
    for name in (*OWN, *OTHERS, *HALF):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff\xfe" + OVERLAY_COMMENT if name == OWN[-1] else b"")
    return RunFolder(tmp_path)


def left(folder: RunFolder) -> set[str]:
    return {path.relative_to(folder.path).as_posix() for path in folder.path.rglob("*") if path.is_file()}


def test_paths_are_those_that_are_found_again(tmp_path):
    folder = RunFolder(tmp_path)
    written = (
        folder.plan, folder.inputs, folder.audit, folder.table, folder.partial, folder.part(7), folder.mark(7),
    )  # fmt: skip
    overlay = folder.overlay(12, "some folder/ä picture.png")
    assert overlay.name == "000012_some_folder_picture.png.jpg"
    for path in (*written, overlay):
        with replacing(path) as partial:
            assert target_of(partial.name) == path.name
            assert is_own(str(path.parent), partial.name)
            partial.write_bytes(OVERLAY_COMMENT)
    assert sorted(folder.own_files()) == sorted((*written, overlay))
    assert all(is_own(str(path.parent), path.name) for path in written)
    assert is_overlay(overlay)
    assert folder.marked_parts() == [folder.part(7)]
    folder.mark(7).unlink()
    assert folder.marked_parts() == []
    assert len(folder.overlay(0, "x" * 300).name) == 91


def test_own_files_are_told_from_others(folder):
    assert {path.relative_to(folder.path).as_posix() for path in folder.own_files()} == set(OWN)
    assert list(RunFolder(folder.path / "none").own_files()) == []
    for name in OWN:
        with pytest.raises(ValueError, match=r"is a source, and a file that a run in .* writes: choose another `out`"):
            folder.refuse_sources([folder.path / name])
    folder.refuse_sources([folder.path / name for name in OTHERS])


def test_parts_are_removed_and_nothing_else(folder):
    folder.remove_parts()
    assert left(folder) == {*OWN, *OTHERS} - {"shards/000000.parquet", "shards/000000.json"}
    for name in ("notes.txt", "1.json"):
        (folder.path / "shards" / name).unlink()
    folder.remove_parts()
    assert not (folder.path / "shards").exists()


def test_a_new_run_leaves_what_is_not_a_run_s(folder):
    folder.clear()
    assert left(folder) == {*OTHERS, "plan.json", "boxes.parquet"}


def test_overlays_have_a_mark(tmp_path):
    path = tmp_path / "overlays" / "000000_a.jpg"
    path.parent.mkdir()
    assert not is_overlay(path)
    path.write_bytes(OVERLAY_COMMENT)
    assert is_overlay(path)
    for name in ("00000_a.jpg", "000000_a.png", "a.jpg"):
        assert not is_overlay(path.rename(path.with_name(name)))
        path.with_name(name).rename(path)
    assert not is_overlay(path.rename(tmp_path / path.name))


def test_a_search_passes_over_what_fastcam_wrote(folder):
    export = folder.export("png")
    export.mkdir()
    (export / "fastcam-export.json").touch()
    (export / "map.png").touch()
    assert is_export(export)
    assert not is_export(folder.path)
    found = [Path(id).name for id, _ in find_pictures([folder.path])]
    assert found == ["000001_mine.jpg", "x.jpg"]


def test_each_format_has_a_name():
    assert set(EXPORTS) == set(FORMATS)
    assert len(set(EXPORTS.values())) == len(EXPORTS)
