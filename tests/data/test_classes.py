"""Several classes a picture: what the layouts tell, and that all that hands a data set on keeps them."""

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from fastcam import data as datasets
from fastcam.data import Collection, Faults, Pictures, Sample, classes_of
from fastcam.data.matching import in_classes
from fastcam.data.shapes import Shapes
from fastcam.evaluation.sources.source import opened
from tests.support.datasets import coco, picture, voc, xml
from tests.support.files import write

NAMES = ("ant", "bee", "cat", "dog")


def names_of(data: Collection) -> dict[str, set[str] | None]:
    """The names of the classes of each picture, which must stand ascending and each once."""
    found = classes_of(data)
    assert found is not None
    assert all(classes is None or list(classes) == sorted(set(classes)) for classes in found)
    for index, classes in enumerate(found):
        assert data.truth(index).classes == data[index].classes == classes
    return {
        Path(id).stem: None if classes is None else {data.class_names[place] for place in classes}
        for id, classes in zip(data.ids, found, strict=True)
    }


def test_voc_tells_all_objects_of_a_picture(tmp_path):
    voc(tmp_path)
    files = (tmp_path / "VOC2012/Annotations").glob("*.xml")
    written = {file.stem: {name.text for name in ET.parse(file).iter("name")} for file in files}
    data = datasets.load(tmp_path)
    assert names_of(data) == written == {"x": {"dog", "cat"}, "y": {"cat"}, "z": {"cat", "dog"}}
    assert names_of(datasets.load(tmp_path, "val")) == {"x": {"dog", "cat"}, "y": {"cat"}}
    assert data.labels == [1, 0, 0]  # the largest area, as ever


def test_difficult_objects_are_in_the_picture(tmp_path):
    picture(tmp_path / "JPEGImages/x.jpg")
    objects = [("dog", (1, 1, 9, 9)), ("person", (1, 1, 40, 30), 1)]
    write(tmp_path / "Annotations/x.xml", xml((40, 30), *objects, filename="x.jpg"))
    data = datasets.load(tmp_path)
    assert data[0].label == data.class_names.index("dog")
    assert names_of(data) == {"x": {"dog", "person"}}


def test_coco_tells_all_annotations_of_a_picture(tmp_path):
    coco(tmp_path)
    document = json.loads((tmp_path / "annotations/instances_val2017.json").read_text())
    document["images"].append({"id": 10, "file_name": "d.jpg", "width": 40, "height": 30})  # known to have nothing
    picture(tmp_path / "val2017/d.jpg")
    write(tmp_path / "annotations/instances_val2017.json", json.dumps(document))
    categories = {entry["id"]: entry["name"] for entry in document["categories"]}
    written = {Path(entry["file_name"]).stem: set() for entry in document["images"]}
    stems = {entry["id"]: Path(entry["file_name"]).stem for entry in document["images"]}
    for entry in document["annotations"]:
        written[stems[entry["image_id"]]].add(categories[entry["category_id"]])
    assert names_of(datasets.load(tmp_path)) == {stem: written[stem] for stem in "ab"}  # as pictures are left out today
    assert names_of(datasets.load(tmp_path, bad=Faults())) == written
    document["annotations"] = []
    write(tmp_path / "annotations/instances_val2017.json", json.dumps(document))
    assert classes_of(datasets.load(tmp_path, bad=Faults())) is None  # of test pictures nothing is known


def test_a_picture_whose_annotation_is_refused_has_unknown_classes(tmp_path):
    voc(tmp_path)
    write(tmp_path / "VOC2012/Annotations/y.xml", "<annotation></annotation>")
    faults = Faults()
    assert names_of(datasets.load(tmp_path, bad=faults)) == {"x": {"dog", "cat"}, "y": None, "z": {"dog", "cat"}}
    assert [id for id, _ in faults] == ["y"]


def pictures(root: Path, **columns: object) -> Pictures:
    ids = ["x.png", "y.png", "z.png", "w.png"]
    for id in ids:
        picture(root / id)
    return Pictures(root, ids, class_names=NAMES, **columns)


def test_what_hands_pictures_on_keeps_classes(tmp_path):
    given = [[2, 0, 2], (), None, (3,)]
    data = pictures(tmp_path, labels=[2, None, 1, 3], classes=given)
    assert data.classes == [(0, 2), (), None, (3,)]
    assert classes_of(data) == [(0, 2), (), (1,), (3,)]
    assert data.labelled().classes == data.classes
    assert data.subset([3, 0]).classes == [(3,), (0, 2)]
    assert data.subset([3, 0])[1].classes == (0, 2)
    assert opened(data) is data
    turned = in_classes(data, ("dog", "cat", "bee", "ant"))
    assert turned.classes == [(1, 3), (), None, (0,)]
    assert turned.labels == [1, None, 2, 0]
    assert turned[0].classes == turned.truth(0).classes == (1, 3)
    assert data.classes == [(0, 2), (), None, (3,)]
    assert in_classes(data, NAMES) is data


@settings(max_examples=50, deadline=None)
@given(st.permutations(NAMES), st.lists(st.none() | st.sets(st.integers(0, 3)), min_size=1, max_size=9))
def test_classes_meet_by_name(tmp_path_factory, order, told):
    """Whatever the order of a network's classes, with others among them, a picture keeps the names of its classes."""
    ids = [f"{index}.png" for index in range(len(told))]
    data = Pictures(tmp_path_factory.getbasetemp(), ids, classes=told, class_names=NAMES)
    network = ("other", *order[:2], "more", *order[2:])
    found = in_classes(data, network)
    names = [None if classes is None else {network[place] for place in classes} for classes in found.classes]
    assert names == [None if classes is None else {NAMES[place] for place in classes} for classes in told]
    assert all(classes is None or list(classes) == sorted(classes) for classes in found.classes)


class Several:
    """A data set that is no files, with samples of several classes."""

    class_names = NAMES

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Sample:
        classes = [(0, 2), (), None][index]
        return Sample(np.zeros((9, 9, 3), np.uint8), (2, None, 3)[index], classes=classes)


def test_samples_of_several_classes(tmp_path):
    data = opened(Several())
    assert data.classes == [(0, 2), (), None]
    assert classes_of(data) == [(0, 2), (), (3,)]
    turned = in_classes(data, ("dog", "cat", "bee", "ant"))
    assert turned.classes == [(1, 3), (), None]
    assert [turned[i].classes for i in range(3)] == [turned.truth(i).classes for i in range(3)] == turned.classes
    assert [turned[i].label for i in range(3)] == [1, None, 0]


def test_data_sets_of_one_class_a_picture(tmp_path):
    shapes = Shapes("val", 3)
    assert (shapes.classes, shapes[0].classes) == (None, None)
    assert classes_of(shapes) == [(0,), (1,), (2,)]
    assert classes_of(pictures(tmp_path, labels=[1, None, 0, 0])) == [(1,), None, (0,), (0,)]
    assert classes_of(pictures(tmp_path)) is None
    assert classes_of(pictures(tmp_path, classes=[None, (), [1], [0, 1]])) == [None, (), (1,), (0, 1)]
    assert classes_of(Several()) is None  # which would have to be read


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"classes": [(0,)]}, "`classes` must have one entry for each of 4 pictures, got 1"),
        ({"classes": [(0,), (-1, 2), (), None]}, r"picture 'y.png': expected classes of at least 0, got \(-1, 2\)"),
        (
            {"classes": [(0,), (2, 3), (), None], "labels": [0, 1, None, None]},
            r"picture 'y.png': expected classes of at least 0 with its label, 1, among them, got \(2, 3\)",
        ),
        ({"classes": [(0,), (), (), None], "labels": [0, 1, None, None]}, r"its label, 1, among them, got \(\)"),
    ],
)
def test_classes_that_cannot_be(tmp_path, columns, message):
    with pytest.raises(ValueError, match=message):
        pictures(tmp_path, **columns)
