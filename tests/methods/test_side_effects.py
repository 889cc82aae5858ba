"""What networks do beside computing logits: to their input, to gradients, to their buffers, to their neighbours."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import fastcam
from fastcam import methods
from fastcam.data import Sample
from fastcam.methods import (
    ATTRIBUTIONS,
    CAM,
    METHODS,
    AblationCAM,
    EigenCAM,
    GradCAM,
    GradCAMPlusPlus,
    LayerCAM,
    ScoreCAM,
    XGradCAM,
)


class Net(nn.Module):
    """Two stages and a head of two layers; subclasses say how the stages are run."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.first = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 6 * 6, 16), nn.ReLU(), nn.Linear(16, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 24, 24)


def named(name: str, model: nn.Module, layer: str, **options: object) -> methods.Method | methods.Attribution:
    if name in ("saliency", "guided-backprop"):
        return methods.create(name, model)
    return methods.create(name, model, target_layers=layer, **options)


# ---- gradients that the network stops --------------------------------------------------------------------------------


class NoGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            found = self.second(self.first(x))
        return self.head(found)


class SetGradEnabled(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.training):
            found = self.second(self.first(x))
        return self.head(found)


class Decorated(Net):
    @torch.no_grad()
    def trunk(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x))


class Detached(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).detach())


class Data(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).data)


class WholeNoGrad(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class SwitchedOff(Net):
    def forward(self, x: Tensor) -> Tensor:
        before = torch.is_grad_enabled()
        torch.set_grad_enabled(False)
        found = self.second(self.first(x))
        torch.set_grad_enabled(before)
        return self.head(found)


class Reentrant(Net):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.head, checkpoint(self.second, self.first(x), use_reentrant=True), use_reentrant=True)


class NotReentrant(Net):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.head, checkpoint(self.second, self.first(x), use_reentrant=False), use_reentrant=False)


class Sequence(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(checkpoint_sequential(nn.Sequential(self.first, self.second), 2, x, use_reentrant=True))


STOPS = [NoGrad, SetGradEnabled, Decorated, Detached, Data, WholeNoGrad, SwitchedOff, Reentrant, NotReentrant, Sequence]


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("layer", ["first", "second", "second.0"])
@pytest.mark.parametrize("kind", STOPS)
def test_gradients_that_are_stopped_are_those_without_the_stop(kind, layer, images):
    for method in (GradCAM, LayerCAM, GradCAMPlusPlus):
        want = method(Net(), layer).coarse(images, [0, 3, 1])
        model = kind()
        assert torch.equal(method(model, layer).coarse(images, [0, 3, 1]), want)
        assert torch.equal(method(model, layer).coarse(images, "all"), method(Net(), layer).coarse(images, "all"))
        assert torch.is_grad_enabled()
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert model.training
        # A checkpoint is one again afterwards.
        assert torch.utils.checkpoint.CheckpointFunction.__name__ == "CheckpointFunction"


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [NoGrad, Detached, Reentrant, Sequence])
def test_so_are_gradients_of_the_picture(kind, images):
    for name in ATTRIBUTIONS:
        want = named(name, Net(), "second")(images, 1)
        assert torch.equal(named(name, kind(), "second")(images, 1), want)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("kind", [NoGrad, Detached, Reentrant])
def test_a_shared_run_gives_the_same(kind, images):
    def cams(model: nn.Module) -> list[methods.Method]:
        return [GradCAM(model, "second"), LayerCAM(model, "first"), GradCAMPlusPlus(model, ["first", "second"])]

    model, plain = cams(kind()), cams(Net())
    run, want = methods.observe(model, images, top_k=2), methods.observe(plain, images, top_k=2)
    run.differentiate()
    for cam, other in zip(model, plain, strict=True):
        assert torch.equal(cam(run), other(want))


class InferenceTrunk(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode():
            found = self.second(self.first(x))
        return self.head(found)


@pytest.mark.parametrize("layer", ["first", "second"])
def test_inference_mode_inside_the_network_is_refused(layer, images):
    with pytest.raises(ValueError, match=r"no gradient reaches it.*inference_mode"):
        GradCAM(InferenceTrunk(), layer).coarse(images, 1)
    EigenCAM(InferenceTrunk(), layer)(images)


class Gate(Net):
    """A gate that is meant to pass no gradient, beside a way that does."""

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.first(x))
        return self.head(found * found.mean(1, keepdim=True).detach())


class FrozenBranch(Net):
    def forward(self, x: Tensor) -> Tensor:
        found = self.first(x)
        with torch.no_grad():
            fixed = self.second(found)
        return self.head(fixed + self.second(found))


@pytest.mark.parametrize(("kind", "layer"), [(Gate, "second"), (FrozenBranch, "first")])
def test_a_stop_on_one_of_several_ways_is_meant(kind, layer, images):
    model, kept = kind().eval(), []
    handle = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    scores = model(images)[:, 2].sum()
    handle.remove()
    (gradients,) = torch.autograd.grad(scores, kept[0])
    want = (gradients.mean((2, 3), keepdim=True) * kept[0]).sum(1).detach()
    torch.testing.assert_close(GradCAM(model, layer).coarse(images, 2), want)


class OtherWay(Net):
    """The second stage runs, and nothing comes of it."""

    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x))
        return self.head(torch.zeros(len(x), 8, 6, 6) + x.mean())


def test_a_layer_that_does_not_count_is_refused(images):
    with pytest.raises(ValueError, match="the target does not depend on the layer 'second': no gradient reaches it"):
        GradCAM(OtherWay(), "second")(images)


# ---- pictures and buffers that the network changes -------------------------------------------------------------------


class InPlace(Net):
    """Normalises and rectifies its own input."""

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.25
        x.mul_(2)
        return super().forward(F.relu(x, inplace=True))


class OutOfPlace(Net):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.25).relu() * 2)


@pytest.mark.parametrize("name", [name for name in METHODS | ATTRIBUTIONS if name != "cam"])
def test_pictures_stay_as_they_were(name, images):
    before = images.clone()
    want = named(name, OutOfPlace(), "second")(images, [1, 0, 2])
    model = InPlace()
    for _ in range(2):
        assert torch.equal(named(name, model, "second")(images, [1, 0, 2]), want)
        assert torch.equal(images, before)
    if name in METHODS:
        smooth = named(name, model, "second")(images, 1, aug_smooth=True)
        assert torch.equal(smooth, named(name, OutOfPlace(), "second")(images, 1, aug_smooth=True))
        run = methods.observe([named(name, model, "second"), GradCAM(model, "first")], images, [1, 0, 2])
        assert torch.equal(named(name, model, "second")(run), want)
    assert torch.equal(images, before)


def test_so_does_the_baseline_of_score_cam(images):
    baseline = torch.rand(3, 24, 24)
    before = baseline.clone()
    cams = [ScoreCAM(kind(), "second", softmax=False, baseline=baseline) for kind in (InPlace, OutOfPlace)]
    assert torch.equal(cams[0](images, 1), cams[1](images, 1))
    assert torch.equal(baseline, before)


def test_metrics_leave_pictures_alone(images):
    before, maps = images.clone(), GradCAM(Net(), "second")(images)
    found = [fastcam.metrics.deletion(kind(), images, maps, 1, steps=3).scores for kind in (InPlace, OutOfPlace)]
    assert torch.equal(*found)
    assert torch.equal(images, before)


class Counting(Net):
    """Counts its runs in place, keeps a mean in a new tensor, and scales by what it has counted."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("runs", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        found = self.second(self.first(x))
        self.runs += 1
        self.mean = 0.9 * self.mean + 0.1 * found.detach().mean((0, 2, 3))
        return self.head(found * self.runs)


class AlwaysTraining(nn.BatchNorm2d):
    """Running statistics that move in evaluation, too."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, True, 0.5)


@pytest.mark.parametrize("name", ["gradcam", "eigencam", "scorecam", "ablationcam", "saliency", "guided-gradcam"])
def test_buffers_stay_as_they_were(name, images):
    model = Counting()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    maps = [named(name, model, "second")(images, 1) for _ in range(2)]
    assert torch.equal(*maps)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(buffer is buffers[key] for key, buffer in model.named_buffers())


def test_statistics_that_move_are_put_back(images):
    model = Net()
    model.first.append(AlwaysTraining(6))
    model.first[-1].running_mean.fill_(3)
    with pytest.warns(UserWarning, match="Net normalises by the statistics of the batch"):
        GradCAM(model, "second")(images)
    assert (model.first[-1].running_mean == 3).all()


# ---- pictures that depend on each other ------------------------------------------------------------------------------


class Functional(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, None, None, training=True)


class Centred(nn.Module):
    """Statistics of the batch without a name."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class BatchSecond(nn.Module):
    """Attention that takes the batch for the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return self.attention(tokens, tokens, tokens)[0].mT.unflatten(2, x.shape[2:])


class StandardisedConv(nn.Conv2d):
    """Weight standardisation, by batch normalisation of the filters: pictures do not meet."""

    def forward(self, x: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding)


MIXING = {
    "BatchNorm without statistics": lambda: nn.BatchNorm2d(6, track_running_stats=False),
    "function": Functional,
    "always training": lambda: AlwaysTraining(6),
}
UNNAMED = {"centred": Centred, "batch second": BatchSecond}
APART = {
    "BatchNorm": lambda: nn.BatchNorm2d(6),
    "InstanceNorm": lambda: nn.InstanceNorm2d(6),
    "GroupNorm": lambda: nn.GroupNorm(2, 6),
    "standardised": lambda: StandardisedConv(6, 6, 3, padding=1),
}


def with_layer(layer: nn.Module) -> Net:
    model = Net()
    model.first.append(layer)
    return model


@pytest.mark.parametrize("name", MIXING)
def test_normalising_by_the_batch_is_told(name, images):
    model = with_layer(MIXING[name]())
    for method in (GradCAM, AblationCAM):
        with pytest.warns(UserWarning, match="statistics of the batch .* Give it one picture at a time"):
            method(model, "second")(images)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        GradCAM(model, "second")(images[:1])


@pytest.mark.parametrize("name", APART)
def test_pictures_apart_are_told_nothing(name, images):
    GradCAM(with_layer(APART[name]()), "second")(images)


@pytest.mark.filterwarnings("ignore:Net normalises by the statistics", "ignore:3 of 3 maps are constant")
@pytest.mark.parametrize("name", MIXING | UNNAMED)
def test_rows_that_depend_on_their_neighbours_are_refused(name, tmp_path):
    model, config = with_layer((MIXING | UNNAMED)[name]()), fastcam.models.ModelConfig("net", 4, size=24)
    pixels = torch.randint(0, 256, (3, 30, 30, 3), dtype=torch.uint8).numpy()
    samples = [Sample(image) for image in pixels]
    options = {"config": config, "method": "gradcam", "target_layers": "second", "progress": False}
    for batch in (2, 8):
        with pytest.raises(ValueError, match=r"Net gives a picture other logits alone .* --batch-size 1"):
            fastcam.localize(model, samples, out=tmp_path / str(batch), batch_size=batch, **options)
    assert fastcam.localize(model, samples, out=tmp_path / "alone", batch_size=1, **options).errors == 0


@pytest.mark.parametrize("name", APART)
def test_rows_apart_are_not(name, tmp_path):
    model, config = with_layer(APART[name]()), fastcam.models.ModelConfig("net", 4, size=24)
    samples = [Sample(torch.randint(0, 256, (30, 30, 3), dtype=torch.uint8).numpy()) for _ in range(3)]
    options = {"config": config, "method": "gradcam", "target_layers": "second", "progress": False}
    assert fastcam.localize(model, samples, out=tmp_path / "out", batch_size=2, **options).errors == 0


class FixedBatch(nn.Module):
    """Reshaped for batches of two, and no others."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(2, 6, 12, 12) + 0.0 * self.shift(x)

    def shift(self, x: Tensor) -> Tensor:
        return x.mean(0, keepdim=True)


class FixedAndMixing(FixedBatch):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift(x)


class Squeezed(Net):
    """Loses the batch's dimension where there is one picture."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze()


def test_networks_that_take_no_picture_alone(tmp_path):
    config = fastcam.models.ModelConfig("net", 4, size=24)
    samples = [Sample(torch.randint(0, 256, (30, 30, 3), dtype=torch.uint8).numpy()) for _ in range(3)]
    options = {"config": config, "method": "gradcam", "target_layers": "second", "progress": False, "batch_size": 2}
    for number, model in enumerate((with_layer(FixedBatch()), Squeezed())):
        assert fastcam.localize(model, samples, out=tmp_path / str(number), **options).errors == 0
    with pytest.raises(ValueError, match="it mixes the pictures of a batch"):
        fastcam.localize(with_layer(FixedAndMixing()), samples, out=tmp_path / "mixing", **options)


# ---- quotients -------------------------------------------------------------------------------------------------------


def red_minus_green(bias: float, scale: float = 1.0) -> nn.Sequential:
    """Red at the left speaks for the class, green at the right against it."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3)[:2].reshape(2, 3, 1, 1))
        model[3].weight.copy_(torch.tensor([[scale, -scale], [0.0, 0.0]]))
        model[3].bias.copy_(torch.tensor([bias, 0.0]))
    return model


@pytest.mark.parametrize("scale", [1.0, 1e-20, 1e20])
@pytest.mark.parametrize("bias", [-10.0, -0.5, 0.0, 1e-30, -1e-42, 0.3, 10.0])
def test_ablation_cam_does_not_turn_round(bias, scale):
    x = torch.zeros(2, 3, 8, 8)
    x[:, 0, :, :4] = 1
    x[:, 1, :, 4:] = 1
    x[1] *= 0.3
    for targets in (0, [lambda row: row[0]] * 2, [lambda row: row[0] * 2 - 3 * scale] * 2):
        maps = AblationCAM(red_minus_green(bias * scale, scale), "0")(x, targets)
        assert (maps[:, :, :4] == 1).all()
        assert (maps[:, :, 4:] == 0).all()
    coarse = AblationCAM(red_minus_green(10.0), "0").coarse(x, 0)  # the paper's own figures where they are sound
    torch.testing.assert_close(coarse[0], x[0, 0] * 0.5 / 10 - x[0, 1] * 0.5 / 10)


@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("total", [0.0, -1e-7, -(2.0**-23), 1e-30, -3.0, 2.0])
@pytest.mark.parametrize("eps", [0.0, 1e-7, 2.0**-23])
def test_sums_that_cancel_give_finite_weights(total, eps, backend):
    """Negative activations count with their sign, and no sum of them cancels eps."""
    ops = {"fused": fastcam.ops, "reference": fastcam.reference}[backend]
    a = torch.tensor([[[[total, 0.0]], [[4.0, 1.0]]]])
    g = torch.tensor([[[[0.5, 0.5]], [[-2.0, -2.0]]]])
    base = total + eps if total >= 0 else total - eps
    weight = 0.5 * total / (base or 1.0)
    want = torch.tensor([[[weight * total - 8.0, -2.0]]])
    torch.testing.assert_close(ops.gradient_map(a, g, "xgradcam", eps), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_plus_plus_weights_are_finite_where_the_denominator_is_zero(backend):
    ops = {"fused": fastcam.ops, "reference": fastcam.reference}[backend]
    a = torch.tensor([[[[-1.0, -3.0]], [[2.0, 0.0]]]])  # their sum -4 times 0.5**3 cancels twice 0.5**2
    g = torch.tensor([[[[0.5, 0.5]], [[1e-25, 1e-25]]]])  # whose square is zero in float32
    assert ops.gradient_map(a, g, "gradcam++", 0.0).isfinite().all()


def test_methods_whose_sums_cancel_are_finite():
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stage, self.fc = nn.Identity(), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.stage(x).mean((2, 3)))

    x = torch.tensor([[[[2.0**-24, -(2.0**-24) - 1e-7]], [[1.0, 2.0]]]])
    for method in (XGradCAM, GradCAMPlusPlus, LayerCAM, CAM):
        for targets in (0, lambda row: row[0]):
            if method is not CAM or targets == 0:
                assert method(Head(), "stage").coarse(x, targets).isfinite().all()
