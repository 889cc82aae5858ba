"""The plan of a run and its parts on disk: what is to be done, and what is done."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa

from fastcam._files import replacing
from fastcam.localization.inputs import Item, read_listing
from fastcam.methods.cautions import constant, tell
from fastcam.runs.folder import RunFolder
from fastcam.runs.schema import Row, merge, schema, write_rows
from fastcam.runs.table import audit


class Summary(NamedTuple):
    """What a run did.

    Attributes:
        path: the table of boxes.
        pictures: how many pictures came in.
        rows: how many rows were written, at least one for each picture.
        errors: how many pictures have an error row instead of boxes.
        codes: the same by code of `ERRORS`.
        ignored: files that were passed over, by suffix.
        empty: how many rows have no box, since their map is constant or not finite.
        outputs: what the network's outputs were taken for, see `fastcam.methods.scores.recognise`; None if no picture
            came as far.
        cautions: why maps of the run may show nothing, or something else than it seems.
    """

    path: Path
    pictures: int
    rows: int
    errors: int
    codes: Mapping[str, int] = {}
    ignored: Mapping[str, int] = {}
    empty: int = 0
    outputs: str | None = None
    cautions: tuple[str, ...] = ()

    def told(self) -> Self:
        """Warn of the cautions, as if the caller of this did.

        Returns:
            The same summary.

        Warns:
            fastcam.methods.MapWarning: each of them.
        """
        tell(self.cautions, stacklevel=3)
        return self


@dataclass(frozen=True)
class Plan:
    """A run in a folder. Everything is on disk, so that any process may load it.

    Attributes:
        folder: where.
        settings: what decides about rows; JSON.
        class_names: of the model, () if unknown.
        digest: of settings and inputs, 32 hexadecimal digits.
        pictures: number of inputs; None for samples whose number is not known.
        shard_size: pictures in a shard, a multiple of the batch size.
        listed: whether the inputs are files, so that the run can be resumed.
        ignored: files that were passed over, by suffix.
    """

    folder: Path
    settings: Mapping[str, Any]
    class_names: tuple[str, ...]
    digest: str
    pictures: int | None
    shard_size: int
    listed: bool
    ignored: Mapping[str, int]

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Self:
        """Read the plan of a folder.

        Args:
            folder: as it was given to `localize` or `prepare` as `out`.

        Returns:
            The plan.

        Raises:
            FileNotFoundError: there is none.
            ValueError: it is not what this version writes.
        """
        path = RunFolder(Path(folder)).plan
        try:
            known = json.loads(path.read_text(encoding="utf-8"))
            if not (isinstance(known["settings"], dict) and known["shard_size"] > 0):
                raise ValueError("its settings are none")
            return cls(Path(folder), **{**known, "class_names": tuple(known["class_names"])})
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{path} is no plan that this version of fastcam can read") from error

    @property
    def files(self) -> RunFolder:
        """Where its files are."""
        return RunFolder(self.folder)

    @property
    def table(self) -> Path:
        """Where the rows go."""
        return self.files.table

    @property
    def shards(self) -> int:
        """How many there are; 0 for samples whose number is not known."""
        return -(-(self.pictures or 0) // self.shard_size)

    def size(self, shard: int) -> int:
        """Count the inputs of a shard.

        Args:
            shard: its index.

        Returns:
            Their number.
        """
        return min(self.shard_size, self.pictures - shard * self.shard_size)

    @property
    def inputs(self) -> Path:
        """Where the list of inputs is."""
        return self.files.inputs

    def part(self, shard: int) -> Path:
        """Tell where the rows of a shard go.

        Args:
            shard: its index.

        Returns:
            A Parquet file.
        """
        return self.files.part(shard)

    def mark(self, shard: int) -> dict[str, Any] | None:
        """Read the mark of a shard.

        Args:
            shard: its index.

        Returns:
            rows, pictures, errors (by code), maps that were searched for boxes, empty ones among them, bytes, blake2b,
            and what was known of the run: batch, the size of the smallest batch it took, outputs, grids and cautions;
            None if the shard is not done.
        """
        part = self.part(shard)
        try:
            mark = json.loads(self.files.mark(shard).read_text(encoding="utf-8"))
            return mark if mark["digest"] == self.digest and part.stat().st_size == mark["bytes"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def missing(self) -> list[int]:
        """List the shards that are not done.

        Returns:
            Their indices, ascending; all of them until the first is done, none once the table is finished.
        """
        if self.finished() is not None:
            return []
        return [shard for shard in range(self.shards) if self.mark(shard) is None]

    def items(self, shard: int) -> Iterator[Item]:
        """Read the inputs of a shard.

        Args:
            shard: its index.

        Returns:
            The inputs, in order.

        Raises:
            OSError: the list cannot be read.
        """
        return read_listing(self.inputs, shard)

    def commit(self, shard: int, rows: list[Row], pictures: int, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Write the rows of a shard, and mark it done once they are on the disk.

        Args:
            shard: its index.
            rows: all of its rows, in the order of its inputs.
            pictures: the number of these.
            facts: what is known of the run by now, see `mark`.

        Returns:
            The mark.

        Raises:
            OSError: they cannot be written; the shard is not marked then.
        """
        part = self.part(shard)
        with replacing(part) as path:
            write_rows(rows, path, self.columns())
            content = path.read_bytes()
        mark = {
            "digest": self.digest,
            "rows": len(rows),
            "pictures": pictures,
            "errors": Counter(row.error.partition(":")[0] for row in rows if row.error is not None),
            "maps": sum(row.box == 1 for row in rows),
            "empty": sum(row.x1 == 0 for row in rows),
            **facts,
            "bytes": len(content),
            "blake2b": digest_of(content),
        }
        write_json(self.files.mark(shard), mark)
        return mark

    def columns(self) -> pa.Schema:
        """Name the columns of this run's tables.

        Returns:
            The schema, with the settings in its metadata.
        """
        return schema(self.settings["maps"], {**self.settings, "plan": self.digest})

    def finished(self) -> Summary | None:
        """Tell whether the table is there, by the audit that is written after it.

        Returns:
            What the audit counted; None if there is none of this plan, or no table.
        """
        try:
            audit = json.loads(self.files.audit.read_text(encoding="utf-8"))
            if audit["plan"] != self.digest or not self.table.exists():
                return None
            errors, ignored = dict(audit["errors"]), dict(audit["ignored"])
            counts = audit["pictures"], audit["rows"], sum(errors.values()), errors, ignored, audit.get("empty", 0)
            return Summary(self.table, *counts, audit.get("outputs"), tuple(audit.get("cautions", ())))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def finish(self, alone: bool = True) -> Summary | None:
        """Put the parts together, compare the table with the inputs, and clean up.

        For one process, when all shards are marked. Parts are discarded that no longer have the bytes they were marked
        with. Where the table is there already, what a process left that was killed while it cleaned up is removed.

        Args:
            alone: whether nobody else is at work in the folder, so that what killed ranks have left is removed, too.

        Returns:
            What was counted; None if shards are missing.

        Raises:
            OSError: the table cannot be written.
            RuntimeError: the table has not each input once, in order; it gets no name then.
        """
        if self.finished() is None:
            if self.missing() or self.discard():
                return None
            marks = [mark for _, mark in self._marks()]
            with replacing(self.table) as path:
                merge((self.part(shard) for shard in range(len(marks))), path, self.columns())
                keys = (item.key for item in read_listing(self.inputs)) if self.listed else None
                counts = audit(path, keys)._asdict()
            if not self.listed:
                counts["pictures"] = sum(mark["pictures"] for mark in marks)
            smallest = min((mark["batch"] for mark in marks), default=self.settings["batch_size"])
            known = {"plan": self.digest, **counts, "ignored": self.ignored, "smallest_batch": smallest}
            known |= {name: sum(mark[name] for mark in marks) for name in ("maps", "empty")}
            known["outputs"] = next((mark["outputs"] for mark in marks if mark["outputs"] is not None), None)
            said = [caution for mark in marks for caution in mark["cautions"]]
            if self.settings["method"] != "cam":  # whose maps are constant where the picture is, whatever the layer
                grids = {name: grid for mark in marks for name, grid in mark["grids"].items()}
                said.append(constant(known["empty"], known["maps"], grids))
            known["cautions"] = [*dict.fromkeys(caution for caution in said if caution is not None)]
            known["bytes"] = self.table.stat().st_size
            write_json(self.files.audit, known)
        self.files.remove_parts(alone)
        return self.finished()

    def intact(self) -> bool:
        """Tell whether the finished table still has its size.

        Returns:
            Whether it has that of the audit.

        Raises:
            OSError: there is no table, or no audit.
        """
        audit = json.loads(self.files.audit.read_text(encoding="utf-8"))
        return audit.get("bytes") == self.table.stat().st_size

    def salvage(self) -> tuple[Path, int]:
        """Put the parts of a run together that cannot be resumed.

        Returns:
            boxes.partial.parquet and its number of rows; without rows it is not written.

        Raises:
            OSError: it cannot be written.
        """
        path = self.files.partial
        rows = sum(mark["rows"] for _, mark in self._marks())
        if not rows:
            return path, 0
        with replacing(path) as temporary:
            merge((self.part(shard) for shard, _ in self._marks()), temporary, self.columns())
        self.files.remove_parts()
        return path, rows

    def discard(self) -> list[int]:
        """Unmark the shards whose parts no longer have the bytes they were marked with.

        Returns:
            Their indices.
        """
        changed = [i for i, mark in self._marks() if digest_of(self.part(i).read_bytes()) != mark["blake2b"]]
        for shard in changed:
            self.files.mark(shard).unlink()
        return changed

    def _marks(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Done shards in order; of samples all that there are, of files all."""
        shard = 0
        while (mark := self.mark(shard)) is not None:
            yield shard, mark
            shard += 1


def digest_of(content: bytes) -> str:
    """Digest bytes.

    Args:
        content: any.

    Returns:
        32 hexadecimal digits.
    """
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of JSON, whole or not at all.

    Args:
        path: the file.
        value: of JSON's kinds.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
