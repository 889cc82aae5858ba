"""Several methods from one forward pass: each must give what it gives alone, to the last bit."""

import itertools

import pytest
import torch
import torchvision
from torch import Tensor, nn

from fastcam import methods
from fastcam.methods import ATTENTION_METHODS, CAM, METHODS, EigenCAM, FinerCAM, GradCAM, LayerCAM, observe
from fastcam.methods.smoothing import merge_views, views
from fastcam.models import ThresholdedAvgPool2d, to_gap


class Net(nn.Module):
    """Two stages, an in-place ReLU after the second, global average pooling and a linear layer; it counts its runs."""

    def __init__(self) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.BatchNorm2d(10))
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(10, 5)
        self.batches: list[int] = []
        self.backward = 0

    def _count(self, *_: object) -> None:
        self.backward += 1

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        logits = self.fc(self.avgpool(self.relu(self.stage2(self.stage1(images)))).flatten(1))
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits


@pytest.fixture
def model() -> Net:
    net = Net()
    nn.init.normal_(net.stage2[1].running_mean)
    return net


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 20, 28)


def all_methods(model: nn.Module, layer: str) -> list[methods.Method]:
    names = [name for name in METHODS if name != "cam" or layer != "stage1"]
    return [methods.create(name, model, target_layers=layer) for name in names]


TARGETS = [{}, {"targets": [4, 0, 2]}, {"top_k": 2}, {"targets": lambda row: row[1] * 2}]


@pytest.mark.parametrize("targets", TARGETS, ids=["top", "given", "ranked", "callable"])
@pytest.mark.parametrize("layer", ["relu", "stage2", "stage1"])
def test_all_methods_of_one_run_are_those_alone(layer, targets, model, images):
    cams = all_methods(model, layer)
    if callable(targets.get("targets")):
        cams = [cam for cam in cams if not isinstance(cam, CAM | FinerCAM)]
    run = observe(cams, images, **targets)
    for cam, eigen in itertools.product(cams, (False, True)):
        options = {"eigen_smooth": eigen}
        alone = cam.coarse(images, **targets, **options), cam.outputs, cam.targets
        together = cam.coarse(run, **options), cam.outputs, cam.targets
        for mine, want in zip(together, alone, strict=True):
            assert torch.equal(mine, want) if isinstance(want, Tensor) else mine is want
        assert torch.equal(cam(run, **options), cam(images, **targets, **options))
        want = cam.boxes(images, **targets, **options, threshold=[0.2, 0.5], percentile=90)
        assert torch.equal(cam.boxes(run, **options, threshold=[0.2, 0.5], percentile=90), want)


@pytest.mark.parametrize("layer", ["relu", "stage1"])
def test_six_views_run_once(layer, model, images):
    cams = all_methods(model, layer)
    run = observe(cams, images, [4, 0, 2], aug_smooth=True)
    assert model.batches == [18]
    for cam, eigen in itertools.product(cams, (False, True)):
        want = cam(images, [4, 0, 2], aug_smooth=True, eigen_smooth=eigen)
        assert torch.equal(cam(run, eigen_smooth=eigen), want)
        assert torch.equal(
            cam.boxes(run, eigen_smooth=eigen),
            cam.boxes(images, [4, 0, 2], aug_smooth=True, eigen_smooth=eigen),
        )
        coarse = cam.coarse(run, eigen_smooth=eigen)
        assert torch.equal(coarse, cam.coarse(views(images), [4, 0, 2] * 6, eigen_smooth=eigen))
        assert merge_views(coarse).shape[0] == 3


def test_one_forward_pass_and_one_backward_pass_for_each_rank(model, images):
    others = ("cam", "scorecam", "ablationcam", "finercam", "shapleycam")  # the last two have scores of their own
    names = [name for name in METHODS if name not in others]
    cams = [methods.create(name, model, target_layers="stage1") for name in names]
    run = observe(cams, images, top_k=2)
    run.differentiate()
    assert model.backward == 2
    for cam, eigen in itertools.product(cams, (False, True)):
        cam(run, eigen_smooth=eigen)
        assert cam.uses_gradients(run) == cam._needs_gradients
    assert model.batches == [3]
    assert model.backward == 2
    last = [methods.create(name, model, target_layers="relu") for name in names]
    run = observe(last, images)
    assert not any(cam.uses_gradients(run) for cam in last)  # the closed form


@pytest.mark.parametrize("order", [1, -1])
def test_methods_at_different_layers(order, model, images):
    layers = ["stage1", ["stage1", "stage2"]]
    cams = [CAM(model, "relu"), GradCAM(model, "stage2"), *(LayerCAM(model, layer) for layer in layers)][::order]
    run = observe(cams, images)
    for cam in cams:
        assert torch.equal(cam(run), cam(images))


def test_the_run_knows_its_model_layers_and_targets(model, images):
    run = observe([CAM(model, "relu")], images, 1)
    with pytest.raises(ValueError, match="the run observed relu, but not the target layer 'stage1'"):
        GradCAM(model, "stage1")(run)
    with pytest.raises(ValueError, match="the run is one of another model than that of CAM"):
        CAM(Net(), "relu")(run)
    for options in ({"targets": 1}, {"top_k": 2}, {"aug_smooth": True}):
        with pytest.raises(ValueError, match="are those of the run"):
            CAM(model, "relu")(run, **options)
    for cams in ([], [CAM(model, "relu"), CAM(Net(), "relu")]):
        with pytest.raises(ValueError, match="`methods` must be one or several of one model, got"):
            observe(cams, images)
    with pytest.raises(ValueError, match="class 5 in `targets` is out of range"):
        observe([CAM(model, "relu")], images, 5)


def test_runs_in_inference_mode_and_of_parameters_made_there(images):
    with torch.inference_mode():
        model = Net()
        cams = [CAM(model, "relu"), LayerCAM(model, "stage1")]
        run = observe(cams, images.clone())
        tap = run.with_pooling(ThresholdedAvgPool2d(0.3))
        for cam in cams:
            assert torch.equal(cam(run), cam(images))
            assert torch.equal(cam(tap), type(cam)(tapped(model, 0.3), list(cam.layers))(images))


# ---- another pooling -------------------------------------------------------------------------------------------------


def tapped(model: Net, threshold: float) -> Net:
    other = Net()
    other.load_state_dict(model.state_dict())
    other.avgpool = ThresholdedAvgPool2d(threshold)
    return other


@pytest.mark.parametrize("targets", TARGETS, ids=["top", "given", "ranked", "callable"])
@pytest.mark.parametrize("layer", ["relu", "stage1"])
def test_another_pooling_is_another_network(layer, targets, model, images):
    other = tapped(model, 0.4)
    cams, theirs = all_methods(model, layer), all_methods(other, layer)
    run = observe([CAM(model, "relu"), *cams], images, **targets)
    tap = run.with_pooling(ThresholdedAvgPool2d(0.4))
    assert torch.equal(tap.logits, other.eval()(images).detach())
    assert not torch.equal(tap.logits, run.logits)
    for cam, their, eigen in ((c, t, e) for c, t in zip(cams, theirs, strict=True) for e in (False, True)):
        if isinstance(cam, CAM | FinerCAM) and callable(targets.get("targets")):
            continue
        want = their.coarse(images, **targets, eigen_smooth=eigen)
        assert torch.equal(cam.coarse(tap, eigen_smooth=eigen), want), type(cam)
        assert torch.equal(cam.outputs, their.outputs)
        assert (cam.targets is None and their.targets is None) or torch.equal(cam.targets, their.targets)
        assert torch.equal(cam.coarse(run, eigen_smooth=eigen), cam.coarse(images, **targets, eigen_smooth=eigen))
    assert not model.fc._forward_pre_hooks
    assert not model.relu._forward_hooks


def test_another_pooling_after_a_relu(model, images):
    """A thresholded mean is the same with and without a ReLU before it; the plain run knows that there is one."""
    cam, grad = CAM(model, "stage2"), GradCAM(model, "stage2")
    tap = observe([cam, grad], images).with_pooling(ThresholdedAvgPool2d(0.4))
    other = tapped(model, 0.4)
    assert torch.equal(cam(tap), CAM(other, "relu")(images))
    torch.testing.assert_close(grad.coarse(tap), GradCAM(other, "stage2").coarse(images))


@pytest.mark.parametrize("family", ["resnet18", "mobilenet_v2", "densenet121"])
def test_thresholded_pooling_of_known_networks(family):
    model = torchvision.models.get_model(family, num_classes=4).eval()
    images = torch.randn(2, 3, 64, 64)
    cam = CAM(model)
    run = observe([cam], images)
    tap = run.with_pooling(ThresholdedAvgPool2d(0.1))
    other = to_gap(model, "tap")
    assert torch.equal(cam(tap), CAM(other)(images))
    assert torch.equal(tap.logits, other(images).detach())
    six = observe([cam], images, aug_smooth=True).with_pooling(ThresholdedAvgPool2d(0.1))
    assert torch.equal(cam(six), CAM(other)(images, aug_smooth=True))


def test_pooling_needs_its_head(model, images):
    with pytest.raises(ValueError, match="in Net that is not so after stage1"):
        observe([GradCAM(model, "stage1")], images).with_pooling(ThresholdedAvgPool2d())
    direct = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="needs a global pooling and one linear layer"):
        observe([CAM(direct, "0")], images).with_pooling(ThresholdedAvgPool2d())


# ---- a graph changes nothing -----------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Convolution, then torch's own transformer, which has another path for passes without a graph."""

    def __init__(self, whole: bool) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        layer = nn.TransformerEncoderLayer(16, 2, 24, batch_first=True, activation="gelu")
        self.mix = nn.TransformerEncoder(layer, 2) if whole else nn.MultiheadAttention(16, 4, batch_first=True)
        self.back, self.norm, self.fc = nn.Conv2d(16, 12, 1), nn.BatchNorm2d(12), nn.Linear(12, 3)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.patches(images)
        tokens = maps.flatten(2).mT
        mixed = self.mix(tokens) if isinstance(self.mix, nn.TransformerEncoder) else self.mix(tokens, tokens, tokens)[0]
        return self.fc(self.norm(self.back(mixed.mT.unflatten(2, maps.shape[2:]))).relu().mean((2, 3)))


def vision_transformer() -> nn.Module:
    vit = torchvision.models.VisionTransformer(16, 4, 2, 2, 8, 16, num_classes=3)
    nn.init.normal_(vit.heads.head.weight)
    return vit


def swin() -> nn.Module:
    return torchvision.models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [2, 2], num_classes=3)


# A network, an early and a late layer of it, and the side of its pictures.
NETWORKS = {
    "vit": (vision_transformer, "encoder.layers.encoder_layer_0.ln_1", "encoder.layers.encoder_layer_1.ln_1", 16),
    "swin": (swin, "features.1", "features.3", 64),
    "encoder": (lambda: Attention(True), "patches", "back", 24),
    "attention": (lambda: Attention(False), "patches", "norm", 24),
    "mobilenet": (
        lambda: torchvision.models.mobilenet_v2(width_mult=0.25, num_classes=3),
        "features.4",
        "features",
        96,
    ),
}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("network", NETWORKS)
def test_a_graph_changes_no_bit(network, name):
    """Alone, beside methods that want gradients at an early layer, and beside one that wants none."""
    build, early, late, side = NETWORKS[network]
    model, images = build(), torch.randn(2, 3, side, side)
    few = {"top_channels": 3} if name in ("scorecam", "ablationcam") else {}
    for layer in (early, late):
        cam = methods.create(name, model, target_layers=layer, **few)
        try:
            alone = cam.coarse(images), cam.outputs
        except ValueError:
            assert name == "cam"
            continue
        for others in ([GradCAM(model, early)], [GradCAM(model, late)], [EigenCAM(model, [early, late])]):
            for cams in ([cam, *others], [*others, cam]):
                run = observe(cams, images)
                run.differentiate()
                assert torch.equal(cam.coarse(run), alone[0])
                assert torch.equal(run.logits, alone[1])


@pytest.mark.parametrize("name", [name for name in METHODS | ATTENTION_METHODS if name != "cam"])
def test_vision_transformer(name):
    vit = torchvision.models.VisionTransformer(16, 8, 2, 2, 8, 16, num_classes=3)
    nn.init.normal_(vit.heads.head.weight)
    images = torch.randn(2, 3, 16, 16)
    cams = [methods.create(name, vit), GradCAM(vit)]
    run = observe(cams, images)
    assert torch.equal(cams[0](run), cams[0](images))


def test_the_path_of_attention_is_put_back():
    model, images = vision_transformer(), torch.randn(1, 3, 16, 16)
    for enabled in (False, True):
        torch.backends.mha.set_fastpath_enabled(enabled)
        GradCAM(model)(images)
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    broken = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Linear(5, 5))
    with pytest.raises(RuntimeError):
        GradCAM(broken, "0")(images)
    assert torch.backends.mha.get_fastpath_enabled()
