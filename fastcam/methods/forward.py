"""One forward pass, observed and then left as it was: features, logits, targets and gradients."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from fastcam.methods.smoothing import VIEWS, views
from fastcam.models import Head, ThresholdedAvgPool2d, find_head, unwrap


class Targets(NamedTuple):
    """What the maps are to explain, one or several scores for each picture.

    Attributes:
        classes: int64 [N, k], or None where callables compute the scores.
        callables: one for each picture, from its logits [C] to a scalar; or None.
        ranked: whether the result has a dimension for the k classes.
    """

    classes: Tensor | None
    callables: Sequence[Callable[[Tensor], Tensor]] | None
    ranked: bool

    @property
    def ranks(self) -> int:
        """Number of scores for each picture."""
        return 1 if self.classes is None else self.classes.shape[1]

    def score(self, logits: Tensor, rank: int) -> Tensor:
        """Sum one score of every picture: in evaluation mode pictures do not interact, so neither do gradients.

        Args:
            logits: [N, C], floating.
            rank: which of the scores, in [0, ranks).

        Returns:
            Scalar of the logits' dtype, with their graph.

        Raises:
            TypeError: a callable does not give a scalar tensor.
            ValueError: a callable's scalar does not depend on the logits.
        """
        if self.classes is not None:
            return logits.gather(1, self.classes[:, rank, None]).sum()
        total = logits[:0].sum()  # zero, with the logits' graph also where the batch is empty
        for target, row in zip(self.callables, logits, strict=True):
            score = _scalar(target, row)
            if logits.requires_grad and not score.requires_grad:
                raise ValueError("a target must compute its scalar from the logits by differentiable operations")
            total = total + score
        return total

    def scores(self, logits: Tensor, owners: Tensor) -> Tensor:
        """Give all scores of variations of the pictures.

        Args:
            logits: [B, C], floating, one row for each variation.
            owners: int64 [B], the picture that each is a variation of.

        Returns:
            [B, ranks] of the logits' dtype.

        Raises:
            TypeError: a callable does not give a scalar tensor.
        """
        if self.classes is not None:
            return logits.gather(1, self.classes[owners])
        found = [_scalar(self.callables[i], row) for i, row in zip(owners.tolist(), logits, strict=True)]
        return torch.stack(found)[:, None] if found else logits.new_empty(0, 1)

    def repeated(self, times: int) -> "Targets":
        """The same targets for several runs of the pictures, run by run."""
        if self.classes is not None:
            return self._replace(classes=self.classes.repeat(times, 1))
        return self._replace(callables=[*self.callables] * times)


def _scalar(target: Callable[[Tensor], Tensor], row: Tensor) -> Tensor:
    score = target(row)
    if not isinstance(score, Tensor) or score.numel() != 1:
        got = f"shape {list(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        raise TypeError(f"a target must turn one picture's logits [C] into a scalar tensor, got {got}")
    return score.reshape(())


class Forward:
    """One forward pass as a method sees it.

    Attributes:
        model: the network itself, outside of wrappers.
        images: [N, 3, H, W]; with `augment` the six views of each, view by view, and so for all that follows.
        features: output of each target layer, [N, K, h, w], without a graph; the images where those are explained.
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
        graph: Literal["layers", "images"] | None = None,
        reshape: Sequence[Callable[[Tensor], Tensor] | None] | None = None,
        augment: bool = False,
    ) -> None:
        """Run the model on the images; for targets and top_k see `fastcam.methods.Method.__call__`.

        Args:
            model: [N, 3, H, W] to logits [N, C].
            layers: target layers by name.
            images: [N, 3, H, W].
            targets: what is to be explained.
            top_k: instead of targets.
            graph: what `gradients` will be asked for: target layers or images.
            reshape: for each layer what turns its output into [N, K, h, w], or None.
            augment: whether to run the six views of aug_smooth; targets are chosen by the plain one.
        """
        self.model = unwrap(model)
        check_images(self.model, images)
        count = len(images)
        self.images = images = views(images.detach()) if augment else images.detach()
        self._layers = list(layers) if graph != "images" else ["images"]
        self._reshape = reshape or [None] * len(self._layers)
        self.raw, self._logits, self.linear, self.pooled = _run(self.model, layers, images, graph)
        if not isinstance(self._logits, Tensor) or self._logits.dim() != 2 or len(self._logits) != len(images):
            got = list(self._logits.shape) if isinstance(self._logits, Tensor) else type(self._logits).__name__
            raise TypeError(f"the model must give logits [{len(images)}, C] for {len(images)} images, got {got}")
        self.logits = self._logits.detach()
        self.features = [self._spatial(*pair) for pair in enumerate(self.raw)]
        self.chosen = resolve_targets(targets, top_k, self.logits[:count])
        self.targets = self.chosen.repeated(VIEWS) if augment else self.chosen

    def _spatial(self, index: int, output: Tensor) -> Tensor:
        name, transform, output = self._layers[index], self._reshape[index], output.detach()
        shaped = output if transform is None else transform(output)
        if not isinstance(shaped, Tensor) or shaped.dim() != 4 or len(shaped) != len(self.logits):
            got = list(shaped.shape) if isinstance(shaped, Tensor) else type(shaped).__name__
            if transform is None:
                raise ValueError(
                    f"the target layer {name!r} must give maps [N, K, h, w], got {got}; a layer of tokens needs "
                    "`reshape_transform`, a function from its output to [N, K, h, w]"
                )
            raise ValueError(f"`reshape_transform` must give [{len(self.logits)}, K, h, w] for {name!r}, got {got}")
        return shaped

    def head(self, layer: int) -> Head | None:
        """Recognise a global pooling and at most one linear layer after a target layer.

        Args:
            layer: index of the target layer.

        Returns:
            See `fastcam.models.find_head`.
        """
        poolings = [module for module in self.model.modules() if isinstance(module, ThresholdedAvgPool2d)]
        pooled = self.logits if self.linear is None else self.pooled
        return find_head(self.features[layer], self.linear, pooled, {module.threshold for module in poolings})

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
            yield self.model

    def gradients(self) -> Iterator[list[Tensor]]:
        """Differentiate the scores, rank by rank, with respect to each target layer's output.

        Yields:
            For each rank the gradients at the target layers, [N, K, h, w] each, in the features' dtype.

        Raises:
            ValueError: a score does not depend on a target layer.
        """
        for rank in range(self.targets.ranks):
            last = rank + 1 == self.targets.ranks
            with torch.enable_grad():
                score = self.targets.score(self._logits, rank)
                if score.requires_grad:
                    found = torch.autograd.grad(score, self.raw, retain_graph=not last, allow_unused=True)
                else:
                    found = [None] * len(self.raw)
            for name, gradient in zip(self._layers, found, strict=True):
                if gradient is None:
                    raise ValueError(f"the target does not depend on the layer {name!r}: no gradient reaches it")
            yield [self._spatial(*pair) for pair in enumerate(found)]


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
    model: nn.Module, layers: dict[str, nn.Module], images: Tensor, graph: Literal["layers", "images"] | None
) -> tuple[list[Tensor], Any, nn.Linear | None, Tensor | None]:
    """Run the model once; give the layers' outputs, the logits, and the linear layer they come from with its input.

    With a graph, the first target layer's output becomes a leaf: what comes before has no graph, what comes after
    has one, whatever the parameters and the caller's grad mode say. With a graph from the images, those are the leaf.
    """
    outputs: dict[str, Tensor] = {}
    linears: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def capture(name: str) -> Callable[..., Tensor | None]:
        def hook(module: nn.Module, args: tuple, output: Any) -> Tensor | None:
            if not isinstance(output, Tensor):
                raise TypeError(f"the target layer {name!r} must give one tensor, got {type(output).__name__}")
            # Cloned, since in-place layers (ReLU) may follow; the network goes on with a copy for the same reason.
            if not graph:
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
    raw = [outputs[name] for name in layers] or [*outputs.values()]
    if linears and linears[0][2] is logits:
        linear, pooled, _ = linears[0]
        return raw, logits, linear, pooled.detach()
    return raw, logits, None, None


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


def resolve_targets(targets: Any, top_k: int | None, logits: Tensor) -> Targets:
    """Turn the `targets` and `top_k` of a call into class indices or callables.

    Args:
        targets: see `Method.__call__`.
        top_k: see `Method.__call__`.
        logits: [N, C].

    Returns:
        The targets, class indices on the device of the logits.

    Raises:
        TypeError: targets are of no known kind.
        ValueError: both are given, their number is not N, or a class is out of range.
    """
    count, classes = logits.shape
    if isinstance(targets, str) and targets == "all":
        targets = torch.arange(classes, device=logits.device).expand(count, classes)
        return Targets(targets, None, ranked=True) if top_k is None else resolve_targets(targets, top_k, logits)
    if top_k is not None:
        if targets is not None:
            raise ValueError("pass `targets` or `top_k`, not both")
        if not isinstance(top_k, int) or not 1 <= top_k <= classes:
            raise ValueError(f"`top_k` must be an int in 1 … {classes} (the number of classes), got {top_k!r}")
        return Targets(logits.topk(top_k, dim=1).indices, None, ranked=True)
    if targets is None:
        return Targets(logits.argmax(1, keepdim=True), None, ranked=False)
    if callable(targets):
        return Targets(None, [targets] * count, ranked=False)
    if isinstance(targets, list | tuple) and any(callable(target) for target in targets):
        if not all(callable(target) for target in targets):
            raise TypeError("`targets` must be all callables or all class indices, got both")
        _check_count(len(targets), count)
        return Targets(None, targets, ranked=False)
    try:
        indices = torch.as_tensor(targets)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"`targets` must be class indices or callables, got {type(targets).__name__}: {error}"
        ) from None
    if indices.numel() == 0:
        indices = indices.long()  # an empty list has no integers to tell its dtype by
    if indices.dtype == torch.bool or indices.is_floating_point() or indices.is_complex() or indices.dim() > 2:
        raise TypeError(
            f"`targets` must be integers: one, [N] or [N, k]; got {indices.dtype} of shape {list(indices.shape)}"
        )
    indices = indices.to(torch.int64)
    if indices.dim() == 0:
        indices = indices.expand(count)
    if indices.dim() == 2 and indices.shape[1] == 0:
        raise ValueError(f"`targets` [N, k] must have at least one class for each picture, got {list(indices.shape)}")
    _check_count(len(indices), count)
    if indices.numel():
        low, high = int(indices.min()), int(indices.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            raise ValueError(f"class {wrong} in `targets` is out of range: the model has classes 0 … {classes - 1}")
    indices = indices.to(logits.device, copy=True)
    return Targets(indices if indices.dim() == 2 else indices[:, None], None, ranked=indices.dim() == 2)


def _check_count(got: int, expected: int) -> None:
    if got != expected:
        raise ValueError(f"`targets` must have one entry for each of the {expected} images, got {got}")
