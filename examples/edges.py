r"""Write a network that knows nothing but edges: features for the other examples, without weights from elsewhere.

    python examples/edges.py edges.safetensors
    python examples/planted.py text signs/
    python examples/text_detector.py signs/with signs/without --truth signs/boxes.csv \
        --weights edges.safetensors --strength 3e-4 --out text/

It was never trained. What makes it useful for words and textures is that their edges have several directions within a
small place; on photographs, networks that were trained on them are far better.
"""

import argparse
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from fastcam import models
from fastcam.models import ModelConfig

_ORIENTATIONS, _WAVELENGTHS, _PHASES = 8, (6, 11), 4  # of Gabor filters, together the 64 of AlexNet's first layer


def edge_network(seed: int = 0) -> tuple[nn.Module, ModelConfig]:
    """Build an AlexNet-GAP whose first layers measure the energy of edges, and the others mix that at random.

    The first convolution is a bank of Gabor filters on brightness. The second sums each filter's phases over its
    window, which makes energies of orientation and scale, and adds random mixtures of them. All others mix channels
    at random, position by position, so that each of the 1,024 channels answers to another combination of energies.

    Args:
        seed: of the mixtures.

    Returns:
        The network, in evaluation mode, and its configuration: 224 pixels in, maps of 13 x 13.
    """
    model = models.build("alexnet-gap", 2).eval()
    first, second, *others = (layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    chance = torch.Generator().manual_seed(seed)
    bank = _ORIENTATIONS * len(_WAVELENGTHS)
    with torch.no_grad():
        for layer in (first, second, *others):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[:] = 4 * _gabors()[:, None] * torch.tensor([0.299, 0.587, 0.114])[:, None, None]
        mixtures = torch.randn(len(second.weight) - bank, bank, generator=chance) / 4
        energies = torch.eye(bank).repeat_interleave(_PHASES, 1)
        second.weight[:] = (torch.cat([torch.eye(bank), mixtures]) @ energies)[:, :, None, None] / 25
        second.bias[bank:] = 0.05 * torch.randn(len(mixtures), generator=chance)
        for layer in others:
            rows, columns = layer.weight.shape[:2]
            layer.weight[:, :, 1, 1] = torch.randn(rows, columns, generator=chance) * math.sqrt(2 / columns)
    return model, ModelConfig("alexnet-gap", 2, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def _gabors() -> torch.Tensor:
    """[64, 11, 11]: for each wavelength and orientation four phases; without a mean, of absolute sum 1."""
    y, x = np.mgrid[-5:6, -5:6]
    found = []
    for wavelength in _WAVELENGTHS:
        window = np.exp(-(x**2 + y**2) / (2 * (0.35 * wavelength) ** 2))
        for turn in range(_ORIENTATIONS):
            angle = math.pi * turn / _ORIENTATIONS
            wave = 2 * math.pi * (x * math.cos(angle) + y * math.sin(angle)) / wavelength
            for phase in range(_PHASES):
                filter = window * np.cos(wave + phase * math.pi / 2)
                filter -= window * filter.sum() / window.sum()
                found.append(filter / np.abs(filter).sum())
    return torch.from_numpy(np.stack(found)).float()


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the checkpoint that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", help="the checkpoint to write, .safetensors")
    parser.add_argument("--seed", type=int, default=0, help="of the random mixtures [0]")
    options = parser.parse_args(arguments)
    models.save_checkpoint(options.out, *edge_network(options.seed))


if __name__ == "__main__":
    main()
