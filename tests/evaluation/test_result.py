"""What a result says besides: other thresholds, classes, intervals, and its report."""

import json

import numpy as np
import pytest

from fastcam.evaluation import bootstrap
from tests.support import oracle
from tests.support.streams import Pictures, evaluated, pictures, protocol


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
