"""The folder of a run: names, patterns and marks of its files, and which of them may be replaced or removed.

In it are, some of them for a time only:

    plan.json                 what is to be done: settings, digest, number of inputs, pictures in a shard
    inputs.parquet            the inputs, one row each
    shards/NNNNNN.parquet     the rows of a shard, and NNNNNN.json, its mark, once they are on the disk
    boxes.parquet             all rows; the shards are removed then
    boxes.partial.parquet     the rows of a run that broke off and cannot be resumed
    audit.json                what was counted in the finished table
    overlays/NNNNNN_NAME.jpg  drawings, with a comment that marks them
    report.html               the page of `fastcam report`, and beside it what `fastcam export` wrote (`EXPORTS`);
                              folders of these have a file that marks them
"""

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from fastcam._files import target_of

PLAN = "plan.json"
EXPORT_MARK = "fastcam-export.json"  # in each folder that an export has written; it may be replaced
OVERLAYS = "overlays"
OVERLAY_COMMENT = b"fastcam overlay"  # in each drawing
EXPORTS = {  # format → file or folder beside the table
    "coco": "coco.json",
    "csv": "boxes.csv",
    "labelstudio": "labelstudio.json",
    "voc": "voc",
    "yolo": "yolo",
    "wsol": "wsol",
    "png": "maps-png",
    "npy": "maps-npy",
    "labels": "labels",
    "wsss": "wsss",
}
_TABLE, _INPUTS, _AUDIT, _PARTIAL = "boxes.parquet", "inputs.parquet", "audit.json", "boxes.partial.parquet"
_FILES = (PLAN, _INPUTS, _AUDIT, _TABLE, _PARTIAL)
_PARTS = {"shards": re.compile(r"\d{6,}\.(parquet|json)"), "ranks": re.compile(r"\d+\.json")}
_OVERLAY = re.compile(r"\d{6,}_[^/]*\.jpg")


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its files, and which of them are its own. The folder needs not exist."""

    path: Path

    @property
    def plan(self) -> Path:
        """What is to be done."""
        return self.path / PLAN

    @property
    def inputs(self) -> Path:
        """The list of inputs."""
        return self.path / _INPUTS

    @property
    def table(self) -> Path:
        """All rows, once the run is finished."""
        return self.path / _TABLE

    @property
    def partial(self) -> Path:
        """The rows of a run that broke off and cannot be resumed."""
        return self.path / _PARTIAL

    @property
    def audit(self) -> Path:
        """What was counted in the table."""
        return self.path / _AUDIT

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    def part(self, shard: int) -> Path:
        """The rows of a shard."""
        return self.path / "shards" / f"{shard:06d}.parquet"

    def mark(self, shard: int) -> Path:
        """What says that the rows of a shard are on the disk."""
        return self.part(shard).with_suffix(".json")

    def marked_parts(self) -> list[Path]:
        """The parts of finished shards, in order."""
        parts = sorted(self.path.glob("shards/*.parquet"))
        return [part for part in parts if part.with_suffix(".json").is_file()]

    def overlay(self, index: int, name: str) -> Path:
        """The drawing of a picture; its number keeps names apart, so that the rest may be cut and cleaned."""
        return self.path / OVERLAYS / f"{index:06d}_{re.sub(r'[^A-Za-z0-9._-]+', '_', name)[-80:]}.jpg"

    def export(self, format: str) -> Path:
        """The file or folder that an export to this format has by default."""
        return self.path / EXPORTS[format]

    def own_files(self) -> Iterator[Path]:
        """Files named like those that a run writes, whoever wrote them; of drawings those that are marked.

        Temporary files and those of ranks are not among them.
        """
        yield from (path for name in _FILES if (path := self.path / name).exists())
        for folder in ("shards", OVERLAYS):
            for path in sorted((self.path / folder).iterdir()) if (self.path / folder).is_dir() else ():
                if is_overlay(path) if folder == OVERLAYS else _PARTS[folder].fullmatch(path.name):
                    yield path

    def refuse_sources(self, sources: Iterable[str | os.PathLike[str]]) -> None:
        """Raise ValueError if a source is a file that a run would replace or remove, since it writes such names."""
        own = {path.resolve() for path in (*self.own_files(), *(self.path / "ranks").glob("*.json"))}
        for source in map(Path, sources):
            if source.resolve() in own:
                raise ValueError(
                    f"{source} is a source, and a file that a run in {self.path} writes: choose another `out`"
                )

    def remove_parts(self) -> None:
        """Remove parts and marks, what ranks of earlier versions wrote, and what killed processes left half-written."""
        for path in self.path.iterdir():
            if target_of(path.name) in _FILES:
                path.unlink(missing_ok=True)
        for name in _PARTS:
            folder = self.path / name
            if not folder.is_dir():
                continue
            for path in folder.iterdir():
                if _PARTS[name].fullmatch(target_of(path.name) or path.name):
                    path.unlink(missing_ok=True)
            if not any(folder.iterdir()):  # others may have put something there
                folder.rmdir()

    def clear(self) -> None:
        """Remove what an earlier run left, but its table, and its plan, by which these files are known as a run's."""
        self.remove_parts()
        for path in self.own_files():
            if path not in (self.plan, self.table):
                path.unlink(missing_ok=True)


def is_own(parent: str, name: str) -> bool:
    """Whether a file is named like one that a run, with `parent` as its folder or within it, writes or is writing."""
    if name in _FILES or target_of(name) is not None:
        return True
    pattern = _PARTS.get(os.path.basename(parent))
    return pattern is not None and pattern.fullmatch(name) is not None


def is_overlay(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a drawing of a run: overlays/NUMBER_NAME.jpg with its comment; False if it cannot be read."""
    parent, name = os.path.split(path)
    if os.path.basename(parent) != OVERLAYS or not _OVERLAY.fullmatch(name) or not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            return OVERLAY_COMMENT in file.read(64)
    except OSError:
        return False


def is_export(folder: Path) -> bool:
    """Whether a folder is what an export has written."""
    return (folder / EXPORT_MARK).is_file()
