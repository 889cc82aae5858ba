"""The gallery: what is in the file, and that nothing outside is needed."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fastcam import drawing, report


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data)

    def pictures(self) -> list[Image.Image]:
        sources = [a["src"] for tag, a in self.tags if tag == "img"]
        assert all(source.startswith("data:image/") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))) for source in sources]


def item(height=48, width=64, **options) -> report.GalleryItem:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (height, width, 3), np.uint8)
    return report.GalleryItem(picture, rng.random((height, width), np.float32), **options)


def page(tmp_path, items, *args, **options) -> Page:
    path = report.gallery(tmp_path / "out" / "gallery.html", items, *args, **options)
    assert [file.name for file in path.parent.iterdir()] == ["gallery.html"]
    return Page(path.read_text(encoding="utf-8"))


def test_pictures_maps_and_boxes_are_inside(tmp_path):
    items = (item(caption=f"number {i}", boxes=[8, 8, 40, 40], truth=[[4, 4, 30, 30]], hit=i == 0) for i in range(3))
    html = page(tmp_path, items, "A title", {"Top-1": "91 %", "pictures": 3})
    pictures = html.pictures()
    assert [p.size for p in pictures] == [(256, 192)] * 9
    for word in ("A title", "Top-1", "91 %", "3", "number 0", "number 2", "hit", "miss"):
        assert word in " ".join(html.words)


def test_boxes_are_where_they_belong(tmp_path):
    dark = item(boxes=[8, 8, 40, 40], truth=[[4, 4, 30, 30]])._replace(
        image=np.zeros((48, 64, 3)), map=np.zeros((48, 64))
    )
    overlay = np.array(page(tmp_path, [dark], "t").pictures()[2]).astype(int)
    # Scaled by 4; the lines are a few pixels wide, and the predicted box lies over the true one.
    for colour, box in ((drawing.PREDICTED, (32, 32, 160, 160)), (drawing.TRUTH, (16, 16, 120, 120))):
        rows, columns = np.nonzero(np.abs(overlay - colour).max(2) < 60)
        assert np.allclose((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), box, atol=3)


def test_nothing_outside_is_needed_and_everything_is_escaped(tmp_path):
    evil = "<script>alert(1)</script>\"'&"
    drawing.training_curve([{"epoch": 1, "train_loss": 1.0}], tmp_path / "curve.png")
    html = page(tmp_path, [item(caption=evil)], evil, {evil: evil}, {evil: tmp_path / "curve.png"})
    assert {tag for tag, _ in html.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert " ".join(html.words).count(evil) == 6  # title, headline, both of the tile, caption, figure
    assert all(not value.startswith(("http", "//", "file")) for _, a in html.tags for value in a.values() if value)
    assert "url(" not in "".join(html.words)
    assert html.pictures()[0].format == "PNG"


def test_small_large_and_narrow_pictures(tmp_path):
    sizes = [p.size for p in page(tmp_path, [item(1, 1), item(600, 1000), item(300, 2)], "t", side=200).pictures()]
    assert sizes[::3] == [(200, 200), (200, 120), (1, 200)]


def test_an_empty_gallery_is_a_page(tmp_path):
    assert not page(tmp_path, [], "nothing").pictures()


def test_a_failing_item_leaves_the_old_page(tmp_path):
    path = report.gallery(tmp_path / "gallery.html", [item()], "old")

    def items():
        yield item()
        yield item()._replace(map=np.full((48, 64), np.nan))

    with pytest.raises(ValueError, match="`map` must lie"):
        report.gallery(path, items(), "new")
    assert "old" in path.read_text(encoding="utf-8")
    assert list(tmp_path.iterdir()) == [path]
