"""The network in training: what of it learns, how fast, and all that a step changes."""

import bisect
import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from fastcam import models
from fastcam._check import suggest
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.training.group import Group
from fastcam.training.loading import Batch
from fastcam.training.settings import Settings

_HEADS = ("fc", "classifier", "head", "heads")  # where torchvision's and timm's networks keep their last layers
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class _Part(Protocol):
    """What has a state that steps change."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Means(NamedTuple):
    """Of some pictures: mean loss, and the share of right answers in [0, 1].

    Where pictures have several classes an answer is right if it is so for each class, at a score of 0.5.
    """

    loss: float
    accuracy: float


class Tested(NamedTuple):
    """What a test gave of a process's share.

    Attributes:
        sums: see `means`.
        logits: float32 [n, C] on the CPU, where the loss takes several classes a picture; else None.
        targets: as `Batch.labels`, beside them.
    """

    sums: Tensor
    logits: Tensor | None
    targets: Tensor | None


def means(sums: Tensor) -> Means:
    """Means of sums: float64 [3], losses, right answers, pictures."""
    loss, right, seen = sums.tolist()
    return Means(loss / seen, right / seen)


def highest_rate(settings: Settings) -> float:
    """The learning rate that the schedule does not exceed; given weights are changed in smaller steps."""
    return settings.lr or (1e-3 if settings.weights is None else 1e-4)


class Trainee:
    """A network (`model`) with its optimizer, schedule, gradient scaler and moving average.

    `given` are the names of the parameters that the weights gave; for a training that is resumed they are known, and
    the weights are not read again.

    Raises:
        FileNotFoundError: no such file of weights.
        ValueError: unfit network or weights, nothing left to train, or fp16 without a CUDA device.
    """

    def __init__(
        self,
        config: ModelConfig,
        settings: Settings,
        group: Group,
        steps_per_epoch: int,
        total_steps: int,
        given: frozenset[str] | None = None,
    ) -> None:
        if settings.precision == "fp16" and group.device.type != "cuda":
            raise ValueError('`precision="fp16"` needs a CUDA device; "bf16" works on any')
        self.config, self.settings, self.group = config, settings, group
        built = (config.arch, config.num_classes, config.output_stride, config.channels or 3)
        if settings.weights is None or given is not None:
            self.model, self.given = models.build(*built), given or frozenset()
        else:
            self.model, self.given = models.start_from(settings.weights, *built)
        _freeze(self.model, settings, self.given)
        if group.world > 1 and group.device.type == "cuda":
            self.model = nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        self._layout = torch.channels_last if settings.channels_last else torch.contiguous_format
        self.model.to(group.device).to(memory_format=self._layout)
        self.optimizer = _optimizer(self.model, settings, self.given)
        self.schedule = _schedule(self.optimizer, settings, steps_per_epoch, total_steps)
        self.scaler = torch.amp.GradScaler(group.device.type, enabled=settings.precision == "fp16")
        self.average: AveragedModel | None = None
        if settings.ema is not None:
            average = get_ema_multi_avg_fn(settings.ema)
            self.average = AveragedModel(self.model, multi_avg_fn=average, use_buffers=True)
        self._parallel: DistributedDataParallel | None = None
        if group.world > 1:
            ids = [group.device.index] if group.device.type == "cuda" else None
            self._parallel = DistributedDataParallel(self.model, device_ids=ids)
        forward: nn.Module = self._parallel or self.model
        self._forward: Any = torch.compile(forward) if settings.compile else forward
        self._preprocess = Preprocess.of(config)
        weights = settings.class_weights
        self._weights = torch.tensor(weights, device=group.device) if isinstance(weights, tuple) else None
        self._slowed = [
            parameter
            for name, parameter in self.model.named_parameters()
            if name in self.given and isinstance(self.model.get_submodule(name.rpartition(".")[0]), nn.Conv2d)
        ]

    @property
    def learning_rate(self) -> float:
        """Of the next step; where weights were given, it is the rate of these."""
        return float(self.schedule.get_last_lr()[0])

    @property
    def tested(self) -> nn.Module:
        """The network that is tested and saved: the moving average where there is one."""
        return self.model if self.average is None else self.average.module

    def train(self) -> None:
        """Go into training mode, but for what is frozen."""
        (self._parallel or self.model).train()
        for module in self.model.modules():
            parameters = list(module.parameters())
            still = self.settings.freeze == "features" or self.settings.freeze_layers
            fixed = self.settings.freeze_bn or self.settings.freeze_statistics
            if (still and parameters and not any(parameter.requires_grad for parameter in parameters)) or (
                fixed and isinstance(module, _BatchNorm)
            ):
                module.eval()

    def step(self, parts: Iterable[Batch], count: int) -> Tensor:
        """Take one step: the mean loss over the whole batch, of all processes, goes down its gradient.

        `parts` are this process's, `count` the pictures of all processes. Gives sums of this process, see `means`, on
        the network's device.
        """
        sums = torch.zeros(3, dtype=torch.float64, device=self.group.device)
        parts = list(parts)
        self.optimizer.zero_grad()
        for number, part in enumerate(parts, 1):
            images, labels = self._input(part)
            early = number < len(parts)  # gradients are averaged over processes with the last part only
            with self._parallel.no_sync() if self._parallel and early else nullcontext():
                with self._autocast():
                    logits = models.run(self._forward, images)
                loss = self._loss(logits.float(), labels)
                # Processes' gradients are averaged, so that their sum over `count` needs the factor.
                self.scaler.scale(loss * (self.group.world / count)).backward()
            sums += _sums(loss, logits, labels)
        if self.settings.conv_gradients != 1:
            for parameter in self._slowed:
                if parameter.grad is not None:
                    parameter.grad.mul_(self.settings.conv_gradients)
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= scale:  # else fp16 overflowed, and the step was left out
            self.schedule.step()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return sums

    @torch.inference_mode()
    def test(self, batches: Iterable[Batch]) -> Tested:
        """Classify this process's share without learning; sums as of `step`, of `tested` and the plain loss."""
        network = self.tested.eval()
        self.group.share_buffers(network)
        sums = torch.zeros(3, dtype=torch.float64, device=self.group.device)
        outputs, targets = [], []
        for batch in batches:
            images, labels = self._input(batch)
            with self._autocast():
                logits = models.run(network, images).float()
            sums += _sums(_plain_loss(logits, labels, self.settings.loss), logits, labels)
            if self.settings.multi_label:
                outputs.append(logits.cpu())
                targets.append(batch.labels)
        if not self.settings.multi_label:
            return Tested(sums, None, None)
        none = torch.zeros(0, self.config.num_classes)  # of a process that has no share
        return Tested(sums, torch.cat([none, *outputs]), torch.cat([none, *targets]))

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Collect all that steps change: the parts' state dictionaries."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        """Take over what `state_dict` gave, of a trainee with the same configuration and settings."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, _Part]:
        parts: dict[str, _Part] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "scaler": self.scaler,
        }
        return parts if self.average is None else parts | {"average": self.average}

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What is learnt from: the sum over pictures of the loss, with class weights and label smoothing."""
        weights, smoothing = self._weights, self.settings.label_smoothing
        if self.settings.loss == "cross-entropy":
            return F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=smoothing)
        return _plain_loss(logits, labels, self.settings.loss, weights)

    def _input(self, batch: Batch) -> tuple[Tensor, Tensor]:
        device = self.group.device
        images = self._preprocess.normalize(batch.frames.to(device, non_blocking=True))
        return images.contiguous(memory_format=self._layout), batch.labels.to(device, non_blocking=True)

    def _autocast(self) -> torch.autocast:
        dtype = _DTYPES[self.settings.precision]
        return torch.autocast(self.group.device.type, dtype, enabled=dtype != torch.float32)


def _plain_loss(logits: Tensor, labels: Tensor, loss: str, weights: Tensor | None = None) -> Tensor:
    """The sum over pictures of a loss, with a weight for each class, see `Settings.class_weights`."""
    if loss == "bce":
        every = F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights, reduction="none")
        return every.mean(1).sum()
    if loss == "multilabel-soft-margin":
        return F.multilabel_soft_margin_loss(logits, labels, weights, reduction="sum")
    return F.cross_entropy(logits, labels, weights, reduction="sum")


def _sums(loss: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """The sums that `means` takes."""
    each = (logits.argmax(1) == labels) if labels.dim() == 1 else ((logits > 0) == (labels > 0.5)).all(1)
    right = each.sum()
    return torch.stack([loss.detach().double(), right.double(), torch.full_like(right, len(labels)).double()])


def _freeze(model: nn.Module, settings: Settings, given: frozenset[str]) -> None:
    layers = dict(model.named_modules())
    for name in settings.freeze_layers:
        if not name or name not in layers:
            raise ValueError(f"`freeze_layers`: {settings.arch} has no layer {name!r}{suggest(name, layers)}")
        layers[name].requires_grad_(False)
    if settings.freeze == "features":
        for name, parameter in model.named_parameters():
            if name in given and name.split(".")[0] not in _HEADS:
                parameter.requires_grad_(False)
    if settings.freeze_bn:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(
            f"nothing of {settings.arch} is left to train: no part is called {', '.join(_HEADS)}, and the weights "
            'gave all of it; use `freeze="none"`'
        )


def _optimizer(model: nn.Module, settings: Settings, given: frozenset[str]) -> torch.optim.Optimizer:
    learning = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    parts = [[p for name, p in learning if (name in given) is old] for old in (True, False)]
    rate = highest_rate(settings)
    rates = (rate, rate * settings.new_lr)
    groups = [{"params": part, "lr": rate} for part, rate in zip(parts, rates, strict=True) if part]
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    return torch.optim.SGD(
        groups, momentum=settings.momentum, weight_decay=settings.weight_decay, nesterov=settings.nesterov
    )


def _schedule(
    optimizer: torch.optim.Optimizer, settings: Settings, steps_per_epoch: int, total_steps: int
) -> LRScheduler:
    if settings.schedule == "onecycle":
        # A tenth of all steps, but not just one: torch divides by the number of the last warm-up step.
        rise = min(0.75, max(0.1, 1.5 / total_steps))
        rates = [group["lr"] for group in optimizer.param_groups]
        cycle = settings.optimizer == "adamw" or settings.momentum > 0
        return OneCycleLR(optimizer, rates, total_steps=total_steps, pct_start=rise, cycle_momentum=cycle)
    unit = 1 if settings.steps else steps_per_epoch
    warmup = settings.warmup * unit
    milestones = [milestone * unit for milestone in settings.milestones]

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if settings.schedule == "cosine":
            done = min(1.0, max(0.0, (step - warmup) / max(1, total_steps - warmup)))
            return rise * (1 + math.cos(math.pi * done)) / 2
        if settings.schedule == "poly":
            return rise * max(0.0, 1 - step / total_steps) ** settings.power
        if settings.schedule == "multistep":
            return rise * settings.gamma ** bisect.bisect_right(milestones, step)
        return rise

    return LambdaLR(optimizer, factor)
