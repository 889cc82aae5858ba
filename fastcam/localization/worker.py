"""One process at work: pictures are decoded in threads, go through the network in batches, and rows to the disk."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from torch import nn

from fastcam.localization.inputs import FileInput, Input
from fastcam.localization.network import Drawn, Inference, Prepared, failed
from fastcam.localization.plan import Mark, Plan
from fastcam.methods.cautions import quiet_methods
from fastcam.pictures import (
    Decoded,
    DecodeError,
    Encoded,
    Pixels,
    as_rgb,
    decode,
    quiet_pillow,
    read,
    read_encoded,
    read_part,
)
from fastcam.pictures.stream import batched, stream
from fastcam.runs.schema import Row

_THUMBNAIL = 512  # longer side of a picture in an overlay, in pixels

OnDone = Callable[[int, Mark], object]
OnPictures = Callable[[int], object]


class _Job(NamedTuple):
    """An input of a shard."""

    shard: int
    entry: Input


class Worker:
    """Computes shards of a plan in this process. Used in a `with` block, which leaves the model as it was.

    Decoding goes on ahead of the network, over the ends of shards, by at most two batches; parts are written in a
    thread of their own. So memory holds three batches and two shards' rows, however many pictures there are.

    Args:
        plan: the run.
        model: the network, on its device.
        decoding_threads: by default one for each processor, at most 8.

    Raises:
        TypeError, ValueError: an option of the method is wrong.
    """

    def __init__(self, plan: Plan, model: nn.Module, *, decoding_threads: int | None = None) -> None:
        self.plan = plan
        self.inference = Inference(model, plan.settings, plan.class_names, plan.files)
        self.decoding_threads = decoding_threads

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(quiet_pillow())
            stack.enter_context(quiet_methods())
            stack.enter_context(self.inference)
            self._writer = stack.enter_context(ThreadPoolExecutor(1, "fastcam-write"))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def run(self, shards: Iterable[int], on_done: OnDone | None = None, on_pictures: OnPictures | None = None) -> None:
        """Compute shards, write and mark them.

        Args:
            shards: their indices, taken one by one as they are needed.
            on_done: called with a shard's index and mark when it is on the disk; in a thread, one call at a time.
            on_pictures: called with a number of pictures when these have been computed.

        Raises:
            OSError: a part cannot be written.
            RuntimeError, ValueError: the network does not work, even on a black picture.
        """
        self.compute(((shard, self.plan.items(shard)) for shard in shards), on_done, on_pictures)

    def compute(
        self,
        shards: Iterable[tuple[int, Iterable[Input]]],
        on_done: OnDone | None = None,
        on_pictures: OnPictures | None = None,
    ) -> None:
        """Do what `run` does, for shards with inputs that the plan does not list."""
        shard, rows, pictures = 0, list[Row](), 0
        written: Future[None] | None = None

        def write() -> None:
            """Write the last shard's rows, when those of the one before are written."""
            nonlocal written
            _wait(written)
            if pictures:
                written = self._writer.submit(self._commit, shard, rows, pictures, on_done)

        try:
            for batch in stream(self._batches(shards), self._prepare, threads=self.decoding_threads):
                if batch[0][0] != shard:
                    write()
                    shard, rows, pictures = batch[0][0], [], 0
                rows += self.inference.rows([picture for _, picture in batch])
                pictures += len(batch)
                if on_pictures is not None:
                    on_pictures(len(batch))
        except BaseException:
            if not self.plan.listed:  # cannot be computed again
                write()
                _wait(written)
            raise
        write()
        _wait(written)

    def _batches(self, shards: Iterable[tuple[int, Iterable[Input]]]) -> Iterator[list[_Job]]:
        for shard, inputs in shards:
            yield from batched((_Job(shard, entry) for entry in inputs), self.plan.settings.batch_size)

    def _commit(self, shard: int, rows: list[Row], pictures: int, on_done: OnDone | None) -> None:
        mark = self.plan.commit(shard, rows, pictures, self.inference.findings())
        if on_done is not None:
            on_done(shard, mark)

    def _prepare(self, job: _Job) -> tuple[int, Prepared | Row]:
        """Decode and resize one picture; in a thread."""
        return job.shard, self._picture(job.entry)

    def _picture(self, entry: Input) -> Prepared | Row:
        settings, preprocess = self.plan.settings, self.inference.preprocess
        orientation = decoder = None
        try:
            image: Pixels | Encoded | None
            if isinstance(entry, FileInput):
                found = self._read(entry)
                image, orientation, decoder = found.pixels, found.orientation, found.decoder
                boxes, extent = None if entry.truth is None else np.reshape(entry.truth, (-1, 4)), entry.extent
            else:
                sample = entry.read()
                image, boxes, extent = sample.image, sample.boxes, sample.size
            if image is None:
                raise TypeError("a picture must be a PIL image or a uint8 array [H, W, 3], got NoneType")
            frame: np.ndarray | Encoded
            if not (preprocess.reading.plain or isinstance(image, Encoded)):
                image = preprocess.taken(image)  # once, for the thumbnail, too
            if isinstance(image, Encoded):  # the network's side goes on with it
                frame, geometry = image, preprocess.geometry(image.size)
            else:
                frame, geometry = preprocess.frame(image)
        except DecodeError as error:
            return failed(entry.key, str(error), orientation, decoder)
        except OSError as error:
            return failed(entry.key, f"unreadable: {error}", orientation, decoder)
        picture = Prepared(entry.index, entry.key, frame, geometry, orientation, decoder, entry.targets)
        if settings.top_k is None and not entry.targets:
            none = "no class is given" if entry.targets is None else "an empty list of classes is given"
            return picture.failed(f"no_target: {none} for this picture")
        if entry.index < settings.options.overlays and (thumbnail := _thumbnail(image)) is not None:
            # The boxes may speak of a larger picture than the one that is stored.
            sides = np.array([*(extent or geometry.original)] * 2)
            truth = None if boxes is None else np.reshape(boxes, (-1, 4)) / sides
            return replace(picture, drawn=Drawn(thumbnail, truth))
        return picture

    def _read(self, entry: FileInput) -> Decoded:
        source = entry.path if entry.part is None else read_part(entry.path, *entry.part)
        decoder, reading = self.plan.settings.decoder, self.inference.preprocess.reading
        found = read_encoded(source) if decoder == "nvjpeg" else read(source, decoder, reading)
        status = os.stat(entry.path)  # afterwards, so that no change goes unseen
        if (status.st_size, status.st_mtime_ns) != entry.state[:2]:
            raise DecodeError("unreadable", "changed since the plan was made")
        return found


def _thumbnail(image: Pixels | Encoded) -> np.ndarray | None:
    if isinstance(image, Encoded):
        try:
            image = decode(image.data)
        except DecodeError:  # the GPU may do better
            return None
    small = as_rgb(image).copy()
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    return np.array(small)


def _wait(written: Future[None] | None) -> None:
    if written is not None:
        written.result()
