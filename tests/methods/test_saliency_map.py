"""Boxes from backprop saliency, against plain autograd and SciPy's Gaussian and components."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor, nn

from fastcam import methods
from fastcam.methods import (
    ATTENTION_METHODS,
    BOX_METHODS,
    CAM,
    METHODS,
    GradCAM,
    LayerCAM,
    Saliency,
    SaliencyMap,
    observe,
)
from fastcam.methods.frozen import FreezeError
from fastcam.methods.smoothing import blurred, merge_views, views
from fastcam.models import ThresholdedAvgPool2d

SIGMA = 0.02


class Net(nn.Module):
    """Two convolutions, global average pooling and a linear layer; it counts passes, and may have a frozen trunk."""

    def __init__(self, frozen: bool = False) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(inplace=True))
        self.stage2 = nn.Sequential(nn.Conv2d(6, 10, 3, 2, 1), nn.ReLU())
        self.fc = nn.Linear(10, 5)
        self.frozen, self.forwards, self.backwards = frozen, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            maps = self.stage1(images)
        logits = self.fc(self.stage2(maps).mean((2, 3)))
        if logits.requires_grad:
            logits.register_hook(self._count)
        return logits

    def _count(self, *_: object) -> None:
        self.backwards += 1


@pytest.fixture
def model() -> Net:
    torch.manual_seed(3)
    return Net()


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(1)
    return torch.randn(3, 3, 60, 76)


def expected(model: nn.Module, images: Tensor, classes: list[int], sigma: float = SIGMA) -> np.ndarray:
    """Smoothed saliency [N, H, W] of one class each."""
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    (gradient,) = torch.autograd.grad(logits[range(len(classes)), classes].sum(), leaf)
    saliency = gradient.abs().amax(1).double().numpy()
    width = sigma * max(images.shape[-2:])
    return np.stack([ndimage.gaussian_filter(one, width, mode="nearest", truncate=4) for one in saliency])


def test_maps_and_boxes_by_hand(model, images):
    classes = [4, 0, 2]
    want = expected(model, images, classes)
    cam = SaliencyMap(model)
    coarse = cam.coarse(images, classes)
    assert coarse.dtype == torch.float32
    np.testing.assert_allclose(coarse, want, rtol=1e-4, atol=1e-5 * want.max())
    low, high = want.min((1, 2), keepdims=True), want.max((1, 2), keepdims=True)
    finished = (want - low) / (high - low)
    np.testing.assert_allclose(cam(images, classes), finished, atol=1e-4)
    assert cam.targets.tolist() == classes
    assert cam.grids == {}
    boxes = cam.boxes(images, classes, threshold=0.5)
    for found, map in zip(boxes.tolist(), finished, strict=True):
        labels, _ = ndimage.label(map > 0.5, np.ones((3, 3)))
        y, x = ndimage.find_objects(labels)[np.bincount(labels.ravel())[1:].argmax()]
        assert found == [x.start, y.start, x.stop, y.stop]
    assert torch.equal(cam.boxes(images, classes, threshold=[0.2, 0.5])[:, 1], boxes)


def test_without_a_gaussian_it_is_saliency(model, images):
    assert torch.equal(SaliencyMap(model, sigma=0).coarse(images, top_k=2), Saliency(model)(images, top_k=2))
    wide = SaliencyMap(model, sigma=0.1).coarse(images, [1, 1, 1])
    np.testing.assert_allclose(wide, expected(model, images, [1, 1, 1], 0.1), rtol=1e-4)


def test_several_classes_and_six_views(model, images):
    cam = SaliencyMap(model)
    every = cam.coarse(images, "all")
    assert every.shape == (3, 5, 60, 76)
    for c in range(5):
        np.testing.assert_allclose(every[:, c], expected(model, images, [c] * 3), rtol=1e-4, atol=1e-9)
    six = cam(images, [4, 0, 2], aug_smooth=True)
    plain = cam(views(images), [4, 0, 2] * 6)
    mean = merge_views(plain)
    low, high = mean.amin((1, 2), keepdim=True), mean.amax((1, 2), keepdim=True)
    torch.testing.assert_close(six, (mean - low) / (high - low), atol=1e-5, rtol=0)


def test_one_run_for_all_methods(model, images):
    cams = [CAM(model, "stage2"), LayerCAM(model, "stage1"), GradCAM(model, "stage2"), SaliencyMap(model)]
    alone = [(cam.coarse(images, top_k=2), cam.boxes(images, top_k=2)) for cam in cams]
    model.forwards = model.backwards = 0
    run = observe(cams, images, top_k=2)
    run.differentiate()
    for cam, (coarse, boxes) in zip(cams, alone, strict=True):
        assert torch.equal(cam.coarse(run), coarse)
        assert torch.equal(cam.boxes(run), boxes)
        assert cam.uses_gradients(run) == isinstance(cam, LayerCAM | SaliencyMap)  # the others have a closed form
    assert (model.forwards, model.backwards) == (1, 2)
    pooled = run.with_pooling(ThresholdedAvgPool2d())
    leaf = images.clone().requires_grad_()
    maps = model.stage2(model.stage1(leaf.clone()))
    logits = model.fc(ThresholdedAvgPool2d()(maps).flatten(1))
    (gradient,) = torch.autograd.grad(logits.gather(1, pooled.chosen.classes[:, :1]).sum(), leaf)
    got = SaliencyMap(model, sigma=0).coarse(pooled)[:, 0]
    torch.testing.assert_close(got, gradient.abs().amax(1), rtol=1e-4, atol=1e-9)


def test_the_run_of_others_is_refused(model, images):
    with pytest.raises(ValueError, match="the run observed stage1, but not the target layer"):
        SaliencyMap(model)(observe([LayerCAM(model, "stage1")], images))


def test_the_model_stays_as_it_was(images):
    model = Net(frozen=True).train()
    for parameter in model.stage1.parameters():
        parameter.requires_grad_(False)
    thawed = Net()
    thawed.load_state_dict(model.state_dict())
    with torch.inference_mode():
        got = SaliencyMap(model).coarse(images, [1, 2, 3])
    np.testing.assert_allclose(got, expected(thawed, images, [1, 2, 3]), rtol=1e-4, atol=1e-9)
    assert not got.requires_grad
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not images.requires_grad


def test_a_network_that_does_not_see_the_picture_has_empty_maps(model, images):
    nn.init.zeros_(model.fc.weight)
    assert not SaliencyMap(model)(images, 1).any()
    assert not SaliencyMap(model).boxes(images, 1).any()


@pytest.mark.parametrize("method", [GradCAM, LayerCAM])
def test_the_whole_network_is_no_target_layer(method, model):
    """Its name, "", stands for the images."""
    for layer in ("", model, ["stage1", model]):
        with pytest.raises(ValueError, match="a target layer must be a part of Net, got all of it"):
            method(model, layer)


def test_wrong_options(model, images):
    with pytest.raises(ValueError, match="saliency is of the images themselves: it has no target layer, got 'stage1'"):
        SaliencyMap(model, "stage1")
    with pytest.raises(ValueError, match="there is no `reshape_transform` to give"):
        SaliencyMap(model, reshape_transform=lambda x: x)
    for sigma in (-1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="`sigma` must be a fraction of the longer side"):
            SaliencyMap(model, sigma=sigma)
    with pytest.raises(ValueError, match="eigen_smooth needs weighted channels, which SaliencyMap does not have"):
        SaliencyMap(model)(images, eigen_smooth=True)
    with pytest.raises(FreezeError, match="SaliencyMap takes gradients"):
        SaliencyMap(model).freeze(images)


def test_its_place_among_the_methods(model):
    assert set(BOX_METHODS) == {*METHODS, *ATTENTION_METHODS, "fullgrad", "saliency"}
    assert isinstance(methods.create("saliency", model), Saliency)  # the raw values


@pytest.mark.parametrize("shape", [(2, 1, 30, 44), (3, 5, 5), (1, 1, 90), (0, 8, 8)])
@pytest.mark.parametrize("sigma", [0, 0.1, 1.3, 4.48])
def test_gaussian(shape, sigma):
    maps = torch.randn(shape, dtype=torch.float64)
    wanted = maps.numpy().copy()
    for index in np.ndindex(shape[:-2]):
        wanted[index] = ndimage.gaussian_filter(wanted[index], sigma, mode="nearest", truncate=4)
    got = blurred(maps, sigma)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got, wanted, atol=1e-12)
    with torch.autocast("cpu", torch.bfloat16):
        np.testing.assert_allclose(blurred(maps.float(), sigma), wanted, atol=1e-5)
