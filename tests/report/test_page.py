"""The report of a run: its figures against hand-computed ones, what gets a card, and that no text becomes markup."""

import base64
import io
import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st
from PIL import Image
from typer.testing import CliRunner

from fastcam import cli
from fastcam.data import Pictures
from fastcam.data.shapes import Shapes
from fastcam.report import charts, choice, tables, write_report
from fastcam.report.statistics import Statistics
from fastcam.report.truth import Classes, Truth
from tests.support.reports import EVIL, failed, photos, row, table_of, with_maps, write_run


class Page(HTMLParser):
    """The page as a browser's parser sees it: tags, texts outside of scripts, and what scripts hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self._inside: dict | None = None
        self.feed(path.read_text(encoding="utf-8"))
        self.data = json.loads(self.scripts["data"])
        self.cards = {card["id"]: card for card in self.data["cards"]}

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self._inside = dict(attributes)
            self.scripts[self._inside.get("id")] = ""

    def handle_endtag(self, tag):
        self._inside = None if tag == "script" else self._inside

    def handle_data(self, data):
        if self._inside is None:
            self.words.append(data)
        else:
            self.scripts[self._inside.get("id")] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def picture(self, name: str) -> np.ndarray:
        kind, data = self.scripts[name].split(",")
        assert kind == "data:image/jpeg;base64"
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int)


ROWS = [
    row("cat/a.png", "cat", 0.92, (0, 0, 50, 50)),
    row("cat/a.png", "dog", 0.08, (0, 0, 100, 50), 2),
    row("cat/b.png", "cat", 0.62, (0, 0, 10, 50)),
    row("cat/b.png", "dog", 0.38, (0, 0, 10, 10), 2),
    failed("cat/broken.png", "damaged: cut off"),
    row("dog/c.png", "cat", 0.71, (0, 0, 100, 50)),
    row("dog/c.png", "dog", 0.29, (0, 0, 10, 10), 2),
    row("dog/d.png", "dog", 0.82),
    row("dog/d.png", "cat", 0.18, (0, 0, 1, 1), 2),
    failed("dog/gone.png", "unreadable: No such file"),
    failed("dog/odd.png", "damaged: a: b"),
]


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "run", ROWS, method="cam", threshold=0.2)


def counted(run, truth=None, number=10) -> tuple[Statistics, choice.Choice]:
    table, chosen = tables.Table(run), choice.Choice(number)
    return Statistics(table, Classes(table.classes(), truth), truth, chosen), chosen


def test_counts_are_those_of_the_table(run):
    truth = Truth.of_folders(tables.Table(run).ids(), ["cat", "dog"])
    found, _ = counted(run, truth)
    assert (found.pictures, found.rows, found.empty) == (7, 11, 1)
    assert found.errors == {"damaged": 2, "unreadable": 1}
    assert found.examples == {
        "damaged": [("cat/broken.png", "cut off"), ("dog/odd.png", "a: b")],
        "unreadable": [("dog/gone.png", "No such file")],
    }
    assert found.found == {0: 3, 1: 1}
    assert found.confusion == {(0, 0): 2, (1, 0): 1, (1, 1): 1}
    wrong, right, unknown = found.scores
    assert np.flatnonzero(wrong).tolist() == [14]
    assert np.flatnonzero(right).tolist() == [12, 16, 18]
    assert not unknown.any()
    # Shares of the area: 0.5, 1, 0.1, 0.02, 1, 0.02 and 0.0002; the empty box is counted apart.
    assert dict(enumerate(found.areas.tolist()), **{}) == dict.fromkeys(range(20), 0) | {0: 3, 2: 1, 10: 1, 19: 2}
    assert found.second
    assert found.ranked == "label"


def test_figures_on_the_page(run):
    summary = write_report(run)
    assert summary[1:] == (7, 3, 4, 7, 0, True, False)
    page = Page(summary.path)
    for words in ("pictures 7 errors 3 rows 11 classes found 2 rows without a box 1 class right, of 4 75.0 %",):
        assert words in page.text
    assert "damaged 2 cat/broken.png cut off dog/odd.png a: b unreadable 1" in page.text
    assert "threshold 0.2" in page.text
    assert "names of folders" in page.text
    titles = [words for words in page.words if re.match(r"0\.\d\d–", words)]
    scores = ["0.60–0.65: 1 right", "0.70–0.75: 1 wrong", "0.80–0.85: 1 right", "0.90–0.95: 1 right"]
    assert titles == [*scores, "0.00–0.05: 3", "0.10–0.15: 1", "0.50–0.55: 1", "0.95–1.00: 2"]
    cells = [(a["data-label"], a["data-found"]) for tag, a in page.tags if tag == "button" and "data-label" in a]
    assert cells == [("0", "0"), ("1", "0"), ("1", "1")]


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


def test_labels_come_from_folders_only_where_these_are_called_like_classes(run, tmp_path):
    assert write_report(run).labelled == 4
    assert write_report(run, folder_labels=False).labelled == 0
    other = write_run(tmp_path / "other", [row(f"{i}/{j}.png", "cat", 0.5) for i in range(2) for j in range(2)])
    assert write_report(other).labelled == 0
    assert "Confusion" not in Page(other / "report.html").text
    assert write_report(other, folder_labels=True).labelled == 4
    assert "class right, of 4 0.0 %" in Page(other / "report.html").text


def test_a_class_that_was_never_found_counts_as_wrong(tmp_path):
    rows = [row("cat/a.png", "cat", 0.5), row("cat/b.png", "cat", 0.5), row("yak/c.png", "cat", 0.5)]
    page = Page(write_report(write_run(tmp_path, rows)).path)
    assert "class right, of 3 66.7 %" in page.text
    assert page.data["names"] == ["cat", "yak"]


def test_labels_and_boxes_of_a_data_set(tmp_path):
    # Labels of the data set are numbered otherwise and meet by name; its boxes are in a frame of twice the size.
    rows = [
        row("a.png", "cat", 0.9, (0, 0, 50, 50)),
        row("b.png", "cat", 0.8, (50, 0, 100, 50)),
        row("c.png", "dog", 0.7, (0, 0, 10, 10)),
        row("new.png", "dog", 0.7),
    ]
    boxes = [[[0, 0, 100, 100]], [[0, 0, 50, 50], [100, 0, 200, 50]], [[100, 0, 200, 100]]]
    data = Pictures(
        tmp_path,
        ["val/a.png", "val/b.png", "val/c.png"],
        labels=[2, 1, 1],
        boxes=[np.array(b, np.float32) for b in boxes],
        sizes=[(200, 100)] * 3,
        class_names=("ant", "dog", "cat"),
    )
    summary = write_report(write_run(tmp_path / "run", rows), data=data)
    assert summary.labelled == 3
    page = Page(summary.path)
    assert [page.cards[f"{name}.png"]["iou"] for name in ("a", "b", "c", "new")] == [1, 0.5, 0, None]
    assert [page.cards[f"{name}.png"]["quality"] for name in ("a", "b", "c", "new")] == [1, 0.5, 0, None]
    assert page.cards["b.png"]["truth"] == [[0, 0, 25, 25], [50, 0, 100, 25]]
    assert "class right, of 3 66.7 %" in page.text
    assert "box right (IoU ≥ 0.5), of 3 66.7 %" in page.text
    assert "best" not in page.cards["new.png"]["kinds"]


def test_labels_of_a_data_set_without_files(tmp_path):
    data = Shapes("val", 4, seed=0)
    rows = [row(id, name, 0.5, classes=data.class_names) for id, name in zip(data.ids, data.class_names, strict=False)]
    summary = write_report(write_run(tmp_path, rows), data=data)
    assert summary.labelled == len(rows)
    truth = {data[i].id: data[i] for i in range(4)}
    for id, card in Page(summary.path).cards.items():
        assert card["label"] == truth[id].label
        assert np.allclose(card["truth"], truth[id].boxes / data.size * (100, 50, 100, 50), atol=0.1)


@pytest.mark.parametrize(
    ("found", "names", "labels", "expected"),
    [
        ({0: "cat", 1: "dog"}, ("cat", "dog", "eel"), [1, 2], {1: 1, 2: 2}),  # the same numbers
        ({0: "cat", 1: "dog"}, ("dog", "cat"), [0, 1], {0: 1, 1: 0}),  # other numbers
        ({0: "cat", 1: "dog"}, ("ant", "dog", "cat"), [1, 2], {1: 1, 2: 0}),  # one of them the same by chance
        ({0: "cat", 1: "dog", 2: "bird"}, ("cat", "dog", "fowl"), [0, 2], {0: 0, 2: 2}),  # names differ a little
        ({5: None, 7: None}, (), [5, 6], {5: 0, 6: 2}),  # no names
        ({0: "crane", 1: "crane"}, ("crane", "crane"), [1, 0], {0: 0, 1: 1}),  # two of one name
        ({0: "n01", 1: "n02"}, ("cat", "dog"), [0, 1], {0: 0, 1: 1}),  # names in two languages
    ],
)
def test_classes_and_labels_meet(found, names, labels, expected):
    truth = Truth("here", names)
    truth.labels = {str(i): label for i, label in enumerate(labels)}
    classes = Classes(found, truth)
    assert classes.of_label == expected
    assert len(set(classes.names)) == len(classes.names)


def test_a_data_set_of_other_pictures_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"no picture of the run .* 'cat/a.png', for example, the data set 'x.png'"):
        write_report(run, data=Pictures(tmp_path, ["x.png"], labels=[0]))


def listed(run: Path, places: dict[str, Path]) -> None:
    """The list of inputs that a run keeps."""
    nothing = pa.array([None] * len(places), pa.int64())
    columns = {"key": list(places), "path": list(map(bytes, places.values())), "offset": nothing, "length": nothing}
    pq.write_table(pa.table(columns), run / "inputs.parquet")


def test_pictures_of_one_name_in_several_folders(tmp_path):
    """The place of each tells; without it a folder is chosen only where all pictures are in that one alone."""
    names = [f"{i}.png" for i in range(3)]
    photos(tmp_path, *(f"{folder}/{name}" for folder in "ab" for name in names))
    run = write_run(tmp_path / "run", [row(name, "cat", 0.5) for name in names])
    listed(run, {name: tmp_path / "b" / name for name in names})
    ids = [f"{folder}/{name}" for folder in "ab" for name in names]

    def labels(ids: list[str], places: dict | None = None) -> dict[str, int]:
        data = Pictures(tmp_path, ids, labels=["ab".index(id[0]) for id in ids])
        return Truth.of_data(data, names, places).labels

    table = tables.Table(run)
    assert labels(ids, table.places()) == dict.fromkeys(names, 1)
    assert labels(ids[:3], table.places()) == dict.fromkeys(names, 0)  # as if moved: its names alone tell
    for places in (None, {name: Path("/moved") / name for name in names}):
        with pytest.raises(
            ValueError, match=r"are those of the run: '0\.png' may be 'a/0\.png', '0\.png' may be 'b/0\.png'"
        ):
            labels(ids, places)
        assert labels(ids[1:], places) == dict.fromkeys(names, 1)  # a has no 0.png
        with pytest.raises(ValueError, match="nothing tells which"):
            labels([ids[0], ids[4]], places)


def test_boxes_of_given_classes(tmp_path):
    # `targets` of the localization: rank 3 means that another class was the network's first.
    rows = [row("a.png", "cat", 0.9), row("b.png", "dog", 0.1, rank=3)]
    data = Pictures(tmp_path, ["a.png", "b.png"], labels=[0, 1], class_names=("cat", "dog"))
    page = Page(write_report(write_run(tmp_path / "run", rows), data=data).path)
    assert "class right, of 2 50.0 %" in page.text
    assert "label / found cat dog another" in page.text


@given(
    st.lists(st.tuples(st.integers(-1, 3), st.floats(allow_infinity=True, width=16)), max_size=60), st.integers(1, 4)
)
def test_the_choice_is_that_of_sorting_everything(offered, number):
    chosen = choice.Choice(number)
    groups, keys = (np.array(column) for column in (zip(*offered, strict=True) if offered else ((), ())))
    rows = np.arange(len(offered))
    every = choice.entries(rows, rows + 1, quality=keys, margin=keys, iou=keys)
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
    monkeypatch.setattr(choice, "ALL_CARDS", 5)
    chosen, rows = choice.Choice(2), np.arange(20)
    every = choice.entries(rows, rows, quality=rows, margin=rows, iou=rows)
    chosen.offer("best", every, rows % 4, -rows.astype(float))
    # 19 and 18 are the first of all, then come the first of the groups left, and of the seconds the first in the table.
    assert [card.first for card in chosen.cards()] == [12, 16, 17, 18, 19]


def test_pictures_are_never_divided(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 5, 40)
    rows = [row(f"{i}.png", "cat", 0.5, rank=1 + j) for i, n in enumerate(counts) for j in range(n)]
    table = table_of(rows)
    (tmp_path / "shards").mkdir()
    half = int(counts[:20].sum())
    for name, part in (("000000", table.slice(0, half)), ("000002", table.slice(half)), ("000003", table.slice(0, 0))):
        pq.write_table(part, tmp_path / "shards" / f"{name}.parquet", row_group_size=3)
        (tmp_path / "shards" / f"{name}.json").write_text("{}")
    pq.write_table(table, tmp_path / "shards" / "000001.parquet")  # without its mark
    monkeypatch.setattr(tables, "_ROWS", 5)
    read = tables.Table(tmp_path)
    assert not read.complete
    batches = [batch.column("image_id").to_pylist() for batch in read.batches(["image_id"])]
    assert [id for batch in batches for id in batch] == [r.image_id for r in rows]
    assert not any(set(a) & set(b) for i, a in enumerate(batches) for b in batches[i + 1 :])
    assert list(read.ids()) == [f"{i}.png" for i in range(40)]
    first = np.cumsum(counts) - counts
    chosen = np.array([0, 3, 19, 20, 39])
    found = list(read.pictures(first[chosen], counts[chosen], ["image_id", "rank"]))
    expected = [[{"image_id": f"{i}.png", "rank": 1 + j} for j in range(counts[i])] for i in chosen]
    assert found == expected
    assert list(read.pictures(np.zeros(0, int), np.zeros(0, int), ["image_id"])) == []
    page = Page(write_report(tmp_path).path)
    assert "not finished" in page.text
    assert "pictures 40" in page.text


def test_what_a_run_of_samples_leaves_when_it_breaks_off(tmp_path):
    write_run(tmp_path, [row("a.png", "cat", 0.5)])
    (tmp_path / "boxes.parquet").rename(tmp_path / "boxes.partial.parquet")
    assert "not finished" in Page(write_report(tmp_path).path).text
    assert invoke(tmp_path).stdout.startswith("1 pictures, 0 errors until now: the run is not finished\n")


def test_the_table_of_an_earlier_run(tmp_path):
    """While a run that overwrites it is not finished, the list of inputs is that run's."""
    photos(tmp_path, "old/a.png", "new/a.png")
    run = write_run(tmp_path / "run", [row("a.png", "cat", 0.5)], plan="01")
    listed(run, {"a.png": tmp_path / "new" / "a.png"})
    for plan in ('{"digest": "01"}', "{", "[]"):
        (run / "plan.json").write_text(plan)
        summary = write_report(run)
        assert (summary.thumbnails, summary.earlier) == (1, False)
        assert "earlier" not in Page(summary.path).text
    (run / "plan.json").write_text('{"digest": "02"}')
    summary = write_report(run)
    assert (summary.thumbnails, summary.complete, summary.earlier) == (0, True, True)
    assert "This is the table of an earlier run." in Page(summary.path).text
    assert "1 pictures, 0 errors; of an earlier run: the one begun since" in invoke(run).stdout
    assert write_report(run, images=tmp_path / "old").thumbnails == 1


@pytest.mark.parametrize("note", [b"no JSON \xff", b"[1]", b"null"])
def test_odd_metadata_are_left_out(tmp_path, note):
    table = table_of([row("a.png", "cat", 0.5)]).replace_schema_metadata({"fastcam": note})
    pq.write_table(table, tmp_path / "boxes.parquet")
    assert write_report(tmp_path).pictures == 1


def test_an_empty_table_is_a_page(tmp_path):
    page = Page(write_report(write_run(tmp_path, [])).path)
    assert "pictures 0" in page.text
    assert page.data == {"names": [], "cards": []}


def test_only_errors(tmp_path):
    page = Page(write_report(write_run(tmp_path, [failed("a.png", "damaged: x"), failed("b.png", None)])).path)
    assert "damaged 1 a.png x no code 1 b.png" in page.text


def test_orientation_and_decoder_where_the_table_tells(tmp_path):
    table = table_of([row("a.png", "cat", 0.5), row("b.png", "cat", 0.5), failed("c.png", "damaged: x")])
    table = table.append_column("decoder", pa.array(["pillow", "opencv", None]))
    table = table.append_column("orientation", pa.array([1, 6, None], pa.int8()))
    pq.write_table(table, tmp_path / "t.parquet")
    summary = write_report(tmp_path / "t.parquet")
    assert summary.path == tmp_path / "report.html"
    page = Page(summary.path)
    assert "decoded by pillow: 1, opencv: 1 turned upright 1 pictures" in page.text


def test_numbers_that_are_none_do_not_break_the_page(tmp_path):
    nan = float("nan")
    rows = [row("a.png", "cat", nan, (nan, 0, 1, 1)), row("b.png", "cat", 0.5, (0, 0, float("inf"), 1), size=(0, 0))]
    page = Page(write_report(write_run(tmp_path, rows)).path)
    assert "NaN" not in page.scripts["data"]
    assert "Infinity" not in page.scripts["data"]
    assert page.cards["b.png"]["rows"] == [[0, 0.5, 1, None]]
    assert page.cards["b.png"]["size"] is None


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


def test_no_text_becomes_markup(tmp_path):
    names = tuple(EVIL)
    rows = [row(text, text, 0.5, (0, 0, 9, 9), classes=names) for text in EVIL]
    rows += [failed(f"{text}/x", f"{text}: {text}") for text in EVIL]
    run = write_run(tmp_path / "<b>run", rows, method=EVIL[0], **{EVIL[1]: EVIL[2]})
    page = Page(write_report(run, folder_labels=True).path)
    assert set(EVIL) <= set(page.cards)
    assert page.data["names"][: len(EVIL)] == list(EVIL)
    usual = write_run(tmp_path / "plain", [row("a/a", "cat", 0.5), failed("b/x", "c: d")])
    plain = Page(write_report(usual, folder_labels=True).path)
    # The same elements as in a page of plain names, only more rows of them.
    assert {tag for tag, _ in page.tags} == {tag for tag, _ in plain.tags}
    assert [a for tag, a in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    for _, attributes in page.tags:
        assert not any(name.startswith("on") or name in ("style", "href", "src", "action") for name in attributes)
    assert "<" not in page.scripts["data"]
    words = "".join(page.words)
    for text in EVIL:
        assert text.replace("\r\n", "\n") in words  # as HTML has it


def test_the_policy_lets_nothing_in(run):
    page = Page(write_report(run).path)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    directives = dict(part.split(" ", 1) for part in policy.split("; "))
    assert directives["default-src"] == "'none'"
    assert directives["img-src"] == "data:"
    assert directives["require-trusted-types-for"] == "'script'"
    assert all(re.fullmatch(r"'sha256-[\w+/]{43}='", directives[name]) for name in ("script-src", "style-src"))
    assert "unsafe" not in policy
    assert not any(name in a for _, a in page.tags for name in ("src", "href"))
    assert "http:" not in page.text + page.scripts[None].replace("http://www.w3.org/2000/svg", "")


def test_bars_add_up_and_stay_inside():
    drawn, top = charts.bars({"right": [3, 0, 1], "wrong": [1, 2, 0]})
    assert top == 4
    assert [(bar.kind, bar.y, bar.height) for bar in drawn] == [
        ("right", 40, 120),
        ("wrong", 0, 40),
        ("wrong", 80, 80),
        ("right", 120, 40),
    ]
    assert all(bar.x >= 0 and bar.x + bar.width <= charts.WIDTH for bar in drawn)
    assert charts.bars({"": [0, 0]}) == ([], 0)


def test_confusion_as_matrix_or_pairs():
    confusion = Counter({(0, 0): 9, (0, 1): 1, (1, 0): 2, (2, -1): 1})
    columns, rows = charts.matrix(confusion)
    assert columns == [0, 1, 2, -1]
    assert [(label, [cell.count for cell in cells]) for label, cells in rows] == [
        (0, [9, 1, 0, 0]),
        (1, [2, 0, 0, 0]),
        (2, [0, 0, 0, 1]),
    ]
    assert [cell.shade for cell in rows[0][1]] == [9, 1, 0, 0]
    assert charts.confused(confusion) == [(1, 0, 2, 1.0), (0, 1, 1, 0.1), (2, -1, 1, 1.0)]
    many = Counter({(i, i): 1 for i in range(100)} | {(i, i + 1): 1 for i in range(100)})
    assert charts.matrix(many) is None
    assert len(charts.confused(many)) == 20


def test_many_classes_show_what_is_confused_most(tmp_path):
    names = tuple(f"class-{i:03}" for i in range(60))
    rows = [
        row(f"{names[i]}/{j}.png", names[(i + (j == 0)) % 60], 0.5, classes=names) for i in range(60) for j in (0, 1)
    ]
    page = Page(write_report(write_run(tmp_path, rows)).path)
    assert "label found pictures of the label class-000 class-001 1 50 %" in page.text


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["report", *map(str, arguments)])


def test_the_command(run, tmp_path):
    images = photos(tmp_path / "images", "cat/a.png")
    result = invoke(run, "--images", images, "--out", tmp_path / "x.html", "--per-class", 1, "--pictures", 5)
    assert result.exit_code == 0, result.output
    assert result.stdout == (
        "7 pictures, 3 errors, 4 with a label\n" + f"6 cards, 1 with a picture, in {tmp_path / 'x.html'}\n"
    )
    assert not result.stderr
    result = invoke(run, "--no-folder-labels")
    assert "with a label" not in result.stdout
    assert "--images tells the folder" in result.stderr
    assert (run / "report.html").is_file()

    only = write_run(tmp_path / "only", [failed("a.png", "damaged: x")])
    assert invoke(only).stderr == ""  # no folder would help


def test_the_command_with_a_data_set(tmp_path):
    meta = tmp_path / "meta"
    meta.mkdir()
    (meta / "image_ids.txt").write_text("val/a.png\nval/b.png\n")
    (meta / "class_labels.txt").write_text("val/a.png,1\nval/b.png,0\n")
    (meta / "image_sizes.txt").write_text("val/a.png,100,50\nval/b.png,100,50\n")
    (meta / "localization.txt").write_text("val/a.png,0,0,50,50\nval/b.png,0,0,5,5\n")
    run = write_run(tmp_path / "run", [row("a.png", "dog", 0.5, (0, 0, 50, 50)), row("b.png", "dog", 0.5)])
    result = invoke(run, "--data", meta)
    assert result.exit_code == 0, result.output
    assert "2 with a label" in result.stdout
    assert "class right, of 2 50.0 % box right (IoU ≥ 0.5), of 2 50.0 %" in Page(run / "report.html").text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "no run at nowhere"),
        (["."], "neither boxes.parquet nor finished shards"),
        (["text.parquet"], "text.parquet is no readable Parquet file"),
        (["other.parquet"], "other.parquet is no table of `fastcam localize`: it lacks the columns image_id, width"),
        (["run", "--images", "nowhere"], "no folder of pictures at nowhere"),
        (["run", "--data", "nowhere"], "no data set at nowhere"),
        (["run", "--out", "run/boxes.parquet"], "`out` must be an .html file"),
    ],
)
def test_wrong_input_is_told_in_one_line(arguments, words, run, monkeypatch):
    monkeypatch.chdir(run.parent)
    Path("text.parquet").write_text("text")
    pq.write_table(pa.table({"a": [1]}), "other.parquet")
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_wrong_numbers_are_refused(run):
    with pytest.raises(ValueError, match="`per_class` must be a whole number of at least 1, got 0"):
        write_report(run, per_class=0)
    with pytest.raises(ValueError, match=r"`pictures` must be a whole number of at least 0, got 1\.5"):
        write_report(run, pictures=1.5)
