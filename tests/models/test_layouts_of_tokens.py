"""Layouts of layers: tokens are recognised by a pass, or refused; so are windows and crops in the batch."""

from functools import partial

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fastcam import GradCAM
from fastcam.models import vit_reshape
from tests.support.layouts import (
    Last,
    Net,
    Tokens,
    TokensFirst,
    Windows,
    Wrapper,
    by_hand,
    check,
    flat_together,
    from_tokens_first,
    refused,
    together,
)


def small_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True])
def test_tokens_of_torchvision(wrapped):
    model, prefix = (Wrapper(small_vit(), (32, 32)), "backbone.") if wrapped else (small_vit(), "")
    images = torch.randn(2, 3, *((40, 90) if wrapped else (32, 32)))
    inner = ("encoder.ln", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.mlp", "encoder.dropout")
    for layer in inner:
        check(model, prefix + layer, images, vit_reshape)
    check(model, prefix + "conv_proj", images)
    with pytest.raises(TypeError, match="must give one tensor, got tuple"):
        GradCAM(model, f"{prefix}encoder.layers.encoder_layer_0.self_attention")(images.double())


def test_tokens_after_a_stem_of_convolutions():
    stem = [
        torchvision.models.vision_transformer.ConvStemConfig(out_channels=4, kernel_size=3, stride=stride)
        for stride in (2, 4)
    ]
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5, conv_stem_configs=stem)
    nn.init.normal_(model.heads.head.weight)
    check(model, "encoder.ln", torch.randn(2, 3, 32, 32), vit_reshape)
    check(model, "conv_proj.conv_bn_relu_0", torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize("size", [(32, 32), (16, 64), (48, 16)])  # the second has as many patches as the first
@pytest.mark.parametrize("prefix", [0, 1, 2, 5])
def test_tokens_of_any_grid(prefix, size):
    model, images = Tokens(prefix), torch.randn(2, 3, *size)
    arrange = partial(vit_reshape, grid=(size[0] // 8, size[1] // 8), prefix=prefix)
    for layer in ("blocks.0", "blocks.0.qkv", "blocks.1", "norm"):
        check(model, layer, images, arrange)
        check(Wrapper(model), f"backbone.{layer}", images, arrange)
    check(model, "patch_embed", images, partial(arrange, prefix=0))
    check(model, "patch_embed.proj", images)
    together = GradCAM(model, ["patch_embed.proj", "norm"])
    together(images.double())
    assert set(together.grids.values()) == {(size[0] // 8, size[1] // 8)}


def test_prefix_that_comes_late():
    model, images = Tokens(1, late=True), torch.randn(2, 3, 16, 24)
    check(model, "blocks", images, partial(vit_reshape, grid=(2, 3), prefix=0))
    check(model, "norm", images, partial(vit_reshape, grid=(2, 3)))


@pytest.mark.parametrize("size", [(32, 32), (16, 64)])
@pytest.mark.parametrize("layer", ["blocks.0.attn_drop", "blocks.0.q_norm"])
def test_attention_is_no_map(layer, size):
    refused(Tokens(1), layer, torch.randn(2, 3, *size))


class Thinned(Tokens):
    """Drops patches on the way."""

    def __init__(self) -> None:
        super().__init__(1)
        self.blocks.append(nn.Flatten(2))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.patch_embed(images)[:, ::2]
        return self.head(self.norm(self.blocks(tokens)).sigmoid().mean(1))


def test_tokens_that_prove_nothing():
    images = torch.randn(2, 3, 32, 32)
    refused(Thinned(), "norm", images)
    unknown = Tokens(1)
    del unknown.num_prefix_tokens  # as in other code, where the class token can be anywhere
    unknown.late = False
    refused(unknown, "norm", images)
    refused(unknown, "blocks.0", images)


# ---- windows and crops in the batch ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 4])
def test_windows_in_the_batch(count):
    model, images = Windows(), torch.randn(count, 3, 16, 16).double()
    refused(model, "body", images)
    refused(model, "flat", images)
    for layer, transform in (("body", together), ("flat", flat_together)):
        got = GradCAM(model, layer, reshape_transform=transform).coarse(images)
        want = by_hand(model, layer, images, transform)
        assert got.shape == (count, 16, 16)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))
    with pytest.raises(
        ValueError, match=rf"`reshape_transform` must give \[{count}, K, h, w\] for 'body', got \[{4 * count}"
    ):
        GradCAM(model, "body", reshape_transform=lambda output: output)(images)


@pytest.mark.parametrize("count", [1, 3, 8])  # 8 as tokens
def test_tokens_first(count):
    model, images = TokensFirst(), torch.randn(count, 3, 16, 32).double()
    refused(model, "norm", images)
    got = GradCAM(model, "norm", reshape_transform=from_tokens_first).coarse(images)
    want = by_hand(model, "norm", images, from_tokens_first)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_explicit_transform_wins():
    model, images = Net(Last(5, 4, nn.LayerNorm(5)), 5, (1, 2)).eval(), torch.randn(2, 3, 16, 16)
    cam = GradCAM(model, "body", reshape_transform=lambda output: output.permute(0, 3, 2, 1))
    torch.testing.assert_close(cam.coarse(images), GradCAM(model, "body").coarse(images).transpose(1, 2))
