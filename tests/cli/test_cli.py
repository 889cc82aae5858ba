"""The command line: what it writes, what it says, and its exit codes."""

import csv
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import fastcam
from fastcam import models
from fastcam.models import ModelConfig
from tests.support.commands import refused, run


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    config = ModelConfig("resnet18", 3, None, ("ant", "bee", "cat"), size=64, mean=(0.5,) * 3, threshold=0.4)
    models.save_checkpoint(path, models.build("resnet18", 3), config)
    return path


@pytest.fixture
def folder(tmp_path) -> Path:
    path = tmp_path / "pictures"
    path.mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (5, 6, 3), np.uint8)
        Image.fromarray(noise).resize((80, 60)).save(path / f"{index}.png")
    return path


def rows(out: Path) -> list[dict]:
    return pq.read_table(out / "boxes.parquet").to_pylist()


def made_by(out: Path) -> dict:
    return json.loads(pq.read_schema(out / "boxes.parquet").metadata[b"fastcam"])


def test_version_and_help():
    assert run("--version").stdout == f"fastcam {fastcam.__version__}\n"
    assert all(name in run("--help").stdout for name in ("info", "demo", "train", "localize", "bench"))
    assert run().exit_code == 2
    assert run("localise").exit_code == 2


@pytest.mark.kernels
def test_info():
    facts = json.loads(run("info", "--json").stdout)
    assert facts["fastcam"] == fastcam.__version__
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert facts["cpu_simd"] in ("avx512", "avx2", "portable")
    assert isinstance(facts["cuda_built"], bool)
    assert Path(facts["library"]).exists()
    shown = run("info").stdout
    assert all(name in shown for name in facts)


def test_info_tells_what_is_wrong_with_the_extension(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastcam.ops", None)  # the import fails
    monkeypatch.delattr(fastcam, "ops", raising=False)
    facts = json.loads(run("info", "--json").stdout)
    assert facts["torch"] == torch.__version__.split("+")[0]
    assert "fastcam" in facts["extension"]


def test_a_torchvision_of_another_torch_is_named(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    paths = os.pathsep.join([str(tmp_path), str(Path(fastcam.__file__).parents[1])])

    def fastcam_with_it(*arguments: str) -> subprocess.CompletedProcess[str]:
        command, variables = [sys.executable, "-m", "fastcam", *arguments], {**os.environ, "PYTHONPATH": paths}
        return subprocess.run(command, env=variables, cwd=tmp_path, capture_output=True, text=True)

    told = fastcam_with_it("info", "--json")
    facts = json.loads(told.stdout)
    assert (told.returncode, told.stderr) == (0, "")
    assert "library" in facts
    assert f"does not load with torch {torch.__version__}" in facts["nvjpeg_of"]
    refused = fastcam_with_it("localize", "pictures", "--arch", "resnet18", "--weights", "w.pt", "--out", "run")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"fastcam: torchvision {facts['torchvision']} does not load with torch")
    assert len(refused.stderr.splitlines()) == 1


def test_localize_with_a_checkpoint(checkpoint, folder, tmp_path):
    result = run("localize", folder, "--weights", checkpoint, "--out", tmp_path / "a", "--overlays", 2)
    assert result.exit_code == 0
    assert result.stdout == f"3 pictures, 3 rows in {tmp_path / 'a' / 'boxes.parquet'}\n"
    assert [row["image_id"] for row in rows(tmp_path / "a")] == ["0.png", "1.png", "2.png"]
    assert {row["class_name"] for row in rows(tmp_path / "a")} <= {"ant", "bee", "cat"}
    assert len(list((tmp_path / "a" / "overlays").iterdir())) == 2
    info = made_by(tmp_path / "a")
    assert (info["arch"], info["threshold"], info["size"], info["mean"]) == ("resnet18", 0.4, 64, [0.5] * 3)


def test_flags_override_the_checkpoint(checkpoint, folder, tmp_path):
    (tmp_path / "names.txt").write_text("x\ny\nz\n")
    options = "--size 96 --resize crop --mean 0.1,0.2,0.3 --std 0.5 --threshold 0.3 --mode bicubic --no-relu --top-k 2"
    result = run(
        *("localize", folder / "1.png", folder / "0.png", "--weights", checkpoint, "--out", tmp_path / "a"),
        *("--class-names", tmp_path / "names.txt", "--method", "gradcam", "--target-layer", "layer3", *options.split()),
    )
    assert result.exit_code == 0
    found = rows(tmp_path / "a")
    assert [(row["image_id"], row["rank"]) for row in found] == [("1.png", 1), ("1.png", 2), ("0.png", 1), ("0.png", 2)]
    assert {row["class_name"] for row in found} <= {"x", "y", "z"}
    expected = {"size": 96, "resize": "crop", "mean": [0.1, 0.2, 0.3], "std": [0.5] * 3, "threshold": 0.3}
    expected |= {"mode": "bicubic", "relu": False, "method": "gradcam", "backend": "fused"}
    assert expected.items() <= made_by(tmp_path / "a").items()


def test_localize_with_plain_weights(folder, tmp_path):
    torch.save({"state_dict": models.build("resnet18", 4).state_dict()}, tmp_path / "w.pt")
    assert "--arch must name" in refused("localize", folder, "--weights", tmp_path / "w.pt", "--out", tmp_path / "a")
    common = ("localize", folder, "--weights", tmp_path / "w.pt", "--out", tmp_path / "a", "--size", 64)
    assert "did you mean resnet18" in refused(*common, "--arch", "resnet81")
    assert "fc.weight (expected [1000, 512], got [4, 512])" in refused(*common, "--arch", "resnet18")
    assert run(*common, "--arch", "resnet18", "--num-classes", 4).exit_code == 0
    assert rows(tmp_path / "a")[0]["class_name"] is None


def test_scores(checkpoint, folder, tmp_path):
    """As the checkpoint says, or as asked for; the page says which."""
    model, config = models.load_checkpoint(checkpoint)
    models.save_checkpoint(tmp_path / "bce.safetensors", model, dataclasses.replace(config, scores="sigmoid"))
    common = ("localize", folder, "--top-k", 3, "--weights")
    assert run(*common, tmp_path / "bce.safetensors", "--out", tmp_path / "a").exit_code == 0
    assert run(*common, checkpoint, "--scores", "sigmoid", "--out", tmp_path / "b").exit_code == 0
    assert run(*common, tmp_path / "bce.safetensors", "--scores", "softmax", "--out", tmp_path / "c").exit_code == 0
    a, b, c = (np.reshape([row["score"] for row in rows(tmp_path / name)], (3, 3)).astype(float) for name in "abc")
    np.testing.assert_array_equal(a, b)
    logits = np.log(a / (1 - a))
    powers = np.exp(logits)
    np.testing.assert_allclose(c, powers / powers.sum(1, keepdims=True), rtol=1e-4)
    assert "scores: sigmoid there, softmax here" in refused(
        *(*common, tmp_path / "bce.safetensors", "--scores", "softmax", "--out", tmp_path / "a")
    )
    for name, made in (("a", "sigmoid"), ("c", "softmax")):
        assert run("report", tmp_path / name).exit_code == 0
        assert f"probability ({made})" in (tmp_path / name / "report.html").read_text()


def test_given_classes(checkpoint, folder, tmp_path):
    table = tmp_path / "targets.csv"
    common = ("localize", folder, "--weights", checkpoint, "--targets", table, "--out")
    table.write_text("image_id,class_id\n0.png,2\n1.png,0\n2.png,1\n")
    assert run(*common, tmp_path / "a").exit_code == 0
    assert [row["class_id"] for row in rows(tmp_path / "a")] == [2, 0, 1]
    table.write_text("0.png,2\n1.png,0\n")
    assert run(*common, tmp_path / "b").exit_code == 3
    assert rows(tmp_path / "b")[2]["error"].startswith("no_target")
    table.write_text("image_id,labels\n0.png,0 2\n1.png,bee;ant\n2.png,[]\n")
    assert "not both" in refused(*common, tmp_path / "c")
    table.write_text("image_id,labels\n0.png,cat\n1,bee;ant\n2.png,[]\n")
    assert run(*common, tmp_path / "c").exit_code == 3
    found = [(row["image_id"], row["class_id"]) for row in rows(tmp_path / "c")]
    assert sorted(found[:3]) == [("0.png", 2), ("1.png", 0), ("1.png", 1)]
    assert rows(tmp_path / "c")[3]["error"] == "no_target: an empty list of classes is given for this picture"
    table.write_text("0.png,2\n0.png,1\n1.png,0\n2.png,0\n")
    assert run(*common, tmp_path / "d").exit_code == 0
    assert {(row["image_id"], row["class_id"]) for row in rows(tmp_path / "d")} == {
        *(("0.png", 2), ("0.png", 1), ("1.png", 0), ("2.png", 0))
    }
    np.save(tmp_path / "hot.npy", np.array([[0, 1, 1], [1, 0, 0], [1, 0, 0]]))
    run("localize", folder, "--weights", checkpoint, "--targets", tmp_path / "hot.npy", "--out", tmp_path / "e")
    assert rows(tmp_path / "e") == rows(tmp_path / "d")
    for text, message in (
        ("0.png;2\n", "targets.csv"),
        ("0.png,two\n", "no class 'two'"),
        ("0.png,3\n", "no class 3"),
    ):
        table.write_text(text)
        assert message in refused(*common, tmp_path / "f")
    table.unlink()
    assert "--targets is label or a file of classes" in refused(*common, tmp_path / "f")


def test_damaged_pictures_give_exit_code_3(checkpoint, folder, tmp_path):
    (folder / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    result = run("localize", folder, "--weights", checkpoint, "--out", tmp_path / "a")
    assert result.exit_code == 3
    assert result.stderr == "fastcam: 1 pictures failed (1 damaged); column `error` says why\n"
    assert [row["status"] for row in rows(tmp_path / "a")] == ["ok", "error", "ok"]


def test_wrong_usage_gives_exit_code_2(checkpoint, folder, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "names.txt").write_text("only one\n")
    (tmp_path / "text.pt").write_text("no weights")
    common = ("--weights", checkpoint, "--out", tmp_path / "a")
    assert "no such file or folder" in refused("localize", tmp_path / "nowhere", *common)
    assert "looked for *.avif, *.bmp" in refused("localize", tmp_path / "empty", *common)
    assert "`mean` must be one number or three" in refused("localize", folder, *common, "--mean", "1,2")
    assert "`std` must be three positive" in refused("localize", folder, *common, "--std", "0")
    assert "one name for each of the 3 classes" in refused(
        "localize", folder, *common, "--class-names", tmp_path / "names.txt"
    )
    assert "has arch resnet18, got resnet50" in refused("localize", folder, *common, "--arch", "resnet50")
    assert "has num_classes 3, got 4" in refused("localize", folder, *common, "--num-classes", 4)
    assert "no layer 'layer5'; did you mean layer4" in refused("localize", folder, *common, "--target-layer", "layer5")
    assert "unknown method 'gradcan'" in refused("localize", folder, *common, "--method", "gradcan")
    assert "guided-gradcam gives no maps" in refused("localize", folder, *common, "--method", "guided-gradcam")
    assert "--device must be cpu, cuda or cuda:N, got 'foo'" in refused("localize", folder, *common, "--device", "foo")
    assert "no file of weights" in refused("localize", folder, "--out", tmp_path, "--weights", tmp_path / "no.pt")
    wrong = ("--out", tmp_path, "--weights", tmp_path / "text.pt", "--arch", "resnet18")
    assert "text.pt" in refused("localize", folder, *wrong)
    assert run("localize", folder, *common, "--mode", "cubic").exit_code == 2
    assert run("localize", folder).exit_code == 2
    assert not (tmp_path / "a").exists()

    assert run("localize", folder, *common).exit_code == 0
    assert run("localize", folder, *common).exit_code == 0  # there is nothing left to do
    assert "threshold: 0.4 there, 0.5 here" in refused("localize", folder, *common, "--threshold", "0.5")
    assert run("localize", folder, *common, "--threshold", "0.5", "--overwrite").exit_code == 0


def test_results_that_cannot_be_written_give_exit_code_1(checkpoint, folder, tmp_path):
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "deeper"):
        said = refused("localize", folder, "--weights", checkpoint, "--out", out, code=1)
        assert f"cannot write to {out}" in said


def test_interruption_is_said_in_one_line(checkpoint, folder, tmp_path, monkeypatch):
    from fastcam.localization import worker

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(worker, "read", interrupted)
    said = refused("localize", folder, "--weights", checkpoint, "--out", tmp_path / "a", code=1)
    assert said == "fastcam: interrupted (0 of 1 parts are done; the same call computes the rest)\n"


def test_train_then_localize(tmp_path):
    for index in range(12):
        path = tmp_path / "data" / ("dark" if index % 2 else "light") / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 30), (40, 40, 60) if index % 2 else (200, 210, 190)).save(path)
    result = run(
        *("train", tmp_path / "data", "--out", tmp_path / "run", "--size", 32, "--epochs", 1, "--batch-size", 4)
    )
    assert result.exit_code == 0, result.stderr
    assert "test accuracy" in result.stdout
    assert (tmp_path / "run" / "training.png").exists()
    result = run(
        *("localize", tmp_path / "data", "--weights", tmp_path / "run" / "best.safetensors", "--out", tmp_path / "a")
    )
    assert result.exit_code == 0, result.stderr
    assert {row["class_name"] for row in rows(tmp_path / "a")} <= {"dark", "light"}
    assert "exists already" in refused("train", tmp_path / "data", "--out", tmp_path / "run", "--size", 32)
    assert "no data set at" in refused("train", tmp_path / "nowhere", "--out", tmp_path / "x")


def test_the_module_runs_as_a_program():
    done = subprocess.run(
        [sys.executable, "-m", "fastcam", "localize", "nowhere", "--out", "x", "--weights", "nothing.pt"],
        capture_output=True,
        text=True,
        cwd=Path(fastcam.__file__).parents[1],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fastcam: no file of weights at nothing.pt\n"


@pytest.mark.long
def test_shared_pictures_give_the_oracle_figures(shared, tmp_path):
    """MobileNetV2 on 400 ILSVRC pictures against the figures of a plain PyTorch + OpenCV evaluation.

    That evaluation quantises the map: its mask for τ = 0.2 is uint8(255·s) > int(0.2·255) = 51, hence s ≥ 52/255 where
    the box rule here is s > threshold. So the same boxes come at a threshold just below 52/255. It also clamps right
    and bottom to the last pixel, 223 of 224, and adds one to each extent for the IoU.
    """
    metadata = shared / "images" / "ilsvrc" / "metadata"

    def read(name):
        with (metadata / name).open(newline="") as file:
            yield from ((line[0].removeprefix("val/"), *map(int, line[1:])) for line in csv.reader(file))

    labels, truth = dict(read("class_labels.txt")), {}
    sizes = {id: size for id, *size in read("image_sizes.txt")}
    for id, *corners in read("localization.txt"):
        width, height = sizes[id]
        frame = [int(c * 224 / extent) for c, extent in zip(corners, (width, height) * 2, strict=True)]
        truth.setdefault(id, []).append(frame)
    (tmp_path / "targets.csv").write_text("".join(f"{id},{label}\n" for id, label in labels.items()))

    def localized(backend, *paths):
        options = (
            f"--arch mobilenet_v2 --mean 0.5 --std 0.5 --no-relu --mode bicubic --threshold 0.2039 --backend {backend}"
        )
        result = run(
            *("localize", *paths, "--weights", shared / "weights" / "mobilenet_v2.pt", *options.split()),
            *("--class-names", shared / "images" / "ilsvrc" / "classes.txt", "--targets", tmp_path / "targets.csv"),
            *("--out", tmp_path / backend),
        )
        assert result.exit_code == 0, result.stderr
        return rows(tmp_path / backend)

    def iou(a, b):
        area = [(c[2] - c[0] + 1) * (c[3] - c[1] + 1) for c in (a, b)]
        width, height = (max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + 1) for i in (0, 1))
        return width * height / (sum(area) - width * height)

    folder = shared / "images" / "ilsvrc" / "val"
    found = localized("fused", folder)
    assert [row["image_id"] for row in found] == sorted(labels)
    hits = 0
    for row in found:
        corners = [row[edge] * 224 / row["width" if edge[0] == "x" else "height"] for edge in ("x0", "y0", "x1", "y1")]
        assert np.allclose(corners, np.rint(corners), atol=1e-3)
        x0, y0, x1, y1 = np.rint(corners)
        hits += max(iou((x0, y0, min(x1, 223), min(y1, 223)), box) for box in truth[row["image_id"]]) >= 0.5
    assert abs(sum(row["rank"] == 1 for row in found) - 305) <= 1  # Top-1 76.25 %
    assert abs(hits - 272) <= 1  # BoxAcc 68.00 %

    some = [folder / row["image_id"] for row in found[:48]]
    for ours, theirs in zip(found, localized("reference", *some), strict=False):
        assert (ours["image_id"], ours["rank"], ours["class_id"]) == tuple(
            theirs[k] for k in ("image_id", "rank", "class_id")
        )
        assert ours["score"] == pytest.approx(theirs["score"], abs=1e-5)
        assert all(abs(ours[edge] - theirs[edge]) <= 227 / 224 for edge in ("x0", "y0", "x1", "y1"))


def test_localize_keeps_maps_and_writes_other_formats(folder, checkpoint, tmp_path):
    out = tmp_path / "out"
    options = ("--weights", checkpoint, "--boxes", "all", "--min-area", 0, "--maps", "--to", "coco,npy")
    assert run("localize", folder, "--out", out, *options).exit_code == 0
    assert all(row["cam"] for row in rows(out) if row["box"] == 0)
    results = json.loads((out / "coco.json").read_text(encoding="utf-8"))
    assert len(results) == len(rows(out))
    assert np.load(out / "maps-npy" / "0.png.npy").shape == (224, 224)
    assert "made of maps" in refused(
        "localize", folder, "--out", tmp_path / "o", "--weights", checkpoint, "--to", "png"
    )


def test_localize_tells_what_a_format_leaves_out(folder, checkpoint, tmp_path):
    (folder / "1.jpg").write_bytes((folder / "1.png").read_bytes())
    result = run("localize", folder, "--out", tmp_path / "out", "--weights", checkpoint, "--to", "yolo,coco")
    assert result.exit_code == 3
    reason = "yolo: 1 pictures left out, such as '1.png': another picture has the name labels/1.txt"
    assert result.stderr == f"fastcam: {reason}\n"
    assert (tmp_path / "out" / "coco.json").exists()


def test_localize_refuses_before_it_works_for_hours(folder, checkpoint, tmp_path):
    torch.save(models.build("resnet18", 255).state_dict(), tmp_path / "w.pt")
    network = ("--arch", "resnet18", "--num-classes", 255, "--weights", tmp_path / "w.pt")
    assert "at most 254 classes; the network has 255" in refused(
        "localize", folder, "--out", tmp_path / "o", *network, "--maps", "--to", "wsss"
    )
    common = ("--weights", checkpoint, "--out", tmp_path / "o")
    assert "needs a data set with labels" in refused("localize", folder, *common, "--targets", "label")
    for name, format in (("list.csv", "list"), ("a.TAR", "webdataset"), ("truth.json", "coco")):
        (tmp_path / name).write_bytes(b"")
        assert f"is no picture; a data set needs --format {format}" in refused("localize", tmp_path / name, *common)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("name", "format", "options"),
    [
        ("inputs.parquet", "list", ()),
        ("shards/000000.parquet", "list", ()),
        ("boxes.csv", "list", ("--to", "csv")),
        ("coco.json", "coco", ("--to", "coco")),
        ("coco.images.json", "coco", ("--to", "coco")),
        ("plan.json", "coco", ()),
        ("ranks/0.json", "coco", ()),
    ],
)
def test_sources_are_never_replaced(folder, checkpoint, tmp_path, name, format, options):
    out = tmp_path / "out"
    source = out / name
    source.parent.mkdir(parents=True)
    if name.endswith("parquet"):
        pq.write_table(pa.table({"path": ["0.png", "1.png"]}), source)
    elif format == "list":
        source.write_text("path\n0.png\n1.png\n")
    else:
        images = [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(3)]
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
        truth = {"images": images, "categories": [{"id": 1, "name": "ant"}], "annotations": [box]}
        source.write_text(json.dumps(truth))
    before = source.read_bytes()
    command = ("localize", source, "--format", format, "--images", folder, "--weights", checkpoint, *options)
    for more in ((), ("--overwrite",)):
        said = refused(*command, "--out", out, *more)
        assert f"{source} is a source, and " in said
        assert "choose another" in said
        assert [path for path in out.rglob("*") if path.is_file()] == [source]
    assert source.read_bytes() == before
    assert run(*command, "--out", tmp_path / "b").exit_code == 0
    assert run(*command, "--out", tmp_path / "b").exit_code == 0  # exports of the run itself are replaced


def test_exports_replace_no_files_of_others(folder, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "boxes.csv").write_text("mine")
    command = ("localize", folder, "--out", tmp_path / "out", "--weights", checkpoint, "--to", "csv")
    assert "boxes.csv is there, but no run that may have written it" in refused(*command, "--overwrite")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["boxes.csv"]


def test_names_that_a_terminal_cannot_show(folder, checkpoint, tmp_path):
    command = [sys.executable, "-m", "fastcam", "localize", folder, "--out", tmp_path / "ooü", "--to", "csv"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    result = subprocess.run([*command, "--weights", checkpoint], capture_output=True, env=environment, check=False)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"oo\\xfc/boxes.csv" in result.stdout
    assert (tmp_path / "ooü" / "boxes.csv").exists()


def test_a_file_where_a_folder_is_to_be_is_a_failure(folder, checkpoint, tmp_path):
    assert run("localize", folder, "--out", tmp_path / "run", "--weights", checkpoint).exit_code == 0
    (tmp_path / "file").touch()
    for command in (("report", tmp_path / "run"), ("export", tmp_path / "run", "--format", "csv")):
        result = run(*command, "--out", tmp_path / "file" / "x.html")
        assert (result.exit_code, result.stderr) == (1, f"fastcam: cannot write to {tmp_path / 'file'}: File exists\n")


def test_localize_a_data_set(folder, checkpoint, tmp_path):
    truth = {
        "images": [{"id": i, "file_name": f"{i}.png", "width": 80, "height": 60} for i in range(3)],
        "categories": [{"id": 7, "name": "ant"}, {"id": 9, "name": "bee"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": (7, 9)[i % 2], "bbox": [1, 2, 30, 20], "area": 600, "iscrowd": 0}
            for i in range(3)
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    options = ("--format", "coco", "--images", folder, "--targets", "label", "--weights", checkpoint)
    result = run("localize", tmp_path / "truth.json", "--out", tmp_path / "out", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [row["class_name"] for row in rows(tmp_path / "out")] == ["ant", "bee", "ant"]
    truth["categories"][0]["name"] = "elk"
    (tmp_path / "truth.json").write_text(json.dumps(truth), encoding="utf-8")
    result = run("localize", tmp_path / "truth.json", "--out", tmp_path / "again", *options)
    warning = "the data set has 2 classes, the network 3: label 0, 'elk', is taken for the network's class 0, 'ant'"
    assert (result.exit_code, result.stderr) == (0, f"fastcam: {warning}\n")


def test_labels_meet_the_classes_of_the_network_by_name(checkpoint, tmp_path):
    (tmp_path / "names.txt").write_text("cat\nbee\nant\n")
    for index, name in enumerate(("ant", "bee", "cat")):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), (99 * index, 9, 9)).save(tmp_path / "in" / name / "a.png")
    options = ("--format", "folder", "--targets", "label", "--weights", checkpoint)
    options += ("--class-names", tmp_path / "names.txt")
    result = run("localize", tmp_path / "in", "--out", tmp_path / "a", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [(row["image_id"], row["class_name"], row["class_id"]) for row in rows(tmp_path / "a")] == [
        ("ant/a.png", "ant", 2),
        ("bee/a.png", "bee", 1),
        ("cat/a.png", "cat", 0),
    ]
    for name in ("ant", "bee", "cat"):
        (tmp_path / "in" / name).rename(tmp_path / "in" / f"{name}s")
    result = run("localize", tmp_path / "in", "--out", tmp_path / "b", *options)
    warning = "the data set has 3 classes, the network 3: label 0, 'ants', is taken for the network's class 0, 'cat'"
    assert (result.exit_code, result.stderr) == (0, f"fastcam: {warning}\n")
    assert [row["class_id"] for row in rows(tmp_path / "b")] == [0, 1, 2]
    (tmp_path / "in" / "ants").rename(tmp_path / "in" / "ant")
    said = refused("localize", tmp_path / "in", "--out", tmp_path / "c", *options)
    assert "label 0 of the data set is 'ant', which is class 2 of the network, but 'bees' is none of the net" in said
