"""What a network's outputs are taken for: logits, a single one, probabilities or their logarithms, and their scores."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fastcam
from fastcam import drawing, metrics
from fastcam.data import Sample
from fastcam.evaluation.compare import compare
from fastcam.methods import MapWarning
from fastcam.methods.scores import probabilities, recognise
from fastcam.models import ModelConfig

SIDE = 32


class Net(nn.Module):
    """Convolution, average pooling, linear layer, and a function at the end."""

    def __init__(self, classes: int, end=None, bias: float = 0.0) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
        self.fc, self.end = nn.Linear(8, classes), end
        nn.init.constant_(self.fc.bias, bias)
        self.passes = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        logits = self.fc(self.features(images).mean((2, 3)))
        return logits if self.end is None else self.end(logits)


class Pooled(nn.Module):
    """One map for each class, and no linear layer."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, classes, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.features(images).mean((2, 3))


class Gated(nn.Module):
    """Sigmoid and softmax within the network, as in squeeze-and-excitation and attention, are not its end."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.gate, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 4), nn.Conv2d(4, 3, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.features(images)
        maps = maps * self.gate(maps.mean((2, 3))).sigmoid().softmax(1)[..., None, None]
        return self.fc(maps).mean((2, 3))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


ENDS = {
    "module": (nn.Softmax(1), "probabilities"),
    "function": (lambda z: F.softmax(z, dim=1), "probabilities"),
    "softmin": (lambda z: F.softmin(z, dim=1), "probabilities"),
    "kept off 0 and 1": (lambda z: z.softmax(1).clamp(1e-6, 1 - 1e-6), "probabilities"),
    "of two groups": (lambda z: torch.cat([z[:, :2].softmax(1), z[:, 2:].softmax(1)], 1), "probabilities"),
    "without the background": (lambda z: z.softmax(1)[:, 1:], "probabilities"),
    "mean of two": (lambda z: (z.softmax(1) + (2 * z).softmax(1)) / 2, "probabilities"),
    "by hand": (lambda z: z.exp() / z.exp().sum(1, keepdim=True), "probabilities"),
    "powers": (lambda z: z.log_softmax(1).exp(), "probabilities"),
    "logarithms": (nn.LogSoftmax(1), "log-probabilities"),
    "logarithm of a mean": (lambda z: ((z.softmax(1) + (2 * z).softmax(1)) / 2).log(), "log-probabilities"),
    "sigmoids": (nn.Sigmoid(), "probabilities"),
    "sigmoids in place": (lambda z: z.sigmoid_(), "probabilities"),
    "logarithms of sigmoids": (F.logsigmoid, "log-probabilities"),
    "hard sigmoids": (F.hardsigmoid, "probabilities"),
    "scaled logits": (lambda z: 3 * z, "logits"),
    "positive logits": (F.relu, "logits"),
    "bounded logits": (torch.tanh, "logits"),
    "unit vectors": (lambda z: F.normalize(z), "logits"),
    "nothing": (None, "logits"),
}


@pytest.mark.parametrize("end", ENDS)
def test_what_the_outputs_of_several_classes_are(end):
    function, kind = ENDS[end]
    model = Net(3, function).train()
    assert recognise(model, torch.full((1, 3, SIDE, SIDE), torch.nan)) == kind  # values do not matter
    assert model.training
    assert recognise(nn.DataParallel(model), torch.zeros(5, 3, SIDE, SIDE)) == kind


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (None, "logit"),
        (torch.sigmoid, "probabilities"),
        (nn.Sigmoid(), "probabilities"),
        (lambda z: z.sigmoid().squeeze(1)[:, None].float(), "probabilities"),
        (lambda z: torch.cat([z, -z], 1).softmax(1)[:, :1], "probabilities"),
        (F.logsigmoid, "log-probabilities"),
        (F.relu, "logit"),
    ],
)
def test_what_a_single_output_is(end, kind):
    assert recognise(Net(1, end), torch.zeros(1, 3, SIDE, SIDE)) == kind


@pytest.mark.parametrize("end", ENDS)
def test_what_a_network_shows_cannot_be_contradicted(end):
    """Logits become what is asked for; of what a network makes itself only that."""
    function, kind = ENDS[end]
    model, images = Net(3, function), torch.zeros(1, 3, SIDE, SIDE)
    own = None if kind == "logits" else "sigmoid" if "sigmoid" in end else "softmax"
    for scores, made in (("softmax", kind), ("sigmoid", "independent logits" if kind == "logits" else kind)):
        if own in (None, scores):
            assert recognise(model, images, scores) == made
        else:
            with pytest.raises(
                ValueError, match=rf"`scores` {scores} do not go with Net: .* without `scores` they are"
            ):
                recognise(nn.DataParallel(model), images, scores)


def test_a_single_logit_has_no_softmax():
    images = torch.zeros(1, 3, SIDE, SIDE)
    assert recognise(Net(1), images, "sigmoid") == "logit"
    with pytest.raises(
        ValueError, match="`scores` softmax do not go with Net: it has one logit, whose softmax is always"
    ):
        recognise(Net(1), images, "softmax")
    with pytest.raises(ValueError, match="`scores` sigmoid do not go with Net: it ends in a LogSoftmax itself"):
        recognise(Net(3, nn.LogSoftmax(1)), images, "sigmoid")


def test_other_networks():
    assert recognise(Pooled(3), torch.zeros(1, 3, 8, 8)) == "logits"
    assert recognise(Pooled(1), torch.zeros(1, 3, 8, 8)) == "logit"
    assert recognise(Gated(), torch.zeros(1, 3, 8, 8)) == "logits"
    assert recognise(Net(3, nn.Softmax(1)).double(), torch.zeros(1, 3, 8, 8, dtype=torch.float64)) == "probabilities"
    assert recognise(Net(3, nn.Softmax(1)).bfloat16(), torch.zeros(1, 3, 8, 8).bfloat16()) == "probabilities"
    with torch.inference_mode():
        assert recognise(Net(1, torch.sigmoid), torch.zeros(1, 3, 8, 8)) == "probabilities"


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1), lambda z: z.softmax(1).flatten(1)])
def test_the_softmax_of_one_value_is_refused(end, tmp_path):
    with pytest.raises(ValueError, match="the only output of Net is the softmax of one value"):
        recognise(Net(1, end), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="softmax of one value"):
        metrics.deletion(Net(1, end), torch.zeros(1, 3, 8, 8), torch.rand(1, 8, 8), steps=2)
    with pytest.raises(ValueError, match="softmax of one value"):
        fastcam.localize(
            Net(1, end), [Sample(np.zeros((8, 8, 3), np.uint8))], out=tmp_path, method="eigencam", progress=False
        )


def test_probabilities_by_hand():
    z = torch.tensor([[1.0, -2.0, 0.5], [0.0, 80.0, -80.0]])
    np.testing.assert_allclose(probabilities(z, "logits"), softmax(z.double().numpy()), atol=1e-7)
    np.testing.assert_allclose(probabilities(z[:, :1], "logit"), [[0.7310586], [0.5]], atol=1e-7)
    given = torch.tensor([[0.25, 0.75]])
    assert torch.equal(probabilities(given, "probabilities"), given)
    assert torch.equal(probabilities(torch.tensor([[-torch.inf, 0.0]]), "log-probabilities"), torch.tensor([[0.0, 1]]))
    assert probabilities(z.half(), "logits").dtype == torch.float32
    assert probabilities(z.double(), "logit").dtype == torch.float64


# ---- localize --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "in"
    path.mkdir()
    for index in range(5):
        noise = np.random.default_rng(index).integers(0, 256, (40, 30, 3), np.uint8)
        Image.fromarray(noise).save(path / f"{index}.png")
    return path


def localized(model, source, out, **options):
    options = {"config": ModelConfig("net", model.fc.out_features, size=SIDE), "progress": False} | options
    summary = fastcam.localize(model, source, out=out, **options)
    return summary, pq.read_table(summary.path).to_pylist()


def outputs_of(model, folder):
    """float64 [N, C], by torch alone."""
    preprocess = fastcam.pictures.Preprocess(SIDE)
    frames = [preprocess(Image.open(path))[0] for path in sorted(folder.iterdir())]
    with torch.no_grad():
        return model.eval()(torch.stack(frames)).double().numpy()


@pytest.mark.parametrize("options", [{}, {"batch_size": 1}, {"batch_size": 3, "workers": 2, "shard_size": 3}])
def test_a_single_logit(folder, tmp_path, options):
    """A batch of 32 is filled up with black pictures, and processes decide for themselves."""
    model = Net(1, bias=-8.0)
    want = 1 / (1 + np.exp(-outputs_of(model, folder)[:, 0]))
    summary, rows = localized(model, folder, tmp_path / "out", **options)
    np.testing.assert_allclose([row["score"] for row in rows], want, rtol=1e-5)
    assert max(row["score"] for row in rows) < 0.01
    assert [(row["class_id"], row["rank"]) for row in rows] == [(0, 1)] * 5
    assert summary.outputs == json.loads((tmp_path / "out" / "audit.json").read_text())["outputs"] == "logit"


def test_scores_and_ranks_of_networks_that_give_probabilities(folder, tmp_path):
    """They are those of the same network without its softmax, and not the softmax of that."""
    plain = Net(4)
    with torch.no_grad():
        plain.fc.weight.mul_(20)
    want = np.sort(softmax(outputs_of(plain, folder)), 1)[:, ::-1]
    assert want.max() > 0.6
    options = {"method": "gradcam", "target_layers": "features", "top_k": 4, "batch_size": 2}
    for end, kind in ((nn.Softmax(1), "probabilities"), (nn.LogSoftmax(1), "log-probabilities")):
        model = Net(4, end)
        model.load_state_dict(plain.state_dict())
        with pytest.warns(MapWarning, match="Net ends in a (log-)?softmax") as heard:
            summary, rows = localized(model, folder, tmp_path / kind, **options)
        assert len(heard) == 1
        assert summary.outputs == kind
        np.testing.assert_allclose(np.reshape([row["score"] for row in rows], (5, 4)), want, atol=1e-5)
        assert [row["rank"] for row in rows] == [1, 2, 3, 4] * 5
    summary, rows = localized(plain, folder, tmp_path / "plain", **options)
    assert summary.outputs == "logits"
    np.testing.assert_allclose(np.reshape([row["score"] for row in rows], (5, 4)), want, atol=1e-5)


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits))


@pytest.mark.parametrize("options", [{}, {"batch_size": 2}, {"boxes": "all"}])
@pytest.mark.parametrize("layer", ["features", "features.0"])
def test_sigmoids_of_several_logits(folder, tmp_path, options, layer):
    """Asked for, or as the checkpoint says; ranks, boxes and maps are those of softmax."""
    model = Net(3, bias=0.5)
    options = options | {"method": "gradcam", "target_layers": layer, "top_k": 3, "maps": True}
    bce = ModelConfig("net", 3, size=SIDE, scores="sigmoid")
    logits = np.sort(outputs_of(model, folder), 1)[:, ::-1]
    kinds = {"softmax": (softmax(logits), "logits"), "sigmoid": (sigmoid(logits), "independent logits")}
    tables = {}
    for name, given, made in (
        ("plain", {}, "softmax"),
        ("asked", {"scores": "sigmoid"}, "sigmoid"),
        ("checkpoint", {"config": bce}, "sigmoid"),
        ("both", {"config": bce, "scores": "softmax"}, "softmax"),
    ):
        want, kind = kinds[made]
        summary, rows = localized(model, folder, tmp_path / name, **options | given)
        firsts = [row["score"] for row in rows if row["box"] == 1]
        np.testing.assert_allclose(np.reshape(firsts, (5, 3)), want, rtol=1e-5)
        assert all(0 <= row["box_score"] <= row["score"] for row in rows)
        assert summary.outputs == kind
        tables[name] = pq.read_schema(summary.path)
        assert json.loads(tables[name].metadata[b"fastcam"])["scores"] == made
        assert made in tables[name].field("score").metadata[b"description"].decode()
        plan = json.loads((tmp_path / name / "plan.json").read_text())["settings"]
        assert plan["scores"] == (made if given else None)
        tables[name] = [{k: v for k, v in row.items() if "score" not in k} for row in rows]
    assert tables["plain"] == tables["asked"] == tables["checkpoint"] == tables["both"]


def test_tables_say_how_networks_made_scores_themselves(folder, tmp_path):
    options = {"method": "gradcam", "target_layers": "features"}
    for name, model, made, text in (
        ("logit", Net(1), "sigmoid", "sigmoid of the network's only logit"),
        ("sigmoids", Net(3, nn.Sigmoid()), "network", "probabilities that the network gives itself"),
    ):
        summary, _ = localized(model, folder, tmp_path / name, **options)
        schema = pq.read_schema(summary.path)
        assert json.loads(schema.metadata[b"fastcam"])["scores"] == made
        assert schema.field("score").metadata == {b"description": text.encode()}
    (tmp_path / "no.png").write_text("no picture")
    summary, rows = localized(Net(3), tmp_path / "no.png", tmp_path / "failed")
    assert summary.outputs is rows[0]["score"] is pq.read_schema(summary.path).field("score").metadata is None


def test_a_run_of_other_scores_is_refused(folder, tmp_path):
    model = Net(3)
    localized(model, folder, tmp_path / "a")
    with pytest.raises(FileExistsError, match=r"another plan \(scores: None there, sigmoid here\)"):
        localized(model, folder, tmp_path / "a", scores="sigmoid")


def test_contradictions_end_a_run(folder, tmp_path):
    for name, model, scores, message in (
        ("a", Net(3, nn.Softmax(1)), "sigmoid", "`scores` sigmoid do not go with Net: it ends in a Softmax itself"),
        ("b", Net(1), "softmax", "`scores` softmax do not go with Net: it has one logit"),
        ("c", Net(3, nn.Sigmoid()), "softmax", "`scores` softmax do not go with Net: it ends in a Sigmoid itself"),
    ):
        options = {"method": "gradcam", "target_layers": "features", "scores": scores}
        with pytest.raises(ValueError, match=message):
            localized(model, folder, tmp_path / name, **options)
        with pytest.raises(ValueError, match=message):
            localized(model, [Sample(Image.new("RGB", (9, 9)))], tmp_path / f"{name} of samples", **options)


@pytest.mark.parametrize("end", [nn.Sigmoid(), lambda z: z.sigmoid_()])
def test_independent_sigmoids_stay_as_they_are(folder, tmp_path, end):
    model = Net(3, end, bias=2.0)
    options = {
        "method": "gradcam",
        "target_layers": "features",
        "targets": dict.fromkeys((f"{i}.png" for i in range(5)), 2),
    }
    _, rows = localized(model, folder, tmp_path / "out", **options)
    np.testing.assert_allclose([row["score"] for row in rows], outputs_of(model, folder)[:, 2], atol=1e-6)


def test_networks_that_end_in_a_linear_layer_run_as_often_as_before(folder, tmp_path):
    model = Net(3)
    localized(model, folder, tmp_path / "out", batch_size=2)
    assert model.passes == 4  # three batches, and the first picture alone


def test_names_of_classes_must_fit_the_outputs(folder, tmp_path):
    two = ModelConfig("net", 2, class_names=("cat", "dog"), size=SIDE)
    with pytest.raises(ValueError, match="each of the network's 1 outputs, got 2; a single output is the score of one"):
        localized(Net(1), folder, tmp_path / "a", config=two)
    with pytest.raises(ValueError, match="each of the network's 3 outputs, got 2"):
        localized(Net(3), folder, tmp_path / "b", config=two)
    with pytest.raises(ValueError, match="each of the network's 1 outputs"):
        fastcam.explain(Net(1), folder / "0.png", out=tmp_path / "c", config=two, layers=["features"], progress=False)


def test_cam_tells_what_to_do_without_a_linear_layer_at_the_end(folder, tmp_path):
    with pytest.raises(ValueError, match="more follows: a softmax, say, without which the network is to be passed"):
        localized(Net(3, nn.Softmax(1)), folder, tmp_path / "out", target_layers="features")


# ---- explain, metrics, Score-CAM, evaluate ---------------------------------------------------------------------------


def test_figures_tell_probabilities(folder, tmp_path, monkeypatch):
    told, grid = [], drawing.grid
    monkeypatch.setattr(drawing, "grid", lambda rows, labels=(), *a: (told.append(labels), grid(rows, labels, *a))[1])
    options = {"layers": ["features"], "progress": False}

    def explained(model, name):
        config = ModelConfig("net", model.fc.out_features, size=SIDE)
        fastcam.explain(model, folder / "0.png", out=tmp_path / name, config=config, **options)
        return told[-1]

    assert explained(Net(1, bias=-9.0), "a") == ["class 0\n0.0%"]
    sure = Net(2, nn.Softmax(1))
    with torch.no_grad():
        sure.fc.bias.copy_(torch.tensor([0.0, 9.0]))
    with pytest.warns(MapWarning, match="Net ends in a softmax"):
        assert explained(sure, "b") == ["class 1\n100.0%"]
    sure.end = None
    assert explained(sure, "c") == ["class 1\n100.0%"]
    with torch.no_grad():
        sure.fc.weight.zero_()
        sure.fc.bias.copy_(torch.tensor([0.0, 2.0]))
    bce = ModelConfig("net", 2, size=SIDE, scores="sigmoid")
    for name, config, asked, made in (
        ("d", None, None, "softmax"),
        ("e", bce, None, "sigmoid"),
        ("f", bce, "softmax", "softmax"),
        ("g", None, "sigmoid", "sigmoid"),
    ):
        given = {"config": config or ModelConfig("net", 2, size=SIDE), "scores": asked, "top_k": 2} | options
        with pytest.warns(MapWarning, match="constant"):
            fastcam.explain(sure, folder / "0.png", out=tmp_path / name, **given)
        second = {"softmax": "11.9%", "sigmoid": "50.0%"}[made]
        assert told[-1] == ["class 1\n88.1%", f"class 0\n{second}"]
    with pytest.raises(ValueError, match="`scores` softmax do not go with Net: it has one logit"):
        fastcam.explain(Net(1), folder / "0.png", out=tmp_path / "h", scores="softmax", **options)


@pytest.mark.parametrize("end", [nn.Softmax(1), nn.LogSoftmax(1), lambda z: (z.softmax(1) * 3 + z.softmax(1)) / 4])
def test_metrics_are_those_of_the_network_without_its_softmax(end):
    plain, model = Net(3), Net(3, end)
    model.load_state_dict(plain.state_dict())
    images, maps = torch.randn(3, 3, SIDE, SIDE), torch.rand(3, SIDE, SIDE)
    for measure in (metrics.insertion, metrics.deletion):
        want = measure(plain, images, maps, [0, 1, 2], steps=4).scores
        torch.testing.assert_close(measure(model, images, maps, [0, 1, 2], steps=4).scores, want)
    change, want = (metrics.confidence_change(net, images, maps, 1) for net in (model, plain))
    torch.testing.assert_close(change.drop, want.drop)
    least, want = (metrics.road(net, images, maps, 1, fractions=[0.5]).least for net in (model, plain))
    torch.testing.assert_close(least, want)


def test_metrics_of_a_single_logit():
    model, images, maps = Net(1, bias=-1.0), torch.randn(2, 3, SIDE, SIDE), torch.rand(2, SIDE, SIDE)
    curve = metrics.insertion(model, images, maps, steps=3)
    with torch.no_grad():
        whole = 1 / (1 + (-model(images)[:, 0]).exp())
        torch.testing.assert_close(curve.scores[:, -1], whole)
        assert (curve.scores[:, 0] != curve.scores[:, -1]).all()
        logits = metrics.insertion(model, images, maps, steps=3, score="logit").scores
        torch.testing.assert_close(logits[:, -1], model(images)[:, 0])
    torch.testing.assert_close(curve.scores, 1 / (1 + (-logits).exp()))


def test_metrics_and_score_cam_of_sigmoids():
    """Of several logits, as of the network that ends in them; softmax is what they have else."""
    plain, given = Net(3), Net(3, nn.Sigmoid())
    given.load_state_dict(plain.state_dict())
    images, maps = torch.randn(3, 3, SIDE, SIDE), torch.rand(3, SIDE, SIDE)
    for measure in (
        lambda net, score: metrics.insertion(net, images, maps, [0, 1, 2], steps=4, score=score).scores,
        lambda net, score: metrics.deletion(net, images, maps, [0, 1, 2], steps=4, score=score).scores,
        lambda net, score: metrics.road(net, images, maps, 1, fractions=[0.5], score=score).least,
        lambda net, score: metrics.confidence_change(net, images, maps, 1, score=score).after,
        lambda net, score: fastcam.ScoreCAM(net, "features", score=score, softmax=False).coarse(images, 1),
    ):
        torch.testing.assert_close(measure(plain, "sigmoid"), measure(given, "probability"))
        torch.testing.assert_close(measure(given, "sigmoid"), measure(given, "probability"))
        torch.testing.assert_close(measure(plain, "softmax"), measure(plain, "probability"))
        assert not torch.allclose(measure(plain, "sigmoid"), measure(plain, "softmax"))
        with pytest.raises(ValueError, match="`scores` softmax do not go with Net"):
            measure(given, "softmax")
        with pytest.raises(ValueError, match="`score` must be one of logit, probability, softmax, sigmoid, got 'bce'"):
            measure(plain, "bce")


def test_score_cam_takes_probabilities_as_they_are():
    plain, given = Net(3), Net(3, nn.Softmax(1))
    given.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, SIDE, SIDE)
    options = {"target_layers": "features", "score": "probability", "softmax": False}
    baseline = torch.zeros(3, SIDE, SIDE)
    want = fastcam.ScoreCAM(plain, baseline=baseline, **options).coarse(images, 1)
    torch.testing.assert_close(fastcam.ScoreCAM(given, baseline=baseline, **options).coarse(images, 1), want)
    # A single logit has a probability that differs from one masked picture to the next.
    single = Net(1)
    with torch.no_grad():
        features = single.features(images)
    masks = F.interpolate(features, (SIDE, SIDE), mode="bilinear").double()
    low, high = masks.amin((2, 3), keepdim=True), masks.amax((2, 3), keepdim=True)
    alive = (high > low)[..., 0, 0]
    masks = ((masks - low) / (high - low)).nan_to_num(0)
    with torch.no_grad():
        scores = torch.stack([single((images * masks[:, k, None]).float()).sigmoid()[:, 0] for k in range(8)], 1)
    want = ((scores * alive)[..., None, None] * features).sum(1)
    torch.testing.assert_close(fastcam.ScoreCAM(single, **options).coarse(images), want, atol=1e-4, rtol=1e-3)


def test_a_single_output_has_no_accuracy(tmp_path):
    """The only class is always the highest."""
    pictures = [
        Sample(
            np.random.default_rng(i).integers(0, 256, (32, 32, 3), np.uint8),
            0,
            [[4, 4, 20, 20]],
            id=str(i),
            size=(32, 32),
        )
        for i in range(3)
    ]
    config = ModelConfig("net", 1, size=SIDE)
    options = {"config": config, "target_layers": "features", "bootstrap": 0, "progress": False}
    summary = fastcam.evaluate(pictures, model=Net(1), out=tmp_path / "a", cases=0, **options)
    assert "GT-known Loc" in summary.metrics["figures"]
    assert not any(name.startswith("Top-") for name in summary.metrics["figures"])
    found = compare(Net(1), pictures, methods=["cam", "gradcam"], pictures=0, **options)
    assert all("Top-1 Cls" not in entry.result.figures for entry in found.entries)
