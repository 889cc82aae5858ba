"""Networks with global poolings: shapes, the identity of map and logit, weights, the three parts of Rethinking CAM."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastcam.methods import CAM, GradCAM, GradCAMPlusPlus, HiResCAM
from fastcam.models import (
    GlobalPoolNet,
    ModelConfig,
    ThresholdedAvgPool2d,
    build,
    default_target_layer,
    load_checkpoint,
    nin,
    save_checkpoint,
    to_gap,
)

CUT = [("alexnet", 13), ("alexnet*", 13), ("vgg16", 14), ("googlenet", 14)]
POOLS = ["gap", "gmp", "tap"]


def pooled_maps(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Output of the default target layer, and the logits."""
    seen = []
    layer = model.get_submodule(default_target_layer(model))
    handle = layer.register_forward_hook(lambda m, i, o: seen.append(o.detach().clone()))
    with torch.no_grad():
        logits = model(images)
    handle.remove()
    return seen[-1], logits


def by_hand(features: Tensor, pool: str, threshold: float = 0.1) -> Tensor:
    """The poolings, channel by channel: [N, K]."""
    result = torch.zeros(features.shape[:2], dtype=features.dtype)
    for i, picture in enumerate(features):
        for k, channel in enumerate(picture):
            values = channel.flatten()
            if pool == "gmp":
                result[i, k] = values.max()
            else:
                kept = values[values > threshold * values.max()] if pool == "tap" else values
                result[i, k] = kept.sum() / max(1, len(kept))
    return result


@pytest.mark.parametrize(("arch", "side"), CUT)
def test_maps_of_the_cam_paper(arch, side):
    with torch.device("meta"):  # nothing is computed
        model = build(f"{arch}-gap", 7) if arch != "googlenet" else None
    model = model or build("googlenet-gap", 7).to("meta")
    features, logits = pooled_maps(model.eval(), torch.empty(1, 3, 224, 224, device="meta"))
    assert features.shape == (1, 1024, side, side)
    assert logits.shape == (1, 7)
    widths = [m.out_channels for m in model.features.modules() if isinstance(m, nn.Conv2d)][-3:]
    assert widths[-1] == 1024
    if arch == "alexnet*":
        assert widths == [512, 512, 1024]


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "arch", ["alexnet", "googlenet", "resnet18", "densenet121", "mobilenet_v2", "mnasnet0_5", "squeezenet"]
)
def test_heads_and_their_identity(arch, pool):
    if arch == "squeezenet":
        with pytest.raises(ValueError, match="SqueezeNet does not end in global average pooling and one linear layer"):
            to_gap(build("squeezenet1_1"), pool)
        return
    model = to_gap(build(arch, 7), pool, units=32).eval().double()
    images = torch.randn(2, 3, 96, 96, dtype=torch.float64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    model.eval()
    features, logits = pooled_maps(model, images)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(linear(by_hand(features, pool)), logits, rtol=1e-7, atol=1e-7)
    every = torch.arange(7).expand(2, 7)
    maps = CAM(model).coarse(images, every)
    torch.testing.assert_close(maps, torch.einsum("ck,nkhw->nchw", linear.weight.detach(), features))
    if pool == "gap":
        torch.testing.assert_close(maps.mean((2, 3)) + linear.bias.detach(), logits, rtol=1e-7, atol=1e-7)
    clamped = CAM(model, clamp=True).coarse(images, every)
    torch.testing.assert_close(clamped, torch.einsum("ck,nkhw->nchw", linear.weight.detach().clamp(min=0), features))
    # Grad-CAM is CAM/Z, whatever the pooling, but for channels that a thresholded mean leaves out.
    cam = GradCAM(model)
    got = cam.coarse(images, 3)
    by_autograd = cam.coarse(images, lambda row: row[3])
    torch.testing.assert_close(got, by_autograd, rtol=1e-7, atol=1e-10)
    if pool != "tap" or features.min() >= 0:
        torch.testing.assert_close(got, maps[:, 3] / maps[0, 0].numel(), rtol=1e-7, atol=1e-10)
    for method in (HiResCAM, GradCAMPlusPlus):  # which know no shortcut after other poolings than the mean
        cam = method(model)
        torch.testing.assert_close(cam.coarse(images, 3), cam.coarse(images, lambda row: row[3]), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "efficientnet_b0", "shufflenet_v2_x0_5", "regnet_y_400mf"])
def test_networks_with_such_a_head_keep_their_function(arch):
    model = build(arch, 7).eval()
    images = torch.randn(1, 3, 64, 64)
    before = copy.deepcopy(model)
    new = to_gap(model)
    torch.testing.assert_close(new(images), model(images))
    assert not torch.allclose(to_gap(model, "gmp")(images), model(images), atol=0)
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert to_gap(model, num_classes=3)(images).shape == (1, 3)
    assert torch.equal(to_gap(to_gap(model, "tap"))(images), new(images))


def test_weights_are_kept_and_the_model_stays():
    model = build("alexnet", 7).double()
    new = to_gap(model, units=16)
    assert new.training
    assert new.classifier.weight.dtype == torch.float64
    assert new.classifier.out_features == 7
    assert torch.equal(new.features[0].weight, model.features[0].weight)
    assert new.features[0].weight is not model.features[0].weight
    assert isinstance(model.features[-1], nn.MaxPool2d)
    swapped = to_gap(new, "gmp")
    assert isinstance(swapped.pool, nn.AdaptiveMaxPool2d)
    assert isinstance(new.pool, nn.AdaptiveAvgPool2d)
    assert torch.equal(swapped.classifier.weight, new.classifier.weight)
    assert to_gap(nn.DataParallel(model), num_classes=2).classifier.out_features == 2


def test_trained_googlenet_gets_its_own_mean():
    whole = build("googlenet", 4).eval()
    whole.transform_input = True
    images = torch.randn(1, 3, 64, 64)
    seen = []
    whole.inception4e.register_forward_hook(lambda m, i, o: seen.append(o))
    whole(images)
    new = to_gap(whole, units=8)
    trunk = new.features[:-2](images)
    torch.testing.assert_close(trunk, seen[0])


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.7])
def test_thresholded_pooling(threshold):
    features = torch.randn(3, 4, 5, 6)
    features[0, 1] = -features[0, 1].abs()  # nothing positive
    features[1, 2] = 0
    got = ThresholdedAvgPool2d(threshold)(features)
    assert got.shape == (3, 4, 1, 1)
    torch.testing.assert_close(got.flatten(1), by_hand(features, "tap", threshold))
    assert got[0, 1] == 0
    for dtype in (torch.float16, torch.bfloat16):
        assert ThresholdedAvgPool2d(threshold)(features.to(dtype)).dtype == dtype
    smooth = torch.rand(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ThresholdedAvgPool2d(threshold), smooth)


def test_negative_maps_and_thresholded_pooling():
    """Channels without a positive value have no gradient, and Grad-CAM's shortcut leaves them out."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Identity(), ThresholdedAvgPool2d(0.3), nn.Flatten(), nn.Linear(6, 4))
    model = model.double().eval()
    with torch.no_grad():
        model[0].bias[2:4] = -9
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    cam = GradCAM(model, "1")
    torch.testing.assert_close(cam.coarse(images, 1), cam.coarse(images, lambda row: row[1]))
    features = model[0](images).detach()
    want = torch.einsum("k,nkhw->nhw", model[4].weight[1].detach(), features)
    torch.testing.assert_close(CAM(model, "1").coarse(images, 1), want)


@pytest.mark.parametrize("arch", ["vgg16", "resnet50", "alexnet"])
@pytest.mark.parametrize("parts", [(), ("tap",), ("clamp",), ("percentile",), ("tap", "clamp", "percentile")])
def test_rethinking_cam_part_by_part(arch, parts, rethinking):
    model, images = rethinking[arch, "tap" if "tap" in parts else "gap"]
    cam = CAM(model, clamp="clamp" in parts)
    options = {"threshold": 0.35, "percentile": 90} if "percentile" in parts else {"threshold": 0.2}
    boxes = cam.boxes(images, 1, **options)
    features, logits = pooled_maps(model, images)
    linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    torch.testing.assert_close(cam.outputs, logits)  # the prediction knows nothing of clamped weights
    weight = linear.weight[1].detach()
    coarse = torch.einsum("k,nkhw->nhw", weight.clamp(min=0) if "clamp" in parts else weight, features)
    torch.testing.assert_close(cam.coarse(images, 1), coarse, rtol=1e-3, atol=1e-4 * float(coarse.abs().max()))
    maps = cam(images, 1).numpy()
    level = 0.35 * np.percentile(maps, 90) if "percentile" in parts else 0.2
    assert boxes.shape == (1, 4)
    assert (maps[0][boxes[0, 1] : boxes[0, 3], boxes[0, 0] : boxes[0, 2]] > level).any()


@pytest.fixture(scope="module")
def rethinking() -> dict[tuple[str, str], tuple[nn.Module, Tensor]]:
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 64)
    found = {}
    for arch in ("vgg16", "resnet50", "alexnet"):
        with torch.device("meta" if arch == "vgg16" else "cpu"):  # most of VGG is cut off
            model = build(arch, 3)
        base = to_gap(model.eval(), units=64)
        if arch == "vgg16":
            base.to_empty(device="cpu")
            for parameter in base.parameters():
                nn.init.normal_(parameter, std=(2 / parameter[0].numel()) ** 0.5)
        for pool in ("gap", "tap"):
            found[arch, pool] = to_gap(base, pool), images
    return found


def test_network_in_network():
    model = nin(7).eval()
    images = torch.randn(2, 3, 224, 224)
    features, logits = pooled_maps(model, images)
    assert features.shape == (2, 7, 6, 6)
    torch.testing.assert_close(features.mean((2, 3)), logits)
    torch.testing.assert_close(CAM(model).coarse(images, 4), features[:, 4])
    torch.testing.assert_close(GradCAM(model).coarse(images, 4), features[:, 4] / 36)
    # SqueezeNet ends likewise, but with a ReLU after its last convolution.
    squeeze = build("squeezenet1_1", 5).eval()
    maps = CAM(squeeze, "classifier.1").coarse(images, "all")
    torch.testing.assert_close(maps.mean((2, 3)), squeeze(images).detach(), rtol=1e-4, atol=1e-6)


def test_checkpoints_of_such_networks(tmp_path):
    for arch in ("alexnet*-tap", "resnet18-gmp"):
        model = build(arch, 3)
        save_checkpoint(tmp_path / "w.safetensors", model, ModelConfig(arch, 3))
        again, _ = load_checkpoint(tmp_path / "w.safetensors")
        images = torch.randn(1, 3, 64, 64)
        assert torch.equal(again(images), model.eval()(images))
    assert isinstance(build("alexnet-gap", 3), GlobalPoolNet)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: to_gap(build("alexnet", 2), "max"), "`pool` must be one of gap, gmp, tap, got 'max'"),
        (lambda: to_gap(build("alexnet", 2), units=0), "`units` must be positive, got 0"),
        (lambda: to_gap(build("alexnet", 2), extra=(512, 0)), r"`extra` must be positive, got \(512, 0\)"),
        (lambda: to_gap(build("alexnet", 2), "tap", threshold=1), "`threshold` must be at least 0 and less than 1"),
        (lambda: to_gap(build("mobilenet_v3_small")), "MobileNetV3 does not end in global average pooling"),
        (lambda: build("resnet18*-gap"), r'the star is for "alexnet\*-gap"'),
        (lambda: build("alexnett-gap"), "unknown architecture 'alexnett'; did you mean alexnet"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
