"""Generic features: how sets are divided, and the table on drawn class folders."""

import cv2
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from fastcam import models
from tests.support.scripts import script

edges, generic = script("edges"), script("generic_features")


def _write(root, name: str, turn: int | None = None, number: int = 0) -> None:
    """A picture of 64 pixels: stripes in the direction `turn` of three, before noise; without it, one colour."""
    rng = np.random.default_rng(number)
    pixels = np.full((64, 64), 128.0)
    if turn is not None:
        y, x = np.mgrid[:64, :64]
        angle = np.pi * turn / 3 + rng.normal(0, 0.3)
        pixels += 30 * np.sin((x * np.cos(angle) + y * np.sin(angle)) * 0.7 + rng.uniform(0, 6)) + rng.normal(
            0, 40, (64, 64)
        )
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert("RGB").save(root / name)


def _folders(root, counts: dict[str, int]):
    for name, count in counts.items():
        for number in range(count):
            _write(root, f"{name}/{number:03d}.png")
    return generic.read(root)


def test_classes_are_folders_however_deep_and_clutter_is_none(tmp_path) -> None:
    data = _folders(tmp_path, {"a/abbey": 2, "b/bar/inside": 1, "b/bar/outside": 1, "BACKGROUND_Google": 2})
    assert data.class_names == ("a/abbey", "b/bar/inside", "b/bar/outside")
    assert data.labels == [0, 0, 1, 2]


def test_classes_are_beginnings_of_names(tmp_path) -> None:
    for name in ("riding_a_bike_001.png", "riding_a_bike_002.png", "cooking_010.png"):
        _write(tmp_path, name)
    data = generic.read(tmp_path, by_name=True)
    assert [data.class_names[label] for label in data.labels] == ["cooking", "riding_a_bike", "riding_a_bike"]


def test_random_divisions_have_as_many_of_each_class_as_the_protocol_says(tmp_path) -> None:
    data = _folders(tmp_path, {"a": 9, "b": 6, "c": 3})
    labels = np.array(data.labels)
    parts = generic.divisions(data, generic.Protocol("", 4, 3, 5), seed=1)
    assert len(parts) == 5
    for part in parts:
        assert not set(part.train) & set(part.test)
        assert np.bincount(labels[part.train]).tolist() == [4, 4, 2]  # one of c is left to test on
        assert np.bincount(labels[part.test]).tolist() == [3, 2, 1]
    assert len({tuple(part.train) for part in parts}) == 5
    again = generic.divisions(data, generic.Protocol("", 4, 3, 5), seed=1)
    assert all(np.array_equal(one.train, other.train) for one, other in zip(parts, again, strict=True))
    (rest,) = generic.divisions(data, generic.Protocol("", 2))
    assert np.bincount(labels[rest.test]).tolist() == [7, 4, 1]


@pytest.mark.parametrize("place", ["", "../", "Partitions/", "../ImageSplits/"])
def test_published_lists_are_taken_where_they_lie(tmp_path, place) -> None:
    root = tmp_path / "pictures"
    data = _folders(root, {"a/x": 2, "b/y": 2})
    (root / place).mkdir(exist_ok=True)
    for name, lines in (
        ("Tr_1", "/a/x/000.png\n/b/y/001.png\n"),
        ("Te_1", "a/x/001.png\n"),
        ("Tr_2", "b/y/000.png"),
        ("Te_2", "a/x/000.png"),
    ):
        (root / place / f"{name}.txt").write_text(lines)
    parts = generic.divisions(data, generic.Protocol("", 1, 1, 7, ("Tr_*.txt", "Te_*.txt")))
    assert [(part.train.tolist(), part.test.tolist()) for part in parts] == [([0, 3], [1]), ([2], [0])]


def test_lists_may_have_names_alone_and_what_they_name_must_be_there(tmp_path, capsys) -> None:
    for name in ("x/x_1.png", "x/x_2.png", "y/y_1.png", "y/y_2.png"):
        _write(tmp_path, name)
    data, protocol = generic.read(tmp_path), generic.Protocol("Set", 1, 1, 1, ("train.txt", "test.txt"))
    assert len(generic.divisions(data, protocol)) == 1
    assert "no train.txt and test.txt" in capsys.readouterr().out
    (tmp_path / "train.txt").write_text("x_2.png\ny_1.png\n")
    (tmp_path / "test.txt").write_text("x_1.png\n")
    assert generic.divisions(data, protocol)[0].train.tolist() == [1, 2]
    (tmp_path / "test.txt").write_text("x_9.png\n")
    with pytest.raises(SystemExit, match=r"test.txt: x_9.png is no picture"):
        generic.divisions(data, protocol)


def test_attributes_are_divided_one_by_one(tmp_path) -> None:
    data = _folders(tmp_path / "images", {"a/abbey": 12, "b/bar": 12})
    ids = [f"{folder}/{n:03d}.png" for folder in ("b/bar", "a/abbey") for n in range(12)]  # not in the folders' order
    votes = np.zeros((24, 2))
    votes[:12, 0], votes[12:14, 0] = 1, 1 / 3  # all of bar have it, of two abbeys one vote of three says so
    votes[::2, 1] = 2 / 3
    (tmp_path / "SUNAttributeDB").mkdir()
    names = np.array(ids, object)[:, None]
    scipy.io.savemat(tmp_path / "SUNAttributeDB" / "images.mat", {"images": names})
    scipy.io.savemat(tmp_path / "SUNAttributeDB" / "attributeLabels_continuous.mat", {"labels_cv": votes})
    first, second = generic.attributes(data, generic.Protocol("", 6, 2))
    for part in (first, second):
        assert not set(part.train) & set(part.test)
        assert np.bincount(part.labels[part.train]).tolist() == [6, 6]
        assert np.bincount(part.labels[part.test]).tolist() == [2, 2]
    truth = {id: vote for id, vote in zip(ids, votes, strict=True)}
    assert [first.labels[n] for n, id in enumerate(data.ids)] == [{0: 0, 1: 1}.get(truth[id][0], -1) for id in data.ids]
    assert all(second.labels[n] == (truth[id][1] > 0.5) for n, id in enumerate(data.ids))


@pytest.fixture(scope="module")
def stripes(tmp_path_factory):
    """Event8's layout with three classes, and two networks: edges alone, and an AlexNet with random weights."""
    folder = tmp_path_factory.mktemp("generic")
    for turn in range(3):
        for number in range(30):
            _write(folder / "event_img", f"stripes{turn}/{number:03d}.png", turn, 100 * turn + number)
    edges.main([str(folder / "edges.safetensors")])
    torch.manual_seed(3)
    torch.save(models.build("alexnet").state_dict(), folder / "alexnet.pt")
    return folder


def test_the_table_has_the_papers_figures_beside_those_that_were_measured(stripes, capsys, monkeypatch) -> None:
    monkeypatch.setitem(generic.PROTOCOLS, "event8", generic.Protocol("Event8", 16, 10, 3, None, (94.42, 95.42, 95.00)))
    networks = [f"alexnet={stripes / 'alexnet.pt'}", f"alexnet-gap={stripes / 'edges.safetensors'}"]
    arguments = [f"event8={stripes / 'event_img'}", "--strength", "1e-3", "--out", str(stripes / "out")]
    measured = generic.main([*arguments, "--features", *networks])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines[:2]] == [["Event8"], ["fc7", "from", "AlexNet,", "paper", "94.42"]]
    for arch, line in (("alexnet", lines[2]), ("alexnet-gap", lines[4])):
        figures = measured[arch, "event8"]
        assert len(figures) == 3
        assert line.split() == ["measured", f"{np.mean(figures):.2f}", "±", f"{np.std(figures):.2f}"]
    assert lines[3].split()[-1] == "–"  # no row of the paper's
    assert len(set(map(len, lines))) == 1

    # By hand: what AlexNet's last layer is given, and what is pooled, in scikit-learn's own SVM.
    data = generic.read(stripes / "event_img")
    pixels = np.stack([cv2.resize(np.array(Image.open(file)), (224, 224)) for file in data.files])
    images = torch.from_numpy(pixels / 255).permute(0, 3, 1, 2).float()
    alexnet, (network, _) = models.build("alexnet"), models.load_checkpoint(stripes / "edges.safetensors")
    models.load_weights(alexnet, stripes / "alexnet.pt")
    imagenet = (images - torch.tensor([0.485, 0.456, 0.406])[:, None, None]) / torch.tensor([0.229, 0.224, 0.225])[
        :, None, None
    ]
    with torch.no_grad():
        fc7 = alexnet.eval().classifier[:6](alexnet.avgpool(alexnet.features(imagenet)).flatten(1)).numpy()
        pooled = network.features(images * 2 - 1).mean((2, 3)).numpy()
    for arch, features in (("alexnet", fc7), ("alexnet-gap", pooled)):
        expected = []
        for part in generic.divisions(data, generic.PROTOCOLS["event8"]):
            svm = make_pipeline(StandardScaler(), LinearSVC(C=1e-3, max_iter=10000, random_state=0))
            right = (
                svm.fit(features[part.train], part.labels[part.train]).predict(features[part.test])
                == part.labels[part.test]
            )
            expected.append(100 * np.mean([right[part.labels[part.test] == label].mean() for label in range(3)]))
        assert measured[arch, "event8"] == pytest.approx(expected, abs=3.4)  # one picture: resized by another library
    assert np.mean(measured["alexnet-gap", "event8"]) > 80


def test_class_folders_without_a_name_are_divided_and_have_no_figure_of_the_papers(stripes, capsys) -> None:
    (weights,) = [f"alexnet-gap={stripes / 'edges.safetensors'}"]
    arguments = [str(stripes / "event_img"), "--strength", "1e-3", "--out", str(stripes / "out")]
    measured = generic.main([*arguments, "--features", weights])
    assert len(measured["alexnet-gap", "event_img"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["event_img"]
    assert lines[1].split()[-1] == "–"


def test_names_that_there_are_not_are_refused(tmp_path) -> None:
    with pytest.raises(SystemExit, match=r"must be one of sun397, .*, got sun398"):
        generic.main([f"sun398={tmp_path}", "--features", "alexnet=alexnet.pt"])
