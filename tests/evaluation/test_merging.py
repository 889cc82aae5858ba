"""Order, batches, processes and breaks change no bit of an evaluation."""

import gc
import json
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from safetensors.numpy import save_file

from fastcam.evaluation import Evaluator
from tests.support.streams import CLASSES, STREAM, evaluated, pictures, protocol, same

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
    for name, values in vars(whole).items():
        assert np.array_equal(values, getattr(parts, name))


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
    options = {"fastcam.evaluation": json.dumps({"format": 1, "options": evaluator._options.to_dict(), "bad": []})}
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
        if number in (19, 79):
            gc.collect()  # without kernels OpenCV's contours wait for it
        used.append(tracemalloc.get_traced_memory()[0])
        if number in (19, 79):
            evaluator.save(tmp_path / "state")
            sizes.append((tmp_path / "state").stat().st_size)
    tracemalloc.stop()
    assert used[-1] - used[19] < 100 * 600  # bytes: what the allocators of torch and numpy keep
    assert sizes[0] == sizes[1]
    assert evaluator.result().counts["with boxes"] == 800
