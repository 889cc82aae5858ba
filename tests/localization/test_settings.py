"""What decides about rows: as plan.json has it, which later versions go on to read."""

import inspect
import json

import pytest
import torch
from PIL import Image

from fastcam import _options
from fastcam.localization import LocalizeSettings, Plan, localize, prepare
from fastcam.localization.run_settings import RunSettings, decide
from fastcam.models import ModelConfig
from tests.support.engine_run import CONFIG, Tiny

NAMES = (
    "version decoders arch num_classes weights size resize mean std method target_layers threshold relu mode scales "
    "flip refine backend top_k scores batch_size overlays maps boxes min_area tight precision channels_last compile "
    "decoder threads device dtype"
)


def test_the_plan_has_all_that_decides_and_nothing_else():
    chosen = LocalizeSettings(boxes="all", min_area=0.5, threads=3, decoder="pillow", shard_size=7, overwrite=True)
    values = decide(Tiny(), CONFIG, chosen).to_json()
    assert [*values] == NAMES.split()
    assert json.loads(json.dumps(values)) == values
    wanted = {"arch": "tiny", "size": 32, "mean": [0.5] * 3, "method": "cam", "target_layers": ["features"]}
    wanted |= {"threshold": 0.2, "relu": None, "top_k": 1, "min_area": 0.5, "threads": 3, "decoder": "pillow"}
    wanted |= {"device": "cpu", "dtype": "float32", "compile": None}
    assert {name: values[name] for name in wanted} == wanted


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"targets": "label"},
        {"boxes": "all", "relu": False},
        {"threads": 2, "maps": True, "top_k": 3},
        {"boxes": "paper", "tight": 0.7},
        {"method": "saliency"},
        {"scales": (0.5, 1), "flip": True},
    ],
)
def test_settings_are_read_as_they_were_written(options):
    values = decide(Tiny(), CONFIG, LocalizeSettings(**options)).to_json()
    assert RunSettings.from_json(values).to_json() == values
    paper = options.get("boxes") == "paper"
    assert values["top_k"] == (None if "targets" in options else 3 if paper else options.get("top_k", 1))
    assert values["min_area"] == (0.01 if options.get("boxes") == "all" else None)
    assert values["tight"] == options.get("tight")
    assert values["target_layers"] == ([] if "method" in options else ["features"])


def test_what_is_no_plan_of_this_version(tmp_path):
    plan = prepare(Tiny(), _picture(tmp_path), out=tmp_path / "out", config=CONFIG)
    known = json.loads(plan.files.plan.read_text())
    assert Plan.load(plan.folder).settings.to_json() == plan.settings.to_json() == known["settings"]
    for wrong in ({"settings": {}}, {"settings": known["settings"] | {"mode": "x"}}, {"shard_size": 0}, {"more": 1}):
        plan.files.plan.write_text(json.dumps(known | wrong))
        with pytest.raises(ValueError, match=r"plan\.json is no plan that this version of fastcam can read"):
            Plan.load(plan.folder)


def _picture(folder):
    Image.new("RGB", (9, 9)).save(folder / "a.png")
    return folder / "a.png"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": 5}, "`top_k` must be at most the number of classes, 4, got 5"),
        ({"threshold": 1.0}, "`threshold` must be at least 0 and less than 1, got 1.0"),
        ({"min_area": 2}, r"`min_area` must be a fraction of the frame, in \[0, 1\], got 2"),
        ({"scales": (1, 0)}, "`scales` must be up to 8 different numbers above 0 and at most 8"),
        ({"scales": (1, 1.0)}, "`scales` must be up to 8 different numbers"),
        ({"flip": True, "relu": False}, "clipped at zero before they are summed: leave `relu` of CAM"),
        ({"flip": True, "compile": "default"}, "`compile` default is for maps of one view"),
        ({"boxes": "some"}, "`boxes` must be one of largest, all, paper, got 'some'"),
        ({"boxes": "paper", "top_k": 2}, "`boxes` paper are of the 3 highest classes, got `top_k` 2"),
        ({"boxes": "paper", "targets": "label"}, "`boxes` paper are of the highest classes: they do not go with"),
        ({"boxes": "paper", "threshold": 0.4}, "`tight` must be above `threshold`, 0.4, got 0.4"),
        ({"tight": 1}, "`tight` must be at least 0 and less than 1, got 1"),
        (
            {"compile": "fast"},
            "`compile` must be one of None, freeze, auto, default, reduce-overhead, max-autotune, got 'fast'",
        ),
        ({"threads": 0}, "`threads` must be a whole number of at least 1, got 0"),
        ({"method": "guided-backprop"}, "`method` guided-backprop gives no maps .* these do: cam, .*, saliency$"),
        ({"method": "salience"}, "unknown method 'salience'; did you mean saliency"),
        ({"method": "saliency", "target_layers": ["features"]}, "it has no target layer, got"),
        ({"decoder": "jpeglib"}, "`decoder` must be one of"),
        ({"decoder": "nvjpeg"}, '`decoder` "nvjpeg" needs the network on a CUDA device, it is on cpu'),
    ],
)
def test_options_that_cannot_be(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        localize(Tiny(), _picture(tmp_path), out=tmp_path / "out", config=CONFIG, **options)
    assert not (tmp_path / "out").exists()


def test_the_papers_boxes_have_its_thresholds():
    config = ModelConfig("tiny", 4, size=32, threshold=0.6)
    for boxes, wanted in (("largest", 0.6), ("paper", 0.2)):
        assert decide(Tiny(), config, LocalizeSettings(boxes=boxes)).threshold == wanted
    given = decide(Tiny(), config, LocalizeSettings(boxes="paper", threshold=0.3, tight=0.5))
    assert (given.threshold, given.tight, given.top_k) == (0.3, 0.5, 3)


def test_two_classes_have_no_five_boxes(tmp_path):
    config = ModelConfig("tiny", 2, size=32)
    with pytest.raises(ValueError, match="`boxes` paper are of the 3 highest classes, the network has 2"):
        localize(Tiny(), _picture(tmp_path), out=tmp_path / "out", config=config, boxes="paper")


def test_targets_of_another_kind(tmp_path):
    with pytest.raises(
        TypeError, match='`targets` must be None, "label" or a mapping from image_id to class or classes, got 3'
    ):
        LocalizeSettings(targets=3)


def test_all_options_are_in_the_signature_and_the_documentation():
    parameters = inspect.signature(localize).parameters
    for name, known in _options.options(LocalizeSettings).items():
        assert parameters[name].default == LocalizeSettings.__dataclass_fields__[name].default
        assert f"{name}: {known.help.split()[0]}" in (localize.__doc__ or "")
    assert torch.get_num_threads() == decide(Tiny(), CONFIG, LocalizeSettings()).threads
