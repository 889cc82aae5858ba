"""Formats of boxes: CSV, Label Studio's predictions, Pascal VOC, YOLO, WSOL metadata."""

import csv
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from fastcam.export.files import (
    Add,
    Job,
    JsonList,
    LeftOut,
    all_names,
    check_id,
    new_folder,
    opened,
    printable,
    xml_text,
    yaml_text,
)
from fastcam.runs.schema import EDGES
from fastcam.runs.table import FoundBox, FoundPicture

_COLUMNS = ("image_id", "width", "height", "rank", "class_id", "class_name", "score", *EDGES, "box", "box_score")
_WSOL = ("image_ids", "class_labels", "image_sizes", "localization")


@contextmanager
def csv_table(job: Job) -> Iterator[Add]:
    """Write CSV with a header: the table's columns from image_id to y1, box and box_score; a row for each box.

    Numbers are the shortest that give the same float32 again. Where a map was constant, the corners are empty.
    Names are as they are: spreadsheets take those that begin with =, +, - or @ for formulas, unless they import them as
    text.
    """

    def add(picture: FoundPicture) -> int:
        size = picture.width, picture.height
        for box in picture.boxes:
            corners = map(_short, box.corners) if box.found else ("",) * 4
            named = box.rank, box.class_id, box.class_name, _short(box.class_score)
            rows.writerow((picture.id, *size, *named, *corners, box.number, _short(box.score)))
        return len(picture.found)

    with opened(job.path) as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(_COLUMNS)
        yield add


@contextmanager
def label_studio(job: Job) -> Iterator[Add]:
    """Write tasks with predictions as Label Studio imports them, and `NAME.xml`, a labelling setup that fits them.

    Corners are percent of the picture's sides. A prediction's score, by which tasks can be sorted, is the highest of
    its boxes. `url` goes before each image_id, which is percent-encoded; the default is that of pictures in
    Label Studio's local storage.
    """
    url = "/data/local-files/?d=" if job.options.url is None else job.options.url
    version = " ".join(["fastcam", *(str(job.info[key]) for key in ("version", "arch", "method") if job.info.get(key))])
    names: dict[int, str] = {}

    def region(picture: FoundPicture, number: int, box: FoundBox) -> dict[str, Any]:
        name = printable(box.name)
        names[box.class_id] = name
        x0, y0, x1, y1 = box.corners
        across, down = 100 / picture.width, 100 / picture.height
        place = {"x": x0 * across, "y": y0 * down, "width": (x1 - x0) * across, "height": (y1 - y0) * down}
        return {
            "id": f"box{number}",
            "type": "rectanglelabels",
            "from_name": "label",
            "to_name": "image",
            "original_width": picture.width,
            "original_height": picture.height,
            "image_rotation": 0,
            "score": box.score,
            "value": place | {"rotation": 0, "rectanglelabels": [name]},
        }

    def add(picture: FoundPicture) -> int:
        regions = [region(picture, number, box) for number, box in enumerate(picture.found)]
        score = max(box.score for box in picture.boxes)
        prediction = {"model_version": version, "score": score, "result": regions}
        tasks.append({"data": {"image": url + quote(picture.id)}, "predictions": [prediction]})
        return len(regions)

    with opened(label_studio_setup(job.path)) as setup, opened(job.path) as file:
        tasks = JsonList(file)
        yield add
        tasks.close()
        known = dict.fromkeys(name for _, name in sorted(names.items()))
        labels = "".join(f"    <Label value={quoteattr(name)}/>\n" for name in known)
        setup.write(
            '<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">\n'
            f"{labels}  </RectangleLabels>\n</View>\n"
        )


def label_studio_setup(path: Path) -> Path:
    """The labelling setup beside Label Studio predictions."""
    return path.with_suffix(".xml")


@contextmanager
def voc(job: Job) -> Iterator[Add]:
    """Write Pascal VOC's XML files: `Annotations/x/y.xml` for the picture x/y.jpg, whose id is in `filename`.

    Corners are whole pixels of the upright picture, counted from 1, and included. A picture without a box has no
    object. A second picture whose name differs in the suffix only is left out, and so is one whose name XML cannot
    hold.
    """

    def add(picture: FoundPicture) -> int:
        check_id(picture.id)
        if printable(picture.id) != picture.id:
            raise LeftOut("its name has characters that XML cannot hold")
        objects = []
        for box in picture.found:
            x0, y0, x1, y1 = picture.pixels(box)
            corners = {"xmin": x0 + 1, "ymin": y0 + 1, "xmax": x1, "ymax": y1}
            bndbox = "".join(f"<{name}>{value}</{name}>" for name, value in corners.items())
            objects.append(
                f"  <object><name>{xml_text(printable(box.name))}</name><pose>Unspecified</pose>"
                f"<truncated>0</truncated><difficult>0</difficult><bndbox>{bndbox}</bndbox></object>\n"
            )
        size = f"<width>{picture.width}</width><height>{picture.height}</height><depth>3</depth>"
        text = (
            f"<annotation>\n  <folder>JPEGImages</folder><filename>{xml_text(picture.id)}</filename>\n"
            f"  <source><database>fastcam</database></source>\n  <size>{size}</size><segmented>0</segmented>\n"
            f"{''.join(objects)}</annotation>\n"
        )
        with folder.create(picture.id, ".xml", within="Annotations", stem=True) as file:
            file.write(text.encode())
        return len(objects)

    with new_folder(job.path, job.info) as folder:
        yield add


@contextmanager
def yolo(job: Job) -> Iterator[Add]:
    """Write YOLO's labels: `labels/x/y.txt` for the picture images/x/y.jpg, with data.yaml and classes.txt.

    A line for each box: class index, centre x and y, width and height, in fractions of the upright picture's sides with
    six digits. There is no score, since trainers take a sixth number for a polygon. A picture without a box has an
    empty file. A second picture whose name differs in the suffix only is left out: trainers could not tell them apart.

    The pictures are to be copied to a folder `images` beside `labels`, or each of them linked there, as
    `cp -rsT "$(realpath PICTURES)" EXPORT/images` does. A link in place of the folder is no use: trainers follow it,
    and look for labels where it leads, by putting `labels` for the last `images` of a picture's path. (So a picture
    whose own path has a folder `images` has its labels beside that folder.) What has no labels is for them a picture
    without objects: those that failed in the run, or were left out, should not be there.
    """
    names = dict(job.table.class_names)

    def add(picture: FoundPicture) -> int:
        across, down = 2 * picture.width, 2 * picture.height
        lines = []
        for box in picture.found:
            x0, y0, x1, y1 = box.corners
            values = (x0 + x1) / across, (y0 + y1) / down, 2 * (x1 - x0) / across, 2 * (y1 - y0) / down
            lines.append(" ".join([str(box.class_id), *(f"{value:.6f}" for value in values)]) + "\n")
        check_id(picture.id)
        place = "/labels/".join(f"/images/{picture.id}".rsplit("/images/", 1))  # as trainers look for it
        with folder.create(place[1:], ".txt", stem=True) as file:
            file.write("".join(lines).encode())
        names.update((box.class_id, box.name) for box in picture.boxes)
        return len(lines)

    with new_folder(job.path, job.info) as folder:
        yield add
        known = all_names(names)
        classes = "".join(f"  {index}: {yaml_text(name)}\n" for index, name in enumerate(known))
        text = f"train: images\nval: images\nnames:\n{classes}" if known else "train: images\nval: images\nnames: {}\n"
        (folder.path / "data.yaml").write_text(text, encoding="utf-8")
        (folder.path / "classes.txt").write_text("".join(f"{name}\n" for name in known), encoding="utf-8")


@contextmanager
def wsol(job: Job) -> Iterator[Add]:
    """Write a folder of WSOL metadata: image_ids.txt, class_labels.txt, image_sizes.txt, localization.txt, classes.txt.

    The format has one class for each picture: the highest in the table, with all its boxes. Corners are whole pixels of
    the upright picture, half-open, since the field's evaluator reads no others; a picture without a box has 0,0,0,0.
    Pictures with a line break in their name are left out. A note says if names have commas: the field's evaluator
    divides lines at each of them, `fastcam.data` at the last ones.
    """
    names, commas = dict(job.table.class_names), 0

    def add(picture: FoundPicture) -> int:
        nonlocal commas
        id, first = picture.id, picture.first
        check_id(id)
        if "\n" in id or "\r" in id or id.isspace():
            raise LeftOut("lines cannot hold its name")
        names.update((box.class_id, box.name) for box in picture.boxes)
        commas += "," in id
        boxes = [picture.pixels(box) for box in picture.found if box.class_id == first.class_id]
        rows = [id], [f"{id},{first.class_id}"], [f"{id},{picture.width},{picture.height}"]
        corners = [f"{id},{','.join(map(str, box))}" for box in boxes or [(0, 0, 0, 0)]]
        for file, lines in zip(files, (*rows, corners), strict=True):
            file.write("".join(f"{line}\n" for line in lines))
        return len(boxes)

    with new_folder(job.path, job.info) as folder:
        with ExitStack() as stack:
            places = [folder.path / f"{name}.txt" for name in _WSOL]
            files = [stack.enter_context(place.open("w", encoding="utf-8", newline="")) for place in places]
            yield add
        known = "".join(f"{name}\n" for name in all_names(names))
        (folder.path / "classes.txt").write_text(known, encoding="utf-8")
        if commas:
            job.notes.append(f"{commas} names have commas, at which the field's evaluator divides lines")


def _short(value: float) -> str:
    return str(np.float32(value))
