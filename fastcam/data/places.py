"""Where the pictures of a run are, and their pixels."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from fastcam.data.names import id_problem
from fastcam.data.pictures import Packed
from fastcam.pictures import Pixels, read, read_part
from fastcam.pictures.samples import shown_reading
from fastcam.runs.table import RunTable


def listed_places(table: RunTable, ids: Sequence[str] | None = None) -> dict[str, Path | Packed]:
    """Where pictures lie, by id, as far as the list of inputs has them that the run keeps beside its table."""
    if not table.folder.inputs.is_file() or (ids is not None and not ids):
        return {}
    chosen = None if ids is None else [("key", "in", list(ids))]
    columns = pq.read_table(table.folder.inputs, columns=["key", "path", "offset", "length"], filters=chosen)
    found: dict[str, Path | Packed] = {}
    for key, path, offset, length in zip(*(column.to_pylist() for column in columns.columns), strict=True):
        file = Path(os.fsdecode(path))
        found[key] = file if offset is None else Packed(file, key, offset, length)
    return found


class RunPictures:
    """The pictures of a run, by id: in a folder, or where its list of inputs has them.

    Args:
        table: of the run.
        images: folder that its ids are relative to; None for the places in the list.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: nothing tells where the pictures are.
    """

    def __init__(self, table: RunTable, images: Path | None = None) -> None:
        if images is not None and not images.is_dir():
            raise FileNotFoundError(f"no folder of pictures at {images}")
        self._root, self._reading = images, shown_reading(table.info)
        self._places = {} if images is not None or table.superseded else listed_places(table)
        if images is None and not self._places:
            raise ValueError(f"nothing tells where the pictures of {table.path} are: name their folder by `images`")

    def pixels(self, id: str) -> Pixels:
        """Read an upright picture, in a thread inside `quiet_pillow`; ValueError, or `DecodeError`, if that fails."""
        if problem := id_problem(id):
            raise ValueError(problem)
        file = self._places.get(id) if self._root is None else self._root / id
        if file is None:
            raise ValueError("nothing tells where its picture is")
        source = file if isinstance(file, Path) else read_part(file.path, file.offset, file.size)
        return read(source, reading=self._reading).pixels
