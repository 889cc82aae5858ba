"""What a step does to a network, against steps written out with torch alone."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastcam import models
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.training import Settings
from fastcam.training.group import Group
from fastcam.training.loading import Batch
from fastcam.training.network import Trainee

ALONE = Group(0, 1, torch.device("cpu"))
CONFIG = ModelConfig("shufflenet_v2_x0_5", 3, size=32)


def rows(given: Batch) -> Batch:
    """The same pictures with any number of classes each."""
    return Batch(given.frames, torch.from_numpy(np.random.default_rng(9).random((len(given.labels), 3)) < 0.5).float())


def batch(count: int, seed: int = 0) -> Batch:
    random = np.random.default_rng(seed)
    frames = torch.from_numpy(random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
    return Batch(frames, torch.from_numpy(random.integers(0, 3, count)))


def inputs(given: Batch) -> torch.Tensor:
    return Preprocess.of(CONFIG).normalize(given.frames)


def trainee(config: ModelConfig = CONFIG, total: int = 10, per_epoch: int = 5, **values) -> Trainee:
    torch.manual_seed(0)
    settings = Settings.of(None, {"lr": 0.1, "optimizer": "sgd", "momentum": 0, "weight_decay": 0} | values)
    return Trainee(config, settings, ALONE, per_epoch, total)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint of the tiny network for four classes, whose BatchNorm statistics are not the initial ones."""
    torch.manual_seed(5)
    model = models.build(CONFIG.arch, 4)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2)
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    models.save_checkpoint(path, model, ModelConfig(CONFIG.arch, 4))
    return path


def test_a_step_is_torchs() -> None:
    # SqueezeNet has no BatchNorm, which makes rounding errors of tiny maps large.
    values = {"lr": 0.01, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01, "label_smoothing": 0.1}
    learning = trainee(ModelConfig("squeezenet1_1", 3, size=32), schedule="constant", **values)
    model = copy.deepcopy(learning.model)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9, weight_decay=0.01, nesterov=True)
    learning.train()
    for step in range(3):
        given = batch(6, step)
        torch.manual_seed(step)  # of dropout
        sums = learning.step([given], 6)
        torch.manual_seed(step)
        logits = model.train()(inputs(given).contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, given.labels, label_smoothing=0.1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted = [6 * loss.item(), (logits.argmax(1) == given.labels).sum().item(), 6]
        torch.testing.assert_close(sums, torch.tensor(wanted, dtype=torch.float64), rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(learning.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


WEIGHTS = (0.5, 2.0, 3.0)
LOSSES = {
    "cross-entropy": lambda x, y, w: torch.nn.CrossEntropyLoss(weight=w, reduction="none")(x, y).mean(),
    "bce": lambda x, y, w: torch.nn.BCEWithLogitsLoss(pos_weight=w)(x, y),
    "multilabel-soft-margin": lambda x, y, w: torch.nn.MultiLabelSoftMarginLoss(weight=w)(x, y),
}


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_are_torchs(loss, weights) -> None:
    config = ModelConfig("squeezenet1_1", 3, size=32)
    learning = trainee(config, schedule="constant", loss=loss, class_weights=weights)
    model, given = copy.deepcopy(learning.model).eval(), batch(7)
    given = given if loss == "cross-entropy" else rows(given)
    learning.model.eval()  # without dropout
    sums = learning.step([given], 7)
    logits = model(inputs(given))
    wanted = LOSSES[loss](logits, given.labels, None if weights is None else torch.tensor(weights))
    wanted.backward()
    assert sums[0].item() / 7 == pytest.approx(wanted.item(), rel=1e-5)
    right = (
        logits.argmax(1) == given.labels if loss == "cross-entropy" else ((logits > 0) == given.labels.bool()).all(1)
    )
    assert sums[1:].tolist() == [right.sum().item(), 7]
    for now, before in zip(learning.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(now, before - 0.1 * before.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_test_has_the_plain_loss_and_all_logits(loss) -> None:
    learning = trainee(loss=loss, class_weights=WEIGHTS)
    given = [batch(count, count) if loss == "cross-entropy" else rows(batch(count, count)) for count in (4, 3)]
    tested = learning.test(given)
    with torch.inference_mode():
        logits = torch.cat([learning.model(inputs(part)) for part in given])
    labels = torch.cat([part.labels for part in given])
    assert tested.sums[0].item() / 7 == pytest.approx(LOSSES[loss](logits, labels, None).item(), rel=1e-5)
    if loss == "cross-entropy":
        assert tested[1:] == (None, None)
    else:
        torch.testing.assert_close(tested.logits, logits, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(tested.targets, labels)
        assert learning.test([]).logits.shape == (0, 3)


@pytest.mark.parametrize("loss", ["cross-entropy", "bce"])
def test_parts_of_a_batch_give_its_gradient(loss) -> None:
    # BatchNorm would see each part alone; dropout is switched off.
    config = ModelConfig("squeezenet1_1", 3, size=32)
    whole, parts = (trainee(config, schedule="constant", loss=loss) for _ in range(2))
    given = batch(7) if loss == "cross-entropy" else rows(batch(7))
    for learning, cut in ((whole, [7]), (parts, [3, 2, 2])):
        learning.model.eval()
        learning.step([Batch(*pair) for pair in zip(*(part.split(cut) for part in given), strict=True)], 7)
    for a, b in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_frozen_features_stay_to_the_bit(weights) -> None:
    learning = trainee(weights=str(weights), freeze="features")
    before = copy.deepcopy(learning.model.state_dict())
    learning.train()
    learning.step([batch(6)], 6)
    changed = {name for name, value in learning.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert learning.model.training
    assert not any(module.training for module in learning.model.conv1.modules())
    loaded, _ = models.load_checkpoint(weights)
    for name, value in loaded.state_dict().items():
        if not name.startswith("fc."):
            torch.testing.assert_close(learning.model.state_dict()[name], value, rtol=0, atol=0)


def test_a_classifier_for_the_same_classes_is_trained_all_the_same(weights) -> None:
    learning = trainee(ModelConfig(CONFIG.arch, 4, size=32), weights=str(weights), freeze="features")
    assert learning.given == {name for name, _ in learning.model.named_parameters()}
    assert [name for name, p in learning.model.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]


def test_nothing_left_to_train_is_refused(tmp_path) -> None:
    path = tmp_path / "weights.safetensors"
    models.save_checkpoint(path, models.build("nin", 3), ModelConfig("nin", 3))
    values = {"weights": str(path), "freeze": "features", "arch": "nin"}
    with pytest.raises(ValueError, match="nothing of nin is left to train"):
        trainee(ModelConfig("nin", 3), **values)
    trainee(ModelConfig("nin", 2), **values)  # its last convolution, one channel for each class, is new


def test_frozen_batchnorm_keeps_statistics_and_parameters(weights) -> None:
    learning = trainee(weights=str(weights), freeze_bn=True)
    norms = {
        f"{name}.{key}"
        for name, module in learning.model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for key in module.state_dict()
    }
    before = copy.deepcopy(learning.model.state_dict())
    learning.train()
    learning.step([batch(6)], 6)
    after = learning.model.state_dict()
    changed = {name for name in before if not torch.equal(after[name], before[name])}
    assert not changed & norms
    assert {"conv1.0.weight", "conv5.0.weight", "fc.weight"} <= changed


def test_fixed_statistics_leave_parameters_to_learn(weights) -> None:
    learning = trainee(weights=str(weights), freeze_statistics=True, schedule="constant")
    model, given = copy.deepcopy(learning.model).eval(), batch(6)
    learning.train()
    learning.step([given], 6)
    F.cross_entropy(model(inputs(given)), given.labels).backward()
    for name, value in learning.model.state_dict().items():
        if "running" in name or "tracked" in name:
            assert torch.equal(value, model.state_dict()[name]), name
    for now, before in zip(learning.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(now, before - 0.1 * before.grad, rtol=1e-3, atol=1e-5)


def test_frozen_layers_stay_to_the_bit(weights) -> None:
    learning = trainee(weights=str(weights), freeze_layers=("conv1", "stage2.0"))
    before = copy.deepcopy(learning.model.state_dict())
    learning.train()
    learning.step([batch(6)], 6)
    same = {name for name, value in learning.model.state_dict().items() if torch.equal(value, before[name])}
    frozen = {name for name in before if name.startswith(("conv1.", "stage2.0."))}
    assert frozen <= same
    assert not {name for name in same - frozen if name.endswith("weight")}
    with pytest.raises(ValueError, match="`freeze_layers`: shufflenet_v2_x0_5 has no layer 'stage22'; did you mean"):
        trainee(arch=CONFIG.arch, weights=str(weights), freeze_layers=("stage22",))


def test_new_layers_and_old_convolutions_have_their_own_pace(weights) -> None:
    learning = trainee(weights=str(weights), freeze_bn=True, new_lr=10, conv_gradients=0.5, schedule="constant")
    model = copy.deepcopy(learning.model)
    given = batch(6)
    learning.train()
    learning.step([given], 6)
    F.cross_entropy(model.eval()(inputs(given)), given.labels).backward()
    parts = dict(model.named_modules())
    for (name, now), before in zip(learning.model.named_parameters(), model.parameters(), strict=True):
        if not before.requires_grad:
            continue
        rate = 1.0 if name.startswith("fc.") else 0.05
        assert name.startswith("fc.") or isinstance(parts[name.rpartition(".")[0]], nn.Conv2d)
        torch.testing.assert_close(now, before - rate * before.grad, rtol=1e-3, atol=1e-5)


def test_layers_that_to_gap_adds_are_new(tmp_path) -> None:
    torch.manual_seed(1)
    whole = models.build("alexnet")
    torch.save(whole.state_dict(), tmp_path / "alexnet.pt")
    model, given = models.start_from(tmp_path / "alexnet.pt", "alexnet*-tap", 5)
    trunk = [f"features.{layer}.{part}" for layer in (0, 3, 6, 8, 10) for part in ("weight", "bias")]
    assert sorted(given) == sorted(trunk)
    state = whole.state_dict()
    for name in trunk:
        torch.testing.assert_close(model.state_dict()[name], state[name], rtol=0, atol=0)
    assert model.classifier.weight.shape == (5, 1024)
    with pytest.raises(ValueError, match="do not fit ShuffleNetV2"):
        models.start_from(tmp_path / "alexnet.pt", CONFIG.arch, 5)


SCHEDULES = {
    "multistep": (
        {"schedule": "multistep", "milestones": (1, 3), "gamma": 0.2},
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 15], 0.2),
    ),
    "multistep in steps": (
        {"schedule": "multistep", "milestones": (4, 7), "steps": 20},
        lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [4, 7], 0.1),
    ),
    "cosine": ({"schedule": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)),
    "poly": (
        {"schedule": "poly", "power": 0.9},
        lambda o: torch.optim.lr_scheduler.PolynomialLR(o, total_iters=20, power=0.9),
    ),
    "constant": ({"schedule": "constant"}, lambda o: torch.optim.lr_scheduler.ConstantLR(o, 1)),
    "warm-up": (
        {"schedule": "constant", "warmup": 2.0},
        lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, 1, 9),
    ),
    "onecycle": (
        {"schedule": "onecycle"},
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=20, pct_start=0.1),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_torchs(name) -> None:
    values, make = SCHEDULES[name]
    learning = trainee(total=20, **values, **({"momentum": 0.9} if name == "onecycle" else {}))
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1, 0.9)
    schedule = make(optimizer)
    for _ in range(20):
        assert learning.schedule.get_last_lr()[0] == pytest.approx(schedule.get_last_lr()[0], rel=1e-9, abs=1e-15)
        learning.optimizer.step()
        learning.schedule.step()
        optimizer.step()
        schedule.step()


def test_warm_up_and_cosine_go_together() -> None:
    learning = trainee(total=20, schedule="cosine", warmup=1.0)
    rates = []
    for _ in range(20):
        rates.append(learning.schedule.get_last_lr()[0])
        learning.optimizer.step()
        learning.schedule.step()
    wanted = [0.1 * min(1, (s + 1) / 5) * (1 + math.cos(math.pi * max(0, s - 5) / 15)) / 2 for s in range(20)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-12)


def test_the_moving_average_is_that() -> None:
    learning = trainee(ema=0.75, schedule="constant")
    learning.train()
    average = None
    for step in range(3):
        learning.step([batch(4, step)], 4)
        now = {name: value.clone() for name, value in learning.model.state_dict().items() if value.is_floating_point()}
        average = now if average is None else {name: 0.75 * average[name] + 0.25 * now[name] for name in now}
    for name, value in average.items():
        torch.testing.assert_close(learning.tested.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    assert learning.tested is not learning.model


def test_bfloat16_is_near_and_float16_needs_a_gpu() -> None:
    sums = []
    for precision in ("fp32", "bf16"):
        learning = trainee(precision=precision)
        learning.train()
        sums.append(learning.step([batch(8)], 8)[0].item())
        assert all(parameter.dtype == torch.float32 for parameter in learning.model.parameters())
    assert sums[0] != sums[1]
    assert sums[1] == pytest.approx(sums[0], rel=0.03)
    with pytest.raises(ValueError, match="needs a CUDA device"):
        trainee(precision="fp16")


def test_the_compiled_network_takes_the_steps(monkeypatch) -> None:
    compile, compiled = torch.compile, []

    def eager(module: nn.Module) -> nn.Module:
        compiled.append(module)
        return compile(module, backend="eager")  # a C++ compiler's minute is not what is tested

    monkeypatch.setattr(torch, "compile", eager)
    losses = []
    for value in (False, True):
        learning = trainee(compile=value)
        learning.train()
        losses.append([learning.step([batch(4, step)], 4)[0].item() for step in range(2)])
    assert compiled == [learning.model]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_layout_of_the_convolutions() -> None:
    for value in (True, False):
        weight = trainee(channels_last=value).model.conv1[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is value
