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
        (lambda folder: write(folder / "preprocessor_config.json", do_rescale=False), "scales pixels by 1;"),
        (
            lambda folder: write(folder / "preprocessor_config.json", image_mean=[0.5] * 4),
            "numbers for 3 channels as image_m",
        ),
        (lambda folder: write(folder / "preprocessor_config.json", image_processor_type="None"), "of no processor"),
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


# What preprocessor_config.json says, as the families' published folders have it, old ones and new; what is not said is
# as the processor of that kind has it.
COLOURS = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225], "do_normalize": True}
HALVES = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_normalize": True}
PROCESSORS = {
    "ViT": {"size": {"height": 48, "width": 48}, "resample": 2, "image_processor_type": "ViTImageProcessor"},
    "old ViT": {"size": 48, "do_resize": True, **HALVES},
    "old Swin": {"size": 48, "resample": 3, "feature_extractor_type": "ViTFeatureExtractor", **COLOURS},
    "old BEiT": {"size": 48, "crop_size": 48, "do_center_crop": False, "resample": 2, **HALVES}
    | {"feature_extractor_type": "BeitFeatureExtractor"},
    "ConvNeXT": {"size": {"shortest_edge": 48}, "crop_pct": 0.75, "resample": 3, **COLOURS}
    | {"image_processor_type": "ConvNextImageProcessor"},
    "old ConvNeXT": {"size": 48, "crop_pct": 0.875, "feature_extractor_type": "ConvNextFeatureExtractor", **COLOURS},
    "DINOv2": {"size": {"shortest_edge": 64}, "crop_size": {"height": 48, "width": 48}, "do_center_crop": True}
    | {"image_processor_type": "BitImageProcessor", "resample": 3, **COLOURS},
    "SigLIP": {"size": {"height": 48, "width": 48}, "resample": 3, "image_processor_type": "SiglipImageProcessor"},
    "PVT": {"size": {"height": 48, "width": 48}, "image_processor_type": "PvtImageProcessor", **COLOURS},
    "EfficientNet": {"size": {"height": 48, "width": 48}, "include_top": True, "resample": 2, "do_center_crop": False}
    | {"image_processor_type": "EfficientNetImageProcessor", **COLOURS, "image_std": [0.478, 0.473, 0.474]},
    "levels": {"size": 48, "do_normalize": False, "image_processor_type": "ViTImageProcessor"},
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_preprocessing_of_hugging_face(kind, folder):
    transformers = pytest.importorskip("transformers")
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSORS[kind]))
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    fields = published(f"hf:{folder}")
    for size in ((320, 240), (240, 320)):
        wanted, found = processor(picture(*size), return_tensors="pt")["pixel_values"][0], prepared(fields, size)
        assert found.shape == wanted.shape
        # A level of 8 bits, which resizing in whole numbers or not may differ by.
        assert (found - wanted).abs().max() <= 1.5 / 255 / min(fields["std"])


def test_a_network_that_wants_blue_green_red_is_given_red_green_blue(tmp_path):
    """MobileViT's processor turns colours round: its first convolution does here, wherever its weights come from."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_sizes": [24, 32, 40], "neck_hidden_sizes": [8, 16, 16, 24, 32, 40, 64], "image_size": 64}
    config = transformers.MobileViTConfig(num_attention_heads=2, id2label=dict(enumerate(NAMES)), **sizes)
    theirs, path = transformers.MobileViTForImageClassification(config).eval(), tmp_path / "net"
    theirs.save_pretrained(path)
    old = {"crop_size": 64, "do_center_crop": True, "do_flip_channel_order": True, "do_resize": True, "size": 72}
    old |= {"feature_extractor_type": "MobileViTFeatureExtractor", "resample": 2}
    (path / "preprocessor_config.json").write_text(json.dumps(old))
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    for size in ((320, 240), (240, 320)):
        wanted = theirs(**processor(picture(*size), return_tensors="pt")).logits
        for weights in (None, path / "model.safetensors"):
            model, config = load_network(weights, f"hf:{path}", num_classes=3)
            frame = Preprocess.of(config)(picture(*size))[0]
            torch.testing.assert_close(models.run(model, frame[None]), wanted, rtol=1e-3, atol=1e-4)
    save_checkpoint(tmp_path / "c.safetensors", model, config)
    again, _ = load_checkpoint(tmp_path / "c.safetensors")
    assert torch.equal(models.run(again, frame[None]), models.run(model, frame[None]))
    for weights in (path, path / "model.safetensors"):
        started, _ = models.start_from(weights, f"hf:{path}", 7)
        first = "mobilevit.conv_stem.convolution.weight"
        assert torch.equal(started.state_dict()[first], theirs.state_dict()[first].flip(1))


def test_a_folder_that_does_not_say(folder, pictures, tmp_path):
    """Without a processor's configuration: the network's size, ImageNet's colours, and a word of it."""
    (folder / "preprocessor_config.json").unlink()
    write(folder / "config.json", image_size=96)
    told = r"net has no preprocessor_config.json, .* squashed to 96 x 96 pixels, with ImageNet's mean, 0\.485,.*"
    with pytest.warns(UserWarning, match=rf"{told}with ImageNet's std, 0\.229,.*\(else give --size, --mean, --std\)"):
        _, config = load_network(None, f"hf:{folder}")
    assert (config.size, config.resize, config.mean) == (96, "squash", models.IMAGENET_MEAN)
    with pytest.warns(UserWarning, match=r"with ImageNet's std, 0\.229,0\.224,0\.225 \(else give --std\)"):
        load_network(None, f"hf:{folder}", mean=(0.5,) * 3, size=48)
    assert load_network(None, f"hf:{folder}", mean=(0.5,) * 3, std=(0.5,) * 3, resize="crop")[1].size == 96


def test_a_network_of_hugging_faces_alone(pictures, tmp_path):
    """A module does not say how pictures become its input, either."""
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    vit = transformers.ViTForImageClassification(transformers.ViTConfig(image_size=48, num_labels=3, **sizes)).eval()
    with pytest.warns(UserWarning, match="ViTForImageClassification does not say .* squashed to 48 x 48 pixels, wi"):
        fastcam.localize(vit, pictures, out=tmp_path / "run", method="legrad")
    settings = json.loads((tmp_path / "run" / "plan.json").read_text())["settings"]
    assert (settings["size"], settings["resize"], settings["mean"]) == (48, "squash", list(models.IMAGENET_MEAN))
    config = ModelConfig("vit", 3, size=32)
    fastcam.localize(vit, pictures, out=tmp_path / "other", method="legrad", config=config)
    rows = pq.read_table(tmp_path / "other" / "boxes.parquet").to_pylist()
    assert not any(row["error"] for row in rows)
    for network, size in ((resnet(), 224), (Siglip.made(), 64)):
        with pytest.warns(UserWarning, match=f"squashed to {size} x {size}"):
            assert Preprocess.of(None, torch.nn.DataParallel(network)).size == size


class Siglip:
    """SigLIP, whose configuration has that of its vision tower within."""

    @staticmethod
    def made():
        import transformers

        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        config = transformers.SiglipConfig(num_labels=3, vision_config={"image_size": 64, "patch_size": 16, **sizes})
        return transformers.SiglipForImageClassification(config).eval()


def test_what_is_not_there_is_mapped_with_a_note(folder):
    path = folder / "preprocessor_config.json"
    write(path, resample=1)
    with pytest.warns(UserWarning, match="interpolation 1 is not there: pictures are resized bicubically"):
        assert published(f"hf:{folder}")["interpolation"] == "bicubic"
    kind = "DeiTImageProcessor"
    write(path, resample=2, size={"height": 64, "width": 64}, do_center_crop=True, crop_size=48)
    write(path, image_processor_type=kind)
    with pytest.warns(UserWarning, match="squashed to 64 x 64 and cropped get a shorter side of 64 pixels instead"):
        assert published(f"hf:{folder}")["resize_size"] == 64
    write(path, size={"height": 64, "width": 48}, do_center_crop=False)
    with pytest.warns(UserWarning, match="pictures of size .*64.*48.* are not there: they become squares here"):
        assert "resize" not in published(f"hf:{folder}")
    write(path, do_resize=False)
    with pytest.warns(UserWarning, match="pictures are not resized by its processor"):
        assert "resize" not in published(f"hf:{folder}")
