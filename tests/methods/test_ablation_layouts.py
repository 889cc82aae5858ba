"""Ablation-CAM in layers of any layout, against channels that are set to zero by hand."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastcam import AblationCAM
from fastcam.models import vit_reshape
from tests.support.layouts import (
    Last,
    Mixer,
    Net,
    Tokens,
    TokensFirst,
    Windows,
    flat_together,
    from_tokens_first,
    last,
    together,
)


def ablated_by_hand(model: nn.Module, layer: str, images: Tensor, take, put) -> Tensor:
    """Picture by picture; `take` gives the maps [1, K, h, w] of a picture's output, and `put` zeroes a channel."""
    found = []
    for image in images[:, None]:
        kept: list[Tensor] = []
        hook = model.get_submodule(layer).register_forward_hook(
            lambda module, args, output, kept=kept: kept.append(output)
        )
        score = model(image)[0, 1]
        hook.remove()
        maps = take(kept[0])
        total = 0
        for channel in range(maps.shape[1]):
            hook = model.get_submodule(layer).register_forward_hook(
                lambda module, args, output, channel=channel: put(output.clone(), channel)
            )
            total = total + (score - model(image)[0, 1]) / score.abs() * maps[:, channel]
            hook.remove()
        found.append(total)
    return torch.cat(found).detach()


def without_last(output: Tensor, channel: int) -> Tensor:
    output[..., channel] = 0
    return output


def without_second(output: Tensor, channel: int) -> Tensor:
    output[:, channel] = 0
    return output


@pytest.mark.parametrize("batch_size", [None, 1, 5])
@pytest.mark.parametrize("case", ["tokens first", "windows", "flat windows", "channels last", "tokens after two"])
def test_ablation_in_any_layout(case, batch_size):
    model, layer, transform, put, size = {
        "tokens first": (TokensFirst(), "norm", from_tokens_first, without_last, (16, 32)),
        "windows": (Windows(), "body", together, without_second, (16, 16)),
        "flat windows": (Windows(), "flat", flat_together, without_last, (16, 16)),
        "channels last": (
            Net(Last(5, 4, nn.LayerNorm(5), Mixer(5)), 5, (1, 2)),
            "body.rest.0",
            None,
            without_last,
            (16, 24),
        ),
        "tokens after two": (Tokens(2), "blocks", None, None, (16, 24)),
    }[case]
    take = transform or last
    if case == "tokens after two":
        take = partial(vit_reshape, grid=(2, 3), prefix=2)

        def put(output: Tensor, channel: int) -> Tensor:
            output[:, 2:, channel] = 0
            return output

    model, images = model.double().eval(), torch.randn(3, 3, *size, dtype=torch.float64)
    cam = AblationCAM(model, layer, batch_size=batch_size, reshape_transform=transform)
    want = ablated_by_hand(model, layer, images, take, put)
    torch.testing.assert_close(cam.coarse(images, 1), want, rtol=1e-8, atol=1e-10)


def test_ablation_needs_a_rearrangement():
    model, images = TokensFirst().eval(), torch.randn(3, 3, 16, 32)
    for wrong in (
        lambda tokens: from_tokens_first(tokens) * 2,
        lambda tokens: from_tokens_first(tokens) - 1,
        lambda tokens: from_tokens_first(tokens).cummin(1).values,
        lambda tokens: from_tokens_first(tokens)[:, :1].expand(-1, 3, -1, -1),
    ):
        with pytest.raises(ValueError, match="`reshape_transform` must only rearrange"):
            AblationCAM(model, "norm", reshape_transform=wrong)(images, 1)
    fixed = AblationCAM(model, "norm", reshape_transform=lambda tokens: from_tokens_first(tokens)[:3])
    with pytest.raises(ValueError, match=r"must give \[8, 8, 2, 4\] for a pack of 8, got \[3, 8, 2, 4\]"):
        fixed(images, 1)
    assert not any(module._forward_hooks for module in model.modules())
