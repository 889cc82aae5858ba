"""The evaluator beside the plain one, from finished maps to figures: ``python -m benchmarks.bench_evaluation``.

The plain evaluator is OpenCV at each of 1000 thresholds (`opencv_iou_curves` in `fastcam.bench.operators`) and NumPy's
histograms picture by picture. Maps are 14x14 noise upsampled bicubically to 224x224. Contestants take turns, a few maps
at a time where one takes tens of milliseconds each; medians are compared. fastcam's side is all of `Evaluator.add`:
checks, ground truth, curves, sums; once without and once with 200 replicates for confidence intervals.
"""

import resource
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

import numpy as np
import torch
import typer

from fastcam._memory import keep_memory
from fastcam.bench import cpu, operators
from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS, Evaluator

DTYPES = {"float32": torch.float32, "float64": torch.float64}


class Contest:
    """A batch of maps with boxes and masks, and who works on it."""

    def __init__(self, images: int, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.images = images
        self.maps = PROTOCOLS["standard"].upsample(torch.randn(images, 14, 14)).to(dtype)
        self.boxes, self.owner = operators.truth_boxes(images)
        self.masks = operators.truth_masks(images)
        self.ids = [f"{index}.jpg" for index in range(images)]
        size = (224, 224)
        self.boxed = [Sample(None, None, box[None].float().numpy(), None, size) for box in self.boxes]
        self.masked = [Sample(None, None, None, mask.numpy(), size) for mask in self.masks]

    def fastcam(self, metrics: list[str], replicates: int) -> Callable[[], object]:
        """A whole batch."""
        evaluator = Evaluator(metrics=metrics, bootstrap=replicates)
        truths = self.masked if metrics == ["PxAP"] else self.boxed
        return lambda: evaluator.add(self.ids, self.maps, truths)

    def plain_boxes(self, rules: dict[str, tuple[float, ...]], some: int) -> Callable[[], object]:
        """A few maps at a time: BoxAcc at each δ of each kind of contours."""
        starts = cycle(range(0, self.images - some + 1, some))
        hits = {(contours, delta): np.zeros(1000) for contours, deltas in rules.items() for delta in deltas}

        def call() -> None:
            part = slice(start := next(starts), start + some)
            for contours, deltas in rules.items():
                curves = operators.opencv_iou_curves(self.maps[part], self.boxes[part], self.owner[:some], contours)
                for delta in deltas:
                    hits[contours, delta] += (curves >= delta).sum(0)

        return call

    def plain_pixels(self, some: int) -> Callable[[], object]:
        """The same for PxAP."""
        starts = cycle(range(0, self.images - some + 1, some))
        total = np.zeros((2, 1002))

        def call() -> None:
            part = slice(start := next(starts), start + some)
            np.add(total, operators.numpy_score_histograms(self.maps[part], self.masks[part]).sum(0), out=total)

        return call


def rows(images: int, some: int, seconds: float) -> list[str]:
    """A line of Markdown for each figure and dtype."""
    largest, every = {"largest": (0.5,)}, {"all": (0.3, 0.5, 0.7)}
    work = {
        "MaxBoxAcc": (["MaxBoxAcc"], largest),
        "MaxBoxAccV2": (["MaxBoxAccV2"], every),
        "both": (["MaxBoxAcc", "MaxBoxAccV2"], largest | every),
        "PxAP": (["PxAP"], None),
    }
    lines = [
        "| figure | maps | plain | fastcam | ratio | with intervals | ratio |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, (metrics, rules) in work.items():
        for kind, dtype in DTYPES.items():
            contest = Contest(images, dtype)
            plain = contest.plain_pixels(images) if rules is None else contest.plain_boxes(rules, some)
            calls = {"plain": plain, "off": contest.fastcam(metrics, 0), "on": contest.fastcam(metrics, 200)}
            times = cpu.interleaved(calls, seconds)
            plain, off, on = (
                1e6 * times[key] / (some if key == "plain" and rules is not None else images) for key in calls
            )
            lines.append(
                f"| {name} | {kind} | {plain:.0f} | {off:.0f} | {plain / off:.0f} | {on:.0f} | {plain / on:.0f} |"
            )
    return lines


def memory(images: int, batches: int) -> str:
    """Resident memory while pictures go by."""
    contest, evaluator = Contest(images, torch.float32), Evaluator(num_classes=200)
    truths = [truth._replace(label=index % 200) for index, truth in enumerate(contest.boxed)]

    def after(count: int) -> float:
        for _ in range(count):
            evaluator.add(contest.ids, contest.maps, truths)
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6

    few, many = after(batches), after(9 * batches)
    return (
        f"Resident memory after {images * batches} pictures {few:.0f} MB, after {10 * images * batches} {many:.0f} MB"
    )


def main(
    threads: int = 1, images: int = 64, some: int = 4, seconds: float = 10.0, batches: int = 5, out: Path | None = None
) -> None:
    """Prints a row for each figure; ``--out`` writes the same table as Markdown."""
    cpu.set_threads(threads)
    keep_memory()
    lines = [
        f"{cpu.processor()}, {cpu.versions()}; {threads} thread{'s' if threads > 1 else ''}, {images} pictures a "
        "batch, microseconds a picture",
        "",
        *rows(images, some, seconds),
        "",
        memory(images, batches),
    ]
    print("\n".join(lines))
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
