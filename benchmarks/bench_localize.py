"""A whole run beside its parts and beside a plain script: ``python -m benchmarks.bench_localize``.

ResNet18 with random weights at 224², pictures of 500x375 drawn as JPEGs, or those of a folder. Contestants take turns,
medians are compared:

    decode + forward   pictures decoded and resized in threads as fastcam does it, then the bare network in batches
    fastcam            `localize` from the list of files to boxes.parquet, in this process
    fastcam, workers   the same in as many processes as threads, one thread each, without the time to start them
    …, frozen          both with `compile="freeze"`; the time to freeze is in it, and taken off in a row of its own
    …, bfloat16        both with `precision="bfloat16"`, where the processor has instructions for it; other numbers
    plain script       Pillow, torchvision's transforms, Grad-CAM of the package grad-cam, OpenCV's contours, csv

and, of one more run of fastcam, the share of what is neither decoding nor the network, by timers around the functions.
At the end the peak memory of runs of 2,000 and of 20,000 pictures with a tiny network, each in a process of its own.
"""

import csv
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import torch
import typer
from PIL import Image
from torch import nn
from torchvision import transforms

from fastcam import methods, models
from fastcam._memory import keep_memory
from fastcam.bench import cpu
from fastcam.localization import LocalizationSummary, Plan, localize
from fastcam.localization.network import Inference
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess, find_pictures, quiet_pillow, read

BATCH = 32
CONFIG = ModelConfig("resnet18", 1000)


def draw(folder: Path, count: int, size: tuple[int, int] = (500, 375)) -> None:
    """Write smooth pictures, so that the JPEGs are of a usual length."""
    rng = np.random.default_rng(0)
    for index in range(count):
        path = folder / f"{index // 1000:03d}" / f"{index:06d}.jpg"
        path.parent.mkdir(exist_ok=True, parents=True)
        small = Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8))
        small.resize(size, Image.Resampling.BICUBIC).save(path, quality=90)


def parts(model: nn.Module, files: list[Path], threads: int, last: bool) -> Callable[[], object]:
    """Decode all, then run the network on all."""
    preprocess = Preprocess.of(CONFIG)
    order = torch.channels_last if last else torch.contiguous_format

    def call() -> None:
        with quiet_pillow(), ThreadPoolExecutor(threads) as pool:
            frames = list(pool.map(lambda file: preprocess.frame(read(file).pixels)[0], files))
        model.to(memory_format=order)
        with torch.inference_mode():
            for at in range(0, len(frames), BATCH):
                images = preprocess.normalize(torch.from_numpy(np.stack(frames[at : at + BATCH])))
                model(images.contiguous(memory_format=order))
        model.to(memory_format=torch.contiguous_format)

    return call


def ours(model: nn.Module, files: list[Path], threads: int, **chosen: Any) -> Callable[[], float]:
    """A run in this process; it gives the seconds that freezing took."""

    def call() -> float:
        options = {"batch_size": BATCH, "threads": threads, "progress": False, **chosen}
        with tempfile.TemporaryDirectory() as out:
            return frozen_in(localize(model, files, out=out, config=CONFIG, **options))

    return call


def frozen_in(summary: LocalizationSummary) -> float:
    """The seconds that a run says it took to freeze the network, 0 where it did not."""
    found = re.search(r"frozen in ([0-9.]+) s", summary.network or "")
    return float(found[1]) if found else 0.0


def script(model: nn.Module, files: list[Path]) -> Callable[[], object]:
    """What one would write without fastcam."""
    from pytorch_grad_cam import GradCAM

    steps = [transforms.Resize((224, 224)), transforms.ToTensor(), transforms.Normalize(CONFIG.mean, CONFIG.std)]
    transform = transforms.Compose(steps)

    def call() -> None:
        with (
            tempfile.TemporaryFile("w", newline="") as table,
            GradCAM(model=model, target_layers=[model.layer4]) as cam,
        ):
            writer = csv.writer(table)
            for at in range(0, len(files), BATCH):
                pictures = [Image.open(file).convert("RGB") for file in files[at : at + BATCH]]
                maps = cam(torch.stack([transform(picture) for picture in pictures]), targets=None)
                scores, classes = cam.outputs.detach().softmax(1).max(1)
                for i, (map, picture) in enumerate(zip(maps, pictures, strict=True)):
                    mask = (map > 0.2 * map.max()).astype(np.uint8)
                    contours, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
                    x, y, w, h = cv2.boundingRect(max(contours, key=cv2.contourArea)) if contours else (0, 0, 0, 0)
                    scale = np.array(picture.size * 2) / 224
                    box = np.array([x, y, x + w, y + h]) * scale
                    writer.writerow([files[at + i], *picture.size, int(classes[i]), float(scores[i]), *box])

    return call


@contextmanager
def timed(owner: Any, name: str, spent: dict[str, float]) -> Any:
    """Add up the time within a function."""
    function = getattr(owner, name)

    @wraps(function)
    def timer(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin

    setattr(owner, name, timer)
    try:
        yield
    finally:
        setattr(owner, name, function)


def share(run: Callable[[], object]) -> float:
    """Part of a run's time that is neither decoding nor the network and its input."""
    spent: dict[str, float] = {}
    begin = time.perf_counter()
    with (
        timed(Inference, "rows", spent),
        timed(methods, "observe", spent),
        timed(Preprocess, "normalize", spent),
        timed(Plan, "commit", spent),
        timed(Plan, "finish", spent),
    ):
        run()
    after = spent["rows"] - spent["observe"] - spent["normalize"] + spent["commit"] + spent["finish"]
    return after / (time.perf_counter() - begin)


def with_workers(files: list[Path], workers: int, model: nn.Module, **chosen: Any) -> tuple[float, float]:
    """Seconds of a run in several processes without those of starting them, and those of freezing, which are no part.

    A second run of a batch for each process shows how long they take to start.
    """
    times, start = [], 0.0
    few = BATCH * workers
    for some in (files, files[:few]):
        with tempfile.TemporaryDirectory() as out:
            begin = time.perf_counter()
            options = {"batch_size": BATCH, "shard_size": BATCH, "threads": 1, "workers": workers, "progress": False}
            start = frozen_in(localize(model, some, out=out, config=CONFIG, **options, **chosen))
            times.append(time.perf_counter() - begin)
    return (times[0] - times[1]) * len(files) / (len(files) - few), start


class Tiny(nn.Module):
    """A network that takes no time."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 16, stride=16), nn.ReLU())
        self.classifier = nn.Linear(6, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Give logits."""
        return self.classifier(self.features(images).mean((2, 3)))


def peak(count: int) -> float:
    """Peak memory of this process, in MiB, after a run with a tiny network."""
    with tempfile.TemporaryDirectory() as folder:
        draw(Path(folder, "in"), count, (160, 120))
        config = ModelConfig("tiny", 4)
        localize(Tiny(), Path(folder, "in"), out=Path(folder, "out"), config=config, threads=1, progress=False)
    # Not getrusage's: that begins with what the parent had.
    return int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def memory() -> str:
    """Peak memory of few and of many pictures, each in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bench_localize", "--peak-of"]
    few, many = (float(subprocess.check_output([*command, str(count)], text=True)) for count in (2000, 20_000))
    return f"Peak memory {few:.0f} MiB at 2,000 pictures, {many:.0f} MiB at 20,000: {many / few:.3f} times"


def speed(files: list[Path], threads: int, rounds: int, left_out: Collection[str]) -> list[str]:
    """A row for each contestant, and the share of what is neither decoding nor network."""
    model = models.build("resnet18").eval()
    run, base, many = ours(model, files, threads), "decode + forward, channels last", f"fastcam, {threads} workers"
    frozen, start = "fastcam, frozen", ", without the start"
    contestants: dict[str, Callable[[], object]] = {
        base: parts(model, files, threads, True),
        "decode + forward": parts(model, files, threads, False),
        "fastcam": run,
        frozen: ours(model, files, threads, compile="freeze"),
        "plain script": script(model, files),
    }
    bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    if bfloat16:
        contestants["fastcam, bfloat16"] = ours(model, files, threads, precision="bfloat16")
    times: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        for name, call in contestants.items():
            if name in left_out:
                continue
            begin = time.perf_counter()
            froze = call()
            times[name].append(time.perf_counter() - begin)
            if name == frozen:
                times[frozen + start].append(times[name][-1] - froze)
        times[many].append(with_workers(files, threads, model)[0])
        seconds, froze = with_workers(files, threads, model, compile="freeze")
        times[f"{many}, frozen"].append(seconds + froze)
        times[f"{many}, frozen{start}"].append(seconds)
        if bfloat16:
            times[f"{many}, bfloat16"].append(with_workers(files, threads, model, precision="bfloat16")[0])
    medians = {name: statistics.median(values) for name, values in times.items()}
    return [
        "| | pictures a second | time against decode + forward |",
        "|---|---:|---:|",
        *(f"| {name} | {len(files) / s:.1f} | {s / medians[base]:.3f} |" for name, s in medians.items()),
        "",
        f"Neither decoding nor network: {share(run):.2%} of fastcam's time",
    ]


def main(
    pictures: Annotated[Path | None, typer.Option(help="Folder of pictures [drawn].")] = None,
    count: Annotated[int, typer.Option(help="Number of pictures.")] = 512,
    threads: Annotated[int, typer.Option(help="Threads, or worker processes.")] = 2,
    rounds: Annotated[int, typer.Option(help="Turns of each contestant.")] = 7,
    brief: Annotated[bool, typer.Option(help="Without the plain script, channels first, and the memory.")] = False,
    out: Path | None = None,
    peak_of: Annotated[int | None, typer.Option(hidden=True)] = None,
) -> None:
    """Prints what was measured; ``--out`` writes the same as Markdown."""
    if peak_of is not None:
        print(peak(peak_of))
        return
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    keep_memory()
    with tempfile.TemporaryDirectory() as folder:
        if pictures is None:
            draw(Path(folder), count)
        files = [path for _, path in find_pictures([pictures or folder])][:count]
        if len(files) <= BATCH * threads:
            raise typer.BadParameter(f"at least {BATCH * threads + 1} pictures are needed, got {len(files)}")
        lines = [
            f"{cpu.processor()}, {cpu.versions()}; {len(files)} pictures, {threads} threads, resnet18 at 224x224, "
            f"batches of {BATCH}, medians of {rounds} in turns",
            "",
            *speed(files, threads, rounds, ("plain script", "decode + forward") if brief else ()),
        ]
    if not brief:
        lines += ["", memory()]
    print("\n".join(lines))
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
