"""`fastcam info`."""

import json
import platform
from importlib import metadata
from typing import Annotated, Any

import typer

from fastcam._version import __version__


# Not under `plain_errors`, which needs the package to import: where it does not, this command tells why.
def info(as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False) -> None:
    """Show versions, devices, what was built and which SIMD path runs."""
    import torch

    packages = ("torch", "torchvision", "torchcodec", "numpy", "opencv-python-headless", "pillow", "pyarrow")
    facts: dict[str, Any] = {
        "fastcam": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in packages:
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            facts[package] = None
    facts["cpu_threads"] = torch.get_num_threads()
    facts["cuda_devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    try:  # what is wrong is what this command is asked for
        from fastcam import ops

        facts |= ops.build_info()
    except ImportError as error:
        facts["extension"] = str(error)
    try:
        from fastcam.pictures import gpu

        facts["nvjpeg_of"] = gpu.library()
    except ImportError as error:
        facts["nvjpeg_of"] = f"none: {error}"
    if as_json:
        print(json.dumps(facts, indent=2, default=str))
        return
    for name, value in facts.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
        print(f"{name:<24}{'none' if shown in (None, '') else shown}")
