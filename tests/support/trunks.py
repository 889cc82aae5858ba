"""A network that knows nothing but edges: features for tests of what is fitted on features, without training."""

import math

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
