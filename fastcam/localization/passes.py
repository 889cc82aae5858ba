"""One forward pass and what comes of it: observed by a method, or compiled."""

from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from fastcam import methods
from fastcam.methods.core import Method
from fastcam.methods.running import evaluation_mode
from fastcam.methods.targets import resolve_targets
from fastcam.models import unwrap


class Run(NamedTuple):
    """What a forward pass gave.

    Attributes:
        logits: [N, C].
        classes: int64 [N, k], those that maps are of.
        boxes: from a threshold to int32 [N, k, 4], in pixels of the images.
        maps: gives float32 [N, k, H, W] in [0, 1].
        coarse: gives [N, k, h, w], before ReLU and upsampling.
        linear: tells whether a linear layer or a pooling gave the logits, and nothing came after it.
    """

    logits: Tensor
    classes: Tensor
    boxes: Callable[[float], Tensor]
    maps: Callable[[], Tensor]
    coarse: Callable[[], Tensor]
    linear: Callable[[], bool]


def observed(cam: Method, images: Tensor, targets: Tensor | None, top_k: int | None) -> Run:
    """Run a network for a method.

    Args:
        cam: the method.
        images: [N, 3, H, W], prepared.
        targets: int64 [N, 1], or None.
        top_k: instead of targets.

    Returns:
        The run.

    Raises:
        TypeError, ValueError, RuntimeError: as `fastcam.methods.observe`, and what the network raises.
    """
    run = methods.observe([cam], images, targets, top_k)
    return Run(
        run.logits,
        run.chosen.classes,
        lambda threshold: cam.boxes(run, threshold=threshold),
        lambda: cam(run),
        lambda: cam.coarse(run),
        lambda: run.linear is not None,
    )


class Compiled:
    """CAM with a network that `torch.compile` has compiled. Used in a `with` block.

    The first call begins with an observed pass on black images, which finds the linear layer whose weights CAM needs.
    After that the network is a compiled function from images to logits and features; the mode "reduce-overhead" replays
    it as a CUDA graph.

    Args:
        cam: the method, a `fastcam.CAM` of one layer.
        mode: of `torch.compile`: "default", "reduce-overhead" or "max-autotune".

    Raises:
        ValueError: another method, or several layers.
    """

    def __init__(self, cam: Method, mode: str) -> None:
        if type(cam) is not methods.CAM or len(cam.layers) > 1:
            raise ValueError("`compile` is for the method cam with one target layer")
        self.cam, self.mode = cam, mode
        ((self.name, self.layer),) = cam.layers.items()
        self._stack = ExitStack()
        self._network: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
        self._network = None

    def __call__(self, images: Tensor, targets: Tensor | None, top_k: int | None) -> Run:
        """Run the network.

        Args:
            images: [N, 3, H, W], always of one shape.
            targets: int64 [N, 1], or None.
            top_k: instead of targets.

        Returns:
            The run.

        Raises:
            TypeError, ValueError, RuntimeError: as `observed`.
        """
        if self._network is None:
            forward = methods.observe([self.cam], torch.zeros_like(images), targets, top_k)
            self.cam.boxes(forward)  # refuses what is no CAM network, with the reason
            self.head = forward.at([self.name]).head(0)
            self._network = self._compile()
        with torch.no_grad():
            logits, features = (part.clone() for part in self._network(images))  # a graph's memory is used again
        classes = resolve_targets(targets, top_k, logits).classes
        features = features.relu() if self.head.relu else features
        weights = self.head.weight[classes]
        ops, size = self.cam.ops, images.shape[-2:]
        options: dict[str, Any] = {"relu": self.cam.relu, "mode": self.cam.mode}
        return Run(
            logits,
            classes,
            lambda threshold: ops.class_boxes(features, weights, size, threshold=threshold, **options),
            lambda: ops.heatmap(ops.class_map(features, weights), size, normalize="after", **options),
            lambda: ops.class_map(features, weights),
            lambda: True,
        )

    def _compile(self) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        model, kept = unwrap(self.cam.model), []

        def keep(module: nn.Module, given: tuple, output: Tensor) -> None:
            kept.append(output.clone())  # a layer that works in place may follow

        def forward(images: Tensor) -> tuple[Tensor, Tensor]:
            kept.clear()
            logits = model(images)
            return logits, kept[0]

        self._stack.enter_context(evaluation_mode(model))
        self._stack.callback(self.layer.register_forward_hook(keep).remove)
        return torch.compile(forward, mode=self.mode, dynamic=False)
