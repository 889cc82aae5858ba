"""Models written and read, what they refuse, the figure, and the commands."""

import copy
import json

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import nn

from fastcam import drawing, models, vqa
from fastcam.data import Pictures
from fastcam.fitting import pooled_features
from fastcam.models import GlobalPoolNet, ModelConfig
from fastcam.pictures import DecodeError, load_image
from tests.support.commands import refused, run
from tests.support.files import noise, write

CONFIG = ModelConfig("shufflenet_v2_x0_5", 3, size=64)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return models.build("shufflenet_v2_x0_5", 3).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures, red ones and blue ones, and two questions about each in CSV."""
    path = tmp_path_factory.mktemp("pictures")
    rows = ["image,question,answer,answer_type"]
    for index in range(6):
        pixels = noise(30, 40, index) // 4
        pixels[..., 2 * (index % 2)] += 180
        Image.fromarray(pixels).save(path / f"{index}.png")
        rows += [f"{index}.png,What colour is it?,{('red', 'blue')[index % 2]},other"]
        rows += [f"{index}.png,Is it a picture?,yes,yes/no"]
    write(path / "vqa.csv", "\n".join(rows))
    return path


@pytest.fixture(scope="module")
def data(folder):
    return vqa.load(folder / "vqa.csv")


@pytest.fixture(scope="module")
def model(network, data):
    return vqa.fit(data, network, config=CONFIG)


def test_it_learns(model, data):
    assert model.answers == ("yes", "red", "blue")
    assert set(model.words) == {"what", "colour", "is", "it", "a", "picture"}
    assert model.words[:2] == ("is", "it")  # the most frequent come first
    found = model.evaluate(data)
    assert (found.overall, found.questions) == (1, 12)
    assert found.by_answer_type == {"other": 1, "yes/no": 1}
    assert model.config.class_names == model.answers


def test_the_network_that_is_given_stays_as_it_is(network, data):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.inference_mode():
        vqa.fit(data, network, config=CONFIG, epochs=1)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert network.fc.out_features == 3


def test_it_learns_where_the_network_is(device, data, network, folder):
    made = vqa.fit(data, copy.deepcopy(network).to(device), config=CONFIG)
    assert next(made.network.parameters()).device.type == device.type
    assert made.evaluate(data).overall == 1
    answer = made.answer(folder / "0.png", "What colour is it?")
    assert answer.text == "red"
    assert answer.map.shape == (30, 40)


def test_weights_are_those_of_the_softmax_regression(data, network):
    """The optimum against one found by hand: full gradient descent on the same loss in float64."""
    fitted = vqa.fit(data, network, config=CONFIG, solver="logistic", strength=0.1)
    features = pooled_features(network, data.pictures, CONFIG).values
    words = np.array([[word in vqa.words_of(one.text) for word in fitted.words] for one in data], np.float64)
    matrix = np.concatenate([words, features[[one.picture for one in data]]], 1).astype(np.float64)
    std = matrix.std(0)
    values = torch.from_numpy((matrix - matrix.mean(0)) / np.where(std > 0, std, 1))
    truth = torch.tensor([fitted.answers.index(one.answer) for one in data])
    weight = torch.zeros(3, values.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=2000, tolerance_grad=1e-10, tolerance_change=1e-14)

    def loss():
        optimizer.zero_grad()
        total = nn.functional.cross_entropy(values @ weight.T + bias, truth, reduction="sum")
        total = total + 0.5 / 0.1 * weight.square().sum()
        total.backward()
        return total

    optimizer.step(loss)
    expected = (values @ weight.T + bias).softmax(1).detach()
    rows = [fitted.best(data.pictures.root / f"{one.picture}.png", one.text, 3) for one in data]
    found = [[{a.text: a.probability for a in row}[answer] for answer in fitted.answers] for row in rows]
    assert np.abs(np.array(found) - expected.numpy()).max() < 2e-3


@pytest.mark.parametrize("inputs", ["words", "picture"])
def test_one_input_alone(data, network, inputs):
    alone = vqa.fit(data, network, config=CONFIG, inputs=inputs)
    first, second = (alone.answer(data.pictures.root / name, "What colour is it?") for name in ("0.png", "1.png"))
    if inputs == "words":
        assert first.picture == second.picture == 0
        assert first.map.max() == 0
        assert first.probability == second.probability
    else:
        assert (first.words, first.unknown) == ({}, ("what", "colour", "is", "it"))
        assert alone.answer(data.pictures.root / "0.png", "Is it a picture?").probability == first.probability


def test_vocabularies_are_the_most_frequent(data, network):
    small = vqa.fit(data, network, config=CONFIG, answers=2, words=3, epochs=1)
    assert small.answers == ("yes", "red")
    assert small.words[:2] == ("is", "it")
    assert len(small.words) == 3
    assert small.evaluate(data).overall <= 0.75  # questions with another answer count


def test_written_and_read(model, data, folder, tmp_path, network):
    model.save(tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["network.safetensors", "words.safetensors"]
    for read in (vqa.VQA.load(tmp_path / "m"), vqa.VQA.load(tmp_path / "m", network)):
        assert (read.words, read.answers, read.origin) == (model.words, model.answers, model.origin)
        assert torch.equal(read.weight, model.weight)
        one, other = (each.answer(folder / "0.png", "What colour is it?") for each in (read, model))
        assert one._replace(map=None) == other._replace(map=None)
        assert np.array_equal(one.map, other.map)
    classifier, config = models.load_checkpoint(tmp_path / "m" / "network.safetensors")
    assert config.class_names == model.answers
    assert classifier(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_network_that_no_name_builds(data, tmp_path):
    def small():
        return GlobalPoolNet(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), nn.AdaptiveMaxPool2d(1), nn.Linear(8, 5))

    made = vqa.fit(data, small(), epochs=1)
    made.save(tmp_path / "m")
    with pytest.raises(ValueError, match="unknown architecture 'GlobalPoolNet'"):
        vqa.VQA.load(tmp_path / "m")
    assert vqa.VQA.load(tmp_path / "m", small()).predict(data) == made.predict(data)
    wide = GlobalPoolNet(nn.Sequential(nn.Conv2d(3, 9, 3), nn.ReLU()), nn.AdaptiveMaxPool2d(1), nn.Linear(9, 5))
    with pytest.raises(ValueError, match=r"network\.safetensors"):
        vqa.VQA.load(tmp_path / "m", wide)


def test_weights_that_do_not_fit_the_network(model):
    config, words, weight = model.config, model.words, model.weight
    for wrong in (weight[:, :2], weight[:5], weight.T):
        with pytest.raises(ValueError, match=r"`weight` must be \[V, C\]"):
            vqa.VQA(model.network, config, words, wrong)
    with pytest.raises(ValueError, match="finite"):
        vqa.VQA(model.network, config, words, torch.full_like(weight, torch.nan))
    with pytest.raises(ValueError, match="3 outputs, one for each answer"):
        vqa.VQA(models.build("shufflenet_v2_x0_5", 4), config, words, weight)
    assert vqa.VQA(nn.DataParallel(model.network), config, words, weight).words == words


def test_files_that_are_not_of_one_model(model, data, network, tmp_path):
    model.save(tmp_path / "m")
    vqa.fit(data, network, config=CONFIG, epochs=1).save(tmp_path / "n")
    words = (tmp_path / "n" / "words.safetensors").read_bytes()
    whole = (tmp_path / "m" / "words.safetensors").read_bytes()
    path = tmp_path / "m" / "words.safetensors"
    path.write_bytes(words)
    with pytest.raises(ValueError, match="are not of one model"):
        vqa.VQA.load(tmp_path / "m")
    for content in (b"", whole[:100], whole[:-8], safetensors.torch.save({"weight": torch.zeros(6, 3)})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"words\.safetensors is not a file of a model's words"):
            vqa.VQA.load(tmp_path / "m")
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"words\.safetensors"):
        vqa.VQA.load(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match=r"network\.safetensors"):
        vqa.VQA.load(tmp_path / "gone")
    models.save_checkpoint(tmp_path / "m" / "network.safetensors", network, CONFIG)
    with pytest.raises(ValueError, match="is not a checkpoint whose classes are answers"):
        vqa.VQA.load(tmp_path / "m")


def test_questions_that_cannot_be_answered(model, folder):
    with pytest.raises(ValueError, match=r"`question` must have words, got ' \?'"):
        model.answer(folder / "0.png", " ?")
    with pytest.raises(ValueError, match="`top_k` must be"):
        model.best(folder / "0.png", "why", 0)
    with pytest.raises(FileNotFoundError, match=r"no picture .*gone\.png"):
        model.answer(folder / "gone.png", "why")
    with pytest.raises(DecodeError, match=r"vqa\.csv: "):
        model.answer(folder / "vqa.csv", "why")
    with pytest.raises(TypeError, match="a picture must be"):
        model.answer(np.zeros((3, 3, 3)), "why")
    found = model.answer(folder / "0.png", "Why colour?")
    assert (list(found.words), found.unknown) == (["colour"], ("why",))
    assert len(model.best(folder / "0.png", "why", 99)) == 3


def test_data_that_cannot_be_learnt_from(data, network, monkeypatch):
    yes = [place for place, question in enumerate(data) if question.answer == "yes"]
    with pytest.raises(ValueError, match=r"two different answers at least, got 1: \['yes'\]"):
        vqa.fit(data.subset(yes), network, config=CONFIG)
    with pytest.raises(ValueError, match="pool"):
        vqa.fit(data, models.build("alexnet", 3), config=CONFIG)
    features = pooled_features(network, data.pictures, CONFIG)
    with pytest.raises(ValueError, match="are those of another network"):
        vqa.fit(data, models.build("shufflenet_v2_x0_5", 3), config=CONFIG, features=features)
    with pytest.raises(ValueError, match=r"lack 5\.png"):
        vqa.fit(data, network, config=CONFIG, features=features._replace(ids=(*features.ids[:-1], "x")))
    values = features.values.copy()
    values[3, 7] = np.nan
    with pytest.raises(ValueError, match=r"NaN or infinity for 3\.png"):
        vqa.fit(data, network, config=CONFIG, features=features._replace(values=values))
    with pytest.raises(ValueError, match="'red' has a single picture"):
        vqa.fit(data.subset([0, 1, 2, 5]), network, config=CONFIG, features=features, solver="logistic")
    with pytest.raises(FloatingPointError, match="lower the `lr`"):
        vqa.fit(data, network, config=CONFIG, features=features, lr=1e36, epochs=3)
    monkeypatch.setattr("fastcam.vqa.fitting._LARGEST", 12 * 1029)
    with pytest.raises(ValueError, match="12 questions, 6 words and 1024 features are too many"):
        vqa.fit(data, network, config=CONFIG, features=features, solver="logistic")


@pytest.mark.parametrize(
    "options", [{"answers": 1}, {"lr": 0.0}, {"solver": "sgd"}, {"inputs": "none"}, {"strength": -1.0}, {"epochs": 0}]
)
def test_options_out_of_range(data, network, options):
    with pytest.raises(ValueError, match=f"`{next(iter(options))}` must be"):
        vqa.fit(data, network, config=CONFIG, **options)


def test_damaged_pictures_are_named_and_left_out(network, folder, tmp_path):
    for index in range(6):
        write(tmp_path / f"{index}.png", (folder / f"{index}.png").read_bytes()[: None if index != 2 else 60])
    data = vqa.load(write(tmp_path / "vqa.csv", (folder / "vqa.csv").read_bytes()))
    with pytest.raises(ValueError, match=r"2\.png"):
        vqa.fit(data, network, config=CONFIG, epochs=1)
    bad = []
    made = vqa.fit(data, network, config=CONFIG, epochs=1, bad=bad)
    assert [id for id, _ in bad] == ["2.png"]
    assert len(made.predict(data, bad=bad)) == 10


def test_features_in_a_file_are_read_again(network, data, tmp_path):
    made = [vqa.fit(data, network, config=CONFIG, epochs=2, features=tmp_path / "f.parquet") for _ in range(2)]
    assert (tmp_path / "f.parquet").is_file()
    assert torch.equal(made[0].weight, made[1].weight)
    assert torch.equal(made[0].network.fc.weight, made[1].network.fc.weight)


# The figure


def test_the_figure_shows_picture_map_and_contributions(model, folder, tmp_path):
    answers = model.best(folder / "1.png", "What $colour is\x1b it, quux?", 2)
    figure = vqa.figure(folder / "1.png", answers)
    axes = np.array(figure.axes).reshape(2, 3)
    picture = load_image(folder / "1.png")
    for row, answer in zip(axes, answers, strict=True):
        assert np.array_equal(row[0].images[0].get_array(), picture)
        assert np.array_equal(row[1].images[0].get_array(), drawing.overlay(picture, answer.map))
        assert answer.text in row[1].get_title()
        assert f"{answer.probability:.1%}" in row[1].get_title()
        labels = [label.get_text() for label in row[2].get_yticklabels()]
        assert labels == ["what", "colour", "is", "it", "quux (unknown)", "[picture]", "[bias]"]
        lengths = [bar.get_width() for bar in row[2].patches]
        assert lengths == pytest.approx([*answer.words.values(), 0, answer.picture, answer.bias])
    assert axes[0, 2].get_xlim() == axes[1, 2].get_xlim()
    assert drawing.save(figure, tmp_path / "a.png").stat().st_size > 1000
    questions = [model.answer(folder / "1.png", text) for text in ("What colour?", "Is it?")]
    titles = [axes.get_title() for axes in vqa.figure(folder / "1.png", questions).axes]
    assert (titles[2], titles[5]) == ("What colour?", "Is it?")
    with pytest.raises(ValueError, match="of another one"):
        vqa.figure(np.zeros((9, 9, 3), np.uint8), answers)
    with pytest.raises(ValueError, match="one at least"):
        vqa.figure(folder / "1.png", [])


# Commands


@pytest.fixture(scope="module")
def written(folder, network, tmp_path_factory):
    """A model that the command has made."""
    path = tmp_path_factory.mktemp("command")
    models.save_checkpoint(path / "net.safetensors", network, CONFIG)
    options = ("--weights", path / "net.safetensors", "--epochs", 200)
    result = run("vqa", "fit", folder / "vqa.csv", *options, "--out", path / "m", "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert "12 questions about 6 pictures; 6 words" in result.stdout
    assert "3 answers, those to 100.0% of the questions" in result.stdout
    assert "already" in refused("vqa", "fit", folder / "vqa.csv", *options, "--out", path / "m")
    return path / "m"


def test_the_command_answers(written, folder, tmp_path):
    result = run("vqa", "answer", written, folder / "1.png", "What colour is it?", "--out", tmp_path / "a.png")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("blue ")
    assert "colour +" in result.stdout
    assert load_image(tmp_path / "a.png").shape[1] > 500
    result = run("vqa", "answer", written, folder / "1.png", "What colour?", "--top-k", 2, "--json")
    first, second = json.loads(result.stdout)
    assert first["text"] == "blue"
    assert first["probability"] > second["probability"]
    assert list(first["words"]) == ["what", "colour"]
    assert "does not know: quux" in run("vqa", "answer", written, folder / "1.png", "quux colour").stderr
    assert "must have words" in refused("vqa", "answer", written, folder / "1.png", "?")
    assert "no file" in refused("vqa", "answer", tmp_path, folder / "1.png", "why")


def test_the_command_evaluates(written, folder, tmp_path):
    result = run("vqa", "evaluate", written, folder / "vqa.csv", "--results", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["VQA accuracy 100.00% of 12 questions", "  other 100.00%", "  yes/no 100.00%"]
    rows = json.loads((tmp_path / "r.json").read_text())
    assert [row["question_id"] for row in rows] == list(range(12))
    assert {row["answer"] for row in rows} == {"yes", "red", "blue"}
    result = run("vqa", "evaluate", written, folder / "vqa.csv", "--json")
    assert json.loads(result.stdout)["overall"] == 1
    open_questions = write(tmp_path / "q.csv", "image,question\n0.png,why so?\n")
    assert "--annotations" in refused("vqa", "evaluate", written, open_questions, "--images", folder)
    missing = write(tmp_path / "m.csv", "image,question,answer\n0.png,Is it?,yes\ngone.png,Is it?,yes\n")
    result = run("vqa", "evaluate", written, missing, "--images", folder)
    assert result.exit_code == 3
    assert "gone.png" in result.stderr
    assert "of 1 questions" in result.stdout


def test_a_part_of_other_pictures(data, network):
    """Features of more pictures than the questions are about will do."""
    features = pooled_features(network, data.pictures, CONFIG)
    part = data.subset([10, 11, 0, 1])
    assert isinstance(part.pictures, Pictures)
    one, other = (vqa.fit(part, network, config=CONFIG, features=f, epochs=1) for f in (features, None))
    assert one.answers == other.answers
