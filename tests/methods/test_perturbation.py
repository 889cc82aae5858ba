"""Score-CAM and Ablation-CAM against grad-cam, torchcam and a loop over channels."""

import pytest
import pytorch_grad_cam
import torch
import torch.nn.functional as F
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from fastcam.methods import AblationCAM, ScoreCAM, observe
from fastcam.models import build, vit_reshape


class Net(nn.Module):
    """A small network that counts its passes, with a dead channel in its first stage."""

    def __init__(self, head: nn.Module | None = None) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(inplace=True))
        self.head = head or nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 5))
        with torch.no_grad():
            self.stage1[0].weight[3] = 0
            self.stage1[0].bias[3] = -1
        self.batches = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.head(self.stage2(self.stage1(images)))


@pytest.fixture
def model() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 20, 24)


def by_hand(model: Net, images: Tensor, classes: list[int], layer: str, softmax: bool = True) -> Tensor:
    """The paper, channel by channel, but by the magnitude of the score: a negative one would turn the map round."""
    with torch.no_grad():
        features = model.stage1(images)
        features = features if layer == "stage1" else model.stage2(features)
        maps = []
        for i, c in enumerate(classes):
            scores, kept = [], []
            for channel in features[i]:
                if channel.max() > channel.min():
                    mask = F.interpolate(channel[None, None], images.shape[2:], mode="bilinear")
                    mask = (mask - mask.min()) / (mask.max() - mask.min())
                    logits = model(images[i : i + 1] * mask)[0]
                    scores.append(logits[c] if softmax else logits.softmax(0)[c])
                    kept.append(channel)
            scores = torch.stack(scores)
            weights = scores.softmax(0) if softmax else scores
            maps.append((weights[:, None, None] * torch.stack(kept)).sum(0))
        return torch.stack(maps)


# ---- Score-CAM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("layer", ["stage1", "stage2"])
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_score_cam_by_hand(layer, batch_size, backend, model, images):
    want = by_hand(model, images, [4, 0, 2], layer)
    cam = ScoreCAM(model, layer, batch_size=batch_size, backend=backend)
    torch.testing.assert_close(cam.coarse(images, [4, 0, 2]), want, rtol=1e-5, atol=1e-6)
    callables = [lambda row, c=c: row[c] for c in (4, 0, 2)]
    torch.testing.assert_close(cam.coarse(images, callables), want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(cam.coarse(images, "all")[[0, 1, 2], [4, 0, 2]], want, rtol=1e-5, atol=1e-6)


def test_the_authors_score_cam(model, images):
    want = by_hand(model, images, [4, 0, 2], "stage1", softmax=False)
    cam = ScoreCAM(model, "stage1", score="probability", softmax=False)
    torch.testing.assert_close(cam.coarse(images, [4, 0, 2]), want, rtol=1e-5, atol=1e-6)
    black = ScoreCAM(model, "stage1", softmax=False, baseline=torch.zeros(3, 20, 24)).coarse(images, 1)
    plain = ScoreCAM(model, "stage1", softmax=False).coarse(images, 1)
    offset = model(torch.zeros(1, 3, 20, 24))[0, 1].detach()
    torch.testing.assert_close(black, plain - offset * model.stage1(images).sum(1).detach(), rtol=1e-4, atol=1e-5)
    each = ScoreCAM(model, "stage1", softmax=False, baseline=torch.zeros_like(images))
    torch.testing.assert_close(each.coarse(images, 1), black, rtol=1e-5, atol=1e-6)
    assert each(images, 1, aug_smooth=True).shape == (3, 20, 24)
    with pytest.raises(ValueError, match=r"`baseline` must be one image or one for each of the images, got \[2, 3"):
        ScoreCAM(model, "stage1", softmax=False, baseline=torch.zeros(2, 3, 20, 24))(images, 1)


def test_passes_are_packed_and_dead_channels_skipped(model, images):
    dead = 3 * 8 - int((model.stage1(images).amax((2, 3)) > model.stage1(images).amin((2, 3))).sum())
    assert dead >= 3
    ScoreCAM(model, "stage1", batch_size=10)(images, 1)
    assert model.batches == [3, *[10] * ((24 - dead) // 10), *[(24 - dead) % 10] * ((24 - dead) % 10 > 0)]
    model.batches.clear()
    ScoreCAM(model, "stage1", top_channels=2)(images, 1)
    assert model.batches == [3, 6]


def test_top_channels_are_those_that_vary_most(model, images):
    few = ScoreCAM(model, "stage2", top_channels=3, softmax=False)
    every = ScoreCAM(model, "stage2", softmax=False)
    features = model.stage2(model.stage1(images)).detach()
    best = features.var((2, 3)).topk(3).indices
    model.stage2.register_forward_hook(lambda m, i, o: None)
    with torch.no_grad():
        (term,), (whole,) = (cam._terms(observe([cam], images, 1), False) for cam in (few, every))
    want = torch.zeros(3, 12).scatter(1, best, whole.weights.gather(1, best))
    torch.testing.assert_close(term.weights, want)
    assert torch.equal(
        ScoreCAM(model, "stage2", top_channels=99).coarse(images, 1), ScoreCAM(model, "stage2").coarse(images, 1)
    )


def test_pictures_without_a_living_channel(model, images):
    with torch.no_grad():
        model.stage2[0].weight.zero_()
        model.stage2[0].bias.fill_(-1)
    for method in (ScoreCAM, AblationCAM):
        cam = method(model, "stage2")
        assert torch.equal(cam(images, 1), torch.zeros(3, 20, 24))
        assert torch.equal(cam.boxes(images, 1), torch.zeros(3, 4, dtype=torch.int32))


def test_pictures_that_are_not_finite_do_not_spoil_others(model, images):
    want = ScoreCAM(model, "stage1")(images, 1)
    images = images.clone()
    images[1] = torch.nan
    got = ScoreCAM(model, "stage1")(images, 1)
    assert torch.equal(got[1], torch.zeros(20, 24))
    torch.testing.assert_close(got[[0, 2]], want[[0, 2]], rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    torch.manual_seed(2)
    model = build("resnet18", 10).eval()
    nn.init.normal_(model.fc.weight, std=0.3)
    return model


def test_score_cam_equals_grad_cam(resnet, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    images = torch.randn(2, 3, 48, 48)
    with pytorch_grad_cam.ScoreCAM(resnet, [resnet.layer1]) as peer:
        want = torch.from_numpy(peer(images, [ClassifierOutputTarget(3), ClassifierOutputTarget(8)]))
    cam = ScoreCAM(resnet, "layer1", align_corners=True, order="grad-cam", batch_size=48)
    torch.testing.assert_close(cam(images, [3, 8]), want, rtol=0, atol=1e-5)


def test_score_cam_equals_torchcam(resnet):
    images = torch.randn(2, 3, 48, 48)
    with torchcam.methods.ScoreCAM(resnet, "layer1", input_shape=(3, 48, 48)) as peer, torch.no_grad():
        resnet(images)
        (want,) = peer([3, 8], normalized=False)
    got = ScoreCAM(resnet, "layer1", normalize="before").coarse(images, [3, 8]).relu()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "loss"}, "`score` must be one of logit, probability"),
        ({"normalize": "both"}, "`normalize` must be one of after, before"),
        ({"batch_size": 0}, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"top_channels": 2.5}, "`top_channels` must be a whole number of at least 1, got 2.5"),
    ],
)
def test_wrong_options(options, message, model):
    with pytest.raises(ValueError, match=message):
        ScoreCAM(model, "stage1", **options)


# ---- Ablation-CAM ----------------------------------------------------------------------------------------------------


def ablated(model: Net, images: Tensor, classes: list[int], layer: str) -> Tensor:
    """The paper, channel by channel, but by the magnitude of the score: a negative one would turn the map round."""
    rest = nn.Sequential(model.head) if layer == "stage2" else nn.Sequential(model.stage2, model.head)
    with torch.no_grad():
        features = model.stage1(images)
        features = features if layer == "stage1" else model.stage2(features)
        scores = rest(features)[range(len(classes)), classes]
        weights = torch.zeros(features.shape[:2], dtype=features.dtype)
        for k in range(features.shape[1]):
            without = features.clone()
            without[:, k] = 0
            weights[:, k] = (scores - rest(without)[range(len(classes)), classes]) / scores.abs()
        return torch.einsum("nk,nkhw->nhw", weights, features)


@pytest.mark.parametrize("pool", [None, nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)])
@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_ablation_cam_by_hand(layer, pool, images):
    head = pool and nn.Sequential(pool, nn.Flatten(), nn.Linear(12, 5))
    model, images = Net(head).double().eval(), images.double()
    want = ablated(model, images, [4, 0, 2], layer)
    cam = AblationCAM(model, layer, batch_size=7)
    torch.testing.assert_close(cam.coarse(images, [4, 0, 2]), want, rtol=1e-8, atol=1e-10)
    callables = [lambda row, c=c: row[c] for c in (4, 0, 2)]
    torch.testing.assert_close(cam.coarse(images, callables), want, rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(cam.coarse(images, "all")[[0, 1, 2], [4, 0, 2]], want, rtol=1e-8, atol=1e-10)
    if pool is not None and layer == "stage2":
        model.batches.clear()
        cam(images, 1)
        assert model.batches == [3]
        few = AblationCAM(model, layer, top_channels=2)
        by_passes = few.coarse(images, lambda row: row[1])
        torch.testing.assert_close(few.coarse(images, 1), by_passes, rtol=1e-8, atol=1e-10)


def test_ablation_of_tokens():
    model = build_small_vit()
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    layer = "encoder.layers.encoder_layer_0"
    cam = AblationCAM(model, layer)
    tokens = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: tokens.append(o.detach()))
    with torch.no_grad():
        scores = model(images)[:, 1]
        handle.remove()
        weights = []
        for k in range(16):
            without = tokens[0].clone()
            without[:, 1:, k] = 0
            handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o, without=without: without)
            weights.append((scores - model(images)[:, 1]) / scores.abs())
            handle.remove()
    want = torch.einsum("kn,nkhw->nhw", torch.stack(weights), vit_reshape(tokens[0]))
    torch.testing.assert_close(cam.coarse(images, 1), want, rtol=1e-8, atol=1e-10)
    mean = AblationCAM(model, layer, reshape_transform=lambda t: vit_reshape(t) * 0.5)
    with pytest.raises(ValueError, match="`reshape_transform` must only rearrange"):
        mean(images, 1)


def build_small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    model = (
        VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5).double().eval()
    )
    nn.init.normal_(model.heads.head.weight)
    return model


@pytest.mark.parametrize("method", [ScoreCAM, AblationCAM])
def test_an_error_half_way_leaves_the_model_as_it_was(method, model, images):
    def fail(module, args, output):
        if len(model.batches) > 2:
            raise RuntimeError("on purpose")

    model.train()
    model.stage2.eval()
    handle = model.head.register_forward_hook(fail)
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="on purpose"):
        method(model, "stage1", batch_size=4)(images, 1)
    assert [module.training for module in model.modules()] == modes
    handle.remove()
    assert not any(module._forward_hooks for module in model.modules())
