"""Runs to report on, made without a network, and their page as a browser sees it."""

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fastcam.runs.schema import COLUMNS, SCHEMA, Row

EVIL = [
    "<script>window.pwned = 1</script>",
    "</script><script>window.pwned = 1</script>",
    "\"><img src=x onerror='window.pwned = 1'>",
    "javascript:window.pwned=1",
    "two\nlines\r\nand a tab\t.png",
    "<!-- <script> &amp; {{ 7 * 7 }} {% raw %} ]]>",
    "\u202egnp.exe\u2028\u2029\x7f",
    "' onmouseover='window.pwned=1",
]


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


def row(id, name=None, score=None, box=(0, 0, 0, 0), rank=1, size=(100, 50), classes=("cat", "dog")) -> Row:
    return Row(id, *size, rank, None if name is None else classes.index(name), name, score, *box)


def failed(id, error) -> Row:
    return Row(id, status="error", error=error)


def table_of(rows, **info) -> pa.Table:
    """The columns that every table has, whatever else `Row` knows."""
    schema = pa.schema([SCHEMA.field(name) for name in COLUMNS], {"fastcam": json.dumps(info)})
    return pa.Table.from_pylist([{name: getattr(r, name) for name in COLUMNS} for r in rows], schema)


def write_run(folder, rows, **info) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(table_of(rows, **info), folder / "boxes.parquet")
    return folder


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


def listed(run: Path, places: dict[str, Path]) -> None:
    """The list of inputs that a run keeps."""
    nothing = pa.array([None] * len(places), pa.int64())
    columns = {"key": list(places), "path": list(map(bytes, places.values())), "offset": nothing, "length": nothing}
    pq.write_table(pa.table(columns), run / "inputs.parquet")


def photos(folder, *names, size=(640, 320)) -> Path:
    colours = [(200, 40, 40), (40, 200, 40), (40, 40, 200)]
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colours[index % 3]).save(path)
    return folder


def with_maps(folder, maps, **info) -> Path:
    table = table_of((row(f"{i}.png", "cat", 0.5, size=(640, 320)) for i in range(len(maps))), **info)
    cams = [None if m is None else m.astype("<f2").tobytes() for m in maps]
    table = table.append_column("cam", pa.array(cams, pa.binary()))
    for axis, name in enumerate(("cam_height", "cam_width")):
        table = table.append_column(name, pa.array([None if m is None else m.shape[axis] for m in maps], pa.int32()))
    folder.mkdir(exist_ok=True)
    pq.write_table(table, folder / "boxes.parquet")
    return folder
