"""The field's evaluators as data: everything that differs between them is a field of `Protocol`.

All work on maps quantised to 8 bits, q = uint8(255·map), but `notebook`: a threshold τ stands for the mask
q > int(τ·reference), where the reference is the maximum of q or a percentile of it. So 256 masks answer every
threshold, and what is measured of a map is kept by level; `columns` tells the level of each threshold.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from fastcam import ops
from fastcam._check import suggest
from fastcam.evaluation.overlap import best_overlap, box_iou
from fastcam.localization.settings import TIGHT
from fastcam.pictures import Pixels
from fastcam.pictures.frame import resized

THRESHOLDS = np.arange(0, 1, 0.001)


class Protocol(NamedTuple):
    """How maps become boxes and boxes become figures. Change a field by `protocol._replace(size=(448, 448))`.

    Attributes:
        name: key in `PROTOCOLS`.
        threshold: τ of the figures at a fixed threshold, unless the evaluator is given another.
        percentile: the reference that τ is relative to: a percentile of q, 100 for its maximum.
        mode: how coarse maps are upsampled, "bicubic" or "bilinear".
        boxes: which boxes a mask has: "contour", that of the contour with the largest cv2.contourArea; "pixels", that
            of the 8-connected component with most pixels; "every", those of all 4-connected components of the mask
            map > τ·max(map), which is not quantised, as half-open boxes, at the one threshold `threshold`. But for
            "every", right and bottom edges are clamped to the last pixel and count as inclusive, as the standard has
            it.
        empty: the box of an empty mask: "origin" [0, 0, 0, 0], "pixel" [0, 0, 1, 1] or "frame", the whole map.
        strict: where an IoU has to exceed δ instead of reaching it: "never", "classified" (in Top-k Loc) or "always".
        class_mean: shares are means over classes, of the share in each class.
        tight: in Top-5 Loc there are five guesses: the boxes at `threshold` (loose) and at this one (tight) for the
            two highest classes, and the loose one for the third. None for one box for each of the five highest classes.
        crop: side in pixels that pictures are resized to before the centre of `size` is cut out; None for no crop.
        size: (height, width) in pixels of the maps, and so of the frame in which boxes are compared.
    """

    name: str
    threshold: float = 0.2
    percentile: float = 100.0
    mode: Literal["bicubic", "bilinear"] = "bicubic"
    boxes: Literal["contour", "pixels", "every"] = "contour"
    empty: Literal["origin", "pixel", "frame"] = "origin"
    strict: Literal["never", "classified", "always"] = "never"
    class_mean: bool = False
    tight: float | None = None
    crop: int | None = None
    size: tuple[int, int] = (224, 224)

    @property
    def thresholds(self) -> np.ndarray:
        """float64 [T]: the thresholds of all curves, 0, 0.001, …, 0.999; `threshold` alone where boxes are "every"."""
        return THRESHOLDS if self.boxes != "every" else np.array([self.threshold])

    def upsample(self, coarse: Tensor) -> Tensor:
        """Coarse maps to finished ones: float64 interpolation without ReLU, then min-max.

        Args:
            coarse: [N, h, w], any floating dtype.

        Returns:
            float64 [N, H, W] of `size` in [0, 1]; zeros where a coarse map is constant or not finite. Bicubic ones have
            the bits of cv2.resize with INTER_CUBIC.

        Raises:
            TypeError: a dtype that is not floating-point.
            ValueError: another rank than 3, or maps without positions.
        """
        return ops.heatmap(coarse.double(), self.size, relu=False, mode=self.mode)

    def frame_boxes(
        self, boxes: np.ndarray, sizes: tuple[int, int] | Sequence[tuple[int, int]] | np.ndarray
    ) -> np.ndarray:
        """True boxes in pixels of the maps.

        Args:
            boxes: [B, 4], xyxy in pixels of the pictures.
            sizes: [B, 2] or [2], (width, height) of the picture that each box belongs to.

        Returns:
            float64 [B, 4], whole numbers: each coordinate scaled along its axis and truncated; with `crop` shifted and
            clipped to the map's pixels, too, so that a box outside the crop becomes a line at its edge.
        """
        corners = np.asarray(boxes, np.float64).reshape(-1, 2, 2)
        width_height = np.array(self.size[::-1])
        sizes = np.asarray(sizes, np.float64).reshape(-1, 1, 2)
        if self.crop is None:
            return np.trunc(corners * width_height / sizes).reshape(-1, 4)
        shifted = np.trunc(corners / sizes * self.crop - (self.crop - width_height) // 2)
        return shifted.clip(0, width_height - 1).reshape(-1, 4)

    def frame_mask(self, mask: np.ndarray) -> np.ndarray:
        """A true mask in pixels of the maps, each the nearest one of the mask.

        Args:
            mask: [h, w], bool, or uint8 with 0, 1 and, where pixels are to be ignored, 255.

        Returns:
            uint8 of `size`, of the same values.
        """
        mask = mask.view(np.uint8) if mask.dtype == bool else mask
        height, width = self.size
        if self.crop is None and mask.shape == (height, width):
            return mask
        if self.crop is None:
            return cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        y, x = (self.crop - height) // 2, (self.crop - width) // 2
        resized = cv2.resize(mask, (self.crop, self.crop), interpolation=cv2.INTER_NEAREST)
        return np.ascontiguousarray(resized[y : y + height, x : x + width])

    def frame(self, image: Pixels | None, size: tuple[int, int] | None = None) -> np.ndarray:
        """Show a picture as it is measured: whole and squashed, or the centre of that.

        Args:
            image: upright, PIL or RGB of uint8 [H, W, 3], or `Samples`, which keep channels and dtype; None, which a
                sample without its picture has, is refused.
            size: (height, width) to give the frame, in pixels; by default that of the maps.

        Returns:
            uint8 [height, width, 3].

        Raises:
            TypeError, ValueError: as `fastcam.pictures.as_rgb`.
        """
        height, width = size or self.size
        if self.crop is None:
            return resized(image, (width, height))
        whole = round(width * self.crop / self.size[1]), round(height * self.crop / self.size[0])
        left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
        return resized(image, whole, (left, top, left + width, top + height))

    def reference(self, maps: Tensor, high: np.ndarray) -> np.ndarray:
        """What τ is relative to.

        Args:
            maps: [N, H, W], float32 or float64 in [0, 1].
            high: [N], their maxima, of their dtype.

        Returns:
            float64 [N], in [0, 255].
        """
        if self.boxes == "every":  # one threshold, and it is applied to the map itself
            return np.zeros(len(maps))
        if self.percentile == 100:
            return _quantised(high).astype(np.float64)
        return np.percentile(_quantised(maps.cpu().numpy()).reshape(len(maps), -1), self.percentile, axis=1)

    def overlaps(
        self, maps: Tensor, high: np.ndarray, boxes: Tensor, owner: Tensor, contours: Literal["largest", "all"]
    ) -> np.ndarray:
        """The best IoU of a box of each mask with a true box of its map, by level.

        Args:
            maps: [N, H, W], float32 or float64 in [0, 1].
            high: [N], their maxima.
            boxes: float64 [M, 4], true boxes in pixels of the maps.
            owner: int64 [M], the map of each, ascending, none without a box.
            contours: "largest" for the one box that `boxes` names, "all" for those of all contours, as in MaxBoxAccV2.

        Returns:
            float64 [N, 256], entry T for the mask q > T; [N, 1] where boxes are "every".
        """
        if self.boxes == "every":
            return self._every(maps, torch.from_numpy(high).to(maps.device), boxes, owner)
        if self.boxes == "pixels" and contours == "largest":
            return best_overlap(self._by_pixels(maps), boxes, owner).cpu().numpy()
        curves = ops.iou_curves(maps, boxes, owner, contours).cpu().numpy()
        nothing = _quantised(high) == 0
        if self.empty != "origin" and nothing.any():
            height, width = self.size
            box = torch.tensor([0, 0, 1, 1] if self.empty == "pixel" else [0, 0, width - 1, height - 1])
            of_empty = best_overlap(box.expand(len(maps), 4).to(maps.device), boxes, owner).cpu().numpy()
            curves[nothing] = of_empty[nothing, None]
        return curves

    def _by_pixels(self, maps: Tensor) -> Tensor:
        """The largest component's box by number of pixels at each level, edges clamped: int32 [N, 256, 4]."""
        quantised = (255 * maps).to(torch.uint8).float()
        levels = torch.arange(256.0, device=maps.device)
        boxes = ops.boxes(quantised, self.size, levels.expand(len(maps), 256), relu=False)
        last = torch.tensor([self.size[1] - 1, self.size[0] - 1], device=maps.device)
        frame = torch.cat([torch.zeros_like(last), last + 1])
        lowest = quantised.amin((1, 2))[:, None]
        boxes = torch.where((levels < lowest)[..., None], frame, boxes)  # the operator has no box for constant maps
        return torch.cat([boxes[..., :2], torch.minimum(boxes[..., 2:], last)], -1)

    def _every(self, maps: Tensor, high: Tensor, truths: Tensor, owner: Tensor) -> np.ndarray:
        boxes, _, image = ops.components(maps > (self.threshold * high)[:, None, None], connectivity=4)
        counts = torch.bincount(owner, minlength=len(maps))
        first = counts.cumsum(0) - counts
        pairs = counts[image]  # true boxes that each component meets
        component = torch.arange(len(boxes), device=maps.device).repeat_interleave(pairs)
        within = torch.arange(len(component), device=maps.device) - (pairs.cumsum(0) - pairs)[component]
        iou = box_iou(boxes[component], truths[first[image[component]] + within])
        best = iou.new_zeros(len(maps)).scatter_reduce_(0, image[component], iou, "amax")
        return best[:, None].cpu().numpy()


def columns(thresholds: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The level that each of T thresholds stands for: int64 [N, T], into the last dimension of `Protocol.overlaps`.

    `reference` is that of `Protocol.reference`, float64 [N].
    """
    return (thresholds * reference[:, None]).astype(np.int64)


def threshold_index(thresholds: np.ndarray, threshold: float) -> int:
    """The place of a threshold among those of the curves, float64 [T], ascending; ValueError if it is none of them."""
    index = int(np.abs(thresholds - threshold).argmin())
    if not abs(thresholds[index] - threshold) < 1e-9:
        known = f"{thresholds[0]:g}" if len(thresholds) == 1 else "0, 0.001, …, 0.999"
        raise ValueError(f"`threshold` must be one of {known}, got {threshold!r}")
    return index


def protocol_of(protocol: object, others: Sequence[str] = ()) -> Protocol:
    """A protocol by its name; or itself. `others` are names that a caller knows besides, for the error's list.

    Raises:
        TypeError: it is neither.
        ValueError: there is none of this name.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if not isinstance(protocol, str):
        raise TypeError(f"`protocol` must be a name or a Protocol, got {protocol!r}")
    if protocol not in PROTOCOLS:
        known = [*PROTOCOLS, *others]
        raise ValueError(f"`protocol` must be one of {', '.join(known)}, got {protocol!r}{suggest(protocol, known)}")
    return PROTOCOLS[protocol]


def _quantised(values: np.ndarray) -> np.ndarray:
    return (255 * values).astype(np.uint8)


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        # Choe et al., Evaluating Weakly Supervised Object Localization Methods Right, CVPR 2020
        Protocol("standard"),
        # Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016, section 3.2
        Protocol("paper", boxes="pixels", tight=TIGHT),
        # Bae, Noh and Kim, Rethinking Class Activation Mapping, ECCV 2020: percentile as a standard
        Protocol("rethinking", threshold=0.35, percentile=90.0, empty="frame", crop=256),
        # Gao et al., TS-CAM, ICCV 2021
        Protocol("ts-cam", mode="bilinear", empty="pixel", strict="classified"),
        # Wu et al., Background Activation Suppression, CVPR 2022
        Protocol("bas", boxes="pixels", strict="always", class_mean=True),
        # all components, as in a notebook that introduces CAM with scipy.ndimage.label
        Protocol("notebook", threshold=0.6, boxes="every"),
    )
}
