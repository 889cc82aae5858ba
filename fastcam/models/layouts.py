"""How a layer arranges what it gives: seen from shapes in a forward pass, and refused where they prove nothing."""

import contextlib
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from fastcam.models.layers import swin_reshape, vit_reshape

_FIRST, _LAST = "NCHW", "NHWC"

# Whatever these are given, they take its second dimension for channels.
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.modules.dropout.Dropout2d,
    nn.GroupNorm,
    nn.LocalResponseNorm,
    nn.PixelShuffle,
    nn.Upsample,
)
_ELEMENTWISE = (
    nn.CELU,
    nn.Dropout,
    nn.ELU,
    nn.GELU,
    nn.Hardswish,
    nn.Hardtanh,
    nn.Identity,
    nn.LeakyReLU,
    nn.Mish,
    nn.PReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Tanh,
)


class Layouts:
    """The layouts of target layers in one forward pass.

    Maps are [N, K, h, w] or [N, h, w, K]. Which, is told by the layer's type where that fixes it (a convolution, a
    linear layer); otherwise by the one reading whose h x w has the proportions of the images, up to a position of
    rounding on each side. Where both have them, a pass with smaller images shows which dimensions are positions. Tokens
    [N, L, K] are taken for a map inside networks that are known to keep them row by row, when L is the number of
    patches seen in this pass: after `num_prefix_tokens` others in timm's vision transformers and after one in
    torchvision's; without others in blocks of timm's networks that give [N, h, w, K]. All else is refused.

    Args:
        model: the network, outside of wrappers.
        names: dotted names of the target layers.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._model = model
        self._paths = {name: _path(model, name) for name in names}
        self._shapes: dict[nn.Module, list[torch.Size]] = {}
        self._found: dict[str, Callable[[Tensor], Tensor] | None] = {}

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Observe the pass while the context lasts: grids of patches, and of blocks that may flatten them inside."""
        watched: dict[nn.Module, nn.Module] = {}
        for path in self._paths.values():
            patches, _ = _embedding(path)
            watched |= {conv: patches for conv in _modules(patches) if isinstance(conv, nn.Conv2d)}
            watched |= {block: block for block in _blocks(path)}

        def note(module: nn.Module, args: tuple, output: Any) -> None:
            shapes = [x.shape for x in (*args, output) if isinstance(x, Tensor) and x.dim() == 4]
            self._shapes[watched[module]] = shapes

        with contextlib.ExitStack() as stack:
            for module in watched:
                stack.callback(module.register_forward_hook(note).remove)
            yield

    def reshape(
        self, name: str, output: Tensor, images: Tensor, run: Callable[[Tensor], Any]
    ) -> Callable[[Tensor], Tensor] | None:
        """Find what turns a layer's output into [N, K, h, w].

        Args:
            name: the layer.
            output: what it gave.
            images: [N, 3, H, W] of the pass.
            run: runs the network on other images, where the pass alone does not decide.

        Returns:
            `swin_reshape`, or `vit_reshape` with grid and prefix; None where the output is [N, K, h, w] already.

        Raises:
            ValueError: nothing proves a layout.
        """
        if name not in self._found:
            path, shape = self._paths[name], tuple(output.shape)
            found: Any = NotImplemented
            if shape[:1] == (len(images),) and not _rolled(path):
                if len(shape) == 3:
                    found = self._tokens(path, shape)
                elif len(shape) == 4:
                    layout = self._maps(path, shape, images, run)
                    found = {_FIRST: None, _LAST: swin_reshape}.get(layout, NotImplemented)
            if found is NotImplemented:
                height, width = images.shape[-2:]
                raise ValueError(
                    f"the target layer {name!r} must give maps [N, K, h, w], got {list(shape)}, in which nothing shows "
                    f"the positions of {len(images)} images of {height} x {width}; a layer of tokens or of another "
                    "layout needs `reshape_transform`, a function from its output to [N, K, h, w]"
                )
            self._found[name] = found
        return self._found[name]

    def _tokens(self, path: list[nn.Module], shape: tuple[int, ...]) -> Any:
        """`vit_reshape` for tokens [N, L, K], or NotImplemented."""
        _, prefix = _embedding(path)  # which some networks add in later blocks
        grids = self._grids(path) or ()
        found = {(grid, count) for grid in grids for count in {0, prefix} if grid[0] * grid[1] + count == shape[1]}
        if len(found) != 1:
            return NotImplemented
        ((grid, prefix),) = found
        return partial(vit_reshape, grid=grid, prefix=prefix)

    def _maps(
        self, path: list[nn.Module], shape: tuple[int, ...], images: Tensor, run: Callable[[Tensor], Any]
    ) -> str | None:
        """The layout of a map with four dimensions, or None."""
        size, layer = tuple(images.shape[-2:]), path[-1]
        known = None if _embedding(path)[0] in path else self._grids(path)
        grids = {_FIRST: shape[2:], _LAST: shape[1:3]}
        fitting = [
            layout for layout, grid in grids.items() if (_proportional(grid, size) if known is None else grid in known)
        ]
        if known is not None and not fitting:
            return None
        proof = _proof(layer, shape)
        if proof is not None:  # padding, cropping and fixed sizes are a convolution's right
            return proof if proof in fitting or (proof == _FIRST and known is None) else None
        if len(fitting) == 1:
            return fitting[0]
        if fitting and (declared := next((m.output_fmt for m in reversed(path) if _declares(m)), None)):
            return _LAST if declared == _LAST else _FIRST
        if {_kind(module, shape) for module in layer.modules()} - {None} == {_FIRST}:
            return _FIRST
        return self._tried(layer, shape, images, run, bool(fitting))

    def _tried(
        self, layer: nn.Module, shape: tuple[int, ...], images: Tensor, run: Callable[[Tensor], Any], tie: bool
    ) -> str | None:
        """Let one more pass decide: in a tie with a smaller image, since positions change with its size."""
        found: list[torch.Size] = []
        others: list[nn.Module] = []

        def note(module: nn.Module, args: tuple, output: Any) -> None:
            if isinstance(output, Tensor):
                if module is layer:
                    found[:] = [output.shape]
                if output.dim() > 2 and _kind(module, output.shape) == _LAST:
                    others.append(module)

        height, width = ((side + 1) // 2 if tie else side for side in images.shape[-2:])
        with contextlib.ExitStack() as stack:
            for module in self._model.modules():
                stack.callback(module.register_forward_hook(note).remove)
            # What a network has against the size, it may say in any way; the layer may have run before.
            with contextlib.suppress(Exception), torch.no_grad():
                run(images[:1, :, :height, :width])
        if not found or len(found[0]) != 4:
            return None
        changed = [found[0][i] != shape[i] for i in range(4)]
        if tie and changed[1] != changed[3]:
            return _LAST if changed[1] else _FIRST
        # Nothing in the network has channels last: what is left is a map of a fixed size, or another odd one.
        return _FIRST if not others else None

    def _grids(self, path: list[nn.Module]) -> Collection[tuple[int, int]] | None:
        """The grids that positions can have where the layer is; None where nothing says so."""
        patches, _ = _embedding(path)
        if patches is not None:
            return {tuple(shape[2:]) for shape in self._shapes.get(patches, [])[-1:]}
        block = next((block for block in reversed(_blocks(path)) if self._shapes.get(block)), None)
        return None if block is None else {tuple(shape[1:3]) for shape in self._shapes[block]}


def _path(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules around a layer, outermost first, and the layer."""
    path = [model]
    for part in name.split(".") if name else ():
        path.append(path[-1].get_submodule(part))
    return path


def _modules(module: nn.Module | None) -> Iterable[nn.Module]:
    return () if module is None else module.modules()


def _embedding(path: list[nn.Module]) -> tuple[nn.Module | None, int]:
    """What makes patches in the innermost vision transformer around a layer, and its number of prefix tokens."""
    for module in reversed(path):
        patches, prefix = getattr(module, "patch_embed", None), getattr(module, "num_prefix_tokens", None)
        if isinstance(patches, nn.Module) and isinstance(prefix, int):  # timm's
            return patches, prefix
        patches, token = getattr(module, "conv_proj", None), getattr(module, "class_token", None)
        if isinstance(patches, nn.Conv2d) and isinstance(token, Tensor):  # torchvision's
            return patches, 1
    return None, 0


def _declares(module: nn.Module) -> bool:
    return getattr(module, "output_fmt", None) in (_FIRST, _LAST)


def _blocks(path: list[nn.Module]) -> list[nn.Module]:
    """The modules around a layer, inside a network of timm's that keeps [N, h, w, K]: it is flattened in some."""
    outer = next((i for i, module in enumerate(path[:-1]) if getattr(module, "output_fmt", None) == _LAST), None)
    return [] if outer is None else [m for m in path[outer + 1 : -1] if not isinstance(m, nn.Sequential)]


def _rolled(path: list[nn.Module]) -> bool:
    """Whether the layer is in the attention of a block of timm's that shifts its windows."""
    pairs = ((outer, inner) for outer, inner in itertools.pairwise(path) if inner is getattr(outer, "attn", None))
    return any(getattr(outer, "shift_size", 0) not in (0, (0, 0)) for outer, _ in pairs)


def _proportional(grid: tuple[int, ...], size: tuple[int, ...]) -> bool:
    """Whether one stride leads from a size to a grid, give or take one position on each side."""
    least = max(side / (count + 1) for count, side in zip(grid, size, strict=True))
    return all(least * (count - 1) < side for count, side in zip(grid, size, strict=True))


def _kind(module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """The layout that a module's type is bound to, when it gives this shape."""
    if isinstance(module, _CHANNELS_FIRST):
        return _FIRST
    if isinstance(module, Permute):
        return {(0, 3, 1, 2): _FIRST, (0, 2, 3, 1): _LAST}.get(tuple(module.dims))
    if isinstance(module, nn.Softmax):
        return _LAST if module.dim in (-1, 3) else None
    forward, widths = type(module).forward, getattr(module, "normalized_shape", ())
    if forward is nn.Linear.forward:
        return _LAST
    if not isinstance(widths, tuple) or len(widths) != 1:
        return None
    if forward in (nn.LayerNorm.forward, nn.RMSNorm.forward):
        return _LAST
    first, last = (shape[i] == widths[0] for i in (1, -1))  # some subclasses permute before and after
    return None if first == last else _FIRST if first else _LAST


def _proof(module: nn.Module, shape: tuple[int, ...]) -> str | None:
    """The layout that a layer's own type fixes, or that of the last in a sequence."""
    kind = _kind(module, shape)
    if kind is not None or type(module).forward is not nn.Sequential.forward:
        return kind
    for child in reversed(list(module.children())):
        kind = _proof(child, shape)
        if kind is not None or not isinstance(child, _ELEMENTWISE):
            return kind
    return None
