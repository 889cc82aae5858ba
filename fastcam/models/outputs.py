"""What a model gives, read as scores: [N, C], or dense ones, [N, C, H, W], whatever container they come in.

Every pass of the package through a network goes this way: `run`, or `caller` and then `read`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fastcam._check import suggest
from fastcam._options import Output

if TYPE_CHECKING:
    from fastcam.models.checkpoints import ModelConfig


_INTERPOLATE = "interpolate_pos_encoding"


class OutputError(TypeError, ValueError):
    """A model gives no scores that could be found: the message says what it gives, and how to say which they are."""


class WithOutput(nn.Module):
    """A network, and what of its output are its scores: see `with_output`.

    Attributes:
        network: the network itself.
        output: a name, an index or a function.
    """

    def __init__(self, network: nn.Module, output: Output) -> None:
        super().__init__()
        self.network, self.output = network, output
        self.training = network.training  # of the network's own modules each stays as it is

    def forward(self, images: Tensor) -> Tensor:
        """Run the network.

        Args:
            images: [N, 3, H, W].

        Returns:
            Scores [N, C], or [N, C, H, W].
        """
        return read(caller(self.network)(images), len(images), self.output)

    def extra_repr(self) -> str:  # noqa: D102
        return f"output={describe_output(self.output)}"


def with_output(model: nn.Module, output: Output | None) -> nn.Module:
    """Say which part of a model's output are its scores, for all that takes a model.

    A tensor needs no word: [N, C] are scores of C classes, [N] those of one, and [N, C, H, W] dense ones, of which a
    class's score is the mean over all pixels. Nor do containers: there it is `logits`, by key or attribute, or `out`,
    as torchvision's segmentation networks call it; the first item of a tuple or list; or the only one that there is.

    Args:
        model: the network, bare or wrapped; it is not changed.
        output: a name, the key or attribute of a dict, dataclass or output class; an index, in a tuple or list; several
            of them with dots between ("heads.age", "0.logits"); or a function of all that the model gives to a tensor
            [N], [N, C] or [N, C, H, W]. None is for what needs no word.

    Returns:
        A module from images to scores, whose layers have the names that they have in the network; the model itself for
        None.

    Raises:
        TypeError: `output` is of another kind.
    """
    if output is None:
        return model
    if isinstance(output, bool) or not (isinstance(output, str | int) or callable(output)):
        raise TypeError(f"`output` must be a name, an index or a function, got {type(output).__name__}")
    return WithOutput(model.network if isinstance(model, WithOutput) else model, output)


def as_asked(model: nn.Module, output: Output | None, config: "ModelConfig | None") -> nn.Module:
    """The model with the output that is asked for, else that of its configuration."""
    return with_output(model, config.output if output is None and config is not None else output)


def unwrap(model: nn.Module) -> nn.Module:
    """Find the network inside wrappers that hide its layers from hooks.

    Args:
        model: any module.

    Returns:
        The module inside (Distributed)DataParallel, `torch.compile` and `with_output`, or the model itself.
    """
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def output_of(model: nn.Module) -> Output | None:
    """What `with_output` has said of a model, whatever is wrapped around it."""
    found: nn.Module | None = model
    while found is not None and not isinstance(found, WithOutput):
        found = _inner(found)
    return None if found is None else found.output


def _inner(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return model.module
    if isinstance(model, WithOutput):
        return model.network
    inner = getattr(model, "_orig_mod", None)  # torch.compile's OptimizedModule
    return inner if isinstance(inner, nn.Module) else None


def bare(model: nn.Module) -> nn.Module:
    """The network without wrappers that hide its layers, but with what is said of its output."""
    return with_output(unwrap(model), output_of(model))


def caller(model: nn.Module) -> Callable[[Tensor], Any]:
    """A model as a function of images, by whatever name it takes them, to all that it gives."""
    if _keyword_of(model) is None and _own_size(model) is None:
        return model

    def call(images: Tensor) -> Any:
        args, keywords = arguments(model, images)
        return model(*args, **keywords)

    return call


def arguments(model: nn.Module, images: Tensor) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """What a model is called with for images, by place and by name.

    A network of Hugging Face's that does so on request interpolates its positions where images have not its own size.
    """
    keyword, own = _keyword_of(model), _own_size(model)
    args: tuple[Tensor, ...] = (images,) if keyword is None else ()
    keywords: dict[str, Any] = {} if keyword is None else {keyword: images}
    if own is not None and own != tuple(images.shape[-2:]):
        keywords[_INTERPOLATE] = True
    return args, keywords


def _keyword_of(model: nn.Module) -> str | None:
    """The name by which a model must be given images; None where their place will do."""
    return None if output_of(model) is not None else _keyword(type(unwrap(model)).forward)


def _own_size(model: nn.Module) -> tuple[int, int] | None:
    """The height and width of images that a model interpolates no positions for; None where it is not to be asked."""
    if output_of(model) is not None or not _takes(type(network := unwrap(model)).forward, _INTERPOLATE):
        return None
    config = getattr(network, "config", None)
    size = getattr(getattr(config, "vision_config", config), "image_size", None)
    height, width = size if isinstance(size, list | tuple) and len(size) == 2 else (size, size)
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None


@functools.cache
def _takes(forward: Callable[..., Any], name: str) -> bool:
    """Whether a function has a parameter of this name."""
    try:
        return name in inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return False


@functools.cache
def _keyword(forward: Callable[..., Any]) -> str | None:
    """The name of images where they are not the first argument, as in Hugging Face's networks of pictures and text."""
    try:
        taken = [*inspect.signature(forward).parameters.values()][1:]
    except (TypeError, ValueError):
        return None
    if taken and taken[0].kind is inspect.Parameter.KEYWORD_ONLY and taken[0].name != "pixel_values":
        return taken[0].name if len([one for one in taken if one.default is one.empty]) == 1 else None
    named = [one for one in taken if one.name == "pixel_values"]
    return named[0].name if named and (named[0] is not taken[0] or named[0].kind is named[0].KEYWORD_ONLY) else None


def run(model: nn.Module, images: Tensor) -> Tensor:
    """Run a model as it is, wrappers and all.

    Args:
        model: the network, bare or wrapped.
        images: [N, 3, H, W].

    Returns:
        Scores [N, C], or dense ones [N, C, H, W].

    Raises:
        OutputError: what it gives holds no scores that could be found.
    """
    return read(caller(model)(images), len(images))


def read(given: Any, count: int, output: Output | None = None) -> Tensor:
    """Find the scores in what a model gives.

    Args:
        given: all that it gave.
        count: for how many images, N.
        output: as in `with_output`.

    Returns:
        Scores [N, C], or dense ones [N, C, H, W], as views of what was given.

    Raises:
        OutputError: there are none, or several that they could be.
    """
    if callable(output):
        found = output(given)
    else:
        found = _found(given) if output is None else _part(given, output)
    if isinstance(found, Tensor):
        if found.dim() == 0 and count == 1:
            found = found[None]  # as `squeeze` leaves one score of one image
        if found.dim() in (2, 4) and found.shape[0] == count:
            return found
        if found.dim() == 1 and found.shape[0] == count and found.is_floating_point():  # else they are classes
            return found[:, None]
    got = describe(given)
    if callable(output):
        got = f"{describe(found)} from the function `output`"
    elif output is not None:
        got = f"{describe(found)} as {output!r}"
    raise OutputError(
        f"the model must give logits [{count}, C] for {count} images, got {got}. Scores of one class may be [{count}], "
        f"dense ones [{count}, C, H, W]; `output` (--output) says which part of what a model gives they are: a name, "
        "an index, or a function of the whole"
    )


def per_class(scores: Tensor) -> Tensor:
    """Scores [N, C] of what `read` gives: of dense ones the mean over all pixels."""
    return scores if scores.dim() == 2 else scores.flatten(2).mean(2)


def _found(given: Any) -> Any:
    """What needs no word."""
    if isinstance(given, Tensor):
        return given
    parts = _parts(given)
    for name in ("logits", "out"):
        if isinstance(parts.get(name), Tensor):
            return parts[name]
    if isinstance(given, Sequence) and parts:
        return _found(next(iter(parts.values())))
    return next(iter(parts.values())) if len(parts) == 1 else None


def _part(given: Any, output: str | int) -> Any:
    """The part of a name or an index."""
    if isinstance(given, Tensor):
        raise OutputError(
            f"`output` {output!r} is for a model that gives several things, this one gives {describe(given)}"
        )
    names: list[str | int] = [output]
    if isinstance(output, str) and output not in _parts(given):
        names = [int(part) if part.removeprefix("-").isdecimal() else part for part in output.split(".")]
    for name in names:
        parts = _parts(given)
        if isinstance(name, int) and name not in parts and -len(parts) <= name < len(parts):
            name = [*parts][name]
        if name not in parts:
            hint = suggest(str(name), [str(part) for part in parts]) if parts else ""
            raise OutputError(f"`output` {output!r}: {describe(given)} has no {name!r}{hint}")
        given = parts[name]
    return given


def _parts(given: Any) -> dict[Any, Any]:
    """The parts of a container by name or number, those that are there."""
    if isinstance(given, Mapping):
        found = dict(given)
    elif isinstance(given, tuple) and hasattr(given, "_asdict"):
        found = given._asdict()
    elif isinstance(given, Sequence) and not isinstance(given, str):
        found = dict(enumerate(given))
    elif dataclasses.is_dataclass(given):
        found = {field.name: getattr(given, field.name) for field in dataclasses.fields(given)}
    else:
        found = dict(getattr(given, "__dict__", {}))
    return {name: value for name, value in found.items() if value is not None}


def describe(given: Any, depth: int = 2) -> str:
    """What a model gave, in a few words."""
    if isinstance(given, Tensor):
        return f"{list(given.shape)!s}{'' if given.is_floating_point() else f' of {given.dtype}'}"
    name, parts = type(given).__name__, _parts(given)
    if not parts or not depth:
        return name
    shown = [f"{part} {describe(value, depth - 1)}" for part, value in [*parts.items()][:8]]
    return f"{name}({', '.join(shown)}{', …' if len(parts) > 8 else ''})"


def describe_output(output: Output) -> str:
    """How an `output` is told apart in texts: a function by its name."""
    if not callable(output):
        return repr(output)
    return f"{getattr(output, '__module__', '')}.{getattr(output, '__qualname__', type(output).__name__)}"
