"""How a network's outputs become scores in [0, 1]: softmax is for logits of several classes, and there is more."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastcam.methods.forward import IMAGES, Forward

Outputs = Literal["logits", "logit", "probabilities", "log-probabilities"]

_LAST: dict[str, Outputs] = {  # functions that end a network, as autograd calls them
    "Softmax": "probabilities",
    "Sigmoid": "probabilities",
    "Hardsigmoid": "probabilities",
    "LogSoftmax": "log-probabilities",
    "LogSigmoid": "log-probabilities",
}
# What may follow and leaves a probability one: other shapes and types, single columns, several groups, and bounds.
_KEEPING = re.compile(
    r"(Unsafe|Reshape)?(View|Alias)|(Un)?[Ss]queeze|Clone|ToCopy|Transpose|T|Permute|Expand|Slice|Select|Index|Clamp.*"
    r"|Cat|Stack"
)


def recognise(model: nn.Module, images: Tensor) -> Outputs:
    """Recognise what a network's outputs are, by the network alone: whatever pictures it gets, the answer is the same.

    It runs once, on two pictures of noise. The last function in the graph decides, be it a module or not: softmax and
    sigmoid give probabilities. Where it decides nothing (a mean of several networks' softmax), numbers do: logits do
    not all lie in [0, 1] with rows that sum to 1.

    Args:
        model: the network.
        images: [N, 3, H, W], of the shape, dtype and device that it takes; their values do not matter.

    Returns:
        "logits" of several classes, the only "logit" of one; "probabilities", which may be independent of each other;
        or their logarithms, "log-probabilities".

    Raises:
        TypeError, ValueError: as `fastcam.methods.Method`; the only output is the softmax of one value, always 1.
    """
    noise = torch.randn(2, *images.shape[1:], generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False), torch.no_grad():
        noise = noise.to(images.device, images.dtype)
        run = Forward(model, {IMAGES: model}, noise, None, None, graph=[IMAGES])
        last = _last(run)
    if last is not None and "Softmax" in _name(last) and last._saved_result.numel() == len(noise):
        raise ValueError(
            f"the only output of {type(run.model).__name__} is the softmax of one value, which is always 1, so that it "
            "says nothing: let the network end before it, in the logit, or in a sigmoid"
        )
    if last is not None:
        return _LAST[_name(last)]
    if run.logits.shape[1] == 1:
        return "logit"
    if run.linear is None:
        tolerance = max(1e-5, torch.finfo(run.logits.dtype).eps)
        kinds: tuple[Outputs, ...] = ("probabilities", "log-probabilities")
        for kind in kinds:
            if _sum_to_one(probabilities(run.logits, kind).double(), tolerance):
                return kind
    return "logits"


def probabilities(outputs: Tensor, kind: Outputs) -> Tensor:
    """Turn a network's outputs into scores.

    Args:
        outputs: [N, C], floating.
        kind: what `recognise` found.

    Returns:
        [N, C] in [0, 1], float32 (float64 for float64): the softmax of logits, the sigmoid of a single one, and
        probabilities as they are. Rows sum to 1 but for a single logit and for independent probabilities.
    """
    exact = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if kind == "logits":
        return exact.softmax(1)
    if kind == "logit":
        return exact.sigmoid()
    return exact.exp() if kind == "log-probabilities" else exact


def check_names(class_names: Sequence[str], count: int) -> None:
    """Refuse names of classes, if there are any, that are more or fewer than the network's outputs."""
    if class_names and len(class_names) != count:
        hint = "; a single output is the score of one class, so name that one only" if count == 1 else ""
        raise ValueError(
            f"`class_names` must have one name for each of the network's {count} outputs, got {len(class_names)}{hint}"
        )


def last_function(run: Forward) -> str | None:
    """The softmax, sigmoid or logarithm of one that a network ends in, a key of `_LAST`; None without, or a graph."""
    node = _last(run)
    return None if node is None else _name(node)


def _last(run: Forward) -> Any:
    """The node of that function."""
    node = run.grad_fn
    while node is not None and _name(node) not in _LAST:
        earlier = [earlier for earlier, _ in node.next_functions if earlier is not None]
        node = earlier[0] if earlier and _KEEPING.fullmatch(_name(node)) else None
    return node


def _name(node: Any) -> str:
    return re.sub(r"Backward\d*$", "", node.name())


def _sum_to_one(values: Tensor, tolerance: float) -> bool:
    return bool((values >= 0).all() and ((values.sum(1) - 1).abs() <= tolerance).all())
