"""What the evaluator refuses, and how it names it."""

import numpy as np
import pytest
import torch

from fastcam.evaluation import Evaluator
from tests.support.streams import CLASSES, SIZE, pictures, protocol


def with_map(edit):
    def change(batch: dict) -> None:
        edit(batch["maps"][1])

    return change


def with_truth(**fields):
    def change(batch: dict) -> None:
        batch["truths"][1] = batch["truths"][1]._replace(**fields)

    return change


def with_entry(name: str, value):
    def change(batch: dict) -> None:
        batch[name][1] = value

    return change


def with_list_of_maps(value):
    def change(batch: dict) -> None:
        batch["maps"] = list(batch["maps"])
        batch["maps"][1] = value

    return change


def box(*edges: float) -> np.ndarray:
    return np.array([[1, 1, 9, 9], edges], np.float32)


BAD = {
    "nan": (with_map(lambda m: m[2, 3].fill_(float("nan"))), "its map has NaN or infinite values"),
    "infinite": (with_map(lambda m: m[2, 3].fill_(float("inf"))), "its map has NaN or infinite values"),
    "above 1": (with_map(lambda m: m[2, 3].fill_(1.5)), r"its map is outside \[0, 1\]: it reaches from .* to 1\.5"),
    "below 0": (with_map(lambda m: m[2, 3].fill_(-0.25)), r"its map is outside \[0, 1\]: it reaches from -0\.25 to"),
    "shape": (with_list_of_maps(torch.rand(12, 16)), r"its map must be \[13, 16\] \(height, width\), got \[12, 16\]"),
    "rank": (with_list_of_maps(torch.rand(1, 13, 16)), r"its map must be \[13, 16\].*, got \[1, 13, 16\]"),
    "bytes": (with_list_of_maps(np.ones(SIZE, np.uint8)), r"its map must be floating.*, got torch\.uint8"),
    "x1 < x0": (with_truth(boxes=box(9, 1, 4, 5)), "box 9, 1, 4, 5 ends before it begins"),
    "y1 < y0": (with_truth(boxes=box(1, 9, 4, 5)), "box 1, 9, 4, 5 ends before it begins"),
    "box nan": (with_truth(boxes=box(1, float("nan"), 4, 5)), "box 1, nan, 4, 5 is not finite"),
    "box inf": (with_truth(boxes=box(1, 1, float("inf"), 5)), "box 1, 1, inf, 5 is not finite"),
    "outside": (with_truth(boxes=box(1, 1, 34, 5)), "box 1, 1, 34, 5 lies outside the picture of 32x26"),
    "far outside": (with_truth(boxes=box(90, 90, 99, 99)), "box 90, 90, 99, 99 lies outside the picture"),
    "negative": (with_truth(boxes=box(-2, 1, 4, 5)), "box -2, 1, 4, 5 lies outside the picture"),
    "boxes' shape": (with_truth(boxes=np.zeros((2, 5))), r"its boxes must be \[B, 4\], xyxy, got \[2, 5\]"),
    "no size": (with_truth(size=None), r"boxes need the \(width, height\) of the picture, got None"),
    "no truth": (with_truth(boxes=None), "no ground truth: expected boxes or a mask"),
    "no boxes": (with_truth(boxes=np.zeros((0, 4))), "empty ground truth: it has no boxes"),
    "empty mask": (with_truth(mask=np.zeros((5, 5), bool)), "empty ground truth: its mask has no pixel of the object"),
    "ignored mask": (with_truth(mask=np.full((5, 5), 255, np.uint8)), "empty ground truth: its mask has no pixel"),
    "mask's shape": (with_truth(mask=np.ones((5, 5, 3), bool)), r"its mask must be \[h, w\]"),
    "mask's dtype": (with_truth(mask=np.ones((5, 5))), r"its mask must be .* bool or uint8, got float64"),
    "no label": (with_truth(label=None), "its label must be one of 7 classes, got none"),
    "label": (with_truth(label=7), "its label must be one of 7 classes, got 7"),
    "negative label": (with_truth(label=-1), "its label must be a class index, got -1"),
    "odd label": (with_truth(label=1.5), r"its label must be a class index, got 1\.5"),
    "other truth": (with_truth(id="b.jpg"), r"it is paired with the truth of b\.jpg"),
    "nan logits": (with_entry("logits", float("nan")), "its logits have NaN or infinite values"),
    "infinite logits": (with_entry("logits", float("inf")), "its logits have NaN or infinite values"),
    "duplicate": (with_entry("ids", "val/0/0.jpg"), "it comes twice in the batch"),
    "no id": (with_entry("ids", ""), "picture 1 of the batch has no id"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_named_or_listed(name: str) -> None:
    change, message = BAD[name]
    data = pictures(6)
    batch = data.take(range(6))
    change(batch)
    id = batch["ids"][1]
    strict = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    with pytest.raises(ValueError, match=f"^{id}: {message}"):
        strict.add(**batch)
    with pytest.raises(ValueError, match="nothing was measured"):
        strict.result()
    lenient = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8, skip_bad=True)
    scores = lenient.add(**batch)
    assert scores.index.tolist() == [0, 2, 3, 4, 5]
    ((listed, reason),) = lenient.bad
    assert listed == id
    assert reason.startswith(message.split("\\")[0].split(".*")[0])
    good = Evaluator(protocol(), num_classes=CLASSES, bootstrap=8)
    good.add(**pictures(6).take([0, 2, 3, 4, 5]))
    assert lenient.result().to_dict() | {"bad": []} == good.result().to_dict()


def test_several_bad_pictures_are_listed_in_order() -> None:
    batch = pictures(6).take(range(6))
    batch["maps"][4, 0, 0], batch["maps"][2, 0, 0] = 2, float("nan")
    batch["truths"][2] = batch["truths"][2]._replace(boxes=None)
    evaluator = Evaluator(protocol(), skip_bad=True)
    evaluator.add(**batch)
    assert [(id, reason[:18]) for id, reason in evaluator.bad] == [
        ("val/0/2.jpg", "its map has NaN or"),
        ("val/0/4.jpg", "its map is outside"),
    ]
    evaluator.reject("gone.jpg", "no map")
    assert evaluator.result().bad[-1] == ("gone.jpg", "no map")
    with pytest.raises(ValueError, match=r"^gone\.jpg: no map$"):
        Evaluator(protocol()).reject("gone.jpg", "no map")


def test_boxes_may_stick_out_by_a_pixel_of_rounding() -> None:
    batch = pictures(2).take(range(2))
    batch["truths"][1] = batch["truths"][1]._replace(boxes=box(-1, 0, 33, 27))
    Evaluator(protocol()).add(**batch)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maps", r"`maps` must have one entry for each of 4 ids \(the first is val/0/0\.jpg\), got 3"),
        ("truths", "`truths` must have one entry for each of 4 ids"),
        ("logits", "`logits` must have one entry for each of 4 ids"),
        ("labels", "`labels` must have one entry for each of 4 ids"),
    ],
)
def test_numbers_that_differ(name: str, message: str) -> None:
    batch = pictures(4).take(range(4)) | {"labels": [0, 1, 2, 3]}
    batch[name] = batch[name][:3]
    with pytest.raises(ValueError, match=message):
        Evaluator(protocol(), skip_bad=True).add(**batch)


def test_logits_of_another_shape() -> None:
    batch = pictures(4).take(range(4))
    for logits, message in (
        (batch["logits"][:, :5], r"must be \[N, 7\] for 7 classes, got \[4, 5\]"),
        (batch["logits"][:, 0], r"must be floating \[N, C\]"),
        (batch["logits"].long(), r"must be floating \[N, C\], got torch\.int64"),
    ):
        with pytest.raises(ValueError, match=f"`logits` {message}"):
            Evaluator(protocol(), num_classes=CLASSES).add(**batch | {"logits": logits})
    with pytest.raises(ValueError, match=r"0\.jpg: its map must be \[13, 16\] .* got \[13, 15\]"):
        Evaluator(protocol()).add(**batch | {"maps": batch["maps"][..., :15]})
    with pytest.raises(TypeError, match="`ids` must be strings, got 0"):
        Evaluator(protocol()).add(**batch | {"ids": range(4)})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"protocol": "cvpr"}, "`protocol` must be one of standard, paper, rethinking, ts-cam, bas, notebook"),
        ({"protocol": "bas"}, "bas averages over classes"),
        ({"metrics": ["MaxBox"]}, "`metrics` must be some of"),
        ({"metrics": []}, "`metrics` must be some of"),
        ({"num_classes": 0}, "`num_classes` must be an integer of at least 1"),
        ({"bootstrap": -1}, "`bootstrap` must be an integer of at least 0"),
        ({"bootstrap": 1.5}, "`bootstrap` must be an integer of at least 0"),
    ],
)
def test_options_that_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Evaluator(**options)


def test_a_protocol_of_another_type() -> None:
    with pytest.raises(TypeError, match="`protocol` must be a name or a Protocol"):
        Evaluator(protocol=None)


def test_nothing_to_report() -> None:
    with pytest.raises(ValueError, match="nothing was measured"):
        Evaluator().result()
    evaluator = Evaluator(protocol())
    evaluator.add([], torch.zeros(0, *SIZE), [])
    evaluator.add([], [], [])
    with pytest.raises(ValueError, match="nothing was measured"):
        evaluator.result()
