"""A gallery of pictures, maps and boxes as one HTML file."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from fastcam import drawing
from fastcam.report.page import embed, embed_file, write


class GalleryItem(NamedTuple):
    """One entry of a gallery.

    Attributes:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        map: heat map [H, W], floating in [0, 1]; None where there is none, and boxes are drawn over the picture.
        boxes: predicted boxes [B, 4], xyxy in pixels of `image`, right and bottom exclusive.
        truth: true boxes [B, 4], as boxes; both are () where there are none.
        caption: text below the pictures; line breaks are kept.
        hit: whether the prediction counts as right (shown as a badge), or None.
    """

    image: Any
    map: Any
    boxes: Any = ()
    truth: Any = ()
    caption: str = ""
    hit: bool | None = None


def gallery(
    path: str | os.PathLike[str],
    items: Iterable[GalleryItem],
    title: str,
    summary: Mapping[str, object] | None = None,
    figures: Mapping[str, str | os.PathLike[str]] | None = None,
    side: int = 256,
) -> Path:
    """Write a gallery as one HTML file that needs nothing else: pictures and style are inside.

    Every text is escaped. Items are drawn and written one at a time, so an iterator of many needs no memory.

    Args:
        path: HTML file to write; it appears when it is complete.
        items: the entries, in order.
        title: headline.
        summary: label → value, shown as a row of tiles.
        figures: caption → picture file (PNG, JPEG, SVG…), shown above the entries.
        side: longer side in pixels that pictures are scaled to.

    Returns:
        The path written.

    Raises:
        TypeError: if a picture or map is of the wrong type (see `fastcam.drawing`).
        ValueError: if a picture, map or box has the wrong shape or range.
        OSError: if a figure cannot be read or the file not be written.
    """
    embedded = [(caption, embed_file(Path(file))) for caption, file in (figures or {}).items()]
    return write(
        path,
        "gallery.html",
        styles=["base.css", "gallery.css"],
        title=title,
        summary=summary or {},
        figures=embedded,
        cards=_cards(items, side),
    )


def _cards(items: Iterable[GalleryItem], side: int) -> Iterator[dict[str, object]]:
    for item in items:
        image, heat, scale = _fit(np.asarray(item.image), item.map, side)
        boxes, truth = (np.asarray(boxes, np.float64).reshape(-1, 4) * scale for boxes in (item.boxes, item.truth))
        blend = drawing.draw_boxes(image if heat is None else drawing.overlay(image, heat), truth, drawing.TRUTH)
        views = {"picture": image} if heat is None else {"picture": image, "map": drawing.colorize(heat)}
        what = "boxes over picture" if heat is None else "map over picture"
        views[what] = drawing.draw_boxes(blend, boxes, drawing.PREDICTED)
        yield {
            "views": [(name, embed(view)) for name, view in views.items()],
            "width": image.shape[1],
            "height": image.shape[0],
            "caption": item.caption,
            "hit": item.hit,
        }


def _fit(image: np.ndarray, heat: Any, side: int) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Scale picture and map to `side`, so that box lines are equally fine on small and large pictures."""
    if heat is not None:
        heat = np.asarray(heat)
        drawing.overlay(image, heat)  # for its checks, before anything is resized
    image = drawing.as_uint8(image)
    height, width = image.shape[:2]
    ratio = side / max(height, width)
    size = max(1, round(width * ratio)), max(1, round(height * ratio))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if ratio < 1 else cv2.INTER_CUBIC)
    if heat is not None:
        # Linear, since it cannot leave [0, 1].
        heat = cv2.resize(heat.astype(np.float32), size, interpolation=cv2.INTER_LINEAR).clip(0, 1)
    return image, heat, np.array([size[0] / width, size[1] / height] * 2)
