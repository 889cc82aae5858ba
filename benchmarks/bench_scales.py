"""Maps of four sizes and mirror images beside a plain script: ``python -m benchmarks.bench_scales``.

The script does what the field's do (make_cam.py of Ahn, Cho and Kwak, CVPR 2019): one picture after the other, the
picture and its mirror image in one pass of each scale; maps clipped, brought to one size, summed, divided by their
maximum. Its Grad-CAM differentiates the score by the layer's output, and nothing before it. fastcam gets several
pictures at once, and freezes the network. Pictures are 500 x 375, on two threads.

Times are medians of calls that take turns, so that a busy machine slows all alike. What is not forward passes is what a
call takes beyond the same passes of the same batches by the same network, for which the calls are timed in turns, too.
Peak memory is that of one call in a process of its own, above what that process held before (model, pictures,
libraries).
"""

import copy
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
import typer
from torch import Tensor, nn

import fastcam
from fastcam.bench.cpu import processor, versions
from fastcam.methods.scales import resized
from fastcam.methods.smoothing import mirrored

SCALES = (0.5, 1.0, 1.5, 2.0)
HEIGHT, WIDTH = 375, 500
METHODS = {"cam": fastcam.CAM, "gradcam": fastcam.GradCAM}


class Contest:
    """One network, one method, and what they are timed on."""

    def __init__(self, arch: str, method: str, batch: int) -> None:
        torch.manual_seed(0)
        self.model = fastcam.models.build(arch).eval()
        self.name = method
        self.layer = self.model.get_submodule(fastcam.models.default_target_layer(self.model))
        self.linear = next(m for m in reversed([*self.model.modules()]) if isinstance(m, nn.Linear))
        self.images = torch.randn(batch, 3, HEIGHT, WIDTH)
        self.targets = torch.arange(batch) * 7

    def script(self, images: Tensor) -> Tensor:
        """[N, 375, 500] by the plain script."""
        return torch.stack([self._one(*pair) for pair in zip(images, self.targets[: len(images)], strict=True)])

    def _one(self, picture: Tensor, target: Tensor) -> Tensor:
        parts = []
        for scale in SCALES:
            view = picture[None]
            if scale != 1:
                size = [round(side * scale) for side in picture.shape[-2:]]
                view = F.interpolate(view, size, mode="bicubic", antialias=True)
            maps = self._maps(torch.cat([view, view.flip(-1)]), int(target)).relu()
            parts.append(maps[0] + maps[1].flip(-1))
        grid = parts[-1].shape
        total = sum(F.interpolate(part[None, None], grid, mode="bilinear", align_corners=False) for part in parts)
        full = F.interpolate(total, picture.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        return full / full.max()

    def _maps(self, views: Tensor, target: int) -> Tensor:
        kept: list[Tensor] = []
        handle = self.layer.register_forward_hook(lambda module, given, output: kept.append(output))
        try:
            with torch.set_grad_enabled(self.name == "gradcam"):
                logits = self.model(views)
        finally:
            handle.remove()
        if self.name == "cam":
            return torch.einsum("k,bkhw->bhw", self.linear.weight[target].detach(), kept[0])
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept[0])
        return (gradient.mean((2, 3), keepdim=True) * kept[0].detach()).sum(1)

    def prepared(self) -> tuple[Callable[[], Tensor], Callable[[], None]]:
        """Maps [N, 375, 500] by fastcam, and the forward passes in them alone, with weights of their own."""
        last = torch.channels_last
        images, model = self.images.contiguous(memory_format=last), copy.deepcopy(self.model).to(memory_format=last)
        cam = METHODS[self.name](model)
        cam.freeze(images, SCALES, flip=True)
        assert cam.frozen is not None
        run = cam.frozen
        views = [mirrored(resized(images, scale)).contiguous(memory_format=last) for scale in SCALES]

        @torch.no_grad()
        def passes() -> None:
            for view in views:
                run(view)

        return lambda: cam(images, self.targets, scales=SCALES, flip=True), passes


def measured(arch: str, method: str, batch: int, turns: int) -> dict[str, float]:
    """Medians in ms a picture, and how far the maps are apart."""
    contest = Contest(arch, method, batch)
    few = contest.images[:1]
    ours, passes = contest.prepared()
    apart = (ours()[:1] - contest.script(few)).abs().max()
    calls: dict[str, Callable[[], object]] = {"script": lambda: contest.script(few), "ours": ours, "passes": passes}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - began) / (1 if name == "script" else batch))
    found = {name: median(taken) for name, taken in times.items()}
    found["apart"] = float(apart)
    found["other"] = median(1 - p / o for p, o in zip(times["passes"], times["ours"], strict=True))
    return found


def memory(arch: str, method: str, who: str, batch: int) -> float:
    """MiB that one call takes at most, above what the process had."""
    code = f"from benchmarks.bench_scales import peak; peak({arch!r}, {method!r}, {who!r}, {batch})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def peak(arch: str, method: str, who: str, batch: int) -> None:
    """Print the peak of a call in this process."""
    torch.set_num_threads(2)
    contest = Contest(arch, method, batch)
    if who == "script":
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        contest.script(contest.images)
    else:
        ours, _ = contest.prepared()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        ours()
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)


def main(
    arch: list[str] = ["resnet50", "resnet18"],  # noqa: B006
    method: list[str] = ["cam", "gradcam"],  # noqa: B006
    batch: int = 2,
    turns: int = 3,
    peaks: bool = False,
    out: Path | None = None,
) -> None:
    """Print a table; with `peaks` of memory instead of time."""
    torch.set_num_threads(2)
    print(f"{processor()}, {versions()}, 2 threads, {batch} pictures of {WIDTH}x{HEIGHT} at once")
    rows = []
    for one in arch:
        for kind in method:
            if peaks:
                found = {who: memory(one, kind, who, 1 if who == "script" else batch) for who in ("script", "ours")}
                print(
                    f"{one:10} {kind:8} script {found['script']:7.0f} MiB, fastcam {found['ours']:7.0f} MiB", flush=True
                )
            else:
                found = measured(one, kind, batch, turns)
                print(
                    f"{one:10} {kind:8} script {found['script']:7.0f} ms a picture, fastcam {found['ours']:7.0f} "
                    f"({found['script'] / found['ours']:.2f}x), of which {found['other']:.1%} are no forward passes; "
                    f"maps differ by {found['apart']:.1e}",
                    flush=True,
                )
            rows.append({"arch": one, "method": kind, "batch": batch, **found})
    if out is not None:
        out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    typer.run(main)
