"""Networks of other channels than three: built, recognised, started from weights of others, kept in checkpoints."""

import dataclasses

import pytest
import torch
from torch import nn

from fastcam import models
from fastcam.models import ModelConfig
from fastcam.models.preprocessing import channels_of
from fastcam.pictures import Preprocess


class Net(nn.Module):
    """Registers its layers in another order than they run in."""

    def __init__(self, channels: int, how: str = "plain") -> None:
        super().__init__()
        self.how = how
        self.head = nn.Conv2d(8, 3, 1)
        self.first = nn.Conv2d(channels, 8, 3)

    def forward(self, x):
        if self.how == "luminance":
            x = x.mean(1, keepdim=True)
        if self.how == "strict" and x.shape[1] != self.first.in_channels:
            raise ValueError("wrong channels")
        return self.head(self.first(x)).mean((2, 3))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_the_first_convolution_tells(channels):
    model = Net(channels).train()
    assert channels_of(model, 32) == channels_of(nn.DataParallel(model), 32) == channels
    assert model.training
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert Preprocess.of(None, model).channels == channels


def test_a_network_that_makes_grey_itself_takes_colours():
    assert channels_of(Net(1, "luminance"), 32) == 3


def test_a_network_that_refuses_three_says_what_is_written_first():
    assert channels_of(Net(8, "strict"), 32) == 8
    assert channels_of(nn.Sequential(nn.Flatten(), nn.LazyLinear(3))) is None


@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1", "vit_b_16", "googlenet", "vgg11-gap", "nin"])
def test_built_for_others(arch):
    size = 224 if arch == "vit_b_16" else 96
    torch.manual_seed(0)
    model = models.build(arch, 3, channels=2).eval()
    assert channels_of(model, size) == 2
    with torch.inference_mode():
        assert model(torch.zeros(1, 2, size, size)).shape == (1, 3)
    torch.manual_seed(0)
    plain = models.build(arch, 3)
    torch.manual_seed(0)
    same = models.build(arch, 3, channels=3)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), same.parameters(), strict=True))


def test_built_for_others_by_timm_and_hugging_face(tmp_path):
    pytest.importorskip("timm")
    assert channels_of(models.build("timm:resnet18", 3, channels=5)) == 5
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    config.num_channels = 1
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no preprocessor_config.json"):
        model, known = models.load_network(None, f"hf:{tmp_path}")
    assert known.channels == channels_of(model, 64) == 1
    assert Preprocess.of(known, model).mean == (0.449,)
    assert channels_of(models.build(f"hf:{tmp_path}", 4, channels=3), 64) == 3
    with pytest.raises(ValueError, match="has weights for 1 channels, got 4"):
        models.load_network(None, f"hf:{tmp_path}", channels=4)
    models.save_checkpoint(tmp_path / "c.safetensors", model, known)
    assert channels_of(models.load_network(tmp_path / "c.safetensors")[0], 64) == 1


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_started_from_colours_as_timm_does(tmp_path, channels):
    from timm.models._manipulate import adapt_input_conv

    source = models.build("resnet18", 5)
    models.save_checkpoint(tmp_path / "w.safetensors", source, ModelConfig("resnet18", 5))
    model, given = models.start_from(tmp_path / "w.safetensors", "resnet18", 5, channels=channels)
    expected = adapt_input_conv(channels, source.conv1.weight.detach())
    assert torch.allclose(model.conv1.weight, expected, atol=1e-6)
    assert torch.equal(model.layer4[0].conv1.weight, source.layer4[0].conv1.weight)
    assert "conv1.weight" in given


def test_started_from_grey(tmp_path):
    source = models.build("resnet18", 5, channels=1)
    models.save_checkpoint(tmp_path / "w.safetensors", source, ModelConfig("resnet18", 5))
    model, _ = models.start_from(tmp_path / "w.safetensors", "resnet18", 5)
    images = torch.randn(2, 1, 32, 32)
    assert torch.allclose(model.conv1(images.expand(-1, 3, -1, -1)), source.conv1(images), atol=1e-5)


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_plain_weights_tell(tmp_path, prefix):
    state = models.build("resnet18", 5, channels=4).state_dict()
    torch.save({f"{prefix}{name}": value for name, value in state.items()}, tmp_path / "w.pt")
    model, config = models.load_network(tmp_path / "w.pt", "resnet18", num_classes=5)
    assert config.channels == model.conv1.in_channels == 4
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    with pytest.raises(ValueError, match=r"do not fit ResNet.*conv1"):
        models.load_network(tmp_path / "w.pt", "resnet18", num_classes=5, channels=3)


def test_a_checkpoint_knows_channels_and_scaling(tmp_path):
    path, model = tmp_path / "w.safetensors", models.build("resnet18", 5, channels=1)
    models.save_checkpoint(path, model, ModelConfig("resnet18", 5, scale=4095, mean=(0.3,)))
    loaded, config = models.load_network(path)
    assert (config.channels, config.scale, config.mean) == (1, (0, 4095), (0.3,))
    assert torch.equal(loaded.conv1.weight, model.conv1.weight)
    assert models.load_network(path, scale="minmax")[1].scale == "minmax"
    with pytest.raises(ValueError, match="has channels 1, got 3"):
        models.load_network(path, channels=3)


def test_configurations_of_plain_networks_stay_as_they_were():
    config = ModelConfig("resnet18", 5)
    assert "channels" not in config.to_json()
    assert "scale" not in config.to_json()
    for scale in ("dtype", "minmax", 4095, (-1000, 400)):
        changed = dataclasses.replace(config, scale=scale, channels=1)
        assert ModelConfig.from_json(changed.to_json()) == changed
    for wrong in ('"scale": "max"', '"channels": 0', '"channels": "1"', '"scale": [1]' + ', "channels": true'):
        with pytest.raises(ValueError, match=r"`(scale|channels)` must be"):
            ModelConfig.from_json(f'{{"arch": "resnet18", "num_classes": 5, {wrong}}}')
