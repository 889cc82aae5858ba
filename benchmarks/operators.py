"""Each operator against what one would write without it: ``python -m benchmarks.operators [--threads T] [--out FILE]``.

Torch and OpenCV run with the same number of threads as fastcam. Inputs are random; the heaviest baseline,
cv2.findContours at 1000 thresholds, is timed on two pictures only.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
import typer

from benchmarks.ratios import interleaved, machine
from fastcam import ops


def plain_heatmap(coarse: torch.Tensor, size: int) -> torch.Tensor:
    """What one writes in torch: ReLU, bilinear upsampling, min-max."""
    maps = F.interpolate(coarse.relu()[:, None], size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def plain_boxes(coarse: torch.Tensor, size: int) -> list[tuple[int, ...]]:
    """The usual pipeline: torch for the map, one OpenCV call a picture for the box."""
    found = []
    for mask in (plain_heatmap(coarse, size) > 0.2).numpy().astype(np.uint8):
        _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
        x, y, w, h, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        found.append((x, y, x + w, y + h))
    return found


def contour_curves(maps: np.ndarray) -> list[tuple[int, ...]]:
    """As WSOL evaluators do: threshold and contours at each of 1000 thresholds."""
    found = []
    for values in maps:
        quantised = (255 * values).astype(np.uint8)
        highest = quantised.max()
        for tau in np.arange(0, 1, 0.001):
            _, mask = cv2.threshold(quantised, int(tau * highest), 255, cv2.THRESH_BINARY)
            contours, _ = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
            if contours:
                found.append(cv2.boundingRect(max(contours, key=cv2.contourArea)))
    return found


def cases(images: int) -> dict[str, tuple[int, dict[str, Callable[[], object]]]]:
    """Name → (pictures in one call, contestants)."""
    features, weights = torch.randn(images, 512, 7, 7).relu(), torch.randn(images, 512) / 20
    coarse = ops.class_map(features, weights)
    finished = ops.heatmap(torch.randn(2, 14, 14), 224, relu=False, mode="bicubic")
    masks = torch.rand(9, 224, 224) < torch.arange(1, 10)[:, None, None] / 10
    return {
        "coarse 7x7 -> heatmap 224x224": (
            images,
            {"fastcam": lambda: ops.heatmap(coarse, 224), "torch": lambda: plain_heatmap(coarse, 224)},
        ),
        "coarse 7x7 -> box in 224x224": (
            images,
            {"fastcam": lambda: ops.boxes(coarse, 224), "torch + OpenCV": lambda: plain_boxes(coarse, 224)},
        ),
        "activations 512x7x7 -> box in 224x224": (
            images,
            {
                "fastcam": lambda: ops.class_boxes(features, weights, 224),
                "torch + OpenCV": lambda: plain_boxes(torch.einsum("nk,nkhw->nhw", weights, features), 224),
            },
        ),
        "boxes at all 255 levels of 224x224 maps": (
            2,
            {
                "fastcam": lambda: ops.box_curves(finished),
                "OpenCV, 1000 thresholds": lambda: contour_curves(finished.numpy()),
            },
        ),
        "components of 224x224 masks, 10-90 % set": (
            9,
            {
                "fastcam": lambda: ops.components(masks),
                "OpenCV": lambda: [cv2.connectedComponentsWithStats(m) for m in masks.view(torch.uint8).numpy()],
            },
        ),
    }


def main(threads: int = 1, images: int = 64, seconds: float = 3.0, out: Path | None = None) -> None:
    """Prints one row for each operator; ``--out`` writes the same table as Markdown."""
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    info = ops.build_info()
    lines = [
        f"{machine()}; {threads} thread{'s' if threads > 1 else ''}, {images} pictures a call, {info['cpu_simd']}",
        "",
        "| work | fastcam, µs a picture | alternative | its µs | ratio |",
        "|---|---:|---|---:|---:|",
    ]
    for name, (pictures, contestants) in cases(images).items():
        medians = interleaved(contestants, seconds)
        other = next(key for key in medians if key != "fastcam")
        ours, theirs = (1e6 * medians[key] / pictures for key in ("fastcam", other))
        lines.append(f"| {name} | {ours:.1f} | {other} | {theirs:.0f} | {theirs / ours:.1f} |")
    print("\n".join(lines))
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
