"""How a network is run: in evaluation mode, the same way with and without a graph, and left as it was."""

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any, Self
from unittest import mock

import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastcam.models.outputs import bare, per_class, run, unwrap


def check_images(model: nn.Module, images: Tensor) -> None:
    """Refuse images that are not [N, 3, H, W], floating, of the dtype and on the device of the model's parameters."""
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


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a model in evaluation mode, and each of its modules and buffers back as it was at the end."""
    modules = list(model.modules())
    training = [module for module in modules if module.training]
    # Compiled code passes hooks by, so that what is compiled runs as it was written.
    compiled = any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) is not None for m in modules)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_copied_buffers(modules))
        for module in training:
            stack.callback(setattr, module, "training", True)
            module.training = False
        stack.enter_context(_slow_path_of_attention)
        if compiled:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def _copied_buffers(modules: list[nn.Module]) -> Iterator[None]:
    """Put copies in the place of buffers that a pass may change in evaluation, too: torch's own layers leave theirs."""
    own = [
        (module._buffers, name, buffer)
        for module in modules
        if module._buffers and not type(module).__module__.startswith("torch.nn.")
        for name, buffer in module._buffers.items()
        if buffer is not None and not buffer.is_inference()
    ]
    copies = {id(buffer): buffer.clone() for _, _, buffer in own}  # one for a buffer that several modules share
    try:
        for buffers, name, buffer in own:
            buffers[name] = copies[id(buffer)]
        yield
    finally:
        for buffers, name, buffer in own:
            buffers[name] = buffer


class _SlowPathOfAttention:
    """While entered, attention takes the path that it takes with a graph: torch's fast path rounds otherwise.

    The switch is the whole process's, so that the last thread to leave puts it back.
    """

    def __init__(self) -> None:
        self._lock, self._entered, self._before = threading.Lock(), 0, True

    def __enter__(self) -> None:
        with self._lock:
            if not self._entered:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._entered += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._entered -= 1
            if not self._entered:
                torch.backends.mha.set_fastpath_enabled(self._before)


_slow_path_of_attention = _SlowPathOfAttention()

_DETACH = {torch.detach, torch.detach_, Tensor.detach, Tensor.detach_, inspect.getattr_static(Tensor, "data").__get__}


class KeepGradients(TorchFunctionMode):
    """While active, a network stops no gradients: `no_grad`, `detach`, `.data` and reentrant checkpoints pass them.

    Gradients begin where they are first switched on in the block; what runs before has no graph.
    """

    def __enter__(self) -> Self:
        self._begun = False
        self._stack = contextlib.ExitStack()
        # Other threads' checkpoints keep their activations meanwhile: the same numbers, more memory.
        self._stack.enter_context(mock.patch.object(torch.utils.checkpoint, "CheckpointFunction", _PlainCheckpoint))
        super().__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        super().__exit__(*exception)
        self._stack.close()

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is torch._C._set_grad_enabled:
            self._begun |= args[0]
            if self._begun:
                args = (True,)
        elif func in _DETACH and args[0].requires_grad and not args[0].is_leaf:
            return args[0].view_as(args[0])
        return func(*args, **kwargs or {})


class _PlainCheckpoint:
    """A checkpoint that keeps its activations, and so the graph."""

    @staticmethod
    def apply(function: Any, preserve_rng_state: bool, *args: Any) -> Any:
        return function(*args)


class WatchBatchStatistics(TorchFunctionMode):
    """While active, notices batch normalisation by the statistics of the batch itself: then `seen` is True."""

    seen = False

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in (F.batch_norm, torch.batch_norm) and not self.seen:
            place = 1 if func is F.batch_norm else 3
            mean = args[place] if len(args) > place else kwargs.get("running_mean")
            training = args[5] if len(args) > 5 else kwargs.get("training", False)
            given = args[0] if args else kwargs["input"]
            # With a batch of one it normalises something else, such as each filter of a weight.
            self.seen = (mean is None or bool(training)) and len(given) > 1
        return func(*args, **kwargs)


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: on a CPU torch has no class of its own for it."""
    return isinstance(error, torch.OutOfMemoryError) or "not enough memory" in str(error)


class MixedPicturesError(ValueError):
    """A network's results for a picture depend on the other pictures of its batch."""


def check_rows(model: nn.Module, images: Tensor, logits: Tensor) -> None:
    """Refuse a network whose logits for a picture depend on the other pictures of its batch.

    Of images [N, 3, H, W] that it gave logits [N, C] for, the first is run alone, or beside blank ones where the
    network takes none alone; MixedPicturesError if its row is another one then.
    """
    if len(images) < 2:
        return
    model = bare(model)
    with torch.no_grad(), evaluation_mode(model):
        rows: Tensor | None = None
        with contextlib.suppress(Exception):  # a fixed number of pictures, batch normalisation of a single value, …
            rows = per_class(run(model, images[:1].clone()))
        if rows is None or rows.shape != logits[:1].shape:
            others = images.clone()
            others[1:] = 0
            rows = per_class(run(model, others))
        beside, alone = logits[0].double(), rows[0].double()
    # Far more than batches of other sizes differ by rounding, TF32's included.
    tolerance = max(0.005, 4 * torch.finfo(logits.dtype).eps ** 0.5) * beside.abs().max()
    if beside.isfinite().all() and not ((beside - alone).abs() <= tolerance).all():
        raise MixedPicturesError(
            f"{type(unwrap(model)).__name__} gives a picture other logits alone than beside others (by up to "
            f"{float((beside - alone).abs().max()):.2g}): it mixes the pictures of a batch, as "
            "batch normalisation without running statistics does. Rows would depend on their neighbours: take "
            "batches of one picture (batch_size=1, --batch-size 1)"
        )
