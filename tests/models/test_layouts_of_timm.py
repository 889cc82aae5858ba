"""Layouts of layers in timm's networks."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from fastcam.models import default_target_layer, vit_reshape
from tests.support.layouts import check, last, refused


def create(name: str, **options) -> nn.Module:
    return pytest.importorskip("timm").create_model(name, num_classes=5, **options).eval()


@pytest.mark.parametrize("size", [(32, 128), (128, 32), (48, 80)])
def test_timm_of_any_size(size):
    model = create("vit_tiny_patch16_224", img_size=64, depth=2, dynamic_img_size=True)
    grid = (size[0] // 16, size[1] // 16)
    check(model, "blocks.1.norm1", torch.randn(2, 3, *size), partial(vit_reshape, grid=grid))


@pytest.mark.parametrize(
    ("name", "options", "prefix"),
    [
        ("deit_tiny_distilled_patch16_224", {}, 2),
        ("eva02_tiny_patch14_224", {"img_size": 56}, 1),
        ("beit_base_patch16_224", {}, 1),
        ("vit_small_patch14_reg4_dinov2", {"img_size": 56}, 5),
        ("vit_relpos_small_patch16_224", {}, 0),
    ],
)
def test_timm_prefixes(name, options, prefix):
    model = create(name, **{"img_size": 64, "depth": 2, **options})
    side = options.get("img_size", 64)
    check(model, default_target_layer(model), torch.randn(1, 3, side, side), partial(vit_reshape, prefix=prefix))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "swinv2_cr_tiny_224"])
def test_timm_swin(name):
    side = {"swinv2_tiny_window8_256": 128}.get(name, 112)  # last stage 4 x 4, one window
    model = create(name, img_size=side, depths=(2, 2), num_heads=(2, 4), embed_dim=16, window_size=side // 16)
    stages, images = "stages" if "cr" in name else "layers", torch.randn(2, 3, side, side)

    def rows(tokens: Tensor) -> Tensor:
        return last(tokens.unflatten(1, (side // 8, side // 8)))

    for inner in ("norm2", "mlp", "mlp.fc1"):
        check(model, f"{stages}.1.blocks.1.{inner}", images, rows)
    check(model, f"{stages}.1.blocks.1", images, last)
    for inner in ("attn", "attn.proj", "attn.attn_drop"):  # of 2 x 2 windows
        refused(model, f"{stages}.1.blocks.0.{inner}", images)


def test_timm_swin_with_one_window():
    options = {"img_size": 28, "depths": (2,), "num_heads": (2,), "embed_dim": 16, "window_size": 7}
    images = torch.randn(2, 3, 28, 28)
    model = create("swin_tiny_patch4_window7_224", **options)
    check(model, "layers.0.blocks.1.attn", images, lambda tokens: last(tokens.unflatten(1, (7, 7))))
    refused(model, "layers.0.blocks.1.attn.attn_drop", images)
    shifting = create("swin_tiny_patch4_window7_224", always_partition=True, **options)
    assert shifting.layers[0].blocks[1].shift_size == (3, 3)
    refused(shifting, "layers.0.blocks.1.attn", images)  # rolled
    check(shifting, "layers.0.blocks.1.mlp", images, lambda tokens: last(tokens.unflatten(1, (7, 7))))


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_timm_channels_last(size):
    model, images = create("mambaout_femto"), torch.randn(1, 3, *size)
    check(model, default_target_layer(model), images, last)
    check(model, "stages.1.blocks.0.norm", images, last)
    check(model, "stem.act", images)


def test_timm_padded_window():
    model, images = create("sam2_hiera_tiny"), torch.randn(1, 3, 64, 64)
    check(model, default_target_layer(model), images, last)
    for inner in ("attn", "attn.proj"):  # 4 x 4 positions in a window of 14 x 14
        refused(model, f"blocks.4.{inner}", images)


def test_timm_scrambled_tokens():
    model = create("hiera_tiny_224", img_size=(64, 64))
    for layer in (default_target_layer(model), "blocks.0"):
        refused(model, layer, torch.randn(1, 3, 64, 64))
