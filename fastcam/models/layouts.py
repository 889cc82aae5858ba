"""How a layer arranges what it gives: found by shapes in a forward pass, and refused where they prove nothing."""

import contextlib
import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torchvision.ops import Permute

from fastcam.models.layers import swin_reshape, vit_reshape

Grid: TypeAlias = tuple[int, int]  # h, w
Transform: TypeAlias = Callable[[Tensor], Tensor]  # a layer's output to [N, K, h, w]

_FIRST, _LAST = "NCHW", "NHWC"  # as timm calls them

# Whatever these are given, they take its second dimension for channels.
_CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.Dropout2d,
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


class Readings(NamedTuple):
    """The layouts in which an output of four dimensions can be read, by ever stricter conditions."""

    possible: list[str]  # it is no matrix of attention
    fitting: list[str]  # and h x w has the proportions of the images
    enclosed: list[str]  # and it is no finer than what is around it, as padded windows would be
    within: list[str]  # those, fitting or not, whose h x w is within the grids right around the layer, if there are any
    tokens: bool  # whether only numbers of tokens, and no grids, are right around the layer


class Layouts:
    """The layouts of target layers in one forward pass.

    Maps are [N, K, h, w] or [N, h, w, K]. Which, is decided by the layer's type where that fixes it (a convolution, a
    linear layer); otherwise by the one reading whose h x w has the proportions of the images, up to a position of
    rounding on each side. Where both have them, a pass with a smaller image shows which dimensions are positions.
    Matrices of attention, with a side as long as the tokens or positions around them, are no maps.

    Tokens [N, L, K] are a map where the network is known to keep them row by row and L is what was seen in this pass:
    the number of patches, after `num_prefix_tokens` others in timm's vision transformers, one in torchvision's, and as
    many as they have in Hugging Face's (class, distillation and register tokens), whose stages may have fewer; or the
    number of positions of the surrounding block in timm's networks that give [N, h, w, K], such as Swin.

    Args:
        model: the network, outside of wrappers.
        names: dotted names of the target layers.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        self._model = model
        self._paths = {name: _path(model, name) for name in names}
        self._grids: dict[nn.Module, Grid] = {}  # of patch embeddings
        self._stages: dict[nn.Module, set[Grid]] = {}  # the same of Hugging Face's, of several stages
        self._shapes: dict[nn.Module, list[torch.Size]] = {}  # of what goes in and out
        self._found: dict[str, Transform | None] = {}

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Observe a pass: the grids of patches, and the shapes of what goes in and out around the layers.

        Yields:
            Nothing.
        """

        def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            shapes = [x.shape for x in (*args, output) if isinstance(x, Tensor) and x.dim() in (3, 4)]
            if any(len(shape) == 4 for shape in shapes) and not (isinstance(output, Tensor) and output.dim() == 4):
                shapes.append(torch.Size((1, 1, 1, 1)))  # pooled to one position, or flattened
            self._shapes[module] = shapes

        def grid_of(patches: nn.Module) -> Callable[..., None]:
            def note_grid(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
                self._grids[patches] = output.shape[2], output.shape[3]

            return note_grid

        def stage_of(tower: nn.Module) -> Callable[..., None]:
            def note_stage(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
                self._stages[tower].add((output.shape[2], output.shape[3]))

            return note_stage

        hooks: dict[tuple[nn.Module, nn.Module | None], Callable[..., None]] = {}
        for path in self._paths.values():
            hooks |= {(module, None): note for module in path[1:]}
            if tower := _tower(path):
                self._stages[tower] = set()
                parts = tower.named_modules()
                stages = [part for name, part in parts if isinstance(part, nn.Conv2d) and "patch_embedding" in name]
                hooks |= {(part, tower): stage_of(tower) for part in stages}
            elif patches := _embedding(path)[0]:
                convolutions = (part for part in patches.modules() if isinstance(part, nn.Conv2d))
                hooks |= {(part, patches): grid_of(patches) for part in convolutions}
        with contextlib.ExitStack() as stack:
            for (module, _), hook in hooks.items():
                stack.callback(module.register_forward_hook(hook).remove)
            yield

    def reshape(self, name: str, output: Tensor, images: Tensor, run: Callable[[Tensor], Any]) -> Transform | None:
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
            size = self._size(path, images)
            found: Transform | None = None
            layout: str | None = None
            if len(shape) == 3 and shape[0] == len(images):
                found = self._tokens(path, shape, size)
            elif len(shape) == 4 and shape[0] == len(images):
                layout = self._maps(path, shape, size, images, run)
                found = swin_reshape if layout == _LAST else None
            if found is None and layout != _FIRST:
                height, width = images.shape[-2:]
                raise ValueError(
                    f"the target layer {name!r} must give maps [N, K, h, w], got {list(shape)}, in which nothing shows "
                    f"the positions of {len(images)} images of {height} x {width}; a layer of tokens or of another "
                    "layout needs `reshape_transform`, a function from its output to [N, K, h, w]"
                )
            self._found[name] = found
        return self._found[name]

    def _tokens(self, path: list[nn.Module], shape: tuple[int, ...], size: Grid) -> Transform | None:
        """`vit_reshape` with grid and prefix for tokens [N, L, K], if one of each makes L of what was seen."""
        patches, prefix = _embedding(path)
        grids: set[Grid] = set()
        if (tower := _tower(path)) is not None:
            grids, prefix = self._stages.get(tower, set()), _count_tokens(tower)
            grids = {grid for stage in grids for grid in _halved(stage)} if _merges(tower) else grids
        elif patches is not None:
            grids = {self._grids[patches]} if patches in self._grids else grids
        elif _keeps_rows(path):
            around = (_grids(self._shapes.get(block, []), size) for block in reversed(_around(path)))
            grids = next(filter(None, around), grids)
        # Some networks add the other tokens in later blocks only.
        found = {(grid, count) for grid in grids for count in {0, prefix} if math.prod(grid) + count == shape[1]}
        if len(found) != 1:
            return None
        ((grid, prefix),) = found
        return partial(vit_reshape, grid=grid, prefix=prefix)

    def _maps(
        self,
        path: list[nn.Module],
        shape: tuple[int, ...],
        size: Grid,
        images: Tensor,
        run: Callable[[Tensor], Any],
    ) -> str | None:
        """The layout of an output with four dimensions, or None: the first of these that decides."""
        layer, readings = path[-1], self._readings(path, shape, size)
        # The layer's own type. Padding, cropping and fixed sizes are a convolution's right.
        proof = _proof(layer, shape)
        if proof == _FIRST:
            return _FIRST if _FIRST in readings.possible else None
        if proof == _LAST:
            return _LAST if _LAST in readings.enclosed and _LAST in readings.within else None
        # Nothing that could be a map.
        if not readings.possible or (readings.tokens and not readings.fitting):
            return None
        # The only one with the images' proportions.
        if readings.fitting == readings.enclosed == [_FIRST]:
            return _FIRST
        # The modules around: without such normalisations hardly a network has channels last.
        plain = not any(hasattr(module, "normalized_shape") for module in self._model.modules())
        kinds = ({_kind(module, shape) for module in outer.modules()} - {None} for outer in reversed(path))
        if plain and _FIRST in readings.possible and next(filter(None, kinds), None) == {_FIRST}:
            return _FIRST
        if readings.fitting == readings.enclosed == [_LAST] and not plain:
            return _LAST
        # One more pass, then what the network declares.
        found = self._tried(layer, shape, images, run, bool(readings.fitting))
        if found is None and any(_declares_last(module) for module in path):
            found = _LAST
        return found if found in (readings.enclosed if found == _LAST else readings.possible) else None

    def _readings(self, path: list[nn.Module], shape: tuple[int, ...], size: Grid) -> Readings:
        """The layouts that an output's shape allows, beside the images' size and what was seen around the layer."""
        grids: dict[str, Grid] = {_FIRST: (shape[2], shape[3]), _LAST: (shape[1], shape[2])}
        seen, counts = self._surroundings(path, size)
        # The sides of a matrix of attention are as long as there are positions around, and are no sides of those.
        possible = [layout for layout, grid in grids.items() if not counts & {*grid} or _between(grid, seen)]
        fitting = [layout for layout in possible if _proportional(grids[layout], size)]
        tokens = bool(counts) and not seen
        if tokens:  # a map among them has as many positions
            fitting = [layout for layout in fitting if math.prod(grids[layout]) in counts]
        outer = [around for block in _around(path) if (around := _grids(self._shapes.get(block, ()), size))]
        enclosed = [layout for layout in fitting if all(_between(grids[layout], {(1, 1), *grid}) for grid in outer)]
        within = [layout for layout, grid in grids.items() if not seen or _between(grid, seen)]
        return Readings(possible, fitting, enclosed, within, tokens)

    def _tried(
        self, layer: nn.Module, shape: tuple[int, ...], images: Tensor, run: Callable[[Tensor], Any], tie: bool
    ) -> str | None:
        """Let one more pass decide: in a tie with a smaller image, since positions change with its size, if it runs."""
        found: list[torch.Size] = []
        others: list[nn.Module] = []

        def note(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            if isinstance(output, Tensor):
                if module is layer:
                    found[:] = [output.shape]
                if output.dim() > 2 and _kind(module, output.shape) == _LAST:
                    others.append(module)

        size = images.shape[-2:]
        with contextlib.ExitStack() as stack:
            for module in self._model.modules():
                stack.callback(module.register_forward_hook(note).remove)
            for height, width in [((size[0] + 1) // 2, (size[1] + 1) // 2), size] if tie else [size]:
                # A network may refuse a size by any exception; the layer may have run before.
                with contextlib.suppress(Exception), torch.no_grad():
                    run(images[:1, :, :height, :width])
                if found:
                    break
        if not found or len(found[0]) != 4:
            return None
        changed = [found[0][i] != shape[i] for i in range(4)]
        if tie and changed[1] != changed[3]:
            return _LAST if changed[1] else _FIRST
        # Nothing in the network has channels last: what is left is a map of a fixed size, or another odd one.
        return _FIRST if not others else None

    def _size(self, path: list[nn.Module], images: Tensor) -> Grid:
        """The size of the images where they last went into a module on the way to a layer: wrappers may change it."""
        for module in reversed(path[1:]):
            shapes = [
                shape for shape in self._shapes.get(module, ()) if len(shape) == 4 and shape[:2] == images.shape[:2]
            ]
            convolutions = (part for part in module.modules() if isinstance(part, nn.Conv2d))
            # Three rows of [N, h, w, K] are no three colours.
            if shapes and (first := next(convolutions, None)) is not None and first.in_channels == images.shape[1]:
                return shapes[0][2], shapes[0][3]
        return images.shape[2], images.shape[3]

    def _surroundings(self, path: list[nn.Module], size: Grid) -> tuple[set[Grid], set[int]]:
        """Grids that go in and out of the innermost module around the layer, and numbers of positions or tokens."""
        shapes = next((self._shapes[block] for block in reversed(_around(path)) if self._shapes.get(block)), [])
        grids = _grids(shapes, size)
        counts = {math.prod(grid) for grid in grids} | {shape[1] for shape in shapes if len(shape) == 3}
        return grids, counts - {1}


def _path(model: nn.Module, name: str) -> list[nn.Module]:
    """The modules around a layer, outermost first, and the layer."""
    path = [model]
    for part in name.split(".") if name else ():
        path.append(path[-1].get_submodule(part))
    return path


def _embedding(path: list[nn.Module]) -> tuple[nn.Module | None, int]:
    """What makes patches in the innermost vision transformer around a layer, and its number of prefix tokens."""
    for module in reversed(path):
        patches, prefix = getattr(module, "patch_embed", None), getattr(module, "num_prefix_tokens", None)
        if isinstance(patches, nn.Module) and isinstance(prefix, int):  # timm's
            return patches, prefix
        patches, token = getattr(module, "conv_proj", None), getattr(module, "class_token", None)
        if isinstance(patches, nn.Module) and isinstance(token, Tensor):  # torchvision's
            return patches, 1
        patches, token = getattr(module, "conv1", None), getattr(module, "class_embedding", None)
        if isinstance(patches, nn.Module) and isinstance(token, Tensor):  # open_clip's
            return patches, 1
    return None, 0


def _tower(path: list[nn.Module]) -> nn.Module | None:
    """The outermost network of Hugging Face's around a layer."""
    return next((module for module in path if hasattr(module, "base_model_prefix")), None)


def _count_tokens(tower: nn.Module) -> int:
    """How many tokens of its own a network of Hugging Face's puts before the patches."""
    count = 0
    for name, parameter in tower.named_parameters():
        last = name.rpartition(".")[2]
        if last in ("cls_token", "distillation_token", "register_tokens"):
            count += parameter.shape[1]
        count += last == "class_embedding"
    return count


def _merges(tower: nn.Module) -> bool:
    """Whether it makes four tokens one between its stages, without a convolution, as Swin does."""
    return any(type(module).__name__.endswith("PatchMerging") for module in tower.modules())


def _halved(grid: Grid) -> Iterator[Grid]:
    """A grid, and those that patch merging makes of it."""
    yield grid
    while grid != (1, 1):
        grid = -(-grid[0] // 2), -(-grid[1] // 2)
        yield grid


def _declares_last(module: nn.Module) -> bool:
    """Whether a network of timm's, or its patch embedding, declares that it keeps channels last."""
    return getattr(module, "output_fmt", None) == _LAST


def _around(path: list[nn.Module]) -> list[nn.Module]:
    """The modules around a layer that compute something of their own, but for the network."""
    return [module for module in path[1:-1] if not isinstance(module, nn.Sequential)]


def _keeps_rows(path: list[nn.Module]) -> bool:
    """Whether the layer is in a network of timm's that keeps [N, h, w, K], and flattens it row by row if it does."""
    known = any(_declares_last(module) or hasattr(module, "shift_size") for module in path[:-1])
    return known and not _rolled(path)


def _rolled(path: list[nn.Module]) -> bool:
    """Whether the layer is in the attention of a block that shifts its windows."""
    pairs = ((outer, inner) for outer, inner in itertools.pairwise(path) if inner is getattr(outer, "attn", None))
    return any(getattr(outer, "shift_size", 0) not in (0, (0, 0)) for outer, _ in pairs)


def _proportional(grid: Grid, size: Grid) -> bool:
    """Whether one stride leads from a size to a grid, give or take one position on each side."""
    least = max(side / (count + 1) for count, side in zip(grid, size, strict=True))
    return all(least * (count - 1) < side for count, side in zip(grid, size, strict=True))


def _grids(shapes: Iterable[torch.Size], size: Grid) -> set[Grid]:
    """Those h x w that maps of these shapes can have."""
    both = {(shape[i], shape[i + 1]) for shape in shapes if len(shape) == 4 for i in (1, 2)}
    grids = {grid for grid in both if _proportional(grid, size)}
    return set() if grids == {(1, 1)} else grids  # which says nothing


def _between(grid: Grid, seen: set[Grid]) -> bool:
    """Whether a grid is within the smallest and the largest of those seen."""
    ranges = [(min(sides), max(sides)) for sides in zip(*seen, strict=True)]
    return bool(seen) and all(low <= side <= high for side, (low, high) in zip(grid, ranges, strict=True))


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
