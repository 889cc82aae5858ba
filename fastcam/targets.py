"""What maps can explain beside a class: callables for the `targets` of methods."""

import torch
import torch.nn.functional as F
from torch import Tensor


class Pixels:
    """A class in a part of the picture: the mean of its dense scores over a mask, or over all pixels.

    For networks that give scores [N, C, H, W], such as those of segmentation: the map shows what the pixels of the mask
    are classified by.

    Source: Vinogradova et al., Towards Interpretable Semantic Segmentation via Gradient-weighted Class Activation
    Mapping, AAAI 2020, equation 2, with a mean in place of the sum, which scales the map only.

    Args:
        class_index: in 0 … C - 1.
        mask: bool [H, W], the pixels, at least one; of the size that the network's scores have. None is all of them.

    Raises:
        TypeError: the mask is not bool [H, W].
        ValueError: it has no pixel.

    Example:
        >>> mask = model(images)["out"].argmax(1) == 12
        >>> pixels = [fastcam.targets.Pixels(12, one) for one in mask]
        >>> maps = fastcam.GradCAM(model, "backbone.layer4")(images, pixels)
    """

    def __init__(self, class_index: int, mask: Tensor | None = None) -> None:
        self.class_index, self.mask = class_index, None if mask is None else torch.as_tensor(mask)
        if self.mask is not None and (self.mask.dtype != torch.bool or self.mask.dim() != 2):
            raise TypeError(f"`mask` must be bool [H, W], got {self.mask.dtype} {list(self.mask.shape)}")
        if self.mask is not None and not self.mask.any():
            raise ValueError("`mask` must have at least one pixel, got none")

    def __call__(self, scores: Tensor) -> Tensor:
        """Score a picture.

        Args:
            scores: [C, H, W], floating: the network's for the picture.

        Returns:
            A scalar.

        Raises:
            ValueError: they are not dense, of another size than the mask, or have no such class.
        """
        if scores.dim() != 3:
            raise ValueError(
                f"Pixels is for dense scores [C, H, W], the network gives {list(scores.shape)} for a picture; without "
                "pixels the class index itself is the target"
            )
        if not 0 <= self.class_index < len(scores):
            raise ValueError(f"Pixels: the network has classes 0 … {len(scores) - 1}, got {self.class_index}")
        plane = scores[self.class_index]
        if self.mask is None:
            return plane.mean()
        if self.mask.shape != plane.shape:
            raise ValueError(
                f"`mask` must be of the size of the network's scores, {list(plane.shape)}, got {list(self.mask.shape)}"
            )
        return plane[self.mask.to(plane.device)].mean()


class Similarity:
    """How alike a picture's embedding is to a given one: their cosine.

    For networks whose output is an embedding [N, D] instead of scores; the map shows what of the picture is alike.

    Args:
        embedding: [D], floating, such as that of another picture.

    Raises:
        TypeError: it is not floating [D].

    Example:
        >>> wanted = model(other)[0]
        >>> maps = fastcam.GradCAM(model, "layer4")(images, fastcam.targets.Similarity(wanted))
    """

    def __init__(self, embedding: Tensor) -> None:
        self.embedding = torch.as_tensor(embedding).detach()
        if not self.embedding.is_floating_point() or self.embedding.dim() != 1:
            raise TypeError(f"`embedding` must be floating [D], got {self.embedding.dtype} {list(embedding.shape)}")

    def __call__(self, embedding: Tensor) -> Tensor:
        """Compare a picture's embedding.

        Args:
            embedding: [D], floating: what the network gives for the picture.

        Returns:
            A scalar in [-1, 1].

        Raises:
            ValueError: it has another length, or is dense.
        """
        if embedding.shape != self.embedding.shape:
            raise ValueError(
                f"Similarity needs an embedding of the {len(self.embedding)} numbers that it was given, the network "
                f"gives {list(embedding.shape)} for a picture"
            )
        return F.cosine_similarity(embedding, self.embedding.to(embedding), dim=0)
