"""Networks by name, weights and checkpoints on disk, target layers, and the recognition of heads."""

import json
import pickle
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision
from torch import nn

from fastcam.models import (
    ModelConfig,
    ThresholdedAvgPool2d,
    build,
    default_target_layer,
    find_head,
    load_checkpoint,
    load_weights,
    read_config,
    resolve_layers,
    save_checkpoint,
)

CONFIG = ModelConfig(
    *("resnet18", 3),
    output_stride=16,
    class_names=("a", "b", "ç"),
    size=64,
    mean=(0.5,) * 3,
    threshold=0.3,
    scores="sigmoid",
)


def same_state(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


class TestConfig:
    def test_survives_json(self):
        assert ModelConfig.from_json(CONFIG.to_json()) == CONFIG

    @pytest.mark.parametrize(
        "text", ["", "[1]", "3", '{"arch": "resnet18"}', '{"arch": "a", "num_classes": 2, "b": 1}']
    )
    def test_other_json_is_refused(self, text):
        with pytest.raises(ValueError, match="not a fastcam model configuration"):
            ModelConfig.from_json(text)

    def test_unknown_scores_leave_the_text_as_it_was(self):
        plain = replace(CONFIG, scores=None)
        assert "scores" not in plain.to_json()
        assert ModelConfig.from_json(plain.to_json()) == plain

    def test_fields_are_checked(self):
        with pytest.raises(ValueError, match=r'`scores` must be None, "softmax" or "sigmoid", got \'bce\''):
            replace(CONFIG, scores="bce")
        with pytest.raises(ValueError, match=r"each of the 3 classes, got 2"):
            replace(CONFIG, class_names=("a", "b"))
        with pytest.raises(ValueError, match="'stretch'"):
            replace(CONFIG, resize="stretch")
        with pytest.raises(FrozenInstanceError):
            CONFIG.arch = "vgg11"


class TestBuild:
    def test_unknown_name_lists_similar_ones(self):
        with pytest.raises(ValueError, match=r"'resnet19'; did you mean resnet18"):
            build("resnet19")

    @pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
    def test_auxiliary_heads_are_left_out(self, arch):
        model = build(arch, 5)
        assert model(torch.randn(2, 3, 96, 96)).shape == (2, 5)

    @pytest.mark.parametrize("arch", ["resnet18", "resnet50", "resnext50_32x4d"])
    @pytest.mark.parametrize(("output_stride", "side"), [(None, 2), (32, 2), (16, 4), (8, 8)])
    def test_output_stride(self, arch, output_stride, side):
        model = build(arch, 4, output_stride).eval()
        seen = []
        model.layer4.register_forward_hook(lambda module, args, output: seen.append(output))
        assert model(torch.randn(1, 3, 64, 64)).shape == (1, 4)
        assert seen[0].shape[2:] == (side, side)
        assert all(m.dilation == (1, 1) for m in model.modules() if isinstance(m, nn.Conv2d))
        assert model.state_dict().keys() == build(arch, 4).state_dict().keys()

    def test_impossible_output_stride(self):
        with pytest.raises(ValueError, match=r"must be 8, 16 or 32, got 4"):
            build("resnet18", output_stride=4)
        with pytest.raises(ValueError, match="for ResNets, not for SqueezeNet"):
            build("squeezenet1_1", output_stride=16)


class TestWeights:
    @pytest.fixture
    def model(self) -> nn.Module:
        return build("squeezenet1_1", 3)

    @pytest.mark.parametrize(
        ("wrapped", "suffix"), [("bare", ".pt"), ("state_dict", ".pth"), ("model", ".th"), ("prefixed", ".pt")]
    )
    def test_pickled(self, tmp_path, model, wrapped, suffix):
        state = model.state_dict()
        if wrapped == "prefixed":
            state = {f"module.{key}": value for key, value in state.items()}
        elif wrapped != "bare":
            state = {wrapped: state, "epoch": 3}
        torch.save(state, tmp_path / f"w{suffix}")
        other = build("squeezenet1_1", 3)
        load_weights(other, tmp_path / f"w{suffix}")
        assert same_state(model, other)

    def test_safetensors(self, tmp_path, model):
        safetensors.torch.save_file(model.state_dict(), tmp_path / "w.safetensors")
        other = build("squeezenet1_1", 3)
        load_weights(other, str(tmp_path / "w.safetensors"))
        assert same_state(model, other)

    def test_keys_and_shapes_are_listed(self, tmp_path, model):
        state = model.state_dict()
        state["extra"] = state.pop("classifier.1.bias")
        torch.save(state, tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"1 missing: classifier.1.bias; 1 unexpected: extra$"):
            load_weights(build("squeezenet1_1", 3), tmp_path / "w.pt")
        torch.save(model.state_dict(), tmp_path / "w.pt")
        with pytest.raises(
            ValueError, match=r"2 of another shape: classifier.1.weight \(expected \[7, 512, 1, 1\], got"
        ):
            load_weights(build("squeezenet1_1", 7), tmp_path / "w.pt")

    def test_a_refused_file_changes_nothing(self, tmp_path, model):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        torch.save({key: value + 1 for key, value in list(before.items())[1:]}, tmp_path / "w.pt")
        with pytest.raises(ValueError, match="1 missing"):
            load_weights(model, tmp_path / "w.pt")
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_counters_of_batch_norm_may_be_absent(self, tmp_path):
        model = build("shufflenet_v2_x0_5", 3)
        state = {key: value for key, value in model.state_dict().items() if "num_batches" not in key}
        torch.save(state, tmp_path / "w.pt")
        load_weights(model, tmp_path / "w.pt")

    def test_auxiliary_heads_are_dropped(self, tmp_path):
        whole = torchvision.models.googlenet(num_classes=3, init_weights=True)
        torch.save(whole.state_dict(), tmp_path / "w.pt")
        model = build("googlenet", 3)
        load_weights(model, tmp_path / "w.pt")
        assert torch.equal(model.fc.weight, whole.fc.weight)

    @pytest.mark.parametrize(
        "content",
        [b"", b"not a file", pickle.dumps({"a": print}, 2), b"\x80\x02", b"\x80\x02N\x88r.", b"PK\x03\x04 cut"],
    )
    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    def test_other_files(self, tmp_path, model, content, suffix):
        (tmp_path / f"w{suffix}").write_bytes(content)
        with pytest.raises(ValueError, match=f"w{suffix} .* not "):
            load_weights(model, tmp_path / f"w{suffix}")
        assert read_config(tmp_path / f"w{suffix}") is None

    def test_no_state_dict(self, tmp_path, model):
        torch.save([torch.ones(2)], tmp_path / "w.pt")
        with pytest.raises(ValueError, match="must hold a state_dict"):
            load_weights(model, tmp_path / "w.pt")

    def test_no_file(self, tmp_path, model):
        for read in (read_config, load_checkpoint, lambda path: load_weights(model, path)):
            with pytest.raises(FileNotFoundError, match="absent"):
                read(tmp_path / "absent.pt")

    def test_real_files(self, shared):
        model = build("mobilenet_v2")
        load_weights(model, shared / "weights" / "mobilenet_v2.pt")
        assert read_config(shared / "weights" / "mobilenet_v2.pt") is None
        with pytest.raises(ValueError, match=r"do not fit ResNet: .* unexpected: "):  # {"state_dict": {"module.…
            load_weights(build("resnet18", 10), shared / "weights" / "cifar10_resnet20.th")


class TestCheckpoint:
    def test_round_trip(self, tmp_path):
        model = build("resnet18", 3, 16).to(memory_format=torch.channels_last)
        save_checkpoint(tmp_path / "best.safetensors", model, CONFIG)
        again, config = load_checkpoint(tmp_path / "best.safetensors")
        assert config == CONFIG == read_config(tmp_path / "best.safetensors")
        assert same_state(model, again)
        assert not any(module.training for module in again.modules())
        assert again.layer4[0].conv1.stride == (1, 1)
        load_weights(model, tmp_path / "best.safetensors")
        assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]

    def test_a_failed_write_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "last.safetensors"
        model = build("squeezenet1_1", 3)
        config = ModelConfig("squeezenet1_1", 3)
        save_checkpoint(path, model, config)
        before = path.read_bytes()

        def fail(file: Path, data: bytes) -> None:
            with file.open("wb") as half:
                half.write(data[: len(data) // 2])
            raise OSError("disk full")

        monkeypatch.setattr(Path, "write_bytes", fail)
        with pytest.raises(OSError, match="disk full"):
            save_checkpoint(path, model, config)
        assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]
        assert path.read_bytes() == before

    def test_keys_that_are_no_names(self, tmp_path):
        torch.save({0: torch.ones(2)}, tmp_path / "odd.pt")
        with pytest.raises(ValueError, match="must hold a state_dict"):
            load_weights(build("squeezenet1_1", 3), tmp_path / "odd.pt")

    def test_other_files(self, tmp_path):
        state = {"a": torch.ones(2)}
        safetensors.torch.save_file(state, tmp_path / "plain.safetensors")
        with pytest.raises(ValueError, match="is not a fastcam checkpoint"):
            load_checkpoint(tmp_path / "plain.safetensors")
        metadata = {"fastcam": json.dumps({"arch": "resnet18"})}
        safetensors.torch.save_file(state, tmp_path / "odd.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match="not a fastcam model configuration"):
            load_checkpoint(tmp_path / "odd.safetensors")
        metadata = {"fastcam": CONFIG.to_json()}
        safetensors.torch.save_file(state, tmp_path / "torn.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match="102 missing"):
            load_checkpoint(tmp_path / "torn.safetensors")


class TestLayers:
    @pytest.mark.parametrize(
        ("arch", "name"),
        [
            ("resnet18", "layer4"),
            ("densenet121", "features"),
            ("mobilenet_v2", "features"),
            ("googlenet", "inception5b"),
            ("shufflenet_v2_x0_5", "conv5"),
            ("regnet_y_400mf", "trunk_output"),
            ("mnasnet0_5", "layers"),
            ("vgg11", "features.19"),
            ("alexnet", "features.11"),
            ("swin_t", "permute"),
        ],
    )
    def test_default(self, arch, name):
        # On the meta device nothing is computed; RegNet's constructor needs real numbers.
        with torch.device("cpu" if arch in ("regnet_y_400mf", "googlenet") else "meta"):
            model = build(arch)
        assert default_target_layer(model) == name
        assert len(resolve_layers(model, name)) == 1

    def test_unknown_family_lists_its_parts(self):
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten())
        with pytest.raises(ValueError, match=r"no default target layer is known for Sequential: .* parts are 0, 2$"):
            default_target_layer(model)

    def test_names_and_modules(self):
        model = build("squeezenet1_1")
        assert resolve_layers(model, ["features.3", model.features[4]]) == [model.features[3], model.features[4]]
        assert resolve_layers(model, model.features) == resolve_layers(model, "features") == [model.features]

    def test_errors(self):
        model = build("squeezenet1_1")
        with pytest.raises(ValueError, match=r"SqueezeNet has no layer 'feature.12'; did you mean features.12"):
            resolve_layers(model, "feature.12")
        with pytest.raises(ValueError, match="the target layer Conv2d is not a module of this model"):
            resolve_layers(model, nn.Conv2d(1, 1, 1))
        with pytest.raises(ValueError, match="at least one layer"):
            resolve_layers(model, [])
        with pytest.raises(TypeError, match="module or its name, got int"):
            resolve_layers(model, [4])


class TestHead:
    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
    def test_tells_poolings_apart(self, dtype):
        features = torch.randn(4, 8, 5, 7, dtype=torch.float64).to(dtype)
        linear = nn.Linear(8, 3)
        assert find_head(features, linear, features.mean((2, 3))).relu is False
        assert find_head(features, linear, features.relu().mean((2, 3))).relu is True
        assert find_head(features, linear, features.amax((2, 3))).pool == "gmp"
        thresholded = ThresholdedAvgPool2d(0.3)(features).flatten(1)
        assert find_head(features, linear, thresholded, [0.1, 0.3]).pool == "tap"
        for pooled in (
            thresholded,
            features.amin((2, 3)),
            features.mean((2, 3)) * 1.2,
            features.mean((2, 3))[:, :4],
            nn.functional.layer_norm(features.mean((2, 3)), [8]),
        ):
            assert find_head(features, linear, pooled) is None
        assert find_head(features, None, None) is None
        assert torch.equal(
            find_head(features, None, features.mean((2, 3))).weight,
            torch.eye(8, dtype=torch.promote_types(dtype, torch.float32)),
        )

    @pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e9])
    def test_at_any_scale_and_size(self, scale):
        features = torch.rand(2, 8, 200, 200) * scale + scale  # a plain mean of these strays furthest
        head = find_head(features, nn.Linear(8, 3, bias=False), features.mean((2, 3)))
        assert head is not None
        assert head.bias is None
        assert find_head(features, nn.Linear(8, 3), features.amax((2, 3))).pool == "gmp"
        assert find_head(features, nn.Linear(8, 3), features.amin((2, 3))) is None

    def test_carries_no_graph(self):
        features = torch.randn(2, 8, 3, 3)
        head = find_head(features, nn.Linear(8, 3), features.mean((2, 3)))
        assert not head.weight.requires_grad
        assert not head.bias.requires_grad

    def test_nan_is_no_objection(self):
        features = torch.randn(2, 8, 3, 3)
        features[0, 1] = torch.nan
        assert find_head(features, nn.Linear(8, 3), features.mean((2, 3))) is not None
