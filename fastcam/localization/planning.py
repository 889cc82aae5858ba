"""Planning a run: a folder made ready for it, or found to have it already."""

import json
import os
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from fastcam.localization.inputs import Files, read_listing
from fastcam.localization.plan import Plan, digest_of, remove_parts, write_json
from fastcam.writers import is_overlay, replacing


def prepare_folder(
    out: str | os.PathLike[str],
    settings: dict[str, Any],
    class_names: tuple[str, ...],
    files: Files | None,
    *,
    pictures: int | None = None,
    shard_size: int = 1024,
    content: bool = False,
    overwrite: bool = False,
) -> Plan:
    """Plan a run, or find it planned already.

    Args:
        out: the run's folder.
        settings: what decides about rows. `threads` may be None: then it is that of the plan in the folder, or what
            torch uses; `batch_size` becomes the number of inputs where these are fewer.
        class_names: of the model.
        files: the inputs; None for samples, which start anew every time.
        pictures: the number of samples, if known.
        shard_size: pictures in a shard; rounded up to whole batches. A run that is resumed keeps its own.
        content: whether the content of files counts.
        overwrite: replace a finished table, and whatever another plan left.

    Returns:
        The plan, with its folder ready.

    Raises:
        FileExistsError: the folder has a table, or parts, of another plan; the message says what differs.
        OSError: the plan cannot be written, or inputs cannot be listed.
        ValueError: as the listing.
    """
    folder = Path(out)
    try:
        old = Plan.load(folder)
    except (OSError, ValueError):
        old = None
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

    table = folder / "boxes.parquet"
    if files is None:
        if table.exists() and not overwrite:
            raise FileExistsError(f"{table} exists already: choose another folder, or `overwrite` it")
        made = plan("samples", pictures)
        _clear(folder)
    else:
        if old is not None or table.exists():
            made = plan(*files.listing(content=content))
            if old is not None and made.digest == old.digest and (not overwrite or old.finished() is None):
                return old
            begun = old is not None and old.listed and len(old.missing()) < old.shards
            if not overwrite and (table.exists() or begun):
                what = f"{table} exists already" if table.exists() else f"{folder} has an unfinished run"
                why = "" if old is None else f", made by another plan ({_difference(old, made, files)})"
                raise FileExistsError(f"{what}{why}: choose another folder, or `overwrite` it")
        next(iter(files), None)  # what is wrong from the start is told before anything is touched
        _clear(folder)
        with replacing(folder / "inputs.parquet") as path:
            made = plan(*files.listing(path, shard_size, content))
    known = {name: value for name, value in vars(made).items() if name != "folder"}
    write_json(folder / "plan.json", known)
    return made


def _difference(old: Plan, new: Plan, files: Files) -> str:
    """Name what differs between two plans."""
    found = []
    for name in sorted({*old.settings, *new.settings}):
        there, here = old.settings.get(name), new.settings.get(name)
        if there != here:
            found.append(name if name == "weights" else f"{name}: {there} there, {here} here")
    if old.class_names != new.class_names:
        found.append("class names")
    if old.pictures != new.pictures:
        found.append(f"pictures: {old.pictures} there, {new.pictures} here")
    elif not found and old.listed:
        there = (item.key for item in read_listing(old.inputs))
        changed = next((key for key, item in zip_longest(there, files) if key != item.key), None)
        found.append("sizes, times or classes of pictures" if changed is None else f"pictures: {changed} is there only")
    return "; ".join(found) or "a data set without files"


def _clear(folder: Path) -> None:
    """Make the folder, and remove what an earlier run left in it, but not its table."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_parts(folder)
        for name in ("plan.json", "inputs.parquet", "audit.json", "boxes.partial.parquet"):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / "overlays").glob("*.jpg"):
            if is_overlay(path):
                path.unlink()
    except OSError as error:  # of its own kind it would be taken for an input that is missing
        raise OSError(f"cannot write to {folder}: {error.strerror or error}") from error
