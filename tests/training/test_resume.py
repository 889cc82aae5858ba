"""Trainings that are killed and go on, and trainings on two machines."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from fastcam import models, training
from fastcam.training import Settings, checkpoint
from fastcam.training.group import Group
from tests.support.colours import TINY, Colours, figures
from tests.support.killing import POINTS
from tests.support.processes import end

ROOT = Path(__file__).resolve().parents[2]
OFTEN = ("step 3",)  # within an epoch, between two checkpoints


@pytest.fixture(scope="module")
def killed(request, tmp_path_factory) -> Path:
    """Folders of a whole training, and of those that were killed at the chosen tests' points and resumed."""
    tests = [item for item in request.session.items if "killed" in getattr(item, "fixturenames", ())]
    points = [item.callspec.params["point"] for item in tests if item.path == request.path]
    out = tmp_path_factory.mktemp("killed")
    warnings = "error,ignore:fastcam runs without:RuntimeWarning"  # as in pyproject.toml
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": warnings}
    command = [sys.executable, "-m", "tests.support.killing", str(out), *points]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert run.returncode == 0, run.stderr
    return out


@pytest.mark.parametrize(
    "point", [point if point in OFTEN else pytest.param(point, marks=pytest.mark.long) for point in POINTS]
)
def test_a_killed_training_ends_as_the_whole_one(killed, point) -> None:
    for name in ("last.safetensors", "best.safetensors", "settings.toml"):
        assert (killed / point / name).read_bytes() == (killed / "whole" / name).read_bytes(), name
    lines = [(killed / folder / "metrics.jsonl").read_text().splitlines() for folder in (point, "whole")]
    histories = [[{k: v for k, v in json.loads(line).items() if "second" not in k} for line in part] for part in lines]
    assert histories[0] == histories[1]
    assert [entry["step"] for entry in histories[0]] == [3, 6, 9]
    assert (killed / point / "training.png").exists()
    assert {path.name for path in (killed / point).iterdir()} == {path.name for path in (killed / "whole").iterdir()}


def test_a_finished_training_is_done_and_a_longer_one_goes_on(tmp_path) -> None:
    data, options = (Colours(16), Colours(4)), TINY | {"schedule": "constant", "lr": 0.01, "optimizer": "sgd"}
    short = training.train(data, out=tmp_path, epochs=1, **options)
    again = training.train(data, out=tmp_path, resume=True, progress=False)
    assert again.history == short.history
    longer = training.train(data, out=tmp_path, resume=True, epochs=3, progress=False)
    whole = training.train(data, out=tmp_path / "whole", epochs=3, **options)
    assert figures(longer) == figures(whole)
    assert longer.last.read_bytes() == whole.last.read_bytes()


def test_what_would_change_the_course_is_refused(tmp_path) -> None:
    data = Colours(16), Colours(4)
    training.train(data, out=tmp_path, epochs=1, **TINY)
    cases = [
        ({"lr": 0.1}, data, r"keeps its settings; it would change lr 0.001 to 0.1"),
        ({"epochs": 2}, data, r"would change epochs 1 to 2"),  # the one-cycle schedule spans all epochs
        ({}, (Colours(17), Colours(4)), r"trained with other numbers of pictures: \(16, 4\), now \(17, 4\)"),
    ]
    for values, given, message in cases:
        with pytest.raises(ValueError, match=message):
            training.train(given, out=tmp_path, resume=True, progress=False, **values)
    training.train(data, out=tmp_path, resume=True, progress=False, workers=1, checkpoint_every=1)


def test_resuming_nothing_begins(tmp_path) -> None:
    result = training.train((Colours(8), Colours(4)), out=tmp_path / "new", resume=True, epochs=1, **TINY)
    assert len(result.history) == 1
    result.state.unlink()
    with pytest.raises(FileExistsError, match=r"last\.safetensors exists"):
        training.train((Colours(8), Colours(4)), out=tmp_path / "new", resume=True, epochs=1, **TINY)


def test_a_state_that_is_none_is_refused(tmp_path) -> None:
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was run"),)

    alone = Group(0, 1, torch.device("cpu"))
    for content in (b"", b"no state", Evil()):
        if isinstance(content, bytes):
            (tmp_path / "state.pt").write_bytes(content)
        else:
            torch.save(content, tmp_path / "state.pt")
        with pytest.raises(ValueError, match=r"state\.pt is not the state of a training"):
            checkpoint.load(tmp_path / "state.pt", alone)
    assert not (tmp_path / "was run").exists()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    data = Colours(30)
    for index in range(30):
        place = folder / ("train" if index < 22 else "test") / data.class_names[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(data[index].image).save(place / f"{index}.png")
    return folder


@pytest.mark.long
def test_two_machines_train_as_one(pictures, tmp_path) -> None:
    # Frozen BatchNorm: its live statistics would be those of each process's share.
    values = {"arch": "resnet18", "size": 32, "batch_size": 6, "epochs": 2, "lr": 0.003, "optimizer": "sgd"}
    values |= {"schedule": "constant", "accumulate": 1, "crop": "padded"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    flags = [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    nodes = []
    for node in range(2):  # two agents, each with a folder that the other does not see
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--rdzv-id=test"]
        command += ["--local-addr=127.0.0.1", "-m", "fastcam", "train", str(pictures), "--freeze-bn", "--device=cpu"]
        command += ["--out", str(tmp_path / f"node{node}"), *flags]
        nodes.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        )
    try:
        texts = [node.communicate(timeout=400)[0] for node in nodes]
    finally:
        for node in nodes:
            end(node)
    assert [node.returncode for node in nodes] == [0, 0], texts
    written = [tmp_path / f"node{node}" for node in range(2) if (tmp_path / f"node{node}").exists()]
    assert len(written) == 1, "only the first process writes"
    assert sum("test accuracy" in text for text in texts) == 1

    alone = training.train(
        str(pictures), out=tmp_path / "alone", freeze_bn=True, device="cpu", progress=False, **values
    )
    shared = [json.loads(line) for line in (written[0] / "metrics.jsonl").read_text().splitlines()]
    assert len(shared) == 2
    for mine, theirs in zip(alone.history, shared, strict=True):
        for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "learning_rate", "step"):
            assert theirs[name] == pytest.approx(mine[name], abs=1e-4), name
    assert abs(shared[1]["train_loss"] - shared[0]["train_loss"]) > 0.01  # it learnt something
    weights = [models.load_checkpoint(out / "last.safetensors")[0] for out in (tmp_path / "alone", written[0])]
    for a, b in zip(*(model.parameters() for model in weights), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)

    # One process goes on where two stood.
    longer = training.train(out=written[0], resume=True, epochs=3, device="cpu", progress=False)
    whole = training.train(
        str(pictures), out=tmp_path / "whole", device="cpu", freeze_bn=True, progress=False, **values | {"epochs": 3}
    )
    assert longer.history[2]["train_loss"] == pytest.approx(whole.history[2]["train_loss"], abs=1e-4)


def test_too_small_a_batch_for_the_parts_is_refused(tmp_path) -> None:
    with pytest.raises(ValueError, match=r"`batch_size` must be at least 12, two pictures for each of 6 parts"):
        training.train((Colours(16), Colours(4)), Settings(accumulate=6), out=tmp_path, epochs=1, **TINY)
