"""Which pictures get a card, what it says, and its small picture and map."""

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from fastcam.data import Pictures
from fastcam.report import write_report
from fastcam.report.cards import Choice, entries
from tests.support.reports import Page, photos, row, with_maps, write_run


def test_what_cards_say(run):
    page = Page(write_report(run).path)
    assert page.data["names"] == ["cat", "dog"]
    card = page.cards["dog/c.png"]
    assert card["size"] == [100, 50]
    assert card["rows"] == [[0, 0.71, 1, [0, 0, 100, 50]], [1, 0.29, 2, [0, 0, 10, 10]]]
    assert (card["label"], card["quality"], card["margin"], card["iou"]) == (1, -0.71, 0.42, None)
    assert page.cards["dog/d.png"]["rows"][0] == [1, 0.82, 1, None]
    assert page.cards["dog/odd.png"]["error"] == ["damaged", "a: b"]
    assert page.cards["dog/odd.png"]["label"] == 1
    kinds = {id: card["kinds"] for id, card in page.cards.items()}
    assert kinds["dog/c.png"] == ["best", "worst", "uncertain", "wrong"]
    assert kinds["cat/broken.png"] == ["error"]


def test_per_class_limits_each_kind(run):
    page = Page(write_report(run, per_class=1, folder_labels=False).path)
    kinds = {id: card["kinds"] for id, card in page.cards.items()}
    # Of class cat a has the highest score, b the lowest and the smallest lead; d is the only one of dog.
    assert kinds == {
        "cat/a.png": ["best"],
        "cat/b.png": ["worst", "uncertain"],
        "dog/d.png": ["best", "worst", "uncertain"],
        "cat/broken.png": ["error"],
        "dog/gone.png": ["error"],
    }


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.floats(allow_infinity=True, width=16)), max_size=60), st.integers(1, 4)
)
def test_the_choice_is_that_of_sorting_everything(offered, number):
    chosen = Choice(number)
    groups, keys = (np.array(column) for column in (zip(*offered, strict=True) if offered else ((), ())))
    rows = np.arange(len(offered))
    every = entries(rows, rows + 1, quality=keys, margin=keys, iou=keys)
    for part in np.array_split(rows, 3):
        chosen.offer("best", every[part], groups[part].astype(int), keys[part].astype(float))
    usable = [(group, key, i) for i, (group, key) in enumerate(offered) if group >= 0 and np.isfinite(key)]
    expected = [i for g in range(4) for _, _, i in sorted(entry for entry in usable if entry[0] == g)[:number]]
    cards = chosen.cards()
    assert [card.first for card in cards] == sorted(expected)
    assert [card.count for card in cards] == [card.first + 1 for card in cards]
    # The first of all come first, then the first of each group.
    overall = [i for _, _, i in sorted(((key, g, i) for g, key, i in usable if i in expected), key=lambda e: e[::2])]
    order = sorted(cards, key=lambda card: card.place)
    assert sorted(card.place for card in cards) == list(range(len(cards)))
    assert {card.first for card in order[:number]} == set(overall[:number])


def test_there_are_never_too_many_cards(monkeypatch):
    monkeypatch.setattr("fastcam.report.cards.ALL_CARDS", 5)
    chosen, rows = Choice(2), np.arange(20)
    every = entries(rows, rows, quality=rows, margin=rows, iou=rows)
    chosen.offer("best", every, rows % 4, -rows.astype(float))
    # 19 and 18 are the first of all, then come the first of the groups left, and of the seconds the first in the table.
    assert [card.first for card in chosen.cards()] == [12, 16, 17, 18, 19]


def test_pictures_are_small_and_few(run, tmp_path):
    images = photos(tmp_path / "images", "cat/a.png", "cat/b.png", "dog/c.png", "dog/d.png", "dog/odd.png")
    summary = write_report(run, images=images)
    assert summary.thumbnails == 4
    page = Page(summary.path)
    # Numbers are those of the cards, in the order of the table: the third is an error.
    assert [name for name in page.scripts if name and name != "data"] == [
        "picture0",
        "picture1",
        "picture3",
        "picture4",
    ]
    picture = page.picture("picture1")
    assert picture.shape == (128, 256, 3)
    assert np.abs(picture - (40, 200, 40)).max() < 4
    assert write_report(run, images=images, pictures=2).thumbnails == 2
    assert write_report(run, images=images, pictures=0).thumbnails == 0
    assert len(summary.path.read_bytes()) < 40_000


def test_where_pictures_lie_is_in_the_list_of_inputs_or_the_data_set(tmp_path):
    images = photos(tmp_path / "images", "a.png", "b.png")
    run = write_run(tmp_path / "run", [row("a.png", "cat", 0.5), row("b.png", "cat", 0.5)])
    assert write_report(run).thumbnails == 0
    assert write_report(run, data=Pictures(images, ["a.png"], labels=[0])).thumbnails == 1
    pack = tmp_path / "pack"
    pack.write_bytes(b"x" * 10 + (images / "b.png").read_bytes() + b"x" * 10)
    inputs = {
        "key": ["a.png", "b.png", "c.png"],
        "path": [bytes(images / "a.png"), bytes(pack), bytes(tmp_path / "c.png")],
        "offset": pa.array([None, 10, None], pa.int64()),
        "length": pa.array([None, (images / "b.png").stat().st_size, None], pa.int64()),
    }
    pq.write_table(pa.table(inputs), run / "inputs.parquet")
    summary = write_report(run)
    assert summary.thumbnails == 2
    assert np.abs(Page(summary.path).picture("picture1") - (40, 200, 40)).max() < 4
    assert write_report(run, images=tmp_path).thumbnails == 0


@pytest.mark.parametrize("id", ["../secret.png", "/secret.png", "x/../../secret.png", "{absolute}", "secret.png\0"])
def test_ids_do_not_lead_out_of_the_folder(id, tmp_path):
    photos(tmp_path, "secret.png", "images/a.png", "images/x/a.png")
    id = id.replace("{absolute}", str(tmp_path / "secret.png"))
    run = write_run(tmp_path / "run", [row(id, "cat", 0.5)])
    assert write_report(run, images=tmp_path / "images").thumbnails == 0


def test_damaged_pictures_leave_an_empty_frame(tmp_path):
    run = write_run(tmp_path / "run", [row("a.png", "cat", 0.5), row("folder", "cat", 0.5)])
    (tmp_path / "folder").mkdir()
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert write_report(run, images=tmp_path).thumbnails == 0


def test_maps_are_upsampled_as_the_run_did(tmp_path):
    coarse = np.random.default_rng(0).normal(size=(7, 7)).astype(np.float16)
    run = with_maps(tmp_path, [coarse, None, coarse * 0, coarse], method="cam", relu=None, size=224, resize="squash")
    page = Page(write_report(run).path)
    # The oracle: OpenCV's bilinear interpolation of the whole map to the small picture's size; CAM has no ReLU.
    wide = cv2.resize(coarse.astype(np.float32), (256, 128), interpolation=cv2.INTER_LINEAR)
    wide = (wide - wide.min()) / (wide.max() - wide.min())
    expected = cv2.applyColorMap((255 * wide).astype(np.uint8), cv2.COLORMAP_JET)[..., ::-1].astype(int)
    assert np.abs(page.picture("map0") - expected).mean() < 6
    assert "map1" not in page.scripts
    assert np.ptp(page.picture("map2").reshape(-1, 3), axis=0).max() == 0
    assert "Map over picture" in page.text
    clipped = Page(write_report(with_maps(tmp_path, [coarse], method="cam", relu=True)).path).picture("map0")
    assert np.abs(clipped - expected).mean() > 6


def test_maps_of_a_cropped_frame_lie_in_the_middle(tmp_path):
    # Of 640x320, Resize(256) and CenterCrop(224) see the middle 280x280 pixels: columns 180 to 460, rows 20 to 300.
    page = Page(write_report(with_maps(tmp_path, [np.eye(2) + 1], method="gradcam", resize="crop")).path)
    nothing = np.array([0, 0, 128])
    inside = np.abs(page.picture("map0") - nothing).max(2) > 40
    columns = np.flatnonzero(inside.any(0))
    assert abs(columns.min() - 180 * 0.4) < 3
    assert abs(columns.max() - 460 * 0.4) < 3


@pytest.mark.parametrize("damage", [{"cam": b"123"}, {"cam_height": 0}, {"cam_height": -7, "cam_width": -7}])
def test_maps_that_do_not_fit_their_shape_are_left_out(tmp_path, damage):
    run = with_maps(tmp_path, [np.ones((7, 7))])
    table = pq.read_table(run / "boxes.parquet")
    for name, value in damage.items():
        index = table.column_names.index(name)
        table = table.set_column(index, name, pa.array([value], table.schema.field(name).type))
    pq.write_table(table, run / "boxes.parquet")
    assert "map0" not in Page(write_report(run).path).scripts
