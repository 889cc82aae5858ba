"""What a data set holds."""

import json
import xml.etree.ElementTree as ET
from collections import Counter

import numpy as np

from fastcam import data
from tests.support.commands import run
from tests.support.datasets import MAKERS, jpeg, voc
from tests.support.files import write


def test_info(tmp_path) -> None:
    MAKERS["wsol"](tmp_path)
    found = data.info(tmp_path, progress=False)
    assert found.classes == [("cat", 1), ("dog", 0), ("owl", 1)]
    assert (found.pictures, found.resized, found.boxed, found.masked) == (2, 2, 2, 0)
    assert (found.width, found.height) == ((10, 10, 10), (10, 10, 10))
    assert found.boxes == (1, 1.5, 2)
    np.testing.assert_allclose(found.box_share, (1.5 * 2 / 1200, 2 * 2 / 1000, 40 * 29 / 1200))
    assert (found.malformed, found.damaged) == ([], [])
    told = data.info(tmp_path, decode=False, progress=False)
    assert (told.width, told.height, told.resized) == ((40, 45, 50), (20, 25, 30), 0)
    (tmp_path / "val/ü.jpg").write_bytes(jpeg()[:100])
    (tmp_path / "val/a, b.jpg").unlink()
    found = data.info(tmp_path, progress=False)
    assert [id for id, _ in found.malformed] == ["val/a, b.jpg"]
    assert [id for id, _ in found.damaged] == ["val/ü.jpg"]
    assert found.width is None
    assert "malformed       1" in found.lines()
    drawn = data.info("shapes", "val", progress=False)
    assert drawn.masked == drawn.boxed == 400
    share = [data.load("shapes", "val").truth(i).mask.mean() for i in range(400)]
    np.testing.assert_allclose(drawn.mask_share, (np.min(share), np.median(share), np.max(share)))


def test_several_classes_a_picture(tmp_path) -> None:
    voc(tmp_path)
    written = [{name.text for name in ET.parse(file).iter("name")} for file in tmp_path.rglob("*.xml")]
    found = data.info(tmp_path, progress=False)
    assert dict(found.classes) == Counter(name for names in written for name in names) == {"cat": 3, "dog": 2}
    assert found.classes_of_each == (1, np.median([len(names) for names in written]), 2)
    assert (found.several, found.classless) == (2, 0)
    assert "classes         2, pictures of each: 2 to 3 (median 2.5)" in found.lines()
    assert "classes of each 1 to 2 (median 2); several in 2, none in 0" in found.lines()
    assert "of each class   cat 3, dog 2" in found.lines()
    rows = "path,label\nx.jpg,dog;cat\ny.jpg,[]\nz.jpg,owl\n"
    write(tmp_path / "VOC2012/JPEGImages/list.csv", rows)
    shown = run("data", "info", "auto", tmp_path / "VOC2012/JPEGImages/list.csv")
    assert "classes of each 0 to 2 (median 1); several in 1, none in 1" in shown.output
    told = json.loads(run("data", "info", "auto", tmp_path / "VOC2012/JPEGImages/list.csv", "--json").output)["all"]
    assert told["classes"] == [["cat", 1], ["dog", 1], ["owl", 1]]
    assert told["classes_of_each"] == {"least": 0, "median": 1, "most": 2}


def test_one_class_a_picture(tmp_path) -> None:
    MAKERS["list"](tmp_path)
    found = data.info(tmp_path / "list.csv", progress=False)
    assert (found.classes_of_each, found.several, found.classless) == (None, 0, 0)
    assert not any(line.startswith("classes of each") for line in found.lines())
