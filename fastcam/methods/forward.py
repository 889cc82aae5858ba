"""One forward pass, observed and then left as it was: features, logits, targets and gradients."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam.methods.smoothing import VIEWS, views
from fastcam.methods.targets import resolve_targets
from fastcam.models import Head, ThresholdedAvgPool2d, find_head, unwrap

Reshape = Sequence[Callable[[Tensor], Tensor] | None]


class Forward:
    """One forward pass as a method sees it, or as several do: see `fastcam.methods.observe`.

    Attributes:
        model: the network itself, outside of wrappers.
        images: [N, 3, H, W]; with `augment` the six views of each, view by view, and so for all that follows.
        count: number of pictures as they came, without their views.
        augmented: whether these are the six views of aug_smooth.
        raw: output of each target layer as it came; the images where those are explained.
        features: the same as [N, K, h, w], without a graph.
        logits: [N, C], without a graph.
        targets: what is to be explained.
        linear: the linear layer whose output the logits are, or None.
        pooled: [N, K], what that layer was given, or None.
        chosen: targets of the pictures as they came, without their views.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        images: Tensor,
        targets: Any,
        top_k: int | None,
        *,
        graph: Literal["images"] | Collection[str] = (),
        reshape: Reshape | None = None,
        augment: bool = False,
        keep: bool = False,
    ) -> None:
        """Run the model on the images; for targets and top_k see `fastcam.methods.Method.__call__`.

        Args:
            model: [N, 3, H, W] to logits [N, C].
            layers: target layers by name.
            images: [N, 3, H, W].
            targets: what is to be explained.
            top_k: instead of targets.
            graph: what `gradients` will be asked for: names of target layers; or the images, if there are no layers.
            reshape: for each layer what turns its output into [N, K, h, w], or None.
            augment: whether to run the six views of aug_smooth; targets are chosen by the plain one.
            keep: whether gradients are kept once they are computed, for other methods to use.
        """
        self.model = unwrap(model)
        check_images(self.model, images)
        self.count, self.augmented = len(images), augment
        self.images = images = views(images.detach()) if augment else images.detach()
        self._modules, self._wanted, self._keep = layers, (targets, top_k), keep
        self._outputs, logits, self.linear, self.pooled = _run(self.model, layers, images, graph)
        self._graph = ["images"] if graph == "images" else list(graph)
        self._pooling: tuple[str, Callable[[Tensor], Tensor]] | None = None
        self._thresholds = _thresholds(self.model)
        if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"the model must give logits [{len(images)}, C] for {len(images)} images, got {got}")
        self._explain(logits)
        self._look(list(self._outputs), reshape)

    def _explain(self, logits: Tensor) -> None:
        """Take these for the network's logits [N, C], with their graph."""
        self._logits, self.logits = logits, logits.detach()
        self.chosen = resolve_targets(*self._wanted, self.logits[: self.count])
        self.targets = self.chosen.repeated(VIEWS) if self.augmented else self.chosen
        self._heads: dict[Any, Head | None] = {}
        self._kept: dict[int, dict[str, Tensor | None]] = {}

    @property
    def last(self) -> Any:
        """The node of the graph that gives the logits, as `Tensor.grad_fn`; None without a graph."""
        return self._logits.grad_fn

    def _look(self, layers: list[str], reshape: Reshape | None) -> None:
        self._layers, self._reshape = layers, list(reshape or [None] * len(layers))
        self.raw = [self._outputs[name] for name in layers]
        self.features = [self._spatial(index, output.detach()) for index, output in enumerate(self.raw)]

    def at(self, layers: Collection[str], reshape: Reshape | None = None) -> Self:
        """See the run as a method with these target layers does; gradients and what else is computed is shared.

        Args:
            layers: names of layers that were observed.
            reshape: for each layer what turns its output into [N, K, h, w], or None.

        Returns:
            The same run.

        Raises:
            ValueError: a layer was not observed, or gives no [N, K, h, w].
        """
        for name in layers:
            if name not in self._outputs:
                raise ValueError(
                    f"the run observed {', '.join(self._outputs)}, but not the target layer {name!r}: pass its method "
                    "to `observe`"
                )
        view = copy.copy(self)
        view._look(list(layers), reshape)
        return view

    def with_pooling(self, pool: nn.Module) -> Self:
        """See the run as if the network had another global pooling before its linear layer.

        Only the head runs, on the last maps that are there already, with all weights as they are: the logits of
        `fastcam.models.to_gap(model, pool)`. Targets are chosen anew, by these logits.

        Args:
            pool: [N, K, h, w] to [N, K, 1, 1], such as `fastcam.models.ThresholdedAvgPool2d`.

        Returns:
            The same run with these logits and targets.

        Raises:
            ValueError: the network has no global pooling and linear layer, or the pooled layer was not observed.
        """
        index = next((i for i in range(len(self._layers)) if self.head(i) is not None), None)
        if index is None or self.linear is None:
            raise ValueError(
                f"another pooling needs a global pooling and one linear layer after one of the observed layers, but in "
                f"{type(self.model).__name__} that is not so after {', '.join(self._layers)}"
            )
        relu = self.head(index).relu

        def pooled(output: Tensor) -> Tensor:
            maps = self._spatial(index, output)
            return pool(maps.relu() if relu else maps).flatten(1)

        view = copy.copy(self)
        view._pooling, view._thresholds = (self._layers[index], pooled), _thresholds(pool)
        with torch.inference_mode(False), torch.set_grad_enabled(self.raw[index].requires_grad):
            # What was made inside inference mode may not enter a graph, a copy may.
            state = (self.linear.weight, self.linear.bias)
            weight, bias = (t.clone() if t is not None and t.is_inference() else t for t in state)
            given = pooled(self.raw[index])
            view.pooled = given.detach()
            view._explain(F.linear(given, weight, bias))
        for i in range(len(self._layers)):
            plain, head = self.head(i), view.head(i)
            if plain is not None and head is not None:  # negative values do not show in a thresholded mean
                view._heads[self._layers[i], self._reshape[i]] = head._replace(relu=plain.relu)
        return view

    def _spatial(self, index: int, output: Tensor) -> Tensor:
        name, transform = self._layers[index], self._reshape[index]
        shaped = output if transform is None else transform(output)
        if not isinstance(shaped, Tensor) or shaped.dim() != 4 or len(shaped) != len(output):
            got = list(shaped.shape) if isinstance(shaped, Tensor) else type(shaped).__name__
            if transform is None:
                raise ValueError(
                    f"the target layer {name!r} must give maps [N, K, h, w], got {got}; a layer of tokens needs "
                    "`reshape_transform`, a function from its output to [N, K, h, w]"
                )
            raise ValueError(f"`reshape_transform` must give [{len(output)}, K, h, w] for {name!r}, got {got}")
        return shaped

    def head(self, layer: int) -> Head | None:
        """Recognise a global pooling and at most one linear layer after a target layer.

        Args:
            layer: index of the target layer.

        Returns:
            See `fastcam.models.find_head`.
        """
        key = self._layers[layer], self._reshape[layer]
        if key not in self._heads:
            pooled = self.logits if self.linear is None else self.pooled
            self._heads[key] = find_head(self.features[layer], self.linear, pooled, self._thresholds)
        return self._heads[key]

    @contextlib.contextmanager
    def variations(self, replacements: dict[nn.Module, Callable[..., Tensor]] | None = None) -> Iterator[nn.Module]:
        """Run the model again, on variations of the pictures or of a layer's output, as it was run before.

        Args:
            replacements: forward hooks by module, in place while the context lasts.

        Yields:
            The model in evaluation mode, to be called without a graph.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.model))
            for module, hook in (replacements or {}).items():
                stack.callback(module.register_forward_hook(hook).remove)
            if self._pooling is not None:
                name, pooled = self._pooling
                given: list[Tensor] = []

                def pool(module: nn.Module, args: tuple, output: Tensor) -> None:
                    given[:] = [pooled(output)]

                stack.callback(self._modules[name].register_forward_hook(pool).remove)
                stack.callback(self.linear.register_forward_pre_hook(lambda module, args: tuple(given)).remove)
            yield self.model

    def gradients(self) -> Iterator[list[Tensor]]:
        """Differentiate the scores, rank by rank, with respect to each target layer's output.

        Yields:
            For each rank the gradients at the target layers, [N, K, h, w] each, in the features' dtype.

        Raises:
            ValueError: a score does not depend on a target layer.
        """
        for rank in range(self.targets.ranks):
            found = self._gradient(rank)
            for name in self._layers:
                if found.get(name) is None:
                    raise ValueError(f"the target does not depend on the layer {name!r}: no gradient reaches it")
            yield [self._spatial(index, found[name]) for index, name in enumerate(self._layers)]

    def differentiate(self) -> None:
        """Compute and keep the gradients that methods of this run will ask for, so that none of them has to."""
        for rank in range(self.targets.ranks):
            self._gradient(rank)

    def _gradient(self, rank: int) -> dict[str, Tensor | None]:
        if rank in self._kept:
            return self._kept[rank]
        found = self._differentiate(rank)
        if self._keep:
            self._kept[rank] = found
        return found

    def _differentiate(self, rank: int) -> dict[str, Tensor | None]:
        """The gradients of one rank at all layers that have a graph, as the layers give their output."""
        last = rank + 1 == self.targets.ranks
        with torch.enable_grad():
            score = self.targets.score(self._logits, rank)
            if not score.requires_grad:
                return dict.fromkeys(self._graph)
            leaves = [self._outputs[name] for name in self._graph]
            found = torch.autograd.grad(score, leaves, retain_graph=self._keep or not last, allow_unused=True)
        return dict(zip(self._graph, found, strict=True))


def _thresholds(module: nn.Module) -> set[float]:
    return {part.threshold for part in module.modules() if isinstance(part, ThresholdedAvgPool2d)}


def check_images(model: nn.Module, images: Tensor) -> None:
    """See that images fit a model as far as can be told before it runs.

    Args:
        model: the network.
        images: what is to be [N, 3, H, W], floating, of the dtype and on the device of the model's parameters.

    Raises:
        TypeError: they are no floating-point tensor, or of another dtype than the parameters outside of autocast.
        ValueError: they are not [N, 3, H, W], or on another device.
    """
    if not isinstance(images, Tensor):
        raise TypeError(f"`images` must be a tensor [N, 3, H, W], got {type(images).__name__}")
    if images.dim() != 4:
        raise ValueError(f"`images` must be [N, 3, H, W], got {list(images.shape)}")
    if not images.is_floating_point():
        raise TypeError(f"`images` must be floating point, normalised as the model wants it, got {images.dtype}")
    parameter = next(model.parameters(), None)
    if parameter is None:
        return
    if parameter.device != images.device:
        raise ValueError(f"the model is on {parameter.device}, the images are on {images.device}")
    if parameter.dtype != images.dtype and not torch.is_autocast_enabled(images.device.type):
        raise TypeError(f"the model is {parameter.dtype}, the images are {images.dtype}")


def _run(
    model: nn.Module, layers: dict[str, nn.Module], images: Tensor, graph: Literal["images"] | Collection[str]
) -> tuple[dict[str, Tensor], Any, nn.Linear | None, Tensor | None]:
    """Run the model once; give the layers' outputs, the logits, and the linear layer they come from with its input.

    The output of the first layer with a graph becomes a leaf: what comes before has no graph, what comes after
    has one, whatever the parameters and the caller's grad mode say. With a graph from the images, those are the leaf.
    """
    outputs: dict[str, Tensor] = {}
    linears: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def capture(name: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise TypeError(f"the target layer {name!r} must give one tensor, got {type(output).__name__}")
            # Cloned, since in-place layers (ReLU) may follow; the network goes on with a copy for the same reason.
            if name not in graph:
                outputs[name] = output.clone()
                return None
            torch.set_grad_enabled(True)
            feature = output.clone()
            outputs[name] = feature if feature.requires_grad else feature.requires_grad_()
            return feature.clone()

        return hook

    def see_linear(module: nn.Linear, args: tuple, output: Tensor) -> None:
        if args:  # a keyword call hides its input, so that no head is recognised
            linears[:] = [(module, args[0], output)]

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())  # also ends what the hooks switch on
        stack.enter_context(evaluation_mode(model))
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(capture(name)).remove)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(see_linear).remove)
        # What was made inside inference mode may not enter a graph, a copy may.
        state = itertools.chain(model.named_parameters(), model.named_buffers())
        copies = {name: tensor.clone() for name, tensor in state if tensor.is_inference()} if graph else {}
        images = images.clone() if graph == "images" or images.is_inference() else images
        if graph == "images":
            outputs["images"] = images.requires_grad_()
            torch.set_grad_enabled(True)
            images = images.clone()  # the first layer may work in place
        logits = torch.func.functional_call(model, copies, images) if copies else model(images)
    for name in layers:
        if name not in outputs:
            raise ValueError(f"the forward pass did not go through the target layer {name!r}")
    outputs = {name: outputs[name] for name in layers} or outputs
    if linears and linears[0][2] is logits:
        linear, pooled, _ = linears[0]
        return outputs, logits, linear, pooled.detach()
    return outputs, logits, None, None


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each of its modules back as it was at the end.

    Args:
        model: the network; compiled code in it runs as it was written, so that hooks are seen.

    Yields:
        Nothing.
    """
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    # Compiled code passes hooks by, so that what is compiled runs as it was written.
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in modules)
    try:
        for module in training:
            module.training = False
        with torch.compiler.set_stance("force_eager") if compiled else contextlib.nullcontext():
            yield
    finally:
        for module in training:
            module.training = True
