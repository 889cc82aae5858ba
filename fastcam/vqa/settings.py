"""The options of `fit`: its signature, checks, documentation and command are made of them."""

from dataclasses import dataclass
from typing import Literal

from fastcam._options import check, option


@dataclass(frozen=True)
class VQASettings:
    """Which words and answers a model knows, and how it learns."""

    answers: int = option(
        1000,
        "how many answers there are to choose from, the most frequent ones; questions with another answer are not "
        "learnt from",
        least=2,
    )
    words: int = option(10_000, "how many words of questions are known, the most frequent ones", least=1)
    inputs: Literal["both", "words", "picture"] = option(
        "both", "what answers depend on: both, or as a baseline the question's words or the picture alone"
    )
    solver: Literal["adam", "logistic"] = option(
        "adam",
        "adam: epochs of Adam over batches, for any number of questions; logistic: the optimum of scikit-learn's "
        "logistic regression (extra `fit`), for thousands of questions and tens of answers",
    )
    epochs: int | None = option(
        None,
        "passes over the questions, with adam; by default 20, or of few questions as many as make 1000 steps",
        least=1,
    )
    batch_size: int = option(256, "questions of a step, with adam", least=1)
    lr: float = option(0.01, "learning rate at the beginning, with adam; it falls to zero along half a cosine")
    weight_decay: float = option(1e-4, "factor of half the squared weights in the loss, with adam", least=0)
    strength: float | None = option(
        None,
        "with logistic, C of scikit-learn, the inverse of the regularisation's strength; by default found by "
        "cross-validation",
    )
    seed: int = option(0, "of the order of questions, with adam", least=0)

    def __post_init__(self) -> None:
        check(self)
        for name, value in (("lr", self.lr), ("strength", self.strength)):
            if value is not None and not value > 0:
                raise ValueError(f"`{name}` must be positive, got {value!r}")
