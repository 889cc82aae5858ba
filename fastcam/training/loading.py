"""Pictures to batches: decoded ahead in threads or processes, augmented alike whoever does it, in whatever order."""

import multiprocessing
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset as ByKey

from fastcam.data import Dataset, Pictures, read_for
from fastcam.pictures import Pixels, Preprocess, Samples
from fastcam.pictures.frame import resized, size_of
from fastcam.pictures.stream import count_threads, stream
from fastcam.training.labels import target_of
from fastcam.training.settings import Settings

# Streams of random numbers: what is drawn for one purpose says nothing about another.
_ORDER, _AUGMENTATION = 1, 2


@dataclass(frozen=True, slots=True)
class Key:
    """Which picture, and what for.

    Attributes:
        epoch: from 1, in which it is trained on; 0 for a picture to test on.
        index: its place in the data set.
    """

    epoch: int
    index: int


class Batch(NamedTuple):
    """Pictures and labels on the CPU.

    Attributes:
        frames: [B, size, size, C], see `fastcam.pictures.Preprocess.frame`.
        labels: int64 [B], a class each; or where the loss takes several float32 [B, C] of 0 and 1.
    """

    frames: Tensor
    labels: Tensor


def count_steps(pictures: int, settings: Settings, world: int) -> int:
    """How many steps an epoch has of so many pictures to train on, by `world` processes.

    A last step that would give a process fewer than two pictures, which BatchNorm cannot train on, is left out.
    """
    whole, rest = divmod(pictures, settings.batch_size)
    return whole + (rest >= 2 * world)


def steps(
    epoch: int, pictures: int, settings: Settings, rank: int = 0, world: int = 1
) -> Iterator[tuple[int, list[list[Key]]]]:
    """Plan an epoch, counted from 1: the same order of pictures in the same steps, however many processes share them.

    For each step the number of pictures in it, of all processes together, and the parts of the process `rank` of it.
    """
    order = np.random.default_rng((_ORDER, settings.seed, epoch)).permutation(pictures)
    for step in range(count_steps(pictures, settings, world)):
        batch = order[step * settings.batch_size :][: settings.batch_size]
        parts = min(settings.accumulate, len(batch) // (2 * world))
        own = np.array_split(batch, world * parts)[rank * parts : (rank + 1) * parts]
        yield len(batch), [[Key(epoch, index) for index in part.tolist()] for part in own]


Target = int | np.ndarray  # of one picture, see labels.py


class Reader(ByKey[tuple[np.ndarray, Target] | Exception]):
    """Reads, resizes and augments pictures by key; the same key always gives the same frame."""

    def __init__(self, train: Dataset, test: Dataset, settings: Settings, preprocess: Preprocess) -> None:
        # Boxes and masks are not looked at, whatever is wrong with them.
        self.train, self.test = (
            read_for(data.labelled() if isinstance(data, Pictures) else data, preprocess.reading)
            for data in (train, test)
        )
        self.settings, self.preprocess = settings, preprocess
        self.classes = len(train.class_names)
        self.kept: dict[tuple[bool, int], tuple[np.ndarray, Target]] = {}

    def __getitem__(self, key: Key) -> tuple[np.ndarray, Target] | Exception:
        """One picture's frame, [size, size, C], and target.

        Or the error that it raised, since processes cannot hand on every exception as it was.
        """
        try:
            frame, target = self._resized(key.epoch > 0, key.index)
        except Exception as error:
            return error
        return (self._augmented(frame, key) if key.epoch else frame), target

    def _resized(self, training: bool, index: int) -> tuple[np.ndarray, Target]:
        if (training, index) in self.kept:
            return self.kept[training, index]
        sample = (self.train if training else self.test)[index]
        target = target_of(sample, index, self.classes, self.settings.multi_label)
        if training and self.settings.crop == "random":
            frame = self._larger(self.preprocess.taken(sample.image))
        elif training and self.settings.crop == "scaled":
            image = self.preprocess.taken(sample.image)
            frame = image.values if isinstance(image, Samples) else np.asarray(image)
        else:
            frame = self.preprocess.frame(sample.image)[0]
        if self.settings.cache:
            self.kept[training, index] = frame, target
        return frame, target

    def _larger(self, image: Pixels | None) -> np.ndarray:
        """The whole picture as it is before a part of it is chosen."""
        side = width = height = round(self.settings.size * 256 / 224)
        if self.settings.resize == "crop":
            short = min(size := size_of(image))
            width, height = (int(side * length / short) for length in size)
        return resized(image, (width, height))

    def _augmented(self, frame: np.ndarray, key: Key) -> np.ndarray:
        settings = self.settings
        random = np.random.default_rng((_AUGMENTATION, settings.seed, key.epoch, key.index))
        if settings.crop == "padded":
            frame = np.pad(frame, ((settings.padding,) * 2, (settings.padding,) * 2, (0, 0)))
        if settings.crop == "scaled":
            frame = self._scaled(frame, random)
        else:
            top, left = (int(random.integers(length - settings.size + 1)) for length in frame.shape[:2])
            frame = frame[top : top + settings.size, left : left + settings.size]
        return frame[:, ::-1] if settings.flip and random.random() < 0.5 else frame

    def _scaled(self, picture: np.ndarray, random: np.random.Generator) -> np.ndarray:
        """A random part of a picture in a random scale, at a random place where it is smaller than the frame."""
        side, (height, width) = self.settings.size, picture.shape[:2]
        scale = int(random.integers(self.settings.long_side[0], self.settings.long_side[1] + 1)) / max(height, width)
        size = tuple(max(1, round(length * scale)) for length in (width, height))
        # How far the picture begins before the frame (positive) or after, in x and y.
        left, top = (int(random.integers(abs(length - side) + 1)) * (1 if length > side else -1) for length in size)
        right, bottom = (min(begin + side, length) for begin, length in zip((left, top), size, strict=True))
        whole: Pixels = picture if self.preprocess.reading.plain else Samples(picture)
        part = resized(whole, size, (max(left, 0), max(top, 0), right, bottom))
        frame, mean = self.preprocess.blank(1)[0], np.array(self.preprocess.mean)
        # What normalisation brings nearest to zero.
        frame[:] = np.rint(255 * mean) if frame.dtype == np.uint8 else mean
        x, y = max(-left, 0), max(-top, 0)
        frame[y : y + part.shape[0], x : x + part.shape[1]] = part
        return frame


class Loader(Protocol):
    """Gives batches in the order of a plan, two of them read ahead. Made by `opened`."""

    def batches(self, plan: Iterable[list[Key]]) -> Iterator[Batch]:
        """Read the batches of these keys, into pinned memory where the network is on a GPU.

        What the data set raises for a picture, such as `DecodeError` for a damaged one, is raised in its batch's turn.
        """
        ...


@contextmanager
def opened(reader: Reader, device: torch.device) -> Iterator[Loader]:
    """Start the threads or processes that read for a network on `device`, for the time of a `with` block."""
    settings, pin = reader.settings, device.type == "cuda"
    workers = settings.workers or count_threads()
    if settings.worker_kind == "thread":
        yield _Threads(reader, workers, pin)
        return
    processes = _Processes(reader, workers, pin)
    try:
        yield processes
    finally:
        processes.close()


class _Threads:
    def __init__(self, reader: Reader, workers: int, pin: bool) -> None:
        self._reader, self._workers, self._pin = reader, workers, pin

    def batches(self, plan: Iterable[list[Key]]) -> Iterator[Batch]:
        one, frames = torch.from_numpy(self._reader.preprocess.blank(0)), deque[Tensor]()

        def places() -> Iterator[Iterable[tuple[np.ndarray, Key]]]:
            for keys in plan:
                frames.append(torch.empty((len(keys), *one.shape[1:]), dtype=one.dtype, pin_memory=self._pin))
                yield zip(frames[-1].numpy(), keys, strict=True)

        for labels in stream(places(), self._read, threads=self._workers):
            yield Batch(frames.popleft(), _stacked(labels))

    def _read(self, place: tuple[np.ndarray, Key]) -> Target:
        """Fill a picture's place in its batch; the target."""
        frame, key = place
        item = self._reader[key]
        if isinstance(item, Exception):
            raise item
        frame[:], target = item
        return target


class _Processes:
    def __init__(self, reader: Reader, workers: int, pin: bool) -> None:
        # Not forked from this process: it has threads, whose locks a copy would inherit. They are forked from one that
        # has imported what they need and done nothing.
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        self._plan = _Plan()
        self._loader: DataLoader[tuple[np.ndarray, Target] | Exception] | None = DataLoader(
            reader,
            batch_sampler=self._plan,
            num_workers=workers,
            collate_fn=_collate,
            pin_memory=pin,
            worker_init_fn=_start_worker,
            multiprocessing_context=context,
            generator=torch.Generator(),  # the network's dropout has the global one to itself
            prefetch_factor=2,
            persistent_workers=True,
        )

    def batches(self, plan: Iterable[list[Key]]) -> Iterator[Batch]:
        self._plan.plan = plan
        assert self._loader is not None, "closed"
        source = iter(self._loader)
        try:
            for batch in source:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            del source  # else the error's traceback would keep the processes alive

    def close(self) -> None:
        """Let go of the processes."""
        self._loader = None


class _Plan:
    """The batches that the workers are given next."""

    plan: Iterable[list[Key]] = ()

    def __iter__(self) -> Iterator[list[Key]]:
        return iter(self.plan)


def _start_worker(number: int) -> None:
    warnings.filterwarnings("ignore", module=r"PIL\.")


def _collate(items: list[tuple[np.ndarray, Target] | Exception]) -> Batch | Exception:
    good = [item for item in items if not isinstance(item, Exception)]
    if len(good) < len(items):
        return next(item for item in items if isinstance(item, Exception))
    frames, labels = zip(*good, strict=True)
    return Batch(torch.from_numpy(np.stack(frames)), _stacked(labels))


def _stacked(targets: Sequence[Target]) -> Tensor:
    """int64 [B] of classes, float32 [B, C] of rows."""
    return torch.from_numpy(np.array(targets))
