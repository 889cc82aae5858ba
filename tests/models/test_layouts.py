"""Layouts of layers: maps with channels first or last and tokens are seen from a pass, or refused."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from fastcam import AblationCAM, EigenCAM, GradCAM, GuidedGradCAM, LayerCAM
from fastcam.models import build, default_target_layer, vit_reshape

REFUSED = "nothing shows the positions of .* needs `reshape_transform`"


def by_hand(model: nn.Module, layer: str, images: Tensor, arrange=lambda output: output) -> Tensor:
    """Grad-CAM of the highest class, [N, h, w], by autograd; `arrange` gives [N, K, h, w]."""
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    scores = model(images).amax(1).sum()
    hook.remove()
    maps, gradients = (arrange(t) for t in (kept[-1], torch.autograd.grad(scores, kept[-1])[0]))
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1).detach()


def last(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def check(model: nn.Module, layer: str, images: Tensor, arrange=lambda output: output) -> None:
    model, images = model.double().eval(), images.double()
    want = by_hand(model, layer, images, arrange)
    cam = GradCAM(model, layer)
    got = cam.coarse(images)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8 * float(want.abs().max()) + 1e-16)
    assert cam.grids == {layer: tuple(want.shape[1:])}


def refused(model: nn.Module, layer: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        GradCAM(model.double().eval(), layer)(images.double())


class Net(nn.Module):
    """A body, the mean over positions, and a head; the body gives [N, K, h, w], or [N, h, w, K]."""

    def __init__(self, body: nn.Module, channels: int, dims: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        self.body, self.head, self.dims, self.sizes = body, nn.Linear(channels, 3), dims, []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape))
        return self.head(self.body(images).tanh().mean(self.dims))


class Last(nn.Module):
    """Patches as [N, h, w, K], with what keeps them so."""

    def __init__(self, channels: int, stride: int, *rest: nn.Module) -> None:
        super().__init__()
        self.patches, self.rest = nn.Conv2d(3, channels, stride, stride), nn.Sequential(*rest)

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.patches(images).permute(0, 2, 3, 1))


class Residual(nn.Module):
    """ConvNeXt's block: channels last inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.point = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """The same between layers with channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Residual(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Gate(nn.Module):
    """Squeeze and excitation with linear layers, as the original code has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.squeeze = nn.Conv2d(channels, channels, 3, padding=1), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.squeeze(x.mean((2, 3))).sigmoid()[..., None, None]


class Normalize(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return (images - 0.5) / 0.5


class Wrapper(nn.Module):
    """A user's own module around a network, that may bring its pictures to another size first."""

    def __init__(self, backbone: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.backbone, self.size = backbone, size

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images if self.size is None else F.interpolate(images, self.size))


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5)


def small_vit() -> nn.Module:
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


# ---- channels last ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (32, 64), (24, 40)])  # the last has three rows at the end
@pytest.mark.parametrize("around", ["nothing", "Sequential", "wrapper", "DataParallel"])
def test_swin_within_anything(around, size):
    swin, images = small_swin(), torch.randn(2, 3, *size)
    model, prefix = {
        "nothing": (swin, ""),
        "Sequential": (nn.Sequential(Normalize(), swin), "1."),
        "wrapper": (Wrapper(swin), "backbone."),
        "DataParallel": (Wrapper(nn.DataParallel(swin)), "backbone.module."),
    }[around]
    for layer in ("features", "features.1.0", "features.1.0.norm2", "features.3.0.mlp", "features.3.0.attn", "norm"):
        check(model, prefix + layer, images, last)
    check(model, prefix + "permute", images)


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_inside_of_convnext(size):
    settings = [
        torchvision.models.convnext.CNBlockConfig(8, 12, 1),
        torchvision.models.convnext.CNBlockConfig(12, None, 1),
    ]
    model = torchvision.models.ConvNeXt(settings, layer_scale=1.0, num_classes=5)
    images = torch.randn(2, 3, *size)
    for inner, arrange in ((0, None), (1, last), (2, last), (3, last), (4, last), (5, last), (6, None)):
        check(model, f"features.3.0.block.{inner}", images, arrange or (lambda output: output))
    for layer in ("features.0", "features.1", "features.2.0", "features.3.0", "features"):
        check(model, layer, images)


@pytest.mark.parametrize("layer", ["body", "body.rest", "body.rest.0", "body.rest.1", "body.rest.2"])
def test_channels_last_of_a_network_of_ones_own(layer):
    model = Net(Last(5, 4, nn.LayerNorm(5), nn.Linear(5, 6), nn.GELU()), 6, (1, 2))
    check(model, layer, torch.randn(3, 3, 24, 32), last)


def test_all_methods_take_channels_last():
    model, images = Net(Last(6, 8, nn.LayerNorm(6)), 6, (1, 2)).eval(), torch.rand(2, 3, 32, 48)
    for method in (GradCAM, LayerCAM, EigenCAM, AblationCAM):
        want = method(model, "body", reshape_transform=last)(images)
        torch.testing.assert_close(method(model, "body")(images), want, rtol=0, atol=1e-6)
        assert method(model, "body")(images, aug_smooth=True).shape == (2, 32, 48)
    guided = GuidedGradCAM(nn.Sequential(model, nn.ReLU()), "0.body")
    assert guided(images).shape == (2, 3, 32, 48)
    assert guided.cams[0].grids == {"0.body": (4, 6)}


def test_wrapper_that_squeezes_pictures():
    images = torch.randn(2, 3, 24, 90)
    model = Wrapper(small_swin(), (32, 32))
    for layer in ("features.1.0", "features.1.0.norm2", "features.3.0.mlp", "norm"):
        check(model, f"backbone.{layer}", images, last)
    body = Net(nn.Sequential(nn.Conv2d(3, 6, 4, 4), Residual(6)), 6)
    check(Wrapper(body, (32, 16)), "backbone.body.1", images)
    check(Wrapper(Wrapper(body, (32, 16)), (9, 9)), "backbone.backbone.body", images)


# ---- where both readings have the picture's proportions -------------------------------------------------------------


def test_type_decides_where_all_sides_are_alike():
    images = torch.randn(2, 3, 24, 24)
    body = Last(6, 4, nn.LayerNorm(6), nn.Linear(6, 6))
    for layer in ("body.rest.0", "body.rest.1", "body.rest"):
        check(Net(body, 6, (1, 2)), layer, images, last)
    check(Net(body, 6, (1, 2)), "body.patches", images)
    check(Net(nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.BatchNorm2d(6), nn.ReLU()), 6), "body", images)


def test_type_around_an_activation_decides():
    model = Net(nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Sigmoid(), Block(6)), 6)
    check(model, "body.1", torch.randn(2, 3, 24, 24))
    assert model.sizes == [(2, 3, 24, 24)] * 2


@pytest.mark.parametrize("outer", [Residual, Gate, Mixer])
def test_a_smaller_picture_decides(outer):
    images = torch.randn(2, 3, 24, 24)  # maps are 6 x 6 x 6
    if outer is Mixer:
        check(Net(Last(6, 4, Mixer(6)), 6, (1, 2)), "body.rest.0", images, last)
        check(Net(Last(6, 4, Mixer(6)), 6, (1, 2)), "body.rest.0.block", images)
    else:
        check(Net(nn.Sequential(nn.Conv2d(3, 6, 4, 4), outer(6)), 6), "body.1", images)


def test_undecided_is_refused():
    class Fixed(Mixer):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.reshape(-1, 6, 6, 6))

    model, images = Net(Last(6, 4, Fixed(6)), 6, (1, 2)), torch.randn(2, 3, 24, 24).double()
    refused(model, "body.rest.0", images)
    want = by_hand(model, "body.rest.0", images, last)
    torch.testing.assert_close(GradCAM(model, "body.rest.0", reshape_transform=last).coarse(images), want)


class FixedSize(nn.Module):
    """An ordinary network that takes pictures of 12 x 12 only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act, self.head = nn.Conv2d(3, 4, 9), nn.Sigmoid(), nn.Linear(64, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.act(self.conv(images)).flatten(1))


def test_fixed_size_is_no_obstacle_where_nothing_has_channels_last():
    check(FixedSize(), "act", torch.randn(2, 3, 12, 12))


# ---- ordinary convolutional networks --------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.norm(self.conv(x))).relu()


def test_convolutions_take_one_pass():
    model = Net(nn.Sequential(nn.Conv2d(3, 6, 4, 4), Block(6), nn.AdaptiveAvgPool2d((6, 2))), 6)
    for layer in ("body", "body.0", "body.1", "body.1.norm"):
        for size in ((24, 24), (24, 40)):
            model.sizes.clear()
            check(model, layer, torch.randn(2, 3, *size))
            assert model.sizes == [(2, 3, *size)] * 2, layer


@pytest.mark.parametrize(
    ("body", "size"),
    [
        (nn.AdaptiveAvgPool2d((7, 7)), (32, 96)),  # of a fixed size
        (nn.Conv2d(6, 6, (8, 1)), (32, 96)),  # one row
        pytest.param(
            nn.AdaptiveAvgPool2d(1),
            (32, 32),
            marks=pytest.mark.filterwarnings("ignore::fastcam.methods.cautions.MapWarning"),
        ),
        (nn.AdaptiveAvgPool2d((1, 2)), (32, 32)),
        (nn.Sequential(nn.Conv2d(6, 6, 5), nn.ReLU(), nn.Dropout()), (24, 96)),  # much of it is border
        (nn.Upsample(scale_factor=(2, 8)), (24, 24)),
        (Gate(6), (24, 96)),
        (nn.Sequential(nn.AdaptiveAvgPool2d((3, 9)), Gate(6)), (24, 24)),
        (nn.Sequential(nn.AdaptiveAvgPool2d((3, 9)), Block(6)), (24, 24)),
        (nn.Sequential(nn.AdaptiveAvgPool2d((6, 2)), Gate(6)), (24, 24)),  # 6 x 6 channels and rows
    ],
)
def test_odd_maps_of_convolutions(body, size):
    check(Net(nn.Sequential(nn.Conv2d(3, 6, 4, 4), body), 6), "body.1", torch.randn(2, 3, *size))


def test_odd_maps_of_known_networks():
    vgg = build("vgg11", 3)
    check(vgg, "avgpool", torch.randn(1, 3, 32, 96))
    check(vgg, "features.20", torch.randn(1, 3, 32, 96))
    check(build("squeezenet1_1", 3), "classifier.1", torch.randn(1, 3, 48, 80))


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


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.q_norm, self.attn_drop = nn.Linear(8, 24), nn.Identity(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # [N, heads, L, 4] each
        matrix = self.attn_drop((self.q_norm(q) @ k.transpose(2, 3)).softmax(3))
        return (matrix @ v).transpose(1, 2).flatten(2)


class Tokens(nn.Module):
    """As timm names the parts of its vision transformers."""

    def __init__(self, prefix: int, late: bool = False) -> None:
        super().__init__()
        self.patch_embed, self.num_prefix_tokens, self.late = Patches(), prefix, late
        self.first = nn.Parameter(torch.randn(1, prefix, 8))
        self.blocks, self.norm = nn.Sequential(Attention(), nn.LayerNorm(8)), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        patches, first = self.patch_embed(images), self.first.expand(len(images), -1, -1)
        if self.late:
            tokens = torch.cat((first, self.blocks(patches)), 1)
        else:
            tokens = self.blocks(torch.cat((first, patches), 1))
        return self.head(self.norm(tokens).sigmoid().mean(1))


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


# ---- windows and crops in the batch ---------------------------------------------------------------------------------


class Windows(nn.Module):
    """Four windows of each picture as a batch of four times the size."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.flat, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.cat(images.chunk(2, 2))
        maps = self.body(torch.cat(rows.chunk(2, 3)))
        tokens = self.flat(maps.flatten(2).transpose(1, 2))
        return self.head(tokens.tanh().mean(1)).unflatten(0, (4, -1)).mean(0)


def together(output: Tensor) -> Tensor:
    """[4·N, K, h, w] to [N, K, 2·h, 2·w]."""
    return torch.cat(torch.cat(output.chunk(2), 3).chunk(2), 2)


def flat_together(tokens: Tensor) -> Tensor:
    return together(tokens.transpose(1, 2).unflatten(2, (8, 8)))


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


class TokensFirst(nn.Module):
    """Tokens first and the batch second, as PyTorch's own attention has it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8)
        self.mix, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).permute(2, 0, 1))
        return self.head((tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0]).mean(0))


def from_tokens_first(tokens: Tensor) -> Tensor:
    return tokens.permute(1, 2, 0).unflatten(2, (2, 4))


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


# ---- Ablation-CAM ----------------------------------------------------------------------------------------------------


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


# ---- timm ------------------------------------------------------------------------------------------------------------


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
