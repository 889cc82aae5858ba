"""The example of scenes runs, and finds what decides."""

import sys

from tests.support.scripts import script


def test_it_writes_data_and_figures(tmp_path, monkeypatch, capsys):
    scenes = script("scenes")
    draw = scenes.drawn
    monkeypatch.setattr(scenes, "drawn", lambda count, start=0: draw(count if not start else 12, start))
    monkeypatch.setattr(sys, "argv", ["scenes.py", str(tmp_path / "out")])
    scenes.main()
    printed = capsys.readouterr().out
    for scene, thing in scenes.DECIDING.items():
        assert f"{scene:6} 1. {thing}" in printed
        for file in (f"objects/{scene}.png", f"units/{scene}_weight.png", f"units/{scene}.html"):
            assert (tmp_path / "out" / file).is_file()
