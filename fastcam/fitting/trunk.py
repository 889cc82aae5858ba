"""A network without its head: which layer's maps are pooled, how, and what the linear layer after that is given."""

import torch
from torch import Tensor, nn

from fastcam.methods.activation import obstacle
from fastcam.methods.forward import Forward
from fastcam.methods.running import check_rows, evaluation_mode
from fastcam.models import default_target_layer, resolve_layers, unwrap
from fastcam.models.heads import Pool
from fastcam.models.outputs import caller


class Trunk:
    """What gives a network's pooled features, seen once in a pass over noise.

    Args:
        model: the network, on its device.
        size: side of its input in pixels.
        layer: dotted name of the layer whose output, or the pooling of it, is wanted; None is the last one with maps.
        channels: of its input.

    Attributes:
        layer: its name.
        pool: how the layer's maps are pooled; None where it gives no maps.
        linear: dotted name of the linear layer that is given the pooled maps and gives the logits; None where there is
            none, so that the layer's own output is taken, and pooled by its mean.
        channels: of the features.

    Raises:
        ValueError: no layer is named, and the network has no head of pooling and one linear layer; there is no such
            layer; or it gives neither maps nor vectors.
    """

    def __init__(self, model: nn.Module, size: int, layer: str | None = None, channels: int = 3) -> None:
        self._model = unwrap(model)
        self._like = next(model.parameters(), torch.empty(0))
        self.layer = layer or default_target_layer(model)
        (self._module,) = resolve_layers(model, self.layer)
        noise = torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0))
        images = noise.to(self._like.device, self._like.dtype)
        self.pool: Pool | None = None
        self.linear: str | None = None
        output = self._observed(images, self._module)
        if not isinstance(output, Tensor) or output.dim() not in (2, 3, 4):
            got = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(f"the layer {self.layer!r} must give maps [N, K, h, w] or vectors [N, K], got {got}")
        run = None
        if output.dim() > 2:
            run = Forward(model, {self.layer: self._module}, images, None, 1)
            check_rows(model, images, run.logits)
            head, self.pool = run.head(0), "gap"
            if head is not None and run.linear is not None:
                names = {module: name for name, module in self._model.named_modules()}
                self.pool, self.linear = head.pool, names[run.linear]
        if layer is None and self.linear is None:
            why = "its layer gives no maps" if run is None else obstacle(run.features[0], run)
            raise ValueError(
                f"{type(self._model).__name__} has no pooled layer before one linear layer: after {self.layer!r} {why}."
                " The features of any layer are there by its name, as `layer` (--features-only --layer NAME); a head "
                "that has a CAM needs a network that ends in a global pooling and one linear layer, such as those of "
                "fastcam.models.to_gap"
            )
        self._reshape = None if run is None else run.reshape[0]
        self.channels = self(images).shape[1]

    def __call__(self, images: Tensor) -> Tensor:
        """The features of images [N, 3, size, size], as the network wants them: float32 [N, K]."""
        if self.linear is not None:
            return self._observed(images, self._model.get_submodule(self.linear), given=True).float()
        output = self._observed(images, self._module)
        if self._reshape is not None:
            output = self._reshape(output)
        return (output.mean((2, 3)) if output.dim() == 4 else output).float()

    def _observed(self, images: Tensor, module: nn.Module, given: bool = False) -> Tensor:
        """What a module gives, or is given, in a pass without a graph."""
        found: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            value = args[0] if given else output
            found[:] = [value.clone() if isinstance(value, Tensor) else value]  # what follows may work in place

        handle = module.register_forward_hook(note)
        try:
            with torch.no_grad(), evaluation_mode(self._model):
                caller(self._model)(images.clone())
        finally:
            handle.remove()
        if not found:
            raise ValueError(f"the forward pass did not go through the layer {self.layer!r}")
        return found[0]
