"""What tells networks apart."""

import torch
from torch import nn

from fastcam.models.digest import digest


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


def test_the_same_network_has_one_digest_and_any_change_another() -> None:
    first = digest(network())
    assert len(first) == 32
    assert digest(network()) == first == digest(network().to(memory_format=torch.channels_last))
    model = network()
    model[1].num_batches_tracked += 1
    others = {first, digest(model), digest(network().double()), digest(network()[:2]), digest(nn.ReLU())}
    model = network()
    model[2] = nn.LeakyReLU()  # no weight differs
    others.add(digest(model))
    model = network()
    model[0].weight.data[0, 0, 0, 0] += 1e-6
    assert len(others | {digest(model)}) == 7


def test_memory_addresses_do_not_count() -> None:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = object()

        def extra_repr(self) -> str:
            return repr(self.function)

    assert " at 0x" in repr(Called())
    kept = [Called(), Called()]
    assert repr(kept[0]) != repr(kept[1])
    assert digest(kept[0]) == digest(kept[1])
