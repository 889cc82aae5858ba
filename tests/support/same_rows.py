"""The same pictures through a ResNet18 by every engine, number of workers and size of shards, some runs resumed.

``python -m tests.support.same_rows`` tries them all (minutes), and compares with other batch sizes and numbers of
threads. The tests of the engines do so with a tiny network. Pictures are drawn, weights random and seeded.
"""

import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import ray
import torch
from PIL import Image
from torch import nn

from fastcam import models
from fastcam.data.shapes import Shapes
from fastcam.localization import Worker, engines, localize, prepare
from fastcam.models import ModelConfig

CLASSES = 10
DAMAGED = ("cut.jpg", "cut.png", "empty.webp", "text.png")
ENGINES = (("local", 1), ("local", 2), ("local", 3), ("torchrun", 2), ("ray", 2))
SHARDS = (1, 7, 64)
PORT = "29555"  # where ranks meet


def draw(folder: Path, count: int) -> Path:
    """Pictures of many sizes, shapes, modes and formats, and four that cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = Shapes("train", count, size=160)
    for index in range(count):
        rng = np.random.default_rng(index)
        image = Image.fromarray(np.asarray(shapes[index].image))
        image = image.resize(tuple(map(int, rng.integers(1 if index % 10 == 9 else 60, 500, 2))))
        image = image.convert(("RGB", "L", "RGB", "P", "RGB")[index % 5])
        suffix = ("png", "jpg", "webp")[index % 3] if image.mode in ("RGB", "L") else "png"
        exif = Image.Exif()
        exif[0x0112] = 1 + index % 8  # orientation
        image.save(folder / f"{index:04d}.{suffix}", **({"exif": exif} if suffix == "jpg" else {}))
    for name, source in (("cut.jpg", "0001.jpg"), ("cut.png", "0000.png")):
        data = (folder / source).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    (folder / "empty.webp").touch()
    (folder / "text.png").write_text("no picture")
    return folder


def network() -> nn.Module:
    torch.manual_seed(0)
    return models.build("resnet18", CLASSES).eval()


def options(size: int, batch: int = 4, threads: int = 1, threshold: float = 0.2) -> dict[str, Any]:
    config = ModelConfig("resnet18", CLASSES, size=size, threshold=threshold)
    return {"config": config, "batch_size": batch, "threads": threads, "top_k": 2, "maps": True, "progress": False}


def rank(folder: str, out: str, given: dict[str, Any], index: int, world: int) -> None:
    os.environ.update(RANK=str(index), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=PORT)
    engines.localize(network(), folder, out=out, engine="torchrun", **given)


def run(folder: Path, out: Path, engine: str, count: int, given: dict[str, Any], done: random.Random | None) -> None:
    """One run. With `done`, some of its shards are done before by this process, in an order that it draws."""
    if done is not None:
        plan = prepare(network(), folder, out=out, **{name: given[name] for name in given if name != "progress"})
        with Worker(plan, network()) as worker:
            worker.run(done.sample(range(plan.shards), plan.shards // 2))
    if engine == "local":
        localize(network(), folder, out=out, workers=count, **given)
    elif engine == "ray":
        if not ray.is_initialized():
            ray.init("local", num_cpus=count, include_dashboard=False, logging_level="ERROR")
        engines.localize(network(), folder, out=out, engine="ray", **given)
    else:
        context = multiprocessing.get_context("forkserver")
        ranks = [context.Process(target=rank, args=(str(folder), str(out), given, i, count)) for i in range(count)]
        for process in ranks:
            process.start()
        for process in ranks:
            process.join()
        assert [process.exitcode for process in ranks] == [0] * count


class Difference(NamedTuple):
    """How much two tables of the same pictures differ at most.

    Attributes:
        score: of a class of a picture.
        moved: by how many of the picture's pixels an edge of a box is elsewhere, for each row.
        where: the rows that moved by more than one: picture, its size, rank, pixels.
    """

    score: float
    moved: np.ndarray
    where: list[str]


def compare(ours: Path, theirs: Path) -> Difference:
    scores, moved, where = [0.0], [], []
    for a, b in zip(*(pq.read_table(out / "boxes.parquet").to_pylist() for out in (ours, theirs)), strict=True):
        for name in ("image_id", "rank", "class_id", "status", "error", "width", "height"):
            assert a[name] == b[name], (a, b)
        if a["status"] == "ok":
            scores.append(abs(a["score"] - b["score"]))
            moved.append(max(abs(a[edge] - b[edge]) for edge in ("x0", "y0", "x1", "y1")))
            if moved[-1] > 1:
                where.append(f"{a['image_id']} {a['width']}x{a['height']} rank {a['rank']}: {moved[-1]:.1f}")
    return Difference(max(scores), np.array(moved), where)


def by_engines(folder: Path, out: Path, size: int, batch: int) -> Iterator[tuple[str, bool]]:
    """Every engine and size of shards, and whether rows and file are those of the first run."""
    first = None
    for (engine, count), shard in product(ENGINES, SHARDS):
        here = out / f"{engine}-{count}-{shard}"
        given = {**options(size, batch), "shard_size": shard}
        run(folder, here, engine, count, given, random.Random(shard) if shard == 7 else None)
        first = first or here
        tables = [pq.read_table(path / "boxes.parquet") for path in (first, here)]
        same = tables[0].to_pylist() == tables[1].to_pylist()
        same &= (first / "boxes.parquet").read_bytes() == (here / "boxes.parquet").read_bytes()
        yield f"{engine} {count}, batches of {batch}, shards of {shard}{', resumed' * (shard == 7)}", same


def variants(folder: Path, out: Path, size: int, threshold: float) -> Iterator[tuple[str, Difference]]:
    """Other batch sizes and numbers of threads, and how they differ from batches of 4 and one thread."""
    localize(network(), folder, out=out / "4-1", **options(size, threshold=threshold))
    for batch, threads in product((1, 3, 8), (1, 2)):
        here = out / f"{batch}-{threads}"
        localize(network(), folder, out=here, **options(size, batch, threads, threshold))
        yield f"threshold {threshold}, batches of {batch}, {threads} threads", compare(here, out / "4-1")


def main(size: int = 224, pictures: int = 50, many: int = 200) -> None:
    ok = True
    with tempfile.TemporaryDirectory() as name:
        folder = draw(Path(name, "pictures"), pictures)
        for batch in (4, 1):
            for what, same in by_engines(folder, Path(name, str(batch)), size, batch):
                print(f"{what}: {'same' if same else 'DIFFERENT'}", flush=True)
                ok &= same
        folder = draw(Path(name, "many"), many)
        for threshold in (0.2, 0.5):
            for what, found in variants(folder, Path(name, str(threshold)), size, threshold):
                print(
                    f"{what}: {len(found.moved)} boxes, scores to {found.score:.1e}, edges to {found.moved.max():.1f} "
                    f"px, beyond 1 px {found.where}",
                    flush=True,
                )
                ok &= found.score <= 1e-5
    sys.exit(not ok)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
