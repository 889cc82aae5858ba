"""Shortcuts are taken where the pass proves them: maps of networks that only look like a pooling and a linear layer."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from fastcam.methods import (
    CAM,
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    Method,
    XGradCAM,
    observe,
)


class Masked(nn.Linear):
    """A pruned layer that keeps its whole weight."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * (torch.arange(self.in_features) % 2), self.bias)


class Cosine(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 10 * F.linear(F.normalize(x), F.normalize(self.weight))


class LowRank(nn.Linear):
    """An adapter beside the frozen weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down, self.up = nn.Linear(sizes[0], 2, bias=False), nn.Linear(2, sizes[1], bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias) + self.up(self.down(x))


class Negative(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class Squashed(nn.Linear):
    """Close to its weight's logits, and not the same."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).tanh()


class Rounded(nn.Linear):
    """The weight as training for quantisation sees it: rounded, with the gradient of what was rounded."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, torch.fake_quantize_per_tensor_affine(self.weight, 0.05, 0, -128, 127), self.bias)


class RoundedInput(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127))


class Reversed(torch.autograd.Function):
    """Nothing forward, the sign backward: adversarial training of domains."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return -gradient


class Transposed(nn.Linear):
    """The same as a product with the transposed weight: still linear."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(1)) / 2


class Net(nn.Module):
    """A stage, ReLU, whatever comes before the pooling, the pooling, whatever comes after, a linear layer."""

    def __init__(self, linear: type[nn.Linear] = nn.Linear) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 2, 1), nn.ReLU())
        self.fc = linear(6, 4)
        self.before, self.after, self.end = nn.Identity(), nn.Identity(), nn.Identity()

    def head(self, maps: Tensor) -> Tensor:
        return self.end(self.fc(self.after(self.before(maps).mean((2, 3)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage(x))


class Apply(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def changed(change: object, linear: type[nn.Linear] = nn.Linear) -> Net:
    net = Net(linear).eval()
    change(net)
    return net


def scaled_pruned(net: Net) -> None:
    prune.random_unstructured(net.fc, "weight", 0.5)


# Name: the network, and whether its logits are weight and bias of a linear layer applied to pooled maps.
NETWORKS = {
    "plain": (lambda net: None, True),
    "transposed": (lambda net: setattr(net, "fc", Transposed(6, 4)), True),
    "pruned": (scaled_pruned, True),
    "weight norm": (lambda net: parametrizations.weight_norm(net.fc), True),
    "spectral norm": (lambda net: parametrizations.spectral_norm(net.fc).eval(), True),
    "parametrised": (lambda net: parametrize.register_parametrization(net.fc, "weight", Symmetric()), True),
    "copied logits": (lambda net: setattr(net, "end", Apply(lambda y: y.clone())), True),
    "second ReLU": (lambda net: setattr(net, "before", nn.ReLU()), True),
    "gradient reversal": (lambda net: setattr(net, "after", Apply(Reversed.apply)), True),
    "masked": (lambda net: setattr(net, "fc", Masked(6, 4)), False),
    "cosine": (lambda net: setattr(net, "fc", Cosine(6, 4)), False),
    "low rank": (lambda net: setattr(net, "fc", LowRank(6, 4)), False),
    "negative": (lambda net: setattr(net, "fc", Negative(6, 4)), False),
    "squashed": (lambda net: setattr(net, "fc", Squashed(6, 4)), False),
    "rounded": (lambda net: setattr(net, "fc", Rounded(6, 4)), False),
    "rounded input": (lambda net: setattr(net, "fc", RoundedInput(6, 4)), False),
    "logits in place": (lambda net: setattr(net, "end", Apply(lambda y: y.mul_(-3))), False),
    "temperature": (lambda net: setattr(net, "end", Apply(lambda y: y / 0.7)), False),
    "softmax": (lambda net: setattr(net, "end", nn.Softmax(1)), False),
    "hook on the output": (lambda net: net.fc.register_forward_hook(lambda m, args, y: y**2), False),
    "hook in place": (lambda net: net.fc.register_forward_hook(lambda m, args, y: y.neg_()), False),
    "hook on the input": (lambda net: net.fc.register_forward_pre_hook(lambda m, args: (args[0] ** 2,)), False),
    "power mean": (lambda net: setattr(net, "before", Apply(lambda x: x**3)), False),
    "gate": (lambda net: setattr(net, "after", Apply(lambda x: x * x.sigmoid())), False),
}


def by_autograd(net: Net, x: Tensor, classes: list[int]) -> tuple[Tensor, Tensor]:
    """Activations and gradients of the stage, from the network's own parts."""
    maps = net.stage(x).detach().requires_grad_()
    logits = net.head(maps.clone())
    (gradients,) = torch.autograd.grad(logits[range(len(x)), classes].sum(), maps)
    return maps.detach(), gradients


def formulas(a: Tensor, g: Tensor) -> dict[type[Method], Tensor]:
    """The papers' sums."""
    total = a.sum((2, 3), keepdim=True)
    alpha = g**2 / (2 * g**2 + total * g**3 + 1e-6)
    return {
        GradCAM: (g.mean((2, 3), keepdim=True) * a).sum(1),
        HiResCAM: (g * a).sum(1),
        LayerCAM: (g.relu() * a).sum(1),
        XGradCAM: ((g * a).sum((2, 3), keepdim=True) / (total + 1e-7) * a).sum(1),
        GradCAMPlusPlus: ((alpha * g.relu()).sum((2, 3), keepdim=True) * a).sum(1),
    }


def close(found: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(found, want, rtol=0, atol=1e-5 * float(want.abs().max()) + 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_autograd(name):
    change, _ = NETWORKS[name]
    net, x, classes = changed(change), torch.randn(5, 3, 24, 28), [1, 0, 3, 2, 1]
    for method, want in formulas(*by_autograd(net, x, classes)).items():
        close(method(net, "stage").coarse(x, classes), want)
        close(method(net, "stage").coarse(x, [lambda row, c=c: row[c] for c in classes]), want)


@pytest.mark.parametrize("name", NETWORKS)
def test_cam_has_the_weights_of_the_logits_or_none(name):
    """Where it gives a map, the map's mean and the bias are the logit."""
    change, linear = NETWORKS[name]
    net, x, classes = changed(change), torch.randn(5, 3, 24, 28), [1, 0, 3, 2, 1]
    cam = CAM(net, "stage")
    if linear:
        logits = net(x)[range(5), classes].detach()
        close(cam.coarse(x, classes).mean((1, 2)) + net.fc.bias.detach()[classes], logits)
        return
    with pytest.raises(ValueError, match="GradCAM works on any network"):
        cam.coarse(x, classes)
    if name in ("cosine", "masked", "negative"):
        kind = type(net.fc).__name__
        with pytest.raises(ValueError, match=rf"not what weight and bias of the last linear layer \({kind}\) make of"):
            cam.coarse(x, classes)


@pytest.mark.parametrize("name", NETWORKS)
def test_ablation_is_what_the_network_says_without_a_channel(name):
    change, _ = NETWORKS[name]
    net, x, classes = changed(change), torch.randn(5, 3, 24, 28), [1, 0, 3, 2, 1]
    with torch.no_grad():
        maps = net.stage(x)
        scores = net.head(maps.clone())[range(5), classes]
        want = torch.zeros_like(maps[:, 0])
        for k in range(6):
            without = maps.clone()
            without[:, k] = 0
            drop = (scores - net.head(without)[range(5), classes]) / scores.abs()
            want += drop[:, None, None] * maps[:, k]
    close(AblationCAM(net, "stage").coarse(x, classes), want)


@pytest.mark.parametrize("name", ["plain", "pruned", "weight norm", "copied logits"])
def test_what_is_proved_needs_no_backward_pass(name):
    net = changed(NETWORKS[name][0])
    cam = GradCAM(net, "stage")
    assert not cam.uses_gradients(observe([cam], torch.randn(2, 3, 24, 28)))


@pytest.mark.parametrize("name", ["second ReLU", "gradient reversal", "cosine", "hook in place"])
def test_what_is_not_proved_takes_one(name):
    net = changed(NETWORKS[name][0])
    cam = GradCAM(net, "stage")
    assert cam.uses_gradients(observe([cam], torch.randn(2, 3, 24, 28)))


def test_a_run_that_was_made_without_gradients_gives_them_all_the_same():
    net, x = changed(NETWORKS["cosine"][0]), torch.randn(3, 3, 24, 28)
    run = observe([EigenCAM(net, "stage")], x, [0, 1, 2])
    close(GradCAM(net, "stage").coarse(run), formulas(*by_autograd(net, x, [0, 1, 2]))[GradCAM])


@pytest.mark.filterwarnings("ignore:.*quantiz.*:DeprecationWarning", "ignore::UserWarning")
def test_quantised_heads_are_refused_or_explained_by_passes():
    """A layer of whole numbers has no gradient; taking channels away needs none."""
    net = Net().eval()
    quantised = torch.ao.quantization.quantize_dynamic(net, {nn.Linear})
    x = torch.randn(2, 3, 24, 28)
    for method in (CAM, GradCAM):
        with pytest.raises((ValueError, RuntimeError), match=r"linear layer|no gradient"):
            method(quantised, "stage").coarse(x, 1)
    maps = AblationCAM(quantised, "stage").coarse(x, 1)
    assert maps.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_precision_does_not_hide_the_head(dtype):
    net, x = Net().to(dtype).eval(), torch.randn(4, 3, 64, 64).to(dtype)
    weight = net.fc.weight.detach().double()[2]
    want = torch.einsum("k,nkhw->nhw", weight, net.stage(x).detach().double())
    torch.testing.assert_close(CAM(net, "stage").coarse(x, 2).double(), want, rtol=1e-2, atol=1e-2)
    with pytest.raises(ValueError, match="GradCAM works"):
        CAM(changed(lambda net: setattr(net, "fc", Negative(6, 4))).to(dtype), "stage").coarse(x, 2)
