"""Low-resolution maps as tables keep them, and upsampled when they are asked for.

A map is kept as its values before ReLU, upsampling and normalisation, row by row, little-endian, float16 or float32,
beside its height and width: in columns cam, cam_height and cam_width of boxes.parquet (in the first row of each picture
and class; null in the others; multiplied by a power of two, so that small values are not lost in float16, which makes
no difference to finished maps), and in columns map, height and width of the maps.parquet of `fastcam evaluate`.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from fastcam import methods, ops
from fastcam.pictures import MAX_PIXELS, Preprocess
from fastcam.runs.folder import RunFolder

_COLUMNS = (("cam", "cam_height", "cam_width"), ("map", "height", "width"))
_BATCH = 256  # maps in memory at a time


class Upsampling(NamedTuple):
    """How coarse maps become maps of pictures.

    Attributes:
        relu: negative values count as zero.
        mode: "bilinear" or "bicubic".
        crop: the preprocessing, if the network saw only the centre of pictures; None if it saw them whole.
    """

    relu: bool
    mode: str = "bilinear"
    crop: Preprocess | None = None

    @classmethod
    def of(cls, info: Mapping[str, Any], relu: bool | None = None, mode: str | None = None) -> Self:
        """Take it from what a table tells of its making.

        Args:
            info: the JSON object in the file's metadata under "fastcam".
            relu: instead of what is told there.
            mode: likewise.

        Returns:
            The rule.

        Raises:
            ValueError: nothing tells whether maps are clipped, or a value is none.
        """
        relu = info.get("relu") if relu is None else relu
        if relu is None:
            if info.get("method") not in methods.METHODS:
                raise ValueError("the table does not tell whether its maps are to be clipped at zero: give `relu`")
            relu = methods.METHODS[info["method"]].relu
        crop = Preprocess(info["size"], "crop") if info.get("resize") == "crop" else None
        return cls(bool(relu), mode or info.get("mode", "bilinear"), crop)

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
        if math.prod(size) > MAX_PIXELS:
            raise ValueError(f"a map of {size[0]}x{size[1]} is asked for, at most {MAX_PIXELS} pixels are made")
        if self.crop is None:
            return self._heatmap(coarse, size)
        if picture is None:
            raise ValueError("the maps are of the pictures' centres, but the table does not tell their sizes")
        frame = self._heatmap(coarse, (self.crop.size, self.crop.size))
        return self.crop.geometry(picture).spread(frame, size[::-1])

    def _heatmap(self, coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return ops.heatmap(torch.from_numpy(coarse)[None], size, self.relu, mode=self.mode)[0].numpy()


class CoarseMap(NamedTuple):
    """One map of a table.

    Attributes:
        image_id: the picture.
        class_id: index of the class; None if unknown.
        rank: place of the class among all by score, 1 the highest; None if unknown.
        picture: (width, height) of the upright picture in pixels; None if the table does not tell.
        values: float32 [h, w], before ReLU, upsampling and normalisation; of boxes.parquet each map to a scale of its
            own, a power of two.
        upsampling: what `at` does.
    """

    image_id: str
    class_id: int | None
    rank: int | None
    picture: tuple[int, int] | None
    values: np.ndarray
    upsampling: Upsampling

    def at(self, size: int | tuple[int, int] | None = None) -> np.ndarray:
        """Make the finished map.

        Args:
            size: height and width in pixels, or one number for both; by default the picture's.

        Returns:
            float32 [H, W] in [0, 1] over the whole picture; zeros if the map is constant or not finite.

        Raises:
            ValueError: a size that is not positive, or the picture's size is needed but unknown.
        """
        if size is None and self.picture is None:
            raise ValueError("the table does not tell the pictures' sizes: give `size`")
        height, width = (size, size) if isinstance(size, int) else size or self.picture[::-1]
        return self.upsampling(self.values, (height, width), self.picture)


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
        info: what the file tells of its making.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no table with maps.
    """

    def __init__(self, path: str | os.PathLike[str], *, relu: bool | None = None, mode: str | None = None) -> None:
        self.path = table_path(path)
        with open_table(self.path) as file:
            names = file.schema_arrow.names
            self._names = next((columns for columns in _COLUMNS if set(columns) <= set(names)), None)
            if self._names is None or not {"image_id", "class_id", "rank"} <= set(names):
                raise ValueError(f"{path} has no maps: expected columns image_id, class_id, rank, cam, …")
            self._sized = self._names[0] == "cam"  # else width and height are the map's own
            self.info = told(file)
            self.upsampling = Upsampling.of(self.info, relu, mode)
            counts = [self._count(file, group) for group in range(file.num_row_groups)]
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
            with open_table(self.path) as file:
                maps = self._maps(file.read_row_group(group, self._wanted).to_pylist())
            self._group = group, maps
        return maps[place - int(self._starts[group])]

    def __iter__(self) -> Iterator[CoarseMap]:
        with open_table(self.path) as file:
            for batch in file.iter_batches(_BATCH, columns=self._wanted):
                yield from self._maps(batch.to_pylist())

    @property
    def _wanted(self) -> list[str]:
        return ["image_id", "class_id", "rank", *self._names, *(("width", "height") if self._sized else ())]

    def _maps(self, rows: Sequence[Mapping[str, Any]]) -> list[CoarseMap]:
        return [
            CoarseMap(
                row["image_id"],
                row["class_id"],
                row["rank"],
                (row["width"], row["height"]) if self._sized else None,
                decode_map(row["image_id"], *(row[name] for name in self._names)),
                self.upsampling,
            )
            for row in rows
            if row[self._names[0]] is not None
        ]

    def _count(self, file: pq.ParquetFile, group: int) -> int:
        """Number of maps in a row group; its statistics tell, if the writer made them."""
        chunk = file.metadata.row_group(group).column(file.schema_arrow.names.index(self._names[1]))
        if chunk.statistics is not None and chunk.statistics.has_null_count:
            return chunk.num_values - chunk.statistics.null_count
        column = file.read_row_group(group, [self._names[1]])[self._names[1]]
        return len(column) - column.null_count


def table_path(run: str | os.PathLike[str]) -> Path:
    """Find the table of a run.

    Args:
        run: a Parquet file, or the folder with boxes.parquet.

    Returns:
        The file.

    Raises:
        FileNotFoundError: there is none.
    """
    path = Path(run)
    path = RunFolder(path).table if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"no table of boxes at {path}")
    return path


def open_table(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for reading in little memory.

    Args:
        path: it.

    Returns:
        The file, to be closed; a context manager.

    Raises:
        ValueError: it is none.
    """
    try:
        return pq.ParquetFile(path, buffer_size=1 << 18)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is no Parquet file: {error}") from None


def told(file: pq.ParquetFile) -> dict[str, Any]:
    """Read what a table tells of its making.

    Args:
        file: the open table.

    Returns:
        The JSON object in its metadata under "fastcam"; {} if there is none.

    Raises:
        ValueError: what is there is no JSON object.
    """
    text = (file.schema_arrow.metadata or {}).get(b"fastcam", b"{}")
    try:
        info = json.loads(text)
    except ValueError:
        info = None
    if not isinstance(info, dict):
        raise ValueError(f"the table's metadata must hold a JSON object under `fastcam`, got {text[:100]!r}")
    return info


def decode_map(image_id: str, values: bytes, height: int, width: int) -> np.ndarray:
    """Read one map.

    Args:
        image_id: its picture, for messages.
        values: its values row by row, little-endian, float16 or float32.
        height: of the map.
        width: likewise.

    Returns:
        float32 [height, width].

    Raises:
        ValueError: the bytes are neither height x width values of 16 nor of 32 bits.
    """
    count = (height or 0) * (width or 0)
    if count < 1 or len(values) not in (2 * count, 4 * count):
        raise ValueError(f"{image_id}: a map of {height}x{width} float16 or float32 expected, got {len(values)} bytes")
    dtype = "<f2" if len(values) == 2 * count else "<f4"
    return np.frombuffer(values, dtype).reshape(height, width).astype(np.float32)
