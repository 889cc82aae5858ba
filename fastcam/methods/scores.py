"""How a network's outputs become scores in [0, 1], decided here for all that has scores.

Softmax is for logits of classes of which a picture has one. Where it may have several, as in training with binary
cross-entropy, each class's logit has its sigmoid. Nothing in a network of several logits tells which, so that who knows
it says so (`scores` of `fastcam.localize`, or of a checkpoint); what a network shows itself nobody can contradict.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fastcam.methods.forward import IMAGES, Forward
from fastcam.models import Scores, unwrap

Score = Literal["logit", "probability", "softmax", "sigmoid"]  # what of a network's outputs is looked at
Outputs = Literal["logits", "independent logits", "logit", "probabilities", "log-probabilities"]

_LAST: dict[str, tuple[Outputs, Scores]] = {  # functions that end a network, as autograd calls them
    "Softmax": ("probabilities", "softmax"),
    "Sigmoid": ("probabilities", "sigmoid"),
    "Hardsigmoid": ("probabilities", "sigmoid"),
    "LogSoftmax": ("log-probabilities", "softmax"),
    "LogSigmoid": ("log-probabilities", "sigmoid"),
}
_MADE: dict[Outputs, tuple[str, str]] = {
    "logits": ("softmax", "softmax of the network's logits"),
    "independent logits": ("sigmoid", "sigmoid of each of the network's logits"),
    "logit": ("sigmoid", "sigmoid of the network's only logit"),
    "probabilities": ("network", "probabilities that the network gives itself"),
    "log-probabilities": ("network", "exponential of the logarithms of probabilities that the network gives itself"),
}
# What may follow and leaves a probability one: other shapes and types, single columns, several groups, and bounds.
_KEEPING = re.compile(
    r"(Unsafe|Reshape)?(View|Alias)|(Un)?[Ss]queeze|Clone|ToCopy|Transpose|T|Permute|Expand|Slice|Select|Index|Clamp.*"
    r"|Cat|Stack"
)


def recognise(model: nn.Module, images: Tensor, scores: Scores | None = None, *, plain: bool = False) -> Outputs:
    """Recognise what a network's outputs are, by the network alone: whatever pictures it gets, the answer is the same.

    It runs once, on two pictures of noise. The last function in the graph decides, be it a module or not: softmax and
    sigmoid give probabilities. Where it decides nothing (a mean of several networks' softmax), numbers do: logits do
    not all lie in [0, 1] with rows that sum to 1.

    Args:
        model: the network.
        images: [N, 3, H, W], of the shape, dtype and device that it takes; their values do not matter.
        scores: how the logits of several classes become scores; None is softmax.
        plain: whether it is known that a linear layer gives the logits of several classes; then nothing runs.

    Returns:
        "logits" of several classes, of which a picture has one, or with the scores "sigmoid" "independent logits"; the
        only "logit" of one class; "probabilities", which may be independent of each other; or their logarithms,
        "log-probabilities".

    Raises:
        TypeError, ValueError: as `fastcam.methods.Method`; the only output is the softmax of one value, always 1; or
            the network contradicts `scores`.
    """
    kind, own, why = ("logits", None, "") if plain else _recognised(model, images)
    if scores is not None and own not in (None, scores):
        raise ValueError(
            f"`scores` {scores} do not go with {type(unwrap(model)).__name__}: {why}; without `scores` "
            "they are what it shows"
        )
    return "independent logits" if kind == "logits" and scores == "sigmoid" else kind


def _recognised(model: nn.Module, images: Tensor) -> tuple[Outputs, Scores | None, str]:
    """What the outputs are, how they became, or must become, scores, if the network tells, and how it does."""
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
        return *_LAST[_name(last)], f"it ends in a {_name(last)} itself"
    if run.logits.shape[1] == 1:
        return "logit", "sigmoid", "it has one logit, whose softmax is always 1"
    if run.linear is None:
        tolerance = max(1e-5, torch.finfo(run.logits.dtype).eps)
        kinds: tuple[Outputs, ...] = ("probabilities", "log-probabilities")
        for kind in kinds:
            if _sum_to_one(probabilities(run.logits, kind).double(), tolerance):
                return kind, "softmax", "its outputs are probabilities that sum to 1, as of a softmax"
    return "logits", None, ""


def recognise_for(score: Score, model: nn.Module, images: Tensor) -> Outputs | None:
    """Recognise what a score is to be made of.

    Args:
        score: "logit", the outputs as they are; "probability", by what the network shows; "softmax" or "sigmoid", so of
            logits.
        model: as in `recognise`.
        images: as in `recognise`.

    Returns:
        The kind, for `probabilities`; None for the outputs as they are.

    Raises:
        TypeError, ValueError: as in `recognise`.
    """
    if score == "logit":
        return None
    return recognise(model, images, None if score == "probability" else score)


def probabilities(outputs: Tensor, kind: Outputs) -> Tensor:
    """Turn a network's outputs into scores.

    Args:
        outputs: [N, C], floating.
        kind: what `recognise` found.

    Returns:
        [N, C] in [0, 1], float32 (float64 for float64): the softmax of logits, the sigmoid of independent ones and of a
        single one, and probabilities as they are. Rows sum to 1 but for sigmoids and for independent probabilities.
    """
    exact = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    if kind == "logits":
        return exact.softmax(1)
    if kind in ("logit", "independent logits"):
        return exact.sigmoid()
    return exact.exp() if kind == "log-probabilities" else exact


def named(kind: Outputs) -> str:
    """Name what makes scores of a network's outputs.

    Args:
        kind: what `recognise` found.

    Returns:
        "softmax", "sigmoid", or "network" where it does so itself.
    """
    return _MADE[kind][0]


def describe(kind: Outputs) -> str:
    """Say how scores are made of a network's outputs.

    Args:
        kind: what `recognise` found.

    Returns:
        Such as "softmax of the network's logits".
    """
    return _MADE[kind][1]


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
