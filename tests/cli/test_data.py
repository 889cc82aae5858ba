"""`fastcam data`."""

import json

from tests.support.commands import refused, run
from tests.support.datasets import MAKERS, catdog


def test_catdog_on_the_command_line(tmp_path) -> None:
    catdog(tmp_path / "src/train")
    for added in (15, 0):
        result = run("data", "catdog", tmp_path / "src", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert f"12 pictures to train on, 3 to test on, in {tmp_path / 'out'}; {added} were added" in result.stdout
    result = run("data", "catdog", tmp_path / "nowhere", tmp_path / "out")
    assert result.exit_code == 2
    assert result.stderr.startswith("fastcam: ")
    assert result.stderr.count("\n") == 1


def test_info_on_the_command_line(tmp_path) -> None:
    MAKERS["cub"](tmp_path)
    result = run("data", "info", "cub", tmp_path)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("train:\npictures        1\n")
    assert "test:\npictures        2\n" in result.stdout
    lines = run("data", "info", tmp_path, "--split", "test").stdout.splitlines()
    assert run("data", "info", "auto", tmp_path, "--split", "val").stdout.splitlines() == ["val:", *lines[1:]]
    (tmp_path / "images/001.Auk/a.jpg").write_bytes(b"no picture")
    result = run("data", "info", "cub", tmp_path, "--json")
    assert result.exit_code == 3
    assert "fastcam: 001.Auk/a.jpg: unsupported: " in result.stderr
    told = json.loads(result.stdout)
    assert (told["test"]["pictures"], told["test"]["height"]["most"]) == (2, 30)
    result = run("data", "info", "wsol", tmp_path)
    assert result.exit_code == 2
    assert "does not look like wsol: image_ids.txt" in result.stderr
    assert run("data", "info", "shapes", "--split", "val", "--no-decode").exit_code == 0


def test_drawn_data_sets_are_what_all_commands_read(tmp_path) -> None:
    counts = ("--train", 8, "--val", 0, "--test", 8, "--size", 40)
    for kind, lines in (("boxes", "boxes"), ("masks", "masks"), ("voc", "boxes")):
        result = run("data", "drawn", tmp_path / kind, "--kind", kind, *counts)
        assert result.exit_code == 0, result.output
        assert result.stdout.startswith(f"16 pictures of 8 classes in {tmp_path / kind}: checked triangle, dotted hea")
        told = run("data", "info", tmp_path / kind, "--split", "test").stdout
        assert f"\n{lines}" in told, told
        assert "pictures        8\n" in told
    assert len(list((tmp_path / "boxes/test/dotted heart").iterdir())) == 1
    assert "is not empty: name another folder" in refused("data", "drawn", tmp_path / "boxes")
    assert "--kind voc has all classes, got --classes 3" in refused(
        "data", "drawn", tmp_path / "new", "--kind", "voc", "--classes", 3
    )
    assert "`counts` must be of some" in refused(
        "data", "drawn", tmp_path / "new", "--train", 0, "--val", 0, "--test", 0
    )
    assert not (tmp_path / "new").exists()
