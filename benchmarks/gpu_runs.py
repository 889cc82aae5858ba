"""Whole runs on this machine's GPU beside their parts: ``python -m benchmarks.gpu_runs --out NAME``.

Pictures of 500x375 drawn as JPEGs, networks with random weights at 224². Rows appear one after the other in NAME.md and
NAME.json, those that compile last:

    decoding               pictures decoded and resized in threads as fastcam does it, or by nvJPEG in batches
    network                the bare network on batches that are on the GPU already: float32, bfloat16, compiled
    by hand                decoding in threads, bfloat16, the weighted sum and upsampling in torch, OpenCV's components
    fastcam                `localize` from the list of files to boxes.parquet: float32, bfloat16, compiled, with CUDA
                           graphs, with nvJPEG

A run is made three times, of two batches, of these again, and of all pictures: the difference of the last two is its
speed, and what is left of the short ones its start.
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.bench_localize import draw
from benchmarks.gpu import Report
from fastcam import localize, models
from fastcam._memory import keep_memory
from fastcam.bench import operators
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess, find_pictures, gpu, quiet_pillow, read, read_encoded

CUDA = torch.device("cuda")


class Contest:
    """The contestants of one network; each is a function of a list of files."""

    def __init__(self, arch: str, batch: int, threads: int):
        self.config, self.batch, self.threads = ModelConfig(arch, 1000), batch, threads
        self.preprocess = Preprocess.of(self.config)
        self.model = models.build(arch).eval().to(CUDA, memory_format=torch.channels_last)

    def batches(self, items: list[Any]) -> Iterator[list[Any]]:
        """Parts of a list, as many as the network takes at once."""
        return (items[at : at + self.batch] for at in range(0, len(items), self.batch))

    def frames(self, files: list[Path]) -> Iterator[Tensor]:
        """Decoded on the CPU a batch ahead of whoever asks, [B, size, size, 3] of bytes."""

        def decoded(some: list[Path]) -> Tensor:
            return torch.from_numpy(
                np.stack(list(pool.map(lambda file: self.preprocess.frame(read(file).pixels)[0], some)))
            )

        with quiet_pillow(), ThreadPoolExecutor(self.threads) as pool, ThreadPoolExecutor(1) as ahead:
            waiting = None
            for some in self.batches(files):
                following = ahead.submit(decoded, some)
                if waiting is not None:
                    yield waiting.result()
                waiting = following
            yield waiting.result()

    def decode(self, files: list[Path]) -> None:
        """On the CPU."""
        for _ in self.frames(files):
            pass

    def nvjpeg(self, files: list[Path]) -> None:
        """On the GPU; files are read one after the other."""
        for some in self.batches(files):
            found = gpu.frames([read_encoded(file).pixels for file in some], self.preprocess, CUDA)
            if any(frame is None for frame in found):
                raise RuntimeError("nvJPEG refused pictures")
        torch.cuda.synchronize()

    def network(self, files: list[Path], model: nn.Module, half: bool) -> None:
        """Without decoding."""
        frames = torch.randint(0, 256, (self.batch, 224, 224, 3), dtype=torch.uint8, device=CUDA)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=half):
            for _ in self.batches(files):
                model(self.preprocess.normalize(frames).contiguous(memory_format=torch.channels_last))
        torch.cuda.synchronize()

    def by_hand(self, files: list[Path]) -> None:
        """What one would write: the class activation map of the predicted class, its largest component's box."""
        kept: dict[str, Tensor] = {}
        linear = self.model.get_submodule("fc")
        hook = self.model.get_submodule("layer4").register_forward_hook(lambda *given: kept.update(features=given[2]))
        try:
            with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
                for frames in self.frames(files):
                    images = self.preprocess.normalize(frames.to(CUDA, non_blocking=True))
                    logits = self.model(images.contiguous(memory_format=torch.channels_last))
                    operators.opencv_class_boxes(kept["features"], linear.weight[logits.argmax(1)], 224)
        finally:
            hook.remove()

    def fastcam(self, files: list[Path], **options: Any) -> None:
        """A run."""
        with tempfile.TemporaryDirectory() as out:
            common = {"config": self.config, "batch_size": self.batch, "progress": False, "threads": self.threads}
            summary = localize(self.model, files, out=out, **common, **options)
        if summary.errors:
            raise RuntimeError(f"{summary.errors} pictures failed")

    def rows(self) -> Iterator[tuple[str, Callable[[list[Path]], None]]]:
        """Names and functions, in order."""
        yield "decoding, CPU", self.decode
        yield "network, bfloat16", partial(self.network, model=self.model, half=True)
        yield "fastcam, bfloat16", partial(self.fastcam, precision="bfloat16")
        if operators.has("cv2"):
            yield "by hand, bfloat16", self.by_hand
        yield f"decoding, nvJPEG of {gpu.library()}", self.nvjpeg
        yield "fastcam, bfloat16, nvJPEG", partial(self.fastcam, precision="bfloat16", decoder="nvjpeg")
        yield "fastcam, float32", self.fastcam
        yield "network, float32", partial(self.network, model=self.model, half=False)

    def compiled(self) -> Iterator[tuple[str, Callable[[list[Path]], None]]]:
        """The same of those that are slow to start."""
        options = {"precision": "bfloat16", "compile": "reduce-overhead"}
        yield "fastcam, bfloat16, CUDA graphs", partial(self.fastcam, **options)
        yield "fastcam, bfloat16, CUDA graphs, nvJPEG", partial(self.fastcam, **options, decoder="nvjpeg")
        model = torch.compile(self.model, mode="reduce-overhead")
        yield "network, bfloat16, CUDA graphs", partial(self.network, model=model, half=True)
        yield "fastcam, bfloat16, compiled", partial(self.fastcam, precision="bfloat16", compile="default")


def measure(call: Callable[[list[Path]], None], files: list[Path], few: int) -> dict[str, float]:
    """Pictures a second, and seconds to start for the first time and again."""
    times = []
    for some in (files[:few], files[:few], files):
        begin = time.perf_counter()
        call(some)
        times.append(time.perf_counter() - begin)
    rate = (len(files) - few) / max(1e-9, times[2] - times[1])
    first, again = (max(0.0, seconds - few / rate) for seconds in times[:2])
    return {"pictures_a_second": rate, "first_start": first, "start": again}


def table(archs: list[str], files: list[Path], batch: int, threads: int, kept: list[dict[str, Any]]) -> Iterator[str]:
    """Rows as they are measured."""
    yield f"{len(files)} JPEGs of 500×375, batches of {batch}, {threads} threads; a start has its compilation in it."
    yield ""
    yield "| network | what | pictures a second | first start, s | start, s |"
    yield "|---|---|---:|---:|---:|"
    contests = [Contest(arch, batch, threads) for arch in archs]
    rows = [(each, row) for kind in (Contest.rows, Contest.compiled) for each in contests for row in kind(each)]
    for contest, (name, call) in rows:
        row: dict[str, Any] = {"network": contest.config.arch, "what": name}
        try:
            row |= measure(call, files, 2 * batch)
            cells = f"{row['pictures_a_second']:.0f} | {row['first_start']:.1f} | {row['start']:.1f}"
        except Exception as error:  # the other rows still count
            row["error"] = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            cells = f"failed: {row['error']} | |"
        kept.append(row)
        yield f"| {contest.config.arch} | {name} | {cells} |"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_runs", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="write NAME.md and NAME.json, too", metavar="NAME")
    parser.add_argument("--pictures", type=int, default=8192, metavar="N")
    parser.add_argument("--batch", type=int, default=256, metavar="N")
    parser.add_argument("--networks", nargs="+", default=["resnet18", "resnet50"], metavar="NAME")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu_runs: no GPU that torch can use", file=sys.stderr)
        return 2
    keep_memory()
    report = Report(options.out)
    threads = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "0"), max(1, options.pictures // 8))
        for copy in range(1, 8):  # drawing takes longer than a run
            shutil.copytree(Path(folder, "0"), Path(folder, str(copy)), copy_function=os.link)
        files = [path for _, path in find_pictures([folder])]
        report.add(table(options.networks, files, options.batch, threads, report.figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
