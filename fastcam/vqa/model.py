"""The model: words and picture to an answer, with what each of them adds to it."""

import hashlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam._check import suggest, whole
from fastcam._files import replacing
from fastcam.fitting import Features, Fitted, with_head
from fastcam.fitting.trunk import Trunk
from fastcam.methods import CAM
from fastcam.models import ModelConfig, load_checkpoint, load_weights, read_config, run, save_checkpoint, unwrap
from fastcam.pictures import Pixels, Preprocess, as_rgb
from fastcam.vqa.accuracy import Accuracy, score
from fastcam.vqa.inputs import Bags, look, pixels
from fastcam.vqa.questions import Questions, plain_answer, words_of

_METADATA_KEY = "fastcam.vqa"
_NETWORK, _WORDS = "network.safetensors", "words.safetensors"
_ROWS = 1 << 24  # logits that are computed at once


class Answer(NamedTuple):
    """An answer to a question about a picture, and where it comes from.

    Contributions add up: logit = bias + picture + Σ words. They are relative to the mean over all answers, so that what
    speaks for each answer alike is 0.

    Attributes:
        question: as it was asked.
        text: the answer.
        probability: softmax of the logits of all answers, in [0, 1].
        map: float32 [H, W] in [0, 1], of the picture's own size: its CAM, from the picture's part of the weights.
        words: what each word of the question that the model knows adds to the answer's logit, in their order.
        unknown: words of the question that the model does not know; they add nothing.
        picture: what the picture adds; after global average pooling the mean of the map before normalisation.
        bias: what the answer has whatever the question and the picture.
    """

    question: str
    text: str
    probability: float
    map: np.ndarray
    words: dict[str, float]
    unknown: tuple[str, ...]
    picture: float
    bias: float

    @property
    def logit(self) -> float:
        """The sum of all contributions."""
        return self.bias + self.picture + sum(self.words.values())


class VQA:
    """Answers questions about pictures: one linear layer on the question's words and the pooled picture, and a softmax.

    r = M_w·x_w + M_v·x_v, p = softmax(r), where x_w says of each word that is known whether the question has it, and
    x_v are the features that the network pools. All is linear, so that words and picture each have their own part of
    each answer's logit, and the picture's part has a class activation map. What a word means cannot depend on the
    picture: of two things in a picture, the question "what color is the ball" does not choose one.

    Source: Zhou, Tian, Sukhbaatar, Szlam and Fergus, Simple Baseline for Visual Question Answering, arXiv:1512.02167
    (iBOWIMG). Its embedding of words is linear, too, and so is multiplied out here.

    `fit` makes one, `VQA.load` reads what `save` wrote.

    Args:
        network: pictures [N, 3, H, W] to [N, C], the picture's part of the logits and their bias. It ends in a global
            pooling and a linear layer, and is an ordinary classifier whose classes are the answers.
        config: its preprocessing, with the answers as class names.
        words: those that are known, V of them.
        weight: float32 [V, C], what each word adds to each answer.
        origin: digest of the network that it was learnt with, which pools the same features; "" where there is none.

    Attributes:
        network: as given, in evaluation mode.
        config: as given.
        words: as given.
        weight: as given, on the CPU.
        origin: as given.

    Raises:
        ValueError: weights of another shape, not finite, no two answers, or a network with another head.
    """

    def __init__(
        self, network: nn.Module, config: ModelConfig, words: Sequence[str], weight: Tensor, origin: str = ""
    ) -> None:
        self.network, self.config, self.words = network.eval(), config, tuple(words)
        self.weight, self.origin = weight.detach().cpu(), origin
        self._places = {word: place for place, word in enumerate(self.words)}
        shape = [len(self.words), len(self.answers)]
        if list(weight.shape) != shape or len(self._places) < len(self.words) or len(self.answers) < 2:
            raise ValueError(
                f"`weight` must be [V, C] of V different words and C answers, two at least; got {list(weight.shape)} "
                f"for {len(self._places)} and {len(self.answers)}"
            )
        if not self.weight.isfinite().all():
            raise ValueError("`weight` must be finite, got NaN or infinity")
        self._linear = cast(nn.Linear, unwrap(network).get_submodule(head_of(network, config)))
        if self._linear.bias is None or self._linear.out_features != len(self.answers):
            raise ValueError(
                f"`network` must end in a linear layer with bias and {len(self.answers)} outputs, one for each answer, "
                f"got {self._linear}"
            )

    @property
    def answers(self) -> tuple[str, ...]:
        """The answers that there are to choose from, the most frequent first."""
        return self.config.class_names

    def answer(self, image: str | os.PathLike[str] | Pixels, question: str) -> Answer:
        """Answer a question about a picture.

        Args:
            image: a picture file, a PIL picture, or RGB of uint8 [H, W, 3].
            question: any text with a word in it.

        Returns:
            The answer of the highest probability, its map, and what each word and the picture add to it.

        Raises:
            FileNotFoundError: no such file.
            TypeError, ValueError: no picture, or a question without words; `DecodeError` for a damaged file.
        """
        return self.best(image, question, 1)[0]

    def best(self, image: str | os.PathLike[str] | Pixels, question: str, top_k: int = 3) -> list[Answer]:
        """Give the answers of the highest probability to a question about a picture.

        Args:
            image: as for `answer`.
            question: as for `answer`.
            top_k: how many; of a model with fewer answers, all.

        Returns:
            The answers, the most probable first.

        Raises:
            FileNotFoundError, TypeError, ValueError: as `answer`; `top_k` is less than 1.
        """
        whole("top_k", top_k, 1)
        asked = words_of(question)
        if not asked:
            raise ValueError(f"`question` must have words, got {question!r}")
        preprocess = Preprocess.of(self.config, self.network)
        taken = preprocess.taken(pixels(image, preprocess.reading))
        shown = as_rgb(taken)
        prepared, geometry = preprocess(taken)
        like = next(self.network.parameters())
        images = prepared[None].to(like.device, like.dtype)
        known = [word for word in asked if word in self._places]
        parts = self.weight[[self._places[word] for word in known]].double()  # [W, C]
        with torch.no_grad():
            seen = run(self.network, images)[0].cpu().double()
        chances, chosen = (seen + parts.sum(0)).softmax(0).topk(min(top_k, len(self.answers)))
        maps = CAM(self.network)(images, chosen[None].to(like.device))[0].cpu().numpy()
        bias = self._linear.bias.detach().cpu().double()
        return [
            Answer(
                question=question,
                text=self.answers[place],
                probability=chance,
                map=geometry.spread(map, shown.size).clip(0, 1),
                words=dict(zip(known, parts[:, place].tolist(), strict=True)),
                unknown=tuple(word for word in asked if word not in self._places),
                picture=float(seen[place] - bias[place]),
                bias=float(bias[place]),
            )
            for place, chance, map in zip(chosen.tolist(), chances.tolist(), maps, strict=True)
        ]

    def predict(
        self,
        data: Questions,
        *,
        features: Features | str | os.PathLike[str] | None = None,
        bad: list[tuple[str, str]] | None = None,
        progress: bool = True,
    ) -> dict[int | str, str]:
        """Answer many questions; the network sees each picture once.

        Args:
            data: the questions.
            features: of the pictures of `data`, as `fastcam.fitting.pooled_features` gives them for this network or
                that of `fit`; or a file that keeps this network's, for which see there; without it they are computed.
            bad: a list to which (id, reason) is appended for each damaged picture, whose questions are left out; None
                raises at the first.
            progress: show a progress bar where standard error is a terminal.

        Returns:
            The answer to each question, by its id: what `score` and `write_results` take.

        Raises:
            ValueError: features of other pictures or of another network, or a damaged picture, which is named.
        """
        seen = look(data, features, self.network, self.config, origin=self.origin, bad=bad, progress=progress)
        weight, bias = (part.detach().cpu().float() for part in (self._linear.weight, self._linear.bias))
        values = torch.from_numpy(seen.features.values)
        found: list[int] = []
        step = max(1, _ROWS // len(self.answers))
        for first in range(0, len(seen.questions), step):
            some = slice(first, first + step)
            words = Bags(seen.questions[some], self._places).sums(self.weight)
            found += (F.linear(values[seen.rows[some]], weight, bias) + words).argmax(1).tolist()
        return {question.id: self.answers[place] for question, place in zip(seen.questions, found, strict=True)}

    def evaluate(self, data: Questions, *, features: Features | str | os.PathLike[str] | None = None) -> Accuracy:
        """Answer questions and compare with what people answered: `score` of `predict`.

        Args:
            data: questions with answers.
            features: as for `predict`.

        Returns:
            The VQA challenge's accuracy, overall and by types.

        Raises:
            ValueError: as `predict` and `score`.
        """
        return score(data, self.predict(data, features=features))

    def words_for(self, answer: str, count: int = 5) -> dict[str, float]:
        """Tell which words speak most for an answer, whatever the picture.

        Args:
            answer: one of `answers`.
            count: how many words.

        Returns:
            The words and what each adds to the answer's logit, the highest first.

        Raises:
            ValueError: no such answer (similar ones are listed), or `count` is less than 1.
        """
        whole("count", count, 1)
        if plain_answer(answer) not in self.answers:
            raise ValueError(f"no answer {answer!r}{suggest(plain_answer(answer), self.answers)}")
        column = self.weight[:, self.answers.index(plain_answer(answer))]
        values, places = column.topk(min(count, len(self.words)))
        return {self.words[place]: value for place, value in zip(places.tolist(), values.tolist(), strict=True)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a folder, without pickle.

        `network.safetensors` is an ordinary checkpoint: a classifier whose classes are the answers, on which all of
        fastcam works. `words.safetensors` has the words' weights, and the words as JSON.

        Args:
            path: the folder, which is made if need be; a model in it is replaced.

        Raises:
            OSError: a file cannot be written.
            ValueError: as `fastcam.models.save_checkpoint`.
        """
        folder = Path(path)
        save_checkpoint(folder / _NETWORK, self.network, self.config)
        facts = {"words": self.words, "network": _digest(folder / _NETWORK), "origin": self.origin}
        with replacing(folder / _WORDS) as partial:
            content = {"weight": self.weight.contiguous()}
            partial.write_bytes(safetensors.torch.save(content, metadata={_METADATA_KEY: json.dumps(facts)}))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: nn.Module | None = None) -> "VQA":
        """Read what `save` wrote.

        Args:
            path: the folder.
            model: a network of the same structure, whatever its weights and classes, where `fastcam.models.build` does
                not know its name; it stays as it is.

        Returns:
            The model, on the CPU.

        Raises:
            FileNotFoundError: there is no such folder or file.
            ValueError: files that are damaged, of something else, or do not belong together; a network that `build`
                does not know, or a `model` of another structure.
        """
        folder = Path(path)
        config = read_config(folder / _NETWORK)
        if config is None or not config.class_names:
            raise ValueError(f"{folder / _NETWORK} is not a checkpoint whose classes are answers")
        words, weight, expected, origin = _read_words(folder / _WORDS)
        if _digest(folder / _NETWORK) != expected:
            raise ValueError(f"{folder}: {_NETWORK} and {_WORDS} are not of one model")
        if model is None:
            network, config = load_checkpoint(folder / _NETWORK)
        else:
            linear = head_of(model, config)
            channels = cast(nn.Linear, unwrap(model).get_submodule(linear)).in_features
            shapes = (config.num_classes, channels), (config.num_classes,)
            weights, bias = (np.zeros(shape, np.float32) for shape in shapes)
            network = with_head(model, linear, Fitted(weights, bias, config.class_names, "logistic", math.nan))
            load_weights(network, folder / _NETWORK)
        return cls(network, config, words, weight, origin)


def _read_words(path: Path) -> tuple[list[str], Tensor, str, str]:
    """Words, their weights, the digest of the network's file, and of the network that it was learnt with."""
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get(_METADATA_KEY, "null"))
            weight = file.get_tensor("weight")
    except (safetensors.SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not a file of a model's words: {error}") from None
    names = ("words", "network", "origin")
    words, network, origin = (facts.get(name) if isinstance(facts, dict) else None for name in names)
    plain = isinstance(words, list) and all(isinstance(text, str) for text in (*words, network, origin))
    if not plain or weight.dim() != 2 or weight.dtype != torch.float32:
        expected = f"expected {', '.join(names)} and a `weight` [V, C]"
        raise ValueError(f"{path} is not a file of a model's words: {expected}")
    return cast(list[str], words), weight, cast(str, network), cast(str, origin)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def head_of(network: nn.Module, config: ModelConfig) -> str:
    """The name of the linear layer in which a network ends; ValueError if there is none after a global pooling."""
    name = Trunk(network, config.size, channels=Preprocess.of(config, network).channels).linear
    if name is None:
        raise ValueError(f"{type(network).__name__} does not end in a global pooling and one linear layer")
    return name
