"""Principal components, six views, fused layers, the author's Grad-CAM++ and percentiles, against others' numbers."""

import numpy as np
import pytest
import pytorch_grad_cam
import torch
import ttach
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection
from torch import Tensor, nn

import fastcam
from fastcam import methods
from fastcam.methods import CAM, METHODS, EigenCAM, EigenGradCAM, GradCAM, GradCAMPlusPlus, LayerCAM
from fastcam.methods.smoothing import merge_views, projection, views
from fastcam.models import build

PEERS = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "xgradcam": pytorch_grad_cam.XGradCAM,
}


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 3, 96, 96)


@pytest.fixture(scope="module")
def resnet(images: Tensor) -> nn.Module:
    torch.manual_seed(2)
    model = build("resnet18", 10)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(images)
    return model.eval()


def assert_same_up_to_sign(got: Tensor, want: np.ndarray | Tensor, tolerance: float = 1e-5) -> None:
    want = torch.as_tensor(want).to(got.dtype)
    for mine, theirs in zip(got.flatten(0, -3), want.flatten(0, -3), strict=True):
        scale = float(theirs.abs().max())
        assert min(float((mine - theirs).abs().max()), float((mine + theirs).abs().max())) <= tolerance * scale


# ---- eigen_smooth ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(3, 40, 5, 6), (2, 7, 8, 9), (1, 1, 4, 4), (2, 6, 1, 1), (0, 6, 3, 3)])
def test_projection_is_that_of_the_singular_value_decomposition(shape):
    maps = torch.randn(shape)
    got = projection(maps)
    assert got.shape == (shape[0], *shape[2:])
    assert got.dtype == torch.float32
    if maps.numel():
        assert_same_up_to_sign(got, get_2d_projection(maps.double().numpy()))
        assert (got.amax((1, 2)) >= -got.amin((1, 2))).all()
    assert projection(maps.half()).dtype == torch.float32
    assert projection(maps.double()).dtype == torch.float64


def test_projection_of_odd_values():
    maps = torch.randn(4, 5, 3, 3)
    maps[1, 2, 1, 1] = torch.nan
    maps[2] = 3.0
    got = projection(maps)
    assert got[1].isnan().all()
    assert torch.equal(got[2], torch.zeros(3, 3))
    torch.testing.assert_close(got[[0, 3]], projection(maps[[0, 3]]))
    for scale in (1e-30, 1e30):
        torch.testing.assert_close(projection(maps[:1] * scale) / scale, got[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", ["layer4", "layer2"])
@pytest.mark.parametrize("name", PEERS)
def test_eigen_smooth_equals_the_popular_package(name, layer, resnet, images):
    targets = [ClassifierOutputTarget(c) for c in (2, 6)]
    with PEERS[name](resnet, [resnet.get_submodule(layer)]) as peer:
        peer(images, targets)  # for activations and gradients
        a, g = (peer.activations_and_grads.activations[0].numpy(), peer.activations_and_grads.gradients[0].numpy())
        want = peer.get_cam_image(images, peer.target_layers[0], targets, a.astype("f8"), g.astype("f8"), True)
    got = methods.create(name, resnet, target_layers=layer).coarse(images, [2, 6], eigen_smooth=True)
    assert_same_up_to_sign(got, want, 2e-5 if name == "gradcam++" else 1e-5)


@pytest.mark.parametrize("layer", ["layer4", "layer3"])
def test_eigen_cams_equal_the_popular_package(layer, resnet, images):
    targets = [ClassifierOutputTarget(c) for c in (2, 6)]
    with pytorch_grad_cam.EigenGradCAM(resnet, [resnet.get_submodule(layer)]) as peer:
        peer(images, targets)
        a, g = (peer.activations_and_grads.activations[0].numpy(), peer.activations_and_grads.gradients[0].numpy())
    assert_same_up_to_sign(EigenCAM(resnet, layer).coarse(images), get_2d_projection(a.astype("f8")))
    assert_same_up_to_sign(EigenGradCAM(resnet, layer).coarse(images, [2, 6]), get_2d_projection((a * g).astype("f8")))
    maps = EigenCAM(resnet, layer)(images, top_k=3)
    assert torch.equal(maps[:, 0], maps[:, 2])
    assert torch.equal(EigenCAM(resnet, layer)(images, eigen_smooth=True), maps[:, 0])


@pytest.mark.parametrize("name", METHODS)
def test_smooth_keywords_work_everywhere(name, resnet, images):
    cam = methods.create(name, resnet, **({"top_channels": 2} if name == "scorecam" else {}))
    for options in ({"eigen_smooth": True}, {"aug_smooth": True}, {"aug_smooth": True, "eigen_smooth": True}):
        maps = cam(images, top_k=2, **options)
        assert maps.shape == (2, 2, 96, 96)
        assert cam.outputs.shape == (2, 10)
        assert torch.equal(cam.targets, cam.outputs.topk(2, 1).indices)
        assert cam.boxes(images, 1, **options).shape == (2, 4)


def test_eigen_smooth_needs_channels(resnet, images):
    class Mean(methods.Method):
        def _layer_maps(self, forward):
            return [features.mean(1, keepdim=True) for features in forward.features]

    with pytest.raises(ValueError, match="eigen_smooth needs weighted channels, which Mean does not have"):
        Mean(resnet, "layer3")(images, eigen_smooth=True)


# ---- aug_smooth ------------------------------------------------------------------------------------------------------


def test_views_are_those_of_the_popular_package(images):
    transforms = ttach.Compose([ttach.HorizontalFlip(), ttach.Multiply(factors=[0.9, 1, 1.1])])
    theirs = {t.augment_image(images).numpy().tobytes() for t in transforms}
    ours = views(images)
    assert theirs == {view.numpy().tobytes() for view in ours.unflatten(0, (6, -1))}
    assert torch.equal(ours[:2], images)
    maps = torch.rand(12, 4, 5)
    want = (maps[:6].unflatten(0, (3, 2)) + maps[6:].flip(-1).unflatten(0, (3, 2))).mean(0) / 2
    torch.testing.assert_close(merge_views(maps), want)


@pytest.mark.parametrize("name", ["gradcam", "layercam"])
def test_aug_smooth_equals_the_popular_package(name, resnet, images):
    targets = [ClassifierOutputTarget(c) for c in (2, 6)]
    layers = ["layer2", "layer3"]
    with PEERS[name](resnet, [resnet.get_submodule(layer) for layer in layers]) as peer:
        want = torch.from_numpy(peer(images, targets, aug_smooth=True))
    cam = methods.create(name, resnet, target_layers=layers, order="grad-cam")
    torch.testing.assert_close(cam(images, [2, 6], aug_smooth=True), want, rtol=0, atol=1e-5)
    torch.testing.assert_close(cam(images, targets, aug_smooth=True), want, rtol=0, atol=1e-5)


def test_aug_smooth_keeps_the_classes_of_the_plain_view(resnet, images):
    model = nn.Sequential(resnet, Contrary())
    cam = GradCAM(model, "0.layer3")
    cam(images)
    plain = cam.targets
    maps = cam(images, aug_smooth=True)
    assert torch.equal(cam.targets, plain)
    assert torch.equal(maps, cam(images, plain, aug_smooth=True))
    assert torch.equal(maps.amax((1, 2)), torch.ones(2))


class Contrary(nn.Module):
    """Logits of all pictures after the first two are reversed, so that other views choose other classes."""

    def forward(self, logits: Tensor) -> Tensor:
        return torch.cat([logits[:2], logits[2:].flip(1)])


# ---- several layers --------------------------------------------------------------------------------------------------


def test_layers_fuse_by_mean_or_maximum(resnet, images):
    single = torch.stack([GradCAM(resnet, layer)(images, 1) for layer in ("layer2", "layer3", "layer4")])
    for fuse, want in (("mean", single.mean(0)), ("max", single.amax(0))):
        low, high = want.amin((1, 2), keepdim=True), want.amax((1, 2), keepdim=True)
        got = GradCAM(resnet, ["layer2", "layer3", "layer4"], fuse=fuse)(images, 1)
        torch.testing.assert_close(got, (want - low) / (high - low), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="`fuse` must be one of mean, max, product, got 'min'"):
        GradCAM(resnet, fuse="min")


# ---- the author's Grad-CAM++ -----------------------------------------------------------------------------------------


def authors(a: Tensor, g: Tensor) -> Tensor:
    """The author's code, in its order of steps, without the factor exp(score) that all weights share."""
    denominator = 2 * g**2 + g**3 * a.sum((2, 3), keepdim=True)
    denominator = torch.where(denominator != 0, denominator, torch.ones_like(denominator))
    alphas = g**2 / denominator
    weights = g.clamp(min=0)
    kept = torch.where(weights > 0, alphas, torch.zeros_like(alphas))
    total = kept.sum((2, 3), keepdim=True)
    alphas = alphas / torch.where(total != 0, total, torch.ones_like(total))
    return ((weights * alphas).sum((2, 3), keepdim=True) * a).sum(1)


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_authors_variant(layer, images):
    model = build("resnet18", 10).double().eval()
    nn.init.normal_(model.fc.weight)
    images, store = images.double(), []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: store.append(o))
    score = model(images)[:, 3].sum()
    handle.remove()
    (gradient,) = torch.autograd.grad(score, store)
    want = authors(store[0].detach(), gradient)
    cam = GradCAMPlusPlus(model, layer, variant="author")
    torch.testing.assert_close(cam.coarse(images, 3), want, rtol=1e-8, atol=1e-12 * float(want.abs().max()))
    by_autograd = cam.coarse(images, lambda row: row[3])
    torch.testing.assert_close(by_autograd, want, rtol=1e-8, atol=1e-12 * float(want.abs().max()))
    assert cam(images, 3, eigen_smooth=True).shape == (2, 96, 96)
    if layer == "layer4":
        clamped = CAM(model, clamp=True).coarse(images, 3)
        torch.testing.assert_close(want, clamped / clamped[0].numel())
    with pytest.raises(ValueError, match="`variant` must be one of paper, author"):
        GradCAMPlusPlus(model, variant="authors")


# ---- percentile ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [0, 37.5, 90])
def test_boxes_at_a_percentile(q, resnet, images):
    cam = CAM(resnet, clamp=True)
    maps = cam(images, 4)
    levels = np.percentile(maps.numpy(), q, axis=(1, 2))
    got = cam.boxes(images, 4, threshold=[0.35, 0.7], percentile=q)
    want = torch.stack(
        [
            fastcam.ops.boxes(maps, 96, threshold=torch.as_tensor(t * levels, dtype=torch.float32), relu=False)
            for t in (0.35, 0.7)
        ],
        1,
    )
    assert (got - want).abs().max() <= 1
    assert cam.boxes(images, top_k=3, threshold=0.35, percentile=q).shape == (2, 3, 4)
    assert torch.equal(cam.boxes(images, 4, threshold=0.35, percentile=q), got[:, 0])


def test_percentile_100_is_the_classic_rule(resnet, images):
    cam = LayerCAM(resnet, "layer3")
    assert torch.equal(cam.boxes(images, 1, percentile=100), cam.boxes(images, 1))
    with pytest.raises(ValueError, match=r"`percentile` must be in \[0, 100\], got 101"):
        cam.boxes(images, percentile=101)
    with pytest.raises(ValueError, match="got a tensor of absolute levels"):
        cam.boxes(images, threshold=torch.zeros(2), percentile=90)
