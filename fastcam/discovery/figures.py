"""Figures of scenes and of units."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fastcam import drawing

_OUTSIDE = 0.2  # brightness of what does not belong to a unit's region, as in the authors' code
_DRAWN = 320  # least longer side in pixels of a picture with an outline
_OVERLAP, _FREQUENCY = "#d1495b", "#9aa5b1"
_OUTLINE = (64, 255, 96)


class Line(NamedTuple):
    """An object in a chart of bars: its name, its frequency and overlap in [0, 1], whether it is among the first."""

    name: str
    frequency: float
    overlap: float
    informative: bool


class Example(NamedTuple):
    """A picture that shows an object: uint8 [h, w, 3], the map in [0, 1] and the object, bool, both [h, w]."""

    title: str
    picture: np.ndarray
    map: np.ndarray
    region: np.ndarray
    level: float


def scene_figure(
    title: str, frequent: Sequence[Line], informative: Sequence[Line], examples: Sequence[Example]
) -> Figure:
    """Bars of the most frequent and the most informative objects; pictures of the latter, and maps over them."""
    columns = max(1, len(examples))
    ratio = max((example.picture.shape[0] / example.picture.shape[1] for example in examples), default=1)
    side = 1.75
    bars = 0.3 * (len(frequent) + len(informative)) + 1.9
    height = max(2 * (side * ratio + 0.35) + 0.5, bars)
    figure = Figure(figsize=(4.1 + columns * (side + 0.06), height), dpi=110, layout="constrained")
    figure.suptitle(title, fontsize=12, parse_math=False)
    parts = figure.subfigures(1, 2, squeeze=False, width_ratios=[4.1, columns * (side + 0.06)])
    left, right = parts[0]
    above, below = left.subplots(2, 1, height_ratios=[len(frequent) + 1, len(informative) + 1])
    _bars(above, "most frequent", frequent)
    _bars(below, "most informative", informative)
    below.legend(
        handles=[below.containers[0], below.containers[1]],
        labels=["overlap with the CAM's high area", "frequency"],
        loc="upper center",
        bbox_to_anchor=(0.35, -0.06),
        ncols=2,
        fontsize=8,
        frameon=False,
        columnspacing=1.2,
        handlelength=1,
    )
    for place, example in zip(right.subplots(2, columns, squeeze=False).T, examples, strict=False):
        example = _enlarged(example)
        outlined = _outlined(example.picture, example.region)
        heat = _outlined(drawing.overlay(example.picture, example.map, 0.5, 0.5), example.region)
        for axes, shown, anchor in zip(place, (outlined, heat), "SN", strict=True):
            axes.imshow(shown, interpolation="antialiased")
            axes.set_axis_off()
            axes.set_anchor(anchor)
        place[0].set_title("\n".join(textwrap.wrap(example.title, 22)), fontsize=9, parse_math=False)
        if example.map.max() > example.level > example.map.min():
            place[1].contour(example.map, [example.level], colors="white", linewidths=0.8)
    return figure


def _bars(axes: Axes, title: str, lines: Sequence[Line]) -> None:
    places = np.arange(len(lines))
    overlaps = np.nan_to_num([line.overlap for line in lines])
    axes.barh(places - 0.19, overlaps, 0.38, color=_OVERLAP)
    axes.barh(places + 0.19, [line.frequency for line in lines], 0.38, color=_FREQUENCY)
    for place, line, overlap in zip(places, lines, overlaps, strict=True):
        for shift, value in ((-0.19, overlap), (0.19, line.frequency)):
            axes.text(min(value, 1) + 0.015, place + shift, f"{value:.0%}", va="center", fontsize=6.5)
    names = [textwrap.shorten(line.name, 24, placeholder="…") for line in lines]
    axes.set_yticks(places, names, fontsize=8.5, parse_math=False)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlim(0, 1.12)
    axes.set_xticks([])
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.set_title(title, fontsize=9.5, loc="left")


def _enlarged(example: Example) -> Example:
    """The same in a size in which lines are fine; tiny pictures show their pixels."""
    height, width = example.region.shape
    if (scale := _DRAWN / max(height, width)) <= 1:
        return example
    size = round(width * scale), round(height * scale)
    picture = cv2.resize(example.picture, size, interpolation=cv2.INTER_NEAREST)
    region = cv2.resize(example.region.astype(np.float32), size, interpolation=cv2.INTER_LINEAR) > 0.5
    map = cv2.resize(example.map, size, interpolation=cv2.INTER_LINEAR)
    return example._replace(picture=picture, region=region, map=map)


def _outlined(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    contours, _ = cv2.findContours(region.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(region.shape) / 110))
    picture = picture.copy()
    for line, shade in ((width + 2, (0, 0, 0)), (width, _OUTLINE)):
        cv2.drawContours(picture, contours, -1, shade, line)
    return picture


def segmented(picture: np.ndarray, region: np.ndarray) -> np.ndarray:
    """A picture, uint8 [h, w, 3], in which only a region, bool [h, w], is bright."""
    return np.where(region[..., None], picture, np.rint(picture * _OUTSIDE)).astype(np.uint8)
