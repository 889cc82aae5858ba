"""All methods where they apply on networks of torchvision, timm, Hugging Face and open_clip.

CAM, Grad-CAM, LayerCAM and Eigen-CAM are held to grad-cam; LeGrad, rollout and relevance to their papers' formulas, of
the matrices that the networks' own modules show. Networks have random weights. What turns a layer's output into a map
is written by hand, for each network, and given to the oracles alone: fastcam is to find it by itself, as it is to find
the layer.
"""

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest
import pytorch_grad_cam
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam.models import build, default_target_layer

CLASSES = 5
ORACLES = {
    "gradcam": (fastcam.GradCAM, pytorch_grad_cam.GradCAM),
    "layercam": (fastcam.LayerCAM, pytorch_grad_cam.LayerCAM),
    "eigencam": (fastcam.EigenCAM, pytorch_grad_cam.EigenCAM),
}
Reshape = Callable[[Tensor], Tensor]


def tokens(prefix: int, height: int = 0, width: int = 0) -> Reshape:
    """[N, prefix + h·w, K] to [N, K, h, w], a square by default."""

    def reshape(found: Tensor) -> Tensor:
        count = found.shape[1] - prefix
        rows, columns = (height, width) if height else (math.isqrt(count),) * 2
        assert rows * columns == count
        return found[:, prefix:].reshape(len(found), rows, columns, -1).permute(0, 3, 1, 2)

    return reshape


def last(found: Tensor) -> Tensor:
    """[N, h, w, K] to [N, K, h, w]."""
    return found.permute(0, 3, 1, 2)


class Case(NamedTuple):
    """A network: how it is made, the size of its pictures, the default layer and its layout, whether it has a CAM.

    Of one whose attention makes much of rounding, float64 is compared. `reads` are the tokens that a transformer whose
    blocks attend to all tokens makes its scores of.
    """

    make: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str
    reshape: Reshape | None = None
    cam: bool = True
    long: bool = True
    dtype: torch.dtype = torch.float32
    reads: slice | list[int] | None = None


CLASS, ALL, PATCHES = slice(0, 1), slice(0, None), slice(1, None)


def vision(name: str, **options) -> Callable[[], nn.Module]:
    return lambda: build(name, CLASSES) if not options else getattr(torchvision.models, name)(**options)


def timm(name: str, **options) -> Callable[[], nn.Module]:
    return lambda: pytest.importorskip("timm").create_model(name, num_classes=CLASSES, **options)


def hf(name: str, config: str = "", **options) -> Callable[[], nn.Module]:
    """A network of Hugging Face's that classifies, of a configuration of that family."""

    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        kind = getattr(transformers, f"{name}ForImageClassification")
        return kind(getattr(transformers, f"{config or name}Config")(num_labels=CLASSES, **options))

    return make


class Headed(nn.Module):
    """SigLIP's vision tower with a linear layer on the mean of its tokens."""

    def __init__(self) -> None:
        super().__init__()
        transformers = pytest.importorskip("transformers")
        self.tower = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**TINY))
        self.head = nn.Linear(TINY["hidden_size"], CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tower(images).last_hidden_state.mean(1))


def of_open_clip() -> nn.Module:
    """The smallest of open_clip's vision transformers, by the embeddings of five texts."""
    model = pytest.importorskip("open_clip").create_model("ViT-S-32-alt", load_weights=False)
    return fastcam.models.clip(model.visual, torch.randn(CLASSES, model.visual.output_dim))


TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
TINY |= {"image_size": 64, "patch_size": 16}
STAGES = {"hidden_sizes": [16, 24, 32, 40], "depths": [1, 1, 1, 1]}
SWIN = {"embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4, "image_size": 64}
HEADS = {"num_attention_heads": [1, 2, 2, 4], "image_size": 64}
DINO = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56, "patch_size": 14}
DEEP = {"img_size": 64, "depth": 2}

CASES = {
    "torchvision vit": Case(
        vision("vit_b_16", num_classes=CLASSES, image_size=64),
        (64, 64),
        "encoder.layers.encoder_layer_11.ln_1",
        tokens(1),
        cam=False,
        reads=CLASS,
    ),
    "torchvision swin": Case(vision("swin_t"), (64, 64), "permute"),
    "torchvision convnext": Case(vision("convnext_tiny"), (64, 64), "features", cam=False),
    "torchvision efficientnet": Case(vision("efficientnet_b0"), (64, 64), "features"),
    "torchvision mnasnet": Case(vision("mnasnet0_5"), (64, 64), "layers"),
    "torchvision regnet": Case(vision("regnet_x_400mf"), (64, 64), "trunk_output"),
    "torchvision inception": Case(vision("inception_v3"), (107, 107), "Mixed_7c"),
    "torchvision googlenet": Case(vision("googlenet"), (64, 64), "inception5b"),
    "timm deit distilled": Case(
        timm("deit_tiny_distilled_patch16_224", **DEEP),
        (64, 64),
        "blocks.1.norm1",
        tokens(2),
        cam=False,
        reads=slice(0, 2),
    ),
    "timm vit of any size": Case(
        timm("vit_tiny_patch16_224", dynamic_img_size=True, **DEEP),
        (48, 80),
        "blocks.1.norm1",
        tokens(1, 3, 5),
        cam=False,
        long=False,
        reads=CLASS,
    ),
    "timm beit": Case(
        timm("beit_base_patch16_224", **DEEP), (64, 64), "blocks.1.norm1", tokens(1), cam=False, reads=PATCHES
    ),
    "timm eva02": Case(
        timm("eva02_tiny_patch14_224", img_size=56, depth=2),
        (56, 56),
        "blocks.1.norm1",
        tokens(1),
        cam=False,
        reads=PATCHES,
    ),
    "timm dinov2 with registers": Case(
        timm("vit_small_patch14_reg4_dinov2", img_size=56, depth=2),
        (56, 56),
        "blocks.1.norm1",
        tokens(5),
        cam=False,
        reads=CLASS,
    ),
    "timm swin": Case(timm("swin_tiny_patch4_window7_224", img_size=56), (56, 56), "layers", last, cam=False),
    "timm swin v2": Case(
        timm("swinv2_tiny_window8_256", img_size=64), (64, 64), "layers", last, cam=False, dtype=torch.float64
    ),
    "timm convnext": Case(timm("convnext_atto"), (64, 64), "stages", cam=False),
    "timm pvt v2": Case(timm("pvt_v2_b0"), (64, 64), "stages"),
    "timm mobilevit": Case(timm("mobilevit_xxs"), (64, 64), "stages", cam=False),
    "hf vit": Case(hf("ViT", **TINY), (64, 64), "layernorm_before", tokens(1), cam=False, long=False, reads=CLASS),
    "hf vit of another size": Case(
        hf("ViT", **TINY), (48, 80), "layernorm_before", tokens(1, 3, 5), cam=False, reads=CLASS
    ),
    "hf deit": Case(hf("DeiT", **TINY), (64, 64), "layernorm_before", tokens(2), cam=False, reads=CLASS),
    "hf deit distilled, of another size": Case(
        lambda: pytest.importorskip("transformers").DeiTForImageClassificationWithTeacher(
            pytest.importorskip("transformers").DeiTConfig(num_labels=CLASSES, **TINY)
        ),
        (80, 48),
        "layernorm_before",
        tokens(2, 5, 3),
        cam=False,
        reads=slice(0, 2),
    ),
    "hf beit": Case(hf("Beit", **TINY), (64, 64), "layernorm_before", tokens(1), cam=False, reads=PATCHES),
    "hf beit of another size": Case(
        hf("Beit", use_relative_position_bias=True, **TINY),
        (80, 48),
        "layernorm_before",
        tokens(1, 5, 3),
        cam=False,
        reads=PATCHES,
    ),
    "hf dinov2": Case(hf("Dinov2", **DINO), (56, 84), "norm1", tokens(1, 4, 6), cam=False, long=False, reads=ALL),
    "hf dinov2 with registers": Case(
        hf("Dinov2WithRegisters", num_register_tokens=4, **DINO),
        (56, 56),
        "norm1",
        tokens(5),
        cam=False,
        reads=[0, *range(5, 21)],
    ),
    "hf swin": Case(hf("Swin", **SWIN), (64, 64), "swin.layernorm", tokens(0), long=False),
    "hf swin v2": Case(hf("Swinv2", **SWIN), (64, 64), "swinv2.layernorm", tokens(0)),
    "hf swin v2 of another size": Case(hf("Swinv2", **SWIN), (96, 128), "swinv2.layernorm", tokens(0, 12, 16)),
    "hf convnext": Case(hf("ConvNext", **STAGES), (64, 64), "encoder.stages.3", cam=False, long=False),
    "hf resnet": Case(
        hf("ResNet", embedding_size=16, layer_type="basic", **STAGES), (64, 64), "encoder.stages.3", long=False
    ),
    "hf regnet": Case(hf("RegNet", embedding_size=16, groups_width=8, **STAGES), (64, 64), "encoder.stages.3"),
    "hf pvt": Case(hf("Pvt", **STAGES, **HEADS), (64, 64), "layer_norm_1", tokens(1), cam=False),
    "hf pvt v2": Case(hf("PvtV2", **STAGES, **HEADS), (64, 64), "encoder.layers.3.layer_norm", tokens(0)),
    "hf mobilevit": Case(
        hf(
            "MobileViT",
            image_size=64,
            hidden_sizes=[24, 32, 40],
            neck_hidden_sizes=[8, 16, 16, 24, 32, 40, 64],
            num_attention_heads=2,
        ),
        (64, 64),
        "conv_1x1_exp",
    ),
    "hf siglip": Case(hf("Siglip", vision_config=TINY), (64, 64), "layer_norm1", tokens(0), cam=False, reads=ALL),
    "hf siglip's tower with a head": Case(Headed, (64, 64), "layer_norm1", tokens(0), cam=False, long=False, reads=ALL),
    "open_clip": Case(of_open_clip, (224, 224), "transformer.resblocks.11.ln_1", tokens(1), cam=False, reads=CLASS),
}


class Logits(nn.Module):
    """The network as grad-cam wants it: a tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return scores(self.model, images)


def lively(model: nn.Module, images: Tensor) -> nn.Module:
    """Weights and statistics that let maps differ, as those that training leaves do."""
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 and ("norm" in name or "gamma" in name or "scale" in name or "lambda" in name):
            nn.init.normal_(parameter, 1.0, 0.3)  # some start so small that blocks do nothing
        elif parameter.dim() == 2 and any(part in name for part in ("head", "classifier", "fc")):
            nn.init.normal_(parameter)  # some start with zeros
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        model.train()
        with torch.no_grad():
            Logits(model)(images)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum
    return model.eval()


def finished(coarse: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps in [0, 1] of coarse ones, in grad-cam's order."""
    low = coarse.relu()
    low = low - low.amin((1, 2), keepdim=True)
    low = low / (1e-7 + low.amax((1, 2), keepdim=True))
    maps = nn.functional.interpolate(low[:, None], size, mode="bilinear")[:, 0]
    maps = maps - maps.amin((1, 2), keepdim=True)
    return (maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)).float()


def snapshot(model: nn.Module) -> list[object]:
    state = [(name, tensor.clone()) for name, tensor in model.state_dict().items()]
    modules = [(module.training, len(module._forward_hooks), len(module._buffers)) for module in model.modules()]
    return [state, modules, [parameter.grad for parameter in model.parameters()]]


@contextlib.contextmanager
def shown(model: nn.Module, blocks: list[nn.Module]) -> Iterator[list[Tensor]]:
    """The matrices of attention [N, heads, L, L] in the blocks, as their own modules show them."""
    found: list[Tensor] = []

    def see(module: nn.Module, args: tuple, output: object) -> None:
        parts = output if isinstance(output, tuple) else (output,)
        found.extend(part for part in parts if isinstance(part, Tensor) and part.dim() == 4)

    with contextlib.ExitStack() as stack:
        for module in (module for block in blocks for module in block.modules()):
            if isinstance(module, nn.MultiheadAttention):  # torchvision's and open_clip's

                def forward(x, *args, module=module, **options):
                    inside = nn.functional.linear(x, module.in_proj_weight, module.in_proj_bias)
                    q, k, v = inside.unflatten(-1, (3, module.num_heads, -1)).permute(2, 0, 3, 1, 4)
                    matrix = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
                    found.append(matrix)
                    return module.out_proj((matrix @ v).transpose(1, 2).flatten(2)), None

                module.forward = forward
                stack.callback(module.__dict__.pop, "forward")
            elif hasattr(module, "fused_attn"):  # timm's
                stack.callback(setattr, module, "fused_attn", module.fused_attn)
                module.fused_attn = False
                stack.callback(module.attn_drop.register_forward_hook(see).remove)
            elif type(module).__name__.endswith(("SelfAttention", "Attention")) and hasattr(module, "config"):  # HF's
                stack.callback(setattr, module.config, "_attn_implementation", module.config._attn_implementation)
                module.config._attn_implementation = "eager"
                stack.callback(module.register_forward_hook(see).remove)
        yield found


def by_formula(case: Case, model: nn.Module, layer: str, images: Tensor, targets: list[int]) -> dict[str, Tensor]:
    """Coarse maps by the papers' formulas."""
    blocks = list(model.get_submodule(layer.rsplit(".", 2)[0]).children())
    tokens: list[Tensor] = []
    with contextlib.ExitStack() as stack:
        matrices = stack.enter_context(shown(model, blocks))
        for block in blocks:
            hook = block.register_forward_hook(lambda module, args, output: tokens.append(output))
            stack.callback(hook.remove)
        logits = scores(model, images)
    assert len(matrices) == len(tokens) == len(blocks)
    score = logits[[0, 1], targets].sum()
    gradients = torch.autograd.grad(score, matrices, retain_graph=True)
    length = matrices[0].shape[-1]
    flow = relevance = torch.eye(length, dtype=images.dtype).expand(2, -1, -1)
    for matrix, gradient in zip(matrices, gradients, strict=True):
        mixed = (matrix.mean(1) + torch.eye(length, dtype=images.dtype)) / 2
        flow = mixed / mixed.sum(-1, keepdim=True) @ flow
        relevance = relevance + (matrix * gradient).relu().mean(1) @ relevance
    sensitivity = []
    for matrix, given in zip(matrices, tokens, strict=True):
        mean = given.mean(1, keepdim=True).expand_as(given)
        hook = blocks[-1].register_forward_hook(lambda module, args, output, mean=mean: mean)
        (gradient,) = torch.autograd.grad(scores(model, images)[[0, 1], targets].sum(), matrix, retain_graph=True)
        hook.remove()
        sensitivity.append(gradient.relu().mean((1, 2)))
    rows = {
        "legrad": torch.stack(sensitivity).mean(0),
        "rollout": flow[:, case.reads].mean(1),
        "attention-relevance": relevance[:, case.reads].mean(1),
    }
    assert case.reshape is not None
    return {name: case.reshape(row[..., None])[:, 0].detach() for name, row in rows.items()}


def scores(model: nn.Module, images: Tensor) -> Tensor:
    """Logits, where a network of Hugging Face's must be asked to take images of another size."""
    own = getattr(getattr(model, "config", None), "image_size", None)
    other = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters and own is not None
    given = model(images, interpolate_pos_encoding=True) if other else model(images)
    return getattr(given, "logits", given)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if case.long else []) for name, case in CASES.items()]
)
def test_maps(name):
    case = CASES[name]
    torch.manual_seed(0)
    images = torch.randn(2, 3, *case.size)
    model, images = lively(case.make(), images).to(case.dtype), images.to(case.dtype)
    layer = default_target_layer(model)
    assert layer.endswith(case.layer)
    module, targets = model.get_submodule(layer), [3, 1]
    state, *before = snapshot(model)
    expected = Logits(model)(images).detach()
    for method, (ours, theirs) in ORACLES.items():
        cam = ours(model, order="grad-cam")
        found = cam(images, targets)
        assert found.shape == (2, *case.size)
        assert not found.requires_grad
        assert found.min() >= 0
        assert found.max() <= 1
        assert found.flatten(1).std(1).gt(0).any(), method
        assert list(cam.layers) == [layer]
        again, *after = snapshot(model)
        assert after == before
        assert all(torch.equal(a, b) for (_, a), (_, b) in zip(state, again, strict=True))
        torch.testing.assert_close(cam.outputs, expected, rtol=1e-4, atol=1e-5)
        with theirs(Logits(model), [module], case.reshape) as oracle:
            wanted = torch.from_numpy(
                oracle(images, [pytorch_grad_cam.utils.model_targets.ClassifierOutputTarget(c) for c in targets])
            )
        model.zero_grad()  # of which grad-cam leaves some
        if method == "eigencam":  # of which grad-cam leaves the sign open
            other = finished(-ours(model).coarse(images), case.size)
            off = torch.stack([found - wanted, other - wanted]).abs().amax((2, 3)).amin(0)
            assert off.max() <= 1e-4, off
        else:
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4, msg=method)
    if case.reads is None:
        with pytest.raises(ValueError, match="one row of blocks with attention"):
            fastcam.LeGrad(model)
    wanted_rows = {} if case.reads is None else by_formula(case, model, layer, images, targets)
    for method, wanted in wanted_rows.items():
        cam = fastcam.methods.create(method, model)
        found = cam.coarse(images, targets)
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.max()), msg=method)
        found = cam(images, targets)
        assert found.shape == (2, *case.size)
        assert not found.requires_grad
        assert found.min() == 0
        assert found.max() == 1
        torch.testing.assert_close(cam.outputs, expected, rtol=1e-4, atol=1e-5)
    again, *after = snapshot(model)
    assert after == before
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(state, again, strict=True))
    if case.cam:
        cam = fastcam.CAM(model)
        found, coarse = cam(images, targets), cam.coarse(images, targets)
        assert found.shape == (2, *case.size)
        assert not found.requires_grad
        linear = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
        # The class's logit is the mean of its map, and the bias.
        logits = coarse.mean((1, 2)) + linear.bias[targets].detach()
        torch.testing.assert_close(logits, expected[[0, 1], targets], rtol=1e-4, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="CAM needs global average pooling"):
            fastcam.CAM(model)(images, targets)
