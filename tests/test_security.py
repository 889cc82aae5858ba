"""Files of others: nothing in them runs, leads elsewhere or steers a terminal; test_limits.py has memory and time.

What other modules prove is not repeated here: that decompression bombs are refused by their header
(pictures/test_files), that hostile texts stay texts in reports (report/test_cards, test_browser) and exports
(export/test_export), that ids lead out of no folder (data/readers/, localization/test_engine, report/test_cards).
"""

import ast
import contextlib
import gzip
import json
import os
import pickle
import re
import shutil
import struct
import tarfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import fastcam
from fastcam import data, drawing, models, vqa
from fastcam.data.segments import Segments
from fastcam.evaluation import Evaluator
from fastcam.evaluation.sources.segments import read_npz
from fastcam.export import export
from fastcam.fitting import read_features
from fastcam.fitting.concepts import mentioned
from fastcam.pictures import DecodeError, Reading, decode, find_pictures, read, read_part
from fastcam.report import write_report
from fastcam.training import Settings, checkpoint
from fastcam.training.group import Group
from fastcam.training.labels import weights_of
from tests.support import tables
from tests.support.commands import run
from tests.support.evaluations import evaluate_map
from tests.support.files import jpeg, shard, write
from tests.support.several import Several

PACKAGE = Path(fastcam.__file__).parent
STEERING = "\x1b]0;title\x07\x1b[2J\u202egpj"  # sets a terminal's title, clears it, turns text around


# Nothing is run


class Bomb:
    """An object whose unpickling makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def weights(tmp_path: Path, content: bytes | object, name: str = "w.pt", **options: bool) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save(content, tmp_path / name, **options)
    models.load_weights(models.build("squeezenet1_1", 3), tmp_path / name)


def labels(name: str, bomb: bytes) -> dict[str, bytes]:
    return {"a.jpg": jpeg(), f"a.{name}": bomb}


def unpickled(bomb: bytes) -> pa.Schema:
    """Columns that say that their values are Python objects, as pyarrow and pandas once wrote them."""
    told = {"name": "path", "field_name": "path", "pandas_type": "object", "numpy_type": "object", "metadata": None}
    pandas = {"index_columns": [], "columns": [told], "pandas_version": "2", "column_indexes": []}
    kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
    return pa.schema([pa.field("path", pa.string(), metadata=kind)], {b"pandas": json.dumps(pandas).encode()})


def features(tmp_path: Path, bomb: bytes) -> None:
    texts = pa.array(["a"])
    values = pa.FixedSizeListArray.from_arrays(pa.array([1.0], pa.float32()), 1)
    about = {"digest": "", "layer": "", "pool": None, "size": 1, "resize": "", "mean": [0] * 3, "std": [1] * 3}
    metadata = {b"fastcam.fitting": json.dumps(about | {"format": 1}).encode()} | (unpickled(bomb).metadata or {})
    table = pa.table({"id": texts, "class": texts, "source": texts, "features": values, "path": pa.array([bomb])})
    fields = [*list(table.schema)[:4], unpickled(bomb).field("path").with_type(pa.binary())]
    pq.write_table(table.cast(pa.schema(fields, metadata)), tmp_path / "f.parquet")
    assert read_features(tmp_path / "f.parquet")[0].ids == ("a",)


def listed(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg())
    pq.write_table(pa.Table.from_arrays([pa.array(["a.jpg"])], schema=unpickled(bomb)), tmp_path / "list.parquet")
    assert data.load(tmp_path / "list.parquet")[0].size == (60, 40)


def classes(tmp_path: Path, bomb: bytes) -> None:
    path = tmp_path / "l.parquet"
    columns = pa.schema([*unpickled(bomb), pa.field("labels", pa.list_(pa.int64()))], unpickled(bomb).metadata)
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array([[1]])], schema=columns), path)
    assert data.read_labels(path) == {"a": (1,)}


def huggingface(tmp_path: Path, bomb: bytes) -> None:
    pytest.importorskip("datasets")
    picture = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema([pa.field("image", picture), *unpickled(bomb)], unpickled(bomb).metadata)
    batch = pa.record_batch([pa.array([{"bytes": jpeg()}], picture), pa.array(["a.jpg"])], schema=schema)
    with pa.ipc.new_stream(tmp_path / "data.arrow", schema) as writer:
        writer.write_batch(batch)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}], "_split": "train"}')
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / f"{tmp_path.name}.py").write_bytes(b"raise SystemExit")  # where the package looked for code once
    assert data.load(tmp_path)[0].size == (60, 40)


def scenes(tmp_path: Path, bomb: bytes) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x.jpg").write_bytes(jpeg())
    (tmp_path / "a/x_sink.png").write_bytes(bomb)
    data.load_scenes(tmp_path).regions(0, (60, 40))


def table(tmp_path: Path, bomb: bytes) -> None:
    folder = tables.write(tmp_path / "run", [tables.row("a.jpg", (0, 0, 9, 9))])
    found, kind = pq.read_table(folder / "boxes.parquet"), unpickled(bomb)
    field = found.schema.field("image_id").with_metadata(kind.field(0).metadata)
    schema = found.schema.set(0, field).with_metadata({**found.schema.metadata, **kind.metadata})
    pq.write_table(found.cast(schema), folder / "boxes.parquet")
    assert write_report(folder).pictures == export(folder, "csv").pictures == 1


def answers(tmp_path: Path, bomb: bytes) -> None:
    config = models.ModelConfig("squeezenet1_1", 2, class_names=("yes", "no"))
    models.save_checkpoint(tmp_path / "network.safetensors", models.build("squeezenet1_1", 2), config)
    (tmp_path / "words.safetensors").write_bytes(bomb)
    vqa.VQA.load(tmp_path)


READERS = {
    "weights": lambda tmp, bomb: weights(tmp, {"a": bomb}),
    "weights within weights": lambda tmp, bomb: weights(tmp, {"state_dict": {"a": torch.ones(1), "b": [bomb]}}),
    "weights in torch's old format": lambda tmp, bomb: weights(tmp, bomb, _use_new_zipfile_serialization=False),
    "weights that are a pickle": lambda tmp, bomb: weights(tmp, pickle.dumps(bomb)),
    "weights in text": lambda tmp, bomb: weights(tmp, pickle.dumps(bomb, 0), "w.th"),
    "a pickle called safetensors": lambda tmp, bomb: weights(tmp, pickle.dumps(bomb), "w.safetensors"),
    "a checkpoint": lambda tmp, bomb: (torch.save(bomb, tmp / "c.pt"), models.load_checkpoint(tmp / "c.pt")),
    "the weights of a Hugging Face folder": lambda tmp, bomb: (
        (tmp / "config.json").write_text('{"model_type": "resnet"}'),
        (tmp / "model.safetensors").write_bytes(pickle.dumps(bomb)),
        models.load_network(None, f"hf:{tmp}"),
    ),
    "the weights of an open_clip folder": lambda tmp, bomb: (
        (tmp / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 8, "vision_cfg": {}, "text_cfg": {}}}'),
        torch.save(bomb, tmp / "open_clip_pytorch_model.bin"),
        models.load_network(None, f"open_clip:{tmp}", class_names=("a",)),
    ),
    "weights to start from": lambda tmp, bomb: (
        torch.save(bomb, tmp / "c.pt"),
        models.start_from(tmp / "c.pt", "squeezenet1_1", 3),
    ),
    "the state of a training": lambda tmp, bomb: (
        torch.save({"place": bomb}, tmp / "state.pt"),
        checkpoint.load(tmp / "state.pt", Group(0, 1, torch.device("cpu"))),
    ),
    "maps of an .npz": lambda tmp, bomb: (
        np.savez(tmp / "a.npz", keys=np.array([bomb]), cam=np.zeros((1, 2, 2), np.float32)),
        read_npz(tmp / "a.npz", (2, 2)),
    ),
    "weights of classes": lambda tmp, bomb: (
        (tmp / "w.csv").write_bytes(pickle.dumps(bomb)),
        weights_of(Settings(class_weights=str(tmp / "w.csv")), Several(2)),
    ),
    **{
        f"a picture of several bands, {name}": lambda tmp, bomb, start=start: read(
            start + pickle.dumps(bomb), reading=Reading(5, "dtype")
        )
        for name, start in {
            "TIFF": b"II*\0\x08\0\0\0",
            "BigTIFF": b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0",
            "PPM": b"P5 3 3 4095\n",
            "AVIF": b"\0\0\0\x1cftypavif",
            "JPEG 2000": b"\xff\x4f\xff\x51",
        }.items()
    },
    "a class PNG": lambda tmp, bomb: (
        (tmp / "a.png").write_bytes(pickle.dumps(bomb)),
        Segments(tmp).read("a.jpg"),
    ),
    "the state of an evaluation": lambda tmp, bomb: (
        (tmp / "e.safetensors").write_bytes(pickle.dumps(bomb)),
        Evaluator("standard").load(tmp / "e.safetensors"),
    ),
    "a map": lambda tmp, bomb: evaluate_map(tmp, lambda path: np.save(path, np.array([[bomb]]), allow_pickle=True)),
    "a map that is a pickle": lambda tmp, bomb: evaluate_map(tmp, lambda path: path.write_bytes(pickle.dumps(bomb))),
    "a map in an archive": lambda tmp, bomb: evaluate_map(
        tmp, lambda path: np.savez(path.open("wb"), np.array([bomb]), allow_pickle=True)
    ),
    **{
        f"a tar's .{name}": lambda tmp, bomb, name=name: data.load(
            shard(tmp / "x.tar", labels(name, pickle.dumps(bomb)))
        )
        for name in ("cls", "json", "pkl", "pickle", "pyd", "pth", "npy", "jpg.pkl")
    },
    "a tar's picture": lambda tmp, bomb: data.load(shard(tmp / "x.tar", {"a.jpg": pickle.dumps(bomb)}))[0],
    "a list": lambda tmp, bomb: listed(tmp, pickle.dumps(bomb)),
    "classes in CSV": lambda tmp, bomb: data.read_labels(write(tmp / "l.csv", pickle.dumps(bomb, 0))),
    "classes as 0 and 1": lambda tmp, bomb: (
        np.save(tmp / "l.npy", np.array({"a": bomb}), allow_pickle=True),
        data.read_labels(tmp / "l.npy", ids=["a"]),
    ),
    "classes as 0 and 1 that are a pickle": lambda tmp, bomb: (
        (tmp / "l.npy").write_bytes(pickle.dumps({"a": bomb})),
        data.read_labels(tmp / "l.npy", ids=["a"]),
    ),
    **{
        f"classes in an archive, {name}": lambda tmp, bomb, name=name: (
            np.savez(tmp / "l.npz", **{"ids": ["a"], "labels": np.eye(1), name: np.array([bomb])}),
            data.read_labels(tmp / "l.npz"),
        )
        for name in ("ids", "labels", "class_names")
    },
    "classes in a table": lambda tmp, bomb: classes(tmp, pickle.dumps(bomb)),
    "a Hugging Face data set": lambda tmp, bomb: huggingface(tmp, pickle.dumps(bomb)),
    "a file of features": lambda tmp, bomb: features(tmp, pickle.dumps(bomb)),
    "captions": lambda tmp, bomb: mentioned(write(tmp / "c.json", pickle.dumps(bomb, 0)), "a", ["a"]),
    "a mask of a scene's object": lambda tmp, bomb: scenes(tmp, pickle.dumps(bomb)),
    "questions": lambda tmp, bomb: (
        (tmp / "q.json").write_bytes(pickle.dumps(bomb)),
        vqa.load(tmp / "q.json", truth_only=True),
    ),
    "questions in CSV": lambda tmp, bomb: (
        (tmp / "q.csv").write_bytes(pickle.dumps(bomb, 0)),
        vqa.load(tmp / "q.csv", truth_only=True),
    ),
    "the words of a model that answers": lambda tmp, bomb: answers(tmp, pickle.dumps(bomb)),
    "a table of boxes": lambda tmp, bomb: table(tmp, pickle.dumps(bomb)),
}


@pytest.mark.parametrize("reader", READERS)
def test_no_reader_runs_what_is_in_a_file(tmp_path, reader):
    bomb = Bomb(tmp_path / "was run")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's about odd files
        with contextlib.suppress(ValueError):  # most refuse the file; some do not look at that part of it
            READERS[reader](tmp_path, bomb)
    assert not bomb.path.exists()
    pickle.loads(pickle.dumps(bomb))  # it is one
    assert bomb.path.exists()


def calls(path: Path) -> Iterator[tuple[str, dict[str, ast.expr]]]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {word.arg: word.value for word in node.keywords if word.arg}


def imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add(node.module.partition(".")[0])
    return found


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_module_can_run_what_is_in_a_file(path):
    odd = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml", "subprocess"}
    # It hands a model to the processes that it has started itself.
    allowed = {"pickle"} if path == PACKAGE / "localization" / "engines" / "local.py" else set()
    assert imported(path) & odd <= allowed
    told = {
        "torch.load": ("weights_only", True),
        "np.load": ("allow_pickle", False),
        "np.save": ("allow_pickle", False),
    }
    told["jinja2.Environment"] = "autoescape", True
    for name, words in calls(path):
        assert name not in ("eval", "exec", "compile", "__import__", "os.system", "os.popen", "jinja2.Template"), name
        assert name.rpartition(".")[2] not in ("extractall", "load_module", "set_unsafe_globals", "add_safe_globals")
        if name in told:
            key, value = told[name]
            assert ast.literal_eval(words[key]) is value, f"{name} without {key}={value}"
        # transformers', which could run code of a folder
        if name.endswith((".from_pretrained", ".from_config", ".HFTokenizer")):
            assert ast.literal_eval(words["trust_remote_code"]) is False
        else:
            assert "trust_remote_code" not in words
    if "torch" in imported(path):
        assert "hub" not in {name.split(".")[1] for name, _ in calls(path) if name.startswith("torch.")}


def test_templates_escape_everything():
    templates = [path for path in (PACKAGE / "report" / "templates").iterdir() if path.suffix in (".html", ".js")]
    assert len(templates) >= 3
    for path in templates:
        text = path.read_text("utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup", text), path.name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
    escaped = re.findall(r"Markup\((\w+)\)", (PACKAGE / "report" / "page.py").read_text("utf-8"))
    assert escaped == ["style", "script"]  # the package's own files


# What is read leads nowhere else


def test_links_pipes_and_devices_in_a_folder(tmp_path):
    folder, outside = tmp_path / "pictures", tmp_path / "outside"
    for place in (folder, outside):
        place.mkdir()
        (place / "a.jpg").write_bytes(jpeg())
    os.mkfifo(folder / "pipe.jpg")
    for name, target in {
        "zero.jpg": "/dev/zero",
        "loop.jpg": "loop.jpg",
        "gone.jpg": "gone",
        "text.jpg": __file__,
    }.items():
        (folder / name).symlink_to(target)
    for name, target in {"out": outside, "again": ".", "up": ".."}.items():
        (folder / name).symlink_to(target)
    found = dict(find_pictures([folder]))
    assert sorted(found) == [
        "a.jpg",
        "gone.jpg",
        "loop.jpg",
        "out/a.jpg",
        "pipe.jpg",
        "text.jpg",
        "zero.jpg",
    ]  # linked folders once, and none for ever
    for name, path in found.items():
        if not name.endswith("a.jpg"):
            with pytest.raises(DecodeError, match="unsupported" if name == "text.jpg" else "unreadable"):
                decode(path)


def test_pipes_and_devices_where_other_files_belong(tmp_path):
    annotations, maps = tmp_path / "Annotations", tmp_path / "maps"
    annotations.mkdir()
    os.mkfifo(annotations / "a.xml")
    with pytest.raises(ValueError, match=r"a\.xml: not a regular file"):
        data.load(tmp_path, format="voc", truth_only=True)
    (annotations / "a.xml").unlink()
    (annotations / "a.xml").symlink_to("/dev/zero")
    with pytest.raises(ValueError, match=r"a\.xml: not a regular file"):
        data.load(tmp_path, format="voc", truth_only=True)
    with pytest.raises(ValueError, match="it is no regular file"):
        evaluate_map(tmp_path, os.mkfifo)
    assert maps.is_dir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DecodeError, match="unreadable: not a regular file"):
        read_part(tmp_path / "pipe", 0, 10)


LINKS = {"a symbolic link": tarfile.SYMTYPE, "a link": tarfile.LNKTYPE, "a device": tarfile.CHRTYPE}
LINKS |= {"a disk": tarfile.BLKTYPE, "a pipe": tarfile.FIFOTYPE}


@pytest.mark.parametrize("kind", LINKS)
def test_members_of_tars_that_are_no_files(tmp_path, kind):
    member = tarfile.TarInfo("a.jpg")
    member.type, member.linkname, member.devmajor, member.devminor = LINKS[kind], "/etc/passwd", 1, 5
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.addfile(member)
    with pytest.raises(ValueError, match=r"'a\.jpg': it is no regular file"):
        data.load(tmp_path / "x.tar")


def test_the_command_with_hostile_tars(tmp_path):
    """What leads elsewhere is refused as a whole; what is only damaged is a row; no file appears but in --out."""
    model = models.build("resnet18", 3)
    names = ("=1+1", "<b>$\\frac{$", STEERING)
    config = models.ModelConfig("resnet18", 3, class_names=names, size=64)
    models.save_checkpoint(tmp_path / "net.safetensors", model, config)
    before = sorted(tmp_path.iterdir())

    def localize(members: dict[str, bytes] | bytes, *more: object):
        path = tmp_path / "x.tar"
        path.write_bytes(members) if isinstance(members, bytes) else shard(path, members)
        options = ("--weights", tmp_path / "net.safetensors", "--format", "webdataset", "--out", tmp_path / "out")
        result = run("localize", path, *options, "--to", "csv,voc,yolo", *more)
        path.unlink()
        assert "\x1b" not in result.output
        return result

    whole = shard(tmp_path / "x.tar", {"a.jpg": jpeg(), "b.jpg": jpeg()}).read_bytes()
    for members in (
        {"a.jpg": jpeg(), "../b.jpg": jpeg()},
        {"a.jpg": jpeg(), f"{tmp_path}/b.jpg": jpeg()},
        whole[: len(whole) // 4],
        gzip.compress(whole),
        gzip.compress(bytes(1 << 24)),
    ):
        assert localize(members).exit_code == 2
        assert sorted(tmp_path.iterdir()) == before
    pickled = {"a.jpg": jpeg(), "a.cls": pickle.dumps(Bomb(tmp_path / "was run"))}
    assert localize(pickled, "--targets", "label").exit_code == 2
    assert sorted(tmp_path.iterdir()) == before
    result = localize(pickled)  # which nobody wants to know
    assert (result.exit_code, "a.cls: expected UTF-8" in result.stderr) == (0, True)
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])
    shutil.rmtree(tmp_path / "out")
    bomb = b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", 60000, 60000)
    result = localize({f"a{STEERING}\n.jpg": jpeg(), "=1+1.jpg": jpeg(), "b.png": bomb, "c.pkl": b"", "c.jpg": b"no"})
    assert result.exit_code == 3, result.output
    rows = pq.read_table(tmp_path / "out" / "boxes.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == [
        f"x.tar/{name}.{kind}"
        for name, kind in ((f"a{STEERING}\n", "jpg"), ("=1+1", "jpg"), ("b", "png"), ("c", "jpg"))
    ]
    assert [(row["error"] or "ok").partition(":")[0] for row in rows] == ["ok", "ok", "damaged", "unsupported"]
    assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out"])


# What is printed


def test_names_do_not_steer_the_terminal(tmp_path):
    (tmp_path / f"x.{STEERING}").touch()
    (tmp_path / "list.csv").write_text(f"path\n{STEERING}.jpg\n", encoding="utf-8")
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    coco = {"images": [{"id": 1, "file_name": f"{STEERING}.jpg", "width": 9, "height": 9}]}
    coco |= {"annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 3, 3]}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco | {"categories": [{"id": 1, "name": STEERING}]}))
    (tmp_path / f"{STEERING}.jpg").write_bytes(b"no picture, either")
    shard(tmp_path / "x.tar", {f"{STEERING}.jpg": jpeg(), f"{STEERING}.cls": b"no"})
    (tmp_path / "long.csv").write_text(f"path\n{'x' * 100_000},1\n")
    for arguments in (
        ("data", "info", "list", tmp_path / "list.csv"),
        ("data", "info", "coco", tmp_path / "coco.json"),
        ("data", "info", "webdataset", tmp_path / "x.tar"),
        ("data", "info", "list", tmp_path / "long.csv"),
        (
            "localize",
            tmp_path / "x.tar",
            "--format",
            "webdataset",
            "--weights",
            tmp_path / "gone",
            "--out",
            tmp_path / "o",
        ),
        ("evaluate", tmp_path / "coco.json", "--maps", tmp_path, "--out", tmp_path / "o"),
        ("localize", tmp_path, "--weights", tmp_path / f"{STEERING}.pt", "--arch", STEERING, "--out", tmp_path / "o"),
    ):
        result = run(*arguments)
        assert result.exit_code in (2, 3), result.output
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert all(text.isprintable() and len(text) < 5000 for text in result.output.split("\n")), result.output
    assert "\\x1b]0;title\\x07\\x1b[2J\\u202egpj" in result.output


def test_names_in_figures_are_no_formulas(tmp_path):
    figure = drawing.grid([[drawing.Cell(np.zeros((9, 9, 3), np.uint8), "$\\frac{$ \x1b[2J")]], title="$x_{$")
    drawing.save(figure, tmp_path / "a.png")
    assert cv2.imread(str(tmp_path / "a.png")) is not None


def test_csv_has_names_as_they_are(tmp_path):
    """They are for programs, which need them to the letter; the documentation warns of spreadsheets."""
    run = tables.write(tmp_path / "run", [tables.row("=1+1.jpg", name="@x")])
    assert export(run, "csv").path.read_text().splitlines()[1].startswith("=1+1.jpg,200,100,1,0,@x,")
