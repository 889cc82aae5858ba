"""Networks of pictures and text, beside open_clip, transformers and grad-cam; their weights are random."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import pytorch_grad_cam
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import fastcam
from fastcam import models
from fastcam.methods import ATTENTION_METHODS, BOX_METHODS
from fastcam.models import ModelConfig, load_checkpoint, load_network, published, save_checkpoint
from fastcam.pictures import Preprocess
from tests.support.commands import refused, run
from tests.support.evaluations import CLASSES, write_wsol

open_clip = pytest.importorskip("open_clip")
transformers = pytest.importorskip("transformers")

NAMES = ("cat", "dog", "red ball")
PROMPTS = ("a photo of a {}", "a {}, drawn")
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Case(NamedTuple):
    """Two towers: the image tower's configuration, the default layer, and its layout by hand."""

    vision: dict[str, Any]
    layer: str
    prefix: int | None = None  # tokens before the patches; None where the layer gives maps
    bias: bool = False
    width: int = 24
    library: str = "open_clip"


CASES = {
    "vit": Case(
        {"image_size": 64, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        "visual.transformer.resblocks.1.ln_1",
        1,
    ),
    "resnet": Case({"image_size": 64, "layers": [1, 1, 1, 1], "width": 8}, "visual.layer4"),
    "timm siglip": Case(
        {"image_size": 64, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "visual.trunk.blocks.5.norm1",
        1,
        bias=True,
        width=64,
    ),
    "timm convnext": Case(
        {"image_size": 64, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
        "visual.trunk.stages",
    ),
    "hf clip": Case(
        TINY | {"image_size": 64, "patch_size": 16}, "vision_model.encoder.layers.1.layer_norm1", 1, library="CLIP"
    ),
    "hf siglip": Case(
        TINY | {"image_size": 64, "patch_size": 16},
        "vision_model.encoder.layers.1.layer_norm1",
        0,
        bias=True,
        width=32,
        library="Siglip",
    ),
}


class Whole(NamedTuple):
    """A network with its two towers, its tokenizer, and the folder that holds them."""

    case: Case
    model: nn.Module
    tokenizer: Any
    folder: Path

    @property
    def arch(self) -> str:
        return f"{'open_clip' if self.case.library == 'open_clip' else 'hf'}:{self.folder}"

    def embeddings(self, images: Tensor) -> Tensor:
        if self.case.library == "open_clip":
            return self.model.encode_image(images)
        return self.model.get_image_features(pixel_values=images).pooler_output

    def texts(self, texts: list[str]) -> Tensor:
        """Embeddings of length 1, as the library's documentation has it."""
        with torch.no_grad():
            if self.case.library == "open_clip":
                return self.model.encode_text(self.tokenizer(texts), normalize=True)
            padding = {"padding": "max_length", "max_length": 12} if self.case.bias else {"padding": True}
            tokens = self.tokenizer(texts, return_tensors="pt", **padding)
            return F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)


class Compared(nn.Module):
    """The same network for grad-cam, written by hand."""

    def __init__(self, whole: Whole, texts: Tensor) -> None:
        super().__init__()
        self.model, self.whole, self.texts = whole.model, whole, texts

    def forward(self, images: Tensor) -> Tensor:
        cosines = F.normalize(self.whole.embeddings(images), dim=-1) @ self.texts.T
        bias = self.model.logit_bias if self.whole.case.bias else 0
        return self.model.logit_scale.exp() * cosines + bias


def lively(model: nn.Module) -> nn.Module:
    """Weights that let texts and maps differ."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 and "logit" not in name and "visual" in name.replace("vision", "visual"):
            nn.init.normal_(parameter, 1.0, 0.3)
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm) and ("ln_final" in name or "text" in name):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def words() -> Any:
    """A tokenizer of the words that tests have, whose files are Hugging Face's."""
    from tokenizers import Tokenizer, models as kinds, normalizers, pre_tokenizers, processors

    known = ["<pad>", "<end>", "<begin>", "<unk>", "a", "photo", "of", "cat", "dog", "red", "ball", "drawn"]
    whole = Tokenizer(kinds.WordLevel({word: index for index, word in enumerate(known)}, unk_token="<unk>"))
    whole.normalizer, whole.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    ends = [("<begin>", 2), ("<end>", 1)]
    whole.post_processor = processors.TemplateProcessing(single="<begin> $A <end>", special_tokens=ends)
    tokens = {name: f"<{text}>" for name, text in (("pad_token", "pad"), ("eos_token", "end"), ("unk_token", "unk"))}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=whole, bos_token="<begin>", **tokens)


def of_open_clip(case: Case, folder: Path) -> nn.Module:
    """A network of open_clip's, and its folder as open_clip's hub has it."""
    custom = "timm_model_name" in case.vision
    config = {"embed_dim": case.width, "vision_cfg": case.vision, "text_cfg": TEXT}
    config |= {"init_logit_bias": -3.0} if case.bias else {}
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    model = lively(kind(**json.loads(json.dumps(config))))
    config |= {"custom_text": True} if custom else {}
    preprocess = {"mean": [0.5, 0.4, 0.3], "std": [0.25] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
    about = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(about))
    safetensors.torch.save_file(contiguous(model), folder / "open_clip_model.safetensors")
    return model


def contiguous(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in model.state_dict().items()}


def of_hugging_face(case: Case, folder: Path, tokenizer: Any) -> nn.Module:
    text = TINY | {"vocab_size": len(tokenizer), "max_position_embeddings": 12}
    text |= {"eos_token_id": 1, "bos_token_id": 2, "pad_token_id": 0}
    more = {"projection_dim": case.width} if case.library == "CLIP" else {}
    text |= {} if more else {"projection_size": case.width}
    config = getattr(transformers, f"{case.library}Config")(text_config=text, vision_config=case.vision, **more)
    model = lively(getattr(transformers, f"{case.library}Model")(config))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 64}, "crop_size": 64} if more else {"size": {"height": 64, "width": 64}}
    getattr(transformers, f"{case.library}ImageProcessor")(**sizes).save_pretrained(folder)
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Callable[[str], Whole]:
    """The networks by name, each made once."""
    known: dict[str, Whole] = {}

    def make(name: str) -> Whole:
        if name not in known:
            case, folder = CASES[name], tmp_path_factory.mktemp(name.replace(" ", "-"))
            torch.manual_seed(0)
            if case.library == "open_clip":
                model = of_open_clip(case, folder)
                tokenizer = open_clip.get_tokenizer("ViT-B-32", context_length=16)
            else:
                tokenizer = words()
                model = of_hugging_face(case, folder, tokenizer)
            known[name] = Whole(case, model.eval(), tokenizer, folder)
        return known[name]

    return make


@pytest.fixture
def whole(request, made) -> Whole:
    return made(request.param)


every = pytest.mark.parametrize("whole", CASES, indirect=True)


# ---- logits ----------------------------------------------------------------------------------------------------------


@every
def test_logits_are_the_networks_own(whole):
    net, config = load_network(None, whole.arch, class_names=NAMES)
    images, texts = torch.randn(2, 3, 64, 64), [f"a photo of a {name}" for name in NAMES]
    with torch.no_grad():
        if whole.case.library == "open_clip":
            wanted, _ = whole.model.get_logits(images, whole.tokenizer(texts))
        else:
            padding = {"padding": "max_length", "max_length": 12} if whole.case.bias else {"padding": True}
            tokens = whole.tokenizer(texts, return_tensors="pt", **padding)
            wanted = whole.model(pixel_values=images, **tokens).logits_per_image
    assert wanted.std() > 1e-3
    torch.testing.assert_close(models.run(net, images), wanted, rtol=1e-5, atol=1e-5)
    assert (config.class_names, config.prompts, config.num_classes) == (NAMES, ("a photo of a {}",), 3)
    assert config.scores == ("sigmoid" if whole.case.bias else None)
    assert not net.training
    assert not any("text" in name and name != "text_features" for name in net.state_dict())


@pytest.mark.parametrize("whole", ["vit", "hf clip"], indirect=True)
def test_several_prompts_are_averaged(whole):
    net, config = load_network(None, whole.arch, class_names=NAMES, prompts=PROMPTS)
    assert config.prompts == PROMPTS
    rows = [whole.texts([prompt.format(name) for prompt in PROMPTS]).mean(0) for name in NAMES]
    wanted = torch.stack([row / row.norm() for row in rows])
    torch.testing.assert_close(net.text_features, wanted, rtol=1e-5, atol=1e-6)
    if whole.case.library == "open_clip":
        theirs = open_clip.build_zero_shot_classifier(whole.model, whole.tokenizer, NAMES, PROMPTS)
        torch.testing.assert_close(net.text_features, theirs.T, rtol=1e-5, atol=1e-6)


@every
def test_a_tower_and_embeddings(whole):
    """The same by hand, of the whole network or of its image tower, in any mode and dtype."""
    images = torch.randn(2, 3, 64, 64)
    whole.model.train()
    texts = models.text_features(whole.model, whole.tokenizer, NAMES)
    assert whole.model.training
    whole.model.eval()
    torch.testing.assert_close(texts, whole.texts([f"a photo of a {name}" for name in NAMES]), rtol=1e-5, atol=1e-6)
    wanted = Compared(whole, texts)(images)
    net = models.clip(nn.DataParallel(whole.model), 7 * texts)
    torch.testing.assert_close(net(images), wanted, rtol=1e-5, atol=1e-5)
    scale, bias = whole.model.logit_scale.exp(), whole.model.logit_bias if whole.case.bias else None
    tower = net.tower
    torch.testing.assert_close(models.clip(tower, texts, scale=scale, bias=bias)(images), wanted, rtol=1e-5, atol=1e-5)
    cosines = F.normalize(whole.embeddings(images), dim=-1) @ texts.T
    torch.testing.assert_close(models.clip(tower, texts)(images), 100 * cosines, rtol=1e-5, atol=1e-4)
    double = models.clip(tower, texts.double())
    assert double.text_features.dtype == torch.float32
    assert "classes=3" in repr(double)


def test_any_tower_will_do():
    tower = models.build("resnet18", 8).eval()
    texts, images = torch.randn(5, 2, 8), torch.randn(2, 3, 64, 64)
    net = models.clip(tower, texts, scale=3, bias=-1)
    mean = F.normalize(texts, dim=-1).mean(1)
    wanted = 3 * F.cosine_similarity(tower(images)[:, None], mean[None], dim=-1) - 1
    torch.testing.assert_close(net(images), wanted)
    maps = fastcam.GradCAM(net)(images, [[4, 1, 0], [2, 2, 3]])
    assert maps.shape == (2, 3, 64, 64)
    assert models.default_target_layer(net) == "tower.layer4"
    assert models.default_stages(net) == ["tower.layer2", "tower.layer3", "tower.layer4"]


# ---- maps ------------------------------------------------------------------------------------------------------------

PEERS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGradCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
    "shapleycam": "ShapleyCAM",
    "scorecam": "ScoreCAM",
}


def reshape_of(case: Case) -> Callable[[Tensor], Tensor] | None:
    """[N, prefix + h·w, K] to [N, K, h, w]."""

    def reshape(tokens: Tensor) -> Tensor:
        side = math.isqrt(tokens.shape[1] - case.prefix)
        return tokens[:, case.prefix :].reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)

    return None if case.prefix is None else reshape


def finished(coarse: Tensor) -> Tensor:
    """Maps in [0, 1] of coarse ones, in grad-cam's order."""
    low = coarse.relu() - coarse.relu().amin((1, 2), keepdim=True)
    low = low / (1e-7 + low.amax((1, 2), keepdim=True))
    maps = F.interpolate(low[:, None], (64, 64), mode="bilinear")[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


@every
def test_maps_are_those_of_grad_cam(whole, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")
    torch.manual_seed(3)
    images, texts, targets = torch.randn(6, 3, 64, 64), torch.randn(6, whole.case.width), [2, 0, 5, 1, 3, 4]
    net = models.clip(whole.model, texts)
    module = whole.model.get_submodule(whole.case.layer)
    assert models.default_target_layer(net) == f"tower.{whole.case.layer.removeprefix('visual.')}"
    # In exact numbers, since of random networks little is left of gradients.
    net, images = net.double(), images.double()
    oracle = Compared(whole, net.text_features).double()
    try:
        for name, peer in PEERS.items():
            if name == "shapleycam" and whole.case is not CASES["timm convnext"]:
                continue  # grad-cam cannot do it where gradients are views, as of tokens
            options = {"shapleycam": {"score": "logit"}, "scorecam": {"align_corners": True}}.get(name, {})
            images = images[:2] if name == "scorecam" else images
            targets = targets[: len(images)]
            found = BOX_METHODS[name](net, order="grad-cam", **options)(images, targets).double()
            with getattr(pytorch_grad_cam, peer)(oracle, [module], reshape_of(whole.case)) as theirs:
                wanted = torch.from_numpy(theirs(images, [ClassifierOutputTarget(c) for c in targets])).double()
            assert wanted.flatten(1).std(1).gt(0).any(), name
            off = (found - wanted).abs()
            if name.startswith("eigen"):  # of which grad-cam leaves the sign open
                other = finished(-BOX_METHODS[name](net).coarse(images, targets).double())
                off = torch.minimum(off.amax((1, 2)), (other - wanted).abs().amax((1, 2)))
            assert off.max() <= 1e-4, (name, off.max())
    finally:
        whole.model.float()
        whole.model.zero_grad()


@every
def test_every_method(whole):
    torch.manual_seed(3)
    net, images = models.clip(whole.model, torch.randn(6, whole.case.width)), torch.randn(2, 3, 64, 64)
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    has_blocks = whole.case.prefix is not None
    for name, method in BOX_METHODS.items():
        if name == "cam":  # the cosine divides by the embedding's length
            with pytest.raises(ValueError, match="the logits are not the output of a linear layer"):
                method(net)(images)
            continue
        if name in ATTENTION_METHODS and not has_blocks:
            with pytest.raises(ValueError, match="must have one row of blocks with attention"):
                method(net)(images)
            continue
        maps = method(net)(images, [[0, 1, 2, 3], [2, 5, 4, 1]])  # several labels a picture
        assert maps.shape == (2, 4, 64, 64), name
        assert maps.min() >= 0
        assert maps.max() <= 1
        assert maps.flatten(2).std(2).gt(0).any(), name
        assert not maps.requires_grad
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())


def legrad_by_hand(visual: nn.Module, text: Tensor, image: Tensor) -> Tensor:
    """The paper for CLIP: of each block the tokens' mean, through the head, compared with the text; its gradient in the
    block's attention, positive, averaged over heads and queries, and over blocks."""
    tokens, total = visual._embeds(image), 0
    for block in visual.transformer.resblocks:
        width, heads = tokens.shape[-1], block.attn.num_heads
        given = block.ln_1(tokens)
        qkv = given @ block.attn.in_proj_weight.T + block.attn.in_proj_bias
        q, k, v = qkv.unflatten(-1, (3, heads, width // heads)).permute(2, 0, 3, 1, 4)
        attention = (q @ k.mT / math.sqrt(width // heads)).softmax(-1)
        tokens = tokens + block.attn.out_proj((attention @ v).transpose(1, 2).flatten(2))
        tokens = tokens + block.mlp(block.ln_2(tokens))
        embedding = visual.ln_post(tokens.mean(1)) @ visual.proj
        score = F.cosine_similarity(embedding, text[None])
        (gradient,) = torch.autograd.grad(score.sum(), attention, retain_graph=True)
        total = total + gradient.relu().mean((1, 2))[:, 1:]
    return (total / len(visual.transformer.resblocks)).unflatten(1, (4, 4)).detach()


def test_legrad_is_the_papers(made):
    whole = made("vit")
    net, _ = load_network(None, whole.arch, class_names=NAMES)
    images = torch.randn(2, 3, 64, 64)
    found = fastcam.LeGrad(net).coarse(images, "all") / net.scale
    for target, text in enumerate(net.text_features):
        wanted = legrad_by_hand(whole.model.visual, text, images)
        torch.testing.assert_close(found[:, target], wanted, rtol=1e-3, atol=1e-7)


# ---- a planted truth -------------------------------------------------------------------------------------------------


def emptied(tower: nn.Module) -> None:
    """All weights are zero, but those of normalisations."""
    for parameter in tower.parameters():
        nn.init.zeros_(parameter)
    for module in tower.modules():
        if isinstance(module, nn.LayerNorm | nn.BatchNorm2d):
            nn.init.ones_(module.weight)


def red(weight: Tensor) -> None:
    """The first channel of a convolution sees red in the middle of its window, or in all of a patch."""
    middle = weight.shape[-1] // 2 if weight.shape[-1] == 3 else slice(None)
    with torch.no_grad():
        for colour, value in enumerate((1.0, -0.5, -0.5)):
            weight[0, colour, middle, middle] = value


@torch.no_grad()
def planted(kind: str) -> nn.Module:
    """A tower whose embedding's first number is how much red there is; the second is always there."""
    vision = CASES[kind].vision | {"image_size": 128}
    if kind == "hf clip":
        config = transformers.CLIPVisionConfig(**vision, projection_dim=4)
        tower = transformers.CLIPVisionModelWithProjection(config)
        emptied(tower)
        inner = tower.vision_model
        red(inner.embeddings.patch_embedding.weight)
        inner.embeddings.class_embedding[1] = 1
        for layer in inner.encoder.layers:
            layer.self_attn.v_proj.weight[0, 0] = layer.self_attn.out_proj.weight[0, 0] = 1
        tower.visual_projection.weight[0, 0] = tower.visual_projection.weight[1, 1] = 1
        return tower.eval()
    config = {"embed_dim": 4, "vision_cfg": vision, "text_cfg": TEXT}
    tower = open_clip.CLIP(**config).visual
    emptied(tower)
    red(tower.conv1.weight)
    if kind == "vit":
        tower.class_embedding[1] = 1
        for block in tower.transformer.resblocks:
            block.attn.in_proj_weight[2 * 32, 0] = block.attn.out_proj.weight[0, 0] = 1
        tower.proj[0, 0] = tower.proj[1, 1] = 1
    else:
        tower.conv2.weight[0, 0, 1, 1] = tower.conv3.weight[0, 0, 1, 1] = 1
        for stage in (tower.layer1, tower.layer2, tower.layer3, tower.layer4):
            stage[0].downsample[1].weight[0, 0] = 1
        tower.attnpool.v_proj.weight[0, 0] = tower.attnpool.c_proj.weight[0, 0] = 1
        tower.attnpool.c_proj.bias[1] = 1
    return tower.eval()


@pytest.mark.parametrize("kind", ["vit", "resnet", "hf clip"])
def test_maps_peak_on_what_the_text_is_of(kind):
    """The text's channel is red, and only one patch of the picture is."""
    net = models.clip(planted(kind), torch.eye(4)[:2])
    images = torch.zeros(1, 3, 128, 128)
    row, column, side = (64, 32, 32)
    images[0, 0, row : row + side, column : column + side] = 1
    assert net(images)[0, 0] > net(torch.zeros_like(images))[0, 0] + 1
    names = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "eigencam", "ablationcam", "shapleycam"]
    names += [] if kind == "resnet" else ["legrad", "attention-relevance"]
    for name in names:
        found = BOX_METHODS[name](net)(images, 0)[0]
        peak = divmod(int(found.argmax()), 128)
        assert row <= peak[0] < row + side, (name, peak)
        assert column <= peak[1] < column + side, (name, peak)
        assert found[row : row + side, column : column + side].mean() > 2 * found.mean(), name
    left, top, right, bottom = fastcam.LayerCAM(net).boxes(images, 0, threshold=0.5)[0].tolist()
    assert abs((left + right) / 2 - (column + side / 2)) <= 4
    assert abs((top + bottom) / 2 - (row + side / 2)) <= 4


# ---- files -----------------------------------------------------------------------------------------------------------


@every
def test_a_checkpoint_needs_no_text_tower(whole, tmp_path, monkeypatch):
    net, config = load_network(None, whole.arch, class_names=NAMES, prompts=PROMPTS)
    save_checkpoint(tmp_path / "c.safetensors", net, config)
    monkeypatch.setattr(models.checkpoints, "load_two_towers", None)
    images = torch.randn(2, 3, 64, 64)
    for again, found in (load_checkpoint(tmp_path / "c.safetensors"), load_network(tmp_path / "c.safetensors")):
        assert found == config
        assert torch.equal(models.run(again, images), models.run(net, images))
        assert not again.training
    with safetensors.safe_open(tmp_path / "c.safetensors", "pt") as file:
        names = [*file.keys()]
    assert {name.split(".")[0] for name in names} == {"tower", "text_features", "scale", "bias"}
    for given in ({"prompts": ("{}",)}, {"class_names": ("a", "b", "c")}):
        with pytest.raises(ValueError, match="has the embeddings of its own texts"):
            load_network(tmp_path / "c.safetensors", **given)


def test_a_tokenizer_beside_the_weights(made, tmp_path):
    """As SigLIP's in open_clip have it: Hugging Face's, here of a folder, or beside a file of weights."""
    whole = made("vit")
    folder = copied(whole, tmp_path)
    with_config(folder, "text_cfg", hf_tokenizer_name="timm/Some-SigLIP", tokenizer_kwargs={"clean": "canonicalize"})
    words().save_pretrained(folder)
    net, _ = load_network(None, f"open_clip:{folder}", class_names=("Cat.", "red ball"))
    tokens = words()(["a photo of a cat", "a photo of a red ball"], padding="max_length", max_length=16)
    with torch.no_grad():
        wanted = whole.model.encode_text(torch.tensor(tokens["input_ids"]), normalize=True)
    torch.testing.assert_close(net.text_features, wanted, rtol=1e-5, atol=1e-6)


def test_a_text_tower_of_its_own(made, tmp_path):
    """Weights of a network whose text tower lies open, for one that has it as a part, as open_clip loads them."""
    whole = made("vit")
    folder = copied(whole, tmp_path)
    with_config(folder, custom_text=True)
    net, wanted = (load_network(None, arch, class_names=NAMES)[0] for arch in (f"open_clip:{folder}", whole.arch))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(net(images), wanted(images), rtol=1e-5, atol=1e-5)


def test_coca(tmp_path):
    """An image tower that gives tokens beside the embedding, which it pools by attention."""
    pooled = {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 8, "output_tokens": True}
    config = {"embed_dim": 24, "vision_cfg": CASES["vit"].vision | pooled}
    config |= {"text_cfg": TEXT | {"embed_cls": True, "output_tokens": True, "context_length": 15}}
    config |= {"multimodal_cfg": {"context_length": 15, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}
    config["multimodal_cfg"] |= {"attn_pooler_heads": 2}
    torch.manual_seed(0)
    model = lively(open_clip.CoCa(**json.loads(json.dumps(config))))
    about = {"model_cfg": config | {"custom_text": True}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(about))
    safetensors.torch.save_file(contiguous(model), tmp_path / "open_clip_model.safetensors")
    net, config = load_network(None, f"open_clip:{tmp_path}", class_names=NAMES)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = open_clip.get_tokenizer("ViT-B-32", context_length=15)([f"a photo of a {name}" for name in NAMES])
        cosines = model.encode_image(images) @ model.encode_text(tokens).T
    torch.testing.assert_close(net(images), model.logit_scale.exp() * cosines, rtol=1e-5, atol=1e-5)
    assert fastcam.LeGrad(net)(images, 1).shape == (2, 64, 64)
    save_checkpoint(tmp_path / "c.safetensors", net, config)
    assert torch.equal(load_checkpoint(tmp_path / "c.safetensors")[0](images), net(images))


@pytest.fixture
def tiny(made, tmp_path):
    """A name that open_clip knows, with a tag of weights that want a squashed picture."""
    (tmp_path / "Tiny-Test.json").write_text(
        json.dumps({"embed_dim": 24, "vision_cfg": CASES["vit"].vision, "text_cfg": TEXT})
    )
    open_clip.add_model_config(tmp_path / "Tiny-Test.json")
    tags = open_clip.pretrained._PRETRAINED
    tags["Tiny-Test"] = {"one": {"mean": (0.5,) * 3, "std": (0.5,) * 3}, "two": {"resize_mode": "squash"}}
    yield made("vit")
    del tags["Tiny-Test"]
    open_clip.factory._MODEL_CONFIGS.pop("Tiny-Test")
    open_clip.factory._MODEL_CONFIG_PATHS.pop()


def test_a_name_and_a_file_of_weights(tiny, tmp_path):
    """As trainers save it: under a key, with what DataParallel puts in."""
    images = torch.randn(2, 3, 64, 64)
    torch.save({"state_dict": {f"module.{n}": t for n, t in contiguous(tiny.model).items()}}, tmp_path / "w.pt")
    net, config = load_network(tmp_path / "w.pt", "open_clip:Tiny-Test.two", class_names=NAMES)
    wanted, _ = load_network(None, tiny.arch, class_names=NAMES)
    assert torch.equal(net(images), wanted(images))
    assert (config.arch, config.resize, config.size) == ("open_clip:Tiny-Test.two", "squash", 64)
    with pytest.warns(UserWarning, match=r"as one wants them, and GELU, but two want .* open_clip:Tiny-Test\.two"):
        assert published("open_clip:Tiny-Test")["mean"] == (0.5,) * 3
    with pytest.warns(UserWarning, match=r"and GELU, but openai, .* say which: open_clip:ViT-B-32\.openai"):
        published("open_clip:ViT-B-32")
    # By hand: a checkpoint is built by the name.
    by_hand = models.clip(tiny.model, wanted.text_features)
    save_checkpoint(tmp_path / "c.safetensors", by_hand, ModelConfig("open_clip:Tiny-Test.two", 3, size=64))
    assert torch.equal(load_checkpoint(tmp_path / "c.safetensors")[0](images), by_hand(images))


def picture(width: int, height: int) -> Image.Image:
    small = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("size", [(320, 240), (240, 320)])
@pytest.mark.parametrize("arch", ["ViT-B-32.openai", "ViT-B-16-SigLIP.webli", "ViT-H-14.dfn5b", "MobileCLIP-S1"])
def test_preprocessing_of_open_clip(arch, size):
    from open_clip.transform import PreprocessCfg, image_transform_v2, merge_preprocess_dict

    name, _, tag = arch.partition(".")
    side = open_clip.get_model_config(name)["vision_cfg"]["image_size"]
    about = open_clip.get_pretrained_cfg(name, tag or open_clip.list_pretrained_tags_by_model(name)[0])
    settings = PreprocessCfg(**merge_preprocess_dict(PreprocessCfg(size=side), about))
    wanted = image_transform_v2(settings, is_train=False)(picture(*size))
    found = Preprocess.of(ModelConfig("any", 1, **published(f"open_clip:{arch}")))(picture(*size))[0]
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("kind", ["CLIP", "Siglip"])
@pytest.mark.parametrize("form", ["today's", "in one file", "a number"])
def test_preprocessing_of_hugging_face(kind, form, made, tmp_path):
    whole = made(f"hf {kind.lower()}")
    given = json.loads((whole.folder / "preprocessor_config.json").read_text())
    if form == "a number" and kind == "CLIP":  # as OpenAI's have it
        given |= {"size": 64, "crop_size": 64, "feature_extractor_type": "CLIPFeatureExtractor"}
        del given["image_processor_type"]
    one = {"image_processor": given, "processor_class": f"{kind}Processor"}
    name = "processor_config.json" if form == "in one file" else "preprocessor_config.json"
    for path in whole.folder.iterdir():
        if "processor" not in path.name:
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / name).write_text(json.dumps(one if form == "in one file" else given))
    _, config = load_network(None, f"hf:{tmp_path}", class_names=NAMES)
    processor = getattr(transformers, f"{kind}ImageProcessor").from_pretrained(whole.folder)
    for size in ((320, 240), (240, 320)):
        wanted = processor(picture(*size), return_tensors="pt")["pixel_values"][0]
        found = Preprocess.of(config)(picture(*size))[0]
        assert found.shape == wanted.shape
        assert (found - wanted).abs().max() <= 1.5 / 255 / min(config.std)  # a level of 8 bits


# ---- what is refused -------------------------------------------------------------------------------------------------


def copied(whole: Whole, folder: Path) -> Path:
    for path in whole.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def with_config(folder: Path, part: str = "", **values: Any) -> None:
    """Change the network, or a tower, in an open_clip_config.json."""
    path = folder / "open_clip_config.json"
    found = json.loads(path.read_text())
    (found["model_cfg"][part] if part else found["model_cfg"]).update(values)
    path.write_text(json.dumps(found))


SPOILT = {
    "no names": ("vit", lambda folder: None, {"class_names": ()}, "needs the names of classes: --class-names"),
    "a blank name": ("vit", lambda folder: None, {"class_names": ("a", " ")}, "must not be blank, .* of class 1"),
    "no place": ("vit", lambda folder: None, {"prompts": ("a photo",)}, "`prompts` must be texts with {} .* 'a photo'"),
    "a long text": ("vit", lambda folder: None, {"prompts": ("{} and a cat" * 9,)}, "tokens, of which .* takes 16"),
    "a long text, hf": ("hf clip", lambda folder: None, {"prompts": ("a " * 20 + "{}",)}, "of which .* takes 12"),
    "too few names": ("vit", lambda folder: None, {"num_classes": 4}, "one name for each of the 4 classes"),
    "no weights": ("vit", lambda folder: (folder / "open_clip_model.safetensors").unlink(), {}, "there are no weights"),
    "other weights": ("vit", lambda folder: with_config(folder, "vision_cfg", width=16), {}, "of another shape"),
    "a larger network": ("vit", lambda folder: with_config(folder, "vision_cfg", width=10**6), {}, "cannot be built"),
    "more layers": ("vit", lambda folder: with_config(folder, "vision_cfg", layers=10**9), {}, "1000000000 layers"),
    "not a network": ("vit", lambda folder: with_config(folder, "vision_cfg", odd=1), {}, "cannot be built"),
    "no square": ("vit", lambda folder: with_config(folder, "vision_cfg", image_size=[64, 32]), {}, "no square"),
    "no JSON": ("vit", lambda folder: (folder / "open_clip_config.json").write_text("{"), {}, "is no JSON"),
    "no towers": (
        "vit",
        lambda folder: changed(folder / "open_clip_config.json", model_cfg={}),
        {},
        "must have model_cfg",
    ),
    "a text tower elsewhere": (
        "vit",
        lambda folder: with_config(folder, "text_cfg", hf_model_name="roberta-base"),
        {},
        "roberta-base of Hugging Face's, which open_clip would download",
    ),
    "a tokenizer elsewhere": (
        "vit",
        lambda folder: with_config(folder, "text_cfg", hf_tokenizer_name="bert-base-uncased"),
        {},
        r"bert-base-uncased of Hugging Face's, which is not downloaded: put its files, tokenizer\.json",
    ),
    "a tokenizer that reads": (
        "vit",
        lambda folder: with_config(folder, "text_cfg", tokenizer_kwargs={"bpe_path": "/etc/passwd"}),
        {},
        r"options that are not known: \['bpe_path'\]",
    ),
    "a mask too large": (
        "vit",
        lambda folder: with_config(folder, "text_cfg", width=1, heads=1, context_length=10**5),
        {},
        "and buffers",
    ),
    "an image tower elsewhere": (
        "timm convnext",
        lambda folder: with_config(folder, "vision_cfg", timm_model_name="hf-hub:some/one"),
        {},
        "'hf-hub:some/one', which timm does not have",
    ),
    "no tokenizer": ("hf clip", lambda folder: (folder / "tokenizer.json").unlink(), {}, "there is no tokenizer"),
    "no tokenizer's JSON": (
        "hf clip",
        lambda folder: (folder / "tokenizer.json").write_text("{"),
        {},
        "its tokenizer cannot be loaded",
    ),
    "no processor": (
        "hf clip",
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        {},
        r"there is no preprocessor_config\.json",
    ),
    "more layers, hf": (
        "hf clip",
        lambda folder: changed(
            folder / "config.json", text_config=TINY | {"num_hidden_layers": 10**9, "vocab_size": 13}
        ),
        {},
        "asks for 1000000000 layers",
    ),
    "no text features": (
        "hf clip",
        lambda folder: changed(folder / "config.json", model_type="blip"),
        {},
        "does not compare pictures with texts|weights",
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.filterwarnings("ignore")  # of transformers
def test_what_is_refused(spoilt, made, tmp_path):
    name, spoil, options, message = SPOILT[spoilt]
    whole = made(name)
    folder = copied(whole, tmp_path)
    spoil(folder)
    arch = whole.arch.replace(str(whole.folder), str(folder))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        load_network(None, arch, **({"class_names": NAMES} | options))


@pytest.mark.filterwarnings("ignore")  # of transformers
def test_no_code_of_a_folder_is_run(made, tmp_path):
    whole = made("hf clip")
    folder = copied(whole, tmp_path)
    (folder / "own.py").write_text("raise SystemExit('code was run')")
    changed(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.O", "own.O"]})
    changed(folder / "config.json", auto_map={"AutoModel": "own.Model", "AutoConfig": "own.Config"})
    net, _ = load_network(None, f"hf:{folder}", class_names=NAMES)
    torch.testing.assert_close(net.text_features, whole.texts([f"a photo of a {name}" for name in NAMES]))


def test_names_that_are_none(made, tmp_path):
    texts = {"class_names": NAMES}
    for arch, message in (
        ("open_clip:ViT-B-23", "unknown open_clip architecture 'ViT-B-23': did you mean|unknown open_clip .*ViT-B"),
        ("open_clip:no/folder", r"there is no no/folder/open_clip_config\.json"),
        ("open_clip:ViT-B-32.opanai", "open_clip has no weights 'opanai' of 'ViT-B-32'"),
        (
            "open_clip:ViT-B-32.laion2b_s34b_b79k",
            r"a file of weights must be given \(--weights\)",
        ),
        (
            "open_clip:roberta-ViT-B-32.laion2b_s12b_b32k",
            "roberta-base of Hugging Face's, which open_clip would download",
        ),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            load_network(None, arch, **texts)
    with pytest.raises(ValueError, match="`load_network` makes a classifier of given texts"):
        models.build("open_clip:ViT-B-32", 3)
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / "w.pt")
    with pytest.raises(ValueError, match="lie in its folder"):
        load_network(tmp_path / "w.pt", made("hf clip").arch, **texts)
    with pytest.raises(ValueError, match="are for networks of pictures and text"):
        load_network(tmp_path / "w.pt", "resnet18", prompts=PROMPTS)
    net = models.clip(models.build("resnet18", 4), torch.eye(4))
    with pytest.raises(ValueError, match=r"can build the image towers of open_clip's .* not ResNet of 'resnet18'"):
        save_checkpoint(tmp_path / "c.safetensors", net, ModelConfig("resnet18", 4))


def test_texts_that_are_none(made):
    whole = made("vit")
    for wrong, error in (
        (torch.zeros(3, 24), ValueError),
        (torch.full((3, 24), torch.nan), ValueError),
        (torch.ones(0, 24), ValueError),
        (torch.ones(24), TypeError),
        (torch.ones(3, 24, dtype=torch.int64), TypeError),
    ):
        with pytest.raises(error, match="`text_features` must be"):
            models.clip(whole.model, wrong)
    with pytest.raises(ValueError, match=r"must give embeddings \[1, 5\], .* got \[1, 24\]"):
        models.clip(whole.model, torch.ones(2, 5))(torch.zeros(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"is for pictures of \(64, 64\) pixels, got \[96, 96\]"):
        models.clip(whole.model, torch.ones(2, 24))(torch.zeros(1, 3, 96, 96))
    with pytest.raises(TypeError, match="has no text tower that is known"):
        models.text_features(models.build("resnet18"), None, NAMES)
    for prompts in ("a {}", ()):
        with pytest.raises(ValueError, match="`prompts` must be texts"):
            models.text_features(whole.model, whole.tokenizer, NAMES, prompts)
    with pytest.raises(ValueError, match="names of at least one class"):
        models.text_features(whole.model, whole.tokenizer, "cat")


@pytest.mark.parametrize("whole", ["vit", "hf clip"], indirect=True)
def test_a_checkpoint_cannot_ask_for_more_than_it_has(whole, tmp_path):
    net, config = load_network(None, whole.arch, class_names=NAMES)
    save_checkpoint(tmp_path / "c.safetensors", net, config)
    with safetensors.safe_open(tmp_path / "c.safetensors", "pt") as file:
        state, about = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())  # noqa: SIM118
    tower = json.loads(about["fastcam_tower"])
    larger = {"vision_cfg": tower.get("vision_cfg", {}) | {"width": 10**6}, "hidden_size": 10**6}
    for spoilt in (tower | larger, {"embed_dim": 24}, {"model_type": "none"}, [], None):
        changes = about | {"fastcam_tower": json.dumps(spoilt)}
        safetensors.torch.save_file(state, tmp_path / "d.safetensors", changes)
        with pytest.raises(ValueError, match="checkpoint"):
            load_checkpoint(tmp_path / "d.safetensors")


# ---- commands --------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    (tmp_path / "pictures").mkdir()
    for index in range(2):
        picture(96, 64 + 16 * index).save(tmp_path / "pictures" / f"{index}.png")
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path / "pictures"


@pytest.mark.parametrize("whole", ["vit", "hf siglip"], indirect=True)
def test_commands(whole, pictures, tmp_path):
    texts = ("--class-names", tmp_path / "names.txt", "--prompts", "a photo of a {}", "--prompts", "a {}, drawn")
    given = ("--arch", whole.arch, *texts)
    done = run("localize", pictures, *given, "--method", "legrad", "--top-k", 3, "--out", tmp_path / "run")
    assert done.exit_code == 0, done.output
    rows = pq.read_table(tmp_path / "run" / "boxes.parquet").to_pylist()
    net, config = load_network(None, whole.arch, class_names=NAMES, prompts=PROMPTS)
    for row in rows:
        image = Preprocess.of(config)(Image.open(pictures / f"{row['image_id']}"))[0][None]
        logits = net(image)[0].detach()
        scores = logits.sigmoid() if whole.case.bias else logits.softmax(0)
        assert row["class_name"] == NAMES[row["class_id"]]
        assert row["score"] == pytest.approx(float(scores[row["class_id"]]), rel=1e-3)
    assert {row["class_name"] for row in rows} == set(NAMES)

    wsol, names = write_wsol(tmp_path / "wsol", 4), tmp_path / "classes.txt"
    names.write_text("\n".join(f"class {index}" for index in range(CLASSES)))
    data = ("--arch", whole.arch, "--class-names", names)
    for command in ("evaluate", "compare"):
        method = ("--method", "gradcam", "--cases", 0) if command == "evaluate" else ("--methods", "gradcam,legrad")
        found = run(command, wsol, *data, *method, "--out", tmp_path / command)
        assert found.exit_code == 0, found.output
    save_checkpoint(tmp_path / "c.safetensors", net, config)
    for network in (given, ("--weights", tmp_path / "c.safetensors")):
        figures = tmp_path / f"figures-{len(network)}"
        found = run("explain", pictures, *network, "--targets", "red ball", "--method", "legrad", "--out", figures)
        assert found.exit_code == 0, found.output
    again = run("localize", pictures, "--weights", tmp_path / "c.safetensors", "--method", "legrad", "--top-k", 3)
    assert again.exit_code != 0  # --out is needed
    same = ("--weights", tmp_path / "c.safetensors", "--method", "legrad", "--top-k", 3, "--out", tmp_path / "same")
    assert run("localize", pictures, *same).exit_code == 0
    for row, other in itertools.zip_longest(rows, pq.read_table(tmp_path / "same" / "boxes.parquet").to_pylist()):
        assert row == other
    assert "needs the names of classes" in refused("localize", pictures, "--arch", whole.arch, "--out", tmp_path / "x")
    wrong = ("--arch", "resnet18", "--weights", tmp_path / "c.safetensors", "--prompts", "a {}")
    assert "has arch" in refused("explain", pictures, *wrong, "--out", tmp_path / "x")
