"""What tells networks apart."""

import hashlib
import re

import torch
from torch import nn

from fastcam.models.outputs import output_of


def digest(model: nn.Module) -> str:
    """Digest a network: its structure as it prints itself, and all its weights and buffers.

    Args:
        model: the network, on any device.

    Returns:
        32 hexadecimal digits.
    """
    found = hashlib.blake2b(_text(model), digest_size=16)
    if code := getattr(output_of(model), "__code__", None):  # functions of one name may be others
        found.update(_text((code.co_code, code.co_names, code.co_consts)))
    for name, tensor in model.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        found.update(repr((name, values.dtype, tuple(values.shape))).encode())
        found.update(values.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _text(thing: object) -> bytes:
    """As it prints itself, but not where in memory a function of it is."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(thing)).encode()
