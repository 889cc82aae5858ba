"""Class activation maps and the boxes in them, in fused C++/CUDA kernels behind a PyTorch API."""

from fastcam import ops
from fastcam._version import __version__

__all__ = ["__version__", "ops"]
