"""What all methods share: targets, layers, the model left as it was, modes and dtypes, boxes, errors."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import methods, reference
from fastcam.methods import CAM, METHODS, GradCAM, HiResCAM, LayerCAM, Method, XGradCAM
from fastcam.methods.forward import Forward

# The closed form, and autograd through in-place layers.
PERTURBATIONS = ("scorecam", "ablationcam")
CASES = [(name, "stage2") for name in METHODS] + [(name, "stage1") for name in METHODS if name != "cam"]


class Net(nn.Module):
    """Two stages with shortcuts (of no weight) and in-place layers, global average pooling, one linear layer."""

    def __init__(self, inplace: bool = True) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8))
        self.relu = nn.ReLU(inplace=inplace)
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12), nn.Tanh())
        self.shortcut = nn.Conv2d(8, 12, 1, stride=2)
        self.skip = nn.Conv2d(3, 12, 1, stride=4)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(12, 6)
        self.calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        x = self.relu(self.stage1(images))
        x = self.stage2(x) + 0 * (self.shortcut(x) + self.skip(images))
        return self.head(self.dropout(x.mean((2, 3))))


@pytest.fixture
def model() -> Net:
    net = Net()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 20, 28)


def snapshot(model: nn.Module) -> tuple:
    """All that a call must leave alone."""
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        [module.training for module in model.modules()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in model.modules()],
        [(p.requires_grad, p.grad) for p in model.parameters()],
    )


def assert_untouched(model: nn.Module, before: tuple) -> None:
    after = snapshot(model)
    assert all(torch.equal(after[0][key], before[0][key]) for key in before[0])
    assert after[1:] == before[1:]


# ---- results ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), CASES)
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_maps(name, layer, backend, model, images):
    cam = methods.create(name, model, target_layers=[layer], backend=backend)
    maps = cam(images)
    assert maps.shape == (3, 20, 28)
    assert maps.dtype == torch.float32
    assert not maps.requires_grad
    assert torch.equal(maps.amin((1, 2)), torch.zeros(3))
    if name not in PERTURBATIONS:  # whose maps can be all negative, and are then zero
        assert torch.equal(maps.amax((1, 2)), torch.ones(3))
    torch.testing.assert_close(cam.outputs, model.eval()(images).detach())
    assert torch.equal(cam.targets, cam.outputs.argmax(1))
    coarse = cam.coarse(images)
    want = reference.heatmap(coarse, (20, 28), relu=name != "cam")
    torch.testing.assert_close(maps, want, rtol=0, atol=2e-6)


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_pictures_do_not_interact(name, layer, model, images):
    cam = methods.create(name, model, target_layers=layer)
    together = cam.coarse(images, [0, 5, 2])
    alone = [cam.coarse(images[i : i + 1], c)[0] for i, c in enumerate((0, 5, 2))]
    # Ablation-CAM's weights are small differences of scores.
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=5e-5 if name == "ablationcam" else 1e-6)


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_one_forward_pass_for_all_classes(name, layer, model, images):
    cam = methods.create(name, model, target_layers=layer)
    single = [cam.coarse(images, c) for c in range(6)]
    calls = model.calls
    ranked = cam.coarse(images, top_k=4)
    if name not in PERTURBATIONS:
        assert model.calls == calls + 1
    assert torch.equal(cam.targets, cam.outputs.topk(4, 1).indices)
    for i in range(3):
        for rank, c in enumerate(cam.targets[i].tolist()):
            torch.testing.assert_close(ranked[i, rank], single[c][i], rtol=1e-4, atol=1e-5)
    assert torch.equal(cam.coarse(images, cam.targets), ranked)
    assert cam(images, top_k=4).shape == (3, 4, 20, 28)
    assert cam(images, torch.zeros(3, 1, dtype=torch.int64)).shape == (3, 1, 20, 28)


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_empty_batch(name, layer, model, images):
    cam = methods.create(name, model, target_layers=layer)
    assert cam(images[:0]).shape == (0, 20, 28)
    assert cam(images[:0], []).shape == (0, 20, 28)
    assert cam(images[:0], top_k=2).shape == (0, 2, 20, 28)
    assert cam.outputs.shape == (0, 6)
    assert cam.boxes(images[:0]).shape == (0, 4)
    assert cam.coarse(images[:0], 3).shape[0] == 0
    if name not in ("cam", "finercam"):
        assert cam(images[:0], lambda row: row[1]).shape == (0, 20, 28)


def test_several_layers_are_averaged(model, images):
    single = [GradCAM(model, layer)(images, 1) for layer in ("stage1", "stage2")]
    both = GradCAM(model, ["stage1", "stage2"])
    mean = torch.stack(single).mean(0)
    want = (mean - mean.amin((1, 2), True)) / (mean.amax((1, 2), True) - mean.amin((1, 2), True))
    torch.testing.assert_close(both(images, 1), want, rtol=0, atol=1e-5)
    assert torch.equal(both.boxes(images, 1), fastcam.ops.boxes(both(images, 1), (20, 28)))
    with pytest.raises(ValueError, match="one target layer's, got stage1, stage2"):
        both.coarse(images)


@pytest.mark.parametrize("layer", ["stage1.0", "stage1.1", "relu", "stage2.1"])
def test_in_place_layers_do_not_spoil_features(layer, model, images):
    plain = Net(inplace=False)
    plain.load_state_dict(model.state_dict())
    for method in (GradCAM, LayerCAM):
        want = method(plain, layer).coarse(images, 2)
        torch.testing.assert_close(method(model, layer).coarse(images, 2), want, rtol=1e-5, atol=1e-7)


def test_a_new_method_needs_only_its_layer_maps(model, images):
    class ChannelMean(Method):
        def _layer_maps(self, forward: Forward) -> list[Tensor]:
            return [features.mean(1, keepdim=True) for features in forward.features]

    want = model.eval().stage1(images).mean(1).detach()
    torch.testing.assert_close(ChannelMean(model, "stage1").coarse(images), want)


def test_the_last_run_of_a_shared_layer_counts(images):
    shared = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(shared, nn.Tanh(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    (got,) = HiResCAM(model, "0").coarse(images[:1], 1)
    features = model[:3](images[:1])[0].detach()
    want = torch.einsum("k,khw->hw", model[-1].weight[1].detach(), features) / got.numel()
    torch.testing.assert_close(got, want)


# ---- targets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_kinds_of_targets(layer, model, images):
    cam = GradCAM(model, layer)
    want = cam.coarse(images, [2, 2, 2])
    assert torch.equal(cam.targets, torch.tensor([2, 2, 2]))
    indices = torch.tensor([2, 2, 2])
    for targets in (2, (2, 2, 2), indices, indices.int(), indices.numpy(), torch.tensor(2), list(indices)):
        assert torch.equal(cam.coarse(images, targets), want)
    for targets in (lambda row: row[2], [lambda row: row[2]] * 3, [lambda row: row[2:3]] * 3):
        torch.testing.assert_close(cam.coarse(images, targets), want, rtol=1e-5, atol=1e-7)
        assert cam.targets is None
    softmax = cam.coarse(images, lambda row: row.softmax(0)[2])
    assert not torch.allclose(softmax, want, rtol=1e-2)
    cam.coarse(images, indices)
    indices.zero_()
    assert torch.equal(cam.targets, torch.tensor([2, 2, 2]))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        ([1, 2], ValueError, r"one entry for each of the 3 images, got 2"),
        (torch.zeros(3, 0, dtype=torch.int64), ValueError, r"at least one class for each picture"),
        ([], ValueError, r"one entry for each of the 3 images, got 0"),
        (torch.zeros(4, 2, dtype=torch.int64), ValueError, r"each of the 3 images, got 4"),
        ([len, len], ValueError, r"one entry for each of the 3 images, got 2"),
        (6, ValueError, r"class 6 in `targets` is out of range: the model has classes 0 … 5"),
        ([0, -1, 2], ValueError, r"class -1 in `targets` is out of range"),
        ([0, 1, len], TypeError, r"all callables or all class indices"),
        (1.5, TypeError, r"must be integers: one, \[N\] or \[N, k\]; got torch.float32"),
        ([True, False, True], TypeError, r"got torch.bool"),
        (torch.zeros(3, 1, 1, dtype=torch.int64), TypeError, r"of shape \[3, 1, 1\]"),
        ("cat", TypeError, r"class indices or callables, got str"),
        ([[1, 2], [1], [2, 3]], TypeError, r"class indices or callables, got list"),
        (lambda row: row, TypeError, r"into a scalar tensor, got shape \[6\]"),
        (lambda row: 3.0, TypeError, r"into a scalar tensor, got float"),
        (lambda row: row[0].detach(), ValueError, r"from the logits by differentiable operations"),
    ],
)
def test_wrong_targets(targets, error, message, model, images):
    before = snapshot(model)
    with pytest.raises(error, match=message):
        GradCAM(model, "stage1")(images, targets)
    assert_untouched(model, before)


def test_targets_of_any_integer_dtype(model, images):
    cam = GradCAM(model, "stage1")
    expected = cam(images, [1, 5, 2])
    for dtype in (np.uint8, np.uint16, np.int32):
        assert torch.equal(cam(images, np.array([1, 5, 2], dtype)), expected)


def test_a_linear_layer_called_by_keyword(images):
    class Keyword(Net):
        def forward(self, images: Tensor) -> Tensor:
            return self.head(input=self.stage2(self.relu(self.stage1(images))).mean((2, 3)))

    model = Keyword().eval()
    assert GradCAM(model, "stage1")(images).shape == (3, *images.shape[2:])


@pytest.mark.parametrize("name", ["xgradcam", "gradcam++"])
@pytest.mark.parametrize("eps", [-1.0, float("nan")])
def test_wrong_eps(name, eps, model):
    with pytest.raises(ValueError, match="`eps` must be a finite number, 0 or more"):
        METHODS[name](model, "stage2", eps=eps)


def test_wrong_top_k(model, images):
    for top_k in (0, 7, 2.0):
        with pytest.raises(ValueError, match=r"must be an int in 1 … 6"):
            GradCAM(model, "stage1")(images, top_k=top_k)
    with pytest.raises(ValueError, match="not both"):
        GradCAM(model, "stage1")(images, 1, top_k=2)


def test_cam_takes_no_callables(model, images):
    with pytest.raises(TypeError, match="CAM explains classes"):
        CAM(model, "stage2")(images, lambda row: row[0])


# ---- the model is left as it was -------------------------------------------------------------------------------------


def odd_state(model: nn.Module) -> nn.Module:
    """Some modules in training mode and some not, some parameters frozen, hooks and a gradient of the user's own."""
    model.train()
    model.stage1.eval()
    model.dropout.training = True
    model.head.weight.requires_grad_(False)
    model.head.bias.grad = torch.ones(6)
    model.stage2.register_forward_hook(lambda module, args, output: None)
    return model


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_model_is_untouched(name, layer, model, images):
    odd_state(model)
    before = snapshot(model)
    with methods.create(name, model, target_layers=layer) as cam:
        first = cam(images, 4)
        assert_untouched(model, before)
        assert torch.equal(cam(images, 4), first)  # dropout off, statistics unchanged
        cam.boxes(images, top_k=2)
    assert_untouched(model, before)


@pytest.mark.parametrize("broken", ["trunk", "rest", "target", "backward"])
def test_model_is_untouched_by_errors(broken, model, images):
    def fail(*args):
        raise RuntimeError("on purpose")

    odd_state(model)
    targets = 4
    if broken == "target":
        targets = fail
    elif broken == "backward":
        model.shortcut.register_forward_hook(lambda module, args, output: output.register_hook(fail) and None)
    else:
        {"trunk": model.stage1[0], "rest": model.shortcut}[broken].register_forward_hook(fail)
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="on purpose"):
        GradCAM(model, "stage1")(images, targets)
    assert_untouched(model, before)
    assert torch.is_grad_enabled()


def test_the_trunk_has_no_graph(model, images):
    graphs = {}
    for name in ("stage1.0", "relu", "head"):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: graphs.update({name: output.requires_grad})
        )
    GradCAM(model, "stage1")(images)
    assert graphs == {"stage1.0": False, "relu": True, "head": True}
    CAM(model, "stage2")(images)
    assert not any(graphs.values())


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_grad_modes_and_frozen_models(name, layer, model, images):
    cam = methods.create(name, model, target_layers=layer)
    want = cam(images)
    with torch.no_grad():
        assert torch.equal(cam(images), want)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        born_here, targets = images.clone(), cam.targets.clone()
        assert torch.equal(cam(born_here, targets), want)
        assert torch.is_inference_mode_enabled()
        outputs = cam.outputs
    assert not cam(images.requires_grad_()).requires_grad
    assert not outputs.is_inference()
    model.requires_grad_(False)
    assert torch.equal(cam(images), want)


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_model_made_in_inference_mode(layer, model, images):
    want = GradCAM(model, layer)(images)
    with torch.inference_mode():
        other = Net()
        other.load_state_dict(model.state_dict())
        assert torch.equal(GradCAM(other, layer)(images), want)
    assert torch.equal(GradCAM(other, layer)(images), want)
    assert other.head.weight.is_inference()


def test_auxiliary_heads_in_training_mode():
    model = torchvision.models.googlenet(num_classes=4, init_weights=True).train()
    images = torch.randn(2, 3, 64, 64)
    for method in (CAM, GradCAM):
        cam = method(model)
        assert cam(images).shape == (2, 64, 64)
        assert cam.outputs.shape == (2, 4)
    assert all(module.training for module in model.modules())


# ---- devices, dtypes, layouts ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_devices(name, layer, model, images, device):
    want = methods.create(name, model, target_layers=layer).coarse(images, top_k=2)
    cam = methods.create(name, model.to(device), target_layers=layer)
    got = cam.coarse(images.to(device), top_k=2)
    assert got.device == cam(images.to(device)).device == cam.targets.device == images.to(device).device
    torch.testing.assert_close(got.cpu(), want, rtol=1e-2, atol=1e-2 * float(want.abs().max()))  # TF32 convolutions
    assert cam.boxes(images.to(device)).device == images.to(device).device


@pytest.mark.parametrize(("name", "layer"), CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float16, 0.05), (torch.bfloat16, 0.2)])
def test_dtypes(name, layer, dtype, tolerance, model, images):
    want = methods.create(name, model, target_layers=layer)(images, 1)
    cam = methods.create(name, model.to(dtype), target_layers=layer)
    maps = cam(images.to(dtype), 1)
    assert maps.dtype == torch.float32
    assert cam.outputs.dtype == dtype
    assert cam.coarse(images.to(dtype)).dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(maps, want, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_channels_last(name, layer, model, images):
    want = methods.create(name, model, target_layers=layer)(images)
    model.to(memory_format=torch.channels_last)
    got = methods.create(name, model, target_layers=layer)(images.to(memory_format=torch.channels_last))
    torch.testing.assert_close(got, want, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "layer"), CASES)
def test_autocast(name, layer, model, images):
    cam = methods.create(name, model, target_layers=layer)
    want = cam(images, 1)
    with torch.autocast("cpu", torch.bfloat16):
        maps = cam(images, 1)
        assert cam.outputs.dtype == torch.bfloat16
        assert maps.dtype == torch.float32
        model(images).sum().backward()  # casts that autocast remembers must not lack their graph
    assert all(parameter.grad is not None for parameter in model.parameters())
    torch.testing.assert_close(maps, want, rtol=0, atol=0.2)


# ---- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("order", ["fastcam", "grad-cam"])
@pytest.mark.parametrize(("name", "layer"), [("cam", "stage2"), ("gradcam", "stage2"), ("gradcam", "stage1")])
def test_boxes(name, layer, order, backend, model, images):
    cam = methods.create(name, model, target_layers=layer, order=order, backend=backend)
    relu = name != "cam"
    size = (40, 30)
    got = cam.boxes(images, top_k=2, size=size, threshold=[0.2, 0.5], connectivity=4)
    assert got.shape == (3, 2, 2, 4)
    assert got.dtype == torch.int32
    want = reference.boxes(cam.coarse(images, top_k=2), size, [0.2, 0.5], relu=relu, connectivity=4)
    assert (got - want).abs().max() <= 1
    got = cam.boxes(images, 3)
    assert got.shape == (3, 4)
    want = reference.boxes(cam.coarse(images, 3), (20, 28), relu=relu)
    assert (got - want).abs().max() <= 1
    assert cam.boxes(images, 3, threshold=torch.zeros(3)).shape == (3, 4)
    assert cam.boxes(images, 3, size=33, largest="contour").max() <= 33


def test_options_reach_the_operators(model, images):
    coarse = GradCAM(model, "stage1").coarse(images, 1)
    cam = GradCAM(model, "stage1", relu=False, mode="bicubic")
    want = reference.heatmap(coarse, (20, 28), relu=False, mode="bicubic")
    torch.testing.assert_close(cam(images, 1), want, rtol=0, atol=2e-6)
    want = reference.boxes(coarse, (20, 28), 0.6, relu=False, mode="bicubic")
    assert (cam.boxes(images, 1, threshold=0.6) - want).abs().max() <= 1
    rectified = CAM(model, "stage2", relu=True)(images, 1)
    want = reference.heatmap(CAM(model, "stage2").coarse(images, 1), (20, 28), relu=True)
    torch.testing.assert_close(rectified, want, rtol=0, atol=2e-6)
    small = XGradCAM(model, "stage1").coarse(images, 1)
    assert not torch.allclose(XGradCAM(model, "stage1", eps=10.0).coarse(images, 1), small)


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (torch.zeros(3, 20, 28), ValueError, r"`images` must be \[N, 3, H, W\], got \[3, 20, 28\]"),
        (torch.zeros(1, 3, 20, 28, dtype=torch.uint8), TypeError, r"floating point, .* got torch.uint8"),
        (torch.zeros(1, 3, 20, 28).half(), TypeError, r"the model is torch.float32, the images are torch.float16"),
        (torch.zeros(1, 3, 20, 28, device="meta"), ValueError, r"the model is on cpu, the images are on meta"),
        ([[1.0]], TypeError, r"must be a tensor \[N, 3, H, W\], got list"),
    ],
)
def test_wrong_images(wrong, error, message, model):
    for call in (GradCAM(model, "stage1"), CAM(model, "stage2").coarse, CAM(model, "stage2").boxes):
        with pytest.raises(error, match=message):
            call(wrong)


def test_wrong_options(model):
    with pytest.raises(ValueError, match=r"Net has no layer 'stage3'; did you mean stage2, stage1"):
        GradCAM(model, "stage3")
    with pytest.raises(ValueError, match="no default target layer is known for Net"):
        GradCAM(model)
    with pytest.raises(ValueError, match="`order` must be one of fastcam, grad-cam, got 'gradcam'"):
        GradCAM(model, "stage1", order="gradcam")
    with pytest.raises(ValueError, match="`mode` must be one of bilinear, bicubic"):
        GradCAM(model, "stage1", mode="nearest")
    with pytest.raises(ValueError, match="`backend` must be one of fused, reference"):
        GradCAM(model, "stage1", backend="cuda")
    with pytest.raises(TypeError, match=r"`model` must be a torch.nn.Module, got str"):
        GradCAM("resnet18")
    with pytest.raises(ValueError, match=r"unknown method 'grad-cam'; did you mean gradcam"):
        methods.create("grad-cam", model)


class Detour(Net):
    """A layer that is not used, one that gives a pair, one whose result is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Conv2d(3, 3, 1)
        self.ignored = nn.Conv2d(3, 3, 1)
        self.pair = nn.MultiheadAttention(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        self.ignored(images)
        self.pair(*[torch.ones(2, 1, 4, dtype=images.dtype)] * 3)
        return super().forward(images)


@pytest.mark.parametrize(
    ("layer", "error", "message"),
    [
        ("unused", ValueError, "did not go through the target layer 'unused'"),
        ("ignored", ValueError, "does not depend on the layer 'ignored'"),
        ("pair", TypeError, "the target layer 'pair' must give one tensor, got tuple"),
        ("head", ValueError, r"'head' must give maps \[N, K, h, w\], got \[3, 6\]"),
        ("", ValueError, "a target layer must be a part of Detour, got all of it"),
    ],
)
def test_layers_that_give_no_map(layer, error, message, images):
    model = Detour()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        GradCAM(model, layer)(images)
    assert_untouched(model, before)


@pytest.mark.parametrize("output", [lambda logits: (logits[0], logits), lambda logits: logits[0], lambda logits: {}])
def test_models_that_give_no_logits(output, model, images):
    model.register_forward_hook(lambda module, args, logits: output(logits))
    with pytest.raises(TypeError, match=r"the model must give logits \[3, C\] for 3 images, got"):
        GradCAM(model, "stage1")(images)


@pytest.mark.parametrize("context", [nullcontext, torch.no_grad])
def test_a_head_after_the_head_has_no_closed_form(context, model, images):
    plain = GradCAM(model, "stage2").coarse(images, 2)
    model.register_forward_hook(lambda module, args, logits: logits.softmax(1))
    with context():
        got = GradCAM(model, "stage2").coarse(images, 2)
        assert not torch.allclose(got, plain)
        with pytest.raises(ValueError, match="in Net the logits are not the output of a linear layer"):
            CAM(model, "stage2")(images)
