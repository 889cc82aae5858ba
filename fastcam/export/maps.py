"""Maps that a run kept, upsampled: on demand, and in the formats PNG and .npy."""

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, Self

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fastcam import methods, ops
from fastcam.export.files import Add, Job, LeftOut, new_folder
from fastcam.methods.scales import finished, summed
from fastcam.pictures import MAX_PIXELS, Preprocess
from fastcam.runs.maps import map_of
from fastcam.runs.schema import CAM_COLUMNS
from fastcam.runs.table import FoundPicture, open_parquet, read_info, table_path

Mode = Literal["bilinear", "bicubic"]

_COLUMNS = (CAM_COLUMNS, ("map", "height", "width"))  # of boxes.parquet, and of the maps.parquet of evaluations
_BATCH = 256  # maps in memory at a time


class Upsampler(NamedTuple):
    """How coarse maps become maps of pictures.

    Attributes:
        relu: negative values count as zero.
        mode: "bilinear" or "bicubic".
        crop: the preprocessing, if the network saw only the centre of pictures; None if it saw them whole.
        summed: whether maps are sums over several views, which are divided by their maximum alone.
    """

    relu: bool
    mode: Mode = "bilinear"
    crop: Preprocess | None = None
    summed: bool = False

    @classmethod
    def of(cls, info: Mapping[str, Any], relu: bool | None = None, mode: Mode | None = None) -> Self:
        """Take it from a table's metadata, but for `relu` and `mode`, if given; ValueError if `relu` is not known."""
        relu = info.get("relu") if relu is None else relu
        if relu is None:
            if info.get("method") not in methods.BOX_METHODS:
                raise ValueError("the table does not tell whether its maps are to be clipped at zero: give `relu`")
            relu = methods.BOX_METHODS[info["method"]].relu
        crop = None
        if info.get("resize") == "crop":
            crop = Preprocess(info["size"], "crop", resize_size=info.get("resize_size"))
        return cls(bool(relu), mode or info.get("mode", "bilinear"), crop, summed(info))

    def __call__(self, coarse: np.ndarray, size: tuple[int, int], picture: tuple[int, int] | None) -> np.ndarray:
        """Upsample one map.

        Args:
            coarse: float32 [h, w].
            size: (height, width) to give it, in pixels.
            picture: (width, height) of the picture; only maps of the centre need it.

        Returns:
            float32 [height, width] in [0, 1] over the whole picture, zero where the network did not see it.

        Raises:
            ValueError: a size that is not positive or too large, an unknown mode, or the picture's size is not known.
        """
        _check_pixels(size)
        if self.crop is None:
            return self._heatmap(coarse, size)
        if picture is None:
            raise ValueError("the maps are of the pictures' centres, but the table does not tell their sizes")
        frame = self._heatmap(coarse, (self.crop.size, self.crop.size))
        return self.crop.geometry(picture).spread(frame, size[::-1])

    def _heatmap(self, coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        maps = torch.from_numpy(coarse)[None]
        if self.summed:
            return finished(maps, size, self.mode, ops)[0].numpy()
        return ops.heatmap(maps, size, self.relu, mode=self.mode)[0].numpy()


def resized(finished: np.ndarray, size: tuple[int, int], picture: tuple[int, int] | None = None) -> np.ndarray:
    """Bring a finished map of a picture's size to another (height, width): in the place of an `Upsampler`."""
    if finished.shape == size:
        return finished
    _check_pixels(size)
    smaller = math.prod(size) < finished.size
    return cv2.resize(finished, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def _check_pixels(size: tuple[int, int]) -> None:
    if math.prod(size) > MAX_PIXELS:
        raise ValueError(f"a map of {size[0]}x{size[1]} is asked for, at most {MAX_PIXELS} pixels are made")


class CoarseMap(NamedTuple):
    """One map of a table.

    Attributes:
        image_id: the picture.
        class_id: index of the class; None if unknown.
        rank: place of the class among all by score, 1 the highest; None if unknown.
        picture: (width, height) of the upright picture in pixels; None if it is not in the table.
        values: float32 [h, w], before ReLU, upsampling and normalisation; of boxes.parquet each map to a scale of its
            own, a power of two.
        upsampling: what `at` does.
    """

    image_id: str
    class_id: int | None
    rank: int | None
    picture: tuple[int, int] | None
    values: np.ndarray
    upsampling: Upsampler

    def at(self, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Make the finished map.

        Args:
            size: height and width in pixels, or one number for both; by default the picture's.

        Returns:
            float32 [H, W] in [0, 1] over the whole picture; zeros if the map is constant or not finite.

        Raises:
            ValueError: a size that is not positive, or the picture's size is needed but unknown.
        """
        if size is None:
            if self.picture is None:
                raise ValueError("the table does not tell the pictures' sizes: give `size`")
            size = self.picture[::-1]
        return self.upsampling(self.values, (size, size) if isinstance(size, int) else size, self.picture)


class MapTable:
    """The maps in boxes.parquet, if the run kept them, or in the maps.parquet of `fastcam evaluate --save-maps`.

    `len(table)` is their number, `table[i]` is one, and iteration gives all in order, reading a few hundred at a time.
    Indexing reads a row group and keeps it until another is needed, so that neighbours cost nothing. Nothing is
    upsampled before `CoarseMap.at`. A table can be pickled and used in several processes.

    Args:
        path: the Parquet file, or the folder of a run.
        relu: clip maps at zero; by default as the run did.
        mode: "bilinear" or "bicubic"; by default as the run did.

    Attributes:
        path: the file.
        info: what made it, from its metadata.
        upsampling: what `CoarseMap.at` does.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no table with maps.
    """

    def __init__(self, path: str | os.PathLike[str], *, relu: bool | None = None, mode: Mode | None = None) -> None:
        self.path = table_path(path)
        with open_parquet(self.path) as file:
            names = file.schema_arrow.names
            columns = next((columns for columns in _COLUMNS if set(columns) <= set(names)), None)
            if columns is None or not {"image_id", "class_id", "rank"} <= set(names):
                raise ValueError(f"{path} has no maps: expected columns image_id, class_id, rank, cam, …")
            self._columns = ["image_id", "class_id", "rank", *columns]
            if columns == CAM_COLUMNS:  # else width and height are the map's own
                self._columns += ["width", "height"]
            self.info = read_info(file)
            self.upsampling = Upsampler.of(self.info, relu, mode)
            counts = [_count(file, group, columns[1]) for group in range(file.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        self._group: tuple[int, list[CoarseMap]] = (-1, [])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, index: int) -> CoarseMap:
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(f"there are {len(self)} maps, got index {index}")
        group = int(np.searchsorted(self._starts, place, "right")) - 1
        loaded, maps = self._group
        if loaded != group:
            with open_parquet(self.path) as file:
                maps = list(self._maps(file.read_row_group(group, self._columns)))
            self._group = group, maps
        return maps[place - int(self._starts[group])]

    def __iter__(self) -> Iterator[CoarseMap]:
        with open_parquet(self.path) as file:
            for batch in file.iter_batches(_BATCH, columns=self._columns):
                yield from self._maps(batch)

    def _maps(self, rows: pa.RecordBatch | pa.Table) -> Iterator[CoarseMap]:
        columns = (rows.column(name).to_pylist() for name in self._columns)
        for id, class_id, rank, values, height, width, *size in zip(*columns, strict=True):
            if values is not None:
                picture = (size[0], size[1]) if size else None
                coarse = map_of(id, values, height, width)
                yield CoarseMap(id, class_id, rank, picture, coarse, self.upsampling)


def _count(file: pq.ParquetFile, group: int, name: str) -> int:
    """Number of maps in a row group, by a column that is null where there is none; from statistics, if it has them."""
    chunk = file.metadata.row_group(group).column(file.schema_arrow.names.index(name))
    if chunk.statistics is not None and chunk.statistics.has_null_count:
        return chunk.num_values - chunk.statistics.null_count
    column = file.read_row_group(group, [name])[name]
    return len(column) - column.null_count


@contextmanager
def png(job: Job) -> Iterator[Add]:
    """Write `IMAGE_ID.png` for each picture: the map of its highest class, 8 bits, truncated 255·v."""

    def add(picture: FoundPicture) -> int:
        values = _highest(picture, job, job.options.size or "picture")
        with folder.create(picture.id, ".png") as file:
            # The first level of compression is five times as fast as the usual one, its files a seventh larger.
            Image.fromarray((255 * values).astype(np.uint8)).save(file, "PNG", compress_level=1)
        return len(picture.found)

    with new_folder(job.path, job.info) as folder:
        yield add


@contextmanager
def npy(job: Job) -> Iterator[Add]:
    """Write `IMAGE_ID.npy` for each picture, as the standard evaluator has score maps: float32 [H, W] in [0, 1].

    It is the map of the picture's highest class.
    """

    def add(picture: FoundPicture) -> int:
        values = _highest(picture, job, job.options.size or 224)
        with folder.create(picture.id, ".npy") as file:
            np.save(file, values, allow_pickle=False)
        return len(picture.found)

    with new_folder(job.path, job.info) as folder:
        yield add


def _highest(picture: FoundPicture, job: Job, size: int | Literal["picture"]) -> np.ndarray:
    given = picture.maps.get(picture.first.class_id)
    if given is None:
        raise LeftOut("it has no map")
    assert job.finish is not None
    shape = (picture.height, picture.width) if size == "picture" else (size, size)
    return job.finish(given, shape, (picture.width, picture.height))
