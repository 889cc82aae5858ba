"""The CUDA operators on this machine's GPU, measured: ``python -m benchmarks.gpu [--quick] --out NAME``.

Writes NAME.md and NAME.json, complete after each row. Needs no more than torch and the extension in its place; OpenCV
and CV-CUDA, if they are there, give more to compare with. Exit code 2 without a GPU or CUDA kernels. ``bash
benchmarks/gpu.sh`` runs this, and all else that a GPU is to tell.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastcam import ops
from fastcam.bench import gpu, operators

SHOWN = ("driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "power.limit", "ecc.mode.current")


class Report:
    """Lines that are printed at once, and kept in a file that is complete whenever the run ends; figures beside it."""

    def __init__(self, path: Path | None):
        self.path, self.lines, self.figures = path, [], []

    def add(self, lines: Iterable[str]) -> None:
        """Print lines as they come, and write what there is so far."""
        for line in lines:
            print(line, flush=True)
            self.lines.append(line)
            if self.path:
                self.path.with_suffix(".md").write_text("\n".join([*self.lines, ""]), encoding="utf-8")
                text = json.dumps({"machine": machine(), "rows": self.figures}, indent=1)
                self.path.with_suffix(".json").write_text(text, encoding="utf-8")


def machine() -> dict[str, str]:
    """What figures must name."""
    device = torch.cuda.get_device_properties()
    return {
        "gpu": f"{device.name}, {device.total_memory / 2**30:.0f} GiB, capability {device.major}.{device.minor}",
        "torch": f"{torch.__version__} with CUDA {torch.version.cuda}, Python {sys.version.split()[0]}",
        "extension": f"built with {ops.build_info()['cuda_reason']}",
    }


def readings() -> str:
    """Driver, clocks and power, as nvidia-smi reads them."""
    uuid = torch.cuda.get_device_properties().uuid
    command = ["nvidia-smi", f"--query-gpu={','.join(SHOWN)}", "--format=csv,noheader", f"--id=GPU-{uuid}"]
    try:
        values = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout.split(", ")
        return ", ".join(f"{name} {value.strip()}" for name, value in zip(SHOWN, values, strict=True))
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"driver and clocks are not readable ({type(error).__name__})"


def cvcuda_components(masks: Tensor) -> Any:
    """CV-CUDA's `label` with counts, areas and boxes; of four neighbours, it knows no eight."""
    import cvcuda

    images = cvcuda.as_tensor(masks.view(torch.uint8)[..., None], "NHWC")
    background = cvcuda.as_tensor(torch.zeros(len(masks), dtype=torch.uint8, device=masks.device), "N")
    stream = cvcuda.as_stream(torch.cuda.current_stream().cuda_stream)
    return cvcuda.label(images, count=True, stats=True, max_labels=16_384, bg_label=background, stream=stream)


def peers() -> Iterator[operators.Work]:
    """What other libraries offer on the GPU, as rows of their own."""
    if operators.has("cvcuda"):
        work = operators.COMPONENTS.gpu[0]
        ours = {"title": f"{work.title}, 4 neighbours", "options": {"connectivity": 4}, "alternatives": ()}
        yield replace(work, **ours)
        yield replace(
            work, **ours | {"title": f"CV-CUDA's label, {work.title}", "call": cvcuda_components, "options": {}}
        )


def kernels(images: int) -> None:
    """Those with goals, once each, for a profiler."""
    features, weights = operators.activations(images, 512, 7, "cuda")
    ops.class_boxes(features, weights, 224)
    coarse = ops.class_map(features, weights)
    ops.boxes(coarse, 224)
    ops.box_curves(ops.heatmap(coarse, 224))
    torch.cuda.synchronize()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, help="write NAME.md and NAME.json, too", metavar="NAME")
    parser.add_argument("--quick", action="store_true", help="fewer rows and rounds; rough figures")
    parser.add_argument("--most-images", type=int, default=2**20, help="images of a call at most [all]", metavar="N")
    parser.add_argument("--kernels", action="store_true", help="measure nothing, run the kernels with goals once")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print("benchmarks.gpu: no GPU that torch can use", file=sys.stderr)
        return 2
    if not ops.build_info()["cuda_library"]:
        print(f"benchmarks.gpu: no CUDA kernels are loaded ({ops.build_info()['cuda_reason']})", file=sys.stderr)
        return 2
    if options.kernels:
        kernels(min(1024, options.most_images))
        return 0
    report = Report(options.out)
    report.add(f"- {name}: {value}" for name, value in machine().items())
    report.add([f"- {readings()}", ""])
    rows = [*gpu.works(full=not options.quick), *peers()]
    rows = [replace(work, images=min(work.images, options.most_images)) for work in rows]
    report.add(gpu.table(rows, options.quick, report.figures))
    report.add(["", f"Afterwards: {readings()}."])
    return 0


if __name__ == "__main__":
    sys.exit(main())
