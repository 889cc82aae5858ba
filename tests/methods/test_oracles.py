"""The numbers of every method against formulas by hand, the logits themselves, captum, torch-cam and grad-cam."""

import math

import captum.attr
import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from fastcam import methods, reference
from fastcam.methods import CAM, GradCAM, LayerCAM
from fastcam.models import build, default_target_layer, load_weights

GRADIENT_METHODS = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam"]
PEERS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "xgradcam": pytorch_grad_cam.XGradCAM,
}


def lively(model: nn.Module, images: Tensor) -> nn.Module:
    """Fit BatchNorm to the images: with random weights the activations would else shrink to nothing on the way."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3, 96, 96)


@pytest.fixture(scope="module")
def resnet(images: Tensor) -> nn.Module:
    torch.manual_seed(2)
    return lively(build("resnet18", 10), images)


def assert_close(got: Tensor, want: Tensor, tolerance: float) -> None:
    """Compare coarse maps, whose scale is arbitrary, relative to their largest value."""
    want = want.detach()
    torch.testing.assert_close(got, want, rtol=0, atol=tolerance * float(want.abs().max()))


# ---- class activation maps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "head"),
    [
        ("resnet18", "fc"),
        ("resnext50_32x4d", "fc"),
        ("densenet121", "classifier"),
        ("mobilenet_v2", "classifier.1"),
        ("googlenet", "fc"),
        ("efficientnet_b0", "classifier.1"),
        ("shufflenet_v2_x0_5", "fc"),
        ("regnet_y_400mf", "fc"),
        ("mnasnet0_5", "classifier.1"),
        ("swin_t", "head"),
    ],
)
def test_mean_of_cam_and_bias_is_the_logit(arch, head):
    images = torch.randn(4, 3, 64, 64, dtype=torch.float64)
    model = lively(build(arch, 7).double(), images)
    cam = CAM(model)
    classes = torch.arange(7).expand(4, 7)
    maps = cam.coarse(images, classes)
    assert maps.shape[-1] > 1
    logits = maps.mean((2, 3)) + model.get_submodule(head).bias
    assert logits.std() > 1e-2
    torch.testing.assert_close(logits, model(images), rtol=1e-9, atol=1e-9)
    # Grad-CAM is ReLU(CAM)/Z. After DenseNet's target layer comes a ReLU, so that its gradient is not uniform.
    if arch != "densenet121":
        torch.testing.assert_close(GradCAM(model).coarse(images, classes), maps / maps[0, 0].numel())


@pytest.mark.parametrize("arch", ["alexnet", "vgg11", "squeezenet1_1", "mobilenet_v3_small", "convnext_tiny"])
def test_other_heads_are_refused_by_cam_and_served_by_gradcam(arch):
    images = torch.randn(2, 3, 96, 96)
    model = build(arch, 7).eval()
    layer = default_target_layer(model)
    with pytest.raises(ValueError, match=f"CAM needs global average pooling .* {layer!r}.*GradCAM works on any"):
        CAM(model)(images)
    got = GradCAM(model).coarse(images, 3)
    want = captum.attr.LayerGradCam(model, model.get_submodule(layer)).attribute(images, target=3)
    assert_close(got, want[:, 0], 1e-5)


def test_cam_equals_torchcam(resnet, images):
    classes = [1, 5, 9]
    with torchcam.methods.CAM(resnet, "layer4", "fc") as peer, torch.no_grad():
        resnet(images)
        (want,) = peer(classes, normalized=False)
    assert_close(CAM(resnet).coarse(images, classes), want, 1e-5)


def test_cam_on_real_weights(shared):
    model = build("mobilenet_v2").eval()
    load_weights(model, shared / "weights" / "mobilenet_v2.pt")
    images = torch.randn(2, 3, 224, 224)
    cam = CAM(model)
    maps = cam.coarse(images, top_k=5)
    want = cam.outputs.gather(1, cam.targets) - model.classifier[1].bias[cam.targets]
    torch.testing.assert_close(maps.mean((2, 3)), want, rtol=1e-4, atol=1e-4)


# ---- gradients -------------------------------------------------------------------------------------------------------


class Split(nn.Module):
    """A network in two parts, so that a test can differentiate it without hooks."""

    def __init__(self, pool: nn.Module | None = None) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3, 2), nn.Tanh())
        self.rest = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True))
        self.pool = pool or nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(6, 5)

    def after(self, features: Tensor) -> Tensor:
        return self.head(self.pool(self.rest(features)).flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        return self.after(self.trunk(images))


def by_hand(name: str, a: Tensor, g: Tensor) -> Tensor:
    """The formulas of the papers, position by position."""
    n, k, h, w = a.shape
    maps = torch.zeros(n, h, w, dtype=a.dtype)
    for i in range(n):
        for c in range(k):
            total = a[i, c].sum()
            if name == "gradcam":
                weight = g[i, c].mean()
            elif name == "xgradcam":
                # eps on the side of the sum, which it would else cancel or turn round
                weight = (g[i, c] * a[i, c]).sum() / (total + math.copysign(1e-7, total))
            elif name == "gradcam++":
                weight = 0
                for value in g[i, c].flatten():
                    weight += value**2 / (2 * value**2 + total * value**3 + 1e-6) * max(value, 0)
            else:
                weight = g[i, c] if name == "hirescam" else g[i, c].clamp(min=0)
            maps[i] += weight * a[i, c]
    return maps


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_formulas(name, backend):
    images = torch.randn(2, 3, 23, 27, dtype=torch.float64)
    model = Split().double().eval()
    features = model.trunk(images).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(model.after(features.clone())[[0, 1], [4, 2]].sum(), features)
    want = by_hand(name, features.detach(), gradients)
    cam = methods.create(name, model, target_layers="trunk", backend=backend)
    torch.testing.assert_close(cam.coarse(images, [4, 2]), want, rtol=1e-10, atol=1e-12)
    maps = reference.heatmap(want.float(), (23, 27))
    torch.testing.assert_close(cam(images, [4, 2]), maps, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_closed_form_equals_autograd(name, dtype, tolerance, resnet, images, monkeypatch):
    model, images = resnet.to(dtype), images.to(dtype)
    try:
        cam = methods.create(name, model)
        want = cam.coarse(images, [lambda row, c=c: row[c] for c in (0, 4, 7)])  # callables go by autograd
        monkeypatch.setattr(torch.autograd, "grad", None)
        got = cam.coarse(images, [0, 4, 7])
    finally:
        resnet.float()
    assert want.abs().max() > 1e-3
    assert_close(got, want, tolerance)


@pytest.mark.parametrize("pool", [nn.AdaptiveMaxPool2d(1), nn.LPPool2d(2, (5, 6))])
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_no_closed_form_for_other_poolings(name, pool):
    images = torch.randn(2, 3, 23, 27, dtype=torch.float64)
    model = Split(pool).double().eval()
    features = model.rest(model.trunk(images)).detach().requires_grad_()
    logits = model.head(model.pool(features).flatten(1))
    (gradients,) = torch.autograd.grad(logits[:, 3].sum(), features)
    want = by_hand(name, features.detach(), gradients)
    got = methods.create(name, model, target_layers="rest").coarse(images, 3)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)
    if isinstance(pool, nn.LPPool2d):
        with pytest.raises(ValueError, match="not given the mean of each channel, nor its maximum"):
            CAM(model, "rest")(images)


@pytest.mark.parametrize("layer", ["conv1", "layer1.0.conv1", "layer3", "layer4.1.bn2", "layer4"])
def test_gradcam_equals_captum(resnet, images, layer):
    classes = torch.tensor([3, 1, 8])
    want = captum.attr.LayerGradCam(resnet, resnet.get_submodule(layer)).attribute(images, target=classes)
    got = GradCAM(resnet, layer).coarse(images, classes)
    assert_close(got, want[:, 0], 1e-5)


@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_no_closed_form_where_a_relu_precedes_the_pooling(name):
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    model.double()
    features = model[0](images).detach()
    gradients = (features > 0) * model[4].weight[3].detach()[:, None, None] / 36
    got = methods.create(name, model, target_layers="0").coarse(images, 3)
    torch.testing.assert_close(got, by_hand(name, features, gradients), rtol=1e-9, atol=1e-12)


# ---- the popular package ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [["layer4"], ["layer2"], ["layer2", "layer3.0.conv1", "layer4"]], ids="+".join)
@pytest.mark.parametrize("name", GRADIENT_METHODS)
def test_order_of_the_popular_package(name, layers, resnet, images):
    targets = [ClassifierOutputTarget(c) for c in (2, 6, 0)]
    with PEERS[name](resnet, [resnet.get_submodule(layer) for layer in layers]) as peer:
        want = torch.from_numpy(peer(images, targets))
    cam = methods.create(name, resnet, target_layers=layers, order="grad-cam")
    torch.testing.assert_close(cam(images, [2, 6, 0]), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(cam(images, targets), want, rtol=0, atol=1e-5)  # its targets work unchanged


def test_tokens():
    def to_maps(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)

    images = torch.randn(2, 3, 32, 32)
    model = VisionTransformer(32, 8, num_layers=3, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)
    layer = "encoder.layers.encoder_layer_2.ln_1"
    with PEERS["gradcam"](model, [model.get_submodule(layer)], reshape_transform=to_maps) as peer:
        want = torch.from_numpy(peer(images, [ClassifierOutputTarget(1), ClassifierOutputTarget(4)]))
    cam = GradCAM(model, layer, order="grad-cam", reshape_transform=to_maps)
    torch.testing.assert_close(cam(images, [1, 4]), want, rtol=0, atol=1e-5)
    assert LayerCAM(model, layer, reshape_transform=to_maps).coarse(images, top_k=2).shape == (2, 2, 4, 4)
    assert torch.equal(GradCAM(model, layer, order="grad-cam")(images, [1, 4]), cam(images, [1, 4]))
    with pytest.raises(ValueError, match=r"must give \[2, K, h, w\] for 'encoder.*', got \[16, 2, 17\]"):
        GradCAM(model, layer, reshape_transform=lambda tokens: tokens.permute(2, 0, 1))(images)
