"""Drawing: against the definition in NumPy, and the drop-in against the package that it stands in for."""

import cv2
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image
from scipy import ndimage

from fastcam import drawing, ops
from fastcam.drawing import Cell

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (30, 40, 3), np.uint8)
MAP = RNG.random((30, 40), np.float32)


@pytest.mark.parametrize(("image_weight", "map_weight"), [(0.5, 0.7), (0.5, 0.3), (1, 0), (0, 1), (1, 2)])
def test_overlay_is_the_saturated_weighted_sum(image_weight, map_weight):
    heat = cv2.applyColorMap((255 * MAP).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1]
    exact = map_weight * heat.astype(float) + image_weight * PICTURE
    got = drawing.overlay(PICTURE, MAP, image_weight, map_weight)
    assert got.dtype == np.uint8
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.501


def test_overlay_takes_pictures_of_several_kinds():
    expected = drawing.overlay(PICTURE, MAP)
    for image in (Image.fromarray(PICTURE), torch.from_numpy(PICTURE), PICTURE / 255, PICTURE.astype(np.float32) / 255):
        assert np.array_equal(drawing.overlay(image, torch.from_numpy(MAP)), expected)
    assert not np.array_equal(drawing.overlay(PICTURE, MAP, colormap=cv2.COLORMAP_VIRIDIS), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", [{}, {"use_rgb": True}, {"colormap": cv2.COLORMAP_HOT, "image_weight": 0.8}])
def test_show_cam_on_image_equals_the_popular_package(dtype, options):
    peer = pytest.importorskip("pytorch_grad_cam.utils.image").show_cam_on_image
    for image in (PICTURE / 255, PICTURE * 0.3 / 255):
        image = image.astype(dtype)
        for mask in (MAP, np.zeros_like(MAP)):
            assert np.array_equal(drawing.show_cam_on_image(image, mask, **options), peer(image, mask, **options))


def test_show_cam_on_a_black_picture():
    black = drawing.show_cam_on_image(np.zeros((4, 4, 3)), np.zeros((4, 4)), image_weight=1)
    assert not black.any()


def test_labels_lie_over_the_picture_in_their_colours():
    picture, labels = np.full((2, 3, 3), 100, np.uint8), np.array([[0, 1, 2], [15, 255, 0]], np.uint8)
    got = drawing.overlay_labels(picture, labels)
    known = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 255: (255, 255, 255)}  # 15: person
    for place, value in np.ndenumerate(labels):
        share = 0.65 if value else 0.15
        assert np.abs(got[place] - (100 * (1 - share) + share * np.array(known[int(value)]))).max() <= 0.5
    assert (picture == 100).all()
    with pytest.raises(TypeError, match="`labels` must be uint8, got int64"):
        drawing.overlay_labels(picture, labels.astype(np.int64))
    with pytest.raises(ValueError, match="`labels` must have the picture's height and width"):
        drawing.overlay_labels(picture, labels.T)


def test_boxes_are_half_open():
    drawn = drawing.draw_boxes(np.zeros((40, 50, 3), np.uint8), [10, 5, 30, 25], color=(0, 255, 0), thickness=1)
    rows, columns = np.nonzero(drawn[..., 1] == 255)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (10, 5, 30, 25)
    assert not drawn[..., 0].any()


def test_boxes_are_clipped_and_empty_ones_left_out():
    picture = np.full((40, 50, 3), 200, np.uint8)
    for boxes in ([], np.zeros((0, 4)), [0, 0, 0, 0], [[9, 9, 9, 20], [60, 60, 80, 80]], torch.zeros(3, 4)):
        assert np.array_equal(drawing.draw_boxes(picture, boxes), picture)
    drawn = drawing.draw_boxes(picture, [[-100, -100, 1e9, 1e9]], color=(1, 2, 3), thickness=1)
    assert (drawn[0] == (1, 2, 3)).all()
    assert (drawn[:, -1] == (1, 2, 3)).all()
    assert (picture == 200).all()


def test_panel_holds_picture_map_and_overlay():
    drawn = drawing.panel(PICTURE, MAP, [5, 5, 20, 20], [[8, 8, 25, 25]], gap=3)
    assert drawn.shape == (30, 126, 3)
    assert np.array_equal(drawn[:, :40], PICTURE)
    assert np.array_equal(drawn[:, 43:83], drawing.colorize(MAP))
    assert (drawn[:, 86:] == drawing.PREDICTED).all(2).any()
    assert (drawn[:, 86:] == drawing.TRUTH).all(2).any()


def test_overlay_by_hand():
    """JET's ends and middle as cv2.applyColorMap gives them in BGR: (128, 0, 0), (130, 255, 126), (0, 0, 128)."""
    ramp = np.array([[0, 127 / 255, 1.0]])
    assert cv2.applyColorMap(np.uint8([[0, 127, 255]]), cv2.COLORMAP_JET).tolist() == [
        [[128, 0, 0], [130, 255, 126], [0, 0, 128]]
    ]
    picture = np.array([[[200, 100, 250], [254, 255, 254], [0, 10, 20]]], np.uint8)
    # 0.7·heat + 0.5·picture: 0.7·128 + 125 = 214.6; 0.7·126 + 127 = 215.2; 0.7·255 + 127.5 = 306 saturates.
    assert drawing.overlay(picture, ramp).tolist() == [[[100, 50, 215], [215, 255, 218], [90, 5, 10]]]
    assert drawing.overlay(picture, ramp, 0.5, 0.3).tolist() == [[[100, 50, 163], [165, 204, 166], [38, 5, 10]]]


def test_deprocess_is_the_usual_display_of_gradients():
    peer = pytest.importorskip("pytorch_grad_cam.utils.image").deprocess_image
    gradients = RNG.normal(0.01, 0.003, (3, 20, 30)).astype(np.float32)
    shown = drawing.deprocess(torch.from_numpy(gradients))
    assert shown.shape == (20, 30, 3)
    # A sum in another order may fall on the other side of a whole number.
    assert np.abs(shown.astype(int) - peer(gradients.transpose(1, 2, 0))).max() <= 1
    exact = (gradients - gradients.mean(dtype=float)) / (gradients.std(dtype=float) + 1e-5) * 0.1 + 0.5
    assert np.abs(shown.transpose(2, 0, 1) + 0.5 - 255 * exact.clip(0, 1)).max() <= 0.51
    assert (drawing.deprocess(np.zeros((3, 4, 5))) == 127).all()
    for bad, error, text in (
        (gradients.transpose(1, 2, 0), ValueError, r"\[3, H, W\], got \[20, 30, 3\]"),
        (gradients.astype(int), TypeError, "must be floating"),
        (gradients * np.nan, ValueError, "finite"),
    ):
        with pytest.raises(error, match=text):
            drawing.deprocess(bad)


@pytest.mark.parametrize("threshold", [0, 0.2, 0.6, 0.95])
def test_component_boxes_are_those_of_scipy(threshold):
    for seed in range(20):
        map = ndimage.gaussian_filter(np.random.default_rng(seed).random((40, 50)), 1.5).astype(np.float32)
        map = (map - map.min()) / np.float32(1.5 * np.ptp(map))  # whose maximum is not 1
        for connectivity, structure in ((4, None), (8, np.ones((3, 3)))):
            labels, _ = ndimage.label(map > np.float32(threshold) * map.max(), structure)
            expected = [(x.start, y.start, x.stop, y.stop) for y, x in ndimage.find_objects(labels)]
            found = drawing.component_boxes(map, threshold, connectivity)
            assert sorted(expected) == sorted(tuple(box) for box in found.tolist())


def test_component_boxes_of_two_blobs():
    map = np.zeros((30, 40), np.float32)
    map[3:9, 5:15] = 1
    map[15:20, 30:38] = 0.7
    map[25, 1] = 0.5
    assert drawing.component_boxes(map).tolist() == [[5, 3, 15, 9], [30, 15, 38, 20]]
    assert drawing.component_boxes(torch.from_numpy(map), 0.4).tolist()[2] == [1, 25, 2, 26]
    assert ops.boxes(torch.from_numpy(map)[None], (30, 40), 0.2).tolist() == [[5, 3, 15, 9]]  # the largest alone
    assert drawing.component_boxes(0 * map).shape == (0, 4)
    for bad in (1, -0.1, np.nan):
        with pytest.raises(ValueError, match="`threshold` must be"):
            drawing.component_boxes(map, bad)


def texts(figure) -> list[Text]:
    FigureCanvasAgg(figure).draw()
    return [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("shape", [(30, 40), (200, 60), (60, 200)])
def test_grid_shows_every_picture_and_clips_no_text(shape):
    picture = RNG.integers(0, 256, (*shape, 3), np.uint8)
    rows = [
        [
            Cell(picture, "a long title of a picture that has to be wrapped"),
            Cell(picture / 255, "map\nlayer1 56×56"),
            None,
        ],
        [Cell(picture), Cell(picture), Cell(picture, "last")],
    ]
    figure = drawing.grid(
        rows, ["281 tabby, tabby cat\n45.3%", "a class of a very long name, or of several\n1%"], "name.jpg"
    )
    found = texts(figure)
    shown = [image.get_array() for axes in figure.axes for image in axes.images]
    assert len(shown) == 5
    assert all(np.array_equal(array, picture) for array in shown)
    boxes = [text.get_window_extent() for text in found]
    for text, box in zip(found, boxes, strict=True):
        assert min(box.x0, box.y0) >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[i + 1 :])
    for axes in figure.axes:
        if axes.images:
            inside = axes.get_window_extent()
            assert inside.width * inside.height > 0.5 * (2.4 * figure.dpi) ** 2 * min(shape) / max(shape)
            assert not any(inside.padded(-1).overlaps(box) for box in boxes)


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("test/lemon/000.jpg", "test/lemon/\n000.jpg"),
        ("a/of_a_long_name/00000.jpg", "a/of_a_long_\nname/\n00000.jpg"),
        ("281 tabby, tabby cat", "281 tabby,\ntabby cat"),
        ("0123456789abcdefghij", "0123456789ab\ncdefghij"),
    ],
)
def test_a_long_id_breaks_between_its_parts(label, lines):
    figure = drawing.grid([[Cell(PICTURE)]], [label], side=1.4)
    assert figure.axes[0].get_ylabel() == lines


def test_grid_is_saved_and_checked(tmp_path):
    figure = drawing.grid([[Cell(PICTURE, "picture")]])
    assert drawing.save(figure, tmp_path / "a" / "figure.png") == tmp_path / "a" / "figure.png"
    with Image.open(tmp_path / "a" / "figure.png") as image:
        assert image.width > 200
    for rows, labels, text in (
        ([], (), "at least one cell"),
        ([[None]], (), "at least one"),
        ([[Cell(PICTURE)]], "ab", "1 rows"),
    ):
        with pytest.raises(ValueError, match=text):
            drawing.grid(rows, labels)
    with pytest.raises(ValueError, match="`side`"):
        drawing.grid([[Cell(PICTURE)]], side=0)
    with pytest.raises(TypeError, match="uint8, or floating"):
        drawing.grid([[Cell(PICTURE.astype(int))]])
    with pytest.raises(ValueError, match="bmp9"):
        drawing.save(figure, tmp_path / "figure.bmp9")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_results_are_numbered_pictures(tmp_path):
    paths = drawing.save_results(tmp_path / "out", 7, PICTURE, MAP, [5, 5, 20, 20])
    assert [path.name for path in paths] == ["img7.png", "cam7.png", "Result7.png"]
    image, cam, result = (np.array(Image.open(path)) for path in paths)
    assert np.array_equal(image, PICTURE)
    assert np.array_equal(cam, cv2.applyColorMap((255 * MAP).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1])
    expected = drawing.draw_boxes(drawing.overlay(PICTURE, MAP, 0.5, 0.3), [5, 5, 20, 20])
    assert np.array_equal(result, expected)


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
            drawing.overlay(image, map)
    with pytest.raises(ValueError, match="`map_weight` must be"):
        drawing.overlay(PICTURE, MAP, map_weight=-1)
    with pytest.raises(TypeError, match="divide it by 255"):
        drawing.show_cam_on_image(PICTURE, MAP)
    with pytest.raises(ValueError, match="`image_weight` must lie"):
        drawing.show_cam_on_image(PICTURE / 255, MAP, image_weight=1.5)
    with pytest.raises(ValueError, match="height and width of `img`"):
        drawing.show_cam_on_image(PICTURE / 255, MAP.T)
    for boxes, text in (([1, 2, 3], r"got \[3\]"), ([[0, 0, np.nan, 4]], "finite")):
        with pytest.raises(ValueError, match=text):
            drawing.draw_boxes(PICTURE, boxes)


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
        with Image.open(drawing.training_curve(history, tmp_path / "curve.png")) as image:
            red, green, blue = np.array(image.convert("RGB")).astype(int).transpose(2, 0, 1)
        return int(((red > 180) & (green < 90) & (blue < 90)).sum()), int(((blue > 150) & (red < 90)).sum())

    red, blue = colours(history)
    assert red > 300
    assert blue > 300
    red, blue = colours([{"epoch": e["epoch"], "train_loss": e["train_loss"]} for e in history])
    assert red == 0
    assert blue > 150
    assert drawing.training_curve(history[:1], tmp_path / "one.svg").read_text().startswith("<?xml")
    several = [{"epoch": n, "test_mAP": 0.5 + n / 20, "test_accuracy": 0.5} for n in range(1, 6)]
    red, blue = colours(several)
    assert red > 150
    assert blue == 0
    assert colours([e | {"train_exact_match": 0.2} for e in several])[1] > 50
    for bad in ([], [{"train_loss": 1.0}]):
        with pytest.raises(ValueError, match="`history` must be"):
            drawing.training_curve(bad, tmp_path / "no.png")
