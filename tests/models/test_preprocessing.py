"""Mean and standard deviation: what weights want is taken or told, what cannot be is refused, in every room."""

import hashlib
import json
import urllib.parse

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

import fastcam
from fastcam import models, training
from fastcam.models import IMAGENET_MEAN, IMAGENET_STD, ModelConfig, build, load_network, load_weights, published
from fastcam.models.preprocessing import published_file
from fastcam.pictures import Preprocess
from fastcam.training import Settings, read_toml
from fastcam.training.train import _resolve
from tests.support.commands import run

HALF = (0.5, 0.5, 0.5)
CAFFE_MEAN, CAFFE_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
IMPOSSIBLE = [
    (CAFFE_MEAN, CAFFE_STD, r"`mean` must be in 0\.\.1.*divide mean and std by 255"),
    (CAFFE_MEAN, IMAGENET_STD, "divide mean and std by 255"),
    (CAFFE_MEAN, (1, 1, 1), "divide mean and std by 255"),
    ((127.5,) * 3, (127.5,) * 3, "divide mean and std by 255"),
    (IMAGENET_MEAN, CAFFE_STD, r"`std` must be that of colours in 0\.\.1.*divide by 255"),
    ((0, 0, 0), (255, 255, 255), r"`std` must be .*divide by 255"),
    ((0.485, 0.456, 103.53), IMAGENET_STD, "divide mean and std by 255"),
    ((-0.5, -0.5, -0.5), HALF, r"`mean` must be in 0\.\.1, as the colours are, got \(-0\.5"),
    ((-103.53, -116.28, -123.675), (1, 1, 1), r"`mean` must be in 0\.\.1"),
    (tuple(value / 255 for value in IMAGENET_MEAN), tuple(value / 255 for value in IMAGENET_STD), "255 twice"),
    (HALF, (0.5, 0, 0.5), "`std` must be"),
    (HALF, (0.5, -0.5, 0.5), "`std` must be"),
    (HALF, (0.5, 0.5, float("nan")), "`std` must be"),
    ((0.5, float("inf"), 0.5), HALF, "`mean` must be"),
]
LEGAL = [
    (IMAGENET_MEAN, IMAGENET_STD),
    (HALF, HALF),
    ((0, 0, 0), (1, 1, 1)),
    (HALF, (1.01, 1, 1)),
    ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),  # CLIP's
    ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3),  # Caffe's, as torchvision writes it for SSD's VGG16
    ((0.43, 0.411, 0.296), (0.213, 0.156, 0.143)),  # satellites'
    ((1, 1, 1), (1, 1, 1)),
    ((0.02, 0.02, 0.02), (0.05, 0.05, 0.05)),  # dark pictures
]


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


class TestImpossible:
    @pytest.mark.parametrize(("mean", "std", "message"), IMPOSSIBLE)
    def test_is_refused_by_whatever_takes_it(self, tmp_path, mean, std, message):
        toml = tmp_path / "settings.toml"
        toml.write_text(f"mean = {[float(value) for value in mean]}\nstd = {[float(value) for value in std]}\n")
        text = json.dumps({"arch": "resnet18", "num_classes": 3, "mean": mean, "std": std})
        for take in (
            lambda: models.check_normalization(mean, std),
            lambda: ModelConfig("resnet18", 3, mean=mean, std=std),
            lambda: ModelConfig.from_json(text),
            lambda: Preprocess(mean=mean, std=std),
            lambda: Preprocess(mean=list(mean), std=np.array(std)),
        ):
            with pytest.raises(ValueError, match=message):
                take()
        kind = message if np.isfinite([*mean, *std]).all() else "`(mean|std)` must be numbers"
        for take in (
            lambda: Settings(mean=mean, std=std),
            lambda: Settings.of(None, read_toml(toml)),
            lambda: Settings.of("catdog", {"mean": list(mean), "std": list(std)}),
            lambda: training.train("shapes", out=tmp_path / "out", mean=mean, std=std),
        ):
            with pytest.raises(ValueError, match=kind):
                take()
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(("mean", "std"), LEGAL)
    def test_legal_ones_are_not(self, mean, std):
        ModelConfig("resnet18", 3, mean=mean, std=std)
        settings = Settings.of(None, {"mean": list(mean), "std": list(std)})
        normalized = Preprocess(mean=settings.mean, std=settings.std).normalize(torch.full((1, 1, 1, 3), 255).byte())
        torch.testing.assert_close(normalized.flatten(), (1 - torch.tensor(mean)) / torch.tensor(std))

    def test_on_the_command_line(self, tmp_path, picture):
        torch.save(build("squeezenet1_1", 3).state_dict(), tmp_path / "w.pt")
        models.save_checkpoint(tmp_path / "c.safetensors", build("squeezenet1_1", 3), ModelConfig("squeezenet1_1", 3))
        (tmp_path / "s.toml").write_text('data = "shapes"\nmean = 127.5\n')
        plain = ("--weights", tmp_path / "w.pt", "--arch", "squeezenet1_1", "--num-classes", 3)
        saved, numbers = ("--weights", tmp_path / "c.safetensors"), ("--mean", "123.675,116.28,103.53", "--std", "58")
        for command in (
            ("localize", picture, *plain, *numbers),
            ("localize", picture, *saved, *numbers),
            ("explain", picture, *plain, "--mean", "127.5"),
            ("explain", picture, *saved, "--std", "127.5"),
            ("evaluate", picture.parent, *saved, *numbers),
            ("compare", picture.parent, *plain, "--std", "255"),
            ("train", "shapes", *numbers),
            ("train", "--config", tmp_path / "s.toml"),
        ):
            result = run(*command, "--out", tmp_path / "out")
            assert result.exit_code == 2, (command, result.output)
            assert "by 255" in result.stderr
            assert result.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()


class TestPublished:
    def test_is_what_torchvisions_weights_are_prepared_for(self):
        odd = set()
        for arch in torchvision.models.list_models(module=torchvision.models):
            for weights in torchvision.models.get_model_weights(arch):
                transforms = weights.transforms()
                if (tuple(transforms.mean), tuple(transforms.std)) != tuple(published(arch).values()):
                    odd.add(f"{arch} {weights.name}")
        # Those with an input transform of their own, and the trunk of a detector.
        assert odd == {"googlenet IMAGENET1K_V1", "inception_v3 IMAGENET1K_V1", "vgg16 IMAGENET1K_FEATURES"}
        assert published("efficientnet_v2_l")["mean"] == HALF
        for arch in ("vgg16-gap", "googlenet-tap", "nin", "resnet19"):
            assert published(arch) == {}

    @pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
    def test_what_the_first_convolution_is_given_is_what_torchvision_gives_it(self, arch):
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
        reference = torchvision.models.get_model(arch, weights=None, **options)
        frames = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
        theirs = reference._transform_input(Preprocess().normalize(frames))
        torch.testing.assert_close(Preprocess(**published(arch)).normalize(frames), theirs)

    def test_a_plain_file_of_googlenet(self, tmp_path, picture):
        whole = torchvision.models.googlenet(init_weights=False, aux_logits=True, transform_input=True)
        path = tmp_path / "googlenet.pth"
        torch.save(whole.state_dict(), path)
        # Whoever normalises pictures hears of it.
        with pytest.warns(UserWarning, match=r"GoogLeNet wants .* mean 0\.5 and std 0\.5, .*transform_input=True"):
            load_weights(build("googlenet"), path)
        with pytest.warns(UserWarning, match="mean 0.5 and std 0.5"):
            load_weights(nn.DataParallel(build("googlenet")), path)
        load_weights(whole, path)  # no warning: this one transforms its input
        # Runs take it and tell.
        with pytest.warns(
            UserWarning, match=r"mean 0\.5,0\.5,0\.5 and std 0\.5,0\.5,0\.5, as the published weights of googlenet"
        ):
            model, config = load_network(path, "googlenet")
        assert (config.mean, config.std, config.num_classes, model.training) == (HALF, HALF, 1000, False)
        with pytest.warns(UserWarning, match=r": std 0\.5,0\.5,0\.5, as"):
            assert load_network(path, "googlenet", mean=(0.1,) * 3)[1].std == HALF
        _, config = load_network(path, "googlenet", mean=IMAGENET_MEAN, std=IMAGENET_STD, size=64)
        assert (config.mean, config.std, config.size) == (IMAGENET_MEAN, IMAGENET_STD, 64)

    def test_networks_that_want_other_than_imagenets_are_known(self):
        from fastcam.models.preprocessing import wants_half

        for arch in torchvision.models.list_models(
            module=torchvision.models, include=["*net*v2*", "effi*", "goog*", "inc*"]
        ):
            with torch.device("cpu" if arch in ("googlenet", "inception_v3") else "meta"):
                assert wants_half(build(arch)) == (published(arch)["mean"] == HALF), arch
                assert not wants_half(build(arch, 5))

    def test_a_checkpoint_of_fastcam_stays_as_it_is(self, tmp_path):
        path = tmp_path / "c.safetensors"
        config = ModelConfig("googlenet", 1000, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        models.save_checkpoint(path, build("googlenet"), config)
        assert load_network(path)[1] == config
        assert load_network(path, "googlenet", size=64)[1].mean == IMAGENET_MEAN
        load_weights(build("googlenet"), path)
        with pytest.raises(ValueError, match="has arch googlenet, got resnet18"):
            load_network(path, "resnet18")

    def test_a_network_that_transforms_its_input_is_saved_as_one_that_need_not(self, tmp_path):
        whole = torchvision.models.googlenet(
            num_classes=3, init_weights=False, aux_logits=False, transform_input=True
        ).eval()
        path = tmp_path / "c.safetensors"
        models.save_checkpoint(path, whole, ModelConfig("googlenet", 3))
        model, config = models.load_checkpoint(path)
        frames = torch.randint(0, 256, (1, 64, 64, 3), dtype=torch.uint8)
        with torch.no_grad():
            theirs, ours = whole(Preprocess().normalize(frames)), model(Preprocess.of(config).normalize(frames))
        torch.testing.assert_close(ours, theirs)
        with pytest.raises(ValueError, match="takes ImageNet's mean and std, got"):
            models.save_checkpoint(path, whole, ModelConfig("googlenet", 3, mean=HALF, std=HALF))

    def test_other_networks_are_silent(self, tmp_path):
        torch.save(build("squeezenet1_1", 4).state_dict(), tmp_path / "w.pt")
        _, config = load_network(tmp_path / "w.pt", "squeezenet1_1", class_names=("a", "b", "c", "d"))
        assert config == ModelConfig("squeezenet1_1", 4, class_names=("a", "b", "c", "d"))
        torch.save(build("googlenet", 3).state_dict(), tmp_path / "w.pt")
        load_weights(build("googlenet", 3), tmp_path / "w.pt")
        with pytest.raises(ValueError, match=r"no checkpoint of fastcam, so --arch must name its network"):
            load_network(tmp_path / "w.pt")

    @pytest.mark.filterwarnings("default")
    @pytest.mark.parametrize("command", ["localize", "explain"])
    def test_on_the_command_line(self, tmp_path, picture, command):
        path = tmp_path / "w.pt"
        torch.save({"model": build("googlenet", 5).state_dict()}, path)
        options = ("--arch", "googlenet", "--num-classes", 5, "--weights", path, "--size", 96)
        result = run(command, picture, *options, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        line = f"fastcam: {path}: mean 0.5,0.5,0.5 and std 0.5,0.5,0.5, as the published weights of googlenet want; "
        assert result.stderr == f"{line}if these are others, give mean and std (--mean, --std)\n"
        given = ("--mean", "0.485,0.456,0.406", "--std", "0.229,0.224,0.225")
        assert run(command, picture, *options, *given, "--out", tmp_path / "given").stderr == ""
        if command == "localize":
            for out, mean in (("out", HALF), ("given", IMAGENET_MEAN)):
                assert json.loads((tmp_path / out / "plan.json").read_text())["settings"]["mean"] == list(mean)


@pytest.fixture
def publish(monkeypatch):
    """Let torchvision's weights be those in a file: their address ends in its digest."""

    def as_published(path, weights):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        monkeypatch.setattr(weights.value, "url", f"https://example.org/net-{digest[:8]}.pth")

    return as_published


class TestPublishedFiles:
    """Files that torchvision has published are known by their content, since nothing else proves what they are."""

    def test_addresses_end_in_a_digest_and_transforms_are_ours(self, publish, tmp_path):
        """Of all published weights of classifiers, pictures are prepared as torchvision's own transforms do."""
        path = tmp_path / "w.pt"
        noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
        picture, seen = Image.fromarray(noise).resize((320, 240)), {}
        prepared = 0
        for arch in torchvision.models.list_models(module=torchvision.models):
            for weights in torchvision.models.get_model_weights(arch):
                digest = urllib.parse.urlparse(weights.url).path.removesuffix(".pth").rpartition("-")[2]
                assert len(digest) >= 8
                assert int(digest, 16)
                path.write_text(str(weights))
                publish(path, weights)
                found = published_file(path, arch)
                if weights.name == "IMAGENET1K_FEATURES":  # no classifier
                    assert found is None
                    continue
                name, fields = found
                assert name == str(weights)
                assert published_file(path, f"{arch}-tap") == found
                transforms = weights.transforms()
                key = (*transforms.crop_size, *transforms.resize_size, transforms.interpolation.value, *transforms.mean)
                if arch in ("googlenet", "inception_v3"):  # which transform their input
                    assert fields["mean"] == fields["std"] == HALF
                    continue
                if seen.setdefault(key, fields) is fields:
                    got = Preprocess.of(ModelConfig(arch, 1000, **fields))(picture)[0]
                    torch.testing.assert_close(got, transforms(picture))
                    prepared += 1
                assert seen[key] == fields
        assert prepared > 15

    def test_bring_their_transforms_and_tell(self, publish, tmp_path):
        path = tmp_path / "mine.pth"
        torch.save(build("mobilenet_v3_large").state_dict(), path)
        assert load_network(path, "mobilenet_v3_large")[1] == ModelConfig("mobilenet_v3_large", 1000)
        publish(path, torchvision.models.MobileNet_V3_Large_Weights.IMAGENET1K_V2)
        told = r"mine.pth: pictures cropped from a shorter side of 232 pixels, as torchvision's transforms of these "
        told += r"weights, MobileNet_V3_Large_Weights.IMAGENET1K_V2, have it; else give --resize squash"
        with pytest.warns(UserWarning, match=told):
            _, config = load_network(path, "mobilenet_v3_large")
        assert config == ModelConfig("mobilenet_v3_large", 1000, resize="crop", resize_size=232)
        _, config = load_network(path, "mobilenet_v3_large", resize="squash")  # silent
        assert config == ModelConfig("mobilenet_v3_large", 1000)
        with pytest.warns(UserWarning, match="shorter side of 232"):
            _, config = load_network(path, "mobilenet_v3_large", mean=HALF, class_names=["c"] * 1000)
        assert (config.mean, config.std, config.resize_size) == (HALF, IMAGENET_STD, 232)
        settings = _resolve(None, {"arch": "mobilenet_v3_large", "weights": str(path)}, None)  # silent
        assert (settings.size, settings.resize) == (224, "squash")

    def test_of_other_sizes(self, publish, tmp_path):
        path = tmp_path / "w.pt"
        path.write_bytes(b"weights")
        publish(path, torchvision.models.EfficientNet_V2_L_Weights.IMAGENET1K_V1)
        with pytest.warns(UserWarning, match=r"mean 0\.5,.* and size 480 and .* 480 pixels and interpolation bicubic"):
            fields = models.preprocessing_of(path, "efficientnet_v2_l")
        assert fields["size"] == fields["resize_size"] == 480

    def test_are_not_known_by_their_name(self, tmp_path):
        """A file that has been saved anew may be anything."""
        path = tmp_path / "squeezenet1_1-b8a52dc0.pth"
        torch.save(build("squeezenet1_1").state_dict(), path)
        with pytest.warns(UserWarning, match=r"called as torchvision's SqueezeNet1_1_Weights.IMAGENET1K_V1, but i"):
            _, config = load_network(path, "squeezenet1_1")
        assert config == ModelConfig("squeezenet1_1", 1000)

    @pytest.mark.filterwarnings("default")
    def test_in_a_run(self, publish, tmp_path, picture):
        path = tmp_path / "w.pt"
        torch.save(build("squeezenet1_1").state_dict(), path)
        publish(path, torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1)
        options = ("--arch", "squeezenet1_1", "--weights", path, "--method", "gradcam")
        for given, resize in (((), "crop"), (("--resize", "squash"), "squash")):
            result = run("localize", picture, *options, *given, "--out", tmp_path / resize)
            assert ("SqueezeNet1_1_Weights.IMAGENET1K_V1" in result.stderr) == (resize == "crop")
            kept = pq.read_schema(tmp_path / resize / "boxes.parquet").metadata[b"fastcam"]
            for settings in (json.loads((tmp_path / resize / "plan.json").read_text())["settings"], json.loads(kept)):
                assert (settings["resize"], settings.get("resize_size")) == (resize, 256 if resize == "crop" else None)

    @pytest.mark.filterwarnings("default")
    def test_evaluation_resizes_as_its_protocol_does(self, publish, tmp_path):
        """And has no word of how pictures would be cropped."""
        path = tmp_path / "w.pt"
        torch.save(build("squeezenet1_1").state_dict(), path)
        publish(path, torchvision.models.SqueezeNet1_1_Weights.IMAGENET1K_V1)
        Image.new("RGB", (40, 30)).save(tmp_path / "a.png")
        (tmp_path / "masks").mkdir()
        options = ("--arch", "squeezenet1_1", "--weights", path, "--out", tmp_path / "out")
        assert "crop" not in run("evaluate", tmp_path / "masks", *options).stderr


class TestTraining:
    @staticmethod
    def settings(base=None, saved=None, **values) -> Settings:
        return _resolve(base, values, saved)

    @pytest.fixture
    def checkpoint(self, tmp_path):
        path = tmp_path / "c.safetensors"
        config = ModelConfig("shufflenet_v2_x0_5", 2, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
        models.save_checkpoint(path, build("shufflenet_v2_x0_5", 2), config)
        return str(path)

    def test_takes_the_mean_of_a_checkpoint(self, checkpoint):
        options = {"weights": checkpoint, "arch": "shufflenet_v2_x0_5"}
        settings = self.settings(**options)
        assert (settings.mean, settings.std) == ((0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
        assert self.settings(**options, mean=list(HALF)).mean == HALF
        assert self.settings(**options, mean=list(IMAGENET_MEAN)).mean == IMAGENET_MEAN
        assert self.settings("catdog", **options).mean == (0.4876, 0.4544, 0.4165)  # the preset's own
        assert self.settings("imagenet-gap", **options).mean == (0.4, 0.5, 0.6)
        assert self.settings(arch="shufflenet_v2_x0_5").mean == IMAGENET_MEAN

    def test_takes_what_published_weights_want_and_tells(self, tmp_path):
        torch.save({}, tmp_path / "w.pt")
        for arch in ("googlenet", "googlenet-gap", "efficientnet_v2_l"):
            with pytest.warns(
                UserWarning, match=r"mean 0\.5,0\.5,0\.5 and std 0\.5,0\.5,0\.5, as the published weights"
            ):
                assert self.settings(arch=arch, weights=str(tmp_path / "w.pt")).mean == HALF
        assert self.settings(arch="resnet18", weights=str(tmp_path / "w.pt")).mean == IMAGENET_MEAN
        assert self.settings(arch="googlenet").mean == IMAGENET_MEAN

    def test_goes_on_with_the_same(self, checkpoint):
        before = self.settings(weights=checkpoint, arch="shufflenet_v2_x0_5")
        saved = {"weights": "gone.pt"} | {name: value for name, value in vars(before).items() if name != "weights"}
        assert self.settings(saved=saved).mean == before.mean
        again = self.settings(Settings(weights="gone.pt", arch="shufflenet_v2_x0_5", lr=before.lr), saved)
        assert again.mean == before.mean
        with pytest.raises(ValueError, match=r"keeps its settings; it would change mean"):
            self.settings(saved=saved, mean=HALF)

    def test_the_checkpoint_of_a_training_has_it(self, checkpoint, tmp_path):
        options = {"size": 32, "epochs": 1, "batch_size": 8, "arch": "shufflenet_v2_x0_5", "output_stride": None}
        result = fastcam.train("shapes", out=tmp_path / "t", steps=1, weights=checkpoint, **options)
        assert result.config.mean == (0.4, 0.5, 0.6)
        assert tuple(read_toml(result.settings)["std"]) == (0.2, 0.3, 0.2)


class TestTimm:
    @pytest.fixture(autouse=True)
    def timm(self):
        return pytest.importorskip("timm")

    def test_published_is_what_the_tag_says(self):
        fields = published("timm/vit_tiny_patch16_224.augreg_in21k")
        resized = {"size": 224, "resize": "crop", "resize_size": 248, "interpolation": "bicubic"}
        assert fields == {"mean": HALF, "std": HALF, "num_classes": 21843, **resized}
        assert published("timm/vit_tiny_patch16_384")["size"] == 384
        assert published("timm/resnet18.a1_in1k")["mean"] == IMAGENET_MEAN
        assert published("timm/vit_tiny_patch16_224.foo") == published("timm/foo") == {}

    def test_plain_weights(self, timm, tmp_path):
        name = "vit_tiny_patch16_224.augreg_in21k_ft_in1k"
        torch.save({"model": timm.create_model(name, num_classes=3).state_dict()}, tmp_path / "w.pt")
        with pytest.warns(UserWarning, match=r"mean 0\.5,0\.5,0\.5 .*published weights of timm/vit_tiny"):
            _, config = load_network(tmp_path / "w.pt", f"timm/{name}", num_classes=3)
        cropped = {"resize": "crop", "resize_size": 248, "interpolation": "bicubic"}
        assert config == ModelConfig(f"timm/{name}", 3, mean=HALF, std=HALF, **cropped)
        with pytest.warns(UserWarning, match="interpolation bicubic"):
            _, config = load_network(
                tmp_path / "w.pt", f"timm:{name}", num_classes=3, mean=HALF, std=HALF, resize="squash"
            )
        assert config == ModelConfig(f"timm/{name}", 3, mean=HALF, std=HALF, interpolation="bicubic")

    def test_a_training_starts_from_the_classes_of_the_tag(self, timm, tmp_path):
        name = "vit_tiny_patch16_224.augreg_in21k"
        torch.save(timm.create_model(name, num_classes=21843).state_dict(), tmp_path / "w.pt")
        started, given = models.start_from(tmp_path / "w.pt", f"timm/{name}", 3)
        assert set(dict(started.named_parameters())) - given == {"head.weight", "head.bias"}

    def test_a_network_without_a_configuration(self, timm, tmp_path, picture):
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3)
        assert Preprocess.of(None, nn.DataParallel(model)) == Preprocess(224, mean=HALF, std=HALF)
        assert Preprocess.of(None, timm.create_model("vit_tiny_patch16_384")).size == 384
        assert Preprocess.of(None, build("squeezenet1_1")) == Preprocess.of(None) == Preprocess()
        assert Preprocess.of(ModelConfig("timm/vit_tiny_patch16_224", 3), model) == Preprocess()
        fastcam.localize(model, picture, out=tmp_path / "run", method="gradcam")
        assert json.loads((tmp_path / "run" / "plan.json").read_text())["settings"]["mean"] == list(HALF)
