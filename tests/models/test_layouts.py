"""Layouts of layers: maps with channels first or last are recognised by a pass, or refused."""

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fastcam import AblationCAM, EigenCAM, GradCAM, GuidedGradCAM, LayerCAM
from fastcam.models import build
from tests.support.layouts import Last, Mixer, Net, Residual, Wrapper, by_hand, check, last, refused


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


def small_swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 16, [1, 1], [2, 2], [4, 4], num_classes=5)


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


# ---- where both readings have the picture's proportions --------------------------------------------------------------


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


# ---- ordinary convolutional networks ---------------------------------------------------------------------------------


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
