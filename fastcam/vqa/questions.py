"""Questions about pictures, and the answers that people gave: VQA's JSON and plain CSV."""

import csv
import io
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from fastcam.data.names import id_problem, plain_id, read_json, read_text, tidy, whole
from fastcam.data.pictures import Pictures
from fastcam.data.reading import Problems, find_root

_TRIED = 20  # pictures that are looked for to find their folder and how they are named; some may be missing
_COLUMNS = ("image", "question", "answer", "question_id", "answer_type", "question_type")
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")


class Question(NamedTuple):
    """One question about one picture.

    Attributes:
        id: a whole number or a text, unique in the data set.
        text: the question as it was asked.
        picture: index of its picture among `Questions.pictures`.
        answers: what people answered, one text of each; () where that is not known.
        answer: the answer to learn: that of the file ("multiple_choice_answer"), else the most frequent one.
        answer_type: "yes/no", "number", "other"; "" where it is not known.
        question_type: how it begins, as VQA's files group questions: "what color is the"; "" where it is not known.
    """

    id: int | str
    text: str
    picture: int
    answers: tuple[str, ...] = ()
    answer: str | None = None
    answer_type: str = ""
    question_type: str = ""


class Questions(Sequence[Question]):
    """Questions in an order that never changes, and their pictures, each of which is there once.

    Args:
        pictures: the pictures.
        questions: the questions.

    Raises:
        ValueError: there is no question, an id comes twice, or a question is about a picture that is not there.
    """

    def __init__(self, pictures: Pictures, questions: Iterable[Question]) -> None:
        self.pictures, self.questions = pictures, tuple(questions)
        if not self.questions:
            raise ValueError("there must be one question at least, got none")
        if len({question.id for question in self.questions}) < len(self.questions):
            twice = next(id for id, times in Counter(one.id for one in self.questions).items() if times > 1)
            raise ValueError(f"ids of questions must be different, but {twice!r} comes twice")
        if wrong := [one for one in self.questions if not 0 <= one.picture < len(pictures)]:
            raise ValueError(f"question {wrong[0].id!r} is about picture {wrong[0].picture} of {len(pictures)}")

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: Any) -> Any:
        return self.questions[index]

    def subset(self, indices: Iterable[int]) -> "Questions":
        """Choose some of the questions, with their pictures.

        Args:
            indices: their places.

        Returns:
            These questions, in this order, with those pictures that they are about.

        Raises:
            IndexError: there is none of an index.
            ValueError: there are no indices, or one comes twice.
        """
        chosen = [self.questions[index] for index in indices]
        places = {place: new for new, place in enumerate(sorted({one.picture for one in chosen}))}
        return Questions(self.pictures.subset(places), [one._replace(picture=places[one.picture]) for one in chosen])


def words_of(question: str) -> list[str]:
    """Take a question apart into its words.

    Args:
        question: any text.

    Returns:
        Its words in lower case, each once, by first place: letters and digits, with apostrophes within.
    """
    return list(dict.fromkeys(_WORD.findall(tidy(question).replace("\u2019", "'").casefold())))


def load(
    source: str | os.PathLike[str],
    annotations: str | os.PathLike[str] | None = None,
    *,
    images: str | os.PathLike[str] | None = None,
    truth_only: bool = False,
    bad: list[tuple[str, str]] | None = None,
) -> Questions:
    """Read questions about pictures.

    VQA's JSON (v1 and v2; OpenEnded, and MultipleChoice, whose choices are not looked at): `source` is the file with
    "questions" (question_id, image_id, question), `annotations` that with "annotations" (question_id, answers,
    multiple_choice_answer, answer_type, question_type). Pictures are named as the data set has them:
    COCO_train2014_000000000009.jpg, or 000000000009.jpg as later releases of COCO have it, or
    abstract_v002_train2015_000000000009.png.

    CSV: a header with the columns image (a path), question, and if known answer, question_id, answer_type,
    question_type; others are ignored. Rows of the same image and question are the answers of several people; an empty
    answer is none. Without question_id, questions are numbered from 0.

    Args:
        source: a .json or .csv file.
        annotations: the file of answers that belongs to a .json file; without it there are none.
        images: folder of the pictures. By default, of CSV the file's own; of JSON the first with one of the pictures
            among the file's folder, that above it, and there SUBTYPE, Images/mscoco/SUBTYPE, images/SUBTYPE and images,
            with train2014, say, for SUBTYPE.
        truth_only: the questions and answers alone are wanted: picture files need not exist.
        bad: a list to which (id, reason) is appended for each question, row or picture that is malformed or missing;
            the questions are left out. None raises at the first. What is wrong with a whole file always raises.

    Returns:
        The questions.

    Raises:
        FileNotFoundError: no such file, folder or picture.
        ValueError: a file of another layout, or malformed entries; the message names file, and line or element.
    """
    path = Path(source)
    if images is not None and not Path(images).is_dir():
        raise FileNotFoundError(f"no folder of pictures at {images}")
    if not path.is_file():
        raise FileNotFoundError(f"no file of questions at {path}")
    problems, kind, root = Problems(bad), path.suffix.lower(), None if images is None else Path(images)
    if kind == ".csv":
        if annotations is not None:
            raise ValueError(f"{path} has its answers in a column, got `annotations` {annotations}")
        root, found = _csv(path, root, problems)
    elif kind == ".json":
        root, found = _json(path, None if annotations is None else Path(annotations), root, problems)
    else:
        raise ValueError(f"{path}: expected a .json file of VQA's questions, or .csv with {', '.join(_COLUMNS[:3])}")
    return _assemble(path, root, found, problems, truth_only)


class _Found(NamedTuple):
    """A question, the id of its picture, and where both were found."""

    where: str
    image: str
    question: Question


def _assemble(path: Path, root: Path, found: list[_Found], problems: Problems, truth_only: bool) -> Questions:
    for where, image, _ in found:
        if image not in problems.dropped and (problem := id_problem(image)):
            problems.refuse(where, f"{problem}, got {image!r}", image)
    ids = [id for id in dict.fromkeys(image for _, image, _ in found) if id not in problems.dropped]
    files = problems.files(ids, [root / id for id in ids], needed=not truth_only)
    kept = {id: file for id, file in zip(ids, files, strict=True) if id not in problems.dropped}
    places = {id: place for place, id in enumerate(kept)}
    questions = [one.question._replace(picture=places[one.image]) for one in found if one.image in places]
    if not questions:
        raise ValueError(f"{path} has no questions" + (" that are good" if problems.bad else ""))
    return Questions(Pictures(root, list(kept), list(kept.values())), questions)


# VQA's JSON


def _json(path: Path, annotations: Path | None, images: Path | None, problems: Problems) -> tuple[Path, list[_Found]]:
    document = read_json(path)
    truth = {} if annotations is None else _annotations(annotations, problems)
    asked: dict[int | str, tuple[str, int, str]] = {}
    for where, entry in _entries(path, document, "questions", problems):
        key, image, text = entry.get("question_id"), entry.get("image_id"), entry.get("question")
        if not (_is_id(key) and type(image) is int and 0 <= image < 10**12 and isinstance(text, str)):
            expected = "expected `question_id`, a whole number or text, `image_id`, a whole number, and `question`"
            problems.refuse(where, f"{expected}, got {_shown(entry)}")
        elif not words_of(text):
            problems.refuse(where, f"expected a question with words, got {text!r}")
        elif key in asked:
            problems.refuse(where, f"question {key!r} comes twice")
        elif annotations is not None and key not in truth:
            problems.refuse(where, f"question {key!r} has no answers in {annotations}")
        else:
            asked[key] = where, image, text
    unasked = [key for key in truth if key not in asked]
    if unasked and not problems.bad:  # else they may be among the questions left out
        raise ValueError(f"{annotations}: there is no question {unasked[0]!r} in {path}")
    root, name = _named(path, document, [image for _, image, _ in asked.values()], images)
    return root, [
        _Found(where, name(image), Question(key, text, 0, *truth.get(key, ())))
        for key, (where, image, text) in asked.items()
    ]


def _annotations(path: Path, problems: Problems) -> dict[int | str, tuple[tuple[str, ...], str, str, str]]:
    """What is known of each question by its id: answers, that to learn, type of answer, type of question."""
    truth: dict[int | str, tuple[tuple[str, ...], str, str, str]] = {}
    for where, entry in _entries(path, read_json(path), "annotations", problems):
        key, answers, chosen = entry.get("question_id"), entry.get("answers"), entry.get("multiple_choice_answer")
        given = [one.get("answer") if isinstance(one, dict) else one for one in answers] if _is_list(answers) else []
        texts = tuple(one for one in given if isinstance(one, str))
        if not _is_id(key) or len(texts) < len(given) or not (texts or isinstance(chosen, str)):
            expected = "expected `question_id` and `answers`, a list with an `answer` each, or `multiple_choice_answer`"
            problems.refuse(where, f"{expected}, got {_shown(entry)}")
        elif key in truth:
            problems.refuse(where, f"question {key!r} comes twice")
        else:
            types = (entry.get(f"{what}_type") for what in ("answer", "question"))
            answer_type, question_type = (one if isinstance(one, str) else "" for one in types)
            answer = chosen if isinstance(chosen, str) else _most_frequent(texts)
            truth[key] = texts or (answer,), plain_answer(answer), answer_type, question_type
    return truth


def _named(path: Path, document: Any, images: Sequence[int], folder: Path | None) -> tuple[Path, Callable[[int], str]]:
    """The folder of the pictures, and the name that a picture's number has there."""
    kind, subtype = (document.get(name, "") for name in ("data_type", "data_subtype"))
    for name, text in (("data_type", kind), ("data_subtype", subtype)):
        if not (isinstance(text, str) and re.fullmatch(r"[\w-]*", text)):
            raise ValueError(f"{path}: expected `{name}` to be letters, digits and underscores, got {_shown(text)}")
    subtype = re.sub(r"-\w*?(?=\d*$)", "", subtype)  # the pictures of test-dev2015 are those of test2015
    coco, bare, abstract = f"COCO_{subtype}_{{:012d}}.jpg", "{:012d}.jpg", f"{kind}_{subtype}_{{:012d}}.png"
    names = [abstract, bare, coco] if kind.startswith("abstract") else [coco, bare, abstract]
    near = [path.parent, path.parent.parent]
    inner = ("", subtype, f"Images/mscoco/{subtype}", f"Images/{subtype}", f"images/{subtype}", "images")
    folders = [base / name for base in near for name in inner] if folder is None else [folder, folder / subtype]
    for name in names:
        if (root := find_root(folders, [name.format(image) for image in images[:_TRIED]])) is not None:
            return root, name.format
    return folders[0] if folder is not None else near[0] / subtype, names[0].format


def _entries(path: Path, document: Any, name: str, problems: Problems) -> Iterator[tuple[str, dict[str, Any]]]:
    entries = document.get(name) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not entries:
        hint = "".join(f"; it has `{key}`" for key in ("questions", "annotations") if _is_list(_of(document, key)))
        raise ValueError(f"{path}: expected an object with a list `{name}` that is not empty{hint}")
    for index, entry in enumerate(entries):
        if isinstance(entry, dict):
            yield f"{path}: {name}[{index}]", entry
        else:
            problems.refuse(f"{path}: {name}[{index}]", f"expected an object, got {_shown(entry)}")


# CSV


def _csv(path: Path, images: Path | None, problems: Problems) -> tuple[Path, list[_Found]]:
    root = images or path.parent
    found: dict[object, _Found] = {}
    answers: dict[object, list[str]] = {}
    for where, row in _rows(path, problems):
        image, text, key = plain_id(row["image"], root), tidy(row["question"]), row.get("question_id", "").strip()
        if not image.strip() or not words_of(text):
            problems.refuse(where, f"expected an image and a question with words, got {row['image']!r} and {text!r}")
            continue
        if "question_id" in row and not key:
            problems.refuse(where, "expected a question_id, got none")
            continue
        place: object = key or (image, text)
        first = found.setdefault(
            place,
            _Found(
                where,
                image,
                Question(
                    _number(key) if key else len(found),
                    text,
                    0,
                    answer_type=row.get("answer_type", ""),
                    question_type=row.get("question_type", ""),
                ),
            ),
        )
        if (first.image, first.question.text) != (image, text):
            problems.refuse(where, f"question {key} has another image or text than in {first.where}")
        elif answer := row.get("answer", "").strip():
            answers.setdefault(place, []).append(answer)
    entries = []
    for place, entry in found.items():
        texts = tuple(answers.get(place, ()))
        chosen = plain_answer(_most_frequent(texts)) if texts else None
        entries.append(entry._replace(question=entry.question._replace(answers=texts, answer=chosen)))
    return root, entries


def _rows(path: Path, problems: Problems) -> Iterator[tuple[str, dict[str, str]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    header: list[str] | None = None
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:  # after which nothing tells where the next row begins
            raise ValueError(f"{path}:{reader.line_num}: expected rows of CSV ({error})") from error
        where = f"{path}:{reader.line_num}"
        if row is None:
            break
        if not row:
            continue
        if header is None:
            header = [name.strip() for name in row]
            known = [name for name in header if name in _COLUMNS]
            if not {"image", "question"} <= set(known) or len(set(known)) < len(known):
                raise ValueError(f"{where}: expected a header with {', '.join(_COLUMNS[:3])}, each once; got {row}")
        elif len(row) != len(header):
            problems.refuse(where, f"expected {len(header)} columns, got {len(row)}: {row}")
        else:
            yield where, {name: text for name, text in zip(header, row, strict=True) if name in _COLUMNS}


# Values


def plain_answer(text: str) -> str:
    """An answer as models learn and give it: in lower case, without what cannot be seen."""
    return tidy(text).lower()


def _most_frequent(texts: Sequence[str]) -> str:
    """The first of those that come most often."""
    return Counter(map(plain_answer, texts)).most_common(1)[0][0]


def _number(text: str) -> int | str:
    value = whole(text)
    return text if value is None or str(value) != text else value


def _is_id(value: object) -> TypeGuard[int | str]:
    return (type(value) is int and abs(value) < 1 << 63) or (isinstance(value, str) and value != "")


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def _of(document: Any, key: str) -> Any:
    return document.get(key) if isinstance(document, dict) else None


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
