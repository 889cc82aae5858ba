"""Matrices of attention, as a network computes them in a pass."""

import math
from collections.abc import Callable, Collection, Mapping
from types import FunctionType
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


class KeepAttention(TorchFunctionMode):
    """While active, attention is computed step by step instead of in one fused operation, which hides its matrices.

    That is softmax(Q·Kᵀ·scale + mask)·V: the same numbers up to rounding, and of every order differentiable. It holds
    for `scaled_dot_product_attention`, torch's `MultiheadAttention`, and attention that is written out; kernels from
    outside of torch are not seen. The matrices [B, heads, queries, keys] of some layers are kept.

    Args:
        layers: modules by name, whose matrices are kept.
        graph: names of those whose matrices shall be differentiated: the first becomes a leaf, which gradients begin
            at.

    Attributes:
        found: by the name of each layer its matrices, in the order of the pass.
    """

    def __init__(self, layers: Mapping[str, nn.Module], graph: Collection[str] = ()) -> None:
        super().__init__()
        self._layers, self._graph = layers, set(graph)
        self.found: dict[str, list[Tensor]] = {name: [] for name in layers}

    def __enter__(self) -> Self:
        self._inside: list[str] = []
        self._hooks = [hook for name, layer in self._layers.items() for hook in self._follow(name, layer)]
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()

    def _follow(self, name: str, layer: nn.Module) -> list[Any]:
        """Note when a layer runs."""

        def begin(module: nn.Module, args: tuple[object, ...]) -> None:
            self.found[name].clear()  # of a layer that runs several times the last run counts
            self._inside.append(name)

        def end(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            self._inside.pop()

        return [layer.register_forward_pre_hook(begin), layer.register_forward_hook(end)]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)[0]
        if func is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        output = func(*args, **kwargs)
        if func in _SOFTMAX and self._inside and output.dim() == 4:
            dim = args[1] if len(args) > 1 else kwargs.get("dim")
            if dim in (-1, 3):
                return self._kept(output).clone()  # what follows may work on it in place
        return output

    def _kept(self, matrix: Tensor) -> Tensor:
        if not self._inside:
            return matrix
        name = self._inside[-1]
        if name in self._graph:
            torch.set_grad_enabled(True)
            with torch.inference_mode(False):  # where the network itself is in it
                matrix = matrix if matrix.requires_grad else matrix.clone().requires_grad_()
        self.found[name].append(matrix)
        return matrix

    def _attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """What `scaled_dot_product_attention` gives for these arguments, and the matrix."""
        if enable_gqa:
            key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], -3) for x in (key, value))
        scores = query @ key.mT * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        matrix = scores.softmax(-1)
        if matrix.dim() == 4:
            matrix = self._kept(matrix)
        return F.dropout(matrix, dropout_p).to(value.dtype) @ value, matrix

    def _multi_head(
        self, *args: Any, need_weights: bool = True, average_attn_weights: bool = True, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None]:
        """What `multi_head_attention_forward` gives: torch's own code, in which no mode sees the attention."""
        matrices: list[Tensor] = []

        def attention(*inner: Any) -> Tensor:
            output, matrix = self._attention(*inner)
            matrices.append(matrix)
            return output

        names = {"scaled_dot_product_attention": attention, "has_torch_function": lambda tensors: False}
        output, _ = _with(F.multi_head_attention_forward, names)(*args, need_weights=False, **kwargs)
        if not need_weights:
            return output, None
        matrix = matrices[-1].mean(1) if average_attn_weights else matrices[-1]
        return output, matrix if output.dim() == 3 else matrix[0]


def _with(function: Any, names: dict[str, Any]) -> Callable[..., Any]:
    """A function with another meaning of some global names."""
    copy = FunctionType(function.__code__, function.__globals__ | names, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
