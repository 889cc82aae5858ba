"""Frozen networks: the numbers of the networks that they were made of, and what cannot be frozen."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models
from torchvision.models.vision_transformer import VisionTransformer

from fastcam import methods
from fastcam.methods.frozen import FreezeError, FrozenNetwork


def trained(model: nn.Module) -> nn.Module:
    """The network with statistics as if it had seen pictures."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, 0, 0.2)
    return model.eval()


class Odd(nn.Module):
    """Convolutions in all surroundings: biases, additions in place, of itself and of another shape, used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, padding=1)
        self.one, self.two = nn.Conv2d(8, 8, 3, padding=2, dilation=2, bias=False), nn.Conv2d(8, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 3, padding="same", groups=4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(8, affine=affine) for affine in (True, False, True))
        self.last = nn.Conv2d(8, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        images *= 2  # in place, on the caller's pictures
        x = F.hardtanh(self.norms[0](self.stem(images)), 0, 6)
        y = self.one(x)
        y += x
        x = F.leaky_relu(self.norms[1](self.two(y)) + y + self.one.weight.sum(), 0.2)
        z = self.grouped(x)
        x = F.silu(z + z, inplace=True) + self.two(F.relu_(z))
        x = x + self.two(x.mean((2, 3), keepdim=True))
        return self.head(F.hardswish(self.last(self.norms[2](x))).mean((2, 3)))


def transformer() -> nn.Module:
    model = VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model


NETWORKS = {
    "resnet18": (lambda: models.resnet18(num_classes=5), "layer4", 64),
    "mobilenet": (lambda: models.mobilenet_v3_small(num_classes=5), "features.3", 64),
    "odd": (Odd, "last", 32),
    "transformer": (transformer, "encoder.layers.encoder_layer_1.ln_1", 32),
}


@pytest.fixture(params=NETWORKS)
def network(request) -> tuple[nn.Module, str, Tensor]:
    make, layer, size = NETWORKS[request.param]
    torch.manual_seed(0)
    return trained(make()), layer, torch.randn(3, 3, size, size)


def test_a_frozen_network_gives_the_same(network):
    model, layer, images = network
    state = copy.deepcopy(model.state_dict())
    cam = methods.EigenCAM(model, layer)
    maps, logits, boxes = cam(images), cam.outputs, cam.boxes(images)
    views, before = cam(images, aug_smooth=True), images.clone()
    cam.freeze(images)
    for given in (images, images[:1], torch.cat([images, images])):
        count = len(given[: len(images)])
        # Where a map's range is small beside its values, the range that becomes 1 magnifies rounding.
        torch.testing.assert_close(cam(given)[:count], maps[:count], rtol=0, atol=1e-4)
        assert (cam.outputs[:count].softmax(1) - logits[:count].softmax(1)).abs().max() < 1e-5
        assert (cam.boxes(given)[:count] - boxes[:count]).abs().max() <= 1
    torch.testing.assert_close(cam(images, aug_smooth=True), views, rtol=0, atol=1e-4)
    assert torch.equal(images, before)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_the_same_bits_whenever_it_is_frozen(network):
    model, layer, images = network
    first, second = (FrozenNetwork(model, {layer: model.get_submodule(layer)}, images)(images) for _ in range(2))
    assert torch.equal(first[1], second[1])
    assert torch.equal(first[0][layer], second[0][layer])


def test_convolutions_take_what_follows_them():
    model = trained(models.resnet18(num_classes=5))
    frozen = FrozenNetwork(model, {"layer4": model.layer4}, torch.zeros(2, 3, 64, 64))
    ((one, _),) = frozen._frozen.values()
    calls = [str(node.target) for node in one.graph.graph.nodes if node.op == "call_function"]
    assert sum("_convolution_pointwise" in call for call in calls) == 20
    assert not any(word in call for call in calls for word in ("batch_norm", "relu", "add", "conv2d"))


@pytest.mark.parametrize("method", ["cam", "eigencam", "scorecam", "ablationcam"])
def test_methods_use_it(method, monkeypatch):
    torch.manual_seed(0)
    model = trained(models.resnet18(num_classes=5))
    images = torch.randn(2, 3, 64, 64)
    cam = methods.create(method, model)
    maps = cam(images, 1)
    cam.freeze(images)
    runs, run = [], FrozenNetwork.__call__
    monkeypatch.setattr(FrozenNetwork, "__call__", lambda self, given: runs.append(len(given)) or run(self, given))
    torch.testing.assert_close(cam(images, 1), maps, rtol=0, atol=1e-5)
    assert runs[0] == 2
    assert (len(runs) > 100) == (method == "scorecam")
    monkeypatch.setattr(model, "forward", None)  # nothing else runs
    cam(images, 1)


def test_other_pictures_run_the_network_itself():
    model = trained(models.resnet18(num_classes=5))
    cam, images = methods.CAM(model), torch.randn(2, 3, 64, 64)
    cam.freeze(images)
    wider = torch.randn(2, 3, 64, 96)
    torch.testing.assert_close(cam(wider), methods.CAM(model)(wider), rtol=0, atol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(cam(images), methods.CAM(model)(images))


def test_one_graph_serves_the_sizes_of_all_views(monkeypatch):
    model = trained(models.resnet18(num_classes=5))
    cam, images = methods.CAM(model), torch.randn(2, 3, 64, 48)
    views = {"scales": (0.5, 1, 2), "flip": True}
    maps = cam(images, 1, **views)
    cam.freeze(images, **views)
    assert len({id(one.graph) for one, _ in cam.frozen._frozen.values()}) == 1
    assert {shape[1:] for shape in cam.frozen._frozen} == {(32, 24), (64, 48), (128, 96)}
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", None)  # nothing else runs
        torch.testing.assert_close(cam(images, 1, **views), maps, rtol=0, atol=1e-4)
    cam(images, 1)
    with pytest.raises(FreezeError, match="GradCAM takes gradients"):
        methods.GradCAM(model, "layer3").freeze(images, **views)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "gradcam++", "eigengradcam"])
def test_gradients_in_closed_form_need_no_graph(method, monkeypatch):
    torch.manual_seed(0)
    model = trained(models.resnet18(num_classes=5))
    cam, images, views = methods.create(method, model), torch.randn(2, 3, 64, 48), {"scales": (1, 2), "flip": True}
    plain, called, summed = cam(images, [1, 2]), cam(images, lambda logits: logits[1] - logits[2]), cam(images, **views)
    cam.freeze(images, **views)
    torch.testing.assert_close(cam(images, lambda logits: logits[1] - logits[2]), called, rtol=0, atol=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr(model, "forward", None)  # nothing else runs
        torch.testing.assert_close(cam(images, [1, 2]), plain, rtol=0, atol=1e-3)
        torch.testing.assert_close(cam(images, **views), summed, rtol=0, atol=1e-3)
        assert not cam.uses_gradients(methods.observe([cam], images, 1))
    assert cam.cautions == []


class Sized(Odd):
    """Adds what depends on the size, which a graph has as a constant."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images * images.shape[-1])


def test_a_size_that_a_graph_does_not_serve_has_its_own():
    model = trained(Sized())
    cam, images, views = methods.EigenCAM(model, "last"), torch.randn(2, 3, 32, 32), {"scales": (1, 2)}
    maps = cam(images, **views)
    cam.freeze(images, **views)
    assert len({id(one.graph) for one, _ in cam.frozen._frozen.values()}) == 2
    torch.testing.assert_close(cam(images, **views), maps, rtol=0, atol=1e-4)


class Branching(Odd):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images if images.mean() > 0 else -images)


class Noisy(Odd):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + torch.rand(1))


class Counting(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        self.calls.add_(1)
        return super().forward(images + self.calls)


class Normalizing(Odd):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.batch_norm(images, None, None, training=True))


@pytest.mark.filterwarnings("ignore:Normalizing normalises by the statistics of the batch")
@pytest.mark.parametrize(
    ("make", "dtype", "reason"),
    [
        (Branching, torch.float32, "torch.export does not understand it: .+"),
        (Noisy, torch.float32, "its graph gives other numbers than it"),
        (Counting, torch.float32, "it changes its own buffers as it runs"),
        (Normalizing, torch.float32, "it normalises by the statistics of the batch"),
        (Odd, torch.float64, "that is for networks of float32 on a CPU with oneDNN, this one runs in float64 on cpu"),
    ],
)
def test_what_cannot_be_frozen_says_why(make, dtype, reason):
    model = trained(make()).to(dtype)
    images = torch.randn(2, 3, 32, 32, dtype=dtype)
    cam = methods.EigenCAM(model, "last")
    with pytest.raises(FreezeError, match=reason):
        cam.freeze(images)
    cam(images)
    assert cam.frozen is None
    assert not any(module._forward_hooks for module in model.modules())


def test_a_method_with_gradients_is_not_frozen():
    with pytest.raises(FreezeError, match="GradCAM takes gradients, which a frozen network does not have"):
        methods.GradCAM(models.resnet18(), "layer3").freeze(torch.zeros(1, 3, 64, 64))
