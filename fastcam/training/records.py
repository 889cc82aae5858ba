"""What a training tells: progress bar, metrics.jsonl, TensorBoard, the training graph, and where its time went."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from tqdm import tqdm

from fastcam import drawing
from fastcam._files import replacing

_EVERY = 20  # steps between TensorBoard's scalars within an epoch


class Clock:
    """Divides the time of an epoch's steps into waiting for data, computing, and the rest.

    On a GPU computing is what the device itself measures between a step's first and last kernel; waiting for data
    counts only as far as the device stood still.

    Args:
        device: where the network runs.
        before: seconds of a part of the epoch that an earlier process did: [all, data, compute, pictures].

    Attributes:
        spent: the same, up to now.
    """

    def __init__(self, device: torch.device, before: Sequence[float] = (0.0,) * 4) -> None:
        self._before, self._cuda = tuple(before), device.type == "cuda"
        self._start, self._waited, self._computed, self._pictures = time.perf_counter(), 0.0, 0.0, 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a wait for data.

        Yields:
            Nothing.
        """
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def computing(self, pictures: int) -> Iterator[None]:
        """Measure a step.

        Args:
            pictures: how many are in it, of all processes together.

        Yields:
            Nothing.
        """
        self._pictures += pictures
        if self._cuda:
            events = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            events[0].record()
            yield
            events[1].record()
            self._events.append(events)
        else:
            start = time.perf_counter()
            yield
            self._computed += time.perf_counter() - start

    @property
    def spent(self) -> tuple[float, float, float, float]:
        """Seconds in all, waiting for data and computing, and pictures; waits for the GPU."""
        for start, end in self._events:
            end.synchronize()
            self._computed += start.elapsed_time(end) / 1000
        self._events.clear()
        total = time.perf_counter() - self._start
        data = min(self._waited, max(0.0, total - self._computed))
        now = (total, data, self._computed, self._pictures)
        return tuple(a + b for a, b in zip(self._before, now, strict=True))


class Records:
    """Writes what is told. Used in a `with` block.

    Args:
        out: folder of metrics.jsonl, training.png and tensorboard/.
        active: whether this process is the first; others show and send nothing.
        progress: show bars where standard error is a terminal.
        tensorboard: write scalars for TensorBoard.
        step: steps done before, when a training is resumed.

    Raises:
        ImportError: TensorBoard is wanted and not installed.
    """

    def __init__(self, out: Path, active: bool, progress: bool, tensorboard: bool, step: int = 0) -> None:
        self.metrics, self.curve = out / "metrics.jsonl", out / "training.png"
        self._progress, self._board = progress and active, None
        if tensorboard and active:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ImportError(
                    'TensorBoard is not installed: pip install "fastcam[tensorboard]", or leave it out'
                ) from None
            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._board is not None:
            self._board.close()

    @contextmanager
    def epoch(self, number: int, epochs: int, done: int, pictures: int, ahead: int) -> Iterator[None]:
        """Show a bar for an epoch, in a `with` block.

        Args:
            number: of the epoch, from 1.
            epochs: how many there are.
            done: pictures of it trained on before.
            pictures: in it.
            ahead: pictures in the epochs after it.

        Yields:
            Nothing.
        """
        with tqdm(
            total=pictures,
            initial=done,
            desc=f"epoch {number}/{epochs}",
            unit="img",
            disable=None if self._progress else True,
        ) as self._bar:
            self._ahead = ahead
            yield

    def step(self, step: int, pictures: int, loss: float, accuracy: float, learning_rate: float) -> None:
        """Move the bar; every `_EVERY` steps, give TensorBoard the figures.

        Args:
            step: optimizer steps done.
            pictures: trained on since the last call.
            loss: mean of the epoch up to now.
            accuracy: likewise, in [0, 1].
            learning_rate: of the next step.
        """
        bar = self._bar
        if not bar.disable:
            shown = bar.format_dict
            rate = (shown["n"] + pictures - shown["initial"]) / max(shown["elapsed"], 1e-9)
            left = tqdm.format_interval((shown["total"] - shown["n"] - pictures + self._ahead) / rate)
            bar.set_postfix_str(f"loss {loss:.3f}, accuracy {accuracy:.1%}, {left} left in all", refresh=False)
            bar.update(pictures)
        if step % _EVERY == 0:
            self._scalars(step, {"loss": loss, "accuracy": accuracy, "learning_rate": learning_rate}, "step/")

    def close_epoch(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Write an epoch's figures to all places.

        Args:
            history: figures of each epoch, the new one last.

        Raises:
            OSError: a file cannot be written.
        """
        entry = history[-1]
        self._bar.set_postfix_str(
            f"loss {entry['train_loss']:.3f}, accuracy {entry['train_accuracy']:.1%}, "
            f"test accuracy {entry['test_accuracy']:.1%}"
        )
        with replacing(self.metrics) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
        drawing.training_curve(history, self.curve)
        self._scalars(entry["step"], {name: value for name, value in entry.items() if name not in ("epoch", "step")})

    def _scalars(self, step: int, figures: Mapping[str, float], prefix: str = "") -> None:
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(prefix + name, value, step)


def means(sums: Tensor) -> tuple[float, float]:
    """Turn sums into means.

    Args:
        sums: float64 [3]: losses, right answers, pictures.

    Returns:
        Mean loss, and accuracy in [0, 1].
    """
    loss, right, seen = sums.tolist()
    return loss / seen, right / seen
