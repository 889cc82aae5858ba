"""Which class is first: the one rule for a network's outputs, also where they tie.

Classes are ranked from the highest output down; of classes that tie, the one with the lower index comes first. So ranks
are 1, 2, 3, … without a gap, exactly one class has rank 1, and it is the one that `argmax` names.
"""

from torch import Tensor, arange


def ranks_of(outputs: Tensor, classes: Tensor) -> Tensor:
    """Give classes their ranks.

    Args:
        outputs: [N, C], floating: logits, or what grows with them.
        classes: int64 [N, k], in [0, C).

    Returns:
        int64 [N, k] in [1, C], 1 for the highest class.
    """
    values = outputs.gather(1, classes)[..., None]
    before = arange(outputs.shape[1], device=outputs.device) < classes[..., None]  # of those that tie
    outputs = outputs[:, None]
    return 1 + ((outputs > values) | ((outputs == values) & before)).sum(-1)


def highest(outputs: Tensor, count: int) -> Tensor:
    """Find the classes with ranks 1, 2, …, `count`.

    Args:
        outputs: [N, C], floating.
        count: how many, in 1 … C.

    Returns:
        int64 [N, count], in this order.
    """
    if count == 1:
        return outputs.argmax(1, keepdim=True)
    # topk is many times as fast as sorting, but leaves open which of several that tie it takes, and in which order.
    values, classes = outputs.topk(min(count + 1, outputs.shape[1]), dim=1)
    if (values[:, 1:] == values[:, :-1]).any():
        classes = outputs.sort(dim=1, descending=True, stable=True).indices
    return classes[:, :count]
