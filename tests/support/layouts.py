"""Small networks of all layouts, and Grad-CAM of their layers by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastcam import GradCAM

REFUSED = "nothing shows the positions of .* needs `reshape_transform`"


def by_hand(model: nn.Module, layer: str, images: Tensor, arrange=lambda output: output) -> Tensor:
    """Grad-CAM of the highest class, [N, h, w], by autograd; `arrange` gives [N, K, h, w]."""
    kept: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda module, args, output: kept.append(output))
    scores = model(images).amax(1).sum()
    hook.remove()
    maps, gradients = (arrange(t) for t in (kept[-1], torch.autograd.grad(scores, kept[-1])[0]))
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1).detach()


def last(output: Tensor) -> Tensor:
    return output.permute(0, 3, 1, 2)


def check(model: nn.Module, layer: str, images: Tensor, arrange=lambda output: output) -> None:
    model, images = model.double().eval(), images.double()
    want = by_hand(model, layer, images, arrange)
    cam = GradCAM(model, layer)
    got = cam.coarse(images)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-8 * float(want.abs().max()) + 1e-16)
    assert cam.grids == {layer: tuple(want.shape[1:])}


def refused(model: nn.Module, layer: str, images: Tensor) -> None:
    with pytest.raises(ValueError, match=REFUSED):
        GradCAM(model.double().eval(), layer)(images.double())


class Net(nn.Module):
    """A body, the mean over positions, and a head; the body gives [N, K, h, w], or [N, h, w, K]."""

    def __init__(self, body: nn.Module, channels: int, dims: tuple[int, int] = (2, 3)) -> None:
        super().__init__()
        self.body, self.head, self.dims, self.sizes = body, nn.Linear(channels, 3), dims, []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(tuple(images.shape))
        return self.head(self.body(images).tanh().mean(self.dims))


class Last(nn.Module):
    """Patches as [N, h, w, K], with what keeps them so."""

    def __init__(self, channels: int, stride: int, *rest: nn.Module) -> None:
        super().__init__()
        self.patches, self.rest = nn.Conv2d(3, channels, stride, stride), nn.Sequential(*rest)

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.patches(images).permute(0, 2, 3, 1))


class Residual(nn.Module):
    """ConvNeXt's block: channels last inside."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm, self.point = nn.LayerNorm(channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.point(self.norm(self.depthwise(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


class Mixer(nn.Module):
    """The same between layers with channels last."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.block = Residual(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Wrapper(nn.Module):
    """A user's own module around a network, that may bring its pictures to another size first."""

    def __init__(self, backbone: nn.Module, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.backbone, self.size = backbone, size

    def forward(self, images: Tensor) -> Tensor:
        return self.backbone(images if self.size is None else F.interpolate(images, self.size))


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 8, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.q_norm, self.attn_drop = nn.Linear(8, 24), nn.Identity(), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)  # [N, heads, L, 4] each
        matrix = self.attn_drop((self.q_norm(q) @ k.transpose(2, 3)).softmax(3))
        return (matrix @ v).transpose(1, 2).flatten(2)


class Tokens(nn.Module):
    """As timm names the parts of its vision transformers."""

    def __init__(self, prefix: int, late: bool = False) -> None:
        super().__init__()
        self.patch_embed, self.num_prefix_tokens, self.late = Patches(), prefix, late
        self.first = nn.Parameter(torch.randn(1, prefix, 8))
        self.blocks, self.norm = nn.Sequential(Attention(), nn.LayerNorm(8)), nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        patches, first = self.patch_embed(images), self.first.expand(len(images), -1, -1)
        if self.late:
            tokens = torch.cat((first, self.blocks(patches)), 1)
        else:
            tokens = self.blocks(torch.cat((first, patches), 1))
        return self.head(self.norm(tokens).sigmoid().mean(1))


class Windows(nn.Module):
    """Four windows of each picture as a batch of four times the size."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.flat, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.LayerNorm(4), nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = torch.cat(images.chunk(2, 2))
        maps = self.body(torch.cat(rows.chunk(2, 3)))
        tokens = self.flat(maps.flatten(2).transpose(1, 2))
        return self.head(tokens.tanh().mean(1)).unflatten(0, (4, -1)).mean(0)


def together(output: Tensor) -> Tensor:
    """[4·N, K, h, w] to [N, K, 2·h, 2·w]."""
    return torch.cat(torch.cat(output.chunk(2), 3).chunk(2), 2)


def flat_together(tokens: Tensor) -> Tensor:
    return together(tokens.transpose(1, 2).unflatten(2, (8, 8)))


class TokensFirst(nn.Module):
    """Tokens first and the batch second, as PyTorch's own attention has it by default."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 8, 8, 8), nn.LayerNorm(8)
        self.mix, self.head = nn.MultiheadAttention(8, 2), nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.norm(self.patches(images).flatten(2).permute(2, 0, 1))
        return self.head((tokens + self.mix(tokens, tokens, tokens, need_weights=False)[0]).mean(0))


def from_tokens_first(tokens: Tensor) -> Tensor:
    return tokens.permute(1, 2, 0).unflatten(2, (2, 4))
