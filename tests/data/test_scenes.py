"""Scenes with objects: what the layouts say, where objects are drawn, and what cannot be read."""

import json

import numpy as np
import pytest
from PIL import Image

from fastcam import data
from fastcam.data.scenes import folders_of
from tests.support.files import STORED, write

SIZE = (40, 24)


def picture(path, pixels=None, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((SIZE[1], SIZE[0], 3), np.uint8) if pixels is None else pixels).save(path, **options)


def document(root, *objects, id="kitchen/a.jpg", size=SIZE, **changes):
    """A COCO JSON of one picture with objects: name, bbox, segmentation, and whether they are a crowd."""
    names = [*dict.fromkeys(name for name, *_ in objects)]
    annotations = [
        {
            "id": number,
            "image_id": 1,
            "category_id": names.index(name),
            "bbox": box,
            **dict(zip(KEYS, more, strict=False)),
        }
        for number, (name, box, *more) in enumerate(objects)
    ]
    categories = [{"id": place, "name": name} for place, name in enumerate(names)]
    images = [{"id": 1, "file_name": id, "width": size[0], "height": size[1]}]
    write(
        root / "a.json", json.dumps({"images": images, "annotations": annotations, "categories": categories} | changes)
    )
    return root / "a.json"


KEYS = ("segmentation", "iscrowd")


def region(*boxes, size=SIZE):
    found = np.zeros(size[::-1], bool)
    for x0, y0, x1, y1 in boxes:
        found[y0:y1, x0:x1] = True
    return found


def named(scenes, index=0, size=SIZE):
    return {scenes.object_names[place]: one for place, one in scenes.regions(index, size).items()}


def test_coco_has_boxes_polygons_run_lengths_and_crowds(tmp_path):
    mask = pytest.importorskip("pycocotools.mask")
    picture(tmp_path / "kitchen/a.jpg")
    picture(tmp_path / "bath/b.jpg")
    blob = np.zeros((SIZE[1], SIZE[0]), np.uint8)
    blob[3:11, 5:20] = np.random.default_rng(0).integers(0, 2, (8, 15))
    packed = mask.encode(np.asfortranarray(blob))
    flat = blob.T.ravel()
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat]))).tolist()
    counts = np.diff([0, *changes, flat.size]).tolist()
    path = document(
        tmp_path,
        ("sink", [2, 3, 10, 8]),
        ("sink", [20, 3, 10, 8], []),
        ("stove", [4, 4, 20, 16], [[4, 4, 24, 4, 24, 20, 4, 20], [30, 0, 36, 0, 36, 6, 30, 6]]),
        ("towels", [0, 0, 40, 24], {"counts": counts, "size": [24, 40]}, 1),
        ("blob", [0, 0, 40, 24], {"counts": packed["counts"].decode(), "size": [24, 40]}),
        images=[
            {"id": 1, "file_name": "kitchen/a.jpg", "width": 40, "height": 24},
            {"id": 2, "file_name": "bath/b.jpg", "width": 40, "height": 24},
        ],
    )
    content = json.loads(path.read_text())
    content["annotations"].append({"id": 99, "image_id": 2, "category_id": 0, "bbox": [0, 0, 4, 4]})
    path.write_text(json.dumps(content))
    scenes = data.load_scenes(path)
    assert isinstance(scenes, data.Scenes)
    assert scenes.class_names == ("bath", "kitchen")
    assert scenes.labels == [1, 0]
    assert scenes.object_names == ("sink", "stove", "towels", "blob")
    found = named(scenes)
    assert np.array_equal(found["sink"], region((2, 3, 12, 11), (20, 3, 30, 11)))
    assert np.array_equal(found["stove"], region((4, 4, 24, 20), (30, 0, 36, 6)))
    assert np.array_equal(found["towels"], blob > 0)
    assert np.array_equal(found["blob"], blob > 0)
    double = named(scenes, size=(80, 48))["sink"]
    assert np.array_equal(double, region((4, 6, 24, 22), (40, 6, 60, 22), size=(80, 48)))
    assert scenes[0].label == 1
    assert scenes[0].boxes.tolist()[0] == [2, 3, 12, 11]
    one = scenes.subset([1])
    assert one.ids == ["bath/b.jpg"]
    assert named(one).keys() == {"sink"}


@pytest.mark.parametrize("orientation", [1, 5, 6, 7, 8])  # sizes do not tell of the others
@pytest.mark.parametrize("speaks", ["stored", "upright"])
def test_objects_turn_along_with_pictures_that_exif_turns(tmp_path, orientation, speaks):
    upright = np.zeros((24, 40, 3), np.uint8)
    upright[4:20, 10:26] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture(tmp_path / "a/x.png", np.ascontiguousarray(STORED[orientation](upright)), exif=exif)
    if speaks == "stored":
        ys, xs = np.nonzero(STORED[orientation](upright)[..., 0])
        size = STORED[orientation](upright).shape[1::-1]
    else:
        ys, xs, size = *np.nonzero(upright[..., 0]), (40, 24)
    box = [int(xs.min()), int(ys.min()), int(np.ptp(xs)) + 1, int(np.ptp(ys)) + 1]
    x, y, w, h = box
    shape = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    scenes = data.load_scenes(document(tmp_path, ("one", box), ("two", box, shape), id="a/x.png", size=size))
    assert all(np.array_equal(one, upright[..., 0] > 0) for one in named(scenes).values())


def test_masks_are_named_after_scene_and_object(tmp_path):
    picture(tmp_path / "kitchen/x.jpg")
    picture(tmp_path / "bath/x_1.jpg")
    for name, box in {
        "kitchen/x_sink_1": (0, 0, 9, 9),
        "kitchen/x_sink_2": (20, 0, 30, 9),
        "kitchen/x_ice_box": (0, 12, 5, 20),
        "kitchen/x_lamp": (0, 0, 0, 0),
        "bath/x_1_sink": (1, 1, 3, 3),
    }.items():
        Image.fromarray(region(box).astype(np.uint8) * 255).save(tmp_path / f"{name}.png")
    scenes = data.load_scenes(tmp_path)
    assert scenes.class_names == ("bath", "kitchen")
    assert scenes.object_names == ("ice box", "lamp", "sink")
    found = named(scenes, scenes.ids.index("kitchen/x.jpg"))
    assert found.keys() == {"ice box", "sink"}  # a black mask has no object
    assert np.array_equal(found["sink"], region((0, 0, 9, 9), (20, 0, 30, 9)))
    assert np.array_equal(named(scenes)["sink"], region((1, 1, 3, 3)))
    Image.fromarray(region((0, 0, 2, 2)).astype(np.uint8)).save(tmp_path / "bath/x_1.png")
    with pytest.raises(ValueError, match=r"x_1\.png: expected a mask called x_1_NAME\.png, of an object"):
        data.load_scenes(tmp_path)
    bad = []
    assert data.load_scenes(tmp_path, bad=bad).ids == ["kitchen/x.jpg"]
    assert [id for id, _ in bad] == ["bath/x_1.jpg"]


def test_splits_are_no_scenes(tmp_path):
    for split in ("train", "val"):
        picture(tmp_path / split / "kitchen/x.jpg")
        Image.fromarray(region((0, 0, 9, 9)).astype(np.uint8)).save(tmp_path / split / "kitchen/x_sink.png")
    with pytest.raises(ValueError, match="has splits, train, val: give the folder of one of them"):
        data.load_scenes(tmp_path)
    assert data.load_scenes(tmp_path / "val").class_names == ("kitchen",)


def metadata(root, *rows, sizes=True):
    picture(root / "a.jpg")
    picture(root / "b, c.jpg")
    write(root / "metadata/image_ids.txt", "a.jpg\nb, c.jpg\n")
    write(root / "metadata/class_labels.txt", "a.jpg,1\nb, c.jpg,0\n")
    write(root / "metadata/classes.txt", "bath\nkitchen\n")
    if sizes:
        write(root / "metadata/image_sizes.txt", "a.jpg,40,24\nb, c.jpg,80,48\n")
    write(root / "metadata/objects.txt", "\n".join(rows))
    return root / "metadata"


@pytest.mark.parametrize("sizes", [True, False])
def test_wsol_has_boxes_and_mask_files(tmp_path, sizes):
    Image.fromarray(region((5, 5, 9, 9)).astype(np.uint8) * 255).save(tmp_path / "m.png")
    scale = 2 if sizes else 1
    rows = [
        "a.jpg,1,2,11.0,12,sink",
        "a.jpg,m.png,tap",
        f"b, c.jpg,{4 * scale},{6 * scale},{20 * scale},{16 * scale},sink",
    ]
    scenes = data.load_scenes(metadata(tmp_path, *rows, sizes=sizes))
    assert scenes.labels == [1, 0]
    found = named(scenes)
    assert np.array_equal(found["sink"], region((1, 2, 11, 12)))
    assert np.array_equal(found["tap"], region((5, 5, 9, 9)))
    assert np.array_equal(named(scenes, 1)["sink"], region((4, 6, 20, 16)))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.jpg,1,2,41,12,sink", r"objects\.txt:1: box 1, 2, 41, 12 lies outside the picture of 40x24"),
        ("a.jpg,9,2,1,12,sink", "ends before it begins"),
        ("a.jpg,nan,2,1,12,sink", "is not finite"),
        ("a.jpg,sink", r"objects\.txt:1: expected `path,x0,y0,x1,y1,name` or `path,mask,name`"),
        ("x.jpg,1,2,11,12,sink", r"x\.jpg is not among the pictures"),
        ("a.jpg,../m.png,sink", r"mask \.\./m\.png: an id must be a relative path"),
        ("a.jpg,none.png,sink", r"no picture .*none\.png"),
    ],
)
def test_wrong_rows_of_objects(tmp_path, row, reason):
    with pytest.raises((ValueError, FileNotFoundError), match=reason):
        data.load_scenes(metadata(tmp_path, row))


def test_boxes_outside_are_found_when_only_the_picture_has_a_size(tmp_path):
    scenes = data.load_scenes(metadata(tmp_path, "a.jpg,1,2,50,12,sink", sizes=False))
    with pytest.raises(ValueError, match=r"a\.jpg: box 1, 2, 50, 12 lies outside the picture of 40x24"):
        scenes.regions(0, SIZE)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ([[0, 0, 60, 0, 60, 9]], "box 0, 0, 60, 9 lies outside the picture of 40x24"),
        ([[0, 0, 6, 0]], "at least three points"),
        ([[0, 0, 6, 0, 1]], "polygons x, y, x, y"),
        ([[0, 0, "6", 0, 1, 1]], "polygons x, y, x, y"),
        ([[0, 0, 1e300, 0, 1, 1]], "finite"),
        ("text", "a list of polygons, or run lengths"),
        ({"counts": [960]}, "run lengths with a `size` of height and width, got None"),
        ({"counts": [960], "size": [10**6, 10**6]}, "run lengths of the picture's size, got 1000000x1000000"),
        ({"counts": [960], "size": [40, 24]}, "run lengths of the picture's size, got 24x40"),
        ({"counts": [900], "size": [24, 40]}, "of 40x24 pixels in all, got 900"),
        ({"counts": [-1, 961], "size": [24, 40]}, "run lengths of at least 0"),
        ({"counts": [10**30], "size": [24, 40]}, "run lengths of at least 0"),
        ({"counts": "\x00", "size": [24, 40]}, "as COCO compresses them"),
        ({"counts": "o" * 40, "size": [24, 40]}, "as COCO compresses them"),
    ],
)
def test_wrong_segmentations_of_coco(tmp_path, shape, reason):
    picture(tmp_path / "kitchen/a.jpg")
    path = document(tmp_path, ("sink", [0, 0, 4, 4], shape))
    with pytest.raises(ValueError, match=reason):
        data.load_scenes(path)
    assert data.load(path)[0].label == 0  # who wants boxes alone does not look at them
    bad = []
    with pytest.raises(ValueError, match=f"has no pictures that are good: .*{reason}"):
        data.load_scenes(path, bad=bad)
    assert [id for id, _ in bad] == ["kitchen/a.jpg"]


def test_scenes_by_name(tmp_path):
    picture(tmp_path / "a.jpg")
    path = document(tmp_path, ("sink", [0, 0, 4, 4]), id="a.jpg")
    assert data.load_scenes(path).labels is None
    scenes = data.load_scenes(path, scenes={"a.jpg": "kitchen", "b.jpg": "bath"})
    assert (scenes.labels, scenes.class_names) == ([1], ("bath", "kitchen"))
    with pytest.raises(ValueError, match="`scenes` names 1 pictures, but none of"):
        data.load_scenes(path, scenes={"x.jpg": "kitchen"})


def test_what_has_no_scenes(tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set at"):
        data.load_scenes(tmp_path / "none")
    with pytest.raises(ValueError, match="scenes with objects are of the formats wsol, coco, masks, got 'cub'"):
        data.load_scenes(tmp_path, format="cub")
    write(tmp_path / "metadata/image_ids.txt", "a.jpg\n")
    write(tmp_path / "metadata/class_labels.txt", "a.jpg,0\n")
    picture(tmp_path / "a.jpg")
    with pytest.raises(FileNotFoundError, match=r"no file .*objects\.txt: the objects of scenes"):
        data.load_scenes(tmp_path)
    with pytest.raises(ValueError, match="must be a plain list or None, got Faults"):
        data.load_scenes(tmp_path, bad=data.Faults())


def test_folders_are_classes_without_what_they_share():
    assert folders_of(["t/a/1.jpg", "t/b/c/1.jpg", "t/a/2.jpg"]) == (["a", "b/c", "a"], ["a", "b/c"])
    assert folders_of(["a/1.jpg", "a/2.jpg"]) == ([None, None], [])
    assert folders_of(["a/1.jpg", "2.jpg"]) == ([None, None], [])
    assert folders_of([]) == ([], [])
