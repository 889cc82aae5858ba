"""Pooled features: those of a plain pass, kept in a file, reused, resumed; what is refused."""

import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.models.feature_extraction import create_feature_extractor

from fastcam import data, models
from fastcam.data import Sample
from fastcam.fitting import features, pooled_features, read_features
from fastcam.fitting.trunk import Trunk
from fastcam.pictures import Preprocess
from tests.support import heads


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return heads.folder(tmp_path_factory.mktemp("textures") / "data", 5)


@pytest.fixture
def passes(monkeypatch):
    """How many pictures each pass of a network for features had."""
    seen, call = [], Trunk.__call__

    def counted(self, images):
        seen.append(len(images))
        return call(self, images)

    monkeypatch.setattr(Trunk, "__call__", counted)
    return seen


def plain(model: nn.Module, config, samples) -> torch.Tensor:
    """The maps of the last stage of a ResNet, by torchvision alone."""
    stages = create_feature_extractor(model, ["layer4"])
    preprocess = Preprocess.of(config)
    with torch.no_grad():
        return stages(torch.stack([preprocess(sample.image)[0] for sample in samples]))["layer4"]


@pytest.mark.parametrize("pool", ["", "-gmp", "-tap"])
def test_features_are_the_pooled_maps(pictures, pool):
    model, config = heads.network(f"resnet18{pool}")
    samples = data.load(pictures)
    found = pooled_features(model.train(), samples, config, batch_size=4)
    assert model.training
    maps = plain(model.eval(), config, samples)
    above = maps > 0.1 * maps.amax((2, 3), keepdim=True)
    expected = {
        "": maps.mean((2, 3)),
        "-gmp": maps.amax((2, 3)),
        "-tap": (maps * above).sum((2, 3)) / above.sum((2, 3)).clamp(min=1),
    }[pool]
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-5)
    assert found.ids == tuple(samples.ids)
    assert found.labels == tuple(samples.labels)
    assert (found.layer, found.pool) == ("layer4", pool[1:] or "gap")


def test_any_layer_by_its_name(pictures):
    model, config = heads.network("alexnet")
    samples = data.load(pictures)
    with pytest.raises(ValueError, match="AlexNet has no pooled layer before one linear layer"):
        pooled_features(model, samples, config)
    fc7 = pooled_features(model, samples, config, layer="classifier.5")
    assert (fc7.values.shape, fc7.layer, fc7.pool) == ((15, 4096), "classifier.5", None)
    preprocess = Preprocess.of(config)
    images = torch.stack([preprocess(sample.image)[0] for sample in samples])
    with torch.no_grad():
        expected = model.classifier[:6](model.avgpool(model.features(images)).flatten(1))
        maps = model.features[:11](images)
    np.testing.assert_allclose(fc7.values, expected, rtol=1e-4, atol=1e-5)
    before = pooled_features(model, samples, config, layer="classifier.4")  # a ReLU works on it in place
    assert before.values.min() < 0
    np.testing.assert_allclose(before.values.clip(0), fc7.values)
    conv = pooled_features(model, samples, config, layer="features.10")
    assert conv.pool == "gap"
    np.testing.assert_allclose(conv.values, maps.mean((2, 3)), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"no layer 'classifier\.9'"):
        pooled_features(model, samples, config, layer="classifier.9")


def test_networks_without_a_pooled_layer_are_named(pictures):
    samples = data.load(pictures)
    for arch in ("nin", "squeezenet1_1", "convnext_tiny"):
        model, config = heads.network(arch)
        with pytest.raises(ValueError, match="has no pooled layer before one linear layer: after 'features"):
            pooled_features(model, samples, config)
    with pytest.raises(ValueError, match="no default target layer is known for Sequential"):
        pooled_features(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64**2, 3)), samples, config)


def test_features_are_kept_and_reused(pictures, tmp_path, passes):
    model, config = heads.network()
    samples, file = data.load(pictures), tmp_path / "deep" / "f.parquet"
    first = pooled_features(model, samples, config, file=file, batch_size=4)
    assert sum(passes) == 15 + 2  # the pass over noise
    passes.clear()
    again = pooled_features(model, samples, config, file=file)
    assert passes == [2]
    np.testing.assert_array_equal(again.values, first.values)
    found, names = read_features(file)
    assert found._replace(values=None) == first._replace(values=None)
    np.testing.assert_array_equal(found.values, first.values)
    assert names == tuple(heads.CLASSES[label] for label in samples.labels)
    table = pq.read_table(file)
    assert table.column_names == ["id", "class", "source", "features"]
    about = json.loads(table.schema.metadata[b"fastcam.fitting"])
    assert (about["layer"], about["pool"], about["digest"]) == ("layer4", "gap", first.digest)
    # Only what changed, or is new, is run; rows of others stay.
    some = samples.subset([1, 4, 7])
    pooled_features(model, some, config, file=file)
    assert len(pq.read_table(file)) == 15
    passes.clear()
    os.utime(samples.files[4], ns=(1, 1))
    np.testing.assert_array_equal(pooled_features(model, samples, config, file=file).values[5:], first.values[5:])
    assert passes == [2, 1]


def test_pictures_without_files_are_known_by_their_pixels(tmp_path, passes):
    model, config = heads.network()
    samples = [Sample(heads.drawn(index % 3, index), index % 3, id=f"p{index}") for index in range(6)]
    file = tmp_path / "f.parquet"
    first = pooled_features(model, samples, config, file=file)
    assert first.ids == tuple(f"p{index}" for index in range(6))
    samples[3] = samples[3]._replace(image=heads.drawn(1, 99))
    passes.clear()
    again = pooled_features(model, samples, config, file=file)
    assert passes == [2, 1]
    changed = (again.values != first.values).any(1)
    assert changed.tolist() == [False, False, False, True, False, False]


def test_what_was_computed_before_a_failure_is_kept(pictures, tmp_path, passes, monkeypatch):
    model, config = heads.network()
    samples, file = data.load(pictures), tmp_path / "f.parquet"
    call = Trunk.__call__

    def failing(self, images):
        if len(passes) == 3:
            raise KeyboardInterrupt
        return call(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Trunk, "__call__", failing)
        with pytest.raises(KeyboardInterrupt):
            pooled_features(model, samples, config, file=file, batch_size=4)
    assert len(pq.read_table(file)) == 8
    passes.clear()
    found = pooled_features(model, samples, config, file=file, batch_size=4)
    assert sum(passes) == 2 + 7
    np.testing.assert_allclose(found.values, pooled_features(model, samples, config).values, rtol=1e-4, atol=1e-6)


def test_features_are_written_while_the_network_runs(pictures, tmp_path, monkeypatch):
    model, config = heads.network()
    file, call, written = tmp_path / "f.parquet", Trunk.__call__, []

    def watched(self, images):
        written.append(len(pq.read_table(file)) if file.exists() else 0)
        return call(self, images)

    monkeypatch.setattr(features, "_SAVE_AFTER", -1)
    monkeypatch.setattr(Trunk, "__call__", watched)
    pooled_features(model, data.load(pictures), config, file=file, batch_size=4, progress=False)
    assert written[:3] == [0, 0, 4]  # before the pass over noise, and before those over the first pictures
    assert len(pq.read_table(file)) == 15


def test_features_of_another_network_are_refused(pictures, tmp_path):
    model, config = heads.network()
    samples, file = data.load(pictures), tmp_path / "f.parquet"
    first = pooled_features(model, samples, config, file=file)
    other = models.build("resnet18", 5)
    with pytest.raises(ValueError, match=r"f\.parquet has features of another network \(digest .*choose another file"):
        pooled_features(other, samples, config, file=file)
    with pytest.raises(ValueError, match=r"has features of another size \(size 64, wanted 96\)"):
        pooled_features(
            model, samples, models.ModelConfig("resnet18", 5, size=96, mean=config.mean, std=config.std), file=file
        )
    with pytest.raises(ValueError, match=r"has features of another layer \(layer layer4, wanted layer3"):
        pooled_features(model, samples, config, file=file, layer="layer3")
    np.testing.assert_array_equal(read_features(file)[0].values, first.values)
    replaced = pooled_features(other, samples, config, file=file, overwrite=True)
    assert read_features(file)[0].digest == replaced.digest != first.digest


def test_what_is_no_file_of_features_is_refused(pictures, tmp_path):
    model, config = heads.network()
    samples, file = data.load(pictures), tmp_path / "f.parquet"
    with pytest.raises(FileNotFoundError, match="no file of features"):
        read_features(file)
    pooled_features(model, samples, config, file=file)
    whole = file.read_bytes()
    table = pq.read_table(file)
    for content in (b"", b"PAR1", whole[: len(whole) // 2]):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"f\.parquet is no file of pooled features"):
            pooled_features(model, samples, config, file=file)
    pq.write_table(table.replace_schema_metadata({}), file)
    with pytest.raises(ValueError, match="is no file of pooled features"):
        read_features(file)
    about = json.loads(table.schema.metadata[b"fastcam.fitting"])
    for change in ({"format": 2}, {"pool": "sum"}, {"mean": 3}, {"more": 1}):
        metadata = {b"fastcam.fitting": json.dumps(about | change).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)
        with pytest.raises(ValueError, match="is no file of pooled features"):
            read_features(file)
    pq.write_table(table.drop_columns(["source"]), file)
    with pytest.raises(ValueError, match="is no file of pooled features"):
        read_features(file)
    pq.write_table(table, file, compression="zstd")
    assert read_features(file)[0].ids == tuple(samples.ids)  # what others packed
    zeros = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(2**22, np.float32)), 2**16)
    texts = pa.array([f"{index}" for index in range(64)])
    bomb = pa.table({"id": texts, "class": texts, "source": texts, "features": zeros})
    pq.write_table(bomb.replace_schema_metadata(table.schema.metadata), file, compression="zstd")
    with pytest.raises(ValueError, match="is no file of pooled features: it is too small for its rows"):
        read_features(file)


def test_bad_pictures_are_named(tmp_path):
    root = heads.folder(tmp_path / "data", 3)
    (root / "rows" / "01.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    model, config = heads.network()
    samples = data.load(root)
    with pytest.raises(ValueError, match=r"rows/01\.png"):
        pooled_features(model, samples, config)
    bad: list[tuple[str, str]] = []
    found = pooled_features(model, samples, config, bad=bad)
    assert len(found.ids) == 8
    assert [id for id, _ in bad] == ["rows/01.png"]
    with pytest.raises(ValueError, match="the data set has no pictures"):
        pooled_features(model, [], config)
    with pytest.raises(ValueError, match="two pictures have the id 'a'"):
        pooled_features(model, [Sample(heads.drawn(0, 0), id="a")] * 2, config)
    with pytest.raises(ValueError, match="`batch_size` must be at least 1"):
        pooled_features(model, samples, config, batch_size=0)


class _Dark(nn.Module):
    """Divides by the mean of a picture: NaN for a black one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.layer4, self.fc = model.conv1, nn.Linear(64, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.layer4(images / images.abs().amax((1, 2, 3), keepdim=True))
        return self.fc(maps.mean((2, 3)))


def test_features_that_are_not_finite_are_named(tmp_path):
    root = heads.folder(tmp_path / "data", 3)
    Image.new("RGB", (20, 20)).save(root / "waves" / "black.png")
    model = _Dark(heads.network()[0])
    config = models.ModelConfig("resnet18", 3, size=64, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ValueError, match=r"waves/black\.png: its features at 'layer4' are not finite"):
        pooled_features(model, data.load(root), config, file=tmp_path / "f.parquet")
    bad: list[tuple[str, str]] = []
    found = pooled_features(model, data.load(root), config, bad=bad)
    assert len(found.ids) == 9
    assert bad[0][0] == "waves/black.png"
