"""Explanation metrics: against cases worked out by hand, slow plain loops, and the packages that have them too."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import nn

import fastcam
from fastcam import metrics, models, pictures


class Mean(nn.Module):
    """Logits [sum of the picture's red, 0]: its scores can be worked out by hand."""

    def forward(self, x):
        red = x[:, 0].sum((1, 2))
        return torch.stack([red, torch.zeros_like(red)], 1)


def network(classes=5):
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5)),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes)),
    )


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


PICTURES = torch.zeros(2, 3, 2, 2)
PICTURES[0, 0] = torch.tensor([[1.0, 2.0], [-3.0, 4.0]])
PICTURES[1, 0] = torch.tensor([[0.5, 0.0], [0.0, 0.5]])
MAPS = torch.tensor([[[0.0, 0.5], [0.1, 1.0]], [[0.2, 0.0], [0.0, 1.0]]])


def test_confidence_change_by_hand(device):
    model, images, maps = Mean().to(device), PICTURES.to(device), MAPS.to(device)
    found = metrics.confidence_change(model, images, maps, 0)
    before = [sigmoid(4), sigmoid(1)]
    after = [sigmoid(0.5 * 2 - 0.1 * 3 + 4), sigmoid(0.2 * 0.5 + 0.5)]
    assert found.before.tolist() == pytest.approx(before)
    assert found.after.tolist() == pytest.approx(after)
    drop = 100 * (before[1] - after[1]) / before[1]
    assert found.drop.tolist() == pytest.approx([0, drop])
    assert found.average_drop == pytest.approx(drop / 2)
    assert found.increase == 50
    assert found.drop.device == images.device
    # Over black instead, which is −1 here.
    black = torch.tensor([-1.0, 0, 0], device=device)[:, None, None]
    over = metrics.confidence_change(model, images, maps, 0, baseline=black)
    assert over.after.tolist() == pytest.approx([sigmoid(4.7 - 2.4), sigmoid(0.6 - 2.8)])
    assert metrics.confidence_change(model, images, torch.ones_like(maps)).drop.tolist() == [0, 0]


def test_relative_drop_of_scores_that_are_not_positive():
    change = metrics.ConfidenceChange(torch.tensor([0.0, -1.0, -1.0, 0.5]), torch.tensor([0.0, -2.0, 3.0, 0.0]))
    assert change.drop.isnan().tolist() == [False, True, False, False]
    assert change.drop[[0, 2, 3]].tolist() == [0, 0, 100]
    assert math.isnan(change.average_drop)


def test_deletion_and_insertion_by_hand(device):
    model, images, maps = Mean().to(device), PICTURES[:1].to(device), MAPS[:1].to(device)
    gone = metrics.deletion(model, images, maps, 0, steps=4)  # 4, 2, −3, 1 are replaced by zero in this order
    assert gone.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    scores = [sigmoid(v) for v in (4, 0, -2, 1, 0)]
    assert gone.scores[0].tolist() == pytest.approx(scores)
    assert gone.auc.tolist() == pytest.approx([(sum(scores) - (scores[0] + scores[-1]) / 2) / 4])
    shown = metrics.insertion(model, images, maps, 0, steps=4, baseline="zero", score="logit")
    assert shown.scores[0].tolist() == pytest.approx([0, 4, 6, 3, 4])
    assert metrics.deletion(model, images, maps, 0, steps=2, score="logit").scores.tolist() == [[4, -2, 0]]
    tied = metrics.deletion(model, images, torch.zeros_like(maps), 0, steps=4, score="logit")
    assert tied.scores.tolist() == [[4, 3, 1, 4, 0]]  # raster order
    assert shown.scores.device == images.device


def slow_curve(model, images, maps, classes, steps, base, insert):
    """The published loop: pixels changed in place, one step after the other."""
    rows = []
    for image, map, background, c in zip(images, maps, base, classes, strict=True):
        start, finish = (background, image) if insert else (image, background)
        order = np.argsort(-map.flatten().numpy(), kind="stable")
        now, scores = start.clone().flatten(1), []
        for step in range(steps + 1):
            now = start.clone().flatten(1)
            some = order[: round(step * map.numel() / steps)]
            now[:, some] = finish.flatten(1)[:, some]
            scores.append(model(now.view_as(image)[None]).softmax(1)[0, c])
        rows.append(torch.stack(scores))
    return torch.stack(rows)


@pytest.mark.parametrize("insert", [False, True])
def test_curves_equal_a_plain_loop(insert):
    model, images, maps = network().eval(), torch.randn(3, 3, 9, 12), torch.rand(3, 9, 12)
    base = metrics.blurred(images) if insert else torch.zeros_like(images)
    with torch.no_grad():
        expected = slow_curve(model, images, maps, [0, 3, 1], 10, base, insert)
    function = metrics.insertion if insert else metrics.deletion
    found = function(model, images, maps, [0, 3, 1], steps=10)
    torch.testing.assert_close(found.scores, expected)
    torch.testing.assert_close(found.auc, torch.trapezoid(expected, found.fractions.float(), dim=1))
    # One picture at a time, all at once, and maps as an array: the same.
    for options in ({"batch_size": 1}, {"batch_size": 7}, {"batch_size": 1000}):
        torch.testing.assert_close(function(model, images, maps.numpy(), [0, 3, 1], steps=10, **options), found)


def test_equals_torchcam():
    peer = pytest.importorskip("torchcam.metrics")
    from torchcam.methods import LayerCAM

    model, images = network().eval(), torch.randn(4, 3, 16, 16)
    extractor = LayerCAM(model, "2", input_shape=(3, 16, 16))
    change = peer.ClassificationMetric(extractor, lambda logits: logits.softmax(-1))
    curves = peer.DeletionInsertionMetric(extractor, lambda logits: logits.softmax(-1), steps=16)
    classes = [2, 0, 1, 4]
    change.update(images, classes)
    curves.update(images, classes)
    maps = extractor.fuse_cams(extractor(classes, model(images).softmax(-1))).detach()  # of the same scores
    extractor.remove_hooks()
    ours = metrics.confidence_change(model, images, maps, classes)
    assert ours.average_drop / 100 == pytest.approx(change.summary()["avg_drop"], abs=1e-6)
    assert ours.increase / 100 == pytest.approx(change.summary()["conf_increase"])
    options = {"steps": 16, "baseline": "zero"}
    deletion, insertion = (f(model, images, maps, classes, **options) for f in (metrics.deletion, metrics.insertion))
    assert deletion.auc.mean().item() == pytest.approx(curves.summary()["deletion_auc"], abs=1e-6)
    assert insertion.auc.mean().item() == pytest.approx(curves.summary()["insertion_auc"], abs=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_equals_grad_cam():
    """Same pixels, same imputation, same scores as grad-cam's ROAD and confidence change, its noise switched off."""
    road = pytest.importorskip("pytorch_grad_cam.metrics.road")
    change = pytest.importorskip("pytorch_grad_cam.metrics.cam_mult_image")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    removal = pytest.importorskip("pytorch_grad_cam.metrics.perturbation_confidence")

    model, images, maps = network().eval(), torch.randn(2, 3, 20, 24), torch.rand(2, 20, 24)
    wanted, theirs = [3, 1], [targets.ClassifierOutputTarget(c) for c in (3, 1)]
    fractions = (0.1, 0.35, 0.5, 0.9)
    found = metrics.road(model, images, maps, wanted, fractions=fractions, noise=0, score="logit")
    for i, fraction in enumerate(fractions):
        for order, ours in (
            (removal.RemoveMostRelevantFirst, found.most),
            (removal.RemoveLeastRelevantFirst, found.least),
        ):
            metric = removal.PerturbationConfidenceMetric(order(100 * (1 - fraction), road.NoisyLinearImputer(noise=0)))
            expected = metric(images, maps.numpy(), theirs, model, return_diff=False)
            assert ours[:, i].numpy() == pytest.approx(expected, abs=1e-4)
    softmax = [targets.ClassifierOutputSoftmaxTarget(c) for c in wanted]
    ours = metrics.confidence_change(model, images, maps, wanted)
    difference = change.CamMultImageConfidenceChange()(images, maps[:, None].numpy(), softmax, model)
    assert (ours.after - ours.before).numpy() == pytest.approx(difference, abs=1e-6)
    # Targets written for that package work here too.
    again = metrics.road(model, images, maps, theirs, fractions=fractions, noise=0)
    torch.testing.assert_close(again.most, found.most)


def test_road_combined_and_noise():
    model, images, maps = network().eval(), torch.randn(2, 3, 12, 12), torch.rand(2, 12, 12)
    found = metrics.road(model, images, maps, 1)
    assert found.fractions.tolist() == pytest.approx([0.1 * i for i in range(1, 10)])
    torch.testing.assert_close(found.combined, ((found.least - found.most) / 2).mean(1))
    torch.testing.assert_close(metrics.road(model, images, maps, 1, batch_size=5), found, rtol=1e-4, atol=1e-5)
    assert not torch.equal(metrics.road(model, images, maps, 1, seed=1).most, found.most)
    # What was the most relevant is the least relevant of the opposite map.
    turned = metrics.road(model, images, 1 - maps.double(), 1)
    torch.testing.assert_close(turned.least, found.most, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_impute_solves_its_equations(device, dtype):
    images = torch.randn(3, 2, 15, 22, dtype=dtype, device=device)
    missing = torch.rand(3, 15, 22, device=device) < torch.tensor([0.1, 0.6, 0.95], device=device)[:, None, None]
    filled = metrics.impute(images, missing)
    assert filled.dtype == dtype
    keep = ~missing[:, None].expand_as(images)
    assert torch.equal(filled[keep], images[keep])
    weights = torch.tensor([[1, 2, 1], [2, 0, 2], [1, 2, 1]]).numpy() / 12
    for picture, hole in zip(filled.cpu().numpy(), missing.cpu().numpy(), strict=True):
        share = ndimage.convolve(np.ones(hole.shape), weights, mode="constant")
        for channel in picture:
            mean = ndimage.convolve(channel.astype(float), weights, mode="constant") / share
            assert np.abs(channel - mean)[hole].max() < 1e-4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_impute_equals_grad_cam_on_a_large_hole():
    peer = pytest.importorskip("pytorch_grad_cam.metrics.road").NoisyLinearImputer(noise=0)
    image, known = torch.randn(3, 64, 64), torch.ones(64, 64)
    known[5:60, 3:50] = 0
    ours = metrics.impute(image[None], known[None] == 0)[0]
    torch.testing.assert_close(ours, peer(image, known), atol=1e-4, rtol=1e-4)


def test_impute_where_nothing_or_all_is_missing():
    images = torch.randn(2, 3, 4, 5, dtype=torch.bfloat16)
    none = torch.zeros(2, 4, 5, dtype=torch.bool)
    assert torch.equal(metrics.impute(images, none), images)
    assert not metrics.impute(images, ~none).any()
    assert metrics.impute(images[:0], none[:0]).shape == (0, 3, 4, 5)
    one = torch.zeros(1, 1, 1, 1)
    assert metrics.impute(one, torch.ones(1, 1, 1, dtype=torch.bool)).item() == 0


def test_blur_is_the_published_kernel():
    image = np.random.default_rng(0).random((1, 2, 17, 13))
    point = np.zeros((11, 11))
    point[5, 5] = 1
    kernel = ndimage.gaussian_filter(point, 5)
    expected = np.stack([ndimage.convolve(channel, kernel, mode="constant") for channel in image[0]])
    assert metrics.blurred(torch.from_numpy(image))[0].numpy() == pytest.approx(expected, abs=1e-12)


def test_pointing_game_by_hand(device):
    maps = torch.zeros(5, 20, 30, device=device)
    for i, (row, column) in enumerate([(5, 10), (5, 10), (5, 10), (0, 0)]):
        maps[i, row, column] = 1  # the last one stays constant
    boxes = [[10, 5, 11, 6], [13, 9, 20, 12], [13, 10, 20, 12], [1, 1, 1, 9], [0, 0, 30, 20]]
    assert metrics.pointing_game(maps, boxes, tolerance=0).tolist() == [True, False, False, False, False]
    # (10, 5) to (13, 9) is exactly 5; an empty box is never hit, nor anything by a constant map.
    assert metrics.pointing_game(maps, boxes, tolerance=5).tolist() == [True, True, False, False, False]
    several = metrics.pointing_game(maps, boxes, [1, 0, 0, 0, 2], tolerance=5)
    assert several.tolist() == [True, True, True, False, False]
    assert several.device == maps.device
    masks = torch.zeros(5, 20, 30, dtype=torch.bool, device=device)
    masks[0, 5, 10] = masks[1, 9, 13] = masks[2, 10, 13] = masks[4] = True
    assert metrics.pointing_game(maps, masks, tolerance=5).tolist() == [True, True, False, False, False]
    assert metrics.pointing_game(maps, masks, tolerance=0).tolist() == [True, False, False, False, False]


def test_pointing_game_on_boxes_equals_that_on_their_masks():
    maps, rng = torch.rand(40, 12, 16), np.random.default_rng(1)
    boxes = np.array([sorted(rng.choice(17, 2, False)) + sorted(rng.choice(13, 2, False)) for _ in maps])[
        :, [0, 2, 1, 3]
    ]
    masks = torch.zeros(40, 12, 16, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    for tolerance in (0, 1, 2.9, 6):
        hits = metrics.pointing_game(maps, boxes, tolerance=tolerance)
        assert torch.equal(hits, metrics.pointing_game(maps, masks, tolerance=tolerance))
        assert 0 < hits.sum() < 40


def test_the_model_stays_as_it_was_and_runs_in_evaluation_mode():
    model, images, maps = network().train(), torch.randn(2, 3, 8, 8, requires_grad=True), torch.rand(2, 8, 8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    runs = [
        metrics.confidence_change(model, images, maps),
        metrics.deletion(model, images, maps, steps=4),
        metrics.insertion(model, images, maps, steps=4),
        metrics.road(model, images, maps, fractions=[0.5]),
    ]
    for run in runs:
        assert not any(tensor.requires_grad for tensor in run)
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert images.grad is None
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(metrics.deletion(model.eval(), images, maps, steps=4).scores, runs[1].scores)


def test_no_pictures():
    model, images, maps = network(), torch.randn(0, 3, 8, 8), torch.rand(0, 8, 8)
    assert math.isnan(metrics.confidence_change(model, images, maps).average_drop)
    assert metrics.deletion(model, images, maps, steps=4).scores.shape == (0, 5)
    assert metrics.road(model, images, maps).most.shape == (0, 9)
    assert metrics.pointing_game(maps, torch.zeros(0, 4)).shape == (0,)


def test_wrong_use():
    model, images, maps = network(), torch.randn(2, 3, 8, 8), torch.rand(2, 8, 8)
    nan = maps.clone()
    nan[1, 2, 3] = math.nan
    change, deletion, road, point = metrics.confidence_change, metrics.deletion, metrics.road, metrics.pointing_game
    boxes = torch.zeros(2, 4)
    for error, text, call in (
        (ValueError, r"`maps` must be \[2, 8, 8\].*got \[2, 4, 4\]", lambda: change(model, images, maps[:, :4, :4])),
        (ValueError, r"lie in \[0, 1\].*normalise", lambda: change(model, images, maps * 2)),
        (ValueError, "must be finite", lambda: deletion(model, images, nan)),
        (TypeError, "`maps` must be floating", lambda: deletion(model, images, maps > 0.5)),
        (TypeError, "`images` must be floating", lambda: deletion(model, images.byte(), maps)),
        (ValueError, "one entry for each of the 2", lambda: deletion(model, images, maps, [1, 2, 3])),
        (
            ValueError,
            "one for each picture, as there is one map",
            lambda: change(model, images, maps, [[1, 2], [3, 4]]),
        ),
        (ValueError, "class 9 in `targets`", lambda: change(model, images, maps, 9)),
        (ValueError, '"zero", "blur" or a tensor', lambda: deletion(model, images, maps, baseline="black")),
        (ValueError, "`baseline` must broadcast", lambda: deletion(model, images, maps, baseline=torch.zeros(2, 1, 1))),
        (ValueError, "`steps` must be", lambda: deletion(model, images, maps, steps=0)),
        (ValueError, "`score` must be one of", lambda: deletion(model, images, maps, steps=4, score="odds")),
        (ValueError, "`batch_size`", lambda: deletion(model, images, maps, batch_size=0)),
        (ValueError, "`fractions`", lambda: road(model, images, maps, fractions=[0.5, 1])),
        (ValueError, "`fractions`", lambda: road(model, images, maps, fractions=[])),
        (ValueError, "`noise`", lambda: road(model, images, maps, noise=-1)),
        (ValueError, "`tolerance`", lambda: point(maps, boxes, tolerance=-1)),
        (ValueError, "each of the 3 boxes", lambda: point(maps, torch.zeros(3, 4))),
        (ValueError, "each of the 2 boxes", lambda: point(maps, boxes, [0, 2])),
        (ValueError, "finite boxes", lambda: point(maps, torch.zeros(2, 5))),
        (ValueError, "masks must have", lambda: point(maps, maps[:1] > 0.5)),
        (TypeError, "`missing` bool", lambda: metrics.impute(images, maps)),
        (ValueError, r"\[N, H, W\], got", lambda: metrics.impute(images, maps[:1] > 0)),
        (ValueError, "`tolerance`", lambda: metrics.impute(images, maps > 0, tolerance=0)),
    ):
        with pytest.raises(error, match=text):
            call()


@pytest.mark.long
def test_maps_of_real_pictures_beat_their_opposite(shared):
    """Spoonbill and zebra: what Grad-CAM shows matters more to the score than what it does not."""
    model = models.build("mobilenet_v2").eval()
    models.load_weights(model, shared / "weights" / "mobilenet_v2.pt")
    prepare = pictures.Preprocess(mean=(0.5,) * 3, std=(0.5,) * 3)
    files = [shared / "images" / "peers" / name for name in ("water-bird.JPEG", "zebra.jpg")]
    images = torch.stack([prepare(pictures.load_image(file))[0] for file in files])
    cam = fastcam.GradCAM(model)
    maps = cam(images)
    assert cam.targets.tolist() == [129, 340]
    for metric, better in (
        (lambda m: -metrics.confidence_change(model, images, m).drop, "drop"),
        (lambda m: metrics.insertion(model, images, m, steps=5).auc, "insertion"),
        (lambda m: -metrics.deletion(model, images, m, steps=5).auc, "deletion"),
        (lambda m: metrics.road(model, images, m, fractions=[0.3]).combined, "road"),
    ):
        assert (metric(maps) > metric(1 - maps)).all(), better
