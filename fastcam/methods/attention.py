"""Methods for vision transformers: maps from the matrices of attention of all blocks."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, Unpack

import torch
from torch import Tensor, nn

from fastcam._check import one_of
from fastcam.methods.core import CoarseMap, Method, MethodOptions, TargetLayers
from fastcam.methods.forward import Forward, attention_in, no_gradient
from fastcam.models import attention_blocks, unwrap


class AttentionMethod(Method):
    """Base of the methods that make one map of the attention in several blocks of a vision transformer.

    The target layers are the blocks: modules that give tokens [N, L, K] and have one attention among all of these. In
    the one pass, attention is computed step by step instead of by a fused kernel, which would hide its matrices
    A [N, heads, L, L]; what the network gives differs by rounding at most. Any attention is seen that is torch's:
    `MultiheadAttention` (torchvision), `scaled_dot_product_attention` (timm, Hugging Face), and products and a softmax
    that are written out. A call takes memory for N·heads·L² numbers for each block.

    A block's token is a position of the map as `Layouts` or a `reshape_transform` has it; class, distillation and
    register tokens are left out.
    """

    relu = False
    _together = True

    def _resolved(self, target_layers: TargetLayers) -> dict[str, nn.Module]:
        layers = super()._resolved(attention_blocks(self.model) if target_layers is None else target_layers)
        # In the order of the network, which is that of the pass.
        return {name: layers[name] for name, _ in unwrap(self.model).named_modules() if name in layers}

    @property
    def _attention(self) -> dict[str, nn.Module]:
        return self.layers

    def _same_tokens(self, forward: Forward) -> list[Tensor]:
        """The matrices of all blocks; ValueError if tokens come or go between them."""
        matrices = forward.attention(self.layers)
        for (before, first), (after, second) in pairwise(zip(self.layers, matrices, strict=True)):
            if first.shape != second.shape:
                raise ValueError(
                    f"{type(self).__name__} follows tokens through all blocks, but the attention in {before} is "
                    f"{list(first.shape)} and that in {after} {list(second.shape)}: pass `target_layers` with the same "
                    "tokens"
                )
        return matrices


def _read(between: Tensor, gradient: Tensor) -> Tensor:
    """The relevance [N, L] of all tokens for what the score reads, by that of each token for each other, [N, L, L].

    What is read is seen from the score's gradient [N, L, K] at the last block: the class token, or class and
    distillation token, or all patches. Of several the mean is taken.
    """
    read = gradient.ne(0).any(-1).to(between.dtype)
    return (read[:, None] @ between)[:, 0] / read.sum(1, keepdim=True).clamp(min=1)


def _exact(tensor: Tensor) -> Tensor:
    """Without a graph, in float32, or float64 where it is."""
    return tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))


class AttentionRollout(AttentionMethod):
    """Attention rollout: how much of each token comes to the class token, if attention alone mixed them.

    Ã_l = (A_l + I)/2 with rows that sum to 1, A_l fused over the heads; R = Ã_L·…·Ã_1, of which the map is the row of
    the class token. Where the score reads other tokens too, the average of their rows is taken: of class and
    distillation token, or of all patches where these are pooled. The same for all classes. The only gradient is that
    of the head, which shows what it reads.

    Source: Abnar and Zuidema, Quantifying Attention Flow in Transformers, ACL 2020, section 3 (equation 1). Other
    fusions than the mean and the discarding are from Gildenblat, Exploring Explainability for Vision Transformers,
    2020, and his package vit-explain.

    Args:
        model: a vision transformer.
        target_layers: its blocks, as in `AttentionMethod`; None is all of them, as in the paper.
        heads: how the matrices of several heads become one: by their "mean", "max" or "min".
        discard: fraction in [0, 1) of each fused matrix, its lowest values, that count as zero, but for what the first
            token keeps of itself; 0 is the paper, vit-explain has 0.9.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; no row of blocks is found; an unknown fusion or a fraction outside
            [0, 1). A call raises ValueError where a block has no attention among all its tokens.

    Example:
        >>> maps = fastcam.AttentionRollout(vit, discard=0.9)(images)  # [N, H, W] in [0, 1]
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        heads: Literal["mean", "max", "min"] = "mean",
        discard: float = 0.0,
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        one_of("heads", heads, ("mean", "max", "min"))
        if not 0 <= discard < 1:
            raise ValueError(f"`discard` must be a fraction in [0, 1), got {discard!r}")
        self.heads, self.discard = heads, discard

    @property
    def _differentiated(self) -> dict[str, nn.Module]:
        return dict([list(self.layers.items())[-1]])

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        flow: Tensor | None = None
        for matrix in self._same_tokens(forward):
            mixed = self._fused(_exact(matrix))
            mixed = (mixed + torch.eye(mixed.shape[-1], dtype=mixed.dtype, device=mixed.device)) / 2
            mixed = mixed / mixed.sum(-1, keepdim=True)
            flow = mixed if flow is None else mixed @ flow
        assert flow is not None
        (gradient,) = next(forward.plain_gradients(list(self._differentiated)))
        found = forward.as_map(len(self.layers) - 1, _read(flow, gradient))
        return [found[:, None].expand(-1, forward.targets.ranks, -1, -1)]

    def _fused(self, matrices: Tensor) -> Tensor:
        """One matrix [N, L, L] of those of all heads, without what is discarded."""
        if self.heads == "mean":
            fused = matrices.mean(1)
        else:
            fused = matrices.amax(1) if self.heads == "max" else matrices.amin(1)
        count = int(fused[0].numel() * self.discard)
        if count:
            flat = fused.flatten(1)
            lowest = flat.topk(count, 1, largest=False).indices
            fused = torch.cat([flat[:, :1], flat.scatter(1, lowest, 0)[:, 1:]], 1).view_as(fused)
        return fused


class LeGrad(AttentionMethod):
    """LeGrad: where more attention would raise the score that each block's tokens give.

    For each block l its tokens, averaged, go through the network's own normalisation and head, which gives a score
    s_l. The block's map is the positive part of its gradient in the block's matrices of attention, averaged over heads
    and queries: 1/(h·L) Σ_heads Σ_queries ReLU(∂s_l/∂A_l). The map is the mean of those of all blocks.

    A score is differentiated through its own block only. Around the blocks the network runs once more for each block.

    Source: Bousselham et al., LeGrad: An Explainability Method for Vision Transformers via Feature Formation
    Sensitivity, ICCV 2025 (arXiv 2404.03214), section 3; the average of the tokens as in the authors' code, which has
    the last two blocks by default, while the paper has all.

    Args:
        model: a vision transformer.
        target_layers: its blocks, as in `AttentionMethod`; None is all of them. Of a network whose row of blocks is not
            recognised they must end with its last block.
        tokens: what the head is given of a block: the "mean" of all tokens, in the place of each, or the tokens "as
            they are", of which it takes what it takes of the last block, such as the class token.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; no row of blocks is found. A call raises ValueError where a block has no
            attention among all its tokens.

    Example:
        >>> maps = fastcam.LeGrad(vit)(images, targets=281)  # [N, H, W] in [0, 1]
    """

    _needs_gradients = True

    def __init__(
        self,
        model: nn.Module,
        target_layers: TargetLayers = None,
        *,
        tokens: Literal["mean", "as they are"] = "mean",
        **options: Unpack[MethodOptions],
    ) -> None:
        super().__init__(model, target_layers, **options)
        one_of("tokens", tokens, ("mean", "as they are"))
        self.tokens = tokens

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return True

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        modules = dict(forward.model.named_modules())
        blocks = [modules[name] for name in self._row(forward.model)]
        total: Tensor | None = None
        matrices = forward.attention(self.layers)
        for index, (matrix, tokens) in enumerate(zip(matrices, forward.raw, strict=True)):
            with torch.enable_grad():
                given = tokens.mean(1, keepdim=True).expand_as(tokens) if self.tokens == "mean" else tokens
                logits = forward.read_out(given, blocks)
                maps = [self._sensitivity(forward, logits, rank, matrix) for rank in range(forward.targets.ranks)]
            found = torch.stack([forward.as_map(index, row) for row in maps], 1)
            total = found if total is None else total + found
        assert total is not None
        return [total / len(matrices)]

    def _row(self, model: nn.Module) -> list[str]:
        """All blocks of the network, or those target layers, in the order of the pass."""
        try:
            names = attention_blocks(model)
        except ValueError:
            names = []
        return names if names and {*self.layers} <= {*names} else list(self.layers)

    def _sensitivity(self, forward: Forward, logits: Tensor, rank: int, matrix: Tensor) -> Tensor:
        """The relevance [N, L] of a block's tokens as keys."""
        score = forward.targets.score(logits, rank)
        (gradient,) = torch.autograd.grad(score, matrix, retain_graph=True, allow_unused=True)
        if gradient is None:
            raise no_gradient("the attention of a block")
        return _exact(gradient).relu().mean((1, 2))


class AttentionRelevance(AttentionMethod):
    """Relevance by gradient-weighted attention: what of each token comes to the class token for a class.

    Ā_l = mean over heads of ReLU(∂S/∂A_l ⊙ A_l); R = I, then R ← R + Ā_l·R for each block, first to last. The map is
    the row of the class token; where the score reads other tokens too, the average of their rows, as in
    `AttentionRollout`. One backward pass through the network, for each class.

    Source: Chefer, Gur and Wolf, Generic Attention-model Explainability for Interpreting Bi-Modal and Encoder-Decoder
    Transformers, ICCV 2021, equations 5 and 6, for self-attention.

    Args:
        model: a vision transformer.
        target_layers: its blocks, as in `AttentionMethod`; None is all of them, as in the paper.
        **options: as in `Method`.

    Raises:
        TypeError, ValueError: as in `Method`; no row of blocks is found. A call raises ValueError where a block has no
            attention among all its tokens.

    Example:
        >>> maps = fastcam.AttentionRelevance(vit)(images, targets=281)  # [N, H, W] in [0, 1]
    """

    _needs_gradients = True

    def uses_gradients(self, run: Forward) -> bool:  # noqa: D102
        return True

    def _layer_maps(self, forward: Forward) -> Sequence[CoarseMap]:
        matrices = [_exact(matrix) for matrix in self._same_tokens(forward)]
        last = list(self.layers)[-1]
        maps = []
        for *gradients, read in forward.plain_gradients([*map(attention_in, self.layers), last]):
            length = matrices[0].shape[-1]
            relevance = torch.eye(length, dtype=matrices[0].dtype, device=matrices[0].device).expand(len(read), -1, -1)
            for matrix, gradient in zip(matrices, gradients, strict=True):
                relevance = relevance + (matrix * _exact(gradient)).relu().mean(1) @ relevance
            maps.append(forward.as_map(len(self.layers) - 1, _read(relevance, read)))
        return [torch.stack(maps, 1)]
