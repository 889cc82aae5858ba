"""Folders of Hugging Face networks and names of timm's: weights, classes, preprocessing, and what is refused."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor

import fastcam
from fastcam import models
from fastcam.models import ModelConfig, build, load_checkpoint, load_network, published, save_checkpoint
from fastcam.pictures import Preprocess
from tests.support.commands import refused, run

NAMES = ("ant", "bee", "cat")


def resnet(**options):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1], "layer_type": "basic"}
    config = transformers.ResNetConfig(**sizes | options, id2label=dict(enumerate(NAMES)))
    return transformers.ResNetForImageClassification(config).eval()


@pytest.fixture
def folder(tmp_path):
    """A ResNet's folder, with a processor's configuration as ConvNeXT's and ResNet's have it."""
    path = tmp_path / "net"
    resnet().save_pretrained(path)
    settings = {"do_resize": True, "size": {"shortest_edge": 48}, "crop_pct": 0.875, "resample": 3}
    settings |= {"do_rescale": True, "rescale_factor": 1 / 255, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return path


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(noise).resize((80, 60)).save(tmp_path / "pictures" / f"{index}.png")
    return tmp_path / "pictures"


def test_a_folder(folder, pictures, tmp_path):
    model, config = load_network(None, f"hf:{folder}")
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(models.run(model, images), resnet()(images).logits)
    assert config == ModelConfig(
        f"hf:{folder}", 3, None, NAMES, 48, "crop", (0.4,) * 3, (0.2,) * 3, resize_size=54, interpolation="bicubic"
    )
    given = load_network(folder, f"hf:{folder}", size=64, class_names=("x", "y", "z"))[1]
    assert (given.size, given.resize_size, given.class_names) == (64, None, ("x", "y", "z"))
    assert build(f"hf:{folder}", 7)(pixel_values=images).logits.shape == (2, 7)
    assert not model.training

    common = ("--arch", f"hf:{folder}", "--method", "gradcam", "--top-k", 3, "--out")
    assert run("localize", pictures, *common, tmp_path / "run").exit_code == 0
    rows = pq.read_table(tmp_path / "run" / "boxes.parquet").to_pylist()
    assert {row["class_name"] for row in rows} == set(NAMES)
    assert not any(row["error"] for row in rows)
    assert run("explain", pictures, "--arch", f"hf:{folder}", "--out", tmp_path / "figures").exit_code == 0
    assert "--weights" in refused("explain", pictures, "--arch", "resnet18", "--out", tmp_path / "figures")


def test_a_checkpoint_needs_no_folder(folder, tmp_path):
    model, config = load_network(None, f"hf:{folder}")
    save_checkpoint(tmp_path / "c.safetensors", model, config)
    shutil.rmtree(folder)
    again, found = load_checkpoint(tmp_path / "c.safetensors")
    assert found == config
    images = torch.randn(2, 3, 48, 48)
    assert torch.equal(models.run(again, images), models.run(model, images))


def test_training(folder, pictures, tmp_path):
    """From the folder's weights for other classes; then as any checkpoint."""
    pytest.importorskip("sklearn")
    for index, sample in enumerate(Halves(12)):
        place = tmp_path / "halves" / Halves.class_names[sample.label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sample.image).save(place / f"{index}.png")
    for arch, options in ((f"hf:{folder}", {"weights": str(folder)}), ("timm:test_resnet", {})):
        if arch.startswith("timm"):
            pytest.importorskip("timm")
        out = tmp_path / arch[:2]
        settings = {"arch": arch, "size": 48, "steps": 2, "batch_size": 4, "progress": False, **options}
        data = (Halves(8), Halves(4))
        result = fastcam.train(data, out=out, device="cpu", **settings)
        model, config = load_checkpoint(result.last)
        assert config.class_names == ("left", "right")
        assert models.run(model, torch.randn(2, 3, 48, 48)).shape == (2, 2)
        if options:
            start, given = models.start_from(folder, arch, 2)
            assert "resnet.embedder.embedder.convolution.weight" in given
            assert not any(name.startswith("classifier") for name in given)
            theirs = resnet().resnet.embedder.embedder.convolution.weight
            assert torch.equal(start.resnet.embedder.embedder.convolution.weight, theirs)
        found = fastcam.fit(tmp_path / "halves", model, out=out / "fit", config=config, seed=0, progress=False)
        fitted, config = load_checkpoint(found.checkpoint)
        assert config.class_names == ("left", "right")
        assert fastcam.CAM(fitted)(torch.randn(2, 3, 48, 48), [0, 1]).shape == (2, 48, 48)


class Halves:
    """Pictures that are bright on one side."""

    class_names = ("left", "right")

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int):
        if index >= self._count:
            raise IndexError(index)
        pixels = np.random.default_rng(index).integers(0, 90, (48, 48, 3), np.uint8)
        pixels[:, 24 * (index % 2) :][:, :24] += 150
        return fastcam.data.Sample(pixels, index % 2, id=f"{index}")


def write(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without_weights(folder):
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")  # which may run code, and is not opened


def shards_elsewhere(folder):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../model.safetensors"}}))


def without_classifier(folder):
    state = safetensors.torch.load_file(folder / "model.safetensors")
    rest = {name: value for name, value in state.items() if not name.startswith("classifier")}
    safetensors.torch.save_file(rest, folder / "model.safetensors", {"format": "pt"})


def own_code(folder):
    (folder / "net.py").write_text("raise SystemExit('code was run')")
    write(folder / "config.json", model_type="own", auto_map={"AutoConfig": "net.Config"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"there is no .*config\.json"),
        (lambda folder: (folder / "config.json").write_text("{"), r"config\.json is no JSON"),
        (lambda folder: (folder / "config.json").write_text("[]"), "must be a JSON object, got list"),
        (lambda folder: write(folder / "config.json", model_type="none"), "is of no network that transformers has"),
        (own_code, "is of no network that transformers has, and no code is run"),
        (lambda folder: write(folder / "config.json", model_type="bert"), "no classifier of pictures"),
        (lambda folder: write(folder / "config.json", hidden_sizes=[8, 12, 16, 10**7]), "its configuration [0-9]{9}"),
        (lambda folder: write(folder / "config.json", depths=[1, 1, 1, 10**9]), "asks for 1000000003 layers"),
        (lambda folder: write(folder / "config.json", hidden_sizes=[8, 12, 16, 4]), "weights"),
        (without_weights, r"there are no weights .*model\.safetensors"),
        (shards_elsewhere, r"'\.\./model\.safetensors' is no file of the folder"),
        (without_classifier, "missing_keys classifier|is its classifier not among them"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"{}" * 9), "is no file of safetensors"),
        (lambda folder: write(folder / "preprocessor_config.json", rescale_factor=1), "scales pixels by 1"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_what_is_refused(spoil, message, folder):
    spoil(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_network(None, f"hf:{folder}")


def test_a_checkpoint_cannot_ask_for_more_than_it_has(folder, tmp_path):
    model, config = load_network(None, f"hf:{folder}")
    save_checkpoint(tmp_path / "c.safetensors", model, config)
    with safetensors.safe_open(tmp_path / "c.safetensors", "pt") as file:
        state, about = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    for spoilt, message in (
        ({"hidden_sizes": [8, 12, 16, 10**7]}, "its configuration [0-9]{9}"),
        ({"model_type": "none"}, "configuration of a Hugging Face network in a checkpoint"),
    ):
        changed = about | {"fastcam_hf": json.dumps(json.loads(about["fastcam_hf"]) | spoilt)}
        safetensors.torch.save_file(state, tmp_path / "d.safetensors", changed)
        with pytest.raises(ValueError, match=message):
            load_checkpoint(tmp_path / "d.safetensors")


def picture(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def prepared(fields, size) -> Tensor:
    fields = {name: value for name, value in fields.items() if name != "class_names"}
    return Preprocess.of(ModelConfig("any", **{"num_classes": 1} | fields))(picture(*size))[0]


@pytest.mark.parametrize("size", [(320, 240), (240, 320)])
@pytest.mark.parametrize(
    "name",
    [
        "resnet50.a1_in1k",
        "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
        "convnext_atto.d2_in1k",
        "eva02_tiny_patch14_336",
    ],
)
def test_preprocessing_of_timm(name, size):
    timm = pytest.importorskip("timm")
    wanted = timm.data.create_transform(**timm.data.resolve_data_config(model=timm.create_model(name)))
    torch.testing.assert_close(prepared(published(f"timm:{name}"), size), wanted(picture(*size)))


PROCESSORS = {
    "ViT": {"size": {"height": 48, "width": 48}, "resample": 2},
    "ConvNext": {"size": {"shortest_edge": 48}, "crop_pct": 0.75, "resample": 3},
    "Bit": {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "resample": 3},
    "Siglip": {"size": {"height": 48, "width": 48}, "resample": 3},
}


@pytest.mark.parametrize("size", [(320, 240), (240, 320)])
@pytest.mark.parametrize("kind", PROCESSORS)
def test_preprocessing_of_hugging_face(kind, size, folder):
    transformers = pytest.importorskip("transformers")
    processor = getattr(transformers, f"{kind}ImageProcessor")(**PROCESSORS[kind])
    processor.save_pretrained(folder)
    wanted = processor(picture(*size), return_tensors="pt")["pixel_values"][0]
    found = prepared(published(f"hf:{folder}"), size)
    assert found.shape == wanted.shape
    # A level of 8 bits, which resizing in whole numbers or not may differ by.
    assert (found - wanted).abs().max() <= 1.5 / 255 / min(published(f"hf:{folder}").get("std", (0.229,)))


def test_what_is_not_there_is_mapped_with_a_note(folder):
    path = folder / "preprocessor_config.json"
    write(path, resample=1)
    with pytest.warns(UserWarning, match="interpolation 1 is not there: pictures are resized bicubically"):
        assert published(f"hf:{folder}")["interpolation"] == "bicubic"
    write(path, resample=2, size={"height": 64, "width": 64}, crop_pct=None, do_center_crop=True, crop_size=48)
    with pytest.warns(UserWarning, match="squashed to 64 x 64 and cropped get a shorter side of 64 pixels instead"):
        assert published(f"hf:{folder}")["resize_size"] == 64
