"""Maps and boxes over pictures; pictures beside each other in figures, and the training graph."""

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from PIL import Image

from fastcam import ops
from fastcam._files import replacing
from fastcam.data.segments import IGNORED, palette

PREDICTED = (255, 48, 48)
TRUTH = (64, 224, 96)
COMPONENT = (255, 64, 255)  # of no colour in the usual colour map


def overlay(
    image: Any,
    map: Any,
    image_weight: float = 0.5,
    map_weight: float = 0.7,
    colormap: int = cv2.COLORMAP_JET,
) -> np.ndarray:
    """Lay a colour-coded map over a picture: saturated(map_weight·heatmap + image_weight·image).

    The two usual settings of (map_weight, image_weight) are (0.7, 0.5), the default, and (0.3, 0.5), with which
    the picture shows through better.

    Args:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1]; NumPy array, PIL picture or CPU tensor.
        map: heat map [H, W], floating in [0, 1].
        image_weight: weight of the picture, ≥ 0.
        map_weight: weight of the colour-coded map, ≥ 0.
        colormap: a cv2.COLORMAP_* constant.

    Returns:
        RGB picture, uint8 [H, W, 3].

    Raises:
        TypeError: for a picture or map of another type.
        ValueError: for another shape, differing sizes, values outside [0, 1], or weights that are no finite
            number ≥ 0.
    """
    picture, heat = as_uint8(image), colorize(map, colormap)
    if picture.shape != heat.shape:
        raise ValueError(
            f"`map` must have the picture's height and width {picture.shape[:2]}, got {heat.shape[:2]}; "
            "resize one of them, e.g. map = cv2.resize(map, image.shape[1::-1])"
        )
    for name, weight in (("image_weight", image_weight), ("map_weight", map_weight)):
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"`{name}` must be a finite number of at least 0, got {weight}")
    return cv2.addWeighted(heat, map_weight, picture, image_weight, 0)


def overlay_labels(image: Any, labels: Any) -> np.ndarray:
    """Lay the colours of labels over a picture: Pascal VOC's, a little dark for the background, white for 255.

    Args:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1]; NumPy array, PIL picture or CPU tensor.
        labels: class index at each pixel, uint8 [H, W]: 0 background, 255 to be ignored.

    Returns:
        RGB picture, uint8 [H, W, 3].

    Raises:
        TypeError: for a picture of another type, or labels that are not uint8.
        ValueError: for another shape, values outside [0, 1], or labels of another size than the picture.
    """
    picture, indices = as_uint8(image), np.asarray(labels)
    if indices.dtype != np.uint8:
        raise TypeError(f"`labels` must be uint8, got {indices.dtype}")
    if picture.shape[:2] != indices.shape:
        raise ValueError(f"`labels` must have the picture's height and width {picture.shape[:2]}, got {indices.shape}")
    colours = palette()
    colours[IGNORED] = 255
    share = np.where(indices == 0, 0.15, 0.65)[..., None]
    return np.rint(picture * (1 - share) + colours[indices] * share).astype(np.uint8)


def colorize(map: Any, colormap: int = cv2.COLORMAP_JET) -> np.ndarray:
    """Colour-code a heat map.

    Args:
        map: heat map [H, W], floating in [0, 1]; NumPy array or CPU tensor. It is quantised as
            uint8(255·map), truncated.
        colormap: a cv2.COLORMAP_* constant.

    Returns:
        RGB picture, uint8 [H, W, 3].

    Raises:
        TypeError: if the map is not floating.
        ValueError: if it is not [H, W] or has values outside [0, 1] (NaN included).
    """
    return cv2.cvtColor(cv2.applyColorMap((255 * _unit_map(map)).astype(np.uint8), colormap), cv2.COLOR_BGR2RGB)


def show_cam_on_image(
    img: np.ndarray,
    mask: np.ndarray,
    use_rgb: bool = False,
    colormap: int = cv2.COLORMAP_JET,
    image_weight: float = 0.5,
) -> np.ndarray:
    """Blend a map and a picture as the function of this name in the grad-cam package does, to the bit.

    (1 − image_weight)·heatmap + image_weight·img, divided by its maximum, times 255, truncated. For new code
    `overlay` is the better choice: its brightness does not depend on the picture's brightest pixel.

    Args:
        img: picture [H, W, 3], floating in [0, 1], RGB or BGR.
        mask: heat map [H, W], floating in [0, 1].
        use_rgb: colour-code the map in RGB; the default, as there, is BGR.
        colormap: a cv2.COLORMAP_* constant.
        image_weight: weight of the picture in [0, 1].

    Returns:
        Picture, uint8 [H, W, 3], channels in the order of `img`.

    Raises:
        TypeError: if picture or map are not floating.
        ValueError: for another shape, differing sizes, or values outside [0, 1].
    """
    picture = np.asarray(img)
    if not np.issubdtype(picture.dtype, np.floating):
        raise TypeError(f"`img` must be floating with values in [0, 1], got {picture.dtype}; divide it by 255")
    as_uint8(picture)
    heat = colorize(mask, colormap)
    if picture.shape != heat.shape:
        raise ValueError(f"`mask` must have the height and width of `img` {picture.shape[:2]}, got {heat.shape[:2]}")
    if not 0 <= image_weight <= 1:
        raise ValueError(f"`image_weight` must lie in [0, 1], got {image_weight}")
    if not use_rgb:
        heat = heat[..., ::-1]
    blend = (1 - image_weight) * (heat.astype(np.float32) / 255) + image_weight * picture
    # An all-black blend has no brightest pixel to divide by.
    return (255 * (blend / (np.max(blend) or 1))).astype(np.uint8)


def deprocess(gradients: Any) -> np.ndarray:
    """Make gradients visible: (x − mean)/(std + 1e-5)·0.1 + 0.5, clipped to [0, 1]; zero becomes about mid-grey.

    Mean and standard deviation are those of all the picture's values. The usual display of guided backprop, first
    in F. Chollet's Keras example on visualizing what convnets learn.

    Args:
        gradients: [3, H, W], floating, finite, of any range; NumPy array or CPU tensor.

    Returns:
        RGB picture, uint8(255·value), truncated, [H, W, 3].

    Raises:
        TypeError: if the gradients are not floating.
        ValueError: if they are not [3, H, W] or not finite.
    """
    values = np.asarray(gradients)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"`gradients` must be floating, got {values.dtype}")
    if values.ndim != 3 or values.shape[0] != 3 or values.size == 0:
        raise ValueError(f"`gradients` must be [3, H, W], got {list(values.shape)}")
    if not np.isfinite(values).all():
        raise ValueError("`gradients` must be finite, got NaN or infinity")
    values = values - values.mean()
    values = values / (values.std() + 1e-5) * 0.1 + 0.5
    return (255 * np.clip(values, 0, 1)).astype(np.uint8).transpose(1, 2, 0)


def component_boxes(map: Any, threshold: float = 0.6, connectivity: int = 4) -> np.ndarray:
    """Find the box of every connected component of map > threshold·max(map), strict.

    The box of the largest one alone, at a fraction of the map's range, is `fastcam.ops.boxes`.

    Args:
        map: heat map [H, W], floating in [0, 1]; NumPy array or CPU tensor.
        threshold: fraction of the map's maximum, in [0, 1).
        connectivity: 4 or 8 neighbours.

    Returns:
        int32 [B, 4], xyxy in pixels of the map, right and bottom exclusive, by first pixel in raster order; B is 0 for
        a map of zeros.

    Raises:
        TypeError: if the map is not floating.
        ValueError: if it is not [H, W] or has values outside [0, 1], or the threshold or connectivity is none of these.
    """
    values = _unit_map(map)
    if not 0 <= threshold < 1:
        raise ValueError(f"`threshold` must be at least 0 and less than 1, got {threshold!r}")
    mask = values > values.dtype.type(threshold) * values.max()
    return ops.components(torch.from_numpy(mask)[None], connectivity)[0].numpy()


def draw_boxes(
    image: Any, boxes: Any, color: tuple[int, int, int] = PREDICTED, thickness: int | None = None
) -> np.ndarray:
    """Draw boxes into a copy of a picture, each with a dark rim that sets it off from any background.

    Args:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        boxes: [B, 4] or [4], xyxy in pixels, right and bottom exclusive; empty boxes are left out, what
            lies outside the picture is clipped.
        color: RGB in 0..255.
        thickness: of the line in pixels; by default it grows with the picture.

    Returns:
        RGB picture, uint8 [H, W, 3].

    Raises:
        TypeError: for a picture of another type.
        ValueError: for a picture of another shape or range, or boxes of another shape or not finite.
    """
    picture = as_uint8(image).copy()
    corners = np.asarray(boxes, dtype=np.float64)
    if corners.ndim == 1:
        corners = corners[None] if corners.size else corners.reshape(0, 4)
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise ValueError(f"`boxes` must be [B, 4] or [4], xyxy, got {list(np.shape(boxes))}")
    if not np.isfinite(corners).all():
        raise ValueError("`boxes` must be finite, got NaN or infinity")
    height, width = picture.shape[:2]
    if thickness is None:
        thickness = max(1, round(max(height, width) / 100))
    # The rim is wider by a pixel or two, and is drawn first for all boxes, so that it covers no line.
    for line, shade in ((thickness + 2, (0, 0, 0)), (thickness, color)):
        for x0, y0, x1, y1 in np.rint(np.clip(corners, 0, [width, height, width, height])).astype(int).tolist():
            if x1 > x0 and y1 > y0:
                cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), shade, line)
    return picture


def panel(image: Any, map: Any, boxes: Any = (), truth: Any = (), gap: int = 4) -> np.ndarray:
    """Put picture, map and overlay side by side.

    Args:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        map: heat map [H, W], floating in [0, 1].
        boxes: predicted boxes [B, 4] or [4], xyxy, half-open pixels, drawn in red into the overlay.
        truth: true boxes [B, 4] or [4], xyxy, half-open pixels, drawn in green into the overlay.
        gap: white pixels between the three, ≥ 0.

    Returns:
        RGB picture, uint8 [H, 3·W + 2·gap, 3].

    Raises:
        TypeError: for a picture or map of another type.
        ValueError: for a picture or map of another shape or range, differing sizes, boxes of another shape or not
            finite, or a negative gap.
    """
    picture = as_uint8(image)
    blend = draw_boxes(draw_boxes(overlay(picture, map), truth, TRUTH), boxes, PREDICTED)
    bar = np.full((picture.shape[0], gap, 3), 255, np.uint8)
    return np.hstack([picture, bar, colorize(map), bar, blend])


class Cell(NamedTuple):
    """One picture of a figure.

    Attributes:
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        title: text above it; long lines are wrapped.
    """

    image: Any
    title: str = ""


def grid(
    rows: Sequence[Sequence[Cell | None]], labels: Sequence[str] = (), title: str = "", side: float = 2.4
) -> Figure:
    """Lay out pictures in rows and columns.

    Args:
        rows: the cells of each row; None leaves a place empty, as does the end of a shorter row.
        labels: text beside each row, or none at all.
        title: text above all.
        side: longer side of a picture in inches, > 0.

    Returns:
        The figure: notebooks show it, `save` writes it.

    Raises:
        TypeError: a picture is of the wrong type.
        ValueError: there is no cell, a picture has another shape or range, or the number of labels is not that of rows.
    """
    columns = max((len(row) for row in rows), default=0)
    cells = [[None if cell is None else Cell(as_uint8(cell.image), cell.title) for cell in row] for row in rows]
    shapes = [cell.image.shape[:2] for row in cells for cell in row if cell is not None]
    if not shapes:
        raise ValueError("`rows` must have at least one cell, got none")
    if labels and len(labels) != len(rows):
        raise ValueError(f"`labels` must be one for each of the {len(rows)} rows, got {len(labels)}")
    if not side > 0:
        raise ValueError(f"`side` must be a positive number of inches, got {side!r}")
    height, width = (side * max(shape[i] / max(shape) for shape in shapes) for i in (0, 1))
    letters = max(8, int(width * 12))  # that a line over a picture can hold

    def wrapped(text: str, limit: int) -> str:
        # There are no glyphs for control characters.
        lines = ("".join(c if c.isprintable() else "\ufffd" for c in line) for line in text.splitlines())
        wrapper = textwrap.TextWrapper(limit)
        wrapper.wordsep_re = re.compile(r"(\s+)|(?<=[/_-])(?=\w)")  # ids are paths, and break between their parts
        return "\n".join(part for line in lines for part in wrapper.wrap(line))

    lines = [
        max((wrapped(c.title, letters).count("\n") + 1 if c and c.title else 0 for c in row), default=0)
        for row in cells
    ]
    above = wrapped(title, max(20, int(columns * width * 11)))
    # Sizes in inches: a line of text takes about a sixth, gaps a tenth.
    tall = len(rows) * (height + 0.1) + sum(lines) / 6 + (0.25 * (above.count("\n") + 1) if above else 0)
    wide = columns * (width + 0.1) + (0.5 if labels else 0)
    # A Figure of its own, not pyplot's: no global state, no window system, safe in any thread.
    gaps = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    figure = Figure(figsize=(wide, tall), dpi=110, layout=gaps)
    if above:
        figure.suptitle(above, fontsize=11, parse_math=False)  # names may have $
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for index, row in enumerate(cells):
        for place, cell in zip(axes[index], [*row, *[None] * (columns - len(row))], strict=True):
            place.set_xticks([])
            place.set_yticks([])
            place.spines[:].set_visible(False)
            if cell is not None:
                place.imshow(cell.image, interpolation="antialiased")
                place.set_title(wrapped(cell.title, letters), fontsize=9, parse_math=False)
        if labels:
            axes[index, 0].set_ylabel(wrapped(labels[index], max(12, int(height * 11))), fontsize=9, parse_math=False)
    return figure


def save(figure: Figure, path: str | os.PathLike[str]) -> Path:
    """Write a figure to a file, atomically.

    Args:
        figure: what `grid` gave, or another.
        path: file to write; its suffix chooses the format (.png, .svg, .pdf).

    Returns:
        The path written.

    Raises:
        ValueError: the suffix is of no known format.
        OSError: the file cannot be written.
    """
    path = Path(path)
    with replacing(path) as partial:
        figure.savefig(partial, format=path.suffix[1:] or "png")
    return path


def result_paths(folder: str | os.PathLike[str], number: int) -> tuple[Path, Path, Path]:
    """Paths of imgN.png, camN.png and ResultN.png in a folder, which `save_results` writes for a picture from 1 on.

    Args:
        folder: where they lie.
        number: of the picture, from 1.

    Returns:
        The three paths.
    """
    return Path(folder, f"img{number}.png"), Path(folder, f"cam{number}.png"), Path(folder, f"Result{number}.png")


def save_results(
    folder: str | os.PathLike[str],
    number: int,
    image: Any,
    map: Any,
    boxes: Any = (),
    image_weight: float = 0.5,
    map_weight: float = 0.3,
    colormap: int = cv2.COLORMAP_JET,
) -> tuple[Path, Path, Path]:
    """Write picture, map and overlay as imgN.png, camN.png and ResultN.png.

    Args:
        folder: where to write; it is made if need be.
        number: of the picture, from 1.
        image: picture [H, W, 3] in RGB, uint8 or floating in [0, 1].
        map: heat map [H, W], floating in [0, 1].
        boxes: [B, 4] or [4], xyxy, half-open pixels, drawn into the overlay.
        image_weight: as in `fastcam.overlay`.
        map_weight: as in `fastcam.overlay`.
        colormap: a cv2.COLORMAP_* constant.

    Returns:
        The three paths.

    Raises:
        TypeError, ValueError: as in `fastcam.overlay` and `fastcam.drawing.draw_boxes`.
        OSError: a file cannot be written.
    """
    blend = draw_boxes(overlay(image, map, image_weight, map_weight, colormap), boxes)
    paths = result_paths(folder, number)
    for path, picture in zip(paths, (as_uint8(image), colorize(map, colormap), blend), strict=True):
        with replacing(path) as partial, partial.open("wb") as file:
            Image.fromarray(np.ascontiguousarray(picture)).save(file, "PNG")
    return paths


def training_curve(history: Sequence[Mapping[str, float | None]], path: str | os.PathLike[str]) -> Path:
    """Draw the training graph: loss and accuracy by epoch, test in red, training in blue.

    Args:
        history: one mapping per epoch with "epoch" and any of "train_loss", "train_accuracy", "test_loss",
            "test_accuracy" (accuracies in [0, 1]); what is missing or None is left out. Where there is "test_mAP", it
            and the shares "train_exact_match" and "test_exact_match", dashed, are drawn in the place of accuracies.
        path: file to write; its suffix chooses the format (.png, .svg, .pdf).

    Returns:
        The path written.

    Raises:
        ValueError: if the history is empty, an epoch lacks its number, or the suffix is of no known format.
        OSError: if the file cannot be written.
    """
    if not history or any("epoch" not in entry for entry in history):
        raise ValueError('`history` must be a non-empty list of mappings with an "epoch" each')
    # A Figure of its own, not pyplot's: no global state, no window system, safe in any thread.
    figure = Figure(figsize=(10, 4), dpi=110, layout="constrained")
    several = any(entry.get("test_mAP") is not None for entry in history)
    shares = ("mAP", "exact_match") if several else ("accuracy",)
    for axes, quantities in zip(figure.subplots(1, 2), (("loss",), shares), strict=True):
        for quantity in quantities:
            for split, color in (("train", "tab:blue"), ("test", "tab:red")):
                points = [
                    (entry["epoch"], entry[f"{split}_{quantity}"])
                    for entry in history
                    if entry.get(f"{split}_{quantity}") is not None
                ]
                if points:
                    label = split if len(quantities) == 1 else f"{split} {quantity.replace('_', ' ')}"
                    line = "--" if quantity == "exact_match" else "-"
                    axes.plot(*zip(*points, strict=True), line, color=color, marker="o", markersize=3, label=label)
        if axes.lines:
            axes.legend(frameon=False)
        if quantities != ("loss",):
            axes.set_ylim(0, 1.02)
        axes.set_xlabel("epoch")
        axes.set_title(" and ".join(quantities).replace("_", " "))
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return save(figure, path)


def as_uint8(image: Any) -> np.ndarray:
    """A picture as bytes, after checks.

    Args:
        image: picture [H, W, 3], uint8 or floating in [0, 1]; NumPy array, PIL picture or CPU tensor.

    Returns:
        uint8 [H, W, 3]; the same memory where it was uint8 before.

    Raises:
        TypeError: for another dtype.
        ValueError: for another shape or floating values outside [0, 1] (NaN included).
    """
    picture = np.asarray(image)
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
        raise ValueError(f"a picture must be [H, W, 3], got {list(picture.shape)}")
    if picture.dtype == np.uint8:
        return picture
    if not np.issubdtype(picture.dtype, np.floating):
        raise TypeError(f"a picture must be uint8, or floating with values in [0, 1], got {picture.dtype}")
    if not (picture.min() >= 0 and picture.max() <= 1):
        raise ValueError(f"a floating picture must lie in [0, 1], got values in [{picture.min()}, {picture.max()}]")
    return np.rint(255 * picture).astype(np.uint8)


def _unit_map(map: Any) -> np.ndarray:
    values = np.asarray(map)
    if not np.issubdtype(values.dtype, np.floating):
        raise TypeError(f"`map` must be floating with values in [0, 1], got {values.dtype}")
    if values.ndim != 2 or values.size == 0:
        raise ValueError(f"`map` must be [H, W], got {list(values.shape)}")
    if not (values.min() >= 0 and values.max() <= 1):
        raise ValueError(f"`map` must lie in [0, 1], got values in [{values.min()}, {values.max()}]")
    return values
