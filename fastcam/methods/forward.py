"""One forward pass, observed and then left as it was: features, logits, targets and gradients."""

import contextlib
import copy
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeAlias
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from fastcam.methods.matrices import KeepAttention
from fastcam.methods.running import KeepGradients, WatchBatchStatistics, check_images, evaluation_mode
from fastcam.methods.smoothing import VIEWS, mirrored, views
from fastcam.methods.targets import Targets, resolve_targets
from fastcam.models import Head, Layouts, ThresholdedAvgPool2d, find_head, unwrap
from fastcam.models.outputs import OutputError, arguments, caller, output_of, per_class, read

if TYPE_CHECKING:
    from fastcam.methods.frozen import FrozenNetwork

ReshapeTransform: TypeAlias = Callable[[Tensor], Tensor]  # a layer's output to [N, K, h, w]

IMAGES = ""  # among target layers: the images themselves, by the name of the network, whose input they are

# Operations between the last maps and the logits that leave the gradient of a pooling and a linear layer as it is.
_PLAIN = {"AddmmBackward0", "MmBackward0", "ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0"}
_PLAIN |= {"SqueezeBackward0", "SqueezeBackward1", "SqueezeBackward2", "UnsqueezeBackward0", "CloneBackward0"}
_PLAIN |= {"ToCopyBackward0", "AliasBackward0", "PermuteBackward0", "TransposeBackward0", "AccumulateGrad"}
_STRIDED = {"AsStridedBackward0", "AsStridedBackward1"}
_POOLINGS = {
    "gap": {"MeanBackward1", "AdaptiveAvgPool2DBackward0", "AvgPool2DBackward0", "SumBackward1", "DivBackward0"},
    "gmp": {"AdaptiveMaxPool2DBackward0", "MaxPool2DWithIndicesBackward0", "AmaxBackward0", "MaxBackward0"},
    "tap": {"SumBackward1", "DivBackward0", "WhereBackward0"},
}


_ATTENTION = "the attention in "


def attention_in(layer: str) -> str:
    """The name, among what a run observes, of the matrix of attention in a layer."""
    return _ATTENTION + layer


def no_gradient(place: str) -> ValueError:
    """The error that a target does not depend on a place in the network."""
    return ValueError(
        f"the target does not depend on {place}: no gradient reaches it. What the network computes outside of "
        "autograd (in NumPy, in torch.inference_mode, in whole or quantised numbers) passes none; EigenCAM and "
        "ScoreCAM need none"
    )


def checkpointed(model: nn.Module) -> ValueError:
    """The error that attention was not computed again as it was kept."""
    return ValueError(
        f"{type(model).__name__} computes its activations again for gradients (gradient checkpointing), by which the "
        "matrices of attention are lost: switch it off, in timm's networks by model.set_grad_checkpointing(False)"
    )


class LastLinear(NamedTuple):
    """The linear layer that ran last in a pass."""

    linear: nn.Linear
    pooled: Tensor  # [N, K], its input
    recomputed: Tensor  # [N, C], what its weight and bias give for that


class OtherPooling(NamedTuple):
    """A global pooling in place of the network's own, before its linear layer."""

    layer: str  # whose output is pooled
    pool: nn.Module
    pooled: Callable[[Tensor], Tensor]  # that output to [N, K]
    linear: nn.Linear


@dataclass
class _Shared:
    """What all views of a run have in common, once it is computed."""

    proved: bool | None = None  # whether the logits are the last linear layer's output
    whole: "Forward | None" = None  # the run with the graph where the network stops it


class Forward:
    """One forward pass as a method sees it, or as several do: see `fastcam.methods.observe`.

    Attributes:
        model: the network itself, outside of wrappers.
        output: what of its output are the scores, see `fastcam.models.with_output`.
        images: [N, 3, H, W]; with `augment` the six views of each, view by view, and so for all that follows; with
            `mirror` the two.
        count: number of pictures, without their views.
        augmented: whether these are the six views of aug_smooth.
        size: (H, W) of the pictures.
        raw: output of each target layer as the layer gives it; the images where those are explained.
        features: the same as [N, K, h, w], without a graph.
        reshape: what turns each target layer's output into those, or None.
        logits: [N, C], without a graph; of dense scores the means; [N, 0] of a network without, where none are needed.
        given: the scores as the network gives them, [N, C] or dense ones, [N, C, H, W]; callables see a picture's.
        targets: what is to be explained.
        chosen: the targets of the pictures, without their views.
        last: the linear layer that ran last, whether or not the logits are its output.
        layouts: of the target layers' outputs.
        batch_statistics: whether the network normalised by the statistics of the batch, if `examine` is set.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: dict[str, nn.Module],
        images: Tensor,
        targets: Any,
        top_k: int | None,
        *,
        graph: Collection[str] = (),
        reshape: Sequence[ReshapeTransform | None] | None = None,
        augment: bool = False,
        mirror: bool = False,
        keep: bool = False,
        examine: bool = False,
        frozen: "FrozenNetwork | None" = None,
        attention: Mapping[str, nn.Module] | None = None,
        scored: bool = True,
    ) -> None:
        """Run the model on the images; for targets and top_k see `fastcam.methods.Method.__call__`.

        Args:
            model: [N, 3, H, W] to logits [N, C], or what `fastcam.models.with_output` makes that of.
            layers: target layers by name; `IMAGES: model` for the images, which always have a graph.
            images: [N, 3, H, W].
            targets: what is to be explained.
            top_k: instead of targets.
            graph: what `gradients` will be asked for: names of target layers.
            reshape: for each layer what turns its output into [N, K, h, w]; None where the shapes decide.
            augment: whether to run the six views of aug_smooth; targets are chosen by the plain one.
            mirror: whether to run the mirror images, too, likewise.
            keep: whether gradients are kept once they are computed, for other methods to use.
            examine: whether to look for what makes pictures depend on each other.
            frozen: the same network, frozen: it runs instead, where it takes such a pass.
            attention: those target layers whose matrices of attention are kept, with a graph where the layers have one;
                none where attention is only to be computed step by step; None leaves it as it is.
            scored: whether the network must give scores.
        """
        self.model, self.output = unwrap(model), output_of(model)
        check_images(self.model, images)
        self.count, self.augmented = len(images), augment
        images = images.detach()
        self.images = images = views(images) if augment else mirrored(images) if mirror else images
        self._repeats = VIEWS if augment else 2 if mirror else 1
        self._modules, self._wanted, self._keep, self._attention = layers, (targets, top_k), keep, attention
        self._graph = list(graph)
        self._frozen = None if graph or frozen is None or not frozen.takes(layers, images) else frozen
        statistics = WatchBatchStatistics() if examine else None
        named = [name for name in layers if name != IMAGES]
        self.layouts: Layouts = Layouts(self.model, named) if self._frozen is None else self._frozen.layouts(images)
        if self._frozen is not None:
            self._outputs, given, linear = self._frozen(images)
        else:
            with self.layouts.watch(), statistics or contextlib.nullcontext():
                self._outputs, given, linear = _run_once(self.model, layers, images, graph, attention)
                given = self._read(given, scored)
        self._graph = [name for name in self._outputs if name.removeprefix(_ATTENTION) in graph]
        self.last = _recomputed(*linear) if linear else None
        self.batch_statistics = statistics is not None and statistics.seen
        self._pooling: OtherPooling | None = None
        self._thresholds = _thresholds(self.model)
        self._take_scores(given)
        self._all = list(layers), reshape
        self._take_layers(*self._all)

    def _read(self, given: Any, scored: bool) -> Tensor:
        """The scores in what the network gave, [N, C] or [N, C, H, W]."""
        try:
            with torch.set_grad_enabled(bool(self._graph)):
                return read(given, len(self.images), self.output)
        except OutputError:
            if scored or self._wanted != (None, None):
                raise
            return self.images.new_empty(len(self.images), 0)

    def _take_scores(self, given: Tensor) -> None:
        """Explain these scores [N, C] or [N, C, H, W], with their graph."""
        self.given = given
        with torch.set_grad_enabled(given.requires_grad):
            self._logits = per_class(given)
        self.logits = self._logits.detach()
        self._other: Callable[[Tensor, int], Tensor] | None = None
        self.chosen = resolve_targets(*self._wanted, self.logits[: self.count])
        self.targets: Targets = self.chosen.repeated(self._repeats)
        self._heads: dict[tuple[str, ReshapeTransform | None], Head | None] = {}
        self._kept: dict[int, dict[str, Tensor]] = {}
        self._shared = _Shared()

    @property
    def _head(self) -> LastLinear | None:
        """The last linear layer, if the logits are its output, as their numbers prove."""
        if self._shared.proved is None:
            self._shared.proved = self.last is not None and _same(self.last, self.logits)
        return self.last if self._shared.proved else None

    @property
    def linear(self) -> nn.Linear | None:
        """The linear layer whose output the logits are, as their numbers prove, or None."""
        head = self._head
        return None if head is None else head.linear

    @property
    def pooled(self) -> Tensor:
        """What that layer was given, [N, K]; without one the logits themselves."""
        head = self._head
        return self.logits if head is None else head.pooled

    @property
    def grad_fn(self) -> Any:
        """The node of the graph that gives the scores; None without a graph."""
        return self.given.grad_fn

    def _take_layers(self, layers: list[str], reshape: Sequence[ReshapeTransform | None] | None) -> None:
        self._layers, self.raw = layers, [self._outputs[name] for name in layers]
        self.reshape = list(reshape or [None] * len(layers))
        for index, (name, output) in enumerate(zip(layers, self.raw, strict=True)):
            if self.reshape[index] is None and name != IMAGES:
                self.reshape[index] = self.layouts.reshape(name, output, self.images, self._run_again)
        self.features = [
            self._spatial(index, output.detach(), len(self.images)) for index, output in enumerate(self.raw)
        ]

    def _run_again(self, images: Tensor) -> None:
        with self.variations() as model:
            model(images.clone())  # a network may work on its input in place

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the pictures."""
        return self.images.shape[-2], self.images.shape[-1]

    def at(self, layers: Collection[str], reshape: Sequence[ReshapeTransform | None] | None = None) -> Self:
        """The same run as a method with these target layers, which were observed, sees it; what is computed is shared.

        ValueError: a layer was not observed, or gives no [N, K, h, w].
        """
        for name in layers:
            if name not in self._outputs:
                raise ValueError(
                    f"the run observed {', '.join(self._all[0])}, but not the target layer {name!r}: pass its method "
                    "to `observe`"
                )
        view = copy.copy(self)
        view._take_layers(list(layers), reshape)
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
        heads = [self.head(i) for i in range(len(self._layers))]
        index, head = next(((i, head) for i, head in enumerate(heads) if head is not None), (0, None))
        linear = self.linear
        if head is None or linear is None:
            raise ValueError(
                f"another pooling needs a global pooling and one linear layer after one of the observed layers, but in "
                f"{type(self.model).__name__} that is not so after {', '.join(self._layers)}"
            )
        relu = head.relu

        def pooled(output: Tensor) -> Tensor:
            maps = self._spatial(index, output)
            return pool(maps.relu() if relu else maps).flatten(1)

        view = copy.copy(self)
        view._pooling = OtherPooling(self._layers[index], pool, pooled, linear)
        view._thresholds = _thresholds(pool)
        with torch.inference_mode(False), torch.set_grad_enabled(self.raw[index].requires_grad):
            # What was made inside inference mode may not enter a graph, a copy may.
            weight = linear.weight.clone() if linear.weight.is_inference() else linear.weight
            bias = linear.bias.clone() if linear.bias is not None and linear.bias.is_inference() else linear.bias
            given = pooled(self.raw[index])
            logits = F.linear(given, weight, bias)
            view.last = LastLinear(linear, given.detach(), logits.detach())
            view._take_scores(logits)
        for i, plain in enumerate(heads):
            other = view.head(i)
            if plain is not None and other is not None:  # negative values do not show in a thresholded mean
                view._heads[self._layers[i], self.reshape[i]] = other._replace(relu=plain.relu)
        return view

    def _spatial(self, index: int, output: Tensor, count: int | None = None) -> Tensor:
        """A layer's output, or its gradient, as [N, K, h, w]; where N is not known, any."""
        transform = self.reshape[index]
        shaped = output if transform is None else transform(output)
        if not isinstance(shaped, Tensor) or shaped.dim() != 4 or count not in (None, len(shaped)):
            got = list(shaped.shape) if isinstance(shaped, Tensor) else type(shaped).__name__
            wanted = f"[{'N' if count is None else count}, K, h, w] for {self._layers[index]!r}"
            raise ValueError(f"`reshape_transform` must give {wanted}, got {got}")
        return shaped

    def head(self, layer: int) -> Head | None:
        """The global pooling and at most one linear layer after a target layer: see `fastcam.models.find_head`."""
        key = self._layers[layer], self.reshape[layer]
        if key not in self._heads:
            self._heads[key] = find_head(self.features[layer], self.linear, self.pooled, self._thresholds)
        return self._heads[key]

    @contextlib.contextmanager
    def variations(
        self, replacements: dict[nn.Module, Callable[..., Tensor]] | None = None
    ) -> Iterator[Callable[[Tensor], Tensor]]:
        """The model as it was run, from variations of the pictures to scores as in `given`, without a graph.

        The replacements are forward hooks by module, for variations of a layer's output.
        """
        if self._frozen is not None and not replacements and self._pooling is None:
            yield self._frozen.scores
            return
        with contextlib.ExitStack() as stack:
            stack.enter_context(evaluation_mode(self.model))
            for module, hook in (replacements or {}).items():
                stack.callback(module.register_forward_hook(hook).remove)
            stack.enter_context(self._pooled_otherwise())
            call = caller(self.model)
            yield lambda images: read(call(images), len(images), self.output)

    @contextlib.contextmanager
    def _pooled_otherwise(self) -> Iterator[None]:
        """While entered, the network has the pooling of `with_pooling`."""
        if self._pooling is None:
            yield
            return
        name, _, pooled, linear = self._pooling
        given: list[Tensor] = []

        def pool(module: nn.Module, args: tuple[object, ...], output: Tensor) -> None:
            given[:] = [pooled(output)]

        with contextlib.ExitStack() as stack:
            stack.callback(self._modules[name].register_forward_hook(pool).remove)
            stack.callback(linear.register_forward_pre_hook(lambda module, args: tuple(given)).remove)
            yield

    def has_plain_path(self, layer: int, head: Head, strided: bool = False) -> bool:
        """Whether the graph has nothing but the head's pooling and linear layer between a target layer and the logits.

        The gradient of a logit is then known from the head's weight. With `strided` other views may lie between, as
        pooling makes them with channels last: what they show is right where the head's numbers are.
        """
        if self._frozen is not None:
            return self._frozen.direct
        output = self._outputs[self._layers[layer]]
        allowed = _PLAIN | _POOLINGS[head.pool] | (_STRIDED if strided else set())
        return output.requires_grad and _leads_by(allowed, self._logits.grad_fn, output, {}) is True

    def gradients(self) -> Iterator[list[Tensor]]:
        """For each rank the gradients of its scores at the target layers, [N, K, h, w] each, in the features' dtype.

        Where the network stops all gradients on their way to a layer (a frozen trunk in `torch.no_grad`, `detach`, a
        checkpoint that takes none), it runs once more without that. ValueError: a score does not depend on a layer.
        """
        for found in self.plain_gradients(self._layers):
            yield [self._spatial(index, gradient) for index, gradient in enumerate(found)]

    def plain_gradients(self, names: Sequence[str]) -> Iterator[list[Tensor]]:
        """As `gradients`, of the outputs of some layers as they are, or of what `attention_in` names."""
        for rank in range(self.targets.ranks):
            found = self._gradient(rank)
            if not found.keys() >= set(names):
                found = self._with_whole_graph()._gradient(rank)
            for name in names:
                if name not in found:
                    raise no_gradient(name if name.startswith(_ATTENTION) else f"the layer {name!r}")
            yield [found[name] for name in names]

    def attention(self, layers: Iterable[str]) -> list[Tensor]:
        """The matrices of attention [N, heads, L, L] in these layers, with their graph where they have one.

        ValueError: that of a layer was not kept.
        """
        for name in layers:
            if attention_in(name) not in self._outputs:
                raise ValueError(f"the run did not keep the attention in {name}: pass its method to `observe`")
        return [self._outputs[attention_in(name)] for name in layers]

    def as_map(self, layer: int, values: Tensor) -> Tensor:
        """One value for each token of a target layer, [N, L], as the layer's map [N, h, w]."""
        return self._spatial(layer, values[..., None], len(self.images))[:, 0]

    def read_out(self, tokens: Tensor, blocks: Sequence[nn.Module]) -> Tensor:
        """The scores, as in `given`, that the network would have if the last of its blocks gave these tokens.

        Everything around the blocks runs once more, with a graph from the tokens on; the blocks themselves do not.
        """

        def passed(*args: Tensor, **kwargs: Tensor) -> Tensor:
            return next(iter((*args, *kwargs.values())))

        def replaced(*args: object, **kwargs: object) -> Tensor:
            torch.set_grad_enabled(True)
            return tokens.clone()  # what follows may work on it in place

        copies = _outside_inference(self.model)
        with torch.no_grad(), evaluation_mode(self.model), contextlib.ExitStack() as stack:
            for block in blocks[:-1]:
                stack.enter_context(mock.patch.object(block, "forward", passed))
            stack.enter_context(mock.patch.object(blocks[-1], "forward", replaced))
            images = self.images.clone()  # a network may work on its input in place
            return read(_called(self.model, images, copies), len(images), self.output)

    def explaining(self, score: Callable[[Tensor, int], Tensor]) -> Self:
        """The same run, where `gradients` are those of another score.

        It is a function of `given` and the rank, and sums over the pictures, as `Targets.score`.
        """
        view = copy.copy(self)
        view._other, view._kept, view._shared = score, {}, _Shared(self._shared.proved)
        return view

    @property
    def explains_logits(self) -> bool:
        """Whether what is explained are logits of classes as they are."""
        return self._other is None and self.targets.classes is not None

    def _score(self, rank: int) -> Tensor:
        return (self._other or self.targets.score)(self.given, rank)

    def second_order(self) -> Iterator[list[tuple[Tensor, Tensor]]]:
        """For each rank and layer the gradient G, and the Hessian of the score times the activations, [N, K, h, w]."""
        for rank in range(self.targets.ranks):
            found = self._products(rank)
            if len(found) < len(self._layers):
                found = self._with_whole_graph().at(self._layers, self.reshape)._products(rank)
            for name in self._layers:
                if name not in found:
                    raise no_gradient(f"the layer {name!r}")
            yield [
                (self._spatial(index, found[name][0]), self._spatial(index, found[name][1]))
                for index, name in enumerate(self._layers)
            ]

    def _products(self, rank: int) -> dict[str, tuple[Tensor, Tensor]]:
        """Gradient, and Hessian times activations, of one rank at the layers that the gradient reaches."""
        with torch.enable_grad():
            score = self._score(rank)
            if not score.requires_grad:
                return {}
            gradients = torch.autograd.grad(score, self.raw, create_graph=True, allow_unused=True)
            found = {}
            for name, output, gradient in zip(self._layers, self.raw, gradients, strict=True):
                if gradient is None:
                    continue
                second = None
                if gradient.requires_grad:
                    (second,) = torch.autograd.grad(
                        gradient, output, output.detach(), retain_graph=True, allow_unused=True
                    )
                found[name] = gradient.detach(), torch.zeros_like(gradient) if second is None else second.detach()
        return found

    def through_all(self, layers: Collection[nn.Module]) -> Iterator[tuple[Tensor, list[tuple[nn.Module, Tensor]]]]:
        """The gradients of all scores through the whole network, which runs once more.

        Yields:
            For each rank the gradient in the images, and those at the maps [N, K, h, w] that layers give, one for each
            use of a layer that the score depends on.

        Raises:
            ValueError: the score does not depend on the images.
        """
        images, outputs, given = self._traced(layers)
        for rank in range(self.targets.ranks):
            found = self._from(images, outputs, given, rank)
            if found is None:
                with KeepGradients():
                    images, outputs, given = self._traced(layers)
                found = self._from(images, outputs, given, rank)
            if found is None:
                raise no_gradient("the images")
            yield found

    def _traced(self, layers: Collection[nn.Module]) -> tuple[Tensor, list[tuple[nn.Module, Tensor]], Tensor]:
        """Images as a leaf, the maps of layers, and scores, with a graph."""
        outputs: list[tuple[nn.Module, Tensor]] = []

        def keep(module: nn.Module, args: tuple[object, ...], output: object) -> Tensor | None:
            if not isinstance(output, Tensor) or output.dim() != 4:
                return None
            outputs.append((module, output))
            return output.clone()  # what follows may work on it in place

        copies = _outside_inference(self.model)
        with torch.no_grad(), evaluation_mode(self.model), self._pooled_otherwise(), contextlib.ExitStack() as stack:
            for layer in layers:
                stack.callback(layer.register_forward_hook(keep).remove)
            images = self.images.clone().requires_grad_()
            torch.set_grad_enabled(True)
            given = read(_called(self.model, images.clone(), copies), len(images), self.output)
        return images, outputs, given

    def _from(
        self, images: Tensor, outputs: list[tuple[nn.Module, Tensor]], given: Tensor, rank: int
    ) -> tuple[Tensor, list[tuple[nn.Module, Tensor]]] | None:
        with torch.enable_grad():
            score = self.targets.score(given, rank)
            if not score.requires_grad:
                return None
            leaves = [images, *(output for _, output in outputs if output.requires_grad)]
            of_images, *found = torch.autograd.grad(score, leaves, retain_graph=True, allow_unused=True)
        if of_images is None:
            return None
        modules = [module for module, output in outputs if output.requires_grad]
        pairs = zip(modules, found, strict=True)
        return of_images, [(module, gradient) for module, gradient in pairs if gradient is not None]

    def differentiate(self) -> None:
        """Compute and keep the gradients that methods of this run will ask for, so that none of them has to."""
        for rank in range(self.targets.ranks):
            self._gradient(rank)

    def _gradient(self, rank: int) -> dict[str, Tensor]:
        if rank in self._kept:
            return self._kept[rank]
        found = self._differentiate(rank)
        if self._keep:
            self._kept[rank] = found
        return found

    def _differentiate(self, rank: int) -> dict[str, Tensor]:
        """The gradients of one rank at all layers that they reach, as the layers give their output."""
        last = rank + 1 == self.targets.ranks
        with torch.enable_grad():
            score = self._score(rank)
            if not score.requires_grad:
                return {}
            leaves = [self._outputs[name] for name in self._graph]
            try:
                found = torch.autograd.grad(score, leaves, retain_graph=self._keep or not last, allow_unused=True)
            except RuntimeError as error:
                if isinstance(error, CheckpointError):
                    raise checkpointed(self.model) from None
                if "use_reentrant" not in str(error):
                    raise
                return {}
        pairs = zip(self._graph, found, strict=True)
        return {name: gradient for name, gradient in pairs if gradient is not None}

    def _with_whole_graph(self) -> "Forward":
        """The same run again, where nothing in the network stops gradients; made once for all views of this one."""
        if self._shared.whole is None:
            view = copy.copy(self)
            with torch.inference_mode(False), torch.no_grad(), KeepGradients():
                view._outputs, given, linear = _run_once(
                    self.model, self._modules, self.images, self._modules, self._attention
                )
                view._graph = list(view._outputs)
                given = view._read(given, True)
            view.last = _recomputed(*linear) if linear else None
            view._pooling, view._thresholds = None, _thresholds(self.model)
            view._take_scores(given)
            view._other = self._other
            view._take_layers(*self._all)
            self._shared.whole = view if self._pooling is None else view.with_pooling(self._pooling.pool)
        return self._shared.whole


def _same(last: LastLinear, logits: Tensor) -> bool:
    """Whether the logits are what the last linear layer's weight and bias give, up to the order of summation."""
    if last.recomputed.shape != logits.shape:
        return False
    if torch.equal(last.recomputed, logits):
        return True
    exact = torch.promote_types(logits.dtype, torch.float32)
    weight = last.linear.weight.detach().to(exact)
    recomputed, logits, pooled = (tensor.to(exact) for tensor in (last.recomputed, logits, last.pooled))
    size = (pooled.square() @ weight.square().T).sqrt()
    tolerance = torch.finfo(last.recomputed.dtype).eps * (8 + weight.shape[1] ** 0.5)
    return not ((recomputed - logits).abs() > tolerance * size).any()  # NaN is no objection: it shows in the map


def _leads_by(allowed: set[str], node: Any, output: Tensor, known: dict[Any, bool | None]) -> bool | None:
    """Whether all ways from a node of the graph to a layer's output have allowed operations only; None: there is none.

    Nodes that were visited are in `known`.
    """
    if node is None:
        return None
    if node is output.grad_fn or getattr(node, "variable", None) is output:
        return True
    if node not in known:
        known[node] = None
        ways = [_leads_by(allowed, following, output, known) for following, _ in node.next_functions]
        if any(way is not None for way in ways):
            known[node] = node.name() in allowed and False not in ways
    return known[node]


def _thresholds(module: nn.Module) -> set[float]:
    return {part.threshold for part in module.modules() if isinstance(part, ThresholdedAvgPool2d)}


def _run_once(
    model: nn.Module,
    layers: Mapping[str, nn.Module],
    images: Tensor,
    graph: Collection[str],
    attention: Mapping[str, nn.Module] | None = None,
) -> tuple[dict[str, Tensor], Any, tuple[nn.Linear, Tensor] | None]:
    """Run the model once; give the layers' outputs, all that it gives, and the last linear layer with its input.

    The output of the first layer with a graph becomes a leaf: what comes before has no graph, what comes after has one,
    whatever the parameters require and the caller's grad mode is. With the images among the layers, those are the leaf.
    Matrices of attention are among the outputs, by `attention_in`.
    """
    outputs: dict[str, Tensor] = {}
    linears: list[tuple[nn.Linear, Tensor]] = []

    def capture(name: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: tuple[object, ...], output: object) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise TypeError(f"the target layer {name!r} must give one tensor, got {type(output).__name__}")
            # Cloned, since in-place layers (ReLU) may follow; the network goes on with a copy for the same reason.
            if name not in graph:
                outputs[name] = output.clone()
                return None
            torch.set_grad_enabled(True)
            with torch.inference_mode(False):  # where the network itself is in it
                feature = output.clone()
                outputs[name] = feature if feature.requires_grad else feature.requires_grad_()
                return feature.clone()

        return hook

    def see_linear(module: nn.Linear, args: tuple[Tensor, ...], output: Tensor) -> None:
        if args:  # a keyword call hides its input, so that no head is recognised
            linears[:] = [(module, args[0])]

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())  # also ends what the hooks switch on
        stack.enter_context(evaluation_mode(model))
        for name, layer in layers.items():
            if name != IMAGES:
                stack.callback(layer.register_forward_hook(capture(name)).remove)
        for module in model.modules():
            if isinstance(module, nn.Linear):
                stack.callback(module.register_forward_hook(see_linear).remove)
        copies = _outside_inference(model) if graph else {}
        images = images.clone()  # a network may work on its input in place
        if IMAGES in layers:
            outputs[IMAGES] = images.requires_grad_()
            torch.set_grad_enabled(True)
            images = images.clone()
        matrices = None if attention is None else stack.enter_context(KeepAttention(attention, graph))
        given = _called(model, images, copies)
    for name in layers:
        if name not in outputs:
            raise ValueError(f"the forward pass did not go through the target layer {name!r}")
    found = {name: outputs[name] for name in layers}
    for name, several in matrices.found.items() if matrices else ():
        found[attention_in(name)] = _one_matrix(name, several, found[name], len(images))
    return found, given, linears[0] if linears else None


def _called(model: nn.Module, images: Tensor, copies: dict[str, Tensor]) -> Any:
    """All that a model gives for images, with these in the place of its parameters and buffers of the same names."""
    args, keywords = arguments(model, images)
    return torch.func.functional_call(model, copies, args, keywords) if copies else model(*args, **keywords)


def _outside_inference(model: nn.Module) -> dict[str, Tensor]:
    """Copies of the parameters and buffers that were made inside inference mode and may not enter a graph."""
    state = itertools.chain(model.named_parameters(), model.named_buffers())
    return {name: tensor.clone() for name, tensor in state if tensor.is_inference()}


def _one_matrix(name: str, matrices: Sequence[Tensor], output: Tensor, count: int) -> Tensor:
    """The one matrix [N, heads, L, L] of attention among all tokens [N, L, K] that a layer gives; or ValueError."""
    got = ", ".join(str(list(matrix.shape)) for matrix in matrices) or "none"
    length = output.shape[1] if output.dim() == 3 else 0
    if len(matrices) == 1 and (len(matrices[0]), *matrices[0].shape[2:]) == (count, length, length):
        return matrices[0]
    raise ValueError(
        f"the layer {name!r} must be a block with one attention among all tokens, as in a vision transformer: a matrix "
        f"[{count}, heads, L, L] for tokens [{count}, L, K], got {got} for {list(output.shape)}. Attention in windows "
        "or of pooled tokens (Swin, PVT) has no such matrix, and that of other libraries' kernels is not seen; "
        "GradCAM and LayerCAM need none"
    )


def _recomputed(linear: nn.Linear, given: Tensor) -> LastLinear | None:
    """Do once more what a plain linear layer does; None where this one cannot be that."""
    weight, bias = linear.weight, linear.bias
    if given.dim() != 2 or not given.is_floating_point() or not isinstance(weight, Tensor):
        return None
    if not weight.is_floating_point() or weight.dim() != 2 or weight.shape[1] != given.shape[1]:
        return None
    with torch.no_grad():
        given = given.detach()
        return LastLinear(linear, given, F.linear(given, weight, bias))
