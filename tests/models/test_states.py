"""Weights as people have them: containers, wrappers' names, older names, versions; all of them load or none."""

import argparse
import re
from collections import OrderedDict

import pytest
import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.mnasnet import _BN_MOMENTUM, _get_depths, _stack

from fastcam import models
from fastcam.models import ModelConfig, build, load_checkpoint, load_weights, save_checkpoint, start_from


class Net(nn.Module):
    """A small network with a trunk, statistics, and a part of the usual kind of names."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
        self.fc = nn.Linear(5, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.features(images).mean((2, 3)))


IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def trained(model: nn.Module) -> nn.Module:
    """A network whose every value is its own."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.rand(tensor.shape) * 0.5 + 0.1 if tensor.is_floating_point() else torch.tensor(7))
    return model.eval()


@pytest.fixture
def net() -> nn.Module:
    return trained(Net())


def logits(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    with torch.no_grad():
        return model.eval()(images)


def loaded(content: object, path, model: nn.Module | None = None) -> nn.Module:
    model = Net() if model is None else model
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({name: tensor.clone() for name, tensor in content.items()}, path)
    else:
        torch.save(content, path)
    load_weights(model, path)
    return model


def under(beginning: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {beginning + name: tensor for name, tensor in state.items()}


@pytest.fixture(params=[".pt", ".safetensors"])
def path(request, tmp_path):
    return tmp_path / f"weights{request.param}"


BEGINNINGS = [
    "module.",
    "_orig_mod.",
    "module._orig_mod.",
    "_orig_mod.module.",
    "module.module.",
    "model.",
    "net.",
    "backbone.",
    "model.module.net._orig_mod.",
    "_fsdp_wrapped_module.",
    "learner.student_0.",
]


class TestNames:
    @pytest.mark.parametrize("beginning", BEGINNINGS)
    def test_what_wrappers_put_before_all_names(self, net, path, beginning):
        assert torch.equal(logits(loaded(under(beginning, net.state_dict()), path)), logits(net))

    @pytest.mark.parametrize("part", ["features.module.", "features.0.module.", "features._orig_mod.module."])
    @pytest.mark.parametrize("beginning", ["", "module.", "model."])
    def test_wrappers_around_a_part(self, net, path, part, beginning):
        inside = part.replace("module.", "").replace("_orig_mod.", "")
        state = {re.sub(f"^{re.escape(inside)}", part, name): value for name, value in net.state_dict().items()}
        assert state.keys() != net.state_dict().keys()
        assert torch.equal(logits(loaded(under(beginning, state), path)), logits(net))

    def test_real_wrappers_save_and_load(self, net, tmp_path):
        partly = trained(Net())
        partly.load_state_dict(net.state_dict())
        partly.features = torch.compile(nn.DataParallel(partly.features), backend="eager")
        wrapped = [
            nn.DataParallel(net),
            torch.compile(net, backend="eager"),
            nn.DataParallel(torch.compile(net, backend="eager")),
            torch.optim.swa_utils.AveragedModel(net),
            partly,
        ]
        for wrapper in wrapped:
            assert wrapper.state_dict().keys() != net.state_dict().keys()
            assert torch.equal(logits(loaded(wrapper.state_dict(), tmp_path / "w.pt")), logits(net))
        for wrapper in (nn.DataParallel(Net()), torch.compile(Net(), backend="eager"), partly):
            torch.nn.init.zeros_(models.unwrap(wrapper).fc.weight)
            loaded(net.state_dict(), tmp_path / "w.pt", wrapper)
            assert torch.equal(logits(models.unwrap(wrapper)), logits(net))

    def test_a_network_may_call_its_own_parts_as_wrappers_do(self, tmp_path):
        class Odd(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.module, self.weight = nn.Linear(2, 3), nn.Parameter(torch.rand(3, 2))

        odd, other = Odd(), Odd()
        loaded(odd.state_dict(), tmp_path / "w.pt", other)
        assert torch.equal(odd.module.weight, other.module.weight)
        assert torch.equal(odd.weight, other.weight)

    def test_counters_are_no_weights(self, net, tmp_path):
        state = net.state_dict() | {"total_ops": torch.zeros(1), "features.0.total_params": torch.zeros(1)}
        state = {name: value for name, value in state.items() if "num_batches" not in name}
        assert torch.equal(
            logits(loaded(under("module.", state) | {"n_averaged": torch.tensor(3)}, tmp_path / "w.pt")), logits(net)
        )

    def test_what_is_missing_or_too_much_is_named_as_the_file_has_it(self, net, tmp_path):
        state = under("model.", net.state_dict())
        state["model.extra.weight"] = state.pop("model.fc.weight")
        with pytest.raises(
            ValueError, match=r"do not fit Net: 1 missing: fc.weight; 1 unexpected: model.extra.weight$"
        ):
            loaded({"net": state}, tmp_path / "w.pt")
        with pytest.raises(
            ValueError, match=r"\(under 'net'\) do not fit Net: 2 of another shape: fc.weight \(expected"
        ):
            loaded({"net": under("model.", Net(5).state_dict())}, tmp_path / "w.pt")
        model = trained(Net())
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match="1 missing"):
            loaded({"net": state}, tmp_path / "w.pt", model)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_precisions_are_converted_and_integers_are_not(self, net, path, dtype):
        half = {name: v.to(dtype) if v.is_floating_point() else v for name, v in net.state_dict().items()}
        assert torch.equal(loaded(half, path).fc.weight, half["fc.weight"].float())
        quantised = half | {"fc.weight": torch.ones(3, 5, dtype=torch.int8)}
        with pytest.raises(
            ValueError, match=r"1 of another type: fc\.weight \(expected torch\.float32, got torch\.int8\)"
        ):
            loaded(quantised, path)

    def test_one_name_twice_is_refused(self, net, tmp_path):
        state = {name: value for name, value in net.state_dict().items() if name != "fc.bias"}
        state |= {"module.fc.weight": net.fc.weight + 1, "fc._orig_mod.bias": net.fc.bias}
        with pytest.raises(ValueError, match=r"one name twice: fc.weight and module.fc.weight"):
            loaded(state, tmp_path / "w.pt")

    def test_two_networks_under_two_beginnings_are_refused(self, net, tmp_path):
        state = under("student.", net.state_dict()) | under("teacher.", Net().state_dict())
        with pytest.raises(ValueError, match=r"Net more than once, under 'student\.' and 'teacher\.'"):
            loaded(state, tmp_path / "w.pt")
        # Of networks of different shapes only one is it, but what the other is for is not known.
        with pytest.raises(
            ValueError, match=r"larger network, of which Net is the part 'student\.' only; 3 others: teach"
        ):
            loaded(under("student.", net.state_dict()) | under("teacher.", Net(4).state_dict()), tmp_path / "w.pt")

    def test_a_part_of_a_larger_network_is_refused(self, net, tmp_path):
        for name, value in (("head.weight", torch.ones(2, 3)), ("normalize.mean", torch.ones(1, 3, 1, 1))):
            with pytest.raises(ValueError, match=f"part 'backbone.' only; 1 others: {name}"):
                loaded(under("backbone.", net.state_dict()) | {name: value}, tmp_path / "w.pt")

    def test_vectors_of_others_are_left_out_with_a_warning(self, net, tmp_path):
        state = under("model.", net.state_dict()) | {"criterion.weight": torch.ones(3), "seen": torch.tensor(4)}
        state["confusion"] = torch.zeros(3, 3, dtype=torch.int64)
        with pytest.warns(
            UserWarning, match=r"not begin with 'model.' are left out: criterion.weight, seen, confusion"
        ):
            model = loaded({"state_dict": state, "pytorch-lightning_version": "2.4.0"}, tmp_path / "w.pt")
        assert torch.equal(logits(model), logits(net))


class TestContainers:
    @pytest.mark.parametrize(
        "key",
        ["model_state_dict", "net", "weights", "model_state", "state", "params", "ema", "model_ema", "network", "x"],
    )
    def test_the_one_dictionary_of_tensors_is_it(self, net, tmp_path, key):
        learner = torch.optim.Adam(net.parameters())
        logits_of = net.train()(IMAGES).sum()
        logits_of.backward()
        learner.step()
        content = {
            "epoch": 3,
            "optimizer_state_dict": learner.state_dict(),
            "opt": learner.state_dict(),
            key: under("module.", net.state_dict()),
            "loss": torch.tensor(0.1),
            "rng": {"cpu": torch.get_rng_state()},
            "scheduler": {"_last_lr": [0.1]},
            "args": argparse.Namespace(lr=0.1),
        }
        assert torch.equal(logits(loaded(content, tmp_path / "w.pt")), logits(net))

    def test_deeper_and_beside_plain_values(self, net, tmp_path):
        for content in (
            {"checkpoint": {"model": {"state_dict": net.state_dict()}}},
            {**net.state_dict(), "epoch": 3, "classes": ["a", "b", "c"], "config": {"lr": 0.1}},
            OrderedDict(state=OrderedDict(net.state_dict()), step=torch.tensor(4)),
        ):
            assert torch.equal(logits(loaded(content, tmp_path / "w.pt")), logits(net))

    @pytest.mark.parametrize("keys", [("state_dict", "state_dict_ema"), ("model", "model_ema"), ("net", "swa")])
    def test_the_network_goes_before_its_average(self, net, tmp_path, keys):
        average = torch.optim.swa_utils.AveragedModel(trained(Net()))
        with pytest.warns(
            UserWarning, match=rf"holds weights under '{keys[0]}', which are taken, and under '{keys[1]}'"
        ):
            model = loaded(dict(zip(keys, (net.state_dict(), average.state_dict()), strict=True)), tmp_path / "w.pt")
        assert torch.equal(logits(model), logits(net))

    def test_a_network_and_its_average_in_one_state(self, net, tmp_path):
        average = under("model_ema.", torch.optim.swa_utils.AveragedModel(trained(Net())).state_dict())
        state = {"state_dict": under("model.", net.state_dict()) | average}
        with pytest.warns(
            UserWarning, match=r"Net more than once, under 'model\.', which are taken, and under 'model_ema\.'"
        ):
            model = loaded(state, tmp_path / "w.pt")
        assert torch.equal(logits(model), logits(net))
        state["state_dict"]["head.weight"] = torch.ones(2, 2)
        with (
            pytest.warns(UserWarning, match="more than once"),
            pytest.raises(ValueError, match=r"1 others: head\.weight"),
        ):
            loaded(state, tmp_path / "w.pt")
        state = {"state_dict": under("model.", net.state_dict()), "ema": trained(Net()).state_dict()}
        with pytest.warns(UserWarning, match="holds weights under 'state_dict', which are taken, and under 'ema'"):
            assert torch.equal(logits(loaded(state, tmp_path / "w.pt")), logits(net))

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ({"netG": Net().state_dict(), "netD": Net().state_dict()}, "holds weights under 'netG' and 'netD'"),
            ({"encoder": Net().state_dict(), "head": nn.Linear(3, 2).state_dict()}, "under 'encoder' and 'head'"),
            (
                {"model": Net().state_dict(), "model_ema": Net(4).state_dict(), "x": Net().state_dict()},
                "'model_ema' and",
            ),
            ({"ema_0.9": Net().state_dict(), "ema_0.99": Net().state_dict()}, "under 'ema_0.9' and 'ema_0.99'"),
            (
                {"epoch": 3, "optimizer": torch.optim.SGD([torch.zeros(2)], 0.1).state_dict()},
                r"must hold a state_dict \(names and tensors\).*; it holds epoch \(int\), optimizer \(dict\)$",
            ),
            ([Net().state_dict()], "must hold a state_dict .* it holds a list"),
        ],
    )
    def test_none_or_several_are_refused(self, tmp_path, content, message):
        with pytest.raises(ValueError, match=message):
            loaded(content, tmp_path / "w.pt")

    @pytest.mark.parametrize("content", [nn.Linear(2, 3), {"model": nn.Linear(2, 3), "epoch": 3}])
    def test_a_whole_pickled_module_stays_refused_and_is_named(self, tmp_path, content):
        with pytest.raises(
            ValueError, match=r"\(it holds torch\.nn\.modules\.linear\.Linear\).* save the state_dict\(\)"
        ):
            loaded(content, tmp_path / "w.pt")

    def test_a_dictionary_that_holds_itself(self, net, tmp_path):
        content = {"model": net.state_dict()}
        content["self"] = content
        assert torch.equal(logits(loaded(content, tmp_path / "w.pt")), logits(net))


def old_mnasnet() -> nn.Module:
    """MNASNet 0.5 as torchvision's first version had it: with a stem of the full width."""
    model, depths = build("mnasnet0_5", 4), _get_depths(0.5)
    stem = [
        nn.Conv2d(3, 32, 3, padding=1, stride=2, bias=False),
        nn.BatchNorm2d(32, momentum=_BN_MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 32, 3, padding=1, stride=1, groups=32, bias=False),
        nn.BatchNorm2d(32, momentum=_BN_MOMENTUM),
        nn.ReLU(inplace=True),
        nn.Conv2d(32, 16, 1, padding=0, stride=1, bias=False),
        nn.BatchNorm2d(16, momentum=_BN_MOMENTUM),
        _stack(16, depths[2], 3, 2, 3, 3, _BN_MOMENTUM),
    ]
    for index, layer in enumerate(stem):
        model.layers[index] = layer
    model._version = 1
    return model


class TestVersions:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(2))

    @pytest.mark.parametrize("arch", ["mnasnet0_5", "mnasnet1_0"])
    def test_mnasnet(self, arch, tmp_path):
        model = build(arch, 4)
        for content, name in (
            (model.state_dict(), "w.pt"),
            (nn.DataParallel(model).state_dict(), "w.pt"),
            ({"model_state_dict": under("net.", model.state_dict())}, "w.pt"),  # which knows no version
            (model.state_dict(), "w.safetensors"),
        ):
            other = loaded(content, tmp_path / name, build(arch, 4))
            assert torch.equal(logits(other, self.images), logits(model, self.images))
        save_checkpoint(tmp_path / "c.safetensors", model, ModelConfig(arch, 4))
        again, _ = load_checkpoint(tmp_path / "c.safetensors")
        assert torch.equal(logits(again, self.images), logits(model, self.images))
        started, given = start_from(tmp_path / "c.safetensors", arch, 5)
        assert torch.equal(started.layers[0].weight, model.layers[0].weight)
        assert given == {name for name, _ in model.named_parameters() if not name.startswith("classifier")}

    def test_mnasnet_of_the_first_version(self, tmp_path):
        model = old_mnasnet()
        reference = build("mnasnet0_5", 4)
        with pytest.warns(UserWarning, match="previous version"):
            reference.load_state_dict(model.state_dict())  # torchvision's own way
        assert torch.equal(logits(reference, self.images), logits(model, self.images))
        for content, name in (
            (model.state_dict(), "w.pt"),
            (under("module.", model.state_dict()), "w.pt"),
            (model.state_dict(), "w.safetensors"),
        ):
            with pytest.warns(UserWarning, match="previous version"):
                other = loaded(content, tmp_path / name, build("mnasnet0_5", 4))
            assert torch.equal(logits(other, self.images), logits(model, self.images))
        save_checkpoint(tmp_path / "c.safetensors", model, ModelConfig("mnasnet0_5", 4))
        with pytest.warns(UserWarning, match="previous version"):
            again, _ = load_checkpoint(tmp_path / "c.safetensors")
        assert torch.equal(logits(again, self.images), logits(model, self.images))
        with (
            pytest.warns(UserWarning, match="previous version"),
            pytest.raises(ValueError, match="an older version of MNASNet, from which no training can start"),
        ):
            start_from(tmp_path / "c.safetensors", "mnasnet0_5", 4)

    def test_mnasnet_of_another_width_changes_nothing(self, tmp_path):
        model = build("mnasnet0_5", 4)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with pytest.raises(ValueError, match=r"do not fit MNASNet: \d+ of another shape: layers.0.weight"):
            loaded(build("mnasnet0_75", 4).state_dict(), tmp_path / "w.pt", model)
        assert model.state_dict().keys() == before.keys()
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("beginning", ["", "module.", "model."])
    @pytest.mark.parametrize("version", [None, 1])
    def test_vision_transformers_from_before_their_mlp(self, path, beginning, version):
        def make() -> nn.Module:
            return torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=3)

        model, images = trained(make()), torch.rand(2, 3, 32, 32)
        old = OrderedDict(
            (re.sub(r"mlp\.([03])\.", lambda m: f"mlp.linear_{1 + int(m[1]) // 3}.", name), value)
            for name, value in under(beginning, model.state_dict()).items()
        )
        assert any("linear_2" in name for name in old)
        if version and path.suffix == ".pt":
            old._metadata = {name: {"version": 1} for name in under(beginning, model.state_dict()._metadata)}
        assert torch.equal(logits(loaded(old, path, make()), images), logits(model, images))

    def test_a_network_that_renames_itself(self, net, path):
        class Renamed(Net):
            def _load_from_state_dict(self, state, prefix, *rest) -> None:
                for part in ("weight", "bias"):
                    if f"{prefix}head.{part}" in state:
                        state[f"{prefix}fc.{part}"] = state.pop(f"{prefix}head.{part}")
                super()._load_from_state_dict(state, prefix, *rest)

        class Hooked(Net):
            def __init__(self) -> None:
                super().__init__()
                self.register_load_state_dict_pre_hook(lambda module, state, *rest: self.turn(state))

            def turn(self, state: dict[str, Tensor]) -> None:
                for name in [name for name in state if "head." in name]:
                    state[name.replace("head.", "fc.")] = state.pop(name)

        old = {name.replace("fc.", "head."): value for name, value in net.state_dict().items()}
        for make in (Renamed, Hooked):
            assert torch.equal(logits(loaded(old, path, make())), logits(net))
            with pytest.raises(ValueError, match=r"1 missing: fc\.weight$"):
                loaded({name: value for name, value in old.items() if name != "head.weight"}, path, make())
        with pytest.raises(ValueError, match=r"2 missing: fc.weight, fc.bias; 2 unexpected: head"):
            loaded(old, path)

    def test_metadata_of_a_stranger(self, net, tmp_path):
        state = net.state_dict()
        state._metadata = {"": {"version": "ten"}, 3: None, "features.1": {"version": [2]}, "fc": "x"}
        assert torch.equal(logits(loaded(state, tmp_path / "w.pt")), logits(net))


class TestOldNames:
    @staticmethod
    def old(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            re.sub(r"(denselayer\d+\.(?:norm|conv))([12])\.", r"\1.\2.", name): value
            for name, value in state.items()
            if not name.endswith("num_batches_tracked")
        }

    @pytest.mark.parametrize("beginning", ["", "module.", "backbone.", "module.features"])
    def test_densenet(self, tmp_path, beginning):
        model, images = build("densenet121", 4), torch.rand(1, 3, 64, 64)
        state = self.old(model.state_dict())
        assert "features.denseblock1.denselayer1.norm.1.weight" in state
        if beginning == "module.features":
            state = {name.replace("features.", "features.module."): value for name, value in state.items()}
        else:
            state = under(beginning, state)
        other = loaded({"state_dict": state}, tmp_path / "w.pt", build("densenet121", 4))
        assert torch.equal(logits(other, images), logits(model, images))

    @pytest.mark.parametrize("arch", ["densenet121", "densenet121-tap"])
    def test_a_training_starts_from_densenets_old_names(self, tmp_path, arch):
        model = build("densenet121")
        torch.save(self.old(model.state_dict()), tmp_path / "w.pt")
        started, given = start_from(tmp_path / "w.pt", arch, 3)
        first, theirs = (next(iter(m.parameters())) for m in (started, model))
        assert torch.equal(first, theirs)
        assert len(given) == len(list(model.parameters())) - 2

    def test_an_auxiliary_classifier_under_a_beginning(self, tmp_path):
        whole = torchvision.models.googlenet(num_classes=3, init_weights=True)
        model = loaded(under("module.", whole.state_dict()), tmp_path / "w.pt", build("googlenet", 3))
        assert torch.equal(model.fc.weight, whole.fc.weight)


class TestStart:
    @pytest.mark.parametrize("beginning", ["module.", "_orig_mod.model."])
    @pytest.mark.parametrize("arch", ["resnet18", "resnet18-gmp", "googlenet-gap"])
    def test_from_a_trainers_checkpoint(self, tmp_path, beginning, arch):
        whole = build(arch.split("-")[0])
        torch.save({"net": under(beginning, whole.state_dict()), "epoch": 1}, tmp_path / "w.pt")
        started, given = start_from(tmp_path / "w.pt", arch, 3)
        assert torch.equal(next(iter(started.parameters())), next(iter(whole.parameters())))
        assert next(name for name, _ in started.named_parameters()) in given


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self):
        return pytest.importorskip("timm")

    def test_names_with_tags(self):
        name = "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        assert build(name, 5).pretrained_cfg["tag"] == "augreg_in21k_ft_in1k"
        assert build("timm/resnet18").pretrained_cfg["architecture"] == "resnet18"
        with pytest.raises(ValueError, match=r"no weights 'augreg' of 'vit_tiny_patch16_224'; did you mean vit_tiny"):
            build("timm/vit_tiny_patch16_224.augreg")
        with pytest.raises(ValueError, match="unknown timm architecture 'resnet19'; did you mean resnet18"):
            build("timm/resnet19.a1_in1k")

    def test_names_that_timm_changed(self, timm, tmp_path):
        def make() -> nn.Module:
            return timm.create_model(
                "swin_tiny_patch4_window7_224", img_size=64, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1,) * 4,
                window_size=2, num_classes=3,
            )  # fmt: skip

        model, images = trained(make()), torch.rand(1, 3, 64, 64)
        old = {}
        for name, value in model.state_dict().items():  # as Microsoft published them
            name = re.sub(r"layers\.(\d)\.downsample", lambda m: f"layers.{int(m[1]) - 1}.downsample", name)
            old[name.replace("head.fc.", "head.")] = value
        old["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(4, 4, dtype=torch.int64)
        for content in (old, {"model": old}, {"model": under("module.", old), "epoch": 1}):
            assert torch.equal(logits(loaded(content, tmp_path / "w.pt", make()), images), logits(model, images))
        with pytest.raises(
            ValueError, match=r"do not fit SwinTransformer: 5 missing: .*head.fc.bias; 4 unexpected: layers.0.down"
        ):
            loaded({name: value for name, value in old.items() if "head" not in name}, tmp_path / "w.pt", make())

    def test_positions_of_another_size_are_not_made_up(self, timm, tmp_path):
        small = {"embed_dim": 16, "depth": 1, "num_heads": 1, "num_classes": 3}
        model = timm.create_model("vit_tiny_patch16_224", img_size=64, **small)
        with pytest.raises(
            ValueError, match=r"1 of another shape: pos_embed \(expected \[1, 5, 16\], got \[1, 17, 16\]"
        ):
            loaded(
                model.state_dict(), tmp_path / "w.pt", timm.create_model("vit_tiny_patch16_224", img_size=32, **small)
            )


@pytest.mark.parametrize(
    ("arch", "pool"), [("mobilenet_v2", "tap"), ("resnet18", "gmp"), ("shufflenet_v2_x0_5", "gap")]
)
def test_another_pooling_takes_the_weights_of_the_network_as_it_is(tmp_path, arch, pool):
    whole = build(arch, 1000).eval()
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    model, config = models.load_network(tmp_path / "w.pt", f"{arch}-{pool}")
    assert not model.training
    assert config.arch == f"{arch}-{pool}"
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(model(images), models.to_gap(whole, pool)(images))
    save_checkpoint(tmp_path / "c.safetensors", model, config)
    again, _ = models.load_network(tmp_path / "c.safetensors", f"{arch}-{pool}")
    torch.testing.assert_close(again.state_dict(), model.state_dict())


def test_layers_that_no_weights_are_for_are_named(tmp_path):
    torch.save(build("vgg11", 1000).state_dict(), tmp_path / "w.pt")
    message = r"w\.pt has weights of vgg11, and none for what vgg11-gap has besides: features\.20\.weight, .*classifier"
    with pytest.raises(ValueError, match=message):
        models.load_network(tmp_path / "w.pt", "vgg11-gap")


def test_a_folder_stands_for_the_checkpoint_in_it(tmp_path):
    model, config = build("squeezenet1_1", 3), ModelConfig("squeezenet1_1", 3)
    with pytest.raises(FileNotFoundError, match="no file of weights"):
        models.load_network(tmp_path)
    for name in ("best.safetensors", "model.safetensors"):
        torch.nn.init.normal_(model.classifier[1].weight)
        save_checkpoint(tmp_path / name, model, config)
        for loaded in (models.load_network(tmp_path)[0], load_checkpoint(tmp_path)[0]):
            torch.testing.assert_close(loaded.state_dict(), model.state_dict())
        other = build("squeezenet1_1", 3)
        load_weights(other, tmp_path)
        torch.testing.assert_close(other.state_dict(), model.state_dict())
