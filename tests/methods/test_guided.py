"""Guided backprop, Guided Grad-CAM and saliency against captum, hand-computed cases and plain autograd."""

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from captum.testing.helpers.basic_models import BasicModel_ConvNet, BasicModel_ConvNet_One_Conv
from torch import Tensor, nn

from fastcam.methods import GradCAM, GuidedBackprop, GuidedGradCAM, Saliency
from fastcam.models import build

pytestmark = pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")  # captum's


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3, 64, 64)


@pytest.fixture(scope="module")
def resnet(images: Tensor) -> nn.Module:
    torch.manual_seed(2)
    model = build("resnet18", 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
        if isinstance(module, nn.ReLU):
            module.inplace = False  # captum's hooks cannot take it
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def assert_close(got: Tensor, want: Tensor, tolerance: float = 1e-5) -> None:
    want = want.detach()
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))


# ---- captum ----------------------------------------------------------------------------------------------------------


def separate_relus(model: nn.Module) -> nn.Module:
    """Captum hooks modules: one that is used twice must become two."""
    for module in model.modules():
        if hasattr(module, "bn2"):
            module.relu_after = nn.ReLU()
            module.forward = lambda x, m=module: m.relu_after(
                m.bn2(m.conv2(m.relu(m.bn1(m.conv1(x))))) + (x if m.downsample is None else m.downsample(x))
            )
    return model


def test_guided_backprop_equals_captum(resnet, images):
    got = GuidedBackprop(resnet)(images, [3, 1, 8])
    twin = build("resnet18", 10).eval()
    twin.load_state_dict(resnet.state_dict())
    for module in twin.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    twin = separate_relus(twin)
    want = captum.attr.GuidedBackprop(twin).attribute(images.clone().requires_grad_(), target=torch.tensor([3, 1, 8]))
    assert_close(got, want)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("arch", ["alexnet", "alexnet-gap"])
def test_guided_gradcam_equals_captum(arch, mode, images):
    model = build(arch, 4).eval()
    layer = model.features[-3 if arch == "alexnet" else -1]
    classes = torch.tensor([3, 1, 2])
    peer = captum.attr.GuidedGradCam(model, layer)
    want = peer.attribute(images.clone().requires_grad_(), target=classes, interpolate_mode=mode)
    guided = GuidedGradCAM(model, layer, mode=mode)
    assert_close(guided(images, classes), want)
    assert_close(guided(images, [lambda row, c=c: row[c] for c in (3, 1, 2)]), want)
    ranked = guided(images, top_k=2)
    assert torch.equal(guided.targets, guided.outputs.topk(2, 1).indices)
    assert_close(ranked[:, 1], guided(images, guided.targets[:, 1] if guided.targets.dim() == 2 else None))


def test_saliency_equals_captum(resnet, images):
    want = captum.attr.Saliency(resnet).attribute(images.clone().requires_grad_(), target=4).amax(1)
    got = Saliency(resnet)(images, 4)
    assert got.shape == (3, 64, 64)
    assert_close(got, want)


def test_captums_hand_computed_cases():
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    model = BasicModel_ConvNet_One_Conv()
    # Of captum's tests: Grad-CAM at the convolution, Guided Grad-CAM at the ReLU.
    want = torch.tensor([[[11.25, 13.5], [20.25, 22.5]]])
    torch.testing.assert_close(GradCAM(model, "conv1").coarse(image, 0), want)
    want = [[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 12.0, 8.0], [28.0, 84.0, 97.5, 65.0], [28.0, 56.0, 65.0, 32.5]]
    peer = captum.attr.GuidedGradCam(model, model.relu1).attribute(image.clone().requires_grad_(), target=0)
    torch.testing.assert_close(GuidedGradCAM(model, "relu1", mode="nearest")(image, 0), torch.tensor([[want]]))
    torch.testing.assert_close(peer.detach(), torch.tensor([[want]]))
    model = BasicModel_ConvNet()
    image = torch.arange(100.0).reshape(1, 1, 10, 10)
    for target in (0, 7):
        want = captum.attr.GuidedBackprop(model).attribute(image.clone().requires_grad_(), target=target)
        assert_close(GuidedBackprop(model)(image, target), want)
        want = captum.attr.LayerGradCam(model, model.conv1).attribute(image, target=target)
        assert_close(GradCAM(model, "conv1").coarse(image, target), want[:, 0])


# ---- what counts as a ReLU -------------------------------------------------------------------------------------------


class Kinds(nn.Module):
    """Each way to write a ReLU, twice in a row, with weights that make gradients of both signs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.convs = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.shared = nn.ReLU()
        self.inplace = nn.ReLU(inplace=True)
        self.six = nn.ReLU6(inplace=True)
        self.head = nn.Linear(3, 4)

    def relu(self, x: Tensor) -> Tensor:
        if self.kind == "in place, result unused":
            self.inplace(x)
            return x
        return {
            "shared module": self.shared,
            "module in place": self.inplace,
            "ReLU6": self.six,
            "F.relu": F.relu,
            "F.relu in place": lambda x: F.relu(x, inplace=True),
            "torch.relu": torch.relu,
            "method": lambda x: x.relu(),
            "method in place": lambda x: x.relu_(),
            "F.relu6": F.relu6,
            "hardtanh": lambda x: F.hardtanh(x, 0.0, 6.0),
        }[self.kind](x)

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for conv in self.convs:
            x = self.relu(conv(x))
        return self.head(x.mean((2, 3)))


KINDS = ["shared module", "module in place", "in place, result unused", "F.relu", "F.relu in place", "torch.relu"]
KINDS += ["method", "method in place", "ReLU6", "F.relu6", "hardtanh"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_use_of_a_relu_counts(kind):
    model = Kinds(kind).eval()
    images = torch.randn(2, 3, 8, 8)
    # The rule, written out backwards.
    values, x = [], images
    for conv in model.convs:
        values.append(conv(x).detach())
        x = values[-1].relu()
    gradient = model.head.weight[2].detach()[None, :, None, None].expand(2, 3, 8, 8) / 64
    for conv, value in zip(reversed(model.convs), reversed(values), strict=True):
        gradient = F.conv_transpose2d(gradient.clamp(min=0) * (value > 0), conv.weight.detach(), padding=1)
    torch.testing.assert_close(GuidedBackprop(model)(images, 2), gradient)
    plain = images.clone().requires_grad_()
    model(plain)[:, 2].sum().backward()
    assert not torch.allclose(plain.grad, gradient)  # and afterwards the model is its old self
    torch.testing.assert_close(Saliency(model)(images, 2), plain.grad.abs().amax(1))


def test_a_first_layer_in_place():
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.randn(1, 3, 4, 4)
    before = images.clone()
    weight = model[1].weight[1, :, 0, 0].detach().clamp(min=0)[:, None, None] / 16
    torch.testing.assert_close(GuidedBackprop(model)(images, 1)[0], weight * (images[0] > 0))
    assert torch.equal(images, before)


# ---- the model is left as it was -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [GuidedBackprop, GuidedGradCAM, Saliency])
@pytest.mark.parametrize("broken", [None, "forward", "target", "backward"])
def test_model_is_untouched(method, broken, resnet, images):
    def fail(*args):
        raise RuntimeError("on purpose")

    resnet.train()
    resnet.layer1.eval()
    resnet.requires_grad_(False)
    resnet.fc.bias.requires_grad_(True).grad = torch.ones(10)
    modes = [module.training for module in resnet.modules()]
    state = {key: value.clone() for key, value in resnet.state_dict().items()}
    handle = resnet.layer3.register_forward_hook(
        fail if broken == "forward" else
        (lambda m, i, o: o.register_hook(fail) and None) if broken == "backward" else
        (lambda m, i, o: None)
    )  # fmt: skip
    try:
        if broken:
            with pytest.raises(RuntimeError, match="on purpose"):
                method(resnet)(images, fail if broken == "target" else 1)
        else:
            with torch.inference_mode():
                values = method(resnet)(images.clone(), 1)
            assert not values.requires_grad
    finally:
        handle.remove()
    assert [module.training for module in resnet.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in resnet.state_dict().items())
    assert [p.requires_grad for p in resnet.parameters()] == [False] * 61 + [True]
    assert torch.equal(resnet.fc.bias.grad, torch.ones(10))
    assert not any(m._forward_hooks or m._backward_hooks for m in resnet.modules())
    assert torch.is_grad_enabled()
    resnet.fc.bias.grad = None
    resnet.requires_grad_(True).eval()


def test_dtypes(resnet, images):
    want = GuidedBackprop(resnet)(images, 1)
    model = build("resnet18", 10).eval()
    model.load_state_dict(resnet.state_dict())
    got = GuidedBackprop(model.double())(images.double(), 1)
    assert got.dtype == torch.float64
    assert_close(got.float(), want, 1e-4)
    half = GuidedBackprop(model.bfloat16())(images.bfloat16(), 1)
    assert half.dtype == torch.float32
    assert F.cosine_similarity(half.flatten(), want.flatten(), 0) > 0.9
    assert GuidedGradCAM(model)(images.bfloat16()).dtype == torch.float32


def test_errors(resnet, images):
    with pytest.raises(ValueError, match=r"Sequential uses none .*: Saliency gives its plain gradient"):
        GuidedBackprop(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))(images)
    with pytest.raises(ValueError, match="`mode` must be one of bilinear, bicubic, nearest"):
        GuidedGradCAM(resnet, mode="area")
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got str"):
        Saliency("resnet18")
    with pytest.raises(ValueError, match="one entry for each of the 3 images, got 2"):
        Saliency(resnet)(images, [1, 2])
    with pytest.raises(ValueError, match=r"`images` must be \[N, 3, H, W\], got \[3, 64, 64\]"):
        GuidedBackprop(resnet)(images[0])
    with pytest.raises(ValueError, match="did you mean layer3"):
        GuidedGradCAM(resnet, "layer33")


@pytest.mark.parametrize("method", [GuidedBackprop, GuidedGradCAM, Saliency])
def test_empty_batch(method, resnet, images):
    colours = () if method is Saliency else (3,)
    assert method(resnet)(images[:0]).shape == (0, *colours, 64, 64)
    assert method(resnet)(images[:0], top_k=2).shape == (0, 2, *colours, 64, 64)


def test_several_layers(resnet, images):
    single = torch.stack([GuidedGradCAM(resnet, layer)(images, 1) for layer in ("layer3", "layer4")])
    got = GuidedGradCAM(resnet, ["layer3", "layer4"])(images, 1)
    assert_close(got, single.mean(0))
