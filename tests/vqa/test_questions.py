"""Questions as VQA's files and CSV have them, and what is wrong with some of them."""

import contextlib
import json
import re

import pytest
from hypothesis import given, strategies as st

from fastcam import vqa
from fastcam.data import Pictures
from tests.support.datasets import picture
from tests.support.files import write

ASKED = [
    {"image_id": 9, "question_id": 9000, "question": "What color is it?"},
    {"image_id": 25, "question_id": 25000, "question": "Is it a dog?"},
    {"image_id": 9, "question_id": 9001, "question": "How many are there?"},
]
PEOPLE = [["Red"] * 6 + ["dark red"] * 4, ["yes"] * 10, ["2", "two", "2", "3", "3", "3", "2", "2", "4", "5"]]


def files(root, subtype="train2014", kind="mscoco", people=PEOPLE, asked=ASKED):
    """VQA's two files."""
    common = {"info": {"version": "2.0"}, "data_type": kind, "data_subtype": subtype, "license": {}}
    write(root / "questions.json", json.dumps(common | {"task_type": "Open-Ended", "questions": asked}))
    annotations = [
        {
            "question_id": question["question_id"],
            "image_id": question["image_id"],
            "answers": [
                {"answer": answer, "answer_confidence": "yes", "answer_id": number}
                for number, answer in enumerate(answers, 1)
            ],
            "multiple_choice_answer": max(answers, key=answers.count).lower(),
            "answer_type": answer_type,
            "question_type": "is it",
        }
        for question, answers, answer_type in zip(asked, people, ("other", "yes/no", "number"), strict=True)
    ]
    write(root / "annotations.json", json.dumps(common | {"annotations": annotations}))
    return root / "questions.json", root / "annotations.json"


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Images/mscoco/train2014", "COCO_train2014_{:012d}.jpg"),
        ("train2014", "COCO_train2014_{:012d}.jpg"),
        ("images", "{:012d}.jpg"),
        ("", "{:012d}.jpg"),
    ],
)
def test_vqa_files_with_their_pictures(tmp_path, folder, name):
    for number in (9, 25):
        picture(tmp_path / folder / name.format(number), (number, 5))
    data = vqa.load(*files(tmp_path / "Questions"))
    assert data.pictures.root == tmp_path / folder
    assert list(data.pictures.ids) == [name.format(9), name.format(25)]
    assert [question.picture for question in data] == [0, 1, 0]
    assert data.pictures[1].size == (25, 5)
    assert [question.id for question in data] == [9000, 25000, 9001]
    assert [question.text for question in data] == [one["question"] for one in ASKED]
    assert [list(question.answers) for question in data] == PEOPLE
    assert [question.answer for question in data] == ["red", "yes", "2"]
    assert [question.answer_type for question in data] == ["other", "yes/no", "number"]
    assert {question.question_type for question in data} == {"is it"}


def test_pictures_of_test_dev_and_of_abstract_scenes(tmp_path):
    picture(tmp_path / "x" / "COCO_test2015_000000000009.jpg")
    picture(tmp_path / "x" / "COCO_test2015_000000000025.jpg")
    source, _ = files(tmp_path, "test-dev2015")
    data = vqa.load(source, images=tmp_path / "x")
    assert list(data.pictures.ids) == ["COCO_test2015_000000000009.jpg", "COCO_test2015_000000000025.jpg"]
    assert [(question.answers, question.answer) for question in data] == [((), None)] * 3
    source, _ = files(tmp_path, "val2015", "abstract_v002")
    data = vqa.load(source, truth_only=True)
    assert data.pictures.ids[0] == "abstract_v002_val2015_000000000009.png"
    with pytest.raises(FileNotFoundError, match="abstract_v002_val2015_000000000009"):
        vqa.load(source)


def test_annotations_without_a_chosen_answer_or_with_it_alone(tmp_path):
    source, annotations = files(tmp_path)
    document = json.loads(annotations.read_text())
    del document["annotations"][0]["multiple_choice_answer"]
    del document["annotations"][1]["answers"]
    annotations.write_text(json.dumps(document))
    first, second, _ = vqa.load(source, annotations, truth_only=True)
    assert (first.answer, first.answers) == ("red", tuple(PEOPLE[0]))
    assert (second.answer, second.answers) == ("yes", ("yes",))


CSV = """\ufeffimage,question,answer,note
./a.png,"What colour, if any?",Red,x
b.png,Is it a dog?,yes,
a.png,"What colour, if any?",red ,
a.png,"What colour, if any?",green,
b.png,Why?,,
"""


def test_csv(tmp_path):
    for name in ("a.png", "b.png"):
        picture(tmp_path / name)
    data = vqa.load(write(tmp_path / "vqa.csv", CSV))
    assert list(data.pictures.ids) == ["a.png", "b.png"]
    assert [(one.id, one.text, one.picture, one.answers, one.answer) for one in data] == [
        (0, "What colour, if any?", 0, ("Red", "red", "green"), "red"),
        (1, "Is it a dog?", 1, ("yes",), "yes"),
        (2, "Why?", 1, (), None),
    ]
    rows = "question_id,answer,image,question,answer_type\n7,yes,a.png,is it?,yes/no\n7,no,a.png,is it?,\n"
    rows += "x1,no,a.png,is it?,\n"
    data = vqa.load(write(tmp_path / "in" / "ids.csv", rows), images=tmp_path)
    assert [(one.id, one.answers, one.answer_type) for one in data] == [
        (7, ("yes", "no"), "yes/no"),
        ("x1", ("no",), ""),
    ]


def test_a_part_of_the_questions(tmp_path):
    data = vqa.load(files(tmp_path)[0], truth_only=True)
    part = data.subset([1])
    assert [(one.id, one.picture) for one in part] == [(25000, 0)]
    assert [id[-6:] for id in part.pictures.ids] == ["25.jpg"]
    both = data.subset([2, 1])
    assert [(one.id, both.pictures.ids[one.picture][-6:]) for one in both] == [(9001, "09.jpg"), (25000, "25.jpg")]
    with pytest.raises(ValueError, match="one question at least"):
        data.subset([])
    with pytest.raises(ValueError, match="25000 comes twice"):
        data.subset([1, 1])


def test_words():
    assert vqa.words_of("What's the BIG   dog\u2019s colour, the one in 2_3?") == [
        "what's",
        "the",
        "big",
        "dog's",
        "colour",
        "one",
        "in",
        "2",
        "3",
    ]
    assert vqa.words_of("?! …") == []


BAD = {
    "no list": (lambda q, a: q.pop("questions"), r"questions\.json: expected an object with a list `questions`"),
    "the other file": (lambda q, a: q.update(annotations=q.pop("questions")), "it has `annotations`"),
    "no text": (lambda q, a: q["questions"][1].pop("question"), r"questions\[1\]: expected `question_id`"),
    "a number as text": (lambda q, a: q["questions"][1].update(image_id="25"), r"questions\[1\]: expected"),
    "a negative number": (lambda q, a: q["questions"][1].update(image_id=-1), r"questions\[1\]: expected"),
    "a huge number": (lambda q, a: q["questions"][1].update(image_id=10**30), r"questions\[1\]: expected"),
    "no words": (
        lambda q, a: q["questions"][1].update(question=" ?"),
        r"questions\[1\]: expected a question with words",
    ),
    "twice": (lambda q, a: q["questions"][1].update(question_id=9000), r"questions\[1\]: question 9000 comes twice"),
    "no object": (lambda q, a: q["questions"].__setitem__(1, [3]), r"questions\[1\]: expected an object, got \[3\]"),
    "no answers": (lambda q, a: a["annotations"].pop(1), r"questions\[1\]: question 25000 has no answers in"),
    "not asked": (lambda q, a: q["questions"].pop(1), r"annotations\.json: there is no question 25000"),
    "answers of numbers": (
        lambda q, a: a["annotations"][1].update(answers=[{"answer": 3}]),
        r"annotations\[1\]: expected `question_id` and `answers`",
    ),
    "answered twice": (
        lambda q, a: a["annotations"][1].update(question_id=9000),
        r"annotations\[1\]: question 9000 comes twice",
    ),
    "a path as a kind": (lambda q, a: q.update(data_subtype="../x"), "expected `data_subtype` to be letters"),
}


@pytest.mark.parametrize("name", BAD)
def test_malformed_files(tmp_path, name):
    source, annotations = files(tmp_path)
    documents = [json.loads(path.read_text()) for path in (source, annotations)]
    change, message = BAD[name]
    change(*documents)
    for path, document in zip((source, annotations), documents, strict=True):
        path.write_text(json.dumps(document))
    with pytest.raises(ValueError, match=message):
        vqa.load(source, annotations, truth_only=True)
    bad = []
    if "list" in name or "file" in name or "kind" in name or "not asked" in name:
        with pytest.raises(ValueError, match=message):
            vqa.load(source, annotations, truth_only=True, bad=bad)
    else:
        data = vqa.load(source, annotations, truth_only=True, bad=bad)
        assert [question.id for question in data] == [9000, 9001]
        assert re.search(message, bad[0][1])


def test_files_that_are_none(tmp_path):
    for content, message in ((b"{", "not well-formed JSON"), (b"\xff\xfe{}", "expected UTF-8"), (b"[" * 10**5, "JSON")):
        with pytest.raises(ValueError, match=message):
            vqa.load(write(tmp_path / "q.json", content))
    with pytest.raises(FileNotFoundError, match="no file of questions"):
        vqa.load(tmp_path / "gone.json")
    with pytest.raises(FileNotFoundError, match="no folder of pictures"):
        vqa.load(tmp_path / "q.json", images=tmp_path / "gone")
    with pytest.raises(ValueError, match=r"expected a \.json file of VQA's questions, or \.csv"):
        vqa.load(write(tmp_path / "q.txt", "x"))
    with pytest.raises(ValueError, match="has its answers in a column"):
        vqa.load(write(tmp_path / "q.csv", CSV), tmp_path / "q.json")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("image,answer\na.png,x\n", r"csv:1: expected a header with image, question, answer"),
        ("image,question,question\na.png,x,y\n", r"csv:1: expected a header"),
        ("image,question\na.png\n", r"csv:2: expected 2 columns, got 1"),
        ("image,question\n,why\n", r"csv:2: expected an image and a question"),
        ("image,question\na.png,?\n", r"csv:2: expected an image and a question with words"),
        ('image,question\na.png,"why\n', r"csv:\d: expected rows of CSV"),
        ("image,question\n../a.png,why\n", r"csv:2: an id must be a relative path"),
        ("image,question\n/etc/a.png,why\n", r"csv:2: an id must be a relative path"),
        ("question_id,image,question\n,a.png,why\n", r"csv:2: expected a question_id"),
        ("question_id,image,question\n1,a.png,why\n1,a.png,who\n", r"csv:3: question 1 has another image or text"),
        ("image,question\n", "has no questions"),
        ("", "has no questions"),
    ],
)
def test_malformed_csv(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        vqa.load(write(tmp_path / "vqa.csv", rows), truth_only=True)


def test_missing_pictures_are_left_out_on_request(tmp_path):
    picture(tmp_path / "a.png")
    path = write(tmp_path / "vqa.csv", CSV)
    with pytest.raises(FileNotFoundError, match=r"no picture .*b\.png"):
        vqa.load(path)
    bad = []
    data = vqa.load(path, bad=bad)
    assert [one.id for one in data] == [0]
    assert bad == [("b.png", f"{tmp_path / 'b.png'}: no such picture")]


def test_questions_are_about_pictures_that_are_there(tmp_path):
    pictures = Pictures(tmp_path, ["a.png"])
    with pytest.raises(ValueError, match="question 3 is about picture 1 of 1"):
        vqa.Questions(pictures, [vqa.Question(3, "why", 1)])


names = st.sampled_from(["questions", "question", "image_id", "question_id", "data_type", "annotations", "answers"])
plain = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(st.recursive(plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4)))
def test_any_json_is_read_or_refused(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(document))
    with contextlib.suppress(ValueError):
        vqa.load(path, path, truth_only=True)
