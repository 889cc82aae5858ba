"""A concept against the rest: which pictures are chosen, hard negatives by hand, captions."""

import json

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from fastcam import data, models
from fastcam.fitting import Fitted, fit, fit_head
from fastcam.fitting.concepts import chosen, mentioned, mined
from tests.support import heads
from tests.support.commands import refused, run
from tests.support.files import write

IDS = ("a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg", "Ü.jpg")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return heads.folder(tmp_path_factory.mktemp("textures") / "data")


def test_pictures_are_chosen_by_id():
    assert chosen(IDS, ["b/3.jpg", "a\\1.JPG", "a/1.jpg"], None, 0) == ([0, 2], [1, 3, 4])
    assert chosen(IDS, ["b/3.jpg"], ["Ü.jpg", "a/2.jpg"], 0) == ([2], [1, 4])
    assert chosen(IDS, ["b/3.jpg"], None, 0, others=["b/3.jpg", "a/1.jpg"]) == ([2], [0])
    draws = {tuple(chosen(IDS, ["b/3.jpg"], 2, seed)[1]) for seed in range(40)}
    assert {place for draw in draws for place in draw} == {0, 1, 3, 4}
    assert all(len(set(draw)) == 2 and list(draw) == sorted(draw) for draw in draws)
    with pytest.raises(ValueError, match=r"2 of `positives` are no ids .* such as 'a/1\.jpg': 'c', 'd'"):
        chosen(IDS, ["c", "a/1.jpg", "d"], None, 0)
    with pytest.raises(ValueError, match=r"1 of `negatives` are no ids"):
        chosen(IDS, ["a/1.jpg"], ["e"], 0)
    with pytest.raises(ValueError, match=r"'a/1\.jpg' is among the positives and among the negatives"):
        chosen(IDS, ["a/1.jpg"], ["a/1.jpg"], 0)
    for count in (0, 5):
        with pytest.raises(ValueError, match=f"`negatives` must be a number from 1 to 4, .* got {count}"):
            chosen(IDS, ["a/1.jpg"], count, 0)
    with pytest.raises(ValueError, match="no picture of the data set is positive"):
        chosen(IDS, [], None, 0)
    with pytest.raises(ValueError, match="no picture of the data set is negative"):
        chosen(IDS, IDS, None, 0)


def test_hard_negatives_are_those_of_the_highest_scores():
    """One channel: positives at 10, negatives from -5 up to 9; each fit is a plane between its own."""
    values = np.concatenate([np.full(3, 10.0), np.linspace(-5, 9, 29)])[:, None]
    labels = np.r_[np.ones(3, int), np.zeros(29, int)]
    places = np.delete(np.arange(32), 20)  # one is not to be used
    fits = []

    def fit(chosen: np.ndarray) -> Fitted:
        fits.append(chosen)
        highest = values[chosen][labels[chosen] == 0].max()
        scale, bias = 2 / (10 - highest), -(10 + highest) / (10 - highest)  # -1 at the highest negative, 1 at 10
        weight = np.array([[-scale], [scale]], np.float32)
        return Fitted(weight, np.array([-bias, bias], np.float32), ("no", "yes"), "svm", 1.0)

    _, last = mined(values, labels, places, 50, fit, seed=5)
    first = set(fits[0].tolist())
    assert len(first) == 6
    assert {0, 1, 2} < first
    taken = first
    for used in fits[1:]:
        highest = max(values[place, 0] for place in taken if not labels[place])
        above = [place for place in places if place not in taken and not labels[place] and values[place, 0] > highest]
        expected = sorted(above, key=lambda place: -values[place, 0])[:3]
        assert set(used.tolist()) - taken == set(expected)
        taken = set(used.tolist())
    assert set(last.tolist()) == taken
    assert 31 in taken
    assert 20 not in taken
    left = [place for place in places if place not in taken]
    assert max(values[left, 0]) < 9
    fits.clear()
    mined(values, labels, places, 1, fit, seed=5)
    assert len(fits) == 2


def test_hard_negatives_come_near_to_all_of_them():
    random = np.random.default_rng(0)
    values = random.normal(size=(600, 20)).astype(np.float32)
    labels = (values @ random.normal(size=20) > 6).astype(int)
    assert 20 < labels.sum() < 120

    def fit(chosen: np.ndarray) -> Fitted:
        return fit_head(values[chosen], labels[chosen], strength=0.1, balanced=True)

    places = np.arange(600)

    def precision(head: Fitted) -> float:
        return average_precision_score(labels, head.scores(values)[:, 1])

    few, _ = mined(values, labels, places, 1, lambda chosen: fit(chosen[-2 * labels.sum() :]), 0)
    head, used = mined(values, labels, places, 6, fit, 0)
    assert len(used) < 600
    assert precision(head) > precision(few)
    assert precision(head) > precision(fit(places)) - 0.02


def test_a_concept_from_lists(pictures, tmp_path):
    weights = tmp_path / "w.safetensors"
    models.save_checkpoint(weights, *heads.network(heads.SMALL))
    shown = [id for id in data.load(pictures).ids if id.startswith("rows")]
    write(tmp_path / "yes.txt", "\n".join([*shown, ""]))
    write(tmp_path / "no.txt", "dots/00.png\r\ndots/01.png\r\nwaves/02.png\r\n")
    common = ("fit", pictures, "--weights", weights, "--positives", tmp_path / "yes.txt", "--folds", "3")
    common = (*common, "--strength", "0.01", "--out")
    done = run(*common, tmp_path / "all", "--concept", "rows")
    assert done.exit_code == 0, done.stderr
    assert "of 36 pictures, in 3 folds" in done.stdout
    assert "24 negatives were fitted on" in done.stdout
    _, config = models.load_network(tmp_path / "all")
    assert config.class_names == ("no rows", "rows")
    done = run(*common, tmp_path / "list", "--negatives", tmp_path / "no.txt")
    assert "3 negatives were fitted on" in done.stdout
    assert "of 15 pictures" in done.stdout
    done = run(*common, tmp_path / "random", "--negatives", "7")
    assert "7 negatives were fitted on" in done.stdout
    done = run(*common, tmp_path / "hard", "--hard-negatives", "2")
    assert done.exit_code == 0, done.stderr
    figures = json.loads((tmp_path / "hard" / "fit.json").read_text())
    assert 12 <= figures["negatives"] <= 24
    assert figures["classes"] == ["no positive", "positive"]
    assert 0 < figures["average_precision"] <= 1
    error = refused("fit", pictures, "--weights", weights, "--negatives", "3", "--out", tmp_path / "x")
    assert "`negatives` goes with `positives`" in error
    assert "no file" in refused(*common, tmp_path / "x", "--negatives", tmp_path / "none.txt")


CAPTIONS = {
    "a/1.jpg": ["A red  car.", "Somebody waits"],
    "a/2.jpg": ["a RED\ncar, parked"],
    "b/3.jpg": ["cars that are red", "a redcar"],
    "z.jpg": ["a red car"],
}


def test_a_concept_by_captions(tmp_path):
    rows = [f'{id},"{text}"' for id, texts in CAPTIONS.items() for text in texts]
    write(tmp_path / "c.csv", "\n".join(["image_id,caption", *rows, ""]))
    names = {id: index for index, id in enumerate(CAPTIONS, 5)}
    document = {
        "images": [{"id": index, "file_name": id} for id, index in names.items()],
        "annotations": [{"image_id": names[id], "caption": text} for id, texts in CAPTIONS.items() for text in texts],
    }
    write(tmp_path / "c.json", json.dumps(document))
    for file in (tmp_path / "c.csv", tmp_path / "c.json"):
        assert mentioned(file, "red car", IDS) == (["a/1.jpg", "a/2.jpg"], ["b/3.jpg"])
        assert mentioned(file, "waits", IDS) == (["a/1.jpg"], ["a/2.jpg", "b/3.jpg"])
        with pytest.raises(ValueError, match=r"of 3 pictures of the data set that have a caption, none has 'zebra'"):
            mentioned(file, "zebra", IDS)
    with pytest.raises(ValueError, match="`phrase` must have a word"):
        mentioned(tmp_path / "c.csv", " ", IDS)
    write(tmp_path / "d.csv", "a/1.jpg,a,b\n")
    with pytest.raises(ValueError, match=r"d\.csv:1: expected `image_id,caption`"):
        mentioned(tmp_path / "d.csv", "a", IDS)
    for text in ("{", "[]", '{"images": [], "annotations": [1]}', '{"images": [{"id": 1}]}', "[" * 100_000):
        write(tmp_path / "d.json", text)
        with pytest.raises(ValueError, match=r"d\.json is not COCO's JSON of captions"):
            mentioned(tmp_path / "d.json", "a", IDS)


def test_fit_by_captions(pictures, tmp_path):
    model, config = heads.network(heads.SMALL)
    samples = data.load(pictures)
    lines = [f"{id},a picture of {id.split('/')[0]}" for id in samples.ids[:30]]
    write(tmp_path / "c.csv", "\n".join(lines))
    words = {"captions": str(tmp_path / "c.csv"), "phrase": "dots"}
    result = fit(pictures, model, out=tmp_path / "m", config=config, folds=3, strength=0.01, **words)
    assert result.config.class_names == ("no dots", "dots")
    assert result.values.ids == tuple(samples.ids[:30])
    assert result.negatives == 18
    with pytest.raises(ValueError, match="`positives` does not go with `phrase`"):
        fit(pictures, model, out=tmp_path / "n", config=config, positives=["dots/00.png"], **words)
    with pytest.raises(ValueError, match="`test` does not go with a concept"):
        fit(samples, model, out=tmp_path / "n", config=config, test=samples, **words)
