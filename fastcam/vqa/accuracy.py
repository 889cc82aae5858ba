"""How answers are compared: the normal form and the accuracy of the VQA challenge."""

import json
import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from fastcam._files import replacing
from fastcam.vqa.questions import Questions

_AGREEING = 3  # people with the same answer that make it a right one
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_ARTICLES = frozenset(("a", "an", "the"))
_NUMBERS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
_NUMBERS["none"] = "0"
# Those that the challenge mends; "ill" and "wed" are words of their own.
_CONTRACTIONS = re.findall(
    r"\S+",
    """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
    he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
    o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
    someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
    there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
    what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
    wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    """,
)
_MENDED = {
    whole[: mark.start()] + whole[mark.end() :]: whole for whole in _CONTRACTIONS for mark in re.finditer("'", whole)
}


def normal(answer: str) -> str:
    """Bring an answer into the form in which the VQA challenge compares answers.

    Lower case; no punctuation but apostrophes, colons and points of decimals; digits for the words zero (or none) to
    ten; no articles; the apostrophe in contractions that lack one. Punctuation within a word parts it in two, unless
    the same mark also stands beside a blank, or the answer has a number such as 1,000.

    Source: Antol et al., VQA: Visual Question Answering, ICCV 2015, and the challenge's page on evaluation.

    Args:
        answer: any text.

    Returns:
        The normal form; it may be empty.
    """
    return _normal(answer)


@lru_cache(1 << 16)  # most answers are few
def _normal(answer: str) -> str:
    text = answer.replace("\n", " ").replace("\t", " ").strip()
    number = re.search(r"\d,\d", text) is not None
    gone = {ord(mark): "" if number or f"{mark} " in text or f" {mark}" in text else " " for mark in _PUNCTUATION}
    text = re.sub(r"\.(?!\d)", "", text.translate(gone))
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_MENDED.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, truth: Sequence[str]) -> float:
    """Compare an answer with those that people gave: min(n/3, 1) for n of them who gave it.

    As the challenge has it, the mean over all people of that against the other people. Of three people or fewer, all
    others must agree; a single answer is right or wrong. Answers are compared in their `normal` form; the challenge's
    own script compares them as they stand where all ten are the same.

    Source: as `normal`.

    Args:
        answer: the answer to judge.
        truth: the answer of each of the people, ten in VQA; at least one.

    Returns:
        In [0, 1].

    Raises:
        ValueError: `truth` is empty.
    """
    if not truth:
        raise ValueError("`truth` must have the answer of one person at least, got none")
    people, wanted = len(truth), normal(answer)
    same = sum(normal(one) == wanted for one in truth)
    if people == 1:
        return float(same)
    needed = min(_AGREEING, people - 1)
    return (same * min((same - 1) / needed, 1) + (people - same) * min(same / needed, 1)) / people


class Accuracy(NamedTuple):
    """How good the answers to many questions are.

    Attributes:
        overall: mean accuracy over the questions, in [0, 1].
        by_answer_type: the same of the questions of each type of answer ("yes/no", "number", "other"), the most
            frequent first; empty where the data set does not tell it.
        by_question_type: the same by how questions begin ("what color is the", …), if the data set tells it.
        questions: how many there are with an answer of people.
    """

    overall: float
    by_answer_type: dict[str, float]
    by_question_type: dict[str, float]
    questions: int


def score(data: Questions, answers: Mapping[int | str, str]) -> Accuracy:
    """Compute the accuracy of the VQA challenge, whoever gave the answers.

    Args:
        data: questions; those without answers of people do not count.
        answers: the answer to each question that counts, by its id.

    Returns:
        Accuracies, see `accuracy`.

    Raises:
        ValueError: no question has answers of people, or one of them that has was not answered.
    """
    types: dict[str, dict[str, list[float]]] = {"answer_type": defaultdict(list), "question_type": defaultdict(list)}
    found = []
    for question in data:
        if question.answers:
            if question.id not in answers:
                raise ValueError(f"`answers` must have one to each question, and lacks that to {question.id!r}")
            found.append(accuracy(answers[question.id], question.answers))
            for name, groups in types.items():
                if kind := getattr(question, name):
                    groups[kind].append(found[-1])
    if not found:
        raise ValueError("no question has answers of people: give `annotations` to `load`, or a column `answer`")
    means = {
        name: {kind: sum(values) / len(values) for kind, values in sorted(groups.items(), key=lambda g: -len(g[1]))}
        for name, groups in types.items()
    }
    return Accuracy(sum(found) / len(found), means["answer_type"], means["question_type"], len(found))


def write_results(path: str | os.PathLike[str], answers: Mapping[int | str, str]) -> None:
    """Write answers as the VQA challenge's server takes them: JSON, a list of question_id and answer.

    Args:
        path: the file to write, atomically.
        answers: the answer to each question by its id.

    Raises:
        OSError: it cannot be written.
    """
    rows = [{"question_id": id, "answer": answer} for id, answer in answers.items()]
    with replacing(path) as partial:
        partial.write_text(json.dumps(rows), encoding="utf-8")
