"""Outputs in checkpoints, in runs and on the command line; the methods' part is in tests/methods/test_outputs.py."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn

import fastcam
from fastcam import models
from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS
from fastcam.evaluation.compare import compare
from fastcam.evaluation.evaluate import evaluate
from fastcam.explanation import explain
from fastcam.models import ModelConfig, build, load_checkpoint, load_network, run, save_checkpoint, with_output
from fastcam.models.digest import digest
from tests.support.commands import refused


def kind(given):
    return given["heads"][1]["kind"]


class Small(nn.Module):
    """A convolution, mean and a linear layer, whose logits are one of two heads' in a dict."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer4 = nn.Sequential(nn.Conv2d(3, 6, 8, 8), nn.ReLU())
        self.fc = nn.Linear(6, 5)
        self.eval()

    def forward(self, images):
        logits = self.fc(self.layer4(images).mean((2, 3)))
        return {"heads": [logits.flip(1), {"kind": logits}]} if type(self) is Small else logits


class Plain(Small):
    """The logits themselves."""


CONFIG = ModelConfig("small", 5, size=32)


@pytest.fixture
def samples() -> list[Sample]:
    random = np.random.default_rng(0)
    boxes = np.array([[4, 4, 30, 20]], np.float32)
    return [
        Sample(random.integers(0, 256, (40, 50, 3), np.uint8), i, boxes, None, (50, 40), f"{i}.png") for i in range(4)
    ]


@pytest.fixture
def folder(samples, tmp_path):
    (tmp_path / "pictures").mkdir()
    for sample in samples:
        Image.fromarray(sample.image).save(tmp_path / "pictures" / sample.id)
    return tmp_path / "pictures"


def rows(path):
    return pq.read_table(path / "boxes.parquet").drop_columns([]).to_pylist()


@pytest.mark.parametrize("output", ["heads.1.kind", kind])
def test_localize(output, folder, tmp_path):
    options = {"target_layers": "layer4", "config": CONFIG, "top_k": 2, "progress": False}
    fastcam.localize(Plain(), folder, out=tmp_path / "plain", **options)
    fastcam.localize(Small(), folder, out=tmp_path / "run", output=output, **options)
    assert rows(tmp_path / "run") == rows(tmp_path / "plain")
    fastcam.localize(Small(), folder, out=tmp_path / "run", output=output, **options)  # there already
    with pytest.raises(FileExistsError, match="made by another plan"):
        fastcam.localize(Small(), folder, out=tmp_path / "run", output="heads.0", **options)
    if output is not kind:
        configured = options | {"config": dataclasses.replace(CONFIG, output=output)}
        fastcam.localize(Small(), folder, out=tmp_path / "configured", **configured)
        assert rows(tmp_path / "configured") == rows(tmp_path / "plain")
    fastcam.localize(Small(), folder, out=tmp_path / "workers", output=output, workers=2, **options)
    assert rows(tmp_path / "workers") == rows(tmp_path / "plain")
    for method in ("gradcam", "eigencam"):
        with pytest.raises(TypeError, match="the model must give logits"):
            fastcam.localize(Small(), folder, out=tmp_path / method, **options, method=method)


def test_other_verbs(samples, folder, tmp_path):
    """Figures and measures are those of the network of logits."""
    protocol = PROTOCOLS["standard"]._replace(size=(32, 32))
    common = {"target_layers": ["layer4"], "config": CONFIG, "protocol": protocol, "bootstrap": 0, "progress": False}
    found, plain = (
        (
            evaluate(samples, model=model, out=tmp_path / name, cases=0, **common, **options),
            compare(model, samples, methods=("cam", "gradcam", "eigencam"), **common, **options),
            explain(
                model,
                folder,
                out=tmp_path / name / "figures",
                layers=("layer4",),
                config=CONFIG,
                progress=False,
                **options,
            ),
        )
        for name, model, options in (("a", Small(), {"output": "heads.1.kind"}), ("b", Plain(), {}))
    )
    assert found[0].metrics | {"source": None} == plain[0].metrics | {"source": None}
    assert found[0].table == plain[0].table
    assert [entry.result.to_dict() for entry in found[1].entries] == [one.result.to_dict() for one in plain[1].entries]
    for one, other in zip(found[2].files, plain[2].files, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_checkpoints(tmp_path):
    """A checkpoint knows its output, and `build` makes its network."""
    model, images = build("resnet18", 5).eval(), torch.randn(2, 3, 64, 64)
    config = ModelConfig("resnet18", 5, output="logits", resize="crop", resize_size=232, interpolation="bicubic")
    assert ModelConfig.from_json(config.to_json()) == config
    assert json.loads(ModelConfig("resnet18", 5).to_json()).keys().isdisjoint({"output", "resize_size", "scores"})
    save_checkpoint(tmp_path / "c.safetensors", with_output(model, lambda given: given), dataclasses.replace(config))
    again, found = load_checkpoint(tmp_path / "c.safetensors")
    assert found == config
    assert models.unwrap(again).state_dict().keys() == model.state_dict().keys()
    with pytest.raises(TypeError, match="for a model that gives several things"):
        run(again, images)
    given, _ = load_network(tmp_path / "c.safetensors", output="0")
    assert given.output == "0"
    save_checkpoint(tmp_path / "d.safetensors", with_output(model, "logits"), ModelConfig("resnet18", 5))
    assert load_checkpoint(tmp_path / "d.safetensors")[1].output == "logits"
    with pytest.raises(ValueError, match="`output` of a configuration must be a name or an index"):
        save_checkpoint(tmp_path / "e.safetensors", with_output(model, kind), ModelConfig("resnet18", 5))
    for wrong in (1.5, True, ["a"]):
        with pytest.raises(ValueError, match="`output` of a configuration must be a name or an index"):
            ModelConfig("resnet18", 5, output=wrong)


def test_what_says_which_output_is_part_of_the_network():
    model = Small()
    whole = digest(model)
    named = [digest(with_output(model, output)) for output in ("heads.0", "heads.1.kind", 0, kind)]
    assert len({whole, *named}) == 5
    assert digest(with_output(model, kind)) == named[-1]
    first, second = (eval(f"lambda given: given['heads'][{i}]") for i in (0, 1))  # alike but for a number
    assert digest(with_output(model, first)) != digest(with_output(model, second))


def test_the_command(folder, tmp_path):
    save_checkpoint(tmp_path / "c.safetensors", build("resnet18", 5), ModelConfig("resnet18", 5, size=32))
    message = refused(
        "localize", folder, "--weights", tmp_path / "c.safetensors", "--out", tmp_path / "r", "--output", "0"
    )
    assert "`output` '0' is for a model that gives several things" in message
