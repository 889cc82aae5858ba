"""Truth and pictures that EXIF turns: which of both pictures it speaks of, the stored or the upright one.

Numbers of the EXIF standard, 1 to 8, say how a picture is stored; `fastcam.pictures` shows all upright. What a data
set says may be of either: a script that asks Pillow for a size has the stored one; browsers, OpenCV and tools for
annotation show and measure the upright one. Sizes give it away where a picture is turned by a quarter and not square.
"""

from typing import Literal

import numpy as np

Size = tuple[int, int]  # width and height in pixels
Frame = Literal["stored", "upright", "either", "neither"]

INVERSE = {6: 8, 8: 6}  # of a turn; the others are their own
_MIRRORED = (2, 3, 6, 7), (3, 4, 7, 8)  # along x, along y, after the axes have changed places (5 to 8)


def frame_of(given: Size, upright: Size, orientation: int) -> Frame:
    """Which picture a size is of, by the size of the upright one and the orientation, 1 to 8, that it is stored in.

    "stored" or "upright", if it is that of one of them only, or of its proportions to a rounded pixel, since pictures
    are also kept smaller; "either" if both have it, "neither" if none has.
    """
    stored = upright[::-1] if orientation >= 5 else upright
    for fits in (_same, _proportional):
        found = fits(given, upright), fits(given, stored)
        if any(found):
            return "either" if all(found) else "upright" if found[0] else "stored"
    return "neither"


def turn_boxes(boxes: np.ndarray, size: Size, orientation: int) -> tuple[np.ndarray, Size]:
    """Lead boxes [B, 4], xyxy, half-open, from the stored picture to the upright one; `INVERSE` leads back.

    `size` is that of the stored picture; the boxes come with that of the upright one, of the same dtype.
    """
    corners = np.array(boxes).reshape(-1, 2, 2)  # box, corner, axis
    if orientation >= 5:
        corners, size = corners[..., ::-1].copy(), size[::-1]
    for axis, mirrored in enumerate(_MIRRORED):
        if orientation in mirrored:
            corners[..., axis] = size[axis] - corners[:, ::-1, axis]
    return corners.reshape(-1, 4), size


def turn_mask(mask: np.ndarray, orientation: int) -> np.ndarray:
    """Lead a mask [h, w] from the stored picture to the upright one: [w, h] for a quarter turn, contiguous."""
    mask = mask.T if orientation >= 5 else mask
    across, down = (-1 if orientation in mirrored else 1 for mirrored in _MIRRORED)
    return np.ascontiguousarray(mask[::down, ::across])


def _same(one: Size, other: Size) -> bool:
    return one == other


def _proportional(one: Size, other: Size) -> bool:
    return abs(one[0] * other[1] - one[1] * other[0]) <= 2 * max(*one, *other)
