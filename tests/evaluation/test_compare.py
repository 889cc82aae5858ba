"""The table of methods: each row must be what `evaluate` gives for that method alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from fastcam import cli, models
from fastcam.data import Sample
from fastcam.evaluation import PROTOCOLS
from fastcam.evaluation.compare import compare
from fastcam.evaluation.evaluate import evaluate
from fastcam.evaluation.settings import ROWS
from fastcam.evaluation.sources import Variant
from fastcam.methods import BOX_METHODS
from fastcam.models import ModelConfig, to_gap

CONFIG = ModelConfig("tiny", 4, None, size=32)
SMALL = PROTOCOLS["standard"]._replace(size=(32, 32))


class Net(nn.Module):
    """Two convolutions, global average pooling and a linear layer; it notes the size of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.layer4 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 10, 3, 2, 1), nn.ReLU())
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(10, 4)
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.batches.append(len(images))
        return self.fc(self.avgpool(self.layer4(images)).flatten(1))


@pytest.fixture
def model() -> Net:
    net = Net()
    nn.init.normal_(net.fc.weight)
    return net.eval()


@pytest.fixture
def data() -> list[Sample]:
    """Seven pictures, each with a bright box somewhere, which is the truth."""
    random, samples = np.random.default_rng(0), []
    for index in range(7):
        image = random.integers(0, 90, (40, 48, 3), np.uint8)
        x, y = random.integers(0, 20, 2).tolist()
        image[y : y + 16, x : x + 20, index % 3] += 150
        boxes = np.array([[x, y, x + 20, y + 16]], np.float32)
        samples.append(Sample(image, index % 4, boxes, None, (48, 40), f"picture{index}"))
    return samples


def test_names_of_rows():
    assert Variant.parse("cam") == Variant("cam")
    assert Variant.parse("gradcam++") == Variant("gradcam++")
    assert Variant.parse("gradcam+++tap+aug") == Variant("gradcam++", tap=True, aug=True)
    assert Variant.parse("gradcam++tap+aug").name == "gradcam+++tap+aug"
    assert Variant.parse("gradcam+eigen") == Variant("gradcam", eigen=True)
    assert Variant.parse("cam+pas+clamp+tap").name == "cam+tap+clamp+pas"
    for name in (*BOX_METHODS, *ROWS):
        assert Variant.parse(name).name == name
        assert Variant.parse(f"{name}+aug").aug


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("camm", r"'camm': unknown method; did you mean cam"),
        ("", r"'': unknown method; known are cam"),
        ("guided-backprop", r"'guided-backprop': guided-backprop gives no map of a class"),
        ("saliency+clamp", r"\+clamp is for cam"),
        ("guided-gradcam+aug", r"guided-gradcam gives no map"),
        ("cam+tapp", r"unknown \+tapp; a row is cam\[\+tap\]\[\+clamp\]\[\+pas\]\[\+eigen\]\[\+aug\]\[\+ms\]"),
        ("gradcam+++", r"unknown \+; a row is gradcam\+\+\["),
        ("gradcam++++tap", r"unknown \+; a row is gradcam\+\+\["),
        ("cam+", r"unknown \+; a row is cam\["),
        ("cam+tap+tap", r"\+tap comes twice"),
        ("gradcam+clamp", r"\+clamp is for cam"),
        ("cam+ms+aug", r"\+aug and \+ms are two ways"),
    ],
)
def test_wrong_names_of_rows(name, message):
    with pytest.raises(ValueError, match=message):
        Variant.parse(name)


ALL = [
    *ROWS,
    "hirescam",
    "xgradcam",
    "eigencam",
    "eigengradcam",
    "scorecam",
    "ablationcam",
    "scorecam+tap",
    "layercam+tap+eigen",
    "cam+aug",
    "cam+tap+clamp+pas+eigen+aug",
    "gradcam+eigen",
    "layercam+aug",
    "saliency",
    "saliency+pas",
    "saliency+tap",
    "saliency+aug",
    "cam+ms",
    "cam+tap+clamp+pas+ms",
    "layercam+eigen+ms",
    "gradcam+++tap+ms",
    "saliency+ms",
]


SOME = ["gradcam", "saliency", "gradcam++", "layercam+tap+eigen", "eigencam+pas", "ablationcam+tap", "hirescam+aug"]
SOME += ["layercam+ms", "gradcam+tap+eigen+ms"]
VIEWS = {"scales": (0.5, 1, 2), "flip": True}


@pytest.mark.parametrize(
    ("rows", "layers"),
    [(ALL, None), (SOME, ["layer4.1"]), ([*SOME[:3], "layercam+ms"], ["layer4.1", "layer4"])],
    ids=["last", "early", "two"],
)
def test_rows_are_those_of_each_method_alone(rows, layers, model, data, tmp_path):
    options = {"config": CONFIG, "batch_size": 3, "bootstrap": 20, "progress": False}
    table = compare(model, data, methods=rows, target_layers=layers, protocol=SMALL, **VIEWS, **options)
    assert [entry.name for entry in table.entries] == rows
    for entry, row in zip(table.entries, map(Variant.parse, rows), strict=True):
        # Another pooling as a network of its own.
        network = to_gap(model, "tap") if row.tap else model
        alone = evaluate(
            data,
            out=tmp_path / entry.name,
            model=network,
            method=row.method,
            target_layers=None if row.method == "saliency" else layers,
            clamp=row.clamp,
            smooth=[name for name in ("aug", "eigen") if getattr(row, name)],
            protocol=SMALL._replace(percentile=90.0) if row.pas else SMALL,
            cases=0,
            **(VIEWS if row.ms else {}),
            **options,
        ).metrics
        found = entry.result.to_dict()
        for name in ("figures", "curves", "best_thresholds", "intervals", "counts", "protocol"):
            assert json.loads(json.dumps(found[name])) == json.loads(json.dumps(alone[name])), (entry.name, name)
        best = alone["best_thresholds"]["MaxBoxAcc"]
        at = alone["thresholds"].index(best)
        figures = table.figures(entry)
        assert table.chosen(entry) == best
        assert figures["GT-known Loc"] == alone["figures"]["MaxBoxAcc"] == alone["curves"]["BoxAcc 50"][at]
        assert figures["Top-1 Loc"] == alone["curves"]["Top-1 Loc"][at]


def test_the_network_runs_once_for_all(model, data):
    rows = ["cam", "cam+tap", "cam+clamp", "cam+pas", "gradcam++", "layercam+eigen", "gradcam+aug", "cam+tap+aug"]
    table = compare(model, data, methods=rows, config=CONFIG, protocol=SMALL, batch_size=4, progress=False)
    assert model.batches == [4, 1, 24, 3, 18]  # the one shows that rows do not depend on each other
    shared = {entry.name: entry.shares for entry in table.entries}
    plain, six = "forward pass", "forward pass, six views"
    assert shared["cam"] == shared["cam+pas"] == shared["gradcam++"] == shared["layercam+eigen"] == (plain,)
    assert shared["cam+tap"] == (plain, "TAP")
    assert shared["gradcam+aug"] == (six,)
    assert shared["cam+tap+aug"] == (six, "TAP, six views")
    assert set(table.shared) == {plain, six, "TAP", "TAP, six views"}
    for entry in table.entries:
        assert 0 < entry.own < entry.alone
        assert entry.alone == pytest.approx(entry.own + sum(table.shared[part] for part in entry.shares))
    model.batches.clear()
    rows = ["layercam+ms", "cam+tap+ms", "cam+ms", "cam"]
    table = compare(model, data, methods=rows, config=CONFIG, protocol=SMALL, batch_size=4, progress=False, **VIEWS)
    assert model.batches == [4, 1, 8, 8, 8, 3, 6, 6, 6]  # mirror images beside the pictures, at each of three sizes
    of = ", 6 views"
    assert [entry.shares for entry in table.entries] == [
        (f"forward pass{of}",),
        (f"forward pass{of}", f"TAP{of}"),
        (f"forward pass{of}",),
        (plain,),
    ]
    early = compare(
        model,
        data,
        methods=["layercam", "gradcam+tap", "eigencam"],
        target_layers="layer4.1",
        config=CONFIG,
        protocol=SMALL,
        progress=False,
    )
    shares = [entry.shares for entry in early.entries]
    assert shares == [(plain, "gradients"), (plain, "TAP", "gradients, TAP"), (plain,)]


def test_what_is_written(model, data, tmp_path):
    options = {"methods": ["cam", "gradcam+++pas"], "config": CONFIG, "protocol": SMALL, "progress": False}
    table = compare(model, data, out=tmp_path, pictures=2, threshold=0.3, **options)
    told = json.loads((tmp_path / "compare.json").read_text())
    assert [row["name"] for row in told["rows"]] == ["cam", "gradcam+++pas"]
    assert [row["percentile"] for row in told["rows"]] == [100, 90]
    assert told["pictures"] == 7
    assert told["threshold"] == 0.3
    assert told["network"]["arch"] == "tiny"
    for row, entry in zip(told["rows"], table.entries, strict=True):
        assert row["threshold"] == 0.3
        assert row["figures"] == {name: entry.result.figures[name] for name in row["figures"]}
        assert set(row["figures"]) == {"Top-1 Cls", "Top-1 Loc", "GT-known Loc", "MaxBoxAcc", "MaxBoxAccV2"}
        assert row["intervals"]["GT-known Loc"] == list(entry.result.intervals["GT-known Loc"])
    lines = table.table()
    for name in ("row", "Top-1 Cls", "Top-1 Loc", "GT-known Loc", "MaxBoxAcc", "MaxBoxAccV2", "τ", "own ms", "seconds"):
        assert f" {name} " in f" {lines[0]} "
    assert lines[1].startswith("cam ")
    assert len({len(line) for line in lines[:3]}) == 1
    assert "GT-known Loc and Top-1 Loc at τ = 0.3." in lines[4]
    text = (tmp_path / "compare.md").read_text()
    assert text.startswith("| row | Top-1 Cls | Top-1 Loc |")
    assert "| gradcam+++pas |" in text
    with Image.open(tmp_path / "compare.png") as image:
        assert image.width > 300
    with Image.open(tmp_path / "compare_maps.png") as image:
        assert image.width > image.height  # three columns, two rows
    with pytest.raises(FileExistsError, match="choose another folder, or `overwrite` it"):
        compare(model, data, out=tmp_path, **options)
    again = compare(model, data, out=tmp_path, pictures=0, overwrite=True, **options)
    assert "own best τ for MaxBoxAcc" in again.notes()[0]
    assert not (tmp_path / "compare_maps.png").exists()
    kept = json.loads((tmp_path / "compare.json").read_text())["rows"][0]
    assert ("GT-known Loc" in kept["intervals"]) == (kept["threshold"] == 0.2)


def test_masks_instead_of_boxes(model, data):
    masked = []
    for sample in data:
        mask = np.zeros((40, 48), bool)
        x0, y0, x1, y1 = sample.boxes[0].astype(int)
        mask[y0:y1, x0:x1] = True
        masked.append(sample._replace(boxes=None, mask=mask))
    table = compare(model, masked, methods=["cam", "cam+tap"], config=CONFIG, protocol=SMALL, progress=False)
    assert set(table.figures(table.entries[0])) == {"Top-1 Cls", "PxAP"}
    assert table.table()[0].split() == ["row", "Top-1", "Cls", "PxAP", "τ", "own", "ms", "seconds"]


def test_bad_pictures_are_named_once(model, data, tmp_path):
    data[2], data[4] = data[2]._replace(label=None), data[4]._replace(boxes=np.array([[9, 0, 3, 5]], np.float32))
    options = {"methods": ["cam", "gradcam", "cam+tap"], "config": CONFIG, "protocol": SMALL, "progress": False}
    with pytest.raises(ValueError, match="picture2: it has no label"):
        compare(model, data, **options)
    table = compare(model, data, skip_bad=True, problems=[("picture9", "it is lost")], **options)
    assert table.pictures == 5
    assert [id for id, _ in table.bad] == ["picture9", "picture2", "picture4"]
    data[0] = data[0]._replace(boxes=np.array([[0, 0, np.nan, 5]], np.float32))
    table = compare(model, data, out=tmp_path, pictures=7, skip_bad=True, **options)  # those that are bad are not drawn
    assert table.pictures == 4
    with pytest.raises(ValueError, match="nothing was measured"):
        compare(model, data[2:3], skip_bad=True, **options)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"methods": "cam"}, TypeError, "must be a list of names, got the string 'cam'"),
        ({"methods": []}, ValueError, "at least one row, got none"),
        ({"methods": ["cam+tap+pas", "cam+pas+tap"]}, ValueError, r"`methods` has cam\+tap\+pas twice"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be a whole number of at least 1, got 0"),
        ({"pictures": -1}, ValueError, "`pictures` must be a whole number of at least 0"),
        ({"pas_percentile": 101}, ValueError, r"`pas_percentile` must be in \[0, 100\], got 101"),
        ({"protocol": "standart"}, ValueError, "standart"),
        ({"protocol": "notebook"}, ValueError, r"protocol notebook has no percentile, as cam\+pas wants"),
        ({"threshold": 1.0}, ValueError, "threshold"),
        ({"methods": ["cam"], "target_layers": "layer4.1"}, ValueError, "CAM needs global average pooling"),
    ],
)
def test_wrong_options(options, error, message, model, data):
    with pytest.raises(error, match=message):
        compare(model, data, **{"config": CONFIG, "progress": False} | options)


@pytest.mark.parametrize(
    ("name", "rows"), [("bas", ["cam", "cam+pas"]), ("rethinking", ["cam"]), ("notebook", ["cam"])]
)
def test_other_protocols(name, rows, model, data):
    protocol = PROTOCOLS[name]._replace(size=(32, 32), crop=None)
    table = compare(model, data, methods=rows, config=CONFIG, protocol=protocol, progress=False)
    assert [entry.result.protocol.percentile for entry in table.entries] == [protocol.percentile, 90][: len(rows)]
    assert table.notes()[0].startswith(f"7 pictures, protocol {name}.")
    assert name != "notebook" or table.chosen(table.entries[0]) == 0.6


# ---- the command -----------------------------------------------------------------------------------------------------


def test_command(tmp_path):
    pictures, weights = tmp_path / "cub", tmp_path / "tiny.safetensors"
    (pictures / "images").mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in (1, 2):
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(pictures / "images" / f"{index}.png")
    for name, text in (
        ("images", "1 1.png\n2 2.png\n"),
        ("image_class_labels", "1 1\n2 2\n"),
        ("train_test_split", "1 0\n2 0\n"),
        ("classes", "1 ant\n2 bee\n"),
        ("bounding_boxes", "1 5.0 5.0 20.0 20.0\n2 1.0 2.0 30.0 30.0\n"),
    ):
        (pictures / f"{name}.txt").write_text(text)
    torch.manual_seed(0)
    models.save_checkpoint(weights, models.build("resnet18", 2), ModelConfig("resnet18", 2, None, size=32))
    arguments = [
        "compare",
        str(pictures),
        "--weights",
        str(weights),
        "--out",
        str(tmp_path / "out"),
        "--bootstrap",
        "5",
    ]
    result = CliRunner().invoke(cli.app, [*arguments, "--methods", "cam,gradcam++", "--methods", "cam+tap+pas"])
    assert result.exit_code == 0, result.output
    assert [line.split()[0] for line in result.stdout.splitlines()[:4]] == ["row", "cam", "gradcam++", "cam+tap+pas"]
    assert (tmp_path / "out" / "compare_maps.png").exists()
    for extra, message in ((["--methods", "camm"], "unknown method; did you mean cam"), ([], "exists already")):
        result = CliRunner().invoke(cli.app, [*arguments, *extra])
        assert result.exit_code == 2
        assert message in result.stderr


@pytest.mark.long
def test_saliency_finds_fewer_objects_than_cam(shared, tmp_path):
    """As in table 2 of Zhou et al., CVPR 2016: MobileNetV2 on 400 ILSVRC pictures."""
    config = ModelConfig("mobilenet_v2", 1000, None, mean=(0.5,) * 3, std=(0.5,) * 3)
    model = models.build("mobilenet_v2")
    models.load_weights(model, shared / "weights" / "mobilenet_v2.pt")
    options = {"config": config, "bootstrap": 0, "threshold": 0.2, "progress": False}
    table = compare(model, shared / "images" / "ilsvrc", methods=["cam", "saliency"], **options)
    cam, saliency = map(table.figures, table.entries)
    assert cam["MaxBoxAcc"] == pytest.approx(68.5, abs=0.5)
    for name in ("GT-known Loc", "MaxBoxAcc", "MaxBoxAccV2", "Top-1 Loc"):
        assert saliency[name] < cam[name]
    assert saliency["MaxBoxAcc"] > 40  # it is no noise
