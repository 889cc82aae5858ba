"""Finer-CAM, ShapleyCAM, RefineCAM and FullGrad beside grad-cam, torchcam and the papers' formulas in plain torch."""

import copy
import math

import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import (
    ClassifierOutputReST,
    ClassifierOutputTarget,
)
from torch import Tensor, nn
from torchvision.models import VisionTransformer, get_model
from torchvision.ops import FrozenBatchNorm2d

from fastcam import methods
from fastcam.methods import FinerCAM, FullGrad, GradCAM, GradCAMPlusPlus, LayerCAM, RefineCAM, ShapleyCAM, observe
from fastcam.models import build, default_stages


class Net(nn.Module):
    """Three stages and a head that is not linear, so that scores have a second derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.ReLU(inplace=True))
        self.stage3 = nn.Sequential(nn.Conv2d(12, 10, 3, 1, 1), nn.Tanh())
        self.head = nn.Sequential(nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 6))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.bias)
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.stage3(self.stage2(self.stage1(images))).mean((2, 3)))


@pytest.fixture
def model() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 24, 32)


LABELS = [4, 0, 2]


def by_hand(model: nn.Module, layer: str, images: Tensor) -> tuple[Tensor, Tensor]:
    kept: list[Tensor] = []
    handle = model.get_submodule(layer).register_forward_hook(
        lambda m, args, output: kept.append(output.clone()) or kept[0]
    )
    logits = model(images)
    handle.remove()
    return kept[0], logits


# ---- Finer-CAM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["stage3", "stage2", "stage1"])
@pytest.mark.parametrize("weighting", ["mean", "softmax"])
def test_finer_cam_is_the_formula(weighting, layer, model, images):
    features, logits = by_hand(model, layer, images)
    got = FinerCAM(model, layer, strength=0.8, similar=2, weighting=weighting).coarse(images, "all")
    for picture, label in [(n, c) for n in range(3) for c in range(6)]:
        row = logits[picture]
        others = sorted(set(range(6)) - {label}, key=(row - row[label]).detach().abs().tolist().__getitem__)[:2]
        shares = row.softmax(0)[others] if weighting == "softmax" else torch.full((2,), 0.5)
        score = (shares * (row[label] - 0.8 * row[others])).sum() / shares.sum()
        gradient = torch.autograd.grad(score, features, retain_graph=True)[0][picture]
        want = (gradient.mean((1, 2))[:, None, None] * features[picture]).sum(0).detach()
        torch.testing.assert_close(got[picture, label], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("base", ["gradcam", "gradcam++", "layercam"])
def test_finer_cam_is_that_of_both_packages(base, model, images):
    peers = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM"}
    peer = pytorch_grad_cam.FinerCAM(model, [model.stage3], base_method=getattr(pytorch_grad_cam, peers[base]))
    with peer:
        want = torch.from_numpy(peer(images))  # of the highest class
    cam = FinerCAM(model, "stage3", base=base, strength=1, weighting="softmax", order="grad-cam")
    torch.testing.assert_close(cam(images), want, rtol=0, atol=1e-4)
    if base == "gradcam++":  # torchcam's has no quotient
        return
    with torchcam.methods.FinerCAM(model, "stage3", base_method=getattr(torchcam.methods, peers[base])) as other:
        (want,) = other(LABELS, model(images), normalized=False)
    got = FinerCAM(model, "stage3", base=base).coarse(images, LABELS).relu()
    torch.testing.assert_close(got, want.detach(), rtol=1e-4, atol=1e-6)


def test_finer_cam_without_a_comparison_is_its_base(model, images):
    for base in ("gradcam", "gradcam++", "hirescam", "layercam", "xgradcam"):
        for layer in ("stage1", ["stage1", "stage3"]):
            plain = methods.create(base, model, target_layers=layer)
            for options in ({}, {"eigen_smooth": True}, {"aug_smooth": True}):
                got = FinerCAM(model, layer, base=base, strength=0)(images, LABELS, **options)
                torch.testing.assert_close(got, plain(images, LABELS, **options), rtol=0, atol=1e-4)
    resnet = build("resnet18", 5).eval()  # which has a closed form
    pictures = torch.randn(2, 3, 64, 64)
    got = FinerCAM(resnet, strength=0)(pictures, 3)
    torch.testing.assert_close(got, GradCAM(resnet)(pictures, 3), rtol=0, atol=1e-4)


def test_finer_cam_refuses(model, images):
    with pytest.raises(TypeError, match=r"FinerCAM compares classes: .* got callables"):
        FinerCAM(model, "stage3")(images, lambda row: row[0])
    single = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="compares a class with others, but the network has 1"):
        FinerCAM(single, "0")(images)
    for wrong in (
        {"base": "scorecam"},
        {"strength": -1},
        {"strength": math.nan},
        {"similar": 0},
        {"weighting": "max"},
    ):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            FinerCAM(model, "stage3", **wrong)


# ---- ShapleyCAM ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["rest", "logit"])
@pytest.mark.parametrize("layer", ["stage3", "stage1"])
def test_shapley_cam_is_that_of_grad_cam(layer, score, model, images):
    target = {"rest": ClassifierOutputReST, "logit": ClassifierOutputTarget}[score]
    with pytorch_grad_cam.ShapleyCAM(model, [model.get_submodule(layer)]) as peer:
        want = torch.from_numpy(peer(images.clone(), [target(label) for label in LABELS]))
    got = ShapleyCAM(model, layer, score=score, order="grad-cam")(images, LABELS)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize("layer", ["stage3", "stage1"])
def test_shapley_cam_by_the_whole_hessian(layer, model, images):
    model.double()
    image = images[:1, :, :8, :8].double()
    features, _ = by_hand(model, layer, image)
    stages = [model.stage1, model.stage2, model.stage3]
    later = stages[1 + ["stage1", "stage2", "stage3"].index(layer) :]

    def score(flat: Tensor) -> Tensor:
        x = flat.view_as(features)
        for stage in later:
            x = stage(x.clone())
        row = model.head(x.mean((2, 3)))[0]
        return row[2] + row.log_softmax(0)[2]

    flat = features.detach().flatten()
    gradient = torch.autograd.functional.jacobian(score, flat)
    hessian = torch.autograd.functional.hessian(score, flat)
    weights = (gradient - hessian @ flat / 2).view_as(features).mean((2, 3))
    want = (weights[..., None, None] * features).sum(1).detach()
    torch.testing.assert_close(ShapleyCAM(model, layer).coarse(image, 2), want)


def test_shapley_cam_of_a_linear_score_is_grad_cam():
    resnet, pictures = build("resnet18", 5).eval(), torch.randn(2, 3, 64, 64)
    got = ShapleyCAM(resnet, score="logit").coarse(pictures, 3)
    torch.testing.assert_close(got, GradCAM(resnet).coarse(pictures, 3), rtol=1e-4, atol=1e-6)


def test_shapley_cam_through_attention():
    """Fused attention has no second derivative; the network by the plain one gives the same."""
    vit, pictures = VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5).eval(), torch.randn(2, 3, 32, 32)
    nn.init.normal_(vit.heads.head.weight)
    layer = "encoder.layers.encoder_layer_1.ln_1"
    got = ShapleyCAM(vit, layer).coarse(pictures, 2)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        features, logits = by_hand(vit, layer, pictures)
        score = (logits[:, 2] + logits.log_softmax(1)[:, 2]).sum()
        (gradient,) = torch.autograd.grad(score, features, create_graph=True)
        (second,) = torch.autograd.grad(gradient, features, features.detach())
    weights = (gradient - second / 2)[:, 1:].mean(1)
    want = (features[:, 1:] @ weights[..., None]).view(2, 4, 4).detach()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)


def test_shapley_cam_of_callables_and_frozen_trunks(model, images):
    class Frozen(Net):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.stage3(self.stage2(self.stage1(images)))
            return self.head(features.mean((2, 3)))

    frozen = Frozen()
    frozen.load_state_dict(model.state_dict())
    for layer in ("stage3", "stage1", ["stage1", "stage2"]):
        want = ShapleyCAM(model, layer)(images, LABELS)
        torch.testing.assert_close(ShapleyCAM(frozen, layer)(images, LABELS), want)
    target = [lambda row, c=c: row[c] + row.log_softmax(0)[c] for c in LABELS]
    got = ShapleyCAM(model, "stage2")(images, target)
    torch.testing.assert_close(got, ShapleyCAM(model, "stage2")(images, LABELS))
    with pytest.raises(ValueError, match="`score` must be one of rest, logit"):
        ShapleyCAM(model, "stage2", score="softmax")


# ---- RefineCAM -------------------------------------------------------------------------------------------------------

STAGES = ["stage1", "stage2", "stage3"]


@pytest.mark.parametrize("base", ["gradcam++", "gradcam", "layercam"])
def test_refine_cam_is_that_of_grad_cam(base, model, images):
    peers = {"gradcam": "GradCAM", "gradcam++": "GradCAMPlusPlus", "layercam": "LayerCAM"}
    layers = [model.get_submodule(name) for name in STAGES]
    peer = pytorch_grad_cam.RefineCAM(model, layers, base_method=getattr(pytorch_grad_cam, peers[base]))
    want = torch.from_numpy(peer(images, [ClassifierOutputTarget(label) for label in LABELS]))
    got = RefineCAM(model, STAGES, base=base, order="grad-cam")(images, LABELS)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)  # of maps near zero the package's eps is not


def test_refine_cam_is_the_product(model, images):
    for mode, backend in (("bilinear", "fused"), ("bicubic", "reference")):
        maps = [GradCAMPlusPlus(model, name, mode=mode)(images, LABELS) for name in STAGES]
        product = torch.stack(maps).prod(0)
        low, high = product.amin((1, 2), keepdim=True), product.amax((1, 2), keepdim=True)
        high = torch.where(high > low, high, low + 1)
        got = RefineCAM(model, STAGES, mode=mode, backend=backend)(images, LABELS)
        torch.testing.assert_close(got, (product - low) / (high - low), rtol=0, atol=1e-5)
    assert torch.equal(RefineCAM(model, "stage2")(images), GradCAMPlusPlus(model, "stage2")(images))


def test_refine_cam_is_torchcams_where_sizes_agree(model):
    """torchcam multiplies at the size of the largest map, which here is that of all."""
    pictures = torch.randn(2, 3, 24, 24)
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3, 1, 1), nn.Tanh(), nn.Conv2d(6, 8, 3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    net.eval()
    with torchcam.methods.RefineCAM(net, ["1", "2"], base_method=torchcam.methods.LayerCAM) as peer:
        (want,) = peer([1, 5], net(pictures))
    got = RefineCAM(net, ["1", "2"], base="layercam")(pictures, [1, 5])
    torch.testing.assert_close(got, want.detach(), rtol=0, atol=1e-4)


def test_refine_cam_and_its_layers():
    assert list(RefineCAM(build("resnet18", 3)).layers) == ["layer2", "layer3", "layer4"]
    with pytest.raises(ValueError, match=r"RefineCAM multiplies the maps of its layers: leave `fuse` out, got 'mean'"):
        RefineCAM(build("resnet18", 3), fuse="mean")
    with pytest.raises(ValueError, match="`base` must be one of gradcam"):
        RefineCAM(build("resnet18", 3), base="legrad")


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("vgg11", ["features.9", "features.14", "features.19"]),
        ("googlenet", ["inception3b", "inception4e", "inception5b"]),
        ("inception_v3", ["Mixed_5d", "Mixed_6e", "Mixed_7c"]),
        ("mobilenet_v2", ["features.6", "features.13", "features"]),
        ("densenet121", ["features.denseblock2", "features.denseblock3", "features"]),
        ("swin_t", ["features.3", "features.5", "permute"]),
        ("vit_b_32", [f"encoder.layers.encoder_layer_{i}.ln_1" for i in (9, 10, 11)]),
    ],
)
def test_last_maps_of_each_resolution(name, stages):
    with torch.device("meta"):
        network = get_model(name, **({"init_weights": False} if name in ("googlenet", "inception_v3") else {}))
    assert default_stages(network) == stages
    assert default_stages(network, 1) == stages[-1:]


# ---- FullGrad --------------------------------------------------------------------------------------------------------


class Rectified(nn.Module):
    """A network of ReLUs: one convolution is used twice, one layer does not run, one has no affine part."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.twice = nn.Conv2d(6, 6, 3, 1, 1)
        self.norm = nn.BatchNorm2d(6, affine=False)
        self.frozen = FrozenBatchNorm2d(6)
        self.last = nn.Conv2d(6, 5, 3, 2, 1, bias=False)
        self.unused = nn.Conv2d(6, 5, 3)
        self.relu = nn.ReLU(inplace=True)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        nn.init.normal_(self.frozen.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for _ in range(2):
            x = self.relu(self.twice(x))
        return self.last(self.relu(self.frozen(self.norm(x)))).mean((2, 3))


def test_the_shares_of_full_grad_are_the_score():
    model, images = Rectified().eval().double(), torch.randn(2, 3, 16, 20).double()
    cam = FullGrad(model)
    shares: list[Tensor] = []
    cam._stretched = lambda share: shares.append(share.sum((1, 2, 3))) or share
    cam(images, 3)
    assert len(shares) == 1 + 6  # images, convolution and norm, the same twice, two norms
    torch.testing.assert_close(sum(shares), model(images)[:, 3].detach())


@pytest.mark.parametrize("rescale", ["channel", "layer"])
def test_full_grad_is_the_formula(rescale, images):
    plain = Net().eval()
    model, kept = copy.deepcopy(plain), []
    layers = [model.stage1[0], model.stage1[1], model.stage2[1], model.stage3[0]]
    for module in layers:
        module.register_forward_hook(lambda m, args, output: kept.append(output) or output.clone())
    pictures = images.clone().requires_grad_()
    logits = model(pictures)
    for label in range(6):
        of_pictures, *gradients = torch.autograd.grad(logits[:, label].sum(), [pictures, *kept], retain_graph=True)
        biases = [
            module.bias
            if isinstance(module, nn.Conv2d)
            else module.bias - module.running_mean * module.weight / (module.running_var + module.eps) ** 0.5
            for module in layers
        ]
        terms = [of_pictures * images, *(g * b[:, None, None] for g, b in zip(gradients, biases, strict=True))]
        want = torch.zeros(3, 24, 32)
        for n in range(3):
            for term in terms:
                planes = term[n].detach().abs()
                if rescale == "layer":
                    planes = (planes - planes.min()) / (planes.max() - planes.min())
                for plane in planes:
                    if rescale == "channel" and plane.max() > plane.min():
                        plane = (plane - plane.min()) / (plane.max() - plane.min())
                    want[n] += F.interpolate(plane[None, None], (24, 32), mode="bilinear")[0, 0]
        got = FullGrad(plain, rescale=rescale).coarse(images, label)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_full_grad_is_that_of_grad_cam(images):
    model = Net().eval()
    model.head[2].weight.data *= 1e4  # beside which the package's eps vanishes
    with pytorch_grad_cam.FullGrad(model, []) as peer:
        want = torch.from_numpy(peer(images.clone(), [ClassifierOutputTarget(label) for label in LABELS]))
    torch.testing.assert_close(FullGrad(model, order="grad-cam")(images, LABELS), want, rtol=0, atol=1e-3)
    torch.testing.assert_close(FullGrad(model)(images, LABELS), want, rtol=0, atol=1e-3)


def test_full_grad_and_what_networks_do(images):
    class Frozen(Net):
        def forward(self, images: Tensor) -> Tensor:
            images -= 0.5  # in place
            with torch.no_grad():
                features = self.stage2(self.stage1(images))
            return self.head(self.stage3(features).mean((2, 3)))

    class Plain(Net):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images - 0.5)

    model, plain = Frozen(), Plain()
    model.load_state_dict(plain.state_dict())
    before = images.clone()
    cam = FullGrad(model)
    want = FullGrad(plain)(images, "all")
    torch.testing.assert_close(cam(images, "all"), want)
    with torch.inference_mode():
        torch.testing.assert_close(cam(images, "all"), want)
    assert torch.equal(images, before)
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    run = observe([cam, GradCAM(model, "stage3"), FinerCAM(model, "stage2")], images, "all")
    torch.testing.assert_close(cam(run), want)
    assert cam.boxes(run, threshold=[0.2, 0.5]).shape == (3, 6, 2, 4)
    assert cam(images, top_k=2, aug_smooth=True).shape == (3, 2, 24, 32)
    for wrong, message in (
        ({"target_layers": "stage1"}, "it has no target layer, got 'stage1'"),
        ({"reshape_transform": lambda x: x}, "there is no `reshape_transform`"),
        ({"rescale": "all"}, "`rescale` must be one of channel, layer"),
    ):
        with pytest.raises(ValueError, match=message):
            FullGrad(model, **wrong)


def test_runs_of_several_keep_their_own_scores(images):
    """Gradients of one score are not taken for those of another."""
    model = Net().eval()
    cams = [GradCAM(model, "stage2"), FinerCAM(model, "stage2"), ShapleyCAM(model, "stage2"), LayerCAM(model, "stage2")]
    for order in (cams, cams[::-1]):
        run = observe(order, images, top_k=2)
        for cam in order:
            torch.testing.assert_close(cam(run), cam(images, top_k=2))
