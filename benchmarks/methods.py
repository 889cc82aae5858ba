"""Maps and boxes beside the bare forward pass and the grad-cam package: ``python -m benchmarks.methods``."""

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import torch
import typer

import fastcam
from fastcam.bench import interleaved, processor, set_threads, versions

os.environ.setdefault("TQDM_DISABLE", "1")


def usual_boxes(cam: object, images: torch.Tensor) -> list[tuple[int, ...]]:
    """Maps of the grad-cam package, a box a picture by OpenCV."""
    found = []
    for values in cam(images, None):
        _, _, stats, _ = cv2.connectedComponentsWithStats((values > 0.2).astype(np.uint8), connectivity=8)
        x, y, w, h, _ = stats[1 + stats[1:, cv2.CC_STAT_AREA].argmax()]
        found.append((x, y, x + w, y + h))
    return found


def main(arch: str = "resnet18", batch: int = 16, threads: int = 1, rounds: int = 7, out: Path | None = None) -> None:
    """Prints one row for each way to maps or boxes; ``--out`` writes the same table as Markdown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pytorch_grad_cam import GradCAM
    torch.manual_seed(0)
    set_threads(threads)
    model = fastcam.models.build(arch).eval()
    layer = fastcam.models.default_target_layer(model)
    images = torch.randn(batch, 3, 224, 224)
    cam, gradcam, middle = fastcam.CAM(model), fastcam.GradCAM(model), fastcam.GradCAM(model, ["layer3"])
    peer = GradCAM(model, [model.get_submodule(layer)])
    contestants = {
        "bare forward pass, inference mode": torch.inference_mode()(lambda: model(images)),
        "fastcam CAM, boxes": lambda: cam.boxes(images),
        "fastcam CAM, maps": lambda: cam(images),
        "fastcam Grad-CAM, maps": lambda: gradcam(images),
        "fastcam Grad-CAM at layer3, maps": lambda: middle(images),
        "grad-cam GradCAM, maps": lambda: peer(images, None),
        "grad-cam GradCAM + OpenCV, boxes": lambda: usual_boxes(peer, images),
    }
    medians = interleaved(contestants, 0, rounds)
    forward = medians["bare forward pass, inference mode"]
    lines = [
        f"{processor()}, {versions()}; {threads} thread{'s' if threads > 1 else ''}, {arch}, "
        f"batches of {batch} at 224x224, medians of {rounds}",
        "",
        "| work | ms a picture | against the forward pass |",
        "|---|---:|---:|",
    ]
    lines += [f"| {name} | {1e3 * t / batch:.1f} | {t / forward:.2f} |" for name, t in medians.items()]
    print("\n".join(lines))
    if out:
        out.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    typer.run(main)
