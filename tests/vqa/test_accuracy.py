"""The accuracy of the VQA challenge against cases worked out by hand, and against its definition."""

import json
from itertools import product

import pytest

from fastcam import vqa
from fastcam.data import Pictures

NORMAL = {
    "Yes": "yes",
    " the  dog\n": "dog",
    "a cat and an owl": "cat and owl",
    "Two": "2",
    "none": "0",
    "ten dogs": "10 dogs",
    "dont know": "don't know",
    "couldnt've": "couldn't've",
    "couldn'tve": "couldn't've",
    "it's 2:50": "it's 2:50",
    "t-shirt": "t shirt",
    "black/white": "black white",
    "red, white": "red white",
    "t-shirt -": "tshirt",  # beside a blank, so that all of this mark go
    "100,978": "100978",
    "1,000 t-shirts": "1000 tshirts",  # so do all marks where there is such a number
    "3.5 m.": "3.5 m",
    "st. john": "st john",
    "what?!": "what",
    "the": "",
}


@pytest.mark.parametrize("answer", NORMAL)
def test_normal_form(answer):
    assert vqa.normal(answer) == NORMAL[answer]
    assert vqa.normal(NORMAL[answer]) == NORMAL[answer]


def by_definition(answer, truth):
    """Each person is left out in turn."""
    rounds = [truth[:place] + truth[place + 1 :] for place in range(len(truth))]
    return sum(min(1, others.count(answer) / 3) for others in rounds) / len(rounds)


def test_accuracy_is_the_mean_over_all_people_but_one():
    figures = [0.0, 0.3, 0.6, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    for count, expected in enumerate(figures):
        truth = ["yes"] * count + ["no"] * (10 - count)
        assert vqa.accuracy("Yes!", truth) == pytest.approx(expected)
        assert by_definition("yes", truth) == pytest.approx(expected)
    for truth in product("xyz", repeat=5):
        for answer in "xyz":
            assert vqa.accuracy(answer, truth) == pytest.approx(by_definition(answer, list(truth)))


def test_accuracy_of_few_people():
    assert [vqa.accuracy(answer, ["two"]) for answer in ("2", "3")] == [1, 0]
    assert vqa.accuracy("x", ["x", "x"]) == vqa.accuracy("x", ["x"] * 3) == 1
    assert vqa.accuracy("x", ["x", "y"]) == pytest.approx(0.5)  # right for one of the two who are left out
    assert vqa.accuracy("x", ["x", "y", "y"]) == pytest.approx((0 + 0.5 + 0.5) / 3)
    with pytest.raises(ValueError, match="one person at least, got none"):
        vqa.accuracy("x", [])


@pytest.fixture
def data(tmp_path):
    rows = [
        ("yes", 10, "yes/no", "is the"),
        ("no", 3, "yes/no", "is the"),
        ("2", 10, "number", "how many"),
        ("red", 0, "", ""),
    ]
    questions = [
        vqa.Question(number, "is it?", 0, tuple([answer] * times + ["other"] * (10 - times)), answer, *types)
        for number, (answer, times, *types) in enumerate(rows)
    ]
    return vqa.Questions(Pictures(tmp_path, ["a.png"]), [*questions, vqa.Question("open", "why?", 0)])


def test_score_overall_and_by_types(data):
    found = vqa.score(data, {0: "Yes", 1: "no", 2: "3", 3: "red", "open": "?"})
    assert found.questions == 4
    assert found.overall == pytest.approx((1 + 0.9 + 0 + 0) / 4)
    assert found.by_answer_type == pytest.approx({"yes/no": 0.95, "number": 0.0})
    assert list(found.by_answer_type) == ["yes/no", "number"]
    assert found.by_question_type == pytest.approx({"is the": 0.95, "how many": 0.0})


def test_score_needs_all_answers_and_a_truth(data):
    with pytest.raises(ValueError, match="lacks that to 2"):
        vqa.score(data, {0: "yes", 1: "no", 3: "red"})
    with pytest.raises(ValueError, match="no question has answers of people"):
        vqa.score(data.subset([4]), {"open": "x"})


def test_results_as_the_challenge_takes_them(tmp_path):
    vqa.write_results(tmp_path / "r" / "results.json", {7: "yes", 8: "ünder"})
    assert json.loads((tmp_path / "r" / "results.json").read_bytes()) == [
        {"question_id": 7, "answer": "yes"},
        {"question_id": 8, "answer": "ünder"},
    ]
