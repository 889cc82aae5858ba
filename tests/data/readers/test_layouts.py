"""Readers of labels, boxes and masks, on tiny copies of each native layout, good and malformed."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fastcam import data
from fastcam.data.pictures import Pictures
from fastcam.pictures import DecodeError
from tests.support.datasets import NATIVE, coco, cub, ilsvrc, masks, picture, voc, wsol, wsol_masks, xml
from tests.support.files import write


def boxes(sample: data.Sample) -> list:
    assert sample.boxes.dtype == np.float32
    return sample.boxes.tolist()


def test_wsol(tmp_path) -> None:
    wsol(tmp_path)
    found = data.load(tmp_path)
    assert isinstance(found, Pictures)
    assert found.ids == ["val/a, b.jpg", "val/ü.jpg"]
    assert found.class_names == ("cat", "dog", "owl")
    sample = found[0]
    assert (sample.label, sample.size, sample.image.size, sample.mask) == (2, (40, 30), (10, 10), None)
    assert boxes(sample) == [[0, 1, 40, 30], [2.5, 3, 4, 5]]
    assert found.truth(1).image is None
    assert found.truth(1).id == "val/ü.jpg"
    assert (found.truth(1).label, found.truth(1).size, boxes(found.truth(1))) == (0, (50, 20), [[5, 6, 7, 8]])
    assert data.load(tmp_path / "metadata", images=tmp_path).ids == found.ids


def test_wsol_masks_are_merged_and_ignored_as_the_standard_does(tmp_path) -> None:
    wsol_masks(tmp_path)
    found = data.load(tmp_path, "val")  # only test is there, which then is val, too
    row = [1, 1, 1, 255, 255, 255, 0, 0]
    assert found[0].mask.tolist() == [row] * 6
    assert found[0].mask.dtype == np.uint8
    assert found.truth(0).size == (8, 6)
    assert found[0].boxes is None
    assert found.class_names == ("0",)
    shutil.copytree(tmp_path / "metadata/test", tmp_path / "metadata/train")
    write(tmp_path / "metadata/train/class_labels.txt", "test/m/a.jpg,2")
    assert data.load(tmp_path, "test").class_names == data.load(tmp_path, "train").class_names == ("0", "1", "2")


def test_masks_of_several_sizes_become_the_standard_s(tmp_path) -> None:
    # The standard reads each mask in grey, resizes it to 224x224, and only then compares and merges.
    wsol_masks(tmp_path)
    rng = np.random.default_rng(0)
    names = "a_m_1", "a_m_2", "a_ignore"
    for name, side in zip(names, ((90, 31), (224, 224), (300, 100)), strict=True):
        cv2.imwrite(str(tmp_path / f"test/m/{name}.png"), 255 * rng.integers(0, 2, side, dtype=np.uint8))
    read = [cv2.imread(str(tmp_path / f"test/m/{name}.png"), cv2.IMREAD_GRAYSCALE) for name in names]
    first, second, ignore = (cv2.resize(mask, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5 for mask in read)
    expected = np.where(first | second, 1, np.where(ignore, 255, 0))
    np.testing.assert_array_equal(data.load(tmp_path)[0].mask, expected)


def test_cub(tmp_path) -> None:
    cub(tmp_path)
    found = data.load(tmp_path)
    assert found.ids == ["001.Auk/a.jpg", "002.Owl/b.jpg", "002.Owl/c.jpg"]
    assert found.labels == [0, 1, 1]
    assert found.class_names == ("001.Auk", "002.Owl")
    assert boxes(found[0]) == [[1, 2, 31, 22.5]]
    assert data.load(tmp_path, "train").ids == ["002.Owl/b.jpg"]
    assert data.load(tmp_path, "test").ids == data.load(tmp_path, "val").ids == ["001.Auk/a.jpg", "002.Owl/c.jpg"]
    # The pictures' sizes stand in no text file, so that a box outside is noticed when a picture is met.
    write(tmp_path / "bounding_boxes.txt", "1 1 2 50 20\n2 0 0 41 30\n3 1 1 2 3\n")
    found = data.load(tmp_path)
    for read in (found.truth, found.__getitem__):
        with pytest.raises(ValueError, match=r"a\.jpg: box 1, 2, 51, 22 lies outside the picture of 40x30"):
            read(0)
        assert boxes(read(1)) == [[0, 0, 41, 30]]


def test_ilsvrc(tmp_path) -> None:
    ilsvrc(tmp_path)
    found = data.load(tmp_path, "test")
    assert found.ids == ["v1.JPEG", "v2.JPEG"]
    assert found.labels == [1, 0]
    assert found.class_names == ("tench, Tinca tinca", "goldfish")
    assert boxes(found.truth(1)) == [[1, 2, 40, 30], [3, 4, 5, 6]]
    train = data.load(tmp_path / "ILSVRC", "train")
    assert train.ids == ["n01/n01_1.JPEG", "n02/n02_1.JPEG"]
    assert train.labels == [0, 1]
    assert train[0].boxes is None
    (tmp_path / "LOC_synset_mapping.txt").unlink()
    assert data.load(tmp_path, "val").class_names == ("n01", "n02")


def test_voc(tmp_path) -> None:
    voc(tmp_path)
    found = data.load(tmp_path)
    assert found.ids == ["x.jpg", "y.jpg", "z.jpg"]
    assert found.class_names == ("cat", "dog")
    assert [found.truth(i).label for i in range(3)] == [1, 0, 0]  # in z, two cats are larger than the dog
    assert boxes(found.truth(0)) == [[0, 0, 40, 30]]
    assert boxes(found.truth(1)) == [[4, 4, 9, 9]]
    assert boxes(found.truth(2)) == [[0, 0, 10, 10], [10, 10, 20, 20]]
    assert data.load(tmp_path, "test").ids == ["x.jpg", "y.jpg"]
    assert data.load(tmp_path / "VOC2012", "train").ids == ["z.jpg"]


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ((0, 0, 20, 10), [0, 0, 20, 10]),  # counts from 0
        ((0, 5, 40, 10), [0, 5, 40, 10]),
        ((0, 0, 40, 30), [0, 0, 40, 30]),
        ((0.4, 3.5, 20, 10), [0.4, 3.5, 20, 10]),
        ((-0.5, 3, 20, 30.5), [0, 3, 20, 30]),  # rounded to outside
        ((1, 1, 40, 30), [0, 0, 40, 30]),  # counts from 1
        ((1, 1, 41, 31), [0, 0, 40, 30]),  # a pixel too far
        ((2, 3, 2, 3), [1, 2, 2, 3]),  # one pixel
    ],
)
def test_voc_counts_from_one_or_from_zero(tmp_path, written, expected) -> None:
    voc(tmp_path)
    write(tmp_path / "VOC2012/Annotations/y.xml", xml((40, 30), ("cat", written), filename="y.jpg"))
    found = data.load(tmp_path)
    np.testing.assert_allclose(boxes(found.truth(1)), [expected], rtol=1e-6)
    assert boxes(found.truth(0)) == [[0, 0, 40, 30]]  # each file speaks for itself


def test_voc_any_corner_of_a_file_tells(tmp_path) -> None:
    voc(tmp_path)
    objects = ("cat", (5, 5, 20, 20)), ("dog", (0, 3, 4, 4)), ("cat", (0, 1, 1, 2), 1)
    write(tmp_path / "VOC2012/Annotations/y.xml", xml((40, 30), *objects, filename="y.jpg"))
    assert boxes(data.load(tmp_path).truth(1)) == [[5, 5, 20, 20]]
    write(tmp_path / "VOC2012/Annotations/y.xml", xml((40, 30), *objects[::2], filename="y.jpg"))
    assert boxes(data.load(tmp_path).truth(1)) == [[5, 5, 20, 20]]  # one that is difficult, too
    write(tmp_path / "VOC2012/Annotations/y.xml", xml((40, 30), objects[0], filename="y.jpg"))
    assert boxes(data.load(tmp_path).truth(1)) == [[4, 4, 20, 20]]


@pytest.mark.parametrize("box", [(1, 1, 42, 30), (5, 5, 9, 32), (-2, 5, 9, 9)])
def test_voc_boxes_outside_are_told_in_the_file_s_numbers(tmp_path, box) -> None:
    voc(tmp_path)
    write(tmp_path / "VOC2012/Annotations/y.xml", xml((40, 30), ("cat", box), filename="y.jpg"))
    # Only boxes of the picture's own class count.
    write(tmp_path / "VOC2012/Annotations/z.xml", xml((40, 30), ("cat", (1, 1, 30, 30)), ("dog", (35, 1, 45, 2))))
    shown = ", ".join(map(str, box))
    with pytest.raises(ValueError, match=rf"y\.xml: box {shown} lies outside the picture of 40x30"):
        data.load(tmp_path)
    bad: list[tuple[str, str]] = []
    assert data.load(tmp_path, bad=bad).ids == ["x.jpg", "z.jpg"]
    assert [id for id, _ in bad] == ["y.jpg"]
    assert data.load(tmp_path, bad=data.Faults()).ids == ["x.jpg", "y.jpg", "z.jpg"]


@pytest.mark.parametrize("there", ["y.jpg", "y.png", "y.JPG", "y.v2.jpeg", "other.bmp"])
@pytest.mark.parametrize("told", ["there", "stem", "y.tiff", "", "renamed.jpg"])
def test_voc_finds_pictures_of_other_suffixes(tmp_path, there, told) -> None:
    voc(tmp_path)
    root = tmp_path / "VOC2012"
    (root / "JPEGImages/y.jpg").unlink()
    picture(root / "JPEGImages" / there)
    told = {"there": there, "stem": Path(there).stem}.get(told, told)
    write(root / "Annotations/y.xml", xml((40, 30), ("cat", (5, 5, 9, 9)), filename=told))
    known = Path(there).stem == "y" or told in (there, Path(there).stem)
    if known:
        found = data.load(tmp_path)
        assert found.ids == ["x.jpg", there, "z.jpg"]
        assert found[1].image.size == (40, 30)
    else:
        with pytest.raises(FileNotFoundError, match="of which the data set tells"):
            data.load(tmp_path)
    assert len(data.load(tmp_path, truth_only=True).ids) == 3


def test_voc_refuses_to_guess_between_two_pictures(tmp_path) -> None:
    voc(tmp_path)
    root = tmp_path / "VOC2012"
    picture(root / "JPEGImages/y.png")
    write(root / "Annotations/y.xml", xml((40, 30), ("cat", (5, 5, 9, 9)), filename="y"))
    with pytest.raises(ValueError, match=r"y\.xml: expected the name of one picture, 'y' may be y\.jpg or y\.png"):
        data.load(tmp_path)
    bad: list[tuple[str, str]] = []
    assert data.load(tmp_path, bad=bad).ids == ["x.jpg", "z.jpg"]
    assert [id for id, _ in bad] == ["y"]
    write(root / "Annotations/y.xml", xml((40, 30), ("cat", (5, 5, 9, 9)), filename="y.png"))
    assert data.load(tmp_path).ids == ["x.jpg", "y.png", "z.jpg"]
    (root / "JPEGImages/sub").mkdir()
    (root / "JPEGImages/y.png").rename(root / "JPEGImages/sub/y.png")
    write(root / "Annotations/sub/y.xml", xml((40, 30), ("cat", (5, 5, 9, 9)), filename="C:\\a\\y.png"))
    assert data.load(tmp_path, images=root / "JPEGImages").ids == ["sub/y.png", "x.jpg", "y.jpg", "z.jpg"]


def test_coco(tmp_path) -> None:
    coco(tmp_path)
    found = data.load(tmp_path, "test")
    assert found.ids == ["a.jpg", "b.jpg"]  # of c there is only a crowd
    assert found.class_names == ("dog", "toothbrush")
    assert found.labels == [0, 1]
    np.testing.assert_allclose(boxes(found[0]), [[1, 2, 13, 10.5], [0, 0, 30, 30.4]], rtol=1e-6)
    assert boxes(found[1]) == [[4, 4, 4, 7]]
    assert found[1].size == (40, 30)
    assert data.load(tmp_path / "annotations/instances_val2017.json").ids == found.ids


def test_mask_folders(tmp_path) -> None:
    masks(tmp_path)
    found = data.load(tmp_path, "val")
    assert found.ids == ["ma/a.jpg", "ma_b/a_b.jpg"]
    assert found.labels == [0, 1]
    mask = found[0].mask
    assert mask[1].tolist() == [0, 0, 1, 1, 1, 255, 0, 0]
    assert data.load(tmp_path, "test").class_names == ("mc",)
    # Pictures and masks in folders of their own, without classes.
    for name in ("x", "x_1"):
        picture(tmp_path / f"plain/images/{name}.png", (8, 6))
        (tmp_path / "plain/masks").mkdir(exist_ok=True)
        shutil.copy(tmp_path / "val/ma/a_m_1.png", tmp_path / f"plain/masks/{name}.png")
    plain = data.load(tmp_path / "plain")
    assert plain.ids == ["x.png", "x_1.png"]
    assert plain.labels is None
    assert plain[1].mask.sum() == 6


MALFORMED = [  # maker, split, file, text to replace in it (None: remove the file), replacement, message
    ("wsol", None, "metadata/class_labels.txt", None, "", "no file .*class_labels.txt"),
    ("wsol", None, "metadata/image_sizes.txt", None, "", "no file .*image_sizes.txt"),
    ("wsol", None, "val/ü.jpg", None, "", "no picture .*val/ü.jpg"),
    ("wsol", None, "metadata/image_ids.txt", "val/ü.jpg", "val/a, b.jpg", "image_ids.txt:2: val/a, b.jpg comes twice"),
    ("wsol", None, "metadata/image_ids.txt", "val/ü.jpg", "../ü.jpg", "image_ids.txt:2: an id must be a relative path"),
    ("wsol", None, "metadata/image_ids.txt", "val/ü.jpg", "/ü.jpg", "image_ids.txt:2: an id must be a relative path"),
    ("wsol", None, "metadata/image_ids.txt", "val/ü.jpg\r\n", "", "class_labels.txt: val/ü.jpg is not among"),
    ("wsol", None, "metadata/image_ids.txt", "ü", "\udcfc", r"image_ids.txt:2: expected UTF-8, got b'val/\\xfc"),
    ("wsol", None, "metadata/class_labels.txt", ",0", ",cat", "class_labels.txt:1: expected a class index .*'cat'"),
    ("wsol", None, "metadata/class_labels.txt", ",0", ",", "class_labels.txt:1: expected `path,class`"),
    ("wsol", None, "metadata/class_labels.txt", ",2", ",3", "names 3 classes, but there is class 3"),
    ("wsol", None, "metadata/class_labels.txt", "val/ü.jpg,0\n", "", "class_labels.txt: nothing about val/ü.jpg"),
    ("wsol", None, "metadata/class_labels.txt", "val/ü", "val/a, b", "class_labels.txt:2: val/a, b.jpg comes twice"),
    ("wsol", None, "metadata/image_sizes.txt", "50,20", "50,0", "image_sizes.txt:2: expected two positive .* 50,0"),
    ("wsol", None, "metadata/localization.txt", "5,6,7,8", "5,6,7", "localization.txt:2: expected `path,x0,y0,x1,y1`"),
    (
        "wsol",
        None,
        "metadata/localization.txt",
        "5,6,7,8",
        "5,6,4,8",
        "localization.txt:2: box .* ends before it begins",
    ),
    ("wsol", None, "metadata/localization.txt", "5,6,7,8", "5,6,51,8", "localization.txt:2: box .* outside .* 50x20"),
    ("wsol", None, "metadata/localization.txt", "5,6,7,8", "-1,6,7,8", "localization.txt:2: box .* outside"),
    ("wsol", None, "metadata/localization.txt", "5,6,7,8", "nan,6,7,8", "localization.txt:2: box .* is not finite"),
    ("wsol", None, "metadata/localization.txt", "5,6,7,8", "5,6,x,8", "localization.txt:2: expected four numbers"),
    ("wsol", None, "metadata/localization.txt", "val/ü.jpg,5,6,7,8\n", "", "localization.txt: nothing about val/ü.jpg"),
    ("wsol", None, "metadata/localization.txt", "*", "", "localization.txt is empty"),
    ("wsol_masks", None, "test/m/a_m_2.png", None, "", "no picture .*a_m_2.png"),
    (
        "wsol_masks",
        None,
        "metadata/test/localization.txt",
        "m_2.png,",
        "m_2.png,test/m/a_ignore.png",
        "two files of what",
    ),
    ("wsol_masks", None, "metadata/test/localization.txt", "test/m/a_m_2", "/etc/a_m_2", ":2: mask .* relative path"),
    ("wsol_masks", None, "metadata/test/localization.txt", "test/m/a_m_2.png,", "x", ":2: expected `path,mask,ignore`"),
    ("cub", None, "bounding_boxes.txt", None, "", "no file .*bounding_boxes.txt"),
    ("cub", None, "images/001.Auk/a.jpg", None, "", "no picture .*a.jpg"),
    ("cub", None, "images.txt", "2 002", "1 002", "images.txt:2: picture 1 comes twice"),
    ("cub", None, "images.txt", "c.jpg", "b.jpg", "images.txt:3: 002.Owl/b.jpg comes twice"),
    ("cub", None, "images.txt", "002.Owl/c.jpg", "../c.jpg", "images.txt:3: an id must be a relative path"),
    ("cub", None, "classes.txt", "2 002.Owl", "3 002.Owl", "classes.txt:2: expected class 2"),
    ("cub", None, "image_class_labels.txt", "2 2\n3 2\n", "2 1\n3 1\n", "class 2 002.Owl has no pictures"),
    ("cub", None, "image_class_labels.txt", "3 2", "3 9", "labels.txt:3: expected a class from 1 to 2, got '9'"),
    ("cub", None, "image_class_labels.txt", "3 2", "4 2", "labels.txt:3: there is no picture 4"),
    ("cub", None, "image_class_labels.txt", "3 2", "", "labels.txt: nothing about 002.Owl/c.jpg"),
    ("cub", None, "train_test_split.txt", "3 0", "3 2", "split.txt:3: expected 0 or 1, got '2'"),
    ("cub", "train", "train_test_split.txt", "2 1", "2 0", "split.txt has no picture for train"),
    ("cub", None, "bounding_boxes.txt", "3 1 1 2 3", "3 1 1 2", "boxes.txt:3: expected `number x y width height`"),
    ("cub", None, "bounding_boxes.txt", "3 1 1 2 3", "3 1 1 2 -3", "boxes.txt:3: box .* ends before it begins"),
    ("cub", None, "bounding_boxes.txt", "3 1 1 2 3", "3 -1 1 2 3", "boxes.txt:3: box .* lies outside"),
    ("cub", None, "bounding_boxes.txt", "3 1 1 2 3", "3 inf 1 2 3", "boxes.txt:3: box .* is not finite"),
    ("ilsvrc", "val", "ILSVRC/Data/CLS-LOC/val/v2.JPEG", None, "", "no picture .*v2.JPEG"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", "n02", "n03", "v1.xml: n03 is no known class"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", "n02", "", "v1.xml: object 1: name is empty"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", ">40</x", ">41</x", "v1.xml: box .* outside .* 40x30"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", ">40</x", ">nan</x", "v1.xml: box .* is not finite"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", ">40</x", "></x", "object 1: bndbox: expected four"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", ">40</w", ">0</w", "v1.xml: size: expected positive"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", "</object>", "", "v1.xml: not well-formed XML"),
    ("ilsvrc", "val", "ILSVRC/Annotations/CLS-LOC/val/v1.xml", "object>", "thing>", "v1.xml: no object"),
    (
        "ilsvrc",
        "val",
        "ILSVRC/Annotations/CLS-LOC/val/v1.xml",
        "<annotation>",
        '<!DOCTYPE a [<!ENTITY b "c">]><annotation>',
        "v1.xml: a document type is not allowed",
    ),
    ("ilsvrc", "train", "ILSVRC/Data/CLS-LOC/train/n01/n01_1.JPEG", None, "", "n01: no pictures"),
    ("voc", None, "VOC2012/JPEGImages/y.jpg", None, "", "no picture .*y.jpg"),
    ("voc", "val", "VOC2012/Annotations/y.xml", None, "", "val.txt:2: there is no .*y.xml"),
    ("voc", None, "VOC2012/Annotations/y.xml", "y.jpg", "x.jpg", "y.xml: x.jpg comes twice"),
    ("voc", None, "VOC2012/Annotations/y.xml", "y.jpg", "../y.jpg", "y.xml: an id must be a relative path"),
    ("voc", None, "VOC2012/Annotations/y.xml", ">5</xmin", ">-3</xmin", "y.xml: box -3, 5, 9, 9 lies outside"),
    ("voc", None, "VOC2012/Annotations/y.xml", "cat", "c\udce4t", "y.xml: expected UTF-8"),
    ("coco", None, "val2017/b.jpg", None, "", "no picture .*b.jpg"),
    ("coco", None, "annotations/instances_val2017.json", '"images"', '"pictures"', "expected a list `images`"),
    ("coco", None, "annotations/instances_val2017.json", '"id": 8', '"id": 7', r"images\[1\]: id 7 comes twice"),
    ("coco", None, "annotations/instances_val2017.json", "b.jpg", "a.jpg", r"images\[1\]: a.jpg comes twice"),
    ("coco", None, "annotations/instances_val2017.json", "b.jpg", "/b.jpg", r"images\[1\]: an id must be a relative"),
    ("coco", None, "annotations/instances_val2017.json", '"width": 40', '"width": "40"', r"images\[0\]: expected `id`"),
    ("coco", None, "annotations/instances_val2017.json", "8.5", "NaN", r"annotations\[1\]: expected `bbox`"),
    ("coco", None, "annotations/instances_val2017.json", "8.5", "-8.5", r"annotations\[1\]: expected `bbox`"),
    ("coco", None, "annotations/instances_val2017.json", "8.5", '"8"', r"annotations\[1\]: expected `bbox`"),
    ("coco", None, "annotations/instances_val2017.json", "8.5", "1e400", r"annotations\[1\]: expected `bbox`"),
    ("coco", None, "annotations/instances_val2017.json", "30.4", "32", r"images\[0\]: box 0, 0, 30, 32 lies outside"),
    ("coco", None, "annotations/instances_val2017.json", '"image_id": 8', '"image_id": 6', "there is no image 6"),
    ("coco", None, "annotations/instances_val2017.json", '"category_id": 90', '"category_id": []', r"no category \[\]"),
    ("coco", None, "annotations/instances_val2017.json", '"name": "dog"', '"name": ""', r"categories\[1\]: expected"),
    ("coco", None, "annotations/instances_val2017.json", '"iscrowd": 0', '"iscrowd": 1', "has no pictures"),
    (
        "coco",
        None,
        "annotations/instances_val2017.json",
        '"images": [',
        '"images": ',
        r"json:\d+: not well-formed JSON",
    ),
    ("coco", None, "annotations/instances_val2017.json", "toothbrush", "\udce4", "expected UTF-8"),
    ("masks", "val", "val/ma/a_m_1.png", None, "", "a.jpg: there is no mask ma/a.png"),
    ("masks", "val", "val/ma/a.jpg", None, "", "there is no picture for this mask"),
]


@pytest.mark.parametrize(("maker", "split", "file", "old", "new", "message"), MALFORMED)
def test_malformed(tmp_path, maker: str, split: str | None, file: str, old: str | None, new: str, message: str) -> None:
    NATIVE[maker](tmp_path)
    path = tmp_path / file
    if old is None:
        path.unlink()
    else:
        text = "" if old == "*" else path.read_bytes().decode().replace(old, new)
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        data.load(tmp_path, split, maker.removesuffix("_masks"))


@pytest.mark.parametrize(
    ("maker", "file", "old", "new", "left"),
    [
        ("wsol", "metadata/localization.txt", "5,6,7,8", "5,6,4,8", ["val/a, b.jpg"]),
        ("wsol", "metadata/class_labels.txt", ",0", ",x", ["val/a, b.jpg"]),
        ("wsol", "val/ü.jpg", None, "", ["val/a, b.jpg"]),
        ("cub", "bounding_boxes.txt", "3 1 1 2 3", "3 1 1 2 nan", ["001.Auk/a.jpg", "002.Owl/b.jpg"]),
        ("cub", "train_test_split.txt", "1 0", "1 0 0", ["002.Owl/b.jpg", "002.Owl/c.jpg"]),
        ("voc", "VOC2012/Annotations/y.xml", "<bndbox>", "<box>", ["x.jpg", "z.jpg"]),
        ("coco", "annotations/instances_val2017.json", "8.5", "-1", ["b.jpg"]),
    ],
)
def test_bad_pictures_can_be_listed_instead(tmp_path, maker: str, file: str, old: str, new: str, left: list) -> None:
    NATIVE[maker](tmp_path)
    path = tmp_path / file
    if old is None:
        path.unlink()
    else:
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    bad: list[tuple[str, str]] = []
    assert data.load(tmp_path, bad=bad).ids == left
    assert len({id for id, _ in bad}) == len(bad) >= 1
    assert any(path.name in reason for _, reason in bad)


def test_truth_without_pictures(tmp_path) -> None:
    wsol(tmp_path)
    shutil.rmtree(tmp_path / "val")
    with pytest.raises(FileNotFoundError, match=r"no picture val/a, b.jpg .* tell the folder"):
        data.load(tmp_path)
    found = data.load(tmp_path, truth_only=True)
    assert found.truth(0).size == (40, 30)
    with pytest.raises(DecodeError, match=r"unreadable: .*a, b\.jpg"):
        found[0]


def test_size_is_that_of_the_upright_picture(tmp_path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(tmp_path / "a.jpg", (40, 30), exif=exif)
    picture(tmp_path / "b.png", (7, 5))
    found = Pictures(tmp_path, ["a.jpg", "b.png"])
    assert [found.truth(i).size for i in range(2)] == [found[i].image.size for i in range(2)] == [(30, 40), (7, 5)]
    (tmp_path / "b.png").write_bytes(b"\x89PNG")
    for read in (found.truth, found.__getitem__):
        with pytest.raises(DecodeError, match=r"b\.png"):
            read(1)


def test_damaged_mask_is_named(tmp_path) -> None:
    masks(tmp_path)
    (tmp_path / "test/mc/c_m_1.png").write_bytes(b"no picture")
    with pytest.raises(DecodeError, match=r"c_m_1\.png"):
        data.load(tmp_path, "test").truth(0)


def test_pictures_checks_its_lists(tmp_path) -> None:
    assert Pictures(tmp_path, ["a", "b", "c"], labels=[3, 4, 5]).subset([2, 0]).labels == [5, 3]
    with pytest.raises(ValueError, match="`labels` must have one entry for each of 2 pictures, got 1"):
        Pictures(tmp_path, ["a", "b"], labels=[1])
    for ids in (["a", "a"], ["/a"], ["a/../b"], ["a//b"], [""], ["a\0"], ["\udcff"]):
        with pytest.raises(ValueError, match="picture "):
            Pictures(tmp_path, ids)


def test_pictures_without_folders_of_classes_are_told_of(tmp_path):
    for name in ("b.jpg", "a.PNG", ".c.jpg", "readme.txt"):
        write(tmp_path / name, "")
    with pytest.raises(ValueError, match=r"has pictures, but no labels: put each .*CLASS/a.PNG, or give them as a CSV"):
        data.load(tmp_path)


def test_load_tells_what_it_knows(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data set at .*nowhere"):
        data.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"none of the known layouts \(wsol: image_ids.txt.*cub: .*coco: .*voc: "):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="does not look like cub: images"):
        data.load(tmp_path, format="cub")
    with pytest.raises(ValueError, match="`format` must be one of wsol, cub"):
        data.load(tmp_path, format="cube")
    with pytest.raises(FileNotFoundError, match="no folder of pictures at"):
        data.load(tmp_path, images=tmp_path / "nowhere")
    masks(tmp_path)
    with pytest.raises(ValueError, match="choose a split; it has val, test"):
        data.load(tmp_path)
    with pytest.raises(ValueError, match="there is no split 'train'; it has val, test"):
        data.load(tmp_path, "train")


def test_real_files(shared) -> None:
    found = data.load(shared / "images/ilsvrc")
    assert len(found) == 400
    assert len(found.class_names) == 1000
    assert sum(len(found.truth(i).boxes) for i in range(400)) == 544
    assert (found[0].size, found[0].image.size) == ((500, 375), (227, 227))
    birds = data.load(shared / "images/cub")
    assert len(birds) == 70
    assert [len(data.load(shared / "images/cub", split)) for split in ("train", "test")] == [30, 40]
    for i in range(70):
        assert (birds.truth(i).boxes[0, 2:] <= birds.truth(i).size).all()
