"""Maps drawn to the edges of their pictures, before labels or boxes are made of them.

"pamr" is pixel-adaptive mask refinement (`fastcam.ops.refine`). It is linear, treats each map by itself, and its
weights add up to 1: a constant background beside the maps would stay what it is, so that a pixel is object at a level
of the refined maps just where it is if a background of this level is refined with them, as the field does (Ru, Zhan, Yu
and Du, Learning Affinity from Attention, CVPR 2022, section 3.4). So one refinement serves all levels, and (1 - max)^α,
too, which is a level. Maps keep what they have: they are not stretched to a maximum of 1 again, which would raise what
is small above what is large.

"crf" is a dense CRF, fully connected (Krähenbühl and Koltun, Efficient Inference in Fully Connected CRFs with Gaussian
Edge Potentials, NIPS 2011), of the package pydensecrf2, with the kernels and weights of the field's scripts (Ahn and
Kwak, CVPR 2018: position 3 px, weight 3; position 80 px and colour 13, weight 10; 10 iterations). It gives labels, not
maps: the background's score must be known before, and it takes about five times as long as PAMR.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
import torch

from fastcam import ops
from fastcam.pictures import Pixels, as_rgb
from fastcam.pictures.frame import size_of

Refiner = Literal["pamr", "crf"]


def crf(maps: np.ndarray, background: np.ndarray | float, pixels: np.ndarray) -> np.ndarray:
    """Labels by a dense CRF, uint8 [H, W]: 0 background, k + 1 where map k is most likely.

    Of maps, float32 [K, H, W] in [0, 1], the background's score beside them, [H, W] or a number, and the picture's
    colours, uint8 [H, W, 3]. ImportError without the package.
    """
    try:
        from pydensecrf.densecrf import DenseCRF2D
        from pydensecrf.utils import unary_from_softmax
    except ImportError:
        raise ImportError('refining by a CRF needs pydensecrf2: pip install "fastcam[crf]"') from None

    height, width = pixels.shape[:2]
    scores = np.concatenate([np.broadcast_to(np.float32(background), (1, height, width)), maps])
    field = DenseCRF2D(width, height, len(scores))
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(scores)))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.array(pixels), compat=10)  # which it wants to write to
    likely = np.array(field.inference(10)).reshape(scores.shape)
    return likely.argmax(0).astype(np.uint8)


def refined(maps: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Refine the maps of a picture, float32 [K, H, W] in [0, 1], by its colours, uint8 [H, W, 3]: float32 [K, H, W]."""
    if not len(maps):
        return maps
    colours = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    # A mean of numbers up to 1 may be above it by rounding.
    return ops.refine(torch.from_numpy(maps)[None], colours)[0].clamp_(0, 1).numpy()


def checked(image: Pixels | None, size: tuple[int, int]) -> np.ndarray:
    """A picture as `refined` needs it, if it has the size of its maps, (width, height); else ValueError."""
    if (found := size_of(image)) != size:
        raise ValueError(f"its picture has {found[0]}x{found[1]} pixels, its maps are of {size[0]}x{size[1]}")
    return np.array(as_rgb(image))


@contextmanager
def thread_each() -> Iterator[None]:
    """While threads refine a picture each, more threads for each of them would be in each other's way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
