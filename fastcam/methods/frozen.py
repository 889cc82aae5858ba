"""A network frozen for many passes: one graph whose constants are folded and whose convolutions do what follows them.

`torch.export` gives the graph. In it a batch normalisation becomes part of the weights before it, and a convolution, an
addition and an activation are one call of oneDNN, with weights laid out once. Nothing is compiled, nothing is kept on
the disk: it takes a second, and each process that does it gets the same graph, and so the same bits.
"""

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from fastcam.methods.forward import Forward
from fastcam.methods.running import evaluation_mode
from fastcam.models import Layouts, unwrap
from fastcam.models.outputs import caller, output_of, read

_TOLERANCE = 1e-4  # of the largest number: far more than rounding, far less than another computation

_aten, _mkldnn = torch.ops.aten, torch.ops.mkldnn
_DEFAULTS: list[Any] = [None, 1, 0, 1, 1]  # bias, stride, padding, dilation, groups, where the graph leaves them out
_ADDITIONS = (_aten.add.Tensor, _aten.add_.Tensor)
# What oneDNN applies to a convolution's result, as it calls it, and the arguments that the graph may leave out.
_ACTIVATIONS: dict[Any, tuple[str, tuple[float, ...]]] = {
    _aten.relu.default: ("relu", ()),
    _aten.relu_.default: ("relu", ()),
    _aten.hardtanh.default: ("hardtanh", (-1.0, 1.0)),
    _aten.hardtanh_.default: ("hardtanh", (-1.0, 1.0)),
    _aten.hardswish.default: ("hardswish", ()),
    _aten.hardswish_.default: ("hardswish", ()),
    _aten.silu.default: ("swish", ()),
    _aten.silu_.default: ("swish", ()),
    _aten.leaky_relu.default: ("leaky_relu", (0.01,)),
    _aten.leaky_relu_.default: ("leaky_relu", (0.01,)),
}


class FreezeError(ValueError):
    """A network that cannot be frozen; the message says why, in a clause."""


class _Frozen(NamedTuple):
    """What runs pictures of one size, or of several."""

    graph: fx.GraphModule
    linear: nn.Linear | None  # the last one


class FrozenNetwork:
    """A network's passes without gradients, made faster. Later changes of the network are not seen.

    Args:
        model: the network.
        layers: target layers by name.
        images: [N, 3, H, W], of the shape, dtype and device of those that will come; their values do not matter.
        sizes: (height, width) of others that will come. One graph serves all sizes at which its numbers are those of
            the network, so that the weights are kept once; another is made where they are not.
        direct: whether nothing but a pooling and a linear layer lies between the target layer and the scores, as a
            graph of gradients has shown: such a graph is not kept.

    Attributes:
        direct: as it was given.
        seconds: that freezing took.

    Raises:
        FreezeError: the network is not one of float32 on a CPU, `torch.export` does not understand it, it changes its
            own buffers, or the graph gives something else than it.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, nn.Module],
        images: Tensor,
        sizes: Iterable[tuple[int, int]] = (),
        direct: bool = False,
    ) -> None:
        began = time.perf_counter()
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else images.dtype
        if images.device.type != "cpu" or dtype != torch.float32 or not torch.backends.mkldnn.is_available():
            got = f"{str(dtype).removeprefix('torch.')} on {images.device}"
            raise FreezeError(f"that is for networks of float32 on a CPU with oneDNN, this one runs in {got}")
        self.model, self._output = unwrap(model), output_of(model)
        self._layers, self.direct = dict(layers), direct
        self._frozen: dict[torch.Size, tuple[_Frozen, Layouts]] = {}
        shapes = (images.shape[1:], *(torch.Size((images.shape[1], *size)) for size in sizes))
        with torch.inference_mode(False), torch.no_grad():
            for shape in dict.fromkeys(shapes):
                few = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
                plain = Forward(model, self._layers, few, None, None, examine=True)
                if plain.batch_statistics:
                    raise FreezeError("it normalises by the statistics of the batch")
                self._frozen[shape] = self._known(plain, few) or self._new(plain, few, len(images)), plain.layouts
        self.seconds = time.perf_counter() - began

    def takes(self, layers: Mapping[str, nn.Module], images: Tensor) -> bool:
        """Whether a pass of these target layers on these images can be its own."""
        return (
            layers.items() <= self._layers.items()
            and images.shape[1:] in self._frozen
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and not torch.is_autocast_enabled("cpu")
        )

    def layouts(self, images: Tensor) -> Layouts:
        """Those of the target layers' outputs for such images."""
        return self._frozen[images.shape[1:]][1]

    def __call__(self, images: Tensor) -> tuple[dict[str, Tensor], Tensor, tuple[nn.Linear, Tensor] | None]:
        """Run it on any number of images; the layers' outputs, the scores, and the last linear layer with its input."""
        return self._run(self._frozen[images.shape[1:]][0], images)

    def scores(self, images: Tensor) -> Tensor:
        """The scores alone, [N, C] or dense, [N, C, H, W]."""
        return self(images)[1]

    def _run(
        self, frozen: _Frozen, images: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, tuple[nn.Linear, Tensor] | None]:
        with torch.no_grad():
            scores, outputs, given = frozen.graph(images.contiguous(memory_format=torch.channels_last))
        linear = None if frozen.linear is None else (frozen.linear, given)
        return dict(zip(self._layers, outputs, strict=True)), scores, linear

    def _known(self, plain: Forward, images: Tensor) -> _Frozen | None:
        """A graph of another size that serves these images."""
        for frozen in dict.fromkeys(frozen for frozen, _ in self._frozen.values()):
            with contextlib.suppress(FreezeError):
                self._check(frozen, plain, images)
                return frozen
        return None

    def _new(self, plain: Forward, images: Tensor, count: int) -> _Frozen:
        """A graph of its own, for this number of images."""
        frozen = self._exported(images)
        _keep_the_input(frozen.graph)
        _fuse(frozen.graph, count)
        self._check(frozen, plain, images)
        return frozen

    def _exported(self, images: Tensor) -> _Frozen:
        """The graph from images, any number of them, to what `__call__` gives."""
        outputs: dict[str, Tensor] = {}
        linears: list[tuple[nn.Linear, Tensor]] = []

        def keep(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
                outputs[name] = output.clone()  # a layer that works in place may follow

            return hook

        def see_linear(module: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
            if args:
                linears[:] = [(module, args[0])]

        class Observed(nn.Module):
            def __init__(self, model: nn.Module) -> None:
                super().__init__()
                self.model = model

            def forward(self, images: Tensor) -> tuple[Tensor, list[Tensor], Tensor | None]:
                scores = read(call(images), images.shape[0], output)  # whose number stays open
                return scores, [outputs[name] for name in names], linears[0][1] if linears else None

        names, call, output = list(self._layers), caller(self.model), self._output
        with ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.model))
            for name, layer in self._layers.items():
                stack.callback(layer.register_forward_hook(keep(name)).remove)
            for module in self.model.modules():
                if isinstance(module, nn.Linear):
                    stack.callback(module.register_forward_hook(see_linear).remove)
            batch = ({0: torch.export.Dim.AUTO},)
            try:
                exported = torch.export.export(Observed(self.model), (images,), dynamic_shapes=batch, strict=False)
            except Exception as error:  # whatever torch runs into
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                raise FreezeError(f"torch.export does not understand it: {reason}") from error
        graph = exported.module(check_guards=False)
        graph._forward_pre_hooks.clear()  # which refuse other sizes; `_check` knows better
        return _Frozen(graph, next((module for module, _ in linears), None))

    def _check(self, frozen: _Frozen, plain: Forward, images: Tensor) -> None:
        """Compare passes of two images and of one with the network's own."""
        for count in (2, 1):
            try:
                outputs, scores, _ = self._run(frozen, images[:count])
            except RuntimeError as error:
                raise FreezeError(f"its graph fails on {count} pictures: {str(error).splitlines()[0]}") from error
            for found, wanted in zip([*outputs.values(), scores], [*plain.raw, plain.given], strict=True):
                largest = wanted.abs().max()
                if (
                    found.shape != wanted[:count].shape
                    or not ((found - wanted[:count]).abs() <= _TOLERANCE * largest).all()
                ):
                    raise FreezeError("its graph gives other numbers than it, as where chance or a counter decides")


def _aliased(node: fx.Node) -> bool:
    """Whether an operation gives, or changes, the memory of its first argument."""
    arguments = _arguments(node)
    return bool(arguments) and arguments[0].alias_info is not None


def _in_place(node: fx.Node) -> bool:
    return _aliased(node) and _arguments(node)[0].alias_info.is_write


def _arguments(node: fx.Node) -> Any:
    return getattr(getattr(node.target, "_schema", None), "arguments", ())


def _keep_the_input(module: fx.GraphModule) -> None:
    """Let a graph that works on its input in place do so on a copy; FreezeError where it is on constants."""
    graph, changed = module.graph, set[fx.Node]()
    for node in graph.nodes:
        if _in_place(node):
            root: Any = node
            while _aliased(root):
                root = root.args[0]
            changed.add(root)
    if any(root.op == "get_attr" for root in changed):
        raise FreezeError("it changes its own buffers as it runs")
    for images in graph.find_nodes(op="placeholder"):
        if images in changed:
            with graph.inserting_after(images):
                copy = graph.call_function(_aten.clone.default, (images,))
            images.replace_all_uses_with(copy)
            copy.args = (images,)
    module.recompile()


def _fuse(module: fx.GraphModule, count: int) -> None:
    """Let convolutions do what follows them; their weights are laid out for this number of images."""
    for node in module.graph.find_nodes(op="call_function", target=_aten.conv2d.default):
        convolution = _Convolution(module, node)
        if convolution.take_constants():
            convolution.take_normalization()
            convolution.take_addition()
            convolution.take_activation()
            convolution.replace(count)
    module.graph.eliminate_dead_code()
    module.recompile()


class _Convolution:
    """A convolution and what follows it, as far as oneDNN does that in the same call."""

    def __init__(self, module: fx.GraphModule, node: fx.Node) -> None:
        self._module, self._chain = module, [node]
        arguments: Any = node.args
        x, self._weight_node, *given = list(arguments)
        self._bias_node, stride, padding, dilation, self._groups = [*given, *_DEFAULTS[len(given) :]]
        self._x: fx.Node = x
        # In oneDNN's order.
        self._where = [[value] * 2 if isinstance(value, int) else [*value] for value in (padding, stride, dilation)]
        self._other: fx.Node | None = None
        self._activation: str | None = None
        self._scalars: list[float] = []

    def take_constants(self) -> bool:
        """Take weight and bias; False if they are computed."""
        weight, self._bias = self._constant(self._weight_node), self._constant(self._bias_node)
        if weight is None or (self._bias_node is not None and self._bias is None):
            return False
        self._weight = weight
        return True

    def take_normalization(self) -> None:
        """Make a batch normalisation, in float64, a part of weight and bias."""
        node = self._following([_aten.batch_norm.default])
        if node is None:
            return
        arguments: Any = node.args
        scale, shift, mean, var = (self._constant(part) for part in arguments[1:5])
        if mean is None or var is None:
            return
        factor = (var.double() + arguments[7]).rsqrt() * (1 if scale is None else scale.double())
        offset = (0 if self._bias is None else self._bias.double()) - mean.double()
        self._weight = (self._weight.double() * factor[:, None, None, None]).float()
        self._bias = (offset * factor + (0 if shift is None else shift.double())).float()
        self._chain.append(node)

    def take_addition(self) -> None:
        """Add what has the same shape; the convolution then runs where that is known."""
        node, last = self._following(_ADDITIONS), self._chain[-1]
        if node is None or node.kwargs:
            return
        other = node.args[1] if node.args[0] is last else node.args[0]
        if not isinstance(other, fx.Node) or other is last or not _shape(other) == _shape(node) == _shape(last):
            return
        # In place it must be the result that is added to; and the input must not change on the way.
        moved = node.args[0] is last or not _in_place(node)
        if moved and not any(_in_place(user) and user.args[0] is self._x for user in self._x.users):
            self._other = other
            self._chain.append(node)

    def take_activation(self) -> None:
        """Apply a function to each number."""
        node = self._following(_ACTIVATIONS)
        if node is not None:
            arguments: Any = node.args
            self._activation, defaults = _ACTIVATIONS[node.target]
            self._scalars = [*arguments[1:], *defaults[len(arguments) - 1 :]]
            self._chain.append(node)

    def replace(self, count: int) -> None:
        """Put one call in the place of all that was taken."""
        graph, last = self._module.graph, self._chain[-1]
        size = [count, *_shape(self._x)[1:]]
        fixed = size if all(isinstance(side, int) for side in size) else None
        where = [*self._where, self._groups]
        packed = _mkldnn._reorder_convolution_weight(self._weight, *where, fixed)
        with graph.inserting_before(last):
            constants = [value if value is None else self._attribute(value) for value in (packed, self._bias)]
            if self._other is None:
                target: Any = _mkldnn._convolution_pointwise.default
                arguments: Any = (self._x, *constants, *where, self._activation or "none", self._scalars, None)
            else:
                target, binary = _mkldnn._convolution_pointwise.binary, ("add", 1.0)
                arguments = (self._x, self._other, *constants, *where, *binary, self._activation, self._scalars, None)
            fused = graph.call_function(target, arguments)
        fused.meta = last.meta
        last.replace_all_uses_with(fused)
        for node in reversed(self._chain):
            graph.erase_node(node)

    def _following(self, targets: Collection[Any]) -> fx.Node | None:
        """What works on the last node's result, if it is one of these operations, and nothing else does."""
        users = list(self._chain[-1].users)
        return users[0] if len(users) == 1 and users[0].target in targets else None

    def _constant(self, node: Any) -> Tensor | None:
        fixed = isinstance(node, fx.Node) and node.op == "get_attr"
        return attrgetter(str(node.target))(self._module).detach() if fixed else None

    def _attribute(self, value: Tensor) -> fx.Node:
        name = f"_frozen_{len(self._module._buffers)}"
        self._module.register_buffer(name, value)
        return self._module.graph.get_attr(name)


def _shape(node: fx.Node) -> torch.Size:
    return node.meta["val"].shape
