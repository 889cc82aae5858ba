"""The evaluator's figures against the plain oracle, of all kinds of maps and truths."""

import numpy as np
import pytest
import torch

from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS, Evaluator, Result, bootstrap
from tests.support import oracle
from tests.support.streams import CLASSES, SIZE, Pictures, evaluated, pictures, protocol, same


@pytest.mark.parametrize("name", PROTOCOLS)
def test_figures_are_the_oracles(name: str) -> None:
    data = pictures(100)
    rules = protocol(name)
    evaluator = Evaluator(rules, num_classes=CLASSES, bootstrap=0)
    scores = evaluator.add(**data.take(range(100)))
    result = evaluator.result()
    curves = np.stack(
        [
            oracle.iou_curves(name, values, boxes, rules.thresholds)
            for values, boxes in zip(data.maps.numpy(), data.boxes, strict=True)
        ]
    )
    labels = [truth.label for truth in data.truths]
    ranks = [oracle.rank(row, label) for row, label in zip(data.logits.tolist(), labels, strict=True)]
    assert scores.index.tolist() == list(range(100))
    assert scores.rank.tolist() == ranks
    assert (scores.iou == curves[:, 0]).all()
    figures, best = oracle.figures(name, curves, rules.threshold, ranks, labels, rules.tight, rules.thresholds)
    if name == "bas":  # means of shares, summed in another order
        assert result.figures == pytest.approx(figures | {"mean IoU": result.figures["mean IoU"]}, abs=1e-12)
    else:
        mean = 100 * curves[:, 0, np.abs(rules.thresholds - rules.threshold).argmin()].mean()
        assert result.figures.pop("mean IoU") == pytest.approx(mean, abs=1e-9)
        assert result.figures == figures
    assert result.best_thresholds == best
    assert 10 < result.figures["GT-known Loc"] < 95
    assert result.figures["Top-1 Loc"] < result.figures["Top-5 Loc"] <= result.figures["GT-known Loc"]


def test_five_guesses_need_the_map_of_the_true_class_alone() -> None:
    """Top-5 Loc of "paper" from one map for each picture is that of five guesses from three classes' maps."""
    rng = np.random.default_rng(1)
    data, hits = pictures(80, 1), []
    for index, truth in enumerate(data.truths):
        order = sorted(range(CLASSES), key=lambda c, row=data.logits[index]: (-row[c], c))
        maps = {c: values for c, (_, values) in enumerate(oracle.maps(int(rng.integers(99)), CLASSES, SIZE))}
        maps[truth.label] = data.maps[index].numpy()
        hits.append(oracle.five_guesses(maps, order, truth.label, data.boxes[index], 0.2, 0.4))
    assert evaluated(data, "paper").figures["Top-5 Loc"] == 100 * sum(hits) / 80


def test_strict_rules_need_more_than_half() -> None:
    # Counted with their edges the box [0, 0, 3, 3] has 16 pixels, the truth [0, 0, 3, 7] 32: IoU 0.5.
    values = torch.zeros(1, 10, 10)
    values[0, :3, :3] = 1
    truth = [Sample(None, 0, np.array([[0, 0, 3, 7]]), None, (10, 10))]
    found = {}
    for name in ("standard", "ts-cam", "bas"):
        evaluator = Evaluator(PROTOCOLS[name]._replace(size=(10, 10)), num_classes=2, bootstrap=0)
        evaluator.add(["a"], values, truth, logits=torch.tensor([[1.0, 0.0]]))
        found[name] = [evaluator.result().figures[key] for key in ("GT-known Loc", "Top-1 Loc", "MaxBoxAcc")]
    assert found == {"standard": [100, 100, 100], "ts-cam": [100, 0, 100], "bas": [0, 0, 0]}


def test_coarse_maps_are_upsampled() -> None:
    data = pictures(30)
    coarse = torch.randn(30, 4, 5)
    coarse[3], coarse[4, 1, 1] = 2, float("nan")
    one, other = (Evaluator(protocol(), bootstrap=5) for _ in range(2))
    batch = data.take(range(30))
    batch.pop("maps")
    one.add_coarse(coarse=coarse, **batch)
    maps = np.stack([oracle.upsample(values, SIZE) for values in coarse.double().numpy()])
    other.add(maps=torch.from_numpy(maps), **batch)
    assert same(one.result(), other.result())


def test_dtypes_and_kinds_of_maps() -> None:
    data = pictures(20)
    batch = data.take(range(20))
    batch.pop("maps")
    maps = data.maps.float().half()

    def result(values) -> Result:
        evaluator = Evaluator(protocol(), bootstrap=3)
        evaluator.add(maps=values, **batch)
        return evaluator.result()

    expected = result(maps.float())
    frozen = maps.float().numpy()
    frozen.flags.writeable = False
    for values in (maps, maps.numpy(), list(maps), list(maps.float().numpy()), frozen, list(frozen.astype(">f4"))):
        assert same(result(values), expected)
    with pytest.raises(TypeError, match="`maps` must be floating"):
        result((255 * maps).byte())
    with pytest.raises(ValueError, match=r"one dtype, got torch\.float32 and torch\.float64"):
        result([*maps[:19].float(), maps[19].double()])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_maps_on_any_device(device: torch.device, name: str) -> None:
    data = pictures(40)
    batch = data.take(range(40)) | {
        "truths": [t if i % 3 else t._replace(boxes=None) for i, t in enumerate(masked(data))]
    }
    there, here = (Evaluator(protocol(name), num_classes=CLASSES, bootstrap=5) for _ in range(2))
    here.add(**batch)
    with torch.autocast(device.type, dtype=torch.bfloat16):  # as around a network
        there.add(**batch | {"maps": batch["maps"].to(device), "logits": batch["logits"].to(device)})
    assert same(there.result(), here.result())
    coarse = torch.randn(40, 4, 5, device=device)
    batch.pop("maps")
    here.add_coarse(coarse=coarse.cpu(), **batch)
    there.add_coarse(coarse=coarse, **batch)
    assert same(there.result(), here.result())


def test_ranks_instead_of_logits() -> None:
    data = pictures(25)
    batch = data.take(range(25))
    ranks = [oracle.rank(row, t.label) for row, t in zip(data.logits.tolist(), data.truths, strict=True)]
    evaluator = Evaluator(protocol(), num_classes=CLASSES, bootstrap=20)
    evaluator.add(**batch | {"logits": None}, ranks=ranks)
    assert same(evaluator.result(), evaluated(data))
    with pytest.raises(ValueError, match="not both"):
        evaluator.add(**batch, ranks=ranks)
    with pytest.raises(ValueError, match=r"3\.jpg: its class has no rank"):
        evaluator.add(**batch | {"logits": None}, ranks=[*ranks[:3], None, *ranks[4:]])


def test_labels_beside_samples() -> None:
    data = pictures(20)
    labels = torch.tensor([truth.label for truth in data.truths])
    batch = data.take(range(20)) | {"truths": [truth._replace(label=None) for truth in data.truths]}
    for values in (labels, labels.numpy(), labels.tolist()):
        evaluator = Evaluator(protocol(), num_classes=CLASSES, bootstrap=20)
        evaluator.add(**batch, labels=values)
        assert same(evaluator.result(), evaluated(data))


def test_metrics_that_nobody_asked_for_are_not_measured() -> None:
    data = pictures(30)
    everything = evaluated(data)
    largest = evaluated(data, metrics=["MaxBoxAcc"])
    every = evaluated(data, metrics=["MaxBoxAccV2"])
    assert {"MaxBoxAcc", "GT-known Loc", "mean IoU", "Top-1 Cls"} <= set(largest.figures)
    assert set(every.figures) == {"MaxBoxAccV2", "Top-1 Cls", "Top-5 Cls"}
    assert largest.figures | every.figures == everything.figures
    assert largest.intervals | every.intervals == everything.intervals
    assert largest.curves.keys().isdisjoint(every.curves)


def test_pictures_without_boxes_or_scores_count_where_they_can() -> None:
    data = pictures(30)
    evaluator = Evaluator(protocol(), bootstrap=0)
    evaluator.add(**data.take(range(20)))
    evaluator.add(**data.take(range(20, 30)) | {"logits": None})
    mask = np.zeros((26, 32), np.uint8)
    mask[4:9, 5:9] = 1
    rows = data.take(range(5))
    rows["truths"] = [truth._replace(boxes=None, mask=mask, id=None) for truth in rows["truths"]]
    rows["ids"] = [f"more {i}" for i in range(5)]
    assert not len(evaluator.add(**rows).index)
    result = evaluator.result()
    assert result.counts == {"with boxes": 30, "with masks": 5, "with scores": 25}
    assert result.figures["GT-known Loc"] == evaluated(data).figures["GT-known Loc"]
    assert result.figures["Top-1 Loc"] == evaluated(Pictures(*(v[:20] for v in data))).figures["Top-1 Loc"]
    ranks = [oracle.rank(data.logits[i].tolist(), data.truths[i].label) for i in (*range(20), *range(5))]
    assert result.figures["Top-1 Cls"] == 100 * sum(rank == 1 for rank in ranks) / 25


def masked(data: Pictures, seed: int = 0) -> list[Sample]:
    """The pictures' truth with masks of 26 x 32 pixels: objects where the maps are high, some pixels to be ignored."""
    rng = np.random.default_rng(seed)
    truths = []
    for values, truth in zip(data.maps.numpy(), data.truths, strict=True):
        mask = (values.repeat(2, 0).repeat(2, 1) + rng.normal(0, 0.3, (26, 32)) > 0.6).astype(np.uint8)
        mask[rng.random(mask.shape) < 0.1] = 255
        mask[0, 0] = 1  # all of them have an object
        truths.append(truth._replace(mask=mask))
    return truths


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_pxap_is_the_standard_evaluators(dtype: torch.dtype) -> None:
    data = pictures(50)
    truths, maps = masked(data), data.maps.to(dtype)
    evaluators = [Evaluator(protocol(), bootstrap=25, seed=3) for _ in range(3)]
    evaluators[0].add(data.ids, maps, truths)
    evaluators[1].add(data.ids[:17], maps[:17], truths[:17])
    evaluators[2].add(data.ids[17:], maps[17:], truths[17:])
    evaluators[2].merge(evaluators[1])
    result = evaluators[0].result()
    assert same(result, evaluators[2].result())
    masks = np.stack([truth.mask[::2, ::2] for truth in truths])  # the nearest pixels
    assert result.figures["PxAP"] == oracle.pixel_precision(maps.numpy(), masks)
    assert 50 < result.figures["PxAP"] < 95
    weights = bootstrap.weights(data.ids, 25, 3).astype(int)
    drawn = [oracle.pixel_precision(*(np.repeat(v, w, 0) for v in (maps.numpy(), masks))) for w in weights.T]
    assert result.intervals["PxAP"] == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-9)
    recall, precision = result.curves["recall"], result.curves["precision"]
    assert len(recall) == len(precision) == len(result.pixel_thresholds)
    for place in (0, 7, -1):
        above = maps.double().numpy() >= result.pixel_thresholds[place]
        hits, found = (above & (masks == 1)).sum(), (above & (masks != 255)).sum()
        assert recall[place] == pytest.approx(100 * hits / (masks == 1).sum(), abs=1e-12)
        assert precision[place] == pytest.approx(100 * hits / found, abs=1e-12)
    whole = oracle.pixel_overlap(maps.numpy(), masks)
    drawn = [oracle.pixel_overlap(*(np.repeat(v, w, 0) for v in (maps.numpy(), masks))) for w in weights.T[:8]]
    few = Evaluator(protocol(), metrics=["PxAP"], bootstrap=8, seed=3)
    few.add(data.ids, maps, truths)
    same_weights = bootstrap.weights(data.ids, 8, 3).astype(int)
    assert np.array_equal(same_weights, weights[:, :8])
    for place, name in enumerate(("Dice", "mIoU")):
        assert result.figures[name] == whole[place].max()
        assert result.best_thresholds[name] == np.arange(0, 1, 0.001)[whole[place].argmax()]
        maxima = [figures[place].max() for figures in drawn]
        wanted = tuple(np.quantile(maxima, [0.025, 0.975]))
        assert few.result().intervals[name] == pytest.approx(wanted, abs=1e-9)
    only = Evaluator(protocol(), metrics=["PxAP"], bootstrap=25, seed=3)
    assert only.add(data.ids, maps, truths).iou is None
    assert only.result().figures == {name: result.figures[name] for name in ("PxAP", "Dice", "mIoU")}


def test_vectors_of_pxap() -> None:
    object = np.zeros((20, 20), bool)
    object[3:9, 4:16] = True
    truth = [Sample(None, mask=object, size=(20, 20))]
    rules = PROTOCOLS["standard"]._replace(size=(20, 20))

    def pxap(values: torch.Tensor) -> float:
        evaluator = Evaluator(rules, bootstrap=0)
        evaluator.add(["a.jpg"], values[None], truth)
        return evaluator.result().figures["PxAP"]

    assert pxap(torch.from_numpy(object).double()) == 100
    for value in (0.0, 0.4, 1.0):
        assert pxap(torch.full((20, 20), value)) == 100 * 72 / 400
    with pytest.raises(ValueError, match=r"a\.jpg: its map has NaN"):
        pxap(torch.full((20, 20), float("nan")))
    truth[0] = Sample(None, mask=object & False, size=(20, 20))
    with pytest.raises(ValueError, match=r"a\.jpg: empty ground truth"):
        pxap(torch.ones(20, 20))
