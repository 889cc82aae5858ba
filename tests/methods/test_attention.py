"""Methods of attention: each beside its paper's formula in plain torch, on every way in which networks compute it."""

import math
from collections.abc import Callable

import pytest
import timm
import torch
import torch.nn.functional as F
import torchcam.methods
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import methods
from fastcam.methods import ATTENTION_METHODS, AttentionRelevance, AttentionRollout, GradCAM, LeGrad, observe
from fastcam.methods.matrices import KeepAttention
from fastcam.methods.running import WatchBatchStatistics
from fastcam.models import attention_blocks

# ---- a vision transformer in plain torch, which shows its matrices ---------------------------------------------------


class Written(nn.Module):
    """Attention that is written out, or by one of torch's fused functions."""

    def __init__(self, width: int, heads: int, kind: str) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.kind = nn.Linear(width, 3 * width), nn.Linear(width, width), heads, kind
        self.matrix: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            found = F.scaled_dot_product_attention(q, k, v)
        else:
            matrix = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
            matrix = matrix.softmax(dim=-1) if self.kind == "method" else F.softmax(matrix, -1)
            self.matrix = matrix
            found = matrix @ v
        return self.out(found.transpose(1, 2).flatten(2))


class Multi(nn.MultiheadAttention):
    def __init__(self, width: int, heads: int, weights: bool) -> None:
        super().__init__(width, heads, batch_first=True)
        self.weights = weights

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x, x, x, need_weights=self.weights)[0]


ATTENTION: dict[str, Callable[[], nn.Module]] = {
    "method": lambda: Written(16, 2, "method"),
    "function": lambda: Written(16, 2, "function"),
    "fused": lambda: Written(16, 2, "fused"),
    "multi-head": lambda: Multi(16, 2, weights=False),
    "multi-head with weights": lambda: Multi(16, 2, weights=True),
}


class Block(nn.Module):
    def __init__(self, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attn = nn.LayerNorm(16), nn.LayerNorm(16), attention
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Vit(nn.Module):
    """Pictures 16 x 24 in patches of 4; the score reads the first tokens, or all patches."""

    def __init__(self, kind: str = "method", read: str = "class", prefix: int = 1, blocks: int = 3) -> None:
        super().__init__()
        self.patch_embed, self.num_prefix_tokens, self.read = nn.Conv2d(3, 16, 4, 4), prefix, read
        self.tokens = nn.Parameter(torch.randn(1, prefix, 16))
        self.places = nn.Parameter(torch.randn(1, 24 + prefix, 16))
        self.blocks = nn.ModuleList(Block(ATTENTION[kind]()) for _ in range(blocks))
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)
        for block in self.blocks:  # so that attention differs from a mean
            for name, parameter in block.attn.named_parameters():
                if "weight" in name:
                    nn.init.normal_(parameter, std=0.4)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).mT
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.scores(self.norm(x))

    def scores(self, x: Tensor) -> Tensor:
        read = {"class": x[:, :1], "two": x[:, :2], "patches": x[:, self.num_prefix_tokens :]}[self.read]
        return self.head(read.mean(1))


def matrices_of(vit: Vit, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Logits, matrices and tokens of each block by hand, of the same weights with attention written out."""
    plain = Vit("method", vit.read, vit.num_prefix_tokens, len(vit.blocks))
    plain.load_state_dict(_as_written(vit.state_dict()))
    tokens: list[Tensor] = []
    for block in plain.blocks:
        block.register_forward_hook(lambda module, args, output: tokens.append(output))
    logits = plain(images)
    return logits, [block.attn.matrix for block in plain.blocks], tokens


def _as_written(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {"in_proj_weight": "qkv.weight", "in_proj_bias": "qkv.bias", "out_proj.": "out."}
    for old, new in names.items():
        state = {name.replace(old, new): value for name, value in state.items()}
    return state


def on_grid(rows: Tensor, prefix: int) -> Tensor:
    return rows[:, prefix:].unflatten(1, (4, 6))


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 24)


READS = [("class", 1), ("two", 2), ("class", 5), ("patches", 0), ("patches", 1)]


def rows_read(vit: Vit, between: Tensor) -> Tensor:
    """The mean of the rows that the score reads."""
    prefix = vit.num_prefix_tokens
    return {"class": between[:, :1], "two": between[:, :2], "patches": between[:, prefix:]}[vit.read].mean(1)


# ---- the papers' formulas --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize(("read", "prefix"), READS)
def test_rollout_is_the_papers(read, prefix, kind, images):
    vit = Vit(kind, read, prefix)
    _, matrices, _ = matrices_of(vit, images)
    for heads in ("mean", "max", "min"):
        flow = torch.eye(24 + prefix)
        for matrix in matrices:
            fused = {"mean": matrix.mean(1), "max": matrix.max(1).values, "min": matrix.min(1).values}[heads]
            mixed = 0.5 * fused + 0.5 * torch.eye(24 + prefix)
            flow = mixed / mixed.sum(2, keepdim=True) @ flow
        want = on_grid(rows_read(vit, flow), prefix).detach()
        got = AttentionRollout(vit, heads=heads).coarse(images, "all")
        assert got.shape == (3, 5, 4, 6)
        torch.testing.assert_close(got, want[:, None].expand_as(got), rtol=1e-5, atol=1e-7)


def test_rollout_discards_the_lowest(images):
    vit = Vit()
    _, matrices, _ = matrices_of(vit, images)
    for ratio in (0.001, 0.3, 0.9):
        flow = torch.eye(25).repeat(3, 1, 1)
        for matrix in matrices:
            for picture, fused in enumerate(matrix.mean(1).detach()):
                flat = fused.flatten().clone()
                lowest = flat.argsort()[: int(625 * ratio)]
                flat[lowest[lowest != 0]] = 0
                mixed = (flat.view(25, 25) + torch.eye(25)) / 2
                flow[picture] = mixed / mixed.sum(1, keepdim=True) @ flow[picture]
        got = AttentionRollout(vit, discard=ratio).coarse(images)
        torch.testing.assert_close(got, on_grid(flow[:, 0], 1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize(("read", "prefix"), READS)
def test_relevance_is_the_papers(read, prefix, kind, images):
    vit = Vit(kind, read, prefix)
    logits, matrices, _ = matrices_of(vit, images)
    got = AttentionRelevance(vit).coarse(images, "all")
    for label in range(5):
        gradients = torch.autograd.grad(logits[:, label].sum(), matrices, retain_graph=True)
        relevance = torch.eye(24 + prefix)
        for matrix, gradient in zip(matrices, gradients, strict=True):
            relevance = relevance + (gradient * matrix).clamp(min=0).mean(1) @ relevance
        want = on_grid(rows_read(vit, relevance), prefix).detach()
        torch.testing.assert_close(got[:, label], want, rtol=1e-4, atol=1e-6 * float(want.max()))


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize(("read", "prefix"), READS)
@pytest.mark.parametrize("tokens", ["mean", "as they are"])
@pytest.mark.parametrize("last", [1, 3])
def test_legrad_is_the_papers(last, tokens, read, prefix, kind, images):
    vit = Vit(kind, read, prefix)
    _, matrices, outputs = matrices_of(vit, images)
    got = LeGrad(vit, [f"blocks.{i}" for i in range(3 - last, 3)], tokens=tokens).coarse(images, "all")
    for label in range(5):
        want = torch.zeros(3, 4, 6)
        for matrix, output in list(zip(matrices, outputs, strict=True))[-last:]:
            given = vit.norm(output.mean(1)) if tokens == "mean" else None
            logits = vit.head(given) if given is not None else vit.scores(vit.norm(output))
            (gradient,) = torch.autograd.grad(logits[:, label].sum(), matrix, retain_graph=True)
            want += on_grid(gradient.relu().mean((1, 2)), prefix) / last
        torch.testing.assert_close(got[:, label], want, rtol=1e-4, atol=1e-6 * float(want.max()))


def torchvisions(blocks: int = 3) -> nn.Module:
    vit = torchvision.models.VisionTransformer(32, 8, blocks, 2, 16, 32, num_classes=5)
    nn.init.normal_(vit.heads.head.weight)
    return vit.eval()


@pytest.mark.parametrize("last", [1, 3])
def test_legrad_is_torchcams(last):
    vit, images = torchvisions(), torch.randn(2, 3, 32, 32)
    with torchcam.methods.LeGrad(vit, list(vit.encoder.layers)[-last:]) as peer:
        vit(images)
        (want,) = peer([3, 1], normalized=False)
    layers = None if last == 3 else f"encoder.layers.encoder_layer_{3 - last}"
    got = LeGrad(vit, layers).coarse(images, [3, 1])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * float(want.max()))


# ---- real networks ---------------------------------------------------------------------------------------------------

TIMM = {
    "vit_tiny_patch16_224": {"img_size": 64, "dynamic_img_size": True},
    "deit_tiny_distilled_patch16_224": {"img_size": 64},
    "beit_base_patch16_224": {"img_size": 64, "init_values": 1.0},
    "eva02_tiny_patch14_224": {"img_size": 56},
    "vit_small_patch14_reg4_dinov2": {"img_size": 56, "init_values": 1.0},
    "vit_base_patch16_siglip_224": {"img_size": 64},
}


@pytest.mark.parametrize("name", TIMM)
@pytest.mark.parametrize("fused", [True, False])
def test_every_method_on_timms_networks(name, fused):
    """However they compute attention, the matrices are those that their own modules see before dropout."""
    vit = timm.create_model(name, embed_dim=32, depth=3, num_heads=2, num_classes=4, **TIMM[name]).eval()
    nn.init.normal_(vit.head.weight)
    for block in vit.blocks:
        block.attn.fused_attn = fused
    side = TIMM[name]["img_size"]
    images = torch.randn(2, 3, side, side)
    assert attention_blocks(vit) == [f"blocks.{i}" for i in range(3)]
    matrices: list[Tensor] = []
    for block in vit.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_hook(lambda module, args, output: matrices.append(output))
    logits = vit(images)
    gradients = torch.autograd.grad(logits[:, 2].sum(), matrices)
    for block in vit.blocks:
        block.attn.fused_attn = fused
        block.attn.attn_drop._forward_hooks.clear()
    relevance = flow = torch.eye(matrices[0].shape[-1])
    for matrix, gradient in zip(matrices, gradients, strict=True):
        relevance = relevance + (gradient * matrix).relu().mean(1) @ relevance
        mixed = (matrix.mean(1) + torch.eye(len(flow[0]) if flow.dim() == 3 else len(flow))) / 2
        flow = mixed @ flow
    prefix = vit.num_prefix_tokens
    rows = {
        "deit_tiny_distilled_patch16_224": slice(0, 2),
        "vit_base_patch16_siglip_224": slice(0, None),
        "beit_base_patch16_224": slice(1, None),
        "eva02_tiny_patch14_224": slice(1, None),
    }.get(name, slice(0, 1))
    for method, between in ((AttentionRelevance, relevance), (AttentionRollout, flow)):
        want = between[:, rows].mean(1)[:, prefix:].unflatten(1, (4, 4)).detach()
        got = method(vit).coarse(images, 2)
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6 * float(want.max()))
    maps = LeGrad(vit)(images, top_k=2)
    assert maps.shape == (2, 2, side, side)
    assert maps.flatten(2).amax(-1).eq(1).all()


def test_swin_and_convolutions_are_refused():
    swin = torchvision.models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=3)
    for method in ATTENTION_METHODS.values():
        with pytest.raises(ValueError, match=r"one row of blocks with attention .* got features.1.0 … features.1.1"):
            method(swin)
        with pytest.raises(ValueError, match=r"'features.3.1' must be a block with one attention .* got \["):
            method(swin, ["features.3.1"], reshape_transform=lambda x: x.permute(0, 3, 1, 2))(torch.randn(2, 3, 64, 64))
        with pytest.raises(ValueError, match=r"one row of blocks with attention .* got none"):
            method(torchvision.models.resnet18())


class Foreign(Block):
    """Attention by a kernel that torch does not have."""

    def forward(self, x: Tensor) -> Tensor:
        with torch._C.DisableTorchFunction():
            return super().forward(x)


def test_attention_that_is_not_seen_is_refused(images):
    vit = Vit("fused")
    vit.blocks[1].__class__ = Foreign
    for method in ATTENTION_METHODS.values():
        with pytest.raises(ValueError, match=r"'blocks.1' must be a block .* got none for \[3, 25, 16\]"):
            method(vit)(images)


def test_tokens_that_come_later(images):
    class Late(Vit):
        """Half of the blocks see no class token."""

        def forward(self, images: Tensor) -> Tensor:
            x = self.patch_embed(images).flatten(2).mT
            x = self.blocks[0](x)
            x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
            return self.scores(self.norm(self.blocks[2](self.blocks[1](x))))

    vit = Late()
    for method in (AttentionRollout, AttentionRelevance):
        with pytest.raises(ValueError, match=r"blocks.0 is \[3, 2, 24, 24\] and that in blocks.1 \[3, 2, 25, 25\]"):
            method(vit)(images)
        assert method(vit, ["blocks.2", "blocks.1"])(images).any()
    assert LeGrad(vit)(images).any()


def test_wrong_options():
    with pytest.raises(ValueError, match="`heads` must be one of mean, max, min, got 'median'"):
        AttentionRollout(Vit(), heads="median")
    for ratio in (-0.1, 1, math.nan):
        with pytest.raises(ValueError, match=r"`discard` must be a fraction in \[0, 1\)"):
            AttentionRollout(Vit(), discard=ratio)
    with pytest.raises(ValueError, match="`tokens` must be one of mean, as they are, got 'cls'"):
        LeGrad(Vit(), tokens="cls")
    for method in ATTENTION_METHODS.values():
        with pytest.raises(fastcam.methods.frozen.FreezeError, match="takes gradients"):
            method(Vit()).freeze(torch.randn(1, 3, 16, 24))
        with pytest.raises(ValueError, match="eigen_smooth needs weighted channels"):
            method(Vit())(torch.randn(1, 3, 16, 24), eigen_smooth=True)


# ---- what a call leaves behind, and what it does not depend on -------------------------------------------------------


@pytest.mark.parametrize("kind", ATTENTION)
@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_a_call_leaves_nothing_behind(name, kind, images):
    vit, before = Vit(kind), images.clone()
    vit.train()
    state = {key: value.clone() for key, value in vit.state_dict().items()}
    cam = methods.create(name, vit)
    with torch.no_grad():
        want = cam(images, [0, 4, 2])
    with torch.inference_mode():
        assert torch.equal(cam(images, [0, 4, 2]), want)
    vit.requires_grad_(False)
    torch.testing.assert_close(cam(images, [0, 4, 2]), want)
    assert not want.requires_grad
    assert want.flatten(1).amax(1).eq(1).all()
    assert torch.is_grad_enabled()
    assert torch.equal(images, before)
    for module in vit.modules():
        assert module.training
        assert "forward" not in module.__dict__
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert all(torch.equal(value, state[key]) for key, value in vit.state_dict().items())
    assert all(parameter.grad is None for parameter in vit.parameters())
    torch.testing.assert_close(cam.outputs, vit.eval()(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_results_do_not_depend_on_batch_rank_or_company(name, images):
    vit = Vit("multi-head")
    cam = methods.create(name, vit)
    every = cam.coarse(images, "all")
    for label in range(5):
        one = torch.cat([cam.coarse(image[None], label) for image in images])
        torch.testing.assert_close(every[:, label], one, rtol=1e-4, atol=1e-6)
    cams = [cam, GradCAM(vit, "blocks.2.norm1"), *(methods.create(other, vit) for other in ATTENTION_METHODS)]
    run = observe(cams, images, "all")
    run.differentiate()
    torch.testing.assert_close(cam.coarse(run), every, rtol=1e-5, atol=1e-7)
    smooth = cam(images, [0, 1, 2], aug_smooth=True)
    assert smooth.shape == (3, 16, 24)
    run = observe(cams, images, [0, 1, 2], aug_smooth=True)
    torch.testing.assert_close(cam(run), smooth)
    boxes = cam.boxes(images, "all", threshold=[0.3, 0.6])
    assert boxes.shape == (3, 5, 2, 4)
    with pytest.raises(ValueError, match=r"the run did not keep the attention in blocks.0: pass its method"):
        cam(observe([GradCAM(vit, [f"blocks.{i}" for i in range(3)])], images))


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_callables_and_precisions(name, images):
    vit = Vit("fused")
    cam = methods.create(name, vit)
    want = cam(images, 3)
    torch.testing.assert_close(cam(images, lambda row: row[3] + 7), want)
    with torch.autocast("cpu", torch.bfloat16):
        assert F.cosine_similarity(cam(images, 3).flatten(), want.flatten(), 0) > 0.9
    exact = methods.create(name, Vit("fused").double())
    exact.model.load_state_dict(vit.state_dict())
    torch.testing.assert_close(exact(images.double(), 3), want, rtol=1e-3, atol=1e-3)
    half = methods.create(name, Vit("fused").bfloat16())
    half.model.load_state_dict(vit.state_dict())
    assert F.cosine_similarity(half(images.bfloat16(), 3).flatten(), want.flatten(), 0) > 0.9


@pytest.mark.parametrize("name", ATTENTION_METHODS)
def test_a_network_made_inside_inference_mode(name, images):
    with torch.inference_mode():
        torch.manual_seed(0)
        vit = Vit("multi-head")
    torch.manual_seed(0)
    torch.testing.assert_close(methods.create(name, vit)(images), methods.create(name, Vit("multi-head"))(images))


def test_blocks_in_wrappers_and_alone():
    vit = torchvisions(1)
    assert attention_blocks(vit) == ["encoder.layers.encoder_layer_0"]
    assert attention_blocks(nn.DataParallel(vit)) == attention_blocks(vit)
    wrapped = nn.Sequential(nn.Identity(), torchvisions(2))
    assert attention_blocks(wrapped) == [f"1.encoder.layers.encoder_layer_{i}" for i in range(2)]
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(LeGrad(wrapped)(images), LeGrad(wrapped[1])(images))


def test_masks_and_grouped_heads_are_those_of_the_fused_operation():
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    mask = torch.rand(5, 5) > 0.3
    mask.fill_diagonal_(True)
    for options in (
        {"is_causal": True},
        {"attn_mask": mask},
        {"attn_mask": torch.randn(2, 1, 5, 5), "scale": 0.3},
    ):
        want = F.scaled_dot_product_attention(q, k, k, enable_gqa=True, **options)
        with KeepAttention({}):
            got = F.scaled_dot_product_attention(q, k, k, enable_gqa=True, **options)
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_multi_head_attention_gives_what_it_gives(average, batched):
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True, add_zero_attn=True, batch_first=True)
    given = [torch.randn(3, count, width) for count, width in ((5, 8), (7, 6), (7, 4))]
    options = {"key_padding_mask": torch.rand(3, 7) > 0.6, "average_attn_weights": average}
    if not batched:
        given, options["key_padding_mask"] = [x[0] for x in given], options["key_padding_mask"][0]
    attention.eval()
    for needed in (True, False):
        want = attention(*given, need_weights=needed, **options)
        with KeepAttention({}), WatchBatchStatistics():
            got = attention(*given, need_weights=needed, **options)
        torch.testing.assert_close(got[0], want[0])
        assert got[1] is None if want[1] is None else torch.allclose(got[1], want[1], atol=1e-6)
