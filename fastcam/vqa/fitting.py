"""Learning to answer: vocabularies by frequency, then one softmax regression on words and pictures."""

import dataclasses
import math
import os
from collections import Counter
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fastcam._options import accepts
from fastcam.fitting import Features, Fitted, fit_head, with_head
from fastcam.models import ModelConfig
from fastcam.pictures import Preprocess
from fastcam.vqa.inputs import Bags, look
from fastcam.vqa.model import VQA, head_of
from fastcam.vqa.questions import Questions, words_of
from fastcam.vqa.settings import VQASettings

_EPOCHS, _STEPS = 20, 1000  # of Adam at least, where the settings do not tell
_LARGEST = 1 << 28  # values of the dense matrix that scikit-learn is given


@accepts(VQASettings)
def fit(
    data: Questions,
    model: nn.Module,
    *,
    settings: VQASettings,
    config: ModelConfig | None = None,
    features: Features | str | os.PathLike[str] | None = None,
    bad: list[tuple[str, str]] | None = None,
    progress: bool = True,
) -> VQA:
    """Learn to answer questions about pictures: a linear layer on the words and on the features that a network pools.

    The network stays as it is and runs once over the pictures; what is learnt is its new linear layer, whose classes
    are the answers, and the words' weights. Features are standardised while learning, which is then folded into the
    weights. Weights are centred: over all answers they sum to zero, which changes no probability.

    Source: Zhou et al., Simple Baseline for Visual Question Answering, arXiv:1512.02167. There the features are
    GoogLeNet's, words come 6 times at least and answers 3 times, and VQA v1's test-standard accuracy is 55.89 %.

    Args:
        data: questions with answers.
        model: a network that ends in a global pooling and a linear layer, as for `fastcam.CAM`; it stays as it is.
        settings: which words and answers, and how they are learnt.
        config: preprocessing, and the name by which `fastcam.models.build` knows the network; by default what the
            network declares, else 224 pixels and ImageNet's mean and std.
        features: of the pictures of `data`, as `fastcam.fitting.pooled_features` gives them for this network; or a file
            that keeps them, for which see there; without it they are computed.
        bad: a list to which (id, reason) is appended for each damaged picture, whose questions are left out; None
            raises at the first.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        The model.

    Raises:
        ValueError: no questions with at least two different answers, a damaged picture, a network without such a
            pooling, features that are not finite, of other pictures or of another network; an option out of range; or
            `solver` "logistic" with more than fits in memory.
        ImportError: `solver` is "logistic", and scikit-learn is not installed.
        FloatingPointError: weights became infinite or NaN.
    """
    known = config or _declared(model)
    linear = head_of(model, known)
    seen = look(data, features, model, known, bad=bad, progress=progress)
    wanted = [question.answer or "" for question in seen.questions]  # there may be none, or an empty one
    answers = _most(Counter(filter(None, wanted)), settings.answers)
    if len(answers) < 2:
        raise ValueError(f"questions must have two different answers at least, got {len(answers)}: {answers}")
    labels = {answer: label for label, answer in enumerate(answers)}
    places = [place for place, answer in enumerate(wanted) if answer in labels]
    learnt = [seen.questions[place] for place in places]
    words = _most(Counter(word for question in learnt for word in words_of(question.text)), settings.words)
    if settings.inputs == "picture":
        words = []
    values, mean, std = _standardised(seen.features)
    problem = _Problem(
        words=Bags(learnt, {word: place for place, word in enumerate(words)}),
        values=values[:, :0] if settings.inputs == "words" else values,
        pictures=seen.rows[places],
        labels=torch.tensor([labels[wanted[place]] for place in places]),
        known=len(words),
        answers=tuple(answers),
    )
    solve = _adam if settings.solver == "adam" else _logistic
    device = next(model.parameters(), values).device
    solution = (part.cpu().double() for part in solve(problem, settings, device, progress))
    of_words, of_picture, bias = (
        part - part.mean(dim, keepdim=True) for part, dim in zip(solution, (1, 0, 0), strict=True)
    )
    of_picture = F.pad(of_picture, (0, len(std) - of_picture.shape[1])) / std
    head = Fitted(
        of_picture.float().numpy(), (bias - of_picture @ mean).float().numpy(), problem.answers, "logistic", math.nan
    )
    known = dataclasses.replace(known, num_classes=len(answers), class_names=problem.answers, threshold=None)
    return VQA(with_head(model, linear, head), known, words, of_words.float(), seen.features.digest)


def _most(counts: Counter[str], number: int) -> list[str]:
    """The most frequent, of equally many those that came first."""
    return [name for name, _ in counts.most_common(number)]


def _declared(model: nn.Module) -> ModelConfig:
    """The preprocessing of a network without configuration; its name is none that `build` knows."""
    own = Preprocess.of(None, model)
    channels = None if own.channels == 3 else own.channels
    return ModelConfig(type(model).__name__, 1, size=own.size, mean=own.mean, std=own.std, channels=channels)


def _standardised(features: Features) -> tuple[Tensor, Tensor, Tensor]:
    """Features [P, K] of mean 0 and deviation 1, and float64 [K], what they were; constant ones become 0."""
    values = features.values
    if not np.isfinite(values).all():
        wrong = features.ids[int(np.flatnonzero(~np.isfinite(values).all(1))[0])]
        raise ValueError(f"features must be finite, got NaN or infinity for {wrong}")
    mean, std = (getattr(values, name)(0, dtype=np.float64) for name in ("mean", "std"))
    std[std <= 1e-6 * np.abs(mean)] = 1  # what rounding leaves of a constant
    std[std == 0] = 1
    plain = torch.from_numpy((values - mean.astype(np.float32)) / std.astype(np.float32))
    return plain, torch.from_numpy(mean), torch.from_numpy(std)


class _Problem(NamedTuple):
    """What is to be solved: N questions about P pictures, V words, K features, C answers."""

    words: Bags  # [N, V]
    values: Tensor  # standardised features of each picture, float32 [P, K]; K is 0 where they do not count
    pictures: Tensor  # of each question, int64 [N]
    labels: Tensor  # the answer of each question, int64 [N]
    known: int  # V
    answers: tuple[str, ...]  # C


_Solution = tuple[Tensor, Tensor, Tensor]  # weights of words [V, C] and features [C, K], and bias [C]


def _adam(problem: _Problem, settings: VQASettings, device: torch.device, progress: bool) -> _Solution:
    """Epochs of Adam over batches of questions."""
    answers, questions = len(problem.answers), len(problem.labels)
    values = problem.values.to(device)
    generator = torch.Generator().manual_seed(settings.seed)
    each = -(-questions // settings.batch_size)  # steps of an epoch
    epochs = settings.epochs or max(_EPOCHS, -(-_STEPS // each))
    with torch.inference_mode(False), torch.enable_grad():
        weight, seen, bias = (
            torch.zeros(size, device=device, requires_grad=True)
            for size in ((problem.known, answers), (answers, values.shape[1]), (answers,))
        )
        groups = [
            {"params": [weight, seen], "weight_decay": settings.weight_decay},
            {"params": [bias], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.Adam(groups, settings.lr, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * each)
        with tqdm(total=epochs * each, unit="step", disable=None if progress else True) as bar:
            for epoch in range(1, epochs + 1):
                for rows in torch.randperm(questions, generator=generator).split(settings.batch_size):
                    logits = F.linear(values[problem.pictures[rows].to(device)], seen, bias)
                    logits = logits + problem.words.sums(weight, rows)
                    loss = F.cross_entropy(logits, problem.labels[rows].to(device))
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}")
                if not all(part.isfinite().all() for part in (weight, seen, bias)):
                    raise FloatingPointError(f"weights became infinite or NaN in epoch {epoch}: lower the `lr`")
    return weight.detach(), seen.detach(), bias.detach()


def _logistic(problem: _Problem, settings: VQASettings, device: torch.device, progress: bool) -> _Solution:
    """The optimum of scikit-learn's logistic regression, on words and features side by side."""
    questions, count, channels = len(problem.labels), problem.known, problem.values.shape[1]
    if questions * (count + channels) > _LARGEST:
        raise ValueError(
            f"{questions} questions, {count} words and {channels} features are too many for `solver` logistic: take "
            "adam, or fewer `words`"
        )
    matrix = torch.cat([problem.words.sums(torch.eye(count)), problem.values[problem.pictures]], 1)
    fitted = fit_head(
        matrix.numpy(), problem.labels.numpy(), "logistic", classes=problem.answers, strength=settings.strength
    )
    weight, bias = torch.from_numpy(fitted.weight), torch.from_numpy(fitted.bias)
    return weight[:, :count].T, weight[:, count:], bias
