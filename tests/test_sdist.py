"""The source archive: what git has, and nothing else."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Of the files at the top, those of the repository's own services stay out.
LEFT_OUT = (".ci/", ".github/", ".clang-format", ".gitignore")
MADE = {"PKG-INFO", "setup.cfg"}  # by setuptools, beside its .egg-info


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="needs the repository and git")
def test_the_sdist_has_what_git_has(tmp_path):
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    checkout = tmp_path / "checkout"  # without what else lies about here
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, checkout / name)
    subprocess.run(
        [sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')"],
        cwd=checkout,
        env={**os.environ, "FASTCAM_EXTENSION": "0", "PYTHONPATH": ""},
        check=True,
        capture_output=True,
    )
    (archive,) = checkout.glob("dist/fastcam-*.tar.gz")
    with tarfile.open(archive) as opened:
        packed = {member.name.partition("/")[2] for member in opened if member.isfile()}
    packed = {name for name in packed - MADE if not name.startswith("fastcam.egg-info/")}
    assert packed == {name for name in tracked if not name.startswith(LEFT_OUT)}
