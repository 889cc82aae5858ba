"""Maps of several sizes and of mirror images, against a script that makes them picture by picture."""

import gc
import weakref

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

import fastcam
from fastcam.methods import ATTENTION_METHODS, BOX_METHODS, METHODS, MapWarning, observe
from fastcam.methods.scales import ScaledRun, by_maximum, resized

SCALES = (0.5, 1, 1.5, 2)


def linear_of(model):
    return model.fc if hasattr(model, "fc") else model.classifier[1]


@pytest.fixture(scope="module", params=["resnet18", "mobilenet_v2"])
def model(request):
    torch.manual_seed(0)
    model = fastcam.models.build(request.param, num_classes=5)
    with torch.no_grad():  # statistics of normalisation, without which values vanish
        for _ in range(10):
            model(torch.randn(4, 3, 64, 64))
        linear_of(model).weight.normal_()
    return model.eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 49, 65, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def targets(model, images):
    """Classes whose maps are not empty."""
    return model(images).argmax(1).tolist()


def plain_maps(model, image, target, name):
    """[B, h, w] of the pictures of one size, all alike, by textbook formulas, and [B, C]; no part of fastcam."""
    layer = model.layer4 if hasattr(model, "layer4") else model.features
    kept = []
    handle = layer.register_forward_hook(lambda module, given, output: kept.append(output))
    try:
        logits = model(image)
    finally:
        handle.remove()
    (gradient,) = torch.autograd.grad(logits[:, target].sum(), kept[0])
    features = kept[0].detach()
    if name == "cam":
        maps = torch.einsum("k,bkhw->bhw", linear_of(model).weight[target].detach(), features)
    elif name == "gradcam":
        maps = (gradient.mean((2, 3), keepdim=True) * features).sum(1)
    else:
        maps = (gradient.relu() * features).sum(1)
    return maps, logits.detach()


def by_script(model, images, targets, name, scales=SCALES, flip=True):
    """Coarse [N, h, w] and full-size [N, H, W] maps as make_cam.py makes them: picture by picture, view by view."""
    coarse, full = [], []
    for picture, target in zip(images, targets, strict=True):
        parts = []
        for scale in scales:
            size = [round(side * scale) for side in picture.shape[-2:]]
            view = F.interpolate(picture[None], size, mode="bicubic", antialias=True) if scale != 1 else picture[None]
            both = torch.cat([view, view.flip(-1)]) if flip else view
            maps = plain_maps(model, both, target, name)[0].relu()
            parts.append(maps[0] + maps[1].flip(-1) if flip else maps[0])
        size = [max(part.shape[axis] for part in parts) for axis in (0, 1)]
        total = sum(F.interpolate(part[None, None], size, mode="bilinear", align_corners=False) for part in parts)
        assert total.max() > 0
        total = total[0, 0] / total.max()
        whole = F.interpolate(total[None, None], picture.shape[-2:], mode="bilinear", align_corners=False)[0, 0]
        coarse.append(total)
        full.append(whole / whole.max())
    return torch.stack(coarse), torch.stack(full)


@pytest.mark.parametrize("name", ["cam", "gradcam", "layercam"])
def test_maps_are_those_of_a_plain_script(model, images, targets, name):
    cam = METHODS[name](model)
    coarse, full = by_script(model, images, targets, name)
    assert (cam.coarse(images, targets, scales=SCALES, flip=True) - coarse).abs().max() < 1e-5
    assert (cam(images, targets, scales=SCALES, flip=True) - full).abs().max() < 1e-5
    assert cam.grids == dict.fromkeys(cam.layers, tuple(coarse.shape[1:]))
    assert torch.allclose(cam.outputs, model(images), atol=1e-5)
    assert cam.targets.tolist() == targets


def test_the_script_by_boxes(model, images, targets):
    _, full = by_script(model, images, targets, "cam")
    cam = fastcam.CAM(model)
    for threshold in (0.15, 0.5):
        wanted = fastcam.ops.boxes(full, full.shape[-2:], torch.full((3,), threshold), relu=False)
        found = cam.boxes(images, targets, threshold=threshold, scales=SCALES, flip=True)
        assert (found - wanted).abs().max() <= 1  # a pixel at the threshold itself
    several = cam.boxes(images, targets, threshold=[0.15, 0.5], scales=SCALES, flip=True)
    assert several.shape == (3, 2, 4)
    assert torch.equal(several[:, 1], found)


def test_mirror_images_alone(model, images, targets):
    cam = fastcam.GradCAM(model)
    coarse, full = by_script(model, images, targets, "gradcam", (1,))
    assert (cam.coarse(images, targets, flip=True) - coarse).abs().max() < 1e-5
    assert (cam(images, targets, flip=True) - full).abs().max() < 1e-5


def test_one_scale_is_the_clipped_map_divided_by_its_maximum(model, images, targets):
    cam = fastcam.CAM(model)
    plain = cam.coarse(images, targets).relu()
    found = cam.coarse(images, targets, scales=[1])
    assert torch.allclose(found, plain / plain.amax((1, 2), keepdim=True), atol=1e-6)
    for nothing in (None, ()):
        assert torch.equal(cam.coarse(images, 1, scales=nothing), cam.coarse(images, 1))


def test_the_minimum_is_not_subtracted():
    maps = torch.tensor([[[1.0, 2], [3, 4]], [[0, 0], [0, 0]], [[2, 2], [2, 2]], [[1, torch.inf], [2, 3]]])
    wanted = torch.zeros_like(maps)
    wanted[0] = maps[0] / 4
    assert torch.equal(by_maximum(maps), wanted)
    assert torch.equal(by_maximum(torch.tensor([[[1, torch.nan], [2, 3]]])), torch.zeros(1, 2, 2))


def test_pictures_are_resized_as_pillow_does():
    colour = np.random.default_rng(0).normal(size=(37, 53)).astype(np.float32)
    for scale, size in ((0.5, (18, 26)), (1.5, (56, 80)), (2, (74, 106))):  # 18.5 and 26.5: to the even number
        found = resized(torch.from_numpy(colour).expand(1, 3, -1, -1), scale)[0, 1]
        assert found.shape == size
        wanted = Image.fromarray(colour).resize(size[::-1], Image.Resampling.BICUBIC)
        assert np.abs(found.numpy() - np.array(wanted)).max() < 1e-4


@pytest.mark.parametrize("name", BOX_METHODS)
def test_every_method_takes_views(images, name):
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    if name in ATTENTION_METHODS:  # and one that takes any size in whole patches
        options = {"patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "dynamic_img_size": True}
        model = timm.models.VisionTransformer(64, num_classes=4, **options).eval()
        images = torch.randn(3, 3, 48, 64)
    few = {"top_channels": 4} if name in ("scorecam", "ablationcam") else {}
    cam = BOX_METHODS[name](model, **few)
    found = cam(images, [0, 1, 2], scales=(0.5, 1), flip=True)
    assert found.shape == (3, *images.shape[2:])
    assert found.amin() >= 0
    assert torch.equal(found.amax((1, 2)), torch.ones(3))
    alone = torch.cat([cam(images[i : i + 1], [i], scales=(0.5, 1), flip=True) for i in range(3)])
    assert (found - alone).abs().max() < 1e-3
    assert cam.boxes(images, [0, 1, 2], scales=(0.5, 1), flip=True).shape == (3, 4)


def test_mirrored_pictures_have_mirrored_maps(model, images, targets):
    cam = fastcam.LayerCAM(model)
    found, mirrored = (cam(x, targets, scales=(1, 1.5), flip=True) for x in (images, images.flip(-1)))
    assert (found - mirrored.flip(-1)).abs().max() < 1e-4


def test_classes_are_chosen_at_scale_1_wherever_it_stands(model, images):
    cam = fastcam.CAM(model)
    cam(images)
    highest, logits = cam.targets, cam.outputs
    for scales in ((1, 2), (2, 0.5, 1)):
        cam(images, scales=scales, flip=True)
        assert torch.equal(cam.targets, highest)
        assert torch.equal(cam.outputs, logits) or torch.allclose(cam.outputs, logits, atol=1e-5)
    cam(images, scales=(2, 0.5))
    at_2 = model(F.interpolate(images, scale_factor=2, mode="bicubic", antialias=True))
    assert torch.equal(cam.targets, at_2.argmax(1))
    assert torch.allclose(cam.outputs, at_2, atol=1e-4)


def test_several_classes_and_callables(model, images):
    cam, views = fastcam.GradCAM(model), {"scales": (1, 1.5), "flip": True}
    every = cam(images, "all", **views)
    assert every.shape == (3, 5, 49, 65)
    assert torch.allclose(cam(images, 3, **views), every[:, 3], atol=1e-4)
    top = cam(images, top_k=2, **views)
    assert cam.targets.shape == (3, 2)
    rows = torch.arange(3)
    assert torch.allclose(top[:, 0], every[rows, cam.targets[:, 0]], atol=1e-4)
    given = cam(images, cam.targets, **views)
    assert torch.equal(given, top)
    called = cam(images, [lambda logits, c=c: logits[c] for c in (0, 1, 2)], **views)
    assert torch.allclose(called, every[rows, rows], atol=1e-4)


def test_several_layers_are_fused_at_the_pictures_size(images):
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    both = fastcam.LayerCAM(model, ["layer3", "layer4"])
    found = both(images, 1, scales=(1, 2), flip=True)
    single = [fastcam.LayerCAM(model, layer)(images, 1, scales=(1, 2), flip=True) for layer in both.layers]
    wanted = sum(single) / 2
    assert torch.allclose(found, wanted / wanted.amax((1, 2), keepdim=True), atol=1e-5)
    assert both.grids["layer3"] > both.grids["layer4"]
    with pytest.raises(ValueError, match="one target layer's"):
        both.coarse(images, 1, scales=(1, 2))


def test_first_component_of_every_view(images):
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    cam = fastcam.GradCAM(model)
    parts = [cam.coarse(view, 1, eigen_smooth=True).relu() for view in (images, images.flip(-1))]
    wanted = parts[0] + parts[1].flip(-1)
    found = cam.coarse(images, 1, eigen_smooth=True, flip=True)
    assert torch.allclose(found, wanted / wanted.amax((1, 2), keepdim=True), atol=1e-4)


def test_methods_share_a_run_of_several_sizes(images):
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    passes = []
    model.conv1.register_forward_hook(lambda module, given, output: passes.append(tuple(given[0].shape)))
    cams = [fastcam.CAM(model), fastcam.LayerCAM(model, "layer3"), fastcam.GradCAM(model, ["layer3", "layer4"])]
    run = observe(cams, images, [0, 1, 2], scales=(0.5, 1), flip=True)
    assert isinstance(run, ScaledRun)
    assert passes == [(6, 3, 49, 65), (6, 3, 24, 32)]
    assert run.logits.shape == (3, 4)
    for cam in cams:
        alone = type(cam)(model, list(cam.layers))
        assert torch.equal(cam(run), alone(images, [0, 1, 2], scales=(0.5, 1), flip=True))
        assert torch.equal(cam.boxes(run), alone.boxes(images, [0, 1, 2], scales=(0.5, 1), flip=True))
    assert torch.equal(cams[0].coarse(run), cams[0].coarse(images, [0, 1, 2], scales=(0.5, 1), flip=True))
    with pytest.raises(ValueError, match="not made for this EigenCAM"):
        fastcam.EigenCAM(model)(run)
    with pytest.raises(ValueError, match="pass it to `observe`"):
        cams[0](run, eigen_smooth=True)
    with pytest.raises(ValueError, match="those of the run"):
        cams[0](run, flip=True)


def test_the_model_stays_as_it_was(model, images):
    def state():
        return [(p.grad, p.requires_grad) for p in model.parameters()], [m.training for m in model.modules()]

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    before, hooked = state(), hooks()
    with torch.inference_mode():
        inside = fastcam.GradCAM(model)(images, 1, scales=SCALES, flip=True)
    assert torch.equal(inside, fastcam.GradCAM(model)(images, 1, scales=SCALES, flip=True))
    assert not inside.requires_grad
    assert state() == before
    assert hooks() == hooked


def test_layouts_and_dtypes(images):
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    cam, views = fastcam.CAM(model), {"scales": (0.5, 1, 2), "flip": True}
    plain = cam(images, 1, **views)
    last = images.contiguous(memory_format=torch.channels_last)
    assert resized(last, 0.5).is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(cam(last, 1, **views), plain, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        half = cam(images, 1, **views)
    assert half.dtype == torch.float32
    assert (half - plain).abs().mean() < 0.05
    assert cam(images[:0], [], **views).shape == (0, 49, 65)
    reference = fastcam.CAM(model, backend="reference")(images, 1, **views)
    assert torch.allclose(reference, plain, atol=1e-5)
    assert fastcam.CAM(model, mode="bicubic")(images, 1, **views).amin() >= 0
    double = fastcam.CAM(model.double())
    assert double.coarse(images.double(), 1, **views).dtype == torch.float64
    assert torch.allclose(double(images.double(), 1, **views), plain, atol=1e-3)


class OneSize(nn.Module):
    """A network of pictures of 32x32, as transformers with fixed positions are."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        assert x.shape[-2:] == (32, 32), f"pictures of 32x32 expected, got {x.shape[-2]}x{x.shape[-1]}"
        return self.fc(self.conv(x).mean((2, 3)))


def test_networks_of_one_size_say_so():
    images, cam = torch.randn(2, 3, 32, 32), fastcam.CAM(OneSize().eval(), "conv")
    assert cam(images, 0, flip=True).shape == (2, 32, 32)
    for scales in ((1, 2), (2,)):
        with pytest.raises(ValueError, match=r"takes no pictures of 64x64, .* 32x32 are at the scale 2: .*expected"):
            cam(images, 0, scales=scales)
    with pytest.raises(ValueError, match="class 7 in `targets` is out of range"):  # and not the size
        cam(images, 7, scales=(2, 3))
    with pytest.raises(ValueError, match=r"no pixel left at the scale 0.01"):
        cam(images, 0, scales=(1, 0.01))


@pytest.mark.parametrize(
    "scales", [(0,), (-1, 1), (1, 1.0), (float("nan"),), (float("inf"),), ("1",), (1, 9), "1,2", 1]
)
def test_scales_are_distinct_numbers(model, images, scales):
    if scales == 1:  # a single number is no list, but clear
        assert torch.equal(fastcam.CAM(model)(images, 1, scales=1), fastcam.CAM(model)(images, 1, scales=[1]))
        return
    with pytest.raises(ValueError, match="`scales` must be up to 8 different numbers"):
        fastcam.CAM(model)(images, 1, scales=scales)
    with pytest.raises(ValueError, match="up to 8"):
        fastcam.CAM(model)(images, 1, scales=[1 + i / 10 for i in range(9)])


def test_what_does_not_go_with_views(model, images):
    for threshold in (1.5, [0.2, -0.1]):
        with pytest.raises(ValueError, match="`threshold` must be in"):
            fastcam.CAM(model).boxes(images, 1, threshold=threshold, flip=True)
    with pytest.raises(TypeError, match="`images` must be a tensor"):
        fastcam.CAM(model)([1, 2], 1, flip=True)
    with pytest.raises(ValueError, match="`aug_smooth` and `scales`"):
        fastcam.CAM(model)(images, 1, scales=(1, 2), aug_smooth=True)
    with pytest.raises(ValueError, match="grad-cam"):
        fastcam.CAM(model, order="grad-cam")(images, 1, flip=True)
    with pytest.raises(ValueError, match="leave `relu` of CAM"):
        fastcam.CAM(model, relu=False)(images, 1, flip=True)
    fastcam.CAM(model, relu=True)(images, 1, flip=True)


def test_a_single_position_is_told_of(images):
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    with pytest.warns(MapWarning, match="1x1"):
        found = fastcam.CAM(model)(images[..., :32, :32], 1, scales=(1,))
    assert not found.any()


@pytest.mark.parametrize("method", ["cam", "gradcam"])
@pytest.mark.parametrize("shared", [False, True])
def test_activations_are_let_go_of_before_the_next_size(method, shared):
    """When a pass begins, nothing that an earlier one computed in the network is alive, but the maps."""
    torch.manual_seed(0)
    model = fastcam.models.build("resnet18", num_classes=4).eval()
    images, alive, inside = torch.randn(2, 3, 48, 48), [], []

    def begin(module, given):
        gc.collect()
        alive.append(sum(one() is not None for one in inside))

    model.register_forward_pre_hook(begin)
    for module in model.modules():
        if not [*module.children()]:
            module.register_forward_hook(lambda module, given, output: inside.append(weakref.ref(output)))
    cam = METHODS[method](model, None if shared else "layer3") if method == "gradcam" else METHODS[method](model)
    if shared:
        observe([cam, fastcam.LayerCAM(model, "layer2")], images, 1, scales=(0.5, 1, 1.5, 2), flip=True)
    else:
        cam(images, 1, scales=(0.5, 1, 1.5, 2), flip=True)
    assert len(inside) > 100
    assert alive == [0, 0, 0, 0]
