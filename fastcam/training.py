"""Training: one loop, from a folder of class folders or the drawn shapes to a checkpoint and its curve."""

import json
import math
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fastcam import models, visualize
from fastcam.data import Dataset
from fastcam.data.folder import read_folder
from fastcam.data.shapes import Shapes
from fastcam.decoding import Preprocess, quiet_pillow
from fastcam.models import ModelConfig
from fastcam.writers import replacing


class TrainingResult(NamedTuple):
    """What a training left behind.

    Attributes:
        best: checkpoint of the epoch with the highest test accuracy.
        last: checkpoint of the last epoch.
        curve: the training graph, PNG.
        metrics: one JSON object per epoch and line.
        history: the same as dictionaries: epoch (from 1), learning_rate, and train_loss, train_accuracy, test_loss and
            test_accuracy (accuracies in [0, 1]; those of training are means over the epoch, while weights change).
        config: the configuration in the checkpoints.
    """

    best: Path
    last: Path
    curve: Path
    metrics: Path
    history: list[dict[str, float]]
    config: ModelConfig


def train(
    data: str | os.PathLike[str] | tuple[Dataset, Dataset],
    *,
    out: str | os.PathLike[str],
    arch: str = "resnet18",
    weights: str | os.PathLike[str] | None = None,
    output_stride: int | None = None,
    size: int = 224,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float | None = None,
    weight_decay: float = 0.05,
    seed: int = 0,
    device: str | torch.device | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a torchvision network to classify pictures.

    AdamW with a one-cycle learning rate; pictures are squashed to size x size and mirrored at random. After each
    epoch the network is tested, and `out` gets last.safetensors, best.safetensors (highest test accuracy, the earlier
    where they tie), metrics.jsonl and training.png. Each file is replaced in one step, so that breaking off leaves
    the last finished epoch. On a CPU, the same seed and number of threads give the same weights.

    Args:
        data: a folder (see `fastcam.data.folder.read_folder`), "shapes" for the drawn data set (`fastcam.data.shapes`,
            3,000 pictures; "./shapes" is a folder), or a pair of data sets: to train on, to test on.
        out: folder for the results.
        arch: torchvision's name of the network.
        weights: file to start from, a checkpoint, or plain weights of that network for ImageNet's 1,000 classes. A
            classifier for another number of classes begins anew. None starts from random weights.
        output_stride: see `fastcam.models.build`; 16 or 8 give ResNets a finer map.
        size: side of the network's square input in pixels.
        epochs: passes over the training pictures.
        batch_size: pictures per step, at least 2.
        lr: highest learning rate; by default 1e-3 from random weights and 1e-4 from given ones.
        weight_decay: of AdamW.
        seed: of the weights, the order of the pictures and the mirroring.
        device: where the network runs; by default on a CUDA device if there is one, else on the CPU.
        overwrite: replace an earlier training in `out`; by default that is an error.
        progress: show progress bars where standard error is a terminal.

    Returns:
        Paths and history.

    Raises:
        FileNotFoundError: no such folder or file of weights.
        FileExistsError: `out` has a training already and `overwrite` is not set.
        TypeError: data of another kind.
        ValueError: unknown network (similar names are listed), unfit data or weights, an option out of range;
            `DecodeError` for a damaged picture, which is named.
        FloatingPointError: the loss became infinite or NaN; the checkpoints of the epochs before stay.
    """
    for name, value, least in (("epochs", epochs, 1), ("batch_size", batch_size, 2), ("size", size, 1)):
        if not isinstance(value, int) or value < least:
            raise ValueError(f"`{name}` must be a whole number of at least {least}, got {value!r}")
    lr = lr if lr is not None else 1e-3 if weights is None else 1e-4
    if not (math.isfinite(lr) and lr > 0):
        raise ValueError(f"`lr` must be a positive number, got {lr!r}")
    train_data, test_data = _datasets(data)
    names = tuple(train_data.class_names)
    config = ModelConfig(arch, len(names), output_stride, names, size)
    out = Path(out)
    best, last, metrics, curve = (
        out / name for name in ("best.safetensors", "last.safetensors", "metrics.jsonl", "training.png")
    )
    if last.exists() and not overwrite:
        raise FileExistsError(f"{last} exists already: choose another folder, or allow to overwrite it")

    history: list[dict[str, float]] = []
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    generators = torch.random.fork_rng([] if device.type == "cpu" else [device], device_type=device.type)
    with generators, quiet_pillow(), ThreadPoolExecutor(min(8, os.cpu_count() or 1), "fastcam-read") as pool:
        torch.manual_seed(seed)
        model = _network(config, weights).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters(), lr, weight_decay=weight_decay, fused=True)
        steps = len(_split(torch.arange(len(train_data)), batch_size))
        # A tenth of all steps, but not just one: torch divides by the number of the last warm-up step.
        total = epochs * steps
        warm_up = min(0.75, max(0.1, 1.5 / total))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=total, pct_start=warm_up)
        reader = _Reader(Preprocess.of(config), pool, device)
        out.mkdir(parents=True, exist_ok=True)
        for epoch in range(1, epochs + 1):
            entry = {"epoch": epoch, "learning_rate": schedule.get_last_lr()[0]}
            with tqdm(
                total=len(train_data), desc=f"epoch {epoch}/{epochs}", unit="img", disable=None if progress else True
            ) as bar:
                order = _split(torch.randperm(len(train_data)), batch_size)
                entry |= _train_epoch(model, reader.batches(train_data, order), optimizer, schedule, bar)
                order = torch.arange(len(test_data)).split(batch_size)
                entry |= _test(model, reader.batches(test_data, order))
                bar.set_postfix_str(
                    f"loss {entry['train_loss']:.3f}, accuracy {entry['train_accuracy']:.1%}, "
                    f"test accuracy {entry['test_accuracy']:.1%}"
                )
            models.save_checkpoint(last, model, config)
            if not history or entry["test_accuracy"] > max(past["test_accuracy"] for past in history):
                models.save_checkpoint(best, model, config)
            history.append(entry)
            with replacing(metrics) as partial:
                partial.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
            visualize.training_curve(history, curve)
    return TrainingResult(best, last, curve, metrics, history, config)


def _train_epoch(
    model: nn.Module,
    batches: Iterator[tuple[Tensor, Tensor]],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    bar: tqdm,
) -> dict[str, float]:
    model.train()
    seen, loss_sum, correct = 0, 0.0, 0
    for images, labels in batches:
        mirrored = torch.rand(len(images)) < 0.5
        images = torch.where(mirrored[:, None, None, None].to(images.device), images.flip(3), images)
        logits = model(images.contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits, labels)
        _check_loss(loss.item(), f"after {seen} pictures of an epoch, at learning rate {schedule.get_last_lr()[0]:.2g}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        seen += len(labels)
        loss_sum += loss.item() * len(labels)
        correct += (logits.argmax(1) == labels).sum().item()
        bar.update(len(labels))
        bar.set_postfix_str(f"loss {loss_sum / seen:.3f}, accuracy {correct / seen:.1%}")
    return {"train_loss": loss_sum / seen, "train_accuracy": correct / seen}


@torch.inference_mode()
def _test(model: nn.Module, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
    model.eval()
    seen, loss_sum, correct = 0, 0.0, 0
    for images, labels in batches:
        logits = model(images.contiguous(memory_format=torch.channels_last))
        seen += len(labels)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += (logits.argmax(1) == labels).sum().item()
    _check_loss(loss_sum, "in the test after an epoch")
    return {"test_loss": loss_sum / seen, "test_accuracy": correct / seen}


def _check_loss(loss: float, when: str) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} {when}: lower the learning rate; the checkpoints of the epochs before stay"
        )


class _Reader(NamedTuple):
    """Reads and resizes pictures in threads, one batch ahead of the network."""

    preprocess: Preprocess
    pool: ThreadPoolExecutor
    device: torch.device

    def batches(self, data: Dataset, order: Sequence[Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
        """Give images [B, 3, size, size] and labels [B] for each tensor of indices."""

        def read(index: int) -> tuple[np.ndarray, int]:
            sample = data[index]
            if sample.label is None or not 0 <= sample.label < len(data.class_names):
                raise ValueError(f"sample {index} has label {sample.label}, none of {len(data.class_names)} classes")
            return self.preprocess.frame(sample.image)[0], sample.label

        ahead: deque[list[Future]] = deque()
        for indices in (*order, None):
            if indices is not None:
                ahead.append([self.pool.submit(read, index) for index in indices.tolist()])
            if indices is None or len(ahead) > 1:
                frames, labels = zip(*(future.result() for future in ahead.popleft()), strict=True)
                images = self.preprocess.normalize(torch.from_numpy(np.stack(frames)).to(self.device))
                yield images, torch.tensor(labels, device=self.device)


def _split(order: Tensor, batch_size: int) -> Sequence[Tensor]:
    """Cut an order into batches; a single picture left over sits the epoch out: BatchNorm cannot train on it."""
    return order[: len(order) - (len(order) % batch_size == 1)].split(batch_size)


def _datasets(data: str | os.PathLike[str] | tuple[Dataset, Dataset]) -> tuple[Dataset, Dataset]:
    if data == "shapes":
        return Shapes("train", 3000), Shapes("val", 400)
    if isinstance(data, str | os.PathLike):
        return read_folder(data)
    if not (isinstance(data, tuple) and len(data) == 2):
        raise TypeError(f'`data` must be a folder, "shapes" or a pair of data sets, got {type(data).__name__}')
    for name, part in zip(("train on", "test on"), data, strict=True):
        if len(part) < 2:
            raise ValueError(f"the data set to {name} must have at least two pictures, got {len(part)}")
    if tuple(data[0].class_names) != tuple(data[1].class_names) or len(data[0].class_names) < 2:
        raise ValueError(
            "the data sets to train and to test on must have the same two or more classes, got "
            f"{list(data[0].class_names)} and {list(data[1].class_names)}"
        )
    return data


def _network(config: ModelConfig, weights: str | os.PathLike[str] | None) -> nn.Module:
    model = models.build(config.arch, config.num_classes, config.output_stride)
    if weights is None:
        return model
    saved = models.read_config(weights)
    if saved is not None and saved.arch != config.arch:
        raise ValueError(f"{weights} is a checkpoint of {saved.arch}, not of {config.arch}")
    # Built with the classes that the weights are for; what depends on their number keeps its random start.
    source = models.build(config.arch, 1000 if saved is None else saved.num_classes)
    models.load_weights(source, weights)
    state = model.state_dict()
    state |= {key: value for key, value in source.state_dict().items() if value.shape == state[key].shape}
    model.load_state_dict(state)
    return model
