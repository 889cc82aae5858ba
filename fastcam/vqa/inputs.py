"""What the linear layer is given: bags of words, and pooled features of the pictures."""

import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fastcam._check import listed
from fastcam.fitting import Features, pooled_features
from fastcam.models import ModelConfig
from fastcam.models.digest import digest
from fastcam.pictures import PLAIN, DecodeError, Pixels, Reading, as_rgb, quiet_pillow, read
from fastcam.vqa.questions import Question, Questions, words_of


class Bags:
    """The known words of many questions: a sparse matrix [N, V] of 0 and 1.

    Args:
        questions: N questions.
        places: the known words, and the column of each.
    """

    def __init__(self, questions: Iterable[Question], places: Mapping[str, int]) -> None:
        found = [[places[word] for word in words_of(question.text) if word in places] for question in questions]
        self._words = torch.tensor([place for places in found for place in places], dtype=torch.int64)
        self._lengths = torch.tensor([len(places) for places in found], dtype=torch.int64)
        self._starts = self._lengths.cumsum(0) - self._lengths

    def sums(self, weight: Tensor, rows: Tensor | None = None) -> Tensor:
        """The product with a weight [V, C], on its device: [N, C], or of some rows alone."""
        rows = torch.arange(len(self._lengths)) if rows is None else rows
        lengths = self._lengths[rows]
        starts = lengths.cumsum(0) - lengths
        places = torch.arange(int(lengths.sum())) + (self._starts[rows] - starts).repeat_interleave(lengths)
        return F.embedding_bag(self._words[places].to(weight.device), weight, starts.to(weight.device), mode="sum")


def picture(image: str | os.PathLike[str] | Pixels) -> Image.Image:
    """A picture that is given as a file or an object, RGB; errors name the file."""
    return as_rgb(pixels(image, PLAIN))


def pixels(image: str | os.PathLike[str] | Pixels, reading: Reading) -> Pixels:
    """A picture that is given as a file, read for a network, or an object; errors name the file."""
    if not isinstance(image, str | os.PathLike):
        return image
    if not os.path.exists(image):
        raise FileNotFoundError(f"no picture {os.fspath(image)}")
    try:
        with quiet_pillow():
            return read(image, reading=reading).pixels
    except DecodeError as error:
        raise DecodeError(error.code, f"{os.fspath(image)}: {error.message}") from error


class Seen(NamedTuple):
    """What a network pools of the pictures of questions.

    Attributes:
        questions: N questions, without those about damaged pictures.
        features: of P pictures at least.
        rows: int64 [N], the row of each question's picture among them.
    """

    questions: list[Question]
    features: Features
    rows: Tensor


def look(
    data: Questions,
    features: Features | str | os.PathLike[str] | None,
    model: nn.Module,
    config: ModelConfig,
    *,
    origin: str = "",
    bad: list[tuple[str, str]] | None = None,
    progress: bool = True,
) -> Seen:
    """Take the features of the pictures of questions: computed, maybe with a file that keeps them, or those given.

    Those given must be of all the pictures, and of the model or of the one with the digest `origin`.
    """
    if not isinstance(features, Features):
        file, refused = features, len(bad or ())
        features = pooled_features(model, data.pictures, config, file=file, bad=bad, progress=progress)
        damaged = {id for id, _ in (bad or ())[refused:]}
    elif features.digest not in (origin, digest(model)):
        raise ValueError("`features` are those of another network")
    else:
        damaged = set()
    places = {id: place for place, id in enumerate(features.ids)}
    ids = data.pictures.ids
    questions = [question for question in data if ids[question.picture] not in damaged]
    if missing := [id for id in (ids[question.picture] for question in questions) if id not in places]:
        raise ValueError(f"`features` must be those of all pictures, and lack {listed(list(dict.fromkeys(missing)))}")
    return Seen(questions, features, torch.tensor([places[ids[question.picture]] for question in questions]))
