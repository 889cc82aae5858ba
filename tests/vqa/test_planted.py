"""Questions about drawn scenes whose answers, places and deciding words are known: see examples/vqa_scenes.py."""

import numpy as np
import pytest
import torch

import fastcam
from fastcam import vqa
from fastcam.fitting import pooled_features
from tests.support.scripts import script

scenes = script("vqa_scenes")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Scenes to learn from and others to test on, the network, and what it pools of them."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("scenes")
    parts = {name: [scenes.scene(rng) for _ in range(count)] for name, count in (("train", 800), ("test", 100))}
    network = scenes.network(parts["train"], 8)
    data = {name: scenes.ask(part, folder / f"{name}.csv", rng) for name, part in parts.items()}
    features = {name: pooled_features(network, part.pictures, scenes.CONFIG) for name, part in data.items()}
    return parts, network, data, features


@pytest.fixture(scope="module", params=["adam", "logistic"])
def model(request, drawn):
    _, network, data, features = drawn
    options = {"strength": 1.0} if request.param == "logistic" else {}
    return vqa.fit(
        data["train"], network, config=scenes.CONFIG, features=features["train"], solver=request.param, **options
    )


def test_words_in_the_questions_are_as_the_scenes_have_them(drawn):
    """Words that do not decide come in questions of every kind, so that no other word can tell what is asked."""
    heard = {kind: set() for kind in scenes.ANSWERS}
    for question in drawn[2]["train"]:
        heard[question.question_type] |= {*vqa.words_of(question.text)}
    others = [words - {scenes.DECIDING[kind]} for kind, words in heard.items()]
    assert all(words == others[0] for words in others)
    assert {scenes.DECIDING[kind] in words for kind, words in heard.items()} == {True}


def test_both_together_answer(drawn, model):
    _, _, data, features = drawn
    found = model.evaluate(data["test"], features=features["test"])
    assert found.questions == 400
    assert found.overall >= 0.9
    assert min(found.by_question_type.values()) >= 0.85


@pytest.mark.parametrize("inputs", ["words", "picture"])
def test_each_alone_cannot(drawn, inputs):
    _, network, data, features = drawn
    alone = vqa.fit(data["train"], network, config=scenes.CONFIG, features=features["train"], inputs=inputs)
    assert alone.evaluate(data["test"], features=features["test"]).overall < 0.6


def test_maps_and_words_of_the_answers(drawn, model):
    parts, _, data, _ = drawn
    found, right, on_object, decided = 0, 0, 0, 0
    for question in data["test"][:240]:
        one = parts["test"][question.picture]
        answer = model.answer(one.image, question.text)
        found += 1
        right += answer.text == question.answer
        y, x = np.unravel_index(answer.map.argmax(), answer.map.shape)
        x0, y0, x1, y1 = one.boxes[question.question_type]
        on_object += x0 <= x < x1 and y0 <= y < y1
        decided += max(answer.words, key=answer.words.get) == scenes.DECIDING[question.question_type]
    assert right / found >= 0.9
    assert on_object / found >= 0.9
    assert decided == found


def test_contributions_add_up_to_the_logit_and_the_map_to_the_pictures(drawn, model):
    """logit = bias + mean of the map before normalisation + Σ words, worked out from the weights by hand."""
    parts, _, data, _ = drawn
    one, question = parts["test"][0], data["test"][0]
    answers = model.best(data["test"].pictures.root / "test" / "0.png", question.text, 12)
    images = torch.from_numpy(one.image).permute(2, 0, 1)[None] / 255
    images = (images - 0.5) / 0.25
    with torch.no_grad():
        maps = model.network.features(images)[0].double()
    weight, bias = (part.detach().double() for part in (model.network.classifier.weight, model.network.classifier.bias))
    asked = [model.words.index(word) for word in vqa.words_of(question.text)]
    logits = bias + (weight @ maps.mean((1, 2))) + model.weight[asked].double().sum(0)
    for rank, answer in enumerate(answers):
        place = model.answers.index(answer.text)
        coarse = torch.einsum("k,khw->hw", weight[place], maps)
        assert answer.picture == pytest.approx(float(coarse.mean()), abs=1e-4)
        assert answer.bias == pytest.approx(float(bias[place]), abs=1e-6)
        assert answer.logit == pytest.approx(float(logits[place]), abs=1e-4)
        assert answer.probability == pytest.approx(float(logits.softmax(0)[place]), abs=1e-5)
        assert logits.argsort(descending=True)[rank] == place
        expected = torch.nn.functional.interpolate(coarse[None, None], one.image.shape[:2], mode="bilinear")[0, 0]
        expected = (expected - expected.min()) / (expected.max() - expected.min())
        assert np.abs(answer.map - expected.numpy()).max() < 1e-3
    assert sum(answer.probability for answer in answers) == pytest.approx(1)
    # Of all answers together nothing is added.
    assert sum(answer.picture for answer in answers) == pytest.approx(0, abs=1e-3)
    assert sum(answer.words[scenes.DECIDING["colour"]] for answer in answers) == pytest.approx(0, abs=1e-3)


def test_the_network_is_an_ordinary_classifier_of_answers(drawn, model):
    parts, _, _, _ = drawn
    one = parts["test"][3]
    images = (torch.from_numpy(one.image).permute(2, 0, 1)[None] / 255 - 0.5) / 0.25
    place = model.answers.index(one.answers["shape"])
    map = fastcam.CAM(model.network)(images, place)[0].numpy()
    answer = model.answer(one.image, "Name the shape that the figure next to the stars has.")
    assert answer.text == one.answers["shape"]
    assert np.abs(answer.map - map).max() < 1e-6


def test_the_words_that_speak_for_an_answer(model):
    for kind, answers in scenes.ANSWERS.items():
        for answer in answers:
            assert next(iter(model.words_for(answer))) == scenes.DECIDING[kind]
    assert len(model.words_for("red", 3)) == 3
    with pytest.raises(ValueError, match="no answer 'rad'; did you mean red"):
        model.words_for("rad")


def test_the_example_prints_its_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("fastcam.vqa.fitting._STEPS", 50)
    scenes.main([str(tmp_path / "out"), "--train", "60", "--test", "5", "--epochs", "2"])
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["20 questions about 5 scenes, %", *scenes.ANSWERS, "all", "peak", "word"]
    assert [line[0] for line in lines[1:]] == ["words and picture", "words alone", "picture alone"]
    assert all(len(line) == 8 for line in lines)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "answers.png",
        "test",
        "test.csv",
        "train",
        "train.csv",
    ]
