"""Drawing: against the definition in NumPy, and the drop-in against the package that it stands in for."""

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from fastcam import visualize

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (30, 40, 3), np.uint8)
MAP = RNG.random((30, 40), np.float32)


@pytest.mark.parametrize(("image_weight", "map_weight"), [(0.5, 0.7), (0.5, 0.3), (1, 0), (0, 1), (1, 2)])
def test_overlay_is_the_saturated_weighted_sum(image_weight, map_weight):
    heat = cv2.applyColorMap((255 * MAP).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    exact = map_weight * heat.astype(float) + image_weight * PICTURE
    got = visualize.overlay(PICTURE, MAP, image_weight, map_weight)
    assert got.dtype == np.uint8
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.501


def test_overlay_takes_pictures_of_several_kinds():
    expected = visualize.overlay(PICTURE, MAP)
    for image in (Image.fromarray(PICTURE), torch.from_numpy(PICTURE), PICTURE / 255, PICTURE.astype(np.float32) / 255):
        assert np.array_equal(visualize.overlay(image, torch.from_numpy(MAP)), expected)
    assert not np.array_equal(visualize.overlay(PICTURE, MAP, colormap=cv2.COLORMAP_VIRIDIS), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"use_rgb": True}, {"colormap": cv2.COLORMAP_HOT, "image_weight": 0.8}])
def test_show_cam_on_image_equals_the_popular_package(dtype, options):
    peer = pytest.importorskip("pytorch_grad_cam.utils.image").show_cam_on_image
    for image in (PICTURE / 255, PICTURE * 0.3 / 255):
        image = image.astype(dtype)
        for mask in (MAP, np.zeros_like(MAP)):
            assert np.array_equal(visualize.show_cam_on_image(image, mask, **options), peer(image, mask, **options))


def test_show_cam_on_a_black_picture():
    black = visualize.show_cam_on_image(np.zeros((4, 4, 3)), np.zeros((4, 4)), image_weight=1)
    assert not black.any()


def test_boxes_are_half_open():
    drawn = visualize.draw_boxes(np.zeros((40, 50, 3), np.uint8), [10, 5, 30, 25], color=(0, 255, 0), thickness=1)
    rows, columns = np.nonzero(drawn[..., 1] == 255)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 5, 30, 25)
    assert not drawn[..., 0].any()


def test_boxes_are_clipped_and_empty_ones_left_out():
    picture = np.full((40, 50, 3), 200, np.uint8)
    for boxes in ([], np.zeros((0, 4)), [0, 0, 0, 0], [[9, 9, 9, 20], [60, 60, 80, 80]], torch.zeros(3, 4)):
        assert np.array_equal(visualize.draw_boxes(picture, boxes), picture)
    drawn = visualize.draw_boxes(picture, [[-100, -100, 1e9, 1e9]], color=(1, 2, 3), thickness=1)
    assert (drawn[0] == (1, 2, 3)).all()
    assert (drawn[:, -1] == (1, 2, 3)).all()
    assert (picture == 200).all()


def test_panel_holds_picture_map_and_overlay():
    drawn = visualize.panel(PICTURE, MAP, [5, 5, 20, 20], [[8, 8, 25, 25]], gap=3)
    assert drawn.shape == (30, 126, 3)
    assert np.array_equal(drawn[:, :40], PICTURE)
    assert np.array_equal(drawn[:, 43:83], visualize.colorize(MAP))
    assert (drawn[:, 86:] == visualize.PREDICTED).all(2).any()
    assert (drawn[:, 86:] == visualize.TRUTH).all(2).any()


def test_pictures_and_maps_are_checked():
    nan = MAP.copy()
    nan[3, 3] = np.nan
    for image, map, error, text in (
        (PICTURE.astype(int), MAP, TypeError, "uint8, or floating"),
        (PICTURE[..., 0], MAP, ValueError, r"\[H, W, 3\], got \[30, 40\]"),
        (PICTURE * 1.0, MAP, ValueError, r"lie in \[0, 1\]"),
        (PICTURE, MAP * 2, ValueError, r"`map` must lie in \[0, 1\]"),
        (PICTURE, nan, ValueError, r"`map` must lie in \[0, 1\]"),
        (PICTURE, MAP[None], ValueError, r"`map` must be \[H, W\], got \[1, 30, 40\]"),
        (PICTURE, (MAP * 255).astype(np.uint8), TypeError, "`map` must be floating"),
        (PICTURE, MAP[:20], ValueError, r"\(30, 40\), got \(20, 40\); resize"),
    ):
        with pytest.raises(error, match=text):
            visualize.overlay(image, map)
    with pytest.raises(ValueError, match="`map_weight` must be"):
        visualize.overlay(PICTURE, MAP, map_weight=-1)
    with pytest.raises(TypeError, match="divide it by 255"):
        visualize.show_cam_on_image(PICTURE, MAP)
    with pytest.raises(ValueError, match="`image_weight` must lie"):
        visualize.show_cam_on_image(PICTURE / 255, MAP, image_weight=1.5)
    with pytest.raises(ValueError, match="height and width of `img`"):
        visualize.show_cam_on_image(PICTURE / 255, MAP.T)
    for boxes, text in (([1, 2, 3], r"got \[3\]"), ([[0, 0, np.nan, 4]], "finite")):
        with pytest.raises(ValueError, match=text):
            visualize.draw_boxes(PICTURE, boxes)


def test_training_curve_draws_training_in_blue_and_test_in_red(tmp_path):
    history = [
        {
            "epoch": n,
            "train_loss": 2 / n,
            "train_accuracy": 1 - 1 / n,
            "test_loss": 2.5 / n,
            "test_accuracy": 0.9 - 1 / n,
        }
        for n in range(1, 6)
    ]
    history[0]["test_loss"] = None

    def colours(history) -> tuple[int, int]:
        with Image.open(visualize.training_curve(history, tmp_path / "curve.png")) as image:
            red, green, blue = np.array(image.convert("RGB")).astype(int).transpose(2, 0, 1)
        return int(((red > 180) & (green < 90) & (blue < 90)).sum()), int(((blue > 150) & (red < 90)).sum())

    red, blue = colours(history)
    assert red > 300
    assert blue > 300
    red, blue = colours([{"epoch": e["epoch"], "train_loss": e["train_loss"]} for e in history])
    assert red == 0
    assert blue > 150
    assert visualize.training_curve(history[:1], tmp_path / "one.svg").read_text().startswith("<?xml")
    for bad in ([], [{"train_loss": 1.0}]):
        with pytest.raises(ValueError, match="`history` must be"):
            visualize.training_curve(bad, tmp_path / "no.png")
