"""The accumulator against the plain oracle; order, merging, saving; what it refuses."""

import json
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS, Evaluator, Result, bootstrap
from tests.support import oracle
from tests.support.streams import CLASSES, SIZE, STREAM, Pictures, pictures, protocol


def evaluated(data: Pictures, name: str = "standard", **options) -> Result:
    options = {"num_classes": CLASSES, "bootstrap": 20, **options}
    evaluator = Evaluator(protocol(name), **options)
    evaluator.add(**data.take(range(len(data.ids))))
    return evaluator.result()


def same(one: Result, other: Result) -> bool:
    return json.dumps(one.to_dict()) == json.dumps(other.to_dict())


# ---- figures ---------------------------------------------------------------------------------------------------------


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
    only = Evaluator(protocol(), metrics=["PxAP"], bootstrap=25, seed=3)
    assert only.add(data.ids, maps, truths).iou is None
    assert only.result().figures == {"PxAP": result.figures["PxAP"]}


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


# ---- thresholds, classes, intervals ----------------------------------------------------------------------------------


def test_a_threshold_chosen_on_other_pictures() -> None:
    chosen = evaluated(pictures(60, 5)).best_thresholds["MaxBoxAcc"]
    data = pictures(60, 6)
    free, fixed = evaluated(data), evaluated(data, threshold=chosen)
    assert chosen != free.threshold
    assert free.at(chosen) == {name: fixed.figures[name] for name in free.at(chosen)}
    assert free.classes(chosen) == fixed.classes()
    assert fixed.threshold == chosen
    assert fixed.figures["GT-known Loc"] <= free.figures["MaxBoxAcc"] == fixed.figures["MaxBoxAcc"]
    for wrong in (0.1234, 1.0, -0.001, float("nan")):
        with pytest.raises(ValueError, match="`threshold` must be one of"):
            free.at(wrong)
        with pytest.raises(ValueError, match="`threshold` must be one of"):
            evaluated(data, threshold=wrong)
    assert evaluated(data, "notebook", threshold=0.55).thresholds.tolist() == [0.55]
    with pytest.raises(ValueError, match=r"one of 0\.6"):
        evaluated(data, "notebook").at(0.5)


def test_the_table_by_class() -> None:
    data = pictures(70)
    result = evaluated(data)
    rows = result.classes()
    assert [row["class"] for row in rows] == sorted({truth.label for truth in data.truths})
    for row in rows:
        some = [i for i, truth in enumerate(data.truths) if truth.label == row["class"]]
        alone = evaluated(Pictures(*([v[i] for i in some] if isinstance(v, list) else v[some] for v in data)))
        assert row["pictures"] == len(some)
        for name in ("Top-1 Cls", "Top-5 Cls", "GT-known Loc", "Top-1 Loc", "Top-5 Loc", "mean IoU"):
            assert row[name] == pytest.approx(alone.figures[name], abs=1e-12)
    assert evaluated(data, num_classes=None).classes() == []
    means = evaluated(data, "bas")
    for name in ("Top-1 Cls", "GT-known Loc", "Top-5 Loc"):
        assert means.figures[name] == pytest.approx(np.mean([row[name] for row in means.classes()]), abs=1e-12)


@pytest.mark.parametrize("name", ["standard", "paper", "bas"])
def test_intervals_are_those_of_weighted_pictures(name: str) -> None:
    data, replicates = pictures(40, 3), 30
    result = evaluated(data, name, bootstrap=replicates, seed=11)
    rules = protocol(name)
    curves = np.stack(
        [oracle.iou_curves(name, m, b, rules.thresholds) for m, b in zip(data.maps.numpy(), data.boxes, strict=True)]
    )
    labels = [truth.label for truth in data.truths]
    ranks = [oracle.rank(row, label) for row, label in zip(data.logits.tolist(), labels, strict=True)]
    weights = bootstrap.weights(data.ids, replicates, 11).astype(int)
    drawn: dict[str, list[float]] = {}
    for replicate in range(replicates):
        chosen = np.repeat(np.arange(40), weights[:, replicate])
        some = ([values[i] for i in chosen] for values in (ranks, labels))
        ranks_of, labels_of = some
        figures, _ = oracle.figures(name, curves[chosen], rules.threshold, ranks_of, labels_of, rules.tight)
        figures["mean IoU"] = 100 * curves[chosen, 0, 200].mean()
        for key, value in figures.items():
            drawn.setdefault(key, []).append(value)
    absent = {"bas": {"MaxBoxAcc", "MaxBoxAccV2"}}.get(name, set())
    assert set(result.intervals) == set(drawn) - absent
    for key, (low, high) in result.intervals.items():
        if name != "bas" or key != "mean IoU":
            assert (low, high) == pytest.approx(tuple(np.quantile(drawn[key], [0.025, 0.975])), abs=1e-9)
            assert low <= result.figures[key] <= high or key.startswith("Max")


def test_intervals_have_the_width_of_a_share() -> None:
    data = pictures(400, 2)
    result = evaluated(data, bootstrap=400, metrics=["MaxBoxAcc"])
    share = result.figures["Top-1 Cls"] / 100
    low, high = result.intervals["Top-1 Cls"]
    assert high - low == pytest.approx(2 * 1.96 * 100 * np.sqrt(share * (1 - share) / 400), rel=0.15)
    assert evaluated(data, bootstrap=0).intervals == {}


def test_report() -> None:
    data = pictures(40)
    result = evaluated(data)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told["figures"] == result.figures
    assert told["protocol"]["name"] == "standard"
    assert len(told["curves"]["BoxAcc 50"]) == len(told["thresholds"]) == 1000
    assert told["classes"] == result.classes()
    lines = result.table()
    assert [line.split("  ")[0].strip() for line in lines[1:]] == list(result.figures)
    best = result.best_thresholds["MaxBoxAcc"]
    low, high = result.intervals["MaxBoxAcc"]
    line = next(line for line in lines if line.startswith("MaxBoxAcc "))
    expected = f"MaxBoxAcc {result.figures['MaxBoxAcc']:.2f} {low:.2f} – {high:.2f} at the best τ = {best:.3f}"
    assert line.split() == expected.split()
    assert "at τ = 0.2" in next(line for line in lines if line.startswith("GT-known"))


# ---- order, merging, saving ------------------------------------------------------------------------------------------

WHOLE = {name: evaluated(STREAM, name, bootstrap=8).to_dict() for name in ("standard", "rethinking", "bas", "notebook")}


@settings(max_examples=30)
@given(
    st.permutations(range(24)),
    st.sets(st.integers(1, 23), max_size=6),
    st.integers(1, 3),
    st.sampled_from(sorted(WHOLE)),
)
def test_order_batches_and_processes_change_no_bit(order, cuts, workers: int, name: str) -> None:
    evaluators = [Evaluator(protocol(name), num_classes=CLASSES, bootstrap=8) for _ in range(workers)]
    edges = [0, *sorted(cuts), 24]
    for number, (start, stop) in enumerate(pairwise(edges)):
        evaluators[number % workers].add(**STREAM.take(order[start:stop]))
    for other in evaluators[1:]:
        evaluators[0].merge(other)
    assert evaluators[0].result().to_dict() == WHOLE[name]


def test_batches_larger_than_a_part(monkeypatch) -> None:
    evaluator = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    whole = evaluator.add(**STREAM.take(range(24)))
    monkeypatch.setattr("fastcam.evaluation.evaluator.MOST", 7)
    other = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    parts = other.add(**STREAM.take(range(24)))
    assert same(evaluator.result(), other.result())
    for one, two in zip(whole, parts, strict=True):
        assert np.array_equal(one, two)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    first = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8, skip_bad=True)
    first.add(**STREAM.take(range(10)))
    first.reject("x.jpg", "gone")
    first.save(tmp_path / "state.safetensors")
    first.add(**STREAM.take(range(10, 15)))  # lost
    second = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8, skip_bad=True)
    second.add(**STREAM.take([20]))  # forgotten
    second.load(tmp_path / "state.safetensors")
    second.add(**STREAM.take(range(10, 24)))
    assert second.bad == [("x.jpg", "gone")]
    assert second.result().to_dict() | {"bad": []} == WHOLE["standard"]
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": 1}, "has seed 0, this evaluator 1"),
        ({"bootstrap": 9}, "has bootstrap 8, this evaluator 9"),
        ({"num_classes": None}, "has num_classes 7, this evaluator None"),
        ({"metrics": ["MaxBoxAcc"]}, "has metrics "),
        ({"threshold": 0.3}, r"has protocol threshold 0\.2, this evaluator 0\.3"),
        ({"protocol": protocol("ts-cam")}, "has protocol name 'standard', this evaluator 'ts-cam'"),
        ({"protocol": protocol()._replace(size=(13, 17))}, r"has protocol size \[13, 16\]"),
    ],
)
def test_other_options_do_not_go_together(tmp_path: Path, options: dict, message: str) -> None:
    saved = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    saved.save(tmp_path / "state.safetensors")
    other = Evaluator(**{"protocol": protocol(), "num_classes": CLASSES, "bootstrap": 8} | options)
    with pytest.raises(ValueError, match=f"safetensors {message}"):
        other.load(tmp_path / "state.safetensors")
    with pytest.raises(ValueError, match=f"the other evaluator {message}"):
        other.merge(saved)


def test_files_that_are_no_state(tmp_path: Path) -> None:
    evaluator, path = Evaluator(protocol()), tmp_path / "state.safetensors"
    with pytest.raises(FileNotFoundError):
        evaluator.load(path)
    path.write_bytes(b"no such thing")
    with pytest.raises(ValueError, match="is not the saved state"):
        evaluator.load(path)
    save_file({"pictures": np.zeros(3)}, path)
    with pytest.raises(ValueError, match="is not the saved state"):
        evaluator.load(path)
    evaluator.save(path)
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(ValueError, match="is not the saved state"):
        evaluator.load(path)
    save_file({"pictures": np.zeros(3)}, path, {"fastcam.evaluation": json.dumps({"format": 99})})
    with pytest.raises(ValueError, match="has format 99"):
        evaluator.load(path)
    options = {"fastcam.evaluation": json.dumps({"format": 1, "options": evaluator._options, "bad": []})}
    save_file({"pictures": np.zeros(3)}, path, options)
    with pytest.raises(ValueError, match="other names or shapes"):
        evaluator.load(path)


HALF = """
import sys
from fastcam.evaluation import Evaluator
from tests.support.streams import CLASSES, STREAM, protocol
half = int(sys.argv[1])
evaluator = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
for row in range(half, 24, 2):
    evaluator.add(**STREAM.take([row]))
evaluator.save(sys.argv[2])
"""


def test_two_processes_equal_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"{half}.safetensors" for half in range(2)]
    root = Path(__file__).resolve().parents[2]
    workers = [
        subprocess.Popen([sys.executable, "-c", HALF, str(half), str(path)], cwd=root)
        for half, path in enumerate(paths)
    ]
    assert [worker.wait(300) for worker in workers] == [0, 0]
    whole, other = (Evaluator(protocol(), num_classes=CLASSES, bootstrap=8) for _ in range(2))
    whole.load(paths[1])
    other.load(paths[0])
    whole.merge(other)
    assert whole.result().to_dict() == WHOLE["standard"]


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path: Path) -> None:
    evaluator = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    data = pictures(40, 4)
    batches = [data.take(range(start, start + 10)) for start in range(0, 40, 10)]
    for batch in batches:
        batch["truths"] = [truth._replace(id=None) for truth in batch["truths"]]
    used, sizes = [], []
    tracemalloc.start()
    for number in range(80):
        names = [f"{number}/{id}" for id in batches[number % 4]["ids"]]
        evaluator.add(**batches[number % 4] | {"ids": names})
        used.append(tracemalloc.get_traced_memory()[0])
        if number in (19, 79):
            evaluator.save(tmp_path / "state")
            sizes.append((tmp_path / "state").stat().st_size)
    tracemalloc.stop()
    assert used[-1] - used[19] < 100 * 600  # bytes: what the allocators of torch and numpy keep
    assert sizes[0] == sizes[1]
    assert evaluator.result().counts["with boxes"] == 800


# ---- what is refused -------------------------------------------------------------------------------------------------


def with_map(edit):
    def change(batch: dict) -> None:
        edit(batch["maps"][1])

    return change


def with_truth(**fields):
    def change(batch: dict) -> None:
        batch["truths"][1] = batch["truths"][1]._replace(**fields)

    return change


def with_entry(name: str, value):
    def change(batch: dict) -> None:
        batch[name][1] = value

    return change


def with_list_of_maps(value):
    def change(batch: dict) -> None:
        batch["maps"] = list(batch["maps"])
        batch["maps"][1] = value

    return change


def box(*edges: float) -> np.ndarray:
    return np.array([[1, 1, 9, 9], edges], np.float32)


BAD = {
    "nan": (with_map(lambda m: m[2, 3].fill_(float("nan"))), "its map has NaN or infinite values"),
    "infinite": (with_map(lambda m: m[2, 3].fill_(float("inf"))), "its map has NaN or infinite values"),
    "above 1": (with_map(lambda m: m[2, 3].fill_(1.5)), r"its map is outside \[0, 1\]: it reaches from .* to 1\.5"),
    "below 0": (with_map(lambda m: m[2, 3].fill_(-0.25)), r"its map is outside \[0, 1\]: it reaches from -0\.25 to"),
    "shape": (with_list_of_maps(torch.rand(12, 16)), r"its map must be \[13, 16\] \(height, width\), got \[12, 16\]"),
    "rank": (with_list_of_maps(torch.rand(1, 13, 16)), r"its map must be \[13, 16\].*, got \[1, 13, 16\]"),
    "bytes": (with_list_of_maps(np.ones(SIZE, np.uint8)), r"its map must be floating.*, got torch\.uint8"),
    "x1 < x0": (with_truth(boxes=box(9, 1, 4, 5)), "box 9, 1, 4, 5 ends before it begins"),
    "y1 < y0": (with_truth(boxes=box(1, 9, 4, 5)), "box 1, 9, 4, 5 ends before it begins"),
    "box nan": (with_truth(boxes=box(1, float("nan"), 4, 5)), "box 1, nan, 4, 5 is not finite"),
    "box inf": (with_truth(boxes=box(1, 1, float("inf"), 5)), "box 1, 1, inf, 5 is not finite"),
    "outside": (with_truth(boxes=box(1, 1, 34, 5)), "box 1, 1, 34, 5 lies outside the picture of 32x26"),
    "far outside": (with_truth(boxes=box(90, 90, 99, 99)), "box 90, 90, 99, 99 lies outside the picture"),
    "negative": (with_truth(boxes=box(-2, 1, 4, 5)), "box -2, 1, 4, 5 lies outside the picture"),
    "boxes' shape": (with_truth(boxes=np.zeros((2, 5))), r"its boxes must be \[B, 4\], xyxy, got \[2, 5\]"),
    "no size": (with_truth(size=None), r"boxes need the \(width, height\) of the picture, got None"),
    "no truth": (with_truth(boxes=None), "no ground truth: expected boxes or a mask"),
    "no boxes": (with_truth(boxes=np.zeros((0, 4))), "empty ground truth: it has no boxes"),
    "empty mask": (with_truth(mask=np.zeros((5, 5), bool)), "empty ground truth: its mask has no pixel of the object"),
    "ignored mask": (with_truth(mask=np.full((5, 5), 255, np.uint8)), "empty ground truth: its mask has no pixel"),
    "mask's shape": (with_truth(mask=np.ones((5, 5, 3), bool)), r"its mask must be \[h, w\]"),
    "mask's dtype": (with_truth(mask=np.ones((5, 5))), r"its mask must be .* bool or uint8, got float64"),
    "no label": (with_truth(label=None), "its label must be one of 7 classes, got none"),
    "label": (with_truth(label=7), "its label must be one of 7 classes, got 7"),
    "negative label": (with_truth(label=-1), "its label must be a class index, got -1"),
    "odd label": (with_truth(label=1.5), r"its label must be a class index, got 1\.5"),
    "other truth": (with_truth(id="b.jpg"), r"it is paired with the truth of b\.jpg"),
    "nan logits": (with_entry("logits", float("nan")), "its logits have NaN or infinite values"),
    "infinite logits": (with_entry("logits", float("inf")), "its logits have NaN or infinite values"),
    "duplicate": (with_entry("ids", "val/0/0.jpg"), "it comes twice in the batch"),
    "no id": (with_entry("ids", ""), "picture 1 of the batch has no id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_named_or_listed(name: str) -> None:
    change, message = BAD[name]
    data = pictures(6)
    batch = data.take(range(6))
    change(batch)
    id = batch["ids"][1]
    strict = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    with pytest.raises(ValueError, match=f"^{id}: {message}"):
        strict.add(**batch)
    with pytest.raises(ValueError, match="nothing was measured"):
        strict.result()
    lenient = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8, skip_bad=True)
    scores = lenient.add(**batch)
    assert scores.index.tolist() == [0, 2, 3, 4, 5]
    ((listed, reason),) = lenient.bad
    assert listed == id
    assert reason.startswith(message.split("\\")[0].split(".*")[0])
    good = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    good.add(**pictures(6).take([0, 2, 3, 4, 5]))
    assert lenient.result().to_dict() | {"bad": []} == good.result().to_dict()


def test_several_bad_pictures_are_listed_in_order() -> None:
    batch = pictures(6).take(range(6))
    batch["maps"][4, 0, 0], batch["maps"][2, 0, 0] = 2, float("nan")
    batch["truths"][2] = batch["truths"][2]._replace(boxes=None)
    evaluator = Evaluator(protocol(), skip_bad=True)
    evaluator.add(**batch)
    assert [(id, reason[:18]) for id, reason in evaluator.bad] == [
        ("val/0/2.jpg", "its map has NaN or"),
        ("val/0/4.jpg", "its map is outside"),
    ]
    evaluator.reject("gone.jpg", "no map")
    assert evaluator.result().bad[-1] == ("gone.jpg", "no map")
    with pytest.raises(ValueError, match=r"^gone\.jpg: no map$"):
        Evaluator(protocol()).reject("gone.jpg", "no map")


def test_boxes_may_stick_out_by_a_pixel_of_rounding() -> None:
    batch = pictures(2).take(range(2))
    batch["truths"][1] = batch["truths"][1]._replace(boxes=box(-1, 0, 33, 27))
    Evaluator(protocol()).add(**batch)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maps", r"`maps` must have one entry for each of 4 ids \(the first is val/0/0\.jpg\), got 3"),
        ("truths", "`truths` must have one entry for each of 4 ids"),
        ("logits", "`logits` must have one entry for each of 4 ids"),
        ("labels", "`labels` must have one entry for each of 4 ids"),
    ],
)
def test_numbers_that_differ(name: str, message: str) -> None:
    batch = pictures(4).take(range(4)) | {"labels": [0, 1, 2, 3]}
    batch[name] = batch[name][:3]
    with pytest.raises(ValueError, match=message):
        Evaluator(protocol(), skip_bad=True).add(**batch)


def test_logits_of_another_shape() -> None:
    batch = pictures(4).take(range(4))
    for logits, message in (
        (batch["logits"][:, :5], r"must be \[N, 7\] for 7 classes, got \[4, 5\]"),
        (batch["logits"][:, 0], r"must be floating \[N, C\]"),
        (batch["logits"].long(), r"must be floating \[N, C\], got torch\.int64"),
    ):
        with pytest.raises(ValueError, match=f"`logits` {message}"):
            Evaluator(protocol(), num_classes=CLASSES).add(**batch | {"logits": logits})
    with pytest.raises(ValueError, match=r"0\.jpg: its map must be \[13, 16\] .* got \[13, 15\]"):
        Evaluator(protocol()).add(**batch | {"maps": batch["maps"][..., :15]})
    with pytest.raises(TypeError, match="`ids` must be strings, got 0"):
        Evaluator(protocol()).add(**batch | {"ids": range(4)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "cvpr"}, "`protocol` must be one of standard, paper, rethinking, ts-cam, bas, notebook"),
        ({"protocol": "bas"}, "bas averages over classes"),
        ({"metrics": ["MaxBox"]}, "`metrics` must be some of"),
        ({"metrics": []}, "`metrics` must be some of"),
        ({"num_classes": 0}, "`num_classes` must be an integer of at least 1"),
        ({"bootstrap": -1}, "`bootstrap` must be an integer of at least 0"),
        ({"bootstrap": 1.5}, "`bootstrap` must be an integer of at least 0"),
    ],
)
def test_options_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(**options)


def test_a_protocol_of_another_type() -> None:
    with pytest.raises(TypeError, match="`protocol` must be a name or a Protocol"):
        Evaluator(protocol=None)


def test_nothing_to_report() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Evaluator().result()
    evaluator = Evaluator(protocol())
    evaluator.add([], torch.zeros(0, *SIZE), [])
    evaluator.add([], [], [])
    with pytest.raises(ValueError, match="nothing was measured"):
        evaluator.result()
