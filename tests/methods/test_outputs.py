"""Networks whose scores are part of something, dense, or of one class, and such that have none."""

import dataclasses
from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fastcam
from fastcam import methods, metrics
from fastcam.methods import ATTRIBUTIONS, METHODS
from fastcam.methods.running import MixedPicturesError, check_rows
from fastcam.methods.scores import recognise
from fastcam.models import run, unwrap, with_output
from fastcam.targets import Pixels, Similarity


@dataclasses.dataclass
class Found:
    boxes: Tensor
    logits: Tensor | None


Pair = namedtuple("Pair", "scores features")

# What a network may make of its logits and features, and the `output` that leads back to the logits.
CONTAINERS = {
    "dict with logits": (lambda logits, maps: {"maps": maps, "logits": logits}, None),
    "ordered dict with out": (lambda logits, maps: OrderedDict(aux=maps, out=logits), None),
    "dict of one": (lambda logits, maps: {"y": logits, "loss": None}, None),
    "tuple": (lambda logits, maps: (logits, maps), None),
    "list": (lambda logits, maps: [logits], None),
    "dataclass": (lambda logits, maps: Found(maps, logits), None),
    "object": (lambda logits, maps: SimpleNamespace(maps=maps, logits=logits), None),
    "named": (lambda logits, maps: {"age": logits[:, :1] * 0, "kind": logits}, "kind"),
    "item of a tuple": (lambda logits, maps: (maps, logits), 1),
    "last item": (lambda logits, maps: (maps, maps, logits), -1),
    "field of a named tuple": (lambda logits, maps: Pair(logits, maps), "scores"),
    "nested": (lambda logits, maps: {"heads": [maps, {"kind": logits}]}, "heads.1.kind"),
    "key with a dot": (lambda logits, maps: {"a.b": logits, "a": maps}, "a.b"),
    "function": (lambda logits, maps: {"halves": logits.chunk(2, 1)}, lambda given: torch.cat(given["halves"], 1)),
}


class Net(nn.Module):
    """Convolutions, mean and a linear layer; `made` makes of logits and maps what it gives."""

    def __init__(self, made=lambda logits, maps: logits, classes: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer3 = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU())
        self.layer4 = nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1), nn.ReLU())
        self.fc, self.made = nn.Linear(8, classes), made
        self.eval()

    def forward(self, images: Tensor):
        maps = self.layer4(self.layer3(images))
        return self.made(self.fc(maps.mean((2, 3))), maps)


class Segmenter(Net):
    """Scores of each pixel."""

    def forward(self, images: Tensor):
        coarse = torch.einsum("nkhw,ck->nchw", self.layer4(self.layer3(images)).square(), self.fc.weight)
        return {"out": F.interpolate(coarse, images.shape[2:], mode="bilinear"), "aux": coarse}


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 24, 20, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", CONTAINERS)
def test_every_method_finds_the_scores(kind, images):
    made, output = CONTAINERS[kind]
    for name in METHODS | ATTRIBUTIONS:
        options = {"target_layers": ["layer4"]} if name in METHODS else {}
        plain = methods.create(name, Net(), **options)
        found = methods.create(name, Net(made), **options, output=output)
        torch.testing.assert_close(found(images, top_k=2), plain(images, top_k=2), msg=name)
        assert torch.equal(found.outputs, plain.outputs)
    assert torch.equal(run(with_output(Net(made), output), images), Net()(images))


def test_layers_keep_their_names(images):
    model = Net(lambda logits, maps: (maps, logits))
    wrapped = with_output(nn.DataParallel(model), 1)
    for cam in (
        fastcam.GradCAM(wrapped, "layer3"),
        fastcam.GradCAM(nn.DataParallel(with_output(model, 1)), ["layer3"]),
    ):
        assert list(cam.layers) == ["layer3"]
        assert torch.equal(cam(images), fastcam.GradCAM(Net(), "layer3")(images))
    assert unwrap(wrapped) is model
    assert with_output(model, None) is model
    assert with_output(wrapped, 0).network is wrapped.network  # the last word counts


def test_scores_of_one_class(images):
    for made in (lambda logits, maps: logits[:, 0], lambda logits, maps: logits, lambda logits, maps: (logits[:, 0],)):
        cam = fastcam.CAM(Net(made, classes=1), "layer4")
        assert torch.equal(cam(images), fastcam.CAM(Net(classes=1), "layer4")(images))
        assert cam.outputs.shape == (3, 1)
    squeezed = Net(lambda logits, maps: logits.squeeze(), classes=1)
    assert fastcam.GradCAM(squeezed, "layer4")(images[:1]).shape == (1, 24, 20)
    assert recognise(Net(lambda logits, maps: logits[:, 0].sigmoid(), classes=1), images) == "probabilities"
    assert recognise(Net(lambda logits, maps: logits[:, 0], classes=1), images) == "logit"


@pytest.mark.parametrize(
    ("made", "output", "message"),
    [
        (lambda logits, maps: {"a": logits, "b": maps}, None, r"got dict\(a \[3, 4\], b \[3, 8, 6, 5\]\).*`output`"),
        (lambda logits, maps: {"a": logits, "b": maps}, "c", r"dict\(a .* has no 'c'; known are a, b"),
        (lambda logits, maps: {"kind": logits}, "kinds", "has no 'kinds'; did you mean kind"),
        (lambda logits, maps: (logits, maps), 2, "has no 2"),
        (lambda logits, maps: (maps[:, 0], logits), None, r"got tuple\(0 \[3, 6, 5\], 1 \[3, 4\]\)"),
        (lambda logits, maps: (logits, maps.flatten(2)), 1, r"got \[3, 8, 30\] as 1"),
        (lambda logits, maps: logits, "logits", r"is for a model that gives several things, this one gives \[3, 4\]"),
        (lambda logits, maps: logits, lambda given: given.sum(), r"got \[\] from the function"),
        (lambda logits, maps: logits.argmax(1), None, r"got \[3\] of torch.int64"),
        (lambda logits, maps: logits[0], None, r"for 3 images, got \[4\]"),
        (lambda logits, maps: None, None, "got NoneType"),
        (lambda logits, maps: {}, None, r"got dict"),
    ],
)
def test_what_cannot_be_understood_is_refused(made, output, message, images):
    with pytest.raises(TypeError, match=message):
        fastcam.GradCAM(Net(made), "layer4", output=output)(images)
    if output is None:
        cam = fastcam.EigenCAM(Net(made), "layer4")
        assert torch.equal(cam(images), fastcam.EigenCAM(Net(), "layer4")(images))
        assert cam.outputs.shape == (3, 0) or made(*Net(lambda *both: both)(images)) is not None


def test_an_output_of_another_kind():
    for wrong in (1.5, True, ["a"]):
        with pytest.raises(TypeError, match="`output` must be a name, an index or a function, got"):
            fastcam.GradCAM(Net(), "layer4", output=wrong)


def gradcam(model: nn.Module, images: Tensor, layer: nn.Module, score) -> Tensor:
    """Grad-CAM by plain PyTorch, before ReLU."""
    kept: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: kept.append(output))
    total = score(model(images))
    handle.remove()
    (gradient,) = torch.autograd.grad(total, kept[0])
    return (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).detach()


def test_dense_scores_are_means_over_all_pixels(images):
    model = Segmenter()
    cam = fastcam.GradCAM(model, "layer3")
    expected = gradcam(model, images, model.layer3, lambda given: given["out"][:, 2].mean((1, 2)).sum())
    torch.testing.assert_close(cam.coarse(images, 2), expected)
    assert torch.equal(cam.outputs, model(images)["out"].mean((2, 3)))
    torch.testing.assert_close(cam.coarse(images, Pixels(2)), expected)
    coarse = fastcam.GradCAM(model, "layer3", output="aux").coarse(images, 2)
    torch.testing.assert_close(
        coarse, gradcam(model, images, model.layer3, lambda given: given["aux"][:, 2].mean((1, 2)).sum())
    )


def test_pixels(images):
    model, masks = Segmenter(), torch.rand(3, 24, 20, generator=torch.Generator().manual_seed(2)) > 0.7
    targets = [Pixels(2, mask) for mask in masks]

    def score(given):
        return (given["out"][:, 2] * masks).sum((1, 2)).div(masks.sum((1, 2))).sum()

    found = fastcam.GradCAM(model, "layer3").coarse(images, targets)
    torch.testing.assert_close(found, gradcam(model, images, model.layer3, score))
    layer = fastcam.ScoreCAM(model, "layer3", softmax=False)(images, targets)  # runs it again on variations
    assert layer.shape == (3, 24, 20)
    assert fastcam.AblationCAM(model, "layer3")(images, targets).isfinite().all()
    gone = metrics.deletion(model, images, masks + images[:, 0], targets, steps=2).scores
    for number, ends in ((0, images), (-1, images * 0)):
        planes = model(ends)["out"][:, 2].detach()
        expected = torch.stack([plane[mask].mean() for plane, mask in zip(planes, masks, strict=True)])
        torch.testing.assert_close(gone[:, number], expected)
    for target, error, message in (
        (Pixels(2, masks[0, :10]), ValueError, r"size of the network's scores, \[24, 20\], got \[10, 20\]"),
        (Pixels(4), ValueError, "classes 0 … 3, got 4"),
    ):
        with pytest.raises(error, match=message):
            fastcam.GradCAM(model, "layer3")(images, target)
    with pytest.raises(ValueError, match=r"Pixels is for dense scores \[C, H, W\], the network gives \[4\]"):
        fastcam.GradCAM(Net(), "layer3")(images, Pixels(1))
    with pytest.raises(TypeError, match=r"must be bool \[H, W\], got torch.float32"):
        Pixels(1, torch.ones(2, 2))
    with pytest.raises(ValueError, match="at least one pixel"):
        Pixels(1, torch.zeros(2, 2, dtype=torch.bool))


def test_similarity(images):
    model = Net(lambda logits, maps: {"logits": logits, "embedding": maps.mean((2, 3))})
    wanted = model(images)["embedding"][2].detach()
    found = fastcam.GradCAM(model, "layer3", output="embedding").coarse(images, Similarity(wanted))

    def score(given):
        unit = given["embedding"] / given["embedding"].norm(dim=1, keepdim=True)
        return (unit @ (wanted / wanted.norm())).sum()

    torch.testing.assert_close(found, gradcam(model, images, model.layer3, score))
    with pytest.raises(ValueError, match=r"embedding of the 8 numbers that it was given, the network gives \[4\]"):
        fastcam.GradCAM(model, "layer3")(images, Similarity(wanted))
    with pytest.raises(TypeError, match=r"must be floating \[D\]"):
        Similarity(torch.ones(2, 2))


def test_regression(images):
    """A network of numbers instead of classes is explained by a function of them."""
    model = Net()
    found = fastcam.GradCAM(model, "layer3").coarse(images, lambda values: values[0] - 2 * values[1].square())
    expected = gradcam(model, images, model.layer3, lambda v: (v[:, 0] - 2 * v[:, 1].square()).sum())
    torch.testing.assert_close(found, expected)


class Tower(nn.Module):
    """Takes pictures as Hugging Face's networks of pictures and text do."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()

    def forward(self, input_ids=None, pixel_values=None):
        assert input_ids is None
        return {"logits": self.net(pixel_values)}


class Strict(Tower):
    def forward(self, *, images):
        return self.net(images)


@pytest.mark.parametrize("kind", [Tower, Strict])
def test_images_by_keyword(kind, images):
    model = kind().eval()
    for name in ("cam", "gradcam", "scorecam", "saliency"):
        options = {} if name == "saliency" else {"target_layers": ["net.layer4"]}
        plain = {} if name == "saliency" else {"target_layers": ["layer4"]}
        assert torch.equal(methods.create(name, model, **options)(images), methods.create(name, Net(), **plain)(images))
    check_rows(model, images, Net()(images))
    with torch.inference_mode():  # whose tensors are copied for a graph
        inside = kind().eval()
    found = fastcam.GradCAM(inside, "net.layer3")(images)
    assert torch.equal(found, fastcam.GradCAM(Net(), "layer3")(images))


def test_mixed_pictures_are_seen_in_any_container(images):
    model = Net(lambda logits, maps: (maps, logits - logits.mean(0)))
    with pytest.raises(MixedPicturesError, match="Net gives a picture other logits alone"):
        check_rows(with_output(model, 1), images, run(with_output(model, 1), images))


@pytest.mark.parametrize("made", [lambda logits, maps: {"maps": maps, "logits": logits}, lambda logits, maps: maps])
def test_frozen(made, images):
    cam = fastcam.EigenCAM(Net(made), "layer4")
    plain = cam(images)
    cam.freeze(images)
    assert cam.frozen is not None
    torch.testing.assert_close(cam(images[:2]), plain[:2])
    assert cam.outputs.shape == (2, 4 if isinstance(made(images, images), dict) else 8)


def test_one_run_has_one_output(images):
    model = Net(lambda logits, maps: (logits, logits.flip(1)))
    first, second = (fastcam.CAM(model, "layer4", output=index) for index in (0, 1))
    with pytest.raises(ValueError, match="`methods` of one run must have one `output`, got 0 and 1"):
        methods.observe([first, second], images)
    with pytest.raises(ValueError, match="the run is one of another `output` than that of CAM"):
        second(methods.observe([first], images))
