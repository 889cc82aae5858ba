"""Small pictures and maps for a page."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fastcam import drawing, methods, ops
from fastcam.data.pictures import Packed, Pictures
from fastcam.pictures import DecodeError, Preprocess
from fastcam.report.page import embed

SIDE = 256  # longer side of a small picture in pixels
_QUALITY = 80


class Album:
    """Makes small pictures and maps of a run's pictures.

    Args:
        root: folder that ids are relative to, or None if unknown.
        files: id → where the picture is, for those that are not looked for in the folder.
        info: how the run made its maps: size, resize, method, relu and mode, as its table has them.
    """

    def __init__(self, root: Path | None, files: Mapping[str, Path | Packed], info: Mapping[str, Any]) -> None:
        self._root, self._files = root, files
        relu, method = info.get("relu"), methods.METHODS.get(str(info.get("method", "cam")))
        self._relu = getattr(method, "relu", False) if relu is None else bool(relu)
        self._mode = info.get("mode", "bilinear")
        self._preprocess = Preprocess(info.get("size", 224), info.get("resize", "squash"))

    def draw(self, row: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """Make both for one picture; runs in threads, inside `quiet_pillow`.

        Args:
            row: the picture's first row, with the picture's size, and its cam if the table has it.

        Returns:
            Data URLs of the small picture, None if it cannot be found or read, and of the map over it in colours, None
            if there is none.
        """
        picture = self._small(row["image_id"])
        coarse = _coarse(row)
        size = _fit(row["width"], row["height"]) if picture is None else picture.size
        return (
            None if picture is None else embed(np.asarray(picture), _QUALITY),
            None if coarse is None else self._map(coarse, size),
        )

    def _small(self, id: str) -> Image.Image | None:
        file = self._files.get(id)
        if file is None and self._root is None:
            return None
        try:
            # Refuses ids that lead out of the folder: a table is data from elsewhere.
            picture = Pictures(self._root or Path(), [id], None if file is None else [file])[0].image
        except ValueError:
            return None
        return picture.resize(_fit(*picture.size), Image.Resampling.LANCZOS, reducing_gap=2.0)

    def _map(self, coarse: np.ndarray, size: tuple[int, int]) -> str | None:
        heat = ops.heatmap(torch.from_numpy(coarse)[None], self._preprocess.size, self._relu, mode=self._mode)[0]
        try:
            _, geometry = self._preprocess.frame(Image.new("RGB", size))
        except DecodeError:
            return None
        return embed(drawing.colorize(geometry.spread(heat.numpy(), size).clip(0, 1)), _QUALITY)


def _fit(width: int, height: int) -> tuple[int, int]:
    """Size of the small picture of one of this size; tiny ones are not enlarged."""
    scale = min(1, SIDE / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _coarse(row: Mapping[str, Any]) -> np.ndarray | None:
    """The map before ReLU and normalisation, float32 [h, w]."""
    cam = row.get("cam")
    if cam is None:
        return None
    shape = row["cam_height"], row["cam_width"]
    if min(shape) < 1 or 2 * math.prod(shape) != len(cam):
        return None
    return np.frombuffer(cam, "<f2").reshape(shape).astype(np.float32)
