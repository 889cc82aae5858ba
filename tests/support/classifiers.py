"""Every family of torchvision's classifiers, wrapped and changed as people do, against autograd and formulas by hand.

`python -m tests.support.classifiers` runs all and prints a table; `tests/methods/test_networks.py` runs a few. A map is
equal to what is computed here from hooks and autograd, to 1e-5 of its largest value, or the method refuses. None is
silently something else. Ablation-CAM, a small difference of large numbers, is compared in float64, the others in
float32.
"""

import sys
import time
from collections.abc import Callable

import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from fastcam.methods import CAM, AblationCAM, GradCAM, LayerCAM, Method
from fastcam.models import build, default_target_layer, unwrap

# The smallest of each family, and the side of its pictures.
FAMILIES = {
    "alexnet": 96,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "googlenet": 96,
    "inception_v3": 139,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "resnet18": 64,
    "resnext50_32x4d": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "vgg11": 64,
    "vit_b_32": 224,
    "wide_resnet50_2": 64,
}
CHANNELS = 4  # that Ablation-CAM takes away, those that vary most


class Normalize(nn.Module):
    """The preprocessing that people put before a network."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, H, W]."""
        return (x - 0.5) / 0.25


class Changed(nn.Module):
    """Logits that are changed in place behind the network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, C]."""
        logits = self.network(x)
        logits[:, ::2].neg_()
        return logits.mul_(-2)


def last_weight(network: nn.Module) -> nn.Module:
    """The layer that gives the logits."""
    return [m for m in network.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def _pruned(network: nn.Module) -> nn.Module:
    prune.l1_unstructured(last_weight(network), "weight", 0.5)
    return network


def _parametrised(network: nn.Module) -> nn.Module:
    parametrizations.weight_norm(last_weight(network))
    return network


VARIANTS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "plain": lambda network: network,
    "normalised": lambda network: nn.Sequential(Normalize(), network),
    "parallel": nn.DataParallel,
    "compiled": torch.compile,
    "pruned": _pruned,
    "parametrised": _parametrised,
    "in place": Changed,
}
METHODS: dict[str, type[Method]] = {"cam": CAM, "gradcam": GradCAM, "layercam": LayerCAM, "ablationcam": AblationCAM}


def _maps(output: Tensor) -> Tensor:
    """[N, K, h, w] of a layer's output; of tokens without the class token."""
    if output.dim() == 4:
        return output
    side = int((output.shape[1] - 1) ** 0.5)
    return output[:, 1:].mT.unflatten(2, (side, side))


def _by_hand(model: nn.Module, layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Activations and gradients at the layer, [N, K, h, w], and logits."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        kept[:] = [output.detach().clone().requires_grad_()]
        return kept[0].clone()

    handle = layer.register_forward_hook(keep)
    logits = model(x)
    handle.remove()
    (gradients,) = torch.autograd.grad(logits.amax(1).sum(), kept)
    return _maps(kept[0]).detach(), _maps(gradients), logits.detach()


def _without(model: nn.Module, layer: nn.Module, x: Tensor, maps: Tensor, logits: Tensor) -> Tensor:
    """Ablation-CAM of the channels that vary most, a pass for each."""
    scores, classes = logits.max(1)
    result = torch.zeros_like(maps[:, 0])
    spread = maps.double().var((2, 3), correction=0)
    for n in range(len(x)):
        for k in spread[n].topk(min(CHANNELS, maps.shape[1])).indices.tolist():

            def ablate(module: nn.Module, args: tuple, output: Tensor, k: int = k) -> Tensor:
                output = output.clone()
                _maps(output)[:, k] = 0
                return output

            handle = layer.register_forward_hook(ablate)
            with torch.no_grad():
                score = model(x[n : n + 1])[0, classes[n]]
            handle.remove()
            result[n] += (scores[n] - score) / scores[n].abs() * maps[n, k]
    return result


def check(arch: str, variant: str) -> dict[str, str]:
    """Compare all methods on one network.

    Args:
        arch: of torchvision, a key of FAMILIES.
        variant: a key of VARIANTS.

    Returns:
        For each method "equal", "refused: " and the reason, or "WRONG: " and by how much.
    """
    torch.manual_seed(1)
    network, x = build(arch, 5).eval(), torch.randn(2, 3, FAMILIES[arch], FAMILIES[arch])
    head = last_weight(network)
    nn.init.normal_(head.weight)  # some begin with zeros
    layer = network.get_submodule(default_target_layer(network))
    model = VARIANTS[variant](network).eval()
    plain = unwrap(model)
    # As fastcam does: torch's attention rounds otherwise without a graph.
    torch.backends.mha.set_fastpath_enabled(False)
    maps, gradients, logits = _by_hand(plain, layer, x)
    found = {}
    for name, method in METHODS.items():
        options = {"top_channels": CHANNELS} if method is AblationCAM else {}
        if method is AblationCAM:
            network.double()
            x = x.double()
            maps, _, logits = _by_hand(plain, layer, x)
        try:
            coarse = method(model, [layer], **options).coarse(x)
        except ValueError as error:
            found[name] = f"refused: {error}"
            continue
        if method is CAM:
            top, classes = logits.max(1)
            weight = head.weight.detach().flatten(1)[classes]
            want = torch.einsum("nk,nkhw->nhw", weight, maps)
            rectified = torch.einsum("nk,nkhw->nhw", weight, maps.relu())
            want = min(want, rectified, key=lambda map: float((map - coarse).abs().max()))
            # The mean of the map says where the score comes from.
            off = coarse.mean((1, 2)) + head.bias.detach()[classes] - top
            if float(off.abs().max()) > 1e-5 * float(logits.abs().max() + want.abs().max()):
                found[name] = f"WRONG: mean and bias are {float(off.abs().max()):.2g} off the logit"
                continue
        elif method is GradCAM:
            want = (gradients.mean((2, 3), keepdim=True) * maps).sum(1)
        elif method is LayerCAM:
            want = (gradients.relu() * maps).sum(1)
        else:
            want = _without(plain, layer, x, maps, logits)
        off = float((coarse - want).abs().max() / want.abs().max())
        found[name] = "equal" if off <= 1e-5 else f"WRONG: {off:.2g} of its largest value off"
    torch.backends.mha.set_fastpath_enabled(True)
    return found


def main() -> int:
    """Run all; the number of wrong results."""
    print(f"{len(FAMILIES)} of torchvision {torchvision.__version__}, {torch.get_num_threads()} threads")
    wrong, begin, counts = 0, time.perf_counter(), {"equal": 0, "refused": 0, "WRONG": 0}
    reasons: dict[str, str] = {}
    for arch in FAMILIES:
        for variant in VARIANTS:
            found = check(arch, variant)
            kinds = {name: result.split(":")[0] for name, result in found.items()}
            for name, kind in kinds.items():
                counts[kind] += 1
                if kind != "equal":
                    reasons.setdefault(found[name][:150], f"{arch}, {variant}, {name}")
            wrong += sum(kind == "WRONG" for kind in kinds.values())
            print(f"{arch:20} {variant:13} " + "  ".join(f"{name} {kind}" for name, kind in kinds.items()), flush=True)
    print(f"{counts} in {time.perf_counter() - begin:.0f} s")
    for reason, first in reasons.items():
        print(f"first at {first}: {reason}")
    return wrong


if __name__ == "__main__":
    sys.exit(bool(main()))
