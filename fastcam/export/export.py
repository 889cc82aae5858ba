"""`export`: a run read picture by picture, and written by a format."""

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np

from fastcam._version import __version__
from fastcam.data.places import RunPictures
from fastcam.export import boxes, coco, labels, maps as kept
from fastcam.export.files import ExportOptions, Finish, Job, LeftOut, Write, check_free
from fastcam.models import suggest
from fastcam.pictures import quiet_pillow
from fastcam.pictures.stream import batched, count_threads, stream
from fastcam.refinement import Refiner, checked, refined, thread_each
from fastcam.runs.folder import EXPORTS, RunFolder
from fastcam.runs.table import FoundPicture, RunTable

_EXAMPLES = 10  # of pictures left out, kept with their reasons
_REFINED = ("refine", "images")  # options of formats with maps
_LEVELS = ("cuts", "alpha", "threshold_from", "categories", *_REFINED)  # of pseudo-labels


class ExportFormat(NamedTuple):
    """A format of other tools.

    Attributes:
        name: of its file or folder in a run's folder.
        write: a context manager that gives what writes a picture.
        options: fields of `ExportOptions` that it knows.
        maps: it needs the maps of a run.
        classes: the most that the network may have; None if any.
        beside: names a second file that it writes.
        stored: its readers open pictures with Pillow, which does not turn them by EXIF, as others do.
    """

    name: str
    write: Write
    options: tuple[str, ...] = ()
    maps: bool = False
    classes: int | None = None
    beside: Callable[[Path], Path] | None = None
    stored: bool = False


FORMATS: dict[str, ExportFormat] = {
    "coco": ExportFormat(EXPORTS["coco"], coco.coco, ("annotations", "categories"), beside=coco.coco_images),
    "csv": ExportFormat(EXPORTS["csv"], boxes.csv_table),
    "labelstudio": ExportFormat(EXPORTS["labelstudio"], boxes.label_studio, ("url",), beside=boxes.label_studio_setup),
    "voc": ExportFormat(EXPORTS["voc"], boxes.voc, stored=True),
    "yolo": ExportFormat(EXPORTS["yolo"], boxes.yolo),
    "wsol": ExportFormat(EXPORTS["wsol"], boxes.wsol, stored=True),
    "png": ExportFormat(EXPORTS["png"], kept.png, ("size", *_REFINED), maps=True, stored=True),
    "npy": ExportFormat(EXPORTS["npy"], kept.npy, ("size", *_REFINED), maps=True, stored=True),
    "labels": ExportFormat(EXPORTS["labels"], labels.labels, _LEVELS, maps=True, classes=labels.CLASSES, stored=True),
    "wsss": ExportFormat(EXPORTS["wsss"], labels.wsss, _LEVELS, maps=True, classes=labels.CLASSES, stored=True),
}


class Exported(NamedTuple):
    """What was written.

    Attributes:
        path: the file or folder.
        pictures: how many pictures it has.
        boxes: how many boxes they have in the table, as far as the format takes them.
        errors: how many pictures the run could not localize; they are not in it.
        left_out: how many pictures the format cannot express; they are not in it either.
        examples: (id, reason) of the first of these.
        notes: what the format's readers may stumble over.
    """

    path: Path
    pictures: int
    boxes: int
    errors: int
    left_out: int
    examples: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


class _Ready(NamedTuple):
    """A picture for a format, or why it cannot have it."""

    picture: FoundPicture
    reason: str | None = None


def check_formats(formats: Iterable[str], maps: bool, classes: int | None = None) -> None:
    """Refuse formats that a run could not write in the end.

    Args:
        formats: their names.
        maps: whether the run keeps its maps.
        classes: how many the network has; None if that is not to be looked at.

    Raises:
        ValueError: there is no such format, it needs maps, or it has no place for so many classes.
    """
    for name in formats:
        if name not in FORMATS:
            raise ValueError(f"unknown format {name!r}{suggest(name, list(FORMATS))}; known: {', '.join(FORMATS)}")
        if FORMATS[name].maps and not maps:
            raise ValueError(f"format {name} is made of maps, but the run does not keep them")
        most = FORMATS[name].classes
        if most is not None and (classes or 0) > most:
            raise ValueError(
                f"format {name} has labels of 8 bits, for at most {most} classes; the network has {classes}"
            )


def places(run: str | os.PathLike[str], format: str) -> list[Path]:
    """Name what an export to a run's folder writes.

    Args:
        run: the folder.
        format: one of `FORMATS`.

    Returns:
        One file or folder, or two.
    """
    path, beside = RunFolder(Path(run)).export(format), FORMATS[format].beside
    return [path] if beside is None else [path, beside(path)]


def export(
    run: str | os.PathLike[str],
    format: str,
    out: str | os.PathLike[str] | None = None,
    *,
    annotations: str | os.PathLike[str] | None = None,
    categories: Mapping[int, int] | None = None,
    size: int | Literal["picture"] | None = None,
    cuts: float | tuple[float, float] | None = None,
    alpha: float | tuple[float, float] | None = None,
    threshold_from: str | os.PathLike[str] | None = None,
    url: str | None = None,
    refine: Refiner | None = None,
    images: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Exported:
    """Convert boxes.parquet, picture by picture, in memory that does not grow with it.

    Boxes, sizes and maps are of the upright pictures, as browsers, OpenCV and tools for annotation show them; what
    Pillow opens is turned by `PIL.ImageOps.exif_transpose`. With `annotations`, boxes are of the pictures that these
    tell the size of: as they are stored, if that is their size, and larger or smaller.

    The file or folder appears when it is complete; if the work breaks off, what was there stays.

    Args:
        run: folder of a run of `fastcam.localize`, or its boxes.parquet.
        format: one of `FORMATS`: "coco", "csv", "labelstudio", "voc", "yolo", "wsol"; with maps "png", "npy", "labels",
            "wsss".
        out: the file or folder to write, by default `FORMATS[format].name` in the run's folder.
        annotations: for coco: its file of the true objects, whose ids of images and categories are taken.
        categories: for coco: class index → category id; for labels and wsss: class index → value in the labels, 1 to
            254, by default class index + 1.
        size: for png and npy: side of square maps in pixels, or "picture" for each picture's own size; by default
            "picture" for png, 224 for npy.
        cuts: for labels and wsss: level in [0, 1) up to which a pixel is background, or two levels, up to which it is
            background and above which it is object, with what is to be ignored between; by default the run's threshold.
        alpha: for labels and wsss, instead of `cuts`: exponent of the background's score, (1 - max)^alpha, or two of
            them for two levels, such as 4 and 32.
        threshold_from: for labels and wsss, instead of `cuts`: metrics.json of an evaluation, whose best level of mIoU
            is taken.
        url: for labelstudio: goes before each image_id; by default "/data/local-files/?d=".
        refine: for png, npy, labels and wsss: draw the maps to the edges of their pictures, in the pictures' own size,
            before they are resized or become labels: "pamr", pixel-adaptive mask refinement (`fastcam.ops.refine`).
            Levels are then those of the refined maps, which are not stretched to [0, 1] again. The run's own maps stay
            as they are. A picture of 500x375 with two classes takes about 80 ms of one processor; as many pictures are
            refined at once as there are processors, at most 8. For labels also "crf", a dense CRF (of pydensecrf2,
            `pip install "fastcam[crf]"`) over the maps and the background's score, which `cuts` or `alpha` tell; it
            takes about five times as long.
        images: for `refine`: folder that the run's ids are relative to; by default pictures are where they were when
            the run began. A picture that is not found, or has another size than in the run, is left out.
        overwrite: replace what has been exported there before; by default that is an error.
        progress: show a progress bar where standard error is a terminal.

    Returns:
        Where it is, the numbers of pictures and boxes, of errors, and of pictures left out, and notes.

    Raises:
        FileNotFoundError: there is no such run, no file of annotations or of an evaluation, or no folder `images`.
        FileExistsError: `out` exists and `overwrite` is not set, or it is a folder of something else.
        ValueError: an unknown format, an option that it does not have or is out of range, a damaged table, a class
            without category, an image_id that could lead out of the folder, a format of maps where none are kept, or
            nothing tells where the pictures are that `refine` needs.
        OSError: the results cannot be written.
        ImportError: `refine` is "crf", and pydensecrf2 is not installed.
    """
    check_formats([format], maps=True)
    chosen = FORMATS[format]
    given = Path(annotations) if annotations is not None else None
    chosen_by = None if threshold_from is None else Path(threshold_from)
    folder = None if images is None else Path(images)
    options = ExportOptions(given, categories, size, cuts, alpha, chosen_by, url, refine, folder)
    for name, value in options._asdict().items():
        if value is not None and name not in chosen.options:
            owners = ", ".join(key for key, known in FORMATS.items() if name in known.options)
            raise ValueError(f"`{name}` is for {owners}, not for {format}")
    if not (size in (None, "picture") or (isinstance(size, int) and size > 0)):
        raise ValueError(f'`size` must be a positive whole number of pixels or "picture", got {size!r}')
    if refine not in (None, *get_args(Refiner)):
        raise ValueError(f"`refine` must be one of {', '.join(get_args(Refiner))}, got {refine!r}")
    if refine == "crf" and format != "labels":
        raise ValueError(f"a CRF gives labels, not maps: `refine` crf is for labels, not for {format}")
    if images is not None and refine is None:
        raise ValueError("`images` are for `refine`, which is not asked for")
    table = RunTable(run)
    check_formats([format], table.has_maps)
    path = Path(os.path.abspath(table.folder.export(format) if out is None else out))
    targets = [path]
    if chosen.beside is not None and annotations is None:  # given annotations list the images already
        targets.append(chosen.beside(path))
    if len({table.path.resolve(), *targets}) <= len(targets):
        raise ValueError(f"{path} is the table itself, or what is to be written beside it: choose another name")
    for target in targets:
        check_free(target, overwrite)
    pictures = found = errors = left_out = turned = 0
    examples: list[tuple[str, str]] = []
    notes: list[str] = []
    info = table.info | {"format": format, "exported_by": __version__}
    if refine is not None or ("refine" in info and chosen.maps):  # which tells how the run found its boxes
        info["refine"] = refine
    finish: Finish | None = kept.Upsampler.of(info).__call__ if chosen.maps else None  # as such mypy knows it
    ready: Iterable[_Ready] = map(_Ready, table.pictures(chosen.maps, progress))
    if refine is not None and finish is not None:
        draw = refined
        if refine == "crf":
            low, high = labels.levels(options, info)
            draw = partial(labels.decided, low=low, high=high, alpha=alpha)
        prepare = partial(_refined, finish=finish, draw=draw, pictures=RunPictures(table, folder))
        ready = chain.from_iterable(stream(batched(ready, 1), prepare, prefetch=count_threads()))
        finish = kept.resized
    job = Job(path, table, info, options, notes, finish)
    with chosen.write(job) as add, quiet_pillow(), nullcontext() if refine is None else thread_each():
        for picture, reason in ready:
            if picture.error is not None:
                errors += 1
                continue
            try:
                if reason is not None:
                    raise LeftOut(reason)
                found += add(picture)
                pictures += 1
                turned += picture.orientation > 1
            except LeftOut as left:
                left_out += 1
                if len(examples) < _EXAMPLES:
                    examples.append((picture.id, str(left)))
    if turned and chosen.stored:
        notes.append(
            f"{turned} pictures are turned by EXIF and are here as they are shown; readers that do not turn them, as "
            "Pillow does not, need them stored upright"
        )
    return Exported(path, pictures, found, errors, left_out, tuple(examples), tuple(notes))


def _refined(
    ready: _Ready, finish: Finish, draw: Callable[[np.ndarray, np.ndarray], np.ndarray], pictures: RunPictures
) -> _Ready:
    """Finish and refine all maps of a picture, in its own size; in a thread."""
    picture = ready.picture
    if not picture.maps:
        return ready
    size = picture.width, picture.height
    try:
        maps = np.stack([finish(given, size[::-1], size) for given in picture.maps.values()])
        maps = draw(maps, checked(pictures.pixels(picture.id), size))
    except (ValueError, OSError) as error:
        return _Ready(picture, f"its maps cannot be refined: {error}")
    return _Ready(picture._replace(maps=dict(zip(picture.maps, maps, strict=True))))
