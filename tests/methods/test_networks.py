"""Every method on every kind of network, and networks in wrappers, compiled, frozen or in odd states."""

import gc
import resource
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

import fastcam
from fastcam import methods
from fastcam.methods import (
    ATTENTION_METHODS,
    ATTRIBUTIONS,
    BOX_METHODS,
    CAM,
    METHODS,
    GradCAM,
    GuidedBackprop,
    LayerCAM,
    Saliency,
)
from fastcam.models import build, default_target_layer, swin_reshape, vit_reshape
from tests.support import classifiers

ARCHS = [
    "resnet18",
    "resnet50",
    "vgg16",
    "vgg16-gap",
    "googlenet-gap",
    "densenet121",
    "mobilenet_v2",
    "vit_b_16",
    "swin_t",
]
REFUSED = {
    ("cam", "vgg16"): r"CAM needs global average pooling .* 'features.29', but in VGG the last linear layer is given",
    ("cam", "vit_b_16"): "CAM needs global average pooling .* in VisionTransformer the last linear layer",
    ("guided-backprop", "vit_b_16"): "VisionTransformer uses none",
    ("guided-gradcam", "vit_b_16"): "VisionTransformer uses none",
    ("guided-backprop", "swin_t"): "SwinTransformer uses none",
    ("guided-gradcam", "swin_t"): "SwinTransformer uses none",
}
FEW = {"scorecam": {"top_channels": 2}, "ablationcam": {"top_channels": 2}}


def lively(model: nn.Module, images: Tensor) -> nn.Module:
    """Fit BatchNorm to the images, which would else make all maps alike."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            model.train()(images)
    return model.eval()


@pytest.fixture(scope="module", params=ARCHS)
def network(request: pytest.FixtureRequest) -> tuple[str, nn.Module, Tensor]:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 64)
    if request.param == "vit_b_16":
        model = torchvision.models.vit_b_16(num_classes=5, image_size=64)
        nn.init.normal_(model.heads.head.weight)  # torchvision's is zero, and so would be all gradients
    else:
        model = build(request.param, 5)
    return request.param, lively(model, images), images


@pytest.mark.parametrize("name", BOX_METHODS | ATTRIBUTIONS)
def test_every_method_on_every_network(name, network):
    arch, model, images = network
    if name in ATTENTION_METHODS and arch != "vit_b_16":
        with pytest.raises(ValueError, match="must have one row of blocks with attention among all tokens"):
            methods.create(name, model)
        return
    method = methods.create(name, model, **FEW.get(name, {}))
    if (name, arch) in REFUSED:
        with pytest.raises(ValueError, match=REFUSED[name, arch]):
            method(images)
        return
    values = method(images, [4, 1])
    colours = (3,) if name.startswith("guided") else ()
    assert values.shape == (2, *colours, *images.shape[2:])
    assert values.dtype == torch.float32
    assert values.isfinite().all()
    assert not values.requires_grad
    assert method.outputs.shape == (2, 5)
    # Two channels may give a map that is all negative, and then zero; a product with one is zero.
    if name not in ("ablationcam", "refinecam"):
        assert values.flatten(1).std(1).gt(0).any()
    assert not any(module._forward_hooks for module in model.modules())
    if name not in ATTRIBUTIONS:
        assert values.min() >= 0
        assert values.max() <= 1


@pytest.mark.parametrize("layer", ["encoder.layers.encoder_layer_0", "encoder.ln"])
def test_vision_transformer_by_hand(layer):
    model = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(model.heads.head.weight)
    images = torch.randn(1, 3, 32, 32)
    tokens = []
    handle = model.get_submodule(layer).register_forward_hook(lambda m, i, o: tokens.append(o))
    logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits[0, 2], tokens)
    features, gradient = (t[0, 1:].T.reshape(16, 4, 4).detach() for t in (tokens[0], gradient))
    want = (gradient.mean((1, 2))[:, None, None] * features).sum(0)
    got = GradCAM(model, layer).coarse(images, 2)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()) + 1e-12)


def test_reshape_transforms():
    tokens = torch.randn(2, 1 + 6, 5)
    assert torch.equal(vit_reshape(tokens, (2, 3))[1, :, 1, 2], tokens[1, 6])
    assert vit_reshape(torch.randn(2, 9, 5), prefix=0).shape == (2, 5, 3, 3)
    with pytest.raises(ValueError, match=r"\[N, 1 \+ h·w, K\] with h x w = a square, got \[2, 7, 5\]"):
        vit_reshape(tokens)
    assert swin_reshape(torch.randn(2, 3, 4, 5)).shape == (2, 5, 3, 4)
    with pytest.raises(ValueError, match=r"gives \[N, h, w, K\], got \[2, 7, 5\]"):
        swin_reshape(tokens)


def test_stages_of_a_swin_transformer():
    model = build("swin_t", 3).eval()
    images = torch.randn(1, 3, 64, 64)
    for layer, side in (("features.1", 16), ("features.3", 8), ("features.7", 2), ("norm", 2), ("permute", 2)):
        assert GradCAM(model, layer).coarse(images, 1).shape == (1, side, side)
    assert GradCAM(model, ["features.3", "features.5"], fuse="max")(images).shape == (1, 64, 64)


# ---- wrappers and states ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(3)
    images = torch.randn(2, 3, 64, 64)
    return lively(build("resnet18", 5), images), images


CALLS = [(GradCAM, {"target_layers": "layer3"}), (CAM, {}), (GuidedBackprop, {}), (Saliency, {})]


@pytest.mark.parametrize(("method", "options"), CALLS)
def test_data_parallel(method, options, resnet):
    model, images = resnet
    want = method(model, **options)(images, 2)
    wrapped = nn.DataParallel(model)
    assert torch.equal(method(wrapped, **options)(images, 2), want)
    if options:
        assert torch.equal(method(wrapped, target_layers="module.layer3")(images, 2), want)
        assert torch.equal(method(wrapped, target_layers=wrapped.module.layer3)(images, 2), want)


@pytest.mark.parametrize("how", ["whole", "in place", "part"])
@pytest.mark.parametrize(("method", "options"), CALLS)
def test_compiled(method, options, how, resnet):
    model, images = resnet
    want = method(model, **options)(images, 2)
    torch.compiler.reset()
    if how == "whole":
        compiled = torch.compile(model, backend="eager")
    else:
        compiled = build("resnet18", 5).eval()
        compiled.load_state_dict(model.state_dict())
        if how == "in place":
            compiled.compile(backend="eager")
        else:
            compiled.layer3 = torch.compile(compiled.layer3, backend="eager")
    with torch.no_grad():
        compiled(images)  # so that there is compiled code, made without hooks
    torch.testing.assert_close(method(compiled, **options)(images, 2), want, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()


def test_autocast_and_half(resnet):
    model, images = resnet
    for method in (LayerCAM, GuidedBackprop):
        want = method(model)(images, 2)
        with torch.autocast("cpu", torch.bfloat16):
            got = method(model)(images, 2)
        assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), 0) > 0.9


def test_results_do_not_depend_on_the_batch(resnet):
    model, _ = resnet
    images = torch.randn(5, 3, 64, 64)
    for name in (*METHODS, "fullgrad", *ATTRIBUTIONS):
        method = methods.create(name, model, **FEW.get(name, {}))
        together = method(images, [0, 1, 2, 3, 4])
        parts = torch.cat([method(images[:2], [0, 1]), method(images[2:], [2, 3, 4])])
        assert (together - parts).abs().max() <= 2e-3 * together.abs().max(), name


def test_memory_does_not_grow():
    class Tiny(nn.Sequential):
        def __init__(self) -> None:
            conv = nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU()
            super().__init__(nn.Sequential(*conv), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

    model, images = Tiny(), torch.randn(1, 3, 32, 32)
    calls = [
        methods.create(
            name,
            model,
            **(
                {"target_layers": "0.0"}
                if name in METHODS and name != "cam"
                else {"target_layers": "0"}
                if name != "saliency" and name != "guided-backprop"
                else {}
            ),
        )
        for name in (*METHODS, *ATTRIBUTIONS)
    ]

    def held() -> int:
        return sum(issubclass(type(item), Tensor) for item in gc.get_objects())

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    gc.disable()  # what is left must go by itself, not by a search for cycles
    try:
        for call in 10 * calls:
            call(images)
        tensors, memory = held(), resident()
        for call in 77 * calls:  # 1,001 calls
            call(images)
        assert held() <= tensors + 2
        assert resident() - memory < 8e6
    finally:
        gc.enable()


def test_all_classes(resnet):
    model, images = resnet
    for cam in (GradCAM(model, "layer3"), CAM(model), fastcam.EigenCAM(model), GradCAM(model, order="grad-cam")):
        maps = cam(images, "all")
        assert maps.shape == (2, 5, 64, 64)
        torch.testing.assert_close(maps[:, 3], cam(images, 3), rtol=0, atol=1e-5)
    assert GuidedBackprop(model)(images, "all").shape == (2, 5, 3, 64, 64)
    assert Saliency(model)(images, top_k=2).shape == (2, 2, 64, 64)
    with pytest.raises(ValueError, match="not both"):
        cam(images, "all", top_k=2)


@pytest.mark.parametrize(
    "name", ["resnet18", "efficientnet_b0", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"]
)
def test_timm(name):
    pytest.importorskip("timm")
    model = build(f"timm/{name}", 4).eval()
    images = torch.randn(1, 3, 224, 224)
    cam = GradCAM(model)
    assert cam.coarse(images, 2).shape[1] >= 7, default_target_layer(model)


def test_timm_is_optional():
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match="pip install timm"):
            build("timm/resnet18")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")  # importing torch 2.11's compiler
@pytest.mark.parametrize("variant", classifiers.VARIANTS)
@pytest.mark.parametrize("arch", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_maps_are_equal_to_what_is_computed_by_hand_or_refused(arch, variant):
    """`python -m tests.support.classifiers` does this with all families of torchvision."""
    found = classifiers.check(arch, variant)
    assert set(found) == set(classifiers.METHODS)
    cam = found.pop("cam")
    assert set(found.values()) == {"equal"}
    if arch == "resnet18" and variant != "in place":
        assert cam == "equal"
    else:
        assert cam.startswith("refused: CAM needs global average pooling and one linear layer")
