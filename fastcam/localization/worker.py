"""One process at work: pictures are decoded in threads, go through the network in batches, and rows to the disk."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image
from torch import nn

from fastcam.data import Sample
from fastcam.localization.inputs import Item
from fastcam.localization.network import Network, Picture
from fastcam.localization.plan import Plan
from fastcam.methods.cautions import quiet_methods
from fastcam.pictures import Decoded, DecodeError, Encoded, as_rgb, decode, quiet_pillow, read, read_encoded, read_part
from fastcam.pictures.stream import in_order
from fastcam.runs.schema import Row

_THUMBNAIL = 512  # longer side of a picture in an overlay, in pixels

OnDone = Callable[[int, Mapping[str, Any]], None]
OnPictures = Callable[[int], None]


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

    def __init__(
        self,
        plan: Plan,
        model: nn.Module,
        *,
        decoding_threads: int | None = None,
    ) -> None:
        self.plan = plan
        self.network = Network(model, plan.settings, plan.class_names, plan.folder)
        self.decoding_threads = decoding_threads or min(8, len(os.sched_getaffinity(0)))

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(quiet_pillow())
            stack.enter_context(quiet_methods())
            stack.enter_context(self.network)
            self._pool = stack.enter_context(ThreadPoolExecutor(self.decoding_threads, "fastcam-decode"))
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
        shards: Iterable[tuple[int, Iterable[Item]]],
        on_done: OnDone | None = None,
        on_pictures: OnPictures | None = None,
    ) -> None:
        """Do what `run` does, for inputs that the plan does not list.

        Args:
            shards: pairs of a shard's index and its inputs.
            on_done: as for `run`.
            on_pictures: as for `run`.

        Raises:
            OSError, RuntimeError, ValueError: as `run`.
        """
        size = self.plan.settings["batch_size"]
        batch: list[Picture] = []
        rows: list[Row] = []
        pictures, written = 0, None

        def localize() -> None:
            nonlocal pictures
            if batch:
                rows.extend(self.network.rows(batch))
                pictures += len(batch)
                if on_pictures is not None:
                    on_pictures(len(batch))
                batch.clear()

        try:
            for shard, picture in in_order(self._pool, self._prepare, _jobs(shards), 2 * size):
                if picture is not None:
                    batch.append(picture)
                    if len(batch) == size:
                        localize()
                    continue
                localize()
                _wait(written)
                written = self._writer.submit(self._commit, shard, rows, pictures, on_done)
                rows, pictures = [], 0
        except BaseException:
            if not self.plan.listed and rows:  # cannot be computed again
                _wait(written)
                self._commit(shard, rows, pictures, None)
            raise
        _wait(written)

    def _commit(self, shard: int, rows: list[Row], pictures: int, on_done: OnDone | None) -> None:
        mark = self.plan.commit(shard, rows, pictures, self.network.facts())
        if on_done is not None:
            on_done(shard, mark)

    def _prepare(self, shard: int, item: Item | None) -> tuple[int, Picture | None]:
        """Decode and resize one picture; in a thread. No item is the end of a shard."""
        return shard, None if item is None else self._picture(item)

    def _picture(self, item: Item) -> Picture:
        picture = Picture(item.key, index=item.index)
        try:
            if item.sample is None:
                source = item.path if item.offset is None else read_part(item.path, item.offset, item.length)
                decoder = self.plan.settings["decoder"]
                found = read_encoded(source) if decoder == "nvjpeg" else read(source, decoder)
                status = os.stat(item.path)  # afterwards, so that no change goes unseen
                if (status.st_size, status.st_mtime_ns) != (item.size, item.time):
                    raise DecodeError("unreadable", "changed since the plan was made")
                truth = None if item.truth is None else np.reshape(item.truth, (-1, 4))
                sample = Sample(found.pixels, boxes=truth, size=item.extent)
            else:
                sample = item.sample()
                found = Decoded(sample.image, None, None)
            picture = picture._replace(orientation=found.orientation, decoder=found.decoder)
            if isinstance(sample.image, Encoded):  # the network's side goes on with it
                frame, geometry = sample.image, self.network.preprocess.geometry(sample.image.size)
            else:
                frame, geometry = self.network.preprocess.frame(sample.image)
        except DecodeError as error:
            return picture._replace(error=str(error))
        except OSError as error:
            return picture._replace(error=f"unreadable: {error}")
        picture = picture._replace(frame=frame, geometry=geometry)
        if not self.plan.settings["top_k"]:
            if item.target is None:
                return picture._replace(error="no_target: no class is given for this picture")
            picture = picture._replace(target=item.target)
        if item.index < self.plan.settings["overlays"]:
            picture = picture._replace(thumbnail=_thumbnail(sample.image))
            if sample.boxes is not None:  # they may speak of a larger picture than the one that is stored
                extent = np.array([*(sample.size or geometry.original)] * 2)
                picture = picture._replace(truth=np.reshape(sample.boxes, (-1, 4)) / extent)
        return picture


def _jobs(shards: Iterable[tuple[int, Iterable[Item]]]) -> Iterator[tuple[int, Item | None]]:
    for shard, items in shards:
        for item in items:
            yield shard, item
        yield shard, None


def _thumbnail(image: Image.Image | np.ndarray | Encoded) -> np.ndarray | None:
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
