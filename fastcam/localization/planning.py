"""Planning a run: a folder made ready for it, or found to have it already, and held while it is at work."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastcam._files import replacing
from fastcam.data.matching import in_classes
from fastcam.localization.inputs import Files, Item, open_source, read_listing, state_of
from fastcam.localization.plan import Plan, digest_of, write_json
from fastcam.localization.settings import settings_of
from fastcam.models import ModelConfig
from fastcam.runs.folder import RunFolder

_held: set[int] = set()  # folders that this process holds
# Not those that it forks, which may outlive it.
os.register_at_fork(after_in_child=lambda: [os.close(_held.pop()) for _ in tuple(_held)])


@contextlib.contextmanager
def planned(
    model: nn.Module,
    source: Any,
    config: ModelConfig | None,
    options: dict[str, Any],
    *,
    out: str | os.PathLike[str],
    shard_size: int,
    hash_content: bool,
    overwrite: bool,
    listed: bool = True,
) -> Iterator[tuple[Plan, Iterator[Item] | None]]:
    """Plan a run, or find it planned already, and hold its folder: no other process plans or runs there meanwhile.

    Args:
        model: as for `fastcam.localization.localize`, as `source`, `config` and all that follow.
        source: likewise.
        config: likewise.
        options: those of `fastcam.localization.settings.settings_of`.
        out: likewise.
        shard_size: likewise; rounded up to whole batches. A run that is resumed keeps its own.
        hash_content: likewise.
        overwrite: likewise.
        listed: only inputs that are files are taken.

    Yields:
        The plan, with its folder ready; and the inputs, where the plan does not list them.

    Raises:
        FileExistsError: the folder has a run of another plan, and the message says what differs; or files that no plan
            of fastcam's tells of.
        FileNotFoundError, TypeError, ValueError: as `fastcam.localization.localize`.
        OSError: another process holds the folder, the plan cannot be written, or inputs cannot be listed.
    """
    if not isinstance(shard_size, int) or isinstance(shard_size, bool) or shard_size < 1:
        raise ValueError(f"`shard_size` must be a whole number of at least 1, got {shard_size!r}")
    folder = Path(out)
    settings = settings_of(model, config, **options)
    names = () if config is None else tuple(config.class_names)
    if options.get("targets") == "label":
        source = in_classes(source, names, config and config.num_classes)
    opened = open_source(source, options.get("targets"), settings["overlays"])
    files, (items, count) = (opened, (None, None)) if isinstance(opened, Files) else (None, opened)
    if files is None and listed:
        raise TypeError(f"`source` must be picture files, got {type(source).__name__}")
    if files is not None:
        next(iter(files), None)  # what is wrong from the start is told before anything is touched
        if isinstance(files.source, list | tuple):
            RunFolder(folder).refuse_sources(files.source)
    with _hold(folder):
        plan = _plan(folder, settings, names, files, count, shard_size, hash_content, overwrite)
        if files is not None and files.asked is not None:
            files.asked.warn(3)
        yield plan, items


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
    folder: Path,
    settings: dict[str, Any],
    class_names: tuple[str, ...],
    files: Files | None,
    pictures: int | None,
    shard_size: int,
    content: bool,
    overwrite: bool,
) -> Plan:
    try:
        old = Plan.load(folder)
    except (OSError, ValueError):
        old = None
    if old is None and (foreign := next(RunFolder(folder).own_files(), None)) is not None:
        raise FileExistsError(
            f"{foreign} is there, and no plan of this version of fastcam that tells of it: choose another `out`"
        )
    if settings["threads"] is None:
        kept = None if old is None else old.settings.get("threads")
        settings = {**settings, "threads": kept or torch.get_num_threads()}
    shard_size = -(-shard_size // settings["batch_size"]) * settings["batch_size"]

    def plan(listed: str, count: int | None) -> Plan:
        batch = settings["batch_size"] if count is None else max(1, min(settings["batch_size"], count))
        decided = {**settings, "batch_size": batch}
        digest = digest_of(json.dumps([decided, class_names, listed], sort_keys=True).encode())
        ignored = {} if files is None else dict(files.ignored)
        return Plan(folder, decided, class_names, digest, count, shard_size, files is not None, ignored)

    if old is not None:
        made = plan("samples", pictures) if files is None else plan(*files.listing(content=content))
        same = made.digest == old.digest
        if same and old.listed and (not overwrite or old.finished() is None):
            if old.finished() is None and _moved(old, files):
                with replacing(old.inputs) as path:
                    if plan(*files.listing(path, old.shard_size, content)).digest != old.digest:
                        raise OSError("pictures change while they are listed: wait until they are complete")
            elif old.finished() is not None and not old.intact():
                raise FileExistsError(f"{old.table} is not as the run left it: `overwrite` computes it anew")
            return old
        if not overwrite and (old.table.exists() or not same):
            what = f"{old.table} exists already" if old.table.exists() else f"{folder} has an unfinished run"
            why = "" if same else f", made by another plan ({_difference(old, made, files, content)})"
            raise FileExistsError(f"{what}{why}: choose another folder, or `overwrite` it")
    with _writing(folder):
        RunFolder(folder).clear()
    if files is None:
        made = plan("samples", pictures)
        _write(made)
    else:
        # The plan before the list: without a plan, nothing in the folder counts as fastcam's.
        with replacing(RunFolder(folder).inputs) as path:
            made = plan(*files.listing(path, shard_size, content))
            _write(made)
    return made


def _write(plan: Plan) -> None:
    write_json(plan.files.plan, {name: value for name, value in vars(plan).items() if name != "folder"})


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
    for name in sorted({*old.settings, *new.settings}):
        there, here = old.settings.get(name), new.settings.get(name)
        if there != here:
            found.append(name if name == "weights" else f"{name}: {there} there, {here} here")
    if old.class_names != new.class_names:
        found.append("class names")
    if old.listed != new.listed:
        found.append("a data set without files")
    elif old.pictures != new.pictures:
        found.append(f"pictures: {old.pictures} there, {new.pictures} here")
    elif not found:
        found.append(_changed(old, files, content))
    elif found == [f"overlays: {old.settings['overlays']} there, {new.settings['overlays']} here"]:
        found[0] += "; drawings change no row, but are made with them"
    return "; ".join(found)


def _changed(old: Plan, files: Files, content: bool) -> str:
    """Name the first picture that is not as the list has it, and what of it."""
    for there, here in zip_longest(read_listing(old.inputs), files):
        if there.key != here.key:
            return f"pictures: {there.key} is there only"
        size, time, digest = state_of(here, content)
        if (size, time) == (there.size, there.time) and (digest is None) != (there.content is None):
            return f"hash_content: {there.content is not None} there, {content} here"
        now = here._replace(size=size, time=time, content=digest)
        kinds = {"size": "size", "time": "time", "content": "content", "target": "class", "offset": "place"}
        differ = [kind for name, kind in kinds.items() if getattr(there, name) != getattr(now, name)]
        if differ:
            return f"{' and '.join(differ)} of {here.key}"
    return "pictures"


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # of its own kind it would be taken for an input that is missing
        raise OSError(f"cannot write to {folder}: {error.strerror or error}") from error
