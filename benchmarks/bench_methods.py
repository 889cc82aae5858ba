"""Every method beside the bare forward pass, grad-cam, torchcam and captum: ``python -m benchmarks.bench_methods``.

Times are medians of calls that take turns, so that a busy machine slows all alike. Peak memory is that of one call in a
process of its own, above what that process held before (model, images, libraries).
"""

import json
import os
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import typer
from torch import Tensor, nn

import fastcam
from fastcam.bench.cpu import interleaved, processor, versions

os.environ.setdefault("TQDM_DISABLE", "1")

CHANNELS = 64  # of Score-CAM: one pass for each, so that a benchmark of all methods ends within minutes


class Contest:
    """The contestants of one network and one batch, by name; peers are made when they are first called."""

    def __init__(self, arch: str, batch: int, size: int = 224) -> None:
        torch.manual_seed(0)
        self.model = fastcam.models.build(arch).eval()
        for module in self.model.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # captum's hooks cannot take it; fastcam does not mind
        self.layer = fastcam.models.default_target_layer(self.model)
        self.images = torch.randn(batch, 3, size, size)
        self.classes = [i % 1000 for i in range(batch)]
        self.few = self.images[:1].clone()

    def contestants(self) -> dict[str, Callable[[], object]]:
        """Whole batches, fastcam and its peers next to each other."""
        model, images, classes = self.model, self.images, self.classes
        cam, gradcam = fastcam.CAM(model), fastcam.GradCAM(model)
        middle = fastcam.GradCAM(model, "layer3")
        guided = fastcam.GuidedBackprop(model)
        calls = {
            "forward pass, inference mode": torch.inference_mode()(lambda: model(images)),
            "fastcam CAM, boxes": lambda: cam.boxes(images),
            "fastcam CAM": lambda: cam(images),
            "fastcam Grad-CAM": lambda: gradcam(images),
            "grad-cam Grad-CAM": self.peer("GradCAM"),
            "grad-cam Grad-CAM + OpenCV, boxes": self.peer("GradCAM", boxes=True),
            "torchcam Grad-CAM": self.torchcam("GradCAM"),
            "fastcam Grad-CAM at layer3": lambda: middle(images),
            "grad-cam Grad-CAM at layer3": self.peer("GradCAM", "layer3"),
            "captum LayerGradCam at layer3": self.captum_layer,
            "fastcam Grad-CAM++": lambda: fastcam.GradCAMPlusPlus(model)(images),
            "grad-cam Grad-CAM++": self.peer("GradCAMPlusPlus"),
            "fastcam Eigen-CAM": lambda: fastcam.EigenCAM(model)(images),
            "grad-cam Eigen-CAM": self.peer("EigenCAM"),
            "fastcam Grad-CAM, eigen_smooth": lambda: gradcam(images, eigen_smooth=True),
            "grad-cam Grad-CAM, eigen_smooth": self.peer("GradCAM", eigen_smooth=True),
            "fastcam Grad-CAM, aug_smooth": lambda: gradcam(images, classes, aug_smooth=True),
            "grad-cam Grad-CAM, aug_smooth": self.peer("GradCAM", aug_smooth=True),
            "fastcam guided backprop": lambda: guided(images, classes),
            "captum GuidedBackprop": self.captum_guided,
            "fastcam saliency": lambda: fastcam.Saliency(model)(images, classes),
        }
        return calls

    def score_contestants(self) -> dict[str, Callable[[], object]]:
        """Score-CAM of one picture: as many passes as a layer of 64 channels has."""
        model, image = self.model, self.few
        passes = {
            f"forward passes of {CHANNELS + 1} pictures, {b} at a time": self.passes(b) for b in (8, 16, 32, CHANNELS)
        }
        fast = {
            f"fastcam Score-CAM, {b} at a time": lambda b=b: fastcam.ScoreCAM(model, "layer1", batch_size=b)(image)
            for b in (8, 16, 32, CHANNELS)
        }
        peers = {
            "grad-cam Score-CAM": self.peer("ScoreCAM", "layer1", image),
            "torchcam Score-CAM": self.torchcam("ScoreCAM", "layer1", image),
        }
        return passes | fast | peers

    def large_contestants(self) -> dict[str, Callable[[], object]]:
        """Score-CAM of one picture with all channels of the last stage: run once, for their memory."""
        return {
            "fastcam Score-CAM, last stage": lambda: fastcam.ScoreCAM(self.model)(self.few),
            "grad-cam Score-CAM, last stage": self.peer("ScoreCAM", None, self.few),
        }

    def passes(self, batch: int) -> Callable[[], object]:
        """The forward passes alone that Score-CAM needs."""
        images = self.few.expand(batch, -1, -1, -1).clone()

        @torch.inference_mode()
        def run() -> None:
            self.model(self.few)
            for first in range(0, CHANNELS, batch):
                self.model(images[: CHANNELS - first])

        return run

    def peer(
        self, name: str, layer: str | None = None, images: Tensor | None = None, boxes: bool = False, **options: bool
    ) -> Callable[[], object]:
        """A method of the grad-cam package."""
        images = self.images if images is None else images

        def run() -> object:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                import pytorch_grad_cam
                from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

            targets = [ClassifierOutputTarget(c) for c in self.classes[: len(images)]]
            with getattr(pytorch_grad_cam, name)(self.model, [self.model.get_submodule(layer or self.layer)]) as cam:
                maps = cam(images, targets, **options)
            self.model.zero_grad()
            return usual_boxes(maps) if boxes else maps

        return run

    def torchcam(self, name: str, layer: str | None = None, images: Tensor | None = None) -> Callable[[], object]:
        """A method of torchcam, its maps upsampled."""
        images = self.images if images is None else images

        def run() -> object:
            import torchcam.methods

            size = tuple(images.shape[2:])
            with getattr(torchcam.methods, name)(self.model, layer or self.layer, input_shape=(3, *size)) as cam:
                with torch.set_grad_enabled(name != "ScoreCAM"):
                    logits = self.model(images)
                (maps,) = cam(self.classes[: len(images)], *([] if name == "ScoreCAM" else [logits]))
            self.model.zero_grad()
            return nn.functional.interpolate(maps[:, None].detach(), size, mode="bilinear")

        return run

    def captum_layer(self) -> object:
        """Grad-CAM of captum."""
        import captum.attr

        peer = captum.attr.LayerGradCam(self.model, self.model.layer3)
        maps = peer.attribute(self.images, target=torch.tensor(self.classes), relu_attributions=True)
        return captum.attr.LayerAttribution.interpolate(maps, tuple(self.images.shape[2:]), "bilinear")

    def captum_guided(self) -> object:
        """Guided backprop of captum."""
        import captum.attr

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            peer = captum.attr.GuidedBackprop(self.model)
            return peer.attribute(self.images.clone().requires_grad_(), target=torch.tensor(self.classes))


def usual_boxes(maps: np.ndarray) -> list[tuple[int, ...]]:
    """A box a picture by OpenCV."""
    found = []
    for values in maps:
        _, _, stats, _ = cv2.connectedComponentsWithStats((values > 0.2).astype(np.uint8), connectivity=8)
        if len(stats) > 1:
            x, y, w, h, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
            found.append((x, y, x + w, y + h))
    return found


def eigen_times(rounds: int) -> dict[str, float]:
    """The first component of 2,048 channels at 7 x 7, as eigen_smooth takes it, beside the package's."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
    from fastcam.methods.smoothing import projection

    maps = torch.rand(2, 2048, 7, 7)
    array = maps.numpy()
    return interleaved(
        {"fastcam": lambda: projection(maps), "grad-cam": lambda: get_2d_projection(array)}, 0, max(rounds // 2, 2)
    )


def peak(call: Callable[[], object]) -> float:
    """Megabytes of resident memory that a call adds at its highest point, by sampling."""
    page, statm, stop = resource.getpagesize(), Path("/proc/self/statm"), threading.Event()
    highest = [0]

    def resident() -> int:
        return int(statm.read_text().split()[1]) * page

    def watch() -> None:
        while not stop.is_set():
            highest[0] = max(highest[0], resident())
            time.sleep(0.002)

    before = resident()
    thread = threading.Thread(target=watch)
    thread.start()
    call()
    stop.set()
    thread.join()
    return max(highest[0] - before, 0) / 1e6


def peaks(arch: str, batch: int, threads: int, names: list[str]) -> dict[str, float]:
    """Peak memory of each contestant, each in a process of its own."""
    found = {}
    for name in names:
        command = [sys.executable, "-m", "benchmarks.bench_methods", "--arch", arch, "--batch", str(batch)]
        command += ["--threads", str(threads), "--peak-of", name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[name] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(title: str, times: dict[str, float], memory: dict[str, float], pictures: int, base: str) -> list[str]:
    lines = [f"| {title} | ms a picture | against the forward pass | peak MB a picture |", "|---|---:|---:|---:|"]
    for name, seconds in times.items():
        held = f"{memory[name] / pictures:.1f}" if name in memory else ""
        lines.append(f"| {name} | {1e3 * seconds / pictures:.1f} | {seconds / times[base]:.2f} | {held} |")
    return lines


def main(
    arch: str = "resnet18",
    batch: int = 16,
    threads: int = 1,
    rounds: int = 7,
    memory: bool = True,
    out: Path | None = None,
    peak_of: str | None = None,
) -> None:
    """Prints a row for each way to maps; ``--out`` writes the same tables as Markdown."""
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    contest = Contest(arch, batch)
    calls, score_calls = contest.contestants(), contest.score_contestants()
    if peak_of is not None:
        if peak_of in calls:
            Contest(arch, 1).contestants()[peak_of]()  # what a first call loads and prepares counts for nobody
        print(json.dumps(peak((calls | score_calls | contest.large_contestants())[peak_of])))
        return
    times, score_times = interleaved(calls, 0, rounds), interleaved(score_calls, 0, max(rounds // 2, 2))
    held = peaks(arch, batch, threads, list(calls)) if memory else {}
    score_held = peaks(arch, batch, threads, list(score_calls)) if memory else {}
    large = peaks(arch, batch, threads, list(contest.large_contestants())) if memory else {}
    best = min((name for name in score_calls if name.startswith("forward")), key=score_times.get)
    eigen = eigen_times(rounds)
    lines = [
        f"{processor()}, {versions()}; {threads} thread{'s' if threads > 1 else ''}, {arch} at 224x224, "
        f"medians of {rounds} in turns",
        "",
        *table(f"batch of {batch}", times, held, batch, "forward pass, inference mode"),
        "",
        *table(f"Score-CAM, one picture, {CHANNELS} channels", score_times, score_held, 1, best),
        "",
        f"eigen_smooth alone, 2,048 channels at 7x7: {1e3 * eigen['fastcam'] / 2:.1f} ms a picture, "
        f"grad-cam {1e3 * eigen['grad-cam'] / 2:.1f} ms, {eigen['grad-cam'] / eigen['fastcam']:.0f} times as long",
    ]
    lines += ["", *(f"{name}: peak {held:.0f} MB of one picture" for name, held in large.items())]
    print("\n".join(lines))
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
