"""The plan of a run and its parts on disk: what is to be done, and what is done.

`planned` makes a folder ready for a run, or finds it planned already, and holds it while the run is at work.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Self

import pyarrow as pa
from torch import nn

from fastcam._files import replacing
from fastcam.data.matching import in_classes
from fastcam.localization.inputs import FileInput, Files, SampleInput, Samples, open_source, read_listing
from fastcam.localization.run_settings import RunSettings, choose_network, decide
from fastcam.localization.settings import LocalizeSettings
from fastcam.methods.cautions import constant, tell
from fastcam.methods.scores import Outputs, describe, named
from fastcam.models import ModelConfig
from fastcam.runs.folder import RunFolder
from fastcam.runs.schema import Row, merge, schema, write_rows
from fastcam.runs.table import Audit, audit


class LocalizationSummary(NamedTuple):
    """What a run did.

    Attributes:
        path: the table of boxes.
        pictures: how many there were.
        rows: how many rows were written, at least one for each picture.
        errors: how many pictures have an error row instead of boxes.
        codes: the same by code of `ERRORS`.
        ignored: files that were passed over, by suffix.
        empty: how many rows have no box, since their map is constant or not finite.
        outputs: what the network's outputs were taken for, see `fastcam.methods.scores.recognise`; None if the
            network has seen no picture.
        cautions: why maps of the run may show nothing, or something else than it seems.
        network: how the network ran where it was to be frozen, and why; None elsewhere.
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
    network: str | None = None

    def warned(self) -> Self:
        """Itself, once who called its caller has been warned of the cautions, each a `fastcam.methods.MapWarning`."""
        tell(self.cautions, stacklevel=4)  # between the two is what takes the options one by one
        return self


class Findings(NamedTuple):
    """What was found of the network by running it.

    Attributes:
        batch: size of the smallest batch that was needed to get by with the memory.
        outputs: what its outputs are, see `fastcam.methods.scores`; None before the first batch.
        grids: (height, width) of each target layer's maps.
        cautions: of the method.
        network: how it ran, where that was a choice.
    """

    batch: int
    outputs: Outputs | None
    grids: Mapping[str, tuple[int, int]]
    cautions: Sequence[str | None]
    network: str | None


@dataclass(frozen=True)
class Mark:
    """That a shard is done, as JSON beside its part.

    Attributes:
        digest: of the plan.
        rows: of the part.
        pictures: inputs.
        errors: pictures that failed, by code.
        maps: how many were searched for boxes.
        empty: those of them that had none.
        batch: as in `Findings`, and all until `network`.
        bytes: of the part.
        blake2b: its digest.
    """

    digest: str
    rows: int
    pictures: int
    errors: Mapping[str, int]
    maps: int
    empty: int
    batch: int
    outputs: Outputs | None
    grids: Mapping[str, tuple[int, int]]
    cautions: Sequence[str | None]
    network: str | None
    bytes: int
    blake2b: str


@dataclass(frozen=True)
class RunAudit:
    """What was counted in a finished table, as JSON beside it; names as in `Mark` and `LocalizationSummary`."""

    plan: str
    pictures: int
    rows: int
    errors: Mapping[str, int]
    ignored: Mapping[str, int]
    smallest_batch: int
    maps: int
    empty: int
    outputs: Outputs | None
    cautions: Sequence[str]
    bytes: int
    network: str | None = None  # which earlier versions do not write


@dataclass(frozen=True)
class Plan:
    """A run in a folder. Everything is on disk, so that any process may load it.

    Attributes:
        folder: where.
        settings: what decides about rows.
        class_names: of the model, () if unknown.
        digest: of settings and inputs, 32 hexadecimal digits.
        pictures: number of inputs; None for samples whose number is not known.
        shard_size: pictures in a shard, a multiple of the batch size.
        listed: whether the inputs are files, so that the run can be resumed.
        ignored: files that were passed over, by suffix.
        network: how it is to run, and why, where that was measured.
    """

    folder: Path
    settings: RunSettings
    class_names: tuple[str, ...]
    digest: str
    pictures: int | None
    shard_size: int
    listed: bool
    ignored: Mapping[str, int]
    network: str | None = None

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
            if not known["shard_size"] > 0:
                raise ValueError("its shards have no size")
            settings = RunSettings.from_json(known["settings"])
            return cls(Path(folder), **{**known, "settings": settings, "class_names": tuple(known["class_names"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{path} is no plan that this version of fastcam can read") from error

    def write(self) -> None:
        """Put it where `load` reads it."""
        values = {name: value for name, value in vars(self).items() if name != "folder"}
        _write_json(self.files.plan, {**values, "settings": self.settings.to_json()})

    @property
    def files(self) -> RunFolder:
        """Where its files are."""
        return RunFolder(self.folder)

    @property
    def table(self) -> Path:
        """Where the rows go."""
        return self.files.table

    @property
    def inputs(self) -> Path:
        """Where the list of inputs is."""
        return self.files.inputs

    @property
    def shards(self) -> int:
        """How many there are; 0 for samples whose number is not known."""
        return -(-(self.pictures or 0) // self.shard_size)

    def size(self, shard: int) -> int:
        """The number of inputs of a shard."""
        return min(self.shard_size, (self.pictures or 0) - shard * self.shard_size)

    def part(self, shard: int) -> Path:
        """Where the rows of a shard go, a Parquet file."""
        return self.files.part(shard)

    def mark(self, shard: int) -> Mark | None:
        """The mark of a shard; None if it is not done."""
        try:
            mark = Mark(**json.loads(self.files.mark(shard).read_text(encoding="utf-8")))
            return mark if mark.digest == self.digest and self.part(shard).stat().st_size == mark.bytes else None
        except (OSError, ValueError, TypeError):
            return None

    def missing(self) -> list[int]:
        """The shards that are not done, ascending: all until the first is done, none once the table is finished."""
        if self.finished() is not None:
            return []
        return [shard for shard in range(self.shards) if self.mark(shard) is None]

    def done(self) -> int:
        """The number of pictures in shards that are done."""
        return (self.pictures or 0) - sum(map(self.size, self.missing()))

    def items(self, shard: int) -> Iterator[FileInput]:
        """The inputs of a shard, in order; OSError if the list cannot be read."""
        return read_listing(self.inputs, shard)

    def commit(self, shard: int, rows: list[Row], pictures: int, findings: Findings) -> Mark:
        """Write the rows of a shard, in the order of its inputs, and mark it done once they are on the disk.

        Raises:
            OSError: they cannot be written; the shard is not marked then.
        """
        part = self.part(shard)
        with replacing(part) as path:
            write_rows(rows, path, self.columns())
            content = path.read_bytes()
        mark = Mark(
            digest=self.digest,
            rows=len(rows),
            pictures=pictures,
            errors=Counter(row.error.partition(":")[0] for row in rows if row.error is not None),
            maps=sum(row.box == 1 for row in rows),
            empty=sum(row.x1 == 0 for row in rows),
            **findings._asdict(),
            bytes=len(content),
            blake2b=_digest(content),
        )
        _write_json(self.files.mark(shard), vars(mark))
        return mark

    def columns(self, outputs: Outputs | None = None) -> pa.Schema:
        """The columns of this run's tables, with the settings in the metadata; and how scores are made, if known."""
        settings = self.settings.to_json()
        if outputs is None:
            return schema(self.settings.options.maps, {**settings, "plan": self.digest})
        made = {"scores": named(outputs), "plan": self.digest}
        return schema(self.settings.options.maps, {**settings, **made}, describe(outputs))

    def audited(self) -> RunAudit | None:
        """What was counted in the table; None if there is no table of this plan."""
        try:
            found = RunAudit(**json.loads(self.files.audit.read_text(encoding="utf-8")))
            return found if found.plan == self.digest and self.table.exists() else None
        except (OSError, ValueError, TypeError):
            return None

    def finished(self) -> LocalizationSummary | None:
        """What the run did, by the audit that is written after the table; None if it is not finished."""
        found = self.audited()
        if found is None:
            return None
        return LocalizationSummary(
            self.table,
            found.pictures,
            found.rows,
            sum(found.errors.values()),
            dict(found.errors),
            dict(found.ignored),
            found.empty,
            found.outputs,
            tuple(found.cautions),
            found.network,
        )

    def finish(self) -> LocalizationSummary | None:
        """Put the parts together, compare the table with the inputs, and clean up: by one process, at the end.

        Parts are discarded that no longer have the bytes they were marked with. Where the table is there already, what
        a process left that was killed while it cleaned up is removed.

        Returns:
            What was counted; None if shards are missing.

        Raises:
            OSError: the table cannot be written.
            RuntimeError: the table has not each input once, in order; it gets no name then.
        """
        if self.audited() is None:
            if self.missing() or self.discard():
                return None
            marks = [mark for _, mark in self._marks()]
            with replacing(self.table) as path:
                merge((self.part(shard) for shard in range(len(marks))), path, self.columns(_outputs(marks)))
                counts = audit(path, (entry.key for entry in read_listing(self.inputs)) if self.listed else None)
            _write_json(self.files.audit, vars(self._audit(counts, marks)))
        self.files.remove_parts()
        return self.finished()

    def _audit(self, counts: Audit, marks: Sequence[Mark]) -> RunAudit:
        maps, empty = sum(mark.maps for mark in marks), sum(mark.empty for mark in marks)
        cautions = [caution for mark in marks for caution in mark.cautions]
        ran = [mark.network for mark in marks[:1]]  # the others did the same
        if self.settings.options.method != "cam":  # whose maps are constant where the picture is, whatever the layer
            grids = {name: grid for mark in marks for name, grid in mark.grids.items()}
            cautions.append(constant(empty, maps, grids))
        return RunAudit(
            plan=self.digest,
            pictures=sum(mark.pictures for mark in marks) if counts.pictures is None else counts.pictures,
            rows=counts.rows,
            errors=counts.errors,
            ignored=self.ignored,
            smallest_batch=min((mark.batch for mark in marks), default=self.settings.batch_size),
            maps=maps,
            empty=empty,
            outputs=_outputs(marks),
            cautions=[*dict.fromkeys(caution for caution in cautions if caution is not None)],
            bytes=self.table.stat().st_size,
            network="; ".join(filter(None, (self.network, *ran))) or None,
        )

    @contextlib.contextmanager
    def resumable(self) -> Iterator[None]:
        """Let errors within the block say how much is done, and that the rest needs but the same call."""
        try:
            yield
        except BaseException as error:
            done = self.shards - len(self.missing())
            error.add_note(f"{done} of {self.shards} parts are done; the same call computes the rest")
            raise

    def intact(self) -> bool:
        """Whether the finished table still has its size."""
        found = self.audited()
        return found is not None and found.bytes == self.table.stat().st_size

    def salvage(self) -> tuple[Path, int]:
        """Put the parts of a run together that cannot be resumed.

        Returns:
            boxes.partial.parquet and its number of rows; without rows it is not written.

        Raises:
            OSError: it cannot be written.
        """
        path = self.files.partial
        rows = sum(mark.rows for _, mark in self._marks())
        if rows:
            with replacing(path) as temporary:
                parts = (self.part(shard) for shard, _ in self._marks())
                merge(parts, temporary, self.columns(_outputs(mark for _, mark in self._marks())))
            self.files.remove_parts()
        return path, rows

    def discard(self) -> list[int]:
        """Unmark the shards whose parts no longer have the bytes they were marked with, and return them."""
        changed = [i for i, mark in self._marks() if _digest(self.part(i).read_bytes()) != mark.blake2b]
        for shard in changed:
            self.files.mark(shard).unlink()
        return changed

    def _marks(self) -> Iterator[tuple[int, Mark]]:
        """Done shards in order; of samples all that there are, of files all."""
        shard = 0
        while (mark := self.mark(shard)) is not None:
            yield shard, mark
            shard += 1


def _outputs(marks: Iterable[Mark]) -> Outputs | None:
    """What the network's outputs are, by the first shard in which it has seen a picture."""
    return next((mark.outputs for mark in marks if mark.outputs is not None), None)


_held: set[int] = set()  # folders that this process holds, but not those that it forks, which may outlive it


def _let_go() -> None:
    while _held:
        os.close(_held.pop())


os.register_at_fork(after_in_child=_let_go)


class Planned(NamedTuple):
    """A plan whose folder is ready and held, and the inputs where the plan does not list them."""

    plan: Plan
    samples: Iterator[SampleInput] | None


@contextlib.contextmanager
def planned(
    model: nn.Module,
    source: Any,
    config: ModelConfig | None,
    options: LocalizeSettings,
    out: str | os.PathLike[str],
    *,
    listed: bool = True,
) -> Iterator[Planned]:
    """Plan a run, or find it planned already, and hold its folder: no other process plans or runs there meanwhile.

    A run that is resumed keeps its own size of shards. With `listed` only inputs that are files are taken.

    Raises:
        FileExistsError: the folder has a run of another plan, and the message says what differs; or files that no plan
            of fastcam's tells of.
        FileNotFoundError, TypeError, ValueError: as `fastcam.localization.localize`.
        OSError: another process holds the folder, the plan cannot be written, or inputs cannot be listed.
    """
    run = RunFolder(Path(out))
    settings = decide(model, config, options)
    names = () if config is None else tuple(config.class_names)
    if options.targets == "label":
        source = in_classes(source, names, None if config is None else config.num_classes)
    opened = open_source(source, options.targets, options.overlays)
    files = opened if isinstance(opened, Files) else None
    if files is None and listed:
        raise TypeError(f"`source` must be picture files, got {type(source).__name__}")
    if files is not None:
        next(iter(files), None)  # what is wrong from the start is said before anything is touched
        if isinstance(files.source, list):
            run.refuse_sources(files.source)
    with _hold(run.path):
        count = opened.count if isinstance(opened, Samples) else None
        plan = _plan(run, model, settings, names, options, files, count)
        if files is not None and files.asked is not None:
            files.asked.warn(3)
        yield Planned(plan, opened.inputs if isinstance(opened, Samples) else None)


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Make a folder and lock it until the end, or until this process is killed; the kernel sees to that.

    The folder itself is what is locked: a file for it would be one more in there. Some file systems, such as NFS, have
    no locks for folders: there it is only made.
    """
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    _held.add(handle)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(f"another process is at work in {folder}: wait for it, or choose another `out`") from None
        except OSError:
            pass
        yield
    finally:
        _held.discard(handle)
        os.close(handle)


def _plan(
    run: RunFolder,
    model: nn.Module,
    settings: RunSettings,
    names: tuple[str, ...],
    options: LocalizeSettings,
    files: Files | None,
    count: int | None,
) -> Plan:
    """The plan that the folder has, if it is this one; else a new one, unless another or something else is there."""
    try:
        old = Plan.load(run.path)
    except (OSError, ValueError):
        old = None
    if old is None and (foreign := next(run.own_files(), None)) is not None:
        raise FileExistsError(
            f"{foreign} is there, and no plan of this version of fastcam that tells of it: choose another `out`"
        )
    if options.threads is None and old is not None:
        settings = replace(settings, threads=old.settings.threads or settings.threads)
    network: str | None = None
    if options.compile == "auto":
        choice = None if old is None else old.settings.options.compile
        if old is None or options.overwrite:
            count = sum(1 for _ in files) if files is not None else count
            choice, network = choose_network(model, settings, count)
        settings = replace(settings, options=replace(settings.options, compile=choice))
    shard_size = -(-options.shard_size // settings.batch_size) * settings.batch_size  # of whole batches

    def plan(listing: str, count: int | None) -> Plan:
        batch = settings.batch_size if count is None else max(1, min(settings.batch_size, count))
        decided = replace(settings, batch_size=batch)
        digest = _digest(json.dumps([decided.to_json(), names, listing], sort_keys=True).encode())
        ignored = {} if files is None else dict(files.ignored)
        return Plan(run.path, decided, names, digest, count, shard_size, files is not None, ignored, network)

    def listed(path: Path | None = None, group: int = 1) -> Plan:
        return plan("samples", count) if files is None else plan(*files.listing(path, group, options.hash_content))

    if old is not None:
        made = listed()
        same = made.digest == old.digest
        if same and files is not None and (not options.overwrite or old.finished() is None):
            if old.finished() is None and _moved(old, files):
                with replacing(old.inputs) as path:
                    if listed(path, old.shard_size).digest != old.digest:
                        raise OSError("pictures change while they are listed: wait until they are complete")
            elif old.finished() is not None and not old.intact():
                raise FileExistsError(f"{old.table} is not as the run left it: `overwrite` computes it anew")
            return old
        if not options.overwrite and (old.table.exists() or not same):
            what = f"{old.table} exists already" if old.table.exists() else f"{run.path} has an unfinished run"
            why = "" if same else f", made by another plan ({_difference(old, made, files, options.hash_content)})"
            raise FileExistsError(f"{what}{why}: choose another folder, or `overwrite` it")
    with _writing(run.path):
        run.clear()
    if files is None:
        made = listed()
        made.write()
    else:
        # The plan before the list: without a plan, nothing in the folder counts as fastcam's.
        with replacing(run.inputs) as path:
            made = listed(path, shard_size)
            made.write()
    return made


def _moved(old: Plan, files: Files) -> bool:
    """Whether the list lacks, or has the files at other places than they have now."""
    try:
        places = zip(read_listing(old.inputs), files, strict=True)
        return any(there.path != Path(os.path.abspath(here.path)) for there, here in places)
    except (OSError, ValueError):
        return True


def _difference(old: Plan, new: Plan, files: Files | None, content: bool) -> str:
    """Name what differs between two plans."""
    found = []
    settings = old.settings.to_json(), new.settings.to_json()
    for name in sorted(settings[1]):
        there, here = (values[name] for values in settings)
        if there != here:
            found.append(name if name == "weights" else f"{name}: {there} there, {here} here")
    if old.class_names != new.class_names:
        found.append("class names")
    if old.listed != new.listed:
        found.append("a data set without files")
    elif old.pictures != new.pictures:
        found.append(f"pictures: {old.pictures} there, {new.pictures} here")
    elif not found and files is not None:
        found.append(_changed(old, files, content))
    elif found == [f"overlays: {old.settings.options.overlays} there, {new.settings.options.overlays} here"]:
        found[0] += "; drawings change no row, but are made with them"
    return "; ".join(found)


def _changed(old: Plan, files: Files, content: bool) -> str:
    """Name the first picture that is not as the list has it, and what of it."""
    for there, here in zip_longest(read_listing(old.inputs), files):
        if there is None or here is None or there.key != here.key:
            return f"pictures: {(there or here).key} is there only"
        state = here.look(content)
        if state[:2] == there.state[:2] and (state.content is None) != (there.state.content is None):
            return f"hash_content: {there.state.content is not None} there, {content} here"
        kinds = {
            "size": state.size != there.state.size,
            "time": state.time != there.state.time,
            "content": state.content != there.state.content,
            "class": here.targets != there.targets,
            "place": (here.part or (None,))[0] != (there.part or (None,))[0],
        }
        if differ := [kind for kind, changed in kinds.items() if changed]:
            return f"{' and '.join(differ)} of {here.key}"
    return "an earlier version of fastcam, which had fewer settings"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # of its own kind it would be taken for an input that is missing
        raise OSError(f"cannot write to {folder}: {error.strerror or error}") from error


def _digest(content: bytes) -> str:
    """32 hexadecimal digits."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a file of JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
