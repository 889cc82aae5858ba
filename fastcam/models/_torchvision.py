"""The first import of torchvision, which fails beside a torch that it was not built for."""

from importlib import metadata

import torch

try:
    import torchvision  # noqa: F401
except (RuntimeError, OSError) as error:  # its library does not load, so that its operators are missing
    raise ImportError(
        f"torchvision {metadata.version('torchvision')} does not load with torch {torch.__version__} ({error}): "
        "install both from one index, such as --index-url https://download.pytorch.org/whl/cpu for CPUs only"
    ) from error
