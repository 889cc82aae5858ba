"""The field's evaluators as data: everything that differs between them is a field of `Protocol`."""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from torch import Tensor

from fastcam import ops


class Protocol(NamedTuple):
    """How maps become boxes and boxes become figures.

    Attributes:
        name: key in `PROTOCOLS`.
        threshold: τ of GT-known Loc and Top-k Loc where the evaluator is given no other.
        mode: how coarse maps are upsampled, "bicubic" or "bilinear".
        size: (height, width) in pixels of the maps, and so of the frame in which boxes are compared.
    """

    name: str
    threshold: float = 0.2
    mode: str = "bicubic"
    size: tuple[int, int] = (224, 224)

    def upsample(self, coarse: Tensor) -> Tensor:
        """Coarse maps to finished ones: float64 interpolation without ReLU, then min-max.

        Args:
            coarse: [N, h, w], any floating dtype.

        Returns:
            float64 [N, H, W] of `size` in [0, 1]; zeros where a coarse map is constant or not finite.

        Raises:
            TypeError: a dtype that is not floating-point.
            ValueError: another rank than 3, or maps without positions.
        """
        return ops.heatmap(coarse.double(), self.size, relu=False, mode=self.mode)

    def frame_boxes(self, boxes: np.ndarray, sizes: Sequence[tuple[int, int]] | np.ndarray) -> np.ndarray:
        """True boxes in pixels of the maps.

        Args:
            boxes: [B, 4], xyxy in pixels of the pictures.
            sizes: [B, 2] or [2], (width, height) of the picture that each box belongs to.

        Returns:
            float64 [B, 4], whole numbers: each coordinate scaled along its axis and truncated.
        """
        height, width = self.size
        boxes, sizes = np.asarray(boxes, np.float64), np.asarray(sizes, np.float64)
        return np.trunc(boxes * np.tile([width, height], 2) / np.tile(sizes, 2))

    def frame_mask(self, mask: np.ndarray) -> np.ndarray:
        """A true mask in pixels of the maps.

        Args:
            mask: [H, W], bool or 0 and 1, of any size.

        Returns:
            bool, of `size`: the nearest pixel of the mask, above 0.5.
        """
        return cv2.resize(mask.astype(np.float32), self.size[::-1], interpolation=cv2.INTER_NEAREST) > 0.5


PROTOCOLS = {protocol.name: protocol for protocol in (Protocol("standard"),)}
