"""`fastcam data`."""

import json

from tests.support.commands import run
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
