"""Records of a training: progress bar, metrics.jsonl, TensorBoard, the training graph, and where its time went."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import torch
from tqdm import tqdm

from fastcam import drawing
from fastcam._files import replacing
from fastcam._progress import progress_bar

_EVERY = 20  # steps between TensorBoard's scalars within an epoch


class Spent(NamedTuple):
    """Seconds of an epoch's steps, of them those of waiting for data and of computing, and pictures trained on."""

    seconds: float = 0.0
    data: float = 0.0
    compute: float = 0.0
    pictures: float = 0


class Clock:
    """Divides the time of an epoch's steps into waiting for data, computing, and the rest.

    On a GPU computing is what the device itself measures between a step's first and last kernel; waiting for data
    counts only as far as the device stood still. `before` was spent on a part of the epoch by an earlier process.
    """

    def __init__(self, device: torch.device, before: Spent) -> None:
        self._before, self._cuda = before, device.type == "cuda"
        self._start, self._waited, self._computed, self._pictures = time.perf_counter(), 0.0, 0.0, 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Measure a wait for data."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def computing(self, pictures: int) -> Iterator[None]:
        """Measure a step of so many pictures, of all processes together."""
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
    def spent(self) -> Spent:
        """Up to now, with what was spent before; waits for the GPU."""
        for start, end in self._events:
            end.synchronize()
            self._computed += start.elapsed_time(end) / 1000
        self._events.clear()
        total = time.perf_counter() - self._start
        data = min(self._waited, max(0.0, total - self._computed))
        now = Spent(total, data, self._computed, self._pictures)
        return Spent(*(a + b for a, b in zip(self._before, now, strict=True)))


class Records:
    """Writes metrics.jsonl, training.png and tensorboard/ in `out`, and shows a bar. Used in a `with` block.

    Only the first process is `active`. `step` is the number of steps done before, when a training is resumed.

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
        """Show a bar for an epoch, of whose pictures some are done, with so many pictures in the epochs after it."""
        with progress_bar(
            self._progress,
            total=pictures,
            initial=done,
            desc=f"epoch {number}/{epochs}",
            unit="img",
        ) as self._bar:
            self._ahead = ahead
            yield

    def step(self, step: int, pictures: int, figures: Mapping[str, float]) -> None:
        """Move the bar by the pictures since the last call; every `_EVERY` steps, give TensorBoard the figures.

        Loss and the share of right answers are means of the epoch up to now, the learning rate is the next step's.
        """
        bar = self._bar
        if not bar.disable:
            shown = bar.format_dict
            rate = (shown["n"] + pictures - shown["initial"]) / max(shown["elapsed"], 1e-9)
            left = tqdm.format_interval((shown["total"] - shown["n"] - pictures + self._ahead) / rate)
            bar.set_postfix_str(f"{_shown(figures)}, {left} left in all", refresh=False)
            bar.update(pictures)
        if step % _EVERY == 0:
            self._scalars(step, figures, "step/")

    def close_epoch(self, history: Sequence[Mapping[str, float]]) -> None:
        """Write the figures of all epochs, the new one last, to the files and TensorBoard."""
        entry = history[-1]
        trained, tested = (
            {name.removeprefix(part): value for name, value in entry.items() if name.startswith(part)}
            for part in ("train_", "test_")
        )
        first = next(name for name in ("mAP", "accuracy") if name in tested)
        self._bar.set_postfix_str(f"{_shown(trained)}, test {_shown({first: tested[first]})}")
        with replacing(self.metrics) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in history), encoding="utf-8")
        drawing.training_curve(history, self.curve)
        self._scalars(
            int(entry["step"]), {name: value for name, value in entry.items() if name not in ("epoch", "step")}
        )

    def _scalars(self, step: int, figures: Mapping[str, float], prefix: str = "") -> None:
        if self._board is not None:
            for name, value in figures.items():
                self._board.add_scalar(prefix + name, value, step)


def _shown(figures: Mapping[str, float]) -> str:
    """Figures as a bar has them: the loss as it is, shares in percent."""
    parts = [f"loss {value:.3f}" for name, value in figures.items() if name == "loss"]
    shares = ("accuracy", "exact_match", "mAP")
    parts += [f"{name.replace('_', ' ')} {value:.1%}" for name, value in figures.items() if name in shares]
    return ", ".join(parts)
