"""Boxes in the frame of another file, which may speak of pictures as they are stored, or of larger and smaller ones."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fastcam.data.turning import INVERSE, Frame, Size, frame_of, turn_boxes
from fastcam.export.files import LeftOut, Options
from fastcam.pictures import Header
from fastcam.runs.table import Picture


class Frames:
    """Leads boxes of a run to the pictures that a file speaks of.

    Args:
        path: the file, for messages.
        size: (width, height) that it tells of a picture of the run; None if it tells none.
        options: of which headers and notes are used.
    """

    def __init__(self, path: Path, size: Callable[[str], Size | None], options: Options) -> None:
        self._path, self._size = path, size
        self._headers, self._notes = options.headers, options.notes
        self._ambiguous: Frame | None = None  # what those are taken for whose size does not tell; None until one comes

    def corners(self, picture: Picture) -> list[list[float]]:
        """Place a picture's boxes.

        Args:
            picture: the picture.

        Returns:
            x0, y0, x1, y1 of each that is `found`.

        Raises:
            LeftOut: nothing tells how the file sees the picture.
        """
        header = Header((picture.width, picture.height), picture.orientation)
        size, told = header.size, self._size(picture.id)
        corners = np.array([box.corners for box in picture.found], np.float64).reshape(-1, 4)
        frame = found = self._frame(told, header)
        if found == "either" and header.orientation > 1:
            if self._ambiguous is None:
                self._ambiguous = self._convention()
            frame = self._ambiguous
        if found == "neither":
            raise LeftOut(f"it has {told[0]}x{told[1]} pixels in {self._path}, and {size[0]}x{size[1]} in the run")
        if frame == "neither":
            raise LeftOut(f"{self._path} speaks of some pictures as they are stored and of some upright; of this?")
        if frame == "stored":
            corners, size = turn_boxes(corners, size, INVERSE.get(header.orientation, header.orientation))
        if told is not None and told != size:
            corners = corners * (np.array(told * 2) / np.array(size * 2))
        return corners.tolist()

    def _frame(self, told: Size | None, header: Header) -> Frame:
        return "either" if told is None else frame_of(told, *header)

    def _convention(self) -> Frame:
        """Which pictures the file speaks of where that can be seen; "neither" if it is not always the same."""
        turned = self._headers() if self._headers is not None else ()
        seen = {self._frame(self._size(id), header) for id, header in turned} & {"stored", "upright"}
        if len(seen) == 1:
            return seen.pop()
        if not seen and self._notes is not None:
            self._notes.append(
                f"some pictures are turned by EXIF, and no size in {self._path} tells if it speaks of them as they are "
                "stored or upright: taken for upright"
            )
        return "neither" if seen else "upright"
