"""Tiny copies of the native layouts of data sets."""

import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.support.files import shard, write


def picture(path: Path, size: tuple[int, int] = (40, 30), **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 100, 50)).save(path, **options)


def wsol(root: Path) -> None:
    """Two pictures stored smaller than the files say, and two boxes in the first; names are odd but allowed."""
    ids = "val/a, b.jpg", "val/ü.jpg"
    for id in ids:
        picture(root / id, (10, 10))
    write(root / "metadata/image_ids.txt", f"{ids[0]}\r\n{ids[1]}\r\n\r\n")
    write(root / "metadata/class_labels.txt", f"{ids[1]},0\n{ids[0]},2\n")
    write(root / "metadata/image_sizes.txt", f"{ids[0]},40,30\n{ids[1]},50,20\n")
    write(root / "metadata/localization.txt", f"{ids[0]},0,1,40,30\n{ids[1]},5,6,7,8\n{ids[0]},2.5,3,4,5\n")
    write(root / "classes.txt", "cat\ndog\nowl\n")


def wsol_masks(root: Path) -> None:
    picture(root / "test/m/a.jpg", (8, 6))
    for name, columns in {"a_m_1": (0, 2), "a_m_2": (1, 3), "a_ignore": (2, 6)}.items():
        mask = np.zeros((6, 8), np.uint8)
        mask[:, slice(*columns)] = 255
        Image.fromarray(mask).convert("1").save(root / f"test/m/{name}.png")
    ids = "test/m/a.jpg"
    write(root / "metadata/test/image_ids.txt", ids)
    write(root / "metadata/test/class_labels.txt", f"{ids},0")
    rows = f"{ids},test/m/a_m_1.png,test/m/a_ignore.png\n{ids},test/m/a_m_2.png,\n"
    write(root / "metadata/test/localization.txt", rows)


def cub(root: Path) -> None:
    names = "001.Auk", "002.Owl"
    rows = ["001.Auk/a.jpg", "002.Owl/b.jpg", "002.Owl/c.jpg"]
    for row in rows:
        picture(root / "images" / row)
    write(root / "classes.txt", "".join(f"{i} {name}\n" for i, name in enumerate(names, 1)))
    write(root / "images.txt", "".join(f"{i} {row}\n" for i, row in enumerate(rows, 1)))
    write(root / "image_class_labels.txt", "1 1\n2 2\n3 2\n")
    write(root / "train_test_split.txt", "1 0\n2 1\n3 0\n")
    write(root / "bounding_boxes.txt", "1 1.0 2.0 30.0 20.5\n2 0.0 0.0 40.0 30.0\n3 1 1 2 3\n")


def xml(size: tuple[int, int], *objects: tuple, filename: str = "") -> str:
    parts = [f"<filename>{filename}</filename><size><width>{size[0]}</width><height>{size[1]}</height></size>"]
    for name, box, *difficult in objects:
        corners = "".join(f"<{c}>{v}</{c}>" for c, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        flag = f"<difficult>{difficult[0]}</difficult>" if difficult else ""
        parts.append(f"<object><name>{name}</name>{flag}<bndbox>{corners}</bndbox></object>")
    return f"<annotation>{''.join(parts)}</annotation>"


def ilsvrc(root: Path) -> None:
    base = root / "ILSVRC"
    for wnid in ("n02", "n01"):
        picture(base / f"Data/CLS-LOC/train/{wnid}/{wnid}_1.JPEG", format="JPEG")
    write(base / "Annotations/CLS-LOC/train/n01/n01_1.xml", "not read")
    for index, wnid in ((1, "n02"), (2, "n01")):
        picture(base / f"Data/CLS-LOC/val/v{index}.JPEG", format="JPEG")
        boxes = [(wnid, (1, 2, 40, 30)), (wnid, (3, 4, 5, 6))][:index]
        write(base / f"Annotations/CLS-LOC/val/v{index}.xml", xml((40, 30), *boxes, filename=f"v{index}"))
    write(root / "LOC_synset_mapping.txt", "n01 tench, Tinca tinca\nn02 goldfish\n")


def voc(root: Path) -> None:
    base = root / "VOC2012"
    truth = {
        "x": [("dog", (1, 1, 40, 30)), ("cat", (2, 3, 20, 20)), ("cat", (11, 11, 30, 12), 1)],
        "y": [("cat", (5, 5, 9, 9), 1)],
        "z": [("cat", (1, 1, 10, 10)), ("cat", (11, 11, 20, 20)), ("dog", (1, 1, 12, 12))],
    }
    for stem, objects in truth.items():
        picture(base / f"JPEGImages/{stem}.jpg")
        write(base / f"Annotations/{stem}.xml", xml((40, 30), *objects, filename=f"{stem}.jpg"))
    write(base / "ImageSets/Main/val.txt", "x\ny\n")
    write(base / "ImageSets/Main/train.txt", "z\n")
    write(base / "ImageSets/Main/cat_train.txt", "z 1\n")


def coco(root: Path) -> None:
    for name in "abc":
        picture(root / f"val2017/{name}.jpg")
    boxes = [(7, 90, [0, 0, 10, 10], 0), (7, 18, [1, 2, 12, 8.5], 0), (7, 18, [0, 0, 30, 30.4], 0)]
    boxes += [(8, 18, [0, 0, 40, 30], 1), (8, 90, [4, 4, 0, 3], 0), (9, 18, [0, 0, 5, 5], 1)]
    document = {
        "images": [{"id": i, "file_name": f"{n}.jpg", "width": 40, "height": 30} for i, n in zip((7, 8, 9), "abc")],  # noqa: B905
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": crowd}
            for i, (image, category, box, crowd) in enumerate(boxes)
        ],
    }
    write(root / "annotations/instances_val2017.json", json.dumps(document, indent=1))


def masks(root: Path) -> None:
    for split, name in (("val", "a"), ("val", "a_b"), ("test", "c")):
        folder = root / split / f"m{name}"
        picture(folder / f"{name}.jpg", (8, 6))
        mask = np.zeros((6, 8), np.uint8)
        mask[1:3, 2:5] = 255
        Image.fromarray(mask).save(folder / f"{name}_m_1.png")
        Image.fromarray(np.roll(mask, 1)).save(folder / f"{name}_ignore.png")


def jpeg(side: int = 8, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, 6), (9, 99, 199)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def catdog(folder: Path, cats=range(5), dogs=range(10, 20)) -> None:
    for kind, numbers in (("cat", cats), ("dog", dogs)):
        for number in numbers:
            picture(folder / f"{kind}.{number}.jpg", (number + 1, 4))


def stl10(folder: Path, count: int = 12) -> np.ndarray:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
    for split in ("train", "test", "unlabeled"):
        pixels.tofile(folder / f"{split}_X.bin")
    for split in ("train", "test"):
        (1 + np.arange(count) % 10).astype(np.uint8).tofile(folder / f"{split}_y.bin")
    write(folder / "fold_indices.txt", "".join(f"{i} {i + 1} \n" for i in range(10)))
    return pixels.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # as the data set's authors read it


ROWS = """path,label,x0,y0,x1,y1,width,height,split,note
b.jpg,owl,1,2,3.5,4,40,30,train,"one, two"
a.jpg,auk,,,,,40,30,val,
b.jpg,owl,5,6,40,30,40,30,train,
"c, d.jpg",owl,0,0,1,1,40,30,val,
"""


def listed(folder: Path, rows: str = ROWS) -> Path:
    for name in ("a.jpg", "b.jpg", "c, d.jpg"):
        picture(folder / name)
    write(folder / "list.csv", rows)
    return folder / "list.csv"


GOOD = {
    "./n/a.jpg": jpeg(10),
    "./n/a.cls": b"2\n",
    "./n/a.pyd": b"cos\nsystem\n(S'exit 1'\ntR.",
    "n/b.JPEG": jpeg(12),
    "n/b.json": json.dumps({"label": 0, "boxes": [[1, 2, 3.5, 4]], "width": 24, "height": 12}).encode(),
    "n/b.seg.png": b"ignored",
}


NATIVE = {maker.__name__: maker for maker in (wsol, wsol_masks, cub, ilsvrc, voc, coco, masks)}
MAKERS = NATIVE | {
    "stl10": stl10,
    "list": listed,
    "webdataset": lambda folder: shard(folder / "x.tar", GOOD),
    "catdog": catdog,
}
